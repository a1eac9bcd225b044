"""What happens between two epochs of training: progress for a person, a stop when the loss diverges, a kept state."""

import contextlib
import hashlib
import itertools
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError

import keras
import numpy as np
from IPython import get_ipython
from IPython.display import clear_output

INITIAL = "initial weights"  # their entry in a configuration


class Progress(keras.callbacks.Callback):
    """One line per epoch: a bar, losses, images per second, time left.

    In a notebook and in a terminal each line replaces the one before; in a notebook the last is cleared, so that
    nothing stays in a stored copy. Anywhere else each epoch has its line.
    """

    def __init__(self, images):
        super().__init__()
        self.images = images

    def on_train_begin(self, logs=None):  # noqa: D102
        self.begun, self.first = time.monotonic(), None

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102
        if self.first is None:  # above 0 if an interrupted run goes on
            self.first = epoch

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        done, total = epoch + 1, self.params["epochs"]
        seconds = (time.monotonic() - self.begun) / (done - self.first)
        minutes, rest = divmod(round(seconds * (total - done)), 60)
        filled = 20 * done // total
        line = (
            f"epoch {done}/{total} {'█' * filled}{'░' * (20 - filled)} loss {logs['loss']:.4f}  "
            f"val_loss {logs['val_loss']:.4f}  {self.images / seconds:,.0f} images/s  {minutes:02}:{rest:02} left"
        )
        if get_ipython():
            clear_output(wait=True)
        terminal = sys.stdout.isatty()
        print(
            f"\r{line}" if terminal else line,
            end="" if terminal and done < total else "\n",
            flush=True,
        )

    def on_train_end(self, logs=None):  # noqa: D102
        if get_ipython():
            clear_output()


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """End training with an error as soon as a loss is NaN or infinite."""

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        for name, value in logs.items():
            if not np.isfinite(value):
                raise StudyError(
                    f"{name} is {value} after epoch {epoch + 1}; expected a finite number: lower learning_rate, and "
                    f"check the images for values outside [0, 1]. The model has its weights after epoch {epoch}."
                )


class KeptState(keras.callbacks.Callback):
    """Keep the state of training in a file after each epoch, and go on from it.

    The file holds every variable of the model and of its optimizer, the history, and what the other callbacks remember
    (how long `keras.callbacks.EarlyStopping` has waited, say). Its name is a hash of the configuration, so another
    configuration has another file. It is removed when training ends.

    Parameters
    ----------
    model : keras.Model
        Compiled, with a built optimizer.
    others : sequence of keras.callbacks.Callback
        Those whose memory is kept. In the list of callbacks, this one must stand behind them and behind History.
    """

    def __init__(self, model, others):
        super().__init__()
        self.set_model(model)
        self.others, self.good = others, values(model)
        self.path, self.epoch, self.stopped, self.kept = None, 0, False, None

    def find(self, folder, configuration, epochs):
        """Keep the state in ``folder``; if there is one of this configuration, put the model into it.

        Parameters
        ----------
        folder : path
        configuration : dict
            Everything that the weights depend on, as plain values. A state that differs from it in nothing but the
            initial weights is taken, too, if the model has that state's weights: it is the model that was interrupted.
        epochs : int
            After how many training is to end.

        Raises
        ------
        StudyError
            If the state is of a later epoch, or cannot be read. The model is then as it was.
        """
        digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()
        self.path, self.configuration = Path(folder) / f"{digest[:16]}.npz", configuration
        if self.path.is_file():
            self._go_on(*_read_state(self.path), epochs)
            return
        for other in sorted(self.path.parent.glob("*.npz")):
            arrays, kept = _read_state(other)
            changed = [
                name
                for name, value in configuration.items()
                if kept["configuration"].get(name) != value
            ]
            if changed == [INITIAL] and _has_weights(self.model, arrays):
                self.path, self.configuration = other, kept["configuration"]
                self._go_on(arrays, kept, epochs)
                return
            print(
                f"beginning anew: an interrupted run in {other.name}, at epoch {kept['epoch']}, differs in "
                f"{', '.join(changed)}",
                flush=True,
            )

    def _go_on(self, arrays, kept, epochs):
        if kept["epoch"] > epochs:
            raise StudyError(
                f"{self.path} holds a run interrupted after epoch {kept['epoch']}; expected one of at most {epochs}: "
                "raise epochs to go on with it, or remove the file to begin anew."
            )
        own = len(variables(self.model))
        assign(self.model, arrays[:own])
        self.remembered, self.kept = iter(arrays[own:]), kept
        self.epoch, self.stopped = kept["epoch"], kept["stopped"]
        print(
            f"going on after epoch {self.epoch}, where an earlier run was interrupted", flush=True
        )

    def restore(self):
        """Put the model into its state after the last whole epoch."""
        arrays = _read_state(self.path)[0] if self.path and self.path.is_file() else self.good
        assign(self.model, arrays[: len(variables(self.model))])

    def on_train_begin(self, logs=None):  # noqa: D102
        if self.kept:
            self.model.history.history = self.kept["history"]
            self.model.history.epoch = list(range(self.epoch))
            for callback, plain, arrays in zip(
                self.others, self.kept["plain"], self.kept["arrays"], strict=True
            ):
                # Keras chooses at the first epoch's end what is better, and then turns the sign of min_delta, once.
                getattr(callback, "_set_monitor_op", int)()
                vars(callback).update(plain)
                for name, count in arrays.items():
                    setattr(callback, name, list(itertools.islice(self.remembered, count)))

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        arrays = values(self.model)
        if self.path is None:
            self.good = arrays
            return
        lists = [
            {n: v for n, v in vars(callback).items() if _is_list_of_arrays(v)}
            for callback in self.others
        ]
        arrays += [array for named in lists for value in named.values() for array in value]
        state = {
            "epoch": epoch + 1,
            "stopped": self.model.stop_training,
            "history": self.model.history.history,
            "plain": [plain_attributes(callback) for callback in self.others],
            "arrays": [{name: len(value) for name, value in named.items()} for named in lists],
            "configuration": self.configuration,
        }
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez(file, *arrays, state=np.array(json.dumps(state)))
            temporary.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StudyError(
                f"The state after epoch {epoch + 1} cannot be written to {self.path.parent} ({error.strerror or error}); "
                "expected a writable folder with room for the weights three times: make room, or train without one."
            ) from error

    def on_train_end(self, logs=None):  # noqa: D102
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _has_weights(model, arrays):
    return all(
        np.array_equal(v.numpy(), kept) for v, kept in zip(model.variables, arrays, strict=False)
    )


def variables(model):
    """Every variable that training changes: weights, random seeds, the optimizer's; each once, in a fixed order."""
    return list({id(v): v for v in (*model.variables, *model.optimizer.variables)}.values())


def values(model):
    """Copies of `variables` as a list of arrays."""
    return [variable.numpy().copy() for variable in variables(model)]


def assign(model, arrays):
    """Put arrays, as `values` gives them, into the variables of a model."""
    for variable, value in zip(variables(model), arrays, strict=True):
        variable.assign(value)


def plain_attributes(callback):
    """The numbers, texts and switches among a callback's attributes, as Python values that JSON can hold."""
    plain = {
        name: v.item() if isinstance(v, np.generic) else v for name, v in vars(callback).items()
    }
    return {
        name: v for name, v in plain.items() if v is None or isinstance(v, bool | int | float | str)
    }


def _is_list_of_arrays(value):
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, np.ndarray) for item in value)
    )


def _read_state(path):
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return [file[f"arr_{i}"] for i in range(len(file.files) - 1)], json.loads(
                str(file["state"])
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise StudyError(
            f"The kept state {path} cannot be read ({error}); expected what training wrote: remove it to begin anew."
        ) from error
