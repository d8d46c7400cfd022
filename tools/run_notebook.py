"""Execute a notebook from top to bottom, and keep what it prints and draws.

    python tools/run_notebook.py                                # hessian_penalty_tour.ipynb, in place

What would change from run to run without meaning anything (times, the Python version) is not kept. A cell that fails
leaves the file as it was; the message says which and why.
"""

import os
import sys

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from experiment_utils.files import atomic_write

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOTEBOOK = os.path.join(ROOT, "hessian_penalty_tour.ipynb")
LONGEST = 600  # seconds that one cell may take


def read(path):
    return nbformat.read(path, as_version=4)


def execute(notebook, folder):
    """Run all cells in `folder`, in a kernel of this Python; outputs go into `notebook`. Raises CellExecutionError."""
    NotebookClient(
        notebook,
        timeout=LONGEST,
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


def write(notebook, path):
    with atomic_write(path) as stream:
        stream.write((nbformat.writes(notebook) + "\n").encode())


def main():
    notebook = read(NOTEBOOK)
    try:
        execute(notebook, ROOT)
    except CellExecutionError as problem:
        sys.stderr.write(f"run_notebook.py: error: {problem}\n")
        sys.exit(2)
    write(notebook, NOTEBOOK)
    print(f"{os.path.basename(NOTEBOOK)}: {os.path.getsize(NOTEBOOK)} bytes")


if __name__ == "__main__":
    main()
