"""Pages that explore traversals (`--format html`): the flags of both trees' commands, and what they do with them."""

import dataclasses

from experiment_utils import options
from experiment_utils.errors import OptionError
from experiment_utils.options import option, positive
from latent_traversal import PageTooLargeError, save_html, sweep_values


def _quality(value):
    if not 1 <= value <= 100:
        raise ValueError("must be 1 to 100")


@dataclasses.dataclass
class PageOptions:
    """The flags of --format html."""

    html_steps: int = option(
        25, "positions of a page's sliders; an odd number has 0 among them", check=options.at_least(2)
    )
    html_quality: int = option(70, "of a page's pictures, 1 to 100", check=_quality)
    max_mb: float = option(8.0, "megabytes that a page may have", check=positive)


def save_page(path, panels, title, extent, chosen, fewer):
    """Save the page of sweeps from -extent to extent with the PageOptions of `chosen`.

    fewer   names the command's flags for samples and for rows
    """
    positions = sweep_values(chosen.html_steps, extent)
    try:
        save_html(path, panels, title, positions, quality=chosen.html_quality, max_mb=chosen.max_mb)
    except PageTooLargeError as problem:
        raise OptionError(
            f"{path} would be about {problem.megabytes:.3g} MB, more than --max_mb {chosen.max_mb:g}: lower "
            f"--html_quality, --html_steps, {fewer}, or raise --max_mb"
        ) from None
