"""The operations of one association: requests being received, waiting for their turn, being performed."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from dicomtw.dimse.messages import Command, response_type
from dicomtw.errors import DimseError
from dicomtw.feed import Feed
from dicomtw.services import MemorySink, Perform
from dicomtw.storage import DataSetSink
from dicomtw.ul.negotiation import AcceptedContext

#: Operations that a peer may have outstanding if it asks for a window. They share the cost of syncing; more
#: of them would let one association have all the threads.
OPERATIONS_WINDOW = 4
#: Complete requests that wait for their turn, at most, before the peer is paused.
_MAXIMUM_WAITING = 4


class Operation:
    """A request being received or performed; what a service sees as `services.Operation`."""

    __slots__ = ("called_ae_title", "calling_ae_title", "context", "feed", "perform", "refusal", "request")

    def __init__(
        self, context: AcceptedContext, request: Command, calling_ae_title: str, called_ae_title: str
    ) -> None:
        self.context = context
        self.request = request
        self.calling_ae_title = calling_ae_title
        self.called_ae_title = called_ae_title
        #: How a service performs it, and where its data set goes; or why it is refused.
        self.perform: Perform | None = None
        self.feed: Feed | None = None
        self.refusal: DimseError | None = None

    @property
    def data_set(self) -> bytes:
        sink = None if self.feed is None else self.feed.sink
        return bytes(sink.data) if isinstance(sink, MemorySink) else b""

    @property
    def sink(self) -> DataSetSink:
        assert self.feed is not None, f"{self.request.message_type.name} has no data set"
        return self.feed.sink

    def commit(self) -> Awaitable[None]:
        assert self.feed is not None, f"{self.request.message_type.name} has no data set"
        return self.feed.commit()

    def discard(self) -> None:
        """Leave nothing of the data set, unless it is committed."""
        if self.feed is not None:
            self.feed.discard()

    def response(self, status: int, comment: str) -> Command:
        """The response, which says again what the request was about."""
        request = self.request
        answer = response_type(request.message_type)
        elements = {
            "affected_sop_class_uid": request.sop_class_uid or None,
            "affected_sop_instance_uid": request.affected_sop_instance_uid
            or request.requested_sop_instance_uid,
            "event_type_id": request.event_type_id,
            "action_type_id": request.action_type_id,
            "error_comment": comment[:64] or None,
        }
        possible = {element.name for element in answer.optional}
        return answer(
            data_set=False,
            message_id_being_responded_to=request.message_id,
            status=status,
            **{name: value for name, value in elements.items() if name in possible},
        )


class Performer(Protocol):
    """Whom an `OperationQueue` tells."""

    def performed(self, operation: Operation, status: int, comment: str) -> None:
        """The operation is over: respond."""

    def waiting(self, too_many: bool) -> None:
        """Whether so many requests wait that no more should come."""

    def all_performed(self) -> None:
        """Nothing is left to perform."""

    def bug(self, failure: Any) -> None:
        """A service raised what is no `DimseError`."""


class OperationQueue:
    """Performs complete requests in their order, `window` of them at a time."""

    def __init__(self, performer: Performer, window: int) -> None:
        self._performer = performer
        self._window = window
        self._waiting: deque[Operation] = deque()
        self._running = 0
        self._starting = False

    @property
    def busy(self) -> bool:
        """Whether a request is not answered."""
        return bool(self._running or self._waiting)

    def add(self, operation: Operation) -> None:
        """Perform a complete request when it is its turn."""
        self._waiting.append(operation)
        self._perform_next()

    def drop_waiting(self) -> int:
        """Perform nothing more, but for what is being performed; the number of requests dropped."""
        dropped = len(self._waiting)
        while self._waiting:
            self._waiting.popleft().discard()
        return dropped

    def _perform_next(self) -> None:
        if self._starting:
            return  # called by an operation that was over at once: the loop below goes on
        self._starting = True
        while self._waiting and self._running < self._window:
            self._running += 1
            performed = Deferred.fromCoroutine(self._perform(self._waiting.popleft()))
            performed.addErrback(self._performer.bug)
        self._starting = False
        self._performer.waiting(len(self._waiting) >= _MAXIMUM_WAITING)
        if not self.busy:
            self._performer.all_performed()

    async def _perform(self, operation: Operation) -> None:
        comment = ""
        try:
            if operation.refusal is not None:
                raise operation.refusal
            assert operation.perform is not None
            if operation.feed is not None:
                await operation.feed.written()
            status = await operation.perform(operation)
        except DimseError as error:
            status, comment = error.status, error.comment
        finally:
            self._running -= 1
            operation.discard()
        self._performer.performed(operation, status, comment)
        self._perform_next()
