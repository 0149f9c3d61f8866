"""Data-set bytes on their way to a sink: at once while the disk keeps up, in a thread while it lags."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final, TypeVar

from twisted.internet.defer import Deferred

from dicomtw.storage import DataSetSink, WouldBlock

T = TypeVar("T")

#: A call into a sink that takes longer than this, in seconds, means that the disk lags ...
_LAG: Final = 0.02
#: ... and for this long, in seconds, all calls are made in threads.
_LAG_REMEMBERED: Final = 1.0

#: Calls a function in a thread; what it returns or raises is the Deferred's result.
InThread = Callable[[Callable[[], T]], "Deferred[T]"]


class Disk:
    """How fast the disk has been of late, and the threads to wait for it in. One for all that share it."""

    def __init__(self, in_thread: InThread[None]) -> None:
        self.in_thread = in_thread
        self._lags_until = 0.0

    @property
    def lags(self) -> bool:
        """Whether calls that touch the disk should be made in a thread."""
        return self._lags_until > 0.0 and time.monotonic() < self._lags_until

    def call(self, function: Callable[[], None]) -> None:
        """Call `function` here, and see how long it takes."""
        started = time.monotonic()
        try:
            function()
        finally:
            ended = time.monotonic()
            if ended - started > _LAG:
                self._lags_until = ended + _LAG_REMEMBERED


class Feed:
    """Brings the fragments of one data set to its sink, in order.

    While writes wait for a thread, `busy` is called with True, and with False when they are done: pause the
    peer between the two. What the sink raises, `commit` raises; fragments that come after it are dropped.
    """

    def __init__(self, sink: DataSetSink, disk: Disk, busy: Callable[[bool], None]) -> None:
        self.sink = sink
        self._disk = disk
        self._busy = busy
        self._refusal: Exception | None = None
        self._waiting: list[memoryview] = []
        self._in_thread = False
        self._discarded = False
        self._drained: Deferred[None] | None = None

    def write(self, fragments: list[memoryview]) -> None:
        """Pass on the fragments of one chunk."""
        if self._refusal is not None or self._discarded:
            return
        if self._in_thread:
            self._waiting += fragments
        elif self._disk.lags:
            self._waiting = fragments
            self._in_thread = True
            self._busy(True)
            Deferred.fromCoroutine(self._write_in_thread())
        else:
            try:
                self._disk.call(lambda: self.sink.write(fragments))
            except Exception as refusal:  # `commit` raises it, whatever it is
                self._refusal = refusal

    async def _write_in_thread(self) -> None:
        while self._waiting and self._refusal is None and not self._discarded:
            fragments, self._waiting = self._waiting, []
            try:
                await self._disk.in_thread(functools.partial(self.sink.write, fragments))
            except Exception as refusal:  # `commit` raises it, whatever it is
                self._refusal = refusal
        self._waiting.clear()
        self._in_thread = False
        if self._discarded:
            self.sink.discard()
        self._busy(False)
        if self._drained is not None:
            self._drained.callback(None)

    async def commit(self) -> None:
        """Commit the sink when everything is written; raises its `DimseError`, or that of a write."""
        if self._in_thread:
            self._drained = Deferred()
            await self._drained
        if self._refusal is not None:
            raise self._refusal
        if not self._disk.lags:
            try:
                self._disk.call(lambda: self.sink.commit(may_block=False))
            except WouldBlock:
                pass
            else:
                return
        await self._disk.in_thread(self.sink.commit)

    def discard(self) -> None:
        """Leave no trace of the data set."""
        if not self._discarded:
            self._discarded = True
            if not self._in_thread:
                self.sink.discard()
