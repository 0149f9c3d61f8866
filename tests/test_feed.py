"""Data-set bytes on their way to a sink: at once while the disk keeps up, in threads while it lags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import feed
from dicomtw.errors import DimseError
from dicomtw.feed import Disk, Feed
from dicomtw.storage import WouldBlock

FULL = DimseError(0xA700, "No space left on device")


class RecordingSink:
    """A sink that keeps a list of what is asked of it, and raises what it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        #: Raised by the method of that name.
        self.faults: dict[str, BaseException] = {}
        #: Whether a commit that may not block raises `WouldBlock`.
        self.blocks = False

    def _called(self, name: str, call: str) -> None:
        self.calls.append(call)
        if name in self.faults:
            raise self.faults[name]

    def write(self, fragments: Sequence[memoryview]) -> None:
        self._called("write", f"write {b' '.join(fragments).decode()}")

    def commit(self, may_block: bool = True) -> None:
        self._called("commit", "commit" if may_block else "try to commit")
        if self.blocks and not may_block:
            raise WouldBlock

    def discard(self) -> None:
        self._called("discard", "discard")


class Threads:
    """`in_thread` by hand: what is to be done waits until the test lets it happen."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((function, done))
        return done

    def run(self, number: int = 0) -> None:
        """What waits happens, that which waits the longest unless told otherwise, and its Deferred fires."""
        function, done = self.waiting.pop(number)
        try:
            result = function()
        except BaseException:
            done.errback()
        else:
            done.callback(result)


class FeedTestCase(SynchronousTestCase):
    """A feed with everything around it in the test's hands, the clock of the disk too."""

    def setUp(self) -> None:
        self.now = 100.0
        self.patch(feed, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.threads = Threads()
        self.disk = Disk(self.threads)
        self.sink = RecordingSink()
        self.busy: list[bool] = []
        self.feed = Feed(self.sink, self.disk, self.busy.append)

    def lag(self, seconds: float = 0.5) -> None:
        """A call that takes long, for which the disk is remembered for a while."""

        def slow() -> None:
            self.now += seconds

        self.disk.call(slow)

    def write(self, *fragments: str) -> None:
        """One chunk of fragments."""
        self.feed.write([memoryview(fragment.encode()) for fragment in fragments])

    def commit(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.feed.commit())


class DiskTests(FeedTestCase):
    def assert_lags_for(self, seconds: float) -> None:
        """The disk lags for that time, not longer."""
        self.now += seconds - 0.01
        self.assertTrue(self.disk.lags, seconds)
        self.now += 0.02
        self.assertFalse(self.disk.lags, seconds)

    def test_lag(self) -> None:
        """A disk lags for a second at least after a call of more than 20 ms, and not after a quick one."""
        self.assertFalse(self.disk.lags)
        self.lag(0.02 - 1e-6)
        self.assertFalse(self.disk.lags)
        self.lag(0.03)
        self.assert_lags_for(1)

    def test_memory_of_lag(self) -> None:
        """The slower a call was the longer it is remembered: twenty times what it took."""
        for seconds in (0.05, 0.06, 0.5, 3):
            self.lag(seconds)
            self.assert_lags_for(20 * seconds)

    def test_longest_memory(self) -> None:
        """A slow call after a slower one does not shorten the memory of that."""
        self.lag(1)
        self.lag(0.05)
        self.assert_lags_for(20 - 0.05)

    def test_lag_in_a_thread(self) -> None:
        """A call in a thread is seen like one made here, when it is over, whether or not it fails.

        How long it waited for a thread does not count.
        """
        for fault in (None, FULL):
            self.setUp()

            def function(fault: Exception | None = fault) -> None:
                self.now += 0.5
                self.raises(fault)()

            done = self.disk.call_in_thread(function)
            self.now += 0.9
            self.assertFalse(self.disk.lags)
            self.assertEqual(self.disk.busy, 1)
            self.threads.run()
            if fault is None:
                self.assertIsNone(self.successResultOf(done))
            else:
                self.assertIs(self.failureResultOf(done).value, fault)
            self.assertEqual(self.disk.busy, 0)
            self.assert_lags_for(10)

    def raises(self, fault: Exception | None) -> Callable[[], None]:
        def function() -> None:
            if fault is not None:
                raise fault

        return function

    def test_hanging_call(self) -> None:
        """A call in a thread that hangs makes the disk lag, before it is over and as long as it hangs."""
        self.disk.call_in_thread(self.raises(None))
        self.now += 0.99
        self.disk.call_in_thread(self.raises(None))
        self.assertFalse(self.disk.lags)
        self.now += 0.02
        self.assertTrue(self.disk.lags)
        self.now += 1000
        self.assertTrue(self.disk.lags)
        self.assertEqual(self.disk.busy, 2)

    def test_one_of_several_hangs(self) -> None:
        """The oldest call in a thread tells, whichever of them ends first."""
        for _ in range(3):
            self.disk.call_in_thread(self.raises(None))
            self.now += 0.001
        self.threads.run()
        self.threads.run()
        self.now += 1.1
        self.assertTrue(self.disk.lags)
        self.assertEqual(self.disk.busy, 1)

    def test_intended_waits(self) -> None:
        """A call that waits for the disk on purpose, as syncing does, is no lag however long it took."""
        for seconds in (0.5, 5):
            done = self.disk.call_in_thread(self.raises(None), waits=True)
            self.assertEqual(self.disk.busy, 1)
            self.now += seconds
            self.threads.run()
            self.successResultOf(done)
            self.assertFalse(self.disk.lags)
            self.assertEqual(self.disk.busy, 0)

    def test_slow_failure(self) -> None:
        """A slow call that fails is slow, too; what it raises comes out."""

        def fail() -> None:
            self.now += 1
            raise FULL

        self.assertRaises(DimseError, self.disk.call, fail)
        self.assertTrue(self.disk.lags)


class QuickTests(FeedTestCase):
    def test_everything_at_once(self) -> None:
        """While the disk keeps up no thread is asked and nobody is paused."""
        self.write("a", "b")
        self.write("c")
        self.successResultOf(self.commit())
        self.assertEqual(self.sink.calls, ["write a b", "write c", "try to commit"])
        self.assertEqual((self.threads.waiting, self.busy), ([], []))

    def test_commit_that_would_block(self) -> None:
        """A commit that would block is made again in a thread."""
        self.sink.blocks = True
        self.write("a")
        committed = self.commit()
        self.assertNoResult(committed)
        self.now += 0.9
        self.threads.run()
        self.successResultOf(committed)
        self.assertEqual(self.sink.calls, ["write a", "try to commit", "commit"])
        self.assertFalse(self.disk.lags, "a commit waits on purpose")

    def test_refused_write(self) -> None:
        """What a write refuses is discarded at once; what comes after it is dropped, and commit raises it."""
        self.sink.faults["write"] = FULL
        self.write("a")
        self.assertEqual(self.sink.calls, ["write a", "discard"])
        self.write("b")
        self.assertIs(self.failureResultOf(self.commit(), DimseError).value, FULL)
        self.feed.discard()
        self.assertEqual(self.sink.calls, ["write a", "discard"])

    def test_refused_commit(self) -> None:
        """What a commit raises comes out of it, made here or in a thread, and whatever it is."""
        for blocks in (False, True):
            for fault in (FULL, ZeroDivisionError("bug")):
                self.setUp()
                self.sink.blocks = blocks
                if not blocks:
                    self.sink.faults["commit"] = fault
                committed = self.commit()
                if blocks:
                    self.sink.faults["commit"] = fault
                    self.threads.run()
                self.assertIs(self.failureResultOf(committed).value, fault)

    def test_discard(self) -> None:
        """Discarded once, whoever asks; what comes after is dropped."""
        self.write("a")
        self.feed.discard()
        self.write("b")
        self.feed.discard()
        self.assertEqual(self.sink.calls, ["write a", "discard"])

    def test_large_discard(self) -> None:
        """More than a megabyte is removed in a thread, up to that here."""
        for excess, in_thread in ((0, False), (1, True)):
            self.setUp()
            self.feed.write([memoryview(bytes(1 << 19))])
            self.feed.write([memoryview(bytes((1 << 19) + excess))])
            self.sink.calls.clear()
            self.feed.discard()
            self.assertEqual(len(self.threads.waiting), int(in_thread), excess)
            self.feed.discard()
            while self.threads.waiting:
                self.assertEqual(self.sink.calls, [])
                self.threads.run()
            self.assertEqual(self.sink.calls, ["discard"])

    def test_large_discard_fails(self) -> None:
        """A sink that fails to let go in a thread is a bug, and logged."""
        self.feed.write([memoryview(bytes((1 << 20) + 1))])
        self.sink.faults["discard"] = ZeroDivisionError("bug")
        self.feed.discard()
        self.threads.run()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nothing_to_discard(self) -> None:
        """What is committed, here or in a thread, is not discarded; what failed to be committed is."""
        for blocks in (False, True):
            for fault in (None, FULL):
                self.setUp()
                self.sink.blocks = blocks
                if fault is not None and not blocks:
                    self.sink.faults["commit"] = fault
                self.write("a")
                committed = self.commit()
                if blocks:
                    if fault is not None:
                        self.sink.faults["commit"] = fault
                    self.threads.run()
                (self.successResultOf if fault is None else self.failureResultOf)(committed)
                self.feed.discard()
                self.assertEqual(self.sink.calls.count("discard"), 0 if fault is None else 1)


class LaggingTests(FeedTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.lag()

    def test_order(self) -> None:
        """Writes go to a thread one at a time, in order; what comes meanwhile is one write."""
        self.write("a", "b")
        self.write("c")
        self.write("d", "e")
        self.assertEqual(len(self.threads.waiting), 1)
        self.threads.run()
        self.assertEqual(self.sink.calls, ["write a b"])
        self.write("f")
        self.threads.run()
        while self.threads.waiting:
            self.threads.run()
        self.assertEqual(" ".join(call.removeprefix("write ") for call in self.sink.calls), "a b c d e f")

    def test_order_when_the_disk_recovers(self) -> None:
        """While a write is in a thread the next ones wait for it, though the disk lags no more."""
        self.now += 10 - 0.001
        self.write("a")
        self.now += 0.002
        self.assertFalse(self.disk.lags)
        self.write("b")
        self.assertEqual(self.sink.calls, [])
        self.threads.run()
        self.threads.run()
        self.write("c")
        self.assertEqual(self.sink.calls, ["write a", "write b", "write c"])

    def test_pause(self) -> None:
        """The peer is paused from the first write that waits until the last is done, and told once."""
        self.write("a")
        self.write("b")
        self.assertEqual(self.busy, [True])
        self.threads.run()
        self.assertEqual(self.busy, [True])
        self.threads.run()
        self.assertEqual(self.busy, [True, False])
        self.write("c")
        self.threads.run()
        self.assertEqual(self.busy, [True, False, True, False])

    def test_commit_waits(self) -> None:
        """A commit waits for the writes before it, and is made in a thread while the disk lags."""
        self.write("a")
        committed = self.commit()
        self.assertEqual(self.sink.calls, [])
        self.threads.run()
        self.assertEqual(self.sink.calls, ["write a"])
        self.assertNoResult(committed)
        self.threads.run()
        self.successResultOf(committed)
        self.assertEqual(self.sink.calls, ["write a", "commit"])

    def test_commit_when_the_disk_recovers(self) -> None:
        """If the disk has recovered when the writes are done, the commit is tried here."""
        self.now += 10 - 0.001
        self.write("a")
        committed = self.commit()
        self.now += 0.002
        self.threads.run()
        self.successResultOf(committed)
        self.assertEqual(self.sink.calls, ["write a", "try to commit"])

    def test_refused_write(self) -> None:
        """What a write in a thread raises, commit raises; what was written is discarded, the rest dropped."""
        for fault in (FULL, ZeroDivisionError("bug")):
            self.setUp()
            self.sink.faults["write"] = fault
            self.write("a")
            self.write("b")
            self.threads.run()
            self.write("c")
            self.threads.run()
            self.assertEqual(self.busy, [True, False])
            self.assertIs(self.failureResultOf(self.commit()).value, fault)
            self.assertEqual((self.sink.calls, self.threads.waiting), (["write a", "discard"], []))

    def test_refused_write_with_the_commit_waiting(self) -> None:
        """A commit that waits for a write raises what the write raises."""
        self.sink.faults["write"] = FULL
        self.write("a")
        committed = self.commit()
        self.threads.run()
        self.threads.run()
        self.assertIs(self.failureResultOf(committed, DimseError).value, FULL)

    def test_discard_while_a_thread_writes(self) -> None:
        """A sink is never discarded while a thread writes to it, but when that is done, in a thread too."""
        self.write("a")
        self.write("b")
        self.feed.discard()
        self.feed.discard()
        self.assertEqual(self.sink.calls, [])
        self.threads.run()
        self.assertEqual((self.sink.calls, self.busy), (["write a"], [True]))
        self.threads.run()
        self.assertEqual(self.sink.calls, ["write a", "discard"])
        self.assertEqual(self.busy, [True, False])
        self.assertEqual(self.threads.waiting, [])

    def test_discard_while_a_thread_fails(self) -> None:
        """Nor when that write fails: discarded once, and what failed is of no interest any more."""
        self.sink.faults["write"] = FULL
        self.write("a")
        self.feed.discard()
        self.threads.run()
        self.assertEqual(self.sink.calls, ["write a"])
        self.threads.run()
        self.assertEqual(self.sink.calls, ["write a", "discard"])
        self.assertEqual(self.threads.waiting, [])

    def test_discard(self) -> None:
        """While the disk lags even a little is removed in a thread."""
        self.feed.discard()
        self.assertEqual(self.sink.calls, [])
        self.threads.run()
        self.assertEqual(self.sink.calls, ["discard"])

    def test_discard_fails_after_a_write(self) -> None:
        """A sink that fails to let go does not keep its peer paused."""
        self.write("a")
        self.sink.faults["discard"] = ZeroDivisionError("bug")
        self.feed.discard()
        self.threads.run()
        self.threads.run()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.busy, [True, False])

    def test_shared(self) -> None:
        """A disk that lags for one data set lags for all that share it."""
        other = RecordingSink()
        Feed(other, self.disk, self.busy.append).write([memoryview(b"x")])
        self.assertEqual((other.calls, len(self.threads.waiting)), ([], 1))


class AnyFaultTests(FeedTestCase):
    def test_bug_in_a_quick_write(self) -> None:
        """What the sink raises, commit raises: a bug in a write, too."""
        self.sink.faults["write"] = ZeroDivisionError("bug")
        self.write("a")
        self.failureResultOf(self.commit(), ZeroDivisionError)
