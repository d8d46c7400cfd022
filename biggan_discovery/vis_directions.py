#!/usr/bin/env python
"""Show what directions in a latent space do: a row a direction, a column a sample.

As GIF, MP4 or stills; or as a page for the browser, with a slider a direction and several files side by side.
"""

import collections
import dataclasses
import functools
import os

from biggan import directions, sources, weights
from experiment_utils import options, runs
from experiment_utils.errors import OptionError, run_command
from experiment_utils.options import not_negative, option, positive
from experiment_utils.pages import PageOptions, save_page
from latent_traversal import ExplorerPanel, RowsOnDemand, save_gif, save_mp4, save_png, save_stills, sweep_columns

EXAMPLES = """
  the directions of a run of discover.py in the bundled generator
    vis_directions.py --load_A results/EXPERIMENT/A_050000.pt --path_size 2.5
  the first ten of them, samples of one class, as a video only
    vis_directions.py --load_A results/EXPERIMENT/A_050000.pt --directions_to_vis 0-9 --fix_class 1 --format mp4
  the same directions beside random ones, in one file that any browser opens
    vis_directions.py --load_A results/EXPERIMENT/A_050000.pt --format html --beside random
  random directions, for comparison
    vis_directions.py --load_A random --directions_to_vis 0-7
"""

GIF_FPS = 50  # the fastest that players show
SAMPLES = 4  # what a draw is for: the last part of its seed


@dataclasses.dataclass
class VisualizeOptions(PageOptions, directions.DirectionOptions, weights.GeneratorOptions):
    """The flags of vis_directions.py."""

    directions_to_vis: list = option(
        [], "numbers of directions, as in 0 3 8-11 (default: all)", options.integer_list, nargs="+", metavar="NUMBERS"
    )
    n_samples: int = option(6, "columns", check=positive)
    nz_per_vid: int = option(8, "rows of a video; further directions go into further ones", check=positive)
    val_minibatch_size: int = option(80, "images to generate at once", check=positive)
    seed: int = option(0, "of the samples, and of --load_A random", check=options.random_seed)
    out_dir: str = option("visualizations", "where the pictures go")
    format: list = option(["gif", "mp4"], "what to write", nargs="+", choices=("gif", "mp4", "stills", "html"))
    beside: list = option(
        [], "further directions on the page of --format html: files, random or coord", str, "+", metavar="A"
    )
    stills_only: bool = option(False, "the same as --format stills")
    n_frames_to_save: int = option(0, "steps of the path, evenly spaced, to save as PNG too", check=not_negative)
    steps: int = option(91, "images from one end of the path to the other", check=options.at_least(2))
    fps: int = option(60, f"frames a second; a GIF, which shows {GIF_FPS} at most, leaves frames out", check=positive)
    transpose: bool = option(False, "directions as columns, samples as rows")
    pad_x: int = option(4, "pixels between columns", check=not_negative)
    pad_y: int = option(4, "pixels between rows", check=not_negative)


def main(argv=None):
    chosen = options.parse(VisualizeOptions, __doc__, EXAMPLES, argv)
    formats = {"stills"} if chosen.stills_only else set(chosen.format)
    if chosen.beside and "html" not in formats:
        raise OptionError(f"--beside {' '.join(chosen.beside)}: only a page shows several; add --format html")
    G = weights.from_options(chosen)
    if chosen.fix_class is not None:
        G.check_class(chosen.fix_class, "--fix_class")
    sets = [load(path, G, chosen) for path in [chosen.load_A, *chosen.beside]]
    z, y = draw_samples(G, chosen)
    if formats - {"html"}:
        visualize(G, sets[0], z, y, chosen, formats)
    if "html" in formats:
        explore(G, sets, z, y, chosen)


Directions = collections.namedtuple("Directions", "name Q numbers")
Directions.__doc__ = (
    """What is shown of a file: its name, all its directions Q [ndirs, dim_z], and the numbers shown."""
)


def load(path, G, chosen):
    """Return the Directions of a file (or random, coord), those that are to be shown."""
    A, space = directions.from_options(dataclasses.replace(chosen, load_A=path), G.dim_z, chosen.seed)
    Q = directions.rows(A, space, not chosen.no_ortho)
    return Directions(directions.name_of(path), Q, pick(chosen.directions_to_vis, len(Q)))


def pick(wanted, count):
    """Return which of directions 0..count-1 are wanted ([]: all). Raises OptionError where that is none."""
    wanted = [number for part in wanted for number in part] or list(range(count))
    absent = sorted({number for number in wanted if number >= count})
    if len(absent) == len(set(wanted)):
        raise OptionError(f"--directions_to_vis {_words(absent)}: there are directions 0 to {count - 1} only")
    if absent:
        print(f"--directions_to_vis: left out {_words(absent)}; there are directions 0 to {count - 1}")
    return list(dict.fromkeys(number for number in wanted if number < count))


def _words(numbers):
    return ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")


def draw_samples(G, chosen):
    """Return z [n_samples, dim_z] and the classes int64 [n_samples] (None without classes), a function of the seed."""
    import torch

    draws = directions.generator(chosen.seed, SAMPLES)
    z = torch.randn(chosen.n_samples, G.dim_z, generator=draws)
    y = G.random_classes(chosen.n_samples, draws)
    return z, y if chosen.fix_class is None else torch.full_like(y, chosen.fix_class)


def visualize(G, shown, z, y, chosen, formats):
    """Write the videos and stills of Directions, and print their paths."""
    from biggan.traversal import direction_frames, direction_strips

    labels = class_labels(G, y, chosen)
    layout = {"pad_x": chosen.pad_x, "pad_y": chosen.pad_y, "transpose": chosen.transpose}
    numbers = shown.numbers
    parts = [numbers[i : i + chosen.nz_per_vid] for i in range(0, len(numbers), chosen.nz_per_vid)]
    for index, part in enumerate(runs.progress(parts, desc="rendering", unit="video", disable=None)):
        strips = direction_strips(G, shown.Q[part], z, y, chosen.path_size, chosen.steps, chosen.val_minibatch_size)
        frames = direction_frames(strips, part, labels, **layout)
        path = stem([shown], chosen) + (f"-part{index}" if len(parts) > 1 else "")
        for written in write(path, frames, formats, chosen):
            print(written)
        if "stills" in formats:
            save_png(path + "-sweep.png", direction_frames(sweep_columns(strips), part, **layout)[0])
            print(path + "-sweep.png")


def explore(G, sets, z, y, chosen):
    """Write the page of all sets of Directions, side by side, and print its path."""
    value_name, scores = score(G, sets, z, y, chosen)
    path = stem(sets, chosen) + ".html"
    with runs.progress(total=sum(map(len, scores)), desc="rendering", unit="row", disable=None) as bar:
        panels = [panel(G, shown, values, value_name, z, y, chosen, bar) for shown, values in zip(sets, scores)]
        title = f"Directions in {G.name}" if len(sets) > 1 else f"{sets[0].name}: directions in {G.name}"
        save_page(path, panels, title, chosen.path_size, chosen, "--n_samples, --directions_to_vis")
    print(path)


def score(G, sets, z, y, chosen):
    """Return (what the bars show, [a number >= 0 for each direction shown] for each of the Directions).

    Purity, where a regressor of the data's factors lies beside the generator, by the protocol of compare_directions.py;
    activeness, in any other.
    """
    from biggan import comparison
    from biggan.traversal import direction_activeness

    shown, minibatch = [each.Q[each.numbers] for each in sets], chosen.val_minibatch_size
    regressor = comparison.load_regressor(G, sources.files_beside(chosen.download or chosen.G_path)[0])
    if regressor is None:
        name = "activeness"
        measure = functools.partial(direction_activeness, G, z=z, y=y, path_size=chosen.path_size, minibatch=minibatch)
    else:
        name = "purity"
        protocol = comparison.Protocol(fix_class=chosen.fix_class, minibatch=minibatch, seed=chosen.seed)
        measure = functools.partial(comparison.direction_purity, G, protocol=protocol, regressor=regressor)
        shown = [Q / Q.norm(dim=1, keepdim=True) for Q in shown]
    return name, [measure(Q=Q) for Q in runs.progress(shown, desc=f"measuring {name}", unit="set", disable=None)]


def panel(G, shown, values, value_name, z, y, chosen, bar):
    from biggan.traversal import direction_strips

    order = (-values).argsort(kind="stable")
    numbers = [shown.numbers[place] for place in order]

    def row(place):
        Q = shown.Q[[numbers[place]]]
        size, steps, minibatch = chosen.path_size, chosen.html_steps, chosen.val_minibatch_size
        (strips,) = direction_strips(G, Q, z, y, size, steps, minibatch, eased=False)
        bar.update()
        return strips

    labels = [f"direction {number}" for number in numbers]
    rows = RowsOnDemand(row, len(numbers))
    return ExplorerPanel(shown.name, rows, labels, values[order], value_name, class_labels(G, y, chosen))


def class_labels(G, y, chosen):
    """The name of each class, or what number it has; None where there are none, or only one."""
    if y is None or chosen.fix_class is not None:
        return None
    return [f"class {int(c)}" if G.class_names is None else G.class_name(int(c)) for c in y]


def stem(sets, chosen):
    """Path that all output files begin with: the names of the Directions, the class, the seed."""
    name = "-vs-".join(shown.name for shown in sets)
    name += "" if chosen.fix_class is None else f"-class{chosen.fix_class}"
    return os.path.join(chosen.out_dir, f"{name}-seed{chosen.seed}")


def write(path, frames, formats, chosen):
    """Write the frames in all formats; return the paths."""
    from biggan.traversal import round_trip

    os.makedirs(chosen.out_dir, exist_ok=True)
    paths = []
    if "gif" in formats:
        every = -(-chosen.fps // GIF_FPS)
        paths.append(path + ".gif")
        save_gif(paths[-1], round_trip(frames)[::every], fps=chosen.fps / every, loop=False)
    if "mp4" in formats:
        paths.append(path + ".mp4")
        save_mp4(paths[-1], round_trip(frames), fps=chosen.fps, loop=False)
    stills = chosen.n_frames_to_save or (5 if "stills" in formats else 0)
    return paths + (save_stills(path, frames, min(stills, len(frames))) if stills else [])


if __name__ == "__main__":
    run_command(main)
