"""A small archive for tests of query and retrieve: objects in a directory, and their index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from twisted.internet.defer import Deferred, fail, succeed

from dicomtw import uids
from dicomtw.errors import IndexFault
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.record import Record, record_of
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import read_stored
from dicomtw.transcode import encode

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN
EXPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN


def data_set(**elements: Any) -> Dataset:
    """A data set of these elements by keyword."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


class Archive:
    """Objects in a directory `root`, and the index of them; `services.query.Settled`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / INDEX).mkdir(parents=True)
        self.index = Index(root / INDEX / FILE_NAME, Attributes(), synchronous=False)
        self.index.open()
        #: What is wrong with the index.
        self.fault = ""

    def settled(self) -> Deferred[None]:
        return fail(IndexFault(self.fault)) if self.fault else succeed(None)

    def add(self, instance: Dataset, transfer_syntax: str = EXPLICIT, content: bytes | None = None) -> Path:
        """Store an object where a store would have it, with this content if it is not to be the object's."""
        meta = FileMeta(str(instance.SOPClassUID), str(instance.SOPInstanceUID), transfer_syntax)
        encoded = encode(instance, transfer_syntax) if content is None else content
        path = self.root / str(instance.StudyInstanceUID) / str(instance.SeriesInstanceUID)
        path.mkdir(parents=True, exist_ok=True)
        path /= f"{instance.SOPInstanceUID}.dcm"
        path.write_bytes(meta.encode() + encoded)
        stored = read_stored(path, self.index.attributes.tags)
        record = record_of(
            stored.found,
            transfer_syntax,
            study=stored.study,
            series=stored.series,
            sop_instance_uid=stored.sop_instance_uid,
            mtime_ns=stored.mtime_ns,
            attributes=self.index.attributes,
        )
        self.index.put([record])
        return path

    def enter(self, studies: int) -> None:
        """Let the index know so many studies of one object each, without files."""
        self.index.put(
            [
                Record(
                    f"1.{number}",
                    f"1.{number}.1",
                    f"1.{number}.1.1",
                    CT,
                    EXPLICIT,
                    number,
                    {
                        "StudyInstanceUID": f"1.{number}",
                        "SeriesInstanceUID": f"1.{number}.1",
                        "SOPInstanceUID": f"1.{number}.1.1",
                        "PatientID": f"P{number}",
                        "PatientName": f"Patient^{number}",
                        "StudyDate": "20200101",
                    },
                )
                for number in range(studies)
            ]
        )

    def fill(self, studies: int = 2, series: int = 2, instances: int = 3) -> None:
        """So many of each, whose UIDs are 1.<study>.<series>.<instance>; a patient for each study."""
        for i in range(1, studies + 1):
            for j in range(1, series + 1):
                for k in range(1, instances + 1):
                    self.add(ct(i, j, k))


def ct(study: int, series: int = 1, instance: int = 1, **elements: Any) -> Dataset:
    """A CT image of no size."""
    made = data_set(
        SOPClassUID=CT,
        SOPInstanceUID=f"1.{study}.{series}.{instance}",
        StudyInstanceUID=f"1.{study}",
        SeriesInstanceUID=f"1.{study}.{series}",
        PatientID=f"P{study}",
        PatientName=f"Patient^{study}",
        StudyDate=f"202001{study % 30 + 1:02}",
        StudyTime=f"{study % 24:02}3000",
        StudyID=f"S{study}",
        AccessionNumber=f"A{study}",
        Modality="CT",
        SeriesNumber=series,
        InstanceNumber=instance,
        Rows=2,
        Columns=2,
    )
    made.update(data_set(**elements))
    return made
