"""Images and labels: where they come from, whether they are the right ones, how they are split.

Images stay as they came, uint8, flattened and in their original order; they are scaled to float32 in [0, 1] when read.
"""

import hashlib
import os
import socket
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ae_lib import StudyError

import numpy as np

SIDE = 28
PIXELS = SIDE * SIDE
MNIST_VALIDATION = 10_000  # the first 10,000 training images
DIGITS_TRAINING = 1_500  # of scikit-learn's 1,797; the last 297 are the test set
DIGITS_VALIDATION = 300  # the first 300 of the training images

TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST (not MNIST)",
    "digits": "scikit-learn digits (not MNIST)",
}

# MD5 of the original IDX byte streams, headers included, as distributed by LeCun, Cortes and Burges.
MNIST_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images and labels, split.

    Attributes
    ----------
    name, title, source : str
        What it is called in code, what it is called in figures, and where it was found.
    pixels_train, pixels_val, pixels_test : uint8 arrays, shape (n, 784)
        What `ae_lib.training.fit` takes: it scales batch by batch.
    x_train, x_val, x_test : float32 arrays, shape (n, 784), in [0, 1]
        The same, scaled; a new copy, four times as large, at each access.
    y_train, y_val, y_test : int64 arrays, shape (n,)
    md5 : dict
        MD5 of the four arrays as IDX byte streams, before splitting and scaling.
    """

    name: str
    title: str
    source: str
    pixels_train: np.ndarray
    y_train: np.ndarray
    pixels_val: np.ndarray
    y_val: np.ndarray
    pixels_test: np.ndarray
    y_test: np.ndarray
    md5: dict

    x_train = property(lambda self: as_flat_images(self.pixels_train))
    x_val = property(lambda self: as_flat_images(self.pixels_val))
    x_test = property(lambda self: as_flat_images(self.pixels_test))

    def __repr__(self):
        sizes = " + ".join(f"{len(y):,}" for y in (self.y_train, self.y_val, self.y_test))
        return f"{self.title}: {sizes} images (training + validation + test)"


def load(name="mnist", validation_size=None):
    """Load a data set, check it, flatten it and split it.

    Parameters
    ----------
    name : str
        ``"mnist"`` and ``"fashion_mnist"`` are looked for in ``$AE_DATA_DIR/<name>.npz``, then through
        ``keras.datasets``. ``"digits"`` comes with scikit-learn: 1,797 images, 8 × 8, resampled to 28 × 28; the first
        1,500 are the training images, the last 297 the test set. Any other name is your own
        ``$AE_DATA_DIR/<name>.npz`` with x_train, x_test (uint8, (n, 28, 28)) and y_train, y_test (integers, (n,)).
    validation_size : int, optional
        How many of the first training images are the validation subset. By default 10,000 for MNIST and
        Fashion-MNIST, 300 for digits, one sixth of the training images for your own.

    Returns
    -------
    Dataset

    Raises
    ------
    StudyError
        If it cannot be found or read, is not what its name says, or the split leaves a part empty.
    """
    arrays, source = _find(name)
    md5 = {key: idx_md5(arrays[key]) for key in MNIST_MD5}
    if name == "mnist":
        _check_is_mnist(md5, source)
    size = _validation_size(name, len(arrays["x_train"]), validation_size)
    x, y = arrays["x_train"].reshape(-1, PIXELS), arrays["y_train"].astype("int64")
    return Dataset(
        name=name,
        title=TITLES.get(name, f"{name} (not MNIST)"),
        source=source,
        pixels_train=x[size:],
        y_train=y[size:],
        pixels_val=x[:size],
        y_val=y[:size],
        pixels_test=arrays["x_test"].reshape(-1, PIXELS),
        y_test=arrays["y_test"].astype("int64"),
        md5=md5,
    )


def as_flat_images(images):
    """Scale and flatten images, or refuse them.

    Parameters
    ----------
    images : array, shape (n, 28, 28), (n, 28, 28, 1) or (n, 784)
        uint8 in [0, 255], or floating point in [0, 1].

    Returns
    -------
    float32 array, shape (n, 784), in [0, 1]

    Raises
    ------
    StudyError
        For another shape or dtype, values outside the range, NaN or infinity.
    """
    images = np.asarray(images)
    if images.shape[1:] not in {(SIDE, SIDE), (SIDE, SIDE, 1), (PIXELS,)} or len(images) == 0:
        raise StudyError(
            f"The images have shape {images.shape}; expected (n, 28, 28), (n, 28, 28, 1) or (n, 784) with n of at least 1: "
            "resize or reshape them first."
        )
    if images.dtype == np.uint8:
        return images.reshape(len(images), PIXELS).astype("float32") / 255
    if not np.issubdtype(images.dtype, np.floating):
        raise StudyError(
            f"The images have dtype {images.dtype}; expected uint8 in [0, 255] or a floating-point type in [0, 1]: "
            "convert them with .astype('uint8') or scale them."
        )
    # A comparison with NaN is false, so this catches NaN and infinity as well.
    if not (images.min() >= 0 and images.max() <= 1):
        raise StudyError(
            f"The floating-point images range from {images.min():g} to {images.max():g}; expected [0, 1] without NaN: "
            "divide by their maximum, or remove the broken images."
        )
    return images.reshape(len(images), PIXELS).astype("float32")


def idx_md5(array):
    """MD5 of a uint8 array written as an IDX file (magic number, big-endian dimensions, bytes)."""
    magic = 0x0800 + array.ndim  # 0x08: unsigned byte, then the number of dimensions
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    return hashlib.md5(
        header + np.ascontiguousarray(array).tobytes(), usedforsecurity=False
    ).hexdigest()


def local_file(name):
    """The file from which `load` would take ``name`` without a download, or None."""
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    candidates = [keras_home / "datasets" / f"{name}.npz"]
    if os.environ.get("AE_DATA_DIR"):
        candidates.insert(0, _own_file(name))
    return next((path for path in candidates if path.is_file()), None)


def download(name):
    """Let Keras fetch ``name`` into its cache and return its four arrays; raise `StudyError` if it cannot."""
    import ae_lib.quiet  # noqa: F401, I001
    import keras

    # Without a limit a firewall that drops packets would hold the study up for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises bare Exception for a failed download
        raise StudyError(
            f"{TITLES[name]} is not in $AE_DATA_DIR ({os.environ.get('AE_DATA_DIR') or 'not set'}) nor in Keras's "
            f"cache, and Keras could not download it ({error}): "
            f"connect to the network, or put {name}.npz into a folder and set AE_DATA_DIR to it."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _find(name):
    if name == "digits":
        return _digits(), "scikit-learn"
    if os.environ.get("AE_DATA_DIR") and _own_file(name).is_file():
        return _read(_own_file(name)), f"$AE_DATA_DIR/{name}.npz"
    if name in TITLES:
        return _check_arrays(download(name), "keras.datasets"), f"keras.datasets.{name}"
    raise StudyError(
        f"There is no data set {name!r}: expected one of {', '.join(TITLES)}, or your own file "
        f"$AE_DATA_DIR/{name}.npz (AE_DATA_DIR is {os.environ.get('AE_DATA_DIR') or 'not set'})."
    )


def _own_file(name):
    return Path(os.environ["AE_DATA_DIR"]).expanduser() / f"{name}.npz"


def _read(path):
    where = f"$AE_DATA_DIR/{path.name}"
    if not zipfile.is_zipfile(path):
        raise StudyError(_damaged(where, "it is not a zip archive, or its end is missing"))
    try:
        # Unpickling can run any code, so a file with pickled objects is refused, never loaded.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in MNIST_MD5}
    except KeyError as error:
        raise StudyError(
            f"{where} has no array {error}; expected {', '.join(MNIST_MD5)}: add it."
        ) from error
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise StudyError(_damaged(where, error)) from error
        raise StudyError(
            f"{where} holds pickled objects, which are never loaded because they can run any code; "
            "expected plain integer arrays: save it again without object arrays."
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
        raise StudyError(_damaged(where, error)) from error
    return _check_arrays(arrays, where)


def _damaged(where, error):
    return f"{where} cannot be read ({error}); expected a complete .npz archive: fetch it again or remove it."


def _check_arrays(arrays, where):
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.shape[1:] != (SIDE, SIDE) or len(x) == 0:
            raise StudyError(
                f"x_{part} of {where} is {x.dtype} with shape {x.shape}; expected uint8 with shape (n, 28, 28): "
                "resize the images and save them as uint8."
            )
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise StudyError(
                f"y_{part} of {where} is {y.dtype} with shape {y.shape}; expected integers with shape ({len(x)},): "
                "give one label per image, zeros if there are none."
            )
    return arrays


def _check_is_mnist(md5, source):
    wrong = [key for key in MNIST_MD5 if md5[key] != MNIST_MD5[key]]
    if wrong:
        raise StudyError(
            f"{', '.join(wrong)} of {source} is not the original MNIST (MD5 {md5[wrong[0]]} of {wrong[0]} as IDX; "
            f"expected {MNIST_MD5[wrong[0]]}): fetch mnist.npz again, or give your own images another name."
        )


def _validation_size(name, n, size):
    if size is None:
        size = {
            "mnist": MNIST_VALIDATION,
            "fashion_mnist": MNIST_VALIDATION,
            "digits": DIGITS_VALIDATION,
        }.get(name, n // 6)
    if not 1 <= size < n:
        raise StudyError(
            f"validation_size is {size}; expected 1 to {n - 1} of the {n} training images: change it."
        )
    return size


def _digits():
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Bilinear, pixel areas aligned (grid_mode), so that the strokes neither shift nor ring; 16 grey levels become 255.
    factor = SIDE / digits.images.shape[1]
    images = zoom(digits.images / 16, (1, factor, factor), order=1, mode="nearest", grid_mode=True)
    images = np.rint(255 * images.clip(0, 1)).astype("uint8")
    labels, n = digits.target.astype("uint8"), DIGITS_TRAINING
    return {
        "x_train": images[:n],
        "y_train": labels[:n],
        "x_test": images[n:],
        "y_test": labels[n:],
    }
