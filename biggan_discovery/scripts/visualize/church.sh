#!/bin/sh
# What discover/church.sh found for churches, seen as far along each direction as published. --load_A FILE shows others.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" "$tree/vis_directions.py" --load_A results/church/A_050000.pt \
    --G_path 138k --fix_class 497 --path_size 3.5 "$@"
