"""The same work done by one server after the other, in rounds: what each round has shown, and medians of it.

Interleaved, so that what else the machine does meets all alike: each round asks every server, every other
one in the opposite order. Ratios are of one round's figures; what is said of them is their median.
"""

from __future__ import annotations

import atexit
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import attrs

from benchmarks.load import Result
from benchmarks.processes import Peak, Running
from benchmarks.servers import Start

#: Seconds after a run for what is still being done for it: children that end, an index that is written.
_SETTLE = 0.05

#: What is measured of a server in each round: objects per second, its CPU for one in ms, of responses the
#: median and the last but one hundredth in ms, the CPU of the sender for one in ms.
MEASURES = ("rate", "cpu", "p50", "p99", "sender")
#: Of each of those a list; besides `peak_kib`.
Figures = dict[str, Any]


class Sends(Protocol):
    """A load, such as `benchmarks.load.Load`."""

    @property
    def total(self) -> int: ...

    def run(self, port: int, called: str, watch: Callable[[], None] = ...) -> Result: ...


@attrs.frozen
class Competitor:
    """A server, and the load that it gets if that is not the one of its work."""

    start: Start
    load: Sends | None = None


@attrs.frozen
class Work:
    """What is sent, and who competes."""

    key: str
    name: str
    load: Sends
    competitors: Mapping[str, Competitor]
    #: Whether it is about a file system that syncs.
    on_disk: bool = False


def measure(work: Work, rounds: int, directory: Path) -> dict[str, Figures]:
    """The figures of each competitor; ``{"failed": why}`` of one that fails, who is then out of it."""
    figures: dict[str, Figures] = {name: {} for name in work.competitors}
    with ExitStack() as stack:
        if work.on_disk:
            name = _left_to_the_end(directory)
        else:
            name = stack.enter_context(tempfile.TemporaryDirectory(dir=directory))
        running: dict[str, Running] = {}
        for number, (server, competitor) in enumerate(work.competitors.items()):
            place = Path(name) / str(number)
            place.mkdir()
            try:
                running[server] = stack.enter_context(competitor.start(place))
            except (OSError, RuntimeError) as error:
                figures[server] = {"failed": str(error)}
        for number in range(-1, rounds):
            for server in list(running) if number % 2 else list(reversed(running)):
                load = work.competitors[server].load or work.load
                try:
                    # The first warms up, and shows the memory it takes.
                    if number < 0:
                        figures[server]["peak_kib"] = memory_of(load, running[server], keep=work.on_disk)
                    else:
                        add(figures[server], once(load, running[server], keep=work.on_disk))
                except RuntimeError as error:
                    figures[server] = {"failed": str(error).strip().rpartition("\n")[2]}
                    del running[server]
    return figures


def _left_to_the_end(directory: Path) -> str:
    """A temporary directory that is removed with the process.

    Where ext4 has no journal, who makes a file there looks for minutes at each inode that was freed of late,
    to pass it over: what is removed between two runs is paid for in the next ones.
    """
    name = tempfile.mkdtemp(dir=directory)
    atexit.register(shutil.rmtree, name, ignore_errors=True)
    return name


def once(load: Sends, server: Running, *, keep: bool = False) -> dict[str, float]:
    """The figures of one run; what was stored is removed, unless it is to be kept."""
    seen: list[float] = []

    def watch() -> None:
        time.sleep(_SETTLE)
        seen.append(server.cpu_seconds())

    result = load.run(server.port, server.aet, watch)
    before, after = seen
    cpu = after - before
    if not keep:
        empty(server)
    milliseconds = cpu * 1000 / load.total, result.percentile_ms(50), result.percentile_ms(99)
    sender = result.cpu_seconds * 1000 / load.total
    return dict(zip(MEASURES, (load.total / result.seconds, *milliseconds, sender), strict=True))


def memory_of(load: Sends, server: Running, *, keep: bool = False) -> int:
    """The most memory that a server and its children have in a run, in KiB; the rest as `once`."""
    peak = Peak(server)
    try:
        load.run(server.port, server.aet)
    finally:
        kib = peak.stop()
    if not keep:
        empty(server)
    return kib


def add(figures: Figures, of_round: Mapping[str, float]) -> None:
    """To what the rounds before have shown; four digits are more than there is in it."""
    for key, value in of_round.items():
        figures.setdefault(key, []).append(float(f"{value:.4g}"))


def empty(server: Running) -> None:
    """Remove what was stored, so that no round finds more than another; Orthanc's store is left alone."""
    for pattern in ("store/[0-9]*", "store/CT.*", "CT.*"):
        for path in server.directory.glob(pattern):
            if server.name != "Orthanc":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


# -- arithmetic


def median(figures: Figures, key: str) -> float | None:
    """The median of the rounds; nothing if there is none."""
    values = figures.get(key)
    return statistics.median(values) if values else None


def ratios(ours: Sequence[float], theirs: Sequence[float], *, less_is_better: bool = False) -> list[float]:
    """How many times better we are, round by round."""
    each = zip(ours, theirs, strict=False)  # a server that failed has fewer
    return [other / one if less_is_better else one / other for one, other in each if one and other]
