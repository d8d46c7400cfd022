"""Run the test suites as they would run on other machines: `make test-portability`, `make test-portability-legacy`.

    .venv/bin/python tools/portability.py SUITE... [--settings NAME...]

Libraries are told to leave instructions out that this processor has, so that they round as they do on processors
without them; the suites that compare floats run under each of these settings. Once, all suites run while busy loops
keep every core occupied. Needs nothing but Python's standard library. Exit status 1 where any setting fails.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# oneDNN is in PyTorch and in TensorFlow 2 (whose matrix products it makes even where TF_ENABLE_ONEDNN_OPTS is 0),
# OpenBLAS in NumPy and SciPy. TensorFlow 1.14 heeds none of these.
BUSY = "busy"
SETTINGS = {
    "sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "tf-without-onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    BUSY: {},
}
BUSY_LOOPS = 4

# What rounding has no part in, as far as it takes long
NOT_NUMERIC = [
    "tests/biggan/test_discover_command.py",
    "tests/biggan/test_scripts.py",
    "tests/browser",
    "tests/documents",
    "tests/progan/test_clevr.py",
    "tests/progan/test_parallel_command.py",
    "tests/progan/test_parallel_heartbeat.py",
    "tests/progan/test_parallel_launch.py",
    "tests/progan/test_reproduction.py",
    "tests/progan/test_resume.py",
    "tests/progan/test_train_command.py",
    "tests/progan/test_training_scripts.py",
    "tests/utils",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", metavar="SUITE", help="a folder of tests/, as the Makefile names it")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="default: all")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    verdicts = {}
    for name in arguments.settings:
        print(f"==== {name}: {describe(name)}", flush=True)
        verdicts[name] = run(name, arguments.suites)
        print(f"==== {name}: {verdicts[name]}", flush=True)
    print("".join(f"{verdict}  {name}: {describe(name)}\n" for name, verdict in verdicts.items()), end="")
    return "FAILED" in verdicts.values()


def describe(name):
    values = " ".join("=".join(pair) for pair in SETTINGS[name].items())
    return values or f"{BUSY_LOOPS} busy loops"


def run(name, suites):
    """Run the suites under a setting, as `make test` does; return 'passed', 'FAILED' or 'nothing to run'."""
    environment = dict(os.environ, **SETTINGS[name])
    if name != BUSY:
        suites = [suite for suite in suites if suite not in NOT_NUMERIC]
        if not suites:
            return "nothing to run"
        ignored = " ".join(f"--ignore={path}" for path in NOT_NUMERIC)
        environment["PYTEST_ADDOPTS"] = f"{os.environ.get('PYTEST_ADDOPTS', '')} {ignored}"
    command = ["make", "--no-print-directory", "-j2", "-Otarget", "-k", f"SUITE_PYTHON={sys.executable}"]
    # torch.compile would take what it compiled for other instructions out of its cache, and compute nonsense
    with tempfile.TemporaryDirectory() as cache, busy_loops(BUSY_LOOPS if name == BUSY else 0):
        environment["TORCHINDUCTOR_CACHE_DIR"] = cache
        process = subprocess.Popen(command + [f"suite-{suite}" for suite in suites], cwd=ROOT, env=environment)
        try:
            return "FAILED" if process.wait() else "passed"
        finally:
            if process.poll() is None:
                process.terminate()  # and with it what it runs
                process.wait()


@contextlib.contextmanager
def busy_loops(count):
    """Within the block so many loops run; they end with this process, too, however that ends."""
    program = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10**6))"
    loops = [subprocess.Popen([sys.executable, "-S", "-c", program]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main())
