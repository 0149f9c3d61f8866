"""Servers side by side in one run: objects, echoes and associations per second, CPU for each, latency.

Usage: python -m benchmarks.ingest [--rounds 7] [--directory DIR] [--only WORDS]

Interleaved: each round asks every server in turn. Ratios are medians of the rounds' own. DCMTK and Orthanc
get TCP_NODELAY=1 in their environment, without which they wait 40 ms for each object.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import attrs

from benchmarks import servers
from benchmarks.load import Load

_NODELAY = {"TCP_NODELAY": "1"}

Start = Callable[[Path], AbstractContextManager[servers.Running]]


@attrs.frozen
class Work:
    """A row of the table: what is sent, and who competes; the first is ours."""

    name: str
    load: Load
    servers: dict[str, Start]


def _ours(*options: str) -> Start:
    return lambda directory: servers.dicomtw(directory, *options)


def _storescp(*options: str) -> Start:
    return lambda directory: servers.storescp(directory, *options, environment=_NODELAY)


_RELAXED, _STRICT = _ours("--durability=relaxed"), _ours("--durability=strict")
_SMALL = 9 * 1024 - 700

WORKS = (
    Work("CT, PDU 16 KiB", Load("store", 300), {"dicomtw": _RELAXED, "storescp": _storescp()}),
    Work(
        "CT, PDU 128 KiB",
        Load("store", 300, pdu=131072),
        {"dicomtw": _RELAXED, "storescp": _storescp("--max-pdu", "131072")},
    ),
    Work("CT x 4", Load("store", 100, 4), {"dicomtw": _RELAXED, "storescp --fork": _storescp("--fork")}),
    Work("CT strict", Load("store", 60), {"dicomtw": _STRICT, "Orthanc": servers.orthanc}),
    Work("9 KB", Load("store", 1000, pixels=_SMALL), {"dicomtw": _RELAXED, "storescp": _storescp()}),
    Work(
        "9 KB x 4",
        Load("store", 300, 4, pixels=_SMALL),
        {"dicomtw": _RELAXED, "storescp --fork": _storescp("--fork"), "Orthanc": servers.orthanc},
    ),
    Work(
        "C-ECHO",
        Load("echo", 3000),
        {"dicomtw": _RELAXED, "storescp": _storescp(), "Orthanc": servers.orthanc},
    ),
    Work("associations", Load("associate", 500), {"dicomtw": _RELAXED, "storescp": _storescp()}),
)


def _empty(directory: Path) -> None:
    """Remove what a round has stored, so that no round finds more than another."""
    for path in (*directory.glob("store/[0-9]*"), *directory.glob("CT.*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def compare(work: Work, rounds: int, directory: Path) -> None:
    """Print a line for each server, and the ratio of ours to each."""
    rates: dict[str, list[float]] = {name: [] for name in work.servers}
    cpu: dict[str, list[float]] = {name: [] for name in work.servers}
    latencies: dict[str, list[float]] = {name: [] for name in work.servers}
    total = work.load.count * work.load.associations
    with tempfile.TemporaryDirectory(dir=directory) as name, ExitStack() as stack:
        running = {}
        for server, start in work.servers.items():
            place = Path(name) / server.replace(" ", "")
            place.mkdir()
            running[server] = stack.enter_context(start(place))
        for _ in range(rounds):
            for server, process in running.items():
                called = "ORTHANC" if server == "Orthanc" else "PMOD"
                before = process.cpu_seconds()
                seconds, each = work.load.run(process.port, called)
                cpu[server].append((process.cpu_seconds() - before) * 1000 / total)
                rates[server].append(total / seconds)
                latencies[server] += each
                if server != "Orthanc":
                    _empty(process.directory)
    ours = next(iter(work.servers))
    for server in work.servers:
        each = sorted(latencies[server])
        ratio = statistics.median(one / other for one, other in zip(rates[ours], rates[server], strict=True))
        print(
            f"{work.name:16} {server:16} {statistics.median(rates[server]):8.0f}/s"
            f" {statistics.median(cpu[server]):7.2f} ms CPU"
            f"   p50 {each[len(each) // 2] * 1000:6.2f} p99 {each[len(each) * 99 // 100] * 1000:7.2f} ms"
            + (f"   ours/its {ratio:.2f}" if server != ours else ""),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=None, help="where to store (default: temporary)")
    parser.add_argument("--only", default="", help="rows whose names have this in them")
    arguments = parser.parse_args()
    for work in WORKS:
        if arguments.only in work.name:
            compare(work, arguments.rounds, arguments.directory)


if __name__ == "__main__":
    main()
