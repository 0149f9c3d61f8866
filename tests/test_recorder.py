"""Audit messages on their way through the queue: no collector, no disk, too many of them, and the end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import recorder
from dicomtw.collectors import CollectorAway
from dicomtw.recorder import FAREWELL, FIRST_DELAY, LAST_WRITING, LONGEST_DELAY, PORTION, Recorder
from dicomtw.security.audit import events
from dicomtw.security.audit.events import Events, Party
from dicomtw.security.audit.message import AuditMessage
from dicomtw.security.audit.queue import Queue
from dicomtw.security.audit.syslog import Entry
from dicomtw.testing import at_once

T = TypeVar("T")

EVENTS = Events(ae_title="PMOD", process_id="1", host="h")


def message(number: int) -> AuditMessage:
    return EVENTS.alert(events.NODE_AUTHENTICATION, f"<{number}>", Party(address="192.0.2.1"))


def number_of(entry: Entry) -> str:
    """What is told by a message of `message`."""
    return entry.xml.partition("&lt;")[2].partition("&gt;")[0]


class MemoryCollector:
    """Takes messages, `at_a_time` of them at most, unless it is `away`; or when the test says so."""

    def __init__(self) -> None:
        self.taken: list[Entry] = []
        self.away = ""
        self.at_a_time = 1000
        self.tries = 0
        self.slow: Deferred[int] | None = None
        self.closed = False

    def deliver(self, entries: Sequence[Entry]) -> Deferred[int]:
        self.tries += 1
        if self.slow is not None:
            return self.slow
        return at_once(lambda: self._take(entries))

    def _take(self, entries: Sequence[Entry]) -> int:
        if self.away:
            raise CollectorAway(self.away)
        self.taken += entries[: self.at_a_time]
        return len(entries[: self.at_a_time])

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)

    @property
    def numbers(self) -> list[int]:
        return [int(number_of(entry)) for entry in self.taken]


class Thread:
    """A thread that is at its work as long as the test wants."""

    def __init__(self) -> None:
        self.busy = False
        self.waiting: list[Callable[[], object]] = []
        self.calls = 0

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        called: Deferred[T] = Deferred()

        def run() -> None:
            at_once(function).chainDeferred(called)

        self.calls += 1
        if self.busy:
            self.waiting.append(run)
        else:
            run()
        return called

    def go_on(self) -> None:
        self.busy = False
        while self.waiting:
            self.waiting.pop(0)()


class RecorderTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.clock = Clock()
        self.thread = Thread()
        self.collector = MemoryCollector()
        self.sync: Any = None

    def recorder(self, **more: Any) -> Recorder:
        """A recorder that has been started, in the place of the one before."""
        queue = Queue(self.directory, **more)
        self.addCleanup(queue.close)
        made = Recorder(
            queue,
            self.collector,
            self.thread,
            self.clock,
            name="udp:log:514",
            lost=lambda count: (EVENTS.alert(events.AUDIT_RECORDING_STARTED, f"<-{count}>"),),
        )
        made.start()
        return made

    def record(self, made: Recorder, *numbers: int) -> None:
        for number in numbers:
            made.record(message(number))

    def fail_disk(self, number: int = errno.ENOSPC) -> None:
        """From now on nothing can be appended."""

        def fails(fd: int) -> None:
            raise OSError(number, os.strerror(number))

        self.sync = os.fdatasync
        self.patch(os, "fdatasync", fails)

    def mend_disk(self) -> None:
        self.patch(os, "fdatasync", self.sync)

    def stopped(self, made: Recorder) -> None:
        self.successResultOf(made.stop())
        self.assertTrue(self.collector.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DeliveryTests(RecorderTestCase):
    def test_at_once(self) -> None:
        """What is recorded is delivered, in its order."""
        made = self.recorder()
        self.record(made, 1, 2, 3)
        self.assertEqual(self.collector.numbers, [1, 2, 3])
        self.assertEqual(made.fault, "")
        self.stopped(made)
        self.assertEqual(list(self.directory.glob("*.segment")), [])

    def test_portions(self) -> None:
        """A collector may take less than it is given."""
        self.collector.at_a_time = 3
        self.thread.busy = True
        made = self.recorder()
        self.record(made, *range(1000))
        self.thread.go_on()
        self.assertEqual(self.collector.numbers, list(range(1000)))

    def test_batches(self) -> None:
        """What comes while the thread is busy costs one append."""
        made = self.recorder()
        self.thread.busy = True
        appended: list[int] = []
        append = Queue.append
        self.patch(Queue, "append", lambda *given: (appended.append(len(given[1])), append(*given))[1])
        self.record(made, *range(100))
        self.assertEqual(self.collector.numbers, [])
        self.thread.go_on()
        self.assertEqual(self.collector.numbers, list(range(100)))
        self.assertEqual(appended, [1, 99])

    def test_away(self) -> None:
        """While the collector is away messages wait, and it is tried again later and later; one line says so,
        and one that it is over.
        """
        made = self.recorder()
        self.collector.away = "connection refused"
        with capturedLogs() as logs:
            self.record(made, 1)
            delay, elapsed = FIRST_DELAY, list[float]()
            for _ in range(10):
                tries = self.collector.tries
                self.clock.advance(delay - 0.01)
                self.assertEqual(self.collector.tries, tries)
                self.record(made, tries + 1)
                self.assertEqual(self.collector.tries, tries)
                self.clock.advance(0.01)
                self.assertEqual(self.collector.tries, tries + 1)
                elapsed.append(delay)
                delay = min(2 * delay, LONGEST_DELAY)
            self.assertEqual(elapsed, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60])
            self.collector.away = ""
            self.clock.advance(60)
            self.assertEqual(self.collector.numbers, list(range(1, 12)))
            self.collector.away = "gone"
            tries = self.collector.tries
            self.record(made, 12)
            self.clock.advance(FIRST_DELAY)
            self.assertEqual(self.collector.tries, tries + 2, "after a success it is tried soon again")
        lines = [formatEvent(event) for event in logs]
        self.assertEqual(
            lines,
            [
                "audit messages do not get to udp:log:514 and wait on disk: connection refused",
                "audit messages get to udp:log:514 again",
                "audit messages do not get to udp:log:514 and wait on disk: gone",
            ],
        )
        self.stopped(made)

    def test_restart(self) -> None:
        """What was not delivered is delivered after the next start, before what comes then; also after one
        that ended without a word.
        """
        self.collector.away = "down"
        made = self.recorder()
        self.record(made, 1, 2)
        self.stopped(made)
        self.collector.closed = False
        killed = self.recorder()
        self.record(killed, 3)
        killed._queue.close()  # as the kernel does
        self.collector.away = ""
        self.clock = Clock()
        made = self.recorder()
        self.assertEqual(self.collector.numbers, [1, 2, 3])
        self.record(made, 4)
        self.assertEqual(self.collector.numbers, [1, 2, 3, 4])

    def test_cut_off(self) -> None:
        """An unfinished message of an earlier run is cut off, and a line says so."""
        self.collector.away = "down"
        made = self.recorder()
        self.record(made, 1, 2)
        self.stopped(made)
        (path,) = self.directory.glob("*.segment")
        path.write_bytes(path.read_bytes()[:-5])
        self.collector.away = ""
        with capturedLogs() as logs:
            self.recorder()
        self.assertEqual(self.collector.numbers, [1])
        self.assertIn("an unfinished audit message", formatEvent(logs[0]))

    def test_unknown(self) -> None:
        """What is no entry is passed over, and counts as lost."""
        queue = Queue(self.directory)
        queue.open()
        good = [Entry.of(message(number), "1").encode() for number in range(3)]
        queue.append([b"?", b"??", good[0], b"?", b"?", good[1], good[2], b"?"])
        queue.close()
        with capturedLogs() as logs:
            made = self.recorder()
        self.assertEqual([number for number in self.collector.numbers if number >= 0], [0, 1, 2])
        self.assertEqual(sum(number for number in self.collector.numbers if number < 0), -5)
        self.assertEqual(formatEvent(logs[0]), "2 records of the audit queue are no messages")
        self.record(made, 3)
        self.assertEqual(self.collector.numbers[-1], 3)

    def test_unreadable(self) -> None:
        """What cannot be read of the queue is lost, which is said, and in the trail too."""
        self.collector.away = "down"
        made = self.recorder()
        self.record(made, 1, 2)
        (path,) = self.directory.glob("*.segment")
        path.write_bytes(bytes(path.stat().st_size))
        made._queue._read = []
        self.collector.away = ""
        with capturedLogs() as logs:
            self.clock.advance(FIRST_DELAY)
            self.record(made, 3)
        self.assertEqual(self.collector.numbers, [-1, 3])
        self.assertIn("the audit queue is damaged", formatEvent(logs[0]))

    def test_damaged(self) -> None:
        """So it is if that is found at the start."""
        self.collector.away = "down"
        made = self.recorder()
        self.record(made, 1, 2, 3)
        self.stopped(made)
        (path,) = self.directory.glob("*.segment")
        data = bytearray(path.read_bytes())
        data[20] ^= 1
        path.write_bytes(data)
        self.collector.away = ""
        with capturedLogs() as logs:
            made = self.recorder()
        self.assertEqual(self.collector.numbers, [-3])
        self.assertEqual(
            [formatEvent(event) for event in logs],
            ["the audit queue is damaged; the files are kept as *.damaged", "3 audit messages were lost"],
        )

    def test_bug(self) -> None:
        """A bug of a collector's is logged, and what comes later is delivered."""
        made = self.recorder()
        self.collector.slow = Deferred()
        self.record(made, 1)
        self.collector.slow.errback(KeyError("bug"))
        self.collector.slow = None
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.record(made, 2)
        self.assertEqual(self.collector.numbers, [1, 2])


class LossTests(RecorderTestCase):
    def test_disk_full(self) -> None:
        """While the queue cannot be written messages wait in memory; nobody fails, and it is said once."""
        made = self.recorder()
        self.fail_disk()
        with capturedLogs() as logs:
            self.record(made, 1, 2)
            self.assertEqual(made.fault, "the audit queue cannot be written: No space left on device")
            self.clock.advance(FIRST_DELAY)
            self.record(made, 3)
            self.clock.advance(FIRST_DELAY)
            self.assertTrue(made.fault)
            self.mend_disk()
            self.clock.advance(FIRST_DELAY)
        self.assertEqual(made.fault, "")
        self.assertEqual(self.collector.numbers, [1, 2, 3])
        self.assertEqual(
            [formatEvent(event) for event in logs],
            [
                "the audit queue cannot be written: No space left on device",
                "the audit queue is written again",
            ],
        )
        self.stopped(made)

    def test_order(self) -> None:
        """What could not be written is written before what came meanwhile."""
        made = self.recorder()
        self.fail_disk()
        self.thread.busy = True
        self.record(made, 1)
        self.thread.go_on()
        self.thread.busy = True
        self.clock.advance(FIRST_DELAY)
        self.record(made, 2, 3)
        self.thread.go_on()
        self.thread.busy = True
        self.clock.advance(2 * FIRST_DELAY)  # all three, in one append
        self.record(made, 4)
        self.thread.go_on()
        self.mend_disk()
        self.clock.advance(4 * FIRST_DELAY)
        self.assertEqual(self.collector.numbers, [1, 2, 3, 4])

    def test_no_memory(self) -> None:
        """What cannot be written for another reason is lost, and counted; what comes later is not."""
        made = self.recorder()
        self.thread.busy = True
        append = Queue.append

        def fails(queue: Queue, records: Sequence[bytes]) -> None:
            raise MemoryError

        self.record(made, 1)
        self.thread.go_on()
        self.thread.busy = True
        self.patch(Queue, "append", fails)
        self.record(made, 2)
        self.record(made, 3, 4)
        self.thread.go_on()
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)
        self.patch(Queue, "append", append)
        self.clock.advance(FIRST_DELAY)
        self.assertEqual(self.collector.numbers, [1, 3, 4, -1])
        self.assertEqual(made._size, 0)
        self.stopped(made)

    def test_room_again(self) -> None:
        """When a delivery has made room what waits in memory is written at once."""
        self.collector.away = "down"
        size = len(Entry.of(message(1), str(os.getpid())).encode()) + 8
        made = self.recorder(maximum=3 * size)
        self.record(made, 1)
        self.clock.advance(FIRST_DELAY / 2)
        self.record(made, 2, 3, 4)
        self.collector.away = ""
        self.clock.advance(FIRST_DELAY / 2)
        self.assertEqual(self.collector.numbers, [1, 2, 3, 4])

    def test_queue_full(self) -> None:
        """A queue that is full keeps the oldest; as soon as some of it is delivered it goes on."""
        self.collector.away = "down"
        size = len(Entry.of(message(1), str(os.getpid())).encode()) + 8
        made = self.recorder(maximum=3 * size)
        self.record(made, 1, 2, 3)
        self.assertEqual(made.fault, "")
        self.record(made, 4, 5)
        self.assertIn("it is full", made.fault)
        self.collector.away = ""
        self.clock.advance(FIRST_DELAY)
        self.assertEqual(made.fault, "")
        self.assertEqual(self.collector.numbers, [1, 2, 3, 4, 5])

    def test_lost(self) -> None:
        """What memory has no room for is lost: at once a line says so, and afterwards one and a message how
        many there were.
        """
        self.patch(recorder, "MAXIMUM_WAITING", 5)
        made = self.recorder()
        self.fail_disk()
        with capturedLogs() as logs:
            self.record(made, *range(1, 9))
            self.assertTrue(made.fault)
            self.mend_disk()
            self.clock.advance(FIRST_DELAY)
        self.assertEqual(self.collector.numbers, [1, 2, 3, 4, 5, -3])
        lines = [formatEvent(event) for event in logs]
        self.assertEqual(len(lines), 4)
        self.assertTrue(lines[1].startswith("audit messages are lost: the audit queue cannot be written"))
        self.assertEqual(lines[3], "3 audit messages were lost")

    def test_too_long(self) -> None:
        """A message that is longer than any should be is lost, which is said, and the next is not."""
        self.patch(recorder, "MAXIMUM_RECORD", 2000)
        made = self.recorder()
        with capturedLogs() as logs:
            made.record(EVENTS.query(Party(ae_title="A"), "1.2", "1.2", bytes(2000)))
            self.record(made, 1)
        self.assertEqual(self.collector.numbers, [1])
        self.assertIn("is lost: it is too long", formatEvent(logs[0]))

    def test_slow_disk(self) -> None:
        """A disk that hangs is a fault when memory is full: by number or by size."""
        for name, value in (("MAXIMUM_WAITING", 5), ("MAXIMUM_SIZE", 6000)):
            self.directory = Path(self.mktemp())
            self.collector, self.thread = MemoryCollector(), Thread()
            made = self.recorder()
            patched = self.patch(recorder, name, value)
            self.thread.busy = True
            self.record(made, *range(1, 5))
            self.assertEqual(made.fault, "")
            self.record(made, *range(5, 10))
            self.assertEqual(made.fault, "too many audit messages wait for the disk")
            self.thread.go_on()
            self.assertEqual(made.fault, "")
            self.assertEqual(self.collector.numbers[:5], [1, 2, 3, 4, 5])
            self.assertLess(self.collector.numbers[-1], 0)
            patched.restore()


class ManyTests(RecorderTestCase):
    """Messages that one event makes many of."""

    def many(self, made: Recorder, *numbers: int) -> None:
        made.record_all([partial(message, number) for number in numbers])

    def test_turns(self) -> None:
        """They are recorded in their order, a few at a time, and what comes meanwhile is among them."""
        made = self.recorder()
        self.many(made, *range(3 * PORTION))
        self.assertEqual(self.collector.numbers, list(range(PORTION)))
        self.record(made, 1000)
        self.many(made, 3 * PORTION)
        self.assertEqual(self.collector.numbers[PORTION:], [1000])
        for _ in range(3):
            self.clock.advance(0)
        expected = [*range(PORTION), 1000, *range(PORTION, 3 * PORTION + 1)]
        self.assertEqual(self.collector.numbers, expected)
        self.stopped(made)

    def test_room(self) -> None:
        """They leave others half of the memory, and wait for the disk."""
        self.patch(recorder, "MAXIMUM_WAITING", 20)
        made = self.recorder()
        self.thread.busy = True
        self.many(made, *range(100))
        for _ in range(10):
            self.clock.advance(0)
        self.record(made, *range(1000, 1009))
        self.assertEqual(made._lost, 0)
        self.assertEqual(made.fault, "")
        self.thread.go_on()
        for _ in range(20):
            self.clock.advance(0)
        numbers = self.collector.numbers
        self.assertEqual([number for number in numbers if number < 1000], list(range(100)))
        self.assertEqual([number for number in numbers if number >= 1000], list(range(1000, 1009)))
        self.stopped(made)

    def test_limit(self) -> None:
        """Only so many wait; what is more is lost, which is said."""
        self.patch(recorder, "MAXIMUM_DUE", 60)
        made = self.recorder()
        self.many(made, *range(60))
        self.assertEqual(made.fault, "")
        self.many(made, *range(60, 112))
        self.assertIn("too many", made.fault)
        for _ in range(3):
            self.clock.advance(0)
        self.assertEqual(made.fault, "")
        self.assertEqual(sorted(self.collector.numbers), [-2, *range(110)])
        self.stopped(made)

    def test_end(self) -> None:
        """At the end those that are left are written."""
        self.patch(recorder, "MAXIMUM_WAITING", 20)
        for busy in (False, True):
            self.directory = Path(self.mktemp())
            self.collector = MemoryCollector()
            made = self.recorder()
            self.thread.busy = busy
            self.many(made, *range(200))
            stopping = made.stop()
            while self.thread.waiting:
                self.thread.waiting.pop(0)()
            self.successResultOf(stopping)
            self.assertEqual(self.collector.numbers, list(range(200)))
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.thread.busy = False

    def test_disk_full(self) -> None:
        """Or counted as lost."""
        made = self.recorder()
        self.fail_disk()
        self.many(made, *range(200))
        with capturedLogs() as logs:
            self.stopped(made)
        self.assertTrue(formatEvent(logs[-1]).startswith("200 audit messages are lost"))


class EndTests(RecorderTestCase):
    def test_away(self) -> None:
        """A collector that is away is not tried once more."""
        self.collector.away = "down"
        made = self.recorder()
        self.record(made, 1)
        tries = self.collector.tries
        self.stopped(made)
        self.assertEqual(self.collector.tries, tries)

    def test_disk_hangs(self) -> None:
        """A disk that does not answer is not waited for longer than said, and a line says so."""
        made = self.recorder()
        self.thread.busy = True
        self.record(made, 1, 2)
        stopping = made.stop()
        with capturedLogs() as logs:
            for _ in range(100):
                self.clock.advance(0.5)
        self.successResultOf(stopping)
        self.assertIn("does not answer", formatEvent(logs[-1]))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertLess(LAST_WRITING + FAREWELL + LAST_WRITING, 30)
        self.thread.go_on()

    def test_written(self) -> None:
        """At the end what waits is written and delivered."""
        made = self.recorder()
        self.thread.busy = True
        self.record(made, 1, 2, 3)
        stopping = made.stop()
        self.assertNoResult(stopping)
        self.thread.go_on()
        self.successResultOf(stopping)
        self.assertEqual(self.collector.numbers, [1, 2, 3])

    def test_slow_collector(self) -> None:
        """A collector that takes its time is not waited for longer than said; the messages stay."""
        made = self.recorder()
        self.collector.slow = Deferred()
        self.record(made, 1, 2)
        stopping = made.stop()
        self.clock.advance(FAREWELL - 0.1)
        self.assertNoResult(stopping)
        self.clock.advance(0.2)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.collector.slow = None
        self.recorder()
        self.assertEqual(self.collector.numbers, [1, 2])

    def test_disk_full(self) -> None:
        """What cannot be written at the end is lost, and a line says how much."""
        made = self.recorder()
        self.fail_disk()
        self.record(made, 1, 2)
        with capturedLogs() as logs:
            self.stopped(made)
        self.assertTrue(formatEvent(logs[-1]).startswith("2 audit messages are lost"))

    def test_another_process(self) -> None:
        """A queue that another process has cannot be started with."""
        self.recorder()
        self.assertRaises(BlockingIOError, self.recorder)
