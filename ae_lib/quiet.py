"""Importing this module imports TensorFlow without its start-up chatter.

TensorFlow writes informational lines from C++ straight to file descriptor 2 while it is imported ("Could not find cuda
drivers …"); no variable silences all of them, and in a notebook they would be stored as outputs that differ from machine
to machine. They are held back here, and everything that is not informational is passed on.
"""

import os
import sys
import tempfile

with tempfile.TemporaryFile() as _held:
    sys.stderr.flush()
    _real = os.dup(2)
    os.dup2(_held.fileno(), 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(_real, 2)
        os.close(_real)
        _held.seek(0)
        _lines = _held.read().decode(errors="replace").splitlines(keepends=True)
        sys.stderr.writelines(
            line for line in _lines if not line.startswith(("I0000", "WARNING: All log messages"))
        )
