"""Loading, checking, scaling and splitting; every bad input names what was found and what to do."""

import gzip

from ae_lib import StudyError, data

import numpy as np
import pytest


def test_digits_are_split_by_the_published_rule(digits):
    assert [len(x) for x in (digits.x_val, digits.x_train, digits.x_test)] == [300, 1200, 297]
    from sklearn.datasets import load_digits

    labels = load_digits().target
    np.testing.assert_array_equal(
        np.concatenate([digits.y_val, digits.y_train, digits.y_test]), labels
    )


def test_digits_are_resampled_in_place(digits):
    """Averaging the 28 × 28 image over the original's pixels gives back the original, nearly."""
    from sklearn.datasets import load_digits

    images = np.concatenate([digits.x_val, digits.x_train]).reshape(-1, 28, 28)
    fine = images.repeat(2, axis=1).repeat(2, axis=2)  # 56 is a multiple of 8
    coarse = fine.reshape(-1, 8, 7, 8, 7).mean(axis=(2, 4))
    original = load_digits().images[:1500] / 16
    assert np.corrcoef(coarse.ravel(), original.ravel())[0, 1] > 0.97
    assert abs(coarse.mean() - original.mean()) < 0.005


def test_images_are_scaled_and_flat(digits):
    for x in (digits.x_train, digits.x_val, digits.x_test):
        assert x.dtype == np.float32
        assert x.shape[1:] == (784,)
        assert x.min() == 0
        assert x.max() == 1


def test_repr_says_what_it_is(digits):
    assert "not MNIST" in repr(digits)
    assert "1,200 + 300 + 297" in repr(digits)


def test_own_file(data_dir, arrays):
    np.savez(data_dir / "mine.npz", **arrays)
    own = data.load("mine", validation_size=20)
    together = np.concatenate([own.pixels_train, own.pixels_val])
    given = arrays["x_train"].reshape(60, 784)
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(given, axis=0))
    np.testing.assert_array_equal(np.bincount(own.y_val), np.full(10, 2))
    assert len(data.load("mine").x_val) == 10
    assert own.title == "mine (not MNIST)"


def test_examples_are_one_of_each_class_or_ten_in_all(digits, data_dir, arrays):
    np.testing.assert_array_equal(digits.y_test[digits.examples(3)], np.arange(10))
    assert (digits.examples(3) != digits.examples(4)).any()
    np.savez(data_dir / "mine.npz", **{k: v % 3 if k[0] == "y" else v for k, v in arrays.items()})
    mine = data.load("mine")
    np.testing.assert_array_equal(np.bincount(mine.y_test[mine.examples()]), [4, 3, 3])
    np.testing.assert_array_equal(mine.everywhere, [0, 1, 2])


def test_idx_md5_follows_the_format():
    """The IDX example of one 2 × 2 image, byte by byte."""
    import hashlib

    stream = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4])
    assert data.idx_md5(np.array([[[1, 2], [3, 4]]], "uint8")) == hashlib.md5(stream).hexdigest()


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 28, 28, 1), (3, 784), (3, 49, 16)])
def test_as_flat_images_takes_every_layout(shape):
    images = np.full(shape, 51, "uint8")
    np.testing.assert_array_equal(data.as_flat_images(images), np.full((3, 784), np.float32(0.2)))
    np.testing.assert_array_equal(
        data.as_flat_images(images / 255), np.full((3, 784), np.float32(0.2))
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 28, 28, 3)), r"shape \(3, 28, 28, 3\); expected"),
        (np.zeros((0, 784)), "n of at least 1"),
        (np.zeros((3, 784), "int32"), "are int32 .*; expected uint8"),
        (np.zeros((3, 784), bool), "are bool .*; expected uint8"),
        (np.full((3, 784), 255.0), r"range from 255 to 255; expected .* in \[0, 1\]"),
        (np.full((3, 784), -0.1), r"from -0.1 to -0.1; expected .* in \[0, 1\]"),
        (np.full((3, 784), np.nan), "without NaN"),
        (np.full((3, 784), np.inf), r"from inf to inf; expected .* in \[0, 1\]"),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(StudyError, match=message):
        data.as_flat_images(images)


SHAPES = {
    "x_train": (60000, 28, 28),
    "y_train": (60000,),
    "x_test": (10000, 28, 28),
    "y_test": (10000,),
}


def test_altered_mnist_is_refused(data_dir):
    """Right shapes and dtypes, wrong pixels."""
    other = {key: np.zeros(shape, "uint8") for key, shape in SHAPES.items()}
    other["x_train"][0] = 255
    np.savez_compressed(data_dir / "mnist.npz", **other)
    with pytest.raises(StudyError, match=r"not the original MNIST \(MD5 .* fetch mnist.npz again"):
        data.load("mnist")


def test_mnist_with_labels_of_any_integer_type_is_the_original(data_dir, arrays, monkeypatch):
    md5 = {key: data.idx_md5(array.astype("uint8")) for key, array in arrays.items()}
    monkeypatch.setattr(data, "MNIST_MD5", md5)
    for dtype in ("uint8", "int32", ">i8"):
        labels = {key: arrays[key].astype(dtype) for key in ("y_train", "y_test")}
        np.savez(data_dir / "mnist.npz", **{**arrays, **labels})
        mnist = data.load("mnist", validation_size=10)
        assert mnist.md5 == md5
        assert mnist.y_train.dtype == np.int64
    labels = {"y_train": arrays["y_train"] - 256}  # the same bytes, other labels
    np.savez(data_dir / "mnist.npz", **{**arrays, **labels})
    with pytest.raises(StudyError, match="y_train .* not the original MNIST"):
        data.load("mnist", validation_size=10)


def test_truncated_file_is_refused(data_dir, arrays):
    path = data_dir / "mnist.npz"
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StudyError, match=r"mnist.npz cannot be read .*fetch it again"):
        data.load("mnist")


@pytest.mark.parametrize("content", [b"<html>Not found</html>", b"\x93NUMPY\x01\x00", b""])
def test_other_files_are_refused(data_dir, content):
    (data_dir / "mine.npz").write_bytes(content)
    with pytest.raises(
        StudyError, match="mine.npz cannot be read .it is not a zip archive.*fetch it again"
    ):
        data.load("mine")


def test_damaged_bytes_are_refused(data_dir, arrays):
    path = data_dir / "mnist.npz"
    np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(StudyError, match="cannot be read"):
        data.load("mnist")


def test_pickled_objects_are_never_loaded(data_dir, arrays, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(data_dir / "mnist.npz", **{**arrays, "x_train": np.array([Trap()], dtype=object)})
    with pytest.raises(StudyError, match="it has pickled objects.*which are never loaded"):
        data.load("mnist")
    assert not (tmp_path / "sprung").exists()


def test_unknown_name_is_refused(data_dir):
    with pytest.raises(StudyError, match="no data set 'mnits': expected one of mnist"):
        data.load("mnits")


@pytest.mark.parametrize("size", [0, 60, -1])
def test_validation_must_leave_training_images(data_dir, arrays, size):
    np.savez(data_dir / "mine.npz", **arrays)
    with pytest.raises(StudyError, match=f"{size} of 60 images would be for validation"):
        data.load("mine", validation_size=size)


def test_failed_download_is_one_sentence(monkeypatch):
    import keras

    def fail():
        raise Exception("URL fetch failure on mnist.npz: None -- no route")  # noqa: TRY002 # as Keras raises it

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(StudyError, match="Keras could not download it .*no route.*set AE_DATA_DIR"):
        data.load("mnist")


def test_what_keras_returns_is_checked_too(monkeypatch, arrays):
    import keras

    parts = ((arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"]))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: parts)
    with pytest.raises(StudyError, match="keras.datasets.mnist is not the original MNIST"):
        data.load("mnist")


def test_local_file_is_found_in_both_places(data_dir, tmp_path):
    assert data.local_file("mnist") is None
    cached = tmp_path / "keras" / "datasets" / "mnist.npz"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert data.local_file("mnist") == cached
    (data_dir / "mnist.npz").touch()
    assert data.local_file("mnist") == data_dir / "mnist.npz"


def test_local_file_knows_how_keras_keeps_fashion_mnist(tmp_path, monkeypatch):
    """Keras itself writes the files, from a folder in place of the network."""
    from keras.datasets import fashion_mnist

    def get_file(fname, origin, cache_subdir):
        assert data.local_file("fashion_mnist") is None
        path = tmp_path / "keras" / cache_subdir / fname
        path.parent.mkdir(parents=True, exist_ok=True)
        count = 60 if "train" in fname else 20
        content = (
            bytes(8 + count) if "labels" in fname else bytes(16) + count * 14 * bytes(range(56))
        )
        path.write_bytes(gzip.compress(content))
        return str(path)

    monkeypatch.setitem(fashion_mnist.load_data.__globals__, "get_file", get_file)
    assert len(data.load("fashion_mnist", validation_size=10).x_test) == 20
    assert data.local_file("fashion_mnist").is_file()


def test_local_file_is_none_where_load_looks_elsewhere(data_dir, tmp_path):
    cache = tmp_path / "keras" / "datasets"
    cache.mkdir(parents=True)
    for path in (cache / "fashion_mnist.npz", cache / "mine.npz", data_dir / "digits.npz"):
        path.touch()
        assert data.local_file(path.stem) is None
