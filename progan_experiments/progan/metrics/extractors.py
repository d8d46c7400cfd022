"""What the worker process of `features.FeatureWorker` does: networks in PyTorch, and torchmetrics on their features.

To be imported in that process only, which never imports TensorFlow. Weights are read as data, whichever PyTorch is
installed (`experiment_utils.inert_pickle`): nothing in a file is executed.
"""

import hashlib
import importlib
import io
import os
import warnings

import numpy as np
import torch

from experiment_utils.download import DownloadError, fetch, file_sha256
from experiment_utils.errors import OptionError, UserError, describe
from experiment_utils.inert_pickle import load_pth
from progan.metrics.ppl import LPIPS_SIZE, resize_matrix

VERSION = 1  # of what becomes of an image here; to be raised when that changes
IMAGES_AT_ONCE = 32  # in a network: at 299 px Inception keeps 20 MB for each
PAIRS_AT_ONCE = 4  # at 256 px VGG16 keeps 200 MB for each

# Where the libraries have the weights from. A name ends in the beginning of the file's SHA-256.
WEIGHTS = {
    "inception": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}


class Extractors:
    """Networks, loaded when they are first asked for: 'inception', 'vgg', 'random'.

    num_gpus    0: the CPU; else a GPU if PyTorch finds one
    sources     {'inception' | 'vgg': path of the weights, or module:factory, or None: fetched once}
    """

    def __init__(self, num_gpus, num_threads, sources):
        torch.set_grad_enabled(False)
        if num_threads:
            torch.set_num_threads(num_threads)
        self._device = "cuda" if num_gpus != 0 and torch.cuda.is_available() else "cpu"
        self._sources, self._loaded, self._metrics = sources, {}, {}

    def describe(self, network, resolution):
        """Return (number of features of an image of `resolution`, a text that changes when the network does)."""
        images = np.zeros([1, resolution, resolution, 3], np.uint8)
        return self._features(network, images).shape[1], self._network(network)[1]

    def load(self, network):
        """Make sure that the network is there."""
        self._network(network)

    def features(self, networks, images):
        """Return {network: float32 [N, d]} of images uint8 [N, R, R, 1 or 3]."""
        return {network: self._features(network, images) for network in networks}

    def distances(self, network, images, others):
        """Return float64 [N]: distances of float32 images [N, R, R, 1 or 3], about [-1, 1], at LPIPS_SIZE pixels."""
        distance = self._network(network)[0]
        matrix = torch.from_numpy(resize_matrix(images.shape[1], LPIPS_SIZE)).to(self._device)
        found = []
        for begin in range(0, len(images), PAIRS_AT_ONCE):
            some = slice(begin, begin + PAIRS_AT_ONCE)
            # Resizing is linear and its weights add up to 1: so [-1, 1] here is [0, 255] there.
            pair = [matrix @ self._planes(batch[some]) @ matrix.T for batch in (images, others)]
            found.append(distance(*pair).double().cpu().numpy().reshape(-1))
        return np.concatenate(found)

    def begin(self, metric, dimensions, **options):
        """Begin 'FID' or 'KID' on features [N, dimensions]; `update` and `compute` follow."""
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        kind = {"FID": FrechetInceptionDistance, "KID": KernelInceptionDistance}[metric]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that KID keeps all features
            self._metrics[metric] = kind(feature=_Given(dimensions), **options)

    def update(self, metric, features, real):
        self._metrics[metric].update(torch.from_numpy(features).double(), real=real)

    def compute(self, metric, seed):
        """Return [the metric's value], for KID [mean, standard deviation] over subsets drawn from `seed`."""
        torch.manual_seed(seed)
        values = self._metrics.pop(metric).compute()
        return [float(value) for value in (values if isinstance(values, tuple) else [values])]

    def _features(self, network, images):
        parts = []
        for begin in range(0, len(images), IMAGES_AT_ONCE):
            some = self._planes(images[begin : begin + IMAGES_AT_ONCE])
            found = self._network(network)[0](some)
            if found.ndim != 2 or len(found) != len(some):
                raise OptionError(
                    f"--{network} {self._sources[network]}: returns {list(found.shape)} for {len(some)} images, "
                    "not [images, features]"
                )
            parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)

    def _planes(self, images):
        """[N, H, W, 1 or 3] -> tensor [N, 3, H, W]; a grey image becomes three equal channels."""
        planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(self._device)
        return planes.expand(-1, 3, -1, -1).contiguous()

    def _network(self, network):
        """Return (module, fingerprint)."""
        if network not in self._loaded:
            source = self._sources.get(network)
            if network == "random":
                module, about = RandomNetwork(), network
            elif source is not None and ":" in source and not os.path.exists(source):
                module, about = _from_factory(source, network), source
            else:
                module, about = {"inception": _inception, "vgg": _vgg}[network](source), network
            module = module.to(self._device).eval()
            self._loaded[network] = module, f"{about} {VERSION} {_weights_digest(module)}"
        return self._loaded[network]


class _Given(torch.nn.Module):
    """Stands where torchmetrics expects a network, and returns the features that it is given in place of images."""

    def __init__(self, dimensions):
        super().__init__()
        self.num_features = dimensions

    def forward(self, features):
        return features if features.ndim == 2 else torch.zeros(1, self.num_features)  # old versions try it on an image


def _weights_digest(module):
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# Networks: images uint8 [N, 3, R, R] -> features [N, d], or two float images [N, 3, 256, 256] -> distances [N]


class RandomNetwork(torch.nn.Module):
    """A fixed network that nobody trained: three 3x3 convolutions, leaky ReLU 0.2, weights from NumPy's RandomState(0).

    Its features are 8 channels on a 4x4 grid (128 numbers), so that it matters where in the image something is. A
    Fréchet distance in it needs no download; its size means something beside others of the same resolution only.
    """

    def __init__(self):
        super().__init__()
        random = np.random.RandomState(0)
        for layer, (fan_in, fan_out) in enumerate([(3, 32), (32, 64), (64, 8)]):
            weight = random.standard_normal([fan_out, fan_in, 3, 3]) * np.sqrt(2 / (9 * fan_in))
            self.register_buffer(f"weight{layer}", torch.from_numpy(weight.astype(np.float32)))

    def forward(self, images):
        x = images.float() / 127.5 - 1
        for layer, stride in enumerate([1, 2, 1]):
            weight = getattr(self, f"weight{layer}")
            x = torch.nn.functional.leaky_relu(torch.nn.functional.conv2d(x, weight, stride=stride, padding=1), 0.2)
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


class _First(torch.nn.Module):
    def forward(self, tensors):
        return tensors[0]


def _inception(path):
    """InceptionV3 as FID has always had it: its own weights, and TensorFlow 1's bilinear resizing to 299 px."""
    state = _read("inception", path, "Conv2d_1a_3x3.conv.weight")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = io.BytesIO()
    torch.save(state, weights)  # the class reads a file with torch.load: so one of our own
    weights.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], weights)
    except RuntimeError:
        raise _wrong("inception", path) from None
    return torch.nn.Sequential(network, _First())


def _vgg(path):
    """LPIPS on VGG16 (Zhang et al. 2018, version 0.1); torchvision's weights below the package's own linear ones."""
    state = _read("vgg", path, "features.0.weight")
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torchvision has renamed an argument that lpips gives it
        network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    try:  # slices of torchvision's `features`, under the numbers that the layers have there
        network.net.load_state_dict(
            {name: state["features." + name.split(".", 1)[1]] for name in network.net.state_dict()}
        )
    except (KeyError, RuntimeError):
        raise _wrong("vgg", path) from None
    return network


def _name(network):
    return WEIGHTS[network].rsplit("/", 1)[1]


def _read(network, path, first):
    """Return the state dict in a file, {name: tensor}, which must hold the tensor `first`; path None: fetched."""
    try:
        state = load_pth(_fetched(network) if path is None else path)
    except UserError as problem:
        flag = "" if path is None else f"--{network} "
        raise OptionError(f"{flag}{problem}") from None
    if not isinstance(state, dict) or not isinstance(state.get(first), torch.Tensor):
        raise _wrong(network, path)
    return state


def _wrong(network, path):
    return OptionError(f"--{network} {path or ''}: not the weights that are needed ({_name(network)})")


def _fetched(network):
    """Return the path of the network's weights, in PyTorch's own cache, fetched if they are not there."""
    name = _name(network)
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    try:
        fetch(WEIGHTS[network], path)
    except (DownloadError, OSError) as problem:
        raise UserError(f"{problem}; or get {name} some other way, and say --{network} PATH") from None
    if not file_sha256(path).startswith(name[: -len(".pth")].rsplit("-", 1)[1]):
        raise UserError(f"{path}: damaged (its SHA-256 does not begin as its name ends); delete it and try again")
    return path


def _from_factory(source, network):
    """Return the torch.nn.Module that module:factory makes. Modules are also looked for in the working directory."""
    module_name, _, attribute = source.partition(":")
    try:
        module = getattr(importlib.import_module(module_name), attribute)()
    except UserError:
        raise
    except Exception as problem:  # it is the user's code, and may raise anything
        raise OptionError(f"--{network} {source}: no network ({describe(problem)})") from problem
    if not isinstance(module, torch.nn.Module):
        raise OptionError(f"--{network} {source}: makes a {type(module).__name__}, not a torch.nn.Module")
    return module
