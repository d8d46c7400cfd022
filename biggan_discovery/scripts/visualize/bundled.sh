#!/bin/sh
# The directions that ship with the bundled generator.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" "$tree/vis_directions.py" --load_A "$tree/checkpoints/clevr_simple_32-seed0.pt" --path_size 2 "$@"
