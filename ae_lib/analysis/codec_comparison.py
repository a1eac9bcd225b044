"""What a codec is compared with: errors at equal rates, JPEG, WebP, and lossless formats."""

import bz2
import gzip
import io
import lzma
import math

from ae_lib import StudyError

import numpy as np
from PIL import Image

BLOCK = 16  # pixels on a side of the largest block of JPEG and WebP


def errors_at(rate, rates, errors):
    """Interpolate what the error of each image would be at a rate that was not measured.

    Between two measured rates the logarithm of an error is taken to be linear in the logarithm of
    the rate, which gives at most the error on the straight line. Below the lowest rate the errors
    of the lowest are returned, although it spends more bits.

    Parameters
    ----------
    rate : float
        In bits per image, like ``rates``; `StudyError` if it lies above all of them.
    rates : sequence of float, shape (r,)
        The measured rates, in any order.
    errors : float array, shape (r, n)
        Of n images at each rate.

    Returns
    -------
    float array, shape (n,)
    """
    order = np.argsort(rates)
    rates, errors = np.asarray(rates)[order], np.asarray(errors)[order]
    if rate > rates[-1]:
        raise StudyError(
            f"The rate is {rate:.4g} bits per image; expected at most {rates[-1]:.4g}, the highest "
            "that was measured: add smaller steps."
        )
    right = np.searchsorted(rates, rate)
    if right == 0:
        return errors[0]
    share = np.log(rate / rates[right - 1]) / np.log(rates[right] / rates[right - 1])
    return errors[right - 1] ** (1 - share) * errors[right] ** share


def crossing(first, second):
    """Return the rate above which the second of two curves has the lower error; NaN if it has not.

    Both are pandas.Series of mean errors, indexed by their rates in ascending order. Only rates
    within the range of both count; between measured ones it is as in `errors_at`.
    """
    rates = np.union1d(first.index, second.index)
    low, high = (end(first.index[i], second.index[i]) for end, i in ((max, 0), (min, -1)))
    rates = rates[(low <= rates) & (rates <= high)]
    logs = [np.interp(np.log(rates), np.log(c.index), np.log(c)) for c in (first, second)]
    lead = logs[1] - logs[0]  # positive where the first curve has the lower error
    if not len(rates) or lead[-1] >= 0:
        return np.nan
    before = np.flatnonzero(lead >= 0)
    if not len(before):
        return float(rates[0])
    around = slice(before[-1], before[-1] + 2)
    return float(np.exp(np.interp(0, -lead[around], np.log(rates[around]))))


def lossy(pixels, shape, kind, quality):
    """Encode images as one picture in a lossy format, and decode them again.

    Each image is centred in a tile whose sides are multiples of `BLOCK`, so that no block of the
    format belongs to two images, and all share one header.

    Parameters
    ----------
    pixels : uint8 array, shape (n, h · w)
    shape : tuple of int
        Height and width, (h, w).
    kind : str
        ``"JPEG"`` or ``"WEBP"``, as Pillow calls them.
    quality : int
        Of the format, from 0 or 1 to 100.

    Returns
    -------
    int, and uint8 array of shape (n, h · w)
        The file's bytes, and the decoded images.
    """
    tile = tuple(BLOCK * -(-side // BLOCK) for side in shape)
    options = {"optimize": True} if kind == "JPEG" else {"method": 6}
    file = _file(_mosaic(pixels, shape, tile), kind, quality=quality, **options)
    with Image.open(io.BytesIO(file)) as picture:
        decoded = np.asarray(picture.convert("L"))
    return len(file), _from_mosaic(decoded, len(pixels), shape, tile)


def lossless_sizes(pixels, shape):
    """Return how many bytes images take in lossless formats, as one block; format to int.

    ``pixels`` are uint8, shape (n, h · w), of ``shape`` (h, w). PNG and WebP encode one picture
    with an image beside the other; gzip, bz2 and LZMA, at their strongest settings, encode the
    pixels of one image after the other.
    """
    picture, plain = _mosaic(pixels, shape, shape), pixels.tobytes()
    return {
        "gzip": len(gzip.compress(plain, 9)),
        "PNG": len(_file(picture, "PNG", optimize=True)),
        "WebP": len(_file(picture, "WEBP", lossless=True, quality=100)),
        "bz2": len(bz2.compress(plain, 9)),
        "LZMA": len(lzma.compress(plain, preset=lzma.PRESET_DEFAULT | lzma.PRESET_EXTREME)),
    }


def _file(picture, kind, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def _mosaic(pixels, shape, tile):
    """Put images into the middles of tiles, and these into as square a picture as possible."""
    columns = math.isqrt(len(pixels) - 1) + 1
    rows = -(-len(pixels) // columns)
    tiles = np.zeros((rows * columns, *tile), "uint8")
    tiles[: len(pixels), *_middle(shape, tile)] = pixels.reshape(-1, *shape)
    return tiles.reshape(rows, columns, *tile).swapaxes(1, 2).reshape(-1, columns * tile[1])


def _from_mosaic(picture, count, shape, tile):
    columns = picture.shape[1] // tile[1]
    tiles = picture.reshape(-1, tile[0], columns, tile[1]).swapaxes(1, 2).reshape(-1, *tile)
    return tiles[:count, *_middle(shape, tile)].reshape(count, -1)


def _middle(shape, tile):
    margins = [(outer - side) // 2 for outer, side in zip(tile, shape, strict=True)]
    return [slice(m, m + side) for m, side in zip(margins, shape, strict=True)]
