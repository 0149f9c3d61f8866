"""The process that workers are forked from: it starts them, replaces them, and ends when all have."""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from typing import Any, Final, NoReturn, Protocol

import attrs
from twisted.logger import InvalidLogLevelError, Logger, LogLevel

from dicomtw.workers.link import DRAIN, READ_AGAIN, STOP, Link, log_of_worker, pair
from dicomtw.workers.pace import Pace
from dicomtw.workers.standing import Common

#: Workers that are to have stopped, and have not, are killed after so long, in seconds.
PATIENCE: Final = 6.0
#: The exit status of a worker that may come up later without anybody's help: EX_TEMPFAIL of sysexits.h.
TRY_LATER: Final = 75

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


@attrs.define
class Running:
    """A worker."""

    number: int
    pid: int
    link: Link
    since: float
    came_up: bool = False


class Turns(Protocol):
    """What the service does at the turns of its workers."""

    def all_up(self) -> None:
        """All are up for the first time."""

    def drain(self) -> None:
        """No more connections are to be accepted."""

    def read_again(self) -> None:
        """Certificates are to be read again."""

    def turn(self) -> None:
        """A signal has come: there may be calls for the reactor."""

    def give_up(self, why: str) -> NoReturn:
        """The server cannot run."""


class Supervisor:
    """Forks `count` workers; call `run` while the process has no thread, and its reactor does not run.

    They drain within `drain_timeout` seconds.
    """

    log = Logger()

    def __init__(self, count: int, common: Common, turns: Turns, drain_timeout: float) -> None:
        self._common = common
        self._turns = turns
        self._drain_timeout = drain_timeout
        self._paces = {number: Pace() for number in range(1, count + 1)}
        #: When the next of each is due, in seconds of the monotonic clock.
        self._due = dict.fromkeys(self._paces, 0.0)
        self._running: dict[int, Running] = {}
        self._were_up: set[int] = set()
        self._forked: set[int] = set()
        #: Those whose successor has not come up yet: process numbers by worker.
        self._dead: dict[int, list[int]] = {number: [] for number in self._paces}
        self._selector: selectors.BaseSelector
        self._caught: list[int] = []
        self._stopping = self._stopping_now = False
        self._kill_at = float("inf")
        #: Some worker has not ended in good order, when all were to.
        self.failed = False
        #: In a worker: the end of its link.
        self.link: Link

    def run(self, hang_up: bool) -> int:
        """Fork workers until all are to end. Returns in each with its number, and at last here with 0.

        `hang_up`: SIGHUP has certificates read again; else it does what it does.
        """
        gc.collect()
        gc.freeze()  # what is there now stays in memory that all share
        self._selector = selectors.DefaultSelector()
        alarm, bell = socket.socketpair()
        alarm.setblocking(False)
        bell.setblocking(False)
        self._selector.register(alarm, selectors.EVENT_READ)
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        signals = (signal.SIGCHLD, *_STOPPING, *((signal.SIGHUP,) if hang_up else ()))
        before = {number: signal.signal(number, lambda n, _: self._caught.append(n)) for number in signals}
        while not (self._stopping and not self._running):
            for number in self._to_be_started():
                if self._fork(number):
                    break
            else:
                self._wait(alarm)
                continue
            break
        self._selector.close()
        signal.set_wakeup_fd(-1)
        alarm.close()
        bell.close()
        for number, handler in before.items():
            signal.signal(number, handler)
        if self._common.board.own:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to all of us
        return self._common.board.own

    @property
    def is_first(self) -> bool:
        """In a worker: whether it takes nobody's place."""
        return self._common.board.own not in self._forked

    @property
    def predecessors(self) -> list[int]:
        """In a worker: the numbers of processes that it takes the place of."""
        return self._dead[self._common.board.own]

    def _to_be_started(self) -> list[int]:
        if self._stopping:
            return []
        now = time.monotonic()
        return [number for number, due in self._due.items() if due <= now]

    def _fork(self, number: int) -> bool:
        """Start a worker; whether we are it."""
        try:
            ours, its = pair()
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                its.close()
                raise
        except OSError as error:  # there is too little of something, for now
            delay = self._paces[number].later()
            self.log.error(
                "worker {number} cannot be started: {why}; the next try is in {delay:.1f} s",
                number=number,
                why=error.strerror,
                delay=delay,
            )
            self._due[number] = time.monotonic() + delay
            return False
        if not pid:
            self._common.board.own = number
            self.link = its
            ours.close()
            for other in self._running.values():
                other.link.close()
            return True
        its.close()
        self._forked.add(number)
        self._due[number] = float("inf")
        running = self._running[number] = Running(number, pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, running)
        return False

    # -- what happens

    def _wait(self, alarm: socket.socket) -> None:
        now = time.monotonic()
        due = self._kill_at if self._stopping else min(self._due.values())
        for key, _ in self._selector.select(None if due == float("inf") else max(0.0, due - now)):
            if key.data is None:
                try:
                    alarm.recv(4096)
                except BlockingIOError:
                    pass
                self._turns.turn()
            else:
                self._hear(key.data)
        if time.monotonic() >= self._kill_at:
            self._kill_at = float("inf")
            self._kill()
        caught, self._caught = self._caught, []
        for number in caught:
            if number in _STOPPING:
                self._stop()
            elif number == signal.SIGHUP:
                self._turns.read_again()
                self._tell(READ_AGAIN)
        self._reap()

    def _hear(self, worker: Running) -> None:
        for message in worker.link.received():
            if "event" in message:
                try:
                    log_of_worker(worker.number, message)
                except (KeyError, TypeError, ValueError, InvalidLogLevelError):
                    self.log.error("worker {number} has said what is no log line", number=worker.number)
            elif "up" in message:
                worker.came_up = True
                self._dead[worker.number].clear()
                was_up = len(self._were_up) == len(self._paces)
                self._were_up.add(worker.number)
                if not was_up and len(self._were_up) == len(self._paces):
                    self._turns.all_up()
        if worker.link.lost:
            self._selector.unregister(worker.link)

    def _tell(self, command: str) -> None:
        for worker in self._running.values():
            worker.link.send(do=command)

    def _stop(self) -> None:
        """The first time all are to drain, the second to end at once; who does neither is killed."""
        if not self._stopping:
            self._stopping = True
            self._kill_at = time.monotonic() + self._drain_timeout + PATIENCE
            self._turns.drain()
            self._tell(DRAIN)
        elif not self._stopping_now:
            self._stopping_now = True
            self.log.warn("stopping now")
            self._kill_at = time.monotonic() + PATIENCE
            self._tell(STOP)

    def _kill(self) -> None:
        for worker in self._running.values():
            self.log.critical("worker {number} is killed: it does not stop", number=worker.number)
            os.kill(worker.pid, signal.SIGKILL)

    def _reap(self) -> None:
        for worker in [*self._running.values()]:
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Running, status: int) -> None:
        while not worker.link.lost:  # what it said at last
            self._hear(worker)
        worker.link.close()
        del self._running[worker.number]
        self._common.ended(worker.number)
        fields: dict[str, Any] = {"number": worker.number, "pid": worker.pid, "how": _in_words(status)}
        if self._stopping:
            if status:
                self.failed = True
                self.log.error("worker {number} (process {pid}) ended {how}", **fields)
            return
        self._dead[worker.number].append(worker.pid)
        pace = self._paces[worker.number]
        delay: float | None
        if status == TRY_LATER and len(self._were_up) == len(self._paces):
            delay = pace.later()
        else:
            delay = pace.ended(time.monotonic() - worker.since, worker.came_up)
        if delay is None:
            self._give_up(f"worker {worker.number} does not come up: it ended {fields['how']}")
        self.log.emit(
            LogLevel.error if status else LogLevel.info,  # it was told to end
            "worker {number} (process {pid}) ended {how}; another one is started in {delay:.1f} s",
            **fields,
            delay=delay,
        )
        self._due[worker.number] = time.monotonic() + delay

    def _give_up(self, why: str) -> NoReturn:
        self._tell(STOP)
        for worker in self._running.values():
            try:
                os.kill(worker.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        self._turns.give_up(why)


def _in_words(status: int) -> str:
    """How a process has ended."""
    if status >= 0:
        return f"with exit status {status}"
    try:
        return f"by signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"by signal {-status}"
