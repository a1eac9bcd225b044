"""Importing the library decides on which backend, and with which rounding, everything runs."""

import os
import subprocess
import sys

import pytest

FAKE_KERAS = """
import sys, types
sys.modules["keras"] = types.ModuleType("keras")
sys.modules["keras"].config = types.SimpleNamespace(backend=lambda: "jax")
"""
FAKE_TENSORFLOW = """
import sys, types
sys.modules["tensorflow"] = types.ModuleType("tensorflow")
"""


def run(code, **environment):
    """Run Python without the settings of this process; its end, stdout and stderr."""
    ours = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "KERAS_BACKEND")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True)


def test_keras_runs_on_tensorflow_whatever_is_configured(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    code = "from ae_lib import models; print(models.keras.config.backend())"
    process = run(code, KERAS_BACKEND="jax", KERAS_HOME=str(tmp_path))
    assert process.stdout == "tensorflow\n"
    assert process.stderr == ""  # nor does TensorFlow write, which a stored notebook would keep


def test_keras_that_runs_on_another_backend_is_refused():
    process = run(FAKE_KERAS + "import ae_lib")
    assert process.returncode == 1
    assert "StudyError: Keras runs on jax; expected tensorflow: set" in process.stderr


@pytest.mark.parametrize(("value", "warned"), [(None, True), ("1", True), ("0", False)])
def test_tensorflow_imported_first_is_a_warning(value, warned):
    environment = {} if value is None else {"TF_ENABLE_ONEDNN_OPTS": value}
    process = run(FAKE_TENSORFLOW + "import ae_lib", **environment)
    assert process.returncode == 0
    assert ("TensorFlow was imported before ae_lib" in process.stderr) == warned


def test_the_environment_is_left_where_it_says_something():
    code = (
        "import ae_lib, os; print(os.environ['TF_ENABLE_ONEDNN_OPTS'], os.environ.get('XLA_FLAGS'))"
    )
    assert run(code, TF_ENABLE_ONEDNN_OPTS="1").stdout == "1 None\n"
    assert run(code).stdout == "0 None\n"
