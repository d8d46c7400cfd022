"""The three portable penalties behind one interface of NumPy arrays, so that a test can be written once."""

import contextlib
import os

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

torch.set_num_threads(1)
settings.register_profile("penalty", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("penalty")

if os.environ.get("PENALTY_TESTS_EAGER"):  # TensorFlow 1.14 can go eager only when a program starts
    tf.compat.v1.enable_eager_execution()


class Framework:
    """What the tests use of a framework. `run` evaluates a function's tensors (a list, or one) to NumPy arrays."""

    @classmethod
    def penalty(cls, G, z, **kwargs):
        return cls.run(lambda: cls.hessian_penalty(G, cls.constant(z), **kwargs))

    @classmethod
    def latents(cls, z, **kwargs):
        """The arguments that G gets, in the order of its calls: [passes, *z.shape]."""
        seen = []

        def record():
            cls.hessian_penalty(lambda latents: seen.append(latents) or latents, cls.constant(z), **kwargs)
            return seen

        return np.stack(cls.run(record))


class NumPy(Framework):
    hessian_penalty = staticmethod(hessian_penalty_np.hessian_penalty)
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
    hessian_penalty = staticmethod(hessian_penalty_pytorch.hessian_penalty)
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

    hessian_penalty = staticmethod(hessian_penalty_tf.hessian_penalty)
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


@pytest.fixture(scope="module", params=sorted(FRAMEWORKS))
def framework(request):
    FRAMEWORKS[request.param].seed(1)
    return FRAMEWORKS[request.param]


@pytest.fixture(scope="session")
def frameworks():
    return FRAMEWORKS
