"""The portable penalties behind one interface of NumPy arrays, so that a test can be written once."""

import contextlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import torch  # isort: skip  PyTorch before TensorFlow,

with contextlib.suppress(ImportError):
    import triton  # noqa: F401  and its Triton, which torch.optim would load later: the other order can crash

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import settings

import hessian_penalty_np
import hessian_penalty_pytorch
import hessian_penalty_tf

if sys.version_info >= (3, 11):  # JAX last, after PyTorch and TensorFlow
    import jax
    import jax.numpy as jnp

    import hessian_penalty_jax

    jax.config.update("jax_enable_x64", True)

torch.set_num_threads(1)
settings.register_profile("penalty", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("penalty")

if os.environ.get("PENALTY_TESTS_EAGER"):  # TensorFlow 1.14 can go eager only when a program starts
    tf.compat.v1.enable_eager_execution()


class Framework:
    """What the tests use of a framework. `run` evaluates a function's tensors (a list, or one) to NumPy arrays."""

    @classmethod
    def call(cls, function, G, z, **kwargs):
        """hessian_penalty or diagonalness, with what the framework needs in order to draw."""
        return function(G, cls.constant(z), **kwargs)

    @classmethod
    def penalty(cls, G, z, **kwargs):
        return cls.run(lambda: cls.call(cls.hessian_penalty, G, z, **kwargs))

    @classmethod
    def diagonalness(cls, G, z, **kwargs):
        """As (ratio, standard_error), or a list of them; the names are those of the file's own namedtuple."""

        def fields():
            value = cls.call(cls.module.diagonalness, G, z, **kwargs)
            values = value if isinstance(value, list) else [value]
            assert all(v._fields == ("ratio", "standard_error") for v in values)
            return [field for v in values for field in v]

        numbers = cls.run(fields)
        pairs = [tuple(numbers[i : i + 2]) for i in range(0, len(numbers), 2)]
        return pairs if kwargs.get("return_separately") else pairs[0]

    @classmethod
    def latents(cls, z, **kwargs):
        """The arguments that G gets, in the order of its calls: [passes, *z.shape]."""
        seen = []

        def record():
            for _ in range(2):  # the first call begins with a look at G
                seen.clear()
                cls.call(cls.hessian_penalty, lambda latents: seen.append(latents) or latents, z, **kwargs)
            return seen

        return np.stack(cls.run(record))


class NumPy(Framework):
    module, hessian_penalty = hessian_penalty_np, staticmethod(hessian_penalty_np.hessian_penalty)
    constant, reshape, tanh = staticmethod(np.asarray), staticmethod(np.reshape), staticmethod(np.tanh)
    max, mean, sum = staticmethod(np.max), staticmethod(np.mean), staticmethod(np.sum)
    seed = staticmethod(np.random.seed)

    @staticmethod
    def cast(array, dtype):
        return array.astype(dtype)

    @staticmethod
    def run(function):
        return function()


class PyTorch(Framework):
    module, hessian_penalty = hessian_penalty_pytorch, staticmethod(hessian_penalty_pytorch.hessian_penalty)
    constant, reshape, tanh = staticmethod(torch.tensor), staticmethod(torch.reshape), staticmethod(torch.tanh)
    max, mean, sum = staticmethod(torch.max), staticmethod(torch.mean), staticmethod(torch.sum)
    seed = staticmethod(torch.manual_seed)

    @staticmethod
    def cast(tensor, dtype):
        return tensor.to(getattr(torch, dtype))

    @staticmethod
    def run(function):
        value = function()
        return [tensor.numpy() for tensor in value] if isinstance(value, list) else value.numpy()


class TensorFlow(Framework):
    """Eager where that is TensorFlow's default, a graph and a session in TensorFlow 1."""

    module, hessian_penalty = hessian_penalty_tf, staticmethod(hessian_penalty_tf.hessian_penalty)
    constant, reshape, tanh = staticmethod(tf.constant), staticmethod(tf.reshape), staticmethod(tf.tanh)
    max, mean, sum = staticmethod(tf.reduce_max), staticmethod(tf.reduce_mean), staticmethod(tf.reduce_sum)
    cast = staticmethod(tf.cast)
    random = np.random.RandomState(0)

    @classmethod
    def run(cls, function):
        if tf.executing_eagerly():
            value = function()
            return [tensor.numpy() for tensor in value] if isinstance(value, list) else value.numpy()
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.compat.v1.set_random_seed(cls.random.randint(1 << 30))
            return session.run(function())

    @classmethod
    def seed(cls, seed):
        cls.random = np.random.RandomState(seed)
        tf.compat.v1.set_random_seed(seed)


FRAMEWORKS = {"numpy": NumPy, "pytorch": PyTorch, "tensorflow": TensorFlow}

if sys.version_info >= (3, 11):

    class JAX(Framework):
        """JAX has no generator of its own: every call gets a new key."""

        module, hessian_penalty = hessian_penalty_jax, staticmethod(hessian_penalty_jax.hessian_penalty)
        constant, reshape, tanh = staticmethod(jnp.asarray), staticmethod(jnp.reshape), staticmethod(jnp.tanh)
        max, mean, sum = staticmethod(jnp.max), staticmethod(jnp.mean), staticmethod(jnp.sum)
        random = np.random.RandomState(0)

        @classmethod
        def call(cls, function, G, z, **kwargs):
            return super().call(function, G, z, key=jax.random.key(cls.random.randint(1 << 30)), **kwargs)

        @staticmethod
        def cast(array, dtype):
            return array.astype(dtype)

        @staticmethod
        def run(function):
            return jax.tree_util.tree_map(np.asarray, function())

        @classmethod
        def seed(cls, seed):
            cls.random = np.random.RandomState(seed)

    FRAMEWORKS["jax"] = JAX


@pytest.fixture(scope="module", params=sorted(FRAMEWORKS))
def framework(request):
    FRAMEWORKS[request.param].seed(1)
    return FRAMEWORKS[request.param]


@pytest.fixture(scope="session")
def frameworks():
    return FRAMEWORKS
