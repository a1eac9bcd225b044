"""Thickness and edges of strokes against shapes whose answer is known."""

from ae_lib.analysis import strokes

import numpy as np


def test_thickness_of_bars_is_their_width():
    images = np.zeros((7, 28, 28))
    for width in range(1, 7):
        images[width, :, 10 : 10 + width] = 1
    # The bars run from border to border; beyond the border there is background.
    np.testing.assert_allclose(
        strokes.thickness(images.reshape(7, 784), (28, 28)), [0, 1, 1, 3, 3, 5, 5], atol=0.5
    )


def test_thickness_of_one_image_ignores_the_others():
    rng = np.random.default_rng(4)
    images = (rng.random((5, 784)) > 0.7).astype("float32")
    images[2] = 1
    together = strokes.thickness(images, (28, 28))
    alone = [strokes.thickness(images[i : i + 1], (28, 28))[0] for i in range(5)]
    np.testing.assert_allclose(together, alone)


def test_signed_distance_crosses_zero_at_the_edge():
    image = np.zeros((2, 28, 28))
    image[0, :, 10:] = 1
    found = strokes.signed_edge_distance(image.reshape(2, 784), (28, 28)).reshape(2, 28, 28)
    np.testing.assert_allclose(found[0, 14, 6:14], [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    assert (found[1] == -np.inf).all()


def test_mean_by_distance_is_of_each_images_own_pixels():
    distance = np.array([[-1.5, -0.5, 0.5, 0.5], [-np.inf, -0.5, -0.5, -0.5]])
    values = np.array([[1.0, 2, 3, 5], [7, 1, 2, 3]])
    means = strokes.mean_by_distance(values, distance, [-2, -1, 0, 1])
    np.testing.assert_array_equal(means, [[1, 2, 4], [np.nan, 2, np.nan]])
