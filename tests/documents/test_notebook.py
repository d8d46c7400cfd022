"""The tour: it runs from top to bottom wherever it is started, and what is committed is such a run's outputs."""

import json
import os
import re
import sys

import nbformat
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tools"))
import run_notebook

MEASURED = """\
import json
import sys
print(json.dumps({
    "scores": scores,
    "penalty": {name: measured.mean()["penalty"] for name, measured in zip(rivals, methods)},
    "tensorflow": "tensorflow" in sys.modules,
}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the executed notebook, the folder it ran in, its final numbers); runs it once."""
    folder = tmp_path_factory.mktemp("tour")
    notebook = run_notebook.read(run_notebook.NOTEBOOK)
    notebook.cells.append(nbformat.v4.new_code_cell(MEASURED))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "2")
        environment.setattr(run_notebook, "LONGEST", 3600)  # seconds for a cell, on a machine that is busy
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            environment.setenv(name, "http://127.0.0.1:9")  # nobody answers there: it is to need no network
        run_notebook.execute(notebook, str(folder))
    measured = json.loads(notebook.cells.pop().outputs[0].text)
    return notebook, folder, measured


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_run_prints_no_warning_and_draws_what_is_committed(run):
    notebook, _, _ = run
    committed = run_notebook.read(run_notebook.NOTEBOOK)
    kinds = {"stream": lambda output: output.name, "display_data": lambda output: sorted(output.data)}
    kinds["execute_result"] = kinds["display_data"]
    for now, before in zip(code_cells(notebook), code_cells(committed)):
        outputs = [[kinds[output.output_type](output) for output in cell.outputs] for cell in (now, before)]
        assert outputs[0] == outputs[1], now.source
        assert "stderr" not in outputs[0], now.outputs


def test_the_hessian_gets_more_diagonal_with_the_penalty_than_without(run):
    columns = {name: list(zip(*of_seeds)) for name, of_seeds in run[2]["scores"].items()}
    diagonalness, error, _, completeness, _ = range(5)
    assert min(columns["with"][diagonalness]) > 2 * max(columns["without"][diagonalness])
    assert sum(columns["with"][error]) < 1.2 * sum(columns["without"][error])  # not bought by a worse decoder
    assert min(columns["with"][completeness]) > 0.9
    assert sum(columns["with"][completeness]) > sum(columns["without"][completeness])


def test_discovery_lowers_the_penalty(run):
    penalty = run[2]["penalty"]
    assert penalty["learnt, 200 steps"] < 0.85 * penalty["random (the start)"]


def test_a_run_leaves_its_pages_in_its_folder_only(run):
    _, folder, measured = run
    assert os.listdir(folder) == ["demo_results"]
    names = ["A.pt", "autoencoders.html", "directions.html"]
    assert sorted(os.listdir(folder / "demo_results" / "tour")) == names
    for name in names[1:]:
        page = (folder / "demo_results" / "tour" / name).read_text()
        assert page.lstrip().lower().startswith("<!doctype html>") and len(page) > 100000
    assert not measured["tensorflow"]  # which does not share a process with PyTorch


def test_the_committed_file_is_small_and_says_nothing_of_where_it_was_run():
    assert os.path.getsize(run_notebook.NOTEBOOK) <= 10**6
    notebook = run_notebook.read(run_notebook.NOTEBOOK)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if "image/" not in k)]
        for text in texts:
            assert not re.search(r"(?<![\w.:/<])/(home|root|work|tmp|usr|mnt|Users)\b", text), text
        assert "execution" not in cell.metadata  # the times of the run


def test_the_committed_outputs_are_of_one_run_from_top_to_bottom():
    cells = code_cells(run_notebook.read(run_notebook.NOTEBOOK))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
