"""All connections of one server in one worker, and how many the others have: limits are for all together.

A place among the associations is taken when there is found to be room for one, before it is accepted: else
two workers might find the last one at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dicomtw.crowd import Connection, Crowd
from dicomtw.security.addresses import host_of
from dicomtw.workers.ledger import Ledger

C = TypeVar("C", bound=Connection)


class SharedCrowd(Crowd[C]):
    """As `Crowd`; `name` is the server's, `connected` is told of connections that have come and gone."""

    def __init__(self, ledger: Ledger, name: str, connected: Callable[[int], None]) -> None:
        super().__init__()
        self._ledger = ledger
        self._name = name
        self._connected = connected
        #: How many we have of each kind of place, and who has which.
        self._counts: dict[str, int] = {}
        self._places: dict[C, list[str]] = {}
        #: What is to be done if a connection does not become an association.
        self._undone: dict[C, Callable[[], object]] = {}

    # -- what all have

    @property
    def waiting(self) -> int:
        return super().waiting + self._ledger.others(f"{self._name} waiting")

    @property
    def waiting_here(self) -> int:
        """How many of those without an association are ours."""
        return super().waiting

    @property
    def associated(self) -> int:
        return self.count("")

    def associations_of(self, connection: C) -> int:
        host = self._hosts.get(connection, "")
        return self.count(f"host {host}") if host else 0

    def count(self, place: str) -> int:
        """How many have a place of this kind: "" for any association."""
        return self._counts.get(place, 0) + self._ledger.others(f"{self._name} {place}")

    # -- places among associations

    def has_place(self, connection: C, place: str = "") -> bool:
        return place in self._places.get(connection, ())

    def take_place(self, connection: C, place: str) -> None:
        """It has a place of this kind until it is put off."""
        self._places.setdefault(connection, []).append(place)
        self._change(place, 1)

    def take_host(self, connection: C) -> None:
        """It has a place among those of its host."""
        if host := self._hosts.get(connection, ""):
            self.take_place(connection, f"host {host}")

    def or_else(self, connection: C, undo: Callable[[], object]) -> None:
        """Call `undo` if it does not become an association."""
        self._undone[connection] = undo

    def put_off(self, connection: C) -> None:
        """It is no association, for now: its places are free."""
        for place in self._places.pop(connection, ()):
            self._change(place, -1)
        if connection in self._undone:
            self._undone.pop(connection)()

    def _change(self, place: str, by: int) -> None:
        count = self._counts[place] = self._counts.get(place, 0) + by
        if not count:
            del self._counts[place]
        self._ledger.put(f"{self._name} {place}", count, is_host=place.startswith("host "))

    # -- those without one

    def add(self, connection: C) -> None:
        super().add(connection)
        self._connected(1)
        self._tell_waiting()

    def peer_known(self, connection: C, address: str, most: int) -> None:
        host = host_of(address)
        others = self._ledger.others(f"{self._name} waiting {host}") if host else 0
        if others >= most and not self._waiting.get(host):
            connection.turn_out(f"too many connections from {host} without an association")
        super().peer_known(connection, address, max(0, most - others))
        self._tell_waiting(host)

    def set_associated(self, connection: C, associated: bool) -> None:
        super().set_associated(connection, associated)
        if associated:
            self._undone.pop(connection, None)
        else:
            self.put_off(connection)
        self._tell_waiting(self._hosts.get(connection, ""))

    def remove(self, connection: C) -> None:
        is_known, host = connection in self.connections, self._hosts.get(connection, "")
        super().remove(connection)
        if is_known:
            self._connected(-1)
            self._tell_waiting(host)

    def _tell_waiting(self, host: str = "") -> None:
        self._ledger.put(f"{self._name} waiting", self.waiting_here)
        if host:
            waiting = len(self._waiting.get(host, ()))
            self._ledger.put(f"{self._name} waiting {host}", waiting, is_host=True)
