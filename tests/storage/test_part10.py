"""The file around a data set against bytes typed from PS3.10 7.1 and against pydicom, both ways."""

from __future__ import annotations

import io
import warnings

import pydicom
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.storage.part10 import PREAMBLE, FileHead, FileMeta, read_head
from tests.storage import (
    CT_IMAGE_STORAGE,
    EXPLICIT,
    IMPLICIT,
    PYDICOM_FILES,
    behind_file_meta,
    data_set,
    element,
    modest,
)

META = FileMeta(CT_IMAGE_STORAGE, "1.2.3", EXPLICIT, "SENDER1", "STORE")

#: The same, typed; our implementation's UID and name stand for themselves.
GOLDEN = b"".join(
    (
        bytes(128) + b"DICM",
        bytes.fromhex("0200 0000 554C 0400 D0000000"),  # (0002,0000) UL 4: 208 bytes follow
        bytes.fromhex("0200 0100 4F42 0000 02000000 0001"),  # (0002,0001) OB: version 00H 01H
        bytes.fromhex("0200 0200 5549 1A00") + b"1.2.840.10008.5.1.4.1.1.2\0",  # (0002,0002) UI 26
        bytes.fromhex("0200 0300 5549 0600") + b"1.2.3\0",  # (0002,0003) UI 6
        bytes.fromhex("0200 1000 5549 1400") + b"1.2.840.10008.1.2.1\0",  # (0002,0010) UI 20
        bytes.fromhex("0200 1200 5549 2C00") + uids.IMPLEMENTATION_CLASS_UID.encode(),  # (0002,0012) UI 44
        bytes.fromhex("0200 1300 5348 0C00") + b"DICOMTW_0.1 ",  # (0002,0013) SH 12, padded
        bytes.fromhex("0200 1600 4145 0800") + b"SENDER1 ",  # (0002,0016) AE 8, padded
        bytes.fromhex("0200 1700 4145 0800") + b"SENDER1 ",  # (0002,0017) AE 8, padded
        bytes.fromhex("0200 1800 4145 0600") + b"STORE ",  # (0002,0018) AE 6, padded
    )
)

texts = st.text("0123456789.", max_size=64)
titles = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=16)


class EncodeTests(SynchronousTestCase):
    def test_golden(self) -> None:
        """File Meta Information is encoded to the bytes typed from PS3.10 Table 7.1-1."""
        self.assertEqual(META.encode().hex(" "), GOLDEN.hex(" "))

    def test_preamble(self) -> None:
        """The preamble is 128 zeros: nothing that a peer sends makes the file look like a program."""
        self.assertEqual(PREAMBLE, bytes(128) + b"DICM")
        self.assertEqual(META.encode()[:132], PREAMBLE)

    def test_without_ae_titles(self) -> None:
        """AE titles that are not known are left out, and the group length says so."""
        whole = META.encode()
        for sender, receiver, fewer in (("", "STORE", 32), ("SENDER1", "", 14), ("", "", 46)):
            encoded = FileMeta(CT_IMAGE_STORAGE, "1.2.3", EXPLICIT, sender, receiver).encode()
            self.assertEqual(len(encoded), len(whole) - fewer)
            self.assertEqual(int.from_bytes(encoded[140:144], "little"), len(encoded) - 144)

    def test_pydicom_reads_it(self) -> None:
        """Pydicom finds in the file what was said, and the data set behind it."""
        content = META.encode() + data_set("1.2.3")
        read = pydicom.dcmread(io.BytesIO(content))
        meta = read.file_meta
        self.assertEqual(meta.FileMetaInformationGroupLength, len(META.encode()) - 144)
        self.assertEqual(meta.FileMetaInformationVersion, b"\0\1")
        self.assertEqual(meta.MediaStorageSOPClassUID, CT_IMAGE_STORAGE)
        self.assertEqual(meta.MediaStorageSOPInstanceUID, "1.2.3")
        self.assertEqual(meta.TransferSyntaxUID, EXPLICIT)
        self.assertEqual(meta.ImplementationClassUID, uids.IMPLEMENTATION_CLASS_UID)
        self.assertEqual(meta.ImplementationVersionName, uids.IMPLEMENTATION_VERSION_NAME)
        self.assertEqual(meta.SourceApplicationEntityTitle, "SENDER1")
        self.assertEqual(meta.SendingApplicationEntityTitle, "SENDER1")
        self.assertEqual(meta.ReceivingApplicationEntityTitle, "STORE")
        self.assertEqual(read.SOPInstanceUID, "1.2.3")
        self.assertEqual(read.PixelData, b"payload.")

    @modest
    @given(texts, texts, texts.filter(bool), titles, titles)
    def test_any_names(self, sop_class: str, instance: str, syntax: str, sender: str, receiver: str) -> None:
        """Whatever the names, each value is of even length, the group length right, the syntax read back."""
        encoded = FileMeta(sop_class, instance, syntax, sender, receiver).encode()
        self.assertEqual(int.from_bytes(encoded[140:144], "little"), len(encoded) - 144)
        self.assertEqual(behind_file_meta(encoded), len(encoded))
        self.assertEqual(len(encoded) % 2, 0)
        self.assertEqual(read_head(encoded), FileHead(len(encoded), syntax, sop_class, instance))

    def test_what_is_no_ascii(self) -> None:
        """A UID or AE title that is none does no harm: it is spelled with question marks."""
        encoded = FileMeta("1.\xe9", "1.\u2603", EXPLICIT, "AE\xff").encode()
        self.assertIn(b"UI\x04\x001.?\0", encoded)
        self.assertIn(b"AE\x04\x00AE? ", encoded)


class ReadHeadTests(SynchronousTestCase):
    def test_own(self) -> None:
        """Where the data set begins, in what transfer syntax, and its UIDs are read from our own files."""
        head = FileHead(len(GOLDEN), EXPLICIT, CT_IMAGE_STORAGE, "1.2.3")
        self.assertEqual(read_head(GOLDEN), head)
        self.assertEqual(read_head(GOLDEN + data_set("1.2.4")), head)

    def test_written_by_pydicom(self) -> None:
        """Files that pydicom writes are read, with other elements in their File Meta Information."""
        for syntax, private in ((IMPLICIT, None), (EXPLICIT, b"private.")):
            instance = Dataset()
            instance.SOPClassUID = CT_IMAGE_STORAGE
            instance.SOPInstanceUID = "1.2.3"
            instance.file_meta = FileMetaDataset()
            instance.file_meta.TransferSyntaxUID = syntax
            if private:
                instance.file_meta.PrivateInformationCreatorUID = "1.2.3.4"
                instance.file_meta.PrivateInformation = private
                instance.file_meta.SourcePresentationAddress = "http://localhost"
            buffer = io.BytesIO()
            instance.save_as(buffer, enforce_file_format=True)
            content = buffer.getvalue()
            self.assertEqual(
                read_head(content), FileHead(behind_file_meta(content), syntax, CT_IMAGE_STORAGE, "1.2.3")
            )

    def test_files_of_others(self) -> None:
        """Each of pydicom's test files is read as pydicom reads it, or has no whole File Meta Information."""
        unreadable = {"meta_missing_tsyntax.dcm"}
        count = 0
        for path in sorted(PYDICOM_FILES.rglob("*")):
            if not path.is_file():
                continue
            content = path.read_bytes()
            if content[128:132] != b"DICM" or path.name in unreadable:
                self.assertRaises(ValueError, read_head, content[:4096])
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                meta = pydicom.filereader.read_file_meta_info(path)
            expected = FileHead(
                behind_file_meta(content),
                meta.TransferSyntaxUID,
                meta.get("MediaStorageSOPClassUID", ""),
                meta.get("MediaStorageSOPInstanceUID", ""),
            )
            self.assertEqual(read_head(content[:4096]), expected, path.name)
            count += 1
        self.assertGreater(count, 100)

    def test_cut_off(self) -> None:
        """A head that is cut off anywhere before the data set is a ValueError, one cut later is not.

        Without a group length that cannot be known where it is cut off between two elements.
        """
        content = GOLDEN + data_set("1.2.3")
        for cut in range(len(content)):
            if cut < len(GOLDEN):
                self.assertRaises(ValueError, read_head, content[:cut])
            else:
                self.assertEqual(read_head(content[:cut]).data_set_offset, len(GOLDEN))
        content = PREAMBLE + GOLDEN[144:] + data_set("1.2.3")
        for cut in range(len(content)):
            try:
                head = read_head(content[:cut])
            except ValueError:
                continue
            end = min(cut, len(GOLDEN) - 12)
            self.assertIn(head.data_set_offset, (end, end - 1))

    def test_lenient(self) -> None:
        """Without a preamble, without a group length or with a wrong one, the elements themselves count."""
        group_length, first = GOLDEN[132:144], GOLDEN[144:]
        others = element(0x00020026, "UR", length=20).replace(b"UR\x14\0", b"UR\0\0\x14\0\0\0") + b"x" * 20
        for content in (
            GOLDEN[132:],  # no preamble
            first,  # nor a group length
            PREAMBLE + first,
            PREAMBLE + group_length[:8] + b"\x10\0\0\0" + first,
            PREAMBLE + group_length[:8] + bytes(4) + first,
            PREAMBLE + first[:14] + others + first[14:],
        ):
            for data in (b"", data_set("1.2.3")):
                head = FileHead(len(content), EXPLICIT, CT_IMAGE_STORAGE, "1.2.3")
                self.assertEqual(read_head(content + data), head)

    def test_broken(self) -> None:
        """A file that does not say where its data set begins and how it is encoded is refused."""
        group_length, first = GOLDEN[132:144], GOLDEN[144:]
        cases = [
            b"",
            bytes(4096),
            b"GET / HTTP/1.1\r\n" * 100,
            GOLDEN[128:],  # half a preamble
            GOLDEN[:128] + b"DICN" + GOLDEN[132:],
            PREAMBLE + group_length[:8] + b"\xff\xff\xff\xff" + first,
            GOLDEN.replace(b"\2\0\x10\0UI", b"\2\0\x11\0UI"),  # no transfer syntax
            FileMeta(CT_IMAGE_STORAGE, "1.2.3", "").encode(),
            PREAMBLE + data_set("1.2.3"),  # no File Meta Information at all
        ]
        for content in cases:
            self.assertRaises(ValueError, read_head, content)

    @modest
    @given(st.data())
    def test_spoilt(self, data: st.DataObject) -> None:
        """With any few bytes changed a head is read or is a ValueError, nothing else."""
        content = bytearray(GOLDEN)
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(128, len(GOLDEN) - 1))] = data.draw(st.integers(0, 255))
        try:
            head = read_head(bytes(content))
        except ValueError:
            return
        self.assertLessEqual(head.data_set_offset, len(content))
