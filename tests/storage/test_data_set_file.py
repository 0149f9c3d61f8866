"""Data sets of files, as they are to be sent: byte for byte, and with few system calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage.data_set_file import DataSetFile, open_data_set
from dicomtw.storage.part10 import PREAMBLE, FileMeta
from tests.storage import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    PYDICOM_FILES,
    behind_file_meta,
    data_set,
    element,
)

BLOCK = 256 * 1024
META = FileMeta(CT_IMAGE_STORAGE, "1.2.3", EXPLICIT, "SENDER", "STORE").encode()


class OpenTestCase(SynchronousTestCase):
    """Files in a directory of their own."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp())
        self.place.mkdir()

    def file(self, content: bytes) -> Path:
        path = self.place / "file.dcm"
        path.write_bytes(content)
        return path

    def open(self, content: bytes) -> DataSetFile:
        opened = open_data_set(self.file(content))
        self.addCleanup(opened.close)
        return opened

    def rest(self, opened: DataSetFile, length: int = 16384) -> bytes:
        """What `opened` reads from where it is, in pieces of `length` at most."""
        pieces = []
        while piece := opened.read(length):
            self.assertLessEqual(len(piece), length)
            pieces.append(piece)
        return b"".join(pieces)

    def calls(self) -> list[str]:
        """The names of the system calls on files from now on."""
        called: list[str] = []

        def noting(name: str) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(*arguments: Any) -> Any:
                called.append(name)
                return real(*arguments)

            return call

        for name in ("open", "pread", "fstat", "lseek", "read", "close"):
            self.patch(os, name, noting(name))
        return called


class ReadTests(OpenTestCase):
    def test_read(self) -> None:
        """The data set is read as it is in the file, whatever the pieces; then there is nothing more."""
        beginning = len(META) + len(data_set("1.2.3", b""))
        for size in (0, 8, BLOCK - beginning, BLOCK - beginning + 2, 3 * BLOCK):
            content = data_set("1.2.3", bytes(range(250)) * (size // 250) + bytes(size % 250))
            for length in (16384, 1000, 1 << 20, 131071):
                opened = self.open(META + content)
                self.assertEqual(opened.size, len(content))
                self.assertEqual(self.rest(opened, length), content)
                self.assertEqual(opened.read(length), b"")
                opened.close()
        self.assertEqual(self.rest(self.open(META + content[:100]), 1), content[:100])

    def test_no_data_set(self) -> None:
        """A file that ends with its File Meta Information has a data set of no bytes."""
        opened = self.open(META)
        self.assertEqual((opened.size, opened.read(10)), (0, b""))

    def test_names(self) -> None:
        """The transfer syntax is the File Meta Information's; the SOP UIDs are the data set's, for a peer
        compares them with the command's.
        """
        for syntax in (IMPLICIT, BIG_ENDIAN, DEFLATED):
            meta = FileMeta("1.2.840.10008.5.1.4.1.1.4", "1.2.4", syntax).encode()
            opened = self.open(meta + data_set("1.2.3", syntax=syntax))
            self.assertEqual(opened.transfer_syntax_uid, syntax)
            self.assertEqual((opened.sop_class_uid, opened.sop_instance_uid), (CT_IMAGE_STORAGE, "1.2.3"))

    def test_names_by_file_meta(self) -> None:
        """Where the data set does not tell, or cannot be read, they are the File Meta Information's."""
        meta = FileMeta(CT_IMAGE_STORAGE, "1.2.4", EXPLICIT).encode()
        for content in (b"", data_set(None), data_set("1.2.3", syntax=IMPLICIT), b"GET / HTTP/1.1"):
            opened = self.open(meta + content)
            self.assertEqual((opened.sop_class_uid, opened.sop_instance_uid), (CT_IMAGE_STORAGE, "1.2.4"))

    def test_names_by_the_data_set(self) -> None:
        """Where the File Meta Information has no SOP UIDs they are the data set's, or empty."""
        far = element(0x00080008, "UT", bytes(2 * BLOCK))
        for syntax in (IMPLICIT, EXPLICIT, DEFLATED):
            meta = FileMeta("", "", syntax).encode()
            opened = self.open(meta + data_set("1.2.3", syntax=syntax))
            self.assertEqual((opened.sop_class_uid, opened.sop_instance_uid), (CT_IMAGE_STORAGE, "1.2.3"))
        opened = self.open(FileMeta("", "", EXPLICIT).encode() + far + data_set("1.2.3"))
        self.assertEqual((opened.sop_class_uid, opened.sop_instance_uid), (CT_IMAGE_STORAGE, "1.2.3"))
        self.assertEqual(self.rest(opened), far + data_set("1.2.3"))
        opened = self.open(FileMeta("", "1.2.4", EXPLICIT).encode() + data_set("1.2.3", sop_class_uid=None))
        self.assertEqual((opened.sop_class_uid, opened.sop_instance_uid), ("", "1.2.3"))

    def test_files_of_others(self) -> None:
        """Each of pydicom's test files with File Meta Information is read to its last byte."""
        count = 0
        for path in sorted(PYDICOM_FILES.rglob("*.dcm")):
            content = path.read_bytes()
            if content[128:132] != b"DICM" or path.name == "meta_missing_tsyntax.dcm":
                self.assertRaises(ValueError, open_data_set, path)
                continue
            opened = open_data_set(path)
            expected = content[behind_file_meta(content) :]
            expected += b"\0" * (len(expected) % 2)
            self.assertEqual(self.rest(opened), expected, path.name)
            opened.close()
            count += 1
        self.assertGreater(count, 60)

    def test_odd(self) -> None:
        """A data set of odd length is padded to an even one (PS3.5 A.5): peers abort at others."""
        meta = FileMeta(CT_IMAGE_STORAGE, "1.2.3", DEFLATED).encode()
        for size in (10, 11, 12, BLOCK + 1, BLOCK + 2):
            content = bytes(size)
            for length in (1000, BLOCK, 2 * BLOCK):
                opened = self.open(meta + content)
                self.assertEqual(self.rest(opened, length), content + bytes(size % 2))
                self.assertEqual((opened.size, opened.read(10)), (size, b""))
                opened.close()
        self.assertEqual(self.rest(self.open(META + bytes(11))), bytes(12))

    def test_ahead(self) -> None:
        """Opened ahead of its turn it is read as well, however long it and its File Meta Information are."""
        private = element(0x00020100, "UI", b"1.2.9\0") + element(0x00020102, "OB", bytes(40_000))
        far = FileMeta("", "", EXPLICIT).encode()[144:] + private
        for size in (0, 8, 20_000, 300_000, 1_300_001):
            for meta in (META, PREAMBLE + far):
                content = data_set("1.2.3", bytes(size))
                for read_ahead in (False, True):
                    opened = open_data_set(self.file(meta + content), ahead=True)
                    self.assertEqual(opened.transfer_syntax_uid, EXPLICIT)
                    if read_ahead:
                        opened.read_ahead()
                    self.assertEqual(self.rest(opened, 1 << 20), content + bytes(len(content) % 2))
                    opened.close()
                    opened.read_ahead()

    def test_lenient(self) -> None:
        """Files without a preamble, or without the group length, are read as others are."""
        for content in (META[132:], META[144:], PREAMBLE + META[144:]):
            opened = self.open(content + data_set("1.2.3"))
            self.assertEqual(opened.transfer_syntax_uid, EXPLICIT)
            self.assertEqual(self.rest(opened), data_set("1.2.3"))


class SystemCallTests(OpenTestCase):
    def test_small(self) -> None:
        """A file of less than 256 KiB is read with one call, and holds no descriptor."""
        path = self.file(META + data_set("1.2.3", bytes(BLOCK - 1000)))
        called = self.calls()
        opened = open_data_set(path)
        self.assertEqual(called, ["open", "pread", "close"])
        self.rest(opened)
        opened.close()
        self.assertEqual(called, ["open", "pread", "close"])

    def test_large(self) -> None:
        """Of a larger file the beginning is not read again, and the descriptor is closed once."""
        path = self.file(META + data_set("1.2.3", bytes(2 * BLOCK)))
        called = self.calls()
        opened = open_data_set(path)
        self.rest(opened, BLOCK)
        opened.close()
        opened.close()
        self.assertEqual(called, ["open", "pread", "fstat", "pread", "pread", "close"])

    def test_ahead(self) -> None:
        """Of a file that is opened ahead the beginning is read, and then all the rest at once."""
        path = self.file(META + data_set("1.2.3", bytes(2 * BLOCK)))
        called = self.calls()
        opened = open_data_set(path, ahead=True)
        self.assertEqual(called, ["open", "pread", "fstat"])
        opened.read_ahead()
        self.assertEqual(called, ["open", "pread", "fstat", "pread"])
        self.rest(opened, 4 * BLOCK)
        opened.close()
        self.assertEqual(called, ["open", "pread", "fstat", "pread", "close"])


class FaultTests(OpenTestCase):
    def test_no_dicom_file(self) -> None:
        """What is no DICOM file, or one without a transfer syntax, is a ValueError of one line."""
        for content in (
            b"",
            b"GET / HTTP/1.1\r\n" * 100,
            bytes(BLOCK * 2),
            data_set("1.2.3"),
            META[:200],
            PREAMBLE + data_set("1.2.3"),
            FileMeta(CT_IMAGE_STORAGE, "1.2.3", "").encode() + data_set("1.2.3"),
            FileMeta("", "", EXPLICIT).encode() + b"GET / HTTP/1.1\r\n" * 100,
        ):
            path = self.file(content)
            called = self.calls()
            error = self.assertRaises(ValueError, open_data_set, path)
            self.assertTrue(str(error))
            self.assertNotIn("\n", str(error))
            self.assertEqual((called.count("open"), called.count("close")), (1, 1))

    def test_no_file(self) -> None:
        """What is not there, or is no file, is an OSError, and nothing waits for the other end of a FIFO."""
        self.assertRaises(FileNotFoundError, open_data_set, self.place / "nothing")
        self.assertRaises(IsADirectoryError, open_data_set, self.place)
        os.mkfifo(self.place / "fifo")
        self.assertRaises(OSError, open_data_set, self.place / "fifo")

    def test_link(self) -> None:
        """A symbolic link is not followed."""
        target = self.file(META + data_set("1.2.3"))
        link = self.place / "link"
        link.symlink_to(target.name)
        error = self.assertRaises(OSError, open_data_set, link)
        self.assertEqual(error.errno, errno.ELOOP)

    def test_cut_off_meanwhile(self) -> None:
        """A file that becomes shorter while it is read is an OSError: its end is not the object's."""
        opened = self.open(META + data_set("1.2.3", bytes(3 * BLOCK)))
        self.assertEqual(len(opened.read(1000)), 1000)
        os.truncate(self.place / "file.dcm", 2 * BLOCK)
        self.assertRaises(OSError, self.rest, opened)

    def test_longer_meanwhile(self) -> None:
        """What is appended to a file after it was opened is not read."""
        content = data_set("1.2.3", bytes(3 * BLOCK))
        opened = self.open(META + content)
        with open(self.place / "file.dcm", "ab") as file:
            file.write(bytes(1000))
        self.assertEqual(self.rest(opened), content)
