"""Images and labels: where they come from, whether they are the right ones, how they are split.

Images stay uint8, flattened and in their original order; reading them scales them to [0, 1].
"""

import hashlib
import os
import socket
import struct
import zipfile
import zlib
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from ae_lib import StudyError, silenced_stderr

import numpy as np

SIDE = 28
PIXELS = SIDE * SIDE
DIGITS_TRAINING = 1_500  # of scikit-learn's 1,797; the last 297 are the test set
VALIDATION_SIZES = {"mnist": 10_000, "fashion_mnist": 10_000, "digits": 300}

TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST (not MNIST)",
    "digits": "scikit-learn digits (not MNIST)",
}

# MD5 of the original IDX byte streams, headers included, by LeCun, Cortes and Burges.
MNIST_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}

# The files, as a pattern and a number, in which Keras keeps its data sets.
KERAS_FILES = {"mnist": ("mnist.npz", 1), "fashion_mnist": ("fashion-mnist/*-ubyte.gz", 4)}


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images, uint8 of shape (n, 784), and labels, int64 of shape (n,), split.

    ``x_train``, ``x_val`` and ``x_test`` are the images as float32 in [0, 1]: a new copy, four
    times as large, at each access.
    """

    name: str
    title: str  # in figures
    source: str  # where it was found
    pixels_train: np.ndarray
    y_train: np.ndarray
    pixels_val: np.ndarray
    y_val: np.ndarray
    pixels_test: np.ndarray
    y_test: np.ndarray
    md5: dict  # of the four arrays as IDX byte streams, before splitting

    x_train = property(lambda self: as_flat_images(self.pixels_train))
    x_val = property(lambda self: as_flat_images(self.pixels_val))
    x_test = property(lambda self: as_flat_images(self.pixels_test))

    def __repr__(self):
        sizes = " + ".join(f"{len(y):,}" for y in (self.y_train, self.y_val, self.y_test))
        return f"{self.title}: {sizes} images (training + validation + test)"


def load(name="mnist", validation_size=None):
    """Load a data set, check it, flatten it and split it into a `Dataset`.

    Parameters
    ----------
    name : str
        ``"mnist"`` and ``"fashion_mnist"`` are looked for in ``$AE_DATA_DIR/<name>.npz``, then
        through ``keras.datasets``. ``"digits"`` comes with scikit-learn: 1,797 images, 8 × 8,
        resampled to 28 × 28; the first 1,500 are the training images, the others the test set. Any
        other name is your own ``$AE_DATA_DIR/<name>.npz`` with x_train, x_test (uint8,
        (n, 28, 28)) and y_train, y_test (integers, (n,)).
    validation_size : int, optional
        How many of the first training images are the validation subset. By default 10,000 for MNIST
        and Fashion-MNIST, 300 for digits, one sixth of the training images for your own.

    Raises
    ------
    StudyError
        If it cannot be found or read, is not what its name says, or the split leaves a part empty.
    """
    arrays, source = _find(name)
    md5 = {key: idx_md5(arrays[key]) for key in MNIST_MD5}
    for key in MNIST_MD5 if name == "mnist" else []:
        if md5[key] != MNIST_MD5[key]:
            raise StudyError(
                f"{key} of {source} is not the original MNIST (MD5 {md5[key]} as IDX; expected "
                f"{MNIST_MD5[key]}): fetch mnist.npz again, or give your own images another name."
            )
    x, y, n = arrays["x_train"].reshape(-1, PIXELS), arrays["y_train"], len(arrays["y_train"])
    size = VALIDATION_SIZES.get(name, n // 6) if validation_size is None else validation_size
    if not 1 <= size < n:
        raise StudyError(
            f"validation_size is {size}; expected 1 to {n - 1} of {n} training images: change it."
        )
    title = TITLES.get(name, f"{name} (not MNIST)")
    y, y_test = y.astype("int64"), arrays["y_test"].astype("int64")
    parts = x[size:], y[size:], x[:size], y[:size], arrays["x_test"].reshape(-1, PIXELS), y_test
    return Dataset(name, title, source, *parts, md5)


def as_flat_images(images):
    """Scale and flatten images to float32, shape (n, 784), in [0, 1].

    Shapes (n, 28, 28), (n, 28, 28, 1) and (n, 784), uint8 in [0, 255] or floating point in [0, 1],
    are taken; others, values outside the range, NaN and infinity are a `StudyError`.
    """
    images = np.asarray(images)
    if images.shape[1:] not in {(SIDE, SIDE), (SIDE, SIDE, 1), (PIXELS,)} or len(images) == 0:
        raise StudyError(
            f"The images have shape {images.shape}; expected (n, 28, 28), (n, 28, 28, 1) or "
            "(n, 784) with n of at least 1: resize or reshape them first."
        )
    flat = images.reshape(len(images), PIXELS)
    if images.dtype == np.uint8:
        return flat.astype("float32") / 255
    # A comparison with NaN is false, so this catches NaN and infinity as well.
    if not (np.issubdtype(images.dtype, np.floating) and images.min() >= 0 and images.max() <= 1):
        raise StudyError(
            f"The images are {images.dtype} and range from {images.min():g} to {images.max():g}; "
            "expected uint8 in [0, 255], or floating point in [0, 1] without NaN: convert them "
            "with .astype('uint8'), or scale them."
        )
    return flat.astype("float32")


def whole_number(name, value, least=1):
    """Return a whole number, Python's or NumPy's, as an int; refuse all else and what is less."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise StudyError(
            f"{name} is {value!r}; expected a whole number of at least {least}: change it."
        )
    return int(value)


def idx_md5(array):
    """MD5 of integers as an IDX file (magic number, big-endian sizes, bytes where they fit)."""
    if array.min() >= 0 and array.max() <= 255:
        array = array.astype("uint8")
    magic = 0x0800 + array.ndim  # 0x08: unsigned byte, then the number of dimensions
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    return hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()


def local_file(name):
    """Path of the (first) file from which `load` takes ``name`` without a download, or None."""
    own = _own_file(name)
    if own or name not in KERAS_FILES:
        return own
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    pattern, count = KERAS_FILES[name]
    files = sorted((keras_home / "datasets").glob(pattern))
    return files[0] if len(files) == count else None


def download(name):
    """Let Keras fetch ``name`` into its cache; return the four arrays."""
    with silenced_stderr():
        import keras

    # Without a limit a firewall that drops packets would hold the study up for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises bare Exception for a failed download
        raise StudyError(
            f"{TITLES[name]} is neither in AE_DATA_DIR ({os.environ.get('AE_DATA_DIR')}) nor in "
            f"Keras's cache, and Keras could not download it ({error}): connect to the network, or "
            f"set AE_DATA_DIR to a folder with {name}.npz."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _find(name):
    if name == "digits":
        return _digits(), "scikit-learn"
    own = _own_file(name)
    if own:
        return _read(own), f"$AE_DATA_DIR/{name}.npz"
    if name in KERAS_FILES:
        return _check_arrays(download(name), "keras.datasets"), f"keras.datasets.{name}"
    raise StudyError(
        f"There is no data set {name!r}: expected one of {', '.join(TITLES)}, or your own "
        f"{name}.npz in AE_DATA_DIR, which is {os.environ.get('AE_DATA_DIR') or 'not set'}."
    )


def _own_file(name):
    """The file in $AE_DATA_DIR, or None; never one for the digits, which scikit-learn has."""
    folder = os.environ.get("AE_DATA_DIR")
    file = Path(folder or ".").expanduser() / f"{name}.npz"
    return file if folder and name != "digits" and file.is_file() else None


def _read(path):
    where = f"$AE_DATA_DIR/{path.name}"
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is not a zip archive, or its end is missing")
        # Unpickling can run any code, so a file with pickled objects is refused, never loaded.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in MNIST_MD5}
    except KeyError as error:
        raise StudyError(
            f"{where} has no array {error}; expected {', '.join(MNIST_MD5)}: add it."
        ) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise StudyError(
            f"{where} cannot be read ({error}); expected a complete .npz archive of plain arrays, "
            "without pickled objects, which are never loaded: fetch it again or remove it."
        ) from error
    return _check_arrays(arrays, where)


def _check_arrays(arrays, where):
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.shape[1:] != (SIDE, SIDE) or len(x) == 0:
            raise StudyError(
                f"x_{part} of {where} is {x.dtype} with shape {x.shape}; expected uint8 with shape "
                "(n, 28, 28): resize the images and save them as uint8."
            )
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise StudyError(
                f"y_{part} of {where} is {y.dtype} with shape {y.shape}; expected integers with "
                f"shape ({len(x)},): give one label per image, zeros if there are none."
            )
    return arrays


def _digits():
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Bilinear with aligned pixel areas (grid_mode), so that the strokes neither shift nor ring; 16
    # grey levels become 255.
    factor = SIDE / digits.images.shape[1]
    images = zoom(digits.images / 16, (1, factor, factor), order=1, mode="nearest", grid_mode=True)
    images = np.rint(255 * images.clip(0, 1)).astype("uint8")
    x, y, n = images, digits.target.astype("uint8"), DIGITS_TRAINING
    return {"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:]}
