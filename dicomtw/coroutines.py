"""Coroutines that as a rule are over at once, in which case they need no Deferred."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

from twisted.internet.defer import Deferred


def begin(coroutine: Coroutine[Any, Any, None]) -> Deferred[None] | None:
    """As `Deferred.fromCoroutine`; None if the coroutine is over, without having waited for anything.

    That is so with most operations of most associations, and a third of what a C-ECHO costs goes into the
    Deferred. Raises what such a coroutine raises.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return Deferred.fromCoroutine(_continued(coroutine, awaited))


def _continued(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """The rest of a coroutine that waits for `awaited`."""
    while True:
        error, result = None, None
        try:
            result = yield awaited
        except GeneratorExit:  # nobody waits for it any more
            coroutine.close()
            raise
        except BaseException as raised:  # the coroutine's to deal with
            error = raised
        try:
            awaited = coroutine.send(result) if error is None else coroutine.throw(error)
        except StopIteration:
            return
