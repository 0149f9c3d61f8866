"""dicomtw.command.files: what is sent of what is named, and why the rest is not."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.command.exits import Fault
from dicomtw.command.files import Scan, files_in
from tests.command.memory import CT, JPEG, write_object


class FilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()

    def below(self, *names: str) -> list[str]:
        return [str(self.root / name) for name in names]

    def test_directories(self) -> None:
        """Directories are searched whole, in the order of names, but for what begins with a dot."""
        for name in ("b/2.dcm", "b/1.dcm", "a/x/3", ".incoming/half", "b/.hidden", "c"):
            (self.root / name).parent.mkdir(exist_ok=True, parents=True)
            (self.root / name).touch()
        found = [*files_in([self.root])]
        self.assertEqual(found, [(path, False) for path in self.below("c", "a/x/3", "b/1.dcm", "b/2.dcm")])

    def test_named(self) -> None:
        """A file that is named is told from one that is found, and a dot does not hide it."""
        (self.root / ".x").touch()
        self.assertEqual([*files_in([self.root / ".x"])], [(*self.below(".x"), True)])

    def test_absent(self) -> None:
        """A name of nothing is a fault, before anything is looked at."""
        (self.root / "x").touch()
        fault = self.assertRaises(Fault, next, files_in([self.root, self.root / "y"]))
        self.assertEqual(str(fault), f"{self.root}/y: no such file or directory")


class ScanTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        self.scan = Scan()

    def look(self, name: str, content: bytes) -> str:
        path = self.root / name
        path.write_bytes(content)
        return self.scan.look(str(path))

    def test_object(self) -> None:
        """An object is known by SOP class, SOP instance and transfer syntax, size and time."""
        path = write_object(self.root / "x", 7, transfer_syntax_uid=JPEG)
        self.assertEqual(self.scan.look(str(path)), "")
        (found,) = self.scan.found
        self.assertEqual(
            (found.sop_class_uid, found.sop_instance_uid, found.transfer_syntax_uid), (CT, "1.2.3.7", JPEG)
        )
        self.assertEqual((found.size, found.mtime_ns), (path.stat().st_size, path.stat().st_mtime_ns))

    def test_names_in_the_data_set(self) -> None:
        """Where the File Meta Information does not name the object its data set does."""
        meta = bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
        data_set = b"\x08\x00\x16\x00UI\x1a\x00" + CT.encode() + b"\0" + b"\x08\x00\x18\x00UI\x04\x001.23"
        self.assertEqual(self.look("x", meta + data_set), "")
        self.assertEqual(self.scan.found[0].sop_instance_uid, "1.23")

    def test_long_head(self) -> None:
        """File Meta Information may be longer than what is read at first."""
        private = b"\x02\x00\x02\x01OB\0\0" + (5000).to_bytes(4, "little") + bytes(5000)
        content = write_object(self.root / "x").read_bytes()
        at = (
            content.index(b"\x02\x00\x12\x00")
            if b"\x02\x00\x12\x00" in content
            else content.index(b"\x08\x00")
        )
        group_length = int.from_bytes(content[140:144], "little") + len(private)
        longer = content[:140] + group_length.to_bytes(4, "little") + content[144:at] + private + content[at:]
        self.assertEqual(self.look("y", longer), "")
        self.assertEqual(self.scan.found[0].sop_instance_uid, "1.2.3.1")

    def test_skipped(self) -> None:
        """What cannot be sent is skipped, and counted by why."""
        directory = write_object(self.root / "d", sop_class_uid="1.2.840.10008.1.3.10")
        broken = write_object(self.root / "b").read_bytes()
        cases = [
            ("text", b"hello\n", "not a DICOM file"),
            ("empty", b"", "not a DICOM file"),
            ("directory", directory.read_bytes(), "a directory of media (DICOMDIR) is not sent"),
            ("cut", broken[:200], "File Meta Information is cut off"),
            ("uid", broken.replace(b"1.2.3.1", b"../../x"), "no valid SOP Instance UID"),
        ]
        for name, content, expected in cases:
            self.assertEqual(self.look(name, content), expected)
        self.assertEqual(self.scan.skipped.total(), len(cases))
        self.assertEqual(self.scan.skipped["not a DICOM file"], 2)
        self.assertEqual(self.scan.found, [])

    def test_no_files(self) -> None:
        """What is no file, or cannot be read, is skipped and does not stall."""
        os.mkfifo(self.root / "fifo")
        self.assertEqual(self.scan.look(str(self.root / "fifo")), "not a DICOM file")
        self.assertEqual(self.scan.look(str(self.root / "gone")), "No such file or directory")
        (self.root / "loop").symlink_to("loop")
        self.assertEqual(self.scan.look(str(self.root / "loop")), "Too many levels of symbolic links")

    def test_link(self) -> None:
        """A symbolic link stands for its file."""
        write_object(self.root / "x")
        (self.root / "link").symlink_to("x")
        self.assertEqual(self.scan.look(str(self.root / "link")), "")
        self.assertEqual(self.scan.found[0].path, str(self.root / "x"))

    def test_arrived(self) -> None:
        """What has arrived is counted, and not so much as opened."""
        path = self.root / "x"
        path.write_bytes(b"not even DICOM")
        seen = []
        scan = Scan(lambda *about: seen.append(about) or True)
        self.assertEqual(scan.look(str(path)), "")
        self.assertEqual((scan.earlier, scan.found, scan.skipped.total()), (1, [], 0))
        self.assertEqual(seen, [(str(path), 14, path.stat().st_mtime_ns)])

    def test_strings_are_shared(self) -> None:
        """UIDs of SOP class and transfer syntax are kept once, for there may be millions of files."""
        for number in (1, 2):
            self.scan.look(str(write_object(self.root / str(number), number)))
        one, other = self.scan.found
        self.assertIs(one.sop_class_uid, other.sop_class_uid)
        self.assertIs(one.transfer_syntax_uid, other.transfer_syntax_uid)
        self.assertEqual(one.transfer_syntax_uid, uids.EXPLICIT_VR_LITTLE_ENDIAN)
