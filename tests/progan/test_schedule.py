"""The schedule at points worked out by hand, from the published description of growing."""

import pytest

from progan import schedule


@pytest.mark.parametrize(
    "kimg, lod",
    [
        (0, 5), (599.9, 5), (600, 5), (900, 4.5), (1199, 4 + 1 / 600), (1200, 4), (1800, 4), (2100, 3.5),
        (4800, 1), (5400, 1), (5550, 0.75), (5700, 0.5), (6000, 0), (1e6, 0),
    ],
)  # fmt: skip
def test_level_of_detail_as_published(kimg, lod):
    """128 px from 4 px on: five doublings, each after 600 kimg and over another 600."""
    assert schedule.level_of_detail(kimg, 128) == pytest.approx(lod, abs=1e-9)


@pytest.mark.parametrize(
    "kimg, initial, stage, fade, lod",
    [
        (0, 16, 600, 600, 0),  # nothing to grow
        (0, 8, 10, 20, 1),
        (15, 8, 10, 20, 0.75),
        (30, 8, 10, 20, 0),
        (5, 4, 0, 10, 1.5),  # always fading
        (10, 4, 0, 10, 1),
        (9.99, 4, 10, 0, 2),  # at once
        (10, 4, 10, 0, 1),
        (20, 4, 10, 0, 0),
        (0, 4, 0, 0, 0),  # all at once
    ],
)
def test_level_of_detail_at_16_px(kimg, initial, stage, fade, lod):
    assert schedule.level_of_detail(kimg, 16, initial, stage, fade) == pytest.approx(lod, abs=1e-9)


@pytest.mark.parametrize("kimg", [0, 900, 1199, 1200, 2100, 5550, 5700, 6000])
def test_the_first_kimg_of_a_level_of_detail(kimg):
    assert schedule.first_kimg(schedule.level_of_detail(kimg, 128), 128) == pytest.approx(kimg)


@pytest.mark.parametrize("kimg, first", [(599, 0), (1700, 1200), (5400, 4800), (1e6, 6000)])
def test_where_nothing_fades_the_first_kimg_is_the_end_of_the_last_fade_in(kimg, first):
    assert schedule.first_kimg(schedule.level_of_detail(kimg, 128), 128) == first


def test_current_resolution_is_the_new_one_from_the_first_moment_of_its_fade_in():
    lods = {5: 4, 4.999: 8, 4.5: 8, 4: 8, 3.999: 16, 1.5: 64, 1: 64, 0.999: 128, 0: 128}
    assert {lod: schedule.current_resolution(lod, 128) for lod in lods} == lods


def test_minibatches_as_published_and_scaled_from_four_gpus():
    four = {4: 2048, 8: 1024, 16: 512, 32: 256, 64: 128, 128: 96, 256: 32}
    one = {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 24, 256: 8}
    assert {res: schedule.default_minibatch(res, 4) for res in four} == four
    assert {res: schedule.default_minibatch(res, 1) for res in one} == one
    assert {res: schedule.default_minibatch(res, 0) for res in one} == one  # a CPU counts as one
    assert schedule.default_minibatch(1024, 1) == 8


def test_ticks_as_published():
    ticks = {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 40}
    assert {res: schedule.default_tick_kimg(res) for res in ticks} == ticks


@pytest.mark.parametrize(
    "kimg, start, warmup, share",
    [(0, 0, 10, 0), (2.5, 0, 10, 0.25), (10, 0, 10, 1), (50, 0, 10, 1), (4.9, 5, 10, 0), (5, 5, 10, 0), (7, 5, 10, 0.2),
     (4.9, 5, 0, 0), (5, 5, 0, 1), (0, 0, 0, 1)],
)  # fmt: skip
def test_penalty_ramp(kimg, start, warmup, share):
    assert schedule.penalty_ramp(kimg, start, warmup) == pytest.approx(share)


def test_layers_and_their_resolutions():
    """1: the 4x4 dense layer, 2: the 4x4 convolution, then two a resolution, 13: the RGB output at 128 px."""
    sizes = [4, 4, 8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 128]
    assert schedule.num_layers(128) == 13
    assert [schedule.layer_resolution(layer, 128) for layer in range(1, 14)] == sizes
    assert schedule.num_layers(4) == 3
    assert [schedule.layer_resolution(layer, 4) for layer in (1, 2, 3)] == [4, 4, 4]
    assert schedule.layers_at(16, [1, 5, 6, 7, 13], 128) == [1, 5, 6]
    assert schedule.layers_at(128, [1, 12, 13], 128) == [1, 12, 13]


@pytest.mark.parametrize(
    "layer, lod, weight",
    [(1, 5, 1), (2, 0, 1), (3, 5, 0), (3, 4.9, 0.1), (4, 4, 1), (9, 2, 0), (9, 1.75, 0.25), (10, 1, 1), (11, 1, 0),
     (12, 0.25, 0.75), (13, 1, 0), (13, 0.25, 0.75), (13, 0, 1)],
)  # fmt: skip
def test_a_layer_joins_the_penalty_as_its_resolution_fades_in(layer, lod, weight):
    assert schedule.layer_weight(layer, lod, 128) == pytest.approx(weight)


@pytest.mark.parametrize("minibatch", [4, 16, 512])
def test_the_averaged_generator_has_a_half_life_of_10_kimg(minibatch):
    assert schedule.ema_decay(minibatch) ** (10000 / minibatch) == pytest.approx(0.5)
