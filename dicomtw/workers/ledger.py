"""Counts of what each worker has, by name, such as its associations of a host: what all have is their sum."""

from __future__ import annotations

import heapq
from contextlib import AbstractContextManager
from hashlib import blake2b

from dicomtw.workers.board import Board


def digest_of(name: str) -> int:
    """A word for a name; never 0."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True) or 1


class Ledger:
    """`slots` names at a time in each column of a board, behind the word `start`.

    A column has the number of slots that are to be looked at, the digests of names, and their counts.
    """

    def __init__(self, board: Board, start: int, slots: int) -> None:
        self._board = board
        self._used = start
        self._digests = start + 1
        self._counts = start + 1 + slots
        #: Ours: where they are, and what is free.
        self._slots: dict[int, int] = {}
        self._free: list[int] = []

    @staticmethod
    def words(slots: int) -> int:
        """Words of a column that it takes."""
        return 1 + 2 * slots

    def held(self) -> AbstractContextManager[None]:
        """Nobody else enters or leaves meanwhile."""
        return self._board.held()

    def put(self, name: str, count: int) -> None:
        """So many we have now."""
        column, digest = self._board.columns[self._board.own], digest_of(name)
        slot = self._slots.get(digest)
        if count:
            if slot is None:
                slot = self._slots[digest] = heapq.heappop(self._free) if self._free else column[self._used]
                column[self._counts + slot] = count
                column[self._digests + slot] = digest
                column[self._used] = max(column[self._used], slot + 1)
            column[self._counts + slot] = count
        elif slot is not None:
            del self._slots[digest]
            column[self._digests + slot] = 0
            if self._slots:
                heapq.heappush(self._free, slot)
            else:
                column[self._used] = 0
                self._free.clear()

    def others(self, name: str) -> int:
        """How many other workers have."""
        board, digest, found = self._board, digest_of(name), 0
        for number, column in enumerate(board.columns):
            used = column[self._used]
            if used and number != board.own:
                digests = column[self._digests : self._digests + used].tolist()
                if digest in digests:
                    found += column[self._counts + digests.index(digest)]
        return found

    def clear(self, worker: int) -> None:
        """A worker has ended."""
        column = self._board.columns[worker]
        for slot in range(column[self._used]):
            column[self._digests + slot] = 0
        column[self._used] = 0
