"""Who takes audit messages: a file, or a syslog collector by UDP or TLS (PS3.15 A.6, A.7)."""

# ruff: noqa: N802, N803 - Twisted's hooks keep Twisted's case

from __future__ import annotations

import fcntl
import os
import stat
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct
from typing import Any, Final, Protocol, TypeVar

from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IResolutionReceiver,
)
from twisted.internet.protocol import ConnectedDatagramProtocol, Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomtw.client import TLS
from dicomtw.security.audit.syslog import Entry, datagram, frame, line, syslog_message
from dicomtw.transports import tcp_socket_of, tls_fault

T = TypeVar("T")

#: For a connection to come about, and for TLS on it, in seconds.
_CONNECT: Final = 30.0
#: So long a new connection is not believed, in seconds: by TLS 1.3 our certificate is refused when we think
#: that the handshake is over.
SETTLING: Final = 0.5
#: After so long it is looked whether what was sent is acknowledged: at first, at most, in seconds.
_FIRST_LOOK: Final = 0.01
_LONGEST_LOOK: Final = 1.0
#: It has so long for that, in seconds.
PATIENCE: Final = 60.0

#: Datagrams sent at a time, which the receiver's buffer should have room for; and for how long after them it
#: can refuse them, in seconds.
BURST: Final = 50
REFUSAL: Final = 0.1

_INT: Final = Struct("i")


class CollectorAway(Exception):
    """What was to be delivered may not have arrived, and is to be delivered again; the text says why."""


class Collector(Protocol):
    """Takes audit messages, in order."""

    def deliver(self, entries: Sequence[Entry]) -> Deferred[int]:
        """Fires with how many of them, from the first on, have arrived as far as that can be known.

        Fails with `CollectorAway`.
        """

    def close(self) -> Deferred[None]:
        """No more is to be delivered."""


class FileCollector:
    """Appends the XML of messages to a file, one a line. It may be moved away at any time."""

    def __init__(self, path: Path, in_thread: Callable[[Callable[[], int]], Deferred[int]]) -> None:
        self._path = path
        self._in_thread = in_thread

    def deliver(self, entries: Sequence[Entry]) -> Deferred[int]:
        data = b"".join(map(line, entries))

        def failed(failure: Failure) -> int:
            failure.trap(OSError)
            fault = failure.value
            raise CollectorAway(f"{self._path}: {getattr(fault, 'strerror', None) or fault}")

        return self._in_thread(lambda: self._append(data, len(entries))).addErrback(failed)

    def _append(self, data: bytes, count: int) -> int:
        # O_NONBLOCK: a FIFO that nobody reads is an error, and no thread that waits.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # several processes may append to one
            status = os.fstat(fd)
            size = status.st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                _sync(fd)
                if not size and stat.S_ISREG(status.st_mode):
                    _sync_directory(self._path.parent)  # it may be new
            except OSError:
                _truncate(fd, size)  # no half line, and none twice
                raise
        finally:
            os.close(fd)
        return count

    def close(self) -> Deferred[None]:
        return succeed(None)


def _sync(fd: int) -> None:
    try:
        os.fdatasync(fd)
    except OSError as fault:
        if fault.errno not in (22, 30, 95):  # EINVAL, EROFS, EOPNOTSUPP: it is no file
            raise


def _sync_directory(directory: Path) -> None:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return  # whoever lets us write there need not let us read it
    try:
        _sync(fd)
    finally:
        os.close(fd)


def _truncate(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError:
        pass  # it is no file


class UDPCollector:
    """RFC 5426: one message a datagram. Whether it arrives is not known, unless its host refuses it."""

    log = Logger()

    def __init__(self, host: str, port: int, reactor: Any, name: str) -> None:
        self._address = host, port
        self._reactor = reactor
        self._name = name
        self._port: Any = None
        self._datagrams: _Datagrams
        #: Counts refusals: the next of its addresses is tried then.
        self._refusals = 0

    def deliver(self, entries: Sequence[Entry]) -> Deferred[int]:
        return Deferred.fromCoroutine(self._deliver(entries[:BURST]))

    async def _deliver(self, entries: Sequence[Entry]) -> int:
        try:
            if self._port is None or self._datagrams.refused:
                await self._open()
            sent = self._send_all(entries)
            await deferLater(self._reactor, REFUSAL)
            if self._datagrams.refused:
                self._refusals += 1
                raise CollectorAway("nobody takes messages there")
        except (OSError, error.CannotListenError, error.DNSLookupError) as fault:
            await self.close()
            raise CollectorAway(str(fault)) from None
        except CollectorAway:
            await self.close()
            raise
        return sent

    async def _open(self) -> None:
        await self.close()
        host, number = self._address
        addresses = await _resolved(self._reactor, host)
        address = addresses[self._refusals % len(addresses)]
        self._datagrams = _Datagrams(address, number)
        self._port = self._reactor.listenUDP(0, self._datagrams, interface="::" if ":" in address else "")

    def _send_all(self, entries: Sequence[Entry]) -> int:
        """How many of them the socket has taken. Raises `OSError` if it takes none."""
        for sent, entry in enumerate(entries):
            try:
                self._send(syslog_message(entry, self._name))
            except BlockingIOError:
                if not sent:
                    raise
                return sent
        return len(entries)

    def _send(self, message: bytes) -> None:
        data, missing = datagram(message)
        try:
            self._datagrams.send(data)
        except error.MessageLengthError:
            missing = len(message)
        if missing:
            self.log.warn(
                "an audit message is too long for UDP: {missing} of its {length} bytes are cut off "
                "(with --audit=tls: there is no such limit)",
                missing=missing,
                length=len(message),
            )

    def close(self) -> Deferred[None]:
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        closing = port.stopListening()
        if isinstance(closing, Deferred):
            closing.addBoth(lambda _: stopped.callback(None))
        else:
            stopped.callback(None)
        return stopped


class _Datagrams(ConnectedDatagramProtocol):
    """A socket for one receiver, so that we hear if nobody is there."""

    noisy = False
    transport: Any

    def __init__(self, address: str, port: int) -> None:
        self._address = address, port
        #: By the receiver's host; the socket is of no use then.
        self.refused = False

    def startProtocol(self) -> None:
        self.transport.connect(*self._address)

    def stopProtocol(self) -> None:
        self.refused = True  # epoll reports an error of the socket, and the reactor closes it

    def send(self, data: bytes) -> None:
        if not self.refused:
            self.transport.write(data)

    def connectionRefused(self) -> None:
        self.refused = True

    def datagramReceived(self, data: bytes, *_: object) -> None:
        pass


def _resolved(reactor: Any, host: str) -> Deferred[list[str]]:
    """The addresses of a host. Fails with `DNSLookupError`."""
    if isIPAddress(host) or isIPv6Address(host):
        return succeed([host])
    found: Deferred[list[str]] = Deferred()
    reactor.nameResolver.resolveHostName(_Addresses(host, found), host)
    return found


@implementer(IResolutionReceiver)
class _Addresses:
    """Gathers the addresses of a host."""

    def __init__(self, host: str, found: Deferred[list[str]]) -> None:
        self._host = host
        self._found = found
        self._addresses: list[str] = []

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address):
            self._addresses.append(address.host)

    def resolutionComplete(self) -> None:
        if self._found.called:
            return  # nobody waits any more
        if self._addresses:
            self._found.callback(self._addresses)
        else:
            self._found.errback(error.DNSLookupError(f"the address of {self._host} is not known"))


class TLSCollector:
    """RFC 5425: messages with their lengths on a connection that stays open.

    A message counts as arrived when the collector's system has acknowledged its bytes: the protocol has no
    other acknowledgement.
    """

    def __init__(self, host: str, port: int, tls: TLS, reactor: Any, name: str) -> None:
        self._host, self._port = host, port
        self._tls = tls
        self._reactor = reactor
        self._name = name
        self._connection: _Connection | None = None

    def deliver(self, entries: Sequence[Entry]) -> Deferred[int]:
        return Deferred.fromCoroutine(self._deliver(entries))

    async def _deliver(self, entries: Sequence[Entry]) -> int:
        connection = self._connection
        if connection is None or connection.lost:
            connection = self._connection = await self._connect()
        connection.transport.write(b"".join(frame(syslog_message(entry, self._name)) for entry in entries))
        waited, delay = 0.0, _FIRST_LOOK
        while True:
            await deferLater(self._reactor, delay)
            if connection.lost:
                raise CollectorAway(connection.lost)
            if not _unacknowledged(connection.transport):
                return len(entries)
            waited, delay = waited + delay, min(2 * delay, _LONGEST_LOOK)
            if waited >= PATIENCE:
                connection.transport.abortConnection()
                raise CollectorAway(f"it has acknowledged nothing for {PATIENCE:.0f} s")

    async def _connect(self) -> _Connection:
        creator = _ConnectionCreator(self._tls, self._host)
        endpoint = wrapClientTLS(
            creator, HostnameEndpoint(self._reactor, self._host, self._port, timeout=_CONNECT)
        )
        try:
            connection: Any = await endpoint.connect(Factory.forProtocol(lambda: _Connection(creator)))
        except Exception as fault:  # whatever a connection can fail with
            raise CollectorAway(str(fault) or type(fault).__name__) from None
        established = connection.established.addTimeout(_CONNECT, self._reactor)
        try:
            await established
        except Exception as fault:
            connection.transport.abortConnection()
            raise CollectorAway(str(fault) or "TLS did not come about in time") from None
        await deferLater(self._reactor, SETTLING)
        if connection.lost:
            raise CollectorAway(connection.lost)
        assert isinstance(connection, _Connection)
        return connection

    def close(self) -> Deferred[None]:
        connection, self._connection = self._connection, None
        if connection is None or connection.lost:
            return succeed(None)
        connection.transport.loseConnection()
        grace = self._reactor.callLater(SETTLING, connection.transport.abortConnection)
        closed: Deferred[None] = Deferred()

        def over(_: object) -> None:
            if grace.active():
                grace.cancel()
            closed.callback(None)

        connection.ended.addBoth(over)
        return closed


@implementer(IHandshakeListener)
class _Connection(TwistedProtocol):
    """A connection to a collector, which has nothing to say."""

    transport: Any

    def __init__(self, creator: _ConnectionCreator) -> None:
        self._creator = creator
        #: Fires when TLS is there; and when the connection has ended.
        self.established: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()
        #: Why it was lost; empty while it is there.
        self.lost = ""

    def connectionMade(self) -> None:
        self.transport.setTcpKeepAlive(True)

    def handshakeCompleted(self) -> None:
        if not self.established.called:
            self.established.callback(None)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        why = self._creator.fault or tls_fault(reason) or reason.getErrorMessage()
        self.lost = why or "the connection was lost"
        if not self.established.called:
            self.established.errback(CollectorAway(self.lost))
        self.ended.callback(None)


@implementer(IOpenSSLClientConnectionCreator)
class _ConnectionCreator:
    """TLS with a collector, whose certificate is to be that of its host."""

    def __init__(self, tls: TLS, host: str) -> None:
        self._tls = tls
        self._host = host
        self.fault = ""

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return self._tls.connection(self._host, self._failed)

    def _failed(self, why: str) -> None:
        self.fault = self.fault or why


def _unacknowledged(transport: Any) -> int:
    """How many bytes of a connection its other end has not acknowledged; 0 where that is not to be known.

    What Twisted has not given to the kernel yet it will when there is room, so then this is not 0 either.
    """
    connection = tcp_socket_of(transport)
    if connection is None:
        return 0
    try:
        (count,) = _INT.unpack(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(_INT.size)))
    except OSError:
        return 0
    return int(count)
