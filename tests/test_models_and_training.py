"""The network is the one that the study describes; training it is seeded, checked and visible."""

from ae_lib import StudyError, metrics, models, training

import keras
import numpy as np
import pytest

QUICK = training.Settings(epochs=2, batch_size=100)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return models.dense_autoencoder()


def test_architecture_is_the_studys(model):
    table = models.layer_table(model.autoencoder)
    assert [units for _, units, _, _ in table] == [256, 128, 32, 128, 256, 784]
    assert [activation for _, _, activation, _ in table] == ["relu", "relu", "linear", "relu", "relu", "sigmoid"]
    sizes = [784, 256, 128, 32, 128, 256, 784]
    assert [parameters for *_, parameters in table] == [(a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False)]
    assert model.autoencoder.count_params() == 476_720


def test_halves_share_the_weights(model, digits):
    before = model.encoder.predict(digits.x_test[:5], verbose=0)
    training.fit(model.autoencoder, digits.x_train, digits.x_val, QUICK)
    after = model.encoder.predict(digits.x_test[:5], verbose=0)
    assert not np.allclose(before, after)
    whole = model.autoencoder.predict(digits.x_test[:5], verbose=0)
    np.testing.assert_allclose(model.decoder.predict(after, verbose=0), whole, rtol=1e-5, atol=1e-6)


def test_saved_model_needs_only_keras(model, digits, tmp_path):
    model.autoencoder.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    x = digits.x_test[:5]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.autoencoder.predict(x, verbose=0))
    again = models.halves(loaded)
    np.testing.assert_array_equal(again.encoder.predict(x, verbose=0), model.encoder.predict(x, verbose=0))


def test_equal_layers_are_allowed():
    assert models.dense_autoencoder(hidden=[64, 64]).encoder.count_params() == 785 * 64 + 65 * 64 + 65 * 32


@pytest.mark.parametrize("sizes", [{"latent_dim": 0}, {"hidden": (256, -1)}, {"hidden": (25.5,)}, {"hidden": ("a",)}])
def test_empty_layers_are_refused(sizes):
    with pytest.raises(StudyError, match="units; expected a whole number of at least 1"):
        models.dense_autoencoder(**sizes)


def test_training_lowers_the_loss_and_keeps_its_history(model, digits):
    history = training.fit(model.autoencoder, digits.x_train, digits.x_val, QUICK)
    assert list(history.columns) == ["loss", "val_loss"]
    assert list(history.index) == [1, 2]
    assert history["loss"].is_monotonic_decreasing
    predicted = model.autoencoder.predict(digits.x_val, verbose=0)
    assert metrics.bce(digits.x_val, predicted).mean() == pytest.approx(history["val_loss"].iloc[-1], rel=1e-5)


def test_xla_changes_nothing_but_rounding(digits):
    def losses(jit_compile):
        keras.utils.set_random_seed(7)
        network = models.dense_autoencoder(hidden=(16,), latent_dim=4).autoencoder
        return training.fit(network, digits.x_train, digits.x_val, training.Settings(2, 100, jit_compile=jit_compile))

    np.testing.assert_allclose(losses(True), losses(False), rtol=1e-4)


def test_one_epoch_is_what_keras_does_with_the_same_minibatches(digits):
    """Every weight after an epoch, the last short minibatch included, beside Keras's own train_on_batch."""

    def network():
        keras.utils.set_random_seed(7)
        return models.dense_autoencoder().autoencoder

    ours, theirs, settings = network(), network(), training.Settings(1, 250, seed=3)
    training.fit(ours, digits.x_train, digits.x_val, settings)
    theirs.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    order = next(iter(training._permutations(1200, settings))).numpy()
    for start in range(0, 1200, 250):
        x = digits.x_train[order[start : start + 250]]
        theirs.train_on_batch(x, x)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_same_seed_same_weights(digits):
    def weights(seed):
        keras.utils.set_random_seed(7)
        network = models.dense_autoencoder(hidden=(16,), latent_dim=4).autoencoder
        training.fit(network, digits.x_train, digits.x_val, training.Settings(2, 100, seed=seed))
        return np.concatenate([w.ravel() for w in network.get_weights()])

    first = weights(1)
    np.testing.assert_array_equal(first, weights(1))
    assert not np.array_equal(first, weights(2))


def test_progress_shows_epochs_losses_and_time(model, digits, capsys):
    training.fit(model.autoencoder, digits.x_train, digits.x_val, QUICK)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2  loss 0.")
    assert "val_loss 0." in lines[1]
    assert "images/s" in lines[1]
    assert lines[1].endswith("00:00 left")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number of at least 1"),
        ({"epochs": -1}, "epochs is -1; expected"),
        ({"epochs": 2.5}, "epochs is 2.5; expected a whole number"),
        ({"epochs": True}, "epochs is True; expected a whole number"),
        ({"batch_size": 0}, "batch_size is 0; expected"),
        ({"seed": -1}, "seed is -1; expected"),
        ({"learning_rate": 0}, "learning_rate is 0; expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(StudyError, match=message):
        training.Settings(**settings)


def test_batch_larger_than_data_is_refused(model, digits):
    with pytest.raises(StudyError, match="batch_size is 1201 and there are 1200 training images.*lower batch_size"):
        training.fit(model.autoencoder, digits.x_train, digits.x_val, training.Settings(1, 1201))


def test_divergence_ends_training_with_advice(model, digits):
    broken = np.where(digits.x_train > 0.99, np.nan, digits.x_train)
    with pytest.raises(StudyError, match="loss is nan after epoch 1; expected a finite number: lower learning_rate"):
        training.fit(model.autoencoder, broken, digits.x_val, training.Settings(2, 100))
