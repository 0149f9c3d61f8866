"""A store with bounds: how large an object may be, and how much space on the disk is left to others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

from dicomtw.errors import DimseError
from dicomtw.storage import DataSetSink, IndexedSink, Store
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored

#: PS3.4 Table B.2-1, spelled out: this layer stands below `dimse`.
_OUT_OF_RESOURCES: Final = 0xA700

_MIB: Final = 1 << 20
#: What is left free unless told otherwise, in bytes, and as a part of the file system where that is less.
DEFAULT_FREE: Final = 256 * _MIB
DEFAULT_FREE_PART: Final = 20

#: That there is enough is taken to hold for so long, in seconds: the file system is not asked each time.
_REMEMBERED: Final = 1.0
#: That objects are refused, or no longer, is told at most so often, in seconds.
_TOLD: Final = 60.0


class FreeSpace:
    """How much is free on the file system of `root`; `minimum` in bytes, None: the default, 0: any will do.

    `tell` is called, in any thread, with the line for the log when there is too little, and when no longer.
    """

    def __init__(
        self,
        root: Path,
        minimum: int | None = None,
        tell: Callable[[str], object] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._minimum = minimum
        self._tell = tell
        self._clock = clock
        self._known_until = float("-inf")
        self._low = 0  # what should be free, in bytes, if it is not
        self._told_low = False
        self._told_at = float("-inf")

    def check(self) -> None:
        """Raises `DimseError`, A700H, if there is too little."""
        if self._minimum == 0:
            return
        now = self._clock()
        if self._low or now >= self._known_until:  # space that is there again is used at once
            self._known_until = now + _REMEMBERED
            self._look(now)
        if self._low:
            raise DimseError(_OUT_OF_RESOURCES, f"less than {self._low // _MIB} MiB are free for the store")

    def _look(self, now: float) -> None:
        try:
            said = os.statvfs(self._root)
        except OSError:
            return  # a write will say what is wrong
        minimum, size = self._minimum, said.f_frsize
        if minimum is None:
            minimum = min(DEFAULT_FREE, said.f_blocks * size // DEFAULT_FREE_PART)
        free = said.f_bavail * size
        self._low = minimum if free < minimum else 0
        if bool(self._low) != self._told_low and now - self._told_at >= _TOLD:
            self._told_low, self._told_at = bool(self._low), now
            what = "objects are refused" if self._low else "objects are stored again"
            wanted = f"{free // _MIB} MiB are free, {minimum // _MIB} are to be"
            self._tell(f"{what}: of the store {self._root} {wanted}")


class BoundedStore:
    """`store`, for objects of `maximum` bytes at most (0: of any size) while there is free `space`."""

    def __init__(self, store: Store, maximum: int, space: FreeSpace) -> None:
        self._store = store
        self.maximum = maximum
        self.space = space

    def open(self, meta: FileMeta) -> DataSetSink:
        """As `Store.open`."""
        return BoundedSink(self._store.open(meta), self)


class BoundedSink:
    """A sink of a store with bounds, to be discarded where `write` raises."""

    __slots__ = ("_bounds", "_looked_at", "_sink", "_size")

    def __init__(self, sink: DataSetSink, bounds: BoundedStore) -> None:
        self._sink = sink
        self._bounds = bounds
        self._size = 0
        self._looked_at = 0  # the size up to which there was room, when that was looked at

    @property
    def stored(self) -> Stored | None:
        """As that of the `IndexedSink` inside."""
        return cast(IndexedSink, self._sink).stored

    def write(self, fragments: Sequence[memoryview]) -> None:
        bounds = self._bounds
        self._size += sum(map(len, fragments))
        if 0 < bounds.maximum < self._size:
            raise DimseError(
                _OUT_OF_RESOURCES, f"objects of more than {_size(bounds.maximum)} are not stored"
            )
        if self._size > self._looked_at:  # for each MiB, not for each chunk
            bounds.space.check()
            self._looked_at = self._size + _MIB
        self._sink.write(fragments)

    def commit(self, may_block: bool = True) -> None:
        self._sink.commit(may_block)

    def discard(self) -> None:
        self._sink.discard()


def _size(length: int) -> str:
    return f"{length // _MIB} MiB" if length % _MIB == 0 else f"{length} bytes"
