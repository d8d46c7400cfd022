"""What was published with the paper: its datasets and trained models by name, and how they come to this machine.

    datasets   clevr_1fov, clevr_simple, clevr_complex, edges_and_shoes     into DATA_DIR/NAME
    models     those and clevr_u, each with _bl, _info, _fs or _ft          into MODELS_DIR/NAME.pkl

Whatever comes is read before it gets its name, inertly (a TFRecord file by its lengths and checksums, a network pickle
by experiment_utils/inert_pickle.py). Its size, SHA-256 and origin are noted beside it, in FILE.sha256.
"""

import glob
import os
import re
import shutil

from experiment_utils.datasets import PARTIAL, Dataset, level_files
from experiment_utils.download import BrokenOffError, fetch, file_sha256, record
from experiment_utils.errors import DataError, SnapshotError, UserError
from experiment_utils.files import atomic_write
from experiment_utils.tfrecords import RecordFile, decode_image

ADDRESS = "http://efrosgans.eecs.berkeley.edu/HessianPenalty/resources"
MODELS_DIR = "pretrained_models"
DATASETS = {"clevr_1fov": 256, "clevr_simple": 256, "clevr_complex": 256, "edges_and_shoes": 128}  # largest images, px
FAMILIES = {  # of models, by suffix: the folder of training_scripts/ that trains them
    "bl": "vanilla",
    "info": "infogan",
    "fs": "hessian_penalty_from_scratch",
    "ft": "hessian_penalty_fine_tuned",
}
_FOLDERS = {  # where a dataset's models lie, and how their files' names begin
    "clevr_1fov": ("clevr_1fov", "1fov"),
    "clevr_simple": ("clevr_simple", "simple"),
    "clevr_complex": ("clevr_complex", "complex"),
    "clevr_u": ("clevr_u", "underparam"),
    "edges_and_shoes": ("edgeshoes", "e2s"),
}
MODELS = [f"{dataset}_{suffix}" for dataset in _FOLDERS for suffix in FAMILIES]
DATASET_OF = {dataset: "clevr_simple" if dataset == "clevr_u" else dataset for dataset in _FOLDERS}


def model_file(name):
    """Return where the model `name` lies below ADDRESS."""
    dataset, suffix = name.rsplit("_", 1)
    folder, prefix = _FOLDERS[dataset]
    return f"pretrained_models/{folder}/{prefix}_{suffix}.pkl"


def dataset_files(name, resolution=None):
    """Return where the levels of the dataset `name`, 4 px up to `resolution` (None: all), lie below ADDRESS."""
    levels = range(2, (resolution or DATASETS[name]).bit_length())
    return [f"datasets/{name}/{name}-r{level:02d}.tfrecords" for level in levels]


def downloaded_model(name, models_dir=MODELS_DIR):
    """Return the path of the published model `name` on this machine, or None."""
    paths = [os.path.join(models_dir, name + ending) for ending in (".pkl", ".safetensors")]
    return next((path for path in paths if name in MODELS and os.path.isfile(path)), None)


# ----------------------------------------------------------------------------------------------------------------------
# Models


def get_model(name, models_dir, address=ADDRESS, from_file=None):
    """Bring the model `name` into `models_dir` and return its path; one that is there already stays.

    address    of the published files, or of a mirror of the same layout
    from_file  a copy of the file on this machine, instead
    """
    path = downloaded_model(name, models_dir)
    if path is not None:
        return path
    if from_file is not None:
        _check_model(from_file)
        ending = ".safetensors" if from_file.endswith(".safetensors") else ".pkl"
        return _copy(from_file, os.path.join(models_dir, name + ending))
    url = f"{address}/{model_file(name)}"
    try:
        return fetch(url, os.path.join(models_dir, name + ".pkl"), check=_check_model)
    except UserError as problem:
        dataset, suffix = name.rsplit("_", 1)
        raise _with_alternatives(
            problem,
            f"a copy of {os.path.basename(url)}",
            f"train your own: progan_experiments/training_scripts/{FAMILIES[suffix]}/{dataset}.sh",
        ) from None


def _check_model(path):
    from progan.snapshot import load_snapshot

    load_snapshot(path)


# ----------------------------------------------------------------------------------------------------------------------
# Datasets


def get_dataset(name, data_dir, address=ADDRESS, from_file=None, resolution=None):
    """Bring the dataset `name` into the directory DATA_DIR/NAME and return its path; one that is there already stays.

    It is put together in NAME.download.partial, which an attempt that broke off leaves behind and the next completes.

    address     of the published files, or of a mirror of the same layout
    from_file   a directory of the dataset's files on this machine, instead
    resolution  of the largest images to fetch (default: all that were published)
    """
    out = os.path.join(data_dir, name)
    if os.path.isdir(out):
        Dataset(out)
        return out
    if resolution is not None and resolution > DATASETS[name]:
        raise DataError(f"--resolution {resolution}: {name} was published up to {DATASETS[name]} px")
    unfinished = f"{out}.{'download' if from_file is None else 'copy'}{PARTIAL}"
    if from_file is not None:
        shutil.rmtree(unfinished, ignore_errors=True)
        for source, file in _local_files(from_file, name, resolution):
            _copy(source, os.path.join(unfinished, file))
    else:
        try:
            for file in dataset_files(name, resolution):
                fetch(f"{address}/{file}", os.path.join(unfinished, os.path.basename(file)), check=_check_records)
        except UserError as problem:
            raise _with_alternatives(
                problem, f"a directory of {name}-rNN.tfrecords", f"make your own: {_command_for(name)}"
            ) from None
    _check_levels(unfinished)
    for leftover in glob.glob(os.path.join(glob.escape(unfinished), "*.part*")):  # of levels that are no more wanted
        os.remove(leftover)
    os.replace(unfinished, out)
    return out


def _check_records(path):
    with RecordFile(path) as file:
        if not len(file):
            raise DataError(f"{path}: holds no image")
        try:
            decode_image(file[0])
        except ValueError as problem:
            raise DataError(f"{path}: record 0 is not an image: {problem}") from None


def _check_levels(directory):
    """Raise DataError unless a directory is a dataset whose levels hold equally many images."""
    dataset = Dataset(directory)
    try:
        for resolution in dataset.resolutions:
            dataset.images(resolution, [0, len(dataset) - 1])
    except DataError as problem:
        raise DataError(f"{problem}; delete {directory} and fetch it again") from None


def _local_files(directory, name, resolution):
    """Return [(path, name to be)] of a dataset's files."""
    if not os.path.isdir(directory):
        raise DataError(f"--from_file {directory}: a dataset is a directory of NAME-rNN.tfrecords files")
    dataset = Dataset(directory)
    largest = resolution or dataset.resolution
    found = {
        f"{name}-r{res.bit_length() - 1:02d}.tfrecords": dataset.level_path(res)
        for res in dataset.resolutions
        if res <= largest
    }
    for ending in ("-factors.npy", "-factors.json", "-rxx.labels"):
        path = os.path.join(dataset.path, dataset.name + ending)
        if os.path.exists(path):
            found[name + ending] = path
    return [(path, file) for file, path in found.items()]


def _command_for(name):
    """The command that makes a dataset of the same kind."""
    if name == "edges_and_shoes":
        return f"dataset_tool.py create_edges_and_shoes datasets/{name} edges2shoes.tar.gz (pix2pix's archive)"
    variant = name.split("_")[1]
    return f"dataset_tool.py render_clevr datasets/{name} --variant {variant} --images 10000 --resolution 128"


# ----------------------------------------------------------------------------------------------------------------------
# Files


def _copy(source, path):
    """Copy a file of this machine, and note what it is and where it is from, as a download does."""
    with open(source, "rb") as stream, atomic_write(path) as target:
        shutil.copyfileobj(stream, target, 1 << 20)
    record(path, file_sha256(path), os.path.abspath(source))
    return path


def _with_alternatives(problem, copy, own):
    """The error of a download that failed, and what else can be done. (One that broke off can go on.)"""
    if isinstance(problem, BrokenOffError):
        return problem
    said = re.sub(r"; (check the \w+|try again[^;]*)$", "", str(problem))
    return UserError(f"{said}; instead: --mirror URL (the same files elsewhere), --from_file PATH ({copy}), or {own}")


def about(name, data_dir, models_dir):
    """Return (what the published `name` is, the path where it is on this machine, or None)."""
    if name in DATASETS:
        path = os.path.join(data_dir, name)
        return f"dataset, 4 to {DATASETS[name]} px", path if level_files(path) else None
    suffix = name.rsplit("_", 1)[1]
    return f"model, {FAMILIES[suffix].replace('_', ' ')}", downloaded_model(name, models_dir)


def names_like(name):
    """Return the published names that `name` stands for: itself, or a dataset and its models; all for None."""
    every = [*DATASETS, *MODELS]
    if name is None:
        return every
    wanted = {name, DATASET_OF.get(name)} | {f"{name}_{suffix}" for suffix in FAMILIES}
    return [each for each in every if each in wanted]


def check_name(name):
    """Raise SnapshotError for a name that was not published."""
    if name not in DATASETS and name not in MODELS and name not in DATASET_OF:
        raise SnapshotError(f"{name}: not among what was published; --list shows all of it")
