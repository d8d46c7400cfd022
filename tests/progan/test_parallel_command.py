"""train.py as several workers: one that dies or hangs ends the others, signals reach all, the job goes on."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from parallel_helpers import PATIENCE, run_script
from progan_helpers import PROGAN_EXPERIMENTS, read_scalars

from experiment_utils.errors import run_command
from progan.launch import free_ports
from progan.snapshot import list_snapshots, load_snapshot

# ----------------------------------------------------------------------------------------------------------------------
# What is refused, before anything is written


@pytest.fixture
def refusal(train_command, data_dir, tmp_path, capsys, monkeypatch):
    """refusal(flags, TF_CONFIG) -> the one line in which train.py refuses, with status 2 and without results."""
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def run(flags, config=None):
        if config is not None:
            monkeypatch.setenv("TF_CONFIG", config)
        base = "--dataset squares --num_threads 1 --resolution 8 --nz 3 --fmap_base 16"
        places = ["--data_dir", data_dir, "--results_dir", str(tmp_path / "results")]
        with pytest.raises(SystemExit) as end:
            run_command(lambda: train_command.main([*places, *base.split(), *flags.split()]))
        (line,) = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and line.startswith("train.py: error: ") and not (tmp_path / "results").exists()
        return line

    return run


def tf_config(index=0, count=2):
    workers = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def test_a_tf_config_that_cannot_be_used(refusal):
    assert "TF_CONFIG: not valid JSON" in refusal("--num_gpus 0", "{cluster}")
    assert "TF_CONFIG: task index 2, but the cluster has workers 0 to 1" in refusal("--num_gpus 0", tf_config(2))
    message = refusal("--num_cpu_workers 2", tf_config())
    assert "--num_cpu_workers 2 starts workers on this host, TF_CONFIG says" in message


@pytest.mark.parametrize("flags", ["--num_cpu_workers 3 --minibatch 8", "--num_gpus 3 --minibatch 4:12,8:8"])
def test_minibatches_that_cannot_be_dealt_out(refusal, flags):
    assert re.search(r"--minibatch 8 \(at [48] px\): its 2 group\(s\) of 4 .* among 3 workers; use", refusal(flags))


def test_a_worker_that_never_answers(refusal):
    message = refusal("--num_gpus 0 --worker_timeout 1 --minibatch 8", tf_config())
    assert re.search(r"worker 1 \(127.0.0.1:\d+\) did not answer within 1 s; start all workers", message)


def test_what_is_of_one_host_or_of_worker_0_alone_may_differ(train_command, data_dir):
    def settings(flags):
        argv = ["--data_dir", data_dir, "--resolution", "8", "--layers_to_reg", "1", *flags.split()]
        chosen = train_command.options.parse(train_command.TrainOptions, "", "", argv)
        losses = train_command.loss_options_from_scratch(chosen)
        dataset = train_command.open_dataset("squares", data_dir)
        return train_command.common_settings(chosen, losses, dataset, None)

    common = settings("")
    own = "--num_threads 2 --worker_silence 20 --results_dir elsewhere --vgg mine.pth --inception mine:net"
    assert settings(own + " --dashboard_api wandb --wandb_entity me") == common
    for flags in ("--lr 0.1", "--hp_lambda 0", "--total_kimg 7", "--minibatch 8"):
        assert settings(flags) != common


def test_a_port_that_is_taken(refusal):
    config = tf_config()
    host, port = json.loads(config)["cluster"]["worker"][0].split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((host, int(port)))
        message = refusal("--num_gpus 0 --minibatch 8", config)
    assert f"worker 0 ({host}:{port}): cannot use that UDP port here (Address already in use)" in message


# ----------------------------------------------------------------------------------------------------------------------
# Workers that know each other by TF_CONFIG


@pytest.fixture(scope="module")
def out(tmp_path_factory, data_dir):
    """What `parallel_runs.py` left."""
    out = str(tmp_path_factory.mktemp("parallel"))
    run_script("parallel_runs.py", data_dir, out)
    return out


def said(out, name, index):
    """The lines of a worker's standard error that are train.py's."""
    with open(os.path.join(out, f"{name}-{index}.err"), errors="replace") as stream:
        return "".join(line for line in stream if line.startswith("train.py") or "Traceback" in line)


def endings(out, name):
    with open(os.path.join(out, "endings.json")) as stream:
        return json.load(stream)[name]


@pytest.mark.parametrize("name, victim, others", [("killed", 1, (0, 2)), ("stopped", 0, (1,))])
def test_a_lost_worker_ends_the_others_and_is_named_once(out, name, victim, others):
    for index in others:
        assert endings(out, name)[index] == {"status": 3, "after": True}
        (line,) = said(out, name, index).splitlines()
        assert re.match(rf"train.py: error: worker {victim} \(127.0.0.1:\d+\) has given no sign of life for ", line)
        assert line.endswith("go on from the last snapshot with --resume_exp")


def test_silence_of_a_few_seconds_is_enough(train_command):
    assert train_command.TrainOptions().worker_silence <= 10


def test_it_goes_on_from_the_last_snapshot(out):
    """With two workers now, of the same joint minibatch."""
    text = {}
    for name in ("killed", "stopped"):
        with open(os.path.join(out, f"{name}-0.out")) as stream:
            text[name] = stream.read()
    (kimg,) = re.findall(r"^from .*, ([\d.]+) kimg$", text["stopped"], re.M)
    reports = text["killed"].count("\ntick ")
    # It may have been lost between a report and the end of the save that follows.
    assert float(kimg) in (pytest.approx(0.192 * reports), pytest.approx(0.192 * (reports - 1)))
    assert "by 3 workers" in text["killed"] and "by 2 workers" in text["stopped"]
    (run_dir,) = os.listdir(os.path.join(out, "results"))
    steps = list(read_scalars(os.path.join(out, "results", run_dir))["loss/D"])
    assert steps == list(range(192, 192 * (len(steps) + 1), 192))  # every report once
    assert len(steps) > float(kimg) / 0.192


def test_only_worker_0_writes(out):
    (run_dir,) = os.listdir(os.path.join(out, "results"))
    names = os.listdir(os.path.join(out, "results", run_dir))
    assert len([name for name in names if name.startswith("events.")]) == 2  # one of each start
    for name in ("killed-1", "killed-2", "stopped-1"):
        assert os.path.getsize(os.path.join(out, f"{name}.out")) == 0


# ----------------------------------------------------------------------------------------------------------------------
# Workers that the command starts itself


def children(pid):
    """The process ids of a process's children, in the order of their start."""
    with open(f"/proc/{pid}/task/{pid}/children") as stream:
        return sorted(map(int, stream.read().split()))


def test_num_cpu_workers(tmp_path, data_dir):
    """Two workers, supervised; a SIGINT to the second stops both at the same step, and one line says what was saved."""
    results_dir = str(tmp_path / "results")
    flags = (
        "--dataset squares --num_cpu_workers 2 --num_threads 1 --resolution 4 --nz 3 --fmap_base 16 --minibatch 8 "
        "--hp_lambda 0.01 --total_kimg 1000 --tick_kimg 0.16 --compute_interp_ticks 0"
    )
    command = [sys.executable, os.path.join(PROGAN_EXPERIMENTS, "train.py"), *flags.split()]
    command += ["--data_dir", data_dir, "--results_dir", results_dir]
    errors = tmp_path / "stderr"
    with errors.open("wb") as stream:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
    watchdog = threading.Timer(PATIENCE, process.kill)  # its workers end when it does
    watchdog.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("tick 1 "):
            _, second = children(process.pid)
            os.kill(second, signal.SIGINT)
    process.wait()
    watchdog.cancel()
    text, err = "".join(lines), errors.read_text(errors="replace")
    assert process.returncode == 130, err
    assert "training at 4 px on the CPU, by 2 workers" in text and text.count("\ntick 1 ") == 1
    (name,) = os.listdir(results_dir)
    (line,) = [line for line in err.splitlines() if line.startswith("train.py")]
    assert line.startswith("train.py: stopped by signal 2; saved ") and "go on with: train.py --resume_exp 0" in line
    (path,) = list_snapshots(os.path.join(results_dir, name)).values()
    snapshot = load_snapshot(path)
    assert snapshot.images_shown >= 160 and snapshot.images_shown % 32 == 0
    assert snapshot.options["flags"]["num_cpu_workers"] == 2
