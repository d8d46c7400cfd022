"""Generators, wherever they are: bundled, in files of several formats, downloaded, or made by a function of the user's.

    G = load_generator("clevr_simple_32")                # a FrozenGenerator
    G = load_generator("path/to/G_ema.pth", "cuda")
    G = load_generator("my_package.models:make_generator")

What a network looks like is read from its weights. Nothing in a file of weights is executed; a factory is your code.
"""

import contextlib
import dataclasses
import fcntl
import glob
import http.client
import importlib
import json
import os
import re
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile

from experiment_utils import __version__
from experiment_utils.download import extract_zip, fetch, google_drive
from experiment_utils.errors import OptionError, SnapshotError, UserError
from experiment_utils.files import read_json, save_tensors
from experiment_utils.inert_pickle import load_pth
from experiment_utils.options import option

FORMAT_VERSION = 1
KIND = "biggan-generator"
BUNDLED_DIR = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "checkpoints")
DEFAULT = "clevr_simple_32"

_S3 = "https://s3.amazonaws.com/models.huggingface.co/biggan"  # where pytorch-pretrained-biggan itself looks
DOWNLOADS = {  # name: (address, what to call the file)
    "biggan-138k": (google_drive("1nAle7FCVFZdix2--ks0r5JBkFnKw8ctW"), "138k.zip"),
    "biggan-deep-128": (f"{_S3}/biggan-deep-128-pytorch_model.bin", "pytorch_model.bin"),
    "biggan-deep-256": (f"{_S3}/biggan-deep-256-pytorch_model.bin", "pytorch_model.bin"),
    "biggan-deep-512": (f"{_S3}/biggan-deep-512-pytorch_model.bin", "pytorch_model.bin"),
}
SHORT_NAMES = {"138k": "biggan-138k"}
HUB_FILES = ("model.safetensors", "pytorch_model.bin", "G_ema.pth")
GENERATOR_FILES = ("G_ema.pth", "model.safetensors", "pytorch_model.bin", "G.pth")  # in a folder: the first of them


@dataclasses.dataclass
class GeneratorOptions:
    """The flags that say which generator, and where: shared by all commands."""

    G_path: str = option(
        None,
        "the generator: a bundled name, a folder, .pth, .zip or .safetensors file, a name to --download, a Hugging "
        f"Face repository (owner/name), or module:factory (default: the bundled {DEFAULT})",
        str,
    )
    download: str = option(
        None, "fetch ImageNet weights once, and use them", str, choices=(*SHORT_NAMES, *DOWNLOADS)
    )  # fmt: skip
    download_url: str = option(None, "address to --download from instead of the built-in one", str)
    cache_dir: str = option(
        None, "where downloads go (default: $HESSIAN_PENALTY_CACHE, or ~/.cache/hessian_penalty)", str
    )
    device: str = option(None, "cpu, cuda or cuda:1 (default: a GPU if there is one)", str)


def from_options(chosen):
    """Return the FrozenGenerator that the flags of GeneratorOptions ask for, downloading it if they say so."""
    from biggan.frozen import pick_device
    from biggan.parallel import rank

    if chosen.download is None and chosen.download_url is not None:
        raise OptionError("--download_url: of which weights? say --download NAME too")
    path, device = chosen.G_path, pick_device(chosen.device)
    if chosen.download is not None:
        if path is not None and full_name(path) != full_name(chosen.download):
            raise OptionError(f"--G_path {path} and --download {chosen.download}: two generators; give one of them")
        path = download(chosen.download, chosen.cache_dir, chosen.download_url)
    elif path is None and rank() == 0:
        print(f"generator: the bundled {DEFAULT} (for ImageNet: --download 138k, or biggan-deep-128, -256, -512)")
    return load_generator(path, device, chosen.cache_dir)


def load_generator(path=None, device="cpu", cache_dir=None):
    """Return the FrozenGenerator that `path` (as --G_path describes it; None: the bundled one) stands for.

    Raises SnapshotError, or another UserError, with one line that names it.
    """
    if path is None and DEFAULT not in bundled_generators():
        raise SnapshotError(f"{DEFAULT}, the bundled generator, is not in {BUNDLED_DIR}; give --G_path or --download")
    path = DEFAULT if path is None else os.fspath(path)
    if path in bundled_generators():
        return _load_file(bundled_generators()[path], device)
    if os.path.isdir(path):
        return _load_folder(path, device)
    if os.path.isfile(path):
        return _load_file(path, device)
    if full_name(path) in DOWNLOADS:
        return _load_folder(_downloaded(full_name(path), cache_dir), device)
    if re.match(r"^[\w.]+:[\w.]+$", path):
        return _load_factory(path, device)
    if re.match(r"^[\w.-]+/[\w.-]+$", path) and not path.endswith((".pth", ".pt", ".bin", ".zip", ".safetensors")):
        return _load_hub(path, device)
    bundled = ", ".join(bundled_generators()) or "none"
    raise SnapshotError(f"{path}: no such file or folder, nor a bundled generator ({bundled}), nor module:factory")


def bundled_generators():
    """Return {name: path} of the generators that ship with the project."""
    paths = sorted(glob.glob(os.path.join(glob.escape(BUNDLED_DIR), "*.safetensors")))
    paths = [path for path in paths if not path.endswith("-regressor.safetensors")]
    return {os.path.splitext(os.path.basename(path))[0]: path for path in paths}


def files_beside(path=None):
    """Return (a regressor's path or None, [paths of direction files]): what lies beside a generator, named after it.

    path    as for `load_generator`. Of NAME.safetensors they are NAME-regressor.safetensors and NAME-*.pt.
    """
    path = DEFAULT if path is None else os.fspath(path)
    stem = os.path.splitext(bundled_generators().get(path, path))[0]
    regressor = stem + "-regressor.safetensors"
    return regressor if os.path.isfile(regressor) else None, sorted(glob.glob(glob.escape(stem) + "-*.pt"))


def save_generator(path, generator, metadata=None):
    """Write a biggan.biggan.Generator as safetensors, atomically.

    metadata   a JSON value, {name: value}: what else there is to say; its class_names are the names of the classes
    """
    record = dict(
        metadata or {},
        kind=KIND,
        format_version=FORMAT_VERSION,
        package_version=__version__,
        spec=dataclasses.asdict(generator.spec),
    )
    save_tensors(path, {name: tensor.cpu().numpy() for name, tensor in generator.state_dict().items()}, record)


# ----------------------------------------------------------------------------------------------------------------------
# Files and folders


def _load_folder(path, device):
    return _load_file(_weights_in(path), device, os.path.basename(os.path.abspath(path)))


def _weights_in(folder):
    """The path of the one file of weights in a folder."""
    names = sorted(os.listdir(folder))
    found = [name for name in GENERATOR_FILES if name in names] or [name for name in names if name.endswith(".pth")]
    if not found:
        raise SnapshotError(f"{folder}: no weights there ({', '.join(GENERATOR_FILES)}, or one .pth file)")
    if len(found) > 1 and found[0] not in GENERATOR_FILES:
        raise SnapshotError(f"{folder}: several files there ({', '.join(found)}); name one of them")
    return os.path.join(folder, found[0])


def _load_file(path, device, name=None):
    """name: of the generator (default: the file's)"""
    name = os.path.splitext(os.path.basename(path))[0] if name is None else name
    if path.endswith(".safetensors"):
        state, metadata = _read_safetensors(path)
        if metadata.get("kind") == "progan-snapshot":
            from biggan import progan

            return _freeze(progan.load(path), name, device)
        if metadata.get("kind") == KIND and metadata.get("format_version", 0) > FORMAT_VERSION:
            raise SnapshotError(f"{path}: written by a newer version of this project; update to read it")
        module = build(state, path, _config_beside(path))
        return _freeze(module, name, device, metadata.get("class_names"), metadata)
    if _is_archive(path):
        with tempfile.TemporaryDirectory() as scratch:
            scratch = os.path.realpath(scratch)
            try:
                return _load_file(extract_zip(path, scratch, only=[_weights_entry(path)])[0], device, name)
            except SnapshotError as problem:
                raise SnapshotError(str(problem).replace(scratch, path)) from None
    return _freeze(build(load_pth(path, SnapshotError), path, _config_beside(path)), name, device)


def _freeze(module, name, device, class_names=None, metadata=None):
    from biggan.frozen import FrozenGenerator

    return FrozenGenerator(module, name, device, class_names, metadata)


def _config_beside(path):
    """The config.json in a file's folder, {}: none."""
    config = os.path.join(os.path.dirname(os.path.abspath(path)), "config.json")
    values = read_json(config, SnapshotError) if os.path.isfile(config) else {}
    return values if isinstance(values, dict) else {}


def _read_safetensors(path):
    """({name: tensor}, our metadata or {}) of a safetensors file, whoever wrote it."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            state = {name: stream.get_tensor(name) for name in stream.keys()}
            metadata = json.loads((stream.metadata() or {}).get("json", "{}"))
    except (safetensors.SafetensorError, ValueError) as problem:
        raise SnapshotError(f"{path}: not a readable safetensors file ({problem})") from None
    return state, metadata if isinstance(metadata, dict) else {}


def _is_archive(path):
    """Whether the file is a zip archive of files, rather than the zip that torch.save writes."""
    return zipfile.is_zipfile(path) and not any(name.endswith("/data.pkl") for name in _entries(path))


def _weights_entry(path):
    """The name of the generator's weights in an archive."""
    names = _entries(path)
    known = [name for file in GENERATOR_FILES for name in names if os.path.basename(name) == file]
    found = known[:1] or [name for name in names if name.endswith(".pth")]
    if len(found) != 1:
        raise SnapshotError(f"{path}: an archive with {len(found) or 'no'} files of weights; unpack it and name one")
    return found[0]


def _entries(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as problem:
        raise SnapshotError(f"{path}: not a readable zip archive ({problem}); fetch it again") from None


# ----------------------------------------------------------------------------------------------------------------------
# From a state dict to a network


def build(state, where, config=None):
    """Return the generator, a module in float32, that a state dict belongs to. Raises SnapshotError.

    state    {name: tensor}, or whatever else a file held      config   the weights' config.json, if they have one
    where    the file, for messages
    """
    from biggan import biggan, biggan_deep

    if not _is_state_dict(state):
        raise SnapshotError(f"{where}: not the weights of a generator; it looks like {looks_like(state)}")
    state = {re.sub(r"^module\.", "", name): tensor for name, tensor in state.items()}  # of nn.DataParallel
    if "generator.gen_z.weight_orig" in state:
        network, find_spec = biggan_deep.Generator, lambda: biggan_deep.deep_spec(state, config)
    elif "shared.weight" in state and "linear.weight" in state:
        network, find_spec = biggan.Generator, lambda: biggan.generator_spec(state)
    else:
        raise SnapshotError(f"{where}: not the weights of a generator; it looks like {looks_like(state)}")
    try:
        spec = find_spec()
        module = network(spec)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as problem:  # the last: absurdly large
        raise SnapshotError(f"{where}: not a generator that is known here ({problem})") from None
    return _fill(module, state, where)


def _is_state_dict(content):
    import torch

    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in content.items())
    )


def _fill(module, state, where):
    """Load `state` into a module, or say which tensor does not fit first."""
    kind = f"a {type(module).__module__.split('.')[-1]} generator of {module.spec.resolution} px"
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise SnapshotError(f"{where}: looks like {kind}, but has no tensor {name}")
        if state[name].shape != tensor.shape:
            found, needed = list(state[name].shape), list(tensor.shape)
            raise SnapshotError(f"{where}: looks like {kind}, but {name} has shape {found} where {needed} belongs")
        if not state[name].is_floating_point():
            raise SnapshotError(f"{where}: looks like {kind}, but {name} holds {state[name].dtype} numbers")
    strays = [name for name in state if name not in expected]
    if strays:
        raise SnapshotError(f"{where}: looks like {kind}, but has a tensor {strays[0]} that such a network has not")
    module.load_state_dict(state, strict=True)
    return module


def looks_like(content):
    """Say what the content of a file seems to be that is no generator."""
    import torch

    if torch.is_tensor(content):
        return f"directions, a tensor {list(content.shape)} (give it to --load_A)"
    if not isinstance(content, dict) or not any(isinstance(name, str) for name in content):
        return f"a {type(content).__name__}"
    names = [name for name in content if isinstance(name, str)]
    if {"state", "param_groups"} <= set(names):
        return "an optimiser's state"
    if "embed.weight" in names and "linear.weight" in names:
        return "a BigGAN discriminator"
    if any(name.startswith(("G/", "D/", "Gs/")) for name in names):
        return "a state of this project's ProGAN (give a network-snapshot-*.safetensors)"
    if any(name.startswith("factor0") for name in names):
        return "a factor regressor"
    if any("mapping." in name or "style." in name for name in names):
        return "a StyleGAN (write a factory for it: module:factory)"
    nested = [name for name in names if isinstance(content[name], dict)]
    if nested:
        return f"a checkpoint of several things ({', '.join(nested[:4])}); save the generator's state_dict() alone"
    if not _is_state_dict(content):
        return f"a training record ({', '.join(names[:4])})"
    return f"another network, whose first tensor is {names[0]} {list(content[names[0]].shape)}"


# ----------------------------------------------------------------------------------------------------------------------
# A function of the user's


def _load_factory(path, device):
    """The generator that `package.module:factory` returns; modules are also looked for in the working directory."""
    module_name, attribute = path.split(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        factory = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (Exception, SystemExit) as problem:  # it is the user's code, and may raise anything
        raise SnapshotError(f"--G_path {path}: cannot import it ({_describe(problem)})") from problem
    if not callable(factory):
        raise SnapshotError(
            f"--G_path {path}: is of type {type(factory).__name__}, not a function that makes a generator"
        )
    try:
        made = factory()
    except UserError:
        raise
    except (Exception, SystemExit) as problem:
        raise SnapshotError(f"--G_path {path}: calling it failed ({_describe(problem)})") from problem
    name = re.sub(r"\W+", "_", path.replace(":factory", ""))
    try:
        return _freeze(made, name, device, getattr(made, "class_names", None))
    except SnapshotError as problem:
        raise SnapshotError(str(problem).replace(name, f"--G_path {path}", 1)) from problem.__cause__


def _describe(problem):
    return f"{type(problem).__name__}: {problem}"


# ----------------------------------------------------------------------------------------------------------------------
# The web


def full_name(name):
    """The name in DOWNLOADS that a user's shorter one stands for."""
    return SHORT_NAMES.get(name, name)


def cache_folder(cache_dir=None):
    default = os.path.join(os.path.expanduser("~"), ".cache", "hessian_penalty")
    return cache_dir or os.environ.get("HESSIAN_PENALTY_CACHE") or default


def download(name, cache_dir=None, url=None):
    """Fetch the weights `name` of DOWNLOADS, unless they are there, and return the folder that holds them."""
    name = full_name(name)
    address, file_name = DOWNLOADS[name]
    folder = os.path.join(cache_folder(cache_dir), name)
    with _lock(f"{folder}.lock"):
        if not _has_weights(folder):
            try:
                file = fetch(url or address, os.path.join(folder, file_name))
            except UserError as problem:
                advice = (
                    "" if url else "; another address: --download_url, or fetch it elsewhere and give --G_path FILE"
                )
                raise UserError(f"{problem}{advice}") from None
            if file.endswith(".zip"):
                _unpack(file, folder, url or address)
    return folder


def _unpack(file, folder, address):
    """Leave of a downloaded archive only the generator's weights in it, in `folder` itself."""
    if not zipfile.is_zipfile(file):
        size = os.path.getsize(file)
        os.remove(file)
        os.remove(f"{file}.sha256")
        raise SnapshotError(f"{address}: what came, {size} bytes, is no zip archive; nothing was kept")
    if not _is_archive(file):  # another address may have the weights as they are
        os.replace(file, os.path.join(folder, "G_ema.pth"))
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        weights = extract_zip(file, scratch, only=[_weights_entry(file)])[0]
        os.replace(weights, os.path.join(folder, os.path.basename(weights)))
    os.remove(file)


def _downloaded(name, cache_dir):
    folder = os.path.join(cache_folder(cache_dir), name)
    if not _has_weights(folder):
        raise SnapshotError(f"{name}: not downloaded yet; say --download {name}")
    return folder


def _has_weights(folder):
    return any(os.path.isfile(os.path.join(folder, name)) for name in GENERATOR_FILES)


@contextlib.contextmanager
def _lock(path):
    """Let one process at a time in: those of torchrun would otherwise fetch the same file together."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _load_hub(repository, device):
    """A generator in a repository of the Hugging Face hub ($HF_ENDPOINT), or in the hub's cache on this machine."""
    online = _hub_answers()
    _from_hub(repository, "config.json", online)  # it lands beside the weights
    for name in HUB_FILES:
        path = _from_hub(repository, name, online)
        if path is not None:
            return _load_file(path, device, repository.replace("/", "--"))
    if online:
        raise SnapshotError(f"{repository}: a Hugging Face repository without {', '.join(HUB_FILES)}")
    raise SnapshotError(
        f"{repository}: no such file, nor in the cache of Hugging Face repositories; and its hub cannot be reached"
    )


def _hub_answers():
    """Whether the hub can be reached: asked once, as its own client tries for half a minute, and for each file."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    return True


def _from_hub(repository, name, online):
    """The path of a repository's file; None where it has no such file, or, not online, where it is not in the cache."""
    import huggingface_hub
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return huggingface_hub.hf_hub_download(repository, name, local_files_only=not online)
    except LocalEntryNotFoundError:
        if not online:
            return None
        raise SnapshotError(f"{repository}: the connection to Hugging Face broke off; try again") from None
    except EntryNotFoundError:
        return None
    except RepositoryNotFoundError:
        raise SnapshotError(
            f"{repository}: no such file, nor a public repository on Hugging Face (a private one needs $HF_TOKEN)"
        ) from None
    except (OSError, ValueError) as problem:
        raise SnapshotError(f"{repository}: cannot fetch {name} from Hugging Face ({problem})") from None
