"""The worker process: what it computes, what it never imports, and what is said when it cannot go on."""

import importlib.util
import os
import pickle
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from closeness import ROUNDED, assert_close
from scipy.signal import correlate

from experiment_utils.errors import UserError
from progan.metrics import fid
from progan.metrics.features import FeatureWorker
from progan.metrics.ppl import resize_matrix


def network(name):
    return f"metric_networks:{name}"


@pytest.fixture(scope="module")
def worker():
    with FeatureWorker(0, 1, inception=network("Colours"), vgg=network("SquaredDistance")) as worker:
        yield worker


def images(count, size=8, channels=3, seed=0):
    return np.random.RandomState(seed).randint(0, 256, [count, size, size, channels]).astype(np.uint8)


def refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message.strip() and all(word in message for word in words), message


# ----------------------------------------------------------------------------------------------------------------------
# Features


def test_pytorch_is_there_and_tensorflow_here_and_never_both():
    with FeatureWorker(0, 1, inception=network("WithoutTensorFlow")) as worker:
        found = worker.call("features", networks=["inception"], images=images(2))["inception"]
    assert found.tolist() == [[1, 0], [1, 0]]
    assert "tensorflow" in sys.modules and "torch" not in sys.modules


def test_features_of_colour_and_grey_images(worker):
    batch = images(70)  # more than the worker gives a network at once
    flat = batch.reshape(70, -1, 3) / 255
    found = worker.call("features", networks=["inception"], images=batch)["inception"]
    assert_close(found, np.concatenate([flat.mean(1), flat.std(1, ddof=1)], 1), within=ROUNDED)
    grey = batch[..., :1]
    found = worker.call("features", networks=["inception", "random"], images=grey)
    as_colour = worker.call("features", networks=["inception", "random"], images=grey.repeat(3, -1))
    for name in ("inception", "random"):
        np.testing.assert_array_equal(found[name], as_colour[name])


@pytest.mark.parametrize("size", [4, 8, 32])
def test_the_random_network_is_the_one_described(worker, size):
    x = images(1, size)[0].transpose(2, 0, 1) / 127.5 - 1
    random = np.random.RandomState(0)
    for fan_in, fan_out, stride in ((3, 32, 1), (32, 64, 2), (64, 8, 1)):
        weight = random.standard_normal([fan_out, fan_in, 3, 3]) * np.sqrt(2 / (9 * fan_in))
        x = np.stack([sum(correlate(plane, w, "same") for plane, w in zip(x, each)) for each in weight])
        x = np.where(x > 0, x, 0.2 * x)[:, ::stride, ::stride]
    side = x.shape[1]  # onto a 4x4 grid: averaged, or repeated where it is smaller
    x = (
        x.reshape(8, 4, side // 4, 4, side // 4).mean((2, 4))
        if side >= 4
        else x.repeat(4 // side, 1).repeat(4 // side, 2)
    )
    found = worker.call("features", networks=["random"], images=images(1, size))["random"]
    assert_close(found[0], x.reshape(-1), within=ROUNDED)


def test_answers_stay_with_their_questions_when_a_stream_is_broken_off(worker):
    stream = worker.stream("features", calls_of(9))
    assert next(stream)["inception"][0, 0] == 0
    stream.close()
    white = {"networks": ["inception"], "images": np.full([1, 4, 4, 3], 255, np.uint8)}
    assert worker.call("features", **white)["inception"][0, 0] == 1

    def calls_that_fail():
        yield from calls_of(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(worker.stream("features", calls_that_fail()))
    assert worker.call("features", **white)["inception"][0, 0] == 1
    values = [answer["inception"][0, 0] for answer in worker.stream("features", calls_of(5))]
    assert_close(values, np.arange(5) / 255, within=ROUNDED)
    assert list(worker.stream("features", [])) == []


def calls_of(count):
    for n in range(count):
        yield {"networks": ["inception"], "images": np.full([1, 4, 4, 3], n, np.uint8)}


# ----------------------------------------------------------------------------------------------------------------------
# Distances


@pytest.mark.parametrize("size, new_size", [(4, 256), (16, 256), (128, 256), (300, 256), (512, 256), (7, 5)])
def test_resizing_is_that_of_tensorflow_1(size, new_size):
    image = np.random.RandomState(0).uniform(-1.3, 1.3, [1, size, size, 1]).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        truth = session.run(tf.image.resize_bilinear(image, [new_size, new_size]))
    matrix = resize_matrix(size, new_size)
    assert_close(matrix.dot(image[0, :, :, 0]).dot(matrix.T), truth[0, :, :, 0], within=ROUNDED)


def test_distances_are_between_resized_images_neither_rounded_nor_clipped(worker):
    pairs = np.random.RandomState(0).uniform(-2, 2, [2, 11, 16, 16, 3]).astype(np.float32)
    matrix = resize_matrix(16, 256).astype(float)
    large = np.einsum("ij,pnjkc,lk->pnilc", matrix, pairs, matrix, optimize=True)
    truth = ((large[0] - large[1]) ** 2).mean((1, 2)).sum(1)
    found = worker.call("distances", network="vgg", images=pairs[0], others=pairs[1])
    assert_close(found, truth, within=ROUNDED)


# ----------------------------------------------------------------------------------------------------------------------
# Fréchet and kernel distance


def with_moments(count, mean, covariance, seed):
    """float32 [count, d] whose mean and covariance (ddof 1) are the given ones, not only on average."""
    x = np.random.RandomState(seed).standard_normal([count, len(mean)])
    x = (x - x.mean(0)).dot(np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T)
    return (x.dot(np.linalg.cholesky(covariance).T) + mean).astype(np.float32)


def root(matrix):
    """The symmetric square root of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))).dot(vectors.T)


def test_frechet_distance_of_gaussians_with_known_moments(worker):
    random = np.random.RandomState(0)
    mean, other_mean = random.standard_normal([2, 5])
    covariance, other = (a.dot(a.T) / 5 + np.eye(5) / 10 for a in random.standard_normal([2, 5, 5]))
    between = root(root(covariance).dot(other).dot(root(covariance)))
    truth = ((mean - other_mean) ** 2).sum() + np.trace(covariance + other - 2 * between)
    real, generated = with_moments(1700, mean, covariance, 1), with_moments(2300, other_mean, other, 2)
    # 1700 cycled to 2300 shows 600 of them twice: so here the moments are those of what is really compared.
    cycled = real[np.arange(2300) % 1700].astype(float)
    found = fid.frechet_distance(worker, real, generated)
    exact = fid.frechet_distance(worker, with_moments(2300, mean, covariance, 1), generated)
    assert exact == pytest.approx(truth, rel=1e-4)
    between = root(root(other).dot(np.cov(cycled.T)).dot(root(other)))
    assert found == pytest.approx(
        ((cycled.mean(0) - other_mean) ** 2).sum() + np.trace(np.cov(cycled.T) + other - 2 * between), rel=1e-4
    )


def test_frechet_distance_divides_by_one_less_than_the_count(worker):
    """Two points each, in one dimension: deviations √2 and 2√2 with ddof 1, and means that agree."""
    real, generated = np.float32([[-1], [1]]), np.float32([[-2], [2]])
    assert fid.frechet_distance(worker, real, generated) == pytest.approx(2, abs=1e-5)


def test_kernel_distance_equals_a_loop_over_all_pairs(worker):
    random = np.random.RandomState(0)
    real, generated = random.standard_normal([12, 4]), 1.5 * random.standard_normal([12, 4]) + 0.3
    real, generated = np.float32(real), np.float32(generated)

    def kernel(x, y):
        return (sum(float(a) * float(b) for a, b in zip(x, y)) / 4 + 1) ** 3

    truth = 0
    for i in range(12):
        for j in range(12):
            if i != j:
                truth += (kernel(real[i], real[j]) + kernel(generated[i], generated[j])) / (12 * 11)
            truth -= 2 * kernel(real[i], generated[j]) / 12**2
    mean, deviation = fid.kernel_distance(worker, real, generated, subset_size=12)
    assert mean == pytest.approx(truth, rel=1e-6) and deviation == pytest.approx(0, abs=1e-9)
    some = fid.kernel_distance(worker, real, generated, subset_size=8, seed=1)
    assert some == fid.kernel_distance(worker, real, generated, subset_size=8, seed=1)
    assert some != fid.kernel_distance(worker, real, generated, subset_size=8, seed=2) and some[1] > 0


# ----------------------------------------------------------------------------------------------------------------------
# What cannot be done


def test_a_worker_that_dies_is_one_line_and_another_takes_its_place():
    with FeatureWorker(0, 1, inception=network("Killed"), vgg=network("SquaredDistance")) as worker:
        refused(lambda: features(worker), "killed", "memory")
        zeros = np.zeros([1, 4, 4, 3], np.float32)
        assert worker.call("distances", network="vgg", images=zeros, others=zeros + 1) == pytest.approx([3])
    with FeatureWorker(0, 1, inception=network("Ends")) as worker:
        refused(lambda: features(worker), "status 3")


def test_networks_that_fail_are_one_line():
    zeros = np.zeros([2, 4, 4, 3], np.float32)
    with FeatureWorker(0, 1, inception=network("OneNumber"), vgg=network("Exhausted")) as worker:
        refused(lambda: features(worker), "--inception metric_networks:OneNumber", "returns []")
        exhausted = {"network": "vgg", "images": zeros, "others": zeros}
        refused(lambda: worker.call("distances", **exhausted), "out of memory", "--minibatch_size")
    with FeatureWorker(0, 1, inception=network("no_network"), vgg=network("broken")) as worker:
        refused(lambda: features(worker), "--inception metric_networks:no_network", "str")
        refused(lambda: worker.call("load", network="vgg"), "--vgg metric_networks:broken", "ValueError: no such thing")
    with FeatureWorker(0, 1, inception=network("Mistaken"), vgg=network("missing")) as worker:
        refused(lambda: worker.call("load", network="vgg"), "--vgg metric_networks:missing")
        with pytest.raises(RuntimeError, match=r"metric_networks.py(.|\n)*ZeroDivisionError: a mistake"):
            features(worker)


def features(worker):
    return worker.call("features", networks=["inception"], images=images(2))["inception"]


def test_weights_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with FeatureWorker(0, 1) as worker:
        words = ["weights-inception-2015-12-05-6726825d.pth", "--inception PATH"]
        refused(lambda: worker.call("load", network="inception"), *words)
        refused(lambda: worker.call("load", network="vgg"), "vgg16-397923af.pth", "--vgg PATH")
        damaged = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_bytes(b"half of it")
        refused(lambda: worker.call("load", network="vgg"), str(damaged), "damaged", "delete it")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_weights_are_read_as_data_and_must_be_the_right_ones(tmp_path):
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps({"features.0.weight": Evil(str(tmp_path / "executed"))}, protocol=2))
    package = os.path.dirname(importlib.util.find_spec("lpips").origin)
    other = os.path.join(package, "weights", "v0.1", "vgg.pth")  # LPIPS' own linear weights
    cases = ((str(evil), "refused"), (other, "not the weights that are needed"), ("absent.pth", "no such file"))
    for path, words in cases:
        with FeatureWorker(0, 1, inception=path, vgg=path) as worker:
            for name in ("inception", "vgg"):
                refused(lambda w=worker, n=name: w.call("load", network=n), f"--{name} {path}", words)
    assert not (tmp_path / "executed").exists()


def test_without_pytorch(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    monkeypatch.syspath_prepend(str(tmp_path))
    with FeatureWorker(0, 1) as worker:
        refused(lambda: worker.call("load", network="random"), 'pip install -e ".[torch]"', "No module named 'torch'")
