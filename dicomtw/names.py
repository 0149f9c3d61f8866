"""Host names of remotes: looked up off the reactor thread, once for all who wait, and remembered."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.defer import Deferred, FirstError, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure

#: How long addresses are good for, in seconds; none at all, too.
_REMEMBERED = 60.0


def look_up(name: str) -> frozenset[str]:
    """The addresses of a host name, none if it has none; blocks."""
    try:
        return frozenset(str(entry[4][0]) for entry in socket.getaddrinfo(name, None))
    except (OSError, UnicodeError):
        return frozenset()  # then it is nobody's address


def _first(failure: Failure) -> Failure:
    """What failed, without the FirstError around it."""
    cause: Failure = failure.value.subFailure if isinstance(failure.value, FirstError) else failure
    return cause


class Names:
    """Resolves host names in the reactor's threads, which no disk can keep busy."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        begin: Callable[[str], Deferred[frozenset[str]]] = lambda name: deferToThread(look_up, name),
    ) -> None:
        self._clock = clock
        self._begin = begin
        self._known: dict[str, tuple[float, frozenset[str]]] = {}
        #: Who waits for the look-ups that are under way.
        self._waiting: dict[str, list[Deferred[frozenset[str]]]] = {}

    def resolve(self, names: frozenset[str]) -> Deferred[dict[str, frozenset[str]]]:
        """The addresses of each of `names`. Whoever cancels it takes nothing from others that wait."""
        ordered = sorted(names)
        found = gatherResults([self._resolve(name) for name in ordered], consumeErrors=True)
        return found.addCallbacks(lambda addresses: dict(zip(ordered, addresses, strict=True)), _first)

    def _resolve(self, name: str) -> Deferred[frozenset[str]]:
        until, addresses = self._known.get(name, (0.0, frozenset()))
        if self._clock.seconds() < until:
            return succeed(addresses)
        waiter: Deferred[frozenset[str]] = Deferred(lambda waiter: self._waiting[name].remove(waiter))
        if name in self._waiting:
            self._waiting[name].append(waiter)
        else:
            self._waiting[name] = [waiter]
            self._begin(name).addErrback(self._bug).addCallback(self._found, name)
        return waiter

    def _bug(self, failure: Failure) -> frozenset[str]:
        self.log.failure("bug in a look-up", failure)
        return frozenset()

    def _found(self, addresses: frozenset[str], name: str) -> None:
        self._known[name] = self._clock.seconds() + _REMEMBERED, addresses
        for waiter in self._waiting.pop(name):
            waiter.callback(addresses)
