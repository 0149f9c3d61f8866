"""The requests that we make: Message IDs, the window, and responses as they come."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.dimse.messages import (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_FIND_RQ,
    C_FIND_RSP,
    C_GET_RQ,
    C_MOVE_RQ,
    C_STORE_RQ,
    C_STORE_RSP,
    N_GET_RQ,
    N_GET_RSP,
    Command,
    MessageType,
)
from dicomtw.errors import AssociationLost, LocalStateError, ProtocolError
from dicomtw.requests import Answer, Request, Requests
from dicomtw.ul.negotiation import AcceptedContext

CONTEXT = AcceptedContext(5, "1.2.3", uids.IMPLICIT_VR_LITTLE_ENDIAN)


def answer(request: Request, status: int = 0, data_set: bytes = b"") -> Answer:
    """A response to a request."""
    response = {C_FIND_RQ: C_FIND_RSP, C_STORE_RQ: C_STORE_RSP}.get(request.message_type, C_ECHO_RSP)
    return Answer(response(message_id_being_responded_to=request.message_id, status=status), data_set)


class RequestsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.full: list[bool] = []
        self.requests = Requests(self.full.append)

    def begin(self, message_type: MessageType = C_ECHO_RQ) -> Deferred[Request]:
        return Deferred.fromCoroutine(self.requests.begin(message_type, CONTEXT))

    def begun(self, message_type: MessageType = C_ECHO_RQ) -> Request:
        return self.successResultOf(self.begin(message_type))

    def answered(self, request: Request, status: int = 0, data_set: bytes = b"") -> Answer:
        """A response comes in."""
        response = answer(request, status, data_set)
        self.assertIs(self.requests.match(5, response.command), request)
        self.requests.answered(request, response)
        return response


class WindowTests(RequestsTestCase):
    def test_message_ids(self) -> None:
        """Message IDs count from 1, and begin again after FFFFH; those that are outstanding are left out."""
        self.requests.window = 0
        first = self.begun()
        second = self.begun()
        self.assertEqual((first.message_id, second.message_id), (1, 2))
        self.answered(first)
        third = self.begun()
        self.assertEqual(third.message_id, 3)
        self.requests._last_message_id = 0xFFFD
        for expected in (0xFFFE, 0xFFFF):
            request = self.begun()
            self.assertEqual(request.message_id, expected)
            self.answered(request)
        self.assertEqual(self.begun().message_id, 1)
        self.answered(third)
        self.assertEqual([self.begun().message_id for _ in range(2)], [3, 4])

    def test_every_message_id(self) -> None:
        """In a window without bounds there are as many requests as there are Message IDs; others wait."""
        self.requests.window = 0
        begun = [self.begun() for _ in range(0xFFFF)]
        waiting = self.begin()
        self.assertNoResult(waiting)
        self.answered(begun[99])
        self.assertEqual(self.successResultOf(waiting).message_id, 100)

    def test_window(self) -> None:
        """As many are outstanding as the window has; the others begin in their order, as there is room."""
        for window in (1, 4):
            self.setUp()
            self.requests.window = window
            self.assertFalse(self.requests.outstanding)
            asked = [self.begin() for _ in range(window + 3)]
            begun = [self.successResultOf(one) for one in asked[:window]]
            for waiting in asked[window:]:
                self.assertNoResult(waiting)
                self.answered(begun.pop(0))
                begun.append(self.successResultOf(waiting))
            self.assertEqual([request.message_id for request in begun], list(range(4, window + 4)))
            for request in begun:
                self.answered(request)
            self.assertFalse(self.requests.outstanding)

    def test_in_turn(self) -> None:
        """Who asks again at once, when an answer comes, does so behind those who wait."""
        first, second = self.begin(), self.begin()
        request = self.successResultOf(first)
        third: list[Deferred[Request]] = []
        request.answer().addCallback(lambda _: third.append(self.begin()))
        self.answered(request)
        self.successResultOf(second)
        self.assertNoResult(third[0])

    def test_pending_is_not_over(self) -> None:
        """A pending response leaves its request where it is."""
        request = self.begun(C_FIND_RQ)
        waiting = self.begin()
        self.answered(request, 0xFF00)
        self.answered(request, 0xFF01)
        self.assertFalse(request.over)
        self.assertNoResult(waiting)
        self.answered(request, 0xFE00)
        self.assertTrue(request.over)
        self.successResultOf(waiting)

    def test_cancelled(self) -> None:
        """Who waits for room and gives up is passed over."""
        request = self.begun()
        second, third = self.begin(), self.begin()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.answered(request)
        self.successResultOf(third)

    def test_withdrawn(self) -> None:
        """A request that could not be sent makes room, once."""
        request = self.begun()
        second, third = self.begin(), self.begin()
        self.requests.withdraw(request)
        self.successResultOf(second)
        self.requests.withdraw(request)
        self.assertNoResult(third)

    def test_hundreds_withdrawn(self) -> None:
        """Hundreds that fail to be sent, one by one as they get room, need no stack."""
        failed: list[int] = []

        async def fail() -> None:
            request = await self.requests.begin(C_STORE_RQ, CONTEXT)
            failed.append(request.message_id)
            self.requests.withdraw(request)

        request = self.begun()
        failing = [Deferred.fromCoroutine(fail()) for _ in range(1000)]
        self.answered(request)
        for one in failing:
            self.successResultOf(one)
        self.assertEqual(failed, list(range(2, 1002)))


class AnswerTests(RequestsTestCase):
    def test_order(self) -> None:
        """Responses are given out in their order, whether they are asked for before they come or after."""
        request = self.begun(C_FIND_RQ)
        first = request.answer()
        self.assertNoResult(first)
        came = [self.answered(request, 0xFF00, b"1"), self.answered(request, 0xFF00, b"2")]
        came.append(self.answered(request))
        asked = [first, request.answer(), request.answer()]
        self.assertEqual([self.successResultOf(one) for one in asked], came)

    def test_one_at_a_time(self) -> None:
        """Nobody asks twice at a time, nor for more than the last: that would never come."""
        request = self.begun(C_FIND_RQ)
        asked = request.answer()
        self.failureResultOf(request.answer(), LocalStateError)
        self.answered(request)
        self.successResultOf(asked)
        failure = self.failureResultOf(request.answer(), LocalStateError)
        self.assertIn("C-FIND-RQ", failure.getErrorMessage())

    def test_given_up(self) -> None:
        """A response that is no longer asked for is there for who asks next."""
        request = self.begun()
        asked = request.answer()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        came = self.answered(request)
        self.assertEqual(self.successResultOf(request.answer()), came)

    def test_pile(self) -> None:
        """64 responses that nobody asks for pause the peer, one less resumes it; each says so once."""
        request = self.begun(C_FIND_RQ)
        for _ in range(63):
            self.answered(request, 0xFF00)
        self.assertEqual(self.full, [])
        for _ in range(10):
            self.answered(request, 0xFF00)
        self.assertEqual(self.full, [True])
        for _ in range(9):
            self.successResultOf(request.answer())
        self.assertEqual(self.full, [True])
        self.successResultOf(request.answer())
        self.assertEqual(self.full, [True, False])

    def test_two_piles(self) -> None:
        """With two piles the peer is resumed when both are small enough."""
        self.requests.window = 2
        piles = [self.begun(C_FIND_RQ) for _ in range(2)]
        for request in piles:
            for _ in range(64):
                self.answered(request, 0xFF00)
        for request in piles:
            self.assertEqual(self.full, [True])
            self.successResultOf(request.answer())
        self.assertEqual(self.full, [True, False])

    def test_closed(self) -> None:
        """What nobody will ask for any more is dropped, and holds nobody up."""
        request = self.begun(C_FIND_RQ)
        for _ in range(64):
            self.answered(request, 0xFF00)
        closed, given_up = request.close(), request.close()
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.assertEqual(self.full, [True, False])
        for _ in range(100):
            self.answered(request, 0xFF00)
        asked = request.answer()
        self.assertNoResult(asked)
        self.assertNoResult(closed)
        self.answered(request)
        self.successResultOf(asked)
        self.successResultOf(closed)
        self.assertEqual((self.full, request.over), ([True, False], True))
        self.successResultOf(request.close())

    def test_closed_and_lost(self) -> None:
        """It is over, too, when the association is lost."""
        closed = self.begun(C_FIND_RQ).close()
        self.requests.lost("aborted by the peer")
        self.successResultOf(closed)

    def test_closed_after_its_end(self) -> None:
        """The same, when its last response has come already."""
        request = self.begun(C_FIND_RQ)
        for _ in range(70):
            self.answered(request, 0xFF00)
        self.answered(request)
        self.assertEqual(self.full, [True])
        self.successResultOf(request.close())
        self.assertEqual(self.full, [True, False])

    def test_cancellable(self) -> None:
        """C-CANCEL is about C-FIND, C-GET and C-MOVE, while they are not over."""
        self.requests.window = 0
        every = {kind: self.begun(kind) for kind in (C_FIND_RQ, C_STORE_RQ, C_GET_RQ, C_MOVE_RQ, C_ECHO_RQ)}
        expected = [every[kind] for kind in (C_FIND_RQ, C_GET_RQ, C_MOVE_RQ)]
        self.assertEqual(self.requests.cancellable(), expected)
        self.answered(every[C_FIND_RQ])
        self.assertFalse(every[C_FIND_RQ].can_be_cancelled)
        self.assertEqual(self.requests.cancellable(), expected[1:])


class MatchTests(RequestsTestCase):
    def test_faults(self) -> None:
        """A response of another Message ID, presentation context or kind is a fault of the peer's."""
        request = self.begun(C_STORE_RQ)
        right: dict[str, Any] = {"message_id_being_responded_to": request.message_id, "status": 0}
        self.assertIs(self.requests.match(5, C_STORE_RSP(**right)), request)
        wrong: list[tuple[int, Command]] = [
            (5, C_STORE_RSP(message_id_being_responded_to=2, status=0)),
            (5, C_STORE_RSP(message_id_being_responded_to=0, status=0)),
            (3, C_STORE_RSP(**right)),
            (5, C_ECHO_RSP(**right)),
            (5, C_FIND_RSP(**right)),
        ]
        for context_id, command in wrong:
            fault = self.assertRaises(ProtocolError, self.requests.match, context_id, command)
            self.assertEqual(str(fault), f"{command.message_type.name} to nothing that we asked")
        self.answered(request)
        self.assertRaises(ProtocolError, self.requests.match, 5, C_STORE_RSP(**right))

    def test_pending(self) -> None:
        """PS3.7 C.1.3: what has one response only cannot be pending."""
        self.requests.window = 0
        pending: dict[str, Any] = {"message_id_being_responded_to": 1, "status": 0xFF00}
        for kind, response in ((C_ECHO_RQ, C_ECHO_RSP), (C_STORE_RQ, C_STORE_RSP), (N_GET_RQ, N_GET_RSP)):
            pending["message_id_being_responded_to"] = self.begun(kind).message_id
            fault = self.assertRaises(ProtocolError, self.requests.match, 5, response(**pending))
            self.assertEqual(str(fault), f"{response.name} cannot be pending")


class LostTests(RequestsTestCase):
    def test_everybody_is_told(self) -> None:
        """When the association is lost, who waits for a response or for room hears how; nobody asks again."""
        asking = self.begun(C_FIND_RQ)
        asked, waiting = asking.answer(), [self.begin(), self.begin()]
        self.requests.lost("aborted by the peer")
        self.requests.lost("and then closed")
        for one in (asked, *waiting, asking.answer(), self.begin()):
            failure = self.failureResultOf(one, AssociationLost)
            self.assertEqual(failure.getErrorMessage(), "aborted by the peer")
        self.assertEqual((asking.over, self.requests.outstanding), (True, False))

    def test_what_has_come(self) -> None:
        """What has come before is still given out, and no longer holds anybody up."""
        request = self.begun(C_FIND_RQ)
        came = [self.answered(request, 0xFF00) for _ in range(70)]
        self.requests.lost("aborted by the peer")
        self.assertEqual(self.full, [True, False])
        self.assertEqual([self.successResultOf(request.answer()) for _ in range(70)], came)
        self.failureResultOf(request.answer(), AssociationLost)
        self.assertEqual(self.full, [True, False])

    def test_closed(self) -> None:
        """Once closed no request begins; what is outstanding is answered, until that is lost, too."""
        self.requests.window = 2
        first, second = self.begun(), self.begun()
        waiting = self.begin()
        self.requests.close("released by us")
        for one in (waiting, self.begin()):
            failure = self.failureResultOf(one, AssociationLost)
            self.assertEqual(failure.getErrorMessage(), "released by us")
        self.assertTrue(self.requests.outstanding)
        came = self.answered(first)
        self.assertEqual(self.successResultOf(first.answer()), came)
        self.requests.lost("connection closed by the peer")
        failure = self.failureResultOf(second.answer(), AssociationLost)
        self.assertEqual(failure.getErrorMessage(), "connection closed by the peer")
