"""The process that workers are forked from: what they tell it, and what becomes of those that fail."""

from __future__ import annotations

import errno
import gc
import os
import selectors
import signal
import socket
import threading
import time
from typing import Any, NoReturn
from unittest.mock import Mock

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.workers import supervisor
from dicomtw.workers.link import DRAIN, LONGEST, STOP, Link, observer, pair
from dicomtw.workers.pace import FIRST_DELAY, MAXIMUM_FAILURES
from dicomtw.workers.supervisor import PATIENCE, TRY_LATER, Running, Supervisor
from tests.workers.crew import common

#: The number of no process.
_PID = 1 << 30


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        raw, end = socket.socketpair()
        self.raw = raw
        self.link, self.end = Link(raw), Link(end)
        self.addCleanup(self.link.close)
        self.addCleanup(self.end.close)

    def test_threads(self) -> None:
        """What several threads say at a time comes line by line."""
        texts = [str(number) * LONGEST for number in range(4)]
        threads = [threading.Thread(target=self.link.send, kwargs={"text": text}) for text in texts]
        for thread in threads:
            thread.start()
        found: list[str] = []
        while len(found) < len(texts):
            found += [message["text"] for message in self.end.received()]
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(found), texts)

    def test_no_message(self) -> None:
        """What is no message is passed over, and what follows it is not."""
        self.raw.sendall(b'{"a"\n[1]\n\xff\n')
        self.link.send(up=True)
        self.assertEqual([*self.end.received()], [{"up": True}])

    def test_long_text(self) -> None:
        """Of what is logged the beginning is told."""
        observer(self.link)({"log_format": "{text}", "text": "x" * 3 * LONGEST})
        found: list[int] = []
        while not found:
            found += [len(message["event"]["text"]) for message in self.end.received()]
        self.assertEqual(found, [LONGEST + 3])

    def test_nobody_has_the_log(self) -> None:
        """Where nobody is there who would log it, it is logged as it was before the fork."""
        event = {"log_format": "x"}
        logged: list[Any] = []
        observe = observer(self.link, [logged.append])
        observe(event)
        self.assertEqual(logged, [])
        self.end.close()
        observe(event)
        self.assertEqual(logged, [event])

    def test_gone(self) -> None:
        """That nobody is there is found by reading, which has the end closed, and not by sending."""
        self.end.close()
        self.assertFalse(self.link.send(up=True))
        self.assertFalse(self.link.lost)
        self.assertEqual([*self.link.received()], [])
        self.assertTrue(self.link.lost)


class SupervisorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.turns, self.killed = Mock(), list[tuple[int, int]]()
        self.turns.give_up.side_effect = self._give_up
        self.patch(os, "kill", lambda pid, number: self.killed.append((pid, number)))
        self.patch(time, "monotonic", lambda: 100.0)
        (_, self.common) = common()
        self.common.board.own = 0
        self.made = Supervisor(2, self.common, self.turns, 30.0)
        self.made.log = Mock()
        self.made._selector = selectors.DefaultSelector()
        self.addCleanup(self.made._selector.close)

    def _give_up(self, why: str) -> NoReturn:
        raise SystemExit(why)

    def running(self, number: int) -> Link:
        """A worker that was started; the end of its link."""
        ours, its = pair()
        for each in (ours, its):
            self.addCleanup(each.close)
        worker = self.made._running[number] = Running(number, _PID + number, ours, 100.0)
        self.made._selector.register(ours, selectors.EVENT_READ, worker)
        self.made._due[number] = float("inf")
        return its

    def up(self) -> list[Link]:
        links = [self.running(number) for number in (1, 2)]
        for number, link in enumerate(links, 1):
            link.send(up=True)
            self.made._hear(self.made._running[number])
        return links

    def end(self, number: int, link: Link, status: int) -> None:
        link.close()
        self.made._ended(self.made._running[number], status)

    def test_no_process(self) -> None:
        """Where there is no memory for another process, or no descriptor, it is tried again later."""
        self.patch(os, "fork", Mock(side_effect=OSError(errno.ENOMEM, "Cannot allocate memory")))
        gc.collect()  # what other tests have left is not to go meanwhile
        before = len(os.listdir("/proc/self/fd"))
        for number in range(2 * MAXIMUM_FAILURES):
            self.assertFalse(self.made._fork(1))
            self.assertEqual(self.made._due[1], 100 + min(10, FIRST_DELAY * 2**number))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.patch(supervisor, "pair", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        self.assertFalse(self.made._fork(1))

    def test_link_is_gone(self) -> None:
        """A worker that has gone before it was told something leaves nothing behind."""
        link, _ = self.up()
        link.close()
        self.made._tell(DRAIN)
        self.end(1, link, 0)
        self.assertEqual(len(self.made._selector.get_map()), 1)

    def test_no_log_line(self) -> None:
        """What a worker says that cannot be logged is passed over."""
        link = self.running(1)
        for wrong in ({"event": {}}, {"event": 1, "level": "info"}, {"event": {}, "level": "?"}):
            link.send(**wrong)
        link.send(level=LogLevel.info.name, event={"log_time": 1.0, "text": "said"})
        link.send(up=True)
        self.made._hear(self.made._running[1])
        self.assertEqual(self.made.log.error.call_count, 3)
        self.assertTrue(self.made._running[1].came_up)

    def test_never_up(self) -> None:
        """A worker that does not come up ends the server; not if it may come up later, and all once were."""
        links = self.up()
        for _ in range(2 * MAXIMUM_FAILURES):
            self.end(1, links[0], TRY_LATER)
            links[0] = self.running(1)
        for _ in range(MAXIMUM_FAILURES - 1):
            self.end(1, links[0], 1)
            links[0] = self.running(1)
        self.assertRaises(SystemExit, self.end, 1, links[0], 1)
        self.assertEqual(self.killed, [(_PID + 2, signal.SIGTERM)])

    def test_hangs(self) -> None:
        """Who hangs while it drains is killed when it is to have ended; sooner after the second signal."""
        links = self.up()
        self.made._stop()
        self.assertEqual(self.made._kill_at, 100 + 30 + PATIENCE)
        self.made._stop()
        self.made._stop()
        self.assertEqual(self.made._kill_at, 100 + PATIENCE)
        self.assertEqual([message["do"] for message in links[0].received()], [DRAIN, STOP])
        self.patch(time, "monotonic", lambda: 100 + PATIENCE)
        self.patch(os, "waitpid", lambda pid, options: (0, 0))
        alarm, bell = socket.socketpair()
        self.made._selector.register(alarm, selectors.EVENT_READ)
        for each in (alarm, bell):
            self.addCleanup(each.close)
        self.made._wait(alarm)
        self.assertEqual(self.killed, [(_PID + number, signal.SIGKILL) for number in (1, 2)])
