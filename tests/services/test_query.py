"""PS3.4 C.4.1: what C-FIND answers, from the identifier of the request to those of the responses."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.encoding.data_set import Element
from dicomtw.encoding.data_set import encode as encode_elements
from dicomtw.errors import OperationFailed
from dicomtw.scu import SCU
from dicomtw.services.query import Query, agreed
from dicomtw.services.storage import Storage
from dicomtw.testing import MemoryServer, MemoryStore
from dicomtw.transcode import encode
from tests.services.archive import EXPLICIT, IMPLICIT, Archive, ct, data_set

MODELS = (uids.PATIENT_ROOT_FIND, uids.STUDY_ROOT_FIND, uids.PATIENT_STUDY_ONLY_FIND)


class QueryTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.archive = Archive(Path(self.mktemp()))
        self.addCleanup(self.archive.index.close)
        self.server = MemoryServer.of(Query(self.archive.index, self.archive, "PMOD"), Storage(MemoryStore()))

    def scu(self, *contexts: Any, **options: Any) -> SCU:
        return self.server.associate(contexts or MODELS, **options)

    def find(
        self, level: str, scu: SCU | None = None, model: str = uids.STUDY_ROOT_FIND, **keys: Any
    ) -> list[Dataset]:
        """What is found, in all."""
        matches = (scu or self.scu()).c_find(data_set(QueryRetrieveLevel=level, **keys), sop_class_uid=model)
        return self.result(matches.all())  # type: ignore[no-any-return]

    def result(self, deferred: Deferred[Any]) -> Any:
        self.server.clock.advance(0)
        return self.successResultOf(deferred)

    def refusal(self, level: str, scu: SCU | None = None, **keys: Any) -> tuple[int, str]:
        """Status and comment of a query that is refused."""
        matches = (scu or self.scu()).c_find(data_set(QueryRetrieveLevel=level, **keys)).all()
        self.server.clock.advance(0)
        fault = self.failureResultOf(matches, OperationFailed).value
        return fault.status, fault.comment


class AnswerTests(QueryTestCase):
    def test_levels(self) -> None:
        """Each model answers at each of its levels, with the unique keys of the levels above."""
        self.archive.fill(studies=2, series=2, instances=3)
        patient, study, series = (
            {"PatientID": "P1"},
            {"StudyInstanceUID": "1.1"},
            {"SeriesInstanceUID": "1.1.2"},
        )
        scu = self.scu()
        cases: list[tuple[str, str, dict[str, str], int]] = [
            (uids.PATIENT_ROOT_FIND, "PATIENT", {"PatientID": ""}, 2),
            (uids.PATIENT_ROOT_FIND, "STUDY", {**patient, "StudyInstanceUID": ""}, 1),
            (uids.PATIENT_ROOT_FIND, "SERIES", {**patient, **study, "SeriesInstanceUID": ""}, 2),
            (uids.PATIENT_ROOT_FIND, "IMAGE", {**patient, **study, **series, "SOPInstanceUID": ""}, 3),
            (uids.STUDY_ROOT_FIND, "STUDY", {"StudyInstanceUID": ""}, 2),
            (uids.STUDY_ROOT_FIND, "SERIES", {**study, "SeriesInstanceUID": ""}, 2),
            (uids.STUDY_ROOT_FIND, "IMAGE", {**study, **series, "SOPInstanceUID": ""}, 3),
            (uids.PATIENT_STUDY_ONLY_FIND, "PATIENT", {"PatientID": ""}, 2),
            (uids.PATIENT_STUDY_ONLY_FIND, "STUDY", {**patient, "StudyInstanceUID": ""}, 1),
        ]
        for model, level, keys, count in cases:
            self.assertEqual(len(self.find(level, scu, model, **keys)), count, (model, level))

    def test_answer(self) -> None:
        """An answer has the keys of the request, the level, and where the entity can be retrieved from."""
        self.archive.fill(studies=1)
        (found,) = self.find(
            "STUDY",
            PatientName="patient^*",
            StudyInstanceUID="",
            StudyDate="20200102-",
            StudyDescription="",
            ModalitiesInStudy="",
            NumberOfStudyRelatedInstances="",
            InstanceAvailability="",
        )
        expected = data_set(
            StudyDate="20200102",
            QueryRetrieveLevel="STUDY",
            RetrieveAETitle="PMOD",
            InstanceAvailability="ONLINE",
            ModalitiesInStudy="CT",
            StudyDescription="",
            PatientName="Patient^1",
            StudyInstanceUID="1.1",
            NumberOfStudyRelatedInstances="6",
        )
        self.assertEqual(found, expected)

    def test_numbers(self) -> None:
        """Numbers come as numbers, whatever the transfer syntax of the context."""
        self.archive.fill(studies=1, series=1, instances=1)
        above = {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}
        for syntax in (IMPLICIT, EXPLICIT, uids.EXPLICIT_VR_BIG_ENDIAN):
            scu = self.scu((uids.STUDY_ROOT_FIND, [syntax]))
            (found,) = self.find("IMAGE", scu, SOPInstanceUID="", Rows=None, InstanceNumber="", **above)
            self.assertEqual((found.Rows, found.InstanceNumber), (2, 1), syntax)

    def test_sequences(self) -> None:
        """A sequence is matched item by item, and answered with the keys that were asked for in it."""
        for number in (1, 2):
            step = data_set(ScheduledProcedureStepID=f"SPS{number}", RequestedProcedureID=f"RP{number}")
            self.archive.add(ct(1, number, RequestAttributesSequence=Sequence([step])))
        key = data_set(ScheduledProcedureStepID="SPS2")
        (found,) = self.find(
            "SERIES", StudyInstanceUID="1.1", SeriesInstanceUID="", RequestAttributesSequence=Sequence([key])
        )
        self.assertEqual(found.SeriesInstanceUID, "1.1.2")
        self.assertEqual(list(found.RequestAttributesSequence), [key])
        found = self.find(
            "SERIES", StudyInstanceUID="1.1", SeriesInstanceUID="", RequestAttributesSequence=Sequence()
        )
        self.assertEqual(len(found), 2)
        self.assertEqual(found[0].RequestAttributesSequence[0].RequestedProcedureID, "RP1")

    def test_wrong_values_in_sequences(self) -> None:
        """What a file has in an item and the dictionary does not allow there is answered empty."""
        instance = ct(1)
        item = {0x00280010: Element(0x00280010, "LO", b"abc "), 0x00400009: Element(0x00400009, "SH", b"S1")}
        sequence = encode_elements([Element(0x00400275, "SQ", (item,))], EXPLICIT)
        self.archive.add(instance, content=encode(instance, EXPLICIT) + sequence)
        scu = self.scu()
        (found,) = self.find(
            "SERIES", scu, StudyInstanceUID="1.1", SeriesInstanceUID="", RequestAttributesSequence=Sequence()
        )
        (item,) = found.RequestAttributesSequence
        self.assertEqual(item, data_set(Rows=None, ScheduledProcedureStepID="S1"))
        self.assertEqual(
            len(self.find("STUDY", scu, StudyInstanceUID="")), 1, "the association is there still"
        )

    def test_unsupported_keys(self) -> None:
        """PS3.4 C.4.1.1.4: a key that is not supported is not answered, and the status says so."""
        self.archive.fill(studies=1, series=1, instances=1)
        scu = self.scu()
        for keys, unsupported in (
            ({"PatientID": ""}, False),
            ({"PatientID": "", "KVP": ""}, True),
            ({"PatientID": "", "Modality": ""}, True),
        ):
            matches = scu.c_find(data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID="", **keys))
            (found,) = self.result(matches.all())
            self.assertEqual(matches.unsupported_keys, unsupported)
            self.assertNotIn("KVP", found)
            self.assertNotIn("Modality", found)

    def test_timezone(self) -> None:
        """An offset from UTC in a request is no key: what was stored without one is found."""
        self.archive.fill(studies=1, series=1, instances=1)
        scu = self.scu()
        keys = data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID="", TimezoneOffsetFromUTC="+0100")
        matches = scu.c_find(keys)
        (found,) = self.result(matches.all())
        self.assertEqual(found.StudyInstanceUID, "1.1")
        self.assertNotIn("TimezoneOffsetFromUTC", found)
        self.assertFalse(matches.unsupported_keys)

    def test_nothing(self) -> None:
        """Nothing found is a success, too."""
        self.assertEqual(self.find("STUDY", StudyInstanceUID=""), [])


class CharacterSetTests(QueryTestCase):
    NAME = "Yamada^Tarou=山田^太郎=やまだ^たろう"

    def setUp(self) -> None:
        super().setUp()
        self.archive.add(ct(1, PatientName=self.NAME, SpecificCharacterSet=["", "ISO 2022 IR 87"]))
        self.archive.add(ct(2, PatientName="Äneas^Rüdiger", SpecificCharacterSet="ISO_IR 100"))
        self.archive.add(ct(3, PatientName="Διονυσιος", SpecificCharacterSet="ISO_IR 126"))

    def name(self, name: str, terms: str | list[str] | None = None) -> tuple[str, Any]:
        """The name that is found by a name, and the Specific Character Set of the answer."""
        keys = {} if terms is None else {"SpecificCharacterSet": terms}
        (found,) = self.find("STUDY", StudyInstanceUID="", **keys, PatientName=name)
        return str(found.PatientName), found.get("SpecificCharacterSet")

    def test_requestors_character_set(self) -> None:
        """A name is answered in the character set of the request where that reaches."""
        for name, terms in (
            (self.NAME, "ISO_IR 192"),
            (self.NAME, ["", "ISO 2022 IR 87"]),
            ("Äneas^Rüdiger", "ISO_IR 100"),
            ("Äneas^Rüdiger", "ISO_IR 192"),
            ("Διονυσιος", "ISO_IR 126"),
        ):
            self.assertEqual(self.name(name, terms), (name, terms))

    def test_other_character_set(self) -> None:
        """Where it does not reach, and without one, Latin-1 does or UTF-8."""
        self.assertEqual(self.name("yamada^*"), (self.NAME, "ISO_IR 192"))
        self.assertEqual(self.name("?neas*"), ("Äneas^Rüdiger", "ISO_IR 100"))
        self.assertEqual(self.name("?neas*", "ISO_IR 126"), ("Äneas^Rüdiger", "ISO_IR 100"))
        self.assertEqual(self.name("=山田*", "ISO_IR 192"), (self.NAME, "ISO_IR 192"))

    def test_ascii(self) -> None:
        """What is ASCII is answered without a character set."""
        self.archive.add(ct(4))
        self.assertEqual(self.name("Patient^4", "ISO_IR 192"), ("Patient^4", None))

    def test_case(self) -> None:
        """Names match whatever their case, beyond ASCII too."""
        self.assertEqual(self.name("ÄNEAS^RÜDIGER", "ISO_IR 192")[0], "Äneas^Rüdiger")
        self.assertEqual(self.name("διονυσιοσ", "ISO_IR 192")[0], "Διονυσιος")


class RefusalTests(QueryTestCase):
    def test_level(self) -> None:
        """PS3.4 C.4.1.1.3.1: without a level, or with one that is not the model's, there is no answer."""
        self.assertEqual(self.refusal("FRAME")[0], 0xA900)
        self.assertEqual(self.refusal("PATIENT", PatientID="")[0], 0xA900, "Study Root has none")
        matches = self.scu().c_find(data_set(PatientID="")).all()
        self.server.clock.advance(0)
        self.assertEqual(self.failureResultOf(matches, OperationFailed).value.status, 0xA900)

    def test_hierarchy(self) -> None:
        """Without relational queries the unique keys of the levels above are single values."""
        for keys in ({}, {"StudyInstanceUID": ""}, {"StudyInstanceUID": ["1.1", "1.2"]}):
            status, comment = self.refusal("SERIES", SeriesInstanceUID="", **keys)
            self.assertEqual(status, 0xA900)
            self.assertIn("StudyInstanceUID", comment)

    def test_kinds(self) -> None:
        """A text where a sequence is due, and the reverse, are no keys; the peer is served on."""
        scu = self.scu((uids.STUDY_ROOT_FIND, [EXPLICIT]))
        text = encode(data_set(QueryRetrieveLevel="STUDY"), EXPLICIT)
        for wrong in (
            b"\x40\x00\x75\x02LO\x04\x00text",  # Request Attributes Sequence
            b"\x10\x00\x20\x00SQ\0\0\x08\0\0\0\xfe\xff\x00\xe0\0\0\0\0",  # Patient ID
        ):
            matches = scu.c_find(Encoded(text + wrong)).all()
            self.server.clock.advance(0)
            self.assertEqual(self.failureResultOf(matches, OperationFailed).value.status, 0xA900, wrong)
        self.assertEqual(self.find("STUDY", scu, StudyInstanceUID=""), [])

    def test_unreadable(self) -> None:
        """An identifier that cannot be decoded is refused, nested without end too."""
        scu = self.scu((uids.STUDY_ROOT_FIND, [EXPLICIT]))
        deep = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 10_000
        for wrong in (b"\xff", b"\x10\x00\x20\x00LO\xff\x00short", deep):
            matches = scu.c_find(Encoded(wrong)).all()
            self.server.clock.advance(0)
            self.assertEqual(self.failureResultOf(matches, OperationFailed).value.status, 0xA900)

    def test_index(self) -> None:
        """An index that fails is A700H; why it does is for our log, not for the peer."""
        self.archive.fault = "it is being made from the files"
        with capturedLogs() as events:
            answer = self.refusal("STUDY", StudyInstanceUID="")
        self.assertEqual(answer, (0xA700, "the index is not available"))
        self.assertIn("index: it is being made from the files", [event.get("what") for event in events])
        self.archive.fault = ""
        self.archive.index.close()
        self.assertEqual(self.refusal("STUDY", StudyInstanceUID="")[0], 0xA700)


class Encoded(Dataset):
    """A data set that is encoded as these bytes."""

    def __init__(self, encoded: bytes) -> None:
        super().__init__()
        self.encoded = encoded


class NegotiationTests(QueryTestCase):
    def test_agreed(self) -> None:
        """What is asked for and supported is agreed on, in as many bytes as are asked for."""
        cases = {b"": b"", b"\1": b"\1", b"\0": b"\0", b"\1\1\1\1\1": b"\1\1\0\0\0", b"\0\1": b"\0\1"}
        for asked, answer in cases.items():
            self.assertEqual(agreed(asked, (1, 1, 0, 0, 0)), answer)
        self.assertEqual(agreed(bytes([1] * 9), (1, 0)), b"\1\0")

    def test_relational(self) -> None:
        """A relational query needs no keys of the levels above."""
        self.archive.fill(studies=2, series=2, instances=1)
        scu = self.scu(extended_negotiation={uids.STUDY_ROOT_FIND: b"\1"})
        found = self.find("IMAGE", scu, SOPInstanceUID="", PatientName="*2")
        self.assertEqual([one.SOPInstanceUID for one in found], ["1.2.1.1", "1.2.2.1"])

    def test_date_and_time(self) -> None:
        """Date and time are one where that is negotiated, and two without."""
        self.archive.fill(studies=4, series=1, instances=1)
        keys = {"StudyInstanceUID": "", "StudyDate": "20200103-20200104", "StudyTime": "020000-031000"}
        self.assertEqual([one.StudyInstanceUID for one in self.find("STUDY", **keys)], ["1.2"])
        scu = self.scu(extended_negotiation={uids.STUDY_ROOT_FIND: b"\0\1"})
        keys["StudyTime"] = "030000-033000"
        found = self.find("STUDY", scu, **keys)
        self.assertEqual([one.StudyInstanceUID for one in found], ["1.3"])


class StreamTests(QueryTestCase):
    def test_cancel(self) -> None:
        """PS3.7 9.3.2.3: a query whose matches are not wanted any more ends with FE00H."""
        self.archive.enter(500)
        scu = self.scu()
        (_, theirs) = self.server.connections[-1]
        matches = scu.c_find(data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID=""))
        got: list[str] = []

        async def some() -> None:
            async with aclosing(matches):
                async for match in matches:
                    got.append(match.StudyInstanceUID)
                    if len(got) == 10:
                        break

        self.result(Deferred.fromCoroutine(some()))
        self.assertEqual(len(got), 10)
        self.assertTrue(theirs.connected)
        (protocol,) = self.server.factory.connections
        self.assertEqual(protocol.association.operations["C-FIND"], 1)

    def test_unread(self) -> None:
        """A peer that does not read pauses the query, whatever there is to come."""
        self.archive.enter(3000)
        scu = self.scu()
        ours, theirs = self.server.connections[-1]
        ours.slow = True
        matches = scu.c_find(
            data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID="", PatientName="", StudyDate="")
        ).all()
        self.server.clock.advance(1)
        self.assertLess(theirs.peak, 2 * theirs.BUFFER)
        self.assertNoResult(matches)
        ours.slow = False
        self.assertEqual(len(self.result(matches)), 3000)
        self.assertLess(theirs.peak, 2 * theirs.BUFFER)
