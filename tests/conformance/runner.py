"""Puts cases to a server, and sees to it that it is alive after each, and as it was before."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from dicomtw import uids
from tests.conformance import connection, negotiation, query, storage, transfer
from tests.conformance.case import Case, NotApplicable, Result, Scene, Target, fits
from tests.conformance.peer import Ended, sentence
from tests.conformance.wire import ECHO, IMPLICIT

MEGABYTE = 1 << 20
#: Seconds until a server that is alive has answered a C-ECHO.
ALIVE = 5.0
#: What a server may keep of a case for which nothing else is said, in MiB: it may be its first of the kind.
KEPT = 32
#: And how many descriptors, such as connections to a database.
KEPT_FDS = 8


def cases(only: Iterable[str] = ()) -> list[Case]:
    """New cases, whose objects no server has seen; `only` those with these ids."""
    wanted = set(only)
    tables = (connection, negotiation, transfer, storage, query)
    return [case for table in tables for case in table.cases() if not wanted or case.id in wanted]


@attrs.frozen
class Process:
    """A server's process, as Linux tells of it."""

    pid: int

    @property
    def rss(self) -> int:
        """Resident memory, in bytes."""
        return self._memory("VmRSS")

    @property
    def peak(self) -> int:
        """The most that its resident memory has been since `reset_peak`, in bytes."""
        return self._memory("VmHWM")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", "ascii")

    @property
    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _memory(self, field: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0


def run(target: Target, chosen: Sequence[Case]) -> Iterator[Result]:
    """Put the cases to the server, one after the other, and then together those that wait for its timers."""
    waiting = []
    for case in chosen:
        if case.waits and not target.lacks(case.needs):
            waiting.append(case)
        else:
            yield _watched(target, case)
    # A server that serves one connection after the other would let them wait for each other.
    with ThreadPoolExecutor(len(waiting) or 1 if _serves_many(target) else 1) as pool:
        results = list(pool.map(lambda case: play(target, case), waiting))
    alive = not_alive(target)
    for result in results:
        yield _judged(target, result.case, f"{result.seen}{alive}", result.verdict)


def play(target: Target, case: Case) -> Result:
    """Play one case."""
    lacking = target.lacks(case.needs)
    if lacking:
        return Result(case, "not applicable", lacking)
    scene = Scene(target, case.details)
    try:
        scene.connect()
        if case.contexts:
            scene.associate(*case.contexts, needed=case.needed)
        for step in case.script:
            if isinstance(step, bytes):
                scene.send(step)
            else:
                step(scene)
        for _ in range(case.answers):
            if scene.read() is None:
                break
        if scene.peer.is_open:
            scene.release()
    except NotApplicable as why:
        return Result(case, "not applicable", str(why))
    except Ended as end:
        scene.words.append(f"no association: {end}")
    except OSError as error:
        scene.words.append(f"no connection: {error.strerror or error}")
    finally:
        scene.close()
    return _judged(target, case, sentence(scene.words))


def _judged(target: Target, case: Case, seen: str, verdict: str = "") -> Result:
    if verdict == "not applicable":
        return Result(case, verdict, seen)
    good = any(fits(pattern, seen) for pattern in case.expected(target))
    return Result(case, "ok" if good else "differs", seen)


def _watched(target: Target, case: Case) -> Result:
    """Play a case, and see what it has done to the server."""
    if target.lacks(case.needs):
        return play(target, case)
    process = Process(target.pid) if target.pid and Path(f"/proc/{target.pid}").exists() else None
    if process:
        process.reset_peak()
        rss, fds = process.rss, process.fds
    result = play(target, case)
    seen = result.seen + not_alive(target)
    try:
        if process:
            grown = process.peak - rss if case.memory is not None else process.rss - rss
            if grown > (KEPT if case.memory is None else case.memory) * MEGABYTE:
                seen += f", {grown // MEGABYTE} MiB more memory"
            if not _within(2.0, lambda: process.fds <= fds + KEPT_FDS):
                seen += f", {process.fds - fds} more descriptors"
    except OSError:
        seen += ", the process is gone"
    return _judged(target, case, seen, result.verdict)


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def echo(target: Target) -> str:
    """What a C-ECHO of a new peer gets."""
    scene = Scene(attrs.evolve(target, patience=ALIVE), ())
    try:
        scene.connect()
        scene.associate((1, uids.VERIFICATION, IMPLICIT), needed=[1])
        scene.send(ECHO)
        scene.read()
        scene.release()
    except (Ended, NotApplicable) as end:
        scene.words.append(str(end))
    except OSError as error:
        scene.words.append(error.strerror or str(error))
    finally:
        scene.close()
    return sentence(scene.words)


def not_alive(target: Target) -> str:
    """Empty if a C-ECHO is answered; else what happened to it, and after how long one was."""
    began = time.monotonic()
    first = said = echo(target)
    while said != "0000H" and time.monotonic() - began < target.recovery:
        time.sleep(0.2)
        said = echo(target)
    if first == "0000H":
        return ""
    after = f"served after {time.monotonic() - began:.0f} s" if said == "0000H" else "not served any more"
    return f", then C-ECHO: {first}; {after}"


def _serves_many(target: Target) -> bool:
    """Whether somebody is served while another is silent."""
    scene = Scene(target, ())
    try:
        scene.connect()
        return echo(target) == "0000H"
    except OSError:
        return False
    finally:
        scene.close()
