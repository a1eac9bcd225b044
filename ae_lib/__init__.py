"""The library of the study: data → models → training → metrics → figures → run, in this order."""

import contextlib
import os
import sys
import warnings


class StudyError(Exception):
    """A mistake that its reader can fix: what was found, what was expected, what to do."""


if "tensorflow" in sys.modules and os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0":
    warnings.warn(
        "TensorFlow was imported before ae_lib, so oneDNN stays on and numbers may round "
        "differently from the study's: import ae_lib first.",
        stacklevel=2,
    )
if "keras" in sys.modules and sys.modules["keras"].config.backend() != "tensorflow":
    raise StudyError(
        f"Keras runs on {sys.modules['keras'].config.backend()}; expected tensorflow: set "
        "KERAS_BACKEND=tensorflow, or import ae_lib before keras."
    )
# Read when Keras is imported: whatever is configured, the study's numbers are TensorFlow's.
os.environ["KERAS_BACKEND"] = "tensorflow"
# Read when TensorFlow is imported; oneDNN rounds differently.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@contextlib.contextmanager
def silenced_stderr():
    """Drop what C++ writes: TensorFlow's import reports a missing GPU whatever the log level."""
    with open(os.devnull, "w") as nowhere:
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
