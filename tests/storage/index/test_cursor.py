"""Results in portions, taken slowly, given up, and many."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import Cancelled, IndexFault
from dicomtw.storage.index.cursor import CHUNK, Cursor
from dicomtw.storage.index.database import Index
from tests.storage.index import ATTRIBUTES, MemoryFiles, query, record, results

MANY = 5000


class CursorTests(SynchronousTestCase):
    def setUp(self) -> None:
        path = Path(self.mktemp(), "index.sqlite3")
        self.index = Index(path, ATTRIBUTES, synchronous=False, files=MemoryFiles())
        self.index.open()
        self.addCleanup(self.index.close)

    def fill(self, count: int) -> None:
        records = [record(f"1.{number}", InstanceNumber=str(number)) for number in range(count)]
        self.index.put(records)

    def find(self, **keys: str) -> Cursor:
        return self.index.find(query("IMAGE", **{"SOPInstanceUID": ""} | keys))  # type: ignore[arg-type]

    def test_portions(self) -> None:
        """Portions are as long as asked for until the end, whatever is read at a time."""
        self.fill(2 * CHUNK + 50)
        cursor = self.find()
        sizes = []
        while rows := cursor.fetch(77):
            sizes.append(len(rows))
        self.assertEqual(sizes, [77, 77, 77, 19])
        self.assertEqual(cursor.fetch(1), [])

    def test_nothing(self) -> None:
        """Nothing found is an empty portion, and so is none asked for."""
        self.assertEqual(self.find().fetch(1), [])
        self.fill(1)
        self.assertEqual(self.find().fetch(0), [])

    def test_each_once(self) -> None:
        """Each result comes once, and rows are in the order of ids."""
        self.fill(MANY)
        rows = results(self.index, query("IMAGE", SOPInstanceUID="", InstanceNumber=""))
        self.assertEqual([row["InstanceNumber"] for row in rows], [str(number) for number in range(MANY)])

    def test_tested(self) -> None:
        """Portions are full where SQL leaves most results to a test, too."""
        self.index.put(
            [record(f"1.{number}", ImageType="AB" if number % 90 else "A\\B") for number in range(900)]
        )
        cursor = self.find(ImageType="B")
        self.assertEqual([len(cursor.fetch(4)) for _ in range(4)], [4, 4, 2, 0])

    def test_changes(self) -> None:
        """What is removed before it is read is left out, what comes is not seen, and nobody waits."""
        self.fill(3 * CHUNK)
        cursor = self.find()
        self.assertEqual(len(cursor.fetch(1)), 1)
        self.index.delete([f"1.{number}" for number in range(2 * CHUNK, 3 * CHUNK)])
        self.index.put([record("2.1")])
        self.assertEqual(len(cursor.fetch(10 * CHUNK)), 2 * CHUNK - 1)

    def test_memory(self) -> None:
        """What is found takes 8 bytes each until it is read."""
        self.fill(20 * CHUNK)
        cursor = self.find()
        cursor.fetch(1)
        tracemalloc.start()
        try:
            while cursor.fetch(10):
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 500_000)

    def test_interrupted_before(self) -> None:
        """An interrupted query is cancelled at the next portion, and at the one after it."""
        self.fill(1)
        cursor = self.find()
        cursor.interrupt()
        self.assertRaises(Cancelled, cursor.fetch, 1)
        self.assertRaises(Cancelled, cursor.fetch, 1)
        self.assertRaises(Cancelled, cursor.instances)

    def test_interrupted_between(self) -> None:
        """So is one that is interrupted between portions, also with something left of what was read."""
        self.fill(2 * CHUNK)
        cursor = self.find()
        cursor.fetch(1)
        cursor.interrupt()
        self.assertRaises(Cancelled, cursor.fetch, 1)

    def test_interrupted_within(self) -> None:
        """A statement that runs is interrupted within milliseconds."""
        self.fill(2000)
        slow = query("IMAGE", SOPInstanceUID="")
        # Two thousand to the fourth are more than it could ever compare.
        endless = (
            "SELECT a.id FROM instance a, instance b, instance c, instance d WHERE a.id + b.id + c.id < 0"
        )

        class Endless:
            tests = ()
            columns = slow.columns

            def ids(self) -> tuple[str, tuple[str, ...]]:
                return endless, ()

        cursor = Cursor(self.index, Endless())  # type: ignore[arg-type]
        timer = threading.Timer(0.05, cursor.interrupt)
        timer.start()
        self.assertRaises(Cancelled, cursor.fetch, 1)
        timer.join()
        self.assertEqual(len(results(self.index, query("IMAGE", SOPInstanceUID="1.1"))), 1)

    def test_closed(self) -> None:
        """A closed cursor is an interrupted one."""
        self.fill(CHUNK)
        cursor = self.find()
        cursor.fetch(1)
        cursor.close()
        cursor.close()
        self.assertRaises(Cancelled, cursor.fetch, 1)

    def test_fault(self) -> None:
        """A statement that fails is a fault, whoever is interrupted or not."""
        self.fill(1)
        cursor = self.find()
        with self.index._writing():
            assert self.index._connection is not None
            self.index._connection.execute("DROP TABLE instance")
        error = self.assertRaises(IndexFault, cursor.fetch, 1)
        self.assertIn("no such table: instance", str(error))

    def test_all_tested_away(self) -> None:
        """Nothing is left where SQL finds something and the test nothing."""
        self.index.put([record("1.1", ImageType="AB\\C")])
        self.assertEqual(self.find(ImageType="A").fetch(1), [])
        self.assertEqual(len(self.index.instances(query("IMAGE", ImageType="A"))), 0)

    def test_index_closed(self) -> None:
        """A query of an index that has been closed fails as one of an index that cannot be read."""
        self.fill(2 * CHUNK)
        cursor = self.find()
        cursor.fetch(1)
        self.index.close()
        error = self.assertRaises(IndexFault, cursor.fetch, 2 * CHUNK)
        self.assertEqual(str(error), "the index is closed")

    def test_many_uids(self) -> None:
        """Ten thousand UIDs are found in one query."""
        self.fill(10)
        uids = "\\".join(f"1.{number}" for number in range(10_000))
        self.assertEqual(len(self.find(SOPInstanceUID=uids).fetch(100)), 10)
