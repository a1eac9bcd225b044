"""The network is the one that the study describes, and an ordinary Keras model."""

import math

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
    assert [activation for _, _, activation, _ in table] == [
        "relu",
        "relu",
        "linear",
        "relu",
        "relu",
        "sigmoid",
    ]
    sizes = [784, 256, 128, 32, 128, 256, 784]
    assert [parameters for *_, parameters in table] == [
        (a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False)
    ]
    assert model.autoencoder.count_params() == 476_720


def test_bottleneck_is_linear_or_relu_and_stays_so(model, digits):
    relu = models.dense_autoencoder(bottleneck="relu")
    again = models.as_autoencoder(models.reinitialized(relu.autoencoder))
    assert model.encoder(digits.x_test).numpy().min() < 0
    for encoder in (relu.encoder, again.encoder):
        assert encoder(digits.x_test).numpy().min() == 0
    assert relu.autoencoder.count_params() == model.autoencoder.count_params()
    with pytest.raises(StudyError, match="bottleneck is 'tanh'; expected 'linear' or 'relu'"):
        models.dense_autoencoder(bottleneck="tanh")


def test_encoder_and_decoder_share_the_weights(model, digits):
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
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.autoencoder.predict(x, verbose=0)
    )
    again = models.as_autoencoder(loaded)
    np.testing.assert_array_equal(
        again.encoder.predict(x, verbose=0), model.encoder.predict(x, verbose=0)
    )


def test_equal_layers_are_allowed():
    assert (
        models.dense_autoencoder(hidden=[64, 64]).encoder.count_params()
        == 785 * 64 + 65 * 64 + 65 * 32
    )


@pytest.mark.parametrize(
    "sizes",
    [
        {"latent_dim": 0},
        {"latent_dim": True},
        {"hidden": (256, -1)},
        {"hidden": (25.5,)},
        {"hidden": ("a",)},
        {"input_dim": 0},
    ],
)
@pytest.mark.parametrize("build", [models.dense_autoencoder, models.variational_autoencoder])
def test_empty_layers_are_refused(build, sizes):
    (name,) = sizes
    with pytest.raises(StudyError, match=f"{name} is .*; expected a whole number of at least 1"):
        build(**sizes)


def test_numpys_whole_numbers_are_whole_numbers(tmp_path):
    two = np.int64(2)
    for model in (
        models.dense_autoencoder(np.int64(784), (np.int32(3),), two),
        models.variational_autoencoder(np.int64(784), (np.int32(3),), two),
        models.convolutional_autoencoder((np.int64(28), 28), (np.int32(3),), two),
    ):
        assert model.encoder.output_shape == (None, 2)
        model.autoencoder.save(tmp_path / "model.keras")
        assert models.load(tmp_path / "model.keras").encoder.output_shape == (None, 2)


# --- convolutions --------------------------------------------------------------------------------


def test_convolutions_halve_and_double_the_side():
    model = models.convolutional_autoencoder((28, 28), (32, 64), 32)
    shapes = [
        [layer.output.shape[1:] for layer in part.layers] for part in (model.encoder, model.decoder)
    ]
    assert shapes[0] == [(784,), (28, 28, 1), (14, 14, 32), (7, 7, 64), (3136,), (32,)]
    assert shapes[1] == [(32,), (3136,), (7, 7, 64), (14, 14, 32), (28, 28, 1), (784,)]
    ends = 9 * 32 + 32, 9 * 32 + 1  # first convolution, last transposed one
    middles = 9 * 32 * 64 + 64, 9 * 64 * 32 + 32
    code = 3136 * 32 + 32, 32 * 3136 + 3136
    assert model.autoencoder.count_params() == sum(ends + middles + code)


@pytest.mark.parametrize(
    ("shape", "filters"),
    [((8, 8), (4, 4, 4)), ((32, 32), (2,)), ((20, 30), (3, 4)), ((9, 13), (2, 3, 4)), ((7, 7), ())],
)
def test_images_of_any_size_fit(shape, filters):
    model, images = (
        models.convolutional_autoencoder(shape, filters, 5),
        np.zeros((2, math.prod(shape))),
    )
    assert model.autoencoder(images).shape == images.shape
    assert model.encoder(images).shape == (2, 5)


@pytest.mark.parametrize("sizes", [{"filters": (0,)}, {"filters": (2.5,)}, {"latent_dim": 0}])
def test_empty_convolutions_are_refused(sizes):
    (name,) = sizes
    with pytest.raises(StudyError, match=f"{name} is .*; expected a whole number of at least 1"):
        models.convolutional_autoencoder(**sizes)


def test_every_weight_of_the_convolutional_autoencoder_learns(digits):
    keras.utils.set_random_seed(0)
    model = models.convolutional_autoencoder((28, 28), (3, 4), 5).autoencoder
    before = model.get_weights()
    training.fit(model, digits.pixels_train[:200], digits.pixels_val, QUICK)
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_saved_convolutional_model_is_the_same(digits, tmp_path):
    model = models.convolutional_autoencoder((28, 28), (3, 4), 5).autoencoder
    model.save(tmp_path / "conv.keras")
    loaded = models.load(tmp_path / "conv.keras")
    x = digits.x_test[:5]
    np.testing.assert_array_equal(loaded.autoencoder(x), model(x))
    np.testing.assert_array_equal(loaded.decoder(loaded.encoder(x)), model(x))


# --- parts of models -----------------------------------------------------------------------------


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


BUILDERS = {
    "dense": lambda: models.dense_autoencoder(hidden=(30, 20), latent_dim=6).autoencoder,
    "conv": lambda: models.convolutional_autoencoder(filters=(3, 4), latent_dim=6).autoencoder,
    "vae": lambda: models.variational_autoencoder(hidden=(30, 20), latent_dim=6).autoencoder,
}


@pytest.fixture(params=list(BUILDERS))
def build(request):
    keras.utils.set_random_seed(0)
    return BUILDERS[request.param]


def described(autoencoder):
    """Classes, names and weights' shapes of all layers of the encoder and the decoder."""
    _, encoder, decoder = models.as_autoencoder(autoencoder)
    both = [*encoder.layers, *decoder.layers]
    return [(type(layer), layer.name, [w.shape for w in layer.get_weights()]) for layer in both]


def differ(first, second):
    """Whether two models have no matrix in common."""
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return not any(np.array_equal(a, b) for a, b in pairs if a.ndim > 1)


def test_a_reinitialized_one_has_the_same_layers_and_weights_of_its_own(build, tmp_path):
    build().save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before = loaded.get_weights()
    keras.utils.set_random_seed(1)
    first, second = models.reinitialized(loaded), models.reinitialized(loaded)
    assert described(first) == described(second) == described(loaded)
    assert differ(first, loaded)
    assert differ(first, second)
    for a, b in zip(before, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    keras.utils.set_random_seed(1)
    for a, b in zip(models.reinitialized(loaded).get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Glorot's range, as the builders draw it
    for fresh, built in zip(first.get_weights(), build().get_weights(), strict=True):
        assert fresh.std() == pytest.approx(built.std(), rel=0.3)


def test_a_dense_one_reinitialized_is_the_one_that_its_builder_gives(model):
    keras.utils.set_random_seed(3)
    expected = models.dense_autoencoder().autoencoder.get_weights()
    keras.utils.set_random_seed(3)
    for a, b in zip(models.reinitialized(model.autoencoder).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stacked_ones_give_what_each_gives_alone(build, digits):
    single = [build() for _ in range(3)]
    x = digits.x_test[:30].reshape(10, 3, 784)
    expected = [model.predict(x[:, i], verbose=0) for i, model in enumerate(single)]
    stack = models.stacked(single)
    np.testing.assert_allclose(stack.predict(x, verbose=0), np.stack(expected, axis=1), atol=1e-6)
    assert stack.count_params() == sum(model.count_params() for model in single)


def test_stacked_ones_learn_from_their_own_images_only(build, digits):
    """Another image for one of them changes the weights of that one, and of no other."""
    x = np.stack([digits.x_train[i : i + 20] for i in (0, 20, 40)], axis=1)
    changed = x.copy()
    changed[:, 1] = digits.x_train[60:80]

    def reconstructed(images):
        keras.utils.set_random_seed(0)
        stack = models.stacked([build() for _ in range(3)])
        stack.compile("adam", "binary_crossentropy", run_eagerly=True)
        stack.train_on_batch(images, images)
        return stack.predict(x, verbose=0)

    same = np.abs(reconstructed(x) - reconstructed(changed)).max(axis=(0, 2)) < 1e-6
    assert same.tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["conv", "vae"])
def test_the_loss_of_stacked_ones_is_the_mean_of_their_losses(digits, name):
    """With the KL terms, which are losses of layers and not of the output."""
    keras.utils.set_random_seed(0)
    single = [BUILDERS[name]() for _ in range(2)]
    x = np.stack([digits.x_test[:50], digits.x_test[50:100]], axis=1)

    def loss(model, images):
        model.compile("adam", "binary_crossentropy")
        return model.evaluate(images, images, batch_size=50, verbose=0)

    expected = np.mean([loss(model, x[:, i]) for i, model in enumerate(single)])
    assert loss(models.stacked(single), x) == pytest.approx(expected, rel=1e-5)


def test_stacking_leaves_the_single_ones_as_they_are(build, digits):
    """The weights of the KL terms of the given models were divided once."""
    single = [build() for _ in range(2)]
    before = [(model.get_config(), model.get_weights()) for model in single]
    models.stacked(single)
    for model, (config, weights) in zip(single, before, strict=True):
        assert model.get_config() == config
        for a, b in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_vae_with_convolutions_is_not_stacked():
    def build():
        encoder = keras.Sequential(
            [
                keras.Input((784,)),
                keras.layers.Reshape((28, 28, 1)),
                keras.layers.Conv2D(1, 3, strides=14),
                keras.layers.Flatten(),
                models.GaussianCode(name="code"),
            ],
            name="encoder",
        )
        output = keras.layers.Dense(784, name="reconstruction")
        decoder = keras.Sequential([keras.Input((2,)), output], name="decoder")
        images = keras.Input((784,))
        return keras.Model(images, decoder(encoder(images)))

    with pytest.raises(StudyError, match="sample codes but are not fully connected; expected"):
        models.stacked([build(), build()])


def test_unlike_ones_are_not_stacked():
    for one, other in (("dense", "conv"), ("conv", "vae")):
        with pytest.raises(StudyError, match="different layers"):
            models.stacked([BUILDERS[one](), BUILDERS[other]()])
    with pytest.raises(StudyError, match="different layers"):
        models.stacked(
            [
                BUILDERS["conv"](),
                models.convolutional_autoencoder(filters=(3, 5), latent_dim=6).autoencoder,
            ]
        )


def test_mean_encoder_of_each_gives_the_codes(build, digits):
    encoder, x = models.as_autoencoder(build()).encoder, digits.x_test[:20]
    mean = models.mean_encoder(encoder)
    codes = encoder.predict(x, verbose=0)
    np.testing.assert_allclose(mean.predict(x, verbose=0), codes, atol=1e-6)
    np.testing.assert_array_equal(mean(x, training=True), mean(x))
    assert [w.shape for w in mean.get_weights()][-1] == (6,)
    if not any(isinstance(layer, models.GaussianCode) for layer in encoder.layers):
        assert mean is encoder


# --- variational ---------------------------------------------------------------------------------


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


def test_kl_divergence_by_hand_and_by_simulation():
    mean, log_variance = np.array([[0.5, -1.0]]), np.log([[0.25, 2.0]])
    by_hand = (0.25 + 0.25 - 1 - np.log(0.25) + 1 + 2 - 1 - np.log(2)) / 2
    kl = float(models.gaussian_kl(mean, log_variance)[0])
    assert kl == pytest.approx(by_hand)
    z = mean + np.exp(log_variance / 2) * np.random.default_rng(0).normal(size=(200_000, 2))
    posterior, prior = norm(mean, np.exp(log_variance / 2)).logpdf(z), norm.logpdf(z)
    assert kl == pytest.approx((posterior - prior).sum(axis=1).mean(), abs=0.02)
    assert float(models.gaussian_kl(np.zeros((1, 4)), np.zeros((1, 4)))[0]) == 0


def test_codes_are_sampled_in_training_and_means_otherwise():
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
    mean, log_variance = np.split(
        vae.encoder.get_layer("posterior")(last_hidden_of(vae, x)).numpy(), 2, axis=1
    )
    y = vae.autoencoder(x).numpy()
    reconstruction = (x * np.log(y) + (1 - x) * np.log(1 - y)).sum(axis=1)
    kl = (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1) / 2
    assert 784 * first == pytest.approx((kl - reconstruction).mean(), rel=1e-4)
    assert binary_loss(vae.autoencoder, x, training=False)[0] == first


def last_hidden_of(vae, x):
    hidden = [layer for layer in vae.encoder.layers if layer.name not in {"code", "posterior"}]
    return keras.Model(vae.encoder.input, hidden[-1].output)(x)


def test_gradients_reach_every_part_and_are_right(vae, digits):
    """Beside a difference quotient along a random direction, with the same noise."""
    x, model, state = np.round(digits.x_test[:50]), vae.autoencoder, code(vae).random.state
    start = state.numpy()
    _, gradient = binary_loss(model, x)
    assert all(np.abs(g).max() > 0 for g in gradient)
    weights, rng = [v.numpy() for v in model.trainable_variables], np.random.default_rng(0)
    way = [
        rng.normal(size=w.shape) * np.linalg.norm(g) / np.sqrt(g.size)
        for w, g in zip(weights, gradient, strict=True)
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
    loaded = models.load(tmp_path / "vae.keras")
    np.testing.assert_array_equal(loaded.encoder(x), vae.encoder(x))
    np.testing.assert_array_equal(loaded.autoencoder(x), vae.autoencoder(x))
    assert code(loaded).weight == 1 / 784
    assert not np.allclose(loaded.autoencoder(x, training=True), loaded.autoencoder(x))


def test_a_reinitialized_vae_has_its_layers_and_other_weights(vae, digits):
    keras.utils.set_random_seed(1)
    other = models.as_autoencoder(models.reinitialized(vae.autoencoder))
    assert code(other).weight == code(vae).weight
    assert not np.allclose(other.encoder(digits.x_test[:5]), vae.encoder(digits.x_test[:5]))


def test_stacked_vaes_have_the_gradients_of_single_ones(digits):
    x = np.round(digits.x_test[:40]).reshape(20, 2, 784)
    singles, losses, gradients = [], [], []
    for i in range(2):
        keras.utils.set_random_seed(i)
        singles.append(models.variational_autoencoder(hidden=(8,), latent_dim=2))
        bias = singles[i].encoder.get_layer("posterior").bias
        bias.assign(
            [0, 0, -40, -40]
        )  # codes without variance: sampling is no longer a matter of chance
        loss, gradient = binary_loss(singles[i].autoencoder, x[:, i])
        losses.append(loss)
        gradients.append(gradient)
    loss, gradient = binary_loss(models.stacked([single.autoencoder for single in singles]), x)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    for alone, together in zip(zip(*gradients, strict=True), gradient, strict=True):
        np.testing.assert_allclose(np.stack(alone) / 2, together, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("beta", [-1, np.inf, np.nan])
def test_an_impossible_weight_of_the_kl_divergence_is_refused(beta):
    with pytest.raises(StudyError, match="beta is .*; expected a finite number of at least 0"):
        models.variational_autoencoder(beta=beta)


def test_predicting_with_many_models_warns_of_nothing(digits, caplog):
    for units in range(1, 9):
        network = models.dense_autoencoder(hidden=(4,), latent_dim=units).autoencoder
        found = models.predict_in_batches(network, digits.x_test, 100)
        np.testing.assert_allclose(found, network(digits.x_test), rtol=1e-5, atol=1e-6)
    assert not caplog.records
