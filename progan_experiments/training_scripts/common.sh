# What all training scripts share: `train DATASET FLAG...` and `fine_tune DATASET FLAG...`, for the scripts beside this file to source.
#
#   SMALL=1     laptop size: 32 px, small networks, 300 kimg; CLEVR images that are missing are rendered first
#   NUM_GPUS=4  as published; without it train.py takes one GPU if there is one, and scales the minibatch
#   FROM=...    of fine-tuning: the number of a run without the penalty, or a snapshot (default: the published one)
#   DATA_DIR, PYTHON
#
# Flags after the script's name go to train.py and win. Weights are in units of the unbiased estimator: half the published ones.
tree=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-python}
DATA_DIR=${DATA_DIR:-datasets}

render() { # DATASET VARIANT: make a small rendered dataset, unless it is there
    if [ ! -e "$DATA_DIR/$1" ]; then
        "$PYTHON" "$tree/dataset_tool.py" render_clevr "$DATA_DIR/$1" --variant "$2" --images 2000 --resolution 32 || exit
    fi
}

run_train() { # DATASET KIMG FLAG...
    dataset=$1 kimg=$2
    shift 2
    if [ -n "$NUM_GPUS" ]; then set -- --num_gpus "$NUM_GPUS" "$@"; fi
    if [ -n "$SMALL" ]; then
        case $dataset in
            clevr_simple | clevr_complex) render "${dataset}_32" "${dataset#clevr_}" && dataset=${dataset}_32 ;;
            clevr_1fov) dataset=clevr_1fov_32 ;; # ships with the project
        esac
        set -- --resolution 32 --fmap_base 128 --minibatch 16 --stage_kimg 20 --fade_kimg 20 "$@"
    fi
    exec "$PYTHON" "$tree/train.py" --dataset "$dataset" --data_dir "$DATA_DIR" --total_kimg "$kimg" "$@"
}

train() { # DATASET FLAG...: from scratch
    dataset=$1
    shift
    if [ -n "$SMALL" ]; then run_train "$dataset" 300 --warmup_kimg 100 "$@"; else run_train "$dataset" 50000 "$@"; fi
}

fine_tune() { # DATASET MODEL FLAG...: with the penalty; its weight rises from 0 over 10,000 kimg (SMALL: 100)
    dataset=$1 model=$2
    shift 2
    if [ -n "$SMALL" ] && [ -z "$FROM" ]; then
        echo "$0: FROM: which run? (training_scripts/vanilla/$(basename "$0") makes one: then FROM=0 or its number)" >&2
        exit 2
    fi
    case ${FROM:=$model} in
        *[!0-9]*) set -- --resume_snapshot "$FROM" "$@" ;;
        *) set -- --resume_exp "$FROM" "$@" ;;
    esac
    # What a published snapshot has seen is not in the file: it counts as 6,000 kimg, by which one has grown to 128 px.
    if [ -n "$SMALL" ]; then run_train "$dataset" 600 --warmup_kimg 100 "$@"
    elif [ "$FROM" = "$model" ]; then run_train "$dataset" 26000 "$@"
    else run_train "$dataset" 70000 "$@"; fi
}
