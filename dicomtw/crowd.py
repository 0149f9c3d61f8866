"""All connections of one server: whose they are, which have an association, and who has to go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from dicomtw.limits import LONG_PROPOSALS
from dicomtw.security.addresses import host_of


class Connection(Protocol):
    """What may be turned out."""

    @property
    def closing(self) -> bool:
        """Whether it is being closed."""

    def turn_out(self, why: str) -> None:
        """Close it; it has no association."""


C = TypeVar("C", bound=Connection)


class Crowd(Generic[C]):
    """All connections of one server, oldest first, which of them have an association, and whose they are."""

    def __init__(self) -> None:
        self.connections: dict[C, None] = {}
        self.associations: set[C] = set()
        #: Those whose long proposals are half received, oldest first.
        self._long: dict[C, None] = {}
        self._hosts: dict[C, str] = {}
        #: Of each host: those without an association, oldest first, and how many have one.
        self._waiting: dict[str, dict[C, None]] = {}
        self._associated: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """How many have no association."""
        return len(self.connections) - len(self.associations)

    @property
    def associated(self) -> int:
        """How many have one."""
        return len(self.associations)

    def associations_of(self, connection: C) -> int:
        """How many associations the host of `connection` has; none where the host is not known."""
        return self._associated.get(self._hosts.get(connection, ""), 0)

    def add(self, connection: C) -> None:
        """A connection whose host may not be known yet."""
        self.connections[connection] = None

    def peer_known(self, connection: C, address: str, most: int) -> None:
        """Whose it is; if `most` wait of this host already, the one that does for longest is turned out."""
        host = host_of(address)
        if not host or connection not in self.connections or connection in self._hosts:
            return
        waiting = self._waiting.setdefault(host, {})
        if len(waiting) >= most:
            turn_out_longest(waiting, f"too many connections from {host} without an association")
        self._hosts[connection] = host
        waiting[connection] = None

    def set_associated(self, connection: C, associated: bool) -> None:
        """Whether it has an association."""
        if associated == (connection in self.associations) or connection not in self.connections:
            return
        host = self._hosts.get(connection, "")
        if associated:
            self.associations.add(connection)
            self._long.pop(connection, None)
            if host:
                self._leave(host, connection)
                self._associated[host] = self._associated.get(host, 0) + 1
            return
        self.associations.discard(connection)
        if host:
            self._associated[host] -= 1
            if not self._associated[host]:
                del self._associated[host]
            self._waiting.setdefault(host, {})[connection] = None

    def set_long(self, connection: C, is_long: bool) -> None:
        """Whether much is kept of its proposal; of too many such the oldest is turned out."""
        if not is_long:
            self._long.pop(connection, None)
        elif connection not in self._long:
            if len(self._long) >= LONG_PROPOSALS:
                longest = next(iter(self._long))
                del self._long[longest]
                longest.turn_out("too many long proposals at a time")
            self._long[connection] = None

    def remove(self, connection: C) -> None:
        """It is lost."""
        self._long.pop(connection, None)
        self.set_associated(connection, False)
        host = self._hosts.pop(connection, "")
        if host:
            self._leave(host, connection)
        self.connections.pop(connection, None)

    def _leave(self, host: str, connection: C) -> None:
        waiting = self._waiting[host]
        waiting.pop(connection, None)
        if not waiting:
            del self._waiting[host]

    def without_association(self) -> Iterator[C]:
        """Those that have none, oldest first."""
        return (one for one in self.connections if one not in self.associations)


def turn_out_longest(waiting: Iterable[C], why: str) -> None:
    """Close the first of `waiting` that is not being closed already."""
    longest = next((one for one in waiting if not one.closing), None)
    if longest is not None:
        longest.turn_out(why)
