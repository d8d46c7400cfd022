#!/bin/sh
# What discover/goldens.sh found for golden retrievers, seen as far along each direction as published. --load_A FILE shows others.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" "$tree/vis_directions.py" --load_A results/goldens/A_050000.pt \
    --G_path 138k --fix_class 207 --path_size 2.5 "$@"
