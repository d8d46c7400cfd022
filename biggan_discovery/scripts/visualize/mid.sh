#!/bin/sh
# What discover/mid.sh found for the middle layers, seen as far along each direction as published. --load_A FILE shows others.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" "$tree/vis_directions.py" --load_A results/mid/A_050000.pt \
    --G_path 138k --search_space mid --path_size 3.5 "$@"
