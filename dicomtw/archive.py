"""A store with its index, and the threads that wait for their disk; each has its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from dicomtw.config import Server
from dicomtw.entering import EnteringStore, Together
from dicomtw.errors import Cancelled, IndexFault
from dicomtw.feed import Disk, InThread
from dicomtw.indexing import IndexWriter, catch_up
from dicomtw.storage import Store
from dicomtw.storage.directory import DirectoryStore, Durability, OnDuplicate
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.helper import Helper
from dicomtw.storage.index.rebuild import Rebuilt, is_study, rebuild
from dicomtw.storage.lock_file import LockFile
from dicomtw.storage.stored import Stored
from dicomtw.workers.progress import Progress

T = TypeVar("T")

#: Threads that wait for the disk. fdatasync runs in parallel; more than this gain nothing on one disk.
_DISK_THREADS = 16
#: Threads for queries, and for what is sent: they may take long, and are not to keep a C-STORE waiting.
_QUERY_THREADS = 8
#: When the index could not be filled, the next try is so much later, in seconds.
_NEXT_TRY = 60.0
#: A helper that has had nothing to enter for so long, in seconds, is let go.
_REST = 60.0
#: What other processes have acknowledged is waited for so long, and looked for so often, in seconds.
_PATIENCE = 10.0
_LOOK = 0.002
#: While one process fills the index it has this file locked; others look so often whether it has, in seconds.
_FILLING = "filling"
_LOOK_FOR_FILLED = 0.5


class Archive:
    """The store of a server at `root`, and what is known of what is in it."""

    log = Logger()

    def __init__(self, root: Path, server: Server, reactor: Any, progress: Progress | None = None) -> None:
        self.root = root
        self._reactor = reactor
        attributes = Attributes(server.index_attribute)
        strict = server.durability == Durability.STRICT.value
        self._files = DirectoryStore(
            root, Durability(server.durability), OnDuplicate(server.on_duplicate), attributes.tags
        )
        self.index = Index(root / INDEX / FILE_NAME, attributes, synchronous=strict)
        self.pools = [
            ThreadPool(0, _DISK_THREADS, "dicomtw-disk"),
            ThreadPool(0, _QUERY_THREADS, "dicomtw-query"),
            ThreadPool(0, _DISK_THREADS, "dicomtw-commit"),  # which may wait for the index, too
            ThreadPool(0, 1, "dicomtw-index"),
        ]

        def in_pool(pool: ThreadPool) -> InThread:
            return lambda function: deferToThreadPool(reactor, pool, function)

        in_disk_thread, in_query_thread, in_commit_thread, in_index_thread = map(in_pool, self.pools)
        self.disk = Disk(in_disk_thread, in_query_thread, in_commit_thread)
        self._in_index_thread = in_index_thread

        def entering(function: Callable[[], T]) -> Deferred[T]:
            return in_index_thread(function).addBoth(self._look_after).addBoth(self._let_go_later)

        #: None where several processes receive, which leave no processor to one more, and where threads wait
        #: for the index anyhow.
        self._helper = (
            Helper(root, self.index, server.index_attribute) if progress is None and not strict else None
        )
        self._indexing = IndexWriter(
            self.index,
            entering,
            self._files,
            clock=reactor,
            progress=progress,
            elsewhere=self._helper.enter if self._helper is not None else None,
        )
        #: Where sinks are opened. When a strict one has committed an object, it has entered it, too.
        self.store: Store = EnteringStore(self._files, Together(self._put).enter) if strict else self._files
        self._store_enters = strict
        #: What other processes are to know of ours, and we of theirs; None: there are none.
        self._shared = progress
        self._is_complete = True
        self._filled = ""  # how far
        self._next_try: IDelayedCall | None = None
        self._closing = False
        #: When the helper is let go.
        self._rest: IDelayedCall | None = None

    def prepare(self) -> int:
        """Make what is missing, and enter into the index what earlier runs did not come to.

        Returns how many half received objects were removed. Blocks; raises `OSError` and `IndexFault`.
        """
        for pool in self.pools:
            pool.start()
        removed = self._files.prepare()
        (self.root / INDEX).mkdir(mode=0o700, exist_ok=True)
        self._open_index()
        return removed

    def _open_index(self) -> None:
        self._is_complete = self.index.open()
        if not self._is_complete and not any(is_study(name) for name in os.listdir(self.root)):
            self.index.set_complete()
            self._is_complete = True
        entered = catch_up(self._files, self.index)
        if entered:
            self.log.info("entered {count} objects that the index did not have", count=entered)

    def before_fork(self) -> None:
        """Have no database open: SQLite does not go through a fork."""
        self.index.close()

    def forked(self, ended: Sequence[int]) -> int:
        """To be called in a forked process that takes the place of others that have `ended`.

        Returns and raises what `prepare` does. Blocks.
        """
        removed = self._files.forked(ended)
        self._open_index()
        if self._shared is not None:
            self._shared.caught_up()
        return removed

    def begin(self) -> None:
        """Fill the index from the files if it is not complete; until then nobody is answered from it."""
        if not self._is_complete:
            self._fill()

    def _look_after(self, result: T) -> T:
        """Have the index made anew if it turned out to be damaged or deleted."""
        why = self.index.lost or self.index.remade
        if why and not self._filled and not self._closing:
            self.log.error("the index of {root} is lost: {why}", root=str(self.root), why=why)
            self._fill()
        return result

    def _fill(self) -> None:
        self._next_try = None
        self.log.info("the index of {root} is made from the files", root=str(self.root))
        self._filled = "it is being made from the files"
        self.disk.call_aside(self._rebuild).addCallbacks(self._is_filled, self._is_not_filled)

    def _rebuild(self) -> Rebuilt:
        with self._alone():
            if self.index.lost:
                self.index.open()
            if self._shared is not None and self.index.was_completed():
                return Rebuilt(0, 0, 0, 0)  # another process has done it
            return rebuild(self.root, self.index, self._tell_how_far, self._passed)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other of our processes does the same: each may have found that it is to be done."""
        if self._shared is None:
            yield
            return
        lock = LockFile(self.root / INDEX / _FILLING)
        try:
            while not lock.try_exclusive():
                self._tell_how_far(0, 0)
                time.sleep(_LOOK_FOR_FILLED)
            yield
        finally:
            lock.close()

    def _tell_how_far(self, done: int, total: int) -> None:
        if self._closing:
            raise Cancelled("the server stops")
        self._filled = f"it is being made from the files, of which {done} of {total} are done"

    def _passed(self, path: Path, why: str) -> None:
        self.log.warn("{path} is not indexed: {why}", path=str(path), why=why)

    def _is_filled(self, rebuilt: Rebuilt) -> None:
        self._filled = ""
        self.log.info(
            "the index of {root} is complete: {read} objects read, {unreadable} passed over",
            root=str(self.root),
            read=rebuilt.read,
            unreadable=rebuilt.unreadable,
        )

    def _is_not_filled(self, failure: Failure) -> None:
        if failure.check(Cancelled):
            return
        self._filled = f"it could not be made from the files: {failure.getErrorMessage()}"
        if self._closing:
            return
        self.log.error(
            "the index of {root}: {why}; the next try is in {seconds:.0f} s",
            root=str(self.root),
            why=self._filled,
            seconds=_NEXT_TRY,
        )
        self._next_try = self._reactor.callLater(_NEXT_TRY, self._fill)

    def _let_go_later(self, result: T) -> T:
        """Let the process go that helps if this was the last of them for a while."""
        helper = self._helper
        if self._rest is not None and self._rest.active():
            self._rest.reset(_REST)
        elif helper is not None and helper.is_there and not self._closing:
            self._rest = self._reactor.callLater(_REST, self._in_index_thread, helper.close)
        return result

    # -- services.storage.Indexing, services.query.Settled

    def add(self, stored: Stored) -> Deferred[None]:
        """Have an object entered that a sink of `store` has committed. Fails with `DimseError`."""
        if self._store_enters:
            return succeed(None)
        return self._indexing.add(stored)

    def _put(self, batch: Sequence[Stored]) -> Sequence[Exception | None]:
        """In a thread: enter objects."""
        refusals = self._indexing.put(batch, lambda tell: self._reactor.callFromThread(tell))
        if self.index.lost or self.index.remade:
            self._reactor.callFromThread(self._look_after, None)
        return refusals

    def settled(self) -> Deferred[None]:
        """Fires when the index has all that was stored before; fails with `IndexFault`."""
        self._look_after(None)
        if self._filled:
            return fail(IndexFault(self._filled))
        if self._shared is None:
            return self._indexing.settled()
        return Deferred.fromCoroutine(self._all_settled(self._shared))

    async def _all_settled(self, progress: Progress) -> None:
        """Wait for what other processes have acknowledged, too."""
        goals = progress.goals()
        progress.hurry(goals)
        await self._indexing.settled()
        end = self._reactor.seconds() + _PATIENCE
        while not progress.is_reached(goals):
            if progress.is_failing(goals) or self._reactor.seconds() >= end:
                raise IndexFault("another process cannot enter what it has stored")
            await deferLater(self._reactor, _LOOK)

    def hurry(self) -> None:
        """Another process waits for what we have stored."""
        self._indexing.hurry()

    # -- the end

    def close(self) -> Deferred[None]:
        """Wait, not in the reactor thread, for what is being committed; then let others have the store."""
        self._closing = True
        if self._next_try is not None:
            self._next_try.cancel()
            self._next_try = None
        if self._rest is not None and self._rest.active():
            self._rest.cancel()

        def stop(_: object) -> Deferred[None]:
            return deferToThread(self._stop_threads)

        def let_go(_: object) -> None:
            self.index.close()
            self._files.close()

        return self._indexing.close().addBoth(stop).addBoth(let_go)

    def _stop_threads(self) -> None:
        for pool in self.pools:
            if pool.started:
                pool.stop()
        if self._helper is not None:
            self._helper.close()
