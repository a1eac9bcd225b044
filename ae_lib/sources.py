"""Images and labels as people keep them: .npz, .npy, .csv, IDX files, folders of pictures.

`read` reads them as they are, and `understand` makes grey images of them, and says what it did.
Nothing is unpickled, and what unpacks to more than `MOST_BYTES`, or to more than `MOST_RATIO` times
the size of its file, is refused before it is read.
"""

import gzip
import io
import math
import re
import struct
import sys
import tokenize
import zipfile
import zlib

from ae_lib import StudyError

import numpy as np
from numpy.lib import format as npy
from PIL import Image, ImageOps
from tqdm import tqdm

MOST_BYTES, MOST_PIXELS = 4 * 2**30, 2**24  # of all images; of one picture, before it is resampled
MOST_RATIO, HARMLESS = 100, 2**26  # images pack 30 times at most; up to so many bytes any ratio
PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test", "t10k": "test",
}  # fmt: skip
IMAGES = {"x", "image", "images", "data", "pixels", "features", "arr"}
LABELS = {"y", "label", "labels", "target", "targets", "class", "classes"}
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
COLOUR = "Colour became grey: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), white where transparent."
SIDES = 8, 96  # the least and the greatest height and width of an image
LIGHT = 200  # at which half of the outermost pixels show dark ink on a light ground
SLACK = 1.001  # by which rounding may lift a range
DAMAGE = (  # what the readers of damaged files raise
    ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read(path, image_size=None):
    """Read a file or a folder: part to images and labels, these None without any; and notes.

    Parts are "train", "val" and "test", or "all" if it makes no difference. Images are numbers of
    shape (n, h, w), (n, h, w, c) or (n, pixels); those of a folder are grey, uint8, (n, h, w), and
    resampled to an ``image_size``, (height, width), if there is one; the notes say so, a list of
    sentences. `StudyError` says what cannot be read, and why.
    """
    notes = []
    try:
        if path.is_dir():
            return _folder(path, image_size, notes), notes
        if path.suffix == ".npz":
            return _npz(path), notes
        if path.suffix == ".csv":
            return {"all": _csv(path, image_size)}, notes
        if path.suffix == ".npy" or _is_idx(path):
            reader = _npy if path.suffix == ".npy" else _idx
            return {"all": (reader(path), _beside(path, reader))}, notes
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _refusal(path, reason) from error
    raise _refusal(path, f"its name ends in {path.suffix!r}")


def understand(found, where, image_size=None):
    """Make grey images, uint8 (n, h, w), and labels, integers or text (n,), of what was `read`.

    Returns part to images, part to labels, these zeros if there are none, and notes: what was done,
    in sentences. Values are scaled by the range of all parts: 0 to 1, 16, 255 or 65,535. Colour
    becomes grey as `grey` says. ``where`` names the images in a `StudyError`, which says what is
    wrong with them, and ``image_size``, (height, width), may tell rows of pixels apart.
    """
    notes = []
    images = {part: _as_pictures(x, where, image_size) for part, (x, _) in found.items()}
    labels = {part: y for part, (_, y) in found.items()}
    missing = [part for part, y in labels.items() if y is None]
    if len(missing) == len(labels):
        notes.append("There are no labels.")
        labels = {part: np.zeros(len(x), "int64") for part, x in images.items()}
    elif missing:
        raise StudyError(
            f"{where} has labels, but not for its {missing[0]} images; expected labels for all "
            "or for none: add them, or leave them out."
        )
    labels = {part: _as_labels(y, len(images[part]), where) for part, y in labels.items()}
    if len({y.dtype.kind in "iu" for y in labels.values()}) > 1:
        raise StudyError(f"The labels of {where} are numbers and text; expected one: change them.")
    low, high = min(x.min() for x in images.values()), max(x.max() for x in images.values())
    if not (0 <= low < high <= 65_535 * SLACK):
        raise StudyError(
            f"The pixels of {where} range from {low:g} to {high:g}; expected finite numbers that "
            "differ, from 0 to 1, 16, 255 or 65,535: undo their standardisation, or, if floats in "
            "[0, 1] were cast to integers, multiply them by 255 first."
        )
    top = next(top for top in (1, 16, 255, 65_535) if high <= top * SLACK)
    if top != 255:
        notes.append(f"Pixel values from 0 to {top:,} were scaled to 0 to 255.")
    images = {part: _as_bytes(x, 255 / top) for part, x in images.items()}
    if any(x.ndim == 4 for x in images.values()):
        notes.append(COLOUR)
        images = {part: _as_grey(x) for part, x in images.items()}
    x = images.get("train", next(iter(images.values())))
    rim = [x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]]
    if np.median(np.concatenate(rim, axis=1)) >= LIGHT:
        notes.append(f"Dark on light was inverted: half of the rim's pixels are {LIGHT} or above.")
        images = {part: 255 - x for part, x in images.items()}
    return images, labels, notes


def of_size(images, image_size, where, notes):
    """Resample images of `understand` to another (height, width), if there is one; and check it.

    Returns part to images, and their (height, width); ``notes`` says it. `StudyError` if a side is
    not from 8 to 96 pixels.
    """
    shapes = {x.shape[1:] for x in images.values()}
    shape = shapes.pop()
    if not image_size and shapes:
        raise StudyError(
            f"The images of {where} have {shape[0]} × {shape[1]} pixels and other sizes; expected "
            "one: give image_size, to which they are resampled."
        )
    if image_size and {shape, *shapes} != {image_size}:
        notes.append(
            "The images were resampled from {} × {} to {} × {} pixels.".format(*shape, *image_size)
        )
        images = {part: resampled(x, image_size) for part, x in images.items()}
        shape = image_size
    if not SIDES[0] <= min(shape) <= max(shape) <= SIDES[1]:
        raise StudyError(
            f"The images of {where} have {shape[0]} × {shape[1]} pixels; expected {SIDES[0]} to "
            f"{SIDES[1]} on each side: give another image_size, to which they are resampled."
        )
    return images, shape


def _as_pictures(x, where, image_size):
    x = np.asarray(x)
    if x.dtype.kind not in "biuf" or not x.size or not x.ndim:
        raise StudyError(
            f"The images of {where} are {x.dtype} of shape {x.shape}; expected numbers, and at "
            "least one image: convert them."
        )
    pixels = x.shape[1] if x.ndim == 2 else 0
    if image_size and math.prod(image_size) == pixels:
        return x.reshape(-1, *image_size)
    if math.isqrt(pixels) ** 2 == pixels > 0:
        return x.reshape(-1, math.isqrt(pixels), math.isqrt(pixels))
    if x.ndim == 4 and x.shape[1] in (1, 3, 4) and x.shape[3] not in (1, 3, 4):
        x = np.moveaxis(x, 1, 3)  # channels first
    if x.ndim == 4 and x.shape[3] == 1:
        x = x[..., 0]
    if x.ndim not in (3, 4) or x.shape[3:] not in ((), (3,), (4,)):
        raise StudyError(
            f"The images of {where} have shape {x.shape}; expected (n, height, width), with 1, 3 "
            "or 4 channels or none, or (n, pixels) of square images, or of those of image_size: "
            "reshape them."
        )
    return x


def _as_labels(y, count, where):
    y = np.asarray(y)
    y = y[:, 0] if y.shape == (count, 1) else y
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y.flat):
        y = y.astype(str)  # pandas has text so
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        y = y.astype("int64")
    if y.shape != (count,) or y.dtype.kind not in "biuSU":
        raise StudyError(
            f"The labels of {where} are {y.dtype} of shape {y.shape}; expected integers or text of "
            f"shape ({count},), one label for each image: reduce one-hot rows by argmax(axis=1)."
        )
    kinds = {"b": "int64", "i": "int64", "S": str}
    return y.astype(kinds.get(y.dtype.kind, y.dtype))


def _as_bytes(x, factor):
    if x.dtype == np.uint8 and factor == 1:
        return x
    result = np.empty(x.shape, "uint8")
    for i in range(0, len(x), 1000):  # whose copies as float64 stay small
        result[i : i + 1000] = np.rint(x[i : i + 1000] * np.float64(factor)).clip(0, 255)
    return result


def _as_grey(x):
    return x if x.ndim == 3 else np.stack([grey(Image.fromarray(picture)) for picture in x])


def grey(picture):
    """A Pillow image as grey values, uint8, shape (h, w).

    As `COLOUR` says; white is what a viewer shows of what is transparent. More than 8 bits are
    rounded to 8.
    """
    if picture.mode[0] in "IF":  # Pillow itself would clip them
        values = np.asarray(picture, "float64")
        return np.rint(values / (257 if values.max() > 255 else 1)).clip(0, 255).astype("uint8")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("L"))


def resampled(images, size):
    """Images, shape (n, h, w), values 0 to 255, resampled to another (height, width); uint8.

    Bilinear, over as many pixels as one new pixel covers, and pixel areas aligned, so that strokes
    neither shift nor ring.
    """
    pictures = (Image.fromarray(np.asarray(image, "float32")) for image in images)
    scaled = [p.resize(size[::-1], Image.Resampling.BILINEAR) for p in pictures]
    return np.rint(np.stack(scaled)).clip(0, 255).astype("uint8")


def _refusal(path, reason):
    return StudyError(
        f"{path.name} cannot be read ({reason}); expected a complete .npz, .npy, .csv or IDX file "
        "(also .gz), or a folder of pictures or of IDX files, of plain numbers without pickled "
        "objects, which are never loaded: fetch it again, or convert it."
    )


def _check_size(path, needed):
    most = min(MOST_BYTES, max(HARMLESS, MOST_RATIO * path.stat().st_size))
    if needed > most:
        raise StudyError(
            f"{path.name} unpacks to {needed:,} bytes; expected at most {most:,}, "
            f"{MOST_RATIO} times its size and {MOST_BYTES // 2**30} GB in all: save fewer or "
            "smaller images."
        )


def _check_header(stream, size):
    """Refuse an array whose header says more than there is, for which memory would be taken."""
    stream = io.BytesIO(stream.read(2**16))  # even the header's length may be false
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("it has pickled objects")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"its header says {dtype} of shape {shape}, and it has {size:,} bytes")


def _npy(path):
    with path.open("rb") as stream:
        _check_header(stream, path.stat().st_size)
    return np.load(path, allow_pickle=False)


def _npz(path):
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("it is not a zip archive, or its end is missing")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_size(path, sum(member.file_size for member in members))
        arrays = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if _kind(name):  # others are left alone
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size)
                with archive.open(member) as stream:
                    arrays[name] = npy.read_array(stream, allow_pickle=False)
    return _by_part(arrays, ", ".join(member.filename for member in members))


def _kind(name):
    """Which part a name speaks of, and whether of its images, "x", or labels, "y"; or None."""
    words = {*re.findall("t10k|[a-z]+", name.lower())}
    kinds = [kind for kind, known in (("y", LABELS), ("x", IMAGES)) if known & words]
    return (next(map(PARTS.get, PARTS.keys() & words), "all"), kinds[0]) if kinds else None


def _by_part(arrays, names):
    """Parts from named arrays, by `_kind`; ``names`` are all, for the sentence if it fails."""
    kinds = [_kind(name) for name in arrays]
    found = dict(zip(kinds, arrays.values(), strict=True))
    parts = {
        part: (found[part, "x"], found.get((part, "y"))) for part, kind in found if kind == "x"
    }
    lost = {part for part, _ in found} - set(parts)  # labels without images
    if len(found) < len(kinds) or lost or not ({"train"} <= set(parts) or set(parts) == {"all"}):
        raise StudyError(
            f"The arrays are {names or 'none'}; expected x_train and y_train, with x_test and "
            "y_test; or x and y; or train_images, train_labels and so on; labels may be missing: "
            "rename them."
        )
    return parts


def _beside(path, reader):
    """The labels of a file of images, from the file beside it whose name says so, or None."""
    name = re.sub("images|^x(?=[_.])", lambda m: "y" if m[0] == "x" else "labels", path.name)
    name = name.replace("idx3", "idx1")
    labels = path.with_name(name if name != path.name else f"{path.stem}_labels{path.suffix}")
    return reader(labels) if labels.is_file() else None


def _is_idx(path):
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        magic = stream.read(4)
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in IDX_TYPES


def _idx(path):
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        *_, kind, dimensions = stream.read(4)
        shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
        dtype = np.dtype(IDX_TYPES[kind])
        needed = math.prod(shape) * dtype.itemsize
        _check_size(path, needed)
        content = stream.read(needed + 1)
    if len(content) != needed:
        raise ValueError(f"its header says shape {shape}, and the numbers are fewer or more")
    return np.frombuffer(content, dtype).reshape(shape)


def _csv(path, image_size):
    import pandas as pd

    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline().replace('"', "")
    mark = max(",;\t", key=line.count)
    numbers = re.findall(rf"(?:^|(?<={mark}))[-+.\deE]+(?={mark}|\s*$)", line)
    # "label, 0, 1, …" is what pandas writes over numbered pixels.
    counted = [str(i) for i in range(len(numbers) + 1)]
    header = line.count(mark) + 1 - len(numbers) > 1 or numbers in (counted[:-1], counted[1:])
    options = {"sep": mark, "header": 0 if header else None, "encoding": "utf-8-sig"}
    table = pd.read_csv(path, **options)
    table = table.drop(columns=[c for c in table if str(c).startswith("Unnamed")])  # a row number
    labels = [column for column in table if str(column).lower() in LABELS]
    pixels = {image_size and math.prod(image_size), math.isqrt(table.shape[1] - 1) ** 2}
    if not labels and table.shape[1] - 1 in pixels:  # one number more than an image has
        labels = [table.columns[0]]
    images = table.drop(columns=labels)
    if text := [str(column) for column in images if images[column].dtype.kind not in "biuf"]:
        raise ValueError(f"its column {text[0]} is not of numbers")
    return images.to_numpy(), table[labels[0]].to_numpy() if labels else None


def _entries(folder):
    return sorted(entry for entry in folder.iterdir() if entry.name[0] != ".")


def _folder(path, image_size, notes):
    entries = _entries(path)
    folders = [entry for entry in entries if entry.is_dir()]
    others = [e for e in entries if e not in folders and e.suffix.lower() not in PICTURES]
    if arrays := [file for file in others if _is_idx(file)]:
        return _by_part({file.name: _idx(file) for file in arrays}, ", ".join(map(str, arrays)))
    if folders and {folder.name.lower() for folder in folders} <= set(PARTS):
        return {PARTS[f.name.lower()]: _pictures(f, image_size, notes) for f in folders}
    return {"all": _pictures(path, image_size, notes)}


def _pictures(folder, image_size, notes):
    """The pictures of a folder, flat, or in one sub-folder for each class."""
    flat = [file for file in _entries(folder) if file.suffix.lower() in PICTURES]
    classes = [entry for entry in _entries(folder) if entry.is_dir()]
    if flat and classes:
        raise ValueError(f"{folder.name} has pictures beside its sub-folders")
    within = [(f, c.name) for c in classes for f in _entries(c) if f.suffix.lower() in PICTURES]
    pairs = within or [(file, None) for file in flat]
    if not pairs:
        raise ValueError(f"{folder.name} has no pictures")
    bar = tqdm(pairs, folder.name, unit=" pictures", delay=2, leave=False, file=sys.stdout)
    images, told = zip(*(_picture(file, image_size) for file, _ in bar), strict=True)
    notes += sorted(set().union(*told) - set(notes))
    if len(sizes := {image.shape for image in images}) > 1:
        some = " and ".join(f"{h} × {w}" for h, w in sorted(sizes)[:2])
        raise ValueError(f"its pictures have {len(sizes)} sizes, such as {some}; give image_size")
    names = [name for _, name in within]
    integers = all(re.fullmatch("-?[0-9]{1,18}", name) for name in set(names))
    return np.stack(images), np.array(names, "int64" if integers else str) if names else None


def _picture(file, image_size):
    """A picture's grey values, and what was done to it, a set of sentences."""
    told = set()
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"more than {MOST_PIXELS:,} pixels")
            if picture.mode[0] not in "1LIF":
                told.add(COLOUR)
            image = grey(ImageOps.exif_transpose(picture))
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise ValueError(f"{file.name}: {error}") from error
    if image_size in (None, image.shape):
        return image, told
    told.add("Pictures of other sizes were resampled to {} × {} pixels.".format(*image_size))
    return resampled(image[None], image_size)[0], told
