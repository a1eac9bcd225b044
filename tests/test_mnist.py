"""On the real MNIST, where it is at hand (`make validate`): the same weights from every process, killed or not."""

import os
import random
import subprocess
import sys
import time

from ae_lib import data

import pytest

ENVIRONMENT = dict(os.environ)  # before the tests' own settings, which hide MNIST from the others
pytestmark = pytest.mark.skipif(data.local_file("mnist") is None, reason="MNIST is not at hand")

TRAINING = """
import hashlib, sys
from ae_lib import data, models, training
import keras
images = data.load("mnist")
keras.utils.set_random_seed(0)
network = models.dense_autoencoder().autoencoder
training.fit(network, images.pixels_train, images.pixels_val, training.Settings(epochs=8), checkpoint_folder=sys.argv[1])
print(hashlib.sha256(b"".join(w.tobytes() for w in network.get_weights())).hexdigest())
"""


def train(folder, kill_after=None):
    """The last line that the process printed: the weights' SHA-256, or what it showed before it was killed."""
    lines, command = [], [sys.executable, "-c", TRAINING, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        for line in process.stdout:
            lines.append(line.strip())
            if kill_after is not None and line.startswith("epoch"):
                time.sleep(kill_after)
                process.kill()
                kill_after = None
    return lines[-1]


def test_three_processes_and_three_kills_end_with_the_same_weights(tmp_path):
    sums = {train(tmp_path / str(i)) for i in range(3)}
    assert len(sums) == 1
    (expected,) = sums
    assert len(expected) == 64
    moments = [
        random.uniform(0, 2) for _ in range(3)
    ]  # seconds after its first epoch, which is about two epochs
    for moment in moments:
        assert train(tmp_path / "killed", kill_after=moment).startswith("epoch"), moments
    assert train(tmp_path / "killed") == expected, moments
