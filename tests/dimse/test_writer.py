"""Messages cut to P-DATA-TF PDUs (PS3.8 9.3.5, Annex E): taken apart by hand, and read back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.dimse import messages, writer
from dicomtw.dimse.messages import Command
from dicomtw.dimse.reader import MessageReader
from dicomtw.ul.framer import Framer
from tests.dimse import RecordingMessages
from tests.dimse.test_command import C_ECHO_RQ, C_STORE_RQ
from tests.ul.recorders import chunked, modest, octets

COMMAND, LAST = 1, 2

#: Maximum lengths that a peer may state, and the longest fragment for each.
FRAGMENT_LENGTHS = {
    8: 2,
    9: 2,
    10: 4,
    16: 10,
    17: 10,
    100: 94,
    16384: 16378,
    (1 << 18) - 1: (1 << 18) - 8,
    1 << 18: (1 << 18) - 6,
    (1 << 18) + 1: (1 << 18) - 6,
    0xFFFFFFFF: (1 << 18) - 6,
    0: (1 << 18) - 6,
}


def take_apart(stream: bytes) -> list[tuple[int, int, bytes]]:
    """Context ID, message control header and fragment of each PDU, all lengths checked."""
    fragments = []
    while stream:
        assert stream[:2] == b"\x04\x00", "no P-DATA-TF"
        pdu_length = int.from_bytes(stream[2:6], "big")
        pdv_length = int.from_bytes(stream[6:10], "big")
        assert pdu_length == pdv_length + 4, "not one PDV that fills its PDU"
        assert len(stream) >= 6 + pdu_length, "cut off"
        fragments.append((stream[10], stream[11], stream[12 : 6 + pdu_length]))
        stream = stream[6 + pdu_length :]
    return fragments


class Peer:
    """Reads what we write as a peer with contexts 1 and 5 would: framer, then message reader."""

    def __init__(self, maximum_length: int) -> None:
        self.messages = RecordingMessages()
        reader = MessageReader({1, 5}, self.messages)
        self.fragment_received = reader.fragment_received
        self.fragments_received = reader.fragments_received
        self.framer = Framer(self, maximum_length)

    def p_data_received(self) -> bool:
        return True

    def pdu_received(self, pdu: Any) -> None:
        raise AssertionError(f"{pdu} is no P-DATA-TF")

    def invalid_pdu_received(self, fault: Exception) -> None:
        raise fault

    def read(self, chunks: Iterable[bytes]) -> list[tuple[int, Command, bytes | None]]:
        for chunk in chunks:
            self.framer.receive(chunk)
        return self.messages.ended


class LengthTests(SynchronousTestCase):
    def test_fragment_length(self) -> None:
        """The longest fragment is even, leaves 6 bytes for the PDV's header, and is bounded by ourselves."""
        for maximum_length, length in FRAGMENT_LENGTHS.items():
            self.assertEqual(writer.fragment_length(maximum_length), length, maximum_length)

    def test_no_room(self) -> None:
        """A maximum length below 8 has no room for two bytes: ValueError, and before anything is written."""
        for maximum_length in range(1, 8):
            self.assertRaises(ValueError, writer.fragment_length, maximum_length)
            self.assertRaises(ValueError, writer.command_pdus, 1, C_ECHO_RQ, maximum_length)
            self.assertRaises(ValueError, writer.data_set_pdus, 1, b"1234", maximum_length)

    def test_header(self) -> None:
        """The 12 bytes before a fragment are those of PS3.8 Table 9-22 and 9-23 and Annex E."""
        golden = octets("""
            04 00                                              # 1-2: PDU type, reserved
            00 00 01 06                                        # 3-6: PDU length
            00 00 01 02                                        # item length
            FF                                                 # presentation context ID
            03                                                 # command, last
        """)
        self.assertEqual(writer.p_data_header(255, COMMAND | LAST, 256), golden)


class FragmentTests(SynchronousTestCase):
    def test_one_pdu(self) -> None:
        """A command that fits is one PDU, as are a data set that fits and an empty one."""
        golden = octets("""
            04 00 00 00 00 4A  00 00 00 46  01  03             # P-DATA-TF of 74 bytes, PDV of 70
        """)
        self.assertEqual(writer.command_pdus(1, C_ECHO_RQ, 16384), golden + C_ECHO_RQ)
        self.assertEqual(writer.data_set_pdus(1, b"1234", 0), b"\4\0\0\0\0\x0a\0\0\0\6\1\0021234")
        self.assertEqual(writer.data_set_pdus(5, b"", 8), b"\4\0\0\0\0\6\0\0\0\2\5\2")

    def test_not_put_together(self) -> None:
        """What is not put together is the same when it is."""
        for maximum_length in FRAGMENT_LENGTHS:
            step = writer.fragment_length(maximum_length)
            for length in (0, 2, step, 3 * step):
                for last in (True, False):
                    data = bytes(index & 0xFF for index in range(length))
                    parts = writer.data_set_parts(5, memoryview(data), maximum_length, last=last)
                    whole = writer.data_set_pdus(5, data, maximum_length, last=last)
                    self.assertEqual(b"".join(parts), whole)

    def test_command(self) -> None:
        """A command of any length is cut to full fragments and a last one, all even, and bounded."""
        for maximum_length, step in FRAGMENT_LENGTHS.items():
            for length in (0, 2, 4, 8, 12, 94, 96, 1000, step - 2, step, step + 2):
                command = bytes(index & 0xFF for index in range(length))
                fragments = take_apart(writer.command_pdus(5, command, maximum_length))
                self.check(fragments, command, COMMAND, step)

    def test_data_set(self) -> None:
        """Every fragment of a data set is full but the last, and even but the last of an odd data set."""
        for maximum_length, step in FRAGMENT_LENGTHS.items():
            for length in (0, 1, 2, 3, 4, 5, 101, step - 1, step, step + 1, 2 * step, 2 * step + 1):
                data_set = (b"0123456789" * (length // 10 + 1))[:length]
                stream = writer.data_set_pdus(5, data_set, maximum_length)
                self.check(take_apart(stream), data_set, 0, step)
                self.assertLessEqual(len(stream), len(data_set) + 12 * (length // step + 1))

    def test_parts(self) -> None:
        """Parts that are whole fragments make the PDUs that the whole data set makes."""
        for maximum_length, step in FRAGMENT_LENGTHS.items():
            data_set = (b"0123456789" * (step // 2 + 1))[: 4 * step + 2]
            parts = (data_set[:step], data_set[step : 3 * step], data_set[3 * step :])
            stream = b"".join(
                writer.data_set_pdus(5, part, maximum_length, last=part is parts[-1]) for part in parts
            )
            self.assertEqual(stream, writer.data_set_pdus(5, data_set, maximum_length))

    def check(self, fragments: list[tuple[int, int, bytes]], whole: bytes, kind: int, step: int) -> None:
        self.assertEqual({context_id for context_id, _, _ in fragments}, {5})
        *headers, last = [header for _, header, _ in fragments]
        self.assertEqual(set(headers) | {kind}, {kind})
        self.assertEqual(last, kind | LAST)
        lengths = [len(fragment) for _, _, fragment in fragments]
        self.assertEqual(set(lengths[:-1]) | {step}, {step})
        self.assertLessEqual(lengths[-1], step)
        self.assertTrue(lengths[-1] or not whole, "an empty last fragment")
        self.assertEqual(b"".join(fragment for _, _, fragment in fragments), whole)


class RoundTripTests(SynchronousTestCase):
    def test_maximum_lengths(self) -> None:
        """A peer reads what was cut for it, with the maximum length that it stated itself."""
        data_set = bytes(range(251)) * 5
        store = (5, Command.decode(C_STORE_RQ), data_set)
        for maximum_length in FRAGMENT_LENGTHS:
            stream = writer.command_pdus(5, C_STORE_RQ, maximum_length)
            stream += writer.data_set_pdus(5, data_set, maximum_length)
            self.assertEqual(Peer(maximum_length).read([stream]), [store])

    def test_every_message(self) -> None:
        """Each of the 23 messages comes through fragments of two bytes."""
        for message_type in messages.MESSAGE_TYPES.values():
            vrs: dict[str, Any] = {"UI": "1.2", "US": 3, "AT": (0x00080018,), "AE": "A", "LO": "text"}
            elements = {row.name: vrs[row.vr] for row in (*message_type.mandatory, *message_type.optional)}
            command = message_type(**elements)
            stream = writer.command_pdus(1, command.encode(), 8)
            if command.has_data_set:
                stream += writer.data_set_pdus(1, b"data", 8)
            self.assertEqual(
                Peer(8).read([stream]), [(1, command, b"data" if command.has_data_set else None)]
            )

    @modest
    @given(
        st.one_of(st.just(0), st.integers(8, 200), st.sampled_from([16384, 0xFFFFFFFF])),
        st.binary(max_size=600),
        st.data(),
    )
    def test_any_data_set(self, maximum_length: int, data_set: bytes, data: st.DataObject) -> None:
        """Any data set, for any maximum length, over any chunks comes back as it was."""
        stream = writer.command_pdus(5, C_STORE_RQ, maximum_length)
        stream += writer.data_set_pdus(5, data_set, maximum_length)
        stream += writer.command_pdus(1, C_ECHO_RQ, maximum_length)
        self.assertEqual(
            Peer(maximum_length).read(data.draw(chunked(stream))),
            [
                (5, Command.decode(C_STORE_RQ), data_set),
                (1, Command.decode(C_ECHO_RQ), None),
            ],
        )
