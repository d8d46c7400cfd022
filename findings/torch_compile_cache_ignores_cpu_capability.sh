#!/usr/bin/env bash
# PyTorch: torch.compile keeps the kernels it has made for the CPU in a cache on disk. What it finds there does not depend on
# ATEN_CPU_CAPABILITY, and so a process that limits PyTorch to AVX2 takes code that was written for the vectors of AVX-512,
# compiles it with the shorter ones, and computes wrong numbers without a word. An empty cache (TORCHINDUCTOR_CACHE_DIR)
# gives the right ones. Needs a processor with AVX-512, and g++.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
grep -q avx512f /proc/cpuinfo || { echo "this processor has no AVX-512"; exit 1; }
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
cat > "$folder/compiled.py" <<'PYTHON'
import sys

import torch

torch.set_num_threads(1)
x = torch.linspace(-0.2, 0.3, 5 * 48).reshape(5, 48)
weight = torch.linspace(-1, 1, 48 * 16).reshape(48, 16)


def spread(x):
    hidden = torch.tanh(x @ weight)
    return ((hidden - hidden.mean(dim=1, keepdim=True)) ** 2).sum(dim=1)


right, found = spread(x), torch.compile(spread)(x)
capability = torch.backends.cpu.get_cpu_capability()
print(f"torch {torch.__version__}, {capability}, {sys.argv[1]}: largest error {(found - right).abs().max().item():.2g}")
assert (capability == "AVX512") == (sys.argv[1] == "first"), "another processor"
assert bool((found - right).abs().max() < 1e-5) == (sys.argv[1] != "same cache"), "this has changed"
PYTHON
export TORCHINDUCTOR_CACHE_DIR="$folder/cache"
"$folder/env/bin/python" "$folder/compiled.py" first
export ATEN_CPU_CAPABILITY=avx2
"$folder/env/bin/python" "$folder/compiled.py" "same cache"
TORCHINDUCTOR_CACHE_DIR="$folder/empty" "$folder/env/bin/python" "$folder/compiled.py" "empty cache"
