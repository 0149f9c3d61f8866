"""Command sets against bytes typed from PS3.7 Table E.1-1, both ways, and against what is no command set."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.dimse.command import ELEMENTS, CommandElement, CommandSet, decode_values
from dicomtw.errors import AbortReason, ProtocolError
from tests.ul.recorders import modest, octets

#: PS3.7 Table E.1-1, typed a second time: the message field's name, its element number and its VR.
TABLE_E_1_1 = """
    Affected SOP Class UID                      0002  UI
    Requested SOP Class UID                     0003  UI
    Command Field                               0100  US
    Message ID                                  0110  US
    Message ID Being Responded To               0120  US
    Move Destination                            0600  AE
    Priority                                    0700  US
    Command Data Set Type                       0800  US
    Status                                      0900  US
    Offending Element                           0901  AT
    Error Comment                               0902  LO
    Error ID                                    0903  US
    Affected SOP Instance UID                   1000  UI
    Requested SOP Instance UID                  1001  UI
    Event Type ID                               1002  US
    Attribute Identifier List                   1005  AT
    Action Type ID                              1008  US
    Number of Remaining Sub-operations          1020  US
    Number of Completed Sub-operations          1021  US
    Number of Failed Sub-operations             1022  US
    Number of Warning Sub-operations            1023  US
    Move Originator Application Entity Title    1030  AE
    Move Originator Message ID                  1031  US
"""

C_ECHO_RQ = octets("""
    00 00 00 00 04 00 00 00  38 00 00 00                                # Command Group Length: 56
    00 00 02 00 12 00 00 00  31 2E 32 2E 38 34 30 2E 31 30 30 30 38     # Affected SOP Class UID:
                             2E 31 2E 31 00                             #   1.2.840.10008.1.1, padded
    00 00 00 01 02 00 00 00  30 00                                      # Command Field: 0030H
    00 00 10 01 02 00 00 00  01 00                                      # Message ID: 1
    00 00 00 08 02 00 00 00  01 01                                      # Command Data Set Type: 0101H
""")

C_STORE_RQ = octets("""
    00 00 00 00 04 00 00 00  74 00 00 00                                # Command Group Length: 116
    00 00 02 00 1A 00 00 00  31 2E 32 2E 38 34 30 2E 31 30 30 30 38     # Affected SOP Class UID:
                             2E 35 2E 31 2E 34 2E 31 2E 31 2E 32 00     #   1.2.840.10008.5.1.4.1.1.2
    00 00 00 01 02 00 00 00  01 00                                      # Command Field: 0001H
    00 00 10 01 02 00 00 00  34 12                                      # Message ID: 1234H
    00 00 00 07 02 00 00 00  02 00                                      # Priority: low
    00 00 00 08 02 00 00 00  00 00                                      # Command Data Set Type
    00 00 00 10 08 00 00 00  31 2E 32 2E 33 2E 34 00                    # Affected SOP Instance UID: 1.2.3.4
    00 00 30 10 08 00 00 00  53 54 4F 52 45 53 43 55                    # Move Originator AE Title: STORESCU
    00 00 31 10 02 00 00 00  FF FF                                      # Move Originator Message ID: 65535
""")

C_STORE_RSP = octets("""
    00 00 00 00 04 00 00 00  52 00 00 00                                # Command Group Length: 82
    00 00 00 01 02 00 00 00  01 80                                      # Command Field: 8001H
    00 00 20 01 02 00 00 00  34 12                                      # Message ID Being Responded To
    00 00 00 08 02 00 00 00  01 01                                      # Command Data Set Type: 0101H
    00 00 00 09 02 00 00 00  00 A9                                      # Status: A900H
    00 00 01 09 08 00 00 00  08 00 16 00 08 00 18 00                    # Offending Element: two tags
    00 00 02 09 08 00 00 00  62 61 64 20 55 49 44 20                    # Error Comment: bad UID, padded
    00 00 03 09 02 00 00 00  07 00                                      # Error ID: 7
""")

C_MOVE_RQ = octets("""
    00 00 00 00 04 00 00 00  5C 00 00 00                                # Command Group Length: 92
    00 00 02 00 1C 00 00 00  31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E  # Affected SOP Class UID:
                             35 2E 31 2E 34 2E 31 2E 32 2E 32 2E 32 00  #   1.2.840.10008.5.1.4.1.2.2.2
    00 00 00 01 02 00 00 00  21 00                                      # Command Field: 0021H
    00 00 10 01 02 00 00 00  02 00                                      # Message ID: 2
    00 00 00 06 08 00 00 00  41 52 43 48 49 56 45 20                    # Move Destination: ARCHIVE, padded
    00 00 00 07 02 00 00 00  01 00                                      # Priority: high
    00 00 00 08 02 00 00 00  00 00                                      # Command Data Set Type
""")

C_MOVE_RSP = octets("""
    00 00 00 00 04 00 00 00  50 00 00 00                                # Command Group Length: 80
    00 00 00 01 02 00 00 00  21 80                                      # Command Field: 8021H
    00 00 20 01 02 00 00 00  02 00                                      # Message ID Being Responded To: 2
    00 00 00 08 02 00 00 00  01 01                                      # Command Data Set Type: 0101H
    00 00 00 09 02 00 00 00  00 FF                                      # Status: FF00H, pending
    00 00 20 10 02 00 00 00  04 03                                      # Remaining Sub-operations: 0304H
    00 00 21 10 02 00 00 00  03 00                                      # Completed: 3
    00 00 22 10 02 00 00 00  02 00                                      # Failed: 2
    00 00 23 10 02 00 00 00  01 00                                      # Warning: 1
""")

N_GET_RQ = octets("""
    00 00 00 00 04 00 00 00  6A 00 00 00                                # Command Group Length: 106
    00 00 03 00 16 00 00 00  31 2E 32 2E 38 34 30 2E 31 30 30 30 38     # Requested SOP Class UID:
                             2E 35 2E 31 2E 31 2E 31 36                 #   1.2.840.10008.5.1.1.16
    00 00 00 01 02 00 00 00  10 01                                      # Command Field: 0110H
    00 00 10 01 02 00 00 00  03 00                                      # Message ID: 3
    00 00 00 08 02 00 00 00  01 01                                      # Command Data Set Type: 0101H
    00 00 01 10 16 00 00 00  31 2E 32 2E 38 34 30 2E 31 30 30 30 38     # Requested SOP Instance UID:
                             2E 35 2E 31 2E 31 2E 31 37                 #   1.2.840.10008.5.1.1.17
    00 00 05 10 08 00 00 00  10 21 10 00 10 21 20 00                    # Attribute Identifier List: two tags
""")

GOLDEN: list[tuple[dict[int, Any], bytes]] = [
    ({0x0002: "1.2.840.10008.1.1", 0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101}, C_ECHO_RQ),
    (
        {
            0x0002: "1.2.840.10008.5.1.4.1.1.2",
            0x0100: 0x0001,
            0x0110: 0x1234,
            0x0700: 2,
            0x0800: 0,
            0x1000: "1.2.3.4",
            0x1030: "STORESCU",
            0x1031: 0xFFFF,
        },
        C_STORE_RQ,
    ),
    (
        {
            0x0100: 0x8001,
            0x0120: 0x1234,
            0x0800: 0x0101,
            0x0900: 0xA900,
            0x0901: (0x00080016, 0x00080018),
            0x0902: "bad UID",
            0x0903: 7,
        },
        C_STORE_RSP,
    ),
    (
        {
            0x0002: "1.2.840.10008.5.1.4.1.2.2.2",
            0x0100: 0x0021,
            0x0110: 2,
            0x0600: "ARCHIVE",
            0x0700: 1,
            0x0800: 0,
        },
        C_MOVE_RQ,
    ),
    (
        {
            0x0100: 0x8021,
            0x0120: 2,
            0x0800: 0x0101,
            0x0900: 0xFF00,
            0x1020: 0x0304,
            0x1021: 3,
            0x1022: 2,
            0x1023: 1,
        },
        C_MOVE_RSP,
    ),
    (
        {
            0x0003: "1.2.840.10008.5.1.1.16",
            0x0100: 0x0110,
            0x0110: 3,
            0x0800: 0x0101,
            0x1001: "1.2.840.10008.5.1.1.17",
            0x1005: (0x21100010, 0x21100020),
        },
        N_GET_RQ,
    ),
]


def element(number: int, value: bytes, *, group: int = 0, length: int | None = None) -> bytes:
    """One element of a command set, with a length that may be a lie."""
    size = len(value) if length is None else length
    return b"".join(
        (group.to_bytes(2, "little"), number.to_bytes(2, "little"), size.to_bytes(4, "little"), value)
    )


class TableTests(SynchronousTestCase):
    def test_table_e_1_1(self) -> None:
        """Every element has the tag and the VR of Table E.1-1, and its name there in snake_case."""
        table = {}
        for row in TABLE_E_1_1.strip().splitlines():
            *name, number, vr = row.split()
            table["_".join(name).lower().replace("-", "_")] = (int(number, 16), vr)
        self.assertEqual(len(table), 23)
        self.assertEqual({row.name: (row.element, row.vr) for row in ELEMENTS.values()}, table)
        self.assertEqual(list(ELEMENTS), [row.element for row in ELEMENTS.values()])

    def test_read_by_name(self) -> None:
        """An element is read by the standard's name, None where absent; the class has the table's row."""
        command = CommandSet({0x0110: 5})
        self.assertEqual(command.message_id, 5)
        self.assertIsNone(command.status)
        self.assertIsInstance(CommandSet.message_id, CommandElement)
        self.assertIs(CommandSet.message_id, ELEMENTS[0x0110])


class GoldenTests(SynchronousTestCase):
    def test_encode(self) -> None:
        """Command sets are encoded to the bytes typed from the standard, group length first."""
        for values, golden in GOLDEN:
            self.assertEqual(CommandSet(values).encode().hex(" "), golden.hex(" "))

    def test_decode(self) -> None:
        """The bytes typed from the standard are decoded to their values."""
        for values, golden in GOLDEN:
            self.assertEqual(decode_values(golden), values)

    def test_encode_sorts(self) -> None:
        """Elements are encoded in ascending order whatever the order they were given in."""
        for values, golden in GOLDEN:
            self.assertEqual(CommandSet(dict(reversed(values.items()))).encode(), golden)


class ValueTests(SynchronousTestCase):
    def test_decode(self) -> None:
        """Each VR's value is decoded without the padding that PS3.5 6.2 allows it."""
        cases: list[tuple[int, bytes, Any]] = [
            (0x0002, b"", ""),
            (0x0002, b"1.2\0", "1.2"),
            (0x0002, b"1.2 ", "1.2"),  # wrong, and seen
            (0x0002, b"1.2", "1.2"),
            (0x0002, b"1.2\0\0\0", "1.2"),
            (0x0002, b"\xff/..", "\xff/.."),  # not for a parser to judge
            (0x0600, b"  STORE ", "STORE"),
            (0x0600, b"CT ROOM 1       ", "CT ROOM 1"),
            (0x0600, b"STORE\0", "STORE"),
            (0x0600, b"    ", ""),
            (0x0902, b"caf\xe9", "caf\xe9"),
            (0x0902, b"", ""),
            (0x0110, b"\x02\x01", 0x0102),
            (0x0900, b"\xff\xff", 0xFFFF),
            (0x0901, b"", ()),
            (0x0901, b"\x10\x00\x20\x00", (0x00100020,)),
            (0x1005, b"\xe0\x7f\x10\x00\x08\x00\x05\x00", (0x7FE00010, 0x00080005)),
        ]
        for number, encoded, value in cases:
            self.assertEqual(decode_values(element(number, encoded)), {number: value}, encoded)

    def test_encode(self) -> None:
        """Each VR's value is encoded to an even length with the padding that PS3.5 6.2 prescribes."""
        cases: list[tuple[int, Any, bytes]] = [
            (0x0002, "", b""),
            (0x0002, "1.2", b"1.2\0"),
            (0x0002, "1.22", b"1.22"),
            (0x0600, "STORE", b"STORE "),
            (0x0600, "STORES", b"STORES"),
            (0x0902, "caf\xe9s", b"caf\xe9s "),
            (0x0902, "caf\u0113", b"caf?"),
            (0x0110, 0x0102, b"\x02\x01"),
            (0x0901, (), b""),
            (0x1005, (0x7FE00010, 0x00080005), b"\xe0\x7f\x10\x00\x08\x00\x05\x00"),
        ]
        for number, value, encoded in cases:
            body = element(number, encoded)
            golden = element(0, len(body).to_bytes(4, "little")) + body
            self.assertEqual(CommandSet({number: value}).encode(), golden, repr(value))

    def test_empty(self) -> None:
        """A command set without elements is its group length of 0, and nothing is decoded from nothing."""
        self.assertEqual(CommandSet({}).encode(), element(0, bytes(4)))
        self.assertEqual(decode_values(b""), {})


class PassedOverTests(SynchronousTestCase):
    def test_unknown_elements(self) -> None:
        """Unknown and retired elements (PS3.7 Table E.2-1) are passed over, wherever they stand."""
        known = element(0x0110, b"\x05\x00") + element(0x0900, b"\x00\x00")
        values = {0x0110: 5, 0x0900: 0}
        self.assertEqual(decode_values(element(0x0001, b"\xff\xff\xff\xff") + known), values)  # length to end
        self.assertEqual(decode_values(known[:10] + element(0x0200, b"ORIGIN") + known[10:]), values)
        self.assertEqual(decode_values(known + element(0x51B0, b"odd")), values)
        self.assertEqual(decode_values(known + element(0xFFFF, b"")), values)

    def test_group_length_is_not_believed(self) -> None:
        """A command group length that is missing or not true changes nothing: the elements are counted."""
        for values, golden in GOLDEN:
            self.assertEqual(decode_values(golden[12:]), values)
            for lie in (0, 1, 0xFFFFFFFF):
                self.assertEqual(decode_values(element(0, lie.to_bytes(4, "little")) + golden[12:]), values)

    def test_behind_the_end(self) -> None:
        """What stands in a response behind the end that the group length gives is passed over."""
        body = element(0x0100, b"\x10\x80") + element(0x0120, b"\1\0") + element(0x0900, b"\x02\xa7")
        length, failed = element(0, len(body).to_bytes(4, "little")), element(0x0058, b"1.2\0", group=8)
        self.assertEqual(decode_values(length + body + failed), decode_values(body))
        for encoded in (body + failed, element(0, b"\1\0\0\0") + body + failed, C_ECHO_RQ + failed):
            self.assertRaises(ProtocolError, decode_values, encoded)


class FaultTests(SynchronousTestCase):
    def assertFault(self, data: bytes, *words: str) -> None:
        fault = self.assertRaises(ProtocolError, decode_values, data)
        self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)
        for word in words:
            self.assertIn(word, str(fault))

    def test_cut_off(self) -> None:
        """A command set that is cut off is a fault, unless it ends with an element: those are read."""
        for values, golden in GOLDEN:
            ends = {0: 0}  # the end of an element: how many known ones there are before it
            at = 0
            while at < len(golden):
                at += 8 + int.from_bytes(golden[at + 4 : at + 8], "little")
                ends[at] = len(ends) - 1
            for cut in range(len(golden)):
                if cut in ends:
                    self.assertEqual(decode_values(golden[:cut]), dict([*values.items()][: ends[cut]]))
                else:
                    self.assertFault(golden[:cut])

    def test_faults(self) -> None:
        """What breaks the rules of a command set is a fault that names the element and what is wrong."""
        message_id = element(0x0110, b"\x05\x00")
        cases: list[tuple[bytes, str]] = [
            (element(0x0110, b"\x05\x00", group=8), "(0008,0110) in a command set"),
            (message_id + element(0x0010, b"\0\0", group=0xFFFE), "(FFFE,0010) in a command set"),
            (element(0x0120, b"\x05\x00") + message_id, "(0000,0110) is out of order"),
            (message_id + element(0, bytes(4)), "(0000,0000) is out of order"),
            (message_id + message_id, "(0000,0110) is out of order"),
            (element(0x5110, b"") + element(0x5110, b""), "(0000,5110) is out of order"),
            (element(0x0110, b"\x05\x00", length=3), "3 bytes long; 2 are left"),
            (element(0x0110, b"\x05\x00", length=0xFFFFFFFF), "4294967295 bytes long; 2 are left"),
            (element(0x5110, b"", length=1), "1 bytes long; 0 are left"),
            (element(0x0110, b""), "(0000,0110) message_id is 0 bytes long; 2 is right"),
            (element(0x0110, b"\x05"), "(0000,0110) message_id is 1 bytes long; 2 is right"),
            (element(0x0110, b"\x05\0\0"), "(0000,0110) message_id is 3 bytes long; 2 is right"),
            (element(0x0900, bytes(4)), "(0000,0900) status is 4 bytes long; 2 is right"),
            (element(0x0901, bytes(2)), "(0000,0901) offending_element is 2 bytes long"),
            (element(0x1005, bytes(7)), "(0000,1005) attribute_identifier_list is 7 bytes long"),
        ]
        for data, words in cases:
            self.assertFault(data, words)

    def test_wrong_sizes_everywhere(self) -> None:
        """A number or a list of tags of a wrong size is a fault in each element that has one."""
        right = {"US": {2}, "AT": {0, 4, 8}}
        for row in ELEMENTS.values():
            for size in range(10):
                data = element(row.element, bytes(size))
                if size in right.get(row.vr, {size}):
                    self.assertIn(row.element, decode_values(data))
                else:
                    self.assertFault(data, f"(0000,{row.element:04X}) {row.name} is {size} bytes long")

    @modest
    @given(st.binary(max_size=120))
    def test_garbage(self, data: bytes) -> None:
        """Any bytes at all are decoded or are a ProtocolError."""
        self._decode(data)

    @modest
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([*ELEMENTS, 0, 1, 0x0200, 0xFFFF]),
                st.binary(max_size=9),
                st.sampled_from([0, 0, 0, 0, 0, 8, 0xFFFE]),
                st.sampled_from([None, None, None, None, 0, 1, 7, 0xFFFFFFFF]),
            ),
            max_size=8,
        ),
        st.booleans(),
    )
    def test_likely_garbage(self, rows: list[tuple[int, bytes, int, int | None]], in_order: bool) -> None:
        """Elements with any tags, values and lengths are decoded or are a ProtocolError."""
        if in_order:
            rows.sort(key=lambda row: row[0])
        self._decode(
            b"".join(element(number, value, group=group, length=size) for number, value, group, size in rows)
        )

    @modest
    @given(st.data())
    def test_spoilt(self, data: st.DataObject) -> None:
        """A good command set with any one byte changed is decoded or is a ProtocolError."""
        golden = bytearray(data.draw(st.sampled_from([golden for _, golden in GOLDEN])))
        golden[data.draw(st.integers(0, len(golden) - 1))] = data.draw(st.integers(0, 255))
        self._decode(bytes(golden))

    def _decode(self, data: bytes) -> None:
        try:
            values = decode_values(data)
        except ProtocolError:
            return
        self.assertLessEqual(set(values), set(ELEMENTS))
        self.assertEqual(decode_values(CommandSet(values).encode()), values)


class SameCommandTests(SynchronousTestCase):
    def test_equality(self) -> None:
        """Command sets are equal, and hash alike, if their elements are."""
        one = CommandSet({0x0110: 1, 0x0901: (0x00080018,)})
        same = CommandSet({0x0901: (0x00080018,), 0x0110: 1})
        self.assertEqual(one, same)
        self.assertEqual(hash(one), hash(same))
        self.assertNotEqual(one, CommandSet({0x0110: 2, 0x0901: (0x00080018,)}))
        self.assertNotEqual(one, one.values)

    def test_repr(self) -> None:
        """A command set is shown with the standard's names, in the standard's order."""
        self.assertEqual(
            repr(CommandSet({0x0902: "no", 0x0110: 1})), "CommandSet(message_id=1, error_comment='no')"
        )
