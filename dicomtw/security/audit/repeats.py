"""The same alert again and again: told of once, then counted, so that nobody can fill a queue with it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import attrs

T = TypeVar("T", bound=Hashable)

#: Repetitions are counted for so long, in seconds, and then told of in one message.
WINDOW = 60.0
#: Different alerts that are remembered at a time; of further ones all are told.
MAXIMUM = 1000


@attrs.define
class _Counted:
    since: float
    times: int = 0


class Repeats(Generic[T]):
    """Counts what is said again within `WINDOW`. Times are in seconds."""

    def __init__(self) -> None:
        self._counted: dict[T, _Counted] = {}

    def is_new(self, what: T, now: float) -> bool:
        """Whether it is to be told of; else it is counted."""
        counted = self._counted.get(what)
        if counted is not None:
            counted.times += 1
            return False
        if len(self._counted) < MAXIMUM:
            self._counted[what] = _Counted(now)
        return True

    def ended(self, now: float | None = None) -> Iterator[tuple[T, int]]:
        """What was counted for long enough, or all for None, and how often it was said again."""
        for what, counted in list(self._counted.items()):
            if now is None or now - counted.since >= WINDOW:
                del self._counted[what]
                if counted.times:
                    yield what, counted.times
