"""The files of a store as the index sees them: what a record is made from."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.record import MAXIMUM_MTIME_NS, Record, record_of
from dicomtw.storage.stored import read_stored

#: What reading a file may raise when it is not there, or no object.
UNREADABLE: Final = (OSError, ValueError)


class Files:
    """The files below `root`, found by their directories and SOP Instance UID."""

    def __init__(self, root: Path, attributes: Attributes) -> None:
        self._root = root
        self._attributes = attributes

    def _path(self, study: str, series: str, sop_instance_uid: str) -> Path:
        return self._root / study / series / f"{sop_instance_uid}.dcm"

    def mtime_ns(self, study: str, series: str, sop_instance_uid: str) -> int | None:
        """Modification time of a file, None if there is none. Raises `OSError` where that is not known."""
        try:
            there = os.stat(self._path(study, series, sop_instance_uid), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return min(there.st_mtime_ns, MAXIMUM_MTIME_NS) if stat.S_ISREG(there.st_mode) else None

    def record(self, study: str, series: str, sop_instance_uid: str) -> Record:
        """The record of a file, of which no more than the header is read. Raises what is in `UNREADABLE`."""
        stored = read_stored(self._path(study, series, sop_instance_uid), self._attributes.tags)
        if stored.sop_instance_uid != sop_instance_uid:
            raise ValueError("its SOP Instance UID is not its name")
        return record_of(
            stored.found,
            stored.transfer_syntax_uid,
            study=study,  # where it is, whatever it says
            series=series,
            sop_instance_uid=sop_instance_uid,
            mtime_ns=stored.mtime_ns,
            attributes=self._attributes,
        )
