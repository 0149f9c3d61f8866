"""Files that are read as root, perhaps, and used by somebody else: what was read is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


def unreadable(path: Path) -> str:
    """Why this process cannot read a file, in words; empty if it can. Blocks."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return f"{path} cannot be read by user {os.geteuid()} ({error.strerror})"
    return ""


class Kept(Generic[T]):
    """What `read` makes of a file: read again when that has changed and can be read."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self.path = path
        self._read = read
        self._known: tuple[object, T] | None = None

    def current(self) -> T:
        """What is in the file; what was in it last if nobody may read it any longer.

        Blocks. Raises `OSError`, and what `read` raises.
        """
        try:
            found = self.path.stat()
            version = found.st_ino, found.st_mtime_ns, found.st_size
            if self._known is None or self._known[0] != version:
                self._known = version, self._read(self.path)
        except PermissionError:
            if self._known is None:
                raise
        return self._known[1]
