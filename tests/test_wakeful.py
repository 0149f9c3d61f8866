"""A process that has just had work looks for more before it sleeps, but not for long."""

from __future__ import annotations

import select
import socket

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.wakeful import VIGIL, WakefulPoller, stay_awake

READY = [(7, select.EPOLLIN)]
NOTHING: list[tuple[int, int]] = []


class Poller:
    """Finds what it is told to, one look after the other; each takes a tenth of the time to stay awake."""

    register = modify = unregister = close = None

    def __init__(self, *found: list[tuple[int, int]]) -> None:
        self.found = list(found)
        self.timeouts: list[float] = []
        self.seconds = 100.0

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        self.timeouts.append(timeout)
        self.seconds += VIGIL / 10
        return self.found.pop(0) if self.found else NOTHING

    def now(self) -> float:
        return self.seconds


def poller_of(*found: list[tuple[int, int]]) -> tuple[Poller, WakefulPoller]:
    poller = Poller(*found)
    return poller, WakefulPoller(poller, poller.now)  # type: ignore[arg-type]


class WakefulPollerTest(SynchronousTestCase):
    def test_it_sleeps_at_once_where_nothing_came(self) -> None:
        poller, wakeful = poller_of()
        self.assertEqual(wakeful.poll(5.0, 3), NOTHING)
        self.assertEqual(wakeful.poll(-1, 3), NOTHING)
        self.assertEqual(poller.timeouts, [5.0, -1])

    def test_after_something_came_it_looks_again_before_it_sleeps(self) -> None:
        poller, wakeful = poller_of(READY, NOTHING, NOTHING, READY)
        self.assertEqual(wakeful.poll(5.0, 3), READY)
        self.assertEqual(wakeful.poll(5.0, 3), READY)
        self.assertEqual(poller.timeouts, [5.0, 0, 0, 0])

    def test_that_ends_when_its_time_is_over(self) -> None:
        poller, wakeful = poller_of(READY)
        wakeful.poll(5.0, 3)
        self.assertEqual(wakeful.poll(-1, 3), NOTHING)
        self.assertEqual(poller.timeouts[-1], -1)
        self.assertEqual(len(poller.timeouts), 12)  # the first, ten looks, and the sleep

    def test_and_is_not_repeated_until_something_comes(self) -> None:
        poller, wakeful = poller_of(READY)
        wakeful.poll(5.0, 3)
        wakeful.poll(5.0, 3)
        poller.timeouts.clear()
        self.assertEqual(wakeful.poll(5.0, 3), NOTHING)
        self.assertEqual(poller.timeouts, [5.0])

    def test_what_is_found_in_a_look_keeps_it_awake(self) -> None:
        poller, wakeful = poller_of(READY, READY, NOTHING, READY)
        for _ in range(3):
            self.assertEqual(wakeful.poll(5.0, 3), READY)
        self.assertEqual(poller.timeouts, [5.0, 0, 0, 0])

    def test_what_is_due_is_not_kept_waiting(self) -> None:
        poller, wakeful = poller_of(READY)
        wakeful.poll(5.0, 3)
        wakeful.poll(0, 3)
        self.assertEqual(poller.timeouts, [5.0, 0])

    def test_a_call_that_is_due_does_not_send_it_to_sleep(self) -> None:
        poller, wakeful = poller_of(READY, NOTHING, NOTHING, READY)
        wakeful.poll(5.0, 3)
        self.assertEqual(wakeful.poll(0, 3), NOTHING)
        self.assertEqual(wakeful.poll(5.0, 3), READY)
        self.assertEqual(poller.timeouts, [5.0, 0, 0, 0])


class StayAwakeTest(SynchronousTestCase):
    def reactor(self) -> EPollReactor:
        """One of its own that stays awake."""
        reactor = EPollReactor()
        waker = reactor.waker
        stay_awake(reactor)
        self.addCleanup(lambda: [reactor._poller.close(), waker.connectionLost(Failure(ConnectionDone()))])
        return reactor

    def test_a_reactor_reads_and_writes_as_before(self) -> None:
        reactor = self.reactor()
        stay_awake(reactor)  # a service that is started again
        poller = reactor._poller
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        self.assertIsInstance(poller, WakefulPoller)
        poller.register(ours.fileno(), select.EPOLLIN)
        self.assertEqual(poller.poll(0, 2), NOTHING)
        theirs.send(b"x")
        for _ in range(2):
            self.assertEqual(poller.poll(-1, 2), [(ours.fileno(), select.EPOLLIN)])
        ours.recv(1)
        self.assertEqual(poller.poll(0.001, 2), NOTHING)
        poller.unregister(ours.fileno())

    def test_timers_threads_and_the_end_are_as_before(self) -> None:
        reactor = self.reactor()
        seen: list[str] = []

        def begin() -> None:
            reactor.callLater(0, seen.append, "at once")
            reactor.callLater(0.001, seen.append, "later")
            reactor.callInThread(reactor.callFromThread, in_thread)

        def in_thread() -> None:
            seen.append("of a thread")
            reactor.callLater(0.002, reactor.stop)

        reactor.callWhenRunning(begin)
        reactor.run(installSignalHandlers=False)
        self.assertEqual(sorted(seen), ["at once", "later", "of a thread"])

    def test_other_reactors_sleep_as_they_do(self) -> None:
        reactor = MemoryReactor()
        before = dict(vars(reactor))
        stay_awake(reactor)
        self.assertEqual(vars(reactor), before)
