"""The models that ship: small, described, and what their names promise."""

import os

import numpy as np
import pytest

import factor_scores
from progan.dataset import open_dataset
from progan.inference import TrainedGenerator
from progan.snapshot import load_snapshot, pretrained_models
from progan.traversal import activeness_by_component

MODELS = pretrained_models()
SUFFIXES = {"bl": (0, 0), "info": (0, 1), "fs": (0.0125, 0), "ft": (0.0125, 0), "rel": (0, 0)}  # hp_lambda, InfoGAN's


def test_there_is_one_of_every_family():
    families = {name.rsplit("_", 1)[1] for name in MODELS}
    assert families == set(SUFFIXES)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_is_small_and_has_a_card(name):
    assert os.path.getsize(MODELS[name]) <= 2e6
    with open(MODELS[name].replace(".safetensors", ".md"), encoding="utf-8") as stream:
        card = stream.read()
    snapshot = load_snapshot(MODELS[name])
    assert card.startswith(f"# {name}\n") and "train.py --dataset" in card
    assert str(snapshot.spec.resolution) == name.split("_")[-2] and f"{snapshot.kimg:.1f}" in card
    loss = snapshot.options["loss"]
    assert (loss["hp_lambda"], loss["infogan_lambda"]) == SUFFIXES[name.rsplit("_", 1)[1]]


@pytest.mark.parametrize("name", sorted(name for name in MODELS if name.startswith("clevr_1fov_16")))
def test_cubes(name, tmp_path):
    """Vanilla uses many components for the one factor, the others fewer; all make images like those of the data."""
    dataset = open_dataset("clevr_1fov_32", str(tmp_path))
    with TrainedGenerator(load_snapshot(MODELS[name]), num_threads=1) as generator:
        number = factor_scores.effective_number(activeness_by_component(generator, 12))
        images = generator(np.random.RandomState(0).standard_normal([200, 12]))
    error = factor_scores.nearest_image_error(images, dataset.images(16, range(len(dataset))))
    assert number > 5 if name.endswith("_bl") else number < 2.6
    assert error < (3.5 if name.endswith(("_bl", "_info", "_rel")) else 9)
