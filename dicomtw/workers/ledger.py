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

    A column has the number of slots that are to be looked at, the digests of names, and their counts. Hosts
    may be any number; where there is no room for one it is not counted, and the last `kept` slots are for
    other names.
    """

    def __init__(self, board: Board, start: int, slots: int, kept: int = 0) -> None:
        self._board = board
        self._room = slots
        self._kept = kept
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
        """No name gets a count or loses it meanwhile, of nobody else's; counts that are there may change."""
        return self._board.held()

    def put(self, name: str, count: int, *, is_host: bool = False) -> None:
        """So many we have now, if there is room for the name."""
        column, digest = self._board.columns[self._board.own], digest_of(name)
        slot = self._slots.get(digest)
        if slot is not None and count:
            column[self._counts + slot] = count
        elif slot is not None:
            with self.held():
                self._leave(digest, slot)
        elif count and len(self._slots) < self._room - is_host * self._kept:
            with self.held():
                self._enter(digest, count)

    def _enter(self, digest: int, count: int) -> None:
        column = self._board.columns[self._board.own]
        slot = self._slots[digest] = heapq.heappop(self._free) if self._free else column[self._used]
        column[self._counts + slot] = count
        column[self._digests + slot] = digest
        column[self._used] = max(column[self._used], slot + 1)

    def _leave(self, digest: int, slot: int) -> None:
        column = self._board.columns[self._board.own]
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
