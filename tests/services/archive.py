"""A small archive for tests of query and retrieve: objects in a directory, their index, a server in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from twisted.internet.defer import Deferred, succeed

from dicomtw import uids
from dicomtw.dimse.messages import Command, MessageType
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.record import record_of
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import read_stored
from dicomtw.testing import MemoryServer, Peer, message
from dicomtw.transcode import decode, encode

CT = "1.2.840.10008.5.1.4.1.1.2"
SC = "1.2.840.10008.5.1.4.1.1.7"
IMPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN
EXPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN


def data_set(**elements: Any) -> Dataset:
    """A data set of these elements by keyword."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


class Archive:
    """Objects in a directory `root`, and the index of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / INDEX).mkdir(parents=True)
        self.index = Index(root / INDEX / FILE_NAME, Attributes(), synchronous=False)
        self.index.open()

    def settled(self) -> Deferred[None]:
        """All is in the index at once."""
        return succeed(None)

    def add(self, instance: Dataset, transfer_syntax: str = EXPLICIT, content: bytes | None = None) -> Path:
        """Store an object, whose file is where a store would have it."""
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
        StudyDate=f"202001{study:02}",
        StudyTime=f"{study:02}3000",
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


def identifier(level: str, **keys: Any) -> Dataset:
    """The identifier of a request."""
    return data_set(QueryRetrieveLevel=level, **keys)


def ask(
    peer: Peer, request: MessageType, keys: Dataset, context_id: int = 1, syntax: str = IMPLICIT, **more: Any
) -> list[Command]:
    """What has come of a request at once."""
    classes = {context.context_id: context.abstract_syntax for context in accepted(peer)}
    command = request(affected_sop_class_uid=classes[context_id], message_id=7, priority=0, **more)
    peer.send(*message(context_id, command, encode(keys, syntax)))
    return [one for one in peer.received() if isinstance(one, Command)]


def accepted(peer: Peer) -> list[Any]:
    return list(peer.protocol.association.accepted.values())


def matches(peer: Peer, responses: list[Command], syntax: str = IMPLICIT) -> list[Dataset]:
    """The identifiers of pending responses."""
    sizes = [one for one in responses if one.has_data_set]
    assert len(peer.data_sets) >= len(sizes)
    found, peer.data_sets[:] = [decode(each, syntax) for each in peer.data_sets], []
    return found


__all__ = ["Archive", "MemoryServer", "ask", "ct", "data_set", "identifier", "matches"]
