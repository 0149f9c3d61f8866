"""Our server with a store that leaves what `storescp` leaves of an object, and no more: it writes a file.

There is no index, no journal, and no look at what is in a data set; an object that comes again replaces what
was there. What it takes less than the server as it comes is the price of the archive.

Usage: python -m benchmarks.files --port=PORT --store=DIRECTORY ...      as twistd dicom
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.scripts import twistd

from dicomtw import tap
from dicomtw.archive import Archive
from dicomtw.config import Server
from dicomtw.destinations import RemoteDestinations
from dicomtw.service import DicomService
from dicomtw.services import ServiceClass
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.storage.files import write_all
from dicomtw.storage.part10 import FileMeta


class Files:
    """A `dicomtw.storage.Store`: one directory of files."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)

    def open(self, meta: FileMeta) -> File:
        return File(f"{self._directory}/{meta.sop_instance_uid}", meta)


class File:
    """A `dicomtw.storage.DataSetSink`."""

    def __init__(self, path: str, meta: FileMeta) -> None:
        self._path = path
        self._beginning = [meta.encode()]
        self._fd = -1

    def write(self, fragments: Sequence[memoryview]) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        write_all(self._fd, [*self._beginning, *fragments])
        self._beginning = []

    def commit(self, may_block: bool = True) -> None:
        if self._fd < 0:
            self.write([])  # there is no data set
        fd, self._fd = self._fd, -1
        os.close(fd)

    def discard(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            os.unlink(self._path)


def services(server: Server, archive: Archive, destinations: RemoteDestinations) -> list[ServiceClass]:
    """What it serves."""
    return [Verification(), Storage(Files(archive.root))]


def main() -> None:
    # That ``twistd dicom`` makes the same service with another store.
    vars(tap)["DicomService"] = functools.partial(DicomService, services=services)
    sys.argv = ["twistd", "-n", "--pidfile=", "dicom", *sys.argv[1:]]
    twistd.run()


if __name__ == "__main__":
    main()
