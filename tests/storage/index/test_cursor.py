"""Results in portions, taken slowly, given up, and many."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import Cancelled, IndexFault
from dicomtw.storage.index.cursor import CHUNK, Cursor
from dicomtw.storage.index.database import Index
from tests.storage.index import ATTRIBUTES, CT, MemoryFiles, query, record, results

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

    def test_collected_once(self) -> None:
        """What follows from all that is in a study is collected once for the instances that share it."""
        self.fill(3 * CHUNK)
        statements: list[str] = []
        with self.index.reading() as connection:
            connection.set_trace_callback(statements.append)
        keys = dict.fromkeys(
            ("NumberOfPatientRelatedInstances", "ModalitiesInStudy", "SOPClassesInStudy"), ""
        )
        rows = results(self.index, query("IMAGE", **keys))
        collecting = [each for each in statements if "count(*)" in each or "DISTINCT" in each]
        self.assertEqual(len(collecting), 3)
        self.assertEqual({row["NumberOfPatientRelatedInstances"] for row in rows}, {str(3 * CHUNK)})
        self.assertEqual({row["SOPClassesInStudy"] for row in rows}, {CT})

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

    def test_instances(self) -> None:
        """Instances come by series, and in each by number, those without one last, those alike by id."""
        numbers = ["10", "9", "", "x", "-1", "0", "9", "99999999999", "1\\2", "100"]
        places = [(series, number) for number in numbers for series in ("3", "1", "2")]
        self.index.put(
            [
                record(f"1.{at}", series=f"1.2.{series}", InstanceNumber=number, ImageType="A\\B")
                for at, (series, number) in enumerate(places)
            ]
        )
        with self.index.reading() as connection:
            rows = connection.execute('SELECT series_id, "InstanceNumber", id FROM instance').fetchall()
        order = {number: at for at, number in enumerate(["-1", "0", "9", "10", "100", "99999999999"])}
        rows.sort(key=lambda row: (row[0], order.get(row[1], 99), row[2]))
        for asked in (
            query("IMAGE"),
            query("STUDY", StudyInstanceUID="1.2.10"),
            query("SERIES", SeriesInstanceUID="1.2.1\\1.2.3\\1.2.2"),
            query("IMAGE", ImageType="?"),
        ):
            self.assertEqual(list(self.index.find(asked).instances()), [row[2] for row in rows])

    def test_instances_memory(self) -> None:
        """Instances take 8 bytes each, however many there are, and something besides."""
        self.fill(1)
        count, series = 40_000, 400
        with self.index._writing():
            assert self.index._connection is not None
            self.index._connection.execute(
                "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                "INSERT INTO series (id, study_id, directory, latest_mtime_ns, latest_uid) "
                "SELECT i, 1, i, 1, '' FROM n",
                (series,),
            )
            self.index._connection.execute(
                "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                'INSERT INTO instance (id, series_id, mtime_ns, "InstanceNumber", "SOPInstanceUID", '
                '"SOPClassUID", "TransferSyntaxUID") '
                "SELECT i, i % ? + 1, 1, ? - i, '2.' || i, '', '' FROM n",
                (count, series, count),
            )
        cursor = self.index.find(query("STUDY"))
        tracemalloc.start()
        try:
            ids = cursor.instances()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertEqual(len(ids), count)
        self.assertLess(peak, 20 * count)

    def test_closed_before(self) -> None:
        """A query that is closed is cancelled at the next portion, and at the one after it."""
        self.fill(1)
        cursor = self.find()
        cursor.close()
        cursor.close()
        self.assertRaises(Cancelled, cursor.fetch, 1)
        self.assertRaises(Cancelled, cursor.fetch, 1)
        self.assertRaises(Cancelled, cursor.instances)

    def test_closed_between(self) -> None:
        """So is one that is closed between portions, also with something left of what was read."""
        self.fill(2 * CHUNK)
        cursor = self.find()
        cursor.fetch(1)
        cursor.close()
        self.assertRaises(Cancelled, cursor.fetch, 1)

    def test_closed_within(self) -> None:
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
        timer = threading.Timer(0.05, cursor.close)
        timer.start()
        self.assertRaises(Cancelled, cursor.fetch, 1)
        timer.join()
        self.assertEqual(len(results(self.index, query("IMAGE", SOPInstanceUID="1.1"))), 1)

    def test_fault(self) -> None:
        """A statement that fails is a fault, whoever is closed or not."""
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
        self.assertEqual(len(self.index.find(query("IMAGE", ImageType="A")).instances()), 0)

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
