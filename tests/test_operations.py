"""What a request is answered, and in which order requests are performed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.dimse.messages import (
    C_ECHO_RQ,
    C_FIND_RQ,
    C_GET_RQ,
    C_MOVE_RQ,
    C_STORE_RQ,
    N_ACTION_RQ,
    N_CREATE_RQ,
    N_DELETE_RQ,
    N_EVENT_REPORT_RQ,
    N_GET_RQ,
    N_SET_RQ,
    Command,
    MessageType,
    response_type,
)
from dicomtw.errors import DimseError
from dicomtw.feed import Disk, Feed
from dicomtw.operations import OPERATIONS_WINDOW, Operation, OperationQueue
from dicomtw.services import MemorySink, Perform, Response
from dicomtw.testing import at_once
from dicomtw.ul.negotiation import AcceptedContext
from tests.test_feed import RecordingSink

T = TypeVar("T")

CONTEXT = AcceptedContext(5, "1.2.3", uids.IMPLICIT_VR_LITTLE_ENDIAN)

AFFECTED = {"affected_sop_class_uid": "1.2.3", "affected_sop_instance_uid": "1.2.3.4"}
REQUESTED = {"requested_sop_class_uid": "1.2.3", "requested_sop_instance_uid": "1.2.3.4"}
CLASS = {"affected_sop_class_uid": "1.2.3"}

#: Elements of a response which a request has no business with, by element number.
OF_RESPONSES = {0x0901: (0x00100010,), 0x0902: "not ours", 0x0903: 7, 0x1005: (0x00100010,), 0x1021: 3}


def operation_of(request: Command) -> Operation:
    return Operation(CONTEXT, request, "SCU", "PMOD", Surroundings(), NoSubOperations())


class Surroundings:
    """What an operation asks of its association, without one."""

    def extended_negotiation(self, sop_class_uid: str) -> bytes:
        return sop_class_uid.encode()

    def call_in_thread(self, function: Callable[[], T]) -> Deferred[T]:
        return at_once(function)


class NoSubOperations:
    """An association whose requestor is no SCP of anything."""

    def contexts(self, sop_class_uid: str) -> list[AcceptedContext]:
        return []

    def c_store(self, *_: Any, **__: Any) -> Deferred[Response]:
        raise AssertionError("there is no context for it")


class ResponseTests(SynchronousTestCase):
    """PS3.7 9.3 and 10.3: what a response says again of its request."""

    def elements(self, response: Command) -> dict[str, Any]:
        """What a response has, by name, besides what every response has."""
        values = {name: getattr(response, name) for name in ELEMENTS if getattr(response, name) is not None}
        self.assertEqual(len(values) + 2, len(response.values), response)
        return values

    def test_echoed(self) -> None:
        """SOP class and instance, affected or requested, event type and action type, and nothing else."""
        query = {**CLASS, "priority": 0}
        cases: list[tuple[MessageType, dict[str, Any], dict[str, Any]]] = [
            (C_ECHO_RQ, CLASS, CLASS),
            (C_STORE_RQ, {**AFFECTED, "priority": 2}, AFFECTED),
            (C_FIND_RQ, query, CLASS),
            (C_GET_RQ, query, CLASS),
            (C_MOVE_RQ, {**query, "move_destination": "WS"}, CLASS),
            (N_EVENT_REPORT_RQ, {**AFFECTED, "event_type_id": 3}, {**AFFECTED, "event_type_id": 3}),
            (N_GET_RQ, {**REQUESTED, "attribute_identifier_list": (0x00100010,)}, AFFECTED),
            (N_SET_RQ, REQUESTED, AFFECTED),
            (N_ACTION_RQ, {**REQUESTED, "action_type_id": 2}, {**AFFECTED, "action_type_id": 2}),
            (N_CREATE_RQ, AFFECTED, AFFECTED),
            (N_CREATE_RQ, CLASS, CLASS),
            (N_DELETE_RQ, REQUESTED, AFFECTED),
        ]
        for request_type, elements, echoed in cases:
            command = request_type(message_id=77, **elements)
            for request in (command, Command(request_type, {**command.values, **OF_RESPONSES})):
                response = operation_of(request).response(Response(0))
                self.assertEqual(response.message_type, response_type(request_type))
                self.assertFalse(response.has_data_set)
                expected = {"message_id_being_responded_to": 77, "status": 0, **echoed}
                self.assertEqual(self.elements(response), expected, request_type.name)
                self.assertEqual(Command.decode(response.encode()[12:]), response, "it is sent like that")

    def test_zero(self) -> None:
        """An event type or action type of 0 is echoed as any other, and so is message ID 0."""
        for request, name in (
            (N_EVENT_REPORT_RQ(message_id=0, event_type_id=0, **AFFECTED), "event_type_id"),
            (N_ACTION_RQ(message_id=0, action_type_id=0, **REQUESTED), "action_type_id"),
        ):
            response = operation_of(request).response(Response(0))
            self.assertEqual(getattr(response, name), 0)
            self.assertEqual(response.message_id_being_responded_to, 0)

    def test_absent(self) -> None:
        """What a request lacks, though it must not, its response lacks too, or has it empty never."""
        for elements in ({}, {0x0002: "", 0x1000: ""}):
            request = Command(C_STORE_RQ, {0x0100: 1, 0x0110: 9, 0x0800: 0, **elements})
            response = operation_of(request).response(Response(0x0110))
            self.assertEqual(
                self.elements(response), {"message_id_being_responded_to": 9, "status": 0x0110}, elements
            )

    def test_comment(self) -> None:
        """A comment is cut at 64 characters, and absent if it is empty."""
        operation = operation_of(C_ECHO_RQ(message_id=1, **CLASS))
        for comment, expected in (("", None), ("no", "no"), ("x" * 64, "x" * 64), ("x" * 65, "x" * 64)):
            response = operation.response(Response(0xC000, comment=comment))
            self.assertEqual((response.status, response.error_comment), (0xC000, expected))


ELEMENTS = (
    "affected_sop_class_uid",
    "requested_sop_class_uid",
    "message_id",
    "message_id_being_responded_to",
    "status",
    "offending_element",
    "error_comment",
    "error_id",
    "affected_sop_instance_uid",
    "requested_sop_instance_uid",
    "event_type_id",
    "attribute_identifier_list",
    "action_type_id",
    "number_of_completed_sub_operations",
)


class OperationTests(SynchronousTestCase):
    def test_without_data_set(self) -> None:
        """An operation without a data set has none, and nothing to commit or to discard."""
        operation = operation_of(C_ECHO_RQ(message_id=1, **CLASS))
        self.assertEqual(operation.data_set, b"")
        self.assertRaises(AssertionError, lambda: operation.sink)
        self.assertRaises(AssertionError, operation.commit)
        operation.discard()

    def test_data_set(self) -> None:
        """A data set that is kept in memory is at hand; one that is not is for its sink to know."""
        operation = operation_of(N_SET_RQ(message_id=1, **REQUESTED))
        for sink, expected in ((MemorySink(), b"data"), (RecordingSink(), b"")):
            operation.feed = Feed(sink, Disk(at_once), lambda _: None)
            operation.feed.write([memoryview(b"data")])
            self.assertEqual((operation.data_set, operation.sink), (expected, sink))


class Recorder:
    """An `operations.Performer` that keeps a list of what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.paused = False
        self.slow: Deferred[None] | None = None
        self.failures: list[Failure] = []
        self.queue: OperationQueue

    def pending(self, operation: Operation, response: Response) -> None:
        self.told.append((operation.request.message_id, response.status))

    def ready(self) -> Deferred[None]:
        return self.slow or succeed(None)

    def performed(self, operation: Operation, response: Response) -> None:
        self.told.append((operation.request.message_id, response.status, response.comment))

    def waiting(self, too_many: bool) -> None:
        self.paused = too_many

    def all_performed(self) -> None:
        self.told.append("all")

    def bug(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.queue.drop()


class QueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin(1)

    def begin(self, window: int) -> None:
        """A queue of that window, and nothing told yet."""
        self.performer = Recorder()
        self.queue = self.performer.queue = OperationQueue(self.performer, window)
        #: The operations that have begun and are not over, by message ID, in their order.
        self.running: dict[int, Deferred[int]] = {}
        self.sinks: dict[int, RecordingSink] = {}

    def add(self, *message_ids: int, perform: Perform | None = None) -> None:
        """Requests with a data set each; they run until the test ends them, or do what is given."""
        for message_id in message_ids:
            operation = operation_of(C_STORE_RQ(message_id=message_id, priority=0, **AFFECTED))
            operation.perform = perform or self.run_until_told
            sink = self.sinks[message_id] = RecordingSink()
            operation.feed = Feed(sink, Disk(at_once), lambda _: None)
            self.queue.add(operation)

    async def run_until_told(self, operation: Any) -> int:
        message_id = operation.request.message_id
        self.running[message_id] = Deferred()
        return await self.running[message_id]

    def end(self, message_id: int, outcome: int | Exception = 0) -> None:
        """The operation is over."""
        running = self.running.pop(message_id)
        if isinstance(outcome, int):
            running.callback(outcome)
        else:
            running.errback(outcome)

    def test_window(self) -> None:
        """As many run as the window has, in the order of their coming, and are told as they end."""
        for window in (1, 2, OPERATIONS_WINDOW):
            self.begin(window)
            self.assertFalse(self.queue.busy)
            self.add(*range(1, 8))
            for number in range(1, 8):
                self.assertEqual(list(self.running), list(range(number, min(number + window, 8))))
                self.assertTrue(self.queue.busy)
                self.end(number)
            self.assertFalse(self.queue.busy)
            self.assertEqual(self.performer.told, [*((number, 0, "") for number in range(1, 8)), "all"])

    def test_out_of_order(self) -> None:
        """What of a window ends first is told first, and makes room for the next."""
        self.begin(2)
        self.add(1, 2, 3)
        self.end(2)
        self.assertEqual(list(self.running), [1, 3])
        self.end(3)
        self.end(1)
        self.assertEqual(self.performer.told, [(2, 0, ""), (3, 0, ""), (1, 0, ""), "all"])

    def test_the_window(self) -> None:
        """No association may have more than four operations at a time: threads are for all."""
        self.assertEqual(OPERATIONS_WINDOW, 4)

    def test_too_many_wait(self) -> None:
        """Four that wait, besides those that run, are too many; three are not."""
        for window in (1, 4):
            self.begin(window)
            self.add(*range(window + 3))
            self.assertFalse(self.performer.paused)
            self.add(window + 3)
            self.assertTrue(self.performer.paused)
            self.end(0)
            self.assertFalse(self.performer.paused)

    def test_failures(self) -> None:
        """A refusal, before or while it is performed, is told with its comment, in its turn."""
        self.add(1)
        refused = operation_of(C_ECHO_RQ(message_id=2, **CLASS))
        refused.refusal = DimseError(0x0122, "not here")
        self.queue.add(refused)
        self.add(3)
        self.end(1, DimseError(0xA700, "full"))
        self.end(3, 0xB000)
        self.assertEqual(
            self.performer.told, [(1, 0xA700, "full"), (2, 0x0122, "not here"), (3, 0xB000, ""), "all"]
        )

    def test_discarded(self) -> None:
        """Whatever an operation comes to, what it has not committed is discarded before it is told."""
        outcomes: list[int | Exception] = [0, 0xB000, 0xA700, DimseError(0xA700), ZeroDivisionError("bug")]
        for outcome in outcomes:
            self.begin(1)
            self.patch(
                self.performer, "performed", lambda *_: self.performer.told.append(self.sinks[1].calls[:])
            )
            self.add(1)
            self.assertEqual(self.sinks[1].calls, [])
            self.end(1, outcome)
            self.assertEqual(self.sinks[1].calls, ["discard"], outcome)
            is_bug = isinstance(outcome, ZeroDivisionError)
            self.assertEqual(self.performer.told, [] if is_bug else [["discard"], "all"])

    def test_committed(self) -> None:
        """What is committed is not discarded, though the service then fails."""
        outcomes: list[int | Exception] = [0, 0xA700, DimseError(0xA700), ZeroDivisionError("bug")]
        for outcome in outcomes:

            async def commit(operation: Any, outcome: int | Exception = outcome) -> int:
                await operation.commit()
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

            self.begin(1)
            self.add(1, perform=commit)
            self.assertEqual(self.sinks[1].calls, ["try to commit"], outcome)

    def test_bug(self) -> None:
        """What is no DimseError is a bug: told as such, not answered, and the queue is usable."""
        self.add(1, 2)
        error = ZeroDivisionError("bug")
        self.end(1, error)
        self.assertEqual([failure.value for failure in self.performer.failures], [error])
        self.assertEqual(self.performer.told, [])
        self.assertEqual(self.sinks[2].calls, ["discard"])
        self.assertFalse(self.queue.busy)
        self.add(3)
        self.end(3)
        self.assertEqual(self.performer.told, [(3, 0, ""), "all"])

    def test_drop(self) -> None:
        """What waits is dropped and leaves nothing; what runs comes to its end, and is told."""
        self.add(1, 2, 3)
        self.queue.drop()
        self.assertEqual([self.sinks[number].calls for number in (1, 2, 3)], [[], ["discard"], ["discard"]])
        self.assertTrue(self.queue.busy)
        self.end(1)
        self.assertEqual(self.performer.told, [(1, 0, ""), "all"])
        self.assertEqual(self.running, {})

    def test_many(self) -> None:
        """Thousands that are over at once, behind one that is not, are told in order and need no stack."""
        ways: list[Callable[[Any], Any]] = [lambda _: succeed(0), self.at_once]
        for perform in ways:
            self.begin(1)
            self.add(0)
            self.add(*range(1, 5000), perform=perform)
            self.assertEqual(self.performer.told, [])
            self.end(0)
            told = self.performer.told
            self.assertEqual(told[:5000], [(number, 0, "") for number in range(5000)])
            self.assertEqual(set(told[5000:]), {"all"})
            self.assertFalse(self.performer.paused)

    async def at_once(self, operation: Any) -> int:
        return 0
