"""Who takes audit messages: a file, UDP and TLS, without a network."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import collectors
from dicomtw.client import TLS
from dicomtw.collectors import (
    BURST,
    PATIENCE,
    REFUSAL,
    SETTLING,
    CollectorAway,
    FileCollector,
    TLSCollector,
    UDPCollector,
)
from dicomtw.security.audit.syslog import Entry, frame, syslog_message
from dicomtw.testing import at_once
from tests.test_recorder import message

ENTRIES = [Entry.of(message(number), "1") for number in range(120)]


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.collector = FileCollector(self.path, at_once)

    def deliver(self, entries: list[Entry]) -> int:
        return self.successResultOf(self.collector.deliver(entries))

    def test_lines(self) -> None:
        """Messages are appended, one a line, to a file that nobody else can read."""
        self.assertEqual(self.deliver(ENTRIES[:2]), 2)
        self.assertEqual(self.deliver(ENTRIES[2:3]), 1)
        self.assertEqual(self.path.read_text("utf-8").splitlines(), [entry.xml for entry in ENTRIES[:3]])
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.successResultOf(self.collector.close())

    def test_moved(self) -> None:
        """When the file is moved away the next message makes another."""
        self.deliver(ENTRIES[:1])
        self.path.rename(self.path.with_suffix(".1"))
        self.deliver(ENTRIES[1:2])
        self.assertEqual(self.path.read_text("utf-8").splitlines(), [ENTRIES[1].xml])

    def test_cannot(self) -> None:
        """What cannot be written is to be delivered again: no directory, no right, nobody who reads."""
        for path in (self.path / "x", Path("/proc/version"), Path("/")):
            self.collector = FileCollector(path, at_once)
            said = str(self.failureResultOf(self.collector.deliver(ENTRIES[:1]), CollectorAway).value)
            self.assertTrue(said.startswith(f"{path}: "), said)
        os.mkfifo(self.path)
        self.collector = FileCollector(self.path, at_once)
        self.failureResultOf(self.collector.deliver(ENTRIES[:1]), CollectorAway)

    def test_synced(self) -> None:
        """What is delivered is on the disk, and so is the name of a new file."""
        synced: list[str] = []
        sync = os.fdatasync
        self.patch(os, "fdatasync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
        path = os.path.abspath(self.path)
        self.deliver(ENTRIES[:1])
        self.assertEqual(synced, [path, os.path.dirname(path)])
        self.deliver(ENTRIES[1:2])
        self.assertEqual(synced[2:], [path])

    def test_sync_fails(self) -> None:
        """What may not be on the disk is to be delivered again, and not there twice."""

        def fails(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patched = self.patch(os, "fdatasync", fails)
        self.failureResultOf(self.collector.deliver(ENTRIES[:1]), CollectorAway)
        patched.restore()
        self.deliver(ENTRIES[:1])
        self.assertEqual(self.path.read_text("utf-8").splitlines(), [ENTRIES[0].xml])

    def test_disk_full(self) -> None:
        """A message that does not fit leaves no half line."""
        self.deliver(ENTRIES[:1])
        write, room = os.write, 100

        def short(fd: int, data: Any) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(fd, data[:room])
            room -= written
            return written

        patched = self.patch(os, "write", short)
        self.failureResultOf(self.collector.deliver(ENTRIES[1:3]), CollectorAway)
        patched.restore()
        self.deliver(ENTRIES[1:3])
        self.assertEqual(self.path.read_text("utf-8").splitlines(), [entry.xml for entry in ENTRIES[:3]])


class DatagramTransport:
    def __init__(self) -> None:
        self.connected: tuple[str, int] | None = None
        self.written: list[bytes] = []
        self.longest = 65507
        self.room = 1000

    def connect(self, host: str, port: int) -> None:
        self.connected = host, port

    def write(self, data: bytes) -> None:
        if len(data) > self.longest:
            raise error.MessageLengthError
        if len(self.written) >= self.room:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.written.append(data)


class Network(Clock):
    """A reactor with UDP and names; `addresses` are those of any host."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses = ["192.0.2.1", "192.0.2.2"]
        self.ports: list[DatagramTransport] = []
        self.interfaces: list[str] = []
        self.stopped = 0
        self.protocol: Any = None
        self.nameResolver = self

    def resolveHostName(self, receiver: Any, host: str) -> None:
        receiver.resolutionBegan(None)
        for address in self.addresses:
            receiver.addressResolved(IPv4Address("TCP", address, 0))
        receiver.resolutionComplete()

    def listenUDP(self, port: int, protocol: Any, interface: str = "") -> Network:
        transport = DatagramTransport()
        protocol.transport = transport
        self.protocol = protocol
        self.ports.append(transport)
        self.interfaces.append(interface)
        protocol.startProtocol()
        return self

    def stopListening(self) -> Deferred[None]:
        self.stopped += 1
        return succeed(None)


class UDPTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = Network()
        self.collector = UDPCollector("log.example", 514, self.network, "host")

    def deliver(self, entries: list[Entry]) -> Deferred[int]:
        delivering = self.collector.deliver(entries)
        self.network.advance(REFUSAL)
        return delivering

    def test_datagrams(self) -> None:
        """One message a datagram, to the first address of the host, over one socket."""
        self.assertEqual(self.successResultOf(self.deliver(ENTRIES[:2])), 2)
        self.assertEqual(self.successResultOf(self.deliver(ENTRIES[2:3])), 1)
        (port,) = self.network.ports
        self.assertEqual(port.connected, ("192.0.2.1", 514))
        self.assertEqual(port.written, [syslog_message(entry, "host") for entry in ENTRIES[:3]])
        self.successResultOf(self.collector.close())
        self.assertEqual(self.network.stopped, 1)
        self.successResultOf(self.collector.close())

    def test_pace(self) -> None:
        """No more at a time than a receiver has room for."""
        self.assertEqual(self.successResultOf(self.deliver(ENTRIES)), BURST)
        self.assertEqual(len(self.network.ports[0].written), BURST)

    def test_refused(self) -> None:
        """If its host says that nobody listens messages are to be delivered again, to its next address."""
        delivering = self.collector.deliver(ENTRIES[:1])
        self.network.protocol.connectionRefused()
        self.network.advance(REFUSAL)
        self.failureResultOf(delivering, CollectorAway)
        self.assertEqual(self.network.stopped, 1)
        self.assertEqual(self.successResultOf(self.deliver(ENTRIES[:1])), 1)
        self.assertEqual(
            [port.connected for port in self.network.ports], [("192.0.2.1", 514), ("192.0.2.2", 514)]
        )

    def test_buffer_full(self) -> None:
        """If the socket takes no more what it has taken is not sent again; if it takes nothing it is away."""
        self.successResultOf(self.deliver([]))
        (port,) = self.network.ports
        port.room = 30
        self.assertEqual(self.successResultOf(self.deliver(ENTRIES[:40])), 30)
        self.failureResultOf(self.deliver(ENTRIES[30:40]), CollectorAway)
        self.assertEqual(port.written, [syslog_message(entry, "host") for entry in ENTRIES[:30]])
        self.assertEqual(self.successResultOf(self.deliver(ENTRIES[30:40])), 10)

    def test_refused_late(self) -> None:
        """Behind a refusal that comes late the next messages take another socket; the old one is closed."""
        self.successResultOf(self.deliver(ENTRIES[:1]))
        for number in range(1, 4):
            self.network.protocol.connectionRefused()
            self.assertEqual(self.successResultOf(self.deliver(ENTRIES[:1])), 1)
            self.assertEqual((len(self.network.ports), self.network.stopped), (number + 1, number))

    def test_closed_by_reactor(self) -> None:
        """So it is if the reactor has closed the socket for it, at the latest with the next message."""
        self.successResultOf(self.deliver(ENTRIES[:1]))
        self.network.protocol.stopProtocol()
        self.network.protocol.transport = None
        self.assertEqual(self.successResultOf(self.deliver(ENTRIES[1:2])), 1)
        self.assertEqual(len(self.network.ports), 2)
        delivering = self.collector.deliver(ENTRIES[:1])
        self.network.protocol.stopProtocol()
        self.network.advance(REFUSAL)
        self.failureResultOf(delivering, CollectorAway)

    def test_no_such_host(self) -> None:
        """So it is without an address; the name is looked up again."""
        self.network.addresses = []
        said = str(self.failureResultOf(self.deliver(ENTRIES[:1]), CollectorAway).value)
        self.assertIn("log.example", said)
        self.network.addresses = ["192.0.2.9"]
        self.assertEqual(self.successResultOf(self.deliver(ENTRIES[:1])), 1)

    def test_addresses(self) -> None:
        """An address is not looked up; IPv6 has its own sockets."""
        self.network.addresses = []
        for host, interface in (("192.0.2.3", ""), ("2001:db8::1", "::")):
            self.collector = UDPCollector(host, 1514, self.network, "host")
            self.assertEqual(self.successResultOf(self.deliver(ENTRIES[:1])), 1)
            self.assertEqual(self.network.ports[-1].connected, (host, 1514))
            self.assertEqual(self.network.interfaces[-1], interface)

    def test_too_long(self) -> None:
        """What is too long for a datagram is cut, and a line says so and nothing of the message."""
        long = Entry(5, "t", "1", "<x>" + "secret" * 20000 + "</x>")
        with capturedLogs() as logs:
            self.assertEqual(self.successResultOf(self.deliver([long, ENTRIES[0]])), 2)
        self.assertEqual(len(self.network.ports[0].written[0]), 65507)
        (said,) = map(formatEvent, logs)
        missing = len(syslog_message(long, "host")) - 65507
        self.assertIn(f"too long for UDP: {missing} of its", said)
        self.assertNotIn("secret", said)

    def test_shorter_network(self) -> None:
        """What the system refuses to send is said to be missing, and does not keep the rest."""
        self.successResultOf(self.deliver([]))
        self.network.ports[0].longest = 2000
        long = Entry(5, "t", "1", "x" * 3000)
        with capturedLogs() as logs:
            self.assertEqual(self.successResultOf(self.deliver([long, ENTRIES[0]])), 2)
        self.assertEqual(self.network.ports[0].written, [syslog_message(ENTRIES[0], "host")])
        self.assertEqual(len(logs), 1)


class Connected(StringTransport):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def setTcpKeepAlive(self, keep: bool) -> None:
        pass

    def abortConnection(self) -> None:
        self.aborted = True


class Creator:
    fault = ""


class TLSTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.collector = TLSCollector("log.example", 6514, TLS(), self.clock, "host")
        self.endpoints: list[Deferred[Any]] = []
        self.unacknowledged = 0
        self.patch(collectors, "HostnameEndpoint", lambda *_, **__: None)
        self.patch(collectors, "wrapClientTLS", lambda *_: self)
        self.patch(collectors, "_unacknowledged", lambda _: self.unacknowledged)

    def connect(self, factory: Any) -> Deferred[Any]:
        """An endpoint's."""
        connecting: Deferred[Any] = Deferred()
        self.endpoints.append(connecting)
        return connecting

    def connection(self) -> Any:
        """A connection that comes about now."""
        made: Any = collectors._Connection(Creator())  # type: ignore[arg-type]
        made.makeConnection(Connected())
        self.endpoints[-1].callback(made)
        return made

    def established(self) -> Any:
        made = self.connection()
        made.handshakeCompleted()
        self.clock.advance(SETTLING)
        return made

    def lose(self, made: Any) -> None:
        made.connectionLost(Failure(error.ConnectionLost()))

    def test_frames(self) -> None:
        """Messages with their lengths, on a connection that stays; nothing before TLS is there for sure."""
        delivering = self.collector.deliver(ENTRIES[:2])
        made = self.connection()
        self.assertEqual(made.transport.value(), b"")
        made.handshakeCompleted()
        self.clock.advance(SETTLING - 0.1)
        self.assertEqual(made.transport.value(), b"")
        self.clock.advance(0.1)
        expected = b"".join(frame(syslog_message(entry, "host")) for entry in ENTRIES[:2])
        self.assertEqual(made.transport.value(), expected)
        self.assertNoResult(delivering)
        self.clock.advance(0.01)
        self.assertEqual(self.successResultOf(delivering), 2)
        delivering = self.collector.deliver(ENTRIES[2:3])
        self.clock.advance(0.01)
        self.assertEqual(self.successResultOf(delivering), 1)
        self.assertEqual(len(self.endpoints), 1)

    def test_acknowledged(self) -> None:
        """Messages have arrived when the other system has acknowledged them, however long that takes."""
        self.unacknowledged = 1
        delivering = self.collector.deliver(ENTRIES[:1])
        self.established()
        for _ in range(200):
            self.clock.advance(0.1)
        self.assertNoResult(delivering)
        self.unacknowledged = 0
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(delivering), 1)

    def test_patience(self) -> None:
        """One that does not acknowledge is given up, and so is the connection."""
        self.unacknowledged = 1
        delivering = self.collector.deliver(ENTRIES[:1])
        made = self.established()
        for _ in range(int(PATIENCE) + 10):
            self.clock.advance(1)
        self.assertIn("acknowledged nothing", str(self.failureResultOf(delivering, CollectorAway).value))
        self.assertTrue(made.transport.aborted)

    def test_lost(self) -> None:
        """Lost before that, they are to be delivered again, on another connection."""
        self.unacknowledged = 1
        delivering = self.collector.deliver(ENTRIES[:1])
        self.lose(self.established())
        self.clock.advance(0.1)
        self.failureResultOf(delivering, CollectorAway)
        self.unacknowledged = 0
        delivering = self.collector.deliver(ENTRIES[:1])
        self.established()
        self.clock.advance(0.1)
        self.assertEqual(self.successResultOf(delivering), 1)
        self.assertEqual(len(self.endpoints), 2)

    def test_lost_meanwhile(self) -> None:
        """A connection that was lost while nothing was to be sent is replaced."""
        for _ in range(2):
            delivering = self.collector.deliver(ENTRIES[:1])
            made = self.established()
            self.clock.advance(0.1)
            self.assertEqual(self.successResultOf(delivering), 1)
            self.lose(made)

    def test_no_connection(self) -> None:
        """Without a connection, without TLS, with none in time, or refused behind the handshake: not sent."""
        delivering = self.collector.deliver(ENTRIES[:1])
        self.endpoints[-1].errback(error.ConnectionRefusedError())
        self.failureResultOf(delivering, CollectorAway)
        delivering = self.collector.deliver(ENTRIES[:1])
        made = self.connection()
        made._creator.fault = "the certificate is not for log.example"
        self.lose(made)
        said = str(self.failureResultOf(delivering, CollectorAway).value)
        self.assertEqual(said, "the certificate is not for log.example")
        delivering = self.collector.deliver(ENTRIES[:1])
        made = self.connection()
        self.clock.advance(31)
        self.failureResultOf(delivering, CollectorAway)
        self.assertTrue(made.transport.aborted)
        delivering = self.collector.deliver(ENTRIES[:1])
        made = self.connection()
        made.handshakeCompleted()
        self.lose(made)
        self.clock.advance(SETTLING)
        self.failureResultOf(delivering, CollectorAway)
        self.assertEqual(made.transport.value(), b"")

    def test_close(self) -> None:
        """It is closed in order, and soon at the latest."""
        self.successResultOf(self.collector.close())
        self.collector.deliver(ENTRIES[:1])
        made = self.established()
        self.clock.advance(0.1)
        closing = self.collector.close()
        self.assertTrue(made.transport.disconnecting)
        self.clock.advance(SETTLING)
        self.assertTrue(made.transport.aborted)
        self.lose(made)
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])
