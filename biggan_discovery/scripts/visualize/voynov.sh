#!/bin/sh
# Directions of Voynov & Babenko (2020), for comparison: they are neither orthogonal nor of length 1. --load_A FILE names
# the file, by default voynov.pt in the working directory.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" "$tree/vis_directions.py" --load_A voynov.pt \
    --G_path 138k --no_ortho --path_size 8 --n_samples 8 "$@"
