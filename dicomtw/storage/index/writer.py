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
from dicomtw.storage.index.containers import NOTHING, Containers, Patient, Rank, Series, Study, rank_of
from dicomtw.storage.index.files import UNREADABLE, Files
from dicomtw.storage.index.record import Record
from dicomtw.storage.index.schema import Row, Schema

#: Objects looked up at a time.
_CHUNK: Final = 500


@attrs.frozen
class _Stored:
    """An object that has a row."""

    id: int
    study: str
    series: str
    sop_instance_uid: str
    mtime_ns: int


class Writer:
    """Changes the rows, by a connection on which the caller has begun a transaction.

    `first_id` is the lowest that new rows get.
    """

    def __init__(
        self, connection: sqlite3.Connection, schema: Schema, files: Files, first_id: int = 0
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._files = files
        self._containers = Containers(connection, schema, first_id)

    def begin(self) -> bool:
        """To be called when a transaction has begun; whether others may have changed the rows meanwhile."""
        return self._containers.begin()

    def forget(self) -> None:
        """Forget what is remembered of rows: the transaction is rolled back."""
        self._containers.forget()

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
            best = max(group, key=rank_of)
            series = self._containers.series_for(best)
            change.best[series] = best
            for record in group:
                row = (series.id, record.mtime_ns, *self._instance_row(record))
                if record.sop_instance_uid in ids:
                    updated.append((*row, ids[record.sop_instance_uid]))
                else:
                    inserted.append((self._containers.next_id(Level.IMAGE), *row))
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

    def _leave(self, stored: _Stored, change: _Change) -> None:
        """Note what loses its latest object when this one goes, or becomes another."""
        series = self._containers.load_series(stored.study, stored.series)
        assert series is not None
        rank = (stored.mtime_ns, stored.sop_instance_uid)
        for container in (series, series.study, series.study.patient):
            if container.latest == rank:
                change.lost.add(container)

    # -- series, studies and patients

    def _settle(self, change: _Change) -> None:
        """Give series, studies and patients the attributes of their latest objects; remove the empty ones."""
        best_of_studies: dict[Study, Record] = {}
        studies = {series.study for series in change.lost if isinstance(series, Series)}
        for series, best in change.best.items():
            study = series.study
            if study not in best_of_studies or rank_of(best) > rank_of(best_of_studies[study]):
                best_of_studies[study] = best
            if rank_of(best) >= series.latest:
                change.lost.discard(series)
                self._containers.write_series(series, rank_of(best), best)
        for series in [each for each in change.lost if isinstance(each, Series)]:
            self._recover_series(series, change)
        best_of_patients: dict[Patient, Record] = {}
        for study in studies | set(best_of_studies):
            best_of_study = best_of_studies.get(study)
            if best_of_study is None or rank_of(best_of_study) < study.latest:
                best_of_study = self._recover_study(study, change) if study in change.lost else None
            else:
                self._write_study(study, rank_of(best_of_study), best_of_study, change)
            if best_of_study is not None:
                other = best_of_patients.get(study.patient)
                if other is None or rank_of(best_of_study) > rank_of(other):
                    best_of_patients[study.patient] = best_of_study
        patients = {each for each in change.lost if isinstance(each, Patient)}
        for patient in patients | set(best_of_patients):
            best_of_patient = best_of_patients.get(patient)
            if best_of_patient is not None and rank_of(best_of_patient) >= patient.latest:
                self._containers.write_patient(patient, rank_of(best_of_patient), best_of_patient)
            elif patient in patients:
                self._recover_patient(patient, change)

    def _write_study(self, study: Study, rank: Rank, record: Record | None, change: _Change) -> None:
        left = self._containers.write_study(study, rank, record)
        if left is not None:
            change.lost.add(left)

    def _recover_series(self, series: Series, change: _Change) -> None:
        rank = self._containers.latest_of_series(series.id)
        if rank == NOTHING:
            self._containers.remove(series)
        else:
            self._containers.write_series(series, rank, self._record(rank, change.chosen))

    def _recover_study(self, study: Study, change: _Change) -> Record | None:
        rank = self._containers.latest_of_study(study.id)
        if rank == NOTHING:
            self._containers.remove(study)
            change.lost.add(study.patient)
            return None
        record = self._record(rank, change.chosen)
        self._write_study(study, rank, record, change)
        return record

    def _recover_patient(self, patient: Patient, change: _Change) -> None:
        rank = self._containers.latest_of_patient(patient.id)
        if rank == NOTHING:
            self._containers.remove(patient)
        else:
            self._containers.write_patient(patient, rank, self._record(rank, change.chosen))

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


class _Change:
    """What one transaction does to series, studies and patients."""

    def __init__(self, chosen: Mapping[str, Record]) -> None:
        #: What is entered, by SOP Instance UID.
        self.chosen = chosen
        #: The latest of them, of each series.
        self.best: dict[Series, Record] = {}
        #: What no longer has, or may no longer have, the object that its attributes are from.
        self.lost: set[Series | Study | Patient] = set()


def _place(each: Record | _Stored) -> tuple[str, str, str]:
    return each.study, each.series, each.sop_instance_uid
