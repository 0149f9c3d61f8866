"""A store that has an index: the same store, with a journal of what the index may not have yet."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from dicomtw.errors import DimseError
from dicomtw.storage import WouldBlock, directory, locations
from dicomtw.storage.directory import DirectoryStore, Durability, OnDuplicate
from dicomtw.storage.part10 import read_head
from dicomtw.storage.stored import Stored, read_stored
from tests.storage import CT_IMAGE_STORAGE, DEFLATED, EXPLICIT, IMPLICIT, data_set, element, test_directory
from tests.storage.test_directory import LARGE, NAME, RELAXED, UID, Recording, Storing

PATIENT_ID, INSTANCE_NUMBER = 0x00100020, 0x00200013
TAGS = frozenset({PATIENT_ID, INSTANCE_NUMBER})

#: For `data_set` to have in its middle.
PATIENT = element(PATIENT_ID, "LO", b"P1")

STRICT = Durability.STRICT


def failing(number: int = errno.EIO) -> Callable[..., Any]:
    """What fails with this error, whatever it is called with."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


class IndexedStore(DirectoryStore):
    """A store whose index has everything at once."""

    def publish(self, temporary: Path, stored: Stored, may_block: bool) -> Stored | None:
        published = super().publish(temporary, stored, may_block)
        batch = [] if published is None else [published]
        while batch:
            batch = self.settled(batch)
        return published


class Indexed(Storing):
    """What holds for any store holds for one with an index."""

    naming = "link"

    def store(
        self, durability: Durability = RELAXED, on_duplicate: OnDuplicate = OnDuplicate.REPLACE
    ) -> DirectoryStore:
        store = IndexedStore(self.root, durability, on_duplicate, TAGS)
        store.prepare()
        self.addCleanup(store.close)
        return store


class IndexedFaultTests(Indexed, test_directory.FaultTests):
    pass


class IndexedDuplicateTests(Indexed, test_directory.DuplicateTests):
    pass


class IndexedOneUIDTests(Indexed, test_directory.OneUIDTests):
    pass


class IndexedManyAtOnceTests(Indexed, test_directory.ManyAtOnceTests):
    pass


class Journalling(Storing):
    """A store whose index is the test."""

    def store(
        self, durability: Durability = RELAXED, on_duplicate: OnDuplicate = OnDuplicate.REPLACE
    ) -> DirectoryStore:
        store = DirectoryStore(self.root, durability, on_duplicate, TAGS)
        store.prepare()
        self.addCleanup(store.close)
        return store

    def commit(self, store: DirectoryStore, content: bytes, *args: str, **kwargs: str) -> Stored:
        """Store an object; what the index is to know of it."""
        sink = self.receive(store, content, *args, **kwargs)
        sink.commit()
        assert sink.stored is not None
        return sink.stored

    def notes(self) -> list[str]:
        return sorted(path.name for path in (self.root / ".incoming").iterdir())

    def objects(self) -> dict[str, bytes]:
        """The data sets that are stored, by path: not the journal, nor what is superseded."""
        return {
            name: content[read_head(content).data_set_offset :]
            for name, content in self.files().items()
            if not name.startswith((".incoming/", "superseded/"))
        }


class StoredTests(Journalling):
    def test_stored(self) -> None:
        """What is stored is told: where, what, when, and the elements that the index asks for."""
        for syntax in (EXPLICIT, IMPLICIT, DEFLATED):
            for durability in Durability:
                self.setUp()
                middle = element(PATIENT_ID, "LO", b"P1", IMPLICIT if syntax == IMPLICIT else EXPLICIT)
                content = data_set(UID, syntax=syntax, middle=middle)
                stored = self.commit(self.store(durability), content, syntax=syntax)
                status = (self.root / NAME).stat()
                self.assertEqual(str(stored.path), NAME)
                self.assertEqual((stored.study, stored.series), ("1.2.10", "1.2.20"))
                self.assertEqual((stored.sop_instance_uid, stored.transfer_syntax_uid), (UID, syntax))
                self.assertEqual((stored.mtime_ns, stored.inode), (status.st_mtime_ns, status.st_ino))
                self.assertEqual(stored.found[PATIENT_ID], b"P1")
                self.assertEqual(stored.found[0x00080016].decode().strip("\0"), CT_IMAGE_STORAGE)
                self.assertNotIn(INSTANCE_NUMBER, stored.found)

    def test_read_again(self) -> None:
        """The file says the same as was told when it was stored, wherever its elements stand."""
        far = element(0x00091010, "OB", bytes(1 << 17))
        for content in (
            data_set(UID, middle=PATIENT),
            data_set(UID, LARGE, middle=PATIENT + far),
            data_set(UID, study=None, series="..", middle=PATIENT),
            data_set(UID, middle=PATIENT)[:-1],
        ):
            self.setUp()
            stored = self.commit(self.store(), content)
            again = read_stored(self.root / stored.path, TAGS)
            self.assertEqual(again, attrs.evolve(stored, journal=None))

    def test_fault_behind(self) -> None:
        """A fault behind the elements that name an object costs the index the rest, and nobody else."""
        content = data_set(UID)[: -len(element(0x7FE00010, "OW", b"payload."))]
        content += element(INSTANCE_NUMBER, "xx", b"17")
        stored = self.commit(self.store(), content)
        self.assertEqual(self.objects(), {NAME: content})
        self.assertEqual(len(stored.found), 4)

    def test_no_object(self) -> None:
        """To read what is no object is a ValueError, what is no file an OSError; nothing is left open."""
        self.commit(self.store(), data_set(UID))
        whole = (self.root / NAME).read_bytes()
        path = self.place / "file"
        descriptors = test_directory.open_descriptors()
        for content in (
            b"",
            b"GET / HTTP/1.1\r\n" * 10,
            whole[:200],
            whole[: whole.rindex(b"1.2.20")],
            whole.replace(b"1.2.30", b"1/2/30"),
        ):
            path.write_bytes(content)
            self.assertRaises(ValueError, read_stored, path, TAGS)
        path.unlink()
        self.assertRaises(FileNotFoundError, read_stored, path, TAGS)
        self.assertRaises(IsADirectoryError, read_stored, self.place, TAGS)
        path.symlink_to(self.root / NAME)
        self.assertRaises(OSError, read_stored, path, TAGS)
        path.unlink()
        os.mkfifo(path)
        self.assertRaises(OSError, read_stored, path, TAGS)
        self.assertEqual(test_directory.open_descriptors(), descriptors)

    def test_may_not_block(self) -> None:
        """Relaxed: to read back what the index asks for would block, where it is not in memory."""
        begin = data_set(UID, middle=PATIENT)[: -len(element(0x7FE00010, "OW", b"payload."))]
        far = element(0x00200012, "UT", bytes(1 << 17)) + element(INSTANCE_NUMBER, "IS", b"17")
        near = element(INSTANCE_NUMBER, "IS", b"17") + element(0x00204000, "UT", bytes(1 << 17))
        for behind, blocks in ((near, False), (far, True)):
            self.setUp()
            sink = self.receive(self.store(), begin + behind)
            if blocks:
                self.assertRaises(WouldBlock, sink.commit, may_block=False)
                sink.commit()
            else:
                sink.commit(may_block=False)
            assert sink.stored is not None
            self.assertEqual(sink.stored.found[INSTANCE_NUMBER], b"17")


class NoteTests(Journalling):
    def test_until_settled(self) -> None:
        """An object has a second name in .incoming until it is settled, which is when its index has it."""
        for durability in Durability:
            for content in (data_set(UID), data_set(UID, LARGE)):
                self.setUp()
                store = self.store(durability)
                stored = self.commit(store, content)
                assert stored.journal is not None
                self.assertEqual(self.notes(), [Path(stored.journal).name])
                self.assertTrue(Path(stored.journal).samefile(self.root / NAME))
                for _ in range(2):
                    self.assertEqual(store.settled([stored]), [])
                    self.assertEqual(self.notes(), [])
                    self.assertEqual(self.stored(), {NAME: content})

    def test_replaced(self) -> None:
        """A new version of an object has its note too, in whatever series it is."""
        for durability in Durability:
            for there in ({}, {"series": "1.2.21"}):
                self.setUp()
                store = self.store(durability)
                store.settled([self.commit(store, data_set(UID))])
                content = data_set(UID, b"another.", **there)
                stored = self.commit(store, content)
                assert stored.journal is not None
                self.assertEqual(self.notes(), [Path(stored.journal).name])
                self.assertTrue(Path(stored.journal).samefile(self.root / stored.path))
                self.assertEqual(store.settled([stored]), [])
                self.assertEqual(self.notes(), [])
                self.assertEqual(self.objects(), {str(stored.path): content})
                self.assertEqual(len(self.files()), 2)

    def test_there_before(self) -> None:
        """Of an object that is there already the index is to know the earlier file, where it is."""
        for policy, content in (
            (OnDuplicate.REPLACE, data_set(UID, middle=PATIENT)),
            (OnDuplicate.KEEP, data_set(UID, b"another.", study="1.2.11")),
        ):
            for durability in Durability:
                self.setUp()
                store = self.store(durability, policy)
                first = self.commit(store, data_set(UID, middle=PATIENT))
                again = self.commit(store, content)
                self.assertEqual(again, attrs.evolve(first, journal=None))
                self.assertEqual(store.settled([again]), [])
                assert first.journal is not None
                self.assertEqual(self.notes(), [Path(first.journal).name])  # which is the first one's

    def test_kept_is_no_object(self) -> None:
        """Kept: of a file whose content is no object, or another, the index has nothing to know."""
        other = self.store()
        self.keep(other, data_set("1.2.31"), "1.2.31")
        another = (self.root / "1.2.10/1.2.20/1.2.31.dcm").read_bytes()
        for spoilt in (b"junk", data_set(UID), b"", another):
            self.setUp()
            store = self.store(RELAXED, OnDuplicate.KEEP)
            store.settled([self.commit(store, data_set(UID))])
            (self.root / NAME).write_bytes(spoilt)
            sink = self.receive(store, data_set(UID, b"another."))
            sink.commit()
            self.assertIsNone(sink.stored)
            self.assertEqual(self.files(), {NAME: spoilt})

    def test_refused(self) -> None:
        """What is refused or discarded leaves no note, and what was there before keeps its own."""
        store = self.store(RELAXED, OnDuplicate.REFUSE)
        self.commit(store, data_set(UID))
        notes = self.notes()
        self.assertStatus(0x0111, self.receive(store, data_set(UID, b"another.")).commit)
        self.assertStatus(0xA900, self.receive(store, data_set("1.2.31")).commit)
        self.receive(store, data_set("1.2.31", LARGE), "1.2.31").discard()
        self.assertEqual(self.notes(), notes)

    def test_name_not_synced(self) -> None:
        """An object whose name could not be forced out is refused; that it has its name stays noted."""
        store = self.store(STRICT)
        series, sync = (self.root / NAME).parent, directory.sync
        patch = self.patch(directory, "sync", lambda path: failing()() if path == series else sync(path))
        sink = self.receive(store, data_set(UID))
        self.assertStatus(0xA700, sink.commit)
        sink.discard()
        self.assertIsNone(sink.stored)
        patch.restore()
        self.assertEqual(list(self.objects()), [NAME])
        self.assertEqual(len(self.notes()), 1)
        store.close()
        (stored,) = self.store(STRICT).unsettled()
        self.assertEqual(str(stored.path), NAME)

    def test_version_not_synced(self) -> None:
        """A new version whose name could not be forced out leaves neither a note nor a second name."""
        for there in ({}, {"series": "1.2.21"}):
            self.setUp()
            store = self.store(STRICT)
            store.settled([self.commit(store, data_set(UID))])
            before, sync = self.files(), directory.sync
            final = self.root / "1.2.10" / there.get("series", "1.2.20")

            def fail(path: Path, sync: Any = sync, final: Path = final) -> None:
                if path == final:
                    failing()()
                sync(path)

            patch = self.patch(directory, "sync", fail)
            self.assertStatus(0xA700, self.receive(store, data_set(UID, b"another.", **there)).commit)
            patch.restore()
            self.assertEqual(self.files(), before)

    def test_without_index(self) -> None:
        """A store without an index makes no notes, reads nothing for one, and removes those it finds."""
        store = self.store()
        self.commit(store, data_set(UID))
        store.close()
        store = DirectoryStore(self.root, RELAXED)
        self.addCleanup(store.close)
        self.assertEqual(store.prepare(), 1)
        self.assertEqual(self.notes(), [])
        self.assertEqual(list(store.unsettled()), [])
        for number in range(2):
            self.patch(directory, "read_stored", failing())
            sink = self.receive(store, data_set("1.2.31"), "1.2.31")
            sink.commit()
            self.assertEqual(sink.stored is None, number == 1)
            self.assertEqual(self.notes(), [])


class MeanwhileTests(Journalling):
    """What becomes of an object between its commit and its entry into the index."""

    def test_replaced(self) -> None:
        """The index is told of what is there now, so that it does not matter who comes to it last."""
        for there in ({}, {"study": "1.2.11"}):
            for same_time in (False, True):
                self.setUp()
                store = self.store()
                first = self.commit(store, data_set(UID))
                second = self.commit(store, data_set(UID, b"another.", **there))
                if same_time:
                    os.utime(self.root / second.path, ns=(first.mtime_ns, first.mtime_ns))
                    second = attrs.evolve(second, mtime_ns=first.mtime_ns)
                self.assertEqual(store.settled([second]), [])
                (again,) = store.settled([first])
                self.assertEqual(again, attrs.evolve(second, journal=first.journal))
                self.assertEqual(len(self.notes()), 1)
                self.assertEqual(store.settled([again]), [])
                self.assertEqual(self.notes(), [])

    def test_removed(self) -> None:
        """What was removed or spoilt by hand is nothing to be known, and its note goes."""
        for spoil in (lambda path: None, lambda path: path.write_bytes(b"junk")):
            self.setUp()
            store = self.store()
            stored = self.commit(store, data_set(UID))
            (self.root / NAME).unlink()
            spoil(self.root / NAME)
            self.assertEqual(store.settled([stored]), [])
            self.assertEqual(self.notes(), [])

    def test_unknown(self) -> None:
        """Where the disk does not say what is there the note stays, for the next start to look again."""
        store = self.store()
        stored, other = (self.commit(store, data_set(uid), uid) for uid in (UID, "1.2.31"))
        stat = os.stat

        def fail(path: Any, *arguments: Any, **keywords: Any) -> Any:
            return failing()() if str(path).endswith(NAME) else stat(path, *arguments, **keywords)

        patch = self.patch(os, "stat", fail)
        self.assertEqual(store.settled([stored, other]), [])
        patch.restore()
        assert stored.journal is not None
        self.assertEqual(self.notes(), [Path(stored.journal).name])

    def test_note_stays(self) -> None:
        """That a note cannot be removed is no fault of anybody's."""
        store = self.store()
        stored = self.commit(store, data_set(UID))
        patch = self.patch(os, "unlink", failing())
        self.assertEqual(store.settled([stored]), [])
        patch.restore()
        self.assertEqual(len(self.notes()), 1)


class OrderTests(Recording, Journalling):
    def test_strict(self) -> None:
        """Strict: forced out, named, its name forced out; the note goes when it is settled, and only then."""
        store = self.store(STRICT)
        self.keep(store, data_set("1.2.31"), "1.2.31")
        sink = self.receive(store, data_set(UID))
        self.record()
        sink.commit()
        expected = [
            ("writev", "TEMPORARY"),
            ("fdatasync", "TEMPORARY"),
            ("link", NAME),
            ("fsync", "1.2.10/1.2.20"),
        ]
        self.assertEqual(self.events, expected)
        assert sink.stored is not None
        store.settled([sink.stored])
        self.assertEqual(self.events, [*expected, ("unlink", "TEMPORARY")])

    def test_strict_replace(self) -> None:
        """Strict: the earlier version is kept and that forced out before the new one has the name."""
        store = self.store(STRICT)
        self.keep(store, data_set(UID))
        self.keep(store, data_set(UID, b"one more"))
        sink = self.receive(store, data_set(UID, b"another."))
        self.record()
        sink.commit()
        kept = next(where for name, where in self.events if name == "link")
        self.assertTrue(kept.startswith("superseded/"))
        self.assertEqual(
            [event for event in self.events if not event[1].startswith(".by-uid")],
            [
                ("writev", "TEMPORARY"),
                ("fdatasync", "TEMPORARY"),
                ("link", kept),
                ("fsync", "superseded/1.2.10/1.2.20"),
                ("link", "TEMPORARY"),
                ("rename", NAME),
                ("fsync", "1.2.10/1.2.20"),
            ],
        )

    def test_relaxed(self) -> None:
        """Relaxed: nothing is forced to stable storage."""
        store = self.store()
        self.record()
        for content in (data_set(UID), data_set(UID), data_set(UID, b"another.")):
            store.settled([self.commit(store, content)])
        self.assertEqual({name for name, _ in self.events}, {"writev", "rename", "link", "unlink"})


class NoHardLinkTests(Journalling):
    """File systems that have no hard links, or not so many."""

    def test_stored(self) -> None:
        """An object gets its name all the same, and a note that says it, until it is settled."""
        for number in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            for durability in Durability:
                self.setUp()
                patch = self.patch(os, "link", failing(number))
                store = self.store(durability)
                stored = self.commit(store, data_set(UID))
                patch.restore()
                assert stored.journal is not None
                self.assertEqual(self.notes(), [Path(stored.journal).name])
                self.assertEqual(Path(stored.journal).read_text(), NAME)
                self.assertEqual(oct(os.stat(stored.journal).st_mode & 0o777), oct(0o600))
                self.assertEqual((self.root / NAME).stat().st_nlink, 1)
                self.assertEqual(store.settled([stored]), [])
                self.assertEqual(self.stored(), {NAME: data_set(UID)})

    def test_version(self) -> None:
        """Where links are but for the one that is the note, a new version takes the name by renaming."""
        store = self.store()
        store.settled([self.commit(store, data_set(UID))])
        link = os.link
        patch = self.patch(
            os,
            "link",
            lambda one, other: link(one, other) if "superseded" in str(other) else failing(errno.EMLINK)(),
        )
        stored = self.commit(store, data_set(UID, b"another."))
        patch.restore()
        self.assertEqual(self.objects(), {NAME: data_set(UID, b"another.")})
        self.assertEqual(store.settled([stored]), [])
        self.assertEqual(self.notes(), [])

    def test_faults(self) -> None:
        """What fails then is A700H, and leaves neither an object nor a note."""
        store = self.store()
        self.patch(os, "link", failing(errno.EPERM))
        for name in ("rename", "write"):
            patch = self.patch(os, name, failing(errno.ENOSPC))
            self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
            patch.restore()
            self.assertEqual(self.files(), {})

    def test_recovered(self) -> None:
        """The next start finds what has its name by its note, and leaves alone what a note has no say in."""
        patch = self.patch(os, "link", failing(errno.EPERM))
        store = self.store()
        first = self.commit(store, data_set(UID, middle=PATIENT))
        patch.restore()
        store.close()
        incoming = self.root / ".incoming"
        (self.place / "victim.dcm").write_bytes((self.root / NAME).read_bytes())
        for number, said in enumerate(
            (
                b"",
                b"1.2.10",
                b"../../victim.dcm",
                b"1.2.10/../victim.dcm",
                b"/1.2.10/victim.dcm",
                b"1.2.10/1.2.20/1.2.31.dcm",
                b"1.2.10/1.2.20/1.2.30.dcm/1.dcm",
                b"\0/\0/\0",
                b"\xff/\xff/\xff",
            )
        ):
            (incoming / f"{number}.note").write_bytes(said)
        store = self.store()
        (stored,) = store.unsettled()
        self.assertEqual(stored, first)
        assert stored.journal is not None
        self.assertEqual(self.notes(), [Path(stored.journal).name])
        self.assertEqual(store.settled([stored]), [])
        self.assertEqual(list(self.files()), [NAME])


class RecoveryTests(Journalling):
    """What a start finds that an earlier run has left."""

    def test_unsettled(self) -> None:
        """What has its name is told as it was when it was stored, what has none is gone."""
        store = self.store()
        stored = {
            uid: self.commit(store, data_set(uid, LARGE if large else b"payload.", middle=PATIENT), uid)
            for uid, large in ((UID, False), ("1.2.31", True), ("1.2.32", False))
        }
        store.settled([stored.pop("1.2.32")])
        self.receive(store, data_set("1.2.33", LARGE), "1.2.33")
        store.close()
        store = DirectoryStore(self.root, RELAXED, indexed=TAGS)
        self.addCleanup(store.close)
        self.assertEqual(store.prepare(), 1)
        self.assertEqual(len(self.notes()), 2)
        for _ in range(2):  # the second time, as if the index had failed in the midst of the first
            found = {one.sop_instance_uid: one for one in store.unsettled()}
            self.assertEqual(found, stored)
            store._unsettled = [Path(one.journal) for one in found.values() if one.journal]
        self.assertEqual(store.settled(found.values()), [])
        self.assertEqual(self.notes(), [])
        self.assertEqual(list(store.unsettled()), [])

    def test_interrupted(self) -> None:
        """Who stops in the midst of them begins anew."""
        store = self.store()
        for uid in (UID, "1.2.31"):
            self.commit(store, data_set(uid), uid)
        store.close()
        store = self.store()
        next(store.unsettled())
        self.assertEqual(len(list(store.unsettled())), 2)
        self.assertEqual(len(list(store.unsettled())), 0)

    def test_superseded(self) -> None:
        """The note of what was replaced since is of nothing that the index should know."""
        store = self.store()
        self.commit(store, data_set(UID))
        second = self.commit(store, data_set(UID, b"another."))
        store.close()
        store = self.store()
        self.assertEqual(list(store.unsettled()), [second])
        store.settled([second])
        self.assertEqual(self.notes(), [])

    def test_removed_by_hand(self) -> None:
        """The note of what was removed or moved since goes, and with it the last of the file."""
        for remove in (Path.unlink, lambda path: path.rename(self.place / "moved")):
            self.setUp()
            store = self.store()
            self.commit(store, data_set(UID))
            store.close()
            remove(self.root / NAME)
            (self.root / NAME).parent.rmdir()
            (self.root / NAME).parent.write_bytes(b"a file")
            self.assertEqual(list(self.store().unsettled()), [])
            self.assertEqual(self.notes(), [])

    def test_links_of_others(self) -> None:
        """A half received file that somebody has linked elsewhere is half received."""
        for size in (60_000, 100):
            self.setUp()
            store = self.store()
            self.receive(store, data_set(UID, LARGE * 2)[:100_000])
            (temporary,) = (self.root / ".incoming").iterdir()
            os.truncate(temporary, size)
            os.link(temporary, self.place / "backup")
            store.close()
            self.assertEqual(list(self.store().unsettled()), [])
            self.assertEqual(self.files(), {})

    def test_cannot_be_read(self) -> None:
        """What cannot be read now keeps its note: another start may be able to."""
        store = self.store()
        for uid in (UID, "1.2.31"):
            self.commit(store, data_set(uid), uid)
        store.close()
        store, read = self.store(), directory.read_stored
        unreadable = store._unsettled[0]
        patch = self.patch(
            directory,
            "read_stored",
            lambda path, wanted: failing()() if path == unreadable else read(path, wanted),
        )
        self.assertEqual(len(list(store.unsettled())), 1)
        patch.restore()
        self.assertEqual(len(self.notes()), 2)

    def test_another_process(self) -> None:
        """While another process uses the store nothing of the journal is touched: it may be that one's."""
        other = self.store()
        self.commit(other, data_set(UID))
        store = self.store()
        self.assertEqual(list(store.unsettled()), [])
        self.assertEqual(len(self.notes()), 1)

    def test_two_objects_of_one_uid(self) -> None:
        """Where a UID is stored in two studies, for the registry was lost, neither is taken for left over."""
        store = self.store()
        self.commit(store, data_set(UID))
        for link in (self.root / ".by-uid").glob("*/*"):
            link.unlink()
        self.commit(store, data_set(UID, study="1.2.11"))
        store.close()
        store = self.store()
        self.assertEqual(len(list(store.unsettled())), 2)
        self.assertEqual(len(self.objects()), 2)


class Crash(BaseException):
    """The process is killed."""


class CrashTests(Journalling):
    """A process that is killed before one of its system calls, whichever it is; and the next start."""

    CALLS = (
        "open",
        "writev",
        "write",
        "fdatasync",
        "fsync",
        "link",
        "rename",
        "unlink",
        "symlink",
        "mkdir",
        "rmdir",
    )

    def setUp(self) -> None:
        super().setUp()
        self.patch(locations, "_BUCKETS", 1)
        for name in ("fsync", "fdatasync"):  # here it is the order that counts
            self.patch(os, name, lambda fd: None)
        #: What the index has: path and inode by SOP Instance UID. It survives crashes.
        self.index: dict[str, tuple[str, int]] = {}
        self.left: int | None = None

    def put(self, batch: list[Stored]) -> None:
        self.count()
        self.index.update({one.sop_instance_uid: (str(one.path), one.inode) for one in batch})

    def count(self) -> None:
        """One more system call; the last one that is left is the death, and there is none after it."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Crash

    def enter(self, store: DirectoryStore, batch: list[Stored]) -> None:
        while batch:
            self.put(batch)
            batch = store.settled(batch)

    def ingest(self, store: DirectoryStore, content: bytes) -> None:
        """What a server does for one object before it acknowledges it."""
        sink = self.receive(store, content)
        sink.commit()
        if sink.stored is not None:
            self.enter(store, [sink.stored])

    def crash_at(self, number: int, store: DirectoryStore, content: bytes) -> bool:
        """Ingest and be killed before the system call of that number; whether it came to that."""
        patches = []
        for name in self.CALLS:
            real = getattr(os, name)

            def call(*arguments: Any, real: Any = real, **keywords: Any) -> Any:
                self.count()
                return real(*arguments, **keywords)

            patches.append(self.patch(os, name, call))
        self.left = number
        try:
            self.ingest(store, content)
        except Crash:
            return True
        finally:
            self.left = None
            for patch in patches:
                patch.restore()
        return False

    def recover(self, durability: Durability, policy: OnDuplicate) -> None:
        store = self.store(durability, policy)
        for stored in store.unsettled():
            self.enter(store, [stored])
        store.close()

    def in_files(self) -> dict[str, tuple[str, int]]:
        """What an index of the files would have."""
        return {Path(name).stem: (name, (self.root / name).stat().st_ino) for name in self.objects()}

    def check_all(self, policy: OnDuplicate, before: list[bytes], content: bytes) -> int:
        """Crash at each system call, for each durability; how many there are."""
        total = 0
        for durability in Durability:
            for links in (True, False):
                number, crashed = 0, True
                while crashed:
                    self.setUp()
                    store = self.store(durability, policy)
                    for earlier in before:
                        self.ingest(store, earlier)
                    patch = None if links else self.patch(os, "link", failing(errno.EPERM))
                    try:
                        crashed = self.crash_at(number, store, content)
                    except DimseError as refusal:
                        self.assertFalse(links, refusal)  # to replace takes hard links
                        break
                    finally:
                        if patch is not None:
                            patch.restore()
                    store.close()
                    self.recover(durability, policy)
                    where = f"{durability} before call {number}, links: {links}"
                    self.check(before, content, crashed, policy, where)
                    number += 1
                total += number
        return total

    def check(
        self, before: list[bytes], content: bytes, crashed: bool, policy: OnDuplicate, where: str
    ) -> None:
        self.assertEqual(self.notes(), [], where)
        self.assertEqual(self.index, self.in_files(), where)
        objects = list(self.objects().values())
        self.assertLessEqual(len(objects), 1, where)
        new = content if policy is OnDuplicate.REPLACE or not before else before[-1]
        if not crashed:
            self.assertEqual(objects, [new], where)
        elif not before:
            self.assertIn(objects, ([], [new]), where)
        else:
            self.assertIn(objects, ([before[-1]], [new]), where)
        self.assertLessEqual(set(before), set(self.stored().values()), where)

    def test_new(self) -> None:
        """A new object is there whole and in the index, or in neither; acknowledged it is in both."""
        for content in (data_set(UID, middle=PATIENT), data_set(UID, LARGE), data_set(UID, study=None)):
            self.assertGreater(self.check_all(OnDuplicate.REPLACE, [], content), 30)

    def test_again(self) -> None:
        """An object that comes again is there and in the index as it was, whenever the crash comes."""
        content = data_set(UID, middle=PATIENT)
        for policy in OnDuplicate:
            self.assertGreater(self.check_all(policy, [content], content), 15)

    def test_kept(self) -> None:
        """Kept: the first version is there and in the index as it was."""
        self.assertGreater(self.check_all(OnDuplicate.KEEP, [data_set(UID)], data_set(UID, b"another.")), 15)

    def test_replaced(self) -> None:
        """A new version, in whatever series, or else the earlier one is there and in the index, not both."""
        for there in ({}, {"series": "1.2.21"}, {"study": "1.2.11"}):
            content = data_set(UID, b"another.", **there)
            for before in ([data_set(UID)], [data_set(UID, b"the 1st."), data_set(UID)]):
                self.assertGreater(self.check_all(OnDuplicate.REPLACE, before, content), 30)

    def test_not_in_the_index(self) -> None:
        """An object that is there but not in the index, as a crash left it, is in it once it comes again."""
        content = data_set(UID, middle=PATIENT)
        for policy in (OnDuplicate.REPLACE, OnDuplicate.KEEP):
            self.setUp()
            store = self.store(STRICT, policy)
            self.receive(store, content).commit()
            self.assertEqual(self.index, {})
            self.ingest(store, content)
            self.assertEqual(self.index, self.in_files())
            self.assertEqual(len(self.index), 1)
