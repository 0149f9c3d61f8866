"""The service-provider: what it says of a fault, which A-ABORT it sends, and when it stops listening."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import AbortReason, LocalStateError, ProtocolError
from dicomtw.ul.machine import State
from dicomtw.ul.provider import Provider
from tests.ul.recorders import RecordingNeighbours, chunked, modest, octets
from tests.ul.test_pdu import (
    AC,
    AC_BYTES,
    P_DATA,
    P_DATA_BYTES,
    RELEASE_RP_BYTES,
    RELEASE_RQ_BYTES,
    RJ,
    RJ_BYTES,
    RQ,
    RQ_BYTES,
)

USER_ABORT = octets("07 00 00 00 00 04  00 00 00 00")
PROVIDER_ABORT = octets("07 00 00 00 00 04  00 00 02 06")
UNRECOGNIZED = octets("0A 00 00 00 00 04  00 00 00 00")
PDV_TOO_LONG = octets("04 00 00 00 00 08  00 00 00 FF 01 00 00 00")
NO_ROOM_FOR_A_PDV = octets("04 00 00 00 00 00")
SHORT_RQ = octets("01 00 00 00 00 04  00 01 00 00")
BYTES_LEFT_OVER = octets("04 00 00 00 00 0A  00 00 00 04 01 00 AA BB  CC DD")

#: States with an association, of which a closed connection or an invalid PDU is news to the user.
ASSOCIATED = [state for state in State if State.Sta3 <= state <= State.Sta12 and state != State.Sta4]


def abort(source: int, reason: int) -> str:
    """An A-ABORT as `RecordingNeighbours.sent` shows it."""
    return f"07 00 00 00 00 04 00 00 {source:02x} {reason:02x}"


def neighbours_in(state: State) -> RecordingNeighbours:
    """The neighbours of an acceptor's provider whose state was set by hand."""
    neighbours = RecordingNeighbours()
    neighbours.provider.state = state
    return neighbours


def versioned(version: int) -> bytes:
    """A-ASSOCIATE-RQ with another protocol version."""
    return RQ_BYTES[:6] + version.to_bytes(2, "big") + RQ_BYTES[8:]


class FaultTests(SynchronousTestCase):
    def test_words(self) -> None:
        """After each thing that goes wrong, `fault` says it in words for the log."""
        cases: list[tuple[State, Callable[[Provider], None], str]] = [
            (State.Sta2, lambda p: p.bytes_received(AC_BYTES), "A-ASSOCIATE-AC in Sta2"),
            (State.Sta2, lambda p: p.bytes_received(RJ_BYTES), "A-ASSOCIATE-RJ in Sta2"),
            (State.Sta2, lambda p: p.bytes_received(RELEASE_RQ_BYTES), "A-RELEASE-RQ in Sta2"),
            (State.Sta2, lambda p: p.bytes_received(RELEASE_RP_BYTES), "A-RELEASE-RP in Sta2"),
            (State.Sta2, lambda p: p.bytes_received(P_DATA_BYTES), "P-DATA-TF in Sta2"),
            (State.Sta2, lambda p: p.bytes_received(UNRECOGNIZED), "unrecognized PDU type 0AH"),
            (State.Sta2, lambda p: p.bytes_received(versioned(2)), "protocol version 0002H"),
            (State.Sta2, lambda p: p.artim_expired(), "no A-ASSOCIATE-RQ within the ARTIM time"),
            (
                State.Sta2,
                lambda p: p.bytes_received(PROVIDER_ABORT),
                "peer sent A-ABORT by the service-provider: invalid-PDU-parameter-value",
            ),
            (State.Sta3, lambda p: p.bytes_received(P_DATA_BYTES), "P-DATA-TF in Sta3"),
            (State.Sta6, lambda p: p.bytes_received(RQ_BYTES), "A-ASSOCIATE-RQ in Sta6"),
            (State.Sta6, lambda p: p.bytes_received(USER_ABORT), "peer sent A-ABORT by the service-user"),
            (State.Sta6, lambda p: p.connection_closed(), "connection closed by the peer"),
            (State.Sta6, lambda p: p.abort_request("disk full"), "disk full"),
            (
                State.Sta6,
                lambda p: p.bytes_received(PDV_TOO_LONG),
                "presentation-data-value of 255 bytes where 4 are left in its PDU",
            ),
            (
                State.Sta6,
                lambda p: p.bytes_received(NO_ROOM_FOR_A_PDV),
                "P-DATA-TF of 0 bytes has no room for a presentation-data-value",
            ),
            (State.Sta8, lambda p: p.bytes_received(RELEASE_RP_BYTES), "A-RELEASE-RP in Sta8"),
        ]
        for state, cause, words in cases:
            neighbours = neighbours_in(state)
            self.assertEqual(neighbours.provider.fault, "")
            cause(neighbours.provider)
            self.assertEqual(neighbours.provider.fault, words)

    def test_no_fault(self) -> None:
        """What goes as it should leaves `fault` empty."""
        cases: list[tuple[State, Callable[[Provider], None]]] = [
            (State.Sta1, lambda p: p.connection_closed()),
            (State.Sta2, lambda p: p.bytes_received(RQ_BYTES)),
            (State.Sta2, lambda p: p.connection_closed()),
            (State.Sta3, lambda p: p.associate_response(RJ)),
            (State.Sta5, lambda p: p.bytes_received(AC_BYTES)),
            (State.Sta6, lambda p: p.bytes_received(P_DATA_BYTES)),
            (State.Sta6, lambda p: p.bytes_received(RELEASE_RQ_BYTES)),
            (State.Sta7, lambda p: p.bytes_received(P_DATA_BYTES + RELEASE_RP_BYTES)),
            (State.Sta13, lambda p: p.connection_closed()),
            (State.Sta13, lambda p: p.artim_expired()),
            (State.Sta13, lambda p: p.bytes_received(RELEASE_RP_BYTES)),
        ]
        for state, cause in cases:
            neighbours = neighbours_in(state)
            cause(neighbours.provider)
            self.assertEqual(neighbours.provider.fault, "", state.name)

    def test_known_before_the_user_is_told(self) -> None:
        """The user finds the words when it is told of the abort."""
        neighbours = neighbours_in(State.Sta6)
        found: list[str] = []
        neighbours.meanwhile["p_abort_indication"] = lambda: found.append(neighbours.provider.fault)
        neighbours.provider.bytes_received(RQ_BYTES)
        self.assertEqual(found, ["A-ASSOCIATE-RQ in Sta6"])

    def test_the_first_stays(self) -> None:
        """What follows from a fault does not hide it."""
        neighbours = neighbours_in(State.Sta6)
        provider = neighbours.provider
        provider.abort_request("disk full")
        provider.bytes_received(P_DATA_BYTES + USER_ABORT)
        self.assertEqual((provider.fault, provider.state), ("disk full", State.Sta1))
        neighbours = neighbours_in(State.Sta6)
        provider = neighbours.provider
        provider.bytes_received(UNRECOGNIZED)
        provider.artim_expired()
        provider.connection_closed()
        self.assertEqual((provider.fault, provider.state), ("unrecognized PDU type 0AH", State.Sta1))


class AbortReasonTests(SynchronousTestCase):
    """Table 9-26: source 0 from AA-1, source 2 and a reason from AA-7 and AA-8."""

    def test_by_the_service_user(self) -> None:
        """In Sta2 an A-ABORT has source 0 (AA-1), and so has one that the user asks for."""
        for stream in (AC_BYTES, RJ_BYTES, P_DATA_BYTES, RELEASE_RQ_BYTES, RELEASE_RP_BYTES, UNRECOGNIZED):
            neighbours = neighbours_in(State.Sta2)
            neighbours.provider.bytes_received(stream)
            self.assertEqual(neighbours.sent, [abort(0, 0)])
        for state in ASSOCIATED:
            neighbours = neighbours_in(state)
            neighbours.provider.abort_request("a test")
            self.assertEqual(neighbours.sent, [abort(0, 0)], state.name)

    def test_invalid_pdu_in_sta2(self) -> None:
        """An invalid PDU in Sta2 is aborted with source 0; its reason, not significant, tells why."""
        for stream in (SHORT_RQ, NO_ROOM_FOR_A_PDV, octets("01 00 FF FF FF FF")):
            neighbours = neighbours_in(State.Sta2)
            neighbours.provider.bytes_received(stream)
            self.assertEqual(neighbours.sent, [abort(0, 6)])

    def test_unexpected_pdu(self) -> None:
        """A valid PDU in the wrong state: source 2, reason 2."""
        cases = [
            (State.Sta3, (RQ_BYTES, AC_BYTES, RJ_BYTES, P_DATA_BYTES, RELEASE_RQ_BYTES, RELEASE_RP_BYTES)),
            (State.Sta5, (RQ_BYTES, P_DATA_BYTES, RELEASE_RQ_BYTES, RELEASE_RP_BYTES)),
            (State.Sta6, (RQ_BYTES, AC_BYTES, RJ_BYTES, RELEASE_RP_BYTES)),
            (State.Sta7, (RQ_BYTES, AC_BYTES, RJ_BYTES)),
            (State.Sta8, (RQ_BYTES, AC_BYTES, RJ_BYTES, P_DATA_BYTES, RELEASE_RQ_BYTES, RELEASE_RP_BYTES)),
            (State.Sta13, (RQ_BYTES,)),
        ]
        for state, streams in cases:
            for stream in streams:
                neighbours = neighbours_in(state)
                neighbours.provider.bytes_received(stream)
                self.assertEqual(neighbours.sent, [abort(2, 2)], state.name)

    def test_unrecognized_pdu(self) -> None:
        """An unknown PDU type: source 2, reason 1."""
        for state in (*ASSOCIATED, State.Sta13):
            neighbours = neighbours_in(state)
            neighbours.provider.bytes_received(UNRECOGNIZED)
            self.assertEqual(neighbours.sent, [abort(2, 1)], state.name)

    def test_invalid_parameter_value(self) -> None:
        """A PDU that cannot be read: source 2, reason 6."""
        for state in (*ASSOCIATED, State.Sta13):
            for stream in (SHORT_RQ, NO_ROOM_FOR_A_PDV, octets("05 00 00 00 00 05")):
                neighbours = neighbours_in(state)
                neighbours.provider.bytes_received(stream)
                self.assertEqual(neighbours.sent, [abort(2, 6)], state.name)
        for stream in (PDV_TOO_LONG, BYTES_LEFT_OVER):
            for state in (State.Sta6, State.Sta7):
                neighbours = neighbours_in(state)
                neighbours.provider.bytes_received(stream)
                self.assertEqual(neighbours.sent, [abort(2, 6)], state.name)

    def test_reason_of_the_user(self) -> None:
        """A `ProtocolError` that the user raises inside an indication or a fragment: source 2, its reason."""
        cases = [
            (State.Sta2, RQ_BYTES, "associate_indication"),
            (State.Sta5, AC_BYTES, "associate_confirmation_accept"),
            (State.Sta6, P_DATA_BYTES, "data_indication"),
            (State.Sta6, P_DATA_BYTES, "fragment_received"),
            (State.Sta7, P_DATA_BYTES, "fragment_received"),
            (State.Sta6, RELEASE_RQ_BYTES, "release_indication"),
        ]
        for state, stream, name in cases:
            for reason in AbortReason:
                neighbours = neighbours_in(state)

                def refuse(reason: AbortReason = reason) -> None:
                    raise ProtocolError("refused by the user", reason)

                neighbours.meanwhile[name] = refuse
                neighbours.provider.bytes_received(stream + stream)
                self.assertEqual(neighbours.sent, [abort(2, reason)], name)
                self.assertEqual(neighbours.provider.fault, "refused by the user")
                self.assertEqual(neighbours.provider.state, State.Sta13)
                self.assertEqual(neighbours.calls.count("p_abort_indication"), 1)


class OneAbortTests(SynchronousTestCase):
    """One bad PDU is answered by one A-ABORT, whatever else is wrong with it."""

    def test_unexpected_and_invalid_p_data(self) -> None:
        """P-DATA where there is no association, with garbage inside, is aborted at its header and once."""
        garbage = octets("04 00 00 00 00 0C") + b"\xff" * 12
        for stream in (garbage, PDV_TOO_LONG, BYTES_LEFT_OVER):
            for state in State:
                if state in (State.Sta1, State.Sta4, State.Sta6, State.Sta7, State.Sta13):
                    continue
                neighbours = neighbours_in(state)
                for at in range(len(stream)):
                    neighbours.provider.bytes_received(stream[at : at + 1])
                    self.assertEqual(len(neighbours.sent), 0 if at < 5 else 1, state.name)
                expected = abort(0, 0) if state == State.Sta2 else abort(2, 2)
                self.assertEqual(neighbours.sent, [expected], state.name)
                self.assertEqual(neighbours.fragments, [])
                self.assertEqual(neighbours.provider.fault, f"P-DATA-TF in {state.name}")

    def test_p_data_after_the_end(self) -> None:
        """In Sta13 P-DATA is ignored, and so is the garbage in it (AA-6)."""
        neighbours = neighbours_in(State.Sta13)
        neighbours.provider.bytes_received(PDV_TOO_LONG + BYTES_LEFT_OVER + P_DATA_BYTES)
        self.assertEqual((neighbours.calls, neighbours.fragments), ([], []))
        self.assertEqual(neighbours.provider.state, State.Sta13)

    def test_invalid_pdu_twice(self) -> None:
        """Behind an invalid PDU nothing is listened to, so a second one is not answered."""
        for state in (State.Sta2, *ASSOCIATED, State.Sta13):
            neighbours = neighbours_in(state)
            neighbours.provider.bytes_received(UNRECOGNIZED * 2)
            neighbours.provider.bytes_received(UNRECOGNIZED + RQ_BYTES)
            self.assertEqual(len(neighbours.sent), 1, state.name)

    @modest
    @given(st.sampled_from([State.Sta2, State.Sta3, State.Sta8]), st.binary(max_size=60), st.data())
    def test_any_p_data(self, state: State, body: bytes, data: st.DataObject) -> None:
        """Unexpected P-DATA with anything in it, however it is cut: one A-ABORT and no fragment."""
        body += bytes(6)
        stream = octets("04 00") + len(body).to_bytes(4, "big") + body
        neighbours = neighbours_in(state)
        for chunk in data.draw(chunked(stream)):
            neighbours.provider.bytes_received(chunk)
        self.assertEqual(neighbours.sent, [abort(0, 0) if state == State.Sta2 else abort(2, 2)])
        self.assertEqual(neighbours.fragments, [])


class FragmentTests(SynchronousTestCase):
    FRAGMENTS = ((1, 3, b"\xaa\xbb\xcc\xdd", True), (1, 2, b"", True), (3, 0, b"\x11\x22", True))

    def test_behind_their_indication(self) -> None:
        """In Sta6 and Sta7 the fragments of a P-DATA-TF follow its one indication."""
        for state in (State.Sta6, State.Sta7):
            neighbours = neighbours_in(state)
            neighbours.meanwhile["data_indication"] = lambda n=neighbours: self.assertEqual(n.fragments, [])
            neighbours.provider.bytes_received(P_DATA_BYTES)
            self.assertEqual(neighbours.calls, ["data_indication"])
            self.assertEqual(tuple(neighbours.fragments), self.FRAGMENTS)

    def test_none_after_an_abort(self) -> None:
        """A user that aborts at a fragment gets no more of them; the rest of the PDU is passed over."""
        neighbours = neighbours_in(State.Sta6)
        provider = neighbours.provider
        neighbours.meanwhile["fragment_received"] = lambda: provider.abort_request("enough")
        provider.bytes_received(P_DATA_BYTES * 2)
        self.assertEqual(tuple(neighbours.fragments), self.FRAGMENTS[:1])
        self.assertEqual(neighbours.sent, [abort(0, 0)])

    def test_garbage_after_an_abort(self) -> None:
        """Wherever the abort falls between two bytes of a P-DATA-TF, garbage in its rest is passed over."""
        first = octets("00 00 00 04  01 03  AA BB")
        stream = octets("04 00") + (len(first) + 12).to_bytes(4, "big") + first + b"\xff" * 12
        for edge in range(6, 20):
            neighbours = neighbours_in(State.Sta6)
            neighbours.provider.bytes_received(stream[:edge])
            neighbours.provider.abort_request("enough")
            neighbours.provider.bytes_received(stream[edge:] + RQ_BYTES)
            # The RQ behind it is found, and answered in Sta13 (AA-7).
            self.assertEqual(neighbours.sent, [abort(0, 0), abort(2, 2)], edge)

    def test_release_requested_meanwhile(self) -> None:
        """A user that asks for the release at a fragment still gets the others: Sta7 has P-DATA."""
        neighbours = neighbours_in(State.Sta6)
        provider = neighbours.provider

        def release_once() -> None:
            del neighbours.meanwhile["fragment_received"]
            provider.release_request()

        neighbours.meanwhile["fragment_received"] = release_once
        provider.bytes_received(P_DATA_BYTES)
        self.assertEqual(tuple(neighbours.fragments), self.FRAGMENTS)
        self.assertEqual(provider.state, State.Sta7)

    def test_longer_than_we_receive(self) -> None:
        """A P-DATA-TF longer than our maximum length is aborted at its header: source 2, reason 6."""
        neighbours = RecordingNeighbours(maximum_length=23)
        neighbours.provider.state = State.Sta6
        neighbours.provider.bytes_received(P_DATA_BYTES[:6])
        self.assertEqual(neighbours.sent, [abort(2, 6)])
        self.assertEqual(neighbours.provider.fault, "P-DATA-TF of 24 bytes; we receive 23")

    def test_odd_lengths(self) -> None:
        """A fragment of odd length is received and remembered for one line in the log."""
        neighbours = neighbours_in(State.Sta6)
        neighbours.provider.bytes_received(P_DATA_BYTES)
        self.assertFalse(neighbours.provider.odd_lengths)
        neighbours.provider.bytes_received(octets("04 00 00 00 00 07  00 00 00 03 01 02 AA"))
        self.assertTrue(neighbours.provider.odd_lengths)
        self.assertEqual(neighbours.fragments[-1], (1, 2, b"\xaa", True))


class ProtocolVersionTests(SynchronousTestCase):
    def test_bit_zero_alone(self) -> None:
        """Bit 0 of the protocol version is tested and no other (PS3.8 9.3.2); without it RJ(1,2,2)."""
        for version in (0x0001, 0x0003, 0x8001, 0xFFFF):
            neighbours = neighbours_in(State.Sta2)
            neighbours.provider.bytes_received(versioned(version))
            self.assertEqual(neighbours.provider.state, State.Sta3)
            self.assertEqual(neighbours.calls, ["stop_artim", "associate_indication"])
        for version in (0x0000, 0x0002, 0x0100, 0xFFFE):
            neighbours = neighbours_in(State.Sta2)
            neighbours.provider.bytes_received(versioned(version))
            self.assertEqual(neighbours.provider.state, State.Sta13)
            rejection = "send 03 00 00 00 00 04 00 01 02 02"
            self.assertEqual(neighbours.calls, ["stop_artim", rejection, "start_artim"])
            self.assertEqual(neighbours.provider.fault, f"protocol version {version:04X}H")


class ClosedTests(SynchronousTestCase):
    def test_in_every_state(self) -> None:
        """A closed connection ends every state in Sta1; the user is told where there is an association."""
        calls = {State.Sta1: [], State.Sta2: ["stop_artim"], State.Sta13: ["stop_artim"]}
        faults = {State.Sta1: "", State.Sta2: "", State.Sta13: ""}
        for state in State:
            neighbours = neighbours_in(state)
            for _ in range(2):  # the second time it is Sta1
                neighbours.provider.connection_closed()
                self.assertEqual(neighbours.provider.state, State.Sta1)
                self.assertEqual(neighbours.calls, calls.get(state, ["p_abort_indication"]), state.name)
            if state != State.Sta4:  # there was no connection yet, in whatever words
                fault = faults.get(state, "connection closed by the peer")
                self.assertEqual(neighbours.provider.fault, fault, state.name)

    def test_data_after_it(self) -> None:
        """Bytes after the connection was closed, from either side, are ignored."""
        closings: list[tuple[State, Callable[[Provider], None]]] = [
            *((state, lambda p: p.connection_closed()) for state in State),
            (State.Sta2, lambda p: p.artim_expired()),
            (State.Sta13, lambda p: p.artim_expired()),
            (State.Sta4, lambda p: p.abort_request("a test")),
            (State.Sta5, lambda p: p.bytes_received(RJ_BYTES)),
            (State.Sta6, lambda p: p.bytes_received(USER_ABORT)),
            (State.Sta7, lambda p: p.bytes_received(RELEASE_RP_BYTES)),
        ]
        for state, closing in closings:
            neighbours = neighbours_in(state)
            closing(neighbours.provider)
            before = list(neighbours.calls)
            neighbours.provider.bytes_received(RQ_BYTES + UNRECOGNIZED + P_DATA_BYTES)
            self.assertEqual(neighbours.calls, before, state.name)
            self.assertEqual(neighbours.provider.state, State.Sta1, state.name)

    def test_data_behind_the_last_pdu(self) -> None:
        """What stands in one chunk behind the PDU that makes us close is ignored."""
        for state, stream in (
            (State.Sta7, RELEASE_RP_BYTES),
            (State.Sta6, USER_ABORT),
            (State.Sta5, RJ_BYTES),
        ):
            neighbours = neighbours_in(state)
            neighbours.provider.bytes_received(stream + RQ_BYTES + UNRECOGNIZED)
            self.assertEqual(neighbours.sent, [], state.name)
            self.assertEqual(neighbours.provider.state, State.Sta1, state.name)

    def test_stopped(self) -> None:
        """Stopped, it ignores what else comes in, whole or in the midst, and says and sends nothing."""
        for state in State:
            for before in (b"", P_DATA_BYTES[:14], UNRECOGNIZED[:3]):
                if before and state != State.Sta6:
                    continue
                neighbours = neighbours_in(state)
                provider = neighbours.provider
                provider.bytes_received(before)
                calls, fragments = list(neighbours.calls), list(neighbours.fragments)
                provider.stop()
                for chunk in (P_DATA_BYTES[14:], RQ_BYTES, UNRECOGNIZED, PROVIDER_ABORT, b"\0"):
                    provider.bytes_received(chunk)
                self.assertEqual((neighbours.calls, neighbours.fragments), (calls, fragments))
                self.assertEqual((provider.state, provider.fault), (state, ""))

    def test_stopped_inside_a_chunk(self) -> None:
        """Stopped by its user it ignores the rest of the chunk too; the end of the connection is told."""
        neighbours = neighbours_in(State.Sta6)
        provider = neighbours.provider
        neighbours.meanwhile["fragment_received"] = provider.stop
        provider.bytes_received(P_DATA_BYTES + RELEASE_RQ_BYTES + UNRECOGNIZED)
        self.assertEqual(neighbours.calls, ["data_indication"])
        self.assertEqual(len(neighbours.fragments), 1)
        provider.connection_closed()
        self.assertEqual(neighbours.calls, ["data_indication", "p_abort_indication"])
        self.assertEqual((provider.state, provider.fault), (State.Sta1, "connection closed by the peer"))

    def test_no_event_while_the_connection_closes(self) -> None:
        """After our own close the transport's word that it is closed is no news to anyone."""
        neighbours = neighbours_in(State.Sta6)
        neighbours.provider.bytes_received(USER_ABORT)
        before = list(neighbours.calls)
        neighbours.provider.connection_closed()
        self.assertEqual(neighbours.calls, before)


class RunTests(SynchronousTestCase):
    """P-DATA-TF in a row: one P-DATA indication, and all their fragments."""

    RUN = octets("04 00 00 00 00 08  00 00 00 04  01 00  AA BB") * 3

    def test_indicated(self) -> None:
        for state in (State.Sta6, State.Sta7):
            neighbours = neighbours_in(state)
            neighbours.provider.bytes_received(self.RUN)
            self.assertEqual(neighbours.fragments, [(1, 0, b"\xaa\xbb", True)] * 3)
            self.assertEqual(neighbours.calls.count("data_indication"), 1)
            self.assertEqual(neighbours.provider.state, state)

    def test_aborted_in_the_indication(self) -> None:
        """Who aborts then gets none of them."""
        neighbours = neighbours_in(State.Sta6)
        neighbours.meanwhile["data_indication"] = lambda: neighbours.provider.abort_request("enough")
        neighbours.provider.bytes_received(self.RUN)
        self.assertEqual((neighbours.fragments, neighbours.sent), ([], [abort(0, 0)]))

    def test_unexpected(self) -> None:
        """Where no P-DATA is due they are one abort, and are passed over."""
        neighbours = neighbours_in(State.Sta8)
        neighbours.provider.bytes_received(self.RUN)
        self.assertEqual((neighbours.fragments, neighbours.sent), ([], [abort(2, 2)]))
        self.assertEqual(neighbours.provider.state, State.Sta13)


class PrimitiveTests(SynchronousTestCase):
    def test_data_in_parts(self) -> None:
        """What is encoded in many parts is sent as it is."""
        neighbours = neighbours_in(State.Sta6)
        neighbours.provider.data_request([P_DATA_BYTES[:9], memoryview(P_DATA_BYTES)[9:]])
        self.assertEqual(neighbours.sent, [P_DATA_BYTES.hex(" ")])

    def test_misuse_is_ours(self) -> None:
        """A primitive that the state does not allow is a `LocalStateError`, and nothing is sent."""
        cases: list[tuple[State, Callable[[Provider], None], str]] = [
            (State.Sta6, lambda p: p.associate_request(RQ), "Evt1 has no action in Sta6"),
            (State.Sta6, lambda p: p.associate_response(AC), "Evt7 has no action in Sta6"),
            (State.Sta6, lambda p: p.associate_response(RJ), "Evt8 has no action in Sta6"),
            (State.Sta3, lambda p: p.data_request(P_DATA), "Evt9 has no action in Sta3"),
            (State.Sta7, lambda p: p.data_request(P_DATA), "Evt9 has no action in Sta7"),
            (State.Sta8, lambda p: p.release_request(), "Evt11 has no action in Sta8"),
            (State.Sta6, lambda p: p.release_response(), "Evt14 has no action in Sta6"),
            (State.Sta2, lambda p: p.abort_request("a test"), "Evt15 has no action in Sta2"),
            (State.Sta13, lambda p: p.abort_request("a test"), "Evt15 has no action in Sta13"),
            (State.Sta6, lambda p: p.artim_expired(), "Evt18 has no action in Sta6"),
        ]
        for state, request, words in cases:
            neighbours = neighbours_in(state)
            fault = self.assertRaises(LocalStateError, request, neighbours.provider)
            self.assertEqual(str(fault), words)
            self.assertEqual((neighbours.calls, neighbours.provider.state), ([], state))

    def test_request_is_kept_for_the_connection(self) -> None:
        """The A-ASSOCIATE-RQ goes out when the transport connection that it asked for is open."""
        neighbours = RecordingNeighbours(is_requestor=True)
        neighbours.provider.associate_request(RQ)
        self.assertEqual((neighbours.calls, neighbours.provider.state), (["connect"], State.Sta4))
        neighbours.provider.connection_confirmation()
        self.assertEqual(neighbours.sent, [RQ_BYTES.hex(" ")])
        self.assertEqual(neighbours.provider.state, State.Sta5)


class MidPDUTests(SynchronousTestCase):
    def test_mid_pdu(self) -> None:
        """`mid_pdu` is true from the first byte of a PDU to the last but one."""
        for stream in (RQ_BYTES + RELEASE_RQ_BYTES, P_DATA_BYTES * 2):
            neighbours = neighbours_in(State.Sta2 if stream[0] == 1 else State.Sta6)
            length = int.from_bytes(stream[2:6], "big") + 6
            for at in range(length):
                self.assertEqual(neighbours.provider.mid_pdu, at > 0)
                neighbours.provider.bytes_received(stream[at : at + 1])
            self.assertFalse(neighbours.provider.mid_pdu)

    def test_held(self) -> None:
        """`held` is what is kept of a PDU that is decoded whole, from behind its header to its last byte."""
        neighbours = neighbours_in(State.Sta2)
        for at in range(len(RQ_BYTES)):
            self.assertEqual(neighbours.provider.held, max(0, at - 6))
            neighbours.provider.bytes_received(RQ_BYTES[at : at + 1])
        self.assertEqual(neighbours.provider.held, 0)

    def test_passed_over(self) -> None:
        """A P-DATA-TF that is passed over is a PDU half received all the same."""
        neighbours = neighbours_in(State.Sta13)
        neighbours.provider.bytes_received(P_DATA_BYTES[:-1])
        self.assertTrue(neighbours.provider.mid_pdu)
        neighbours.provider.bytes_received(P_DATA_BYTES[-1:])
        self.assertFalse(neighbours.provider.mid_pdu)
