"""What a few passes find out about a generator that somebody brings, with the right value for each kind."""

import collections
import re
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from biggan.frozen import FrozenGenerator
from biggan.traversal import images_of
from experiment_utils.errors import SnapshotError
from latent_traversal import to_uint8

DIM_Z = 4


class Pictures(nn.Module):
    """Images [N, 3, 4, 6]; `middle` stands between two linear layers, `finish` behind them."""

    dim_z = DIM_Z

    def __init__(self, finish=torch.tanh, middle=None):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(DIM_Z, 16), nn.Linear(16, 72)
        self.middle, self.finish = middle or nn.Identity(), finish

    def forward(self, z):
        return self.finish(self.last(self.middle(self.first(z)))).view(-1, 3, 4, 6)


def freeze(forward_or_module, **options):
    if not isinstance(forward_or_module, nn.Module):
        forward_or_module = types.SimpleNamespace(forward=forward_or_module, dim_z=DIM_Z)
    return FrozenGenerator(forward_or_module, "mine", **options)


def z(count=3):
    return torch.randn(count, DIM_Z, generator=torch.Generator().manual_seed(3))


def traced(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch has other plans for it, users have such files
        made = torch.jit.trace(module, z(2))
    made.dim_z = DIM_Z
    return made


def refusal(*arguments, **options):
    with pytest.raises(SnapshotError) as error:
        freeze(*arguments, **options)
    message = str(error.value)
    assert message.startswith("mine: ") and "\n" not in message
    return message


# ----------------------------------------------------------------------------------------------------------------------
# Images that depend on their batch


class ByOthers(nn.Module):
    """Adds a little of what the batch has in common: the average, a position's own number, or a share of its size."""

    def __init__(self, kind, strength=1e-3):
        super().__init__()
        self.kind, self.strength = kind, strength

    def forward(self, x):
        if self.kind == "average":
            return x + self.strength * x.mean(0)
        if self.kind == "position":
            return x + self.strength * torch.arange(len(x))[:, None]
        return x * (1 + self.strength * len(x))


def test_batch_normalisation_without_running_statistics_is_named():
    message = refusal(Pictures(middle=nn.BatchNorm1d(16, track_running_stats=False)))
    assert "each image depends on the other samples of its batch through its layer middle (BatchNorm1d)" in message
    assert message.endswith("it needs running statistics: build it with them, and gather them in training mode")
    deeper = Pictures(middle=nn.Sequential(nn.ReLU(), nn.Sequential(nn.BatchNorm1d(16, track_running_stats=False))))
    assert "through its layer middle.1.0 (BatchNorm1d)" in refusal(deeper)


def test_batch_normalisation_with_running_statistics_is_fine():
    module = Pictures(middle=nn.BatchNorm1d(16)).train()
    G = freeze(module)
    assert G.remarks == ["mine: its layer middle (BatchNorm1d) has running statistics of no batch, 0 and 1"]
    module.train()
    with torch.no_grad():
        module(torch.randn(200, DIM_Z))
    G = freeze(module)
    torch.testing.assert_close(G(z())[1:2], G(z()[1:2]))
    assert G.remarks == []


def test_statistics_that_are_gathered_as_the_readme_says():
    """One sample alone then has, to a few per cent, the image that it has among many by their own statistics."""
    without = Pictures(middle=nn.BatchNorm1d(16, track_running_stats=False))
    network = Pictures(middle=nn.BatchNorm1d(16, track_running_stats=True))
    network.load_state_dict(without.state_dict(), strict=False)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
    with torch.no_grad():
        for _ in range(100):
            network.train()(torch.randn(64, DIM_Z))
        expected = without(torch.cat([z(), torch.randn(2000, DIM_Z)]))[:3]
    G = freeze(network)
    assert G.remarks == []
    assert (G(z()[:1]) - expected[:1]).abs().max() < 0.1


def test_a_network_that_stays_in_training_mode_is_noticed():
    class Stubborn(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(True)

    assert "layer middle (Stubborn)" in refusal(Pictures(middle=Stubborn(16)))


@pytest.mark.parametrize(("kind", "strength"), [("average", 1e-3), ("position", 1e-2), ("size", 1e-2)])
def test_other_layers_that_mix_samples_are_refused(kind, strength):
    message = refusal(Pictures(middle=ByOthers(kind, strength)))
    assert "each image depends on the other samples of its batch" in message
    if kind == "average":
        assert "through its layer middle (ByOthers)" in message


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x[x[:, 0].argsort()],
        lambda x: x + torch.cat([x[1:], torch.zeros_like(x[:1])]),
        lambda x: torch.cat([x[:1] + x[1:].sum(0, keepdim=True), x[1:]]),
        lambda x: torch.cat([x[:-1], x[-1:] + x[:-1].sum(0, keepdim=True)]),
        lambda x: x - x.cumsum(0),
        lambda x: x / x.norm(),
    ],
    ids=["sorts", "adds its neighbour", "first adds the others", "last adds the others", "cumulates", "normalises"],
)
def test_mixing_that_spares_some_samples(mix):
    class Mixing(nn.Module):
        def forward(self, x):
            return mix(x)

    assert "of its batch through its layer middle (Mixing)" in refusal(Pictures(middle=Mixing()))
    assert "each image depends on the other samples of its batch" in refusal(lambda z: mix(z).view(-1, 1, 2, 2))


def test_images_that_depend_on_their_batch_without_a_layer_or_with_noise():
    def average(z):
        return (z + z.mean(0)).view(-1, 1, 2, 2)

    def noisy(z):
        return average(z) + torch.randn(len(z), 1, 1, 1)

    for forward in (average, noisy):
        assert refusal(forward).endswith("of its batch; an image may depend on its own z alone")


def test_deep_networks_are_not_mistaken_for_mixing():
    """Batches of other sizes are rounded otherwise, and 60 layers of random ReLUs make that larger."""
    layers = [layer for _ in range(60) for layer in (nn.Linear(16, 16), nn.ReLU())]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for layer in layers[::2]:
            nn.init.normal_(layer.weight, std=(2 / 16) ** 0.5)
        assert freeze(Pictures(middle=nn.Sequential(*layers))).is_deterministic


# ----------------------------------------------------------------------------------------------------------------------
# Batch sizes


def only(*sizes):
    def forward(z):
        if len(z) not in sizes:
            raise RuntimeError(f"expected a batch of {sizes[0]}\nand no other")
        return z.view(len(z), 1, 2, 2)

    return forward


@pytest.mark.parametrize(("sizes", "shape"), [((1,), [5, 4]), ((2,), [5, 4]), ((5,), [2, 4]), ((5, 2), [1, 4])])
def test_generators_of_some_batch_sizes_only(sizes, shape):
    message = refusal(only(*sizes))
    assert f"fails for z of shape {shape} (RuntimeError: expected a batch of {sizes[0]} and no other)" in message
    assert message.endswith("; it must take z [N, 4] for any N")


def test_a_traced_network_of_one_batch_size():
    class Fixed(Pictures):
        def forward(self, z):
            return super().forward(z).reshape(2, 3, 4, 6)

    assert "fails for z of shape [5, 4] (RuntimeError" in refusal(traced(Fixed().eval()))


def test_a_number_of_images_that_does_not_follow_the_batch():
    assert "gives shape [2, 1, 2, 2] for N = 5" in refusal(lambda z: z[:2].view(-1, 1, 2, 2))


def test_images_of_several_sizes():
    def forward(z):
        return z.view(-1, 1, 2, 2).repeat(1, 1, 1, 1 if len(z) > 1 else 2)

    assert "must return images of one size, gives [1, 2, 2] and [1, 2, 4]" in refusal(forward)


def test_a_generator_that_changes_its_latents():
    def forward(z):
        return z.div_(z.norm(dim=1, keepdim=True)).view(-1, 1, 2, 2)

    assert "changes the z that it is given" in refusal(forward)


# ----------------------------------------------------------------------------------------------------------------------
# Images among other things


Output = collections.namedtuple("Output", "latents sample")


@pytest.mark.parametrize(
    ("output", "element", "kind"),
    [
        (lambda images, z: (images, z), 0, "tuple of 2"),
        (lambda images, z: [z, images, None], 1, "list of 3"),
        (lambda images, z: Output(z, images), 1, "Output of 2"),
        (lambda images, z: collections.OrderedDict(latents=z, sample=images), "sample", "OrderedDict of 2"),
        (lambda images, z: (images[:, :, ::2, ::2], images, images[:, :1]), 1, "tuple of 3"),  # a pyramid, and a mask
    ],
)
def test_images_in_tuples_lists_and_mappings(output, element, kind):
    module = Pictures()
    plain = freeze(Pictures())
    G = freeze(lambda z: output(Pictures.forward(module, z), z))
    assert torch.equal(G(z()), plain(z())) and G.image_shape == (4, 6, 3)
    (remark,) = G.remarks
    assert remark == f"mine: returns a {kind}; its element {element!r} is taken for the images"


def test_an_output_that_changes_its_form():
    assert "gives a dict for N = 2" in refusal(
        lambda z: z.view(-1, 1, 2, 2) if len(z) == 5 else {"image": z.view(-1, 1, 2, 2)}
    )
    G = freeze(lambda z: (z.view(-1, 1, 2, 2), z) if len(z) == 5 else z.view(-1, 1, 2, 2))
    assert torch.equal(G(z(1)), z(1).view(1, 1, 2, 2))


def test_memory_that_is_used_again():
    """The passes that are compared must not be one and the same tensor."""
    memory = torch.zeros(100, 1, 2, 2)

    def noisy(z):
        memory[: len(z)] = z.view(-1, 1, 2, 2) + torch.randn(len(z), 1, 1, 1)
        return memory[: len(z)]

    assert not freeze(noisy).is_deterministic


def test_outputs_without_images():
    assert "gives shape [5, 3, 0, 4]" in refusal(lambda z: z.view(-1, 1, 1, 4)[:, :, :0].expand(-1, 3, -1, -1))
    assert "must return images [N, C, H, W] for z [N, 4], gives a tuple for N = 5" in refusal(lambda z: (z, z))
    assert "gives a NoneType" in refusal(lambda z: None)
    last = refusal(lambda z: z.view(-1, 2, 2, 1).repeat(1, 4, 4, 3))
    assert "gives float32 of 8 channels, as if channels came last" in last


# ----------------------------------------------------------------------------------------------------------------------
# Height, width, range


def test_height_and_width():
    G = freeze(Pictures())
    assert G.image_shape == (4, 6, 3) and G(z()).shape == (3, 3, 4, 6)


def in_unit_interval(x):
    return torch.sigmoid(x)


def in_bytes(x):
    return 255 * torch.sigmoid(x)


def dark(x):
    """As a night scene: tanh, next to -1 nearly everywhere."""
    return torch.tanh(x.abs() / 20 - 2)


def beyond_one(x):
    return 1.5 * torch.sigmoid(x)


def beyond_bytes(x):
    return 300 + x


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        (torch.tanh, (-1, 1)),
        (dark, (-1, 1)),
        (in_unit_interval, (0, 1)),
        (in_bytes, (0, 255)),
        (beyond_one, (-1, 1)),  # with a remark, as nothing comes near -1
        (beyond_bytes, (-1, 1)),
        (lambda x: x, (-1, 1)),
        (lambda x: 1.06 * in_unit_interval(9 * x) - 0.03, (-1, 1)),  # as of a last layer that is linear
        (lambda x: 0.2 * torch.tanh(x), (-1, 1)),
        (lambda x: (1 + 3e-7) * (x > 0).float(), (0, 1)),  # white, but for rounding
        (lambda x: 255 * (1 + 1e-6) * (x > 0).float(), (0, 255)),
        (lambda x: 1.01 * (x > 0).float(), (-1, 1)),
        (lambda x: 127.5 * torch.tanh(x), (-1, 1)),
        (lambda x: 65535 * torch.sigmoid(x), (-1, 1)),
    ],
)
def test_the_range_is_told_by_64_images(finish, expected):
    module = Pictures(finish)
    G = freeze(module)
    assert G.image_range == expected
    low, high = expected
    own = Pictures(finish)(z())
    torch.testing.assert_close(G(z()), (own - low) / (high - low) * 2 - 1)
    if expected == (-1, 1):
        assert torch.equal(G(z()), own)
    if expected == (-1, 1) and own.abs().max() < 2 and (own.min() < -0.5 or own.max() < 0.5):
        assert G.remarks == []
        return
    (remark,) = G.remarks
    assert remark.endswith("(if that is wrong: --image_range LOW HIGH)")
    if expected != (-1, 1):
        assert remark.startswith(f"mine: its values lie in [0, {high}] and are scaled to [-1, 1]")
    else:
        assert re.match(r"mine: has values from \S+ to \S+; -1 is taken for black and 1 for white", remark)


def test_an_image_that_is_rarely_below_0_is_enough():
    """One latent in some twenty is: the first batches do not show it."""

    def forward(z):
        return torch.where(z[:, :1] < -1.7, -torch.ones(1), torch.sigmoid(z)).view(-1, 1, 2, 2)

    assert freeze(forward).image_range == (-1, 1)


def test_pixels_of_every_range_are_the_same():
    """What is shown: a sigmoid's 0, 1/2 and 1 as 0, 128 and 255, and bytes as they are."""

    def constant(values):
        def forward(z):
            return torch.tensor(values).view(1, 1, 1, -1).expand(len(z), -1, -1, -1) + 0 * z.sum()

        return to_uint8(images_of(freeze(forward), z(1), None))[0, 0, :, 0].tolist()

    assert constant([0.0, 0.5, 1.0]) == [0, 128, 255]
    every_byte = [float(value) for value in range(256)]
    assert constant(every_byte) == list(range(256))
    assert constant([-1.0, 0.0, 1.0]) == [0, 128, 255]


def test_a_range_that_is_given_or_that_the_object_states():
    own = Pictures(in_unit_interval)(z())
    G = freeze(Pictures(in_unit_interval), image_range=(-1, 1))
    assert torch.equal(G(z()), own) and G.remarks == []
    module = Pictures(in_unit_interval)
    module.image_range = (0, 2)
    torch.testing.assert_close(freeze(module)(z()), own - 1)
    torch.testing.assert_close(freeze(module, image_range=(0.0, 1.0))(z()), 2 * own - 1)
    module.image_range = np.array([0, 1])
    assert freeze(module).image_range == (0, 1)


@pytest.mark.parametrize("image_range", [(1, 1), (1, 0), (0, float("inf")), (float("nan"), 1), (0, 1, 2), "ab", 7])
def test_ranges_that_are_none(image_range):
    with pytest.raises(SnapshotError, match=r"^mine: its image_range must be two finite numbers, .*, is "):
        freeze(Pictures(), image_range=image_range)


# ----------------------------------------------------------------------------------------------------------------------
# Users' code that raises, and modules that refuse


def test_a_generator_that_fails_later():
    def small_only(z):
        if len(z) > 64:
            raise RuntimeError("no more than 64\nat once")
        return z.view(-1, 1, 2, 2)

    def with_gradients(z):
        return (z.view(-1, 1, 2, 2), z) if z.requires_grad else z.view(-1, 1, 2, 2)

    with pytest.raises(SnapshotError) as error:
        freeze(small_only)(z(65))
    assert str(error.value) == "mine: fails for z of shape [65, 4] (RuntimeError: no more than 64 at once)"
    with pytest.raises(SnapshotError, match=r"^mine: gave images of shape \[1, 2, 2\] before, and now a tuple$"):
        freeze(with_gradients).check_gradient()
    sizes = iter([2] * 100 + [1])
    G = freeze(lambda z: z.view(-1, 1, 2, 2)[:, :, : next(sizes)])
    with pytest.raises(SnapshotError, match=r"before, and now \[3, 1, 1, 2\]$"):
        for _ in range(100):
            G(z())


def test_system_exit_is_a_failure_too():
    def leaves(z):
        raise SystemExit("no GPU")

    assert refusal(leaves).startswith("mine: fails for z of shape [5, 4] (SystemExit: no GPU)")


def test_gradients_that_cannot_be_computed():
    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return 2 * z

        @staticmethod
        def backward(ctx, gradient):
            raise NotImplementedError("forward only")

    def through_numpy(z):
        return torch.from_numpy(z.numpy().reshape(-1, 1, 2, 2).copy())

    with pytest.raises(SnapshotError, match=r"cannot be differentiated with respect to z \(NotImplementedError: forw"):
        freeze(lambda z: Forward.apply(z).view(-1, 1, 2, 2)).check_gradient()
    with pytest.raises(SnapshotError, match=r"^mine: fails for z of shape \[2, 4\] \(RuntimeError: Can't call numpy"):
        freeze(through_numpy).check_gradient()


def test_modules_that_do_not_return_themselves():
    class Frozen(Pictures):
        def train(self, mode=True):
            super().train(mode)

    assert torch.equal(freeze(Frozen())(z()), freeze(Pictures())(z()))


def test_scripted_modules():
    scripted = traced(Pictures().eval())
    G = freeze(scripted)
    torch.testing.assert_close(G(z(7)), Pictures()(z(7)))
    G.check_gradient()


def test_modules_that_refuse_to_be_frozen():
    class Quantised(Pictures):
        def float(self):
            raise ValueError("weights of 8 bits\ncannot be cast")

    assert refusal(Quantised()) == "mine: cannot be frozen (ValueError: weights of 8 bits cannot be cast)"


def test_absurd_sizes():
    absurd = types.SimpleNamespace(forward=lambda z: z, dim_z=10**15)
    with pytest.raises(SnapshotError, match=r"^mine: no latents and classes can be drawn for it"):
        FrozenGenerator(absurd, "mine")
    with pytest.raises(SnapshotError, match=r"^mine: no latents and classes can be drawn for it"):
        FrozenGenerator(types.SimpleNamespace(forward=lambda z, y: z, dim_z=4, num_classes=2**70), "mine")


@pytest.mark.parametrize("number", [np.int64(4), np.array(4), torch.tensor(4)])
def test_whole_numbers_of_other_kinds(number):
    def forward(z, y):
        return z.view(-1, 1, 2, 2) + y[:, None, None, None]

    G = FrozenGenerator(types.SimpleNamespace(forward=forward, dim_z=number, num_classes=number), "mine")
    assert (G.dim_z, G.num_classes) == (4, 4) and type(G.dim_z) is type(G.num_classes) is int


def test_a_known_network_is_believed():
    """It has one pass: what this project wrote does not mix samples, and draws no noise."""
    calls = []

    def forward(z):
        calls.append(len(z))
        return z.view(-1, 1, 2, 2)

    G = FrozenGenerator(types.SimpleNamespace(forward=forward, dim_z=DIM_Z), "mine", known=True)
    assert calls == [2] and G.is_deterministic and G.image_shape == (2, 2, 1) and G.image_range == (-1, 1)
    with pytest.raises(SnapshotError, match="not finite"):
        FrozenGenerator(types.SimpleNamespace(forward=lambda z: forward(z) / 0, dim_z=DIM_Z), "mine", known=True)


# ----------------------------------------------------------------------------------------------------------------------
# Numbers that are none


def test_values_that_are_not_finite_now_and_then():
    """Not in the first few images, but in one of the 64."""

    def forward(z):
        return torch.where(z[:, :1] < -1.7, torch.tensor(float("nan")), torch.sigmoid(z)).view(-1, 1, 2, 2)

    assert "gives values that are not finite" in refusal(forward)
