"""A trained model on one's own files: ``python -m ae_lib COMMAND FILE… --model M --output F``."""

import argparse
import io
import sys
from pathlib import Path

from ae_lib import StudyError, sources
from ae_lib.data import as_flat_images
from ae_lib.run import explained_write_errors, write_bytes

import numpy as np
import pandas as pd
from tqdm import tqdm

PART = 5000  # images between two updates of the progress bar

COMMANDS = {
    "encode": "codes of images, float32 (n, d), as .npy",
    "reconstruct": "reconstructions of images, float32 (n, pixels) in [0, 1], as .npy",
    "score": "the squared error of each image, and its p-value if --normal is given, as .csv",
    "compress": "images as one stream of bytes",
    "decompress": "the images of a stream, float32 (n, pixels) in [0, 1], as .npy",
}


def read_images(files, size):
    """Read files or folders, as `ae_lib.sources` does, one after another: uint8 (n, pixels)."""
    parts, size = [], size and tuple(size)
    for name in files:
        path = Path(name)
        if not path.exists():
            raise StudyError(f"{name} does not exist; expected a file or folder of images.")
        found, notes = sources.read(path, size)
        images, _, more = sources.understand(found, name, size)
        notes += more
        images, _ = sources.of_size(images, size, name, notes)
        for note in notes:
            print(f"{name}: {note}", file=sys.stderr)
        parts += [x.reshape(len(x), -1) for x in images.values()]
    if len(sizes := {x.shape[1] for x in parts}) > 1:
        raise StudyError(
            f"The files have images of {' and '.join(map(str, sorted(sizes)))} pixels; expected "
            "one size: give --image-size."
        )
    return np.concatenate(parts)


def in_parts(function, images, what):
    """A function of float32 images for all of them, with a progress bar on a terminal."""
    starts = tqdm(range(0, len(images), PART), what, unit_scale=PART, unit=" images", disable=None)
    return np.concatenate([function(as_flat_images(images[i : i + PART])) for i in starts])


def load_model(path, images):
    """The autoencoder in a Keras file; `StudyError` if it is for images of another size."""
    from ae_lib import models

    model = models.load(path)
    if model.encoder.input_shape[1] != images.shape[1]:
        raise StudyError(
            f"The images have {images.shape[1]} pixels, and the model takes "
            f"{model.encoder.input_shape[1]}; expected the same: give --image-size, or another "
            "model."
        )
    return model


def encode(arguments):
    from ae_lib.models import predict_in_batches

    images = read_images(arguments.files, arguments.image_size)
    encoder = load_model(arguments.model, images).encoder
    return as_npy(in_parts(lambda x: predict_in_batches(encoder, x), images, "encode"))


def reconstruct(arguments):
    from ae_lib.models import predict_in_batches

    images = read_images(arguments.files, arguments.image_size)
    network = load_model(arguments.model, images).autoencoder
    return as_npy(in_parts(lambda x: predict_in_batches(network, x), images, "reconstruct"))


def score(arguments):
    from ae_lib.analysis.anomaly import p_values
    from ae_lib.metrics import mse
    from ae_lib.models import predict_in_batches

    images = read_images(arguments.files, arguments.image_size)
    network = load_model(arguments.model, images).autoencoder

    def errors(x):
        return mse(x, predict_in_batches(network, x))

    table = pd.DataFrame({"mse": in_parts(errors, images, "score")}).rename_axis("image")
    if arguments.normal:
        normal = in_parts(
            errors, read_images([arguments.normal], arguments.image_size), "score normal images"
        )
        table["p_value"] = p_values(table["mse"].to_numpy(), normal)
    return table.to_csv().encode()


def compress(arguments):
    from ae_lib.analysis import codec

    images = read_images(arguments.files, arguments.image_size)
    return codec.compress(images, codec.load(arguments.model), arguments.step)


def decompress(arguments):
    from ae_lib.analysis import codec

    if len(arguments.files) > 1:
        raise StudyError("decompress takes one stream; expected one FILE: call it for each.")
    try:
        stream = Path(arguments.files[0]).read_bytes()
    except OSError as error:
        raise StudyError(f"{arguments.files[0]} cannot be read ({error.strerror}).") from error
    return as_npy(codec.decompress(stream, codec.load(arguments.model)))


def as_npy(array):
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def main(arguments=None):
    """Run a command; returns the exit code: 0, 1 for a user's mistake, 130 if interrupted."""
    parser = argparse.ArgumentParser("python -m ae_lib", description=__doc__.partition(":")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, output in COMMANDS.items():
        command = commands.add_parser(name, help=f"write {output}")
        command.add_argument("files", nargs="+", metavar="FILE", help="of images, or a folder")
        kind = "codec, an .npz of 07_compress_images" if "compress" in name else "model, .keras"
        command.add_argument("--model", required=True, help=f"the trained {kind}")
        command.add_argument("--output", required=True, help="the file to write")
        if name != "decompress":
            size = {"nargs": 2, "type": int, "metavar": ("HEIGHT", "WIDTH")}
            command.add_argument("--image-size", help="to which images are resampled", **size)
        if name == "score":
            command.add_argument("--normal", metavar="FILE", help="normal images, not trained on")
        if name == "compress":
            command.add_argument("--step", type=float, default=1.0, help="larger: fewer bytes")
    parsed = parser.parse_args(arguments)
    try:
        content = globals()[parsed.command](parsed)
        with explained_write_errors(Path(parsed.output).parent):
            write_bytes(parsed.output, content)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
