"""What the live explorer (explore.py) shows and saves, without its page: pictures of z + w @ Q, and settings as JSON.

    explorer = Explorer(G, Q, path_size=3.0)
    setting = explorer.start()                             # a Setting: w, seed, label, truncation
    explorer.image(setting)                                # uint8 [H, W, C]

A setting file holds all that a picture depends on, the numbers of z included; `read_record` reads one, and refuses
what is none.
"""

import dataclasses
import hashlib
import io
import math
import os
import re
import tempfile
import threading

import numpy as np
import torch
from PIL import Image
from torch import nn

from biggan import biggan, biggan_deep, directions, sources
from biggan.traversal import images_of
from experiment_utils import __version__, options
from experiment_utils.download import file_sha256
from experiment_utils.errors import OptionError, UserError
from experiment_utils.files import read_json
from latent_traversal import save_gif, sweep_values, to_uint8

KIND = "explorer-setting"
FORMAT_VERSION = 1
SAMPLE = 7  # what a draw is for: the last part of its seed
GIF_STEPS = 31  # pictures from w = 0 to the setting
GIF_FPS = 25
SHOWN = 256  # what is watched, the page's picture and a GIF, is enlarged to at least as many pixels
MINIBATCH = 8  # of a GIF's pictures: a page that waits for one gets its turn after so many
UNTRUNCATED = 3.0  # where components of z are cut off at most: beyond it there is next to nothing


@dataclasses.dataclass(frozen=True)
class Setting:
    """One picture: a sample, and how far it is moved along each direction.

    w            [ndirs], numbers           label        of the class, None: the generator has none
    seed         that z is drawn from       truncation   as `draw` takes it, None: z ~ N(0, I)
    """

    w: tuple
    seed: int = 0
    label: int = None
    truncation: float = None


# ----------------------------------------------------------------------------------------------------------------------
# Truncation (Brock et al. 2019, Sec. 3.1)


def truncation_limit(G):
    """Return the truncation from which on there is none, or None where truncation would do nothing.

    3 where single components of z are cut off, 1 for a BigGAN-deep (see `draw`). None for generators that normalise z,
    as a ProGAN does: they give the same images for z / 2.
    """
    if _is_deep(G):
        return 1.0
    return UNTRUNCATED if _sees_length(G) else None


def _is_deep(G):
    return isinstance(G.module, biggan_deep.Generator)


@torch.no_grad()
def _sees_length(G):
    draws = directions.generator(0, SAMPLE)
    z, y = torch.randn(2, G.dim_z, generator=draws), G.random_classes(2, draws)
    whole, half = G(z, y), G(z / 2, y)
    return bool((whole - half).abs().max() > 1e-3 * whole.abs().max())


def draw(G, seed, truncation=None):
    """Return z [dim_z], float32, of a seed: N(0, I), or truncated.

    A truncation t moves each component of that same draw towards 0, so that it has the distribution of a normal number
    that is drawn again while it is beyond ±t. BigGAN-deep was published with t times a number cut off at ±2 instead.
    """
    z = torch.randn(G.dim_z, generator=directions.generator(seed, SAMPLE))
    if truncation is None:
        return z
    return truncation * cut_off(z, 2.0) if _is_deep(G) else cut_off(z, truncation)


def cut_off(z, bound):
    """Map z ~ N(0, 1) to the normal distribution cut off at ±bound, keeping quantiles: F⁻¹(Φ(z))."""
    root = math.sqrt(2)
    inside = math.erf(bound / root)  # the share of N(0, 1) that lies within
    return (root * torch.erfinv(inside * torch.erf(z.double() / root))).float()


# ----------------------------------------------------------------------------------------------------------------------
# Pictures


class Explorer:
    """Pictures of settings, one at a time however many threads ask.

    G           FrozenGenerator
    Q           [ndirs, dim_z], directions
    path_size   no |w_i| is larger
    origin      {"generator": …, "directions": …}: where G and Q are from, for `record`
    opened      (Setting, z [dim_z]): of a setting file. Its seed and truncation stand for that z from then on, as
                another version of PyTorch might draw another one
    """

    def __init__(self, G, Q, path_size, origin=None, opened=None):
        self.G, self.Q, self.path_size, self.origin = G, Q.detach().cpu(), float(path_size), origin or {}
        self.truncation_limit, self.class_names = truncation_limit(G), class_names(G)
        self._opened, self._turn, self._stopped = opened, threading.Lock(), False

    def start(self, seed=0, label=None, truncation=None):
        """Return the Setting to begin with: the opened file's, or that of the flags, with w = 0."""
        if self._opened is not None:
            return self._opened[0]
        label = 0 if label is None and self.G.num_classes else label
        return Setting((0.0,) * len(self.Q), seed, label, truncation)

    def check(self, setting):
        """Return the setting. Raises OptionError, naming what does not fit, and OptionError only."""
        if len(setting.w) != len(self.Q):
            raise OptionError(f"w: {len(setting.w)} numbers for {len(self.Q)} directions")
        for number, value in enumerate(setting.w):
            if not abs(value) <= self.path_size:  # nor is not-a-number
                raise OptionError(
                    f"w: {value:g} along direction {number} is beyond path_size {self.path_size:g}; "
                    "say --path_size with a larger number"
                )
        if type(setting.seed) is not int or not 0 <= setting.seed < 2**32:
            raise OptionError(f"seed {setting.seed}: must be a whole number between 0 and 4294967295")
        if setting.label is not None or self.G.num_classes:
            if type(setting.label) is not int:
                raise OptionError(f"class {setting.label}: {self.G.name} has classes 0 to {self.G.num_classes - 1}")
            self.G.check_class(setting.label, "class")
        self._check_truncation(setting.truncation)
        return setting

    def _check_truncation(self, truncation):
        if truncation is None:
            return
        if self.truncation_limit is None:
            raise OptionError(f"truncation {truncation:g}: {self.G.name} normalises z, so it would do nothing")
        if not 0.01 <= truncation <= self.truncation_limit or round(truncation, 2) != truncation:
            raise OptionError(
                f"truncation {truncation:g}: must be between 0.01 and {self.truncation_limit:g} for {self.G.name}, "
                "with two decimals at most"
            )

    def z(self, setting):
        """Return the sample, [dim_z], not moved."""
        if self._opened is not None:
            opened, z = self._opened
            if (setting.seed, setting.truncation) == (opened.seed, opened.truncation):
                return z
        return draw(self.G, setting.seed, setting.truncation)

    def moved(self, setting, shares=(1.0,)):
        """Return the latents z + share · w @ Q, float32 [shares, dim_z]."""
        step = torch.tensor(setting.w, dtype=torch.float32) @ self.Q
        return self.z(setting) + torch.tensor(shares, dtype=torch.float32)[:, None] * step

    def image(self, setting):
        """Return the picture of a setting, uint8 [H, W, C]. Raises UserError."""
        return self._render(self.moved(self.check(setting)), setting)[0]

    def _render(self, latents, setting):
        with self._turn:
            if self._stopped:
                raise UserError("the explorer has ended")
            if _is_deep(self.G):
                self.G.module.truncation = setting.truncation or 1.0
            return to_uint8(images_of(self.G, latents, setting.label))

    def stop(self):
        """Wait for the pictures at work. From then on UserError is raised in place of others, the rest of a GIF too."""
        self._stopped = True
        with self._turn:
            pass

    def png(self, setting):
        """Return the picture as a PNG file, bytes."""
        return _png(self.image(setting))

    def preview(self, setting):
        """Return the picture as a page shows it: as `png` but enlarged, and hardly compressed as it is not sent far."""
        return _png(enlarged(self.image(setting)), compress_level=1)

    def gif(self, setting):
        """Return a GIF that goes from w = 0 to the setting and back, bytes. Raises UserError where nothing moves."""
        if not any(self.check(setting).w):
            raise UserError("all directions stand at 0, so nothing would move; move a slider first")
        shares = ((sweep_values(GIF_STEPS, 1.0, eased=True) + 1) / 2).tolist()
        images = []
        for begin in range(0, GIF_STEPS, MINIBATCH):
            images.extend(self._render(self.moved(setting, shares[begin : begin + MINIBATCH]), setting))
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, "setting.gif")
            save_gif(path, [enlarged(image) for image in images], fps=GIF_FPS)
            with open(path, "rb") as stream:
                return stream.read()

    # Settings as JSON

    def record(self, setting):
        """Return all that the picture of a setting depends on, as a JSON value."""
        named = setting.label is not None and self.class_names is not None
        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "generator": dict(self.origin.get("generator", {}), weights_sha256=self.weights_sha256()),
            "directions": self.origin.get("directions", {}),
            "path_size": self.path_size,
            "seed": setting.seed,
            "class": setting.label,
            "class_name": self.class_names[setting.label] if named else None,
            "truncation": setting.truncation,
            "w": list(setting.w),
            "z": self.z(setting).tolist(),
        }

    def weights_sha256(self):
        """Return a checksum of the generator's weights, whatever file they are from, as `weights_sha256` does."""
        return weights_sha256(self.G.module)

    def file_stem(self, setting):
        """Return what files of this setting are called, without extension."""
        load_A = self.origin.get("directions", {}).get("load_A", "directions")
        found = re.sub(r"[^\w.-]+", "_", directions.name_of(load_A))
        name = found if found.startswith(self.G.name) else f"{self.G.name}-{found}"
        return name + ("" if setting.label is None else f"-class{setting.label}") + f"-sample{setting.seed}"


def _png(image, compress_level=6):
    stream = io.BytesIO()
    _picture(image).save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


def _picture(image):
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def enlarged(image):
    """Return an image [H, W, C], uint8, enlarged by a whole number to at least SHOWN pixels, smoothly, as RGB.

    Browsers and players do that, too, but badly.
    """
    picture = _picture(image).convert("RGB")
    scale = -(-SHOWN // min(picture.size))
    return np.asarray(picture.resize((picture.width * scale, picture.height * scale), Image.BICUBIC))


def weights_sha256(module):
    """Return the SHA-256 of a module's parameters and buffers, names and shapes included.

    None where it is no module, or has a state that is not of tensors alone (a quantised one).
    """
    if not isinstance(module, nn.Module):
        return None
    state = module.state_dict()
    if not all(map(torch.is_tensor, state.values())):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def class_names(G):
    """Return [name of each class], or None where nobody knows.

    A BigGAN of 1,000 classes that does not name them is a published one: its classes are ImageNet's.
    """
    if G.class_names is not None:
        return list(G.class_names)
    if G.num_classes == 1000 and isinstance(G.module, (biggan.Generator, biggan_deep.Generator)):
        try:
            from torchvision.models import ResNet18_Weights
        except ImportError:
            return None
        return list(ResNet18_Weights.DEFAULT.meta["categories"])
    return None


# ----------------------------------------------------------------------------------------------------------------------
# Where generator and directions are from


def default_directions(path):
    """Return what --load_A is when nobody says: the first file beside the generator, or the axes of z."""
    return (sources.files_beside(path)[1] or ["coord"])[0]


def origin(G, chosen):
    """Return where the generator and the directions of these flags are from, as a JSON value.

    chosen   flags of DirectionOptions and GeneratorOptions, with `seed`; load_A is set
    """
    from_file = chosen.load_A not in ("random", "coord", "coords")
    beside = chosen.load_A in sources.files_beside(chosen.download or chosen.G_path)[1]
    return {
        "generator": {
            "name": G.name,
            "G_path": chosen.download or chosen.G_path or sources.DEFAULT,
            "image_range": list(G.image_range),
            "dim_z": G.dim_z,
            "num_classes": G.num_classes,
        },
        "directions": {
            # What lies beside the generator is found there, wherever that is on another machine
            "load_A": os.path.basename(chosen.load_A) if beside else chosen.load_A,
            "sha256": file_sha256(chosen.load_A) if from_file else None,
            "seed": chosen.seed if chosen.load_A == "random" else None,
            "search_space": chosen.search_space,
            "ndirs": chosen.ndirs,
            "no_ortho": chosen.no_ortho,
        },
    }


# ----------------------------------------------------------------------------------------------------------------------
# Setting files


def read_record(path):
    """Return the JSON value of a setting file, all of its fields of the right type. Raises UserError, one line."""
    record = read_json(path)
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise UserError(f"{path}: no setting of explore.py (its JSON export makes them)")
    if record.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: written by a newer version of this project; update to read it")
    if isinstance(record.get("generator"), dict):
        record["generator"].setdefault("image_range", None)  # older files do not say
    for owner, fields in (("", _FIELDS), ("generator", _GENERATOR_FIELDS), ("directions", _DIRECTION_FIELDS)):
        values = record[owner] if owner else record
        for name, (fits, wanted) in fields.items():
            where = f"{owner}.{name}" if owner else name
            if name not in values:
                raise UserError(f"{path}: has no {where}")
            if not fits(values[name]):
                raise UserError(f"{path}: {where} is {_short(values[name])}, not {wanted}")
    return record


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _whole(value):
    return type(value) is int


def _number(value):
    return type(value) in (int, float) and abs(value) <= float(np.finfo(np.float32).max)


def _numbers(value):
    return isinstance(value, list) and len(value) > 0 and all(map(_number, value))


def _text(value):
    return isinstance(value, str)


def _or_null(fits):
    return lambda value: value is None or fits(value)


_FIELDS = {
    "generator": (lambda value: isinstance(value, dict), "an object"),
    "directions": (lambda value: isinstance(value, dict), "an object"),
    "path_size": (lambda value: _number(value) and value > 0, "a number greater than 0"),
    "seed": (_whole, "a whole number"),
    "class": (_or_null(_whole), "a whole number or null"),
    "truncation": (_or_null(_number), "a number or null"),
    "w": (_numbers, "a list of finite numbers"),
    "z": (_numbers, "a list of finite numbers"),
}
_GENERATOR_FIELDS = {
    "G_path": (_text, "a text"),
    "image_range": (_or_null(lambda value: _numbers(value) and len(value) == 2), "two numbers or null"),
    "weights_sha256": (_or_null(_text), "a text or null"),
}
_DIRECTION_FIELDS = {
    "load_A": (_text, "a text"),
    "sha256": (_or_null(_text), "a text or null"),
    "seed": (_or_null(_whole), "a whole number or null"),
    "search_space": (_text, "a text"),
    "ndirs": (_or_null(_whole), "a whole number or null"),
    "no_ortho": (lambda value: isinstance(value, bool), "true or false"),
}


def with_record(chosen, record, path):
    """Return the flags `chosen` completed by what a setting file says. Raises UserError.

    Of two flags the user's own come first, as places change: those of the generator, and --load_A.
    """
    found = record["directions"]
    G_path = chosen.G_path
    if chosen.download is None and G_path is None:
        G_path = record["generator"]["G_path"]
        harmless = G_path in sources.bundled_generators() or sources.full_name(G_path) in sources.DOWNLOADS
        if not harmless and not os.path.exists(G_path):  # a module's code, or the web: not because a file says so
            raise UserError(f"{path}: its generator was {G_path}; say where it is: --G_path")
    load_A = chosen.load_A or _find_directions(found["load_A"], chosen.download or G_path, path)
    seed = chosen.seed if found["seed"] is None else found["seed"]
    names = ("search_space", "ndirs", "no_ortho")
    values = dict({name: found[name] for name in names}, G_path=G_path, load_A=load_A, seed=seed)
    values["image_range"] = chosen.image_range or record["generator"]["image_range"]
    if chosen.path_size is None:
        values["path_size"] = record["path_size"]
    try:
        return options.validate(dataclasses.replace(chosen, **values))
    except OptionError as problem:
        raise UserError(f"{path}: {problem}") from None


def _find_directions(load_A, G_path, path):
    """Where the direction file of a setting file is: in its place, beside the setting file, or beside the generator."""
    if load_A in ("random", "coord", "coords"):
        return load_A
    name = os.path.basename(load_A)
    beside = {os.path.basename(file): file for file in sources.files_beside(G_path)[1]}
    for place in (load_A, os.path.join(os.path.dirname(path), name), beside.get(name, "")):
        if os.path.isfile(place):
            return place
    raise UserError(f"{path}: its direction file {load_A} is not there; say where it is: --load_A")


def _identity(found):
    """What tells directions apart: a file's checksum, or the word that is no file."""
    return found["load_A"].rstrip("s") if found["sha256"] is None else f"SHA-256 {found['sha256'][:16]}…"


def opened(record, path, explorer_origin, G, Q):
    """Return (Setting, z [dim_z]) of a setting file. Raises UserError where it is for another generator or directions.

    explorer_origin   what `origin` says of G and Q
    """
    theirs, ours = record["directions"], explorer_origin["directions"]
    if _identity(theirs) != _identity(ours):
        raise UserError(
            f"{path}: made with other directions than {ours['load_A']}: {_identity(theirs)}, not {_identity(ours)}; "
            "give its own: --load_A"
        )
    for name, wanted in (("z", G.dim_z), ("w", len(Q))):
        if len(record[name]) != wanted:
            raise UserError(
                f"{path}: {name} has {len(record[name])} numbers where {wanted} belong; another generator's?"
            )
    if record["generator"]["weights_sha256"] != weights_sha256(G.module):
        raise UserError(f"{path}: made with other weights than those of {G.name}; give its own: --G_path")
    setting = Setting(tuple(map(float, record["w"])), record["seed"], record["class"], record["truncation"])
    return setting, torch.tensor(record["z"], dtype=torch.float32)
