#!/bin/sh
# CLEVR-U (CLEVR-Simple with three latent components), without the penalty.
. "$(dirname "$0")/../common.sh"
train clevr_simple --hp_lambda 0 --nz 3 "$@"
