"""Files of any content end in images or in one sentence, and take little memory."""

import gzip
import io
import struct
import tracemalloc
import zipfile

from ae_lib import StudyError, data

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

MOST = 500 * 10**6  # bytes of memory that a file may take
DTYPES = ["uint8", "int16", ">i4", "int64", "float32", "float64", "bool", "<U3", "complex64", "O"]
KEYS = ["x", "y", "x_train", "y_train", "x_test", "y_test", "images", "val_labels", "arr_0", "é"]
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 8, 28, 30, 97]), min_size=0, max_size=4).map(tuple)
sizes = st.sampled_from([0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1])


@st.composite
def contents(draw):
    """An array of any kind, small."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(shapes)
    if np.prod(shape, dtype=float) > 60_000:
        shape = shape[:2]
    if dtype == "O":
        return np.full(shape, None)
    if dtype == "<U3":
        return np.full(shape, draw(st.text(max_size=3)))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape) * draw(
        st.sampled_from([0, 1, 100, 1e30])
    )
    if values.size and draw(st.booleans()):
        values.flat[0] = draw(st.sampled_from([np.nan, np.inf, -1.0]))
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@st.composite
def npz_files(draw):
    file = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(file, "w", method) as archive:
        for key in draw(st.lists(st.sampled_from(KEYS), max_size=4, unique=True)):
            archive.writestr(f"{key}.npy", as_npy(draw(contents())))
    return ".npz", file.getvalue()


@st.composite
def bombs(draw):
    """An archive or a stream that unpacks to more than there is memory for."""
    count = draw(st.sampled_from([10**8, 10**9, 10**10]))
    if draw(st.booleans()):
        header = struct.pack(">HBB3I", 0, 8, 3, count // 784, 28, 28)
        return ".gz", gzip.compress(header + bytes(10**6), 1)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", as_npy(np.zeros((1000, 28, 28), "uint8")))
    packed = file.getvalue()
    # The directory's word for the unpacked size, which a reader trusts or not.
    at = packed.rindex(b"PK\x01\x02") + 24
    return ".npz", packed[:at] + struct.pack("<I", min(count, 2**32 - 1)) + packed[at + 4 :]


@st.composite
def idx_files(draw):
    dimensions = draw(st.lists(sizes, max_size=4))
    header = struct.pack(">HBB", 0, draw(st.sampled_from([8, 9, 11, 13, 14, 77])), len(dimensions))
    content = (
        header + struct.pack(f">{len(dimensions)}I", *dimensions) + draw(st.binary(max_size=99))
    )
    return draw(st.sampled_from([("", content), (".gz", gzip.compress(content))]))


@st.composite
def csv_files(draw):
    cells = st.sampled_from(["0", "7", "255", "1e400", "nan", "", "label", '"', "é", "-3", "0.5"])
    width = draw(st.sampled_from([1, 64, 65, 785]))
    rows = draw(st.lists(st.lists(cells, min_size=1, max_size=5), max_size=6))
    text = "\n".join(",".join((row * width)[: width + draw(st.integers(0, 1))]) for row in rows)
    return ".csv", text.encode(draw(st.sampled_from(["utf-8", "utf-16", "latin-1"])))


@st.composite
def npy_files(draw):
    content = as_npy(draw(contents()))
    if draw(st.booleans()):
        content = content.replace(b"(", b"(%d, " % draw(sizes), 1)
    return ".npy", content


@st.composite
def pictures(draw):
    file = io.BytesIO()
    mode, kind = draw(
        st.sampled_from([("L", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("P", "GIF")])
    )
    Image.new(mode, draw(st.sampled_from([(1, 1), (28, 28), (97, 8)]))).save(file, kind)
    return "/picture.png", file.getvalue()


files = st.one_of(
    npz_files(), npy_files(), idx_files(), csv_files(), pictures(), bombs(),
    st.tuples(st.sampled_from([".npz", ".npy", ".csv", ".gz", ""]), st.binary(max_size=300)),
)  # fmt: skip


@settings(
    max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(files, st.data())
def test_any_file_ends_in_images_or_in_one_sentence(tmp_path_factory, file, more):
    suffix, content = file
    if more.draw(st.booleans()) and content:  # damage
        at = more.draw(st.integers(0, len(content) - 1))
        content = (
            content[:at]
            + more.draw(st.binary(max_size=9))
            + content[at + more.draw(st.integers(0, 9)) :]
        )
    path = tmp_path_factory.mktemp("fuzz") / f"own{suffix}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    name = path.parent if suffix.startswith("/") else path
    size = more.draw(st.sampled_from([None, (8, 8), (28, 28)]))
    tracemalloc.start()
    try:
        outcome = loaded_or_sentence(str(name), size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST
    if isinstance(outcome, str):
        assert "\n" not in outcome.strip()
    else:
        assert outcome.pixels_train.dtype == np.uint8
        assert 8 <= min(outcome.shape) <= max(outcome.shape) <= 96


def loaded_or_sentence(name, size):
    try:
        return data.load(name, image_size=size)
    except StudyError as error:
        return str(error)
