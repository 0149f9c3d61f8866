"""A process that enters objects into the index, so that the one that receives them need not meanwhile.

Two threads of one interpreter take turns, and to receive an object is mostly to wait for one's turn if the
other has the index to write. The process only helps: what it does not enter, since it has not started yet,
has ended, or something is wrong with the index, its parent enters itself, as if there were none. Both may
enter the same object; that is one transaction more, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import attrs

from dicomtw.storage.directory import DirectoryStore
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.entering import enter, record
from dicomtw.storage.stored import Stored

#: So many objects in one transaction are worth a process.
MANY: Final = 10
#: After it has ended by itself the next one is started no sooner, in seconds.
PAUSE: Final = 60.0
#: It may take so long to end when it is told to, in seconds: a transaction, and what waits for the disk.
_PATIENCE: Final = 10.0

_COMMAND: Final = f"from {__name__} import main; main()"


class IndexProcess:
    """Enters objects of the store at `root`, with the attributes `extra`, elsewhere.

    To be used by one thread at a time, which may block.
    """

    def __init__(self, root: Path, extra: Sequence[str], now: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._extra = list(extra)
        self._now = now
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._is_ready = False
        self._not_before = 0.0

    @property
    def is_there(self) -> bool:
        """Whether it has been started, and not been let go."""
        return self._connection is not None

    def enter(self, batch: Sequence[Stored]) -> bool:
        """Whether the index has these objects now, and their notes are settled; if not, enter them."""
        if self._connection is None and (len(batch) < MANY or self._now() < self._not_before):
            return False
        try:
            if self._connection is None:
                self._connection = self._start()
            if not self._is_ready and not self._connection.poll():
                return False
            self._is_ready = self._is_ready or self._connection.recv()
            if self._is_ready:
                self._connection.send([attrs.astuple(stored, recurse=False) for stored in batch])
                if self._connection.recv():
                    return True
        except (OSError, EOFError):
            pass  # it could not be started, or has ended
        self.close()
        self._not_before = self._now() + PAUSE
        return False

    def _start(self) -> Connection:
        ours, its = socket.socketpair()
        with ours, its:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _COMMAND, str(self._root), *self._extra],
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                start_new_session=True,  # what is typed at a terminal is for its parent
            )
            return Connection(ours.detach())

    def close(self) -> None:
        """Let it end, and wait until it has."""
        connection, self._connection, self._is_ready = self._connection, None, False
        if connection is not None:
            connection.close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve(connection: Connection, root: Path, extra: Sequence[str]) -> None:
    """Enter what comes, until the connection is closed or something is wrong with the index."""
    attributes = Attributes(extra)
    index = Index(root / INDEX / FILE_NAME, attributes, synchronous=False)
    store = DirectoryStore(root, indexed=attributes.tags)

    def enters(batch: Sequence[Stored]) -> bool:
        enter(index, store.settled, batch, [record(index, stored) for stored in batch])
        return not index.lost and not index.remade

    with contextlib.closing(index), contextlib.suppress(EOFError, OSError):
        going_well = _goes_well(index.open)
        connection.send(going_well)
        while going_well:
            batch = [Stored(*each) for each in connection.recv()]
            going_well = _goes_well(partial(enters, batch))
            connection.send(going_well)


def _goes_well(function: Callable[[], bool]) -> bool:
    try:
        return function()
    except Exception:  # the parent will see for itself, and say what it is
        return False


def main() -> None:
    """What the process does; its standard input is the connection with its parent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a service manager may tell all; its parent says when
    root, *extra = sys.argv[1:]
    with Connection(0) as connection:
        serve(connection, Path(root), extra)
