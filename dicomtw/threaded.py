"""Checkers of users that take long or block: in threads, so many at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

T = TypeVar("T")

#: Checks of one checker at a time: each has a thread, and perhaps much memory, to itself.
AT_A_TIME: Final = 2
#: Those that wait for them; who comes later cannot be served now.
WAITING: Final = 32

#: Calls a function in a thread.
InThread = Callable[[Callable[[], Any]], "Deferred[Any]"]


class Unavailable(Exception):
    """What a checker may raise if it cannot say now whether a user is who he says: one line for the log."""


class Turns:
    """Calls functions in threads, `AT_A_TIME`. `in_thread` is by default the reactor's."""

    def __init__(self, in_thread: InThread | None = None) -> None:
        self._in_thread = in_thread
        self._turn = DeferredSemaphore(AT_A_TIME)

    def call(self, function: Callable[[], T]) -> Deferred[T]:
        """What `function` returns or raises; `Unavailable` if too many wait. Cancelled, it is not begun."""
        return Deferred.fromCoroutine(self._call(function))

    async def _call(self, function: Callable[[], T]) -> T:
        if len(self._turn.waiting) >= WAITING:
            raise Unavailable(f"{WAITING} users wait to be checked")
        await self._turn.acquire()
        return await self._begin(function)

    def _begin(self, function: Callable[[], T]) -> Deferred[T]:
        in_thread: InThread | None = self._in_thread
        if in_thread is None:
            from twisted.internet.threads import deferToThread

            in_thread = deferToThread
        # Who waits may go away, the thread does not: its turn ends when it does.
        told: Deferred[T] = Deferred(lambda _: None)
        ended: Deferred[T] = maybeDeferred(in_thread, function)

        def end(outcome: Any) -> None:
            self._turn.release()
            if not told.called:
                told.callback(outcome)

        ended.addBoth(end)
        return told


@implementer(ICredentialsChecker)
class InThreads:
    """A checker that blocks until it answers, such as Twisted's for the users of this machine."""

    def __init__(self, checker: Any, in_thread: InThread | None = None) -> None:
        self.credentialInterfaces = tuple(checker.credentialInterfaces)
        self._checker = checker
        self._turns = Turns(in_thread)

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """What the checker says."""

        def ask() -> Any:
            answers: list[Any] = []
            maybeDeferred(self._checker.requestAvatarId, credentials).addBoth(answers.append)
            (answer,) = answers
            if isinstance(answer, Failure):
                if answer.check(UnicodeDecodeError):
                    raise UnauthorizedLogin("the passcode is not UTF-8")
                answer.raiseException()
            return answer

        return self._turns.call(ask)
