"""Directions by the Hessian Penalty (Peebles et al. 2020): the objectives, one step, and the loop around it.

For a frozen generator G, w -> G(z + wQ) is a generator of its own: it has one component for each direction, a row of
the orthonormal Q. Its Hessian Penalty, taken with respect to w, is low when no direction changes what another one does.
Adam lowers it over A, of which Q is the orthonormalisation. Every step draws

    z ~ N(0, I),  w = (one-hot of a direction, uniform) · (a distance, uniform in [−path_size, path_size])

Every draw is made on the CPU from (seed, step): so a CPU and a GPU see the same numbers, several processes share one
batch, and a resumed run continues with the same bits (on one CPU thread).
"""

import collections
import dataclasses
import math
import os
import time

import torch

from biggan import directions
from biggan.parallel import Workers
from experiment_utils.errors import Interrupted, OptionError, SnapshotError, TrainingError, UserError
from experiment_utils.files import load_tensors, save_tensors
from experiment_utils.runs import progress, stop_signals
from hessian_penalty_pytorch import check_generator, full_float32, hessian_penalty, orojar_penalty

STATE_FORMAT = "direction-discovery-1"
BATCH, PROBE = 2, 3  # what a draw is for: the last part of its seed
PARTS = 4  # that a batch is worked through in, where it can be divided so: a quarter of the memory
REPORT_EVERY = 100  # steps
PROBE_EVERY, PROBE_SAMPLES = 500, 64  # steps; samples, at least, for the diagonal-ness

# ----------------------------------------------------------------------------------------------------------------------
# Objectives


def penalty(G, Q, z, w, y, epsilon=0.1, k=2, directions=None):
    """The Hessian Penalty of w -> G(z + wQ, y) at w, averaged over samples and the elements of the image.

    :param G: function of z [N, dim_z] and y (int64 [N], or None) that returns images [N, ...].
    :param Q: [ndirs, dim_z]; the value is differentiable with respect to it.
    :param z: [N, dim_z].
    :param w: [N, ndirs], positions along the directions.
    :param directions: [k, N, ndirs] of ±1, the draws of the estimator; None: drawn by PyTorch's own generator.
    """
    return hessian_penalty(in_w(G, Q, z, y), w, k, epsilon, reduction=torch.mean, directions=directions)


def in_w(G, Q, z, y):
    """The function w -> G(z + wQ, y)."""
    return lambda w: G(z + w @ Q, y)


def orojar(G, Q, z, w, y, epsilon=0.1, k=2, directions=None):
    """The OroJaR penalty (Wei et al., ICCV 2021) of w -> G(z + wQ, y) at w: with J its Jacobian, 2 Σ_{i≠j} (J_iᵀJ_j)².

    Averaged over samples; J_iᵀJ_j is a sum over the elements of the image. The parameters are those of `penalty`.
    """
    return orojar_penalty(in_w(G, Q, z, y), w, k, epsilon, reduction=torch.mean, directions=directions)


def diagonal(G, Q, z, w, y, epsilon=0.1, k=2, directions=None):
    """Σ_i (q_iᵀHq_i)², to be maximised; q_i the rows of Q, H the Hessian of G in z.

    An objective of this project, not of the paper, for as many orthonormal directions as there are dimensions in all.

    For such a Q, and v a vector of random signs, the penalty is

        Var_v(vᵀQHQᵀv) = 2 (‖QHQᵀ‖²_F − Σ_i (q_iᵀHq_i)²) = 2 (‖H‖²_F − Σ_i (q_iᵀHq_i)²)

    (H within the search space) for every element of the image. Since a rotation leaves ‖H‖_F as it is, the penalty at a
    point is lowest where the sum is highest; and the sum takes one row a sample, three passes of G, the middle one
    without gradient, instead of the variance of two random vectors. The point z + wQ itself counts as given: it is
    detached. With fewer directions than dimensions ‖QHQᵀ‖_F depends on Q, and without orthonormalisation so does it:
    the sum would then grow on directions that change the images much, diagonal or not, so `Discovery` refuses both.

    The identity is one of second derivatives. Across the kinks of a ReLU, second differences are no quadratic form of
    the step, and what they measure of ‖H‖_F does depend on Q: there this is a heuristic, and `penalty` can do better.

    :param epsilon: steps have the length epsilon · √ndirs, that of the penalty's vectors of signs.
    :param k: not used.
    :param directions: [1, N, ndirs], one-hot: the row that each sample takes; None: drawn.
    The other parameters, and the average over samples and elements, are those of `penalty`.
    """
    if directions is None:
        directions = draw_axes(len(w), len(Q), None)
    second_derivatives = along_rows(G, Q, z, w, y, epsilon, directions[0].to(w))
    return len(Q) * second_derivatives.square().mean()


def along_rows(G, Q, z, w, y, epsilon, rows):
    """q_aᵀHq_a by central differences, of the shape of the images; `rows` one-hot [N, ndirs]: the a of each sample.

    Differentiable with respect to Q as far as the steps depend on it, not the point in their middle.
    """
    length = epsilon * math.sqrt(len(Q))
    with full_float32():
        point, step = (z + w @ Q).detach(), length * (rows @ Q)
        check_generator(lambda z: G(z, y), point)
        with torch.no_grad():
            centre = G(point, y)
        plus, minus = G(point + step, y), G(point - step, y)
        return ((plus - centre) + (minus - centre)) / length**2


# What can be optimised over A, by name: functions with the arguments of `penalty` that return a scalar to be minimised,
# or, of the names below, maximised.
OBJECTIVES = {"hessian_penalty": penalty, "orojar": orojar, "diagonal": diagonal}
MAXIMISED = {"diagonal"}

# ----------------------------------------------------------------------------------------------------------------------
# A scale-free measure


def diagonal_share(G, Q, z, w, y, epsilon=0.1, k=2, directions=None, axes=None):
    """How diagonal the Hessian of w -> G(z + wQ, y) is, whatever its scale: Σ_i H_ii² / Σ_ij H_ij², from 0 to 1.

    Numerator and denominator are summed over samples and the elements of the image before they are divided, so that an
    element counts by the energy of its Hessian. 1: diagonal. Unlike the penalty, it does not improve when the images
    merely change less. (Not to be mixed up with `diagonalness` of hessian_penalty_pytorch, the ratio of mean |H_ii| to
    mean |H_ij|, from 0 to ∞ and about √2 where directions are mixed at random. The share at random is 3 / (n + 2) for
    Hessians of rank one, 2 / (n + 1) for random symmetric ones.)

    Both sums are estimated by central differences: Σ_{i≠j} H_ij² is half the Hessian Penalty, and Σ_i H_ii² is
    ndirs · H_aa² for a uniformly drawn axis a. The steps of both have the same length, epsilon · √ndirs, that of the
    penalty's vectors of signs: where ReLUs bend G, a second difference grows as its step shrinks, and a shorter one
    along the axes would pass any directions off as diagonal. Rounding adds to both: the ratio says nothing of a G that
    is linear in w.

    :param axes: int64 [N], the axis a of each sample; None: drawn as evenly as can be by PyTorch's own generator.
    The other parameters are those of `penalty`.
    """
    diagonal, off_diagonal = hessian_energy(G, Q, z, w, y, epsilon, k, directions, axes)
    return diagonal / (diagonal + off_diagonal)


@torch.no_grad()
def hessian_energy(G, Q, z, w, y, epsilon, k, directions, axes):
    """Estimates of Σ_i H_ii² and Σ_{i≠j} H_ij², each averaged over samples and the elements of the image (floats)."""
    ndirs = len(Q)
    if axes is None:
        axes = even_axes(len(w), ndirs, None)
    off_diagonal = penalty(G, Q, z, w, y, epsilon, k, directions) / 2
    H_aa = along_rows(G, Q, z, w, y, epsilon, torch.nn.functional.one_hot(axes.to(w.device), ndirs).to(w))
    return (ndirs * H_aa.square().mean()).item(), off_diagonal.item()


def even_axes(count, ndirs, generator):
    """`count` random axes, int64: every one of ndirs appears as often as any other, within 1."""
    rounds = [torch.randperm(ndirs, generator=generator) for _ in range(-(-count // ndirs))]
    return torch.cat(rounds)[:count]


def draw_signs(k, count, ndirs, generator):
    """[k, count, ndirs] of ±1: the vectors of the penalties."""
    return torch.randint(2, [k, count, ndirs], generator=generator).float() * 2 - 1


def draw_axes(count, ndirs, generator):
    """[1, count, ndirs], one-hot, as evenly as can be: the rows of `diagonal`."""
    return torch.nn.functional.one_hot(even_axes(count, ndirs, generator), ndirs).float()[None]


# ----------------------------------------------------------------------------------------------------------------------
# One step


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the course of a run, beside G and the first A."""

    lr: float = 0.01  # of Adam
    batch_size: int = 64  # samples a step, over all processes
    path_size: float = 5.0  # largest distance along a direction
    epsilon: float = 0.1  # step of the finite differences
    k: int = 2  # draws of the penalties' estimators
    ortho: bool = True  # Q is A orthonormalised; False: A itself
    fix_class: int = None  # class of all samples; None: drawn
    seed: int = 0  # of every draw
    objective: str = "hessian_penalty"  # name in OBJECTIVES
    microbatch: int = None  # samples to go through G at once; None: a quarter of the batch


Batch = collections.namedtuple("Batch", "z w y directions")
Batch.__doc__ = """What a step draws: z [N, dim_z], w [N, ndirs], y int64 [N] or None, and the objective's directions:
    signs [k, N, ndirs], or for `diagonal` axes [1, N, ndirs], one-hot."""


def draw(G, ndirs, settings, step, purpose=BATCH):
    """Return the Batch of a step, on the CPU: a function of the seed, the step and the purpose alone."""
    N, k = settings.batch_size, settings.k
    generator = directions.generator(settings.seed, step, purpose)
    z = torch.randn(N, G.dim_z, generator=generator)
    index = torch.randint(ndirs, [N], generator=generator)
    distance = settings.path_size * (2 * torch.rand(N, 1, generator=generator) - 1)
    axes = settings.objective == "diagonal"
    vectors = draw_axes(N, ndirs, generator) if axes else draw_signs(k, N, ndirs, generator)
    if settings.fix_class is None:
        y = G.random_classes(N, generator)
    else:
        y = torch.full([N], settings.fix_class, dtype=torch.int64)
    return Batch(z, torch.nn.functional.one_hot(index, ndirs) * distance, y, vectors)


def part(batch, samples, device):
    """Return the given samples (a slice) of a Batch, on the device."""
    z, w, y, vectors = batch
    y = None if y is None else y[samples].to(device)
    return Batch(z[samples].to(device), w[samples].to(device), y, vectors[:, samples].to(device))


def check_square(A, space, ortho):
    """Raise OptionError unless the directions are orthonormal, and as many as their search space has dimensions."""
    if not ortho:
        raise OptionError("--objective diagonal: needs orthonormal directions; leave --no_ortho out")
    if len(A) != space.width:
        raise OptionError(
            f"--objective diagonal: needs as many directions as {space} has dimensions, {space.width}, not {len(A)}; "
            f"say --ndirs {space.width}, or choose another --objective"
        )


class Discovery:
    """A, its optimiser, and the number of steps made.

    G           biggan.frozen.FrozenGenerator
    A           float32 [ndirs, space.width] to begin with
    workers     the processes that share each batch; all of them hold the same A

    Raises OptionError for an objective that these directions cannot have.
    """

    def __init__(self, G, A, space, settings, workers=None):
        if settings.objective == "diagonal":
            check_square(A, space, settings.ortho)
        self.G, self.space, self.settings = G, space, settings
        self.workers = workers or Workers()
        self.A = A.detach().to(G.device, torch.float32).clone().requires_grad_()
        self.steps = 0
        self._optimiser = torch.optim.Adam([self.A], lr=settings.lr)

    def Q(self):
        """Return Q [ndirs, dim_z], differentiable with respect to A."""
        return directions.rows(self.A, self.space, self.settings.ortho)

    def step(self, stop=False):
        """Make one step. Returns (value of the objective, whether `stop` was true in any of the processes).

        The gradient is summed up on Q, so that A is orthonormalised, and that differentiated, once a step. Each part of
        the batch has a row of numbers: gradient, value, wish to stop. Their sum does not depend on which process
        computed which part, to the bit. (What one rounding error does to a network with ReLUs is no rounding error.)

        Raises TrainingError, and leaves A as it was, where the value or its gradient is not finite.
        """
        with full_float32():
            Q = self.Q()
            batch = draw(self.G, len(Q), self.settings, self.steps)
            rows = [self._part_of_step(Q, batch, samples, stop) for samples in self._parts()]
            *gradient, value, stop = self.workers.gather(torch.stack(rows)).sum(0).split([Q.numel(), 1, 1])
            (self.A.grad,) = torch.autograd.grad(Q, self.A, gradient[0].view_as(Q))
        value, stop = value.item(), stop.item() > 0
        if not (math.isfinite(value) and torch.isfinite(self.A.grad).all()):
            problem = f"is {value}" if not math.isfinite(value) else "has a gradient that is not finite"
            raise TrainingError(f"step {self.steps + 1}: the {self.settings.objective} {problem}")
        self._optimiser.step()
        self.steps += 1
        return value, stop

    def _part_of_step(self, Q, batch, samples, stop):
        """Return one tensor: what these samples add to the gradient with respect to Q, to the value; and `stop`."""
        settings = self.settings
        Q = Q.detach().requires_grad_()
        z, w, y, vectors = part(batch, samples, self.G.device)
        value = OBJECTIVES[settings.objective](self.G, Q, z, w, y, settings.epsilon, settings.k, vectors)
        if not value.requires_grad:
            raise UserError(f"{self.G.name}: its images have no gradient with respect to z (a detach, a no_grad?)")
        value = value * (len(z) / settings.batch_size)
        (gradient,) = torch.autograd.grad(-value if settings.objective in MAXIMISED else value, Q)
        return torch.cat([gradient.flatten(), value.detach().reshape(1), value.new_tensor([float(stop)])])

    def _parts(self, samples=None):
        """Cut a slice of samples (default: this process's) into parts: slices of `microbatch` samples."""
        samples = samples or self.workers.share(self.settings.batch_size)
        size = self.settings.microbatch or self.settings.batch_size // math.gcd(self.settings.batch_size, PARTS)
        return [slice(i, min(i + size, samples.stop)) for i in range(samples.start, samples.stop, size)]

    @torch.no_grad()
    def diagonal_share(self):
        """The `diagonal_share` of G along the present directions, at samples that are the same whenever it is called.

        At least PROBE_SAMPLES, and as many on each axis: whatever the batch size, no direction goes unseen. They do not
        depend on the objective.
        """
        Q, settings = self.Q(), dataclasses.replace(self.settings, objective="hessian_penalty")
        count = -(-max(PROBE_SAMPLES, settings.batch_size) // len(Q)) * len(Q)
        batch = draw(self.G, len(Q), dataclasses.replace(settings, batch_size=count), 0, PROBE)
        axes = torch.arange(count) % len(Q)
        diagonal = off_diagonal = 0.0
        for samples in self._parts(slice(0, count)):
            z, w, y, signs = part(batch, samples, self.G.device)
            energy = hessian_energy(self.G, Q, z, w, y, settings.epsilon, settings.k, signs, axes[samples])
            diagonal += len(z) * energy[0]
            off_diagonal += len(z) * energy[1]
        return diagonal / (diagonal + off_diagonal) if diagonal + off_diagonal else float("nan")

    def state(self):
        """Return {name: NumPy array}: with `steps`, all that `restore` needs."""
        slots = self._optimiser.state.get(self.A, {})
        zeros = torch.zeros_like(self.A)
        tensors = {"A": self.A, "exp_avg": slots.get("exp_avg", zeros), "exp_avg_sq": slots.get("exp_avg_sq", zeros)}
        return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}

    def restore(self, tensors, steps):
        """Go back to a state after so many steps."""
        tensors = {name: torch.from_numpy(array).to(self.G.device) for name, array in tensors.items()}
        self.steps = steps
        with torch.no_grad():
            self.A.copy_(tensors.pop("A"))
        slots = dict(tensors, step=torch.tensor(float(steps)))
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": {0: slots}, "param_groups": groups})


# ----------------------------------------------------------------------------------------------------------------------
# Files of a run


def A_path(run_dir, steps):
    """Return the path of A after so many steps."""
    return os.path.join(run_dir, f"A_{steps:06d}.pt")


def save(run_dir, discovery):
    """Save A as A_NNNNNN.pt, then all that a resume needs as state.safetensors; return the path of A.

    Each is whole or absent, and the state is written second: there is always an A_NNNNNN.pt of its step.
    """
    path = A_path(run_dir, discovery.steps)
    directions.save(path, discovery.A)
    save_tensors(_state_path(run_dir), discovery.state(), {"format": STATE_FORMAT, "steps": discovery.steps})
    return path


def saved_state(run_dir, width):
    """Return ({name: NumPy array}, steps), as `Discovery.restore` takes them, or None where nothing was saved yet.

    Raises SnapshotError where the file is broken, or not of directions of this width.
    """
    path = _state_path(run_dir)
    if not os.path.exists(path):
        return None
    tensors, metadata = load_tensors(path, SnapshotError)
    shapes = {name: array.shape[1:] for name, array in tensors.items()}
    if metadata.get("format") != STATE_FORMAT or shapes != dict.fromkeys(("A", "exp_avg", "exp_avg_sq"), (width,)):
        raise SnapshotError(f"{path}: not the state of a discovery of directions {width} wide")
    return tensors, metadata["steps"]


def _state_path(run_dir):
    return os.path.join(run_dir, "state.safetensors")


# ----------------------------------------------------------------------------------------------------------------------
# The loop


def discover(
    discovery,  # Discovery, at its beginning or resumed
    run_dir,  # where A and the state go
    log,  # called with each line for the user
    reporter=None,  # biggan.reporting.Reporter: gets scalars
    steps=100000,  # stop after so many, those before a resume included
    save_every=2000,  # steps between two saves
    on_save=None,  # called with the number of steps after each scheduled save
):
    """Make steps until there are `steps`, saving and reporting. Returns the path of the last A.

    Of several processes only the main one writes. Raises TrainingError where the objective is not finite, and
    Interrupted after a SIGINT or SIGTERM, in both cases after A and the state were saved.
    """
    is_main = discovery.workers.is_main
    path = A_path(run_dir, discovery.steps)
    recent = []  # values since the last report
    since = time.perf_counter()
    bar = progress(
        total=steps,
        initial=min(discovery.steps, steps),
        desc="discovering",
        unit="step",
        disable=None if is_main else True,  # None: where there is no terminal, the lines of the log are enough
    )

    def saved():
        return save(run_dir, discovery) if is_main else A_path(run_dir, discovery.steps)

    with stop_signals() as stop, bar:
        while discovery.steps < steps:
            try:
                value, stopping = discovery.step(stop.received is not None)
            except UserError as error:
                raise TrainingError(f"{error}; stopped, the last good A is {saved()}") from None
            done = discovery.steps == steps
            recent.append(value)
            bar.set_postfix_str(f"{discovery.settings.objective} {value:.4g}", refresh=False)
            bar.update()
            if is_main and (discovery.steps % REPORT_EVERY == 0 or discovery.steps == 1 or done):
                now = time.perf_counter()
                _report(discovery, recent, now - since, done, log, reporter)
                recent, since = [], time.perf_counter()
            if done or discovery.steps % save_every == 0:
                path = saved()
                if on_save is not None and is_main:
                    on_save(discovery.steps)
            elif stopping:
                number = stop.received or 15  # another process was told
                raise Interrupted(f"stopped by signal {number} after step {discovery.steps}; saved {saved()}", number)
    return path


def _report(discovery, recent, seconds, done, log, reporter):
    """Log the mean value of the recent steps, their rate, and now and then the diagonal-ness."""
    steps, name = discovery.steps, discovery.settings.objective
    value, rate = sum(recent) / len(recent), len(recent) / seconds
    scalars = {f"discovery/{name}": value, "timing/steps_per_second": rate}
    line = f"step {steps:<7d} {name} {value:<11.5g} {rate:.3g} steps/s"
    if steps == 1 or steps % PROBE_EVERY == 0 or done:
        scalars["diagonalness/energy_share"] = discovery.diagonal_share()
        line += f"   diagonal-ness {scalars['diagonalness/energy_share']:.4f}"
    log(line)
    if reporter is not None:
        reporter.scalars(scalars, steps)
