"""The likelihood is right where it is known, the draws are seeded, the baseline is a density."""

from ae_lib import StudyError, models
from ae_lib.analysis import variational

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal

LOADINGS, OFFSET = np.split(np.random.default_rng(0).normal(size=(6, 3)), [2], axis=1)
OFFSET, NOISE = OFFSET[:, 0], 0.5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gaussian(x, z):
    """log p(x | z) of the linear-Gaussian model x = W z + b + noise."""
    drawn = tf.matmul(z, LOADINGS.T.astype("float32")) + OFFSET.astype("float32")
    squared = tf.reduce_sum(tf.square(x[:, None] - drawn), axis=-1) / NOISE**2
    return -(squared + 6 * np.float32(np.log(2 * np.pi * NOISE**2))) / 2


@pytest.fixture(scope="module")
def linear():
    """Images of the linear-Gaussian model, its exact posterior, and log p(x) in closed form."""
    rng = np.random.default_rng(1)
    covariance = np.linalg.inv(np.eye(2) + LOADINGS.T @ LOADINGS / NOISE**2)
    x = (rng.normal(size=(40, 2)) @ LOADINGS.T + OFFSET + NOISE * rng.normal(size=(40, 6))).astype(
        "float32"
    )
    mean = (x - OFFSET) @ LOADINGS @ covariance / NOISE**2
    # The exact posterior is correlated and q, with the same variances, is not: the weights correct.
    log_variance = np.tile(np.log(np.diag(covariance)), (40, 1))
    evidence = multivariate_normal(OFFSET, LOADINGS @ LOADINGS.T + NOISE**2 * np.eye(6)).logpdf(x)
    return x, mean.astype("float32"), log_variance.astype("float32"), evidence, covariance


@pytest.fixture(scope="module")
def vae(digits):
    keras.utils.set_random_seed(0)
    return models.variational_autoencoder(hidden=(20,), latent_dim=3)


# --- the likelihood -------------------------------------------------------------------------------


def test_importance_weighting_finds_the_known_likelihood(linear):
    x, mean, log_variance, evidence, *_ = linear
    weights = variational.log_weights(x, mean, log_variance, gaussian, samples=4000)
    assert weights.shape == (40, 4000)
    np.testing.assert_allclose(variational.importance_bound(weights, 4000), evidence, atol=0.1)
    assert variational.importance_bound(weights, 4000).mean() == pytest.approx(
        evidence.mean(), abs=0.02
    )


def test_the_elbo_is_lower_by_the_kl_divergence_from_the_exact_posterior(linear):
    x, mean, log_variance, evidence, covariance = linear
    # KL(N(m, D) ‖ N(m, C)) = ½ (tr C⁻¹D − d + log |C| / |D|), with D the diagonal of C.
    diagonal = np.diag(np.diag(covariance))
    log_ratio = np.log(np.linalg.det(covariance) / np.linalg.det(diagonal))
    gap = (np.trace(np.linalg.inv(covariance) @ diagonal) - 2 + log_ratio) / 2
    assert gap > 0.05
    parts = variational.negative_elbo(x, mean, log_variance, gaussian, samples=4000)
    np.testing.assert_allclose(evidence + parts["negative_elbo"], gap, atol=0.15)
    assert (evidence + parts["negative_elbo"]).mean() == pytest.approx(gap, abs=0.02)
    np.testing.assert_allclose(parts["negative_elbo"], parts["reconstruction"] + parts["kl"])
    weights = variational.log_weights(x, mean, log_variance, gaussian, samples=4000)
    # The bound with one sample is the same quantity, with the KL term by simulation.
    assert variational.importance_bound(weights, 1).mean() == pytest.approx(
        -parts["negative_elbo"].mean(), abs=0.02
    )


def test_the_bound_rises_with_the_samples_and_uses_every_group(linear):
    x, mean, log_variance, evidence, *_ = linear
    weights = variational.log_weights(x, mean, log_variance - 1, gaussian, samples=1000)
    bounds = [variational.importance_bound(weights, k).mean() for k in (1, 10, 100, 1000)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < evidence.mean() + 0.05
    by_hand = [
        [logsumexp(group) - np.log(3) for group in row[:9].reshape(3, 3)] for row in weights[:, :10]
    ]
    np.testing.assert_allclose(
        variational.importance_bound(weights[:, :10], 3), np.mean(by_hand, axis=1), rtol=1e-6
    )


def test_very_unlikely_images_neither_overflow_nor_vanish():
    weights = np.array([[-2000, -2000], [900, -900]], "float32")
    np.testing.assert_allclose(variational.importance_bound(weights, 2), [-2000, 900 - np.log(2)])


@pytest.mark.parametrize("rows", [100, 700, 10_000])
def test_chunks_leave_no_image_out(linear, rows):
    """The likelihood of each image stands in its own row, the last short chunk's too."""
    x, mean, log_variance, *_ = linear
    tight = np.full_like(log_variance, -30)  # so that every draw is the mean
    weights = variational.log_weights(x, mean, tight, gaussian, samples=100, rows=rows)
    z = mean[:, None].astype("float64")
    density = gaussian(x, tf.constant(mean[:, None])).numpy()
    expected = (
        density - (z**2).sum(axis=2) / 2 - 30 + 1
    )  # ½ Σ log σ² and the mean of ½ Σ ε², over two units
    np.testing.assert_allclose(weights.mean(axis=1)[:, None], expected, atol=0.5)


def test_draws_are_seeded_and_independent(linear):
    x, mean, log_variance, *_ = linear
    first, again, other = (
        variational.log_weights(x, mean, log_variance, gaussian, samples=20, seed=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()
    same = np.tile(x[:1], (8, 1))
    chunked = variational.log_weights(
        same,
        np.tile(mean[:1], (8, 1)),
        np.tile(log_variance[:1], (8, 1)),
        gaussian,
        samples=20,
        rows=40,
    )
    assert len(np.unique(chunked)) == chunked.size  # no chunk repeats another's noise


@pytest.mark.parametrize("k", [0, 21])
def test_a_bound_needs_its_samples(k):
    with pytest.raises(
        StudyError, match=f"k is {k} and there are 20 samples per image; expected 1 to 20"
    ):
        variational.importance_bound(np.zeros((2, 20), "float32"), k)


def test_no_samples_are_refused(linear):
    with pytest.raises(StudyError, match="samples is 0; expected at least 1"):
        variational.log_weights(*linear[:3], gaussian, samples=0)


# --- binary pixels --------------------------------------------------------------------------------


def test_binary_images_have_the_grey_values_as_means():
    grey = np.tile(np.linspace(0, 1, 784, dtype="float32"), (4000, 1))
    binary = variational.binarised(grey, seed=1)
    assert binary.dtype == np.float32
    assert set(np.unique(binary)) == {0, 1}
    np.testing.assert_allclose(binary.mean(axis=0), grey[0], atol=0.04)
    assert not binary[:, 0].any()
    assert binary[:, -1].all()
    np.testing.assert_array_equal(binary, variational.binarised(grey, seed=1))
    assert (binary != variational.binarised(grey, seed=2)).any()


def test_logits_give_the_decoders_own_likelihood(vae, digits, rng):
    z = rng.normal(size=(5, 7, 3)).astype("float32")
    x = variational.binarised(digits.x_test[:5])
    found = variational.bernoulli(vae.decoder)(tf.constant(x), tf.constant(z)).numpy()
    y = vae.decoder.predict(z.reshape(35, 3), verbose=0).astype("float64").reshape(5, 7, 784)
    x = x[:, None]
    np.testing.assert_allclose(
        found, (x * np.log(y) + (1 - x) * np.log(1 - y)).sum(axis=2), rtol=1e-5
    )


def test_a_certain_decoder_is_not_clipped(digits):
    decoder = models.variational_autoencoder(hidden=(), latent_dim=2).decoder
    decoder.layers[-1].bias.assign(np.full(784, -200.0))
    x = np.zeros((1, 784), "float32")
    x[0, 0] = 1
    found = variational.bernoulli(decoder)(tf.constant(x), tf.zeros((1, 1, 2)))
    assert float(found[0, 0]) == pytest.approx(-200)  # a sigmoid in float32 would have given −∞


def test_likelihood_follows_the_decoders_weights(vae, digits):
    x, z = tf.constant(variational.binarised(digits.x_test[:2])), tf.zeros((2, 1, 3))
    likelihood = variational.bernoulli(vae.decoder)
    before = likelihood(x, z).numpy()
    bias = vae.decoder.layers[-1].bias
    bias.assign_add(np.ones(784))
    after = likelihood(x, z).numpy()
    bias.assign_add(-np.ones(784))
    assert not np.isclose(before, after).any()


def test_only_logits_are_taken(vae):
    with pytest.raises(
        StudyError, match="last layer is GaussianCode 'code'; expected a dense layer"
    ):
        variational.bernoulli(vae.encoder)


def test_the_elbo_of_a_network_is_its_loss(vae, digits):
    """−ELBO / 784 is the loss that training minimises, up to the draws of the codes."""
    x = variational.binarised(digits.x_test)
    mean, log_variance = variational.posterior(vae.encoder, x)
    assert mean.shape == log_variance.shape == (297, 3)
    np.testing.assert_allclose(mean, vae.encoder.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    options = variational.bernoulli(vae.decoder), 50
    found = variational.negative_elbo(x, mean, log_variance, *options)
    vae.autoencoder.compile(loss="binary_crossentropy")
    losses = [
        float(vae.autoencoder.compute_loss(x=x, y=x, y_pred=vae.autoencoder(x, training=True)))
        for _ in range(50)
    ]
    assert found["negative_elbo"].mean() == pytest.approx(784 * np.mean(losses), rel=1e-3)
    kl = variational.kl_terms(mean, log_variance)
    assert kl.shape == (297, 3)
    assert (kl >= 0).all()
    np.testing.assert_allclose(kl.sum(axis=1), found["kl"], rtol=1e-5)
    single = [variational.one_sample_negative_elbo(vae, x, seed) for seed in range(50)]
    np.testing.assert_allclose(np.mean(single, axis=0), found["negative_elbo"], rtol=2e-2)
    assert np.std(single, axis=0).min() > 0  # each seed samples other codes


def test_complex_images_have_long_codes(rng):
    x = np.zeros((3, 784), "float32")
    x[1, 200:300] = 1
    x[2] = rng.random(784) < 0.5
    blank, block, noise = variational.code_length(x)
    assert blank < block < noise
    assert noise >= 784 * np.log(2)  # random bits cannot be compressed


# --- units ----------------------------------------------------------------------------------------


def test_active_units_are_those_whose_means_vary(rng):
    means = rng.normal(size=(5000, 3)) * [1, 0.11, 0.09] + [0, 0, 5]
    assert list(variational.active_units(means)) == [True, True, False]
    assert list(variational.active_units(means, 0.001)) == [True, True, True]


# --- the baseline ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_kinds():
    rng = np.random.default_rng(0)
    probabilities = expit(rng.normal(size=(2, 12)) * 3)
    kinds = rng.random(4000) < 0.3
    x = (rng.random((4000, 12)) < probabilities[kinds.astype(int)]).astype("float32")
    return x, probabilities


def test_a_mixture_finds_what_made_the_images(two_kinds):
    x, probabilities = two_kinds
    mixture = variational.fit_mixture(x, 2, iterations=100)
    order = np.argsort(-mixture.shares)
    np.testing.assert_allclose(mixture.shares[order], [0.7, 0.3], atol=0.03)
    np.testing.assert_allclose(mixture.probabilities[order], probabilities, atol=0.05)


def test_a_mixture_is_a_density(two_kinds):
    mixture = variational.fit_mixture(two_kinds[0][:, :10], 5, iterations=5)
    every = np.array(np.meshgrid(*[[0, 1]] * 10)).reshape(10, -1).T.astype("float32")
    assert np.exp(mixture.log_likelihood(every)).sum() == pytest.approx(1, rel=1e-4)
    assert mixture.shares.sum() == pytest.approx(1)


def test_one_component_is_independent_pixels(two_kinds):
    x = two_kinds[0]
    p = (x.sum(axis=0) + 1) / (len(x) + 2)
    by_hand = (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
    np.testing.assert_allclose(variational.fit_mixture(x, 1).log_likelihood(x), by_hand, rtol=1e-3)


def test_expectation_maximisation_climbs(digits):
    x = variational.binarised(digits.x_train)
    values = [
        variational.fit_mixture(x, 10, iterations).log_likelihood(x).mean()
        for iterations in (1, 3, 10)
    ]
    assert values == sorted(values)
    assert np.isfinite(
        variational.fit_mixture(x, 10, 3).log_likelihood(np.ones((1, 784), "float32"))
    )


def test_more_components_than_images_are_refused():
    with pytest.raises(StudyError, match="components is 3; expected 1 to the 2 images"):
        variational.fit_mixture(np.zeros((2, 784), "float32"), 3)


# --- figure ---------------------------------------------------------------------------------------


def test_grids_show_the_largest_square_of_every_panel():
    images = np.linspace(0, 1, 11 * 6, dtype="float32").reshape(11, 6)
    figure = variational.image_grids({"a": images, "b": images[:10]}, (2, 3), "Both are shown.")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.shape == (3 * 4, 3 * 5)  # 3 × 3 images in frames of one pixel
    np.testing.assert_array_equal(drawn[5:7, 11:14], images[5].reshape(2, 3))
    assert figure.get_label() == "Both are shown."
