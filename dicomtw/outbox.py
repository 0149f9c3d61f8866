"""Messages out of one association, one after the other: fragments of two are never mixed (PS3.8 Annex E)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed

from dicomtw.dimse import writer
from dicomtw.errors import AssociationLost
from dicomtw.feed import Disk
from dicomtw.services import DataSetSource

#: Data sets are read and written in parts of about this length, in bytes: most objects are one. A part is
#: one system call, for the headers of PDUs and what is between them (benchmarks/retrieve.py).
BLOCK = 1 << 20
#: Messages that wait may be so long together, in bytes, before no further ones should come.
ROOM = 1 << 18


class Outbox:
    """What one association sends: small messages at once, data sets from files as the peer takes them.

    `write` sends encoded P-DATA-TF PDUs, of `maximum_length` at most, be they in one piece or in many.
    """

    def __init__(
        self, write: Callable[[bytes | list[bytes | memoryview]], None], maximum_length: int, disk: Disk
    ) -> None:
        self._write = write
        self._maximum_length = maximum_length
        self._disk = disk
        #: A data set is under way; after it, what waits follows: encoded messages, and turns to send another.
        self.busy = False
        self._waiting: deque[bytes | Deferred[None]] = deque()
        #: The length of the messages among these, in bytes.
        self._size = 0
        self._handing_on = False
        self._taken = True
        #: Who waits until more can be sent: the data set that is under way, and those with a message.
        self._stalled: Deferred[None] | None = None
        self._unready: deque[Deferred[None]] = deque()
        self._lost: AssociationLost | None = None
        self._mid_message = False

    @property
    def cut_off(self) -> bool:
        """Whether a message was begun that will not be sent to its end: only an abort can follow."""
        return self._mid_message and not self.busy

    def send(
        self, context_id: int, command: bytes, data_set: bytes | None = None, more: Sequence[bytes] = ()
    ) -> None:
        """Send a message, or have it sent as soon as no data set is under way; and as many with the same
        command as there are `more` data sets.
        """
        pdus = command_pdus = writer.command_pdus(context_id, command, self._maximum_length)
        if data_set is not None:
            pdus += writer.data_set_pdus(context_id, data_set, self._maximum_length)
        if more:
            parts = [pdus]
            for each in more:
                parts += (command_pdus, writer.data_set_pdus(context_id, each, self._maximum_length))
            pdus = b"".join(parts)
        if self._lost is not None:
            return
        if self.busy:
            self._waiting.append(pdus)
            self._size += len(pdus)
        else:
            self._write(pdus)

    async def send_from(self, context_id: int, command: bytes, source: DataSetSource) -> int:
        """Send a message whose data set is read as the peer takes it; the length of the data set in bytes.

        Raises `AssociationLost`, and what `source` does: either nothing is sent then, or it is `cut_off`.
        """
        while self.busy and self._lost is None:
            turn: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(turn)
            await turn
        if self._lost is not None:
            raise self._lost
        self.busy = True
        try:
            return await self._send_from(context_id, command, source)
        finally:
            self.busy = False
            self._hand_on()

    def _hand_on(self) -> None:
        """Send what waits, up to the next data set that takes its time."""
        if self._handing_on:
            return  # called by one that was sent at once: the loop below goes on
        self._handing_on = True
        while self._waiting and not self.busy and not self._mid_message:
            following = self._waiting.popleft()
            if isinstance(following, Deferred):
                following.callback(None)
            else:
                self._size -= len(following)
                self._write(following)
        self._handing_on = False
        self._go_on()

    async def _send_from(self, context_id: int, command: bytes, source: DataSetSource) -> int:
        step = writer.fragment_length(self._maximum_length)
        length = max(1, BLOCK // step) * step
        begun: list[bytes | memoryview] = [writer.command_pdus(context_id, command, self._maximum_length)]
        size, last = 0, False
        block = await self._read(source, length)
        while not last:
            # A full block may be the last, so one more is read ahead.
            following = await self._read(source, length) if len(block) == length else b""
            last = not following
            if not self._taken and self._lost is None:
                self._stalled = Deferred(self._not_stalled)
                await self._stalled
            if self._lost is not None:
                raise self._lost
            parts = writer.data_set_parts(context_id, block, self._maximum_length, last=last)
            self._write([*begun, *parts])
            self._mid_message = not last
            size += len(block)
            begun, block = [], following
        return size

    async def _read(self, source: DataSetSource, length: int) -> bytes | memoryview:
        """The next `length` bytes; less only at the end."""
        block = await self._disk.read(source, length)
        while 0 < len(block) < length:
            more = await self._disk.read(source, length - len(block))
            if not more:
                break
            block = b"".join((block, more))
        return block

    def _not_stalled(self, _: object) -> None:
        self._stalled = None

    def close(self, why: str) -> None:
        """Send nothing more: the association is over."""
        lost = self._lost = AssociationLost(why)
        self._size = 0
        while self._waiting:
            one = self._waiting.popleft()
            if isinstance(one, Deferred):
                one.errback(lost)
        self.taken(True)

    # -- whether the peer takes what we send

    def taken(self, taken: bool) -> None:
        """The peer takes what is sent, or (False) too much of it waits."""
        self._taken = taken
        stalled = self._stalled
        if taken and stalled is not None:
            self._stalled = None
            stalled.callback(None)
        self._go_on()

    def ready(self) -> Deferred[None]:
        """Fires when a further message can be sent: the peer takes them, and not too many wait already."""
        if self._has_room():
            return succeed(None)
        ready: Deferred[None] = Deferred(self._unready.remove)
        self._unready.append(ready)
        return ready

    def _has_room(self) -> bool:
        return self._lost is not None or (self._taken and self._size <= ROOM)

    def _go_on(self) -> None:
        while self._unready and self._has_room():
            self._unready.popleft().callback(None)
