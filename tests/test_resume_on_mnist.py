"""On MNIST, where it is at hand: every process has the same weights, killed or not."""

import os
import random
import signal
import subprocess
import sys
import time

from ae_lib import data

import pytest

# Before the tests' own settings, which hide MNIST from the others; and with all cores, where a sum
# could depend on which thread comes first.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS")}
pytestmark = pytest.mark.skipif(data.local_file("mnist") is None, reason="MNIST is not at hand")

TRAINING = """
import hashlib, sys
from ae_lib import data, models, training
import keras
images = data.load("mnist")
keras.utils.set_random_seed(0)
network = models.dense_autoencoder().autoencoder
parts = images.pixels_train, images.pixels_val
training.fit(network, *parts, training.Settings(epochs=8), checkpoint_folder=sys.argv[1])
print(hashlib.sha256(b"".join(w.tobytes() for w in network.get_weights())).hexdigest())
"""


def train(folder, kill_after=None):
    """The weights' SHA-256, unless the process is killed seconds after its first checkpoint."""
    command = [sys.executable, "-c", TRAINING, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        if kill_after is not None:
            before = modified(folder)
            while modified(folder) == before and process.poll() is None:
                time.sleep(0.1)
            time.sleep(kill_after)
            process.kill()
        return process.stdout.read().splitlines()[-1:], process.wait()


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}


def test_three_processes_and_three_kills_end_with_the_same_weights(tmp_path):
    digests = [train(tmp_path / str(i))[0] for i in range(3)]
    assert digests[0] == digests[1] == digests[2]
    assert len(digests[0][0]) == 64
    moments = [random.uniform(0, 2) for _ in range(3)]  # seconds, which are about two epochs
    for moment in moments:
        _, code = train(tmp_path / "killed", kill_after=moment)
        assert code == -signal.SIGKILL, moments
        assert list((tmp_path / "killed").glob("*.npz")), moments
    assert train(tmp_path / "killed")[0] == digests[0], moments
