"""Which snapshot a user means: a run number, a path, or the name of a model that ships or was downloaded."""

import os
import re

from experiment_utils import runs
from experiment_utils.errors import OptionError, SnapshotError
from progan import published
from progan.snapshot import find_snapshot, pretrained_models


def find_models(models, kimgs=("latest",), results_dir="results", flags=("--models", "--snapshot_kimgs")):
    """Return [(name for output files, path of the snapshot)] of `models`.

    models       run numbers (as text), paths of snapshots (ours, or the reference's pickles), or names of models: those
                 that ship carry their resolution (clevr_1fov_16_fs), published ones do not (clevr_1fov_fs; they are
                 looked up where download.py puts them, published.MODELS_DIR)
    kimgs        for run numbers: kimg of the snapshot as text, or 'latest'; one for all models, or one each
    results_dir  where run numbers are looked up
    flags        of the command that asks, for messages: of the models, of the kimgs
    """
    kimgs = list(kimgs) * (len(models) if len(kimgs) == 1 else 1)
    if len(kimgs) != len(models):
        raise OptionError(f"{flags[1]}: {len(kimgs)} for {len(models)} models; give one, or one each")
    return [_find_model(model, kimg, results_dir, flags) for model, kimg in zip(models, kimgs)]


def _find_model(model, kimg, results_dir, flags):
    if kimg != "latest" and not kimg.isdigit():
        raise OptionError(f"{flags[1]} {kimg}: neither a number nor 'latest'")
    if model.isdigit():
        run_dir = runs.find_run_dir(results_dir, int(model))
        path = find_snapshot(run_dir, kimg if kimg == "latest" else int(kimg))
        return f"{os.path.basename(run_dir)}-{re.findall(r'[0-9]+', os.path.basename(path))[-1]}", path
    if model in pretrained_models():
        return model, pretrained_models()[model]
    if os.path.isdir(model):
        raise SnapshotError(f"{flags[0]} {model}: a directory; name a snapshot in it, or give the run's number")
    if os.path.exists(model):
        return os.path.splitext(os.path.basename(model))[0], model
    if model in published.MODELS:
        path = published.downloaded_model(model)
        if path is None:
            raise SnapshotError(f"{flags[0]} {model}: a published model, not here yet; fetch it: download.py {model}")
        return model, path
    shipped = ", ".join(pretrained_models()) or "none"
    raise SnapshotError(f"{flags[0]} {model}: neither a run number, nor a file, nor a shipped model ({shipped})")
