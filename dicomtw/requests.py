"""The requests that we make on one association, as an SCU: Message IDs, the window, responses as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred, succeed

from dicomtw.dimse import status
from dicomtw.dimse.messages import Command, MessageType, response_type
from dicomtw.errors import AssociationLost, ProtocolError
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
        waiting: Callable[[bool], None],
    ) -> None:
        self.message_id = message_id
        self.message_type = message_type
        self.context = context
        #: No further response will come.
        self.over = False
        self._answers: deque[Answer] = deque()
        self._asked: Deferred[Answer] | None = None
        self._lost: AssociationLost | None = None
        self._waiting = waiting

    def answer(self) -> Deferred[Answer]:
        """The next response; the last one if it is not pending. Raises `AssociationLost`."""
        if self._answers:
            answer = self._answers.popleft()
            if len(self._answers) == _MAXIMUM_WAITING - 1:
                self._waiting(False)
            return succeed(answer)
        asked: Deferred[Answer] = Deferred(self._not_asked)
        if self._lost is not None:
            asked.errback(self._lost)
        else:
            self._asked = asked
        return asked

    def _not_asked(self, _: object) -> None:
        self._asked = None

    def answered(self, answer: Answer) -> None:
        """A response has come."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.callback(answer)
            return
        self._answers.append(answer)
        if len(self._answers) == _MAXIMUM_WAITING:
            self._waiting(True)

    def lost(self, fault: AssociationLost) -> None:
        """No response will come any more."""
        self.over = True
        self._lost = fault
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.errback(fault)


class Requests:
    """The outstanding requests of one association, `window` of them at a time; 0: any number.

    `waiting` is called with True when responses pile up that nobody asks for, and with False when no longer.
    """

    def __init__(self, waiting: Callable[[bool], None]) -> None:
        self.window = 1
        self._waiting = waiting
        self._outstanding: dict[int, Request] = {}
        self._turns: deque[Deferred[None]] = deque()
        self._last_message_id = 0
        self._lost: AssociationLost | None = None

    @property
    def outstanding(self) -> bool:
        """Whether the peer owes us a response."""
        return bool(self._outstanding)

    async def begin(self, message_type: MessageType, context: AcceptedContext) -> Request:
        """A new request with a Message ID of its own, when the window has room. Raises `AssociationLost`."""
        while self._lost is None and self.window and len(self._outstanding) >= self.window:
            turn: Deferred[None] = Deferred(self._turns.remove)
            self._turns.append(turn)
            await turn
        if self._lost is not None:
            raise self._lost
        message_id = self._last_message_id % 0xFFFF + 1
        while message_id in self._outstanding:
            message_id = message_id % 0xFFFF + 1
        self._last_message_id = message_id
        request = Request(message_id, message_type, context, self._waiting)
        self._outstanding[message_id] = request
        return request

    def match(self, context_id: int, command: Command) -> Request:
        """What a response answers; raises `ProtocolError` if it is nothing that we asked."""
        request = self._outstanding.get(command.message_id_being_responded_to or 0)
        if (
            request is None
            or request.context.context_id != context_id
            or response_type(request.message_type) is not command.message_type
        ):
            raise ProtocolError(f"{command.message_type.name} to nothing that we asked")
        return request

    def answered(self, request: Request, answer: Answer) -> None:
        """The response is complete, with its data set."""
        if status.category(answer.command.status or 0) is not status.Category.PENDING:
            request.over = True
            del self._outstanding[request.message_id]
            if self._turns:
                self._turns.popleft().callback(None)
        request.answered(answer)

    def lost(self, why: str) -> None:
        """The association is over: no response comes any more."""
        if self._lost is None:
            self._lost = AssociationLost(why)
            outstanding, self._outstanding = self._outstanding, {}
            for request in outstanding.values():
                request.lost(self._lost)
            while self._turns:
                self._turns.popleft().callback(None)
