"""Files of every form give the same images; what is wrong with a file is said in one sentence."""

import gzip
import io
import struct
import zipfile

from ae_lib import StudyError, data, sources

import numpy as np
import pandas as pd
import pytest
from PIL import Image

N = 200


@pytest.fixture(scope="module")
def digits_200():
    loaded = data.load("digits")
    return loaded.pixels_train[:N].reshape(-1, 28, 28), loaded.y_train[:N]


def idx(array):
    kind = 0x08 if array.dtype == np.uint8 else 0x0C
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return header + array.astype("u1" if kind == 0x08 else ">i4").tobytes()


def as_npz(folder, x, y):
    np.savez_compressed(folder / "own.npz", x=x, y=y)
    return "own.npz"


def as_npy(folder, x, y):
    np.save(folder / "own.npy", x[..., None])  # one channel
    np.save(folder / "own_labels.npy", y[:, None])
    return "own.npy"


def as_floats(folder, x, y):
    np.savez(folder / "own.npz", images=x / 255, labels=y.astype("float64"))
    return "own"


def as_kaggle_csv(folder, x, y):
    table = pd.DataFrame(x.reshape(len(x), -1)).add_prefix("pixel")
    table.insert(0, "label", y)
    table.to_csv(folder / "own.csv", index=False)
    return "own.csv"


def as_plain_csv(folder, x, y):
    np.savetxt(folder / "own.csv", np.column_stack([y, x.reshape(len(x), -1)]), "%d", ",")
    return "own.csv"


def as_idx(folder, x, y):
    (folder / "own-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x)))
    (folder / "own-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y.astype("int32"))))
    return "own-images-idx3-ubyte.gz"


def as_pictures(folder, x, y):
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        (folder / "own" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "own" / str(label) / f"{i}.png")
    return "own"


def as_colour_pictures(folder, x, y):
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        (folder / "own" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(folder / "own" / str(label) / f"{i}.bmp")
    return "own"


FORMS = [
    as_npz, as_npy, as_floats, as_kaggle_csv, as_plain_csv, as_idx, as_pictures, as_colour_pictures,
]  # fmt: skip


@pytest.mark.parametrize("write", FORMS)
def test_every_form_gives_the_same_arrays(data_dir, digits_200, write):
    x, y = digits_200
    own = data.load(write(data_dir, x, y))
    np.savez(data_dir / "expected.npz", x=x[::-1], y=y[::-1])  # in another order
    expected = data.load("expected")
    for part in ("pixels_train", "y_train", "pixels_val", "y_val", "pixels_test", "y_test"):
        np.testing.assert_array_equal(getattr(own, part), getattr(expected, part), strict=True)
    assert own.md5 == expected.md5
    assert own.shape == (28, 28)
    assert own.title == "own (not MNIST)" or "own-images" in own.title


def test_medmnists_form_has_its_own_validation_images(data_dir, digits_200):
    x, y = digits_200
    np.savez(data_dir / "expected.npz", x=x, y=y)
    expected = data.load("expected")
    parts = {}
    for part in ("train", "val", "test"):
        pixels = getattr(expected, f"pixels_{part}").reshape(-1, 28, 28)
        parts[f"{part}_images"] = np.repeat(pixels[..., None], 3, axis=3)  # in colour
        parts[f"{part}_labels"] = getattr(expected, f"y_{part}")[:, None]
    np.savez(data_dir / "med.npz", **parts)
    own = data.load("med")
    for part in ("pixels_train", "y_train", "pixels_val", "y_val", "pixels_test", "y_test"):
        np.testing.assert_array_equal(getattr(own, part), getattr(expected, part), strict=True)
    assert any("ITU-R BT.601" in note for note in own.notes)


def test_classes_of_sorted_images_are_in_every_split(data_dir, digits_200):
    x, y = digits_200
    order = np.argsort(y, kind="stable")
    np.savez(data_dir / "own.npz", x_train=x[order], y_train=y[order], x_test=x[:20], y_test=y[:20])
    own = data.load("own")
    shares = [
        np.bincount(labels, minlength=10) / len(labels) for labels in (own.y_train, own.y_val)
    ]
    np.testing.assert_allclose(*shares, atol=0.04)
    assert len(own.y_val) == N // 6
    assert "each class in proportion" in repr(own)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (lambda y: y + 1, np.arange(1, 11)),
        (lambda y: 3 * y - 7, 3 * np.arange(10) - 7),
        (lambda y: np.array(list("abcdefghij"))[y], np.array(list("abcdefghij"))),
        (lambda y: y.astype("float32"), np.arange(10)),
    ],
)
def test_labels_may_be_any_integers_or_text(data_dir, digits_200, names, classes):
    x, y = digits_200
    np.savez(data_dir / "own.npz", x=x, y=names(y))
    own = data.load("own")
    np.testing.assert_array_equal(own.classes, classes)
    np.savez(data_dir / "own.npz", x=x, y=y)
    np.testing.assert_array_equal(own.y_test, data.load("own").y_test)


def test_images_without_labels_are_one_class(data_dir, digits_200):
    np.savez(data_dir / "own.npz", x=digits_200[0])
    own = data.load("own")
    assert "There are no labels." in own.notes
    assert len(own.everywhere) == 1


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda x: np.rint(x / 255 * 16), "from 0 to 16 were scaled"),
        (lambda x: x > 127, "from 0 to 1 were scaled"),
        (lambda x: x / 255.0, "from 0 to 1 were scaled"),
        (lambda x: x.astype("uint16") * 257, "from 0 to 65,535 were scaled"),
        (lambda x: 255 - x, "Dark on light was inverted"),
        (lambda x: np.moveaxis(np.repeat(x[..., None], 3, 3), 3, 1), "Colour became grey"),
    ],
)
def test_what_was_understood_is_said(data_dir, digits_200, change, note):
    x, y = digits_200
    np.savez(data_dir / "own.npz", x=x, y=y)
    expected = data.load("own")
    np.savez(data_dir / "own.npz", x=change(x), y=y)
    own = data.load("own")
    assert any(note in each for each in own.notes)
    # All images, whose order by content is another one after rounding.
    means = [
        np.sort(np.concatenate([d.x_train, d.x_val, d.x_test]).mean(axis=1))
        for d in (own, expected)
    ]
    np.testing.assert_allclose(
        *means, atol=0.5 if "0 to 1 " in note and change(x).dtype == bool else 0.01
    )


@pytest.mark.parametrize("size", [(8, 8), (20, 30), (64, 64)])
def test_images_are_resampled(data_dir, digits_200, size):
    x, y = digits_200
    np.savez(data_dir / "own.npz", x=x, y=y)
    own = data.load("own", image_size=list(size))
    assert own.shape == size
    assert own.pixels_train.shape[1] == size[0] * size[1]
    assert f"to {size[0]} × {size[1]} pixels" in repr(own)
    pictures = as_pictures(data_dir, x, y)
    (data_dir / "own.npz").unlink()
    folder = data.load(pictures, image_size=size)
    assert f"were resampled to {size[0]} × {size[1]} pixels" in repr(folder)
    np.testing.assert_array_equal(folder.pixels_train, own.pixels_train)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((30, 28, 28))}, "range from 0 to 0; expected finite numbers that differ"),
        ({"x": np.random.default_rng(0).normal(size=(30, 28, 28))}, "undo their standardisation"),
        ({"x": np.full((30, 28, 28), np.nan)}, "range from nan to nan"),
        ({"x": np.ones((30, 28, 28, 2))}, r"have shape \(30, 28, 28, 2\).*reshape"),
        ({"x": np.arange(30 * 10).reshape(30, 10) % 255}, r"shape \(30, 10\)"),
        ({"x": np.array(["a", "b"])}, "are <U1 of shape"),
        ({"x": np.arange(40 * 49).reshape(40, 7, 7) % 255}, r"7 × 7 pixels; expected 8 to 96"),
        ({"x": np.arange(3 * 9409).reshape(3, 97, 97) % 255}, "give another image_size"),
        ({"x": np.eye(28)[None].repeat(30, 0), "y": np.eye(30)}, "argmax"),
        ({"x": np.eye(28)[None].repeat(30, 0), "y": np.arange(30) + 0.5}, "one label for each"),
        ({"a": np.eye(28)}, "The arrays are a.npy; expected x_train"),
        ({"x_train": np.eye(28)[None].repeat(30, 0), "y_train": np.arange(30) % 2,
          "x_test": np.eye(28)[None]}, "not for its test images"),
        ({"x": np.eye(28)[None].repeat(30, 0), "images": np.eye(28)}, "The arrays are"),
        ({"x_train": np.eye(28)[None].repeat(30, 0), "x_test": np.eye(20)[None].repeat(30, 0)},
         "and other sizes; expected one: give image_size"),
        ({"x": np.eye(28)[None]}, "0 of 1 images would be for test"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_sentence(data_dir, arrays, message):
    np.savez(data_dir / "own.npz", **arrays)
    with pytest.raises(StudyError, match=message):
        data.load("own")


@pytest.mark.parametrize(
    ("options", "column", "names"),
    [
        ({"index": False, "header": False}, 0, np.array(list("abcdefghij"))),
        ({"index": False}, 784, np.arange(10)),
        ({}, 0, np.arange(10)),  # with a column of row numbers
        ({"index": False, "sep": ";"}, 0, np.arange(10)),
        ({"index": False, "header": False, "quoting": 1}, 0, np.arange(10)),
    ],
)
def test_csv_files_of_every_kind_keep_all_images(data_dir, digits_200, options, column, names):
    x, y = digits_200
    table = pd.DataFrame(x.reshape(N, -1))
    table.insert(column, "class", names[y])
    table.to_csv(data_dir / "own.csv", **options)
    own = data.load("own.csv")
    together = np.concatenate([own.pixels_train, own.pixels_val, own.pixels_test])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(x.reshape(N, -1), axis=0))
    np.testing.assert_array_equal(own.classes, names)


def test_no_part_is_empty_however_few_images_a_class_has(data_dir, digits_200):
    x, y = digits_200
    np.savez(data_dir / "own.npz", x=x[:20], y=np.arange(20))
    own = data.load("own")
    assert (len(own.y_train), len(own.y_val), len(own.y_test)) == (15, 3, 2)
    assert "has no training image" in repr(own)
    np.savez(data_dir / "own.npz", x=x, y=np.where(np.arange(N) == 100, 7, 0))
    assert 7 in data.load("own").classes[data.load("own").y_train], "its only image is for training"


def test_a_class_without_pictures_is_no_class(data_dir, digits_200):
    folder = data_dir / as_pictures(data_dir, *digits_200)
    (folder / "empty").mkdir()
    np.testing.assert_array_equal(data.load("own").classes, np.arange(10))


@pytest.mark.parametrize("size", [28, [28], [28, 28, 1], "28"])
def test_an_image_size_is_two_numbers(size):
    with pytest.raises(StudyError, match=r"image_size is .*; expected \[height, width\]"):
        data.load("digits", image_size=size)


def test_pictures_of_different_sizes_ask_for_a_size(data_dir):
    (data_dir / "own").mkdir()
    for i in range(30):
        Image.fromarray(np.eye(20 + i % 2, dtype="uint8") * 255).save(data_dir / "own" / f"{i}.png")
    with pytest.raises(StudyError, match="2 sizes, such as 20 × 20 and 21 × 21; give image_size"):
        data.load("own")
    assert data.load("own", image_size=(20, 20)).shape == (20, 20)


def test_what_is_transparent_shows_white(data_dir):
    picture = np.zeros((28, 28, 4), "uint8")
    picture[10:18, 10:18, 3] = 255  # black ink on nothing
    Image.fromarray(picture).save(data_dir / "ink.png")
    with Image.open(data_dir / "ink.png") as opened:
        grey = sources.grey(opened)
    assert (grey[0, 0], grey[12, 12]) == (255, 0)


def test_sixteen_bits_are_rounded_to_eight(data_dir):
    Image.fromarray(np.full((8, 8), 40_000, "uint16")).save(data_dir / "deep.png")
    with Image.open(data_dir / "deep.png") as opened:
        assert sources.grey(opened)[0, 0] == round(40_000 / 257)


def test_a_zip_bomb_is_refused_before_it_is_read(data_dir):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1)}
    )
    with (
        zipfile.ZipFile(data_dir / "own.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(10):
            member.write(bytes(10**8))
    with pytest.raises(StudyError, match="unpacks to 1,000,000,1.* bytes; expected at most"):
        data.load("own")


def test_a_header_cannot_ask_for_memory(data_dir):
    with (data_dir / "own.npy").open("wb") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(file, about)
        file.write(bytes(1000))
    with pytest.raises(StudyError, match=r"its header says uint8 of shape .* and it has"):
        data.load("own.npy")
    (data_dir / "own.gz").write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *[60_000] * 3)))
    with pytest.raises(StudyError, match="unpacks to .* bytes; expected at most"):
        data.load("own.gz")


def test_a_damaged_picture_is_named(data_dir, digits_200):
    folder = data_dir / as_pictures(data_dir, *digits_200)
    next((folder / "3").iterdir()).write_bytes(b"\x89PNG\r\n")
    with pytest.raises(StudyError, match="own cannot be read .*png"):
        data.load("own")


def test_folders_may_be_parts(data_dir, digits_200):
    x, y = digits_200
    for part, chosen in (("train", slice(150)), ("test", slice(150, N))):
        (data_dir / "own").mkdir(exist_ok=True)
        (data_dir / as_pictures(data_dir / "own", x[chosen], y[chosen]))
        (data_dir / "own" / "own").rename(data_dir / "own" / part)
    own = data.load("own")
    assert len(own.y_test) == 50
    assert len(own.y_train) + len(own.y_val) == 150
