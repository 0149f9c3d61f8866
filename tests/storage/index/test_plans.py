"""Queries are answered by way of the database's indexes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage.index.database import Index
from dicomtw.storage.index.matching import KeyValue
from dicomtw.storage.index.query import Model, Query
from dicomtw.storage.index.writer import Writer
from tests.storage.index import ATTRIBUTES, MemoryFiles, query, record


class PlanTests(SynchronousTestCase):
    def setUp(self) -> None:
        path = Path(self.mktemp(), "index.sqlite3")
        self.index = Index(path, ATTRIBUTES, synchronous=False, files=MemoryFiles())
        self.index.open()
        self.addCleanup(self.index.close)

    def explain(self, statement: str, parameters: tuple[object, ...]) -> str:
        with self.index.reading() as connection:
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return "; ".join(row[3] for row in rows)

    def plan(self, asked: Query) -> str:
        return self.explain(*asked.ids())

    def check(self, level: str, *steps: str, **keys: KeyValue) -> None:
        """Nothing is scanned, and each of `steps` is in the plan, in this order."""
        plan = self.plan(query(level, Model.PATIENT_ROOT, **keys))
        self.assertNotIn("SCAN", plan)
        at = 0
        for step in steps:
            self.assertIn(step, plan[at:], plan)
            at = plan.index(step, at)

    def test_unique_keys(self) -> None:
        """What has a UID or Patient ID is found by it, one or many."""
        self.check("PATIENT", "(PatientID=?)", PatientID="P")
        for value in ("1.2", "1.2\\1.3\\1.4"):
            self.check("STUDY", "(StudyInstanceUID=?)", StudyInstanceUID=value)
            self.check("SERIES", "(SeriesInstanceUID=?)", SeriesInstanceUID=value)
            self.check("IMAGE", "(SOPInstanceUID=?)", SOPInstanceUID=value)

    def test_required_keys(self) -> None:
        """So is a study by the numbers that departments give it."""
        self.check("STUDY", "(AccessionNumber=?)", AccessionNumber="A1")
        self.check("STUDY", "(StudyID=?)", StudyID="1")

    def test_below(self) -> None:
        """What is in an entity is found from there, level by level."""
        self.check("STUDY", "(PatientID=?)", "(patient_id=?)", PatientID="P")
        self.check("SERIES", "(StudyInstanceUID=?)", "(study_id=?)", StudyInstanceUID="1.2")
        self.check("IMAGE", "(SeriesInstanceUID=?)", "(series_id=?)", SeriesInstanceUID="1.2")
        self.check("IMAGE", "(StudyInstanceUID=?)", "(study_id=?)", "(series_id=?)", StudyInstanceUID="1.2")
        self.check("IMAGE", "(PatientID=?)", "(patient_id=?)", "(study_id=?)", "(series_id=?)", PatientID="P")

    def test_dates(self) -> None:
        """A range of dates is a range in an index, with a time that is one with it, too."""
        self.check("STUDY", "(StudyDate_key>? AND StudyDate_key<?)", StudyDate="20240101-20240131")
        self.check("STUDY", "(StudyDate_key=?)", StudyDate="20240101")
        self.check("SERIES", "(StudyDate_key>?)", "(study_id=?)", StudyDate="20240101-")
        asked = query("STUDY", combined_datetime=True, StudyDate="20240101-20240131", StudyTime="10-11")
        self.assertIn("(StudyDate_key>? AND StudyDate_key<?)", self.plan(asked))

    def test_names(self) -> None:
        """A name is looked up in each of the component groups, with a wild card at its end, too."""
        groups = [f"(PatientName_{number}=?)" for number in (1, 2, 3)]
        self.check("PATIENT", *groups, PatientName="doe^john")
        self.check("STUDY", *groups, "(patient_id=?)", PatientName="doe^john")
        groups = [f"(PatientName_{number}>? AND PatientName_{number}<?)" for number in (1, 2, 3)]
        self.check("PATIENT", *groups, PatientName="doe*")

    def test_others(self) -> None:
        """Accession numbers are looked up."""
        self.check("STUDY", "(AccessionNumber=?)", AccessionNumber="A1")
        self.check("STUDY", "(AccessionNumber>? AND AccessionNumber<?)", AccessionNumber="A*")

    def test_modality(self) -> None:
        """Which studies have a modality is asked of an index, and so is which SOP classes."""
        plan = self.plan(query("STUDY", ModalitiesInStudy="CT"))
        self.assertRegex(plan, r"SEARCH e USING COVERING INDEX \w+ \(study_id=\? AND Modality=\?\)")
        self.assertNotIn("SCAN e", plan)
        plan = self.plan(query("STUDY", StudyDate="20240101", SOPClassesInStudy="1.2"))
        self.assertIn("SEARCH i USING COVERING INDEX", plan)
        self.assertNotIn("SCAN", plan)

    def test_study_first(self) -> None:
        """Series of a modality are looked for in the studies that other keys leave."""
        step = "(study_id=? AND Modality=?)"
        self.check("SERIES", "(StudyInstanceUID=?)", step, StudyInstanceUID="1.2", Modality="CT")
        self.check("SERIES", "StudyDate_key", step, StudyDate="20240101-20240102", Modality="CT")
        self.check("SERIES", "(PatientID=?)", "(patient_id=?)", step, PatientID="P", Modality="CT")

    def test_rows(self) -> None:
        """What is returned is found by id, and what is computed with it by indexes."""
        asked = query(
            "STUDY",
            PatientName="",
            StudyDate="",
            ModalitiesInStudy="",
            SOPClassesInStudy="",
            NumberOfStudyRelatedSeries="",
            NumberOfStudyRelatedInstances="",
            NumberOfPatientRelatedStudies="",
            NumberOfPatientRelatedSeries="",
            NumberOfPatientRelatedInstances="",
        )
        statements = [asked.rows(2), *(each.format("?, ?") for _, each in asked.collected())]
        self.assertEqual(len(statements), 8)
        for statement in statements:
            self.assertNotIn("SCAN", self.explain(statement, (1, 2)), statement)

    def test_instances(self) -> None:
        """Instances are found from the entities that they are in."""
        for level, keys, steps in (
            (
                "PATIENT",
                {"PatientID": "P"},
                ("(PatientID=?)", "(patient_id=?)", "(study_id=?)", "(series_id=?)"),
            ),
            ("STUDY", {"StudyInstanceUID": "1.2"}, ("(StudyInstanceUID=?)", "(study_id=?)", "(series_id=?)")),
            ("SERIES", {"SeriesInstanceUID": "1.2\\1.3"}, ("(SeriesInstanceUID=?)", "(series_id=?)")),
            ("IMAGE", {"SOPInstanceUID": "1.2\\1.3"}, ("(SOPInstanceUID=?)",)),
        ):
            plan = self.explain(*query(level, **keys).instances())
            self.assertNotIn("SCAN", plan)
            at = 0
            for step in steps:
                self.assertIn(step, plan[at:], plan)
                at = plan.index(step, at)

    def test_writing(self) -> None:
        """Nothing is scanned to enter or remove an object."""
        statements = []

        class Listening(sqlite3.Connection):
            def execute(self, statement: str, *arguments: object) -> sqlite3.Cursor:  # type: ignore[override]
                statements.append((statement, *arguments))
                return super().execute(statement, *arguments)  # type: ignore[arg-type]

        with self.index.reading() as connection:
            (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
        listening = sqlite3.connect(path, isolation_level=None, factory=Listening)
        self.addCleanup(listening.close)
        files = MemoryFiles()
        writer = Writer(listening, self.index._schema, files)
        for mtime in (2, 1):
            each = record("1.2.3", mtime=mtime)
            files.add(each)
            writer.begin()
            writer.forget()
            writer.put([each])
        writer.delete([each.sop_instance_uid], only_gone=False)
        self.assertGreater(len(statements), 20)
        for statement, *parameters in statements:
            if not statement.startswith("PRAGMA"):
                plan = self.explain(statement, tuple(*parameters))
                if "max(id)" not in statement:
                    self.assertNotIn("SCAN", plan, statement)
