"""Bytes come back as they went, cost what they should, and no damaged byte is ever decoded."""

import dataclasses
import json

from ae_lib import StudyError, models, training
from ae_lib.analysis import codec, codec_layers
from ae_lib.analysis.codec_stream import HEAD, HEADER, checksum, pack, unpack

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.decomposition import PCA

STEP = 2.0


@pytest.fixture(scope="module")
def fitted(digits):
    return PCA(12, svd_solver="covariance_eigh").fit(digits.x_train)


@pytest.fixture(scope="module")
def pca(digits, fitted):
    return codec.from_pca(fitted, digits.pixels_train, rounding=0.4)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return models.dense_autoencoder(hidden=(20, 15), latent_dim=6)


@pytest.fixture(scope="module")
def dense(digits, network):
    return codec.from_autoencoder(
        network.encoder, network.decoder, digits.pixels_train, metric_images=100
    )


@pytest.fixture(scope="module", params=["conv", "odd", "vae"])
def other(request):
    """Networks that are not plain rows of dense codec_layers."""
    keras.utils.set_random_seed(0)
    if request.param == "conv":
        return models.convolutional_autoencoder(filters=(3, 4), latent_dim=6)
    if request.param == "odd":  # 28 → 14 → 7 → 4, cropped on the way back
        return models.convolutional_autoencoder(filters=(3, 3, 4), latent_dim=6)
    return models.variational_autoencoder(hidden=(20, 15), latent_dim=6)


@pytest.fixture(scope="module")
def others_codec(digits, other):
    return codec.from_autoencoder(
        other.encoder, other.decoder, digits.pixels_train, metric_images=100
    )


def test_constant_images_come_back_as_numbers(network):
    images = np.full((50, 784), 100, "uint8")
    own = codec.from_autoencoder(network.encoder, network.decoder, images)
    assert np.isfinite(codec.decompress(codec.compress(images, own, STEP), own)).all()


def test_images_of_another_size_are_refused(dense):
    with pytest.raises(StudyError, match="have 100 pixels each; expected 784"):
        dense.encode(np.zeros((3, 10, 10)))


def tiny():
    """A codec in round numbers: its coordinates are pixels 0 and 1, centred."""
    weights = np.zeros((784, 2), "float32")
    weights[0, 0] = weights[1, 1] = 4
    inwards = codec_layers.Layer(weights, np.float32([-2, -2]), "linear")
    outwards = codec_layers.Layer(weights.T / 16, np.full(784, 0.5, "float32"), "clip")
    counts = np.zeros((2, 257), "uint32")
    counts[:, ::16] = np.arange(17) + 1
    return codec.Codec((inwards,), (outwards,), np.int32([-128, -128]), counts, 0.5)


def tiny_images():
    images = np.zeros((5, 784), "float32")
    images[:, :2] = [[0, 1], [0.25, 0.5], [1, 1], [0.125, 0.875], [0.5, 0]]
    return images


# The bytes of `tiny_images` with a step of 0.5, so that the format cannot change unnoticed: whoever
# changes them changes VERSION.
GOLDEN = bytes.fromhex(
    "414543015c2b7fefab9614f8000000000000e03f050000000200000067b139f792b18543687f01ad02940f00"
)


@pytest.mark.parametrize("case", range(12))
def test_symbols_come_back_exactly(digits, pca, dense, case):
    rng = np.random.default_rng(case)
    own = (pca, dense)[case % 2]
    step = float(np.exp(rng.uniform(np.log(codec.CELL), np.log(8))))
    images = digits.x_test[rng.integers(0, 297, rng.integers(1, 60))]
    symbols = own.quantise(own.encode(images), step)
    back, found = unpack(codec.compress(images, own, step), own)
    assert found == step
    np.testing.assert_array_equal(back, symbols)


def test_images_come_back_as_from_the_symbols(digits, pca):
    stream = codec.compress(digits.pixels_test, pca, STEP)
    rounded = pca.dequantise(pca.quantise(pca.encode(digits.x_test), STEP), STEP)
    images = codec.decompress(stream, pca)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, pca.decode(rounded, STEP))


def test_bytes_are_the_ideal_length_and_the_header(digits, pca):
    for step in (0.2, 1, 3):
        ideal = pca.ideal_bits(pca.quantise(pca.encode(digits.x_train), step), step).sum() / 8
        length = len(codec.compress(digits.x_train, pca, step)) - HEADER
        assert ideal <= length + 4
        assert length <= 1.002 * ideal + 8


def test_ideal_bits_are_those_of_smoothed_frequencies(digits, pca):
    """Counted again, from the symbols of the training images alone."""
    symbols = pca.quantise(pca.encode(digits.x_train), STEP)
    expected = np.zeros(len(symbols))
    for column in symbols.T:
        counts = np.bincount(column)
        expected -= np.log2((counts[column] + 0.5) / (counts + 0.5).sum())
    np.testing.assert_allclose(pca.ideal_bits(symbols, STEP), expected)


def test_bins_are_steps_wide_and_their_values_means(digits, pca):
    coordinates = pca.encode(digits.x_train)
    symbols = pca.quantise(coordinates, STEP)
    values = pca.dequantise(symbols, STEP)
    bins = np.sign(coordinates) * np.floor(np.abs(coordinates) / STEP + 0.4)
    for i in range(12):
        offset = symbols[:, i] - bins[:, i]
        assert (offset == np.median(offset)).mean() > 0.97  # but for edges that fall inside a cell
        for symbol in np.unique(symbols[:, i]):
            inside = symbols[:, i] == symbol
            assert values[inside, i][0] == pytest.approx(
                coordinates[inside, i].mean(), abs=codec.CELL
            )


def test_finer_steps_cost_more_and_err_less(digits, pca):
    streams = [codec.compress(digits.x_test, pca, step) for step in (4, 2, 1, 0.5)]
    errors = [np.square(codec.decompress(stream, pca) - digits.x_test).mean() for stream in streams]
    assert sorted(streams, key=len) == streams
    assert sorted(errors, reverse=True) == errors


def test_pca_layers_are_sklearns(digits, fitted):
    own = codec.from_pca(fitted, digits.pixels_train)
    coordinates = fitted.transform(digits.x_test)
    np.testing.assert_allclose(own.encode(digits.x_test), coordinates, atol=1e-4)
    np.testing.assert_allclose(
        own.decode(coordinates, 1), fitted.inverse_transform(coordinates).clip(0, 1), atol=1e-5
    )
    stronger = codec.from_pca(fitted, digits.pixels_train, gain=1.5)
    expected = fitted.inverse_transform(1.5 * coordinates).clip(0, 1)
    np.testing.assert_allclose(stronger.decode(coordinates, 1), expected, atol=1e-5)


def test_autoencoder_layers_are_the_networks(digits, network, dense):
    coordinates = dense.encode(digits.x_test)
    expected = network.autoencoder.predict(digits.x_test, verbose=0)
    np.testing.assert_allclose(dense.decode(coordinates, 1), expected, atol=1e-4)


def test_other_networks_are_drawn_and_measured_as_keras_does(digits, other, others_codec):
    expected = other.autoencoder.predict(digits.x_test, verbose=0)
    np.testing.assert_allclose(
        others_codec.decode(others_codec.encode(digits.x_test), 1), expected, atol=1e-4
    )
    check_coordinates(digits, other, others_codec)


def test_other_networks_symbols_and_images_come_back_exactly(digits, others_codec):
    for step in (0.1, STEP):
        symbols = others_codec.quantise(others_codec.encode(digits.x_test), step)
        stream = codec.compress(digits.x_test, others_codec, step)
        np.testing.assert_array_equal(unpack(stream, others_codec)[0], symbols)
        expected = others_codec.decode(others_codec.dequantise(symbols, step), step)
        np.testing.assert_array_equal(codec.decompress(stream, others_codec), expected)


def test_other_networks_codecs_are_saved_as_they_are(digits, others_codec, tmp_path):
    check_saved(others_codec, digits.x_test, tmp_path)


def check_saved(own, images, folder):
    own.save(folder / "codec.npz")
    loaded = codec.load(folder / "codec.npz")
    assert loaded.fingerprint == own.fingerprint
    stream = codec.compress(images, own, STEP)
    np.testing.assert_array_equal(codec.decompress(stream, loaded), codec.decompress(stream, own))


def test_a_convolutional_decoder_learns_to_use_the_step(digits, tmp_path):
    keras.utils.set_random_seed(0)
    network = models.convolutional_autoencoder(filters=(3, 4), latent_dim=6)
    own = codec.from_autoencoder(
        network.encoder, network.decoder, digits.pixels_train, metric_images=100
    )
    settings = training.Settings(epochs=2, batch_size=16)
    before = [weights.copy() for weights in network.autoencoder.get_weights()]
    few = digits.pixels_train[:320], digits.pixels_val[:50]
    tuned, _ = codec.tuned(own, *few, settings, (0.5, 4))
    symbols = own.quantise(own.encode(digits.x_test), STEP)
    np.testing.assert_array_equal(tuned.quantise(tuned.encode(digits.x_test), STEP), symbols)
    rounded = tuned.dequantise(symbols, STEP)
    errors = [np.square(each.decode(rounded, STEP) - digits.x_test).mean() for each in (own, tuned)]
    assert errors[1] < errors[0]
    assert not np.allclose(tuned.decode(rounded, 1), tuned.decode(rounded, 4))
    for kept, weights in zip(before, network.autoencoder.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weights)
    assert (
        codec.tuned(own, *few, settings, (0.5, 4))[0].fingerprint
        == tuned.fingerprint
        != own.fingerprint
    )
    check_saved(tuned, digits.x_test, tmp_path)


def test_a_convolutions_fingerprint_covers_layers_and_weights(digits):
    keras.utils.set_random_seed(0)
    network = models.convolutional_autoencoder(filters=(2,), latent_dim=3)
    own = codec.from_autoencoder(
        network.encoder, network.decoder, digits.pixels_train, metric_images=10
    )
    stage = own.encoder[0]
    assert [type(part).__name__ for part in own.encoder] == ["Network", "Layer", "Layer"]
    assert [type(part).__name__ for part in own.decoder] == ["Layer", "Layer", "Network"]
    changed = [
        codec_layers.Network(stage.config.replace("relu", "linear"), stage.arrays),
        codec_layers.Network(stage.config, (stage.arrays[0] + 1, stage.arrays[1])),
    ]
    prints = [
        dataclasses.replace(own, encoder=(part, *own.encoder[1:])).fingerprint for part in changed
    ]
    assert len({own.fingerprint, *prints}) == 3
    weights, _ = own.receiver_bytes()
    assert len(weights) == 4 * (network.decoder.count_params() + 3 * 3 + 3)


@pytest.mark.parametrize(
    "layer",
    [
        ["Lambda", {}],
        ["Conv2D", {"filters": 2, "kernel_size": 3, "kernel_initializer": {"module": "os"}}],
        3,
    ],
)
def test_a_file_runs_nothing_but_the_layers_it_may_name(digits, tmp_path, layer):
    keras.utils.set_random_seed(0)
    network = models.convolutional_autoencoder(filters=(2,), latent_dim=3)
    own = codec.from_autoencoder(
        network.encoder, network.decoder, digits.pixels_train, metric_images=10
    )
    config = json.dumps({"inputs": 784, "layers": [layer]})
    np.savez(tmp_path / "codec.npz", **own.arrays() | {"encoder.0.config": np.array(config)})
    with pytest.raises(StudyError, match="cannot be read as a codec"):
        codec.load(tmp_path / "codec.npz")


def test_coordinates_are_uncorrelated_and_measured_in_pixels(digits, network, dense):
    check_coordinates(digits, network, dense)


def check_coordinates(digits, network, dense):
    """An error in the coordinates has the same mean length in the image, by TensorFlow."""
    coordinates = dense.encode(digits.x_train).astype("float64")
    covariance = np.cov(coordinates.T)
    np.testing.assert_allclose(coordinates.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(
        covariance - np.diag(np.diag(covariance)), 0, atol=1e-3 * covariance.max()
    )
    assert (np.diff(np.diag(covariance)) <= 0).all()
    codes = tf.constant(network.encoder.predict(digits.x_train[::12], verbose=0))
    columns = []
    for change in dense.decoder[0].weights:  # of the code, for one coordinate
        with tf.autodiff.ForwardAccumulator(
            codes, tf.constant(np.tile(change, (len(codes), 1)))
        ) as forward:
            images = network.decoder(codes)
        columns.append(forward.jvp(images).numpy())
    jacobian = np.stack(columns, axis=2)
    np.testing.assert_allclose(
        np.einsum("npi,npj->ij", jacobian, jacobian) / len(codes), np.eye(6), atol=1e-3
    )


def test_a_decoder_that_is_told_the_step_learns_to_use_it(digits, network, dense):
    settings = training.Settings(epochs=3, batch_size=16, compiler="none")
    few = digits.pixels_train[:320], digits.pixels_val[:50]
    tuned, history = codec.tuned(dense, *few, settings, (0.5, 4))
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert tuned.decoder[0].weights.shape == (7, 15)
    symbols = dense.quantise(dense.encode(digits.x_test), STEP)
    np.testing.assert_array_equal(tuned.quantise(tuned.encode(digits.x_test), STEP), symbols)
    rounded = dense.dequantise(symbols, STEP)
    before, after = (
        np.square(own.decode(rounded, STEP) - digits.x_test).mean() for own in (dense, tuned)
    )
    assert after < before
    assert not np.allclose(tuned.decode(rounded, 1), tuned.decode(rounded, 4))
    assert not np.allclose(network.decoder.get_weights()[0], 0)  # the network itself is left alone
    again, _ = codec.tuned(dense, *few, settings, (0.5, 4))
    assert again.fingerprint == tuned.fingerprint


def test_values_beyond_the_training_range_are_clamped(pca):
    far = np.array([[1e9] * 12, [-1e9] * 12, [0] * 12])
    symbols = pca.quantise(far, STEP)
    back, _ = unpack(pack(symbols, pca, STEP), pca)
    np.testing.assert_array_equal(back, symbols)
    assert (symbols[1] == 0).all()


def test_a_step_beyond_all_coordinates_leaves_the_mean_image(digits, pca):
    stream = codec.compress(digits.x_test, pca, 1e6)
    assert len(stream) == HEADER
    images = codec.decompress(stream, pca)
    np.testing.assert_allclose(
        images, np.broadcast_to(digits.x_train.mean(axis=0), images.shape), atol=0.02
    )


def test_the_format_is_the_one_that_was_written_down():
    assert codec.compress(tiny_images(), tiny(), 0.5) == GOLDEN
    symbols, step = unpack(GOLDEN, tiny())
    assert step == 0.5
    np.testing.assert_array_equal(symbols, [[0, 8], [2, 4], [8, 8], [1, 7], [4, 0]])


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_altered_byte_is_refused(flip):
    for position in range(len(GOLDEN)):
        altered = bytearray(GOLDEN)
        altered[position] ^= flip
        with pytest.raises(StudyError):
            codec.decompress(bytes(altered), tiny())


def test_every_truncation_and_every_appendix_is_refused():
    for length in range(len(GOLDEN)):
        with pytest.raises(StudyError):
            codec.decompress(GOLDEN[:length], tiny())
    for appendix in (b"\0", b"\0\0\0\0", GOLDEN):
        with pytest.raises(StudyError, match="truncated or altered"):
            codec.decompress(GOLDEN + appendix, tiny())


def forged(stream, own, **fields):
    """A stream whose head says something else, with the checksum that belongs to it."""
    names = ("magic", "version", "fingerprint", "step", "count", "words")
    head = HEAD.pack(*(dict(zip(names, HEAD.unpack_from(stream), strict=True)) | fields).values())
    payload = stream[HEADER:]
    return head + checksum(head, payload) + payload


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "version 2; expected at most 1"),
        ({"version": 0}, "truncated or altered"),
        ({"count": 0}, "truncated or altered"),
        ({"count": 4}, "more than its images"),
        ({"step": -1.0}, "step is -1.0"),
        ({"step": float("nan")}, "step is nan"),
        ({"fingerprint": b"01234567"}, "made by the codec 3031323334353637"),
    ],
)
def test_a_stream_with_a_right_checksum_and_a_wrong_head_is_refused(fields, message):
    assert forged(GOLDEN, tiny()) == GOLDEN
    with pytest.raises(StudyError, match=message):
        codec.decompress(forged(GOLDEN, tiny(), **fields), tiny())


def test_another_codecs_stream_is_refused(digits, pca, dense):
    with pytest.raises(StudyError, match="load the codec that made it"):
        codec.decompress(codec.compress(digits.x_test, pca, STEP), dense)


@pytest.mark.parametrize(
    ("stream", "message"), [(b"", "begins with b''"), (b"\x89PNG", "PNG"), ("text", "type str")]
)
def test_what_is_no_stream_is_refused(pca, stream, message):
    with pytest.raises(StudyError, match=message):
        codec.decompress(stream, pca)


@pytest.mark.parametrize(
    "step", [0, -1, codec.CELL / 2, float("nan"), float("inf"), "1", True, None]
)
def test_impossible_steps_are_refused(digits, pca, step):
    with pytest.raises(StudyError, match="The step is"):
        codec.compress(digits.x_test, pca, step)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 784), "uint8"),
        np.zeros((2, 783), "uint8"),
        np.zeros((2, 784), "int64"),
        np.full((2, 784), 2.0),
    ],
)
def test_impossible_images_are_refused(pca, images):
    with pytest.raises(StudyError, match="images"):
        codec.compress(images, pca, STEP)


def test_other_networks_and_roundings_are_refused(digits, network):
    pixels, square = keras.Input((784,)), keras.layers.Reshape((28, 28, 1))
    refused = {
        "type Dropout; expected Dense": [pixels, keras.layers.Dropout(0.5), keras.layers.Dense(6)],
        "type Dense; .* activations linear, relu": [
            pixels,
            keras.layers.Dense(6, activation="gelu"),
        ],
        "type Conv2D; .* activations linear, relu": [
            pixels,
            square,
            keras.layers.Conv2D(2, 3, activation="gelu"),
        ],
        "arrays of shape .None, 28, 28, 1.; expected rows": [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(2, 3),
        ],
    }
    for message, given in refused.items():
        with pytest.raises(StudyError, match=message):
            codec.from_autoencoder(keras.Sequential(given), network.decoder, digits.pixels_train)
    with pytest.raises(StudyError, match="rounding is 0.6"):
        codec.from_autoencoder(network.encoder, network.decoder, digits.pixels_train, rounding=0.6)


def test_a_decoder_that_begins_with_another_layer_cannot_be_told_the_step(digits, network):
    layers = [keras.layers.Reshape((1, 6)), keras.layers.Flatten(), keras.layers.Dense(784)]
    decoder = keras.Sequential([keras.Input((6,)), *layers])
    own = codec.from_autoencoder(network.encoder, decoder, digits.pixels_train, metric_images=10)
    with pytest.raises(StudyError, match="first layer is not dense"):
        codec.tuned(own, digits.pixels_train, digits.pixels_val, training.Settings(), (0.5, 4))


def test_a_saved_codec_is_the_same(digits, pca, dense, tmp_path):
    for own in (pca, dense):
        check_saved(own, digits.x_test, tmp_path)
    assert pca.fingerprint != dense.fingerprint


def test_the_fingerprint_covers_every_array():
    prints = {tiny().fingerprint}
    for name, array in tiny().arrays().items():
        if array.dtype.kind == "U":
            continue
        changed = tiny()
        parts = changed.arrays() | {
            name: np.where(np.arange(array.size).reshape(array.shape) == 0, array + 1, array)
        }
        object.__setattr__(changed, "arrays", lambda parts=parts: parts)
        prints.add(changed.fingerprint)
    assert len(prints) == 1 + len([a for a in tiny().arrays().values() if a.dtype.kind != "U"])


def test_files_that_are_no_codec_are_refused(tmp_path, pca):
    path = tmp_path / "codec.npz"
    with pytest.raises(StudyError, match="cannot be read as a codec"):
        codec.load(path)
    path.write_bytes(b"not a zip archive")
    with pytest.raises(StudyError, match="cannot be read as a codec"):
        codec.load(path)
    np.savez(path, version=np.array(1))
    with pytest.raises(StudyError, match="cannot be read as a codec"):
        codec.load(path)
    np.savez(path, **pca.arrays() | {"counts": np.array([object()])})
    with pytest.raises(StudyError, match="cannot be read as a codec"):
        codec.load(path)
    np.savez(path, **pca.arrays() | {"version": np.array(9)})
    with pytest.raises(StudyError, match="codec of version 9"):
        codec.load(path)
    pca.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudyError, match="cannot be read as a codec"):
        codec.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.0.activation": np.array("gelu")}, "the activation 'gelu', none of linear, relu"),
        ({"decoder.0.bias": np.zeros(1, "float32")}, "with a bias .1,."),
        ({"encoder.0.weights": np.zeros((783, 2), "float32")}, "cannot be read as a codec"),
        ({"decoder.0.weights": np.zeros((4, 784), "float32")}, "cannot be read as a codec"),
        ({"decoder.0.weights": np.full((2, 784), np.nan, "float32")}, "784. pixels"),
        ({"first": np.zeros(3, "int32")}, "counts are uint32 .2, 257. for 3 coordinates"),
        ({"first": np.zeros((2, 1), "int32")}, "first is int32 .2, 1."),
        ({"first": np.zeros(2)}, "first is float64"),
        ({"counts": np.ones(2, "uint32")}, "counts are uint32 .2,."),
        ({"counts": np.zeros((2, 257), "uint32")}, "not of the same images"),
        ({"counts": np.array([[1, 1], [2, 1]], "uint32")}, "not of the same images"),
        ({"rounding": np.array(0.7)}, "rounding 0.7"),
        ({"rounding": np.array(np.nan)}, "rounding nan"),
    ],
)
def test_files_whose_parts_do_not_fit_are_refused_when_loaded(tmp_path, changes, message):
    """Not when the first image is compressed."""
    path = tmp_path / "codec.npz"
    np.savez(path, **tiny().arrays() | changes)
    with pytest.raises(StudyError, match=message) as refusal:
        codec.load(path)
    assert "expected a file written by Codec.save: fit the codec again." in str(refusal.value)


def test_files_without_layers_or_with_too_many_coordinates_are_refused(tmp_path):
    path = tmp_path / "codec.npz"
    arrays = tiny().arrays()
    np.savez(path, **{name: a for name, a in arrays.items() if not name.startswith("decoder")})
    with pytest.raises(StudyError, match="cannot be read as a codec"):
        codec.load(path)
    wide = {"encoder.0.weights": np.zeros((784, 3), "float32"), "encoder.0.bias": np.zeros(3)}
    np.savez(path, **arrays | wide)
    with pytest.raises(StudyError, match="the layers give .1, 3. coordinates"):
        codec.load(path)
    np.savez(path, **arrays)
    assert codec.load(path).fingerprint == tiny().fingerprint


def test_codecs_and_their_parts_are_compared_by_identity(pca, others_codec):
    parts = [pca, pca.encoder[0], pca.bins(STEP)[0], *others_codec.encoder]
    for part in parts:
        assert (part == part) is True
        assert (part == dataclasses.replace(part)) is False


@pytest.mark.parametrize("build", [models.dense_autoencoder, models.variational_autoencoder])
def test_black_images_come_back_as_the_networks_reconstruction(build):
    """The code is 0 for all of them, and the untrained decoder's Jacobian vanishes there."""
    keras.utils.set_random_seed(0)
    network = build(hidden=(20,), latent_dim=4)
    black = np.zeros((50, 784), "uint8")
    own = codec.from_autoencoder(network.encoder, network.decoder, black, metric_images=10)
    images = codec.decompress(codec.compress(black, own, 0.5), own)
    np.testing.assert_allclose(images, network.autoencoder(black / 255), atol=0.01)


def test_receiver_bytes_are_the_decoder_and_the_counts(pca):
    weights, counts = pca.receiver_bytes()
    assert len(weights) == 4 * (12 * 784 + 784)
    assert len(counts) == 4 * (12 + pca.counts.size)
