"""Training a BigGAN: what a step does, that it learns, and that nothing depends on where it was interrupted."""

import copy
import os
from unittest import mock

import numpy as np
import pytest
import torch
from closeness import ROUNDED, assert_close
from labelled_data import INFO, discs

from biggan import training
from biggan.images import LabelledImages
from biggan.training import Settings, Training, network_specs
from biggan.weights import load_generator
from experiment_utils.errors import Interrupted, TrainingError

CPU = torch.device("cpu")


def labelled(count=60):
    images, factors = discs(count)
    return LabelledImages(
        "discs", factors[:, 0], INFO[0]["values"], 8, 3, lambda indices: images[indices], factors, INFO
    )


def make(data=None, ch=8, **settings):
    settings = Settings(**dict({"total_kimg": 0.08, "batch_size": 8, "seed": 3}, **settings))
    return Training(*network_specs(8, ch, 4, 2, shared_dim=4), data or labelled(), settings, CPU)


def same(one, other):
    state, others = one.state(), other.state()
    return sorted(state) == sorted(others) and all(np.array_equal(state[name], others[name]) for name in state)


# ----------------------------------------------------------------------------------------------------------------------
# The networks that are trained


@pytest.mark.parametrize("resolution, widths", [(8, (8, 8)), (32, (32, 32, 16, 8)), (128, (128, 128, 64, 32, 16, 8))])
def test_widths_double_down_to_8_px(resolution, widths):
    """128 px: the published 16, 16, 8, 4, 2, 1 times ch; D the other way round."""
    G, D = network_specs(resolution, 8, 12, 5)
    assert (G.widths, G.resolution) == (widths, resolution)
    assert (D.widths, D.resolution) == (widths[::-1], resolution)


# ----------------------------------------------------------------------------------------------------------------------
# A step


def hinge_by_hand(run, real, labels, z, y):
    """D's loss sample by sample, from scores computed in one pass as training computes them."""
    D, G = copy.deepcopy(run.D), copy.deepcopy(run.G)
    with torch.no_grad():
        scores = D(torch.cat([real, G(z, y)]), torch.cat([labels, y]))[:, 0].tolist()
    of_real, of_fake = scores[: len(real)], scores[len(real) :]
    return sum(max(0, 1 - s) for s in of_real) / len(real) + sum(max(0, 1 + s) for s in of_fake) / len(real)


def test_losses_are_the_hinge_losses():
    run = make()
    for _ in range(5):
        run.step()
    real, labels = run._reals(0)
    z, y = run._latents(run.steps, training.D_STEP)
    assert real.min() >= -1 and real.max() <= 1 and real.shape == (8, 3, 8, 8)
    expected = hinge_by_hand(run, real, labels, z, y)
    updated = []
    with mock.patch.object(Training, "_update", lambda self, net, loss: updated.append((net, loss.item()))):
        values = run.step()
    assert [net for net, _ in updated] == ["D", "G"]
    assert values["loss_D"] == pytest.approx(expected, rel=1e-4) == updated[0][1]
    assert values["loss_G"] == updated[1][1]


def test_each_step_moves_its_own_network():
    run = make(cooldown=0.0)
    moved = {}
    original = Training._update

    def update(self, net, loss):
        before = {name: copy.deepcopy(list(getattr(self, name).parameters())) for name in "GD"}
        original(self, net, loss)
        changed = {
            name: any(not torch.equal(a, b) for a, b in zip(before[name], getattr(self, name).parameters()))
            for name in "GD"
        }
        moved[net] = changed

    with mock.patch.object(Training, "_update", update):
        run.step()
    assert moved == {"D": {"G": False, "D": True}, "G": {"G": True, "D": False}}


def test_every_d_step_has_images_of_its_own():
    seen = []
    data = labelled()
    original = data.minibatch
    data.minibatch = lambda seed, shown, size: seen.append((shown, size)) or original(seed, shown, size)
    run = make(data, d_steps=2)
    run.step()
    run.step()
    assert seen == [(0, 8), (8, 8), (16, 8), (24, 8)]


def test_learning_rates_fall_to_zero_over_the_cooldown():
    run = make(cooldown=0.4)  # 10 steps: the last 4
    rates = []
    for _ in range(10):
        run.step()
        rates.append([run.optimisers[net].param_groups[0]["lr"] for net in ("G", "D")])
    factors = [1] * 7 + [0.75, 0.5, 0.25]
    np.testing.assert_allclose(rates, [[2e-4 * f, 4e-4 * f] for f in factors], rtol=1e-6)


def test_the_average_has_its_half_life():
    """Once it is `ema_kimg` long; before, a twentieth of what was shown."""
    run = make(ema_kimg=0.01, total_kimg=10)
    expected = [parameter.double() for parameter in run.G.parameters()]
    for step in range(1, 31):
        run.step()
        beta = 0.5 ** (8 / min(10, 0.05 * 8 * step))
        expected = [beta * e + (1 - beta) * p.detach().double() for e, p in zip(expected, run.G.parameters())]
    for found, wanted in zip(run.G_ema.parameters(), expected):
        assert_close(found.detach(), wanted.detach(), within=ROUNDED)


def test_it_learns_the_classes():
    """After a few seconds the two classes have the shades of their discs."""
    run = make(ch=16, total_kimg=8, batch_size=16, g_lr=2e-3, d_lr=2e-3, ema_kimg=1)
    while run.steps < run.total_steps:
        run.step()
    G = run.averaged_generator()
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        extremes = [G(z, torch.full([64], label))[:, 0].flatten(1) for label in (0, 1)]
    dark, bright = extremes[0].min(1).values.mean(), extremes[1].max(1).values.mean()
    assert dark < -0.5 and bright > 0.5
    assert extremes[0].max() < 0.6 and extremes[1].min() > -0.6


# ----------------------------------------------------------------------------------------------------------------------
# Runs


def test_the_same_seed_gives_the_same_bits_also_across_a_resume(tmp_path):
    whole, first, second, other = make(), make(), make(), make(seed=4)
    for run in (whole, other):
        training.train(run, str(tmp_path), {}, lambda line: None, save_kimg=1)
    while first.steps < 4:
        first.step()
    training.save(str(tmp_path), first, {})
    training.resume(str(tmp_path), second)
    assert second.steps == 4 and same(first, second)
    training.train(second, str(tmp_path), {}, lambda line: None, save_kimg=1)
    assert same(whole, second) and not same(whole, other)


def test_what_is_saved_is_the_averaged_generator(tmp_path):
    run = make()
    path = training.train(run, str(tmp_path), {"data": "discs"}, lambda line: None)
    G = load_generator(path)
    assert (G.dim_z, G.num_classes, G.class_names, G.image_shape) == (4, 2, ["dark", "bright"], (8, 8, 3))
    z, y = torch.randn(3, 4), torch.tensor([0, 1, 1])
    assert_close(G(z, y), run.G_ema(z, y).detach(), within=ROUNDED)
    assert sorted(os.listdir(str(tmp_path))) == [
        "generator-000000.safetensors", "samples-000000.png", "state.safetensors",
    ]  # fmt: skip


def test_saving_does_not_disturb_training(tmp_path):
    quiet, saving = make(), make()
    training.train(quiet, str(tmp_path), {}, lambda line: None, save_kimg=1)
    training.train(saving, str(tmp_path), {}, lambda line: None, save_kimg=0.008)
    G, D = (
        {name: value for name, value in run.state().items() if not name.startswith("G_ema")} for run in (quiet, saving)
    )
    assert all(np.array_equal(G[name], D[name]) for name in G)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(tmp_path):
    run = make()
    training.train(make(total_kimg=0.016), str(tmp_path), {}, lambda line: None)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(str(tmp_path))}
    with torch.no_grad():
        run.D.linear.bias.fill_(float("nan"))
    weights = [parameter.clone() for parameter in run.G.parameters()]
    with pytest.raises(TrainingError, match="step 1: the loss of D is nan"):
        training.train(run, str(tmp_path), {}, lambda line: None)
    assert all(torch.equal(a, b) for a, b in zip(weights, run.G.parameters()))
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(str(tmp_path))} == before


def test_a_signal_saves_and_a_resumed_run_ends_in_the_same_bits(tmp_path):
    whole, stopped, resumed = make(), make(), make()
    training.train(whole, str(tmp_path / "whole"), {}, lambda line: None)
    original, left = Training.step, [3]

    def step(self):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), 15)
        return original(self)

    with mock.patch.object(Training, "step", step), pytest.raises(Interrupted, match="signal 15 after step 3") as stop:
        training.train(stopped, str(tmp_path / "stopped"), {}, lambda line: None)
    assert stop.value.exit_status == 143
    training.resume(str(tmp_path / "stopped"), resumed)
    training.train(resumed, str(tmp_path / "stopped"), {}, lambda line: None)
    assert same(whole, resumed)


def test_samples_have_a_row_for_each_class():
    run = make()
    grid = training.sample_grid(run)
    assert grid.dtype == np.uint8 and grid.shape[1] > 8 * 64 and 2 * 64 < grid.shape[0] < 3 * 64
