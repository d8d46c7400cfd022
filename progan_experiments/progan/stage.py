"""One stage of growing: the static graph of both players' steps at a resolution, and its session."""

import dataclasses
import functools

import numpy as np
import tensorflow.compat.v1 as tf

from experiment_utils.errors import SnapshotError
from progan import losses, schedule
from progan.inference import GeneratorFunction
from progan.networks import (
    Discriminator,
    Generator,
    discriminator_shapes,
    downscale,
    generator_shapes,
    lerp,
    names_at,
    upscale,
)
from progan.parallel import Workers

# What a random draw is for: the last part of its seed. (The order of the images has its own, in dataset.py.)
LATENTS_D, LATENTS_G, MIXING, DIRECTIONS = range(4)

# Adam's powers of beta, as earlier versions of this project named them: by their place in the graph.
OLD_SLOT_NAMES = {
    f"{place}/{power}": f"Adam_{net}/{power}"
    for place, net in (("cond", "D"), ("cond_1", "G"))
    for power in ("beta1_power", "beta2_power")
}


@dataclasses.dataclass
class LossOptions:
    """What the networks are trained for. A change of these makes another experiment.

    hp_lambda               weight of the regularizer, in units of the unbiased estimator; 0: none
    epsilon                 step of its central differences
    num_rademacher_samples  k, directions a sample
    layers_to_reg           layers of G that it regularises, counted from 1
    warmup_kimg             kimg over which its weight rises linearly from 0...
    hp_start_kimg           ...from here on; before that it is off
    infogan_lambda          weight of InfoGAN's regression; 0: none
    regularizer             'hessian_penalty' or 'orojar'; runs of before there was a choice do not record it
    """

    hp_lambda: float
    epsilon: float
    num_rademacher_samples: int
    layers_to_reg: list
    warmup_kimg: float
    hp_start_kimg: float
    infogan_lambda: float
    regularizer: str = "hessian_penalty"


@dataclasses.dataclass(frozen=True)
class StageKey:
    """What a graph is built for; another key needs another graph."""

    resolution: int
    fading: bool  # the previous resolution is still blended in
    penalised: bool  # with the regularizer
    minibatch: int  # real images a step, of all workers together


def draw(seed, step, purpose, minibatch, nz, k=2):
    """Return one step's random numbers for a purpose, float32, as a function of (seed, step) alone."""
    rng = np.random.RandomState([seed, step, purpose])
    if purpose == MIXING:
        return rng.uniform(size=[minibatch, 1, 1, 1]).astype(np.float32)
    if purpose == DIRECTIONS:
        return rng.choice(np.float32([-1, 1]), size=[k, minibatch, nz])
    return rng.standard_normal([minibatch, nz]).astype(np.float32)


class Stage:
    """The graph of a StageKey, with its variables set from arrays, in a session of its own.

    networks  {'G' | 'D' | 'Gs': {name: array}}     slots  {name: array} as `read_slots` gives, or None to start anew
    workers   parallel.Workers, where there are several: the values are those of worker 0

    Raises SnapshotError where the slots are not those of these networks.
    """

    def __init__(self, key, spec, loss_options, networks, slots, lr, num_gpus=0, num_threads=0, workers=None):
        self.key, self.spec, self.options = key, spec, loss_options
        self._workers = workers or Workers(None, num_gpus, num_threads)
        self.layers = schedule.layers_at(key.resolution, loss_options.layers_to_reg, spec.resolution)
        self._data_format = "NCHW" if num_gpus else "NHWC"  # GPUs are faster with the first, CPUs may lack it
        graph = tf.Graph()
        with graph.as_default(), self._workers.device():
            self._create_variables()
            self._create_inputs()
            self._build_discriminator_step(lr)
            self._build_generator_step(lr)
            self._session = self._workers.session(graph)
            self._session.run(tf.global_variables_initializer())
            self._assign(self._weights, {f"{net}/{name}": v for net in networks for name, v in networks[net].items()})
            if slots is not None:
                self._assign(self._slots, {OLD_SLOT_NAMES.get(name, name): value for name, value in slots.items()})
            for variables in (self._weights, self._slots):
                self._workers.broadcast(self._session, list(variables.values()))

    # ------------------------------------------------------------------------------------------------------------------
    # What a stage does

    def train_step(self, images, lod, hp_weight, seed, step):
        """Train D, average G into Gs, train G, once each.

        Returns {name: float}: every loss and its terms, and how many updates were `skipped` (gradients not finite).

        images     uint8 [minibatch, resolution, resolution, channels]; of several workers, this one's part of them
        hp_weight  weight of the regularizer at this moment
        """
        k = self.options.num_rademacher_samples

        def random(purpose):
            joint = draw(seed, step, purpose, self.key.minibatch, self.spec.nz, k)
            return joint[:, self._workers.part] if purpose == DIRECTIONS else joint[self._workers.part]

        feed = {self._reals: images, self._z: random(LATENTS_D), self._mixing: random(MIXING), self._fade: lod % 1}
        _, values_D = self._workers.run(self._session, [self._step_D, self._terms_D], feed)
        feed = {self._z: random(LATENTS_G), self._fade: lod % 1}
        if self.key.penalised:
            shares = [schedule.layer_weight(layer, lod, self.spec.resolution) for layer in self.layers]
            feed.update({self._directions: random(DIRECTIONS), self._layer_weights: np.multiply(shares, hp_weight)})
        _, values_G = self._workers.run(self._session, [self._step_G, self._terms_G], feed)
        skipped = values_D.pop("skipped") + values_G.pop("skipped")
        return dict(values_D, skipped=skipped, **values_G)

    def sampler(self, lod):
        """Return sample(z, normalize_latents, minibatch, dtype): images of Gs, as TrainedGenerator gives them."""
        return functools.partial(self._sample, self._session, lod % 1)

    def describe(self):
        """Return a line for the log: what is trained now."""
        size, key, penalty = f"{self.key.resolution}x{self.key.resolution}", self.key, "no penalty"
        if key.penalised:
            penalty = f"{schedule.REGULARIZERS[self.options.regularizer]} on layers {' '.join(map(str, self.layers))}"
        return f"{size}{', fading in' if key.fading else ''}: minibatch {key.minibatch}, {penalty}"

    def read(self, networks):
        """Write the current weights into {'G' | 'D' | 'Gs': {name: array}}; those of other resolutions stay."""
        for name, value in self._session.run(self._weights).items():
            net, local_name = name.split("/", 1)
            networks[net][local_name] = value

    def read_slots(self):
        """Return {name: array}: the optimisers' variables."""
        return self._session.run(self._slots)

    def close(self):
        self._session.close()

    def _assign(self, variables, values):
        """Set variables {name: variable} from arrays {name: array}, which may hold those of other resolutions too."""
        feeds = {name: tf.placeholder(v.dtype.base_dtype, v.shape) for name, v in variables.items()}
        for name, feed in feeds.items():
            if name not in values:
                raise SnapshotError(f"the training state lacks {name}: it belongs to other networks than the snapshot")
            if np.shape(values[name]) != tuple(feed.shape.as_list()):
                raise SnapshotError(
                    f"the training state has {name} of shape {list(np.shape(values[name]))}, not {feed.shape}"
                )
        assignments = [variable.assign(feeds[name]) for name, variable in variables.items()]
        self._session.run(assignments, {feed: values[name] for name, feed in feeds.items()})

    # ------------------------------------------------------------------------------------------------------------------
    # Its graph

    def _create_variables(self):
        shapes = {"G": generator_shapes(self.spec), "D": discriminator_shapes(self.spec)}
        shapes["Gs"] = shapes["G"]
        self._variables = {
            net: {
                name: tf.get_variable(
                    f"{net}/{name}", shapes[net][name], initializer=tf.zeros_initializer(), use_resource=True
                )
                for name in names_at(shapes[net], self.spec, self.key.resolution, self.key.fading)
            }
            for net in ("G", "D", "Gs")
        }
        self._weights = {f"{net}/{name}": v for net, values in self._variables.items() for name, v in values.items()}
        self._slots = {}

    def _create_inputs(self):
        key, spec = self.key, self.spec
        size = key.minibatch // self._workers.count
        self._reals = tf.placeholder(tf.uint8, [size, key.resolution, key.resolution, spec.channels])
        self._z = tf.placeholder(tf.float32, [size, spec.nz])
        self._mixing = tf.placeholder(tf.float32, [size, 1, 1, 1])
        self._fade = tf.placeholder(tf.float32, [])
        k = self.options.num_rademacher_samples
        self._directions = tf.placeholder(tf.float32, [k, size, spec.nz])
        self._layer_weights = tf.placeholder(tf.float32, [len(self.layers)])

        fade = self._fade if key.fading else None
        self._G = Generator(self._variables["G"], spec, key.resolution, fade, self._data_format)
        self._D = Discriminator(self._variables["D"], spec, key.resolution, fade, self._data_format)
        Gs = Generator(self._variables["Gs"], spec, key.resolution, fade, self._data_format)
        self._sample = GeneratorFunction(Gs, self._fade)

    def _real_images(self):
        """The real images as D sees them: [-1, 1], and while fading in blended with their own coarser selves."""
        images = tf.cast(self._reals, tf.float32) / 127.5 - 1
        return lerp(images, upscale(downscale(images)), self._fade) if self.key.fading else images

    def _build_discriminator_step(self, lr):
        fake_images, _ = self._G(self._z)
        images_per_pixel = self.spec.resolution // self.key.resolution
        loss, terms, code = losses.discriminator_loss(
            self._D, self._real_images(), fake_images, self._mixing, images_per_pixel
        )
        if code is not None:
            terms["infogan/D"] = losses.infogan_loss(code, self._z)
            loss += self.options.infogan_lambda * terms["infogan/D"]
        update, self._terms_D = self._minimise(loss, terms, "D", lr)
        # Gs follows G as it is before G's own step.
        decay = schedule.ema_decay(self.key.minibatch)
        averages, current = self._variables["Gs"], self._variables["G"]
        average = [averages[name].assign(lerp(current[name], averages[name], decay)) for name in averages]
        self._step_D = tf.group(update, *average)

    def _build_generator_step(self, lr):
        images, _ = self._G(self._z)
        scores, code = self._D(images)
        loss, terms = losses.generator_loss(scores), {}
        if code is not None:
            terms["infogan/G"] = losses.infogan_loss(code, self._z)
            loss += self.options.infogan_lambda * terms["infogan/G"]
        if self.key.penalised:
            name = self.options.regularizer
            penalties = losses.layer_penalties(
                name, self._G, self._z, self.layers, self._directions, self.options.epsilon
            )
            loss += tf.reduce_sum(tf.stack(penalties) * self._layer_weights)
            terms.update({f"{name}/layer_{n:02d}": value for n, value in zip(self.layers, penalties)})
        self._step_G, self._terms_G = self._minimise(loss, terms, "G", lr)

    def _minimise(self, loss, terms, net, lr):
        """Return (one Adam step on the weights of `net`, {name: scalar} to log).

        Those are `terms`, the loss itself, and `skipped`: 1 if the step is skipped since a gradient is not finite, else
        0. Of several workers, all is of the means over them: the gradients, so that they take or skip the same step,
        and the scalars. The step waits for the scalars too. Some need a weight that no gradient needs, the critic's
        last bias for one, and would else be computed now before the step, now after it.
        """
        variables = list(self._variables[net].values())
        optimizer = tf.train.AdamOptimizer(lr, beta1=0.0, beta2=0.99, epsilon=1e-8, name="Adam_" + net)
        names = [f"loss/{net}", *terms]
        means = self._workers.mean([loss, *terms.values(), *tf.gradients(loss, variables)])
        scalars, gradients = means[: len(names)], means[len(names) :]
        with tf.control_dependencies(scalars):
            finite = tf.reduce_all(tf.stack([tf.reduce_all(tf.is_finite(gradient)) for gradient in gradients]))
        update = tf.cond(finite, lambda: optimizer.apply_gradients(zip(gradients, variables)), tf.no_op)
        for variable in optimizer.variables():
            # Moments are named after their weight, the powers of beta after where the graph happens to hold them.
            name = variable.op.name
            self._slots[f"Adam_{net}/{name.split('/')[-1]}" if "_power" in name else name] = variable
        return update, dict(zip(names, scalars), skipped=1 - tf.cast(finite, tf.int32))
