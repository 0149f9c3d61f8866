"""The 23 DIMSE messages as data (PS3.7 9.3, 10.3, Annex E.1), and `Command`, one such message's command."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import attrs

from dicomtw.dimse.command import (
    DATA_SET_PRESENT,
    NO_DATA_SET,
    CommandElement,
    CommandSet,
    decode_values,
)
from dicomtw.errors import ProtocolError

_C = CommandSet

#: Priority (0000,0700).
MEDIUM, HIGH, LOW = 0x0000, 0x0001, 0x0002

#: A response's command field is its request's with this bit set (PS3.7 Table E.1-1).
RESPONSE = 0x8000


class DataSet(Enum):
    """Whether a message carries a data set."""

    NEVER = "never"
    ALWAYS = "always"
    MAY = "may"


@attrs.frozen(eq=False)
class MessageType:
    """A row of the standard's message tables; calling it makes the command of such a message.

    `name` is the standard's (`C-STORE-RQ`), `mandatory` and `optional` its elements besides Command Field and
    Command Data Set Type, which are set for each message.
    """

    name: str
    command_field: int
    mandatory: tuple[CommandElement[Any], ...]
    optional: tuple[CommandElement[Any], ...] = ()
    data_set: DataSet = DataSet.NEVER
    #: The operation that it is of, `C-STORE`.
    operation: str = attrs.field(init=False)

    @operation.default
    def _operation(self) -> str:
        return self.name.removesuffix("-RQ").removesuffix("-RSP")

    @property
    def is_response(self) -> bool:
        return bool(self.command_field & RESPONSE)

    def __call__(self, *, data_set: bool | None = None, **elements: Any) -> Command:
        """A command with `elements` by name; elements of value None are left out.

        `data_set` says whether a data set follows, where the message's type leaves that open.
        Raises `TypeError` for an element that the message does not have or that is missing.
        """
        values = {}
        for element in (*self.mandatory, *self.optional):
            value = elements.pop(element.name, None)
            if value is not None:
                values[element.element] = value
            elif element in self.mandatory:
                raise TypeError(f"{self.name} needs {element.name}")
        if elements:
            raise TypeError(f"{self.name} has no {', '.join(elements)}")
        if data_set is None:
            data_set = self.data_set is DataSet.ALWAYS
        values[_C.command_field.element] = self.command_field
        values[_C.command_data_set_type.element] = DATA_SET_PRESENT if data_set else NO_DATA_SET
        return Command(self, values)


class Command(CommandSet):
    """The command set of one message, and which message that is."""

    __slots__ = ("message_type",)

    def __init__(self, message_type: MessageType, values: Mapping[int, Any]) -> None:
        super().__init__(values)
        self.message_type = message_type

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows the command."""
        return self.command_data_set_type != NO_DATA_SET

    @property
    def is_response(self) -> bool:
        return self.message_type.is_response

    @property
    def sop_class_uid(self) -> str:
        """The SOP class it is about, Affected or Requested; empty where it names none."""
        return self.affected_sop_class_uid or self.requested_sop_class_uid or ""

    @classmethod
    def decode(cls, data: bytes) -> Command:
        """The command that `data` encodes.

        Raises `ProtocolError` for what is no command of PS3.7, or lacks what an answer to it needs.
        """
        values = decode_values(data)
        command_field = values.get(_C.command_field.element)
        if command_field is None:
            raise ProtocolError("command set without a Command Field (0000,0100)")
        message_type = MESSAGE_TYPES.get(command_field)
        if message_type is None:
            raise ProtocolError(f"unknown Command Field {command_field:04X}H")
        for element in _INDISPENSABLE[message_type]:
            if element.element not in values:
                raise ProtocolError(f"{message_type.name} without {element.name}")
        return cls(message_type, values)


# ---- the messages -----------------------------------------------------------------------------------

_RESPONSE = (_C.message_id_being_responded_to, _C.status)
_ERROR = (_C.offending_element, _C.error_comment, _C.error_id)
_SUB_OPERATIONS = (
    _C.number_of_remaining_sub_operations,
    _C.number_of_completed_sub_operations,
    _C.number_of_failed_sub_operations,
    _C.number_of_warning_sub_operations,
)
_AFFECTED = (_C.affected_sop_class_uid, _C.affected_sop_instance_uid)
_REQUESTED = (_C.requested_sop_class_uid, _C.requested_sop_instance_uid)

# DIMSE-C (PS3.7 9.3)
C_STORE_RQ = MessageType(
    "C-STORE-RQ",
    0x0001,
    (*_AFFECTED, _C.message_id, _C.priority),
    (_C.move_originator_application_entity_title, _C.move_originator_message_id),
    DataSet.ALWAYS,
)
C_STORE_RSP = MessageType("C-STORE-RSP", 0x8001, _RESPONSE, (*_AFFECTED, *_ERROR))
C_GET_RQ = MessageType(
    "C-GET-RQ",
    0x0010,
    (_C.affected_sop_class_uid, _C.message_id, _C.priority),
    data_set=DataSet.ALWAYS,
)
C_GET_RSP = MessageType(
    "C-GET-RSP",
    0x8010,
    _RESPONSE,
    (_C.affected_sop_class_uid, *_SUB_OPERATIONS, *_ERROR),
    DataSet.MAY,
)
C_FIND_RQ = MessageType(
    "C-FIND-RQ",
    0x0020,
    (_C.affected_sop_class_uid, _C.message_id, _C.priority),
    data_set=DataSet.ALWAYS,
)
C_FIND_RSP = MessageType("C-FIND-RSP", 0x8020, _RESPONSE, (_C.affected_sop_class_uid, *_ERROR), DataSet.MAY)
C_MOVE_RQ = MessageType(
    "C-MOVE-RQ",
    0x0021,
    (_C.affected_sop_class_uid, _C.message_id, _C.priority, _C.move_destination),
    data_set=DataSet.ALWAYS,
)
C_MOVE_RSP = MessageType(
    "C-MOVE-RSP",
    0x8021,
    _RESPONSE,
    (_C.affected_sop_class_uid, *_SUB_OPERATIONS, *_ERROR),
    DataSet.MAY,
)
C_ECHO_RQ = MessageType("C-ECHO-RQ", 0x0030, (_C.affected_sop_class_uid, _C.message_id))
C_ECHO_RSP = MessageType("C-ECHO-RSP", 0x8030, _RESPONSE, (_C.affected_sop_class_uid, *_ERROR))
C_CANCEL_RQ = MessageType("C-CANCEL-RQ", 0x0FFF, (_C.message_id_being_responded_to,))

#: Requests that have pending responses, and that C-CANCEL-RQ is about (PS3.7 9.3.2.3, 9.3.3.3, 9.3.4.3).
CANCELLABLE = (C_FIND_RQ, C_GET_RQ, C_MOVE_RQ)

# DIMSE-N (PS3.7 10.3)
N_EVENT_REPORT_RQ = MessageType(
    "N-EVENT-REPORT-RQ", 0x0100, (*_AFFECTED, _C.message_id, _C.event_type_id), data_set=DataSet.MAY
)
N_EVENT_REPORT_RSP = MessageType(
    "N-EVENT-REPORT-RSP", 0x8100, _RESPONSE, (*_AFFECTED, _C.event_type_id, *_ERROR), DataSet.MAY
)
N_GET_RQ = MessageType("N-GET-RQ", 0x0110, (*_REQUESTED, _C.message_id), (_C.attribute_identifier_list,))
N_GET_RSP = MessageType("N-GET-RSP", 0x8110, _RESPONSE, (*_AFFECTED, *_ERROR), DataSet.MAY)
N_SET_RQ = MessageType("N-SET-RQ", 0x0120, (*_REQUESTED, _C.message_id), data_set=DataSet.ALWAYS)
N_SET_RSP = MessageType(
    "N-SET-RSP", 0x8120, _RESPONSE, (*_AFFECTED, _C.attribute_identifier_list, *_ERROR), DataSet.MAY
)
N_ACTION_RQ = MessageType(
    "N-ACTION-RQ", 0x0130, (*_REQUESTED, _C.message_id, _C.action_type_id), data_set=DataSet.MAY
)
N_ACTION_RSP = MessageType(
    "N-ACTION-RSP", 0x8130, _RESPONSE, (*_AFFECTED, _C.action_type_id, *_ERROR), DataSet.MAY
)
N_CREATE_RQ = MessageType(
    "N-CREATE-RQ",
    0x0140,
    (_C.affected_sop_class_uid, _C.message_id),
    (_C.affected_sop_instance_uid,),
    DataSet.MAY,
)
N_CREATE_RSP = MessageType(
    "N-CREATE-RSP", 0x8140, _RESPONSE, (*_AFFECTED, _C.attribute_identifier_list, *_ERROR), DataSet.MAY
)
N_DELETE_RQ = MessageType("N-DELETE-RQ", 0x0150, (*_REQUESTED, _C.message_id))
N_DELETE_RSP = MessageType("N-DELETE-RSP", 0x8150, _RESPONSE, (*_AFFECTED, *_ERROR))

#: By command field.
MESSAGE_TYPES: dict[int, MessageType] = {
    message_type.command_field: message_type
    for message_type in tuple(vars().values())
    if isinstance(message_type, MessageType)
}

#: Without these a message can neither be answered nor matched with what it answers.
_INDISPENSABLE = {
    message_type: (
        _C.command_data_set_type,
        *(
            element
            for element in (_C.message_id, _C.message_id_being_responded_to, _C.status)
            if element in message_type.mandatory
        ),
    )
    for message_type in MESSAGE_TYPES.values()
}


def response_type(request: MessageType) -> MessageType:
    """The message that answers `request`; C-CANCEL-RQ has none and raises `KeyError`."""
    return MESSAGE_TYPES[request.command_field | RESPONSE]
