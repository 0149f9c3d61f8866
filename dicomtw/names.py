"""Host names of remotes: looked up off the reactor thread, once for all who wait, and remembered."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

#: How long addresses are good for, in seconds; none at all, too.
_REMEMBERED = 60.0


def look_up(name: str) -> frozenset[str]:
    """The addresses of a host name, none if it has none; blocks."""
    try:
        return frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(name, None))
    except OSError:
        return frozenset()  # then it is nobody's address


class Names:
    """Resolves host names in the reactor's threads, which no disk can keep busy."""

    def __init__(
        self,
        clock: IReactorTime,
        begin: Callable[[str], Deferred[frozenset[str]]] = lambda name: deferToThread(look_up, name),
    ) -> None:
        self._clock = clock
        self._begin = begin
        self._known: dict[str, tuple[float, frozenset[str]]] = {}
        self._waiting: dict[str, list[Deferred[frozenset[str]]]] = {}

    def resolve(self, names: frozenset[str]) -> Deferred[frozenset[str]]:
        """The addresses that any of `names` has. Whoever cancels it takes nothing from others that wait."""
        found = gatherResults([self._resolve(name) for name in sorted(names)], consumeErrors=True)
        return found.addCallback(lambda addresses: frozenset().union(*addresses))

    def _resolve(self, name: str) -> Deferred[frozenset[str]]:
        until, addresses = self._known.get(name, (0.0, frozenset()))
        if self._clock.seconds() < until:
            return succeed(addresses)
        waiter: Deferred[frozenset[str]] = Deferred()
        waiting = self._waiting.setdefault(name, [])
        waiting.append(waiter)
        if len(waiting) == 1:
            self._begin(name).addCallback(self._found, name)
        return waiter

    def _found(self, addresses: frozenset[str], name: str) -> None:
        self._known[name] = self._clock.seconds() + _REMEMBERED, addresses
        for waiter in self._waiting.pop(name):
            if not waiter.called:
                waiter.callback(addresses)
