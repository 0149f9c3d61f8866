"""The index made from the files."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage.index import files
from dicomtw.storage.index import rebuild as rebuild_module
from dicomtw.storage.index.database import INDEX, Index, Instance
from dicomtw.storage.index.rebuild import BATCH, Rebuilt, rebuild
from dicomtw.storage.index.record import Record, record_of
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored, read_stored
from tests.storage import CT_IMAGE_STORAGE, EXPLICIT, PYDICOM_FILES, data_set, element
from tests.storage.index import ATTRIBUTES, dump_file, found


class Rebuilding(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.index = self.new_index("index.sqlite3")
        self.progress: list[tuple[int, int]] = []
        self.reported: dict[str, str] = {}

    def new_index(self, name: str) -> Index:
        index = Index(self.root / INDEX / name, ATTRIBUTES, synchronous=False)
        index.open()
        self.addCleanup(index.close)
        return index

    def rebuild(self, index: Index | None = None) -> Rebuilt:
        return rebuild(
            self.root,
            index or self.index,
            lambda done, total: self.progress.append((done, total)),
            lambda path, why: self.reported.update({str(path.relative_to(self.root)): why}),
        )

    def path(self, uid: str, study: str = "1.2.10", series: str = "1.2.20") -> Path:
        return self.root / study / series / f"{uid}.dcm"

    def store(
        self,
        uid: str,
        study: str = "1.2.10",
        series: str = "1.2.20",
        *,
        mtime: int = 1,
        description: str = "",
    ) -> Path:
        """A file in its place."""
        path = self.path(uid, study, series)
        path.parent.mkdir(parents=True, exist_ok=True)
        middle = element(
            0x00081030, "LO", description.encode().ljust(len(description) % 2 + len(description))
        )
        content = data_set(uid, study=study, series=series, middle=middle)
        path.write_bytes(FileMeta(CT_IMAGE_STORAGE, uid, EXPLICIT).encode() + content)
        os.utime(path, ns=(mtime, mtime))
        return path

    def record(self, path: Path) -> Record:
        stored = read_stored(path, ATTRIBUTES.tags)
        return record_of(
            stored.found,
            stored.transfer_syntax_uid,
            study=path.parts[-3],
            series=path.parts[-2],
            sop_instance_uid=stored.sop_instance_uid,
            mtime_ns=stored.mtime_ns,
            attributes=ATTRIBUTES,
        )

    def uids(self) -> list[str | None]:
        return found(self.index, "IMAGE", "SOPInstanceUID")


class RebuildTests(Rebuilding):
    def test_same(self) -> None:
        """What is made from the files is what came with them, for everything that pydicom has."""
        other = self.new_index("other.sqlite3")
        count = 0
        for mtime, source in enumerate(sorted(PYDICOM_FILES.glob("*.dcm"))):
            try:
                stored = read_stored(source, ATTRIBUTES.tags)
            except ValueError:
                continue
            path = self.path(stored.sop_instance_uid, stored.study, stored.series)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)
            os.utime(path, ns=(mtime, mtime))
            other.put([self.record(path)])
            count += 1
        self.assertGreater(count, 50)
        rebuilt = self.rebuild()
        self.assertEqual((rebuilt.unreadable, rebuilt.kept, rebuilt.removed), (0, 0, 0))
        rows = dump_file(self.root / INDEX / "index.sqlite3")
        self.assertEqual(rows, dump_file(self.root / INDEX / "other.sqlite3"))
        self.assertEqual(len(rows["instance"]), rebuilt.read)

    def test_empty(self) -> None:
        """Of an empty store nothing is made, and that is complete."""
        self.assertEqual(self.rebuild(), Rebuilt(0, 0, 0, 0))
        self.assertEqual(self.progress, [(0, 0), (0, 0)])
        self.index.close()
        self.assertTrue(self.index.open())

    def test_progress(self) -> None:
        """It says how far it is, of how many."""
        for number in range(2 * BATCH + 1):
            self.store(f"1.{number}")
        self.rebuild()
        total = 2 * BATCH + 1
        said = list(dict.fromkeys(self.progress))
        self.assertEqual(said, [(0, 0), (0, total), (BATCH, total), (2 * BATCH, total), (total, total)])

    def test_others(self) -> None:
        """What is no object of the store is passed over without a word."""
        self.store("1.1")
        for name in (
            ".incoming/1.9.dcm",
            "superseded/1.2/1.3/1.9.dcm",
            "1.2.10/notes.txt",
            "readme/1.2/1.dcm",
        ):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        (self.root / "1.2.10" / "1.2.20" / "1.9.tmp").write_bytes(b"")
        (self.root / "1.2.11").write_bytes(b"")
        os.mkdir(os.fsencode(self.root) + b"/\xff")
        self.assertEqual(self.rebuild(), Rebuilt(1, 0, 0, 0))
        self.assertEqual(self.reported, {})

    def test_unreadable(self) -> None:
        """What should be an object and is none is reported, and the rest is entered."""
        self.store("1.1")
        self.path("1.2").write_bytes(b"no object")
        shutil.copy(self.path("1.1"), self.path("1.3"))
        self.path("1.4").symlink_to(self.path("1.1").absolute())
        self.path("1.5").mkdir()
        os.mkfifo(self.path("1.6"))
        self.assertEqual(self.rebuild(), Rebuilt(1, 0, 5, 0))
        self.assertEqual(self.uids(), ["1.1"])
        self.assertEqual(self.reported["1.2.10/1.2.20/1.2.dcm"], "not a DICOM file")
        self.assertEqual(self.reported["1.2.10/1.2.20/1.3.dcm"], "its SOP Instance UID is not its name")
        self.assertEqual(len(self.reported), 5)

    def test_unlisted(self) -> None:
        """A directory that cannot be listed is reported, and what is known of it is kept."""
        self.store("1.1", study="1.2.10")
        self.store("1.2", study="1.2.11")
        self.rebuild()

        def listdir(path: Path) -> list[str]:
            if path.name == "1.2.10":
                raise PermissionError(13, "Permission denied")
            return os.listdir(path)

        self.patch(rebuild_module, "listdir", listdir)
        self.assertEqual(self.rebuild(), Rebuilt(0, 1, 1, 0))
        self.assertEqual(self.reported, {"1.2.10": "Permission denied"})
        self.assertEqual(self.uids(), ["1.1", "1.2"])

    def test_unlisted_series(self) -> None:
        """So is one of a series, and what cannot be looked at is not gone."""
        self.store("1.1")
        self.rebuild()

        def listdir(path: Path) -> list[str]:
            if path.name == "1.2.20":
                raise OSError(5, "Input/output error")
            return os.listdir(path)

        def mtime_ns(of: object, study: str, series: str, sop_instance_uid: str) -> int | None:
            raise OSError(5, "Input/output error")

        self.patch(rebuild_module, "listdir", listdir)
        self.patch(rebuild_module.Files, "mtime_ns", mtime_ns)
        self.assertEqual(rebuild(self.root, self.index, lambda done, total: None), Rebuilt(0, 0, 1, 0))
        self.assertEqual(self.uids(), ["1.1"])

    def test_gone(self) -> None:
        """What is no longer there is removed, and with it what only it said."""
        self.store("1.1", mtime=1, description="first")
        self.store("1.2", mtime=2, description="second")
        self.store("1.3", study="1.2.11")
        self.rebuild()
        self.path("1.2").unlink()
        shutil.rmtree(self.root / "1.2.11")
        self.assertEqual(self.rebuild(), Rebuilt(0, 1, 0, 2))
        self.assertEqual(found(self.index, "STUDY", "StudyDescription"), ["first"])

    def test_again(self) -> None:
        """What is known is not read again, unless its file is another."""
        self.store("1.1", mtime=1)
        self.store("1.2", mtime=1, description="old")
        self.store("1.3", mtime=1)
        self.rebuild()
        self.store("1.2", mtime=2, description="new")
        self.path("1.3").rename(self.path("1.3").with_name("moved"))
        self.store("1.3", series="1.2.21")
        self.assertEqual(self.rebuild(), Rebuilt(2, 1, 0, 0))
        self.assertEqual(found(self.index, "STUDY", "StudyDescription"), ["new"])
        self.assertEqual(
            found(self.index, "SERIES", "SeriesInstanceUID", StudyInstanceUID=""), ["1.2.20", "1.2.21"]
        )

    def test_far_future(self) -> None:
        """A file of a time that no database can express is entered, and known."""
        self.store("1.1")

        def stored(path: Path, wanted: frozenset[int]) -> Stored:
            return attrs.evolve(read_stored(path, wanted), mtime_ns=1 << 64)

        self.patch(files, "read_stored", stored)
        self.assertEqual(self.rebuild(), Rebuilt(1, 0, 0, 0))
        self.assertEqual(self.index.versions("1.2.10", "1.2.20"), {"1.1": (1 << 63) - 1})

    def test_two_places(self) -> None:
        """Of an object that is in two places the later file counts, whichever is found first."""
        for first, second in ((1, 2), (2, 1)):
            self.store("1.1", series="1.2.20", mtime=first)
            self.store("1.1", series="1.2.21", mtime=second)
            self.rebuild()
            later = "1.2.20" if first > second else "1.2.21"
            self.assertEqual(found(self.index, "SERIES", "SeriesInstanceUID"), [later])

    def test_interrupted(self) -> None:
        """What its progress is told may end it; it is not complete then, and goes on from there."""
        for number in range(BATCH + 5):
            self.store(f"1.{number}")

        class Stopped(Exception):
            pass

        def stop(done: int, total: int) -> None:
            if done:
                raise Stopped

        self.assertRaises(Stopped, rebuild, self.root, self.index, stop)
        self.index.close()
        self.assertFalse(self.index.open())
        self.assertEqual(self.rebuild(), Rebuilt(5, BATCH, 0, 0))
        self.index.close()
        self.assertTrue(self.index.open())

    def test_interrupted_while_listing(self) -> None:
        """So may it while files are counted, before each directory."""
        for number in range(6):
            self.store(f"1.{number}", study=f"1.2.{number // 2}", series=f"1.3.{number}")
        listed: list[Path] = []

        class Stopped(Exception):
            pass

        def listdir(path: Path) -> list[str]:
            listed.append(path)
            return os.listdir(path)

        self.patch(rebuild_module, "listdir", listdir)
        for many in range(1, 10):
            listed.clear()

            def stop(done: int, total: int, many: int = many) -> None:
                if len(listed) == many:
                    raise Stopped

            self.assertRaises(Stopped, rebuild, self.root, self.index, stop)
            self.assertEqual(len(listed), many)

    def test_interrupted_while_removing(self) -> None:
        """So may it while those are removed that are gone."""
        self.store("1.1")
        self.rebuild()
        self.path("1.1").unlink()
        all_instances = self.index.all_instances
        removing: list[int] = []

        class Stopped(Exception):
            pass

        def portions() -> Iterator[list[Instance]]:
            for portion in all_instances():
                removing.append(len(portion))
                yield portion

        def stop(done: int, total: int) -> None:
            if removing:
                raise Stopped

        self.patch(self.index, "all_instances", portions)
        self.assertRaises(Stopped, rebuild, self.root, self.index, stop)
        self.assertEqual(self.uids(), ["1.1"])

    def test_no_root(self) -> None:
        """A store that is not there is not taken for an empty one."""
        self.assertRaises(OSError, rebuild, self.root / "elsewhere", self.index, lambda done, total: None)


class MeanwhileTests(Rebuilding):
    """Others put what comes while the index is filled."""

    def while_reading(self, uid: str, happens: Callable[[], None]) -> None:
        """Let something happen after a file was read and before it is entered."""
        original = rebuild_module.Files.record

        def record(of: rebuild_module.Files, study: str, series: str, sop_instance_uid: str) -> Record:
            read = original(of, study, series, sop_instance_uid)
            if sop_instance_uid == uid:
                happens()
            return read

        self.patch(rebuild_module.Files, "record", record)

    def test_replaced(self) -> None:
        """An object that is replaced after it was read stays what it has become."""
        self.store("1.1", mtime=5, description="old")

        def replace() -> None:
            # Also where the new file seems to be earlier.
            self.index.put([self.record(self.store("1.1", mtime=4, description="new"))])

        self.while_reading("1.1", replace)
        self.rebuild()
        self.assertEqual(found(self.index, "STUDY", "StudyDescription"), ["new"])

    def test_moved(self) -> None:
        """So does one that is moved to another series."""
        self.store("1.1", mtime=5)

        def move() -> None:
            self.path("1.1").unlink()
            self.index.put([self.record(self.store("1.1", series="1.2.21", mtime=4))])

        self.while_reading("1.1", move)
        self.rebuild()
        self.assertEqual(found(self.index, "SERIES", "SeriesInstanceUID"), ["1.2.21"])

    def test_removed(self) -> None:
        """One that is removed meanwhile is not in it in the end."""
        self.store("1.1")
        self.store("1.2")
        self.while_reading("1.1", self.path("1.1").unlink)
        self.rebuild()
        self.assertEqual(self.uids(), ["1.2"])

    def test_vanished(self) -> None:
        """One that is gone before it is read is no unreadable one."""
        self.store("1.1")
        self.store("1.2")
        self.while_reading("1.1", self.path("1.2").unlink)
        self.assertEqual(self.rebuild(), Rebuilt(1, 0, 0, 0))

    def test_new(self) -> None:
        """Objects that come all the time while it is filled are all there in the end."""
        for number in range(300):
            self.store(f"1.{number}", series=f"2.{number % 3}", mtime=number + 1)
        began = threading.Event()

        def put() -> None:
            began.wait()
            for number in range(150):
                path = self.store(f"3.{number}", study=f"4.{number % 5}", mtime=number + 1)
                self.index.put([self.record(path)])
                path = self.store(f"1.{number}", series=f"2.{number % 3}", mtime=1000 + number)
                self.index.put([self.record(path)])

        thread = threading.Thread(target=put)
        thread.start()
        rebuild(self.root, self.index, lambda done, total: began.set())
        thread.join()
        self.assertEqual(self.index.counts()[3], 450)
        other = self.new_index("other.sqlite3")
        self.rebuild(other)
        self.assertEqual(
            dump_file(self.root / INDEX / "index.sqlite3"), dump_file(self.root / INDEX / "other.sqlite3")
        )
