"""The UL service-provider (PS3.8 section 7): service primitives on one side, bytes on the other.

It joins `framer` and `machine`. It owns the state, and asks its `Transport` for everything that touches the
world: a recorder in tests, the Twisted protocol in the server.
"""

from __future__ import annotations

from typing import Any, Protocol

from dicomtw.errors import LocalStateError, ProtocolError
from dicomtw.ul import machine
from dicomtw.ul.framer import Framer
from dicomtw.ul.machine import Event, State
from dicomtw.ul.pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    PDU,
    ReceivedPDU,
    Result,
    Source,
)

_EVENT_OF_PDU: dict[type[ReceivedPDU], Event] = {
    A_ASSOCIATE_AC: Event.Evt3,
    A_ASSOCIATE_RJ: Event.Evt4,
    A_ASSOCIATE_RQ: Event.Evt6,
    A_RELEASE_RQ: Event.Evt12,
    A_RELEASE_RP: Event.Evt13,
    A_ABORT: Event.Evt16,
}

_DATA_STATES = (State.Sta6, State.Sta7)


class Transport(Protocol):
    """What a provider needs of the world. None of these calls the provider back before it returns."""

    def connect(self) -> None:
        """Open the transport connection, then call `Provider.connection_confirmation`."""

    def write(self, data: bytes) -> None:
        """Send bytes, in one go."""

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        """Send bytes that are in many places, in one go."""

    def close(self) -> None:
        """Close the transport connection after what was written has gone out."""

    def start_artim(self) -> None:
        """Start or restart the ARTIM timer; `Provider.artim_expired` is called when it runs out."""

    def stop_artim(self) -> None:
        """Stop the ARTIM timer if it runs."""


class User(machine.ServiceUser, Protocol):
    """The UL service-user: the machine's primitives, and the fragments that follow a P-DATA indication."""

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        """Part of a PDV, see `framer.Receiver`. May raise `ProtocolError`: an invalid PDU, Evt19."""

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        """Many PDVs, see `framer.Receiver`; there was one P-DATA indication for all. May raise the same."""


class Provider:
    """One UL association, in either role.

    `maximum_length` is the longest P-DATA-TF variable field we receive, in bytes, 0 for any length.
    The request and response primitives raise `LocalStateError` where Table 9-10 has no action for them.
    """

    def __init__(self, transport: Transport, user: User, *, is_requestor: bool, maximum_length: int) -> None:
        self.state = State.Sta1
        self.is_requestor = is_requestor
        self.user = user
        #: What went wrong last, in words, for the log; empty while nothing did.
        self.fault = ""
        self._transport = transport
        self._framer = Framer(self, maximum_length)
        self._rq: A_ASSOCIATE_RQ | None = None

    def _happens(self, event: Event, argument: Any = None) -> None:
        action = machine.action_of(event, self.state)
        if action is None:
            raise LocalStateError(f"{event.name} has no action in {self.state.name}")
        self.state, tell = action(self, argument)
        if tell is not None:
            tell(argument)

    # -- request and response primitives: what the service-user asks for (PS3.8 Table 7-1)

    def associate_request(self, rq: A_ASSOCIATE_RQ) -> None:
        self._rq = rq
        self._happens(Event.Evt1)

    def associate_response(self, answer: A_ASSOCIATE_AC | A_ASSOCIATE_RJ) -> None:
        self._happens(Event.Evt7 if isinstance(answer, A_ASSOCIATE_AC) else Event.Evt8, answer)

    def data_request(self, p_data: PDU | bytes | list[bytes | memoryview]) -> None:
        """Send P-DATA-TFs: one as an object, or any number encoded, be it in many parts."""
        self._happens(Event.Evt9, p_data)

    def release_request(self) -> None:
        self._happens(Event.Evt11)

    def release_response(self) -> None:
        self._happens(Event.Evt14)

    def abort_request(self, why: str) -> None:
        """Abort as the service-user; `why` is for our log, it is not sent."""
        self._happens(Event.Evt15)
        self.fault = self.fault or why
        self._framer.pass_over_pdu()

    # -- what the transport tells

    def connection_indication(self) -> None:
        """A peer opened a transport connection to us."""
        self._happens(Event.Evt5)

    def connection_confirmation(self) -> None:
        """The transport connection that we asked for is open."""
        self._happens(Event.Evt2, self._rq)

    def bytes_received(self, chunk: bytes) -> None:
        self._framer.receive(chunk)

    def stop(self) -> None:
        """Ignore what else comes in."""
        self._framer.stop()

    def connection_closed(self) -> None:
        """The transport connection is closed, by whomever. No event if we have closed it: that is Sta1."""
        self._framer.stop()
        if self.state != State.Sta1:
            if self.state == State.Sta4:
                self.fault = self.fault or "the connection could not be opened"
            elif self.state not in (State.Sta2, State.Sta13):
                self.fault = self.fault or "connection closed by the peer"
            self._happens(Event.Evt17)

    def artim_expired(self) -> None:
        if self.state == State.Sta2:
            self.fault = self.fault or "no A-ASSOCIATE-RQ within the ARTIM time"
        self._happens(Event.Evt18)

    @property
    def mid_pdu(self) -> bool:
        """Whether a PDU is half received."""
        return self._framer.mid_pdu

    @property
    def held(self) -> int:
        """Bytes that are kept of a PDU which is half received."""
        return self._framer.held

    @property
    def odd_lengths(self) -> bool:
        """Whether the peer sent a fragment of odd length."""
        return self._framer.odd_lengths

    # -- framer.Receiver

    def pdu_received(self, pdu: ReceivedPDU) -> None:
        event = _EVENT_OF_PDU[type(pdu)]
        action = machine.action_of(event, self.state)
        if action in (machine.AA_1, machine.AA_8):
            self.fault = f"{type(pdu).__name__.replace('_', '-')} in {self.state.name}"
        elif isinstance(pdu, A_ABORT):
            self.fault = self.fault or f"peer sent {pdu}"
        self._happens(event, pdu)

    def p_data_received(self) -> bool:
        # For one P-DATA-TF or for several in a row: DT-2 leaves the state as it is, and AA-6 ignores.
        if self.state not in _DATA_STATES and self.state != State.Sta13:
            self.fault = self.fault or f"P-DATA-TF in {self.state.name}"
        self._happens(Event.Evt10)
        return self.state in _DATA_STATES

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        # Not in a data state: the P-DATA-TF was refused at its header, or aborted by the user since.
        if self.state in _DATA_STATES:
            self.user.fragment_received(context_id, control_header, data, complete)

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        self.user.fragments_received(context_id, fragments)  # their P-DATA-TF was wanted a moment ago

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        self.fault = self.fault or str(fault)
        self._happens(Event.Evt19, fault)

    # -- machine.UL

    def connect(self) -> None:
        self._transport.connect()

    def send(self, pdu: PDU | bytes | list[bytes | memoryview]) -> None:
        if isinstance(pdu, list):
            self._transport.write_parts(pdu)
        else:
            self._transport.write(pdu if isinstance(pdu, bytes) else pdu.encode())

    def close(self) -> None:
        self._framer.stop()
        self._transport.close()

    def start_artim(self) -> None:
        self._transport.start_artim()

    def stop_artim(self) -> None:
        self._transport.stop_artim()

    def unacceptable(self, rq: A_ASSOCIATE_RQ) -> A_ASSOCIATE_RJ | None:
        """Only the protocol version is the provider's business: bit 0 alone is tested (PS3.8 9.3.2)."""
        if rq.protocol_version & 0x0001:
            return None
        self.fault = f"protocol version {rq.protocol_version:04X}H"
        return A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_PROVIDER_ACSE, 2)
