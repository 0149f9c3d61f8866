"""What queries and retrievals may take: at the limit they are answered, past it refused with a comment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.dimse.messages import C_FIND_RQ, C_GET_RQ, C_STORE_RQ
from dicomtw.encoding import data_set as encoding
from dicomtw.errors import Cancelled, OperationFailed, QueryLimit
from dicomtw.operations import MAXIMUM_REQUEST_BYTES, OPERATIONS_WINDOW
from dicomtw.services import reading
from dicomtw.services.bounds import Bounds
from dicomtw.services.query import Query
from dicomtw.services.retrieve import Get, Move
from dicomtw.storage.index import cursor
from dicomtw.storage.index.attributes import Level
from dicomtw.storage.index.query import MAXIMUM_KEYS, Model
from dicomtw.storage.index.query import Query as IndexQuery
from dicomtw.testing import message
from dicomtw.transcode import encode, transcode
from dicomtw.ul.items import AsynchronousOperationsWindow, RoleSelection
from dicomtw.ul.pdu import A_ABORT
from tests.services.archive import CT, EXPLICIT, IMPLICIT, MR, Archive, ct, data_set
from tests.services.test_query import QueryTestCase
from tests.services.test_retrieve import RetrieveTestCase


class BoundedQueryTests(QueryTestCase):
    def bound(self, **bounds: Any) -> None:
        """Begin anew with these bounds."""
        service = Query(self.archive.index, self.archive, "PMOD", Bounds(**bounds))
        self.server = type(self.server).of(service)

    def test_matches(self) -> None:
        """As many matches as there may be are all answered; with one more A700H comes behind them."""
        self.archive.enter(25)
        for most, ends_well in ((0, True), (25, True), (24, False), (3, False)):
            self.bound(max_matches=most)
            found: list[Any] = []
            matches = self.scu().c_find(data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID=""))

            async def take(matches: Any = matches, found: list[Any] = found) -> None:
                async for match in matches:
                    found.append(match)

            over = Deferred.fromCoroutine(take())
            self.server.clock.advance(0)
            if ends_well:
                self.successResultOf(over)
                self.assertEqual(len(found), 25)
                continue
            fault = self.failureResultOf(over, OperationFailed).value
            self.assertEqual((fault.status, fault.comment), (0xA700, f"more than {most} matches"))
            self.assertEqual(len(found), most)

    def test_time(self) -> None:
        """A query that keeps the index busy for too long is ended with A700H and a comment."""
        self.archive.enter(200)
        self.bound(query_timeout=30.0)
        self.assertEqual(len(self.find("STUDY", PatientName="P*")), 200)
        self.bound(query_timeout=1e-9)
        status, comment = self.refusal("STUDY", PatientName="P*")
        self.assertEqual((status, comment), (0xA700, "the query takes more than 1e-09 seconds"))

    def test_keys(self) -> None:
        """As many keys as there may be are looked at, one more is A900H."""
        for count, refused in ((MAXIMUM_KEYS, False), (MAXIMUM_KEYS + 1, True)):
            keys = {0x00080052: encoding.Element(0x00080052, "CS", b"STUDY ")}
            for number in range(count - 1):
                keys[0x00110010 + number] = encoding.Element(0x00110010 + number, "LO", b"")
            encoded = encoding.encode(keys.values(), uids.IMPLICIT_VR_LITTLE_ENDIAN)
            peer = self.server.connect()
            peer.associate({1: (uids.STUDY_ROOT_FIND, uids.IMPLICIT_VR_LITTLE_ENDIAN)})
            request = C_FIND_RQ(affected_sop_class_uid=uids.STUDY_ROOT_FIND, message_id=1, priority=0)
            self.assertEqual(peer.request(1, request, encoded).status == 0xA900, refused)

    def test_refused_while_the_index_is_made(self) -> None:
        """A flood of queries that cannot be answered leaves a few lines in the log, not one each."""
        self.archive.fault = "it is being made from the files"
        scu = self.scu()
        with capturedLogs() as events:
            for _ in range(100):
                self.assertEqual(self.refusal("STUDY", scu, StudyInstanceUID="")[0], 0xA700)
        self.assertEqual(len([event for event in events if "what" in event]), 20)
        self.assertLess(len(events), 30)


class CursorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.archive = Archive(Path(self.mktemp()))
        self.addCleanup(self.archive.index.close)
        self.archive.enter(300)
        self.now = 0.0
        self.patch(cursor, "time", attrs.make_class("Clock", ["monotonic"])(lambda: self.now))

    def cursor(self, seconds: float) -> cursor.Cursor:
        query = IndexQuery.of(
            Level.STUDY, {0x0020000D: ""}, self.archive.index.attributes, model=Model.STUDY_ROOT
        )
        return self.archive.index.find(query, seconds)

    def test_time_between_portions(self) -> None:
        """What somebody takes between two portions is not the query's time; the portions together are."""
        found = self.cursor(10)
        self.assertEqual(len(found.fetch(100)), 100)
        self.now += 1000
        self.assertEqual(len(found.fetch(100)), 100)
        found._taken = 10.1
        self.assertRaises(QueryLimit, found.fetch, 100)

    def test_closed_first(self) -> None:
        """A query that is closed says so, however long it took."""
        found = self.cursor(1)
        found._taken = 2
        found.close()
        self.assertRaises(Cancelled, found.fetch, 1)

    def test_interrupted(self) -> None:
        """The time is looked at inside a statement, too."""
        found = self.cursor(1)
        self.patch(cursor, "_STEPS", 1)
        calls = []

        def monotonic() -> float:
            calls.append(0)
            return 0.0 if len(calls) < 5 else 100.0

        self.patch(cursor, "time", attrs.make_class("Clock", ["monotonic"])(monotonic))
        self.assertRaises(QueryLimit, found.fetch, 1)
        self.patch(cursor, "time", time)
        self.assertEqual(len(self.cursor(100).fetch(1)), 1, "the connection is as good as before")


class BoundedRetrievalTests(RetrieveTestCase):
    def bound(self, **bounds: Any) -> None:
        archive, limits = self.archive, Bounds(**bounds)
        clock = self.server.clock
        self.server = type(self.server).of(
            Get(archive.index, archive, archive.root, limits),
            Move(archive.index, archive, archive.root, self, limits),
            self.receiver,
        )
        self.server.clock = clock
        self.server.factory.clock = clock

    def test_sub_operations(self) -> None:
        """As many objects as there may be are sent; one more is A701H, and none is sent."""
        self.archive.fill(studies=1, series=2, instances=3)
        for operation in ("MOVE", "GET"):
            for most, refused in ((6, False), (5, True), (0, False)):
                self.receiver.store.objects.clear()
                self.bound(max_sub_operations=most)
                if refused:
                    fault = self.refusal(operation, "STUDY", StudyInstanceUID="1.1")
                    self.assertEqual((fault.status, fault.comment), (0xA701, "more than 5 objects"))
                    self.assertEqual(self.receiver.stored, [])
                else:
                    self.assertEqual(self.retrieve(operation, "STUDY", StudyInstanceUID="1.1").completed, 6)

    def test_time(self) -> None:
        """Finding what is to be sent may take no longer than a query: A701H."""
        self.archive.fill(studies=1)
        self.bound(query_timeout=1e-9)
        fault = self.refusal("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual(fault.status, 0xA701)

    def test_time_of_all(self) -> None:
        """Finding out of what kinds that is belongs to it; C-GET need not know them."""
        self.archive.fill(studies=1)
        self.bound(query_timeout=30.0)
        instances = cursor.Cursor.instances

        def slow(of: cursor.Cursor) -> Any:
            ids = instances(of)
            of._taken = 30.1
            return ids

        self.patch(cursor.Cursor, "instances", slow)
        fault = self.refusal("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual((fault.status, fault.comment), (0xA701, "the query takes more than 30 seconds"))
        self.assertEqual(self.retrieve("GET", "STUDY", StudyInstanceUID="1.1").status, 0)

    def test_moves(self) -> None:
        """As many C-MOVEs as there may be run at a time, one more is A702H, and when one has ended it may."""
        self.archive.fill(studies=1, series=1, instances=1)
        self.bound(max_moves=2)
        self.waiting = Deferred()
        running = [self.begin("MOVE", "STUDY", StudyInstanceUID="1.1") for _ in range(2)]
        self.server.clock.advance(0)
        fault = self.refusal("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual((fault.status, fault.comment), (0xA702, "2 C-MOVEs are being performed"))
        waiting, self.waiting = self.waiting, None
        waiting.callback(None)
        self.server.clock.advance(0)
        for one in running:
            self.assertEqual(self.successResultOf(one).completed, 1)
        self.assertEqual(self.retrieve("MOVE", "STUDY", StudyInstanceUID="1.1").completed, 1)

    def test_refused_moves_do_not_count(self) -> None:
        """C-MOVEs that come to nothing take nobody's place."""
        self.bound(max_moves=1)
        for _ in range(3):
            fault = self.refusal("MOVE", "STUDY")
            self.assertEqual(fault.status, 0xA900)


class WithoutPydicomTests(RetrieveTestCase):
    def test_sub_operation_fails(self) -> None:
        """Where pydicom cannot be loaded what needs it is not sent, and the log says why; others are."""
        self.archive.add(ct(1, 1, 1), EXPLICIT)
        self.archive.add(ct(1, 2, 1, SOPClassUID=MR), EXPLICIT)

        def transcode_without(*arguments: Any) -> Any:
            with self.patched_modules():
                return transcode(*arguments)

        self.patch(reading, "transcode", transcode_without)
        kinds = [(CT, (IMPLICIT,)), (MR, (EXPLICIT,))]
        with capturedLogs() as events:
            retrieval = self.retrieve("GET", "STUDY", contexts=kinds, StudyInstanceUID="1.1")
        self.assertEqual((retrieval.status, retrieval.completed, retrieval.failed), (0xB000, 1, 1))
        (said,) = [event["what"] for event in events if "what" in event]
        self.assertIn("pydicom cannot be loaded", said)
        self.assertEqual(self.scu.association.ended, "")

    @contextmanager
    def patched_modules(self) -> Iterator[None]:
        """As if pydicom were not there."""
        kept = sys.modules["pydicom"]
        sys.modules["pydicom"] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.modules["pydicom"] = kept


class ThreadTests(QueryTestCase):
    def test_calls_that_wait_for_threads(self) -> None:
        """However many queries peers send, four of each association wait for threads, then none is read."""
        calls: list[Deferred[Any]] = []

        def aside(function: Any) -> Deferred[Any]:
            calls.append(Deferred())
            return calls[-1]

        self.server.factory.entity.disk.call_aside = aside
        request = C_FIND_RQ(affected_sop_class_uid=uids.STUDY_ROOT_FIND, message_id=1, priority=0)
        keys = encode(data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID=""), IMPLICIT)
        peers = []
        for _ in range(3):
            peer = self.server.connect()
            peer.associate({1: (uids.STUDY_ROOT_FIND, IMPLICIT)}, AsynchronousOperationsWindow(0, 0))
            for number in range(8):
                self.assertEqual(peer.transport.producerState, "producing", number)
                peer.send(*message(1, request, keys))
            self.assertEqual(peer.transport.producerState, "paused")
            peers.append(peer)
        self.assertEqual(len(calls), 3 * OPERATIONS_WINDOW)
        for peer in peers:
            peer.close()
        self.assertEqual(len(calls), 3 * OPERATIONS_WINDOW)


class SilentRequestorTests(RetrieveTestCase):
    """Requestors of C-GET that do not answer our C-STOREs."""

    def setUp(self) -> None:
        super().setUp()
        self.archive.fill(studies=1, series=1, instances=2)
        self.peer = self.server.connect()
        contexts = {1: (uids.STUDY_ROOT_GET, IMPLICIT), 3: (CT, EXPLICIT)}
        self.peer.associate(contexts, RoleSelection(CT, scu_role=False, scp_role=True))
        self.ask(1)
        (request,) = self.peer.received()
        self.assertIs(getattr(request, "message_type", None), C_STORE_RQ)

    def ask(self, message_id: int, more: bytes = b"") -> None:
        keys = encode(data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1"), IMPLICIT)
        get = C_GET_RQ(affected_sop_class_uid=uids.STUDY_ROOT_GET, message_id=message_id, priority=0)
        self.peer.send(*message(1, get, keys + more))

    def test_no_response(self) -> None:
        """Who answers nothing is aborted when the DIMSE timeout is over, whatever it asks meanwhile."""
        self.server.clock.advance(30)
        self.ask(2)
        self.server.clock.advance(30)
        self.assertEqual(self.peer.received(), [])
        self.server.clock.advance(60)
        self.assertEqual(self.peer.received(), [A_ABORT(0)])
        self.assertIn("no response within the DIMSE timeout", self.peer.protocol.association.ended)
        names = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if os.path.islink(link)]
        ours = str(self.archive.root.absolute())
        self.assertEqual([name for name in names if name.startswith(ours) and name.endswith(".dcm")], [])

    def test_requests_in_memory(self) -> None:
        """Requests that wait have so many bytes in memory, four of the longest; with more it is aborted."""
        keys = encode(data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1"), IMPLICIT)
        longest = bytes(MAXIMUM_REQUEST_BYTES // 4 - len(keys))
        for message_id in range(2, 7):
            self.assertEqual(self.peer.received(), [], message_id)
            self.ask(message_id, longest)
        self.assertEqual(self.peer.received(), [])
        self.ask(7, b"")
        self.assertEqual(self.peer.received(), [A_ABORT(2, 6)])
