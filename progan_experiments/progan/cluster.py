"""Who takes part in a training by several workers: flags and TF_CONFIG, read and checked. Pure Python.

TF_CONFIG is TensorFlow's own way to tell a process of its peers, the same on every worker but for the index:
{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}. A worker needs its port
twice: TCP for TensorFlow, UDP for the signs of life of heartbeat.py.
"""

import dataclasses
import json
import re

from experiment_utils.errors import OptionError
from progan import schedule

EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
LABEL = r"[^\s:\[\].]{1,63}"  # of a host's name
ADDRESS = re.compile(rf"{LABEL}(\.{LABEL})*\.?:[0-9]{{1,5}}")
STDDEV_GROUP = 4  # samples in a group of the minibatch standard deviation


@dataclasses.dataclass(frozen=True)
class Cluster:
    """All workers of a training, and which one this process is.

    addresses  'host:port' of each worker, two or more      index  of this one; worker 0 writes the run directory
    """

    addresses: tuple
    index: int

    def __len__(self):
        return len(self.addresses)

    def host_port(self, index):
        host, port = self.addresses[index].rsplit(":", 1)
        return host, int(port)

    def name(self, index):
        """Return how messages call a worker."""
        return f"worker {index} ({self.addresses[index]})"

    def neighbours(self):
        """Return the indices of the workers on this one's host, itself among them."""
        return [i for i in range(len(self)) if self.host_port(i)[0] == self.host_port(self.index)[0]]


def from_tf_config(text):
    """Return the Cluster that the value of TF_CONFIG describes; None where it is absent or names one worker alone.

    Raises OptionError, one line, for whatever cannot be used.
    """
    if text is None or not text.strip():
        return None
    try:
        config = json.loads(text)
    except ValueError as problem:
        raise OptionError(f"TF_CONFIG: not valid JSON ({problem}); it should look like {EXAMPLE}") from None
    if config == {}:
        return None
    workers = _field(_field(config, "cluster", dict), "worker", list, "cluster")
    task = _field(config, "task", dict)
    others = sorted(set(config["cluster"]) - {"worker"})
    if others:
        raise OptionError(f"TF_CONFIG: the cluster has the job {others[0]}; list every process under worker instead")
    if _field(task, "type", str, "task") != "worker":
        raise OptionError(f"TF_CONFIG: task type {task['type']}; there are only tasks of type worker")
    index = _field(task, "index", int, "task")
    for address in workers:
        if not isinstance(address, str) or not ADDRESS.fullmatch(address):
            raise OptionError(f"TF_CONFIG: worker {json.dumps(address)} is not HOST:PORT, a name or an IPv4 address")
        if not 0 < int(address.rsplit(":", 1)[1]) < 65536:
            raise OptionError(f"TF_CONFIG: worker {address}: ports go from 1 to 65535")
        if workers.count(address) > 1:
            raise OptionError(f"TF_CONFIG: two workers at {address}; give each a port of its own")
    if not 0 <= index < len(workers):
        there = f"workers 0 to {len(workers) - 1}" if workers else "no worker"
        raise OptionError(f"TF_CONFIG: task index {index}, but the cluster has {there}")
    return Cluster(tuple(workers), index) if len(workers) > 1 else None


def _field(value, name, kind, inside=None):
    """Return value[name], which must be a `kind`."""
    where = f"{inside}.{name}" if inside else name
    if not isinstance(value, dict) or name not in value:
        raise OptionError(f"TF_CONFIG: no {where}; it should look like {EXAMPLE}")
    if not isinstance(value[name], kind) or isinstance(value[name], bool):
        raise OptionError(f"TF_CONFIG: {where} is {json.dumps(value[name])}; it should look like {EXAMPLE}")
    return value[name]


@dataclasses.dataclass
class Plan:
    """What this process is to do.

    count     workers of the training      to_launch  whether it is to start them all, or else to be...
    cluster   ...this one of them; None: it trains alone
    num_gpus  of this process itself: 0, 1, or None: 1 if there is one
    """

    count: int
    to_launch: bool
    cluster: Cluster
    num_gpus: int


def plan(options, given, environ, supervised):
    """Return the Plan that follows from --num_gpus, --num_cpu_workers and TF_CONFIG.

    given       names of the flags that the command line sets: those of a resumed run yield to it and to TF_CONFIG
    environ     os.environ; CUDA_VISIBLE_DEVICES is set there for one of several workers that use a host's GPUs
    supervised  whether TF_CONFIG was made by launch.py, from these same flags

    Raises OptionError where they contradict each other.
    """
    num_gpus, num_cpu_workers = options.num_gpus, options.num_cpu_workers
    if num_gpus and num_cpu_workers:
        if {"num_gpus", "num_cpu_workers"} <= given:
            raise OptionError(f"--num_gpus {num_gpus} and --num_cpu_workers {num_cpu_workers}: use one of the two")
        num_gpus, num_cpu_workers = (num_gpus, 0) if "num_gpus" in given else (0, num_cpu_workers)
    flag, wanted = ("num_cpu_workers", num_cpu_workers) if num_cpu_workers else ("num_gpus", num_gpus or 0)
    each = 0 if num_cpu_workers else None if num_gpus is None else min(num_gpus, 1)

    cluster = from_tf_config(environ.get("TF_CONFIG"))
    if environ.get("TF_CONFIG") and not supervised and wanted > 1 and flag in given:
        raise OptionError(
            f"--{flag} {wanted} starts workers on this host, TF_CONFIG says that they are started one by one: use one "
            "of the two (with TF_CONFIG, each GPU is a worker of its own)"
        )
    if cluster is None:
        return Plan(max(wanted, 1), wanted > 1, None, each)
    if each != 0:
        pin_gpu(cluster, environ)
    return Plan(len(cluster), False, cluster, each)


def check_minibatches(workers, given, resolution, initial_resolution):
    """Raise OptionError unless every joint minibatch, {resolution: size} as given or published, can be dealt out.

    Worker i of n takes the images i, i + n, ... of it. The groups of the minibatch standard deviation are strided too,
    and stay those that one worker would form if n divides their number.
    """
    for level in range(schedule.log2(initial_resolution), schedule.log2(resolution) + 1):
        size = (given or {}).get(2**level) or schedule.default_minibatch(2**level, workers)
        groups = max(size // STDDEV_GROUP, 1)
        if groups % workers:
            multiple = STDDEV_GROUP * workers
            raise OptionError(
                f"--minibatch {size} (at {2**level} px): its {groups} group(s) of {STDDEV_GROUP} for the minibatch "
                f"standard deviation cannot be dealt out among {workers} workers; use a multiple of {multiple}, "
                f"{-(-size // multiple) * multiple} for instance"
            )


def pin_gpu(cluster, environ):
    """Leave this worker one GPU, through CUDA_VISIBLE_DEVICES: workers on one host take the host's GPUs in order.

    Where the variable names one GPU already (or none), whoever started the process has chosen; Slurm does.
    """
    neighbours = cluster.neighbours()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    devices = None if visible is None else [device for device in visible.split(",") if device.strip()]
    if len(neighbours) == 1 or (devices is not None and len(devices) <= 1):
        return
    position = neighbours.index(cluster.index)
    if devices is not None and len(devices) < len(neighbours):
        raise OptionError(
            f"CUDA_VISIBLE_DEVICES={visible}: {len(devices)} GPUs for the {len(neighbours)} workers on "
            f"{cluster.host_port(cluster.index)[0]}; each needs one"
        )
    environ["CUDA_VISIBLE_DEVICES"] = str(position) if devices is None else devices[position]
