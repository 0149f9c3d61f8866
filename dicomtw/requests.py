"""The requests that we make on one association: Message IDs, the window, responses as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred, fail, succeed

from dicomtw.dimse import status
from dicomtw.dimse.messages import CANCELLABLE, Command, MessageType, response_type
from dicomtw.errors import AssociationLost, LocalStateError, ProtocolError
from dicomtw.ul.negotiation import AcceptedContext

#: Responses that wait to be asked for, at most, before the peer is paused.
_MAXIMUM_WAITING = 64


@attrs.frozen
class Answer:
    """One response: its command, and its data set, encoded; empty where there is none."""

    command: Command
    data_set: bytes


class Request:
    """One request that we have made, and its responses as they come."""

    def __init__(
        self,
        message_id: int,
        message_type: MessageType,
        context: AcceptedContext,
        full: Callable[[bool], None],
    ) -> None:
        self.message_id = message_id
        self.message_type = message_type
        self.context = context
        #: No further response will come.
        self.over = False
        self._answers: deque[Answer] = deque()
        self._asked: Deferred[Answer] | None = None
        self._lost: AssociationLost | None = None
        self._closed = False
        self._ended: list[Deferred[None]] = []
        self._full = False
        self._tell_full = full

    @property
    def can_be_cancelled(self) -> bool:
        """Whether C-CANCEL-RQ would be about it."""
        return self.message_type in CANCELLABLE and not self.over

    def answer(self) -> Deferred[Answer]:
        """The next response; the last one if it is not pending. Raises `AssociationLost`.

        One is asked for at a time: `LocalStateError`.
        """
        if self._answers:
            answer = self._answers.popleft()
            self._see_whether_full()
            return succeed(answer)
        if self._lost is not None:
            return fail(self._lost)
        if self._asked is not None or self.over:
            return fail(
                LocalStateError(f"no further response to a {self.message_type.name} can be asked for")
            )
        self._asked = Deferred(self._not_asked)
        return self._asked

    def _not_asked(self, _: object) -> None:
        self._asked = None

    def close(self) -> Deferred[None]:
        """Nobody asks any more: what has come and what is still to come is dropped. Fires when it is over."""
        self._closed = True
        self._answers.clear()
        self._see_whether_full()
        if self.over:
            return succeed(None)
        ended: Deferred[None] = Deferred(self._ended.remove)
        self._ended.append(ended)
        return ended

    def answered(self, answer: Answer) -> None:
        """A response has come."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.callback(answer)
        elif not self._closed:
            self._answers.append(answer)
            self._see_whether_full()
        self._tell_ended()

    def _tell_ended(self) -> None:
        while self.over and self._ended:
            self._ended.pop().callback(None)

    def _see_whether_full(self) -> None:
        full = len(self._answers) >= _MAXIMUM_WAITING and self._lost is None
        if full != self._full:
            self._full = full
            self._tell_full(full)

    def lost(self, fault: AssociationLost) -> None:
        """No response will come any more."""
        self.over = True
        self._lost = fault
        self._see_whether_full()
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.errback(fault)
        self._tell_ended()


class Requests:
    """The outstanding requests of one association, `window` of them at a time; 0: any number.

    `waiting` is called with True when responses pile up that nobody asks for, and with False when no longer.
    """

    def __init__(self, waiting: Callable[[bool], None]) -> None:
        self.window = 1
        self._waiting = waiting
        self._full = 0
        self._outstanding: dict[int, Request] = {}
        self._turns: deque[Deferred[None]] = deque()
        self._waking = False
        self._last_message_id = 0
        self._lost: AssociationLost | None = None

    @property
    def outstanding(self) -> bool:
        """Whether the peer owes us a response."""
        return bool(self._outstanding)

    @property
    def begun(self) -> int:
        """The last Message ID, another one with each request."""
        return self._last_message_id

    @property
    def _has_room(self) -> bool:
        return len(self._outstanding) < (self.window or 0xFFFF)  # there are no more Message IDs

    async def begin(self, message_type: MessageType, context: AcceptedContext) -> Request:
        """A new request with a Message ID of its own, when the window has room. Raises `AssociationLost`."""
        while self._lost is None and not self._has_room:
            turn: Deferred[None] = Deferred(self._turns.remove)
            self._turns.append(turn)
            await turn
        if self._lost is not None:
            raise self._lost
        message_id = self._last_message_id % 0xFFFF + 1
        while message_id in self._outstanding:
            message_id = message_id % 0xFFFF + 1
        self._last_message_id = message_id
        request = Request(message_id, message_type, context, self._one_full)
        self._outstanding[message_id] = request
        return request

    def _one_full(self, full: bool) -> None:
        was_full = bool(self._full)
        self._full += 1 if full else -1
        if bool(self._full) != was_full:
            self._waiting(full)

    def withdraw(self, request: Request) -> None:
        """The request was not sent."""
        if self._outstanding.pop(request.message_id, None) is not None:
            self._wake()

    def _wake(self) -> None:
        """There may be room for another."""
        if self._waking:
            return  # called by one that had the room for a moment only: the loop below goes on
        self._waking = True
        while self._turns and self._has_room:
            self._turns.popleft().callback(None)
        self._waking = False

    def match(self, context_id: int, command: Command) -> Request:
        """What a response answers; raises `ProtocolError` if it is nothing that we asked."""
        request = self._outstanding.get(command.message_id_being_responded_to or 0)
        if (
            request is None
            or request.context.context_id != context_id
            or response_type(request.message_type) is not command.message_type
        ):
            raise ProtocolError(f"{command.message_type.name} to nothing that we asked")
        if _is_pending(command) and not request.can_be_cancelled:
            raise ProtocolError(f"{command.message_type.name} cannot be pending")
        return request

    def answered(self, request: Request, answer: Answer) -> None:
        """The response is complete, with its data set."""
        if not _is_pending(answer.command):
            request.over = True
            self._outstanding.pop(request.message_id, None)
            self._wake()
        request.answered(answer)

    def close(self, why: str) -> None:
        """Begin no further request; what is outstanding is still answered."""
        self._lost = self._lost or AssociationLost(why)
        while self._turns:
            self._turns.popleft().callback(None)

    def cancellable(self) -> list[Request]:
        """The outstanding ones that C-CANCEL is about."""
        return [request for request in self._outstanding.values() if request.can_be_cancelled]

    def lost(self, why: str) -> None:
        """The association is over: no response comes any more."""
        self.close(why)
        outstanding, self._outstanding = self._outstanding, {}
        for request in outstanding.values():
            request.lost(AssociationLost(why))


def _is_pending(command: Command) -> bool:
    return status.category(command.status or 0) is status.Category.PENDING
