"""Bytes: PDUs, messages and data sets, well formed or not. Nothing here is the code under test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from struct import pack

import attrs

from dicomtw import uids

IMPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN
EXPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN
DEFLATED = uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
CT = "1.2.840.10008.5.1.4.1.1.2"
PRIVATE = "1.2.826.0.1.3680043.10.1.99"

#: Sixteen bytes each, in the place of which the AE titles are sent that a server was called with.
CALLED = b"<called AE title"
CALLING = b"<calling AE titl"

#: (context ID, abstract syntax, transfer syntaxes...)
Context = tuple[int | str, ...]

# ---- PDUs (PS3.8 9.3) ---------------------------------------------------------------------------------


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU, whose length may lie."""
    return pack(">BxL", kind, len(body) if length is None else length) + body


def item(kind: int, body: bytes | str, length: int | None = None) -> bytes:
    """An item or sub-item, whose length may lie."""
    body = body.encode("latin-1") if isinstance(body, str) else body
    return pack(">BxH", kind, len(body) if length is None else length) + body


def about(kind: int, uid: str, rest: bytes) -> bytes:
    """A sub-item that begins with the UID of the SOP class it is about."""
    return item(kind, pack(">H", len(uid)) + uid.encode("ascii") + rest)


def context(number: int, abstract_syntax: str, *transfer_syntaxes: str) -> bytes:
    """A presentation context that is proposed (9.3.2.2)."""
    names = item(0x30, abstract_syntax) + b"".join(item(0x40, one) for one in transfer_syntaxes)
    return item(0x20, pack(">B3x", number) + names)


def user(*sub_items: bytes) -> bytes:
    """User information (9.3.2.3)."""
    return item(0x50, b"".join(sub_items))


def maximum_length(length: int) -> bytes:
    """The longest P-DATA-TF that we receive (D.1)."""
    return item(0x51, pack(">L", length))


NAME = item(0x10, uids.APPLICATION_CONTEXT_NAME)
ECHO_CONTEXT = context(1, uids.VERIFICATION, IMPLICIT)
CT_CONTEXT = context(1, CT, IMPLICIT)
IMPLEMENTATION = item(0x52, "1.2.826.0.1.3680043.10.2") + item(0x55, "CONFORMANCE")
USER = user(maximum_length(16384), IMPLEMENTATION)


def rq(
    *items: bytes,
    version: int = 1,
    called: bytes = CALLED,
    calling: bytes = CALLING,
    reserved: bytes = bytes(32),
) -> bytes:
    """An A-ASSOCIATE-RQ of these items; without any, of a good proposal."""
    fixed = pack(">Hxx16s16s32s", version, called.ljust(16), calling.ljust(16), reserved)
    return pdu(0x01, fixed + b"".join(items or (NAME, ECHO_CONTEXT, USER)))


def rq_of(*contexts: bytes, sub_items: bytes = b"") -> bytes:
    """An A-ASSOCIATE-RQ of these presentation contexts."""
    return rq(NAME, *contexts, user(maximum_length(16384), IMPLEMENTATION, sub_items))


def rq_with(*sub_items: bytes) -> bytes:
    """An A-ASSOCIATE-RQ with this user information."""
    return rq(NAME, ECHO_CONTEXT, user(*sub_items))


AC = pdu(
    0x02,
    pack(">Hxx16s16s32x", 1, CALLED, CALLING) + NAME + item(0x21, b"\1\0\0\0" + item(0x40, IMPLICIT)) + USER,
)
RJ = pdu(0x03, b"\0\1\1\1")
RELEASE_RQ = pdu(0x05, bytes(4))
RELEASE_RP = pdu(0x06, bytes(4))
ABORT = pdu(0x07, bytes(4))


def p_data(*values: tuple[int, int, bytes]) -> bytes:
    """A P-DATA-TF of (context ID, control header, fragment) each (9.3.5, Annex E)."""
    return pdu(
        0x04, b"".join(pack(">LBB", len(data) + 2, number, head) + data for number, head, data in values)
    )


# ---- messages (PS3.7 6.3, 9.3) --------------------------------------------------------------------------


def element(tag: int, value: bytes) -> bytes:
    """A data element, Implicit VR Little Endian, padded with NUL."""
    value += b"\0" * (len(value) % 2)
    return pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def command(field: int, elements: Mapping[int, int | str], data_set: bool = False) -> bytes:
    """A command set; numbers are US."""
    values: dict[int, int | str] = {0x0100: field, 0x0800: 1 if data_set else 0x0101, **elements}
    body = b"".join(
        element(tag, pack("<H", value) if isinstance(value, int) else value.encode("latin-1"))
        for tag, value in sorted(values.items())
    )
    return group(body)


def group(body: bytes) -> bytes:
    """A command set of these elements, whatever they are."""
    return element(0x0000, pack("<L", len(body))) + body


def message(number: int, command_set: bytes, data_set: bytes | None = None) -> bytes:
    """A message in presentation context `number`, in P-DATA-TF that every server receives."""
    sent = p_data((number, 3, command_set))
    if data_set is not None:
        last = max(len(data_set) - 1, 0) // 16000
        for at in range(last + 1):
            fragment = data_set[at * 16000 : (at + 1) * 16000]
            sent += p_data((number, 2 if at == last else 0, fragment))
    return sent


ECHO_COMMAND = command(0x0030, {0x0002: uids.VERIFICATION, 0x0110: 7})
ECHO = p_data((1, 3, ECHO_COMMAND))


def c_store_rq(uid: str, sop_class: str = CT) -> bytes:
    """The command set of a C-STORE."""
    return command(0x0001, {0x0002: sop_class, 0x0110: 1, 0x0700: 0, 0x1000: uid}, True)


def store(uid: str, data_set: bytes, number: int = 3, sop_class: str = CT) -> bytes:
    """A C-STORE."""
    return message(number, c_store_rq(uid, sop_class), data_set)


# ---- data sets -------------------------------------------------------------------------------------------


def new_uid() -> str:
    """A UID that no server has seen (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


@attrs.frozen
class Image:
    """A CT image, Implicit VR Little Endian; `marker` is in no other."""

    uid: str
    study: str
    marker: bytes
    data_set: bytes = attrs.field(repr=False)

    @property
    def store(self) -> bytes:
        return store(self.uid, self.data_set)


def image(
    uid: str = "",
    *,
    study: str = "",
    sop_class: str = CT,
    before: bytes = b"",
    pixels: int = 64,
    number: int = 1,
) -> Image:
    """An image of no size, that begins with the elements `before` and has so many bytes of pixels."""
    uid, study, marker = uid or new_uid(), study or new_uid(), os.urandom(16)
    elements = (
        (0x00080016, sop_class),
        (0x00080018, uid),
        (0x00080020, "20200102"),
        (0x00080060, "CT"),
        (0x00100010, "Conformance^Case"),
        (0x00100020, "CONFORMANCE "),
        (0x0020000D, study),
        (0x0020000E, f"{study[:62]}.1"),
        (0x00200013, f"{number:06}"),
    )
    data_set = b"".join(element(tag, value.encode("latin-1")) for tag, value in elements)
    data_set += element(0x7FE00010, marker + bytes(pixels))
    return Image(uid, study, marker, before + data_set)


def nested(depth: int, tag: int = 0x00080006) -> bytes:
    """Sequences within sequences, of undefined length."""
    opened = pack("<HHLHHL", tag >> 16, tag & 0xFFFF, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return opened * depth + closed * depth
