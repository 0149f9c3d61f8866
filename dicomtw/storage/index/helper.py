"""A process that enters objects into the index, so that the one that receives them need not meanwhile.

Two threads of one interpreter take turns, and to receive an object is mostly to wait for one's turn if the
other has the index to write. The process only helps: what it does not enter, since it has not started yet,
has ended, does not answer, or finds something wrong with the index, its parent enters itself, as if there
were none. Both may enter the same object; that is one transaction more, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from struct import Struct
from typing import Final

import attrs

from dicomtw import __version__
from dicomtw.storage.directory import DirectoryStore
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.entry import enter, record
from dicomtw.storage.stored import Stored

#: So many objects in one transaction are worth a process ...
MANY: Final = 10
#: ... and so many go into one at most, which bounds the memory that it takes.
MOST: Final = 500
#: After it has ended by itself the next one is started no sooner, in seconds.
PAUSE: Final = 60.0
#: An answer is waited for so long, in seconds, ...
_PATIENCE: Final = 5.0
#: ... its end so long, in seconds ...
_END: Final = 1.0
#: ... and by it who else writes, in seconds: the parent has more patience.
_BUSY: Final = 1.0

#: The modules are the parent's, wherever it has them from, and no variable is to change that.
_COMMAND: Final = (
    f"import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from {__name__} import main; main()"
)
_TIMEVAL: Final = Struct("@ll")


@attrs.frozen
class Task:
    """What the process is told when it starts."""

    root: str
    #: Attributes that the index has besides its own.
    extra: list[str]
    #: Of the index that its parent has open.
    first_id: int
    #: Of the parent: what is installed may be another one by now.
    version: str = __version__


class Helper:
    """Enters objects of the store at `root`, of which this process has `index` open, elsewhere.

    To be used by one thread at a time, which may block.
    """

    def __init__(
        self, root: Path, index: Index, extra: Sequence[str], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._index = index
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
            if not self._has_started():
                return False
            slices = (batch[at : at + MOST] for at in range(0, len(batch), MOST))
            going_well = all(self._has_entered(each) for each in slices)
        except Exception:  # whatever it is: its parent goes on without it
            going_well = False
        if not going_well:
            self.close()
            self._not_before = self._now() + PAUSE
        return going_well

    def _has_started(self) -> bool:
        """Start it; whether it is ready. Raises `ChildProcessError` if it cannot help."""
        if self._connection is None:
            self._connection = self._start()
        if not self._is_ready and self._connection.poll():
            self._is_ready = self._connection.recv()
            if not self._is_ready:
                raise ChildProcessError
        return self._is_ready

    def _has_entered(self, batch: Sequence[Stored]) -> bool:
        assert self._connection is not None
        self._connection.send([attrs.astuple(stored, recurse=False) for stored in batch])
        answer: bool = self._connection.recv()
        return answer

    def _start(self) -> Connection:
        if not sys.executable or getattr(sys, "frozen", False):
            raise FileNotFoundError("no interpreter")
        task = Task(str(self._root), self._extra, self._index.first_id)
        ours, its = socket.socketpair()
        with ours, its:
            set_patience(ours, _PATIENCE)
            path, told = (
                json.dumps([os.path.abspath(each) for each in sys.path]),
                json.dumps(attrs.asdict(task)),
            )
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _COMMAND, path, told],
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # what is typed at a terminal is for its parent
            )
            return Connection(ours.detach())

    def close(self) -> None:
        """Let it end, and wait until it has; kill it if that takes long."""
        connection, self._connection, self._is_ready = self._connection, None, False
        if connection is not None:
            connection.close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # the disk hangs
                process.wait(_END)


def set_patience(connection: socket.socket, seconds: float) -> None:
    """Have who waits for this socket, though it blocks, wait no longer than this: then `BlockingIOError`."""
    patience = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, patience)


def serve(connection: Connection, task: Task) -> None:
    """Enter what comes, until the connection is closed or something is wrong with the index."""
    root, attributes = Path(task.root), Attributes(task.extra)
    index = Index(root / INDEX / FILE_NAME, attributes, synchronous=False, busy=_BUSY)
    store = DirectoryStore(root, indexed=attributes.tags)

    def joins() -> bool:
        return task.version == __version__ and index.join(task.first_id)

    def enters() -> bool:
        batch = [Stored(*each) for each in received]
        enter(index, store, batch, [record(index, stored) for stored in batch])
        return True

    with contextlib.closing(index), contextlib.suppress(EOFError, OSError):
        going_well = _goes_well(joins)
        connection.send(going_well)
        while going_well:
            received = connection.recv()
            going_well = _goes_well(enters)
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
    with Connection(0) as connection:
        serve(connection, Task(**json.loads(sys.argv[1])))
