"""A codec: images to bytes and back, by quantised coordinates and an entropy coder.

Transform coding as in Goyal, "Theoretical foundations of transform coding", IEEE Signal Processing
Magazine 18(5), 2001: an image becomes a few coordinates; each is rounded to a bin of one step; the
bins are entropy-coded under the histogram that their coordinate had on the training images. An
autoencoder and PCA make two codecs that differ in their layers alone.

Symbols come out of a stream as they went in, on any machine. Images come out of it the same to the
bit on one machine with as many threads; between machines their last bits may differ, and an image
whose coordinate lies on the edge of a bin may become another stream.
"""

import hashlib
import math
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real

from ae_lib import StudyError

# Their parts stand in modules of their own, and serve the codec only.
from ae_lib.analysis import codec_layers
from ae_lib.analysis.codec_stream import VERSION, pack, unpack
from ae_lib.data import as_flat_images
from ae_lib.models import mean_encoder
from ae_lib.training import fit

import keras
import numpy as np

CELL = 1 / 64  # width of a counted cell; a power of two, so that dividing by it is exact
UNREADABLE = (OSError, EOFError, LookupError, AttributeError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Bins:
    """One coordinate's bins: symbol of each cell, integer weight and value of each symbol."""

    symbol: np.ndarray
    weight: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, repr=False, eq=False)
class Codec:
    """What both ends of a stream must have: layers, and counts on the training images.

    Attributes
    ----------
    encoder : tuple of codec_layers.Layer and codec_layers.Network
        Images, float32 (n, pixels) in [0, 1], to coordinates, float32 (n, d) with training mean 0.
    decoder : tuple of Layer and Network, the first one a Layer
        Coordinates to images. With d + 1 inputs, the last one is the logarithm of the step.
    first : int32 array, shape (d,)
        The cell that holds the smallest training coordinate: floor(coordinate / CELL).
    counts : uint32 array, shape (d, cells)
        How many training coordinates lie in each cell from ``first`` on; 0 beyond the largest.
    rounding : float, in (0, 0.5]
        A coordinate falls into bin k ≥ 1 from (k − rounding) steps on, and likewise below 0. With
        0.5 that is ordinary rounding; less widens the bin around 0 (a dead zone), which costs some
        error and saves more bits.
    """

    encoder: tuple
    decoder: tuple
    first: np.ndarray
    counts: np.ndarray
    rounding: float

    def __repr__(self):
        return f"Codec of {len(self.first)} coordinates counted on {self.counts[0].sum():,} images"

    def encode(self, images):
        """Return the coordinates, float32 (n, d), of images as `as_flat_images` takes them.

        `StudyError` if they have another number of pixels than the training images.
        """
        flat, pixels = as_flat_images(images), self.encoder[0].inputs
        if flat.shape[1] != pixels:
            raise StudyError(
                f"The images have {flat.shape[1]} pixels each; expected {pixels}, as the codec's "
                "training images: resample them."
            )
        return codec_layers.run(self.encoder, flat)

    def decode(self, coordinates, step):
        """Return images, float32 (n, pixels), of coordinates (n, d) rounded with this step."""
        coordinates = np.asarray(coordinates, "float32")
        if len(self.decoder[0].weights) > len(self.first):
            log_step = np.full(len(coordinates), math.log(step), "float32")
            coordinates = np.column_stack([coordinates, log_step])
        return codec_layers.run(self.decoder, coordinates)

    def quantise(self, coordinates, step):
        """Round coordinates, float (n, d), to symbols, int32 (n, d), with bins of width ``step``.

        Symbols count from 0 for the lowest bin that training coordinates reach. A coordinate
        outside its range on the training images counts as the end of that range.
        """
        cells = np.clip(_cells(coordinates) - self.first, 0, self._ranges - 1)
        symbols = [bins.symbol[cells[:, i]] for i, bins in enumerate(self.bins(step))]
        return np.stack(symbols, axis=1)

    def dequantise(self, symbols, step):
        """Return the mean of the training coordinates in each symbol's bin, float32 (n, d)."""
        values = [bins.value[symbols[:, i]] for i, bins in enumerate(self.bins(step))]
        return np.stack(values, axis=1)

    def ideal_bits(self, symbols, step):
        """Return −log2 of the probability of each image's symbols, float64 (n,)."""
        lengths = [-np.log2(bins.weight / bins.weight.sum()) for bins in self.bins(step)]
        return sum(length[symbols[:, i]] for i, length in enumerate(lengths))

    def bins(self, step):
        """Return the `Bins` of each coordinate; `StudyError` if the step is no number ≥ CELL."""
        if isinstance(step, bool) or not isinstance(step, Real) or not CELL <= step < math.inf:
            raise StudyError(
                f"The step is {step!r}; expected a number of at least {CELL}: change it."
            )
        columns = zip(self.first.astype("int64"), self.counts, self._ranges, strict=True)
        return [
            _bins(first, counts[:length], float(step), self.rounding)
            for first, counts, length in columns
        ]

    @cached_property
    def fingerprint(self):
        """SHA-256 of everything that `save` writes, 32 bytes."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays().items()):
            little = array.astype(array.dtype.newbyteorder("<"))
            digest.update(f"{name} {little.dtype.str} {little.shape} ".encode() + little.tobytes())
        return digest.digest()

    def receiver_bytes(self):
        """Return what a receiver needs beforehand: the decoder's weights, and the counts."""
        parts = [part for layer in self.decoder for part in layer.parts().values()]
        weights = b"".join(part.tobytes() for part in parts if part.dtype == np.float32)
        return weights, self.first.tobytes() + self.counts.tobytes()

    def save(self, path):
        """Write the codec to one .npz file, without pickled objects."""
        np.savez_compressed(path, **self.arrays())

    def arrays(self):
        """Return what `save` writes, name to array."""
        settings = {"version": VERSION, "cell": CELL, "rounding": self.rounding}
        arrays = {name: np.array(value) for name, value in settings.items()}
        for name in ("encoder", "decoder"):
            for i, layer in enumerate(getattr(self, name)):
                arrays |= {f"{name}.{i}.{field}": part for field, part in layer.parts().items()}
        return arrays | {"first": self.first, "counts": self.counts}

    @cached_property
    def _ranges(self):
        """How many cells each coordinate's range has, integers (d,)."""
        return self.counts.shape[1] - (self.counts[:, ::-1] > 0).argmax(axis=1)


def from_autoencoder(encoder, decoder, images, rounding=0.5, metric_images=300):
    """Make a codec of a trained autoencoder.

    The units of a code are correlated and change the image by different amounts, so that one step
    for all would waste bits. The code is therefore mapped to coordinates for which one step is
    optimal if it is small. In the metric G = mean of JᵀJ, where J is the decoder's Jacobian, an
    error of the code has the length of its effect on the image. The coordinates are the
    Karhunen–Loève transform of the codes in this metric (Goyal 2001): uncorrelated, and measured
    in the root of the squared error summed over the pixels. Raises `StudyError` if a layer is of
    another kind than below, or the rounding is outside its range.

    Parameters
    ----------
    encoder, decoder : keras.Model, (n, pixels) → (n, d) and back
        Layers in a row, as the builders of `ae_lib.models` make them: dense ones with linear, ReLU
        or sigmoid activation, and `codec_layers.NETWORK_LAYERS`. A `GaussianCode` gives its mean.
    images : uint8 or float array, shape (n, pixels)
        The training images, on whose codes everything is fitted.
    rounding : float, in (0, 0.5]
        See `Codec`.
    metric_images : int
        Number of images, evenly spaced, over which the metric is averaged.
    """
    inwards = codec_layers.from_keras(mean_encoder(encoder).layers)
    outwards = codec_layers.from_keras(decoder.layers)
    codes = codec_layers.run(inwards, as_flat_images(images))
    metric = _mean_metric(outwards, codes[:: max(1, len(codes) // metric_images)])
    mean, forward, backward = _klt(codes.astype("float64"), metric)
    to_coordinates = codec_layers.dense(forward, -mean @ forward, "linear")
    coordinates = codec_layers.run((to_coordinates,), codes)  # as the whole encoder gives them
    outwards = (codec_layers.dense(backward, mean, "linear"), *outwards)
    return _counted((*inwards, to_coordinates), outwards, coordinates, rounding)


def tuned(codec, images, validation, settings, steps):
    """Train a codec's decoder further on rounded coordinates, with the step as one more input.

    The best reconstruction of rounded coordinates is the mean of all images in the same bins, which
    depends on the step (Choi, El-Khamy and Lee, "Variable rate deep image compression with a
    conditional autoencoder", ICCV 2019). Each training image is rounded with a step of its own,
    drawn log-uniformly between ``steps``, a pair. The encoder, and so every code, stays as it is.

    ``codec`` is one of `from_autoencoder`; ``images`` and ``validation`` are uint8 or float32,
    shape (n, pixels); ``settings`` are `ae_lib.training.Settings`. Returns the new codec and a
    keras.callbacks.History. Raises `StudyError` if the decoder's first layer is not dense.
    """
    encoder = codec_layers.to_keras(codec.encoder, trainable=False)
    decoder = codec_layers.to_keras(_with_step_input(codec.decoder))
    rounding = _RandomStep(steps, codec.rounding, settings.seed)
    inputs = keras.Input((codec.encoder[0].inputs,))
    outputs = keras.Sequential([*encoder, rounding, *decoder])(inputs)
    history = fit(keras.Model(inputs, outputs), images, validation, settings)
    return replace(codec, decoder=codec_layers.from_keras(decoder)), history


def from_pca(pca, images, rounding=0.5, gain=1.0):
    """Make a codec of a fitted `sklearn.decomposition.PCA`, whose values are clipped to [0, 1].

    Clipping costs nothing, so that a contrast above that of a bin's mean lowers the error: ``gain``
    multiplies the difference from the mean image. The rest is as in `from_autoencoder`.
    """
    basis, mean = pca.components_.astype("float64"), pca.mean_.astype("float64")
    encoder = codec_layers.dense(basis.T, -basis @ mean, "linear")
    decoder = codec_layers.dense(gain * basis, mean, "clip")
    coordinates = codec_layers.run((encoder,), as_flat_images(images))
    return _counted((encoder,), (decoder,), coordinates, rounding)


def load(path):
    """Read a codec that `Codec.save` wrote; `StudyError` if the file holds anything else."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
        if (int(arrays["version"]), float(arrays["cell"])) != (VERSION, CELL):
            raise StudyError(
                f"{path} holds a codec of version {arrays['version']}; expected version {VERSION}: "
                "fit the codec again."
            )
        encoder, decoder = (codec_layers.read(arrays, name) for name in ("encoder", "decoder"))
        rounding = float(arrays["rounding"])
        codec = Codec(encoder, decoder, arrays["first"], arrays["counts"], rounding)
        _check(codec)
        return codec
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        raise StudyError(
            f"{path} cannot be read as a codec ({error}); expected a file written by Codec.save: "
            "fit the codec again."
        ) from error


def compress(images, codec, step):
    """Encode images, as `as_flat_images` takes them, as a stream of bytes.

    The larger the step, at least CELL, the fewer bytes and the larger the error. Raises
    `StudyError` if images or step are of another kind.
    """
    return pack(codec.quantise(codec.encode(images), step), codec, step)


def decompress(stream, codec):
    """Decode a stream that `compress` made with the same codec.

    Returns float32 images, shape (n, pixels), in [0, 1]. Raises `StudyError` as `stream.unpack`
    does.
    """
    symbols, step = unpack(stream, codec)
    return codec.decode(codec.dequantise(symbols, step), step)


def _with_step_input(decoder):
    """Return the decoder with one more input, whose weights are 0."""
    back, first, *rest = decoder
    if not isinstance(first, codec_layers.Layer):
        raise StudyError(
            "The decoder's first layer is not dense; expected a dense one, which can take the step "
            "as an input: build the decoder so."
        )
    # The first layer absorbs the map back to codes, which `from_autoencoder` put before it.
    weights = np.vstack([back.weights @ first.weights, np.zeros(len(first.bias))])
    bias = back.bias @ first.weights + first.bias
    return codec_layers.dense(weights, bias, first.activation), *rest


class _RandomStep(keras.layers.Layer):
    """Round each code with a step drawn for it, and append the logarithm of that step."""

    def __init__(self, steps, rounding, seed):
        super().__init__()
        self.logs, self.rounding = np.log(steps), rounding
        self.random = keras.random.SeedGenerator(seed)

    def call(self, x):
        log = keras.random.uniform((keras.ops.shape(x)[0], 1), *self.logs, seed=self.random)
        step = keras.ops.exp(log)
        bins = keras.ops.floor(keras.ops.abs(x) / step + self.rounding)
        return keras.ops.concatenate([keras.ops.sign(x) * bins * step, log], axis=1)


def _mean_metric(decoder, codes):
    """Return the mean over codes of JᵀJ, where J is the decoder's Jacobian."""
    total, d = 0, codes.shape[1]
    for start in range(0, len(codes), 100):
        x = codes[start : start + 100]
        jacobian = np.broadcast_to(np.eye(d, dtype="float32"), (len(x), d, d))
        for layer in decoder:
            x, jacobian = layer.carry(x, jacobian)
        flat = jacobian.swapaxes(0, 1).reshape(d, -1)
        total = total + (flat @ flat.T).astype("float64")
    return total / len(codes)


def _klt(codes, metric):
    """Return the mean, the map to uncorrelated coordinates of unit metric, and the inverse map."""
    values, vectors = np.linalg.eigh(metric)
    # A unit that the decoder ignores has no length in the metric; a very small one makes the map
    # invertible. If the decoder ignores the whole code, any length will do.
    root = np.sqrt(np.maximum(values, 1e-6 * values.max() or 1))
    whitened = (codes - codes.mean(axis=0)) @ (vectors * root)
    _, turn = np.linalg.eigh(whitened.T @ whitened)
    turn = turn[:, ::-1]
    return codes.mean(axis=0), (vectors * root) @ turn, turn.T @ (vectors / root).T


def _counted(encoder, decoder, coordinates, rounding):
    if not 0 < rounding <= 0.5:
        raise StudyError(
            f"rounding is {rounding}; expected a number above 0 and up to 0.5: change it."
        )
    cells = _cells(coordinates)
    first = cells.min(axis=0)
    length = int((cells.max(axis=0) - first).max()) + 1
    counts = [np.bincount(column, minlength=length) for column in (cells - first).T]
    counts = np.array(counts, "uint32")
    return Codec(encoder, decoder, first.astype("int32"), counts, float(rounding))


def _cells(coordinates):
    return np.clip(np.floor(np.asarray(coordinates) / CELL), -(2**31), 2**31 - 1).astype("int64")


def _bins(first, counts, step, rounding):
    """Return a coordinate's `Bins`, by correctly rounded arithmetic: the same on every machine."""
    cells = first + np.arange(len(counts))
    highest = math.floor(max(-cells[0], cells[-1] + 1) * CELL / step + rounding)
    edges = np.floor((np.arange(1, highest + 1) - rounding) * step / CELL + 0.5).astype("int64")
    symbol = np.searchsorted(np.concatenate([-edges[::-1], edges]), cells, side="right")
    symbol = (symbol - symbol[0]).astype("int32")
    start = np.searchsorted(symbol, np.arange(symbol[-1] + 1))
    # One half is added to each count, so that no bin is impossible (Krichevsky and Trofimov, "The
    # performance of universal encoding", IEEE Transactions on Information Theory 27(2), 1981);
    # doubled, the weights are whole numbers.
    weight = 2 * np.add.reduceat(counts.astype("int64"), start) + 1
    mass = counts + 1e-3  # an empty bin has its middle for a mean
    value = np.add.reduceat(mass * (cells + 0.5) * CELL, start) / np.add.reduceat(mass, start)
    return Bins(symbol, weight, value.astype("float32"))


def _check(codec):
    """Raise ValueError unless the parts of a codec that was read fit each other."""
    first, counts, d = codec.first, codec.counts, codec.first.size
    if first.shape != (d,) or first.dtype != "int32" or not 0 < codec.rounding <= 0.5:
        raise ValueError(f"first is {first.dtype} {first.shape}, rounding {codec.rounding}")
    if counts.dtype != "uint32" or counts.ndim != 2 or not 0 < d == len(counts):
        raise ValueError(f"counts are {counts.dtype} {counts.shape} for {d} coordinates")
    if not counts[:, 0].all() or len(set(counts.sum(axis=1).tolist())) > 1:
        raise ValueError("the counts are not of the same images in every coordinate")
    # Layers that do not fit each other raise errors here, not when the first stream is read.
    pixels = codec.encoder[0].inputs
    coordinates = codec.encode(np.zeros((1, pixels), "float32"))
    images = codec.decode(coordinates[:, :d], CELL)
    if coordinates.shape != (1, d) or images.shape != (1, pixels) or not np.isfinite(images).all():
        raise ValueError(f"the layers give {coordinates.shape} coordinates, {images.shape} pixels")
