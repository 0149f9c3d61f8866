"""Queries and retrievals as rows of the table: what `benchmarks.query` and `benchmarks.retrieve` measure."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import query, retrieve, servers
from benchmarks.pairs import Figures

#: The cases of `benchmarks.query` that are rows, and whether they are about each match or about the whole.
_CASES = {
    "studies, PatientName=*A*": ("find-many", True),
    "study, StudyInstanceUID": ("find-one", False),
}
#: The retrievals of `benchmarks.retrieve`.
_RETRIEVALS = {"C-GET": "get", "C-MOVE": "move"}

#: Seconds after which Orthanc is sent no more, or asked no more.
_PATIENCE = 120.0

#: A row: its key, its name, the figures of each server.
Row = tuple[str, str, dict[str, Figures]]


def queries(rounds: int, directory: Path | None, wanted: tuple[int, int, int]) -> Iterator[Row]:
    """C-FIND in archives of (studies, instances) and so many copies of them."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        number, instances, copies = wanted
        arguments = argparse.Namespace(
            studies=number, instances=instances, copies=copies, fill_seconds=_PATIENCE
        )
        made = query.fill(root, arguments)
        both = (
            stack.enter_context(servers.dicomtw(root / "ours", "--allow-retrieve=any")),
            stack.enter_context(servers.orthanc(root / "theirs")),
        )
        total = sum(study.instance_count() for study in made)
        for case in query.cases(made):
            if case.name in _CASES:
                key, of_each = _CASES[case.name]
                measured = query.measure(both, case, rounds, _PATIENCE)
                name = f"C-FIND, {case.name}: {case.expected[0]} of {len(made)} studies, {total:,} instances"
                yield key, name, {server: _figures(of, of_each) for server, of in measured.items()}


def _figures(measured: dict[str, Any], of_each: bool) -> Figures:
    """Matches in a second, or queries; its CPU for one; how long a query takes."""
    count = measured["matches"][0] if of_each else 1
    seconds = measured["all_seconds"]
    return {
        "rate": [float(f"{count / each:.4g}") for each in seconds],
        "cpu": [float(f"{measured['cpu'] * 1000 / count:.4g}")],
        "p50": [float(f"{each * 1000:.4g}") for each in seconds],
        "sender": [float(f"{measured['requestor_cpu'] * 1000 / count:.4g}")],
    }


def retrievals(rounds: int, slices: int) -> Iterator[Row]:
    """C-GET and C-MOVE of a series of CT slices."""
    figures: dict[str, dict[str, Figures]] = {}
    for row in retrieve.measure(slices=slices, rounds=rounds):
        figures.setdefault(row.work, {})[row.server] = {
            **{key: [float(f"{getattr(row, name):.4g}")] for key, name in _OF_ROW.items()},
            "ratio": [round(row.ratio, 2)],
        }
    for work, of_servers in figures.items():
        yield _RETRIEVALS[work], f"{work} of a series of {slices} CT slices", of_servers


_OF_ROW = {"rate": "rate", "cpu": "cpu_ms", "p50": "p50_ms", "p99": "p99_ms"}
