"""What a notebook asks of its parameters together is checked in its first cell, before any work."""

from ae_lib import StudyError
from ae_lib.study import graph

import pytest


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("04_error_maps", {"tail": 1}, "tail is 1; expected a share between 0 and 1: change it"),
        ("03_evaluate", {"sizes": [100]}, "size_epochs has 3 entries; expected one for each of"),
        (
            "07_compress_images",
            {"steps": [1, 2]},
            r"shown has .*; expected some of steps, \[1, 2\]",
        ),
        ("10_denoise", {"shown_level": 0.4}, "is 0.4; expected one of noise_levels"),
        ("11_train_variational", {"components": []}, r"is \[\]; expected ascending numbers"),
        ("11_train_variational", {"components": [30, 10]}, "expected ascending numbers"),
    ],
)
def test_parameters_that_do_not_fit_each_other_are_one_sentence(name, parameters, message):
    names, cells = {}, [c for c in graph.read_notebook(name).cells if c.cell_type == "code"]
    assert cells[0].metadata["tags"] == ["parameters"]
    exec(cells[0].source, names)
    names |= parameters
    with pytest.raises(StudyError, match=message):
        exec(cells[1].source, names)
