"""What a run tells while it runs: TensorBoard scalars in its folder, Weights & Biases if it is asked for, videos."""

import hashlib
import os

import numpy as np
import torch
from tensorboardX import SummaryWriter

from biggan import directions
from biggan.traversal import direction_frames, direction_strips, round_trip
from experiment_utils.errors import OptionError
from latent_traversal import save_mp4

PROJECT = "hessian-penalty"
FILMED_DIRECTIONS, FILMED_SAMPLES, FILM_STEPS, FILM_FPS = 8, 4, 31, 30
FILM = 5  # what a draw is for: the last part of its seed


def require_wandb(entity):
    """Return the package wandb; raise OptionError where it is not installed."""
    try:
        import wandb
    except ImportError:
        raise OptionError(
            f"--wandb_entity {entity}: the package wandb is not installed (pip install wandb); "
            "TensorBoard needs no account"
        ) from None
    return wandb


class Reporter:
    """Writes scalars and videos of one run.

    step            that the run goes on from: TensorBoard forgets what a killed process had logged of later ones
    wandb_entity    Weights & Biases account; None: not used
    options         kept there with the run
    """

    def __init__(self, run_dir, step=0, wandb_entity=None, options=None):
        self._tensorboard = SummaryWriter(run_dir, purge_step=step + 1 if step else None)
        self._wandb = None
        if wandb_entity is not None:
            place = os.path.abspath(run_dir)
            name = os.path.basename(place)
            identity = f"{name}-{hashlib.sha256(place.encode('utf-8')).hexdigest()[:8]}"  # the same when it is resumed
            wandb = require_wandb(wandb_entity)
            settings = {"project": PROJECT, "name": name, "id": identity, "resume": "allow", "dir": run_dir}
            try:
                wandb.init(entity=wandb_entity, config=options, **settings)
            except Exception as problem:  # of its own, of the network's, of the operating system's
                self._tensorboard.close()
                raise OptionError(
                    f"--wandb_entity {wandb_entity}: Weights & Biases does not answer ({problem}); "
                    "log in (wandb login), or leave the flag out, and go on with --resume"
                ) from problem
            self._wandb = wandb

    def scalars(self, values, step):
        """Log {name: value} of a step."""
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)
        self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def video(self, name, path, step):
        """Log a video that lies in the run's folder (TensorBoard has none: the file is the place to look)."""
        if self._wandb is not None:
            self._wandb.log({name: self._wandb.Video(path)}, step=step)

    def close(self):
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def film(discovery, path):
    """Write a video of the directions that change the images most, for samples that are the same at every call.

    The numbers beside the rows are the directions'; the change is the mean difference of the images at the two ends.
    """
    G, settings = discovery.G, discovery.settings
    draws = directions.generator(settings.seed, FILM)
    z = torch.randn(FILMED_SAMPLES, G.dim_z, generator=draws)
    y = G.random_classes(FILMED_SAMPLES, draws)
    if settings.fix_class is not None:
        y = torch.full_like(y, settings.fix_class)
    Q = discovery.Q()
    ends = direction_strips(G, Q, z, y, settings.path_size, steps=2)
    change = np.abs(ends[:, :, 1].astype(int) - ends[:, :, 0]).reshape(len(Q), -1).mean(1)
    numbers = np.argsort(-change, kind="stable")[:FILMED_DIRECTIONS].tolist()
    strips = direction_strips(G, Q[numbers], z, y, settings.path_size, FILM_STEPS)
    save_mp4(path, round_trip(direction_frames(strips, numbers)), fps=FILM_FPS, loop=False)
