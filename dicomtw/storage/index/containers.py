"""The rows of series, studies and patients: found or made, remembered, and given other attributes."""

# Statements are put together from names of tables and columns; what comes from a peer is always a parameter.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from typing import Final

import attrs

from dicomtw.storage.index.attributes import Level
from dicomtw.storage.index.record import Record
from dicomtw.storage.index.schema import TABLES, Schema

#: Series that are remembered with their study and patient, so that not every object looks them up.
MAXIMUM_SERIES: Final = 2000

#: What decides which object is the latest: modification time in nanoseconds, SOP Instance UID.
Rank = tuple[int, str]
#: Below that of any object.
NOTHING: Final[Rank] = (-1, "")


@attrs.define(eq=False)
class Patient:
    id: int
    identity: str
    latest: Rank
    #: Hash of its attributes, so that they are not written again as they are.
    values: int


@attrs.define(eq=False)
class Study:
    id: int
    directory: str
    patient: Patient
    latest: Rank
    values: int


@attrs.define(eq=False)
class Series:
    id: int
    directory: str
    study: Study
    latest: Rank
    values: int


class Containers:
    """Series, studies and patients, by a connection on which the caller has begun a transaction."""

    def __init__(self, connection: sqlite3.Connection, schema: Schema, first_id: int) -> None:
        self._connection = connection
        self._schema = schema
        self._version = -1
        self._ids = dict.fromkeys(TABLES, first_id)  # the last ones
        self.forget()

    def forget(self) -> None:
        """Forget what is remembered of rows."""
        self._series: dict[tuple[str, str], Series] = {}
        self._studies: dict[str, Study] = {}
        self._patients: dict[str, Patient] = {}

    def begin(self) -> bool:
        """To be called when a transaction has begun; whether others may have changed the rows meanwhile."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self.forget()
            for level, table in TABLES.items():
                (highest,) = self._connection.execute(f"SELECT max(id) FROM {table}").fetchone()
                # No id comes twice: somebody may still be about to ask for the one that is gone.
                self._ids[level] = max(self._ids[level], highest or 0)
            return True
        if len(self._series) > MAXIMUM_SERIES:
            self.forget()
        return False

    # -- found, or made

    def series_for(self, record: Record) -> Series:
        """The series that an object is in; if there is none, one that says what the object says."""
        series = self.load_series(record.study, record.series)
        if series is None:
            study = self._study_for(record)
            rank, values = rank_of(record), self._schema.values(Level.SERIES, record.values)
            series = Series(self.next_id(Level.SERIES), record.series, study, rank, hash(values))
            self._insert(Level.SERIES, (series.id, study.id, series.directory, *rank), record)
            self._series[record.study, record.series] = series
        return series

    def _study_for(self, record: Record) -> Study:
        study = self._load_study(record.study)
        if study is None:
            patient = self._patient_for(record)
            rank, values = rank_of(record), self._schema.values(Level.STUDY, record.values)
            study = Study(self.next_id(Level.STUDY), record.study, patient, rank, hash(values))
            self._insert(Level.STUDY, (study.id, patient.id, study.directory), record)
            self._studies[record.study] = study
        return study

    def _patient_for(self, record: Record) -> Patient:
        identity = identity_of(record)
        patient = self._load_patient(identity)
        if patient is None:
            rank, values = rank_of(record), self._schema.values(Level.PATIENT, record.values)
            patient = Patient(self.next_id(Level.PATIENT), identity, rank, hash(values))
            self._insert(Level.PATIENT, (patient.id, identity), record)
            self._patients[identity] = patient
        return patient

    def _insert(self, level: Level, fixed: tuple[int | str, ...], record: Record) -> None:
        row = self._schema.row(level, record.values)
        self._connection.execute(self._schema.insert[level], (*fixed, *row))

    def load_series(self, study: str, series: str) -> Series | None:
        """The series with these directories, None if there is none."""
        known = self._series.get((study, series))
        if known is not None:
            return known
        parent = self._load_study(study)
        if parent is None:
            return None
        columns = ", ".join(self._schema.columns[Level.SERIES])
        row = self._connection.execute(
            f"SELECT id, latest_mtime_ns, latest_uid, {columns} FROM series "
            "WHERE study_id = ? AND directory = ?",
            (parent.id, series),
        ).fetchone()
        if row is None:
            return None
        known = Series(row[0], series, parent, (row[1], row[2]), hash(row[3:]))
        self._series[study, series] = known
        return known

    def _load_study(self, directory: str) -> Study | None:
        known = self._studies.get(directory)
        if known is not None:
            return known
        columns = ", ".join(f"study.{column}" for column in self._schema.columns[Level.STUDY])
        row = self._connection.execute(
            f"SELECT study.id, patient.identity, {columns} FROM study "
            "JOIN patient ON patient.id = study.patient_id WHERE study.directory = ?",
            (directory,),
        ).fetchone()
        if row is None:
            return None
        patient = self._load_patient(row[1])
        assert patient is not None
        known = Study(row[0], directory, patient, self.latest_of_study(row[0]), hash(row[2:]))
        self._studies[directory] = known
        return known

    def _load_patient(self, identity: str) -> Patient | None:
        known = self._patients.get(identity)
        if known is not None:
            return known
        columns = ", ".join(self._schema.columns[Level.PATIENT])
        row = self._connection.execute(
            f"SELECT id, {columns} FROM patient WHERE identity = ?", (identity,)
        ).fetchone()
        if row is None:
            return None
        known = Patient(row[0], identity, self.latest_of_patient(row[0]), hash(row[1:]))
        self._patients[identity] = known
        return known

    def next_id(self, level: Level) -> int:
        """An id that nothing has or had."""
        self._ids[level] += 1
        return self._ids[level]

    # -- changed

    def write_series(self, series: Series, rank: Rank, record: Record | None) -> None:
        """Its latest object is at `rank`, and says `record`; None: nobody knows, it stays as it is."""
        values = None if record is None else self._schema.values(Level.SERIES, record.values)
        if record is not None and hash(values) != series.values:
            row = self._schema.row(Level.SERIES, record.values)
            self._connection.execute(
                self._schema.update[Level.SERIES],
                (series.study.id, series.directory, *rank, *row, series.id),
            )
            series.values = hash(values)
        elif rank != series.latest:
            self._connection.execute(
                "UPDATE series SET latest_mtime_ns = ?, latest_uid = ? WHERE id = ?", (*rank, series.id)
            )
        series.latest = rank

    def write_study(self, study: Study, rank: Rank, record: Record | None) -> Patient | None:
        """As `write_series`; the patient that has lost the study to another one by it, None if it has not."""
        study.latest = rank
        if record is None:
            return None
        values = hash(self._schema.values(Level.STUDY, record.values))
        patient = study.patient
        is_another = patient.identity != identity_of(record)
        if is_another:
            study.patient = self._patient_for(record)
        elif values == study.values:
            return None
        row = self._schema.row(Level.STUDY, record.values)
        self._connection.execute(
            self._schema.update[Level.STUDY], (study.patient.id, study.directory, *row, study.id)
        )
        study.values = values
        return patient if is_another else None

    def write_patient(self, patient: Patient, rank: Rank, record: Record | None) -> None:
        """As `write_series`."""
        patient.latest = rank
        if record is None:
            return
        values = hash(self._schema.values(Level.PATIENT, record.values))
        if values != patient.values:
            row = self._schema.row(Level.PATIENT, record.values)
            self._connection.execute(self._schema.update[Level.PATIENT], (patient.identity, *row, patient.id))
            patient.values = values

    def remove(self, container: Series | Study | Patient) -> None:
        """Remove what is empty."""
        if isinstance(container, Series):
            table = "series"
            del self._series[container.study.directory, container.directory]
        elif isinstance(container, Study):
            table = "study"
            del self._studies[container.directory]
        else:
            table = "patient"
            del self._patients[container.identity]
        self._connection.execute(f"DELETE FROM {table} WHERE id = ?", (container.id,))

    # -- the latest objects

    def latest_of_series(self, series: int) -> Rank:
        return self._latest(
            'SELECT mtime_ns, "SOPInstanceUID" FROM instance WHERE series_id = ? '
            'ORDER BY mtime_ns DESC, "SOPInstanceUID" DESC LIMIT 1',
            series,
        )

    def latest_of_study(self, study: int) -> Rank:
        return self._latest(
            "SELECT latest_mtime_ns, latest_uid FROM series WHERE study_id = ? "
            "ORDER BY latest_mtime_ns DESC, latest_uid DESC LIMIT 1",
            study,
        )

    def latest_of_patient(self, patient: int) -> Rank:
        return self._latest(
            "SELECT series.latest_mtime_ns, series.latest_uid FROM study "
            "JOIN series ON series.study_id = study.id WHERE study.patient_id = ? "
            "ORDER BY series.latest_mtime_ns DESC, series.latest_uid DESC LIMIT 1",
            patient,
        )

    def _latest(self, statement: str, container: int) -> Rank:
        row = self._connection.execute(statement, (container,)).fetchone()
        return NOTHING if row is None else (row[0], row[1])


def identity_of(record: Record) -> str:
    """What tells patients apart: ID and issuer. Without an ID, each study has a patient of its own."""
    patient_id = record.values.get("PatientID")
    if patient_id is None:
        return f"study {record.study}"
    # The length tells where the one ends and the other begins, whatever is in them.
    return f"{len(patient_id)} {patient_id} {record.values.get('IssuerOfPatientID', '')}"


def rank_of(record: Record) -> Rank:
    """Where an object is in the order of time."""
    return record.mtime_ns, record.sop_instance_uid
