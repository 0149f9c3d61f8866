"""What a peer has answered to a request of ours (PS3.7 9.3, 10.3), as those are told who asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from dicomtw.dimse import status
from dicomtw.errors import OperationFailed, UnreadableDataSet
from dicomtw.requests import Answer, Request
from dicomtw.services import Response
from dicomtw.transcode import decode


@attrs.frozen
class Retrieval:
    """How far a C-MOVE or C-GET has come (PS3.4 C.4.2.1.5): sub-operations by what became of them."""

    status: int
    completed: int
    failed: int
    warning: int
    #: None where the peer does not say, as in a last response.
    remaining: int | None = None
    failed_sop_instance_uids: tuple[str, ...] = ()


def response_of(answer: Answer) -> Response:
    """The response without its data set."""
    command = answer.command
    uid = command.affected_sop_instance_uid
    elements = {} if uid is None else {"affected_sop_instance_uid": uid}
    return Response(command.status or 0, comment=command.error_comment or "", elements=elements)


def checked(operation: str, response: Response) -> Response:
    """The response to `operation`; raises `OperationFailed` if it is a failure."""
    if status.category(response.status) is status.Category.FAILURE:
        raise OperationFailed(operation, response.status, response.comment)
    return response


def data_set_of(request: Request, answer: Answer) -> Any:
    """The response's data set, a `pydicom.Dataset`, None where it has none; raises `UnreadableDataSet`."""
    if not answer.data_set:
        return None
    try:
        return decode(answer.data_set, request.context.transfer_syntax)
    except UnreadableDataSet as error:
        raise UnreadableDataSet(f"response to {request.message_type.name}: {error}") from error


def retrieval_of(request: Request, answer: Answer, warn: Callable[[str], object]) -> Retrieval:
    """How far a retrieval has come by a response. Where its list of failures cannot be read that is told to
    `warn`: what else it says holds all the same.
    """
    command = answer.command
    failed: tuple[str, ...] = ()
    try:
        listed = (data_set_of(request, answer) or {}).get("FailedSOPInstanceUIDList") or ()
        failed = (str(listed),) if isinstance(listed, str) else tuple(map(str, listed))
    except Exception as error:  # pydicom decodes a value when it is asked for, and raises what it likes
        warn(" ".join(str(error).split()) or type(error).__name__)
    return Retrieval(
        status=command.status or 0,
        completed=command.number_of_completed_sub_operations or 0,
        failed=command.number_of_failed_sub_operations or 0,
        warning=command.number_of_warning_sub_operations or 0,
        remaining=command.number_of_remaining_sub_operations,
        failed_sop_instance_uids=failed,
    )
