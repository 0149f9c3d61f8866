"""The DICOM File Format around a data set (PS3.10 section 7): preamble, prefix, File Meta Information."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

import attrs

from dicomtw import uids

#: Preamble (all zero: nothing a peer sends may make the file look like a program) and prefix.
PREAMBLE: Final = bytes(128) + b"DICM"

_SHORT = Struct("<HH2sH")  # tag, VR, 16-bit length
_LONG = Struct("<HH2sHL")  # tag, VR, reserved, 32-bit length
_GROUP_LENGTH = Struct("<HH2sHL")  # tag, VR, length, value
_GROUP = b"\2\0"
#: Of the VRs in group 0002.
_LONG_FORM = frozenset({b"OB", b"UN", b"UR"})


@attrs.frozen
class FileMeta:
    """What File Meta Information says of a received data set (PS3.10 Table 7.1-1)."""

    sop_class_uid: str  # (0002,0002)
    sop_instance_uid: str  # (0002,0003)
    transfer_syntax_uid: str  # (0002,0010): as negotiated, for the data set is kept as received
    sending_ae_title: str = ""  # (0002,0016), (0002,0017): the peer
    receiving_ae_title: str = ""  # (0002,0018): us

    def encode(self) -> bytes:
        """Preamble, prefix and group 0002, Explicit VR Little Endian: what stands before the data set."""
        before, behind = _around(
            self.sop_class_uid, self.transfer_syntax_uid, self.sending_ae_title, self.receiving_ae_title
        )
        instance = _text(0x0003, b"UI", self.sop_instance_uid)
        length = len(before) + len(instance) + len(behind)
        return b"".join((PREAMBLE, _GROUP_LENGTH.pack(2, 0, b"UL", 4, length), before, instance, behind))


@lru_cache(maxsize=256)
def _around(
    sop_class_uid: str, transfer_syntax_uid: str, sending_ae_title: str, receiving_ae_title: str
) -> tuple[bytes, bytes]:
    """The elements before and behind Media Storage SOP Instance UID: all else is the same in most files."""
    before = _LONG.pack(2, 0x0001, b"OB", 0, 2) + b"\x00\x01" + _text(0x0002, b"UI", sop_class_uid)
    behind = [
        _text(0x0010, b"UI", transfer_syntax_uid),
        _text(0x0012, b"UI", uids.IMPLEMENTATION_CLASS_UID),
        _text(0x0013, b"SH", uids.IMPLEMENTATION_VERSION_NAME),
    ]
    if sending_ae_title:
        behind.append(_text(0x0016, b"AE", sending_ae_title))
        behind.append(_text(0x0017, b"AE", sending_ae_title))
    if receiving_ae_title:
        behind.append(_text(0x0018, b"AE", receiving_ae_title))
    return before, b"".join(behind)


def _text(element: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    if len(encoded) % 2:
        encoded += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(2, element, vr, len(encoded)) + encoded


@attrs.frozen
class FileHead:
    """What the beginning of a DICOM file says of the data set behind it; a UID that is not there is empty."""

    data_set_offset: int
    transfer_syntax_uid: str
    sop_class_uid: str = ""
    sop_instance_uid: str = ""


def read_head(head: bytes) -> FileHead:
    """Read the File Meta Information at the start of `head`.

    Some writers leave out the preamble, or the group length; and where that is wrong, the elements count.
    Raises `ValueError` if there is no File Meta Information, if it is not there whole, or without a Transfer
    Syntax UID.
    """
    at = len(PREAMBLE) if head[128:132] == b"DICM" else 0
    if head[at : at + 2] != _GROUP:
        raise ValueError("not a DICOM file")
    values: dict[int, bytes] = {}
    least = 0  # where it ends at the earliest
    while head[at : at + 2] == _GROUP:
        if at + _SHORT.size > len(head):
            raise ValueError("File Meta Information is cut off")
        _, element, vr, size = _SHORT.unpack_from(head, at)
        at += _SHORT.size
        if vr in _LONG_FORM:
            size = int.from_bytes(head[at : at + 4], "little")
            at += 4
        values[element] = head[at : at + size]
        at += size
        if element == 0x0000:
            least = at + int.from_bytes(values[element], "little")
    if at > len(head) or least > len(head):
        raise ValueError("File Meta Information is cut off")
    transfer_syntax_uid, sop_class_uid, sop_instance_uid = (
        values.get(element, b"").decode("ascii", "replace").rstrip("\0 ")
        for element in (0x0010, 0x0002, 0x0003)
    )
    if not transfer_syntax_uid:
        raise ValueError("File Meta Information without a Transfer Syntax UID")
    return FileHead(at, transfer_syntax_uid, sop_class_uid, sop_instance_uid)
