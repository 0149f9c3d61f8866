"""The way of objects into the index of their store: together, in a thread, and noted until they are in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from dicomtw.dimse import status
from dicomtw.errors import DimseError, IndexFault
from dicomtw.feed import InThread
from dicomtw.storage.index.entry import Index, Settles, enter, record
from dicomtw.storage.index.record import Record
from dicomtw.storage.stored import Stored

_log = Logger()

#: Objects that may wait for the index while nobody waits for them, and what of them may, in bytes.
MAXIMUM_OBJECTS: Final = 10_000
MAXIMUM_SIZE: Final = 64 << 20
#: Objects that nobody waits for are gathered for so long, in seconds: together they cost a third.
GATHER: Final = 0.05
#: While the index fails, what nobody waits for is tried again after so long, in seconds.
RETRY: Final = 5.0

#: Entered in one transaction at the start.
_BATCH: Final = 500


class Progress(Protocol):
    """What other processes are to know of ours that enter objects into the same index."""

    def taken(self, count: int) -> None:
        """So many more are acknowledged, and not in it yet."""

    def entered(self, count: int) -> None:
        """So many of them are."""

    def fails(self, is_failing: bool) -> None:
        """Whether they cannot be entered."""


class Notes(Settles, Protocol):
    """The journal of a store: `storage.directory.DirectoryStore`."""

    def unsettled(self) -> Iterator[Stored]:
        """What earlier runs have stored and the index may not have."""


def catch_up(store: Notes, index: Index) -> int:
    """Enter what earlier runs have stored and had not entered before they ended; how many objects.

    Call it before anybody asks the index. May block; raises `IndexFault`. What a bug keeps out stays noted.
    """
    count, unsettled = 0, store.unsettled()
    while batch := list(itertools.islice(unsettled, _BATCH)):
        try:
            enter(index, store, batch, [record(index, stored) for stored in batch])
            count += len(batch)
        except IndexFault:
            raise
        except Exception:  # one of them: the others are entered without it
            count += sum(_caught_up(store, index, stored) for stored in batch)
    return count


def _caught_up(store: Notes, index: Index, stored: Stored) -> bool:
    try:
        enter(index, store, [stored], [record(index, stored)])
    except IndexFault:
        raise
    except Exception:
        _log.failure("bug in the index: {uid} is not entered", uid=stored.sop_instance_uid)
        return False
    return True


@attrs.define(eq=False)
class _Entry:
    """Something in the queue."""

    #: To be entered; None for somebody who only waits for what stands before.
    stored: Stored | None
    #: Who waits for it; None if nobody does.
    written: Deferred[None] | None
    #: What it takes in memory while nobody waits for it, in bytes.
    size: int = 0
    #: Made once, in the thread.
    record: Record | None = None


def _refusal(error: BaseException | None) -> DimseError:
    if not isinstance(error, IndexFault):
        return DimseError(status.OUT_OF_RESOURCES, "index: internal error")
    where, _, what = str(error).partition(": ")  # where its file is, is nothing for peers
    return DimseError(status.OUT_OF_RESOURCES, f"index: {what or where}")


class IndexWriter:
    """Enters what is stored into the index: all that has come while one transaction went on, in the next.

    A transaction begins as soon as somebody waits for it; if nobody does, what comes is gathered first.

    `in_thread` should have a thread free for it. What comes is noted in the journal of its store, and entered
    soon (relaxed); or from threads that wait for it, by `put` (strict). An object that a bug keeps out is
    refused, or if nobody waits for it left out until the next start; it alone.
    """

    log = Logger()

    def __init__(
        self,
        index: Index,
        in_thread: InThread,
        store: Notes,
        *,
        clock: IReactorTime,
        progress: Progress | None = None,
        elsewhere: Callable[[Sequence[Stored]], bool] | None = None,
    ) -> None:
        self._index = index
        self._in_thread = in_thread
        self._store = store
        self._clock = clock
        self._progress = progress
        #: Enters objects in another process, or says that it has not.
        self._elsewhere = elsewhere
        self._queue: list[_Entry] = []
        self._writing = False
        self._closed = False
        #: What nobody waits for, in the queue and on its way.
        self._objects = 0
        self._size = 0
        self._fault: IndexFault | None = None
        #: The next transaction, if it is not to begin at once.
        self._due: IDelayedCall | None = None

    def add(self, stored: Stored) -> Deferred[None]:
        """Enter an object; fires at once, or if too many wait already when the index has it.

        Fails with `DimseError`, A700H, if the index does, or a bug keeps it out: then the journal of the
        store still has the object.
        """
        if self._objects >= MAXIMUM_OBJECTS or self._size >= MAXIMUM_SIZE:
            return self._append(stored)
        entry = _Entry(stored, None, stored.size)
        self._objects += 1
        self._size += entry.size
        if self._progress is not None:
            self._progress.taken(1)
        self._queue.append(entry)
        self._write_later()
        return succeed(None)

    def put(
        self, batch: Sequence[Stored], tell: Callable[[Callable[[], object]], object]
    ) -> list[DimseError | None]:
        """Enter objects in one transaction, in the thread of who waits for them.

        Returns what each is refused with that is not in the index now. `tell` has a function called in the
        reactor thread where something is to be told of it.
        """
        entries = [_Entry(stored, None) for stored in batch]
        failures = self._put(entries)
        if failures or self._fault is not None:
            tell(lambda: self._look_at(failures, entries))
        return [_refusal(failures[entry].value) if entry in failures else None for entry in entries]

    def settled(self) -> Deferred[None]:
        """Fires when the index has all that was added before, but for what a bug keeps out.

        Fails with `IndexFault` if the index does.
        """
        if not self._queue and not self._writing:
            return succeed(None)
        return self._append(None)

    def hurry(self) -> None:
        """Somebody waits elsewhere for what was added before."""
        self.settled().addErrback(lambda _: None)  # that it fails he learns otherwise

    def close(self) -> Deferred[None]:
        """Enter what waits, if the index takes it. What it does not take the next start finds noted."""
        self._closed = True

        def failed(failure: Failure) -> None:
            failure.trap(IndexFault)
            self.log.warn(
                "{objects} objects are not in the index: the next start enters them", objects=self._objects
            )

        return self.settled().addErrback(failed)

    def _append(self, stored: Stored | None) -> Deferred[None]:
        written: Deferred[None] = Deferred()
        self._queue.append(_Entry(stored, written))
        self._write()
        return written

    def _write(self) -> None:
        if self._writing or not self._queue:
            return
        if self._due is not None:
            self._due.cancel()
            self._due = None
        batch, self._queue = self._queue, []
        if all(entry.stored is None for entry in batch):
            self._fire(batch, {}, None)
            return
        self._writing = True

        def failed(failure: Failure) -> dict[_Entry, Failure]:
            return {entry: failure for entry in batch if entry.stored is not None}

        self._in_thread(lambda: self._put(batch)).addErrback(failed).addCallback(self._written, batch)

    def _put(self, batch: list[_Entry]) -> dict[_Entry, Failure]:
        """What happens in the thread; returns what is not in the index now, and why."""
        entries = [entry for entry in batch if entry.stored is not None]
        try:
            self._enter(entries)
            return {}
        except IndexFault:
            return dict.fromkeys(entries, Failure())
        except Exception:
            if len(entries) == 1:
                return {entries[0]: Failure()}
        # A bug, with one of them as a rule: the others are not to suffer from it.
        failures: dict[_Entry, Failure] = {}
        for number, entry in enumerate(entries):
            try:
                self._enter([entry])
            except IndexFault:
                failures.update(dict.fromkeys(entries[number:], Failure()))
                break
            except Exception:
                failures[entry] = Failure()
        return failures

    def _enter(self, entries: list[_Entry]) -> None:
        batch = [entry.stored for entry in entries if entry.stored is not None]
        if self._elsewhere is not None and self._elsewhere(batch):
            return
        records = []
        for entry, stored in zip(entries, batch, strict=True):
            if entry.record is None:
                entry.record = record(self._index, stored)
            records.append(entry.record)
        enter(self._index, self._store, batch, records)

    def _look_at(self, failures: dict[_Entry, Failure], batch: list[_Entry]) -> IndexFault | None:
        """Tell the log what became of a transaction; the fault of the index, if it has failed."""
        fault: IndexFault | None = None
        for entry, failure in failures.items():
            if isinstance(failure.value, IndexFault):
                fault = failure.value
            elif entry.stored is not None:
                # It would fail again, for ever; the next start tries it once more.
                uid = entry.stored.sop_instance_uid
                self.log.failure("bug in the index: object {uid} is not in it", failure, uid=uid)
        if fault is not None:
            if self._fault is None:
                self.log.error("the index fails: {fault}; what is stored is noted", fault=str(fault))
            self._fault = fault
        elif self._fault is not None and any(entry.stored and entry not in failures for entry in batch):
            self._fault = None
            self.log.info("the index works again")
        if self._progress is not None:
            self._progress.fails(self._fault is not None)
        return fault

    def _written(self, failures: dict[_Entry, Failure], batch: list[_Entry]) -> None:
        self._writing = False
        fault = self._look_at(failures, batch)
        again = {
            entry: None
            for entry, failure in failures.items()
            if entry.written is None and isinstance(failure.value, IndexFault)
        }
        self._queue[:0] = again
        self._forget([entry for entry in batch if entry not in again])
        self._fire(batch, failures, fault)
        self._write_next()

    def _fire(self, batch: list[_Entry], failures: dict[_Entry, Failure], fault: IndexFault | None) -> None:
        """Tell those who wait for an object what became of it, and others of a `fault` if there was one."""
        for entry in batch:
            if entry.written is None:
                continue
            if entry in failures:
                entry.written.errback(_refusal(failures[entry].value))
            elif entry.stored is None and fault is not None:
                entry.written.errback(fault)
            else:
                entry.written.callback(None)

    def _write_next(self) -> None:
        """What has come during a transaction: at once if somebody waits for it."""
        if any(entry.written is not None for entry in self._queue):
            self._write()
        else:
            self._write_later()

    def _write_later(self) -> None:
        """What nobody waits for."""
        if self._writing or self._due is not None or not self._queue:
            return
        is_failing = self._fault is not None
        if not self._closed:
            self._due = self._clock.callLater(RETRY if is_failing else GATHER, self._write_when_due)
        elif not is_failing:
            self._write()

    def _write_when_due(self) -> None:
        self._due = None
        self._write()

    def _forget(self, batch: list[_Entry]) -> None:
        """Nothing of these is in memory any more."""
        left = self._objects
        for entry in batch:
            if entry.written is None:
                self._objects -= 1
                self._size -= entry.size
        if self._progress is not None:
            self._progress.entered(left - self._objects)
