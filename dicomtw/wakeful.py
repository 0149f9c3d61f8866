"""A process that has just had work stays awake for a moment.

Who sends an object sends the next one when it has the response, some microseconds later. To sleep meanwhile,
and to be woken up, takes longer than that: a processor is halted and started again, which under a hypervisor
is dear.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Final

from twisted.internet.epollreactor import EPollReactor

#: How long it stays awake, in seconds, after something came: all that a connection without work can cost.
VIGIL: Final = 50e-6


class WakefulPoller:
    """An epoll object that looks again for a while before it sleeps, if there was something the last time."""

    def __init__(self, poller: select.epoll, now: Callable[[], float] = time.monotonic) -> None:
        self._poll = poller.poll
        self._now = now
        self._was_ready = False
        self.register = poller.register
        self.modify = poller.modify
        self.unregister = poller.unregister
        self.close = poller.close

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        """As `select.epoll.poll`."""
        is_due = 0 <= timeout <= VIGIL
        if self._was_ready and not is_due:
            end = self._now() + VIGIL
            while self._now() < end:
                ready = self._poll(0, maxevents)
                if ready:
                    return ready
        ready = self._poll(timeout, maxevents)
        # A look at once, for a call is due, says nothing of what comes after it.
        self._was_ready = bool(ready) or (self._was_ready and is_due)
        return ready


def stay_awake(reactor: object) -> None:
    """Have the epoll reactor of this process do so, for as long as it runs; others sleep as they do."""
    poller = getattr(reactor, "_poller", None)
    if isinstance(reactor, EPollReactor) and isinstance(poller, select.epoll):
        reactor._poller = WakefulPoller(poller)
