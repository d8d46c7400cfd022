"""The networks against NumPy, operation by operation and as wholes; the names and shapes of their weights."""

import os
import re
import subprocess
import sys

import numpy as np
import numpy_progan
import pytest
import tensorflow.compat.v1 as tf
from closeness import AMPLIFIED, ROUNDED, assert_close
from progan_helpers import random_networks
from scipy.signal import convolve2d

from progan.networks import (
    Discriminator,
    Generator,
    NetworkSpec,
    discriminator_shapes,
    downscale,
    generator_shapes,
    initial_weights,
    names_at,
    pixel_norm,
    upscale,
)

SPEC = NetworkSpec(resolution=16, channels=3, nz=5, fmap_base=24, fmap_max=8, infogan_nz=2)


def evaluate(function, *arrays):
    """Return what `function` makes of the arrays, in a graph of its own."""
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(function(*map(tf.constant, arrays)))


def constants(weights):
    return {name: tf.constant(value) for name, value in weights.items()}


def run_generator(weights, z, resolution, fade=None, data_format="NHWC", spec=SPEC, **options):
    def function(z):
        return Generator(constants(weights), spec, resolution, fade, data_format)(z, **options)

    return evaluate(function, z)


def run_discriminator(weights, images, resolution, fade=None, data_format="NHWC", spec=SPEC):
    def function(images):
        scores, code = Discriminator(constants(weights), spec, resolution, fade, data_format)(images)
        return scores, tf.no_op() if code is None else code

    return evaluate(function, images)


def draw(*shape, **seed):
    return np.random.RandomState(**seed or {"seed": 3}).standard_normal(shape).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------------------
# Operations


def layers(weights, data_format="NHWC"):
    return Generator(constants(weights), SPEC, 16, None, data_format)


def layer_weights(*kernel_shape):
    return {"L/weight": draw(*kernel_shape), "L/bias": draw(kernel_shape[-1], seed=4)}


def test_fused_upscaling_is_nearest_neighbour_and_the_kernel_turned():
    """Repeat pixels 2x2, then correlate with the kernel rotated by 180 degrees: that is, convolve with the kernel."""
    weights, x = layer_weights(3, 3, 4, 6), draw(2, 5, 7, 4)[:, :, :5]
    found = evaluate(lambda x: layers(weights)._conv_up("L", x), x)
    kernel = weights["L/weight"] * np.sqrt(2 / (3 * 3 * 4))
    repeated = x.repeat(2, axis=1).repeat(2, axis=2)
    expected = np.zeros([2, 10, 10, 6]) + weights["L/bias"]
    for n, o, i in np.ndindex(2, 6, 4):
        expected[n, :, :, o] += convolve2d(repeated[n, :, :, i], kernel[:, :, i, o], mode="same")
    assert_close(found, expected, within=ROUNDED)


def test_fused_downscaling_is_a_convolution_and_2x2_means():
    weights, x = layer_weights(3, 3, 4, 6), draw(2, 8, 8, 4)
    found = evaluate(lambda x: layers(weights)._conv_down("L", x), x)
    kernel = weights["L/weight"] * np.sqrt(2 / (3 * 3 * 4))
    expected = np.zeros([2, 4, 4, 6]) + weights["L/bias"]
    for n, o, i in np.ndindex(2, 6, 4):
        whole = convolve2d(x[n, :, :, i], kernel[::-1, ::-1, i, o], mode="same")
        expected[n, :, :, o] += whole.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert_close(found, expected, within=ROUNDED)


@pytest.mark.parametrize("gain", [1, np.sqrt(2), np.sqrt(2) / 4])
def test_equalised_learning_rate_scales_weights_when_they_are_used(gain):
    weights, x = layer_weights(3, 3, 4, 6), draw(2, 5, 5, 4)
    kernel = weights["L/weight"] * gain / np.sqrt(36)
    expected = numpy_progan.correlate(x.transpose(0, 3, 1, 2), kernel).transpose(0, 2, 3, 1) + weights["L/bias"]
    assert_close(evaluate(lambda x: layers(weights)._conv("L", x, gain), x), expected, within=ROUNDED)
    weights, x = layer_weights(7, 6), draw(3, 7)
    assert_close(
        evaluate(lambda x: layers(weights)._dense("L", x, gain), x),
        x @ weights["L/weight"] * gain / np.sqrt(7),
        within=ROUNDED,
    )


def test_initial_weights_are_standard_normal_and_biases_zero():
    """The scale comes at run time: stored weights of all layers are alike."""
    values = initial_weights(discriminator_shapes(NetworkSpec(32, fmap_base=1024)), np.random.RandomState(0))
    kernels = np.concatenate([value.ravel() for name, value in values.items() if name.endswith("/weight")])
    assert len(kernels) > 1e5 and abs(kernels.mean()) < 0.01 and abs(kernels.std() - 1) < 0.01
    assert all(not value.any() for name, value in values.items() if name.endswith("/bias"))
    assert all(value.dtype == np.float32 for value in values.values())


def test_pixel_norm():
    x = draw(3, 4, 4, 6)
    x[0, 0, 0] = 0
    expected = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=3, keepdims=True) + 1e-8)
    assert_close(evaluate(lambda x: pixel_norm(x, 3), x), expected, within=ROUNDED)
    small = np.full([1, 4], 1e-5, np.float32)  # where the 1e-8 decides
    assert_close(evaluate(lambda x: pixel_norm(x, 1), small), small / np.sqrt(1e-10 + 1e-8), within=ROUNDED)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 12])
def test_minibatch_standard_deviation(count):
    """Sample i belongs to group i mod (N / 4), or all to one where there are fewer than four."""
    x = draw(count, 4, 4, 6)
    found = evaluate(lambda x: Discriminator({}, SPEC, 16)._append_minibatch_stddev(x), x)
    groups = max(count // 4, 1)
    np.testing.assert_array_equal(found[..., :6], x)
    for i in range(count):
        members = x[i % groups :: groups].astype(np.float64)
        expected = np.sqrt(((members - members.mean(axis=0)) ** 2).mean(axis=0) + 1e-8).mean()
        assert_close(found[i, :, :, 6], np.full([4, 4], expected), within=ROUNDED)


def test_rescaling_of_images():
    images = draw(2, 4, 4, 3)
    np.testing.assert_array_equal(evaluate(upscale, images), images.repeat(2, axis=1).repeat(2, axis=2))
    assert_close(evaluate(downscale, images), images.reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4)), within=ROUNDED)


# ----------------------------------------------------------------------------------------------------------------------
# Whole networks

STAGES = [(4, None), (8, 0.3), (8, None), (16, 0.75), (16, None)]


@pytest.mark.parametrize("resolution, fade", STAGES)
def test_generator(resolution, fade):
    weights, z = random_networks(SPEC)["G"], draw(3, 5)
    images, activations = run_generator(weights, z, resolution, fade)
    expected_images, expected = numpy_progan.generator(weights, z.astype(np.float64), resolution, 16, fade)
    assert_close(images, expected_images, within=AMPLIFIED)
    assert len(activations) == len(expected) + (resolution == 16)
    for found, truth in zip(activations, expected):
        assert_close(found, truth.transpose(0, 2, 3, 1), within=AMPLIFIED)
    if resolution == 16:
        np.testing.assert_array_equal(activations[-1], images)


def test_generator_without_normalisation_of_its_latents():
    weights, z = random_networks(SPEC)["G"], draw(3, 5)
    raw, _ = run_generator(weights, z, 16, normalize_latents=False)
    assert_close(
        raw, numpy_progan.generator(weights, z.astype(np.float64), 16, 16, normalize_latents=False)[0], within=AMPLIFIED
    )
    normalized = z / np.sqrt(np.mean(z**2, axis=1, keepdims=True) + 1e-8)
    assert_close(
        run_generator(weights, normalized, 16, normalize_latents=False)[0],
        run_generator(weights, z, 16)[0],
        within=AMPLIFIED,
    )


@pytest.mark.parametrize("resolution, fade", STAGES)
def test_discriminator_and_q_head(resolution, fade):
    weights, images = random_networks(SPEC)["D"], draw(8, resolution, resolution, 3)
    scores, code = run_discriminator(weights, images, resolution, fade)
    expected_scores, expected_code = numpy_progan.discriminator(
        weights, images.astype(np.float64), resolution, 16, fade
    )
    assert_close(scores, expected_scores, within=ROUNDED)
    assert_close(code, expected_code, within=ROUNDED)
    assert scores.shape == (8, 1) and code.shape == (8, 2)


def test_discriminator_of_grey_images_without_q_head():
    spec = NetworkSpec(resolution=8, channels=1, nz=3, fmap_base=16)
    weights, images = random_networks(spec)["D"], draw(4, 8, 8, 1)
    scores, code = run_discriminator(weights, images, 8, spec=spec)
    assert code is None
    assert_close(scores, numpy_progan.discriminator(weights, images.astype(np.float64), 8, 8)[0], within=ROUNDED)


def test_a_graph_for_gpus_gives_the_same_shapes():
    """NCHW inside; images come and go as NHWC. (TensorFlow 1.14 can build it on a CPU, though not run it.)"""
    weights, z = random_networks(SPEC), draw(4, 5)
    with tf.Graph().as_default():
        images, activations = Generator(constants(weights["G"]), SPEC, 16, 0.5, "NCHW")(tf.constant(z))
        scores, code = Discriminator(constants(weights["D"]), SPEC, 16, 0.5, "NCHW")(images)
        shapes = [x.shape.as_list() for x in [images, scores, code, *activations]]
    expected = [[4, 16, 16, 3], [4, 1], [4, 2]]
    expected += [[4, w, s, s] for s, w in [(4, 8), (4, 8), (8, 6), (8, 6), (16, 3), (16, 3)]] + [[4, 16, 16, 3]]
    assert shapes == expected


def compare_data_formats():
    weights, z = random_networks(SPEC), draw(4, 5)
    images, activations = run_generator(weights["G"], z, 16, 0.75)
    images_too, activations_too = run_generator(weights["G"], z, 16, 0.75, "NCHW")
    assert_close(images_too, images, within=AMPLIFIED)
    for found, expected in zip(activations_too[:-1], activations):
        assert_close(found.transpose(0, 2, 3, 1), expected, within=AMPLIFIED)
    scores, code = run_discriminator(weights["D"], images, 16, 0.75)
    scores_too, code_too = run_discriminator(weights["D"], images, 16, 0.75, "NCHW")
    assert_close(scores_too, scores, within=ROUNDED)
    assert_close(code_too, code, within=ROUNDED)


@pytest.mark.skipif(tf.__version__.startswith("1."), reason="TensorFlow 1.14 has no NCHW convolution on CPUs")
def test_both_data_formats_give_the_same():
    """In a process of its own: on a CPU only oneDNN has these convolutions, and `progan` leaves that off."""
    subprocess.run(
        [sys.executable, "-c", "import test_networks; test_networks.compare_data_formats()"],
        cwd=os.path.dirname(os.path.abspath(__file__)),
        env=dict(os.environ, TF_ENABLE_ONEDNN_OPTS="1", PYTHONPATH=os.pathsep.join(sys.path)),
        check=True,
    )


@pytest.mark.parametrize("resolution", [8, 16])
def test_growing_preserves_the_generator(resolution):
    weights, z = random_networks(SPEC)["G"], draw(3, 5)
    before, _ = run_generator(weights, z, resolution // 2)
    after, _ = run_generator(weights, z, resolution)
    assert_close(
        run_generator(weights, z, resolution, fade=1.0)[0], before.repeat(2, axis=1).repeat(2, axis=2), within=AMPLIFIED
    )
    assert_close(run_generator(weights, z, resolution, fade=0.0)[0], after, within=AMPLIFIED)
    assert np.abs(after - before.repeat(2, axis=1).repeat(2, axis=2)).max() > 0.1


@pytest.mark.parametrize("resolution", [8, 16])
def test_growing_preserves_the_discriminator(resolution):
    weights, images = random_networks(SPEC)["D"], draw(4, resolution, resolution, 3)
    half = images.reshape(4, resolution // 2, 2, resolution // 2, 2, 3).mean(axis=(2, 4))
    before = run_discriminator(weights, half, resolution // 2)
    after = run_discriminator(weights, images, resolution)
    for found, expected in zip(run_discriminator(weights, images, resolution, fade=1.0), before):
        assert_close(found, expected, within=ROUNDED)
    for found, expected in zip(run_discriminator(weights, images, resolution, fade=0.0), after):
        assert_close(found, expected, within=ROUNDED)
    assert np.abs(after[0] - before[0]).max() > 1e-3


LAYERS_OF_16_PX = ["4x4/Dense", "4x4/Conv", "8x8/Conv0_up", "8x8/Conv1", "16x16/Conv0_up", "16x16/Conv1", "ToRGB_lod0"]


@pytest.mark.parametrize("number, name", list(enumerate(LAYERS_OF_16_PX, start=1)))
def test_each_regularisable_layer_is_the_one_named(number, name):
    """A layer's bias moves its own activation and all later ones, and none of the earlier."""
    weights, z = dict(random_networks(SPEC)["G"]), draw(3, 5)
    _, before = run_generator(weights, z, 16)
    weights[name + "/bias"] = weights[name + "/bias"] + 1
    _, after = run_generator(weights, z, 16)
    changed = [not np.array_equal(old, new) for old, new in zip(before, after)]
    assert changed == [False] * (number - 1) + [True] * (len(LAYERS_OF_16_PX) - number + 1)
    sizes = [4, 4, 8, 8, 16, 16, 16]
    widths = [8, 8, 6, 6, 3, 3, 3]  # min(24 / 2^stage, 8): 12 -> 8, 6, 3; and RGB
    assert [activation.shape for activation in before] == [(3, s, s, w) for s, w in zip(sizes, widths)]


def test_regularisable_activations_come_right_after_pixel_norm():
    _, activations = run_generator(random_networks(SPEC)["G"], draw(3, 5), 16)
    for activation in activations[:-1]:
        assert_close(np.mean(activation**2, axis=3), np.ones(activation.shape[:3]), within=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Names and shapes of the published format

GENERATOR_128 = """
4x4/Dense/weight 12 8192          4x4/Dense/bias 512
4x4/Conv/weight 3 3 512 512       4x4/Conv/bias 512
8x8/Conv0_up/weight 3 3 512 512   8x8/Conv0_up/bias 512
8x8/Conv1/weight 3 3 512 512      8x8/Conv1/bias 512
16x16/Conv0_up/weight 3 3 512 512 16x16/Conv0_up/bias 512
16x16/Conv1/weight 3 3 512 512    16x16/Conv1/bias 512
32x32/Conv0_up/weight 3 3 512 512 32x32/Conv0_up/bias 512
32x32/Conv1/weight 3 3 512 512    32x32/Conv1/bias 512
64x64/Conv0_up/weight 3 3 512 256 64x64/Conv0_up/bias 256
64x64/Conv1/weight 3 3 256 256    64x64/Conv1/bias 256
128x128/Conv0_up/weight 3 3 256 128 128x128/Conv0_up/bias 128
128x128/Conv1/weight 3 3 128 128  128x128/Conv1/bias 128
ToRGB_lod5/weight 1 1 512 3       ToRGB_lod5/bias 3
ToRGB_lod4/weight 1 1 512 3       ToRGB_lod4/bias 3
ToRGB_lod3/weight 1 1 512 3       ToRGB_lod3/bias 3
ToRGB_lod2/weight 1 1 512 3       ToRGB_lod2/bias 3
ToRGB_lod1/weight 1 1 256 3       ToRGB_lod1/bias 3
ToRGB_lod0/weight 1 1 128 3       ToRGB_lod0/bias 3
"""
DISCRIMINATOR_128 = """
FromRGB_lod0/weight 1 1 3 128     FromRGB_lod0/bias 128
FromRGB_lod1/weight 1 1 3 256     FromRGB_lod1/bias 256
FromRGB_lod2/weight 1 1 3 512     FromRGB_lod2/bias 512
FromRGB_lod3/weight 1 1 3 512     FromRGB_lod3/bias 512
FromRGB_lod4/weight 1 1 3 512     FromRGB_lod4/bias 512
FromRGB_lod5/weight 1 1 3 512     FromRGB_lod5/bias 512
128x128/Conv0/weight 3 3 128 128  128x128/Conv0/bias 128
128x128/Conv1_down/weight 3 3 128 256 128x128/Conv1_down/bias 256
64x64/Conv0/weight 3 3 256 256    64x64/Conv0/bias 256
64x64/Conv1_down/weight 3 3 256 512 64x64/Conv1_down/bias 512
32x32/Conv0/weight 3 3 512 512    32x32/Conv0/bias 512
32x32/Conv1_down/weight 3 3 512 512 32x32/Conv1_down/bias 512
16x16/Conv0/weight 3 3 512 512    16x16/Conv0/bias 512
16x16/Conv1_down/weight 3 3 512 512 16x16/Conv1_down/bias 512
8x8/Conv0/weight 3 3 512 512      8x8/Conv0/bias 512
8x8/Conv1_down/weight 3 3 512 512 8x8/Conv1_down/bias 512
4x4/Conv/weight 3 3 513 512       4x4/Conv/bias 512
4x4/Dense0/weight 8192 512        4x4/Dense0/bias 512
4x4/Dense1/weight 512 1           4x4/Dense1/bias 1
"""
Q_HEAD_10 = """
4x4/Q_Encoder/Conv/weight 3 3 512 512 4x4/Q_Encoder/Conv/bias 512
4x4/Q_Encoder/Dense0/weight 8192 512  4x4/Q_Encoder/Dense0/bias 512
4x4/Q_Encoder/Dense1/weight 512 10    4x4/Q_Encoder/Dense1/bias 10
"""


def table(text):
    """Return {name: shape} of a table of names, each followed by its numbers."""
    entries = re.findall(r"(\S+/\S+)((?: \d+\b)+)", text)
    return {name: tuple(map(int, numbers.split())) for name, numbers in entries}


def test_names_and_shapes_at_128_px():
    assert generator_shapes(NetworkSpec()) == table(GENERATOR_128)
    assert discriminator_shapes(NetworkSpec()) == table(DISCRIMINATOR_128)
    assert discriminator_shapes(NetworkSpec(infogan_nz=10)) == table(DISCRIMINATOR_128 + Q_HEAD_10)


def test_widths():
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
    assert {res: NetworkSpec(1024).width(res) for res in widths} == widths
    assert [NetworkSpec(16, fmap_base=10, fmap_max=4).width(res) for res in (4, 8, 16)] == [4, 2, 1]
    assert NetworkSpec(16, fmap_base=2).width(16) == 1  # never none


def test_names_in_use_at_a_stage():
    shapes = discriminator_shapes(SPEC)
    heads = {"4x4/%s%s/%s" % (q, layer, kind) for q in ("", "Q_Encoder/") for layer in ("Conv", "Dense0", "Dense1")
             for kind in ("weight", "bias")}  # fmt: skip
    convs = {"8x8/%s/%s" % (layer, kind) for layer in ("Conv0", "Conv1_down") for kind in ("weight", "bias")}

    def from_rgb(level):
        return {"FromRGB_lod%d/%s" % (level, kind) for kind in ("weight", "bias")}

    assert set(names_at(shapes, SPEC, 4, fading=False)) == heads | from_rgb(2)
    assert set(names_at(shapes, SPEC, 8, fading=False)) == heads | convs | from_rgb(1)
    assert set(names_at(shapes, SPEC, 8, fading=True)) == heads | convs | from_rgb(1) | from_rgb(2)
