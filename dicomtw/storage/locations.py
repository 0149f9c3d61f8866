"""Where each SOP instance is, by its UID: one UID is one object, whatever study it claims to be of.

A registered object has a second name, ``.by-uid/<two digits>/<UID>``: a hard link, which costs no more than a
directory entry. The registry is a hint and never the truth: it is not synced, what it says is checked against
the files, and a file system without hard links has none.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

from dicomtw import uids
from dicomtw.storage import header, part10

#: Inside the store.
BY_UID = ".by-uid"

_SERIES = frozenset({header.STUDY_INSTANCE_UID, header.SERIES_INSTANCE_UID})
_HEAD = 65536

#: Directories of objects whose data set has no valid Study or Series Instance UID.
UNKNOWN_STUDY = "unknown-study"
UNKNOWN_SERIES = "unknown-series"


def directory_names(elements: dict[int, bytes]) -> tuple[str, str]:
    """The names of the study's and the series' directory, from the elements of a data set."""
    study = header.uid_value(elements.get(header.STUDY_INSTANCE_UID))
    series = header.uid_value(elements.get(header.SERIES_INSTANCE_UID))
    return (
        study if uids.is_valid_uid(study) else UNKNOWN_STUDY,
        series if uids.is_valid_uid(series) else UNKNOWN_SERIES,
    )


class Locations:
    """The registry of the store at `root`. Its methods are called while the names of the store are held."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / BY_UID

    def prepare(self) -> None:
        """Make the directories; raises `OSError`."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for number in range(256):
            (self._directory / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)

    def _link(self, sop_instance_uid: str) -> Path:
        bucket = zlib.crc32(sop_instance_uid.encode()) & 0xFF
        return self._directory / f"{bucket:02x}" / sop_instance_uid

    def is_registered(self, sop_instance_uid: str) -> bool:
        """Whether `find` has anything to look at."""
        return os.path.lexists(self._link(sop_instance_uid))

    def find(self, sop_instance_uid: str) -> Path | None:
        """The file of an object that is stored, wherever it is; None if the UID is not known to be taken."""
        link = self._link(sop_instance_uid)
        try:
            there = os.stat(link, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if there.st_nlink > 1:
            path = self._path_of(link, sop_instance_uid)
            if path is not None and os.path.lexists(path) and os.path.samefile(path, link):
                return path
        os.unlink(link)  # its object has been removed or moved by hand
        return None

    def _path_of(self, link: Path, sop_instance_uid: str) -> Path | None:
        """The name that the object behind `link` has got by its own study and series."""
        with open(link, "rb") as file:
            head = file.read(_HEAD)
            try:
                meta = part10.read_head(head)
                size = os.fstat(file.fileno()).st_size - meta.data_set_offset

                def read_at(offset: int, length: int) -> bytes:
                    return os.pread(file.fileno(), length, meta.data_set_offset + offset)

                data_set = head[meta.data_set_offset :]
                elements = header.find_naming_elements(
                    read_at, meta.transfer_syntax_uid, _SERIES, data_set, size
                )
            except (ValueError, header.UnreadableDataSet):
                return None
        return self._root.joinpath(*directory_names(elements), f"{sop_instance_uid}.dcm")

    def put(self, sop_instance_uid: str, file: Path) -> None:
        """Register `file`, which has or will have the object's name, and nothing else for its UID."""
        link = self._link(sop_instance_uid)
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)
            os.link(file, link)
