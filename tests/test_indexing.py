"""The way of objects into the index: together, noted until they are there, and through what goes wrong."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import indexing
from dicomtw.errors import DimseError, IndexFault
from dicomtw.indexing import GATHER, RETRY, IndexWriter, catch_up
from dicomtw.storage.directory import DirectoryStore, Durability, OnDuplicate
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.rebuild import rebuild
from dicomtw.storage.index.record import Record
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored
from tests.storage import CT_IMAGE_STORAGE, EXPLICIT, data_set, element
from tests.test_feed import Threads

T = TypeVar("T")

ATTRIBUTES = Attributes()
LOCKED = IndexFault("/store/.index/index.sqlite3: database is locked")


def stored(uid: str, patient: bytes = b"P1") -> Stored:
    """An object that has just been stored."""
    found = {0x00080018: uid.encode(), 0x00100020: patient}
    return Stored("1.2.10", "1.2.20", uid, EXPLICIT, 1, 1, found, Path(f"note of {uid}"))


class FakeIndex:
    """An index that has what it was given, in lists of SOP Instance UIDs, one for each transaction."""

    attributes = ATTRIBUTES

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.records: list[Record] = []
        self.batches: list[list[str]] = []
        #: Raised by `put`.
        self.fault: Exception | None = None
        #: Raised by `put` if it gets one of these, by SOP Instance UID.
        self.culprits: dict[str, Exception] = {}

    def put(self, records: Sequence[Record]) -> None:
        self._calls.append("put")
        if self.fault is not None:
            raise self.fault
        for record in records:
            if record.sop_instance_uid in self.culprits:
                raise self.culprits[record.sop_instance_uid]
        self.records += records
        self.batches.append([record.sop_instance_uid for record in records])


class FakeStore:
    """The journal of a store."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.noted: list[Stored] = []
        #: What is there instead of others by now, by SOP Instance UID.
        self.replaced: dict[str, Stored] = {}

    def unsettled(self) -> Iterator[Stored]:
        yield from self.noted

    def settled(self, batch: Sequence[Stored]) -> list[Stored]:
        self._calls.append("settled")
        return [
            self.replaced.pop(one.sop_instance_uid) for one in batch if one.sop_instance_uid in self.replaced
        ]


class WriterTestCase(SynchronousTestCase):
    """A writer with everything around it in the test's hands."""

    wait = True

    def setUp(self) -> None:
        self.calls: list[str] = []
        self.index = FakeIndex(self.calls)
        self.store = FakeStore(self.calls)
        self.threads = Threads()
        self.clock = Clock()
        if self.wait:  # so many wait already that each that comes has to wait, too
            self.patch(indexing, "MAXIMUM_OBJECTS", 0)
        self.writer = IndexWriter(self.index, self.threads, self.store, clock=self.clock)
        self.logged: list[LogEvent] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def add(self, *uids: str) -> list[Deferred[None]]:
        return [self.writer.add(stored(uid)) for uid in uids]

    def gather(self) -> None:
        """As long passes as what nobody waits for is gathered, and the transaction that is due happens."""
        self.clock.advance(GATHER)
        self.threads.run()

    def assertIdle(self) -> None:
        """Nothing goes on, and nothing is due."""
        self.assertEqual((self.threads.waiting, self.clock.getDelayedCalls()), ([], []))

    def assertRefused(self, deferred: Deferred[None]) -> None:
        error = self.failureResultOf(deferred, DimseError).value
        self.assertEqual((error.status, error.comment), (0xA700, "index: database is locked"))

    def levels(self) -> list[LogLevel]:
        """Of what was logged by the writer, but for failures."""
        return [
            event["log_level"]
            for event in self.logged
            if event.get("log_namespace") == "dicomtw.indexing.IndexWriter"
        ]


class StrictTests(WriterTestCase):
    def test_one(self) -> None:
        """An object is acknowledged when its transaction is over, and its note gone, not before."""
        (added,) = self.add("1.1")
        self.assertNoResult(added)
        self.assertEqual(self.calls, [])  # nothing of it happens in the reactor thread
        self.threads.run()
        self.successResultOf(added)
        self.assertEqual(self.calls, ["put", "settled"])
        (record,) = self.index.records
        self.assertEqual((record.study, record.series, record.sop_instance_uid), ("1.2.10", "1.2.20", "1.1"))
        self.assertEqual((record.transfer_syntax_uid, record.mtime_ns), (EXPLICIT, 1))
        self.assertEqual(record.values["PatientID"], "P1")

    def test_together(self) -> None:
        """What comes while one transaction goes on is entered in the next, all of it, in its order."""
        first = self.add("1.1")
        others = self.add("1.2", "1.3", "1.4")
        self.assertEqual(len(self.threads.waiting), 1)
        self.threads.run()
        self.successResultOf(first[0])
        for added in others:
            self.assertNoResult(added)
        self.threads.run()
        for added in others:
            self.successResultOf(added)
        self.assertEqual(self.index.batches, [["1.1"], ["1.2", "1.3", "1.4"]])
        self.assertEqual(self.threads.waiting, [])

    def test_added_from_a_callback(self) -> None:
        """Who is told may add the next one at once."""
        added = self.add("1.1")[0].addCallback(lambda _: self.writer.add(stored("1.2")))
        self.threads.run()
        self.assertNoResult(added)
        self.threads.run()
        self.successResultOf(added)

    def test_replaced_meanwhile(self) -> None:
        """What took an object's place before the index had it is entered in the same go."""
        (added,) = self.add("1.1")
        self.store.replaced["1.1"] = attrs.evolve(stored("1.1", b"P2"), mtime_ns=2)
        self.threads.run()
        self.successResultOf(added)
        self.assertEqual(self.calls, ["put", "settled", "put", "settled"])
        self.assertEqual([record.values["PatientID"] for record in self.index.records], ["P1", "P2"])

    def test_fault(self) -> None:
        """An index that fails is A700H without the name of its file; notes stay, the next one is tried."""
        self.index.fault = LOCKED
        first, second = self.add("1.1", "1.2")
        self.threads.run()
        self.assertRefused(first)
        self.assertNoResult(second)
        self.threads.run()
        self.assertRefused(second)
        self.assertEqual(self.calls, ["put", "put"])
        self.assertIdle()
        self.index.fault = None
        (third,) = self.add("1.3")
        self.threads.run()
        self.successResultOf(third)
        self.assertEqual(self.index.batches, [["1.3"]])

    def test_logged_once(self) -> None:
        """An outage is logged when it begins, with its reason, and when it ends."""
        for fault in (None, LOCKED, LOCKED, LOCKED, None, None, LOCKED):
            self.index.fault = fault
            self.add("1.1")[0].addErrback(lambda failure: failure.trap(DimseError))
            self.threads.run()
        self.assertEqual(self.levels(), [LogLevel.error, LogLevel.info, LogLevel.error])
        (event, *_) = (event for event in self.logged if event["log_level"] is LogLevel.error)
        self.assertIn("database is locked", event["log_format"].format(**event))

    def test_bug(self) -> None:
        """Any other exception is logged as a bug, and ends nothing but what it befell."""
        self.index.fault = ZeroDivisionError()
        (first,) = self.add("1.1")
        waiting = self.writer.settled()
        second = self.add("1.2")[0]
        self.threads.run()
        self.assertEqual(self.failureResultOf(first, DimseError).value.status, 0xA700)
        self.index.fault = None
        self.threads.run()
        self.successResultOf(second)
        self.successResultOf(waiting)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_bug_with_one(self) -> None:
        """Of several in one transaction only that is refused which a bug befalls, and named in the log."""
        (first,) = self.add("1.1")
        self.index.culprits["1.3"] = ZeroDivisionError()
        second, culprit, fourth = self.add("1.2", "1.3", "1.4")
        waiting = self.writer.settled()
        self.threads.run()
        self.successResultOf(first)
        self.threads.run()
        error = self.failureResultOf(culprit, DimseError).value
        self.assertEqual((error.status, error.comment), (0xA700, "index: internal error"))
        for added in (second, fourth, waiting):
            self.successResultOf(added)
        self.assertEqual(self.index.batches, [["1.1"], ["1.2"], ["1.4"]])
        self.assertEqual(self.calls[2:], ["put", "put", "settled", "put", "put", "settled"])
        self.assertIdle()
        self.assertEqual([event["uid"] for event in self.logged if "log_failure" in event], ["1.3"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_bug_and_fault(self) -> None:
        """An index that fails while a bug's one object is looked for has what came before, not the rest."""
        (first,) = self.add("1.1")
        self.index.culprits.update({"1.3": ZeroDivisionError(), "1.4": LOCKED})
        second, culprit, fourth, fifth = self.add("1.2", "1.3", "1.4", "1.5")
        waiting = self.writer.settled()
        self.threads.run()
        self.threads.run()
        self.successResultOf(first)
        self.successResultOf(second)
        self.failureResultOf(culprit, DimseError)
        self.assertRefused(fourth)
        self.assertRefused(fifth)
        self.assertIs(self.failureResultOf(waiting, IndexFault).value, LOCKED)
        self.assertEqual(self.index.batches, [["1.1"], ["1.2"]])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_no_thread(self) -> None:
        """Where there is no thread to do it in all are refused, and the next one is tried."""
        (first,) = self.add("1.1")
        self.threads.waiting.pop()[1].errback(ZeroDivisionError())
        self.assertEqual(self.failureResultOf(first, DimseError).value.status, 0xA700)
        (second,) = self.add("1.2")
        self.threads.run()
        self.successResultOf(second)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nobody_waits_any_more(self) -> None:
        """Who is cancelled is not told, and takes nothing from the others."""
        first, second = self.add("1.1", "1.2")
        for added in (first, second):
            added.addErrback(lambda _: None)
            added.cancel()
        third = self.add("1.3")[0]
        self.threads.run()
        self.threads.run()
        self.successResultOf(third)
        self.assertEqual(self.index.batches, [["1.1"], ["1.2", "1.3"]])


class RelaxedTests(WriterTestCase):
    wait = False

    def test_gathered(self) -> None:
        """Objects are acknowledged at once, gathered for a while from the first, and entered together."""
        for number in range(3):
            for added in self.add(f"1.{number}"):
                self.successResultOf(added)
            self.clock.advance(GATHER / 4)
        self.assertEqual(self.threads.waiting, [])
        self.clock.advance(GATHER / 4)
        self.assertEqual(self.calls, [])  # nothing of it happens in the reactor thread
        self.threads.run()
        self.assertEqual(self.index.batches, [["1.0", "1.1", "1.2"]])
        self.assertIdle()

    def test_gathered_during_a_transaction(self) -> None:
        """What comes while a transaction goes on is gathered too, from its end."""
        self.add("1.1")
        self.clock.advance(GATHER)
        self.add("1.2")
        self.clock.advance(GATHER)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.threads.run()
        self.add("1.3")
        self.clock.advance(GATHER / 2)
        self.assertEqual(self.threads.waiting, [])
        self.gather()
        self.assertEqual(self.index.batches, [["1.1"], ["1.2", "1.3"]])
        self.assertIdle()

    def test_many_cost_no_more_each(self) -> None:
        """However many are gathered, what is due is asked for once."""
        asked: list[float] = []
        real = self.clock.callLater

        def noting(delay: float, *arguments: Any) -> Any:
            asked.append(delay)
            return real(delay, *arguments)

        self.patch(self.clock, "callLater", noting)
        self.add("1.1", "1.2", "1.3")
        self.assertEqual(asked, [GATHER])

    def test_fault(self) -> None:
        """What the index does not take is tried after a while and not sooner, with what has come since."""
        self.index.fault = LOCKED
        self.add("1.1")
        self.clock.advance(GATHER)
        self.add("1.2")  # while it is tried
        self.threads.run()
        self.add("1.3")
        for _ in range(2):
            self.clock.advance(RETRY - 0.1)
            self.assertEqual(self.threads.waiting, [])
            self.clock.advance(0.2)
            self.threads.run()
        self.index.fault = None
        self.clock.advance(RETRY)
        self.threads.run()
        self.assertEqual(self.index.batches, [["1.1", "1.2", "1.3"]])
        self.assertEqual(self.calls, ["put"] * 4 + ["settled"])
        self.assertIdle()
        self.assertEqual(self.levels(), [LogLevel.error, LogLevel.info])
        self.add("1.4")
        self.gather()
        self.assertEqual(self.index.batches[1:], [["1.4"]])

    def test_fault_with_callbacks(self) -> None:
        """Who adds an object when told of a fault does not make it tried sooner."""
        self.index.fault = LOCKED
        self.add("1.1")
        waiting = self.writer.settled().addErrback(lambda _: self.writer.add(stored("1.2")))
        self.threads.run()
        self.successResultOf(waiting)
        self.clock.advance(RETRY - 0.1)
        self.assertEqual(self.threads.waiting, [])
        self.index.fault = None
        self.clock.advance(0.2)
        self.threads.run()
        self.assertEqual(self.index.batches, [["1.1", "1.2"]])

    def test_decoded_once(self) -> None:
        """Records are made in the thread, and once, however often they are tried."""
        made: list[Stored] = []
        real = indexing.record

        def noting(index: Any, one: Stored) -> Record:
            made.append(one)
            return real(index, one)

        self.patch(indexing, "record", noting)
        self.index.fault = LOCKED
        self.add("1.1")
        self.clock.advance(GATHER)
        self.assertEqual(made, [])
        for _ in range(3):
            self.threads.run()
            self.clock.advance(RETRY)
        self.index.fault = None
        self.threads.run()
        self.assertEqual(len(made), 1)
        self.assertEqual(self.index.batches, [["1.1"]])

    def test_bounds(self) -> None:
        """Beyond as many objects, or bytes, as may wait, an object is acknowledged when the index has it."""
        for name, bound in (("MAXIMUM_OBJECTS", 3), ("MAXIMUM_SIZE", 3 * stored("1.1").size - 1)):
            self.setUp()
            self.patch(indexing, "MAXIMUM_OBJECTS", 10)
            self.patch(indexing, name, bound)
            for added in self.add("1.1", "1.2", "1.3"):
                self.successResultOf(added)
            self.assertEqual(self.threads.waiting, [])
            fourth, fifth = self.add("1.4", "1.5")
            self.assertNoResult(fourth)
            self.assertEqual(self.clock.getDelayedCalls(), [])  # it begins at once
            self.threads.run()
            self.successResultOf(fourth)
            self.successResultOf(self.add("1.6")[0])
            self.assertNoResult(fifth)
            self.threads.run()
            self.successResultOf(fifth)
            self.gather()
            self.assertEqual(self.index.batches, [["1.1", "1.2", "1.3", "1.4"], ["1.5"], ["1.6"]])
            for added in self.add("1.7", "1.8", "1.9"):
                self.successResultOf(added)

    def test_bounds_while_it_fails(self) -> None:
        """While the index fails, what is beyond the bound is A700H and not kept in memory."""
        self.patch(indexing, "MAXIMUM_OBJECTS", 2)
        self.index.fault = LOCKED
        self.add("1.1", "1.2")
        self.gather()
        for number in range(3):
            (added,) = self.add(f"1.3.{number}")
            self.threads.run()
            self.assertRefused(added)
        self.index.fault = None
        self.clock.advance(RETRY)
        self.threads.run()
        self.assertEqual(self.index.batches, [["1.1", "1.2"]])
        for added in self.add("1.4", "1.5"):
            self.successResultOf(added)

    def test_many(self) -> None:
        """Ten thousand objects wait without anybody noticing, and go in one transaction."""
        self.patch(indexing, "record", lambda _, one: Record("1", "1", one.sop_instance_uid, "", "", 1, {}))
        for number in range(10_000):
            self.successResultOf(self.writer.add(stored(f"1.{number}")))
        self.assertNoResult(self.writer.add(stored("1.2.3")))
        self.threads.run()
        self.assertEqual([len(batch) for batch in self.index.batches], [10_001])

    def test_bug(self) -> None:
        """What cannot be entered for a bug of ours is logged and not tried again: others come after it."""
        self.index.fault = ZeroDivisionError()
        self.add("1.1")
        self.clock.advance(GATHER)
        self.add("1.2")
        self.threads.run()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.index.fault = None
        self.gather()
        self.assertEqual(self.index.batches, [["1.2"]])
        self.assertIdle()
        self.assertEqual((self.writer._objects, self.writer._size), (0, 0))

    def test_bug_with_one(self) -> None:
        """Only what a bug befalls is left out, with a line in the log; faults on the way are tried again."""
        self.index.culprits.update({"1.2": ZeroDivisionError(), "1.4": LOCKED})
        self.add("1.1", "1.2", "1.3", "1.4", "1.5")
        self.gather()
        self.assertEqual(self.index.batches, [["1.1"], ["1.3"]])
        self.assertEqual((self.writer._objects, self.writer._size), (2, 2 * stored("1.4").size))
        self.index.culprits.clear()
        self.clock.advance(RETRY)
        self.threads.run()
        self.assertEqual(self.index.batches[2:], [["1.4", "1.5"]])
        self.assertIdle()
        self.assertEqual((self.writer._objects, self.writer._size), (0, 0))
        self.assertEqual([event["uid"] for event in self.logged if "log_failure" in event], ["1.2"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class SettledTests(WriterTestCase):
    wait = False

    def test_nothing(self) -> None:
        """Where nothing waits, all is in the index."""
        self.successResultOf(self.writer.settled())
        self.add("1.1")
        self.gather()
        self.successResultOf(self.writer.settled())
        self.assertEqual(self.threads.waiting, [])

    def test_at_once(self) -> None:
        """Who waits for what is being gathered makes its transaction begin at once."""
        self.add("1.1", "1.2")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        settled = self.writer.settled()
        self.assertEqual((len(self.threads.waiting), self.clock.getDelayedCalls()), (1, []))
        self.threads.run()
        self.successResultOf(settled)
        self.assertEqual(self.index.batches, [["1.1", "1.2"]])
        self.assertIdle()

    def test_what_was_added_before(self) -> None:
        """It waits for what was added before, on its way or not, and not for what comes after."""
        self.add("1.1")
        self.clock.advance(GATHER)
        first = self.writer.settled()
        self.threads.run()
        self.successResultOf(first)
        self.assertIdle()  # for that there need be no transaction
        self.add("1.2")
        self.clock.advance(GATHER)
        self.add("1.3")
        second = self.writer.settled()
        self.threads.run()
        self.assertNoResult(second)
        self.add("1.4")
        self.threads.run()
        self.successResultOf(second)
        self.assertEqual(self.index.batches, [["1.1"], ["1.2"], ["1.3"]])
        self.gather()
        self.assertEqual(self.index.batches[3:], [["1.4"]])

    def test_fault(self) -> None:
        """It fails if the index does, which is tried then, and tells the fault as it is."""
        self.index.fault = LOCKED
        self.add("1.1")
        self.clock.advance(GATHER)
        first = self.writer.settled()
        self.threads.run()
        self.assertNoResult(first)
        self.threads.run()
        self.assertIs(self.failureResultOf(first, IndexFault).value, LOCKED)
        second = self.writer.settled()
        self.threads.run()
        self.failureResultOf(second, IndexFault)
        self.index.fault = None
        third = self.writer.settled()
        self.threads.run()
        self.successResultOf(third)
        self.assertEqual(self.index.batches, [["1.1"]])
        self.assertIdle()


class CloseTests(WriterTestCase):
    wait = False

    def test_at_once(self) -> None:
        """Closing enters what is being gathered at once, and leaves nothing on the clock."""
        self.add("1.1", "1.2")
        closed = self.writer.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNoResult(closed)
        self.threads.run()
        self.successResultOf(closed)
        self.assertEqual(self.index.batches, [["1.1", "1.2"]])
        self.assertIdle()

    def test_during_a_transaction(self) -> None:
        """Closing waits until all is in the index, also what waits behind a transaction."""
        self.add("1.1")
        self.clock.advance(GATHER)
        self.add("1.2")
        closed = self.writer.close()
        self.threads.run()
        self.assertNoResult(closed)
        self.threads.run()
        self.successResultOf(closed)
        self.assertEqual(self.index.batches, [["1.1"], ["1.2"]])
        self.assertIdle()

    def test_added_after(self) -> None:
        """What a last commit brings after that is entered at once, or left to the next start."""
        self.successResultOf(self.writer.close())
        for uid, fault in (("1.1", None), ("1.2", LOCKED)):
            self.index.fault = fault
            self.successResultOf(self.add(uid)[0])
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.threads.run()
            self.assertIdle()
        self.assertEqual(self.index.batches, [["1.1"]])

    def test_nothing(self) -> None:
        """Where there is nothing to wait for, closing does not."""
        self.successResultOf(self.writer.close())

    def test_fault(self) -> None:
        """An index that fails does not keep the server from stopping; how many are noted is said."""
        for before in (False, True):
            self.setUp()
            self.index.fault = LOCKED
            self.add("1.1", "1.2")
            if before:
                self.gather()
                self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            closed = self.writer.close()
            while self.threads.waiting:
                self.threads.run()
            self.successResultOf(closed)
            self.assertIdle()
            self.assertEqual(self.levels(), [LogLevel.error, LogLevel.warn])
            self.assertEqual(self.logged[-1]["objects"], 2)


class CatchUpTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls: list[str] = []
        self.index, self.store = FakeIndex(self.calls), FakeStore(self.calls)

    def test_nothing(self) -> None:
        """Where nothing is noted there is nothing to do."""
        self.assertEqual(catch_up(self.store, self.index), 0)
        self.assertEqual(self.calls, [])

    def test_in_portions(self) -> None:
        """What is noted is entered in portions, each settled when it is in."""
        self.patch(indexing, "_BATCH", 2)
        self.store.noted = [stored(f"1.{number}") for number in range(5)]
        self.store.replaced["1.3"] = stored("1.3")
        self.assertEqual(catch_up(self.store, self.index), 5)
        self.assertEqual(self.index.batches, [["1.0", "1.1"], ["1.2", "1.3"], ["1.3"], ["1.4"]])
        self.assertEqual(self.calls, ["put", "settled"] * 4)

    def test_fault(self) -> None:
        """An index that fails is told, and what is noted stays so."""
        self.store.noted = [stored("1.1")]
        self.index.fault = LOCKED
        self.assertRaises(IndexFault, catch_up, self.store, self.index)
        self.assertEqual(self.calls, ["put"])

    def test_bug(self) -> None:
        """What a bug keeps out stays noted and is told; the others of its portion are entered."""
        self.store.noted = [stored(f"1.{number}") for number in range(3)]
        put = self.index.put

        def fail_for_one(records: Any) -> None:
            if any(record.sop_instance_uid == "1.1" for record in records):
                raise ZeroDivisionError
            put(records)

        self.patch(self.index, "put", fail_for_one)
        self.assertEqual(catch_up(self.store, self.index), 2)
        self.assertEqual(self.index.batches, [["1.0"], ["1.2"]])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Crash(BaseException):
    """The process is killed."""


def at_once(function: Callable[[], T]) -> Deferred[T]:
    """`feed.InThread` without a thread, and without surviving a `Crash`."""
    try:
        return succeed(function())
    except Exception:
        return fail()


class ArchiveTests(SynchronousTestCase):
    """The real store and the real index in one directory, through crashes and outages."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()

    def start(self, durability: Durability = Durability.RELAXED) -> None:
        """What a server does before it listens."""
        self.store = DirectoryStore(self.root, durability, OnDuplicate.REPLACE, ATTRIBUTES.tags)
        self.store.prepare()
        self.addCleanup(self.store.close)
        self.index = self.open_index(self.root / INDEX / FILE_NAME, durability is Durability.STRICT)
        if not self.index.open():
            rebuild(self.root, self.index, lambda done, total: None)
        catch_up(self.store, self.index)
        self.patch(indexing, "MAXIMUM_OBJECTS", 0 if durability is Durability.STRICT else 10_000)
        self.writer = IndexWriter(self.index, at_once, self.store, clock=Clock())

    def open_index(self, path: Path, synchronous: bool = False) -> Index:
        index = Index(path, ATTRIBUTES, synchronous=synchronous)
        self.addCleanup(index.close)
        return index

    def kill(self) -> None:
        """The process is gone: what it had open is closed, nothing is written any more."""
        self.store.close()
        connection = self.index._connection
        if connection is not None:
            connection.close()
            self.index._connection = None

    def content(self, uid: str, payload: bytes = b"payload.", **there: str) -> bytes:
        return data_set(uid, payload, middle=element(0x00100020, "LO", b"P1"), **there)

    def send(self, uid: str, payload: bytes = b"payload.", **there: str) -> Deferred[None]:
        """Commit an object; what the writer says of it."""
        sink = self.store.open(FileMeta(CT_IMAGE_STORAGE, uid, EXPLICIT))
        sink.write([memoryview(self.content(uid, payload, **there))])
        sink.commit()
        assert sink.stored is not None
        return self.writer.add(sink.stored)

    def rows(self, path: Path | None = None) -> list[tuple[Any, ...]]:
        """Every object with all that the index has of it, its series, its study and its patient; no ids."""
        path = path or self.root / INDEX / FILE_NAME
        connection = sqlite3.connect(path)
        try:
            cursor = connection.execute(
                "SELECT * FROM instance JOIN series ON series.id = instance.series_id "
                "JOIN study ON study.id = series.study_id JOIN patient ON patient.id = study.patient_id"
            )
            names = [column[0] for column in cursor.description]
            kept = [at for at, name in enumerate(names) if name != "id" and not name.endswith("_id")]
            return sorted((tuple(row[at] for at in kept) for row in cursor), key=repr)
        finally:
            connection.close()

    def assertAgree(self, where: object = None) -> list[str]:
        """Index and files agree: the index has what one made from the files has; their SOP Instance UIDs."""
        self.successResultOf(self.writer.settled())
        path = self.root.parent / "made-anew" / FILE_NAME
        index = Index(path, ATTRIBUTES, synchronous=False, files=self.index._files)
        index.open()
        try:
            rebuild(self.root, index, lambda done, total: None)
        finally:
            index.close()
        self.assertEqual(self.rows(), self.rows(path), where)
        path.unlink()
        files = sorted(found.stem for found in self.root.glob("[1-9]*/*/*.dcm"))
        self.assertEqual(self.index.counts()[-1], len(files), where)
        self.assertEqual(list((self.root / ".incoming").iterdir()), [], where)
        return files

    def test_life(self) -> None:
        """New objects, new versions, versions elsewhere, the same again: index and files agree throughout."""
        for durability in Durability:
            self.setUp()
            self.start(durability)
            for uid, payload, there in (
                ("1.1", b"payload.", {}),
                ("1.2", b"payload.", {}),
                ("1.1", b"payload.", {}),
                ("1.1", b"another.", {}),
                ("1.1", b"another.", {"study": "1.2.11"}),
                ("1.2", b"payload.", {"series": "1.2.21"}),
                ("1.3", b"payload.", {"series": "1.2.21"}),
            ):
                self.successResultOf(self.send(uid, payload, **there))
                self.assertAgree((uid, payload, there))
            self.assertEqual(self.assertAgree(), ["1.1", "1.2", "1.3"])

    def test_crashes(self) -> None:
        """Killed before any of the calls that storing two objects takes, the next start makes them agree."""
        calls = (
            "open",
            "writev",
            "fdatasync",
            "fsync",
            "link",
            "rename",
            "unlink",
            "symlink",
            "mkdir",
            "rmdir",
        )
        for name in ("fsync", "fdatasync"):  # here it is the order that counts
            self.patch(os, name, lambda fd: None)
        for there in ({}, {"study": "1.2.11"}):
            number, crashed = 0, True
            while crashed:
                self.setUp()
                self.start(Durability.STRICT)
                self.successResultOf(self.send("1.1"))
                acknowledged = ["1.1"]
                left = itertools.count(number, -1)
                patches = [self.patch(os, name, self._counted(getattr(os, name), left)) for name in calls]
                patches.append(self.patch(self.index, "put", self._counted(self.index.put, left)))
                try:
                    for uid, payload in (("1.1", b"another."), ("1.2", b"payload.")):
                        self.successResultOf(self.send(uid, payload, **there))
                        acknowledged.append(uid)
                    crashed = False
                except Crash:
                    pass
                finally:
                    for patch in patches:
                        patch.restore()
                self.kill()
                self.start(Durability.STRICT)
                files = self.assertAgree(f"before call {number}")
                self.assertLessEqual(set(acknowledged), set(files))
                number += 1
            self.assertGreater(number, 30)

    def _counted(self, real: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if next(left) <= 0:
                raise Crash
            return real(*arguments, **keywords)

        return call

    def test_killed_with_a_queue(self) -> None:
        """Relaxed: what was acknowledged and waited for the index when the process died is in it again."""
        self.start()
        self.index.close()  # and so it takes nothing
        for number in range(5):
            self.successResultOf(self.send(f"1.{number}"))
        self.successResultOf(self.send("1.3", b"another.", study="1.2.11"))
        self.kill()
        self.start()
        self.assertEqual(self.assertAgree(), [f"1.{number}" for number in range(5)])

    def test_index_locked(self) -> None:
        """Strict: while another program holds the index, objects are A700H; it has them in the end."""
        self.start(Durability.STRICT)
        self.successResultOf(self.send("1.1"))
        assert self.index._connection is not None
        self.index._connection.execute("PRAGMA busy_timeout = 0")
        other = sqlite3.connect(self.root / INDEX / FILE_NAME, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        for uid in ("1.2", "1.3"):
            error = self.failureResultOf(self.send(uid), DimseError).value
            self.assertEqual((error.status, error.comment), (0xA700, "index: database is locked"))
        other.execute("ROLLBACK")
        self.successResultOf(self.send("1.2"))
        self.kill()
        self.start(Durability.STRICT)
        self.assertEqual(self.assertAgree(), ["1.1", "1.2", "1.3"])

    def test_index_deleted(self) -> None:
        """An index that was deleted is made again from the files, and what the journal has besides."""
        self.start()
        for number in range(3):
            self.successResultOf(self.send(f"1.{number}"))
        self.index.close()
        self.successResultOf(self.send("1.3"))
        self.kill()
        for path in (self.root / INDEX).iterdir():
            path.unlink()
        self.start()
        self.assertEqual(self.assertAgree(), [f"1.{number}" for number in range(4)])

    def test_versions_at_once(self) -> None:
        """Versions of one object from eight threads: whoever comes last, the index has what is there."""
        for _ in range(5):
            self.setUp()
            self.start()
            committed: list[Stored] = []

            def commit(number: int, committed: list[Stored] = committed) -> None:
                sink = self.store.open(FileMeta(CT_IMAGE_STORAGE, "1.1", EXPLICIT))
                there = {"study": f"1.2.1{number % 3}"}
                sink.write([memoryview(self.content("1.1", b"version%d" % number, **there))])
                sink.commit()
                assert sink.stored is not None
                committed.append(sink.stored)

            threads = [threading.Thread(target=commit, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for one in reversed(committed):
                self.successResultOf(self.writer.add(one))
            self.assertEqual(self.assertAgree(), ["1.1"])
