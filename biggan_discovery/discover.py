#!/usr/bin/env python
"""Learn directions in a frozen generator's latent space with the Hessian Penalty."""

import dataclasses
import os
import sys

from biggan import directions, experiments, parallel, weights
from experiment_utils import options, runs
from experiment_utils.errors import Interrupted, OptionError, run_command
from experiment_utils.options import at_least, option, positive, random_seed
from experiment_utils.weights_and_biases import require_wandb

EXAMPLES = """
  directions of the generator that ships with the project
    discover.py --experiment_name first --num_epochs 2
  go on with it after an interruption, or for longer
    discover.py --experiment_name first --resume --num_epochs 4
  by this project's own objective, which needs fewer passes of a smooth generator
    discover.py --experiment_name diagonal --objective diagonal --num_epochs 1
  40 directions of golden retrievers in the middle third of a BigGAN's latent space, on four GPUs
    torchrun --nproc_per_node=4 discover.py --download 138k --search_space mid --fix_class 207 --batch_size 96
"""

STEPS_PER_EPOCH = 1000

MAY_CHANGE = ("num_epochs", "steps", "save_every", "vis_during_training", "wandb_entity", "microbatch")
MAY_CHANGE += ("device", "download_url", "cache_dir")


# ----------------------------------------------------------------------------------------------------------------------
# Options


@dataclasses.dataclass
class DiscoverOptions(directions.DirectionOptions, weights.GeneratorOptions, experiments.ExperimentOptions):
    """The flags of discover.py."""

    experiment_name: str = experiments.name_option("discovery")
    seed: int = option(0, "of every random draw", check=random_seed)

    A_lr: float = option(0.01, "learning rate of Adam on A", check=positive)
    batch_size: int = option(64, "samples a step, over all processes of torchrun", check=positive)
    microbatch: int = option(
        None,
        "samples that go through the generator at once: fewer take less memory, and give the same gradient but for "
        "rounding (default: a quarter of the batch, if it is divisible)",
        int,
        check=positive,
    )
    num_epochs: int = option(100, f"epochs of {STEPS_PER_EPOCH} steps", check=positive)
    steps: int = option(None, "steps to make, instead of --num_epochs", int, check=positive)
    objective: str = option(
        "hessian_penalty",
        "hessian_penalty (the paper's), orojar (Wei et al. 2021: effects on the image that are orthogonal), or "
        "diagonal (this project's, not the paper's: maximises the squares on the Hessian's diagonal, which minimises "
        "those off it, on smooth generators in fewer passes; for as many orthonormal directions as dimensions)",
    )
    epsilon: float = option(
        0.1, "step of the central differences in each component (diagonal: as long as the penalty's)", check=positive
    )
    num_rademacher_samples: int = option(
        2, "k: vectors that hessian_penalty and orojar sample for each point", check=at_least(2)
    )

    save_every: int = option(2000, "steps between two saves", check=positive)
    vis_during_training: bool = option(
        False, "at each save, write a video of the directions that change the images most, too"
    )
    wandb_entity: str = option(None, "Weights & Biases account to report to, beside TensorBoard", str)


def check_combination(chosen):
    """Raise OptionError for what cannot work, as far as it can be told without the generator."""
    from biggan.discovery import OBJECTIVES

    if chosen.objective not in OBJECTIVES:
        raise OptionError(f"--objective {chosen.objective}: there is {', '.join(sorted(OBJECTIVES))}")
    if chosen.objective == "diagonal" and chosen.num_rademacher_samples != DiscoverOptions.num_rademacher_samples:
        raise OptionError("--num_rademacher_samples: --objective diagonal samples no such vectors; leave it out")
    parallel.check_batch_size(chosen.batch_size)
    if chosen.wandb_entity is not None:
        require_wandb(f"--wandb_entity {chosen.wandb_entity}")


# ----------------------------------------------------------------------------------------------------------------------
# The command


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if "--parallel" in argv:
        raise OptionError("--parallel: start one process a GPU instead: torchrun --nproc_per_node=GPUS discover.py ...")
    chosen = experiments.settled(options.parse(DiscoverOptions, __doc__, EXAMPLES, argv), argv, MAY_CHANGE)
    given = options.given_flags(DiscoverOptions, argv)
    if "num_epochs" in given and "steps" not in given:
        chosen.steps = None  # of the run that is resumed
    check_combination(chosen)
    run_dir = chosen.run_dir

    from biggan.discovery import saved_state

    G = load_generator(chosen)
    space = directions.search_space(chosen.search_space, G.dim_z)
    state = saved_state(run_dir, space.width) if chosen.resume else None
    if state is None:
        A, _ = directions.from_options(chosen, G.dim_z, chosen.seed)
    else:
        import torch

        A = torch.from_numpy(state[0]["A"])
    chosen.ndirs = len(A)
    with parallel.join(G.device) as workers:
        try:
            run(G, A, space, state, chosen, run_dir, workers)
        except Interrupted as stopped:
            if not workers.is_main:
                sys.exit(stopped.exit_status)
            how = "go on with: " + experiments.resume_command(chosen, "discover.py")
            raise Interrupted(f"{stopped}; {how}", stopped.signal_number) from None


def load_generator(chosen):
    """Return the frozen generator, on this process's device."""
    G = weights.from_options(chosen)
    if chosen.fix_class is not None:
        G.check_class(chosen.fix_class, "--fix_class")
    G.check_measurable()
    G.check_gradient()
    return G


def run(G, A, space, state, chosen, run_dir, workers):
    """Make the run's folder, and discover."""
    from biggan.discovery import Discovery, Settings, discover
    from biggan.reporting import Reporter, film

    settings = Settings(
        lr=chosen.A_lr,
        batch_size=chosen.batch_size,
        path_size=chosen.path_size,
        epsilon=chosen.epsilon,
        k=chosen.num_rademacher_samples,
        ortho=not chosen.no_ortho,
        fix_class=chosen.fix_class,
        seed=chosen.seed,
        objective=chosen.objective,
        microbatch=chosen.microbatch,
    )
    discovery = Discovery(G, A, space, settings, workers)
    if state is not None:
        discovery.restore(*state)
    discovery.Q()  # an A that cannot be orthonormalised leaves no folder behind
    steps = chosen.steps or chosen.num_epochs * STEPS_PER_EPOCH
    if not workers.is_main:
        discover(discovery, run_dir, log=lambda line: None, steps=steps, save_every=chosen.save_every)
        return
    experiments.open_folder(chosen)
    log = runs.Log(os.path.join(run_dir, "log.txt"))
    reporter = Reporter(run_dir, discovery.steps, chosen.wandb_entity, options.to_json(chosen))
    log(f"run directory {run_dir}")
    log(f"{G.name}: {len(A)} directions in {space}, {chosen.batch_size} samples a step on {workers.size} x {G.device}")
    if chosen.resume:
        log(f"resumed after step {discovery.steps}")
    on_save = None
    if chosen.vis_during_training:

        def on_save(steps):
            path = os.path.join(run_dir, f"directions_{steps:06d}.mp4")
            film(discovery, path)
            reporter.video("directions", path, steps)

    path = discover(discovery, run_dir, log, reporter, steps, chosen.save_every, on_save)
    reporter.close()
    log(f"done: {path}")


if __name__ == "__main__":
    run_command(main)
