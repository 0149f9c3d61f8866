"""Responses as nearly all are: what the request was about, and a status (PS3.7 9.3); encoded in one step.

A server encodes one for each object that it stores and each match that it finds. But for Message ID, status
and SOP Instance UID those to one SOP class are the same, and that part is encoded once.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

from dicomtw.dimse.command import DATA_SET_PRESENT, NO_DATA_SET
from dicomtw.dimse.messages import C_ECHO_RQ, C_FIND_RQ, C_STORE_RQ, Command, MessageType, response_type

#: Their responses say again no more than the SOP class, and that of C-STORE the SOP instance.
_PLAIN: Final = frozenset({C_ECHO_RQ, C_FIND_RQ, C_STORE_RQ})
#: What is longer is no UID, and not to be remembered.
_LONGEST_UID: Final = 64

_GROUP_LENGTH = Struct("<HHLL")
#: (0000,0120) Message ID Being Responded To, (0000,0800) Command Data Set Type, (0000,0900) Status.
_ELEMENTS = Struct("<HHLHHHLHHHLH")
_INSTANCE_HEADER = Struct("<HHL")  # of (0000,1000) Affected SOP Instance UID


def has_plain_response(request: Command) -> bool:
    """Whether `encode_plain` is for this request."""
    return request.message_type in _PLAIN and len(request.sop_class_uid) <= _LONGEST_UID


def encode_plain(request: Command, status: int, data_set: bool) -> bytes:
    """The command set of a response with nothing but a status; `data_set`: one follows."""
    uid = request.affected_sop_instance_uid if request.message_type is C_STORE_RQ else None
    instance = b""
    if uid:
        value = uid.encode("latin-1")
        value += b"\0" * (len(value) % 2)
        instance = _INSTANCE_HEADER.pack(0, 0x1000, len(value)) + value
    beginning = _beginning(request.message_type, request.sop_class_uid)
    return b"".join(
        (
            _GROUP_LENGTH.pack(0, 0, 4, len(beginning) + _ELEMENTS.size + len(instance)),
            beginning,
            _ELEMENTS.pack(
                *(0, 0x0120, 2, request.message_id),
                *(0, 0x0800, 2, DATA_SET_PRESENT if data_set else NO_DATA_SET),
                *(0, 0x0900, 2, status),
            ),
            instance,
        )
    )


@lru_cache(maxsize=512)
def _beginning(request: MessageType, sop_class_uid: str) -> bytes:
    """The elements before Message ID Being Responded To, without Command Group Length."""
    response = response_type(request)(
        affected_sop_class_uid=sop_class_uid or None, message_id_being_responded_to=0, status=0
    )
    return response.encode()[_GROUP_LENGTH.size : -_ELEMENTS.size]
