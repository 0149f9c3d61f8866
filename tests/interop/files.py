"""The DICOM files that pydicom comes with, as what to send: data sets in some 15 transfer syntaxes."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import attrs
import pydicom
from pydicom.dataset import FileDataset

from dicomtw import uids

_TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@attrs.frozen
class Source:
    """A file and what a C-STORE of it is made of."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: The bytes behind the File Meta Information, as they are in the file.
    data_set: bytes = attrs.field(repr=False)

    @property
    def name(self) -> str:
        """The path below pydicom's directory of test files, or the file name of one elsewhere."""
        in_test_files = self.path.is_relative_to(_TEST_FILES)
        return str(self.path.relative_to(_TEST_FILES)) if in_test_files else self.path.name


@functools.cache
def sources() -> tuple[Source, ...]:
    """Those that are objects of storage SOP classes with a UID, the smaller ones first."""
    found = []
    for path in sorted(_TEST_FILES.rglob("*")):
        if path.is_file():
            source = read_source(path)
            if source is not None:
                found.append(source)
    return tuple(found)


def read_source(path: Path) -> Source | None:
    """What is in a file; None if that is no object of a storage SOP class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data_set = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        except Exception:  # what is no DICOM file may fail in any way
            return None
        sop_class_uid = str(data_set.get("SOPClassUID", ""))
        sop_instance_uid = str(data_set.get("SOPInstanceUID", ""))
    if sop_class_uid not in uids.STORAGE_SOP_CLASSES or not uids.is_valid_uid(sop_instance_uid):
        return None
    return Source(
        path,
        sop_class_uid,
        sop_instance_uid,
        _transfer_syntax(data_set),
        path.read_bytes()[_data_set_offset(path) :],
    )


def _transfer_syntax(data_set: FileDataset) -> str:
    if "TransferSyntaxUID" in data_set.file_meta:
        return str(data_set.file_meta.TransferSyntaxUID)
    implicit, little_endian = data_set.original_encoding
    if implicit:
        return uids.IMPLICIT_VR_LITTLE_ENDIAN
    return uids.EXPLICIT_VR_LITTLE_ENDIAN if little_endian else uids.EXPLICIT_VR_BIG_ENDIAN


def _data_set_offset(path: Path) -> int:
    """Where the data set begins: 0 in a file without File Meta Information."""
    head = path.read_bytes()[:65536]
    if head[128:132] != b"DICM":
        return 0
    at = 132
    while head[at : at + 2] == b"\x02\x00":  # elements of group 0002, Explicit VR Little Endian
        if head[at + 4 : at + 6] in (b"OB", b"UN"):
            at += 12 + int.from_bytes(head[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(head[at + 6 : at + 8], "little")
    return at


def stored_data_set(path: Path) -> bytes:
    """The bytes of a stored object behind its File Meta Information."""
    return path.read_bytes()[_data_set_offset(path) :]
