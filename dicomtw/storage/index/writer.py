"""What changes the rows when objects come, change, move and go.

The rows follow from the set of files alone, whatever order they came in: one SOP Instance UID is one object,
and the attributes of a series, study and patient are those of its latest object, by modification time and
SOP Instance UID. When that one leaves, they are read again from the file of the latest that remains.
"""

# Statements are put together from names of tables and columns; what comes from a peer is always a parameter.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from dicomtw.storage.index.attributes import Level
from dicomtw.storage.index.files import UNREADABLE, Files
from dicomtw.storage.index.record import Record
from dicomtw.storage.index.schema import TABLES, Row, Schema

#: Series that are remembered with their study and patient, so that not every object looks them up.
MAXIMUM_SERIES: Final = 2000
_CHUNK = 500

#: What decides which object is the latest: modification time in nanoseconds, SOP Instance UID.
Rank = tuple[int, str]
_NOTHING: Rank = (-1, "")


@attrs.define(eq=False)
class _Patient:
    id: int
    identity: str
    latest: Rank
    #: Hash of its attributes, so that they are not written again as they are.
    values: int


@attrs.define(eq=False)
class _Study:
    id: int
    directory: str
    patient: _Patient
    latest: Rank
    values: int


@attrs.define(eq=False)
class _Series:
    id: int
    directory: str
    study: _Study
    latest: Rank
    values: int


@attrs.frozen
class _Stored:
    """An object that has a row."""

    id: int
    study: str
    series: str
    sop_instance_uid: str
    mtime_ns: int


class Writer:
    """Changes the rows, by a connection on which the caller has begun a transaction."""

    def __init__(self, connection: sqlite3.Connection, schema: Schema, files: Files) -> None:
        self._connection = connection
        self._schema = schema
        self._files = files
        self._version = -1
        self._ids: dict[Level, int] = {}
        self.forget()

    def forget(self) -> None:
        """Forget what is remembered of rows."""
        self._series: dict[tuple[str, str], _Series] = {}
        self._studies: dict[str, _Study] = {}
        self._patients: dict[str, _Patient] = {}

    def begin(self) -> None:
        """To be called when a transaction has begun: others may have changed the rows meanwhile."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self.forget()
            for level, table in TABLES.items():
                (highest,) = self._connection.execute(f"SELECT max(id) FROM {table}").fetchone()
                # No id comes twice: somebody may still be about to ask for the one that is gone.
                self._ids[level] = max(self._ids.get(level, 0), highest or 0)
        elif len(self._series) > MAXIMUM_SERIES:
            self.forget()

    # -- what is done

    def set_complete(self) -> None:
        """Note that all files are in it."""
        self._connection.execute(
            "INSERT INTO meta (name, value) VALUES ('complete', '') ON CONFLICT (name) DO NOTHING"
        )

    def put(self, records: Iterable[Record]) -> None:
        """Enter objects, or what they have become."""
        chosen: dict[str, Record] = {}
        for record in records:
            other = chosen.get(record.sop_instance_uid)
            if other is None or self._replaces(record, other):
                chosen[record.sop_instance_uid] = record
        replaced: list[_Stored] = []
        for stored in self._stored(list(chosen)):
            if self._replaces(chosen[stored.sop_instance_uid], stored):
                replaced.append(stored)
            else:
                del chosen[stored.sop_instance_uid]
        change = _Change(chosen)
        for stored in replaced:
            self._leave(stored, change)
        members: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in chosen.values():
            members[record.study, record.series].append(record)
        ids = {stored.sop_instance_uid: stored.id for stored in replaced}
        inserted, updated = [], []
        for group in members.values():
            best = max(group, key=_rank)
            series = self._series_for(best)
            change.best[series] = best
            for record in group:
                row = (series.id, record.mtime_ns, *self._instance_row(record))
                if record.sop_instance_uid in ids:
                    updated.append((*row, ids[record.sop_instance_uid]))
                else:
                    inserted.append((self._next_id(Level.IMAGE), *row))
        self._connection.executemany(self._schema.insert[Level.IMAGE], inserted)
        if updated:
            self._connection.executemany(self._schema.update[Level.IMAGE], updated)
        self._settle(change)

    def delete(self, sop_instance_uids: Collection[str], only_gone: bool) -> int:
        """Remove objects, or `only_gone`, those of them whose files are; how many."""
        change = _Change({})
        removed = 0
        for stored in self._stored(list(sop_instance_uids)):
            if only_gone and not self._is_gone(stored):
                continue
            self._leave(stored, change)
            self._connection.execute("DELETE FROM instance WHERE id = ?", (stored.id,))
            removed += 1
        self._settle(change)
        return removed

    # -- objects

    def _is_gone(self, stored: _Stored) -> bool:
        try:
            return self._files.mtime_ns(*_place(stored)) is None
        except OSError:
            return False  # who knows

    def _stored(self, sop_instance_uids: Sequence[str]) -> list[_Stored]:
        stored = []
        for at in range(0, len(sop_instance_uids), _CHUNK):
            chunk = sop_instance_uids[at : at + _CHUNK]
            rows = self._connection.execute(
                'SELECT instance.id, study.directory, series.directory, instance."SOPInstanceUID", '
                "instance.mtime_ns FROM instance JOIN series ON series.id = instance.series_id "
                "JOIN study ON study.id = series.study_id "
                f'WHERE instance."SOPInstanceUID" IN ({", ".join("?" * len(chunk))})',
                chunk,
            )
            stored += [_Stored(*row) for row in rows]
        return stored

    def _replaces(self, new: Record, old: Record | _Stored) -> bool:
        """Which of two versions of an object counts: the one whose file is there, or else the later one."""
        if (_place(new), new.mtime_ns) == (_place(old), old.mtime_ns):
            return True
        new_is_there, old_is_there = self._is_there(new), self._is_there(old)
        if new_is_there != old_is_there:
            return new_is_there
        return (new.mtime_ns, *_place(new)) > (old.mtime_ns, *_place(old))

    def _is_there(self, each: Record | _Stored) -> bool:
        try:
            return self._files.mtime_ns(*_place(each)) == each.mtime_ns
        except OSError:
            return False

    def _instance_row(self, record: Record) -> Row:
        return self._schema.row(
            Level.IMAGE,
            {
                **record.values,
                "SOPInstanceUID": record.sop_instance_uid,
                "SOPClassUID": record.sop_class_uid,
                "TransferSyntaxUID": record.transfer_syntax_uid,
            },
        )

    def _next_id(self, level: Level) -> int:
        self._ids[level] += 1
        return self._ids[level]

    def _leave(self, stored: _Stored, change: _Change) -> None:
        """Note what loses its latest object when this one goes, or becomes another."""
        series = self._load_series(stored.study, stored.series)
        assert series is not None
        rank = _rank(stored)
        for container in (series, series.study, series.study.patient):
            if container.latest == rank:
                change.lost.add(container)

    # -- series, studies and patients

    def _settle(self, change: _Change) -> None:
        """Give series, studies and patients the attributes of their latest objects; remove the empty ones."""
        best_of_studies: dict[_Study, Record] = {}
        studies = {series.study for series in change.lost if isinstance(series, _Series)}
        for series, best in change.best.items():
            study = series.study
            if study not in best_of_studies or _rank(best) > _rank(best_of_studies[study]):
                best_of_studies[study] = best
            if _rank(best) >= series.latest:
                change.lost.discard(series)
                self._write_series(series, _rank(best), best)
        for series in [each for each in change.lost if isinstance(each, _Series)]:
            self._recover_series(series, change)
        best_of_patients: dict[_Patient, Record] = {}
        for study in studies | set(best_of_studies):
            best_of_study = best_of_studies.get(study)
            if best_of_study is None or _rank(best_of_study) < study.latest:
                best_of_study = self._recover_study(study, change) if study in change.lost else None
            else:
                self._write_study(study, _rank(best_of_study), best_of_study, change)
            if best_of_study is not None:
                other = best_of_patients.get(study.patient)
                if other is None or _rank(best_of_study) > _rank(other):
                    best_of_patients[study.patient] = best_of_study
        patients = {each for each in change.lost if isinstance(each, _Patient)}
        for patient in patients | set(best_of_patients):
            best_of_patient = best_of_patients.get(patient)
            if best_of_patient is not None and _rank(best_of_patient) >= patient.latest:
                self._write_patient(patient, _rank(best_of_patient), best_of_patient)
            elif patient in patients:
                self._recover_patient(patient, change)

    def _write_series(self, series: _Series, rank: Rank, record: Record | None) -> None:
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

    def _write_study(self, study: _Study, rank: Rank, record: Record | None, change: _Change) -> None:
        study.latest = rank
        if record is None:
            return
        values = hash(self._schema.values(Level.STUDY, record.values))
        if study.patient.identity != identity_of(record):
            change.lost.add(study.patient)
            study.patient = self._patient_for(record)
        elif values == study.values:
            return
        row = self._schema.row(Level.STUDY, record.values)
        self._connection.execute(
            self._schema.update[Level.STUDY], (study.patient.id, study.directory, *row, study.id)
        )
        study.values = values

    def _write_patient(self, patient: _Patient, rank: Rank, record: Record | None) -> None:
        patient.latest = rank
        if record is None:
            return
        values = hash(self._schema.values(Level.PATIENT, record.values))
        if values != patient.values:
            row = self._schema.row(Level.PATIENT, record.values)
            self._connection.execute(self._schema.update[Level.PATIENT], (patient.identity, *row, patient.id))
            patient.values = values

    def _recover_series(self, series: _Series, change: _Change) -> None:
        rank = self._latest(
            'SELECT mtime_ns, "SOPInstanceUID" FROM instance WHERE series_id = ? '
            'ORDER BY mtime_ns DESC, "SOPInstanceUID" DESC LIMIT 1',
            series.id,
        )
        if rank == _NOTHING:
            self._connection.execute("DELETE FROM series WHERE id = ?", (series.id,))
            del self._series[series.study.directory, series.directory]
        else:
            self._write_series(series, rank, self._record(rank, change.chosen))

    def _recover_study(self, study: _Study, change: _Change) -> Record | None:
        rank = self._latest_of_study(study.id)
        if rank == _NOTHING:
            self._connection.execute("DELETE FROM study WHERE id = ?", (study.id,))
            del self._studies[study.directory]
            change.lost.add(study.patient)
            return None
        record = self._record(rank, change.chosen)
        self._write_study(study, rank, record, change)
        return record

    def _recover_patient(self, patient: _Patient, change: _Change) -> None:
        rank = self._latest_of_patient(patient.id)
        if rank == _NOTHING:
            self._connection.execute("DELETE FROM patient WHERE id = ?", (patient.id,))
            del self._patients[patient.identity]
        else:
            self._write_patient(patient, rank, self._record(rank, change.chosen))

    def _record(self, rank: Rank, chosen: Mapping[str, Record]) -> Record | None:
        """The record of an object that has a row; None if its file cannot be read."""
        _, sop_instance_uid = rank
        if sop_instance_uid in chosen:
            return chosen[sop_instance_uid]
        (stored,) = self._stored([sop_instance_uid])
        try:
            return self._files.record(*_place(stored))
        except UNREADABLE:
            return None

    def _latest(self, statement: str, container: int) -> Rank:
        row = self._connection.execute(statement, (container,)).fetchone()
        return _NOTHING if row is None else (row[0], row[1])

    def _latest_of_study(self, study: int) -> Rank:
        return self._latest(
            "SELECT latest_mtime_ns, latest_uid FROM series WHERE study_id = ? "
            "ORDER BY latest_mtime_ns DESC, latest_uid DESC LIMIT 1",
            study,
        )

    def _latest_of_patient(self, patient: int) -> Rank:
        return self._latest(
            "SELECT series.latest_mtime_ns, series.latest_uid FROM study "
            "JOIN series ON series.study_id = study.id WHERE study.patient_id = ? "
            "ORDER BY series.latest_mtime_ns DESC, series.latest_uid DESC LIMIT 1",
            patient,
        )

    # -- found, or made

    def _series_for(self, record: Record) -> _Series:
        series = self._load_series(record.study, record.series)
        if series is None:
            study = self._study_for(record)
            rank, values = _rank(record), self._schema.values(Level.SERIES, record.values)
            series = _Series(self._next_id(Level.SERIES), record.series, study, rank, hash(values))
            self._insert(Level.SERIES, (series.id, study.id, series.directory, *rank), record)
            self._series[record.study, record.series] = series
        return series

    def _study_for(self, record: Record) -> _Study:
        study = self._load_study(record.study)
        if study is None:
            patient = self._patient_for(record)
            rank, values = _rank(record), self._schema.values(Level.STUDY, record.values)
            study = _Study(self._next_id(Level.STUDY), record.study, patient, rank, hash(values))
            self._insert(Level.STUDY, (study.id, patient.id, study.directory), record)
            self._studies[record.study] = study
        return study

    def _patient_for(self, record: Record) -> _Patient:
        identity = identity_of(record)
        patient = self._load_patient(identity)
        if patient is None:
            rank, values = _rank(record), self._schema.values(Level.PATIENT, record.values)
            patient = _Patient(self._next_id(Level.PATIENT), identity, rank, hash(values))
            self._insert(Level.PATIENT, (patient.id, identity), record)
            self._patients[identity] = patient
        return patient

    def _insert(self, level: Level, fixed: tuple[int | str, ...], record: Record) -> None:
        row = self._schema.row(level, record.values)
        self._connection.execute(self._schema.insert[level], (*fixed, *row))

    def _load_series(self, study: str, series: str) -> _Series | None:
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
        known = _Series(row[0], series, parent, (row[1], row[2]), hash(row[3:]))
        self._series[study, series] = known
        return known

    def _load_study(self, directory: str) -> _Study | None:
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
        known = _Study(row[0], directory, patient, self._latest_of_study(row[0]), hash(row[2:]))
        self._studies[directory] = known
        return known

    def _load_patient(self, identity: str) -> _Patient | None:
        known = self._patients.get(identity)
        if known is not None:
            return known
        columns = ", ".join(self._schema.columns[Level.PATIENT])
        row = self._connection.execute(
            f"SELECT id, {columns} FROM patient WHERE identity = ?", (identity,)
        ).fetchone()
        if row is None:
            return None
        known = _Patient(row[0], identity, self._latest_of_patient(row[0]), hash(row[1:]))
        self._patients[identity] = known
        return known


class _Change:
    """What one transaction does to series, studies and patients."""

    def __init__(self, chosen: Mapping[str, Record]) -> None:
        #: What is entered, by SOP Instance UID.
        self.chosen = chosen
        #: The latest of them, of each series.
        self.best: dict[_Series, Record] = {}
        #: What no longer has, or may no longer have, the object that its attributes are from.
        self.lost: set[_Series | _Study | _Patient] = set()


def identity_of(record: Record) -> str:
    """What tells patients apart: ID and issuer. Without an ID, each study has a patient of its own."""
    patient_id = record.values.get("PatientID")
    if patient_id is None:
        return f"study {record.study}"
    # The length tells where the one ends and the other begins, whatever is in them.
    return f"{len(patient_id)} {patient_id} {record.values.get('IssuerOfPatientID', '')}"


def _place(each: Record | _Stored) -> tuple[str, str, str]:
    return each.study, each.series, each.sop_instance_uid


def _rank(each: Record | _Stored) -> Rank:
    return each.mtime_ns, each.sop_instance_uid
