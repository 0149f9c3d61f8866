"""Messages out: never mixed, as fast as the peer takes them, cut off where nothing else is left to do."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import feed, outbox, uids
from dicomtw.dimse import writer
from dicomtw.dimse.messages import C_ECHO_RQ, C_STORE_RQ, Command
from dicomtw.dimse.reader import MessageReader
from dicomtw.errors import AssociationLost, ProtocolError
from dicomtw.feed import Disk
from dicomtw.outbox import Outbox
from dicomtw.testing import at_once
from dicomtw.ul.framer import Framer
from dicomtw.ul.pdu import ReceivedPDU
from tests.test_feed import Threads

#: Blocks of the tests, in bytes: shorter than ours.
BLOCK = 1 << 14


def store(message_id: int = 1) -> bytes:
    """An encoded C-STORE-RQ."""
    return C_STORE_RQ(
        message_id=message_id, priority=0, affected_sop_class_uid="1.2", affected_sop_instance_uid="1.2.3"
    ).encode()


def echo(message_id: int) -> bytes:
    """An encoded C-ECHO-RQ."""
    return C_ECHO_RQ(message_id=message_id, affected_sop_class_uid=uids.VERIFICATION).encode()


class Receiver:
    """The peer: puts the messages together, and fails at once where fragments are mixed."""

    def __init__(self, maximum_length: int) -> None:
        self._framer = Framer(self, maximum_length)
        self._reader = MessageReader({1, 3}, self)
        #: Message ID and data set of each complete message.
        self.messages: list[tuple[int | None, bytes]] = []
        self.writes: list[int] = []
        self._command: Command
        self._data_set = bytearray()

    def write(self, data: bytes | list[bytes | memoryview]) -> None:
        whole = data if isinstance(data, bytes) else b"".join(data)
        self.writes.append(len(whole))
        self._framer.receive(whole)

    @property
    def odd_lengths(self) -> bool:
        return self._framer.odd_lengths

    @property
    def mid_message(self) -> bool:
        return self._reader.mid_message

    def pdu_received(self, pdu: ReceivedPDU) -> None:
        raise AssertionError(pdu)

    def p_data_received(self) -> bool:
        return True

    def invalid_pdu_received(self, fault: ProtocolError) -> None:
        raise AssertionError(fault)

    def fragment_received(self, context_id: int, header: int, data: memoryview, complete: bool) -> None:
        self._reader.fragment_received(context_id, header, data, complete)

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        self._reader.fragments_received(context_id, fragments)

    def command_received(self, context_id: int, command: Command) -> None:
        self._command = command
        self._data_set.clear()

    def data_received(self, fragments: list[memoryview]) -> None:
        self._data_set += b"".join(fragments)

    def message_ended(self) -> None:
        self.messages.append((self._command.message_id, bytes(self._data_set)))


class Source(io.BytesIO):
    """A data set that remembers how far it was read, and raises what it is told to at the end."""

    def __init__(self, data: bytes, fault: Exception | None = None, most: int | None = None) -> None:
        super().__init__(data)
        self.fault = fault
        self._most = most

    def read(self, length: int | None = -1, /) -> bytes:
        assert length is not None and length > 0, "nothing is asked for"
        data = super().read(length if self._most is None else min(length, self._most))
        if not data and self.fault is not None:
            raise self.fault
        return data


class OutboxTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.assertEqual(outbox.BLOCK, 1 << 20)
        self.begin()

    def begin(self, maximum_length: int = 4096, disk: Disk | None = None, block: int = BLOCK) -> None:
        """An outbox to a peer that receives PDUs of that length, with blocks of that length."""
        self.patch(outbox, "BLOCK", block)
        self.patch(outbox, "ROOM", block)
        self.peer = Receiver(maximum_length)
        self.outbox = Outbox(self.peer.write, maximum_length, disk or Disk(at_once))
        self.maximum_length = maximum_length

    @property
    def block(self) -> int:
        """The length of a data set that is exactly one block."""
        step = writer.fragment_length(self.maximum_length)
        return max(1, outbox.BLOCK // step) * step

    def send(self, source: Source, message_id: int = 1) -> Deferred[int]:
        return Deferred.fromCoroutine(self.outbox.send_from(1, store(message_id), source))


class SendTests(OutboxTestCase):
    def test_small(self) -> None:
        """A small message is one write, with its data set if it has one."""
        self.outbox.send(1, echo(1))
        self.outbox.send(1, store(2), b"data")
        self.outbox.send(1, store(3), b"")
        self.assertEqual(self.peer.messages, [(1, b""), (2, b"data"), (3, b"")])
        self.assertEqual(len(self.peer.writes), 3)

    def test_sizes(self) -> None:
        """Data sets of odd sizes arrive as they are, whatever PDUs the peer receives, in no part too many."""
        for maximum_length in (0, 8, 16, 4096, 16384, 1 << 18, 1 << 20):
            self.begin(maximum_length, block=BLOCK if maximum_length in (8, 16) else 1 << 18)
            for extra in (-2, 0, 2, self.block):
                data = bytes(range(256)) * (2 * self.block // 256 + 1)
                data = data[: self.block + extra]
                self.assertEqual(self.successResultOf(self.send(Source(data))), len(data))
                self.assertEqual(self.peer.messages.pop(), (1, data), (maximum_length, extra))
                self.assertEqual(len(self.peer.writes), 1 + (extra > 0), (maximum_length, extra))
                self.peer.writes.clear()
            self.assertEqual(self.successResultOf(self.send(Source(b""))), 0)
            self.assertEqual(self.peer.messages, [(1, b"")], maximum_length)
            self.assertFalse(self.peer.odd_lengths, maximum_length)

    def test_short_reads(self) -> None:
        """A source may return less than it is asked for: that is not its end."""
        data = bytes(range(256)) * (BLOCK // 256 + 7)
        for most in (1000, 4099, BLOCK - 340, BLOCK):
            self.assertEqual(self.successResultOf(self.send(Source(data, most=most))), len(data))
            self.assertEqual(self.peer.messages.pop(), (1, data), most)
        self.assertFalse(self.peer.odd_lengths)

    @given(
        st.binary(max_size=50),
        st.integers(1, 20),
        st.integers(8, 60),
        st.integers(1, 60),
    )
    def test_any(self, data: bytes, most: int, maximum_length: int, block: int) -> None:
        """Whatever its length, its reads, the peer's PDUs and our blocks, a data set arrives as it is."""
        data += b"\0" * (len(data) % 2)
        self.begin(maximum_length, block=block)
        self.assertEqual(self.successResultOf(self.send(Source(data, most=most))), len(data))
        self.assertEqual(self.peer.messages, [(1, data)])
        self.assertFalse(self.peer.odd_lengths)


class BackPressureTests(OutboxTestCase):
    def test_peer_that_does_not_take(self) -> None:
        """A data set is read as the peer takes it: at most two blocks of it are in memory."""
        data = bytes(5 * self.block)
        source = Source(data)
        sent = self.send(source)
        self.assertEqual(self.successResultOf(sent), len(data))
        self.peer.messages.clear()
        source = Source(data)
        self.outbox.taken(False)
        sent = self.send(source)
        for blocks in range(5):
            self.assertNoResult(sent)
            self.assertEqual(len(self.peer.writes) - 5, blocks)
            self.assertLessEqual(source.tell(), (blocks + 2) * self.block)
            # It takes one block; then too much waits again.
            self.patch(self.outbox, "_write", self.take_one)
            self.outbox.taken(True)
        self.assertEqual(self.successResultOf(sent), len(data))
        self.assertEqual(self.peer.messages, [(1, data)])

    def take_one(self, data: bytes) -> None:
        self.peer.write(data)
        self.outbox.taken(False)

    def test_messages_behind_a_data_set(self) -> None:
        """Whoever has many messages waits while many of them wait behind a data set already."""
        self.outbox.taken(False)
        sent = self.send(Source(bytes(3 * self.block)))
        self.assertNoResult(sent)
        self.outbox._taken = True  # it takes small messages, and the data set has its own reasons
        count = 0
        while (ready := self.outbox.ready()).called:
            self.outbox.send(1, store(2), bytes(1000))
            count += 1
        self.assertLess(count * 1000, 2 * self.block)
        self.outbox.taken(True)
        self.assertEqual(self.successResultOf(sent), 3 * self.block)
        self.successResultOf(ready)
        self.assertEqual(len(self.peer.messages), count + 1)

    def test_waiting_cancelled_by_another(self) -> None:
        """At the end all who wait are told, also if one of them cancels another."""
        self.outbox.taken(False)
        first = self.send(Source(bytes(3 * self.block)), 1)
        others = [self.send(Source(b"12"), number) for number in (2, 3, 4)]
        ready = [self.outbox.ready() for _ in range(3)]
        others[0].addErrback(lambda _: others[1].cancel())
        ready[0].addCallback(lambda _: ready[1].cancel())
        self.outbox.close("the peer is gone")
        self.failureResultOf(first, AssociationLost)
        self.assertIsNone(self.successResultOf(others[0]))
        self.failureResultOf(others[2], AssociationLost)
        self.successResultOf(ready[2])
        for cancelled in (others[1], ready[1]):
            cancelled.addErrback(lambda failure: failure.trap(CancelledError, AssociationLost))

    def test_messages_follow(self) -> None:
        """What is sent while a data set is under way follows it, in order, and is not mixed with it."""
        data = bytes(3 * self.block)
        self.outbox.taken(False)
        first = self.send(Source(data))
        self.outbox.send(3, echo(2))
        second = self.send(Source(b"second"), 3)
        self.outbox.send(3, echo(4))
        third = self.send(Source(b"third"), 5)
        self.assertEqual(self.peer.messages, [])
        self.outbox.taken(True)
        for sent in (first, second, third):
            self.successResultOf(sent)
        self.assertEqual(self.peer.messages, [(1, data), (2, b""), (3, b"second"), (4, b""), (5, b"third")])

    def test_again(self) -> None:
        """What waits behind another data set, later, follows that as well."""
        for number in (0, 2, 4):
            self.outbox.taken(False)
            sent = self.send(Source(b"data"), number)
            self.outbox.send(3, echo(number + 1))
            self.outbox.taken(True)
            self.successResultOf(sent)
        self.assertEqual([number for number, _ in self.peer.messages], list(range(6)))

    def test_hundreds_wait(self) -> None:
        """Hundreds of data sets that wait behind one that is slow are sent in order, and need no stack."""
        self.outbox.taken(False)
        sent = [self.send(Source(b"data"), number) for number in range(1000)]
        self.outbox.taken(True)
        for one in sent:
            self.assertEqual(self.successResultOf(one), 4)
        self.assertEqual([number for number, _ in self.peer.messages], list(range(1000)))

    def test_ready(self) -> None:
        """Who waits for the peer goes on when it takes more, and may stop waiting."""
        self.successResultOf(self.outbox.ready())
        self.outbox.taken(False)
        first, second, third = (self.outbox.ready() for _ in range(3))
        self.outbox.taken(False)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertNoResult(first)
        self.outbox.taken(True)
        for one in (first, third, self.outbox.ready()):
            self.successResultOf(one)
        self.outbox.taken(True)

    def test_lagging_disk(self) -> None:
        """Off a disk that lags it is read in threads, with one call at a time, and messages wait as well."""
        now = [100.0]
        self.patch(feed, "time", SimpleNamespace(monotonic=lambda: now[0]))
        threads = Threads()
        disk = Disk(threads)
        disk.call(lambda: now.__setitem__(0, 101.0))
        self.begin(disk=disk)
        data = bytes(2 * self.block + 10)
        sent = self.send(Source(data))
        self.outbox.send(1, echo(2))
        calls = 0
        while threads.waiting:
            self.assertNoResult(sent)
            self.assertEqual(len(threads.waiting), 1)
            threads.run()
            calls += 1
        self.assertEqual(self.successResultOf(sent), len(data))
        self.assertEqual(self.peer.messages, [(1, data), (2, b"")])
        self.assertLessEqual(calls, 5)


class FaultTests(OutboxTestCase):
    """Read errors, cancellation, and associations that are lost."""

    def test_nothing_read(self) -> None:
        """A source that fails at once has sent nothing: the association is as good as before."""
        for data in (b"", b"data", bytes(self.block)):
            failed = self.send(Source(data, OSError("Input/output error")))
            self.failureResultOf(failed, OSError)
            self.assertEqual((self.peer.writes, self.outbox.cut_off), ([], False))
        self.successResultOf(self.send(Source(b"data"), 2))
        self.assertEqual(self.peer.messages, [(2, b"data")])

    def test_cut_off(self) -> None:
        """One that fails in mid data set leaves half a message, behind which nothing is sent."""
        self.outbox.taken(False)
        failed = self.send(Source(bytes(2 * self.block), OSError("Input/output error")))
        self.outbox.send(1, echo(2))
        waiting = self.send(Source(b"data"), 3)
        self.assertFalse(self.outbox.cut_off, "it is under way")
        self.outbox.taken(True)
        self.failureResultOf(failed, OSError)
        self.assertTrue(self.outbox.cut_off)
        self.assertTrue(self.peer.mid_message)
        self.assertNoResult(waiting)
        self.outbox.close("aborted")
        self.assertEqual(self.failureResultOf(waiting, AssociationLost).getErrorMessage(), "aborted")
        self.assertEqual((len(self.peer.writes), self.peer.messages), (1, []))

    def cancelled(self, blocks: int) -> Deferred[int]:
        """A data set that is cancelled when so many of its three blocks are written."""
        written: list[int] = []

        def write(data: bytes) -> None:
            self.peer.write(data)
            written.append(len(data))
            self.outbox.taken(len(written) < blocks)

        self.patch(self.outbox, "_write", write)
        if not blocks:
            self.outbox.taken(False)
        sent = self.send(Source(bytes(3 * self.block)))
        sent.cancel()
        return sent

    def test_cancelled(self) -> None:
        """Cancelled before its first block nothing is sent; between two it is cut off; then it is sent."""
        for blocks, cut_off in ((0, False), (1, True), (2, True)):
            self.begin()
            self.failureResultOf(self.cancelled(blocks), CancelledError)
            self.assertEqual(self.outbox.cut_off, cut_off, blocks)
            self.assertEqual(self.peer.mid_message, cut_off, blocks)
        self.begin()
        self.successResultOf(self.cancelled(3))

    def test_cancelled_in_its_turn(self) -> None:
        """One that is cancelled while it waits for its turn has sent nothing, and loses its turn."""
        self.outbox.taken(False)
        first, second, third = (self.send(Source(b"data"), number) for number in (1, 2, 3))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertFalse(self.outbox.cut_off)
        self.outbox.taken(True)
        self.successResultOf(first)
        self.successResultOf(third)
        self.assertEqual([number for number, _ in self.peer.messages], [1, 3])

    def test_lost(self) -> None:
        """Whoever sends or waits hears that the association is lost, and nothing more is written."""
        self.outbox.taken(False)
        sent, waiting, ready = self.send(Source(b"one")), self.send(Source(b"two"), 2), self.outbox.ready()
        self.outbox.send(1, echo(3))
        self.outbox.close("connection closed by the peer")
        for one in (sent, waiting):
            failure = self.failureResultOf(one, AssociationLost)
            self.assertEqual(failure.getErrorMessage(), "connection closed by the peer")
        self.successResultOf(ready)
        self.outbox.taken(False)
        self.successResultOf(self.outbox.ready())
        self.outbox.send(1, echo(4))
        source = Source(b"late")
        self.failureResultOf(self.send(source), AssociationLost)
        self.assertEqual((source.tell(), self.peer.writes), (0, []))

    def test_lost_in_mid_data_set(self) -> None:
        """So it is in mid data set: what was read ahead is not written."""
        written: list[Any] = []

        def write(data: bytes) -> None:
            written.append(data)
            self.outbox.close("aborted by the peer")

        self.patch(self.outbox, "_write", write)
        self.failureResultOf(self.send(Source(bytes(3 * self.block))), AssociationLost)
        self.assertEqual(len(written), 1)

    def test_lost_while_the_disk_hangs(self) -> None:
        """Those behind one whose disk hangs do not wait for that."""
        threads = Threads()
        disk = Disk(threads)
        self.patch(Disk, "lags", True)
        self.begin(disk=disk)
        hanging, waiting = self.send(Source(b"one")), self.send(Source(b"two"), 2)
        self.outbox.close("aborted by the peer")
        self.failureResultOf(waiting, AssociationLost)
        self.failureResultOf(self.send(Source(b"three"), 3), AssociationLost)
        self.assertNoResult(hanging)
        while threads.waiting:
            threads.run()
        self.failureResultOf(hanging, AssociationLost)
        self.assertEqual(self.peer.writes, [])
