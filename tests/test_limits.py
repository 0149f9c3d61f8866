"""How many connections and associations a server takes on: in all, of one host, and of few descriptors."""

from __future__ import annotations

import json

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.crowd import Crowd
from dicomtw.dimse.messages import C_ECHO_RQ
from dicomtw.errors import DimseError
from dicomtw.jsonlog import LONGEST_MESSAGE, format_event
from dicomtw.limits import (
    LINES,
    LINES_PER_HOST,
    LONG_PROPOSAL,
    LONG_PROPOSALS,
    Limits,
    descriptors_for_connections,
)
from dicomtw.proxy import ProxyFactory
from dicomtw.services import Operation
from dicomtw.services.verification import Verification
from dicomtw.summary import LONGEST_LINE, abridged
from dicomtw.testing import MemoryServer, Peer, associate_rq
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RQ

LOCAL_LIMIT = A_ASSOCIATE_RJ(2, 3, 2)


class LimitsTests(SynchronousTestCase):
    def test_connections(self) -> None:
        """Unless told otherwise 64 and two for each association may wait, and half of these of one host."""
        for limits, waiting, per_host in (
            (Limits(), 464, 232),
            (Limits(max_associations=1), 66, 33),
            (Limits(max_connections=10), 10, 5),
            (Limits(max_connections=1), 1, 1),
            (Limits(max_connections=10, max_connections_per_host=7), 10, 7),
        ):
            self.assertEqual((limits.waiting, limits.waiting_per_host), (waiting, per_host), limits)

    def test_enough_descriptors(self) -> None:
        """Where there are enough descriptors the limits stay as they are."""
        for limits in (Limits(), Limits(max_connections_per_host=300), Limits(max_associations_per_host=3)):
            fitted = limits.fitted(1000)
            self.assertEqual(
                (fitted.max_associations, fitted.waiting, fitted.waiting_per_host),
                (limits.max_associations, limits.waiting, limits.waiting_per_host),
            )
            self.assertEqual(fitted.max_associations_per_host, limits.max_associations_per_host)
            self.assertEqual(fitted.max_open, 750)

    def test_too_few_descriptors(self) -> None:
        """With few descriptors half of them are for who waits, a quarter for associations, one for files."""
        fitted = Limits().fitted(40)
        self.assertEqual((fitted.max_associations, fitted.waiting, fitted.waiting_per_host), (10, 20, 10))
        self.assertEqual(fitted.max_open, 30)
        least = Limits().fitted(descriptors_for_connections(10, 20, 3))
        self.assertEqual((least.max_associations, least.waiting, least.max_open), (1, 2, 3))

    def test_descriptors_are_shared(self) -> None:
        """What is in use at the start and 24 besides are nobody's; the servers share the rest."""
        self.assertEqual(descriptors_for_connections(1024, 20, 1), 980)
        self.assertEqual(descriptors_for_connections(1024, 20, 2), 490)


class ServerTestCase(SynchronousTestCase):
    def serve(self, limits: Limits) -> None:
        self.server = MemoryServer.of(Verification(), limits=limits)

    def associated(self, host: str = "192.0.2.1") -> Peer:
        peer = self.server.connect(host)
        self.assertIsInstance(peer.associate(), A_ASSOCIATE_AC)
        return peer


class ConnectionsPerHostTests(ServerTestCase):
    def test_one_host_cannot_have_all(self) -> None:
        """At the limit all of a host's stay; one more costs the host its own oldest, and nobody else's."""
        self.serve(Limits(max_connections=6))
        other = self.server.connect("192.0.2.9")
        hosts = [self.server.connect("192.0.2.1") for _ in range(3)]
        self.assertEqual([peer.connected for peer in (other, *hosts)], [True] * 4)
        with capturedLogs() as events:
            late = [self.server.connect("192.0.2.1") for _ in range(2)]
            self.assertEqual([peer.connected for peer in hosts], [False, False, True])
        self.assertTrue(all(peer.connected for peer in (other, *late)))
        said = [event["summary"] for event in events if "association" in event]
        self.assertEqual(len(said), 2)
        self.assertIn("too many connections from 192.0.2.1 without an association", said[0])

    def test_ipv6(self) -> None:
        """Addresses of one IPv6 network of 64 bits are one host."""
        self.serve(Limits(max_connections=4))
        peers = [self.server.connect(f"2001:db8::{number}") for number in range(1, 4)]
        self.server.connect("2001:db8:0:1::1")
        self.assertEqual([peer.connected for peer in peers], [False, True, True])

    def test_associations_do_not_count(self) -> None:
        """Who has an association is not turned out, nor counted with those that have none."""
        self.serve(Limits(max_connections_per_host=1))
        peers = [self.associated() for _ in range(5)]
        silent = [self.server.connect() for _ in range(2)]
        self.assertEqual([peer.connected for peer in silent], [False, True])
        self.assertTrue(all(peer.connected for peer in peers))

    def test_count_is_kept(self) -> None:
        """Whatever connections become, nothing is left of them when they are gone."""
        self.serve(Limits(max_connections=10, max_associations_per_host=2))
        for number in range(50):
            peer = self.server.connect("192.0.2.1")
            if number % 2:
                peer.associate(called="PMOD" if number % 4 == 1 else "OTHER")
            if number % 3 == 0 and number % 4 == 1:
                peer.send(A_RELEASE_RQ())
            peer.close()
        crowd = self.server.factory.crowd
        self.assertEqual(vars(crowd), vars(Crowd()))

    def test_behind_a_front_end(self) -> None:
        """Behind a front end a connection is its peer's from the header on; before, nobody's."""
        self.serve(Limits(max_connections=100, max_connections_per_host=2))
        factory = ProxyFactory(self.server.factory)
        transports = []
        for number in range(6):
            protocol = factory.buildProtocol(None)
            assert protocol is not None
            transport = StringTransport(peerAddress=IPv4Address("TCP", "198.51.100.1", 1000 + number))
            protocol.makeConnection(transport)
            transports.append((protocol, transport))
        self.assertEqual([transport.disconnecting for _, transport in transports], [False] * 6)
        for number, (protocol, _) in enumerate(transports):
            source = f"192.0.2.{number % 2}"
            protocol.dataReceived(f"PROXY TCP4 {source} 192.0.2.100 5000 104\r\n".encode())
        self.assertEqual([transport.disconnecting for _, transport in transports], [True] * 2 + [False] * 4)


class AssociationsPerHostTests(ServerTestCase):
    def test_no_limit_by_default(self) -> None:
        """One gateway may have all the associations there are."""
        self.serve(Limits(max_associations=20))
        for _ in range(20):
            self.associated()
        self.assertEqual(self.server.connect().associate(), LOCAL_LIMIT)

    def test_limit(self) -> None:
        """One more than the limit is RJ(2,3,2) for that host alone, until one of its own has ended."""
        self.serve(Limits(max_associations_per_host=2))
        first, _ = self.associated(), self.associated()
        rejected = self.server.connect()
        with capturedLogs() as events:
            self.assertEqual(rejected.associate(), LOCAL_LIMIT)
            rejected.close()
        (said,) = [event["summary"] for event in events if "association" in event]
        self.assertIn("its host has 2 associations", said)
        self.associated("192.0.2.2")
        first.send(A_RELEASE_RQ())
        self.associated()
        self.assertEqual(self.server.connect().associate(), LOCAL_LIMIT)


class OpenTests(ServerTestCase):
    def test_no_descriptor_left(self) -> None:
        """At the limit of all connections one more is closed at once, and makes room for the next."""
        self.serve(Limits(max_connections=10, max_connections_per_host=10, max_open=3))
        associated = self.associated()
        first, second = self.server.connect(), self.server.connect()
        with capturedLogs() as events:
            refused = self.server.connect()
            self.assertFalse(refused.connected)
        self.assertEqual([peer.connected for peer in (first, second)], [False, True])
        self.assertEqual(len([event for event in events if "association" in event]), 2)
        self.assertTrue(self.server.connect().connected)
        self.assertTrue(associated.connected)

    def test_refused_is_heard_no_more(self) -> None:
        """Whatever one that is refused sends is not read."""
        self.serve(Limits(max_open=1))
        self.associated()
        refused = self.server.connect()
        refused.send(associate_rq({1: ("1.2.840.10008.1.1", "1.2.840.10008.1.2")}))
        self.assertEqual(refused.received(), [])
        self.assertFalse(refused.connected)


class LongProposalTests(ServerTestCase):
    def test_memory(self) -> None:
        """Of long proposals so many are kept at a time; one more costs the first its connection."""
        self.serve(Limits())
        header = b"\1\0" + (1 << 20).to_bytes(4, "big")
        peers = [self.server.connect(f"192.0.2.{number}") for number in range(LONG_PROPOSALS)]
        for peer in peers:
            peer.send(header + bytes(LONG_PROPOSAL + 1))
            peer.send(bytes(900_000))
        short = self.server.connect("198.51.100.1")
        short.send(header + bytes(LONG_PROPOSAL))
        self.assertEqual([peer.connected for peer in (short, *peers)], [True] * (1 + LONG_PROPOSALS))
        short.send(b"x")
        self.assertEqual([peer.connected for peer in peers], [False] + [True] * (LONG_PROPOSALS - 1))
        self.assertTrue(short.connected)
        self.assertEqual(peers[0].protocol.provider.held, 0)

    def test_complete(self) -> None:
        """A long proposal that is complete, or aborted, takes nobody's place any more."""
        self.serve(Limits())
        for number in range(2 * LONG_PROPOSALS):
            peer = self.server.connect(f"192.0.2.{number}")
            rq = associate_rq(
                {1: ("1.2.840.10008.1.1", *["1.2.840.10008.1.2"] * 100)}
                | {2 * each + 1: ("1.2.840.10008.1.1", *["1.2.840.10008.1.2"] * 100) for each in range(1, 60)}
            ).encode()
            self.assertGreater(len(rq), LONG_PROPOSAL)
            peer.send(rq[:-1])
            peer.send(rq[-1:])
            self.assertTrue(peer.connected)
        self.assertEqual(len(self.server.factory.associations), 2 * LONG_PROPOSALS)


class LineTests(ServerTestCase):
    def said(self, *hosts: str) -> list[str]:
        """What the log says when connections from these hosts come to no association."""
        with capturedLogs() as events:
            for host in hosts:
                self.server.connect(host).close()
        return [event["summary"] for event in events if "association" in event]

    def test_flood(self) -> None:
        """So many lines a minute are about one host; of the rest one line says how many they were."""
        self.serve(Limits())
        self.assertEqual(len(self.said(*["192.0.2.1"] * (LINES_PER_HOST + 50))), LINES_PER_HOST)
        self.assertEqual(len(self.said("192.0.2.2")), 1)
        with capturedLogs() as events:
            self.server.clock.advance(60)
        (event,) = events
        self.assertEqual((event["count"], event["host"]), (50, "192.0.2.1"))
        self.assertEqual(len(self.said("192.0.2.1")), 1)
        self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_flood_from_everywhere(self) -> None:
        """In all there are so many lines a minute, and few that sum up."""
        self.serve(Limits())
        hosts = [f"192.0.{number // 200}.{number % 200}" for number in range(LINES + 500)]
        self.assertEqual(len(self.said(*hosts)), LINES)
        with capturedLogs() as events:
            self.server.clock.advance(60)
        self.assertEqual(len(events), 21)
        self.assertEqual(sum(event["count"] for event in events), 500)

    def test_associations_have_their_lines(self) -> None:
        """However many there were before, an association leaves its line."""
        self.serve(Limits())
        self.said(*["192.0.2.1"] * (LINES_PER_HOST + 1))
        with capturedLogs() as events:
            self.associated("192.0.2.1").close()
        self.assertEqual(len([event for event in events if "association" in event]), 1)


class LongLineTests(ServerTestCase):
    """However much a peer has to say, the log has so many characters of it."""

    def test_summary(self) -> None:
        """The line of a connection is whole up to the longest, then it is cut."""
        for length in (LONGEST_LINE, LONGEST_LINE + 1):
            line = abridged("x" * length)
            self.assertEqual(line, "x" * LONGEST_LINE + ("..." if length > LONGEST_LINE else ""))

    def test_worst_proposal(self) -> None:
        """128 contexts of made up SOP classes are one line of printable characters, and not a long one."""
        self.serve(Limits())
        peer = self.server.connect()
        with capturedLogs() as events:
            peer.associate(
                {2 * each + 1: ("\x1b" * 64, "\x1b" * 64) for each in range(128)}, calling="\x7f" * 16
            )
            peer.close()
            accepted = self.server.connect()
            accepted.associate({2 * each + 1: ("\x1b" * 64, "1.2") for each in range(128)})
            accepted.close()
        lines = [event["summary"] for event in events if "association" in event]
        self.assertEqual(len(lines), 2)
        for line in lines:
            self.assertLess(len(line), 2500)
            self.assertTrue(line.isprintable())
        for event in events:
            self.assertLess(len(format_event(event) or ""), 200_000)

    def test_json(self) -> None:
        """A JSON message is whole up to the longest, then it is cut."""
        for length in (LONGEST_MESSAGE, LONGEST_MESSAGE + 1):
            said = json.loads(format_event({"log_format": "{x}", "x": "x" * length}) or "")
            self.assertEqual(said["message"], "x" * LONGEST_MESSAGE)

    def test_answers(self) -> None:
        """Of what a failed operation is answered with there are 500 printable characters at the most."""

        class Refusing(Verification):
            async def c_echo(self, operation: Operation) -> int:
                raise DimseError(0xC000, "\n" + "x" * 60_000)

        self.server = MemoryServer.of(Refusing())
        peer = self.associated()
        with capturedLogs() as events:
            peer.request(1, C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1))
        (said,) = [event["comment"] for event in events if "comment" in event]
        self.assertEqual(said, "\\x0a" + "x" * 496 + "...")

    def test_warnings(self) -> None:
        """Of one association twenty warnings are told, of 500 characters at the most."""
        self.serve(Limits())
        association = self.associated().protocol.association
        with capturedLogs() as events:
            for length in (500, 501, *[1] * 100):
                association.warn("x" * length)
        said = [event["what"] for event in events]
        self.assertEqual(len(said), 20)
        self.assertEqual(said[:2], ["x" * 500, "x" * 500 + "..."])
        self.assertEqual(said[-1], "x (what else there is to warn of is left out)")
