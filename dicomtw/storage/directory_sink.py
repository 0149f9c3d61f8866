"""One data set on its way into a directory: a temporary file, checked and named in the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from dicomtw import uids
from dicomtw.errors import DimseError, UnreadableDataSet
from dicomtw.storage import WouldBlock, header
from dicomtw.storage.files import write_all
from dicomtw.storage.journal import Journal
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored, directories

# Statuses of PS3.4 Table B.2-1, spelled out: this layer stands below `dimse`.
_OUT_OF_RESOURCES: Final = 0xA700
_DOES_NOT_MATCH: Final = 0xA900
_CANNOT_UNDERSTAND: Final = 0xC000

#: The beginning of a data set that is kept in memory, so that as a rule nothing is read back to name it.
_HEAD = 65536


class Publisher(Protocol):
    """The store of a sink: `directory.DirectoryStore`."""

    #: Whether an object is forced to stable storage before it has its name.
    strict: bool
    #: Tags of the elements that name an object, and that an index wants.
    wanted: frozenset[int]
    journal: Journal

    def publish(self, temporary: str, stored: Stored, may_block: bool) -> Stored | None:
        """Give a complete file its name; what the index is to know, None if it need not.

        Raises `OSError`, `DimseError`, `WouldBlock`: then the file is where it was.
        """


class DirectorySink:
    """One data set on its way into a `directory.DirectoryStore`.

    The file is made when more has come than is kept as the head: small data sets that wait for their turn
    hold no file.
    """

    __slots__ = ("_fd", "_head", "_meta", "_offset", "_path", "_size", "_store", "stored")

    def __init__(self, store: Publisher, meta: FileMeta) -> None:
        self._store = store
        self._meta = meta
        self._fd = -1
        self._path: str  # when the file is made
        self._offset = 0  # of the data set in the file
        self._size = 0  # of the data set so far
        self._head = b""
        #: After `commit`, what an index is to know; None if it need not.
        self.stored: Stored | None = None

    def write(self, fragments: Sequence[memoryview]) -> None:
        """Append to the file: one writev for all fragments of a chunk, what comes before them included."""
        length = sum(map(len, fragments))
        if self._size + length <= _HEAD:
            self._head += b"".join(fragments)
        else:
            try:
                beginning = self._open() if self._fd < 0 else []
                write_all(self._fd, [*beginning, *fragments])
            except OSError as error:
                raise self._failure(error) from error
            if len(self._head) < _HEAD:
                self._head += b"".join(_beginning(fragments, _HEAD - len(self._head)))
        self._size += length

    def commit(self, may_block: bool = True) -> None:
        """Check the data set against the command, force it to stable storage if so promised, name it."""
        if self._store.strict and not may_block:
            raise WouldBlock
        try:
            found = self._check(may_block)
            if self._fd < 0:
                beginning = self._open()
                write_all(self._fd, beginning)
            if self._store.strict:
                os.fdatasync(self._fd)
            meta, status = self._meta, os.fstat(self._fd)
            stored = Stored(
                *directories(found),
                meta.sop_instance_uid,
                meta.transfer_syntax_uid,
                status.st_mtime_ns,
                status.st_ino,
                found,
            )
            self.stored = self._store.publish(self._path, stored, may_block)
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
        self._store.journal.discard(fd, self._path)
        with contextlib.suppress(OSError):
            os.close(fd)

    def _open(self) -> list[bytes | memoryview]:
        """Make the file; what is to be written first: File Meta, and the head."""
        self._fd, self._path = self._store.journal.temporary_file()
        prefix = self._meta.encode()
        self._offset = len(prefix)
        return [prefix, self._head]

    def _failure(self, error: OSError) -> DimseError:
        self.discard()
        return DimseError(_OUT_OF_RESOURCES, os.strerror(error.errno) if error.errno else str(error))

    def _check(self, may_block: bool) -> dict[int, bytes]:
        """Its elements that name and index it; raises `DimseError` if they are not what the command says."""

        def read_at(offset: int, length: int) -> bytes:
            if self._fd < 0:
                return b""  # all there is is in the head
            if not may_block:
                raise WouldBlock
            return os.pread(self._fd, length, self._offset + offset)

        meta, head = self._meta, self._head
        if meta.transfer_syntax_uid in uids.DEFLATED and not may_block:
            raise WouldBlock  # inflating may take long
        try:
            wanted, syntax = self._store.wanted, meta.transfer_syntax_uid
            found = header.find_naming_elements(read_at, syntax, wanted, head, self._size)
        except UnreadableDataSet as error:
            raise DimseError(_CANNOT_UNDERSTAND, f"unreadable: {error}") from error
        if header.uid_value(found.get(header.SOP_INSTANCE_UID)) != meta.sop_instance_uid:
            raise DimseError(_DOES_NOT_MATCH, "SOP Instance UID differs from the command's")
        if header.uid_value(found.get(header.SOP_CLASS_UID)) != meta.sop_class_uid:
            raise DimseError(_DOES_NOT_MATCH, "SOP Class UID differs from the command's")
        return found


def _beginning(fragments: Sequence[memoryview], length: int) -> Iterator[memoryview]:
    """The first `length` bytes."""
    for fragment in fragments:
        yield fragment[:length]
        length -= len(fragment)
        if length <= 0:
            return
