"""What an association does with requests: who performs them, in which order, and what is answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import feed, uids
from dicomtw.acceptor import ApplicationEntity
from dicomtw.dimse import status
from dicomtw.dimse.messages import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_FIND_RQ,
    C_FIND_RSP,
    C_STORE_RQ,
    C_STORE_RSP,
    N_ACTION_RQ,
    N_ACTION_RSP,
    N_CREATE_RQ,
    N_CREATE_RSP,
    N_DELETE_RQ,
    N_DELETE_RSP,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
    N_GET_RQ,
    N_GET_RSP,
    N_SET_RQ,
    N_SET_RSP,
    Command,
    MessageType,
)
from dicomtw.errors import DimseError
from dicomtw.feed import Disk
from dicomtw.limits import Limits
from dicomtw.names import Names
from dicomtw.security.access import AccessPolicy
from dicomtw.security.remote import Remote
from dicomtw.services import (
    MAXIMUM_DATA_SET,
    MemorySink,
    Operation,
    Response,
    ServiceClass,
    ServiceRegistry,
)
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.storage import DataSetSink, WouldBlock
from dicomtw.storage.part10 import FileMeta
from dicomtw.testing import (
    MemoryServer,
    MemoryStore,
    MemoryStoreSink,
    Peer,
    associate_rq,
    at_once,
    message,
)
from dicomtw.ul.items import AsynchronousOperationsWindow, ImplementationVersionName
from dicomtw.ul.negotiation import Offer
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RP, A_RELEASE_RQ
from tests.test_feed import Threads

IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
EVR = uids.EXPLICIT_VR_LITTLE_ENDIAN
CT = "1.2.840.10008.5.1.4.1.1.2"
THIRD_PARTY = "1.3.6.1.4.1.99999.1"
CONTEXTS = {1: (uids.VERIFICATION, IVR), 3: (CT, IVR), 5: (THIRD_PARTY, IVR)}

USER_ABORT = A_ABORT(0)


def c_echo_rq(message_id: int = 1, sop_class: str = uids.VERIFICATION) -> Command:
    """A C-ECHO request."""
    return C_ECHO_RQ(affected_sop_class_uid=sop_class, message_id=message_id)


def c_store_rq(message_id: int = 1, uid: str = "1.2.3", **elements: Any) -> Command:
    """A C-STORE request of a CT."""
    return C_STORE_RQ(
        affected_sop_class_uid=CT,
        affected_sop_instance_uid=uid,
        message_id=message_id,
        priority=0,
        **elements,
    )


class Outcome(ServiceClass):
    """A third party's service class: it does to each request what the test has put into it."""

    abstract_syntaxes = (THIRD_PARTY,)

    def __init__(self, outcome: int | BaseException = status.SUCCESS) -> None:
        self.outcome = outcome
        self.sink_outcome: BaseException | None = None
        self.data_sets: list[bytes] = []
        self.seen: list[Operation] = []

    def data_set_sink(self, operation: Operation) -> DataSetSink:
        if self.sink_outcome is not None:
            raise self.sink_outcome
        return super().data_set_sink(operation)

    async def perform(self, operation: Operation) -> int:
        self.seen.append(operation)
        if operation.request.has_data_set:
            await operation.commit()
        if operation.data_set:
            self.data_sets.append(operation.data_set)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    c_echo = c_find = n_event_report = n_get = n_set = n_action = n_create = n_delete = perform


class Held(Storage):
    """A storage service whose operations wait until the test lets them go on."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.held: dict[int, Deferred[None]] = {}
        self.begun: list[int] = []

    async def c_store(self, operation: Operation) -> int:
        message_id = operation.request.message_id or 0
        self.begun.append(message_id)
        self.held[message_id] = Deferred()
        await self.held[message_id]
        return await super().c_store(operation)

    def let(self, *message_ids: int) -> None:
        """Let these operations go on."""
        for message_id in message_ids:
            self.held.pop(message_id).callback(None)


class AssociationTestCase(SynchronousTestCase):
    """A server with a store, a held store or a third party's service."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.outcome = Outcome()
        self.server = MemoryServer.of(Verification(), Storage(self.store), self.outcome)

    def associated(self, *sub_items: Any, **options: Any) -> Peer:
        """A peer with the contexts 1 (Verification), 3 (CT) and 5 (third party)."""
        peer = self.server.connect()
        self.assertIsInstance(peer.associate(CONTEXTS, *sub_items, **options), A_ASSOCIATE_AC)
        return peer

    def hold(self) -> Held:
        """Another server, whose C-STOREs are held."""
        held = Held(self.store)
        self.server = MemoryServer.of(Verification(), held)
        return held

    def assert_alive(self) -> None:
        """A fresh peer's C-ECHO is answered."""
        peer = self.server.connect()
        peer.associate()
        self.assertEqual(peer.request(1, c_echo_rq()).status, 0)
        peer.close()

    def answers(self, peer: Peer) -> list[tuple[int | None, int | None] | str]:
        """What the peer has received: message ID and status of responses, the names of other PDUs."""
        return [
            (one.message_id_being_responded_to, one.status)
            if isinstance(one, Command)
            else type(one).__name__
            for one in peer.received()
        ]


class DispatchTests(AssociationTestCase):
    def test_statuses(self) -> None:
        """A service's status, returned or raised, is the response's, and a comment goes with it."""
        peer = self.associated()
        cases: list[tuple[int | BaseException, int, str | None]] = [
            (0x0000, 0x0000, None),
            (0xB000, 0xB000, None),
            (0x0107, 0x0107, None),
            (0x0110, 0x0110, None),
            (DimseError(0x0111, "stored before"), 0x0111, "stored before"),
            (DimseError(0x0112), 0x0112, None),
            (DimseError(0x0117, "no UID"), 0x0117, "no UID"),
            (DimseError(0x0124, "no"), 0x0124, "no"),
            (DimseError(0xA700, "disk full"), 0xA700, "disk full"),
            (DimseError(0xA900, "other class"), 0xA900, "other class"),
            (DimseError(0xC000, "unreadable"), 0xC000, "unreadable"),
            (DimseError(0xC000, "x" * 64), 0xC000, "x" * 64),
            (DimseError(0xC000, "x" * 65), 0xC000, "x" * 64),
            (DimseError(0xC000, "\N{GREEK SMALL LETTER MU}"), 0xC000, "?"),
        ]
        for outcome, expected, comment in cases:
            self.outcome.outcome = outcome
            response = peer.request(5, c_echo_rq(sop_class=THIRD_PARTY))
            self.assertEqual((response.status, response.error_comment), (expected, comment))

    def test_response_names_what_it_answers(self) -> None:
        """PS3.7 9.3.1.2: the response repeats message ID, SOP class and SOP instance of the request."""
        response = self.associated().request(3, c_store_rq(77, "1.2.3.4"), b"abcd")
        self.assertEqual(response.message_type, C_STORE_RSP)
        self.assertEqual(response.message_id_being_responded_to, 77)
        self.assertEqual(response.affected_sop_class_uid, CT)
        self.assertEqual(response.affected_sop_instance_uid, "1.2.3.4")
        self.assertFalse(response.has_data_set)

    def test_every_operation(self) -> None:
        """PS3.7 10.3: each DIMSE-N request, and C-FIND, gets its own response, with its data set read."""
        affected = {"affected_sop_class_uid": THIRD_PARTY, "affected_sop_instance_uid": "1.2"}
        requested = {"requested_sop_class_uid": THIRD_PARTY, "requested_sop_instance_uid": "1.2"}
        cases: list[tuple[MessageType, dict[str, Any], bytes, MessageType, dict[str, Any]]] = [
            (
                C_FIND_RQ,
                {"affected_sop_class_uid": THIRD_PARTY, "priority": 0},
                b"keys",
                C_FIND_RSP,
                {},
            ),
            (
                N_EVENT_REPORT_RQ,
                {**affected, "event_type_id": 3},
                b"",
                N_EVENT_REPORT_RSP,
                {"event_type_id": 3},
            ),
            (
                N_EVENT_REPORT_RQ,
                {**affected, "event_type_id": 3, "data_set": True},
                b"info",
                N_EVENT_REPORT_RSP,
                {},
            ),
            (N_GET_RQ, {**requested, "attribute_identifier_list": (0x00100010,)}, b"", N_GET_RSP, {}),
            (N_SET_RQ, requested, b"modified", N_SET_RSP, {}),
            (N_ACTION_RQ, {**requested, "action_type_id": 2}, b"", N_ACTION_RSP, {"action_type_id": 2}),
            (N_ACTION_RQ, {**requested, "action_type_id": 2, "data_set": True}, b"info", N_ACTION_RSP, {}),
            (N_CREATE_RQ, {**affected, "data_set": True}, b"list", N_CREATE_RSP, {}),
            (N_DELETE_RQ, requested, b"", N_DELETE_RSP, {}),
        ]
        peer = self.associated()
        for number, (request, elements, data_set, answer, expected) in enumerate(cases, 1):
            self.outcome.data_sets.clear()
            response = peer.request(5, request(message_id=number, **elements), data_set)
            self.assertEqual((response.message_type, response.status), (answer, 0), request.name)
            self.assertEqual(response.message_id_being_responded_to, number, request.name)
            self.assertEqual(response.affected_sop_class_uid, THIRD_PARTY, request.name)
            self.assertEqual(self.outcome.data_sets, [data_set] if data_set else [], request.name)
            for name, value in expected.items():
                self.assertEqual(getattr(response, name), value, request.name)

    def test_operation(self) -> None:
        """A service sees the request, its context and the trimmed AE titles of both sides."""
        peer = self.associated(calling=" SCU ")
        peer.request(5, c_echo_rq(9, THIRD_PARTY))
        (operation,) = self.outcome.seen
        self.assertEqual(operation.request.message_id, 9)
        self.assertEqual(operation.context.abstract_syntax, THIRD_PARTY)
        self.assertEqual(operation.context.transfer_syntax, IVR)
        self.assertEqual((operation.calling_ae_title, operation.called_ae_title), ("SCU", "PMOD"))

    def test_no_data_set(self) -> None:
        """PS3.7 C.5.13: a C-STORE without a data set is answered 0212H, and the association lives."""
        peer = self.associated()
        peer.send(*message(3, c_store_rq(data_set=False)))
        self.assertEqual(self.answers(peer), [(1, 0x0212)])
        self.assertEqual(peer.request(1, c_echo_rq()).status, 0)
        self.assertEqual(self.store.objects, {})

    def test_unexpected_data_set(self) -> None:
        """A data set that an operation has no use for is taken and let go."""
        command = Command(C_ECHO_RQ, {**c_echo_rq().values, 0x0800: 0})
        peer = self.associated()
        self.assertEqual(peer.request(1, command, b"what for").status, 0)
        self.assertEqual(peer.request(1, c_echo_rq(2)).message_id_being_responded_to, 2)

    def test_refused_data_set(self) -> None:
        """A refused request is answered when its data set is over, of which nothing is kept."""
        find = C_FIND_RQ(affected_sop_class_uid=CT, message_id=1, priority=0)
        requested = {"requested_sop_class_uid": THIRD_PARTY, "requested_sop_instance_uid": "1.2"}
        self.outcome.sink_outcome = DimseError(0x0117, "not this one")
        for case, context_id, request, expected in (
            ("by the context", 1, c_store_rq(), 0x0122),
            ("an operation of another class", 3, find, 0x0122),
            ("by the service", 5, N_SET_RQ(message_id=1, **requested), 0x0117),
        ):
            peer = self.associated()
            pdus = message(context_id, request, bytes(100_000))
            for pdu in pdus[:-1]:
                peer.send(pdu)
                self.assertEqual(peer.received(), [], case)
            peer.send(pdus[-1])
            self.assertEqual(self.answers(peer), [(1, expected)], case)
            self.assertEqual(peer.request(1, c_echo_rq()).status, 0, case)
        self.assertEqual((self.store.objects, self.outcome.seen), ({}, []))

    def test_faults_of_the_store(self) -> None:
        """What a store refuses, at a write or at the end, is the response, and nothing is left behind."""
        for case, when in {"write": "write_fault", "commit": "commit_fault"}.items():
            setattr(self.store, when, DimseError(0xA700, "No space left on device"))
            peer = self.associated()
            response = peer.request(3, c_store_rq(), bytes(100_000))
            self.assertEqual(
                (response.status, response.error_comment), (0xA700, "No space left on device"), case
            )
            setattr(self.store, when, None)
            self.assertEqual(self.store.objects, {}, case)
            self.assertEqual(peer.request(3, c_store_rq(2), b"good").status, 0, case)
            self.assertEqual(self.store.objects.pop("1.2.3")[1], b"good", case)
        self.assertEqual(self.store.discarded, 2)

    def test_failure_that_is_returned(self) -> None:
        """A failure that a service returns, committed or not, leaves nothing, as one that it raises."""

        class Refusing(Storage):
            outcome: int | DimseError = 0

            async def c_store(self, operation: Operation) -> int:
                if isinstance(self.outcome, DimseError):
                    raise self.outcome
                return self.outcome

        refusing = Refusing(self.store)
        self.server = MemoryServer.of(Verification(), refusing)
        peer = self.associated()
        for number, outcome in enumerate((0xA700, DimseError(0xA700), 0xB000, 0x0000), 1):
            refusing.outcome = outcome
            expected = outcome if isinstance(outcome, int) else outcome.status
            self.assertEqual(peer.request(3, c_store_rq(), b"data").status, expected)
            self.assertEqual((self.store.objects, self.store.discarded), ({}, number))

    def test_long_identifier(self) -> None:
        """A data set that is kept in memory is refused with A700H beyond its limit, and passed over."""
        peer = self.associated()
        elements = {"requested_sop_class_uid": THIRD_PARTY, "requested_sop_instance_uid": "1.2"}
        for length, expected in ((MAXIMUM_DATA_SET, 0), (MAXIMUM_DATA_SET + 2, 0xA700), (2, 0)):
            response = peer.request(5, N_SET_RQ(message_id=1, **elements), bytes(length))
            self.assertEqual(response.status, expected, length)
        self.assertEqual([len(data_set) for data_set in self.outcome.data_sets], [MAXIMUM_DATA_SET, 2])

    def test_cancel(self) -> None:
        """PS3.7 9.3.2.3: a C-CANCEL of what is over, or never was, is ignored, with or without a data set."""
        peer = self.associated()
        cancel = C_CANCEL_RQ(message_id_being_responded_to=5)
        peer.send(*message(3, cancel), *message(1, cancel))
        peer.send(*message(3, Command(C_CANCEL_RQ, {**cancel.values, 0x0800: 1}), b"data"))
        self.assertEqual(peer.received(), [])
        self.assertEqual(peer.request(1, c_echo_rq()).status, 0)

    def test_one_write_for_a_chunk(self) -> None:
        """All fragments of a chunk reach the sink in one write, those of the next in another."""
        writes: list[list[int]] = []

        class Sink(MemorySink):
            def write(self, fragments: Sequence[memoryview]) -> None:
                writes.append([len(fragment) for fragment in fragments])

        self.patch(self.store, "open", lambda meta: Sink())
        peer = self.associated()
        command, *data = message(3, c_store_rq(), bytes(100), maximum_length=26)
        peer.send(command, *data[:2])
        peer.send(*data[2:])
        self.assertEqual(writes, [[20, 20], [20, 20, 20]])

    def test_failures_are_logged_five_times(self) -> None:
        """Of the failed operations five have a line of their own; the summary counts all."""
        self.outcome.outcome = DimseError(0xA900, "does not match")
        with capturedLogs() as events:
            peer = self.associated()
            for number in range(7):
                peer.request(5, c_echo_rq(number, THIRD_PARTY))
            peer.close()
        lines = [event for event in events if event.get("status") == 0xA900]
        self.assertEqual(len(lines), 5)
        self.assertEqual({event["log_level"] for event in lines}, {LogLevel.warn})
        self.assertEqual(events[-1]["association"]["failures"], {"A900H": 7})


class BugTests(AssociationTestCase):
    """Rule 5 of the house: anything but a DimseError is a bug, logged and aborted."""

    def assert_bug_is_contained(
        self, case: str, peer: Peer, error: type[BaseException] = ZeroDivisionError
    ) -> None:
        self.assertEqual(peer.received(), [USER_ABORT], case)
        self.assertEqual(len(self.flushLoggedErrors(error)), 1, case)
        peer.send(*message(1, c_echo_rq()))
        self.assertEqual(peer.received(), [], case)
        peer.close()
        self.assertEqual(self.flushLoggedErrors(), [], case)
        self.assertEqual(self.server.factory.connections, {}, case)
        self.assertEqual(self.server.clock.getDelayedCalls(), [], case)
        self.assert_alive()

    def test_operation(self) -> None:
        """A service that raises what it should not costs its peer the association, and others nothing."""
        self.outcome.outcome = ZeroDivisionError("bug")
        peer = self.associated()
        peer.send(*message(5, c_echo_rq(sop_class=THIRD_PARTY)))
        self.assert_bug_is_contained("c_echo", peer)

    def test_data_set_sink(self) -> None:
        """So does one that raises it when asked where a data set goes."""
        self.outcome.sink_outcome = ZeroDivisionError("bug")
        elements = {"requested_sop_class_uid": THIRD_PARTY, "requested_sop_instance_uid": "1.2"}
        peer = self.associated()
        peer.send(*message(5, N_SET_RQ(message_id=1, **elements), b"data"))
        self.assert_bug_is_contained("data_set_sink", peer)

    def test_sink(self) -> None:
        """So does a sink, in whichever of its methods."""

        class Buggy(MemorySink):
            def __init__(self, method: str) -> None:
                super().__init__()
                setattr(self, method, lambda *_, **__: 1 / 0)

        for method in ("write", "commit"):
            self.patch(self.store, "open", lambda meta, method=method: Buggy(method))
            peer = self.associated()
            peer.send(*message(3, c_store_rq(), b"data"))
            self.assert_bug_is_contained(method, peer)

    def test_offer(self) -> None:
        """So does a service that fails in negotiation: its proposal is aborted."""

        def offer(abstract_syntax: str) -> Offer:
            raise ZeroDivisionError("bug")

        peer = self.server.connect()
        self.patch(self.outcome, "offer", offer)
        peer.send(associate_rq(CONTEXTS))
        self.assert_bug_is_contained("offer", peer)

    def test_rest_of_the_stream(self) -> None:
        """After a bug nothing more that the peer sent is parsed, of that chunk or of another."""
        self.outcome.sink_outcome = ZeroDivisionError("bug")
        elements = {"requested_sop_class_uid": THIRD_PARTY, "requested_sop_instance_uid": "1.2"}
        bug = message(5, N_SET_RQ(message_id=1, **elements), b"data")
        for case, rest in {
            "request": b"".join(message(3, c_store_rq(), b"data")),
            "A-ASSOCIATE-RQ": associate_rq(CONTEXTS).encode(),
            "invalid PDU": b"\x0a\0\0\0\0\x04",
            "A-ABORT": A_ABORT(0).encode(),
            "release": A_RELEASE_RQ().encode(),
        }.items():
            for chunks in ([b"".join((*bug, rest))], [*bug, rest], [bug[0] + bug[1][:9], bug[1][9:] + rest]):
                peer = self.associated()
                for chunk in chunks:
                    peer.send(chunk)
                self.assertTrue(peer.connected, case)
                self.assert_bug_is_contained(case, peer)
        self.assertEqual(self.store.objects, {})

    def test_late(self) -> None:
        """So does an operation that fails when its peer is gone: it is logged, and that is all."""
        held = self.hold()
        peer = self.server.connect()
        peer.associate(CONTEXTS)
        peer.send(*message(3, c_store_rq(), b"data"))
        peer.close()
        held.held[1].errback(ZeroDivisionError("bug"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.store.discarded, 1)
        self.assert_alive()

    def test_confirmations(self) -> None:
        """An acceptor gets no confirmations: to be told one is a bug of the machine's."""
        association = self.associated().protocol.association
        for confirmation in (
            association.associate_confirmation_accept,
            association.associate_confirmation_reject,
            association.release_confirmation,
        ):
            self.assertRaises(AssertionError, confirmation, None)


class WindowTests(AssociationTestCase):
    """PS3.7 D.3.3.3: how many operations run at a time, and what happens to those that wait."""

    def stores(self, peer: Peer, *message_ids: int) -> None:
        """Pipeline C-STOREs in one chunk."""
        pdus = [
            pdu for number in message_ids for pdu in message(3, c_store_rq(number, f"1.{number}"), b"data")
        ]
        peer.send(*pdus)

    def test_one_by_one(self) -> None:
        """Without a window one operation runs at a time, in the order of their coming."""
        held = self.hold()
        peer = self.associated()
        self.stores(peer, 1, 2, 3)
        for number in (1, 2, 3):
            self.assertEqual(held.begun, list(range(1, number + 1)))
            held.let(number)
            self.assertEqual(self.answers(peer), [(number, 0)])
        self.assertEqual(list(self.store.objects), ["1.1", "1.2", "1.3"])

    def test_window(self) -> None:
        """With a window as many run as it has, and each is answered when it is done."""
        held = self.hold()
        peer = self.associated(AsynchronousOperationsWindow(2, 1))
        self.stores(peer, 1, 2, 3, 4)
        self.assertEqual(held.begun, [1, 2])
        held.let(2)
        self.assertEqual(held.begun, [1, 2, 3])
        held.let(3)
        held.let(4)
        held.let(1)
        self.assertEqual(self.answers(peer), [(2, 0), (3, 0), (4, 0), (1, 0)])

    def test_any_number(self) -> None:
        """A window of 0 is any number; four are run."""
        held = self.hold()
        peer = self.associated(AsynchronousOperationsWindow(0, 0))
        self.stores(peer, *range(1, 7))
        self.assertEqual(held.begun, [1, 2, 3, 4])
        held.let(4)
        self.assertEqual(held.begun, [1, 2, 3, 4, 5])

    def test_failure_in_the_middle(self) -> None:
        """An operation that is refused makes room for the next as any other."""
        held = self.hold()
        peer = self.associated()
        self.stores(peer, 1, 2)
        held.held.pop(1).errback(DimseError(0xA700, "full"))
        held.let(2)
        self.assertEqual(self.answers(peer), [(1, 0xA700), (2, 0)])

    def test_waiting_requests_pause_the_peer(self) -> None:
        """With four requests waiting the peer is read no further, until one of them begins."""
        held = self.hold()
        peer = self.associated()
        self.stores(peer, 1, 2, 3, 4)
        self.assertEqual(peer.transport.producerState, "producing")
        self.stores(peer, 5)
        self.assertEqual(peer.transport.producerState, "paused")
        held.let(1)
        self.assertEqual(peer.transport.producerState, "producing")
        for number in range(2, 6):
            held.let(number)
        self.assertEqual(self.answers(peer), [(number, 0) for number in range(1, 6)])

    def test_many_in_one_chunk(self) -> None:
        """A peer that pipelines 5000 requests behind a slow one gets 5001 answers, in order."""
        for sub_items in ((), (AsynchronousOperationsWindow(1, 1),)):
            held = self.hold()
            peer = self.associated(*sub_items)
            self.stores(peer, 1)
            peer.send(*(pdu for number in range(2, 5002) for pdu in message(1, c_echo_rq(number))))
            self.assertEqual(peer.received(), [])
            held.let(1)
            self.assertEqual(self.answers(peer), [(number, 0) for number in range(1, 5002)])
            self.assertEqual(peer.transport.producerState, "producing")

    def test_many_at_once(self) -> None:
        """5000 requests that each are answered at once, and a release, are answered in one go."""
        peer = self.associated()
        requests = [pdu for number in range(5000) for pdu in message(1, c_echo_rq(number))]
        peer.send(*requests, A_RELEASE_RQ())
        self.assertEqual(self.answers(peer), [*((number, 0) for number in range(5000)), "A_RELEASE_RP"])

    def test_many_behind_four(self) -> None:
        """Requests behind a full window are answered as soon as one of it is done, and in order."""
        held = self.hold()
        peer = self.associated(AsynchronousOperationsWindow(0, 1))
        self.stores(peer, 1, 2, 3, 4)
        peer.send(*(pdu for number in range(5, 1005) for pdu in message(1, c_echo_rq(number))))
        self.assertEqual(peer.received(), [])
        held.let(3)
        self.assertEqual(self.answers(peer), [(3, 0), *((number, 0) for number in range(5, 1005))])


class Generating(ServiceClass):
    """A third party's service whose C-FIND does what the test has put into it."""

    abstract_syntaxes = (THIRD_PARTY,)

    def __init__(self, generate: Callable[[Operation], AsyncGenerator[Response, None]]) -> None:
        self.generate = generate

    async def c_find(self, operation: Operation) -> AsyncGenerator[Response, None]:
        async with aclosing(self.generate(operation)) as responses:
            async for response in responses:
                yield response


class ManyResponsesTests(AssociationTestCase):
    """PS3.7 9.1.2, 9.3.2.3: a query, its responses, and how it is cancelled."""

    def setUp(self) -> None:
        super().setUp()
        self.waits: Deferred[None] = Deferred()
        self.done: list[str] = []

    def serve(self, generate: Callable[[Operation], AsyncGenerator[Response, None]] | None = None) -> Peer:
        """A peer of a server whose C-FIND does that, or has one match and waits."""
        self.waits = Deferred()
        self.done.clear()
        self.server = MemoryServer.of(Verification(), Storage(self.store), Generating(generate or self.wait))
        self.addCleanup(self.server.factory.abort, "the test is over")
        return self.associated()

    async def wait(self, operation: Operation) -> AsyncGenerator[Response, None]:
        try:
            yield Response(status.PENDING, b"first ")
            await self.waits
            yield Response(status.PENDING, b"second")
        finally:
            self.done.append("closed")

    def find(self, message_id: int = 1) -> list[bytes]:
        """A C-FIND request."""
        command = C_FIND_RQ(affected_sop_class_uid=THIRD_PARTY, message_id=message_id, priority=0)
        return message(5, command, b"keys")

    def cancel(self, message_id: int = 1, context_id: int = 5) -> list[bytes]:
        """A C-CANCEL request."""
        return message(context_id, C_CANCEL_RQ(message_id_being_responded_to=message_id))

    def test_responses(self) -> None:
        """Each match is a pending response with its data set as soon as it is there; then comes the last."""
        peer = self.serve()
        peer.send(*self.find(7))
        first = C_FIND_RSP(
            affected_sop_class_uid=THIRD_PARTY, message_id_being_responded_to=7, status=0xFF00, data_set=True
        )
        self.assertEqual((peer.received(), peer.data_set), ([first], b"first "))
        self.waits.callback(None)
        last = C_FIND_RSP(affected_sop_class_uid=THIRD_PARTY, message_id_being_responded_to=7, status=0)
        self.assertEqual((peer.received(), peer.data_set), ([first, last], b"first second"))

    def test_cancel(self) -> None:
        """C-CANCEL ends it with FE00H, in whatever chunk or presentation context it comes."""
        for chunks in (
            [self.find(), self.cancel()],
            [[*self.find(), *self.cancel()]],
            [self.find(), self.cancel(context_id=1)],
            [[b"".join((*self.find(), *self.cancel()))[:-7]], [self.cancel()[0][-7:]]],
        ):
            peer = self.serve()
            for chunk in chunks:
                peer.send(*chunk)
            self.assertEqual(self.answers(peer), [(1, 0xFF00), (1, 0xFE00)])
            self.assertEqual(self.done, ["closed"])
            self.assertEqual(peer.request(1, c_echo_rq(2)).status, 0)

    def test_others_are_not_cancelled(self) -> None:
        """C-CANCEL of another message, or of one that is over, changes nothing."""
        peer = self.serve()
        peer.send(*self.find(), *self.cancel(2), *self.cancel(0))
        self.assertEqual(self.answers(peer), [(1, 0xFF00)])
        self.waits.callback(None)
        peer.send(*self.cancel())
        self.assertEqual(self.answers(peer), [(1, 0xFF00), (1, 0)])

    def test_waiting(self) -> None:
        """One that is cancelled while it waits for its turn is answered in its turn."""
        peer = self.serve()
        peer.send(*self.find(1), *self.find(2), *message(1, c_echo_rq(3)), *self.cancel(2))
        self.assertEqual(self.answers(peer), [(1, 0xFF00)])
        self.waits.callback(None)
        self.assertEqual(self.answers(peer), [(1, 0xFF00), (1, 0), (2, 0xFE00), (3, 0)])

    def test_release(self) -> None:
        """A release cancels it: FE00H, then A-RELEASE-RP."""
        peer = self.serve()
        peer.send(*self.find(1), *self.find(2), A_RELEASE_RQ())
        self.assertEqual(self.answers(peer), [(1, 0xFF00), (1, 0xFE00), (2, 0xFE00), "A_RELEASE_RP"])
        self.assertEqual(self.done, ["closed"])

    def test_release_and_shield(self) -> None:
        """What is shielded comes to its end before the release is answered."""

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            await operation.shielded(self.waits)
            yield Response(status.PENDING, b"match")

        peer = self.serve(generate)
        peer.send(*self.find(), A_RELEASE_RQ())
        self.assertEqual(peer.received(), [])
        self.waits.callback(None)
        self.assertEqual(self.answers(peer), [(1, 0xFF00), (1, 0xFE00), "A_RELEASE_RP"])

    def test_end_of_the_association(self) -> None:
        """When nobody is left to answer it is over at once, and told in the summary as unfinished."""
        for end in (
            Peer.close,
            lambda peer: peer.send(A_ABORT(0)),
            lambda peer: peer.send(b"\x0a\0\0\0\0\4"),
        ):
            peer = self.serve()
            peer.send(*self.find(1), *self.find(2))
            peer.received()
            with capturedLogs() as events:
                end(peer)
                self.assertEqual(self.done, ["closed"])
                peer.received()
                peer.close()
            (line,) = [event["association"] for event in events if "association" in event]
            self.assertEqual((line["unfinished"], line["operations"]), (2, {}))
            self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_half_close(self) -> None:
        """A peer that only stops sending gets all responses."""
        peer = self.serve()
        peer.send(*self.find())
        peer.protocol.readConnectionLost()
        self.waits.callback(None)
        self.assertEqual(self.answers(peer), [(1, 0xFF00), (1, 0xFF00), (1, 0)])
        self.assertFalse(peer.connected)

    def test_bug(self) -> None:
        """A bug in a generator is logged and aborts the association; what it has to close is closed."""

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            try:
                yield Response(status.PENDING, b"match")
                await self.waits
                raise ZeroDivisionError
            finally:
                self.done.append("closed")

        peer = self.serve(generate)
        peer.send(*self.find())
        peer.received()
        self.waits.callback(None)
        self.assertEqual(peer.received(), [USER_ABORT])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.done, ["closed"])
        self.assert_alive()

    def test_back_pressure(self) -> None:
        """A peer that does not read stops the generator, and a C-CANCEL of its is seen all the same."""
        asked: list[int] = []

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            while True:
                asked.append(len(asked))
                yield Response(status.PENDING, bytes(1000))

        peer = self.serve(generate)
        written: list[int] = []
        write = peer.transport.write

        def pile_up(data: bytes) -> None:
            write(data)
            written.append(len(data))
            if sum(written) > 1 << 16:
                peer.protocol.pauseProducing()

        peer.transport.write = pile_up
        peer.send(*self.find())
        stopped = len(asked)
        self.assertLess(sum(written), 1 << 17)
        written.clear()
        peer.received()
        peer.protocol.resumeProducing()
        self.assertGreater(len(asked), stopped, "it has read, and gets more")
        peer.send(*self.cancel())
        self.assertEqual(self.answers(peer)[-1], (1, 0xFE00))
        self.assertLess(sum(written), 1 << 17)

    def test_window(self) -> None:
        """With a window several queries run, their responses as they come, and one is cancelled."""
        waits = {1: Deferred[None](), 2: Deferred[None]()}

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            await waits[operation.request.message_id or 0]
            yield Response(status.PENDING, b"match")

        self.serve(generate)
        peer = self.associated(AsynchronousOperationsWindow(2, 1))
        peer.send(*self.find(1), *self.find(2))
        waits[2].callback(None)
        peer.send(*self.cancel(1))
        self.assertEqual(self.answers(peer), [(2, 0xFF00), (2, 0), (1, 0xFE00)])

    def test_refused(self) -> None:
        """Who is no configured remote may not query: 0124H, and the association goes on."""
        self.serve()
        entity = self.server.factory.entity
        access = AccessPolicy(ae_title="PMOD", remotes=(Remote(aet="KNOWN"),), accept_any_ae=True)
        self.server.factory.entity = attrs.evolve(entity, access=access)
        for calling, expected in (("KNOWN", [(1, 0xFF00)]), ("STRANGER", [(1, 0x0124)])):
            peer = self.associated(calling=calling)
            peer.send(*self.find())
            self.assertEqual(self.answers(peer), expected, calling)
            self.assertEqual(peer.request(1, c_echo_rq()).status if calling == "STRANGER" else 0, 0)

    def test_warning(self) -> None:
        """What a service has to say of an operation is a line that names who asked."""

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            operation.warn("two objects are no longer stored")
            yield Response(status.SUCCESS)

        peer = self.serve(generate)
        with capturedLogs() as events:
            peer.send(*self.find())
        (event,) = [event for event in events if event.get("what")]
        self.assertEqual(formatEvent(event), "for 'SCU': two objects are no longer stored")
        self.assertEqual(event["log_level"], LogLevel.warn)


class LaggingDiskTests(AssociationTestCase):
    """Promise 3: when the disk lags, reading from that peer pauses."""

    def setUp(self) -> None:
        super().setUp()
        now = [100.0]
        self.patch(feed, "time", SimpleNamespace(monotonic=lambda: now[0]))
        self.threads = Threads()
        disk = Disk(self.threads)
        disk.call(lambda: now.__setitem__(0, 101.0))
        self.assertTrue(disk.lags)
        self.server.factory.entity = attrs.evolve(self.server.factory.entity, disk=disk)

    def test_pause(self) -> None:
        """The peer is paused while a thread writes, and another peer is not."""
        peer, other = self.associated(), self.associated()
        first, *rest = message(3, c_store_rq(), bytes(50_000))
        peer.send(first, rest[0])
        self.assertEqual(peer.transport.producerState, "paused")
        self.assertEqual(other.transport.producerState, "producing")
        self.assertEqual(other.request(1, c_echo_rq()).status, 0)
        self.threads.run()
        self.assertEqual(peer.transport.producerState, "producing")
        peer.send(*rest[1:])
        self.assertEqual(peer.transport.producerState, "paused")
        while self.threads.waiting:
            self.assertEqual(peer.received(), [])
            self.threads.run()
        self.assertEqual(self.answers(peer), [(1, 0)])
        self.assertEqual(self.store.objects["1.2.3"][1], bytes(50_000))

    def test_lost_while_a_thread_writes(self) -> None:
        """A peer that is lost meanwhile leaves nothing, when the thread is done."""
        for end in (Peer.close, lambda peer: peer.send(A_ABORT(0)), lambda peer: peer.send(A_RELEASE_RQ())):
            peer = self.associated()
            peer.send(*message(3, c_store_rq(), bytes(50_000))[:2])
            discarded = self.store.discarded
            end(peer)
            self.assertEqual(self.store.discarded, discarded)
            self.threads.run()
            self.assertEqual(self.store.discarded, discarded, "that is done in a thread, too")
            self.threads.run()
            self.assertEqual((self.store.objects, self.store.discarded), ({}, discarded + 1))
            self.assertEqual(self.threads.waiting, [])

    def test_lost_while_a_thread_commits(self) -> None:
        """An object that is complete is stored, though its sender is gone when that is done."""
        peer = self.associated()
        peer.send(*message(3, c_store_rq(), b"data"))
        peer.close()
        while self.threads.waiting:
            self.threads.run()
        self.assertEqual(self.store.objects["1.2.3"][1], b"data")

    def test_two_feeds(self) -> None:
        """With two data sets waiting for the disk reading is resumed when both are done, not before."""
        for first in (0, 1):
            peer = self.associated(AsynchronousOperationsWindow(2, 1))
            pdus = [pdu for number in (1, 2) for pdu in message(3, c_store_rq(number), bytes(1000))]
            peer.send(*pdus)
            self.assertEqual(len(self.threads.waiting), 2)
            self.threads.run(first)
            self.assertEqual(peer.transport.producerState, "paused", first)
            self.threads.run()
            self.assertEqual(peer.transport.producerState, "producing", first)
            while self.threads.waiting:
                self.threads.run()
            self.assertEqual(self.answers(peer), [(first + 1, 0), (2 - first, 0)])

    def test_data_set_is_complete(self) -> None:
        """A service that reads its data set has all of it, however slow the disk is."""

        class Reader(Outcome):
            async def n_set(self, operation: Operation) -> int:
                self.data_sets.append(operation.data_set)
                return status.SUCCESS

        reader = Reader()
        entity = attrs.evolve(self.server.factory.entity, registry=ServiceRegistry([reader]))
        self.server.factory.entity = entity
        peer = self.associated()
        elements = {"requested_sop_class_uid": THIRD_PARTY, "requested_sop_instance_uid": "1.2"}
        peer.send(*message(5, N_SET_RQ(message_id=1, **elements), b"modified"))
        while self.threads.waiting:
            self.threads.run()
        self.assertEqual(self.answers(peer), [(1, 0)])
        self.assertEqual(reader.data_sets, [b"modified"])


class SlowDisk:
    """A disk on which every call takes `seconds` of a server's virtual time, here as well as in a thread."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        #: How long calls have kept the reactor, and how many there were in all.
        self.kept_reactor = 0.0
        self.calls = 0
        self._in_thread = False
        self._seconds_in_thread = 0.0

    def monotonic(self) -> float:
        """The time as it is seen here, or in the thread."""
        return self.clock.seconds() + self._seconds_in_thread

    def touch(self) -> None:
        """What a call into a sink does."""
        self.calls += 1
        if self._in_thread:
            self._seconds_in_thread += self.seconds
        else:
            self.kept_reactor += self.seconds
            self.clock.rightNow += self.seconds

    def in_thread(self, function: Callable[[], None]) -> Deferred[None]:
        """`feed.InThread`, in as many threads as it takes."""

        def call() -> None:
            self._in_thread = True
            function()
            self._in_thread = False
            self._seconds_in_thread = 0.0

        return deferLater(self.clock, self.seconds, call)


class SlowSink(MemoryStoreSink):
    """A sink on a slow disk; like that of the strict store it does not commit where it may not block."""

    def __init__(self, store: MemoryStore, meta: FileMeta, disk: SlowDisk) -> None:
        super().__init__(store, meta)
        self.disk = disk

    def write(self, fragments: Sequence[memoryview]) -> None:
        self.disk.touch()
        super().write(fragments)

    def commit(self, may_block: bool = True) -> None:
        if not may_block:
            raise WouldBlock
        self.disk.touch()
        super().commit()

    def discard(self) -> None:
        if self._open:
            self.disk.touch()
        super().discard()


class SlowDiskTests(AssociationTestCase):
    """Promise 5: a disk that is slow all the time does not keep the reactor."""

    def share(self, seconds: float, every: float, abort: bool = False) -> tuple[float, int]:
        """The share of time that the reactor is kept by a disk whose calls take so many seconds, and how
        many calls it had, if one of five peers sends a PDU so often: of objects, or of what it aborts.
        """
        clock = self.server.clock
        slow = SlowDisk(clock, seconds)
        self.patch(feed, "time", SimpleNamespace(monotonic=slow.monotonic))
        self.patch(self.store, "open", lambda meta: SlowSink(self.store, meta, slow))
        entity = self.server.factory.entity
        self.server.factory.entity = attrs.evolve(entity, disk=Disk(slow.in_thread))
        self.server.factory.limits = Limits(dimse_timeout=1e6, idle_timeout=1e6)
        object_ = message(3, c_store_rq(), bytes(100_000))
        peers = [(self.associated(), list[bytes]()) for _ in range(5)]
        began = clock.seconds()
        while clock.seconds() - began < max(500 * every, 50 * seconds):
            for number, (peer, pdus) in enumerate(peers):
                clock.advance(every)
                if peer.transport.producerState == "paused":
                    continue
                if abort and len(pdus) == len(object_) - 2:
                    peer.send(A_ABORT(0))
                    peer.close()
                    peers[number] = self.associated(), []
                    continue
                if not pdus:
                    pdus += object_
                peer.send(pdus.pop(0))
        return slow.kept_reactor / (clock.seconds() - began), slow.calls

    def test_share_of_the_reactor(self) -> None:
        """However slow and busy the disk is, its calls keep the reactor for a twentieth of the time."""
        for seconds in (0.021, 0.05, 0.3, 2.0):
            # Always, now and then, while the lag is remembered, and whenever it has just been forgotten.
            for every in (0.01, 0.5, 10.2 * seconds, max(1.01, 20.2 * seconds)):
                for abort in (False, True):
                    self.setUp()
                    share, calls = self.share(seconds, every, abort)
                    case = f"{seconds} s a call, every {every} s, abort: {abort}"
                    self.assertGreater(calls, 20, case)
                    self.assertLess(share, 0.051, case)
                    if not abort:
                        self.assertTrue(self.store.objects, case)


class EndTests(AssociationTestCase):
    """Release, abort and loss, at any moment."""

    def setUp(self) -> None:
        super().setUp()
        self.held = self.hold()
        self.peer = self.associated()

    def test_release_waits_for_operations(self) -> None:
        """PS3.8 7.2, AR-7: what runs and what waits is answered first, then A-RELEASE-RP."""
        for number in (1, 2):
            self.peer.send(*message(3, c_store_rq(number, f"1.{number}"), b"data"))
        self.peer.send(A_RELEASE_RQ())
        self.assertEqual(self.peer.received(), [])
        self.held.let(1)
        self.assertEqual(self.answers(self.peer), [(1, 0)])
        self.held.let(2)
        self.assertEqual(self.answers(self.peer), [(2, 0), "A_RELEASE_RP"])
        self.assertEqual(list(self.store.objects), ["1.1", "1.2"])

    def test_nothing_after_release(self) -> None:
        """Evt10, Evt12 in Sta8: a request or another release while operations are finished is AB(2,2)."""
        for case, late in {"request": message(1, c_echo_rq(2))[0], "release": A_RELEASE_RQ()}.items():
            peer = self.associated()
            peer.send(*message(3, c_store_rq(), b"data"), A_RELEASE_RQ())
            peer.send(late)
            self.assertEqual(peer.received(), [A_ABORT(2, 2)], case)
            self.held.let(1)
            self.assertEqual(peer.received(), [], case)

    def test_ended_while_operations_run(self) -> None:
        """What runs when the peer leaves is finished and not answered; what waits is dropped."""
        endings: dict[str, Callable[[Peer], None]] = {
            "A-ABORT": lambda peer: peer.send(A_ABORT(0)),
            "A-ABORT of the provider": lambda peer: peer.send(A_ABORT(2, 0)),
            "closed": Peer.close,
            "invalid PDU": lambda peer: peer.send(b"\x0a\0\0\0\0\x04"),
        }
        for case, end in endings.items():
            self.store = MemoryStore()
            held = self.hold()
            peer = self.associated()
            for number in (1, 2):
                peer.send(*message(3, c_store_rq(number, f"1.{number}"), b"data"))
            end(peer)
            peer.received()
            held.let(1)
            self.assertEqual(peer.received(), [], case)
            self.assertEqual(list(self.store.objects), ["1.1"], case)
            self.assertEqual(held.begun, [1], case)
            self.assertEqual(self.store.discarded, 1, case)
            peer.close()
            self.assert_alive()

    def test_release_inside_a_data_set(self) -> None:
        """A release drops what is half sent, and is answered."""
        self.peer.send(*message(3, c_store_rq(), bytes(50_000))[:3], A_RELEASE_RQ())
        self.assertEqual(self.peer.received(), [A_RELEASE_RP()])
        self.assertEqual((self.store.objects, self.store.discarded), ({}, 1))

    def test_half_close(self) -> None:
        """A peer that only stops sending gets its answers before the connection is closed."""
        self.peer.send(*message(3, c_store_rq(), b"data"))
        self.peer.protocol.readConnectionLost()
        self.assertTrue(self.peer.connected)
        self.held.let(1)
        self.assertEqual(self.answers(self.peer), [(1, 0)])
        self.assertFalse(self.peer.connected)
        self.assertEqual(list(self.store.objects), ["1.2.3"])

    def test_half_close_of_the_idle(self) -> None:
        """A peer that stops sending and waits for nothing is closed, a data set of its dropped."""
        self.peer.send(*message(3, c_store_rq(), bytes(50_000))[:3])
        self.peer.protocol.readConnectionLost()
        self.assertFalse(self.peer.connected)
        self.assertEqual((self.store.objects, self.store.discarded), ({}, 1))
        silent = self.server.connect()
        silent.protocol.readConnectionLost()
        self.assertFalse(silent.connected)

    def test_peer_that_reads_no_more(self) -> None:
        """A peer that cannot be written to any more is closed."""
        self.peer.protocol.writeConnectionLost()
        self.assertFalse(self.peer.connected)

    def test_abort_by_us(self) -> None:
        """We abort as the service-user in every state that has an association, and only once."""
        association = self.peer.protocol.association
        association.abort("because")
        association.abort("again")
        self.assertEqual(self.peer.received(), [USER_ABORT])
        self.assertEqual(association.ended, "aborted by us: because")
        silent = self.server.connect()
        silent.protocol.association.abort("because")
        self.assertEqual(silent.received(), [])


class RemoteTests(AssociationTestCase):
    """What the entity's rules make of who calls, and from where."""

    def serve(self, *remotes: Remote, accept_any_ae: bool = False, **addresses: str) -> None:
        entity = ApplicationEntity(
            access=AccessPolicy(ae_title="PMOD", remotes=remotes, accept_any_ae=accept_any_ae),
            registry=ServiceRegistry([Verification(), Storage(self.store)]),
            disk=Disk(at_once),
        )
        names = {name.replace("_", "."): address for name, address in addresses.items()}
        self.server = MemoryServer(entity, addresses=names)

    def answer(self, calling: str, host: str = "192.0.2.1") -> Any:
        """What a proposal in this name from this host is answered."""
        proposal = {1: (CT, EVR, IVR), 3: (CT, EVR)}
        return self.server.connect(host).associate(proposal, calling=calling)

    def test_options_of_a_remote(self) -> None:
        """Version name and default transfer syntax can be set for one remote, and are for it alone."""
        self.serve(
            Remote(aet="PLAIN"),
            Remote(aet="ANONYM", no_implementation_version_name=True),
            Remote(aet="DEFAULT", enforce_default_transfer_syntax=True),
            accept_any_ae=True,
        )
        for calling, named, results in (
            ("PLAIN", True, [(0, EVR), (0, EVR)]),
            ("ANONYM", False, [(0, EVR), (0, EVR)]),
            ("DEFAULT", True, [(0, IVR), (4, EVR)]),
            ("ANYBODY", True, [(0, EVR), (0, EVR)]),
        ):
            ac = self.answer(calling)
            name = ac.user_information.first(ImplementationVersionName)
            self.assertEqual(name is not None, named, calling)
            answered = [(one.result, one.transfer_syntax) for one in ac.presentation_contexts]
            self.assertEqual(answered, results, calling)

    def test_host(self) -> None:
        """A remote with a host check is taken from its address, written or resolved, and no other."""
        self.serve(
            Remote(aet="NUMBER", host="192.0.2.7", check_host=True),
            Remote(aet="NAME", host="ct.example", check_host=True),
            Remote(aet="NOWHERE", host="gone.example", check_host=True),
            ct_example="192.0.2.8",
        )
        for calling, host, accepted in (
            ("NUMBER", "192.0.2.7", True),
            ("NUMBER", "::ffff:192.0.2.7", True),
            ("NUMBER", "192.0.2.8", False),
            ("NAME", "192.0.2.8", True),
            ("NAME", "192.0.2.7", False),
            ("NOWHERE", "192.0.2.7", False),
        ):
            expected = A_ASSOCIATE_AC if accepted else A_ASSOCIATE_RJ
            answer = self.answer(calling, host)
            self.assertIsInstance(answer, expected, (calling, host))
            if not accepted:
                self.assertEqual(answer, A_ASSOCIATE_RJ(1, 1, 3))

    def lookup(self) -> Deferred[dict[str, frozenset[str]]]:
        """A server whose one remote has a name, and the look-up of that name, which takes its time."""
        self.serve(Remote(aet="NAME", host="ct.example", check_host=True))
        looked_up: Deferred[dict[str, frozenset[str]]] = Deferred()
        self.server.factory.resolve = lambda names: looked_up
        return looked_up

    def waiting(self) -> Peer:
        """A peer whose proposal waits for the look-up."""
        peer = self.server.connect()
        peer.send(associate_rq({1: (CT, IVR)}, calling="NAME"))
        self.assertEqual(peer.received(), [])
        return peer

    def test_late_look_up(self) -> None:
        """The answer waits until the name is looked up, and others do not wait."""
        looked_up = self.lookup()
        peer = self.waiting()
        self.assertEqual(self.answer("OTHER"), A_ASSOCIATE_RJ(1, 1, 3))
        looked_up.callback({"ct.example": frozenset({"192.0.2.1"})})
        (ac,) = peer.received()
        self.assertIsInstance(ac, A_ASSOCIATE_AC)

    def test_look_up_that_comes_too_late(self) -> None:
        """A peer that has left, or was aborted, while its name was looked up is answered no more."""
        endings: dict[str, tuple[Callable[[Peer], None], list[Any]]] = {
            "left": (Peer.close, []),
            "aborted": (lambda peer: peer.send(A_ABORT(0)), []),
            "impatient": (lambda peer: peer.send(*message(1, c_echo_rq())), [A_ABORT(2, 2)]),
            "aborted by us": (lambda peer: peer.protocol.association.abort("stop"), [USER_ABORT]),
        }
        for case, (end, seen) in endings.items():
            looked_up = self.lookup()
            peer = self.waiting()
            end(peer)
            self.assertEqual(peer.received(), seen, case)
            looked_up.callback({"ct.example": frozenset({"192.0.2.1"})})
            self.assertEqual(peer.received(), [], case)
            self.assertEqual(self.server.factory.associations, set(), case)

    def test_look_up_that_fails(self) -> None:
        """A resolver that fails, which it should not, is a bug: logged, and the peer may come again."""
        looked_up = self.lookup()
        peer = self.waiting()
        looked_up.errback(ZeroDivisionError("bug"))
        self.assertEqual(peer.received(), [A_ASSOCIATE_RJ(2, 3, 1)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_full_after_the_look_up(self) -> None:
        """There must be room when the name is known, not when it is asked for."""
        looked_up = self.lookup()
        peer = self.waiting()
        self.server.factory.limits = Limits(max_associations=0)
        looked_up.callback({"ct.example": frozenset({"192.0.2.1"})})
        self.assertEqual(peer.received(), [A_ASSOCIATE_RJ(2, 3, 2)])

    def test_full_before_the_look_up(self) -> None:
        """A server that is full, or drains, looks no names up to say so."""
        for case, limits, drains, expected in (
            ("full", Limits(max_associations=0), False, A_ASSOCIATE_RJ(2, 3, 2)),
            ("drains", Limits(), True, A_ASSOCIATE_RJ(2, 3, 1)),
        ):
            self.lookup()
            factory = self.server.factory
            factory.resolve = lambda names: self.fail("looked up")
            factory.limits = limits
            if drains:
                factory.drain()
            self.assertEqual(self.answer("NAME"), expected, case)

    def test_look_up_that_never_ends(self) -> None:
        """A look-up that takes longer than ARTIM is RJ(2,3,1); that it comes later helps nobody."""
        looked_up = self.lookup()
        looked_up = Deferred(lambda _: None)  # what is cancelled may come in spite of that
        self.server.factory.resolve = lambda names: looked_up
        peer = self.waiting()
        with capturedLogs() as events:
            self.server.clock.advance(29.5)
            self.assertEqual(peer.received(), [])
            self.server.clock.advance(0.5)
            self.assertEqual(peer.received(), [A_ASSOCIATE_RJ(2, 3, 1)])
            peer.close()
        (ended,) = [event["association"]["ended"] for event in events if "association" in event]
        self.assertIn("names of remotes cannot be resolved now", ended)
        self.assertEqual(self.server.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_look_up_for_two(self) -> None:
        """Two peers share one look-up; what the first waits too long for, the second still gets."""
        self.lookup()
        asked: list[str] = []
        found: Deferred[frozenset[str]] = Deferred()

        def begin(name: str) -> Deferred[frozenset[str]]:
            asked.append(name)
            return found

        self.server.factory.resolve = Names(self.server.clock, begin).resolve
        first = self.waiting()
        self.server.clock.advance(20)
        second = self.waiting()
        self.server.clock.advance(10)
        self.assertEqual(first.received(), [A_ASSOCIATE_RJ(2, 3, 1)])
        self.assertEqual(second.received(), [])
        found.callback(frozenset({"192.0.2.1"}))
        (ac,) = second.received()
        self.assertIsInstance(ac, A_ASSOCIATE_AC)
        self.assertEqual(first.received(), [])
        self.assertIsInstance(self.answer("NAME"), A_ASSOCIATE_AC)
        self.assertEqual(asked, ["ct.example"])

    def test_faults_before_the_look_up(self) -> None:
        """A proposal that cannot be accepted is aborted without a look-up."""
        self.serve(Remote(aet="NAME", host="ct.example", check_host=True))
        self.server.factory.resolve = lambda names: self.fail("looked up")
        peer = self.server.connect()
        peer.send(associate_rq({2: (CT, IVR)}, calling="NAME"))
        self.assertEqual(peer.received(), [A_ABORT(2, 6)])

    def test_rejected_faults(self) -> None:
        """Whoever is turned away anyway is rejected, whatever else is wrong with the proposal."""
        self.serve()
        peer = self.server.connect()
        peer.send(associate_rq({2: (CT, IVR)}, maximum_length=1))
        self.assertEqual(peer.received(), [A_ASSOCIATE_RJ(1, 1, 3)])


class FactoryTests(AssociationTestCase):
    """How a server comes to its end."""

    def test_too_many_silent_connections(self) -> None:
        """One more than twice the associations and 64 that say nothing: the oldest of them is closed."""
        self.server.factory.limits = Limits(max_associations=2)
        associated = [self.associated() for _ in range(2)]
        silent = [self.server.connect(f"192.0.2.{number % 4}") for number in range(2 * 2 + 64)]
        self.assertTrue(all(peer.connected for peer in (*associated, *silent)))
        with capturedLogs() as events:
            late = self.server.connect()
            self.assertEqual([peer.connected for peer in silent], [False] + [True] * 67)
        (event,) = [event for event in events if "association" in event]
        self.assertIn("too many connections without an association", event["summary"])
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertTrue(late.connected)
        self.server.connect()
        self.assertEqual([peer.connected for peer in silent], [False] * 2 + [True] * 66)
        for peer in associated:
            self.assertEqual(peer.request(1, c_echo_rq()).status, 0)
        self.assertEqual(len(self.server.factory.connections), 2 + 68)

    def test_too_many_before_any_is_closed(self) -> None:
        """Connections that come while one is being closed cost another one, not the same again."""
        self.server.factory.limits = Limits(max_associations=1)
        peer = self.associated()
        silent = [self.server.connect(f"192.0.2.{number % 4}") for number in range(2 + 64 + 3)]
        self.assertEqual([one.transport.disconnecting for one in silent], [True] * 3 + [False] * 66)
        self.server.clock.advance(0)
        self.assertEqual(len(self.server.factory.connections), 1 + 66)
        self.assertEqual(peer.request(1, c_echo_rq()).status, 0)

    def test_associations_are_never_turned_out(self) -> None:
        """As many associations as there may be, all older than who says nothing, stay."""
        self.server.factory.limits = Limits(max_associations=100)
        peers = [self.associated() for _ in range(100)]
        for number in range(2 * 100 + 64 + 100):
            self.server.connect(f"192.0.2.{number % 4}")
            self.server.clock.advance(0)
        self.assertEqual(self.server.factory.associations, {peer.protocol for peer in peers})
        self.assertEqual(len(self.server.factory.connections), 100 + 264)
        self.assertTrue(all(peer.connected for peer in peers))

    def test_turned_out_is_heard_no_more(self) -> None:
        """Who is turned out gets no association while the connection is being closed."""
        self.server.factory.limits = Limits(max_associations=0)
        silent = [self.server.connect(f"192.0.2.{number % 4}") for number in range(64 + 1)]
        self.server.factory.limits = Limits()
        self.assertTrue(silent[0].transport.disconnecting)
        silent[0].send(associate_rq(CONTEXTS))
        self.assertEqual(self.server.factory.associations, set())

    def test_turned_out_in_a_look_up(self) -> None:
        """Nor does who is turned out while its name is looked up."""
        named = Remote(aet="SCU", host="ct.example", check_host=True)
        access = AccessPolicy(ae_title="PMOD", remotes=(named,))
        factory = self.server.factory
        factory.entity = attrs.evolve(factory.entity, access=access)
        looked_up: Deferred[dict[str, frozenset[str]]] = Deferred()
        factory.resolve = lambda names: looked_up
        factory.limits = Limits(max_associations=1)
        peer = self.server.connect()
        peer.send(associate_rq(CONTEXTS))
        for number in range(2 + 64):
            self.server.connect(f"192.0.2.{number % 4 + 2}")
        self.assertTrue(peer.transport.disconnecting)
        looked_up.callback({"ct.example": frozenset({"192.0.2.1"})})
        self.assertEqual(factory.associations, set())

    def test_drain(self) -> None:
        """Draining closes who has no association, rejects who wants one, and waits for the others."""
        silent, peer, rejected = self.server.connect(), self.associated(), self.server.connect()
        rejected.send(associate_rq(CONTEXTS, called="OTHER"))
        drained = self.server.factory.drain()
        self.assertFalse(silent.connected)
        self.assertFalse(rejected.connected)
        self.assertTrue(peer.connected)
        late = self.server.connect()
        self.assertEqual(late.associate(CONTEXTS), A_ASSOCIATE_RJ(2, 3, 1))
        late.close()
        self.assertEqual(peer.request(3, c_store_rq(), b"data").status, 0)
        peer.send(A_RELEASE_RQ())
        self.assertNoResult(drained)
        peer.close()
        self.assertIsNone(self.successResultOf(drained))

    def test_drain_of_nobody(self) -> None:
        """Without connections draining is over at once."""
        self.assertIsNone(self.successResultOf(self.server.factory.drain()))

    def test_drain_twice(self) -> None:
        """Draining twice is draining once."""
        peer = self.associated()
        drained = self.server.factory.drain()
        again = self.server.factory.drain()
        self.assertIs(drained, again)
        peer.close()
        self.successResultOf(again)

    def test_abort(self) -> None:
        """Aborting tells every association and closes every connection, and what runs is finished."""
        held = self.hold()
        silent, peer, storing = self.server.connect(), self.associated(), self.associated()
        storing.send(*message(3, c_store_rq(), b"data"))
        drained = self.server.factory.drain()
        with capturedLogs() as events:
            self.server.factory.abort("the server stops")
            self.server.clock.advance(0)
        self.assertFalse(silent.connected)
        for one in (peer, storing):
            self.assertEqual(one.received(), [USER_ABORT])
            self.assertFalse(one.connected)
        self.successResultOf(drained)
        held.let(1)
        self.assertEqual(list(self.store.objects), ["1.2.3"])
        ends = {event["association"]["ended"] for event in events if "association" in event}
        self.assertEqual(ends, {"aborted by us: the server stops"})
        self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_entity_is_data(self) -> None:
        """An entity is frozen: what a server has said at its start stays true."""
        entity = self.server.factory.entity
        self.assertRaises(attrs.exceptions.FrozenInstanceError, setattr, entity, "maximum_length", 1)
