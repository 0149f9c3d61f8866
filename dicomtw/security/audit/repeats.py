"""Alerts about one host, again and again: a few are told, the others counted, so that they fill no queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from dicomtw.security.addresses import host_of

#: For so long, in seconds, alerts about one host are counted together.
WINDOW: Final = 60.0
#: So many of them are told one by one, and so many about all hosts together.
TOLD: Final = 10
TOLD_TOGETHER: Final = 300
#: Hosts that are remembered at a time; what is about further ones is counted together.
MAXIMUM_HOSTS: Final = 1000


@attrs.define
class _Counted:
    since: float
    told: int = 0
    untold: int = 0


class Repeats:
    """Counts alerts by the hosts they are about (`addresses.host_of`). Times are in seconds."""

    def __init__(self) -> None:
        self._counted: dict[str, _Counted] = {}
        self._together = _Counted(0.0)

    def is_to_be_told(self, address: str, now: float) -> bool:
        """Whether an alert is told by itself; else it is counted."""
        if now - self._together.since >= WINDOW:
            self._together = _Counted(now)
        are_enough = self._together.told >= TOLD_TOGETHER
        host = host_of(address)
        if host not in self._counted and (are_enough or len(self._counted) >= MAXIMUM_HOSTS):
            host = ""
        counted = self._counted.setdefault(host, _Counted(now))
        if are_enough or counted.told >= TOLD:
            counted.untold += 1
            return False
        counted.told += 1
        self._together.told += 1
        return True

    def ended(self, now: float | None = None) -> Iterator[tuple[str, int]]:
        """Hosts, empty for several, whose time is over (all for None), and how many were only counted."""
        for host, counted in list(self._counted.items()):
            if now is None or now - counted.since >= WINDOW:
                del self._counted[host]
                if counted.untold:
                    yield host, counted.untold

    def __bool__(self) -> bool:
        """Whether anything is counted."""
        return bool(self._counted)
