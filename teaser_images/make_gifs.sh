#!/usr/bin/env bash
# Make this folder's GIFs afresh, from the generators that ship with the project: `teaser_images/make_gifs.sh`, two minutes
# on a CPU. PYTHON names the interpreter (default: .venv/bin/python).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(dirname "$here")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"

run() {
    "${PYTHON:-$root/.venv/bin/python}" "$root/$1" "${@:2}"
}

# ProGANs on CLEVR-1FOV: with the Hessian Penalty and then released from it; and without it.
sweep() { # MODEL SAMPLES
    run progan_experiments/visualize.py --models "$1" --samples "$2" --nz_per_vid 12 --steps 30 --fps 20 --out_dir .
    mv "$1-seed0.gif" "$here/$1.gif"
}
sweep clevr_1fov_16_rel 7
sweep clevr_1fov_16_bl 5

# The directions that ship with the bundled BigGAN: samples of all classes, and of one.
show="biggan_discovery/vis_directions.py --path_size 2 --steps 31 --fps 30 --format gif --out_dir ."
directions="$root/biggan_discovery/checkpoints/clevr_simple_32-seed1.pt"
run $show --load_A "$directions" --directions_to_vis 0-7
mv clevr_simple_32-seed1-seed0.gif "$here/clevr_simple_32_directions.gif"
run $show --load_A "$directions" --directions_to_vis 0-5 --fix_class 0
mv clevr_simple_32-seed1-class0-seed0.gif "$here/clevr_simple_32_cubes.gif"

# Directions discovered in a ProGAN: of twelve, one moves the cube.
generator="$root/progan_experiments/pretrained_models/clevr_1fov_16_fs.safetensors"
run biggan_discovery/discover.py --G_path "$generator" --steps 1000 --batch_size 16 --path_size 2 --experiment_name cube
run $show --G_path "$generator" --load_A results/cube/A_001000.pt --nz_per_vid 12
mv cube-A_001000-seed0.gif "$here/cube_directions.gif"

# The explorers, filmed in Chromium.
run teaser_images/record_pages.py
