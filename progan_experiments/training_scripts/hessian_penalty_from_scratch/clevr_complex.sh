#!/bin/sh
# CLEVR-Complex, with the Hessian Penalty from the first image on.
. "$(dirname "$0")/../common.sh"
train clevr_complex --hp_lambda 0.05 "$@"
