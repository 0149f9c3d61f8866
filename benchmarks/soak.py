"""A real server for a quarter of an hour among 200 peers, good and hostile: is it as it was afterwards?

Usage: python -m benchmarks.soak [--seconds 900] [--associations 200] [--write FILE] [--directory DIR]

``twistd dicom`` and a server to move to are started, as they come but for shorter timers, with a store on
disk. A warm-up fills the pools of threads and of connections to the index; then two probes measure an idle
server, and go on while the crowd (the tables in `good` and `hostile`) is there. Its processes are niced, so
that they take no processor from the server that it needs; they count for nothing in what is measured of it.
When all have gone, and the timers have run out, descriptors, threads and temporary files must be what they
were, and every object that was acknowledged must be there, bit by bit. The exit status is 1 if a promise is
broken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks import crowd, good, hostile, kept, servers
from benchmarks.crowd import PATIENCE, Place, Plan, Visit, percentile
from benchmarks.vitals import Vitals, Watch, drift_mib, vitals
from dicomtw.config import Server
from tests.conformance.case import Target

KINDS = {kind.name: kind for kind in (*good.PROBES, *good.KINDS, *hostile.KINDS)}

#: What no log may hold.
_BUGS = ("Traceback", "bug in an association", "Unhandled")
#: Seconds that a server may take to be as it was when everybody has gone, besides its timers.
_SETTLING = 20.0
#: Seconds of a run of which it can be said whether memory goes up.
_LONG = 300.0
_MEBIBYTE = 1 << 20


@attrs.frozen
class Promise:
    """What must be so, whether it is, and the figures. `certain`: however slow and busy the machine is."""

    key: str
    says: str
    kept: bool
    figures: str
    certain: bool = False


@attrs.define
class Run:
    """What is known of a run as it goes on."""

    given: argparse.Namespace
    server: servers.Running
    sink: servers.Running
    place: Place
    directory: Path
    _processes: int = 0
    began: float = 0.0
    ended: float = 0.0
    start: Vitals | None = None
    end: Vitals | None = None
    samples: list[Vitals] = attrs.field(factory=list)
    peak_kib: int = 0
    late: int = 0
    exit_status: int | None = None

    # -- processes

    def send(self, names: Sequence[str], until: float, **more: Any) -> multiprocessing.process.BaseProcess:
        """Start a process with these members."""
        self._processes += 1
        plan = Plan(
            number=self._processes,
            members=tuple(names),
            place=self.place,
            directory=self.directory,
            seed=self.given.seed,
            until=until,
            **more,
        )
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(plan,), daemon=True)
        process.start()
        return process

    def wait_for(self, processes: Sequence[multiprocessing.process.BaseProcess], until: float) -> None:
        """Wait for processes to end, which they do when the server's timers have run out."""
        timers = max(self.place.artim, 2 * self.place.dimse) + 4 * PATIENCE
        for process in processes:
            process.join(max(0.0, until + timers - time.time()))
            if process.is_alive() or process.exitcode:
                self.late += 1
                process.kill()
                process.join()

    # -- phases

    def warm_up(self) -> None:
        """Peers who mean well, in a hurry, until what the server opens once is open."""
        names = [name for name in crowd.members(good.KINDS, 48) if name != "idle association"]
        until = time.time() + 3.0 + self.given.warm_up
        self.wait_for(
            [self.send(part, until, hurried=True, niceness=5) for part in crowd.dealt(names, 2)], until
        )
        self.start = self.settled(lambda now: now.temporary == 0)

    def settled(self, condition: Callable[[Vitals], bool]) -> Vitals:
        """What the server is when that is so, or when it has had the time."""
        deadline = time.monotonic() + _SETTLING
        while True:
            time.sleep(0.5)
            now = vitals(self.server)
            if (condition(now) and _quiet(now)) or time.monotonic() > deadline:
                return now

    def load(self) -> None:
        """The probes alone, then the crowd too."""
        given = self.given
        self.began = time.time() + 3.0 + given.quiet
        self.ended = self.began + given.seconds
        probes = self.send([kind.name for kind in good.PROBES], self.ended)
        time.sleep(max(0.0, self.began - time.time()))
        self.server.reset_peak()
        watch = Watch(self.server, given.interval)
        names = crowd.members((*good.KINDS, *hostile.KINDS), given.associations - len(good.PROBES))
        parts = crowd.dealt(names, given.processes)
        running = [probes, *(self.send(part, self.ended, niceness=5) for part in parts)]
        while time.time() < self.ended and self.server.process.poll() is None:
            time.sleep(0.2)
        self.wait_for(running, self.ended)
        watch.stop()
        self.samples = [one for one in watch.seen if one.at <= self.ended]
        start = self.start
        assert start is not None
        self.end = self.settled(lambda now: now.temporary <= start.temporary and now.sockets <= start.sockets)
        self.peak_kib = self.server.peak_kib()


def _run(plan: Plan) -> None:
    crowd.run(plan, KINDS)


def _quiet(now: Vitals) -> bool:
    return True


def _stop(server: servers.Running) -> int | None:
    """The exit status of a server that is told to end; None if it does not."""
    server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return None


# ---- what is promised ------------------------------------------------------------------------------------


def _some(wrong: Sequence[str]) -> str:
    return "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")


def judged(run: Run, visits: Sequence[Visit], objects: Sequence[Promise], log: str) -> list[Promise]:
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
            "open descriptors as at the start",
            end.sockets <= start.sockets
            and end.descriptors - end.of_index <= start.descriptors - start.of_index
            and end.of_index <= max(start.of_index, 30),
            f"{start.descriptors} -> {end.descriptors}, sockets {start.sockets} -> {end.sockets}, "
            f"of the index {start.of_index} -> {end.of_index}",
            certain=True,
        ),
        Promise(
            "threads",
            "threads as at the start",
            end.threads <= start.threads,
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


def of_objects(run: Run) -> list[Promise]:
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


def figures(run: Run, visits: Sequence[Visit]) -> dict[str, Any]:
    """What was measured."""
    by_kind: dict[str, Any] = {}
    for kind in (*good.PROBES, *good.KINDS, *hostile.KINDS):
        own = [one for one in visits if one.kind == kind.name and one.began >= run.began]
        by_kind[kind.name] = {
            "attack": kind.attack,
            "visits": len(own),
            "differing": sum(not one.good for one in own),
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


def report(run: Run, measured: dict[str, Any], promises: Sequence[Promise]) -> str:
    """The table."""
    lines = [
        f"{run.given.associations} peers for {run.given.seconds:.0f} s, seed {run.given.seed}; timers in seconds: "
        + ", ".join(f"{name} {value:g}" for name, value in measured["timers"].items()),
        "",
        f"{'who':<36} {'stands for':<12} {'visits':>7} {'differ':>6} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}",
    ]
    lines += [
        f"{name:<36} {one['attack'] or '(good)':<12} {one['visits']:>7} {one['differing']:>6} "
        f"{one['p50']:>9.1f} {one['p99']:>9.1f} {one['max']:>9.1f}"
        for name, one in measured["kinds"].items()
    ]
    lines += ["", f"{'the same probes':<36} {'':12} {'':14} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}"]
    lines += [
        f"{name:<36} {when:<12} {'':14} {one['p50']:>9.1f} {one['p99']:>9.1f} {one['max']:>9.1f}"
        for name, both in measured["probes"].items()
        for when, one in both.items()
    ]
    lines += [
        "",
        f"{'the server':<26} {'MiB':>7} {'descriptors':>12} {'threads':>8} {'temporary':>10} {'log MiB':>8}",
    ]
    seen: list[tuple[str, Vitals | None]] = [("at the start", run.start)]
    step = max(1, len(run.samples) // 8)
    seen += [(f"after {one.at - run.began:.0f} s", one) for one in run.samples[::step]]
    seen.append(("at the end", run.end))
    lines += [
        f"{when:<26} {one.resident_kib / 1024:>7.1f} {one.descriptors:>12} {one.threads:>8} "
        f"{one.temporary:>10} {one.log_bytes / _MEBIBYTE:>8.2f}"
        for when, one in seen
        if one is not None
    ]
    lines += [f"processors that the server took: {measured['processors']}", ""]
    lines += [f"{'kept  ' if one.kept else 'BROKEN'} {one.says}: {one.figures}" for one in promises]
    return "\n".join(lines)


# ---- the command -----------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    number = partial(parser.add_argument, type=float)
    number("--seconds", default=900.0, help="how long the crowd is there")
    parser.add_argument("--associations", type=int, default=200, help="how many peers there are at a time")
    parser.add_argument("--processes", type=int, default=3, help="that the peers are in")
    parser.add_argument("--seed", type=int, default=1)
    number("--warm-up", default=8.0, help="seconds")
    number("--quiet", default=0.0, help="seconds that the idle server is measured for (a tenth, 30 at most)")
    number("--interval", default=3.0, help="seconds between two looks at the server")
    number("--artim", default=0.0, help="seconds of the server's ARTIM (30, or a tenth of the run)")
    number("--dimse", default=0.0, help="of its DIMSE timeout (60, or a fifth of the run)")
    number("--idle", default=0.0, help="of its idle timeout (600, or a quarter of the run)")
    parser.add_argument("--durability", default="strict")
    number("--p99", default=0.5, help="seconds that 99 of 100 probes take at the most")
    number("--drift", default=5.0, help="MiB that memory may drift by in the second half")
    parser.add_argument("--peak", type=int, default=256, help="MiB of memory that the server may take")
    parser.add_argument("--directory", type=Path, default=None, help="where to store (default: temporary)")
    parser.add_argument("--write", type=Path, default=None, help="a file for the figures, JSON")
    parser.add_argument("--keep", action="store_true", help="leave stores and logs where they are")
    return parser


def _configured(given: argparse.Namespace, sink: int) -> tuple[list[str], int]:
    """The options of the server, and the longest object that it receives."""
    options = [
        f"--artim-timeout={given.artim}",
        f"--dimse-timeout={given.dimse}",
        f"--idle-timeout={given.idle}",
        f"--durability={given.durability}",
        f"--max-associations={max(200, given.associations)}",
        f"--remote=SINK@127.0.0.1:{sink}",
        "--accept-any-ae",
        "--allow-retrieve=any",
    ]
    limit = 0
    if "max_object_size" in attrs.fields_dict(Server):
        limit = 64 * _MEBIBYTE
        options.append(f"--max-object-size={limit}")
    return options, limit


def soak(given: argparse.Namespace, directory: Path) -> int:
    """The whole run; returns the exit status."""
    for name in ("server", "sink", "crowd"):
        (directory / name).mkdir()
    with ExitStack() as stack:
        sink = stack.enter_context(
            servers.dicomtw(directory / "sink", "--aet=SINK", "--durability=relaxed", "--accept-any-ae")
        )
        options, limit = _configured(given, sink.port)
        server = stack.enter_context(servers.dicomtw(directory / "server", *options))
        place = Place(
            port=server.port,
            called="PMOD",
            artim=given.artim,
            dimse=given.dimse,
            idle=given.idle,
            longest_object=limit,
            sink="SINK",
        )
        run = Run(given, server, sink, place, directory / "crowd")
        run.warm_up()
        run.load()
        objects = of_objects(run)
        run.exit_status = _stop(server)
    log = (directory / "server/log").read_text("utf-8", "replace")
    visits = crowd.visits_in(run.directory)
    promises = judged(run, visits, objects, log)
    measured = figures(run, visits)
    print(report(run, measured, promises), flush=True)
    if given.write is not None:
        said = {
            **measured,
            "promises": [attrs.asdict(one) for one in promises],
            "differing": [attrs.asdict(one) for one in visits if not one.good][:200],
            "samples": [attrs.asdict(one) for one in run.samples],
        }
        given.write.write_text(json.dumps(said, indent=1) + "\n", "utf-8")
    return 0 if all(one.kept for one in promises) else 1


def main() -> int:
    given = arguments().parse_args()
    given.artim = given.artim or max(2.0, min(30.0, given.seconds / 10))
    given.dimse = given.dimse or max(3.0, min(60.0, given.seconds / 5))
    given.idle = given.idle or max(5.0, min(600.0, given.seconds / 4))
    given.quiet = given.quiet or max(2.0, min(30.0, given.seconds / 10))
    directory = Path(tempfile.mkdtemp(prefix="soak-", dir=given.directory))
    try:
        return soak(given, directory)
    finally:
        if given.keep:
            print(f"stores and logs: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
