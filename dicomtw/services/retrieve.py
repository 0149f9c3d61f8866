"""Retrieval of the Query/Retrieve Service Class (PS3.4 C.4.2, C.4.3): C-MOVE and C-GET from a store.

Both send the same objects, in sub-operations: C-GET on the association of the request, C-MOVE on one with its
destination. Files are sent as they are where the receiver takes their transfer syntax.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

from dicomtw import uids
from dicomtw.dimse import status
from dicomtw.errors import AssociationLost, Cancelled, DimseError, IndexFault, QueryLimit
from dicomtw.services import (
    DataSetSource,
    Operation,
    Response,
    Sending,
    ServiceClass,
    SubOperations,
)
from dicomtw.services.bounds import DEFAULT, Bounds
from dicomtw.services.identifier import failed_list
from dicomtw.services.query import Settled, agreed, decoded, not_available
from dicomtw.services.reading import BATCH, Opened, ReadAhead, transcoded
from dicomtw.services.selection import Group, Selection, checked_keys, select
from dicomtw.storage.index.database import Index, Instance
from dicomtw.storage.index.query import Query
from dicomtw.ul.negotiation import AcceptedContext, Offer

#: Relational retrieval is supported, conversion of enhanced multi-frame images is not (PS3.4 Table C.5-3).
_SUPPORTED: Final = (1, 0)

#: Sub-operations of one request that have a pending response each. Of what follows there is one when so many
#: seconds have passed since the last (PS3.4 C.4.2.3.1 leaves it to us how often): one for each of a thousand
#: sub-operations in a second costs as much as to read what they send, and nobody can follow that.
EACH, INTERVAL = 128, 0.02
#: Failed sub-operations of one request that get a log line of their own.
_FAILURES_LOGGED: Final = 5
#: UIDs of failed instances that are kept; an element has room for no more.
_FAILED_KEPT: Final = 1024

#: AE title and message ID of a C-MOVE (PS3.7 9.1.1.1.6-7).
Originator = tuple[str, int]


class Destination(SubOperations, Protocol):
    """An association with the destination of a C-MOVE."""

    def release(self) -> object:
        """End it in order; nobody waits for that."""

    def abort(self, why: str) -> None:
        """End it now; `why` is for the log."""


class Destinations(Protocol):
    """Whom C-MOVE may send to."""

    def __contains__(self, ae_title: object, /) -> bool:
        """Whether it may send to this one."""

    def associate(
        self, ae_title: str, contexts: Sequence[tuple[str, tuple[str, ...]]]
    ) -> Awaitable[Destination]:
        """Request an association; `contexts` are abstract syntaxes with their transfer syntaxes.

        Raises `AssociationLost`.
        """


@attrs.define
class Counters:
    """Sub-operations of one request by what became of them (PS3.4 C.4.2.1.6-9).

    `sending` is told of each, for the audit trail.
    """

    remaining: int
    completed: int = 0
    failed: int = 0
    warning: int = 0
    failed_sop_instance_uids: list[str] = attrs.field(factory=list)
    sending: Sending | None = None

    def answered(self, category: status.Category, instance: Instance) -> None:
        """The receiver has answered one: it has it."""
        self.remaining -= 1
        self._tell(instance, success=True)
        if category is status.Category.WARNING:
            self.warning += 1
        else:
            self.completed += 1

    def fail(self, instance: Instance) -> None:
        """One was not sent, or not taken."""
        self.remaining -= 1
        self.failed += 1
        if len(self.failed_sop_instance_uids) < _FAILED_KEPT:
            self.failed_sop_instance_uids.append(instance.sop_instance_uid)
        self._tell(instance, success=False)

    def _tell(self, instance: Instance, *, success: bool) -> None:
        if self.sending is not None:
            self.sending.sent(instance.parts[0], instance.sop_class_uid, success=success)

    def ended(self) -> None:
        """No more are sent."""
        if self.sending is not None:
            self.sending.ended()

    def response(self, code: int, operation: Operation, comment: str = "") -> Response:
        """A response with these numbers: with what remains where it is pending or cancelled."""
        elements: dict[str, Any] = {
            "number_of_completed_sub_operations": min(self.completed, 0xFFFF),
            "number_of_failed_sub_operations": min(self.failed, 0xFFFF),
            "number_of_warning_sub_operations": min(self.warning, 0xFFFF),
        }
        if code in (status.PENDING, status.CANCEL):
            elements["number_of_remaining_sub_operations"] = min(self.remaining, 0xFFFF)
        failed = None
        if code != status.PENDING and self.failed_sop_instance_uids:
            failed = failed_list(self.failed_sop_instance_uids, operation.context.transfer_syntax)
        return Response(code, failed, comment, elements)

    def last_response(self, operation: Operation) -> Response:
        """The response when all is done (PS3.4 Tables C.4-2, C.4-3)."""
        if not self.failed and not self.warning:
            return self.response(status.SUCCESS, operation)
        if self.completed or self.warning:
            return self.response(status.SUB_OPERATIONS_COMPLETE_WITH_FAILURES, operation)
        return self.response(status.UNABLE_TO_PERFORM_SUB_OPERATIONS, operation, "nothing could be sent")


def _counters(operation: Operation, selection: Selection, destination: str = "") -> Counters:
    """The counters for what is sent now, with whom the audit trail has to be told."""
    trail = operation.trail
    if trail is None or not selection.ids:
        return Counters(len(selection.ids))
    return Counters(len(selection.ids), sending=trail.sending(selection.contents, destination))


class _Retrieval(ServiceClass):
    """What C-MOVE and C-GET share. `root` is the store's, `bounds` what they may take."""

    def __init__(self, index: Index, indexing: Settled, root: Path, bounds: Bounds = DEFAULT) -> None:
        self._bounds = bounds
        self._index = index
        self._indexing = indexing
        self._root = root

    def offer(self, abstract_syntax: str) -> Offer:
        return Offer(self.transfer_syntaxes, extended_negotiation=lambda asked: agreed(asked, _SUPPORTED))

    async def _selected(self, operation: Operation, *, in_groups: bool = False) -> Selection:
        """The instances that are asked for, `in_groups` if they are; raises `DimseError`."""
        identifier = await decoded(operation)
        query = Query.of(
            identifier.level,
            checked_keys(identifier),
            self._index.attributes,
            model=identifier.model,
            relational=operation.extended_negotiation[:1] == b"\1",
        )
        cursor = self._index.find(query, self._bounds.query_timeout, self._bounds.max_sub_operations)
        is_audited = operation.trail is not None
        try:
            await self._indexing.settled()
            return await operation.call_in_thread(
                lambda: select(cursor, in_groups=in_groups, is_audited=is_audited)
            )
        except IndexFault as fault:
            raise not_available(operation, fault, status.UNABLE_TO_CALCULATE_MATCHES) from fault
        except QueryLimit as fault:
            raise DimseError(status.UNABLE_TO_CALCULATE_MATCHES, str(fault)) from fault
        finally:
            cursor.close()  # interrupts it, if nobody waits for it any more

    async def _send(
        self,
        operation: Operation,
        association: SubOperations,
        opened: Opened,
        following: Opened | None,
        counters: Counters,
        originator: Originator | None,
    ) -> None:
        """One sub-operation; what is `following` is read while the receiver is at work with this one.

        Raises `AssociationLost`, after counting it.
        """
        instance = opened.instance
        try:
            context, data_set = await self._ready(operation, association, opened)
            answer = await operation.shielded(
                association.c_store(
                    context,
                    instance.sop_instance_uid,
                    data_set,
                    move_originator=originator,
                    meanwhile=None if following is None else following.read_ahead,
                )
            )
        except (OSError, ValueError) as error:
            why = str(error)
        except AssociationLost:
            counters.fail(instance)
            raise
        else:
            category = status.category(answer.status)
            if category in (status.Category.SUCCESS, status.Category.WARNING):
                counters.answered(category, instance)
                return
            why = f"answered {answer.status:04X}H"  # a peer's comment may name a patient
        counters.fail(instance)
        if counters.failed <= _FAILURES_LOGGED:
            operation.warn(f"{uids.name_of(instance.sop_class_uid)} not sent: {why}")

    async def _ready(
        self, operation: Operation, association: SubOperations, opened: Opened
    ) -> tuple[AcceptedContext, DataSetSource]:
        """What is opened; or what it becomes in another transfer syntax. Raises `OSError`, `ValueError`."""
        if opened.fault:
            raise ValueError(opened.fault)
        if opened.context is not None and opened.data_set is not None:
            return opened.context, opened.data_set
        contexts = association.contexts(opened.instance.sop_class_uid)
        return await operation.call_in_thread(lambda: transcoded(self._root, opened.instance, contexts))

    async def _send_all(
        self,
        operation: Operation,
        association: SubOperations,
        ids: array[int],
        counters: Counters,
        originator: Originator | None = None,
    ) -> AsyncGenerator[Response, None]:
        """A sub-operation for each of `ids`, and pending responses while others remain.

        If the association is lost, those that it was for have failed.
        """
        reading = ReadAhead(operation, self._index, self._root, association, ids)
        sent, told = 0, 0.0  # sub-operations, and when a pending response was
        try:
            while True:
                portion = await reading.portion()
                counters.remaining -= portion.gone  # those that are no longer stored do not remain
                for opened, following in zip_longest(portion.opened, portion.opened[1:]):
                    if reading.lost:
                        counters.fail(opened.instance)
                        continue
                    try:
                        await self._send(operation, association, opened, following, counters, originator)
                    except AssociationLost as fault:
                        operation.warn(
                            f"the association ended at {opened.instance.sop_instance_uid}: {fault}"
                        )
                        reading.lost = True
                    if not counters.remaining or reading.lost:
                        continue
                    if operation.cancelled:
                        raise Cancelled
                    sent += 1
                    if sent <= EACH or time.monotonic() >= told + INTERVAL:
                        told = time.monotonic()
                        yield counters.response(status.PENDING, operation)
                if portion.fault is not None:
                    code = status.UNABLE_TO_PERFORM_SUB_OPERATIONS
                    raise not_available(operation, portion.fault, code) from portion.fault
                if not portion.opened:
                    break
        finally:
            reading.close()

    async def _fail_all(self, operation: Operation, ids: array[int], counters: Counters) -> None:
        """Count what cannot be sent."""
        for at in range(0, len(ids), BATCH):
            some = ids[at : at + BATCH]
            try:
                instances = await operation.call_in_thread(partial(self._index.instance, some))
            except IndexFault as fault:
                raise not_available(operation, fault, status.UNABLE_TO_PERFORM_SUB_OPERATIONS) from fault
            counters.remaining -= len(some) - len(instances)
            for instance in instances:
                counters.fail(instance)


class Get(_Retrieval):
    """Sends what C-GET asks for on its own association, whose requestor is an SCP of storage there."""

    abstract_syntaxes = (uids.PATIENT_ROOT_GET, uids.STUDY_ROOT_GET, uids.PATIENT_STUDY_ONLY_GET)

    async def c_get(self, operation: Operation) -> AsyncGenerator[Response, None]:
        """PS3.7 9.1.3: pending responses, and the final one."""
        selection = await self._selected(operation)
        counters = _counters(operation, selection)
        try:
            async with aclosing(
                self._send_all(operation, operation.sub_operations, selection.ids, counters)
            ) as responses:
                async for response in responses:
                    yield response
        except Cancelled:
            yield counters.response(status.CANCEL, operation)
        else:
            yield counters.last_response(operation)
        finally:
            counters.ended()


class Move(_Retrieval):
    """Sends what C-MOVE asks for to one of `destinations`, on an association of its own."""

    abstract_syntaxes = (uids.PATIENT_ROOT_MOVE, uids.STUDY_ROOT_MOVE, uids.PATIENT_STUDY_ONLY_MOVE)

    def __init__(
        self,
        index: Index,
        indexing: Settled,
        root: Path,
        destinations: Destinations,
        bounds: Bounds = DEFAULT,
    ) -> None:
        super().__init__(index, indexing, root, bounds)
        self._destinations = destinations
        self._moving = 0

    async def c_move(self, operation: Operation) -> AsyncGenerator[Response, None]:
        """PS3.7 9.1.4: pending responses, and the final one."""
        with self._one_more():
            destination = (operation.request.move_destination or "").strip()
            if destination not in self._destinations:
                raise DimseError(
                    status.MOVE_DESTINATION_UNKNOWN, f"move destination {destination!r} is unknown"
                )
            selection = await self._selected(operation, in_groups=True)
            counters = _counters(operation, selection, destination)
            try:
                for group in selection.groups:
                    async with aclosing(
                        self._send_group(operation, destination, group, counters)
                    ) as responses:
                        async for response in responses:
                            yield response
            except Cancelled:
                yield counters.response(status.CANCEL, operation)
            else:
                yield counters.last_response(operation)
            finally:
                counters.ended()

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        """While a C-MOVE is performed; raises `DimseError` if there are too many."""
        if 0 < self._bounds.max_moves <= self._moving:
            why = f"{self._moving} C-MOVEs are being performed"
            raise DimseError(status.UNABLE_TO_PERFORM_SUB_OPERATIONS, why)
        self._moving += 1
        try:
            yield
        finally:
            self._moving -= 1

    async def _send_group(
        self, operation: Operation, destination: str, group: Group, counters: Counters
    ) -> AsyncGenerator[Response, None]:
        """The sub-operations that one association has contexts for."""
        try:
            association = await self._destinations.associate(destination, group.contexts())
        except AssociationLost as fault:
            operation.warn(f"move destination {destination!r}: {fault}")
            await self._fail_all(operation, group.ids, counters)
            return
        originator = operation.calling_ae_title, operation.request.message_id or 0
        try:
            async with aclosing(
                self._send_all(operation, association, group.ids, counters, originator)
            ) as responses:
                async for response in responses:
                    yield response
        except BaseException:  # cancelled, or nobody is left who wants more
            association.abort("the C-MOVE it was for has ended")
            raise
        association.release()
