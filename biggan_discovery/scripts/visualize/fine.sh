#!/bin/sh
# What discover/fine.sh found for the fine layers, seen as far along each direction as published. --load_A FILE shows others.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" "$tree/vis_directions.py" --load_A results/fine/A_050000.pt \
    --G_path 138k --search_space fine --path_size 6 "$@"
