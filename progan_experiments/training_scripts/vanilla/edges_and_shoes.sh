#!/bin/sh
# Edges+Shoes, without the penalty.
. "$(dirname "$0")/../common.sh"
train edges_and_shoes --hp_lambda 0 "$@"
