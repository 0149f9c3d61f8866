"""How often somebody may ask, of all workers together: token buckets in the memory that they share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from dicomtw.security.access import AccessPolicy
from dicomtw.security.rates import MAXIMUM_HOSTS, Rates, Register, TokenBucket
from dicomtw.security.remote import Remote
from dicomtw.workers.board import Board
from dicomtw.workers.ledger import digest_of

#: Buckets among which that of a name is looked for, and that one is taken of which was used longest ago.
_WAYS: Final = 8
#: Words of a bucket: whose it is, when it was looked at (a float), what it had then (a float).
_WORDS: Final = 3


class Buckets:
    """`rows` buckets in the common words of a board; who is forgotten begins with a full bucket again."""

    def __init__(self, board: Board, rows: int) -> None:
        self._board = board
        self._sets = rows // _WAYS

    @staticmethod
    def words(rows: int) -> int:
        """Common words of a board that it takes."""
        return rows * _WORDS

    def has(self, name: str, per_minute: int, now: float) -> bool:
        """Whether there is a token."""
        with self._board.held():
            place = self._place(digest_of(name))
            return self._bucket(place, name, per_minute, now).has(now)

    def take(self, name: str, per_minute: int, now: float) -> bool:
        """Take a token, if there is one."""
        with self._board.held():
            place = self._place(digest_of(name))
            bucket = self._bucket(place, name, per_minute, now)
            taken = bucket.take(now)
            self._keep(place, name, bucket)
            return taken

    def put_back(self, name: str, per_minute: int, now: float) -> None:
        """A token that was taken was not needed."""
        with self._board.held():
            place = self._place(digest_of(name))
            bucket = self._bucket(place, name, per_minute, now)
            bucket.put_back()
            self._keep(place, name, bucket)

    def _place(self, digest: int) -> int:
        """The word where the bucket of a name is, or is to be."""
        first = digest % self._sets * _WAYS * _WORDS
        places = range(first, first + _WAYS * _WORDS, _WORDS)
        words, floats = self._board.common, self._board.floats
        for place in places:
            if words[place] == digest:
                return place
        return min(places, key=lambda place: floats[place + 1] if words[place] else float("-inf"))

    def _bucket(self, place: int, name: str, per_minute: int, now: float) -> TokenBucket:
        if self._board.common[place] != digest_of(name):
            return TokenBucket(per_minute, now)
        at, tokens = self._board.floats[place + 1], self._board.floats[place + 2]
        return TokenBucket(per_minute, at, tokens)

    def _keep(self, place: int, name: str, bucket: TokenBucket) -> None:
        self._board.common[place] = digest_of(name)
        self._board.floats[place + 1], self._board.floats[place + 2] = bucket.state


class SharedRates(Rates):
    """As `Rates`, of all workers together."""

    def __init__(self, buckets: Buckets, name: str, per_minute: int) -> None:
        super().__init__(per_minute)
        self._shared = buckets
        self._name = name

    def has(self, who: Hashable, now: float) -> bool:
        return not self._per_minute or self._shared.has(f"{self._name} {who}", self._per_minute, now)

    def take(self, who: Hashable, now: float) -> bool:
        return not self._per_minute or self._shared.take(f"{self._name} {who}", self._per_minute, now)


class SharedRegister(Register):
    """What all workers remember of those who have asked one server, `name`."""

    def __init__(self, policy: AccessPolicy, buckets: Buckets, name: str) -> None:
        super().__init__(policy)
        self._buckets = buckets
        self._name = name
        self._remotes = policy.remotes
        self._asked = SharedRates(buckets, f"{name} asked", policy.associations_per_minute_per_host)
        self._rejected = SharedRates(
            buckets, f"{name} rejected", policy.failed_associations_per_minute_per_host
        )

    @staticmethod
    def rows(policies: int, remotes: int) -> int:
        """Buckets that so many servers need."""
        return policies * 2 * MAXIMUM_HOSTS + _WAYS * policies * remotes

    def take(self, remote: Remote, now: float) -> bool:
        """Take a place among those that this remote has in a minute, if there is one."""
        return self._buckets.take(self._of(remote), remote.associations_per_minute, now)

    def put_back(self, remote: Remote, now: float) -> None:
        """It was not needed."""
        self._buckets.put_back(self._of(remote), remote.associations_per_minute, now)

    def accepted(self, remote: Remote, now: float) -> None:
        """Its place was taken when it asked."""

    def _of(self, remote: Remote) -> str:
        return f"{self._name} remote {self._remotes.index(remote)}"
