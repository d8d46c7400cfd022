"""All commands with generators of users' habits: taken as they are, or refused in one line."""

import os

import numpy as np
import odd_generators
import planted
import pytest
import torch
from biggan_helpers import load_command, refusal, run
from PIL import Image

from biggan import directions
from experiment_utils.errors import SnapshotError

COMMANDS = {name: load_command(name) for name in ("discover", "vis_directions", "compare_directions", "explore")}
MEASURING = ("discover", "compare_directions")


@pytest.fixture
def call(tmp_path, capfd, monkeypatch):
    """call("discover", "Wide", *flags) -> (exit status, output, errors), at a small size."""
    monkeypatch.chdir(tmp_path)
    directions.save("true.pt", planted.rotation()[:3])

    def call(command, generator, *flags):
        small = {
            "discover": "--steps 2 --batch_size 4",
            "vis_directions": "--load_A true.pt --out_dir out --steps 3 --n_samples 2 --format stills --pad_y 0",
            "compare_directions": "--load_A true.pt --penalty_samples 16 --baseline_seeds 0 --out_dir out",
            "explore": "--load_A true.pt --port 0",
        }[command].split()
        where = ["--G_path", f"odd_generators:{generator}", "--device", "cpu"]
        return run(command, COMMANDS[command], capfd, [*where, *small, *flags])

    return call


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize(
    ("generator", "said"),
    [
        (
            "BatchStatistics",
            "each image depends on the other samples of its batch through its layer norm (BatchNorm1d)",
        ),
        ("FixedBatch", "fails for z of shape [5, 6] (RuntimeError: shape '[16, 3, 16, 16]' is invalid"),
    ],
)
def test_refused_by_all_commands(call, monkeypatch, command, generator, said):
    if command == "explore":
        monkeypatch.setattr(COMMANDS[command], "require_gradio", lambda: None)  # it has none under Python 3.7
    message = refusal(call(command, generator))
    assert message.startswith(f"--G_path odd_generators:{generator}: {said}")
    assert os.listdir(".") == ["true.pt"]


@pytest.mark.parametrize("command", MEASURING)
def test_noise_is_refused_where_it_would_be_measured(call, command):
    message = refusal(call(command, "Noise"))
    assert "odd_generators_Noise: gives other images for the same z each time; switch its noise off" in message
    assert not os.path.exists("results") and not os.path.exists("out")


def test_noise_is_said_where_images_are_shown(call):
    status, out, _ = call("vis_directions", "Noise")
    assert status == 0
    assert "odd_generators_Noise: gives other images for the same z each time, as some noise is on" in out.splitlines()


@pytest.mark.parametrize("generator", ["WithoutGradient", "InInferenceMode"])
@pytest.mark.parametrize("objective", ["hessian_penalty", "diagonal", "orojar"])
def test_discovery_needs_a_gradient(call, generator, objective):
    message = refusal(call("discover", generator, "--objective", objective))
    assert message.startswith(f"odd_generators_{generator}: its images have no gradient with respect to z")
    assert not os.path.exists("results")


@pytest.mark.parametrize("generator", ["WithoutGradient", "InInferenceMode"])
@pytest.mark.parametrize("command", ["vis_directions", "compare_directions"])
def test_looking_and_measuring_need_none(call, command, generator):
    assert call(command, generator)[0] == 0
    assert os.listdir("out")


@pytest.mark.parametrize("command", ["vis_directions", "compare_directions"])
def test_numbers_that_are_none_far_out(call, command):
    message = refusal(call(command, "NearOnly", "--path_size", "50"))
    assert message.startswith("odd_generators_NearOnly: gives values that are not finite") and "path_size" in message
    assert call(command, "NearOnly", "--path_size", "1")[0] == 0


@pytest.mark.parametrize(
    ("command", "few", "many"),
    [
        ("vis_directions", "--val_minibatch_size 8", "--n_samples 3"),
        ("compare_directions", "--val_minibatch_size 8", "--penalty_samples 256"),
        ("discover", "--batch_size 8", "--batch_size 64 --experiment_name more"),
    ],
)
def test_generators_that_fail_later_say_for_what(call, command, few, many):
    assert call(command, "FewAtOnce", *few.split())[0] == 0
    message = refusal(call(command, "FewAtOnce", *many.split()))
    assert "odd_generators_FewAtOnce: fails for z of shape [" in message and "(RuntimeError: too many at" in message


def stills(call, generator, *flags):
    """(uint8 images of the stills, output) of vis_directions.py."""
    status, out, err = call("vis_directions", generator, *flags)
    assert status == 0, err
    names = sorted(name for name in os.listdir("out") if name.endswith(".png") and "sweep" not in name)
    return [np.asarray(Image.open(os.path.join("out", name))) for name in names], out


@pytest.mark.parametrize(
    ("generator", "flags", "said"),
    [
        ("UnitInterval", (), "its values lie in [0, 1] and are scaled to [-1, 1]"),
        ("Bytes", (), "its values lie in [0, 255] and are scaled to [-1, 1]"),
        ("InATuple", (), "returns a tuple of 2; its element 1 is taken for the images"),
        ("UnitInterval", ("--image_range", "0", "1"), None),
    ],
)
def test_the_pictures_are_those_of_the_same_generator_without_its_habit(call, generator, flags, said):
    habit, out = stills(call, generator, *flags)
    remarks = [line for line in out.splitlines() if line.startswith(f"odd_generators_{generator}: ")]
    assert [line[len(f"odd_generators_{generator}: ") :].split(" (if")[0] for line in remarks] == [said] * bool(said)
    plain, _ = stills(call, "Unconditional")
    assert len(habit) == len(plain) > 0
    for one, other in zip(habit, plain):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_a_given_range_overrides_what_the_images_show(call):
    pale, out = stills(call, "UnitInterval", "--image_range", "-1", "1")
    assert "scaled" not in out
    plain, _ = stills(call, "UnitInterval")
    dark = (plain[0] < 50).all(axis=2)
    assert dark.mean() > 0.2 and (pale[0][dark] >= 128).mean() > 0.9  # the generator's black, 0, counts as grey now


@pytest.mark.parametrize("values", [("1", "0"), ("1", "1"), ("0", "nan"), ("0", "inf")])
def test_ranges_that_are_none(call, values):
    message = refusal(call("vis_directions", "Unconditional", "--image_range", *values))
    assert message.startswith("--image_range ") and "must be two finite numbers" in message


def test_discovery_remembers_the_range(call):
    flags = ("--image_range", "0", "2")
    assert call("discover", "UnitInterval", *flags)[0] == 0
    message = refusal(call("discover", "UnitInterval", "--resume", "--image_range", "0", "1"))
    assert "cannot go on with other flags: --image_range (was [0.0, 2.0])" in message
    assert call("discover", "UnitInterval", "--resume", "--steps", "3")[0] == 0


def test_the_penalty_is_that_of_scaled_images(call):
    logged = {}
    for generator in ("Unconditional", "UnitInterval", "Bytes"):
        status, out, err = call("discover", generator, "--experiment_name", generator)
        assert status == 0, err
        logged[generator] = [float(line.split()[3]) for line in out.splitlines() if line.startswith("step ")]
    assert len(logged["Bytes"]) == 2
    assert logged["UnitInterval"] == pytest.approx(logged["Unconditional"], rel=1e-2)
    assert logged["Bytes"] == pytest.approx(logged["Unconditional"], rel=1e-2)


# ----------------------------------------------------------------------------------------------------------------------
# Pictures that are wider than high


def test_wide_pictures_are_shown_wide(call):
    wide, _ = stills(call, "Wide")
    plain, _ = stills(call, "Unconditional")
    for one, other in zip(wide, plain):  # as wide as the others, in three rows of half their 64 pixels
        assert one.shape[1] == other.shape[1] and other.shape[0] - one.shape[0] == 3 * 32


@pytest.mark.parametrize("form", ["gif", "mp4", "html"])
def test_wide_pictures_in_every_format(call, form):
    status, _, err = call("vis_directions", "Wide", "--format", form)
    assert status == 0, err
    (path,) = [name for name in os.listdir("out") if name.endswith(form)]
    if form == "gif":
        assert Image.open(os.path.join("out", path)).size[0] >= 4 * planted.SIZE


def test_wide_pictures_are_discovered_and_compared(call):
    assert call("discover", "Wide", "--vis_during_training", "--save_every", "1")[0] == 0
    assert call("compare_directions", "Wide")[0] == 0


def test_a_regressor_of_other_pictures_names_both_sizes(call, tmp_path):
    from factor_scores import FactorRegressor

    images, factors = planted.data(60, seed=0)
    FactorRegressor.fit(images, factors, planted.INFO).save("reader.safetensors")
    message = refusal(call("compare_directions", "Wide", "--regressor", "reader.safetensors"))
    assert "reads images of shape (16, 16, 3), but odd_generators_Wide makes (16, 32, 3)" in message


def test_wide_pictures_in_the_explorer(tmp_path):
    from biggan.exploring import Explorer, Setting
    from biggan.frozen import FrozenGenerator

    explorer = Explorer(FrozenGenerator(odd_generators.Wide(), "wide"), planted.rotation(), 3.0)
    assert explorer.image(explorer.start()).shape == (16, 32, 3)
    assert explorer.gif(Setting((1.0,) * planted.DIM_Z)).startswith(b"GIF")


def test_a_saved_setting_keeps_the_range(tmp_path, monkeypatch):
    from test_exploring import Saved, opened

    monkeypatch.chdir(tmp_path)
    flags = ("--G_path", "odd_generators:UnitInterval", "--load_A", "coord")
    saved = Saved(COMMANDS["explore"], tmp_path, *flags, "--image_range", 0, 4)
    assert saved.record["generator"]["image_range"] == [0, 4]
    explorer, setting = opened(COMMANDS["explore"], "--setting", saved.path, *flags[:2])
    np.testing.assert_array_equal(explorer.image(setting), saved.pixels)
    del saved.record["generator"]["image_range"]  # as older versions wrote it
    saved.write(saved.record)
    explorer, _ = opened(COMMANDS["explore"], "--setting", saved.path, *flags[:2])
    assert explorer.G.image_range == (0, 1)


def test_every_habit_is_tried_here():
    habits = {name for name, value in vars(odd_generators).items() if isinstance(value, type) and name != "nn"}
    with open(__file__) as stream:
        text = stream.read()
    assert not [name for name in habits if name not in text]


def test_a_gradient_of_the_scaled_images():
    from biggan.frozen import FrozenGenerator

    z = torch.randn(2, planted.DIM_Z, requires_grad=True)
    plain, scaled = (FrozenGenerator(make(), "x") for make in (planted.Unconditional, odd_generators.Bytes))
    (expected,) = torch.autograd.grad(plain(z).square().sum(), z)
    (found,) = torch.autograd.grad(scaled(z).square().sum(), z)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(SnapshotError, match=r"fails for z"):
        FrozenGenerator(odd_generators.FixedBatch(), "x")
