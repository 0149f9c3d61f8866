"""Queries as they are put (PS3.4 C.4.1, C.6), and what they find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import DimseError
from dicomtw.storage.index.attributes import Attributes, Level
from dicomtw.storage.index.database import Index
from dicomtw.storage.index.matching import KeyValue
from dicomtw.storage.index.query import MAXIMUM_KEYS, Model, Query
from dicomtw.storage.index.record import items_of
from tests.storage.index import (
    ATTRIBUTES,
    CT,
    EXPLICIT,
    MR,
    SR,
    MemoryFiles,
    found,
    query,
    record,
    results,
    tag,
)

REQUEST = '[{"00400009":"S1","00401001":"P1"},{"00400009":"S2","00401001":"P2"}]'


class Refused(SynchronousTestCase):
    def refused(self, level: str, model: Model = Model.STUDY_ROOT, **keys: KeyValue) -> str:
        error = self.assertRaises(DimseError, query, level, model, relational=False, **keys)
        self.assertEqual(error.status, 0xA900)
        self.assertLessEqual(len(error.comment), 64)
        return error.comment


class HierarchyTests(Refused):
    def test_levels(self) -> None:
        """A model has the levels that the standard gives it."""
        self.assertEqual(self.refused("PATIENT"), "no level PATIENT in this model")
        self.assertEqual(self.refused("SERIES", Model.PATIENT_STUDY_ONLY), "no level SERIES in this model")
        self.assertEqual(self.refused("IMAGE", Model.PATIENT_STUDY_ONLY), "no level IMAGE in this model")
        query("PATIENT", Model.PATIENT_ROOT, relational=False)
        query("STUDY", Model.STUDY_ROOT, relational=False)
        query("STUDY", Model.PATIENT_STUDY_ONLY, relational=False, PatientID="P")

    def test_missing(self) -> None:
        """A hierarchical query names what is above its level."""
        self.assertEqual(self.refused("STUDY", Model.PATIENT_ROOT), "PatientID is missing")
        self.assertEqual(self.refused("STUDY", Model.PATIENT_ROOT, PatientID=""), "PatientID is missing")
        self.assertEqual(self.refused("SERIES"), "StudyInstanceUID is missing")
        self.assertEqual(self.refused("SERIES", StudyInstanceUID="*"), "StudyInstanceUID is missing")
        self.assertEqual(self.refused("IMAGE", StudyInstanceUID="1.2"), "SeriesInstanceUID is missing")
        query("IMAGE", Model.STUDY_ROOT, relational=False, StudyInstanceUID="1.2", SeriesInstanceUID="1.3")

    def test_single(self) -> None:
        """It names it with a single value."""
        self.assertEqual(
            self.refused("SERIES", StudyInstanceUID="1.2\\1.3"), "StudyInstanceUID is not a single value"
        )
        self.assertEqual(
            self.refused("STUDY", Model.PATIENT_ROOT, PatientID="P\\Q*"), "PatientID is not a single value"
        )
        self.assertEqual(
            self.refused("STUDY", Model.PATIENT_ROOT, PatientID="P*"), "PatientID is not a single value"
        )

    def test_relational(self) -> None:
        """A relational query need not."""
        query("IMAGE", Model.STUDY_ROOT, relational=True)
        query("IMAGE", Model.PATIENT_ROOT, relational=True, PatientID="P*")

    def test_level_of_key(self) -> None:
        """Above its level a query may ask for anything, below for nothing but what is computed."""
        keys: dict[str, KeyValue] = {
            "PatientName": "x",
            "Modality": "CT",
            "InstanceNumber": "1",
            "ModalitiesInStudy": "CT",
            "NumberOfStudyRelatedInstances": "7",
            "NumberOfSeriesRelatedInstances": "7",
        }
        asked = query("STUDY", **keys)
        self.assertEqual(
            [column.keyword for column in asked.columns],
            ["ModalitiesInStudy", "PatientName", "NumberOfStudyRelatedInstances"],
        )
        self.assertEqual(
            asked.unsupported, (tag("Modality"), tag("InstanceNumber"), tag("NumberOfSeriesRelatedInstances"))
        )

    def test_unsupported(self) -> None:
        """What is not indexed is listed; what is no key and group lengths are not."""
        keys: dict[int, KeyValue] = {
            0x00080000: "",
            0x00080005: "ISO_IR 100",
            0x00080052: "STUDY",
            0x00080054: "ARCHIVE",
            0x00080056: "ONLINE",
            0x00080201: "+0100",
            0x00091001: "private",
            tag("EchoTime"): "1",
            tag("StudyDate"): "",
        }
        asked = Query.of(Level.STUDY, keys, ATTRIBUTES, model=Model.STUDY_ROOT)
        self.assertEqual([column.keyword for column in asked.columns], ["StudyDate"])
        self.assertEqual(asked.unsupported, (0x00091001, tag("EchoTime")))

    def test_wrong_kind(self) -> None:
        """A sequence as text and text as a sequence are refused, also for what is not indexed or computed."""
        self.assertIn("a sequence", self.refused("STUDY", ProcedureCodeSequence="x"))
        self.assertIn("no sequence", self.refused("STUDY", StudyDate=()))
        self.assertIn("no sequence", self.refused("STUDY", EchoTime=()))
        self.assertIn("a sequence", self.refused("STUDY", AnatomicRegionSequence=""))
        self.assertIn("no sequence", self.refused("STUDY", NumberOfStudyRelatedSeries=()))

    def test_bounds(self) -> None:
        """Queries with very many keys or values are refused."""
        many: dict[int, KeyValue] = dict.fromkeys(range(589825, 589826 + MAXIMUM_KEYS), "")
        error = self.assertRaises(DimseError, Query.of, Level.STUDY, many, ATTRIBUTES, model=Model.STUDY_ROOT)
        self.assertEqual((error.status, error.comment), (0xA900, "too many keys"))
        uids = "\\".join(f"1.2.{number}" for number in range(10_000))
        error = self.assertRaises(
            DimseError,
            query,
            "IMAGE",
            StudyInstanceUID=uids,
            SeriesInstanceUID=uids,
            SOPInstanceUID=uids,
            PatientID="P",
        )
        self.assertEqual((error.status, error.comment), (0xA900, "too many values"))

    def test_wild_cards(self) -> None:
        """Queries that would compare each row with very many patterns are refused."""

        def patterns(count: int, form: str = "*x{}*") -> str:
            return "\\".join(form.format(number) for number in range(count))

        step = tag("ScheduledProcedureStepDescription")
        cases: list[tuple[str, int, Callable[[int], dict[str, KeyValue]]]] = [
            ("STUDY", 32, lambda n: {"StudyDescription": patterns(n)}),
            ("STUDY", 16, lambda n: {"StudyDescription": patterns(n), "StudyID": patterns(16)}),
            ("STUDY", 10, lambda n: {"PatientName": patterns(n)}),  # in each of three component groups
            ("STUDY", 5, lambda n: {"PatientName": patterns(n, "x*{}^*")}),  # also without the caret
            ("STUDY", 32, lambda n: {"PatientName": patterns(n, "*{}*=")}),
            ("STUDY", 8, lambda n: {"OtherPatientIDs": patterns(n)}),
            ("STUDY", 32, lambda n: {"StudyDate": patterns(n, "20{:02}0101-")}),
            ("SERIES", 7, lambda n: {"RequestAttributesSequence": ({step: patterns(n)},)}),
            ("IMAGE", 16, lambda n: {"ContentDescription": patterns(n)}),
            ("IMAGE", 16, lambda n: {"StudyDescription": patterns(n)}),
            ("STUDY", 4, lambda n: {"StudyDescription": patterns(n, "*" + "a" * 56 + "{}")}),
            ("STUDY", 4, lambda n: {"StudyDescription": patterns(n, "*a" * 56 + "{}")}),
        ]
        for level, most, keys in cases:
            query(level, **keys(most))
            error = self.assertRaises(DimseError, query, level, **keys(most + 1))
            self.assertEqual((error.status, error.comment), (0xA900, "too many wild cards and ranges"))

    def test_no_wild_cards(self) -> None:
        """Lists of values are looked up, as many as there may be."""
        many = "\\".join(f"{number}" for number in range(256))
        query("STUDY", StudyDescription=many, PatientName=many, PatientWeight=many, OtherPatientIDs=many)


class Finding(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = MemoryFiles()
        path = Path(self.mktemp(), "index.sqlite3")
        self.index = Index(path, ATTRIBUTES, synchronous=False, files=self.files)
        self.index.open()
        self.addCleanup(self.index.close)


class ResultTests(Finding):
    def setUp(self) -> None:
        super().setUp()
        patient = {"PatientID": "P1", "PatientName": "Doe^John=ドウ^ジョン", "PatientBirthDate": "19600101"}
        other = {"PatientID": "P2", "PatientName": "Roe^Jane", "IssuerOfPatientID": "H"}
        study = {"StudyDate": "20240115", "StudyTime": "103000", "AccessionNumber": "A1"}
        self.index.put(
            [
                record("1.1", Modality="CT", InstanceNumber="2", SeriesNumber="1", **patient, **study),
                record("1.2", Modality="CT", InstanceNumber="10", SeriesNumber="1", **patient, **study),
                record("1.3", Modality="CT", InstanceNumber="1", SeriesNumber="1", **patient, **study),
                record(
                    "1.4",
                    series="1.2.21",
                    Modality="SR",
                    sop_class_uid=SR,
                    SeriesNumber="2",
                    RequestAttributesSequence=REQUEST,
                    **patient,
                    **study,
                ),
                record("1.5", study="1.2.11", series="1.2.22", Modality="MR", sop_class_uid=MR, **patient),
                record(
                    "1.6",
                    study="1.2.12",
                    series="1.2.23",
                    Modality="CT",
                    StudyDate="20240301",
                    syntax="1.2.840.10008.1.2.4.70",
                    **other,
                ),
            ]
        )

    def test_patients(self) -> None:
        """Patients come with the numbers of what there is of them."""
        rows = results(
            self.index,
            query(
                "PATIENT",
                PatientID="P1",
                PatientName="",
                PatientSex="",
                NumberOfPatientRelatedStudies="",
                NumberOfPatientRelatedSeries="",
                NumberOfPatientRelatedInstances="9",
            ),
        )
        self.assertEqual(
            rows,
            [
                {
                    "PatientID": "P1",
                    "PatientName": "Doe^John=ドウ^ジョン",
                    "PatientSex": None,
                    "NumberOfPatientRelatedStudies": "2",
                    "NumberOfPatientRelatedSeries": "3",
                    "NumberOfPatientRelatedInstances": "5",
                }
            ],
        )

    def test_studies(self) -> None:
        """Studies come with what is in them, and with their patient."""
        rows = results(
            self.index,
            query(
                "STUDY",
                Model.STUDY_ROOT,
                PatientName="doe*",
                StudyInstanceUID="1.2.10",
                ModalitiesInStudy="",
                SOPClassesInStudy="",
                NumberOfStudyRelatedSeries="",
                NumberOfStudyRelatedInstances="",
            ),
        )
        self.assertEqual(
            rows,
            [
                {
                    "PatientName": "Doe^John=ドウ^ジョン",
                    "StudyInstanceUID": "1.2.10",
                    "ModalitiesInStudy": "CT\\SR",
                    "SOPClassesInStudy": f"{CT}\\{SR}",
                    "NumberOfStudyRelatedSeries": "2",
                    "NumberOfStudyRelatedInstances": "4",
                }
            ],
        )

    def test_computed_keys(self) -> None:
        """Modalities and SOP classes in a study are matched with any that it has."""
        for key, uids in (
            ("SR", ["1.2.10"]),
            ("CT", ["1.2.10", "1.2.12"]),
            ("SR\\MR", ["1.2.10", "1.2.11"]),
            ("?R", ["1.2.10", "1.2.11"]),
            ("US", []),
        ):
            self.assertEqual(found(self.index, "STUDY", "StudyInstanceUID", ModalitiesInStudy=key), uids)
        self.assertEqual(found(self.index, "STUDY", "StudyInstanceUID", SOPClassesInStudy=MR), ["1.2.11"])
        self.assertEqual(
            found(self.index, "SERIES", "SeriesInstanceUID", ModalitiesInStudy="SR"), ["1.2.20", "1.2.21"]
        )
        self.assertEqual(
            found(self.index, "STUDY", "StudyInstanceUID", SOPClassesInStudy=f"{MR}\\{SR}"),
            ["1.2.10", "1.2.11"],
        )

    def test_transfer_syntax(self) -> None:
        """The transfer syntax of an instance can be asked for, and be a key."""
        lossless = "1.2.840.10008.1.2.4.70"
        for keyword in ("TransferSyntaxUID", "AvailableTransferSyntaxUID"):
            keys = {keyword: f"{lossless}\\1.2.3"}
            self.assertEqual(found(self.index, "IMAGE", "SOPInstanceUID", **keys), ["1.6"])
            self.assertEqual(found(self.index, "IMAGE", keyword, SOPInstanceUID="1.1"), [EXPLICIT])

    def test_joined(self) -> None:
        """Keys of the levels above narrow down what is found."""
        self.assertEqual(
            found(self.index, "IMAGE", "SOPInstanceUID", PatientID="P1", Modality="CT"), ["1.1", "1.2", "1.3"]
        )
        self.assertEqual(found(self.index, "SERIES", "SeriesInstanceUID", StudyDate="202403*"), [])
        self.assertEqual(found(self.index, "SERIES", "SeriesInstanceUID", StudyDate="20240201-"), ["1.2.23"])
        self.assertEqual(found(self.index, "SERIES", "PatientName", Modality="MR"), ["Doe^John=ドウ^ジョン"])
        self.assertEqual(found(self.index, "IMAGE", "PatientID"), ["P1"] * 5 + ["P2"])

    def test_names(self) -> None:
        """Names are matched by component groups and without regard to case."""
        for key, ids in (("ROE^JANE", ["P2"]), ("ドウ*", ["P1"]), ("=ドウ*", ["P1"]), ("*oe*", ["P1", "P2"])):
            self.assertEqual(found(self.index, "PATIENT", "PatientID", PatientName=key), ids)

    def test_sequence(self) -> None:
        """The keys of an item have to match in one stored item."""
        step, procedure = tag("ScheduledProcedureStepID"), tag("RequestedProcedureID")
        for key, uids in (
            ({step: "S2"}, ["1.2.21"]),
            ({step: "S2", procedure: "P*"}, ["1.2.21"]),
            ({step: "S2", procedure: "P1"}, []),
        ):
            self.assertEqual(
                found(self.index, "SERIES", "SeriesInstanceUID", RequestAttributesSequence=(key,)), uids
            )
        (text,) = found(
            self.index, "SERIES", "RequestAttributesSequence", RequestAttributesSequence=({step: "S1"},)
        )
        self.assertEqual(items_of(text)[1], {step: "S2", procedure: "P2"})
        self.assertEqual(len(found(self.index, "SERIES", "Modality", RequestAttributesSequence=())), 4)

    def test_multi_valued(self) -> None:
        """What SQL leaves to a test is tested, in what comes and in which instances are meant."""
        self.index.put(
            [
                record("2.1", series="1.2.30", study="1.2.13", ImageType="ORIGINAL\\PRIMARY"),
                record("2.2", series="1.2.30", study="1.2.13", ImageType="DERIVED\\ORIGINALS"),
                record("2.3", series="1.2.30", study="1.2.13", OtherPatientIDs="a\\b"),
            ]
        )
        self.assertEqual(found(self.index, "IMAGE", "SOPInstanceUID", ImageType="ORIGINAL"), ["2.1"])
        ids = self.index.find(query("IMAGE", ImageType="ORIGINAL")).instances()
        self.assertEqual([each.sop_instance_uid for each in self.index.instance(ids)], ["2.1"])
        self.assertEqual(len(self.index.find(query("PATIENT", OtherPatientIDs="b")).instances()), 3)
        self.assertEqual(len(self.index.find(query("PATIENT", OtherPatientIDs="ab")).instances()), 0)

    def test_instances(self) -> None:
        """Instances come by series and Instance Number, those without one last; with all that finds them."""
        for level, keys, uids in (
            ("PATIENT", {"PatientID": "P1"}, ["1.3", "1.1", "1.2", "1.4", "1.5"]),
            ("STUDY", {"StudyInstanceUID": "1.2.10"}, ["1.3", "1.1", "1.2", "1.4"]),
            ("SERIES", {"SeriesInstanceUID": "1.2.20\\1.2.23"}, ["1.3", "1.1", "1.2", "1.6"]),
            ("IMAGE", {"SOPInstanceUID": "1.1\\1.6\\1.9"}, ["1.1", "1.6"]),
            ("STUDY", {"StudyInstanceUID": "1.2.99"}, []),
        ):
            instances = self.index.instance(self.index.find(query(level, **keys)).instances())
            self.assertEqual([each.sop_instance_uid for each in instances], uids)
        (instance,) = self.index.instance(self.index.find(query("IMAGE", SOPInstanceUID="1.5")).instances())
        self.assertEqual(instance.parts, ("1.2.11", "1.2.22", "1.5.dcm"))
        self.assertEqual((instance.sop_class_uid, instance.transfer_syntax_uid), (MR, EXPLICIT))

    def test_timezone(self) -> None:
        """PS3.4 C.4.1.1.3.1: an offset from UTC says how times are meant, and leaves nothing out."""
        attributes = Attributes(["STUDY:TimezoneOffsetFromUTC"])
        for each in (ATTRIBUTES, attributes):
            asked = query("STUDY", attributes=each, PatientID="P2", TimezoneOffsetFromUTC="+0100")
            self.assertEqual(results(self.index, asked), [{"PatientID": "P2"}])

    def test_extended(self) -> None:
        """Attributes that are indexed besides are matched and returned like others."""
        attributes = Attributes(["SERIES:SliceThickness", "EchoTime"])
        index = Index(Path(self.mktemp(), "i"), attributes, synchronous=False, files=self.files)
        self.addCleanup(index.close)
        index.open()
        index.put([record("1.1", SliceThickness="5.0", EchoTime="80")])
        asked = query("IMAGE", attributes=attributes, SliceThickness="5", EchoTime="")
        self.assertEqual(results(index, asked), [{"SliceThickness": "5.0", "EchoTime": "80"}])

    def test_unknown(self) -> None:
        """Objects without UIDs of study and series are found by other keys, and have none."""
        each = record(
            "3.1",
            study="unknown-study",
            series="unknown-series",
            StudyInstanceUID="",
            SeriesInstanceUID="",
            Modality="OT",
        )
        self.index.put([each])
        self.assertEqual(found(self.index, "SERIES", "StudyInstanceUID", Modality="OT"), [None])
        ids = self.index.find(query("SERIES", Modality="OT")).instances()
        (instance,) = self.index.instance(ids)
        self.assertEqual(instance.parts, ("unknown-study", "unknown-series", "3.1.dcm"))


class DatetimeTests(Finding):
    """Dates and times that are one, as negotiated, or two."""

    def setUp(self) -> None:
        super().setUp()
        self.index.put(
            [
                record(f"{number}", study=f"1.{number}", StudyDate=date, StudyTime=time)
                for number, (date, time) in enumerate(
                    [
                        ("20240101", "0900"),
                        ("20240101", "1100"),
                        ("20240102", "0900"),
                        ("20240103", "0900"),
                        ("20240103", "1100"),
                        ("20240103", ""),
                        ("", "1000"),
                    ]
                )
            ]
        )

    def find(self, combined: bool, date: str, time: str) -> list[str | None]:
        asked = query(
            "STUDY", combined_datetime=combined, StudyInstanceUID="", StudyDate=date, StudyTime=time
        )
        return sorted(row["StudyInstanceUID"] or "" for row in results(self.index, asked))

    def test_apart(self) -> None:
        """Date and time apart are a range of days, and a range of hours in each of them."""
        self.assertEqual(self.find(False, "20240101-20240103", "1000-1200"), ["1.1", "1.4"])
        self.assertEqual(self.find(False, "20240103", ""), ["1.3", "1.4", "1.5"])
        self.assertEqual(self.find(False, "", "1000"), ["1.6"])

    def test_combined(self) -> None:
        """Date and time as one are a range from the one instant to the other."""
        self.assertEqual(self.find(True, "20240101-20240103", "1000-1000"), ["1.1", "1.2", "1.3"])
        self.assertEqual(self.find(True, "20240101-", "1000-"), ["1.1", "1.2", "1.3", "1.4", "1.5"])
        self.assertEqual(self.find(True, "-20240101", "-1000"), ["1.0"])
        self.assertEqual(self.find(True, "20240101-20240103", "1000-"), ["1.1", "1.2", "1.3", "1.4", "1.5"])
        self.assertEqual(self.find(True, "20240101-20240102", ""), ["1.0", "1.1", "1.2"])
        self.assertEqual(self.find(True, "", "0900-1000"), ["1.0", "1.2", "1.3", "1.6"])
        self.assertEqual(self.find(True, "20240101", "0800-1000"), ["1.0"])

    def test_lists(self) -> None:
        """With several dates or times they are two."""
        self.assertEqual(self.find(True, "20240101\\20240103", "1000-1200"), ["1.1", "1.4"])
