#!/bin/sh
# CLEVR-Complex, a trained model (FROM=RUN, or the published one) fine-tuned with the Hessian Penalty.
. "$(dirname "$0")/../common.sh"
fine_tune clevr_complex clevr_complex_bl --hp_lambda 0.05 "$@"
