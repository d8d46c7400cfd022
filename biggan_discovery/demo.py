#!/usr/bin/env python
"""Direction discovery in a few minutes on two CPU cores: learn directions in the bundled generator, look, compare."""

import dataclasses
import os
import time

from experiment_utils import options, runs
from experiment_utils.errors import run_command
from experiment_utils.options import option, positive
from experiment_utils.walkthrough import command, title

HERE = os.path.dirname(os.path.abspath(__file__))
DISCOVER, VISUALIZE, COMPARE = (
    os.path.join(HERE, name) for name in ("discover.py", "vis_directions.py", "compare_directions.py")
)
PATH_SIZE = 2  # the latents are 12 normal numbers: farther out there are few


@dataclasses.dataclass
class DemoOptions:
    """The flags of demo.py."""

    out_dir: str = option("demo_results", "where the run, the pictures and the tables go")
    steps: int = option(500, "steps of discovery", check=positive)


def main(argv=None):
    chosen = options.parse(DemoOptions, __doc__, argv=argv)
    begin = time.time()
    results_dir, pictures = os.path.join(chosen.out_dir, "results"), os.path.join(chosen.out_dir, "pictures")

    title("1. Learn directions in the latent space of the bundled generator with the Hessian Penalty")
    run_dir = runs.create_run_dir(results_dir, "directions")
    os.rmdir(run_dir)  # only its number is wanted: discover.py makes the folder
    name = os.path.basename(run_dir)
    command(DISCOVER, "--experiment_name", name, "--results_dir", results_dir, "--steps", chosen.steps,
            "--batch_size", 16, "--path_size", PATH_SIZE, "--save_every", chosen.steps)  # fmt: skip
    A = os.path.join(run_dir, f"A_{chosen.steps:06d}.pt")

    title("2. Look at them: a row a direction, a column a sample")
    command(VISUALIZE, "--load_A", A, "--path_size", PATH_SIZE, "--out_dir", pictures, "--steps", 31, "--fps", 30,
            "--format", "gif", "stills", "html")  # fmt: skip

    title("3. Score them beside other directions")
    command(COMPARE, "--load_A", A, "--path_size", PATH_SIZE, "--out_dir", pictures,
            "--penalty_samples", 128, "--factor_samples", 16)  # fmt: skip
    print(f"\nDone in {(time.time() - begin) / 60:.1f} minutes. Now open the .html page and the plot in {pictures}.")


if __name__ == "__main__":
    run_command(main)
