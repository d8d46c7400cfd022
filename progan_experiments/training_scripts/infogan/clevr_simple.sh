#!/bin/sh
# CLEVR-Simple, InfoGAN: regresses the first 4 components of z.
. "$(dirname "$0")/../common.sh"
train clevr_simple --hp_lambda 0 --infogan_lambda 1 --infogan_nz 4 "$@"
