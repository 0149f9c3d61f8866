"""The layout of the database: a table for each level, made from the attributes that are indexed.

The statements are in the subset of SQL that SQLite and PostgreSQL have in common.
"""

# Statements are put together from names of tables and columns; what comes from a peer is always a parameter.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from dicomtw.encoding.dictionary import Attribute
from dicomtw.storage.index.attributes import LEVELS, NAMING, Attributes, Level
from dicomtw.storage.index.keys import SUFFIXES, keys_of

#: Counts the changes of what the tables hold. An index of another version is made anew from the files.
VERSION: Final = 1

TABLES: Final = {
    Level.PATIENT: "patient",
    Level.STUDY: "study",
    Level.SERIES: "series",
    Level.IMAGE: "instance",
}
#: The column that leads to the level above.
PARENTS: Final = {Level.STUDY: "patient_id", Level.SERIES: "study_id", Level.IMAGE: "series_id"}

_ID: Final = {"id": "INTEGER PRIMARY KEY"}
#: Columns besides the attributes, and what they are.
_FIXED: Final = {
    # What makes it this patient and no other: Patient ID and issuer, or else the study.
    Level.PATIENT: _ID | {"identity": "TEXT NOT NULL UNIQUE"},
    Level.STUDY: _ID
    | {
        "patient_id": "INTEGER NOT NULL REFERENCES patient (id)",
        "directory": "TEXT NOT NULL UNIQUE",
    },
    # latest_...: the object that the attributes are from.
    Level.SERIES: _ID
    | {
        "study_id": "INTEGER NOT NULL REFERENCES study (id)",
        "directory": "TEXT NOT NULL",
        "latest_mtime_ns": "BIGINT NOT NULL",
        "latest_uid": "TEXT NOT NULL",
    },
    Level.IMAGE: _ID
    | {
        "series_id": "INTEGER NOT NULL REFERENCES series (id)",
        "mtime_ns": "BIGINT NOT NULL",
    },
}

#: Indexes: level, whether unique, columns.
_INDEXES: Final = (
    (Level.PATIENT, False, ('"PatientID"',)),
    (Level.PATIENT, False, ('"PatientName_1"',)),
    (Level.PATIENT, False, ('"PatientName_2"',)),
    (Level.PATIENT, False, ('"PatientName_3"',)),
    (Level.STUDY, False, ("patient_id",)),
    (Level.STUDY, False, ('"StudyInstanceUID"',)),
    (Level.STUDY, False, ('"StudyDate_key"',)),
    (Level.STUDY, False, ('"AccessionNumber"',)),
    (Level.STUDY, False, ('"StudyID"',)),
    (Level.SERIES, True, ("study_id", "directory")),
    (Level.SERIES, False, ('"SeriesInstanceUID"',)),
    # Not by modality alone, which tells little: SQLite would prefer it to the study.
    (Level.SERIES, False, ("study_id", '"Modality"')),
    (Level.IMAGE, True, ('"SOPInstanceUID"',)),
    (Level.IMAGE, False, ("series_id", '"SOPClassUID"')),
)

#: Values of a row's columns, in their order.
Row = tuple[str | None, ...]


class Schema:
    """Tables and columns for `attributes`."""

    def __init__(self, attributes: Attributes) -> None:
        stored = attributes.stored
        self._keywords = {level: tuple(each.keyword for each in stored[level]) for level in LEVELS}
        self._compared = {
            level: tuple(
                (each.keyword, each.vr, (None,) * len(suffixes_of(each)))
                for each in stored[level]
                if suffixes_of(each)
            )
            for level in LEVELS
        }
        #: Columns of the attributes of each level, quoted.
        self.columns: dict[Level, tuple[str, ...]] = {
            level: tuple(quoted(each) for each in stored[level]) for level in LEVELS
        }
        #: All columns for the attributes: behind those, the ones with the forms they are compared in.
        self.all_columns: dict[Level, tuple[str, ...]] = {
            level: (
                *self.columns[level],
                *(quoted(each, suffix) for each in stored[level] for suffix in suffixes_of(each)),
            )
            for level in LEVELS
        }
        #: The statements that make tables and indexes.
        self.statements: tuple[str, ...] = (
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
            *(self._table(level) for level in LEVELS),
            *(
                f"CREATE {'UNIQUE ' * unique}INDEX {TABLES[level]}_{number} "
                f"ON {TABLES[level]} ({', '.join(columns)})"
                for number, (level, unique, columns) in enumerate(_INDEXES)
            ),
        )
        #: Statements that insert a row: id, what leads to the level above, what else is no attribute, `row`.
        self.insert = {level: self._insert(level) for level in LEVELS}
        #: Statements that change all of a row: as for `insert`, with the id at the end.
        self.update = {level: self._update(level) for level in LEVELS}
        #: Differs if anything in the layout does.
        self.fingerprint = sha256(f"{VERSION} {self.statements}".encode()).hexdigest()

    def _table(self, level: Level) -> str:
        not_null = {f'"{keyword}"' for keyword in NAMING}
        columns = [
            *(f"{column} {declaration}" for column, declaration in _FIXED[level].items()),
            *(f"{column} TEXT{' NOT NULL' * (column in not_null)}" for column in self.all_columns[level]),
        ]
        return f"CREATE TABLE {TABLES[level]} ({', '.join(columns)})"

    def _insert(self, level: Level) -> str:
        columns = [*_FIXED[level], *self.all_columns[level]]
        marks = ", ".join("?" * len(columns))
        return f"INSERT INTO {TABLES[level]} ({', '.join(columns)}) VALUES ({marks})"

    def _update(self, level: Level) -> str:
        columns = [*_FIXED[level], *self.all_columns[level]][1:]
        settings = ", ".join(f"{column} = ?" for column in columns)
        return f"UPDATE {TABLES[level]} SET {settings} WHERE id = ?"

    def values(self, level: Level, values: Mapping[str, str]) -> Row:
        """What goes to the columns of the attributes themselves, in their order."""
        return tuple(map(values.get, self._keywords[level]))

    def row(self, level: Level, values: Mapping[str, str]) -> Row:
        """What goes to all columns for attributes, in their order."""
        row: list[str | None] = list(map(values.get, self._keywords[level]))
        for keyword, vr, nothing in self._compared[level]:
            value = values.get(keyword)
            row.extend(nothing if value is None else keys_of(vr, value))
        return tuple(row)


def quoted(attribute: Attribute, suffix: str = "") -> str:
    """The name of a column in SQL."""
    return f'"{attribute.keyword}{suffix}"'


def suffixes_of(attribute: Attribute) -> tuple[str, ...]:
    """Suffixes of the columns beside an attribute's own; there are none for what may have several values."""
    return SUFFIXES.get(attribute.vr, ()) if attribute.vm == "1" else ()
