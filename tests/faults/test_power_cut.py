"""The power goes, at any point of storing: what was acknowledged is there with its bytes, and is found."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import DimseError
from dicomtw.indexing import catch_up
from dicomtw.storage import locations
from dicomtw.storage.directory import DirectoryStore, Durability, OnDuplicate
from dicomtw.storage.directory_sink import DirectorySink
from dicomtw.storage.index.database import Index
from dicomtw.storage.index.files import Files
from dicomtw.storage.index.rebuild import rebuild
from dicomtw.storage.part10 import FileMeta, read_head
from dicomtw.storage.stored import Stored
from tests.faults.power import Call, Disk, Recorder, Tree, write_tree
from tests.storage import CT_IMAGE_STORAGE, EXPLICIT, data_set
from tests.storage.index import ATTRIBUTES

UID = "1.2.30"
ONE, OTHER, THIRD = (data_set(UID, bytes([number]) * 100) for number in (1, 2, 3))
#: More than is kept in memory before a file is made.
LARGE = data_set(UID, bytes(100_000))


def uid_of(content: bytes) -> str:
    """The SOP Instance UID, behind the SOP Class UID."""
    at = 8 + int.from_bytes(content[6:8], "little")
    return content[at + 8 : at + 8 + int.from_bytes(content[at + 6 : at + 8], "little")].decode().rstrip("\0")


def content_of(path: Path) -> bytes:
    """Raises `ValueError` if this is no whole DICOM file."""
    content = path.read_bytes()
    return content[read_head(content).data_set_offset :]


class Archive:
    """Store and index as the server has them, at `root`, and the index beside it, in the file `index`."""

    def __init__(self, root: Path, index: Path, policy: OnDuplicate) -> None:
        self.store = DirectoryStore(root, Durability.STRICT, policy, ATTRIBUTES.tags)
        self.index = Index(index, ATTRIBUTES, synchronous=False, files=Files(root, ATTRIBUTES))
        self.root = root

    def start(self) -> None:
        """What a server does before it listens, and the filling of an index that is not complete."""
        self.store.prepare()
        complete = self.index.open()
        catch_up(self.store, self.index)
        if not complete:
            rebuild(self.root, self.index, lambda done, total: None)

    def stop(self) -> None:
        self.index.close()
        self.store.close()

    def rows(self) -> dict[str, Path]:
        """The files of what the index has."""
        return {
            each.sop_instance_uid: self.root.joinpath(*each.parts)
            for some in self.index.all_instances()
            for each in some
        }


class PowerCutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(locations, "_BUCKETS", 1)
        # In memory, where there is such a place: it does not matter here what becomes of it.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.place = Path(tempfile.mkdtemp(prefix="dicomtw-", dir=memory))
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)

    def test_new(self) -> None:
        """A new object, small or large, with or without a study of its own."""
        for content in (ONE, LARGE, data_set(UID, study=None)):
            self.check_all(OnDuplicate.REPLACE, [[content]], 60)

    def test_several(self) -> None:
        """Objects of one series, one after the other."""
        contents = [data_set(f"1.2.30.{number}") for number in range(4)]
        self.check_all(OnDuplicate.REPLACE, [[content] for content in contents], 150)

    def test_together(self) -> None:
        """Group commit: objects of several series that go into the index in one transaction."""
        groups = [
            [
                data_set(
                    f"1.2.{group}.{number}", bytes(70_000 * (number % 2)), series=f"1.2.20.{number // 2}"
                )
                for number in range(5)
            ]
            for group in (1, 2)
        ]
        self.check_all(OnDuplicate.REPLACE, groups, 200)

    def test_replaced(self) -> None:
        """New versions of an object: the last one acknowledged or one sent since; all before are kept."""
        self.check_all(OnDuplicate.REPLACE, [[ONE], [OTHER], [OTHER], [THIRD], [ONE]], 150)

    def test_replaced_elsewhere(self) -> None:
        """New versions that say to be of another series, and of another study."""
        contents = [
            ONE,
            data_set(UID, b"other...", series="1.2.21"),
            data_set(UID, b"third...", study="1.2.11"),
        ]
        self.check_all(OnDuplicate.REPLACE, [[content] for content in (*contents, ONE)], 150)

    def test_kept(self) -> None:
        """Kept: the first version stays, and is what is acknowledged."""
        self.check_all(OnDuplicate.KEEP, [[ONE], [OTHER], [ONE]], 60)

    def test_refused(self) -> None:
        """Refused: the first version stays, the others are not acknowledged."""
        self.check_all(OnDuplicate.REFUSE, [[ONE], [OTHER], [ONE]], 60)

    def test_no_links(self) -> None:
        """Where there are no hard links for notes."""
        link = os.link

        def no_link(path: Path, other: Path) -> None:
            if "superseded" not in str(other):
                raise OSError(95, "Operation not supported")
            link(path, other)

        self.patch(os, "link", no_link)
        self.check_all(OnDuplicate.REPLACE, [[ONE], [OTHER]], 60)

    def test_what_it_would_find(self) -> None:
        """A store that does not force out its files, or its directories, is found out."""
        for name in ("fdatasync", "fsync"):
            self.setUp()
            calls = self.record(OnDuplicate.REPLACE, [[ONE]])
            forgetful = [call for call in calls if call.name != "sync" or call.arguments[1] != name]
            self.assertLess(len(forgetful), len(calls))
            self.assertRaises(self.failureException, self.check_calls, forgetful, OnDuplicate.REPLACE)

    # -- how it is done

    def check_all(self, policy: OnDuplicate, groups: Sequence[Sequence[bytes]], fewest: int) -> None:
        """Store groups of objects that come at the same time; more power cuts than `fewest` are survived."""
        calls = self.record(policy, groups)
        tried = self.check_calls(calls, policy)
        self.assertGreater(tried, fewest)

    def record(self, policy: OnDuplicate, groups: Sequence[Sequence[bytes]]) -> list[Call]:
        """What a server does."""
        root = self.place / "store"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        recorder = Recorder(self, root)
        archive = Archive(root, self.place / "index" / "recorded", policy)
        try:
            archive.start()
            self.note_index(archive, recorder)
            for group in groups:
                self.ingest(archive, recorder, group)
        finally:
            archive.stop()
            recorder.stop()
            shutil.rmtree(self.place / "index")
        return recorder.calls

    def note_index(self, archive: Archive, recorder: Recorder) -> None:
        assert archive.index._connection is not None
        recorder.note("indexed", archive.index._connection.serialize())

    def ingest(self, archive: Archive, recorder: Recorder, group: Sequence[bytes]) -> None:
        sinks: list[DirectorySink] = []
        for content in group:
            recorder.note("sent", content)
            sinks.append(archive.store.open(FileMeta(CT_IMAGE_STORAGE, uid_of(content), EXPLICIT)))
        for part in range(2):
            for sink, content in zip(sinks, group, strict=True):
                half = len(content) // 2
                sink.write([memoryview(content[half:] if part else content[:half])])
        batch: list[Stored] = []
        for sink in sinks:
            try:
                sink.commit()
            except DimseError as refusal:
                self.assertEqual(refusal.status, 0x0111)
            else:
                assert sink.stored is not None
                batch.append(sink.stored)
        acknowledged = [stored.path for stored in batch]
        while batch:
            archive.index.put([archive.index._files.record(*record_place(stored)) for stored in batch])
            self.note_index(archive, recorder)
            batch = archive.store.settled(batch)
        for path in acknowledged:
            recorder.note("acknowledged", content_of(archive.root / path))

    def check_calls(self, calls: Sequence[Call], policy: OnDuplicate) -> int:
        """Let the power go after each call, with all that may be there then; how many states that makes."""
        disk = Disk()
        sent: defaultdict[str, list[bytes]] = defaultdict(list)
        acknowledged: defaultdict[str, list[bytes]] = defaultdict(list)
        index = b""
        tried: set[object] = set()
        for number, call in enumerate(calls):
            disk.play(call)
            if call.name == "sent":
                sent[uid_of(call.arguments[0])].append(call.arguments[0])
            elif call.name == "acknowledged":
                acknowledged[uid_of(call.arguments[0])].append(call.arguments[0])
            elif call.name == "indexed":
                (index,) = call.arguments
            told = sum(map(len, acknowledged.values()))
            for tree in disk.after_power_cut():
                for what_is_left_of_the_index in (index, b""):
                    state = frozenset(tree.items()), told, what_is_left_of_the_index
                    if state not in tried:
                        tried.add(state)
                        where = f"after call {number}, {call.name} {call.arguments[-1]!r:.60}"
                        left = self.place / "left" / str(len(tried))
                        self.check(tree, what_is_left_of_the_index, left, policy, sent, acknowledged, where)
        return len(tried)

    def check(
        self,
        tree: Tree,
        index: bytes,
        left: Path,
        policy: OnDuplicate,
        sent: dict[str, list[bytes]],
        acknowledged: dict[str, list[bytes]],
        where: str,
    ) -> None:
        """Start a server with what is left."""
        root, database = left / "store", left / "index" / "index.sqlite3"
        write_tree(tree, root)
        database.parent.mkdir()
        if index:
            database.write_bytes(index)
        archive = Archive(root, database, policy)
        try:
            archive.start()
            rows = archive.rows()
        finally:
            archive.stop()
        self.assertEqual(list((root / ".incoming").iterdir()), [], where)
        present: defaultdict[str, list[bytes]] = defaultdict(list)
        for path in root.rglob("*.dcm"):
            if not path.is_symlink():
                try:
                    content = content_of(path)
                except ValueError as error:
                    self.fail(f"{where}: {path}: {error}")
                uid = uid_of(content)
                self.assertIn(content, sent[uid], f"{where}: {path} is not what was sent")
                self.assertTrue(path.name.startswith(uid), where)
                present[uid].append(content)
        for uid, path in rows.items():
            self.assertTrue(path.exists(), f"{where}: the index has {uid} where it is not")
        for uid, contents in acknowledged.items():
            self.assertIn(uid, rows, f"{where}: acknowledged, and not in the index")
            since = sent[uid][sent[uid].index(contents[-1]) :] if contents else sent[uid]
            self.assertIn(content_of(rows[uid]), since, f"{where}: {uid} is older than what was acknowledged")
            for content in contents:
                self.assertIn(content, present[uid], f"{where}: {uid} was acknowledged and is not there")
        shutil.rmtree(left)


def record_place(stored: Stored) -> tuple[str, str, str]:
    return stored.study, stored.series, stored.sop_instance_uid
