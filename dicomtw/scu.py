"""The operations of one association as its SCU sees them: a method for each of PS3.7's.

Data sets are pydicom's; what is stored from a file is sent as it is, and never loaded.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from dicomtw import uids
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
from dicomtw.errors import NotAccepted, OperationFailed
from dicomtw.requestor import RequestedAssociation
from dicomtw.requests import Answer, Request
from dicomtw.services import UNCOMPRESSED, DataSetSource, Response
from dicomtw.storage.data_set_file import DataSetFile, open_data_set
from dicomtw.transcode import CannotTranscode, decode, encode, transcode, transfer_syntax_of
from dicomtw.ul.negotiation import AcceptedContext

T = TypeVar("T")

#: Stores under way at a time where the peer sets no limit.
_MANY = 16

#: A `pydicom.Dataset`, or its elements by keyword.
Identifier = Any


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


def storage_contexts(paths: Iterable[Path | str]) -> list[tuple[str, tuple[str, ...]]]:
    """The presentation contexts to propose for storing files: one for each transfer syntax alone, which a
    peer accepts or not, and for each SOP class one to fall back on.

    Blocks. Raises `OSError`, and `ValueError` for what is no DICOM file.
    """
    kinds: dict[str, dict[str, None]] = {}
    for path in paths:
        file = open_data_set(Path(path).resolve())
        file.close()
        kinds.setdefault(file.sop_class_uid, {})[file.transfer_syntax_uid] = None
    contexts: list[tuple[str, tuple[str, ...]]] = []
    for sop_class_uid, own in kinds.items():
        contexts += [(sop_class_uid, (uid,)) for uid in own]
        rest = tuple(uid for uid in UNCOMPRESSED[:2] if uid not in own)
        contexts += [(sop_class_uid, rest)] if rest else []
    return contexts


class SCU:
    """One association that we have requested.

    What is returned can be awaited, and is a Deferred. An answer of failure raises `OperationFailed`, an
    association that ends `AssociationLost`, a SOP class for which no context was accepted `NotAccepted`.
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
        abandoned = False

        def prepare() -> tuple[AcceptedContext, str, DataSetSource]:
            prepared = self._prepare(source, transcoded)
            if abandoned:
                prepared[2].close()
            return prepared

        try:
            context, sop_instance_uid, data_set = await self.association.call_in_thread(prepare)
        except BaseException:
            abandoned = True
            raise
        response = await self.association.store(context, sop_instance_uid, data_set, priority=priority)
        return _checked("C-STORE", response)

    def _prepare(self, source: Any, transcoded: bool) -> tuple[AcceptedContext, str, DataSetSource]:
        """The context to store an object in, its SOP instance, and its data set for that context. Blocks."""
        file: DataSetFile | None = None
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as unsent:
            if isinstance(source, str | Path):
                source = Path(source).resolve()
                file = open_data_set(source)
            elif hasattr(source, "read"):
                source = _file(source, opened)
                file = _at_data_set(source)
            if file is not None:
                unsent.callback(file.close)
            sop_class_uid, sop_instance_uid, transfer_syntax = _about(source if file is None else file)
            contexts = self._contexts(sop_class_uid)
            context = next((one for one in contexts if one.transfer_syntax == transfer_syntax), None)
            if context is not None and file is not None:
                unsent.pop_all()
                return context, sop_instance_uid, file
            if context is not None:
                return context, sop_instance_uid, io.BytesIO(encode(source, transfer_syntax))
            if not transcoded:
                raise self._not_accepted(sop_class_uid, transfer_syntax)
            try:
                chosen, data_set = transcode(source, [one.transfer_syntax for one in contexts])
            except CannotTranscode as why:
                raise self._not_accepted(sop_class_uid, transfer_syntax, str(why)) from None
            context = next(one for one in contexts if one.transfer_syntax == chosen)
            return context, sop_instance_uid, io.BytesIO(data_set)

    def c_find(
        self, identifier: Identifier, *, sop_class_uid: str = uids.STUDY_ROOT_FIND, priority: int = MEDIUM
    ) -> Matches:
        """PS3.7 9.1.2: what matches, one `pydicom.Dataset` after the other.

        An iteration that ends early is to be closed (``contextlib.aclosing``): that cancels the query.
        """
        return Matches(self, sop_class_uid, identifier, priority)

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
            return _checked(message_type.name.removesuffix("-RQ"), _response(answer)), _data_set(
                request, answer
            )

        return Deferred.fromCoroutine(perform())

    # -- what they share

    def _perform(self, sop_class_uid: str, message_type: MessageType, **elements: Any) -> Deferred[Response]:
        async def perform() -> Response:
            request = await self._invoke(sop_class_uid, message_type, None, **elements)
            return _checked(message_type.name.removesuffix("-RQ"), _response(await request.answer()))

        return Deferred.fromCoroutine(perform())

    async def _invoke(
        self, sop_class_uid: str, message_type: MessageType, data_set: Any, **elements: Any
    ) -> Request:
        context = self._contexts(sop_class_uid)[0]
        encoded = None if data_set is None else encode(_dataset(data_set), context.transfer_syntax)
        return await self.association.invoke(context, message_type, encoded, **elements)

    def _contexts(self, sop_class_uid: str) -> Sequence[AcceptedContext]:
        contexts = self.association.contexts(sop_class_uid)
        if not contexts:
            raise self._not_accepted(sop_class_uid)
        return contexts

    def _not_accepted(self, sop_class_uid: str, transfer_syntax: str = "", more: str = "") -> NotAccepted:
        """Which side it is that does not have a context for this, and why."""
        about = uids.name_of(sop_class_uid)
        refused = [one.why for one in self.association.refused if one.abstract_syntax == sop_class_uid]
        if self.association.contexts(sop_class_uid):
            why = f"it is not accepted in {uids.name_of(transfer_syntax)}"
        elif refused:
            why = f"the peer has refused it: {refused[0]}"
        elif any(one.abstract_syntax == sop_class_uid for one in self.association.accepted.values()):
            why = "by the roles agreed on we are not its SCU"
        else:
            why = "it was not proposed"
        return NotAccepted(f"no presentation context for {about}: {why}" + (f", and {more}" if more else ""))

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
                    retrieval = _retrieval(request, answer)
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
                name, comment = message_type.name.removesuffix("-RQ"), _response(answer).comment
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


class Matches(AsyncIterator[Any]):
    """What a C-FIND finds: iterate over it with ``async for``, or ask for one after the other with `next`."""

    def __init__(self, scu: SCU, sop_class_uid: str, identifier: Identifier, priority: int) -> None:
        self._begin: Callable[[], Coroutine[Any, Any, Request]] = lambda: scu._invoke(
            sop_class_uid, C_FIND_RQ, identifier, affected_sop_class_uid=sop_class_uid, priority=priority
        )
        self._scu = scu
        self._request: Request | None = None
        self._over = False
        #: The peer did not support every key of the identifier (FF01H).
        self.unsupported_keys = False

    async def __anext__(self) -> Any:
        if self._over:
            raise StopAsyncIteration
        if self._request is None:
            self._request = await self._begin()
        answer = await self._request.answer()
        response = _response(answer)
        if status.category(response.status) is status.Category.PENDING:
            self.unsupported_keys |= response.status == status.PENDING_WITH_WARNING
            return decode(answer.data_set, self._request.context.transfer_syntax)
        self._over = True
        _checked("C-FIND", response)
        raise StopAsyncIteration

    def next(self) -> Deferred[Any]:
        """Fires with the next match, None after the last."""

        async def following() -> Any:
            return await anext(self, None)

        return Deferred.fromCoroutine(following())

    def all(self) -> Deferred[list[Any]]:
        """Fires with all matches; for queries that do not have many."""

        async def collect() -> list[Any]:
            return [match async for match in self]

        return Deferred.fromCoroutine(collect())

    async def aclose(self) -> None:
        """Cancel the query if it is not over; what comes of it yet is dropped."""
        request, self._over = self._request, True
        if request is not None:
            self._scu.association.cancel(request)
            await request.close()


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


def _about(source: Any) -> tuple[str, str, str]:
    """SOP class, SOP instance and transfer syntax of a file or a `pydicom.Dataset`; raises `ValueError`."""
    if isinstance(source, DataSetFile):
        return source.sop_class_uid, source.sop_instance_uid, source.transfer_syntax_uid
    try:
        sop_class_uid, sop_instance_uid = str(source.SOPClassUID), str(source.SOPInstanceUID)
    except AttributeError as error:
        raise ValueError(f"the data set cannot be stored: {error}") from None
    return sop_class_uid, sop_instance_uid, transfer_syntax_of(source)


def _file(source: Any, opened: contextlib.ExitStack) -> Any:
    """What is open for reading bytes, as a file of the operating system, at its beginning."""
    file = source
    if not isinstance(getattr(source, "raw", source), io.FileIO):  # a member of an archive, say
        file = tempfile.TemporaryFile()  # noqa: SIM115
        opened.callback(file.close)
        if source.seekable():
            source.seek(0)
        shutil.copyfileobj(source, file)
    file.seek(0)
    return file


def _at_data_set(file: Any) -> DataSetFile:
    """The same file, open once more."""
    fd = os.dup(file.fileno())
    try:
        return DataSetFile(fd)
    except BaseException:
        os.close(fd)
        raise


def _response(answer: Answer) -> Response:
    command = answer.command
    uid = command.affected_sop_instance_uid
    elements = {} if uid is None else {"affected_sop_instance_uid": uid}
    return Response(command.status or 0, comment=command.error_comment or "", elements=elements)


def _checked(operation: str, response: Response) -> Response:
    if status.category(response.status) is status.Category.FAILURE:
        raise OperationFailed(operation, response.status, response.comment)
    return response


def _data_set(request: Request, answer: Answer) -> Any:
    return decode(answer.data_set, request.context.transfer_syntax) if answer.data_set else None


def _retrieval(request: Request, answer: Answer) -> Retrieval:
    command = answer.command
    failed: tuple[str, ...] = ()
    if answer.data_set:
        listed = (
            decode(answer.data_set, request.context.transfer_syntax).get("FailedSOPInstanceUIDList") or ()
        )
        failed = (str(listed),) if isinstance(listed, str) else tuple(map(str, listed))
    return Retrieval(
        status=command.status or 0,
        completed=command.number_of_completed_sub_operations or 0,
        failed=command.number_of_failed_sub_operations or 0,
        warning=command.number_of_warning_sub_operations or 0,
        remaining=command.number_of_remaining_sub_operations,
        failed_sop_instance_uids=failed,
    )
