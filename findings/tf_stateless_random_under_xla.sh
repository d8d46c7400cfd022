#!/usr/bin/env bash
# TensorFlow: the tf.random.stateless_* operations promise the same numbers for the same seed, on the same device. Within
# tf.function(jit_compile=True) they give others than without it, on the same CPU, since alg="auto_select", the default,
# chooses another algorithm there. Keras 3 draws in this way, so its Dropout with a seed has another mask once a model
# is compiled by XLA. alg="philox" gives the same numbers in both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check tensorflow==2.21.0
export TF_CPP_MIN_LOG_LEVEL=3
"$folder/env/bin/python" - <<'PYTHON'
import tensorflow as tf

print("tensorflow", tf.__version__)
for alg in ("auto_select", "philox"):
    numbers = [
        tf.function(lambda: tf.random.stateless_uniform([3], [1, 2], alg=alg), jit_compile=xla)().numpy().tolist()
        for xla in (False, True)
    ]
    print(f"{alg}: without XLA {numbers[0]}, with it {numbers[1]}")
    assert (numbers[0] == numbers[1]) == (alg == "philox"), "this has changed"
PYTHON
