"""A crowd of peers of a server, in processes of their own: each member plays cases, one after the other.

A `Kind` is a row of the tables in `good` and `hostile`. What a member does in one visit is a case, as those
of tests/conformance are: what is sent, and what must be seen; a visit that sees anything else is counted.
Each member calls from a host (127.x.y.z) of its own. Visits and acknowledged objects are written down line
by line, so that they outlive whatever happens to the process.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, TextIO

import attrs

from tests.conformance import runner
from tests.conformance.case import Case, Scene, Target
from tests.conformance.wire import Image, new_uid

#: Seconds until an answer that does not come is silence.
PATIENCE = 30.0


@attrs.frozen
class Stored:
    """An object that the server has acknowledged; `digest` is the SHA-256 of its data set."""

    uid: str
    study: str
    digest: str


@attrs.frozen(kw_only=True)
class Place:
    """The server, as members know it. Times are in seconds, lengths in bytes."""

    port: int
    called: str
    artim: float
    dimse: float
    idle: float
    #: The longest data set that the server receives; 0 if it has no limit.
    longest_object: int
    #: The AE title of a server to move to.
    sink: str


@attrs.define
class Member:
    """One of the crowd."""

    place: Place
    target: Target
    random: Random
    #: When visits end, in seconds of `time.monotonic`.
    until: float
    _write_stored: Callable[[Stored], None]
    #: Seconds that it waits on average, and how long it has done so in this visit.
    pause: float = 0.0
    lingered: float = 0.0
    #: What it has stored that later visits are about.
    series: list[Image] = attrs.field(factory=list)
    #: What took the time of this visit that counts, if that is not the whole.
    measured: float | None = None

    _study: str = ""
    _visits: int = 0

    def study_of(self, visits: int) -> str:
        """The study that this visit is about, which is another one every so many visits."""
        if self._visits % visits == 0:
            self._study = new_uid()
        self._visits += 1
        return self._study

    def linger(self, scene: Scene) -> None:
        """A step: do nothing for a while, with the connection open.

        As long as the server's timers let it: without an association, of which one knows the server's
        maximum length, that is ARTIM.
        """
        if self.pause:
            longest = self.place.idle / 3 if scene.maximum_length else self.place.artim / 3
            longest = max(0.0, min(self.until - time.monotonic(), longest))
            self.lingered = min(self.random.expovariate(1 / self.pause), longest)
            time.sleep(self.lingered)

    def acknowledged(self, image: Image) -> None:
        """Note an object that the server has answered for with 0000H."""
        self._write_stored(Stored(image.uid, image.study, digest(image.data_set)))


@attrs.frozen
class Kind:
    """What some of the crowd do: so many by their `share` of all, every `pause` seconds on average.

    They wait with their association open, if they have one.
    """

    name: str
    #: The class of attack; empty for those who mean well.
    attack: str
    share: int
    pause: float
    visit: Callable[[Member], Case]
    #: Whether a visit begins each `pause` seconds, to the moment.
    regular: bool = False


@attrs.frozen(kw_only=True)
class Plan:
    """What one process does: names of kinds, one for each member; times are those of `time.time`."""

    number: int
    members: tuple[str, ...]
    place: Place
    directory: Path
    seed: int
    until: float
    #: No pauses: as fast as they can.
    hurried: bool = False
    #: What pauses are multiplied by.
    leisure: float = 1.0
    niceness: int = 0


@attrs.frozen
class Visit:
    """What became of one visit: when it began, in seconds of `time.time`, and how long it took."""

    kind: str
    began: float
    seconds: float
    good: bool
    seen: str


def digest(data_set: bytes) -> str:
    return hashlib.sha256(data_set).hexdigest()


def members(kinds: Sequence[Kind], number: int) -> list[str]:
    """The names of kinds for `number` members: one of each at least, and the others by their shares."""
    total = sum(kind.share for kind in kinds)
    others = max(0, number - len(kinds))
    counts = {kind.name: 1 + kind.share * others // total for kind in kinds}
    by_rest = sorted(kinds, key=lambda kind: -(kind.share * others % total))
    for kind in by_rest[: max(0, number - sum(counts.values()))]:
        counts[kind.name] += 1
    return [name for name, count in counts.items() for _ in range(count)]


def dealt(names: Sequence[str], processes: int) -> list[tuple[str, ...]]:
    """The members of each process."""
    return [tuple(names[at::processes]) for at in range(processes)]


class _Lines:
    """A file of JSON lines that threads write to."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def write(self, *values: object) -> None:
        with self._lock:
            self._file.write(json.dumps(values) + "\n")


def run(plan: Plan, kinds: Mapping[str, Kind]) -> None:
    """The whole life of a process of the crowd."""
    os.nice(plan.niceness)
    threading.stack_size(1 << 19)
    gc.freeze()
    visits = _Lines(plan.directory / f"visits-{plan.number}")
    stored = _Lines(plan.directory / f"stored-{plan.number}")
    until = time.monotonic() + plan.until - time.time()
    threads = []
    for number, name in enumerate(plan.members):
        target = Target(
            host="127.0.0.1",
            port=plan.place.port,
            called=plan.place.called,
            calling=f"PEER{plan.number}-{number}",
            artim=plan.place.artim,
            patience=PATIENCE,
            recovery=2 * PATIENCE,
            has=frozenset({"called-ae"}),
            decided=True,
            source=f"127.{10 + number // 250}.{plan.number}.{number % 250 + 1}",
        )
        member = Member(
            place=plan.place,
            target=target,
            random=Random(f"{plan.seed} {plan.number} {number}"),
            until=until,
            write_stored=lambda one: stored.write(*attrs.astuple(one)),
        )
        kind = kinds[name]
        if not kind.regular:
            kind = attrs.evolve(kind, pause=kind.pause * plan.leisure)
        arguments = (member, kind, visits.write, plan.hurried)
        threads.append(threading.Thread(target=_live, args=arguments))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _live(member: Member, kind: Kind, write: Callable[..., None], hurried: bool) -> None:
    pause = 0.0 if hurried else kind.pause
    member.pause = 0.0 if kind.regular else pause
    time.sleep(member.random.uniform(0, max(0.0, min(pause, 5.0, (member.until - time.monotonic()) / 4))))
    while time.monotonic() < member.until:
        at, began = time.time(), time.monotonic()
        member.measured, member.lingered = None, 0.0
        try:
            result = runner.play(member.target, kind.visit(member))
            good, seen = result.verdict == "ok", result.seen
            if not good:
                wanted = " or ".join(result.case.expected(member.target))
                seen = f"{result.case.name}: {result.seen}; not {wanted}"
        except Exception as bug:
            good, seen = False, f"the peer itself failed: {bug!r}"
        seconds = time.monotonic() - began - member.lingered
        write(kind.name, at, seconds if member.measured is None else member.measured, good, seen)
        if kind.regular:
            wait = pause - seconds
        else:  # it has waited with an association already
            wait = member.random.expovariate(1 / pause) * (0.1 if member.lingered else 1.0) if pause else 0.0
        time.sleep(max(0.0, min(wait, member.until - time.monotonic())))


def _read(directory: Path, pattern: str) -> Iterator[list[Any]]:
    for path in sorted(directory.glob(pattern)):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):  # one that is cut off is of a process that was ended
                    yield json.loads(line)


def visits_in(directory: Path) -> list[Visit]:
    """All visits that are written down there."""
    return [Visit(*values) for values in _read(directory, "visits-*")]


def stored_in(directory: Path) -> dict[str, Stored]:
    """All objects that were acknowledged, by SOP Instance UID."""
    return {values[0]: Stored(*values) for values in _read(directory, "stored-*")}


def percentile(values: Iterable[float], per_cent: float) -> float:
    """The value that so many per cent of the others do not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * per_cent / 100))] if ordered else 0.0
