"""A store that is a directory: ``<Study UID>/<Series UID>/<SOP Instance UID>.dcm``, each a PS3.10 file.

What is acknowledged is never lost: bytes go to a temporary file, which gets its name in one rename when
everything is there, checked and (``durability="strict"``) on stable storage; then the directory is synced.
Whatever fails before leaves no trace and does not touch an object stored before.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import stat
import threading
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from dicomtw import uids
from dicomtw.errors import DimseError
from dicomtw.storage import WouldBlock, header, part10
from dicomtw.storage.part10 import FileMeta

# Statuses of PS3.4 Table B.2-1 and PS3.7 Annex C, spelled out: this layer stands below `dimse`.
_OUT_OF_RESOURCES: Final = 0xA700
_DOES_NOT_MATCH: Final = 0xA900
_CANNOT_UNDERSTAND: Final = 0xC000
_DUPLICATE_SOP_INSTANCE: Final = 0x0111
_INVALID_SOP_INSTANCE: Final = 0x0117

#: Inside the store: what is being received, and earlier versions of what was replaced.
INCOMING: Final = ".incoming"
SUPERSEDED: Final = "superseded"
#: Directories of objects whose data set has no valid Study or Series Instance UID.
UNKNOWN_STUDY: Final = "unknown-study"
UNKNOWN_SERIES: Final = "unknown-series"

_NAMING = frozenset(
    {header.SOP_CLASS_UID, header.SOP_INSTANCE_UID, header.STUDY_INSTANCE_UID, header.SERIES_INSTANCE_UID}
)
#: The beginning of a data set that is remembered, so that as a rule nothing is read back to name it.
_HEAD = 65536
#: Buffers that one writev takes (IOV_MAX on Linux).
_IOV_MAX = 1024
_COMPARE = 1 << 20
#: Directories remembered as made, so that not every object asks the disk again.
_DIRECTORIES = 10_000


class Durability(Enum):
    """What an acknowledged object survives."""

    #: A power cut: file, name and new directories are on stable storage before the answer.
    STRICT = "strict"
    #: A crash of the server, not of the machine: nothing is forced to stable storage.
    RELAXED = "relaxed"


class OnDuplicate(Enum):
    """What happens when an object comes whose SOP Instance UID is there already with other bytes."""

    REPLACE = "replace"
    KEEP = "keep"
    REFUSE = "refuse"


class DirectoryStore:
    """Keeps SOP instances below `root`; any number of threads and processes may share one.

    Call `prepare` once before the first `open`.
    """

    def __init__(
        self,
        root: Path,
        durability: Durability = Durability.STRICT,
        on_duplicate: OnDuplicate = OnDuplicate.REPLACE,
    ) -> None:
        self.root = root
        self.strict = durability is Durability.STRICT
        self.on_duplicate = on_duplicate
        self._incoming = root / INCOMING
        self._prefix = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._numbers = itertools.count()  # threads may share it: next() is atomic
        self._lock_file = -1
        #: Held while a name is looked up and taken, which is quick; never while data is read or synced.
        self._naming = threading.Lock()
        #: Directories whose own names are known to be on stable storage.
        self._durable_directories: set[Path] = set()

    def prepare(self) -> int:
        """Make the directories and remove what earlier runs had half received; the number of such files.

        Leftovers are removed only while no other process uses the store. Raises `OSError`.
        """
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_file = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        removed = 0
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another process receives into this store
        else:
            for leftover in self._incoming.iterdir():
                leftover.unlink()
                removed += 1
        fcntl.flock(self._lock_file, fcntl.LOCK_SH)
        (self.root / SUPERSEDED).mkdir(mode=0o700, exist_ok=True)
        if self.strict:
            _sync_directory(self.root)
            try:
                _sync_directory(self.root.parent)
            except PermissionError:
                pass  # then it is not ours to have made the store in
        return removed

    def close(self) -> None:
        """Let other processes clean up after us."""
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def open(self, meta: FileMeta) -> DirectorySink:
        """A sink for the data set of one SOP instance.

        Raises `DimseError` if its UID cannot be a name (0117H): what a peer sends never chooses a path.
        """
        if not uids.is_valid_uid(meta.sop_instance_uid):
            raise DimseError(_INVALID_SOP_INSTANCE, "invalid SOP Instance UID")
        return DirectorySink(self, meta)

    # -- called by the sinks

    def temporary_file(self) -> tuple[int, Path]:
        """A new file for a sink, open for reading and writing, and its path."""
        path = self._incoming / f"{self._prefix}-{next(self._numbers)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o600), path

    def publish(
        self, temporary: Path, study: str, series: str, sop_instance_uid: str, may_block: bool
    ) -> None:
        """Give a complete temporary file its name, or find that it is there already.

        The temporary file is gone afterwards, under its name or because its bytes were there before.
        It is left where this raises: `OSError`, `DimseError` for a duplicate that is refused, `WouldBlock`.
        """
        directory = self.root / study / series
        final = directory / f"{sop_instance_uid}.dcm"
        self._make_directory(directory)
        known: os.stat_result | None = None
        while True:
            with self._naming:
                there = _stat(final)
                if there is None:
                    os.rename(temporary, final)
                    break
                if known is not None and _same_file(there, known):
                    self._supersede(final, study, series, there)
                    os.rename(temporary, final)
                    break
            if not may_block:
                raise WouldBlock
            # There is one of this name. Compare without the lock; the loop sees if it changed meanwhile.
            if _same_object(temporary, final):
                if self.strict:
                    _sync_file(final)
                os.unlink(temporary)
                break
            if self.on_duplicate is OnDuplicate.KEEP:
                os.unlink(temporary)
                break
            if self.on_duplicate is OnDuplicate.REFUSE:
                raise DimseError(_DUPLICATE_SOP_INSTANCE, "SOP instance stored before with other content")
            known = there
        if self.strict:
            # For a duplicate too: the earlier one may have been stored relaxed, or be not yet answered.
            _sync_directory(directory)

    def _make_directory(self, directory: Path) -> None:
        """The series directory, with its own name and its study's on stable storage."""
        if directory in self._durable_directories and directory.is_dir():
            return
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.strict:
            # Whoever made it: that it is there does not say that its maker has synced it yet.
            _sync_directory(directory.parent)
            _sync_directory(directory.parent.parent)
        if len(self._durable_directories) >= _DIRECTORIES:
            self._durable_directories.clear()
        self._durable_directories.add(directory)

    def _supersede(self, final: Path, study: str, series: str, there: os.stat_result) -> None:
        """Give the earlier version a second name under ``superseded``; the first is about to be taken."""
        directory = self.root / SUPERSEDED / study / series
        self._make_directory(directory)
        earlier = directory / f"{final.stem}.{there.st_mtime_ns}-{secrets.token_hex(2)}.dcm"
        os.link(final, earlier)
        if self.strict:
            _sync_directory(directory)


class DirectorySink:
    """One data set on its way into a `DirectoryStore`. The file is made when the first bytes come."""

    __slots__ = ("_fd", "_head", "_meta", "_offset", "_path", "_size", "_store")

    def __init__(self, store: DirectoryStore, meta: FileMeta) -> None:
        self._store = store
        self._meta = meta
        self._fd = -1
        self._path = Path()
        self._offset = 0  # of the data set in the file
        self._size = 0  # of the data set so far
        self._head = bytearray()

    def write(self, fragments: Sequence[memoryview]) -> None:
        """Append to the file: one writev for all fragments of a chunk, File Meta before the first."""
        try:
            buffers: list[bytes | memoryview] = list(fragments)
            if self._fd < 0:
                buffers.insert(0, self._open())
            _write_all(self._fd, buffers)
        except OSError as error:
            raise self._failure(error) from error
        for fragment in fragments:
            if self._size < _HEAD:
                self._head += fragment
            self._size += len(fragment)

    def commit(self, may_block: bool = True) -> None:
        """Check the data set against the command, force it to stable storage if so promised, name it."""
        if self._store.strict and not may_block:
            raise WouldBlock
        try:
            if self._fd < 0:
                _write_all(self._fd, [self._open()])
            study, series = self._check(may_block)
            if self._store.strict:
                os.fdatasync(self._fd)
            self._store.publish(self._path, study, series, self._meta.sop_instance_uid, may_block)
            fd, self._fd = self._fd, -1
            os.close(fd)
        except OSError as error:
            raise self._failure(error) from error
        except DimseError:
            self.discard()
            raise

    def discard(self) -> None:
        """Close and remove the temporary file."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            os.unlink(self._path)
            os.close(fd)
        except OSError:
            pass  # left over, or reported before; the next start removes it

    def _open(self) -> bytes:
        """Make the file; what is to be written before the data set."""
        self._fd, self._path = self._store.temporary_file()
        prefix = self._meta.encode()
        self._offset = len(prefix)
        return prefix

    def _failure(self, error: OSError) -> DimseError:
        self.discard()
        return DimseError(_OUT_OF_RESOURCES, os.strerror(error.errno) if error.errno else str(error))

    def _check(self, may_block: bool) -> tuple[str, str]:
        """The directory names for the data set; raises `DimseError` if it is not what the command says."""

        def read_at(offset: int, length: int) -> bytes:
            if not may_block:
                raise WouldBlock
            return os.pread(self._fd, length, self._offset + offset)

        meta = self._meta
        try:
            found = header.find_elements(
                read_at, meta.transfer_syntax_uid, _NAMING, bytes(self._head), self._size
            )
        except header.UnreadableDataSet as error:
            raise DimseError(_CANNOT_UNDERSTAND, f"unreadable: {error}") from error
        if header.uid_value(found.get(header.SOP_INSTANCE_UID)) != meta.sop_instance_uid:
            raise DimseError(_DOES_NOT_MATCH, "SOP Instance UID differs from the command's")
        if header.uid_value(found.get(header.SOP_CLASS_UID)) != meta.sop_class_uid:
            raise DimseError(_DOES_NOT_MATCH, "SOP Class UID differs from the command's")
        study = header.uid_value(found.get(header.STUDY_INSTANCE_UID))
        series = header.uid_value(found.get(header.SERIES_INSTANCE_UID))
        return (
            study if uids.is_valid_uid(study) else UNKNOWN_STUDY,
            series if uids.is_valid_uid(series) else UNKNOWN_SERIES,
        )


def _write_all(fd: int, buffers: list[bytes | memoryview]) -> None:
    """Write all of `buffers`. A short write is followed up, so that its cause shows as an error."""
    while buffers:
        written = os.writev(fd, buffers[:_IOV_MAX])
        done = 0
        while done < len(buffers) and written >= len(buffers[done]):
            written -= len(buffers[done])
            done += 1
        del buffers[:done]
        if written:
            buffers[0] = memoryview(buffers[0])[written:]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _same_file(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_mtime_ns) == (other.st_dev, other.st_ino, other.st_mtime_ns)


def _same_object(new: Path, earlier: Path) -> bool:
    """Whether two files hold the same data set in the same transfer syntax, whoever sent it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(new, flags), "rb") as one, open(os.open(earlier, flags), "rb") as other:
        if not stat.S_ISREG(os.fstat(other.fileno()).st_mode):
            return False
        try:
            heads = [part10.read_head(file.read(4096)) for file in (one, other)]
        except ValueError:
            return False
        if heads[0].transfer_syntax_uid != heads[1].transfer_syntax_uid:
            return False
        sizes = []
        for file, head in zip((one, other), heads, strict=True):
            sizes.append(os.fstat(file.fileno()).st_size - head.data_set_offset)
            file.seek(head.data_set_offset)
        if sizes[0] != sizes[1]:
            return False
        while block := one.read(_COMPARE):
            if block != other.read(_COMPARE):
                return False
    return True


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
