"""Gradients: in float64 those of the definition written out naively, in float32 no worse than those of the definition.

The networks are written once over each framework, with the same weights.
"""

import sys

import numpy as np
import pytest
import tensorflow as tf
import torch

if sys.version_info >= (3, 11):
    import jax
    import jax.numpy as jnp

CHANNELS = [24, 16, 3]


def weights_of_a_generator(seed):
    """4×4 dense layer and two convolutions with upsampling between them: 6 latent components to 8×8×3."""
    random = np.random.RandomState(seed)
    shapes = [(6, 16 * CHANNELS[0]), (3, 3, CHANNELS[0], CHANNELS[1]), (3, 3, CHANNELS[1], CHANNELS[2])]
    return [random.randn(*shape) * np.sqrt(2 / np.prod(shape[:-1])) for shape in shapes]


class PyTorchNetwork:
    softplus, tanh = staticmethod(torch.nn.functional.softplus), staticmethod(torch.tanh)
    max, mean = staticmethod(torch.max), staticmethod(torch.mean)

    @classmethod
    def generator(cls, activation, z, dense, *convolutions):
        """Activations after the dense layer and after each convolution, channels last as in TensorFlow."""
        activate = getattr(cls, activation)
        x = activate((z @ dense).reshape(-1, 4, 4, CHANNELS[0]).permute(0, 3, 1, 2))
        outputs = [x]
        for kernel in convolutions:
            x = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest") if len(outputs) == 1 else x
            x = activate(torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), padding=1))
            outputs.append(x)
        return [output.permute(0, 2, 3, 1) for output in outputs]

    @staticmethod
    def values_and_gradients(function, problems, dtype):
        """function(directions, z, *weights) and its gradients with respect to z and weights, for each problem."""
        results = []
        for directions, *arrays in problems:
            tensors = [torch.tensor(array.astype(dtype), requires_grad=True) for array in arrays]
            value = function(torch.tensor(directions.astype(dtype)), *tensors)
            results.append((value.item(), [g.detach().numpy() for g in torch.autograd.grad(value, tensors)]))
        return results


class TensorFlowNetwork:
    softplus, tanh = staticmethod(tf.nn.softplus), staticmethod(tf.tanh)
    max, mean = staticmethod(tf.reduce_max), staticmethod(tf.reduce_mean)

    @classmethod
    def generator(cls, activation, z, dense, *convolutions):
        activate = getattr(cls, activation)
        x = activate(tf.reshape(tf.matmul(z, dense), [-1, 4, 4, CHANNELS[0]]))
        outputs = [x]
        for kernel in convolutions:
            if len(outputs) == 1:
                x = tf.reshape(tf.tile(x[:, :, None, :, None, :], [1, 1, 2, 1, 2, 1]), [-1, 8, 8, CHANNELS[0]])
            x = activate(tf.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding="SAME"))
            outputs.append(x)
        return outputs

    @staticmethod
    def values_and_gradients(function, problems, dtype):
        """The same: eager in TensorFlow 2, in TensorFlow 1 a graph that is built once and fed each problem."""

        def compute(directions, *tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value = function(directions, *tensors)
            return value, tape.gradient(value, tensors)

        problems = [[array.astype(dtype) for array in problem] for problem in problems]
        if tf.executing_eagerly():
            results = [compute(*map(tf.constant, problem)) for problem in problems]
            return [(value.numpy(), [gradient.numpy() for gradient in gradients]) for value, gradients in results]
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            inputs = [tf.compat.v1.placeholder(dtype, array.shape) for array in problems[0]]
            outputs = compute(*inputs)
            return [session.run(outputs, dict(zip(inputs, problem))) for problem in problems]


NETWORKS = {"pytorch": PyTorchNetwork, "tensorflow": TensorFlowNetwork}

if sys.version_info >= (3, 11):

    class JAXNetwork:
        softplus, tanh = staticmethod(jax.nn.softplus), staticmethod(jnp.tanh)
        max, mean = staticmethod(jnp.max), staticmethod(jnp.mean)

        @classmethod
        def generator(cls, activation, z, dense, *convolutions):
            activate = getattr(cls, activation)
            x = activate((z @ dense).reshape(-1, 4, 4, CHANNELS[0]))
            outputs = [x]
            for kernel in convolutions:
                x = x.repeat(2, axis=1).repeat(2, axis=2) if len(outputs) == 1 else x
                x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
                outputs.append(activate(x))
                x = outputs[-1]
            return outputs

        @staticmethod
        def values_and_gradients(function, problems, dtype):
            """The same: compiled once for all problems."""
            problems = [[jnp.asarray(array.astype(dtype)) for array in problem] for problem in problems]
            compute = jax.jit(jax.value_and_grad(function, argnums=tuple(range(1, len(problems[0])))))
            results = [compute(*problem) for problem in problems]
            return [(value.item(), [np.asarray(gradient) for gradient in gradients]) for value, gradients in results]

    NETWORKS["jax"] = JAXNetwork


def definition(G, z, directions, reduction, epsilon=0.1):
    """Equation 5 as it is printed: G(z) evaluated, and the variance divided by k − 1."""
    k = len(directions)
    center = G(z)
    second_differences = []
    for v in directions:
        plus, minus = G(z + epsilon * v), G(z - epsilon * v)
        second_differences.append([(p - 2 * c + m) / epsilon**2 for p, c, m in zip(plus, center, minus)])
    penalties = []
    for s in zip(*second_differences):
        mean = sum(s) / k
        penalties.append(reduction(sum((s_i - mean) ** 2 for s_i in s) / (k - 1)))
    return sum(penalties)


def problem(seed, k, batch=4):
    """directions, z, *weights"""
    random = np.random.RandomState(seed)
    return [random.choice([-1.0, 1.0], size=(k, batch, 6)), random.randn(batch, 6), *weights_of_a_generator(seed)]


def penalty_and_definition(frameworks, name, activation, reduction):
    """The file under test and the definition, each as a function of directions, z and the weights."""
    network, hessian_penalty = NETWORKS[name], frameworks[name].hessian_penalty
    reduction = getattr(network, reduction)

    def ours(directions, z, *weights):
        def G(z):
            return network.generator(activation, z, *weights)

        return hessian_penalty(G, z, k=int(directions.shape[0]), reduction=reduction, directions=directions)

    def naive(directions, z, *weights):
        k = int(directions.shape[0])
        return definition(
            lambda z: network.generator(activation, z, *weights), z, [directions[i] for i in range(k)], reduction
        )

    return ours, naive


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("k, reduction", [(2, "max"), (3, "mean")])
def test_float64_gradients_are_those_of_the_definition(frameworks, name, k, reduction):
    ours, naive = penalty_and_definition(frameworks, name, "softplus", reduction)
    differentiate, problems = NETWORKS[name].values_and_gradients, [problem(seed, k) for seed in range(2)]
    results, truths = differentiate(ours, problems, "float64"), differentiate(naive, problems, "float64")
    for (value, gradients), (true_value, true_gradients) in zip(results, truths):
        assert value == pytest.approx(true_value, rel=1e-7)
        for gradient, truth in zip(gradients, true_gradients):
            assert np.linalg.norm(truth) > 0
            assert np.linalg.norm(gradient - truth) < 1e-6 * np.linalg.norm(truth)


def parameter_gradients(results):
    """One vector for each problem: all gradients but the first, which is with respect to z."""
    return [np.concatenate([np.ravel(gradient) for gradient in gradients[1:]]) for _, gradients in results]


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("activation", ["softplus", "tanh"])
@pytest.mark.parametrize("k, reduction", [(2, "max"), (4, "mean")])
def test_float32_gradients_of_smooth_generators_are_as_good_as_the_definition(
    frameworks, name, activation, k, reduction
):
    """The error of the parameters' gradient is at most twice that of the definition, which evaluates G(z) too.

    Without G(z), or another pivot, it is larger by orders of magnitude.
    """
    ours, naive = penalty_and_definition(frameworks, name, activation, reduction)
    differentiate, problems = NETWORKS[name].values_and_gradients, [problem(seed, k) for seed in range(5)]
    truths = parameter_gradients(differentiate(naive, problems, "float64"))

    def median_error(function):
        gradients = parameter_gradients(differentiate(function, problems, "float32"))
        return np.median([np.linalg.norm(g - truth) / np.linalg.norm(truth) for g, truth in zip(gradients, truths)])

    assert median_error(ours) <= min(2 * median_error(naive), 0.01)
