#!/bin/sh
# Edges+Shoes, with the Hessian Penalty from the first image on.
. "$(dirname "$0")/../common.sh"
train edges_and_shoes --hp_lambda 0.05 "$@"
