"""Associations that we request: what is proposed, what comes of it, and their orderly end."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.client import RequestorProtocol
from dicomtw.dimse.messages import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_FIND_RQ,
    C_FIND_RSP,
    C_STORE_RQ,
    C_STORE_RSP,
    Command,
)
from dicomtw.errors import AssociationLost, LocalStateError, NotConnected, Rejected
from dicomtw.feed import Disk
from dicomtw.limits import Limits
from dicomtw.outbox import BLOCK
from dicomtw.requestor import Proposal, RequestedAssociation
from dicomtw.requests import Answer, Request
from dicomtw.services import ServiceClass, ServiceRegistry
from dicomtw.services.storage import Storage
from dicomtw.testing import MemoryReactor, MemoryStore, Peer, at_once, message
from dicomtw.ul.items import (
    AsynchronousOperationsWindow,
    ContextResult,
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    PresentationContextAC,
    RoleSelection,
    SOPClassExtendedNegotiation,
    SubItem,
    UserIdentityAC,
    UserIdentityRQ,
    UserInformation,
)
from dicomtw.ul.negotiation import AcceptedContext
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RP, A_RELEASE_RQ
from tests.test_association import Held

IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
EVR = uids.EXPLICIT_VR_LITTLE_ENDIAN
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
FIND = uids.STUDY_ROOT_FIND

CONTEXTS = ((uids.VERIFICATION, (IVR,)), (CT, (EVR, IVR)), (FIND, (IVR,)))
LIMITS = Limits(artim_timeout=30, dimse_timeout=60, idle_timeout=600)


def proposal(**options: Any) -> Proposal:
    return Proposal(**{"calling_ae_title": "SCU", "called_ae_title": "PMOD", "contexts": CONTEXTS, **options})


def ac(*sub_items: SubItem, **contexts: str) -> A_ASSOCIATE_AC:
    """An acceptance; of contexts 1, 3 and 5, unless they are given as c1=transfer syntax."""
    answers = contexts or {"c1": IVR, "c3": EVR, "c5": IVR}
    items = (
        sub_items
        if any(isinstance(item, MaximumLength) for item in sub_items)
        else (MaximumLength(16384), *sub_items)
    )
    return A_ASSOCIATE_AC(
        "PMOD",
        "SCU",
        tuple(PresentationContextAC(int(number[1:]), 0, syntax) for number, syntax in answers.items()),
        UserInformation((*items, ImplementationClassUID("1.2.3"))),
    )


class RequestorTestCase(SynchronousTestCase):
    """Our client on one side of a connection in memory, and the test on the other."""

    def setUp(self) -> None:
        self.clock = MemoryReactor()

    def request(
        self, *services: ServiceClass, limits: Limits = LIMITS, disk: Disk | None = None, **options: Any
    ) -> Peer:
        """The peer of an association that is requested; it has got the proposal."""
        self.protocol = RequestorProtocol(
            proposal(**options), ServiceRegistry(services), disk or Disk(at_once), limits, self.clock
        )
        self.association: RequestedAssociation = self.protocol.association
        factory = SimpleNamespace(buildProtocol=lambda _: self.protocol)
        server: Any = SimpleNamespace(clock=self.clock, factory=factory)
        peer = Peer(server, "192.0.2.7")
        (self.rq,) = peer.received()
        return peer

    def associated(
        self, *services: ServiceClass, answer: A_ASSOCIATE_AC | None = None, **options: Any
    ) -> Peer:
        """The peer of an association that it has accepted."""
        peer = self.request(*services, **options)
        peer.send(answer or ac())
        self.successResultOf(self.association.established)
        return peer

    def context(self, sop_class_uid: str) -> AcceptedContext:
        (context,) = self.association.contexts(sop_class_uid)
        return context

    def echo(self) -> Request:
        """We ask for a C-ECHO."""
        return self.invoke(C_ECHO_RQ, uids.VERIFICATION)

    def find(self) -> Request:
        return self.invoke(C_FIND_RQ, FIND, b"keys", priority=0)

    def invoke(self, kind: Any, sop_class_uid: str, data_set: Any = None, **elements: Any) -> Request:
        invoked = self.association.invoke(
            self.context(sop_class_uid), kind, data_set, affected_sop_class_uid=sop_class_uid, **elements
        )
        return self.successResultOf(Deferred.fromCoroutine(invoked))

    def store(self, data_set: io.BytesIO) -> Deferred[Any]:
        stored = self.association.store(self.context(CT), "1.2.3", data_set)
        return Deferred.fromCoroutine(stored)

    def kinds(self, peer: Peer) -> list[str]:
        """What the peer has received, by name."""
        return [
            one.message_type.name if isinstance(one, Command) else type(one).__name__
            for one in peer.received()
        ]

    def assert_lost(self, lost: Deferred[Any], words: str, kind: type[Exception] = AssociationLost) -> None:
        failure = self.failureResultOf(lost, kind)
        self.assertEqual(failure.type, kind)
        self.assertEqual(failure.getErrorMessage(), words)

    def assert_aborts_after_requests(self, peer: Peer) -> None:
        """A peer that sends nothing but requests is aborted after one to two DIMSE timeouts."""
        for second in range(121):
            peer.send(*message(1, C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=1)))
            self.clock.advance(1)
            if A_ABORT(0) in peer.received():
                self.assertGreaterEqual(second, 59)
                return
        self.fail("it is not aborted")

    def assert_over(self, peer: Peer) -> None:
        """Nothing is left of it when the time is over that a peer has to close."""
        self.successResultOf(self.association.over)
        self.clock.advance(LIMITS.artim_timeout + 2)
        self.assertFalse(peer.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ProposalTests(SynchronousTestCase):
    def test_contexts(self) -> None:
        """Contexts have the odd IDs from 1, in their order; up to 128."""
        rq = proposal().rq()
        self.assertEqual((rq.calling_ae_title.strip(), rq.called_ae_title.strip()), ("SCU", "PMOD"))
        self.assertEqual(rq.application_context_name, uids.APPLICATION_CONTEXT_NAME)
        found = [
            (one.context_id, one.abstract_syntax, one.transfer_syntaxes) for one in rq.presentation_contexts
        ]
        self.assertEqual(found, [(1, *CONTEXTS[0]), (3, *CONTEXTS[1]), (5, *CONTEXTS[2])])
        most = proposal(contexts=((CT, (IVR,)),) * 128).rq()
        self.assertEqual([one.context_id for one in most.presentation_contexts], list(range(1, 256, 2)))

    def test_faults(self) -> None:
        """What cannot be proposed is a ValueError that says why."""
        for options, words in (
            ({"called_ae_title": ""}, "AE title '' is empty"),
            ({"calling_ae_title": "A" * 17}, "AE title 'AAAAAAAAAAAAAAAAA'"),
            ({"called_ae_title": "A\\B"}, "backslash"),
            ({"contexts": ()}, "0 presentation contexts; 1 to 128 are possible"),
            ({"contexts": ((CT, (IVR,)),) * 129}, "129 presentation contexts; 1 to 128 are possible"),
        ):
            fault = self.assertRaises(ValueError, proposal(**options).rq)
            self.assertIn(words, str(fault))

    def test_sub_items(self) -> None:
        """What is not asked for is not proposed; the rest is, roles as those of an SCP."""
        least = (MaximumLength(262144), ImplementationClassUID(uids.IMPLEMENTATION_CLASS_UID))
        name = ImplementationVersionName(uids.IMPLEMENTATION_VERSION_NAME)
        cases: list[tuple[dict[str, Any], tuple[SubItem, ...]]] = [
            ({}, (*least, name)),
            ({"implementation_version_name": None}, least),
            ({"maximum_length": 16384}, (MaximumLength(16384), least[1], name)),
            ({"operations_window": 4}, (*least, AsynchronousOperationsWindow(4, 1), name)),
            ({"operations_window": 0}, (*least, AsynchronousOperationsWindow(0, 1), name)),
            (
                {"scp_roles": frozenset({MR, CT})},
                (*least, RoleSelection(CT, True, True), RoleSelection(MR, True, True), name),
            ),
            (
                {"extended_negotiation": {FIND: b"\1\1"}},
                (*least, name, SOPClassExtendedNegotiation(FIND, b"\1\1")),
            ),
        ]
        for options, expected in cases:
            self.assertEqual(proposal(**options).rq().user_information.sub_items, expected, options)


class EstablishmentTests(RequestorTestCase):
    def test_accepted(self) -> None:
        """The proposal is sent when the connection is there, and what is accepted of it is ours to use."""
        peer = self.request()
        self.assertEqual(self.rq, proposal().rq())
        self.assertNoResult(self.association.established)
        answers = (
            PresentationContextAC(1, 0, IVR),
            PresentationContextAC(3, 4, ""),
            PresentationContextAC(5, 3, IVR),
        )
        peer.send(A_ASSOCIATE_AC("PMOD", "SCU", answers, ac().user_information))
        self.successResultOf(self.association.established)
        self.assertEqual(
            self.association.contexts(uids.VERIFICATION), [AcceptedContext(1, uids.VERIFICATION, IVR)]
        )
        self.assertEqual(self.association.contexts(CT), [])
        self.assertEqual(
            [(one.context_id, one.abstract_syntax, one.result, one.why) for one in self.association.refused],
            [
                (3, CT, ContextResult(4), "transfer syntaxes not supported"),
                (5, FIND, ContextResult(3), "abstract syntax not supported"),
            ],
        )

    def test_not_answered_contexts(self) -> None:
        """A context that the peer does not answer, or with a result that there is not, is refused."""
        peer = self.request()
        answers = (PresentationContextAC(1, 0, IVR), PresentationContextAC(3, 77, IVR))
        peer.send(A_ASSOCIATE_AC("PMOD", "SCU", answers, ac().user_information))
        found = [(one.context_id, one.result, one.why) for one in self.association.refused]
        self.assertEqual(found, [(3, ContextResult(2), "no reason"), (5, ContextResult(2), "no reason")])

    def test_rejected(self) -> None:
        """A rejection has the result, source and reason that the peer has sent, and says them."""
        for result, source, reason, transient in (
            (1, 1, 7, False),
            (1, 1, 3, False),
            (1, 2, 2, False),
            (2, 3, 1, True),
            (2, 3, 2, True),
            (2, 1, 1, True),
            (9, 8, 7, False),
        ):
            peer = self.request()
            peer.send(A_ASSOCIATE_RJ(result, source, reason))
            failure = self.failureResultOf(self.association.established, Rejected)
            fault: Any = failure.value
            self.assertEqual((fault.result, fault.source, fault.reason), (result, source, reason))
            self.assertEqual(fault.transient, transient)
            self.assertIn("the peer has rejected the association: ", str(fault))
            self.assertIn(f"({result},{source},{reason})", str(fault))
            self.assertEqual(peer.received(), [])
            self.assert_over(peer)

    def test_aborted_by_us(self) -> None:
        """AA-1 in Sta5: an association that is no longer wanted is aborted, and its connection closed."""
        peer = self.request()
        self.association.abort("the request was cancelled")
        self.assertEqual(peer.received(), [A_ABORT(0)])
        self.assert_lost(self.association.established, "aborted by us: the request was cancelled")
        peer.send(ac())
        self.assertEqual(self.association.accepted, {})
        self.assert_over(peer)

    def test_aborted_before_the_connection(self) -> None:
        """One that is aborted before there is a connection is told so."""
        protocol = RequestorProtocol(proposal(), ServiceRegistry([]), Disk(at_once), LIMITS, self.clock)
        protocol.association.abort("never mind")
        self.assert_lost(protocol.association.established, "aborted by us: never mind")

    def test_aborted_by_the_peer(self) -> None:
        """So may the peer, as user or provider, and whoever waits hears which."""
        for abort, words in (
            (A_ABORT(0), "aborted by the peer"),
            (A_ABORT(2, 1), "aborted: peer sent A-ABORT by the service-provider: unrecognized-PDU"),
        ):
            peer = self.request()
            peer.send(abort)
            self.assert_lost(self.association.established, words)
            self.assertEqual(peer.received(), [])
            self.assert_over(peer)

    def test_what_was_not_proposed(self) -> None:
        """PS3.8 9.3.3.2: an acceptance of what was not proposed is AB(2,6)."""
        for case, answer in {
            "ID": ac(c7=IVR),
            "transfer syntax": ac(c1=EVR),
            "no transfer syntax": ac(c1=""),
            "maximum length": ac(MaximumLength(7)),
        }.items():
            peer = self.request()
            peer.send(answer)
            self.assertEqual(peer.received(), [A_ABORT(2, 6)], case)
            failure = self.failureResultOf(self.association.established, AssociationLost)
            self.assertTrue(failure.getErrorMessage().startswith("aborted: "), case)
            self.assertFalse(self.association.waits_for_response, case)
            self.assert_over(peer)

    def test_accepted_twice(self) -> None:
        """So is one that accepts a context twice, or comes twice."""
        peer = self.request()
        answers = (PresentationContextAC(1, 0, IVR),) * 2
        peer.send(A_ASSOCIATE_AC("PMOD", "SCU", answers, ac().user_information))
        self.assertEqual(peer.received(), [A_ABORT(2, 6)])
        self.failureResultOf(self.association.established, AssociationLost)
        peer = self.associated()
        peer.send(ac())
        self.assertEqual(peer.received(), [A_ABORT(2, 2)])
        self.assert_over(peer)

    def test_nonsense(self) -> None:
        """AA-8 in Sta5: any other PDU is AB(2,2), and what is none AB(2,1)."""
        for case, sent, expected in (
            (
                "P-DATA-TF",
                message(1, C_ECHO_RQ(affected_sop_class_uid="1.2", message_id=1))[0],
                A_ABORT(2, 2),
            ),
            ("A-ASSOCIATE-RQ", proposal().rq(), A_ABORT(2, 2)),
            ("A-RELEASE-RQ", A_RELEASE_RQ(), A_ABORT(2, 2)),
            ("A-RELEASE-RP", A_RELEASE_RP(), A_ABORT(2, 2)),
            ("none", b"\x16\x03\x01\x02\x00\x01", A_ABORT(2, 1)),
        ):
            peer = self.request()
            peer.send(sent)
            self.assertEqual(peer.received(), [expected], case)
            self.failureResultOf(self.association.established, AssociationLost)
            self.assert_over(peer)

    def test_no_answer(self) -> None:
        """A peer that does not answer within the ARTIM time is aborted, however slowly it begins to."""
        for dribble in (b"", ac().encode()):
            peer = self.request()
            for second in range(29):
                self.clock.advance(1)
                peer.send(dribble[second : second + 1])
            self.clock.advance(0.5)
            self.assertEqual(peer.received(), [])
            self.clock.advance(0.5)
            self.assertEqual(peer.received(), [A_ABORT(0)])
            words = "aborted by us: no answer to the A-ASSOCIATE-RQ within the ARTIM time"
            self.assert_lost(self.association.established, words)
            self.assert_over(peer)

    def test_slow_connection(self) -> None:
        """The time that the connection took to open is not the peer's."""
        protocol = RequestorProtocol(proposal(), ServiceRegistry([]), Disk(at_once), LIMITS, self.clock)
        self.clock.advance(29)
        factory = SimpleNamespace(buildProtocol=lambda _: protocol)
        server: Any = SimpleNamespace(clock=self.clock, factory=factory)
        peer = Peer(server, "192.0.2.7")
        peer.received()
        self.clock.advance(29)
        self.assertEqual(peer.received(), [])
        peer.send(ac())
        self.successResultOf(protocol.association.established)

    def test_closed(self) -> None:
        """A connection that is closed before the answer, or in the middle of it, is told."""
        for sent in (b"", ac().encode()[:20]):
            peer = self.request()
            peer.send(sent)
            peer.close()
            self.assert_lost(self.association.established, "connection closed by the peer")
            self.assert_over(peer)

    def test_half_closed(self) -> None:
        """A peer that sends no more will not answer: its connection is closed."""
        peer = self.request()
        self.protocol.readConnectionLost()
        self.assertFalse(peer.connected)
        self.assert_lost(self.association.established, "connection closed by the peer")

    def test_not_connected(self) -> None:
        """What TLS has against the peer is why there is no association; there was no connection, to us."""
        peer = self.request()
        self.protocol.tls_failed("the certificate is expired")
        self.protocol.tls_failed("and something else, later")
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assert_lost(self.association.established, "the certificate is expired", NotConnected)
        self.assertEqual(self.association.ended, "the certificate is expired")
        self.assertEqual(peer.received(), [])

    def test_primitives(self) -> None:
        """A requestor gets no indication: to be told one is a bug of the machine's."""
        self.request()
        self.assertRaises(AssertionError, self.association.associate_indication, None)

    def test_too_early(self) -> None:
        """Nothing can be asked before the association is established."""
        self.request()
        context = AcceptedContext(1, uids.VERIFICATION, IVR)
        invoked = self.association.invoke(context, C_ECHO_RQ, affected_sop_class_uid=uids.VERIFICATION)
        self.failureResultOf(Deferred.fromCoroutine(invoked), LocalStateError)
        self.assertFalse(self.association.waits_for_response)


class AgreementTests(RequestorTestCase):
    """What the peer answers to what was proposed besides contexts."""

    def test_window(self) -> None:
        """The window is the narrower of ours and the peer's; without an answer, or a question, it is one."""
        for asked, answered, expected in (
            (1, None, 1),
            (1, (4, 4), 1),
            (4, None, 1),
            (4, (2, 1), 2),
            (4, (4, 1), 4),
            (4, (9, 1), 4),
            (4, (0, 1), 4),
            (0, (3, 1), 3),
            (0, (0, 1), 0),
        ):
            sub_items = () if answered is None else (AsynchronousOperationsWindow(*answered),)
            self.associated(answer=ac(*sub_items), operations_window=asked)
            context = self.context(uids.VERIFICATION)
            begun = []
            for _ in range(20):
                invoked = self.association.invoke(
                    context, C_ECHO_RQ, affected_sop_class_uid=uids.VERIFICATION
                )
                began = Deferred.fromCoroutine(invoked)
                if began.called:
                    begun.append(self.successResultOf(began))
                else:
                    began.addErrback(lambda failure: None)
            self.assertEqual(len(begun), expected or 20, (asked, answered))

    def test_user_identity(self) -> None:
        """PS3.7 D.3.3.7: a server response counts if one was asked for, and not otherwise."""
        for asked, expected in ((True, b"ticket"), (False, None)):
            user = UserIdentityRQ(3, asked, b"ours")
            self.associated(answer=ac(UserIdentityAC(b"ticket")), user_identity=user)
            self.assertEqual(self.association.user_identity_response, expected)
        self.associated(answer=ac(UserIdentityAC(b"ticket")))
        self.assertIsNone(self.association.user_identity_response)

    def test_roles(self) -> None:
        """PS3.7 D.3.3.4: whose SCU and SCP we are is what the peer agrees to, of what was proposed."""
        for proposed, answered, is_scp, is_scu in (
            (False, None, False, True),
            (False, (False, True), False, True),
            (True, None, False, True),
            (True, (False, True), True, False),
            (True, (False, False), False, False),
            (True, (True, False), False, True),
            (True, (True, True), True, True),
        ):
            sub_items = () if answered is None else (RoleSelection(CT, *answered),)
            self.associated(answer=ac(*sub_items), scp_roles=frozenset({CT} if proposed else ()))
            case = proposed, answered
            self.assertEqual(CT in self.association.scp_roles, is_scp, case)
            self.assertEqual(bool(self.association.contexts(CT)), is_scu, case)

    def test_extended_negotiation(self) -> None:
        """PS3.7 D.3.3.5: application information counts where it was asked for."""
        self.associated(
            answer=ac(SOPClassExtendedNegotiation(FIND, b"\1"), SOPClassExtendedNegotiation(CT, b"\2")),
            extended_negotiation={FIND: b"\1\1"},
        )
        self.assertEqual(self.association.extended_negotiation(FIND), b"\1")
        self.assertEqual(self.association.extended_negotiation(CT), b"")

    def test_maximum_length(self) -> None:
        """What the peer receives is what it gets, cut to its length; without an item any length."""
        for sub_items, longest in (((MaximumLength(128),), 128), ((MaximumLength(0),), 1 << 18)):
            peer = self.associated(answer=ac(*sub_items))
            self.store(io.BytesIO(bytes(1 << 19)))
            sent = peer.transport.value()
            at, lengths = 0, []
            while at < len(sent):
                length = int.from_bytes(sent[at + 2 : at + 6], "big")
                lengths.append(length)
                at += 6 + length
            self.assertLessEqual(max(lengths), longest)
            self.assertGreater(max(lengths), longest - 8)
        answer = ac()
        peer = self.request()
        peer.send(A_ASSOCIATE_AC("PMOD", "SCU", answer.presentation_contexts, UserInformation(())))
        self.successResultOf(self.association.established)


class PerformedTests(RequestorTestCase):
    """What the peer asks of us, on an association that we have requested."""

    def test_stored(self) -> None:
        """PS3.4 C.4.3: what C-GET asks for is stored by the service that we have for it."""
        store = MemoryStore()
        peer = self.associated(
            Storage(store), answer=ac(RoleSelection(CT, False, True)), scp_roles=frozenset({CT})
        )
        request = C_STORE_RQ(
            message_id=9, priority=0, affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3"
        )
        response = peer.request(3, request, b"data")
        self.assertEqual((response.message_type, response.status), (C_STORE_RSP, 0))
        self.assertEqual(store.objects["1.2.3"][1], b"data")
        self.assertEqual(store.objects["1.2.3"][0].transfer_syntax_uid, EVR)

    def test_not_performed(self) -> None:
        """What we have no service for is answered 0211H."""
        peer = self.associated()
        request = C_ECHO_RQ(message_id=9, affected_sop_class_uid=uids.VERIFICATION)
        self.assertEqual(peer.request(1, request).status, 0x0211)


class LossTests(RequestorTestCase):
    """Requests of ours whose answer does not come."""

    def test_timeout(self) -> None:
        """No response within the DIMSE timeout, counted from the request, is an abort."""
        peer = self.associated()
        self.clock.advance(50)
        answer = self.echo().answer()
        peer.received()
        self.clock.advance(59.5)
        self.assertEqual(peer.received(), [])
        self.clock.advance(0.5)
        self.assertEqual(peer.received(), [A_ABORT(0)])
        self.assert_lost(answer, "aborted by us: no response within the DIMSE timeout")
        self.assert_over(peer)

    def test_no_timeout_while_we_send(self) -> None:
        """A data set that takes us long to read is no silence of the peer's; its answer is, from then on."""
        reads: list[Deferred[Any]] = []

        def later(function: Any) -> Deferred[Any]:
            reads.append(Deferred())
            return reads[-1].addCallback(lambda _: function())

        self.patch(Disk, "lags", True)
        peer = self.associated(disk=Disk(later))
        stored = self.store(io.BytesIO(b"data"))
        for _ in range(2):
            self.clock.advance(100)
            reads.pop().callback(None)
        self.assertEqual(self.kinds(peer), ["C-STORE-RQ"])
        self.clock.advance(59.5)
        self.assertEqual(peer.received(), [])
        self.clock.advance(0.5)
        self.assertEqual(peer.received(), [A_ABORT(0)])
        self.assert_lost(stored, "aborted by us: no response within the DIMSE timeout")

    def test_unread(self) -> None:
        """A peer that does not take what we send for the DIMSE timeout is aborted."""
        peer = self.associated()
        self.protocol.pauseProducing()
        stored = self.store(io.BytesIO(b"data"))
        self.clock.advance(60)
        self.assertEqual(peer.received(), [A_ABORT(0)])
        self.assert_lost(stored, "aborted by us: the peer does not read our answers")
        self.assert_over(peer)

    def test_idle(self) -> None:
        """An association of ours that nobody uses ends by itself."""
        peer = self.associated()
        self.clock.advance(599)
        self.assertEqual(peer.received(), [])
        self.clock.advance(1)
        self.assertEqual(peer.received(), [A_ABORT(0)])
        self.assertEqual(self.association.ended, "aborted by us: idle timeout")

    def test_ends(self) -> None:
        """Aborted, closed or broken, each of the peer's, whoever waits hears of it."""
        for sent, words in (
            (A_ABORT(0), "aborted by the peer"),
            (b"", "connection closed by the peer"),
            (b"\x0a\0\0\0\0\4", "aborted: unrecognized PDU type 0AH"),
            (proposal().rq(), "aborted: A-ASSOCIATE-RQ in Sta6"),
        ):
            peer = self.associated(operations_window=4, answer=ac(AsynchronousOperationsWindow(2, 1)))
            answers = [self.echo().answer(), self.find().answer()]
            waiting = self.store(io.BytesIO(b"data"))
            if sent:
                peer.send(sent)
            else:
                peer.close()
            for one in (*answers, waiting):
                self.assert_lost(one, words)
            self.assert_over(peer)

    def test_wrong_answers(self) -> None:
        """A response to nothing that we asked, or that no such request has, is AB(2,6)."""
        for context_id, response in (
            (1, C_ECHO_RSP(message_id_being_responded_to=2, status=0)),
            (3, C_ECHO_RSP(message_id_being_responded_to=1, status=0)),
            (1, C_FIND_RSP(message_id_being_responded_to=1, status=0)),
            (1, C_ECHO_RSP(message_id_being_responded_to=1, status=0xFF00)),
        ):
            peer = self.associated()
            answer = self.echo().answer()
            peer.received()
            peer.send(*message(context_id, response))
            self.assertEqual(peer.received(), [A_ABORT(2, 6)])
            self.failureResultOf(answer, AssociationLost)
            self.assertEqual(self.flushLoggedErrors(), [])

    def test_long_answer(self) -> None:
        """So is a response whose data set does not end, and no bug of ours: it is kept up to 1 MiB."""
        peer = self.associated()
        answer = self.find().answer()
        peer.received()
        response = C_FIND_RSP(message_id_being_responded_to=1, status=0xFF00, data_set=True)
        peer.send(*message(5, response, bytes((1 << 20) + 2)))
        self.assertEqual(peer.received(), [A_ABORT(2, 6)])
        self.assert_lost(answer, "aborted: response with a data set of more than 1048576 bytes")

    def test_sent_and_cut_off(self) -> None:
        """A data set that ends in a read error costs the association, unless nothing of it is sent yet."""

        class Failing(io.BytesIO):
            def read(self, length: int | None = -1, /) -> bytes:
                data = super().read(length)
                if not data:
                    raise OSError(5, "Input/output error")
                return data

        peer = self.associated()
        self.failureResultOf(self.store(Failing(b"data")), OSError)
        self.assertEqual(peer.received(), [])
        answer = self.echo().answer()
        self.assertEqual(self.kinds(peer), ["C-ECHO-RQ"])
        peer.send(*message(1, C_ECHO_RSP(message_id_being_responded_to=2, status=0)))
        self.successResultOf(answer)
        source = Failing(bytes(4 * BLOCK))
        self.failureResultOf(self.store(source), OSError)
        self.assertTrue(source.closed)
        self.assertEqual(self.kinds(peer), ["C-STORE-RQ", "A_ABORT"])
        self.assertEqual(
            self.association.ended,
            "aborted by us: a data set was not sent to its end: [Errno 5] Input/output error",
        )
        self.assert_over(peer)

    def test_cancelled(self) -> None:
        """A store that is given up before its turn leaves nothing, with it half sent the association ends."""
        peer = self.associated()
        self.protocol.pauseProducing()
        stored = self.store(io.BytesIO(b"data"))
        stored.cancel()
        self.failureResultOf(stored, CancelledError)
        self.assertFalse(self.association.waits_for_response)
        self.patch(self.protocol.transport, "write", self.write_once)
        self.protocol.resumeProducing()
        stored = self.store(io.BytesIO(bytes(1 << 20)))
        stored.cancel()
        self.failureResultOf(stored, CancelledError)
        self.assertEqual(self.kinds(peer), ["C-STORE-RQ", "A_ABORT"])

    def write_once(self, data: bytes) -> None:
        self.protocol.transport.io.write(data)
        self.protocol.pauseProducing()

    def test_cancelled_and_answered(self) -> None:
        """A store that is given up when it is sent is answered all the same, and then there is room."""
        peer = self.associated()
        stored = self.store(io.BytesIO(b"data"))
        stored.cancel()
        self.failureResultOf(stored, CancelledError)
        self.assertTrue(self.association.waits_for_response)
        peer.received()
        response = C_STORE_RSP(message_id_being_responded_to=1, status=0)
        peer.send(*message(3, response))
        self.assertEqual(self.echo().message_id, 2)

    def test_wrong_elements(self) -> None:
        """What a request does not have leaves nothing outstanding."""
        self.associated()
        context = self.context(uids.VERIFICATION)
        self.failureResultOf(
            Deferred.fromCoroutine(self.association.invoke(context, C_ECHO_RQ, nonsense=1)), TypeError
        )
        self.assertFalse(self.association.waits_for_response)


class SlowPeerTests(RequestorTestCase):
    """Peers that owe us a response and do something else."""

    def test_requests_in_place_of_a_response(self) -> None:
        """Whatever a peer asks of us, its response is due within two DIMSE timeouts at the latest."""
        peer = self.associated()
        answer = self.echo().answer()
        self.assert_aborts_after_requests(peer)
        self.assert_lost(answer, "aborted by us: no response within the DIMSE timeout")
        self.assert_over(peer)

    def test_response_byte_by_byte(self) -> None:
        """A response of which a byte comes now and then is none."""
        peer = self.associated()
        answer = self.echo().answer()
        peer.received()
        (response,) = message(1, C_ECHO_RSP(message_id_being_responded_to=1, status=0))
        for byte in response[:50]:
            peer.send(bytes((byte,)))
            self.assertEqual(peer.received(), [])
            self.clock.advance(1.1)
        self.clock.advance(60)
        self.assertEqual(peer.received(), [A_ABORT(0)])
        self.assert_lost(answer, "aborted by us: no response within the DIMSE timeout")
        self.assert_over(peer)


class ReleaseTests(RequestorTestCase):
    """PS3.8 7.2: the orderly end, whoever wants it."""

    def answered(self, peer: Peer, request: Request, status: int = 0) -> None:
        response = {C_ECHO_RQ: C_ECHO_RSP, C_FIND_RQ: C_FIND_RSP, C_STORE_RQ: C_STORE_RSP}[
            request.message_type
        ]
        command = response(message_id_being_responded_to=request.message_id, status=status)
        peer.send(*message(request.context.context_id, command))

    def test_release(self) -> None:
        """A release is over when the peer has confirmed it; the connection is closed then."""
        peer = self.associated()
        released, again = self.association.release(), self.association.release()
        self.assertEqual(peer.received(), [A_RELEASE_RQ()])
        self.assertNoResult(released)
        with capturedLogs() as events:
            peer.send(A_RELEASE_RP())
            for one in (released, again, self.association.release()):
                self.assertIsNone(self.successResultOf(one))
            self.assert_over(peer)
        (line,) = [event["association"] for event in events if "association" in event]
        self.assertEqual(line["ended"], "released")

    def test_not_answered(self) -> None:
        """A peer that does not confirm for the DIMSE timeout is aborted, and the release is over."""
        peer = self.associated()
        released = self.association.release()
        self.clock.advance(60)
        self.assertEqual(peer.received(), [A_RELEASE_RQ(), A_ABORT(0)])
        self.successResultOf(released)
        self.assert_over(peer)

    def test_not_answered_in_many_words(self) -> None:
        """Nor is one waited for longer than two of these that sends messages in place of the confirmation."""
        peer = self.associated()
        released = self.association.release()
        self.assert_aborts_after_requests(peer)
        self.successResultOf(released)
        self.assertIn("the release was not answered", self.association.ended)
        self.assert_over(peer)

    def test_not_confirmed(self) -> None:
        """A peer that aborts or closes instead of confirming ends it as well."""
        for end in (lambda peer: peer.send(A_ABORT(0)), Peer.close):
            peer = self.associated()
            released = self.association.release()
            end(peer)
            self.successResultOf(released)
            self.assert_over(peer)

    def test_no_longer_waited_for(self) -> None:
        """Who does not wait for the end any more does not change it."""
        peer = self.associated()
        released = self.association.release()
        released.cancel()
        self.failureResultOf(released, CancelledError)
        peer.send(A_RELEASE_RP())
        self.assert_over(peer)

    def test_collision(self) -> None:
        """Sta9, Sta11: when both sides want it the requestor confirms first, and then is confirmed."""
        peer = self.associated()
        released = self.association.release()
        peer.received()
        peer.send(A_RELEASE_RQ())
        self.assertEqual(peer.received(), [A_RELEASE_RP()])
        self.assertNoResult(released)
        peer.send(A_RELEASE_RP())
        self.successResultOf(released)
        self.assertEqual(self.association.ended, "released")
        self.assert_over(peer)

    def test_what_is_outstanding(self) -> None:
        """What is outstanding is answered before the release is requested; nothing more is begun."""
        peer = self.associated(operations_window=4, answer=ac(AsynchronousOperationsWindow(2, 1)))
        requests = [self.echo(), self.echo()]
        waiting = self.store(io.BytesIO(b"data"))
        released = self.association.release()
        self.assert_lost(waiting, "we have released the association")
        late = self.store(io.BytesIO(b"late"))
        self.assert_lost(late, "we have released the association")
        self.assertEqual(self.kinds(peer), ["C-ECHO-RQ"] * 2)
        for request in requests:
            answer = request.answer()
            self.answered(peer, request)
            self.successResultOf(answer)
        self.assertEqual(peer.received(), [A_RELEASE_RQ()])
        peer.send(A_RELEASE_RP())
        self.successResultOf(released)

    def test_data_set_under_way(self) -> None:
        """A data set that is half sent is sent to its end, and its answer waited for."""
        peer = self.associated()
        self.protocol.pauseProducing()
        stored = self.store(io.BytesIO(bytes(1 << 20)))
        released = self.association.release()
        self.assertEqual(peer.received(), [])
        self.protocol.resumeProducing()
        self.assertEqual(self.kinds(peer), ["C-STORE-RQ"])
        peer.send(*message(3, C_STORE_RSP(message_id_being_responded_to=1, status=0)))
        self.assertEqual(self.successResultOf(stored).status, 0)
        self.assertEqual(peer.received(), [A_RELEASE_RQ()])
        self.assertNoResult(released)

    def test_queries(self) -> None:
        """A query that nobody has seen to its end is cancelled, and what comes of it is dropped."""
        peer = self.associated()
        request = self.find()
        for _ in range(100):
            self.answered(peer, request, 0xFF00)
        self.assertEqual(peer.transport.producerState, "paused")
        released = self.association.release()
        self.assertEqual(peer.transport.producerState, "producing")
        self.assertEqual(peer.received()[1:], [C_CANCEL_RQ(message_id_being_responded_to=request.message_id)])
        for _ in range(100):
            self.answered(peer, request, 0xFF00)
        self.answered(peer, request, 0xFE00)
        self.assertEqual(peer.received(), [A_RELEASE_RQ()])
        peer.send(A_RELEASE_RP())
        self.successResultOf(released)

    def test_what_we_perform(self) -> None:
        """What we perform for the peer is answered before we request the release."""
        held = Held(MemoryStore())
        peer = self.associated(held)
        request = C_STORE_RQ(
            message_id=9, priority=0, affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3"
        )
        peer.send(*message(3, request, b"data"))
        self.association.release()
        self.assertEqual(peer.received(), [])
        held.let(9)
        self.assertEqual(self.kinds(peer), ["C-STORE-RSP", "A_RELEASE_RQ"])

    def test_requested_by_the_peer(self) -> None:
        """A release that the peer requests is confirmed; what was outstanding is lost, and all is over."""
        peer = self.associated()
        answer = self.echo().answer()
        peer.received()
        peer.send(A_RELEASE_RQ())
        self.assertEqual(peer.received(), [A_RELEASE_RP()])
        self.assert_lost(answer, "the peer has requested the release of the association")
        self.successResultOf(self.association.over)
        self.successResultOf(self.association.release())
        self.assert_lost(
            self.store(io.BytesIO(b"x")), "the peer has requested the release of the association"
        )
        self.assert_over(peer)

    def test_requested_by_the_peer_in_a_data_set(self) -> None:
        """A data set that is half sent then is sent no further."""
        peer = self.associated()
        self.patch(self.protocol.transport, "write", self.write_once)
        stored = self.store(io.BytesIO(bytes(1 << 20)))
        peer.received()
        peer.send(A_RELEASE_RQ())
        self.assertEqual(peer.received(), [A_RELEASE_RP()])
        self.failureResultOf(stored, AssociationLost)
        self.protocol.resumeProducing()
        self.assertEqual(peer.received(), [])
        self.assert_over(peer)

    def write_once(self, data: bytes) -> None:
        self.protocol.transport.io.write(data)
        self.protocol.pauseProducing()

    def test_late_answers(self) -> None:
        """When we have requested the release nothing is outstanding: a response then answers nothing."""
        peer = self.associated()
        self.association.release()
        peer.received()
        peer.send(*message(1, C_ECHO_RSP(message_id_being_responded_to=1, status=0)))
        self.assertEqual(peer.received(), [A_ABORT(2, 6)])

    def test_answers(self) -> None:
        """Answers are their commands and their data sets, empty where there is none."""
        peer = self.associated()
        request = self.find()
        response = C_FIND_RSP(message_id_being_responded_to=1, status=0xFF00, data_set=True)
        peer.send(*message(5, response, b"match"))
        self.assertEqual(self.successResultOf(request.answer()), Answer(response, b"match"))
        response = C_FIND_RSP(message_id_being_responded_to=1, status=0)
        peer.send(*message(5, response))
        self.assertEqual(self.successResultOf(request.answer()), Answer(response, b""))
