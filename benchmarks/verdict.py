"""What a soak has shown: promises kept or broken, the figures, and the table of both."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks import crowd, good, hostile, kept
from benchmarks.crowd import PATIENCE, Place, Visit, percentile
from benchmarks.servers import Running
from benchmarks.vitals import Vitals, drift_mib
from tests.conformance.case import Target

_MEBIBYTE = 1 << 20
#: What no log may hold.
_BUGS = ("Traceback", "bug in an association", "Unhandled")
#: What a server keeps once it has needed it, which a warm-up may not have done: five connections to the
#: index, of three files each; threads for disk, queries and index, and those of the reactor.
_OF_INDEX = 5 * 3
_THREADS = 1 + 16 + 8 + 1 + 10
#: Seconds of a run of which it can be said whether memory goes up.
_LONG = 300.0
_MILLISECONDS = f"{'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}"

KINDS = {kind.name: kind for kind in (*good.PROBES, *good.KINDS, *hostile.KINDS)}


@attrs.frozen
class Promise:
    """What must be so, whether it is, and the figures. `certain`: however slow and busy the machine is."""

    key: str
    says: str
    kept: bool
    figures: str
    certain: bool = False


@attrs.define
class Record:
    """What is known of a run."""

    given: argparse.Namespace
    server: Running
    sink: Running
    place: Place
    directory: Path
    began: float = 0.0
    ended: float = 0.0
    start: Vitals | None = None
    end: Vitals | None = None
    samples: list[Vitals] = attrs.field(factory=list)
    peak_kib: int = 0
    late: int = 0
    exit_status: int | None = None


# ---- what is promised ------------------------------------------------------------------------------------


def _some(wrong: Sequence[str]) -> str:
    return "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")


def judged(run: Record, visits: Sequence[Visit], objects: Sequence[Promise], log: str) -> list[Promise]:
    """All promises."""
    given, start, end = run.given, run.start, run.end
    assert start is not None and end is not None
    meant_well = [one for one in visits if not KINDS[one.kind].attack]
    meant_harm = [one for one in visits if KINDS[one.kind].attack]
    unserved = [f"{one.kind}: {one.seen}" for one in meant_well if not one.good]
    other = [f"{one.kind}: {one.seen}" for one in meant_harm if not one.good]
    bugs = {bug: log.count(bug) for bug in _BUGS}
    promises = [
        Promise(
            "served",
            "every visit of those who mean well was served",
            not unserved,
            f"{len(meant_well) - len(unserved)} of {len(meant_well)} {_some(unserved)}".rstrip(),
        ),
        Promise(
            "answers",
            "every attack was answered as it must be",
            not other and not run.late,
            f"{len(meant_harm) - len(other)} of {len(meant_harm)} {_some(other)}".rstrip()
            + f", {run.late} processes did not end" * bool(run.late),
        ),
    ]
    for kind in good.PROBES:
        busy = [one.seconds for one in visits if one.kind == kind.name and one.began >= run.began]
        p99 = percentile(busy, 99)
        promises.append(
            Promise(
                "p99 " + kind.name.partition(": ")[2],
                f"{kind.name}: 99 of 100 within {given.p99:.2f} s",
                bool(busy) and p99 <= given.p99,
                f"{p99 * 1000:.1f} ms",
            )
        )
    promises += [
        Promise(
            "log",
            "no traceback, no bug in the log",
            not any(bugs.values()),
            ", ".join(f"{number} {bug!r}" for bug, number in bugs.items()),
            certain=True,
        ),
        Promise(
            "descriptors",
            "open descriptors as at the start, or those of the index as many as it keeps",
            end.descriptors - end.of_index <= start.descriptors - start.of_index
            and end.sockets <= start.sockets
            and end.of_index <= max(start.of_index, _OF_INDEX),
            f"{start.descriptors} -> {end.descriptors}, sockets {start.sockets} -> {end.sockets}, "
            f"of the index {start.of_index} -> {end.of_index}",
            certain=True,
        ),
        Promise(
            "threads",
            "threads as at the start, or as many as pools have",
            end.threads <= max(start.threads, _THREADS),
            f"{start.threads} -> {end.threads}",
        ),
        Promise(
            "temporary files",
            "nothing is left half received",
            end.temporary <= start.temporary,
            f"{start.temporary} -> {end.temporary}",
            certain=True,
        ),
        *objects,
        Promise(
            "peak",
            f"memory never above {given.peak} MiB",
            run.peak_kib <= given.peak * 1024,
            f"{run.peak_kib / 1024:.1f} MiB",
        ),
        Promise("end", "it stops when told to", run.exit_status == 0, f"exit status {run.exit_status}", True),
    ]
    half = run.began + given.seconds / 2
    if given.seconds >= _LONG:
        drift = drift_mib(run.samples, half)
        promises.append(
            Promise(
                "drift",
                f"memory drifts by less than {given.drift} MiB in the second half",
                drift < given.drift,
                f"{drift:+.2f} MiB in {given.seconds / 2:.0f} s",
            )
        )
    return promises


def of_objects(run: Record) -> list[Promise]:
    """What is promised of the objects that were acknowledged; the server must be there yet."""
    stored = crowd.stored_in(run.directory)
    place = run.place
    target = Target(host="127.0.0.1", port=place.port, called=place.called, patience=PATIENCE)
    lost = kept.on_disk(run.server.directory / "store", stored)
    unfound = kept.by_find(target, stored)
    number, ungot = kept.by_get(target, stored, 40, run.given.seed)
    there, strange = kept.moved(run.sink.directory / "store", stored)
    total = len(stored)
    return [
        Promise(
            "objects",
            "each acknowledged object is on disk, bit by bit",
            total > 0 and not lost,
            f"{total - len(lost)} of {total} {_some(lost)}".rstrip(),
            certain=True,
        ),
        Promise(
            "found",
            "each is found by C-FIND, once",
            not unfound,
            f"{total - len(unfound)} of {total} {_some(unfound)}".rstrip(),
            certain=True,
        ),
        Promise(
            "got",
            "some are fetched by C-GET, bit by bit",
            not ungot,
            f"{number - len(ungot)} of {number} {_some(ungot)}".rstrip(),
            certain=True,
        ),
        Promise(
            "moved",
            "what was moved is there, bit by bit",
            not strange,
            f"{there - len(strange)} of {there} {_some(strange)}".rstrip(),
            certain=True,
        ),
    ]


# ---- what is said ----------------------------------------------------------------------------------------


def _latency(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum in milliseconds."""
    return {
        "p50": round(percentile(values, 50) * 1000, 2),
        "p99": round(percentile(values, 99) * 1000, 2),
        "max": round(max(values, default=0.0) * 1000, 2),
    }


def figures(run: Record, visits: Sequence[Visit]) -> dict[str, Any]:
    """What was measured."""
    by_kind: dict[str, Any] = {}
    for kind in (*good.PROBES, *good.KINDS, *hostile.KINDS):
        own = [one for one in visits if one.kind == kind.name and one.began >= run.began]
        by_kind[kind.name] = {
            "attack": kind.attack,
            "visits": len(own),
            "differing": sum(not one.good for one in own),
            "seen": dict(Counter(one.seen for one in own).most_common(6)),
            **_latency([one.seconds for one in own]),
        }
    probes = {
        kind.name: {
            "idle": _latency(
                [one.seconds for one in visits if one.kind == kind.name and one.began < run.began]
            ),
            "soak": _latency(
                [one.seconds for one in visits if one.kind == kind.name and one.began >= run.began]
            ),
        }
        for kind in good.PROBES
    }
    start, end = run.start, run.end
    assert start is not None and end is not None
    cpu = run.samples[-1].cpu_seconds - run.samples[0].cpu_seconds if run.samples else 0.0
    return {
        "seconds": run.given.seconds,
        "associations": run.given.associations,
        "seed": run.given.seed,
        "timers": {name: getattr(run.place, name) for name in ("artim", "dimse", "idle")},
        "kinds": by_kind,
        "probes": probes,
        "start": attrs.asdict(start),
        "end": attrs.asdict(end),
        "peak_kib": run.peak_kib,
        "processors": round(cpu / max(run.given.seconds, 1), 2),
    }


def first_bug(log: str) -> str:
    """The lines of the log about the first of what it must not hold, and the one before it; empty if none."""
    lines = log.splitlines()
    for at, line in enumerate(lines):
        if any(bug in line for bug in _BUGS):
            return "\n".join(lines[max(0, at - 1) : at + 40])
    return ""


def report(run: Record, measured: dict[str, Any], promises: Sequence[Promise]) -> str:
    """The table."""
    lines = [
        f"{run.given.associations} peers for {run.given.seconds:.0f} s, seed {run.given.seed}; timers in s: "
        + ", ".join(f"{name} {value:g}" for name, value in measured["timers"].items()),
        "",
        f"{'who':<36} {'stands for':<12} {'visits':>7} {'differ':>6} {_MILLISECONDS}",
    ]
    lines += [
        f"{name:<36} {one['attack'] or '(good)':<12} {one['visits']:>7} {one['differing']:>6} "
        f"{one['p50']:>9.1f} {one['p99']:>9.1f} {one['max']:>9.1f}"
        for name, one in measured["kinds"].items()
    ]
    lines += ["", f"{'the same probes':<36} {'':12} {'':14} {_MILLISECONDS}"]
    lines += [
        f"{name:<36} {when:<12} {'':14} {one['p50']:>9.1f} {one['p99']:>9.1f} {one['max']:>9.1f}"
        for name, both in measured["probes"].items()
        for when, one in both.items()
    ]
    lines += [
        "",
        f"{'the server':<26} {'MiB':>7} {'descriptors':>12} {'threads':>8} {'temporary':>10} {'log MiB':>8}",
    ]
    first = run.start.sockets if run.start is not None else 0
    seen: list[tuple[str, Vitals | None]] = [("at the start", run.start)]
    step = max(1, len(run.samples) // 8)
    seen += [(f"after {one.at - run.began:.0f} s", one) for one in run.samples[::step]]
    seen.append(("at the end", run.end))
    lines += [
        f"{when:<26} {one.resident_kib / 1024:>7.1f} {one.sockets - first:>12} {one.descriptors:>12} "
        f"{one.threads:>8} {one.temporary:>10} {one.log_bytes / _MEBIBYTE:>8.2f}"
        for when, one in seen
        if one is not None
    ]
    lines += [f"processors that the server took: {measured['processors']}", ""]
    lines += [f"{'kept  ' if one.kept else 'BROKEN'} {one.says}: {one.figures}" for one in promises]
    return "\n".join(lines)
