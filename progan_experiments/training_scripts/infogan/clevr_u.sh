#!/bin/sh
# CLEVR-U (CLEVR-Simple with three latent components), InfoGAN: regresses the first 3 components of z.
. "$(dirname "$0")/../common.sh"
train clevr_simple --hp_lambda 0 --infogan_lambda 1 --infogan_nz 3 --nz 3 "$@"
