"""What workers know of each other: who is there, how many connections he has, and what was done in all."""

from __future__ import annotations

from dicomtw.workers.board import Board

#: Words of a column.
_IS_UP, _CONNECTIONS, *_COUNTERS = range(6)
COUNTERS = ("associations", "objects", "bytes", "objects sent")
FIRST_FREE = 6


class Common:
    """A view of a board."""

    def __init__(self, workers: int, words: int = 0, common: int = 0) -> None:
        self.board = Board(workers + 1, FIRST_FREE + words, common)

    def begin(self) -> None:
        """We are there."""
        self.board.columns[self.board.own][_IS_UP] = 1

    def is_busier(self) -> bool:
        """Whether somebody else has fewer connections."""
        board = self.board
        ours = board.columns[board.own][_CONNECTIONS]
        return any(column[_IS_UP] and column[_CONNECTIONS] < ours for column in board.columns)

    def connected(self, by: int) -> None:
        """We have so many connections more."""
        self.board.columns[self.board.own][_CONNECTIONS] += by

    def ended(self, worker: int) -> None:
        """Nothing of a worker is there any more but what it had done."""
        column = self.board.columns[worker]
        column[_IS_UP] = column[_CONNECTIONS] = 0

    def count(self, *done: int) -> None:
        """So much of each of `COUNTERS` was done."""
        column = self.board.columns[self.board.own]
        for word, by in zip(_COUNTERS, done, strict=True):
            column[word] += by

    @property
    def counted(self) -> dict[str, int]:
        """What all have done, by `COUNTERS`."""
        columns = self.board.columns
        return {
            name: sum(column[word] for column in columns)
            for name, word in zip(COUNTERS, _COUNTERS, strict=True)
        }
