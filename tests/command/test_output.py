"""dicomtw.command.output: what is found, in the forms that people and programs read."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from pydicom.dataset import Dataset
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.command.output import Form, Written, cells, form_of, plain
from dicomtw.transcode import decode, encode


def match(**values: Any) -> Dataset:
    """A match as it comes from a peer."""
    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    syntax = uids.EXPLICIT_VR_LITTLE_ENDIAN
    come: Dataset = decode(encode(data_set, syntax), syntax)
    return come


def text_of(form: Form, *matches: Dataset) -> str:
    return "".join([form.begin(), *map(form.match, matches), form.end()])


JANE = match(
    SpecificCharacterSet="ISO_IR 192",
    PatientName="DOE^JANE=山田^花子",
    PatientID="7",
    ModalitiesInStudy=["CT", "SR"],
    NumberOfStudyRelatedInstances=3,
    StudyDate="",
)


class PlainTests(SynchronousTestCase):
    def test_values(self) -> None:
        """Numbers are numbers, text is text, and an array is what may have several values."""
        item = Dataset()
        item.CodeValue = "X"
        found = match(
            PatientName="DOE",
            ModalitiesInStudy="CT",
            OtherPatientNames=None,
            InstanceNumber="7",
            SliceThickness="1.50",
            PixelSpacing=["0.5", "0.25"],
            Rows=512,
            PatientSex="",
            ProcedureCodeSequence=[item],
            StudyInstanceUID="1.2",
        )
        self.assertEqual(
            plain(found),
            {
                "PatientName": "DOE",
                "ModalitiesInStudy": ["CT"],
                "OtherPatientNames": [],
                "InstanceNumber": 7,
                "SliceThickness": 1.5,
                "PixelSpacing": [0.5, 0.25],
                "Rows": 512,
                "PatientSex": None,
                "ProcedureCodeSequence": [{"CodeValue": "X"}],
                "StudyInstanceUID": "1.2",
            },
        )

    def test_private(self) -> None:
        """What has no keyword is called by its tag, and bytes are in base 64."""
        found = Dataset()
        found.add_new(0x00090010, "LO", "ACME")
        found.add_new(0x00091001, "OB", b"\1\2")
        self.assertEqual(plain(found), {"00090010": "ACME", "00091001": "AQI="})

    def test_not_of_its_vr(self) -> None:
        """A value that is none of its VR is told as it came."""
        raw = b"\x20\x00\x13\x00IS\x04\x00many" + b"\x28\x00\x10\x00US\x03\x00abc"
        found = decode(raw, uids.EXPLICIT_VR_LITTLE_ENDIAN)
        self.assertEqual(plain(found), {"InstanceNumber": "many", "Rows": "abc"})
        self.assertEqual(cells(found, ["Rows"]), ["abc"])
        self.flushWarnings()  # pydicom's

    def test_several_where_one_is_due(self) -> None:
        """Several values of what should have one are an array."""
        raw = b"\x10\x00\x20\x00LO\x04\x00A\\B "
        found = decode(raw, uids.EXPLICIT_VR_LITTLE_ENDIAN)
        self.assertEqual(plain(found), {"PatientID": ["A", "B"]})

    def test_cells(self) -> None:
        """As text several values have a backslash between them, and what did not come is empty."""
        columns = ["ModalitiesInStudy", "PatientName", "StudyDate", "Rows", "NumberOfStudyRelatedInstances"]
        self.assertEqual(cells(JANE, columns), ["CT\\SR", "DOE^JANE=山田^花子", "", "", "3"])


class FormTests(SynchronousTestCase):
    def test_json(self) -> None:
        """JSON has an object on a line for each match, with all that came."""
        lines = text_of(form_of("json", ["PatientID"]), JANE, JANE).splitlines()
        self.assertEqual(len(lines), 2)
        self.assertEqual(json.loads(lines[0])["ModalitiesInStudy"], ["CT", "SR"])
        self.assertIn("山田", lines[0])

    def test_dicom_json(self) -> None:
        """The DICOM JSON Model is that of PS3.18, a match a line."""
        (line,) = text_of(form_of("dicom-json", []), JANE).splitlines()
        self.assertEqual(json.loads(line)["00080061"], {"vr": "CS", "Value": ["CT", "SR"]})

    def test_csv(self) -> None:
        """CSV has a line of keywords, and can be read again whatever is in the values."""
        found = match(PatientName='DOE, "JANE"', StudyDescription="a;b")
        columns = ["StudyDescription", "PatientName", "StudyDate"]
        text = text_of(form_of("csv", columns), found)
        self.assertEqual([*csv.reader(io.StringIO(text))], [columns, ["a;b", 'DOE, "JANE"', ""]])
        self.assertNotIn("\r", text)

    def test_table(self) -> None:
        """A table has columns as wide as they need to be, also for wide characters."""
        text = text_of(
            form_of("table", ["PatientName", "PatientID"]), JANE, match(PatientName="A", PatientID="8")
        )
        self.assertEqual(
            text,
            "PatientName         PatientID\n"
            "------------------  ---------\n"
            "DOE^JANE=山田^花子  7\n"
            "A                   8\n",
        )

    def test_no_match(self) -> None:
        """Where nothing is found only CSV has a line, its first."""
        for name, expected in [("table", ""), ("json", ""), ("dicom-json", ""), ("csv", "PatientID\n")]:
            self.assertEqual(text_of(form_of(name, ["PatientID"])), expected)

    def test_long_table(self) -> None:
        """A table does not wait for its end, and later rows may be wider than their columns."""
        form = form_of("table", ["PatientID"])
        texts = [form.match(match(PatientID=str(number) * (1 + 9 * (number > 300)))) for number in range(302)]
        self.assertEqual([at for at, text in enumerate(texts) if text][:3], [199, 200, 201])
        self.assertEqual(texts[301], "301" * 10 + "\n")
        self.assertEqual(form.end(), "")

    def test_control_characters(self) -> None:
        """No value of a table moves the cursor."""
        raw = b"\x10\x00\x20\x00LO\x0a\x00\x1b[31mA\x07\x9bB "
        text = text_of(form_of("table", ["PatientID"]), decode(raw, uids.EXPLICIT_VR_LITTLE_ENDIAN))
        self.assertEqual([character for character in text if ord(character) < 32 and character != "\n"], [])
        self.assertNotIn("\x9b", text)
        self.flushWarnings()  # pydicom's


class _Reader:
    """A stream whose reader takes its time: calls wait until `read`."""

    encoding = "ascii"

    def __init__(self) -> None:
        self.text = ""
        self.fault: Exception | None = None
        self.waiting: list[tuple[Deferred[None], Any]] = []

    def in_thread(self, function: Any) -> Deferred[None]:
        called: Deferred[None] = Deferred()
        self.waiting.append((called, function))
        return called

    def read(self) -> None:
        waiting, self.waiting = self.waiting, []
        for called, function in waiting:
            try:
                function()
            except Exception:
                called.errback()
            else:
                called.callback(None)

    def write(self, text: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.text += text

    def flush(self) -> None:
        pass


class WrittenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reader = _Reader()
        self.written = Written(self.reader.in_thread, self.reader)

    def write(self, text: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self.written.write(text))

    def test_order(self) -> None:
        """What is written while the reader is busy follows in one piece, in order."""
        for text in ("a", "b", "", "c"):
            self.successResultOf(self.write(text))
        self.assertEqual(len(self.reader.waiting), 1)
        self.reader.read()
        self.assertEqual(self.reader.text, "a")
        flushed = Deferred.fromCoroutine(self.written.flush())
        self.assertNoResult(flushed)
        self.reader.read()
        self.successResultOf(flushed)
        self.assertEqual(self.reader.text, "abc")

    def test_slow_reader(self) -> None:
        """Who writes waits where too much waits to be read."""
        self.successResultOf(self.write("a"))
        late = self.write("b" * 70000)
        self.assertNoResult(late)
        self.reader.read()
        self.assertNoResult(late)
        self.reader.read()
        self.successResultOf(late)

    def test_nobody_reads(self) -> None:
        """When nobody reads any more, who writes next is told."""
        self.reader.fault = BrokenPipeError()
        self.successResultOf(self.write("a"))
        self.reader.read()
        self.failureResultOf(self.write("b"), BrokenPipeError)
        self.failureResultOf(Deferred.fromCoroutine(self.written.flush()), BrokenPipeError)

    def test_encoding(self) -> None:
        """What the stream's encoding does not have is replaced, not raised."""
        self.successResultOf(self.write("Ä\n"))
        self.reader.read()
        self.assertEqual(self.reader.text, "?\n")

    def test_at_once(self) -> None:
        """Where writing does not wait nothing is left to flush."""
        reader = _Reader()
        written = Written(lambda function: succeed(function()), reader)
        self.successResultOf(Deferred.fromCoroutine(written.write("a")))
        self.successResultOf(Deferred.fromCoroutine(written.write("b")))
        self.successResultOf(Deferred.fromCoroutine(written.flush()))
        self.assertEqual(reader.text, "ab")
