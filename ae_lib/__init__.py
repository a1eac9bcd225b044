"""The helper library of the reference study of autoencoders on MNIST.

One direction: ``data`` → ``models`` → ``callbacks`` → ``training`` → ``variational`` → ``metrics``, ``strokes`` → ``probes``,
``anomaly``, ``codec``, ``few_labels`` → ``scorecard``, ``standings`` → ``figures`` → ``runs`` → ``benchmark`` → ``report`` →
``cells`` → ``sweep`` → ``reference``. A module imports only from its left.
"""

import os

# TensorFlow's C++ start-up lines would land in every stored notebook's stderr. They go quiet only with both variables,
# and only if these are set before TensorFlow is imported: hence here, and hence ae_lib before keras in the notebooks.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# XLA copies each weight matrix before it is updated, unless it may look at which operations still read the old one.
# Without the copies an epoch takes 3 % less, and gives the same weights, bit for bit. Read before XLA is first used.
XLA_FLAGS = "--xla_cpu_copy_insertion_use_region_analysis=true"
os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)


class StudyError(Exception):
    """A mistake that its reader can mend; the message says what was found, what was expected and what to do."""
