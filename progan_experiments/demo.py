#!/usr/bin/env python
"""The whole of it in a few minutes on two CPU cores: render CLEVR, train with the Hessian Penalty, look, measure."""

import dataclasses
import os
import time

from experiment_utils import options, runs
from experiment_utils.errors import run_command
from experiment_utils.options import option, positive
from experiment_utils.walkthrough import command, title

HERE = os.path.dirname(os.path.abspath(__file__))
DATASET_TOOL, TRAIN, VISUALIZE = (os.path.join(HERE, name) for name in ("dataset_tool.py", "train.py", "visualize.py"))
DATASET, RESOLUTION = "clevr_1fov", 16


@dataclasses.dataclass
class DemoOptions:
    """The flags of demo.py."""

    out_dir: str = option("demo_results", "where the dataset, the run and the pictures go")
    images: int = option(1000, "images to render", check=positive)
    total_kimg: float = option(90.0, "thousands of images to train for", check=positive)


def main(argv=None):
    chosen = options.parse(DemoOptions, __doc__, argv=argv)
    begin = time.time()
    data_dir, results_dir = os.path.join(chosen.out_dir, "datasets"), os.path.join(chosen.out_dir, "results")
    dataset_dir = os.path.join(data_dir, DATASET)

    title("1. Render a dataset: a red cube at a random place on a line")
    if os.path.exists(dataset_dir):
        print(f"{dataset_dir} is there already")
    else:
        command(DATASET_TOOL, "render_clevr", dataset_dir, "--variant", "1fov", "--images", chosen.images,
                "--resolution", 2 * RESOLUTION, "--seed", 0)  # fmt: skip

    title("2. Train a small ProGAN on it with the Hessian Penalty, growing from 4x4 to 16x16")
    command(TRAIN, "--dataset", DATASET, "--data_dir", data_dir, "--results_dir", results_dir,
            "--resolution", RESOLUTION, "--fmap_base", 64, "--minibatch", 16, "--stage_kimg", 5, "--fade_kimg", 5,
            "--hp_lambda", 0.0125, "--warmup_kimg", 2 * chosen.total_kimg, "--total_kimg", chosen.total_kimg,
            "--tick_kimg", 10, "--snapshot_kimg", 30, "--compute_interp_ticks", 0, "--num_gpus", 0,
            "--num_threads", 1)  # fmt: skip
    number = runs.latest_run(results_dir)

    title("3. Sweep each component of z, the most active first")
    out_dir = os.path.join(chosen.out_dir, "pictures")
    command(VISUALIZE, "--models", number, "--results_dir", results_dir, "--out_dir", out_dir, "--steps", 30,
            "--format", "gif", "stills", "html", "--num_gpus", 0)  # fmt: skip

    title("4. Measure")
    for line in measure(dataset_dir, runs.find_run_dir(results_dir, number)):
        print(line)
    print(f"\nDone in {(time.time() - begin) / 60:.1f} minutes. Now open the .html page in {out_dir}.")


def measure(dataset_dir, run_dir):
    """Yield lines that compare generated images with the renders they were learnt from."""
    from progan.dataset import open_dataset
    from progan.inference import TrainedGenerator
    from progan.metrics.evaluation import Evaluator
    from progan.metrics.faithfulness import GENERATED
    from progan.snapshot import find_snapshot, load_snapshot

    snapshot, dataset = load_snapshot(find_snapshot(run_dir)), open_dataset(dataset_dir, ".")
    metrics = ["faithfulness", "activeness"]
    with TrainedGenerator(snapshot) as generator, Evaluator(dataset, snapshot.spec, metrics) as evaluator:
        numbers = {name.replace("faithfulness/", ""): value for name, value in evaluator.evaluate(generator).items()}
    yield f"components in use (effective number): {numbers['activeness/effective_number']:.1f} of {snapshot.spec.nz}"
    yield (
        f"cube positions, read off {GENERATED} generated images, cover {numbers['coverage/position']:.2f} of the true "
        f"range (by a regressor with R^2 {numbers['held_out/position']:.4f} on held-out renders)"
    )
    yield (
        f"mean RMS error to the nearest render: {numbers['nearest_image_error']:.1f} of 255 "
        f"(between renders: {numbers['nearest_image_baseline']:.1f})"
    )


if __name__ == "__main__":
    run_command(main)
