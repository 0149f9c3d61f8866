"""What a selection is about: patients, studies and SOP classes, counted."""

from __future__ import annotations

from array import array
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import IndexFault
from dicomtw.storage.content import Content
from dicomtw.storage.index.contents import contents_of
from tests.services.archive import CT, MR, Archive, ct


class ContentsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.archive = Archive(Path(self.mktemp()))
        self.addCleanup(self.archive.index.close)

    def ids(self) -> array[int]:
        return array("q", (each.id for some in self.archive.index.all_instances() for each in some))

    def contents(self, ids: array[int]) -> list[Content]:
        return sorted(contents_of(self.archive.index, ids), key=str)

    def test_counted(self) -> None:
        """Instances are counted by study and SOP class, however many there are and whoever is asked for."""
        self.archive.fill(studies=2, series=3, instances=40)
        self.archive.add(ct(1, 9, 1, SOPClassUID=MR))
        ids = self.ids()
        first = ("1.1", "1.1", "A1", "P1", "Patient^1")
        second = ("1.2", "1.2", "A2", "P2", "Patient^2")
        expected = [Content(*first, CT, 120), Content(*first, MR, 1), Content(*second, CT, 120)]
        self.assertEqual(self.contents(ids), expected)
        (one,) = self.contents(ids[:1])
        self.assertEqual(one.count, 1)
        self.assertEqual(self.contents(array("q")), [])

    def test_absent(self) -> None:
        """What an object does not say is empty, and what is gone is not counted."""
        instance = ct(3)
        del instance.PatientID, instance.PatientName, instance.AccessionNumber
        self.archive.add(instance)
        (found,) = self.contents(array("q", [*self.ids(), 999]))
        self.assertEqual(found, Content("1.3", "1.3", "", "", "", CT, 1))

    def test_closed(self) -> None:
        """An index that cannot be used says so."""
        ids = self.ids()
        self.archive.index.close()
        self.assertRaises(IndexFault, contents_of, self.archive.index, ids)
