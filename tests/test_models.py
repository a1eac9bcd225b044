"""The network is the one that the study describes, and an ordinary Keras model."""

from ae_lib import StudyError, models, training

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm

QUICK = training.Settings(epochs=1, batch_size=100, compiler="none")


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
    training.fit(model.autoencoder, digits.pixels_train, digits.pixels_val, QUICK)
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


def test_classifier_has_the_encoders_layers_and_weights_of_its_own(model, digits):
    before = model.encoder.get_weights()
    classifier = models.classifier(model.encoder, 10)
    shapes = [weights.shape for weights in classifier.get_weights()]
    assert shapes == [*(weights.shape for weights in before), (32, 10), (10,)]
    assert not np.allclose(classifier.get_weights()[0], before[0])
    np.testing.assert_allclose(classifier(digits.x_test[:5]).numpy().sum(axis=1), 1, rtol=1e-5)
    classifier.set_weights([np.zeros_like(weights) for weights in classifier.get_weights()])
    for a, b in zip(before, model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    keras.utils.set_random_seed(1)
    first = models.classifier(model.encoder, 10).get_weights()
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(models.classifier(model.encoder, 10).get_weights()[0], first[0])


# --- variational -----------------------------------------------------------------------------------------------------


@pytest.fixture
def vae():
    keras.utils.set_random_seed(0)
    return models.variational_autoencoder(hidden=(16,), latent_dim=3)


def code(model):
    return model.encoder.get_layer("code")


def binary_loss(model, x, training=True):
    """The loss of training, and its gradient as a list of arrays."""
    model.compile(loss="binary_crossentropy")
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=x, y=x, y_pred=model(x, training=training))
    return float(loss), [np.array(g) for g in tape.gradient(loss, model.trainable_variables)]


def test_divergence_by_hand_and_by_simulation():
    mean, log_variance = np.array([[0.5, -1.0]]), np.log([[0.25, 2.0]])
    by_hand = (0.25 + 0.25 - 1 - np.log(0.25) + 1 + 2 - 1 - np.log(2)) / 2
    found = float(models.gaussian_divergence(mean, log_variance)[0])
    assert found == pytest.approx(by_hand)
    z = mean + np.exp(log_variance / 2) * np.random.default_rng(0).normal(size=(200_000, 2))
    own, prior = norm(mean, np.exp(log_variance / 2)).logpdf(z), norm.logpdf(z)
    assert found == pytest.approx((own - prior).sum(axis=1).mean(), abs=0.02)
    assert float(models.gaussian_divergence(np.zeros((1, 4)), np.zeros((1, 4)))[0]) == 0


def test_codes_are_drawn_in_training_and_means_otherwise():
    layer = models.GaussianCode(seed=1)
    posterior = np.tile(np.float32([[1, -2, np.log(4), np.log(0.01)]]), (20_000, 1))
    np.testing.assert_array_equal(layer(posterior), posterior[:, :2])
    drawn, again = (layer(posterior, training=True).numpy() for _ in range(2))
    np.testing.assert_allclose(drawn.mean(axis=0), [1, -2], atol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), [2, 0.1], rtol=0.03)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03
    assert not np.isclose(drawn, again).all(axis=1).any()


def test_the_loss_is_the_negative_elbo_and_does_not_pile_up(vae, digits):
    x = np.round(digits.x_test[:50])
    first, _ = binary_loss(vae.autoencoder, x, training=False)
    mean, log_variance = np.split(vae.encoder.get_layer("posterior")(last_hidden_of(vae, x)).numpy(), 2, axis=1)
    y = vae.autoencoder(x).numpy()
    reconstruction = (x * np.log(y) + (1 - x) * np.log(1 - y)).sum(axis=1)
    kl = (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1) / 2
    assert 784 * first == pytest.approx((kl - reconstruction).mean(), rel=1e-4)
    assert binary_loss(vae.autoencoder, x, training=False)[0] == first


def last_hidden_of(vae, x):
    return models.last_hidden(vae.encoder)(x)


def test_gradients_reach_every_part_and_are_right(vae, digits):
    """Beside a difference quotient along a random direction, with the same noise."""
    x, model, state = np.round(digits.x_test[:50]), vae.autoencoder, code(vae).random.state
    start = state.numpy()
    _, gradient = binary_loss(model, x)
    assert all(np.abs(g).max() > 0 for g in gradient)
    weights, rng = [v.numpy() for v in model.trainable_variables], np.random.default_rng(0)
    way = [
        rng.normal(size=w.shape) * np.linalg.norm(g) / np.sqrt(g.size) for w, g in zip(weights, gradient, strict=True)
    ]
    way = [a + g for a, g in zip(way, gradient, strict=True)]  # not across the slope
    ends = []
    for step in (0.05, -0.05):
        for variable, w, a in zip(model.trainable_variables, weights, way, strict=True):
            variable.assign(w + step * a)
        state.assign(start)
        ends.append(binary_loss(model, x)[0])
    slope = sum((g * a).sum() for g, a in zip(gradient, way, strict=True))
    assert (ends[0] - ends[1]) / 0.1 == pytest.approx(slope, rel=0.02)


def test_a_saved_vae_is_loaded_safely(vae, digits, tmp_path):
    x = digits.x_test[:5]
    vae.autoencoder.save(tmp_path / "vae.keras")
    loaded = models.halves(keras.models.load_model(tmp_path / "vae.keras", safe_mode=True))
    np.testing.assert_array_equal(loaded.encoder(x), vae.encoder(x))
    np.testing.assert_array_equal(loaded.autoencoder(x), vae.autoencoder(x))
    assert code(loaded).weight == 1 / 784
    assert not np.allclose(loaded.autoencoder(x, training=True), loaded.autoencoder(x))


def test_a_vae_made_anew_has_its_layers_and_other_weights(vae, digits):
    keras.utils.set_random_seed(1)
    other = models.halves(models.anew(vae.autoencoder))
    assert code(other).weight == code(vae).weight
    assert not np.allclose(other.encoder(digits.x_test[:5]), vae.encoder(digits.x_test[:5]))


def test_stacked_vaes_have_the_gradients_of_single_ones(digits):
    x = np.round(digits.x_test[:40]).reshape(20, 2, 784)
    singles, states, losses, gradients = [], [], [], []
    for i in range(2):
        keras.utils.set_random_seed(i)
        singles.append(models.variational_autoencoder(hidden=(8,), latent_dim=2))
        states.append(code(singles[i]).random.state.numpy())
        loss, gradient = binary_loss(singles[i].autoencoder, x[:, i])
        losses.append(loss)
        gradients += gradient
    both = models.stacked([single.autoencoder for single in singles])
    for single, state in zip(singles, states, strict=True):
        code(single).random.state.assign(state)
    loss, gradient = binary_loss(both, x)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    for a, b in zip(gradients, gradient, strict=True):
        np.testing.assert_allclose(a / 2, b, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("beta", [-1, np.inf, np.nan])
def test_a_weight_of_the_divergence_that_is_none_is_refused(beta):
    with pytest.raises(StudyError, match="beta is .*; expected a finite number of at least 0"):
        models.variational_autoencoder(beta=beta)
