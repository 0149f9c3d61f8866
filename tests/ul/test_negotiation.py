"""What an acceptor answers (PS3.8 7.1.1.13-16, 9.3.3; PS3.7 D.3.3), rule by rule."""

from __future__ import annotations

from collections.abc import Callable, Collection

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.errors import AbortReason, ProtocolError
from dicomtw.ul.items import (
    AsynchronousOperationsWindow,
    ContextResult,
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
    RoleSelection,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    SubItem,
    UserIdentityAC,
    UserIdentityRQ,
    UserInformation,
)
from dicomtw.ul.negotiation import (
    AcceptedContext,
    Acceptor,
    Agreement,
    Offer,
    RefusedContext,
    accepted_contexts,
    check_contexts,
    extended_negotiation,
    narrower,
    negotiate,
    scp_roles,
)
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, MAXIMUM_CONTEXTS
from tests.ul.recorders import modest

IMPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN
EXPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN
JPEG = "1.2.840.10008.1.2.4.50"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"


def acceptor(
    offers: dict[str, Offer] | None = None,
    *,
    preferred: tuple[str, ...] = (),
    enforce: bool = False,
    version_name: str | None = "TEST",
    window: int = 1,
) -> Acceptor:
    """An acceptor of `offers`, without which it takes CT in implicit and explicit VR."""
    table = {CT: Offer((IMPLICIT, EXPLICIT))} if offers is None else offers
    return Acceptor(
        offer=table.get,
        maximum_length=16384,
        preferred_transfer_syntaxes=preferred,
        enforce_default_transfer_syntax=enforce,
        implementation_version_name=version_name,
        operations_window=window,
    )


def request(contexts: Collection[PresentationContextRQ], *sub_items: SubItem) -> A_ASSOCIATE_RQ:
    """An A-ASSOCIATE-RQ with these contexts and sub-items of user information."""
    return A_ASSOCIATE_RQ(
        "STORE", "MODALITY", tuple(contexts), UserInformation(sub_items), reserved=bytes(range(32))
    )


def ct(*transfer_syntaxes: str, context_id: int = 1) -> PresentationContextRQ:
    """A presentation context for CT images."""
    return PresentationContextRQ(context_id, CT, transfer_syntaxes)


def agree(*sub_items: SubItem, accepting: Acceptor | None = None) -> Agreement:
    """What is agreed on one accepted CT context and these sub-items."""
    return negotiate(request([ct(IMPLICIT)], *sub_items), accepting or acceptor())


class ContextTests(SynchronousTestCase):
    def _answer(self, context: PresentationContextRQ, accepting: Acceptor) -> PresentationContextAC:
        [answer] = negotiate(request([context]), accepting).ac.presentation_contexts
        return answer

    def test_accepted(self) -> None:
        """A supported context is accepted with one transfer syntax: result 0."""
        agreement = negotiate(request([ct(EXPLICIT, context_id=5)]), acceptor())
        self.assertEqual(agreement.ac.presentation_contexts, (PresentationContextAC(5, 0, EXPLICIT),))
        self.assertEqual(agreement.accepted, {5: AcceptedContext(5, CT, EXPLICIT)})
        self.assertEqual(agreement.refused, ())

    def test_refused(self) -> None:
        """Each rule that refuses a context: its result, its words, and the transfer syntax sent anyway."""
        abstract, syntaxes = ContextResult(3), ContextResult(4)
        unsupported = "no proposed transfer syntax supported"
        enforced = "Implicit VR Little Endian is enforced and was not proposed"
        other = PresentationContextRQ(1, MR, (EXPLICIT,))
        nameless = PresentationContextRQ(1, "", ())
        no_offer = acceptor({CT: Offer(())})
        preferring = acceptor({CT: Offer((EXPLICIT,))}, preferred=(IMPLICIT,))
        cases = [
            (other, acceptor(), abstract, "SOP class not supported", EXPLICIT),
            (nameless, acceptor(), abstract, "SOP class not supported", IMPLICIT),
            (ct(), acceptor(), syntaxes, "no transfer syntax proposed", IMPLICIT),
            (ct(JPEG, "1.2.3"), acceptor(), syntaxes, unsupported, JPEG),
            (ct(EXPLICIT), acceptor(enforce=True), syntaxes, enforced, EXPLICIT),
            (ct(IMPLICIT), no_offer, syntaxes, unsupported, IMPLICIT),
            (ct(IMPLICIT), preferring, syntaxes, unsupported, IMPLICIT),
        ]
        for context, accepting, result, why, transfer_syntax in cases:
            agreement = negotiate(request([context]), accepting)
            self.assertEqual(
                agreement.refused, (RefusedContext(1, context.abstract_syntax, result, why),), why
            )
            self.assertEqual(
                agreement.ac.presentation_contexts, (PresentationContextAC(1, result, transfer_syntax),)
            )
            self.assertEqual(agreement.accepted, {})

    def test_all_refused(self) -> None:
        """An A-ASSOCIATE-AC may refuse every context (PS3.8 7.1.1.14)."""
        agreement = negotiate(request([ct(JPEG), ct(JPEG, context_id=3)]), acceptor())
        self.assertEqual([context.result for context in agreement.ac.presentation_contexts], [4, 4])

    def test_choice(self) -> None:
        """The first preferred transfer syntax that was proposed is chosen, else the requestor's first."""
        everything = {CT: Offer(frozenset({IMPLICIT, EXPLICIT, JPEG}))}
        cases: list[tuple[tuple[str, ...], tuple[str, ...], bool, str]] = [
            # proposed, preferred, enforced, chosen
            ((EXPLICIT, IMPLICIT), (), False, EXPLICIT),
            ((IMPLICIT, EXPLICIT), (), False, IMPLICIT),
            (("1.2.3", JPEG, IMPLICIT), (), False, JPEG),
            ((EXPLICIT, IMPLICIT, JPEG), (JPEG,), False, JPEG),
            ((EXPLICIT, IMPLICIT, JPEG), (JPEG, IMPLICIT), False, JPEG),
            ((EXPLICIT, IMPLICIT), (JPEG, IMPLICIT), False, IMPLICIT),
            ((EXPLICIT, IMPLICIT), (JPEG,), False, EXPLICIT),
            ((EXPLICIT, IMPLICIT), ("1.2.3",), False, EXPLICIT),
            (("1.2.3", IMPLICIT), ("1.2.3",), False, IMPLICIT),
            ((EXPLICIT, IMPLICIT), (), True, IMPLICIT),
            ((EXPLICIT, IMPLICIT, JPEG), (JPEG, EXPLICIT), True, IMPLICIT),
            ((IMPLICIT,), (), True, IMPLICIT),
        ]
        for proposed, preferred, enforce, chosen in cases:
            answer = self._answer(ct(*proposed), acceptor(everything, preferred=preferred, enforce=enforce))
            case = f"{proposed} {preferred} {enforce}"
            self.assertEqual(answer, PresentationContextAC(1, 0, chosen), case)

    def test_order(self) -> None:
        """Each context is answered once, in the order of the proposal, with its ID."""
        contexts = [
            ct(IMPLICIT, context_id=255),
            PresentationContextRQ(3, MR, (IMPLICIT,)),
            ct(JPEG, context_id=7),
            ct(EXPLICIT, context_id=1),
        ]
        agreement = negotiate(request(contexts), acceptor())
        answers = [(context.context_id, context.result) for context in agreement.ac.presentation_contexts]
        self.assertEqual(answers, [(255, 0), (3, 3), (7, 4), (1, 0)])
        self.assertEqual(list(agreement.accepted), [255, 1])
        self.assertEqual([refused.context_id for refused in agreement.refused], [3, 7])

    def test_same_abstract_syntax_again(self) -> None:
        """Two contexts for one SOP class are negotiated each on its own."""
        agreement = negotiate(request([ct(IMPLICIT), ct(EXPLICIT, context_id=3)]), acceptor())
        self.assertEqual(
            [context.transfer_syntax for context in agreement.accepted.values()], [IMPLICIT, EXPLICIT]
        )

    def test_128_contexts(self) -> None:
        """As many contexts as there can be are all answered."""
        contexts = [ct(IMPLICIT, context_id=context_id) for context_id in range(1, 256, 2)]
        check_contexts(contexts)
        agreement = negotiate(request(contexts), acceptor())
        self.assertEqual(len(agreement.accepted), MAXIMUM_CONTEXTS)
        self.assertEqual(
            [context.context_id for context in agreement.ac.presentation_contexts], list(range(1, 256, 2))
        )

    @modest
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([CT, MR, "1.2"]), st.lists(st.sampled_from([IMPLICIT, EXPLICIT, JPEG, "1"]))
            ),
            min_size=1,
            max_size=9,
        ),
        st.lists(st.sampled_from([IMPLICIT, EXPLICIT, JPEG])),
        st.booleans(),
    )
    def test_any_proposal(
        self, proposals: list[tuple[str, list[str]]], preferred: list[str], enforce: bool
    ) -> None:
        """Whatever is proposed: as many answers, and nothing accepted but what both sides have."""
        offers = {CT: Offer((IMPLICIT, JPEG)), MR: Offer((EXPLICIT,))}
        rq = request(
            [
                PresentationContextRQ(2 * at + 1, abstract, tuple(syntaxes))
                for at, (abstract, syntaxes) in enumerate(proposals)
            ]
        )
        agreement = negotiate(rq, acceptor(offers, preferred=tuple(preferred), enforce=enforce))
        self.assertEqual(
            [context.context_id for context in agreement.ac.presentation_contexts],
            [context.context_id for context in rq.presentation_contexts],
        )
        for context in rq.presentation_contexts:
            accepted = agreement.accepted.get(context.context_id)
            if accepted is not None:
                self.assertIn(accepted.transfer_syntax, context.transfer_syntaxes)
                self.assertIn(accepted.transfer_syntax, offers[context.abstract_syntax].transfer_syntaxes)
        self.assertEqual(len(agreement.accepted) + len(agreement.refused), len(rq.presentation_contexts))
        self.assertEqual(accepted_contexts(rq, agreement.ac), agreement.accepted)
        self.assertEqual(A_ASSOCIATE_AC.decode(agreement.ac.encode()[6:]), agreement.ac)


class RefusalTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """What the acceptor has against a SOP class refuses its contexts, those of others not: result 1."""
        offers = {CT: Offer((IMPLICIT,)), MR: Offer((IMPLICIT,))}
        accepting = attrs.evolve(acceptor(offers), refusal=lambda uid: "not you" if uid == CT else "")
        rq = request([ct(IMPLICIT), PresentationContextRQ(3, MR, (IMPLICIT,))])
        agreement = negotiate(rq, accepting)
        self.assertEqual([one.result for one in agreement.ac.presentation_contexts], [1, 0])
        self.assertEqual([one.why for one in agreement.refused], ["not you"])


class FixedFieldTests(SynchronousTestCase):
    def test_sent_back(self) -> None:
        """The AC has the AE titles and reserved bytes of the RQ, version 1 and our application context."""
        rq = request([ct(IMPLICIT)])
        ac = negotiate(rq, acceptor()).ac
        self.assertEqual(ac.encode()[10:74], rq.encode()[10:74])
        self.assertEqual(ac.protocol_version, 1)
        self.assertEqual(ac.application_context_name, "1.2.840.10008.3.1.1.1")

    def test_ours(self) -> None:
        """The AC has our maximum length, implementation class UID and version name, and nothing unasked."""
        self.assertEqual(
            agree().ac.user_information.sub_items,
            (
                MaximumLength(16384),
                ImplementationClassUID(uids.IMPLEMENTATION_CLASS_UID),
                ImplementationVersionName("TEST"),
            ),
        )

    def test_no_version_name(self) -> None:
        """Without an implementation version name the AC has no item 55H."""
        information = agree(accepting=acceptor(version_name=None)).ac.user_information
        self.assertIsNone(information.first(ImplementationVersionName))
        self.assertNotIn(b"\x55\x00", information.encode())

    def test_default_version_name(self) -> None:
        """Unless it is told otherwise, an acceptor gives the version name of this implementation."""
        information = agree(accepting=Acceptor(offer=lambda _: None, maximum_length=0)).ac.user_information
        expected = ImplementationVersionName(uids.IMPLEMENTATION_VERSION_NAME)
        self.assertEqual(information.first(ImplementationVersionName), expected)
        self.assertEqual(information.first(MaximumLength), MaximumLength(0))

    def test_defaults(self) -> None:
        """Unless it is told otherwise: the requestor is the SCU alone, the choice is its, one operation."""
        plain = Acceptor(offer=lambda _: Offer((IMPLICIT, EXPLICIT)), maximum_length=0)
        rq = request(
            [ct(EXPLICIT, IMPLICIT)], RoleSelection(CT, True, True), AsynchronousOperationsWindow(9, 9)
        )
        agreement = negotiate(rq, plain)
        self.assertEqual(agreement.accepted[1].transfer_syntax, EXPLICIT)
        information = agreement.ac.user_information
        self.assertEqual(information.all(RoleSelection), (RoleSelection(CT, True, False),))
        self.assertEqual(agreement.operations_window, 1)

    def test_user_identity(self) -> None:
        """PS3.7 D.3.3.7.2: what the acceptor says of the user is the last sub-item."""
        accepting = attrs.evolve(acceptor(), user_identity=UserIdentityAC(b"ticket"))
        sub_items = agree(UserIdentityRQ(3, True, b"user"), accepting=accepting).ac.user_information.sub_items
        self.assertEqual(sub_items[-1], UserIdentityAC(b"ticket"))

    def test_not_answered(self) -> None:
        """Common extended negotiation and user identity are not answered here."""
        information = agree(
            SOPClassCommonExtendedNegotiation(CT, "1.2.840.10008.4.2"), UserIdentityRQ(1, True, b"user")
        ).ac.user_information
        self.assertEqual(information, agree().ac.user_information)


class RoleTests(SynchronousTestCase):
    def test_roles(self) -> None:
        """A role is granted if it was proposed and we take the requestor in it (PS3.7 D.3.3.4)."""
        roles = [(scu, scp) for scu in (False, True) for scp in (False, True)]
        for scu, scp in roles:
            for takes_scu, takes_scp in roles:
                offers = {CT: Offer((IMPLICIT,), takes_scu, takes_scp)}
                answered = agree(RoleSelection(CT, scu, scp), accepting=acceptor(offers))
                expected = (RoleSelection(CT, scu and takes_scu, scp and takes_scp),)
                self.assertEqual(answered.ac.user_information.all(RoleSelection), expected)

    def test_only_if_proposed(self) -> None:
        """Without a proposal there is no role item, whatever we would take."""
        answered = agree(accepting=acceptor({CT: Offer((IMPLICIT,), True, True)}))
        self.assertEqual(answered.ac.user_information.all(RoleSelection), ())

    def test_only_with_a_context(self) -> None:
        """Roles for a SOP class without an accepted context are not answered."""
        offers = {CT: Offer((IMPLICIT,), True, True), MR: Offer((IMPLICIT,), True, True)}
        proposed = [RoleSelection(uid, True, True) for uid in ("1.2.3", MR, CT)]
        answered = agree(*proposed, accepting=acceptor(offers))
        self.assertEqual(answered.ac.user_information.all(RoleSelection), (RoleSelection(CT, True, True),))
        refused = negotiate(request([ct(JPEG)], RoleSelection(CT, True, True)), acceptor(offers))
        self.assertEqual(refused.ac.user_information.all(RoleSelection), ())
        self.assertEqual((answered.scp_roles, refused.scp_roles), ({CT}, frozenset()))

    def test_scp_roles(self) -> None:
        """The requestor is an SCP of what it has proposed that role for and we take it in, and no other."""
        for takes_scp, proposed, expected in (
            (True, (RoleSelection(CT, False, True),), {CT}),
            (True, (RoleSelection(CT, True, True),), {CT}),
            (True, (RoleSelection(CT, True, False),), set()),
            (False, (RoleSelection(CT, True, True),), set()),
            (True, (), set()),
        ):
            offers = {CT: Offer((IMPLICIT,), scp_role=takes_scp)}
            agreement = agree(*proposed, accepting=acceptor(offers))
            self.assertEqual(agreement.scp_roles, expected, (takes_scp, proposed))

    def test_read(self) -> None:
        """So says an A-ASSOCIATE-AC to the requestor: SOP classes with the SCP role."""
        roles = (RoleSelection(CT, False, True), RoleSelection(MR, True, False))
        self.assertEqual(scp_roles(UserInformation(roles)), {CT})
        self.assertEqual(scp_roles(UserInformation(())), frozenset())


class ExtendedNegotiationTests(SynchronousTestCase):
    def _answers(
        self, extended: Callable[[bytes], bytes | None] | None, *proposed: SOPClassExtendedNegotiation
    ) -> tuple[SOPClassExtendedNegotiation, ...]:
        offers = {CT: Offer((IMPLICIT,), extended_negotiation=extended), MR: Offer((IMPLICIT,))}
        information = agree(*proposed, accepting=acceptor(offers)).ac.user_information
        return information.all(SOPClassExtendedNegotiation)

    def test_answered(self) -> None:
        """An implementation gets what was proposed, and its answer is sent."""
        proposed = SOPClassExtendedNegotiation(CT, b"\x01\x00")
        expected = (SOPClassExtendedNegotiation(CT, b"\x00\x01"),)
        self.assertEqual(self._answers(lambda information: information[::-1], proposed), expected)

    def test_empty_answer(self) -> None:
        """An empty application information is an answer."""
        proposed = SOPClassExtendedNegotiation(CT, b"\x01")
        self.assertEqual(self._answers(lambda _: b"", proposed), (SOPClassExtendedNegotiation(CT, b""),))

    def test_not_answered(self) -> None:
        """No answer where it is not implemented, declined, or the SOP class has no accepted context."""
        proposed = SOPClassExtendedNegotiation(CT, b"\x01")
        self.assertEqual(self._answers(None, proposed), ())
        self.assertEqual(self._answers(lambda _: None, proposed), ())
        self.assertEqual(self._answers(lambda _: b"\x01"), ())
        others = [SOPClassExtendedNegotiation(uid, b"\x01") for uid in (MR, "1.2.3")]
        self.assertEqual(self._answers(lambda _: b"\x01", *others), ())
        offers = {CT: Offer((IMPLICIT,), extended_negotiation=lambda _: b"\x01")}
        refused = negotiate(request([ct(JPEG)], proposed), acceptor(offers))
        self.assertEqual(refused.ac.user_information.all(SOPClassExtendedNegotiation), ())
        self.assertEqual(refused.extended_negotiation, {})

    def test_agreed(self) -> None:
        """What is agreed on is what we have answered, by SOP class."""
        offers = {
            CT: Offer((IMPLICIT,), extended_negotiation=lambda asked: asked[:1]),
            MR: Offer((IMPLICIT,), extended_negotiation=lambda _: b""),
        }
        proposed = [SOPClassExtendedNegotiation(uid, b"\x01\x02") for uid in (CT, MR, "1.2.3")]
        contexts = [ct(IMPLICIT), PresentationContextRQ(3, MR, (IMPLICIT,))]
        agreement = negotiate(request(contexts, *proposed), acceptor(offers))
        self.assertEqual(agreement.extended_negotiation, {CT: b"\x01", MR: b""})
        self.assertEqual(extended_negotiation(agreement.ac.user_information), {CT: b"\x01", MR: b""})


class WindowTests(SynchronousTestCase):
    def test_window(self) -> None:
        """The window is at most what was proposed and at most ours; of a proposal, 0 is any number."""
        cases = [
            # proposed invoked and performed, ours, answered invoked
            (1, 1, 1, 1),
            (5, 1, 1, 1),
            (5, 1, 3, 3),
            (2, 1, 3, 2),
            (3, 1, 3, 3),
            (0, 1, 3, 3),
            (0, 0, 1, 1),
            (5, 9, 5, 5),
            (0xFFFF, 0xFFFF, 8, 8),
        ]
        for invoked, performed, ours, answered in cases:
            agreement = agree(
                AsynchronousOperationsWindow(invoked, performed), accepting=acceptor(window=ours)
            )
            self.assertEqual(
                agreement.ac.user_information.all(AsynchronousOperationsWindow),
                (AsynchronousOperationsWindow(answered, 1),),
                f"{invoked} {performed} {ours}",
            )
            self.assertEqual(agreement.operations_window, answered)

    def test_without_limit_of_ours(self) -> None:
        """An acceptor without a limit (0) answers what was proposed, and to any number with any number."""
        for invoked in (0, 1, 5):
            agreement = agree(AsynchronousOperationsWindow(invoked, 1), accepting=acceptor(window=0))
            self.assertEqual(agreement.operations_window, invoked)

    def test_only_if_proposed(self) -> None:
        """Without a proposal there is no item 53H, and one operation at a time (PS3.7 D.3.3.3)."""
        agreement = agree(accepting=acceptor(window=8))
        self.assertIsNone(agreement.ac.user_information.first(AsynchronousOperationsWindow))
        self.assertEqual((agreement.operations_window, agreement.invoked_window), (1, 1))

    def test_ours(self) -> None:
        """We invoke one operation at a time on a requestor, whatever it would perform."""
        for performed in (0, 1, 5):
            agreement = agree(AsynchronousOperationsWindow(3, performed), accepting=acceptor(window=8))
            self.assertEqual(agreement.invoked_window, 1, performed)

    def test_narrower(self) -> None:
        """Of two windows the narrower one, where 0 is the widest."""
        for one, other, expected in ((0, 0, 0), (0, 5, 5), (5, 0, 5), (2, 3, 2), (3, 2, 2), (1, 1, 1)):
            self.assertEqual(narrower(one, other), expected)


class CheckContextsTests(SynchronousTestCase):
    def test_faults(self) -> None:
        """No context, more than 128, an even or zero ID, and a repeated ID are faults of the peer."""
        ids: list[tuple[list[int], str]] = [
            ([], "A-ASSOCIATE-RQ proposes no presentation context"),
            (list(range(129)), "A-ASSOCIATE-RQ proposes more than 128 presentation contexts"),
            ([1] * 200, "A-ASSOCIATE-RQ proposes more than 128 presentation contexts"),
            ([2], "presentation context ID 2 is not odd"),
            ([1, 254], "presentation context ID 254 is not odd"),
            ([0], "presentation context ID 0 is not odd"),
            ([1, 3, 1], "presentation context ID 1 is used twice"),
        ]
        for context_ids, words in ids:
            contexts = [ct(IMPLICIT, context_id=context_id) for context_id in context_ids]
            fault = self.assertRaises(ProtocolError, check_contexts, contexts)
            self.assertEqual(str(fault), words)
            self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)

    def test_more_than_are_decoded(self) -> None:
        """More contexts than are read from the wire are the same fault: AB(2,6)."""
        contexts = [ct(IMPLICIT, context_id=number % 256) for number in range(1, 2000, 2)]
        decoded = A_ASSOCIATE_RQ.decode(request(contexts).encode()[6:])
        fault = self.assertRaises(ProtocolError, check_contexts, decoded.presentation_contexts)
        self.assertEqual(str(fault), "A-ASSOCIATE-RQ proposes more than 128 presentation contexts")
        self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)

    def test_in_order(self) -> None:
        """1 to 128 odd IDs in any order are right."""
        for context_ids in ([1], [255], [5, 1, 3], range(1, 256, 2), range(255, 0, -2)):
            check_contexts([ct(IMPLICIT, context_id=context_id) for context_id in context_ids])


class AcceptedContextsTests(SynchronousTestCase):
    def _accepted(self, *answers: PresentationContextAC) -> dict[int, AcceptedContext]:
        rq = request([ct(IMPLICIT, EXPLICIT), PresentationContextRQ(3, MR, (IMPLICIT,))])
        return accepted_contexts(rq, A_ASSOCIATE_AC("STORE", "MODALITY", answers))

    def test_accepted(self) -> None:
        """A requestor learns which contexts it may use, and with which transfer syntax."""
        accepted = self._accepted(
            PresentationContextAC(3, 0, IMPLICIT), PresentationContextAC(1, 0, EXPLICIT)
        )
        self.assertEqual(accepted, {1: AcceptedContext(1, CT, EXPLICIT), 3: AcceptedContext(3, MR, IMPLICIT)})

    def test_refused(self) -> None:
        """A refused context is not used, and nothing else in its item is significant."""
        refused = [PresentationContextAC(1, result, "1.2.3") for result in (1, 2, 3, 4, 255)]
        for context in refused:
            self.assertEqual(self._accepted(context, PresentationContextAC(9, 3, "")), {})

    def test_unanswered(self) -> None:
        """A context that is not answered is not used."""
        self.assertEqual(self._accepted(), {})

    def test_faults(self) -> None:
        """An acceptor that accepts what was not proposed breaks the protocol."""
        cases = {
            PresentationContextAC(5, 0, IMPLICIT): "A-ASSOCIATE-AC accepts context 5, which was not proposed",
            PresentationContextAC(3, 0, EXPLICIT): (
                f"A-ASSOCIATE-AC chooses {EXPLICIT} for context 3, which was not proposed"
            ),
        }
        for answer, words in cases.items():
            fault = self.assertRaises(ProtocolError, self._accepted, answer)
            self.assertEqual(str(fault), words)

    def test_accepted_twice(self) -> None:
        """One context cannot be accepted twice."""
        answer = PresentationContextAC(3, 0, IMPLICIT)
        fault = self.assertRaises(ProtocolError, self._accepted, answer, answer)
        self.assertEqual(str(fault), "A-ASSOCIATE-AC accepts context 3 twice")
