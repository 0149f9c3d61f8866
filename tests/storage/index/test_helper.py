"""The process that enters objects: what it does, and what its parent makes of it."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage.directory import DirectoryStore, Durability
from dicomtw.storage.index import helper
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.helper import MANY, MOST, PAUSE, Helper, Task, serve, set_patience
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored
from tests.storage import CT_IMAGE_STORAGE, EXPLICIT, data_set, element
from tests.storage.index import ATTRIBUTES, found


def sent(batch: Sequence[Stored]) -> list[tuple[Any, ...]]:
    """Objects as the parent sends them."""
    return [attrs.astuple(stored, recurse=False) for stored in batch]


class Acting(Connection):
    """Does something before anything is done with what it has received."""

    def __init__(self, connection: Connection, act: Callable[[], object]) -> None:
        super().__init__(os.dup(connection.fileno()))
        self.act = act

    def recv(self) -> Any:
        received = super().recv()
        self.act()
        return received


class ServeTests(SynchronousTestCase):
    """What happens in the process."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.store = DirectoryStore(self.root, Durability.RELAXED, indexed=ATTRIBUTES.tags)
        self.store.prepare()
        self.addCleanup(self.store.close)
        (self.root / INDEX).mkdir()
        self.path = self.root / INDEX / FILE_NAME
        self.index = Index(self.path, ATTRIBUTES, synchronous=False)
        self.addCleanup(self.index.close)
        self.index.open()
        self.index.set_complete()
        self.task = Task(str(self.root), [], self.index.first_id)
        self.ours, self.its = Pipe()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.its.close)

    def put(self, uid: str, patient: bytes = b"P1") -> Stored:
        """Store an object, of which the index does not know yet."""
        sink = self.store.open(FileMeta(CT_IMAGE_STORAGE, uid, EXPLICIT))
        sink.write([memoryview(data_set(uid, b"payload.", middle=element(0x00100020, "LO", patient)))])
        sink.commit()
        assert sink.stored is not None
        return sink.stored

    def serve(self, *batches: Sequence[Stored]) -> list[bool]:
        """What it answers, at first that it is ready, to a parent that sends these and is gone."""
        for batch in batches:
            self.ours.send(sent(batch))
        reading = Connection(os.dup(self.ours.fileno()), writable=False)
        self.addCleanup(reading.close)
        half_closed(self.ours)
        serve(self.its, self.task)
        answers = []
        while reading.poll():
            answers.append(reading.recv())
        return answers

    @property
    def notes(self) -> list[Path]:
        return list((self.root / ".incoming").iterdir())

    def test_enters(self) -> None:
        """The index has what comes, and the journal has it no more."""
        batches = [[self.put("1.1"), self.put("1.2")], [self.put("1.3")]]
        self.assertEqual(len(self.notes), 3)
        self.assertEqual(self.serve(*batches), [True, True, True])
        self.assertEqual(found(self.index, "IMAGE", "SOPInstanceUID"), ["1.1", "1.2", "1.3"])
        self.assertEqual(self.notes, [])

    def test_replaced(self) -> None:
        """Of what was replaced meanwhile it has the last version, whichever it hears of."""
        first, second = self.put("1.1", b"P1"), self.put("1.1", b"P2")
        self.assertEqual(self.serve([second], [first]), [True, True, True])
        self.assertEqual(found(self.index, "PATIENT", "PatientID"), ["P2"])
        self.assertEqual(self.notes, [])

    def refuses(self) -> None:
        """It says that it cannot help, and changes nothing."""
        batch = [self.put("1.1")]
        before = sorted(os.listdir(self.path.parent))
        self.assertEqual(self.serve(batch), [False])
        self.assertEqual(len(self.notes), 1)
        self.assertEqual(sorted(os.listdir(self.path.parent)), before)

    def test_not_there(self) -> None:
        """An index that is not there is not made."""
        self.index.close()
        self.path.unlink()
        self.refuses()

    def test_incomplete(self) -> None:
        """Where the index has yet to be filled, it has nothing to do."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("DELETE FROM meta WHERE name = 'complete'")
        self.refuses()

    def test_another(self) -> None:
        """Nor with an index that is not its parent's any more."""
        self.task = attrs.evolve(self.task, first_id=self.task.first_id + 1)
        self.refuses()

    def test_another_layout(self) -> None:
        """Nor with one that has other attributes: it is not remade."""
        self.task = attrs.evolve(self.task, extra=["KVP"])
        self.refuses()
        self.assertEqual(self.index.counts()[3], 0)

    def test_another_version(self) -> None:
        """Nor for a parent that is of another version: another one has been installed since it started."""
        self.task = attrs.evolve(self.task, version="0")
        self.refuses()

    def test_damaged(self) -> None:
        """What is damaged is its parent's to see, and to set aside."""
        self.index.close()
        self.path.write_bytes(b"rubbish" * 5000)
        batch = [self.put("1.1")]
        self.assertEqual(self.serve(batch), [False])
        self.assertEqual(list(self.path.parent.glob("*.corrupt-*")), [])

    def test_remade_meanwhile(self) -> None:
        """It enters nothing into what another run has made in the same file for other attributes."""
        self.its = Acting(self.its, self._remake)
        self.addCleanup(self.its.close)
        self.assertEqual(self.serve([self.put("1.1")]), [True, False])
        self.assertEqual(len(self.notes), 1)
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(connection.execute("SELECT count(*) FROM instance").fetchone(), (0,))

    def _remake(self) -> None:
        other = Index(self.path, Attributes(["KVP"]), synchronous=False)
        self.addCleanup(other.close)
        other.open()

    def test_locked(self) -> None:
        """Who else writes is not waited for as long as its parent does."""
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        self.patch(helper, "_BUSY", 0.0)
        other.execute("BEGIN IMMEDIATE")
        self.assertEqual(self.serve([self.put("1.1")]), [True, False])

    def test_leaves_nothing(self) -> None:
        """When it ends it leaves no row that says that it had the index open: that of its parent says it."""
        rows = self._meta_rows()
        self.assertEqual(self.serve([self.put("1.1")]), [True, True])
        self.assertEqual(self._meta_rows(), rows)

    def _meta_rows(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM meta ORDER BY name")]

    def test_bug(self) -> None:
        """What it cannot enter it says so of, and ends; the journal has it still."""
        good, bad = self.put("1.1"), attrs.evolve(self.put("1.2"), transfer_syntax_uid=None)
        self.assertEqual(self.serve([good], [good, bad], [good]), [True, True, False])
        self.assertEqual(len(self.notes), 1)

    def test_lost(self) -> None:
        """An index that was deleted is its parent's to make anew."""
        batch = [self.put("1.1")]
        self.its = Acting(self.its, partial(self.path.unlink, missing_ok=True))
        self.addCleanup(self.its.close)
        self.assertEqual(self.serve(batch, batch), [True, False])
        self.assertFalse(self.path.exists())


INDEX_OF_NOTHING = Index(Path("/nowhere"), ATTRIBUTES, synchronous=False)


class Scripted(Helper):
    """Whose process is a connection that has its answers already."""

    def __init__(self, *answers: bool) -> None:
        self.time = 1000.0
        super().__init__(Path("/nowhere"), INDEX_OF_NOTHING, [], lambda: self.time)
        self.answers = answers
        self.starts = 0
        self.patience = 5.0
        self.peer: Connection | None = None

    def _start(self) -> Connection:
        self.starts += 1
        ours, its = socket.socketpair()
        set_patience(ours, self.patience)
        ours, self.peer = Connection(ours.detach()), Connection(its.detach())
        for answer in self.answers:
            self.peer.send(answer)
        return ours

    def end(self) -> None:
        assert self.peer is not None
        self.peer.close()


class HelperTests(SynchronousTestCase):
    """What its parent may rely on: that False says no more than "do it yourself"."""

    def setUp(self) -> None:
        self.batch = [Stored("1.2", "1.3", "1.4", EXPLICIT, 1, 2, {0x00100020: b"P"}, "note")] * MANY

    def process(self, *answers: bool) -> Scripted:
        process = Scripted(*answers)
        self.addCleanup(process.close)
        return process

    def test_few(self) -> None:
        """For a few objects none is started; one that there is takes any number."""
        process = self.process(True, True, True)
        self.assertFalse(process.enter(self.batch[1:]))
        self.assertEqual(process.starts, 0)
        self.assertTrue(process.enter(self.batch))
        self.assertTrue(process.enter(self.batch[:1]))
        self.assertEqual(process.starts, 1)
        assert process.peer is not None
        self.assertEqual(process.peer.recv(), sent(self.batch))
        self.assertEqual(process.peer.recv(), sent(self.batch[:1]))
        process.end()

    def test_not_ready(self) -> None:
        """Nobody waits until it is ready."""
        process = self.process()
        for _ in range(3):
            self.assertFalse(process.enter(self.batch))
        assert process.peer is not None
        process.peer.send(True)
        process.peer.send(True)
        self.assertTrue(process.enter(self.batch))
        process.end()

    def test_cannot(self) -> None:
        """One that cannot, or no longer, is let go, and the next one comes after a pause."""
        for answers, entered in (((False,), 0), ((True, False), 0), ((True, True, False), 1)):
            process = self.process(*answers)
            for number in range(5):
                self.assertEqual(process.enter(self.batch), number < entered)
            process.end()
            self.assertEqual(process.starts, 1)
            process.time += PAUSE
            process.enter(self.batch)
            self.assertEqual(process.starts, 2)
            process.end()

    def test_ended(self) -> None:
        """One that has ended, before it is asked or after, has entered nothing."""
        for ends_early in (True, False):
            process = self.process(True, True)
            self.assertTrue(process.enter(self.batch))
            if ends_early:
                process.end()
            else:
                assert process.peer is not None
                half_closed(process.peer)
            self.assertFalse(process.enter(self.batch))
            self.assertFalse(process.enter(self.batch))
            self.assertEqual(process.starts, 1)
            process.end()

    def test_cannot_be_started(self) -> None:
        """It is gone on without, as in a changed root, where there is no interpreter."""
        tried: list[object] = []

        def popen(*arguments: object, **more: object) -> None:
            tried.append(arguments)
            raise FileNotFoundError

        self.patch(subprocess, "Popen", popen)
        process = Helper(Path("/nowhere"), INDEX_OF_NOTHING, [])
        for _ in range(3):
            self.assertFalse(process.enter(self.batch))
        self.assertEqual(len(tried), 1)

    def test_no_interpreter(self) -> None:
        """Nor is one started where the program is not run by an interpreter."""
        self.patch(subprocess, "Popen", self.fail)
        for name, value in (("executable", ""), ("frozen", True)):
            frozen = getattr(sys, name, None)
            setattr(sys, name, value)
            try:
                self.assertFalse(Helper(Path("/nowhere"), INDEX_OF_NOTHING, []).enter(self.batch))
            finally:
                if frozen is None:
                    delattr(sys, name)
                else:
                    setattr(sys, name, frozen)

    def test_bug(self) -> None:
        """Whatever goes wrong with what it answers, no later answer is taken for that."""
        process = self.process(True, True, True)
        self.assertTrue(process.enter(self.batch))
        self.patch(Connection, "recv", raises(MemoryError()))
        self.assertFalse(process.enter(self.batch))
        self.assertFalse(process.is_there)
        process.end()

    def test_does_not_answer(self) -> None:
        """One that does not answer in time has entered nothing."""
        process = self.process(True)
        process.patience = 0.001
        self.assertFalse(process.enter(self.batch))
        self.assertFalse(process.is_there)
        process.end()

    def test_slices(self) -> None:
        """It gets so many at once, and no more; if one of these portions goes wrong, all have."""
        for answers, entered in (((True, True, True), True), ((True, True, False), False)):
            process = self.process(*answers)
            self.assertEqual(process.enter(self.batch[:1] * (MOST + 1)), entered)
            assert process.peer is not None
            self.assertEqual([len(process.peer.recv()) for _ in range(2)], [MOST, 1])
            process.end()

    def test_close(self) -> None:
        """After it was let go the next one is started when there is work for it; twice is once."""
        process = self.process(True, True)
        self.assertTrue(process.enter(self.batch))
        process.close()
        process.close()
        assert process.peer is not None
        process.peer.recv()
        self.assertRaises(EOFError, process.peer.recv)
        process.end()
        self.assertTrue(process.enter(self.batch))
        self.assertEqual(process.starts, 2)
        process.end()


def raises(error: Exception) -> Callable[..., Any]:
    def function(*_: object) -> None:
        raise error

    return function


def half_closed(connection: Connection) -> None:
    """No more comes from here."""
    with socket.socket(fileno=os.dup(connection.fileno())) as half:
        half.shutdown(socket.SHUT_WR)
