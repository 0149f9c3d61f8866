"""dicomtw.command.reindex: the index has what the files have, and keeps the attributes it was made for."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.command.arguments import parser
from dicomtw.command.exits import Fault
from dicomtw.command.reindex import extra_attributes, run
from dicomtw.errors import IndexFault
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from tests.command.memory import heard, write_object


class ReindexTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        self.path = self.root / INDEX / FILE_NAME

    def put(self, *numbers: int) -> None:
        for number in numbers:
            write_object(self.root / "1.2" / "1.2.3" / f"1.2.3.{number}.dcm", number)

    def reindex(self) -> tuple[int, str, str]:
        with heard() as (out, err):
            status = run(parser().parse_args(["reindex", str(self.root)]))
        return status, out.getvalue(), err.getvalue()

    def test_new(self) -> None:
        """A store without an index gets one."""
        self.put(1, 2)
        status, out, err = self.reindex()
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out, f"{self.root}: patients: 1, studies: 1, series: 1, objects: 2, 2 new\n")

    def test_again(self) -> None:
        """What is gone is removed, what is new comes in, and the rest is left alone."""
        self.put(1, 2)
        self.reindex()
        self.put(3, 4)
        (self.root / "1.2" / "1.2.3" / "1.2.3.1.dcm").unlink()
        _, out, _ = self.reindex()
        self.assertEqual(
            out, f"{self.root}: patients: 1, studies: 1, series: 1, objects: 3, 2 new, 1 removed\n"
        )

    def test_passed_over(self) -> None:
        """A file that is no object is told of, and is an exit status."""
        self.put(1)
        bad = self.root / "1.2" / "1.2.3" / "1.2.9.dcm"
        bad.write_text("text")
        status, out, err = self.reindex()
        self.assertEqual(status, 3)
        self.assertIn("objects: 1, 1 new, 1 passed over", out)
        self.assertEqual(err, f"dicomtw: {bad}: passed over: not a DICOM file\n")

    def test_attributes(self) -> None:
        """Attributes that a server has had indexed stay, so that it finds its own index again."""
        self.put(1)
        self.reindex()
        self.assertEqual(extra_attributes(self.path), [])
        self.path.unlink()
        attributes = Attributes(["KVP", "SERIES:AnatomicalOrientationType"])
        index = Index(self.path, attributes, synchronous=True)
        index.open()
        index.close()
        extra = extra_attributes(self.path)
        self.assertCountEqual(extra, ["IMAGE:KVP", "SERIES:AnatomicalOrientationType"])
        self.reindex()
        index = Index(self.path, attributes, synchronous=True)
        self.addCleanup(index.close)
        self.assertTrue(index.open(), "it is complete, and of the same layout")

    def test_damaged(self) -> None:
        """An index that cannot be read is made anew."""
        self.put(1)
        self.path.parent.mkdir()
        self.path.write_text("no database " * 100)
        _, out, _ = self.reindex()
        self.assertIn("objects: 1, 1 new", out)

    def test_no_directory(self) -> None:
        """What is no directory is a fault."""
        self.root = self.root / "nowhere"
        self.assertEqual(str(self.assertRaises(Fault, self.reindex)), f"{self.root}: no such directory")

    def test_no_store(self) -> None:
        """A directory that no store has been in is refused, and left as it is."""
        for name in ("1.dcm", "1.2/1.2.3.dcm", "studies/1.2.3/1.2.3.1.dcm"):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            fault = str(self.assertRaises(Fault, self.reindex))
            words = "is no store: there is no .index in it, and no STUDY/SERIES/INSTANCE.dcm"
            self.assertEqual(fault, f"{self.root} {words}")
            self.assertFalse((self.root / INDEX).exists())
        self.put(1)
        self.assertEqual(self.reindex()[0], 0)

    def test_empty_store(self) -> None:
        """A server's store with nothing in it is one."""
        self.path.parent.mkdir()
        self.assertIn("objects: 0", self.reindex()[1])

    def test_no_room(self) -> None:
        """An index that cannot be made is a fault in one line."""
        (self.root / INDEX).write_text("a file")
        fault = self.assertRaises(IndexFault, self.reindex)
        self.assertNotIn("\n", str(fault))
