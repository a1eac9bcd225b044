"""The codec's byte format: symbols to a checked stream, and back.

A stream is, little-endian:

======  ==========================================================================
bytes   content
======  ==========================================================================
3       ``AEC``
1       version of the format
8       beginning of the codec's fingerprint
8       step, float64
4       number of images
4       number n of the payload's 32-bit words
8       beginning of the SHA-256 of all bytes before and after these
4 n     payload: words of constriction's ANS coder, the first coordinate decoded first
======  ==========================================================================

All arithmetic on symbols is of integers or correctly rounded, so that every machine reads the same
symbols. The checksum detects damage; it has no secret key, so it does not detect a forger.
"""

import hashlib
import struct

from ae_lib import StudyError

import constriction
import numpy as np

MAGIC = b"AEC"
VERSION = 1
HEAD = struct.Struct("<3sB8sdII")
DIGEST = 8  # bytes kept of a SHA-256: one damage in 2^64 would go unnoticed
HEADER = HEAD.size + DIGEST  # bytes of a stream without images
REMEDY = "fetch the stream again, it was truncated or altered."


def pack(symbols, codec, step):
    """Encode as bytes the symbols, int32 (n, d), that `Codec.quantise` gives for this step."""
    coder = constriction.stream.stack.AnsCoder()
    # A stack: what is pushed last is popped first.
    for i, bins in reversed(list(enumerate(codec.bins(step)))):
        if len(bins.weight) > 1:  # a coordinate that never leaves its only bin costs nothing
            coder.encode_reverse(np.ascontiguousarray(symbols[:, i], "int32"), _model(bins.weight))
    payload = coder.get_compressed().astype("<u4").tobytes()
    fingerprint = codec.fingerprint[:DIGEST]
    head = HEAD.pack(MAGIC, VERSION, fingerprint, step, len(symbols), len(payload) // 4)
    return head + checksum(head, payload) + payload


def unpack(stream, codec):
    """Decode a stream of this codec: symbols, int32 (n, d), and their step.

    Raises `StudyError` if the stream is truncated, altered, of another codec or of a newer version.
    """
    _check_form(stream)
    head, stored, payload = stream[: HEAD.size], stream[HEAD.size : HEADER], stream[HEADER:]
    _, version, fingerprint, step, count, _ = HEAD.unpack(head)
    if version != VERSION or count == 0 or stored != checksum(head, payload):
        raise StudyError(
            f"The stream of {count} images, version {version}, has the checksum {stored.hex()}; "
            f"expected images, version {VERSION} and {checksum(head, payload).hex()}: {REMEDY}"
        )
    if fingerprint != codec.fingerprint[:DIGEST]:
        raise StudyError(
            f"The stream was made by the codec {fingerprint.hex()}; expected this one, "
            f"{codec.fingerprint[:DIGEST].hex()}: load the codec that made it."
        )
    return _decoded(payload, count, codec.bins(step)), step


def checksum(head, payload):
    """Return the bytes that stand between the head and the payload of a stream."""
    return hashlib.sha256(head + payload).digest()[:DIGEST]


def _check_form(stream):
    if not isinstance(stream, bytes):
        raise StudyError(
            f"The stream is of type {type(stream).__name__}; expected bytes: read it with "
            "open(path, 'rb')."
        )
    if not stream.startswith(MAGIC):
        raise StudyError(
            f"The stream begins with {stream[:4]!r}; expected {MAGIC!r}: give what compress gave."
        )
    if stream[len(MAGIC) :] and stream[len(MAGIC)] > VERSION:
        raise StudyError(
            f"The stream is of version {stream[len(MAGIC)]}; expected at most {VERSION}: read it "
            "with a newer ae_lib."
        )
    words = HEAD.unpack_from(stream)[-1] if len(stream) >= HEADER else 0
    if len(stream) != HEADER + 4 * words:
        raise StudyError(
            f"The stream has {len(stream)} bytes; expected {HEADER + 4 * words}, of which "
            f"{HEADER} are the header: {REMEDY}"
        )


def _decoded(payload, count, bins_of_all):
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(payload, "<u4").astype("uint32"))
    symbols = np.zeros((count, len(bins_of_all)), "int32")
    for i, bins in enumerate(bins_of_all):
        if len(bins.weight) > 1:
            symbols[:, i] = coder.decode(_model(bins.weight), count)
    if not coder.is_empty():
        raise StudyError(
            f"The stream holds more than its images; expected nothing after them: {REMEDY}"
        )
    return symbols


def _model(weight):
    # constriction makes fixed-point weights by the same float64 sums and products everywhere.
    return constriction.stream.model.Categorical(weight.astype("float64"), perfect=False)
