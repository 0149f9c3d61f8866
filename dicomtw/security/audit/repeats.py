"""Alerts about one peer, again and again: a few are told, the others counted, so that they fill no queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

#: For so long, in seconds, alerts about one peer are counted together.
WINDOW: Final = 60.0
#: So many of them are told one by one.
TOLD: Final = 10
#: Peers that are remembered at a time; what is about further ones is counted together.
MAXIMUM: Final = 1000


@attrs.define
class _Counted:
    since: float
    times: int = 0


class Repeats:
    """Counts alerts by the addresses they are about. Times are in seconds."""

    def __init__(self) -> None:
        self._counted: dict[str, _Counted] = {}

    def is_to_be_told(self, address: str, now: float) -> bool:
        """Whether an alert is told by itself; else it is counted."""
        if address not in self._counted and len(self._counted) >= MAXIMUM:
            address = ""
        counted = self._counted.setdefault(address, _Counted(now))
        counted.times += 1
        return counted.times <= TOLD

    def ended(self, now: float | None = None) -> Iterator[tuple[str, int]]:
        """Addresses, empty for several, whose time is over (all for None), and how many were only counted."""
        for address, counted in list(self._counted.items()):
            if now is None or now - counted.since >= WINDOW:
                del self._counted[address]
                if counted.times > TOLD:
                    yield address, counted.times - TOLD

    def __bool__(self) -> bool:
        """Whether anything is counted."""
        return bool(self._counted)
