"""Data-set bytes on their way to a sink: at once while the disk keeps up, in a thread while it lags."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dicomtw.services import DataSetSource
from dicomtw.storage import DataSetSink, WouldBlock

T = TypeVar("T")

#: A call into a sink that takes longer than this, in seconds, means that the disk lags ...
_LAG: Final = 0.02
#: ... and so it is taken to do for at least so long, in seconds, and for so many times what the call took.
_LAG_REMEMBERED: Final = 1.0
_LAG_FACTOR: Final = 20

#: A call that waits for the disk by intent may take so long, in seconds.
_PATIENCE: Final = 10.0

#: Removing more than this, in bytes, is left to a thread.
_LARGE: Final = 1 << 20


class InThread(Protocol):
    """Calls a function in a thread; what it returns or raises is the Deferred's result."""

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]: ...


class Disk:
    """How fast one disk has been of late, and the threads to wait for it in.

    `aside` has other threads, for what may take long and is not to keep the rest waiting; `waiting` those for
    what waits by intent.
    """

    def __init__(
        self, in_thread: InThread, aside: InThread | None = None, waiting: InThread | None = None
    ) -> None:
        self._in_thread = in_thread
        self.call_aside: InThread = aside or in_thread
        self._waiting = waiting or in_thread
        self._lags_until = 0.0
        #: When the calls that are in threads now should be over.
        self._deadlines: dict[int, float] = {}
        self._numbers = itertools.count()

    @property
    def busy(self) -> int:
        """Calls that threads are at."""
        return len(self._deadlines)

    @property
    def lags(self) -> bool:
        """Whether calls that touch the disk should be made in a thread."""
        now = time.monotonic()
        if now < self._lags_until:
            return True
        # A disk that hangs shows in no call that is over.
        return any(now > deadline for deadline in self._deadlines.values())

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` here, and see how long it takes."""
        started = time.monotonic()
        try:
            return function()
        finally:
            self._took(time.monotonic() - started)

    def call_in_thread(self, function: Callable[[], T], *, waits: bool = False) -> Deferred[T]:
        """Call `function` in a thread, and see how long it takes unless it `waits` for the disk by intent."""
        number = next(self._numbers)
        self._deadlines[number] = time.monotonic() + (_PATIENCE if waits else _LAG_REMEMBERED)
        taken = 0.0  # by the call itself, however long it waited for a thread

        def timed() -> T:
            nonlocal taken
            started = time.monotonic()
            try:
                return function()
            finally:
                taken = time.monotonic() - started

        def over(result: Any) -> Any:
            del self._deadlines[number]
            if not waits:
                self._took(taken)
            return result

        return (self._waiting if waits else self._in_thread)(timed).addBoth(over)

    async def read(self, source: DataSetSource, length: int) -> bytes | memoryview:
        """The next bytes of `source`, read here while the disk keeps up and in a thread while it lags."""
        if self.lags:
            return await self.call_in_thread(lambda: source.read(length))
        return self.call(lambda: source.read(length))

    def _took(self, seconds: float) -> None:
        if seconds > _LAG:
            remembered = max(_LAG_REMEMBERED, _LAG_FACTOR * seconds)
            self._lags_until = max(self._lags_until, time.monotonic() + remembered)


class Feed:
    """Brings the fragments of one data set to its sink, in order.

    While writes wait for a thread, `busy` is called with True, and with False when they are done: pause the
    peer between the two. What the sink raises, `written` raises; fragments that come after it are dropped.
    """

    log = Logger()

    def __init__(self, sink: DataSetSink, disk: Disk, busy: Callable[[bool], None]) -> None:
        self.sink = sink
        self._disk = disk
        self._busy = busy
        self._refusal: Exception | None = None
        self._size = 0
        self._waiting: list[memoryview] = []
        self._in_thread = False
        self._discarded = False
        self._drained: Deferred[None] | None = None

    def write(self, fragments: list[memoryview]) -> None:
        """Pass on the fragments of one chunk."""
        if self._refusal is not None or self._discarded:
            return
        self._size += sum(map(len, fragments))
        if self._in_thread:
            self._waiting += fragments
        elif self._disk.lags:
            self._waiting = fragments
            self._in_thread = True
            self._busy(True)
            Deferred.fromCoroutine(self._write_in_thread()).addErrback(self._bug)
        else:
            try:
                self._disk.call(lambda: self.sink.write(fragments))
            except Exception as refusal:  # `written` raises it, whatever it is
                self._refusal = refusal
                self.discard()  # at once: the rest may take its time

    async def _write_in_thread(self) -> None:
        while self._waiting and self._refusal is None and not self._discarded:
            fragments, self._waiting = self._waiting, []
            try:
                await self._disk.call_in_thread(functools.partial(self.sink.write, fragments))
            except Exception as refusal:  # `written` raises it, whatever it is
                self._refusal = refusal
                self._discarded = True
        self._waiting.clear()
        self._in_thread = False
        if self._discarded:
            await self._disk.call_in_thread(self.sink.discard).addErrback(self._bug)
        self._busy(False)
        if self._drained is not None:
            self._drained.callback(None)

    async def written(self) -> None:
        """Wait until everything is written; raises what a write has raised."""
        if self._in_thread:
            self._drained = Deferred()
            await self._drained
        if self._refusal is not None:
            raise self._refusal

    async def commit(self) -> None:
        """Commit the sink, to which everything is written; raises its `DimseError`.

        After that there is nothing to discard.
        """
        await self.written()
        if not self._disk.lags:
            try:
                self._disk.call(lambda: self.sink.commit(may_block=False))
            except WouldBlock:
                pass
            else:
                self._discarded = True
                return
        await self._disk.call_in_thread(self.sink.commit, waits=True)
        self._discarded = True

    def discard(self) -> None:
        """Leave no trace of the data set."""
        if not self._discarded:
            self._discarded = True
            if self._in_thread:
                return  # done when the thread is
            if self._size > _LARGE or self._disk.lags:
                self._disk.call_in_thread(self.sink.discard).addErrback(self._bug)
            else:
                self.sink.discard()

    def _bug(self, failure: Failure) -> None:
        self.log.failure("bug in a sink", failure)
