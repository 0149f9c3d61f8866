"""The process that enters objects: what it does, and what its parent makes of it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import IndexFault
from dicomtw.storage.directory import DirectoryStore, Durability
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.process import MANY, PAUSE, IndexProcess, serve
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored
from tests.storage import CT_IMAGE_STORAGE, EXPLICIT, data_set, element
from tests.storage.index import ATTRIBUTES, found


def sent(batch: Sequence[Stored]) -> list[tuple[Any, ...]]:
    """Objects as the parent sends them."""
    return [attrs.astuple(stored, recurse=False) for stored in batch]


class Deleting(Connection):
    """Deletes a file before anything is done with what it has received."""

    def __init__(self, connection: Connection, path: Path) -> None:
        super().__init__(os.dup(connection.fileno()))
        self.path = path

    def recv(self) -> Any:
        received = super().recv()
        self.path.unlink(missing_ok=True)
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
        serve(self.its, self.root, [])
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

    def test_incomplete(self) -> None:
        """Where the index has yet to be filled, it has nothing to do."""
        self.index.close()
        self.path.unlink()
        self.assertEqual(self.serve([self.put("1.1")]), [False])
        self.assertEqual(len(self.notes), 1)

    def test_cannot_open(self) -> None:
        """Nor where it cannot open it."""
        self.patch(Index, "open", fails)
        self.assertEqual(self.serve([self.put("1.1")]), [False])

    def test_bug(self) -> None:
        """What it cannot enter it says so of, and ends; the journal has it still."""
        good, bad = self.put("1.1"), attrs.evolve(self.put("1.2"), transfer_syntax_uid=None)
        self.assertEqual(self.serve([good], [good, bad], [good]), [True, True, False])
        self.assertEqual(len(self.notes), 1)

    def test_lost(self) -> None:
        """An index that was deleted is its parent's to make anew."""
        batch = [self.put("1.1")]

        self.its = Deleting(self.its, self.path)
        self.addCleanup(self.its.close)
        self.assertEqual(self.serve(batch, batch), [True, False])


class Scripted(IndexProcess):
    """Whose process is a connection that has its answers already."""

    def __init__(self, *answers: bool) -> None:
        self.time = 1000.0
        super().__init__(Path("/nowhere"), [], lambda: self.time)
        self.answers = answers
        self.starts = 0
        self.peer: Connection | None = None

    def _start(self) -> Connection:
        self.starts += 1
        ours, self.peer = Pipe()
        for answer in self.answers:
            self.peer.send(answer)
        return ours

    def end(self) -> None:
        assert self.peer is not None
        self.peer.close()


class IndexProcessTests(SynchronousTestCase):
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
        process = IndexProcess(Path("/nowhere"), [])
        for _ in range(3):
            self.assertFalse(process.enter(self.batch))
        self.assertEqual(len(tried), 1)

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


def fails(index: Index) -> bool:
    raise IndexFault("disk I/O error")


def half_closed(connection: Connection) -> None:
    """No more comes from here."""
    with socket.socket(fileno=os.dup(connection.fileno())) as half:
        half.shutdown(socket.SHUT_WR)
