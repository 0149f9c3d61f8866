"""The database: made, used again, damaged, locked, shared."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import IndexFault
from dicomtw.storage.index import boots, containers, database
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import Index
from tests.storage.index import (
    ATTRIBUTES,
    CT,
    EXPLICIT,
    MemoryFiles,
    dump_file,
    found,
    query,
    record,
    results,
)


class Opening(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = Path(self.mktemp())
        self.path = self.store / ".index" / "index.sqlite3"
        self.files = MemoryFiles()

    def index(self, *, synchronous: bool = False, attributes: Attributes = ATTRIBUTES) -> Index:
        index = Index(self.path, attributes, synchronous=synchronous, files=self.files)
        self.addCleanup(index.close)
        return index

    def opened(self, *, synchronous: bool = False) -> Index:
        index = self.index(synchronous=synchronous)
        index.open()
        return index

    def filled(self) -> None:
        """A complete index with one object."""
        index = self.opened()
        index.put([record("1.1")])
        index.set_complete()
        index.close()


class OpenTests(Opening):
    def test_new(self) -> None:
        """A new index is not complete; once it is said to be, it is the next time."""
        index = self.index()
        self.assertFalse(index.open())
        index.put([record("1.1")])
        index.close()
        self.assertFalse(index.open())
        self.assertEqual(index.counts(), (1, 1, 1, 1))
        index.set_complete()
        index.set_complete()
        index.close()
        self.assertTrue(index.open())
        self.assertEqual(index.counts(), (1, 1, 1, 1))

    def test_permissions(self) -> None:
        """Nobody else may read the index, its log, or the directory they are in."""
        old = os.umask(0)
        try:
            index = self.opened()
            index.put([record("1.1")])
        finally:
            os.umask(old)
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        files = list(self.path.parent.iterdir())
        self.assertEqual(len(files), 3)
        for path in files:
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    def test_other_attributes(self) -> None:
        """An index of other attributes is made anew."""
        self.filled()
        index = self.index(attributes=Attributes(["EchoTime"]))
        self.assertFalse(index.open())
        self.assertEqual(index.counts(), (0, 0, 0, 0))
        index.close()
        self.assertFalse(self.index().open())

    def test_same_attributes(self) -> None:
        """Attributes that make no difference make none."""
        self.filled()
        self.assertTrue(self.index(attributes=Attributes(["Rows"])).open())

    def test_other_database(self) -> None:
        """A database of somebody else is made ours."""
        self.path.parent.mkdir(parents=True)
        connection = sqlite3.connect(self.path)
        connection.executescript("CREATE TABLE meta (x); CREATE TABLE other (y)")
        connection.close()
        index = self.index()
        self.assertFalse(index.open())
        index.put([record("1.1")])

    def test_damaged(self) -> None:
        """A file that is no database is kept under another name, each of them, and a new one is made."""
        for number in (1, 2):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(b"damaged " * 1000)
            index = self.index()
            self.assertFalse(index.open())
            self.assertEqual(index.counts(), (0, 0, 0, 0))
            index.close()
            kept = self.path.with_name(f"index.sqlite3.corrupt-{number}")
            self.assertEqual(kept.read_bytes(), b"damaged " * 1000)

    def test_damaged_later(self) -> None:
        """Damage that shows when the index is used is a fault, and the next start makes a new one."""
        index = self.opened()
        index.put([record(f"1.{number}") for number in range(1000)])
        index.set_complete()
        index.close()
        with open(self.path, "r+b") as file:
            half = self.path.stat().st_size // 2
            file.seek(half)
            file.write(b"\xff" * half)
        self.assertTrue(index.open())
        error = self.assertRaises(IndexFault, results, index, query("IMAGE", SOPInstanceUID=""))
        self.assertIn("malformed", str(error))
        index.close()
        self.assertFalse(index.open())
        self.assertEqual(index.counts(), (0, 0, 0, 0))
        self.assertTrue(self.path.with_name("index.sqlite3.corrupt-1").exists())
        index.set_complete()
        index.close()
        self.assertTrue(index.open())

    def test_in_use(self) -> None:
        """A database that another process writes all the time cannot be opened, and is left as it is."""
        self.filled()
        self.patch(database, "BUSY", 0.01)
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN EXCLUSIVE")
        error = self.assertRaises(IndexFault, self.index().open)
        self.assertEqual(str(error), f"{self.path}: database is locked")
        other.execute("ROLLBACK")
        self.assertTrue(self.index().open())

    def test_no_log(self) -> None:
        """Where no write-ahead log can be kept there is no index."""

        class WithoutLog(sqlite3.Connection):
            def execute(self, statement: str, *arguments: object) -> sqlite3.Cursor:  # type: ignore[override]
                return super().execute(statement.replace("= WAL", "= DELETE"), *arguments)  # type: ignore[arg-type]

        index = self.index()

        def connect(cache: int) -> sqlite3.Connection:
            return sqlite3.connect(self.path, isolation_level=None, factory=WithoutLog)

        self.patch(index, "_connect", connect)
        error = self.assertRaises(IndexFault, index.open)
        self.assertEqual(str(error), f"{self.path}: no write-ahead log can be kept there")

    def test_no_directory(self) -> None:
        """Where there can be no index, opening one is a fault in one line."""
        self.store.write_bytes(b"")
        error = self.assertRaises(IndexFault, self.index().open)
        self.assertEqual(str(error), f"{self.path}: Not a directory")

    def test_link(self) -> None:
        """A symbolic link in its place is not followed."""
        self.path.parent.mkdir(parents=True)
        elsewhere = self.store / "elsewhere"
        elsewhere.write_bytes(b"precious")
        self.path.symlink_to(elsewhere.absolute())
        self.assertRaises(IndexFault, self.index().open)
        self.assertEqual(elsewhere.read_bytes(), b"precious")

    def test_closed(self) -> None:
        """What is not open cannot be used; closing it twice does no harm."""
        index = self.index()
        for use in (
            lambda: index.put([]),
            index.counts,
            lambda: index.delete(["1.1"]),
            index.set_complete,
            lambda: index.find(query("STUDY")).instances(),
        ):
            error = self.assertRaises(IndexFault, use)
            self.assertEqual(str(error), "the index is closed")
        index.close()
        index.close()

    def test_journal_mode(self) -> None:
        """Strictly what is committed is on stable storage; otherwise the database stays whole at least."""
        for synchronous, mode in ((True, 2), (False, 1)):
            index = self.opened(synchronous=synchronous)
            assert index._connection is not None
            self.assertEqual(index._connection.execute("PRAGMA synchronous").fetchone(), (mode,))
            self.assertEqual(index._connection.execute("PRAGMA journal_mode").fetchone(), ("wal",))
            index.close()


class PowerCutTests(Opening):
    """Without `synchronous` the last transactions may be lost with the machine, not with the server."""

    def boot(self, name: str) -> None:
        """Let the machine have started under this name."""
        file = Path(self.mktemp())
        file.write_text(f"{name}\n")
        self.patch(boots, "_BOOT_ID", file)

    def crash(self, *, synchronous: bool) -> None:
        """Use an index that is complete, and do not close it."""
        index = self.opened(synchronous=synchronous)
        index.set_complete()
        index.put([record("1.1")])
        connection = index._connection
        assert connection is not None
        index._connection = None
        connection.close()

    def test_power_cut(self) -> None:
        """After the machine has gone down with it an index is not complete, but not empty either."""
        self.boot("first")
        self.crash(synchronous=False)
        self.boot("second")
        index = self.index()
        self.assertFalse(index.open())
        self.assertEqual(index.counts(), (1, 1, 1, 1))

    def test_crash(self) -> None:
        """After the server has crashed it is complete."""
        self.boot("first")
        self.crash(synchronous=False)
        self.assertTrue(self.index().open())

    def test_closed(self) -> None:
        """An index that was closed is complete, whatever the machine does then."""
        self.boot("first")
        self.filled()
        self.boot("second")
        self.assertTrue(self.index().open())

    def test_synchronous(self) -> None:
        """So is a synchronous one."""
        self.boot("first")
        self.crash(synchronous=True)
        self.boot("second")
        self.assertTrue(self.index().open())

    def test_power_cut_while_it_is_filled(self) -> None:
        """An index that was not complete before is not complete after, and can be opened."""
        self.boot("first")
        index = self.opened(synchronous=False)
        connection, index._connection = index._connection, None
        assert connection is not None
        connection.close()
        self.boot("second")
        self.assertFalse(self.index().open())

    def test_another_process(self) -> None:
        """A process that opens and closes it meanwhile, synchronous or not, does not hide a power cut."""
        for synchronous in (True, False):
            self.boot("first")
            self.crash(synchronous=False)
            other = self.opened(synchronous=synchronous)
            other.close()
            self.boot("second")
            self.assertFalse(self.index().open())

    def rows(self) -> list[str]:
        """Who has the index open without `synchronous`, as the database has it."""
        connection = sqlite3.connect(self.path)
        try:
            return [name for (name,) in connection.execute("SELECT name FROM meta WHERE name LIKE 'boot:%'")]
        finally:
            connection.close()

    def kill(self) -> None:
        """Let another process use an index that is complete, and be killed."""
        number = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(number, 0)
        patch = self.patch(os, "getpid", lambda: number)
        self.crash(synchronous=False)
        patch.restore()

    def test_killed(self) -> None:
        """Processes that were killed are forgotten when it is opened, whatever the machine does then."""
        for synchronous in (True, False):
            self.boot("first")
            self.kill()
            self.kill()
            index = self.opened(synchronous=synchronous)
            self.assertEqual(len(self.rows()), 0 if synchronous else 1)
            assert index._connection is not None
            (mode,) = index._connection.execute("PRAGMA synchronous").fetchone()
            self.assertEqual(mode, 2 if synchronous else 1)
            index.close()
            self.assertEqual(self.rows(), [])
            self.boot("second")
            index = self.index()
            self.assertTrue(index.open())
            index.close()

    def test_killed_before_a_power_cut(self) -> None:
        """A process that was killed, and that nobody opened the index after, does not hide a power cut."""
        self.boot("first")
        self.kill()
        self.boot("second")
        self.assertFalse(self.index().open())

    def test_killed_is_durable_first(self) -> None:
        """What the killed process committed is on stable storage before its row is dropped."""
        self.boot("first")
        self.kill()
        statements: list[str] = []
        index = self.index()
        real = index._connect

        def connect(cache: int) -> sqlite3.Connection:
            connection = real(cache)
            connection.set_trace_callback(statements.append)
            return connection

        self.patch(index, "_connect", connect)
        index.open()
        at = statements.index("PRAGMA wal_checkpoint(PASSIVE)")
        self.assertEqual(statements[at - 1], "PRAGMA synchronous = FULL")
        (deleted,) = (number for number, each in enumerate(statements) if each.startswith("DELETE"))
        self.assertGreater(deleted, at)
        self.assertGreater(statements.index("PRAGMA synchronous = NORMAL", at), deleted)

    def test_killed_with_a_reader(self) -> None:
        """While a reader keeps the log from being written back the row is kept, for a later one."""
        self.boot("first")
        self.kill()
        (row,) = self.rows()
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN")
        other.execute("SELECT * FROM meta").fetchall()
        self.opened()
        self.assertIn(row, self.rows())
        other.execute("ROLLBACK")
        self.opened()
        self.assertNotIn(row, self.rows())

    def test_killed_with_a_writer(self) -> None:
        """While somebody else writes the row is kept, and the index opened nevertheless."""
        self.boot("first")
        self.kill()
        (row,) = self.rows()
        self.patch(database, "BUSY", 0.01)
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        index = self.index()
        real = index._settle

        def settle(connection: sqlite3.Connection, killed: list[str]) -> None:
            other.execute("BEGIN IMMEDIATE")
            real(connection, killed)
            other.execute("ROLLBACK")

        self.patch(index, "_settle", settle)
        self.assertTrue(index.open())
        self.assertIn(row, self.rows())

    def test_killed_elsewhere(self) -> None:
        """Of processes in another container, or where that is not known, nobody knows whether they live."""
        self.boot("first")
        self.kill()
        for there in (Path("/dev/null"), Path(self.mktemp())):
            self.patch(boots, "_PROCESSES", there)
            self.opened().close()
            self.assertEqual(len(self.rows()), 1)

    def test_unknown(self) -> None:
        """Where nothing is known of the machine's starts, nothing is suspected."""
        self.patch(boots, "_BOOT_ID", Path(self.mktemp()))
        self.crash(synchronous=False)
        self.assertTrue(self.index().open())


class UseTests(Opening):
    def test_rolled_back(self) -> None:
        """A transaction that fails leaves nothing, neither in the database nor in memory."""
        index = self.opened()
        index.put([record("1.1")])
        before = dump_file(self.path)

        class Failing(MemoryFiles):
            def mtime_ns(self, study: str, series: str, sop_instance_uid: str) -> int | None:
                raise sqlite3.OperationalError("database or disk is full")

        assert index._writer is not None
        index._writer._files = Failing()
        error = self.assertRaises(IndexFault, index.put, [record("1.2", study="1.9"), record("1.1", mtime=2)])
        self.assertEqual(str(error), f"{self.path}: database or disk is full")
        self.assertEqual(dump_file(self.path), before)
        index._writer._files = self.files
        index.put([record("1.2", study="1.9")])
        self.assertEqual(found(index, "STUDY", "StudyInstanceUID"), ["1.2.10", "1.9"])

    def test_locked(self) -> None:
        """While another process writes for too long, putting is a fault, and reading goes on."""
        self.patch(database, "BUSY", 0.01)
        index = self.opened()
        index.put([record("1.1")])
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        error = self.assertRaises(IndexFault, index.put, [record("1.2")])
        self.assertEqual(str(error), f"{self.path}: database is locked")
        self.assertEqual(found(index, "IMAGE", "SOPInstanceUID"), ["1.1"])
        other.execute("ROLLBACK")
        index.put([record("1.2")])
        self.assertEqual(found(index, "IMAGE", "SOPInstanceUID"), ["1.1", "1.2"])

    def test_two_writers(self) -> None:
        """What another process enters is known here."""
        one, other = self.opened(), self.opened()
        one.put([record("1.1", mtime=1, StudyDescription="one")])
        other.put([record("1.2", mtime=3, StudyDescription="other")])
        one.put([record("1.3", mtime=2, StudyDescription="late")])
        other.delete(["1.3"])
        one.put([record("1.4", mtime=2)])
        self.assertEqual(found(one, "STUDY", "StudyDescription"), ["other"])
        self.assertEqual(found(other, "IMAGE", "SOPInstanceUID"), ["1.1", "1.2", "1.4"])
        self.assertEqual(one.counts(), (1, 1, 1, 3))

    def test_read_only(self) -> None:
        """A connection that reads does not write."""
        index = self.opened()
        with self.assertRaises(IndexFault), index.reading() as connection:
            connection.execute("DELETE FROM instance")

    def test_all(self) -> None:
        """All instances come, each once, and so do the versions in a series."""
        index = self.opened()
        index.put([record(f"1.{number}", mtime=number) for number in range(1, 2002)])
        portions = list(index.all_instances())
        uids = [each.sop_instance_uid for portion in portions for each in portion]
        self.assertEqual(sorted(uids), sorted(f"1.{number}" for number in range(1, 2002)))
        self.assertGreater(len(portions), 1)
        self.assertEqual(index.versions("1.2.10", "1.2.20")["1.7"], 7)
        self.assertEqual(index.versions("1.2.10", "1.2.21"), {})

    def test_instance(self) -> None:
        """Instances come in the order of the ids, without those that are gone."""
        index = self.opened()
        index.put([record(f"1.{number}") for number in range(300)])
        ids = list(index.find(query("STUDY")).instances())
        index.delete(["1.5"])
        instances = index.instance(ids[::-1])
        self.assertEqual(len(instances), 299)
        self.assertEqual(instances[0].sop_instance_uid, "1.299")
        self.assertEqual((instances[0].sop_class_uid, instances[0].transfer_syntax_uid), (CT, EXPLICIT))
        self.assertEqual(index.instance([]), [])

    def test_nothing(self) -> None:
        """To put or delete nothing does nothing."""
        index = self.opened()
        index.put([])
        self.assertEqual(index.delete([]), 0)
        self.assertEqual(index.delete(["1.1"]), 0)
        self.assertEqual(index.counts(), (0, 0, 0, 0))

    def test_closed_while_reading(self) -> None:
        """Who reads while the index is closed reads to the end."""
        index = self.opened()
        index.put([record("1.1")])
        with index.reading() as connection:
            index.close()
            self.assertEqual(connection.execute("SELECT count(*) FROM instance").fetchone(), (1,))
        self.assertRaises(sqlite3.ProgrammingError, connection.execute, "SELECT 1")

    def test_forgets(self) -> None:
        """More series than are remembered are kept all the same."""
        self.patch(containers, "MAXIMUM_SERIES", 3)
        index = self.opened()
        for number in range(20):
            index.put([record(f"1.{number}", study=f"2.{number // 2}", series=f"3.{number}")])
        self.assertEqual(index.counts(), (1, 10, 20, 20))


class ThreadTests(Opening):
    def test_readers(self) -> None:
        """Several read while one writes, and see nothing half done."""
        index = self.opened()
        wrong: list[object] = []
        stop = threading.Event()

        def read() -> None:
            try:
                while not stop.is_set():
                    rows = results(
                        index, query("STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances="")
                    )
                    wrong.extend(row for row in rows if row["NumberOfStudyRelatedInstances"] != "4")
                    index.counts()
            except Exception as error:
                wrong.append(error)

        readers = [threading.Thread(target=read) for _ in range(4)]
        for thread in readers:
            thread.start()
        for number in range(100):
            index.put([record(f"1.{number}.{each}", study=f"2.{number}") for each in range(4)])
        stop.set()
        for thread in readers:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertLessEqual(len(index._idle), 4)

    def test_writers(self) -> None:
        """Several may put, and take turns."""
        index = self.opened()

        def write(writer: int) -> None:
            for number in range(50):
                index.put([record(f"1.{writer}.{number}", series=f"3.{number % 3}")])

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
        self.assertEqual(index.counts(), (1, 1, 3, 200))
