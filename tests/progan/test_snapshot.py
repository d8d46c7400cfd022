"""Snapshots and training states: what is saved is what is loaded, and nothing else is accepted."""

import json
import os

import numpy as np
import pytest
from progan_helpers import random_networks

from experiment_utils.errors import SnapshotError
from experiment_utils.files import load_tensors, save_tensors
from progan.networks import NetworkSpec
from progan.snapshot import (
    Snapshot,
    find_snapshot,
    list_snapshots,
    load_snapshot,
    load_state,
    prune,
    save_snapshot,
    save_state,
    snapshot_path,
)

SPEC = NetworkSpec(resolution=8, channels=1, nz=3, fmap_base=8, infogan_nz=1)
OPTIONS = {"flags": {"nz": 3, "lr": 0.001}, "loss": {"hp_lambda": 0.0}}


def save(directory, images_shown, state_name=None, seed=0):
    path = snapshot_path(str(directory), images_shown)
    save_snapshot(path, Snapshot(SPEC, random_networks(SPEC, seed), 0.25, images_shown, OPTIONS, state_name))
    return path


def test_round_trip(tmp_path):
    path = save(tmp_path, 12345, "state")
    assert os.path.basename(path) == "network-snapshot-000012.safetensors"
    snapshot = load_snapshot(path)
    assert (snapshot.spec, snapshot.lod, snapshot.images_shown) == (SPEC, 0.25, 12345)
    assert (snapshot.options, snapshot.state_name, snapshot.kimg) == (OPTIONS, "state", 12.345)
    for net, weights in random_networks(SPEC).items():
        assert set(snapshot.networks[net]) == set(weights)
        for name, value in weights.items():
            assert snapshot.networks[net][name].dtype == np.float32
            np.testing.assert_array_equal(snapshot.networks[net][name], value)


def test_a_training_state_keeps_every_bit(tmp_path):
    tensors = {"scalar": np.float32(0.1), "v": np.random.RandomState(0).standard_normal([3, 4]).astype(np.float32)}
    counters = {"sums": {"loss/G": [0.1 + 0.2, 3]}, "step": 7, "lod": 1 / 3}
    name = save_state(str(tmp_path), 400, tensors, counters)
    loaded, loaded_counters = load_state(str(tmp_path), name)
    assert name == "training-state-000000400.safetensors" and loaded_counters == counters
    assert set(loaded) == set(tensors)
    for key, value in tensors.items():
        assert loaded[key].shape == value.shape and loaded[key].dtype == value.dtype
        np.testing.assert_array_equal(loaded[key], value)


def refusal(path):
    with pytest.raises(SnapshotError) as caught:
        load_snapshot(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_broken_files_are_refused(tmp_path):
    path = save(tmp_path, 1000)
    assert "no such file" in refusal(tmp_path / "none.safetensors")
    assert "no such file" in refusal(tmp_path)
    with open(path, "rb") as stream:
        whole = stream.read()
    for length in (0, 100, len(whole) - 1):
        with open(path, "wb") as stream:
            stream.write(whole[:length])
        assert "not a readable safetensors file" in refusal(path)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda tensors, _: tensors.pop("Gs/4x4/Conv/bias"), "no weight Gs/4x4/Conv/bias"),
        (lambda tensors, _: tensors.update({"D/4x4/Dense1/bias": np.float32([0, 0])}), "has shape [2], expected [1]"),
        (lambda _, metadata: metadata.update(kind="progan-state"), "holds progan-state, not a progan-snapshot"),
        (lambda _, metadata: metadata.pop("kind"), "holds something else"),
        (lambda _, metadata: metadata.update(format_version=99), "newer version"),
        (lambda _, metadata: metadata.pop("lod"), "incomplete snapshot metadata ('lod')"),
        (lambda _, metadata: metadata["spec"].update(style=1), "incomplete snapshot metadata"),
        (lambda _, metadata: metadata["spec"].update(resolution=16), "no weight G/16x16/Conv0_up/weight"),
    ],
)
def test_files_that_do_not_hold_what_they_say_are_refused(tmp_path, change, said):
    path = save(tmp_path, 1000)
    tensors, metadata = load_tensors(path)
    change(tensors, metadata)
    save_tensors(path, tensors, metadata)
    assert said in refusal(path)


def test_finding_snapshots(tmp_path):
    with pytest.raises(SnapshotError, match="no network-snapshot"):
        find_snapshot(str(tmp_path))
    paths = {kimg: save(tmp_path, 1000 * kimg + 7) for kimg in (30, 4, 1000000)}
    (tmp_path / "network-snapshot-latest.safetensors").write_bytes(b"")
    (tmp_path / ".network-snapshot-000031.safetensors.x.part").write_bytes(b"")
    assert list(list_snapshots(str(tmp_path)).items()) == [(kimg, paths[kimg]) for kimg in (4, 30, 1000000)]
    assert find_snapshot(str(tmp_path)) == paths[1000000]
    assert find_snapshot(str(tmp_path), 30) == paths[30]
    with pytest.raises(SnapshotError, match=r"no snapshot at 5 kimg; there are 4, 30, 1000000"):
        find_snapshot(str(tmp_path), 5)


def test_pruning_leaves_every_snapshot_with_its_state(tmp_path):
    """...and takes what a killed process left: states that no snapshot names, and half-written files."""
    for kimg in (1, 2, 3):
        save(tmp_path, 1000 * kimg, save_state(str(tmp_path), 1000 * kimg, {}, {}))
    save_state(str(tmp_path), 4000, {}, {})  # killed before its snapshot
    (tmp_path / ".network-snapshot-000004.safetensors.abc.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_bytes(b"the user's")
    snapshots = {"network-snapshot-00000%d.safetensors" % kimg for kimg in (1, 2, 3)}
    states = ["training-state-00000%d000.safetensors" % kimg for kimg in (1, 2, 3)]

    prune(str(tmp_path), keep_states=0)
    assert set(os.listdir(str(tmp_path))) == snapshots | set(states) | {"notes.txt"}
    prune(str(tmp_path), keep_states=2)
    assert set(os.listdir(str(tmp_path))) == snapshots | set(states[1:]) | {"notes.txt"}


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = save(tmp_path, 1000)
    snapshot = load_snapshot(path)
    snapshot.networks["Gs"]["4x4/Conv/bias"][0] = np.nan
    save_snapshot(path, snapshot)
    with pytest.raises(SnapshotError, match=r"Gs/4x4/Conv/bias has entries that are not finite"):
        load_snapshot(path)


def test_a_broken_snapshot_does_not_stop_the_pruning_of_a_resumed_run(tmp_path):
    """...but no state goes: the one that the broken file names cannot be told from the others."""
    for kimg in (1, 2):
        save(tmp_path, 1000 * kimg, save_state(str(tmp_path), 1000 * kimg, {}, {}))
    with open(str(tmp_path / "network-snapshot-000001.safetensors"), "r+b") as stream:
        stream.truncate(100)
    (tmp_path / ".network-snapshot-000003.safetensors.abc.part").write_bytes(b"half")
    before = set(os.listdir(str(tmp_path)))
    prune(str(tmp_path), keep_states=1)
    assert before - set(os.listdir(str(tmp_path))) == {".network-snapshot-000003.safetensors.abc.part"}


def test_metadata_is_readable_json(tmp_path):
    """A reader of safetensors in any language finds out what it has before it."""
    from safetensors import safe_open

    with safe_open(save(tmp_path, 1000), framework="numpy") as stream:
        metadata = json.loads(stream.metadata()["json"])
        assert metadata["kind"] == "progan-snapshot" and metadata["spec"]["nz"] == 3
        assert "Gs/ToRGB_lod0/weight" in stream.keys()
