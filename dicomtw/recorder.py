"""Audit messages on their way: from memory into the queue on disk, and out of it to who collects them.

Nobody waits for it. What is recorded while a thread is at the disk goes there in one append; when the disk
takes nothing it waits in memory, up to a limit, and what is more is lost, which is said when that is over.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
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
#: Messages that one event makes many of wait to be made, so many at most, and leave half of that to others.
#: So many are made at a time, lest others wait.
MAXIMUM_DUE: Final = 40_000
PORTION: Final = 50
#: One append is not longer, in bytes, nor is what is delivered at a time, in messages and bytes.
_APPEND: Final = 1 << 20
_DELIVERY: Final = 200
_DELIVERY_SIZE: Final = 1 << 19

#: After a fault it is tried again so much later, in seconds, and twice that each time up to the second.
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
#: At the end what is left has so long to be delivered, in seconds; the rest waits for the next start.
FAREWELL: Final = 2.0
#: And the disk so long for the last writing, which it may never come back from.
LAST_WRITING: Final = 5.0


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
        #: Messages to be made.
        self._due: deque[Callable[[], AuditMessage]] = deque()
        self._turn: IDelayedCall | None = None
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
        if self._is_full() or len(self._due) >= MAXIMUM_DUE:
            return "too many audit messages wait for the disk"
        return ""

    def start(self) -> None:
        """Open the queue, and go on with what earlier runs have left in it. Blocks; raises `OSError`."""
        cut = self._queue.open()
        if cut:
            self.log.warn("{count} bytes of an unfinished audit message are cut off", count=cut)
        self._look_for_damage()
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

    def record_all(self, made: Iterable[Callable[[], AuditMessage]]) -> None:
        """Take many messages, which are made a few at a time: others have their turn, and their room."""
        for make in made:
            if len(self._due) < MAXIMUM_DUE:
                self._due.append(make)
            else:
                self._lose()
        if self._turn is None:
            self._make(PORTION)

    def _make(self, count: int) -> None:
        for _ in range(count):
            if not self._due or self._is_full(2):
                break
            self.record(self._due.popleft()())
        if self._due and self._turn is None and not self._stopped and not self._is_full(2):
            self._turn = self._clock.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        self._make(PORTION)

    def _is_full(self, parts: int = 1) -> bool:
        """Whether one of so many parts of what may wait in memory is taken."""
        return len(self._waiting) >= MAXIMUM_WAITING // parts or self._size >= MAXIMUM_SIZE // parts

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
            if self._waiting and not self._stopped:
                self._rewrite.later()

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
            except Exception:
                self._size -= size
                self._lost += len(batch)
                raise
            self._size -= size
            self._rewrite.reset()
            self._is_written()
            self._make(0)
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
            self._tell_lost()

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        self.log.error("{count} audit messages were lost", count=lost)
        for message in self._lost_messages(lost):
            self.record(message)

    def _are_gone(self, count: int) -> None:
        """The queue had messages, and has them no more."""
        self._lost += count
        if not self.fault:  # else that is told when it is over
            self._tell_lost()

    def _look_for_damage(self) -> None:
        lost, self._queue.lost = self._queue.lost, 0
        if lost:
            self.log.error("the audit queue is damaged; the files are kept as *.damaged")
            self._are_gone(lost)

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
                self._look_for_damage()
                if not records:
                    return
                passed, entries = _entries(records)
                count = passed + (await self._collector.deliver(entries) if entries else 0)
                await self._in_thread(lambda number=count: self._queue.take(number))  # type: ignore[misc]
            except (CollectorAway, OSError) as fault:
                self._not_delivered(fault)
                return
            self._redeliver.reset()
            if passed:
                self.log.error("{count} records of the audit queue are no messages", count=passed)
                self._are_gone(passed)
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
        await self._write_last()
        if not self._away:
            self._redeliver.cancel()
            self._deliver()
            if self._delivering is not None:
                await self._within(FAREWELL, self._delivering)
        self._stopped = True
        self._rewrite.cancel()
        self._redeliver.cancel()
        if self._turn is not None:
            self._turn.cancel()
        if self._delivering is not None:
            delivering = self._delivering
            delivering.cancel()
            await self._within(FAREWELL, delivering)
        await self._collector.close()
        hangs = not await self._within(LAST_WRITING, self._in_thread(self._queue.close))
        count = len(self._waiting) + len(self._due) + self._lost
        if hangs:
            why = "the disk of the audit queue does not answer"
            self.log.error("{why}: {count} audit messages or more may be lost", why=why, count=count)
        elif count:
            self.log.error("{count} audit messages are lost: {why}", count=count, why=self._fault)

    async def _write_last(self) -> None:
        end = self._clock.seconds() + LAST_WRITING
        while True:
            self._make(len(self._due))
            if self._writing is None or self._clock.seconds() >= end:
                break
            await self._within(end - self._clock.seconds(), self._writing)
            if self._fault:
                break

    def _within(self, seconds: float, deferred: Deferred[Any]) -> Deferred[bool]:
        """Fires when `deferred` has, whatever with, or when its time is over: with whether it has."""
        ended: Deferred[bool] = Deferred()
        late = self._clock.callLater(seconds, ended.callback, False)

        def over(result: Any) -> Any:
            if late.active():
                late.cancel()
                ended.callback(True)
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
