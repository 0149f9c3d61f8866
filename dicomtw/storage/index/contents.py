"""What a selection of instances is about: whose they are, of which studies, and how many of what kind."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Final

from dicomtw.storage.content import Content
from dicomtw.storage.index.cursor import CHUNK, Readers

_ABOUT: Final = (
    'SELECT study.directory, study."StudyInstanceUID", study."AccessionNumber", patient."PatientID", '
    'patient."PatientName", instance."SOPClassUID", count(*) FROM instance '
    "JOIN series ON series.id = instance.series_id JOIN study ON study.id = series.study_id "
    "JOIN patient ON patient.id = study.patient_id WHERE instance.id IN ({}) GROUP BY 1, 2, 3, 4, 5, 6"
)


def contents_of(readers: Readers, ids: array[int]) -> list[Content]:
    """What the instances with these ids are; those that are gone are left out. Raises `IndexFault`."""
    counts: Counter[tuple[str, str, str, str, str, str]] = Counter()
    with readers.reading() as connection:
        for at in range(0, len(ids), CHUNK):
            chunk = ids[at : at + CHUNK]
            statement = _ABOUT.format(", ".join("?" * len(chunk)))
            for directory, study, accession, patient, name, sop_class, count in connection.execute(
                statement, chunk
            ):
                counts[directory, study, accession or "", patient or "", name or "", sop_class] += count
    return [Content(*about, count) for about, count in counts.items()]
