#!/usr/bin/env python
"""Train a small class-conditional BigGAN on a dataset of TFRecords or a folder of images.

With several GPUs, or processes: torchrun --nproc_per_node N train_generator.py ...
"""

import dataclasses
import os

from experiment_utils import __version__, options, runs
from experiment_utils.errors import Interrupted, OptionError, run_command
from experiment_utils.files import read_json, write_json
from experiment_utils.options import at_least, not_negative, option, positive, power_of_two, random_seed

EXAMPLES = """
  rendered CLEVR, one object a picture, its shape as the class
    dataset_tool.py render_clevr datasets/clevr_simple --variant simple --images 6000 --resolution 32
    train_generator.py --dataset clevr_simple --class_factor shape
  your own pictures, one folder a class
    train_generator.py --dataset path/to/folders --resolution 64
  on, after an interruption
    train_generator.py --dataset clevr_simple --class_factor shape --experiment_name NAME --resume
"""

MEASURED_IMAGES = 1000  # generated, to compare with the data

# What makes no difference to the images that a run would end in, and may change when it is resumed.
FREE_ON_RESUME = (
    "device",
    "num_threads",
    "save_kimg",
    "resume",
    "data_dir",
    "results_dir",
    "experiment_name",
    "dataset",
)


@dataclasses.dataclass
class TrainGeneratorOptions:
    """The flags of train_generator.py."""

    dataset: str = option(
        None, "a dataset directory, a name in --data_dir, or a folder of images or of folders, one a class", str
    )
    data_dir: str = option("datasets", "where datasets are looked up by name")
    class_factor: str = option(None, "categorical factor of the dataset that is the class (default: one class)", str)
    resolution: int = option(None, "of the images (default: the dataset's)", int, check=power_of_two)

    ch: int = option(
        None,
        "feature maps at full resolution, doubling as it halves (default: 24; on a GPU 64)",
        int,
        check=at_least(8),
    )
    dim_z: int = option(None, "components of z (default: three for the 4x4 map and three for each doubling)", int)
    shared_dim: int = option(16, "size of the class embedding", check=positive)
    attention: list = option([], "resolutions with self-attention", int, nargs="*", check=power_of_two, metavar="R")

    total_kimg: float = option(500.0, "thousands of images to train on", check=positive)
    batch_size: int = option(
        None, "images a step, over all processes (default: 32; on GPUs 128)", int, check=positive
    )  # fmt: skip
    d_steps: int = option(1, "steps of D for each of G", check=positive)
    g_lr: float = option(2e-4, "learning rate of G", check=positive)
    d_lr: float = option(4e-4, "learning rate of D", check=positive)
    cooldown: float = option(0.3, "share of the training over which the learning rates fall to 0, at its end")
    ema_kimg: float = option(10.0, "half-life of the average of G, in thousands of images", check=positive)
    seed: int = option(0, "of every random draw", check=random_seed)

    results_dir: str = option("results", "where the run's folder goes")
    experiment_name: str = option(None, "name of that folder (default: NNNNN-DATASET-biggan)", str)
    resume: bool = option(False, "go on with --experiment_name where it was saved last")
    save_kimg: float = option(20.0, "thousands of images between two saves", check=positive)
    device: str = option(None, "cpu, cuda or cuda:N (default: a GPU if there is one)", str)
    num_threads: int = option(0, "CPU threads (0: as PyTorch likes)", check=not_negative)


def main(argv=None):
    chosen = options.parse(TrainGeneratorOptions, __doc__, EXAMPLES, argv)
    if chosen.dataset is None:
        raise OptionError("--dataset: which one? (a directory, or a name in --data_dir)")
    if not 0 <= chosen.cooldown <= 1:
        raise OptionError(f"--cooldown {chosen.cooldown}: must be between 0 and 1")
    if chosen.resume and chosen.experiment_name is None:
        raise OptionError("--resume: needs --experiment_name")

    import torch

    from biggan import parallel, training
    from biggan.frozen import pick_device
    from biggan.images import open_images
    from biggan.reporting import Reporter

    data = open_images(chosen.dataset, chosen.data_dir, chosen.resolution, chosen.class_factor)
    device = pick_device(chosen.device)
    if chosen.num_threads:
        torch.set_num_threads(chosen.num_threads)
    settle(chosen, data, device)
    parallel.check_batch_size(chosen.batch_size)
    classes = len(data.class_names)
    specs = training.network_specs(
        data.resolution, chosen.ch, chosen.dim_z, classes, chosen.shared_dim, chosen.attention, data.channels
    )
    names = [field.name for field in dataclasses.fields(training.Settings)]
    settings = training.Settings(**{name: getattr(chosen, name) for name in names})
    record = {"flags": {name: value for name, value in options.to_json(chosen).items() if name not in FREE_ON_RESUME}}
    record.update(data=data.name, images=len(data), package_version=__version__)

    with parallel.join(device) as workers:
        run_dir = prepare_run_dir(chosen, data, record) if workers.is_main else None
        run = training.Training(*specs, data, settings, device, workers)
        if chosen.resume:
            training.resume(os.path.join(chosen.results_dir, chosen.experiment_name), run)
        if not workers.is_main:
            training.train(run, None, record, log=None, save_kimg=chosen.save_kimg)
            return
        log = runs.Log(os.path.join(run_dir, "log.txt"))
        log(f"run directory {run_dir}")
        log(describe(data, run, device))
        try:
            path = training.train(
                run, run_dir, record, log, Reporter(run_dir, run.images_shown), save_kimg=chosen.save_kimg
            )
        except Interrupted as stopped:
            again = f"the same command with --experiment_name {os.path.basename(run_dir)} --resume"
            raise Interrupted(f"{stopped}; go on with {again}", stopped.signal_number) from None
        log(f"done: {path}")
        if data.factors is not None:
            measure(run, run_dir, log)


def settle(chosen, data, device):
    """Fill in the flags whose defaults depend on the images and the device, and check what depends on both."""
    on_gpu = device.type == "cuda"
    levels = data.resolution.bit_length() - 2  # feature maps from 4×4 on: as many chunks of z
    chosen.resolution = data.resolution
    chosen.ch = chosen.ch or (64 if on_gpu else 24)
    chosen.batch_size = chosen.batch_size or (128 if on_gpu else 32)
    chosen.dim_z = chosen.dim_z or 3 * levels
    if chosen.dim_z % levels:
        raise OptionError(
            f"--dim_z {chosen.dim_z}: must be a multiple of {levels} at {data.resolution} px (equal chunks)"
        )
    if data.resolution < 8:
        raise OptionError(f"--resolution {data.resolution}: at least 8 is needed")
    if len(data) < chosen.batch_size:
        raise OptionError(f"--batch_size {chosen.batch_size}: {data.name} has {len(data)} images")
    for resolution in chosen.attention:
        if not 8 <= resolution <= data.resolution:
            raise OptionError(f"--attention {resolution}: there are blocks from 8 to {data.resolution} px")


def prepare_run_dir(chosen, data, record):
    """Return the run's directory with its options.json: a new one, or that of a run to resume with the same options."""
    if not chosen.resume:
        if chosen.experiment_name is None:
            run_dir = runs.create_run_dir(chosen.results_dir, f"{data.name}-{data.resolution}px-biggan")
        else:
            run_dir = os.path.join(chosen.results_dir, chosen.experiment_name)
            if os.path.exists(run_dir):
                raise OptionError(f"--experiment_name: {run_dir} is there already; choose another name, or --resume")
            os.makedirs(run_dir)
        write_json(os.path.join(run_dir, "options.json"), record)
        return run_dir
    run_dir = os.path.join(chosen.results_dir, chosen.experiment_name)
    stored = read_json(os.path.join(run_dir, "options.json"), OptionError)
    changed = [name for name, value in record["flags"].items() if stored["flags"].get(name) != value]
    if changed:
        was = ", ".join(f"--{name} {stored['flags'].get(name)}" for name in changed)
        raise OptionError(f"--resume: {run_dir} was begun with {was}")
    return run_dir


def describe(data, run, device):
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (run.G, run.D)]
    return (
        f"{data.name}: {len(data)} images of {data.resolution} px in {len(data.class_names)} classes; "
        f"G has {sizes[0]:,} parameters, D {sizes[1]:,}; on {device}, {run.workers.size} process(es)"
    )


def measure(run, run_dir, log):
    """Fit a reader of the true factors, for compare_directions.py, and compare the generator's images with the data."""
    from biggan.training import generated_images
    from factor_scores import FactorRegressor, faithfulness

    data = run.data
    images = data.images(range(len(data)))
    regressor = FactorRegressor.fit(images, data.factors, data.factor_info)
    regressor.save(os.path.join(run_dir, "regressor.safetensors"))
    numbers = faithfulness(generated_images(run, MEASURED_IMAGES), images, regressor)
    write_json(os.path.join(run_dir, "faithfulness.json"), numbers)
    for name, value in sorted(numbers.items()):
        log(f"  {name:24s} {value:.4f}")


if __name__ == "__main__":
    run_command(main)
