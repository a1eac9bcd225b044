"""Equal rates are interpolated as documented, and formats give back what they promise."""

from ae_lib import StudyError
from ae_lib.analysis import codec_comparison

import numpy as np
import pandas as pd
import pytest


def test_errors_at_a_rate_are_interpolated_image_by_image():
    rates, errors = [40, 10, 20], np.array([[1.0, 0.0], [4.0, 8.0], [2.0, 8.0]])
    np.testing.assert_allclose(codec_comparison.errors_at(20, rates, errors), [2, 8])
    np.testing.assert_allclose(codec_comparison.errors_at(800**0.5, rates, errors), [2**0.5, 0])
    np.testing.assert_allclose(codec_comparison.errors_at(200**0.5, rates, errors), [8**0.5, 8])
    np.testing.assert_allclose(codec_comparison.errors_at(3, rates, errors), [4, 8])
    with pytest.raises(StudyError, match="is 41 bits per image; expected at most 40"):
        codec_comparison.errors_at(41, rates, errors)


def test_curves_cross_where_their_logarithms_do():
    first = pd.Series({10: 1.0, 20: 0.1, 100: 0.1})
    second = pd.Series({5: 8.0, 15: 2.0, 35: 0.02, 50: 0.01})
    rate = codec_comparison.crossing(first, second)
    assert 20 < rate < 35
    logs = [np.interp(np.log(rate), np.log(c.index), np.log(c)) for c in (first, second)]
    assert logs[0] == pytest.approx(logs[1])


def test_curves_that_do_not_cross():
    low, high = pd.Series({10: 0.2, 20: 0.1}), pd.Series({5: 2.0, 15: 1.0, 30: 0.5})
    assert np.isnan(codec_comparison.crossing(low, high))
    assert codec_comparison.crossing(high, low) == 10  # as soon as both are measured
    far = pd.Series({40: 0.2, 50: 0.1})
    assert np.isnan(codec_comparison.crossing(low, far))


@pytest.mark.parametrize("shape", [(28, 28), (7, 20)])
def test_lossy_images_come_back_in_order(shape):
    """Each of one grey level, so that no format has a reason to err much."""
    levels = np.linspace(0, 255, 23).astype("uint8")
    pixels = np.repeat(levels[:, None], shape[0] * shape[1], axis=1)
    for kind in ("JPEG", "WEBP"):
        sizes = []
        for quality in (5, 90):
            size, decoded = codec_comparison.lossy(pixels, shape, kind, quality)
            sizes.append(size)
        assert decoded.shape == pixels.shape
        centre = decoded.reshape(-1, *shape)[:, shape[0] // 2, shape[1] // 2]
        np.testing.assert_allclose(centre, levels, atol=12)
        assert sizes[0] < sizes[1]


def test_lossless_formats_use_what_images_have_in_common():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 300), "uint8")
    alone = codec_comparison.lossless_sizes(image, (15, 20))
    assert all(size >= 300 for size in alone.values())  # noise cannot be compressed
    together = codec_comparison.lossless_sizes(np.repeat(image, 50, axis=0), (15, 20))
    assert together["LZMA"] < 2 * alone["LZMA"]
    assert together["gzip"] < 5 * alone["gzip"]
