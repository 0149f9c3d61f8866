"""A peer that speaks PDUs over a blocking socket, correct or not, and makes data sets byte by byte."""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from struct import pack
from types import TracebackType
from typing import Any

import attrs

from dicomtw import uids
from dicomtw.dimse.messages import C_ECHO_RQ, C_FIND_RQ, C_STORE_RQ, C_STORE_RSP, Command, MessageType
from dicomtw.dimse.reader import MessageReader
from dicomtw.errors import ProtocolError
from dicomtw.testing import associate_rq, message
from dicomtw.ul.framer import Framer
from dicomtw.ul.items import SubItem
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ, PDU, ReceivedPDU

VERIFICATION = {1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)}

#: For objects of the tests' own making.
CT = "1.2.840.10008.5.1.4.1.1.2"
CT_IMPLICIT = {1: (CT, uids.IMPLICIT_VR_LITTLE_ENDIAN)}

Address = tuple[str, int] | Path


class Closed(Exception):
    """The server has closed the connection; `reset` says whether it did so with a TCP reset."""

    def __init__(self, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


@attrs.frozen
class Message:
    """A DIMSE message as it was received."""

    context_id: int
    command: Command
    data_set: bytes = attrs.field(repr=False)

    @property
    def status(self) -> int | None:
        return self.command.status

    @property
    def counters(self) -> tuple[int | None, ...]:
        """Sub-operations remaining, completed, failed and with a warning."""
        command = self.command
        return (
            command.number_of_remaining_sub_operations,
            command.number_of_completed_sub_operations,
            command.number_of_failed_sub_operations,
            command.number_of_warning_sub_operations,
        )


class Connection:
    """PDUs and messages over a blocking socket that is connected."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._framer = Framer(self, 0)
        self._reader: MessageReader | None = None
        self._received: deque[ReceivedPDU | Message] = deque()
        self._message: tuple[int, Command] | None = None
        self._data_set = bytearray()

    def close(self) -> None:
        self.socket.close()

    # -- bytes

    def send(self, *pdus: PDU | bytes) -> None:
        """Send PDUs, or any bytes, in one go."""
        self.socket.sendall(b"".join(pdu if isinstance(pdu, bytes) else pdu.encode() for pdu in pdus))

    def receive_whole(self) -> ReceivedPDU | Message:
        """The next PDU or message of the peer; raises `Closed` or `TimeoutError`."""
        while not self._received:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                raise Closed(reset=True) from None
            if not data:
                raise Closed(reset=False)
            self._framer.receive(data)
        return self._received.popleft()

    def receive(self) -> ReceivedPDU | Command:
        """The next PDU of the peer, a message as its command; raises `Closed` or `TimeoutError`."""
        received = self.receive_whole()
        return received.command if isinstance(received, Message) else received

    def receive_message(self) -> Message:
        """The next of the peer, which must be a message."""
        received = self.receive_whole()
        assert isinstance(received, Message), received
        return received

    def answers(self) -> list[ReceivedPDU | Command]:
        """All that the server sends until it closes the connection."""
        answers = []
        try:
            while True:
                answers.append(self.receive())
        except Closed:
            return answers

    def seconds_until_closed(self) -> float:
        """How long the server takes to close the connection, sending nothing before."""
        started = time.monotonic()
        try:
            received = self.receive()
        except Closed:
            return time.monotonic() - started
        raise AssertionError(f"the server sent {received}")

    # -- ul.framer.Receiver and dimse.reader.MessageReceiver

    def pdu_received(self, pdu: ReceivedPDU) -> None:
        if isinstance(pdu, A_ASSOCIATE_AC | A_ASSOCIATE_RQ):
            self._reader = MessageReader({context.context_id for context in pdu.presentation_contexts}, self)
        self._received.append(pdu)

    def p_data_received(self) -> bool:
        return True

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        assert self._reader is not None, "P-DATA-TF before there is an association"
        self._reader.fragment_received(context_id, control_header, data, complete)

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        assert self._reader is not None, "P-DATA-TF before there is an association"
        self._reader.fragments_received(context_id, fragments)

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        raise AssertionError(f"the server sent an invalid PDU: {fault}")

    def command_received(self, context_id: int, command: Command) -> None:
        self._message = context_id, command
        self._data_set.clear()

    def data_received(self, fragments: list[memoryview]) -> None:
        self._data_set += b"".join(fragments)

    def message_ended(self) -> None:
        assert self._message is not None
        self._received.append(Message(*self._message, bytes(self._data_set)))


class Scu(Connection):
    """A connection to a server. Nothing waits longer than `timeout` seconds."""

    def __init__(
        self,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
        source: str = "",
        timeout: float = 10.0,
        buffer: int = 0,
    ) -> None:
        """`buffer`: what the system may receive before we read it, about so many bytes."""
        super().__init__(socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET))
        self.socket.settimeout(timeout)
        self._contexts: Mapping[int, tuple[str, ...]] = {}
        try:
            if buffer:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            if source:
                self.socket.bind((source, 0))
            self.socket.connect(str(address) if isinstance(address, Path) else address)
            if not isinstance(address, Path):
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost", session=session)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Scu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- associations

    def associate(
        self,
        contexts: Mapping[int, tuple[str, ...]] = VERIFICATION,
        *sub_items: SubItem,
        called: str = "PMOD",
        calling: str = "SCU",
        maximum_length: int = 16384,
    ) -> ReceivedPDU | Command:
        """Propose contexts, {ID: (abstract syntax, transfer syntax ...)}; the server's answer."""
        self._contexts = contexts
        self.send(
            associate_rq(contexts, *sub_items, called=called, calling=calling, maximum_length=maximum_length)
        )
        return self.receive()

    def request(self, context_id: int, command: Command, data_set: bytes = b"") -> Command:
        """Send a request, with its data set if it has one; the server's response."""
        self.send(*message(context_id, command, data_set))
        response = self.receive()
        assert isinstance(response, Command), response
        return response

    def echo(self, context_id: int = 1) -> int | None:
        """The status of a C-ECHO."""
        return self.request(
            context_id, C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1)
        ).status

    def store(
        self, sop_instance_uid: str, data_set: bytes, sop_class_uid: str = CT, context_id: int = 1
    ) -> int:
        """The status of a C-STORE."""
        response = self.request(context_id, c_store_rq(sop_instance_uid, sop_class_uid), data_set)
        assert response.status is not None
        return response.status

    def ask(
        self,
        request: MessageType,
        identifier: bytes,
        context_id: int = 1,
        message_id: int = 7,
        **elements: Any,
    ) -> None:
        """Send a request that has an identifier: C-FIND, C-GET or C-MOVE."""
        command = request(
            affected_sop_class_uid=self._contexts[context_id][0],
            message_id=message_id,
            priority=0,
            **elements,
        )
        self.send(*message(context_id, command, identifier))

    def responses(self, take: Callable[[Message], int] = lambda _: 0) -> list[Message]:
        """All responses to what was asked. C-STORE requests among them get the status that `take` returns."""
        responses = []
        while True:
            received = self.receive_message()
            if received.command.message_type is C_STORE_RQ:
                self.send(*message(received.context_id, c_store_rsp(received.command, take(received))))
                continue
            responses.append(received)
            if received.status not in (0xFF00, 0xFF01):
                return responses

    def find(self, identifier: bytes, context_id: int = 1) -> list[Message]:
        """All responses to a C-FIND."""
        self.ask(C_FIND_RQ, identifier, context_id)
        return self.responses()

    def release(self) -> None:
        """Release the association and close the connection."""
        self.send(A_RELEASE_RQ())
        answer = self.receive()
        assert isinstance(answer, A_RELEASE_RP), answer
        self.close()


def everything_from(connection: socket.socket) -> bytes:
    """What comes until the server closes or resets the connection, as bytes."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def c_store_rq(sop_instance_uid: str, sop_class_uid: str = CT, message_id: int = 1) -> Command:
    """The command of a C-STORE."""
    return C_STORE_RQ(
        affected_sop_class_uid=sop_class_uid,
        affected_sop_instance_uid=sop_instance_uid,
        message_id=message_id,
        priority=0,
    )


def c_store_rsp(request: Command, status: int) -> Command:
    """The response to a C-STORE."""
    return C_STORE_RSP(
        message_id_being_responded_to=request.message_id,
        affected_sop_class_uid=request.affected_sop_class_uid,
        affected_sop_instance_uid=request.affected_sop_instance_uid,
        status=status,
    )


def element(tag: int, value: bytes) -> bytes:
    """A data element, Implicit VR Little Endian; `value` has even length."""
    return pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def uid_element(tag: int, uid: str) -> bytes:
    """A data element with a UID, padded."""
    return element(tag, uid.encode("latin-1") + b"\0" * (len(uid) % 2))


def ct_data_set(
    sop_instance_uid: str, pixels: bytes = bytes(64), *, sop_class_uid: str = CT, study: str = "1.2.3"
) -> bytes:
    """A small data set, Implicit VR Little Endian, with the elements that name it and some pixels."""
    return b"".join(
        (
            uid_element(0x00080016, sop_class_uid),
            uid_element(0x00080018, sop_instance_uid),
            uid_element(0x0020000D, study),
            uid_element(0x0020000E, f"{study}.1"),
            element(0x7FE00010, pixels),
        )
    )
