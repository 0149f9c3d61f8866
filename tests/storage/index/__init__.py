"""What the tests of the index share: records put together by hand, and files that are none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from dicomtw.encoding import dictionary
from dicomtw.storage.index.attributes import Attributes, Level
from dicomtw.storage.index.database import Index
from dicomtw.storage.index.files import Files
from dicomtw.storage.index.matching import KeyValue
from dicomtw.storage.index.query import Model, Query
from dicomtw.storage.index.record import Record
from dicomtw.storage.index.schema import TABLES, Schema

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SR = "1.2.840.10008.5.1.4.1.1.88.11"
EXPLICIT = "1.2.840.10008.1.2.1"

ATTRIBUTES = Attributes()


def record(
    uid: str,
    study: str = "1.2.10",
    series: str = "1.2.20",
    *,
    mtime: int = 1,
    sop_class_uid: str = CT,
    syntax: str = EXPLICIT,
    **values: str,
) -> Record:
    """A record; unless `values` say otherwise, its UIDs are its directories' names, its patient is "P"."""
    defaults = {
        "PatientID": "P",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "SOPInstanceUID": uid,
        "SOPClassUID": sop_class_uid,
    }
    kept = {keyword: value for keyword, value in (defaults | values).items() if value}
    return Record(study, series, uid, sop_class_uid, syntax, mtime, kept)


class MemoryFiles(Files):
    """Files that are records, by their places."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records: dict[tuple[str, str, str], Record] = {}
        for each in records:
            self.add(each)

    def add(self, each: Record) -> None:
        self.records[each.study, each.series, each.sop_instance_uid] = each

    def mtime_ns(self, study: str, series: str, sop_instance_uid: str) -> int | None:
        found = self.records.get((study, series, sop_instance_uid))
        return None if found is None else found.mtime_ns

    def record(self, study: str, series: str, sop_instance_uid: str) -> Record:
        try:
            return self.records[study, series, sop_instance_uid]
        except KeyError:
            raise FileNotFoundError from None


def tag(keyword: str) -> int:
    attribute = dictionary.by_keyword(keyword)
    assert attribute is not None, keyword
    return attribute.tag


def query(
    level: str,
    model: Model = Model.PATIENT_ROOT,
    *,
    relational: bool = True,
    combined_datetime: bool = False,
    attributes: Attributes = ATTRIBUTES,
    **keys: KeyValue,
) -> Query:
    """A query with keys by keyword."""
    return Query.of(
        Level(level),
        {tag(keyword): value for keyword, value in keys.items()},
        attributes,
        model=model,
        relational=relational,
        combined_datetime=combined_datetime,
    )


def results(index: Index, asked: Query) -> list[dict[str, str | None]]:
    """All that a query finds, each by keyword."""
    keywords = [column.keyword for column in asked.columns]
    cursor = index.find(asked)
    rows = []
    while some := cursor.fetch(7):
        rows += [dict(zip(keywords, row, strict=True)) for row in some]
    return rows


def found(index: Index, level: str, of: str, **keys: KeyValue) -> list[str | None]:
    """The values of the attribute `of` that a relational query finds, sorted."""
    rows = results(index, query(level, **{of: ""} | keys))  # type: ignore[arg-type]
    return sorted((row[of] for row in rows), key=str)


def dump(connection: sqlite3.Connection, schema: Schema) -> dict[str, list[Mapping[str, object]]]:
    """All rows by table, what they say and not which ids they have: those are exchanged for names."""
    names = {
        "patient_id": "SELECT id, identity FROM patient",
        "study_id": "SELECT id, directory FROM study",
        "series_id": "SELECT series.id, study.directory || ' ' || series.directory "
        "FROM series JOIN study ON study.id = series.study_id",
    }
    by_id = {column: dict(connection.execute(statement)) for column, statement in names.items()}
    everything: dict[str, list[dict[str, object]]] = {}
    for table in TABLES.values():
        cursor = connection.execute(f"SELECT * FROM {table}")
        columns = [description[0] for description in cursor.description]
        rows = []
        for row in cursor:
            values = dict(zip(columns, row, strict=True))
            del values["id"]
            for column, named in by_id.items():
                if column in values:
                    values[column] = named[values[column]]
            rows.append({column: value for column, value in values.items() if value is not None})
        everything[table] = rows
    return sorted_rows(everything)


def sorted_rows(everything: Mapping[str, list[dict[str, object]]]) -> dict[str, list[Mapping[str, object]]]:
    """The same rows in an order of their own."""
    return {
        table: sorted(rows, key=lambda values: sorted(map(str, values.items())))
        for table, rows in everything.items()
    }


def dump_file(path: Path, attributes: Attributes = ATTRIBUTES) -> dict[str, list[Mapping[str, object]]]:
    """`dump` of a database that nobody writes meanwhile."""
    connection = sqlite3.connect(path)
    try:
        return dump(connection, Schema(attributes))
    finally:
        connection.close()
