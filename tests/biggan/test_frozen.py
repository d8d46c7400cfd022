"""What FrozenGenerator makes of modules, of plain objects, and of what is neither."""

import types

import pytest
import torch
from torch import nn

from biggan.frozen import FrozenGenerator, pick_device
from experiment_utils.errors import OptionError, SnapshotError, UserError


class Linear(nn.Module):
    """Images that are linear in z, with a choice of ways to begin."""

    dim_z = 6

    def __init__(self, begin="linear"):
        super().__init__()
        self.begin = begin
        self.linear = nn.Linear(6, 48)
        self.conv = nn.Conv2d(6, 48, 3, padding=1)
        self.transposed = nn.ConvTranspose2d(6, 3, 4)
        self.first, self.second = nn.Linear(2, 48), nn.Linear(4, 48)
        self.other = nn.Linear(48, 48)

    def forward(self, z):
        if self.begin == "linear":
            return self.other(self.linear(z)).view(-1, 3, 4, 4)
        if self.begin == "conv":
            return self.conv(z[:, :, None, None]).view(-1, 3, 4, 4)
        if self.begin == "transposed":
            return self.transposed(z.view(-1, 6, 1, 1))
        if self.begin == "chunks":
            a, b = z.split([2, 4], dim=1)
            return (self.first(a) + self.second(b)).view(-1, 3, 4, 4)
        return self.linear(z * 2).view(-1, 3, 4, 4)


class Conditional(nn.Module):
    dim_z, n_classes = 4, 3

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.linear = nn.Linear(4, 16)

    def forward(self, z, y):
        return self.linear(z * self.embedding(y)).view(-1, 1, 4, 4)


def test_a_module_is_frozen():
    module = Linear().double().train()
    G = FrozenGenerator(module, "mine")
    assert (G.name, G.dim_z, G.num_classes, G.image_shape) == ("mine", 6, 0, (4, 4, 3))
    assert not module.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in module.parameters())
    z = torch.randn(5, 6, requires_grad=True)
    G(z).sum().backward()
    assert z.grad.abs().min() > 0
    assert G.random_classes(3) is None
    with pytest.raises(OptionError, match="--fix_class 0: mine has no classes"):
        G.check_class(0)


def test_classes():
    G = FrozenGenerator(Conditional(), "mine", class_names=["cat", "dog", "axolotl"])
    assert (G.num_classes, G.image_shape, G.class_name(2)) == (3, (4, 4, 1), "axolotl")
    y = G.random_classes(300, torch.Generator().manual_seed(0))
    assert y.dtype == torch.int64 and sorted(set(y.tolist())) == [0, 1, 2]
    assert torch.equal(y, G.random_classes(300, torch.Generator().manual_seed(0)))
    assert G(torch.randn(2, 4), y[:2]).shape == (2, 1, 4, 4)
    G.check_class(2)
    for outside in (-1, 3):
        with pytest.raises(OptionError, match=rf"--fix_class {outside}: mine has classes 0 to 2"):
            G.check_class(outside)
    with pytest.raises(ValueError, match="needs y"):
        G(torch.randn(2, 4))
    with pytest.raises(SnapshotError, match="names 1 classes and has 3"):
        FrozenGenerator(Conditional(), "mine", class_names=["cat"])
    assert FrozenGenerator(Conditional(), "mine").class_name(2) == "2"


def test_plain_objects():
    with_forward = types.SimpleNamespace(dim_z=2, forward=lambda z: z.view(-1, 1, 1, 2).expand(-1, 3, 2, 2))
    G = FrozenGenerator(with_forward, "plain")
    assert (G.num_classes, G.image_shape) == (0, (2, 2, 3))
    with pytest.raises(UserError, match=r"plain: no linear layer .* latent_weights\(\) and early_activations"):
        G.latent_weights()

    def callable_with_classes(z, y):
        return (z[:, 0] * y).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    callable_with_classes.dim_z, callable_with_classes.num_classes = 5, 7
    assert FrozenGenerator(callable_with_classes, "plain").num_classes == 7


def make(forward, **attributes):
    attributes.setdefault("dim_z", 2)
    return types.SimpleNamespace(forward=forward, **attributes)


def images(z):
    return torch.zeros(len(z), 3, 4, 4)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "a NoneType, which has no forward"),
        (types.SimpleNamespace(dim_z=3), "has no forward"),
        (nn.Linear(2, 2), r"needs an attribute dim_z.*is None"),
        (make(images, dim_z=0), "is 0"),
        (make(images, dim_z="12"), "is '12'"),
        (make(images, num_classes=-1), "its num_classes is -1"),
        (make(images, n_classes="ten"), "its n_classes is 'ten'"),
        (make(lambda z, y: images(z)), "say how many in an attribute num_classes"),
        (make(lambda z: z @ torch.zeros(3, 3)), r"fails for z of shape \[5, 2\] \(RuntimeError"),
        (make(lambda z, y: 1 // 0, num_classes=4), r"and y of shape \[5\] \(ZeroDivisionError"),
        (make(lambda z: None), "gives a NoneType"),
        (make(lambda z: [z, z]), "gives a list for N = 5"),
        (make(lambda z: z), r"gives shape \[5, 2\]"),
        (make(lambda z: images(z)[:1]), r"gives shape \[1, 3, 4, 4\]"),
        (make(lambda z: images(z).half()), "gives float16 of 3 channels"),
        (make(lambda z: images(z).repeat(1, 2, 1, 1)), "of 6 channels"),
        (make(lambda z: images(z) / 0), "not finite"),
    ],
)
def test_what_is_no_generator(module, message):
    with pytest.raises(SnapshotError, match="mine: .*" + message) as error:
        FrozenGenerator(module, "mine")
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------------------------------
# What z meets first


@pytest.mark.parametrize("begin", ["linear", "conv", "transposed", "chunks"])
def test_latent_weights(begin):
    torch.manual_seed(0)
    module = Linear(begin)
    W = FrozenGenerator(module, "mine").latent_weights()
    if begin == "chunks":
        expected = torch.block_diag(module.first.weight, module.second.weight)
    else:
        expected = {
            "linear": module.linear.weight,
            "conv": module.conv.weight[:, :, 1, 1],  # the image of z is a single pixel: around it there is only padding
            "transposed": module.transposed.weight.flatten(1).t(),
        }[begin]
    assert torch.allclose(W, expected, atol=1e-6)


def test_early_activations():
    module = Linear()
    G = FrozenGenerator(module, "mine")
    z = torch.randn(3, 6)
    assert torch.allclose(G.early_activations(z), module.linear(z))
    assert not module.linear._forward_hooks


def test_a_transformed_z_is_not_z():
    G = FrozenGenerator(Linear("scaled"), "mine")
    for ask in (G.latent_weights, lambda: G.early_activations(torch.randn(2, 6))):
        with pytest.raises(UserError, match="mine: no linear layer or convolution gets z itself"):
            ask()


def test_the_modules_own_methods_come_first():
    module = Conditional()
    module.latent_weights = lambda: torch.ones(7, 4, requires_grad=True)
    module.early_activations = lambda z, y: z * y[:, None]
    G = FrozenGenerator(module, "mine")
    assert G.latent_weights().shape == (7, 4) and not G.latent_weights().requires_grad
    assert G.early_activations(torch.ones(2, 4), torch.tensor([1, 2])).tolist() == [[1] * 4, [2] * 4]


# ----------------------------------------------------------------------------------------------------------------------
# Noise and precision


class Noisy(Linear):
    strength = 0.0

    def forward(self, z):
        return nn.functional.dropout(super().forward(z), 0.5, self.training) + self.strength * torch.randn(())


def test_dropout_is_off_and_noise_is_noticed():
    module = Noisy()
    assert FrozenGenerator(module, "mine").is_deterministic
    for strength in (1.0, 1e-3):
        module.strength = strength
        G = FrozenGenerator(module, "mine")
        assert not G.is_deterministic
        assert G.remarks == ["mine: gives other images for the same z each time, as some noise is on"]
        with pytest.raises(UserError, match=r"^mine: gives other images .* switch its noise off"):
            G.check_measurable()


def test_noise_from_elsewhere_is_noticed():
    own = torch.Generator().manual_seed(0)
    assert not FrozenGenerator(make(lambda z: images(z) + torch.randn(1, generator=own)), "mine").is_deterministic


def test_checks_leave_the_random_state_alone():
    state = torch.get_rng_state()
    FrozenGenerator(make(lambda z: images(z) + torch.randn(1)), "mine")
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_on_the_way_to_the_images_is_refused():
    def in_half(z):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return images(z @ torch.eye(z.shape[1])).float()

    FrozenGenerator(make(images), "mine").check_measurable()
    with pytest.raises(
        SnapshotError, match=r"^mine: G must compute in float32 .*, got torch\.bfloat16 from b?mm; switch"
    ):
        FrozenGenerator(make(in_half), "mine").check_measurable()


# ----------------------------------------------------------------------------------------------------------------------
# Gradients


@torch.no_grad()
def without_gradient(z):
    return z.view(-1, 1, 1, 2)


def in_inference_mode(z):
    with torch.inference_mode():
        return z.view(-1, 1, 1, 2) * 2


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (without_gradient, "have no gradient with respect to z"),
        (in_inference_mode, "have no gradient with respect to z"),
        (lambda z: z.detach().view(-1, 1, 1, 2), "have no gradient with respect to z"),
        (lambda z: (8 * z).round().view(-1, 1, 1, 2), r"is 0 \(are they rounded"),
    ],
)
def test_images_without_a_gradient(forward, message):
    G = FrozenGenerator(make(forward), "mine")
    with pytest.raises(SnapshotError, match=f"^mine: .*{message}"):
        G.check_gradient()


def test_a_gradient_is_enough():
    FrozenGenerator(make(lambda z: z.view(-1, 1, 1, 2)), "mine").check_gradient()
    FrozenGenerator(Conditional(), "mine").check_gradient()


# ----------------------------------------------------------------------------------------------------------------------
# Devices


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(OptionError, match="--device gpu: no such device"):
        pick_device("gpu")
    with pytest.raises(OptionError, match="--device meta: no such device"):  # PyTorch knows it
        pick_device("meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    with pytest.raises(OptionError, match="--device cuda: PyTorch finds no GPU"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device() == pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(OptionError, match="--device cuda:2: there are only 2 GPUs"):
        pick_device("cuda:2")
