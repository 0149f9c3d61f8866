"""What a request is answered, and in which order requests are performed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import feed, uids
from dicomtw.dimse import status
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
from dicomtw.errors import Cancelled, DimseError
from dicomtw.feed import Disk, Feed
from dicomtw.operations import OPERATIONS_WINDOW, Operation, OperationQueue
from dicomtw.services import MemorySink, Perform, Response
from dicomtw.testing import at_once
from dicomtw.ul.negotiation import AcceptedContext
from tests.test_feed import RecordingSink, Threads

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

    trail = None

    def extended_negotiation(self, sop_class_uid: str) -> bytes:
        return sop_class_uid.encode()

    def call_in_thread(self, function: Callable[[], T]) -> Deferred[T]:
        return at_once(function)

    def warn(self, what: str) -> None:
        raise AssertionError("nothing to warn of")


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

    def test_data_set_and_elements(self) -> None:
        """A response says that a data set follows, and has what else the service gives it by name."""
        operation = operation_of(C_GET_RQ(message_id=7, priority=0, **CLASS))
        counters = {
            "number_of_remaining_sub_operations": 0,
            "number_of_completed_sub_operations": 3,
            "number_of_failed_sub_operations": 2,
            "number_of_warning_sub_operations": 1,
        }
        for data_set, follows in ((None, False), (b"", True), (b"UIDs", True)):
            response = operation.response(Response(0xB000, data_set, elements=counters))
            self.assertEqual(response.has_data_set, follows)
            decoded = Command.decode(response.encode()[12:])
            self.assertEqual(decoded, response)
            self.assertEqual({name: getattr(decoded, name) for name in counters}, counters)

    def test_unknown_elements(self) -> None:
        """What a message does not have, a service cannot put into it."""
        operation = operation_of(C_FIND_RQ(message_id=7, priority=0, **CLASS))
        response = Response(0, elements={"number_of_failed_sub_operations": 1})
        self.assertRaises(TypeError, operation.response, response)


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

    def test_extended_negotiation(self) -> None:
        """What was agreed on for its SOP class is at hand."""
        self.assertEqual(operation_of(C_ECHO_RQ(message_id=1, **CLASS)).extended_negotiation, b"1.2.3")

    def test_cancelled_in_our_words(self) -> None:
        """What is called in a thread and cancelled raises `Cancelled`, which services know, and no other."""
        operation = operation_of(C_ECHO_RQ(message_id=1, **CLASS))
        called: Deferred[int] = Deferred()
        faulty: Deferred[int] = Deferred()
        surroundings: Any = operation._surroundings
        for result in (called, faulty):
            self.patch(surroundings, "call_in_thread", lambda _, result=result: result)
            operation.call_in_thread(lambda: 0)
        called.cancel()
        self.failureResultOf(called, Cancelled)
        faulty.errback(ZeroDivisionError())
        self.failureResultOf(faulty, ZeroDivisionError)


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

    def test_held(self) -> None:
        """While answers are not taken nothing begins, and what runs comes to its end."""
        self.begin(2)
        self.add(1)
        self.queue.hold(True)
        self.add(2, 3)
        self.assertEqual(list(self.running), [1])
        self.end(1)
        self.assertEqual((list(self.running), self.performer.told), ([], [(1, 0, "")]))
        self.queue.hold(False)
        self.assertEqual(list(self.running), [2, 3])
        self.end(2)
        self.end(3)
        self.assertEqual(self.performer.told, [(number, 0, "") for number in (1, 2, 3)] + ["all"])
        self.queue.hold(True)
        self.queue.hold(False)
        self.assertEqual(self.performer.told[-2:], [(3, 0, ""), "all"], "nothing to say of nothing")

    def test_cancel(self) -> None:
        """What C-CANCEL is not about goes on: a C-STORE that runs, or waits, and its data set stays."""
        self.add(1, 2)
        for message_id in (1, 2, 99, 0):
            self.queue.cancel(message_id)
        self.end(1)
        self.end(2)
        self.assertEqual(self.performer.told, [(1, 0, ""), (2, 0, ""), "all"])

    def test_cancel_all(self) -> None:
        """Nor does a release end a C-STORE that is complete."""
        self.add(1, 2)
        self.queue.cancel_all()
        self.end(1)
        self.end(2)
        self.assertEqual(self.performer.told, [(1, 0, ""), (2, 0, ""), "all"])


PENDING = Response(status.PENDING, b"match")


class ManyResponsesTests(SynchronousTestCase):
    """PS3.7 9.1.2.1.7, 9.3.2.3: operations with many responses, and their cancellation."""

    def setUp(self) -> None:
        self.begin(1)

    def begin(self, window: int) -> None:
        """A queue of that window, and nothing told yet."""
        self.performer = Recorder()
        self.queue = self.performer.queue = OperationQueue(self.performer, window)
        #: What each generator has done, by message ID.
        self.done: list[Any] = []
        self.waits: Deferred[Any] = Deferred()

    def add(self, perform: Any, message_id: int = 1, request: MessageType = C_FIND_RQ) -> Operation:
        """A request that a generator performs."""
        operation = operation_of(request(message_id=message_id, priority=0, **CLASS))
        operation.perform = perform
        self.queue.add(operation)
        return operation

    def cancel(self) -> None:
        self.queue.cancel(1)

    async def waiting(self, operation: Any) -> AsyncGenerator[Response, None]:
        """One match, then it waits for what the test has in its hands."""
        try:
            yield PENDING
            self.done.append("waits")
            await self.waits
            yield PENDING
        finally:
            self.done.append("closed")

    def test_order(self) -> None:
        """Pending responses are told as they are yielded, then the last one, with all that it says."""
        last = Response(0xB000, b"UIDs", "some failed", {"number_of_failed_sub_operations": 1})
        told: list[Any] = []
        self.patch(self.performer, "pending", lambda _, response: told.append(response))
        self.patch(self.performer, "performed", lambda _, response: told.append(response))

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            yield PENDING
            await self.waits
            yield Response(status.PENDING_WITH_WARNING, b"other")
            yield last
            raise AssertionError("asked for more than the last")

        self.add(perform)
        self.assertEqual(told, [PENDING])
        self.waits.callback(None)
        self.assertEqual(told, [PENDING, Response(status.PENDING_WITH_WARNING, b"other"), last])
        self.assertFalse(self.queue.busy)

    def test_plain_end(self) -> None:
        """A generator that just ends is answered 0000H, whether it had responses or not."""
        for count in (0, 3):

            async def perform(operation: Any, count: int = count) -> AsyncGenerator[Response, None]:
                for _ in range(count):
                    yield PENDING

            self.begin(1)
            self.add(perform)
            self.assertEqual(self.performer.told, [(1, 0xFF00)] * count + [(1, 0, ""), "all"])

    def test_failure(self) -> None:
        """A failure that it raises is its last response, whatever came before."""

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            yield PENDING
            raise DimseError(0xA700, "no more")

        self.add(perform)
        self.assertEqual(self.performer.told, [(1, 0xFF00), (1, 0xA700, "no more"), "all"])

    def test_many(self) -> None:
        """Thousands of responses that are there at once need no stack."""

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            for _ in range(5000):
                yield PENDING

        self.add(perform)
        self.assertEqual(len(self.performer.told), 5002)

    def test_cancelled_while_it_waits(self) -> None:
        """C-CANCEL ends what is awaited, and is answered FE00H; clean-up has been done by then."""
        self.add(self.waiting)
        self.add(self.waiting, 2)
        self.cancel()
        self.assertEqual(self.done[:2], ["waits", "closed"])
        self.assertEqual(self.performer.told[:3], [(1, 0xFF00), (1, 0xFE00, ""), (2, 0xFF00)])

    def test_cancelled_twice(self) -> None:
        """A second C-CANCEL while the first one's clean-up lasts changes nothing."""
        cleaned: Deferred[None] = Deferred()

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                await self.waits
                yield PENDING
            except CancelledError:
                await operation.shielded(cleaned)
                self.done.append("clean")
                raise

        self.add(perform)
        self.cancel()
        self.cancel()
        self.assertEqual(self.performer.told, [])
        cleaned.callback(None)
        self.assertEqual((self.done, self.performer.told), (["clean"], [(1, 0xFE00, ""), "all"]))

    def test_it_answers(self) -> None:
        """A generator may catch the cancellation, and say in its last response how far it came."""
        counters = {"number_of_remaining_sub_operations": 3}
        responses: list[Response] = []
        self.patch(self.performer, "performed", lambda _, response: responses.append(response))

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                await operation.call_in_thread(lambda: None)
                yield PENDING
            except Cancelled:
                yield Response(0xFE00, elements=counters)

        self.patch(Surroundings, "call_in_thread", lambda *_: self.waits)
        self.add(perform)
        self.cancel()
        self.assertEqual(responses, [Response(0xFE00, elements=counters)])

    def test_it_ends(self) -> None:
        """One that just ends when it is cancelled is answered FE00H, not 0000H."""

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                yield PENDING
                await self.waits
            except CancelledError:
                return

        self.add(perform)
        self.cancel()
        self.assertEqual(self.performer.told, [(1, 0xFF00), (1, 0xFE00, ""), "all"])

    def test_it_goes_on(self) -> None:
        """One that will not hear of it is told again, and has no further pending response."""

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                await self.waits
            except CancelledError:
                self.done.append("cancelled")
            while True:
                try:
                    yield PENDING
                except Cancelled:
                    self.done.append("told")
                except GeneratorExit:
                    self.done.append("closed")
                    raise

        self.add(perform)
        self.cancel()
        self.assertEqual(self.done, ["cancelled", "told", "closed"])
        self.assertEqual(self.performer.told, [(1, 0xFF00), (1, 0xFE00, ""), "all"])

    def test_cancelled_before_its_turn(self) -> None:
        """An operation cancelled while it waits is answered FE00H in its turn, and not performed."""
        self.add(self.waiting, 2)
        for request in (C_FIND_RQ, C_GET_RQ):
            self.add(lambda _: self.fail("performed"), request=request)
            self.cancel()
        refused = operation_of(C_MOVE_RQ(message_id=1, priority=0, move_destination="WS", **CLASS))
        refused.refusal = DimseError(0x0124, "no")
        self.queue.add(refused)
        self.cancel()
        self.assertEqual(self.performer.told, [(2, 0xFF00)])
        self.waits.callback(None)
        ends = [(2, 0xFF00), (2, 0, ""), (1, 0xFE00, ""), (1, 0xFE00, ""), (1, 0x0124, "no"), "all"]
        self.assertEqual(self.performer.told[1:], ends)

    def lagging(self) -> tuple[Operation, Threads]:
        """A query whose identifier waits for a disk that lags."""
        now = [100.0]
        self.patch(feed, "time", SimpleNamespace(monotonic=lambda: now[0]))
        threads = Threads()
        disk = Disk(threads)
        disk.call(lambda: now.__setitem__(0, 101.0))
        operation = operation_of(C_FIND_RQ(message_id=1, priority=0, **CLASS))
        operation.perform = lambda _: self.fail("performed")
        operation.feed = Feed(MemorySink(), disk, lambda _: None)
        operation.feed.write([memoryview(b"keys")])
        self.queue.add(operation)
        return operation, threads

    def test_cancelled_before_its_identifier_is_there(self) -> None:
        """Nor is one that waits for its identifier, on a disk that lags."""
        _, threads = self.lagging()
        self.cancel()
        while threads.waiting:
            threads.run()
        self.assertEqual(self.performer.told, [(1, 0xFE00, ""), "all"])

    def test_dropped_before_its_identifier_is_there(self) -> None:
        """Nor if the peer is gone meanwhile, and then nobody is told."""
        _, threads = self.lagging()
        self.assertEqual(self.queue.drop(), 1)
        while threads.waiting:
            threads.run()
        self.assertEqual(self.performer.told, ["all"])

    def test_too_late(self) -> None:
        """A C-CANCEL for what is over, or was never asked, is ignored."""
        self.add(self.waiting)
        self.queue.cancel(2)
        self.waits.callback(None)
        self.cancel()
        self.assertEqual(self.performer.told, [(1, 0xFF00), (1, 0xFF00), (1, 0, ""), "all"])

    def test_too_late_for_the_last_response(self) -> None:
        """One that has given its last response is not disturbed while it cleans up."""

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                yield Response(0xB000)
            finally:
                await self.waits
                self.done.append("clean")

        for end in (self.cancel, self.queue.cancel_all):
            self.begin(1)
            self.add(perform)
            end()
            self.assertEqual(self.performer.told, [])
            self.waits.callback(None)
            self.assertEqual((self.done, self.performer.told), (["clean"], [(1, 0xB000, ""), "all"]))

    def test_another_request(self) -> None:
        """PS3.7 9.3: C-CANCEL is about C-FIND, C-GET and C-MOVE, whatever else has many responses here."""
        operation = operation_of(N_ACTION_RQ(message_id=1, action_type_id=1, **REQUESTED))
        operation.perform = self.waiting
        self.queue.add(operation)
        self.cancel()
        self.assertEqual(self.done, ["waits"])
        self.queue.cancel_all()
        self.assertEqual(self.performer.told[1:], [(1, 0xFE00, ""), "all"])

    def test_shielded(self) -> None:
        """What is shielded is not interrupted: the cancellation takes effect at the next yield."""
        after: Deferred[int] = Deferred()

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                self.done.append(await operation.shielded(operation.shielded(self.waits)))
                self.done.append(await after)
                yield PENDING
            except Cancelled:
                self.done.append("cancelled")
                raise

        self.add(perform)
        self.cancel()
        self.waits.callback("stored")
        after.callback(5)
        self.assertEqual(self.done, ["stored", 5, "cancelled"])
        self.assertEqual(self.performer.told, [(1, 0xFF00), (1, 0xFE00, ""), "all"])

    def test_shield_is_over(self) -> None:
        """What comes after a shield is interrupted, also if the shield ended in a fault."""
        after: Deferred[None] = Deferred()

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                await operation.shielded(self.waits)
            except ZeroDivisionError:
                await after
            yield PENDING

        self.add(perform)
        self.waits.errback(ZeroDivisionError())
        self.cancel()
        self.assertEqual(self.performer.told, [(1, 0xFE00, ""), "all"])

    def test_back_pressure(self) -> None:
        """While the peer takes no more, nothing more is asked of a generator; then it goes on."""

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            for number in range(3):
                self.done.append(number)
                yield PENDING

        self.performer.slow = Deferred()
        self.add(perform)
        for number in range(3):
            self.assertEqual(self.done, list(range(number + 1)))
            self.assertEqual(self.performer.told, [(1, 0xFF00)] * (number + 1))
            slow, self.performer.slow = self.performer.slow, Deferred()
            slow.callback(None)
        self.assertEqual(self.performer.told[3:], [(1, 0, ""), "all"])

    def test_cancelled_while_the_peer_takes_no_more(self) -> None:
        """C-CANCEL reaches an operation that waits for the peer to read."""
        self.performer.slow = Deferred()
        self.add(self.waiting)
        self.cancel()
        self.assertEqual(self.done, ["closed"])
        self.assertEqual(self.performer.told, [(1, 0xFF00), (1, 0xFE00, ""), "all"])

    def test_window(self) -> None:
        """Several run at a time, each at its own pace, and one is cancelled without the other."""
        waits: dict[int, Deferred[None]] = {}

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            for _ in range(2):
                waits[operation.request.message_id] = Deferred()
                await waits[operation.request.message_id]
                yield PENDING

        self.begin(2)
        for message_id in (1, 2, 3):
            self.add(perform, message_id)
        self.assertEqual(list(waits), [1, 2])
        waits[2].callback(None)
        waits[1].callback(None)
        waits[2].callback(None)
        self.cancel()
        self.queue.cancel(3)
        self.assertEqual(
            self.performer.told,
            [(2, 0xFF00), (1, 0xFF00), (2, 0xFF00), (2, 0, ""), (1, 0xFE00, ""), (3, 0xFE00, ""), "all"],
        )

    def test_bug(self) -> None:
        """A bug in a generator, wherever in it, is told as one; its clean-up has been done."""

        async def at_once(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                raise ZeroDivisionError
                yield PENDING
            finally:
                self.done.append("closed")

        async def later(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                yield PENDING
                await self.waits
                raise ZeroDivisionError
            finally:
                self.done.append("closed")

        async def at_the_end(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                yield Response(0)
            finally:
                self.done.append("closed")
                raise ZeroDivisionError

        async def when_cancelled(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                await self.waits
                self.cancel()
                yield PENDING
            finally:
                self.done.append("closed")
                raise ZeroDivisionError

        for perform in (at_once, later, at_the_end, when_cancelled):
            self.begin(1)
            self.add(perform)
            self.waits.callback(None)
            self.assertEqual(self.done, ["closed"], perform)
            (failure,) = self.performer.failures
            self.assertTrue(failure.check(ZeroDivisionError), perform)
            self.assertFalse(self.queue.busy)
            self.assertNotIn((1, 0, ""), self.performer.told)

    def test_response_that_cannot_be_encoded(self) -> None:
        """So is a response that is none: the generator that gave it is closed."""

        def pending(operation: Operation, response: Response) -> None:
            operation.response(response)

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                yield Response(status.PENDING, elements={"nonsense": 1})
            finally:
                self.done.append("closed")

        self.patch(self.performer, "pending", pending)
        self.add(perform)
        self.assertEqual(self.done, ["closed"])
        (failure,) = self.performer.failures
        self.assertTrue(failure.check(TypeError))

    def test_dropped(self) -> None:
        """When nobody is left to answer, shields do not hold; what is cleaned up is, and nobody is told."""

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            try:
                yield PENDING
                await operation.shielded(self.waits)
            except CancelledError:
                self.done.append("cancelled")
                raise DimseError(0xA702) from None
            finally:
                self.done.append("closed")

        self.begin(2)
        self.add(perform)
        self.performer.slow = Deferred()
        self.add(self.waiting, 2)
        self.add(lambda _: self.fail("performed"), 3)
        self.assertEqual(self.queue.drop(), 3)
        self.assertEqual(self.queue.drop(), 0)
        self.assertEqual(self.done, ["cancelled", "closed", "closed"])
        self.assertEqual(self.performer.told, [(1, 0xFF00), (2, 0xFF00), "all"])

    def test_dropped_by_itself(self) -> None:
        """One that ends the association, before it has waited or after, is cancelled as soon as it waits."""
        first: Deferred[None] = succeed(None)
        later: Deferred[None] = Deferred()
        for before in (first, later):

            async def perform(
                operation: Any, before: Deferred[None] = before
            ) -> AsyncGenerator[Response, None]:
                await before
                self.done.append(self.queue.drop())
                yield PENDING
                self.done.append("went on")

            self.begin(1)
            self.add(perform)
            if before is later:
                before.callback(None)
            self.assertEqual(self.done, [1])
            self.assertEqual(self.performer.told, [(1, 0xFF00), "all"])

    def test_dropped_before_it_waits(self) -> None:
        """What it awaits next is cancelled at once."""

        async def perform(operation: Any) -> AsyncGenerator[Response, None]:
            self.queue.drop()
            await self.waits
            yield PENDING

        self.add(perform)
        self.assertEqual(self.performer.told, ["all"])

    def test_cancel_all(self) -> None:
        """A release cancels what runs and what waits of them, each of which is answered FE00H."""
        self.add(self.waiting)
        self.add(lambda _: self.fail("performed"), 2)
        self.queue.cancel_all()
        self.assertEqual(self.performer.told, [(1, 0xFF00), (1, 0xFE00, ""), (2, 0xFE00, ""), "all"])
