"""One training step against NumPy: what is fed, every loss, the gradients, Adam, the average, skipped updates."""

import dataclasses

import numpy as np
import numpy_progan
import pytest
from closeness import assert_close
from progan_helpers import random_networks

from experiment_utils.errors import SnapshotError
from progan.networks import NetworkSpec
from progan.stage import DIRECTIONS, LATENTS_D, LATENTS_G, MIXING, LossOptions, Stage, StageKey, draw

SPEC = NetworkSpec(resolution=16, channels=1, nz=3, fmap_base=16, infogan_nz=2)
OPTIONS = LossOptions(
    hp_lambda=0.1,
    epsilon=0.1,
    num_rademacher_samples=3,
    layers_to_reg=[1, 3, 4, 7],
    warmup_kimg=0,
    hp_start_kimg=0,
    infogan_lambda=0.5,
)
LOD = 1.3  # 8 px, with 0.3 of the branch of 4 px
SHARES = [1, 0.7, 0.7]  # of layers 1 (4 px), 3 and 4 (8 px) in the penalty; 7, the RGB output at 16 px, comes later
HP_WEIGHT = 0.02
LR, MINIBATCH, SEED, STEP = 0.01, 4, 7, 12


def copy(networks):
    return {net: dict(values) for net, values in networks.items()}


def double(values):
    return {name: value.astype(np.float64) for name, value in values.items()}


class Steps:
    """Two training steps, and everything before, between and after them."""

    def __init__(self):
        key = StageKey(resolution=8, fading=True, penalised=True, minibatch=MINIBATCH)
        self.images = np.random.RandomState(1).randint(0, 256, size=[MINIBATCH, 8, 8, 1]).astype(np.uint8)
        start = random_networks(SPEC)
        stage = Stage(key, SPEC, OPTIONS, start, None, LR, num_threads=1)
        self.layers, self.stage = stage.layers, stage
        self.networks, self.slots, self.values = [start], [stage.read_slots()], []
        for step in (STEP, STEP + 1):
            self.values.append(stage.train_step(self.images, LOD, HP_WEIGHT, SEED, step))
            networks = copy(start)
            stage.read(networks)
            self.networks.append(networks)
            self.slots.append(stage.read_slots())
        self.z = np.random.RandomState(3).standard_normal([5, SPEC.nz])
        self.sampled = stage.sampler(LOD)(self.z)
        stage.close()

    def drawn(self, purpose, step=STEP):
        return draw(SEED, step, purpose, MINIBATCH, SPEC.nz, 3).astype(np.float64)


@pytest.fixture(scope="module")
def steps():
    return Steps()


def generator(weights, z):
    return numpy_progan.generator(double(weights), z, 8, 16, fade=0.3)[0]


def discriminator(weights, images):
    return numpy_progan.discriminator(double(weights), images, 8, 16, fade=0.3)


def real_images(steps):
    """In [-1, 1], with 0.3 of themselves at half the resolution."""
    images = steps.images / 127.5 - 1
    coarse = images.reshape(MINIBATCH, 4, 2, 4, 2, 1).mean(axis=(2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    return 0.7 * images + 0.3 * coarse


def gradient_norms(weights, images, step=1e-5):
    """Norms of the scores' gradient with respect to images of 8 px, by central differences."""
    gradient = np.zeros_like(images)
    for pixel in np.ndindex(images.shape):
        moved = [images.copy(), images.copy()]
        moved[0][pixel] += step
        moved[1][pixel] -= step
        high, low = (discriminator(weights, each)[0].sum() for each in moved)
        gradient[pixel] = (high - low) / (2 * step)
    return np.sqrt((gradient**2).sum(axis=(1, 2, 3)))


def test_losses_of_the_discriminator(steps):
    D, z, t = steps.networks[0]["D"], steps.drawn(LATENTS_D), steps.drawn(MIXING)
    reals, fakes = real_images(steps), generator(steps.networks[0]["G"], z)
    real_scores, (fake_scores, code) = discriminator(D, reals)[0], discriminator(D, fakes)
    norms = gradient_norms(D, (1 - t) * reals + t * fakes)
    expected = {
        "D/wasserstein": fake_scores.mean() - real_scores.mean(),
        "D/drift": (real_scores**2).mean(),
        "D/gradient_penalty": ((norms / 2 - 1) ** 2).mean(),  # full size is 16 px: every pixel is repeated 2x2
        "infogan/D": ((code - z[:, :2]) ** 2).mean(),
    }
    expected["loss/D"] = (
        expected["D/wasserstein"]
        + 10 * expected["D/gradient_penalty"]
        + 0.001 * expected["D/drift"]
        + 0.5 * expected["infogan/D"]
    )
    found = {name: steps.values[0][name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-3)


def generator_loss(steps, G):
    """{name: value} of the first step's losses of G: against the discriminator that has just been trained."""
    z = steps.drawn(LATENTS_G)
    scores, code = discriminator(steps.networks[1]["D"], generator(G, z))
    penalties = numpy_progan.hessian_penalties(double(G), z, [1, 3, 4], steps.drawn(DIRECTIONS), 0.1, 8, 16, fade=0.3)
    infogan = ((code - z[:, :2]) ** 2).mean()
    values = {"hessian_penalty/layer_%02d" % layer: value for layer, value in zip([1, 3, 4], penalties)}
    values["infogan/G"] = infogan
    values["loss/G"] = -scores.mean() + 0.5 * infogan + HP_WEIGHT * np.dot(SHARES, penalties)
    return values


def test_losses_of_the_generator(steps):
    expected = generator_loss(steps, steps.networks[0]["G"])
    assert {name: steps.values[0][name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert steps.layers == [1, 3, 4]


def test_nothing_else_is_logged(steps):
    names = {"D/wasserstein", "D/drift", "D/gradient_penalty", "infogan/D", "infogan/G", "loss/D", "loss/G", "skipped"}
    names |= {"hessian_penalty/layer_01", "hessian_penalty/layer_03", "hessian_penalty/layer_04"}
    assert set(steps.values[0]) == names and steps.values[0]["skipped"] == 0


@pytest.fixture(scope="module")
def orojar():
    """(the stage, what its first step gave, G's slots after it), like `steps` but for the regularizer."""
    key = StageKey(resolution=8, fading=True, penalised=True, minibatch=MINIBATCH)
    images = np.random.RandomState(1).randint(0, 256, size=[MINIBATCH, 8, 8, 1]).astype(np.uint8)
    options = dataclasses.replace(OPTIONS, regularizer="orojar")
    stage = Stage(key, SPEC, options, random_networks(SPEC), None, LR, num_threads=1)
    yield stage, stage.train_step(images, LOD, HP_WEIGHT, SEED, STEP), stage.read_slots()
    stage.close()


def orojar_loss(steps, G):
    """(its penalties, its share of G's loss), of the first step."""
    penalties = numpy_progan.orojar_penalties(
        double(G), steps.drawn(LATENTS_G), [1, 3, 4], steps.drawn(DIRECTIONS), 0.1, 8, 16, fade=0.3
    )
    return penalties, HP_WEIGHT * np.dot(SHARES, penalties)


def test_orojar_takes_the_hessian_penaltys_place(steps, orojar):
    """Its losses and names; all others are the same."""
    _, values, _ = orojar
    penalties, share = orojar_loss(steps, steps.networks[0]["G"])
    others = {name: value for name, value in steps.values[0].items() if "hessian" not in name and name != "loss/G"}
    expected = dict(others, **{f"orojar/layer_{layer:02d}": value for layer, value in zip([1, 3, 4], penalties)})
    hessian = sum(HP_WEIGHT * s * steps.values[0][f"hessian_penalty/layer_{n:02d}"] for s, n in zip(SHARES, (1, 3, 4)))
    expected["loss/G"] = steps.values[0]["loss/G"] - hessian + share
    assert set(values) == set(expected)
    assert values == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["4x4/Dense/weight", "8x8/Conv1/weight"])
def test_gradients_of_orojar(steps, orojar, name):
    """What G's gradient has that the other losses do not give; truth: a central difference in NumPy."""
    found = slot(orojar[2], "G", name, "m")
    entry, parts = np.unravel_index(np.abs(found).argmax(), found.shape), []
    for step in (1e-6, -1e-6):
        G = double(steps.networks[0]["G"])
        G[name][entry] += step
        values = generator_loss(steps, G)
        hessian = [values[f"hessian_penalty/layer_{layer:02d}"] for layer in (1, 3, 4)]
        parts.append(values["loss/G"] - HP_WEIGHT * np.dot(SHARES, hessian) + orojar_loss(steps, G)[1])
    assert found[entry] == pytest.approx((parts[0] - parts[1]) / 2e-6, rel=0.02)


def test_a_stage_says_what_it_trains(orojar):
    assert orojar[0].describe() == "8x8, fading in: minibatch 4, OroJaR on layers 1 3 4"


def test_nothing_is_drawn_inside_a_graph(steps, orojar):
    """All is fed, as a function of (seed, step): a resume draws what the run would have drawn."""
    for stage in (steps.stage, orojar[0]):
        kinds = {operation.type for operation in stage._session.graph.get_operations()}
        assert "Conv2D" in kinds and not [kind for kind in kinds if "Random" in kind or "Multinomial" in kind]


def slot(slots, net, name, which):
    return slots[f"{net}/{name}/Adam_{net}" + {"m": "", "v": "_1"}[which]].astype(np.float64)


@pytest.mark.parametrize(
    "name", ["4x4/Dense/weight", "4x4/Conv/bias", "8x8/Conv0_up/weight", "8x8/Conv1/bias", "ToRGB_lod1/weight"]
)
def test_gradients_of_the_generator(steps, name):
    """beta1 is 0, so that Adam's first moment is the gradient; truth: a central difference of the NumPy loss."""
    gradient = slot(steps.slots[1], "G", name, "m")
    entry = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
    losses = []
    for step in (1e-6, -1e-6):
        G = double(steps.networks[0]["G"])
        G[name][entry] += step
        losses.append(generator_loss(steps, G)["loss/G"])
    assert gradient[entry] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=0.02)


def test_gradients_of_the_discriminator(steps):
    """Of weights that the gradient penalty does not depend on: the last bias, and the Q head."""
    D, z = double(steps.networks[0]["D"]), steps.drawn(LATENTS_D)
    real_scores = discriminator(D, real_images(steps))[0]
    fakes = generator(steps.networks[0]["G"], z)
    assert slot(steps.slots[1], "D", "4x4/Dense1/bias", "m") == pytest.approx([0.002 * real_scores.mean()], rel=1e-3)
    gradient = slot(steps.slots[1], "D", "4x4/Q_Encoder/Dense0/weight", "m")
    entry = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
    losses = []
    for step in (1e-6, -2e-6):
        D["4x4/Q_Encoder/Dense0/weight"][entry] += step
        losses.append(0.5 * ((discriminator(D, fakes)[1] - z[:, :2]) ** 2).mean())
    assert gradient[entry] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-3)


@pytest.mark.parametrize("net", ["G", "D"])
@pytest.mark.parametrize("t", [1, 2])
def test_adam_by_hand(steps, net, t):
    """beta1 = 0, beta2 = 0.99, epsilon = 1e-8, as TensorFlow's Adam puts it (Kingma & Ba 2015, end of Sec. 2)."""
    before, after, slots = steps.networks[t - 1][net], steps.networks[t][net], steps.slots
    names = [name[len(net) + 1 : -len("/Adam_G")] for name in slots[t] if name.endswith(f"/Adam_{net}")]
    assert len(names) == {"G": 12, "D": 20}[net]
    for name in names:
        g, v = slot(slots[t], net, name, "m"), slot(slots[t], net, name, "v")
        np.testing.assert_allclose(v, 0.99 * slot(slots[t - 1], net, name, "v") + 0.01 * g**2, rtol=2e-5)
        step = LR * np.sqrt(1 - 0.99**t) * g / (np.sqrt(v) + 1e-8)
        np.testing.assert_allclose(after[name], before[name] - step, rtol=1e-5, atol=1e-6)


def test_weights_of_other_resolutions_stay(steps):
    for net, name in [("G", "16x16/Conv1/weight"), ("G", "ToRGB_lod0/weight"), ("D", "16x16/Conv0/bias")]:
        np.testing.assert_array_equal(steps.networks[2][net][name], steps.networks[0][net][name])


def test_average_follows_the_generator_as_it_was_before_its_step(steps):
    decay = 0.5 ** (MINIBATCH / 10000)
    for name in ("4x4/Dense/weight", "8x8/Conv1/bias", "ToRGB_lod1/weight", "ToRGB_lod2/weight"):
        average = steps.networks[0]["Gs"][name].astype(np.float64)
        for t in (0, 1):
            average = decay * average + (1 - decay) * steps.networks[t]["G"][name]
        assert_close(steps.networks[2]["Gs"][name], average, within=1.5e-6)
        moved = np.abs(steps.networks[2]["Gs"][name] - steps.networks[0]["Gs"][name]).max()
        assert moved > 1e-4


def test_samples_are_of_the_average_at_full_resolution(steps):
    images = generator(steps.networks[2]["Gs"], steps.z).repeat(2, axis=1).repeat(2, axis=2)
    expected = np.clip(images * 127.5 + 128, 0, 255)
    assert steps.sampled.dtype == np.uint8 and steps.sampled.shape == (5, 16, 16, 1)
    assert np.abs(steps.sampled - np.floor(expected)).max() <= 1  # a value on the edge may fall on either side
    assert np.mean(steps.sampled != np.floor(expected)) < 0.01


def test_draws_depend_on_seed_step_and_purpose_alone():
    assert draw(1, 2, LATENTS_G, 4, 3).dtype == draw(1, 2, DIRECTIONS, 4, 3).dtype == np.float32
    np.testing.assert_array_equal(draw(1, 2, LATENTS_G, 4, 3), draw(1, 2, LATENTS_G, 4, 3))
    drawn = [draw(seed, step, purpose, 4, 3) for seed, step, purpose in [(1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0)]]
    for i in range(4):
        for j in range(i):
            assert not np.array_equal(drawn[i], drawn[j])
    signs = draw(1, 2, DIRECTIONS, 500, 3, k=2)
    assert signs.shape == (2, 500, 3) and set(np.unique(signs)) == {-1, 1} and abs(signs.mean()) < 0.1
    mixing = draw(1, 2, MIXING, 500, 3)
    assert mixing.shape == (500, 1, 1, 1) and 0 <= mixing.min() and mixing.max() < 1 and abs(mixing.mean() - 0.5) < 0.05


# ----------------------------------------------------------------------------------------------------------------------
# The optimisers' slots


def stage_at_4_px(slots):
    spec = NetworkSpec(resolution=4, channels=1, nz=3, fmap_base=8)
    options = LossOptions(0, 0.1, 2, [1], 0, 0, 0)
    return Stage(StageKey(4, False, False, 4), spec, options, random_networks(spec), slots, LR, num_threads=1)


def slots_at_4_px():
    """Every slot with values of its own."""
    stage = stage_at_4_px(None)
    slots = stage.read_slots()
    stage.close()
    return {name: np.full_like(value, number) for number, (name, value) in enumerate(sorted(slots.items()), start=1)}


def test_slots_are_named_after_their_weights_and_optimisers():
    names = set(slots_at_4_px())
    powers = {f"Adam_{net}/{power}" for net in "GD" for power in ("beta1_power", "beta2_power")}
    assert powers <= names and "D/4x4/Dense1/bias/Adam_D" in names and "D/4x4/Dense1/bias/Adam_D_1" in names
    networks = random_networks(NetworkSpec(resolution=4, channels=1, nz=3, fmap_base=8))
    assert len(names) == 4 + 2 * (len(networks["G"]) + len(networks["D"]))


def test_slots_as_earlier_versions_named_them():
    """By their place in the graph, D's optimiser first."""
    slots = slots_at_4_px()
    old = {name: value for name, value in slots.items() if not name.startswith("Adam_")}
    for place, net in (("cond", "D"), ("cond_1", "G")):
        for power in ("beta1_power", "beta2_power"):
            old[f"{place}/{power}"] = slots[f"Adam_{net}/{power}"]
    stage = stage_at_4_px(old)
    found = stage.read_slots()
    stage.close()
    assert set(found) == set(slots) and not moved(slots, found)


@pytest.mark.parametrize("name", ["Adam_G/beta2_power", "D/4x4/Conv/weight/Adam_D_1"])
def test_slots_that_lack_one_or_have_another_shape_are_refused(name):
    slots = slots_at_4_px()
    value = slots.pop(name)
    with pytest.raises(SnapshotError, match=f"the training state lacks {name}: "):
        stage_at_4_px(slots)
    with pytest.raises(SnapshotError, match=rf"the training state has {name} of shape \[2"):
        stage_at_4_px(dict(slots, **{name: np.stack([value, value])}))


# ----------------------------------------------------------------------------------------------------------------------
# Gradients that are not finite


def step_of(networks):
    """Return (values, weights after, slots before, slots after) of one small step at 4 px."""
    spec = NetworkSpec(resolution=4, channels=1, nz=3, fmap_base=8)
    options = LossOptions(0, 0.1, 2, [1], 0, 0, 0)
    networks = copy(networks)
    stage = Stage(StageKey(4, False, False, 4), spec, options, networks, None, LR, num_threads=1)
    before = stage.read_slots()
    values = stage.train_step(np.full([4, 4, 4, 1], 9, np.uint8), 0, 0, SEED, STEP)
    after = copy(networks)
    stage.read(after)
    slots = stage.read_slots()
    stage.close()
    return values, after, before, slots


def moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_gradients_that_are_not_finite_skip_the_update():
    """A critic of zeros: finite losses, but a gradient norm of 0, whose own gradient is NaN."""
    spec = NetworkSpec(resolution=4, channels=1, nz=3, fmap_base=8)
    networks = random_networks(spec)
    networks["D"] = {name: np.zeros_like(value) for name, value in networks["D"].items()}
    values, after, slots_before, slots_after = step_of(networks)
    assert values["skipped"] == 1 and np.isfinite(list(values.values())).all()
    assert not moved(networks["D"], after["D"])
    names = {name for name in slots_before if "Adam_D" in name}
    assert names and not names & moved(slots_before, slots_after)
    assert len([name for name in moved(slots_before, slots_after) if "beta2" in name]) == 1  # that of G, which went on


def test_one_bad_weight_skips_all_updates_of_both_players():
    networks = random_networks(NetworkSpec(resolution=4, channels=1, nz=3, fmap_base=8))
    networks["D"]["4x4/Conv/weight"][0] = np.nan
    values, after, slots_before, slots_after = step_of(networks)
    assert values["skipped"] == 2
    assert not moved(networks["G"], after["G"])
    assert not moved(slots_before, slots_after)


def test_an_ordinary_step_skips_nothing():
    networks = random_networks(NetworkSpec(resolution=4, channels=1, nz=3, fmap_base=8))
    values, after, slots_before, slots_after = step_of(networks)
    assert values["skipped"] == 0
    assert moved(networks["D"], after["D"]) == set(networks["D"])
    assert moved(networks["G"], after["G"]) == set(networks["G"])
    assert moved(slots_before, slots_after) == {name for name in slots_after if not name.endswith("beta1_power")}  # 0
