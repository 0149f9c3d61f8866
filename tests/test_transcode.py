"""Data sets in another transfer syntax, with pydicom as the judge."""

from __future__ import annotations

import io

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.scu import _dataset
from dicomtw.transcode import TARGETS, CannotTranscode, decode, encode, transcode, transfer_syntax_of

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
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
