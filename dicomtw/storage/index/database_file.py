"""The file that a database is in, and its log: whether they are still there, and whether they are whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

#: What a lost database is told by, in one line.
_DELETED: Final = "it was deleted, moved or replaced"


class DatabaseFile:
    """The file `path` with the write-ahead log beside it. Raises `OSError` where nothing else is said."""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: The names of the database and of its log: text, for every transaction looks at them.
        self._names = str(path), f"{path}-wal"
        #: Which files these were when somebody connected to them.
        self._identity: tuple[int, ...] = ()
        #: There from a read or write that found damage until the database is set aside.
        self._damaged = path.with_name(f"{path.name}.damaged")

    @property
    def is_there(self) -> bool:
        return self._path.exists()

    @property
    def is_marked(self) -> bool:
        """Whether `mark_damaged` was called, by any process."""
        return self._damaged.exists()

    def make(self) -> None:
        """Make an empty one if there is none; nobody else may read it. The log gets its permissions."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def identify(self) -> None:
        """Remember which files are there now."""
        self._identity = self._files_there()

    def why_lost(self) -> str:
        """Why those that were identified are no longer there, or others are; empty: they are. Does not raise.

        A database without its log may be whole, but is not up to date: that is damage.
        """
        try:
            now = self._files_there()
        except OSError:
            return ""  # who knows
        if not self._identity or now == self._identity:
            return ""
        if now[:2] == self._identity[:2]:
            self.mark_damaged()
        return _DELETED

    def mark_damaged(self) -> None:
        """Note for whoever opens it next that it is damaged. Does not raise."""
        with suppress(OSError):
            self._damaged.touch(0o600)

    def set_aside(self) -> None:
        """Give a damaged database another name, and what is left of its log."""
        number = 1
        while os.path.lexists(aside := self._path.with_name(f"{self._path.name}.corrupt-{number}")):
            number += 1
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                os.rename(f"{self._path}{suffix}", f"{aside}{suffix}")
        self._damaged.unlink(missing_ok=True)

    def _files_there(self) -> tuple[int, ...]:
        """Device and inode of the database and of its log."""
        there: tuple[int, ...] = ()
        for path in self._names:
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            there += status.st_dev, status.st_ino
        return there
