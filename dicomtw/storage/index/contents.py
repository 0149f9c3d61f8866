"""What a selection of instances is about: of what kinds they are, of which studies, and whose these are.

All of it is part of the query that has selected them, with its limits. Raises as `Cursor.fetch`.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from dicomtw.storage.content import Content
from dicomtw.storage.index.cursor import Cursor

_KINDS: Final = (
    'SELECT instance.id, series.study_id, instance."SOPClassUID", instance."TransferSyntaxUID" '
    "FROM instance JOIN series ON series.id = instance.series_id WHERE instance.id IN ({})"
)
_STUDIES: Final = (
    'SELECT study.id, study.directory, study."StudyInstanceUID", study."AccessionNumber", '
    'patient."PatientID", patient."PatientName" FROM study JOIN patient ON patient.id = study.patient_id '
    "WHERE study.id IN ({})"
)


def kinds_of(cursor: Cursor, ids: array[int]) -> Iterator[tuple[int, int, str, str]]:
    """Of the instances with these ids, in their order: id, id of the study, SOP class, transfer syntax.

    Those that are gone are left out.
    """
    return cursor.look_up(_KINDS, ids)


def contents_of(cursor: Cursor, counts: Mapping[tuple[int, str], int]) -> list[Content]:
    """What is known of so many instances by id of their study and SOP class; not of studies that are gone."""
    classes: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for (study, sop_class_uid), count in counts.items():
        classes[study].append((sop_class_uid, count))
    return [
        Content(directory, uid, accession or "", patient or "", name or "", sop_class_uid, count)
        for study, directory, uid, accession, patient, name in cursor.look_up(_STUDIES, array("q", classes))
        for sop_class_uid, count in classes[study]
    ]
