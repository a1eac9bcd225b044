"""What notebooks refuse in one sentence: parameters that do not fit each other, in the first cell
before any work, and models that they cannot use."""

from types import SimpleNamespace

from ae_lib import StudyError, data
from ae_lib.study import graph

import numpy as np
import pytest
from sklearn.decomposition import PCA


def code_cells(name):
    return [cell for cell in graph.read_notebook(name).cells if cell.cell_type == "code"]


def refusing(text):
    """The code cell of 05 whose refusal has this text."""
    return next(c.source for c in code_cells("05_explore_latent_space") if text in c.source)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("05_explore_latent_space", {"neighbour_count": 3}, "is 3; expected at least 5"),
        ("06_detect_anomalies", {"rates": []}, r"rates is \[\]; expected one or more shares"),
        ("06_detect_anomalies", {"rates": [0.05, 1.5]}, "expected one or more shares between 0"),
        (
            "07_compress_images",
            {"steps": [1, 2]},
            r"shown has .*; expected some of steps, \[1, 2\]",
        ),
        ("09_train_convolutional", {"margin_level": 0.4}, "is 0.4; expected one of noise_levels"),
        ("10_train_variational", {"pairs": 2}, "pairs is 2; expected at least 3"),
    ],
)
def test_parameters_that_do_not_fit_each_other_are_one_sentence(name, parameters, message):
    names, cells = {}, code_cells(name)
    assert cells[0].metadata["tags"] == ["parameters"]
    exec(cells[0].source, names)
    names |= parameters
    with pytest.raises(StudyError, match=message):
        exec(cells[1].source, names)


def test_a_dead_bottleneck_is_one_sentence():
    """A code that is the same for every image, of which scikit-learn would say something else."""
    names = {
        "StudyError": StudyError,
        "PCA": PCA,
        "np": np,
        "images": data.load("digits"),
        "model": "dense",
        "latent_dim": 4,
        "encoder": None,
        "models": SimpleNamespace(predict_in_batches=lambda _, x: np.zeros((len(x), 4))),
    }
    with pytest.raises(StudyError, match="All codes of dense are equal; expected codes that diff"):
        exec(refusing("All codes of"), names)


def test_a_code_of_one_number_is_one_sentence():
    cell = refusing("has one number")
    encoder = SimpleNamespace(input_shape=(None, 784), output_shape=(None, 1))
    code = cell[cell.index("autoencoder, encoder") :]
    names = {
        "StudyError": StudyError,
        "model": "dense",
        "run": SimpleNamespace(model=lambda name: name),
        "models": SimpleNamespace(load=lambda path: (None, encoder, None)),
    }
    with pytest.raises(StudyError, match="The code of dense has one number; expected two or more"):
        exec(code, names)
