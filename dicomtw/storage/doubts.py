"""Files that could not be forced to stable storage: another try may succeed, and say nothing.

A system tells once that it could not write what it had in its cache, and holds it for written then. So who
finds such a file next, in another process or after a crash, is not to rely on it, whatever fsync says to him.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

#: Inside the store: an empty file for each, made with the first.
DOUBTFUL: Final = ".doubtful"


class Doubts:
    """Of the files in the store at `root`."""

    def __init__(self, root: Path) -> None:
        self._directory = root / DOUBTFUL
        self._known: set[str] = set()  # where no file could be made, which is no wonder

    def add(self, there: os.stat_result) -> None:
        """The file could not be forced out, or its name could not."""
        key = _key(there)
        self._known.add(key)
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            (self._directory / key).touch(mode=0o600)

    def has(self, there: os.stat_result) -> bool:
        """Whether it is one of them."""
        key = _key(there)
        return key in self._known or os.path.lexists(self._directory / key)


def _key(there: os.stat_result) -> str:
    """Not of a file that has its inode later."""
    return f"{there.st_dev}-{there.st_ino}-{there.st_mtime_ns}"
