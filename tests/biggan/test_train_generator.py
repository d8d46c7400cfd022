"""train_generator.py as its user meets it: what it refuses, what a run leaves, and what resuming means."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from biggan_helpers import command_path, load_command, refusal, run
from labelled_data import discs, write_dataset
from patience import PATIENCE

from biggan.training import Training
from biggan.weights import load_generator
from experiment_utils.files import load_tensors
from factor_scores import FactorRegressor

TRAIN = load_command("train_generator")
SMALL = "--dataset discs --class_factor shade --ch 8 --batch_size 8 --device cpu --num_threads 1"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("datasets")
    write_dataset(directory / "discs", *discs())
    write_dataset(directory / "tiny", discs()[0].reshape(-1, 4, 4, 3)[:60])
    return str(directory)


@pytest.fixture
def command(capfd, tmp_path, data_dir):
    """command('--total_kimg 1 ...') -> (exit status, standard output, standard error), in tmp_path/results."""

    def call(flags):
        places = ["--results_dir", str(tmp_path / "results"), "--data_dir", data_dir]
        return run("train_generator", TRAIN, capfd, [*places, *flags.split()])

    return call


@pytest.mark.parametrize(
    "flags, said",
    [
        ("", "--dataset: which one?"),
        ("--dataset nothing", "nothing: no such dataset"),
        ("--dataset discs --class_factor x", "--class_factor x: "),
        ("--dataset discs --resolution 64", "--resolution 64: "),
        ("--dataset tiny", "--resolution 4: at least 8 is needed"),
        ("--dataset discs --dim_z 7", "--dim_z 7: must be a multiple of 2 at 8 px"),
        ("--dataset discs --batch_size 64", "--batch_size 64: discs has 60 images"),
        ("--dataset discs --attention 16", "--attention 16: there are blocks from 8 to 8 px"),
        ("--dataset discs --cooldown 2", "--cooldown 2.0: must be between 0 and 1"),
        ("--dataset discs --ch 4", "--ch 4: must be at least 8"),
        ("--dataset discs --resume", "--resume: no experiment "),
        ("--dataset discs --device cuda:77", "--device cuda:77: "),
    ],
)
def test_refusals(command, tmp_path, flags, said):
    assert refusal(command(flags)).startswith(said)
    assert not (tmp_path / "results").exists()


def test_a_run_leaves_a_generator_and_what_it_is_worth(command, tmp_path):
    status, printed, _ = command(f"{SMALL} --total_kimg 0.08 --dim_z 4 --seed 5")
    run_dir = tmp_path / "results" / "generator"
    assert status == 0 and f"done: {run_dir}/generator-000000.safetensors" in printed
    assert "discs: 60 images of 8 px, classes: dark, bright; G has " in printed
    assert {name.split(".tfevents")[0] for name in os.listdir(str(run_dir))} == {
        "events.out", "faithfulness.json", "generator-000000.safetensors", "log.txt", "options.json",
        "regressor.safetensors", "samples-000000.png", "state.safetensors",
    }  # fmt: skip
    assert json.loads((run_dir / "options.json").read_text())["flags"]["batch_size"] == 8
    G = load_generator(str(run_dir / "generator-000000.safetensors"))
    assert (G.dim_z, G.class_names, G.metadata["flags"]["seed"]) == (4, ["dark", "bright"], 5)
    assert str(tmp_path.parent) not in json.dumps(G.metadata)  # it is to be given away
    numbers = json.loads((run_dir / "faithfulness.json").read_text())
    regressor = FactorRegressor.load(str(run_dir / "regressor.safetensors"))
    assert numbers["held_out/x"] == regressor.held_out["x"] and 0 <= numbers["coverage/shade"] <= 1
    refused = refusal(command(f"{SMALL} --total_kimg 0.08"))
    assert refused.startswith(f"{run_dir} exists: go on with it (--resume)")


def test_an_interrupted_run_goes_on_with_its_own_flags(command, tmp_path, monkeypatch):
    assert command(f"{SMALL} --total_kimg 0.08 --experiment_name whole")[0] == 0
    original, left = Training.step, [4]

    def step(self):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", step)
        status, _, err = command(f"{SMALL} --total_kimg 0.08 --experiment_name stopped")
    assert status == 143
    assert f"go on with: train_generator.py --experiment_name stopped --resume --results_dir {tmp_path}" in err
    assert refusal(command("--experiment_name stopped --resume --ch 16")).startswith("--resume: ")
    assert command("--experiment_name stopped --resume")[0] == 0
    whole, stopped = (
        load_tensors(str(tmp_path / "results" / name / "state.safetensors"))[0] for name in ("whole", "stopped")
    )
    assert sorted(whole) == sorted(stopped)
    assert all(np.array_equal(whole[name], stopped[name]) for name in whole)


def test_a_folder_of_folders(command, tmp_path):
    from PIL import Image

    for label, shade in (("night", 10), ("day", 240)):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for index in range(8):
            image = np.full([20, 24, 3], shade - index, np.uint8)
            Image.fromarray(image).save(str(tmp_path / "pictures" / label / f"{index}.png"))
    flags = f"--dataset {tmp_path}/pictures --resolution 16 --ch 8 --batch_size 8 --device cpu --total_kimg 0.016"
    status, printed, _ = command(flags)
    assert status == 0 and "pictures: 16 images of 16 px, classes: day, night" in printed
    run_dir = tmp_path / "results" / "generator"
    assert not (run_dir / "regressor.safetensors").exists()
    assert load_generator(str(run_dir / "generator-000000.safetensors")).image_shape == (16, 16, 3)


def test_two_processes_share_the_batch(tmp_path, data_dir):
    """Each trains on its half: one folder, and a generator that was averaged over both."""
    arguments = [*SMALL.split(), "--data_dir", data_dir, "--total_kimg", "0.04", "--results_dir", str(tmp_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    command = [*launcher, command_path("train_generator"), *arguments]
    subprocess.run(command, check=True, env=environment, timeout=PATIENCE, capture_output=True)
    assert os.listdir(str(tmp_path)) == ["generator"]
    together, metadata = load_tensors(str(tmp_path / "generator" / "state.safetensors"))
    assert metadata["steps"] == 5
    alone = emulate_two_processes(data_dir)
    for name, value in alone.items():
        if name.startswith(("G/", "D/")) and "stored" not in name:
            np.testing.assert_allclose(together[name], value, atol=1e-3, err_msg=name)


def emulate_two_processes(data_dir):
    """The state after 5 steps of two trainings whose gradients are exchanged by hand, in one process."""
    import threading

    from biggan.images import open_images
    from biggan.parallel import Workers
    from biggan.training import Settings, network_specs

    barrier, sums = threading.Barrier(2), {}

    class Half(Workers):
        def average_(self, tensor):
            barrier.wait()
            sums[self.rank] = tensor.clone()
            barrier.wait()
            tensor.copy_((sums[0] + sums[1]) / 2)
            barrier.wait()
            return tensor

    data = open_images("discs", data_dir, class_factor="shade")
    settings = Settings(total_kimg=0.04, batch_size=8)
    runs = [Training(*network_specs(8, 8, 6, 2), data, settings, torch.device("cpu"), Half(rank, 2)) for rank in (0, 1)]

    def five_steps(job):
        torch.set_num_threads(1)
        for _ in range(5):
            job.step()

    threads = [threading.Thread(target=five_steps, args=(job,)) for job in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return runs[0].state()
