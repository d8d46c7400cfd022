#!/bin/sh
# CLEVR-1FOV, InfoGAN: regresses the first component of z.
. "$(dirname "$0")/../common.sh"
train clevr_1fov --hp_lambda 0 --infogan_lambda 1 --infogan_nz 1 "$@"
