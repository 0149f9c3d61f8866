"""The identifier of a query (PS3.4 C.4.1.1.3) as a command line has it: ``-L STUDY -k PatientName=DOE*``."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import attrs

from dicomtw import uids
from dicomtw.command.exits import Fault
from dicomtw.encoding import character_sets, dictionary
from dicomtw.encoding.dictionary import Attribute
from dicomtw.storage.index.attributes import UNIQUE_KEYS, Level
from dicomtw.storage.index.query import Model

#: The SOP classes of each information model: to find, to move and to get.
SOP_CLASSES = {
    "patient": (uids.PATIENT_ROOT_FIND, uids.PATIENT_ROOT_MOVE, uids.PATIENT_ROOT_GET),
    "study": (uids.STUDY_ROOT_FIND, uids.STUDY_ROOT_MOVE, uids.STUDY_ROOT_GET),
    "patient-study": (
        uids.PATIENT_STUDY_ONLY_FIND,
        uids.PATIENT_STUDY_ONLY_MOVE,
        uids.PATIENT_STUDY_ONLY_GET,
    ),
}

#: The unique key of each level (PS3.4 C.6.1.1), and the information models, by their words.
UNIQUE = {level.value: keyword for level, keyword in UNIQUE_KEYS.items()}
_MODELS = {
    "patient": Model.PATIENT_ROOT,
    "study": Model.STUDY_ROOT,
    "patient-study": Model.PATIENT_STUDY_ONLY,
}

#: What is asked for where nothing is.
USUAL = {
    "PATIENT": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    "STUDY": (
        *("PatientID", "PatientName", "StudyDate", "StudyTime", "ModalitiesInStudy", "StudyDescription"),
        *("AccessionNumber", "NumberOfStudyRelatedInstances", "StudyInstanceUID"),
    ),
    "SERIES": (
        *("Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances"),
        "SeriesInstanceUID",
    ),
    "IMAGE": ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
}

_TAG = re.compile(r"\(?([0-9a-fA-F]{4}),?([0-9a-fA-F]{4})\)?")
_CHARACTER_SET = 0x00080005
_INTEGERS = ("US", "SS", "UL", "SL", "UV", "SV")
_BINARY = ("OB", "OD", "OF", "OL", "OV", "OW", "UN", "AT")


@attrs.frozen
class Key:
    """One -k: an attribute, perhaps in sequences, and the value that it is to match; None to ask for it."""

    path: tuple[Attribute, ...]
    value: str | None

    @property
    def column(self) -> str:
        """The keyword of what a query for it is about at the top level; the tag where it has none."""
        return name_of(self.path[0])


@attrs.frozen
class Question:
    """What a command line asks: model, level, keys."""

    model: str
    level: str
    keys: tuple[Key, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Keywords of the keys in their order, each once."""
        return tuple(dict.fromkeys(key.column for key in self.keys))

    def with_usual_keys(self) -> Question:
        """The same; if it asks for nothing but what it matches, for what people want to see as well."""
        if any(key.value is None for key in self.keys):
            return self
        given = {key.path for key in self.keys}
        usual = [key_of(keyword) for keyword in USUAL[self.level]]
        return attrs.evolve(self, keys=(*self.keys, *(key for key in usual if key.path not in given)))

    def selecting(self) -> Question:
        """The same, if it says what to retrieve (PS3.4 C.4.2.1.4.1); else raises `Fault`."""
        unique = UNIQUE[self.level]
        if not any(key.column == unique and key.value for key in self.keys):
            raise Fault(f"at the level {self.level} say what is wanted with -k {unique}=...")
        return self


def question_of(arguments: Namespace) -> Question:
    """The question of a command line; raises `Fault`."""
    model = arguments.model or ("patient" if arguments.level == "PATIENT" else "study")
    if Level(arguments.level) not in _MODELS[model].value:
        raise Fault(f"--model {model} has no level {arguments.level}")
    return Question(model, arguments.level, tuple(map(key_of, arguments.keys)))


def key_of(text: str) -> Key:
    """``KEY[=VALUE]``, in sequences ``SEQUENCE.KEY[=VALUE]``; raises `Fault`."""
    path, is_matched, value = text.partition("=")
    attributes = tuple(_attribute(word.removesuffix("[0]"), text) for word in path.split("."))
    for outer in attributes[:-1]:
        if outer.vr != "SQ":
            raise Fault(f"-k {text}: {name_of(outer)} is no sequence")
    last = attributes[-1]
    if is_matched and value and (last.vr in _BINARY or last.vr == "SQ"):
        raise Fault(f"-k {text}: {name_of(last)} ({last.vr}) takes no value")
    return Key(attributes, value if is_matched and value else None)


def name_of(attribute: Attribute) -> str:
    """Its keyword, or its tag where it has none."""
    return attribute.keyword or f"{attribute.tag:08X}"


def _attribute(word: str, text: str) -> Attribute:
    tag = _TAG.fullmatch(word)
    found = dictionary.lookup(int(tag[1] + tag[2], 16)) if tag else dictionary.by_keyword(word)
    if found is not None:
        return found
    if tag is not None:  # private, or newer than our dictionary
        return Attribute(int(tag[1] + tag[2], 16), "LO", "1", "")
    near = dictionary.near(word)
    raise Fault(f"-k {text}: no attribute {word!r}" + (f"; did you mean {near}?" if near else ""))


def data_set_of(level: str, keys: Sequence[Key]) -> Any:
    """The identifier, a `pydicom.Dataset`; raises `Fault` for values that are none."""
    from pydicom.dataset import Dataset

    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for key in keys:
        inner = identifier
        for sequence in key.path[:-1]:
            inner = _item(inner, sequence)
        _put(inner, key)
    texts = [key.value for key in keys if key.value is not None]
    terms = character_sets.fitting(texts, ("ISO_IR 100",))
    if terms and _CHARACTER_SET not in identifier:
        identifier.SpecificCharacterSet = list(terms)
    return identifier


def _item(data_set: Any, sequence: Attribute) -> Any:
    """The one item of a sequence in an identifier (PS3.4 C.2.2.2.6), made if it is not there."""
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    if sequence.tag not in data_set or not data_set[sequence.tag].value:
        data_set[sequence.tag] = DataElement(sequence.tag, "SQ", Items([Dataset()]))
    return data_set[sequence.tag].value[0]


def _put(data_set: Any, key: Key) -> None:
    from pydicom import config
    from pydicom.dataelem import DataElement

    attribute, value = key.path[-1], key.value or ""
    if attribute.vr == "SQ":
        if not key.value:
            data_set.setdefault(attribute.tag, DataElement(attribute.tag, "SQ", []))
        return
    try:
        values: Any = _numbers(attribute.vr, value) if value else None
        if attribute.vr not in _BINARY and values is None:
            values = value
        element = DataElement(attribute.tag, attribute.vr, values, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError):
        raise Fault(f"-k {name_of(attribute)}={value}: no value of VR {attribute.vr}") from None
    data_set[attribute.tag] = element


def _numbers(vr: str, value: str) -> list[Any] | None:
    """The values of VRs that are binary numbers; None for others. Raises `ValueError`."""
    if vr in _INTEGERS:
        return [int(word) for word in value.split("\\")]
    if vr in ("FL", "FD"):
        return [float(word) for word in value.split("\\")]
    return None
