#!/usr/bin/env python
"""Learn directions in a frozen generator's latent space with the Hessian Penalty."""

import dataclasses
import os
import shlex
import sys
import tempfile

from biggan import directions, parallel, weights
from experiment_utils import __version__, options, runs
from experiment_utils.errors import Interrupted, OptionError, SnapshotError, UserError, run_command
from experiment_utils.files import read_json, write_json
from experiment_utils.options import at_least, option, positive, random_seed

EXAMPLES = """
  directions of the generator that ships with the project
    discover.py --experiment_name first --num_epochs 2
  go on with it after an interruption, or for longer
    discover.py --experiment_name first --resume --num_epochs 4
  40 directions of golden retrievers in the middle third of a BigGAN's latent space, on four GPUs
    torchrun --nproc_per_node=4 discover.py --download 138k --search_space mid --fix_class 207 --batch_size 96
"""

STEPS_PER_EPOCH = 1000

PLACES = ("results_dir", "experiment_name", "resume")  # not kept with a run: it may move
MAY_CHANGE = (*PLACES, "num_epochs", "steps", "save_every", "vis_during_training", "wandb_entity", "microbatch")
MAY_CHANGE += ("device", "download", "download_url", "cache_dir")


# ----------------------------------------------------------------------------------------------------------------------
# Options


def plain_name(name):
    if name in ("", ".", "..") or os.path.basename(name) != name:
        raise ValueError("must be the name of one folder, which goes into --results_dir")


@dataclasses.dataclass
class DiscoverOptions(directions.DirectionOptions, weights.GeneratorOptions):
    """The flags of discover.py."""

    experiment_name: str = option("discovery", "folder in --results_dir for all that the run makes", check=plain_name)
    results_dir: str = option("results", "where experiments are kept")
    resume: bool = option(False, "go on with the experiment of this name; its flags are the defaults then")
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
    objective: str = option("hessian_penalty", "what to minimise")
    epsilon: float = option(0.1, "step of the penalty's central differences", check=positive)
    num_rademacher_samples: int = option(2, "k: directions that the penalty samples for each point", check=at_least(2))

    save_every: int = option(2000, "steps between two saves", check=positive)
    vis_during_training: bool = option(
        False, "at each save, write a video of the directions that change the images most, too"
    )
    wandb_entity: str = option(None, "Weights & Biases account to report to, beside TensorBoard", str)


def with_stored_flags(chosen, argv, run_dir):
    """Return the options of a resumed run: its own, but for those that may change and are given anew."""
    if not os.path.isdir(run_dir):
        raise OptionError(f"--resume: no experiment {run_dir} (see --experiment_name and --results_dir)")
    path = os.path.join(run_dir, "options.json")
    stored = read_json(path, SnapshotError).get("flags", {})
    given = options.given_flags(DiscoverOptions, argv)
    changed = [n for n in sorted(given - set(MAY_CHANGE)) if n in stored and getattr(chosen, n) != stored[n]]
    if changed:
        were = ", ".join(f"--{name} (was {stored[name]})" for name in changed)
        raise OptionError(f"--resume: {run_dir} cannot go on with other flags: {were}; start a new experiment for that")
    current = {name: getattr(chosen, name) for name in given | set(PLACES)}
    if "num_epochs" in given and "steps" not in given:
        current["steps"] = None
    return options.validate(options.from_json(DiscoverOptions, {**stored, **current}, path))


def check_combination(chosen, run_dir):
    """Raise OptionError for what cannot work, as far as it can be told without the generator."""
    from biggan.discovery import OBJECTIVES

    if chosen.objective not in OBJECTIVES:
        raise OptionError(f"--objective {chosen.objective}: there is {', '.join(sorted(OBJECTIVES))}")
    parallel.check_batch_size(chosen.batch_size)
    if chosen.wandb_entity is not None:
        from biggan.reporting import require_wandb

        require_wandb(chosen.wandb_entity)
    if not chosen.resume and parallel.rank() == 0 and os.path.exists(run_dir):
        raise OptionError(f"{run_dir} exists: go on with it (--resume), or choose another --experiment_name")


# ----------------------------------------------------------------------------------------------------------------------
# The command


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if "--parallel" in argv:
        raise OptionError("--parallel: start one process a GPU instead: torchrun --nproc_per_node=GPUS discover.py ...")
    chosen = options.parse(DiscoverOptions, __doc__, EXAMPLES, argv)
    run_dir = os.path.join(chosen.results_dir, chosen.experiment_name)
    if chosen.resume:
        chosen = with_stored_flags(chosen, argv, run_dir)
    check_combination(chosen, run_dir)

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
            how = f"go on with: {resume_command(chosen)}"
            raise Interrupted(f"{stopped}; {how}", stopped.signal_number) from None


def load_generator(chosen):
    """Return the frozen generator, on this process's device."""
    G = weights.from_options(chosen)
    if chosen.fix_class is not None:
        G.check_class(chosen.fix_class, "--fix_class")
    if not G.is_deterministic():
        raise UserError(
            f"{G.name}: gives other images for the same z each time; switch its noise off, or the penalty measures it"
        )
    return G


def run(G, A, space, state, chosen, run_dir, workers):
    """Make the run's folder, and discover."""
    from biggan.discovery import Discovery, Settings, discover, remove_leftovers
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
    make_run_dir(run_dir, chosen)
    remove_leftovers(run_dir)
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


def make_run_dir(run_dir, chosen):
    """Make the folder with options.json in it: both at once, so that a killed process leaves both or nothing."""
    flags = {name: value for name, value in options.to_json(chosen).items() if name not in PLACES}
    record = {"flags": flags, "package_version": __version__}
    if chosen.resume:
        write_json(os.path.join(run_dir, "options.json"), record)
        return
    os.makedirs(chosen.results_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=chosen.results_dir) as scratch:
        new = os.path.join(scratch, chosen.experiment_name)
        os.mkdir(new)
        write_json(os.path.join(new, "options.json"), record)
        os.rename(new, run_dir)


def resume_command(chosen):
    command = f"discover.py --experiment_name {shlex.quote(chosen.experiment_name)} --resume"
    if chosen.results_dir != DiscoverOptions.results_dir:
        command += f" --results_dir {shlex.quote(chosen.results_dir)}"
    if parallel.world_size() > 1:
        command = f"torchrun --nproc_per_node={parallel.world_size()} {command}"
    return command


if __name__ == "__main__":
    run_command(main)
