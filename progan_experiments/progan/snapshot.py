"""Snapshots: the networks, and beside them all that training needs to go on, as safetensors with JSON metadata.

The reference's own snapshots, pickles, are read as well (pickles.py).

A run directory holds network-snapshot-NNNNNN.safetensors (NNNNNN: kimg) with the weights of G, D and Gs (the averaged
G that is evaluated), and for each a training-state-MMMMMMMMM.safetensors (M: images shown) with the optimisers' slots
and the loop's counters. The state is written first and the snapshot names it, so that a snapshot, whenever the
machine stopped, is whole and has the state that belongs to it.
"""

import dataclasses
import glob
import os
import re

import numpy as np

from experiment_utils import __version__
from experiment_utils.errors import SnapshotError
from experiment_utils.files import load_metadata, load_tensors, save_tensors
from progan.networks import NetworkSpec, discriminator_shapes, generator_shapes
from progan.pickles import NETWORKS, is_pickle, read_pickle

FORMAT_VERSION = 1
PRETRAINED_DIR = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "pretrained_models")


@dataclasses.dataclass
class Snapshot:
    """The networks at one moment of training.

    spec          NetworkSpec: what decides the weights' shapes
    networks      {'G' | 'D' | 'Gs': {name: float32 array}}
    lod           level of detail that G had grown to
    images_shown  real images shown so far
    options       {name: value}: the options of the run
    state_name    file name of the training state that belongs to it, or None
    """

    spec: NetworkSpec
    networks: dict
    lod: float
    images_shown: int
    options: dict
    state_name: str = None

    @property
    def kimg(self):
        return self.images_shown / 1000


def network_shapes(spec):
    """Return {'G' | 'D' | 'Gs': {weight name: shape}}."""
    generator = generator_shapes(spec)
    return {"G": generator, "D": discriminator_shapes(spec), "Gs": generator}


def snapshot_path(directory, images_shown):
    return os.path.join(directory, f"network-snapshot-{images_shown // 1000:06d}.safetensors")


def save_snapshot(path, snapshot):
    """Write a Snapshot. Raises OSError where the disk refuses; an older file under that name then stays."""
    tensors = {f"{net}/{name}": array for net in NETWORKS for name, array in snapshot.networks[net].items()}
    metadata = {
        "kind": "progan-snapshot",
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "spec": dataclasses.asdict(snapshot.spec),
        "lod": snapshot.lod,
        "images_shown": snapshot.images_shown,
        "options": snapshot.options,
        "state_name": snapshot.state_name,
    }
    save_tensors(path, tensors, metadata)


def load_snapshot(path):
    """Read a Snapshot: a file that `save_snapshot` wrote, or one of the reference's network pickles.

    Of a pickle, `options` are empty: what the networks were trained with is not in the file. Raises SnapshotError where
    the file is missing, broken, or holds other networks.
    """
    if is_pickle(path):
        spec, networks, lod, images_shown = read_pickle(path)
        snapshot = Snapshot(spec, networks, lod, images_shown, options={})
    else:
        snapshot = _load_safetensors(path)
    for net, shapes in network_shapes(snapshot.spec).items():
        snapshot.networks[net] = _checked_weights(path, net, snapshot.networks[net], shapes)
    return snapshot


def _load_safetensors(path):
    tensors, metadata = _load(path, "progan-snapshot")
    try:
        return Snapshot(
            spec=NetworkSpec(**metadata["spec"]),
            networks={net: _below(f"{net}/", tensors) for net in NETWORKS},
            lod=metadata["lod"],
            images_shown=metadata["images_shown"],
            options=metadata["options"],
            state_name=metadata["state_name"],
        )
    except (KeyError, TypeError) as problem:
        raise SnapshotError(f"{path}: incomplete snapshot metadata ({problem})") from None


def _below(prefix, tensors):
    return {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}


def _checked_weights(path, net, weights, shapes):
    """Return `weights` in the order of `shapes`, if they are what a network of these shapes has."""
    for name, shape in shapes.items():
        if name not in weights:
            raise SnapshotError(f"{path}: no weight {net}/{name}; the file does not hold the networks it describes")
        if weights[name].shape != shape:
            found = list(weights[name].shape)
            raise SnapshotError(f"{path}: {net}/{name} has shape {found}, expected {list(shape)}")
        if not np.isfinite(weights[name]).all():
            raise SnapshotError(f"{path}: {net}/{name} has entries that are not finite; the model had broken down")
    strays = [name for name in weights if name not in shapes]
    if strays:
        raise SnapshotError(f"{path}: {net}/{strays[0]} is a weight that a ProGAN has not; it holds another network")
    return {name: weights[name] for name in shapes}


def save_state(directory, images_shown, tensors, counters):
    """Write a training state and return its file name.

    tensors   {name: array}: the optimisers' slots      counters  a JSON value: where the loop stands
    """
    name = f"training-state-{images_shown:09d}.safetensors"
    metadata = {"kind": "progan-state", "format_version": FORMAT_VERSION, "counters": counters}
    save_tensors(os.path.join(directory, name), tensors, metadata)
    return name


def load_state(directory, name):
    """Return (tensors, counters) of a training state."""
    tensors, metadata = _load(os.path.join(directory, name), "progan-state")
    return tensors, metadata["counters"]


def _load(path, kind):
    tensors, metadata = load_tensors(path, SnapshotError)
    return tensors, _checked(path, metadata, kind)


def _checked(path, metadata, kind):
    found = metadata.get("kind") if isinstance(metadata, dict) else None
    if found != kind:
        raise SnapshotError(f"{path}: holds {found or 'something else'}, not a {kind}")
    if metadata.get("format_version", 0) > FORMAT_VERSION:
        raise SnapshotError(f"{path}: written by a newer version of this project; update to read it")
    return metadata


# ----------------------------------------------------------------------------------------------------------------------
# Finding snapshots


def list_snapshots(directory):
    """Return {kimg: path} of a run directory's snapshots, in ascending order."""
    paths = glob.glob(os.path.join(glob.escape(directory), "network-snapshot-*.safetensors"))
    matches = ((re.search(r"network-snapshot-(\d+)\.safetensors$", path), path) for path in paths)
    return dict(sorted((int(match.group(1)), path) for match, path in matches if match))


def find_snapshot(directory, kimg="latest"):
    """Return the path of a run directory's snapshot: the one at `kimg`, or the 'latest'."""
    snapshots = list_snapshots(directory)
    if not snapshots:
        raise SnapshotError(f"{directory}: no network-snapshot-*.safetensors there")
    if kimg == "latest":
        return snapshots[max(snapshots)]
    if kimg not in snapshots:
        raise SnapshotError(f"{directory}: no snapshot at {kimg} kimg; there are {', '.join(map(str, snapshots))}")
    return snapshots[kimg]


def pretrained_models():
    """Return {name: path} of the snapshots that ship with the project."""
    paths = glob.glob(os.path.join(glob.escape(PRETRAINED_DIR), "*.safetensors"))
    return {os.path.splitext(os.path.basename(path))[0]: path for path in sorted(paths)}


def prune(directory, keep_states):
    """Remove states that no snapshot names, what a killed process left half-written, and all but the newest states.

    keep_states  how many of the newest snapshots keep their state; 0: all of them

    All states stay where a snapshot cannot be read: nobody can tell then which of them it names.
    """
    for path in glob.glob(os.path.join(glob.escape(directory), ".*.part")):
        os.remove(path)
    try:
        named = [name for name in map(_state_name, list_snapshots(directory).values()) if name]
    except SnapshotError:
        return
    kept = set(named[-keep_states:] if keep_states else named)
    for path in glob.glob(os.path.join(glob.escape(directory), "training-state-*.safetensors")):
        if os.path.basename(path) not in kept:
            os.remove(path)


def _state_name(path):
    return _checked(path, load_metadata(path, SnapshotError), "progan-snapshot")["state_name"]
