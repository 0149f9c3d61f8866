"""Audit messages on their way: from memory into the queue on disk, and out of it to who collects them.

Nobody waits for it. What is recorded while a thread is at the disk goes there in one append; when the disk
takes nothing it waits in memory, up to a limit, and what is more is lost, which is said when that is over.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dicomtw.collectors import Collector, CollectorAway
from dicomtw.security.audit.message import AuditMessage
from dicomtw.security.audit.queue import MAXIMUM_RECORD, Queue
from dicomtw.security.audit.syslog import Entry

T = TypeVar("T")

#: What waits in memory for the disk at most: messages, and bytes.
MAXIMUM_WAITING: Final = 10_000
MAXIMUM_SIZE: Final = 16 << 20
#: One append is not longer, in bytes, nor is what is delivered at a time, in messages and bytes.
_APPEND: Final = 1 << 20
_DELIVERY: Final = 200
_DELIVERY_SIZE: Final = 1 << 19

#: After a fault it is tried again so much later, in seconds, and twice that each time up to the second.
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
#: At the end what is left has so long to be delivered, in seconds; the rest waits for the next start.
FAREWELL: Final = 2.0


class InThread(Protocol):
    """Calls a function in the one thread that the queue is used in."""

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]: ...


class Recorder:
    """Records audit messages in `queue`, and has `collector` take them.

    `lost` makes a message about how many were not recorded; `name` says in the log where they go.
    """

    log = Logger()

    def __init__(
        self,
        queue: Queue,
        collector: Collector,
        in_thread: InThread,
        clock: Any,
        *,
        name: str,
        lost: Callable[[int], tuple[AuditMessage, ...]],
    ) -> None:
        self._queue = queue
        self._collector = collector
        self._in_thread = in_thread
        self._clock = clock
        self._name = name
        self._lost_messages = lost
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        #: Why the queue could not be written at last; empty if it could.
        self._fault = ""
        self._away = False
        self._writing: Deferred[None] | None = None
        self._delivering: Deferred[None] | None = None
        self._rewrite = _Again(clock, self._write)
        self._redeliver = _Again(clock, self._deliver)
        self._stopped = False

    @property
    def fault(self) -> str:
        """Why what is recorded now may be lost, in words; empty if it is not so."""
        if self._fault:
            return f"the audit queue cannot be written: {self._fault}"
        return "too many audit messages wait for the disk" if self._is_full() else ""

    def start(self) -> None:
        """Open the queue, and go on with what earlier runs have left in it. Blocks; raises `OSError`."""
        cut = self._queue.open()
        if cut:
            self.log.warn("{count} bytes of an unfinished audit message are cut off", count=cut)
        self._deliver()

    def record(self, message: AuditMessage) -> None:
        """Take a message."""
        if self._is_full():
            self._lose()
            return
        entry = Entry.of(message, str(os.getpid())).encode()  # a daemon's number is not that of its start
        if len(entry) > MAXIMUM_RECORD:
            self.log.error("an audit message of {length} bytes is lost: it is too long", length=len(entry))
            return
        self._waiting.append(entry)
        self._size += len(entry)
        self._write()

    def _is_full(self) -> bool:
        return len(self._waiting) >= MAXIMUM_WAITING or self._size >= MAXIMUM_SIZE

    def _lose(self) -> None:
        self._lost += 1
        if self._lost == 1:
            self.log.error("audit messages are lost: {why}", why=self.fault)

    # -- into the queue

    def _write(self) -> None:
        if self._writing is None and not self._rewrite.waits and self._waiting:
            self._writing = succeed(None)  # it may be over at once
            writing = self._writing = Deferred.fromCoroutine(self._write_all())
            writing.addBoth(self._written)

    def _written(self, result: Any) -> None:
        self._writing = None
        if isinstance(result, Failure):
            self.log.failure("bug in the audit queue", result)

    async def _write_all(self) -> None:
        while self._waiting:
            batch: list[bytes] = []
            size = 0
            while self._waiting and (not batch or size + len(self._waiting[0]) <= _APPEND):
                entry = self._waiting.popleft()
                batch.append(entry)
                size += len(entry)
            try:
                await self._in_thread(lambda records=batch: self._queue.append(records))  # type: ignore[misc]
            except OSError as fault:
                self._waiting.extendleft(reversed(batch))
                self._not_written(fault)
                return
            self._size -= size
            self._rewrite.reset()
            self._is_written()
            self._deliver()

    def _not_written(self, fault: OSError) -> None:
        why = fault.strerror or str(fault)
        if why != self._fault:
            self._fault = why
            self.log.error("the audit queue cannot be written: {why}", why=why)
        if not self._stopped:
            self._rewrite.later()

    def _is_written(self) -> None:
        if self._fault:
            self._fault = ""
            self.log.info("the audit queue is written again")
        if self._lost:
            lost, self._lost = self._lost, 0
            self.log.error("{count} audit messages were lost", count=lost)
            for message in self._lost_messages(lost):
                self.record(message)

    # -- out of the queue

    def _deliver(self) -> None:
        if self._delivering is None and not self._redeliver.waits and not self._stopped:
            self._delivering = succeed(None)  # as above
            delivering = self._delivering = Deferred.fromCoroutine(self._deliver_all())
            delivering.addBoth(self._delivered)

    def _delivered(self, result: Any) -> None:
        self._delivering = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            self.log.failure("bug in the delivery of audit messages", result)

    async def _deliver_all(self) -> None:
        while True:
            try:
                records = await self._in_thread(lambda: self._queue.peek(_DELIVERY, _DELIVERY_SIZE))
                if self._queue.unreadable:
                    lost, self._queue.unreadable = self._queue.unreadable, 0
                    self.log.error("{count} bytes of the audit queue cannot be read", count=lost)
                if not records:
                    return
                passed, entries = _entries(records)
                count = passed + (await self._collector.deliver(entries) if entries else 0)
                await self._in_thread(lambda number=count: self._queue.take(number))  # type: ignore[misc]
            except (CollectorAway, OSError) as fault:
                self._not_delivered(fault)
                return
            self._redeliver.reset()
            if self._away:
                self._away = False
                self.log.info("audit messages get to {name} again", name=self._name)
            if self._fault:  # there may be room now
                self._rewrite.cancel()
                self._write()

    def _not_delivered(self, fault: Exception) -> None:
        if not self._away:
            self._away = True
            self.log.warn(
                "audit messages do not get to {name} and wait on disk: {why}", name=self._name, why=str(fault)
            )
        if not self._stopped:
            self._redeliver.later()

    # -- the end

    def stop(self) -> Deferred[None]:
        """Write what there is, and deliver it if that is possible at once."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._rewrite.cancel()
        self._write()
        if self._writing is not None:
            await _ended(self._writing)
        if not self._away:
            self._redeliver.cancel()
            self._deliver()
            if self._delivering is not None:
                delivering = self._delivering
                farewell = self._clock.callLater(FAREWELL, delivering.cancel)
                await _ended(delivering)
                if farewell.active():
                    farewell.cancel()
        self._stopped = True
        self._rewrite.cancel()
        self._redeliver.cancel()
        if self._delivering is not None:
            delivering = self._delivering
            delivering.cancel()
            await _ended(delivering)
        if self._waiting or self._lost:
            count = len(self._waiting) + self._lost
            self.log.error("{count} audit messages are lost: {why}", count=count, why=self._fault)
        await self._collector.close()
        await self._in_thread(self._queue.close)


def _ended(deferred: Deferred[None]) -> Deferred[Any]:
    """Fires when `deferred` has, whatever with; it may do so already."""
    ended: Deferred[None] = Deferred()

    def over(result: Any) -> Any:
        ended.callback(None)
        return result

    deferred.addBoth(over)
    return ended


def _entries(records: list[bytes]) -> tuple[int, list[Entry]]:
    """How many records at the beginning are none of ours, and the entries that follow."""
    passed, entries = 0, list[Entry]()
    for record in records:
        try:
            entries.append(Entry.decode(record))
        except ValueError:
            if entries:
                break
            passed += 1
    return passed, entries


class _Again:
    """Calls `function` later, and later each time, until it is reset."""

    def __init__(self, clock: Any, function: Callable[[], None]) -> None:
        self._clock = clock
        self._function = function
        self._delay = FIRST_DELAY
        self._call: IDelayedCall | None = None

    @property
    def waits(self) -> bool:
        return self._call is not None

    def later(self) -> None:
        self._call = self._clock.callLater(self._delay, self._now)
        self._delay = min(2 * self._delay, LONGEST_DELAY)

    def reset(self) -> None:
        self._delay = FIRST_DELAY

    def cancel(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _now(self) -> None:
        self._call = None
        self._function()
