"""The tables of flags in the READMEs say what the commands' parsers do."""

import os
import re
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TREES = ("progan_experiments", "biggan_discovery")


def flag_tables(*arguments):
    command = [sys.executable, os.path.join(ROOT, "tools", "flag_tables.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_tables_are_up_to_date():
    done = flag_tables("--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


COMMAND = '''
"""{description}"""

import dataclasses
import sys

from experiment_utils import options
from experiment_utils.options import option


@dataclasses.dataclass
class ToyOptions:
    size: int = option({size}, "how large", metavar="PX")
    kinds: list = option(["a"], "which of them", nargs="+", choices=("a", "b|c"))
    other: float = option(None, "beside --size (default: half of it)", float)
    within: list = option(None, "from where to where", float, nargs=2, metavar=("LOW", "HIGH"))
    loud: bool = option(False, "say *more*")


def main(argv=None):
    options.parse(ToyOptions, __doc__, argv=argv)
    assert "torch" not in sys.modules
    raise AssertionError("the command itself is not to run")
'''


@pytest.fixture
def toy(tmp_path):
    """A repository with one command in each tree, whose READMEs have the place for a table."""
    for tree in TREES:
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "toy.py").write_text(COMMAND.format(description="Does it.\n\nAt length.", size=8))
        (tmp_path / tree / "README.md").write_text("before\n<!-- flags: toy.py -->\n<!-- /flags -->\nafter\n")
    return tmp_path


def test_tables_are_written(toy):
    assert flag_tables("--root", str(toy), "--check").returncode == 1
    assert flag_tables("--root", str(toy)).returncode == 0
    assert (
        (toy / "biggan_discovery" / "README.md").read_text()
        == """before
<!-- flags: toy.py -->

### `toy.py`

Does it.

| flag | default | meaning |
|---|---|---|
| `--size PX` | `8` | how large |
| `--kinds ...` | `a` | which of them, any of: `a`, <code>b&#124;c</code> |
| `--other X` | half of it | beside `--size` |
| `--within LOW HIGH` |  | from where to where |
| `--loud` | off | say \\*more\\* |

<!-- /flags -->
after
"""
    )
    assert flag_tables("--root", str(toy), "--check").returncode == 0


def test_a_changed_default_is_noticed_and_nothing_written(toy):
    flag_tables("--root", str(toy))
    (toy / "biggan_discovery" / "toy.py").write_text(COMMAND.format(description="Does it.", size=9))
    readme = toy / "biggan_discovery" / "README.md"
    before = readme.read_text()
    done = flag_tables("--root", str(toy), "--check")
    assert done.returncode == 1
    assert re.search(r"biggan_discovery/README\.md: .*run: python tools/flag_tables\.py", done.stdout)
    assert "progan_experiments" not in done.stdout
    assert readme.read_text() == before


def test_a_new_command_gets_a_table_after_the_others(toy):
    shutil.copy(toy / "biggan_discovery" / "toy.py", toy / "biggan_discovery" / "another.py")
    assert flag_tables("--root", str(toy)).returncode == 0
    assert re.findall("### (.*)", (toy / "biggan_discovery" / "README.md").read_text()) == ["`toy.py`", "`another.py`"]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("no place\n", "has no place for tables"),
        ("<!-- flags: gone.py -->\n<!-- /flags -->\n", "names gone.py for a table, and there is no such command"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(toy, text, problem):
    (toy / "progan_experiments" / "README.md").write_text(text)
    done = flag_tables("--root", str(toy))
    assert done.returncode == 2
    assert problem in done.stderr
    assert len(done.stderr.splitlines()) == 1
