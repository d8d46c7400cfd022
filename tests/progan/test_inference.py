"""A snapshot gives the same images everywhere, at any level of detail, in any minibatches."""

import dataclasses

import make_tiny_snapshot
import numpy as np
import pytest
from closeness import AMPLIFIED, assert_close

from progan import inference
from progan.inference import TrainedGenerator
from progan.metrics.activeness import activeness
from progan.snapshot import load_snapshot, pretrained_models
from progan.traversal import activeness_by_component, component_strips, normalized


@pytest.fixture(scope="module")
def tiny():
    return load_snapshot(make_tiny_snapshot.SNAPSHOT)


@pytest.fixture
def floats(monkeypatch):
    """Images before they are cast to uint8, in [-1, 1]."""
    monkeypatch.setattr(inference.tf, "saturate_cast", lambda images, _: (images - 128) / 127.5)


def images_of(snapshot, z, **options):
    with TrainedGenerator(snapshot, num_threads=1) as G:
        return G(z, **options)


def test_the_committed_snapshot_gives_the_committed_images(tiny, floats):
    expected = np.load(make_tiny_snapshot.IMAGES)
    assert expected.shape == (3, 16, 16, 3) and 0.3 < expected.std() < 3
    assert_close(images_of(tiny, make_tiny_snapshot.latents()), expected, within=AMPLIFIED)


def test_a_shipped_model_gives_the_committed_images(floats):
    snapshot = load_snapshot(pretrained_models()[make_tiny_snapshot.SHIPPED])
    found = images_of(snapshot, make_tiny_snapshot.latents(snapshot.spec.nz))
    assert_close(found, np.load(make_tiny_snapshot.SHIPPED_IMAGES), within=5e-5)


def test_images_are_unsigned_bytes_saturated(tiny):
    """x * 127.5 + 128, cut off: grey is 128, and what lies beyond [-1, 1] stays at the ends."""
    images = images_of(tiny, make_tiny_snapshot.latents())
    values = np.load(make_tiny_snapshot.IMAGES).astype(np.float64) * 127.5 + 128
    expected = np.floor(np.clip(values, 0, 255))
    assert values.min() < 0 and values.max() > 256
    assert images.dtype == np.uint8
    assert np.abs(images - expected).max() <= 1 and np.mean(images != expected) < 0.01


def test_minibatches_and_normalisation(tiny):
    z = np.random.RandomState(0).standard_normal([7, 4])
    with TrainedGenerator(tiny, num_threads=1) as G:
        whole = G(z)
        for same in (G(z, minibatch=3), G(5 * z), G(normalized(z), normalize_latents=False)):
            assert np.abs(same.astype(int) - whole).max() <= 1  # a value on the edge may fall on either side
        assert (G(5 * z, normalize_latents=False) != whole).any()


@pytest.mark.parametrize("lod", sorted(make_tiny_snapshot.STAGES))
def test_a_snapshot_that_has_not_grown_yet_repeats_its_pixels(tiny, floats, lod):
    found = images_of(dataclasses.replace(tiny, lod=float(lod)), make_tiny_snapshot.latents())
    expected = np.load(make_tiny_snapshot.GROWN)[lod]
    assert_close(found, expected, within=AMPLIFIED)


@pytest.mark.parametrize("border", [1.0, 2.0])
def test_images_do_not_jump_where_a_fade_in_begins(tiny, floats, border):
    z = make_tiny_snapshot.latents()
    before = images_of(dataclasses.replace(tiny, lod=border), z)
    after = images_of(dataclasses.replace(tiny, lod=border - 1e-7), z)
    assert_close(after, before, within=AMPLIFIED)


# ----------------------------------------------------------------------------------------------------------------------
# Activeness


def test_activeness_is_the_variance_over_three_values():
    """A picture whose pixels are 100 + 10 z0 and 100 + 20 z1^2: variances over {-2, 0, 2} known exactly."""

    def G(z):
        pixels = np.stack([100 + 10 * z[:, 0], 100 + 20 * z[:, 1] ** 2], axis=1)
        return np.repeat(pixels[:, :, None, None], 3, axis=3).astype(np.uint8)

    latents = np.zeros([5, 3])
    first = np.var(np.array([-20, 0, 20]) / 127.5, ddof=1) / 2  # half of the pixels
    second = np.var(np.array([80, 0, 80]) / 127.5, ddof=1) / 2
    np.testing.assert_allclose(activeness(G, latents, extent=2), [first, second, 0], rtol=1e-6)


def test_activeness_sweeps_normalised_latents_and_leaves_them_so(tiny):
    """A component is overwritten after normalisation, and the network does not normalise again."""
    seen = []

    def sample(z, normalize_latents):
        seen.append((z, normalize_latents))
        return np.zeros([len(z), 4, 4, 3], np.uint8)

    activeness_by_component(sample, 3, seed=0, minibatch=1000)
    for component, (z, normalize_latents) in enumerate(seen):
        assert not normalize_latents
        z = z.reshape(-1, 3, 3)  # samples, values, components
        np.testing.assert_allclose(z[:, :, component], np.tile([-2, 0, 2], [len(z), 1]))
        others = np.delete(z, component, axis=2)
        assert (others == others[:, :1]).all() and (others**2).sum(axis=2).max() <= 3.001


@pytest.mark.parametrize("pre_norm", [False, True])
def test_traversals_overwrite_an_entry_of_normalised_latents(pre_norm):
    """The entry may leave the sphere: nothing normalises again. Before normalisation (pre_norm), G does it all."""
    seen = []

    def sample(z, normalize_latents):
        seen.append((z, normalize_latents))
        return np.zeros([len(z), 4, 4, 3], np.uint8)

    z = np.random.RandomState(4).standard_normal([2, 5])
    component_strips(sample, z, [3], extent=2.0, steps=3, pre_norm=pre_norm)
    ((swept, normalize_latents),) = seen
    expected = (z if pre_norm else z / np.sqrt((z**2).mean(axis=1, keepdims=True) + 1e-8)).repeat(3, axis=0)
    expected[:, 3] = [-2, 0, 2, -2, 0, 2]
    np.testing.assert_allclose(swept, expected, rtol=1e-6)
    assert normalize_latents == pre_norm
