"""How far each worker has come with entering into an index what it has stored: queries find what all have."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from dicomtw.workers.board import Board


class Progress:
    """Of one index: three words in each column of a board, behind the word `start`.

    What a worker has taken in and not yet entered when it dies, its successor enters.
    """

    WORDS = 3

    def __init__(self, board: Board, start: int, bells: Bells) -> None:
        self._board = board
        self._taken, self._entered, self._fails = range(start, start + self.WORDS)
        self._bells = bells

    # -- ours

    def taken(self, count: int) -> None:
        """We have acknowledged so many more objects that are not in it yet."""
        self._board.columns[self._board.own][self._taken] += count

    def entered(self, count: int) -> None:
        """So many of them are."""
        self._board.columns[self._board.own][self._entered] += count

    def fails(self, is_failing: bool) -> None:
        """Whether they cannot be entered."""
        self._board.columns[self._board.own][self._fails] = is_failing

    def caught_up(self) -> None:
        """All that those had acknowledged is in it whose place we take."""
        column = self._board.columns[self._board.own]
        column[self._entered] = column[self._taken]
        column[self._fails] = 0

    # -- the others'

    def goals(self) -> dict[int, int]:
        """How far those are to come, by their numbers, who have acknowledged more than they have entered."""
        return {
            number: column[self._taken]
            for number, column in enumerate(self._board.columns)
            if number != self._board.own and column[self._entered] < column[self._taken]
        }

    def hurry(self, goals: dict[int, int]) -> None:
        """Somebody waits for it."""
        for number in goals:
            self._bells.ring(number)

    def is_reached(self, goals: dict[int, int]) -> bool:
        """Whether they have come so far."""
        columns = self._board.columns
        return all(columns[number][self._entered] >= goal for number, goal in goals.items())

    def is_failing(self, goals: dict[int, int]) -> bool:
        """Whether one of them cannot."""
        return any(self._board.columns[number][self._fails] for number in goals)


class Bells:
    """One for each worker, by its number, that others can ring."""

    def __init__(self, count: int) -> None:
        self._fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]

    def ring(self, number: int) -> None:
        """Have a worker look what it could do for others."""
        os.eventfd_write(self._fds[number], 1)

    def reader(self, number: int, rung: Callable[[], None]) -> Any:
        """For the reactor of that worker."""
        return _Bell(self._fds[number], rung)


class _Bell:
    """What a reactor reads."""

    def __init__(self, fd: int, rung: Callable[[], None]) -> None:
        self._fd = fd
        self._rung = rung

    def logPrefix(self) -> str:  # noqa: N802 (Twisted's hooks keep Twisted's case)
        return "dicomtw"

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> None:  # noqa: N802
        os.eventfd_read(self._fd)
        self._rung()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        pass
