"""The helper library of the reference study of autoencoders on MNIST.

One direction: ``data`` → ``models`` → ``training`` → ``metrics``, ``strokes`` → ``figures`` → ``runs`` →
``report`` → ``reference``. A module imports only from its left.
"""

import os

# TensorFlow's C++ start-up lines would land in every stored notebook's stderr. They go quiet only with both variables,
# and only if these are set before TensorFlow is imported: hence here, and hence ae_lib before keras in the notebooks.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


class StudyError(Exception):
    """A mistake that its reader can mend; the message says what was found, what was expected and what to do."""
