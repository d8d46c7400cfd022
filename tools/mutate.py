"""Deliberate mistakes in the penalty files: does a test notice each of them?

    python tools/mutate.py                                 # all: a quarter of an hour
    python tools/mutate.py --framework pytorch --only lean
    python tools/mutate.py --list

Each mutation replaces one text in a copy of the files, in a temporary folder that comes first on PYTHONPATH; the files
themselves are never touched. Then the tests that ought to notice it run, up to the first that fails, which is printed.
Where none fails it says SURVIVED: a test is missing, or looks in the wrong place. Last of all, the tests that failed
must pass on the unchanged files.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time

os.environ.update(OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")

import torch  # noqa: F401  isort: skip  in the order in which tests/penalty imports them: once, since it takes longest

with contextlib.suppress(ImportError):
    import triton  # noqa: F401
import tensorflow  # noqa: F401

with contextlib.suppress(ImportError):
    import jax  # noqa: F401
import hypothesis  # noqa: F401
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TESTS = os.path.join(ROOT, "tests", "penalty")
FILES = {
    "numpy": "hessian_penalty_np.py",
    "pytorch": "hessian_penalty_pytorch.py",
    "tensorflow": "hessian_penalty_tf.py",
    "jax": "hessian_penalty_jax.py",
}
TIMEOUT = 900  # seconds, for the tests of one mutation

# old: a text that occurs exactly once in the file. tests: names of files in tests/penalty, without test_ and .py, and
# after a colon which of their tests, as for pytest's -k, without those that name another framework.
Mutation = collections.namedtuple("Mutation", "framework name old new tests")
MUTATIONS = []


def mutate(frameworks, name, old, new, tests):
    MUTATIONS.extend(Mutation(framework, name, old, new, tests) for framework in frameworks.split())


CLOSED_FORMS, INTERFACE = "penalty_closed_forms:", "penalty_interface:"
PRODUCT, PRECISION, DRAWN = CLOSED_FORMS + "product", CLOSED_FORMS + "large_constant", CLOSED_FORMS + "directions"
MAXIMUM, MEAN, OROJAR = (f"options:definition and {group}" for group in ("eager-leaky", "eager-mean", "orojar-sum"))
EXACT, RATIO = "options:definition and exact", "diagonalness:agree or known_hessian"

# fmt: off

# ----------------------------------------------------------------------------------------------------------------------
# NumPy

mutate("numpy", "biased variance", "axis=0, ddof=1)", "axis=0)", PRODUCT)
mutate("numpy", "ε for ε²", "(m - minus[0])) / epsilon**2", "(m - minus[0])) / epsilon", PRODUCT)
mutate("numpy", "no pivot", "((p - plus[0]) + (m - minus[0]))", "(p + m)", PRECISION)
mutate("numpy", "directions shared by all samples", "np.random.choice([-1, 1], size=expected)",
    "np.repeat(np.random.choice([-1, 1], size=(k, 1, *z.shape[1:])), len(z), axis=1)", DRAWN)
mutate("numpy", "directions with zeros", "choice([-1, 1]", "choice([-1, 0, 1]", DRAWN)
mutate("numpy", "reduction before the variance", "reduction(np.var(vHv, axis=0, ddof=1))",
    "np.var([reduction(s) for s in vHv], ddof=1)", INTERFACE + "callable_reduces")
mutate("numpy", "the last activation alone", "    return sum(penalties)", "    return penalties[-1]",
    INTERFACE + "a_list")
mutate("numpy", "half precision left as it is", "z.astype(np.result_type(z, np.float32), copy=False)", "z",
    INTERFACE + "half")
mutate("numpy", "coarse outputs let through", "np.result_type(output, np.float32) != output.dtype", "False",
    INTERFACE + "too_coarse")
mutate("numpy", "√2 lost in diagonalness", "(2**0.5 * e_a, e_a + e_b", "(e_a, e_a + e_b", RATIO)
mutate("numpy", "diagonal and off-diagonal swapped", "H in (H_aa, H_ab)", "H in (H_ab, H_aa)", RATIO)

# ----------------------------------------------------------------------------------------------------------------------
# The others, which say much in the same words

ALL = "pytorch tensorflow jax"
mutate(ALL, "biased variance", "total / k) / (k - 1) for", "total / k) / k for", PRODUCT)
mutate(ALL, "mean of s_0 forgotten", "k, sums, squares = 1, [], []", "k, sums, squares = 0, [], []", PRODUCT)
mutate(ALL, "ε for ε²", "(m - m_0)) / epsilon**2", "(m - m_0)) / epsilon", PRODUCT)
mutate(ALL, "no pivot", "((p - p_0) + (m - m_0)) /", "(p + m) /", PRECISION)
mutate("pytorch", "directions shared by all samples", "torch.randint(0, 2, expected, device=z.device)",
    "torch.randint(0, 2, (k, 1, *z.shape[1:]), device=z.device).expand(expected)", DRAWN)
mutate("tensorflow", "directions shared by all samples", "tf.random.uniform(shape, maxval=2, dtype=tf.int32)",
    "tf.random.uniform(tf.concat([[k, 1], shape[2:]], 0), maxval=2, dtype=tf.int32) + tf.zeros(shape, tf.int32)", DRAWN)
mutate("pytorch", "directions with 3", "torch.randint(0, 2, expected", "torch.randint(0, 3, expected", DRAWN)
mutate("tensorflow", "directions with 3", "maxval=2, dtype=tf.int32", "maxval=3, dtype=tf.int32", DRAWN)
mutate(
    "pytorch",
    "reduction before the variance",
    """
            variances = _variances(_second_differences(generator, z, v, epsilon))
            penalties = [reduction(variance) for variance in variances]
""",
    """
            differences = _second_differences(generator, z, v, epsilon)
            penalties = _variances([reduction(d) for d in of_one] for of_one in differences)
""",
    INTERFACE + "callable_reduces",
)
mutate("tensorflow", "reduction before the variance",
    "penalties = _reduced(reduction, _variances(_second_differences(G, z, v, epsilon)))",
    "penalties = _variances([reduction(d) for d in ds] for ds in _second_differences(G, z, v, epsilon))",
    INTERFACE + "callable_reduces")
mutate("pytorch", "return_separately adds up",
    "for variance in variances]\n    return penalties if return_separately else sum(penalties)",
    "for variance in variances]\n    return sum(penalties)", INTERFACE + "separately")
mutate("tensorflow", "return_separately adds up",
    "(G, z, v, epsilon)))\n    return penalties if return_separately else tf.add_n(penalties)",
    "(G, z, v, epsilon)))\n    return tf.add_n(penalties)", INTERFACE + "separately")
mutate("pytorch", "half-precision z not cast", "return _at_least_float32(z)", "return z", INTERFACE + "half")
mutate("tensorflow", "half-precision z not cast",
    "    z = tf.cast(z, tf.float32) if z.dtype.size < tf.float32.size else z\n", "", INTERFACE + "half")
mutate("pytorch", "G_kwargs not cast", "_at_least_float32(value) for", "value for", "penalty_pytorch:half")
mutate("pytorch", "gradient stopped", "        for x in steps:\n            yield self(z + x), self(z - x)",
    "        for x in steps:\n            yield [[output.detach() for output in self(at)] for at in (z + x, z - x)]",
    MAXIMUM)
mutate("tensorflow", "gradient stopped", "_check_activation(tf.convert_to_tensor(output), z) for",
    "_check_activation(tf.stop_gradient(tf.convert_to_tensor(output)), z) for", MAXIMUM)
mutate("pytorch", "squared slopes without the square", "Jv.square().reshape(", "Jv.reshape(", OROJAR)
mutate("tensorflow", "squared slopes without the square", "tf.square(p - m) - tf.square(p_0 - m_0)",
    "(p - m) - (p_0 - m_0)", OROJAR)
mutate("pytorch", "slopes by ε for 2ε", "(p - m) / (2 * epsilon)", "(p - m) / epsilon", OROJAR)
mutate("tensorflow", "slopes by ε for 2ε", "/ (2 * epsilon) ** 2", "/ epsilon**2", OROJAR)
mutate(ALL, "√2 lost in diagonalness", "2**0.5 * e_a", "1.0 * e_a", RATIO)
mutate("pytorch", "ratio upside down", "diagonal.mean(dim=1, keepdim=True) / mean",
    "1 / (diagonal / mean).mean(dim=1, keepdim=True)", RATIO)
mutate("tensorflow", "ratio upside down", "tf.reduce_mean(diagonal, axis=1, keepdims=True) / mean",
    "mean / tf.reduce_mean(diagonal, axis=1, keepdims=True)", RATIO)

mutate("pytorch", "select takes the sample before", "values.argmax() for", "(values.argmax() - 1) % len(z) for",
    MAXIMUM)
mutate("tensorflow", "select takes the sample before", "tf.argmax(of_samples) for",
    "tf.maximum(tf.argmax(of_samples) - 1, 0) for", "options:definition and graph-leaky")
TIES = "options:first_has_the_whole_gradient"
mutate("pytorch", "select takes the last of ties", "values.argmax() for", "len(z) - 1 - values.flip(0).argmax() for",
    TIES)
mutate("tensorflow", "select takes the last of ties", "tf.argmax(of_samples) for",
    "tf.size(of_samples, tf.int64) - 1 - tf.argmax(of_samples[::-1]) for", TIES)
NOTICED = "options:not_independent"
mutate("pytorch", "select does not verify", "_is_recording() or _reproduce(", "True or _reproduce(", NOTICED)
mutate("tensorflow", "select does not verify", "if not tf.executing_eagerly() or _reproduce(", "if True or _reproduce(",
    NOTICED)
QUIET = "options:only_rounding_errors"
mutate("pytorch", "select takes rounding for change", "search.sizes / divisor", "0 * search.sizes", QUIET)
mutate("tensorflow", "select takes rounding for change", "sizes / epsilon**2)", "0 * sizes)", QUIET)
mutate("pytorch", "ε⁴ for ε² in select's unit", "divisor = 1 if exact else epsilon**2",
    "divisor = 1 if exact else epsilon**4", NOTICED)
mutate("tensorflow", "ε⁴ for ε² in select's unit", "sizes / epsilon**2)", "sizes / epsilon**4)", NOTICED)
mutate("pytorch", "batch_kwargs not selected with their rows", "generator.kwargs[n].index_select(0, rows)",
    "generator.kwargs[n][: len(rows)]", MAXIMUM)
mutate("tensorflow", "batch_kwargs not selected with their rows", "_take(G.kwargs[name], rows)",
    "G.kwargs[name][: tf.size(rows)]", "options:definition and graph-leaky")
mutate("pytorch", "last chunk weighs as much as others", "len(rows) / len(z)", "chunk_size / len(z)", MEAN)
mutate("tensorflow", "last chunk weighs as much as others", "_length(z) / N if", "chunk_size / N if", MEAN)
mutate("pytorch", "stacked passes taken apart in the wrong order", "(output.chunk(n) for output in",
    "([output[i::n] for i in range(n)] for output in", MAXIMUM)
mutate("tensorflow", "stacked passes taken apart in the wrong order", "tf.split(output, n) for output in",
    "[output[i::n] for i in range(n)] for output in", MAXIMUM)
mutate("pytorch", "lean holds every pass", "return _checkpointed(inner, z)", "return self(z)",
    "penalty_pytorch:little_memory")
mutate("tensorflow", "lean holds every pass", "return iter(_recomputed([self] * len(latents), latents, self.kwargs))",
    "return super().passes(latents)", "penalty_tensorflow:little_memory and eager")
mutate("pytorch", "chunks are all held", "run = share if is_lean else functools.partial(_checkpointed, share)",
    "run = share", "penalty_pytorch:little_memory")
mutate("tensorflow", "chunks are all held",
    "shares = _recomputed(shares, [z[begin : begin + chunk_size] for begin in begins], G.kwargs)",
    "shares = [run(z[begin : begin + chunk_size]) for run, begin in zip(shares, begins)]",
    "penalty_tensorflow:little_memory and eager")
mutate("tensorflow", "no gradient for variables in lean", "sources = list(tape.watched_variables())", "sources = []",
    MAXIMUM)
mutate("tensorflow", "arguments counted twice in lean", "sources.update((id(source), source) for source in used)",
    "sources.update((len(sources) + i, source) for i, source in enumerate(used))", "penalty_tensorflow:gradient_once")
mutate("tensorflow", "XLA looks for the maximum again", "        reduction = _first_maximum\n", "        pass\n",
    "options penalty_tensorflow:xla and (leaky-maximum or maximum_its)")
mutate("pytorch", "random numbers differ between passes",
    "        _set_random_state(self.random_state)\n        with _replaced", "        with _replaced",
    "penalty_pytorch:dropout")
mutate("pytorch", "buffers change from pass to pass", "with _replaced(self.buffers):", "if True:",
    "generators_pytorch:same_state")
mutate("tensorflow", "variables change from pass to pass", "    _restore(state)\n    try:", "    try:",
    "generators_tensorflow:one_state and eager")
mutate("tensorflow", "variables not put back", "    finally:\n        _restore(found)", "    finally:\n        pass",
    "generators_tensorflow:one_state and eager")
mutate("pytorch", "half precision let through", "        if half:\n", "        if False:\n",
    "generators_pytorch:half_precision_between")
mutate("tensorflow", "half precision let through", 'raise ValueError(f"{TOO_COARSE}, got {half.dtype',
    'str(f"{TOO_COARSE}, got {half.dtype', "generators_tensorflow:half_precision_between and eager")
mutate("pytorch", "TF32 left on", "        backends.cudnn.allow_tf32 = False\n", "", "penalty_pytorch:tf32")
mutate("pytorch", "the caller's precision inside", "with full_float32(), no_autocast:", "if True:",
    "penalty_pytorch:autocast_to_bfloat16")
mutate("pytorch", "exact without v_0", "leaf, v_i - v[0])", "leaf, v_i)", EXACT)
mutate("pytorch", "exact by PyTorch's own layers", "_BY_GROUP_NORM.get(function, function)(", "function(",
    "exact_pytorch:normalization")

# ----------------------------------------------------------------------------------------------------------------------
# JAX

JIT_MEAN, JIT_LEAKY, EAGER = "options:jit-mean", "options:jit-leaky-maximum", "options:definition and eager"
DRAW = 'jax.random.rademacher(_check_key(key, "directions"), expected, z.dtype)'
mutate("jax", "directions shared by all samples", DRAW, f"jnp.broadcast_to({DRAW}[:, :1], expected)", DRAWN)
mutate("jax", "directions that are no signs", DRAW, f"{DRAW} * {DRAW.replace('rademacher', 'uniform')}", DRAWN)
mutate("jax", "reduction before the variance",
    "penalties = _reduced(reduction, _variances(_second_differences(G, z, v, epsilon)))",
    "penalties = _variances([reduction(d) for d in ds] for ds in _second_differences(G, z, v, epsilon))",
    INTERFACE + "callable_reduces")
mutate("jax", "return_separately adds up",
    "        _warn_if_zero(penalties)\n    return penalties if return_separately else sum(penalties)",
    "        _warn_if_zero(penalties)\n    return sum(penalties)", INTERFACE + "separately")
CAST = "z, G_kwargs = jax.tree_util.tree_map(_at_least_float32, (z, G_kwargs))"
mutate("jax", "half-precision z not cast", CAST, CAST.replace("z, ", "", 1).replace("(z, G_kwargs)", "G_kwargs"),
    INTERFACE + "half")
mutate("jax", "G_kwargs not cast", CAST, "z = _at_least_float32(z)", "penalty_jax:half")
mutate("jax", "gradient stopped", "map(function or self, points)",
    "map(function or self, jax.lax.stop_gradient(points))", EAGER)
mutate("jax", "squared slopes without the square", "_by_sample(Jv) ** 2", "_by_sample(Jv)", OROJAR)
mutate("jax", "slopes by ε for 2ε", "(p - m) / (2 * epsilon)", "(p - m) / epsilon", OROJAR)
mutate("jax", "ratio upside down", "jnp.mean(diagonal, axis=1, keepdims=True) / means",
    "means / jnp.mean(diagonal, axis=1, keepdims=True)", RATIO)
mutate("jax", "select takes the sample before", "jnp.argmax(of_samples) for",
    "(jnp.argmax(of_samples) - 1) % len(z) for", EAGER)
mutate("jax", "select takes the last of ties", "jnp.argmax(of_samples) for",
    "len(z) - 1 - jnp.argmax(of_samples[::-1]) for", TIES)
mutate("jax", "select does not verify", "if not _reproduce(", "if False and not _reproduce(", NOTICED)
mutate("jax", "select takes rounding for change", "change > rounding +", "change > 0 * rounding +", QUIET)
mutate("jax", "ε⁴ for ε² in select's unit", "_exact_differences else epsilon**2", "_exact_differences else epsilon**4",
    NOTICED)
mutate("jax", "ε² for 1 in select's unit of exact", "unit = 1 if differences is _exact",
    "unit = epsilon**2 if differences is _exact", "penalty_jax:precision_of_derivatives")
mutate("jax", "batch_kwargs not selected with their rows", "jnp.asarray(array)[rows]",
    "jnp.asarray(array)[: len(rows)]", EAGER)
mutate("jax", "last chunk weighs as much as others", "weight = len(z) / N if", "weight = chunk_size / N if", JIT_MEAN)
mutate("jax", "all passes taken apart in the wrong order", "zip(*map(jnp.unstack, outputs))",
    "zip(*(jnp.unstack(jnp.roll(each, 1, 0)) for each in outputs))", JIT_LEAKY)
mutate("jax", "lean holds every pass", "jax.lax.scan(jax.checkpoint(step),", "jax.lax.scan(step,",
    "penalty_jax:lean_memory")
mutate("jax", "lean holds the first passes", "jax.checkpoint(self.__call__)", "self.__call__",
    "penalty_jax:lean_memory")
mutate("jax", "chunks are all held", "    @jax.checkpoint\n    def share", "    def share", "penalty_jax:lean_memory")
mutate("jax", "half precision let through", "    if half:\n", "    if False:\n",
    "generators_jax:half_precision_inside and eager")
mutate("jax", "products of any precision",
    'with jax.default_matmul_precision("highest"):\n        if options or exact:',
    "if True:\n        if options or exact:", "penalty_jax:products")
mutate("jax", "exact without v_0", "jnp.stack([v_i + v[0], v_i - v[0]]) / 2", "jnp.stack([v_i, v_i]) / 2", EXACT)
mutate("jax", "the maximum is looked for by its value",
    "[each[jnp.argmax(jax.lax.stop_gradient(each))] for each in elements]", "[jnp.max(each) for each in elements]",
    "penalty_jax:equals_it")

# fmt: on

# ----------------------------------------------------------------------------------------------------------------------
# Machinery


class FirstFailure:
    """A plugin of pytest that notes the first test that fails."""

    name = None

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.name:
            self.name = report.nodeid[report.nodeid.index("test_") :]

    def pytest_collectreport(self, report):
        if report.failed:
            raise SystemExit(f"cannot be collected: {report.longreprtext}")


def run_pytest(folder, arguments, answer):
    """Run tests on the files in a folder, up to the first that fails, in a process of its own; answer with its name."""
    os.chdir(folder)
    os.environ.update(PYTHONPATH=folder, PYTHONDONTWRITEBYTECODE="1")  # for the processes that tests start
    sys.path.insert(0, folder)
    with open("output.txt", "w") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-c", os.path.join(ROOT, "pyproject.toml")]
    failure = FirstFailure()
    try:
        code = pytest.main([*options, *arguments], plugins=[failure])
        files = [
            os.path.dirname(sys.modules[file[:-3]].__file__) for file in FILES.values() if file[:-3] in sys.modules
        ]
        answer.send((failure.name, None if code in (0, 1) and set(files) == {folder} else f"pytest ends with {code}"))
    except BaseException as error:
        answer.send((None, repr(error)))
    os._exit(0)


def first_failure(mutations, arguments):
    """Return the name of the first test that fails on copies of the files, mutated, or None."""
    with tempfile.TemporaryDirectory() as folder:
        folder = os.path.realpath(folder)
        for file in FILES.values():
            shutil.copy(os.path.join(ROOT, file), folder)
        for mutation in mutations:
            path = os.path.join(folder, FILES[mutation.framework])
            with open(path, encoding="utf-8") as stream:
                text = stream.read()
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text.replace(mutation.old, mutation.new))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=run_pytest, args=(folder, arguments, theirs))
        process.start()
        if not ours.poll(TIMEOUT):
            process.kill()
            return f"tests that do not end within {TIMEOUT} seconds"
        failed, problem = ours.recv()
        process.join()
        if problem:
            with open(os.path.join(folder, "output.txt")) as stream:
                raise SystemExit(f"{[m.name for m in mutations]}: {problem}\n{stream.read()[-3000:]}")
    return failed


def try_out(mutation):
    """Return the first test that fails because of a mutation, or None, and the seconds that it took."""
    began = time.time()
    names, _, expression = mutation.tests.partition(":")
    others = " or ".join(sorted({*FILES} - {mutation.framework}))
    selection = f"not ({others})" + (f" and ({expression})" if expression else "")
    files = [os.path.join(TESTS, f"test_{name}.py") for name in names.split()]
    return first_failure([mutation], ["-k", selection, *files]), time.time() - began


def check(mutations):
    """Stop if a text that is to be replaced is not there exactly once."""
    for mutation in mutations:
        with open(os.path.join(ROOT, FILES[mutation.framework]), encoding="utf-8") as stream:
            count = stream.read().count(mutation.old)
        if count != 1:
            problem = f"occurs {count} times instead of once: {mutation.old!r}"
            raise SystemExit(f"{FILES[mutation.framework]}: the text of the mutation “{mutation.name}” {problem}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", nargs="+", choices=sorted(FILES), default=sorted(FILES))
    parser.add_argument("--only", default="", metavar="TEXT", help="mutations with this in their names")
    parser.add_argument("--list", action="store_true", help="list them, and run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="how many to run at a time (2)")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if m.framework in arguments.framework and arguments.only in m.name]
    if arguments.list:
        print("\n".join(f"{m.framework:10}  {m.name}" for m in chosen))
        return 0
    check(chosen)
    print("Each line: a deliberate mistake, and the test that noticed it. SURVIVED: none did, so one is missing.")
    noticed_by = []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for mutation, (failed, seconds) in zip(chosen, pool.map(try_out, chosen)):
            noticed_by += [failed] if failed else []
            print(f"{mutation.framework:10}  {mutation.name:45}  {failed or 'SURVIVED'}  ({seconds:.0f} s)", flush=True)
    tests = sorted({os.path.join(TESTS, failed) for failed in noticed_by if failed.startswith("test_")})
    failed = first_failure([], tests) if tests else None
    if failed:
        raise SystemExit(f"of those tests, this one fails without any mutation: {failed}")
    survived = len(chosen) - len(noticed_by)
    print(f"{len(noticed_by)} of {len(chosen)} noticed, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
