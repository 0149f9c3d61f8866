"""How much one server takes on at a time: the numbers, and who has to go when there are too many."""

from __future__ import annotations

from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dicomtw.security.addresses import host_of
from dicomtw.security.rates import Rates

#: Connections without an association there may be besides two for each that is possible.
_SPARE: Final = 64
#: Descriptors kept for threads, the index and the log besides those that are open at the start.
_DESCRIPTORS_KEPT: Final = 24
#: A proposal that is longer, in bytes, is a long one while it comes in: of these there are so many at a time.
#: One of 1 MiB is possible; most have some thousands.
LONG_PROPOSAL: Final = 1 << 16
LONG_PROPOSALS: Final = 32

#: Log lines a minute about connections that come to no association: of one host, and in all.
LINES_PER_HOST: Final = 300
LINES: Final = 1000
#: Of what the log leaves out it says each so many seconds how much that was; hosts that it names then.
_SUMMED_UP: Final = 60.0
_HOSTS_NAMED: Final = 20


@attrs.frozen(kw_only=True)
class Limits:
    """Timers in seconds, and how many associations and connections there may be at a time."""

    artim_timeout: float = 30.0
    dimse_timeout: float = 60.0
    idle_timeout: float = 600.0
    max_associations: int = 200
    #: Of one host; 0: as many as there may be.
    max_associations_per_host: int = 0
    #: Without an association; 0: 64 and two for each association.
    max_connections: int = 0
    #: The same of one host; 0: half of these.
    max_connections_per_host: int = 0
    #: Of all kinds: one more is refused where it is accepted; 0: any number.
    max_open: int = 0
    #: Bytes of a data set after which the association is aborted, whether it is refused already or not;
    #: 0: no limit.
    max_data_set: int = 0

    @property
    def waiting(self) -> int:
        """Connections without an association."""
        return self.max_connections or 2 * self.max_associations + _SPARE

    @property
    def waiting_per_host(self) -> int:
        """Those of one host."""
        return self.max_connections_per_host or max(1, self.waiting // 2)

    def fitted(self, descriptors: int) -> Limits:
        """The same, or less if that is more than so many descriptors are enough for.

        Half of them are for connections without an association, a quarter for associations, and the rest for
        the files that these store and send.
        """
        waiting = min(self.waiting, max(2, descriptors // 2))
        per_host = self.waiting_per_host
        if waiting < self.waiting:
            per_host = min(per_host, waiting // 2)
        return attrs.evolve(
            self,
            max_associations=min(self.max_associations, max(1, descriptors // 4)),
            max_connections=waiting,
            max_connections_per_host=per_host,
            max_open=max(3, descriptors * 3 // 4),
        )


def fit(limits: Limits, who: str, descriptors: int, share: int) -> tuple[Limits, list[str]]:
    """`limits` for a `share` of so many descriptors, and what is less than was wanted, in words."""
    fitted = limits.fitted(share)
    return fitted, [
        f"{descriptors} file descriptors (ulimit -n) are too few: {who} has {limit} {what}, not {wanted}"
        for what, limit, wanted in (
            ("associations at a time", fitted.max_associations, limits.max_associations),
            ("connections without one", fitted.waiting, limits.waiting),
        )
        if limit < wanted
    ]


def descriptors_for_connections(limit: int, in_use: int, servers: int) -> int:
    """What is left of `limit` descriptors for each of so many servers, when so many are in use at rest."""
    return max(4, (limit - in_use - _DESCRIPTORS_KEPT) // servers)


class Lines:
    """The log's lines about connections that come to no association: a flood of these is none of lines."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._of_host = Rates(LINES_PER_HOST)
        self._of_all = Rates(LINES)
        #: How many are left out, by host.
        self._left_out: dict[str, int] = {}

    def take(self, address: str) -> bool:
        """Whether one of this peer gets its line."""
        host, now = host_of(address), self._clock.seconds()
        if self._of_host.take(host, now) and self._of_all.take("", now):
            return True
        if not self._left_out:
            self._clock.callLater(_SUMMED_UP, self._sum_up)
        named = host if host in self._left_out or len(self._left_out) < _HOSTS_NAMED else ""
        self._left_out[named] = self._left_out.get(named, 0) + 1
        return False

    def _sum_up(self) -> None:
        left_out, self._left_out = self._left_out, {}
        for host, count in left_out.items():
            self.log.warn(
                "{count} more connections from {host} came to no association",
                count=count,
                host=host or "other hosts",
            )
