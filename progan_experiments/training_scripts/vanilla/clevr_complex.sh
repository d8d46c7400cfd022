#!/bin/sh
# CLEVR-Complex, without the penalty.
. "$(dirname "$0")/../common.sh"
train clevr_complex --hp_lambda 0 "$@"
