#!/bin/sh
# CLEVR-U (CLEVR-Simple with three latent components), a trained model (FROM=RUN, or the published one) fine-tuned with the Hessian Penalty.
. "$(dirname "$0")/../common.sh"
fine_tune clevr_simple clevr_u_bl --hp_lambda 0.0125 "$@"
