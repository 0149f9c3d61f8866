"""Items and sub-items of the A-ASSOCIATE PDUs (PS3.8 9.3.2, 9.3.3 and Annex D; PS3.7 Annex D.3.3).

All integers are big endian. Each item starts with its type (byte 1), a reserved byte and the length of
the rest (bytes 3-4); the comments give the bytes of each field as the standard's tables do. A `decode`
reads a `Cursor` that is confined to the item's length and raises `ProtocolError` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Final, TypeVar

import attrs

from dicomtw.errors import ProtocolError

#: Items of one parent, unrecognized ones too: this bounds the time that a hostile proposal takes. There are
#: 128 contexts at the most, and fewer sub-items that have one for each SOP class.
MAXIMUM_ITEMS: Final = 1024
#: Transfer syntaxes of one context; the standard has half as many.
MAXIMUM_TRANSFER_SYNTAXES: Final = 128

_ITEM_HEADER = Struct(">BxH")
_U16 = Struct(">H")
_U32 = Struct(">L")


class Cursor:
    """Reads fields from one stretch of bytes and never past its end: no child outgrows its parent."""

    __slots__ = ("_at", "_data", "_end", "name")

    def __init__(self, data: bytes, name: str, at: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = at
        self._end = len(data) if end is None else end
        self.name = name

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return self._end - self._at

    def _advance(self, length: int) -> int:
        at = self._at
        if length > self._end - at:
            raise ProtocolError(f"{self.name} ends {length - self.remaining} bytes inside a field")
        self._at = at + length
        return at

    def u8(self) -> int:
        return self._data[self._advance(1)]

    def u16(self) -> int:
        value: int = _U16.unpack_from(self._data, self._advance(2))[0]
        return value

    def u32(self) -> int:
        value: int = _U32.unpack_from(self._data, self._advance(4))[0]
        return value

    def skip(self, length: int) -> None:
        """Pass over reserved bytes, which are not tested."""
        self._advance(length)

    def take(self, length: int) -> bytes:
        at = self._advance(length)
        return self._data[at : at + length]

    def rest(self) -> bytes:
        return self.take(self.remaining)

    def text(self, length: int) -> str:
        """`length` bytes, one character each; what they may be is judged where they are used."""
        return self.take(length).decode("latin-1")

    def uid(self, length: int) -> str:
        """A UID field. Trailing NULs and spaces are no part of it (some peers pad to even length)."""
        return self.text(length).rstrip("\0 ")

    def items(self, most: int = MAXIMUM_ITEMS) -> Iterator[tuple[int, Cursor]]:
        """The items up to the end, as (item type, a cursor confined to the item), `most` of them."""
        count = 0
        while self.remaining:
            count += 1
            if count > most:
                raise ProtocolError(f"more than {most} items in {self.name}")
            item_type, length = _ITEM_HEADER.unpack_from(self._data, self._advance(4))
            name = f"item {item_type:02X}H"
            if length > self.remaining:
                raise ProtocolError(
                    f"{name} says {length} bytes, but {self.remaining} are left in {self.name}"
                )
            at = self._advance(length)
            yield item_type, Cursor(self._data, name, at, at + length)

    def finish(self) -> None:
        """The item must end here: bytes that nothing accounts for are a length that lies."""
        if self.remaining:
            raise ProtocolError(f"{self.name} has {self.remaining} bytes too many")


def encode_item(item_type: int, body: bytes) -> bytes:
    """An item: type, reserved byte, length, body."""
    return _ITEM_HEADER.pack(item_type, len(body)) + body


def _counted(text: str) -> bytes:
    """A 2-byte length and the text."""
    encoded = text.encode("latin-1")
    return _U16.pack(len(encoded)) + encoded


# ---- Presentation contexts (PS3.8 9.3.2.2, 9.3.3.2) -------------------------------------------------


class ContextResult(IntEnum):
    """Result/Reason of a presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@attrs.frozen
class PresentationContextRQ:
    """Presentation context item of A-ASSOCIATE-RQ (PS3.8 9.3.2.2, Table 9-13)."""

    item_type: ClassVar[int] = 0x20
    context_id: int  # byte 5: odd, 1 to 255
    abstract_syntax: str  # sub-item 30H (Table 9-14)
    transfer_syntaxes: tuple[str, ...]  # sub-items 40H (Table 9-15), in the requestor's order

    def encode(self) -> bytes:
        body = bytes((self.context_id, 0, 0, 0)) + encode_item(0x30, self.abstract_syntax.encode("latin-1"))
        for transfer_syntax in self.transfer_syntaxes:
            body += encode_item(0x40, transfer_syntax.encode("latin-1"))
        return encode_item(self.item_type, body)

    @classmethod
    def decode(cls, cursor: Cursor) -> PresentationContextRQ:
        context_id = cursor.u8()
        cursor.skip(3)
        abstract_syntaxes, transfer_syntaxes = [], []
        for item_type, item in cursor.items(MAXIMUM_TRANSFER_SYNTAXES + 1):
            if item_type == 0x30:
                abstract_syntaxes.append(item.uid(item.remaining))
            elif item_type == 0x40:
                transfer_syntaxes.append(item.uid(item.remaining))
        if len(abstract_syntaxes) != 1:
            raise ProtocolError(
                f"presentation context {context_id} has {len(abstract_syntaxes)} abstract syntaxes"
            )
        return cls(context_id, abstract_syntaxes[0], tuple(transfer_syntaxes))


@attrs.frozen
class PresentationContextAC:
    """Presentation context item of A-ASSOCIATE-AC (PS3.8 9.3.3.2, Table 9-18)."""

    item_type: ClassVar[int] = 0x21
    context_id: int  # byte 5
    result: int  # byte 7
    transfer_syntax: str  # one sub-item 40H; not significant unless accepted, and sent all the same

    def encode(self) -> bytes:
        body = bytes((self.context_id, 0, self.result, 0))
        return encode_item(self.item_type, body + encode_item(0x40, self.transfer_syntax.encode("latin-1")))

    @classmethod
    def decode(cls, cursor: Cursor) -> PresentationContextAC:
        context_id = cursor.u8()
        cursor.skip(1)
        result = cursor.u8()
        cursor.skip(1)
        transfer_syntaxes = [item.uid(item.remaining) for kind, item in cursor.items() if kind == 0x40]
        if result == ContextResult.ACCEPTANCE and len(transfer_syntaxes) != 1:
            raise ProtocolError(
                f"accepted presentation context {context_id} has {len(transfer_syntaxes)} transfer syntaxes"
            )
        return cls(context_id, result, transfer_syntaxes[0] if transfer_syntaxes else "")


# ---- User information sub-items (PS3.8 Annex D.1; PS3.7 D.3.3) ----------------------------------------


@attrs.frozen
class MaximumLength:
    """The longest P-DATA-TF variable field the sender of this item will receive; 0: no limit (PS3.8 D.1)."""

    item_type: ClassVar[int] = 0x51
    maximum_length_received: int  # bytes 5-8

    def encode(self) -> bytes:
        return encode_item(self.item_type, _U32.pack(self.maximum_length_received))

    @classmethod
    def decode(cls, cursor: Cursor) -> MaximumLength:
        return cls(cursor.u32())


@attrs.frozen
class ImplementationClassUID:
    """Implementation identification (PS3.7 D.3.3.2.1)."""

    item_type: ClassVar[int] = 0x52
    implementation_class_uid: str

    def encode(self) -> bytes:
        return encode_item(self.item_type, self.implementation_class_uid.encode("latin-1"))

    @classmethod
    def decode(cls, cursor: Cursor) -> ImplementationClassUID:
        return cls(cursor.uid(cursor.remaining))


@attrs.frozen
class AsynchronousOperationsWindow:
    """Operations outstanding at a time; 0: no limit. Without the item it is 1 and 1 (PS3.7 D.3.3.3)."""

    item_type: ClassVar[int] = 0x53
    maximum_number_operations_invoked: int  # bytes 5-6
    maximum_number_operations_performed: int  # bytes 7-8

    def encode(self) -> bytes:
        window = (self.maximum_number_operations_invoked, self.maximum_number_operations_performed)
        return encode_item(self.item_type, b"".join(map(_U16.pack, window)))

    @classmethod
    def decode(cls, cursor: Cursor) -> AsynchronousOperationsWindow:
        return cls(cursor.u16(), cursor.u16())


@attrs.frozen
class RoleSelection:
    """Which roles the association-requestor takes for one SOP class (PS3.7 D.3.3.4)."""

    item_type: ClassVar[int] = 0x54
    sop_class_uid: str  # bytes 5-6 its length, then the UID
    scu_role: bool
    scp_role: bool

    def encode(self) -> bytes:
        body = _counted(self.sop_class_uid) + bytes((self.scu_role, self.scp_role))
        return encode_item(self.item_type, body)

    @classmethod
    def decode(cls, cursor: Cursor) -> RoleSelection:
        return cls(cursor.uid(cursor.u16()), cursor.u8() == 1, cursor.u8() == 1)


@attrs.frozen
class ImplementationVersionName:
    """Implementation identification, 1 to 16 characters (PS3.7 D.3.3.2.3)."""

    item_type: ClassVar[int] = 0x55
    implementation_version_name: str

    def encode(self) -> bytes:
        return encode_item(self.item_type, self.implementation_version_name.encode("latin-1"))

    @classmethod
    def decode(cls, cursor: Cursor) -> ImplementationVersionName:
        return cls(cursor.text(cursor.remaining))


@attrs.frozen
class SOPClassExtendedNegotiation:
    """What a service class negotiates beyond the SOP class; PS3.4 says per class what (PS3.7 D.3.3.5)."""

    item_type: ClassVar[int] = 0x56
    sop_class_uid: str  # bytes 5-6 its length, then the UID
    service_class_application_information: bytes  # the rest

    def encode(self) -> bytes:
        body = _counted(self.sop_class_uid) + self.service_class_application_information
        return encode_item(self.item_type, body)

    @classmethod
    def decode(cls, cursor: Cursor) -> SOPClassExtendedNegotiation:
        return cls(cursor.uid(cursor.u16()), cursor.rest())


@attrs.frozen
class SOPClassCommonExtendedNegotiation:
    """The service class of a SOP class and the general classes it refines; RQ only (PS3.7 D.3.3.6)."""

    item_type: ClassVar[int] = 0x57  # byte 2 is the sub-item version, 0, not tested
    sop_class_uid: str
    service_class_uid: str
    related_general_sop_class_uids: tuple[str, ...] = ()

    def encode(self) -> bytes:
        related = b"".join(map(_counted, self.related_general_sop_class_uids))
        body = _counted(self.sop_class_uid) + _counted(self.service_class_uid)
        return encode_item(self.item_type, body + _U16.pack(len(related)) + related)

    @classmethod
    def decode(cls, cursor: Cursor) -> SOPClassCommonExtendedNegotiation:
        sop_class_uid = cursor.uid(cursor.u16())
        service_class_uid = cursor.uid(cursor.u16())
        length = cursor.u16()
        related = Cursor(cursor.take(length), f"related general SOP classes in {cursor.name}")
        uids = []
        while related.remaining:
            uids.append(related.uid(related.u16()))
        cursor.rest()  # later versions of the sub-item may append fields, which are to be ignored
        return cls(sop_class_uid, service_class_uid, tuple(uids))


class UserIdentityType(IntEnum):
    """User-Identity-Type (PS3.7 Table D.3-14)."""

    USERNAME = 1
    USERNAME_AND_PASSCODE = 2
    KERBEROS = 3
    SAML = 4
    JWT = 5


@attrs.frozen
class UserIdentityRQ:
    """Who the requestor's user is (PS3.7 D.3.3.7.1). The fields are secrets: they are not in the repr."""

    item_type: ClassVar[int] = 0x58
    user_identity_type: int  # byte 5
    positive_response_requested: bool  # byte 6
    primary_field: bytes = attrs.field(repr=False)  # username, ticket, assertion or token
    secondary_field: bytes = attrs.field(default=b"", repr=False)  # passcode, type 2 only

    def encode(self) -> bytes:
        body = bytes((self.user_identity_type, self.positive_response_requested))
        for field in (self.primary_field, self.secondary_field):
            body += _U16.pack(len(field)) + field
        return encode_item(self.item_type, body)

    @classmethod
    def decode(cls, cursor: Cursor) -> UserIdentityRQ:
        identity_type = cursor.u8()
        response_requested = cursor.u8() == 1
        primary = cursor.take(cursor.u16())
        return cls(identity_type, response_requested, primary, cursor.take(cursor.u16()))


@attrs.frozen
class UserIdentityAC:
    """The acceptor's positive answer; empty but for Kerberos and SAML (PS3.7 D.3.3.7.2)."""

    item_type: ClassVar[int] = 0x59
    server_response: bytes = attrs.field(default=b"", repr=False)

    def encode(self) -> bytes:
        return encode_item(self.item_type, _U16.pack(len(self.server_response)) + self.server_response)

    @classmethod
    def decode(cls, cursor: Cursor) -> UserIdentityAC:
        return cls(cursor.take(cursor.u16()))


SubItem = (
    MaximumLength
    | ImplementationClassUID
    | AsynchronousOperationsWindow
    | RoleSelection
    | ImplementationVersionName
    | SOPClassExtendedNegotiation
    | SOPClassCommonExtendedNegotiation
    | UserIdentityRQ
    | UserIdentityAC
)

T = TypeVar("T", bound=SubItem)

SUB_ITEM_CLASSES: dict[int, type[SubItem]] = {
    item.item_type: item
    for item in (
        MaximumLength,
        ImplementationClassUID,
        AsynchronousOperationsWindow,
        RoleSelection,
        ImplementationVersionName,
        SOPClassExtendedNegotiation,
        SOPClassCommonExtendedNegotiation,
        UserIdentityRQ,
        UserIdentityAC,
    )
}


@attrs.frozen
class UserInformation:
    """User information item: its sub-items in wire order (PS3.8 9.3.2.3, Table 9-16)."""

    item_type: ClassVar[int] = 0x50
    sub_items: tuple[SubItem, ...] = ()

    def encode(self) -> bytes:
        return encode_item(self.item_type, b"".join(item.encode() for item in self.sub_items))

    @classmethod
    def decode(cls, cursor: Cursor) -> UserInformation:
        """Unrecognized sub-items are skipped (PS3.8 9.3.1)."""
        sub_items: list[SubItem] = []
        once = set()
        for item_type, item in cursor.items():
            item_class = SUB_ITEM_CLASSES.get(item_type)
            if item_class is None:
                continue
            sub_item = item_class.decode(item)
            item.finish()
            # There is one of each, or one for each SOP class where it names one (PS3.7 D.3.3.4 to 6). DCMTK
            # sends role selection for each context of a SOP class again; the first one counts.
            sop_class_uid = getattr(sub_item, "sop_class_uid", None)
            subject = item_type, sop_class_uid
            if subject not in once:
                once.add(subject)
                sub_items.append(sub_item)
            elif sop_class_uid is None:
                raise ProtocolError(f"{item.name} appears twice")
        return cls(tuple(sub_items))

    def all(self, item_class: type[T]) -> tuple[T, ...]:
        """All sub-items of one class, in wire order."""
        return tuple(item for item in self.sub_items if isinstance(item, item_class))

    def first(self, item_class: type[T]) -> T | None:
        """The sub-item of one class, or None."""
        return next(iter(self.all(item_class)), None)
