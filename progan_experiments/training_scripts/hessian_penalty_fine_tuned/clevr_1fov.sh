#!/bin/sh
# CLEVR-1FOV, a trained model (FROM=RUN, or the published one) fine-tuned with the Hessian Penalty.
. "$(dirname "$0")/../common.sh"
fine_tune clevr_1fov clevr_1fov_bl --hp_lambda 0.0125 "$@"
