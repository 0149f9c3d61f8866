"""The order of system calls behind an acknowledgement: no 0000H before all of it is on stable storage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.interop.scu import CT_IMPLICIT, Address, Scu, ct_data_set
from tests.interop.strace import Call, traced
from tests.interop.twistd import Twistd

#: Those with a question mark not every machine has.
CALLS = "writev,pwrite64,fdatasync,fsync,?link,?linkat,?unlink,?unlinkat,sendto"
SYNCS = "fdatasync,fsync,?sync,?syncfs,?sync_file_range,?msync"
SENDERS, OBJECTS = 8, 4


class State(IntEnum):
    """What an object has come to."""

    RECEIVED = 0
    FORCED_OUT = 1
    NAMED = 2
    NAME_FORCED_OUT = 3
    ENTERED = 4
    ROW_FORCED_OUT = 5
    ANSWERED = 6


@attrs.frozen
class Transition:
    """What a call needs when it begins, and what the object has come to when it is over."""

    needs: State
    to: State
    #: Whether it may come earlier, or again, for others' sake: then it is nothing to this object.
    shared: bool = False


TRANSITIONS = {
    "written": Transition(State.RECEIVED, State.RECEIVED),
    "forced out": Transition(State.RECEIVED, State.FORCED_OUT),
    "named": Transition(State.FORCED_OUT, State.NAMED),
    "directory forced out": Transition(State.NAMED, State.NAME_FORCED_OUT, shared=True),
    "row written": Transition(State.NAME_FORCED_OUT, State.ENTERED),
    "log forced out": Transition(State.ENTERED, State.ROW_FORCED_OUT, shared=True),
    "note removed": Transition(State.ROW_FORCED_OUT, State.ROW_FORCED_OUT),
    "answered": Transition(State.ROW_FORCED_OUT, State.ANSWERED),
}


class Commitment:
    """What becomes of one object, by the system calls that concern it."""

    def __init__(self, path: Path, calls: list[Call]) -> None:
        self._uid = path.stem.encode()
        (link,) = (call for call in calls if call.name.startswith("link") and call.strings[1] == bytes(path))
        self._temporary = link.strings[0]
        self._path = bytes(path)
        self._directory = str(path.parent)
        self._log = str(path.parents[2] / ".index" / "index.sqlite3-wal")
        self.state = State.RECEIVED
        self.seen: list[str] = []
        self._begun: dict[Call, bool] = {}

    def event(self, call: Call) -> str | None:
        """What a call is to this object."""
        if call.path == self._temporary.decode():
            return {"writev": "written", "fdatasync": "forced out"}.get(call.name)
        if call.name.startswith("link") and call.strings[:2] == (self._temporary, self._path):
            return "named"
        if (call.name, call.path) == ("fsync", self._directory):
            return "directory forced out"
        if call.path == self._log:
            if call.name == "fdatasync":
                return "log forced out"
            has_row = any(self._uid in string for string in call.strings)
            return "row written" if has_row and self.state < State.ENTERED else None
        if call.name.startswith("unlink") and call.strings[0] == self._temporary:
            return "note removed"
        is_answer = any(string[:1] == b"\4" and self._uid in string for string in call.strings)
        return "answered" if call.name == "sendto" and is_answer else None

    def begins(self, call: Call) -> None:
        event = self.event(call)
        if event is None:
            return
        transition = TRANSITIONS[event]
        counts = self.state == transition.needs
        if not (counts or transition.shared):
            raise AssertionError(f"{self._uid!r}: {event} when it was {self.state.name}, after {self.seen}")
        self._begun[call] = counts

    def ends(self, call: Call) -> None:
        if self._begun.pop(call, False):
            event = self.event(call)
            assert event is not None
            self.seen.append(event)
            self.state = max(self.state, TRANSITIONS[event].to)


def moments(calls: list[Call]) -> Iterator[tuple[bool, Call]]:
    """Beginnings, True, and ends of calls, as time goes."""
    both = [(call.start, True, call) for call in calls] + [(call.end, False, call) for call in calls]
    for _, begins, call in sorted(both, key=lambda each: each[:2]):
        yield begins, call


def uid_of(sender: int, number: int) -> str:
    """None of these begins another."""
    return f"1.2.3.{sender + 10}.{number + 100}"


class OrderTests(SynchronousTestCase):
    def test_strict(self) -> None:
        """Strict: content, name and row of an object are forced out, one after the other; then it is told."""
        server, calls = self._ingest("strict", CALLS)
        self.assertGreater(len(calls), 100)
        objects = server.objects
        for sender in range(SENDERS):
            for number in range(OBJECTS):
                commitment = Commitment(objects[uid_of(sender, number)], calls)
                for begins, call in moments(calls):
                    (commitment.begins if begins else commitment.ends)(call)
                self.assertIs(commitment.state, State.ANSWERED)
                self.assertLessEqual(
                    {"forced out", "named", "row written", "note removed"}, {*commitment.seen}
                )

    def test_relaxed(self) -> None:
        """Relaxed: nothing is forced out while objects come."""
        _, calls = self._ingest("relaxed", SYNCS)
        self.assertEqual(calls, [])

    def test_strict_is_traced(self) -> None:
        """What is looked for then is there when it is strict."""
        _, calls = self._ingest("strict", SYNCS)
        self.assertGreaterEqual(len(calls), SENDERS * OBJECTS)

    def _ingest(self, durability: str, names: str) -> tuple[Twistd, list[Call]]:
        """The calls of a server that many associations send objects to, each two to another series."""
        server = Twistd(self, f"--durability={durability}")
        with Scu(server.address) as scu:  # so that the threads are there
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store("1.2.3.4", ct_data_set("1.2.3.4")), 0)
            scu.release()
        statuses: list[int] = []
        with traced(server, names) as calls:
            senders = [
                threading.Thread(target=self._send, args=(server.address, sender, statuses))
                for sender in range(SENDERS)
            ]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join(60)
        self.assertEqual(statuses, [0] * SENDERS * OBJECTS)
        return server, calls

    def _send(self, address: Address, sender: int, statuses: list[int]) -> None:
        with Scu(address) as scu:
            scu.associate(CT_IMPLICIT)
            for number in range(OBJECTS):
                uid = uid_of(sender, number)
                pixels = b"\1" * (1000, 100_000)[number % 2]
                statuses.append(scu.store(uid, ct_data_set(uid, pixels, study=f"1.2.3.{sender // 2 + 1}")))
            scu.release()


class CommitmentTests(SynchronousTestCase):
    """What is found out, and what is not held against a server."""

    ROOT = Path("/store")
    PATH = ROOT / "1.2" / "1.2.1" / "1.2.3.dcm"
    TEMPORARY = "/store/.incoming/1"
    LOG = "/store/.index/index.sqlite3-wal"
    #: Name of the call, the file that it is called for, and its strings.
    STEPS = (
        ("writev", TEMPORARY, ()),
        ("fdatasync", TEMPORARY, ()),
        ("link", "", (TEMPORARY.encode(), bytes(PATH))),
        ("fsync", str(PATH.parent), ()),
        ("pwrite64", LOG, (b"..1.2.3..",)),
        ("fdatasync", LOG, ()),
        ("unlink", "", (TEMPORARY.encode(),)),
        ("sendto", "socket", (b"\4\0..1.2.3..",)),
    )

    def state(self, *order: int) -> State:
        """What is made of the steps in this order, one after the other."""
        calls = [
            Call(name, 2.0 * at, 2.0 * at + 1, path, strings)
            for at, (name, path, strings) in enumerate(self.STEPS[number] for number in order)
        ]
        commitment = Commitment(self.PATH, calls)
        for begins, call in moments(calls):
            (commitment.begins if begins else commitment.ends)(call)
        return commitment.state

    def test_right(self) -> None:
        """As it should be; and others may sync the same directory and log at any time."""
        self.assertIs(self.state(0, 0, 1, 2, 3, 4, 5, 6, 7), State.ANSWERED)
        self.assertIs(self.state(3, 0, 5, 1, 3, 2, 5, 3, 3, 4, 3, 5, 5, 6, 7), State.ANSWERED)

    def test_wrong(self) -> None:
        """A step that is missing, or too late, is found out wherever it is."""
        for left_out in (1, 3, 4, 5):
            order = [number for number in range(8) if number != left_out]
            self.assertRaises(AssertionError, self.state, *order)
            self.assertRaises(AssertionError, self.state, *order, left_out)
        self.assertRaises(AssertionError, self.state, 0, 1, 0, 2, 3, 4, 5, 6, 7)
