#!/bin/sh
# What discover/coarse.sh found for the coarse layers, seen as far along each direction as published. --load_A FILE shows others.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" "$tree/vis_directions.py" --load_A results/coarse/A_050000.pt \
    --G_path 138k --search_space coarse --path_size 2.5 "$@"
