"""How often somebody may ask: token buckets, and a table of them that does not grow without bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from dicomtw.security.access import AccessPolicy, Standing
from dicomtw.security.addresses import host_of
from dicomtw.security.remote import Remote

#: Hosts that are remembered, at most; the one that asked longest ago is forgotten first.
MAXIMUM_HOSTS: Final = 4096


class TokenBucket:
    """So many a minute, and as many at once after a quiet minute. Times are seconds of any clock.

    It begins with all of them, unless it had only so many `tokens`.
    """

    __slots__ = ("_at", "_per_minute", "_tokens")

    def __init__(self, per_minute: int, now: float, tokens: float | None = None) -> None:
        self._per_minute = per_minute
        self._tokens = float(per_minute) if tokens is None else tokens
        self._at = now

    @property
    def state(self) -> tuple[float, float]:
        """When it was looked at last, and what was in it then."""
        return self._at, self._tokens

    def has(self, now: float) -> bool:
        """Whether there is one."""
        if now > self._at:
            refilled = self._tokens + (now - self._at) * self._per_minute / 60
            self._tokens = min(refilled, float(self._per_minute))
            self._at = now
        # Sums of fractions may miss a whole number by a hair.
        return self._tokens >= 1 - 1e-6

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        if not self.has(now):
            return False
        self._tokens = max(self._tokens - 1, 0.0)
        return True

    def put_back(self) -> None:
        """One that was taken was not needed."""
        self._tokens = min(self._tokens + 1, float(self._per_minute))


class Rates:
    """A bucket for each of those who ask, `per_minute` tokens each; 0: as many as they like.

    It has `maximum` buckets at most. Who is forgotten begins with a full bucket again: whoever asks under so
    many names at a time is not slowed by this, but costs no memory either.
    """

    def __init__(self, per_minute: int, maximum: int = MAXIMUM_HOSTS) -> None:
        self._per_minute = per_minute
        self._maximum = maximum
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def has(self, who: Hashable, now: float) -> bool:
        """Whether `who` has a token left."""
        bucket = self._buckets.get(who)
        return bucket is None or bucket.has(now)

    def take(self, who: Hashable, now: float) -> bool:
        """Take one of the tokens of `who`, if one is left."""
        if not self._per_minute:
            return True
        bucket = self._buckets.get(who)
        if bucket is None:
            if len(self._buckets) >= self._maximum:
                self._buckets.popitem(last=False)
            bucket = self._buckets[who] = TokenBucket(self._per_minute, now)
        self._buckets.move_to_end(who)
        return bucket.take(now)


class Register:
    """What a server remembers of those who have asked: from it comes the `Standing` of the next one.

    Times are seconds of any clock. Hosts are counted as `addresses.host_of` has them; who has no address is
    not, for only users of this machine can have none.
    """

    def __init__(self, policy: AccessPolicy) -> None:
        self._asked = Rates(policy.associations_per_minute_per_host)
        self._rejected = Rates(policy.failed_associations_per_minute_per_host)
        #: Of each remote itself: there may be several of one AE title.
        self._accepted: dict[Remote, TokenBucket] = {}

    def asked(self, address: str, now: float) -> Standing:
        """Somebody at `address` asks for an association."""
        host = host_of(address)
        if not host:
            return Standing()
        if not self._rejected.has(host, now):
            return Standing(host_is_rejected=True)
        return Standing(host_is_hasty=not self._asked.take(host, now))

    def rejected(self, address: str, now: float) -> None:
        """It was rejected for good."""
        host = host_of(address)
        if host:
            self._rejected.take(host, now)

    def is_hasty(self, remote: Remote, now: float) -> bool:
        """Whether there were too many associations of this remote of late."""
        bucket = self._accepted.get(remote)
        return bucket is not None and not bucket.has(now)

    def accepted(self, remote: Remote, now: float) -> None:
        """An association of this remote is accepted: others who only use its name cost it nothing."""
        limit = remote.associations_per_minute
        if limit:
            self._accepted.setdefault(remote, TokenBucket(limit, now)).take(now)
