"""What is in the rows follows from the files, however and in which order they came."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage.index.attributes import Attributes, Level
from dicomtw.storage.index.containers import identity_of
from dicomtw.storage.index.record import Record
from dicomtw.storage.index.schema import Schema
from dicomtw.storage.index.writer import Writer
from tests.storage import modest
from tests.storage.index import CT, MR, MemoryFiles, dump, record, sorted_rows

SCHEMA = Schema(Attributes())


class Rows:
    """A database in memory."""

    def __init__(self, files: Iterable[Record] = ()) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.executescript(";".join(SCHEMA.statements))
        self.files = MemoryFiles(files)
        self.writer = Writer(self.connection, SCHEMA, self.files)

    def put(self, *records: Record) -> None:
        self.writer.begin()
        self.writer.put(records)

    def store(self, *records: Record) -> None:
        """Put what the files get, too."""
        for each in records:
            self.files.add(each)
        self.put(*records)

    def delete(self, *uids: str, only_gone: bool = False) -> int:
        self.writer.begin()
        return self.writer.delete(uids, only_gone)

    def dump(self) -> dict[str, list[Mapping[str, object]]]:
        return dump(self.connection, SCHEMA)

    def column(self, table: str, column: str) -> list[Any]:
        return sorted(value for (value,) in self.connection.execute(f'SELECT "{column}" FROM {table}'))

    def close(self) -> None:
        self.connection.close()


def expected(files: Iterable[Record]) -> dict[str, list[Mapping[str, object]]]:
    """The rows for a set of files, straight from the definition: the latest counts, of everything."""
    objects: dict[str, Record] = {}
    for each in sorted(files, key=lambda each: (each.mtime_ns, each.study, each.series)):
        objects[each.sop_instance_uid] = each
    series: dict[tuple[str, str], Record] = {}
    studies: dict[str, Record] = {}
    for each in sorted(objects.values(), key=lambda each: (each.mtime_ns, each.sop_instance_uid)):
        series[each.study, each.series] = each
        studies[each.study] = each
    patients: dict[str, Record] = {}
    for each in sorted(studies.values(), key=lambda each: (each.mtime_ns, each.sop_instance_uid)):
        patients[identity_of(each)] = each

    def row(level: Level, each: Record, **fixed: object) -> dict[str, object]:
        keywords = [column.strip('"') for column in SCHEMA.all_columns[level]]
        naming = {"SOPClassUID": each.sop_class_uid, "TransferSyntaxUID": each.transfer_syntax_uid}
        values = SCHEMA.row(level, {**each.values, **naming})
        kept = {keyword: value for keyword, value in zip(keywords, values, strict=True) if value is not None}
        return kept | fixed

    return sorted_rows(
        {
            "patient": [row(Level.PATIENT, each, identity=name) for name, each in patients.items()],
            "study": [
                row(Level.STUDY, each, directory=name, patient_id=identity_of(each))
                for name, each in studies.items()
            ],
            "series": [
                row(
                    Level.SERIES,
                    each,
                    directory=name,
                    study_id=study,
                    latest_mtime_ns=each.mtime_ns,
                    latest_uid=each.sop_instance_uid,
                )
                for (study, name), each in series.items()
            ],
            "instance": [
                row(Level.IMAGE, each, series_id=f"{each.study} {each.series}", mtime_ns=each.mtime_ns)
                for each in objects.values()
            ],
        }
    )


few = st.sampled_from
records_of_few = st.builds(
    lambda uid, study, series, mtime, patient, issuer, name, modality, sop_class_uid: record(
        uid,
        study,
        series,
        mtime=mtime,
        sop_class_uid=sop_class_uid,
        PatientID=patient,
        IssuerOfPatientID=issuer,
        PatientName=name,
        StudyDescription=name,
        SeriesDescription=name,
        Modality=modality,
    ),
    few(["1", "2", "3", "4", "5"]),
    few(["10", "11", "unknown-study"]),
    few(["20", "21"]),
    st.integers(1, 4),
    few(["", "P", "Q"]),
    few(["", "", "Issuer"]),
    few(["", "Doe^John", "Roe^Jane"]),
    few(["CT", "MR"]),
    few([CT, MR]),
)


def version(each: Record) -> tuple[str, str, str, int]:
    return each.study, each.series, each.sop_instance_uid, each.mtime_ns


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Record], list[list[Record]]]:
    """Files, and batches in which they come, some of them more than once, with versions that are replaced."""
    versions = draw(st.lists(records_of_few, min_size=1, max_size=12, unique_by=version))
    files = MemoryFiles(versions)  # of those with one place the last
    there = list(files.records.values())
    coming = draw(st.permutations(versions + draw(st.lists(few(there), max_size=4))))
    batches: list[list[Record]] = [[]]
    for each in coming:
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append(each)
    return there, batches


class OrderTests(SynchronousTestCase):
    @modest
    @given(arrivals())
    def test_order(self, arriving: tuple[list[Record], list[list[Record]]]) -> None:
        """Whatever the order and the batches, and whatever came before, the rows are those of the files."""
        files, batches = arriving
        rows = Rows(files)
        try:
            for batch in batches:
                rows.put(*batch)
            self.assertEqual(rows.dump(), expected(files))
        finally:
            rows.close()

    @modest
    @given(arrivals())
    def test_forgetful(self, arriving: tuple[list[Record], list[list[Record]]]) -> None:
        """What the writer remembers makes no difference."""
        files, batches = arriving
        rows = Rows(files)
        try:
            for batch in batches:
                rows.writer.forget()
                rows.put(*batch)
            self.assertEqual(rows.dump(), expected(files))
        finally:
            rows.close()

    @modest
    @given(st.lists(st.lists(records_of_few, max_size=4), max_size=8), st.booleans())
    def test_history(self, batches: list[list[Record]], forgetful: bool) -> None:
        """Rows and files agree after each of many changes, also where clocks have gone backwards."""
        rows = Rows()
        try:
            for batch in batches:
                for each in batch:  # the store has one file of each UID
                    for place in [place for place in rows.files.records if place[2] == each.sop_instance_uid]:
                        del rows.files.records[place]
                    rows.files.add(each)
                if forgetful:
                    rows.writer.forget()
                rows.put(*batch)
                self.assertEqual(rows.dump(), expected(rows.files.records.values()))
        finally:
            rows.close()

    @modest
    @given(st.lists(records_of_few, max_size=10), st.lists(few(["1", "2", "3", "4", "5", "6"]), max_size=4))
    def test_delete(self, records: list[Record], uids: list[str]) -> None:
        """What is deleted takes its attributes with it."""
        rows = Rows()
        try:
            unique = {each.sop_instance_uid: each for each in records}
            rows.store(*unique.values())
            for uid in uids:
                if uid in unique:
                    each = unique.pop(uid)
                    del rows.files.records[each.study, each.series, uid]
            rows.delete(*uids)
            self.assertEqual(rows.dump(), expected(unique.values()))
        finally:
            rows.close()


class WriterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rows = Rows()
        self.addCleanup(self.rows.close)

    def test_latest(self) -> None:
        """Study and patient have the attributes of their latest object, in whichever series it is."""
        self.rows.store(
            record("1", mtime=2, StudyDescription="new", PatientName="New"),
            record("2", series="1.2.21", mtime=1, StudyDescription="old", PatientName="Old"),
        )
        self.assertEqual(self.rows.column("study", "StudyDescription"), ["new"])
        self.assertEqual(self.rows.column("patient", "PatientName"), ["New"])

    def test_replaced_by_less(self) -> None:
        """An attribute that the latest object does not have is not kept from an earlier one."""
        self.rows.store(record("1", StudyDescription="old"))
        self.rows.store(record("2", mtime=2))
        self.assertEqual(self.rows.column("study", "StudyDescription"), [None])

    def test_moves(self) -> None:
        """An object that comes with another study leaves its old one, which goes if nothing is left in it."""
        self.rows.store(record("1", PatientID="P"))
        moved = record("1", study="1.2.11", mtime=2, PatientID="Q")
        self.rows.files.records.clear()
        self.rows.store(moved)
        self.assertEqual(self.rows.dump(), expected([moved]))

    def test_patient_of_study(self) -> None:
        """A study whose latest object says another patient becomes that patient's, and the old one goes."""
        self.rows.store(record("1", PatientID="P"))
        self.rows.store(record("2", mtime=2, PatientID="Q"))
        self.assertEqual(self.rows.column("patient", "PatientID"), ["Q"])

    def test_issuer(self) -> None:
        """The same Patient ID of two issuers is two patients."""
        self.rows.store(
            record("1", study="1.2.10", IssuerOfPatientID="A"),
            record("2", study="1.2.11", IssuerOfPatientID="B"),
        )
        self.assertEqual(self.rows.column("patient", "IssuerOfPatientID"), ["A", "B"])

    def test_no_patient_id(self) -> None:
        """Without a Patient ID each study has a patient of its own."""
        self.rows.store(
            record("1", study="1.2.10", PatientID="", PatientName="Doe"),
            record("2", study="1.2.11", PatientID="", PatientName="Doe"),
            record("3", study="1.2.11", PatientID="", PatientName="Doe"),
        )
        self.assertEqual(self.rows.column("patient", "PatientName"), ["Doe", "Doe"])

    def test_unreadable(self) -> None:
        """Where the file that attributes are to be read from is unreadable, those known are kept."""
        self.rows.store(record("1", mtime=1), record("2", mtime=2, SeriesDescription="two"))
        self.rows.files.records.clear()
        self.assertEqual(self.rows.delete("2"), 1)
        self.assertEqual(self.rows.column("series", "SeriesDescription"), ["two"])
        self.assertEqual(self.rows.column("series", "latest_uid"), ["1"])

    def test_only_gone(self) -> None:
        """Of what is said to be gone only that is removed whose file is."""
        self.rows.store(record("1"), record("2"))
        del self.rows.files.records["1.2.10", "1.2.20", "1"]
        self.assertEqual(self.rows.delete("1", "2", "3", only_gone=True), 1)
        self.assertEqual(self.rows.column("instance", "SOPInstanceUID"), ["2"])

    def test_who_knows(self) -> None:
        """What cannot be looked at is not gone, and does not replace what is there."""
        self.rows.store(record("1", mtime=5, ImageComments="old"))

        def mtime_ns(study: str, series: str, sop_instance_uid: str) -> int | None:
            raise PermissionError(13, "Permission denied")

        self.patch(self.rows.files, "mtime_ns", mtime_ns)
        self.assertEqual(self.rows.delete("1", only_gone=True), 0)
        self.rows.put(record("1", mtime=4, ImageComments="earlier"))
        self.assertEqual(self.rows.column("instance", "ImageComments"), ["old"])
        self.rows.put(record("1", mtime=6, ImageComments="later"))
        self.assertEqual(self.rows.column("instance", "ImageComments"), ["later"])

    def test_stale(self) -> None:
        """A version that was read before its file was replaced does not replace what came meanwhile."""
        self.rows.store(record("1", mtime=5, ImageComments="new"))
        self.rows.put(record("1", mtime=4, ImageComments="stale"))
        self.rows.put(record("1", mtime=6, ImageComments="stale"))
        self.assertEqual(self.rows.column("instance", "ImageComments"), ["new"])

    def test_clock(self) -> None:
        """A file that replaces one that seems to be later counts nevertheless."""
        self.rows.store(record("1", mtime=5, ImageComments="first"))
        self.rows.store(record("1", mtime=4, ImageComments="second"))
        self.assertEqual(self.rows.column("instance", "ImageComments"), ["second"])

    def test_ids(self) -> None:
        """An id is not given twice, for somebody may still be about to ask for the object that had it."""
        self.rows.store(record("1"), record("2"))
        self.rows.delete("2")
        self.rows.store(record("3"))
        self.assertEqual(self.rows.column("instance", "id"), [1, 3])

    def test_replaced_keeps_id(self) -> None:
        """An object that is replaced keeps its id."""
        self.rows.store(record("1"), record("2"))
        self.rows.store(record("1", mtime=9))
        self.assertEqual(self.rows.column("instance", "id"), [1, 2])

    def test_series_of_two_studies(self) -> None:
        """A Series Instance UID in two studies is two series."""
        self.rows.store(record("1", study="1.2.10"), record("2", study="1.2.11"))
        self.assertEqual(self.rows.column("series", "directory"), ["1.2.20", "1.2.20"])

    def test_many_in_one(self) -> None:
        """More objects than one statement asks for are found to be known."""
        records = [record(str(number), mtime=number) for number in range(1200)]
        self.rows.store(*records)
        self.rows.store(*records)
        self.assertEqual(self.rows.dump(), expected(records))
