"""The seven PDUs (PS3.8 9.3). Fields are in wire order, each with its bytes as in the standard's tables.

Every PDU starts with its type (byte 1), a reserved byte and the length of the rest (bytes 3-6); the
`framer` reads those, and `decode` gets the rest. Reserved bytes are sent as 0 and not tested.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import ClassVar

import attrs

from dicomtw import uids
from dicomtw.errors import ProtocolError
from dicomtw.ul.items import (
    Cursor,
    PresentationContextAC,
    PresentationContextRQ,
    UserInformation,
    encode_item,
)

PDU_HEADER = Struct(">BxL")
PDV_HEADER = Struct(">LBB")
#: Both, as a P-DATA-TF has them that carries one PDV.
P_DATA_HEADERS = Struct(">BxLLBB")

#: Bits of the message control header (PS3.8 E.2); bits 2 to 7 are not significant.
COMMAND = 0x01
LAST = 0x02

#: Context IDs are odd and 1 to 255 (9.3.2.2), so there are 128 of them.
MAXIMUM_CONTEXTS = 128

_PROTOCOL_VERSION = Struct(">Hxx")


def _padded(title: str) -> str:
    if len(title.encode("latin-1")) > 16:
        raise ValueError(f"AE title {title!r} is longer than 16 characters")
    return title.ljust(16)


def _is_32_bytes(pdu: object, field: attrs.Attribute[bytes], value: bytes) -> None:
    if len(value) != 32:
        raise ValueError(f"bytes 43-74 are 32, not {len(value)}")


def _encode_pdu(pdu_type: int, body: bytes) -> bytes:
    return PDU_HEADER.pack(pdu_type, len(body)) + body


def _decode_associate(
    cursor: Cursor, context_item: type[PresentationContextRQ] | type[PresentationContextAC]
) -> tuple[str, list[PresentationContextRQ | PresentationContextAC], UserInformation]:
    """The variable items of A-ASSOCIATE-RQ and -AC (bytes 75 on); unrecognized ones are skipped (9.3.1)."""
    application_context_name: str | None = None
    contexts: list[PresentationContextRQ | PresentationContextAC] = []
    user_information: UserInformation | None = None
    for item_type, item in cursor.items():
        if item_type == 0x10:
            if application_context_name is not None:
                raise ProtocolError("item 10H appears twice")
            application_context_name = item.uid(item.remaining)
        elif item_type == context_item.item_type:
            if len(contexts) <= MAXIMUM_CONTEXTS:  # one too many says enough; `negotiation` refuses it
                contexts.append(context_item.decode(item))
        elif item_type == 0x50:
            if user_information is not None:
                raise ProtocolError("item 50H appears twice")
            user_information = UserInformation.decode(item)
    return application_context_name or "", contexts, user_information or UserInformation()


@attrs.frozen
class A_ASSOCIATE_RQ:
    """A-ASSOCIATE-RQ PDU (PS3.8 9.3.2, Table 9-11).

    AE titles are held as on the wire, 16 characters with their padding; `dicomtw.ae_title` compares them.
    """

    pdu_type: ClassVar[int] = 0x01
    called_ae_title: str = attrs.field(converter=_padded)  # bytes 11-26
    calling_ae_title: str = attrs.field(converter=_padded)  # bytes 27-42
    presentation_contexts: tuple[PresentationContextRQ, ...] = ()  # items 20H
    user_information: UserInformation = attrs.field(factory=UserInformation)  # item 50H
    application_context_name: str = uids.APPLICATION_CONTEXT_NAME  # item 10H; empty if there was none
    protocol_version: int = 1  # bytes 7-8; bit 0 is version 1
    #: Bytes 43-74; an acceptor sends them back.
    reserved: bytes = attrs.field(default=bytes(32), validator=_is_32_bytes)

    def encode(self) -> bytes:
        return _encode_pdu(self.pdu_type, _encode_associate(self))

    @classmethod
    def decode(cls, body: bytes) -> A_ASSOCIATE_RQ:
        cursor = Cursor(body, "A-ASSOCIATE-RQ")
        version, called, calling, reserved = _decode_fixed(cursor)
        name, contexts, user_information = _decode_associate(cursor, PresentationContextRQ)
        proposed = tuple(context for context in contexts if isinstance(context, PresentationContextRQ))
        return cls(called, calling, proposed, user_information, name, version, reserved)


@attrs.frozen
class A_ASSOCIATE_AC:
    """A-ASSOCIATE-AC PDU (PS3.8 9.3.3, Table 9-17). Bytes 11-74 repeat those of the RQ and are not tested."""

    pdu_type: ClassVar[int] = 0x02
    called_ae_title: str = attrs.field(converter=_padded)  # bytes 11-26
    calling_ae_title: str = attrs.field(converter=_padded)  # bytes 27-42
    presentation_contexts: tuple[PresentationContextAC, ...] = ()  # items 21H, one for each of the RQ
    user_information: UserInformation = attrs.field(factory=UserInformation)  # item 50H
    application_context_name: str = uids.APPLICATION_CONTEXT_NAME  # item 10H
    protocol_version: int = 1  # bytes 7-8
    reserved: bytes = attrs.field(default=bytes(32), validator=_is_32_bytes)  # bytes 43-74

    def encode(self) -> bytes:
        return _encode_pdu(self.pdu_type, _encode_associate(self))

    @classmethod
    def decode(cls, body: bytes) -> A_ASSOCIATE_AC:
        cursor = Cursor(body, "A-ASSOCIATE-AC")
        version, called, calling, reserved = _decode_fixed(cursor)
        name, contexts, user_information = _decode_associate(cursor, PresentationContextAC)
        answered = tuple(context for context in contexts if isinstance(context, PresentationContextAC))
        return cls(called, calling, answered, user_information, name, version, reserved)


def _decode_fixed(cursor: Cursor) -> tuple[int, str, str, bytes]:
    """Bytes 7-74 of A-ASSOCIATE-RQ and -AC: protocol version, called and calling AE title, reserved."""
    version = cursor.u16()
    cursor.skip(2)
    return version, cursor.text(16), cursor.text(16), cursor.take(32)


def _encode_associate(pdu: A_ASSOCIATE_RQ | A_ASSOCIATE_AC) -> bytes:
    """Bytes 7 on of A-ASSOCIATE-RQ and -AC."""
    body = [
        _PROTOCOL_VERSION.pack(pdu.protocol_version),
        pdu.called_ae_title.encode("latin-1"),
        pdu.calling_ae_title.encode("latin-1"),
        pdu.reserved,
        encode_item(0x10, pdu.application_context_name.encode("latin-1")),
        *(context.encode() for context in pdu.presentation_contexts),
        pdu.user_information.encode(),
    ]
    return b"".join(body)


class Result(IntEnum):
    """Result of an A-ASSOCIATE-RJ (PS3.8 Table 9-21, byte 8)."""

    REJECTED_PERMANENT = 1
    REJECTED_TRANSIENT = 2


class Source(IntEnum):
    """Source of an A-ASSOCIATE-RJ (PS3.8 Table 9-21, byte 9)."""

    SERVICE_USER = 1
    SERVICE_PROVIDER_ACSE = 2
    SERVICE_PROVIDER_PRESENTATION = 3


#: What (source, reason) of an A-ASSOCIATE-RJ mean, in the words of PS3.8 Table 9-21.
REJECT_REASONS = {
    (1, 1): "no-reason-given",
    (1, 2): "application-context-name-not-supported",
    (1, 3): "calling-AE-title-not-recognized",
    (1, 7): "called-AE-title-not-recognized",
    (2, 1): "no-reason-given",
    (2, 2): "protocol-version-not-supported",
    (3, 1): "temporary-congestion",
    (3, 2): "local-limit-exceeded",
}


@attrs.frozen
class A_ASSOCIATE_RJ:
    """A-ASSOCIATE-RJ PDU (PS3.8 9.3.4, Table 9-21)."""

    pdu_type: ClassVar[int] = 0x03
    result: int  # byte 8
    source: int  # byte 9
    reason: int  # byte 10; its meaning depends on the source

    def __str__(self) -> str:
        meaning = REJECT_REASONS.get((self.source, self.reason), "reserved")
        return f"RJ({self.result:d},{self.source:d},{self.reason:d}) {meaning}"

    def encode(self) -> bytes:
        return _encode_pdu(self.pdu_type, bytes((0, self.result, self.source, self.reason)))

    @classmethod
    def decode(cls, body: bytes) -> A_ASSOCIATE_RJ:
        return cls(*_four_bytes(cls.__name__, body)[1:])


@attrs.frozen
class PresentationDataValue:
    """Presentation-data-value item (PS3.8 9.3.5.1, Table 9-23; header of Annex E.2)."""

    context_id: int  # byte 5
    control_header: int  # byte 6: COMMAND, LAST
    fragment: bytes

    def encode(self) -> bytes:
        return PDV_HEADER.pack(len(self.fragment) + 2, self.context_id, self.control_header) + self.fragment


@attrs.frozen
class P_DATA_TF:
    """P-DATA-TF PDU (PS3.8 9.3.5, Table 9-22), for sending. Receiving, the framer streams its fragments."""

    pdu_type: ClassVar[int] = 0x04
    presentation_data_values: tuple[PresentationDataValue, ...]

    def encode(self) -> bytes:
        return _encode_pdu(self.pdu_type, b"".join(pdv.encode() for pdv in self.presentation_data_values))


@attrs.frozen
class A_RELEASE_RQ:
    """A-RELEASE-RQ PDU (PS3.8 9.3.6, Table 9-24)."""

    pdu_type: ClassVar[int] = 0x05

    def encode(self) -> bytes:
        return _encode_pdu(self.pdu_type, bytes(4))

    @classmethod
    def decode(cls, body: bytes) -> A_RELEASE_RQ:
        _four_bytes(cls.__name__, body)
        return cls()


@attrs.frozen
class A_RELEASE_RP:
    """A-RELEASE-RP PDU (PS3.8 9.3.7, Table 9-25)."""

    pdu_type: ClassVar[int] = 0x06

    def encode(self) -> bytes:
        return _encode_pdu(self.pdu_type, bytes(4))

    @classmethod
    def decode(cls, body: bytes) -> A_RELEASE_RP:
        _four_bytes(cls.__name__, body)
        return cls()


class AbortSource(IntEnum):
    """Source of an A-ABORT (PS3.8 Table 9-26, byte 9)."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


#: What the reason of an A-ABORT by the service-provider means, in the words of PS3.8 Table 9-26.
ABORT_REASONS = {
    0: "reason-not-specified",
    1: "unrecognized-PDU",
    2: "unexpected-PDU",
    4: "unrecognized-PDU-parameter",
    5: "unexpected-PDU-parameter",
    6: "invalid-PDU-parameter-value",
}


@attrs.frozen
class A_ABORT:
    """A-ABORT PDU (PS3.8 9.3.8, Table 9-26)."""

    pdu_type: ClassVar[int] = 0x07
    source: int  # byte 9
    reason: int = 0  # byte 10; significant when the source is the service-provider

    def __str__(self) -> str:
        if self.source == AbortSource.SERVICE_USER:
            return "A-ABORT by the service-user"
        return f"A-ABORT by the service-provider: {ABORT_REASONS.get(self.reason, 'reserved')}"

    def encode(self) -> bytes:
        return _encode_pdu(self.pdu_type, bytes((0, 0, self.source, self.reason)))

    @classmethod
    def decode(cls, body: bytes) -> A_ABORT:
        return cls(*_four_bytes(cls.__name__, body)[2:])


def _four_bytes(name: str, body: bytes) -> bytes:
    if len(body) != 4:
        raise ProtocolError(f"{name.replace('_', '-')} has a length of {len(body)}; it is always 4")
    return body


#: What is decoded whole. P-DATA-TF (04H) is not: its fragments are handed on as they arrive.
ReceivedPDU = A_ASSOCIATE_RQ | A_ASSOCIATE_AC | A_ASSOCIATE_RJ | A_RELEASE_RQ | A_RELEASE_RP | A_ABORT
PDU = ReceivedPDU | P_DATA_TF

PDU_CLASSES: dict[int, type[ReceivedPDU]] = {
    pdu.pdu_type: pdu
    for pdu in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RQ, A_RELEASE_RP, A_ABORT)
}
