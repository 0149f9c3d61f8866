"""In-memory peers for tests, of this package and of services built on it: no socket, no sleep, no disk.

server = MemoryServer(ApplicationEntity(...))     # or MemoryServer.of(Verification(), ...)
peer = server.connect()
peer.associate({1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)})
response = peer.request(1, C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1))
server.clock.advance(30)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection

from dicomtw import uids
from dicomtw.acceptor import ApplicationEntity
from dicomtw.dimse import writer
from dicomtw.dimse.messages import Command
from dicomtw.dimse.reader import MessageReader
from dicomtw.errors import DimseError, ProtocolError
from dicomtw.feed import Disk
from dicomtw.protocol import DicomFactory, Limits
from dicomtw.security.access import AccessPolicy
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


class MemoryServer:
    """A server with a virtual clock; `addresses` is what host names resolve to."""

    def __init__(
        self,
        entity: ApplicationEntity,
        limits: Limits | None = None,
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        self.clock = Clock()
        known = addresses or {}

        def resolve(names: frozenset[str]) -> Deferred[frozenset[str]]:
            return succeed(frozenset(known[name] for name in names if name in known))

        self.factory = DicomFactory(entity, limits or Limits(), self.clock, resolve)

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
        if isinstance(pdu, A_ASSOCIATE_AC):
            self._reader = MessageReader({context.context_id for context in pdu.presentation_contexts}, self)
        self._received.append(pdu)

    def p_data_received(self) -> bool:
        return True

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        assert self._reader is not None, "P-DATA-TF before A-ASSOCIATE-AC"
        self._reader.fragment_received(context_id, control_header, data, complete)

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        raise AssertionError(f"the server sent an invalid PDU: {fault}")

    def command_received(self, context_id: int, command: Command) -> None:
        self._received.append(command)

    def data_received(self, data: memoryview) -> None:
        self.data_set += data

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
