"""From the shell to Twisted and back: a coroutine runs under the reactor, and its outcome is ours."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomtw.command import terminal
from dicomtw.errors import Cancelled

T = TypeVar("T")

Work = Coroutine[Deferred[Any], Any, Any]

#: Seconds that work has to end in when it is cancelled.
_GRACE = 5.0

#: How many -v it takes to see an event: the line of each association is news only for those who ask.
_LEAST = {LogLevel.debug: 3, LogLevel.info: 2}
_ASSOCIATIONS = "dicomtw.association"


def run(work: Callable[[], Work]) -> Any:
    """Run `work` under the reactor; what it returns or raises is returned or raised here. Once a process.

    SIGINT and SIGTERM cancel it: that raises `SystemExit`, whatever comes of it. A second one ends the
    process at once.
    """
    from twisted.internet import reactor as found

    reactor: Any = found
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # pydicom's, about values of others
    globalLogBeginner.beginLoggingTo([_Said()], redirectStandardIO=False)
    outcome: list[Any] = []
    signals: list[int] = []
    working: list[Deferred[Any]] = []

    def begin() -> None:
        if signals:
            reactor.stop()
            return
        working.append(Deferred.fromCoroutine(work()))
        working[0].addBoth(outcome.append)
        working[0].addBoth(lambda _: Deferred.fromCoroutine(_stop(reactor)))

    def interrupt() -> None:
        for work_under_way in working:  # none where the signal came first
            reactor.callLater(_GRACE, _leave, signals[0])
            work_under_way.cancel()

    def signalled(number: int, _: object) -> None:
        signals.append(number)
        if len(signals) > 1:
            _leave(number)
        reactor.callFromThread(interrupt)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signalled)
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    if signals:
        raise SystemExit(128 + signals[0])
    (result,) = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result


async def _stop(reactor: Any) -> None:
    """Stop when what was written last, such as an A-ABORT, is on its way."""
    for _ in range(2):
        await deferLater(reactor, 0)
    reactor.stop()


def _leave(number: int) -> None:
    os._exit(128 + number)


@implementer(ILogObserver)
class _Said:
    """What Twisted and our own layers log, in the words of the command: no traceback but with -vv."""

    def __call__(self, event: LogEvent) -> None:
        level = event["log_level"]
        least = 1 if event.get("log_namespace") == _ASSOCIATIONS else _LEAST.get(level, -2)
        terminal.say(formatEvent(event), least=least)
        if "log_failure" in event:
            terminal.trace(event["log_failure"].value)


def in_thread(function: Callable[[], T]) -> Deferred[T]:
    """Call a function in one of the reactor's threads."""
    return deferToThread(function)


async def together(works: Iterable[Work]) -> list[Any]:
    """Run several at a time; what they return, when all are over. Raises what the first of them has raised.

    Cancelled, it cancels them all.
    """
    every = [Deferred.fromCoroutine(work) for work in works]
    results = await DeferredList(every, consumeErrors=True)
    faults = [result.value for succeeded, result in results if not succeeded]
    for fault in sorted(faults, key=lambda one: not isinstance(one, CancelledError | Cancelled)):
        raise fault
    return [result for _, result in results]
