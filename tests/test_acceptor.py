"""What becomes of those who ask for associations: rules of access on connections, by a virtual clock."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.address import UNIXAddress
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.dimse.messages import C_ECHO_RQ, C_MOVE_RQ, C_STORE_RQ
from dicomtw.security.access import AccessPolicy
from dicomtw.security.addresses import network_of
from dicomtw.security.remote import Remote
from dicomtw.services import Operation, ServiceClass
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.testing import MemoryServer, MemoryStore, Peer
from dicomtw.ul.items import ContextResult
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RQ

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
MOVE = uids.STUDY_ROOT_MOVE
CONTEXTS = {1: (uids.VERIFICATION, IVR), 3: (CT, IVR), 5: (MR, IVR), 7: (MOVE, IVR)}

ACCEPTED = None
CALLING = A_ASSOCIATE_RJ(1, 1, 3)
LATER = A_ASSOCIATE_RJ(2, 3, 1)
FULL = A_ASSOCIATE_RJ(2, 3, 2)


class Moving(ServiceClass):
    """Says that it has moved what it is asked for."""

    abstract_syntaxes = (MOVE,)

    def __init__(self) -> None:
        self.destinations: list[str | None] = []

    async def c_move(self, operation: Operation) -> int:
        self.destinations.append(operation.request.move_destination)
        return 0


class AcceptorTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.moving = Moving()
        self.store = MemoryStore()

    def server(self, *remotes: Remote, **rules: Any) -> MemoryServer:
        """A server called PMOD with these rules."""
        server = MemoryServer.of(Verification(), Storage(self.store), self.moving)
        entity = attrs.evolve(
            server.factory.entity, access=AccessPolicy(ae_title="PMOD", remotes=remotes, **rules)
        )
        return MemoryServer(entity)

    def asked(
        self, server: MemoryServer, calling: str = "CT", host: str = "192.0.2.1", called: str = "PMOD"
    ) -> tuple[Peer, A_ASSOCIATE_RJ | None]:
        """A peer that asks for an association, and its rejection."""
        peer = server.connect(host)
        answer = peer.associate(CONTEXTS, calling=calling, called=called)
        assert isinstance(answer, A_ASSOCIATE_RJ | A_ASSOCIATE_AC)
        return peer, answer if isinstance(answer, A_ASSOCIATE_RJ) else None

    def logged(self, events: Any) -> list[str]:
        return [str(formatEvent(event)) for event in events]


class StrangerTests(AcceptorTestCase):
    def test_closed_at_accept(self) -> None:
        """Whoever is not of the server's networks is closed before a byte of it is read, with one line."""
        server = self.server(accept_any_ae=True, networks=(network_of("192.0.2.0/30"),))
        self.assertEqual(self.asked(server, host="192.0.2.3")[1], ACCEPTED)
        self.assertEqual(self.asked(server, host="::ffff:192.0.2.3")[1], ACCEPTED)
        with capturedLogs() as events:
            peer = server.connect("192.0.2.4")
            self.assertFalse(peer.connected)
        self.assertEqual(peer.received(), [])
        (line,) = self.logged(events)
        self.assertIn("192.0.2.4 is not of the server's networks", line)
        self.assertEqual(len(server.factory.connections), 2)

    def test_log_is_bounded(self) -> None:
        """A minute has sixty lines about strangers at most, and the next line says how many had none."""
        server = self.server(accept_any_ae=True, networks=(network_of("192.0.2.0/30"),))

        def strangers(number: int) -> list[str]:
            with capturedLogs() as events:
                for _ in range(number):
                    self.assertFalse(server.connect("198.51.100.7").connected)
            return self.logged(events)

        self.assertEqual(len(strangers(60)), 60)
        self.assertEqual(strangers(40), [])
        server.clock.advance(1)
        (line,) = strangers(1)
        self.assertIn("before it 40 were turned away without a line", line)

    def test_log_of_those_put_off_is_bounded(self) -> None:
        """So it is with hosts that come too often, while what others do has its line each."""
        server = self.server(Remote(aet="CT"), associations_per_minute_per_host=1)
        self.assertEqual(self.asked(server)[1], ACCEPTED)
        with capturedLogs() as events:
            for _ in range(100):
                peer, rejection = self.asked(server)
                self.assertEqual(rejection, LATER)
                peer.close()
            peer, rejection = self.asked(server, host="192.0.2.2")
            self.assertEqual(rejection, ACCEPTED)
            peer.close()
        self.assertEqual(len(events), 61)

    def test_local_socket(self) -> None:
        """Who comes through a local socket is of no network."""
        server = self.server(accept_any_ae=True, networks=(network_of("0.0.0.0/0"), network_of("::/0")))
        self.assertTrue(server.connect().connected)
        protocol = server.factory.buildProtocol(None)
        protocol.makeConnection(StringTransport(peerAddress=UNIXAddress(b"")))
        self.assertIn("this socket is not of the server's networks", protocol.association.ended)


class NumberTests(AcceptorTestCase):
    def test_associations(self) -> None:
        """A remote has its number of associations at a time, whoever else has how many."""
        server = self.server(Remote(aet="CT", max_associations=2), Remote(aet="MR"))
        first, rejection = self.asked(server)
        self.assertEqual(rejection, ACCEPTED)
        self.assertEqual([self.asked(server)[1] for _ in range(3)], [ACCEPTED, FULL, FULL])
        self.assertEqual([self.asked(server, "MR")[1] for _ in range(3)], [ACCEPTED] * 3)
        first.send(A_RELEASE_RQ())
        self.assertEqual([self.asked(server)[1] for _ in range(2)], [ACCEPTED, FULL])

    def test_associations_a_minute(self) -> None:
        """A remote has its number of associations a minute; those who only use its name take none of them."""
        remote = Remote(aet="CT", associations_per_minute=2, networks=["192.0.2.0/30"])
        server = self.server(remote)
        self.assertEqual([self.asked(server, host="192.0.2.9")[1] for _ in range(5)], [CALLING] * 5)
        self.assertEqual([self.asked(server)[1] for _ in range(3)], [ACCEPTED, ACCEPTED, LATER])
        server.clock.advance(30)
        self.assertEqual([self.asked(server)[1] for _ in range(2)], [ACCEPTED, LATER])

    def test_two_of_one_name(self) -> None:
        """Two remotes of one AE title have their limits each."""
        near = Remote(aet="CT", associations_per_minute=1, networks=["192.0.2.0/30"])
        far = Remote(aet="CT", associations_per_minute=3, max_associations=2, networks=["198.51.100.0/30"])
        server = self.server(near, far)
        self.assertEqual([self.asked(server)[1] for _ in range(2)], [ACCEPTED, LATER])
        there = [self.asked(server, host="198.51.100.1") for _ in range(3)]
        self.assertEqual([rejection for _, rejection in there], [ACCEPTED, ACCEPTED, FULL])
        there[0][0].send(A_RELEASE_RQ())
        self.assertEqual([self.asked(server, host="198.51.100.1")[1] for _ in range(2)], [ACCEPTED, FULL])

    def test_host(self) -> None:
        """A host has its number of associations a minute under all names; others have theirs."""
        server = self.server(accept_any_ae=True, associations_per_minute_per_host=3)
        for host, calling, rejection in (
            ("192.0.2.1", "CT", ACCEPTED),
            ("192.0.2.1", "MR", ACCEPTED),
            ("::ffff:192.0.2.1", "MR", ACCEPTED),
            ("192.0.2.1", "PT", LATER),
            ("192.0.2.2", "PT", ACCEPTED),
        ):
            self.assertEqual(self.asked(server, calling, host)[1], rejection, (host, calling))
        server.clock.advance(20)
        self.assertEqual([self.asked(server)[1] for _ in range(2)], [ACCEPTED, LATER])

    def test_rejected_again_and_again(self) -> None:
        """A host that tries names learns no more from the answers when it has failed so often in a minute."""
        server = self.server(Remote(aet="CT"), failed_associations_per_minute_per_host=4)
        self.assertEqual([self.asked(server, f"GUESS{n}")[1] for n in range(4)], [CALLING] * 4)
        with capturedLogs() as events:
            peer, rejection = self.asked(server, "CT")
            peer.close()
        self.assertEqual(rejection, LATER)
        self.assertIn("192.0.2.1 was rejected more than 4 times a minute", self.logged(events)[-1])
        self.assertEqual(self.asked(server, "CT", "192.0.2.2")[1], ACCEPTED)
        server.clock.advance(15)
        self.assertEqual(self.asked(server, "CT")[1], ACCEPTED)
        self.assertEqual(self.asked(server, "CT", called="OTHER")[1], A_ASSOCIATE_RJ(1, 1, 7))
        self.assertEqual(self.asked(server, "CT")[1], LATER)

    def test_names_are_looked_up_once(self) -> None:
        """An association whose remote has to be looked up counts as one."""
        remote = Remote(aet="CT", host="ct.example", check_host=True)
        entity = self.server(remote, associations_per_minute_per_host=2).factory.entity
        server = MemoryServer(entity, addresses={"ct.example": "192.0.2.1"})
        self.assertEqual([self.asked(server)[1] for _ in range(3)], [ACCEPTED, ACCEPTED, LATER])


class RightsTests(AcceptorTestCase):
    def test_sop_classes(self) -> None:
        """Contexts of other SOP classes are refused by the user (result 1), and the log says why."""
        server = self.server(Remote(aet="CT", sop_classes=["CTImageStorage"]))
        with capturedLogs() as events:
            peer = server.connect()
            answer = peer.associate(CONTEXTS, calling="CT")
            assert isinstance(answer, A_ASSOCIATE_AC)
            results = {context.context_id: context.result for context in answer.presentation_contexts}
            accepted, rejected = ContextResult.ACCEPTANCE, ContextResult.USER_REJECTION
            self.assertEqual(results, {1: accepted, 3: accepted, 5: rejected, 7: rejected})
            echo = C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1)
            self.assertEqual(peer.request(1, echo).status, 0)
            peer.close()
        line = self.logged(events)[-1]
        self.assertIn("MR Image Storage (result 1: SOP class not allowed to this remote)", line)

    def test_sop_class_of_another(self) -> None:
        """An object of a refused SOP class cannot be stored in the context of another one."""
        server = self.server(Remote(aet="CT", sop_classes=["CTImageStorage"], operations=["store"]))
        peer = server.connect()
        answer = peer.associate({1: (CT, IVR), 3: (uids.VERIFICATION, IVR)}, calling="CT")
        assert isinstance(answer, A_ASSOCIATE_AC)
        results = [context.result for context in answer.presentation_contexts]
        self.assertEqual(results, [ContextResult.ACCEPTANCE, ContextResult.USER_REJECTION])
        request = C_STORE_RQ(
            affected_sop_class_uid=MR, affected_sop_instance_uid="1.2.3", message_id=1, priority=0
        )
        response = peer.request(1, request, b"\0" * 8)
        self.assertNotEqual(response.status, 0)
        self.assertEqual(self.store.objects, {})

    def test_destinations(self) -> None:
        """C-MOVE to a destination that is not the remote's is refused with A801H, and the log says why."""
        server = self.server(Remote(aet="WS", destinations=["WS", "PACS"]), Remote(aet="ALL"))
        for calling, destination, expected in (
            ("WS", "WS", 0),
            ("WS", "PACS  ", 0),
            ("WS", "CT", 0xA801),
            ("WS", "", 0xA801),
            ("ALL", "CT", 0),
        ):
            peer, _ = self.asked(server, calling)
            request = C_MOVE_RQ(
                affected_sop_class_uid=MOVE,
                message_id=1,
                priority=0,
                move_destination=destination,
            )
            self.moving.destinations.clear()
            with capturedLogs() as events:
                response = peer.request(7, request, b"\0" * 8)
            self.assertEqual(response.status, expected, (calling, destination))
            self.assertEqual(bool(self.moving.destinations), expected == 0)
            if expected:
                why = f"move destination {destination!r} is not allowed to this remote"
                self.assertEqual(response.error_comment, why)
                self.assertIn(why, self.logged(events)[-1])
