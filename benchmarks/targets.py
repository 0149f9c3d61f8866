"""What is to hold, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import attrs

from benchmarks.pairs import Figures, ratios

OURS, FLOOR = "dicomtw", "bare C receiver"
#: The least that Python and Twisted can do.
BARE = "bare Twisted receiver"
#: Our own server with a store that only writes files, as most peers' do.
FILES = "dicomtw, files alone"
ONE_BY_ONE = "dicomtw, one by one"


@attrs.frozen
class Target:
    """That we do `least` times as much as a peer, or are so many times faster where `key` is a time."""

    work: str
    peer: str
    least: float
    key: str = "rate"


@attrs.frozen
class Limit:
    """That we take this much memory at most, in KiB."""

    name: str
    key: str
    most: float


TARGETS = (
    Target("ct-16", "storescp", 1.0),
    Target("ct-128", "storescp", 1.0),
    Target("ct-4", "storescp --fork", 1.0),
    Target("ct-4", FLOOR, 0.65),
    Target("ct-strict", "Orthanc", 4.0),
    Target("small-1", "storescp", 0.8),
    Target("small-1", "Orthanc, no sync", 5.0),
    Target("small-4", "storescp --fork", 0.8),
    Target("small-4", "Orthanc, no sync", 5.0),
    Target("echo", "storescp", 1.0),
    Target("associations", "storescp", 1.0),
    Target("tls-1", "storescp +tls", 0.75),
    Target("tls-4", "storescp +tls --fork", 1.0),
    Target("find-many", "Orthanc", 3.0),
    Target("find-one", "Orthanc", 1.0, "p50"),
    Target("get", "dcmqrscp", 1.5),
    Target("get", "Orthanc", 3.0),
    Target("move", "dcmqrscp", 1.5),
    Target("move", "Orthanc", 3.0),
    Target("stock", "storescp as it comes", 10.0),
    Target("disk", f"{FLOOR}, fdatasync", 0.8),
    Target("disk", ONE_BY_ONE, 2.5),
)

#: What pages are counted twice between two measurements is not growth.
_NOISE = 2048.0
LIMITS = (
    Limit("memory at rest", "rest", 60 * 1024.0),
    Limit("memory of an association that waits", "association", 40.0),
    Limit("memory that an object of 1 GiB takes more than one of 64 KiB", "growth", _NOISE),
)


@attrs.frozen
class Verdict:
    """How a target was met: the figures of both, the median of the ratios and the least and greatest."""

    target: Target
    work: str
    ours: float
    theirs: float
    ratio: float
    spread: tuple[float, float]

    @property
    def holds(self) -> bool:
        return self.ratio >= self.target.least


def against(figures: dict[str, Figures], peer: str, key: str = "rate", server: str = OURS) -> list[float]:
    """How many times better `server` is than a peer, in each round; nothing if one of them has no figures."""
    if server == OURS and "ratio" in figures.get(peer, {}):
        given: list[float] = figures[peer]["ratio"]
        return given
    ours, theirs = (figures.get(name, {}).get(key, ()) for name in (server, peer))
    return ratios(ours, theirs, less_is_better=key != "rate")


def verdicts(results: dict[str, Any]) -> Iterator[Verdict]:
    """Of all targets that there are figures for."""
    for target in TARGETS:
        work = results["works"].get(target.work)
        each = against(work["figures"], target.peer, target.key) if work else []
        if each:
            ours, theirs = (
                statistics.median(work["figures"][name][target.key]) for name in (OURS, target.peer)
            )
            spread = min(each), max(each)
            yield Verdict(target, work["name"], ours, theirs, statistics.median(each), spread)
