"""The index filled from the files: all of it, or what it does not know yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import listdir
from pathlib import Path
from typing import Final

import attrs

from dicomtw import uids
from dicomtw.storage.index.database import Index, Instance
from dicomtw.storage.index.files import UNREADABLE, Files
from dicomtw.storage.index.record import Record
from dicomtw.storage.stored import UNKNOWN_SERIES, UNKNOWN_STUDY

#: Objects entered in one transaction: others who write wait no longer than for that many.
BATCH: Final = 200

#: How many files are done, and of how many, as far as they are counted; what it raises ends the filling.
Progress = Callable[[int, int], None]
#: A file that is passed over, and why.
Report = Callable[[Path, str], None]


@attrs.frozen
class Rebuilt:
    """What filling the index came to, in objects."""

    #: Read from their files.
    read: int
    #: Known already, with the modification time that the file has.
    kept: int
    #: Passed over.
    unreadable: int
    #: Removed, for their files are gone.
    removed: int


def rebuild(root: Path, index: Index, progress: Progress, report: Report | None = None) -> Rebuilt:
    """Enter what is in the store at `root` into `index`, remove what is not, and call it complete.

    Others may put objects meanwhile, and read. What is known is not read again, so that to go on after an
    interruption takes less time. Raises `IndexFault`, and `OSError` if `root` cannot be listed.
    """
    return _Rebuilding(root, index, progress, report).run()


class _Rebuilding:
    def __init__(self, root: Path, index: Index, progress: Progress, report: Report | None) -> None:
        self._root = root
        self._index = index
        self._files = Files(root, index.attributes)
        self._progress = progress
        self._report = report
        self._batch: list[Record] = []
        self._total = 0
        self._done = self._read = self._kept = self._unreadable = self._removed = 0

    def run(self) -> Rebuilt:
        first_id = self._index.first_id
        for _, _, names in _series(self._root, self._say, _ignore):
            self._total += len(names)
        self._say()
        for study, series, names in _series(self._root, self._say, self._pass_over):
            known = self._index.versions(study, series)
            for name in names:
                sop_instance_uid = name.removesuffix(".dcm")
                try:
                    self._enter(study, series, sop_instance_uid, known.get(sop_instance_uid))
                except FileNotFoundError:
                    pass  # gone, or moved, since it was listed
                except UNREADABLE as error:
                    self._pass_over(Path(self._root, study, series, name), error)
                self._done += 1
                if self._done % BATCH == 0:
                    self._flush()
                    self._say()
        self._flush()
        for instances in self._index.all_instances():
            self._say()
            gone = [each.sop_instance_uid for each in instances if self._is_gone(each)]
            if gone:
                self._removed += self._index.delete(gone, only_gone=True)
        self._index.set_complete(first_id)
        self._progress(self._done, self._done)
        return Rebuilt(self._read, self._kept, self._unreadable, self._removed)

    def _say(self) -> None:
        self._progress(self._done, max(self._total, self._done))

    def _enter(self, study: str, series: str, sop_instance_uid: str, mtime_ns: int | None) -> None:
        if mtime_ns is not None and mtime_ns == self._files.mtime_ns(study, series, sop_instance_uid):
            self._kept += 1
        else:
            self._batch.append(self._files.record(study, series, sop_instance_uid))
            self._read += 1

    def _flush(self) -> None:
        if self._batch:
            self._index.put(self._batch)
            self._batch.clear()

    def _pass_over(self, path: Path, error: Exception) -> None:
        self._unreadable += 1
        if self._report is not None:
            why = error.strerror if isinstance(error, OSError) else None
            self._report(path, why or str(error))

    def _is_gone(self, instance: Instance) -> bool:
        study, series, _ = instance.parts
        try:
            return self._files.mtime_ns(study, series, instance.sop_instance_uid) is None
        except OSError:
            return False


def _series(
    root: Path, begin: Callable[[], None], pass_over: Callable[[Path, OSError], None]
) -> Iterator[tuple[str, str, list[str]]]:
    """Names of study and series directories, and of the files in them that can be objects.

    Before each study and each series `begin` is called.
    """
    for study in sorted(filter(is_study, listdir(root))):  # a store that is not there is no empty one
        begin()
        try:
            for series in _names(root / study, _is_series):
                begin()
                try:
                    yield study, series, _names(root / study / series, _is_object)
                except OSError as error:
                    pass_over(root / study / series, error)
        except OSError as error:
            pass_over(root / study, error)


def _names(parent: Path, is_ours: Callable[[str], bool]) -> list[str]:
    """Names in a directory, sorted; none if it is gone, or none."""
    try:
        return sorted(filter(is_ours, listdir(parent)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_study(name: str) -> bool:
    """Whether a name in a store can be that of a study's directory."""
    return name == UNKNOWN_STUDY or uids.is_valid_uid(name)


def _is_series(name: str) -> bool:
    return name == UNKNOWN_SERIES or uids.is_valid_uid(name)


def _is_object(name: str) -> bool:
    return name.endswith(".dcm") and uids.is_valid_uid(name[:-4])


def _ignore(path: Path, error: OSError) -> None:
    """Nothing is said while files are counted."""
