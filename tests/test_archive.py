"""dicomtw.archive: an index that is filled from the files, at once or when that becomes possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import archive
from dicomtw.archive import Archive
from dicomtw.config import Server
from dicomtw.errors import IndexFault
from dicomtw.indexing import GATHER
from dicomtw.storage.index.rebuild import Rebuilt
from dicomtw.storage.stored import read_stored
from dicomtw.testing import at_once
from tests.command.memory import write_object

DONE = Rebuilt(read=1, kept=0, unreadable=0, removed=0)


class FakeHelper:
    """A `Helper` that leaves everything to its parent."""

    def __init__(self) -> None:
        self.is_there = False
        self.batches = 0
        self.closed = 0

    def enter(self, batch: object) -> bool:
        self.batches += 1
        return False

    def close(self) -> None:
        self.is_there = False
        self.closed += 1


class FillTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.patch(archive, "deferToThreadPool", lambda reactor, pool, function: at_once(function))
        self.patch(archive, "deferToThread", at_once)
        #: What each try to fill the index comes to; without any, it is filled.
        self.outcomes: list[Callable[[Any], Any]] = []
        self.tries = 0
        rebuild = archive.rebuild

        def rebuilt(root: Path, index: Any, progress: Any, report: Any) -> Rebuilt:
            self.tries += 1
            if self.outcomes:
                return self.outcomes.pop(0)(progress)
            return rebuild(root, index, progress, report)

        self.patch(archive, "rebuild", rebuilt)

    def begun(self, objects: int = 1) -> Archive:
        """An archive whose index is begun to be filled from so many files."""
        root = Path(self.mktemp()).absolute()
        for number in range(objects):
            write_object(root / "1.2" / "1.2.3" / f"1.2.3.{number}.dcm", number)
        made = Archive(root, Server(port=4030, store=root, durability="relaxed"), self.reactor)
        self.addCleanup(lambda: self.closed(made))
        made.prepare()
        made.begin()
        return made

    def closed(self, made: Archive) -> None:
        self.successResultOf(made.close())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def fails(self, why: Exception) -> None:
        """The next try to fill an index fails."""

        def fail(_: object) -> Any:
            raise why

        self.outcomes.append(fail)

    def unsettled(self, made: Archive) -> str:
        """Why nobody is answered from the index."""
        return self.failureResultOf(made.settled(), IndexFault).getErrorMessage()

    def test_process_is_let_go(self) -> None:
        """The process that enters objects is closed when none has come for a minute, and with the archive."""
        process = FakeHelper()
        self.patch(archive, "Helper", lambda root, index, extra: process)
        made = self.begun()

        def add() -> None:
            path = made.root / "1.2" / "1.2.3" / "1.2.3.0.dcm"
            self.successResultOf(made.add(read_stored(path, made._files.wanted)))
            self.reactor.advance(GATHER)

        add()
        self.assertEqual(self.reactor.getDelayedCalls(), [], "it was not started")
        process.is_there = True
        add()
        self.reactor.advance(59)
        add()
        self.reactor.advance(59)
        self.assertEqual((process.batches, process.closed), (3, 0))
        self.reactor.advance(1)
        self.assertEqual(process.closed, 1)
        process.is_there = True
        add()
        self.closed(made)
        self.assertEqual(process.closed, 2)

    def test_filled(self) -> None:
        """Files that the index does not know are entered at the start, and then it answers."""
        made = self.begun(3)
        self.successResultOf(made.settled())
        self.assertEqual(made.index.counts()[3], 3)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_nothing_to_fill(self) -> None:
        """An empty store has its index at once."""
        made = self.begun(0)
        self.successResultOf(made.settled())
        self.assertEqual(self.tries, 0)

    def test_tried_again(self) -> None:
        """What keeps the index from being filled may pass: it is tried every minute until it is done."""
        self.fails(IndexFault("database or disk is full"))
        self.fails(OSError(5, "Input/output error"))
        with capturedLogs() as events:
            made = self.begun(2)
        (fault,) = [event for event in events if event["log_level"] is LogLevel.error]
        words = "it could not be made from the files: database or disk is full"
        self.assertEqual((fault["why"], fault["seconds"]), (words, 60))
        self.assertEqual(self.unsettled(made), words)
        self.reactor.advance(59)
        self.assertEqual(self.tries, 1)
        self.reactor.advance(1)
        self.assertIn("Input/output error", self.unsettled(made))
        self.reactor.advance(60)
        self.successResultOf(made.settled())
        self.assertEqual((self.tries, made.index.counts()[3]), (3, 2))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_closed_before_the_next_try(self) -> None:
        """A server that stops does not try again."""
        self.fails(IndexFault("database is locked"))
        made = self.begun()
        self.closed(made)
        self.reactor.advance(100)
        self.assertEqual(self.tries, 1)

    def test_closed_meanwhile(self) -> None:
        """One that stops while the index is filled ends that, and has nothing to tell of it."""
        for fault in (None, IndexFault("database is closed")):
            waits: list[Callable[[], Any]] = []

            def in_thread(_: object, __: object, function: Callable[[], Any]) -> Deferred[Any]:
                waiting: Deferred[Any] = Deferred()
                waits.append(lambda: at_once(function).chainDeferred(waiting))  # noqa: B023
                return waiting

            self.patch(archive, "deferToThreadPool", in_thread)
            made = self.begun()
            (go_on,) = waits
            self.outcomes.append(lambda progress: progress(1, 2))
            if fault is not None:
                self.outcomes.clear()
                self.fails(fault)
            with capturedLogs() as events:
                closed = made.close()
                go_on()
            self.successResultOf(closed)
            self.assertEqual([event for event in events if event["log_level"] is LogLevel.error], [])
            self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_progress(self) -> None:
        """Who asks meanwhile hears how far it is."""
        heard: list[str] = []

        def fill(progress: Callable[[int, int], None]) -> Rebuilt:
            for done in (0, 200):
                progress(done, 300)
                heard.append(self.unsettled(made))
            return DONE

        self.outcomes.append(fill)
        made = self.begun(0)
        made._is_complete = False
        made.begin()
        self.assertEqual(
            heard, [f"it is being made from the files, of which {done} of 300 are done" for done in (0, 200)]
        )
        self.successResultOf(made.settled())

    def test_lost_while_running(self) -> None:
        """One that is deleted while the server runs is made anew: what comes is in it, nobody asks it yet."""
        made = self.begun(3)
        self.successResultOf(made.settled())
        fill = self.fill_later(made)
        (made.root / ".index" / "index.sqlite3").unlink()
        stored = read_stored(write_object(made.root / "1.2" / "1.2.3" / "1.2.3.7.dcm", 7), made._files.wanted)
        with capturedLogs() as events:
            self.successResultOf(made.add(stored))
            self.reactor.advance(GATHER)
        (lost,) = [event for event in events if event["log_level"] is LogLevel.error]
        self.assertEqual(lost["why"], "it was deleted, moved or replaced")
        self.assertEqual(made.index.counts()[3], 1)
        self.assertEqual(self.unsettled(made), "it is being made from the files")
        fill()
        self.successResultOf(made.settled())
        self.assertEqual(made.index.counts()[3], 4)

    def test_damage_that_a_query_finds(self) -> None:
        """Who asks an index that turned out to be damaged is refused; it is made anew."""
        made = self.begun(3)
        fill = self.fill_later(made)
        made.index.lost = "database disk image is malformed"
        for _ in range(2):
            self.assertEqual(self.unsettled(made), "it is being made from the files")
        fill()
        self.successResultOf(made.settled())
        self.assertEqual((made.index.counts()[3], made.index.lost), (3, ""))

    def fill_later(self, made: Archive) -> Callable[[], Any]:
        """From now on the index is filled when this is called."""
        waits: list[Callable[[], Any]] = []
        call_aside = made.disk.call_aside

        def later(function: Callable[[], Any]) -> Deferred[Any]:
            waiting: Deferred[Any] = Deferred()
            waits.append(lambda: call_aside(function).chainDeferred(waiting))
            return waiting

        self.patch(made.disk, "call_aside", later)

        def fill() -> None:
            (only,) = waits  # it is filled once
            waits.clear()
            only()

        return fill
