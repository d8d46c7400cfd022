"""What a run tells while it runs: TensorBoard scalars in its folder, and Weights & Biases where that is asked for."""

import os

from tensorboardX import SummaryWriter

from experiment_utils.errors import OptionError

PROJECT = "hessian-penalty"


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
            name = os.path.basename(os.path.abspath(run_dir))
            self._wandb = require_wandb(wandb_entity)
            self._wandb.init(
                entity=wandb_entity, project=PROJECT, name=name, id=name, resume="allow", dir=run_dir, config=options
            )

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
