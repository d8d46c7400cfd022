"""The training loop: grow the networks, alternate D and G, average G, report, save.

One static graph is built for each stage (a resolution, fading in or not, with or without the penalty), and thrown away
when the stage ends; weights and optimiser slots are carried over as arrays. Every random draw is made here, from
(seed, step), and fed: on one CPU thread the same options give the same bits, also after a resume.

Several workers (parallel.py) run this loop in step. Each looks at its part of the images; the first one alone reports
and saves, while the others wait for it at the next collective.
"""

import dataclasses
import math
import re
import time

import numpy as np

from experiment_utils.errors import Interrupted, TrainingError, UserError
from experiment_utils.runs import progress, stop_signals
from progan import schedule
from progan.networks import initial_weights
from progan.parallel import Workers
from progan.reporting import Reporter
from progan.snapshot import Snapshot, network_shapes, prune, save_snapshot, save_state, snapshot_path
from progan.stage import Stage, StageKey

MINIBATCHES_PER_DECISION = 4  # the schedule is looked up once for so many steps

INITIAL_G, INITIAL_D = 100, 101  # what a draw of first weights is for: the last part of its seed


@dataclasses.dataclass
class Progress:
    """Where the loop stands: with the weights and the optimisers' slots, all that a resume needs."""

    images_shown: int = 0
    step: int = 0
    tick: int = 0
    tick_start_images: int = 0
    snapshot_images: int = -1  # images shown at the last snapshot of the schedule
    lod: float = None  # of the last step
    skipped_updates: int = 0
    sums: dict = dataclasses.field(default_factory=dict)  # {scalar: [sum, count]} since the last report


def train(
    run_dir,  # where everything goes; not used by workers other than the first
    dataset,  # experiment_utils.datasets.Dataset
    spec,  # NetworkSpec
    loss_options,  # LossOptions
    options,  # {name: value}: kept in each snapshot
    log,  # called with each line for the user
    start=None,  # (Snapshot, optimiser slots, Progress) to go on from; None: new networks
    total_kimg=30000,  # stop after so many thousand real images
    seed=1000,  # of every random draw
    lr=1e-3,  # Adam's learning rate, both players
    minibatch=None,  # {resolution: real images a step}; others: the published ones
    initial_resolution=4,
    stage_kimg=600,  # kimg at a resolution before the next one fades in...
    fade_kimg=600,  # ...and kimg that this takes
    tick_kimg=None,  # kimg between two reports; None: the published ones
    snapshot_kimg=None,  # kimg between two snapshots; None: at report 1 and every 5th
    interpolation_ticks=5,  # reports between two latent traversals; 0: none
    evaluate=None,  # called with (sample, images shown) every `evaluation_ticks`; returns {name: number} to log
    evaluation_ticks=5,
    wandb=None,  # experiment_utils.weights_and_biases.WandbRun that is told what TensorBoard is
    keep_states=0,  # newest training states to keep; 0: all
    num_gpus=0,
    num_threads=0,  # CPU threads; 0: as TensorFlow likes
    workers=None,  # parallel.Workers, connected; None: this process alone
):
    """Train until `total_kimg`. Returns the path of the last snapshot; None on workers other than the first.

    Raises TrainingError where a loss is not finite (no snapshot is written then), Interrupted after a SIGINT or SIGTERM
    (one is), OSError where the disk refuses (what was saved before stays).
    """
    # Initialise.
    if start is None:
        networks = new_networks(spec, seed)
        slots, state = None, Progress()
    else:
        networks, slots, state = start
    workers = workers or Workers(None, num_gpus, num_threads)
    stage, reporter = None, None
    if workers.chief:
        prune(run_dir, keep_states)
        reporter = Reporter(run_dir, dataset, spec, seed, state.images_shown, wandb)
    seconds, images_timed = 0.0, 0  # of training alone, since the last report
    total_images = int(total_kimg * 1000)

    def lod_at(images):
        return schedule.level_of_detail(images / 1000, spec.resolution, initial_resolution, stage_kimg, fade_kimg)

    def save():
        """Write the training state, then the snapshot that names it."""
        stage.read(networks)
        state_name = save_state(run_dir, state.images_shown, stage.read_slots(), dataclasses.asdict(state))
        path = snapshot_path(run_dir, state.images_shown)
        save_snapshot(path, Snapshot(spec, networks, state.lod, state.images_shown, options, state_name))
        prune(run_dir, keep_states)
        return path

    bar = progress(
        total=total_kimg,
        initial=min(state.images_shown / 1000, total_kimg),
        desc="training",
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:g} kimg [{elapsed}<{remaining}{postfix}]",
        disable=None if workers.chief else True,  # None: where there is no terminal, the lines of the log are enough
    )
    path = None
    with stop_signals() as stop, bar:
        while state.images_shown < total_images:
            # Choose what this stage of growing asks for.
            kimg = state.images_shown / 1000
            lod = lod_at(state.images_shown)
            resolution = schedule.current_resolution(lod, spec.resolution)
            layers = schedule.layers_at(resolution, loss_options.layers_to_reg, spec.resolution)
            penalised = bool(layers) and loss_options.hp_lambda > 0 and kimg >= loss_options.hp_start_kimg
            ramp = schedule.penalty_ramp(kimg, loss_options.hp_start_kimg, loss_options.warmup_kimg)
            hp_weight = loss_options.hp_lambda * ramp
            size = (minibatch or {}).get(resolution) or schedule.default_minibatch(resolution, workers.count)
            key = StageKey(resolution, fading=lod % 1 > 0, penalised=penalised, minibatch=size)
            if stage is None or stage.key != key:
                if stage is not None:
                    stage.read(networks)
                    slots = stage.read_slots()
                    stage.close()
                if state.lod is not None and _rounded(state.lod) != _rounded(lod):
                    slots = None  # a fade-in begins or ends: the optimisers start anew
                stage = Stage(key, spec, loss_options, networks, slots, lr, num_gpus, num_threads, workers)
                log(stage.describe())
                if state.step == 0 and workers.chief:
                    reporter.reals()
                    reporter.fakes(stage.sampler(lod), state.images_shown)

            # Train.
            state.lod = lod
            begin = time.time()
            for _ in range(MINIBATCHES_PER_DECISION):
                images = dataset.minibatch(resolution, seed, state.images_shown, size, workers.part)
                values = stage.train_step(images, lod, hp_weight, seed, state.step)
                state.step += 1
                state.images_shown += size
                _check_finite(values, state.step)
                state.skipped_updates += int(values.pop("skipped"))
                for name, value in values.items():
                    total, count = state.sums.get(name, (0.0, 0))
                    state.sums[name] = [total + float(value), count + 1]
            seconds += time.time() - begin
            images_timed += MINIBATCHES_PER_DECISION * size
            seconds_per_kimg = 1000 * seconds / images_timed
            bar.set_postfix_str(f"{seconds_per_kimg:.2f} s/kimg, {resolution}x{resolution}", refresh=False)
            bar.update(min(state.images_shown / 1000, total_kimg) - bar.n)

            # Report and save.
            done = state.images_shown >= total_images
            tick_images = 1000 * (tick_kimg or schedule.default_tick_kimg(resolution))
            if snapshot_kimg is not None:
                tick_images = min(tick_images, 1000 * snapshot_kimg)
            if done or state.images_shown >= state.tick_start_images + tick_images:
                state.tick += 1
                state.tick_start_images = state.images_shown
                scalars = {name: total / count for name, (total, count) in state.sums.items()}
                scalars.update(
                    {
                        "progress/kimg": state.images_shown / 1000,
                        "progress/lod": lod,
                        f"progress/{loss_options.regularizer}_weight": hp_weight,
                        "progress/minibatch": size,
                        "progress/skipped_updates": state.skipped_updates,
                        "timing/seconds_per_kimg": seconds_per_kimg,
                    }
                )
                state.sums, seconds, images_timed = {}, 0.0, 0
                if snapshot_kimg is None:
                    due = done or state.tick == 1 or state.tick % 5 == 0
                else:
                    due = done or state.images_shown >= state.snapshot_images + 1000 * snapshot_kimg
                if due:
                    state.snapshot_images = state.images_shown
                if workers.chief:
                    sample = stage.sampler(lod)
                    scalars.update(reporter.diagonalness(sample))
                    reporter.scalars(scalars, state.images_shown)
                    log(_line(state, scalars, lod, resolution, loss_options.regularizer))
                    if interpolation_ticks and state.tick % interpolation_ticks == 0:
                        reporter.traversal(sample, state.images_shown)
                    if evaluate is not None and (done or state.tick % evaluation_ticks == 0):
                        values = _evaluated(evaluate, sample, state.images_shown, stop, log)
                        if values:
                            reporter.scalars(values, state.images_shown)
                            log(_metrics_line(values))
                    if due:
                        reporter.fakes(sample, state.images_shown)
                        path = save()
            received = workers.agree(stop.received)
            if received is not None and not done:
                if workers.chief and state.snapshot_images != state.images_shown:
                    path = save()  # beside the schedule, which a resumed run keeps to
                workers.agree()  # the others stay until it is saved
                raise Interrupted(f"stopped by signal {received}; saved {path or 'by worker 0'}", received)
    if workers.chief:
        reporter.close()
    if stage is not None:
        stage.close()
    return path


def new_networks(spec, seed):
    """Return {'G' | 'D' | 'Gs': {name: array}} before training; Gs is a copy of G."""
    shapes = network_shapes(spec)
    G = initial_weights(shapes["G"], np.random.RandomState([seed, 0, INITIAL_G]))
    D = initial_weights(shapes["D"], np.random.RandomState([seed, 0, INITIAL_D]))
    return {"G": G, "D": D, "Gs": dict(G)}


def _rounded(lod):
    return math.floor(lod), math.ceil(lod)


class _Stopped(Exception):  # noqa: N818 - it is no error
    """A signal arrived while metrics were computed."""


def _evaluated(evaluate, sample, images_shown, stop, log):
    """Return the metrics, {name: number}; none where a signal arrives meanwhile, or they cannot be had.

    They may take hours, and need another process: neither is worth losing what was trained since the last snapshot.
    """

    def until_stopped(*arguments, **keywords):
        if stop.received is not None:
            raise _Stopped
        return sample(*arguments, **keywords)

    try:
        return evaluate(until_stopped, images_shown)
    except _Stopped:
        log("  stopped while metrics were computed: they are left out (evaluate.py computes those of a snapshot)")
    except (UserError, OSError) as problem:
        log(f"  no metrics this time, training goes on: {problem}")
    return {}


def _check_finite(values, step):
    for name, value in values.items():
        if not np.isfinite(value):
            raise TrainingError(
                f"step {step}: {name} is {value}; training stopped, the last snapshot is untouched "
                "(resume from it with a lower --lr or --hp_lambda)"
            )


def _line(state, scalars, lod, resolution, regularizer):
    penalty = sum(value for name, value in scalars.items() if name.startswith(f"{regularizer}/"))
    return (
        f"tick {state.tick:<4d} kimg {state.images_shown / 1000:<9.1f} lod {lod:.2f} ({resolution}x{resolution})  "
        f"{scalars['timing/seconds_per_kimg']:.2f} s/kimg  loss D {scalars['loss/D']:.3f} G {scalars['loss/G']:.3f}"
        + (f"  {'penalty' if regularizer == 'hessian_penalty' else regularizer} {penalty:.4g}" if penalty else "")
        + f"  diagonal-ness {scalars['diagonalness/energy_share']:.3f}"
        + (f"  skipped updates {state.skipped_updates}" if state.skipped_updates else "")
    )


def _metrics_line(values):
    """The metrics but for those of every component of z."""
    return "".join(f"  {name} {value:.5g}" for name, value in values.items() if not re.search(r"/z\d+$", name))
