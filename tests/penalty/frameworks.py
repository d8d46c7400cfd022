"""The portable penalties behind one interface of NumPy arrays, so that a test can be written once."""

import contextlib
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import torch  # isort: skip  PyTorch before TensorFlow,

with contextlib.suppress(ImportError):
    import triton  # noqa: F401  and its Triton, which torch.optim would load later: the other order can crash

import numpy as np
import pytest
import tensorflow as tf

import hessian_penalty_np
import hessian_penalty_pytorch
import hessian_penalty_tf

OPTIMIZED = {}  # what jax.jit takes as compiler_options where it is XLA's optimizations that matter
if sys.version_info >= (3, 11):  # JAX last, after PyTorch and TensorFlow
    from importlib import metadata

    if metadata.version("jax").startswith("0.10.") and tf.__version__.startswith("2.21."):  # others may not know these
        # XLA compiles thousands of small functions here, each to run once: five times as fast without optimizations.
        flags = " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags
        OPTIMIZED = dict(xla_backend_optimization_level=3, xla_cpu_use_fusion_emitters=True)
    import jax
    import jax.numpy as jnp

    import hessian_penalty_jax

    jax.config.update("jax_enable_x64", True)

torch.set_num_threads(1)
ONLY_EAGER = bool(os.environ.get("PENALTY_TESTS_EAGER"))
if ONLY_EAGER:  # TensorFlow 1.14 can go eager only when a program starts
    tf.compat.v1.enable_eager_execution()


class Framework:
    """What the tests use of a framework. `run` evaluates a function's tensors (a list, or one) to NumPy arrays."""

    modes = ()  # ways of running of which `compute` knows, and in which there are gradients

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

    @classmethod
    def weighted(cls, values):
        """A sum in which each value has a weight of its own, so that its gradient has a share of each value's."""
        return sum((i + 1) * value for i, value in enumerate(values))


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
    modes = ("eager",)
    module, hessian_penalty = hessian_penalty_pytorch, staticmethod(hessian_penalty_pytorch.hessian_penalty)
    constant, reshape, tanh = staticmethod(torch.tensor), staticmethod(torch.reshape), staticmethod(torch.tanh)
    max, mean, sum = staticmethod(torch.max), staticmethod(torch.mean), staticmethod(torch.sum)
    maximum, sin = staticmethod(torch.maximum), staticmethod(torch.sin)
    take = staticmethod(lambda table, indices: table[indices])
    seed = staticmethod(torch.manual_seed)

    @staticmethod
    def cast(tensor, dtype):
        return tensor.to(getattr(torch, dtype))

    @staticmethod
    def run(function):
        value = function()
        return [tensor.detach().numpy() for tensor in value] if isinstance(value, list) else value.detach().numpy()

    @staticmethod
    def compute(mode, function, arrays, weights=None, unknown_batch=False):
        """{name: array} that function(tensors by name, weights by name) returns by name, run in this mode."""
        tensors = [{name: torch.tensor(a) for name, a in some.items()} for some in (arrays, weights or {})]
        return {name: value.detach().numpy() for name, value in function(*tensors).items()}

    @classmethod
    def differentiate(cls, function, sources):
        """The values (a list of scalars) of function(*sources), and the gradients of a weighted sum of them."""
        sources = [source.clone().requires_grad_() for source in sources]
        values = function(*sources)
        gradients = torch.autograd.grad(cls.weighted(values), sources, allow_unused=True)
        gradients = [torch.zeros_like(s) if g is None else g for s, g in zip(sources, gradients)]
        return [value.detach() for value in values], gradients


class TensorFlow(Framework):
    """Eager where that is TensorFlow's default, a graph and a session in TensorFlow 1."""

    modes = (["eager"] + ["function", "xla"] * (tf.__version__ >= "2")) * tf.executing_eagerly()
    modes += ["graph"] * (not ONLY_EAGER)
    module, hessian_penalty = hessian_penalty_tf, staticmethod(hessian_penalty_tf.hessian_penalty)
    constant, reshape, tanh = staticmethod(tf.constant), staticmethod(tf.reshape), staticmethod(tf.tanh)
    max, mean, sum = staticmethod(tf.reduce_max), staticmethod(tf.reduce_mean), staticmethod(tf.reduce_sum)
    maximum, sin = staticmethod(tf.maximum), staticmethod(tf.sin)
    take, cast = staticmethod(tf.gather), staticmethod(tf.cast)
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

    @staticmethod
    def compute(mode, function, arrays, weights=None, unknown_batch=False, unknown_axes=None):
        """As PyTorch's, the weights being variables.

        unknown_batch: graphs do not know how long the batch is. unknown_axes: {name: axis} instead.
        """
        of_batch = {name: 0 for name, array in arrays.items() if array.shape[:1] == arrays.get("z", array).shape[:1]}
        unknown = unknown_axes or (of_batch if unknown_batch else {})
        shapes = {
            name: [None if axis == unknown.get(name) else size for axis, size in enumerate(array.shape)]
            for name, array in arrays.items()
        }

        def variables():
            return {name: tf.Variable(weight, name=name) for name, weight in (weights or {}).items()}

        if mode == "graph":
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                inputs = {name: tf.compat.v1.placeholder(a.dtype, shapes[name]) for name, a in arrays.items()}
                outputs = function(inputs, variables())
                session.run(tf.compat.v1.global_variables_initializer())
                return session.run(outputs, {inputs[name]: array for name, array in arrays.items()})
        made, inputs = variables(), {name: tf.constant(array) for name, array in arrays.items()}

        def call(inputs):
            return function(inputs, made)

        if mode != "eager":
            signature = {name: tf.TensorSpec(shapes[name], array.dtype) for name, array in arrays.items()}
            call = tf.function(call, input_signature=[signature], jit_compile=mode == "xla")
        return {name: tensor.numpy() for name, tensor in call(inputs).items()}

    @classmethod
    def differentiate(cls, function, sources):
        """As PyTorch's."""
        if not tf.executing_eagerly() and type(tf.compat.v1.get_default_graph()) is tf.Graph:  # not a tf.function's
            values = function(*sources)
            gradients = tf.gradients(cls.weighted(values), sources)
        else:
            with tf.GradientTape() as tape:
                for source in sources:
                    tape.watch(source)
                values = function(*sources)
                total = cls.weighted(values)
            gradients = tape.gradient(total, sources)
        return values, [tf.zeros_like(s) if g is None else tf.convert_to_tensor(g) for s, g in zip(sources, gradients)]


FRAMEWORKS = {"numpy": NumPy, "pytorch": PyTorch, "tensorflow": TensorFlow}

if sys.version_info >= (3, 11):

    class JAX(Framework):
        """JAX has no generator of its own: every call gets a new key."""

        modes = ("eager", "jit")
        module, hessian_penalty = hessian_penalty_jax, staticmethod(hessian_penalty_jax.hessian_penalty)
        constant, reshape, tanh = staticmethod(jnp.asarray), staticmethod(jnp.reshape), staticmethod(jnp.tanh)
        max, mean, sum = staticmethod(jnp.max), staticmethod(jnp.mean), staticmethod(jnp.sum)
        maximum, sin = staticmethod(jnp.maximum), staticmethod(jnp.sin)
        take = staticmethod(lambda table, indices: table[indices])
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

        @staticmethod
        def compute(mode, function, arrays, weights=None, unknown_batch=False):
            """As PyTorch's."""
            tensors = jax.tree_util.tree_map(jnp.asarray, (arrays, weights or {}))
            return jax.tree_util.tree_map(np.asarray, (jax.jit(function) if mode == "jit" else function)(*tensors))

        @classmethod
        def differentiate(cls, function, sources):
            """As PyTorch's."""

            def total(sources):
                values = function(*sources)
                return cls.weighted(values), values

            (_, values), gradients = jax.value_and_grad(total, has_aux=True)(sources)
            return values, gradients

    FRAMEWORKS["jax"] = JAX

# (framework, mode), for parametrize
WAYS = [
    pytest.param(framework, mode, id=f"{name}-{mode}")
    for name, framework in sorted(FRAMEWORKS.items())
    for mode in framework.modes
    if name == "tensorflow" or not ONLY_EAGER
]
EAGER_WAYS = [way for way in WAYS if way.values[1] == "eager"]


# ----------------------------------------------------------------------------------------------------------------------
# TensorFlow 1 eagerly

needs_another_process = pytest.mark.skipif(
    tf.executing_eagerly(), reason="this process is eager: the same tests run in it directly"
)


def assert_passes_eagerly(path):
    environment = dict(os.environ, PENALTY_TESTS_EAGER="1")
    command = [sys.executable, "-m", "pytest", "-W", "ignore", "-p", "no:cacheprovider", os.path.abspath(path)]
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert finished.returncode == 0, finished.stdout.decode()
