"""What the tests share: small images, and folders of their own for reports and data."""

from ae_lib import data

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path / "reports"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("AE_DATA_DIR", raising=False)


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture
def arrays():
    """A small data set of one's own, as it would be stored in an .npz file."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (60, 28, 28), dtype="uint8"),
        "y_train": np.arange(60) % 10,
        "x_test": rng.integers(0, 256, (20, 28, 28), dtype="uint8"),
        "y_test": np.arange(20) % 10,
    }


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("AE_DATA_DIR", str(folder))
    return folder
