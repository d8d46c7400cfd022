"""ProGAN in NumPy and SciPy: the truth that the tests of the networks and of training compare with.

Written from the published description alone, one plain operation after another: nothing is fused, every convolution is
a sum over SciPy's correlations, and an RGB branch that fades out runs as it would at its own resolution. Activations
are [N, C, H, W], images [N, H, W, C], everything in the precision that goes in (float64 in the tests).
"""

import numpy as np
from scipy.signal import correlate2d

# ----------------------------------------------------------------------------------------------------------------------
# Operations


def correlate(x, kernel):
    """Zero-padded cross-correlation that keeps the size: x [N, in, H, W], kernel [h, w, in, out]."""
    _, _, fan_in, fan_out = kernel.shape
    return np.array(
        [
            [
                sum(correlate2d(sample[i], kernel[:, :, i, o], mode="same") for i in range(fan_in))
                for o in range(fan_out)
            ]
            for sample in x
        ]
    )


def upscale(x):
    """Nearest neighbour, x [N, C, H, W]."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


def downscale(x):
    """Means of 2x2 boxes, x [N, C, H, W]."""
    return (x[:, :, 0::2, 0::2] + x[:, :, 0::2, 1::2] + x[:, :, 1::2, 0::2] + x[:, :, 1::2, 1::2]) / 4


def leaky_relu(x):
    return np.maximum(x, 0.2 * x)


def pixel_norm(x):
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8)


def minibatch_stddev(x):
    """x with one more map at the end: the standard deviation over groups of 4 samples, sample i in group i mod N/4."""
    count = len(x)
    groups = max(count // 4, 1)
    extra = np.zeros_like(x[:, :1])
    for group in range(groups):
        members = [i for i in range(count) if i % groups == group]
        extra[members] = np.sqrt(x[members].var(axis=0) + 1e-8).mean()
    return np.concatenate([x, extra], axis=1)


class Layers:
    """Layers over {name: array} of weights as they are stored: unscaled."""

    def __init__(self, weights):
        self.weights = weights

    def scaled(self, name, gain=2**0.5):
        weight = self.weights[name + "/weight"]
        return weight * (gain / np.sqrt(np.prod(weight.shape[:-1])))

    def bias(self, name):
        return self.weights[name + "/bias"].reshape(1, -1, 1, 1)

    def conv(self, name, x, **gain):
        return correlate(x, self.scaled(name, **gain)) + self.bias(name)

    def conv_up(self, name, x):
        return correlate(upscale(x), self.scaled(name)[::-1, ::-1]) + self.bias(name)

    def conv_down(self, name, x):
        return downscale(correlate(x, self.scaled(name))) + self.bias(name)

    def dense(self, name, x, **gain):
        return x.reshape(len(x), -1) @ self.scaled(name, **gain) + self.weights[name + "/bias"]


# ----------------------------------------------------------------------------------------------------------------------
# Networks


def generator(weights, z, resolution, full_resolution, fade=None, normalize_latents=True):
    """Return (images [N, R, R, C], activations) of G at `resolution`; `fade` is the share of the old RGB branch."""
    net, activations = Layers(weights), []

    def finish(x):
        activations.append(pixel_norm(leaky_relu(x)))
        return activations[-1]

    def to_rgb(x, res):
        return net.conv("ToRGB_lod%d" % np.log2(full_resolution / res), x, gain=1)

    z = pixel_norm(z) if normalize_latents else z
    maps = len(weights["4x4/Dense/bias"])
    x = (z @ net.scaled("4x4/Dense", gain=np.sqrt(2) / 4)).reshape(len(z), maps, 4, 4)
    x = finish(x + net.bias("4x4/Dense"))
    x = finish(net.conv("4x4/Conv", x))
    res = 4
    while res < resolution:
        before, res = x, 2 * res
        x = finish(net.conv_up("%dx%d/Conv0_up" % (res, res), x))
        x = finish(net.conv("%dx%d/Conv1" % (res, res), x))
    images = to_rgb(x, resolution)
    if fade is not None:
        images = (1 - fade) * images + fade * upscale(to_rgb(before, resolution // 2))
    return images.transpose(0, 2, 3, 1), activations


def discriminator(weights, images, resolution, full_resolution, fade=None):
    """Return (scores [N, 1], code of the Q head or None) of images [N, R, R, C]."""
    net = Layers(weights)
    images = images.transpose(0, 3, 1, 2)

    def from_rgb(images, res):
        return leaky_relu(net.conv("FromRGB_lod%d" % np.log2(full_resolution / res), images))

    def head(name, x):
        x = leaky_relu(net.conv(name + "/Conv", x))
        x = leaky_relu(net.dense(name + "/Dense0", x))
        return net.dense(name + "/Dense1", x, gain=1)

    x, res = from_rgb(images, resolution), resolution
    while res > 4:
        x = leaky_relu(net.conv("%dx%d/Conv0" % (res, res), x))
        x = leaky_relu(net.conv_down("%dx%d/Conv1_down" % (res, res), x))
        if res == resolution and fade is not None:
            x = (1 - fade) * x + fade * from_rgb(downscale(images), res // 2)
        res //= 2
    code = head("4x4/Q_Encoder", x) if "4x4/Q_Encoder/Conv/weight" in weights else None
    return head("4x4", minibatch_stddev(x)), code


def hessian_penalties(*arguments, **keywords):
    """Return the Hessian Penalty of each of the layers by its definition: max over elements of Var_v((Δ²G)/ε²).

    The arguments are those of `_passes`.
    """
    epsilon, penalties = arguments[4], []
    for centre, pairs in _passes(*arguments, **keywords):
        second = [(plus - 2 * centre + minus) / epsilon**2 for plus, minus in pairs]
        penalties.append(np.var(second, axis=0, ddof=1).max())
    return penalties


def orojar_penalties(*arguments, **keywords):
    """Return OroJaR's penalty of each of the layers by its definition: the mean over samples of Var_v(||J v||²)."""
    epsilon, penalties = arguments[4], []
    for _, pairs in _passes(*arguments, **keywords):
        slopes = [((plus - minus) / (2 * epsilon)).reshape(len(plus), -1) for plus, minus in pairs]
        penalties.append(np.var([(slope**2).sum(axis=1) for slope in slopes], axis=0, ddof=1).mean())
    return penalties


def _passes(weights, z, layers, directions, epsilon, resolution, full_resolution, fade=None):
    """Return for each of the layers (its activation at z, [(at z + εv, at z − εv) for v in directions])."""

    def activations(z):
        images, every = generator(weights, z, resolution, full_resolution, fade)
        every = [*every, images] if resolution == full_resolution else every
        return [every[layer - 1] for layer in layers]

    pairs = [list(zip(activations(z + epsilon * v), activations(z - epsilon * v))) for v in directions]
    return [(centre, [pair[i] for pair in pairs]) for i, centre in enumerate(activations(z))]
