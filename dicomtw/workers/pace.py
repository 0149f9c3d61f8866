"""When a worker that has ended is replaced: at once, later if it ends again and again, and at last not."""

from __future__ import annotations

from typing import Final

#: The first is replaced after so long, in seconds, the next twice that later, up to the second.
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
#: Who has lived so long, in seconds, is no failure at the start.
GOOD_LIFE: Final = 10.0
#: So many in sequence that did not come up are enough.
MAXIMUM_FAILURES: Final = 5


class Pace:
    """The fates of those who were one worker, one after the other."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY
        self._failures = 0

    def ended(self, lived: float, came_up: bool) -> float | None:
        """After how many seconds there is to be another one; None: it does not come up."""
        if lived >= GOOD_LIFE:
            self._delay = FIRST_DELAY
        self._failures = 0 if came_up else self._failures + 1
        if self._failures >= MAXIMUM_FAILURES:
            return None
        return self.later()

    def later(self) -> float:
        """After how many seconds it is to be tried again, where that is no fault of its own."""
        delay, self._delay = self._delay, min(2 * self._delay, LONGEST_DELAY)
        return delay
