"""Targets around the index: identifiers, keys, and what is kept of objects."""

from __future__ import annotations

import atexit
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import attrs

from dicomtw import uids
from dicomtw.dimse import status
from dicomtw.encoding import data_set
from dicomtw.encoding.dictionary import Attribute
from dicomtw.errors import DimseError, UnreadableDataSet
from dicomtw.services import Operation
from dicomtw.services.identifier import MODELS, QUERY_RETRIEVE_LEVEL, Answers, Identifier
from dicomtw.storage import header
from dicomtw.storage.index.attributes import LEVELS, Attributes, Level
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.matching import matching_of
from dicomtw.storage.index.query import Model, Query
from dicomtw.storage.index.record import MAXIMUM_SEQUENCE, Record, items_of, record_of
from dicomtw.ul.negotiation import AcceptedContext
from fuzz.parsers import SYNTAXES, syntax_of

_CT = "1.2.840.10008.5.1.4.1.1.2"
#: Characters of a key that is fuzzed.
_LONGEST: Final = 70_000
_FIND: Final = [uid for uid in MODELS if uid.endswith(".1")]
#: Besides the usual ones, for binary numbers of each kind.
EXTRA: Final = (
    "ExposureTimeInms",  # FD
    "RecommendedDisplayFrameRateInFloat",  # FL
    "SmallestImagePixelValue",  # US or SS
    "ReferencePixelX0",  # SL
    "FrameIncrementPointer",  # AT
    "SERIES:RequestedProcedureCodeSequence",
)

#: What the objects of `archive` say beside their UIDs. Texts of all kinds, some of them wrong for their VR.
_OBJECTS: Final[list[dict[str, str]]] = [
    {
        "PatientName": "Doe^John",
        "PatientID": "1CT1",
        "PatientBirthDate": "19700102",
        "StudyDate": "20200131",
        "StudyTime": "235959.5",
        "Modality": "CT",
        "OtherPatientIDs": "A\\B%\\c_",
        "OperatorsName": "One^A\\Two^B=\u4e8c",
        "ImageType": "ORIGINAL\\PRIMARY",
        "PatientWeight": "70.5",
        "Rows": "512",
        "AcquisitionDateTime": "20200131235959.25+0100",
    },
    {
        "PatientName": "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
        "PatientID": "1ct1",
        "StudyDate": "2020013",
        "StudyTime": "10",
        "SeriesNumber": "x1",
        "PatientComments": "back\\slash * and !_%",
        "AcquisitionDateTime": "2020",
        "RequestAttributesSequence": (
            '[{"00400009":"SPS1","00400008":[{"00080100":"C1"}]},{"00400009":"a\\\\b"}]'
        ),
    },
    {
        "PatientName": "M\u00fcller^\u00c4nne",
        "StudyTime": "1030",
        "Modality": "MR",
        "PatientWeight": "7.05E1",
    },
    {"PatientName": "doe", "StudyDate": "19991231", "PatientSex": "O", "InstanceNumber": "-7"},
    {},
]


@cache
def _directory() -> Path:
    """Gone when the process ends."""
    directory = tempfile.TemporaryDirectory(prefix="fuzz-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


@cache
def attributes() -> Attributes:
    return Attributes(EXTRA)


@cache
def matched() -> list[Attribute]:
    """The attributes that text is matched with, in tag order."""
    indexed = (attributes().get(tag) for tag in sorted(attributes().tags))
    return [each.attribute for each in indexed if each is not None and each.attribute.vr != "SQ"]


def _index(name: str) -> Index:
    index = Index(_directory() / name / INDEX / FILE_NAME, attributes(), synchronous=False)
    index.open()
    atexit.register(index.close)
    return index


@cache
def archive() -> Index:
    """A small index, always the same."""
    index = _index("archive")
    index.put([_record(number, values) for number, values in enumerate(_OBJECTS, 1)])
    return index


@cache
def scratch() -> Index:
    """An index that one object is put into, again and again."""
    return _index("scratch")


def _record(number: int, values: dict[str, str]) -> Record:
    study, series, instance = f"1.{number}", f"1.{number}.1", f"1.{number}.1.1"
    named = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
    syntax = uids.EXPLICIT_VR_LITTLE_ENDIAN
    return Record(
        study, series, instance, _CT, syntax, number, {"PatientID": f"P{number}", **named, **values}
    )


def _operation(context: AcceptedContext, encoded: bytes) -> Operation:
    """What an identifier reads of one."""
    return cast(Operation, SimpleNamespace(context=context, data_set=encoded))


def identifier(data: bytes) -> None:
    """PS3.4 C.4.1: an identifier is refused with A900H, or found, and answered by what can be decoded.

    The first byte says in which model and syntax it comes, and what was negotiated.
    """
    flags = data[0]
    transfer_syntax = SYNTAXES[flags & 3]
    context = AcceptedContext(1, _FIND[(flags >> 2) % len(_FIND)], transfer_syntax)
    index = archive()
    try:
        asked = Identifier(_operation(context, data[1:]))
        query = asked.query(index.attributes, relational=bool(flags & 16), combined_datetime=bool(flags & 32))
    except DimseError as error:
        assert error.status == status.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, error
        assert error.comment.isprintable()
        return
    answers = Answers(asked, query, "PMOD")
    rows = index.find(query).fetch(100)
    assert len(rows) <= len(_OBJECTS)
    index.instance(index.find(query).instances())
    for row in rows:
        answer = data_set.decode(answers.encode(row), transfer_syntax)
        assert QUERY_RETRIEVE_LEVEL in answer
        assert {attribute.tag for attribute in query.columns} <= answer.keys()
        assert not answer.keys() & set(query.unsupported)


def matching(data: bytes) -> None:
    """PS3.4 C.2.2.2: SQL finds what the test in Python finds, of every attribute and whatever the key.

    The first byte chooses the attribute; the second says how often the key is doubled, for bounds are wide.
    """
    index = archive()
    attribute = matched()[data[0] % len(matched())]
    key = (data[2:].decode("utf-8", "replace") * (1 << (data[1:2] or b"\0")[0] % 16))[:_LONGEST]
    try:
        query = _query(Level.IMAGE, {attribute.tag: key})
    except DimseError as error:
        assert error.status == status.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS
        return
    found = sorted(index.find(query).fetch(100), key=repr)
    matching = matching_of(attribute, key)
    everything = index.find(_query(Level.IMAGE, {attribute.tag: ""})).fetch(100)
    expected = sorted((row for row in everything if matching is None or matching.matches(row[0])), key=repr)
    assert found == expected, (attribute.keyword, key, found, expected)


def _query(level: Level, keys: dict[int, Any]) -> Query:
    return Query.of(level, keys, attributes(), model=Model.PATIENT_ROOT, relational=True)


def record(data: bytes) -> None:
    """Of any object the index keeps what it can: what is kept is found again, and can be answered.

    The first byte is the transfer syntax.
    """
    transfer_syntax, encoded = syntax_of(data[0]), data[1:]
    try:
        found = header.find_naming_elements(
            lambda offset, length: encoded[offset : offset + length],
            transfer_syntax,
            attributes().tags,
            encoded[: data[0] * 8],
            len(encoded),
        )
    except UnreadableDataSet:
        return
    kept = record_of(
        found,
        transfer_syntax,
        study="1",
        series="1.1",
        sop_instance_uid="1.1.1",
        mtime_ns=1,
        attributes=attributes(),
    )
    for keyword, text in kept.values.items():
        assert text and "\0" not in text and len(text) <= MAXIMUM_SEQUENCE, keyword
        text.encode("utf-8")
        if keyword.endswith("Sequence"):
            assert items_of(text)
    values = {**kept.values, "SOPInstanceUID": "1.1.1"}
    index = scratch()
    index.put([attrs.evolve(kept, values=values)])
    keys: dict[int, Any] = dict.fromkeys(sorted(index.attributes.tags), "")
    for tag in keys:
        indexed = index.attributes.get(tag)
        if indexed is not None and indexed.attribute.vr == "SQ":
            keys[tag] = ()
    query = _query(Level.IMAGE, keys)
    (row,) = index.find(query).fetch(2)
    context = AcceptedContext(1, uids.PATIENT_ROOT_FIND, SYNTAXES[data[0] % 3])
    level = data_set.Element(QUERY_RETRIEVE_LEVEL, "CS", LEVELS[-1].value.encode())
    asked = Identifier(_operation(context, data_set.encode([level], context.transfer_syntax)))
    asked.keys.update(keys)
    answer = data_set.decode(Answers(asked, query, "PMOD").encode(row), context.transfer_syntax)
    assert {attribute.tag for attribute in query.columns} <= answer.keys()
