"""What one object costs as objects, associations or the index grow."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import copies, query, servers, studies
from benchmarks.finder import Finder, identifier
from benchmarks.ingest import ONE_PROCESS, RELAXED, SMALL, WORKERS
from benchmarks.load import Load
from benchmarks.pairs import add, memory_of, once
from benchmarks.servers import NODELAY, Start
from benchmarks.targets import FLOOR, OURS

_KIB, _MIB = 1 << 10, 1 << 20
#: Bytes of pixel data.
SIZES = (SMALL, 32 * _KIB, 128 * _KIB, 512 * _KIB, 2 * _MIB, 8 * _MIB, 32 * _MIB, 128 * _MIB, 1 << 30)
ASSOCIATIONS = (1, 2, 5, 10, 30, 100, 300, 1000)
INSTANCES = (1000, 10_000, 100_000, 1_000_000)

#: Sent in one run of the first curve: so many bytes, and objects at most.
_BYTES, _OBJECTS = 128 * _MIB, 800
#: Objects in one run of the second curve, one for each association at least.
_TOGETHER = 600
_PDU = 131072
#: Studies asked for, one after the other, in each round.
_ASKED = 100
#: Instances of a study.
_OF_A_STUDY = 50
#: Objects in one run of the third curve.
_OF_INDEX = 600

#: {"x": [...], "servers": {name: {measure: [median for each x]}}}
Curve = dict[str, Any]
Say = Callable[[str], None]


def by_size(rounds: int, directory: Path | None, sizes: Sequence[int], say: Say) -> Curve:
    """One association, objects of ever more bytes, PDUs of 128 KiB."""
    starts: dict[str, Start] = {
        OURS: lambda place: servers.dicomtw(place, RELAXED),
        "storescp": lambda place: servers.storescp(place, "--max-pdu", f"{_PDU}", environment=NODELAY),
        FLOOR: servers.receiver,
    }
    loads = {
        size: Load("store", max(1, min(_OBJECTS, _BYTES // size)), pixels=size, pdu=_PDU) for size in sizes
    }
    return _curve("bytes of pixel data", loads, starts, rounds, directory, say)


def by_associations(rounds: int, directory: Path | None, counts: Sequence[int], say: Say) -> Curve:
    """CT slices on ever more associations at once."""
    many = f"--max-associations={2 * max(counts)}"
    starts: dict[str, Start] = {
        OURS: lambda place: servers.dicomtw(place, RELAXED, many, *WORKERS),
        ONE_PROCESS: lambda place: servers.dicomtw(place, RELAXED, many),
        "storescp --fork": lambda place: servers.storescp(place, "--fork", environment=NODELAY),
        FLOOR: servers.receiver,
    }
    loads = {count: Load("store", max(1, _TOGETHER // count), count) for count in counts}
    return _curve("associations", loads, starts, rounds, directory, say)


def _curve(
    unit: str,
    loads: Mapping[int, Load],
    starts: Mapping[str, Start],
    rounds: int,
    directory: Path | None,
    say: Say,
) -> Curve:
    """Medians for each load of each server; None where a server fails."""
    measured: dict[str, dict[str, list[float | None]]] = {name: {} for name in starts}
    with tempfile.TemporaryDirectory(dir=directory) as name, ExitStack() as stack:
        running = {}
        for number, (server, start) in enumerate(starts.items()):
            place = Path(name) / str(number)
            place.mkdir()
            running[server] = stack.enter_context(start(place))
            once(Load("store", 20), running[server])  # what is slow only the first time
        for x, load in loads.items():
            figures: dict[str, dict[str, list[float]]] = {server: {} for server in running}
            for _ in range(rounds):
                for server, process in running.items():
                    try:
                        add(figures[server], once(load, process))
                    except RuntimeError as error:
                        say(f"{server}, {x} {unit}: {str(error).strip().rpartition(chr(10))[2]}")
            for server, of_server in figures.items():
                if server == OURS:
                    of_server["peak_mib"] = [round(memory_of(load, running[server]) / 1024, 1)]
                for key in ("rate", "cpu", "p50", "p99", *(("peak_mib",) if server == OURS else ())):
                    values = of_server.get(key)
                    measured[server].setdefault(key, []).append(statistics.median(values) if values else None)
            costs = ", ".join(f"{server} {each['cpu'][-1]}" for server, each in measured.items())
            say(f"{x} {unit}: ms CPU {costs}")
    return {"unit": unit, "x": list(loads), "servers": measured}


def by_index(rounds: int, directory: Path | None, counts: Sequence[int], say: Say) -> Curve:
    """Objects of 9 KB, and queries for one study by its UID, with ever more instances in the index.

    The first of `counts` are files; of what comes on top of them only the index knows.
    """
    measured: dict[str, list[float]] = {}
    load = Load("store", _OF_INDEX, pixels=SMALL)
    with tempfile.TemporaryDirectory(dir=directory) as name:
        root, first = Path(name), counts[0]
        files = studies.make(first // _OF_A_STUDY, first)
        query.write_ours(root, files)
        query.index_ours(root, files)
        there = len(files)
        for count in counts:
            made = copies.copied(files, count // first)
            copies.into_ours(root / "store", made[there:])
            there = len(made)
            of_count: dict[str, list[float]] = {}
            with servers.dicomtw(root, RELAXED, "--allow-retrieve=any") as server:
                once(load, server, keep=True)  # what is slow only the first time
                for _ in range(rounds):
                    add(of_count, once(load, server, keep=True))
                    add(of_count, _asked(server, made))
            for key, values in of_count.items():
                measured.setdefault(key, []).append(statistics.median(values))
            say(
                f"{count} instances: ms CPU for an object {measured['cpu'][-1]}, "
                f"ms for a study {measured['find'][-1]}"
            )
    return {"unit": "instances in the index", "x": list(counts), "servers": {OURS: measured}}


def _asked(server: servers.Running, made: Sequence[studies.Study]) -> dict[str, float]:
    """Milliseconds for one of several studies by their UIDs, and of CPU."""
    some = made[:: max(1, len(made) // _ASKED)]
    keys = dict.fromkeys(("PatientName", "PatientID", "StudyDate", "StudyDescription"), "")
    finder = Finder(server.port, called=server.aet)
    before = server.cpu_seconds()
    found = []
    for study in some:
        found.append(finder.find(identifier("STUDY", StudyInstanceUID=study.uid, **keys)))
        if found[-1].matches != 1:
            raise RuntimeError(f"{study.uid} was found {found[-1].matches} times")
    finder.release()
    time.sleep(0.05)
    cpu = (server.cpu_seconds() - before) * 1000 / len(some)
    return {"find": statistics.median(each.seconds for each in found) * 1000, "find_cpu": cpu}
