"""Images and labels: where they come from, whether they are the right ones, how they are split.

Images stay uint8 and flattened; reading them scales them to [0, 1].
"""

import hashlib
import math
import os
import socket
import struct
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from ae_lib import StudyError, silenced_stderr, sources

import numpy as np

PROJECT = Path(__file__).parents[1]
DIGITS_TRAINING = 1_500  # of scikit-learn's 1,797; the last 297 are the test set
DIGITS_SIZE = 28, 28  # to which they are resampled, as large as MNIST's
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
    """Images, uint8 of shape (n, h · w), and the numbers of their classes, int64 (n,), split.

    ``x_train``, ``x_val`` and ``x_test`` are the images as float32 in [0, 1]: a new copy, four
    times as large, at each access.
    """

    name: str
    title: str  # in figures
    source: str  # where it was found
    shape: tuple  # height and width of an image
    classes: np.ndarray  # what each class is called, integers or text, by its number
    pixels_train: np.ndarray
    y_train: np.ndarray
    pixels_val: np.ndarray
    y_val: np.ndarray
    pixels_test: np.ndarray
    y_test: np.ndarray
    md5: dict  # of the arrays as IDX byte streams, before validation images were taken
    notes: tuple = ()  # what was done to the images, in sentences

    x_train = property(lambda self: as_flat_images(self.pixels_train))
    x_val = property(lambda self: as_flat_images(self.pixels_val))
    x_test = property(lambda self: as_flat_images(self.pixels_test))
    pixels = property(lambda self: math.prod(self.shape), doc="How many an image has.")

    @property
    def single_class(self):
        """Whether the training images are all of one class, as are those without labels."""
        return len(np.unique(self.y_train)) < 2

    @property
    def everywhere(self):
        """Numbers of the classes that have training, validation and test images."""
        return np.array(sorted({*self.y_train} & {*self.y_val} & {*self.y_test}), "int64")

    def examples(self, seed=0):
        """Indices of test images drawn at random, ten or more: one of each of up to 12 classes."""
        rng = np.random.default_rng(seed)
        classes = np.unique(self.y_test)[:12]
        wanted = np.sort(np.resize(classes, max(10, len(classes))))
        return np.array([rng.choice(np.flatnonzero(self.y_test == k)) for k in wanted])

    def __repr__(self):
        sizes = " + ".join(f"{len(y):,}" for y in (self.y_train, self.y_val, self.y_test))
        first = f"{self.title}: {sizes} images (training + validation + test)"
        return "\n".join([first, *self.notes])


def load(name="mnist", validation_size=None, image_size=None):
    """Load a data set, check it, flatten it and split it into a `Dataset`.

    Parameters
    ----------
    name : str
        ``"mnist"`` and ``"fashion_mnist"`` are looked for in ``$AE_DATA_DIR/<name>.npz``, then
        through ``keras.datasets``. ``"digits"`` comes with scikit-learn: 1,797 images, 8 × 8,
        resampled to 28 × 28; the first 1,500 are the training images, the others the test set. Any
        other name is a file or folder of your own, in one of the forms of `ae_lib.sources`: its
        path, absolute or below ``$AE_DATA_DIR``, the project's folder or the present one;
        ``.npz`` may be left out.
    validation_size : int, optional
        How many of the training images are the validation subset. By default the first 10,000 of
        MNIST and Fashion-MNIST, the first 300 of the digits, one sixth of your own.
    image_size : (int, int), optional
        Height and width to which images are resampled; by default they stay as they are, with
        sides from 8 to 96.

    Your own images are put into an order of their content, so that the same images give the same
    study whatever form they come in. Without test images, one seventh of them becomes the test set;
    it and the validation subset have each class in proportion. ``notes`` says what was done.

    Raises
    ------
    StudyError
        If it cannot be found or read, is not what its name says, or the split leaves a part empty.
    """
    if not isinstance(image_size, list | tuple | None) or len(image_size or "hw") != 2:
        raise StudyError(f"image_size is {image_size}; expected [height, width]: change it.")
    size = tuple(whole_number("image_size", side) for side in image_size or ()) or None
    images, labels, source, notes = _find(name, size)
    own = name not in TITLES
    md5 = _md5(images, labels)
    if name == "mnist" and (
        altered := [key for key in MNIST_MD5 if md5.get(key) != MNIST_MD5[key]]
    ):
        raise StudyError(
            f"{altered[0]} of {source} is not the original MNIST (MD5 {md5.get(altered[0])} as "
            f"IDX; expected {MNIST_MD5[altered[0]]}): fetch mnist.npz again, or give your own "
            "images another name."
        )
    images, shape = sources.of_size(images, size, source, notes)
    if own:
        images, labels = _in_order_of_content(images, labels)
        md5 = _md5(images, labels)
    classes = np.unique(np.concatenate([*labels.values()]))
    flat = {part: x.reshape(len(x), -1) for part, x in images.items()}
    parts = {part: (flat[part], np.searchsorted(classes, y)) for part, y in labels.items()}
    train = parts.pop("train" if "train" in parts else "all")
    # As in MNIST, one seventh of all images is the test set, and as many are for validation.
    if "test" not in parts:
        train, parts["test"] = _split(*train, len(train[1]) // 7, "test", own, notes)
    if "val" not in parts or validation_size is not None:
        usual = VALIDATION_SIZES.get(name, len(train[1]) // 6)
        size = usual if validation_size is None else validation_size
        train, parts["val"] = _split(*train, size, "validation", own, notes)
    if unseen := sorted(set(range(len(classes))) - set(train[1])):
        notes.append(f"Class {classes[unseen[0]]} has no training image.")
    title = TITLES.get(name, f"{Path(name).name.partition('.')[0]} (not MNIST)")
    about = name, title, source, shape, classes
    return Dataset(*about, *train, *parts["val"], *parts["test"], md5, tuple(notes))


def as_flat_images(images):
    """Scale and flatten images to float32, shape (n, h · w), in [0, 1].

    Shapes (n, h, w), (n, h, w, 1) and (n, h · w), uint8 in [0, 255] or floating point in [0, 1],
    are taken; others, values outside the range, NaN and infinity are a `StudyError`.
    """
    images = np.asarray(images)
    if images.ndim not in (2, 3, 4) or images.shape[3:] not in ((), (1,)) or images.size == 0:
        raise StudyError(
            f"The images have shape {images.shape}; expected (n, height, width), with 1 channel or "
            "none, or (n, pixels), with n of at least 1: reshape them first."
        )
    flat = images.reshape(len(images), -1)
    if images.dtype == np.uint8:
        return flat.astype("float32") / 255
    check_range(images)
    return flat.astype("float32")


def check_range(images):
    """Raise `StudyError` unless images are floating point, and all pixels in [0, 1]."""
    # A comparison with NaN is false, so this catches NaN and infinity as well.
    if not (np.issubdtype(images.dtype, np.floating) and images.min() >= 0 and images.max() <= 1):
        raise StudyError(
            f"The images are {images.dtype} and range from {images.min():g} to {images.max():g}; "
            "expected uint8 in [0, 255], or floating point in [0, 1] without NaN: convert them "
            "with .astype('uint8') if they are whole numbers, or scale them."
        )


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
    """The (first) file or folder from which `load` takes ``name`` without a download, or None."""
    own = _own_path(name)
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


def _find(name, size):
    """Images, labels, source and notes, as `ae_lib.sources.understand` gives them."""
    if name == "digits":
        return *_digits(size or DIGITS_SIZE), "scikit-learn", []
    if path := _own_path(name):
        source = f"$AE_DATA_DIR/{path.name}" if name in TITLES else str(name)
        found, notes = sources.read(path, size)
    elif name in KERAS_FILES:
        source, arrays = f"keras.datasets.{name}", download(name)
        found = {part: (arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")}
        notes = []
    else:
        raise StudyError(
            f"There is no data set {name!r}: expected one of {', '.join(TITLES)}, or a file or "
            "folder of your own, by its path, absolute or below AE_DATA_DIR, which is "
            f"{os.environ.get('AE_DATA_DIR') or 'not set'}, or below the project's folder."
        )
    images, labels, more = sources.understand(found, source, size)
    return images, labels, source, notes + more


def _own_path(name):
    """The file or folder that a name means, or None; never one for the digits."""
    folder = os.environ.get("AE_DATA_DIR")
    roots = [Path(os.path.expanduser(folder))] if folder else []
    if name in ("digits", ""):
        return None
    if name in TITLES:
        names = [f"{name}.npz"]
    else:
        roots, names = [*roots, PROJECT, Path()], [f"{name}.npz", name]
    # Unlike pathlib's, this leaves a ~ alone where there is no home.
    paths = [root / os.path.expanduser(file) for root in roots for file in names]
    return next((path for path in paths if path.exists()), None)


def _in_order_of_content(images, labels):
    for part, y in labels.items():
        keys = [
            (hashlib.blake2b(image.tobytes(), digest_size=16).digest(), label)
            for image, label in zip(images[part], y.tolist(), strict=True)
        ]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        images[part], labels[part] = images[part][order], y[order]
    return images, labels


def _split(x, y, size, part, own, notes):
    """Set ``size`` images aside, of one's own each class in proportion: the rest, and these."""
    n = len(y)
    if not 1 <= size < n:
        raise StudyError(
            f"{size} of {n} images would be for {part}; expected at least one there, and one in "
            "training: change validation_size, or add images."
        )
    aside = np.zeros(n, bool)
    if own:  # evenly spaced after sorting by class, which keeps the order by content within it
        places = ((np.arange(size) + 0.5) * n / size).astype("int64")
        aside[np.argsort(y, kind="stable")[places]] = True
        remaining = np.bincount(y[~aside], minlength=y.max() + 1)[y] > 0
        if (aside & remaining).any():  # no class is left without, if possible
            aside &= remaining
        notes.append(f"{aside.sum():,} {part} images were set aside, each class in proportion.")
    else:
        aside[:size] = True
    return (x[~aside], y[~aside]), (x[aside], y[aside])


def _md5(images, labels):
    names, md5 = np.unique(np.concatenate([*labels.values()])), {}
    for part, y in labels.items():
        end = "" if part == "all" else f"_{part}"
        numbers = y if y.dtype.kind in "iu" else np.searchsorted(names, y)  # of text
        md5 |= {f"x{end}": idx_md5(images[part]), f"y{end}": idx_md5(numbers)}
    return md5


def _digits(size):
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits, n = load_digits(), DIGITS_TRAINING
    # As `sources.resampled`, but in float64, which decides what lies half way between two values.
    factors = 1, *np.divide(size, digits.images.shape[1:])
    x = zoom(digits.images / 16, factors, order=1, mode="nearest", grid_mode=True)
    x, y = np.rint(255 * x.clip(0, 1)).astype("uint8"), digits.target
    return {"train": x[:n], "test": x[n:]}, {"train": y[:n], "test": y[n:]}
