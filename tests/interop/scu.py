"""A peer that speaks PDUs over a blocking socket, correct or not, and makes data sets byte by byte."""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from struct import pack
from types import TracebackType

from dicomtw import uids
from dicomtw.dimse.messages import C_ECHO_RQ, C_STORE_RQ, Command
from dicomtw.dimse.reader import MessageReader
from dicomtw.errors import ProtocolError
from dicomtw.testing import associate_rq, message
from dicomtw.ul.framer import Framer
from dicomtw.ul.items import SubItem
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_RELEASE_RP, A_RELEASE_RQ, PDU, ReceivedPDU

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


class Scu:
    """A connection to a server. Nothing waits longer than `timeout` seconds."""

    def __init__(
        self,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
        source: str = "",
        timeout: float = 10.0,
    ) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET)
        self.socket.settimeout(timeout)
        self._framer = Framer(self, 0)
        self._reader: MessageReader | None = None
        self._received: deque[ReceivedPDU | Command] = deque()
        try:
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

    def close(self) -> None:
        self.socket.close()

    # -- bytes

    def send(self, *pdus: PDU | bytes) -> None:
        """Send PDUs, or any bytes, in one go."""
        self.socket.sendall(b"".join(pdu if isinstance(pdu, bytes) else pdu.encode() for pdu in pdus))

    def receive(self) -> ReceivedPDU | Command:
        """The next PDU of the server, a message as its command; raises `Closed` or `TimeoutError`."""
        while not self._received:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                raise Closed(reset=True) from None
            if not data:
                raise Closed(reset=False)
            self._framer.receive(data)
        return self._received.popleft()

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

    def release(self) -> None:
        """Release the association and close the connection."""
        self.send(A_RELEASE_RQ())
        answer = self.receive()
        assert isinstance(answer, A_RELEASE_RP), answer
        self.close()

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
        pass

    def message_ended(self) -> None:
        pass


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
