#!/bin/sh
# CLEVR-Complex, InfoGAN: regresses the first 10 components of z.
. "$(dirname "$0")/../common.sh"
train clevr_complex --hp_lambda 0 --infogan_lambda 1 --infogan_nz 10 "$@"
