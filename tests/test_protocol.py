"""The Twisted protocol around an association: its timers, its pausing, its writes and its end."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomtw.association import Hold
from dicomtw.limits import Limits
from dicomtw.security.access import AccessPolicy
from dicomtw.security.remote import Remote
from dicomtw.server import DicomProtocol
from dicomtw.services.verification import Verification
from dicomtw.testing import MemoryServer, MemoryStore, Peer, associate_rq, message
from dicomtw.ul.pdu import (
    A_ABORT,
    A_ASSOCIATE_RJ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    P_DATA_TF,
    PDU,
    PresentationDataValue,
)
from tests.test_association import CONTEXTS, Held, c_echo_rq, c_store_rq

LIMITS = Limits(artim_timeout=30, dimse_timeout=60, idle_timeout=600)


class WireTransport(StringTransport):
    """A transport as sockets are: what is closed is lost later, when the test says so."""

    def __init__(self, peer: Any = None) -> None:
        super().__init__(peerAddress=peer or IPv4Address("TCP", "192.0.2.1", 50000))
        self.protocol: DicomProtocol
        self.writes: list[bytes] = []
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def loseConnection(self) -> None:
        self.calls.append("lose")
        super().loseConnection()

    def abortConnection(self) -> None:
        self.calls.append("abort")
        self.disconnected = True

    def pauseProducing(self) -> None:
        self.calls.append("pause")
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        super().resumeProducing()


class ProtocolTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.held = Held(self.store)
        self.server = MemoryServer.of(Verification(), self.held, limits=LIMITS)
        self.clock = self.server.clock

    def associated(self) -> Peer:
        peer = self.server.connect()
        peer.associate(CONTEXTS)
        return peer

    def wire(self, *pdus: PDU | bytes, transport: WireTransport | None = None) -> WireTransport:
        """A connection whose transport is lost only when the test says so; what is sent on it at once."""
        transport = WireTransport() if transport is None else transport
        transport.protocol = self.server.factory.buildProtocol(None)
        transport.protocol.makeConnection(transport)
        for pdu in pdus:
            transport.protocol.dataReceived(pdu if isinstance(pdu, bytes) else pdu.encode())
        return transport

    def lose(self, transport: WireTransport, why: type[Exception] = ConnectionDone) -> str:
        """The connection is lost; the log line that it leaves."""
        with capturedLogs() as events:
            transport.protocol.connectionLost(Failure(why()))
        (line,) = [event["summary"] for event in events if "association" in event]
        assert isinstance(line, str)
        return line

    def assert_aborts_after(self, seconds: float, peer: Peer, why: str) -> None:
        """The peer is aborted when that time is over, not before."""
        self.clock.advance(seconds - 0.5)
        self.assertEqual(peer.received(), [], why)
        self.clock.advance(0.5)
        self.assertEqual(peer.received(), [A_ABORT(0)], why)
        self.assertIn(why, peer.protocol.association.ended)
        self.clock.advance(LIMITS.artim_timeout)
        self.assertFalse(peer.connected, why)
        self.assertEqual(self.clock.getDelayedCalls(), [], why)


class TimerTests(ProtocolTestCase):
    def test_idle(self) -> None:
        """Between messages a peer may be silent for the idle timeout; each message begins it anew."""
        peer = self.associated()
        self.clock.advance(599)
        peer.request(1, c_echo_rq())
        self.assert_aborts_after(600, peer, "idle timeout")

    def test_idle_shorter_than_dimse(self) -> None:
        """An idle timeout shorter than the DIMSE timeout holds as well."""
        self.server.factory.limits = Limits(dimse_timeout=60, idle_timeout=10)
        peer = self.associated()
        self.clock.advance(9)
        peer.request(1, c_echo_rq())
        self.assert_aborts_after(10, peer, "idle timeout")

    def test_dimse(self) -> None:
        """Inside a PDU, a command or a data set a peer may be silent for the DIMSE timeout."""
        store = message(3, c_store_rq(), bytes(50_000))
        fragment = P_DATA_TF((PresentationDataValue(1, 1, c_echo_rq().encode()[:20]),)).encode()
        for case, begun in {
            "header": store[0][:4],
            "PDU": store[0][:40],
            "command in two fragments": fragment,
            "command without data set": store[0],
            "data set": b"".join(store[:3]),
            "fragment": b"".join(store[:3])[:-10],
            "A-RELEASE-RQ": A_RELEASE_RQ().encode()[:7],
        }.items():
            self.setUp()
            peer = self.associated()
            self.clock.advance(100)
            peer.send(begun)
            self.assert_aborts_after(60, peer, "nothing more came of a message")
            self.assertEqual(self.store.objects, {}, case)

    def test_dimse_begins_anew(self) -> None:
        """Each KiB of a message begins the DIMSE timeout anew: a slow sender is no silent one."""
        peer = self.associated()
        first, *rest = message(3, c_store_rq(), bytes(40_000))
        peer.send(first)
        for pdu in rest:
            self.clock.advance(59)
            peer.send(pdu)
        self.held.let(1)
        (response,) = peer.received()
        self.assertEqual(getattr(response, "status", None), 0)

    def test_our_turn(self) -> None:
        """While an operation runs the peer waits for us, however long that takes, and is idle from then."""
        peer = self.associated()
        peer.send(*message(3, c_store_rq(), b"data"))
        for _ in range(30):
            self.clock.advance(100)
        self.assertEqual(peer.received(), [])
        self.held.let(1)
        self.assertEqual(len(peer.received()), 1)
        self.assert_aborts_after(600, peer, "idle timeout")

    def test_our_turn_with_a_message_half_sent(self) -> None:
        """Nor is a peer aborted whose next message is half sent while we keep it waiting."""
        peer = self.associated()
        peer.send(*message(3, c_store_rq(), b"data"), *message(3, c_store_rq(2), bytes(50_000))[:2])
        for _ in range(10):
            self.clock.advance(100)
        self.held.let(1)
        self.assertEqual(len(peer.received()), 1)
        self.assert_aborts_after(60, peer, "nothing more came of a message")

    def test_disk_is_our_turn(self) -> None:
        """A peer that is paused because the disk lags is not silent."""
        peer = self.associated()
        peer.send(*message(3, c_store_rq(), bytes(50_000))[:2])
        peer.protocol.hold(Hold.DISK, True)
        for _ in range(10):
            self.clock.advance(100)
        self.assertEqual(peer.received(), [])
        peer.protocol.hold(Hold.DISK, False)
        self.assert_aborts_after(60, peer, "nothing more came of a message")

    def test_nothing_after_the_end(self) -> None:
        """Whoever has been released is given ARTIM to close, however short the other times are."""
        self.server.factory.limits = Limits(artim_timeout=30, dimse_timeout=2, idle_timeout=5)
        peer = self.associated()
        peer.send(A_RELEASE_RQ())
        self.assertEqual(peer.received(), [A_RELEASE_RP()])
        self.clock.pump([1] * 29)
        self.assertTrue(peer.connected)
        self.assertEqual(peer.received(), [])
        self.clock.advance(1)
        self.assertFalse(peer.connected)

    def test_one_timer(self) -> None:
        """PDUs set no timers: an association has one, whatever comes in."""
        peer = self.associated()
        for number in range(100):
            peer.request(1, c_echo_rq(number))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class SlowPeerTests(ProtocolTestCase):
    """Peers that do something all the time and come to no end: each DIMSE timeout has to bring progress."""

    def dribble(self, peer: Peer, chunks: list[bytes], each: float) -> None:
        """Send chunks, one every so many seconds; none of them is answered."""
        for chunk in chunks:
            self.assertEqual(peer.received(), [])
            peer.send(chunk)
            self.clock.advance(each)

    def test_byte_by_byte(self) -> None:
        """A header, a command or a data set of which a byte comes now and then ends at the DIMSE timeout."""
        store = message(3, c_store_rq(), bytes(50_000))
        for case, begun, rest in (
            ("header", b"", store[0][:5]),
            ("command", store[0][:20], store[0][20:30]),
            ("fragment", b"".join(store[:2])[:-10_000], bytes(10)),
            ("A-RELEASE-RQ", b"", A_RELEASE_RQ().encode()[:9]),
        ):
            self.setUp()
            peer = self.associated()
            peer.send(begun + rest[:1])
            self.clock.advance(1)
            self.dribble(peer, [bytes((byte,)) for byte in rest[1:]], 59 / len(rest))
            self.clock.advance(60)
            self.assertEqual(peer.received(), [A_ABORT(0)], case)
            self.assertEqual(self.store.objects, {}, case)

    def test_at_the_rate(self) -> None:
        """Who brings 1 KiB of a data set in each DIMSE timeout is waited for; a byte less is too slow."""
        for size, is_enough in ((1024, True), (1023, False)):
            self.setUp()
            peer = self.associated()
            command, data = message(3, c_store_rq(), bytes(10 * 1024), maximum_length=1 << 20)
            peer.send(command, data[:12])
            for number in range(9):
                self.clock.advance(59.9)
                peer.send(data[12 + number * size : 12 + (number + 1) * size])
            self.assertEqual(peer.received(), [] if is_enough else [A_ABORT(0)], size)

    def test_empty_fragments(self) -> None:
        """P-DATA-TF with nothing in them are no progress, however many come."""
        for context_id, header in ((3, 0), (3, 1)):
            self.setUp()
            peer = self.associated()
            command, *_ = message(3, c_store_rq(), bytes(50_000))
            if not header:
                peer.send(command)
            empty = P_DATA_TF((PresentationDataValue(context_id, header, b""),)).encode()
            for _ in range(59):
                peer.send(empty * 100)
                self.clock.advance(1)
            self.assertEqual(peer.received(), [])
            peer.send(empty)
            self.clock.advance(1)
            self.assertEqual(peer.received(), [A_ABORT(0)], header)
            self.assertIn("nothing more came of a message", peer.protocol.association.ended)

    def test_many_small_messages(self) -> None:
        """Whoever completes messages is no slow peer, though each chunk ends inside the next one."""
        peer = self.associated()
        echo = b"".join(message(1, c_echo_rq()))
        peer.send(echo[:10])
        for _ in range(10):
            self.clock.advance(59)
            peer.send(echo[10:] + echo[:10])
            self.assertEqual(len(peer.received()), 1)

    def test_long_data_set(self) -> None:
        """A data set is taken in up to the limit, also where it is refused; past it the peer is aborted."""
        for length, ended in ((1000, False), (1001, True)):
            for context_id in (3, 1):
                self.setUp()
                self.server.factory.limits = attrs.evolve(LIMITS, max_data_set=1000)
                peer = self.associated()
                peer.send(*message(context_id, c_store_rq(), bytes(length)))
                for message_id in list(self.held.held):
                    self.held.let(message_id)
                (answer,) = peer.received()
                self.assertEqual(answer == A_ABORT(2, 0), ended, (length, context_id))
                self.assertEqual(bool(self.store.objects), not ended and context_id == 3)

    def test_many_data_sets(self) -> None:
        """The limit is that of one data set: an association may bring any number that are shorter."""
        self.server.factory.limits = attrs.evolve(LIMITS, max_data_set=1000)
        peer = self.associated()
        for number in range(1, 4):
            peer.send(*message(3, c_store_rq(number), bytes(600)))
            self.held.let(number)
            (answer,) = peer.received()
            self.assertEqual(getattr(answer, "status", None), 0, number)


class UnreadAnswersTests(ProtocolTestCase):
    """A peer that does not read what we answer."""

    def test_pause(self) -> None:
        """When our answers pile up no further request is performed, and with four waiting none is read."""
        peer = self.associated()
        self.assertIs(peer.transport.producer, peer.protocol)
        self.assertTrue(peer.transport.streaming)
        peer.protocol.pauseProducing()
        for number in range(1, 5):
            self.assertEqual(peer.transport.producerState, "producing", number)
            peer.send(*message(1, c_echo_rq(number)))
        self.assertEqual(peer.transport.producerState, "paused")
        self.assertEqual(peer.received(), [])
        peer.protocol.resumeProducing()
        self.assertEqual(peer.transport.producerState, "producing")
        self.assertEqual(len(peer.received()), 4)

    def test_release_waits(self) -> None:
        """A release behind requests that are not performed yet is answered after them."""
        peer = self.associated()
        peer.protocol.pauseProducing()
        peer.send(*message(1, c_echo_rq()), A_RELEASE_RQ())
        self.assertEqual(peer.received(), [])
        peer.protocol.resumeProducing()
        response, released = peer.received()
        self.assertEqual((getattr(response, "status", None), released), (0, A_RELEASE_RP()))

    def test_timeout_in_spite_of_requests(self) -> None:
        """Who sends without end and reads nothing is aborted all the same."""
        peer = self.associated()
        peer.send(message(3, c_store_rq(), bytes(50_000))[0])
        peer.protocol.pauseProducing()
        data = b"".join(message(3, c_store_rq(), bytes(1_000_000), maximum_length=18)[1:])
        for second in range(59):
            self.clock.advance(1)
            peer.send(data[second * 100 : (second + 1) * 100])
        self.assertEqual(peer.received(), [])
        self.assert_aborts_after(1, peer, "the peer does not read our answers")

    def test_told_again(self) -> None:
        """It is waited for from when it stopped to read, however often the transport says that it has."""
        peer = self.associated()
        for _ in range(11):
            peer.protocol.pauseProducing()
            self.clock.advance(5)
        self.assert_aborts_after(5, peer, "the peer does not read our answers")

    def test_timeout(self) -> None:
        """After the DIMSE timeout such a peer is aborted, and before it is not."""
        peer = self.associated()
        self.clock.advance(10)
        peer.protocol.pauseProducing()
        self.clock.advance(50)
        peer.protocol.resumeProducing()
        self.clock.advance(50)
        self.assertEqual(peer.received(), [])
        peer.protocol.pauseProducing()
        self.assert_aborts_after(60, peer, "the peer does not read our answers")

    def test_timeout_counts_from_the_first_unread_answer(self) -> None:
        """The time begins when the answers pile up, not when reading was paused for another reason."""
        peer = self.associated()
        peer.protocol.hold(Hold.OPERATIONS, True)
        self.clock.advance(59)
        peer.protocol.pauseProducing()
        self.assert_aborts_after(60, peer, "the peer does not read our answers")

    def test_reasons_to_pause(self) -> None:
        """Reading is paused by the first of several reasons and resumed by the last, once each."""
        transport = self.wire(associate_rq(CONTEXTS))
        protocol = transport.protocol
        protocol.hold(Hold.DISK, False)
        protocol.hold(Hold.DISK, True)
        protocol.hold(Hold.DISK, True)
        protocol.hold(Hold.OPERATIONS, True)
        protocol.hold(Hold.DISK, False)
        self.assertEqual(transport.calls, ["pause"])
        protocol.hold(Hold.OPERATIONS, False)
        self.assertEqual(transport.calls, ["pause", "resume"])

    def test_half_close(self) -> None:
        """Answers that a peer has still to read when it stops sending have the DIMSE timeout, not 2 s."""
        for case, unread, half_closed, grace in (
            ("half closed", True, True, 60),
            ("closed by us", True, False, 2),
            ("all is read", False, True, 2),
        ):
            transport = self.wire(associate_rq(CONTEXTS), b"".join(message(1, c_echo_rq())))
            if unread:
                transport.protocol.pauseProducing()
            if half_closed:
                transport.protocol.readConnectionLost()
            else:
                transport.protocol.close()
            transport.calls.remove("lose")
            self.assertIsNone(transport.producer, case)
            self.clock.advance(grace - 0.5)
            self.assertNotIn("abort", transport.calls, case)
            self.clock.advance(0.5)
            self.assertEqual(transport.calls[-1], "abort", case)
            self.lose(transport)
            self.assertEqual(self.clock.getDelayedCalls(), [], case)

    def test_half_close_while_an_operation_runs(self) -> None:
        """That time begins when the last answer is written, not when the peer stopped sending."""
        transport = self.wire(associate_rq(CONTEXTS), *message(3, c_store_rq(), b"data"))
        transport.protocol.readConnectionLost()
        self.clock.advance(1000)
        self.assertEqual(transport.calls, [])
        transport.protocol.pauseProducing()
        self.held.let(1)
        self.assertEqual(transport.calls, ["lose"])
        self.clock.advance(59.5)
        self.assertEqual(transport.calls, ["lose"])
        self.clock.advance(0.5)
        self.assertEqual(transport.calls, ["lose", "abort"])
        self.lose(transport)

    def test_lost_after_half_close(self) -> None:
        """If the connection is lost altogether meanwhile, nothing is closed when the operation is over."""
        transport = self.wire(associate_rq(CONTEXTS), *message(3, c_store_rq(), b"data"))
        transport.protocol.readConnectionLost()
        self.lose(transport)
        self.held.let(1)
        self.assertEqual(transport.calls, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closing_connections_are_left_alone(self) -> None:
        """A connection that is being closed is neither paused nor resumed, whatever ends meanwhile."""
        transport = self.wire(associate_rq(CONTEXTS))
        transport.protocol.hold(Hold.DISK, True)
        transport.protocol.close()
        transport.protocol.hold(Hold.DISK, False)
        transport.protocol.hold(Hold.OPERATIONS, True)
        self.assertEqual(transport.calls, ["pause", "lose"])
        transport.protocol.stopProducing()
        self.lose(transport)


class WriteTests(ProtocolTestCase):
    """Promise 6: each PDU or response is one write."""

    def test_one_write(self) -> None:
        """Acceptance, response, release and abort are one write each, also if a response is many PDUs."""
        for maximum_length in (16384, 16):
            proposal = associate_rq(CONTEXTS, maximum_length=maximum_length)
            transport = self.wire(proposal)
            self.assertEqual(len(transport.writes), 1)
            transport.protocol.dataReceived(b"".join(message(1, c_echo_rq())))
            self.assertEqual(len(transport.writes), 2)
            transport.protocol.dataReceived(b"".join(message(1, c_echo_rq()) * 3))
            self.assertEqual(len(transport.writes), 5)
            transport.protocol.dataReceived(b"".join(message(3, c_store_rq(), bytes(50_000))))
            self.held.let(1)
            self.assertEqual(len(transport.writes), 6)
            transport.protocol.dataReceived(A_RELEASE_RQ().encode())
            self.assertEqual(transport.writes[6:], [A_RELEASE_RP().encode()])


class ClosingTests(ProtocolTestCase):
    def ends(self) -> dict[str, tuple[WireTransport, str]]:
        """Connections in every state that there is, and what their log lines say at their end."""
        looked_up: Deferred[dict[str, frozenset[str]]] = Deferred()
        named = Remote(aet="SCU", host="ct.example", check_host=True)
        access = AccessPolicy(ae_title="PMOD", remotes=(named,))
        lookup = MemoryServer(attrs.evolve(self.server.factory.entity, access=access))
        lookup.factory.resolve = lambda names: looked_up
        rq = associate_rq(CONTEXTS)
        store = message(3, c_store_rq(), bytes(50_000))
        cases: dict[str, tuple[list[PDU | bytes], str]] = {
            "Sta2": ([], "closed by the peer before any association"),
            "Sta2, half a proposal": ([rq.encode()[:50]], "closed by the peer inside a PDU"),
            "Sta6": ([rq], "connection closed by the peer"),
            "Sta6, half a message": ([rq, *store[:2]], "connection closed by the peer"),
            "Sta6, an operation runs": ([rq, *store], "connection closed by the peer"),
            "Sta8, aborted by the peer": ([rq, *store, A_RELEASE_RQ(), A_ABORT(0)], "aborted by the peer"),
            "Sta8, another request": ([rq, *store, A_RELEASE_RQ(), *store], "P-DATA-TF in Sta8"),
            "Sta8, an operation runs": ([rq, *store, A_RELEASE_RQ()], "connection closed by the peer"),
            "Sta13, rejected": ([associate_rq(CONTEXTS, called="OTHER")], "rejected with RJ(1,1,7)"),
            "Sta13, released": ([rq, A_RELEASE_RQ()], "released"),
            "Sta13, aborted by us": ([b"GET / HTTP/1.1\r\n\r\n"], "HTTP"),
            "Sta13, aborted in an association": ([rq, rq], "A-ASSOCIATE-RQ in Sta6"),
            "Sta1, aborted by the peer": ([rq, A_ABORT(0)], "aborted by the peer"),
            "Sta1, aborted by its provider": ([rq, A_ABORT(2, 1)], "unrecognized-PDU"),
        }
        found = {case: (self.wire(*sent), says) for case, (sent, says) in cases.items()}
        self.server, here = lookup, self.server
        found["Sta3"] = self.wire(rq), "connection closed by the peer"
        self.server, self.lookup = here, lookup
        return found

    def test_nothing_is_left(self) -> None:
        """A connection lost in whichever state leaves no timer, no place in the factory and one line."""
        for why in (ConnectionDone, ConnectionLost):
            self.setUp()
            for case, (transport, says) in self.ends().items():
                factory = transport.protocol._server
                self.assertIn(transport.protocol, factory.connections, case)
                self.assertIn(says, self.lose(transport, why), case)
                self.assertNotIn(transport.protocol, {*factory.connections, *factory.associations}, case)
            for server in (self.server, self.lookup):
                self.assertEqual(server.clock.getDelayedCalls(), [])
                self.assertEqual((server.factory.connections, server.factory.associations), ({}, set()))

    def test_nothing_is_left_of_the_closing(self) -> None:
        """The same, if we are closing the connection already."""
        for case, (transport, _) in self.ends().items():
            transport.protocol.close()
            self.lose(transport)
            self.assertEqual(transport.calls.count("lose"), 1, case)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_grace(self) -> None:
        """After we have closed, the peer has two seconds to take what was sent; then it is cut off."""
        transport = self.wire(associate_rq(CONTEXTS), A_ABORT(0))
        self.assertEqual(transport.calls, ["lose"])
        self.assertIsNone(transport.producer)
        transport.protocol.close()
        self.clock.advance(1.5)
        self.assertEqual(transport.calls, ["lose"])
        self.clock.advance(0.5)
        self.assertEqual(transport.calls, ["lose", "abort"])
        self.lose(transport)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_artim_closes(self) -> None:
        """ARTIM that runs out closes in Sta2 and in Sta13, and the peer is given its grace."""
        for sent in ([], [associate_rq(CONTEXTS, called="OTHER")]):
            transport = self.wire(*sent)
            self.clock.advance(30)
            self.assertEqual(transport.calls, ["lose"])
            self.clock.advance(2)
            self.assertEqual(transport.calls, ["lose", "abort"])
            self.lose(transport)

    def test_bytes_after_the_end(self) -> None:
        """What still comes in after we have closed is not looked at."""
        transport = self.wire(associate_rq(CONTEXTS), A_ABORT(0))
        transport.clear()
        transport.protocol.dataReceived(associate_rq(CONTEXTS).encode())
        self.assertEqual(transport.value(), b"")
        self.lose(transport)

    def test_bug_at_the_end(self) -> None:
        """A sink that fails to let go does not keep the connection in the factory."""
        transport = self.wire(associate_rq(CONTEXTS), *message(3, c_store_rq(), bytes(50_000))[:2])
        operation: Any = transport.protocol.association._receiving
        self.patch(operation.feed.sink, "discard", lambda: 1 / 0)
        self.lose(transport)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.server.factory.connections, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_names_of_peers(self) -> None:
        """The log line begins with where the peer is."""
        for address, name in (
            (IPv4Address("TCP", "192.0.2.9", 104), "192.0.2.9:104"),
            (IPv6Address("TCP", "2001:db8::1", 104), "[2001:db8::1]:104"),
            (UNIXAddress(None), "local socket"),
        ):
            transport = self.wire(associate_rq(CONTEXTS), transport=WireTransport(address))
            self.assertIn(name, self.lose(transport))

    def test_local_peer_is_checked_for_no_host(self) -> None:
        """A peer on a UNIX socket has no address, and is no remote whose host is checked."""
        remote = Remote(aet="SCU", host="192.0.2.1", check_host=True)
        access = AccessPolicy(ae_title="PMOD", remotes=(remote,))
        self.server.factory.entity = attrs.evolve(self.server.factory.entity, access=access)
        transport = self.wire(associate_rq(CONTEXTS), transport=WireTransport(UNIXAddress(None)))
        self.assertEqual(transport.value(), A_ASSOCIATE_RJ(1, 1, 3).encode())
        self.assertIn("not known at this socket", self.lose(transport))


class FakeSocket(socket.socket):
    """A socket without a descriptor, which remembers what options it was given."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, fault: OSError | None = None) -> None:
        self._family = family
        self._fault = fault
        self.options: list[tuple[int, int, int]] = []

    @property
    def family(self) -> socket.AddressFamily:  # type: ignore[override]
        return self._family

    def setsockopt(self, *option: Any) -> None:  # type: ignore[override]
        self.options.append(option)
        if self._fault is not None:
            raise self._fault


class SocketTransport(WireTransport):
    """A transport with a socket."""

    def __init__(self, handle: FakeSocket) -> None:
        super().__init__()
        self.handle = handle
        self.no_delay: list[bool] = []

    def getHandle(self) -> FakeSocket:
        return self.handle

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay.append(enabled)


class WrappedTransport(WireTransport):
    """A transport around another, as those of TLS and the PROXY protocol are."""

    def __init__(self, transport: Any) -> None:
        super().__init__()
        self.transport = transport

    def getHandle(self) -> Any:
        return SimpleNamespace(why="an object of OpenSSL's, not a socket")


class SocketTests(ProtocolTestCase):
    """Promise 6: no stall that a peer cannot see."""

    QUICKACK = (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def test_no_delay(self) -> None:
        """Nagle's algorithm is off from the first, but for UNIX sockets, which have none."""
        for family, expected in ((socket.AF_INET, [True]), (socket.AF_INET6, [True]), (socket.AF_UNIX, [])):
            transport = SocketTransport(FakeSocket(family))
            self.wire(transport=transport)
            self.assertEqual(transport.no_delay, expected, family)
            self.lose(transport)

    def test_quick_acknowledgements(self) -> None:
        """TCP_QUICKACK is set after each read, for it does not stick, but where an answer acknowledges too;
        not before, and not after the end.
        """
        transport = SocketTransport(FakeSocket())
        self.wire(transport=transport)
        self.assertEqual(transport.handle.options, [])
        for whole in (associate_rq(CONTEXTS).encode(), b"".join(message(1, c_echo_rq()))):
            transport.handle.options.clear()
            for at in range(len(whole) - 1):
                transport.protocol.dataReceived(whole[at : at + 1])
            self.assertEqual(transport.handle.options, [self.QUICKACK] * (len(whole) - 1))
            answered = len(transport.writes)
            transport.protocol.dataReceived(whole[-1:])
            self.assertEqual(len(transport.writes), answered + 1)
            self.assertEqual(transport.handle.options, [self.QUICKACK] * (len(whole) - 1))
        transport.handle.options.clear()
        self.lose(transport)
        transport.protocol.dataReceived(b"late")
        self.assertEqual(transport.handle.options, [])

    def test_wrapped(self) -> None:
        """The socket is found under any number of wrappers."""
        handle = FakeSocket()
        transport = WrappedTransport(WrappedTransport(SocketTransport(handle)))
        self.wire(transport=transport)
        transport.protocol.dataReceived(associate_rq(CONTEXTS).encode()[:-1])
        self.assertEqual(handle.options, [self.QUICKACK])
        self.lose(transport)

    def test_refused(self) -> None:
        """A system that refuses the option is as good without."""
        transport = SocketTransport(FakeSocket(fault=OSError(92, "Protocol not available")))
        self.wire(transport=transport)
        proposal = associate_rq(CONTEXTS).encode()
        transport.protocol.dataReceived(proposal[:9])
        transport.protocol.dataReceived(proposal[9:])
        self.assertEqual(len(transport.writes), 1)
        self.assertIn("closed by the peer", self.lose(transport))

    def test_none(self) -> None:
        """A transport without a socket is taken as it is."""
        self.lose(self.wire(associate_rq(CONTEXTS), transport=WrappedTransport(object())))


class OddLengthTests(ProtocolTestCase):
    def test_odd_lengths(self) -> None:
        """PS3.8 Annex E: fragments of odd length are accepted, and told of once per association."""
        for fragments in ([b"odd"], [b"odd", b"fragments", b"of", b"one"], [b"even"]):
            self.setUp()
            data = [
                P_DATA_TF((PresentationDataValue(3, 2 * (number == len(fragments)), fragment),))
                for number, fragment in enumerate(fragments, 1)
            ]
            command = message(3, c_store_rq(), b"")[0]
            transport = self.wire(associate_rq(CONTEXTS), command, *data)
            self.held.let(1)
            self.assertEqual(self.store.objects["1.2.3"][1], b"".join(fragments))
            line = self.lose(transport)
            self.assertEqual(line.count("fragments of odd length"), 0 if fragments == [b"even"] else 1)


class InterfaceTests(ProtocolTestCase):
    def test_interfaces(self) -> None:
        """The protocol is what it says: a push producer, and half-closeable."""
        protocol = self.server.factory.buildProtocol(None)
        for interface in (IPushProducer, IHalfCloseableProtocol):
            self.assertTrue(verifyObject(interface, protocol))
        self.assertFalse(self.server.factory.noisy)

    def test_default_limits(self) -> None:
        """The defaults are the contract's."""
        self.assertEqual(
            Limits(), Limits(artim_timeout=30, dimse_timeout=60, idle_timeout=600, max_associations=200)
        )
