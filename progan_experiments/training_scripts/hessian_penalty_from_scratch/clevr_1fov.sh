#!/bin/sh
# CLEVR-1FOV, with the Hessian Penalty from the first image on.
. "$(dirname "$0")/../common.sh"
train clevr_1fov --hp_lambda 0.0125 "$@"
