"""The penalty and its options, forward and backward, against its definition written out plainly.

    python benchmarks/penalty.py [--frameworks pytorch tensorflow jax] [--compile] [--only TEXT]

The definition is Equation 5 as it stands: 2k + 1 passes, or 2k where G(z) is given, second differences, their unbiased
variance, the reduction. It is written out in penalty_pytorch.py, penalty_tensorflow.py and penalty_jax.py. Both sides
get the same weights, latents and directions, and gradients go to G's parameters.

time    median seconds over the definition's; all rows of a block take turns in one process
peak    memory of one step at its peak over the definition's, each in a fresh process, less what it held before:
        weights, latents and the storage of G's gradients (JAX: what its compiler plans beside them)
error   relative distance of the gradient from the definition's in float64, beside the definition's own in float32

Each figure that is held to a bound shows it. The table is printed and written to benchmarks/results/ as Markdown.
All of it is measured on the CPU; gpu.py has a plan of its own for GPUs.
"""

import argparse
import collections
import importlib.util
import os
import sys
import time

from measure import RETURN_MEMORY, in_a_fresh_process, machine

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
PACKAGES = {"pytorch": "torch", "tensorflow": "tensorflow", "jax": "jax"}
FRAMEWORKS = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}

# A block: what is compared with one and the same definition.
# network: (kind, base width, batch size); centre: the definition is given G(z); rows: {call: Row}.
# A row: keywords of hessian_penalty; the bounds of both ratios, None where none is set.
Block = collections.namedtuple("Block", "framework network k reduction centre turns rows takes_peaks")
Row = collections.namedtuple("Row", "options time peak")

NETWORKS = {
    "leaky": "DCGAN 64 px, ngf {}",
    "softplus": "the same with softplus, ngf {}",
    "biggan": "BigGAN 128 px, ch {}",
    "biggan32": "BigGAN 32 px, ch {}",
}


def blocks(plans, only):
    every = [block for plan in plans for block in PLANS[plan]()]
    return [block for block in every if only in description(block)]


def pytorch_blocks():
    for network, turns in (("leaky", 64, 8), 15), (("biggan", 16, 4), 2):
        yield _block(network, turns, _common(network, batched=True))
        yield _block(network, 2 * turns, {"default": Row({}, 1.0, None)}, centre=True)  # as many passes: ends near 1
        yield _block(network, 2, {"chunk_size": _chunks(network)}, reduction="mean")
        slow = {"default": Row({}, 1.0, None), "lean": Row({"memory": "lean"}, 1.30, 0.50)}
        slow = dict(slow, select=Row({"select": True}, 1.0, None))
        yield _block(network, max(1, turns // 3), slow, k=8, takes_peaks=network[0] != "biggan")  # those take minutes
    large = ("leaky", 64, 32)
    yield _block(large, 3, _common(large))
    yield _block(large, 2, {"chunk_size": _chunks(large)}, reduction="mean")
    smooth = {"default": Row({}, 0.85, None), "exact": Row({"exact": True}, None, None)}
    yield _block(("softplus", 64, 8), 3, smooth)


def tensorflow_blocks():
    network, large = ("leaky", 64, 8), ("leaky", 64, 32)
    yield _block(network, 15, _common(network), framework="tensorflow")
    yield _block(network, 15, {"default": Row({}, 1.0, None)}, centre=True, framework="tensorflow")
    yield _block(network, 3, {"chunk_size": _chunks(network)}, reduction="mean", framework="tensorflow")
    slow = {"default": Row({}, 1.0, None), "lean": Row({"memory": "lean"}, 1.30, 0.50)}
    yield _block(network, 3, slow, k=8, framework="tensorflow")
    yield _block(large, 3, _common(large), framework="tensorflow")
    yield _block(large, 2, {"chunk_size": _chunks(large)}, reduction="mean", framework="tensorflow")


def jax_blocks():
    network = ("leaky", 16, 8)  # XLA's convolutions on a CPU are slow, in float64 above all
    yield _block(network, 3, _common(network), framework="jax")


def compiled_blocks():
    rows = {call: Row(options, None, None) for call, options in (("default", {}), ("select", {"select": True}))}
    compiled = {f"{call}, compiled": Row({**row.options, "compile": True}, None, None) for call, row in rows.items()}
    yield _block(("leaky", 64, 8), 3, {**rows, **compiled}, takes_peaks=False)


def _common(network, batched=False):
    rows = {
        "default": Row({}, 0.85, None),
        "select": Row({"select": True}, 0.40 if network[2] >= 8 else 0.50, None),
        "lean": Row({"memory": "lean"}, 1.10, 0.50),
        "batched": Row({"batched": True}, None, None) if batched else None,
    }
    return {call: row for call, row in rows.items() if row}


def _chunks(network):
    return Row({"chunk_size": network[2] // 4}, None, 0.45)


def _block(network, turns, rows, k=2, reduction="max", centre=False, framework="pytorch", takes_peaks=True):
    takes_peaks = takes_peaks and not centre  # there the definition holds one pass less, and nothing else changes
    return Block(framework, network, k, reduction, centre, turns, rows, takes_peaks)


PLANS = {
    "pytorch": pytorch_blocks,
    "tensorflow": tensorflow_blocks,
    "jax": jax_blocks,
    "compile": compiled_blocks,
}


# ----------------------------------------------------------------------------------------------------------------------
# Measuring a block


def measured(block):
    """Return a block's lines of the table, each a list of cells, and what is beyond its bound, in words."""
    module = f"penalty_{block.framework}"
    setting = (block.network, block.k, block.reduction, block.centre)
    options = {"definition": None, **{call: row.options for call, row in block.rows.items()}}
    times = in_a_fresh_process(module, "times_and_errors", *setting, options, block.turns)
    peaks = {}
    if block.takes_peaks:
        for call, each in options.items():
            peaks[call] = in_a_fresh_process(module, "peak_memory", *setting, each, **RETURN_MEMORY)
    lines, beyond = [], []
    for call, (seconds, error, first) in times.items():
        row = block.rows.get(call, Row(None, None, None))
        time_ratio = round(seconds / times["definition"][0], 2)  # bounds are for what is printed
        peak_ratio = round(peaks[call] / peaks["definition"], 2) if peaks else None
        for what, ratio, bound in ("time", time_ratio, row.time), ("peak", peak_ratio, row.peak):
            if bound is not None and ratio is not None and ratio > bound:
                beyond.append(f"{description(block)}: {call}: {what} {ratio:.2f}, demanded {bound:.2f}")
        lines.append(
            [
                call + ("" if call != "chunk_size" else f"={row.options['chunk_size']}"),
                f"{seconds:.3f}",
                against(time_ratio, row.time),
                f"{peaks[call] / 2**20:.0f}" if peaks else "",
                against(peak_ratio, row.peak),
                "" if block.centre or _is_other_function(block, call) else f"{error:.0e}",
                f"{first:.1f}",
            ]
        )
    return lines, beyond


def _is_other_function(block, call):
    """Whether gradients are not to be compared: at kinks, exact derivatives are not what differences measure."""
    return call == "exact" and block.network[0] != "softplus"


def against(ratio, bound):
    """Return a ratio as a cell of the table, beside the bound if there is one."""
    if ratio is None:
        return ""
    verdict = "" if bound is None else f" (≤ {bound:.2f}: {'yes' if ratio <= bound else 'NO'})"
    return f"{ratio:.2f}{verdict}"


def description(block):
    kind, width, batch_size = block.network
    parts = [f"{FRAMEWORKS[block.framework]}: {NETWORKS[kind].format(width)}, batch {batch_size}, k = {block.k}"]
    parts += ["G(z) given"] if block.centre else []
    parts += [f"{block.reduction} reduction"] if block.reduction != "max" else []
    return ", ".join(parts)


# ----------------------------------------------------------------------------------------------------------------------
# The table

HEAD = ["", "seconds", "time", "peak MiB", "peak", "gradient error", "first call s"]


def as_text(head, tables):
    rows = [HEAD, *(line for _, lines in tables for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]

    def aligned(row):
        return (
            "  "
            + "  ".join([row[0].ljust(widths[0]), *(cell.ljust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip()
        )

    body = [text for title, lines in tables for text in (title, *map(aligned, lines))]
    return "\n".join([*head, aligned(HEAD), *body])


def as_markdown(title, head, tables):
    def row(cells):
        return "| " + " | ".join(cells) + " |"

    lines = [f"# {title}", "", *head, "", row(HEAD), row(["---"] * len(HEAD))]
    for title, rows in tables:
        lines += [row([f"**{title}**"] + [""] * (len(HEAD) - 1)), *map(row, rows)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="+", choices=list(FRAMEWORKS), default=None)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well: another minute or two")
    parser.add_argument("--only", metavar="TEXT", default="", help="those blocks alone whose title contains TEXT")
    parser.add_argument("--output", metavar="FILE", help="default: benchmarks/results/penalty_cpu.md")
    arguments = parser.parse_args()
    frameworks = arguments.frameworks or [each for each in FRAMEWORKS if importlib.util.find_spec(PACKAGES[each])]
    output = arguments.output or os.path.join(RESULTS, "penalty_cpu.md")
    os.environ.update(OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")  # before the processes that measure begin

    begin, tables, beyond = time.time(), [], []
    versions = [in_a_fresh_process(f"penalty_{framework}", "versions") for framework in frameworks]
    for block in blocks([*frameworks, *(["compile"] if arguments.compile else [])], arguments.only):
        lines, missed = measured(block)
        tables.append((description(block), lines))
        beyond += missed
        print(f"after {time.time() - begin:.0f} s:\n{as_text([], tables[-1:])}", flush=True)
    command = " ".join(["python benchmarks/penalty.py", *sys.argv[1:]])
    head = [f"{command}  ({(time.time() - begin) / 60:.1f} minutes)", f"{'; '.join(versions)}; {machine()}; one thread"]
    print("\n" + as_text(head, tables))
    print("\n" + ("\n".join(["Beyond what is demanded:", *beyond]) if beyond else "Every demanded bound holds."))
    summary = ["", *(f"- beyond what is demanded: {each}" for each in beyond)] if beyond else []
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    with open(output, "w", encoding="utf-8") as stream:
        stream.write(
            as_markdown("The penalty against its definition", [f"`{head[0]}`", "", head[1]], tables)
            + "\n".join([*summary, ""])
        )
    print(f"Written to {os.path.relpath(output)}")


if __name__ == "__main__":
    main()
