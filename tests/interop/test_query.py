"""Queries of DCMTK and pynetdicom, and of a socket SCU where these cannot ask what is to be asked."""

from __future__ import annotations

import copy
import warnings
from struct import pack
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom.association import Association

from dicomtw import uids
from dicomtw.storage.index.attributes import Attributes
from dicomtw.transcode import encode
from dicomtw.ul.items import SOPClassExtendedNegotiation
from dicomtw.ul.pdu import A_ASSOCIATE_AC
from tests.interop.archive import (
    DCMTK,
    EXPLICIT,
    IMPLICIT,
    MODELS,
    PEER,
    PEERS,
    PYNETDICOM,
    UNIQUE_KEYS,
    archive,
    associated,
    ct,
    data_set,
    family,
    fill,
    found_by_programs,
    identifier,
    matches,
    of,
    pynetdicom_association,
    selected,
    shared,
    with_family,
)
from tests.interop.cases import CasesTestCase
from tests.interop.peers import missing
from tests.interop.scu import CT, Scu, element
from tests.interop.twistd import Twistd

FIND = uids.STUDY_ROOT_FIND
SC = "1.2.840.10008.5.1.4.1.1.7"


class LevelTests(CasesTestCase):
    """Every level of every information model."""

    skip = missing("findscu")

    def test_levels(self) -> None:
        """The programs of both peers find what is there, with how much is below it and where to get it."""
        server = shared(self, with_family)
        objects = family()
        queries = []
        for model, (_, levels) in MODELS.items():
            for depth, level in enumerate(levels):
                above = {UNIQUE_KEYS[one]: str(objects[5][UNIQUE_KEYS[one]].value) for one in levels[:depth]}
                asked = identifier(level, **above, **{UNIQUE_KEYS[level]: ""}, **RELATED[level])
                expected = sorted({str(one[UNIQUE_KEYS[level]].value) for one in selected(objects, above)})
                queries.append((model, asked, expected))
        for peer in PEERS:
            answers = found_by_programs(peer, server, [query[:2] for query in queries])
            for (model, asked, expected), (said, found) in zip(queries, answers, strict=True):
                level = asked.QueryRetrieveLevel
                with self.case(peer.name, model, level):
                    self.assertEqual(of(level, found), expected, said)
                    self.assertIn("(Success)", said)
                    for one in found:
                        self.assertEqual((one.QueryRetrieveLevel, one.RetrieveAETitle), (level, "PMOD"))
                        self.assertEqual({element.tag for element in asked} - {e.tag for e in one}, set())
                        for keyword, value in RELATED_VALUES[level].items():
                            self.assertEqual(one[keyword].value, value, keyword)

    def test_wrong_levels(self) -> None:
        """A900H for a level that the model does not have, to the programs of both peers."""
        server = shared(self, with_family)
        queries = [
            ("-S", identifier("PATIENT", PatientID="")),
            ("-O", identifier("SERIES", PatientID="P1", StudyInstanceUID="1.2.1.1", SeriesInstanceUID="")),
            ("-O", identifier("IMAGE", PatientID="P1", StudyInstanceUID="1.2.1.1", SOPInstanceUID="")),
            ("-P", identifier("STUDY", StudyInstanceUID="")),
            ("-P", identifier("FRAME", PatientID="")),
        ]
        for peer, some in ((DCMTK, queries), (PYNETDICOM, queries[:2])):
            for (model, asked), (said, found) in zip(
                some, found_by_programs(peer, server, some), strict=True
            ):
                with self.case(peer.name, model, asked.QueryRetrieveLevel):
                    self.assertEqual(found, [])
                    refused = "DataSetDoesNotMatchSOPClass" if peer is DCMTK else "0xA900"
                    self.assertIn(refused, said)


#: Keys of what follows from what is stored, which each level is asked for, too.
RELATED: dict[str, dict[str, str]] = {
    "PATIENT": {
        "PatientName": "",
        "NumberOfPatientRelatedStudies": "",
        "NumberOfPatientRelatedInstances": "",
    },
    "STUDY": {
        "StudyDate": "",
        "ModalitiesInStudy": "",
        "NumberOfStudyRelatedSeries": "",
        "NumberOfStudyRelatedInstances": "",
    },
    "SERIES": {"Modality": "", "SeriesNumber": "", "NumberOfSeriesRelatedInstances": ""},
    "IMAGE": {"InstanceNumber": "", "SOPClassUID": "", "InstanceAvailability": ""},
}
RELATED_VALUES: dict[str, dict[str, Any]] = {
    "PATIENT": {"NumberOfPatientRelatedStudies": 2, "NumberOfPatientRelatedInstances": 8},
    "STUDY": {
        "ModalitiesInStudy": "CT",
        "NumberOfStudyRelatedSeries": 2,
        "NumberOfStudyRelatedInstances": 4,
    },
    "SERIES": {"Modality": "CT", "NumberOfSeriesRelatedInstances": 2},
    "IMAGE": {"SOPClassUID": CT, "InstanceAvailability": "ONLINE"},
}


def _requested(step: str, procedure: str) -> Dataset:
    return data_set(ScheduledProcedureStepID=step, RequestedProcedureID=procedure)


#: Studies to be matched, one object each.
STUDIES = [
    ct(
        1,
        PatientName="Doe^John^A",
        PatientSex="M",
        StudyDate="20190630",
        StudyTime="080000",
        AccessionNumber="ACC-001",
        StudyDescription="Head routine",
        RequestAttributesSequence=[_requested("SPS1", "RP1"), _requested("SPS2", "RP2")],
        ReferringPhysicianName="Welby^Marcus",
    ),
    ct(
        2,
        PatientName="DOE^Jane^^Dr",
        PatientSex="F",
        StudyDate="20200101",
        StudyTime="103000",
        AccessionNumber="ACC-002",
        StudyDescription="HEAD ROUTINE",
        RequestAttributesSequence=[_requested("SPS1", "RP2")],
    ),
    ct(
        3,
        PatientName="Doering^Max",
        PatientSex="M",
        StudyDate="20200101",
        StudyTime="103000.250000",
        AccessionNumber="ACC-013",
        StudyDescription="Thorax",
        SOPClassUID=SC,
        Modality="OT",
    ),
    ct(
        4,
        PatientName="Smith^Ann",
        PatientSex="",
        StudyDate="20201231",
        StudyTime="2359",
        AccessionNumber="",
        StudyDescription="100% [a] _b",
    ),
    ct(
        5,
        PatientName="O'Neil^J.-P.=onl",
        StudyDate="",
        StudyTime="",
        AccessionNumber="ACC*1",
        StudyDescription="Abdomen*",
    ),
]

#: Keys of a query at study level, and which of the studies they match.
MATCHING: list[tuple[dict[str, Any], str]] = [
    # universal (PS3.4 C.2.2.2.3)
    ({}, "12345"),
    ({"PatientName": "", "StudyDate": "", "StudyTime": "", "AccessionNumber": ""}, "12345"),
    ({"PatientName": "*", "AccessionNumber": "**", "StudyDescription": "*"}, "12345"),
    # single values
    ({"AccessionNumber": "ACC-001"}, "1"),
    ({"AccessionNumber": "acc-001"}, ""),
    ({"PatientID": "P3"}, "3"),
    ({"StudyDescription": "Head routine"}, "1"),
    ({"StudyDescription": "100% [a] _b"}, "4"),
    ({"PatientSex": "M", "StudyDate": "20200101"}, "3"),
    # wild cards (C.2.2.2.4)
    ({"AccessionNumber": "ACC-*"}, "123"),
    ({"AccessionNumber": "ACC-0?3"}, "3"),
    ({"AccessionNumber": "*01*"}, "13"),
    ({"AccessionNumber": "?CC*"}, "1235"),
    ({"StudyDescription": "*%*"}, "4"),
    ({"StudyDescription": "*_b"}, "4"),
    ({"StudyDescription": "*[a]*"}, "4"),
    ({"StudyDescription": "Head*"}, "1"),
    # lists of UIDs (C.2.2.2.2)
    ({"StudyInstanceUID": "1.2.1.1"}, "1"),
    ({"StudyInstanceUID": ["1.2.1.1", "1.2.4.1", "1.2.99.1"]}, "14"),
    ({"StudyInstanceUID": "1.2.*"}, ""),
    # ranges (C.2.2.2.5)
    ({"StudyDate": "20200101"}, "23"),
    ({"StudyDate": "20200101-20201231"}, "234"),
    ({"StudyDate": "-20200101"}, "123"),
    ({"StudyDate": "20200102-"}, "4"),
    ({"StudyDate": "2020.01.01"}, "23"),
    ({"StudyTime": "103000"}, "2"),
    ({"StudyTime": "080000-110000"}, "123"),
    ({"StudyTime": "103000-103000"}, "23"),
    ({"StudyTime": "-1030"}, "123"),
    ({"StudyTime": "2359-"}, "4"),
    # dates and times apart: each on its own
    ({"StudyDate": "20190630-20200101", "StudyTime": "0900-1100"}, "23"),
    # names (C.2.2.2.1: case does not matter, nor do empty components at the end)
    ({"PatientName": "doe^john^a"}, "1"),
    ({"PatientName": "DOE*"}, "123"),
    ({"PatientName": "Doe^*"}, "12"),
    ({"PatientName": "doe^JANE^^dr"}, "2"),
    ({"PatientName": "doe^j?ne*"}, "2"),
    ({"PatientName": "*^max"}, "3"),
    ({"PatientName": "smith^ann^^^"}, "4"),
    ({"PatientName": "o'neil^j.-p."}, "5"),
    ({"PatientName": "=ONL"}, "5"),
    ({"ReferringPhysicianName": "welby*"}, "1"),
    # what follows from what is stored (C.3.4)
    ({"ModalitiesInStudy": "OT"}, "3"),
    ({"ModalitiesInStudy": ["MR", "CT"]}, "1245"),
    ({"SOPClassesInStudy": CT}, "1245"),
]
#: Keys at image level, of the study, series or image, and which of the studies' objects they match.
OF_IMAGES: list[tuple[dict[str, Any], str]] = [
    # numbers, in text and in binary
    ({"InstanceNumber": "3"}, "3"),
    ({"InstanceNumber": "+003"}, "3"),
    ({"SeriesNumber": "2"}, "2"),
    ({"Rows": 512}, "12"),
    ({"Rows": [512, 256]}, "123"),
    ({"PatientSize": "1.8"}, "1"),
    ({"PatientSize": "1.80"}, "1"),
    ({"NumberOfFrames": "10"}, "4"),
    # any of several values
    ({"ImageType": "AXIAL"}, "1"),
    ({"ImageType": "PRIMARY"}, "12"),
    ({"ImageType": "*ARY"}, "123"),
    # moments, with and without an offset from UTC
    ({"AcquisitionDateTime": "20200101120000"}, "1"),
    ({"AcquisitionDateTime": "20200101-20200102"}, "12"),
    ({"AcquisitionDateTime": "202001011130-"}, "123"),
    ({"AcquisitionDateTime": "20200101121500+0000-20200101130000+0000"}, "2"),
    ({"AcquisitionDateTime": "-2020"}, "123"),
    # codes in sequences, which are all returned
    ({"Modality": ["CT", "OT"], "PatientName": "do*"}, "123"),
    ({"SOPClassUID": [SC, "1.2.3"]}, "3"),
]

#: Keys at series level, where all of an item have to match in one item (C.2.2.2.6).
SEQUENCES: list[tuple[list[Dataset], str]] = [
    ([], "12345"),
    ([_requested("", "")], "12345"),
    ([_requested("SPS1", "")], "12"),
    ([_requested("SPS1", "RP2")], "2"),
    ([_requested("SPS2", "RP1")], ""),
    ([_requested("SPS*", "RP1")], "1"),
    ([_requested("?PS2", "")], "1"),
]


def with_studies(test: Any) -> Twistd:
    """A server with these."""
    server = archive(test)
    fill(server, STUDIES)
    return server


class MatchingTests(CasesTestCase):
    skip = missing("findscu")

    def setUp(self) -> None:
        self.server = shared(self, with_studies)

    def test_matching(self) -> None:
        """Each kind of matching selects the same, whoever asks: findscu of DCMTK, or pynetdicom."""
        queries = [identifier("STUDY", **{"StudyInstanceUID": "", **keys}) for keys, _ in MATCHING]
        by_dcmtk = found_by_programs(DCMTK, self.server, [("-S", asked) for asked in queries])
        with pynetdicom_association(self.server, FIND) as association:
            for asked, (keys, numbers), (said, found) in zip(queries, MATCHING, by_dcmtk, strict=True):
                expected = [f"1.2.{number}.1" for number in numbers]
                with self.case("DCMTK", keys):
                    self.assertIn("(Success)", said)
                    self.assertEqual(of("STUDY", found), expected, said)
                with self.case("pynetdicom", keys):
                    *pending, (final, _) = send_c_find(association, asked)
                    self.assertEqual(
                        {status.Status for status, _ in pending}, {0xFF00} if expected else set()
                    )
                    self.assertEqual(final.Status, 0)
                    self.assertEqual(of("STUDY", [one for _, one in pending]), expected)

    def test_sequences(self) -> None:
        """All keys of an item have to match in one item; what comes back are all items, with those keys."""
        for items, numbers in SEQUENCES:
            asked = identifier("SERIES", StudyInstanceUID="", RequestAttributesSequence=items)
            found = []
            with self.case("pynetdicom", items):
                with pynetdicom_association(self.server, FIND, relational=True) as association:
                    *pending, (final, _) = send_c_find(association, asked)
                self.assertEqual(final.Status, 0)
                found = [one for _, one in pending]
                self.assertEqual(of("STUDY", found), [f"1.2.{number}.1" for number in numbers])
            for one in found:
                with self.case("items", items, one.StudyInstanceUID):
                    (stored,) = selected(STUDIES, {"StudyInstanceUID": one.StudyInstanceUID})
                    kept = stored.get("RequestAttributesSequence", [])
                    self.assertEqual(list(one.RequestAttributesSequence), list(kept))
        queries = [
            identifier("SERIES", StudyInstanceUID=f"1.2.{number}.1", RequestAttributesSequence=items)
            for items, _ in SEQUENCES
            for number in "123"
            if items
        ]
        for asked, (said, found) in zip(
            queries, found_by_programs(DCMTK, self.server, [("-S", one) for one in queries]), strict=True
        ):
            with self.case("DCMTK", asked):
                numbers = next(
                    numbers for items, numbers in SEQUENCES if items == asked.RequestAttributesSequence
                )
                self.assertEqual(len(found), asked.StudyInstanceUID.split(".")[2] in numbers, said)

    def test_images(self) -> None:
        """So do keys of images: numbers, several values, moments."""
        server = archive(self)
        details: list[dict[str, Any]] = [
            {"Rows": 512, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "PatientSize": "1.8"},
            {"Rows": 512, "ImageType": ["DERIVED", "PRIMARY"], "PatientSize": "1.75"},
            {"Rows": 256, "ImageType": ["DERIVED", "SECONDARY"]},
            {"NumberOfFrames": "10"},
            {},
        ]
        moments = ["20200101120000", "20200101133000+0100", "20201224", "", ""]
        for number, (one, detail, moment) in enumerate(zip(STUDIES, details, moments, strict=True), 1):
            made = copy.deepcopy(one)
            made.update(data_set(SeriesNumber=number, InstanceNumber=number, **detail))
            made.update(data_set(AcquisitionDateTime=moment))
            fill(server, [made])
        with pynetdicom_association(server, FIND, relational=True) as association:
            for keys, numbers in OF_IMAGES:
                with self.case(keys):
                    asked = identifier("IMAGE", **{"StudyInstanceUID": "", **keys})
                    *pending, (final, _) = send_c_find(association, asked)
                    self.assertEqual(final.Status, 0)
                    found = [one for _, one in pending]
                    self.assertEqual(of("STUDY", found), [f"1.2.{number}.1" for number in numbers])

    def test_unsupported_keys(self) -> None:
        """FF01H says that a key was not supported, to whoever asks; it is neither matched nor answered."""
        asked = identifier("STUDY", PatientID="P1", StudyInstanceUID="", KVP="120", SeriesNumber="7")
        with associated(self.server, FIND) as scu:
            pending, final = scu.find(encode(asked, IMPLICIT))
            self.assertEqual((pending.status, final.status), (0xFF01, 0))
            (found,) = matches([pending])
            self.assertEqual(found.StudyInstanceUID, "1.2.1.1")
            self.assertNotIn("KVP", found)
            self.assertNotIn("SeriesNumber", found)
        for peer, said_so in ((DCMTK, "WarningUnsupportedOptionalKeys"), (PYNETDICOM, "0xFF01")):
            ((said, found_by_peer),) = found_by_programs(peer, self.server, [("-S", asked)])
            self.assertIn(said_so, said)
            self.assertEqual(of("STUDY", found_by_peer), ["1.2.1.1"])

    def test_all_keys(self) -> None:
        """Q03: all keys there are, empty: everything is found, and each attribute is in the answer."""
        attributes = Attributes()
        tags = {attribute.tag for level in attributes.stored.values() for attribute in level}
        asked = identifier("IMAGE")
        for tag in sorted(tags):
            if tag >> 16 != 2:
                asked.add_new(tag, pydicom.datadict.dictionary_VR(tag), None)
        for syntax in (IMPLICIT, EXPLICIT, uids.EXPLICIT_VR_BIG_ENDIAN):
            relational = SOPClassExtendedNegotiation(FIND, b"\1")
            with self.case(syntax), associated(self.server, FIND, relational, transfer_syntax=syntax) as scu:
                responses = scu.find(encode(asked, syntax))
                self.assertEqual([one.status for one in responses], [0xFF00] * len(STUDIES) + [0])
                found = matches(responses, syntax)
                self.assertEqual({element.tag for element in asked} - {e.tag for e in found[0]}, set())
                for one in found:
                    (stored,) = selected(STUDIES, {"SOPInstanceUID": one.SOPInstanceUID})
                    for element in stored:
                        self.assertEqual(one[element.tag].value, element.value, element.keyword)


def send_c_find(association: Association, asked: Dataset) -> list[tuple[Dataset, Dataset]]:
    """Statuses and identifiers of pynetdicom's C-FIND."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(association.send_c_find(asked, FIND))


class NegotiatedTests(CasesTestCase):
    """What SOP class extended negotiation (PS3.4 C.5.1.1) makes of a query."""

    def test_relational(self) -> None:
        """Q02: levels above need not be named where relational queries were agreed on, and only there."""
        server = shared(self, with_family)
        asked = [
            ("STUDY", uids.PATIENT_ROOT_FIND, {"StudyInstanceUID": ""}, 4),
            ("SERIES", FIND, {"SeriesInstanceUID": ""}, 8),
            ("IMAGE", FIND, {"SOPInstanceUID": ""}, 16),
            ("IMAGE", FIND, {"StudyInstanceUID": ["1.2.1.1", "1.2.2.1"], "SOPInstanceUID": ""}, 8),
            ("IMAGE", FIND, {"StudyInstanceUID": "", "SeriesInstanceUID": "1.2.1.1.1"}, 2),
            ("SERIES", uids.PATIENT_ROOT_FIND, {"PatientID": "P*", "SeriesInstanceUID": ""}, 8),
            ("STUDY", uids.PATIENT_STUDY_ONLY_FIND, {"StudyInstanceUID": ""}, 4),
        ]
        for level, sop_class_uid, keys, number in asked:
            for proposed, expected in ((None, 0), (b"\0\1\1", 0), (b"\1", number), (b"\1\1\1\1\1", number)):
                with self.case(level, keys, proposed):
                    items = [SOPClassExtendedNegotiation(sop_class_uid, proposed)] if proposed else []
                    with associated(server, sop_class_uid, *items) as scu:
                        *pending, final = scu.find(encode(identifier(level, **keys), IMPLICIT))
                        self.assertEqual(f"{final.status:04X}", "0000" if expected else "A900")
                        self.assertEqual(len(pending), expected)
        with self.case("for another SOP class"):
            other = SOPClassExtendedNegotiation(uids.PATIENT_ROOT_FIND, b"\1")
            with associated(server, FIND, other) as scu:
                (final,) = scu.find(encode(identifier("SERIES"), IMPLICIT))
                self.assertEqual(final.status, 0xA900)

    def test_dates_and_times(self) -> None:
        """A range of dates and one of times are one range where that was agreed on, and only there."""
        server = shared(self, with_studies)
        asked = [
            # Date, Time, found with both as one, found with each on its own
            ("20190630-20210101", "0900-1000", "234", ""),
            ("20200101-20210101", "1100-0900", "4", ""),
            ("20190630-20200101", "0900-1030", "23", "23"),
            ("20190630-20200101", "0700-0900", "1", "1"),
            ("20200101-", "1031-", "4", "4"),
            ("20190630-20200101", "1200-", "23", ""),
        ]
        for date, time_of_day, together, apart in asked:
            keys = identifier("STUDY", StudyInstanceUID="", StudyDate=date, StudyTime=time_of_day)
            for proposed, numbers in ((b"", apart), (b"\0\0", apart), (b"\0\1", together)):
                with self.case(date, time_of_day, proposed):
                    items = [SOPClassExtendedNegotiation(FIND, proposed)] if proposed else []
                    with associated(server, FIND, *items) as scu:
                        found = matches(scu.find(encode(keys, IMPLICIT)))
                        self.assertEqual(of("STUDY", found), [f"1.2.{number}.1" for number in numbers])

    def test_answer(self) -> None:
        """What is agreed on is what both sides have, byte by byte; what was not proposed is not answered."""
        server = shared(self, with_studies)
        for proposed, expected in (
            (None, None),
            (b"\1", b"\1"),
            (b"\0\1", b"\0\1"),
            (b"\1\1\1\1\1", b"\1\1\0\0\0"),
            (b"\0\0\0\0\0", b"\0\0\0\0\0"),
        ):
            with self.case(proposed), Scu(server.address) as scu:
                items = [SOPClassExtendedNegotiation(FIND, proposed)] if proposed else []
                ac = scu.associate({1: (FIND, IMPLICIT)}, *items, calling=PEER)
                assert isinstance(ac, A_ASSOCIATE_AC), ac
                answers = ac.user_information.all(SOPClassExtendedNegotiation)
                self.assertEqual(
                    [answer.service_class_application_information for answer in answers],
                    [] if expected is None else [expected],
                )
                scu.release()

    def test_programs(self) -> None:
        """So findscu of pynetdicom has it, with --relational-query and --dt-matching."""
        server = shared(self, with_studies)
        asked = identifier(
            "SERIES", StudyInstanceUID="", StudyDate="20200101-20210101", StudyTime="1100-0900"
        )
        for options, expected in (
            ([], None),
            (["--relational-query"], []),
            (["--relational-query", "--dt-matching"], ["1.2.4.1"]),
        ):
            ((said, found),) = found_by_programs(PYNETDICOM, server, [("-S", asked)], *options)
            with self.case(options):
                self.assertIn("0xA900" if expected is None else "0x0000", said)
                self.assertEqual(of("STUDY", found), expected or [])


def nested(depth: int, explicit: bool, lengths: bool) -> bytes:
    """Sequences in each other, with lengths or with delimiters."""
    header = pack("<HH", 0x0040, 0x0275) + (b"SQ\0\0" if explicit else b"")
    if not lengths:
        begin = header + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4
        end = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
        return begin * depth + end * depth
    parts: list[bytes] = []
    length = 0
    for _ in range(depth):
        parts.append(header + pack("<L", length + 8) + b"\xfe\xff\0\xe0" + pack("<L", length))
        length += len(parts[-1])
    return b"".join(reversed(parts))


def explicit_element(tag: int, vr: bytes, value: bytes) -> bytes:
    """A data element, Explicit VR Little Endian."""
    head = pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"SQ", b"UN", b"OB"):
        return head + pack("<HL", 0, len(value)) + value
    return head + pack("<H", len(value)) + value


STUDY_LEVEL = element(0x00080052, b"STUDY ")
X_STUDY_LEVEL = explicit_element(0x00080052, b"CS", b"STUDY ")
ITEM = b"\xfe\xff\0\xe0\0\0\0\0"

#: Identifiers in Implicit and Explicit VR Little Endian that are none, and the beginning of their status.
FAULTS: list[tuple[str, str, bytes, str]] = [
    ("Q01: no level", IMPLICIT, element(0x0020000D, b""), "A900"),
    ("Q01: empty", IMPLICIT, b"", "A900"),
    ("Q02: no such level", IMPLICIT, element(0x00080052, b"STUDIES "), "A900"),
    ("Q02: empty level", IMPLICIT, element(0x00080052, b""), "A900"),
    ("Q02: two levels", IMPLICIT, element(0x00080052, b"STUDY\\SERIES"), "A900"),
    ("Q02: the level of another model", IMPLICIT, element(0x00080052, b"PATIENT "), "A900"),
    ("Q04: text as a sequence", EXPLICIT, explicit_element(0x00080052, b"SQ", ITEM), "A900"),
    ("Q04: text as a sequence", EXPLICIT, X_STUDY_LEVEL + explicit_element(0x00100010, b"SQ", ITEM), "A900"),
    ("Q04: text as no items", EXPLICIT, X_STUDY_LEVEL + explicit_element(0x00100010, b"SQ", b""), "A900"),
    ("Q04: a sequence as text", EXPLICIT, X_STUDY_LEVEL + explicit_element(0x00400275, b"LO", b"AB"), "A900"),
    ("Q04: a sequence as UN", EXPLICIT, X_STUDY_LEVEL + explicit_element(0x00400275, b"UN", b"AB"), "A900"),
    ("Q04: a sequence as text", IMPLICIT, STUDY_LEVEL + element(0x00400275, b"ABCDEFGH"), "A900"),
    ("Q04: another sequence as text", IMPLICIT, STUDY_LEVEL + element(0x00400100, b"ABCDEFGH"), "A900"),
    ("a range that is none", IMPLICIT, STUDY_LEVEL + element(0x00080020, b"2020-x"), "A900"),
    ("two items", IMPLICIT, STUDY_LEVEL + element(0x00081032, ITEM + ITEM), "A900"),
    ("cut off", IMPLICIT, STUDY_LEVEL + element(0x00100010, b"A" * 8)[:-2], "A900"),
    ("length past the end", IMPLICIT, STUDY_LEVEL + pack("<HHL", 0x0010, 0x0010, 0x7FFFFFFE), "A900"),
    ("other transfer syntax", IMPLICIT, X_STUDY_LEVEL, "A900"),
    ("rubbish", EXPLICIT, bytes(range(256)) * 4, "A900"),
    ("20,000 elements", IMPLICIT, STUDY_LEVEL + element(0x00100010, b"") * 20_000, "A900"),
    ("more than 1 MiB", IMPLICIT, STUDY_LEVEL + element(0x00100010, b"*" * (1 << 20)), "A700"),
    ("1,000 kB of wild cards", IMPLICIT, STUDY_LEVEL + element(0x00100010, b"*?" * 500_000), "A900"),
    ("20,000 UIDs", IMPLICIT, STUDY_LEVEL + element(0x0020000D, b"1.2\\" * 20_000), "A900"),
    *(
        (
            f"Q07: nested 10,000, {lengths=}",
            syntax,
            level + nested(10_000, syntax == EXPLICIT, lengths),
            "A900",
        )
        for syntax, level in ((IMPLICIT, STUDY_LEVEL), (EXPLICIT, X_STUDY_LEVEL))
        for lengths in (False, True)
    ),
]


def refused_queries(server: Twistd) -> int:
    """How many its log tells of."""
    return server.log.count("C-FIND of 'PEER' answered A")


class FaultTests(CasesTestCase):
    def test_faults(self) -> None:
        """What is no identifier is answered as such and logged; the association lives on."""
        server = shared(self, with_studies)
        before = refused_queries(server)
        for what, syntax, asked, expected in FAULTS:
            with self.case(what, syntax), Scu(server.address) as scu:
                scu.associate({1: (FIND, syntax), 3: (uids.VERIFICATION, IMPLICIT)}, calling=PEER)
                (response,) = scu.find(asked)
                self.assertEqual(f"{response.status:04X}", expected)
                self.assertTrue(response.command.error_comment)
                self.assertEqual(scu.echo(3), 0)
                found = scu.find(encode(identifier("STUDY", StudyInstanceUID=""), syntax))
                self.assertEqual([one.status for one in found], [0xFF00] * len(STUDIES) + [0])
                scu.release()
        self.assertEqual(refused_queries(server) - before, len(FAULTS))

    def test_programs(self) -> None:
        """Programs that leave the level out are told what is wrong."""
        server = shared(self, with_studies)
        asked = data_set(StudyInstanceUID="")
        for peer, refused in ((DCMTK, "DataSetDoesNotMatchSOPClass"), (PYNETDICOM, "0xA900")):
            ((said, found),) = found_by_programs(peer, server, [("-S", asked)])
            self.assertEqual(found, [])
            self.assertIn(refused, said)
        self.assertIn("the Query/Retrieve Level (0008,0052) is missing", server.log)
