"""Bytes in; whole PDUs and fragments of P-DATA out (PS3.8 9.3.1, 9.3.5).

Every length is checked against its bound before a byte behind it is kept. What is kept is at most a
6-byte header, or the body of one PDU that is not P-DATA. The fragments of P-DATA are handed on as they
come, as `memoryview`s of the chunk the transport delivered: a PDU may be longer than our memory.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from dicomtw.errors import AbortReason, ProtocolError
from dicomtw.ul.pdu import P_DATA_HEADERS, P_DATA_TF, PDU_CLASSES, PDU_HEADER, PDV_HEADER, ReceivedPDU

#: The longest A-ASSOCIATE body: 128 contexts with every transfer syntax there is take 0.5 MiB.
MAXIMUM_ASSOCIATE_LENGTH = 1 << 20

#: Bounds of the PDUs that are decoded whole: 1 MiB for A-ASSOCIATE-RQ and -AC; the others are 4 bytes long.
_BOUNDS = {pdu_type: MAXIMUM_ASSOCIATE_LENGTH if pdu_type <= 0x02 else 4 for pdu_type in PDU_CLASSES}

_HEADER_LENGTH = 6  # of a PDU (type, reserved, length) and of a PDV (length, context ID, control header)

#: First bytes of other protocols that end up on a DICOM port, and what to say of them.
_STRANGERS = {0x16: "a TLS ClientHello on a port without TLS?", 0x47: "an HTTP request?"}


#: PDUs up to this length, in bytes, are remembered: a peer proposes the same each time, as a rule.
_REMEMBERED = 4096
#: But none in which a user identity item may begin (PS3.7 D.3.3.7): it has a passcode, perhaps.
_USER_IDENTITY = b"\x58\0"


def _decode(pdu_type: int, body: bytes) -> ReceivedPDU:
    return PDU_CLASSES[pdu_type].decode(body)


_remembered_decode = lru_cache(maxsize=64)(_decode)  # they are frozen; those that raise are not remembered


class Receiver(Protocol):
    """Whom a `Framer` tells what came in."""

    def pdu_received(self, pdu: ReceivedPDU) -> None:
        """A whole PDU other than P-DATA-TF."""

    def p_data_received(self) -> bool:
        """The header of a P-DATA-TF. Answers whether its fragments are wanted; if not it is passed over."""

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        """Part of a PDV; `complete`: it ends here. `data` stays valid as long as it is referred to."""

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        """As many P-DATA-TF, of which the header of the first was told. Each is one whole PDV with a control
        header of 0: a data set that goes on behind the last of them.
        """

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        """Unrecognized or invalid PDU. The framer has lost its place and ignores what follows."""


class Framer:
    """Cuts a byte stream into PDUs, whatever the chunks it comes in.

    `maximum_length` is the longest P-DATA-TF variable field that we said we receive, in bytes; 0: any.
    """

    __slots__ = (
        "_body",
        "_body_left",
        "_context_id",
        "_control_header",
        "_deaf",
        "_header",
        "_maximum_length",
        "_pdu_left",
        "_pdu_type",
        "_pdv_left",
        "_receiver",
        "odd_lengths",
    )

    def __init__(self, receiver: Receiver, maximum_length: int) -> None:
        self._receiver = receiver
        self._maximum_length = maximum_length or 0xFFFFFFFF
        self._deaf = False
        self._header = bytearray()  # of a header that a chunk cut off, under 6 bytes
        self._pdu_type = 0
        self._body = bytearray()  # of a PDU to be decoded whole, so far
        self._body_left = 0  # bytes of it to come
        self._pdu_left = 0  # bytes of the current P-DATA-TF to come
        self._pdv_left = 0  # bytes of the current PDV's fragment to come
        self._context_id = self._control_header = 0
        #: Whether a fragment of odd length came in (PS3.8 E.1 forbids it; some peers do it, none is refused).
        self.odd_lengths = False

    @property
    def mid_pdu(self) -> bool:
        """Whether a PDU has begun and not ended."""
        return bool(self._header or self._body_left or self._pdu_left)

    @property
    def held(self) -> int:
        """Bytes that are kept of a PDU which is to be decoded whole."""
        return len(self._body)

    def stop(self) -> None:
        """Ignore all further bytes, those of the current chunk too."""
        self._deaf = True
        self._body = bytearray()

    def pass_over_pdu(self) -> None:
        """Hand on no more of the PDU that is being received: nobody is left to want it."""
        if self._pdu_left:
            self._pdu_left -= len(self._header)
            self._header.clear()
            self._pdv_left = self._pdu_left

    def receive(self, chunk: bytes) -> None:
        """Take the next bytes of the stream, as `bytes`: the views handed on must not change."""
        try:
            self._receive(chunk)
        except ProtocolError as fault:
            self._deaf = True
            self._receiver.invalid_pdu_received(fault)

    def _receive(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        at, end = 0, len(chunk)
        receiver = self._receiver
        while at < end and not self._deaf:
            if self._pdv_left:
                step = min(self._pdv_left, end - at)
                self._pdv_left -= step
                self._pdu_left -= step
                receiver.fragment_received(
                    self._context_id, self._control_header, view[at : at + step], not self._pdv_left
                )
                at += step
            elif self._body_left:
                step = min(self._body_left, end - at)
                self._body += view[at : at + step]
                self._body_left -= step
                at += step
                if not self._body_left:
                    self._end_of_body()
            elif not self._header and end - at >= _HEADER_LENGTH:
                at += self._run_received(chunk, view, at) or self._headers_received(chunk, at)
            else:  # a header cut by the edge of a chunk
                step = min(_HEADER_LENGTH - len(self._header), end - at)
                self._header += view[at : at + step]
                at += step
                if len(self._header) == _HEADER_LENGTH:
                    header = bytes(self._header)
                    self._header.clear()
                    self._header_received(header, 0)

    def _run_received(self, chunk: bytes, view: memoryview, at: int) -> int:
        """Take the P-DATA-TF from `at` on that are whole in the chunk and have the same headers: a data set
        comes in such, but for its end. Returns how long they are together; 0: there are not even two.
        """
        first = at
        header = chunk[at : at + P_DATA_HEADERS.size]
        if self._pdu_left or len(header) < P_DATA_HEADERS.size:
            return 0
        pdu_type, length, pdv_length, context_id, control_header = P_DATA_HEADERS.unpack(header)
        size = _HEADER_LENGTH + length
        is_plain = pdu_type == P_DATA_TF.pdu_type and 2 < pdv_length == length - 4 and not control_header
        if (
            not is_plain
            or length > self._maximum_length
            or length % 2
            or not chunk.startswith(header, at + size)
        ):
            return 0
        fragments = []
        end = len(chunk) - size
        while at <= end and chunk.startswith(header, at):
            fragments.append(view[at + P_DATA_HEADERS.size : at + size])
            at += size
        if len(fragments) < 2:
            return 0
        if self._receiver.p_data_received():  # if they are not wanted they are passed over
            self._receiver.fragments_received(context_id, fragments)
        return at - first

    def _headers_received(self, chunk: bytes, at: int) -> int:
        """Take the header at `at`, and with it that of the PDV where a P-DATA-TF has one, as nearly all have:
        that is half the work. Returns how long they are.
        """
        if not self._pdu_left and len(chunk) - at >= P_DATA_HEADERS.size:
            pdu_type, length, pdv_length, context_id, control_header = P_DATA_HEADERS.unpack_from(chunk, at)
            is_plain = pdu_type == P_DATA_TF.pdu_type and 2 < pdv_length == length - 4
            if is_plain and length <= self._maximum_length and not pdv_length % 2:
                self._pdu_left = self._pdv_left = pdv_length - 2
                self._context_id = context_id
                self._control_header = control_header
                self._receiver.p_data_received()  # if it is not wanted it is passed over all the same
                return P_DATA_HEADERS.size
        self._header_received(chunk, at)
        return _HEADER_LENGTH

    def _header_received(self, data: bytes, at: int) -> None:
        if self._pdu_left:
            self._pdv_begins(*PDV_HEADER.unpack_from(data, at))
        else:
            self._pdu_begins(*PDU_HEADER.unpack_from(data, at))

    def _pdu_begins(self, pdu_type: int, length: int) -> None:
        if pdu_type == P_DATA_TF.pdu_type:
            if length > self._maximum_length:
                raise ProtocolError(f"P-DATA-TF of {length} bytes; we receive {self._maximum_length}")
            if length < _HEADER_LENGTH:
                raise ProtocolError(f"P-DATA-TF of {length} bytes has no room for a presentation-data-value")
            self._pdu_left = length
            if not self._receiver.p_data_received():
                self._pdv_left = length  # passed over as if it were one fragment
            return
        bound = _BOUNDS.get(pdu_type)
        if bound is None:
            hint = f" ({_STRANGERS[pdu_type]})" if pdu_type in _STRANGERS else ""
            raise ProtocolError(f"unrecognized PDU type {pdu_type:02X}H{hint}", AbortReason.UNRECOGNIZED_PDU)
        if not 4 <= length <= bound:
            name = PDU_CLASSES[pdu_type].__name__.replace("_", "-")
            raise ProtocolError(f"{name} says its length is {length}; 4 to {bound} is possible")
        self._pdu_type = pdu_type
        self._body_left = length

    def _end_of_body(self) -> None:
        body = bytes(self._body)
        self._body = bytearray()
        is_remembered = len(body) <= _REMEMBERED and _USER_IDENTITY not in body
        decode = _remembered_decode if is_remembered else _decode
        self._receiver.pdu_received(decode(self._pdu_type, body))

    def _pdv_begins(self, length: int, context_id: int, control_header: int) -> None:
        """`length` counts the context ID and the control header, not itself (PS3.8 9.3.5.1)."""
        if length < 2:
            raise ProtocolError(f"presentation-data-value with a length of {length}")
        if length + 4 > self._pdu_left:
            raise ProtocolError(
                f"presentation-data-value of {length} bytes where {self._pdu_left - 4} are left in its PDU"
            )
        self._pdu_left -= _HEADER_LENGTH
        self._pdv_left = length - 2
        if length % 2:
            self.odd_lengths = True
        if 0 < self._pdu_left - self._pdv_left < _HEADER_LENGTH:
            raise ProtocolError("bytes left over behind the last presentation-data-value of a P-DATA-TF")
        self._context_id = context_id
        self._control_header = control_header
        if not self._pdv_left:
            self._receiver.fragment_received(context_id, control_header, memoryview(b""), True)
