"""An object that has its name in a store, and how what an index wants to know of it is read from its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dicomtw import uids
from dicomtw.errors import UnreadableDataSet
from dicomtw.storage import header, part10

#: Directories of objects whose data set has no valid Study or Series Instance UID.
UNKNOWN_STUDY: Final = "unknown-study"
UNKNOWN_SERIES: Final = "unknown-series"

#: Read of a file at once, in bytes: as a rule its header is shorter.
_BLOCK: Final = 32768


@attrs.frozen
class Stored:
    """An object in a store, as an index is to know it."""

    #: Names of its directories.
    study: str
    series: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: Of its file: modification time in nanoseconds, and inode number.
    mtime_ns: int
    inode: int
    #: What was asked for of its data set: raw values by tag, as `header.find_elements` has them.
    found: Mapping[int, bytes] = attrs.field(repr=False)
    #: The path of the store's note that an index may not have this; None if there is no such note.
    journal: str | None = None

    def noted(self, journal: str | None) -> Stored:
        """The same, with a note in the journal."""
        return Stored(
            self.study,
            self.series,
            self.sop_instance_uid,
            self.transfer_syntax_uid,
            self.mtime_ns,
            self.inode,
            self.found,
            journal,
        )

    @property
    def path(self) -> Path:
        """Its file in the store."""
        return Path(self.study, self.series, f"{self.sop_instance_uid}.dcm")

    @property
    def size(self) -> int:
        """About what it takes in memory, in bytes."""
        return 1000 + 100 * len(self.found) + sum(map(len, self.found.values()))


def directories(found: Mapping[int, bytes]) -> tuple[str, str]:
    """The names of the directories, of study and series, for a data set with these elements."""
    study = header.uid_value(found.get(header.STUDY_INSTANCE_UID))
    series = header.uid_value(found.get(header.SERIES_INSTANCE_UID))
    return (
        study if uids.is_valid_uid(study) else UNKNOWN_STUDY,
        series if uids.is_valid_uid(series) else UNKNOWN_SERIES,
    )


def read_stored(path: Path, wanted: frozenset[int]) -> Stored:
    """What the file at `path` is, by what is in it, with the elements `wanted`.

    Raises `OSError`, for a symbolic link too; `ValueError` for what is no object.
    """
    # O_NONBLOCK: to open a FIFO does not wait for its other end.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        block = os.pread(fd, _BLOCK, 0)
        head = part10.read_head(block)
        offset, syntax = head.data_set_offset, head.transfer_syntax_uid
        status = os.fstat(fd)

        def read_at(at: int, length: int) -> bytes:
            return os.pread(fd, length, offset + at)

        found = header.find_naming_elements(read_at, syntax, wanted, block[offset:], status.st_size - offset)
    except UnreadableDataSet as error:
        raise ValueError(f"unreadable: {error}") from error
    finally:
        os.close(fd)
    instance = header.uid_value(found.get(header.SOP_INSTANCE_UID))
    if not uids.is_valid_uid(instance):
        raise ValueError("no valid SOP Instance UID")
    study, series = directories(found)
    return Stored(study, series, instance, syntax, status.st_mtime_ns, status.st_ino, found)
