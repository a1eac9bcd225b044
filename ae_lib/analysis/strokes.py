"""Geometry of pen strokes: how thick they are, and how far a pixel is from their edge."""

import numpy as np
from scipy.ndimage import distance_transform_edt, maximum_filter

INK = 0.5  # a pixel belongs to the stroke from this intensity on


def signed_edge_distance(images, shape):
    """Return the distance of every pixel to the edge of the stroke, in pixels, positive inside.

    ``images`` is float, (n, h · w), in [0, 1], of ``shape`` (h, w); so is the result, in float64.
    Half a pixel on either side of the edge is ±0.5. Without ink all pixels are at −∞.
    """
    mask = images.reshape(-1, *shape) >= INK
    # No padding here: outside an image there is no ink.
    outside = _distance(~mask) if mask.any() else np.ones(mask.shape)
    outside = np.where(mask.any(axis=(1, 2), keepdims=True), outside, np.inf)
    return np.where(mask, _inside_distance(mask) - 0.5, 0.5 - outside).reshape(len(images), -1)


def mean_by_distance(values, distance, edges):
    """Return the mean of each image's pixels at k ranges of distance; float64, shape (n, k).

    ``values`` and ``distance``, as of `signed_edge_distance`, are float, (n, h · w); a range lies
    between two of the k + 1 ascending ``edges``. NaN where an image has no pixel at such a
    distance.
    """
    ranges, means = np.digitize(distance, edges), np.empty((len(values), len(edges) - 1))
    for k in range(means.shape[1]):
        inside = ranges == k + 1
        with np.errstate(invalid="ignore"):  # 0 / 0 where there is no pixel
            means[:, k] = (values * inside).sum(axis=1) / inside.sum(axis=1)
    return means


def thickness(images, shape):
    """Return the mean stroke thickness of each image in pixels; 0 for an image without ink.

    Twice the distance to the background, averaged over the middle of the strokes, as in Castro,
    Tan, Kainz, Konukoglu and Glocker, "Morpho-MNIST", JMLR 20(178), 2019. Here the middle is where
    that distance is the largest of its 3 × 3 neighbours instead of a skeleton, and one pixel is
    subtracted, so that a line one pixel wide has thickness 1. Distances are whole pixels, so that a
    straight stroke of even width counts as one pixel thinner. ``images`` are float, shape
    (n, h · w), in [0, 1], of ``shape`` (h, w).
    """
    distance = _inside_distance(images.reshape(-1, *shape) >= INK)
    middle = (distance > 0) & (distance == maximum_filter(distance, size=(1, 3, 3)))
    pixels = middle.sum(axis=(1, 2))
    mean = 2 * (distance * middle).sum(axis=(1, 2)) / np.maximum(pixels, 1)
    return np.where(pixels > 0, mean - 1, 0)


def _inside_distance(mask):
    # A border of background, so that an image full of ink has a background of its own.
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    return _distance(padded)[:, 1:-1, 1:-1]


def _distance(mask):
    # Images lie so far apart that the nearest pixel of another kind is in the same image.
    return distance_transform_edt(mask, (2 * sum(mask.shape[1:]), 1, 1))
