"""The training loop: what it builds when, what it feeds, reports and saves."""

import os
import signal

import numpy as np
import pytest
from progan_helpers import random_networks, read_scalars

from experiment_utils.errors import Interrupted, TrainingError, UserError
from progan import training
from progan.networks import NetworkSpec
from progan.snapshot import list_snapshots, load_snapshot, load_state
from progan.stage import LossOptions, StageKey
from progan.training import Progress, new_networks, train


def losses(**changes):
    values = dict(
        hp_lambda=0.0, epsilon=0.1, num_rademacher_samples=2, layers_to_reg=[1], warmup_kimg=0, hp_start_kimg=0,
        infogan_lambda=0,
    )  # fmt: skip
    return LossOptions(**dict(values, **changes))


class FakeDataset:
    """As many images as one likes; remembers which were asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 10

    def images(self, resolution, indices):
        return np.zeros([len(indices), resolution, resolution, 3], np.uint8)

    def minibatch(self, resolution, seed, images_shown, size, part):
        self.asked.append((resolution, images_shown, size))
        return self.images(resolution, [0] * size)


@pytest.fixture
def stages(monkeypatch):
    """The stages that the loop builds, without TensorFlow: [(key, slots, [train_step's arguments])]."""
    built = []

    class FakeStage:
        results = staticmethod(lambda step: {"loss/D": 1.0, "loss/G": float(step), "skipped": 0})

        def __init__(self, key, spec, loss_options, networks, slots, lr, num_gpus, num_threads, workers):
            self.key, self.steps, self.number = key, [], len(built)
            built.append((key, slots, self.steps))

        def train_step(self, images, lod, hp_weight, seed, step):
            self.steps.append((lod, hp_weight, step))
            return dict(FakeStage.results(step))

        def sampler(self, lod):
            return lambda z, minibatch=100, dtype=np.uint8: np.zeros([len(z), 4, 4, 3], dtype)

        def describe(self):
            return "a stage"

        def read(self, networks):
            pass

        def read_slots(self):
            return {"slots of stage": np.float32(self.number)}

        def close(self):
            pass

    monkeypatch.setattr(training, "Stage", FakeStage)
    return type("Recorded", (), {"built": built, "kind": FakeStage})


def run(directory, spec, loss_options, dataset=None, **options):
    return train(
        str(directory), dataset or FakeDataset(), spec, loss_options, {"flags": {}}, lambda line: None, **options
    )


GROWING = dict(
    spec=NetworkSpec(resolution=16, nz=2, fmap_base=4), minibatch={4: 4, 8: 4, 16: 4}, stage_kimg=0.032,
    fade_kimg=0.064, interpolation_ticks=0, total_kimg=0.208,
)  # fmt: skip


def test_a_graph_for_each_stage_and_new_optimisers_where_a_fade_in_begins_or_ends(tmp_path, stages):
    """A phase is 32 images at a resolution and 64 of fading; the schedule is looked up every 4 x 4 images."""
    run(
        tmp_path,
        loss_options=losses(hp_lambda=0.5, layers_to_reg=[3], hp_start_kimg=0.064, warmup_kimg=0.064),
        **GROWING,
    )
    expected = [
        # key: resolution, fading, penalised; where the optimisers' slots come from; lod at each look-up
        ((4, False, False), None, [2, 2, 2]),
        ((8, True, False), None, [1.75]),
        ((8, True, True), {"slots of stage": 1}, [1.5, 1.25]),  # only the penalty sets in
        ((8, False, True), None, [1, 1, 1]),
        ((16, True, True), None, [0.75, 0.5, 0.25]),
        ((16, False, True), None, [0]),
    ]
    assert [(key, slots) for key, slots, _ in stages.built] == [
        (StageKey(*key, 4), slots) for key, slots, _ in expected
    ]
    for (_, _, steps), (_, _, lods) in zip(stages.built, expected):
        assert [lod for lod, _, _ in steps] == pytest.approx(np.repeat(lods, 4))
    every = [step for _, _, steps in stages.built for step in steps]
    assert [step for _, _, step in every] == list(range(52))
    images = 16 * (np.arange(52) // 4)
    assert [weight for _, weight, _ in every] == pytest.approx(0.5 * np.clip((images - 64) / 64, 0, 1))


def test_no_penalty_where_none_of_its_layers_has_grown_yet(tmp_path, stages):
    run(tmp_path, loss_options=losses(hp_lambda=1, layers_to_reg=[7]), **GROWING)
    assert [key.penalised for key, _, _ in stages.built] == [key.resolution == 16 for key, _, _ in stages.built]


def test_the_loop_asks_for_images_by_how_many_were_shown(tmp_path, stages):
    dataset = FakeDataset()
    options = dict(GROWING, minibatch={4: 8, 8: 4, 16: 4}, dataset=dataset, total_kimg=0.08)
    run(tmp_path, loss_options=losses(), **options)
    assert dataset.asked == [(4, shown, 8) for shown in range(0, 64, 8)] + [(8, shown, 4) for shown in range(64, 80, 4)]


def test_published_ticks_and_snapshots(tmp_path, stages):
    """At 4 px: a report every 160 kimg; snapshots at the first, every fifth and at the end."""
    spec = NetworkSpec(resolution=4, nz=2, fmap_base=4)
    path = run(tmp_path, spec, losses(), total_kimg=1000, interpolation_ticks=0)
    ticks = sorted(read_scalars(tmp_path)["progress/kimg"])
    # Decisions come every 4 x 512 images; a tick is the first one 160,000 images or more after the last tick.
    step = 4 * 512
    assert ticks == [n * 79 * step for n in range(1, 7)] + [489 * step]
    kimgs = [number * step // 1000 for number in (79, 5 * 79, 489)]
    assert list(list_snapshots(str(tmp_path))) == kimgs and path == list_snapshots(str(tmp_path))[kimgs[-1]]
    snapshot = load_snapshot(path)
    assert snapshot.images_shown == 489 * step and snapshot.lod == 0 and snapshot.options == {"flags": {}}
    names = set(os.listdir(str(tmp_path)))
    assert {"reals.png", "fakes000000.png"} | {"fakes%06d.png" % kimg for kimg in kimgs} <= names


def test_snapshots_every_so_many_kimg(tmp_path, stages):
    spec = NetworkSpec(resolution=4, nz=2, fmap_base=4)
    run(tmp_path, spec, losses(), total_kimg=7, minibatch={4: 125}, snapshot_kimg=2, tick_kimg=1, interpolation_ticks=0)
    assert list(list_snapshots(str(tmp_path))) == [2, 4, 6, 7]


@pytest.mark.parametrize("keep, expected", [(0, 4), (2, 2)])
def test_training_states_may_be_dropped(tmp_path, stages, keep, expected):
    spec = NetworkSpec(resolution=4, nz=2, fmap_base=4)
    run(
        tmp_path,
        spec,
        losses(),
        total_kimg=4,
        minibatch={4: 125},
        snapshot_kimg=1,
        keep_states=keep,
        interpolation_ticks=0,
    )
    snapshots = [load_snapshot(path) for path in list_snapshots(str(tmp_path)).values()]
    states = sorted(name for name in os.listdir(str(tmp_path)) if name.startswith("training-state"))
    assert len(snapshots) > expected or keep == 0
    assert states == [snapshot.state_name for snapshot in snapshots][-len(states) :] and len(states) >= expected
    assert keep == 0 or len(states) == keep


def test_reported_losses_are_means_since_the_last_report(tmp_path, stages):
    spec = NetworkSpec(resolution=4, nz=2, fmap_base=4)
    stages.kind.results = lambda step: {"loss/D": 2.0, "loss/G": float(step), "skipped": int(step in (1, 5))}
    run(tmp_path, spec, losses(), total_kimg=0.064, minibatch={4: 4}, tick_kimg=0.032, interpolation_ticks=0)
    scalars = read_scalars(tmp_path)
    assert scalars["loss/G"] == {32: np.mean(range(8)), 64: np.mean(range(8, 16))}
    assert scalars["loss/D"] == {32: 2, 64: 2}
    assert scalars["progress/skipped_updates"] == {32: 2, 64: 2}
    assert scalars["progress/kimg"] == pytest.approx({32: 0.032, 64: 0.064})
    assert scalars["progress/lod"] == {32: 0, 64: 0} and scalars["progress/minibatch"] == {32: 4, 64: 4}


@pytest.mark.parametrize("value, said", [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")])
def test_a_loss_that_is_not_finite_stops_and_names_step_and_loss(tmp_path, stages, value, said):
    spec = NetworkSpec(resolution=4, nz=2, fmap_base=4)
    stages.kind.results = lambda step: {"loss/D": 1.0, "loss/G": value if step == 21 else 0.0, "skipped": 0}
    with pytest.raises(TrainingError, match=rf"step 22: loss/G is {said};.*snapshot is untouched"):
        run(tmp_path, spec, losses(), total_kimg=0.2, minibatch={4: 4}, snapshot_kimg=0.032, interpolation_ticks=0)
    (path,) = list_snapshots(str(tmp_path)).values()
    assert load_snapshot(path).images_shown == 64


def test_the_training_state_holds_where_the_loop_stands(tmp_path, stages):
    spec = NetworkSpec(resolution=4, nz=2, fmap_base=4)
    path = run(tmp_path, spec, losses(), total_kimg=0.064, minibatch={4: 4}, tick_kimg=0.032, interpolation_ticks=0)
    tensors, counters = load_state(str(tmp_path), load_snapshot(path).state_name)
    assert Progress(**counters) == Progress(
        images_shown=64, step=16, tick=2, tick_start_images=64, snapshot_images=64, lod=0.0, skipped_updates=0, sums={}
    )
    assert tensors == {"slots of stage": 0}


def test_going_on_takes_optimisers_and_counters_over(tmp_path, stages):
    spec = NetworkSpec(resolution=16, nz=2, fmap_base=4)
    networks, slots = random_networks(spec), {"v": np.float32(1)}

    def go_on(lod):
        state = Progress(images_shown=64, step=16, lod=lod, sums={"loss/G": [100.0, 2]}, tick_start_images=32)
        options = dict(GROWING, total_kimg=0.08, tick_kimg=0.048)
        run(tmp_path, loss_options=losses(), start=(networks, slots, state), **options)
        key, given, steps = stages.built.pop()
        assert (key.resolution, key.fading) == (8, True)
        assert [step for _, _, step in steps] == [16, 17, 18, 19]
        return given

    assert go_on(lod=1.75) is slots  # the same fade-in
    assert read_scalars(tmp_path)["loss/G"] == {80: pytest.approx((100 + 16 + 17 + 18 + 19) / 6)}
    assert go_on(lod=2.0) is None  # it has begun since
    assert go_on(lod=1.0) is None


def test_metrics_that_cannot_be_had_do_not_end_the_training(tmp_path, stages):
    def evaluate(sample, images_shown):
        raise UserError("the process that extracts features was killed")

    lines = []
    options = dict(total_kimg=0.128, minibatch={4: 16}, tick_kimg=0.064, evaluate=evaluate, evaluation_ticks=1)
    path = train(str(tmp_path), FakeDataset(), NetworkSpec(4), losses(), {"flags": {}}, lines.append, **options)
    assert load_snapshot(path).images_shown == 128
    said = [line for line in lines if "the process that extracts features was killed" in line]
    assert len(said) == 2 and "training goes on" in said[0]


def test_a_signal_during_metrics_ends_them_and_saves(tmp_path, stages):
    images = []

    def evaluate(sample, images_shown):
        for _ in range(1000):
            images.append(sample(np.zeros([1, 12])))
            if len(images) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return {"never": 0.0}

    with pytest.raises(Interrupted, match=r"signal 15; saved .*000\.safetensors"):
        run(
            tmp_path, NetworkSpec(4), losses(), total_kimg=1, minibatch={4: 16}, tick_kimg=0.128, evaluate=evaluate,
            evaluation_ticks=2,
        )  # fmt: skip
    assert len(images) == 3
    (path,) = list_snapshots(str(tmp_path)).values()
    assert load_snapshot(path).images_shown == 256
    assert "never" not in read_scalars(str(tmp_path))


def test_beyond_the_end_nothing_is_done(tmp_path, stages):
    spec = NetworkSpec(resolution=4, nz=2, fmap_base=4)
    state = Progress(images_shown=64, lod=0.0)
    assert run(tmp_path, spec, losses(), total_kimg=0.064, start=(new_networks(spec, 0), None, state)) is None
    assert not stages.built and not list_snapshots(str(tmp_path))


def test_new_networks_depend_on_the_seed_and_the_average_starts_as_the_generator():
    spec = NetworkSpec(resolution=8, nz=2, fmap_base=16)
    networks, again, other = (new_networks(spec, seed) for seed in (0, 0, 1))
    for net in networks:
        for name, value in networks[net].items():
            np.testing.assert_array_equal(again[net][name], value)
            assert name.endswith("/bias") or not np.array_equal(other[net][name], value)
    assert networks["Gs"] is not networks["G"]
    for name, value in networks["G"].items():
        np.testing.assert_array_equal(networks["Gs"][name], value)
