"""The store on a real file system: what it keeps, what it refuses, and what is left when things go wrong."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import shutil
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pydicom
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import DimseError
from dicomtw.storage import WouldBlock, directory, directory_sink
from dicomtw.storage.directory import DirectoryStore, Durability, OnDuplicate
from dicomtw.storage.directory_sink import DirectorySink
from dicomtw.storage.doubts import DOUBTFUL
from dicomtw.storage.locations import BY_UID
from dicomtw.storage.part10 import FileMeta, read_head
from tests.storage import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_LOSSLESS,
    PYDICOM_FILES,
    UNDEFINED,
    behind_file_meta,
    data_set,
    element,
)

UID = "1.2.30"
#: Where `data_set(UID)` goes.
NAME = f"1.2.10/1.2.20/{UID}.dcm"

RELAXED = Durability.RELAXED

#: What is kept in memory of a data set, in bytes; of more a file is made.
HEAD = 65536
#: Pixel data that makes a data set longer than that.
LARGE = bytes(HEAD)


def open_descriptors() -> list[str]:
    """What this process has open. Opening the listing itself shows up the same way each time."""
    return sorted(
        os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if is_open(int(fd))
    )


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def views(content: bytes, size: int = 1000) -> list[memoryview]:
    """`content` in fragments, as they arrive."""
    whole = memoryview(content)
    return [whole[at : at + size] for at in range(0, len(content), size)]


class Storing(SynchronousTestCase):
    """A store in a directory of its own."""

    #: The system call that gives a new object its name.
    naming = "rename"

    def setUp(self) -> None:
        self.place = Path(self.mktemp()).absolute()
        self.place.mkdir()
        self.root = self.place / "store"

    def store(
        self, durability: Durability = RELAXED, on_duplicate: OnDuplicate = OnDuplicate.REPLACE
    ) -> DirectoryStore:
        store = DirectoryStore(self.root, durability, on_duplicate)
        store.prepare()
        self.addCleanup(store.close)
        return store

    def receive(
        self,
        store: DirectoryStore,
        content: bytes,
        instance: str = UID,
        sop_class: str = CT_IMAGE_STORAGE,
        syntax: str = EXPLICIT,
    ) -> DirectorySink:
        """A sink that all of `content` was written to."""
        sink = store.open(FileMeta(sop_class, instance, syntax, "SENDER", "STORE"))
        for fragment in views(content):
            sink.write([fragment])
        return sink

    def keep(self, store: DirectoryStore, content: bytes, *args: str, **kwargs: str) -> None:
        self.receive(store, content, *args, **kwargs).commit()

    def files(self) -> dict[str, bytes]:
        """Every file in the store, by its path, but for the locks at its top, and what is known of others."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
            and not (path.parent == self.root and path.name.startswith("."))
            and path.relative_to(self.root).parts[0] not in (BY_UID, DOUBTFUL)
        }

    def registered(self) -> dict[str, str]:
        """Where the registry says that each UID is: what its links say, whether they lead anywhere or not."""
        return {path.name: os.readlink(path) for path in sorted((self.root / BY_UID).glob("*/*"))}

    def directories(self) -> list[str]:
        """The directories of studies and of series."""
        return sorted(
            str(path.relative_to(self.root))
            for pattern in ("*", "*/*")
            for path in self.root.glob(pattern)
            if path.is_dir()
            and path.relative_to(self.root).parts[0] not in (BY_UID, DOUBTFUL, ".incoming", "superseded")
        )

    def stored(self) -> dict[str, bytes]:
        """Every data set in the store, by its file's path."""
        return {name: content[read_head(content).data_set_offset :] for name, content in self.files().items()}

    def assertStatus(self, status: int, function: Callable[..., Any], *arguments: Any) -> DimseError:
        error = self.assertRaises(DimseError, function, *arguments)
        self.assertEqual(f"{error.status:04X}", f"{status:04X}")
        return error


class KeepingTests(Storing):
    def test_path(self) -> None:
        """An object is kept as Study UID/Series UID/SOP Instance UID.dcm, and nothing else is left."""
        content = data_set(UID)
        self.keep(self.store(), content)
        self.assertEqual(self.stored(), {NAME: content})

    def test_pydicom_reads_it(self) -> None:
        """Pydicom reads the file, in each transfer syntax, and the data set is what came, byte for byte."""
        store = self.store()
        for number, syntax in enumerate((IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)):
            instance = f"1.2.30.{number}"
            content = data_set(instance, b"pixels" * 5000, syntax=syntax)
            self.keep(store, content, instance, syntax=syntax)
            path = self.root / f"1.2.10/1.2.20/{instance}.dcm"
            read = pydicom.dcmread(path)
            self.assertEqual(read.file_meta.TransferSyntaxUID, syntax)
            self.assertEqual(read.file_meta.MediaStorageSOPInstanceUID, instance)
            self.assertEqual(read.file_meta.SourceApplicationEntityTitle, "SENDER")
            self.assertEqual(read.SOPInstanceUID, instance)
            self.assertEqual(len(read.PixelData), 30000)
            whole = path.read_bytes()
            self.assertEqual(whole[read_head(whole).data_set_offset :], content)

    def test_modes(self) -> None:
        """Files are readable and writable by their owner alone, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        store = self.store()
        sink = self.receive(store, data_set(UID, LARGE))
        modes = [path.stat().st_mode for path in (self.root / ".incoming").iterdir()]
        sink.commit()
        self.keep(store, data_set(UID, b"other..."))  # one is superseded
        modes += [path.stat().st_mode for path in self.root.rglob("*") if path.is_file()]
        self.assertGreater(len(modes), 3)
        self.assertEqual({oct(stat.S_IMODE(mode)) for mode in modes}, {oct(0o600)})

    def test_unknown_names(self) -> None:
        """Without a valid Study or Series UID an object goes to a directory that says so, nowhere else."""
        hostile = [
            None,
            "",
            "..",
            ".",
            "../../x",
            "/etc",
            "1/2",
            "a.b",
            "1" * 65,
            "1.2\0.3",
            "1\\2",
            "superseded",
        ]
        store = self.store()
        for number, name in enumerate(hostile):
            study, series, both = (f"1.2.{number}.{kind}" for kind in range(3))
            self.keep(store, data_set(study, study=name), study)
            self.keep(store, data_set(series, series=name), series)
            self.keep(store, data_set(both, study=name, series=name), both)
            for path in (
                f"unknown-study/1.2.20/{study}.dcm",
                f"1.2.10/unknown-series/{series}.dcm",
                f"unknown-study/unknown-series/{both}.dcm",
            ):
                self.assertTrue((self.root / path).is_file(), f"{path} for {name!r}")
        self.assertEqual(len(self.files()), 3 * len(hostile))
        self.assertEqual(sorted(path.name for path in self.place.iterdir()), ["store"])
        top = {path.name for path in self.root.iterdir() if not path.name.startswith(".")}
        self.assertEqual(top, {"superseded", "unknown-study", "1.2.10"})

    def test_lax_uids(self) -> None:
        """UIDs with leading zeros or empty components, as archives have them, are kept as they are."""
        store = self.store()
        for instance in ("1.02.3", "1..2", ".1", "1.", "...", "0", "1" * 64):
            self.keep(store, data_set(instance), instance)
            self.assertTrue((self.root / f"1.2.10/1.2.20/{instance}.dcm").is_file())

    def test_padded_uids(self) -> None:
        """Padding of the data set's UIDs, by NUL or by space, is no difference to the command's."""
        content = data_set(UID + ".1", study="1.2.10").replace(b"1.2.30.1", b"1.2.30  ")
        content = content.replace(b"1.2.10", b"1.2.1 ")
        self.keep(self.store(), content)
        self.assertEqual(self.stored(), {f"1.2.1/1.2.20/{UID}.dcm": content})

    def test_names_far_from_the_beginning(self) -> None:
        """A data set whose UIDs stand behind more than is remembered of it is read back to name it."""
        content = data_set(UID, middle=element(0x00091010, "OB", bytes(1 << 18)))
        self.keep(self.store(), content)
        self.assertEqual(self.stored(), {NAME: content})

    def test_many_fragments(self) -> None:
        """More fragments in one write than one writev takes are written in order, empty ones among them."""
        content = data_set(UID, bytes(range(250)) * 40)
        fragments = views(content, 3)
        fragments.insert(1024, memoryview(b""))
        fragments.insert(0, memoryview(b""))
        self.assertGreater(len(fragments), 3000)
        sink = self.store().open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
        sink.write(fragments)
        sink.write([])
        sink.write([memoryview(b"")] * 2000)
        sink.commit()
        self.assertEqual(self.stored(), {NAME: content})

    def test_short_writes(self) -> None:
        """A write that takes only part of what it is given is followed up."""
        writev = os.writev
        content = data_set(UID, bytes(range(250)) * 8)
        for step in (1, 7, 1000):

            def short(fd: int, buffers: list[Any], step: int = step) -> int:
                return writev(fd, [b"".join(buffers)[:step]])

            self.patch(os, "writev", short)
            self.patch(directory_sink, "_HEAD", 1000)
            store = self.store()
            for fragments in ([content], views(content, 50)):
                sink = store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
                for fragment in fragments:
                    sink.write([memoryview(fragment)])
                sink.commit()
                self.assertEqual(self.stored(), {NAME: content})
                (self.root / NAME).unlink()

    def test_nothing_visible_before_commit(self) -> None:
        """Until it is committed an object has no name, and opening a sink does not touch the disk."""
        store = self.store()
        sink = store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
        self.assertEqual(self.files(), {})
        sink.write(views(data_set(UID, LARGE)))
        (name,) = self.files()
        self.assertTrue(name.startswith(".incoming/"))
        sink.commit()
        self.assertEqual(list(self.files()), [NAME])

    def test_head(self) -> None:
        """The first 64 KiB are kept in memory, without a file; the byte behind them makes it, with them."""
        content = data_set(UID, LARGE)
        for size in (HEAD, 1, 7, 1000, HEAD - 1):
            self.setUp()
            store = self.store()
            descriptors = open_descriptors()
            sink = store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
            for fragment in views(content[:HEAD], size):
                sink.write([fragment])
            self.assertEqual(self.files(), {})
            self.assertEqual(open_descriptors(), descriptors)
            sink.write([])
            sink.write([memoryview(b""), memoryview(content)[HEAD : HEAD + 1]])
            (written,) = self.files().values()
            self.assertEqual(written[read_head(written).data_set_offset :], content[: HEAD + 1])
            sink.write([memoryview(content)[HEAD + 1 :], memoryview(b"")])
            sink.write([])
            sink.commit()
            self.assertEqual(self.stored(), {NAME: content})
            self.assertEqual(open_descriptors(), descriptors)

    def test_across_the_head(self) -> None:
        """Whatever the parts that a data set comes in, it is kept as it came."""
        store = self.store()
        for size in (HEAD - 1, HEAD, HEAD + 1, 2 * HEAD + 1):
            content = data_set(UID)
            content = data_set(UID, bytes(range(8)) * ((size + 8 - len(content)) // 8)) + b"x" * (size % 8)
            for parts in ([len(content)], [1], [HEAD - 1], [HEAD], [HEAD + 1], [3, HEAD], [HEAD, 3]):
                sink = store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
                at = 0
                for part in parts:
                    sink.write([memoryview(content)[at : at + part]])
                    at += part
                sink.write([memoryview(content)[at:]])
                sink.commit(may_block=True)
                self.assertEqual(self.stored(), {NAME: content})
                (self.root / NAME).unlink()

    def test_fragments_may_change_afterwards(self) -> None:
        """What is kept in memory does not depend on the chunks that it came in."""
        content = data_set(UID)
        chunk = bytearray(content)
        sink = self.store().open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
        sink.write([memoryview(chunk)])
        chunk[:] = bytes(len(chunk))
        sink.commit()
        self.assertEqual(self.stored(), {NAME: content})

    def test_refused_small_data_sets_make_no_file(self) -> None:
        """A small data set is checked before its file is made: one that is refused never touches the disk."""
        store = self.store()
        made: list[Any] = []
        open_ = os.open

        def noting(path: Any, *arguments: Any, **keywords: Any) -> int:
            made.append(path)
            return open_(path, *arguments, **keywords)

        self.patch(os, "open", noting)
        for content in (data_set("1.2.31"), data_set(UID, sop_class_uid="1.2"), data_set(UID)[:20]):
            self.assertRaises(DimseError, self.receive(store, content).commit)
        self.assertEqual(made, [])
        self.keep(store, data_set(UID))
        self.assertEqual(len(made), 1)

    def test_implicit_under_another_transfer_syntax(self) -> None:
        """A data set in implicit VR under another transfer syntax is kept as it came, under that syntax."""
        for number, syntax in enumerate((EXPLICIT, JPEG_LOSSLESS, BIG_ENDIAN)):
            for payload in (b"payload.", LARGE):
                self.setUp()
                instance = f"1.2.30.{number}"
                content = data_set(instance, payload, syntax=IMPLICIT)
                self.keep(self.store(), content, instance, syntax=syntax)
                self.assertEqual(self.stored(), {f"1.2.10/1.2.20/{instance}.dcm": content})
                (whole,) = self.files().values()
                self.assertEqual(read_head(whole).transfer_syntax_uid, syntax)

    def test_file_with_implicit_vr_under_jpeg(self) -> None:
        """SC_rgb_jpeg.dcm of pydicom, implicit VR under a transfer syntax with explicit VR, is stored."""
        (path,) = PYDICOM_FILES.rglob("SC_rgb_jpeg.dcm")
        whole = path.read_bytes()
        content = whole[behind_file_meta(whole) :]
        meta = pydicom.filereader.read_file_meta_info(path)
        instance = str(meta.MediaStorageSOPInstanceUID)
        syntax = str(meta.TransferSyntaxUID)
        store = self.store()
        self.keep(store, content, instance, str(meta.MediaStorageSOPClassUID), syntax)
        ((name, stored),) = self.stored().items()
        self.assertTrue(name.endswith(f"/{instance}.dcm"))
        self.assertNotIn("unknown", name)
        self.assertEqual(stored, content)

    def test_discard(self) -> None:
        """A discarded data set leaves no trace, however much of it came and however often it is discarded."""
        store = self.store()
        before = open_descriptors()
        for content in (b"", b"1", data_set(UID)):
            sink = self.receive(store, content)
            sink.discard()
            sink.discard()
            self.assertEqual(self.files(), {})
        self.assertEqual(open_descriptors(), before)

    def test_discard_after_commit(self) -> None:
        """To discard what is committed does nothing."""
        sink = self.receive(self.store(), data_set(UID))
        sink.commit()
        sink.discard()
        self.assertEqual(list(self.files()), [NAME])


class PrepareTests(Storing):
    def test_directories(self) -> None:
        """The store is made with its parents, and preparing it again changes nothing."""
        self.root = self.place / "not" / "yet" / "there"
        self.store()
        self.store()
        self.assertLess({".incoming", "superseded"}, {path.name for path in self.root.iterdir()})
        self.assertEqual(self.files(), {})

    def test_leftovers(self) -> None:
        """What an earlier run had half received is removed at the start, and nothing else."""
        store = self.store()
        self.keep(store, data_set(UID))
        for instance in ("1.2.31", "1.2.32"):
            self.receive(store, data_set(instance, LARGE)[:-20], instance)
        self.receive(store, data_set("1.2.33")[:20], "1.2.33")  # had no file
        store.close()
        again = DirectoryStore(self.root, RELAXED)
        self.addCleanup(again.close)
        self.assertEqual(again.prepare(), 2)
        self.assertEqual(list(self.files()), [NAME])

    def test_prepared_again(self) -> None:
        """To prepare a store that is prepared opens nothing anew and takes nothing from what is coming in."""
        store = self.store()
        sink = self.receive(store, data_set(UID, LARGE))
        descriptors = open_descriptors()
        other = self.store()
        self.assertEqual(store.prepare(), 0)
        other.close()
        self.assertEqual(open_descriptors(), descriptors)
        sink.commit()
        self.assertEqual(self.stored(), {NAME: data_set(UID, LARGE)})

    def test_directories_among_leftovers(self) -> None:
        """A directory that somebody made in .incoming is left alone, and keeps nothing from starting."""
        self.store().close()
        incoming = self.root / ".incoming"
        (incoming / "directory").mkdir()
        (incoming / "directory" / "inside").write_bytes(b"of somebody")
        (incoming / "half").write_bytes(b"half")
        victim = self.place / "victim"
        victim.write_bytes(b"victim")
        (incoming / "link").symlink_to(victim)
        store = DirectoryStore(self.root, RELAXED)
        self.addCleanup(store.close)
        self.assertEqual(store.prepare(), 2)
        self.assertEqual(list(self.files()), [".incoming/directory/inside"])
        self.assertEqual(victim.read_bytes(), b"victim")

    def test_link_for_incoming(self) -> None:
        """A symbolic link for .incoming is refused: what it leads to is not ours to clean up."""
        self.store().close()
        elsewhere = self.place / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "photograph").write_bytes(b"of somebody")
        (self.root / ".incoming").rmdir()
        (self.root / ".incoming").symlink_to(elsewhere)
        store = DirectoryStore(self.root, RELAXED)
        self.addCleanup(store.close)
        error = self.assertRaises(OSError, store.prepare)
        self.assertEqual(error.errno, errno.ELOOP)
        self.assertIn(".incoming is a symbolic link", str(error))
        self.assertEqual([path.name for path in elsewhere.iterdir()], ["photograph"])

    def test_link_for_the_store(self) -> None:
        """The store itself may be a symbolic link: to choose its place is its owner's."""
        (self.place / "disk").mkdir()
        self.root.symlink_to(self.place / "disk")
        self.keep(self.store(), data_set(UID))
        self.assertTrue((self.place / "disk" / NAME).is_file())

    def test_another_process(self) -> None:
        """While another process uses the store its half received files are left alone, until it is gone."""
        self.store().close()
        other = os.open(self.root / ".lock", os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_SH)
        half = self.root / ".incoming" / "of-the-other"
        half.write_bytes(b"half")
        store = DirectoryStore(self.root, RELAXED)
        self.assertEqual(store.prepare(), 0)
        self.assertTrue(half.exists())
        os.close(other)
        store.close()
        self.assertEqual(store.prepare(), 1)
        self.assertFalse(half.exists())
        store.close()

    def test_lock_is_held(self) -> None:
        """A prepared store keeps the others from cleaning up until it is closed, twice if need be."""
        first, second, third = (DirectoryStore(self.root, RELAXED) for _ in range(3))
        first.prepare()
        self.receive(first, data_set(UID, LARGE))
        self.assertEqual(second.prepare(), 0)
        second.close()
        self.assertEqual(len(self.files()), 1)
        first.close()
        first.close()
        self.assertEqual(third.prepare(), 1)
        third.close()
        self.assertEqual(self.files(), {})

    def test_parent_of_another(self) -> None:
        """That the directory above the store may not be read is no fault: then the store was there before."""
        self.root.mkdir()
        open_, parent = os.open, str(self.place)

        def refusing(path: Any, *arguments: Any, **keywords: Any) -> int:
            if str(path) == parent:
                raise PermissionError(errno.EACCES, "Permission denied")
            return open_(path, *arguments, **keywords)

        self.patch(os, "open", refusing)
        self.assertEqual(self.store(Durability.STRICT).root, self.root)

    def test_no_room_for_a_store(self) -> None:
        """Where no store can be made the error says so."""
        self.root.write_bytes(b"a file")
        self.assertRaises(OSError, DirectoryStore(self.root).prepare)


class RefusalTests(Storing):
    HOSTILE = (
        *("", ".", "..", "../../x", "../x", "/abs/x", "/", "1/2", "1/../../x", "a", "abc.def", "1.2.3a"),
        *("1\x00", "1\x00/x", "1.2\n", " 1.2", "1.2 ", "1\\2", "~", "-1", "%2e%2e", "1.2.3;rm", "\uff11.2"),
        *("\xb2", "\u0661.2", "1" * 65, "1" * 5000, "1.2/" * 20, "con", ".lock", ".incoming/x"),
    )

    def test_invalid_sop_instance_uids(self) -> None:
        """A SOP Instance UID that is none is 0117H, and nothing is made, in the store or outside."""
        store = self.store()
        before = sorted(self.place.rglob("*"))
        for instance in self.HOSTILE:
            meta = FileMeta(CT_IMAGE_STORAGE, instance, EXPLICIT)
            error = self.assertStatus(0x0117, store.open, meta)
            self.assertEqual(error.comment, "invalid SOP Instance UID")
        self.assertEqual(sorted(self.place.rglob("*")), before)

    def test_refusals(self) -> None:
        """A data set that is not what the command says is A900H, one that is none C000H; nothing is left."""
        store = self.store()
        nested = element(0xFFFEE000, "", length=UNDEFINED) + element(0x00081140, "SQ", length=UNDEFINED)
        deep = element(0x00081140, "SQ", length=UNDEFINED) + nested * 2000
        cases = [
            (0xA900, data_set("1.2.31"), EXPLICIT),
            (0xA900, data_set("1.2.3"), EXPLICIT),
            (0xA900, data_set(UID + ".1"), EXPLICIT),
            (0xA900, data_set("../../x"), EXPLICIT),
            (0xA900, data_set(None), EXPLICIT),
            (0xA900, data_set(""), EXPLICIT),
            (0xA900, data_set(UID, sop_class_uid="1.2.840.10008.5.1.4.1.1.4"), EXPLICIT),
            (0xA900, data_set(UID, sop_class_uid=None), EXPLICIT),
            (0xA900, data_set(UID, sop_class_uid=""), EXPLICIT),
            (0xA900, b"", EXPLICIT),
            (0xA900, b"", IMPLICIT),
            (0xC000, b"\0", EXPLICIT),
            (0xC000, bytes(range(255)) * 10, IMPLICIT),
            (0xC000, data_set(UID)[:20], EXPLICIT),
            (0xC000, data_set(UID, syntax=DEFLATED)[:40], DEFLATED),
            (0xC000, data_set(UID), IMPLICIT),
            (0xC000, data_set(UID), BIG_ENDIAN),
            (0xC000, data_set(UID, syntax=IMPLICIT)[:20], EXPLICIT),
            (0xA900, data_set("1.2.31", syntax=IMPLICIT), EXPLICIT),
            (0xA900, data_set(UID, sop_class_uid="1.2.3", syntax=IMPLICIT), JPEG_LOSSLESS),
            (0xC000, data_set(UID, middle=deep), EXPLICIT),
            (0xC000, data_set(UID, middle=deep, payload=LARGE), EXPLICIT),
            (0xA900, data_set("1.2.31", LARGE), EXPLICIT),
        ]
        descriptors = open_descriptors()
        for status, content, syntax in cases:
            sink = self.receive(store, content, syntax=syntax)
            self.assertStatus(status, sink.commit)
            sink.discard()
            self.assertEqual(self.files(), {}, content[:40])
        self.assertEqual(open_descriptors(), descriptors)
        self.keep(store, data_set(UID))
        self.assertEqual(list(self.files()), [NAME])

    def test_garbage(self) -> None:
        """What is no data set is C000H, though it may pass for implicit VR with nothing of interest."""
        store = self.store()
        for content in (
            bytes(range(255)) * 10,
            b"\xff" * 1000,
            b"GET / HTTP/1.1\r\n\r\n",
            data_set(UID)[:20],
        ):
            for syntax in (EXPLICIT, DEFLATED):
                self.assertStatus(0xC000, self.receive(store, content, syntax=syntax).commit)
                self.assertEqual(self.files(), {})

    def test_comments(self) -> None:
        """What is said of a refusal fits an Error Comment and has nothing of the data set's text in it."""
        store = self.store()
        for content in (data_set("1.2.31"), data_set(UID, sop_class_uid="1.2"), b"Smith^John" * 9):
            error = self.assertRaises(DimseError, self.receive(store, content).commit)
            self.assertTrue(error.comment)
            self.assertNotIn("Smith", error.comment)

    def test_earlier_copy(self) -> None:
        """A re-send that is refused, discarded or cut off leaves the earlier copy as it was."""
        store = self.store()
        self.keep(store, data_set(UID))
        before, status = self.files(), (self.root / NAME).stat()
        for content in (b"", b"\xff" * 100, data_set("1.2.31"), data_set(UID)[:30]):
            self.assertRaises(DimseError, self.receive(store, content).commit)
        for content in (b"", data_set(UID)[:30], data_set(UID, b"another.")):
            self.receive(store, content).discard()
        self.assertEqual(self.files(), before)
        after = (self.root / NAME).stat()
        self.assertEqual((after.st_ino, after.st_mtime_ns), (status.st_ino, status.st_mtime_ns))


class FaultTests(Storing):
    def failing(self, name: str, number: int, when: Callable[..., bool] = lambda *_: True) -> MonkeyPatcher:
        """The system call fails with this error, where `when` says so, until the patch is restored."""
        real = getattr(os, name)

        def fail(*arguments: Any, **keywords: Any) -> Any:
            if when(*arguments):
                raise OSError(number, os.strerror(number))
            return real(*arguments, **keywords)

        return self.patch(os, name, fail)

    def incoming(self, path: Any, *_: Any) -> bool:
        return ".incoming" in str(path)

    def test_writing(self) -> None:
        """Whatever fails while bytes come in is A700H; nothing is left, and an earlier copy is as it was."""
        cases: list[tuple[str, int, Callable[..., bool]]] = [
            ("open", errno.EACCES, self.incoming),
            ("open", errno.EMFILE, self.incoming),
            ("open", errno.ENOSPC, self.incoming),
            ("writev", errno.ENOSPC, lambda *_: True),
            ("writev", errno.EDQUOT, lambda *_: True),
            ("writev", errno.EIO, lambda *_: True),
        ]
        store = self.store()
        self.keep(store, data_set(UID))
        before, descriptors = self.files(), open_descriptors()
        content = data_set(UID, LARGE)
        for name, number, when in cases:
            patch = self.failing(name, number, when)
            sink = store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
            error = self.assertStatus(0xA700, sink.write, views(content))
            self.assertEqual(error.comment, os.strerror(number))
            sink.discard()
            sink = store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
            sink.write(views(content[:HEAD]))  # the file is not made before there is need of it
            self.assertStatus(0xA700, sink.write, views(content[HEAD:]))
            sink.discard()
            error = self.assertStatus(0xA700, self.receive(store, data_set(UID, b"another.")).commit)
            self.assertEqual(error.comment, os.strerror(number))
            empty = store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
            self.assertStatus(0xA900, empty.commit)  # and not if the data set is refused
            patch.restore()
            self.assertEqual(self.files(), before, name)
            self.assertEqual(open_descriptors(), descriptors, name)

    def test_disk_fills_up(self) -> None:
        """A disk that is full in the midst of an object, after a short write too, costs A700H and no file."""
        writev, room = os.writev, [0]

        def until_full(fd: int, buffers: list[Any]) -> int:
            taken = b"".join(buffers)[: room[0]]
            if not taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            room[0] -= len(taken)
            return writev(fd, [taken])

        self.patch(os, "writev", until_full)
        store = self.store()
        content = data_set(UID, bytes(5000) + LARGE)
        for size in (1, 131, 350, 1000, 5000, HEAD, HEAD + 1000):
            room[0] = size
            self.assertStatus(0xA700, self.receive, store, content)
            self.assertEqual(self.files(), {})
        small = data_set(UID, bytes(5000))
        for size in (1, 131, 350, 1000, 5000):
            room[0] = size
            self.assertStatus(0xA700, self.receive(store, small).commit)
            self.assertEqual(self.files(), {})
        room[0] = 1 << 20  # space returns
        self.keep(store, content)
        self.assertEqual(self.stored(), {NAME: content})

    def test_committing(self) -> None:
        """Whatever fails before an object has its name is A700H; all files and descriptors are as before."""
        other = data_set(UID, b"another.")
        far = data_set(UID, middle=element(0x00091010, "OB", bytes(1 << 17)))
        elsewhere = data_set(UID, series="1.2.21")
        in_new = data_set(UID, study="1.2.11")
        in_superseded: Callable[..., bool] = lambda path, *_: "superseded" in str(path)  # noqa: E731
        final: Callable[..., bool] = lambda path, *_: str(path).endswith(NAME)  # noqa: E731
        final_elsewhere: Callable[..., bool] = lambda *paths: "1.2.21" in str(paths[1])  # noqa: E731
        cases: list[tuple[str, int, Callable[..., bool], bytes]] = [
            ("fdatasync", errno.EIO, lambda *_: True, other),
            ("fdatasync", errno.ENOSPC, lambda *_: True, in_new),
            ("pread", errno.EIO, lambda *_: True, far),
            ("mkdir", errno.EACCES, lambda *_: True, in_new),
            ("mkdir", errno.ENOSPC, lambda *_: True, in_new),
            ("fsync", errno.EIO, lambda *_: True, in_new),
            ("stat", errno.EACCES, final, other),
            ("open", errno.EMFILE, final, other),
            (self.naming, errno.EIO, lambda *_: True, in_new),
            (self.naming, errno.EROFS, lambda *_: True, in_new),
            ("mkdir", errno.ENOSPC, in_superseded, other),
            ("link", errno.EMLINK, lambda *_: True, other),
            ("rename", errno.EIO, lambda *_: True, other),
            (self.naming, errno.EIO, final_elsewhere, elsewhere),
            ("link", errno.EMLINK, lambda *_: True, elsewhere),
        ]
        failures = []
        for name, number, when, content in cases:
            self.setUp()
            store = self.store(Durability.STRICT)
            self.keep(store, data_set(UID))
            before, descriptors = self.files(), open_descriptors()
            sink = self.receive(store, content)
            patch = self.failing(name, number, when)
            try:
                sink.commit()
            except DimseError as error:
                self.assertEqual((error.status, error.comment), (0xA700, os.strerror(number)))
            else:
                failures.append(f"{name}: committed")
            sink.discard()
            patch.restore()
            if self.files() != before:
                failures.append(f"{name}: {sorted(set(self.files()) ^ set(before))}, {len(failures)}")
            if open_descriptors() != descriptors:
                failures.append(f"{name}: left open {set(open_descriptors()) - set(descriptors)}")
        self.assertEqual(failures, [])

    def test_earlier_copy_cannot_be_looked_up(self) -> None:
        """If the disk does not say whether the name is taken, it is not taken away from what may be there."""
        for policy in OnDuplicate:
            self.setUp()
            store = self.store(RELAXED, policy)
            self.keep(store, data_set(UID))
            before = self.files()
            sink = self.receive(store, data_set(UID, b"another."))
            patches = [
                self.failing(name, errno.EIO, lambda path, *_: str(path).endswith(NAME))
                for name in ("stat", "lstat")
            ]
            self.assertStatus(0xA700, sink.commit)
            for patch in patches:
                patch.restore()
            self.assertEqual(self.files(), before)

    def test_earlier_copy_elsewhere_cannot_be_removed(self) -> None:
        """If the earlier copy in another series cannot be removed, the new one is stored all the same."""
        for durability in Durability:
            self.setUp()
            store = self.store(durability)
            one, other = data_set(UID), data_set(UID, series="1.2.21")
            self.keep(store, one)
            sink = self.receive(store, other)
            patch = self.failing("unlink", errno.EIO, lambda path, *_: str(path).endswith(NAME))
            sink.commit()
            patch.restore()
            stored = self.stored()
            self.assertEqual(stored.pop(f"1.2.10/1.2.21/{UID}.dcm"), other)
            self.assertEqual(stored.pop(NAME), one)
            self.assertEqual(list(stored.values()), [one])  # superseded
            self.assertEqual(self.registered(), {UID: f"../../1.2.10/1.2.21/{UID}.dcm"})

    def test_new_object_not_named(self) -> None:
        """A new object that cannot be named leaves no trace, in the registry neither."""
        for durability in Durability:
            for content in (data_set(UID), data_set(UID, LARGE)):
                self.setUp()
                store = self.store(durability)
                for known in ({}, {"1.2.31": f"../../{NAME.replace(UID, '1.2.31')}"}):
                    if known:  # the series has one already
                        self.keep(store, data_set("1.2.31"), "1.2.31")
                    before = self.files()
                    patch = self.failing(self.naming, errno.EIO)
                    self.assertStatus(0xA700, self.receive(store, content).commit)
                    patch.restore()
                    self.assertEqual(self.files(), before)
                    self.assertEqual(self.registered(), known)

    def test_killed_before_the_name(self) -> None:
        """What was not named when the process died is gone after the next start."""
        store = self.store()

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        patch = self.patch(os, self.naming, die)
        self.assertRaises(KeyboardInterrupt, self.receive(store, data_set(UID)).commit)
        patch.restore()
        store.close()
        self.store()
        self.assertEqual(self.files(), {})

    def test_failed_sync_is_final(self) -> None:
        """After EIO from fdatasync nothing is retried on that descriptor; a new attempt succeeds."""
        calls = []

        def fdatasync(fd: int) -> None:
            calls.append(fd)
            raise OSError(errno.EIO, "Input/output error")

        store = self.store(Durability.STRICT)
        sink = self.receive(store, data_set(UID))
        self.patch(os, "fdatasync", fdatasync)
        self.assertStatus(0xA700, sink.commit)
        self.assertEqual(len(calls), 1)
        self.assertEqual(self.files(), {})
        self.patch(os, "fdatasync", lambda fd: None)
        self.keep(store, data_set(UID))
        self.assertEqual(list(self.files()), [NAME])

    def test_failed_sync_of_an_earlier_copy(self) -> None:
        """Stored relaxed, and not to be forced out: the same bytes then take its place, and are."""
        for policy in OnDuplicate:
            self.setUp()
            relaxed = self.store(RELAXED, policy)
            self.keep(relaxed, data_set(UID))
            relaxed.close()
            inode = (self.root / NAME).stat().st_ino
            store = self.store(Durability.STRICT, policy)
            patch = self.failing("fsync", errno.EIO, lambda fd: os.fstat(fd).st_ino == inode)  # noqa: B023
            self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
            patch.restore()
            if policy is not OnDuplicate.REPLACE:
                self.assertStatus(0xA700, self.receive(store, data_set(UID, b"another.")).commit)
            self.assertEqual((self.root / NAME).stat().st_ino, inode)
            self.keep(store, data_set(UID))
            self.assertNotEqual((self.root / NAME).stat().st_ino, inode)
            self.assertEqual(list(self.stored().values()), [data_set(UID)] * 2)

    def test_others_doubt_it_too(self) -> None:
        """What one process could not force out no other relies on, nor a later run: fsync tells only once."""
        for number, run in enumerate(("another", "a later one", "one that cannot write that down")):
            self.setUp()
            store, other = self.store(Durability.STRICT), self.store(Durability.STRICT)
            self.keep(store, data_set(UID))
            inode = (self.root / NAME).stat().st_ino
            patches = [self.failing("fsync", errno.EIO, lambda fd: os.fstat(fd).st_ino == inode)]  # noqa: B023
            if number == 2:
                patches.append(self.failing("open", errno.EIO, lambda path, *_: DOUBTFUL in str(path)))
            self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
            for patch in patches:
                patch.restore()
            if number == 1:
                other = self.store(Durability.STRICT)
            self.keep(store if number == 2 else other, data_set(UID))
            self.assertNotEqual((self.root / NAME).stat().st_ino, inode, run)

    def test_name_not_synced_is_doubted(self) -> None:
        """Nor is a name that could not be forced out: who sends the object again has it named anew."""
        store, other = self.store(Durability.STRICT), self.store(Durability.STRICT)
        self.keep(store, data_set("1.2.31"), "1.2.31")
        self.fail_to_sync_the_name(store)
        self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
        inode = (self.root / NAME).stat().st_ino
        self.patch(os, "fsync", lambda fd: None)
        self.keep(other, data_set(UID))
        self.assertNotEqual((self.root / NAME).stat().st_ino, inode)

    def fail_to_sync_the_name(self, store: DirectoryStore) -> None:
        """From now on the series directory cannot be synced."""
        fsync, series = os.fsync, str((self.root / NAME).parent)

        def fail(fd: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}") == series:
                raise OSError(errno.EIO, "Input/output error")
            fsync(fd)

        self.patch(os, "fsync", fail)

    def test_name_not_synced(self) -> None:
        """A name that cannot be forced to stable storage is A700H, and costs no descriptor."""
        store = self.store(Durability.STRICT)
        self.keep(store, data_set("1.2.31"), "1.2.31")
        self.fail_to_sync_the_name(store)
        descriptors = open_descriptors()
        self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
        self.assertEqual(open_descriptors(), descriptors)
        self.assertIn("1.2.10/1.2.20/1.2.31.dcm", self.files())

    def test_name_not_synced_of_a_new_version(self) -> None:
        """If the new version's name cannot be forced to stable storage the earlier one keeps it."""
        store = self.store(Durability.STRICT)
        self.keep(store, data_set(UID))
        self.fail_to_sync_the_name(store)
        self.assertStatus(0xA700, self.receive(store, data_set(UID, b"another.")).commit)
        self.assertIn(data_set(UID), self.stored().values())  # at the least
        self.assertEqual(self.stored()[NAME], data_set(UID))

    def test_discard_never_raises(self) -> None:
        """Discarding swallows what the disk says to it, and closes the file all the same."""
        store = self.store()
        descriptors = open_descriptors()
        sink = self.receive(store, data_set(UID))
        self.failing("unlink", errno.EIO)
        sink.discard()
        sink.discard()
        self.assertEqual(open_descriptors(), descriptors)

    def test_directory_in_the_way(self) -> None:
        """A directory that has an object's name costs A700H, and no descriptor."""
        for policy in (OnDuplicate.REPLACE, OnDuplicate.REFUSE):
            self.setUp()
            store = self.store(RELAXED, policy)
            (self.root / NAME).mkdir(parents=True)
            descriptors = open_descriptors()
            self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
            self.assertEqual(open_descriptors(), descriptors)
            self.assertEqual(self.files(), {})

    def test_link_in_the_way(self) -> None:
        """A symbolic link that has an object's name is not followed, and where it leads nothing changes."""
        for policy in (OnDuplicate.REPLACE, OnDuplicate.REFUSE):
            for there in (True, False):
                self.setUp()
                store = self.store(RELAXED, policy)
                victim = self.place / "victim"
                if there:
                    victim.write_bytes(b"victim")
                (self.root / NAME).parent.mkdir(parents=True)
                (self.root / NAME).symlink_to(victim)
                self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
                self.assertEqual(victim.read_bytes() if there else None, b"victim" if there else None)
                self.assertEqual(os.path.lexists(victim), there)

    def test_kept_is_an_object(self) -> None:
        """Where the earlier version is kept, what is no file is none: there is an object or A700H."""
        for durability in Durability:
            for make in (Path.mkdir, lambda path: path.symlink_to("nowhere")):
                self.setUp()
                store = self.store(durability, OnDuplicate.KEEP)
                (self.root / NAME).parent.mkdir(parents=True)
                make(self.root / NAME)
                self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
                self.assertEqual(self.files(), {})
                self.assertFalse((self.root / NAME).is_file())


class DuplicateTests(Storing):
    def test_same_bytes(self) -> None:
        """The same data set again is no second write, whatever the policy: the file is not touched."""
        for policy in OnDuplicate:
            for durability in Durability:
                self.setUp()
                store = self.store(durability, policy)
                self.keep(store, data_set(UID))
                before, files = (self.root / NAME).stat(), self.files()
                self.keep(store, data_set(UID))
                after = (self.root / NAME).stat()
                self.assertEqual((after.st_ino, after.st_mtime_ns), (before.st_ino, before.st_mtime_ns))
                self.assertEqual(self.files(), files)

    def test_same_bytes_from_another_sender(self) -> None:
        """Who sent the data set makes no difference to whether it is the same."""
        store = self.store()
        self.keep(store, data_set(UID))
        before = self.files()
        sink = store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT, "SOMEBODY_ELSE", "STORE"))
        sink.write(views(data_set(UID)))
        sink.commit()
        self.assertEqual(self.files(), before)

    def test_replace(self) -> None:
        """Replaced, the new version has the name and every earlier one is whole under superseded."""
        store = self.store()
        versions = [data_set(UID, f"version{number}".encode()) for number in range(4)]
        whole = []
        for version in versions:
            self.keep(store, version)
            whole.append((self.root / NAME).read_bytes())
        files = self.files()
        self.assertEqual(files.pop(NAME), whole[-1])
        self.assertCountEqual(files.values(), whole[:-1])
        for name in files:
            self.assertTrue(name.startswith(f"superseded/1.2.10/1.2.20/{UID}."), name)
            self.assertTrue(name.endswith(".dcm"))
            self.assertEqual(pydicom.dcmread(io.BytesIO(files[name])).SOPInstanceUID, UID)

    def test_replace_and_back(self) -> None:
        """An earlier version that comes again is a new version again: only the current one counts."""
        store = self.store()
        one, other = data_set(UID), data_set(UID, b"another.")
        for content in (one, other, one):
            self.keep(store, content)
        stored = self.stored()
        self.assertEqual(stored.pop(NAME), one)
        self.assertCountEqual(stored.values(), [one, other])

    def test_keep(self) -> None:
        """Kept, the first version stays as it is and the new one is gone; the sender hears of success."""
        store = self.store(RELAXED, OnDuplicate.KEEP)
        self.keep(store, data_set(UID))
        before, files = (self.root / NAME).stat(), self.files()
        self.keep(store, data_set(UID, b"another."))
        after = (self.root / NAME).stat()
        self.assertEqual((after.st_ino, after.st_mtime_ns), (before.st_ino, before.st_mtime_ns))
        self.assertEqual(self.files(), files)

    def test_refuse(self) -> None:
        """Refused, the new version is 0111H, and the first stays as it is."""
        store = self.store(RELAXED, OnDuplicate.REFUSE)
        self.keep(store, data_set(UID))
        files, descriptors = self.files(), open_descriptors()
        self.assertStatus(0x0111, self.receive(store, data_set(UID, b"another.")).commit)
        self.assertEqual(self.files(), files)
        self.assertEqual(open_descriptors(), descriptors)

    def test_what_is_another_object(self) -> None:
        """A prefix, a longer data set, or the same bytes in another transfer syntax are other objects."""
        content = data_set(UID, bytes(1 << 21))
        last_byte = content[:-1] + b"\1"
        for other, syntax in (
            (content + element(0x7FE10010, "OB", b"more"), EXPLICIT),
            (data_set(UID, bytes((1 << 21) - 2)), EXPLICIT),
            (last_byte, EXPLICIT),
            (content, JPEG_LOSSLESS),
        ):
            self.setUp()
            store = self.store()
            self.keep(store, content)
            self.keep(store, other, syntax=syntax)
            stored = self.stored()
            self.assertEqual(read_head((self.root / NAME).read_bytes()).transfer_syntax_uid, syntax)
            self.assertEqual(stored.pop(NAME), other)
            self.assertEqual(list(stored.values()), [content])

    def test_no_dicom_file_in_the_way(self) -> None:
        """A file of that name that is no DICOM file is another object: it is kept, under superseded."""
        store = self.store()
        (self.root / NAME).parent.mkdir(parents=True)
        (self.root / NAME).write_bytes(b"junk")
        self.keep(store, data_set(UID))
        files = self.files()
        self.assertEqual(pydicom.dcmread(io.BytesIO(files.pop(NAME))).SOPInstanceUID, UID)
        self.assertEqual(list(files.values()), [b"junk"])

    def test_no_file_in_the_way(self) -> None:
        """A pipe or a device of that name is not opened and not replaced: the object costs A700H."""
        for policy in OnDuplicate:
            for kind in (stat.S_IFIFO, stat.S_IFCHR):
                self.setUp()
                store = self.store(RELAXED, policy)
                (self.root / NAME).parent.mkdir(parents=True)
                try:
                    os.mknod(self.root / NAME, 0o600 | kind, os.makedev(1, 3))
                except OSError:
                    continue  # may make no device here
                error = self.assertStatus(0xA700, self.receive(store, data_set(UID)).commit)
                self.assertEqual(error.comment, os.strerror(errno.EEXIST))
                self.assertEqual(stat.S_IFMT((self.root / NAME).lstat().st_mode), kind)
                self.assertEqual(self.files(), {})


class OneUIDTests(Storing):
    """One SOP Instance UID is one object, whatever study and series it claims to be of."""

    ELSEWHERE = (
        {"study": "1.2.11"},
        {"series": "1.2.21"},
        {"study": "1.2.11", "series": "1.2.21"},
        {"study": None},
        {"series": None},
    )

    def place_of(self, study: str | None = "1.2.10", series: str | None = "1.2.20") -> str:
        return f"{study or 'unknown-study'}/{series or 'unknown-series'}/{UID}.dcm"

    def test_replace(self) -> None:
        """Replaced, the object is where the new version says, and the earlier one under superseded alone."""
        for durability in Durability:
            for there in self.ELSEWHERE:
                for one, other in (({}, there), (there, {})):
                    self.setUp()
                    store = self.store(durability)
                    first, second = data_set(UID, **one), data_set(UID, **other)
                    self.keep(store, first)
                    self.keep(store, second)
                    stored = self.stored()
                    self.assertEqual(stored.pop(self.place_of(**other)), second)
                    ((name, earlier),) = stored.items()
                    self.assertTrue(name.startswith(f"superseded/{self.place_of(**one)[:-4]}."), name)
                    self.assertEqual(earlier, first)
                    self.assertEqual(self.registered(), {UID: f"../../{self.place_of(**other)}"})

    def test_back_and_forth(self) -> None:
        """However often an object changes its study, there is one, and every version is kept."""
        store = self.store()
        versions = [data_set(UID, study=f"1.2.1{number % 3}") for number in range(7)]
        for version in versions:
            self.keep(store, version)
        stored = self.stored()
        self.assertEqual(stored.pop(self.place_of()), versions[-1])
        self.assertEqual({name.split("/")[0] for name in stored}, {"superseded"})
        self.assertEqual(self.registered(), {UID: f"../../{self.place_of()}"})
        self.assertEqual(self.directories(), ["1.2.10", "1.2.10/1.2.20"])
        self.assertCountEqual(stored.values(), versions[:-1])

    def test_keep(self) -> None:
        """Kept, the first version stays where and as it is, and there is no other."""
        for durability in Durability:
            for there in self.ELSEWHERE:
                self.setUp()
                store = self.store(durability, OnDuplicate.KEEP)
                self.keep(store, data_set(UID))
                before = (self.root / NAME).stat()
                self.keep(store, data_set(UID, **there))
                self.assertEqual(self.stored(), {NAME: data_set(UID)})
                after = (self.root / NAME).stat()
                self.assertEqual((after.st_ino, after.st_mtime_ns), (before.st_ino, before.st_mtime_ns))

    def test_refuse(self) -> None:
        """Refused, the new version is 0111H, in whatever study, and the first stays as it is."""
        for there in self.ELSEWHERE:
            self.setUp()
            store = self.store(RELAXED, OnDuplicate.REFUSE)
            self.keep(store, data_set(UID))
            files, descriptors = self.files(), open_descriptors()
            self.assertStatus(0x0111, self.receive(store, data_set(UID, **there)).commit)
            self.assertEqual(self.files(), files)
            self.assertEqual(open_descriptors(), descriptors)

    def test_known_to_other_stores(self) -> None:
        """What one process has stored, another knows, and so does the next run."""
        first, second = self.store(RELAXED, OnDuplicate.REFUSE), self.store(RELAXED, OnDuplicate.REFUSE)
        self.keep(first, data_set(UID))
        self.assertStatus(0x0111, self.receive(second, data_set(UID, study="1.2.11")).commit)
        first.close()
        second.close()
        again = self.store(RELAXED, OnDuplicate.REFUSE)
        self.assertStatus(0x0111, self.receive(again, data_set(UID, study="1.2.11")).commit)

    def test_any_data_set(self) -> None:
        """A duplicate is found whatever the first version's transfer syntax, however far its names."""
        far = element(0x00091010, "OB", bytes(1 << 17))
        for syntax, content in (
            (IMPLICIT, data_set(UID, syntax=IMPLICIT)),
            (BIG_ENDIAN, data_set(UID, syntax=BIG_ENDIAN)),
            (DEFLATED, data_set(UID, syntax=DEFLATED)),
            (EXPLICIT, data_set(UID, syntax=IMPLICIT)),
            (EXPLICIT, data_set(UID, syntax=IMPLICIT, study=None, series=None)),
            (EXPLICIT, data_set(UID, study=None, series=None)),
            (EXPLICIT, data_set(UID, middle=far)),
        ):
            self.setUp()
            store = self.store(RELAXED, OnDuplicate.REFUSE)
            self.keep(store, content, syntax=syntax)
            files = self.files()
            self.assertStatus(0x0111, self.receive(store, data_set(UID, study="1.2.11")).commit)
            self.assertEqual(self.files(), files)

    def test_removed_by_hand(self) -> None:
        """An object that was removed or moved away by hand is no duplicate, and leaves nothing behind."""
        for policy in OnDuplicate:
            self.setUp()
            store = self.store(RELAXED, policy)
            self.keep(store, data_set(UID))
            (self.root / NAME).rename(self.place / "moved")
            self.keep(store, data_set(UID, study="1.2.11"))
            other = data_set(UID, study="1.2.11")
            self.assertEqual(self.stored(), {self.place_of("1.2.11"): other})
            self.assertEqual(self.registered(), {UID: f"../../{self.place_of('1.2.11')}"})
            self.assertEqual((self.place / "moved").stat().st_nlink, 1)
            (self.root / self.place_of("1.2.11")).unlink()
            self.keep(store, data_set(UID))
            self.assertEqual(self.stored(), {NAME: data_set(UID)})

    def test_not_parsed(self) -> None:
        """A file that has a registered object's name is the object, whatever became of its content."""
        junk = FileMeta("1.2", "1.3", EXPLICIT).encode() + b"junk"
        for spoilt in (b"", b"junk", b"of somebody", bytes(128) + b"DICM", junk):
            for policy in OnDuplicate:
                for anew in (False, True):
                    self.setUp()
                    store = self.store(RELAXED, policy)
                    self.keep(store, data_set(UID))
                    if anew:
                        (self.root / NAME).unlink()
                    (self.root / NAME).write_bytes(spoilt)
                    sink = self.receive(store, data_set(UID, study="1.2.11"))
                    if policy is OnDuplicate.REFUSE:
                        self.assertStatus(0x0111, sink.commit)
                    else:
                        sink.commit()
                    files = self.files()
                    if policy is OnDuplicate.REPLACE:
                        self.assertIn(self.place_of("1.2.11"), files)
                        del files[self.place_of("1.2.11")]
                        self.assertEqual(list(files.values()), [spoilt])
                        self.assertTrue(next(iter(files)).startswith(f"superseded/1.2.10/1.2.20/{UID}."))
                    else:
                        self.assertEqual(files, {NAME: spoilt})

    def test_no_file_elsewhere(self) -> None:
        """What is no file at a registered place is neither followed nor replaced: the object is A700H."""
        makers: tuple[Callable[[Path], Any], ...] = (
            Path.mkdir,
            lambda path: path.symlink_to("nowhere"),
            os.mkfifo,
        )
        for policy in OnDuplicate:
            for make in makers:
                self.setUp()
                store = self.store(RELAXED, policy)
                self.keep(store, data_set(UID))
                (self.root / NAME).unlink()
                make(self.root / NAME)
                self.assertStatus(0xA700, self.receive(store, data_set(UID, study="1.2.11")).commit)
                self.assertEqual(self.files(), {})
                self.assertEqual(self.directories()[:2], ["1.2.10", "1.2.10/1.2.20"])
                self.assertNotIn("1.2.11", self.directories())

    def test_directories_only_for_objects(self) -> None:
        """What is not stored makes no directory: refused, kept, the same, or put off as it would block."""
        same = data_set(UID)
        for policy, content in (
            (OnDuplicate.KEEP, data_set(UID, study="1.2.11")),
            (OnDuplicate.REFUSE, data_set(UID, study="1.2.11")),
            (OnDuplicate.REPLACE, same),
        ):
            self.setUp()
            store = self.store(RELAXED, policy)
            self.keep(store, same)
            sink = self.receive(store, content)
            self.assertRaises(WouldBlock, sink.commit, may_block=False)
            with contextlib.suppress(DimseError):
                sink.commit()
            self.assertEqual(self.directories(), ["1.2.10", "1.2.10/1.2.20"])
            self.assertEqual(list((self.root / "superseded").iterdir()), [])
            self.assertEqual(self.stored(), {NAME: same})

    def test_directories_left(self) -> None:
        """An object that goes elsewhere takes its directories away if it was the last one there, not else."""
        for durability in Durability:
            for beside, left in (
                (None, ["1.2.11", "1.2.11/1.2.20"]),
                ({"series": "1.2.21"}, ["1.2.10", "1.2.10/1.2.21", "1.2.11", "1.2.11/1.2.20"]),
                ({}, ["1.2.10", "1.2.10/1.2.20", "1.2.11", "1.2.11/1.2.20"]),
            ):
                self.setUp()
                store = self.store(durability)
                self.keep(store, data_set(UID))
                if beside is not None:
                    self.keep(store, data_set("1.2.31", **beside), "1.2.31")
                self.keep(store, data_set(UID, study="1.2.11"))
                self.assertEqual(self.directories(), left)
                self.keep(store, data_set("1.2.32"), "1.2.32")  # where the directory was known before
                self.assertEqual(self.stored()["1.2.10/1.2.20/1.2.32.dcm"], data_set("1.2.32"))

    def test_moved_meanwhile(self) -> None:
        """An earlier copy that goes while it is compared is looked for again, and is no duplicate if gone."""
        same_object = directory.same_object
        for policy in (OnDuplicate.REPLACE, OnDuplicate.REFUSE):
            for there in ({}, {"study": "1.2.11"}):
                self.setUp()
                store = self.store(RELAXED, policy)
                self.keep(store, data_set(UID))
                content = data_set(UID, b"another.", **there)

                def move(new: Path, earlier: Path) -> bool:
                    earlier.rename(self.place / "moved")
                    return same_object(new, earlier)

                self.patch(directory, "same_object", move)
                self.receive(store, content).commit()
                self.assertEqual(self.stored(), {self.place_of(**there): content})

    def test_moved_before_it_is_kept(self) -> None:
        """Kept: an earlier copy that goes before it is forced out is not what the sender hears of."""
        sync, moved = directory.sync, self.place / "moved"
        store = self.store(Durability.STRICT, OnDuplicate.KEEP)
        self.keep(store, data_set(UID))
        content = data_set(UID, b"another.")

        def move(path: Path) -> None:
            if path == self.root / NAME and not moved.exists():
                path.rename(moved)
            sync(path)

        self.patch(directory, "sync", move)
        self.receive(store, content).commit()
        self.assertTrue(moved.is_file())
        self.assertEqual(self.stored(), {NAME: content})

    def test_moved_before_it_is_replaced(self) -> None:
        """An earlier copy that goes before it is superseded is looked for again."""
        for there in ({}, {"study": "1.2.11"}):
            self.setUp()
            store = self.store()
            self.keep(store, data_set(UID))
            content = data_set(UID, b"another.", **there)

            def move(new: Path, earlier: Path) -> bool:
                earlier.unlink()
                return False

            self.patch(directory, "same_object", move)
            self.receive(store, content).commit()
            self.assertEqual(self.stored(), {self.place_of(**there): content})

    def test_named_meanwhile(self) -> None:
        """What gets the name in the new study while the copy in the old one is compared is not lost."""
        for durability in Durability:
            self.setUp()
            store, other = self.store(durability), self.store(durability)
            versions = [
                data_set(UID),
                *(data_set(UID, payload, study="1.2.11") for payload in (b"one.", b"two.")),
            ]
            self.keep(store, versions[0])
            sinks = [self.receive(other, versions[1])]
            same_object, unlink = directory.same_object, os.unlink

            def meanwhile(
                new: Path,
                earlier: Path,
                same: Callable[..., bool] = same_object,
                sinks: list[DirectorySink] = sinks,
            ) -> bool:
                while sinks:
                    sinks.pop().commit()
                return same(new, earlier)

            def stays(
                path: Any, *arguments: Any, unlink: Callable[..., Any] = unlink, **keywords: Any
            ) -> None:
                if str(path).endswith(NAME):
                    raise OSError(errno.EACCES, "Permission denied")
                unlink(path, *arguments, **keywords)

            patches = [self.patch(directory, "same_object", meanwhile), self.patch(os, "unlink", stays)]
            self.receive(store, versions[2]).commit()
            for patch in patches:
                patch.restore()
            stored = self.stored()
            self.assertEqual(stored[self.place_of("1.2.11")], versions[2])
            self.assertLessEqual(set(versions), set(stored.values()))

    def test_temporary_file_removed(self) -> None:
        """A temporary file that somebody removed is A700H, once: there is nothing to look for again."""
        for policy in OnDuplicate:
            self.setUp()
            store = self.store(RELAXED, policy)
            self.keep(store, data_set(UID))
            sink = self.receive(store, data_set(UID, LARGE))
            (temporary,) = (self.root / ".incoming").iterdir()
            temporary.unlink()
            looks = iter(range(5))

            def limited(
                *arguments: Any, find: Callable[..., Any] = store._find, looks: Iterator[int] = looks
            ) -> Any:
                if next(looks, None) is None:
                    self.fail("looks for ever")
                return find(*arguments)

            self.patch(store, "_find", limited)
            self.assertStatus(0xA700, sink.commit)
            self.assertEqual(self.stored(), {NAME: data_set(UID)})

    def test_directory_removed_meanwhile(self) -> None:
        """A directory that another store removes as empty, just when it was made, is made again."""
        for there in ({}, {"study": "1.2.11"}):
            for depth in (1, 2):
                self.setUp()
                store, other = self.store(), self.store()
                if there:
                    self.keep(store, data_set(UID))
                content = data_set(UID, b"another.", **there)
                removed = self.remove_once(
                    self.root.joinpath(*self.place_of(**there).split("/")[:depth]), other
                )
                self.receive(store, content).commit()
                self.assertEqual(len(removed), 1)
                self.assertEqual(self.stored()[self.place_of(**there)], content)

    def remove_once(self, made: Path, other: DirectoryStore) -> list[Path]:
        """Once this directory is made it is removed, if `other` gets the names; what was made so."""
        mkdir, removed = Path.mkdir, []

        def make(path: Path, *arguments: Any, **keywords: Any) -> None:
            mkdir(path, *arguments, **keywords)
            if path == made and not removed:
                removed.append(path)
                with contextlib.suppress(WouldBlock), other._names.held(False):
                    path.rmdir()

        self.patch(Path, "mkdir", make)
        return removed

    def test_earlier_copy_elsewhere_cannot_be_looked_up(self) -> None:
        """If the disk does not say whether the object is in another study, it is not stored a second time."""
        for policy in OnDuplicate:
            self.setUp()
            store = self.store(RELAXED, policy)
            self.keep(store, data_set(UID))
            before, registered = self.files(), self.registered()
            sink = self.receive(store, data_set(UID, study="1.2.11"))
            patches = []
            for name in ("stat", "lstat"):
                real = getattr(os, name)

                def fail(path: Any, *arguments: Any, real: Any = real, **keywords: Any) -> Any:
                    if str(path).endswith(NAME):
                        raise OSError(errno.EIO, "Input/output error")
                    return real(path, *arguments, **keywords)

                patches.append(self.patch(os, name, fail))
            self.assertStatus(0xA700, sink.commit)
            for patch in patches:
                patch.restore()
            self.assertEqual(self.files(), before)
            self.assertEqual(self.registered(), registered)

    def test_registry_lost(self) -> None:
        """Without its registry the store still knows what has the same name, and makes a new one."""
        store = self.store(RELAXED, OnDuplicate.REFUSE)
        self.keep(store, data_set(UID))
        store.close()
        for link in (self.root / BY_UID).glob("*/*"):
            link.unlink()
        store = self.store(RELAXED, OnDuplicate.REFUSE)
        self.assertEqual(self.registered(), {})
        self.assertStatus(0x0111, self.receive(store, data_set(UID, b"another.")).commit)
        self.keep(store, data_set("1.2.31"), "1.2.31")
        self.assertEqual(self.registered(), {"1.2.31": "../../1.2.10/1.2.20/1.2.31.dcm"})
        self.assertStatus(0x0111, self.receive(store, data_set(UID, b"another.")).commit)
        self.assertEqual(self.files()[NAME].partition(b"DICM")[2][-8:], data_set(UID)[-8:])
        self.assertEqual(self.registered(), {"1.2.31": "../../1.2.10/1.2.20/1.2.31.dcm"})

    def test_series_removed(self) -> None:
        """Where an operator removes a series under way, what comes for it makes it anew."""
        for durability in Durability:
            self.setUp()
            store = self.store(durability)
            self.keep(store, data_set(UID))
            shutil.rmtree((self.root / NAME).parent)
            self.keep(store, data_set("1.2.31"), "1.2.31")
            self.keep(store, data_set(UID))
            self.assertEqual({path.rpartition("/")[2] for path in self.files()}, {f"{UID}.dcm", "1.2.31.dcm"})
            self.assertEqual(set(self.registered()), {UID, "1.2.31"})

    def test_name_not_synced(self) -> None:
        """If the new name in another series cannot be forced out, there is the earlier version alone."""
        store = self.store(Durability.STRICT)
        self.keep(store, data_set(UID))
        before, descriptors = self.files(), open_descriptors()
        fsync, series = os.fsync, str(self.root / "1.2.10" / "1.2.21")

        def fail(fd: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}") == series:
                raise OSError(errno.EIO, "Input/output error")
            fsync(fd)

        self.patch(os, "fsync", fail)
        self.assertStatus(0xA700, self.receive(store, data_set(UID, series="1.2.21")).commit)
        self.assertEqual(self.files(), before)
        self.assertEqual(open_descriptors(), descriptors)
        self.assertEqual(self.registered(), {UID: f"../../{NAME}"})


class RegistryTests(Storing):
    """What ``.by-uid`` holds: a hint, which nothing depends on."""

    ELSEWHERE = f"1.2.11/1.2.20/{UID}.dcm"

    def link(self, instance: str = UID) -> Path:
        """Where the registry has this UID."""
        return self.root / BY_UID / f"{zlib.crc32(instance.encode()) & 0xFF:02x}" / instance

    def test_target(self) -> None:
        """A UID is a relative symbolic link to the object's file, in one of 256 directories by its CRC."""
        store = self.store()
        for number in range(20):
            instance = f"1.2.30.{number}"
            self.keep(store, data_set(instance, study=None if number % 2 else "1.2.10"), instance)
            study = "unknown-study" if number % 2 else "1.2.10"
            link = self.link(instance)
            self.assertTrue(link.is_symlink())
            self.assertEqual(os.readlink(link), f"../../{study}/1.2.20/{instance}.dcm")
            self.assertTrue(link.samefile(self.root / study / "1.2.20" / f"{instance}.dcm"))
        self.assertEqual(len(self.registered()), 20)
        self.assertEqual({path.stat().st_nlink for path in self.root.rglob("*.dcm")}, {1})

    def test_store_moved(self) -> None:
        """The registry of a store that was moved to another place is as good as before."""
        store = self.store(RELAXED, OnDuplicate.REFUSE)
        self.keep(store, data_set(UID))
        store.close()
        self.root = self.root.rename(self.place / "moved")
        store = self.store(RELAXED, OnDuplicate.REFUSE)
        self.assertStatus(0x0111, self.receive(store, data_set(UID, study="1.2.11")).commit)

    def test_made_behind_the_name(self) -> None:
        """Nothing is registered before it has its name: a link never runs ahead of its object."""
        store = self.store()
        symlink, there = os.symlink, []

        def noting(target: Any, link: Any) -> None:
            there.append((self.root / BY_UID / "00" / target).resolve().is_file())
            symlink(target, link)

        self.patch(os, "symlink", noting)
        self.keep(store, data_set(UID))
        self.keep(store, data_set(UID, study="1.2.11"))
        self.assertEqual(there, [True, True, True])  # the second is made once its place is free
        self.assertEqual(self.registered(), {UID: f"../../{self.ELSEWHERE}"})

    def test_dangling(self) -> None:
        """A link whose object was removed by hand is no duplicate, blocks nothing, and is replaced."""
        for removed in ("file", "series", "study"):
            self.setUp()
            store = self.store(RELAXED, OnDuplicate.REFUSE)
            self.keep(store, data_set(UID))
            (self.root / NAME).unlink()
            if removed != "file":
                (self.root / NAME).parent.rmdir()
            if removed == "study":
                (self.root / NAME).parent.parent.rmdir()
                (self.root / "1.2.10").write_bytes(b"a file")
            self.assertEqual(self.registered(), {UID: f"../../{NAME}"})
            self.receive(store, data_set(UID, study="1.2.11")).commit(may_block=False)
            self.assertEqual(self.stored_objects(), {self.ELSEWHERE: data_set(UID, study="1.2.11")})
            self.assertEqual(self.registered(), {UID: f"../../{self.ELSEWHERE}"})

    def stored_objects(self) -> dict[str, bytes]:
        """What is stored, without what else lies about in the store."""
        files = {name: content for name, content in self.files().items() if name.endswith(".dcm")}
        return {name: content[read_head(content).data_set_offset :] for name, content in files.items()}

    def test_hostile(self) -> None:
        """A link to anything but this UID's object in this store is ignored: nothing there is touched."""
        victim = f"{UID}.dcm"
        for target in (
            "",
            "nowhere",
            "../..",
            "../../1.2.10",
            "../../1.2.10/1.2.20",
            f"../../../{victim}",
            f"../../../outside/{victim}",
            f"../../../outside/1.2.20/{victim}",
            f"../../../../{victim}",
            f"../../1.2.10/../../{victim}",
            f"../../../outside/1.2.10/1.2.20/{victim}",
            "../../1.2.10/1.2.20/1.2.31.dcm",
            f"../../1.2.10/1.2.20/deeper/{victim}",
            f"../../1.2.10/{victim}",
            f"../../{victim}",
            f"{{place}}/{victim}",
            f"{{place}}/outside/1.2.20/{victim}",
            victim,
            UID,
            "/",
            "/dev/null",
            "\udc80\udcff",
            "x" * 4000,
        ):
            for policy in OnDuplicate:
                self.setUp()
                store = self.store(RELAXED, policy)
                for name in (victim, f"outside/{victim}", f"outside/1.2.20/{victim}"):
                    (self.place / name).parent.mkdir(parents=True, exist_ok=True)
                    (self.place / name).write_bytes(b"victim")
                (self.root / "1.2.10/1.2.20/deeper").mkdir(parents=True)
                for name in (f"1.2.10/1.2.20/deeper/{victim}", f"1.2.10/{victim}", victim):
                    (self.root / name).write_bytes(b"victim")
                self.keep(store, data_set("1.2.31"), "1.2.31")
                before, outside = self.files(), self.outside()
                if target:
                    self.link().symlink_to(target.format(place=self.place))
                else:
                    self.link().write_bytes(b"a file, no link")
                content = data_set(UID, study="1.2.11")
                self.receive(store, content).commit(may_block=False)
                files = self.files()
                self.assertTrue(files.pop(self.ELSEWHERE).endswith(content), target)
                self.assertEqual(files, before, target)
                self.assertEqual(self.outside(), outside, target)
                self.assertEqual(os.readlink(self.link()), f"../../{self.ELSEWHERE}", target)

    def outside(self) -> dict[str, bytes]:
        """The files beside the store."""
        return {
            str(path): path.read_bytes()
            for path in self.place.rglob("*")
            if self.root not in path.parents and path.is_file()
        }

    def test_directory_for_a_link(self) -> None:
        """A directory where a link should be keeps no object from being stored, and is left alone."""
        store = self.store()
        self.link().mkdir()
        for study in ("1.2.10", "1.2.10"):
            self.keep(store, data_set(UID, study=study))
        self.assertEqual(self.stored(), {NAME: data_set(UID)})
        self.assertTrue(self.link().is_dir())

    def test_prepared_again(self) -> None:
        """To prepare a store again, under way or in a later run, changes nothing in its registry."""
        store = self.store()
        self.assertEqual(
            sorted(path.name for path in (self.root / BY_UID).iterdir()), [f"{n:02x}" for n in range(256)]
        )
        modes = {oct(stat.S_IMODE(path.stat().st_mode)) for path in (self.root / BY_UID).rglob("*")}
        self.assertEqual(modes, {oct(0o700)})
        self.keep(store, data_set(UID))
        self.keep(store, data_set("1.2.31"), "1.2.31")
        (self.root / "1.2.10/1.2.20/1.2.31.dcm").unlink()  # the link that dangles stays as well
        registered = self.registered()
        self.assertEqual(sorted(registered), [UID, "1.2.31"])
        self.assertEqual(store.prepare(), 0)
        store.close()
        self.store()
        self.assertEqual(self.registered(), registered)
        self.assertEqual(len(list((self.root / BY_UID).iterdir())), 256)

    def test_directories_removed(self) -> None:
        """Where the registry was removed under way objects are stored, and the next start makes it anew."""
        store = self.store()
        shutil.rmtree(self.root / BY_UID)
        self.keep(store, data_set(UID))
        self.assertEqual(self.stored(), {NAME: data_set(UID)})
        store.close()
        self.keep(self.store(), data_set("1.2.31"), "1.2.31")
        self.assertEqual(list(self.registered()), ["1.2.31"])

    def test_no_links(self) -> None:
        """On a file system without symbolic links objects are stored and replaced, and nothing is lost."""
        for number in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSPC, errno.EROFS):
            for durability in Durability:
                self.setUp()
                store = self.store(durability)

                def fail(*_: Any, number: int = number) -> None:
                    raise OSError(number, os.strerror(number))

                patch = self.patch(os, "symlink", fail)
                one, other = data_set(UID), data_set(UID, b"another.")
                elsewhere = data_set(UID, study="1.2.11")
                for content in (one, other, elsewhere):
                    self.keep(store, content)
                patch.restore()
                stored = self.stored()
                self.assertEqual(stored.pop(NAME), other)
                self.assertEqual(stored.pop(self.ELSEWHERE), elsewhere)
                self.assertEqual(list(stored.values()), [one])
                self.assertEqual(self.registered(), {})

    def test_link_lost_while_replaced(self) -> None:
        """A link that cannot be made again is gone: better none than one that says what is no longer so."""
        store = self.store()
        self.keep(store, data_set(UID))
        symlink, calls = os.symlink, []

        def fail_when_free(target: Any, link: Any) -> None:
            calls.append(target)
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            symlink(target, link)

        self.patch(os, "symlink", fail_when_free)
        self.keep(store, data_set(UID, study="1.2.11"))
        self.assertEqual(len(calls), 2)
        self.assertEqual(self.registered(), {})
        self.assertEqual(self.stored()[self.ELSEWHERE], data_set(UID, study="1.2.11"))
        self.assertEqual(len(self.files()), 2)  # one is superseded

    def test_link_that_stays(self) -> None:
        """A link that cannot be taken away keeps no new version from being stored."""
        store = self.store()
        self.keep(store, data_set(UID))
        unlink = os.unlink

        def fail(path: Any, *arguments: Any, **keywords: Any) -> None:
            if BY_UID in str(path):
                raise OSError(errno.EACCES, "Permission denied")
            unlink(path, *arguments, **keywords)

        self.patch(os, "unlink", fail)
        self.keep(store, data_set(UID, study="1.2.11"))
        self.assertEqual(self.stored()[self.ELSEWHERE], data_set(UID, study="1.2.11"))
        self.assertEqual(self.registered(), {UID: f"../../{NAME}"})


class Recording(Storing):
    """A store, and what is asked of the file system."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[tuple[str, str]] = []

    def record(self) -> None:
        """From now on `events` has what is asked of the file system, with the path in the store."""
        del self.events[:]
        for name in ("writev", "fdatasync", "fsync"):
            self.patch(os, name, self._recording(name, getattr(os, name), self._path_of))
        for name in ("rename", "link", "unlink"):
            self.patch(os, name, self._recording(name, getattr(os, name), lambda *paths: paths[-1]))

    def _path_of(self, fd: int, *_: Any) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    def _recording(self, name: str, real: Callable[..., Any], path: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            where = os.path.relpath(path(*arguments), self.root)
            self.events.append((name, "TEMPORARY" if where.startswith(".incoming/") else where))
            return real(*arguments, **keywords)

        return call

    def synced(self, events: Iterable[tuple[str, str]]) -> list[str]:
        return [path for name, path in events if name == "fsync"]


class DurabilityTests(Recording):
    def test_strict_order(self) -> None:
        """Strict: the content is written, then forced out, then named; then the directory is forced out."""
        store = self.store(Durability.STRICT)
        self.record()
        content = data_set(UID, LARGE + bytes(1500))
        sink = self.receive(store, content)
        self.assertEqual(self.events, [("writev", "TEMPORARY")] * (len(views(content)) - HEAD // 1000))
        del self.events[:]
        sink.commit()
        self.assertEqual(
            [event for event in self.events if event[1] == "TEMPORARY"], [("fdatasync", "TEMPORARY")]
        )
        renamed = self.events.index(("rename", NAME))
        self.assertLess(self.events.index(("fdatasync", "TEMPORARY")), renamed)
        behind = [event for event in self.events[renamed + 1 :] if not event[1].startswith(BY_UID)]
        self.assertEqual(behind, [("fsync", "1.2.10/1.2.20")])
        # the names of the new directories too, before there is anything in them
        self.assertEqual(set(self.synced(self.events[:renamed])), {".", "1.2.10"})

    def test_strict_second_object(self) -> None:
        """Strict: where the directories are known to be on stable storage they are not forced out again."""
        store = self.store(Durability.STRICT)
        self.keep(store, data_set("1.2.31"), "1.2.31")
        sink = self.receive(store, data_set(UID))
        self.record()
        sink.commit()
        self.assertEqual(
            [event for event in self.events if not event[1].startswith(BY_UID)],
            [
                ("writev", "TEMPORARY"),
                ("fdatasync", "TEMPORARY"),
                ("rename", NAME),
                ("fsync", "1.2.10/1.2.20"),
            ],
        )

    def test_strict_directories_of_others(self) -> None:
        """Strict: a directory that is there already may be another process's, and not be forced out yet."""
        (self.root / NAME).parent.mkdir(parents=True)
        store = self.store(Durability.STRICT)
        sink = self.receive(store, data_set(UID))
        self.record()
        sink.commit()
        self.assertEqual(set(self.synced(self.events)), {".", "1.2.10", "1.2.10/1.2.20"})

    def test_strict_many_directories(self) -> None:
        """Strict: directories are remembered up to a bound and forced out again when forgotten."""
        self.patch(directory, "_DIRECTORIES", 2)
        store = self.store(Durability.STRICT)
        self.patch(os, "fsync", lambda fd: None)
        self.patch(os, "fdatasync", lambda fd: None)
        for number in range(5):
            instance = f"1.2.30.{number}"
            self.keep(store, data_set(instance, series=f"1.2.20.{number}"), instance)
        sink = self.receive(store, data_set(UID, series="1.2.20.0"))
        self.record()
        sink.commit()
        self.assertIn(".", self.synced(self.events))

    def test_strict_replace(self) -> None:
        """Strict: the earlier version's second name is on stable storage before the first is taken."""
        store = self.store(Durability.STRICT)
        self.keep(store, data_set(UID))
        sink = self.receive(store, data_set(UID, b"another."))
        self.record()
        sink.commit()
        renamed = self.events.index(("rename", NAME))
        before = self.events[:renamed]
        self.assertEqual(before[:2], [("writev", "TEMPORARY"), ("fdatasync", "TEMPORARY")])
        (linked,) = (index for index, (name, _) in enumerate(before) if name == "link")
        self.assertLessEqual({"superseded", "superseded/1.2.10"}, set(self.synced(before[:linked])))
        self.assertEqual(before[linked + 1 :], [("fsync", "superseded/1.2.10/1.2.20")])
        self.assertEqual(self.events[renamed + 1], ("fsync", "1.2.10/1.2.20"))
        self.assertEqual({path.split("/")[0] for _, path in self.events[renamed + 2 :]}, {BY_UID})

    def test_strict_same_bytes(self) -> None:
        """Strict: an object stored before, perhaps relaxed, is forced out before it is acknowledged."""
        relaxed = self.store(RELAXED)
        self.keep(relaxed, data_set(UID))
        relaxed.close()
        store = self.store(Durability.STRICT)
        sink = self.receive(store, data_set(UID))
        self.record()
        sink.commit()
        self.assertLess({NAME, "1.2.10/1.2.20", "1.2.10", "."}, {*self.synced(self.events), ""})

    def test_strict_keep(self) -> None:
        """Strict: the earlier version, for which the new one is given up, is forced out just the same."""
        relaxed = self.store(RELAXED)
        self.keep(relaxed, data_set(UID))
        relaxed.close()
        store = self.store(Durability.STRICT, OnDuplicate.KEEP)
        sink = self.receive(store, data_set(UID, b"another."))
        self.record()
        sink.commit()
        self.assertLess({NAME, "1.2.10/1.2.20", "1.2.10", "."}, {*self.synced(self.events), ""})

    def test_strict_prepare(self) -> None:
        """Strict: every directory made for the store is on stable storage before anything is in it."""
        self.root = self.place / "not" / "yet" / "there"
        self.record()
        self.store(Durability.STRICT)
        synced = {os.path.normpath(self.root / path) for path in self.synced(self.events)}
        for made in (self.root, *self.root.parents[:3]):
            self.assertIn(str(made), synced)

    def test_relaxed(self) -> None:
        """Relaxed: nothing is forced to stable storage, at the start or for any kind of duplicate."""
        self.record()
        for policy in OnDuplicate:
            store = self.store(RELAXED, policy)
            for content in (data_set(UID), data_set(UID), data_set(UID, b"another.")):
                sink = self.receive(store, content)
                try:
                    sink.commit()
                except DimseError:
                    self.assertIs(policy, OnDuplicate.REFUSE)
        self.assertEqual({name for name, _ in self.events}, {"writev", "rename", "link", "unlink"})


class WouldBlockTests(Storing):
    def test_strict(self) -> None:
        """Strict: a commit that may not block does nothing, and one that may then does it all."""
        store = self.store(Durability.STRICT)
        for content in (data_set(UID), b""):
            sink = self.receive(store, content)
            before = self.files()
            self.assertRaises(WouldBlock, sink.commit, may_block=False)
            self.assertRaises(WouldBlock, sink.commit, may_block=False)
            self.assertEqual(self.files(), before)
            if content:
                sink.commit()
                self.assertEqual(self.stored(), {NAME: content})
            else:
                self.assertStatus(0xA900, sink.commit)

    def test_relaxed(self) -> None:
        """Relaxed: an object that is new and named from its beginning is committed without blocking."""
        sink = self.receive(self.store(), data_set(UID))
        sink.commit(may_block=False)
        self.assertEqual(self.stored(), {NAME: data_set(UID)})

    def test_relaxed_refusals(self) -> None:
        """Relaxed: what is refused is refused without blocking."""
        store = self.store()
        for status, content in ((0xA900, data_set("1.2.31")), (0xC000, data_set(UID)[:20])):
            sink = self.receive(store, content)
            self.assertStatus(status, sink.commit, False)
            self.assertEqual(self.files(), {})

    def test_reading_back(self) -> None:
        """Relaxed: a data set that must be read back to be named would block."""
        content = data_set(UID, middle=element(0x00091010, "OB", bytes(1 << 17)))
        sink = self.receive(self.store(), content)
        self.assertRaises(WouldBlock, sink.commit, may_block=False)
        sink.commit()
        self.assertEqual(self.stored(), {NAME: content})

    def test_deflated(self) -> None:
        """Relaxed: a deflated data set, however small, is not inflated where nothing may block."""
        for content in (data_set(UID, syntax=DEFLATED), b"\xff" * 40, b""):
            self.setUp()
            sink = self.receive(self.store(), content, syntax=DEFLATED)
            self.patch(zlib, "decompressobj", self.fail)
            for _ in range(2):
                self.assertRaises(WouldBlock, sink.commit, may_block=False)
                self.assertEqual(self.files(), {})
            sink.discard()

    def test_deflated_again(self) -> None:
        """Relaxed: a deflated data set that would have blocked is stored where it may."""
        content = data_set(UID, syntax=DEFLATED)
        sink = self.receive(self.store(), content, syntax=DEFLATED)
        self.assertRaises(WouldBlock, sink.commit, may_block=False)
        sink.commit()
        self.assertEqual(self.stored(), {NAME: content})

    def test_implicit_under_another_transfer_syntax(self) -> None:
        """Relaxed: a small data set in implicit VR under another transfer syntax needs no blocking."""
        content = data_set(UID, syntax=IMPLICIT)
        self.receive(self.store(), content, syntax=JPEG_LOSSLESS).commit(may_block=False)
        self.assertEqual(self.stored(), {NAME: content})

    def test_large(self) -> None:
        """Relaxed: an object with a file already is committed without blocking if its head has its names."""
        content = data_set(UID, LARGE)
        self.receive(self.store(), content).commit(may_block=False)
        self.assertEqual(self.stored(), {NAME: content})

    def test_large_in_any_chunks(self) -> None:
        """Relaxed: so it is wherever a chunk crosses the end of the head, and the names are up to there."""
        limit = HEAD - len(data_set(UID, b"", middle=element(0x00091010, "OB"))) + 12
        for length, blocks in ((limit, False), (limit + 1, True)):
            content = data_set(UID, LARGE, middle=element(0x00091010, "OB", bytes(length)))
            for parts in ([1], [200], [HEAD - 1], [HEAD], [3, 5, HEAD]):
                self.setUp()
                sink = self.store().open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
                at = 0
                for part in (*parts, len(content)):
                    sink.write(views(content[at : at + part]))
                    at += part
                if blocks:
                    self.assertRaises(WouldBlock, sink.commit, may_block=False)
                    sink.commit()
                else:
                    sink.commit(may_block=False)
                self.assertEqual(self.stored(), {NAME: content})

    def test_large_in_one_chunk(self) -> None:
        """Relaxed: so it is if all of it came in one chunk."""
        content = data_set(UID, LARGE)
        sink = self.store().open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT))
        sink.write([memoryview(content)])
        sink.commit(may_block=False)
        self.assertEqual(self.stored(), {NAME: content})

    def test_lock_held_by_another_store(self) -> None:
        """Relaxed: while another store of the same root has the names, a commit that may not block blocks."""
        first, second = self.store(), self.store()
        for content in (data_set(UID), data_set(UID, LARGE)):
            sink = self.receive(first, content)
            with second._names.held():
                for _ in range(2):
                    self.assertRaises(WouldBlock, sink.commit, may_block=False)
                self.assertNotIn(NAME, self.files())
            sink.commit(may_block=False)
            self.assertEqual(self.stored(), {NAME: content})
            (self.root / NAME).unlink()
            for link in (self.root / BY_UID).glob("*/*"):
                link.unlink()

    def test_lock_held_by_a_thread(self) -> None:
        """Relaxed: while a thread has the names, a commit that may not block does not wait for it."""
        store = self.store()
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with store._names.held():
                held.set()
                release.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        try:
            held.wait(60)
            sink = self.receive(store, data_set(UID))
            self.assertRaises(WouldBlock, sink.commit, may_block=False)
            discarded = self.receive(store, data_set(UID))
            self.assertRaises(WouldBlock, discarded.commit, may_block=False)
            discarded.discard()
        finally:
            release.set()
            thread.join()
        sink.commit(may_block=False)
        self.assertEqual(self.stored(), {NAME: data_set(UID)})

    def test_lock_that_fails(self) -> None:
        """A lock that the system does not give is A700H, and the next who asks for it gets it."""
        store = self.store()
        flock = fcntl.flock

        def fail(fd: int, operation: int) -> None:
            if operation & fcntl.LOCK_EX:
                raise OSError(errno.ENOLCK, "No locks available")
            flock(fd, operation)

        for may_block in (True, False):
            sink = self.receive(store, data_set(UID))
            patch = self.patch(fcntl, "flock", fail)
            self.assertStatus(0xA700, sink.commit, may_block)
            patch.restore()
            self.assertEqual(self.files(), {})
        self.keep(store, data_set(UID))
        self.assertEqual(self.stored(), {NAME: data_set(UID)})

    def test_waits_where_it_may(self) -> None:
        """A commit that may block waits for the names, and then is done."""
        first, second = self.store(), self.store()
        sink = self.receive(first, data_set(UID))
        asked = threading.Event()
        flock = fcntl.flock

        def note(fd: int, operation: int) -> None:
            if operation == fcntl.LOCK_EX:
                asked.set()
            flock(fd, operation)

        with second._names.held():
            self.patch(fcntl, "flock", note)
            thread = threading.Thread(target=sink.commit)
            thread.start()
            asked.wait(60)
            self.assertNotIn(NAME, self.files())
        thread.join(60)
        self.assertEqual(self.stored(), {NAME: data_set(UID)})

    def test_duplicate_in_another_study(self) -> None:
        """Relaxed: a UID that is taken in another study would block, one that only was taken does not."""
        store = self.store()
        self.keep(store, data_set(UID))
        sink = self.receive(store, data_set(UID, study="1.2.11"))
        for _ in range(2):
            self.assertRaises(WouldBlock, sink.commit, may_block=False)
            self.assertNotIn("1.2.11", self.directories())
        (self.root / NAME).unlink()
        sink.commit(may_block=False)
        self.assertEqual(self.stored(), {f"1.2.11/1.2.20/{UID}.dcm": data_set(UID, study="1.2.11")})

    def test_duplicates(self) -> None:
        """Relaxed: a duplicate would block; committed again it ends as the policy has it."""
        for policy, content, kept in (
            (OnDuplicate.REPLACE, data_set(UID), 1),
            (OnDuplicate.REPLACE, data_set(UID, b"another."), 2),
            (OnDuplicate.KEEP, data_set(UID, b"another."), 1),
        ):
            self.setUp()
            store = self.store(RELAXED, policy)
            self.keep(store, data_set(UID))
            sink = self.receive(store, content)
            self.assertRaises(WouldBlock, sink.commit, may_block=False)
            discarded = self.receive(store, content)
            self.assertRaises(WouldBlock, discarded.commit, may_block=False)
            discarded.discard()
            sink.commit()
            self.assertEqual(len(self.files()), kept)
            self.assertFalse(list((self.root / ".incoming").iterdir()))


class ManyAtOnceTests(Storing):
    THREADS = 8

    def run_at_once(self, functions: Iterable[Callable[[], None]]) -> list[BaseException]:
        """Run each in a thread of its own; what they raised."""
        raised: list[BaseException] = []

        def run(function: Callable[[], None]) -> None:
            try:
                function()
            except BaseException as error:
                raised.append(error)

        threads = [threading.Thread(target=run, args=(function,)) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised

    def test_versions_of_one_object(self) -> None:
        """Eight versions of one object committed at once are all kept, one of them under the name."""
        for round_ in range(10):
            self.setUp()
            store = self.store()
            versions = [data_set(UID, f"version{number}".encode()) for number in range(self.THREADS)]
            sinks = [self.receive(store, version) for version in versions]
            self.assertEqual(self.run_at_once(sink.commit for sink in sinks), [], f"round {round_}")
            stored = self.stored()
            self.assertIn(NAME, stored)
            self.assertCountEqual(stored.values(), versions)

    def test_two_sinks_and_eight_threads(self) -> None:
        """Pairs of sinks for the same UIDs, committed by eight threads, strict: no version is lost."""
        store = self.store(Durability.STRICT)
        contents, sinks = [], []
        for number in range(self.THREADS // 2):
            instance = f"1.2.30.{number}"
            for payload in (b"version1", b"version2"):
                contents.append(data_set(instance, payload))
                sinks.append(self.receive(store, contents[-1], instance))
        self.assertEqual(self.run_at_once(sink.commit for sink in sinks), [])
        self.assertCountEqual(self.stored().values(), contents)

    def test_same_bytes(self) -> None:
        """The same object committed eight times at once is kept once, and all are told of success."""
        store = self.store()
        sinks = [self.receive(store, data_set(UID)) for _ in range(self.THREADS)]
        self.assertEqual(self.run_at_once(sink.commit for sink in sinks), [])
        self.assertEqual(self.stored(), {NAME: data_set(UID)})

    def test_refuse(self) -> None:
        """Of eight versions at once where duplicates are refused, one is kept and seven are 0111H."""
        store = self.store(RELAXED, OnDuplicate.REFUSE)
        versions = [data_set(UID, f"version{number}".encode()) for number in range(self.THREADS)]
        sinks = [self.receive(store, version) for version in versions]
        raised = self.run_at_once(sink.commit for sink in sinks)
        self.assertEqual([getattr(error, "status", error) for error in raised], [0x0111] * 7)
        self.assertEqual(len(self.files()), 1)

    def test_studies_of_one_object(self) -> None:
        """Eight versions of one object in as many studies at once: one is the object, all are kept."""
        for round_ in range(5):
            for stores in (1, 2):
                self.setUp()
                shared = [self.store() for _ in range(stores)]
                versions = [data_set(UID, study=f"1.2.1{number}") for number in range(self.THREADS)]
                sinks = [
                    self.receive(shared[number % stores], version) for number, version in enumerate(versions)
                ]
                self.assertEqual(self.run_at_once(sink.commit for sink in sinks), [], f"round {round_}")
                stored = self.stored()
                self.assertCountEqual(stored.values(), versions)
                self.assertEqual(sum(not name.startswith("superseded/") for name in stored), 1)

    def test_receiving(self) -> None:
        """Eight threads that receive different objects into one store do not get in each other's way."""
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)
        store = self.store()
        start = threading.Barrier(self.THREADS)

        def receive() -> None:
            sinks = [store.open(FileMeta(CT_IMAGE_STORAGE, UID, EXPLICIT)) for _ in range(50)]
            start.wait()
            for sink in sinks:
                sink.write(views(LARGE + b"x", HEAD))
            for sink in sinks:
                sink.discard()

        self.assertEqual(self.run_at_once([receive] * self.THREADS), [])
        self.assertEqual(self.files(), {})

    def test_processes(self) -> None:
        """Two processes, each with a store of its own on the same directory, lose no version either."""
        # Each stands before its rename or link until the other does, or, where the other is kept out, 0.2 s.
        for policy, kept in ((OnDuplicate.REPLACE, 2), (OnDuplicate.REFUSE, 1)):
            self.setUp()
            both = threading.Barrier(2)
            for name in ("rename", "link"):
                self.patch(os, name, self._meeting(getattr(os, name), both))
            versions = [data_set(UID, b"version1"), data_set(UID, b"version2")]
            sinks = [self.receive(self.store(RELAXED, policy), version) for version in versions]
            raised = self.run_at_once(sink.commit for sink in sinks)
            self.assertEqual(len(raised), 2 - kept, raised)
            self.assertEqual(len(self.stored()), kept)
            if not raised:
                self.assertCountEqual(self.stored().values(), versions)

    def _meeting(self, real: Callable[..., Any], both: threading.Barrier) -> Callable[..., Any]:
        def meet(*arguments: Any, **keywords: Any) -> Any:
            try:
                both.wait(0.2)
            except threading.BrokenBarrierError:
                pass
            return real(*arguments, **keywords)

        return meet
