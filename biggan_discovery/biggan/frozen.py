"""A generator as the commands see it, whatever it is made of: frozen, on one device, with a few facts about it."""

import contextlib
import inspect
import operator

import torch
from torch import nn

from biggan.parallel import local_rank
from biggan.probing import USUAL_RANGE, element_of, failure, probe
from experiment_utils.errors import OptionError, SnapshotError, UserError, describe
from experiment_utils.options import interval
from hessian_penalty_pytorch import check_generator

_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def pick_device(name=None):
    """Return the torch.device of that name; without one, this process's GPU, or the CPU where there is none."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise OptionError(f"--device {name}: no such device; say cpu, cuda or cuda:1")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise OptionError(f"--device {name}: PyTorch finds no GPU here; say --device cpu")
        device = torch.device("cuda", local_rank() if device.index is None else device.index)
        if device.index >= torch.cuda.device_count():
            raise OptionError(f"--device {name}: there are only {torch.cuda.device_count()} GPUs, counted from 0")
    return device


class FrozenGenerator:
    """G(z [N, dim_z], y int64 [N] or None) -> images [N, channels, height, width], float32, in [-1, 1].

    Made from a module, or any object with `dim_z` and `forward(z, y)` or `__call__`; it may say how many classes it
    tells apart in `num_classes` or `n_classes`, and has none if it takes z only, and in `image_range` which values
    (low, high) stand for black and white. A module is put in evaluation mode, in float32, on `device`, and its
    parameters take no gradients: those with respect to z pass through it.

    name               for messages and file names      num_classes   0: unconditional, takes no y
    class_names        [name of each class], or None    metadata      what its file says about it, {}: nothing
    image_shape        (height, width, channels)        image_range   its own values that become -1 and 1
    is_deterministic   whether the same latents give the same images. Where they do not, noise is still on, and the
                       penalty is not of z alone: `hessian_penalty` holds PyTorch's random state still from pass to
                       pass, but no other, and nothing holds it still from one frame of a video to the next
    remarks            lines for the user on what was inferred from a few passes (biggan.probing)
    known              whether the module is a network of this project, which needs no more than one pass to be known

    Raises SnapshotError where those passes show that the object does not work like this.
    """

    def __init__(self, module, name, device="cpu", class_names=None, metadata=None, image_range=None, known=False):
        self.module, self.name, self.device = module, name, torch.device(device)
        self.class_names, self.metadata, self._known = class_names, metadata or {}, known
        if isinstance(module, nn.Module):
            self._freeze()
        self._forward = module if callable(module) else getattr(module, "forward", None)
        if not callable(self._forward):
            raise SnapshotError(f"{name}: a {type(module).__name__}, which has no forward(z, y) and cannot be called")
        self.dim_z = _whole_number(getattr(module, "dim_z", None))
        if type(self.dim_z) is not int or self.dim_z < 1:
            raise SnapshotError(f"{name}: needs an attribute dim_z, the number of components of z (is {self.dim_z!r})")
        self.num_classes = self._find_num_classes()
        if class_names is not None and not isinstance(class_names, (list, tuple)):
            raise SnapshotError(f"{name}: its class_names are of type {type(class_names).__name__}, not a list")
        if class_names is not None and len(class_names) != self.num_classes:
            raise SnapshotError(f"{name}: names {len(class_names)} classes and has {self.num_classes}")
        known_range = self._known_range(image_range)
        found = probe(self._output, module, name, self._samples, self.device, known_range, known)
        self._element, self.image_shape, self.is_deterministic, self.image_range, self.remarks = found
        self._fed_by_z = None

    def __call__(self, z, y=None):
        z, y = z.to(self.device), None if y is None else y.to(self.device)
        if self.num_classes and y is None:
            raise ValueError(f"{self.name} tells {self.num_classes} classes apart and needs y")
        images = self._output(z, y) if self._known else self._checked_images(z, y)
        if self.image_range == USUAL_RANGE:
            return images
        low, high = self.image_range
        return (images - low) * (2 / (high - low)) - 1

    def _checked_images(self, z, y):
        """Return the images that the user's code makes. Raises SnapshotError for whatever it raises."""
        try:
            images = element_of(self._output(z, y), self._element)
        except UserError:
            raise
        except (Exception, SystemExit) as problem:  # it may raise anything
            raise failure(self.name, z, y, problem) from problem
        height, width, channels = self.image_shape
        if getattr(images, "shape", None) != (len(z), channels, height, width):
            found = list(images.shape) if torch.is_tensor(images) else f"a {type(images).__name__}"
            expected = [len(z), channels, height, width]
            raise SnapshotError(f"{self.name}: gave images of shape {expected[1:]} before, and now {found}")
        return images

    def _output(self, z, y):
        """Return what the object itself returns."""
        return self._forward(z, y) if self.num_classes else self._forward(z)

    def random_classes(self, count, generator=None):
        """Return int64 [count] classes drawn from a torch.Generator, on its device; None: there are no classes."""
        if not self.num_classes:
            return None
        where = "cpu" if generator is None else generator.device
        return torch.randint(self.num_classes, (count,), generator=generator, device=where)

    def check_class(self, index, flag="--fix_class"):
        """Raise OptionError where there is no class of that number."""
        if not self.num_classes:
            raise OptionError(f"{flag} {index}: {self.name} has no classes; leave the flag out")
        if not 0 <= index < self.num_classes:
            raise OptionError(f"{flag} {index}: {self.name} has classes 0 to {self.num_classes - 1}")

    def class_name(self, index):
        return str(index) if self.class_names is None else self.class_names[index]

    def check_measurable(self):
        """Raise UserError where numbers of the Hessian would not be of z alone, or in half precision."""
        if not self.is_deterministic:
            raise UserError(
                f"{self.name}: gives other images for the same z each time; switch its noise off, or the penalty "
                "measures it"
            )
        z, y = self._samples(2)
        try:
            check_generator(self, z, y=y)
        except ValueError as problem:
            raise SnapshotError(f"{self.name}: {problem}; switch its half precision off") from None

    def check_gradient(self):
        """Raise SnapshotError where no gradient reaches z."""
        z, y = self._samples(2)
        gradient = None
        with torch.enable_grad():
            images = self(z.requires_grad_(), y)
            if images.requires_grad:
                weights = torch.linspace(-1, 1, images.numel(), device=images.device).view_as(images)
                try:
                    (gradient,) = torch.autograd.grad((images * weights).sum(), z, allow_unused=True)
                except Exception as problem:  # of the user's backward passes, or of PyTorch
                    message = f"{self.name}: its images cannot be differentiated with respect to z"
                    raise SnapshotError(f"{message} ({describe(problem)})") from problem
        if gradient is None:
            raise SnapshotError(f"{self.name}: its images have no gradient with respect to z (a detach, a no_grad?)")
        if not gradient.any():
            raise SnapshotError(f"{self.name}: the gradient of its images with respect to z is 0 (are they rounded?)")

    # What z meets first: for the baselines that need no training (SeFa, GANSpace)

    @torch.no_grad()
    def latent_weights(self):
        """Return the matrix [outputs, dim_z] of all linear maps that z feeds, one below the other.

        The module's own method if it has one. Otherwise what the linear layers and convolutions that get z, or a slice
        of it, as their input do to the unit vectors; they are found in one pass. Raises UserError where there are none.
        """
        if hasattr(self.module, "latent_weights"):
            return torch.as_tensor(self._ask("latent_weights")).detach()
        rows = []
        for layer, begin, shape in self._layers_fed_by_z():
            columns = torch.eye(shape.numel(), device=self.device).view(-1, *shape)
            weight = (layer(columns) - layer(torch.zeros_like(columns[:1]))).flatten(1).t()
            row = weight.new_zeros(len(weight), self.dim_z)
            row[:, begin : begin + shape.numel()] = weight
            rows.append(row)
        return torch.cat(rows)

    @torch.no_grad()
    def early_activations(self, z, y=None):
        """Return [N, features]: the module's own method's, or else the output of the first layer that z feeds."""
        if hasattr(self.module, "early_activations"):
            return self._ask("early_activations", z.to(self.device), None if y is None else y.to(self.device))
        layer, _, _ = self._layers_fed_by_z()[0]
        outputs = []
        handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            self(z, y)
        finally:
            handle.remove()
        return outputs[0].flatten(1)

    def _ask(self, method, *arguments):
        """Return what a method of the user's gives. Raises UserError for whatever it raises."""
        try:
            return getattr(self.module, method)(*arguments)
        except Exception as problem:
            raise UserError(f"{self.name}: its method {method} fails ({describe(problem)})") from problem

    def _layers_fed_by_z(self):
        """[(layer, first component of z that it gets, shape of its input for one sample)] in the order of the pass."""
        if self._fed_by_z is None:
            self._fed_by_z = self._find_layers()
        if not self._fed_by_z:
            raise UserError(
                f"{self.name}: no linear layer or convolution gets z itself; give the generator methods "
                "latent_weights() and early_activations(z, y) to use baselines that need one"
            )
        return self._fed_by_z

    @torch.no_grad()
    def _find_layers(self):
        if not isinstance(self.module, nn.Module):
            return []
        z, y = self._samples(2)
        found = []

        def look(layer, inputs):
            try:
                x = inputs[0]
                begin = (x.data_ptr() - z.data_ptr()) // z.element_size()
            except (LookupError, AttributeError, RuntimeError):  # given by name, no tensor, or none that has a place
                return
            in_z = 0 <= begin <= self.dim_z - x[0].numel()  # it lies in z's memory ...
            if in_z and len(x) == len(z) and x.stride(0) == self.dim_z and x[0].is_contiguous():  # ... as a view of it
                found.append((layer, begin, x[0].shape))

        layers = [module for module in self.module.modules() if isinstance(module, _LAYERS)]
        handles = [layer.register_forward_pre_hook(look) for layer in layers]
        try:
            self(z, y)
        finally:
            for handle in handles:
                handle.remove()
        return found

    # Construction

    def _freeze(self):
        """Put the module in evaluation mode, in float32, on the device, without gradients for its parameters."""
        module = self.module
        try:
            with contextlib.suppress(NotImplementedError):  # exported programs have one mode only
                module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            module.float()
            module.to(self.device)
        except Exception as problem:  # modules of other libraries refuse some of this
            raise SnapshotError(f"{self.name}: cannot be frozen ({describe(problem)})") from problem

    def _known_range(self, image_range):
        """Return the given range, or else the module's own, as (low, high); None: neither is there."""
        image_range = getattr(self.module, "image_range", None) if image_range is None else image_range
        if image_range is None:
            return None
        try:
            interval(image_range)
        except ValueError as problem:
            found = " ".join(repr(image_range).split())
            raise SnapshotError(f"{self.name}: its image_range {problem}, is {found}") from None
        low, high = map(float, image_range)
        return low, high

    def _find_num_classes(self):
        for attribute in ("num_classes", "n_classes"):
            count = _whole_number(getattr(self.module, attribute, None))
            if count is not None:
                if type(count) is not int or count < 0:
                    raise SnapshotError(f"{self.name}: its {attribute} is {count!r}, not a number of classes")
                return count
        if self._takes_y():
            raise SnapshotError(f"{self.name}: takes classes beside z; say how many in an attribute num_classes")
        return 0

    def _takes_y(self):
        """Whether the generator cannot do without a second argument."""
        function = self.module.forward if isinstance(self.module, nn.Module) else self._forward
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # built in: it does not say
            return False
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return len(positional) > 1 and positional[1].default is inspect.Parameter.empty

    def _samples(self, count, seed=0):
        """Return `count` latents, the same every time, and their classes."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(count, self.dim_z, generator=generator).to(self.device)
        y = self.random_classes(count, generator)
        return z, None if y is None else y.to(self.device)


def _whole_number(value):
    """Return an integer of any type, such as NumPy's, as int; anything else as it is."""
    try:
        return value if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return value
