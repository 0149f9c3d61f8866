"""Twisted's Protocol around an association, whoever has requested it: bytes, closing, pausing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomtw.association import Association, Hold
from dicomtw.limits import Limits as Limits  # for those who make a factory
from dicomtw.summary import NOTHING_SAID, log_summary
from dicomtw.transports import (
    READ,
    acknowledge_now,
    in_handshake,
    parts_writer_of,
    read_much,
    tcp_socket_of,
    tls_fault,
    writer_of,
)
from dicomtw.ul.provider import Provider
from dicomtw.watch import Watch

T = TypeVar("T")

#: After we have closed a connection its peer has this long, in seconds, to take what was sent (and under
#: TLS to say goodbye, which Twisted would wait for without end).
CLOSE_GRACE = 2.0


@implementer(IHalfCloseableProtocol, IPushProducer)
class AssociationProtocol(Protocol):
    """One connection: it carries the bytes of one association, and keeps its timers."""

    log = Logger()
    transport: Any  # TCP, TLS or UNIX, perhaps wrapped
    #: Set before the connection is made.
    association: Association
    provider: Provider
    watch: Watch

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self.clock = clock
        self.limits = limits
        self._artim: IDelayedCall | None = None
        self._closing: IDelayedCall | None = None
        self._holds = Hold(0)
        self._socket: socket.socket | None = None
        self._write: Callable[[bytes], None]
        self._write_parts: Callable[[list[bytes | memoryview]], None]
        self._has_answered = False
        self._tls = ""
        self._input_ended = False

    def _carry(self, association: Association, *, is_requestor: bool, maximum_length: int) -> None:
        """Carry the bytes of `association`."""
        self.association = association
        self.provider = association.provider = Provider(
            self, association, is_requestor=is_requestor, maximum_length=maximum_length
        )
        self.watch = Watch(association, self.limits, self.clock)

    # -- Twisted's Protocol

    def connectionMade(self) -> None:
        self._socket = tcp_socket_of(self.transport)
        self._write = writer_of(self.transport)
        self._write_parts = parts_writer_of(self.transport)
        read_much(self.transport)
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None and self._socket is not None:
            set_no_delay(True)
        # Told to pause while the peer does not take what we send, the association sends no more than it must.
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        self._has_answered = False
        try:
            self.provider.bytes_received(data)
            self.association.chunk_ended()
        except Exception:
            self._bug()
        self.watch.received()
        # An answer acknowledges too, and of what fills a read the rest is there and will be read at once.
        if self._socket is not None and not self._has_answered and len(data) < READ:
            acknowledge_now(self._socket)

    def readConnectionLost(self) -> None:
        """The peer sends no more, but may still read: what it has asked for is answered before we close."""
        self._input_ended = True
        self.association.input_ended()
        if not self.association.busy:
            self.close()

    def writeConnectionLost(self) -> None:
        self.close()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.watch.end()
        for timer in (self._artim, self._closing):
            if timer is not None and timer.active():
                timer.cancel()
        self._socket = None
        self._input_ended = False  # nobody waits for answers
        try:
            self.provider.connection_closed()
        except Exception:
            self._bug()
        self._log_summary(reason)

    def _bug(self) -> None:
        self.provider.stop()
        self.log.failure("bug in an association with {peer}", peer=self._peer_name())
        self.association.abort("internal error")

    # -- IPushProducer: what we send piles up

    def pauseProducing(self) -> None:
        self.watch.taken(False)
        self.association.taken(False)

    def resumeProducing(self) -> None:
        self.watch.taken(True)
        try:
            self.association.taken(True)
        except Exception:
            self._bug()

    def stopProducing(self) -> None:
        pass  # the connection is lost, and connectionLost follows

    # -- ul.provider.Transport

    def connect(self) -> None:
        """The connection is there before the association is asked for."""

    def write(self, data: bytes) -> None:
        self.watch.active()
        self._has_answered = True
        self._write(data)

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        self.watch.active()
        self._has_answered = True
        self._write_parts(parts)

    def close(self) -> None:
        if self._closing is None:
            grace = self.limits.dimse_timeout if self.watch.unread and self._input_ended else CLOSE_GRACE
            self._closing = self.clock.callLater(grace, self.transport.abortConnection)
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    @property
    def closing(self) -> bool:
        """Whether we are closing the connection."""
        return self._closing is not None

    def start_artim(self) -> None:
        self.stop_artim()
        self._artim = self.clock.callLater(self.limits.artim_timeout, self.provider.artim_expired)

    def stop_artim(self) -> None:
        if self._artim is not None and self._artim.active():
            self._artim.cancel()

    # -- association.Shell

    def hold(self, reason: Hold, held: bool) -> None:
        was_held = bool(self._holds)
        self._holds = self._holds | reason if held else self._holds & ~reason
        self.watch.held = bool(self._holds)
        if bool(self._holds) != was_held and not self.transport.disconnecting:
            self.watch.active()
            if was_held:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def associated(self) -> None:
        self.watch.begin()

    def idle(self) -> None:
        self.watch.active()
        if self._input_ended:
            self.close()

    # -- for the log

    def _peer_name(self) -> str:
        peer = self.transport.getPeer()
        host = getattr(peer, "host", None)
        if host is None:
            return "local socket"
        return f"[{host}]:{peer.port}" if ":" in host else f"{host}:{peer.port}"

    def _log_summary(self, reason: Failure) -> None:
        association = self.association
        fault = self.provider.fault
        if fault and in_handshake(self.transport):
            fault += ": the TLS handshake was not finished"
        ended = association.ended or fault or tls_fault(reason, self.transport)
        log_summary(
            association,
            peer=self._peer_name(),
            tls=self._tls,
            seconds=self.watch.seconds,
            ended=ended or ("closed by the peer inside a PDU" if self.provider.mid_pdu else NOTHING_SAID),
        )
