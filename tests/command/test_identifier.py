"""dicomtw.command.identifier: from -L and -k to the identifier of a query."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.command.arguments import LEVELS, MODELS, parser
from dicomtw.command.exits import Fault
from dicomtw.command.identifier import (
    SOP_CLASSES,
    UNIQUE,
    USUAL,
    Question,
    data_set_of,
    key_of,
    question_of,
)
from dicomtw.encoding import dictionary
from dicomtw.storage.index.attributes import Level
from dicomtw.transcode import decode, encode


def question(words: str) -> Question:
    return question_of(parser().parse_args(["find", "localhost:104", *words.split()]))


def identifier(*keys: str, level: str = "STUDY") -> Dataset:
    """What these keys come to when they have been over the network."""
    data_set = data_set_of(level, [key_of(key) for key in keys])
    for transfer_syntax in (uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN):
        sent: Any = decode(encode(data_set, transfer_syntax), transfer_syntax)
    return sent


class KeyTests(SynchronousTestCase):
    def test_spellings(self) -> None:
        """A key is a keyword or a tag, however that is written."""
        for word in ("PatientName", "00100010", "0010,0010", "(0010,0010)"):
            key = key_of(f"{word}=DOE*")
            self.assertEqual((key.column, key.value), ("PatientName", "DOE*"))

    def test_no_value(self) -> None:
        """A key without a value, or with an empty one, is one that is asked for."""
        for text in ("PatientName", "PatientName="):
            self.assertIsNone(key_of(text).value)

    def test_value_with_equals_sign(self) -> None:
        """Only the first equals sign is ours: those in names are of their component groups."""
        self.assertEqual(key_of("PatientName=A=B").value, "A=B")

    def test_private(self) -> None:
        """A tag that is in no dictionary can be asked for."""
        key = key_of("00091001=X")
        self.assertEqual((key.column, key.path[0].vr), ("00091001", "LO"))

    def test_sequence(self) -> None:
        """Keys in sequences have their path, with or without DCMTK's item number."""
        for text in (
            "RequestAttributesSequence.RequestedProcedureID=7",
            "RequestAttributesSequence[0].RequestedProcedureID=7",
        ):
            self.assertEqual(
                [one.keyword for one in key_of(text).path],
                ["RequestAttributesSequence", "RequestedProcedureID"],
            )

    def test_wrong(self) -> None:
        """What is no key is told, with what it may have been."""
        cases = [
            ("PatientNam=X", "-k PatientNam=X: no attribute 'PatientNam'; did you mean PatientName?"),
            ("=X", "-k =X: no attribute ''"),
            ("0010=X", "-k 0010=X: no attribute '0010'"),
            ("PatientName.PatientID", "-k PatientName.PatientID: PatientName is no sequence"),
            ("PixelData=1", "-k PixelData=1: PixelData (OB) takes no value"),
            (
                "RequestAttributesSequence=1",
                "-k RequestAttributesSequence=1: RequestAttributesSequence (SQ) takes no value",
            ),
        ]
        for text, said in cases:
            self.assertEqual(str(self.assertRaises(Fault, key_of, text)), said)


class QuestionTests(SynchronousTestCase):
    def test_models(self) -> None:
        """The model is Study Root unless the level is above studies, or another is chosen."""
        self.assertEqual(question("").model, "study")
        self.assertEqual(question("-L PATIENT").model, "patient")
        self.assertEqual(question("-L SERIES --model patient").model, "patient")
        self.assertEqual(question("-L STUDY --model patient-study").model, "patient-study")

    def test_wrong_levels(self) -> None:
        """A model that has not got the level is a fault."""
        for words in ("-L PATIENT --model study", "-L IMAGE --model patient-study"):
            self.assertIn("has no level", str(self.assertRaises(Fault, question, words)))
        for words in ("-L IMAGE --model study", "-L STUDY --model patient-study", "-L IMAGE --model patient"):
            question(words)
        self.assertEqual(LEVELS, tuple(level.value for level in Level))

    def test_sop_classes(self) -> None:
        """Each model has its SOP classes to find, move and get."""
        self.assertEqual([*SOP_CLASSES], [*MODELS])
        for model, (find, move, get) in SOP_CLASSES.items():
            for uid, operation in ((find, "FIND"), (move, "MOVE"), (get, "GET")):
                name = uids.name_of(uid).lower().replace("/", "-")
                self.assertRegex(name, rf"\A{model} .* - {operation.lower()}\b")

    def test_usual_keys(self) -> None:
        """Who asks for nothing sees what is usual, after what is matched; who asks for some sees that."""
        usual = question("-k PatientName=DOE*").with_usual_keys()
        self.assertEqual(usual.columns[0], "PatientName")
        self.assertCountEqual(usual.columns, USUAL["STUDY"])
        self.assertEqual([key.value for key in usual.keys if key.value], ["DOE*"])
        asked = question("-k PatientName=DOE* -k StudyDate -k PatientName").with_usual_keys()
        self.assertEqual(asked.columns, ("PatientName", "StudyDate"))

    def test_usual_keys_exist(self) -> None:
        """All keys named here are attributes, and the unique ones are among the usual ones."""
        for level in LEVELS:
            self.assertIn(UNIQUE[level], USUAL[level])
            for keyword in USUAL[level]:
                self.assertIsNotNone(dictionary.by_keyword(keyword), keyword)

    def test_selecting(self) -> None:
        """What is to be retrieved is told by the unique key of its level."""
        for words in ("", "-k StudyInstanceUID", "-L SERIES -k StudyInstanceUID=1.2"):
            self.assertIn(
                "say what is wanted with -k", str(self.assertRaises(Fault, question(words).selecting))
            )
        wanted = question("-L SERIES -k StudyInstanceUID=1.2 -k SeriesInstanceUID=1.3")
        self.assertIs(wanted.selecting(), wanted)


class IdentifierTests(SynchronousTestCase):
    def test_values(self) -> None:
        """Values get to the peer as they were written: wild cards, ranges, lists, numbers."""
        sent = identifier(
            "PatientName=D?E^*",
            "StudyDate=20200101-",
            "StudyInstanceUID=1.2\\1.3",
            "Rows=512",
            "InstanceNumber=7",
        )
        self.assertEqual(sent.QueryRetrieveLevel, "STUDY")
        self.assertEqual(sent.PatientName, "D?E^*")
        self.assertEqual(sent.StudyDate, "20200101-")
        self.assertEqual(sent.StudyInstanceUID, ["1.2", "1.3"])
        self.assertEqual((sent.Rows, sent.InstanceNumber), (512, 7))
        self.assertNotIn("SpecificCharacterSet", sent)

    def test_empty(self) -> None:
        """Attributes of any VR can be asked for."""
        keys = ("PatientName", "Rows", "InstanceNumber", "PatientSize", "SliceThickness", "PixelData")
        sent = identifier(*keys, "OriginalAttributesSequence", "FrameIncrementPointer", "00091001")
        for element in sent:
            if element.keyword != "QueryRetrieveLevel":
                self.assertTrue(element.is_empty, element)
        self.assertEqual(len(sent), len(keys) + 4)

    def test_sequences(self) -> None:
        """Keys in a sequence share its one item, at any depth."""
        sent = identifier(
            "RequestAttributesSequence.RequestedProcedureID=7",
            "RequestAttributesSequence",
            "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue=X",
            "RequestAttributesSequence.ScheduledProcedureStepID",
        )
        (item,) = sent.RequestAttributesSequence
        self.assertEqual(item.RequestedProcedureID, "7")
        self.assertEqual(item.ScheduledProtocolCodeSequence[0].CodeValue, "X")
        self.assertEqual(item.ScheduledProcedureStepID, "")

    def test_character_sets(self) -> None:
        """A name is sent in Latin-1 if that has its characters, else in UTF-8; who sets one has his."""
        for name, expected in (("MÜLLER*", "ISO_IR 100"), ("山田*", "ISO_IR 192")):
            sent = identifier(f"PatientName={name}")
            self.assertEqual(sent.SpecificCharacterSet, expected)
            self.assertEqual(str(sent.PatientName), name)
        sent = identifier("SpecificCharacterSet=ISO_IR 192", "PatientName=MÜLLER*")
        self.assertEqual(sent.SpecificCharacterSet, "ISO_IR 192")
        self.assertEqual(str(sent.PatientName), "MÜLLER*")

    def test_wrong_values(self) -> None:
        """A value that is none of its VR is a fault that names both."""
        for key in (
            "Rows=many",
            "Rows=1.5",
            "InstanceNumber=1*",
            "SliceThickness=thick",
            "DetectorElementSize=x",
        ):
            fault = self.assertRaises(Fault, identifier, key)
            self.assertRegex(str(fault), rf"\A-k {key.replace('*', '[*]')}: no value of VR [A-Z]{{2}}\Z")
