#!/bin/sh
# Edges+Shoes, InfoGAN: regresses the first 12 components of z.
. "$(dirname "$0")/../common.sh"
train edges_and_shoes --hp_lambda 0 --infogan_lambda 1 --infogan_nz 12 "$@"
