"""The live explorer without its page: pictures, settings as JSON and back, truncation, what explore.py refuses."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import planted
import pytest
import scipy.stats
import torch
from biggan_helpers import command_path, load_command, refusal, run
from closeness import ROUNDED, assert_close
from package_models import package_model
from patience import PATIENCE, wait_until
from PIL import Image
from test_biggan_deep import TINY
from test_progan import SHIPPED

from biggan import biggan, biggan_deep, directions, exploring, sources, weights
from biggan.exploring import Explorer, Setting
from biggan.frozen import FrozenGenerator
from experiment_utils.errors import OptionError, UserError

NDIRS = 4


@pytest.fixture(scope="module")
def command():
    return load_command("explore")


@pytest.fixture
def without_gradio(command, monkeypatch):
    """Refusals that need no page are the same in both worlds; and where one is missing, no page is served for ever."""
    monkeypatch.setattr(command, "require_gradio", lambda: None)
    monkeypatch.setitem(sys.modules, "biggan.explorer_page", None)


@pytest.fixture(scope="module")
def bundled():
    return weights.load_generator()


@pytest.fixture
def explorer(bundled):
    A = torch.randn(NDIRS, bundled.dim_z, generator=torch.Generator().manual_seed(3))
    Q = directions.rows(A, directions.search_space("all", bundled.dim_z))
    return Explorer(bundled, Q, 3.0, {"generator": {}, "directions": {"load_A": "runs/mine/A_000500.pt"}})


def tiny_deep():
    model = package_model(TINY)
    module = biggan_deep.Generator(biggan_deep.deep_spec(model.state_dict(), TINY))
    module.load_state_dict(model.state_dict())
    return FrozenGenerator(module, "deep")


def pixels(file):
    return np.asarray(Image.open(io.BytesIO(file)))


def expected_pixels(G, z, label):
    """uint8 [H, W, C] of latents [1, dim_z], without the code under test."""
    with torch.no_grad():
        image = G(z, None if label is None else torch.tensor([label]))[0].permute(1, 2, 0).numpy()
    return np.clip(np.floor(image * 127.5 + 128), 0, 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------------------
# Pictures


def test_the_picture_is_that_of_z_moved_along_the_directions(explorer, bundled):
    setting = Setting((0.5, 0.0, -2.0, 1.25), seed=9, label=2)
    z = exploring.draw(bundled, 9)[None]
    moved = z + sum(w * q for w, q in zip(setting.w, explorer.Q))
    assert_close(explorer.moved(setting), moved, within=ROUNDED)
    expected = expected_pixels(bundled, explorer.moved(setting), 2)
    np.testing.assert_array_equal(explorer.image(setting), expected)
    np.testing.assert_array_equal(pixels(explorer.png(setting)), expected)
    unmoved = explorer.image(Setting((0.0,) * NDIRS, 9, 2))
    np.testing.assert_array_equal(unmoved, expected_pixels(bundled, z, 2))
    others = [
        Setting((0.0,) * NDIRS, 9, 1),
        Setting((0.0,) * NDIRS, 10, 2),
        Setting((0.0,) * NDIRS, 9, 2, 0.5),
        setting,
    ]
    for other in others:
        assert np.abs(explorer.image(other).astype(int) - unmoved).mean() > 1


def test_small_pictures_are_shown_smoothly_enlarged(explorer):
    setting = explorer.start(seed=2, label=1)
    small, shown = explorer.image(setting).astype(float), pixels(explorer.preview(setting)).astype(float)
    assert shown.shape == (256, 256, 3)
    averaged = shown.reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.abs(averaged - small)[2:-2, 2:-2].mean() < 1.5
    assert np.abs(np.diff(shown, axis=0)).max() < 0.6 * np.abs(np.diff(small, axis=0)).max()  # no steps of whole pixels
    grey = exploring.enlarged(np.full((300, 300, 1), 7, np.uint8))
    assert grey.shape == (300, 300, 3) and (grey == 7).all()


def test_one_picture_at_a_time():
    class Slow(planted.Unconditional):
        running, worst = 0, 0

        def forward(self, z):
            type(self).running += 1
            type(self).worst = max(self.worst, self.running)
            time.sleep(0.01)
            type(self).running -= 1
            return super().forward(z)

    explorer = Explorer(FrozenGenerator(Slow(), "slow"), planted.rotation(), 3.0)
    pictures = {}

    def look(seed):
        pictures[seed] = explorer.image(Setting((0.0,) * planted.DIM_Z, seed))

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Slow.worst == 1
    for seed, picture in pictures.items():
        np.testing.assert_array_equal(picture, explorer.image(Setting((0.0,) * planted.DIM_Z, seed)))


def test_a_gif_goes_no_further_once_stopped():
    class Counting(planted.Unconditional):
        image_range = (-1, 1)  # so that no pass of several images is needed to find out
        passes, begun, go_on = 0, threading.Event(), threading.Event()

        def forward(self, z):
            type(self).passes += len(z) == exploring.MINIBATCH
            if len(z) == exploring.MINIBATCH:
                self.begun.set()
                assert self.go_on.wait(PATIENCE)
            return super().forward(z)

    explorer = Explorer(FrozenGenerator(Counting(), "counting"), planted.rotation(), 3.0)
    said = []

    def export():
        with pytest.raises(UserError, match="has ended") as caught:
            explorer.gif(Setting((1.0,) * planted.DIM_Z))
        said.append(caught)

    exporting, stopping = threading.Thread(target=export), threading.Thread(target=explorer.stop)
    exporting.start()
    assert Counting.begun.wait(PATIENCE)
    stopping.start()
    wait_until(lambda: explorer._stopped)
    assert stopping.is_alive()  # it waits for the pass at work
    Counting.go_on.set()
    exporting.join()
    stopping.join()
    assert len(said) == 1 and Counting.passes == 1


def test_the_gif_goes_from_the_sample_to_the_setting_and_back(explorer):
    setting = Setting((2.0, 0.0, -1.0, 0.0), 4, 0)
    with Image.open(io.BytesIO(explorer.gif(setting))) as gif:
        assert gif.n_frames == 2 * exploring.GIF_STEPS - 2 and gif.info["loop"] == 0
        frames = []
        for number in range(gif.n_frames):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    ends = [pixels(explorer.preview(each)).astype(int) for each in (Setting((0.0,) * NDIRS, 4, 0), setting)]
    assert np.abs(ends[0] - ends[1]).mean() > 3
    for frame, end in ((frames[0], ends[0]), (frames[exploring.GIF_STEPS - 1], ends[1])):
        assert np.abs(frame - end).mean() < 1.5
    middle = pixels(explorer.preview(Setting((1.0, 0.0, -0.5, 0.0), 4, 0))).astype(int)
    assert np.abs(frames[exploring.GIF_STEPS // 2] - middle).mean() < 1.5
    with pytest.raises(UserError, match="move a slider first"):
        explorer.gif(Setting((0.0,) * NDIRS, 4, 0))


def test_values_that_are_not_finite_are_said():
    class Bursting(planted.Unconditional):
        def forward(self, z):
            return super().forward(z) / (z.abs().amax(1) < 50).float()[:, None, None, None]

    explorer = Explorer(FrozenGenerator(Bursting(), "bursting"), torch.eye(planted.DIM_Z), 1000.0)
    explorer.image(Setting((0.0,) * planted.DIM_Z))
    with pytest.raises(UserError, match="bursting: gives values that are not finite"):
        explorer.image(Setting((900.0,) + (0.0,) * (planted.DIM_Z - 1)))


@pytest.mark.parametrize(
    "setting, message",
    [
        (Setting((0.0,) * 3, 0, 0), "3 numbers for 4 directions"),
        (Setting((0.0, 0.0, 3.5, 0.0), 0, 0), "3.5 along direction 2 is beyond path_size 3"),
        (Setting((0.0, float("nan"), 0.0, 0.0), 0, 0), "nan along direction 1"),
        (Setting((0.0,) * 4, -1, 0), "seed -1: must be a whole number"),
        (Setting((0.0,) * 4, 0, 3), "class 3: clevr_simple_32 has classes 0 to 2"),
        (Setting((0.0,) * 4, 0, None), "class None: clevr_simple_32 has classes 0 to 2"),
        (Setting((0.0,) * 4, 0, 0, 0.0), "truncation 0: must be between 0.01 and 3"),
        (Setting((0.0,) * 4, 0, 0, 3.01), "truncation 3.01: must be"),
        (Setting((0.0,) * 4, 0, 0, 0.123), "two decimals at most"),
    ],
)
def test_settings_that_are_none(explorer, setting, message):
    with pytest.raises(OptionError, match=message):
        explorer.image(setting)


# ----------------------------------------------------------------------------------------------------------------------
# Truncation


@pytest.mark.parametrize("bound", [0.1, 0.7, 2.0])
def test_cut_off_numbers_are_those_of_a_truncated_normal(bound):
    z = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    cut = exploring.cut_off(z, bound)
    assert cut.abs().max() <= bound
    assert (cut.argsort() == z.argsort()).float().mean() > 0.99  # quantiles stay, but for ties in float32
    assert scipy.stats.kstest(cut.numpy(), scipy.stats.truncnorm(-bound, bound).cdf).pvalue > 0.01
    assert scipy.stats.kstest(cut.numpy(), scipy.stats.norm.cdf).pvalue < 1e-6
    assert_close(exploring.cut_off(z, 8.0), z, within=ROUNDED)


def test_a_truncation_moves_the_same_sample(bundled):
    assert exploring.truncation_limit(bundled) == 3
    z, nearly, half = (exploring.draw(bundled, 5, t) for t in (None, 2.99, 0.5))
    assert (z - nearly).abs().max() < 0.1 and half.abs().max() <= 0.5
    assert torch.equal(torch.sign(z), torch.sign(half)) and not torch.equal(z, exploring.draw(bundled, 6))


def test_truncation_of_a_biggan_deep():
    """As published: t times a normal number cut off at ±2, and the statistics that belong to t."""
    G = tiny_deep()
    assert exploring.truncation_limit(G) == 1
    z = exploring.draw(G, 1, 0.4)
    assert_close(z, 0.4 * exploring.cut_off(exploring.draw(G, 1), 2.0), within=ROUNDED)
    explorer = Explorer(G, torch.eye(G.dim_z), 3.0)
    for truncation in (0.4, None, 0.8):
        picture = explorer.image(Setting((0.0,) * G.dim_z, 1, 2, truncation))
        z = exploring.draw(G, 1, truncation)[None]
        with torch.no_grad():
            image = G.module(z, torch.tensor([2]), truncation or 1.0)[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(picture, np.clip(np.floor(image * 127.5 + 128), 0, 255))


def test_no_truncation_where_z_is_normalised():
    G = weights.load_generator(SHIPPED)
    assert exploring.truncation_limit(G) is None
    explorer = Explorer(G, torch.eye(G.dim_z), 3.0)
    assert explorer.start() == Setting((0.0,) * G.dim_z, 0, None, None)
    with pytest.raises(OptionError, match="normalises z"):
        explorer.image(Setting((0.0,) * G.dim_z, truncation=0.5))
    with pytest.raises(OptionError, match="has no classes"):
        explorer.image(Setting((0.0,) * G.dim_z, label=0))


# ----------------------------------------------------------------------------------------------------------------------
# Names


def test_class_names(bundled):
    assert exploring.class_names(bundled) == ["cube", "sphere", "cylinder"]
    spec = biggan.GeneratorSpec(widths=(8, 8), num_classes=1000, dim_z=4, shared_dim=4, attention=())
    names = exploring.class_names(FrozenGenerator(biggan.Generator(spec), "imagenet"))
    assert (names[207], names[497], len(names)) == ("golden retriever", "church", 1000)
    assert exploring.class_names(FrozenGenerator(planted.Gauges(), "gauges")) is None


def test_files_are_named_after_generator_directions_class_and_seed(explorer, bundled):
    assert explorer.file_stem(Setting((), 7, 2)) == "clevr_simple_32-mine-A_000500-class2-sample7"
    for load_A, stem in (
        ("/x/clevr_simple_32-seed1.pt", "clevr_simple_32-seed1-class0-sample0"),
        ("coord", "clevr_simple_32-coord-class0-sample0"),
        ("odd näme;.pt", "clevr_simple_32-odd_näme_-class0-sample0"),
    ):
        other = Explorer(bundled, explorer.Q, 3.0, {"directions": {"load_A": load_A}})
        assert other.file_stem(Setting((), 0, 0)) == stem


# ----------------------------------------------------------------------------------------------------------------------
# Setting files


class Saved:
    """What the page of explore.py would save, in a folder: run, move, save."""

    def __init__(self, command, folder, *flags, **changes):
        self.explorer, start = opened(command, *flags)
        w = np.random.RandomState(0).uniform(-2, 2, len(self.explorer.Q)).round(3)
        self.setting = Setting(**dict({"w": tuple(w), "seed": 3, "label": start.label}, **changes))
        self.record = self.explorer.record(self.setting)
        self.path = os.path.join(str(folder), "setting.json")
        self.write(self.record)
        self.pixels = self.explorer.image(self.setting)

    def write(self, record):
        with open(self.path, "w") as stream:
            json.dump(record, stream)


def opened(command, *flags):
    """(Explorer, Setting) that explore.py begins with."""
    parsed = command.options.parse(command.ExploreOptions, "", argv=list(map(str, flags)))
    record = command.read_setting(parsed, command.options.given_flags(command.ExploreOptions, list(map(str, flags))))
    return command.make_explorer(parsed, record)


@pytest.mark.parametrize(
    "flags, changes",
    [
        ((), {"label": 2, "truncation": 0.57}),
        (("--load_A", "random", "--ndirs", 5, "--seed", 11, "--search_space", "mid", "--ndirs", 3), {}),
        (("--load_A", "coord", "--search_space", "2:9", "--path_size", 7.5), {"w": (7.5, -7.25, 0, 0, 0, 0, 1 / 3)}),
        (("--G_path", SHIPPED), {}),
    ],
)
def test_a_saved_setting_opens_as_the_same_picture(command, tmp_path, flags, changes):
    saved = Saved(command, tmp_path, *flags, **changes)
    explorer, setting = opened(command, "--setting", saved.path)
    assert setting == saved.setting and explorer.path_size == saved.explorer.path_size
    np.testing.assert_array_equal(explorer.image(setting), saved.pixels)
    assert explorer.record(setting) == saved.record
    assert json.loads(json.dumps(saved.record)) == saved.record
    assert saved.record["class_name"] == {2: "cylinder", 0: "cube", None: None}[setting.label]


def test_the_saved_z_counts_whatever_the_seed_gives(command, tmp_path, monkeypatch):
    saved = Saved(command, tmp_path)
    monkeypatch.setattr(exploring, "SAMPLE", 99)  # another version's draws
    explorer, setting = opened(command, "--setting", saved.path)
    np.testing.assert_array_equal(explorer.image(setting), saved.pixels)
    other = Setting(setting.w, setting.seed + 1, setting.label)
    assert torch.equal(explorer.z(other), exploring.draw(explorer.G, other.seed))


def test_a_setting_file_finds_directions_beside_itself_and_beside_the_generator(command, tmp_path, monkeypatch):
    A_path = tmp_path / "found.pt"
    directions.save(str(A_path), torch.eye(5, 12).flip(1))
    saved = Saved(command, tmp_path, "--load_A", A_path)
    with open(str(A_path), "rb") as stream:
        checksum = subprocess.check_output(["sha256sum"], stdin=stream).split()[0].decode()
    assert saved.record["directions"]["sha256"] == checksum
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    os.rename(str(A_path), str(moved / "found.pt"))
    message = "its direction file .*found.pt is not there; say where it is: --load_A"
    with pytest.raises(UserError, match=message):
        opened(command, "--setting", saved.path)
    at_hand, setting = opened(command, "--setting", saved.path, "--load_A", moved / "found.pt")
    np.testing.assert_array_equal(at_hand.image(setting), saved.pixels)
    shutil.copy(saved.path, str(moved / "setting.json"))
    beside, setting = opened(command, "--setting", moved / "setting.json")
    np.testing.assert_array_equal(beside.image(setting), saved.pixels)
    bundled_record = Saved(command, tmp_path).record
    assert bundled_record["directions"]["load_A"] == "clevr_simple_32-seed0.pt"
    monkeypatch.chdir(tmp_path)
    opened(command, "--setting", "setting.json")


def broken(path, value):
    """Return a change of a record: the field at that path becomes `value`."""

    def change(record):
        *owners, name = path.split(".")
        for owner in owners:
            record = record[owner]
        record[name] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda record: record.clear(), "no setting of explore.py"),
        (broken("kind", "progan-snapshot"), "no setting of explore.py"),
        (broken("format_version", 2), "newer version"),
        (lambda record: record.pop("z"), "has no z"),
        (lambda record: record["directions"].pop("sha256"), "has no directions.sha256"),
        (broken("directions", [1]), r"directions is \[1\], not an object"),
        (broken("seed", True), "seed is True, not a whole number"),
        (broken("seed", -4), "seed -4: must be"),
        (broken("class", 1.0), "class is 1.0, not a whole number or null"),
        (broken("class", 3), "class 3: clevr_simple_32 has classes 0 to 2"),
        (broken("class", None), "class None: clevr_simple_32 has classes 0 to 2"),
        (broken("truncation", "0.5"), "truncation is '0.5', not a number"),
        (broken("truncation", 4), "truncation 4: must be between 0.01 and 3"),
        (broken("path_size", 0), "path_size is 0, not a number greater than 0"),
        (broken("w", [0.0] * 11), "w has 11 numbers where 12 belong"),
        (broken("w", [0.0] * 11 + [float("nan")]), r"w is \[0.0, .*, not a list of finite numbers"),
        (broken("w", [0.0] * 11 + [9]), "w: 9 along direction 11 is beyond path_size 3"),
        (broken("z", [0.0] * 11 + [float("inf")]), "z is .* not a list of finite numbers"),
        (broken("z", [0.0] * 11 + [10**400]), "z is .* not a list of finite numbers"),
        (broken("z", [0.0] * 120), "z has 120 numbers where 12 belong"),
        (
            broken("directions.sha256", "0" * 64),
            "made with other directions than clevr_simple_32-seed0.pt: SHA-256 0000",
        ),
        (broken("directions.load_A", "coord"), "made with other directions than coord: SHA-256 .*, not coord"),
        (broken("directions.search_space", "0:13"), "--search_space 0:13"),
        (broken("generator.weights_sha256", "0" * 64), "made with other weights than those of clevr_simple_32"),
        (broken("generator.G_path", "planted:Gauges"), "its generator was planted:Gauges; say where it is: --G_path"),
        (broken("generator.G_path", "owner/name"), "its generator was owner/name"),
    ],
)
def test_setting_files_that_do_not_fit(command, tmp_path, change, message, capfd, without_gradio):
    saved = Saved(command, tmp_path, label=1)
    capfd.readouterr()
    change(saved.record)
    saved.write(saved.record)
    said = refusal(run("explore", command, capfd, ["--setting", saved.path, "--port", "0"]))
    assert re.search(message, said), said


def test_a_setting_file_that_is_no_json(command, tmp_path, capfd, without_gradio):
    path = tmp_path / "broken.json"
    path.write_text('{"kind": "explorer-sett')
    assert "not valid JSON" in refusal(run("explore", command, capfd, ["--setting", str(path)]))
    assert "no such file" in refusal(run("explore", command, capfd, ["--setting", str(path) + "x"]))


def test_the_code_of_a_generator_runs_only_when_the_user_says_so(command, tmp_path):
    saved = Saved(command, tmp_path, "--G_path", "planted:Gauges", "--load_A", "coord")
    with pytest.raises(UserError, match="its generator was planted:Gauges"):
        opened(command, "--setting", saved.path)
    explorer, setting = opened(command, "--setting", saved.path, "--G_path", "planted:Gauges")
    np.testing.assert_array_equal(explorer.image(setting), saved.pixels)


# ----------------------------------------------------------------------------------------------------------------------
# The command


def test_without_flags_it_takes_the_directions_beside_the_generator(command):
    explorer, setting = opened(command)
    A = torch.load(os.path.join(sources.BUNDLED_DIR, "clevr_simple_32-seed0.pt"), weights_only=True)
    Q = directions.rows(A, directions.search_space("all", 12))
    assert torch.equal(explorer.Q, Q) and setting == Setting((0.0,) * 12, 0, 0, None)
    explorer, setting = opened(command, "--G_path", SHIPPED)
    assert torch.equal(explorer.Q, torch.eye(12))


def test_axes_have_a_slider_for_each_component(command, monkeypatch):
    monkeypatch.setattr(directions, "DEFAULT_NDIRS", 5)
    assert len(opened(command, "--load_A", "random")[0].Q) == 5
    for flags, count in (((), 12), (("--search_space", "2:10"), 8), (("--ndirs", "4"), 4)):
        explorer, _ = opened(command, "--load_A", "coord", *flags)
        assert explorer.Q.shape == (count, 12) and (explorer.Q.sum(1) == 1).all()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--fix_class", "3"], "class 3: clevr_simple_32 has classes 0 to 2"),
        (["--truncation", "5"], "truncation 5: must be between 0.01 and 3"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: no address of this machine"),
        (["--host", "203.0.113.7"], "--host 203.0.113.7: cannot answer there"),
        (["--port", "65536"], "--port 65536: ports go up to 65535"),
        (["--setting", "s.json", "--seed", "0"], "--seed: s.json says that itself"),
        (["--share"], "--share"),
        (["--load_A", "{A}"], "its directions are 40 wide, the search space z[0:12] is 12 wide"),
    ],
)
def test_refusals(command, tmp_path, capfd, without_gradio, flags, message):
    directions.save(str(tmp_path / "A.pt"), torch.eye(3, 40))
    flags = [flag.replace("{A}", str(tmp_path / "A.pt")) for flag in flags]
    port = [] if "--port" in flags else ["--port", "0"]
    assert message in refusal(run("explore", command, capfd, [*flags, *port]))


def test_a_port_in_use_is_said_before_anything_is_loaded(command, capfd, monkeypatch, without_gradio):
    monkeypatch.setattr(command, "make_explorer", None)
    with command.listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        said = refusal(run("explore", command, capfd, ["--port", str(port)]))
    assert said == f"--port {port}: in use, perhaps by another explore.py; end that one, or say --port {port + 1}"


def test_addresses(command):
    for host, shown in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")):
        with command.listen(host, 0) as listener:
            assert command.address_of(listener) == f"http://{shown}:{listener.getsockname()[1]}"
    assert command.ExploreOptions().host == "127.0.0.1"


@pytest.mark.parametrize(("host", "is_local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_who_can_reach_the_page(command, host, is_local):
    with command.listen(host, 0) as listener:
        assert command.is_local(listener) == is_local


def test_gradio_missing(command, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command.sys, "version_info", (3, 12, 1))
    with pytest.raises(UserError, match=r'^explore.py needs Gradio: pip install "hessian-penalty\[explore\]"'):
        command.require_gradio()


def test_gradio_that_will_not_do_is_one_line(tmp_path):
    """In a process of its own, with an older Gradio, which Python 3.7 could not run either."""
    (tmp_path / "gradio.py").write_text("raise SystemError")
    (tmp_path / "gradio-6.30.0.dist-info").mkdir()
    (tmp_path / "gradio-6.30.0.dist-info" / "METADATA").write_text("Name: gradio\nVersion: 6.30.0\n")
    ended = subprocess.run(
        [sys.executable, command_path("explore")],
        env=dict(os.environ, PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    new = sys.version_info >= (3, 10)
    message = " 6.31 or later, this is 6.30.0" if new else ", which needs Python 3.10 or later (this is 3.7)"
    assert ended.stderr.startswith(f"explore.py: error: explore.py needs Gradio{message}")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
