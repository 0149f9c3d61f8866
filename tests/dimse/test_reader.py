"""Fragments put together to messages (PS3.8 Annex E), however they are cut, and what is no message."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.dimse import messages
from dicomtw.dimse.messages import Command
from dicomtw.dimse.reader import MAXIMUM_COMMAND_LENGTH, MAXIMUM_FRAGMENTS, MessageReader
from dicomtw.errors import AbortReason, ProtocolError
from tests.dimse import RecordingMessages
from tests.dimse.test_command import C_ECHO_RQ, C_STORE_RQ
from tests.ul.recorders import chunked, modest

COMMAND, LAST = 1, 2

DATA_SET = bytes(range(256)) + b"odd"

#: A fragment as the framer hands it on: the message control header, the part of the PDV, whether it ends.
Fragment = tuple[int, bytes, bool]

ECHO = (1, Command.decode(C_ECHO_RQ), None)
STORE = (5, Command.decode(C_STORE_RQ), DATA_SET)


def pdv(header: int, data: bytes) -> Fragment:
    """A PDV that comes in one part."""
    return header, data, True


def cut(kind: int, parts: list[bytes]) -> list[Fragment]:
    """PDVs of one kind, the last one marked as such."""
    return [pdv(kind, part) for part in parts[:-1]] + [pdv(kind | LAST, parts[-1])]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


class Reading(SynchronousTestCase):
    """A reader with contexts 1 and 5."""

    def setUp(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.receiver = RecordingMessages()
        self.reader = MessageReader({1, 5}, self.receiver)

    def feed(self, context_id: int, *fragments: Fragment) -> None:
        for header, data, complete in fragments:
            self.reader.fragment_received(context_id, header, memoryview(data), complete)

    def assertFault(self, words: str, context_id: int, *fragments: Fragment) -> None:
        fault = self.assertRaises(ProtocolError, self.feed, context_id, *fragments)
        self.assertIn(words, str(fault))
        self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)


class MessageTests(Reading):
    def test_one_fragment(self) -> None:
        """A command in one fragment is a message, and ends with it."""
        self.feed(1, pdv(COMMAND | LAST, C_ECHO_RQ))
        self.assertEqual(self.receiver.ended, [ECHO])
        self.assertEqual(self.receiver.calls, ["command", "ended"])
        self.assertFalse(self.reader.mid_message)

    def test_command_and_data_set(self) -> None:
        """The command is told before its data set comes, and the data set is handed on as it comes."""
        self.assertFalse(self.reader.mid_message)
        self.feed(5, pdv(COMMAND | LAST, C_STORE_RQ))
        self.assertEqual(self.receiver.calls, ["command"])
        self.assertTrue(self.reader.mid_message)
        self.feed(5, pdv(0, DATA_SET[:100]))
        self.assertEqual(self.receiver.calls, ["command", "data"])
        self.assertTrue(self.reader.mid_message)
        self.feed(5, pdv(LAST, DATA_SET[100:]))
        self.assertEqual(self.receiver.calls, ["command", "data", "data", "ended"])
        self.assertEqual(self.receiver.ended, [STORE])
        self.assertFalse(self.reader.mid_message)

    def test_cuts(self) -> None:
        """Command and data set may each be cut into fragments of any length, empty ones too."""
        cases: list[tuple[list[bytes], list[bytes]]] = [
            ([C_STORE_RQ[:2], C_STORE_RQ[2:]], [DATA_SET]),
            ([C_STORE_RQ, b""], [DATA_SET, b""]),
            ([b"", C_STORE_RQ], [b"", DATA_SET]),
            ([b"", b"", C_STORE_RQ, b"", b""], [b"", b"", DATA_SET, b"", b""]),
            (pieces(C_STORE_RQ, 1), pieces(DATA_SET, 1)),
            (pieces(C_STORE_RQ, 7), pieces(DATA_SET, 64)),
        ]
        for command, data_set in cases:
            self.begin()
            self.feed(5, *cut(COMMAND, command), *cut(0, data_set))
            self.assertEqual(self.receiver.ended, [STORE])

    def test_parts(self) -> None:
        """A PDV's parts are no fragments: the bit for the last one counts where the PDV ends."""
        header = COMMAND | LAST
        self.feed(5, *((header, bytes([byte]), False) for byte in C_STORE_RQ[:-1]))
        self.assertEqual(self.receiver.calls, [])
        self.assertTrue(self.reader.mid_message)
        self.feed(5, (header, C_STORE_RQ[-1:], True))
        self.assertEqual(self.receiver.calls, ["command"])
        self.feed(5, *((LAST, bytes([byte]), False) for byte in DATA_SET))
        self.assertTrue(self.reader.mid_message)
        self.feed(5, (LAST, b"", True))
        self.assertEqual(self.receiver.ended, [STORE])

    def test_empty_data_set(self) -> None:
        """A data set of no bytes is a data set."""
        self.feed(5, pdv(COMMAND | LAST, C_STORE_RQ), pdv(LAST, b""))
        self.assertEqual(self.receiver.ended, [(5, STORE[1], b"")])

    def test_one_after_the_other(self) -> None:
        """Messages follow each other, in one context or another, and none leaves a trace in the next."""
        store = [pdv(COMMAND | LAST, C_STORE_RQ), pdv(LAST, DATA_SET)]
        echo = pdv(COMMAND | LAST, C_ECHO_RQ)
        self.feed(1, echo, echo)
        self.feed(5, *store, *store)
        self.feed(1, echo)
        self.assertEqual(self.receiver.ended, [ECHO, ECHO, STORE, STORE, ECHO])

    def test_views_are_handed_on(self) -> None:
        """The data set is not copied: the receiver gets the very view that the framer cut."""
        seen: list[memoryview] = []
        self.receiver.data_received = seen.extend  # type: ignore[method-assign]
        views = [memoryview(DATA_SET), memoryview(b"1234"), memoryview(b"56")]
        self.feed(5, pdv(COMMAND | LAST, C_STORE_RQ))
        self.reader.fragment_received(5, 0, views[0], True)
        self.reader.fragments_received(5, views[1:])
        self.assertEqual([id(view) for view in seen], [id(view) for view in views])

    def test_insignificant_bits(self) -> None:
        """Bits 2 to 7 of the message control header are not significant (PS3.8 E.2)."""
        for bits in range(0, 256, 4):
            self.begin()
            self.feed(
                5,
                pdv(bits | COMMAND, C_STORE_RQ[:9]),
                pdv(bits | COMMAND | LAST, C_STORE_RQ[9:]),
                pdv(bits, DATA_SET[:9]),
                pdv(bits | LAST, DATA_SET[9:]),
            )
            self.assertEqual(self.receiver.ended, [STORE])

    @settings(modest, max_examples=30)
    @given(st.data())
    def test_any_cut(self, data: st.DataObject) -> None:
        """However two messages are cut into PDVs and these into parts, the messages are the same."""
        self.begin()
        for context_id, kind, whole in (
            (5, COMMAND, C_STORE_RQ),
            (5, 0, DATA_SET),
            (1, COMMAND, C_ECHO_RQ),
        ):
            pdvs = data.draw(chunked(whole)) + [b""] * data.draw(st.integers(0, 1))
            for header, fragment, _ in cut(kind, pdvs):
                parts = data.draw(chunked(fragment)) if len(fragment) > 1 else [fragment]
                self.feed(context_id, *((header, part, False) for part in parts[:-1]))
                self.feed(context_id, (header, parts[-1], True))
        self.assertEqual(self.receiver.ended, [STORE, ECHO])


class RunTests(Reading):
    """Whole PDVs in a row are what they would be one by one."""

    def run_of(self, context_id: int, *fragments: bytes) -> None:
        self.reader.fragments_received(context_id, [memoryview(fragment) for fragment in fragments])

    def test_data_set(self) -> None:
        self.feed(5, pdv(COMMAND | LAST, C_STORE_RQ))
        self.run_of(5, *pieces(DATA_SET, 2))
        self.assertEqual(self.receiver.ended, [])
        self.assertTrue(self.reader.mid_message)
        self.feed(5, pdv(LAST, b""))
        self.assertEqual(self.receiver.ended, [STORE])

    def test_faults(self) -> None:
        """In another context, where a command is due, or inside one."""
        for before, context_id, words in (
            ([pdv(COMMAND | LAST, C_STORE_RQ)], 1, "presentation context 1 inside a message in 5"),
            ([pdv(COMMAND | LAST, C_STORE_RQ)], 3, "presentation context 3 inside a message in 5"),
            ([], 3, "presentation context 3 is not accepted"),
            ([], 0, "presentation context 0 is not accepted"),
            ([], 5, "data set fragment where a command is due"),
            ([pdv(COMMAND, C_STORE_RQ[:8])], 5, "data set fragment where a command is due"),
        ):
            self.begin()
            self.feed(5, *before)
            fault = self.assertRaises(ProtocolError, self.run_of, context_id, b"12", b"34")
            self.assertIn(words, str(fault))
            self.assertNotIn("data", self.receiver.calls)


class FaultTests(Reading):
    def test_contexts_not_accepted(self) -> None:
        """A fragment in a context that was not accepted is a fault, whatever its ID, and nothing is told."""
        for context_id in (0, 2, 3, 6, 7, 254, 255):
            for fragment in (pdv(COMMAND | LAST, C_ECHO_RQ), pdv(COMMAND, b""), pdv(LAST, DATA_SET)):
                self.begin()
                self.assertFault(f"presentation context {context_id} is not accepted", context_id, fragment)
                self.assertEqual(self.receiver.calls, [])

    def test_contexts_not_accepted_between_messages(self) -> None:
        """The contexts are tested for each message, not for the first alone."""
        for context_id in (0, 3):
            self.begin()
            self.feed(1, pdv(COMMAND | LAST, C_ECHO_RQ))
            self.feed(5, pdv(COMMAND | LAST, C_STORE_RQ), pdv(LAST, DATA_SET))
            self.assertFault("is not accepted", context_id, pdv(COMMAND | LAST, C_ECHO_RQ))
            self.assertEqual(len(self.receiver.ended), 2)

    def test_other_context_inside(self) -> None:
        """A message's fragments are all of one context, also between its command and its data set."""
        words = "fragment in presentation context 1 inside a message in 5"
        cases: list[list[Fragment]] = [
            [pdv(COMMAND, C_STORE_RQ[:20])],
            [(COMMAND | LAST, C_STORE_RQ[:20], False)],
            [pdv(COMMAND, b"")],
            [pdv(COMMAND | LAST, C_STORE_RQ)],
            [pdv(COMMAND | LAST, C_STORE_RQ), pdv(0, DATA_SET)],
        ]
        for fragments in cases:
            for stranger in (pdv(COMMAND | LAST, C_ECHO_RQ), pdv(LAST, b"")):
                self.begin()
                self.feed(5, *fragments)
                self.assertFault(words, 1, stranger)

    def test_data_set_first(self) -> None:
        """A data set without a command is a fault."""
        words = "data set fragment where a command is due"
        half = pdv(COMMAND, C_STORE_RQ[:20])
        echo = pdv(COMMAND | LAST, C_ECHO_RQ)  # it has no data set
        before: list[list[Fragment]] = [[], [half], [echo], [echo, echo]]
        for fragments in before:
            self.begin()
            self.feed(1, *fragments)
            self.assertFault(words, 1, pdv(LAST, DATA_SET))

    def test_command_inside_a_data_set(self) -> None:
        """A command where the data set of the last one is due is a fault."""
        for fragments in ([], [pdv(0, DATA_SET)]):
            self.begin()
            self.feed(5, pdv(COMMAND | LAST, C_STORE_RQ), *fragments)
            self.assertFault("command fragment inside a data set", 5, pdv(COMMAND | LAST, C_ECHO_RQ))
            self.assertNotIn("ended", self.receiver.calls)

    def test_no_command(self) -> None:
        """What is no command set, or none of a DIMSE message, is a fault, and nothing is told."""
        cases = {
            b"": "without a Command Field",
            b"\0": "too few for an element",
            bytes(range(64)): "in a command set",
            C_ECHO_RQ[:-1]: "are left",
            C_ECHO_RQ[:-10]: "C-ECHO-RQ without command_data_set_type",
            C_ECHO_RQ.replace(b"\x30\x00", b"\x99\x09"): "unknown Command Field 0999H",
            C_ECHO_RQ + DATA_SET: "in a command set",
        }
        for data, words in cases.items():
            self.begin()
            self.assertFault(words, 1, pdv(COMMAND | LAST, data))
            self.assertEqual(self.receiver.calls, [])

    def test_endless_command(self) -> None:
        """A command set that does not end is a fault at 64 KiB, in fragments or in parts of one."""
        ways: list[Callable[[bytes], Fragment]] = [
            lambda data: pdv(COMMAND, data),
            lambda data: (COMMAND | LAST, data, False),
        ]
        for fragment in ways:
            for size in (1024, 1000, MAXIMUM_COMMAND_LENGTH):
                self.begin()
                self.feed(1, *(fragment(bytes(size)) for _ in range(MAXIMUM_COMMAND_LENGTH // size)))
                self.assertFault("command set that does not end", 1, fragment(bytes(size)))
                self.assertEqual(self.receiver.calls, [])

    def test_endless_fragments(self) -> None:
        """A command set in more than 65536 parts is a fault, though there is next to nothing in them."""
        self.assertEqual(MAXIMUM_FRAGMENTS, 1 << 16)
        ways: list[Fragment] = [pdv(COMMAND, b""), (COMMAND | LAST, b"", False)]
        for nothing in ways:
            self.begin()
            self.feed(1, *([nothing] * MAXIMUM_FRAGMENTS))
            self.assertFault("command set that does not end", 1, nothing)
            self.assertEqual(self.receiver.calls, [])

    def test_most_fragments(self) -> None:
        """A command in as many parts as there may be is read, and the next one may have as many."""
        parts = [pdv(COMMAND, b"")] * (MAXIMUM_FRAGMENTS - 1) + [pdv(COMMAND | LAST, C_ECHO_RQ)]
        self.feed(1, *parts, *parts)
        self.assertEqual(self.receiver.ended, [ECHO, ECHO])

    def test_fragments_of_a_data_set(self) -> None:
        """A data set may come in any number of parts, and they do not count for the next command."""
        parts = [pdv(0, b"")] * MAXIMUM_FRAGMENTS + cut(0, pieces(DATA_SET, 100))
        self.feed(5, pdv(COMMAND | LAST, C_STORE_RQ), *parts, pdv(COMMAND | LAST, C_STORE_RQ), *parts)
        self.assertEqual(self.receiver.ended, [STORE, STORE])

    def test_longest_command(self) -> None:
        """A command set of 64 KiB is read: lists of attribute tags are long."""
        tags = tuple(range((MAXIMUM_COMMAND_LENGTH - 80) // 4))
        command = messages.N_GET_RQ(
            requested_sop_class_uid="1.2",
            requested_sop_instance_uid="1.2.3.4.5",
            message_id=1,
            attribute_identifier_list=tags,
        )
        encoded = command.encode()
        self.assertEqual(len(encoded), MAXIMUM_COMMAND_LENGTH)
        self.feed(1, pdv(COMMAND | LAST, encoded))
        self.assertEqual(self.receiver.ended, [(1, command, None)])

    @modest
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([0, 1, 3, 5]),
                st.integers(0, 7),
                st.sampled_from([b"", C_ECHO_RQ, C_STORE_RQ, C_STORE_RQ[:30], C_STORE_RQ[30:], DATA_SET]),
                st.booleans(),
            ),
            max_size=12,
        )
    )
    def test_any_fragments(self, fragments: list[tuple[int, int, bytes, bool]]) -> None:
        """Any fragments in any order are messages in accepted contexts, or a ProtocolError."""
        self.begin()
        try:
            for context_id, header, data, complete in fragments:
                self.feed(context_id, (header, data, complete))
        except ProtocolError:
            pass
        self.assertLessEqual({context_id for context_id, _, _ in self.receiver.ended}, {1, 5})
