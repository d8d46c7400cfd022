"""The reference's network pickles, read without executing anything in them.

Such a file is the pickle of a tuple (G, D, Gs) of `Network` objects. Python's own unpickling would import whatever the
file names, and the objects would compile and run the source text that they carry. Here nothing is imported or run
(experiment_utils/inert_pickle.py): of each network its variables are taken, its networks are this project's own, and
whatever would make them other networks is refused.
"""

import os
import re

import numpy as np

from experiment_utils.errors import SnapshotError
from experiment_utils.inert_pickle import NUMPY, Global, InertPickleError, Record, inert_load
from progan import schedule
from progan.networks import NetworkSpec

NETWORKS = ("G", "D", "Gs")

# Arguments of the build functions that change what the networks compute, and their published values. The file names
# those that its run had set; fmap_base, fmap_max and the sizes are read off the shapes.
_PUBLISHED_ARGUMENTS = {
    "label_size": 0,
    "fmap_decay": 1.0,
    "normalize_latents": True,
    "use_wscale": True,
    "use_pixelnorm": True,
    "pixelnorm_epsilon": 1e-8,
    "use_leakyrelu": True,
    "mbstd_group_size": 4,
}


def is_pickle(path):
    """Return whether the file at `path` is a pickle (protocol 2 or later), by its content."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as stream:
        start = stream.read(9)
    return start[:1] == b"\x80" and start[8:] != b"{"  # safetensors: the header's length in 8 bytes, then its JSON


def read_pickle(path):
    """Return (spec, {'G' | 'D' | 'Gs': {name: float32 array}}, lod, images_shown) of a network pickle.

    The names are the file's own, which are ours. `lod` is that of Gs. How many images were shown is not in the file:
    the kimg in its name if it has the usual one, and at least what the published schedule needs to grow so far.
    Raises SnapshotError, one line, for any other file.
    """
    try:
        with open(path, "rb") as stream:
            content = inert_load(stream, allowed=NUMPY)
    except InertPickleError as problem:
        raise SnapshotError(f"{path}: {problem}") from None
    if not isinstance(content, tuple) or len(content) != len(NETWORKS) or not all(map(_is_network, content)):
        raise SnapshotError(
            f"{path}: a pickle of {_description(content)}, not of three networks (G, D, Gs); nothing in it was executed"
        )
    networks, arguments = {}, {}
    for name, record in zip(NETWORKS, content):
        networks[name] = _variables(path, name, record.state)
        arguments[name] = _mapping(record.state.get("static_kwargs"))
        _check_arguments(path, name, arguments[name])
    lods = {name: weights.pop("lod", None) for name, weights in networks.items()}
    spec = _spec(path, networks, arguments["G"])
    lod = _lod(path, spec, lods["G"] if lods["Gs"] is None else lods["Gs"])
    named = re.match(r"network-snapshot-(\d{1,9})\b", os.path.basename(path))
    kimg = max(float(named.group(1)) if named else 0.0, schedule.first_kimg(lod, spec.resolution))
    return spec, networks, lod, round(kimg * 1000)


# ----------------------------------------------------------------------------------------------------------------------
# What a pickle holds


def _is_network(value):
    """Whether a value stands for an object of the class Network (of dnnlib.tflib.network; older files: tfutil)."""
    return (
        isinstance(value, Record)
        and isinstance(value.function, Global)
        and value.function.name == "Network"
        and isinstance(value.state, dict)
    )


def _description(value):
    """What a value is, in words fit for one line of a message."""
    if isinstance(value, tuple) and value and not isinstance(value, Global):
        return f"{len(value)} values, the first {_description(value[0]) if type(value[0]) is not tuple else 'a tuple'}"
    if isinstance(value, Record):
        named = isinstance(value.function, Global)
        return f"a call of {ascii(str(value.function))[1:-1][:80] if named else 'a call'}"
    return f"a {type(value).__name__}"


def _mapping(value):
    """The entries of a dictionary, or of an object of one of its subclasses, whose keys are text."""
    entries = value.entries if isinstance(value, Record) else value.items() if isinstance(value, dict) else ()
    return {key: item for key, item in entries if isinstance(key, str)}


def _variables(path, net, state):
    """Return {name: float32 array} of a network's state."""
    pairs, arrays = state.get("variables"), {}
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise SnapshotError(f"{path}: the network {net} has no list of variables")
    for name, value in pairs:
        if not isinstance(name, str) or name in arrays or not re.match(r"[\w./-]{1,200}$", name):
            raise SnapshotError(f"{path}: the network {net} has a variable without a name of its own")
        if not isinstance(value, (np.ndarray, np.floating, float)) or np.asarray(value).dtype.kind != "f":
            raise SnapshotError(f"{path}: the variable {net}/{name} is no array of floating-point numbers")
        arrays[name] = np.asarray(value, np.float32, order="C")
    return arrays


def _check_arguments(path, net, arguments):
    for name, published in _PUBLISHED_ARGUMENTS.items():
        value = arguments.get(name, published)
        if not isinstance(value, (bool, int, float)) or value != published:
            value = value if isinstance(value, (bool, int, float)) else type(value).__name__
            raise SnapshotError(f"{path}: {net} was built with {name} = {value}; only {published} can be used here")


# ----------------------------------------------------------------------------------------------------------------------
# What its shapes tell


def _spec(path, networks, arguments):
    """Return the NetworkSpec of the variables' shapes. (Whether every one fits is for the caller to check.)"""

    def size(net, name, axis, rank):
        array = networks[net].get(name)
        if array is None:
            raise SnapshotError(f"{path}: {net} is not the network of a ProGAN: no {name}{_other_network(networks)}")
        if array.ndim != rank or not array.size:
            raise SnapshotError(f"{path}: {net}/{name} has shape {list(array.shape)}, expected {rank} dimensions")
        return array.shape[axis]

    nz = size("G", "4x4/Dense/weight", 0, rank=2)
    matches = (re.match(r"(\d{1,5})x\1/", name) for name in networks["G"])
    sizes = {int(match.group(1)) for match in matches if match}
    resolution = max(each for each in sizes if each >= 4 and each & (each - 1) == 0)
    widths = {4: size("G", "4x4/Conv/bias", 0, rank=1)}
    for each in NetworkSpec(resolution).resolutions():
        widths[each] = size("G", f"{each}x{each}/Conv1/bias", 0, rank=1)
    channels = size("G", "ToRGB_lod0/bias", 0, rank=1)
    has_q_head = any(name.startswith("4x4/Q_Encoder/") for name in networks["D"])
    infogan_nz = size("D", "4x4/Q_Encoder/Dense1/bias", 0, rank=1) if has_q_head else 0
    fmap_base, fmap_max = _feature_maps(path, widths, arguments)
    return NetworkSpec(resolution, channels, nz, fmap_base, fmap_max, infogan_nz)


def _feature_maps(path, widths, arguments):
    """Return (fmap_base, fmap_max) that give the `widths` {resolution: maps}: those named in the file, if they do."""
    named = arguments.get("fmap_base", NetworkSpec.fmap_base), arguments.get("fmap_max", NetworkSpec.fmap_max)
    # The least base that reaches every width (a width of 1 needs none), below a cap that is the largest width.
    least = max([width << (schedule.log2(res) - 1) for res, width in widths.items() if width > 1] or [1])
    for base, cap in (named, (least, widths[4])):
        if type(base) is int and type(cap) is int and 0 < base < 2**31 and 0 < cap:
            spec = NetworkSpec(max(widths), fmap_base=base, fmap_max=cap)
            if all(spec.width(res) == width for res, width in widths.items()):
                return base, cap
    found = ", ".join(f"{width} at {res} px" for res, width in widths.items())
    raise SnapshotError(f"{path}: no --fmap_base and --fmap_max give as many feature maps as G has ({found})")


def _other_network(networks):
    names = [name for weights in networks.values() for name in weights]
    if any(word in name for name in names for word in ("mapping", "synthesis", "StyleMod", "mod_weight", "Const")):
        return " (it looks like a StyleGAN)"
    return ""


def _lod(path, spec, value):
    most = schedule.log2(spec.resolution) - 2
    if value is None or value.size != 1 or not 0 <= float(value.ravel()[0]) <= most:
        found = "no variable lod" if value is None else f"lod = {value.ravel().tolist()[:4]}"
        raise SnapshotError(f"{path}: {found}; at {spec.resolution} px it lies between 0 and {most}")
    return float(value.ravel()[0])
