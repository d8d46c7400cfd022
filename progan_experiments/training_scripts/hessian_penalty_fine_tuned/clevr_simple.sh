#!/bin/sh
# CLEVR-Simple, a trained model (FROM=RUN, or the published one) fine-tuned with the Hessian Penalty.
. "$(dirname "$0")/../common.sh"
fine_tune clevr_simple clevr_simple_bl --hp_lambda 0.05 "$@"
