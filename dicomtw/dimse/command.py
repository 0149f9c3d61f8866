"""Command sets: the elements of group 0000 and how they are encoded (PS3.7 6.3, Annex E.1).

A command set is always Implicit VR Little Endian, whatever the presentation context agreed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, Final, Generic, TypeVar, overload

from dicomtw.errors import ProtocolError

#: Command Data Set Type (0000,0800): there is no data set; any other value says there is one.
NO_DATA_SET: Final = 0x0101
#: What we send where there is one.
DATA_SET_PRESENT: Final = 0x0000

_ELEMENT_HEADER = Struct("<HHL")
_US = Struct("<H")
_GROUP_LENGTH = Struct("<HHLL")

T = TypeVar("T")


def _decode_number(value: bytes) -> int:
    if len(value) != 2:
        raise ProtocolError(f"{len(value)} bytes long; 2 is right")
    return value[0] | value[1] << 8


def _decode_uid(value: bytes) -> str:
    return value.decode("latin-1").rstrip("\0 ")


def _decode_text(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def _decode_tags(value: bytes) -> tuple[int, ...]:
    if len(value) % 4:
        raise ProtocolError(f"{len(value)} bytes long; attribute tags have 4 each")
    halves = [half for (half,) in _US.iter_unpack(value)]
    return tuple(group << 16 | element for group, element in zip(halves[::2], halves[1::2], strict=True))


def _encode_uid(uid: str) -> bytes:
    encoded = uid.encode("latin-1")
    return encoded + b"\0" * (len(encoded) % 2)


def _encode_text(text: str) -> bytes:
    encoded = text.encode("latin-1", "replace")
    return encoded + b" " * (len(encoded) % 2)


def _encode_tags(tags: tuple[int, ...]) -> bytes:
    return b"".join(_US.pack(tag >> 16) + _US.pack(tag & 0xFFFF) for tag in tags)


_DECODE: dict[str, Callable[[bytes], Any]] = {
    "AE": _decode_text,
    "AT": _decode_tags,
    "LO": _decode_text,
    "UI": _decode_uid,
    "US": _decode_number,
}

_ENCODE: dict[str, Callable[[Any], bytes]] = {
    "AE": _encode_text,
    "AT": _encode_tags,
    "LO": _encode_text,
    "UI": _encode_uid,
    "US": _US.pack,
}


class CommandElement(Generic[T]):
    """One row of PS3.7 Table E.1-1, and the attribute of `Command` that reads it: None where absent."""

    def __init__(self, element: int, vr: str) -> None:
        self.element = element
        self.vr = vr
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, command: None, owner: type) -> CommandElement[T]: ...
    @overload
    def __get__(self, command: CommandSet, owner: type) -> T | None: ...
    def __get__(self, command: CommandSet | None, owner: type) -> CommandElement[T] | T | None:
        return self if command is None else command.values.get(self.element)


class CommandSet:
    """The elements of a command, by element number of group 0000; read them by the standard's names."""

    __slots__ = ("values",)

    affected_sop_class_uid = CommandElement[str](0x0002, "UI")
    requested_sop_class_uid = CommandElement[str](0x0003, "UI")
    command_field = CommandElement[int](0x0100, "US")
    message_id = CommandElement[int](0x0110, "US")
    message_id_being_responded_to = CommandElement[int](0x0120, "US")
    move_destination = CommandElement[str](0x0600, "AE")
    priority = CommandElement[int](0x0700, "US")
    command_data_set_type = CommandElement[int](0x0800, "US")
    status = CommandElement[int](0x0900, "US")
    offending_element = CommandElement[tuple[int, ...]](0x0901, "AT")
    error_comment = CommandElement[str](0x0902, "LO")
    error_id = CommandElement[int](0x0903, "US")
    affected_sop_instance_uid = CommandElement[str](0x1000, "UI")
    requested_sop_instance_uid = CommandElement[str](0x1001, "UI")
    event_type_id = CommandElement[int](0x1002, "US")
    attribute_identifier_list = CommandElement[tuple[int, ...]](0x1005, "AT")
    action_type_id = CommandElement[int](0x1008, "US")
    number_of_remaining_sub_operations = CommandElement[int](0x1020, "US")
    number_of_completed_sub_operations = CommandElement[int](0x1021, "US")
    number_of_failed_sub_operations = CommandElement[int](0x1022, "US")
    number_of_warning_sub_operations = CommandElement[int](0x1023, "US")
    move_originator_application_entity_title = CommandElement[str](0x1030, "AE")
    move_originator_message_id = CommandElement[int](0x1031, "US")

    def __init__(self, values: Mapping[int, Any]) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CommandSet) and self.values == other.values

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.values.items())))

    def __repr__(self) -> str:
        known = (f"{ELEMENTS[number].name}={value!r}" for number, value in sorted(self.values.items()))
        return f"{type(self).__name__}({', '.join(known)})"

    def encode(self) -> bytes:
        """The command set with its group length (0000,0000), elements in ascending order."""
        encoded = []
        for number, value in sorted(self.values.items()):
            data = _ENCODE[ELEMENTS[number].vr](value)
            encoded.append(_ELEMENT_HEADER.pack(0, number, len(data)) + data)
        body = b"".join(encoded)
        return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


#: Tag and length of Command Group Length.
_BEGINNING: Final = bytes((0, 0, 0, 0, 4, 0, 0, 0))
_COMMAND_FIELD: Final = 0x0100

#: Table E.1-1 without Command Group Length, by element number.
ELEMENTS: Final[dict[int, CommandElement[Any]]] = {
    row.element: row for row in vars(CommandSet).values() if isinstance(row, CommandElement)
}


#: How the value of each is decoded.
_DECODERS: Final = {number: _DECODE[element.vr] for number, element in ELEMENTS.items()}


def decode_values(data: bytes) -> dict[int, Any]:
    """The known elements of an encoded command set; unknown and retired ones are passed over.

    So is what stands in a response behind the end that Command Group Length (0000,0000) gives: Orthanc puts
    Failed SOP Instance UID List there. Raises `ProtocolError` for anything else that is not one: the bounds,
    the group, the order, a value's length.
    """
    values: dict[int, Any] = {}
    at, end, previous = 0, len(data), -1
    unpack_header, header_size = _ELEMENT_HEADER.unpack_from, _ELEMENT_HEADER.size
    stated_end = end
    if len(data) >= _GROUP_LENGTH.size and data.startswith(_BEGINNING):
        stated_end = _GROUP_LENGTH.size + int.from_bytes(data[8:12], "little")
    while at < end:
        if end - at < header_size:
            raise ProtocolError(f"command set ends with {end - at} bytes too few for an element")
        group, number, length = unpack_header(data, at)
        if group != 0 and at == stated_end and values.get(_COMMAND_FIELD, 0) & 0x8000:
            break
        at += header_size
        if group != 0:
            raise ProtocolError(f"element ({group:04X},{number:04X}) in a command set")
        if number <= previous:
            raise ProtocolError(f"element (0000,{number:04X}) is out of order in a command set")
        if length > end - at:
            raise ProtocolError(f"element (0000,{number:04X}) is {length} bytes long; {end - at} are left")
        previous = number
        decode = _DECODERS.get(number)
        if decode is not None:
            try:
                values[number] = decode(data[at : at + length])
            except ProtocolError as fault:
                name = ELEMENTS[number].name
                raise ProtocolError(f"element (0000,{number:04X}) {name} is {fault}") from None
        at += length
    return values
