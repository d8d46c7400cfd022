"""The page of latent_traversal.save_html in a real browser, against the frames that it was made from."""

import base64
import contextlib
import io
import re

import numpy as np
import pytest
from patience import PATIENCE, wait_until
from PIL import Image

import latent_traversal
from latent_traversal import ExplorerPanel, save_html, sweep_values

STEPS, COLUMNS, CENTRE = 9, 3, 4
LABELS, VALUES = ["z8", "z10", "z2"], [0.5, 0.2, 0.05]
HOSTILE = "</script><b id='broken'>&amp; {{DATA}} <!--"


def strips(rows, height, width, seed):
    """uint8 [rows, COLUMNS, STEPS, height, width, 3]: a square that crosses a slope of colours, row by row another."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    made = np.empty((rows, COLUMNS, STEPS, height, width, 3), np.uint8)
    for row in range(rows):
        for column in range(COLUMNS):
            slopes, square = random.uniform(-1, 1, [2, 3]), random.randint(0, 256, 3)
            top = random.randint(height // 2)
            for step in range(STEPS):
                shade = slopes[0] * y[..., None] / height + slopes[1] * x[..., None] / width
                image = made[row, column, step]
                image[:] = np.clip(128 + 60 * shade, 0, 255)
                left = step * (width - 8) // (STEPS - 1)
                image[top : top + 8, left : left + 8] = square
    return made


ONE, OTHER = strips(3, 20, 28, seed=0), strips(2, 40, 40, seed=1)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: address}: `one` panel; `two` of different sizes and numbers of rows, in several sheets a strip; one of
    `hostile` texts; one that may keep no decoded sheet but those in sight, as if they were large, `tight`.
    """
    folder = tmp_path_factory.mktemp("pages")
    panel = ExplorerPanel("one", ONE, LABELS, VALUES, column_labels=["cube", "ball", "cone"])
    positions = sweep_values(STEPS, 2.0)
    save_html(str(folder / "one.html"), [panel], "Components", positions, fps=30)
    hostile = ExplorerPanel(HOSTILE, ONE, [HOSTILE] * 3, VALUES, HOSTILE, [HOSTILE] * COLUMNS)
    save_html(str(folder / "hostile.html"), [hostile, hostile], HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_traversal, "_SHEET_SIDE", 300)
        save_html(str(folder / "two.html"), [panel, ExplorerPanel("other", OTHER, ["a", "b"], [0.4, 0.1])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            latent_traversal, "_SCRIPT", latent_traversal._SCRIPT.replace("SHEET_PIXELS = 40e6", "SHEET_PIXELS = 1")
        )
        save_html(str(folder / "tight.html"), [panel])
    return {name: (folder / f"{name}.html").as_uri() for name in ("one", "two", "hostile", "tight")}


@pytest.fixture
def explore(pages, open_page):
    """explore(name, view="#…", **options of open_page) -> Page, ready; in the end no complaint, no further request."""
    opened = []

    def explore(name, view="", **options):
        page = open_page(pages[name] + view, **dict({"reduced_motion": "reduce"}, **options))
        page.wait_for_selector("html[data-ready]")
        opened.append((pages[name], page))
        return page

    yield explore
    for address, page in opened:
        assert {request.split("#")[0] for request in page.requests} == {address} and page.complaints == []


def slider(page, label):
    return page.get_by_role("slider", name=label)


def step_of(page, label):
    return int(slider(page, label).input_value())


def pictures(page, label):
    """float [H, W, 3] of every canvas in the row."""
    row = page.get_by_role("listitem").filter(has=slider(page, label))
    return painted(row.locator("canvas"))


def painted(canvases):
    urls = canvases.evaluate_all("all => all.map((canvas) => canvas.toDataURL('image/png'))")
    found = [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]
    return [np.asarray(picture.convert("RGB"), float) for picture in found]


def check(picture, strip, step):
    """The canvas shows this frame of the strip, but for the codec's losses; no other frame, none moved, so well."""
    assert max(picture.shape[:2]) >= 128 and picture.shape[0] % strip.shape[1] == 0
    size = picture.shape[1::-1]
    frames = [np.asarray(Image.fromarray(frame).resize(size, Image.BICUBIC), float) for frame in strip]
    errors = [np.abs(frame - picture).mean() for frame in frames]
    assert errors[step] < 4 and np.argmin(errors) == step, errors
    moved = [np.abs(frames[step] - np.roll(picture, by, axis)).mean() for by in (-3, 3) for axis in (0, 1)]
    assert errors[step] < min(moved), moved


def wait_for_picture(page, label, strip, step, index=0):
    """Wait until the canvas, which is painted once its sheet is decoded, has changed to the frame; check it."""

    def shown():
        try:
            check(pictures(page, label)[index], strip, step)
        except AssertionError:
            return False
        return step_of(page, label) == step

    with contextlib.suppress(AssertionError):
        wait_until(shown)
    check(pictures(page, label)[index], strip, step)


def wait_for_picker(page):
    """Wait until the picker has its pictures, and nothing more is being decoded."""
    painted = "(canvas) => canvas.getContext('2d').getImageData(0, 0, 1, 1).data[3]"
    done = f"[...find('samples').querySelectorAll('canvas')].every({painted}) && !decoding.size"
    wait_until(lambda: page.evaluate(done))


def steps_seen(page, label, count):
    """The first `count` different steps that a playing slider passes."""
    script = """([input, count, patience]) => new Promise((resolve, reject) => {
        setTimeout(() => reject(new Error("it does not play")), patience);
        const seen = [];
        const look = () => {
            if (seen[seen.length - 1] !== Number(input.value)) seen.push(Number(input.value));
            seen.length < count ? requestAnimationFrame(look) : resolve(seen);
        };
        look();
    })"""
    return page.evaluate(script, [slider(page, label).element_handle(), count, 1000 * PATIENCE])


# ----------------------------------------------------------------------------------------------------------------------
# Pictures


def test_a_slider_shows_the_frame_that_python_rendered(explore):
    page = explore("one")
    for row, label in enumerate(LABELS):
        wait_for_picture(page, label, ONE[row, 0], CENTRE)
    for step in (0, 1, 2, 3, 5, 8):
        slider(page, "z10").fill(str(step))
        check(pictures(page, "z10")[0], ONE[1, 0], step)
    check(pictures(page, "z8")[0], ONE[0, 0], CENTRE)  # the other rows stay where they are


def test_the_picker_changes_the_sample_of_every_row(explore):
    page = explore("one")
    slider(page, "z2").fill("7")
    page.get_by_role("radio", name="cone").check(force=True)
    wait_for_picture(page, "z2", ONE[2, 2], 7)
    wait_for_picture(page, "z8", ONE[0, 2], CENTRE)
    assert page.get_by_role("status").text_content() == "cone"
    page.get_by_role("radio", name="cone").press("ArrowLeft")
    wait_for_picture(page, "z2", ONE[2, 1], 7)


def test_a_picture_that_comes_late_is_not_shown_in_anothers_place(explore):
    page = explore("tight")
    wait_for_picker(page)
    page.evaluate("""() => {
        const decode = createImageBitmap;
        window.late = [];
        window.createImageBitmap = (blob) => new Promise((go) => late.push(() => decode(blob).then(go)));
        window.release = (some) => Promise.all(some.map((each) => each()));
    }""")
    page.get_by_role("radio", name="ball").check(force=True)
    ball = page.evaluate("late.length")
    page.get_by_role("radio", name="cone").check(force=True)
    assert page.evaluate("late.length") > ball > 0
    page.evaluate(f"release(late.slice({ball}))")
    wait_for_picture(page, "z8", ONE[0, 2], CENTRE)
    page.evaluate(f"release(late.slice(0, {ball})).then(() => new Promise(requestAnimationFrame))")
    check(pictures(page, "z8")[0], ONE[0, 2], CENTRE)


def test_all_samples_stand_in_one_row(explore):
    page = explore("one")
    page.get_by_role("radio", name="all samples").check(force=True)
    slider(page, "z10").fill("6")
    for column in range(COLUMNS):
        wait_for_picture(page, "z10", ONE[1, column], 6, column)
    assert len(pictures(page, "z8")) == COLUMNS
    names = page.locator(".row canvas").evaluate_all("all => all.map((canvas) => canvas.getAttribute('aria-label'))")
    assert names == [f"{label}, {column}" for label in LABELS for column in ("cube", "ball", "cone")]
    page.get_by_role("radio", name="ball").check(force=True)
    wait_for_picture(page, "z10", ONE[1, 1], 6)
    assert len(pictures(page, "z10")) == 1


def test_a_page_too_large_to_be_kept_decoded_works_all_the_same(explore):
    page = explore("tight")
    wait_for_picker(page)
    for choice, column in (("cone", 2), ("cube", 0)):
        page.get_by_role("radio", name=choice).check(force=True)
        for row, label in enumerate(LABELS):
            slider(page, label).fill(str(2 + row))
            wait_for_picture(page, label, ONE[row, column], 2 + row)
        kept = [f"0/{row}/{column}" for row in range(3)]
        wait_until(lambda kept=kept: page.evaluate("[...decoded.keys()].sort()") == kept)
    page.get_by_role("radio", name="all samples").check(force=True)
    wait_for_picture(page, "z10", ONE[1, 2], 3, 2)
    for column, canvas in enumerate(painted(page.locator("#samples canvas"))):
        check(canvas, ONE[0, column], CENTRE)


def test_two_panels_share_a_slider_and_rows_need_not_be_as_many(explore):
    page = explore("two")
    for step in (0, 5, 8):  # on the first, second and third sheet
        slider(page, "z10 / b").fill(str(step))
        wait_for_picture(page, "z10 / b", ONE[1, 0], step, 0)
        wait_for_picture(page, "z10 / b", OTHER[1, 0], step, 1)
    assert len(pictures(page, "z2")) == 1
    names = page.locator(".name").all_inner_texts()
    assert names == ["one", "other", "one", "other", "one"]
    share = "(bar) => bar.offsetWidth / bar.parentNode.offsetWidth"
    shares = page.locator(".bar i").evaluate_all(f"all => all.map({share})")
    assert shares == pytest.approx([1, 0.8, 0.4, 0.2, 0.1], abs=0.02)  # of the largest of both panels


# ----------------------------------------------------------------------------------------------------------------------
# Playing


def check_there_and_back(seen):
    """Up and down, turning at the ends only (on a busy machine the page leaves steps out, at most two in turn)."""
    moves = np.diff(seen)
    assert np.abs(moves).max() <= 3 and max(seen) >= 6 and min(seen) <= 2
    turns = [seen[i + 1] for i in np.flatnonzero(np.diff(np.sign(moves)))]
    assert turns and all(step <= 1 or step >= 7 for step in turns)


def test_play_goes_there_and_back_until_paused(explore):
    page = explore("one", view="#steps=6")
    page.get_by_role("button", name="Play z8").click()
    check_there_and_back(steps_seen(page, "z8", 16))
    page.get_by_role("button", name="Pause z8").click()
    stopped = step_of(page, "z8")
    page.wait_for_timeout(150)
    assert step_of(page, "z8") == stopped and step_of(page, "z10") == CENTRE
    check(pictures(page, "z8")[0], ONE[0, 0], stopped)


def test_play_keeps_to_its_rate(explore):
    page = explore("one", view="#steps=0.0.0")
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    page.get_by_role("button", name="Play z8").click()
    for tenths in (1, 2):
        page.clock.run_for(100)
        assert abs(step_of(page, "z8") - 3 * tenths) <= 1  # of 30 steps a second


def test_play_all_and_reset(explore):
    page = explore("one")
    page.get_by_role("button", name="Play all").click()
    for label in LABELS:
        assert len(steps_seen(page, label, 3)) == 3
    page.get_by_role("button", name="Pause all").click()
    page.get_by_role("button", name="Reset").click()
    assert [step_of(page, label) for label in LABELS] == [CENTRE] * 3
    page.locator("h1").click()
    page.keyboard.press("Space")  # nothing has the focus
    steps_seen(page, "z2", 3)
    slider(page, "z2").fill("1")  # who moves a slider wants it to stay
    assert page.get_by_role("button", name="Play z2").count() == 1
    page.wait_for_timeout(100)
    assert step_of(page, "z2") == 1 and page.get_by_role("button", name="Pause z8").count() == 1


def test_it_plays_once_when_opened_unless_motion_is_unwelcome(explore):
    page = explore("one", reduced_motion="no-preference")
    page.add_init_script("""
        const seen = (window.seen = []);
        (function look() {
            const input = document.querySelector("input[type=range]");
            if (input && seen[seen.length - 1] !== Number(input.value)) seen.push(Number(input.value));
            window.now = document.getElementById("play-all")?.textContent;
            window.played ||= /Pause/.test(now);
            requestAnimationFrame(look);
        })();
    """)
    page.reload()
    wait_until(lambda: page.evaluate("played && /Play/.test(now)"))
    assert [step_of(page, label) for label in LABELS] == [CENTRE] * 3
    seen = page.evaluate("seen")
    check_there_and_back(seen)
    assert seen[0] == CENTRE == seen[-1]
    for options in ({}, {"view": "#steps=4", "reduced_motion": "no-preference"}):
        page = explore("one", **options)
        assert page.get_by_role("button", name="Play all").count() == 1
        page.wait_for_timeout(150)
        assert step_of(page, "z8") == CENTRE and page.get_by_role("button", name="Play all").count() == 1


def test_a_link_to_a_view_does_not_play_however_long_its_pictures_take(explore):
    """Meanwhile the address is shortened, as the view is the first one."""
    page = explore("one", reduced_motion="no-preference")
    page.add_init_script("""
        const now = createImageBitmap;
        createImageBitmap = (...all) => new Promise((done) => setTimeout(() => done(now(...all)), 600));
    """)
    page.goto("about:blank")
    page.goto(page.requests[0] + "#steps=4")
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate("location.hash") == "" and page.get_by_role("button", name="Play all").count() == 1


# ----------------------------------------------------------------------------------------------------------------------
# Keys, fingers, addresses


def test_keys(explore):
    page = explore("one")
    first = slider(page, "z8")
    first.focus()
    for key, step in (("ArrowRight", 5), ("ArrowRight", 6), ("ArrowLeft", 5), ("End", 8), ("Home", 0)):
        page.keyboard.press(key)
        assert step_of(page, "z8") == step
        check(pictures(page, "z8")[0], ONE[0, 0], step)
    focused = "document.activeElement.getAttribute('aria-label')"
    for key, label in (("ArrowDown", "z10"), ("ArrowDown", "z2"), ("ArrowDown", "z2"), ("ArrowUp", "z10")):
        page.keyboard.press(key)
        assert page.evaluate(focused) == label
    assert [step_of(page, label) for label in LABELS] == [0, CENTRE, CENTRE]  # these keys move no slider
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Play z2"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "z2"
    page.keyboard.press("Space")
    steps_seen(page, "z2", 3)
    page.keyboard.press("Space")
    assert page.get_by_role("button", name="Play z2").count() == 1
    ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"


def test_dragging_across_a_picture_moves_its_slider(explore):
    page = explore("one")
    box = page.locator(".pictures canvas").nth(1).bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 9)
    page.mouse.down()
    assert step_of(page, "z10") == CENTRE
    page.mouse.move(box["x"] + 3, box["y"] + 9)
    assert step_of(page, "z10") == 0
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 200)
    page.mouse.up()
    page.mouse.move(box["x"], box["y"] + 9)
    assert step_of(page, "z10") == 6 and step_of(page, "z8") == CENTRE


def test_the_address_holds_the_view(explore):
    page = explore("one")
    slider(page, "z8").fill("7")
    slider(page, "z2").fill("1")
    page.get_by_label("Sort").select_option("name")
    page.get_by_role("radio", name="ball").check(force=True)
    page.wait_for_url(re.compile("sample="))
    view = page.url[page.url.index("#") :]
    again = explore("one", view=view)
    assert [step_of(again, label) for label in LABELS] == [7, CENTRE, 1]
    assert again.get_by_role("radio", name="ball").is_checked() and again.get_by_label("Sort").input_value() == "name"
    wait_for_picture(again, "z8", ONE[0, 1], 7)
    again.evaluate(
        "new Promise((go) => { addEventListener('hashchange', go); location.hash = '#sample=1&steps=3.4.1'; })"
    )
    assert again.get_by_role("radio", name="cube").is_checked() and step_of(again, "z8") == 3
    again.get_by_role("button", name="Play z8").click()
    again.get_by_role("radio", name="cone").check(force=True)
    again.wait_for_url(re.compile("sample=3"))
    assert again.url.endswith(f"steps={CENTRE}.{CENTRE}.1")  # not where a playing row happens to be
    broken = explore("one", view="#sample=9&sort=__proto__&steps=99.-1.x")
    assert [step_of(broken, label) for label in LABELS] == [CENTRE] * 3
    assert broken.get_by_role("radio", name="cube").is_checked()
    assert broken.get_by_label("Sort").input_value() == "value"


def test_rows_are_sorted_by_value_or_by_name(explore):
    page = explore("one")
    assert page.locator(".label").all_inner_texts() == ["z8", "z10", "z2"]
    page.get_by_label("Sort").select_option("name")
    assert page.locator(".label").all_inner_texts() == ["z2", "z8", "z10"]
    slider(page, "z2").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "z8"
    page.get_by_label("Sort").select_option("activeness")
    assert page.locator(".label").all_inner_texts() == ["z8", "z10", "z2"]


# ----------------------------------------------------------------------------------------------------------------------
# For everybody


@pytest.mark.parametrize("name, view", [("one", ""), ("one", "#sample=all"), ("two", ""), ("two", "#sample=all")])
def test_a_phone_needs_no_sideways_scrolling(explore, name, view):
    page = explore(name, view, width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    boxes = [each.bounding_box() for each in page.locator("button, select, input[type=range], .row canvas").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
    assert all(each.bounding_box()["width"] >= 100 for each in page.locator("input[type=range]").all())


def test_everything_has_a_name(explore):
    page = explore("two")
    slider(page, "z8 / a").fill("2")
    assert slider(page, "z8 / a").get_attribute("aria-valuetext") == "z8 / a: 3 / 9"
    assert page.locator(".row canvas").first.get_attribute("aria-label") == "one, z8, cube"
    assert [each.get_attribute("title") for each in page.locator("#samples label").all()] == [
        *("cube", "ball", "cone"),
        "all samples",
    ]
    page = explore("one")
    slider(page, "z8").fill("0")
    assert slider(page, "z8").get_attribute("aria-valuetext") == "z8: −2.0"
    assert page.locator(".value").all_text_contents() == ["activeness 0.500", "activeness 0.200", "activeness 0.050"]
    assert page.locator("html").get_attribute("lang") == "en"
    for line in page.locator("body").aria_snapshot().splitlines():  # "- slider "z8": …": a role, and its name
        assert not re.match(r"\s*- (button|slider|radio|combobox|img|group|list)(:|$)", line), line


def test_light_and_dark(explore):
    colours = "[getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(document.body).color]"
    light, dark = explore("one"), explore("one", dark=True)
    by_light, by_dark = light.evaluate(colours), dark.evaluate(colours)
    brightness = [[sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in pair] for pair in (by_light, by_dark)]
    assert brightness[0][0] > 700 > 200 > brightness[0][1] and brightness[1][0] < 100 < 600 < brightness[1][1]
    light.get_by_role("button", name="Dark theme").click()
    assert light.evaluate(colours) == by_dark
    light.get_by_role("button", name="Light theme").click()
    assert light.evaluate(colours) == by_light


def test_colours_of_the_system(explore):
    page = explore("one", forced_colors="active")
    background = "(each) => getComputedStyle(each).backgroundColor"
    seen = [page.locator(each).first.evaluate(background) for each in ("html", ".bar i", "#play-all .icon")]
    assert seen[0] not in seen[1:]
    ring = "getComputedStyle(document.querySelector('#samples :checked + *')).boxShadow"
    assert page.evaluate(ring) != "none"


def test_paper_shows_the_rows_out_of_sight(explore):
    page = explore("one", width=360, height=100)
    wait_until(lambda: page.pdf() and pictures(page, "z2")[0].any())  # once all is decoded
    check(pictures(page, "z2")[0], ONE[2, 0], CENTRE)


def test_texts_are_texts(explore):
    page = explore("hostile")
    assert page.title() == HOSTILE and page.locator("h1").inner_text() == HOSTILE
    assert page.locator("#broken").count() == 0
    assert page.locator(".label").first.text_content() == HOSTILE
    assert slider(page, HOSTILE).count() == 3
