"""explore.py as its user meets it: the command in a process, its page in a browser, its pictures beside Python's."""

import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from patience import PATIENCE, wait_until
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMAND = os.path.join(ROOT, "biggan_discovery", "explore.py")

START = {"w": [0.0, 1.25, 0, 0, -2.125, 0, 0, 0, 0, 0, 0, 0], "seed": 3, "label": 1, "truncation": 1.5}

# What Python says of a setting, in a process of its own: a line of JSON in; the page's picture and the record out
TRUTH = """
import base64, json, sys
import torch
torch.set_num_threads(1)
from types import SimpleNamespace
from biggan import directions, exploring, sources, weights
A_path = sources.files_beside()[1][0]
flags = {"search_space": "all", "ndirs": None, "no_ortho": False, "seed": 0, "download": None, "G_path": None}
chosen = SimpleNamespace(load_A=A_path, **flags)
G = weights.load_generator()
space = directions.search_space("all", G.dim_z)
Q = directions.rows(directions.load(A_path, space), space)
explorer = exploring.Explorer(G, Q, 3.0, exploring.origin(G, chosen))
for line in sys.stdin:
    values = json.loads(line)
    setting = exploring.Setting(tuple(values.pop("w")), **values)
    answer = {"picture": base64.b64encode(explorer.preview(setting)).decode(), "record": explorer.record(setting)}
    print(json.dumps(answer), flush=True)
"""


class Truth:
    """What the page should show, and save, for START with some changes."""

    def __init__(self):
        command = [sys.executable, "-c", TRUTH]
        self.worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **changes):
        self.worker.stdin.write(json.dumps(dict(START, **changes)) + "\n")
        self.worker.stdin.flush()
        return json.loads(self.worker.stdout.readline())

    def picture(self, **changes):
        """uint8 [256, 256, 3]"""
        return decode(self.ask(**changes)["picture"])

    def record(self, **changes):
        return self.ask(**changes)["record"]


class Explore:
    """A running explore.py, whose way to the outside is a proxy that notes whether anyone knocks."""

    def __init__(self, *flags):
        self.outside = socket.socket()
        self.outside.bind(("127.0.0.1", 0))
        self.outside.listen()
        self.outside.setblocking(False)
        proxy = "http://127.0.0.1:%d" % self.outside.getsockname()[1]
        proxies = {name: proxy for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        self.process = subprocess.Popen(
            [sys.executable, COMMAND, "--port", "0", "--device", "cpu", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, OMP_NUM_THREADS="1", **proxies),
            # Where the tests run as a background job, SIGINT is ignored from the beginning
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.printed = []
        for line in self.process.stdout:
            self.printed.append(line)
            if line.startswith("open "):
                break
        assert self.printed and self.printed[-1].startswith("open "), self.process.stderr.read()
        self.address = re.search(r"http://\S+", self.printed[-1]).group()

    def asked_outside(self):
        try:
            self.outside.accept()
        except BlockingIOError:
            return False
        return True

    def interrupt(self):
        """Press Ctrl-C; return (exit status, standard error)."""
        self.process.send_signal(signal.SIGINT)
        try:
            said = self.process.communicate(timeout=PATIENCE)[1]
        finally:
            self.process.kill()
        return self.process.returncode, said


@pytest.fixture(scope="module")
def truth():
    truth = Truth()
    yield truth
    truth.worker.stdin.close()
    truth.worker.wait()


@pytest.fixture(scope="module")
def running(truth, tmp_path_factory):
    """explore.py with a saved setting; in the end Ctrl-C stops it at once, with a page still open."""
    path = tmp_path_factory.mktemp("setting") / "start.json"
    path.write_text(json.dumps(truth.record()))
    server = Explore("--setting", str(path))
    yield server
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(server.address + "/gradio_api/heartbeat/open", timeout=PATIENCE):
        assert server.interrupt() == (130, "explore.py: interrupted\n")


@pytest.fixture
def page(running, open_page):
    page = explore_in(open_page, running)
    yield page
    settled(page, running)


def explore_in(open_page, server, **options):
    page = open_page(server.address, **options)
    page.wait_for_selector("#direction-11")
    return page


def settled(page, server):
    """Whatever was done: no complaint, and nothing asked of anybody but the page's own host."""
    assert page.complaints == []
    own = (server.address + "/", "data:", f"blob:{server.address}")
    assert [url for url in page.requests if not url.startswith(own)] == []
    assert not server.asked_outside()


def decode(data):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def picture(page):
    return decode(page.get_attribute("#picture img", "src").split(",", 1)[1])


def shows(page, expected):
    """Wait until the page's picture is the expected one, to the bit."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: np.array_equal(picture(page), expected))
    difference = np.abs(picture(page).astype(int) - expected).mean()
    assert difference == 0, f"the picture differs from the expected one by {difference:.2f} on average"


def slide(page, number, value):
    """Drag slider `number` to about `value`, with the mouse; return where it stands then."""
    slider = page.locator(f"#direction-{number}")
    slider.scroll_into_view_if_needed()
    box, now = slider.bounding_box(), float(slider.input_value())

    def x(value):  # the thumb, 16 pixels wide, stays within the track
        return box["x"] + 8 + (box["width"] - 16) * (value + 3) / 6

    page.mouse.move(x(now), box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(x(value), box["y"] + box["height"] / 2, steps=12)
    page.mouse.up()
    return float(number_of(page, number))


def number_of(page, number):
    return page.get_by_label(f"direction {number}, as a number").input_value()


def test_a_saved_setting_opens_and_sliders_move_the_picture(page, truth):
    shows(page, truth.picture())
    w = list(START["w"])
    shown = [float(number_of(page, number)) for number in range(12)]
    np.testing.assert_allclose(shown, w, atol=0.0051)  # two decimals, but what was saved is what counts
    assert page.locator("#seed input").input_value() == "3"
    assert page.locator("#class input").input_value() == "1 · sphere"
    assert float(page.locator("#truncation input[type=number]").input_value()) == 1.5
    for number, value in ((0, 1.5), (7, -2.2), (11, 0.8)):
        w[number] = slide(page, number, value)
        assert w[number] == pytest.approx(value, abs=0.05)
        shows(page, truth.picture(w=w))
    page.get_by_label("direction 3, as a number").fill("-1.234")
    w[3] = -1.234
    shows(page, truth.picture(w=w))
    page.locator("#direction-3").press("Home")
    w[3] = -3.0
    shows(page, truth.picture(w=w))
    page.locator("#direction-7").dblclick()
    w[7] = 0.0
    shows(page, truth.picture(w=w))
    alt = page.get_attribute("#picture img", "alt")
    assert alt == "clevr_simple_32: sphere, sample 3, 5 of 12 directions moved"
    page.get_by_role("button", name="Reset all").click()
    shows(page, truth.picture(w=[0] * 12))
    assert [number_of(page, number) for number in range(12)] == ["0"] * 12
    page.get_by_label("direction 2, as a number").fill("3.5")  # beyond the path
    page.wait_for_timeout(200)
    shows(page, truth.picture(w=[0] * 12))


def test_a_drag_does_not_queue_up_pictures_and_tabs_are_apart(page, running, open_page, truth):
    other = explore_in(open_page, running)
    other.locator("#seed input").fill("5")
    shows(other, truth.picture(seed=5))
    waiting, most = set(), [0]

    def asked(request):
        if "/run/predict" in request.url:
            waiting.add(request)
            most[0] = max(most[0], len(waiting))

    page.on("request", asked)
    page.on("response", lambda response: waiting.discard(response.request))
    script = """async () => {
      const slider = document.querySelector("#direction-1");
      for (let i = 1; i <= 120; i++) {
        slider.value = i / 48;
        slider.dispatchEvent(new Event("input", {bubbles: true}));
        await new Promise((done) => setTimeout(done, 4));
      }
    }"""
    page.evaluate(script)
    w = list(START["w"])
    w[1] = 2.5
    shows(page, truth.picture(w=w))
    assert most[0] == 1
    shows(other, truth.picture(seed=5))
    settled(other, running)


def test_class_seed_and_truncation(page, truth):
    page.locator("#class input").click()
    page.keyboard.type("cyl")
    page.keyboard.press("Enter")
    shows(page, truth.picture(label=2))
    page.locator("#new-sample").click()
    shows(page, truth.picture(label=2, seed=4))
    assert page.locator("#seed input").input_value() == "4"
    page.locator("#truncation input[type=number]").fill("0.4")
    shows(page, truth.picture(label=2, seed=4, truncation=0.4))
    page.locator("#truncation input[type=range]").press("End")
    shows(page, truth.picture(label=2, seed=4, truncation=None))


def test_what_cannot_be_done_is_said_on_the_page(page, truth):
    said = page.locator("#notice").get_by_role("status")
    for seed, message in (
        ("", "the seed is empty"),
        ("-3", "seed -3: must be"),
        ("5000000000", "seed 5000000000: must"),
    ):
        page.locator("#seed input").fill(seed)
        said.get_by_text(message).wait_for()
        shows(page, truth.picture())
    page.locator("#seed input").fill("8")
    shows(page, truth.picture(seed=8))
    page.locator("#truncation input[type=number]").fill("0")
    said.get_by_text("truncation 0: must be between 0.01 and 3").wait_for()
    page.locator("#truncation input[type=number]").fill("50")
    shows(page, truth.picture(seed=8, truncation=None))
    assert said.inner_text() == ""
    page.get_by_role("button", name="Reset all").click()
    shows(page, truth.picture(w=[0] * 12, seed=8, truncation=None))  # else its answer may take the message off
    page.locator("#export-gif").click()
    said.get_by_text("nothing would move; move a slider first").wait_for()


def test_exports(page, truth, tmp_path):
    w = list(START["w"])
    w[5] = slide(page, 5, -1.7)
    shows(page, truth.picture(w=w))
    files = {}
    for kind in ("png", "png", "gif", "json"):  # a second click saves again
        with page.expect_download() as started:
            page.locator(f"#export-{kind}").click()
        assert started.value.suggested_filename == f"clevr_simple_32-seed0-class1-sample3.{kind}"
        files[kind] = str(tmp_path / f"saved.{kind}")
        started.value.save_as(files[kind])
    expected = truth.picture(w=w)
    with Image.open(files["png"]) as image:
        assert image.size == (32, 32) and image.format == "PNG"
        enlarged = image.resize((256, 256), Image.BICUBIC)
    np.testing.assert_array_equal(np.asarray(enlarged), expected)
    with Image.open(files["gif"]) as image:
        assert image.n_frames == 60
        for frame, picture in ((0, truth.picture(w=[0] * 12)), (30, expected)):
            image.seek(frame)
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - picture).mean() < 1.5
    with open(files["json"]) as stream:
        assert json.load(stream) == truth.record(w=w)


def test_on_a_phone_in_the_dark(running, open_page, truth):
    """Nothing stands out at the side, the picture stays in view, colours are dark, sliders work."""
    page = explore_in(open_page, running, width=360, height=740, dark=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    box = page.locator("#picture img").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] < 740 / 2
    assert page.locator("#export-json").is_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background)[:3])) < 150
    w = list(START["w"])
    w[9] = slide(page, 9, 1.0)
    shows(page, truth.picture(w=w))
    settled(page, running)


def test_many_directions_beside_a_picture_that_stays(running, open_page):
    """A wide page: the sliders scroll, the picture and its controls do not."""
    page = explore_in(open_page, running, width=1280, height=640)
    page.add_style_tag(content="#directions .row { height: 300px !important; }")
    before = page.locator("#picture img").bounding_box()
    page.locator("#direction-11").scroll_into_view_if_needed()
    after = page.locator("#picture img").bounding_box()
    assert page.evaluate("window.scrollY") > 500 and 0 <= after["y"] <= before["y"]


def test_the_server_keeps_to_itself(running):
    assert running.printed[-1].startswith("open http://127.0.0.1:")
    port = int(running.address.rsplit(":", 1)[1])
    with contextlib.closing(socket.socket()) as elsewhere, pytest.raises(OSError):
        elsewhere.connect(("127.0.0.2", port))  # another address of this machine: only 127.0.0.1 is answered


def test_other_pages_of_the_browser_reach_nothing(running, open_page):
    """A server at 127.0.0.1 is at the mercy of every page that its user looks at, but for what it refuses."""
    stranger = open_page(running.address.replace("127.0.0.1", "localhost"))  # of another site, as browsers see it
    answered = []
    stranger.on("response", lambda response: answered.append((response.url, response.status)))
    script = """async ([address, path]) => {
      const body = new FormData();
      body.append("files", new Blob(["x"]), "x.html");
      await fetch(address + path, {method: "POST", mode: "no-cors", body});
    }"""
    for path in ("/gradio_api/upload", "/gradio_api/run/predict"):
        stranger.evaluate(script, [running.address, path])
    answers = [status for url, status in answered if url.startswith(running.address)]
    assert answers == [403, 403]
    renamed = urllib.request.Request(running.address, headers={"Host": "stranger.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(renamed, timeout=PATIENCE)
    assert refused.value.code == 403 and b"not to stranger.example" in refused.value.read()
