"""What a query finds, in portions, as somebody takes it."""

from __future__ import annotations

import sqlite3
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Protocol

from dicomtw.errors import Cancelled, QueryLimit
from dicomtw.storage.index.query import Query

#: Entities read at a time.
CHUNK: Final = 100
#: Steps of SQLite's virtual machine after which an interruption is noticed: about a millisecond.
_STEPS: Final = 20_000
#: Rows taken from a statement at a time, and values whose test is remembered: many instances share them.
_ROWS, _REMEMBERED = 1000, 64

#: Beyond all that an integer string says (PS3.5 6.2).
_LAST: Final = 1 << 80
_LOW: Final = (1 << 64) - 1

#: Values of the columns of a query; None: absent or empty.
Row = tuple[str | None, ...]


class Readers(Protocol):
    """Where connections for reading come from."""

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile; what goes wrong becomes `IndexFault`."""

    def check(self, ids: Sequence[int]) -> None:
        """What was read by these ids counts. Raises `IndexFault` if they are of another database."""

    def note(self, ids: Sequence[int]) -> None:
        """These are found: they are kept, and something is read by them later."""


class Cursor:
    """The results of a query.

    Only the ids of what matches are kept, 8 bytes each. The rows behind them are read in portions, and
    between `fetch` and `fetch` nothing is held in the database. What comes while somebody takes their time is
    not among the results, what goes is left out. One thread at a time may call `fetch`.

    All its reading may take `seconds`, and `instances` may find so many at `most`; 0: there is no limit. Past
    either `QueryLimit` is raised.
    """

    def __init__(self, readers: Readers, query: Query, seconds: float = 0.0, most: int = 0) -> None:
        self._readers = readers
        self._query = query
        self._seconds = seconds
        self._most = most
        #: How long it has kept the database busy, and when it is to be over; infinity: whenever it is.
        self._taken = 0.0
        self._deadline = float("inf")
        self._ids: array[int] | None = None
        self._at = 0
        self._rows: deque[Row] = deque()
        #: What was collected for the chunk before, by column and id: instances of one study share it.
        self._collected: dict[int, dict[int, str | None]] = {}
        self._closed = False

    def fetch(self, count: int) -> list[Row]:
        """The next `count` results, fewer only at the end; none: that was all.

        Raises `IndexFault`, and `Cancelled` if it is closed, now or before.
        """
        self._check()
        if len(self._rows) < count:
            with self._reading() as connection:
                if self._ids is None:
                    self._ids = self._select_ids(connection)
                    self._readers.note(self._ids)
                while len(self._rows) < count and self._at < len(self._ids):
                    chunk = self._ids[self._at : self._at + CHUNK]
                    self._rows.extend(self._select_rows(connection, chunk))
                    self._readers.check(chunk)
                    self._at += len(chunk)
        return [self._rows.popleft() for _ in range(min(count, len(self._rows)))]

    def instances(self) -> array[int]:
        """Ids of all instances in what is found, in the order of series and Instance Number.

        They take 8 bytes each, and those of one series more for a while. Raises as `fetch`, and does not
        take part in it.
        """
        ids = array("q")
        with self._reading() as connection:
            rows = self._select_matching(connection, *self._query.instances())
            for _, series in groupby(rows, itemgetter(0)):
                # One integer for number and id, which takes less than two and sorts alike.
                numbered = sorted(_number(number) << 64 | each for _, number, each, *_ in series)
                ids.extend(each & _LOW for each in numbered)
                if 0 < self._most < len(ids):
                    raise QueryLimit(f"more than {self._most} objects")
            self._readers.note(ids)
        return ids

    def look_up(self, statement: str, ids: array[int]) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement, of which these ids are the first column, in their order.

        The statement lacks the list of ids, in braces. What is gone meanwhile is left out. Raises as `fetch`.
        """
        with self._reading() as connection:
            for at in range(0, len(ids), CHUNK):
                self._check()
                chunk = ids[at : at + CHUNK]
                marks = ", ".join("?" * len(chunk))
                rows = {row[0]: row for row in connection.execute(statement.format(marks), chunk)}
                self._readers.check(chunk)
                yield from (rows[each] for each in chunk if each in rows)

    def close(self) -> None:
        """Nobody takes any more: `fetch` raises `Cancelled`, soon where it runs in another thread."""
        self._closed = True

    # -- with a connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._check()
        with self._readers.reading() as connection:
            began = time.monotonic()
            if self._seconds:
                self._deadline = began + self._seconds - self._taken
            connection.set_progress_handler(self._is_over, _STEPS)
            try:
                yield connection
            except sqlite3.OperationalError:
                self._check()
                raise
            finally:
                connection.set_progress_handler(None, 0)
                self._deadline = float("inf")
                self._taken += time.monotonic() - began

    def _is_over(self) -> bool:
        return self._closed or time.monotonic() > self._deadline

    def _check(self) -> None:
        if self._closed:
            raise Cancelled("the query is interrupted")
        if time.monotonic() > self._deadline:
            raise QueryLimit(f"the query takes more than {self._seconds:g} seconds")

    def _select_ids(self, connection: sqlite3.Connection) -> array[int]:
        return array("q", (row[0] for row in self._select_matching(connection, *self._query.ids())))

    def _select_matching(
        self, connection: sqlite3.Connection, statement: str, parameters: tuple[str, ...]
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement that pass the query's tests, of which it selects the columns last."""
        tests = [lru_cache(_REMEMBERED)(matching.matches) for matching in self._query.tests]
        cursor = connection.execute(statement, parameters)
        while rows := cursor.fetchmany(_ROWS):
            self._check()
            for position, test in enumerate(tests, -len(tests)):
                rows = [row for row in rows if test(row[position])]
            yield from rows

    def _select_rows(self, connection: sqlite3.Connection, chunk: array[int]) -> Iterator[Row]:
        """The rows of those in `chunk` that are still there, in its order."""
        self._check()
        query = self._query
        found = {row[0]: row[1:] for row in connection.execute(query.rows(len(chunk)), chunk)}
        if not found:
            return
        for position, statement in query.collected():
            # The column has an id, here exchanged for what there is of the patient, study or series.
            texts = self._collect(connection, statement, position, {row[position] for row in found.values()})
            for each, row in found.items():
                found[each] = (*row[:position], texts[row[position]], *row[position + 1 :])
        columns = query.columns
        for each in chunk:
            row = found.get(each)
            if row is not None:
                assert len(row) == len(columns)
                yield row

    def _collect(
        self, connection: sqlite3.Connection, statement: str, position: int, ids: set[int]
    ) -> dict[int, str | None]:
        """What a statement says of each id, several values with a backslash between them."""
        known = self._collected.get(position, {})
        texts = self._collected[position] = {each: known[each] for each in ids & known.keys()}
        unknown = list(ids - known.keys())
        if unknown:
            marks = ", ".join("?" * len(unknown))
            values: dict[int, set[str]] = {each: set() for each in unknown}
            for each, value in connection.execute(statement.format(marks), unknown):
                if value:
                    values[each].add(str(value))
            texts.update((each, "\\".join(sorted(some)) or None) for each, some in values.items())
        return texts


def _number(text: str | None) -> int:
    """An Instance Number to sort by; those without one come last."""
    try:
        return int(text or "")
    except ValueError:
        return _LAST
