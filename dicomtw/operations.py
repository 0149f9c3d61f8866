"""The operations of one association: requests being received, waiting for their turn, being performed."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from dicomtw.coroutines import begin
from dicomtw.dimse import status
from dicomtw.dimse.messages import CANCELLABLE, Command, response_type
from dicomtw.dimse.responses import encode_plain, has_plain_response
from dicomtw.errors import Cancelled, DimseError
from dicomtw.feed import Feed
from dicomtw.services import MemorySink, Perform, Response, SubOperations
from dicomtw.storage import DataSetSink
from dicomtw.trail import AssociationTrail
from dicomtw.ul.negotiation import AcceptedContext

#: Operations that a peer may have outstanding if it asks for a window. They share the cost of syncing; more
#: of them would let one association have all the threads.
OPERATIONS_WINDOW = 4
#: Complete requests that wait for their turn, at most, before the peer is paused.
_MAXIMUM_WAITING = 4
#: The most that may wait where the peer cannot be paused, for its responses stand behind them.
MAXIMUM_REQUESTS = 64
#: And what their data sets may take in memory then, in bytes.
MAXIMUM_REQUEST_BYTES = 4 << 20


T = TypeVar("T")


def or_cancelled(deferred: Deferred[T]) -> Deferred[T]:
    """`deferred`, which says in our own words that it is cancelled: services know nothing of Twisted."""

    def translate(failure: Any) -> Any:
        failure.trap(CancelledError)
        raise Cancelled

    return deferred.addErrback(translate)


def with_late(called: Deferred[T], late: Callable[[T], object]) -> Deferred[T]:
    """`called`, whose result goes to `late` if it comes after its cancellation."""
    waiting: Deferred[T] = Deferred()

    def over(result: T | Failure) -> None:
        if not waiting.called:
            waiting.callback(result)
        elif not isinstance(result, Failure):
            late(result)

    called.addBoth(over)
    return waiting


class Surroundings(Protocol):
    """What an operation asks of its association."""

    @property
    def trail(self) -> AssociationTrail | None:
        """The audit trail, if one is kept."""

    def extended_negotiation(self, sop_class_uid: str) -> bytes:
        """What was agreed on for a SOP class in extended negotiation."""

    def call_in_thread(self, function: Callable[[], T], /) -> Deferred[T]:
        """Call what may block, off the reactor thread."""

    def warn(self, what: str, /) -> None:
        """Log a line about an operation."""


class Operation:
    """A request being received or performed; what a service sees as `services.Operation`."""

    __slots__ = (
        "_surroundings",
        "called_ae_title",
        "calling_ae_title",
        "cancelled",
        "context",
        "dropped",
        "feed",
        "perform",
        "refusal",
        "request",
        "shields",
        "sub_operations",
    )

    def __init__(
        self,
        context: AcceptedContext,
        request: Command,
        calling_ae_title: str,
        called_ae_title: str,
        surroundings: Surroundings,
        sub_operations: SubOperations,
    ) -> None:
        self.context = context
        self.request = request
        self.calling_ae_title = calling_ae_title
        self.called_ae_title = called_ae_title
        self.sub_operations = sub_operations
        self._surroundings = surroundings
        #: C-CANCEL has come; it takes effect when there is no shield.
        self.cancelled = False
        self.shields = 0
        #: Nobody is left to answer.
        self.dropped = False
        #: How a service performs it, and where its data set goes; or why it is refused.
        self.perform: Perform | None = None
        self.feed: Feed | None = None
        self.refusal: DimseError | None = None

    @property
    def data_set(self) -> bytes:
        sink = None if self.feed is None else self.feed.sink
        return bytes(sink.data) if isinstance(sink, MemorySink) else b""

    @property
    def in_memory(self) -> int:
        """The length of the data set if it is kept in memory, in bytes."""
        sink = None if self.feed is None else self.feed.sink
        return len(sink.data) if isinstance(sink, MemorySink) else 0

    @property
    def sink(self) -> DataSetSink:
        assert self.feed is not None, f"{self.request.message_type.name} has no data set"
        return self.feed.sink

    @property
    def trail(self) -> AssociationTrail | None:
        return self._surroundings.trail

    @property
    def extended_negotiation(self) -> bytes:
        return self._surroundings.extended_negotiation(self.context.abstract_syntax)

    def call_in_thread(
        self, function: Callable[[], T], *, late: Callable[[T], object] | None = None
    ) -> Awaitable[T]:
        called = self._surroundings.call_in_thread(function)
        return or_cancelled(called if late is None else with_late(called, late))

    def warn(self, what: str) -> None:
        self._surroundings.warn(what)

    async def shielded(self, awaitable: Awaitable[T]) -> T:
        self.shields += 1
        try:
            return await awaitable
        finally:
            self.shields -= 1

    def commit(self) -> Awaitable[None]:
        assert self.feed is not None, f"{self.request.message_type.name} has no data set"
        return self.feed.commit()

    def discard(self) -> None:
        """Leave nothing of the data set, unless it is committed."""
        if self.feed is not None:
            self.feed.discard()

    def encoded(self, response: Response) -> bytes:
        """The command set of a response."""
        if response.comment or response.elements or not has_plain_response(self.request):
            return self.response(response).encode()
        return encode_plain(self.request, response.status, response.data_set is not None)

    def response(self, response: Response) -> Command:
        """The command of a response, which says again what the request was about."""
        request = self.request
        answer = response_type(request.message_type)
        elements = {
            "affected_sop_class_uid": request.sop_class_uid or None,
            "affected_sop_instance_uid": request.affected_sop_instance_uid
            or request.requested_sop_instance_uid,
            "event_type_id": request.event_type_id,
            "action_type_id": request.action_type_id,
            "error_comment": response.comment[:64] or None,
        }
        possible = {element.name for element in answer.optional}
        said_again = {name: value for name, value in elements.items() if name in possible}
        return answer(
            data_set=response.data_set is not None,
            message_id_being_responded_to=request.message_id,
            status=response.status,
            **{**said_again, **response.elements},
        )


class Performer(Protocol):
    """Whom an `OperationQueue` tells."""

    def pending(self, operation: Operation, response: Response) -> None:
        """A response before the last one."""

    def ready(self) -> Deferred[None]:
        """Fires when the peer takes further responses."""

    def performed(self, operation: Operation, response: Response) -> None:
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
        self._running: dict[Operation, Deferred[None] | None] = {}
        #: Those of the running operations that have many responses, and so can be cancelled.
        self._cancellable: set[Operation] = set()
        self._starting = False
        self._held = False
        self._too_many = False

    @property
    def busy(self) -> bool:
        """Whether a request is not answered."""
        return bool(self._running or self._waiting)

    @property
    def is_crowded(self) -> bool:
        """Whether more wait than may where the peer cannot be paused."""
        size = sum(operation.in_memory for operation in self._waiting)
        return len(self._waiting) >= MAXIMUM_REQUESTS or size > MAXIMUM_REQUEST_BYTES

    def add(self, operation: Operation) -> None:
        """Perform a complete request when it is its turn."""
        self._waiting.append(operation)
        self._perform_next()

    def hold(self, held: bool) -> None:
        """Begin no operation, for its response would not be taken; or (False) go on."""
        self._held = held
        if self._waiting:
            self._perform_next()

    def cancel(self, message_id: int) -> None:
        """PS3.7 9.3.2.3: cancel the operation of this Message ID, if it is one that C-CANCEL is about."""
        for operation in (*self._running, *self._waiting):
            request = operation.request
            if request.message_id == message_id and request.message_type in CANCELLABLE:
                self._cancel(operation)

    def cancel_all(self) -> None:
        """Cancel what can be cancelled."""
        # What waits before what runs, whose end would let it begin.
        for operation in (*self._waiting, *self._running):
            self._cancel(operation)

    def _cancel(self, operation: Operation) -> None:
        if operation in self._cancellable:
            operation.cancelled = True
            performing = self._running[operation]
            if performing is not None and (operation.dropped or not operation.shields):
                performing.cancel()
        elif operation.request.message_type in CANCELLABLE:
            # It waits for its turn, or for its identifier: this is found when it would begin.
            operation.refusal = operation.refusal or DimseError(status.CANCEL)

    def drop(self) -> int:
        """Nobody is left to answer: perform nothing more but what cannot be cancelled.

        Returns the number of operations dropped.
        """
        dropped = len(self._waiting)
        while self._waiting:
            self._waiting.popleft().discard()
        for operation in tuple(self._running):
            can_be = operation in self._cancellable or operation.request.message_type in CANCELLABLE
            if can_be and not operation.dropped:
                dropped += 1
                operation.dropped = True
                self._cancel(operation)
        return dropped

    def _perform_next(self) -> None:
        if self._starting:
            return  # called by an operation that was over at once: the loop below goes on
        self._starting = True
        while self._waiting and not self._held and len(self._running) < self._window:
            operation = self._waiting.popleft()
            self._running[operation] = None
            try:
                performing = begin(self._perform(operation))
            except Exception:
                self._performer.bug(Failure())
                continue
            if performing is not None:
                self._running[operation] = performing
                if operation.dropped:
                    performing.cancel()  # what it did first has ended the association
                performing.addErrback(self._performer.bug)
        self._starting = False
        too_many = len(self._waiting) >= _MAXIMUM_WAITING
        if too_many != self._too_many:
            self._too_many = too_many
            self._performer.waiting(too_many)
        if not self.busy:
            self._performer.all_performed()

    async def _perform(self, operation: Operation) -> None:
        try:
            response = await self._response(operation)
        except DimseError as error:
            response = Response(error.status, comment=error.comment)
        except (Cancelled, CancelledError):
            response = Response(status.CANCEL)
        finally:
            del self._running[operation]
            operation.discard()
        if not operation.dropped:
            self._performer.performed(operation, response)
        self._perform_next()

    async def _response(self, operation: Operation) -> Response:
        """Perform; the last response."""
        if operation.feed is not None and operation.refusal is None:
            await operation.feed.written()
        if operation.trail is not None:
            operation.trail.begun(operation, operation.refusal)
        if operation.refusal is not None:
            raise operation.refusal
        assert operation.perform is not None
        performing = operation.perform(operation)
        if isinstance(performing, AsyncGenerator):
            self._cancellable.add(operation)
            return await self._last_response(operation, performing)
        answer = await performing
        return answer if isinstance(answer, Response) else Response(answer)

    async def _last_response(
        self, operation: Operation, responses: AsyncGenerator[Response, None]
    ) -> Response:
        told = False  # that it is cancelled: what it yields then is the last
        step: Awaitable[Response] = anext(responses)
        try:
            while True:
                try:
                    response = await step
                except StopAsyncIteration:
                    return Response(status.CANCEL if operation.cancelled else status.SUCCESS)
                if status.category(response.status) is not status.Category.PENDING:
                    return response
                if told:
                    return Response(status.CANCEL)
                self._performer.pending(operation, response)
                with contextlib.suppress(CancelledError):
                    await self._performer.ready()
                told = operation.cancelled
                step = responses.athrow(Cancelled()) if told else anext(responses)
        finally:
            self._cancellable.discard(operation)  # it is over, and may take its time to clean up
            await responses.aclose()
