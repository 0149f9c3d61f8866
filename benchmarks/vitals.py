"""What /proc tells of a server, again and again, and whether it goes up."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import attrs

from benchmarks.servers import Running

#: The files of the index, of which connections are kept open for the next query.
_INDEX = "/.index/"


@attrs.frozen
class Vitals:
    """A server at one moment."""

    #: Seconds of `time.time`.
    at: float
    resident_kib: int
    descriptors: int
    sockets: int
    #: Descriptors that are of the index.
    of_index: int
    threads: int
    #: Files in `.incoming`.
    temporary: int
    log_bytes: int
    cpu_seconds: float


def vitals(server: Running) -> Vitals:
    """What it is now."""
    names = []
    for path in Path(f"/proc/{server.pid}/fd").iterdir():
        try:
            names.append(os.readlink(path))
        except FileNotFoundError:
            continue  # closed meanwhile
    incoming = server.directory / "store/.incoming"
    return Vitals(
        at=time.time(),
        resident_kib=server.resident_kib(),
        descriptors=len(names),
        sockets=sum(name.startswith("socket:") for name in names),
        of_index=sum(_INDEX in name for name in names),
        threads=len(os.listdir(f"/proc/{server.pid}/task")),
        temporary=len(os.listdir(incoming)) if incoming.exists() else 0,
        log_bytes=(server.directory / "log").stat().st_size,
        cpu_seconds=server.cpu_seconds(),
    )


class Watch:
    """Looks at a server every `interval` seconds, from a thread of its own."""

    def __init__(self, server: Running, interval: float) -> None:
        self.seen: list[Vitals] = []
        self._server = server
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self.seen.append(vitals(self._server))
            except (OSError, LookupError):
                return  # the server is gone, as will be found

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all points (Theil and Sen), which outliers do not move."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]]
    return statistics.median(slopes) if slopes else 0.0


def drift_mib(seen: Sequence[Vitals], since: float) -> float:
    """How far resident memory has gone up from `since` (of `time.time`) on, as its slope has it, in MiB."""
    points = [(one.at, one.resident_kib / 1024) for one in seen if one.at >= since]
    return slope(points) * (points[-1][0] - points[0][0]) if len(points) > 1 else 0.0
