"""What the tests of the store share: data sets put together by hand, element by element."""

from __future__ import annotations

import zlib
from pathlib import Path
from struct import pack

import pydicom
from hypothesis import settings

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"

UNDEFINED = 0xFFFFFFFF

#: pydicom's own test files, those that come with the package.
PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"

#: No deadline, for a busy machine fails no test; no database, for the tests leave nothing behind.
modest = settings(deadline=None, max_examples=100, database=None)

_LONG = {"OB", "OW", "SQ", "UN", "UT"}


def element(
    tag: int, vr: str, value: bytes = b"", syntax: str = EXPLICIT, length: int | None = None
) -> bytes:
    """One element, as `syntax` encodes it; its length is the value's unless given."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    group, number = tag >> 16, tag & 0xFFFF
    size = len(value) if length is None else length
    if syntax == IMPLICIT or group == 0xFFFE:
        return pack(f"{order}HHL", group, number, size) + value
    if vr in _LONG:
        return pack(f"{order}HH2sHL", group, number, vr.encode(), 0, size) + value
    return pack(f"{order}HH2sH", group, number, vr.encode(), min(size, 0xFFFF)) + value


def uid(tag: int, value: str, syntax: str = EXPLICIT) -> bytes:
    """A UI element, padded as PS3.5 9.1 has it."""
    encoded = value.encode("latin-1")
    return element(tag, "UI", encoded + b"\0" * (len(encoded) % 2), syntax)


def data_set(
    sop_instance_uid: str | None,
    payload: bytes = b"payload.",
    *,
    study: str | None = "1.2.10",
    series: str | None = "1.2.20",
    sop_class_uid: str | None = CT_IMAGE_STORAGE,
    syntax: str = EXPLICIT,
    middle: bytes = b"",
) -> bytes:
    """A data set with the four UIDs that name it, None: without that one, and `payload` as pixel data.

    `middle` stands between SOP Instance UID and Study Instance UID.
    """
    inner = EXPLICIT if syntax == DEFLATED else syntax
    elements = []
    for tag, value in ((0x00080016, sop_class_uid), (0x00080018, sop_instance_uid)):
        if value is not None:
            elements.append(uid(tag, value, inner))
    elements.append(middle)
    for tag, value in ((0x0020000D, study), (0x0020000E, series)):
        if value is not None:
            elements.append(uid(tag, value, inner))
    elements.append(element(0x7FE00010, "OW", payload, inner))
    encoded = b"".join(elements)
    return deflate(encoded) if syntax == DEFLATED else encoded


def deflate(encoded: bytes) -> bytes:
    """`encoded` as one deflated stream without a zlib header (PS3.5 A.5), of even length."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stream = compressor.compress(encoded) + compressor.flush()
    return stream + b"\0" * (len(stream) % 2)


def behind_file_meta(content: bytes) -> int:
    """Where the data set of a file begins, found by walking group 0002; 0 if there is no prefix."""
    if content[128:132] != b"DICM":
        return 0
    at = 132
    while content[at : at + 2] == b"\2\0":
        if content[at + 4 : at + 6] in (b"OB", b"UN", b"UR"):
            at += 12 + int.from_bytes(content[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(content[at + 6 : at + 8], "little")
    return at
