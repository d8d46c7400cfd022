#!/usr/bin/env python
"""Train a small class-conditional BigGAN on a dataset of TFRecords or a folder of images.

With several GPUs, or processes: torchrun --nproc_per_node N train_generator.py ...
"""

import dataclasses
import os
import sys

from biggan import experiments, parallel
from experiment_utils import options, runs
from experiment_utils.errors import Interrupted, OptionError, run_command
from experiment_utils.files import write_json
from experiment_utils.image_files import VALUE_RANGE
from experiment_utils.options import at_least, not_negative, option, positive, power_of_two, random_seed

EXAMPLES = """
  rendered CLEVR, one object a picture, its shape as the class
    dataset_tool.py render_clevr datasets/clevr_simple --variant simple --images 6000 --resolution 32
    train_generator.py --dataset clevr_simple --class_factor shape
  your own pictures, one folder a class
    train_generator.py --dataset path/to/folders --resolution 64
  go on after an interruption
    train_generator.py --experiment_name generator --resume
"""

MEASURED_IMAGES = 1000  # generated, to compare with the data

LOCAL = ("data_dir", "save_kimg", "device", "num_threads")  # of no interest to whoever gets the generator
MAY_CHANGE = ("total_kimg", *LOCAL)  # when a run is resumed


@dataclasses.dataclass
class TrainGeneratorOptions(experiments.ExperimentOptions):
    """The flags of train_generator.py."""

    experiment_name: str = experiments.name_option("generator")

    dataset: str = option(
        None, "a dataset directory, a name in --data_dir, or a folder of images or of folders, one a class", str
    )
    data_dir: str = option("datasets", "where datasets are looked up by name")
    class_factor: str = option(None, "categorical factor of the dataset that is the class (default: one class)", str)
    resolution: int = option(None, "of the images (default: the dataset's)", int, check=power_of_two)
    value_range: list = option(**VALUE_RANGE)

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

    save_kimg: float = option(20.0, "thousands of images between two saves", check=positive)
    device: str = option(None, "cpu, cuda or cuda:N (default: a GPU if there is one)", str)
    num_threads: int = option(0, "CPU threads (0: as PyTorch likes)", check=not_negative)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    chosen = experiments.settled(options.parse(TrainGeneratorOptions, __doc__, EXAMPLES, argv), argv, MAY_CHANGE)
    if chosen.dataset is None:
        raise OptionError("--dataset: which one? (a directory, or a name in --data_dir)")
    if not 0 <= chosen.cooldown <= 1:
        raise OptionError(f"--cooldown {chosen.cooldown}: must be between 0 and 1")

    import torch

    from biggan import training
    from biggan.frozen import pick_device
    from biggan.images import open_images

    device = pick_device(chosen.device)
    if chosen.num_threads:
        torch.set_num_threads(chosen.num_threads)
    say = print if parallel.rank() == 0 else lambda line: None
    data = open_images(chosen.dataset, chosen.data_dir, chosen.resolution, chosen.class_factor, chosen.value_range, say)
    settle(chosen, data, device)
    classes = len(data.class_names)
    specs = training.network_specs(
        data.resolution, chosen.ch, chosen.dim_z, classes, chosen.shared_dim, chosen.attention, data.channels
    )
    names = [field.name for field in dataclasses.fields(training.Settings)]
    settings = training.Settings(**{name: getattr(chosen, name) for name in names})
    with parallel.join(device) as workers:
        try:
            run(training.Training(*specs, data, settings, device, workers), chosen)
        except Interrupted as stopped:
            if not workers.is_main:
                sys.exit(stopped.exit_status)
            how = "go on with: " + experiments.resume_command(chosen, "train_generator.py")
            raise Interrupted(f"{stopped}; {how}", stopped.signal_number) from None


def run(job, chosen):
    """Make the run's folder, train, and measure."""
    from biggan.reporting import Reporter
    from biggan.training import resume, train

    run_dir, data = chosen.run_dir, job.data
    if chosen.resume:
        resume(run_dir, job)
    record = dict(experiments.record(chosen, LOCAL), data=data.name, images=len(data))
    if not job.workers.is_main:
        train(job, run_dir, record, log=None, save_kimg=chosen.save_kimg)
        return
    experiments.open_folder(chosen)
    log = runs.Log(os.path.join(run_dir, "log.txt"))
    log(f"run directory {run_dir}")
    log(describe(job))
    if chosen.resume:
        log(f"resumed after {job.images_shown / 1000:g} kimg")
    reporter = Reporter(run_dir, job.images_shown)
    path = train(job, run_dir, record, log, reporter, save_kimg=chosen.save_kimg)
    reporter.close()
    log(f"done: {path}")
    if data.factors is not None:
        measure(job, run_dir, log)


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
    parallel.check_batch_size(chosen.batch_size)
    if len(data) < chosen.batch_size:
        raise OptionError(f"--batch_size {chosen.batch_size}: {data.name} has {len(data)} images")
    for resolution in chosen.attention:
        if not 8 <= resolution <= data.resolution:
            raise OptionError(f"--attention {resolution}: there are blocks from 8 to {data.resolution} px")


def describe(job):
    data, counts = job.data, []
    for network in (job.G, job.D):
        counts.append(f"{sum(parameter.numel() for parameter in network.parameters()):,}")
    return (
        f"{data.name}: {len(data)} images of {data.resolution} px, classes: {', '.join(data.class_names[:8])}; "
        f"G has {counts[0]} parameters, D {counts[1]}; on {job.workers.size} x {job.device}"
    )


def measure(job, run_dir, log):
    """Fit a reader of the true factors, for compare_directions.py, and compare the generator's images with the data."""
    from biggan.training import generated_images
    from factor_scores import FactorRegressor, faithfulness

    data = job.data
    images = data.images(range(len(data)))
    regressor = FactorRegressor.fit(images, data.factors, data.factor_info)
    regressor.save(os.path.join(run_dir, "regressor.safetensors"))
    numbers = faithfulness(generated_images(job, MEASURED_IMAGES), images, regressor)
    write_json(os.path.join(run_dir, "faithfulness.json"), numbers)
    for name, value in sorted(numbers.items()):
        log(f"  {name:24s} {value:.4f}")


if __name__ == "__main__":
    run_command(main)
