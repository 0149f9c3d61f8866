"""A reactor that a process was forked with: nothing that the kernel keeps for it is to be shared."""

from __future__ import annotations

import select
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.python.failure import Failure


def fault_of(reactor: object) -> str:
    """Why a reactor cannot be forked, in words; empty if it can."""
    return "" if isinstance(reactor, EPollReactor) else "--workers needs the epoll reactor"


def listeners(reactor: EPollReactor) -> list[Any]:
    """Take what a reactor reads from it, but for what wakes it up: listening ports, before it runs."""
    internal = reactor._internalReaders
    found = [reader for reader in reactor.getReaders() if reader not in internal]
    for reader in found:
        reactor.removeReader(reader)
    return found


def renew(reactor: EPollReactor) -> None:
    """In a forked process, before it runs: give it an epoll object and a pipe to wake it up of its own.

    An epoll object is one for all processes that it was forked to; what one of them has it watch, or no
    longer watch, it does for all. Calls that are due later stay.
    """
    waker = reactor.waker
    reactor._poller.close()
    reactor._poller = select.epoll()
    for table in (reactor._reads, reactor._writes, reactor._selectables, reactor._internalReaders):
        table.clear()
    reactor.waker = None
    waker.connectionLost(Failure(EOFError()))
    reactor.installWaker()
