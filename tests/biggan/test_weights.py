"""Every way to name a generator gives that generator's images; everything that is none is one line that says why."""

import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile

import pytest
import safetensors.torch
import torch
from closeness import ROUNDED, assert_close
from package_models import package_model

from biggan import sources, weights
from biggan.biggan import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec
from biggan.sources import download
from biggan.weights import GeneratorOptions, from_options, load_generator, save_generator
from experiment_utils import options
from experiment_utils.errors import OptionError, SnapshotError, UserError

SPEC = GeneratorSpec(widths=(8, 8, 4), num_classes=3, dim_z=6, shared_dim=4, attention=(8,))
DEEP = {"z_dim": 4, "channel_width": 4, "num_classes": 5, "n_stats": 3, "attention_layer_position": 1, "eps": 1e-3}
DEEP["layers"] = [
    (True, 16, 8),
    (False, 8, 4),
    (False, 4, 2),
    (True, 2, 1),
]  # unlike the published models, which only config.json can tell


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSIAN_PENALTY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(SPEC).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def deep():
    return package_model(DEEP).requires_grad_(False)


def save(path, value):
    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    torch.save(value, str(path))
    return str(path)


def assert_same(G, generator):
    z, y = torch.randn(3, 6), torch.tensor([0, 2, 1])
    assert (G.dim_z, G.num_classes, G.image_shape) == (6, 3, (16, 16, 3))
    assert torch.equal(G(z, y), generator(z, y))


def assert_same_deep(G, deep):
    z, y = torch.randn(3, 4), torch.tensor([0, 4, 1])
    assert (G.dim_z, G.num_classes) == (4, 5)
    assert_close(G(z, y), deep(z, torch.nn.functional.one_hot(y, 5).float(), 1.0), within=ROUNDED)


# ----------------------------------------------------------------------------------------------------------------------
# Files


def test_pth_zip_and_folder_in_the_published_format(tmp_path, generator):
    path = save(tmp_path / "138k" / "G_ema.pth", generator.state_dict())
    save(tmp_path / "138k" / "G_optim.pth", {"state": {}, "param_groups": []})
    with zipfile.ZipFile(str(tmp_path / "138k.zip"), "w") as archive:
        archive.write(path, "138k/G_ema.pth")
        archive.writestr("138k/D.pth", b"not looked at")
    for where, name in [(path, "G_ema"), (tmp_path / "138k", "138k"), (tmp_path / "138k.zip", "138k")]:
        G = load_generator(where)
        assert_same(G, generator)
        assert G.name == name


def test_other_precisions_and_data_parallel(tmp_path, generator):
    state = {f"module.{name}": tensor.double() for name, tensor in generator.state_dict().items()}
    assert_same(load_generator(save(tmp_path / "G.pth", state)), generator)
    half = {name: tensor.half() for name, tensor in generator.state_dict().items()}
    G = load_generator(save(tmp_path / "G.pth", half))
    assert all(p.dtype == torch.float32 for p in G.module.parameters())


def test_our_own_files(tmp_path, generator):
    path = str(tmp_path / "mine.safetensors")
    save_generator(path, generator, {"class_names": ["cube", "sphere", "cylinder"], "steps": 7})
    G = load_generator(path)
    assert_same(G, generator)
    assert (G.name, G.class_name(1), G.metadata["steps"]) == ("mine", "sphere", 7)
    assert G.metadata["kind"] == "biggan-generator" and G.metadata["spec"]["dim_z"] == 6


def test_bundled_names(tmp_path, generator, monkeypatch):
    monkeypatch.setattr(sources, "BUNDLED_DIR", str(tmp_path))
    with pytest.raises(SnapshotError, match="clevr_simple_32, the bundled generator, is not in"):
        load_generator()
    save_generator(str(tmp_path / "clevr_simple_32.safetensors"), generator)
    (tmp_path / "clevr_simple_32-regressor.safetensors").write_bytes(b"")
    assert list(sources.bundled_generators()) == ["clevr_simple_32"]
    assert_same(load_generator(), generator)
    assert_same(load_generator("clevr_simple_32"), generator)


def test_a_newer_format(tmp_path, generator, monkeypatch):
    path = str(tmp_path / "mine.safetensors")
    monkeypatch.setattr(weights, "FORMAT_VERSION", 2)
    save_generator(path, generator)
    monkeypatch.undo()
    with pytest.raises(SnapshotError, match="newer version"):
        load_generator(path)


def test_biggan_deep_folders_and_files(tmp_path, deep):
    path = save(tmp_path / "deep" / "pytorch_model.bin", deep.state_dict())
    (tmp_path / "deep" / "config.json").write_text(json.dumps(vars(deep.config)))
    assert_same_deep(load_generator(tmp_path / "deep"), deep)
    assert_same_deep(load_generator(path), deep)
    os.remove(path)
    safetensors.torch.save_file(deep.state_dict(), str(tmp_path / "deep" / "model.safetensors"))
    G = load_generator(tmp_path / "deep")
    assert_same_deep(G, deep)
    assert G.name == "deep"


def test_a_progan_snapshot():
    """One that the ProGAN tree ships; its images are compared with TensorFlow's in test_progan.py."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folder = os.path.join(root, "progan_experiments", "pretrained_models")
    path = next(os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".safetensors"))
    G = load_generator(path)
    assert G.num_classes == 0 and G.image_shape == (16, 16, 3)
    assert G(torch.randn(2, G.dim_z)).shape == (2, 3, 16, 16)


# ----------------------------------------------------------------------------------------------------------------------
# What is no generator


def altered(generator, **changes):
    state = dict(generator.state_dict())
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    return state


def test_the_first_mismatch_is_named_with_both_shapes(tmp_path, generator):
    def message(**changes):
        with pytest.raises(SnapshotError) as error:
            load_generator(save(tmp_path / "G_ema.pth", altered(generator, **changes)))
        assert "\n" not in str(error.value)
        return str(error.value)

    kind = "G_ema.pth: looks like a biggan generator of 16 px, but "
    assert message(blocks__1__0__conv2__weight=torch.zeros(5, 4, 3, 3)).endswith(
        kind + "blocks.1.0.conv2.weight has shape [5, 4, 3, 3] where [4, 4, 3, 3] belongs"
    )
    assert message(linear__u0=None).endswith(kind + "has no tensor linear.u0")
    assert message(shared__weight=torch.zeros(3, 4, dtype=torch.int64)).endswith(
        kind + "shared.weight holds torch.int64 numbers"
    )
    assert message(extra=torch.zeros(1)).endswith(kind + "has a tensor extra that such a network has not")
    assert "G_ema.pth: not a generator that is known here (" in message(linear__weight=torch.zeros(0, 10**13))
    assert message(output_layer__2__weight=None).endswith(
        "G_ema.pth: not a generator that is known here (no tensor output_layer.2.weight)"
    )


def contents(generator):
    yield Discriminator(DiscriminatorSpec((8, 8), 16, 3)).state_dict(), "a BigGAN discriminator"
    yield torch.zeros(120, 120), r"directions, a tensor \[120, 120\] \(give it to --load_A\)"
    yield torch.optim.Adam(Generator(SPEC).parameters()).state_dict(), "an optimiser's state"
    yield {"D": {"fc.weight": torch.zeros(2, 3)}, "itr": 3}, r"a checkpoint of several things \(D, another network"
    yield {"itr": 138000, "epoch": 99, "best_IS": 97.5}, r"a training record \(itr, epoch, best_IS\)"
    yield {"mapping.fc0.weight": torch.zeros(3, 3)}, "a StyleGAN"
    yield {"fc.weight": torch.zeros(2, 3)}, r"another network, whose first tensor is fc\.weight \[2, 3\]"
    yield {"Gs/4x4/Dense/weight": torch.zeros(1)}, "a state of this project's ProGAN"
    yield {"factor0.weight": torch.zeros(1)}, "a factor regressor"
    yield [1, 2], "a list"
    yield {}, "a dict"
    yield {0: torch.zeros(1)}, "a dict"


@pytest.mark.parametrize("number", range(12))
def test_other_files_are_named_for_what_they_are(tmp_path, generator, number):
    content, message = list(contents(generator))[number]
    with pytest.raises(SnapshotError, match=r"x\.pth: not the weights of a generator; it looks like " + message):
        load_generator(save(tmp_path / "x.pth", content))


def test_infinite_weights(tmp_path, generator):
    path = save(tmp_path / "G.pth", altered(generator, linear__weight=torch.full((128, 2), float("nan"))))
    with pytest.raises(SnapshotError, match="not finite; are these the right weights"):
        load_generator(path)


class Exploit:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.parametrize("packed", [False, True])
def test_a_malicious_pickle_is_refused(tmp_path, generator, packed):
    state = altered(generator, extra=Exploit(str(tmp_path / "sentinel")))
    path = save(tmp_path / "G_ema.pth", state)
    if packed:
        with zipfile.ZipFile(str(tmp_path / "packed.zip"), "w") as archive:
            archive.write(path, "G_ema.pth")
        path = str(tmp_path / "packed.zip")
    with pytest.raises(SnapshotError, match=r"refused: it asks for \w+\.system") as error:
        load_generator(path)
    assert str(error.value).startswith(path)
    assert not (tmp_path / "sentinel").exists()


def test_truncated_files(tmp_path, generator):
    path = save(tmp_path / "G_ema.pth", generator.state_dict())
    save_generator(str(tmp_path / "G.safetensors"), generator)
    for name, message in [("G_ema.pth", "truncated"), ("G.safetensors", "not a readable safetensors file")]:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(SnapshotError, match=f"{name}: {message}"):
            load_generator(tmp_path / name)
    assert path


def test_folders_and_archives_without_an_answer(tmp_path, generator):
    with pytest.raises(SnapshotError, match="no weights there"):
        load_generator(tmp_path)
    for name in ("a.pth", "b.pth"):
        save(tmp_path / name, generator.state_dict())
    with pytest.raises(SnapshotError, match=r"several files there \(a\.pth, b\.pth\)"):
        load_generator(tmp_path)
    with zipfile.ZipFile(str(tmp_path / "c.zip"), "w") as archive:
        archive.writestr("readme", b"")
    with pytest.raises(SnapshotError, match="an archive with no files of weights"):
        load_generator(tmp_path / "c.zip")
    with zipfile.ZipFile(str(tmp_path / "d.zip"), "w") as archive:
        archive.write(str(tmp_path / "a.pth"), "../G_ema.pth")
    with pytest.raises(UserError, match="leaves the folder"):
        load_generator(tmp_path / "d.zip")


@pytest.mark.parametrize("name", ["absent.pth", "some/where/absent.pth", "nonsense", "a:b:c"])
def test_nothing_there(name):
    with pytest.raises(SnapshotError, match=f"{name}: no such file or folder, nor a bundled generator"):
        load_generator(name)


# ----------------------------------------------------------------------------------------------------------------------
# Factories

FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    dim_z = 2
    def forward(self, z):
        return z.view(-1, 1, 1, 2).expand(-1, 3, 2, 2)

def fails():
    raise KeyError("weights")

def leaves():
    raise SystemExit(1)

def misnamed():
    net = Net()
    net.class_names = 5
    return net

nothing = lambda: None
number = 7
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "models.py").write_text(FACTORIES)
    (tmp_path / "own_package" / "broken.py").write_text("import not_installed_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def test_a_factory_in_the_working_directory(factories):
    G = load_generator("own_package.models:Net")
    assert (G.dim_z, G.num_classes, G.image_shape, G.name) == (2, 0, (2, 2, 3), "own_package_models_Net")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("not_there:factory", r"cannot import it \(ModuleNotFoundError: No module named 'not_there'\)"),
        ("own_package.broken:factory", "cannot import it .*not_installed_anywhere"),
        ("own_package.models:missing", "cannot import it .*missing"),
        ("own_package.models:number", "is of type int, not a function"),
        ("own_package.models:fails", r"calling it failed \(KeyError: 'weights'\)"),
        ("own_package.models:leaves", r"calling it failed \(SystemExit: 1\)"),
        ("own_package.models:nothing", "a NoneType, which has no forward"),
        ("own_package.models:misnamed", "its class_names are of type int, not a list"),
    ],
)
def test_factories_that_do_not_work(factories, path, message):
    with pytest.raises(SnapshotError, match=f"--G_path {path}: .*{message}") as error:
        load_generator(path)
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------------------------------
# Flags and downloads


def chosen(*argv):
    return options.parse(GeneratorOptions, "", argv=list(argv))


class FileServer:
    """Serves {path: content}; HEAD and GET, as much of them as the Hugging Face client asks for."""

    def __init__(self):
        self.files, self.requests = {}, []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self._listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler):
        self.requests.append((handler.command, handler.path))
        content = self.files.get(handler.path)
        handler.send_response(404 if content is None else 200)
        if content is None:
            known = any(path.split("/resolve/")[0] == handler.path.split("/resolve/")[0] for path in self.files)
            handler.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            content = b""
        handler.send_header("Content-Type", "application/octet-stream")
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("ETag", f'"{hash(content) & 0xFFFFFFFF:08x}"')
        handler.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)

    def close(self):
        self._listener.shutdown()
        self._listener.server_close()


@pytest.fixture
def server():
    server = FileServer()
    yield server
    server.close()


def zipped(tmp_path, generator):
    path = save(tmp_path / "G_ema.pth", generator.state_dict())
    with zipfile.ZipFile(str(tmp_path / "138k.zip"), "w") as archive:
        archive.write(path, "138k/G_ema.pth")
    return (tmp_path / "138k.zip").read_bytes()


def test_download_of_the_archive(tmp_path, server, generator):
    server.files["/138k.zip"] = zipped(tmp_path, generator)
    G = from_options(chosen("--download", "138k", "--download_url", f"{server.url}/138k.zip", "--device", "cpu"))
    assert_same(G, generator)
    assert G.name == "biggan-138k"
    assert sorted(os.listdir(str(tmp_path / "cache" / "biggan-138k"))) == ["138k.zip.sha256", "G_ema.pth"]
    server.files.clear()  # from here on it must come from the cache
    for name in ("138k", "biggan-138k"):
        assert_same(load_generator(name), generator)
        assert_same(from_options(chosen("--download", name, "--device", "cpu")), generator)


def test_download_of_a_file_into_a_chosen_folder(tmp_path, server, monkeypatch):
    model = package_model({"z_dim": 4, "channel_width": 4, "num_classes": 5}).requires_grad_(False)
    server.files["/biggan-deep-128-pytorch_model.bin"] = open(save(tmp_path / "x", model.state_dict()), "rb").read()
    monkeypatch.setitem(
        sources.DOWNLOADS, "biggan-deep-128", (f"{server.url}/biggan-deep-128-pytorch_model.bin", "pytorch_model.bin")
    )
    flags = ["--download", "biggan-deep-128", "--cache_dir", str(tmp_path / "elsewhere"), "--device", "cpu"]
    assert_same_deep(from_options(chosen(*flags)), model)
    assert (tmp_path / "elsewhere" / "biggan-deep-128" / "pytorch_model.bin").exists()
    assert_same_deep(load_generator("biggan-deep-128", cache_dir=str(tmp_path / "elsewhere")), model)


def test_the_addresses():
    assert "1nAle7FCVFZdix2--ks0r5JBkFnKw8ctW" in sources.DOWNLOADS["biggan-138k"][0]
    from pytorch_pretrained_biggan.model import PRETRAINED_MODEL_ARCHIVE_MAP

    assert {name: sources.DOWNLOADS[name][0] for name in PRETRAINED_MODEL_ARCHIVE_MAP} == PRETRAINED_MODEL_ARCHIVE_MAP


def test_downloads_that_fail_say_what_else_to_do(tmp_path, server, generator, monkeypatch):
    monkeypatch.setitem(sources.DOWNLOADS, "biggan-deep-256", (f"{server.url}/gone", "pytorch_model.bin"))
    with pytest.raises(UserError, match=r"answers 404 .*another address: --download_url, or .*--G_path FILE"):
        download("biggan-deep-256")
    with pytest.raises(SnapshotError, match="biggan-deep-256: not downloaded yet; say --download biggan-deep-256"):
        load_generator("biggan-deep-256")
    server.files["/cut.zip"] = zipped(tmp_path, generator)[:-100]
    for _ in range(2):
        with pytest.raises(SnapshotError, match=r"cut\.zip: what came, \d+ bytes, is no zip archive; nothing was kept"):
            download("138k", url=f"{server.url}/cut.zip")
    server.files["/G_ema.pth"] = (tmp_path / "G_ema.pth").read_bytes()
    assert_same(load_generator(download("138k", url=f"{server.url}/G_ema.pth")), generator)


def test_flags_that_contradict(tmp_path):
    with pytest.raises(OptionError, match="--download_url: of which weights"):
        from_options(chosen("--download_url", "http://localhost/"))
    with pytest.raises(OptionError, match="two generators; give one of them"):
        from_options(chosen("--download", "138k", "--G_path", "biggan-deep-128"))
    with pytest.raises(OptionError, match="--download"):
        chosen("--download", "138")


def test_without_a_generator_the_bundled_one_and_a_line_on_others(tmp_path, generator, monkeypatch, capsys):
    monkeypatch.setattr(sources, "BUNDLED_DIR", str(tmp_path))
    save_generator(str(tmp_path / "clevr_simple_32.safetensors"), generator)
    assert_same(from_options(chosen("--device", "cpu")), generator)
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "clevr_simple_32" in line and "--download 138k" in line
    from_options(chosen("--G_path", str(tmp_path / "clevr_simple_32.safetensors"), "--device", "cpu"))
    assert capsys.readouterr().out == ""


def test_flags_are_checked_without_pytorch():
    code = "import sys, biggan.weights; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


HUB = """
import sys, torch
from experiment_utils.errors import UserError
from biggan.weights import load_generator
for name in sys.argv[1:]:
    try:
        G = load_generator(name)
        torch.manual_seed(0)
        y = torch.tensor([0, 2, 1]) if G.num_classes else None
        print(G.name, G(torch.randn(3, G.dim_z), y).sum().item())
    except UserError as error:
        print("error:", error)
"""


def test_the_hugging_face_hub(tmp_path, server, generator, deep):
    def run(endpoint, *names, **extra):
        env = dict(
            os.environ, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hf"), HF_HUB_DISABLE_TELEMETRY="1", **extra
        )
        env.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", HF_HUB_ETAG_TIMEOUT="60", OMP_NUM_THREADS="1")
        result = subprocess.run(
            [sys.executable, "-c", HUB, *names], env=env, stdout=subprocess.PIPE, cwd=str(tmp_path), check=True
        )
        return result.stdout.decode().splitlines()

    prefix = "/owner/BigGAN-deep-128/resolve/main"
    server.files[f"{prefix}/config.json"] = json.dumps(vars(deep.config)).encode()
    server.files[f"{prefix}/pytorch_model.bin"] = open(save(tmp_path / "deep", deep.state_dict()), "rb").read()
    published = open(save(tmp_path / "G_ema", generator.state_dict()), "rb").read()
    server.files["/owner/published/resolve/main/G_ema.pth"] = published
    server.files["/owner/empty/resolve/main/README.md"] = b"nothing"

    names = ["owner/BigGAN-deep-128", "owner/published"]
    *online, empty, missing = run(server.url, *names, "owner/empty", "owner/not-there")
    torch.manual_seed(0)
    y = torch.tensor([0, 2, 1])
    expected = deep(torch.randn(3, 4), torch.nn.functional.one_hot(y, 5).float(), 1.0).sum().item()
    assert online[0].split()[0] == "owner--BigGAN-deep-128"
    assert float(online[0].split()[1]) == pytest.approx(expected, abs=1e-2)
    torch.manual_seed(0)
    assert float(online[1].split()[1]) == pytest.approx(generator(torch.randn(3, 6), y).sum().item(), abs=1e-2)
    assert (
        empty == "error: owner/empty: a Hugging Face repository without model.safetensors, pytorch_model.bin, G_ema.pth"
    )
    assert missing.startswith("error: owner/not-there: no such file, nor a public repository on Hugging Face")

    server.files.clear()
    *offline, unknown = run(server.url, *names, "owner/unknown", HF_HUB_OFFLINE="1")
    assert offline == online
    assert unknown.startswith("error: owner/unknown: no such file, nor in the cache of")
    assert run("http://127.0.0.1:9", *names) == online  # nobody listens there
