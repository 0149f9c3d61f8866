"""What a query finds, in portions, as somebody takes it."""

from __future__ import annotations

import sqlite3
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from dicomtw.errors import Cancelled
from dicomtw.storage.index.query import Query

#: Entities read at a time.
CHUNK: Final = 100
#: Steps of SQLite's virtual machine after which an interruption is noticed: about a millisecond.
_STEPS: Final = 20_000
_IDS = 1000

#: Values of the columns of a query; None: absent or empty.
Row = tuple[str | None, ...]


class Readers(Protocol):
    """Where connections for reading come from."""

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile; what goes wrong becomes `IndexFault`."""


class Cursor:
    """The results of a query.

    Only the ids of what may match are kept, 8 bytes each. The rows behind them are read in portions, and
    between `fetch` and `fetch` nothing is held in the database. What comes while somebody takes their time is
    not among the results, what goes is left out. One thread at a time may call `fetch`.
    """

    def __init__(self, readers: Readers, query: Query) -> None:
        self._readers = readers
        self._query = query
        self._ids: array[int] | None = None
        self._at = 0
        self._rows: deque[Row] = deque()
        self._interrupted = False

    def fetch(self, count: int) -> list[Row]:
        """The next `count` results, fewer only at the end; none: that was all.

        Raises `IndexFault`, and `Cancelled` if it is interrupted, now or before.
        """
        self._check()
        if len(self._rows) < count:
            with self._reading() as connection:
                if self._ids is None:
                    self._ids = self._select_ids(connection)
                while len(self._rows) < count and self._at < len(self._ids):
                    chunk = self._ids[self._at : self._at + CHUNK]
                    self._rows.extend(row for _, row in self._select_rows(connection, chunk))
                    self._at += len(chunk)
        return [self._rows.popleft() for _ in range(min(count, len(self._rows)))]

    def instances(self) -> array[int]:
        """Ids of all instances in what is found, in the order of series and Instance Number.

        Raises as `fetch`, and does not take part in it.
        """
        with self._reading() as connection:
            ids = self._select_ids(connection)
            found: list[tuple[int, int, int]] = []
            for chunk in _chunks(ids):
                if self._query.tests:
                    chunk = array("q", [each for each, _ in self._select_rows(connection, chunk)])
                    if not chunk:
                        continue
                statement = self._query.instances(len(chunk))
                found += (
                    (series, _number(number), instance)
                    for series, number, instance in self._execute(connection, statement, chunk)
                )
        found.sort()
        return array("q", [instance for _, _, instance in found])

    def interrupt(self) -> None:
        """Let a `fetch` that runs in another thread, and those to come, raise `Cancelled`; soon."""
        self._interrupted = True

    def close(self) -> None:
        """Nobody takes any more: a `fetch` that still runs in another thread is interrupted."""
        self._interrupted = True

    # -- with a connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._check()
        with self._readers.reading() as connection:
            connection.set_progress_handler(lambda: self._interrupted, _STEPS)
            try:
                yield connection
            except sqlite3.OperationalError:
                self._check()
                raise
            finally:
                connection.set_progress_handler(None, 0)

    def _check(self) -> None:
        if self._interrupted:
            raise Cancelled("the query is interrupted")

    def _execute(
        self, connection: sqlite3.Connection, statement: str, parameters: Sequence[int] | Sequence[str]
    ) -> Iterable[tuple[int, str | None, int]]:
        self._check()
        return connection.execute(statement, parameters)

    def _select_ids(self, connection: sqlite3.Connection) -> array[int]:
        cursor = connection.execute(*self._query.ids())
        ids = array("q")
        while rows := cursor.fetchmany(_IDS):
            self._check()
            ids.extend(each for (each,) in rows)
        return ids

    def _select_rows(self, connection: sqlite3.Connection, chunk: array[int]) -> Iterator[tuple[int, Row]]:
        """Ids and rows of those in `chunk` that match, in its order."""
        self._check()
        query = self._query
        found = {row[0]: row[1:] for row in connection.execute(query.rows(len(chunk)), chunk)}
        for position, matching in query.tests:
            found = {each: row for each, row in found.items() if matching.matches(row[position])}
        if not found:
            return
        for position, statement in query.collected(len(found)):
            # The column has the id of the study, here exchanged for what its series or instances have.
            studies = [row[position] for row in found.values()]
            values: dict[int, set[str]] = {}
            for study, value in connection.execute(statement, studies):
                if value:
                    values.setdefault(study, set()).add(value)
            texts = {study: "\\".join(sorted(each)) for study, each in values.items()}
            for each, row in found.items():
                found[each] = (*row[:position], texts.get(row[position]), *row[position + 1 :])
        columns = query.columns
        for each in chunk:
            row = found.get(each)
            if row is not None:
                assert len(row) == len(columns)
                yield each, tuple(None if value is None else str(value) for value in row)


def _chunks(ids: array[int]) -> Iterator[array[int]]:
    for at in range(0, len(ids), CHUNK):
        yield ids[at : at + CHUNK]


def _number(text: str | None) -> int:
    """An Instance Number to sort by; those without one come last."""
    try:
        return int(text or "")
    except ValueError:
        return 1 << 40
