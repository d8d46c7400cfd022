#!/bin/sh
# CLEVR-Simple, without the penalty.
. "$(dirname "$0")/../common.sh"
train clevr_simple --hp_lambda 0 "$@"
