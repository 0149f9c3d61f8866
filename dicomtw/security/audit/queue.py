"""Where audit messages wait on disk until somebody has taken them: in order, also through a kill -9.

A directory of segments, files that records are appended to and that are removed when all in them is taken. A
record is its length and CRC-32 (4 bytes each, big endian) and its bytes. ``taken`` says how far the oldest
segment is taken; after a crash what was taken last may be taken once more. When the queue is full what it has
stays and nothing is added: who floods it cannot push out how he came in. A segment that a disk has damaged is
kept as ``NUMBER.damaged``, for whoever can make something of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

#: More is not kept, in bytes: at 2 KiB each, what some 100,000 associations leave.
MAXIMUM_SIZE: Final = 256 << 20
#: A new segment is begun behind so many bytes.
SEGMENT_SIZE: Final = 4 << 20
#: A record is not longer: an identifier of the largest size, in base64, and what is around it.
MAXIMUM_RECORD: Final = 2 << 20

#: Damaged segments that are kept.
MAXIMUM_DAMAGED: Final = 8

_HEADER: Final = Struct(">LL")
#: Where the length of a record may be.
_LENGTH: Final = re.compile(rb"(?=\0(?!\0\0\0)[\0-\x20]..)", re.DOTALL)
_TAKEN: Final = Struct(">QQL")


class QueueFull(OSError):
    """The queue takes no more until some of it is taken."""

    def __init__(self, maximum: int) -> None:
        super().__init__(f"it is full, with {maximum >> 20} MiB")


class Queue:
    """A queue in `directory`, for one process, and for one thread at a time. Every method may block."""

    def __init__(
        self, directory: Path, maximum: int = MAXIMUM_SIZE, segment_size: int = SEGMENT_SIZE
    ) -> None:
        self._directory = directory
        self._maximum = maximum
        self._segment_size = segment_size
        self._lock = -1
        #: Lengths by number, oldest first. Records are appended to the last one, which is open.
        self._segments: dict[int, int] = {}
        self._fd = -1
        #: How far the oldest segment is taken, in bytes; and what was read and not taken behind that.
        self._taken = 0
        self._read: list[bytes] = []
        #: What a damaged disk has cost, in records.
        self.lost = 0

    @property
    def size(self) -> int:
        """What waits, in bytes."""
        return sum(self._segments.values()) - self._taken

    def move(self, directory: Path) -> None:
        """It is in another directory; to be said before `open`."""
        self._directory = directory

    def open(self) -> int:
        """Make the directory, and cut off what a crash has left unfinished: how many bytes.

        Raises `OSError`; `BlockingIOError` if another process has the queue.
        """
        for path in reversed((self._directory, *self._directory.parents)):
            if not path.is_dir():
                path.mkdir(mode=0o700, exist_ok=True)
                _sync_directory(path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(self._directory / ".lock", flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        found = sorted(int(path.stem) for path in self._directory.glob("*.segment") if path.stem.isdigit())
        cut = 0
        for number in found:
            path = self._path(number)
            size = path.stat().st_size
            whole, behind = _whole(path)
            if whole < size:
                # Only what was added last can be unfinished. What follows damage is not looked for again.
                if behind or number != found[-1]:
                    self.lost += 1 + behind
                    self._keep_damaged(number, shutil.copyfile)
                else:
                    cut += size - whole
                os.truncate(path, whole)
            self._segments[number] = whole
        number, taken = self._read_taken()
        for each in [each for each in self._segments if each < number]:
            self._remove(each)
        first = next(iter(self._segments), 0)
        self._taken = min(taken, self._segments[first]) if self._segments and first == number else 0
        return cut

    def close(self) -> None:
        """Let others have it; of what is taken nothing stays. Does not raise."""
        if self._segments and not self.size:
            with contextlib.suppress(OSError):
                for number in [*self._segments]:
                    self._close_segment(number)
                    self._forget_oldest(number)
        for fd in (self._fd, self._lock):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._fd = self._lock = -1
        self._segments, self._read, self._taken = {}, [], 0

    # -- adding

    def append(self, records: Sequence[bytes]) -> None:
        """Add records, `MAXIMUM_RECORD` bytes long at most, all of them or none, on stable storage.

        Raises `OSError`, `QueueFull`.
        """
        assert all(0 < len(record) <= MAXIMUM_RECORD for record in records)
        data = b"".join(
            part for record in records for part in (_HEADER.pack(len(record), zlib.crc32(record)), record)
        )
        if self.size + len(data) > self._maximum:
            raise QueueFull(self._maximum)
        number = next(reversed(self._segments), 0)
        if self._fd < 0 or self._segments[number] >= self._segment_size:
            number = self._begin_segment(number)
        size = self._segments[number]
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            # Where that has failed too, the next start cuts it off: nothing more goes behind it.
            os.close(self._fd)
            self._fd = -1
            raise
        self._segments[number] = size + len(data)

    def _begin_segment(self, last: int) -> int:
        """Open the next segment; never one that was there before, for its end may be in doubt."""
        number = max(last, self._read_taken()[0]) + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                fd = os.open(self._path(number), flags, 0o600)
                break
            except FileExistsError:
                number += 1
        try:
            _sync_directory(self._directory)
        except BaseException:  # or what is appended might be gone after a power cut, with its file
            os.close(fd)
            with contextlib.suppress(OSError):
                self._path(number).unlink()
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._segments[number] = 0
        return number

    # -- taking

    def peek(self, count: int, size: int) -> list[bytes]:
        """The oldest records, `count` or about `size` bytes of them at most, but one if there is one.

        They stay until they are taken. Raises `OSError`.
        """
        while not self._read and self._segments:
            number = next(iter(self._segments))
            rest = self._segments[number] - self._taken
            self._read = _records(self._path(number), self._taken, self._segments[number], size)
            if not self._read and rest:
                self.lost += 1 + _good_behind(self._path(number), self._taken)
                self._close_segment(number)
                self._keep_damaged(number, os.replace)
            if self._read or not self._forget_oldest(number):
                break
        records: list[bytes] = []
        for record in self._read[:count]:
            if records and size < len(record):
                break
            records.append(record)
            size -= len(record)
        return records

    def take(self, count: int) -> None:
        """The oldest records have got where they are to go. Raises `OSError`.

        If it cannot be noted they are taken once more after the next start.
        """
        taken, self._read = self._read[:count], self._read[count:]
        self._taken += sum(_HEADER.size + len(record) for record in taken)
        number = next(iter(self._segments))
        if self._taken < self._segments[number] or not self._forget_oldest(number):
            self._write_taken(number, self._taken)

    def _forget_oldest(self, number: int) -> bool:
        """Remove the oldest segment, all of which is taken, unless it is being written to."""
        if self._is_open(number) and self._segments[number] < self._segment_size:
            return False
        self._close_segment(number)
        self._taken = 0
        self._remove(number)  # first: on a full disk it is this that makes room
        self._write_taken(number + 1, 0)
        return True

    def _is_open(self, number: int) -> bool:
        return self._fd >= 0 and number == next(reversed(self._segments))

    def _close_segment(self, number: int) -> None:
        if self._is_open(number):
            os.close(self._fd)
            self._fd = -1

    def _remove(self, number: int) -> None:
        del self._segments[number]
        self._path(number).unlink(missing_ok=True)

    def _keep_damaged(self, number: int, put: Callable[[Path, Path], object]) -> None:
        """Have `put` give a segment another name, if there are not too many of these."""
        if len([*self._directory.glob("*.damaged")]) < MAXIMUM_DAMAGED:
            kept = self._path(number).with_suffix(".damaged")
            with contextlib.suppress(OSError):  # there may be no room for it
                os.close(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                put(self._path(number), kept)

    # -- files

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}.segment"

    def _read_taken(self) -> tuple[int, int]:
        """The number of a segment, and how far it is taken; all before it are."""
        try:
            data = (self._directory / "taken").read_bytes()
        except FileNotFoundError:
            return 0, 0
        if len(data) != _TAKEN.size:
            return 0, 0
        number, taken, crc = _TAKEN.unpack(data)
        return (number, taken) if crc == zlib.crc32(data[:16]) else (0, 0)

    def _write_taken(self, number: int, taken: int) -> None:
        """In one write, not synced: a power cut has what was taken last taken again; so has a full disk."""
        data = _TAKEN.pack(number, taken, 0)[:16]
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            fd = os.open(self._directory / "taken", flags, 0o600)
            try:
                os.pwrite(fd, data + zlib.crc32(data).to_bytes(4, "big"), 0)
            finally:
                os.close(fd)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _records(path: Path, start: int, end: int, size: int) -> list[bytes]:
    """Whole records of a segment from `start` on, about `size` bytes of them."""
    found: list[bytes] = []
    with open(path, "rb", opener=_open_no_link) as file:
        file.seek(start)
        while start < end and (size > 0 or not found):
            record = _record(file)
            if record is None:
                break
            found.append(record)
            start += _HEADER.size + len(record)
            size -= len(record)
    return found


def _whole(path: Path) -> tuple[int, int]:
    """How much of a segment is whole records, in bytes, and how many good records are behind that."""
    at = 0
    with open(path, "rb", opener=_open_no_link) as file:
        while (record := _record(file)) is not None:
            at += _HEADER.size + len(record)
    return at, _good_behind(path, at)


def _good_behind(path: Path, at: int) -> int:
    """How many good records there are behind a place where none begins, wherever that may be."""
    count = 0
    with open(path, "rb", opener=_open_no_link) as file:
        file.seek(at)
        data = file.read()
    at, rest = 0, io.BytesIO(data)
    while (found := _LENGTH.search(data, at)) is not None:
        at = rest.seek(found.start())
        record = _record(rest)
        if record is None:
            at += 1
        else:
            count += 1
            at = rest.tell()
    return count


def _record(file: BinaryIO) -> bytes | None:
    """The next record; None where there is none, or it is not as it was written."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    length, crc = _HEADER.unpack(header)
    if not 0 < length <= MAXIMUM_RECORD:  # a power cut may leave zeros
        return None
    record = file.read(length)
    return record if len(record) == length and zlib.crc32(record) == crc else None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
