"""A database that is damaged, deleted or replaced while it is open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dicomtw.errors import IndexFault
from dicomtw.storage.index import database
from dicomtw.storage.index.contents import kinds_of
from dicomtw.storage.index.database import INDEX, Index
from dicomtw.storage.index.rebuild import BATCH, rebuild
from tests.storage.index import ATTRIBUTES, query, results
from tests.storage.index.test_rebuild import Rebuilding

ALL = query("IMAGE", SOPInstanceUID="")


def damage(path: Path) -> None:
    """Write over all of it but the first page."""
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    path.with_name(f"{path.name}-wal").write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


def delete_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def delete_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace(path: Path) -> None:
    """Put an older copy in its place."""
    shutil.copy(path, f"{path}.copy")
    os.rename(f"{path}.copy", path)


#: Those after which rows can still be written: it shows when they are looked at.
UNNOTICED = (damage,)
LOSSES: tuple[Callable[[Path], None], ...] = (damage, delete, delete_log, delete_directory, replace)


class LostTests(Rebuilding):
    def filled(self, count: int = 300) -> Index:
        """An index of so many files that is complete, opened anew."""
        for number in range(count):
            self.store(f"1.{number}")
        self.rebuild()
        self.index.close()
        self.assertTrue(self.index.open())
        return self.index

    def put(self, uid: str) -> None:
        self.index.put([self.record(self.store(uid))])

    def lose(self) -> None:
        """Delete it, and make it anew."""
        delete(self.root / INDEX / "index.sqlite3")
        self.put("2.1")
        self.rebuild()

    def test_put(self) -> None:
        """What is entered then is in a new one at once, what was before when it is filled; all that lasts."""
        for lose in LOSSES:
            self.setUp()
            index = self.filled()
            lose(self.root / INDEX / "index.sqlite3")
            self.put("2.1")
            if lose in UNNOTICED:
                self.assertRaises(IndexFault, results, index, ALL)
                self.put("2.2")
            self.assertEqual(index.lost, "", lose.__name__)
            self.assertNotEqual(index.remade, "", lose.__name__)
            self.rebuild()
            self.assertEqual(index.remade, "")
            present = set(self.uids())
            self.assertLessEqual({"1.0", "1.299", "2.1"}, present, lose.__name__)
            index.close()
            self.assertTrue(index.open(), lose.__name__)
            self.assertEqual(set(self.uids()), present, lose.__name__)

    def test_not_read_before_it_is_filled(self) -> None:
        """Nobody is told that there is nothing: to read is a fault until it is filled."""
        index = self.filled()
        delete(self.root / INDEX / "index.sqlite3")
        cursor = index.find(ALL)
        self.put("2.1")
        error = self.assertRaises(IndexFault, cursor.fetch, 1)
        self.assertIn("it was deleted, moved or replaced; another one is made from the files", str(error))
        self.assertRaises(IndexFault, index.find(ALL).instances)
        self.rebuild()
        self.assertEqual(len(index.find(ALL).instances()), 301)

    def test_found_before(self) -> None:
        """What was found in the one that was lost is not looked up in another, and does not end as if all."""
        index = self.filled()
        for later in (0, -3600, 3600):  # within a second, or after the clock was set
            cursor = index.find(ALL)
            self.assertEqual(len(cursor.fetch(10)), 10)
            self.lose()
            self.assertRaises(IndexFault, cursor.fetch, 200)
            ids = index.find(ALL).instances()
            self.patch(database, "_EPOCH", database._EPOCH - later)
            self.lose()
            self.assertRaises(IndexFault, index.instance, ids[-1:])
            self.assertRaises(IndexFault, list, kinds_of(index.find(ALL), ids[-1:]))
        self.assertEqual(len(index.instance(index.find(ALL).instances())), 301)

    def test_lost_while_it_is_filled(self) -> None:
        """One that is lost while it is filled does not count as filled."""
        index = self.filled()
        path = self.root / INDEX / "index.sqlite3"
        delete(path)
        self.put("2.1")

        def progress(done: int, total: int) -> None:
            if done == BATCH and path.exists():
                path.unlink()

        self.assertRaises(IndexFault, rebuild, self.root, index, progress)
        self.assertRaises(IndexFault, results, index, ALL)
        self.rebuild()
        self.assertEqual(len(self.uids()), 301)

    def test_late_reader(self) -> None:
        """What somebody finds who still reads the one that was damaged says nothing of the new one."""
        index = self.filled()
        path = self.root / INDEX / "index.sqlite3"
        with self.assertRaises(IndexFault), index.reading() as connection:
            damage(path)
            self.assertRaises(IndexFault, results, index, ALL)
            self.assertNotEqual(index.lost, "")
            self.put("2.1")
            self.rebuild()
            connection.execute("SELECT count(*), max(mtime_ns) FROM instance").fetchall()
        self.assertEqual(index.lost, "")
        self.assertEqual(len(self.uids()), 301)
        index.close()
        self.assertTrue(index.open())

    def test_lost_when_it_is_complete(self) -> None:
        """One that takes the place of another just when that was said to be complete is not read."""
        index = self.filled()
        path = self.root / INDEX / "index.sqlite3"
        delete(path)
        self.put("2.1")
        lock = index._lock

        class Gap:
            """Somebody else has their turn as soon as the lock is free."""

            def __enter__(gap) -> None:  # noqa: N805
                lock.acquire()

            def __exit__(gap, *_: object) -> None:  # noqa: N805
                index._lock = lock
                lock.release()
                delete(path)
                self.put("2.2")

        self.rebuild()
        index._lock = Gap()  # type: ignore[assignment]
        index.set_complete(index.first_id)
        self.assertNotEqual(index.remade, "")
        self.assertRaises(IndexFault, results, index, ALL)

    def test_without_its_log(self) -> None:
        """One that is whole and not up to date is not used by the next start, who knows nothing of it."""
        index = self.filled()
        delete_log(self.root / INDEX / "index.sqlite3")
        self.assertRaises(IndexFault, index.delete, ["1.1"])
        self.assertNotEqual(index.lost, "")
        killed = self.root / "killed" / INDEX  # what is there if the server ends here
        shutil.copytree(self.root / INDEX, killed, ignore=shutil.ignore_patterns("*-shm"))
        other = Index(killed / "index.sqlite3", ATTRIBUTES, synchronous=False)
        self.addCleanup(other.close)
        self.assertFalse(other.open())

    def test_filled_by_another(self) -> None:
        """Who opens one that another process has filled meanwhile reads it."""
        index, other = self.filled(), self.new_index("index.sqlite3")
        delete(self.root / INDEX / "index.sqlite3")
        self.put("2.1")
        self.assertRaises(IndexFault, results, index, ALL)
        self.assertFalse(other.open())
        self.rebuild(other)
        self.assertTrue(index.open())
        self.assertEqual(index.remade, "")
        self.assertEqual(len(self.uids()), 301)

    def test_two_processes(self) -> None:
        """Who finds that another process has begun a new one goes on with that."""
        index, other = self.filled(), self.new_index("index.sqlite3")
        delete(self.root / INDEX / "index.sqlite3")
        self.put("2.1")
        other.put([self.record(self.store("2.2"))])
        self.assertNotEqual(other.remade, "")
        for each in (index, other):
            self.rebuild(each)
        self.put("2.3")
        other.put([self.record(self.store("2.4"))])
        for each in (index, other):
            self.assertEqual((each.lost, each.remade), ("", ""))
            self.assertEqual(each.counts()[3], 304)
        self.assertEqual(list(self.root.glob(f"{INDEX}/*.corrupt-?")), [])

    def test_no_room_for_another(self) -> None:
        """Where no other one can be made, that is the fault; as soon as it can, it is."""
        self.filled()
        delete_directory(self.root / INDEX / "index.sqlite3")
        (self.root / INDEX).write_bytes(b"")
        self.assertRaises(IndexFault, self.put, "2.1")
        self.assertRaises(IndexFault, self.put, "2.1")
        (self.root / INDEX).unlink()
        self.put("2.1")
        self.rebuild()
        self.assertEqual(len(self.uids()), 301)
