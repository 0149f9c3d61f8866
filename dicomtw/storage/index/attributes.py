"""The attributes that queries can be about, by level (PS3.4 C.6.1.1, C.6.2.1), in one table.

Beside those that the standard lists are those that people expect to see. More can be had by keyword.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

import attrs

from dicomtw.encoding import dictionary
from dicomtw.encoding.dictionary import Attribute
from dicomtw.encoding.representations import BYTES


class Level(Enum):
    """Query/Retrieve Levels (PS3.4 C.6.1.1), from the top: the values of (0008,0052)."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


#: All levels from the top.
LEVELS: Final = tuple(Level)


class Kind(Enum):
    """What the standard says of a key: the letters of its tables (PS3.4 C.2.2.1)."""

    UNIQUE = "U"
    REQUIRED = "R"
    OPTIONAL = "O"


_TABLE: Final = {
    Level.PATIENT: """
        U PatientID
        R PatientName
        O IssuerOfPatientID  PatientBirthDate  PatientBirthTime  PatientSex  OtherPatientIDs
        O OtherPatientNames  EthnicGroup  PatientComments
        """,
    Level.STUDY: """
        U StudyInstanceUID
        R StudyDate  StudyTime  AccessionNumber  StudyID
        O StudyDescription  ReferringPhysicianName  NameOfPhysiciansReadingStudy  PhysiciansOfRecord
        O AdmittingDiagnosesDescription  PatientAge  PatientSize  PatientWeight  Occupation
        O AdditionalPatientHistory  ProcedureCodeSequence  RequestingPhysician  RequestingService
        O RequestedProcedureDescription
        """,
    Level.SERIES: """
        U SeriesInstanceUID
        R Modality  SeriesNumber
        O SeriesDescription  SeriesDate  SeriesTime  BodyPartExamined  Laterality  ProtocolName
        O PatientPosition  InstitutionName  InstitutionalDepartmentName  StationName  Manufacturer
        O ManufacturerModelName
        O PerformingPhysicianName  OperatorsName  FrameOfReferenceUID
        O PerformedProcedureStepStartDate  PerformedProcedureStepStartTime  PerformedProcedureStepID
        O PerformedProcedureStepDescription  RequestAttributesSequence
        """,
    Level.IMAGE: """
        U SOPInstanceUID
        R InstanceNumber
        O SOPClassUID  TransferSyntaxUID  ContentDate  ContentTime  AcquisitionDate  AcquisitionTime
        O AcquisitionDateTime  AcquisitionNumber  InstanceCreationDate  InstanceCreationTime  ImageType
        O ImageComments  PhotometricInterpretation  NumberOfFrames  Rows  Columns  BitsAllocated
        O ContentLabel  ContentDescription  DocumentTitle  CompletionFlag  VerificationFlag
        O ConceptNameCodeSequence
        """,
}

#: What is not in the objects but follows from what is stored (PS3.4 C.3.4).
_COMPUTED: Final = {
    Level.PATIENT: """
        NumberOfPatientRelatedStudies  NumberOfPatientRelatedSeries  NumberOfPatientRelatedInstances
        """,
    Level.STUDY: """
        ModalitiesInStudy  SOPClassesInStudy  NumberOfStudyRelatedSeries  NumberOfStudyRelatedInstances
        """,
    Level.SERIES: "NumberOfSeriesRelatedInstances",
    Level.IMAGE: "AvailableTransferSyntaxUID",
}

#: The attribute that names an entity of a level (PS3.4 C.2.2.1.1).
UNIQUE_KEYS: Final = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}

#: Columns of the instance table that are there whatever is configured, for the store itself needs them.
NAMING: Final = ("SOPInstanceUID", "SOPClassUID", "TransferSyntaxUID")

_SPECIFIC_CHARACTER_SET = 0x00080005
_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_PIXEL_DATA = 0x7FE00000


@attrs.frozen
class Indexed:
    """An attribute that queries can be about."""

    attribute: Attribute
    level: Level
    kind: Kind = Kind.OPTIONAL
    #: Not in the objects: it follows from what is stored.
    is_computed: bool = False


class Attributes:
    """All attributes that an index has: those of the table, and `extra` ones.

    An extra one is a keyword of PS3.6, or level and keyword with a colon between them ("SERIES:Keyword");
    without a level it is one of instances. Raises `ValueError` for those that cannot be had, saying why.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._by_tag: dict[int, Indexed] = {}
        for level in LEVELS:
            for line in _TABLE[level].strip().splitlines():
                kind, *keywords = line.split()
                for keyword in keywords:
                    self._add(Indexed(_registered(keyword), level, Kind(kind)))
            for keyword in _COMPUTED[level].split():
                self._add(Indexed(_registered(keyword), level, is_computed=True))
        for name in extra:
            self._extend(name)
        #: Attributes with a column of their own, of each level in tag order.
        self.stored: dict[Level, tuple[Attribute, ...]] = {
            level: tuple(
                each.attribute
                for _, each in sorted(self._by_tag.items())
                if each.level is level and not each.is_computed
            )
            for level in LEVELS
        }
        #: Top-level tags that are wanted of a data set to make a `Record` of it.
        self.tags: frozenset[int] = frozenset(
            {_SPECIFIC_CHARACTER_SET, _SOP_CLASS_UID, _SOP_INSTANCE_UID}
        ) | {
            attribute.tag
            for attributes in self.stored.values()
            for attribute in attributes
            if attribute.tag >> 16 != 0x0002
        }

    def get(self, tag: int) -> Indexed | None:
        """What is indexed under this tag; None if nothing is."""
        return self._by_tag.get(tag)

    def _add(self, indexed: Indexed) -> None:
        self._by_tag[indexed.attribute.tag] = indexed

    def _extend(self, name: str) -> None:
        prefix, _, keyword = name.strip().rpartition(":")
        level = Level.IMAGE
        if prefix:
            try:
                level = Level(prefix.strip().upper())
            except ValueError:
                raise ValueError(
                    f"{name!r}: a level is one of {', '.join(each.value for each in LEVELS)}"
                ) from None
        attribute = _registered(keyword.strip())
        known = self._by_tag.get(attribute.tag)
        if known is not None:
            if prefix and known.level is not level:
                raise ValueError(f"{name!r}: {attribute.keyword} is an attribute of {known.level.value}")
            return
        if attribute.tag >> 16 <= 0x0002 or attribute.tag >= _PIXEL_DATA:
            raise ValueError(f"{name!r}: only what stands between group 0002 and the pixel data is indexed")
        if attribute.vr in BYTES:  # which nobody queries
            raise ValueError(f"{name!r}: {attribute.vr} values are not indexed")
        self._add(Indexed(attribute, level))


def _registered(keyword: str) -> Attribute:
    attribute = dictionary.by_keyword(keyword)
    if attribute is None:
        near = dictionary.near(keyword)
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"{keyword!r} is no keyword of the data dictionary{hint}")
    return attribute
