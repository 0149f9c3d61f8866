"""Limits of several workers: each takes in no more than there is room for in all of them together."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.config import Server
from dicomtw.security.remote import Remote
from dicomtw.testing import MemoryServer, Peer
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RQ
from dicomtw.workers.factory import SharedFactory
from tests.workers.crew import servers

LOCAL_LIMIT = A_ASSOCIATE_RJ(2, 3, 2)
CONGESTION = A_ASSOCIATE_RJ(2, 3, 1)


def answer(server: MemoryServer, host: str = "192.0.2.1", calling: str = "SCU") -> tuple[Peer, object]:
    """A connection that asks for an association, and what it is told."""
    peer = server.connect(host)
    said = peer.associate(calling=calling)
    return peer, A_ASSOCIATE_AC if isinstance(said, A_ASSOCIATE_AC) else said


class AssociationTests(SynchronousTestCase):
    def test_all(self) -> None:
        """What one worker has another has no room for, till it is gone."""
        one, other = servers(Server(port=1, max_associations=3))
        peers = [answer(one)[0], answer(other)[0], answer(one)[0]]
        for server in (one, other):
            self.assertEqual(answer(server)[1], LOCAL_LIMIT)
        peers[1].send(A_RELEASE_RQ())
        self.assertEqual(answer(one)[1], A_ASSOCIATE_AC)
        self.assertEqual(answer(other)[1], LOCAL_LIMIT)

    def test_of_a_host(self) -> None:
        """So it is with those of one host."""
        one, other = servers(Server(port=1, max_associations_per_host=2))
        for server in (one, other):
            self.assertEqual(answer(server)[1], A_ASSOCIATE_AC)
        for server in (one, other):
            self.assertEqual(answer(server)[1], LOCAL_LIMIT)
            self.assertEqual(answer(server, "192.0.2.2")[1], A_ASSOCIATE_AC)

    def test_of_a_remote(self) -> None:
        """And with those of a remote; others of its name and host do not count."""
        one, other = servers(Server(port=1), (Remote(aet="CT", max_associations=2),))
        peers = [answer(server, calling="CT")[0] for server in (one, other)]
        self.assertEqual(answer(one, calling="CT")[1], LOCAL_LIMIT)
        self.assertEqual(answer(one, calling="MR")[1], A_ASSOCIATE_AC)
        peers[0].close()
        self.assertEqual(answer(other, calling="CT")[1], A_ASSOCIATE_AC)

    def test_worker_that_died(self) -> None:
        """What a worker had is free again when it is known to have ended."""
        one, other = servers(Server(port=1, max_associations=1))
        assert isinstance(one.factory, SharedFactory)
        answer(one)
        self.assertEqual(answer(other)[1], LOCAL_LIMIT)
        one.factory.common.ended(1)
        self.assertEqual(answer(other)[1], A_ASSOCIATE_AC)

    def test_nothing_is_left(self) -> None:
        """Whatever becomes of connections, nothing is counted when they are gone."""
        one, other = servers(Server(port=1, max_associations=4, max_associations_per_host=3))
        for number in range(60):
            server = (one, other)[number % 2]
            peer = server.connect(f"192.0.2.{number % 3}")
            if number % 3:
                peer.associate(called="PMOD" if number % 5 else "OTHER")
            if number % 7:
                peer.send(A_RELEASE_RQ())
            peer.close()
        for server in (one, other):
            factory = server.factory
            assert isinstance(factory, SharedFactory)
            self.assertEqual((factory.crowd.waiting, factory.crowd.associated), (0, 0))
            column = factory.common.board.columns[factory.common.board.own]
            self.assertEqual((column[1], column[6]), (0, 0), "connections, and names in the ledger")


class ConnectionTests(SynchronousTestCase):
    def test_all(self) -> None:
        """Those without an association count in all; who is one too many goes where it is noticed."""
        one, other = servers(Server(port=1, max_connections=3, max_connections_per_host=3))
        first = [one.connect(f"192.0.2.{number}") for number in range(3)]
        late = other.connect("192.0.2.9")
        self.assertFalse(late.connected)
        newer = one.connect("192.0.2.8")
        self.assertEqual([peer.connected for peer in first], [False, True, True])
        self.assertTrue(newer.connected)

    def test_of_a_host(self) -> None:
        """So it is with those of one host."""
        one, other = servers(Server(port=1, max_connections=10, max_connections_per_host=2))
        first = [one.connect(), one.connect()]
        self.assertFalse(other.connect().connected)
        self.assertTrue(other.connect("192.0.2.2").connected)
        self.assertTrue(all(peer.connected for peer in first))
        first[0].close()
        self.assertTrue(other.connect().connected)


class RateTests(SynchronousTestCase):
    def test_of_a_host(self) -> None:
        """What a host asks for in a minute is counted whomever it asks."""
        one, other = servers(Server(port=1, associations_per_minute_per_host=4))
        for number in range(4):
            self.assertEqual(answer((one, other)[number % 2])[1], A_ASSOCIATE_AC)
        for server in (one, other):
            self.assertEqual(answer(server)[1], CONGESTION)
            self.assertEqual(answer(server, "192.0.2.2")[1], A_ASSOCIATE_AC)
        one.clock.advance(15)
        self.assertEqual(answer(other)[1], A_ASSOCIATE_AC)
        self.assertEqual(answer(one)[1], CONGESTION)

    def test_of_a_remote(self) -> None:
        """And what a remote is granted; what it is refused for something else costs it nothing."""
        remote = Remote(aet="CT", max_associations=2, associations_per_minute=3)
        one, other = servers(Server(port=1), (remote,))
        peers = [answer(server, calling="CT")[0] for server in (one, other)]
        for _ in range(3):
            self.assertEqual(answer(one, calling="CT")[1], LOCAL_LIMIT)
        for peer in peers:
            peer.close()
        self.assertEqual(answer(other, calling="CT")[1], A_ASSOCIATE_AC)
        self.assertEqual(answer(one, calling="CT")[1], CONGESTION)
