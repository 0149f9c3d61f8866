"""The framer: any chunking gives the same calls, any garbage one fault, no length is believed."""

from __future__ import annotations

import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import AbortReason, ProtocolError
from dicomtw.ul.framer import MAXIMUM_ASSOCIATE_LENGTH
from tests.ul.recorders import RecordingReceiver, chunked, modest, octets
from tests.ul.test_pdu import (
    ABORT_BYTES,
    GOLDEN_PDUS,
    P_DATA_BYTES,
    RELEASE_RP_BYTES,
    RELEASE_RQ_BYTES,
    RQ_BYTES,
)

Calls = list[tuple[Any, ...]]

P_DATA_CALLS: Calls = [
    ("p_data",),
    ("fragment", 1, 3, b"\xaa\xbb\xcc\xdd", True),
    ("fragment", 1, 2, b"", True),
    ("fragment", 3, 0, b"\x11\x22", True),
]

#: Each golden stream and the calls it makes.
STREAMS: list[tuple[bytes, Calls]] = [(golden, [("pdu", pdu)]) for pdu, golden in GOLDEN_PDUS]
STREAMS.append((P_DATA_BYTES, P_DATA_CALLS))

#: All of them in one stream, P-DATA between the others.
LONG_STREAM = b"".join(stream for stream, _ in STREAMS * 2)
LONG_CALLS = [call for _, calls in STREAMS * 2 for call in calls]

NOTHING_MORE = RELEASE_RQ_BYTES * 2  # that would make two calls if anybody listened


def received(chunks: list[bytes], *, wanted: bool = True, maximum_length: int = 16384) -> RecordingReceiver:
    """The receiver of a framer that got `chunks`."""
    receiver = RecordingReceiver(maximum_length, wanted=wanted)
    for chunk in chunks:
        receiver.framer.receive(chunk)
    return receiver


def singly(stream: bytes) -> list[bytes]:
    """`stream` byte by byte."""
    return [stream[at : at + 1] for at in range(len(stream))]


def plain(fragment: bytes, context_id: int = 1, control_header: int = 0) -> bytes:
    """A P-DATA-TF with one PDV."""
    length = len(fragment)
    return b"".join(
        (
            b"\x04\x00",
            (length + 6).to_bytes(4, "big"),
            (length + 2).to_bytes(4, "big"),
            bytes((context_id, control_header)),
            fragment,
        )
    )


class RunTests(SynchronousTestCase):
    """P-DATA-TF with the same header, one behind the other, are handed on together."""

    def runs(self, stream: bytes, *, wanted: bool = True, maximum_length: int = 16384) -> list[list[bytes]]:
        receiver = RecordingReceiver(maximum_length, wanted=wanted)
        runs: list[list[bytes]] = []

        def fragments_received(context_id: int, fragments: list[memoryview]) -> None:
            self.assertEqual(context_id, 1)
            runs.append([bytes(fragment) for fragment in fragments])

        receiver.fragments_received = fragments_received  # type: ignore[method-assign]
        receiver.framer.receive(stream)
        self.calls = [call[0] for call in receiver.calls]
        return runs

    def test_together(self) -> None:
        """As many as there are whole; what is left at the end of the chunk comes for itself."""
        one, other = plain(b"abcd"), plain(b"efgh")
        self.assertEqual(self.runs(one + other), [[b"abcd", b"efgh"]])
        self.assertEqual(self.calls, ["p_data"])
        for cut in range(1, len(one)):
            self.assertEqual(self.runs(one + other + one[:cut]), [[b"abcd", b"efgh"]])
            self.assertEqual(self.runs(one[cut:] + one), [])
            self.assertEqual(self.runs(one + other[:cut]), [])

    def test_alone(self) -> None:
        """One is no run, nor are those that differ in anything; a last one, or a command, is never in one."""
        one = plain(b"abcd")
        for other in (
            b"",
            plain(b"efghij"),
            plain(b"efgh", context_id=3),
            plain(b"efgh", control_header=2),
            plain(b"efgh", control_header=1),
        ):
            self.assertEqual(self.runs(one + other), [])
        for control_header in (1, 2, 3, 4):
            self.assertEqual(self.runs(plain(b"abcd", control_header=control_header) * 3), [])

    def test_at_the_limits(self) -> None:
        """Of odd length, empty, too long, or with a PDV that is shorter: each is looked at for itself."""
        self.assertEqual(self.runs(plain(b"abc") * 2), [])
        self.assertEqual(self.runs(plain(b"") * 2), [])
        self.assertEqual(self.runs(plain(b"abcd") * 2, maximum_length=10), [[b"abcd"] * 2])
        self.assertEqual(self.runs(plain(b"abcd") * 2, maximum_length=9), [])
        self.assertEqual(self.calls, ["invalid"])
        odd = bytearray(plain(b"abcd"))
        odd[9] -= 1
        self.assertEqual(self.runs(bytes(odd) * 2), [])
        self.assertEqual(self.calls[-1], "invalid")

    def test_not_wanted(self) -> None:
        """They are passed over, and what follows is there."""
        self.assertEqual(self.runs(plain(b"abcd") * 3 + ABORT_BYTES, wanted=False), [])
        self.assertEqual(self.calls, ["p_data", "pdu"])

    def test_stopped(self) -> None:
        """Who stops the framer when he gets a run gets nothing that follows."""
        receiver = RecordingReceiver()
        receiver.fragments_received = lambda *_: receiver.framer.stop()  # type: ignore[method-assign]
        receiver.framer.receive(plain(b"abcd") * 2 + ABORT_BYTES)
        self.assertEqual(receiver.calls, [("p_data",)])


class RememberedTests(SynchronousTestCase):
    """What was decoded before is not decoded again."""

    def decoded(self, stream: bytes) -> object:
        return received([stream]).calls[0][1]

    def test_the_same(self) -> None:
        self.assertIs(self.decoded(RQ_BYTES), self.decoded(RQ_BYTES))

    def test_passcodes(self) -> None:
        """Nothing that may hold a passcode is kept."""
        fields = b"\2\0\0\1u\0\5topsy"
        item = b"\x58\0" + len(fields).to_bytes(2, "big") + fields
        at = RQ_BYTES.index(b"\x50\0") + 2
        length = int.from_bytes(RQ_BYTES[at : at + 2], "big") + len(item)
        body = RQ_BYTES[6:at] + length.to_bytes(2, "big") + RQ_BYTES[at + 2 :] + item
        stream = RQ_BYTES[:2] + len(body).to_bytes(4, "big") + body
        one, other = self.decoded(stream), self.decoded(stream)
        self.assertIn("UserIdentityRQ", repr(one))
        self.assertEqual(one, other)
        self.assertIsNot(one, other)

    def test_long_ones(self) -> None:
        padding = bytes((0x99, 0)) + (5000).to_bytes(2, "big") + bytes(5000)
        body = RQ_BYTES[6:] + padding
        stream = RQ_BYTES[:2] + len(body).to_bytes(4, "big") + body
        self.assertIsNot(self.decoded(stream), self.decoded(stream))


class ChunkingTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """A PDU that comes whole makes its calls, and the stream is between two PDUs."""
        for stream, calls in STREAMS:
            receiver = received([stream])
            self.assertEqual(receiver.calls, calls)
            self.assertFalse(receiver.framer.mid_pdu)

    def test_byte_by_byte(self) -> None:
        """A PDU that comes byte by byte makes the same calls; until its last byte it is in the middle."""
        for stream, calls in STREAMS:
            receiver = RecordingReceiver()
            for at, byte in enumerate(singly(stream)):
                self.assertEqual(receiver.framer.mid_pdu, at > 0)
                receiver.framer.receive(byte)
            self.assertEqual(receiver.joined, calls)
            self.assertFalse(receiver.framer.mid_pdu)

    def test_empty_chunks(self) -> None:
        """A chunk without bytes changes nothing."""
        for stream, calls in STREAMS:
            chunks = [chunk for byte in singly(stream) for chunk in (b"", byte)]
            self.assertEqual(received(chunks).joined, calls)

    def test_trailing_data(self) -> None:
        """The begin of the next PDU behind a whole one is kept and completed by the next chunk."""
        for stream, calls in STREAMS:
            for end in range(1, len(RELEASE_RQ_BYTES)):
                receiver = received([stream + RELEASE_RQ_BYTES[:end]])
                self.assertEqual(receiver.calls, calls)
                self.assertTrue(receiver.framer.mid_pdu)
                receiver.framer.receive(RELEASE_RQ_BYTES[end:])
                self.assertEqual(receiver.calls, [*calls, STREAMS[3][1][0]])

    def test_many_pdus_in_one_chunk(self) -> None:
        """All PDUs of a chunk are told, in their order."""
        self.assertEqual(received([LONG_STREAM]).calls, LONG_CALLS)

    def test_cut_in_two(self) -> None:
        """A stream cut at any byte makes the same calls."""
        for end in range(len(LONG_STREAM)):
            self.assertEqual(received([LONG_STREAM[:end], LONG_STREAM[end:]]).joined, LONG_CALLS)

    @modest
    @given(chunked(LONG_STREAM))
    def test_any_chunks(self, chunks: list[bytes]) -> None:
        """However the stream is cut, the calls are the same."""
        self.assertEqual(received(chunks).joined, LONG_CALLS)

    @modest
    @given(st.lists(st.binary(max_size=9), min_size=1, max_size=6), st.data())
    def test_any_fragments(self, fragments: list[bytes], data: st.DataObject) -> None:
        """Whatever is in the PDVs of a P-DATA-TF, and however it is cut, they are told one by one."""
        body = b"".join(
            (len(fragment) + 2).to_bytes(4, "big") + bytes((1, 0)) + fragment for fragment in fragments
        )
        stream = b"\x04\x00" + len(body).to_bytes(4, "big") + body
        receiver = received(data.draw(chunked(stream)))
        self.assertEqual(
            receiver.joined, [("p_data",), *(("fragment", 1, 0, fragment, True) for fragment in fragments)]
        )
        self.assertEqual(receiver.framer.odd_lengths, any(len(fragment) % 2 for fragment in fragments))


class FragmentTests(SynchronousTestCase):
    def test_complete(self) -> None:
        """`complete` is told with the part that ends a PDV and with no other."""
        stream = octets("04 00 00 00 00 0A  00 00 00 06 05 02  01 02 03 04")
        receiver = received([stream[:13], stream[13:15], stream[15:]])
        self.assertEqual(
            receiver.calls,
            [
                ("p_data",),
                ("fragment", 5, 2, b"\x01", False),
                ("fragment", 5, 2, b"\x02\x03", False),
                ("fragment", 5, 2, b"\x04", True),
            ],
        )

    def test_no_copy(self) -> None:
        """A fragment is a view of the very chunk that the transport delivered, and stays valid."""
        receiver = received([P_DATA_BYTES])
        self.assertIs(receiver.views[0].obj, P_DATA_BYTES)
        self.assertIs(receiver.views[2].obj, P_DATA_BYTES)
        self.assertTrue(all(view.readonly for view in receiver.views))
        receiver.framer.receive(P_DATA_BYTES)
        self.assertEqual(receiver.views[0], b"\xaa\xbb\xcc\xdd")

    def test_bits_of_the_control_header(self) -> None:
        """The message control header is handed on as it came, its insignificant bits too (E.2)."""
        receiver = received([octets("04 00 00 00 00 08  00 00 00 04 00 FF  01 02")])
        self.assertEqual(receiver.calls[1], ("fragment", 0, 0xFF, b"\x01\x02", True))

    def test_empty_pdv(self) -> None:
        """A PDV of length 2 has an empty fragment, and that is complete, in any place of its PDU."""
        empty, full = octets("00 00 00 02 01 02"), octets("00 00 00 04 01 02 AA BB")
        told = {empty: ("fragment", 1, 2, b"", True), full: ("fragment", 1, 2, b"\xaa\xbb", True)}
        for pdvs in ([empty], [empty, empty], [empty, full], [full, empty], [full, empty, full]):
            body = b"".join(pdvs)
            stream = b"\x04\x00" + len(body).to_bytes(4, "big") + body
            for chunks in ([stream], singly(stream)):
                receiver = received(chunks)
                self.assertEqual(receiver.joined, [("p_data",), *(told[pdv] for pdv in pdvs)])
                self.assertFalse(receiver.framer.mid_pdu)

    def test_odd_fragments(self) -> None:
        """A fragment of odd length is handed on, and remembered (PS3.8 E.1 forbids it, peers send it)."""
        even, odd = P_DATA_BYTES, octets("04 00 00 00 00 07  00 00 00 03 01 02  AA")
        receiver = received([even])
        self.assertFalse(receiver.framer.odd_lengths)
        receiver.framer.receive(odd + even)
        self.assertTrue(receiver.framer.odd_lengths)
        self.assertEqual(
            receiver.calls, [*P_DATA_CALLS, ("p_data",), ("fragment", 1, 2, b"\xaa", True), *P_DATA_CALLS]
        )

    def test_not_wanted(self) -> None:
        """A P-DATA-TF whose fragments are not wanted is passed over unread; the PDU behind it is told."""
        rubbish = octets("04 00 00 00 00 0C") + b"\xff" * 12
        for stream in (P_DATA_BYTES, rubbish):
            for chunks in ([stream + RELEASE_RQ_BYTES], singly(stream + RELEASE_RQ_BYTES)):
                receiver = received(chunks, wanted=False)
                calls = [call for call in receiver.calls if call[0] != "fragment"]
                self.assertEqual(calls, [("p_data",), STREAMS[3][1][0]])


class BoundTests(SynchronousTestCase):
    def _one_fault(self, stream: bytes, reason: AbortReason, words: str, before: Calls | None = None) -> None:
        """`stream` makes the calls `before`, then the fault, as soon as it is there and only once."""
        expected = [*(before or []), ("invalid", reason, words)]
        for chunks in (
            [stream],
            [stream + NOTHING_MORE],
            [stream, NOTHING_MORE, stream],
            [*singly(stream), NOTHING_MORE],
        ):
            self.assertEqual(received(chunks).joined, expected)

    def test_unknown_types(self) -> None:
        """A type other than 01H to 07H is an unrecognized PDU as soon as its header is there."""
        for pdu_type in (0x00, *range(0x08, 0x16), *range(0x17, 0x47), *range(0x48, 0x100)):
            self._one_fault(
                bytes((pdu_type, 0, 0, 0, 0, 4)),
                AbortReason.UNRECOGNIZED_PDU,
                f"unrecognized PDU type {pdu_type:02X}H",
            )

    def test_strangers(self) -> None:
        """The first bytes of TLS and HTTP are named for the operator."""
        hello = octets("16 03 01 02 00 01 00 01 FC 03 03")
        words = "unrecognized PDU type 16H (a TLS ClientHello on a port without TLS?)"
        self._one_fault(hello, AbortReason.UNRECOGNIZED_PDU, words)
        words = "unrecognized PDU type 47H (an HTTP request?)"
        self._one_fault(b"GET / HTTP/1.1\r\n\r\n", AbortReason.UNRECOGNIZED_PDU, words)

    def test_lengths(self) -> None:
        """A length that the PDU cannot have is a fault at its header, whatever it announces."""
        names = {
            1: "A-ASSOCIATE-RQ",
            2: "A-ASSOCIATE-AC",
            3: "A-ASSOCIATE-RJ",
            5: "A-RELEASE-RQ",
            6: "A-RELEASE-RP",
            7: "A-ABORT",
        }
        for pdu_type, name in names.items():
            most = 1048576 if pdu_type < 3 else 4
            for length in (0, 3, most + 1, 0x7FFFFFFF, 0xFFFFFFFF):
                self._one_fault(
                    bytes((pdu_type, 0)) + length.to_bytes(4, "big"),
                    AbortReason.INVALID_PDU_PARAMETER_VALUE,
                    f"{name} says its length is {length}; 4 to {most} is possible",
                )

    def test_short_associate(self) -> None:
        """An A-ASSOCIATE-RQ too short for its fixed fields is a fault when it is complete."""
        for length in (4, 5, 67):
            stream = b"\x01\x00" + length.to_bytes(4, "big") + bytes(length)
            [(name, reason, words)] = received([stream]).calls
            self.assertEqual((name, reason), ("invalid", AbortReason.INVALID_PDU_PARAMETER_VALUE))
            self.assertIn("A-ASSOCIATE-RQ ends", words)

    def test_longest_associate(self) -> None:
        """An A-ASSOCIATE-RQ of exactly 1 MiB is received."""
        padding = MAXIMUM_ASSOCIATE_LENGTH - len(RQ_BYTES[6:])
        items = b""
        while padding:
            size = min(padding, 0x10003)
            size -= 4 if 0 < padding - size < 4 else 0
            items += b"\x77\x00" + (size - 4).to_bytes(2, "big") + bytes(size - 4)
            padding -= size
        stream = RQ_BYTES[:2] + MAXIMUM_ASSOCIATE_LENGTH.to_bytes(4, "big") + RQ_BYTES[6:] + items
        half = len(stream) // 2
        self.assertEqual(received([stream[:half], stream[half:]]).calls, STREAMS[0][1])

    def test_p_data_lengths(self) -> None:
        """A P-DATA-TF without room for a PDV, or longer than we said we receive, is a fault."""
        for length in (0, 3, 5):
            words = f"P-DATA-TF of {length} bytes has no room for a presentation-data-value"
            header = b"\x04\x00" + length.to_bytes(4, "big")
            self._one_fault(header, AbortReason.INVALID_PDU_PARAMETER_VALUE, words)
        for length in (16385, 0x7FFFFFFF, 0xFFFFFFFF):
            words = f"P-DATA-TF of {length} bytes; we receive 16384"
            header = b"\x04\x00" + length.to_bytes(4, "big")
            self._one_fault(header, AbortReason.INVALID_PDU_PARAMETER_VALUE, words)

    def test_longest_p_data(self) -> None:
        """A P-DATA-TF exactly as long as we said we receive is received; with 0 we said any length."""
        fragment = bytes(16384 - 6)
        stream = octets("04 00 00 00 40 00  00 00 3F FC 01 00") + fragment
        for maximum_length in (16384, 0):
            receiver = received([stream], maximum_length=maximum_length)
            self.assertEqual(receiver.calls, [("p_data",), ("fragment", 1, 0, fragment, True)])
        receiver = received([octets("04 00 FF FF FF FF  FF FF FF FB 01 00  AA")], maximum_length=0)
        self.assertEqual(receiver.calls, [("p_data",), ("fragment", 1, 0, b"\xaa", False)])

    def test_pdv_lengths(self) -> None:
        """A PDV too short for its header, or past the end of its PDU, is a fault before any of it is told."""
        left = "bytes where 8 are left in its PDU"
        cases = {
            0: "presentation-data-value with a length of 0",
            1: "presentation-data-value with a length of 1",
            9: f"presentation-data-value of 9 {left}",
            0x7FFFFFFF: f"presentation-data-value of 2147483647 {left}",
            0xFFFFFFFF: f"presentation-data-value of 4294967295 {left}",
        }
        for length, words in cases.items():
            stream = octets("04 00 00 00 00 0C") + length.to_bytes(4, "big") + bytes(8)
            self._one_fault(stream, AbortReason.INVALID_PDU_PARAMETER_VALUE, words, [("p_data",)])

    def test_second_pdv_past_its_pdu(self) -> None:
        """The second PDV has what the first has left, not the whole PDU."""
        stream = octets("04 00 00 00 00 10  00 00 00 04 01 00 AA BB  00 00 00 05 01 00 CC DD")
        before: Calls = [("p_data",), ("fragment", 1, 0, b"\xaa\xbb", True)]
        words = "presentation-data-value of 5 bytes where 4 are left in its PDU"
        self._one_fault(stream, AbortReason.INVALID_PDU_PARAMETER_VALUE, words, before)

    def test_bytes_left_over(self) -> None:
        """1 to 5 bytes behind the last PDV are a fault, found at the header of that PDV."""
        for left in range(1, 6):
            length = 8 + left
            stream = b"\x04\x00" + length.to_bytes(4, "big") + octets("00 00 00 04 01 00 AA BB") + bytes(left)
            words = "bytes left over behind the last presentation-data-value of a P-DATA-TF"
            self._one_fault(stream, AbortReason.INVALID_PDU_PARAMETER_VALUE, words, [("p_data",)])

    def test_fault_of_the_receiver(self) -> None:
        """A `ProtocolError` that the receiver raises is an invalid PDU like any other."""

        def refuse() -> None:
            raise ProtocolError("context 1 was not accepted")

        for name in ("pdu", "p_data", "fragment"):
            receiver = RecordingReceiver()
            receiver.meanwhile[name] = refuse
            receiver.framer.receive(RELEASE_RQ_BYTES if name == "pdu" else P_DATA_BYTES)
            receiver.framer.receive(NOTHING_MORE)
            self.assertEqual(
                receiver.calls[-1],
                ("invalid", AbortReason.INVALID_PDU_PARAMETER_VALUE, "context 1 was not accepted"),
            )
            self.assertEqual([call[0] for call in receiver.calls].count("invalid"), 1)
            self.assertEqual([call[0] for call in receiver.calls].count(name), 1)

    def test_other_errors_pass(self) -> None:
        """An error of ours that the receiver raises is no fault of the peer: it goes to the caller."""

        def fail() -> None:
            raise ZeroDivisionError

        receiver = RecordingReceiver()
        receiver.meanwhile["pdu"] = fail
        self.assertRaises(ZeroDivisionError, receiver.framer.receive, RELEASE_RQ_BYTES)


class MemoryTests(SynchronousTestCase):
    def _peak(self, receiver: RecordingReceiver, chunks: list[bytes]) -> int:
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for chunk in chunks:
            receiver.framer.receive(chunk)
        return tracemalloc.get_traced_memory()[1]

    def test_huge_announced_length(self) -> None:
        """A length that is announced takes no memory before its bytes come."""
        for header in ("01 00 00 10 00 00", "02 00 00 10 00 00", "04 00 FF FF FF FF", "01 00 FF FF FF FF"):
            receiver = RecordingReceiver(0)
            self.assertLess(self._peak(receiver, [octets(header), b"\0"]), 20000, header)

    def test_p_data_is_not_kept(self) -> None:
        """Of a long PDV nothing is kept: 64 MiB in one PDU pass through in a few KiB."""
        receiver = RecordingReceiver(0)
        receiver.fragment_received = lambda *_: None  # type: ignore[method-assign]
        header = octets("04 00 04 00 00 06  04 00 00 02 01 02")
        self.assertLess(self._peak(receiver, [header, *[bytes(1 << 20)] * 64]), 1 << 21)
        self.assertFalse(receiver.framer.mid_pdu)


class StopTests(SynchronousTestCase):
    def test_in_the_middle_of_a_chunk(self) -> None:
        """After `stop`, from within a call too, the rest of the chunk and all others are ignored."""
        cases: list[tuple[str, bytes, Calls]] = [
            ("pdu", RELEASE_RQ_BYTES + RELEASE_RP_BYTES, STREAMS[3][1]),
            ("p_data", P_DATA_BYTES + RELEASE_RQ_BYTES, P_DATA_CALLS[:1]),
            ("fragment", P_DATA_BYTES + RELEASE_RQ_BYTES, P_DATA_CALLS[:2]),
        ]
        for name, stream, calls in cases:
            receiver = RecordingReceiver()
            receiver.meanwhile[name] = receiver.framer.stop
            receiver.framer.receive(stream)
            receiver.framer.receive(stream)
            self.assertEqual(receiver.calls, calls)

    def test_before_any_byte(self) -> None:
        """A stopped framer takes no bytes, good or bad."""
        receiver = RecordingReceiver()
        receiver.framer.stop()
        receiver.framer.receive(RQ_BYTES)
        receiver.framer.receive(b"\xff" * 100)
        self.assertEqual(receiver.calls, [])
        self.assertFalse(receiver.framer.mid_pdu)

    def test_in_the_middle_of_a_pdu(self) -> None:
        """A PDU that was half received when `stop` was called is never told."""
        for stream, _ in STREAMS:
            receiver = received([stream[:9]])
            receiver.framer.stop()
            before = list(receiver.calls)
            receiver.framer.receive(stream[9:])
            self.assertEqual(receiver.calls, before)


class GarbageTests(SynchronousTestCase):
    def _at_most_one_fault(self, chunks: list[bytes], wanted: bool) -> None:
        receiver = received(chunks, wanted=wanted)
        names = [call[0] for call in receiver.calls]
        self.assertNotIn("invalid", names[:-1])
        self.assertTrue(all(view.readonly for view in receiver.views))

    @modest
    @given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
    def test_any_bytes(self, chunks: list[bytes], wanted: bool) -> None:
        """Any bytes make at most one fault, nothing is told after it, and no exception comes out."""
        self._at_most_one_fault(chunks, wanted)

    @modest
    @given(st.integers(1, 7), st.integers(0, 200), st.binary(max_size=200), st.booleans())
    def test_any_body(self, pdu_type: int, length: int, body: bytes, wanted: bool) -> None:
        """So do any bytes behind a header that is in order."""
        self._at_most_one_fault([bytes((pdu_type, 0)) + length.to_bytes(4, "big"), body], wanted)

    @modest
    @given(st.data(), st.booleans())
    def test_damaged_streams(self, data: st.DataObject, wanted: bool) -> None:
        """So does a good stream with some bytes changed and then cut anywhere."""
        damaged = bytearray(LONG_STREAM)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        self._at_most_one_fault(data.draw(chunked(bytes(damaged))), wanted)

    @modest
    @given(st.data())
    def test_damage_does_not_depend_on_chunks(self, data: st.DataObject) -> None:
        """A damaged stream makes the same calls whole and cut anywhere."""
        damaged = bytearray(P_DATA_BYTES + ABORT_BYTES + P_DATA_BYTES)
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        stream = bytes(damaged)
        self.assertEqual(received(data.draw(chunked(stream))).joined, received([stream]).joined)
