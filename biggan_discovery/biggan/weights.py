"""Generators, wherever they are: bundled, in files of several formats, downloaded, or made by a function of the user's.

    G = load_generator("clevr_simple_32")                # a FrozenGenerator
    G = load_generator("path/to/G_ema.pth", "cuda")
    G = load_generator("my_package.models:make_generator")

A name is resolved to a file (biggan.sources), the file is read into tensors, the network that these belong to is found
(biggan.state_dicts), built, and frozen (biggan.frozen). Nothing in a file is executed; a factory is your code.
"""

import dataclasses
import importlib
import json
import os
import sys
import tempfile

from biggan import sources
from experiment_utils import __version__
from experiment_utils.download import extract_zip
from experiment_utils.errors import OptionError, SnapshotError, UserError, describe
from experiment_utils.files import read_json, save_tensors
from experiment_utils.inert_pickle import load_pth
from experiment_utils.options import interval, option

FORMAT_VERSION = 1
KIND = "biggan-generator"


@dataclasses.dataclass
class GeneratorOptions:
    """The flags that say which generator, and where: shared by all commands."""

    G_path: str = option(
        None,
        "the generator: a bundled name, a folder, .pth, .zip or .safetensors file, a name to --download, a Hugging "
        f"Face repository (owner/name), or module:factory (default: the bundled {sources.DEFAULT})",
        str,
    )
    download: str = option(
        None, "fetch ImageNet weights once, and use them", str, choices=(*sources.SHORT_NAMES, *sources.DOWNLOADS)
    )  # fmt: skip
    download_url: str = option(None, "address to --download from instead of the built-in one", str)
    cache_dir: str = option(
        None, "where downloads go (default: $HESSIAN_PENALTY_CACHE, or ~/.cache/hessian_penalty)", str
    )
    image_range: list = option(
        None,
        "what is black and what is white in the generator's images (default: -1 1; 0 1 or 0 255 if 64 images say so)",
        float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        check=interval,
    )
    device: str = option(None, "cpu, cuda or cuda:1 (default: a GPU if there is one)", str)


def from_options(chosen):
    """Return the FrozenGenerator that the flags of GeneratorOptions ask for, downloading it if they say so.

    Prints what the user should know of it: which one it is where none was named, and what was inferred.
    """
    from biggan.frozen import pick_device
    from biggan.parallel import rank

    if chosen.download is None and chosen.download_url is not None:
        raise OptionError("--download_url: of which weights? say --download NAME too")
    path, device = chosen.G_path, pick_device(chosen.device)
    if chosen.download is not None:
        if path is not None and sources.full_name(path) != sources.full_name(chosen.download):
            raise OptionError(f"--G_path {path} and --download {chosen.download}: two generators; give one of them")
        path = sources.download(chosen.download, chosen.cache_dir, chosen.download_url)
    elif path is None and rank() == 0:
        name = sources.DEFAULT
        print(f"generator: the bundled {name} (for ImageNet: --download 138k, or biggan-deep-128, -256, -512)")
    G = load_generator(path, device, chosen.cache_dir, chosen.image_range)
    for remark in G.remarks if rank() == 0 else []:
        print(remark)
    return G


def load_generator(path=None, device="cpu", cache_dir=None, image_range=None):
    """Return the FrozenGenerator that `path` (as --G_path describes it; None: the bundled one) stands for.

    image_range   (low, high): its values of black and white; None: see biggan.frozen.FrozenGenerator
    Raises SnapshotError, or another UserError, with one line that names it.
    """
    from biggan.frozen import FrozenGenerator

    source = sources.resolve(path, cache_dir)
    if source.factory is not None:
        module = make(source.factory)
        try:
            return FrozenGenerator(module, source.name, device, getattr(module, "class_names", None), {}, image_range)
        except SnapshotError as problem:
            message = str(problem).replace(source.name, f"--G_path {source.factory}", 1)
            raise SnapshotError(message) from problem.__cause__
    content, metadata = read(source.path)
    module, remarks = build(content, metadata, source.path)
    G = FrozenGenerator(module, source.name, device, metadata.get("class_names"), metadata, image_range, known=True)
    G.remarks[:0] = remarks
    return G


def make(factory):
    """Return what `package.module:function` returns; modules are also looked for in the working directory."""
    module_name, attribute = factory.split(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        function = importlib.import_module(module_name)
        for part in attribute.split("."):
            function = getattr(function, part)
    except (Exception, SystemExit) as problem:  # it is the user's code, and may raise anything
        raise SnapshotError(f"--G_path {factory}: cannot import it ({describe(problem)})") from problem
    if not callable(function):
        kind = type(function).__name__
        raise SnapshotError(f"--G_path {factory}: is of type {kind}, not a function that makes a generator")
    try:
        return function()
    except UserError:
        raise
    except (Exception, SystemExit) as problem:
        raise SnapshotError(f"--G_path {factory}: calling it failed ({describe(problem)})") from problem


# ----------------------------------------------------------------------------------------------------------------------
# From a file to tensors


def read(path):
    """Return (content, metadata) of a file of weights: .safetensors, a .zip of one file, or what torch.save wrote.

    content    {name: tensor}, or whatever else the file holds
    metadata   of a .safetensors file that this project wrote; {}: there is none
    """
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    if sources.is_archive(path):
        with tempfile.TemporaryDirectory() as scratch:
            scratch = os.path.realpath(scratch)
            try:
                return read(extract_zip(path, scratch, only=[sources.weights_entry(path)])[0])
            except SnapshotError as problem:
                raise SnapshotError(str(problem).replace(scratch, path)) from None
    return load_pth(path, SnapshotError), {}


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


# ----------------------------------------------------------------------------------------------------------------------
# From tensors to a network


def build(content, metadata, where):
    """Return (module, [lines for the user]): the generator that a file's content belongs to. Raises SnapshotError.

    where   the file, for messages; a config.json beside it is read where the network needs one
    """
    from biggan import biggan, biggan_deep, progan, state_dicts

    kind = metadata.get("kind")
    if kind == progan.KIND:
        return progan.from_snapshot(content, metadata, where), []
    if kind == KIND and metadata.get("format_version", 0) > FORMAT_VERSION:
        raise SnapshotError(f"{where}: written by a newer version of this project; update to read it")
    found = state_dicts.find_weights(content, where)
    try:
        if found.network == "biggan":
            module = biggan.Generator(biggan.generator_spec(found.state))
        else:
            module = biggan_deep.Generator(biggan_deep.deep_spec(found.state, _config_beside(where)))
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as problem:  # the last: absurdly large
        raise SnapshotError(f"{where}: not a generator that is known here ({problem})") from None
    if not found.beside:
        return _fill(module, found.state, where), []
    chosen = f"the generator is {found.place} (beside it: {found.beside})"
    return _fill(module, found.state, f"{where}: {chosen}"), [f"{where}: {chosen}"]


def _config_beside(path):
    """The config.json in a file's folder, {}: none."""
    config = os.path.join(os.path.dirname(os.path.abspath(path)), "config.json")
    values = read_json(config, SnapshotError) if os.path.isfile(config) else {}
    return values if isinstance(values, dict) else {}


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


# ----------------------------------------------------------------------------------------------------------------------
# Files of our own


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
