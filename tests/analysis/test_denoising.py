"""Noise is what it says, and the residual network adds its correction to the image and learns."""

from ae_lib import StudyError, metrics, models, training
from ae_lib.analysis import denoising

import keras
import numpy as np
import pytest

GREY = np.full((2000, 50), 0.5, "float32")


def test_noise_has_its_standard_deviation_and_its_seed():
    noisy = denoising.add_noise(GREY, 0.1, seed=3)
    assert noisy.dtype == np.float32
    assert (noisy - GREY).std() == pytest.approx(0.1, rel=0.01)
    np.testing.assert_array_equal(noisy, denoising.add_noise(GREY, 0.1, seed=3))
    assert (noisy != denoising.add_noise(GREY, 0.1, seed=4)).any()
    np.testing.assert_array_equal(denoising.add_noise(GREY, 0.0), GREY)


def test_each_image_may_have_noise_of_its_own():
    noisy = denoising.add_noise(GREY, np.linspace(0, 0.1, len(GREY)))
    deviations = (noisy - GREY).std(axis=1)
    assert deviations[0] == 0
    assert deviations[-100:].mean() == pytest.approx(0.0975, rel=0.05)


def test_clipping_makes_the_noise_biased():
    noisy = denoising.add_noise(np.zeros_like(GREY), 0.3)
    assert noisy.min() == 0
    assert noisy.mean() == pytest.approx(0.3 / np.sqrt(2 * np.pi), rel=0.02)


@pytest.mark.parametrize(
    ("shape", "filters"), [((28, 28), (4, 8)), ((9, 14), (4,)), ((13, 8), (4, 5, 6))]
)
def test_the_residual_network_takes_images_of_any_size(shape, filters):
    network = denoising.residual_network(shape, filters)
    pixels = shape[0] * shape[1]
    assert network.output_shape == (None, pixels)
    x = np.random.default_rng(0).random((3, pixels), dtype="float32")
    assert models.predict_in_batches(network, x).shape == x.shape


def test_the_correction_is_added_to_the_image():
    network = denoising.residual_network((8, 8), (4,))
    network.get_layer("correction").kernel.assign(np.zeros((3, 3, 1, 4)))
    x = np.linspace(0, 1, 64, dtype="float32")[None]
    expected = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(models.predict_in_batches(network, x), expected, atol=1e-5)


def test_it_learns_to_remove_noise(digits):
    keras.utils.set_random_seed(0)
    network = denoising.residual_network(filters=(8, 16))
    settings = training.Settings(4, 30, 0.005)
    training.fit(
        network, digits.pixels_train, digits.pixels_val, settings, task=training.Denoise(0.3, 0.3)
    )
    noisy = denoising.add_noise(digits.x_test, 0.3)
    cleaned = models.predict_in_batches(network, noisy)
    error, noisy_error = (metrics.mse(digits.x_test, y).mean() for y in (cleaned, noisy))
    assert error < 0.4 * noisy_error


@pytest.mark.parametrize("arguments", [((28, 0),), ((28, 28), (8, 1.5))])
def test_other_sizes_are_refused(arguments):
    with pytest.raises(StudyError, match="whole number"):
        denoising.residual_network(*arguments)
