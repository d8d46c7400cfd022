"""All that this project tests and measures on a GPU, in at most 8 minutes on one card.

    python benchmarks/gpu.py [--parts tests discovery table] [--budget SECONDS] [--output FILE]
    python benchmarks/gpu.py --device cpu --quick        # a dry run without a GPU: its figures mean nothing

It needs PyTorch (2.11 to 2.14 are known to do) and no installation of this project. First it says which packages are
missing, and what is left out for that. The parts, in the order in which they run:

tests      those in tests/gpu
discovery  a step of direction discovery at the published setting (BigGAN of base width 96, batch 24, 120 directions),
           beside the published algorithm: discovery_step.py
table      the penalty beside its definition, both by penalty_pytorch.py: DCGAN and BigGAN at batch 32, with gradients
           to the weights, and for BigGAN also with frozen weights and gradients to z; eager, compiled by torch.compile,
           and replayed as a CUDA graph. What matters most stands first, and what is compiled last.

time    median seconds over those of the definition in the same mode; all rows of a block take turns in one process
peak    memory of one step at its peak over the definition's. It is PyTorch's own count of what is allocated beyond the
        weights, latents and gradients that were there before; since that is exact, and what is no longer used is given
        back before each row, one process serves for all of them (a process for each row would cost 10 seconds each).
        For a CUDA graph it is the memory that the recording reserves in a pool of its own and keeps.
error   relative distance of the gradient from the definition's in float64, beside the definition's own in float32

cuDNN tries its algorithms for both (torch.backends.cudnn.benchmark), and chooses before anything is measured.

The results are written to benchmarks/results/gpu_CARD.md (a dry run's to build/gpu_cpu.md) after each block, so that
an end before time loses nothing. Every block has a limit of its own; what would not fit into the budget, or fails, is
noted in the table instead.
BigGAN is compiled with frozen weights alone: spectral normalization looks up values, where torch.compile breaks off.
A dry run compiles with the backend aot_eager, which generates no code, and has no CUDA graphs.
"""

import argparse
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)
PATHS = [ROOT, *(os.path.join(ROOT, *path) for path in (["biggan_discovery"], ["benchmarks"], ["tests", "helpers"]))]
sys.path[:0] = PATHS

from penalty import HEAD, NETWORKS, RESULTS, against, as_markdown, as_text  # noqa: E402

PARTS = ("tests", "discovery", "table")
# What is left out where a package is missing
PACKAGES = {
    "torch": "everything",
    "numpy": "the part discovery, and the tests of discovery",
    "safetensors": "the part discovery, and the tests of discovery",
    "tqdm": "the part discovery, and the tests of discovery",
    "pytest": "the part tests",
    "triton": "what is compiled",
    "google_crc32c": "nothing, since no data set is read",
    "hypothesis": "nothing, since no test of tests/gpu uses it",
}
FOR_DISCOVERY = ("numpy", "safetensors", "tqdm")
TIME_OF_SELECT, PEAK_OF_SELECT, TIME_OF_DISCOVERY = 0.35, 0.30, 0.50  # what is aimed at
PUBLISHED = (96, 24, 128)  # discovery: base width, batch size, resolution
ROWS = {"definition": None, "default": {}, "select": {"select": True}, "lean": {"memory": "lean"}}
FEW = ("definition", "select")  # for what takes a minute to compile
START = 15  # seconds that a process may need to begin
MARGIN = 5  # seconds of the budget that are kept back for the end


class Block:
    """A block of the table: what is compared with one definition.

    expected, limit: seconds that it should need on a card, without which it is not begun, and may need.
    """

    def __init__(self, network, mode, expected, limit, frozen=False, rows=("definition", "default", "select")):
        self.network, self.mode, self.frozen = network, mode, frozen
        self.expected, self.limit, self.rows = expected, limit, {name: ROWS[name] for name in rows}

    def __str__(self):
        kind, width, batch_size = self.network
        mode = {"eager": "eager", "compiled": "torch.compile", "graph": "CUDA graph"}[self.mode]
        weights = ", frozen weights" if self.frozen else ""
        return f"{NETWORKS[kind].format(width)}, batch {batch_size}{weights}, {mode}"


def blocks(quick):
    large, medium, dcgan = ("biggan", 96, 32), ("biggan", 16, 32), ("leaky", 64, 32)
    if quick:
        large, medium, dcgan = ("biggan32", 8, 4), None, ("leaky", 4, 4)
    every = [
        Block(large, "eager", 40, 120, rows=ROWS),
        Block(large, "eager", 30, 90, frozen=True, rows=ROWS),
        Block(dcgan, "eager", 10, 60, rows=ROWS),
        Block(medium, "eager", 15, 60, rows=ROWS),
        Block(medium, "eager", 15, 60, frozen=True, rows=ROWS),
        Block(dcgan, "graph", 10, 60),
        Block(large, "graph", 25, 90),
        Block(large, "graph", 20, 90, frozen=True),
        Block(medium, "graph", 10, 60),
        Block(medium, "graph", 10, 60, frozen=True),
        Block(dcgan, "compiled", 45, 120),
        Block(large, "compiled", 90, 200, frozen=True, rows=FEW),
        Block(medium, "compiled", 70, 200, frozen=True, rows=FEW),
    ]
    return [block for block in every if block.network]


# ----------------------------------------------------------------------------------------------------------------------
# The process that measures


def worker():
    """Do one task after the other, as they come from the standard input, and answer each in lines of JSON.

    {"part": what there is so far} any number of times, and at last {"value": the whole} or {"problem": in words}.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not get in between

    def answer(**content):
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    for line in sys.stdin:
        task = json.loads(line)
        try:
            answer(value=TASKS[task["name"]](*task["arguments"], report=lambda part: answer(part=part)))
        except Exception as problem:
            if task["name"] != "describe":  # where it is that there is no GPU
                traceback.print_exc()
            answer(problem=_in_a_line(problem))


def _in_a_line(problem):
    return f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"[:200]


def describe(device, report):
    """Return what the head of the table says about the machine, and the name of the card."""
    import torch
    from measure import machine

    versions = f"PyTorch {torch.__version__}"
    if device == "cpu":
        return f"{versions}; {machine()}", "cpu"
    cudnn = torch.backends.cudnn.version()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    card = torch.cuda.get_device_name(0)
    versions += f"; CUDA {torch.version.cuda}; cuDNN {cudnn}; driver {driver()}"
    return f"{card}, {memory:.0f} GiB; {versions}; {machine()}", card


def driver():
    """Return the version of NVIDIA's driver, in words."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=20).stdout.decode().split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        pass
    try:
        with open("/proc/driver/nvidia/version") as stream:
            return re.search(r"\d+\.\d+(\.\d+)?", stream.read()).group()
    except (OSError, AttributeError):
        return "unknown"


def measure_block(network, frozen, mode, rows, device, seconds, report):
    import torch
    from penalty_pytorch import on_device

    torch.set_num_threads(1)
    if mode == "compiled":
        torch.compiler.reset()
    return on_device(network, frozen, mode, rows, device, seconds, report)


def measure_discovery(setting, device, report):
    import discovery_step
    import torch

    torch.set_num_threads(1)
    seconds, peaks, distance = discovery_step.measured(setting, device, fresh=False)
    return seconds, peaks, distance, discovery_step.orthonormalisation_seconds(device)


TASKS = {"describe": describe, "block": measure_block, "discovery": measure_discovery}


class Worker:
    """That process. After a failure, or when time is up, it is ended, and the next task gets a new one."""

    def __init__(self):
        self.process, self.answers = None, None

    def do(self, limit, name, *arguments):
        """Return (what the task returns, or what it had done when it ended, or None; why that is not all, or None)."""
        if self.process is None:
            self._begin()
        until, part = time.time() + limit, None
        try:
            self.process.stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
            self.process.stdin.flush()
            while True:
                line = self.answers.get(timeout=max(0, until - time.time()))
                if line is None:
                    raise BrokenPipeError
                answer = json.loads(line)
                if "value" in answer:
                    return answer["value"], None
                part = answer.get("part", part)
                problem = answer.get("problem")
                if problem:
                    break
        except queue.Empty:
            problem = f"stopped after {limit:.0f} seconds"
        except BrokenPipeError:
            problem = f"its process ended ({self.process.wait()})"
        self.end()
        return part, problem

    def end(self):
        if self.process is not None:
            end_with_children(self.process)
        self.process = None

    def _begin(self):
        command = [sys.executable, os.path.abspath(__file__), "--worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True, start_new_session=True
        )
        self.answers = lines_of(self.process)


def lines_of(process):
    """Return a queue of the lines that a process prints, and None at their end."""
    lines = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def end_with_children(process):
    """End a process and what it started, such as compilers: it must lead a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


# ----------------------------------------------------------------------------------------------------------------------
# The parts


class Run:
    """A run of the script: its results so far, the time that is left, and the file to write."""

    def __init__(self, arguments, missing):
        self.arguments, self.missing, self.begin = arguments, missing, time.time()
        self.device, self.quick = arguments.device, arguments.quick
        self.worker, self.machine, self.output = Worker(), "", arguments.output
        self.walls, self.tests, self.discovery, self.tables, self.verdicts = {}, [], [], [], []

    def left(self):
        return self.arguments.budget - MARGIN - (time.time() - self.begin)

    def say(self, text):
        print(f"[{time.time() - self.begin:4.0f} s] {text}", flush=True)

    def do(self, limit, name, *arguments):
        return self.worker.do(max(1, min(START + limit, self.left())), name, *arguments)

    def fits(self, expected):
        """Whether there is time for something. A dry run stops at nothing but the budget itself."""
        return self.left() > (1 if self.quick else expected)

    def do_part(self, part):
        begin = time.time()
        self.say(f"{part} begins")
        try:
            getattr(self, f"do_{part}")()
        except Exception as problem:  # the other parts are still wanted
            traceback.print_exc()
            self.verdicts.append(f"{part}: {_in_a_line(problem)}")
        self.walls[part] = time.time() - begin
        self.write()

    def write(self):
        text = self.as_markdown()
        os.makedirs(os.path.dirname(os.path.abspath(self.output)), exist_ok=True)
        with open(self.output + ".part", "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(self.output + ".part", self.output)

    # tests

    def do_tests(self):
        if "pytest" in self.missing:
            self.tests = ["left out: there is no pytest"]
            return
        limit = max(1, min(self.left(), 200))
        environment = dict(os.environ, GPU_TESTS_DEVICE=self.device)
        environment.update({"OMP_NUM_THREADS": "1"} if self.device == "cpu" else {})
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers", "-v"]
        command += ["-rs", "--tb=short", "--durations=5", "--color=no", os.path.join("tests", "gpu")]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            universal_newlines=True, start_new_session=True,
        )  # fmt: skip
        try:
            self.tests = self._follow(process, time.time() + limit)
        finally:
            end_with_children(process)

    def _follow(self, process, until):
        """Print what pytest prints, and return a summary of it: a list of lines."""
        lines, outcomes, reasons, closing = lines_of(process), {}, set(), "stopped after its limit of time"
        while True:
            try:
                line = lines.get(timeout=max(0, until - time.time()))
            except queue.Empty:
                break
            if line is None:
                process.wait()
                break
            self.say(line.rstrip())
            found = re.match(r"(tests/gpu/\S+?\.py::.*?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", line)
            if found:
                outcomes[found.group(1)] = found.group(2)
            if line.startswith("SKIPPED ["):
                reasons.add(line.split(": ", 1)[-1].strip())
            if re.match(r"=+ .*\d+ (passed|failed|skipped|error).* in [\d.]+s", line):
                closing = line.strip("= \n")
        counts = {outcome: list(outcomes.values()).count(outcome) for outcome in sorted(set(outcomes.values()))}
        summary = [
            f"{closing} ({', '.join(f'{name.lower()}: {count}' for name, count in counts.items()) or 'none ran'})"
        ]
        summary += [f"{outcome}: `{name}`" for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]
        return summary + [f"skipped: {reason}" for reason in sorted(reasons)]

    # discovery

    def do_discovery(self):
        absent = [name for name in FOR_DISCOVERY if name in self.missing]
        if absent:
            self.discovery = [["left out: there is no " + ", ".join(absent), "", "", ""]]
            return
        ch, batch_size, resolution = setting = (4, 4, 32) if self.quick else PUBLISHED
        if not self.fits(30):
            self.discovery = [["left out: no time is left", "", "", ""]]
            return
        value, problem = self.do(90, "discovery", setting, self.device)
        title = f"BigGAN {resolution} px, ch {ch}, batch {batch_size}"
        if value is None:
            self.discovery = [[f"{title}: {problem}", "", "", ""]]
            self.verdicts.append(f"discovery step: not measured ({problem})")
            return
        seconds, peaks, distance, orthonormalisations = value
        self.discovery = [[f"**{title}; gradients differ by {distance:.0e}**", "", "", ""]]
        rows = [("seconds a step", seconds, 1, TIME_OF_DISCOVERY), ("peak MiB", peaks, 2**20, None)]
        rows.append(("orthonormalization of 120×120, ms", orthonormalisations, 1e-3, None))
        for what, values, unit, bound in rows:
            ratio = values["ours"] / values["baseline"] if values["baseline"] > 0 else float("nan")
            figures = [f"{values[name] / unit:.4g}" for name in ("baseline", "ours")]
            self.discovery.append([what, *figures, against(round(ratio, 2), bound)])
        self._judge("discovery step", "time", round(seconds["ours"] / seconds["baseline"], 2), TIME_OF_DISCOVERY)

    # table

    def do_table(self):
        for block in blocks(self.quick):
            why_not = self._why_not(block)
            rows, problem = None, why_not
            if not why_not:
                self.say(f"{block} ...")
                arguments = (block.network, block.frozen, block.mode, block.rows, self.device, 2 if self.quick else 6)
                rows, problem = self.do(block.limit, "block", *arguments)
            lines = self._lines(block, rows) if rows else []
            if problem:
                lines.append([f"not measured: {problem}" if not rows else problem, *[""] * (len(HEAD) - 1)])
                self.verdicts += [f"{block}: {problem}"] if block.mode == "eager" else []
            if rows and any("problem" in row for row in rows.values()):  # after an error a card may be of no use to it
                self.worker.end()
            self.tables.append((str(block), lines))
            print(as_text([], self.tables[-1:]), flush=True)
            self.write()

    def _why_not(self, block):
        if block.mode == "graph" and self.device == "cpu":
            return "CUDA graphs need CUDA"
        if block.mode == "compiled" and self.device == "cuda":
            if "triton" in self.missing:
                return "torch.compile needs Triton"
            if not any(map(shutil.which, ("gcc", "cc", "clang"))):
                return "torch.compile's Triton needs a C compiler"
        if not self.fits(block.expected):
            return f"{max(0, self.left()):.0f} seconds were left, and it needs about {block.expected}"
        return None

    def _lines(self, block, rows):
        lines, theirs = [], rows["definition"]
        for name, row in rows.items():
            if "problem" in row:
                lines.append([f"{name}: {row['problem']}", *[""] * (len(HEAD) - 1)])
                continue
            is_aim = name == "select" and block.mode == "eager"
            cells = {}
            for what, bound in ("seconds", TIME_OF_SELECT), ("peak", PEAK_OF_SELECT):
                ratio = round(row[what] / theirs[what], 2) if theirs.get(what) else None
                cells[what] = against(ratio, bound if is_aim else None)
                if is_aim and ratio is not None:
                    self._judge(f"select, {block}", "time" if what == "seconds" else what, ratio, bound)
            error = "" if row["error"] is None else f"{row['error']:.0e}"
            seconds, peak = f"{row['seconds']:.4f}", f"{row['peak'] / 2**20:.0f}"
            lines.append([name, seconds, cells["seconds"], peak, cells["peak"], error, f"{row['first']:.1f}"])
        return lines

    def _judge(self, subject, what, ratio, bound):
        self.verdicts.append(
            f"{subject}: {what} {ratio:.2f}, aimed at {bound:.2f}: {'yes' if ratio <= bound else 'NO'}"
        )

    # the file

    def as_markdown(self):
        walls = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in self.walls.items()) or "none as yet"
        command = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])
        head = [f"`{command}`", "", self.machine, "", f"Wall time: {time.time() - self.begin:.0f} s; parts: {walls}"]
        if self.missing:
            head += ["", *(f"- not installed: {name}; left out for that: {PACKAGES[name]}" for name in self.missing)]
        if self.device == "cpu":
            warning = (
                "A dry run on a CPU with small networks: it shows that the script works. Its figures mean nothing."
            )
            head = [f"**{warning}**", "", *head]
        head += ["", "## Verdicts", "", *(f"- {each}" for each in self.verdicts or ["none as yet"])]
        head += ["", "## Tests", "", *(f"- {each}" for each in self.tests or ["not run"])]
        head += ["", "## Discovery step", ""]
        table = [["", "baseline", "ours", "ratio"], ["---"] * 4, *self.discovery] if self.discovery else []
        head += ["| " + " | ".join(cells) + " |" for cells in table] or ["- not run"]
        head += ["", "## The penalty beside its definition, k = 2"]
        return as_markdown("On a GPU" if self.device != "cpu" else "On a GPU: a dry run", head, self.tables)


def as_file_name(card):
    """Return h100 for NVIDIA H100 80GB HBM3, geforce_rtx_4090 for NVIDIA GeForce RTX 4090."""
    words = re.findall("[a-z0-9]+", card.lower().replace("nvidia", ""))
    sizes = [i for i, word in enumerate(words) if re.match(r"\d+gb$", word)]
    return "_".join(words[: sizes[0]] if sizes else words)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--budget", type=float, default=480, metavar="SECONDS", help="for all of it (default: 480)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small networks, few turns")
    parser.add_argument(
        "--output", metavar="FILE", help="default: benchmarks/results/gpu_CARD.md; a dry run's: build/gpu_cpu.md"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser, parser.parse_args()


def main():
    parser, arguments = parse()
    if arguments.worker:
        return worker()
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("--device cpu is for dry runs: say --quick too")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"not installed: {name}; left out for that: {PACKAGES[name]}", flush=True)
    if "torch" in missing:
        parser.exit(2, "gpu.py: nothing can be done without PyTorch\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside; what was done is written"))
    os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
    run = Run(arguments, missing)
    try:
        described, problem = run.do(60, "describe", arguments.device)
        if problem:
            parser.exit(2, f"gpu.py: no GPU can be used: {problem} (--device cpu --quick makes a dry run)\n")
        run.machine, card = described
        run.say(run.machine)
        if run.output is None:
            folder = RESULTS if arguments.device == "cuda" else os.path.join(ROOT, "build")
            run.output = os.path.join(folder, f"gpu_{as_file_name(card)}.md")
        for part in (part for part in PARTS if part in arguments.parts):
            run.do_part(part)
    finally:
        run.worker.end()
    print("\n" + "\n".join([*run.tests, *run.verdicts]))
    run.say(f"done: {os.path.relpath(run.output)}")
    return None


if __name__ == "__main__":
    main()
