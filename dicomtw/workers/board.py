"""Memory that all workers share: a column of words for each, which it alone writes, and a lock.

What a worker has written stays when it dies, until `clear`: `supervisor` calls it then.
"""

from __future__ import annotations

import copy
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Bytes of a word, a signed integer of this machine or a float of the same size.
_WORD: Final = 8


class Board:
    """So many columns of so many words, and `common` words behind them; all 0 to begin with.

    Processes that are forked later share it. `own` is the number of the column that is ours; 0, in the
    process that they are forked from, is a column too. Words are read and written whole.
    """

    def __init__(self, columns: int, words: int, common: int = 0) -> None:
        self.own = 0
        self._width = words
        size = (columns * words + common) * _WORD
        # A file, for locks need one; nobody else can open it.
        self._fd = os.memfd_create("dicomtw-workers")
        os.ftruncate(self._fd, size)
        memory = memoryview(mmap.mmap(self._fd, size))
        self.columns = [
            memory[each * words * _WORD : (each + 1) * words * _WORD].cast("q") for each in range(columns)
        ]
        #: The words behind the columns, which all write while they hold the lock: as integers, and as floats.
        self.common = memory[columns * words * _WORD :].cast("q")
        self.floats = memory[columns * words * _WORD :].cast("d")
        self._depth = 0

    def seen_by(self, worker: int) -> Board:
        """The same, as it is in a worker: without a fork, for tests."""
        board = copy.copy(self)
        board.own = worker
        return board

    @contextmanager
    def held(self) -> Iterator[None]:
        """While no other worker holds it. A worker that dies holds it no longer. For one thread.

        Blocks while another one does (F_SETLKW): hold it for a look and a few words, and wait for nothing.
        """
        if not self._depth:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)
