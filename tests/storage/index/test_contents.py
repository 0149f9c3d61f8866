"""What a selection is about: patients, studies and SOP classes, counted."""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import Cancelled, IndexFault, QueryLimit
from dicomtw.storage.content import Content
from dicomtw.storage.index.contents import contents_of, kinds_of
from dicomtw.storage.index.cursor import Cursor
from tests.services.archive import CT, EXPLICIT, MR, Archive, ct
from tests.storage.index import query


class ContentsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.archive = Archive(Path(self.mktemp()))
        self.addCleanup(self.archive.index.close)

    def ids(self) -> array[int]:
        return array("q", (each.id for some in self.archive.index.all_instances() for each in some))

    def cursor(self, seconds: float = 0.0) -> Cursor:
        return self.archive.index.find(query("STUDY"), seconds)

    def contents(self, ids: array[int]) -> list[Content]:
        kinds = kinds_of(self.cursor(), ids)
        counts = Counter((study, sop_class_uid) for _, study, sop_class_uid, _ in kinds)
        return sorted(contents_of(self.cursor(), counts), key=str)

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
        ids = self.ids()
        (found,) = self.contents(array("q", [*ids, ids[-1] + 1]))
        self.assertEqual(found, Content("1.3", "1.3", "", "", "", CT, 1))

    def test_kinds(self) -> None:
        """The kinds of instances come in the order in which these are asked for."""
        self.archive.fill(studies=2, series=2, instances=60)
        ids = array("q", reversed(self.ids()))
        kinds = list(kinds_of(self.cursor(), ids))
        self.assertEqual([each for each, _, _, _ in kinds], list(ids))
        self.assertEqual({kind[2:] for kind in kinds}, {(CT, EXPLICIT)})
        self.assertEqual(len({study for _, study, _, _ in kinds}), 2)

    def test_limits(self) -> None:
        """Who asks for them is interrupted as the query is, and they are part of its time."""
        self.archive.fill(studies=1)
        ids = self.ids()
        closed, slow = self.cursor(), self.cursor(1.0)
        closed.close()
        slow._taken = 1.1
        for cursor, fault in ((closed, Cancelled), (slow, QueryLimit)):
            self.assertRaises(fault, list, kinds_of(cursor, ids))
            self.assertRaises(fault, contents_of, cursor, {(1, CT): 1})

    def test_closed_within(self) -> None:
        """One that is closed between two portions ends there."""
        self.archive.fill(studies=1, series=2, instances=60)
        cursor = self.cursor()
        kinds = kinds_of(cursor, self.ids())
        next(kinds)
        cursor.close()
        self.assertRaises(Cancelled, list, kinds)

    def test_closed(self) -> None:
        """An index that cannot be used says so."""
        ids = self.ids()
        self.archive.index.close()
        self.assertRaises(IndexFault, list, kinds_of(self.cursor(), ids))
