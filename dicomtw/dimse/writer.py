"""Messages out, cut to P-DATA-TF PDUs of the length that the peer receives (PS3.8 9.3.5, Annex E)."""

from __future__ import annotations

from dicomtw.ul.pdu import COMMAND, LAST, P_DATA_HEADERS, P_DATA_TF

#: PDU length to send where the peer sets no limit, or a higher one: longer ones gain nothing.
LONGEST_PDU = 1 << 18

#: The shortest P-DATA-TF that carries anything: a PDV header and two bytes, for fragments are even.
SHORTEST_PDU = 8

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
    return P_DATA_HEADERS.pack(P_DATA_TF.pdu_type, length + 6, length + 2, context_id, control_header)


def command_pdus(context_id: int, command: bytes, maximum_length: int) -> bytes:
    """The P-DATA-TF PDUs of an encoded command set, to be written at once: one PDU as a rule."""
    return _pdus(context_id, COMMAND, command, fragment_length(maximum_length), True)


def data_set_pdus(context_id: int, part: bytes, maximum_length: int, *, last: bool = True) -> bytes:
    """The P-DATA-TF PDUs of an encoded data set, or of a part of one.

    The length of a part that is not the `last` is a multiple of `fragment_length`, and not 0.
    """
    return _pdus(context_id, 0, part, fragment_length(maximum_length), last)


def data_set_parts(
    context_id: int, part: bytes | memoryview, maximum_length: int, *, last: bool = True
) -> list[bytes | memoryview]:
    """As `data_set_pdus`, not put together: headers and what is between them, for one call that gathers."""
    return _parts(context_id, 0, part, fragment_length(maximum_length), last)


def _pdus(context_id: int, kind: int, data: bytes, step: int, last: bool) -> bytes:
    if len(data) <= step:
        return p_data_header(context_id, kind | LAST if last else kind, len(data)) + data
    return b"".join(_parts(context_id, kind, data, step, last))


def _parts(
    context_id: int, kind: int, data: bytes | memoryview, step: int, last: bool
) -> list[bytes | memoryview]:
    view = memoryview(data)
    full = p_data_header(context_id, kind, step)
    parts: list[bytes | memoryview] = []
    end = max(0, len(view) - 1) // step * step  # where the last fragment begins
    for at in range(0, end, step):
        parts += (full, view[at : at + step])
    parts += (p_data_header(context_id, kind | LAST if last else kind, len(view) - end), view[end:])
    return parts
