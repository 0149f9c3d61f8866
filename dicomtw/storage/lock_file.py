"""A lock on a file: threads share it as well as processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicomtw.storage import WouldBlock

#: Who may not block tries so often: as a rule another process has the lock for some 50 microseconds; to go
#: on in a thread costs more.
_TRIES: Final = 50


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

    def _lock(self, may_block: bool) -> None:
        if may_block:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            return
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                os.sched_yield()
        raise WouldBlock

    @contextlib.contextmanager
    def held(self, may_block: bool = True) -> Iterator[None]:
        """Hold the lock; without `may_block`, raise `WouldBlock` if another has it."""
        if not self._threads.acquire(may_block):  # flock is one for all threads of a process
            raise WouldBlock
        try:
            self._lock(may_block)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()
