"""Requestors of C-GET and C-MOVE that cost little: what is sent to them they count, and decode none of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from struct import Struct

import attrs

from benchmarks import objects
from dicomtw import uids
from dicomtw.dimse.command import NO_DATA_SET
from dicomtw.dimse.messages import C_GET_RQ, C_MOVE_RQ, C_STORE_RQ, C_STORE_RSP, Command
from dicomtw.dimse.writer import command_pdus
from dicomtw.testing import associate_rq, message
from dicomtw.ul.items import (
    ImplementationClassUID,
    MaximumLength,
    PresentationContextAC,
    RoleSelection,
    SubItem,
    UserInformation,
)
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ, COMMAND, LAST

_QUERY, _STORAGE = 1, 3  # presentation contexts
_RECEIVED = 1 << 20  # at once, in bytes
_PDU = Struct(">BxL")
_PDV = Struct(">LBB")
_P_DATA_TF, _A_RELEASE_RQ = 0x04, 0x05
#: Tags and lengths of elements of a command set: each is a number.
_COMMAND_FIELD, _DATA_SET_TYPE = b"\0\0\0\1\2\0\0\0", b"\0\0\0\x08\2\0\0\0"
_MESSAGE_ID, _RESPONDED_TO = b"\0\0\x10\1\2\0\0\0", b"\0\0\x20\1\2\0\0\0"
_STATUS = b"\0\0\0\x09\2\0\0\0"
_PENDING = (0xFF00, 0xFF01)


@attrs.frozen
class Retrieved:
    """The answer to one C-GET or C-MOVE."""

    objects: int
    #: Of the data sets, with what is around them.
    bytes: int
    #: From the request to the final response.
    seconds: float
    status: int
    #: From one object's end to that of the next, in seconds.
    latencies: list[float]


class Messages:
    """The messages that come on a blocking socket. Data sets are passed over."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray(_RECEIVED)
        self._at = self._end = 0
        #: Received so far, in bytes.
        self.size = 0

    def _receive(self) -> None:
        view = memoryview(self._buffer)
        if self._at == self._end:
            self._at = self._end = 0
        elif self._at:
            rest = bytes(view[self._at : self._end])
            view[: len(rest)] = rest
            self._at, self._end = 0, len(rest)
        count = self._socket.recv_into(view[self._end :])
        if not count:
            raise ConnectionError("closed by the server")
        self._end += count
        self.size += count

    def _take(self, count: int) -> bytes:
        while self._end - self._at < count:
            self._receive()
        self._at += count
        return bytes(self._buffer[self._at - count : self._at])

    def _pass_over(self, count: int) -> None:
        while (there := self._end - self._at) < count:
            count -= there
            self._at = self._end
            self._receive()
        self._at += count

    def pdu(self) -> tuple[int, bytes]:
        """Type and content of a PDU of another kind."""
        kind, length = _PDU.unpack(self._take(6))
        return kind, self._take(length)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Context and command of each message, when all of it has come; until the release is requested."""
        command, in_data_set = b"", False
        while True:
            kind, length = _PDU.unpack(self._take(6))
            if kind == _A_RELEASE_RQ:
                self._take(length)
                return
            if kind != _P_DATA_TF:
                raise ConnectionError(f"no P-DATA-TF but a PDU of type {kind:02X}H")
            while length:
                pdv_length, context_id, control = _PDV.unpack(self._take(6))
                length -= pdv_length + 4
                if control & COMMAND:
                    command += self._take(pdv_length - 2)
                    in_data_set = _number(command, _DATA_SET_TYPE) != NO_DATA_SET if control & LAST else True
                else:
                    self._pass_over(pdv_length - 2)
                    in_data_set = not control & LAST
                if control & LAST and not in_data_set:
                    yield context_id, command
                    command = b""


def _number(command: bytes, element: bytes) -> int:
    """An element of VR US of an encoded command set."""
    at = command.index(element) + len(element)
    return int.from_bytes(command[at : at + 2], "little")


def differences(times: Sequence[float]) -> list[float]:
    """From each to the next."""
    return [later - earlier for earlier, later in pairwise(times)]


class _Answers:
    """Responses to C-STORE-RQs, encoded beforehand."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._bytes: dict[int, bytearray] = {}
        self.objects = 0
        self.times: list[float] = []

    def answer(self, context_id: int, command: bytes) -> None:
        """Say that it is stored."""
        encoded = self._bytes.get(context_id)
        if encoded is None:
            response = C_STORE_RSP(
                affected_sop_class_uid=objects.CT_IMAGE_STORAGE, message_id_being_responded_to=0, status=0
            )
            encoded = bytearray(command_pdus(context_id, response.encode(), 0))
            self._bytes[context_id] = encoded
        at = encoded.index(_RESPONDED_TO) + len(_RESPONDED_TO)
        encoded[at : at + 2] = _number(command, _MESSAGE_ID).to_bytes(2, "little")
        self._socket.sendall(encoded)
        self.objects += 1
        self.times.append(time.perf_counter())


class _Requestor:
    """One association with a server on loopback."""

    def __init__(
        self, port: int, called: str, calling: str, sop_class_uid: str, pdu: int, *more: SubItem
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 300)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sop_class_uid = sop_class_uid
        explicit = uids.EXPLICIT_VR_LITTLE_ENDIAN
        contexts = {_QUERY: (sop_class_uid, explicit), _STORAGE: (objects.CT_IMAGE_STORAGE, explicit)}
        proposal = associate_rq(contexts, *more, called=called, calling=calling, maximum_length=pdu)
        self._socket.sendall(proposal.encode())
        self._messages = Messages(self._socket)
        kind, _ = self._messages.pdu()
        if kind != A_ASSOCIATE_AC.pdu_type:
            raise ConnectionError(f"no A-ASSOCIATE-AC but a PDU of type {kind:02X}H")

    def release(self) -> None:
        self._socket.sendall(A_RELEASE_RQ().encode())
        self._messages.pdu()
        self._socket.close()

    def _last_status(self, request: Command, identifier: bytes, answers: _Answers | None) -> int:
        """Ask, answer what comes, and wait for the final response."""
        self._socket.sendall(b"".join(message(_QUERY, request, identifier)))
        for context_id, command in self._messages:
            if _number(command, _COMMAND_FIELD) == C_STORE_RQ.command_field:
                assert answers is not None, "a C-STORE where none is due"
                answers.answer(context_id, command)
            elif (status := _number(command, _STATUS)) not in _PENDING:
                return status
        raise ConnectionError("released by the server")


class Getter(_Requestor):
    """One association for C-GETs of CT images, in P-DATA-TF of `pdu` bytes at most."""

    def __init__(self, port: int, *, called: str = "PMOD", calling: str = "SCU", pdu: int = 1 << 17) -> None:
        role = RoleSelection(objects.CT_IMAGE_STORAGE, scu_role=True, scp_role=True)
        super().__init__(port, called, calling, uids.STUDY_ROOT_GET, pdu, role)

    def get(self, identifier: bytes) -> Retrieved:
        """Have what an identifier names sent here."""
        before, answers = self._messages.size, _Answers(self._socket)
        request = C_GET_RQ(affected_sop_class_uid=self._sop_class_uid, message_id=1, priority=0)
        started = time.perf_counter()
        status = self._last_status(request, identifier, answers)
        seconds = time.perf_counter() - started
        size = self._messages.size - before
        return Retrieved(answers.objects, size, seconds, status, differences(answers.times))


class Mover(_Requestor):
    """One association for C-MOVEs to a `Destination`."""

    def __init__(self, port: int, *, called: str = "PMOD", calling: str = "SCU") -> None:
        super().__init__(port, called, calling, uids.STUDY_ROOT_MOVE, 1 << 14)

    def move(self, identifier: bytes, destination: Destination) -> Retrieved:
        """Have what an identifier names sent to the destination."""
        destination.begin()
        request = C_MOVE_RQ(
            affected_sop_class_uid=self._sop_class_uid,
            message_id=1,
            priority=0,
            move_destination=destination.aet,
        )
        started = time.perf_counter()
        status = self._last_status(request, identifier, None)
        seconds = time.perf_counter() - started
        count, size, latencies = destination.end()
        return Retrieved(count, size, seconds, status, latencies)


class Destination:
    """Takes what C-MOVE sends, on a port of its own, one association after the other, in a thread."""

    def __init__(self, aet: str = "DEST", pdu: int = 1 << 17) -> None:
        self.aet = aet
        self._pdu = pdu
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._objects = self._size = 0
        self._times: list[float] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def begin(self) -> None:
        """Count from here."""
        self._objects = self._size = 0
        self._times = []

    def end(self) -> tuple[int, int, list[float]]:
        """Objects and bytes that came, and the times from one object to the next."""
        return self._objects, self._size, differences(self._times)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                try:
                    self._take(connection)
                except ConnectionError:
                    pass  # its end is what the requestor sees

    def _take(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        messages, answers = Messages(connection), _Answers(connection)
        self._times = answers.times
        rq = A_ASSOCIATE_RQ.decode(messages.pdu()[1])
        contexts = tuple(
            PresentationContextAC(each.context_id, 0, each.transfer_syntaxes[0])
            for each in rq.presentation_contexts
        )
        user_information = UserInformation(
            (MaximumLength(self._pdu), ImplementationClassUID(uids.IMPLEMENTATION_CLASS_UID))
        )
        ac = A_ASSOCIATE_AC(rq.called_ae_title, rq.calling_ae_title, contexts, user_information)
        connection.sendall(ac.encode())
        for context_id, command in messages:
            # Before the answer, behind which the requestor may look.
            self._objects, self._size = self._objects + 1, messages.size
            answers.answer(context_id, command)
        connection.sendall(A_RELEASE_RP().encode())
