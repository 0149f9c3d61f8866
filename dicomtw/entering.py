"""A store whose objects are in the index when they are committed (strict): one thread does both.

To come back to the reactor between the two costs an object two changes of threads. Those who come while a
transaction goes on are in the next one, which the first of them makes for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import cast

from dicomtw.storage import DataSetSink, IndexedSink, Store, WouldBlock
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored

#: Enters objects in one transaction, and raises nothing; what each is refused with that is not in the index.
Put = Callable[[Sequence[Stored]], "Sequence[Exception | None]"]


class _Waiting:
    """An object, and whether a transaction was about it."""

    __slots__ = ("is_over", "refusal", "stored")

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.is_over = False
        self.refusal: Exception | None = None


class Together:
    """Enters objects for any number of threads, each of which waits until the index has its own."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()  # held while `_waiting` is touched
        self._transaction = threading.Lock()

    def enter(self, stored: Stored) -> None:
        """Returns when the index has the object; raises what `put` says it is refused with."""
        waiting = _Waiting(stored)
        with self._lock:
            self._waiting.append(waiting)
        with self._transaction:
            if not waiting.is_over:
                with self._lock:
                    batch, self._waiting = self._waiting, []
                try:
                    refusals = self._put([each.stored for each in batch])
                except Exception as bug:  # of which all are to hear
                    refusals = [bug] * len(batch)
                for each, refusal in zip(batch, refusals, strict=True):
                    each.is_over, each.refusal = True, refusal
        assert waiting.is_over
        if waiting.refusal is not None:
            raise waiting.refusal


class EnteringStore:
    """`store`, of which a sink enters its object when it has committed it; always where that may block."""

    def __init__(self, store: Store, enter: Callable[[Stored], None]) -> None:
        self._store = store
        self._enter = enter

    def open(self, meta: FileMeta) -> DataSetSink:
        """As `Store.open`."""
        return EnteringSink(self._store.open(meta), self._enter)


class EnteringSink:
    """One data set; where the index does not take it, the journal of the store still has it."""

    __slots__ = ("_enter", "_sink", "discard", "write")

    def __init__(self, sink: DataSetSink, enter: Callable[[Stored], None]) -> None:
        self._sink = sink
        self._enter = enter
        self.write = sink.write
        self.discard = sink.discard

    @property
    def stored(self) -> Stored | None:
        """As that of the `IndexedSink` inside."""
        return cast(IndexedSink, self._sink).stored

    def commit(self, may_block: bool = True) -> None:
        if not may_block:
            raise WouldBlock
        self._sink.commit()
        stored = self.stored
        if stored is not None:
            self._enter(stored)
