"""Experiments: runs with a name, a folder each in --results_dir, their flags, and how to go on with them."""

import dataclasses
import glob
import os
import shlex
import tempfile

from biggan import parallel
from experiment_utils import __version__, options
from experiment_utils.errors import OptionError, SnapshotError
from experiment_utils.files import read_json, write_json
from experiment_utils.options import option

PLACES = ("results_dir", "experiment_name", "resume")  # not kept with an experiment: it may move


def plain_name(name):
    if name in ("", ".", "..") or os.path.basename(name) != name:
        raise ValueError("must be the name of one folder, which goes into --results_dir")


def name_option(default):
    """Return the field experiment_name, whose default is each command's own."""
    return option(default, "folder in --results_dir for all that the run makes", check=plain_name)


@dataclasses.dataclass
class ExperimentOptions:
    """The flags that say where an experiment is, and whether to go on with it."""

    experiment_name: str = name_option("experiment")
    results_dir: str = option("results", "where experiments are kept")
    resume: bool = option(False, "go on with the experiment of this name; its flags are the defaults then")

    @property
    def run_dir(self):
        return os.path.join(self.results_dir, self.experiment_name)


def settled(chosen, argv, may_change):
    """Return the options to go by: `chosen`, or those of the experiment to resume.

    A resumed experiment has its own flags; those in `may_change` give way to what the command line gives anew. Raises
    OptionError for any other that is given differently, for an experiment that is not there, and for a new one that is.
    """
    run_dir = chosen.run_dir
    if not chosen.resume:
        if parallel.rank() == 0 and os.path.lexists(run_dir):
            raise OptionError(f"{run_dir} exists: go on with it (--resume), or choose another --experiment_name")
        return chosen
    if not os.path.isdir(run_dir):
        raise OptionError(f"--resume: no experiment {run_dir} (see --experiment_name and --results_dir)")
    path = os.path.join(run_dir, "options.json")
    record = read_json(path, SnapshotError)
    stored = record.get("flags") if isinstance(record, dict) else None
    if not isinstance(stored, dict):
        raise SnapshotError(f"{path}: holds no flags of an experiment")
    given = options.given_flags(type(chosen), argv)
    fixed = sorted(given - set(may_change) - set(PLACES))
    stored = {**options.to_json(type(chosen)()), **stored}  # that of an earlier version may lack some: their defaults
    changed = [name for name in fixed if getattr(chosen, name) != stored[name]]
    if changed:
        were = ", ".join(f"--{name} (was {stored[name]})" for name in changed)
        raise OptionError(f"--resume: {run_dir} cannot go on with other flags: {were}; start a new experiment for that")
    current = {name: getattr(chosen, name) for name in given | set(PLACES)}
    return options.validate(options.from_json(type(chosen), {**stored, **current}, path))


def record(chosen, leave_out=()):
    """Return the JSON value that is kept of the options, but for PLACES and those to leave out."""
    flags = {name: value for name, value in options.to_json(chosen).items() if name not in (*PLACES, *leave_out)}
    return {"flags": flags, "package_version": __version__}


def open_folder(chosen):
    """Make an experiment's folder with options.json in it; of one to resume, tidy up what a killed process left.

    A new folder gets its name with the file in it: a killed process leaves both or nothing.
    """
    if chosen.resume:
        for leftover in glob.glob(os.path.join(glob.escape(chosen.run_dir), ".*.part")):
            os.remove(leftover)
        write_json(os.path.join(chosen.run_dir, "options.json"), record(chosen))
        return
    os.makedirs(chosen.results_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=chosen.results_dir) as scratch:
        new = os.path.join(scratch, chosen.experiment_name)
        os.mkdir(new)
        write_json(os.path.join(new, "options.json"), record(chosen))
        os.rename(new, chosen.run_dir)


def resume_command(chosen, script):
    """Return the command line that goes on with an experiment."""
    command = f"{script} --experiment_name {shlex.quote(chosen.experiment_name)} --resume"
    if chosen.results_dir != ExperimentOptions.results_dir:
        command += f" --results_dir {shlex.quote(chosen.results_dir)}"
    if parallel.world_size() > 1:
        command = f"torchrun --nproc_per_node={parallel.world_size()} {command}"
    return command
