"""PS3.10 files. No Twisted in here, and nothing of associations or messages.

`Store` and `DataSetSink` are all that a store is: `directory` keeps files, and others can stand in its place.
An `IndexedSink` tells besides what an index is to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored


class WouldBlock(Exception):
    """A commit that may not block met work that takes long; commit again where it may."""


class DataSetSink(Protocol):
    """Takes one data set as it arrives. Every method may block on the disk and raise `DimseError`.

    After a `DimseError` the data set counts as not received, and of the sink only `discard` may be called.
    """

    def write(self, fragments: Sequence[memoryview]) -> None:
        """The next bytes of the data set, in order."""

    def commit(self, may_block: bool = True) -> None:
        """The data set is complete: check it and make it permanent, as the store's durability has it.

        Without `may_block` it raises `WouldBlock` rather than wait for more than a few system calls.
        """

    def discard(self) -> None:
        """Leave no trace. Does nothing after `commit`; never raises."""


class IndexedSink(DataSetSink, Protocol):
    """The sink of a store that has an index."""

    @property
    def stored(self) -> Stored | None:
        """After `commit`: the object, or the earlier one that is kept in its place; None for nothing new."""


class Store(Protocol):
    """Keeps SOP instances."""

    def open(self, meta: FileMeta) -> DataSetSink:
        """A sink for the data set of the SOP instance that `meta` names. Does not touch the disk."""
