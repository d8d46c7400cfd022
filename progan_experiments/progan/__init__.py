"""ProGAN with the Hessian Penalty: the library behind the commands of `progan_experiments/`."""

import os
import warnings

# TensorFlow is quiet unless the user wants to hear it. (Version 1.14 warns of every NumPy type it registers.)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore", category=FutureWarning, module="tensor(flow|board)")

# Small networks are faster without oneDNN, and nearer to version 1.14's numbers.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
