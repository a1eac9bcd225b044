"""Training is seeded, checked, visible, resumable, and remains Keras's own."""

import errno
import os
import signal
import subprocess
import sys

from ae_lib import StudyError, checkpoint, metrics, models, training

import keras
import numpy as np
import pytest
import tensorflow as tf

PLAIN = training.Settings(
    epochs=4, batch_size=100, compiler="none"
)  # without XLA, a small network starts sooner


def network(seed=7):
    keras.utils.set_random_seed(seed)
    return models.dense_autoencoder(hidden=(16,), latent_dim=4).autoencoder


def fit(digits, model=None, settings=PLAIN, more=(), checkpoint_folder=None, task=None):
    """Train a small network; its weights as one vector, and the history."""
    model, task = model or network(), task or training.Reconstruct()
    history = training.fit(
        model, digits.pixels_train, digits.pixels_val, settings, more, checkpoint_folder, task
    )
    return flat(model), history


def flat(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


def test_the_loss_may_be_the_squared_error(digits):
    model, settings = (
        network(),
        training.Settings(2, 100, compiler="none", loss="mean_squared_error"),
    )
    _, history = fit(digits, model, settings)
    expected = metrics.mse(digits.x_val, model.predict(digits.x_val, verbose=0)).mean()
    assert history.history["val_loss"][-1] == pytest.approx(expected, rel=1e-5)


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C at the beginning of an epoch (counted from 0)."""

    def __init__(self, at):
        super().__init__()
        self._at = at  # a private attribute is no configuration

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._at:
            raise KeyboardInterrupt


def test_training_lowers_the_loss_and_keeps_its_history(digits):
    model = network()
    _, history = fit(digits, model)
    assert isinstance(history, keras.callbacks.History)
    assert history.epoch == [0, 1, 2, 3]
    assert set(history.history) == {"loss", "val_loss"}
    assert history.history["loss"] == sorted(history.history["loss"], reverse=True)
    predicted = model.predict(digits.x_val, verbose=0)
    assert metrics.bce(digits.x_val, predicted).mean() == pytest.approx(
        history.history["val_loss"][-1], rel=1e-5
    )


def test_bytes_train_like_floats_bit_for_bit(digits):
    settings = training.Settings(epochs=2, batch_size=100)
    from_bytes, from_floats = network(), network()
    training.fit(from_bytes, digits.pixels_train, digits.pixels_val, settings)
    training.fit(from_floats, digits.x_train, digits.x_val, settings)
    np.testing.assert_array_equal(flat(from_bytes), flat(from_floats))


def test_xla_changes_nothing_but_rounding(digits):
    def losses(compiler):
        _, history = fit(digits, settings=training.Settings(2, 100, compiler=compiler))
        return history.history["val_loss"]

    np.testing.assert_allclose(losses("xla"), losses("none"), rtol=1e-4)


def test_one_epoch_is_what_keras_does_with_the_same_minibatches(digits):
    """Every weight after an epoch, the last short minibatch included, as by train_on_batch."""

    def study():
        keras.utils.set_random_seed(7)
        return models.dense_autoencoder().autoencoder

    ours, theirs, settings = study(), study(), training.Settings(1, 250, seed=3)
    training.fit(ours, digits.pixels_train, digits.pixels_val, settings)
    theirs.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    ((_, order),) = orders(digits.pixels_train, settings)
    x_train = digits.x_train
    for start in range(0, 1200, 250):
        x = x_train[order[start : start + 250]]
        theirs.train_on_batch(x, x)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_same_seed_same_weights(digits):
    first, _ = fit(digits, settings=training.Settings(2, 100, seed=1, compiler="none"))
    again, _ = fit(digits, settings=training.Settings(2, 100, seed=1, compiler="none"))
    other, _ = fit(digits, settings=training.Settings(2, 100, seed=2, compiler="none"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def orders(images, settings, first=0):
    """Seed and order of the training images in each epoch."""
    epochs = training._epochs(images, images[:1], settings, first).as_numpy_iterator()
    return [order for order, _ in epochs]


def test_every_epoch_is_a_permutation_of_its_own():
    images = np.zeros((1000, 784), "uint8")
    (_, first), (_, second) = orders(images, training.Settings(epochs=2))
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first == second).mean() < 0.02
    ((seed, late),) = orders(images, training.Settings(epochs=2, seed=7), first=1)
    assert list(seed) == [7, 1]
    assert not np.array_equal(late, second)
    ((_, late),) = orders(images, training.Settings(epochs=2), first=1)
    np.testing.assert_array_equal(late, second)


# --- tasks ---------------------------------------------------------------------------------------

GREY = np.linspace(0, 1, 40 * 784, dtype="float32").reshape(40, 784)
SEED = np.array([3, 4], "int32")


def test_reconstruction_has_the_image_as_input_and_target():
    x, target = training.Reconstruct()(GREY, SEED)
    assert x is GREY
    assert target is GREY


def test_denoising_has_a_noisy_input_and_a_clean_target():
    middle = np.full((2000, 784), 0.5, "float32")  # so far from 0 and 1 that little is clipped
    x, target = (np.asarray(part) for part in training.Denoise(0.0, 0.2)(middle, SEED))
    assert target is middle
    levels = (x - middle).std(axis=1)
    assert 0 <= levels.min() < 0.01
    assert 0.19 < levels.max() < 0.22
    np.testing.assert_allclose(
        levels.mean(), 0.1, atol=0.005
    )  # of a uniform distribution from 0 to 0.2
    np.testing.assert_allclose((x - middle).mean(), 0, atol=0.001)
    np.testing.assert_allclose(
        (training.Denoise(0.1, 0.1)(middle, SEED)[0] - middle).numpy().std(), 0.1, rtol=0.01
    )
    x = training.Denoise(1.0, 1.0)(GREY, SEED)[0].numpy()
    assert x.min() == 0
    assert x.max() == 1


def test_binary_images_have_the_grey_values_as_probabilities():
    x, target = training.Binarise()(np.repeat(GREY[:, ::8], 500, axis=0), SEED)
    assert x is target
    assert set(np.unique(x)) == {0, 1}
    shares = x.numpy().reshape(40, 500, -1).mean(axis=(1, 2))
    np.testing.assert_allclose(shares, GREY.mean(axis=1), atol=0.01)
    white, black = np.ones((5, 784), "float32"), np.zeros((5, 784), "float32")
    assert training.Binarise()(white, SEED)[0].numpy().all()
    assert not training.Binarise()(black, SEED)[0].numpy().any()


@pytest.mark.parametrize("task", [training.Denoise(), training.Binarise()])
def test_a_tasks_randomness_follows_its_seed(task):
    first, again, other = (
        np.asarray(task(GREY, np.array(s, "int32"))[0]) for s in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("least", "most"), [(0.5, 0.1), (-0.1, 0.1), (0.0, np.inf)])
def test_impossible_noise_is_refused(least, most):
    with pytest.raises(
        StudyError, match="expected two standard deviations of at least 0, the smaller first"
    ):
        training.Denoise(least, most)


@pytest.mark.parametrize("compiler", ["xla", "none"])
def test_every_epoch_and_step_has_its_own_noise_and_validation_the_same(digits, compiler):
    """A network that returns its input has the noise itself as its loss."""
    seen = keras.Sequential(
        [keras.Input((784,)), keras.layers.Dense(784, use_bias=False, activation=lambda x: x)]
    )
    seen.set_weights([np.eye(784)])
    still = training.Settings(4, 300, 1e-30, compiler=compiler)
    fitted = training.fit(
        seen, digits.pixels_train, digits.pixels_val, still, task=training.Denoise(0.3, 0.3)
    )
    assert len(set(fitted.history["loss"])) == 4
    assert len(set(fitted.history["val_loss"])) == 1


def test_training_on_noise_is_worth_it_on_noise(digits):
    noisy = training.Denoise(0.5, 0.5)
    x = np.asarray(noisy(digits.x_test, SEED)[0])
    errors = []
    for task in (training.Reconstruct(), noisy):
        keras.utils.set_random_seed(0)
        model = models.dense_autoencoder(hidden=(64,), latent_dim=32).autoencoder
        training.fit(
            model, digits.pixels_train, digits.pixels_val, training.Settings(15, 50), task=task
        )
        errors.append(np.square(model.predict(x, verbose=0) - digits.x_test).mean())
    assert errors[1] < 0.9 * errors[0]


# --- what compiles -------------------------------------------------------------------------------


def convolutional():
    image = keras.layers.Reshape((28, 28, 1))
    inside = keras.Sequential(
        [image, keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")]
    )
    return keras.Sequential([keras.Input((784,)), inside, keras.layers.Flatten()])


def test_xla_is_for_networks_without_convolutions(monkeypatch):
    assert training.compiler_for(network()) == "xla"
    assert training.compiler_for(convolutional()) == "none"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert training.compiler_for(convolutional()) == "xla"


def test_the_choice_of_compiler_can_be_overridden(digits):
    chosen = {}
    for compiler in ("auto", "none"):
        model = network()
        fit(digits, model, training.Settings(1, 100, compiler=compiler))
        chosen[compiler] = model.jit_compile
    assert chosen == {"auto": True, "none": False}


# --- a Keras citizen -----------------------------------------------------------------------------


def test_keras_callbacks_see_epochs_and_the_model_itself(digits, tmp_path):
    model = network()
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="val_loss", min_delta=10, patience=1, factor=0.5, min_lr=1e-6
    )
    more = [
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_loss", save_best_only=True
        ),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
        plateau,
    ]
    _, history = fit(digits, model, more=more)
    assert plateau.model is model
    assert history.history["learning_rate"] == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])
    rows = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    np.testing.assert_allclose(rows["val_loss"], history.history["val_loss"])
    assert list((tmp_path / "board").rglob("events*"))
    saved = keras.models.load_model(tmp_path / "best.keras", safe_mode=True)
    np.testing.assert_array_equal(flat(saved), flat(model))  # the loss fell in every epoch
    assert saved.optimizer.iterations == model.optimizer.iterations == 48


def test_early_stopping_stops_and_restores(digits):
    early = keras.callbacks.EarlyStopping(
        monitor="val_loss", min_delta=10, patience=2, restore_best_weights=True
    )
    weights, history = fit(digits, more=[early])
    assert history.epoch == [0, 1, 2]
    once, _ = fit(digits, settings=training.Settings(1, 100, compiler="none"))
    np.testing.assert_array_equal(weights, once)


def test_a_schedule_counts_adam_steps(digits):
    model = network()
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-3, decay_steps=24
    )  # two epochs of 12 steps
    fit(digits, model, training.Settings(3, 100, schedule, compiler="none"))
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("warm_up", [0, 0.3])
def test_a_cosine_ends_with_the_training(digits, warm_up):
    model = network()
    settings = training.Settings(2, 100, training.Cosine(1e-3, warm_up), compiler="none")
    fit(digits, model, settings)
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)
    schedule = settings.learning_rate.over(24)  # two epochs of 12 steps
    rates = [float(schedule(step)) for step in range(24)]
    rising = int(24 * warm_up)
    assert max(rates) == rates[rising] == pytest.approx(1e-3)
    expected = 1e-3 * (1 + np.cos(np.pi * np.arange(24 - rising) / (24 - rising))) / 2
    np.testing.assert_allclose(rates[rising:], expected, rtol=1e-4)
    np.testing.assert_allclose(rates[:rising], np.linspace(5e-5, 1e-3, rising, False), 1e-6)


def test_a_fitted_model_is_no_other_model(digits):
    """Nothing of its class is replaced, and nothing of the training stays in it."""
    model, fresh = network(), network()
    _, history = fit(digits, model)
    fresh.compile("adam", "binary_crossentropy")
    fresh.fit(digits.x_val, digits.x_val, verbose=0)
    assert set(vars(model)) <= set(vars(fresh))
    assert "train_step" not in vars(model)
    assert history is model.history
    assert history.model is model


def test_afterwards_keras_trains_saves_and_evaluates_it_as_any_model(digits, tmp_path):
    model = network()
    fit(digits, model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    x = digits.x_val
    assert loaded.evaluate(x, x, verbose=0) == pytest.approx(model.evaluate(x, x, verbose=0))
    assert loaded.optimizer.iterations == 48
    for m in (model, loaded):
        history = m.fit(x, x, epochs=2, batch_size=100, validation_data=(x, x), verbose=0)
        assert history.epoch == [0, 1]
        assert set(history.history) == {"loss", "val_loss"}
    np.testing.assert_allclose(flat(model), flat(loaded), rtol=1e-3, atol=1e-4)


# --- interrupted and resumed ---------------------------------------------------------------------


def interrupt(digits, folder, at, model=None, **options):
    """Train until Ctrl-C at the beginning of an epoch; the checkpoint's path."""
    with pytest.raises(KeyboardInterrupt):
        fit(digits, model, more=[Interrupt(at)], checkpoint_folder=folder, **options)
    return max(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns, default=None)


def resume(digits, folder, model=None, **options):
    return fit(digits, model, more=[Interrupt(99)], checkpoint_folder=folder, **options)


def test_an_interrupted_run_resumes_to_the_same_weights(digits, tmp_path, capsys):
    expected, expected_history = fit(digits)
    for at in (0, 2, 3):  # at 0 there is no checkpoint yet
        interrupt(digits, tmp_path, at)
    weights, history = resume(digits, tmp_path)
    np.testing.assert_array_equal(weights, expected)
    assert history.history == expected_history.history
    assert history.epoch == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == []  # a finished run leaves no checkpoint
    printed = capsys.readouterr().out
    assert "Training resumes after epoch 2" in printed
    assert "Training resumes after epoch 3" in printed


def test_a_resumed_run_has_the_same_optimizer_as_an_uninterrupted_one(digits, tmp_path):
    whole, resumed = network(), network()
    fit(digits, whole)
    interrupt(digits, tmp_path, 2)
    resume(digits, tmp_path, resumed)
    pairs = zip(whole.optimizer.variables, resumed.optimizer.variables, strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def variational():
    keras.utils.set_random_seed(7)
    return models.variational_autoencoder(hidden=(16,), latent_dim=4).autoencoder


@pytest.mark.parametrize(
    ("build", "task"),
    [(network, training.Denoise()), (variational, training.Binarise())],
    ids=["noise", "codes"],
)
def test_random_numbers_resume_as_well(digits, tmp_path, build, task):
    expected, _ = fit(digits, build(), task=task)
    interrupt(digits, tmp_path, 2, build(), task=task)
    weights, _ = resume(digits, tmp_path, build(), task=task)
    np.testing.assert_array_equal(weights, expected)
    plain, _ = fit(digits, build())
    assert not np.array_equal(weights, plain)


class Late(keras.callbacks.Callback):
    """Ctrl-C, once, after the weights have moved and before the third epoch is over."""

    def __init__(self):
        super().__init__()
        self._done = False

    def on_train_batch_end(self, batch, logs=None):
        if len(self.model.history.epoch) == 2 and not self._done:
            self._done = True
            raise KeyboardInterrupt


def test_the_same_model_and_callbacks_resume_when_their_cell_is_run_again(digits, tmp_path, capsys):
    """The history has as many epochs as the weights have had."""

    def patient():  # Keras negates their min_delta in training
        return [
            keras.callbacks.EarlyStopping(min_delta=1e-6, patience=9, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(patience=9),
        ]

    expected, _ = fit(digits, more=patient())
    model, more = network(), [*patient(), Late()]
    with pytest.raises(KeyboardInterrupt):
        fit(digits, model, more=more, checkpoint_folder=tmp_path)
    weights, history = fit(digits, model, more=more, checkpoint_folder=tmp_path)
    np.testing.assert_array_equal(weights, expected)
    assert history.epoch == [0, 1, 2, 3]
    assert [len(values) for values in history.history.values()] == [4, 4, 4]
    assert model.optimizer.iterations == 48
    assert "Training resumes after epoch 2" in capsys.readouterr().out


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_an_interruption_leaves_the_last_whole_epoch(digits, tmp_path, with_checkpoint):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if len(self.model.history.epoch) == 2:
                raise RuntimeError("a mistake in a callback")

    expected, _ = fit(digits, settings=training.Settings(2, 100, compiler="none"))
    model = network()
    with pytest.raises(RuntimeError):
        fit(digits, model, more=[Break()], checkpoint_folder=tmp_path if with_checkpoint else None)
    np.testing.assert_array_equal(flat(model), expected)
    assert model.optimizer.iterations == 24


class Kill(Interrupt):
    """The end of the process at the beginning of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        # A set of texts has another order in each process.
        if epoch == self._at and sys.platform not in {"win32", "cygwin", "emscripten", "wasi"}:
            os.kill(os.getpid(), signal.SIGKILL)


KILLED = """
import sys
sys.path.insert(0, "tests")
from ae_lib import data
from test_training import Kill, fit
fit(data.load("digits"), more=[Kill(2)], checkpoint_folder=sys.argv[1])
"""


def test_a_killed_run_resumes_to_the_same_weights(digits, tmp_path, capsys):
    expected, _ = fit(digits)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], cwd=os.path.dirname(os.path.dirname(__file__))
    )
    assert killed.returncode == -signal.SIGKILL
    (checkpoint,) = tmp_path.glob("*.npz")
    (tmp_path / f".{checkpoint.name}.1.tmp").write_bytes(b"killed while writing")
    weights, history = fit(digits, more=[Kill(99)], checkpoint_folder=tmp_path)
    np.testing.assert_array_equal(weights, expected)
    assert len(history.epoch) == 4
    assert "Training resumes after epoch 2" in capsys.readouterr().out


def test_early_stopping_starts_to_wait_again(digits, tmp_path):
    def early():
        return keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=10, patience=2)

    with pytest.raises(KeyboardInterrupt):
        fit(digits, more=[early(), Interrupt(2)], checkpoint_folder=tmp_path)
    settings = training.Settings(9, 100, compiler="none")
    _, history = fit(
        digits, settings=settings, more=[early(), Interrupt(99)], checkpoint_folder=tmp_path
    )
    assert history.epoch == [0, 1, 2, 3, 4]  # two epochs of waiting after the first resumed one


def test_a_run_that_had_stopped_does_not_train_on(digits, tmp_path):
    class AtTheEnd(Interrupt):
        def on_train_end(self, logs=None):
            if self._at != 99:
                raise KeyboardInterrupt

    def callbacks(at):
        early = keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=10, patience=1)
        return [early, AtTheEnd(at)]

    with pytest.raises(KeyboardInterrupt):
        fit(digits, more=callbacks(50), checkpoint_folder=tmp_path)
    _, history = fit(digits, more=callbacks(99), checkpoint_folder=tmp_path)
    assert history.epoch == [0, 1]


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"settings": training.Settings(4, 150, compiler="none")},
        {"settings": training.Settings(4, 100, 2e-3, compiler="none")},
        {"settings": training.Settings(4, 100, seed=1, compiler="none")},
        {"settings": training.Settings(4, 100, compiler="xla")},
        {"settings": training.Settings(4, 100, compiler="none", loss="mean_squared_error")},
        {"model": network(8)},
        {"more": [Interrupt(0), keras.callbacks.TerminateOnNaN()]},
        {"task": training.Denoise(0.0, 0.3)},
    ],
)
def test_a_checkpoint_of_another_configuration_is_ignored(
    digits, tmp_path, capsys, change, damaged
):
    checkpoint = interrupt(digits, tmp_path, 2)
    if damaged:
        checkpoint.write_bytes(b"no checkpoint at all")
    before = checkpoint.read_bytes()
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        fit(digits, **{"more": [Interrupt(0)], **change}, checkpoint_folder=tmp_path)
    assert "resumes" not in capsys.readouterr().out
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_a_callbacks_options_are_configuration(digits, tmp_path, capsys):
    for patience, at in ((5, 2), (6, 0)):
        early = keras.callbacks.EarlyStopping(monitor="val_loss", patience=patience)
        with pytest.raises(KeyboardInterrupt):
            fit(digits, more=[early, Interrupt(at)], checkpoint_folder=tmp_path)
    assert "resumes" not in capsys.readouterr().out


def run_cell(source):
    """What a notebook's cell, run (again), calls ``made``."""
    names = {"Reconstruct": training.Reconstruct, "callbacks": keras.callbacks, "tf": tf}
    exec("from functools import partial, wraps\n" + source, names)
    return names["made"]


SCHEDULE_AND_TASK = """
def schedule(epoch, rate):
    return rate * 0.9
class Task(Reconstruct):
    def __call__(self, images, seed):
        return images * 1.0, images
made = callbacks.LearningRateScheduler(schedule), Task()
"""


@pytest.mark.parametrize("change", [("", ""), ("0.9", "0.5"), ("1.0", "0.7")])
def test_a_checkpoint_is_of_the_code_of_schedules_and_tasks(digits, tmp_path, capsys, change):
    scheduler, task = run_cell(SCHEDULE_AND_TASK)
    with pytest.raises(KeyboardInterrupt):
        fit(digits, more=[scheduler, Interrupt(2)], checkpoint_folder=tmp_path, task=task)
    scheduler, task = run_cell(SCHEDULE_AND_TASK.replace(*change))
    more = [scheduler, Interrupt(99)]
    weights, history = fit(digits, more=more, checkpoint_folder=tmp_path, task=task)
    resumed = "Training resumes after epoch 2" in capsys.readouterr().out
    assert resumed == (change == ("", ""))
    expected, expected_history = fit(digits, more=[scheduler], task=task)
    np.testing.assert_array_equal(weights, expected)
    assert history.history == expected_history.history


DECAY = """
class Decay:
    def __init__(self, k): self.k = k
    def __call__(self, epoch, rate): return rate * self.k
"""


@pytest.mark.parametrize(
    "source",
    [
        "made = lambda epoch, rate, k=0.9: rate * k",
        "k = 0.9\nmade = lambda epoch, rate: rate * k",
        "made = (lambda k: lambda epoch, rate: rate * k)(0.9)",
        "made = partial(lambda k, epoch, rate: rate * k, 0.9)",
        "made = partial(lambda epoch, rate, k: rate * k, k=0.9)",
        "@tf.function\ndef made(epoch, rate): return rate * 0.9",
        "class Own(Reconstruct):\n"
        "    @tf.function\n"
        "    def __call__(self, images, seed): return images * 0.9, images\n"
        "made = Own()",
        "def twice(f): return wraps(f)(lambda epoch, rate: f(epoch, f(epoch, rate)))\n"
        "made = twice(lambda epoch, rate: rate * 0.9)",
        DECAY + "made = Decay(0.9)",
        DECAY + "made = Decay(0.9).__call__",
        DECAY + "made = Decay([0.9])",
        DECAY + "class Own(Decay): k = 0.9\nmade = Own(1)",
        DECAY.replace("self.k\n", "self.k * 0.9\n") + "class Own(Decay): pass\nmade = Own(1)",
        "class Own(callbacks.EarlyStopping):\n"
        "    def __init__(self, **options): super().__init__(**options)\n"
        "made = Own(baseline=0.9)",
        "class Own(callbacks.LambdaCallback):\n"
        "    def __init__(self): super().__init__(on_epoch_end=self.show)\n"
        "    def show(self, epoch, logs): print(0.9)\n"
        "made = Own()",
    ],
)
def test_whatever_a_schedule_depends_on_is_configuration(source):
    first, again = (checkpoint._options(run_cell(source)) for _ in range(2))
    assert first == again
    assert first != checkpoint._options(run_cell(source.replace("0.9", "0.5")))


def test_other_images_are_another_configuration(digits, tmp_path):
    interrupt(digits, tmp_path, 2)
    model = network()
    changed = digits.pixels_train.copy()
    changed[0, 0] ^= 1
    history = training.fit(model, changed, digits.pixels_val, PLAIN, [Interrupt(99)], tmp_path)
    expected = training.fit(network(), changed, digits.pixels_val, PLAIN)
    assert history.history == expected.history


def test_fewer_epochs_than_the_checkpoint_has_are_refused(digits, tmp_path):
    interrupt(digits, tmp_path, 3)
    model, settings = network(), training.Settings(2, 100, compiler="none")
    before = flat(model)
    with pytest.raises(
        StudyError, match="interrupted after epoch 3; expected at most 2: raise epochs"
    ):
        resume(digits, tmp_path, model, settings=settings)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(flat(model), before)  # who removes it restarts with this model


def test_more_epochs_resume_a_shorter_run(digits, tmp_path):
    expected, _ = fit(digits)
    interrupt(digits, tmp_path, 2, settings=training.Settings(3, 100, compiler="none"))
    weights, _ = resume(digits, tmp_path)
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "bytes", "incomplete"])
def test_a_damaged_checkpoint_is_reported_and_training_restarts(digits, tmp_path, capsys, damage):
    checkpoint = interrupt(digits, tmp_path, 2)
    content = checkpoint.read_bytes()
    if damage == "incomplete":
        np.savez(checkpoint, np.zeros(3), progress=np.array("[2, false, {}]"))
    else:
        damaged = {
            "cut": content[:1000],
            "empty": b"",
            "text": b"<html>",
            "bytes": bytearray(content),
        }
        damaged["bytes"][5000:5100] = bytes(100)
        checkpoint.write_bytes(damaged[damage])
    capsys.readouterr()
    weights, history = resume(digits, tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if "checkpoint" in line]
    assert len(lines) == 1
    assert "Training restarts: the checkpoint" in lines[0]
    assert "cannot be read" in lines[0]
    expected, _ = fit(digits)
    np.testing.assert_array_equal(weights, expected)
    assert history.epoch == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_is_one_line(digits, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    weights, history = fit(digits, checkpoint_folder=tmp_path / "file" / "checkpoints")
    expected, _ = fit(digits)
    np.testing.assert_array_equal(weights, expected)
    assert len(history.epoch) == 4
    printed = capsys.readouterr().out
    assert printed.count("Training continues, but its checkpoint cannot be written") == 1


def test_a_full_disk_keeps_the_older_checkpoint(digits, tmp_path, capsys, monkeypatch):
    """It fills up after the second epoch."""
    real, written = np.savez, []

    def savez(file, *arrays, **named):
        written.append(None)
        if len(written) > 2:
            file.write(b"the first half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, *arrays, **named)

    monkeypatch.setattr(np, "savez", savez)
    model = network()
    checkpoint = interrupt(digits, tmp_path, 3, model)
    three, _ = fit(digits, settings=training.Settings(3, 100, compiler="none"))
    np.testing.assert_array_equal(flat(model), three)
    assert capsys.readouterr().out.count("No space left on device") == 1
    assert list(tmp_path.iterdir()) == [checkpoint]
    monkeypatch.setattr(np, "savez", real)
    weights, _ = resume(digits, tmp_path)
    expected, _ = fit(digits)
    np.testing.assert_array_equal(weights, expected)


# --- seen and stopped ----------------------------------------------------------------------------


def test_progress_shows_epochs_and_losses(digits, capsys):
    _, history = fit(digits)
    printed = capsys.readouterr()
    assert "4/4" in printed.out
    assert f"loss={history.history['loss'][-1]:.3g}" in printed.out
    assert f"val_loss={history.history['val_loss'][-1]:.3g}" in printed.out
    assert printed.err == ""


def test_a_resumed_run_shows_the_epochs_before_it(digits, tmp_path, capsys):
    interrupt(digits, tmp_path, 3)
    capsys.readouterr()
    resume(digits, tmp_path)
    assert "3/4" in capsys.readouterr().out


def test_a_notebook_keeps_no_progress(digits, monkeypatch):
    cleared = []
    monkeypatch.setattr(training, "get_ipython", lambda: True)
    monkeypatch.setattr(training, "clear_output", lambda: cleared.append(True))
    fit(digits)
    assert cleared == [True]


def test_divergence_ends_training_with_advice_and_the_last_good_epoch(digits, tmp_path):
    def diverging():
        return keras.callbacks.LearningRateScheduler(
            lambda epoch, rate: float("inf") if epoch == 2 else rate
        )

    expected, _ = fit(digits, settings=training.Settings(2, 100, compiler="none"))
    model = network()
    with pytest.raises(
        StudyError,
        match="loss is nan after epoch 3; expected a finite number: lower learning_rate.*2",
    ):
        fit(digits, model, more=[diverging()], checkpoint_folder=tmp_path)
    np.testing.assert_array_equal(flat(model), expected)
    (checkpoint,) = tmp_path.glob("*.npz")
    with np.load(checkpoint) as file:
        arrays = [file[name].ravel() for name in file.files if name.startswith("arr_")]
    assert np.isfinite(np.concatenate(arrays)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number of at least 1"),
        ({"epochs": -1}, "epochs is -1; expected"),
        ({"epochs": 2.5}, "epochs is 2.5; expected a whole number"),
        ({"epochs": True}, "epochs is True; expected a whole number"),
        ({"batch_size": 0}, "batch_size is 0; expected"),
        ({"seed": -1}, "seed is -1; expected"),
        ({"seed": 2**31}, "seed is 2147483648; expected less than 2³¹: choose a smaller one"),
        ({"learning_rate": 0}, "learning_rate is 0; expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected"),
        ({"learning_rate": training.Cosine(0)}, "highest=0, .* expected a number above 0"),
        ({"learning_rate": training.Cosine(1e-3, 1)}, "warm_up=1.*; expected .* below 1, or"),
        ({"learning_rate": training.Cosine(1e-3, -0.1)}, "warm_up=-0.1.*; expected .* at least"),
        ({"seed": np.bool_(True)}, "seed is .*True.*; expected a whole number"),
        ({"compiler": "gcc"}, "compiler is 'gcc'; expected 'auto' or 'xla' or 'none'"),
        ({"loss": "mse"}, "loss is 'mse'; expected 'binary_crossentropy' or 'mean_squared_error'"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(StudyError, match=message):
        training.Settings(**settings)


def test_numpys_whole_numbers_are_whole_numbers(digits):
    settings = training.Settings(np.int64(1), np.int32(100), seed=np.uint8(3), compiler="none")
    assert [type(n) for n in (settings.epochs, settings.batch_size, settings.seed)] == [int] * 3
    weights, _ = fit(digits, settings=settings)
    expected, _ = fit(digits, settings=training.Settings(1, 100, seed=3, compiler="none"))
    np.testing.assert_array_equal(weights, expected)


def test_batch_larger_than_data_is_refused(digits):
    with pytest.raises(
        StudyError,
        match="batch_size is 1201; expected at most 1200, the number of training images: lower",
    ):
        fit(digits, settings=training.Settings(1, 1201))


def test_images_of_another_type_are_refused(digits):
    with pytest.raises(StudyError, match="x_train is float64; expected uint8 or float32"):
        training.fit(network(), digits.x_train.astype("float64"), digits.x_val, PLAIN)


@pytest.mark.parametrize("which", ["x_train", "x_val"])
@pytest.mark.parametrize(
    ("convert", "limits"),
    [
        (lambda x: x * 255, "0 to 255"),
        (lambda x: x * 2 - 1, "-1 to 1"),
        (lambda x: (x - 0.5) / 0.25, "-2 to 2"),
    ],
    ids=["bytes", "symmetric", "standardised"],
)
def test_floats_outside_0_to_1_are_refused(digits, which, convert, limits):
    images = {"x_train": digits.x_train, "x_val": digits.x_val}
    images[which] = convert(images[which])
    message = f"^The images are float32 and range from {limits}; expected .*scale them.$"
    with pytest.raises(StudyError, match=message):
        training.fit(network(), **images, settings=PLAIN)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"x_val": np.zeros((0, 784), "uint8")}, r"^x_val is of shape \(0, 784\); expected"),
        ({"x_val": None}, r"^x_val is NoneType; expected a NumPy array of shape \(n, 784\) with n"),
        ({"x_train": [[0.0] * 784, [1.0]]}, "^x_train is list; expected a NumPy array"),
        ({"x_train": np.zeros((200, 28, 28), "uint8")}, r"^x_train is of shape \(200, 28, 28\);"),
    ],
)
def test_what_are_no_images_of_the_model_is_refused(digits, images, message):
    good = {"x_train": digits.pixels_train, "x_val": digits.pixels_val}
    with pytest.raises(StudyError, match=message):
        training.fit(network(), **{**good, **images}, settings=PLAIN)


@pytest.fixture
def half_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(policy)


def test_models_that_compute_in_half_precision_are_refused(digits, half_precision):
    with pytest.raises(StudyError, match="^The model computes in float16; expected float32: build"):
        fit(digits)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(784, activation="sigmoid")

    def call(self, x):
        return self.dense(x)


def sequential():
    return keras.Sequential([keras.layers.Dense(784, activation="sigmoid")])


@pytest.mark.parametrize("build", [Subclassed, sequential])
def test_a_model_without_weights_is_refused_and_stays_keras_own(digits, build):
    model, x = build(), digits.x_val
    with pytest.raises(StudyError, match="^The model has no weights yet; expected a built one"):
        fit(digits, model)
    model.compile("adam", "binary_crossentropy")
    assert model.fit(x, x, verbose=0).epoch == [0]


@pytest.mark.parametrize("build", [Subclassed, sequential])
def test_a_model_that_was_called_once_trains_and_resumes(digits, tmp_path, capsys, build):
    model = build()
    model(digits.x_val[:1])
    interrupt(digits, tmp_path, 2, model)
    _, history = resume(digits, tmp_path, model)
    assert history.history["loss"] == sorted(history.history["loss"], reverse=True)
    assert history.epoch == [0, 1, 2, 3]
    assert "Training resumes after epoch 2" in capsys.readouterr().out


def test_a_model_of_images_of_any_size_trains(digits):
    convolution = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")
    model = keras.Sequential([keras.Input((None, None, 1)), convolution])
    images = digits.pixels_val[:100].reshape(-1, 28, 28, 1)
    assert training.fit(model, images, images, PLAIN).epoch == [0, 1, 2, 3]


def test_a_single_callback_needs_no_list(digits, tmp_path):
    stop = keras.callbacks.EarlyStopping(min_delta=10, patience=1)
    _, history = fit(digits, more=stop, checkpoint_folder=tmp_path)
    assert history.epoch == [0, 1]


# --- variational ---------------------------------------------------------------------------------


def vae(seed=7):
    keras.utils.set_random_seed(seed)
    return models.variational_autoencoder(hidden=(16,), latent_dim=4).autoencoder


def test_a_vae_learns(digits):
    settings = training.Settings(epochs=6, batch_size=50, compiler="none")
    history = training.fit(
        vae(), digits.pixels_train, digits.pixels_val, settings, task=training.Binarise()
    )
    assert history.history["loss"] == sorted(history.history["loss"], reverse=True)
    assert history.history["val_loss"][-1] < 0.9 * np.log(
        2
    )  # that of a grey image, whatever the code


def test_every_epoch_has_its_own_samples(digits):
    """With a step size that moves nothing, epochs differ in what is sampled only."""
    model, settings = vae(), training.Settings(epochs=3, batch_size=400, learning_rate=1e-12)
    history = training.fit(
        model, digits.pixels_train, digits.pixels_val, settings, task=training.Binarise()
    )
    np.testing.assert_allclose(flat(model), flat(vae()), atol=1e-6)
    assert len(set(history.history["loss"])) == 3
    assert (
        len(set(history.history["val_loss"])) == 3
    )  # the binary images are the same, the codes are not
