"""Objects are in the index when they are committed: many threads share a transaction, none is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.entering import EnteringStore, Together
from dicomtw.errors import DimseError
from dicomtw.storage import WouldBlock
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored

#: For what other threads do at once, in seconds.
SOON = 10


def stored(uid: str) -> Stored:
    return Stored("1.2.10", "1.2.20", uid, "1.2", 1, 1, {})


class TogetherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.refused: dict[str, Exception] = {}
        self.together = Together(self.put)

    def put(self, batch: Sequence[Stored]) -> list[Exception | None]:
        uids = [each.sop_instance_uid for each in batch]
        self.batches.append(uids)
        self.begun.release()
        self.assertTrue(self.may_end.acquire(timeout=SOON))
        return [self.refused.get(uid) for uid in uids]

    def enter(self, uid: str, outcomes: dict[str, Any]) -> threading.Thread:
        """In a thread; what comes of it: None, or what it raises."""

        def run() -> None:
            try:
                self.together.enter(stored(uid))
                outcomes[uid] = None
            except Exception as error:
                outcomes[uid] = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def enter_during(self, uids: Sequence[str], outcomes: dict[str, Any]) -> list[threading.Thread]:
        """The first begins a transaction, the others come while it goes on."""
        threads = [self.enter(uids[0], outcomes)]
        self.assertTrue(self.begun.acquire(timeout=SOON))
        for number, uid in enumerate(uids[1:], 1):
            threads.append(self.enter(uid, outcomes))
            self.wait_for(lambda number=number: len(self.together._waiting) == number)
        return threads

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        for _ in range(SOON * 1000):
            if is_so():
                return
            threading.Event().wait(0.001)
        self.fail("not in time")

    def join(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            thread.join(SOON)
            self.assertFalse(thread.is_alive())

    def test_shared(self) -> None:
        """Who comes while a transaction goes on is in the next, all of them in one; none returns before."""
        outcomes: dict[str, Any] = {}
        threads = self.enter_during(["1", "2", "3", "4"], outcomes)
        self.assertEqual((self.batches, outcomes), ([["1"]], {}))
        self.may_end.release()
        self.assertTrue(self.begun.acquire(timeout=SOON))
        self.wait_for(lambda: bool(outcomes))
        self.assertEqual((self.batches, outcomes), ([["1"], ["2", "3", "4"]], {"1": None}))
        self.may_end.release()
        self.join(threads)
        self.assertEqual(outcomes, dict.fromkeys("1234"))
        self.assertEqual(len(self.batches), 2)

    def test_refused(self) -> None:
        """Each hears what became of its own, whoever has made the transaction."""
        outcomes: dict[str, Any] = {}
        self.refused["3"] = DimseError(0xA700, "no")
        threads = self.enter_during(["1", "2", "3", "4"], outcomes)
        self.may_end.release(2)
        self.join(threads)
        self.assertEqual(outcomes, {"1": None, "2": None, "3": self.refused["3"], "4": None})

    def test_bug(self) -> None:
        """What should not happen is no reason to acknowledge anything."""
        outcomes: dict[str, Any] = {}
        bug = ZeroDivisionError()

        def put(batch: Sequence[Stored]) -> list[Exception | None]:
            TogetherTests.put(self, batch)
            raise bug

        self.together._put = put
        threads = self.enter_during(["1", "2", "3"], outcomes)
        self.may_end.release(2)
        self.join(threads)
        self.assertEqual(outcomes, dict.fromkeys("123", bug))


class Sink:
    def __init__(self, calls: list[Any], kept: Stored | None) -> None:
        self._calls = calls
        self.stored = kept

    def write(self, fragments: Sequence[memoryview]) -> None:
        self._calls.append("write")

    def commit(self, may_block: bool = True) -> None:
        self._calls.append(("commit", may_block))

    def discard(self) -> None:
        self._calls.append("discard")


class EnteringStoreTests(SynchronousTestCase):
    def sink(self, kept: Stored | None, enter: Callable[[Stored], None] | None = None) -> Any:
        self.calls: list[Any] = []

        inner = SimpleNamespace(open=lambda meta: Sink(self.calls, kept))
        return EnteringStore(inner, enter or self.calls.append).open(FileMeta("1", "2", "3"))

    def test_committed_and_entered(self) -> None:
        """In this order, and only where it may block."""
        one = stored("1")
        sink = self.sink(one)
        sink.write([memoryview(b"x")])
        self.assertRaises(WouldBlock, sink.commit, False)
        sink.commit()
        sink.discard()
        self.assertEqual(self.calls, ["write", ("commit", True), one, "discard"])
        self.assertIs(sink.stored, one)

    def test_nothing_new(self) -> None:
        sink = self.sink(None)
        sink.commit()
        self.assertEqual(self.calls, [("commit", True)])

    def test_refused(self) -> None:
        def refuse(_: Stored) -> None:
            raise DimseError(0xA700, "index: locked")

        self.assertRaises(DimseError, self.sink(stored("1"), refuse).commit)
