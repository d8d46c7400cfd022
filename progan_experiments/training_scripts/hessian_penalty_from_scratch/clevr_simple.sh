#!/bin/sh
# CLEVR-Simple, with the Hessian Penalty from the first image on.
. "$(dirname "$0")/../common.sh"
train clevr_simple --hp_lambda 0.05 "$@"
