"""The generator and discriminator of ProGAN (Karras et al. 2018), as functions of explicit weights in a static graph.

Weights live under the published names ('4x4/Dense/weight', '8x8/Conv0_up/bias', 'ToRGB_lod0/weight', ...), convolutions
as [height, width, in, out], unscaled: the equalised learning rate multiplies them by gain / sqrt(fan_in) when they are
used. A network object is built for one resolution of the growing pair, so there is no branching on the level of detail
inside a graph.
"""

import dataclasses
import itertools

import numpy as np
import tensorflow.compat.v1 as tf

from progan.schedule import log2

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_v2_behavior()  # static graphs in sessions, in both TensorFlow versions
if hasattr(tf.config.experimental, "enable_tensor_float_32_execution"):  # TensorFlow 2.4 and later use TF32 on GPUs:
    tf.config.experimental.enable_tensor_float_32_execution(False)  # too coarse for the penalty's second differences

LEAK = 0.2  # slope of the leaky ReLU for negative inputs
GAIN = np.sqrt(2)  # He initialisation for (leaky) ReLU, applied at run time


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """What decides the shapes of all weights.

    resolution  full resolution, pixels (a power of two)
    channels    of an image: 1 or 3
    nz          components of the latent z
    fmap_base   feature maps at resolution 2^r: fmap_base / 2^(r - 1), ...
    fmap_max    ... but never more than this
    infogan_nz  components of z that the Q head regresses (0: no head)
    """

    resolution: int = 128
    channels: int = 3
    nz: int = 12
    fmap_base: int = 8192
    fmap_max: int = 512
    infogan_nz: int = 0

    def width(self, resolution):
        """Return the number of feature maps at `resolution`: 4...32 -> 512, 64 -> 256, 128 -> 128 by default."""
        return max(min(self.fmap_base >> (log2(resolution) - 1), self.fmap_max), 1)

    def resolutions(self, above=4):
        """Return the resolutions greater than `above`, up to the full one."""
        return [2**r for r in range(log2(above) + 1, log2(self.resolution) + 1)]

    def rgb_level(self, resolution):
        """Return N of ToRGB_lodN and FromRGB_lodN at `resolution`."""
        return log2(self.resolution) - log2(resolution)


# ----------------------------------------------------------------------------------------------------------------------
# Weights: names, shapes, first values


def generator_shapes(spec):
    """Return {name: shape} of the generator's weights, in the order of the forward pass."""
    width = spec.width(4)
    shapes = {
        "4x4/Dense/weight": (spec.nz, width * 16),
        "4x4/Dense/bias": (width,),
        "4x4/Conv/weight": (3, 3, width, width),
        "4x4/Conv/bias": (width,),
    }
    for res in spec.resolutions():
        for name, fan_in in (("Conv0_up", spec.width(res // 2)), ("Conv1", spec.width(res))):
            shapes[f"{res}x{res}/{name}/weight"] = (3, 3, fan_in, spec.width(res))
            shapes[f"{res}x{res}/{name}/bias"] = (spec.width(res),)
    for res in spec.resolutions(above=2):
        shapes[f"ToRGB_lod{spec.rgb_level(res)}/weight"] = (1, 1, spec.width(res), spec.channels)
        shapes[f"ToRGB_lod{spec.rgb_level(res)}/bias"] = (spec.channels,)
    return shapes


def discriminator_shapes(spec):
    """Return {name: shape} of the discriminator's weights, and of the Q head's where there is one."""
    shapes = {}
    for res in reversed(spec.resolutions(above=2)):
        shapes[f"FromRGB_lod{spec.rgb_level(res)}/weight"] = (1, 1, spec.channels, spec.width(res))
        shapes[f"FromRGB_lod{spec.rgb_level(res)}/bias"] = (spec.width(res),)
    for res in reversed(spec.resolutions()):
        # Conv0 keeps the width of its resolution, Conv1_down gives that of the next lower one.
        for name, fan_out in (("Conv0", spec.width(res)), ("Conv1_down", spec.width(res // 2))):
            shapes[f"{res}x{res}/{name}/weight"] = (3, 3, spec.width(res), fan_out)
            shapes[f"{res}x{res}/{name}/bias"] = (fan_out,)
    width = spec.width(4)
    heads = [("4x4", width + 1, 1)]  # + 1: the minibatch standard deviation
    if spec.infogan_nz:
        heads.append(("4x4/Q_Encoder", width, spec.infogan_nz))
    for head, fan_in, outputs in heads:
        shapes[f"{head}/Conv/weight"] = (3, 3, fan_in, width)
        shapes[f"{head}/Conv/bias"] = (width,)
        shapes[f"{head}/Dense0/weight"] = (width * 16, width)
        shapes[f"{head}/Dense0/bias"] = (width,)
        shapes[f"{head}/Dense1/weight"] = (width, outputs)
        shapes[f"{head}/Dense1/bias"] = (outputs,)
    return shapes


def initial_weights(shapes, rng):
    """Return {name: float32 array}: weights from N(0, 1), biases 0, drawn from a numpy RandomState in order of name."""
    values = {}
    for name in sorted(shapes):
        is_bias = name.endswith("/bias")
        values[name] = (np.zeros(shapes[name]) if is_bias else rng.standard_normal(shapes[name])).astype(np.float32)
    return values


def names_at(shapes, spec, resolution, fading):
    """Return the names among `shapes` that a network working at `resolution` uses."""
    levels = {spec.rgb_level(resolution)} | ({spec.rgb_level(resolution // 2)} if fading else set())

    def used(name):
        head = name.split("/")[0]
        if "_lod" in head:
            return int(head.split("_lod")[1]) in levels
        return int(head.split("x")[0]) <= resolution

    return [name for name in shapes if used(name)]


# ----------------------------------------------------------------------------------------------------------------------
# Layers


class _Network:
    """What G and D share: layers over a dictionary of weights, in one data format.

    weights      {name: tensor or variable}
    resolution   the one that the network works at
    fade         None, or the scalar weight of the previous resolution's RGB branch while this one fades in
    data_format  'NHWC' (CPU) or 'NCHW' (GPU) of activations; images come and go as NHWC
    """

    def __init__(self, weights, spec, resolution, fade=None, data_format="NHWC"):
        self.weights, self.spec, self.resolution, self.fade = weights, spec, resolution, fade
        self.data_format = data_format
        self.channel_axis = data_format.index("C")
        self._kernels = {}

    def _kernel(self, name, gain, rescale=None):
        """Return the run-time weight of a layer: scaled, and for a fused rescaling also convolved with the 2x2 box.

        Made once a graph, and shared by every call of the network.
        """
        if name not in self._kernels:
            weight = self.weights[name + "/weight"]
            fan_in = int(np.prod([int(n) for n in weight.shape[:-1]]))
            kernel = weight * np.float32(gain / np.sqrt(fan_in))
            if rescale is not None:
                # Zero-pad by one, add the four one-pixel shifts: 3x3 -> 4x4. Up: no factor, since each output pixel of
                # the stride-2 transposed convolution gets one tap per input pixel. Down: 1/4, the box's mean.
                kernel = tf.pad(kernel, [[1, 1], [1, 1], [0, 0], [0, 0]])
                kernel = kernel[1:, 1:] + kernel[:-1, 1:] + kernel[1:, :-1] + kernel[:-1, :-1]
                kernel = tf.transpose(kernel, [0, 1, 3, 2]) if rescale == "up" else kernel * np.float32(0.25)
            self._kernels[name] = kernel
        return self._kernels[name]

    def _spatial(self, height, width):
        """Return [1, height, width, 1] in the order of the data format: strides and window sizes."""
        return [{"N": 1, "C": 1, "H": height, "W": width}[axis] for axis in self.data_format]

    def _shape(self, channels, size):
        """Return [-1, ...] of activations with `channels` maps of `size` x `size`."""
        return [{"N": -1, "C": channels, "H": size, "W": size}[axis] for axis in self.data_format]

    def _bias(self, name, x):
        bias = self.weights[name + "/bias"]
        if len(x.shape) == 4 and self.channel_axis == 1:
            bias = tf.reshape(bias, [1, -1, 1, 1])
        return x + bias

    def _conv(self, name, x, gain=GAIN):
        kernel = self._kernel(name, gain)
        strides = self._spatial(1, 1)
        return self._bias(name, tf.nn.conv2d(x, kernel, strides, "SAME", data_format=self.data_format))

    def _conv_down(self, name, x):
        """Convolve, take 2x2 means, add the bias: as one stride-2 convolution with a 4x4 kernel."""
        kernel = self._kernel(name, GAIN, "down")
        strides = self._spatial(2, 2)
        return self._bias(name, tf.nn.conv2d(x, kernel, strides, "SAME", data_format=self.data_format))

    def _conv_up(self, name, x):
        """Repeat pixels 2x2, convolve with the kernel turned by 180 degrees, add the bias: as one stride-2 convolution.

        The transposed convolution of a network whose weights were trained so: the turn is part of the format.
        """
        kernel = self._kernel(name, GAIN, "up")
        channels, size = int(kernel.shape[2]), 2 * int(x.shape[self.data_format.index("H")])
        shape = self._shape(channels, size)
        y = tf.nn.conv2d_transpose(
            x, kernel, [tf.shape(x)[0], *shape[1:]], self._spatial(2, 2), "SAME", data_format=self.data_format
        )
        return self._bias(name, tf.reshape(y, shape))

    def _dense(self, name, x, gain=GAIN):
        if len(x.shape) == 4:  # flattened channel-major, whatever the data format
            x = self._to(x, self.data_format, "NCHW")
            x = tf.reshape(x, [-1, int(np.prod([int(n) for n in x.shape[1:]]))])
        return tf.matmul(x, self._kernel(name, gain))

    @staticmethod
    def _to(x, given, wanted):
        return x if given == wanted else tf.transpose(x, [given.index(axis) for axis in wanted])


def upscale(images):
    """Return NHWC images at twice the size: every pixel repeated 2x2."""
    size, channels = int(images.shape[1]), int(images.shape[3])
    y = tf.tile(tf.reshape(images, [-1, size, 1, size, 1, channels]), [1, 1, 2, 1, 2, 1])
    return tf.reshape(y, [-1, 2 * size, 2 * size, channels])


def downscale(images):
    """Return NHWC images at half the size: the mean of every 2x2 box."""
    return tf.nn.avg_pool(images, [1, 2, 2, 1], [1, 2, 2, 1], "VALID")


def lerp(a, b, t):
    """Return a + (b - a) t."""
    return a + (b - a) * t


def pixel_norm(x, axis):
    """Divide by the root mean square over `axis` (the channels): x / sqrt(mean(x^2) + 1e-8)."""
    return x * tf.rsqrt(tf.reduce_mean(tf.square(x), axis=axis, keepdims=True) + 1e-8)


def leaky_relu(x):
    return tf.nn.leaky_relu(x, alpha=LEAK)


# ----------------------------------------------------------------------------------------------------------------------
# Generator


class Generator(_Network):
    """G(z) -> images, activations."""

    def __call__(self, z, normalize_latents=True):
        """Return (images, activations) of latents z.

        z                  float32 [N, nz]
        normalize_latents  divide z by its root mean square first, as in training
        images             float32 [N, resolution, resolution, channels], about [-1, 1], not clipped
        activations        list of 4-D tensors right after pixel norm: layer 1 is the 4x4 dense one, 2 the 4x4
                           convolution, then two a resolution; at the full resolution the images come last
        """
        activations = list(self._layers(z, normalize_latents))
        images = self._images(activations)
        if self.resolution == self.spec.resolution:
            activations.append(images)
        return images, activations

    def activations(self, z, layers):
        """Return the activations of latents z at `layers`, counted from 1; G ends at the deepest of them."""
        every = list(itertools.islice(self._layers(z), max(layers)))
        if max(layers) > len(every):
            every.append(self._images(every))
        return [every[layer - 1] for layer in layers]

    def _layers(self, z, normalize_latents=True):
        """Yield layer after layer, but for the images; each is added to the graph when it is asked for."""
        width = self.spec.width(4)
        x = pixel_norm(z, axis=1) if normalize_latents else z
        # The gain of the first layer is a quarter of the others', and its bias has one entry a map, not one an output.
        x = tf.reshape(self._dense("4x4/Dense", x, gain=GAIN / 4), [-1, width, 4, 4])
        x = self._finish(self._bias("4x4/Dense", self._to(x, "NCHW", self.data_format)))
        yield x
        x = self._finish(self._conv("4x4/Conv", x))
        yield x
        for res in self.spec.resolutions():
            if res > self.resolution:
                break
            x = self._finish(self._conv_up(f"{res}x{res}/Conv0_up", x))
            yield x
            x = self._finish(self._conv(f"{res}x{res}/Conv1", x))
            yield x

    def _finish(self, x):
        return pixel_norm(leaky_relu(x), self.channel_axis)

    def _images(self, activations):
        images = self._to_rgb(activations[-1], self.resolution)
        if self.fade is not None:  # the last layer of the previous resolution has two of this one behind it
            images = lerp(images, upscale(self._to_rgb(activations[-3], self.resolution // 2)), self.fade)
        return images

    def _to_rgb(self, x, resolution):
        """1x1 convolution to an image: linear, gain 1, neither tanh nor clipping."""
        rgb = self._conv(f"ToRGB_lod{self.spec.rgb_level(resolution)}", x, gain=1)
        return self._to(rgb, self.data_format, "NHWC")


# ----------------------------------------------------------------------------------------------------------------------
# Discriminator


class Discriminator(_Network):
    """D(images) -> scores, latent code."""

    def __call__(self, images):
        """Return (scores [N, 1], code [N, infogan_nz] or None) of NHWC float32 images at the network's resolution."""
        x = self._from_rgb(images, self.resolution)
        for res in reversed(self.spec.resolutions()):
            if res > self.resolution:
                continue
            x = leaky_relu(self._conv(f"{res}x{res}/Conv0", x))
            x = leaky_relu(self._conv_down(f"{res}x{res}/Conv1_down", x))
            if res == self.resolution and self.fade is not None:
                x = lerp(x, self._from_rgb(downscale(images), res // 2), self.fade)
        # The Q head branches off before the standard deviation is appended: its convolution has one input map fewer.
        code = self._head("4x4/Q_Encoder", x) if self.spec.infogan_nz else None
        return self._head("4x4", self._append_minibatch_stddev(x)), code

    def _from_rgb(self, images, resolution):
        """1x1 convolution from an image: with the gain and the activation of any layer inside, unlike toRGB."""
        images = self._to(images, "NHWC", self.data_format)
        return leaky_relu(self._conv(f"FromRGB_lod{self.spec.rgb_level(resolution)}", images))

    def _head(self, name, x):
        """The last 4x4 layers, of the scores and of the Q head alike: only the last is linear, with gain 1."""
        x = leaky_relu(self._conv(name + "/Conv", x))
        x = leaky_relu(self._bias(name + "/Dense0", self._dense(name + "/Dense0", x)))
        return self._bias(name + "/Dense1", self._dense(name + "/Dense1", x, gain=1))

    def _append_minibatch_stddev(self, x, group_size=4):
        """Append one map, as the last: the standard deviation over a group of samples, averaged over maps and pixels.

        Sample i of N belongs to group i mod (N / group); N must be a multiple of the group size, or smaller.
        (Karras et al. 2018, Sec. 3.)
        """
        count, shape = tf.shape(x)[0], [int(n) for n in x.shape[1:]]
        group = tf.minimum(group_size, count)
        y = tf.reshape(x, tf.concat([[group, count // group], shape], axis=0))
        y = y - tf.reduce_mean(y, axis=0, keepdims=True)
        y = tf.sqrt(tf.reduce_mean(tf.square(y), axis=0) + 1e-8)
        y = tf.reduce_mean(y, axis=[1, 2, 3], keepdims=True)  # one number a group
        size = shape[self.data_format.index("H") - 1]
        y = tf.tile(y, tf.concat([[group], self._spatial(size, size)[1:]], axis=0))
        return tf.concat([x, tf.reshape(y, self._shape(1, size))], axis=self.channel_axis)
