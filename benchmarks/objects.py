"""Objects to send, made of nothing: CT images of any size, as encoded data sets and as files."""

from __future__ import annotations

import uuid
from pathlib import Path
from struct import Struct

from dicomtw import uids
from dicomtw.storage.part10 import FileMeta

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
#: Pixel data of a 512 x 512 slice of 16 bits, in bytes.
CT_PIXELS = 512 * 512 * 2

_SHORT = Struct("<HH2sH")
_LONG = Struct("<HH2s2xL")


def new_uid() -> str:
    """A UID made of a UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def _text(tag: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii")
    encoded += (b"\0" if vr == b"UI" else b" ") * (len(encoded) % 2)
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr, len(encoded)) + encoded


def _number(tag: int, value: int) -> bytes:
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, b"US", 2) + value.to_bytes(2, "little")


def ct_head(sop_instance_uid: str, study: str, series: str, number: int, pixels: int) -> bytes:
    """An Explicit VR Little Endian CT image up to the value of its Pixel Data of `pixels` bytes."""
    return b"".join(
        (
            _text(0x00080008, b"CS", "ORIGINAL\\PRIMARY\\AXIAL"),
            _text(0x00080016, b"UI", CT_IMAGE_STORAGE),
            _text(0x00080018, b"UI", sop_instance_uid),
            _text(0x00080020, b"DA", "20260101"),
            _text(0x00080030, b"TM", "120000"),
            _text(0x00080060, b"CS", "CT"),
            _text(0x00100010, b"PN", "BENCH^MARK"),
            _text(0x00100020, b"LO", "BENCHMARK"),
            _text(0x00100030, b"DA", ""),
            _text(0x00100040, b"CS", ""),
            _text(0x0020000D, b"UI", study),
            _text(0x0020000E, b"UI", series),
            _text(0x00200010, b"SH", "1"),
            _text(0x00200011, b"IS", "1"),
            _text(0x00200013, b"IS", str(number)),
            _number(0x00280002, 1),
            _text(0x00280004, b"CS", "MONOCHROME2"),
            _number(0x00280010, 512),
            _number(0x00280011, 512),
            _number(0x00280100, 16),
            _number(0x00280101, 16),
            _number(0x00280102, 15),
            _number(0x00280103, 0),
            _LONG.pack(0x7FE0, 0x0010, b"OW", pixels),
        )
    )


def write_ct_files(directory: Path, count: int, pixels: int = CT_PIXELS) -> list[Path]:
    """`count` slices of one series as DICOM files."""
    study, series = new_uid(), new_uid()
    paths = []
    for number in range(1, count + 1):
        sop_instance_uid = new_uid()
        meta = FileMeta(CT_IMAGE_STORAGE, sop_instance_uid, uids.EXPLICIT_VR_LITTLE_ENDIAN, "BENCH")
        path = directory / f"{number:05d}.dcm"
        path.write_bytes(
            meta.encode() + ct_head(sop_instance_uid, study, series, number, pixels) + bytes(pixels)
        )
        paths.append(path)
    return paths
