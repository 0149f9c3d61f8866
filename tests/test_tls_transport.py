"""TLS between a protocol and its transport: how bytes pass through it, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomtw.tls_transport import TLSClientEndpoint, TLSFactory
from tests.security.identities import TLSTestCase, client

#: The most data of a record, in bytes.
RECORD = 1 << 14


class Recorder(Protocol):
    """What comes in, call by call, after which `then` is called."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.lost: list[Failure] = []
        self.paused: list[bool] = []
        self.then: Callable[[], None] = lambda: None

    def dataReceived(self, data: bytes) -> None:
        self.chunks.append(data)
        self.then()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.append(reason)

    def pauseProducing(self) -> None:
        self.paused.append(True)

    def resumeProducing(self) -> None:
        self.paused.append(False)

    def stopProducing(self) -> None:
        self.paused.append(True)


class Wire(StringTransport):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def taken(self) -> bytes:
        data, self.writes = b"".join(self.writes), []
        return data


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class Creator:
    """Makes the connections of a context."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class TransportTests(TLSTestCase):
    """A server's end is ours, its peer's is bare OpenSSL."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.app = Recorder()
        self.wire = Wire()
        self.tls = TLSFactory(
            Creator(self.context()), False, Factory.forProtocol(lambda: self.app), self.clock
        ).buildProtocol(None)
        self.tls.makeConnection(self.wire)
        self.peer = SSL.Connection(client(), None)
        self.peer.set_connect_state()

    def shake(self) -> None:
        for _ in range(4):
            try:
                self.peer.do_handshake()
            except SSL.WantReadError:
                pass
            self.carry()
            self.back()

    def said(self) -> bytes:
        """What the peer has encrypted."""
        try:
            return self.peer.bio_read(1 << 22)
        except SSL.WantReadError:
            return b""

    def carry(self) -> None:
        """Bring us what the peer has said, in one chunk."""
        said = self.said()
        if said:
            self.tls.dataReceived(said)

    def back(self) -> None:
        """Bring the peer what we have said."""
        written = self.wire.taken()
        if written:
            self.peer.bio_write(written)

    def heard(self) -> list[bytes]:
        """What the peer makes of what we have said, record by record; b"" is a close_notify."""
        self.back()
        records = []
        try:
            while True:
                records.append(self.peer.recv(1 << 15))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            records.append(b"")
        return records

    def test_one_piece(self) -> None:
        """The records of a chunk are handed on in one piece, and a record in pieces when it is whole."""
        self.shake()
        data = bytes(range(256)) * 1000
        self.peer.sendall(data)
        self.carry()
        self.assertEqual(self.app.chunks, [data])
        self.peer.sendall(b"x" * RECORD + b"y" * RECORD)
        said = self.said()
        for at in range(0, len(said), 5000):
            self.tls.dataReceived(said[at : at + 5000])
        self.assertEqual(self.app.chunks[1:], [b"x" * RECORD, b"y" * RECORD])

    def test_kept(self) -> None:
        """What has been handed on does not change when more comes in."""
        self.shake()
        for data in (b"a" * 50000, b"b" * 50000):
            self.peer.sendall(data)
            self.carry()
        views = [memoryview(chunk) for chunk in self.app.chunks]
        self.assertEqual(views, [b"a" * 50000, b"b" * 50000])

    def test_answers(self) -> None:
        """Answers go out as one record, by the time that what brought the requests is dealt with."""
        self.shake()
        self.heard()
        self.app.then = lambda: [self.tls.write(b"answer") for _ in range(3)] and None
        self.peer.sendall(b"requests")
        self.carry()
        self.assertEqual((len(self.wire.writes), self.clock.getDelayedCalls()), (1, []))
        self.assertEqual(self.heard(), [b"answer" * 3])

    def test_gathered(self) -> None:
        """What is written in one turn of the reactor, and is little, is one record in the next."""
        self.shake()
        self.heard()
        for _ in range(3):
            self.tls.write(b"little")
        self.assertEqual(self.wire.writes, [])
        self.clock.advance(0)
        self.assertEqual(self.heard(), [b"little" * 3])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_much(self) -> None:
        """Much is encrypted at once, in full records, and written 64 KiB at a time; none of it waits."""
        self.shake()
        self.heard()
        self.tls.writeSequence([b"much" * (RECORD + 3)] * 2)
        self.assertEqual(len(self.wire.writes), 3)
        records = self.heard()
        self.assertEqual(b"".join(records), b"much" * (RECORD + 3) * 2)
        self.assertEqual({len(record) for record in records[:-1]}, {RECORD})

    def test_before_the_handshake(self) -> None:
        """What is written before the handshake is sent after it, in order; producers wait until then."""
        self.tls.registerProducer(self.app, True)
        self.tls.write(b"early, ")
        self.clock.advance(0)
        self.assertEqual(self.app.paused, [True])
        self.tls.write(b"a" * 100_000)
        self.shake()
        self.assertEqual(self.app.paused[-1], False)
        self.assertEqual(b"".join(self.heard()), b"early, " + b"a" * 100_000)

    def test_closed_by_the_peer(self) -> None:
        """The last request is answered before the answer to a close_notify that came with it."""
        self.shake()
        self.heard()
        self.app.then = lambda: self.tls.write(b"answer")
        self.peer.send(b"request")
        self.peer.shutdown()
        self.carry()
        self.assertEqual(self.app.chunks, [b"request"])
        self.assertEqual(self.heard(), [b"answer", b""])
        self.assertTrue(self.wire.disconnecting)
        self.tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual([reason.type for reason in self.app.lost], [ConnectionDone])

    def test_closed_by_us(self) -> None:
        """What was written before is sent before the close_notify, a producer's too, and nothing after it."""
        self.shake()
        self.heard()
        self.tls.registerProducer(self.app, True)
        self.tls.write(b"one, ")
        self.tls.loseConnection()
        self.tls.write(b"two")
        self.tls.unregisterProducer()
        self.tls.write(b"too late")
        self.clock.advance(0)
        records = self.heard()
        self.assertEqual((b"".join(records), records[-1]), (b"one, two", b""))
        self.assertFalse(self.wire.disconnecting)
        self.peer.shutdown()
        self.carry()
        self.assertTrue(self.wire.disconnecting)

    def test_aborted(self) -> None:
        """An abort in the midst of it: what was written is forgotten, and nothing more is handed on."""
        self.shake()
        self.heard()
        self.app.then = self.abort
        self.peer.sendall(b"a")
        self.carry()
        self.peer.sendall(b"b")
        self.carry()
        self.assertEqual(self.app.chunks, [b"a"])
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual(self.heard(), [b""])
        self.tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def abort(self) -> None:
        self.tls.write(b"never sent")
        self.tls.abortConnection()

    def test_lost(self) -> None:
        """A connection that is lost with something written leaves no call behind."""
        self.shake()
        self.tls.write(b"never sent")
        self.tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.app.lost), 1)

    def test_broken(self) -> None:
        """A record that was tampered with ends it; what came before it is handed on."""
        self.shake()
        self.peer.send(b"good")
        good = self.said()
        self.peer.send(b"bad")
        bad = bytearray(self.said())
        bad[-1] ^= 1
        self.tls.dataReceived(good + bytes(bad))
        self.assertEqual(self.app.chunks, [b"good"])
        self.assertTrue(self.wire.disconnecting)
        self.tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual([reason.type for reason in self.app.lost], [SSL.Error])


class EndpointTests(TLSTestCase):
    def test_connect(self) -> None:
        """Whoever connects gets the protocol of its own factory; TLS has begun beneath it."""
        wire, app = Wire(), Recorder()

        @implementer(IStreamClientEndpoint)
        class Below:
            def connect(self, factory: Any) -> Deferred[Any]:
                made = factory.buildProtocol(None)
                made.makeConnection(wire)
                connected: Deferred[Any] = Deferred()
                connected.callback(made)
                return connected

        endpoint = TLSClientEndpoint(Creator(client()), Below(), Clock())
        verifyObject(IStreamClientEndpoint, endpoint)
        self.assertIs(self.successResultOf(endpoint.connect(Factory.forProtocol(lambda: app))), app)
        self.assertEqual(wire.writes[0][:1], b"\x16")  # a handshake record: the ClientHello
