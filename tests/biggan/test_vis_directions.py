"""vis_directions.py: what it writes and under which names, what the pictures show, what it refuses."""

import os

import numpy as np
import planted
import pytest
import torch
from biggan_helpers import load_command, refusal, run
from explorer_pages import codec_error, page_data
from PIL import Image

from biggan import comparison, directions, sources, weights
from biggan.frozen import FrozenGenerator

BUNDLED = sources.files_beside()[1][0]
GAUGES = ["--G_path", "planted:Gauges", "--device", "cpu"]


@pytest.fixture(scope="module")
def command():
    return load_command("vis_directions")


@pytest.fixture
def A_path(tmp_path):
    path = str(tmp_path / "found.pt")
    directions.save(path, planted.rotation()[:5])
    return path


def visualize(command, out_dir, *arguments):
    command.main([*GAUGES, "--out_dir", str(out_dir), "--steps", "5", "--n_samples", "3", *map(str, arguments)])
    return sorted(os.listdir(str(out_dir)))


def frames_of(path):
    with Image.open(str(path)) as gif:
        frames = []
        for number in range(gif.n_frames):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
        return frames, gif.info["duration"]


def test_gif_and_mp4_are_named_after_the_direction_file(command, tmp_path, A_path, capsys):
    files = visualize(command, tmp_path / "out", "--load_A", A_path)
    assert files == ["found-seed0.gif", "found-seed0.mp4"]
    printed = capsys.readouterr().out.split()
    assert printed[-2:] == [str(tmp_path / "out" / name) for name in files]
    run = tmp_path / "goldens"
    run.mkdir()
    os.rename(A_path, str(run / "A_050000.pt"))
    arguments = ["--load_A", run / "A_050000.pt", "--fix_class", 2, "--seed", 7, "--format", "gif"]
    assert visualize(command, tmp_path / "run", *arguments) == ["goldens-A_050000-class2-seed7.gif"]
    assert visualize(command, tmp_path / "drawn", "--load_A", "random", "--format", "gif") == ["random-seed0.gif"]
    assert visualize(command, tmp_path / "axes", "--load_A", "coord", "--format", "gif") == ["coord-seed0.gif"]


def test_the_video_starts_and_ends_at_the_centre(command, tmp_path, A_path):
    """Five steps: centre, right of it, right end, …, left end, … . At 50 frames a second the GIF leaves none out."""
    visualize(command, tmp_path / "a", "--load_A", A_path, "--format", "gif", "--fps", 50)
    frames, duration = frames_of(tmp_path / "a" / "found-seed0.gif")
    assert len(frames) == 8 and duration == 20
    for first, second in ((1, 3), (0, 4), (5, 7)):  # the same places, on the way out and back
        assert np.abs(frames[first] - frames[second]).mean() < 2
    assert np.abs(frames[2] - frames[6]).mean() > 5
    visualize(command, tmp_path / "b", "--load_A", A_path, "--format", "gif")
    halved, duration = frames_of(tmp_path / "b" / "found-seed0.gif")
    assert len(halved) == 4 and duration == 30  # of 60 a second every other, 33 and a third of a millisecond each


def test_rows_are_the_chosen_directions_and_columns_samples_of_their_class(command, tmp_path, A_path, monkeypatch):
    seen = []
    original = command.save_stills
    monkeypatch.setattr(command, "save_stills", lambda *a: seen.append(a) or original(*a))
    import biggan.traversal

    strips = []
    laid_out = biggan.traversal.direction_frames

    def look(given, numbers, labels=None, **layout):
        strips.append((given, numbers, labels))
        return laid_out(given, numbers, labels, **layout)

    monkeypatch.setattr(biggan.traversal, "direction_frames", look)
    arguments = ["--load_A", A_path, "--directions_to_vis", "3-4", "0", "--n_frames_to_save", 2, "--path_size", 1.5]
    files = visualize(command, tmp_path / "out", *arguments, "--stills_only")
    assert files == ["found-seed0-sweep.png", "found-seed0_00.png", "found-seed0_01.png"]
    given, numbers, labels = strips[0]
    assert numbers == [3, 4, 0] and given.shape[:3] == (3, 3, 5)
    classes = [int(label.split()[1]) for label in labels]
    Q, G = planted.rotation(), FrozenGenerator(planted.Gauges(), "g")
    generator = directions.generator(0, command.SAMPLES)
    z = torch.randn(3, planted.DIM_Z, generator=generator)
    assert classes == G.random_classes(3, generator).tolist()
    for row, number in enumerate(numbers):
        for column in range(3):
            at = z[column] - (z[column] @ Q[number]) * Q[number] + 1.5 * Q[number]
            expected = G(at[None], torch.tensor([classes[column]]))[0].permute(1, 2, 0).numpy() * 127.5 + 128
            assert np.abs(given[row, column, -1] - np.clip(expected, 0, 255)).max() <= 1.5


def test_many_directions_go_into_several_videos(command, tmp_path, A_path):
    files = visualize(command, tmp_path / "out", "--load_A", A_path, "--nz_per_vid", 2, "--format", "gif")
    assert files == [f"found-seed0-part{part}.gif" for part in range(3)]
    heights = [Image.open(str(tmp_path / "out" / name)).size[1] for name in files]
    assert heights[0] == heights[1] > heights[2]
    files = visualize(command, tmp_path / "t", "--load_A", A_path, "--transpose", "--format", "gif")
    size = Image.open(str(tmp_path / "t" / files[0])).size
    assert size[0] > size[1]  # five directions across, three samples down


def test_directions_that_do_not_exist_are_left_out_with_a_word(command, tmp_path, A_path, capsys):
    visualize(command, tmp_path / "out", "--load_A", A_path, "--directions_to_vis", "4-6", "--format", "gif")
    assert "left out 5, 6; there are directions 0 to 4" in capsys.readouterr().out


def test_a_search_space_and_directions_as_they_are(command, tmp_path):
    path = str(tmp_path / "narrow.pt")
    directions.save(path, 3 * torch.eye(2, 3))
    arguments = ["--load_A", path, "--search_space", "1:4", "--no_ortho", "--format", "gif"]
    assert visualize(command, tmp_path / "out", *arguments) == ["narrow-seed0.gif"]


def test_direction_files_stand_side_by_side_on_one_page(command, tmp_path, A_path):
    arguments = ["--load_A", A_path, "--beside", "coord", "--format", "html", "--html_steps", 3, "--path_size", 1.5]
    files = visualize(command, tmp_path / "out", *arguments, "--fix_class", 1, "--directions_to_vis", "0-3")
    assert files == ["found-vs-coord-class1-seed0.html"]
    title, data = page_data(tmp_path / "out" / files[0])
    assert title.startswith("Directions in ") and data["positions"] == [-1.5, 0, 1.5]
    found, axes = data["panels"]
    assert (found["name"], axes["name"], found["valueName"]) == ("found", "coord", "activeness")
    assert len(axes["labels"]) == 4 and found["values"] == sorted(found["values"], reverse=True)
    # Directions 0, 1 and 2 move something (each its own part of the picture), direction 3 nothing.
    assert sorted(found["labels"][:3]) == ["direction 0", "direction 1", "direction 2"]
    assert found["labels"][3] == "direction 3" and found["values"][3] < 1e-4 < 1e-2 < found["values"][2]
    first, Q = int(found["labels"][0].split()[1]), planted.rotation()
    z = torch.randn(3, planted.DIM_Z, generator=directions.generator(0, command.SAMPLES))
    G = FrozenGenerator(planted.Gauges(), "g")
    images = []
    for end in (-1.5, 0, 1.5):
        at = z - (z @ Q[first])[:, None] * Q[first] + end * Q[first]
        images.append(G(at, torch.ones(3, dtype=torch.int64)).permute(0, 2, 3, 1).numpy() * 127.5 + 128)
    images = np.clip(np.stack(images, 1), 0, 255)
    for column in range(3):
        assert codec_error(found, 0, column, np.uint8(images[column])) < 3
    assert found["values"][0] == pytest.approx(np.var(images / 127.5, axis=1, ddof=1).mean(), rel=0.02)


def test_a_page_of_the_bundled_generator_is_sorted_by_purity(command, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison.Protocol, "__init__", quick_protocol(comparison.Protocol.__init__))
    arguments = ["--load_A", BUNDLED, "--format", "html", "--html_steps", "2", "--n_samples", "1", "--device", "cpu"]
    command.main([*arguments, "--directions_to_vis", "0-3", "--out_dir", str(tmp_path)])
    (panel,) = page_data(tmp_path / os.listdir(str(tmp_path))[0])[1]["panels"]
    G = weights.load_generator(None)
    Q = directions.rows(*directions_of(BUNDLED, G))[:4]
    readings = comparison.measure(G, Q, comparison.Protocol(samples=8), load_regressor(G))
    expected = [record["purity"] for record in comparison.direction_records([method_of(readings)])]
    assert panel["valueName"] == "purity" and panel["values"] == sorted(panel["values"], reverse=True)
    shown = dict(zip(panel["labels"], panel["values"]))
    assert shown == pytest.approx({f"direction {number}": value for number, value in enumerate(expected)})


def quick_protocol(original):
    """Protocol.__init__ with fewer samples to read factors off, so that a test takes no longer than it has to."""
    return lambda self, **options: original(self, **dict({"factor_samples": 8, "factor_steps": 3}, **options))


def directions_of(path, G):
    space = directions.search_space("all", G.dim_z)
    return directions.load(path, space), space


def load_regressor(G):
    return comparison.load_regressor(G, sources.files_beside()[0])


def method_of(measurements):
    method = comparison.Method("ours")
    method.add("file", measurements)
    return method


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--directions_to_vis", "5", "7-8"], ["--directions_to_vis 5, 7, 8", "0 to 4"]),
        (["--directions_to_vis", "two"], ["--directions_to_vis", "'two'"]),
        (["--fix_class", "3"], ["--fix_class 3", "0 to 2"]),
        (["--G_path", "planted:Unconditional", "--fix_class", "0"], ["--fix_class 0", "no classes"]),
        (["--search_space", "coarse"], ["found.pt", "6", "2"]),
        (["--load_A", "nowhere.pt"], ["nowhere.pt"]),
        (["--load_A", planted.__file__], ["planted.py"]),
        (["--steps", "1"], ["--steps 1"]),
        (["--path_size", "0"], ["--path_size 0"]),
        (["--n_samples", "0"], ["--n_samples 0"]),
        (["--ndirs", "9"], ["--ndirs 9", "5"]),
        (["--beside", "random"], ["--beside random", "--format html"]),
        (["--format", "html", "--beside", "nowhere.pt"], ["nowhere.pt"]),
        (["--format", "html", "--beside", BUNDLED], ["clevr_simple_32-seed0.pt", "12", "6"]),
        (
            ["--format", "html", "--max_mb", "0.01"],
            ["found-seed0.html", "--max_mb 0.01", "--n_samples"],
        ),
    ],
)
def test_bad_input(command, tmp_path, capfd, A_path, arguments, words):
    arguments = [*GAUGES, "--load_A", A_path, "--out_dir", str(tmp_path / "out"), *arguments]
    message = refusal(run("vis_directions", command, capfd, arguments))
    assert all(word in message for word in words) and not list(tmp_path.glob("out/*"))
