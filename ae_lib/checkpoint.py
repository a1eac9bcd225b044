"""The checkpoint of an interrupted training, and the configuration that tells whose it is."""

import contextlib
import copy
import functools
import hashlib
import inspect
import json
import os
import types
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

from ae_lib import StudyError

import keras
import numpy as np
from tqdm import tqdm

PLAIN = str | int | float | bool | np.generic | None

# The arrays are the values of all that training changes.
_State = namedtuple("_State", ["arrays", "epoch", "stopped", "history"])


class Checkpoint(keras.callbacks.Callback):
    """The state after the last whole epoch: in memory and, with a folder, in a file."""

    def __init__(self, network, history):
        super().__init__()
        self.network, self.history, self.path, self.warned = network, history, None, False
        self.variables = [*network.variables, *network.optimizer.variables]
        self.state = self._now(0)

    def _now(self, epoch):
        arrays = [variable.numpy().copy() for variable in self.variables]
        stopped, history = self.network.stop_training, copy.deepcopy(self.history.history)
        return _State(arrays, epoch, stopped, history)

    def resume(self, folder, configuration, epochs):
        """Take the state of an interrupted run, which began or ended with the network's weights."""
        prefix, weights = _digest(configuration), self.state.arrays[: len(self.network.variables)]
        self.path = Path(folder) / f"{prefix}-{_digest([_sha256(w) for w in weights])}.npz"
        began_alike = [self.path] if self.path.exists() else []
        for path in began_alike or sorted(self.path.parent.glob(f"{prefix}-*.npz")):
            state = _read(path, self.state.arrays)
            if state and (began_alike or all(map(np.array_equal, weights, state.arrays))):
                if state.epoch > epochs:
                    raise StudyError(
                        f"{path} is of a run interrupted after epoch {state.epoch}; expected at "
                        f"most {epochs}: raise epochs to resume it, or remove it to restart."
                    )
                print(f"Training resumes after epoch {state.epoch}, where it was interrupted.")
                self.path, self.state = path, state
                self.restore()

    def restore(self):
        """Put the network into the last state, and write the file, which may be older."""
        for variable, array in zip(self.variables, self.state.arrays, strict=True):
            variable.assign(array)
        if self.path and self.state.epoch:
            self._write()

    def on_train_begin(self, logs=None):
        self.history.history = copy.deepcopy(self.state.history)
        self.history.epoch = list(range(self.state.epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.state = self._now(epoch + 1)
        if self.path:
            self._write()

    def on_train_end(self, logs=None):
        if self.path:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _write(self):
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        arrays, *progress = self.state
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez(file, *arrays, progress=json.dumps(progress, default=float))
            temporary.replace(self.path)
        except OSError as error:
            if not self.warned:
                tqdm.write(f"Training continues, but its checkpoint cannot be written: {error}.")
            self.warned = True
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _read(path, like):
    """The state in a file, or None if it is damaged; ``like`` are arrays of the same shapes."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = [file[f"arr_{i}"].reshape(array.shape) for i, array in enumerate(like)]
            return _State(arrays, *json.loads(str(file["progress"])))
    except Exception as error:  # a damaged file can fail in any way
        print(f"Training restarts: the checkpoint {path} cannot be read ({error}).")
        return None


def configuration_of(model, x_train, x_val, settings, compiler, callbacks, task):
    """What a training's weights depend on, but for the initial ones, the machine and the epochs."""
    return {
        "model": json.dumps(model.get_config(), default=str),
        "images": [_sha256(x_train), _sha256(x_val)],
        "settings": [settings.batch_size, settings.seed, compiler, settings.loss, _options(task)],
        "learning_rate": str(keras.saving.serialize_keras_object(settings.learning_rate)),
        "callbacks": [_options(callback) for callback in callbacks],
        "versions": [version("tensorflow"), version("keras")],
    }


def _options(thing, inside=()):
    """What a callback or a task was made with, its functions' code included, but not its state."""
    if any(thing is outer for outer in inside):
        return "itself"

    def of(part):
        return _options(part, (*inside, thing))

    if isinstance(thing, dict):
        return {str(name): of(value) for name, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [of(value) for value in thing]
    if isinstance(thing, set | frozenset):
        return sorted(map(repr, thing))  # their order differs from process to process
    if isinstance(thing, functools.partial):
        return of([thing.func, thing.args, thing.keywords])
    if isinstance(thing, types.MethodType):
        return of([thing.__func__, thing.__self__])
    if isinstance(thing, types.FunctionType):
        seen = inspect.getclosurevars(thing)
        names = {**seen.nonlocals, **seen.globals}
        plain = {name: value for name, value in names.items() if isinstance(value, PLAIN)}
        more = thing.__defaults__, thing.__kwdefaults__, getattr(thing, "__wrapped__", None)
        return [_code(thing.__code__), of(plain), of(more)]
    if hasattr(thing, "__wrapped__"):  # a tf.function or a static method, for example
        return of(thing.__wrapped__)
    if isinstance(thing, PLAIN) or not hasattr(thing, "__dict__"):
        return repr(thing)
    classes = type(thing).__mro__[:-1]
    inits = [c.__init__ for c in classes if isinstance(c.__init__, types.FunctionType)]
    made_with = {name for init in inits for name in inspect.signature(init).parameters}
    told = {name: value for name, value in vars(thing).items() if name in made_with}
    if isinstance(told.get("min_delta"), float | int):
        told["min_delta"] = abs(told["min_delta"])  # Keras negates it in training
    return [type(thing).__name__, of(told), [of(_shared(each)) for each in classes]]


def _shared(each):
    """What the instances of a class share: its functions, and its public constants."""
    return {
        name: value
        for name, value in vars(each).items()
        if isinstance(value, types.FunctionType)
        or hasattr(value, "__wrapped__")
        or (isinstance(value, PLAIN) and not name.startswith("_"))
    }


def _code(code):
    """A function's code, without the place where it stands."""
    constants = [_code(c) if isinstance(c, types.CodeType) else _options(c) for c in code.co_consts]
    return [code.co_code.hex(), constants, code.co_names]


def _digest(values):
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _sha256(x):
    return f"{x.dtype} {x.shape} {hashlib.sha256(np.ascontiguousarray(x)).hexdigest()}"
