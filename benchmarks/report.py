"""docs/performance.md, made of the figures of a run (docs/performance.json) and a template."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.pairs import Figures, median
from benchmarks.targets import (
    BARE,
    FILES,
    LIMITS,
    ONE_BY_ONE,
    OURS,
    TARGETS,
    Verdict,
    against,
    verdicts,
)

_HERE = Path(__file__).resolve().parent
TEMPLATE = _HERE / "performance.template.md"
FIGURES = _HERE.parent / "docs/performance.json"

_NOT_MEASURED = "not measured"
_COLUMNS = ("", "per second", "ours/its", "CPU ms", "p50 ms", "p99 ms", "peak MiB", "sender CPU ms")


def render(results: dict[str, Any], template: str) -> str:
    """The document."""
    parts = {
        "machine": table(("", ""), results["machine"].items()),
        "run": _run(results["run"]),
        "rounds": str(results["run"]["rounds_of_curves"]),
        "targets": table(("work", "ours", "peer", "its", "ratio", "target", ""), _targets(results)),
        "floors": table(("work", "peer", "target", OURS, FILES, BARE), _floors(results)),
        "works": "\n\n".join(_work(work) for work in results["works"].values()),
        "memory": _memory(results["memory"]),
        **{f"curve_{name}": _curve(curve) for name, curve in results["curves"].items()},
    }
    missing = dict.fromkeys(("curve_size", "curve_associations", "curve_index"), _NOT_MEASURED)
    return Template(template).substitute({**missing, **parts})


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; numbers are to the right."""
    rows = [tuple(row) for row in rows]
    numbers = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(head))]
    rule = [("---:" if number else "---") for number in numbers]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] == "-"


def number(value: float | None) -> str:
    """Three digits are what there is in a measurement."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == 0:
        return f"{value:.0f}"
    return f"{value:.{2 if abs(value) >= 0.1 else 4}f}" if abs(value) < 10 else f"{value:.1f}"


def _run(run: dict[str, Any]) -> str:
    quick = " Quick: too few rounds and objects to rely on." if run["quick"] else ""
    load = ", ".join(f"{each:.1f}" for each in run["load_average"])
    return f"{run['date']}, {run['rounds']} rounds, load average before it {load}.{quick}"


# -- tables


def _targets(results: dict[str, Any]) -> Iterator[Sequence[str]]:
    for verdict in verdicts(results):
        yield _verdict(verdict)
    of_ours = results["memory"].get(OURS, {})
    for limit in LIMITS:
        if limit.key in of_ours:
            kib = of_ours[limit.key]
            holds = "holds" if kib <= limit.most else "**falls short**"
            yield limit.name, _kib(kib), "", "", "", f"at most {_kib(limit.most)}", holds


def _verdict(verdict: Verdict) -> Sequence[str]:
    target, unit = verdict.target, "/s" if verdict.target.key == "rate" else " ms"
    low, high = verdict.spread
    return (
        verdict.work,
        f"{number(verdict.ours)}{unit}",
        target.peer,
        f"{number(verdict.theirs)}{unit}",
        f"{verdict.ratio:.2f}" + (f" ({low:.2f}-{high:.2f})" if low != high else ""),
        f"{target.least:g}",
        "holds" if verdict.holds else "**falls short**",
    )


def _floors(results: dict[str, Any]) -> Iterator[Sequence[str]]:
    """How many times as much as a peer does we do, our protocol alone, and Twisted alone."""
    for target in TARGETS:
        figures = results["works"].get(target.work, {"figures": {}})["figures"]
        if BARE not in figures or target.peer == ONE_BY_ONE:
            continue
        each = (against(figures, target.peer, target.key, server) for server in (OURS, FILES, BARE))
        shown = (f"{statistics.median(one):.2f}" if one else "" for one in each)
        yield results["works"][target.work]["name"], target.peer, f"{target.least:g}", *shown


def _kib(kib: float) -> str:
    return f"{kib / 1024:.1f} MiB" if kib >= 1024 else f"{kib:.1f} KiB"


def _work(work: dict[str, Any]) -> str:
    """A heading and a line for each server."""
    figures: dict[str, Figures] = work["figures"]
    rows = [_server(figures, name) for name, of_server in figures.items() if "rate" in of_server]
    failed = [
        f"{name}: {of_server['failed']}." for name, of_server in figures.items() if "failed" in of_server
    ]
    return "\n\n".join((f"### {work['name']}", table(_COLUMNS, rows), *failed))


def _server(figures: dict[str, Figures], name: str) -> Sequence[str]:
    of_server = figures[name]
    each = against(figures, name) if name != OURS else []
    peak = of_server.get("peak_kib")
    return (
        name,
        number(median(of_server, "rate")),
        f"{statistics.median(each):.2f}" if each else "",
        *(number(median(of_server, key)) for key in ("cpu", "p50", "p99")),
        number(peak / 1024) if peak else "",
        number(median(of_server, "sender")),
    )


def _memory(memory: dict[str, dict[str, float]]) -> str:
    keys = ("rest", "association", "growth")
    head = ("", "at rest", "each association that waits", "1 GiB more than 64 KiB")
    return table(
        head,
        ([name, *(_kib(of[key]) if key in of else "" for key in keys)] for name, of in memory.items()),
    )


#: What is shown of a curve, and how it is called; rates of ours alone.
_OF_CURVES = (
    ("cpu", "CPU ms"),
    ("rate", "per second"),
    ("peak_mib", "peak MiB"),
    ("find", "ms to find a study"),
)


def _curve(curve: dict[str, Any]) -> str:
    """A row for each point, with what there is of each server."""
    series = {
        f"{server}, {words}": of_server[key]
        for server, of_server in curve["servers"].items()
        for key, words in _OF_CURVES
        if key in of_server and (key != "rate" or server == OURS)
    }
    head = (curve["unit"], *series)
    return table(
        head, ([_x(x), *(number(each[at]) for each in series.values())] for at, x in enumerate(curve["x"]))
    )


def _x(value: int) -> str:
    return f"{value:,}"
