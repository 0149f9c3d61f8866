"""Bounds of a store: objects that are too large, and a disk that has too little space left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import DimseError
from dicomtw.storage.bounded import BoundedStore, FreeSpace
from dicomtw.storage.directory import DirectoryStore, Durability
from dicomtw.storage.part10 import FileMeta
from dicomtw.testing import MemoryStore

MIB = 1 << 20


def meta(uid: str = "1.2.3") -> FileMeta:
    return FileMeta(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sending_ae_title="SCU",
        receiving_ae_title="PMOD",
    )


class FreeSpaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.free = self.total = 1000 * MIB
        self.asked = 0
        self.told: list[str] = []

        def statvfs(path: Path) -> SimpleNamespace:
            self.asked += 1
            if self.free < 0:
                raise OSError(errno.EIO, "input/output error")
            return SimpleNamespace(f_frsize=1, f_bavail=self.free, f_blocks=self.total)

        self.patch(os, "statvfs", statvfs)

    def space(self, minimum: int | None) -> FreeSpace:
        return FreeSpace(Path("/srv"), minimum, self.told.append, lambda: self.now)

    def is_low(self, space: FreeSpace) -> bool:
        try:
            space.check()
        except DimseError as refusal:
            self.assertEqual(refusal.status, 0xA700)
            self.assertIn("MiB are free for the store", refusal.comment)
            self.assertLessEqual(len(refusal.comment), 64)
            return True
        return False

    def test_minimum(self) -> None:
        """With the minimum free objects are stored, with a byte less they are not; 0 is no minimum."""
        for minimum, total, free in ((100 * MIB, 1, 100 * MIB), (None, 10**12, 256 * MIB), (None, 2000, 100)):
            for missing in (0, 1):
                self.free, self.total = free - missing, total
                self.assertEqual(self.is_low(self.space(minimum)), bool(missing), (minimum, missing))
        self.free = 0
        self.assertFalse(self.is_low(self.space(0)))

    def test_asked_once_a_second(self) -> None:
        """The file system is asked once a second, but space that comes back is seen at once."""
        space = self.space(MIB)
        for _ in range(100):
            self.assertFalse(self.is_low(space))
            self.now += 0.009
        self.assertEqual(self.asked, 1)
        self.free = 0
        self.assertFalse(self.is_low(space))
        self.now += 0.2
        self.assertTrue(self.is_low(space))
        self.free = MIB
        self.assertFalse(self.is_low(space))

    def test_told(self) -> None:
        """The log says when objects are refused and when no longer, but never twice in a minute."""
        space = self.space(100 * MIB)
        for second in range(130):
            self.now = float(second)
            self.free = (99 if second % 2 else 200) * MIB
            self.is_low(space)
        self.assertEqual(len(self.told), 3)
        self.assertEqual(
            self.told[0], "objects are refused: of the store /srv 99 MiB are free, 100 are to be"
        )
        self.assertIn("objects are stored again", self.told[1])

    def test_nobody_knows(self) -> None:
        """Where the file system cannot be asked, objects are stored until a write fails."""
        self.free = -1
        self.assertFalse(self.is_low(self.space(MIB)))


class BoundedStoreTests(SynchronousTestCase):
    def refused(self, function: Callable[[], object]) -> DimseError:
        refusal: DimseError = self.assertRaises(DimseError, function)
        self.assertEqual(refusal.status, 0xA700)
        self.assertLessEqual(len(refusal.comment), 64)
        return refusal

    def test_size(self) -> None:
        """An object of the largest size is stored, one byte more is refused; 0 is no limit."""
        any_space = FreeSpace(Path("/"), 0)
        store = MemoryStore()
        for maximum, length in ((10, 10), (0, 1000)):
            sink = BoundedStore(store, maximum, any_space).open(meta(f"1.{maximum}"))
            for _ in range(0, length, 5):
                sink.write([memoryview(bytes(5))])
            sink.commit()
            self.assertEqual(len(store.objects[f"1.{maximum}"][1]), length)
        sink = BoundedStore(store, 10, any_space).open(meta("1.3"))
        sink.write([memoryview(bytes(10))])
        self.assertIn("more than 10 bytes", self.refused(lambda: sink.write([memoryview(b"x")])).comment)
        sink.discard()
        self.assertNotIn("1.3", store.objects)

    def test_nothing_left(self) -> None:
        """Of an object that grew too large no file is left, nor of one for which there is no space."""
        root = Path(self.mktemp())
        directory = DirectoryStore(root, Durability.RELAXED)
        directory.prepare()
        self.addCleanup(directory.close)
        free = FreeSpace(root, 0)
        sink = BoundedStore(directory, 2 * MIB, free).open(meta())
        sink.write([memoryview(bytes(2 * MIB))])
        self.assertEqual(len(list((root / ".incoming").iterdir())), 1)
        self.assertIn("more than 2 MiB", self.refused(lambda: sink.write([memoryview(b"x")])).comment)
        sink.discard()
        full = BoundedStore(directory, 0, FreeSpace(root, 1 << 60)).open(meta())
        self.refused(lambda: full.write([memoryview(bytes(MIB))]))
        full.discard()
        self.assertEqual(list((root / ".incoming").iterdir()), [])
