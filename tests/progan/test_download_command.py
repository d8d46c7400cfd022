"""download.py against a server on localhost: names, mirrors, cuts, lies, dead links, and where things land."""

import hashlib
import os
import sys
import threading

import file_server
import numpy as np
import pytest
from data_helpers import contents, random_images, run_tool, write_dataset
from pickle_assembler import network_pickle
from progan_helpers import load_command, random_networks

from experiment_utils import download
from experiment_utils.errors import SnapshotError, run_command
from progan import published
from progan.dataset import open_dataset
from progan.models import find_models
from progan.networks import NetworkSpec
from progan.snapshot import load_snapshot

SPEC = NetworkSpec(resolution=8, channels=3, nz=4, fmap_base=16, fmap_max=6)
BASE = "/HessianPenalty/resources"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{path: content} of a server with two of the models, and a dataset at the sizes that were published."""
    served = {
        f"{BASE}/pretrained_models/clevr_simple/simple_ft.pkl": network_pickle(random_networks(SPEC, 1), 0),
        f"{BASE}/pretrained_models/edgeshoes/e2s_bl.pkl": network_pickle(random_networks(SPEC, 2), 0),
    }
    for name, resolution in (("clevr_1fov", 256), ("edges_and_shoes", 128)):
        path = write_dataset(tmp_path_factory.mktemp("published") / name, random_images(3, resolution))
        served.update({f"{BASE}/datasets/{name}/{file}": content for file, content in contents(path).items()})
    return served


@pytest.fixture
def server(files):
    with file_server.running(file_server.Server(files=dict(files))) as server:
        yield server


@pytest.fixture
def command(tmp_path, server, monkeypatch, capsys):
    """command('NAME ...') in a working directory of its own -> (exit status, standard output, standard error)."""
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["download.py"])

    def run(words, mirror=server.address + BASE):
        with pytest.raises(SystemExit) as end:
            run_command(lambda: load_command("download").main(words.split() + (["--mirror", mirror] if mirror else [])))
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


def refusal(ending):
    """The one line of an error."""
    status, _, err = ending
    lines = [line for line in err.splitlines() if line.startswith("download.py: ")]
    assert status == 2 and len(lines) == 1 and "Traceback" not in err, err
    return lines[0]


# ----------------------------------------------------------------------------------------------------------------------
# What arrives, and who finds it


def test_addresses_as_published():
    assert published.ADDRESS.split("//")[1] == "efrosgans.eecs.berkeley.edu/HessianPenalty/resources"
    assert [published.model_file(name) for name in published.MODELS] == [
        f"pretrained_models/{folder}/{prefix}_{suffix}.pkl"
        for folder, prefix in [
            ("clevr_1fov", "1fov"), ("clevr_simple", "simple"), ("clevr_complex", "complex"),
            ("clevr_u", "underparam"), ("edgeshoes", "e2s"),
        ]
        for suffix in ("bl", "info", "fs", "ft")
    ]  # fmt: skip
    assert published.dataset_files("clevr_complex") == [
        f"datasets/clevr_complex/clevr_complex-r0{level}.tfrecords" for level in (2, 3, 4, 5, 6, 7, 8)
    ]
    assert published.dataset_files("edges_and_shoes")[-1].endswith("-r07.tfrecords")


def test_a_model_is_found_by_its_name(command, server, files, tmp_path):
    with pytest.raises(SnapshotError, match=r"clevr_simple_ft: a published model, not here yet; .* download.py clev"):
        find_models(["clevr_simple_ft"])
    status, out, err = command("clevr_simple_ft edges_and_shoes_bl")
    assert status == 0, err
    assert "pretrained_models/clevr_simple_ft.pkl: try visualize.py --models clevr_simple_ft" in out
    models = find_models(["clevr_simple_ft", "edges_and_shoes_bl"])
    assert models == [(name, f"pretrained_models/{name}.pkl") for name in ("clevr_simple_ft", "edges_and_shoes_bl")]
    for seed, (_, path) in enumerate(models, start=1):
        found, expected = load_snapshot(path).networks["Gs"], random_networks(SPEC, seed)["Gs"]
        assert all(np.array_equal(found[name], value) for name, value in expected.items())
    content = files[f"{BASE}/pretrained_models/clevr_simple/simple_ft.pkl"]
    url = f"{server.address}{BASE}/pretrained_models/clevr_simple/simple_ft.pkl"
    recorded = f"{hashlib.sha256(content).hexdigest()}  clevr_simple_ft.pkl\n# {len(content)} bytes from {url}\n"
    assert open("pretrained_models/clevr_simple_ft.pkl.sha256").read() == recorded
    assert command("clevr_simple_ft")[0] == 0 and len(server.requests) == 2  # the second time it was there


def test_models_that_ship_keep_their_names(command):
    """They carry their resolution, so that none of them is in the way of a published one."""
    ((name, path),) = find_models(["clevr_1fov_16_fs"])
    assert name not in published.MODELS and path.endswith("pretrained_models/clevr_1fov_16_fs.safetensors")


def test_a_converted_model_is_found_too(command, tmp_path, monkeypatch):
    command("clevr_simple_ft")
    load_command("convert_snapshot").main(["pretrained_models/clevr_simple_ft.pkl"])
    os.remove("pretrained_models/clevr_simple_ft.pkl")
    assert find_models(["clevr_simple_ft"]) == [("clevr_simple_ft", "pretrained_models/clevr_simple_ft.safetensors")]


def test_other_places(command, tmp_path):
    status, out, _ = command("clevr_simple_ft --models_dir elsewhere")
    assert status == 0 and "try visualize.py --models elsewhere/clevr_simple_ft.pkl" in out
    assert find_models(["elsewhere/clevr_simple_ft.pkl"]) == [("clevr_simple_ft", "elsewhere/clevr_simple_ft.pkl")]
    assert command("clevr_1fov --data_dir sets --resolution 8")[0] == 0
    assert open_dataset("clevr_1fov", "sets").resolutions == [4, 8]


def test_a_dataset_is_found_by_its_name(command, files):
    status, out, err = command("edges_and_shoes")
    assert status == 0 and "train.py --dataset datasets/edges_and_shoes" in out, err
    dataset = open_dataset("edges_and_shoes", "datasets")
    assert dataset.resolutions == [4, 8, 16, 32, 64, 128] and len(dataset) == 3
    np.testing.assert_array_equal(dataset.images(128, range(3)), random_images(3, 128))
    assert os.listdir("datasets") == ["edges_and_shoes"]
    assert sorted(name for name in os.listdir("datasets/edges_and_shoes") if not name.endswith(".sha256")) == sorted(
        os.path.basename(path) for path in files if "edges_and_shoes-r" in path
    )
    for name in published.dataset_files("edges_and_shoes"):
        recorded = open("datasets/edges_and_shoes/" + os.path.basename(name) + ".sha256").read()
        assert recorded.startswith(hashlib.sha256(files[f"{BASE}/{name}"]).hexdigest())


def test_all_levels_of_clevr(command, server):
    assert command("clevr_1fov")[0] == 0
    assert open_dataset("clevr_1fov", "datasets").resolution == 256
    assert command("clevr_1fov")[0] == 0 and len(server.requests) == 7


def test_clevr_u_is_a_model_of_clevr_simples_images(command):
    assert "clevr_simple-r02.tfrecords: 127.0.0.1" in refusal(command("clevr_u"))


def test_the_list(command):
    command("clevr_simple_ft")
    _, out, _ = command("--list", mirror=None)
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert list(lines) == [*published.DATASETS, *published.MODELS] and len(lines) == 4 + 20
    assert lines["clevr_simple_ft"].endswith("pretrained_models/clevr_simple_ft.pkl")
    assert lines["clevr_simple_fs"].endswith("not here") and "hessian penalty from scratch" in lines["clevr_simple_fs"]
    _, out, _ = command("clevr_u --list")
    assert [line.split()[0] for line in out.splitlines()] == [
        "clevr_simple", "clevr_u_bl", "clevr_u_info", "clevr_u_fs", "clevr_u_ft",
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# From this machine


def test_a_copy_of_a_model(command, files, tmp_path, server):
    (tmp_path / "simple_ft.pkl").write_bytes(files[f"{BASE}/pretrained_models/clevr_simple/simple_ft.pkl"])
    assert command(f"clevr_simple_ft --from_file {tmp_path / 'simple_ft.pkl'}")[0] == 0
    assert load_snapshot(find_models(["clevr_simple_ft"])[0][1]).spec == SPEC and not server.requests
    assert str(tmp_path / "simple_ft.pkl") in open("pretrained_models/clevr_simple_ft.pkl.sha256").read()
    (tmp_path / "text").write_text("text")
    assert "text: not a readable" in refusal(command(f"clevr_simple_fs --from_file {tmp_path / 'text'}"))
    assert "nothing.pkl: no such file" in refusal(command("clevr_simple_fs --from_file nothing.pkl"))
    assert "of which of clevr_u_bl clevr_u_ft?" in refusal(command("clevr_u_bl clevr_u_ft --from_file x"))
    assert sorted(os.listdir("pretrained_models")) == ["clevr_simple_ft.pkl", "clevr_simple_ft.pkl.sha256"]


def test_a_copy_of_a_dataset_under_another_name(command, tmp_path, server):
    factors, info = np.float32([[0], [1]]), [{"name": "x", "kind": "continuous", "range": [0, 1]}]
    path = write_dataset(tmp_path / "mine", random_images(2, 16), factors, info)
    assert command(f"clevr_1fov --from_file {path} --resolution 8")[0] == 0 and not server.requests
    dataset = open_dataset("clevr_1fov", "datasets")
    assert dataset.name == "clevr_1fov" and dataset.resolutions == [4, 8] and dataset.factors.shape == (2, 1)
    assert "clevr_1fov-r02.tfrecords: a dataset is a directory" in refusal(
        command("clevr_simple --from_file datasets/clevr_1fov/clevr_1fov-r02.tfrecords")
    )
    assert os.listdir("datasets") == ["clevr_1fov"]


# ----------------------------------------------------------------------------------------------------------------------
# Servers that fail


def test_a_cut_connection_goes_on(command, server, files):
    server.break_after = 5000
    said = refusal(command("clevr_simple_ft"))
    assert "broke off after 5000 of " in said and said.endswith("try again to go on from there")
    assert "clevr_simple_ft.pkl" not in os.listdir("pretrained_models")
    server.break_after = None
    assert command("clevr_simple_ft")[0] == 0 and server.requests[-1][0] == "bytes=5000-"
    assert open("pretrained_models/clevr_simple_ft.pkl", "rb").read() == files[server.paths[0]]


def test_a_dataset_goes_on_where_it_stopped(command, server):
    server.break_after = 20000  # within r06: 3 x 12 kB
    assert "edges_and_shoes-r06.tfrecords: broke off" in refusal(command("edges_and_shoes"))
    assert os.listdir("datasets") == ["edges_and_shoes.download.partial"]
    server.break_after = None
    assert command("edges_and_shoes")[0] == 0
    assert [path[-13:-10] for path in server.paths[-2:]] == ["r06", "r07"] and server.requests[-2][0] == "bytes=20000-"
    assert len(server.paths) == 5 + 2 and os.listdir("datasets") == ["edges_and_shoes"]
    assert not [name for name in os.listdir("datasets/edges_and_shoes") if ".part" in name]


ALTERNATIVES = ["; instead: --mirror URL (the same files elsewhere), --from_file PATH ("]
OF_A_MODEL = [*ALTERNATIVES, "(a copy of simple_fs.pkl), or train your own: "]
OF_A_MODEL += ["progan_experiments/training_scripts/hessian_penalty_from_scratch/clevr_simple.sh"]


def test_a_dead_link_names_the_alternatives(command, server):
    said = refusal(command("clevr_simple_fs"))
    assert all(words in said for words in ["answers 404 Not Found; instead", *OF_A_MODEL])
    script = said.split("train your own: ")[1]
    assert os.path.isfile(os.path.join(os.path.dirname(__file__), "..", "..", script))
    said = refusal(command("clevr_complex"))
    command_line = "dataset_tool.py render_clevr datasets/clevr_complex --variant complex --images 10000 --resolution 1"
    assert all(words in said for words in ["answers 404", *ALTERNATIVES, command_line])
    del server.files[f"{BASE}/datasets/edges_and_shoes/edges_and_shoes-r07.tfrecords"]
    assert "dataset_tool.py create_edges_and_shoes datasets/edges_and_shoes" in refusal(command("edges_and_shoes"))
    assert find_models(["clevr_1fov_16_fs"])  # what ships is not in danger


@pytest.mark.parametrize("name", ["clevr_1fov", "clevr_simple", "clevr_complex"])
def test_the_command_that_renders_ones_own_is_a_command(name, tmp_path):
    """...of dataset_tool.py: it is refused for the place alone, which is taken."""
    words = published._command_for(name).split()
    out = tmp_path / name
    out.write_text("a file")
    status, _, err = run_tool(*[str(out) if word == f"datasets/{name}" else word for word in words[1:]])
    assert status == 2 and ("is a file" in err or "mitsuba" in err.lower()), err


def test_an_unreachable_server(command, server):
    closed = file_server.Server()
    with file_server.running(closed):
        pass
    said = refusal(command("clevr_simple_fs", mirror=closed.address))
    assert "cannot reach 127.0.0.1" in said and all(words in said for words in OF_A_MODEL)


def test_a_server_that_hangs(command, server, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 2)
    server.break_after, server.hang = 5000, threading.Event()
    assert "(timed out); try again to go on from there" in refusal(command("clevr_simple_ft"))
    server.hang.set()
    server.break_after = server.hang = None
    assert command("clevr_simple_ft")[0] == 0


def test_a_server_that_says_too_little(command, server, files):
    """Half a pickle is no pickle, and half a TFRecord file none either: nothing of it gets a name."""
    server.length = "5000"
    said = refusal(command("clevr_simple_ft"))
    assert "simple_ft.pkl: truncated: " in said and "; nothing of it was kept; instead: " in said
    assert os.listdir("pretrained_models") == []
    server.length = "100"
    said = refusal(command("edges_and_shoes"))
    assert "edges_and_shoes-r02.tfrecords: record 1 is truncated" in said and "nothing of it was kept" in said
    assert os.listdir("datasets/edges_and_shoes.download.partial") == []


def test_a_server_that_says_too_little_and_cuts_between_records(command, server, files):
    """The levels of a dataset must hold equally many images."""
    name = f"{BASE}/datasets/edges_and_shoes/edges_and_shoes-r04.tfrecords"
    server.files[name] = files[name][: len(files[name]) // 3]
    said = refusal(command("edges_and_shoes"))
    assert "holds 1 images, but edges_and_shoes-r07.tfrecords holds 3" in said
    assert "delete datasets/edges_and_shoes.download.partial and fetch it again" in said
    assert os.listdir("datasets") == ["edges_and_shoes.download.partial"]


def test_a_server_that_states_no_length(command, server, files):
    server.stated = False
    server.break_after = 5000
    assert "simple_ft.pkl: truncated" in refusal(command("clevr_simple_ft"))
    server.break_after = None
    assert command("clevr_simple_ft")[0] == 0  # a pickle says itself where it ends
    assert open("pretrained_models/clevr_simple_ft.pkl", "rb").read() == files[server.paths[0]]


@pytest.mark.parametrize("content", [b"\x80\x04N.", b"no pickle", b""])
def test_a_server_that_has_something_else(command, server, content):
    server.files = {path: content for path in server.files}
    said = refusal(command("clevr_simple_ft"))
    assert f"{server.address}{BASE}/pretrained_models/clevr_simple/simple_ft.pkl: " in said
    assert os.listdir("pretrained_models") == []


def test_a_pickle_that_attacks_is_fetched_in_vain(command, server, tmp_path):
    canary = tmp_path / "canary"
    server.files = {path: b"cos\nsystem\n(S'touch %s'\ntR." % str(canary).encode() for path in server.files}
    assert refusal(command("clevr_simple_ft"))
    server.files = {path: b"\x80\x02" + content for path, content in server.files.items()}
    assert "a pickle of a call of os.system, not of three networks" in refusal(command("clevr_simple_ft"))
    assert not canary.exists() and os.listdir("pretrained_models") == []


# ----------------------------------------------------------------------------------------------------------------------
# Command lines


@pytest.mark.parametrize(
    "words, mirror, said",
    [
        ("", None, "which? (NAME..., or --list)"),
        ("clevr_complicated", None, "clevr_complicated: not among what was published; --list shows all of it"),
        ("clevr_simple_xx", None, "clevr_simple_xx: not among what was published"),
        ("clevr_1fov_16_fs", None, "clevr_1fov_16_fs: not among what was published"),
        ("clevr_simple", "ftp://host", "--mirror ftp://host: is no http:// or https:// address"),
        ("clevr_simple", "http://[::1", "not an address"),
        ("clevr_simple --resolution 100", None, "--resolution 100: must be a power of two"),
        ("edges_and_shoes --resolution 256", None, "--resolution 256: edges_and_shoes was published up to 128 px"),
    ],
)
def test_refusals(command, tmp_path, words, mirror, said):
    assert said in refusal(command(words, mirror=mirror))
    assert os.listdir(str(tmp_path)) == []


def test_a_directory_in_the_way(command, tmp_path):
    (tmp_path / "datasets" / "clevr_simple").mkdir(parents=True)
    assert "datasets/clevr_simple: holds no dataset" in refusal(command("clevr_simple"))
