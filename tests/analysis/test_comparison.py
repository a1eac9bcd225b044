"""A model's line in the comparison: each figure is what the notebooks of its own measure."""

from ae_lib import metrics, models, training
from ae_lib.analysis import anomaly, codec, comparison, latent

import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    model = models.dense_autoencoder(hidden=(64,), latent_dim=8)
    training.fit(
        model.autoencoder, digits.pixels_train, digits.pixels_val, training.Settings(20, 50)
    )
    return model


@pytest.fixture(scope="module")
def own(trained, digits):
    return codec.from_autoencoder(trained.encoder, trained.decoder, digits.pixels_train)


def test_through_is_the_network_batch_by_batch(trained, digits):
    x = np.concatenate(
        [digits.x_train, digits.x_test]
    )  # more than one batch, and no multiple of it
    np.testing.assert_allclose(
        models.predict_in_batches(trained.encoder, x), trained.encoder(x), rtol=1e-5, atol=1e-5
    )


def test_reconstruction_has_every_score_with_its_interval(digits):
    x, y = digits.x_test, digits.x_test * 0.9
    found = comparison.reconstruction("paler", x, y)
    assert len(found) == 3 * len(metrics.SCORES)
    assert found["paler.test.mse"] == pytest.approx(metrics.mse(x, y).mean())
    for score in metrics.SCORES:
        assert (
            found[f"paler.test.{score}.low"]
            < found[f"paler.test.{score}"]
            < found[f"paler.test.{score}.high"]
        )


def test_features_are_read_by_neighbours_and_by_a_probe(digits):
    """One number that is the class: every classifier that works has to read it."""
    labels = {x.tobytes(): y for s in ("train", "val", "test") for x, y in zip(getattr(digits, f"x_{s}"), getattr(digits, f"y_{s}"), strict=True)}  # fmt: skip
    one_hot = np.eye(10, dtype="float32")
    found = comparison.features(
        "oracle", lambda x: one_hot[[labels[image.tobytes()] for image in x]], digits
    )
    assert {found[f"oracle.test.{name}_accuracy"] for name in ("knn1", "knn5", "linear_probe")} == {
        1
    }
    found = comparison.features("constant", lambda x: np.zeros((len(x), 2), "float32"), digits)
    assert all(
        found[f"constant.test.{name}_accuracy"] < 0.2 for name in ("knn1", "knn5", "linear_probe")
    )


def test_the_probes_penalty_is_chosen_on_validation_images(digits):
    pca = PCA(16).fit(digits.x_train)
    found = comparison.features("pca", pca.transform, digits, penalties=(1e-6, 1.0))
    fitted = latent.linear_probe(pca.transform(digits.x_train), digits.y_train, 1.0)
    right = fitted.predict(pca.transform(digits.x_test)) == digits.y_test
    assert found["pca.test.linear_probe_accuracy"] == pytest.approx(right.mean())


def test_bits_are_those_of_the_stream_at_the_error_asked_for(own, digits):
    x = digits.x_test
    target = 1.5 * metrics.mse(x, own.decode(own.encode(x), codec.CELL)).mean()
    found = comparison.compression("small", own, x, target)
    bits = found["small.test.bits_at_equal_error"]
    assert (
        found["small.test.bits_at_equal_error.low"]
        < bits
        < found["small.test.bits_at_equal_error.high"]
    )
    steps = np.geomspace(comparison.FINEST, comparison.COARSEST, 300)
    errors = [
        metrics.mse(x, codec.decompress(codec.compress(x, own, s), own)).mean() for s in steps
    ]
    near = steps[int(np.argmin(np.abs(np.array(errors) - target)))]
    assert bits == pytest.approx(8 * len(codec.compress(x, own, near)) / len(x), rel=0.03)


@pytest.mark.parametrize("error", [1e-9, 10.0])
def test_an_error_out_of_reach_has_no_bits(own, digits, error):
    assert comparison.compression("small", own, digits.x_test, error) == {}


def test_detection_is_the_one_class_protocol(trained, digits):
    settings = 3, 30, 0.002, "none"
    found = comparison.detection(
        "small", trained.autoencoder, digits, settings, training.Reconstruct(), seed=3
    )
    again = comparison.detection(
        "small", trained.autoencoder, digits, settings, training.Reconstruct(), seed=3
    )
    assert found == again
    classes = np.unique(digits.y_train)
    train, val = (
        anomaly.side_by_side([pixels[labels == k] for k in classes])
        for pixels, labels in (
            (digits.pixels_train, digits.y_train),
            (digits.pixels_val, digits.y_val),
        )
    )
    keras.utils.set_random_seed(3)
    stack = models.stacked([models.dense_autoencoder(784, (64,), 8).autoencoder for _ in classes])
    decay = keras.optimizers.schedules.CosineDecay(0.002, 3 * -(-len(train) // 30))
    training.fit(stack, train, val, training.Settings(3, 30, decay, 3, "none"))
    drawn = stack.predict(np.repeat(digits.x_test[:, None], 10, axis=1), verbose=0)
    by_hand = anomaly.auroc(
        np.square(drawn - digits.x_test[:, None]).mean(axis=2), digits.y_test[:, None] != classes
    )
    assert found["oneclass.small_mse.auroc_mean"] == pytest.approx(by_hand.mean().value, abs=1e-4)


def test_duration_is_for_ten_thousand_images(digits):
    calls = []
    found = comparison.duration("quick", calls.append, digits.x_test, repeats=3)
    assert len(calls) == 4
    assert 0 < found["quick.test.seconds_per_10000"] < 1


def test_a_line_is_complete(trained, digits):
    found = comparison.measure("small", trained.autoencoder, digits, equal_error=0.03)
    assert found["small.parameters"] == trained.autoencoder.count_params()
    assert found["small.latent_dim"] == 8
    names = {
        "mse",
        "ssim",
        "knn1_accuracy",
        "linear_probe_accuracy",
        "bits_at_equal_error",
        "seconds_per_10000",
    }
    assert {f"small.test.{name}" for name in names} <= set(found)
    assert np.isfinite(list(found.values())).all()
