#!/bin/sh
# Directions for golden retrievers. As published: 4 GPUs (NPROC=2 for two), the 138k weights, 50 epochs.
tree=$(cd "$(dirname "$0")/../.." && pwd)
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc_per_node="${NPROC:-4}" "$tree/discover.py" \
    --experiment_name goldens --G_path 138k --fix_class 207 --batch_size 96 --num_epochs 50 "$@"
