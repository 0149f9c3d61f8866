"""A real server for a quarter of an hour among 200 peers, good and hostile: is it as it was afterwards?

Usage: python -m benchmarks.soak [--seconds 900] [--associations 200] [--write FILE] [--directory DIR]

``twistd dicom`` and a server to move to are started, as they come but for shorter timers, with a store on
disk. A warm-up fills the pools of threads and of connections to the index; then two probes measure an idle
server, and go on while the crowd is there: the tables in `good` and `hostile`. Its processes are niced, so
that they take no processor from the server that it needs; they count for nothing in what is measured of it.
When all have gone, and the timers have run out, descriptors, threads and temporary files must be what they
were, and every object that was acknowledged must be there, bit by bit. The exit status is 1 if a promise is
broken. What is timed of a peer that stores is its last C-STORE, of others a visit without its pauses.
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
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks import crowd, good, hostile, servers
from benchmarks.crowd import PATIENCE, Place, Plan
from benchmarks.verdict import KINDS, Record, figures, first_bug, judged, of_objects, report
from benchmarks.vitals import Vitals, Watch, vitals
from dicomtw.config import Server

#: Seconds that a server may take to be as it was when everybody has gone, besides its timers.
_SETTLING = 20.0
#: Seconds that a process of the crowd takes to start.
_STARTING = 1.0
_MEBIBYTE = 1 << 20


@attrs.define
class Run(Record):
    """A run as it goes on."""

    _processes: int = 0

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
        until = time.time() + _STARTING + self.given.warm_up
        self.wait_for(
            [self.send(part, until, hurried=True, niceness=5) for part in crowd.dealt(names, 2)], until
        )
        seen = Counter(one.seen for one in crowd.visits_in(self.directory) if not one.good)
        if seen:
            said = "; ".join(f"{number} x {one}" for one, number in seen.most_common(3))
            raise SystemExit(f"the warm-up was not served, the run is of no use: {said}")
        self.start = self.settled(lambda now: now.temporary == 0)

    def settled(self, condition: Callable[[Vitals], bool]) -> Vitals:
        """What the server is when that is so, or when it has had the time."""
        deadline = time.monotonic() + _SETTLING
        while True:
            time.sleep(0.5)
            now = vitals(self.server)
            if condition(now) or time.monotonic() > deadline:
                return now

    def load(self) -> None:
        """The probes alone, then the crowd too."""
        given = self.given
        self.began = time.time() + _STARTING + given.quiet
        self.ended = self.began + given.seconds
        probes = self.send([kind.name for kind in good.PROBES], self.ended)
        time.sleep(max(0.0, self.began - time.time()))
        self.server.reset_peak()
        watch = Watch(self.server, given.interval)
        chosen = [kind for kind in (*good.KINDS, *hostile.KINDS) if given.only in kind.name]
        names = crowd.members(chosen, given.associations - len(good.PROBES))
        parts = crowd.dealt(names, given.processes)
        running = [
            probes,
            *(self.send(part, self.ended, niceness=5, leisure=given.leisure) for part in parts),
        ]
        while time.time() < self.ended and self.server.process.poll() is None:
            time.sleep(0.2)
        if self.server.process.poll() is not None:
            last = (self.server.directory / "log").read_text("utf-8", "replace").splitlines()[-20:]
            raise SystemExit("\n".join((*last, f"the server ended, status {self.server.process.returncode}")))
        self.wait_for(running, self.ended)
        watch.stop()
        self.samples = [one for one in watch.seen if one.at <= self.ended]
        start = self.start
        assert start is not None
        self.end = self.settled(lambda now: now.temporary <= start.temporary and now.sockets <= start.sockets)
        self.peak_kib = self.server.peak_kib()


def _run(plan: Plan) -> None:
    crowd.run(plan, KINDS)


def _stop(server: servers.Running) -> int | None:
    """The exit status of a server that is told to end; None if it does not."""
    server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return None


# ---- the command -----------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    number = partial(parser.add_argument, type=float)
    number("--seconds", default=900.0, help="how long the crowd is there")
    parser.add_argument("--associations", type=int, default=200, help="how many peers there are at a time")
    parser.add_argument("--processes", type=int, default=3, help="that the peers are in")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="WORDS", help="the kinds that have this in their names")
    number("--warm-up", default=8.0, help="seconds")
    number("--quiet", default=0.0, help="seconds that the idle server is measured for (a tenth, 30 at most)")
    number("--interval", default=3.0, help="seconds between two looks at the server")
    number("--leisure", default=1.0, help="what the pauses of the peers are multiplied by")
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
        limit = 32 * _MEBIBYTE
        options.append(f"--max-object-size={limit // _MEBIBYTE}")
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
    print(report(run, measured, promises), first_bug(log), sep="\n", flush=True)
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
