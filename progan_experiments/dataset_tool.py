"""Make datasets, look into them and check them: TFRecords, with the true factors where they are known."""

import dataclasses
import itertools
import os

import numpy as np
from PIL import Image

from experiment_utils.errors import DataError, Interrupted, OptionError, run_command
from experiment_utils.files import atomic_write
from experiment_utils.image_files import VALUE_RANGE
from experiment_utils.options import add_flags, from_namespace, make_parser, option, positive, power_of_two
from experiment_utils.runs import progress, stop_signals
from progan.data import bundled, clevr, edges_and_shoes, folders, render, verification
from progan.data.writer import DatasetWriter, ResumableWriter, check_replaceable
from progan.dataset import open_dataset

# ----------------------------------------------------------------------------------------------------------------------
# Options


def seed_check(value):
    if not 0 <= value < 2**32:
        raise ValueError("must be from 0 to 4294967295")


@dataclasses.dataclass
class RenderOptions:
    variant: str = option("1fov", "what is in a scene", choices=list(clevr.VARIANTS))
    images: int = option(10000, "how many images", check=positive)
    resolution: int = option(128, "width and height, a power of two", check=power_of_two)
    seed: int = option(0, "another seed gives other images", check=seed_check)
    workers: int = option(render.available_cores(), "processes; the images do not depend on it", check=positive)
    samples: int = option(
        None,
        "per pixel: 25, 100, 225, 400, …; the more the less noise (default: 100 up to 64 px, 25 above)",
        type=int,
        check=render.check_samples,
    )
    labels: bool = option(False, "write the factors as conditioning labels (NAME-rxx.labels) too")
    overwrite: bool = option(False, "replace OUT if it exists")
    restart: bool = option(False, "throw away what an interrupted run left, instead of going on with it")


@dataclasses.dataclass
class FolderOptions:
    resize: int = option(None, "crop to the centred square and resize to this", type=int, check=power_of_two)
    channels: int = option(None, "convert: 1 gray, 3 colour (default: all must agree)", type=int, choices=[1, 3])
    value_range: list = option(**VALUE_RANGE)
    overwrite: bool = option(False, "replace OUT if it exists")


@dataclasses.dataclass
class ShoesOptions:
    resolution: int = option(128, "resize each half to this, a power of two", check=power_of_two)
    value_range: list = option(**VALUE_RANGE)
    overwrite: bool = option(False, "replace OUT if it exists")


@dataclasses.dataclass
class FindOptions:
    data_dir: str = option("datasets", "where a dataset is looked up by name")


@dataclasses.dataclass
class ExtractOptions:
    resolution: int = option(None, "of the images (default: the largest)", type=int, check=power_of_two)
    images: int = option(None, "only the first ones (default: all)", type=int, check=positive)
    data_dir: str = option("datasets", "where a dataset is looked up by name")


@dataclasses.dataclass
class BundleOptions:
    into: str = option(bundled.DIRECTORY, "directory of the archive")
    data_dir: str = option("datasets", "where a dataset is looked up by name")


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def render_clevr(arguments, options):
    samples = options.samples or render.default_samples(options.resolution)
    settings = {name: getattr(options, name) for name in ("variant", "images", "resolution", "seed")}
    settings["samples"] = samples
    render.require_mitsuba()
    with stop_signals() as stop, ResumableWriter(
        arguments.out, options.resolution, 3, settings, options.overwrite, options.restart
    ) as writer:
        remaining = range(writer.count, options.images)
        images = render.images(options.variant, options.seed, remaining, options.resolution, samples, options.workers)
        with progress(total=options.images, initial=writer.count, unit="img") as bar:
            for image in images:
                writer.add(image)
                bar.update()
                if stop.received is not None:
                    done = "%d of %d images are kept in %s" % (writer.count, options.images, writer.partial)
                    raise Interrupted("interrupted; %s: run the same command again to go on" % done, stop.received)
        factors = [clevr.draw(options.variant, options.seed, index)[1] for index in range(options.images)]
        writer.finish(np.stack(factors), clevr.factor_info(options.variant), options.labels)
    print("%s: %d images" % (arguments.out, options.images))


def create_from_images(arguments, options):
    images, count = folders.folder_images(arguments.dir, options.resize, options.channels, options.value_range)
    _store(arguments.out, images, count, options.overwrite)


def create_edges_and_shoes(arguments, options):
    parent = os.path.dirname(os.path.abspath(arguments.out))
    check_replaceable(arguments.out, options.overwrite)
    os.makedirs(parent, exist_ok=True)
    with edges_and_shoes.open_pairs(arguments.src, parent, options.value_range) as (names, read):
        images = edges_and_shoes.images(names, read, options.resolution)
        _store(arguments.out, images, 2 * len(names), options.overwrite)


def _store(out, images, count, overwrite):
    """Write `count` images as the dataset `out`; the first one sets the shape."""
    check_replaceable(out, overwrite)
    images = iter(images)
    first = next(images)
    with DatasetWriter(out, first.shape[0], first.shape[2], overwrite) as writer:
        with progress(itertools.chain([first], images), total=count, unit="img") as bar:
            for image in bar:
                writer.add(image)
        writer.finish()
    print("%s: %d images of %s" % (out, count, "x".join(map(str, first.shape))))


def info(arguments, options):
    dataset = open_dataset(arguments.dataset, options.data_dir)
    sizes = [os.path.getsize(dataset.level_path(resolution)) for resolution in dataset.resolutions]
    print("%-12s %s" % ("name", dataset.name))
    print("%-12s %s" % ("path", dataset.path))
    print("%-12s %d" % ("images", len(dataset)))
    print("%-12s %d" % ("channels", dataset.channels))
    for resolution, size in zip(dataset.resolutions, sizes):
        print("%-12s %-11s %12d bytes" % ("", "%dx%d" % (resolution, resolution), size))
    print("%-12s %d" % ("bytes", sum(sizes)))
    if dataset.factors is None:
        print("%-12s not known" % "factors")
        return
    print("%-12s %d" % ("factors", dataset.factors.shape[1]))
    for column, factor in zip(dataset.factors.T, dataset.factor_info):
        if factor["kind"] == "continuous":
            text = "%g to %g (found: %.3f to %.3f)" % (*factor["range"], column.min(), column.max())
        else:
            text = ", ".join("%s %d" % (value, (column == i).sum()) for i, value in enumerate(factor["values"]))
        print("%-12s %-12s %s" % ("", factor["name"], text))


def verify(arguments, options):
    dataset = open_dataset(arguments.dataset, options.data_dir)
    verification.verify_factors(dataset)
    with progress(range(len(dataset)), unit="img") as bar:
        for index in bar:
            verification.verify_image(dataset, index)
    levels = ", ".join(str(resolution) for resolution in dataset.resolutions)
    print("%s: %d images at %s px are whole and agree" % (dataset.path, len(dataset), levels))


def extract(arguments, options):
    dataset = open_dataset(arguments.dataset, options.data_dir)
    resolution = options.resolution or dataset.resolution
    if os.path.isdir(arguments.dir) and os.listdir(arguments.dir):
        raise OptionError("%s: is not empty; name a new directory" % arguments.dir)
    indices = range(min(options.images or len(dataset), len(dataset)))
    with progress(indices, unit="img") as bar:
        for index in bar:
            image = dataset.images(resolution, [index])[0]
            with atomic_write(os.path.join(arguments.dir, "%06d.png" % index)) as stream:
                Image.fromarray(image[:, :, 0] if dataset.channels == 1 else image).save(stream, format="png")
    print("%s: %d images of %dx%d" % (arguments.dir, len(indices), resolution, resolution))


def bundle(arguments, options):
    dataset = open_dataset(arguments.dataset, options.data_dir)
    if dataset.factors is None:
        raise DataError("%s: has no factors, by which a bundle is sorted" % dataset.path)
    images = dataset.images(dataset.resolution, range(len(dataset)))
    path = bundled.pack(images, dataset.factors, dataset.factor_info, dataset.name, options.into)
    print("%s: %d bytes" % (path, os.path.getsize(path)))


# ----------------------------------------------------------------------------------------------------------------------
# Command line

DESCRIPTION = """\
Make datasets, look into them and check them. A dataset is a directory of TFRecords, one file a resolution, with the
true factors beside them where they are known.
"""

EXAMPLES = """\
  dataset_tool.py info clevr_1fov_32
  dataset_tool.py render_clevr datasets/clevr_simple --variant simple --images 10000 --resolution 128
  dataset_tool.py create_from_images datasets/cats ~/pictures/cats --resize 128
  dataset_tool.py render_clevr --help
"""


def main(argv=None):
    parser = make_parser(DESCRIPTION, EXAMPLES)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(function, positionals, options_class, help, description, example):
        command = commands.add_parser(
            function.__name__,
            help=help,
            description=description,
            epilog="example:\n  dataset_tool.py " + example,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        for name, meaning in positionals.items():
            command.add_argument(name.lower(), metavar=name, help=meaning)
        add_flags(command, options_class)
        command.set_defaults(function=function, options_class=options_class)

    out = {"OUT": "directory to make; its last part names the dataset"}
    dataset = {"DATASET": "a directory, a name in --data_dir, or a set that ships with the project"}
    add(
        render_clevr,
        out,
        RenderOptions,
        "render CLEVR scenes with their true factors (needs Mitsuba)",
        clevr.__doc__,
        "render_clevr datasets/clevr_simple --variant simple --images 10000 --resolution 128",
    )
    add(
        create_from_images,
        dict(out, DIR="folder of images; its subfolders are searched too"),
        FolderOptions,
        "make a dataset of a folder of images",
        "Images in any format that Pillow reads, gray or colour. Without --resize they must be square, a power of two\n"
        "wide and of one size. What is transparent becomes white, and 16 bits become 8; of other numbers\n"
        "--value_range says which are black and white. Files that are no pictures are skipped and counted.",
        "create_from_images datasets/cats ~/pictures/cats --resize 128",
    )
    add(
        create_edges_and_shoes,
        dict(out, SRC="the pix2pix folder edges2shoes (or its train/), or edges2shoes.tar.gz"),
        ShoesOptions,
        "make Edges+Shoes of pix2pix's edges2shoes",
        edges_and_shoes.__doc__,
        "create_edges_and_shoes datasets/edges_and_shoes edges2shoes.tar.gz",
    )
    add(
        info,
        dataset,
        FindOptions,
        "say what a dataset holds",
        "Name, images, channels, resolutions, bytes, and the factors with their ranges.",
        "info clevr_1fov_32",
    )
    add(
        verify,
        dataset,
        FindOptions,
        "check every record of a dataset",
        "Reads every image at every resolution: checksums, shapes, counts, whether each smaller image is the box\n"
        "average of the largest (to 1 gray level of 255), and whether the factors keep to their ranges.",
        "verify datasets/cats",
    )
    add(
        extract,
        dict(dataset, DIR="folder to make"),
        ExtractOptions,
        "save a dataset's images as PNG files",
        "Writes 000000.png, 000001.png, … in the order of the dataset and of its factors.",
        "extract clevr_1fov_32 pngs --images 100",
    )
    add(
        bundle,
        dataset,
        BundleOptions,
        "pack a dataset with factors as the project ships them",
        bundled.__doc__,
        "bundle datasets/clevr_1fov_32",
    )
    arguments = parser.parse_args(argv)
    arguments.function(arguments, from_namespace(arguments.options_class, arguments))


if __name__ == "__main__":
    run_command(main)
