"""Weights & Biases, for runs whose user asks for it. The package is optional; TensorBoard is written in any case."""

import hashlib
import os

from experiment_utils.errors import OptionError

PROJECT = "hessian-penalty"


def require_wandb(flag):
    """Return the package wandb; raise OptionError, naming the flag that asks for it, where it is not installed."""
    try:
        import wandb
    except ImportError:
        raise OptionError(
            f"{flag}: the package wandb is not installed (pip install wandb); TensorBoard needs no account"
        ) from None
    return wandb


class WandbRun:
    """One run there, under the name of its directory; a run that is resumed goes on as the same.

    entity   account, or None: the user's own        options  kept there with the run
    flag     that asked for it, and `resume` what to do later, for the message where the service does not answer
    """

    def __init__(self, run_dir, entity, options, flag, resume):
        wandb = require_wandb(flag)
        place = os.path.abspath(run_dir)
        name = os.path.basename(place)
        identity = f"{name}-{hashlib.sha256(place.encode('utf-8')).hexdigest()[:8]}"
        settings = {"project": PROJECT, "name": name, "id": identity, "resume": "allow", "dir": run_dir}
        try:
            wandb.init(entity=entity, config=options, **settings)
        except Exception as problem:  # of its own, of the network's, of the operating system's
            raise OptionError(
                f"{flag}: Weights & Biases does not answer ({problem}); "
                f"log in (wandb login), or leave the flag out, and go on with {resume}"
            ) from problem
        self._wandb = wandb

    def scalars(self, values, step):
        """Log {name: number}."""
        self._wandb.log(dict(values), step=step)

    def image(self, name, pixels, step):
        """Log an image, uint8 [H, W] or [H, W, 3]."""
        self._wandb.log({name: self._wandb.Image(pixels)}, step=step)

    def video(self, name, path, step):
        """Log a video or GIF that lies in the run's directory."""
        self._wandb.log({name: self._wandb.Video(path)}, step=step)

    def close(self):
        self._wandb.finish()
