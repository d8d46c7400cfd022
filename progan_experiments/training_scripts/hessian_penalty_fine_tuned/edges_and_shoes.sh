#!/bin/sh
# Edges+Shoes, a trained model (FROM=RUN, or the published one) fine-tuned with the Hessian Penalty.
. "$(dirname "$0")/../common.sh"
fine_tune edges_and_shoes edges_and_shoes_bl --hp_lambda 0.05 "$@"
