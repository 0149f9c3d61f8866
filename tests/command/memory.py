"""A peer in memory for the coroutines of the commands, and words that are said."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from dicomtw import uids
from dicomtw.client import Associating, Context
from dicomtw.command import terminal
from dicomtw.command.peer import Peer
from dicomtw.limits import Limits
from dicomtw.security.remote import Remote
from dicomtw.testing import MemoryServer

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
JPEG = "1.2.840.10008.1.2.4.50"


def peer_named(aet: str = "PMOD", host: str = "localhost", port: int = 4030) -> Peer:
    """A peer that nobody connects to."""
    return Peer(
        remote=Remote(aet=aet, host=host, port=port),
        called=aet,
        calling="DICOMTW",
        tls=None,
        maximum_length=0,
        limits=Limits(),
        retries=0,
    )


class MemoryPeer:
    """What commands ask of a `Peer`, from a server in memory; it counts associations."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.proposed: list[list[Context]] = []
        #: What connecting fails with.
        self.fault: Exception | None = None

    def __str__(self) -> str:
        return "PMOD@memory:104"

    def associate(self, contexts: Iterable[Context], **more: Any) -> Associating:
        self.proposed.append([*contexts])
        if self.fault is not None:
            failed: Deferred[Any] = Deferred()
            failed.errback(self.fault)
            return Associating(failed)
        return self.server.associating(self.proposed[-1], **more)

    def do(self, work: Coroutine[Any, Any, Any], seconds: int = 10) -> Any:
        """What `work` returns or raises, within so many seconds of the server's time."""
        outcome: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(outcome.append)
        for _ in range(seconds):
            self.server.clock.advance(0)
            if outcome:
                break
            self.server.clock.advance(1)
        assert outcome, "it does not end"
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]


def write_object(
    path: Path,
    number: int = 1,
    *,
    sop_class_uid: str = CT,
    transfer_syntax_uid: str = uids.EXPLICIT_VR_LITTLE_ENDIAN,
) -> Path:
    """A small DICOM file; its data set is encoded as if its transfer syntax were not compressed."""
    data_set = Dataset()
    data_set.SOPClassUID = sop_class_uid
    data_set.SOPInstanceUID = f"1.2.3.{number}"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1.2", "1.2.3"
    data_set.PatientName = "DOE^JANE"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = transfer_syntax_uid
    path.parent.mkdir(parents=True, exist_ok=True)
    data_set.save_as(
        path,
        implicit_vr=transfer_syntax_uid == uids.IMPLICIT_VR_LITTLE_ENDIAN,
        little_endian=True,
        enforce_file_format=True,
    )
    return path


@contextlib.contextmanager
def heard(verbosity: int = 0) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What is written to standard output and to standard error meanwhile."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.stdout, sys.stderr, terminal.verbosity
    sys.stdout, sys.stderr, terminal.verbosity = out, err, verbosity
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr, terminal.verbosity = before
