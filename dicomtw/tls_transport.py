"""TLS between a protocol and its transport, for much data: Twisted's own, but for how bytes pass through it.

A record holds 16 KiB of data at most (RFC 8446 5.1; RFC 5246 6.2.1). Twisted calls the protocol for each
record that comes in, and writes to the transport for each that goes out. A call of ours costs more than
OpenSSL takes for a record, so that here all records of a chunk are one call, and what is written is passed on
64 KiB at a time. ``benchmarks/tls.py`` measures it.
"""

# ruff: noqa: N802, N803 (Twisted's hooks keep Twisted's case)

from __future__ import annotations

from typing import Any, Final

import attrs
from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomtw.transports import writer_of

#: The most data of a record, in bytes: no call of OpenSSL's takes or gives more.
_RECORD: Final = 1 << 14
#: Bytes that are encrypted before they go to the transport. OpenSSL's buffer for what is encrypted never
#: shrinks, and each connection has one; with more it is no faster.
_STEP: Final = 1 << 16
#: What they become at most, with the head, padding and tag of each record; and room to see that it is all.
_STEP_ENCRYPTED: Final = _STEP + 1024


class TLSTransport(TLSMemoryBIOProtocol):
    """The transport of a protocol, and the protocol of a transport: TLS is between them.

    What is written is encrypted when the chunk that is being received has been dealt with, or else in the
    next turn of the reactor, so that several small writes make one record. What is encrypted goes at once.
    """

    factory: TLSFactory
    transport: Any

    def __init__(self, factory: TLSFactory, wrappedProtocol: IProtocol, _connectWrapped: bool = True) -> None:
        super().__init__(factory, wrappedProtocol, _connectWrapped)
        self._receiving = False
        self._written: list[bytes] = []  # and not encrypted yet
        self._written_size = 0
        self._next_turn: IDelayedCall | None = None

    def makeConnection(self, transport: Any) -> None:
        self._send = writer_of(transport)
        super().makeConnection(transport)

    # -- what comes in

    def dataReceived(self, data: bytes) -> None:
        self._receiving = True
        try:
            super().dataReceived(data)
        finally:
            self._receiving = False
        self._encrypt()

    def _flushReceiveBIO(self) -> None:
        """Hand on in one piece what all records that are there hold; then, if that was all, the end."""
        if not self._lostTLSConnection:
            records, end = self._decrypted()
            if records and not self._aborted:
                # A new object each time: parts of it are kept while the disk lags.
                ProtocolWrapper.dataReceived(self, b"".join(records))
                self._encrypt()  # before the answer to a close_notify, which ends what we can send
            if end is not None and not self._lostTLSConnection:
                if end.check(ZeroReturnError):
                    self._shutdownTLS()
                    self._tlsShutdownFinished(None)
                else:
                    self._tlsShutdownFinished(end)
        self._flushSendBIO()

    def _decrypted(self) -> tuple[list[bytes], Failure | None]:
        """What the records hold that are there, and what ended TLS if something has."""
        receive = self._tlsConnection.recv
        records: list[bytes] = []
        try:
            while True:
                records.append(receive(_RECORD))
        except WantReadError:
            return records, None
        except Error:  # also that the peer has sent close_notify
            return records, Failure()

    # -- what goes out

    def write(self, data: bytes) -> None:
        if self.disconnecting and self._producer is None:
            return
        self._written.append(data)
        self._written_size += len(data)
        if self._written_size >= _STEP:
            self._encrypt()
        elif not self._receiving and self._next_turn is None:
            self._next_turn = self.factory._clock.callLater(0, self._turn_came)

    def _turn_came(self) -> None:
        self._next_turn = None
        self._encrypt()

    def _encrypt(self) -> None:
        if self._written:
            data = b"".join(self._written)
            self._forget()
            self._write(data)

    def _forget(self) -> None:
        self._written.clear()
        self._written_size = 0

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        send = self._tlsConnection.send
        sent = 0
        while sent < len(data) and not self._lostTLSConnection:
            end = sent + _STEP
            try:
                while sent < min(end, len(data)):
                    sent += send(view[sent : min(sent + _RECORD, end)])
            except WantReadError:  # in the handshake
                self._bufferedWrite(data[sent:])
                return
            except Error:
                self._tlsShutdownFinished(Failure())
                return
            self._flushSendBIO()

    def _flushSendBIO(self) -> None:
        try:
            while True:
                encrypted = self._tlsConnection.bio_read(_STEP_ENCRYPTED)
                self._send(encrypted)
                if len(encrypted) < _STEP_ENCRYPTED:
                    return
        except WantReadError:
            pass  # there is nothing, or no more

    # -- the end

    def loseConnection(self) -> None:
        self._encrypt()
        super().loseConnection()

    def unregisterProducer(self) -> None:
        self._encrypt()  # if we are to close, it is the last that can be sent
        super().unregisterProducer()

    def abortConnection(self) -> None:
        self._forget()
        super().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        super().connectionLost(reason)


class TLSFactory(TLSMemoryBIOFactory):
    """Puts TLS between the protocols of another factory and their transports."""

    protocol = TLSTransport


@implementer(IStreamClientEndpoint)
@attrs.frozen
class TLSClientEndpoint:
    """Connects where another endpoint does, with TLS that `creator` makes."""

    creator: IOpenSSLClientConnectionCreator
    endpoint: IStreamClientEndpoint
    clock: IReactorTime

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        over_tls = TLSFactory(self.creator, True, protocolFactory, self.clock)
        connected: Deferred[Any] = self.endpoint.connect(over_tls)
        return connected.addCallback(lambda tls: tls.wrappedProtocol)
