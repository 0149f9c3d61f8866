"""The 23 DIMSE messages against PS3.7 9.3 and 10.3, typed a second time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.dimse import messages
from dicomtw.dimse.command import ELEMENTS, CommandSet, decode_values
from dicomtw.dimse.messages import MESSAGE_TYPES, Command, DataSet, MessageType, response_type
from dicomtw.errors import AbortReason, ProtocolError

#: Command field; what is mandatory besides Command Field and Command Data Set Type; the data set
#: (M: there is one, -: there is none, U: both can be). "to" is Message ID Being Responded To.
TABLE = """
    C-STORE-RQ          0001  M  affected_class affected_instance message_id priority
    C-STORE-RSP         8001  -  to status
    C-GET-RQ            0010  M  affected_class message_id priority
    C-GET-RSP           8010  U  to status
    C-FIND-RQ           0020  M  affected_class message_id priority
    C-FIND-RSP          8020  U  to status
    C-MOVE-RQ           0021  M  affected_class message_id priority move_destination
    C-MOVE-RSP          8021  U  to status
    C-ECHO-RQ           0030  -  affected_class message_id
    C-ECHO-RSP          8030  -  to status
    C-CANCEL-RQ         0FFF  -  to
    N-EVENT-REPORT-RQ   0100  U  affected_class affected_instance message_id event_type_id
    N-EVENT-REPORT-RSP  8100  U  to status
    N-GET-RQ            0110  -  requested_class requested_instance message_id
    N-GET-RSP           8110  U  to status
    N-SET-RQ            0120  M  requested_class requested_instance message_id
    N-SET-RSP           8120  U  to status
    N-ACTION-RQ         0130  U  requested_class requested_instance message_id action_type_id
    N-ACTION-RSP        8130  U  to status
    N-CREATE-RQ         0140  U  affected_class message_id
    N-CREATE-RSP        8140  U  to status
    N-DELETE-RQ         0150  -  requested_class requested_instance message_id
    N-DELETE-RSP        8150  -  to status
"""

#: What else a message may have: the U, C and U(=) fields of its table, without the error fields.
OPTIONAL = """
    C-STORE-RQ          move_originator_application_entity_title move_originator_message_id
    C-STORE-RSP         affected_class affected_instance
    C-GET-RSP           affected_class sub_operations
    C-FIND-RSP          affected_class
    C-MOVE-RSP          affected_class sub_operations
    C-ECHO-RSP          affected_class
    N-EVENT-REPORT-RSP  affected_class affected_instance event_type_id
    N-GET-RQ            attribute_identifier_list
    N-GET-RSP           affected_class affected_instance
    N-SET-RSP           affected_class affected_instance attribute_identifier_list
    N-ACTION-RSP        affected_class affected_instance action_type_id
    N-CREATE-RQ         affected_instance
    N-CREATE-RSP        affected_class affected_instance
    N-DELETE-RSP        affected_class affected_instance
"""

_SHORT = {
    "affected_class": ["affected_sop_class_uid"],
    "affected_instance": ["affected_sop_instance_uid"],
    "requested_class": ["requested_sop_class_uid"],
    "requested_instance": ["requested_sop_instance_uid"],
    "to": ["message_id_being_responded_to"],
    "sub_operations": [
        f"number_of_{what}_sub_operations" for what in ("remaining", "completed", "failed", "warning")
    ],
}
_RULES = {"M": DataSet.ALWAYS, "-": DataSet.NEVER, "U": DataSet.MAY}
_VALUES: dict[str, Any] = {"UI": "1.2.3", "US": 7, "AT": (0x00080018,), "AE": "STORE", "LO": "comment"}


def _names(short: list[str]) -> list[str]:
    return [name for word in short for name in _SHORT.get(word, [word])]


MANDATORY: dict[str, list[str]] = {}
FIELDS: dict[str, tuple[int, DataSet]] = {}
for _row in TABLE.strip().splitlines():
    _name, _field, _rule, *_elements = _row.split()
    FIELDS[_name] = (int(_field, 16), _RULES[_rule])
    MANDATORY[_name] = _names(_elements)

OPTIONALS = {name: _names(rest) for name, *rest in map(str.split, OPTIONAL.strip().splitlines())}


def values(names: list[str]) -> dict[str, Any]:
    """A value for each of the elements so named."""
    vrs = {row.name: row.vr for row in ELEMENTS.values()}
    return {name: _VALUES[vrs[name]] for name in names}


def complete(message_type: MessageType) -> Command:
    """A command of this type with what is mandatory."""
    return message_type(**values(MANDATORY[message_type.name]))


class TableTests(SynchronousTestCase):
    def test_command_fields_and_data_sets(self) -> None:
        """There are the standard's 23 messages, each with its command field and rule for the data set."""
        self.assertEqual(len(FIELDS), 23)
        self.assertEqual(
            {row.name: (row.command_field, row.data_set) for row in MESSAGE_TYPES.values()}, FIELDS
        )
        for command_field, message_type in MESSAGE_TYPES.items():
            self.assertEqual(command_field, message_type.command_field)
            self.assertIs(getattr(messages, message_type.name.replace("-", "_")), message_type)

    def test_mandatory_elements(self) -> None:
        """Each message's mandatory elements are those of its table in the standard."""
        for message_type in MESSAGE_TYPES.values():
            self.assertEqual(
                {row.name for row in message_type.mandatory},
                set(MANDATORY[message_type.name]),
                message_type.name,
            )

    def test_optional_elements(self) -> None:
        """Each message has room for the other elements of its table, and a response for the error fields."""
        for message_type in MESSAGE_TYPES.values():
            optional = set(OPTIONALS.get(message_type.name, []))
            if message_type.is_response:
                optional |= {"offending_element", "error_comment", "error_id"}
            self.assertLessEqual(optional, {row.name for row in message_type.optional}, message_type.name)

    def test_is_response(self) -> None:
        """The messages called -RSP are responses, and their command fields have bit 15 set."""
        for message_type in MESSAGE_TYPES.values():
            self.assertEqual(message_type.is_response, message_type.name.endswith("-RSP"))
            self.assertEqual(message_type.is_response, complete(message_type).is_response)

    def test_response_type(self) -> None:
        """Each request is answered by the response of its name; nothing answers a C-CANCEL-RQ."""
        for message_type in MESSAGE_TYPES.values():
            if message_type is messages.C_CANCEL_RQ:
                self.assertRaises(KeyError, response_type, message_type)
            elif not message_type.is_response:
                self.assertEqual(response_type(message_type).name, message_type.name.replace("-RQ", "-RSP"))

    def test_constants(self) -> None:
        """Priorities are those of Table E.1-1."""
        self.assertEqual((messages.LOW, messages.MEDIUM, messages.HIGH), (2, 0, 1))


class ConstructionTests(SynchronousTestCase):
    def test_mandatory(self) -> None:
        """A command has what it was given, its command field and its data set type."""
        for message_type in MESSAGE_TYPES.values():
            given = values(MANDATORY[message_type.name])
            command = message_type(**given)
            self.assertIs(command.message_type, message_type)
            self.assertEqual(command.command_field, FIELDS[message_type.name][0])
            for name, value in given.items():
                self.assertEqual(getattr(command, name), value)
            self.assertEqual(len(command.values), len(given) + 2)

    def test_missing(self) -> None:
        """Without any one of its mandatory elements no command is made, and the error names it."""
        for message_type in MESSAGE_TYPES.values():
            given = values(MANDATORY[message_type.name])
            for name in given:
                for kept in ({**given, name: None}, {key: given[key] for key in given if key != name}):
                    error = self.assertRaises(TypeError, message_type, **kept)
                    self.assertEqual(str(error), f"{message_type.name} needs {name}")

    def test_optional(self) -> None:
        """Optional elements are there when given and left out when None."""
        for message_type in MESSAGE_TYPES.values():
            given = values(MANDATORY[message_type.name])
            names = [row.name for row in message_type.optional]
            with_all = message_type(**given, **values(names))
            for name, value in values(names).items():
                self.assertEqual(getattr(with_all, name), value)
            self.assertEqual(message_type(**given, **dict.fromkeys(names)), message_type(**given))

    def test_surplus(self) -> None:
        """An element that the message does not have is refused by name, as is one that does not exist."""
        every = {row.name for row in ELEMENTS.values()} | {"no_such_element"}
        for message_type in MESSAGE_TYPES.values():
            given = values(MANDATORY[message_type.name])
            for name in every - {row.name for row in (*message_type.mandatory, *message_type.optional)}:
                error = self.assertRaises(TypeError, message_type, **given, **{name: 1})
                self.assertEqual(str(error), f"{message_type.name} has no {name}")

    def test_zero_is_a_value(self) -> None:
        """0, and an empty string, are values and not missing ones."""
        command = messages.C_STORE_RSP(message_id_being_responded_to=0, status=0, error_comment="")
        self.assertEqual((command.message_id_being_responded_to, command.status), (0, 0))
        self.assertEqual(command.error_comment, "")

    def test_has_data_set(self) -> None:
        """A command says by its data set type whether a data set follows: 0101H none, all else one."""
        for message_type in MESSAGE_TYPES.values():
            given = values(MANDATORY[message_type.name])
            self.assertEqual(message_type(**given).has_data_set, message_type.data_set is DataSet.ALWAYS)
            if message_type.data_set is DataSet.MAY:
                for there in (True, False):
                    command = message_type(data_set=there, **given)
                    self.assertEqual(command.has_data_set, there)
                    self.assertEqual(command.command_data_set_type == 0x0101, not there)
        for data_set_type in (0x0000, 0x0001, 0x0100, 0x0102, 0xFEFE, 0xFFFF):
            command = Command(messages.C_FIND_RSP, {0x0800: data_set_type})
            self.assertTrue(command.has_data_set, data_set_type)

    def test_sop_class_uid(self) -> None:
        """The SOP class of a command is the Affected or the Requested one, or empty."""
        cases = [
            ({0x0002: "1.2"}, "1.2"),
            ({0x0003: "1.3"}, "1.3"),
            ({0x0002: "1.2", 0x0003: "1.3"}, "1.2"),
            ({0x0002: "", 0x0003: "1.3"}, "1.3"),
            ({}, ""),
        ]
        for elements, sop_class_uid in cases:
            self.assertEqual(Command(messages.C_ECHO_RQ, elements).sop_class_uid, sop_class_uid)


class DecodeTests(SynchronousTestCase):
    def assertFault(self, elements: dict[int, Any], words: str) -> None:
        fault = self.assertRaises(ProtocolError, Command.decode, CommandSet(elements).encode())
        self.assertEqual(str(fault), words)
        self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)

    def test_round_trip(self) -> None:
        """Each message with all its elements comes back as it was encoded."""
        for message_type in MESSAGE_TYPES.values():
            every = [row.name for row in (*message_type.mandatory, *message_type.optional)]
            for command in (complete(message_type), message_type(**values(every))):
                decoded = Command.decode(command.encode())
                self.assertEqual(decoded, command)
                self.assertIs(decoded.message_type, message_type)
                self.assertEqual(decoded.has_data_set, command.has_data_set)

    def test_no_command_field(self) -> None:
        """A command set without Command Field is a fault, an empty one too."""
        self.assertFault({}, "command set without a Command Field (0000,0100)")
        self.assertFault({0x0110: 1, 0x0800: 0}, "command set without a Command Field (0000,0100)")
        self.assertRaises(ProtocolError, Command.decode, b"")

    def test_unknown_command_field(self) -> None:
        """All command fields but the 23 are faults, 0999H among them."""
        self.assertFault({0x0100: 0x0999, 0x0110: 1, 0x0800: 0x0101}, "unknown Command Field 0999H")
        known = {command_field for command_field, _ in FIELDS.values()}
        for command_field in range(0x10000):
            if command_field not in known:
                self.assertNotIn(command_field, MESSAGE_TYPES)

    def test_indispensable(self) -> None:
        """Without message ID, data set type or status there is nothing to answer or to match: a fault."""
        for message_type in MESSAGE_TYPES.values():
            full = complete(message_type).values
            for number, name in {
                0x0110: "message_id",
                0x0120: "message_id_being_responded_to",
                0x0800: "command_data_set_type",
                0x0900: "status",
            }.items():
                if number in full:
                    without = {key: value for key, value in full.items() if key != number}
                    self.assertFault(without, f"{message_type.name} without {name}")

    def test_dispensable(self) -> None:
        """Other mandatory elements may be missing: that is for a status to say, not for an abort."""
        for message_type in MESSAGE_TYPES.values():
            full = complete(message_type).values
            for number in full.keys() - {0x0100, 0x0110, 0x0120, 0x0800, 0x0900}:
                without = {key: value for key, value in full.items() if key != number}
                self.assertEqual(Command.decode(CommandSet(without).encode()).values, without)

    def test_every_fault_of_a_command_set(self) -> None:
        """A message that is cut off anywhere is a ProtocolError or lacks only its last elements."""
        for message_type in MESSAGE_TYPES.values():
            encoded = complete(message_type).encode()
            for cut in range(len(encoded)):
                try:
                    command = Command.decode(encoded[:cut])
                except ProtocolError:
                    continue
                self.assertEqual(command.values, decode_values(encoded[:cut]))

    def test_repr(self) -> None:
        """A command is shown with its elements by name."""
        command = messages.C_CANCEL_RQ(message_id_being_responded_to=3)
        self.assertEqual(
            repr(command),
            "Command(command_field=4095, message_id_being_responded_to=3, command_data_set_type=257)",
        )
