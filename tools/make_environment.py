"""Make a virtual environment with everything this repository needs, or do nothing where it is there already.

    python3 tools/make_environment.py modern .venv          [--python python3.12]   from requirements.txt
    python3 tools/make_environment.py legacy .venv-legacy   [--python python3.7]    from environment.yml

Needs nothing but Python's standard library, and touches nothing outside the environment's own directory.
"""

import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# kind: (oldest Python, newest Python, files that decide what is installed, what the user should know beforehand)
KINDS = {
    "modern": (
        (3, 10),
        (3, 13),
        ["requirements.txt", "pyproject.toml"],
        "TensorFlow 2 and PyTorch: 9 GB of disk, about half of it to download (PyTorch brings its CUDA libraries)",
    ),
    "legacy": (
        (3, 7),
        (3, 7),
        ["environment.yml", "pyproject.toml"],
        "TensorFlow 1.14 and PyTorch 1.13: 5 GB of disk, about half of it to download",
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("directory")
    parser.add_argument("--python", help="the interpreter to use (default: the first one that fits)")
    arguments = parser.parse_args()
    oldest, newest, files, description = KINDS[arguments.kind]
    directory = os.path.abspath(arguments.directory)

    stamp_path = os.path.join(directory, "installed-from.sha256")
    stamp = digest(files)
    if os.path.exists(stamp_path) and open(stamp_path).read() == stamp:
        return
    python = find_python(arguments.python, oldest, newest)
    print(f"Setting up {arguments.directory} with {python}: {description};", flush=True)
    print("two to ten minutes on a fast line, once. Nothing outside that directory is changed.", flush=True)
    run([python, "-m", "venv", "--clear", directory], "on Debian and Ubuntu, `apt install python3-venv` provides it")
    pip = [os.path.join(directory, "bin", "python"), "-m", "pip", "install"]
    pip += ["--disable-pip-version-check"] + ([] if sys.stdout.isatty() else ["--quiet"])
    advice = "check the network and the free disk space, and run the same command again"
    if arguments.kind == "modern":
        run([*pip, "--require-hashes", "-r", "requirements.txt"], advice)
        run([*pip, "--no-deps", "--no-build-isolation", "-e", "."], advice)
    else:
        run(pip + pip_section("environment.yml"), advice)
    with open(stamp_path, "w") as stream:
        stream.write(stamp)


def digest(files):
    """Return a checksum of the files that decide what is installed."""
    checksum = hashlib.sha256()
    for name in files:
        with open(os.path.join(ROOT, name), "rb") as stream:
            checksum.update(stream.read())
    return checksum.hexdigest()


def find_python(wanted, oldest, newest):
    """Return the path of a Python between two versions, on the PATH or in pyenv; exit with status 2 without one."""
    span = ".".join(map(str, oldest)) + ("" if oldest == newest else " to " + ".".join(map(str, newest)))
    names = [wanted] if wanted else [f"python3.{minor}" for minor in range(newest[1], oldest[1] - 1, -1)]
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates = [] if wanted else [sys.executable]
    for name in names:
        candidates.append(shutil.which(name))
        candidates += sorted(glob.glob(os.path.join(pyenv, "versions", "*", "bin", name)))
    for path in candidates:
        if path is not None and oldest <= version(path) <= newest:
            return path
    what = f"PYTHON={wanted} is no" if wanted else "found no"
    fail(f"{what} Python {span}, on the PATH or in pyenv; install one, or name it: make ... PYTHON=/path/to/python")


def version(python):
    """Return (major, minor) of an interpreter; (0, 0) where it does not run."""
    command = [python, "-c", "import sys; print(sys.version_info[0], sys.version_info[1])"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return tuple(int(number) for number in result.stdout.split()) if result.returncode == 0 else (0, 0)


def pip_section(path):
    """Return pip's arguments for the entries below `- pip:` in a conda environment file."""
    with open(os.path.join(ROOT, path)) as stream:
        lines = stream.read().splitlines()
    begin = lines.index("  - pip:") + 1
    entries = [line.strip()[2:] for line in lines[begin:] if line.startswith("      - ")]
    return [word for entry in entries for word in entry.split()]


def run(command, advice):
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        fail(f"failed: {' '.join(command)} ({advice})")


def fail(message):
    sys.stderr.write(f"make_environment.py: error: {message}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
