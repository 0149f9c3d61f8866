"""User identity negotiation on associations, from both sides: in memory, with a virtual clock."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from dicomtw import uids
from dicomtw.acceptor import LOGIN_PAUSE, TEMPORARY_CONGESTION, ApplicationEntity
from dicomtw.authentication import (
    Authenticated,
    Authentication,
    IJSONWebToken,
    IKerberosTicket,
    ISAMLAssertion,
    IUsername,
    Unavailable,
    kinds_of,
)
from dicomtw.client import UserIdentity
from dicomtw.errors import Rejected
from dicomtw.feed import Disk
from dicomtw.limits import Limits
from dicomtw.security.access import AccessPolicy, Requestor
from dicomtw.security.identity import NOT_AUTHENTICATED, Demand, IdentityPolicy
from dicomtw.security.remote import Remote
from dicomtw.services import ServiceRegistry
from dicomtw.services.verification import Verification
from dicomtw.testing import MemoryServer, Peer, associate_rq, at_once
from dicomtw.trail import SILENT
from dicomtw.ul.items import UserIdentityAC, UserIdentityRQ
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RQ

ARTIM = Limits().artim_timeout
ALICE = UserIdentityRQ(2, False, b"alice", b"sesame")
ASKED = attrs.evolve(ALICE, positive_response_requested=True)
WRONG = attrs.evolve(ALICE, secondary_field=b"swordfish")


@implementer(ICredentialsChecker)
class Passcodes:
    """Knows alice; answers when the test says so, if it is told to wait."""

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815

    def __init__(self) -> None:
        self.waits = False
        self.waiting: list[Deferred[bytes]] = []
        self.cancelled = 0
        self.fault: Exception | None = None

    def requestAvatarId(self, credentials: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        if self.waits:
            self.waiting.append(Deferred(self._cancelled))
            return self.waiting[-1]
        if (credentials.username, credentials.password) != (b"alice", b"sesame"):
            raise UnauthorizedLogin("wrong name or passcode")
        return credentials.username

    def _cancelled(self, _: object) -> None:
        self.cancelled += 1


@implementer(ICredentialsChecker)
class Anything:
    """Believes everything, and answers it."""

    credentialInterfaces = (IUsername, IKerberosTicket, ISAMLAssertion, IJSONWebToken)  # noqa: N815

    def requestAvatarId(self, credentials: Any) -> Authenticated:
        return Authenticated("bob", b"response")


class Heard:
    """An audit trail that keeps whose logins have failed, and who else was rejected."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.others: list[str] = []
        #: Why it cannot be written.
        self.fault = ""

    def unavailable(self) -> str:
        return self.fault

    def login_failed(self, _: Requestor, user: str, why: str) -> None:
        self.failed.append(user)

    def rejected(self, _: Requestor, why: str, *, transient: bool) -> None:
        self.others.append(why)

    def __getattr__(self, name: str) -> Any:
        return getattr(SILENT, name)


class UserIdentityTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.passcodes = Passcodes()
        self.audit = Heard()

    def server(
        self,
        *checkers: Any,
        demand: Demand = Demand.OPTIONAL,
        without_tls: bool = True,
        remotes: tuple[Remote, ...] = (),
        limits: Limits | None = None,
        addresses: dict[str, str] | None = None,
        **rules: Any,
    ) -> MemoryServer:
        checkers = checkers or (self.passcodes,)
        kinds = kinds_of([one for checker in checkers for one in checker.credentialInterfaces])
        policy = IdentityPolicy(demand=demand, kinds=kinds, without_tls=without_tls)
        entity = ApplicationEntity(
            access=AccessPolicy(ae_title="PMOD", accept_any_ae=True, remotes=remotes, **rules),
            registry=ServiceRegistry([Verification()]),
            disk=Disk(at_once),
            authentication=Authentication(policy, checkers),
            audit=self.audit,
        )
        return MemoryServer(entity, limits, addresses)

    def answer(self, server: MemoryServer, *items: UserIdentityRQ, **options: Any) -> Any:
        """What the server answers to a proposal with these sub-items, after a while."""
        self.peer = server.connect()
        return self._answer(server, self.peer, *items, **options)

    def _answer(self, server: MemoryServer, peer: Peer, *items: UserIdentityRQ, **options: Any) -> Any:
        contexts = {1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)}
        peer.send(associate_rq(contexts, *items, **options))
        server.clock.advance(LOGIN_PAUSE)
        received = peer.received()
        return received[0] if received else None

    def summary(self, server: MemoryServer, peer: Peer) -> Any:
        """The event of the line that a connection leaves."""
        with capturedLogs() as events:
            peer.close()
            server.clock.advance(ARTIM + 2)
        (event,) = [one for one in events if "association" in one]
        return event


class AcceptorTests(UserIdentityTestCase):
    def test_right(self) -> None:
        """Who is who he says is accepted, without a word about it unless one is asked for."""
        server = self.server()
        accepted = self.answer(server, ALICE)
        self.assertIsInstance(accepted, A_ASSOCIATE_AC)
        self.assertIsNone(accepted.user_information.first(UserIdentityAC))
        event = self.summary(server, self.peer)
        self.assertIn("'SCU' to 'PMOD' for user 'alice'; ", event["summary"])
        self.assertEqual(event["association"]["user"], "alice")
        accepted = self.answer(server, ASKED)
        self.assertEqual(accepted.user_information.all(UserIdentityAC), (UserIdentityAC(b""),))

    def test_wrong(self) -> None:
        """Who is not is rejected for good, after a pause; the line names him, and not the passcode."""
        server = self.server()
        peer = server.connect()
        self.assertEqual(self._answer(server, peer, WRONG), NOT_AUTHENTICATED)
        self.assertEqual(NOT_AUTHENTICATED, A_ASSOCIATE_RJ(1, 1, 1))
        event = self.summary(server, peer)
        self.assertIn("user 'alice': wrong name or passcode", event["summary"])
        self.assertEqual((event["association"]["user"], event["log_level"]), ("", LogLevel.warn))
        self.assertNotIn("swordfish", str(event))

    def test_pause(self) -> None:
        """Before the pause is over there is no answer."""
        server = self.server()
        peer = server.connect()
        peer.send(associate_rq({1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)}, WRONG))
        server.clock.advance(LOGIN_PAUSE - 0.01)
        self.assertEqual(peer.received(), [])
        server.clock.advance(0.01)
        self.assertEqual(peer.received(), [NOT_AUTHENTICATED])

    def test_counted(self) -> None:
        """A host from which too many logins fail is put off, whatever it asks."""
        server = self.server(failed_associations_per_minute_per_host=2)
        answers = [self.answer(server, WRONG) for _ in range(2)]
        self.assertEqual(answers, [NOT_AUTHENTICATED] * 2)
        self.assertEqual(self.answer(server, ALICE), TEMPORARY_CONGESTION)

    def test_nobody(self) -> None:
        """Who names nobody is accepted, unless a user is required."""
        self.assertIsInstance(self.answer(self.server()), A_ASSOCIATE_AC)
        server = self.server(demand=Demand.REQUIRED)
        self.assertEqual(self.answer(server), NOT_AUTHENTICATED)
        self.assertIn("no user identity, and one is required", self.summary(server, self.peer)["summary"])
        self.assertIsInstance(self.answer(server, ALICE), A_ASSOCIATE_AC)

    def test_ignored(self) -> None:
        """A server that ignores user identities, or has no checker, accepts and does not answer the item."""
        for server in (self.server(demand=Demand.IGNORE), MemoryServer.of(Verification())):
            accepted = self.answer(server, attrs.evolve(WRONG, positive_response_requested=True))
            self.assertIsInstance(accepted, A_ASSOCIATE_AC)
            self.assertIsNone(accepted.user_information.first(UserIdentityAC))
            self.assertEqual(self.summary(server, self.peer)["association"]["user"], "")

    def test_bad(self) -> None:
        """What is no user identity is rejected before any checker sees it."""
        self.passcodes.fault = AssertionError("asked")
        server = self.server()
        for bad in (UserIdentityRQ(7, True, b"alice"), UserIdentityRQ(2, True, b"", b"sesame")):
            self.assertEqual(self.answer(server, bad), NOT_AUTHENTICATED)

    def test_all_types(self) -> None:
        """Each type reaches its checker, and Table D.3-15 says which server responses have a value."""
        server = self.server(self.passcodes, Anything())
        expected = {1: b"", 2: b"", 3: b"response", 4: b"response", 5: b"response"}
        for kind, response in expected.items():
            item = UserIdentityRQ(kind, True, b"alice", b"sesame" if kind == 2 else b"")
            accepted = self.answer(server, item)
            answer = accepted.user_information.first(UserIdentityAC)
            self.assertEqual(answer, UserIdentityAC(response), kind)
            quiet = self.answer(server, attrs.evolve(item, positive_response_requested=False))
            self.assertIsNone(quiet.user_information.first(UserIdentityAC))

    def test_name_without_proof(self) -> None:
        """A name without proof is not believed where only passcodes are checked."""
        server = self.server()
        self.assertEqual(self.answer(server, UserIdentityRQ(1, False, b"alice")), NOT_AUTHENTICATED)
        self.assertIn("user 'alice': no checker here takes that", self.summary(server, self.peer)["summary"])

    def test_without_tls(self) -> None:
        """A passcode is refused over TCP, unchecked, and taken over a socket of this machine."""
        server = self.server(without_tls=False)
        self.passcodes.fault = AssertionError("asked")
        self.assertEqual(self.answer(server, ALICE), NOT_AUTHENTICATED)
        self.assertIn("without TLS (--auth-without-tls)", self.summary(server, self.peer)["summary"])
        self.passcodes.fault = None
        peer = server.connect()
        peer.transport.peerAddr = UNIXAddress(None)
        self.assertIsInstance(self._answer(server, peer, ALICE), A_ASSOCIATE_AC)

    def test_users_of_a_remote(self) -> None:
        """Only its users may associate in the name of a remote that has some; in other names anybody may."""
        remotes = (Remote(aet="CT", users=["alice"]), Remote(aet="MR", users=["bob"]))
        server = self.server(remotes=remotes)
        self.assertIsInstance(self.answer(server, ALICE, calling="CT"), A_ASSOCIATE_AC)
        self.assertEqual(self.answer(server, ALICE, calling="MR"), NOT_AUTHENTICATED)
        self.assertIn("user 'alice': 'MR' is for its users", self.summary(server, self.peer)["summary"])
        self.assertEqual((self.audit.failed, self.audit.others), (["alice"], []))
        self.assertEqual(self.answer(server, calling="CT"), NOT_AUTHENTICATED)
        self.assertIsInstance(self.answer(server, ALICE), A_ASSOCIATE_AC)
        self.assertIsInstance(self.answer(server), A_ASSOCIATE_AC)

    def test_users_of_two_remotes(self) -> None:
        """Of two remotes of one AE title it is the one whose user it has, wherever that one is."""
        remotes = (
            Remote(aet="CT", users=["bob"]),
            Remote(aet="CT", users=["alice"], host="ct.example", check_host=True),
        )
        server = self.server(remotes=remotes, addresses={"ct.example": "192.0.2.1"})
        self.assertIsInstance(self.answer(server, ALICE, calling="CT"), A_ASSOCIATE_AC)
        (protocol,) = server.factory.associations
        self.assertEqual(protocol.association.remote, remotes[1])
        server = self.server(remotes=remotes, addresses={"ct.example": "192.0.2.9"})
        self.assertEqual(self.answer(server, ALICE, calling="CT"), NOT_AUTHENTICATED)

    def test_rejected_for_another_reason(self) -> None:
        """Only a login that fails is one for the audit trail."""
        server = self.server()
        self.assertEqual(self.answer(server, ALICE, called="OTHER"), A_ASSOCIATE_RJ(1, 1, 7))
        self.assertEqual((self.audit.failed, len(self.audit.others)), ([], 1))
        self.assertEqual(self.answer(server, WRONG), NOT_AUTHENTICATED)
        self.assertEqual((self.audit.failed, len(self.audit.others)), (["alice"], 1))

    def test_unchecked_users_of_a_remote(self) -> None:
        """Where users are not checked nobody is a remote's user."""
        server = self.server(demand=Demand.IGNORE, remotes=(Remote(aet="CT", users=["alice"]),))
        self.assertEqual(self.answer(server, ALICE, calling="CT"), NOT_AUTHENTICATED)

    def test_twice(self) -> None:
        """Two user identities are none: the proposal is broken."""
        server = self.server()
        answer = self.answer(server, ALICE, ALICE)
        self.assertEqual(type(answer).__name__, "A_ABORT")


class WaitingTests(UserIdentityTestCase):
    """While the checker takes its time."""

    def setUp(self) -> None:
        super().setUp()
        self.passcodes.waits = True

    def test_later(self) -> None:
        """The answer comes when the checker's does."""
        server = self.server()
        self.assertIsNone(self.answer(server, ALICE))
        self.passcodes.waiting[0].callback(b"alice")
        (accepted,) = self.peer.received()
        self.assertIsInstance(accepted, A_ASSOCIATE_AC)
        self.assertEqual(self.passcodes.cancelled, 0)
        server.clock.advance(ARTIM)
        self.assertEqual(self.peer.received(), [])

    def test_artim(self) -> None:
        """It has the ARTIM time; then the requestor may try again, and the checker is cancelled."""
        server = self.server()
        self.assertIsNone(self.answer(server, ALICE))
        server.clock.advance(ARTIM)
        self.assertEqual(self.peer.received(), [TEMPORARY_CONGESTION])
        self.assertEqual(self.passcodes.cancelled, 1)
        self.assertIn("cannot be checked now: not in time", self.summary(server, self.peer)["summary"])

    def test_peer_leaves(self) -> None:
        """It is cancelled when the peer leaves, and nothing more is said; that login is one that failed."""
        server = self.server(failed_associations_per_minute_per_host=1)
        self.assertIsNone(self.answer(server, ALICE))
        self.peer.close()
        self.assertEqual(self.audit.failed, ["alice"])
        asking = server.connect()
        self.assertEqual(self._answer(server, asking), TEMPORARY_CONGESTION)
        asking.close()
        self.assertEqual(self.passcodes.cancelled, 1)
        server.clock.advance(ARTIM)
        self.assertEqual(self.peer.received(), [])
        self.assertEqual(server.clock.getDelayedCalls(), [])

    def test_peer_leaves_in_pause(self) -> None:
        """Who guesses and does not wait for the answer is counted, logged and audited as if he had."""
        server = self.server(failed_associations_per_minute_per_host=1)
        self.assertIsNone(self.answer(server, WRONG))
        self.passcodes.waiting[0].errback(UnauthorizedLogin())
        self.assertEqual(self.audit.failed, ["alice"])
        event = self.summary(server, self.peer)
        self.assertIn("rejected with ", event["summary"])
        self.assertIn("user 'alice': not who he says", event["summary"])
        self.assertEqual(server.clock.getDelayedCalls(), [])
        self.assertEqual(self.peer.received(), [])
        self.assertEqual(self.answer(server, ALICE), TEMPORARY_CONGESTION)
        self.assertEqual((self.audit.failed, len(self.audit.others)), (["alice"], 1))

    def test_answer_to_who_is_gone(self) -> None:
        """A checker that says yes when it is cancelled says so to nobody."""
        server = self.server()
        found: Deferred[bytes] = Deferred(lambda found: found.callback(b"alice"))
        self.patch(self.passcodes, "requestAvatarId", lambda _: found)
        self.assertIsNone(self.answer(server, ALICE))
        self.peer.close()
        self.assertTrue(found.called)
        self.assertEqual(server.factory.associations, set())
        self.assertEqual(self.peer.received(), [])

    def test_answer_to_who_is_turned_out(self) -> None:
        """Nor is somebody accepted whose connection is being closed."""
        server = self.server()
        self.assertIsNone(self.answer(server, ALICE))
        (protocol,) = server.factory.connections
        protocol.turn_out("too many")
        self.assertTrue(self.peer.transport.disconnecting)
        self.passcodes.waiting[0].callback(b"alice")
        self.assertEqual(server.factory.associations, set())
        self.assertEqual(self.peer.received(), [])

    def test_full(self) -> None:
        """Who has waited while others took the last place is told so."""
        server = self.server(limits=Limits(max_associations=1))
        self.assertIsNone(self.answer(server, ALICE))
        waiting = self.peer
        self.assertIsInstance(self.answer(server), A_ASSOCIATE_AC)
        self.passcodes.waiting[0].callback(b"alice")
        (answer,) = waiting.received()
        self.assertEqual((answer.result, answer.source, answer.reason), (2, 3, 2))

    def test_limits_of_a_remote(self) -> None:
        """Nor does a remote get one association more than it may have, though its users waited together."""
        server = self.server(remotes=(Remote(aet="CT", max_associations=1),))
        peers = [server.connect() for _ in range(2)]
        for peer in peers:
            self.assertIsNone(self._answer(server, peer, ALICE, calling="CT"))
        for waiting in self.passcodes.waiting:
            waiting.callback(b"alice")
        (accepted,), (full,) = (peer.received() for peer in peers)
        self.assertIsInstance(accepted, A_ASSOCIATE_AC)
        self.assertEqual(full, A_ASSOCIATE_RJ(2, 3, 2))

    def test_audit_fails(self) -> None:
        """Nor is somebody accepted when the audit trail can no longer be written."""
        server = self.server()
        self.assertIsNone(self.answer(server, ALICE))
        self.audit.fault = "the audit trail cannot be written"
        self.passcodes.waiting[0].callback(b"alice")
        self.assertEqual(self.peer.received(), [TEMPORARY_CONGESTION])
        self.assertEqual((self.audit.failed, len(self.audit.others)), ([], 1))

    def test_answer_to_who_breaks_the_protocol(self) -> None:
        """Nor is somebody accepted who was aborted for what he sent meanwhile."""
        server = self.server()
        self.assertIsNone(self.answer(server, ALICE))
        self.peer.send(A_RELEASE_RQ())
        (abort,) = self.peer.received()
        self.assertEqual(type(abort).__name__, "A_ABORT")
        self.passcodes.waiting[0].callback(b"alice")
        self.assertEqual(server.factory.associations, set())
        self.assertEqual(self.peer.received(), [])

    def test_turned_out(self) -> None:
        """A server that stops meanwhile accepts nobody."""
        server = self.server()
        self.assertIsNone(self.answer(server, ALICE))
        server.factory.drain()
        server.clock.advance(0)
        self.assertEqual(self.passcodes.cancelled, 1)
        self.assertFalse(self.peer.connected)

    def test_cannot_say(self) -> None:
        """A checker that cannot say leaves it open: the requestor may try again; a bug of it is logged."""
        server = self.server()
        for fault, words in (
            (Unavailable("32 users wait to be checked"), "32 users wait to be checked"),
            (OSError(111, "Connection refused"), "Connection refused"),
        ):
            self.passcodes.fault = fault
            self.assertEqual(self.answer(server, ALICE), TEMPORARY_CONGESTION)
            said = self.summary(server, self.peer)["summary"]
            self.assertIn("user 'alice': cannot be checked now: ", said)
            self.assertIn(words, said)
        self.passcodes.fault = ZeroDivisionError("division by zero")
        self.assertEqual(self.answer(server, ALICE), TEMPORARY_CONGESTION)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_bug_without_words(self) -> None:
        """A bug is logged though the exception says nothing."""
        server = self.server()
        self.passcodes.fault = AssertionError()
        self.assertEqual(self.answer(server, ALICE), TEMPORARY_CONGESTION)
        self.assertEqual(len(self.flushLoggedErrors(AssertionError)), 1)

    def test_secret_in_a_bug(self) -> None:
        """What a checker says with the passcode in it is not logged."""
        server = self.server()
        self.passcodes.fault = ValueError("cannot use 'sesame'")
        with capturedLogs() as events:
            self.assertEqual(self.answer(server, ALICE), TEMPORARY_CONGESTION)
            self.peer.close()
            server.clock.advance(ARTIM + 2)
        self.assertNotIn("sesame", str(events))
        self.assertIn("cannot be checked now: ValueError", str(events))


class ClientTests(UserIdentityTestCase):
    """Our own client with our own server."""

    def test_associate(self) -> None:
        """A client says who its user is, and has the server's response if it has asked for one."""
        server = self.server(self.passcodes, Anything())
        cases = [
            (UserIdentity.username("bob", positive_response_requested=True), b""),
            (UserIdentity.username_and_passcode("alice", "sesame", positive_response_requested=True), b""),
            (UserIdentity.username_and_passcode("alice", b"sesame"), None),
            (UserIdentity.kerberos(b"ticket", positive_response_requested=True), b"response"),
            (UserIdentity.saml("<a/>", positive_response_requested=True), b"response"),
            (UserIdentity.jwt("a.b.c", positive_response_requested=True), b"response"),
            (UserIdentity.jwt("a.b.c"), None),
        ]
        for identity, response in cases:
            scu = server.associate(user_identity=identity)
            self.assertEqual(scu.association.user_identity_response, response)
            scu.abort()

    def test_rejected(self) -> None:
        """It is told of a rejection as of any other."""
        server = self.server()
        identity = UserIdentity.username_and_passcode("alice", "other")
        associating = server.associating(user_identity=identity).asDeferred()
        server.clock.advance(0)
        server.clock.advance(LOGIN_PAUSE)
        server.clock.advance(0)
        rejected = self.failureResultOf(associating, Rejected).value
        assert isinstance(rejected, Rejected)
        self.assertEqual((rejected.result, rejected.source, rejected.reason), (1, 1, 1))

    def test_ignored(self) -> None:
        """Of a server that ignores it there is no response, though one was asked for."""
        identity = UserIdentity.username("bob", positive_response_requested=True)
        scu = MemoryServer.of(Verification()).associate(user_identity=identity)
        self.assertIsNone(scu.association.user_identity_response)

    def test_too_long(self) -> None:
        """What does not go into one PDU is a ValueError, at once."""
        identity = UserIdentity.jwt(bytes(0xFFF0))
        fault = self.assertRaises(ValueError, self.server().associating, user_identity=identity)
        self.assertIn("longer than one PDU", str(fault))
