"""A sender that costs little: whole PDUs on a blocking socket for each association; it waits for answers."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence

from benchmarks import objects
from dicomtw import uids
from dicomtw.dimse.messages import C_ECHO_RQ, C_STORE_RQ, Command
from dicomtw.dimse.writer import command_pdus, data_set_pdus, p_data_header
from dicomtw.testing import associate_rq
from dicomtw.ul.pdu import A_RELEASE_RQ, LAST

_CONTEXT_ID = 1


class Sender:
    """One association with a server on loopback; `pdu` is the length of the P-DATA-TF it sends, in bytes.

    It stores objects of the SOP class `abstract_syntax`, small ones also of `others`.
    """

    def __init__(
        self,
        port: int,
        pdu: int = 16384,
        abstract_syntax: str = objects.CT_IMAGE_STORAGE,
        tls: ssl.SSLContext | None = None,
        others: Sequence[str] = (),
    ) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = plain if tls is None else tls.wrap_socket(plain)
        self._abstract_syntax = abstract_syntax
        self._step = pdu - 6
        self._message_id = 0
        self._contexts = {
            uid: 2 * number + _CONTEXT_ID for number, uid in enumerate((abstract_syntax, *others))
        }
        proposal = associate_rq(
            {number: (uid, uids.EXPLICIT_VR_LITTLE_ENDIAN) for uid, number in self._contexts.items()}
        )
        self._socket.sendall(proposal.encode())
        answer = self._pdu()
        if answer[0] != 0x02:
            raise ConnectionError(f"no A-ASSOCIATE-AC but {answer[:10].hex()}")

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            chunk = self._socket.recv(length - len(data))
            if not chunk:
                raise ConnectionError("closed by the server")
            data += chunk
        return data

    def _pdu(self) -> bytes:
        header = self._receive(6)
        return header + self._receive(int.from_bytes(header[2:], "big"))

    def _answer(self) -> int:
        """The status of the response that comes next."""
        pdu = self._pdu()
        if pdu[0] != 0x04:
            raise ConnectionError(f"no P-DATA-TF but {pdu[:10].hex()}")
        status = Command.decode(pdu[12:]).status
        assert status is not None
        return status

    def echo(self) -> int:
        """The status of a C-ECHO."""
        self._message_id = self._message_id % 65535 + 1
        request = C_ECHO_RQ(affected_sop_class_uid=self._abstract_syntax, message_id=self._message_id)
        self._socket.sendall(command_pdus(_CONTEXT_ID, request.encode(), 0))
        return self._answer()

    def store(self, sop_instance_uid: str, head: bytes, pixels: bytes, repeat: int = 1) -> int:
        """The status of a C-STORE of a data set that is `head` and then `repeat` times `pixels`."""
        self.begin_store(sop_instance_uid)
        self.send_data(head, pixels, repeat)
        return self._answer()

    def store_small(self, sop_class_uid: str, sop_instance_uid: str, data_set: bytes) -> int:
        """The status of a C-STORE that is written at once, of any of the SOP classes."""
        self._message_id = self._message_id % 65535 + 1
        request = C_STORE_RQ(
            affected_sop_class_uid=sop_class_uid,
            affected_sop_instance_uid=sop_instance_uid,
            message_id=self._message_id,
            priority=0,
        )
        context_id, length = self._contexts[sop_class_uid], self._step + 6
        self._socket.sendall(
            command_pdus(context_id, request.encode(), length) + data_set_pdus(context_id, data_set, length)
        )
        return self._answer()

    def begin_store(self, sop_instance_uid: str) -> None:
        self._message_id = self._message_id % 65535 + 1
        request = C_STORE_RQ(
            affected_sop_class_uid=self._abstract_syntax,
            affected_sop_instance_uid=sop_instance_uid,
            message_id=self._message_id,
            priority=0,
        )
        self._socket.sendall(command_pdus(_CONTEXT_ID, request.encode(), 0))

    def send_data(self, head: bytes, pixels: bytes, repeat: int = 1) -> None:
        """The data set as P-DATA-TF PDUs, each of the full length but those that end a part."""
        self._socket.sendall(self._pdus(head, repeat == 0))
        block = self._pdus(pixels, False)
        for _ in range(repeat - 1):
            self._socket.sendall(block)
        if repeat:
            self._socket.sendall(self._pdus(pixels, True))

    def _pdus(self, data: bytes, last: bool) -> bytes:
        parts = []
        for at in range(0, len(data), self._step):
            fragment = data[at : at + self._step]
            control = LAST if last and at + self._step >= len(data) else 0
            parts += [p_data_header(_CONTEXT_ID, control, len(fragment)), fragment]
        return b"".join(parts)

    def release(self) -> None:
        self._socket.sendall(A_RELEASE_RQ().encode())
        self._pdu()
        self._socket.close()

    def close(self) -> None:
        """Close without a word."""
        self._socket.close()
