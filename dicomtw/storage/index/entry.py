"""Objects that are stored, on their way into the index: the same whoever enters them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.record import Record, record_of
from dicomtw.storage.stored import Stored


class Settles(Protocol):
    """What a store has noted until its index knows of it: `directory.DirectoryStore`."""

    def settled(self, batch: Sequence[Stored]) -> Sequence[Stored]:
        """The index has these; returns what has to be entered besides."""


class Index(Protocol):
    """What objects are entered into: `database.Index`."""

    @property
    def attributes(self) -> Attributes:
        """What is kept of each."""

    def put(self, records: Sequence[Record]) -> None:
        """Enter objects in one transaction. Raises `IndexFault`."""


def record(index: Index, stored: Stored) -> Record:
    """What the index keeps of an object."""
    return record_of(
        stored.found,
        stored.transfer_syntax_uid,
        study=stored.study,
        series=stored.series,
        sop_instance_uid=stored.sop_instance_uid,
        mtime_ns=stored.mtime_ns,
        attributes=index.attributes,
    )


def enter(index: Index, store: Settles, batch: Sequence[Stored], records: Sequence[Record]) -> None:
    """Enter objects, by their `records`, and what has taken their place meanwhile. Raises `IndexFault`."""
    index.put(records)
    while batch := store.settled(batch):
        index.put([record(index, stored) for stored in batch])
