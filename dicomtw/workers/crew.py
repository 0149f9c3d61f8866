"""The workers of a service: how it is forked into them, and what it is in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import globalLogPublisher

from dicomtw.config import Configuration
from dicomtw.workers import reactors
from dicomtw.workers.gate import Gate
from dicomtw.workers.link import DRAIN, READ_AGAIN, STOP, Reader, observer
from dicomtw.workers.standing import Common
from dicomtw.workers.supervisor import Supervisor, Turns


class Crew:
    """The workers of a configuration."""

    def __init__(self, configuration: Configuration, reactor: Any) -> None:
        self._count = configuration.workers
        self._drain_timeout = max(server.drain_timeout for server in configuration.servers)
        self.common = Common(configuration)
        self._reactor = reactor
        self._supervisor: Supervisor
        self._listeners: list[Any] = []

    def fault(self) -> str:
        """Why there can be no workers, in words."""
        return reactors.fault_of(self._reactor)

    # -- in the process that they are forked from

    def run(self, turns: Turns, *, hang_up: bool) -> bool:
        """Returns in each worker, with True; and when all have ended, with False."""
        self._listeners = reactors.listeners(self._reactor)
        self._supervisor = Supervisor(self._count, self.common, turns, self._drain_timeout)
        if not self._supervisor.run(hang_up):
            return False
        inherited = [*globalLogPublisher._observers]
        for each in inherited:
            globalLogPublisher.removeObserver(each)
        globalLogPublisher.addObserver(observer(self._supervisor.link, inherited))
        reactors.renew(self._reactor)
        return True

    @property
    def failed(self) -> bool:
        """Whether one of them has not ended in good order."""
        return self._supervisor.failed

    # -- in a worker

    @property
    def number(self) -> int:
        """Which worker we are."""
        return self.common.board.own

    @property
    def starts(self) -> bool:
        """Whether the server starts with us: we are the first worker, and take nobody's place."""
        return self.number == 1 and self._supervisor.is_first

    @property
    def dead(self) -> list[int]:
        """The numbers of processes that we take the place of."""
        return self._supervisor.predecessors

    def listen(self) -> list[Gate]:
        """Accept connections."""
        gates = [Gate(port, self._reactor, self.common.is_busier) for port in self._listeners]
        for gate in gates:
            gate.startListening()
        return gates

    def up(
        self,
        *,
        drain: Callable[[], None],
        stop: Callable[[], None],
        read_again: Callable[[], None],
        hurry: Callable[[], None],
    ) -> None:
        """All is as it should be; from now on do as we are told."""
        self.common.begin()
        link = self._supervisor.link
        self._reactor.addReader(self.common.bells.reader(self.common.board.own, hurry))
        self._reactor.addReader(Reader(link, {DRAIN: drain, STOP: stop, READ_AGAIN: read_again}, drain))
        link.send(up=True)
