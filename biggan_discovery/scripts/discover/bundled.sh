#!/bin/sh
# Directions of the generator that ships with the project: minutes on a CPU.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" "$tree/discover.py" --experiment_name bundled --batch_size 32 --path_size 2 --num_epochs 1 "$@"
