"""A lock on a file: threads share it as well as processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from dicomtw.storage import WouldBlock


class LockFile:
    """A lock that threads and processes share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._threads = threading.Lock()

    def open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def try_exclusive(self) -> bool:
        """Take the lock if nobody has it or shares it."""
        self.open()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def share(self) -> None:
        """Share the lock, also if it was ours alone."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def held(self, may_block: bool = True) -> Iterator[None]:
        """Hold the lock; without `may_block`, raise `WouldBlock` if another has it."""
        if not self._threads.acquire(may_block):  # flock is one for all threads of a process
            raise WouldBlock
        try:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if may_block else fcntl.LOCK_NB))
            except BlockingIOError:
                raise WouldBlock from None
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()
