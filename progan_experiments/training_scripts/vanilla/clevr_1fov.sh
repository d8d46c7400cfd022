#!/bin/sh
# CLEVR-1FOV, without the penalty.
. "$(dirname "$0")/../common.sh"
train clevr_1fov --hp_lambda 0 "$@"
