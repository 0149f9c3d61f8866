"""Data sets in another transfer syntax, with pydicom as the judge."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import UnreadableDataSet
from dicomtw.scu import _dataset
from dicomtw.transcode import TARGETS, CannotTranscode, decode, encode, transcode, transfer_syntax_of

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"


def image() -> Dataset:
    """A data set with words as pixel data, made here and so in no transfer syntax yet."""
    data_set = Dataset()
    data_set.SOPInstanceUID = "1.2.3"
    data_set.BitsAllocated = 16
    data_set.PixelData = b"\x01\x02\x03\x04"
    data_set["PixelData"].VR = "OW"
    return data_set


class WhatItIsInTests(SynchronousTestCase):
    """The transfer syntax of a data set of pydicom's."""

    def test_without_file_meta_information(self) -> None:
        """What was read without File Meta Information is in what it was read as; what is new in Explicit."""
        self.assertEqual(transfer_syntax_of(image()), EXPLICIT)
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            read = pydicom.dcmread(io.BytesIO(encode(image(), syntax)), force=True)
            self.assertEqual(transfer_syntax_of(read), syntax)

    def test_file_meta_information(self) -> None:
        """The File Meta Information tells, if it is there and names one."""
        data_set = image()
        data_set.file_meta = FileMetaDataset()
        self.assertEqual(transfer_syntax_of(data_set), EXPLICIT)
        data_set.file_meta.TransferSyntaxUID = JPEG
        self.assertEqual(transfer_syntax_of(data_set), JPEG)

    def test_words_read_without_file_meta_information(self) -> None:
        """Words that were read as Big Endian, without File Meta Information, change their order."""
        read = pydicom.dcmread(io.BytesIO(encode(image(), BIG_ENDIAN)), force=True)
        chosen, made = transcode(read, [EXPLICIT])
        self.assertEqual(decode(made, chosen).PixelData, b"\x02\x01\x04\x03")
        self.assertEqual(read.PixelData, b"\x01\x02\x03\x04")


class EncodeTests(SynchronousTestCase):
    """Encoding what a program has put together."""

    def test_fragments(self) -> None:
        """Pixel data in fragments is of undefined length, whoever has put it there (PS3.5 A.4)."""
        data_set = image()
        data_set.PixelData = encapsulate([b"\xff\xd8 a frame \xff\xd9 "])
        data_set["PixelData"].VR = "OB"
        encoded = encode(data_set, JPEG)
        self.assertIn(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0", encoded)
        self.assertTrue(encoded.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0"))

    def test_no_fragments(self) -> None:
        """Pixel data that is not in fragments is not sent as if it were."""
        error = self.assertRaises(CannotTranscode, encode, image(), JPEG)
        self.assertNotIn("\n", str(error))

    def test_wrong_value(self) -> None:
        """A value that cannot be encoded is a ValueError of one line."""
        data_set = image()
        data_set.StudyDate = object()
        for syntax in TARGETS:
            error = self.assertRaises(ValueError, encode, data_set, syntax)
            self.assertIn("(0008,0020)", str(error))
            self.assertNotIn("\n", str(error))
        self.flushWarnings()  # pydicom has warned

    def test_wrong_value_of_identifier(self) -> None:
        """A value that cannot be that of its keyword is a ValueError that names the keyword."""
        for keyword, value in (("PatientName", 5), ("NumberOfStudyRelatedInstances", "x")):
            error = self.assertRaises(ValueError, _dataset, {keyword: value})
            self.assertIn(keyword, str(error))
        self.flushWarnings()


def written(data_set: Dataset, transfer_syntax: str) -> bytes:
    """A file with a data set, by pydicom."""
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = pydicom.uid.UID(transfer_syntax)
    data_set.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data_set.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = io.BytesIO()
    pydicom.dcmwrite(file, data_set, enforce_file_format=True)
    return file.getvalue()


class RoundTripTests(SynchronousTestCase):
    def test_as_pydicom(self) -> None:
        """What is encoded here is what pydicom writes, and decoded it is what it was."""
        for syntax in TARGETS:
            encoded = encode(image(), syntax)
            self.assertEqual(len(encoded) % 2, 0, syntax)
            self.assertEqual(decode(encoded, syntax), image(), syntax)
            if syntax != DEFLATED:
                self.assertTrue(written(image(), syntax).endswith(encoded), syntax)

    def test_deflated(self) -> None:
        """A deflated data set is one raw stream of even length (PS3.5 A.5)."""
        for length in range(20):
            data_set = Dataset()
            data_set.PatientID = "7" * length
            encoded = encode(data_set, DEFLATED)
            self.assertEqual(len(encoded) % 2, 0)
            self.assertEqual(zlib.decompressobj(-15).decompress(encoded), encode(data_set, EXPLICIT))

    def test_bomb(self) -> None:
        """One that is inflated without end, or is none, is an UnreadableDataSet."""
        deflater = zlib.compressobj(wbits=-15)
        bomb = b"".join(deflater.compress(bytes(1 << 20)) for _ in range(17)) + deflater.flush()
        error = self.assertRaises(UnreadableDataSet, decode, bomb, DEFLATED)
        self.assertIn("longer than 16777216 bytes", str(error))
        error = self.assertRaises(UnreadableDataSet, decode, b"\xff" * 10, DEFLATED)
        self.assertIn("cannot be inflated", str(error))

    def test_none(self) -> None:
        """What is no data set, or too deep a one, is an UnreadableDataSet of one line."""
        sequence = struct.pack("<HHLHHL", 8, 0x1140, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
        for data in (b"\xff" * 9, b"\x08\0\x05\0XX\xff\xff", sequence * 3000):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's, about its VRs
                error = self.assertRaises(UnreadableDataSet, decode, data, EXPLICIT)
            self.assertTrue(str(error).startswith("the data set cannot be read: "), error)
            self.assertEqual(len(str(error).splitlines()), 1)


#: Values that pydicom keeps as they are encoded: VR, in little endian and in big endian, by tag.
WORDS = {
    0x00111001: ("UN", b"\1\2\3\4", b"\1\2\3\4"),
    0x00281201: ("OW", b"\1\2\3\4", b"\2\1\4\3"),
    0x00420011: ("OB", b"\1\2\3\4", b"\1\2\3\4"),
    0x00660040: ("OL", b"\1\2\3\4", b"\4\3\2\1"),
    0x7FE00001: ("OV", b"\1\2\3\4\5\6\7\x08", b"\x08\7\6\5\4\3\2\1"),
    0x7FE00008: ("OF", b"\1\2\3\4", b"\4\3\2\1"),
    0x7FE00009: ("OD", b"\1\2\3\4\5\6\7\x08", b"\x08\7\6\5\4\3\2\1"),
}


class TranscodeTests(SynchronousTestCase):
    def words(self, syntax: str) -> Dataset:
        """A data set with words of every kind, at the top and in a sequence, and with numbers."""
        item, made = Dataset(), Dataset()
        made.Rows, made.FrameIncrementPointer, made.RealWorldValueSlope = 258, 0x00181063, 0.5
        for data_set in (item, made):
            for tag, (vr, *values) in WORDS.items():
                data_set.add_new(tag, vr, values[syntax == BIG_ENDIAN])
        made.ReferencedSeriesSequence = [item]
        return made

    def test_order_of_bytes(self) -> None:
        """Words change their order between little and big endian, numbers keep their value."""
        for syntax, target in (
            (EXPLICIT, BIG_ENDIAN),
            (BIG_ENDIAN, EXPLICIT),
            (BIG_ENDIAN, DEFLATED),
            (BIG_ENDIAN, BIG_ENDIAN),
            (EXPLICIT, DEFLATED),
        ):
            source = self.words(syntax)
            source.file_meta = FileMetaDataset()
            source.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
            chosen, encoded = transcode(source, [target])
            self.assertEqual(chosen, target)
            self.assertEqual(decode(encoded, chosen), self.words(target), (syntax, target))
            del source.file_meta
            self.assertEqual(source, self.words(syntax), "the source stays as it is")

    def test_best_target(self) -> None:
        """Of what is possible the best is made: explicit, implicit, deflated, big endian."""
        possible = list(TARGETS)
        self.assertEqual(possible, [EXPLICIT, IMPLICIT, DEFLATED, BIG_ENDIAN])
        while possible:
            self.assertEqual(transcode(image(), [JPEG, *possible[::-1]])[0], possible.pop(0))

    def test_nothing_possible(self) -> None:
        """Nothing is compressed."""
        for targets in ([], [JPEG], [JPEG, "1.2.840.10008.1.2.5"]):
            error = self.assertRaises(CannotTranscode, transcode, image(), targets)
            self.assertEqual(str(error), "only uncompressed transfer syntaxes can be made")

    def test_files(self) -> None:
        """A file is read by its path, or where it is open."""
        content = written(image(), EXPLICIT)
        path = Path(self.mktemp())
        path.write_bytes(content)
        for source in (path, io.BytesIO(content)):
            chosen, encoded = transcode(source, [IMPLICIT])
            self.assertEqual((chosen, decode(encoded, chosen)), (IMPLICIT, image()))

    def test_decompressed(self) -> None:
        """What is compressed is decompressed, under the name it has; the data set it comes from is not."""
        source = image()
        source.PixelData = encapsulate([b"\xff\xd8 a frame \xff\xd9 "])
        source["PixelData"].VR = "OB"
        source.file_meta = FileMetaDataset()
        source.file_meta.TransferSyntaxUID = pydicom.uid.UID(JPEG)
        asked: list[Any] = []

        def decompress(data_set: Dataset, **options: Any) -> None:
            asked.append(options)
            data_set.PixelData = b"\5\6\7\x08"
            data_set["PixelData"].VR = "OW"
            data_set["PixelData"].is_undefined_length = False

        self.patch(Dataset, "decompress", decompress)
        for target, expected in ((EXPLICIT, b"\5\6\7\x08"), (BIG_ENDIAN, b"\6\5\x08\7")):
            chosen, encoded = transcode(source, [target])
            found = decode(encoded, chosen)
            self.assertEqual((found.PixelData, found.SOPInstanceUID), (expected, "1.2.3"))
            self.assertIn(b"a frame", source.PixelData)
        self.assertEqual(asked, [{"generate_instance_uid": False}] * 2)

    def test_cannot_be_decompressed(self) -> None:
        """What pydicom has against it, of whatever kind, is said in one line."""
        source = image()
        source.file_meta = FileMetaDataset()
        source.file_meta.TransferSyntaxUID = pydicom.uid.UID(JPEG)

        def decompress(data_set: Dataset, **options: Any) -> None:
            raise KeyError("no\ndecoder")

        self.patch(Dataset, "decompress", decompress)
        error = self.assertRaises(CannotTranscode, transcode, source, [EXPLICIT])
        self.assertTrue(str(error).startswith("it cannot be decompressed: "))
        self.assertEqual(str(error).splitlines(), [str(error)])
        source.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.3")
        self.assertRaises(CannotTranscode, transcode, source, [EXPLICIT])
