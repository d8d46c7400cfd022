"""Our ProGAN snapshots in PyTorch: the images are TensorFlow's, by way of files that both trees' tests compare with."""

import os

import numpy as np
import pytest
import torch
from closeness import AMPLIFIED, assert_close

from biggan import progan
from biggan.weights import load_generator
from experiment_utils.errors import SnapshotError
from experiment_utils.files import load_tensors, save_tensors

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, "tests", "progan", "data")
SNAPSHOT = os.path.join(DATA, "tiny.safetensors")  # of 16 px, in the middle of a fade-in
SHIPPED = os.path.join(ROOT, "progan_experiments", "pretrained_models", "clevr_1fov_16_fs.safetensors")
LATENTS = np.float32(np.random.RandomState(11).standard_normal([3, 4]))


def images(G, z=LATENTS, **options):
    with torch.no_grad():
        return G(torch.tensor(z).to(G.dense.weight), **options).permute(0, 2, 3, 1).numpy()


def grown_to(lod):
    tensors, metadata = load_tensors(SNAPSHOT)
    weights = {name[3:]: torch.from_numpy(array) for name, array in tensors.items() if name.startswith("Gs/")}
    return progan.Generator(weights, metadata["spec"]["resolution"], lod)


def test_images_equal_those_of_the_trainer():
    expected = np.load(os.path.join(DATA, "tiny_images.npy"))
    assert_close(images(load_generator(SNAPSHOT).module), expected, within=AMPLIFIED)  # random weights amplify rounding


def test_images_of_a_shipped_model_equal_those_of_the_trainer():
    G = load_generator(SHIPPED).module
    z = np.float32(np.random.RandomState(11).standard_normal([3, G.dim_z]))
    assert_close(images(G, z), np.load(os.path.join(DATA, "shipped_images.npy")), within=5e-5)


@pytest.mark.parametrize("lod", ["2.0", "1.25", "1.0", "0.0"])
def test_images_equal_at_every_stage_of_growing(lod):
    expected = np.load(os.path.join(DATA, "tiny_images_grown.npz"))[lod]
    # In float64, where nothing is rounded but the weights when they were scaled: a bound that small faults exceed too.
    assert_close(images(grown_to(float(lod)).double()), expected, within=2e-5)


def test_latents_are_normalised_unless_told_otherwise():
    G = load_generator(SNAPSHOT).module
    assert_close(images(G, 7 * LATENTS), images(G), within=AMPLIFIED)
    assert np.abs(images(G, 7 * LATENTS, normalize_latents=False) - images(G)).max() > 0.1


def test_latent_weights_are_the_first_layers():
    """Latents that differ in a direction that these weights do not see give the same images."""
    G = grown_to(0.0)
    assert G.latent_weights().shape == (6 * 16, 4)
    G.dense.weight.data[:, 2] = 0
    z = LATENTS.copy()
    z[:, 2] += 1
    np.testing.assert_array_equal(images(G, z, normalize_latents=False), images(G, LATENTS, normalize_latents=False))


def test_early_activations_are_normalised_maps():
    activations = grown_to(0.0).early_activations(torch.tensor(LATENTS)).detach()
    assert activations.shape == (3, 6 * 16)
    maps = activations.view(3, 6, 4, 4)
    np.testing.assert_allclose(maps.square().mean(1).numpy(), 1, rtol=1e-3)


def test_other_files_are_refused(tmp_path):
    tensors, metadata = load_tensors(SNAPSHOT)
    other, incomplete = str(tmp_path / "other.safetensors"), str(tmp_path / "incomplete.safetensors")
    save_tensors(other, tensors, {"kind": "progan-state"})
    save_tensors(incomplete, {k: v for k, v in tensors.items() if k != "Gs/8x8/Conv1/bias"}, metadata)
    with pytest.raises(SnapshotError, match=r"a state of this project's ProGAN \(give a network-snapshot"):
        load_generator(other)
    with pytest.raises(SnapshotError, match="without '8x8/Conv1/bias'"):
        load_generator(incomplete)
