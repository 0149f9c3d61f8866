"""Messages out, cut to P-DATA-TF PDUs of the length that the peer receives (PS3.8 9.3.5, Annex E)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct

from dicomtw.ul.pdu import COMMAND, LAST, P_DATA_TF

#: PDU length to send where the peer sets no limit, or a higher one: longer ones gain nothing.
LONGEST_PDU = 1 << 18

#: The shortest P-DATA-TF that carries anything: a PDV header and two bytes, for fragments are even.
SHORTEST_PDU = 8

_HEADER = Struct(">BxLLBB")  # of the PDU, then of its one PDV
_PDV_OVERHEAD = 6


def fragment_length(maximum_length: int) -> int:
    """The longest fragment for a peer that receives P-DATA-TF of `maximum_length` bytes, 0: any length.

    Raises `ValueError` if nothing fits.
    """
    if maximum_length == 0:
        maximum_length = LONGEST_PDU
    if maximum_length < SHORTEST_PDU:
        raise ValueError(f"a maximum length of {maximum_length} has no room for a fragment")
    return (min(maximum_length, LONGEST_PDU) - _PDV_OVERHEAD) & ~1


def p_data_header(context_id: int, control_header: int, length: int) -> bytes:
    """The 12 bytes before a fragment of `length` bytes that has a P-DATA-TF for itself."""
    return _HEADER.pack(P_DATA_TF.pdu_type, length + 6, length + 2, context_id, control_header)


def command_pdus(context_id: int, command: bytes, maximum_length: int) -> bytes:
    """The P-DATA-TF PDUs of an encoded command set, to be written at once: one PDU as a rule."""
    step = fragment_length(maximum_length)
    if len(command) <= step:
        return p_data_header(context_id, COMMAND | LAST, len(command)) + command
    return b"".join(_pdus(context_id, COMMAND, (command,), step))


def data_set_pdus(context_id: int, data_set: Iterable[bytes], maximum_length: int) -> Iterator[bytes]:
    """The P-DATA-TF PDUs of an encoded data set that comes in parts of any length, one by one."""
    return _pdus(context_id, 0, data_set, fragment_length(maximum_length))


def _pdus(context_id: int, kind: int, parts: Iterable[bytes], step: int) -> Iterator[bytes]:
    """Full fragments as they fill up; the last one is held back until it is known to be the last."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) > step:
            yield p_data_header(context_id, kind, step) + held[:step]
            del held[:step]
    yield p_data_header(context_id, kind | LAST, len(held)) + held
