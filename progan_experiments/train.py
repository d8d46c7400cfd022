#!/usr/bin/env python
"""Train a ProGAN: vanilla, with InfoGAN, the Hessian Penalty or OroJaR; from scratch, resumed or fine-tuned."""

import dataclasses
import os
import sys

from experiment_utils import __version__, options, runs
from experiment_utils.errors import Interrupted, OptionError, run_command
from experiment_utils.files import write_json
from experiment_utils.options import at_least, not_negative, option, positive, power_of_two, random_seed
from experiment_utils.weights_and_biases import WandbRun, require_wandb
from progan import cluster, launch, schedule
from progan.dataset import open_dataset
from progan.options import MetricOptions

EXAMPLES = """
  a first run, minutes on a laptop: the CLEVR set that ships with the project, small networks, the Hessian Penalty
    train.py --dataset clevr_1fov_32 --resolution 16 --fmap_base 64 --minibatch 16 --hp_lambda 0.0125 \\
             --stage_kimg 10 --fade_kimg 10 --warmup_kimg 20 --total_kimg 60 --snapshot_kimg 20
  the same with OroJaR in its place, whose values are larger and its weight therefore smaller
    train.py --dataset clevr_1fov_32 --resolution 16 --fmap_base 64 --minibatch 16 --regularizer orojar \\
             --hp_lambda 0.0001 --stage_kimg 10 --fade_kimg 10 --warmup_kimg 20 --total_kimg 60 --snapshot_kimg 20
  the published setting on one GPU, without the penalty
    train.py --dataset edges_and_shoes --hp_lambda 0 --total_kimg 50000
  go on with run 3, from its latest snapshot
    train.py --resume_exp 3
  fine-tune run 3 with the Hessian Penalty, as a new run
    train.py --resume_exp 3 --hp_lambda 0.05 --total_kimg 60000
  fine-tune a published snapshot (download.py clevr_simple_bl fetches it)
    train.py --resume_snapshot clevr_simple_bl --dataset clevr_simple --hp_lambda 0.05 --total_kimg 60000
  on the four GPUs of this machine, or with two processes on its CPU
    train.py --dataset edges_and_shoes --num_gpus 4
    train.py --dataset clevr_1fov_32 --resolution 16 --fmap_base 64 --minibatch 16 --num_cpu_workers 2
  on several machines: the same command once for each GPU, with TF_CONFIG in its environment
    TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}' \\
        train.py --dataset edges_and_shoes
  by Slurm, 2 machines of 4 GPUs (sbatch --nodes 2 --gpus-per-node 4): in the job's script
    export HOSTS=$(for h in $(scontrol show hostnames); do printf '"%s:%s",' $h 2222 $h 2223 $h 2224 $h 2225; done)
    srun --ntasks-per-node 4 bash -c 'TF_CONFIG="{\\"cluster\\": {\\"worker\\": [${HOSTS%,}]}, \\"task\\": {
        \\"type\\": \\"worker\\", \\"index\\": $SLURM_PROCID}}" train.py --dataset edges_and_shoes'
  by Kubernetes, an Indexed Job `gan` of 2 pods with a headless service `gan`
    TF_CONFIG='{"cluster": {"worker": ["gan-0.gan:2222", "gan-1.gan:2222"]}, "task": {
        "type": "worker", "index": '$JOB_COMPLETION_INDEX'}}' train.py --dataset edges_and_shoes
"""

PUBLISHED_HP_LAMBDAS = (0.1, 0.025)
RESUME_FLAGS = ("resume_exp", "resume_snapshot")
PLACES = ("data_dir", "results_dir")  # not kept with a run: it may move
OWN_FLAGS = (  # in which workers may differ: matters of their host, or of worker 0 alone
    "dataset",
    "num_threads",
    "worker_timeout",
    "worker_silence",
    "inception",
    "vgg",
    "dashboard_api",
    "wandb_entity",
)
LOSS_FLAGS = (
    "regularizer",
    "hp_lambda",
    "epsilon",
    "num_rademacher_samples",
    "layers_to_reg",
    "warmup_kimg",
    "hp_start_kimg",
    "infogan_lambda",
    "infogan_nz",
)


# ----------------------------------------------------------------------------------------------------------------------
# Options


def minibatch_sizes(text, resolution):
    """Return {resolution: real images a step} from '16' (at all resolutions up to the full one) or '4:64,8:32'."""
    try:
        if ":" in text:
            sizes = {int(res): int(size) for res, size in (part.split(":") for part in text.split(","))}
        else:
            sizes = {2**r: int(text) for r in range(2, schedule.log2(resolution) + 1)}
    except ValueError:
        raise ValueError("is neither a number nor a list such as 4:64,8:32") from None
    for res, size in sizes.items():
        power_of_two(res)
        if size < 1 or (size > 4 and size % 4):
            raise ValueError("must be a multiple of 4 (the group of the minibatch standard deviation), or 1 to 4")
    return sizes


@dataclasses.dataclass
class TrainingOptions:
    """Those of training itself."""

    dataset: str = option(None, "name of a dataset in --data_dir, of one that ships with the project, or a path", str)
    data_dir: str = option("datasets", "where datasets are found, and shipped ones unpacked")
    results_dir: str = option("results", "where the run's own directory, NNNNN-DESCRIPTION, is made")
    num_gpus: int = option(
        None,
        "GPUs of this machine to use, each by a process of its own; 0: the CPU (default: one if there is one)",
        int,
        check=not_negative,
    )
    num_cpu_workers: int = option(0, "train with so many processes on the CPU instead", check=not_negative)
    worker_timeout: float = option(300.0, "seconds to wait at the start for the other workers", check=positive)
    worker_silence: float = option(
        10.0, "seconds without a sign of life after which a worker counts as lost, and the others stop", check=positive
    )
    num_threads: int = option(0, "CPU threads; 1 makes runs repeat bit for bit; 0: all", check=not_negative)
    seed: int = option(1000, "of every random draw", check=random_seed)

    resolution: int = option(None, "full resolution (default: 128, or the dataset's if lower)", int, check=power_of_two)
    nz: int = option(12, "components of the latent z", check=positive)
    fmap_base: int = option(8192, "feature maps at resolution 2^r: fmap_base / 2^(r-1)...", check=positive)
    fmap_max: int = option(512, "...but at most this many", check=positive)

    total_kimg: float = option(30000.0, "train until so many thousand real images were shown", check=positive)
    initial_resolution: int = option(4, "resolution to start at", check=power_of_two)
    stage_kimg: float = option(600.0, "kimg at each resolution before the next one fades in", check=not_negative)
    fade_kimg: float = option(600.0, "kimg over which a resolution fades in", check=not_negative)
    minibatch: str = option(
        None,
        "real images a step: a number, or by resolution as in 4:64,8:32 (default: the published ones, scaled from 4 "
        "GPUs to --num_gpus)",
        str,
        metavar="N|RES:N,...",
        check=lambda text: minibatch_sizes(text, resolution=4),
    )
    lr: float = option(0.001, "learning rate of Adam, for both players", check=positive)

    regularizer: str = option(
        "hessian_penalty",
        "what --hp_lambda weights: the Hessian Penalty, or its peer OroJaR (Wei et al. 2021), which makes the columns "
        "of G's Jacobian orthogonal",
        choices=tuple(schedule.REGULARIZERS),
    )
    hp_lambda: float = option(
        0.05,
        "weight of the regularizer; 0: none. In units of the unbiased estimator: published weights of the Hessian "
        "Penalty belong to a biased one and are to be multiplied by (k-1)/k, so the published 0.1 and 0.025 are 0.05 "
        "and 0.0125 here",
        check=not_negative,
    )
    epsilon: float = option(
        0.1, "step of its central differences; the Hessian Penalty's size goes with 1/epsilon^4", check=positive
    )
    num_rademacher_samples: int = option(2, "k: directions it samples for each z", check=at_least(2))
    layers_to_reg: list = option(
        None,
        "layers of G that it regularises: 1 is the 4x4 dense one, 2 the 4x4 convolution, then two a resolution, last "
        "the RGB output (default: 1 to 10, as far as the resolution has them)",
        int,
        nargs="+",
        check=positive,
    )
    warmup_kimg: float = option(
        None,
        "kimg over which its weight rises from 0 (default: 0 from scratch, 10000 when fine-tuning)",
        float,
        check=not_negative,
    )
    hp_start_kimg: float = option(0.0, "kimg at which it sets in, for models trained from scratch", check=not_negative)
    infogan_lambda: float = option(0.0, "weight of InfoGAN's regression; 0: none", check=not_negative)
    infogan_nz: int = option(0, "components of z, the first ones, that InfoGAN regresses", check=not_negative)

    resume_exp: int = option(None, "go on with this run's number, or fine-tune it with other losses", int)
    resume_snapshot: str = option("latest", "kimg of the run's snapshot to take, or 'latest', or the path of any")

    tick_kimg: float = option(
        None, "kimg between two reports (default: 40 to 160 by resolution)", float, check=positive
    )
    snapshot_kimg: float = option(
        None, "kimg between two snapshots (default: at the 1st and every 5th report)", float, check=positive
    )
    keep_states: int = option(0, "keep the training state of so many newest snapshots; 0: of all", check=not_negative)
    compute_interp_ticks: int = option(5, "reports between two latent traversal GIFs; 0: none", check=not_negative)
    compute_metrics_ticks: int = option(5, "reports between two evaluations of --metrics", check=positive)
    metrics: list = option([], "metrics to log during training, as evaluate.py --help describes them", str, nargs="*")
    dashboard_api: str = option(
        "tensorboard", "where curves go: wandb is told beside TensorBoard's files", choices=("tensorboard", "wandb")
    )
    wandb_entity: str = option(None, "Weights & Biases account (default: the one logged in)", str)


@dataclasses.dataclass
class TrainOptions(MetricOptions, TrainingOptions):
    """The flags of train.py, in this order: of training, of the metrics."""


def check_combination(chosen):
    """Raise OptionError for flags that contradict each other, or that this version refuses."""
    if chosen.wandb_entity is not None and chosen.dashboard_api != "wandb":
        raise OptionError(f"--wandb_entity {chosen.wandb_entity}: only with --dashboard_api wandb")
    if chosen.dashboard_api == "wandb":
        require_wandb("--dashboard_api wandb")
    if chosen.infogan_nz > chosen.nz:
        raise OptionError(f"--infogan_nz {chosen.infogan_nz}: z has only {chosen.nz} components (--nz)")
    if (chosen.infogan_lambda > 0) != (chosen.infogan_nz > 0):
        raise OptionError("--infogan_lambda and --infogan_nz: InfoGAN needs both greater than 0, or neither")
    if chosen.initial_resolution > chosen.resolution:
        raise OptionError(f"--initial_resolution {chosen.initial_resolution}: above --resolution {chosen.resolution}")
    layers = schedule.num_layers(chosen.resolution)
    for layer in chosen.layers_to_reg:
        if layer > layers:
            raise OptionError(f"--layers_to_reg {layer}: at {chosen.resolution} px G has layers 1 to {layers}")


# ----------------------------------------------------------------------------------------------------------------------
# The command


def main(argv=None):
    chosen = options.parse(TrainOptions, __doc__, EXAMPLES, argv)
    given = options.given_flags(TrainOptions, argv) - set(RESUME_FLAGS)
    resumed = None
    if chosen.resume_exp is not None or chosen.resume_snapshot != "latest":
        resumed = Resumed(chosen, given)
        chosen = resumed.options
        resumed.check_schedule()
    if chosen.dataset is None:
        raise OptionError("--dataset: which one? (dataset_tool.py makes them; clevr_1fov_32 ships with the project)")
    dataset = open_dataset(chosen.dataset, chosen.data_dir)
    if chosen.resolution is None:
        chosen.resolution = min(dataset.resolution, 128)
    if chosen.resolution > dataset.resolution:
        raise OptionError(f"--resolution {chosen.resolution}: {dataset.name} has images of {dataset.resolution} px")
    if chosen.layers_to_reg is None:
        chosen.layers_to_reg = default_layers(chosen.resolution)
    check_combination(chosen)
    if chosen.metrics:
        from progan.metrics.evaluation import parse_metrics

        chosen.metrics = parse_metrics(chosen.metrics)
    minibatch = minibatch_sizes(chosen.minibatch, chosen.resolution) if chosen.minibatch else None
    process = cluster.plan(chosen, given, os.environ, supervised=launch.supervisor() is not None)
    cluster.check_minibatches(process.count, minibatch, chosen.resolution, chosen.initial_resolution)
    if process.to_launch:
        command = [sys.executable, os.path.abspath(__file__), *(sys.argv[1:] if argv is None else argv)]
        return launch.supervise(process.count, command)

    # TensorFlow takes seconds to import: only once everything that can be said without it is said.
    from progan.inference import count_gpus
    from progan.networks import NetworkSpec
    from progan.parallel import Workers

    if process.num_gpus != 0:
        available = min(count_gpus(chosen.num_threads), 1)
        if process.num_gpus is None:
            chosen.num_gpus = process.num_gpus = available
        elif not available:
            raise OptionError(f"--num_gpus {chosen.num_gpus}: TensorFlow finds no GPU here; use 0, the CPU")
    spec = NetworkSpec(
        chosen.resolution, dataset.channels, chosen.nz, chosen.fmap_base, chosen.fmap_max, chosen.infogan_nz
    )
    if resumed is None:
        loss_options, start = loss_options_from_scratch(chosen), None
    else:
        loss_options, start = resumed.loss_options, resumed.start(spec)
    workers = Workers(process.cluster, process.num_gpus, chosen.num_threads)
    settings = common_settings(chosen, loss_options, dataset, start)
    with workers.together(settings, chosen.worker_timeout, chosen.worker_silence):
        run(workers, chosen, given, resumed, dataset, spec, loss_options, start, minibatch, process.num_gpus)
    return 0


def common_settings(chosen, loss_options, dataset, start):
    """Return {name: JSON value}: what several workers must have in common to train together."""
    flags = options.to_json(chosen)
    for name in (*RESUME_FLAGS, *PLACES, *OWN_FLAGS):
        del flags[name]
    return dict(
        flags,
        losses=dataclasses.asdict(loss_options),
        dataset=[dataset.name, len(dataset), dataset.channels],
        snapshot=None if start is None else dataclasses.asdict(start[2]),
        version=__version__,
    )


def run(workers, chosen, given, resumed, dataset, spec, loss_options, start, minibatch, num_gpus):
    """Train as one of the workers, or alone. The first of them keeps the run directory."""
    from progan.training import train

    record = {
        "flags": {name: value for name, value in options.to_json(chosen).items() if name not in RESUME_FLAGS + PLACES},
        "loss": dataclasses.asdict(loss_options),
        "package_version": __version__,
    }
    run_dir, log, wandb, evaluator = None, silent, None, None
    if workers.chief:
        if chosen.metrics:
            evaluator = metrics_evaluator(chosen, dataset, spec, num_gpus)
        run_dir = resumed.run_dir if resumed and resumed.in_place else new_run_dir(chosen)
        write_json(os.path.join(run_dir, "options.json"), record)
        log = runs.Log(os.path.join(run_dir, "log.txt"))
        log(f"run directory {run_dir}")
        place = device_name(num_gpus, workers.count)
        log(f"{dataset.name}: {len(dataset)} images, training at {chosen.resolution} px on {place}")
        for line in notes(chosen, given, loss_options, resumed):
            log(line)
        if chosen.dashboard_api == "wandb":
            again = resume_command(run_dir, chosen)
            wandb = WandbRun(run_dir, chosen.wandb_entity, record["flags"], "--dashboard_api wandb", again)
    try:
        path = train(
            run_dir,
            dataset,
            spec,
            loss_options,
            record,
            log,
            start=start,
            total_kimg=chosen.total_kimg,
            seed=chosen.seed,
            lr=chosen.lr,
            minibatch=minibatch,
            initial_resolution=chosen.initial_resolution,
            stage_kimg=chosen.stage_kimg,
            fade_kimg=chosen.fade_kimg,
            tick_kimg=chosen.tick_kimg,
            snapshot_kimg=chosen.snapshot_kimg,
            interpolation_ticks=chosen.compute_interp_ticks,
            evaluate=None if evaluator is None else lambda sample, _: evaluator.evaluate(sample),
            evaluation_ticks=chosen.compute_metrics_ticks,
            wandb=wandb,
            keep_states=chosen.keep_states,
            num_gpus=num_gpus,
            num_threads=chosen.num_threads,
            workers=workers,
        )
    except Interrupted as stopped:
        if not workers.chief:
            raise
        raise Interrupted(f"{stopped}; go on with: {resume_command(run_dir, chosen)}", stopped.signal_number) from None
    finally:
        if evaluator is not None:
            evaluator.close()
    log(f"done: {path}" if path else f"nothing to do: already beyond {chosen.total_kimg:g} kimg (raise --total_kimg)")


def metrics_evaluator(chosen, dataset, spec, num_gpus):
    """Return an Evaluator that is ready: what is missing for a metric turns up now, not after hours of training."""
    from progan.metrics.evaluation import Evaluator

    evaluator = Evaluator(
        dataset,
        spec,
        chosen.metrics,
        num_images=chosen.num_images,
        num_pairs=chosen.num_pairs,
        inception=chosen.inception,
        vgg=chosen.vgg,
        num_gpus=num_gpus,
        num_threads=chosen.num_threads,
    )
    try:
        evaluator.prepare()
    except BaseException:
        evaluator.close()
        raise
    return evaluator


def silent(line):
    """The log of workers other than the first."""


def default_layers(resolution):
    """Return the layers of G that the penalty regularises by default: not the RGB output, one more at the end."""
    return list(range(1, min(10, schedule.num_layers(resolution) - 1) + 1))


def loss_options_from_scratch(chosen):
    """Return the LossOptions of a new model."""
    from progan.stage import LossOptions

    values = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(LossOptions)}
    values["warmup_kimg"] = chosen.warmup_kimg or 0.0
    return LossOptions(**values)


def new_run_dir(chosen):
    method = chosen.regularizer if chosen.hp_lambda else "infogan" if chosen.infogan_lambda else "vanilla"
    name = os.path.basename(os.path.normpath(chosen.dataset))
    return runs.create_run_dir(chosen.results_dir, f"{name}-{chosen.resolution}px-{method}")


def device_name(num_gpus, workers):
    if workers > 1:
        return f"{workers} workers, each with a GPU" if num_gpus else f"the CPU, by {workers} workers"
    return "a GPU" if num_gpus else "the CPU"


def resume_command(run_dir, chosen):
    command = f"train.py --resume_exp {int(os.path.basename(run_dir).split('-')[0])}"
    for name in ("results_dir", "data_dir"):
        if getattr(chosen, name) != getattr(TrainOptions, name):
            command += f" --{name} {getattr(chosen, name)}"
    return command


def notes(chosen, given, loss_options, resumed):
    """Return the lines that say what a user might not expect."""
    lines = list(resumed.notes) if resumed else []
    name = loss_options.regularizer
    if "hp_lambda" in given and name == "hessian_penalty" and chosen.hp_lambda in PUBLISHED_HP_LAMBDAS:
        k = chosen.num_rademacher_samples
        lines.append(
            f"note: {chosen.hp_lambda:g} is a published weight, of a biased estimator; "
            f"the same strength here is --hp_lambda {chosen.hp_lambda * (k - 1) / k:g}"
        )
    if name == "orojar" and loss_options.hp_lambda == TrainOptions.hp_lambda:
        lines.append(
            f"note: --hp_lambda {loss_options.hp_lambda:g} suits the Hessian Penalty; OroJaR's values are thousands of "
            "times as large, and grow with the square of an activation's size (small networks: begin with 1e-4)"
        )
    if loss_options.hp_lambda and (loss_options.warmup_kimg or loss_options.hp_start_kimg):
        lines.append(
            f"{schedule.REGULARIZERS[name]}'s weight rises from 0 at {loss_options.hp_start_kimg:g} kimg to "
            f"{loss_options.hp_lambda:g} over {loss_options.warmup_kimg:g} kimg"
        )
    return lines


# ----------------------------------------------------------------------------------------------------------------------
# Resuming


class Resumed:
    """A snapshot to go on from, and what of the command line still applies.

    The flags of its run are the defaults now. The same losses go on in the same run directory from its newest snapshot.
    Other losses (fine-tuning), an older snapshot or one given by its path start a new run.
    """

    def __init__(self, chosen, given):
        from progan.models import find_models
        from progan.snapshot import find_snapshot, load_snapshot
        from progan.stage import LossOptions

        which = chosen.resume_snapshot
        self.run_dir = None
        if chosen.resume_exp is not None:
            self.run_dir = runs.find_run_dir(chosen.results_dir, chosen.resume_exp)
        if self.run_dir is not None and (which == "latest" or which.isdigit()):
            self.path = find_snapshot(self.run_dir, which if which == "latest" else int(which))
        elif which.isdigit():
            raise OptionError(f"--resume_snapshot {which}: of which run? (--resume_exp)")
        else:
            ((_, self.path),) = find_models([which], flags=("--resume_snapshot", ""))
        self.snapshot = load_snapshot(self.path)
        self.notes = [f"from {self.path}, {self.snapshot.kimg:g} kimg"]
        self.recorded = {part: self.snapshot.options.get(part) for part in ("flags", "loss")}
        self.options = self._merged_options(chosen, given)
        if self.recorded["loss"] is not None:  # an older version may not have had all of them
            self.recorded["loss"] = dataclasses.asdict(LossOptions(**self.recorded["loss"]))
        changed = self._changed_losses(given)
        self._continues = not changed and self.recorded["loss"] is not None
        in_its_run = self.run_dir is not None and os.path.dirname(self.path) == self.run_dir
        newest = in_its_run and self.path == find_snapshot(self.run_dir)
        self.in_place = self._continues and newest
        self.loss_options = self._loss_options(given)
        if changed:
            self.notes.append(f"other losses than that run's ({', '.join(changed)}): a new run")
        elif in_its_run and not newest:
            self.notes.append("that run has newer snapshots, which stay as they are: a new run")

    def _merged_options(self, chosen, given):
        """The flags given, then those of the snapshot's run, then the defaults; the networks are the snapshot's."""
        merged = options.to_json(chosen)
        # A published snapshot has grown already, whatever its kimg count, which is not in the file.
        merged["initial_resolution"] = schedule.current_resolution(self.snapshot.lod, self.snapshot.spec.resolution)
        merged.update(self.recorded["flags"] or {})
        for name in ("nz", "resolution", "fmap_base", "fmap_max", "infogan_nz"):
            mine, theirs = getattr(chosen, name), getattr(self.snapshot.spec, name)
            added = name == "infogan_nz" and 0 in (mine, theirs)  # the Q head can come and go
            if name in given and mine != theirs and not added:
                raise OptionError(f"--{name} {mine}: {self.path} has {name} {theirs}")
            merged[name] = theirs
        if self.recorded["flags"] is None and merged["infogan_nz"] and not given & {"infogan_nz", "infogan_lambda"}:
            raise OptionError(
                f"--infogan_lambda: {self.path} has InfoGAN's Q head for {merged['infogan_nz']} components; give 1 to "
                "train it further, as published, or --infogan_nz 0 to leave it out"
            )
        merged.update({name: getattr(chosen, name) for name in given})
        merged.update(
            results_dir=chosen.results_dir, data_dir=chosen.data_dir, resume_exp=None, resume_snapshot="latest"
        )
        if merged["layers_to_reg"] is None:  # a published snapshot: its flags are not recorded
            merged["layers_to_reg"] = default_layers(merged["resolution"])
        return options.validate(options.from_json(TrainOptions, merged, self.path))

    def _changed_losses(self, given):
        stored, resolved = self.recorded["flags"] or {}, self.recorded["loss"]
        if resolved is None:
            return []
        names = [name for name in LOSS_FLAGS if name in given]
        return [n for n in names if getattr(self.options, n) not in (stored.get(n), resolved.get(n, stored.get(n)))]

    def _loss_options(self, given):
        """The penalty's ramp keeps its origin, unless a model trained without it begins to be trained with it."""
        from progan.stage import LossOptions

        stored = self.recorded["loss"]
        if self._continues:
            return LossOptions(**stored)
        if stored is None:  # a published snapshot: what it was trained with is not in the file
            self.notes.append("its losses are not recorded: taken for a model trained without the Hessian Penalty")
            stored = dataclasses.asdict(loss_options_from_scratch(self.options))
            values = dict(stored)
            stored["hp_lambda"] = 0.0
        else:
            values = {name: getattr(self.options, name) if name in given else stored[name] for name in stored}
        if stored["hp_lambda"] == 0 and values["hp_lambda"] > 0:
            begin = max(self.snapshot.kimg, self.options.hp_start_kimg if "hp_start_kimg" in given else 0.0)
            values["hp_start_kimg"] = begin
            if "warmup_kimg" not in given:
                values["warmup_kimg"] = 10000.0
            self.notes.append(f"fine-tuning: the penalty's ramp is counted from {begin:g} kimg")
            if "hp_start_kimg" in given and begin > self.options.hp_start_kimg:
                self.notes.append(
                    f"note: --hp_start_kimg {self.options.hp_start_kimg:g} lies before this snapshot, so it is not used"
                )
        return LossOptions(**values)

    def check_schedule(self):
        """Raise OptionError where nothing is left to train in a new run; note it where growth jumps."""
        chosen, kimg = self.options, self.snapshot.kimg
        if not self.in_place and kimg >= chosen.total_kimg:
            raise OptionError(f"--total_kimg {chosen.total_kimg:g}: {self.path} has {kimg:g} kimg already; raise it")
        if self.recorded["flags"] is None:
            before = self.snapshot.lod
        else:
            before = level_of_detail(kimg, self.recorded["flags"])
        after = level_of_detail(kimg, vars(chosen))
        if abs(after - before) > 1e-6:
            self.notes.append(
                f"note: by --initial_resolution, --stage_kimg and --fade_kimg growth goes on at lod {after:.2f}; "
                f"the snapshot was at {before:.2f}"
            )

    def start(self, spec):
        """Return (networks, optimiser slots, Progress) for `train`."""
        from progan.snapshot import load_state
        from progan.training import Progress, new_networks

        theirs = self.snapshot.spec.channels
        if spec.channels != theirs:
            raise OptionError(
                f"--dataset {self.options.dataset}: {spec.channels} channel(s) an image, {self.path} has {theirs}"
            )
        # Weights that the snapshot lacks are those of a Q head that it did not have.
        networks = new_networks(spec, self.options.seed)
        for net, weights in networks.items():
            weights.update({name: value for name, value in self.snapshot.networks[net].items() if name in weights})
        if self._continues and self.snapshot.state_name is not None:
            directory = os.path.dirname(self.path)
            if os.path.exists(os.path.join(directory, self.snapshot.state_name)):
                slots, counters = load_state(directory, self.snapshot.state_name)
                return networks, slots, Progress(**counters)
            self.notes.append(f"no {self.snapshot.state_name}: the optimisers start anew")
        images = self.snapshot.images_shown
        return networks, None, Progress(images_shown=images, tick_start_images=images, lod=self.snapshot.lod)


def level_of_detail(kimg, flags):
    """Return lod at `kimg` by the flags {name: value} of a run."""
    names = ("resolution", "initial_resolution", "stage_kimg", "fade_kimg")
    return schedule.level_of_detail(kimg, *(flags[name] for name in names))


if __name__ == "__main__":
    run_command(launch.reporting(main))
