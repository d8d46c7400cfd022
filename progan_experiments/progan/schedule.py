"""What happens at which point of training: kimg -> level of detail, resolution, minibatch, penalty weight. Pure Python.

kimg is thousands of real images shown. The level of detail is lod = log2(full / current resolution); its fraction is
the share of the previous, coarser resolution while a new one fades in (Karras et al. 2018, Sec. 2).
"""

import math

REGULARIZERS = {"hessian_penalty": "the Hessian Penalty", "orojar": "OroJaR"}  # {value of --regularizer: its name}

# Real images a step at four GPUs, and kimg between two reports, by resolution: the published settings.
MINIBATCH_4_GPUS = {4: 2048, 8: 1024, 16: 512, 32: 256, 64: 128, 128: 96, 256: 32}
TICK_KIMG = {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40}


def log2(resolution):
    """Return the exact base-2 logarithm of a power of two."""
    return int(resolution).bit_length() - 1


def level_of_detail(kimg, resolution, initial_resolution=4, stage_kimg=600, fade_kimg=600):
    """Return lod at `kimg`: each resolution trains for `stage_kimg`, then the next fades in over `fade_kimg`."""
    phase_kimg = stage_kimg + fade_kimg
    grown = log2(resolution // initial_resolution)
    if grown == 0 or phase_kimg == 0:
        return 0.0
    phase = math.floor(kimg / phase_kimg)
    fading_kimg = max(kimg - phase * phase_kimg - stage_kimg, 0)
    faded = fading_kimg / fade_kimg if fade_kimg > 0 else 0.0
    return float(max(grown - phase - faded, 0))


def first_kimg(lod, resolution, initial_resolution=4, stage_kimg=600, fade_kimg=600):
    """Return the least kimg at which the level of detail is `lod`: the inverse of `level_of_detail`."""
    grown = log2(resolution // initial_resolution) - lod
    faded = grown % 1
    return math.floor(grown) * (stage_kimg + fade_kimg) + (stage_kimg + faded * fade_kimg if faded else 0)


def current_resolution(lod, resolution):
    """Return the resolution that the networks work at: full / 2^floor(lod)."""
    return resolution >> math.floor(lod)


def default_minibatch(resolution, num_gpus):
    """Return the published minibatch at `resolution`, scaled with the number of GPUs (a CPU counts as one)."""
    table = MINIBATCH_4_GPUS
    return max(table.get(resolution, min(table.values())) * max(num_gpus, 1) // 4, 4)


def default_tick_kimg(resolution):
    """Return the published kimg between two reports at `resolution`."""
    return TICK_KIMG.get(resolution, min(TICK_KIMG.values()))


def penalty_ramp(kimg, start_kimg, warmup_kimg):
    """Return the share in [0, 1] of the penalty's weight at `kimg`: linear from `start_kimg` over `warmup_kimg`."""
    if kimg < start_kimg:
        return 0.0
    return 1.0 if warmup_kimg <= 0 else min((kimg - start_kimg) / warmup_kimg, 1.0)


def num_layers(resolution):
    """Return how many layers of G can be regularised: two a resolution from 4x4 on, and the RGB output."""
    return 2 * (log2(resolution) - 1) + 1


def layer_resolution(layer, resolution):
    """Return the resolution of regularisable layer `layer` (1 is the 4x4 dense layer, the last the RGB output)."""
    return resolution if layer == num_layers(resolution) else 2 ** ((layer - 1) // 2 + 2)


def layers_at(current_resolution, layers, resolution):
    """Return those of `layers` that exist while the networks work at `current_resolution`."""
    return [layer for layer in layers if layer_resolution(layer, resolution) <= current_resolution]


def layer_weight(layer, lod, resolution):
    """Return the weight in [0, 1] of a layer in the penalty: it fades in with the layer's resolution.

    min(lod_required - lod, 1), lod_required = log2(full / layer resolution) + 1, and 0 before the fade-in begins.
    """
    lod_required = log2(resolution) - log2(layer_resolution(layer, resolution)) + 1
    return min(max(lod_required - lod, 0.0), 1.0)


def ema_decay(minibatch, half_life_kimg=10.0):
    """Return the factor by which the averaged generator keeps its old self in a step of `minibatch` real images."""
    return 0.5 ** (minibatch / (half_life_kimg * 1000))
