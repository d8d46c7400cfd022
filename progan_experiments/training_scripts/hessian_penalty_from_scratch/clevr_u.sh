#!/bin/sh
# CLEVR-U (CLEVR-Simple with three latent components), with the Hessian Penalty from the first image on.
. "$(dirname "$0")/../common.sh"
train clevr_simple --hp_lambda 0.0125 --nz 3 "$@"
