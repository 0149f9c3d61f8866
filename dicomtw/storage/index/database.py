"""The database of the index: SQLite, in a file beside the objects.

It is derived: what is in it can be made again from the files, so a file that is damaged, deleted or of
another layout is no misfortune. If it is lost while it is open, the next `put` begins another one, which
nobody can read until it is filled. One connection writes, by turns; others read at the same time
(write-ahead log).
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import attrs

from dicomtw.errors import IndexFault
from dicomtw.storage.index import boots
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.cursor import CHUNK, Cursor
from dicomtw.storage.index.database_file import DatabaseFile
from dicomtw.storage.index.files import Files
from dicomtw.storage.index.query import Query
from dicomtw.storage.index.record import Record
from dicomtw.storage.index.schema import TABLES, Schema
from dicomtw.storage.index.writer import Writer

#: The index of a store, inside it.
INDEX: Final = ".index"
FILE_NAME: Final = "index.sqlite3"

#: How long to wait for another process that writes, in seconds.
BUSY: Final = 5.0
#: Connections kept for reading.
_IDLE = 4
#: Page caches, in KiB.
_WRITER_CACHE, _READER_CACHE = 4096, 1024
#: The write-ahead log is cut down to this after it was longer, in bytes.
_LOG_SIZE = 16 << 20

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: The row that says which is the first id, if it is not 1.
_FIRST_ID: Final = "first-id"
#: Ids begin at the seconds since this time, 2026-01-01, times so many: more than are entered in a second.
#: What was found in a database that is lost is not taken for something else in the one that took its place.
_EPOCH, _IDS_PER_SECOND = 1_767_225_600, 1 << 16


@attrs.frozen
class Instance:
    """An object that is stored."""

    #: In the database. It stays when the object is replaced, and no other one gets it after the object.
    id: int
    #: The path of its file below the store's root: study, series, file name.
    parts: tuple[str, str, str]
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Index:
    """The index of a store, in the file `path`; threads may share it, and processes.

    With `synchronous` what is entered is on stable storage; without, it may be lost by a power cut, which
    the next `open` notices. Another process that writes is waited for `busy` seconds. The store's root is two
    levels above the file unless `files` says otherwise.
    Every method may block on the disk and raise `IndexFault`.
    """

    def __init__(
        self,
        path: Path,
        attributes: Attributes,
        *,
        synchronous: bool,
        files: Files | None = None,
        busy: float = BUSY,
    ) -> None:
        self.attributes = attributes
        self._busy = busy
        self._path = path
        self._file = DatabaseFile(path)
        self._synchronous = synchronous
        self._files = files or Files(path.parent.parent, attributes)
        self._schema = Schema(attributes)
        self._lock = threading.Lock()  # held while the writing connection is used
        self._connection: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._is_joined = False
        self._idle: list[sqlite3.Connection] = []
        #: Our row in the database while it is open without `synchronous`; other processes have theirs.
        self._boot = ""
        #: Why it cannot be used any more as it is, until the next `open`; empty: it can, as far as is known.
        self.lost = ""
        #: Why it was opened again while it was open, until it is complete: nobody may read it.
        self.remade = ""
        #: The lowest id that something in it may have.
        self.first_id = 0
        #: The highest id that somebody was told, of any database that was open here.
        self._highest = 0
        self._highest_lock = threading.Lock()

    def open(self) -> bool:
        """Make the database if there is none; whether it is complete.

        If it is not, it is new, of another layout, damaged, or has not been complete before: it can be used,
        and is to be filled from the files. A damaged file is kept under another name.
        """
        with self._lock, self._faults():
            self.remade = self.lost or self.remade  # before anybody can connect to what is not filled
            try:
                complete = self._open_or_remake()
            except BaseException:
                self._close()
                raise
            self.lost = ""
            if complete:
                self.remade = ""
            return complete

    def join(self, first_id: int) -> bool:
        """Enter objects beside the process that has it open: if it still is that one's, by its `first_id`.

        Whether it is, and complete. Nothing is made anew here, nor set aside: what is wrong is for the other
        process to see.
        """
        with self._lock, self._faults():
            if self._file.is_marked or not self._file.is_there:
                return False
            self._is_joined = True
            connection = self._connect_to_write()
            connection.execute("BEGIN")
            meta = self._meta(connection)
            connection.execute("COMMIT")
            self.first_id = int(meta.get(_FIRST_ID, 0))
            is_it = meta.get("layout") == self._schema.fingerprint and self.first_id == first_id
            if not is_it or "complete" not in meta:
                self._close()
                return False
            self._file.identify()
            self._writer = Writer(connection, self._schema, self._files, first_id)
            return True

    def _open_or_remake(self) -> bool:
        # Nor is a log that is left to get into the hands of another database.
        if self._file.is_marked or (self.lost and not self._file.is_there):
            self._close()
            self._file.set_aside()
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
        self._close()
        self._file.set_aside()
        return self._open()

    def close(self) -> None:
        """Let go of the file. Does not raise."""
        with self._lock, suppress(sqlite3.Error):
            if self._connection is not None and self._boot:
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._connection.execute("DELETE FROM meta WHERE name = ?", (self._boot,))
        with self._lock:
            self._close()

    def set_complete(self, first_id: int | None = None) -> None:
        """From now on `open` says that all files are in it: in the one that has this `first_id`, if given."""
        with self._lock:
            with self._transaction() as writer:
                if first_id not in (None, self.first_id):
                    raise IndexFault(f"{self._path}: another one has taken its place")
                writer.set_complete()
            self.remade = ""  # before another one can take its place

    def was_completed(self) -> bool:
        """Whether another process has filled it since it was opened."""
        with self._lock, self._faults():
            if self._connection is None:
                raise IndexFault(f"{self._path}: it is closed")
            found = self._connection.execute("SELECT 1 FROM meta WHERE name = 'complete'").fetchone()
            if found:
                self.remade = ""
            return bool(found)

    # -- writing

    def put(self, records: Sequence[Record]) -> None:
        """Enter objects, or what they have become, in one transaction.

        Of several versions of one object the one counts whose file is there, and of several of these, or
        where there is none, the latest; so it does not matter in which order they come. If the database is
        lost, they are entered into a new one.
        """
        try:
            with self._writing() as writer:
                writer.put(records)
        except IndexFault:
            if not self.lost or self._is_joined:
                raise
            self.open()
            with self._writing() as writer:
                writer.put(records)

    def delete(self, sop_instance_uids: Collection[str], *, only_gone: bool = False) -> int:
        """Remove objects in one transaction, or `only_gone`, those of them whose files are; how many."""
        with self._writing() as writer:
            return writer.delete(sop_instance_uids, only_gone)

    # -- reading

    def find(self, query: Query, seconds: float = 0.0, most: int = 0) -> Cursor:
        """What `query` finds, within these limits of a `Cursor`. Does not touch the disk yet."""
        return Cursor(self, query, seconds, most)

    def instance(self, ids: Sequence[int]) -> list[Instance]:
        """The instances with these ids, in their order; those that are gone meanwhile are left out."""
        found: dict[int, Instance] = {}
        with self.reading() as connection:
            for at in range(0, len(ids), CHUNK):
                chunk = ids[at : at + CHUNK]
                for row in connection.execute(f"{_INSTANCES} WHERE instance.id IN ({_marks(chunk)})", chunk):
                    found[row[0]] = _instance(row)
        self.check(ids)
        return [found[each] for each in ids if each in found]

    def counts(self) -> tuple[int, int, int, int]:
        """How many patients, studies, series and instances there are."""
        with self._connected() as connection:
            patients, studies, series, instances = (
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
                for table in TABLES.values()
            )
        return patients, studies, series, instances

    def versions(self, study: str, series: str) -> dict[str, int]:
        """Modification times in nanoseconds by SOP Instance UID, of the objects in a series' directory."""
        with self._connected() as connection:
            return dict(connection.execute(_VERSIONS, (study, series)))

    def all_instances(self) -> Iterator[list[Instance]]:
        """All that is in it, in portions; what comes or goes meanwhile may be among them or not."""
        after = 0
        while True:
            with self._connected() as connection:
                rows = connection.execute(
                    f"{_INSTANCES} WHERE instance.id > ? ORDER BY instance.id LIMIT 1000", (after,)
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            yield [_instance(row) for row in rows]

    def note(self, ids: Sequence[int]) -> None:
        """To be called when these are found: in another database they are not to be something else."""
        with self._highest_lock:
            self._highest = max(self._highest, max(ids, default=0))

    def check(self, ids: Sequence[int]) -> None:
        """To be called when something was read by these: raises `IndexFault` if the database is another."""
        if self._connection is None or (ids and min(ids) < self.first_id):
            raise IndexFault(f"{self._path}: another one has taken its place")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading that nobody else uses meanwhile; not while it is filled anew."""
        with self._connected() as connection:
            why = self.lost or self.remade
            if why:
                raise IndexFault(f"{self._path}: {why}; another one is made from the files")
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        idle = self._idle
        with self._faults(idle):
            if self._connection is None:
                raise IndexFault("the index is closed")
            try:
                connection = idle.pop()
            except IndexError:
                connection = self._connect(_READER_CACHE)
                connection.execute("PRAGMA query_only = ON")
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            idle.append(connection)
            if idle is not self._idle or len(idle) > _IDLE:  # closed meanwhile, or enough
                with suppress(IndexError):
                    idle.pop().close()

    # -- connections

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        """A transaction that is committed in the end, unless something is raised."""
        with self._lock, self._transaction() as writer:
            yield writer

    @contextmanager
    def _transaction(self) -> Iterator[Writer]:
        with self._faults():
            connection, writer = self._connection, self._writer
            if connection is None or writer is None:
                raise IndexFault("the index is closed")
            try:
                connection.execute("BEGIN IMMEDIATE")
                if writer.begin():
                    self._check_same(connection)
                yield writer
                connection.execute("COMMIT")
            except BaseException:
                writer.forget()
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            # Rows in a file that has lost its name are not there for the next start.
            self._check_there()
            if self.lost:
                raise IndexFault(f"{self._path}: {self.lost}")

    @contextmanager
    def _faults(self, readers: list[sqlite3.Connection] | None = None) -> Iterator[None]:
        """Turn what goes wrong into `IndexFault`; what is lost is remembered for the next `open`.

        The lock is held, but not by one of the `readers`: of those who still read what was open before nobody
        says anything of what is open now.
        """
        try:
            yield
        except sqlite3.Error as error:
            what = " ".join(str(error).split())
            with nullcontext() if readers is None else self._lock:
                if not _is_damage(error):
                    self._check_there()
                elif readers is None or readers is self._idle:
                    self.lost = what
                    self._file.mark_damaged()
            raise IndexFault(f"{self._path}: {what}") from error
        except OSError as error:
            raise IndexFault(f"{self._path}: {error.strerror or error}") from error

    def _check_same(self, connection: sqlite3.Connection) -> None:
        """Another process has written: it may have made another one in the same file."""
        meta = dict(
            connection.execute("SELECT name, value FROM meta WHERE name IN ('layout', ?)", (_FIRST_ID,))
        )
        is_same = meta.get("layout") == self._schema.fingerprint
        if not is_same or int(meta.get(_FIRST_ID, 0)) != self.first_id:
            raise IndexFault(f"{self._path}: another one has taken its place")

    def _check_there(self) -> None:
        """Notice that it is no longer there."""
        self.lost = self._file.why_lost() or self.lost

    def _connect(self, cache: int) -> sqlite3.Connection:
        # "rw": what was deleted is not to be made by somebody who only reads.
        where = f"file:{quote(str(self._path))}?mode=rw"
        connection = sqlite3.connect(
            where, timeout=self._busy, isolation_level=None, check_same_thread=False, uri=True
        )
        try:
            connection.execute(f"PRAGMA cache_size = -{cache}")
            connection.execute("PRAGMA case_sensitive_like = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_to_write(self) -> sqlite3.Connection:
        connection = self._connection = self._connect(_WRITER_CACHE)
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
        # Without FULL a power cut may cost the last transactions; the database stays whole.
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._synchronous else 'NORMAL'}")
        return connection

    def _open(self) -> bool:
        self._close()
        self._file.make()
        self._is_joined = False
        connection = self._connect_to_write()
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise IndexFault(f"{self._path}: no write-ahead log can be kept there")
        connection.execute("BEGIN IMMEDIATE")
        meta = self._meta(connection)
        if meta.get("layout") != self._schema.fingerprint:
            meta = self._make(connection)
        boot, ours = boots.boot_id(), boots.processes()
        ended = [name for name, value in meta.items() if name.startswith(boots.BOOT) and value != boot]
        # It was in use without `synchronous` when the machine went down; or who knows where it is from.
        if ended or self.lost:
            connection.execute("DELETE FROM meta WHERE name = 'complete'")
            connection.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in ended])
            meta.pop("complete", None)
        if not self._synchronous:
            self._boot = f"{boots.BOOT}{os.getpid()}-{ours}-{secrets.token_hex(4)}"
            connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (self._boot, boot))
        connection.execute("COMMIT")
        killed = [
            name for name, value in meta.items() if boot and value == boot and boots.is_of_dead(name, ours)
        ]
        if killed:
            self._settle(connection, killed)
        self.first_id = int(meta.get(_FIRST_ID, 0))
        self._file.identify()
        self._writer = Writer(connection, self._schema, self._files, self.first_id)
        return "complete" in meta

    def _settle(self, connection: sqlite3.Connection, killed: list[str]) -> None:
        """Drop the rows of processes that were killed, once what they committed is on stable storage."""
        try:
            connection.execute("PRAGMA synchronous = FULL")
            busy, frames, written = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy and frames == written:
                connection.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in killed])
        except sqlite3.OperationalError:
            pass  # another start may do it
        finally:
            if not self._synchronous:
                connection.execute("PRAGMA synchronous = NORMAL")

    def _meta(self, connection: sqlite3.Connection) -> dict[str, str]:
        """What the database says of itself; nothing if it is empty or not ours."""
        tables = [name for (name,) in connection.execute(_TABLES)]
        if not {"meta", *TABLES.values()} <= set(tables):
            return {}
        return dict(connection.execute("SELECT name, value FROM meta"))

    def _make(self, connection: sqlite3.Connection) -> dict[str, str]:
        for (name,) in connection.execute(_TABLES).fetchall():
            connection.execute(f'DROP TABLE "{name}"')
        for statement in self._schema.statements:
            connection.execute(statement)
        # The clock may have been set back.
        lowest = max(self._highest, self.first_id) + 1
        first_id = max((int(time.time()) - _EPOCH) * _IDS_PER_SECOND, lowest)
        meta = {"layout": self._schema.fingerprint, _FIRST_ID: str(first_id)}
        connection.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", meta.items())
        return meta

    def _close(self) -> None:
        idle, self._idle = self._idle, []
        connection, self._connection, self._writer = self._connection, None, None
        for each in [*idle, *([connection] if connection else ())]:
            with suppress(sqlite3.Error):
                each.close()


_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
_INSTANCES = (
    'SELECT instance.id, study.directory, series.directory, instance."SOPClassUID", '
    'instance."SOPInstanceUID", instance."TransferSyntaxUID" FROM instance '
    "JOIN series ON series.id = instance.series_id JOIN study ON study.id = series.study_id"
)
_VERSIONS = (
    'SELECT instance."SOPInstanceUID", instance.mtime_ns FROM study '
    "JOIN series ON series.study_id = study.id JOIN instance ON instance.series_id = series.id "
    "WHERE study.directory = ? AND series.directory = ?"
)


def _instance(row: tuple[int, str, str, str, str, str]) -> Instance:
    number, study, series, sop_class_uid, sop_instance_uid, transfer_syntax_uid = row
    parts = (study, series, f"{sop_instance_uid}.dcm")
    return Instance(number, parts, sop_class_uid, sop_instance_uid, transfer_syntax_uid)


def _marks(parameters: Sequence[int]) -> str:
    return ", ".join("?" * len(parameters))


def _is_damage(error: sqlite3.Error) -> bool:
    # The lowest byte is the code, others say more.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
