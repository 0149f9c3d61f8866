"""A store that is a directory: ``<Study UID>/<Series UID>/<SOP Instance UID>.dcm``, each a PS3.10 file.

What is acknowledged is never lost: bytes go to a temporary file, which gets its name in one rename when
everything is there, checked and (``durability="strict"``) on stable storage; then the directory is synced.
Whatever fails before leaves no trace and does not touch an object stored before.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from dicomtw import uids
from dicomtw.errors import DimseError, UnreadableDataSet
from dicomtw.storage import WouldBlock, header, part10
from dicomtw.storage.locations import Locations
from dicomtw.storage.lock_file import LockFile
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
#: The beginning of a data set that is kept in memory, so that as a rule nothing is read back to name it.
_HEAD = 65536
#: Buffers that one writev takes (IOV_MAX on Linux).
_IOV_MAX = 1024
_COMPARE = 1 << 20
#: Directories remembered as made, so that not every object makes them again.
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
        self._on_duplicate = on_duplicate
        self._incoming = root / INCOMING
        self._prefix = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._numbers = itertools.count()  # threads may share it: next() is atomic
        self._in_use = LockFile(root / ".lock")
        self._names = LockFile(root / ".names")
        self._locations = Locations(root)
        #: Directories known to be there, and (strict) to have their own names on stable storage.
        self._directories: set[Path] = set()

    def prepare(self) -> int:
        """Make the directories and remove what earlier runs had half received; the number of such files.

        Leftovers are removed only while no other process uses the store. Raises `OSError`.
        """
        self._make_root()
        for name in (INCOMING, SUPERSEDED):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        if self._incoming.is_symlink():
            raise OSError(errno.ELOOP, f"{INCOMING} is a symbolic link")  # we would clean up elsewhere
        self._locations.prepare()
        removed = 0
        if self._in_use.try_exclusive():
            for leftover in self._incoming.iterdir():
                if not leftover.is_dir():
                    leftover.unlink()
                    removed += 1
        self._in_use.share()
        self._names.open()
        if self.strict:
            _sync(self.root)
        return removed

    def _make_root(self) -> None:
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            if self.strict:
                _sync(path.parent)

    def close(self) -> None:
        """Let other processes clean up after us."""
        self._in_use.close()
        self._names.close()

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
        """Give a complete temporary file its name, or find that its object is there already.

        The temporary file is gone afterwards, under its name or because its bytes were there before.
        It is left where this raises: `OSError`, `DimseError` for a duplicate that is refused, `WouldBlock`.
        """
        directory = self.root / study / series
        final = directory / f"{sop_instance_uid}.dcm"
        while True:
            with self._names.held(may_block):
                earlier, there = self._find(final, sop_instance_uid)
                if there is None:
                    self._make_directory(directory)
                    os.rename(temporary, final)
                    self._locations.put(sop_instance_uid, final)
                    break
            if not may_block:
                raise WouldBlock
            if not stat.S_ISREG(there.st_mode):
                raise FileExistsError(errno.EEXIST, "what has the object's name is no file")
            try:
                if self._on_duplicate is OnDuplicate.KEEP or _same_object(temporary, earlier):
                    if self.strict:
                        _sync(earlier)  # it may have been stored relaxed
                        self._make_directory(earlier.parent)
                        _sync(earlier.parent)
                    os.unlink(temporary)
                    return
            except FileNotFoundError:
                if not os.path.lexists(temporary):
                    raise
                continue  # moved meanwhile
            if self._on_duplicate is OnDuplicate.REFUSE:
                raise DimseError(_DUPLICATE_SOP_INSTANCE, "SOP instance stored before with other content")
            if self._replace(temporary, final, earlier, there):
                return
        if self.strict:
            _sync(directory)

    def _find(self, final: Path, sop_instance_uid: str) -> tuple[Path, os.stat_result | None]:
        """Where the object of this UID is, and what is there: `final` and None if it is not stored."""
        there = _stat(final)
        if there is None:
            elsewhere = self._locations.find(sop_instance_uid)
            if elsewhere is not None:
                return elsewhere, _stat(elsewhere)
        return final, there

    def _replace(self, temporary: Path, final: Path, earlier: Path, there: os.stat_result) -> bool:
        """Let `temporary` take the name, and keep the earlier version under ``superseded``.

        False if `earlier` is no longer the file that `there` describes; then nothing is done.
        """
        directory = self.root / SUPERSEDED / earlier.parent.relative_to(self.root)
        self._make_directory(directory)
        kept = directory / f"{final.stem}.{there.st_mtime_ns}-{secrets.token_hex(2)}.dcm"
        with self._names.held():
            now = _stat(earlier)
            if now is None or not _same_file(now, there):
                return False
            if earlier != final and _stat(final) is not None:
                return False
            self._make_directory(final.parent)  # while nobody else may remove it for being empty
            os.link(earlier, kept)
            try:
                if self.strict:
                    _sync(directory)
                os.rename(temporary, final)
            except OSError:
                os.unlink(kept)
                raise
            try:
                if self.strict:
                    _sync(final.parent)
            except OSError:
                # A store that fails does not change what was stored before.
                if earlier == final:
                    os.rename(kept, final)
                else:
                    os.unlink(final)
                    os.unlink(kept)
                raise
            self._locations.put(final.stem, final)
            if earlier != final:
                self._leave(earlier)
        return True

    def _leave(self, earlier: Path) -> None:
        """Remove the name that an object had in another series; it is stored whether this succeeds or not."""
        with contextlib.suppress(OSError):
            os.unlink(earlier)
            if self.strict:
                _sync(earlier.parent)
            os.rmdir(earlier.parent)  # if it was the last one there
            self._directories.discard(earlier.parent)
            os.rmdir(earlier.parent.parent)

    def _is_made(self, directory: Path) -> bool:
        return directory in self._directories and directory.is_dir()

    def _make_directory(self, directory: Path) -> None:
        """A directory below the root, with the names that lead to it on stable storage."""
        if self._is_made(directory):
            return
        path = self.root
        for name in directory.relative_to(self.root).parts:
            parent, path = path, path / name
            path.mkdir(mode=0o700, exist_ok=True)
            if self.strict:
                _sync(parent)  # whoever made it: that it is there does not say that its maker has synced it
        if len(self._directories) >= _DIRECTORIES:
            self._directories.clear()
        self._directories.add(directory)


class DirectorySink:
    """One data set on its way into a `DirectoryStore`.

    The file is made when more has come than is kept as the head: small data sets that wait for their turn
    hold no file.
    """

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
        """Append to the file: one writev for all fragments of a chunk, what comes before them included."""
        length = sum(map(len, fragments))
        if self._size + length <= _HEAD:
            self._head += b"".join(fragments)
        else:
            try:
                beginning = self._open() if self._fd < 0 else []
                _write_all(self._fd, [*beginning, *fragments])
            except OSError as error:
                raise self._failure(error) from error
            if len(self._head) < _HEAD:
                for fragment in fragments:
                    self._head += fragment[: _HEAD - len(self._head)]
        self._size += length

    def commit(self, may_block: bool = True) -> None:
        """Check the data set against the command, force it to stable storage if so promised, name it."""
        if self._store.strict and not may_block:
            raise WouldBlock
        try:
            study, series = self._check(may_block)
            if self._fd < 0:
                beginning = self._open()
                _write_all(self._fd, beginning)
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
        with contextlib.suppress(OSError):
            os.unlink(self._path)  # what cannot be removed now, the next start removes
        with contextlib.suppress(OSError):
            os.close(fd)

    def _open(self) -> list[bytes | memoryview]:
        """Make the file; what is to be written first: File Meta, and the head."""
        self._fd, self._path = self._store.temporary_file()
        prefix = self._meta.encode()
        self._offset = len(prefix)
        return [prefix, bytes(self._head)]

    def _failure(self, error: OSError) -> DimseError:
        self.discard()
        return DimseError(_OUT_OF_RESOURCES, os.strerror(error.errno) if error.errno else str(error))

    def _check(self, may_block: bool) -> tuple[str, str]:
        """The directory names for the data set; raises `DimseError` if it is not what the command says."""

        def read_at(offset: int, length: int) -> bytes:
            if self._fd < 0:
                return b""  # all there is is in the head
            if not may_block:
                raise WouldBlock
            return os.pread(self._fd, length, self._offset + offset)

        meta, head = self._meta, bytes(self._head)
        if meta.transfer_syntax_uid in uids.DEFLATED and not may_block:
            raise WouldBlock  # inflating may take long
        try:
            found = header.find_naming_elements(read_at, meta.transfer_syntax_uid, _NAMING, head, self._size)
        except UnreadableDataSet as error:
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
    except (FileNotFoundError, NotADirectoryError):
        return None


def _same_file(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_mtime_ns) == (other.st_dev, other.st_ino, other.st_mtime_ns)


def _same_object(new: Path, earlier: Path) -> bool:
    """Whether two files hold the same data set in the same transfer syntax, whoever sent it."""
    with open(new, "rb", opener=_open_no_link) as one, open(earlier, "rb", opener=_open_no_link) as other:
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


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _sync(path: Path) -> None:
    """Force a file, or the names in a directory, to stable storage; an operator may have linked either."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
