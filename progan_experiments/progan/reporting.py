"""What a run leaves to look at: TensorBoard scalars and images, grids of reals and fakes, latent traversals."""

import io
import os

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image

from experiment_utils.files import atomic_write
from latent_traversal import save_gif
from progan.metrics.hessian import diagonalness
from progan.traversal import activeness_by_component, component_frames, component_strips

DIAGONALNESS_SAMPLES = 8

FIXED_LATENTS, FIXED_REALS = 102, 103  # what a draw is for: the last part of its seed


class Reporter:
    """Writes into one run directory. `sample(z, normalize_latents=True)` gives uint8 images of Gs for latents z.

    wandb   a WandbRun that is told the same, or None
    """

    def __init__(self, run_dir, dataset, spec, seed, start_images=0, wandb=None):
        self._dir, self._dataset, self._spec, self._seed = run_dir, dataset, spec, seed
        rows, columns = _grid_size(spec.resolution)
        self._columns = columns
        self._z = np.random.RandomState([seed, 0, FIXED_LATENTS]).standard_normal([rows * columns, spec.nz])
        self._wandb = wandb
        self._writer = tf.summary.FileWriter(run_dir)
        if start_images:  # TensorBoard then forgets what a killed process had logged from the next image on
            self._writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), start_images + 1)

    def scalars(self, values, images_shown):
        """Log {name: value} at a number of real images shown."""
        summary = [tf.Summary.Value(tag=name, simple_value=value) for name, value in sorted(values.items())]
        self._writer.add_summary(tf.Summary(value=summary), images_shown)
        self._writer.flush()
        if self._wandb is not None:
            self._wandb.scalars(values, images_shown)

    def diagonalness(self, sample):
        """Return {name: number} that tells a penalty that falls because G bends less from one that disentangles."""
        numbers = diagonalness(sample, self._spec.nz, DIAGONALNESS_SAMPLES, self._seed)
        return {f"diagonalness/{name}": value for name, value in numbers.items()}

    def reals(self):
        """Write reals.png, a grid of training images."""
        rng = np.random.RandomState([self._seed, 0, FIXED_REALS])
        chosen = rng.randint(len(self._dataset), size=len(self._z))
        self._image("reals.png", "reals", self._dataset.images(self._spec.resolution, chosen), 0)

    def fakes(self, sample, images_shown):
        """Write fakesNNNNNN.png (NNNNNN: kimg), images of the same latents every time."""
        self._image(f"fakes{images_shown // 1000:06d}.png", "fakes", sample(self._z), images_shown)

    def traversal(self, sample, images_shown):
        """Write traversalNNNNNN.gif: each row sweeps a component of z, the most active first, for four samples."""
        components = range(self._spec.nz)
        scores = activeness_by_component(sample, self._spec.nz, self._seed)
        strips = component_strips(sample, self._z[:4], components, steps=16)
        frames = component_frames(strips, components, scores)
        path = os.path.join(self._dir, f"traversal{images_shown // 1000:06d}.gif")
        save_gif(path, frames, fps=12)
        if self._wandb is not None:
            self._wandb.video("traversal", path, images_shown)

    def _image(self, file_name, tag, images, images_shown):
        png = io.BytesIO()
        grid = image_grid(images, self._columns)
        Image.fromarray(grid).save(png, "PNG")
        with atomic_write(os.path.join(self._dir, file_name)) as stream:
            stream.write(png.getvalue())
        image = tf.Summary.Image(height=grid.shape[0], width=grid.shape[1], encoded_image_string=png.getvalue())
        self._writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag=tag, image=image)]), images_shown)
        self._writer.flush()
        if self._wandb is not None:
            self._wandb.image(tag, grid, images_shown)

    def close(self):
        self._writer.close()
        if self._wandb is not None:
            self._wandb.close()


def image_grid(images, columns):
    """Return one uint8 image [H, W] or [H, W, 3] of images [N, R, R, C], row by row, each at least 64 px large."""
    scale = max(64 // images.shape[1], 1)
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, size, _, channels = images.shape
    grid = images.reshape(count // columns, columns, size, size, channels).swapaxes(1, 2)
    grid = grid.reshape(count // columns * size, columns * size, channels)
    return grid[:, :, 0] if channels == 1 else grid


def _grid_size(resolution):
    """Rows and columns that fill about 1024 x 640 pixels."""
    tile = max(resolution, 64)
    return max(640 // tile, 2), max(1024 // tile, 3)
