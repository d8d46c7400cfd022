"""Find a generator: among the bundled ones, in a file or folder, downloaded, on a hub, or made by a function.

    resolve("clevr_simple_32")                       # Source(name="clevr_simple_32", path="….safetensors")
    resolve("owner/repository")                      # Source(name="owner--repository", path="….bin"), fetched
    resolve("my_package.models:make_generator")      # Source(name="my_package_models_make_generator", factory="…")

Nothing is read here but names; biggan.weights reads.
"""

import contextlib
import dataclasses
import fcntl
import glob
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.request
import zipfile

from experiment_utils.download import extract_zip, fetch, google_drive
from experiment_utils.errors import SnapshotError, UserError

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


@dataclasses.dataclass(frozen=True)
class Source:
    """A generator that was found: a file with its weights, or the function that makes it.

    name      for messages and file names
    path      of the file; None: it is made by a function
    factory   "package.module:function"
    """

    name: str
    path: str = None
    factory: str = None


def resolve(path=None, cache_dir=None):
    """Return the Source that `path` (as --G_path describes it; None: the bundled one) stands for.

    A repository of the Hugging Face hub is fetched; nothing else is. Raises SnapshotError, one line that names `path`.
    """
    bundled = bundled_generators()
    if path is None and DEFAULT not in bundled:
        raise SnapshotError(f"{DEFAULT}, the bundled generator, is not in {BUNDLED_DIR}; give --G_path or --download")
    path = DEFAULT if path is None else os.fspath(path)
    if path in bundled:
        return Source(path, bundled[path])
    if os.path.isdir(path):
        return Source(os.path.basename(os.path.abspath(path)), _weights_in(path))
    if os.path.isfile(path):
        return Source(os.path.splitext(os.path.basename(path))[0], path)
    if full_name(path) in DOWNLOADS:
        return Source(full_name(path), _weights_in(_downloaded(full_name(path), cache_dir)))
    if re.match(r"^[\w.]+:[\w.]+$", path):
        return Source(re.sub(r"\W+", "_", path.replace(":factory", "")), factory=path)
    if re.match(r"^[\w.-]+/[\w.-]+$", path) and not path.endswith((".pth", ".pt", ".bin", ".zip", ".safetensors")):
        return Source(path.replace("/", "--"), _on_hub(path))
    known = ", ".join(bundled) or "none"
    raise SnapshotError(f"{path}: no such file or folder, nor a bundled generator ({known}), nor module:factory")


def bundled_generators():
    """Return {name: path} of the generators that ship with the project."""
    paths = sorted(glob.glob(os.path.join(glob.escape(BUNDLED_DIR), "*.safetensors")))
    paths = [path for path in paths if not path.endswith("-regressor.safetensors")]
    return {os.path.splitext(os.path.basename(path))[0]: path for path in paths}


def files_beside(path=None):
    """Return (a regressor's path or None, [paths of direction files]): what lies beside a generator, named after it.

    path    as for `resolve`. Of NAME.safetensors they are NAME-regressor.safetensors and NAME-*.pt.
    """
    path = DEFAULT if path is None else os.fspath(path)
    stem = os.path.splitext(bundled_generators().get(path, path))[0]
    regressor = stem + "-regressor.safetensors"
    return regressor if os.path.isfile(regressor) else None, sorted(glob.glob(glob.escape(stem) + "-*.pt"))


# ----------------------------------------------------------------------------------------------------------------------
# Folders and archives


def _weights_in(folder):
    """The path of the one file of weights in a folder."""
    names = sorted(os.listdir(folder))
    found = [name for name in GENERATOR_FILES if name in names] or [name for name in names if name.endswith(".pth")]
    if not found:
        raise SnapshotError(f"{folder}: no weights there ({', '.join(GENERATOR_FILES)}, or one .pth file)")
    if len(found) > 1 and found[0] not in GENERATOR_FILES:
        raise SnapshotError(f"{folder}: several files there ({', '.join(found)}); name one of them")
    return os.path.join(folder, found[0])


def is_archive(path):
    """Tell whether the file is a zip archive of files, rather than the zip that torch.save writes."""
    return zipfile.is_zipfile(path) and not any(name.endswith("/data.pkl") for name in _entries(path))


def weights_entry(path):
    """Return the name of the generator's weights in an archive. Raises SnapshotError unless there is one."""
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
# Downloads


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
    if not is_archive(file):  # another address may have the weights as they are
        os.replace(file, os.path.join(folder, "G_ema.pth"))
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        weights = extract_zip(file, scratch, only=[weights_entry(file)])[0]
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


# ----------------------------------------------------------------------------------------------------------------------
# The Hugging Face hub


def _on_hub(repository):
    """The path of the weights in a repository of the hub ($HF_ENDPOINT), or in the hub's cache on this machine."""
    online = _hub_answers()
    _from_hub(repository, "config.json", online)  # it lands beside the weights
    for name in HUB_FILES:
        path = _from_hub(repository, name, online)
        if path is not None:
            return path
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
