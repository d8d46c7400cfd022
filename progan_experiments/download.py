#!/usr/bin/env python
"""Fetch what was published with the paper, by name: datasets as TFRecords, trained models as network pickles.

Files that are there already are not fetched again, a download that broke off is continued, and each file's size and
SHA-256 are noted beside it. What comes is checked, and never executed.
"""

import dataclasses

from experiment_utils.errors import OptionError, run_command
from experiment_utils.options import add_flags, from_namespace, make_parser, option, power_of_two
from progan import published

EXAMPLES = """
  what there is, and what of it is here
    download.py --list
  a dataset, and the models of another one, fine-tuned and from scratch
    download.py clevr_1fov edges_and_shoes_ft edges_and_shoes_fs
  from another server, or from a copy on this machine
    download.py clevr_simple_ft --mirror https://example.org/HessianPenalty/resources
    download.py clevr_simple_ft --from_file ~/Downloads/simple_ft.pkl
"""


def http_address(text):
    if not text.startswith(("http://", "https://")):
        raise ValueError("is no http:// or https:// address (for a copy on this machine: --from_file)")


@dataclasses.dataclass
class DownloadOptions:
    """The flags of download.py."""

    list: bool = option(False, "show what there is (all, or of the datasets named), and fetch nothing")
    data_dir: str = option("datasets", "where datasets go, a directory each; train.py looks for them there")
    models_dir: str = option(published.MODELS_DIR, "where models go; the other commands look for their names there")
    resolution: int = option(
        None, "of the largest images of datasets to fetch (default: all that there are)", int, check=power_of_two
    )
    mirror: str = option(
        published.ADDRESS, "address below which datasets/ and pretrained_models/ lie", check=http_address
    )
    from_file: str = option(
        None, "take it from this machine: a model's file, or the directory of a dataset's", str, metavar="PATH"
    )


def main(argv=None):
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument("names", metavar="NAME", nargs="*", help="DATASET or DATASET_{bl,info,fs,ft}; see --list")
    add_flags(parser, DownloadOptions)
    arguments = parser.parse_args(argv)
    chosen, names = from_namespace(DownloadOptions, arguments), arguments.names
    for name in names:
        published.check_name(name)
    if chosen.list:
        show(names, chosen)
        return
    if not names:
        raise OptionError("which? (NAME..., or --list)")
    if chosen.from_file is not None and len(names) > 1:
        raise OptionError(f"--from_file {chosen.from_file}: of which of {' '.join(names)}? give one name with it")
    for name in names:
        get(name, chosen)


def show(names, chosen):
    """Print a line for each published thing."""
    for name in names or [None]:
        for each in published.names_like(name):
            kind, path = published.about(each, chosen.data_dir, chosen.models_dir)
            print(f"{each:<22} {kind:<35} {path or 'not here'}")


def get(name, chosen):
    """Bring what `name` stands for to this machine, and say how it is used."""
    address = chosen.mirror.rstrip("/")
    if name in published.MODELS:
        path = published.get_model(name, chosen.models_dir, address, chosen.from_file)
        model = name if chosen.models_dir == published.MODELS_DIR else path
        print(f"{path}: try visualize.py --models {model}")
        return
    dataset = published.DATASET_OF[name]
    if dataset != name:
        print(f"{name} are models of {dataset} with three latent components: its images, and train.py --nz 3")
    path = published.get_dataset(dataset, chosen.data_dir, address, chosen.from_file, chosen.resolution)
    print(f"{path}: try train.py --dataset {path}, or check it with dataset_tool.py verify {path}")


if __name__ == "__main__":
    run_command(main)
