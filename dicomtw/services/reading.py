"""What C-MOVE and C-GET send, opened ahead: the system reads the next files while those before are sent.

Objects are looked up and opened in portions, each by one call in a thread: a call for each object takes as
much time as sending a CT slice does, and so does data that is passed from thread to thread. It is read from
the system's cache when it is sent (benchmarks/retrieve.py).
"""

from __future__ import annotations

import errno
import io
import os
from array import array
from collections import deque
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import attrs

from dicomtw.errors import IndexFault
from dicomtw.services import DataSetSource, Operation, SubOperations
from dicomtw.storage.data_set_file import DataSetFile, open_data_set
from dicomtw.storage.index.database import Index, Instance
from dicomtw.transcode import CannotTranscode, transcode
from dicomtw.ul.negotiation import AcceptedContext

#: What is longer is not sent in another transfer syntax, for that is done in memory; in bytes.
MAXIMUM_TRANSCODED: Final = 256 << 20

#: Instances whose files are looked up at a time.
BATCH: Final = 200
#: Objects in a portion. There are two at most: one that is sent, and one that is opened.
_PORTION: Final = 8


@attrs.frozen
class Opened:
    """An object whose turn comes."""

    instance: Instance
    #: The context that the receiver takes it in, and its data set for that; None where there is a fault, and
    #: of what is to be transcoded, which is made when it is its turn.
    context: AcceptedContext | None = None
    data_set: DataSetFile | None = None
    #: Why it cannot be sent, in words.
    fault: str = ""

    def read_ahead(self) -> None:
        """Read what is sent of it first. Does not raise: who sends it is told of faults."""
        if self.data_set is not None:
            with suppress(OSError):
                self.data_set.read_ahead()


class Portion:
    """Objects that are opened by one call in a thread."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        #: How many others are no longer stored.
        self.gone = 0
        #: What ended it.
        self.fault: IndexFault | None = None
        self._closed = False
        self._lock = Lock()

    def add(self, opened: Opened) -> bool:
        """Add one, in the thread; False if nobody wants it any more."""
        with self._lock:
            if not self._closed:
                self.opened.append(opened)
                return True
        if opened.data_set is not None:
            opened.data_set.close()
        return False

    def close(self) -> None:
        """Close what is opened, and what will be yet."""
        with self._lock:
            self._closed = True
        for opened in self.opened:
            if opened.data_set is not None:
                opened.data_set.close()


class ReadAhead:
    """The instances `ids` for one receiver, portion after portion, and one of them ahead."""

    def __init__(
        self, operation: Operation, index: Index, root: Path, receiver: SubOperations, ids: array[int]
    ) -> None:
        self._operation = operation
        self._index = index
        self._root = str(root)
        self._receiver = receiver
        self._ids = ids
        self._at = 0
        self._instances: deque[Instance] = deque()
        #: Nothing is opened any more: the receiver is lost.
        self.lost = False
        self._sent = Portion()
        self._ahead = Portion()
        self._reading: Awaitable[None] | None = None

    async def portion(self) -> Portion:
        """The next one; with no objects, and no fault, at the end. What was in the one before is closed."""
        self._sent.close()
        await (self._reading or self._read_next())
        self._sent = self._ahead
        self._reading = None
        if self._instances or self._at < len(self._ids):
            self._reading = self._read_next()
        else:
            self._ahead = Portion()
        return self._sent

    def _read_next(self) -> Awaitable[None]:
        portion = self._ahead = Portion()
        return self._operation.call_in_thread(lambda: self._read(portion))

    def close(self) -> None:
        """Nothing more is sent."""
        self._sent.close()
        self._ahead.close()

    # -- in a thread, one call after the other

    def _read(self, portion: Portion) -> None:
        while len(portion.opened) < _PORTION:
            if not self._instances and (portion.opened or not self._look_up(portion)):
                break
            opened = self._opened(self._instances[0])
            if opened is None and portion.opened:
                break  # those before are closed first
            instance = self._instances.popleft()
            if not portion.add(opened or Opened(instance, fault="too many files are open")):
                break

    def _look_up(self, portion: Portion) -> bool:
        """Whether there are further instances."""
        while not self._instances and self._at < len(self._ids):
            ids = self._ids[self._at : self._at + BATCH]
            self._at += len(ids)
            try:
                self._instances.extend(self._index.instance(ids))
            except IndexFault as fault:
                portion.fault = fault
                return False
            portion.gone += len(ids) - len(self._instances)
        return bool(self._instances)

    def _opened(self, instance: Instance) -> Opened | None:
        """None where no more files can be open."""
        if self.lost:
            return Opened(instance)
        contexts = self._receiver.contexts(instance.sop_class_uid)
        if not contexts:
            return Opened(instance, fault="the receiver has accepted no presentation context for it")
        for context in contexts:
            if context.transfer_syntax == instance.transfer_syntax_uid:
                path = os.path.join(self._root, *instance.parts)
                try:
                    data_set = open_data_set(path, ahead=True)
                except (OSError, ValueError) as error:
                    is_full = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
                    return None if is_full else Opened(instance, fault=str(error))
                if data_set.transfer_syntax_uid == context.transfer_syntax:
                    return Opened(instance, context, data_set)
                data_set.close()  # it was replaced since
                break
        return Opened(instance)


def transcoded(
    root: Path, instance: Instance, contexts: Sequence[AcceptedContext]
) -> tuple[AcceptedContext, DataSetSource]:
    """A context that the receiver takes an instance in, and its data set in the transfer syntax of that.

    Blocks, and has all of it in memory. Raises `OSError`, `ValueError`.
    """
    path = root.joinpath(*instance.parts)
    if path.stat().st_size > MAXIMUM_TRANSCODED:
        raise CannotTranscode("it is too large to be decompressed")
    chosen, data_set = transcode(path, [context.transfer_syntax for context in contexts])
    context = next(context for context in contexts if context.transfer_syntax == chosen)
    return context, io.BytesIO(data_set)
