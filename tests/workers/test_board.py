"""What workers know of each other: counts by name, buckets, how far indexes are, who is busier."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.rates import TokenBucket
from dicomtw.workers.board import Board
from dicomtw.workers.buckets import Buckets
from dicomtw.workers.gate import LEFT, Gate
from dicomtw.workers.ledger import Ledger
from dicomtw.workers.pace import FIRST_DELAY, GOOD_LIFE, LONGEST_DELAY, MAXIMUM_FAILURES, Pace
from tests.workers.crew import common


class LedgerTests(SynchronousTestCase):
    def setUp(self) -> None:
        board = Board(3, Ledger.words(4))
        self.one, self.other = (Ledger(board.seen_by(number), 0, 4) for number in (1, 2))

    def test_others(self) -> None:
        """Each knows what the others have, and not what it has itself."""
        self.one.put("a", 3)
        self.one.put("b", 1)
        self.other.put("a", 5)
        self.assertEqual([self.one.others(name) for name in "abc"], [5, 0, 0])
        self.assertEqual([self.other.others(name) for name in "abc"], [3, 1, 0])

    def test_room(self) -> None:
        """A name without a count takes no room, whichever goes first."""
        for number in range(100):
            for name in range(4):
                self.one.put(f"{number} {name}", name + 1)
            self.assertEqual([self.other.others(f"{number} {name}") for name in range(4)], [1, 2, 3, 4])
            for name in (number % 4, *range(4)):
                self.one.put(f"{number} {name}", 0)
            self.assertEqual([self.other.others(f"{number} {name}") for name in range(4)], [0] * 4)

    def test_no_room(self) -> None:
        """Where there is no room a name is not counted, and nothing else is spoilt; hosts leave some room."""
        board = Board(3, Ledger.words(4))
        one, other = (Ledger(board.seen_by(number), 0, 4, kept=2) for number in (1, 2))
        for name in "abc":
            one.put(name, 7, is_host=True)
        for name in "def":
            one.put(name, 8)
        self.assertEqual([other.others(name) for name in "abcdef"], [7, 7, 0, 8, 8, 0])
        one.put("c", 0, is_host=True)
        one.put("a", 0, is_host=True)
        one.put("f", 9)
        self.assertEqual([other.others(name) for name in "abcdef"], [0, 7, 0, 8, 8, 9])

    def test_clear(self) -> None:
        """Of a worker that has ended nothing is left, and its successor begins with nothing."""
        self.one.put("a", 3)
        self.other.clear(1)
        self.assertEqual(self.other.others("a"), 0)


class BucketsTests(SynchronousTestCase):
    def test_like_one(self) -> None:
        """A bucket that all share is like one that is of one alone."""
        board = Board(3, 1, Buckets.words(64))
        shared, alone = [Buckets(board.seen_by(number), 64) for number in (1, 2)], TokenBucket(6, 0.0)
        for number, now in enumerate((0, 0, 1, 2, 2, 2, 3, 12, 12, 13, 30, 90, 90, 91)):
            one = shared[number % 2]
            self.assertEqual(one.has("a", 6, now), alone.has(now))
            self.assertEqual(one.take("a", 6, now), alone.take(now), (number, now))
        shared[0].put_back("a", 6, 91)
        alone.put_back()
        self.assertEqual([shared[1].take("a", 6, 91) for _ in range(7)], [alone.take(91) for _ in range(7)])

    def test_forgotten(self) -> None:
        """There is room for so many; who asked longest ago is forgotten."""
        buckets = Buckets(Board(1, 1, Buckets.words(8)), 8)
        for now in range(9):
            self.assertTrue(buckets.take(f"{now}", 1, now / 10))
        self.assertEqual([buckets.has(f"{now}", 1, 0.9) for now in range(9)], [True] + [False] * 8)


class ProgressTests(SynchronousTestCase):
    def test_goals(self) -> None:
        """Who asks waits for what others have taken before, and for nothing that they take later."""
        one, other = (next(iter(each.progress.values())) for each in common())
        other.taken(2)
        one.taken(5)
        goals = one.goals()
        self.assertEqual(goals, {2: 2})
        other.taken(1)
        other.entered(1)
        self.assertFalse(one.is_reached(goals))
        other.entered(1)
        self.assertTrue(one.is_reached(goals))

    def test_successor(self) -> None:
        """What a worker has left when it dies is waited for until its successor has entered it."""
        one, dead = common()
        (path,) = one.progress
        self.assertIsInstance(path, Path)
        dead.progress[path].taken(2)
        dead.progress[path].fails(True)
        one.ended(2)
        goals = one.progress[path].goals()
        self.assertEqual((goals, one.progress[path].is_failing(goals)), ({2: 2}, True))
        dead.progress[path].caught_up()
        self.assertTrue(one.progress[path].is_reached(goals))
        self.assertEqual((one.progress[path].goals(), one.progress[path].is_failing(goals)), ({}, False))


class CountersTests(SynchronousTestCase):
    def test_sum(self) -> None:
        """What workers have done is summed up, also what was done by those that are no longer there."""
        one, other = common()
        one.count(1, 10, 1000, 0)
        other.count(2, 20, 2000, 5)
        one.ended(2)
        self.assertEqual([*one.counted.values()], [3, 30, 3000, 5])


class _Port:
    """A port that has connections to accept."""

    def __init__(self) -> None:
        self.waiting = self.accepted = 0
        self.numberAccepts = 100
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind("")  # anywhere, in no file system
        self.socket.listen()

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def is_closed(self) -> bool:
        return self.fileno() < 0

    def doRead(self) -> None:
        taken = min(self.waiting, self.numberAccepts)
        self.waiting -= taken
        self.accepted += taken


class _Reactor(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.port, self.reactor, self.is_busier = _Port(), _Reactor(), False
        self.gate = Gate(self.port, self.reactor, lambda: self.is_busier)
        self.gate.startListening()
        self.addCleanup(self.port.socket.close)

    def test_takes_one(self) -> None:
        """Who has no more than others takes one connection: the next may be theirs."""
        self.port.waiting = 3
        self.gate.doRead()
        self.assertEqual(self.port.accepted, 1)
        self.assertEqual(self.reactor.readers, {self.gate})

    def test_leaves_it(self) -> None:
        """Who has more leaves it to others, but not for long."""
        self.port.waiting, self.is_busier = 2, True
        self.gate.doRead()
        self.assertEqual((self.port.accepted, self.reactor.readers), (0, set()))
        self.reactor.advance(LEFT)
        self.assertEqual((self.port.accepted, self.reactor.readers), (1, {self.gate}))

    def test_stops(self) -> None:
        """It listens no longer, also where it has left a connection to others."""
        self.port.waiting, self.is_busier = 1, True
        self.gate.doRead()
        self.gate.stopListening()
        self.reactor.advance(LEFT)
        self.assertEqual((self.port.accepted, self.reactor.readers, self.port.is_closed), (0, set(), True))

    def test_shut(self) -> None:
        """It stops by itself when the socket that all share is shut."""
        self.port.waiting = 1
        self.port.socket.shutdown(socket.SHUT_RDWR)
        self.gate.doRead()
        self.assertEqual((self.port.accepted, self.reactor.readers, self.port.is_closed), (0, set(), True))

    def test_who_is_busier(self) -> None:
        """Of workers that are up the one with more connections is busier."""
        one, other = common()
        one.connected(2)
        self.assertFalse(one.is_busier(), "the other is not up")
        for each in (one, other):
            each.begin()
        self.assertEqual((one.is_busier(), other.is_busier()), (True, False))
        other.connected(2)
        self.assertEqual((one.is_busier(), other.is_busier()), (False, False))
        one.ended(2)
        self.assertFalse(one.is_busier())


class PaceTests(SynchronousTestCase):
    def test_later(self) -> None:
        """Who ends again and again is replaced later each time; who has lived for a while, soon."""
        pace = Pace()
        delays = [pace.ended(1.0, True) for _ in range(9)]
        self.assertEqual(delays, [min(FIRST_DELAY * 2**number, LONGEST_DELAY) for number in range(9)])
        self.assertEqual(pace.ended(GOOD_LIFE, True), FIRST_DELAY)

    def test_never(self) -> None:
        """Who does not come up several times in sequence is not replaced."""
        pace = Pace()
        for _ in range(3):
            for _ in range(MAXIMUM_FAILURES - 1):
                self.assertIsNotNone(pace.ended(0.0, False))
            self.assertIsNotNone(pace.ended(0.0, True))
        self.assertEqual([pace.ended(0.0, False) for _ in range(MAXIMUM_FAILURES)][-1], None)
