"""What is measured with a load of our own: objects, echoes and associations, plain and over TLS.

Usage: python -m benchmarks.ingest [--rounds 7] [--directory DIR] [--disk DIR] [--only WORDS]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.load import Load
from benchmarks.pairs import MEASURES, Competitor, Figures, Work, measure, median, ratios
from benchmarks.servers import NODELAY, Start
from benchmarks.stock import Storescu
from benchmarks.targets import BARE, FILES, FLOOR, ONE_BY_ONE, OURS

#: Pixel data that makes an object of 9 KB.
SMALL = 9 * 1024 - 700
_LONG_PDU = 131072

RELAXED, _STRICT = "--durability=relaxed", "--durability=strict"
WORKERS = ("--workers=2",)
#: The same server as that of the targets, otherwise.
ONE_PROCESS = f"{OURS}, one process"


def _ours(*options: str) -> Start:
    return lambda directory: servers.dicomtw(directory, *options)


def _storescp(*options: str, tls: bool = False) -> Start:
    return lambda directory: servers.storescp(directory, *options, environment=NODELAY, tls=tls)


def _orthanc(*, sync: bool) -> Start:
    return lambda directory: servers.orthanc(directory, sync=sync)


def _receiver(*, sync: bool = False) -> Start:
    return lambda directory: servers.receiver(directory, sync=sync)


def _files(*options: str) -> Competitor:
    return Competitor(lambda directory: servers.dicomtw(directory, *options, files=True))


def _bare(*options: str) -> Competitor:
    return Competitor(lambda directory: servers.bare(directory, *options))


def works(scale: float = 1.0) -> list[Work]:
    """All of it, with `scale` times as many objects: fewer for slower servers, so as to take as long."""

    def load(kind: str, count: float, associations: int = 1, **more: Any) -> Load:
        return Load(kind, max(2, round(count * scale)), associations, **more)

    relaxed, workers = Competitor(_ours(RELAXED)), Competitor(_ours(RELAXED, *WORKERS))
    storescp, forking = Competitor(_storescp()), Competitor(_storescp("--fork"))
    receiver, small, long = Competitor(_receiver()), {"pixels": SMALL}, {"pdu": _LONG_PDU}

    def without_objects(few: Load) -> dict[str, Competitor]:
        return {
            OURS: relaxed,
            "storescp": storescp,
            "Orthanc": Competitor(_orthanc(sync=False)),
            "pynetdicom": Competitor(servers.pynetdicom_storescp, few),
            FLOOR: receiver,
            BARE: _bare(),
        }

    return [
        Work(
            "ct-16",
            "CT, 1 association, PDU 16 KiB, relaxed",
            load("store", 400),
            {
                OURS: relaxed,
                "storescp": storescp,
                FLOOR: receiver,
                FILES: _files(RELAXED),
                BARE: _bare(),
                "pynetdicom": Competitor(servers.pynetdicom_storescp, load("store", 60)),
            },
        ),
        Work(
            "ct-128",
            "CT, 1 association, PDU 128 KiB, relaxed",
            load("store", 400, **long),
            {
                OURS: relaxed,
                "storescp": Competitor(_storescp("--max-pdu", f"{_LONG_PDU}")),
                FLOOR: receiver,
                FILES: _files(RELAXED),
                BARE: _bare(),
            },
        ),
        Work(
            "ct-4",
            "CT, 4 associations, relaxed, two workers",
            load("store", 150, 4),
            {
                OURS: workers,
                ONE_PROCESS: relaxed,
                "storescp --fork": forking,
                FLOOR: receiver,
                FILES: _files(RELAXED, *WORKERS),
                BARE: _bare(*WORKERS),
            },
        ),
        Work(
            "ct-strict",
            "CT, 1 association, strict",
            load("store", 100),
            {
                OURS: Competitor(_ours(_STRICT)),
                "Orthanc": Competitor(_orthanc(sync=True)),
                "Orthanc, no sync": Competitor(_orthanc(sync=False)),
                BARE: _bare("--sync"),
            },
        ),
        Work(
            "small-1",
            "9 KB, 1 association, relaxed",
            load("store", 1500, **small),
            {
                OURS: relaxed,
                "storescp": storescp,
                "Orthanc, no sync": Competitor(_orthanc(sync=False), load("store", 200, **small)),
                FLOOR: receiver,
                FILES: _files(RELAXED),
                BARE: _bare(),
                "pynetdicom": Competitor(servers.pynetdicom_storescp, load("store", 100, **small)),
            },
        ),
        Work(
            "small-4",
            "9 KB, 4 associations, relaxed, two workers",
            load("store", 500, 4, **small),
            {
                OURS: workers,
                ONE_PROCESS: relaxed,
                "storescp --fork": forking,
                "Orthanc, no sync": Competitor(_orthanc(sync=False), load("store", 60, 4, **small)),
                FLOOR: receiver,
                FILES: _files(RELAXED, *WORKERS),
                BARE: _bare(*WORKERS),
            },
        ),
        Work("echo", "C-ECHO, 1 association", load("echo", 3000), without_objects(load("echo", 150))),
        Work(
            "associations",
            "association, C-ECHO and release",
            load("associate", 600),
            without_objects(load("associate", 20)),
        ),
        Work(
            "tls-1",
            "CT over TLS, 1 association, relaxed",
            load("store", 300, tls=True),
            {
                OURS: Competitor(_ours(RELAXED, "--tls")),
                "storescp +tls": Competitor(_storescp(tls=True)),
                BARE: _bare("--tls"),
            },
        ),
        Work(
            "tls-4",
            "CT over TLS, 4 associations, relaxed, two workers",
            load("store", 80, 4, tls=True),
            {
                OURS: Competitor(_ours(RELAXED, "--tls", *WORKERS)),
                ONE_PROCESS: Competitor(_ours(RELAXED, "--tls")),
                "storescp +tls --fork": Competitor(_storescp("--fork", tls=True)),
                BARE: _bare("--tls", *WORKERS),
            },
        ),
        Work(
            "stock",
            "CT from storescu as it comes, relaxed",
            Storescu(max(2, round(100 * scale))),
            {OURS: relaxed, "storescp as it comes": Competitor(servers.storescp)},
        ),
        Work(
            "disk",
            "CT, 8 associations, strict, on disk",
            load("store", 40, 8),
            {
                OURS: Competitor(_ours(_STRICT)),
                f"{FLOOR}, fdatasync": Competitor(_receiver(sync=True)),
                BARE: _bare("--sync"),
                ONE_BY_ONE: Competitor(_ours(_STRICT), load("store", 60)),
            },
            on_disk=True,
        ),
        Work(
            "disk-1",
            "CT, 1 association, strict, on disk",
            load("store", 60),
            {
                OURS: Competitor(_ours(_STRICT)),
                f"{FLOOR}, fdatasync": Competitor(_receiver(sync=True)),
                BARE: _bare("--sync"),
                "Orthanc": Competitor(_orthanc(sync=True)),
                "Orthanc, no sync": Competitor(_orthanc(sync=False)),
            },
            on_disk=True,
        ),
    ]


def lines(work: Work, figures: Mapping[str, Figures]) -> Iterator[str]:
    """One for each server: what it did, and how many times that we did."""
    for server, of_server in figures.items():
        if "failed" in of_server:
            yield f"{work.key:12} {server:24} failed: {of_server['failed']}"
            continue
        rate, cpu, p50, p99, sender = (median(of_server, key) for key in MEASURES)
        yield (
            f"{work.key:12} {server:24} {rate:8.0f}/s {cpu:7.3f} ms CPU   p50 {p50:7.2f} p99 {p99:7.2f} ms"
            f"   sender {sender:6.3f} ms CPU  {of_server['peak_kib'] / 1024:6.1f} MiB"
            + (
                f"   ours/its {statistics.median(each):.2f}"
                if server != OURS and (each := ratios(figures[OURS].get("rate", ()), of_server["rate"]))
                else ""
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=None, help="where to store (default: temporary)")
    parser.add_argument("--disk", type=Path, default=None, help="a directory on a disk (default: temporary)")
    parser.add_argument("--only", default="", help="rows with this in their key or name")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many objects")
    arguments = parser.parse_args()
    for work in works(arguments.scale):
        if arguments.only in work.key or arguments.only in work.name:
            directory = arguments.disk if work.on_disk else arguments.directory
            for line in lines(work, measure(work, arguments.rounds, directory)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
