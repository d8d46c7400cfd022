"""What a run tells while it runs: TensorBoard scalars in its folder, Weights & Biases if it is asked for, videos."""

import numpy as np
import torch
from tensorboardX import SummaryWriter

from biggan import directions
from biggan.traversal import direction_frames, direction_strips, round_trip
from experiment_utils.errors import OptionError
from experiment_utils.weights_and_biases import WandbRun
from latent_traversal import save_mp4

FILMED_DIRECTIONS, FILMED_SAMPLES, FILM_STEPS, FILM_FPS = 8, 4, 31, 30
FILM = 5  # what a draw is for: the last part of its seed


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
            try:
                self._wandb = WandbRun(run_dir, wandb_entity, options, f"--wandb_entity {wandb_entity}", "--resume")
            except OptionError:
                self._tensorboard.close()
                raise

    def scalars(self, values, step):
        """Log {name: value} of a step."""
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)
        self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.scalars(values, step)

    def video(self, name, path, step):
        """Log a video that lies in the run's folder (TensorBoard has none: the file is the place to look)."""
        if self._wandb is not None:
            self._wandb.video(name, path, step)

    def close(self):
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.close()


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
