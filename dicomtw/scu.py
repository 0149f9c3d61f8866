"""The operations of one association as its SCU sees them: a method for each of PS3.7's.

Data sets are pydicom's; what is stored from a file is sent as it is, and never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from dicomtw import uids
from dicomtw.answers import Retrieval as Retrieval  # what c_move and c_get return
from dicomtw.answers import checked, data_set_of, response_of, retrieval_of
from dicomtw.dimse import status
from dicomtw.dimse.messages import (
    C_ECHO_RQ,
    C_FIND_RQ,
    C_GET_RQ,
    C_MOVE_RQ,
    MEDIUM,
    N_ACTION_RQ,
    N_CREATE_RQ,
    N_DELETE_RQ,
    N_EVENT_REPORT_RQ,
    N_GET_RQ,
    N_SET_RQ,
    MessageType,
)
from dicomtw.errors import OperationFailed
from dicomtw.matches import Matches
from dicomtw.operations import with_late
from dicomtw.requestor import RequestedAssociation
from dicomtw.requests import Request
from dicomtw.services import Response
from dicomtw.storing import prepare
from dicomtw.transcode import encode

#: Stores under way at a time where the peer sets no limit.
_MANY = 16

#: A `pydicom.Dataset`, or its elements by keyword.
Identifier = Any


class SCU:
    """One association that we have requested.

    What is returned can be awaited, and is a Deferred. An answer of failure raises `OperationFailed`, an
    association that ends `AssociationLost`, a SOP class for which no context was accepted `NotAccepted`, a
    data set that is none `UnreadableDataSet`.
    """

    def __init__(self, association: RequestedAssociation) -> None:
        self.association = association
        # What is prepared has a file open, and its beginning in memory: one more than can be under way.
        self._prepared = DeferredSemaphore((association.operations_window or _MANY) + 1)

    def release(self) -> Deferred[None]:
        """PS3.8 7.2: end the association in order."""
        return self.association.release()

    def abort(self) -> None:
        """PS3.8 7.3: end the association now."""
        self.association.abort("the SCU has ended it")

    # -- DIMSE-C (PS3.7 9.1)

    def c_echo(self) -> Deferred[Response]:
        """PS3.7 9.1.5."""
        return self._perform(uids.VERIFICATION, C_ECHO_RQ, affected_sop_class_uid=uids.VERIFICATION)

    def c_store(self, source: Any, *, priority: int = MEDIUM, transcoded: bool = True) -> Deferred[Response]:
        """PS3.7 9.1.1: store a file, by its path or open for reading bytes, or a `pydicom.Dataset`.

        A file is sent as it is where its transfer syntax is accepted; else, if `transcoded`, in one that is,
        as far as pydicom can make it. An open file is read from its beginning, and left open. Any number can
        be asked for at once: a file is opened when it is its turn.
        Raises `OSError`, `ValueError` for what is no DICOM file.
        """
        return Deferred.fromCoroutine(self._c_store(source, priority, transcoded))

    async def _c_store(self, source: Any, priority: int, transcoded: bool) -> Response:
        await self._prepared.acquire()
        try:
            return await self._prepare_and_store(source, priority, transcoded)
        finally:
            self._prepared.release()

    async def _prepare_and_store(self, source: Any, priority: int, transcoded: bool) -> Response:
        prepared = await with_late(
            self.association.call_in_thread(lambda: prepare(source, self.association, transcoded=transcoded)),
            lambda prepared: prepared.data_set.close(),
        )
        response = await self.association.store(
            prepared.context, prepared.sop_instance_uid, prepared.data_set, priority=priority
        )
        return checked("C-STORE", response)

    def c_find(
        self, identifier: Identifier, *, sop_class_uid: str = uids.STUDY_ROOT_FIND, priority: int = MEDIUM
    ) -> Matches:
        """PS3.7 9.1.2: what matches, one `pydicom.Dataset` after the other.

        An iteration that ends early is to be closed (``contextlib.aclosing``): that cancels the query.
        """

        def begin() -> Coroutine[Any, Any, Request]:
            return self._invoke(
                sop_class_uid, C_FIND_RQ, identifier, affected_sop_class_uid=sop_class_uid, priority=priority
            )

        return Matches(self.association, begin)

    def c_move(
        self,
        identifier: Identifier,
        destination: str,
        *,
        sop_class_uid: str = uids.STUDY_ROOT_MOVE,
        priority: int = MEDIUM,
        progress: Callable[[Retrieval], object] | None = None,
    ) -> Deferred[Retrieval]:
        """PS3.7 9.1.4: have the peer send what matches to the AE title `destination`.

        `progress` is called with each pending response. Sub-operations that failed do not raise, they are
        counted; cancelled (`Deferred.cancel`), it asks the peer to stop.
        """
        return self._retrieve(
            sop_class_uid, C_MOVE_RQ, identifier, progress, priority=priority, move_destination=destination
        )

    def c_get(
        self,
        identifier: Identifier,
        *,
        sop_class_uid: str = uids.STUDY_ROOT_GET,
        priority: int = MEDIUM,
        progress: Callable[[Retrieval], object] | None = None,
    ) -> Deferred[Retrieval]:
        """PS3.7 9.1.3: have the peer send what matches on this association, to the service that stores it."""
        return self._retrieve(sop_class_uid, C_GET_RQ, identifier, progress, priority=priority)

    # -- DIMSE-N (PS3.7 10.1): each fires with the response and its data set, None without one

    def n_event_report(
        self, sop_class_uid: str, sop_instance_uid: str, event_type_id: int, event: Any = None
    ) -> Deferred[tuple[Response, Any]]:
        """PS3.7 10.1.1."""
        return self._normalized(
            N_EVENT_REPORT_RQ, sop_class_uid, sop_instance_uid, event, event_type_id=event_type_id
        )

    def n_get(
        self, sop_class_uid: str, sop_instance_uid: str, attributes: Iterable[int] = ()
    ) -> Deferred[tuple[Response, Any]]:
        """PS3.7 10.1.2: the values of `attributes`, by tag; without them of all."""
        return self._normalized(
            N_GET_RQ,
            sop_class_uid,
            sop_instance_uid,
            None,
            attribute_identifier_list=tuple(attributes) or None,
        )

    def n_set(
        self, sop_class_uid: str, sop_instance_uid: str, modifications: Any
    ) -> Deferred[tuple[Response, Any]]:
        """PS3.7 10.1.3."""
        return self._normalized(N_SET_RQ, sop_class_uid, sop_instance_uid, modifications)

    def n_action(
        self, sop_class_uid: str, sop_instance_uid: str, action_type_id: int, action: Any = None
    ) -> Deferred[tuple[Response, Any]]:
        """PS3.7 10.1.4."""
        return self._normalized(
            N_ACTION_RQ, sop_class_uid, sop_instance_uid, action, action_type_id=action_type_id
        )

    def n_create(
        self, sop_class_uid: str, attributes: Any = None, sop_instance_uid: str = ""
    ) -> Deferred[tuple[Response, Any]]:
        """PS3.7 10.1.5; without a UID the peer makes one, which its response names."""
        return self._normalized(N_CREATE_RQ, sop_class_uid, sop_instance_uid, attributes)

    def n_delete(self, sop_class_uid: str, sop_instance_uid: str) -> Deferred[tuple[Response, Any]]:
        """PS3.7 10.1.6."""
        return self._normalized(N_DELETE_RQ, sop_class_uid, sop_instance_uid, None)

    def _normalized(
        self,
        message_type: MessageType,
        sop_class_uid: str,
        sop_instance_uid: str,
        data_set: Any,
        **elements: Any,
    ) -> Deferred[tuple[Response, Any]]:
        side = "affected" if message_type in (N_EVENT_REPORT_RQ, N_CREATE_RQ) else "requested"
        elements[f"{side}_sop_class_uid"] = sop_class_uid
        elements[f"{side}_sop_instance_uid"] = sop_instance_uid or None

        async def perform() -> tuple[Response, Any]:
            request = await self._invoke(sop_class_uid, message_type, data_set, **elements)
            answer = await request.answer()
            response = checked(message_type.operation, response_of(answer))
            return response, data_set_of(request, answer)

        return Deferred.fromCoroutine(perform())

    # -- what they share

    def _perform(self, sop_class_uid: str, message_type: MessageType, **elements: Any) -> Deferred[Response]:
        async def perform() -> Response:
            request = await self._invoke(sop_class_uid, message_type, None, **elements)
            return checked(message_type.operation, response_of(await request.answer()))

        return Deferred.fromCoroutine(perform())

    async def _invoke(
        self, sop_class_uid: str, message_type: MessageType, data_set: Any, **elements: Any
    ) -> Request:
        context = self.association.contexts_for(sop_class_uid)[0]
        encoded = None if data_set is None else encode(_dataset(data_set), context.transfer_syntax)
        return await self.association.invoke(context, message_type, encoded, **elements)

    def _retrieve(
        self,
        sop_class_uid: str,
        message_type: MessageType,
        identifier: Identifier,
        progress: Callable[[Retrieval], object] | None,
        **elements: Any,
    ) -> Deferred[Retrieval]:
        given_up = False

        async def retrieve() -> Retrieval:
            request = await self._invoke(
                sop_class_uid, message_type, identifier, affected_sop_class_uid=sop_class_uid, **elements
            )
            try:
                while True:
                    answer = await request.answer()
                    retrieval = retrieval_of(request, answer, self.association.warn)
                    category = status.category(retrieval.status)
                    if category is not status.Category.PENDING:
                        break
                    if progress is not None:
                        progress(retrieval)
                    if given_up:  # by `progress`, while there is nothing to wait for
                        raise CancelledError
            finally:
                self.association.cancel(request)
                request.close()
            if category is status.Category.FAILURE:
                name, comment = message_type.operation, response_of(answer).comment
                raise OperationFailed(name, retrieval.status, comment, retrieval)
            return retrieval

        def give_up(_: object) -> None:
            nonlocal given_up
            given_up = True
            retrieving.cancel()

        def tell(outcome: Any) -> None:
            if not told.called:
                told.callback(outcome)

        told: Deferred[Retrieval] = Deferred(give_up)
        retrieving = Deferred.fromCoroutine(retrieve())
        retrieving.addBoth(tell)
        return told


def _dataset(identifier: Any) -> Any:
    """A `pydicom.Dataset` of whatever way an identifier is given.

    Raises `ValueError` for a keyword that is none, or a value that cannot be its.
    """
    if not isinstance(identifier, Mapping):
        return identifier
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset

    data_set = Dataset()
    for keyword, value in identifier.items():
        if tag_for_keyword(keyword) is None:
            raise ValueError(f"{keyword!r} is not the keyword of an attribute")
        is_sequence = isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)
        try:
            setattr(data_set, keyword, [_dataset(item) for item in value] if is_sequence else value)
        except Exception as error:  # pydicom's, whatever it is
            raise ValueError(f"{keyword} cannot be {value!r}: {error}") from error
    if "SpecificCharacterSet" not in data_set and not str(identifier).isascii():
        data_set.SpecificCharacterSet = "ISO_IR 192"
    return data_set
