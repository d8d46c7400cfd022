#!/usr/bin/env python
"""Convert a network pickle of the reference to a snapshot of this project. Nothing in the pickle is executed."""

import dataclasses
import os

from experiment_utils.errors import OptionError, SnapshotError, run_command
from experiment_utils.options import add_flags, from_namespace, make_parser, option

EXAMPLES = """
  convert_snapshot.py network-snapshot-010000.pkl
  convert_snapshot.py pretrained_models/clevr_simple_ft.pkl simple.safetensors
"""


@dataclasses.dataclass
class ConvertOptions:
    """The flags of convert_snapshot.py."""

    overwrite: bool = option(False, "replace OUT if it exists")


def main(argv=None):
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument("pickle", metavar="PICKLE", help="a network pickle")
    parser.add_argument("out", metavar="OUT", nargs="?", help="what to write (default: PICKLE, ending .safetensors)")
    add_flags(parser, ConvertOptions)
    arguments = parser.parse_args(argv)
    chosen = from_namespace(ConvertOptions, arguments)
    path = arguments.pickle
    out = arguments.out or os.path.splitext(path)[0] + ".safetensors"
    if not os.path.isfile(path):
        raise SnapshotError(f"{path}: no such file")
    if os.path.exists(out) and os.path.samefile(path, out):
        raise OptionError(f"{out}: is the pickle itself; name another file to write")
    if os.path.exists(out) and not chosen.overwrite:
        raise OptionError(f"{out}: exists already; name another file, or replace it with --overwrite")

    from progan.pickles import is_pickle
    from progan.snapshot import load_snapshot, save_snapshot

    if not is_pickle(path):
        raise SnapshotError(f"{path}: is no network pickle (which begins with the byte 0x80); nothing to convert")
    snapshot = load_snapshot(path)
    save_snapshot(out, snapshot)
    report(snapshot, path, out)


def report(snapshot, path, out):
    """Print what was found, and what was written."""
    spec = snapshot.spec
    head = f"InfoGAN's Q head for {spec.infogan_nz} components" if spec.infogan_nz else "no Q head"
    print(f"{path}: a ProGAN of {spec.resolution} px, {spec.channels} channels, nz {spec.nz}, {head}")
    print(f"  feature maps  --fmap_base {spec.fmap_base} --fmap_max {spec.fmap_max}")
    for net, weights in snapshot.networks.items():
        print(f"  {net:<13} {sum(array.size for array in weights.values())} numbers in {len(weights)} arrays")
    print(f"  grown to      lod {snapshot.lod:g}, so {snapshot.kimg:g} kimg or more")
    print(f"{out}: {os.path.getsize(out)} bytes")


if __name__ == "__main__":
    run_command(main)
