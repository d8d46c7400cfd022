"""BigGAN in NumPy and SciPy: the truth that the tests of the networks compare with.

Written from the published description alone, one plain operation after another, over {published name: array}. Nothing
is cached, folded or reordered; every spectral norm is one power iteration from the stored vector. Activations are
[N, C, H, W], everything in the precision that goes in (float64 in the tests).
"""

import numpy as np
from scipy.signal import correlate2d


def correlate(x, kernel):
    """Zero-padded cross-correlation that keeps the size: x [N, in, H, W], kernel [out, in, h, w]."""
    return np.array(
        [
            [
                sum(correlate2d(sample[i], kernel[o, i], mode="same") for i in range(kernel.shape[1]))
                for o in range(kernel.shape[0])
            ]
            for sample in x
        ]
    )


def upsample(x):
    return x.repeat(2, axis=2).repeat(2, axis=3)


def pool(x, how):
    count, maps, height, width = x.shape
    return how(x.reshape(count, maps, height // 2, 2, width // 2, 2), axis=(3, 5))


def relu(x):
    return np.maximum(x, 0)


class Network:
    def __init__(self, state, sn_eps=1e-6, bn_eps=1e-5):
        self.state, self.sn_eps, self.bn_eps = state, sn_eps, bn_eps

    def has(self, name):
        return any(key.startswith(name + ".") for key in self.state)

    def weight(self, name):
        """The weight over σ = ‖W v‖, v = normalise(u0 W)."""
        weight, u = self.state[name + ".weight"], self.state[name + ".u0"]
        matrix = weight.reshape(len(weight), -1)
        v = (u @ matrix).ravel()
        v = v / max(np.linalg.norm(v), self.sn_eps)
        return weight / np.linalg.norm(matrix @ v)

    def bias(self, name):
        return self.state.get(name + ".bias", 0.0)

    def conv(self, name, x):
        bias = self.bias(name)
        return correlate(x, self.weight(name)) + (bias[:, None, None] if np.ndim(bias) else 0)

    def dense(self, name, x):
        return x @ self.weight(name).T + self.bias(name)

    def batch_norm(self, name, x, gain, bias):
        """gain, bias: [N or 1, C]."""
        mean, variance = self.state[name + ".stored_mean"], self.state[name + ".stored_var"]
        normal = (x - mean[:, None, None]) / np.sqrt(variance[:, None, None] + self.bn_eps)
        return normal * gain[:, :, None, None] + bias[:, :, None, None]

    def conditional_batch_norm(self, name, x, condition):
        gain, bias = self.dense(name + ".gain", condition), self.dense(name + ".bias", condition)
        return self.batch_norm(name, x, 1 + gain, bias)

    def attention(self, name, x):
        count, maps, height, width = x.shape
        queries = self.conv(name + ".theta", x).reshape(count, -1, height * width)
        keys = pool(self.conv(name + ".phi", x), np.max).reshape(count, -1, height * width // 4)
        values = pool(self.conv(name + ".g", x), np.max).reshape(count, -1, height * width // 4)
        attended = np.empty([count, maps // 2, height * width])
        for sample in range(count):
            for position in range(height * width):
                logits = queries[sample, :, position] @ keys[sample]
                weights = np.exp(logits - logits.max())
                attended[sample, :, position] = values[sample] @ (weights / weights.sum())
        attended = attended.reshape(count, maps // 2, height, width)
        return self.state[name + ".gamma"] * self.conv(name + ".o", attended) + x


def generator(state, z, y, chunks):
    """Images of G; `chunks` are the sizes of the pieces of z: the linear layer's, then one for each block."""
    net = Network(state)
    pieces = np.split(z, np.cumsum(chunks)[:-1], axis=1)
    embedding = state["shared.weight"][y]
    h = net.dense("linear", pieces[0])
    h = h.reshape(len(z), -1, 4, 4)
    for index, piece in enumerate(pieces[1:]):
        block, condition = f"blocks.{index}.0", np.concatenate([embedding, piece], axis=1)
        shortcut = net.conv(f"{block}.conv_sc", upsample(h))
        h = relu(net.conditional_batch_norm(f"{block}.bn1", h, condition))
        h = net.conv(f"{block}.conv1", upsample(h))
        h = relu(net.conditional_batch_norm(f"{block}.bn2", h, condition))
        h = net.conv(f"{block}.conv2", h) + shortcut
        if net.has(f"blocks.{index}.1"):
            h = net.attention(f"blocks.{index}.1", h)
    gain, bias = state["output_layer.0.gain"], state["output_layer.0.bias"]
    h = relu(net.batch_norm("output_layer.0", h, gain[None], bias[None]))
    return np.tanh(net.conv("output_layer.2", h))


def discriminator(state, x, y, downsampling):
    """Scores [N] of D; `downsampling` says for each block whether it halves the resolution."""
    net = Network(state)
    for index, down in enumerate(downsampling):
        block = f"blocks.{index}.0"
        h = net.conv(f"{block}.conv1", relu(x) if index else x)
        h = net.conv(f"{block}.conv2", relu(h))
        shortcut = net.conv(f"{block}.conv_sc", x) if net.has(f"{block}.conv_sc") else x
        x = pool(h, np.mean) + pool(shortcut, np.mean) if down else h + shortcut
        if net.has(f"blocks.{index}.1"):
            x = net.attention(f"blocks.{index}.1", x)
    features = relu(x).sum(axis=(2, 3))
    projection = (net.weight("embed")[y] * features).sum(axis=1)
    return net.dense("linear", features)[:, 0] + projection
