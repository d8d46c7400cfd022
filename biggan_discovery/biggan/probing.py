"""Probe a generator that a user brings: find its images in what it returns, and check that they can be relied on."""

import collections
import collections.abc
import contextlib

import torch
from torch import nn

from experiment_utils.errors import SnapshotError, UserError, describe
from hessian_penalty_pytorch import full_float32

SAME = 1e-5  # of the largest value: what two passes of one batch size may differ by (GPUs add in any order)
SAME_ACROSS_SIZES = 1e-3  # other batch sizes have other kernels, whose rounding a deep network amplifies
RANGE_SAMPLES, RANGE_BATCH = 64, 8  # latents to tell the range of values by, and how many at once
USUAL_RANGE = (-1.0, 1.0)
ROUNDED = 1e-5  # of the largest value of a range: what rounding may add to it
FAR = 2.0  # values that are larger are not of [0, 1], nor of [-1, 1]
SLIGHTLY_NEGATIVE = -0.5  # images that are never below, and have brighter pixels, hardly have their black at -1

Findings = collections.namedtuple("Findings", "element image_shape is_deterministic image_range remarks")
Findings.__doc__ = """What the passes show.

    element            key of the images where G returns a tuple, list or mapping; None where it returns the images
    image_shape        (height, width, channels)
    is_deterministic   whether the same latents give the same images
    image_range        (low, high): the values that stand for black and white
    remarks            lines for the user on what was inferred
"""


@torch.no_grad()
def probe(call, module, name, samples, device, image_range=None, known=False):
    """Return the Findings of a generator.

    call          function of (z, y) that returns what the generator returns, whatever that is
    module        the generator itself, to name the layer that is to blame
    samples       function of (count, seed) that returns (z [count, dim_z], y int64 [count] or None) on `device`
    image_range   (low, high) where it is known; None: it is inferred from 64 images
    known         whether it is a network of this project: its shape and one pass are then all there is to find out

    Raises SnapshotError where the output holds no images, a batch size fails, or an image depends on its batch.
    """
    with full_float32():
        passes = _Passes(call, module, name, samples, device)
        if known:
            passes.images([3, 4])
            return passes.findings(True, image_range or USUAL_RANGE)
        passes.look_for_statistics()
        batch, pair = passes.images([0, 1, 2, 3, 4]), passes.images([3, 4])
        is_deterministic = _same(pair, passes.images([3, 4], state=2))
        if is_deterministic or _same(pair, passes.images([3, 4])):
            for others, place in (([5, 4], 1), ([3, 5], 0)):  # each of the pair, beside another one
                if not _same(pair[place], passes.images(others)[place]):
                    raise passes.refusal(others, place)
        alone = passes.images([4])
        if is_deterministic:
            if not all(_same(batch[-len(each) :], each, SAME_ACROSS_SIZES) for each in (pair, alone)):
                raise passes.refusal([5, 4], 1)
        else:
            passes.remark("gives other images for the same z each time, as some noise is on")
        return passes.findings(is_deterministic, image_range or passes.find_range(batch))


def failure(name, z, y, problem):
    """Return the SnapshotError for whatever a generator raised."""
    shapes = f"z of shape {list(z.shape)}" + ("" if y is None else f" and y of shape {list(y.shape)}")
    return SnapshotError(f"{name}: fails for {shapes} ({describe(problem)})")


def find_element(output, count):
    """Return the key of the images [count, 1 or 3, H, W] in a tuple, list or mapping: the largest, of several.

    None where `output` is something else, or holds none.
    """
    items = enumerate(output) if isinstance(output, (tuple, list)) else ()
    items = output.items() if isinstance(output, collections.abc.Mapping) else items
    images = [
        (key, value)
        for key, value in items
        if torch.is_tensor(value) and value.dim() == 4 and len(value) == count and value.shape[1] in (1, 3)
    ]
    return max(images, key=lambda item: item[1][0].numel())[0] if images else None


def element_of(output, element):
    """Return the images in an output; the output itself where it has no such element."""
    if element is None or torch.is_tensor(output):
        return output
    try:
        return output[element]
    except (LookupError, TypeError):
        return output


class _Passes:
    """Passes of a generator. The first one decides what the images of all must look like."""

    def __init__(self, call, module, name, samples, device):
        self._call, self._module, self._name = call, module, name
        self._samples, self._device = samples, device
        try:
            self._z, self._y = samples(6, 0)
        except (RuntimeError, ValueError, OverflowError) as problem:  # absurdly many
            raise SnapshotError(f"{name}: no latents and classes can be drawn for it ({describe(problem)})") from None
        self._shape = self._element = None
        self._remarks = []

    def remark(self, text):
        self._remarks.append(f"{self._name}: {text}")

    def findings(self, is_deterministic, image_range):
        channels, height, width = self._shape
        return Findings(self._element, (height, width, channels), is_deterministic, image_range, self._remarks)

    def images(self, rows, state=1):
        """Return the images of some of the six latents; PyTorch's random numbers begin at `state`."""
        return self._images(self._z[rows], None if self._y is None else self._y[rows], state)

    def find_range(self, some_images):
        """Return (low, high) of the values: [0, 1] or [0, 255] where all of 64 images show it, otherwise [-1, 1]."""
        smallest, largest = some_images.min().item(), some_images.max().item()
        z, y = self._samples(RANGE_SAMPLES, 1)
        for begin in range(0, RANGE_SAMPLES, RANGE_BATCH):
            if smallest < SLIGHTLY_NEGATIVE:
                break
            some = slice(begin, begin + RANGE_BATCH)
            images = self._images(z[some], None if y is None else y[some])
            smallest, largest = min(smallest, images.min().item()), max(largest, images.max().item())
        wrong = "if that is wrong: --image_range LOW HIGH"
        for high in (1, 255):
            if smallest >= 0 and largest <= high * (1 + ROUNDED) and not 1 + ROUNDED < largest <= FAR:
                self.remark(f"its values lie in [0, {high}] and are scaled to [-1, 1] ({wrong})")
                return (0.0, float(high))
        if (smallest > SLIGHTLY_NEGATIVE and largest > -SLIGHTLY_NEGATIVE) or max(-smallest, largest) > FAR:
            found = f"{smallest:.3g} to {largest:.3g}"
            self.remark(f"has values from {found}; -1 is taken for black and 1 for white ({wrong})")
        return USUAL_RANGE

    def look_for_statistics(self):
        """Remark on the first batch normalisation whose running statistics have seen no batch."""
        for name, layer in self._module.named_modules() if isinstance(self._module, nn.Module) else ():
            seen = getattr(layer, "num_batches_tracked", None)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and seen is not None and not seen.any():
                self.remark(f"its layer {name} ({type(layer).__name__}) has running statistics of no batch, 0 and 1")
                return

    def refusal(self, others, place):
        """Return the SnapshotError for images that depend on their batch.

        others, place   rows of another pair than 3 and 4, and where in both the same latent stands: it names the layer
        """
        layer = _mixing_layer(self._module, lambda: self.images([3, 4]), lambda: self.images(others), place)
        where, cure = "", "an image may depend on its own z alone"
        if layer is not None:
            name, layer = layer
            where = f" through its layer {name} ({type(layer).__name__})"
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                cure = "it needs running statistics: build it with them, and gather them in training mode"
        return SnapshotError(f"{self._name}: each image depends on the other samples of its batch{where}; {cure}")

    def _images(self, z, y, state=1):
        given = z.clone()
        try:
            with _random_state(self._device, state):
                output = self._call(given, y)
        except UserError:
            raise
        except (Exception, SystemExit) as problem:  # it is the user's code, and may raise anything
            wanted = f"it must take z [N, {z.shape[1]}] for any N"
            raise SnapshotError(f"{failure(self._name, z, y, problem)}; {wanted}") from problem
        if not torch.equal(given, z):
            raise SnapshotError(f"{self._name}: changes the z that it is given; let it work on z.clone()")
        if self._shape is None:
            self._element = find_element(output, len(z))
            if self._element is not None:
                kind = f"a {type(output).__name__} of {len(output)}"
                self.remark(f"returns {kind}; its element {self._element!r} is taken for the images")
        images = element_of(output, self._element)
        self._check(images, len(z))
        self._shape = images.shape[1:]
        return images.clone()  # a generator may use its memory again

    def _check(self, images, count):
        if not torch.is_tensor(images) or images.dim() != 4 or len(images) != count or not images.numel():
            found = f"shape {list(images.shape)}" if torch.is_tensor(images) else f"a {type(images).__name__}"
            wanted = f"images [N, C, H, W] for z [N, {self._z.shape[1]}]"
            raise SnapshotError(f"{self._name}: must return {wanted}, gives {found} for N = {count}")
        if images.dtype != torch.float32 or images.shape[1] not in (1, 3):
            kind = f"{str(images.dtype)[len('torch.') :]} of {images.shape[1]} channels"
            hint = ", as if channels came last (permute them)" if images.shape[3] in (1, 3) else ""
            raise SnapshotError(f"{self._name}: must return float32 images of 1 or 3 channels, gives {kind}{hint}")
        if self._shape not in (None, images.shape[1:]):
            shapes = f"{list(self._shape)} and {list(images.shape[1:])}"
            raise SnapshotError(f"{self._name}: must return images of one size, gives {shapes}")
        if not torch.isfinite(images).all():
            raise SnapshotError(f"{self._name}: gives values that are not finite; are these the right weights?")


def _same(first, second, tolerance=SAME):
    return bool((first - second).abs().max() <= tolerance * first.abs().max())


@contextlib.contextmanager
def _random_state(device, seed):
    """Within the block PyTorch's random numbers begin at `seed`; afterwards they go on where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


# ----------------------------------------------------------------------------------------------------------------------
# The layer at which samples meet


def _mixing_layer(module, first, second, place):
    """Return (name, layer) of the first layer that makes something else of one and the same sample in two passes.

    first, second   functions that pass two batches of one size through the module
    place           of the sample that is the same in both
    None where there is no such layer: the module's own code mixes the samples, or it is no module.
    """
    if not isinstance(module, nn.Module):
        return None
    for (name, layer, *one), (other_name, _, *other) in zip(
        _calls(module, first, place), _calls(module, second, place)
    ):
        if name != other_name:
            return None
        (given, made), (given_other, made_other) = one, other
        if name and _all_same(given, given_other) and not _all_same(made, made_other):
            return name, layer
    return None


def _calls(module, run, place):
    """Return [(name, layer, a sample in its inputs, in its outputs)] in the order in which the layers finish."""
    calls, handles = [], []
    try:
        for name, layer in module.named_modules():

            def note(layer, inputs, output, name=name):
                calls.append((name, layer, _samples_at(place, inputs), _samples_at(place, output)))

            handles.append(layer.register_forward_hook(note))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _samples_at(place, values):
    values = values if isinstance(values, (tuple, list)) else [values]
    return [
        value[place].clone() for value in values if torch.is_tensor(value) and len(value.shape) and len(value) > place
    ]


def _all_same(first, second):
    return all(one.shape == other.shape and _same(one, other) for one, other in zip(first, second))
