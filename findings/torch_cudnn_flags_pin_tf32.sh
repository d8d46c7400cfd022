#!/usr/bin/env bash
# PyTorch: torch.backends.fp32_precision = "ieee" turns TF32 off everywhere, convolutions and RNNs of cuDNN among them. But
# not any more once anything has written the older switch torch.backends.cudnn.allow_tf32, even with the value that it
# has by default; and leaving a `with torch.backends.cudnn.flags(...)` block writes it. All settings read the same
# before and after the block, and yet "ieee" then leaves the convolutions in TF32. No GPU is needed to see it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
cat > "$folder/precision.py" <<'PYTHON'
import sys

import torch
from torch import backends


def settings():
    return backends.fp32_precision, backends.cudnn.fp32_precision, backends.cudnn.conv.fp32_precision


before = settings()
if sys.argv[1] == "with":
    with backends.cudnn.flags(deterministic=True):
        pass
assert settings() == before
backends.fp32_precision = "ieee"
print(f"torch {torch.__version__}, {sys.argv[1]} a block of cudnn.flags before: convolutions in {settings()[2]}")
assert settings()[2] == sys.argv[2], "this has changed"
PYTHON
"$folder/env/bin/python" "$folder/precision.py" without ieee
"$folder/env/bin/python" "$folder/precision.py" with tf32
