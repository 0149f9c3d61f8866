"""In-memory peers for tests, of this package and of services built on it: no socket, no sleep, no disk.

server = MemoryServer(ApplicationEntity(...))     # or MemoryServer.of(Verification(), ...)
peer = server.connect()
peer.associate({1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)})
response = peer.request(1, C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1))
server.clock.advance(30)

scu = server.associate([uids.VERIFICATION])       # a client of ours, connected through memory
echoed = scu.c_echo()
server.clock.advance(0)                           # bytes get to the other end when time passes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomtw import uids
from dicomtw.acceptor import ApplicationEntity
from dicomtw.client import Associating, Context, associate
from dicomtw.dimse import writer
from dicomtw.dimse.messages import Command
from dicomtw.dimse.reader import MessageReader
from dicomtw.errors import DimseError, ProtocolError
from dicomtw.feed import Disk
from dicomtw.limits import Limits
from dicomtw.scu import SCU
from dicomtw.security.access import AccessPolicy
from dicomtw.server import DicomFactory
from dicomtw.services import ServiceClass, ServiceRegistry
from dicomtw.storage.part10 import FileMeta
from dicomtw.ul.framer import Framer
from dicomtw.ul.items import (
    ImplementationClassUID,
    MaximumLength,
    PresentationContextRQ,
    SubItem,
    UserInformation,
)
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, PDU, ReceivedPDU

T = TypeVar("T")


def at_once(function: Callable[[], T]) -> Deferred[T]:
    """`feed.InThread` without a thread."""
    return maybeDeferred(function)


class MemoryStore:
    """A `Store` that keeps data sets by SOP Instance UID in `objects`, and what it is told to refuse."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[FileMeta, bytes]] = {}
        self.discarded = 0
        #: Raised by the next write or commit of any sink.
        self.write_fault: DimseError | None = None
        self.commit_fault: DimseError | None = None

    def open(self, meta: FileMeta) -> MemoryStoreSink:
        return MemoryStoreSink(self, meta)


class MemoryStoreSink:
    """A data set on its way into a `MemoryStore`."""

    def __init__(self, store: MemoryStore, meta: FileMeta) -> None:
        self._store = store
        self._meta = meta
        self._data = bytearray()
        #: The lengths of the fragments of each write.
        self.writes: list[list[int]] = []
        self._open = True

    def write(self, fragments: Sequence[memoryview]) -> None:
        if self._store.write_fault is not None:
            raise self._store.write_fault
        self.writes.append([len(fragment) for fragment in fragments])
        self._data += b"".join(fragments)

    def commit(self, may_block: bool = True) -> None:
        if self._store.commit_fault is not None:
            raise self._store.commit_fault
        self._store.objects[self._meta.sop_instance_uid] = self._meta, bytes(self._data)
        self._open = False

    def discard(self) -> None:
        if self._open:
            self._open = False
            self._store.discarded += 1


class _Transport(StringTransportWithDisconnection):
    """Closes as real transports do: later, and not while it is told to."""

    def __init__(self, clock: Clock, host: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 50000))
        self._clock = clock

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self._clock.callLater(0, self._lose)

    def abortConnection(self) -> None:
        self.loseConnection()

    def _lose(self) -> None:
        if self.connected:
            super().loseConnection()


class MemoryReactor(Clock):
    """A virtual clock; what is given to its threads is done at once."""

    def getThreadPool(self) -> MemoryReactor:
        return self

    def callInThreadWithCallback(
        self, told: Callable[[bool, Any], object], function: Callable[[], Any]
    ) -> None:
        try:
            result = function()
        except Exception:
            told(False, Failure())
        else:
            told(True, result)

    def callFromThread(self, function: Callable[..., object], *arguments: Any) -> None:
        function(*arguments)


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """One end of a connection through memory, as that of a socket is to its protocol.

    What is written waits here until the other end takes it, at the latest when the clock is next advanced, be
    it by 0. With more than 64 KiB waiting the producer is paused, and resumed when all is taken.
    """

    #: As much as sockets have.
    BUFFER = 1 << 16

    def __init__(self, clock: Clock, host: str, peer: str) -> None:
        self.connected = False
        self.disconnecting = False
        #: What is written and not taken yet; and how much of it there has been at most.
        self.buffer = bytearray()
        self.peak = 0
        #: Whether its protocol has not paused it.
        self.reads = True
        self.protocol: Any = None
        self.other: MemoryTransport
        self._clock = clock
        self._host, self._peer = (IPv4Address("TCP", address, 50000) for address in (host, peer))
        self._slow = False
        self._producer: Any = None
        self._paused = False
        self._due: IDelayedCall | None = None
        self._closed_by_other: Exception | None = None

    @property
    def slow(self) -> bool:
        """Set it: nothing gets to this end's protocol then, as if the other end's bytes were on their way."""
        return self._slow

    @slow.setter
    def slow(self, slow: bool) -> None:
        self._slow = slow
        self.other._go_on()
        self._hear_of_end()

    @property
    def takes(self) -> bool:
        """Whether this end's protocol gets what the other one sends."""
        return self.reads and not self.slow and not self.disconnecting

    # -- ITransport

    def write(self, data: bytes) -> None:
        if self.connected:
            self.buffer += data
            self.peak = max(self.peak, len(self.buffer))
            if len(self.buffer) > self.BUFFER and self._producer is not None and not self._paused:
                self._paused = True
                self._producer.pauseProducing()
            self._go_on()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True
        self._go_on()

    def abortConnection(self) -> None:
        """Close at once; what is written and not taken is lost."""
        self.disconnecting = True
        self.buffer.clear()
        self._clock.callLater(0, self._lost, ConnectionAborted(), ConnectionLost())

    def getHost(self) -> IPv4Address:
        return self._host

    def getPeer(self) -> IPv4Address:
        return self._peer

    # -- IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming and self._producer is None
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None
        self._go_on()

    # -- IPushProducer: whether this end's protocol takes what the other one sends

    def pauseProducing(self) -> None:
        self.reads = False

    def resumeProducing(self) -> None:
        self.reads = True
        self.other._go_on()
        self._hear_of_end()

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- bytes under way

    def _go_on(self) -> None:
        if self.connected and self._due is None:
            self._due = self._clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        """Pass on what the other end takes now."""
        self._due = None
        other = self.other
        if not self.connected:
            return
        if self.buffer:
            if not other.connected:
                self._lost(ConnectionLost())
            elif other.takes:
                chunk = bytes(self.buffer[: self.BUFFER])
                del self.buffer[: self.BUFFER]
                self._go_on()
                other.protocol.dataReceived(chunk)
        elif self._paused and self._producer is not None:
            self._paused = False
            self._producer.resumeProducing()
            self._go_on()
        elif self.disconnecting:
            self._lost(ConnectionDone(), ConnectionDone())

    def _lost(self, why: Exception, other_why: Exception | None = None) -> None:
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(why))
            self.other._closed_by_other = other_why
            self._clock.callLater(0, self.other._hear_of_end)

    def _hear_of_end(self) -> None:
        """The other end has closed; in order it is read like what was sent."""
        why = self._closed_by_other
        if why is None or not self.connected:
            return
        if not isinstance(why, ConnectionDone):
            self._lost(why)
        elif self.takes:
            self._closed_by_other = None
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.readConnectionLost()
            else:
                self._lost(why)


class MemoryServer:
    """A server with a virtual clock; `addresses` is what host names resolve to."""

    def __init__(
        self,
        entity: ApplicationEntity,
        limits: Limits | None = None,
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        self.clock = MemoryReactor()
        #: Connections of our own clients, the client's end and the server's, latest last.
        self.connections: list[tuple[MemoryTransport, MemoryTransport]] = []
        known = addresses or {}

        def resolve(names: frozenset[str]) -> Deferred[dict[str, frozenset[str]]]:
            return succeed({name: frozenset({known[name]} if name in known else ()) for name in names})

        self.factory = DicomFactory(entity, limits or Limits(), self.clock, resolve)
        #: What clients of ours are connected to: `factory`, or another around it, such as one of TLS.
        self.listening: IProtocolFactory = self.factory

    @classmethod
    def of(cls, *services: ServiceClass, limits: Limits | None = None) -> MemoryServer:
        """A server called PMOD that serves `services` to anybody."""
        entity = ApplicationEntity(
            access=AccessPolicy(ae_title="PMOD", accept_any_ae=True, allow_retrieve_any=True),
            registry=ServiceRegistry(services),
            disk=Disk(at_once),
        )
        return cls(entity, limits)

    def connect(self, host: str = "192.0.2.1") -> Peer:
        """A new connection to the server."""
        return Peer(self, host)

    def endpoint(self, host: str = "192.0.2.1") -> MemoryEndpoint:
        """Where clients of ours connect to, from `host`."""
        return MemoryEndpoint(self, host)

    def associating(
        self, contexts: Iterable[Context] = (uids.VERIFICATION,), *, host: str = "192.0.2.1", **options: Any
    ) -> Associating:
        """An association of a client of ours; contexts and options are those of `client.associate`."""
        options = {"called": self.factory.entity.access.ae_title, "reactor": self.clock, **options}
        return associate(self.endpoint(host), contexts=contexts, **options)

    def associate(
        self, contexts: Iterable[Context] = (uids.VERIFICATION,), *, host: str = "192.0.2.1", **options: Any
    ) -> SCU:
        """The same, established; raises what `client.associate` raises."""
        outcome: list[Any] = []
        self.associating(contexts, host=host, **options).asDeferred().addBoth(outcome.append)
        self.clock.advance(0)
        assert outcome, "the server has not answered"
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        scu: SCU = outcome[0]
        return scu


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """A client endpoint that connects to a `MemoryServer`."""

    def __init__(self, server: MemoryServer, host: str) -> None:
        self._server = server
        self._host = host

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        clock, hosts = self._server.clock, (self._host, "192.0.2.100")
        ends = MemoryTransport(clock, *hosts), MemoryTransport(clock, *reversed(hosts))
        self._server.connections.append(ends)
        for end, other, made_by in zip(ends, ends[::-1], (factory, self._server.listening), strict=True):
            end.other = other
            end.protocol = made_by.buildProtocol(end.getPeer())
            end.connected = True
        for end in ends:
            end.protocol.makeConnection(end)
        return succeed(ends[0].protocol)


class Peer:
    """The other end of a connection to a `MemoryServer`: it speaks PDUs, correct or not."""

    def __init__(self, server: MemoryServer, host: str) -> None:
        self._clock = server.clock
        self.protocol = server.factory.buildProtocol(None)
        self.transport = _Transport(server.clock, host)
        self.transport.protocol = self.protocol
        self._framer = Framer(self, 0)
        self._reader: MessageReader | None = None
        self._received: list[ReceivedPDU | Command] = []
        self.data_set = bytearray()
        self.protocol.makeConnection(self.transport)

    @property
    def connected(self) -> bool:
        """Whether the server has not closed the connection."""
        self._clock.advance(0)
        return bool(self.transport.connected)

    def send(self, *pdus: PDU | bytes) -> None:
        """Send PDUs, or any bytes, in one chunk."""
        for pdu in pdus:
            self._associated(pdu)
        self.protocol.dataReceived(b"".join(pdu if isinstance(pdu, bytes) else pdu.encode() for pdu in pdus))

    def received(self) -> list[ReceivedPDU | Command]:
        """What the server has sent since the last call; messages as their commands."""
        data = self.transport.value()
        self.transport.clear()
        self._framer.receive(data)
        received, self._received = self._received, []
        return received

    def associate(
        self,
        contexts: Mapping[int, tuple[str, ...]] | None = None,
        *sub_items: SubItem,
        called: str = "PMOD",
        calling: str = "SCU",
        maximum_length: int = 16384,
    ) -> ReceivedPDU | Command:
        """Propose contexts, {ID: (abstract syntax, transfer syntax ...)}; the server's answer."""
        if contexts is None:
            contexts = {1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)}
        self.send(
            associate_rq(contexts, *sub_items, called=called, calling=calling, maximum_length=maximum_length)
        )
        (answer,) = self.received()
        return answer

    def request(self, context_id: int, command: Command, data_set: bytes = b"") -> Command:
        """Send a request, with its data set if it has one; the server's response."""
        self.send(*message(context_id, command, data_set))
        (response,) = self.received()
        assert isinstance(response, Command), response
        return response

    def close(self) -> None:
        """Close the connection."""
        if self.connected:
            self.transport.loseConnection()
            self._clock.advance(0)

    # -- ul.framer.Receiver and dimse.reader.MessageReceiver

    def pdu_received(self, pdu: ReceivedPDU) -> None:
        self._associated(pdu)
        self._received.append(pdu)

    def _associated(self, pdu: object) -> None:
        if isinstance(pdu, A_ASSOCIATE_AC):
            self._reader = MessageReader({context.context_id for context in pdu.presentation_contexts}, self)

    def p_data_received(self) -> bool:
        return True

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        assert self._reader is not None, "P-DATA-TF before A-ASSOCIATE-AC"
        self._reader.fragment_received(context_id, control_header, data, complete)

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        assert self._reader is not None, "P-DATA-TF before A-ASSOCIATE-AC"
        self._reader.fragments_received(context_id, fragments)

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        raise AssertionError(f"the server sent an invalid PDU: {fault}")

    def command_received(self, context_id: int, command: Command) -> None:
        self._received.append(command)

    def data_received(self, fragments: list[memoryview]) -> None:
        self.data_set += b"".join(fragments)

    def message_ended(self) -> None:
        pass


def associate_rq(
    contexts: Mapping[int, tuple[str, ...]],
    *sub_items: SubItem,
    called: str = "PMOD",
    calling: str = "SCU",
    maximum_length: int = 16384,
) -> A_ASSOCIATE_RQ:
    """A proposal of contexts, {ID: (abstract syntax, transfer syntax ...)}."""
    proposed = tuple(PresentationContextRQ(number, uid[0], uid[1:]) for number, uid in contexts.items())
    implementation = ImplementationClassUID(uids.IMPLEMENTATION_CLASS_UID)
    user_information = UserInformation((MaximumLength(maximum_length), implementation, *sub_items))
    return A_ASSOCIATE_RQ(called, calling, proposed, user_information)


def message(
    context_id: int, command: Command, data_set: bytes = b"", maximum_length: int = 16384
) -> list[bytes]:
    """The PDUs of a message, one by one."""
    pdus = [writer.command_pdus(context_id, command.encode(), maximum_length)]
    if command.has_data_set:
        step = writer.fragment_length(maximum_length)
        for at in range(0, len(data_set) or 1, step):
            part, last = data_set[at : at + step], at + step >= len(data_set)
            pdus.append(writer.data_set_pdus(context_id, part, maximum_length, last=last))
    return pdus
