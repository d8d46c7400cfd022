"""Which workers there are: TF_CONFIG, flags, minibatches that can be dealt out, GPUs."""

import json
import types

import numpy as np
import pytest

from experiment_utils.errors import OptionError
from progan import cluster, schedule
from progan.cluster import Cluster, Plan


def config(workers=("a:1", "b:2"), index=0, kind="worker", **jobs):
    return json.dumps({"cluster": dict(jobs, worker=list(workers)), "task": {"type": kind, "index": index}})


def test_tf_config():
    found = cluster.from_tf_config(config(["a:2222", "10.0.0.2:2223", "a:2224"], 2))
    assert found == Cluster(("a:2222", "10.0.0.2:2223", "a:2224"), 2) and len(found) == 3
    assert found.host_port(1) == ("10.0.0.2", 2223) and found.name(1) == "worker 1 (10.0.0.2:2223)"
    assert found.neighbours() == [0, 2]


@pytest.mark.parametrize("text", [None, "", " ", "{}", config(["a:1"])])
def test_a_process_alone(text):
    assert cluster.from_tf_config(text) is None


@pytest.mark.parametrize(
    "text, said",
    [
        ("{'cluster'}", "TF_CONFIG: not valid JSON"),
        ("[]", "TF_CONFIG: no cluster; it should look like"),
        ('{"task": {"type": "worker", "index": 0}}', "TF_CONFIG: no cluster; it should look like"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "TF_CONFIG: no task; it should look like"),
        ('{"cluster": ["a:1", "b:1"], "task": {}}', 'TF_CONFIG: cluster is ["a:1", "b:1"]; it should look like'),
        ('{"cluster": {}, "task": {"type": "worker", "index": 0}}', "TF_CONFIG: no cluster.worker"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}', "TF_CONFIG: no task.index"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 0}}', "TF_CONFIG: no task.type"),
        (config(index="0"), 'TF_CONFIG: task.index is "0"; it should look like'),
        (config(index=True), "TF_CONFIG: task.index is true; it should look like"),
        (config(index=2), "TF_CONFIG: task index 2, but the cluster has workers 0 to 1"),
        (config(index=-1), "TF_CONFIG: task index -1, but the cluster has workers 0 to 1"),
        (config([], 0), "TF_CONFIG: task index 0, but the cluster has no worker"),
        (config(kind="ps"), "TF_CONFIG: task type ps; there are only tasks of type worker"),
        (config(chief=["c:1"]), "TF_CONFIG: the cluster has the job chief; list every process under worker"),
        (config(["a", "b:1"]), 'TF_CONFIG: worker "a" is not HOST:PORT'),
        (config(["[::1]:1", "b:1"]), 'TF_CONFIG: worker "[::1]:1" is not HOST:PORT'),
        (config(["a..b:1", "b:1"]), 'TF_CONFIG: worker "a..b:1" is not HOST:PORT'),
        (config(["a:1\n", "b:1"]), r'TF_CONFIG: worker "a:1\n" is not HOST:PORT'),
        (config([64 * "a" + ":1", "b:1"]), 'TF_CONFIG: worker "aaaa'),
        (config([7, "b:1"]), "TF_CONFIG: worker 7 is not HOST:PORT"),
        (config(["a:70000", "b:1"]), "TF_CONFIG: worker a:70000: ports go from 1 to 65535"),
        (config(["a:1", "a:1"]), "TF_CONFIG: two workers at a:1; give each a port of its own"),
    ],
)
def test_a_tf_config_that_cannot_be_used(text, said):
    with pytest.raises(OptionError) as refusal:
        cluster.from_tf_config(text)
    assert str(refusal.value).startswith(said) and "\n" not in str(refusal.value)


def plan(num_gpus=None, num_cpu_workers=0, given=(), supervised=False, **environ):
    flags = types.SimpleNamespace(num_gpus=num_gpus, num_cpu_workers=num_cpu_workers)
    return cluster.plan(flags, set(given), environ, supervised)


TWO = Cluster(("a:1", "b:2"), 0)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, Plan(1, False, None, None)),
        ({"num_gpus": 0}, Plan(1, False, None, 0)),
        ({"num_gpus": 1}, Plan(1, False, None, 1)),
        ({"num_gpus": 4}, Plan(4, True, None, 1)),
        ({"num_cpu_workers": 3}, Plan(3, True, None, 0)),
        ({"num_cpu_workers": 1}, Plan(1, False, None, 0)),
        ({"TF_CONFIG": config()}, Plan(2, False, TWO, None)),
        ({"num_gpus": 0, "TF_CONFIG": config()}, Plan(2, False, TWO, 0)),
        ({"num_gpus": 1, "given": ["num_gpus"], "TF_CONFIG": config()}, Plan(2, False, TWO, 1)),
        # A worker that the command itself has started, with the flags that it was given.
        ({"num_gpus": 2, "given": ["num_gpus"], "supervised": True, "TF_CONFIG": config()}, Plan(2, False, TWO, 1)),
        (
            {"num_cpu_workers": 2, "given": ["num_cpu_workers"], "supervised": True, "TF_CONFIG": config()},
            Plan(2, False, TWO, 0),
        ),
        # What a resumed run was started with yields.
        ({"num_gpus": 4, "TF_CONFIG": config()}, Plan(2, False, TWO, 1)),
        ({"num_cpu_workers": 4, "num_gpus": 2, "given": ["num_gpus"]}, Plan(2, True, None, 1)),
        ({"num_cpu_workers": 4, "num_gpus": 2, "given": ["num_cpu_workers"]}, Plan(4, True, None, 0)),
        # One worker is a process like any other.
        ({"num_gpus": 0, "TF_CONFIG": config(["a:1"])}, Plan(1, False, None, 0)),
    ],
)
def test_what_a_process_is_to_do(arguments, expected):
    assert plan(**arguments) == expected


@pytest.mark.parametrize("flag, value", [("num_gpus", 4), ("num_cpu_workers", 2)])
@pytest.mark.parametrize("workers", [["a:1", "b:2"], ["a:1"]])
def test_tf_config_beside_a_flag_that_starts_workers(flag, value, workers):
    with pytest.raises(OptionError, match=f"--{flag} {value} starts workers on this host, TF_CONFIG says"):
        plan(**{flag: value, "given": [flag], "TF_CONFIG": config(workers)})


def test_gpus_and_cpu_workers_at_once():
    with pytest.raises(OptionError, match="--num_gpus 2 and --num_cpu_workers 2: use one of the two"):
        plan(num_gpus=2, num_cpu_workers=2, given=["num_gpus", "num_cpu_workers"])


# ----------------------------------------------------------------------------------------------------------------------
# Minibatches


def groups(size):
    """{sample: its group}, as sets of samples that share their minibatch standard deviation (networks.py)."""
    count = max(size // 4, 1)
    return {frozenset(range(i, size, count)) for i in range(count)}


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 12, 16, 24, 36, 48, 96])
def test_a_minibatch_is_dealt_out_exactly_where_its_groups_stay_whole(workers, size):
    parts = [np.arange(size)[i::workers] for i in range(workers)]
    of_parts = {frozenset(part[sorted(group)]) for part in parts if len(part) for group in groups(len(part))}
    fits = of_parts == groups(size) and len({len(part) for part in parts}) == 1
    try:
        cluster.check_minibatches(workers, {4: size}, 4, 4)
    except OptionError as refusal:
        assert not fits
        assert f"--minibatch {size} (at 4 px): " in str(refusal) and f"among {workers} workers" in str(refusal)
        suggested = int(str(refusal).split(", ")[-1].split(" ")[0])
        assert suggested >= size and suggested - size < 4 * workers
        cluster.check_minibatches(workers, {4: suggested}, 4, 4)
    else:
        assert fits


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 7, 8, 16, 64])
def test_the_published_minibatches_can_always_be_dealt_out(workers):
    cluster.check_minibatches(workers, None, 1024, 4)
    for resolution in (4, 32, 128, 256):
        assert schedule.default_minibatch(resolution, workers) == workers * schedule.default_minibatch(resolution, 1)


def test_only_resolutions_that_are_trained_count():
    sizes = {4: 4, 8: 16, 16: 12}
    cluster.check_minibatches(2, sizes, 8, 8)
    for resolution, initial in ((8, 4), (16, 8)):
        with pytest.raises(OptionError, match=r"--minibatch (4 \(at 4|12 \(at 16) px\)"):
            cluster.check_minibatches(2, sizes, resolution, initial)


# ----------------------------------------------------------------------------------------------------------------------
# GPUs


@pytest.mark.parametrize(
    "workers, index, before, after",
    [
        (["a:1", "a:2", "a:3"], 2, None, "2"),
        (["a:1", "a:2"], 1, "4,7", "7"),
        (["a:1", "b:1", "a:2", "b:2"], 3, None, "1"),
        (["a:1", "b:1"], 1, None, None),  # the host's only worker
        (["a:1", "b:1"], 1, "2,3", "2,3"),
        (["a:1", "a:2"], 1, "5", "5"),  # Slurm gives each task its own
        (["a:1", "a:2"], 1, "", ""),  # none
    ],
)
def test_each_worker_on_a_host_gets_one_gpu(workers, index, before, after):
    environ = {} if before is None else {"CUDA_VISIBLE_DEVICES": before}
    cluster.pin_gpu(Cluster(tuple(workers), index), environ)
    assert environ.get("CUDA_VISIBLE_DEVICES") == after


def test_pinning_is_part_of_the_plan_unless_the_cpu_was_asked_for():
    for flags, expected in (({}, "1"), ({"num_gpus": 1}, "1"), ({"num_gpus": 0}, None), ({"num_cpu_workers": 2}, None)):
        flags = types.SimpleNamespace(**dict({"num_gpus": None, "num_cpu_workers": 0}, **flags))
        environ = {"TF_CONFIG": config(["a:1", "a:2"], 1)}
        cluster.plan(flags, set(), environ, supervised=False)
        assert environ.get("CUDA_VISIBLE_DEVICES") == expected


def test_fewer_gpus_than_workers():
    workers = Cluster(("a:1", "a:2", "a:3"), 0)
    with pytest.raises(OptionError, match="CUDA_VISIBLE_DEVICES=0,1: 2 GPUs for the 3 workers on a; each needs one"):
        cluster.pin_gpu(workers, {"CUDA_VISIBLE_DEVICES": "0,1"})
