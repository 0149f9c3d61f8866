"""Studies to query, made of nothing: many patients, and instances of less than a kilobyte."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from random import Random
from struct import Struct

import attrs

from dicomtw import uids
from dicomtw.encoding import character_sets
from dicomtw.storage.part10 import FileMeta

#: Differs where other studies would be made.
VERSION = 1

_SHORT = Struct("<HH2sH")
_LONG = Struct("<HH2s2xL")
_PIXELS = bytes(32)

#: Modality, SOP class, body parts, what studies and series are called.
_KINDS = (
    ("CT", "1.2.840.10008.5.1.4.1.1.2", ("CHEST", "HEAD", "ABDOMEN"), ("CT Thorax", "Schädel nativ", "CT")),
    ("MR", "1.2.840.10008.5.1.4.1.1.4", ("HEAD", "KNEE", "LSPINE"), ("MRT Kopf", "t1_mprage", "T2 TSE ax")),
    (
        "PT",
        "1.2.840.10008.5.1.4.1.1.128",
        ("WHOLEBODY", "HEAD"),
        ("PET [18F]FDG", "PET AC", "Dynamic 60x1"),
    ),
    ("NM", "1.2.840.10008.5.1.4.1.1.20", ("HEART", "THYROID"), ("Myocardium stress", "DaTSCAN", "SPECT")),
)
SOP_CLASSES = tuple(kind[1] for kind in _KINDS)

#: Specific Character Set, family names and given names that are in it.
_NAMES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("", ("SMITH", "Johnson", "Van Damme", "GARCIA", "O'Hara"), ("Anna", "JAMES", "Maria^Teresa", "Alan")),
    ("", ("Baker", "DAVIS", "Klein", "Novak", "TAYLOR^MARY^^Dr"), ("Patricia", "Martha", "EDWARD", "Ida")),
    ("", ("KAPOOR", "Rossi", "Chan", "Adams", "BAUER"), ("Sanjay", "Laura", "TAI MAN", "Abigail")),
    ("ISO_IR 100", ("Müller", "Núñez", "Åström", "Lefèvre", "GRÄF"), ("Jürgen", "André", "Zoë", "Ana")),
    ("ISO_IR 192", ("Kovář", "Šimánek", "Иванова", "王"), ("Žaneta", "Анна", "小东", "Vlasta")),
    ("\\ISO 2022 IR 87", ("Yamada^Tarou=山田^太郎", "Tanaka^Akira=田中^明", "Sato^Hana=佐藤^花"), ()),
)
_PHYSICIANS = ("HOUSE^GREGORY", "Grey^Meredith", "QUINCY", "Watson^John^H")
_MAKERS = ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips")
_FIRST_DAY = date(2020, 1, 1)
_DAYS = 5 * 365


@attrs.frozen
class Patient:
    """A patient; `name` has three component groups at the most."""

    identifier: str
    name: str
    character_set: str
    birth_date: str
    sex: str


@attrs.frozen
class Series:
    """A series of `instances` objects of one SOP class."""

    uid: str
    number: int
    modality: str
    sop_class_uid: str
    description: str
    body_part: str
    instances: tuple[str, ...]


@attrs.frozen
class Study:
    """A study with its series."""

    uid: str
    number: int
    patient: Patient
    date: str
    time: str
    description: str
    physician: str
    manufacturer: str
    series: tuple[Series, ...]

    def instance_count(self) -> int:
        return sum(len(series.instances) for series in self.series)

    def objects(self) -> Iterator[tuple[Series, str, bytes]]:
        """Each object: its series, SOP Instance UID and data set in Explicit VR Little Endian."""
        for series in self.series:
            for number, uid in enumerate(series.instances, 1):
                yield series, uid, self._data_set(series, number, uid)

    def _data_set(self, series: Series, number: int, uid: str) -> bytes:
        patient = self.patient
        terms = character_sets.terms_of(patient.character_set.encode())
        name = character_sets.encode(patient.name, terms, is_person_name=True)
        return b"".join(
            (
                _element(0x00080005, b"CS", patient.character_set) if patient.character_set else b"",
                _element(0x00080008, b"CS", "ORIGINAL\\PRIMARY\\AXIAL"),
                _element(0x00080012, b"DA", self.date),
                _element(0x00080013, b"TM", self.time),
                _element(0x00080016, b"UI", series.sop_class_uid),
                _element(0x00080018, b"UI", uid),
                _element(0x00080020, b"DA", self.date),
                _element(0x00080021, b"DA", self.date),
                _element(0x00080023, b"DA", self.date),
                _element(0x00080030, b"TM", self.time),
                _element(0x00080031, b"TM", self.time),
                _element(0x00080033, b"TM", f"{self.time}.{number:06}"),
                _element(0x00080050, b"SH", f"A{self.number:08}"),
                _element(0x00080060, b"CS", series.modality),
                _element(0x00080070, b"LO", self.manufacturer),
                _element(0x00080080, b"LO", "University Hospital"),
                _element(0x00080090, b"PN", self.physician),
                _element(0x00081010, b"SH", f"{series.modality}SCAN{self.number % 3}"),
                _element(0x00081030, b"LO", _text(self.description, terms)),
                _element(0x0008103E, b"LO", _text(series.description, terms)),
                _element(0x00081090, b"LO", "Scanner 4000"),
                _element(0x00100010, b"PN", name),
                _element(0x00100020, b"LO", patient.identifier),
                _element(0x00100030, b"DA", patient.birth_date),
                _element(0x00100040, b"CS", patient.sex),
                _element(0x00180015, b"CS", series.body_part),
                _element(0x00181030, b"LO", f"{series.body_part} routine"),
                _element(0x00185100, b"CS", "HFS"),
                _element(0x0020000D, b"UI", self.uid),
                _element(0x0020000E, b"UI", series.uid),
                _element(0x00200010, b"SH", str(self.number)),
                _element(0x00200011, b"IS", str(series.number)),
                _element(0x00200013, b"IS", str(number)),
                _element(0x00200032, b"DS", f"-120\\-120\\{number * 2.5}"),
                _element(0x00200037, b"DS", "1\\0\\0\\0\\1\\0"),
                _element(0x00200052, b"UI", f"{self.uid}.1"),
                _number(0x00280002, 1),
                _element(0x00280004, b"CS", "MONOCHROME2"),
                _number(0x00280010, 4),
                _number(0x00280011, 4),
                _number(0x00280100, 16),
                _number(0x00280101, 16),
                _number(0x00280102, 15),
                _number(0x00280103, 0),
                _LONG.pack(0x7FE0, 0x0010, b"OW", len(_PIXELS)),
                _PIXELS,
            )
        )


def make(studies: int, instances: int, seed: int = 1) -> list[Study]:
    """`studies` of two to four series with `instances` in all; the same ones each time."""
    random = Random(seed)
    patients = [_patient(random, number) for number in range(max(1, studies * 7 // 10))]
    made = []
    for number in range(studies):
        of_study = instances * (number + 1) // studies - instances * number // studies
        made.append(_study(random, number, random.choice(patients), of_study))
    return made


def write(study: Study, store: Path) -> None:
    """The files of a study where a store would have them."""
    for series in study.series:
        (store / study.uid / series.uid).mkdir(parents=True)
    for series, uid, data_set in study.objects():
        meta = FileMeta(series.sop_class_uid, uid, uids.EXPLICIT_VR_LITTLE_ENDIAN, "BENCH")
        (store / study.uid / series.uid / f"{uid}.dcm").write_bytes(meta.encode() + data_set)


def _uid(random: Random) -> str:
    return f"2.25.{random.getrandbits(122)}"


def _patient(random: Random, number: int) -> Patient:
    character_set, families, given = random.choice(_NAMES)
    name = random.choice(families)
    if given:
        name += f"^{random.choice(given)}"
    born = date(1930, 1, 1) + timedelta(random.randrange(85 * 365))
    return Patient(f"P{number:07}", name, character_set, f"{born:%Y%m%d}", random.choice("MFO"))


def _study(random: Random, number: int, patient: Patient, instances: int) -> Study:
    modality, sop_class_uid, body_parts, descriptions = random.choice(_KINDS)
    body_part = random.choice(body_parts)
    day = _FIRST_DAY + timedelta(random.randrange(_DAYS))
    count = random.randint(2, 4)
    cuts = [0, *sorted(random.randrange(1, max(2, instances)) for _ in range(count - 1)), instances]
    series = []
    for index in range(count):
        if index == 1 and modality == "PT":  # with the CT that it is corrected by
            series_modality, series_class = _KINDS[0][:2]
        else:
            series_modality, series_class = modality, sop_class_uid
        series.append(
            Series(
                _uid(random),
                index + 1,
                series_modality,
                series_class,
                f"{random.choice(descriptions)} {index + 1}",
                body_part,
                tuple(_uid(random) for _ in range(cuts[index + 1] - cuts[index])),
            )
        )
    return Study(
        uid=_uid(random),
        number=number + 1,
        patient=patient,
        date=f"{day:%Y%m%d}",
        time=f"{random.randint(7, 18):02}{random.randrange(60):02}{random.randrange(60):02}",
        description=f"{descriptions[0]} {body_part}",
        physician=random.choice(_PHYSICIANS),
        manufacturer=random.choice(_MAKERS),
        series=tuple(each for each in series if each.instances),
    )


def _text(text: str, terms: tuple[str, ...]) -> bytes:
    """Text in the character set of a patient, who may have come from elsewhere than the device."""
    try:
        return character_sets.encode(text, terms)
    except UnicodeEncodeError:
        return text.encode("ascii", "replace")


def _element(tag: int, vr: bytes, value: str | bytes) -> bytes:
    encoded = value if isinstance(value, bytes) else value.encode("ascii")
    if len(encoded) % 2:
        encoded += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr, len(encoded)) + encoded


def _number(tag: int, value: int) -> bytes:
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, b"US", 2) + value.to_bytes(2, "little")
