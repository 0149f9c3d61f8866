"""Files, as the system calls have them: written whole, compared, forced to stable storage."""

from __future__ import annotations

import os
from pathlib import Path

from dicomtw.storage import part10

#: Buffers that one writev takes (IOV_MAX on Linux).
_IOV_MAX = 1024
_COMPARE = 1 << 20


def write_all(fd: int, buffers: list[bytes | memoryview]) -> None:
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


def stat_of(path: str | Path) -> os.stat_result | None:
    """What is at `path`, be it a symbolic link; None for nothing."""
    try:
        return os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether both are of one file, with the same content as far as that shows."""
    return (one.st_dev, one.st_ino, one.st_mtime_ns) == (other.st_dev, other.st_ino, other.st_mtime_ns)


def same_object(new: str | Path, earlier: Path) -> bool:
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


def sync(path: Path) -> None:
    """Force a file, or the names in a directory, to stable storage; an operator may have linked either."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
