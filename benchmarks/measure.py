"""Seconds and peak memory, as all benchmarks of this folder take them.

Seconds: what is compared takes turns within one process, after one unmeasured turn each, and the median counts: so a
busy machine slows all of it alike. Peaks: of a fresh process each, less what it held before the measured call; on a
GPU, whose allocator counts exactly, of one process, with all that is no longer used given back before (`peak`).
"""

import gc
import importlib
import multiprocessing
import os
import platform
import statistics
import sys
import time

# glibc keeps freed blocks below a threshold in its heap, and raises that threshold as larger ones are freed, so that
# peaks depend on the history of allocations. With a fixed threshold every larger block goes back at once.
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def timed(function, synchronise=None):
    """Return the seconds that function() takes. synchronise: waits until a device has finished."""
    begin = time.perf_counter()
    function()
    if synchronise:
        synchronise()
    return time.perf_counter() - begin


def in_turns(functions, turns, synchronise=None):
    """Return {name: median seconds} of functions ({name: function}), that must have run once before."""
    seconds = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            seconds[name].append(timed(function, synchronise))
    return {name: statistics.median(values) for name, values in seconds.items()}


def count_from_here():
    """Let `resident_peak` count from now on (Linux). Returns what is held now, in bytes."""
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")
    return resident_peak()


def resident_peak():
    """The most bytes of memory that this process has held (Linux; getrusage would count its parent's too)."""
    with open("/proc/self/status") as stream:
        return next(1024 * int(line.split()[1]) for line in stream if line.startswith("VmHWM"))


def synchronizer(device):
    """Return a function that waits until the device has finished, for `timed`; None for the CPU."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else None


def peak(function, device):
    """Return the bytes that function() takes at its peak beyond what was held before, on a GPU or (roughly) a CPU."""
    import torch

    gc.collect()
    if device != "cuda":
        before = count_from_here()
        function()
        return resident_peak() - before
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def in_a_fresh_process(module, function, *arguments, **environment):
    """Return module.function(*arguments), called in a process of its own, with these variables in its environment."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_call, (module, function, arguments))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _call(module, function, arguments):
    return getattr(importlib.import_module(module), function)(*arguments)


def machine():
    """Return the processor's name, its number of cores and Python's version, in words."""
    with open("/proc/cpuinfo") as stream:
        names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores; Python {sys.version.split()[0]}"
