"""The database of the index: SQLite, in the subset of SQL that it shares with others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.record import Record


class Index:
    """The index of a store, in the file `path`. Threads may share it."""

    def __init__(self, path: Path, attributes: Attributes, *, synchronous: bool) -> None:
        self._path = path
        self.attributes = attributes
        self._synchronous = synchronous

    def open(self) -> bool:
        """Make the database if there is none; whether it is complete, and not to be filled from the files.

        Raises `IndexFault`.
        """
        return True

    def put(self, records: Sequence[Record]) -> None:
        """Enter objects, or what they have become, in one transaction. Raises `IndexFault`."""

    def close(self) -> None:
        """Let go of the file."""
