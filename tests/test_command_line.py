"""The command line gives what the library gives, and a user's mistake one sentence."""

from ae_lib import __main__ as command_line
from ae_lib import models
from ae_lib.analysis import codec
from ae_lib.metrics import mse

import keras
import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """A model, its codec and some images in files, and the same in memory."""
    folder = tmp_path_factory.mktemp("command_line")
    keras.utils.set_random_seed(0)
    network = models.dense_autoencoder(hidden=(16,), latent_dim=4)
    network.autoencoder.save(folder / "model.keras")
    codec.from_autoencoder(*network[1:], digits.pixels_train).save(folder / "codec.npz")
    np.save(folder / "test.npy", digits.pixels_test.reshape(-1, 28, 28))
    np.save(folder / "val.npy", digits.pixels_val.reshape(-1, 28, 28))
    return folder


def run(folder, command, file, *options, model="model.keras", output="output"):
    names = str(folder / file), "--model", str(folder / model), "--output", str(folder / output)
    return command_line.main([command, *names, *options])


def test_codes_and_reconstructions_are_the_librarys(folder, digits):
    network = models.load(folder / "model.keras")
    assert run(folder, "encode", "test.npy") == 0
    codes = models.predict_in_batches(network.encoder, digits.x_test)
    np.testing.assert_array_equal(np.load(folder / "output"), codes)
    assert run(folder, "reconstruct", "test.npy") == 0
    reconstructed = models.predict_in_batches(network.autoencoder, digits.x_test)
    np.testing.assert_array_equal(np.load(folder / "output"), reconstructed)


def test_scores_come_with_p_values(folder, digits):
    normal = str(folder / "val.npy")
    assert run(folder, "score", "test.npy", "--normal", normal, output="scores.csv") == 0
    table = pd.read_csv(folder / "scores.csv", index_col="image")
    network = models.load(folder / "model.keras").autoencoder
    errors = {
        name: mse(x, models.predict_in_batches(network, x))
        for name, x in (("val", digits.x_val), ("test", digits.x_test))
    }
    np.testing.assert_allclose(table["mse"], errors["test"])
    at_least = (errors["val"] >= errors["test"][:, None]).sum(axis=1)
    np.testing.assert_allclose(table["p_value"], (1 + at_least) / (1 + len(digits.x_val)))


def test_a_stream_there_and_back_is_the_librarys_bit_for_bit(folder, digits):
    own = codec.load(folder / "codec.npz")
    assert run(folder, "compress", "test.npy", "--step", "0.1", model="codec.npz") == 0
    stream = codec.compress(digits.pixels_test, own, 0.1)
    assert (folder / "output").read_bytes() == stream
    assert run(folder, "decompress", "output", model="codec.npz", output="back.npy") == 0
    np.testing.assert_array_equal(np.load(folder / "back.npy"), codec.decompress(stream, own))


def test_images_of_another_size_are_resampled_if_that_is_asked_for(folder, digits, capsys):
    small = digits.pixels_test.reshape(-1, 28, 28)[:, ::2, ::2]
    np.save(folder / "small.npy", small)
    assert run(folder, "encode", "small.npy") == 1
    assert "have 196 pixels, and the model takes 784; expected the same" in capsys.readouterr().err
    assert run(folder, "encode", "small.npy", "--image-size", "28", "28") == 0
    assert np.load(folder / "output").shape == (297, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encode", "none.npy"), "none.npy does not exist"),
        (("encode", "codec.npz"), "The arrays are"),
        (("encode", "test.npy", "--image-size", "5", "5"), "expected 8 to 96 on each side"),
        (("decompress", "none"), "none cannot be read (No such file or directory)"),
        (("decompress", "test.npy"), "expected"),
    ],
)
def test_a_mistake_is_one_sentence(folder, capsys, arguments, message):
    command, file, *options = arguments
    model = "codec.npz" if command == "decompress" else "model.keras"
    (folder / "untouched").write_text("as before")
    assert run(folder, command, file, *options, model=model, output="untouched") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert (folder / "untouched").read_text() == "as before"


@pytest.mark.parametrize("model", ["test.npy", "codec.npz", "none.keras"])
def test_what_is_no_model_is_one_sentence(folder, capsys, model):
    assert run(folder, "encode", "test.npy", model=model) == 1
    assert "cannot be read as an autoencoder" in capsys.readouterr().err
    assert run(folder, "compress", "test.npy", model="model.keras") == 1
    assert "cannot be read as a codec" in capsys.readouterr().err


def test_a_missing_folder_is_one_sentence(folder, capsys):
    assert run(folder, "encode", "test.npy", output="none/codes.npy") == 1
    assert "create its folder" in capsys.readouterr().err


def test_usage_is_shown_for_an_unknown_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        command_line.main(["squash"])
    assert "usage: python -m ae_lib" in capsys.readouterr().err
