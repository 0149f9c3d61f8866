"""A plain response that is encoded in one step is what the message's own encoding makes of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.dimse.messages import (
    C_ECHO_RQ,
    C_FIND_RQ,
    C_GET_RQ,
    C_STORE_RQ,
    N_GET_RQ,
    Command,
    MessageType,
    response_type,
)
from dicomtw.dimse.responses import encode_plain, has_plain_response

UIDS = st.text("0123456789.\xff", max_size=64)
US = st.integers(0, 0xFFFF)


def request(message_type: MessageType, sop_class_uid: str, instance: str, message_id: int) -> Command:
    values: dict[int, Any] = {0x0002: sop_class_uid, 0x0100: message_type.command_field, 0x0110: message_id}
    if message_type is C_STORE_RQ:
        values[0x1000] = instance
    return Command(message_type, {number: value for number, value in values.items() if value != ""})


class PlainResponseTests(SynchronousTestCase):
    @given(st.sampled_from([C_ECHO_RQ, C_FIND_RQ, C_STORE_RQ]), UIDS, UIDS, US, US, st.booleans())
    def test_same(
        self,
        message_type: MessageType,
        sop_class_uid: str,
        instance: str,
        message_id: int,
        status: int,
        data_set: bool,
    ) -> None:
        asked = request(message_type, sop_class_uid, instance, message_id)
        self.assertTrue(has_plain_response(asked))
        elements: dict[str, Any] = {"affected_sop_class_uid": sop_class_uid or None}
        if message_type is C_STORE_RQ:
            elements["affected_sop_instance_uid"] = instance or None
        answer = response_type(message_type)
        expected = answer(
            data_set=data_set, message_id_being_responded_to=message_id, status=status, **elements
        ).encode()
        self.assertEqual(encode_plain(asked, status, data_set), expected)

    def test_others(self) -> None:
        """Responses that say more are not encoded so, nor what is too long to be remembered."""
        for message_type in (C_GET_RQ, N_GET_RQ):
            self.assertFalse(has_plain_response(request(message_type, "1.2", "", 1)))
        self.assertTrue(has_plain_response(request(C_ECHO_RQ, "1" * 64, "", 1)))
        self.assertFalse(has_plain_response(request(C_ECHO_RQ, "1" * 65, "", 1)))
