"""What workers know of each other: who is there, how many connections he has, what is counted in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from dicomtw.config import Configuration, Server
from dicomtw.destinations import limits_of
from dicomtw.workers.board import Board
from dicomtw.workers.buckets import Buckets, SharedRegister
from dicomtw.workers.ledger import Ledger
from dicomtw.workers.progress import Bells, Progress

#: What is counted from the start of the first worker on.
COUNTERS: Final = ("associations", "objects", "bytes", "objects sent")
#: Words of a column, before those of the ledger and of the indexes.
_WORDS: Final = 2 + len(COUNTERS)
_IS_UP, _CONNECTIONS, *_COUNTERS = range(_WORDS)


class Common:
    """What the workers of a configuration have in common, on a `board` if there is one already."""

    def __init__(self, configuration: Configuration, board: Board | None = None) -> None:
        servers, remotes = configuration.servers, len(configuration.remotes)
        rows = SharedRegister.rows(len(servers), remotes)
        kept = len(servers) * (2 + remotes)  # all associations, all that wait, and those of each remote
        slots = kept + sum(map(_hosts, servers))
        roots = dict.fromkeys(Path(os.path.abspath(server.store)) for server in servers)
        of_indexes = _WORDS + Ledger.words(slots)
        columns = configuration.workers + 1
        self.board = board or Board(columns, of_indexes + len(roots) * Progress.WORDS, Buckets.words(rows))
        self.ledger = Ledger(self.board, _WORDS, slots, kept)
        self.buckets = Buckets(self.board, rows)
        self.bells = Bells(columns)
        #: Of the indexes, by the roots of their stores.
        self.progress = {
            root: Progress(self.board, of_indexes + number * Progress.WORDS, self.bells)
            for number, root in enumerate(roots)
        }

    # -- of us

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

    def count(self, *done: int) -> None:
        """So much of each of `COUNTERS` was done."""
        column = self.board.columns[self.board.own]
        for word, by in zip(_COUNTERS, done, strict=True):
            column[word] += by

    # -- of all

    def ended(self, worker: int) -> None:
        """Nothing of a worker is there any more but what it had done."""
        column = self.board.columns[worker]
        column[_IS_UP] = column[_CONNECTIONS] = 0
        with self.ledger.held():
            self.ledger.clear(worker)

    @property
    def counted(self) -> dict[str, int]:
        """What all have done, by `COUNTERS`."""
        columns = self.board.columns
        return {
            name: sum(column[word] for column in columns)
            for name, word in zip(COUNTERS, _COUNTERS, strict=True)
        }


def _hosts(server: Server) -> int:
    """Counts of hosts that a worker has room for at a time: of what is being closed there may be more."""
    return limits_of(server).waiting + server.max_associations
