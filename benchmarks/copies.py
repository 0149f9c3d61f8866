"""Archives that are larger than it takes to send: the studies that are there, over and over.

Each copy is of other patients, with UIDs of its own. Only the databases know of them: ours is told by its own
`Index.put`, Orthanc's by SQL in its own tables, every row of the patients, studies, series and instances.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from benchmarks.studies import Study
from dicomtw import uids
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.record import Record

#: Entered in one transaction.
_BATCH = 5000


def copied(made: Sequence[Study], copies: int) -> list[Study]:
    """The studies, and their copies behind them: `copies` of each in all."""
    return [*made, *(_copy(study, number) for number in range(1, copies) for study in made)]


def _copy(study: Study, number: int) -> Study:
    series = tuple(
        attrs.evolve(
            each, uid=f"{each.uid}.{number}", instances=tuple(f"{uid}.{number}" for uid in each.instances)
        )
        for each in study.series
    )
    patient = attrs.evolve(study.patient, identifier=f"{study.patient.identifier}-{number}")
    return attrs.evolve(study, uid=f"{study.uid}.{number}", patient=patient, series=series)


def into_ours(store: Path, studies: Sequence[Study]) -> None:
    """Enter studies into the index of a store, whose server does not run."""
    index = Index(store / INDEX / FILE_NAME, Attributes(), synchronous=False)
    if not index.open():
        raise RuntimeError(f"{store} has no index yet")
    batch: list[Record] = []
    for study in studies:
        batch += _records(study)
        if len(batch) >= _BATCH:
            index.put(batch)
            batch.clear()
    index.put(batch)
    index.close()


def _records(study: Study) -> Iterator[Record]:
    patient = study.patient
    of_study = {
        "PatientName": patient.name,
        "PatientID": patient.identifier,
        "PatientBirthDate": patient.birth_date,
        "PatientSex": patient.sex,
        "StudyInstanceUID": study.uid,
        "StudyDate": study.date,
        "StudyTime": study.time,
        "AccessionNumber": f"A{study.number:08}",
        "StudyID": str(study.number),
        "StudyDescription": study.description,
        "ReferringPhysicianName": study.physician,
        "Manufacturer": study.manufacturer,
    }
    for series in study.series:
        of_series = {
            **of_study,
            "SeriesInstanceUID": series.uid,
            "Modality": series.modality,
            "SeriesNumber": str(series.number),
            "SeriesDescription": series.description,
            "SeriesDate": study.date,
            "SeriesTime": study.time,
            "BodyPartExamined": series.body_part,
        }
        for number, uid in enumerate(series.instances, 1):
            yield Record(
                study.uid,
                series.uid,
                uid,
                series.sop_class_uid,
                uids.EXPLICIT_VR_LITTLE_ENDIAN,
                1,
                {**of_series, "InstanceNumber": str(number), "ImageType": "ORIGINAL\\PRIMARY\\AXIAL"},
            )


def into_orthanc(database: Path, copies: int) -> None:
    """Have `copies` of all that is in the database of an Orthanc 1.10 (its version 6) that does not run."""
    connection = sqlite3.connect(database)
    (offset,) = connection.execute("SELECT max(internalId) FROM Resources").fetchone()
    connection.execute("PRAGMA foreign_keys = OFF")
    for number in range(1, copies):
        parameters = {"offset": offset * number, "last": offset, "number": number}
        for statement in _STATEMENTS:
            connection.execute(statement, parameters)
    connection.commit()
    connection.close()


_VALUE = """
    CASE WHEN (tagGroup = 32 AND tagElement IN (13, 14)) OR (tagGroup = 8 AND tagElement = 24)
        THEN value || '.' || :number
        WHEN tagGroup = 16 AND tagElement = 32 THEN value || '-' || :number ELSE value END
"""
_STATEMENTS = (
    """
    INSERT INTO Resources
    SELECT internalId + :offset, resourceType, substr(publicId, 1, 41) || printf('%03x', :number),
        parentId + :offset
    FROM Resources WHERE internalId <= :last
    """,
    *(
        f"""
        INSERT INTO {table}
        SELECT id + :offset, tagGroup, tagElement, {_VALUE} FROM {table} WHERE id <= :last
        """
        for table in ("MainDicomTags", "DicomIdentifiers")
    ),
    "INSERT INTO Metadata SELECT id + :offset, type, value FROM Metadata WHERE id <= :last",
    """
    INSERT INTO AttachedFiles
    SELECT id + :offset, fileType, uuid, compressedSize, uncompressedSize, compressionType, uncompressedMD5,
        compressedMD5
    FROM AttachedFiles WHERE id <= :last
    """,
)
