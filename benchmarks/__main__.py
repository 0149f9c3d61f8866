"""All measurements, and docs/performance.md of them: one command.

The figures go to docs/performance.json after each step; the document and images/ are made beside it. With
--only the figures replace those of the same name and leave the others.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import attrs

from benchmarks import archives, ingest, machine, memory, plots, report, scaling
from benchmarks.pairs import Work, measure

#: Puts what it has measured into the results.
Step = Callable[[dict[str, Any]], None]


@attrs.frozen
class Extent:
    """How much is measured: times as many objects; studies, instances and copies of both; and the curves."""

    scale: float
    archive: tuple[int, int, int]
    slices: int
    idle: int
    large: int
    sizes: tuple[int, ...]
    associations: tuple[int, ...]
    instances: tuple[int, ...]
    #: Of the curves and the retrievals.
    rounds: int


FULL = Extent(
    1.0, (500, 25_000, 40), 500, 1000, 1 << 30, scaling.SIZES, scaling.ASSOCIATIONS, scaling.INSTANCES, 3
)
QUICK = Extent(
    0.2, (200, 2000, 2), 60, 200, 1 << 28, scaling.SIZES[::3], scaling.ASSOCIATIONS[::3], (1000, 10_000), 1
)


def steps(arguments: argparse.Namespace, extent: Extent) -> Iterator[tuple[str, Step]]:
    """What there is to do, by name."""
    rounds, directory = arguments.rounds, arguments.directory

    def of_work(work: Work) -> Step:
        def step(results: dict[str, Any]) -> None:
            figures = measure(work, rounds, arguments.disk if work.on_disk else directory)
            results["works"][work.key] = {"name": work.name, "figures": figures}
            for line in ingest.lines(work, figures):
                say(line)

        return step

    def rows(some: Callable[[], Iterator[archives.Row]]) -> Step:
        def step(results: dict[str, Any]) -> None:
            for key, name, figures in some():
                results["works"][key] = {"name": name, "figures": figures}
                say(f"{key}: " + ", ".join(f"{server} {each['rate']}" for server, each in figures.items()))

        return step

    def curve(name: str, measured: Callable[[], scaling.Curve]) -> tuple[str, Step]:
        return f"curve {name}", lambda results: results["curves"].update({name: measured()})

    for work in ingest.works(extent.scale):
        yield f"{work.key} ({work.name})", of_work(work)
    yield "find", rows(lambda: archives.queries(rounds, directory, extent.archive))
    yield "retrieve", rows(lambda: archives.retrievals(rounds, extent.slices))
    yield (
        "memory",
        lambda results: results["memory"].update(memory.measure(directory, extent.idle, extent.large)),
    )
    yield curve("size", lambda: scaling.by_size(extent.rounds, directory, extent.sizes, say))
    yield curve(
        "associations",
        lambda: scaling.by_associations(extent.rounds, directory, extent.associations, say),
    )
    yield curve("index", lambda: scaling.by_index(extent.rounds, directory, extent.instances, say))


def say(line: str) -> None:
    print(f"  {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks"
    )
    parser.add_argument("--rounds", type=int, default=None, help="pairs for each row (7; quick: 2)")
    parser.add_argument("--directory", type=Path, default=None, help="where to store (/dev/shm)")
    parser.add_argument(
        "--disk", type=Path, default=None, help="a directory on a disk, to sync to (temporary)"
    )
    parser.add_argument("--only", default="", help="steps with this in their names")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller: for trying it out")
    parser.add_argument(
        "--render", action="store_true", help="make the document of the figures that are there"
    )
    parser.add_argument(
        "--write", type=Path, default=report.FIGURES, help="the figures (docs/performance.json)"
    )
    arguments = parser.parse_args()
    if not arguments.render:
        run(arguments)
    render(arguments.write)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and write the figures after each step."""
    shared = Path("/dev/shm")
    arguments.directory = arguments.directory or (shared if shared.is_dir() else Path(tempfile.gettempdir()))
    arguments.disk = arguments.disk or Path(tempfile.gettempdir())
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 7)
    tempfile.tempdir = str(arguments.directory)  # of all that names none
    results: dict[str, Any] = {"works": {}, "memory": {}, "curves": {}}
    if arguments.only and arguments.write.exists():
        results = json.loads(arguments.write.read_text())
    results["machine"] = machine.described(arguments.directory, arguments.disk)
    extent = QUICK if arguments.quick else FULL
    results["run"] = {
        "date": date.today().isoformat(),
        "rounds": arguments.rounds,
        "rounds_of_curves": extent.rounds,
        "quick": arguments.quick,
        "load_average": [round(each, 1) for each in os.getloadavg()],
    }
    started = time.monotonic()
    for name, step in steps(arguments, extent):
        if arguments.only in name:
            print(f"{time.monotonic() - started:5.0f} s  {name}", flush=True)
            try:
                step(results)
            except Exception as error:  # the other rows are worth having
                say(f"failed: {error!r}")
            arguments.write.write_text(json.dumps(results, indent=None, separators=(",", ":")) + "\n")
    print(f"{time.monotonic() - started:5.0f} s  done", flush=True)


def render(figures: Path) -> None:
    """Write the document and the plots beside the figures."""
    results = json.loads(figures.read_text())
    document = report.render(results, report.TEMPLATE.read_text())
    figures.with_suffix(".md").write_text(document)
    plots.draw(results, figures.parent / "images")


if __name__ == "__main__":
    main()
