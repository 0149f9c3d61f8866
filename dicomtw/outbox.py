"""Messages out of one association, one after the other: fragments of two are never mixed (PS3.8 Annex E)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed

from dicomtw.dimse import writer
from dicomtw.errors import AssociationLost
from dicomtw.feed import Disk
from dicomtw.services import DataSetSource

#: Data sets are read and written in parts of about this length, in bytes.
BLOCK = 1 << 18


class Outbox:
    """What one association sends: small messages at once, data sets from files as the peer takes them.

    `write` sends encoded P-DATA-TF PDUs, of `maximum_length` at most.
    """

    def __init__(self, write: Callable[[bytes], None], maximum_length: int, disk: Disk) -> None:
        self._write = write
        self._maximum_length = maximum_length
        self._disk = disk
        #: A data set is under way; after it, what waits follows: encoded messages, and turns to send another.
        self._busy = False
        self._waiting: deque[bytes | Deferred[None]] = deque()
        #: Who waits until the peer takes more; None while it does.
        self._untaken: list[Deferred[None]] | None = None
        self._lost: AssociationLost | None = None

    def send(self, context_id: int, command: bytes, data_set: bytes | None = None) -> None:
        """Send a message, or have it sent as soon as no data set is under way."""
        pdus = writer.command_pdus(context_id, command, self._maximum_length)
        if data_set is not None:
            pdus += writer.data_set_pdus(context_id, data_set, self._maximum_length)
        if self._busy:
            self._waiting.append(pdus)
        elif self._lost is None:
            self._write(pdus)

    async def send_from(self, context_id: int, command: bytes, source: DataSetSource) -> int:
        """Send a message whose data set is read as the peer takes it; the length of the data set in bytes.

        Raises `AssociationLost`, and what `source` does: the message is then cut off, and only an abort can
        follow.
        """
        while self._busy:
            turn: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(turn)
            await turn
        self._busy = True
        try:
            return await self._send_from(context_id, command, source)
        finally:
            self._busy = False
            while self._waiting and not self._busy:
                following = self._waiting.popleft()
                if isinstance(following, Deferred):
                    following.callback(None)
                elif self._lost is None:
                    self._write(following)

    async def _send_from(self, context_id: int, command: bytes, source: DataSetSource) -> int:
        step = writer.fragment_length(self._maximum_length)
        length = max(1, BLOCK // step) * step
        pdus = writer.command_pdus(context_id, command, self._maximum_length)
        size, last = 0, False
        block = await self._disk.read(source, length)
        while not last:
            # What is shorter than was asked for is the end; a full block may be, so one more is read ahead.
            following = await self._disk.read(source, length) if len(block) == length else b""
            last = not following
            if self._lost is not None:
                raise self._lost
            self._write(pdus + writer.data_set_pdus(context_id, block, self._maximum_length, last=last))
            size += len(block)
            pdus, block = b"", following
            await self.ready()
        return size

    def close(self, why: str) -> None:
        """Send nothing more: the association is over."""
        self._lost = AssociationLost(why)
        self.taken(True)

    # -- whether the peer takes what we send

    def taken(self, taken: bool) -> None:
        """The peer takes what is sent, or (False) too much of it waits."""
        if not taken:
            self._untaken = self._untaken or []
        elif self._untaken is not None:
            waiting, self._untaken = self._untaken, None
            for one in waiting:
                one.callback(None)

    def ready(self) -> Deferred[None]:
        """Fires when the peer takes what we send."""
        if self._untaken is None or self._lost is not None:
            return succeed(None)
        ready: Deferred[None] = Deferred(self._untaken.remove)
        self._untaken.append(ready)
        return ready
