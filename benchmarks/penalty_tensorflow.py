"""What benchmarks/penalty.py measures in TensorFlow: the definition written out, the network, a tf.function."""

import numpy as np
import tensorflow as tf
from measure import count_from_here, in_turns, resident_peak, timed

from hessian_penalty_tf import hessian_penalty

EPSILON, SEED, DIM_Z = 0.1, 0, 100
REDUCTIONS = {"max": tf.reduce_max, "mean": tf.reduce_mean}


def definition(G, z, k, reduction, directions, G_z=None):
    """Equation 5 as it stands: second differences around G(z), their unbiased variance, the reduction."""
    centre = G(z) if G_z is None else G_z
    differences = []
    for v in tf.unstack(directions):
        plus, minus = G(z + EPSILON * v), G(z - EPSILON * v)
        differences.append((plus - 2 * centre + minus) / EPSILON**2)
    return reduction(tf.math.reduce_variance(tf.stack(differences), axis=0) * k / (k - 1))


class DCGAN(tf.Module):
    """The generator of DCGAN (Radford et al. 2016) at 64 px, normalisation folded into weights that keep variances."""

    def __init__(self, width, dtype, draws):
        super().__init__()
        widths = [DIM_Z, 8 * width, 4 * width, 2 * width, width, 3]
        self.weights, self.biases = [], []
        for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
            taps = inputs * (1 if layer == 0 else 4)  # that one output sums
            shape = (inputs, 16 * outputs) if layer == 0 else (4, 4, outputs, inputs)
            self.weights.append(tf.Variable(draws.normal(0, (2 / taps) ** 0.5, shape), dtype=dtype))
            self.biases.append(tf.Variable(np.zeros(outputs), dtype=dtype))

    def __call__(self, z):
        x = tf.reshape(z @ self.weights[0], [-1, 4, 4, self.biases[0].shape[0]]) + self.biases[0]
        for weight, bias in zip(self.weights[1:], self.biases[1:]):
            x, size = tf.nn.leaky_relu(x, 0.2), 2 * x.shape[1]
            shape = [tf.shape(x)[0], size, size, bias.shape[0]]
            x = tf.nn.conv2d_transpose(x, weight, shape, strides=2) + bias
        return tf.tanh(x)


def build(network, dtype=tf.float32):
    _, width, batch_size = network
    draws = np.random.RandomState(SEED)
    return DCGAN(width, dtype, draws), tf.constant(draws.normal(size=(batch_size, DIM_Z)), dtype)


def step(problem, k, reduction, options, centre):
    """Return a function that returns the gradient of the definition (options None) or of ours, for each parameter.

    centre: G(z) is given to both. It comes from the generator's loss, whose backward pass goes through it anyway.
    """
    G, z = problem
    draws = np.random.RandomState(SEED + 1)
    common = {
        "directions": tf.constant(2 * draws.randint(0, 2, (k, *z.shape)) - 1, z.dtype),
        "G_z": G(z) if centre else None,
    }

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            if options is None:
                value = definition(G, z, k, REDUCTIONS[reduction], **common)
            else:
                value = hessian_penalty(G, z, k, EPSILON, REDUCTIONS[reduction], **common, **options)
        return tape.gradient(value, [*G.weights, *G.biases])

    return run


def use_one_thread():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")  # every step is a tf.function of its own, and meant to be
    tf.config.threading.set_inter_op_parallelism_threads(1)


def flat(gradients):
    return np.concatenate([gradient.numpy().astype(np.float64).ravel() for gradient in gradients])


def times_and_errors(network, k, reduction, centre, options, turns):
    """As in penalty_pytorch.py."""
    use_one_thread()
    truth = flat(step(build(network, tf.float64), k, reduction, None, centre)())
    problem = build(network)
    steps = {name: step(problem, k, reduction, each, centre) for name, each in options.items()}
    first = {name: timed(run) for name, run in steps.items()}
    errors = {name: np.linalg.norm(flat(run()) - truth) / np.linalg.norm(truth) for name, run in steps.items()}
    seconds = in_turns(steps, turns)
    return {name: (seconds[name], float(errors[name]), first[name]) for name in steps}


def peak_memory(network, k, reduction, centre, options):
    """As in penalty_pytorch.py; the gradients are new tensors here, and so counted."""
    use_one_thread()
    kind, _, batch_size = network
    step(build((kind, 1, batch_size)), k, reduction, options, centre)()  # what libraries load at first use
    run = step(build(network), k, reduction, options, centre)
    run.get_concrete_function()
    before = count_from_here()
    run()
    return resident_peak() - before


def versions():
    return f"TensorFlow {tf.__version__}"
