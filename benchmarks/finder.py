"""A requestor of C-FIND that costs little: it counts matches on a blocking socket and decodes none."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from struct import Struct

import attrs

from dicomtw import uids
from dicomtw.dimse.messages import C_FIND_RQ
from dicomtw.encoding import dictionary
from dicomtw.encoding.data_set import Element, encode
from dicomtw.testing import associate_rq, message
from dicomtw.ul.items import SOPClassExtendedNegotiation
from dicomtw.ul.pdu import A_RELEASE_RQ, COMMAND, LAST

_CONTEXT_ID = 1
#: Received at once, in bytes.
CHUNK = 1 << 18
_MAXIMUM_LENGTH = 1 << 17
_PDU = Struct(">BxLLBB")  # header of a PDU, then of its first PDV
_PDV = Struct(">LBB")
#: Tag and length of Status (0000,0900) in a command set, and the first bytes of its values while pending.
_STATUS = b"\0\0\0\x09\2\0\0\0"
_PENDING = (0xFF00, 0xFF01)


@attrs.frozen
class Found:
    """The answer to one query."""

    matches: int
    #: From the request to the first match whole, None if there is none, and to the final response.
    first: float | None
    seconds: float
    status: int
    #: Received, in bytes.
    size: int


class Finder:
    """One association for queries in Study Root; it asks for relational queries if told to.

    `receive_buffer` limits what waits for us in the kernel, in bytes.
    """

    def __init__(
        self,
        port: int,
        *,
        called: str = "PMOD",
        calling: str = "SCU",
        relational: bool = False,
        receive_buffer: int | None = None,
    ) -> None:
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(300)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._message_id = 0
        proposal = associate_rq(
            {_CONTEXT_ID: (uids.STUDY_ROOT_FIND, uids.EXPLICIT_VR_LITTLE_ENDIAN)},
            *([SOPClassExtendedNegotiation(uids.STUDY_ROOT_FIND, b"\1")] if relational else []),
            called=called,
            calling=calling,
            maximum_length=_MAXIMUM_LENGTH,
        )
        self._socket.sendall(proposal.encode())
        answer = self._pdu()
        if answer[0] != 0x02:
            raise ConnectionError(f"no A-ASSOCIATE-AC but {answer[:10].hex()}")

    def _pdu(self) -> bytes:
        data = self._socket.recv(6, socket.MSG_WAITALL)
        if len(data) < 6:
            raise ConnectionError("closed by the server")
        return data + self._socket.recv(int.from_bytes(data[2:], "big"), socket.MSG_WAITALL)

    def find(
        self,
        identifier: bytes,
        keep: list[bytes] | None = None,
        before_receiving: Callable[[], int] = lambda: CHUNK,
    ) -> Found:
        """Query and count. What is found goes to `keep`; `before_receiving` says how much to receive next."""
        self._message_id += 1
        request = C_FIND_RQ(
            affected_sop_class_uid=uids.STUDY_ROOT_FIND, message_id=self._message_id, priority=0
        )
        pdus = b"".join(message(_CONTEXT_ID, request, identifier))
        data_set: list[bytes] = []
        matches, size, first, rest = 0, 0, None, b""
        started = time.perf_counter()
        self._socket.sendall(pdus)
        while True:
            chunk = self._socket.recv(before_receiving())
            if not chunk:
                raise ConnectionError("closed by the server")
            size += len(chunk)
            data = rest + chunk if rest else chunk
            at, end = 0, len(data)
            while end - at >= _PDU.size:
                kind, length, pdv_length, _, control = _PDU.unpack_from(data, at)
                following = at + 6 + length
                if following > end:
                    break
                if kind != 0x04:
                    raise ConnectionError(f"no P-DATA-TF but {data[at : at + 10].hex()}")
                at += 6
                while True:
                    if control & COMMAND:
                        assert control & LAST, "a command in parts"
                        position = data.index(_STATUS, at, at + 4 + pdv_length) + len(_STATUS)
                        status = int.from_bytes(data[position : position + 2], "little")
                        if status not in _PENDING:
                            return Found(matches, first, time.perf_counter() - started, status, size)
                    else:
                        if keep is not None:
                            data_set.append(data[at + 6 : at + 4 + pdv_length])
                        if control & LAST:
                            matches += 1
                            if first is None:
                                first = time.perf_counter() - started
                            if keep is not None:
                                keep.append(b"".join(data_set))
                                data_set.clear()
                    at += 4 + pdv_length
                    if at >= following:
                        break
                    pdv_length, _, control = _PDV.unpack_from(data, at)
            rest = data[at:]

    def release(self) -> None:
        self._socket.sendall(A_RELEASE_RQ().encode())
        self._pdu()
        self._socket.close()

    def close(self) -> None:
        """Close without a word."""
        self._socket.close()


def identifier(level: str, **keys: str) -> bytes:
    """The identifier of a query at `level`, with keys by keyword; its character set is UTF-8."""
    elements = [Element(0x00080005, "CS", b"ISO_IR 192"), Element(0x00080052, "CS", level.encode())]
    for keyword, value in keys.items():
        attribute = dictionary.by_keyword(keyword)
        assert attribute is not None, keyword
        elements.append(Element(attribute.tag, attribute.vr, value.encode()))
    return encode(elements, uids.EXPLICIT_VR_LITTLE_ENDIAN)
