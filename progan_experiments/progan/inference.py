"""A trained generator as a function from latents to pictures."""

import numpy as np
import tensorflow.compat.v1 as tf

from progan import schedule
from progan.networks import Generator, generator_shapes, names_at, upscale


def session_config(num_gpus=0, num_threads=0):
    """Return the tf.ConfigProto of all our sessions. num_threads 0: as many as TensorFlow likes."""
    config = tf.ConfigProto(
        intra_op_parallelism_threads=num_threads,
        inter_op_parallelism_threads=num_threads,
        device_count={} if num_gpus else {"GPU": 0},
    )
    config.gpu_options.allow_growth = True
    return config


def count_gpus(num_threads=0):
    """Return how many GPUs this TensorFlow can use.

    A process's first session fixes the threads of all later ones: hence num_threads, as in `session_config`.
    """
    with tf.Session(config=session_config(1, num_threads)) as session:
        return sum(device.device_type == "GPU" for device in session.list_devices())


class GeneratorFunction:
    """A Generator in the current graph, evaluated in minibatches as images of its full resolution.

    fade  the scalar placeholder that the generator was built with; it is fed even where nothing fades
    """

    def __init__(self, generator, fade):
        spec = generator.spec
        self._z, self._fade = tf.placeholder(tf.float32, [None, spec.nz]), fade
        self._images = {}
        for normalize in (True, False):
            images, _ = generator(self._z, normalize_latents=normalize)
            while int(images.shape[1]) < spec.resolution:
                images = upscale(images)
            self._images[normalize, np.float32] = images
            # The cast truncates, so that 128 in place of 127.5 rounds to the nearest byte, as for the published FID.
            self._images[normalize, np.uint8] = tf.saturate_cast(images * 127.5 + 128, tf.uint8)

    def __call__(self, session, fade, z, normalize_latents=True, minibatch=100, dtype=np.uint8):
        """Return images [N, R, R, C] for latents z [N, nz]: np.uint8, or np.float32 as they are (about [-1, 1])."""
        images = self._images[normalize_latents, dtype]
        parts = [
            session.run(images, {self._z: z[i : i + minibatch], self._fade: fade}) for i in range(0, len(z), minibatch)
        ]
        return np.concatenate(parts)


class TrainedGenerator:
    """Gs of a Snapshot in a session of its own: call it with latents [N, nz] for uint8 images [N, R, R, C].

    With dtype=np.float32 the images come as G makes them: about [-1, 1], neither rounded nor clipped.
    Images have the full resolution, also where the snapshot has not grown to it: pixels are then repeated.
    Close it, or use it in a `with` statement.
    """

    def __init__(self, snapshot, num_gpus=0, num_threads=0):
        self.spec, self._fade_value = snapshot.spec, snapshot.lod % 1
        resolution = schedule.current_resolution(snapshot.lod, snapshot.spec.resolution)
        graph = tf.Graph()
        with graph.as_default():
            names = names_at(generator_shapes(self.spec), self.spec, resolution, self._fade_value > 0)
            weights = {name: tf.placeholder(tf.float32, snapshot.networks["Gs"][name].shape) for name in names}
            variables = {name: tf.Variable(value, use_resource=True) for name, value in weights.items()}
            fade = tf.placeholder(tf.float32, [])
            generator = Generator(
                variables,
                self.spec,
                resolution,
                fade if self._fade_value else None,
                data_format="NCHW" if num_gpus else "NHWC",
            )
            self._function = GeneratorFunction(generator, fade)
            self._session = tf.Session(graph=graph, config=session_config(num_gpus, num_threads))
            values = {weights[name]: snapshot.networks["Gs"][name] for name in names}
            self._session.run(tf.global_variables_initializer(), values)

    def __call__(self, z, normalize_latents=True, minibatch=100, dtype=np.uint8):
        return self._function(self._session, self._fade_value, z, normalize_latents, minibatch, dtype)

    def close(self):
        self._session.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
