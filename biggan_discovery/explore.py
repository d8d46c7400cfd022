#!/usr/bin/env python
"""Move along all directions at once, in the browser: a slider for each, the class, the seed, the truncation.

The page is served at 127.0.0.1, asks no other host for anything, and saves what it shows as PNG, as GIF (from the
sample to the picture and back) and as JSON, which --setting opens again.
"""

import dataclasses
import errno
import importlib.util
import os
import socket
import sys
import webbrowser

from biggan import directions, weights
from experiment_utils import options
from experiment_utils.errors import OptionError, UserError, run_command
from experiment_utils.options import not_negative, option, positive

EXAMPLES = """
  the bundled generator and the directions beside it
    explore.py
  the directions of a run of discover.py, and the browser with it
    explore.py --load_A results/EXPERIMENT/A_050000.pt --open
  the components of z, one slider each, of a ProGAN's snapshot
    explore.py --G_path results/RUN/network-snapshot-000500.safetensors --load_A coord
  what the page saved as JSON
    explore.py --setting clevr_simple_32-seed0-class1-sample7.json
"""

PATH_SIZE = 3.0
OLDEST_GRADIO = (6, 31)  # none older was tried
SAYS_ITSELF = ("search_space", "ndirs", "no_ortho", "seed", "fix_class", "truncation")  # a setting file does


@dataclasses.dataclass
class ExploreOptions(directions.DirectionOptions, weights.GeneratorOptions):
    """The flags of explore.py."""

    load_A: str = option(
        None,
        "directions: a file, coord (the axes of z) or random (default: the file beside the generator, or else coord)",
        str,
        metavar="A",
    )
    ndirs: int = option(
        None,
        f"directions (default: those of the file, all axes, or {directions.DEFAULT_NDIRS} random ones)",
        int,
        check=positive,
    )
    path_size: float = option(
        None, f"how far a slider goes to either side (default: the setting file's, or {PATH_SIZE:g})", float,
        check=positive,
    )  # fmt: skip
    fix_class: int = option(
        None, "class to begin with (ImageNet: 207 golden retriever, 497 church)", int, check=not_negative
    )
    seed: int = option(0, "of the first sample, and of --load_A random", check=options.random_seed)
    truncation: float = option(
        None,
        "draw z so that no component is larger; for a BigGAN-deep the published truncation, at most 1 (default: none)",
        float,
        check=positive,
    )
    setting: str = option(None, "open a JSON file that the page saved", str, metavar="JSON")
    host: str = option("127.0.0.1", "address to answer at; 0.0.0.0 lets in everybody who can reach this machine")
    port: int = option(7860, "port to answer at; 0 takes any that is free", check=not_negative)
    open: bool = option(False, "open the browser too")


def main(argv=None):
    chosen = options.parse(ExploreOptions, __doc__, EXAMPLES, argv)
    require_gradio()
    record = read_setting(chosen, options.given_flags(ExploreOptions, argv))
    listener = listen(chosen.host, chosen.port)
    explorer, setting = make_explorer(chosen, record)

    from biggan import explorer_guard, explorer_page

    page = explorer_page.build(explorer, setting)
    address = address_of(listener)
    print(f"{explorer.G.name}: {len(explorer.Q)} directions, {explorer.origin['directions']['load_A']}")
    if not is_local(listener):
        print(f"--host {chosen.host}: whoever reaches this machine reaches the page too")
    print(f"open {address} in a browser; Ctrl-C ends", flush=True)
    if chosen.open:
        webbrowser.open(address)
    names = explorer_guard.names_of(chosen.host, listener.getsockname()[0])
    explorer_page.serve(page, listener, names, explorer.stop)


def require_gradio():
    """Raise UserError where there is no Gradio, or one that is too old. It is imported later, as that takes seconds."""
    install = 'pip install "hessian-penalty[explore]" (in a clone: pip install -e ".[explore]")'
    if sys.version_info < (3, 10):
        here = "%d.%d" % sys.version_info[:2]
        raise UserError(f"explore.py needs Gradio, which needs Python 3.10 or later (this is {here}); then {install}")
    if importlib.util.find_spec("gradio") is None:
        raise UserError(f"explore.py needs Gradio: {install}")
    from importlib import metadata  # Python 3.7 has none

    version = metadata.version("gradio")
    if tuple(map(int, version.split(".")[:2])) < OLDEST_GRADIO:
        oldest = "%d.%d" % OLDEST_GRADIO
        raise UserError(f"explore.py needs Gradio {oldest} or later, this is {version}: {install}")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def read_setting(chosen, given):
    """Return what the file of --setting holds, or None. Raises OptionError beside flags that it would contradict."""
    if chosen.setting is None:
        return None
    twice = sorted(given.intersection(SAYS_ITSELF))
    if twice:
        raise OptionError(f"--{twice[0]}: {chosen.setting} says that itself; leave the flag out")
    from biggan import exploring

    return exploring.read_record(chosen.setting)


def make_explorer(chosen, record):
    """Return (Explorer, the Setting to begin with) of the flags, completed by a setting file's record (or None)."""
    from biggan import exploring

    if record is not None:
        chosen = exploring.with_record(chosen, record, chosen.setting)
    elif chosen.load_A is None:
        load_A = exploring.default_directions(chosen.download or chosen.G_path)
        chosen = dataclasses.replace(chosen, load_A=load_A)
    path_size = PATH_SIZE if chosen.path_size is None else chosen.path_size
    G = weights.from_options(chosen)
    if chosen.load_A in ("coord", "coords") and chosen.ndirs is None:  # a slider for each component
        chosen = dataclasses.replace(chosen, ndirs=directions.search_space(chosen.search_space, G.dim_z).width)
    A, space = directions.from_options(chosen, G.dim_z, chosen.seed)
    Q = directions.rows(A, space, not chosen.no_ortho)
    origin = exploring.origin(G, chosen)
    if record is None:
        explorer = exploring.Explorer(G, Q, path_size, origin)
        return explorer, explorer.check(explorer.start(chosen.seed, chosen.fix_class, chosen.truncation))
    explorer = exploring.Explorer(G, Q, path_size, origin, exploring.opened(record, chosen.setting, origin, G, Q))
    try:
        return explorer, explorer.check(explorer.start())
    except OptionError as problem:
        raise UserError(f"{chosen.setting}: {problem}") from None


def listen(host, port):
    """Return a socket that is bound to that port, the first thing done, as it may be in use. Raises OptionError."""
    if port > 65535:
        raise OptionError(f"--port {port}: ports go up to 65535")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise OptionError(f"--host {host}: no address of this machine; say 127.0.0.1") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen()
    except OSError as problem:
        listener.close()
        raise OptionError(why_not(problem, host, port)) from None
    return listener


def why_not(problem, host, port):
    """Say why a port cannot be had, and what to do."""
    if problem.errno == errno.EADDRINUSE:
        return f"--port {port}: in use, perhaps by another explore.py; end that one, or say --port {port + 1}"
    if problem.errno == errno.EACCES:
        return f"--port {port}: not for this user; say --port 7860"
    return f"--host {host}: cannot answer there ({problem.strerror}); say 127.0.0.1"


def is_local(listener):
    """Tell whether only this machine can reach a socket."""
    return listener.getsockname()[0].startswith(("127.", "::1"))


def address_of(listener):
    """Return the address that a browser on this machine takes."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    run_command(main)
