"""Training a class-conditional BigGAN (Brock et al. 2019): hinge loss, spectral normalisation, an average of G.

Every draw is made on the CPU from (seed, step): the same options give the same bits on one CPU thread, also after a
resume, and several processes share one batch. (Each normalises over its own share of it, so that here the result does
depend on their number.)
"""

import copy
import dataclasses
import os
import time

import numpy as np
import torch

from biggan.biggan import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec, collect_statistics, initialise
from biggan.parallel import Workers
from biggan.weights import save_generator
from experiment_utils.errors import Interrupted, SnapshotError, TrainingError
from experiment_utils.files import load_tensors, save_tensors
from experiment_utils.runs import progress, stop_signals
from latent_traversal import grid_frames, save_png, to_uint8

D_STEP, G_STEP, WEIGHTS, SAMPLES, STATISTICS = 1, 2, 3, 4, 5  # what a draw is for: the last part of its seed
SAMPLES_PER_CLASS = 8
STATE_FORMAT = "biggan-training-1"


def network_specs(resolution, ch, dim_z, num_classes, shared_dim=16, attention=(), channels=3):
    """Return (GeneratorSpec, DiscriminatorSpec): `ch` feature maps at full resolution, doubling down to 8×8.

    dim_z is cut into equal chunks: one for the 4×4 map and one for each doubling.
    """
    doublings = resolution.bit_length() - 3
    widths = [ch << level for level in range(doublings)]
    widths = (*widths, widths[-1])  # 8×8 and 4×4 alike
    generator = GeneratorSpec(
        widths[::-1], num_classes, dim_z, shared_dim, attention=tuple(attention), channels=channels
    )
    discriminator = DiscriminatorSpec(widths, resolution, num_classes, tuple(attention), channels)
    return generator, discriminator


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the course of a run, beside the networks and the images."""

    total_kimg: float  # thousands of real images to show (the first D step of every step counts)
    batch_size: int = 32  # images a step, over all processes
    d_steps: int = 1  # D steps for each G step
    g_lr: float = 2e-4  # of Adam, betas 0 and 0.999
    d_lr: float = 4e-4
    cooldown: float = 0.3  # share of the training, at its end, over which both learning rates fall to 0
    ema_kimg: float = 10.0  # half-life of G's average, in thousands of images; less at the beginning
    seed: int = 0


class Training:
    """The networks, their optimisers, and how far they are.

    data       biggan.images.LabelledImages
    workers    the processes that share each batch
    G_ema      the average of G: what is shown, saved and used
    """

    def __init__(self, generator_spec, discriminator_spec, data, settings, device, workers=None):
        self.data, self.settings, self.device = data, settings, device
        self.workers = workers or Workers()
        torch.manual_seed(_seed(settings.seed, 0, WEIGHTS))
        self.G, self.D = (
            initialise(network).to(device, memory_format=torch.channels_last)
            for network in (Generator(generator_spec), Discriminator(discriminator_spec))
        )
        self.G_ema = copy.deepcopy(self.G).requires_grad_(False)
        self.optimisers = {
            net: torch.optim.Adam(getattr(self, net).parameters(), lr=lr, betas=(0.0, 0.999))
            for net, lr in (("G", settings.g_lr), ("D", settings.d_lr))
        }
        self.steps = 0

    @property
    def images_shown(self):
        return self.steps * self.settings.batch_size

    @property
    def total_steps(self):
        return -(-int(self.settings.total_kimg * 1000) // self.settings.batch_size)

    def step(self):
        """One step: D `d_steps` times, then G, then G's average. Returns {name: value} of the losses.

        Raises TrainingError, before any weight of that network changes, where a loss is not finite.
        """
        settings = self.settings
        self._set_learning_rates()
        values = {}
        for repeat in range(settings.d_steps):
            real, labels = self._reals(repeat)
            z, y = self._latents(self.steps, D_STEP, repeat)
            with torch.no_grad():
                fake = self.G(z, y)
            scores = self.D(torch.cat([real, fake]), torch.cat([labels, y]))
            of_real, of_fake = scores.split(len(real))
            loss = torch.relu(1 - of_real).mean() + torch.relu(1 + of_fake).mean()
            self._update("D", loss)
            values.update(loss_D=loss, score_real=of_real.mean(), score_fake=of_fake.mean())
        z, y = self._latents(self.steps, G_STEP)
        self.D.requires_grad_(False)
        values["loss_G"] = -self.D(self.G(z, y), y).mean()
        self._update("G", values["loss_G"])
        self.D.requires_grad_(True)
        self.steps += 1
        self._average()
        return {name: value.item() for name, value in values.items()}

    def _reals(self, repeat):
        """A batch of real images and their classes; every D step of a step has its own."""
        shown = (self.steps * self.settings.d_steps + repeat) * self.settings.batch_size
        images, labels = self.data.minibatch(self.settings.seed, shown, self.settings.batch_size)
        mine = self.workers.share(self.settings.batch_size)
        images = torch.from_numpy(images[mine]).permute(0, 3, 1, 2).to(self.device)
        return images.float() / 127.5 - 1, torch.from_numpy(labels[mine]).to(self.device)

    def _latents(self, step, purpose, repeat=0):
        """This process's share of a batch of latents and classes."""
        count, spec = self.settings.batch_size, self.G.spec
        generator = torch.Generator().manual_seed(_seed(self.settings.seed, step, purpose, repeat))
        mine = self.workers.share(count)
        z = torch.randn(count, spec.dim_z, generator=generator)
        y = torch.randint(spec.num_classes, [count], generator=generator)
        return z[mine].to(self.device), y[mine].to(self.device)

    def _update(self, net, loss):
        if not torch.isfinite(loss):
            raise TrainingError(
                f"step {self.steps + 1}: the loss of {net} is {loss.item()}; try smaller learning rates"
            )
        parameters = list(getattr(self, net).parameters())
        self.optimisers[net].zero_grad()
        loss.backward()
        if self.workers.size > 1:
            gradients = torch.cat([parameter.grad.flatten() for parameter in parameters])
            self.workers.average_(gradients)
            parts = gradients.split([parameter.numel() for parameter in parameters])
            for parameter, part in zip(parameters, parts):
                parameter.grad.copy_(part.view_as(parameter))
        self.optimisers[net].step()

    def _set_learning_rates(self):
        settings = self.settings
        left = 1 - self.steps / self.total_steps
        factor = min(1.0, left / settings.cooldown) if settings.cooldown else 1.0
        for net, lr in (("G", settings.g_lr), ("D", settings.d_lr)):
            for group in self.optimisers[net].param_groups:
                group["lr"] = lr * factor

    @torch.no_grad()
    def _average(self):
        """Move G_ema towards G; its half-life grows to `ema_kimg` with the first images."""
        half_life = min(self.settings.ema_kimg * 1000, 0.05 * self.images_shown)
        beta = 0.5 ** (self.settings.batch_size / half_life)
        for average, parameter in zip(self.G_ema.parameters(), self.G.parameters()):
            average.lerp_(parameter, 1 - beta)
        for name, buffer in self.G.named_buffers():  # the vectors of spectral normalisation belong to the weights
            if name.endswith("u0"):
                self.G_ema.get_buffer(name).copy_(buffer)

    def averaged_generator(self, batches=50):
        """Return G_ema with the batch statistics of its own images."""
        drawn = (self._latents(index, STATISTICS) for index in range(batches))
        collect_statistics(self.G_ema, drawn)
        return self.G_ema

    # ------------------------------------------------------------------------------------------------------------------
    # State

    def state(self):
        """Return {name: NumPy array}: with `steps`, all that `restore` needs."""
        tensors = {}
        for net in ("G", "D", "G_ema"):
            tensors.update({f"{net}/{name}": value for name, value in getattr(self, net).state_dict().items()})
        for net, optimiser in self.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                tensors.update({f"{net}_optimiser/{index}/{slot}": slots[slot] for slot in ("exp_avg", "exp_avg_sq")})
        return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}

    def restore(self, arrays, steps):
        """Go back to a state after so many steps. Raises KeyError or RuntimeError where it is of other networks."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        for net in ("G", "D", "G_ema"):
            prefix = f"{net}/"
            own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            getattr(self, net).load_state_dict(own)
        for net, optimiser in self.optimisers.items():
            stored = optimiser.state_dict()
            stored["state"] = {
                index: {slot: tensors[f"{net}_optimiser/{index}/{slot}"] for slot in ("exp_avg", "exp_avg_sq")}
                for index in range(len(stored["param_groups"][0]["params"]))
            }
            for slots in stored["state"].values():
                slots["step"] = torch.tensor(float(steps * (self.settings.d_steps if net == "D" else 1)))
            optimiser.load_state_dict(stored)
        self.steps = steps


def _seed(*parts):
    """One seed of 63 bits from several numbers."""
    high, low = np.random.SeedSequence(parts).generate_state(2)
    return (int(high) << 32 | int(low)) >> 1


# ----------------------------------------------------------------------------------------------------------------------
# Files of a run


def generator_path(run_dir, images_shown):
    return _numbered(run_dir, "generator", images_shown, "safetensors")


def _numbered(run_dir, what, images_shown, extension):
    return os.path.join(run_dir, f"{what}-{round(images_shown / 1000):06d}.{extension}")


def save(run_dir, training, record):
    """Save the averaged generator, a picture of its samples, and the state to resume from; return the first's path."""
    generator = training.averaged_generator()
    path = generator_path(run_dir, training.images_shown)
    metadata = dict(record, class_names=training.data.class_names, images_shown=training.images_shown)
    save_generator(path, generator, metadata)
    save_png(_numbered(run_dir, "samples", training.images_shown, "png"), sample_grid(training))
    save_tensors(_state_path(run_dir), training.state(), {"format": STATE_FORMAT, "steps": training.steps})
    return path


def resume(run_dir, training):
    """Put `training` where the run in `run_dir` was saved last: at its beginning if it never was."""
    path = _state_path(run_dir)
    if not os.path.exists(path):
        return
    tensors, metadata = load_tensors(path, SnapshotError)
    try:
        if metadata.get("format") != STATE_FORMAT:
            raise KeyError("format")
        training.restore(tensors, metadata["steps"])
    except (KeyError, RuntimeError) as problem:
        raise SnapshotError(f"{path}: not the state of these networks ({str(problem).splitlines()[0]})") from None


def _state_path(run_dir):
    return os.path.join(run_dir, "state.safetensors")


@torch.no_grad()
def sample_grid(training):
    """Return uint8 [height, width, 3]: a row for each of the first 16 classes, the same latents in every row."""
    names = training.data.class_names[:16]
    z = _sample_latents(training, SAMPLES_PER_CLASS)
    rows = [_images(training, z, torch.full([len(z)], label)) for label in range(len(names))]
    return grid_frames(np.stack(rows)[:, :, None], row_labels=names)[0]


@torch.no_grad()
def generated_images(training, count):
    """Return uint8 [count, H, W, C] of the averaged generator, the classes in turn."""
    z = _sample_latents(training, count)
    y = torch.arange(count) % training.G.spec.num_classes
    return np.concatenate([_images(training, *part) for part in zip(z.split(100), y.split(100))])


def _sample_latents(training, count):
    random = torch.Generator().manual_seed(_seed(training.settings.seed, 0, SAMPLES))
    return torch.randn(count, training.G.dim_z, generator=random)


def _images(training, z, y):
    images = training.G_ema(z.to(training.device), y.to(training.device))
    return to_uint8(images.permute(0, 2, 3, 1).cpu().numpy())


# ----------------------------------------------------------------------------------------------------------------------
# The loop


def train(
    training,  # Training, at its beginning or resumed
    run_dir,  # where everything goes
    record,  # JSON value: kept in every saved generator
    log,  # called with each line for the user
    reporter=None,  # biggan.reporting.Reporter: gets scalars
    save_kimg=20.0,  # thousands of images between two saves
    report_kimg=2.0,  # and between two lines of the log
):
    """Train until `total_kimg`. Returns the path of the last generator.

    Of several processes only the main one writes. Raises TrainingError where a loss is not finite (what was saved
    before stays), and Interrupted after a SIGINT or SIGTERM, with everything saved.
    """
    settings, is_main = training.settings, training.workers.is_main
    save_every = max(1, round(save_kimg * 1000 / settings.batch_size))
    report_every = max(1, round(report_kimg * 1000 / settings.batch_size))
    path, recent, since = generator_path(run_dir, training.images_shown), [], time.perf_counter()
    bar = progress(
        total=training.total_steps,
        initial=min(training.steps, training.total_steps),
        desc="training",
        unit="step",
        disable=None if is_main else True,
    )
    with stop_signals() as stop, bar:
        while training.steps < training.total_steps:
            recent.append(training.step())
            bar.update()
            done = training.steps == training.total_steps
            if is_main and (training.steps % report_every == 0 or done):
                seconds = (time.perf_counter() - since) * 1000 / (len(recent) * settings.batch_size)
                means = {name: sum(each[name] for each in recent) / len(recent) for name in recent[0]}
                _report(training, means, seconds, log, reporter)
                recent, since = [], time.perf_counter()
            stopping = training.workers.any(stop.received is not None, training.device)
            if done or stopping or training.steps % save_every == 0:
                begin = time.perf_counter()
                path = generator_path(run_dir, training.images_shown)
                if is_main:
                    save(run_dir, training, record)
                since += time.perf_counter() - begin
            if stopping and not done:
                number = stop.received or 15  # another process was told
                raise Interrupted(f"stopped by signal {number} after step {training.steps}; saved {path}", number)
    return path


def _report(training, means, seconds_per_kimg, log, reporter):
    losses = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
    log(f"kimg {training.images_shown / 1000:<8.1f} {losses}  {seconds_per_kimg:.2f} s/kimg")
    if reporter is not None:
        scalars = {f"training/{name}": value for name, value in means.items()}
        scalars["timing/seconds_per_kimg"] = seconds_per_kimg
        reporter.scalars(scalars, training.images_shown)
