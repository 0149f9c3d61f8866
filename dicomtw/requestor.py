"""Associations that we request of peers: what is proposed, what came of it, and their orderly end."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import attrs
from twisted.internet.defer import Deferred

from dicomtw import ae_title, uids
from dicomtw.association import Association, Shell, maximum_length_of
from dicomtw.errors import AssociationLost, NotAccepted, NotConnected, Rejected
from dicomtw.feed import Disk
from dicomtw.services import ServiceRegistry
from dicomtw.ul.items import (
    AsynchronousOperationsWindow,
    ContextResult,
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    PresentationContextRQ,
    RoleSelection,
    SOPClassExtendedNegotiation,
    SubItem,
    UserIdentityAC,
    UserIdentityRQ,
    UserInformation,
)
from dicomtw.ul.machine import State
from dicomtw.ul.negotiation import (
    AcceptedContext,
    RefusedContext,
    accepted_contexts,
    extended_negotiation,
    narrower,
    scp_roles,
)
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, MAXIMUM_CONTEXTS


@attrs.frozen(kw_only=True)
class Proposal:
    """What a requestor proposes: an A-ASSOCIATE-RQ in the words of whoever writes one."""

    calling_ae_title: str
    called_ae_title: str
    #: Abstract syntax and transfer syntaxes of each presentation context; 128 at most.
    contexts: tuple[tuple[str, tuple[str, ...]], ...]
    maximum_length: int = 262144
    #: Operations that we want to have outstanding at a time; 0: any number.
    operations_window: int = 1
    #: SOP classes of which we are an SCP, too: what C-GET asks for is stored by them.
    scp_roles: frozenset[str] = frozenset()
    extended_negotiation: Mapping[str, bytes] = attrs.field(factory=dict)
    #: None leaves item 55H out.
    implementation_version_name: str | None = uids.IMPLEMENTATION_VERSION_NAME
    #: Who our user is (PS3.7 D.3.3.7).
    user_identity: UserIdentityRQ | None = None

    def rq(self) -> A_ASSOCIATE_RQ:
        """The PDU. Raises `ValueError` for what cannot be proposed."""
        for title in (self.calling_ae_title, self.called_ae_title):
            fault = ae_title.fault(title)
            if fault is not None:
                raise ValueError(f"AE title {title!r} {fault}")
        if not 0 < len(self.contexts) <= MAXIMUM_CONTEXTS:
            raise ValueError(
                f"{len(self.contexts)} presentation contexts; 1 to {MAXIMUM_CONTEXTS} are possible"
            )
        user_information = UserInformation(tuple(self._sub_items()))
        try:
            user_information.encode()
        except struct.error:
            raise ValueError(
                "user identity, roles and extended negotiation are longer than one PDU"
            ) from None
        return A_ASSOCIATE_RQ(
            called_ae_title=self.called_ae_title,
            calling_ae_title=self.calling_ae_title,
            presentation_contexts=tuple(
                PresentationContextRQ(number, *context)
                for number, context in zip(range(1, 256, 2), self.contexts, strict=False)
            ),
            user_information=user_information,
        )

    def _sub_items(self) -> Iterable[SubItem]:
        yield MaximumLength(self.maximum_length)
        yield ImplementationClassUID(uids.IMPLEMENTATION_CLASS_UID)
        if self.operations_window != 1:
            yield AsynchronousOperationsWindow(self.operations_window, 1)
        for sop_class_uid in sorted(self.scp_roles):
            # Both: whoever proposes one of them gives up the other.
            yield RoleSelection(sop_class_uid, scu_role=True, scp_role=True)
        if self.implementation_version_name is not None:
            yield ImplementationVersionName(self.implementation_version_name)
        for sop_class_uid, information in self.extended_negotiation.items():
            yield SOPClassExtendedNegotiation(sop_class_uid, information)
        if self.user_identity is not None:
            yield self.user_identity


class RequestedAssociation(Association):
    """One association that we request of a peer; `registry` is what we perform on it ourselves."""

    def __init__(self, proposal: Proposal, shell: Shell, registry: ServiceRegistry, disk: Disk) -> None:
        super().__init__(shell, registry, disk)
        self._rq = proposal.rq()
        self.calling_ae_title = proposal.calling_ae_title
        self.called_ae_title = proposal.called_ae_title
        #: Fires when the peer has accepted; fails with `AssociationLost`.
        self.established: Deferred[None] = Deferred()
        #: Fires when the association is over, however.
        self.over: Deferred[None] = Deferred()
        #: SOP classes of which the peer takes us for an SCP; and those of which we are not the SCU.
        self.scp_roles: frozenset[str] = frozenset()
        self._not_scu: frozenset[str] = frozenset()
        #: What the peer has answered about our user, if it was asked to: its server response, empty for a
        #: name and a passcode. None: it has not said that it knows him (PS3.7 D.3.3.7).
        self.user_identity_response: bytes | None = None
        self._releasing = False

    @property
    def operations_window(self) -> int:
        """Operations of ours that may be outstanding at a time, as was agreed on; 0: any number."""
        return self._requests.window

    def request(self) -> None:
        """PS3.8 7.1: ask for the association on the connection that is open."""
        self.provider.associate_request(self._rq)
        self.provider.connection_confirmation()

    def associate_confirmation_accept(self, ac: A_ASSOCIATE_AC) -> None:
        self.accepted = accepted_contexts(self._rq, ac)
        answers = {context.context_id: context.result for context in ac.presentation_contexts}
        self.refused = tuple(
            _refused(context, answers.get(context.context_id, ContextResult.NO_REASON))
            for context in self._rq.presentation_contexts
            if context.context_id not in self.accepted
        )
        asked, said = self._rq.user_information, ac.user_information
        maximum_length = maximum_length_of(said)
        # An acceptor answers what was proposed (PS3.7 D.3.3.3-5): what else it says does not count.
        proposed_roles = frozenset(role.sop_class_uid for role in asked.all(RoleSelection))
        self.scp_roles = proposed_roles & scp_roles(said)
        self._not_scu = proposed_roles & {
            role.sop_class_uid for role in said.all(RoleSelection) if not role.scu_role
        }
        user_identity, answer = asked.first(UserIdentityRQ), said.first(UserIdentityAC)
        if answer is not None and user_identity is not None and user_identity.positive_response_requested:
            self.user_identity_response = answer.server_response
        proposed_extended = extended_negotiation(asked)
        self._extended_negotiation = {
            sop_class_uid: information
            for sop_class_uid, information in extended_negotiation(said).items()
            if sop_class_uid in proposed_extended
        }
        window, granted = (one.first(AsynchronousOperationsWindow) for one in (asked, said))
        invoked = 1
        if window is not None and granted is not None:
            invoked = narrower(
                window.maximum_number_operations_invoked, granted.maximum_number_operations_invoked
            )
        self._established(maximum_length, performed=1, invoked=invoked)
        self.established.callback(None)

    def associate_confirmation_reject(self, rj: A_ASSOCIATE_RJ) -> None:
        self.ended = f"rejected with {rj}"
        self._fail(Rejected(f"the peer has rejected the association: {rj}", rj.result, rj.source, rj.reason))

    def _scu_of(self, sop_class_uid: str) -> bool:
        return sop_class_uid not in self._not_scu

    def contexts_for(self, sop_class_uid: str) -> Sequence[AcceptedContext]:
        """`contexts`, of which there is one at least; raises `NotAccepted`."""
        contexts = self.contexts(sop_class_uid)
        if not contexts:
            raise self.not_accepted(sop_class_uid)
        return contexts

    def not_accepted(self, sop_class_uid: str, transfer_syntax: str = "", more: str = "") -> NotAccepted:
        """Which side it is that does not have a context for this, and why."""
        about = uids.name_of(sop_class_uid)
        refused = [one.why for one in self.refused if one.abstract_syntax == sop_class_uid]
        if self.contexts(sop_class_uid):
            why = f"it is not accepted in {uids.name_of(transfer_syntax)}"
        elif refused:
            why = f"the peer has refused it: {refused[0]}"
        elif any(one.abstract_syntax == sop_class_uid for one in self.accepted.values()):
            why = "by the roles agreed on we are not its SCU"
        else:
            why = "it was not proposed"
        return NotAccepted(f"no presentation context for {about}: {why}" + (f", and {more}" if more else ""))

    def release(self) -> Deferred[None]:
        """PS3.8 7.2: end the association in order; fires when it is over, however that came.

        What is outstanding, of ours and of the peer's, is answered first; queries and retrievals are
        cancelled.
        """
        if self.provider.state == State.Sta6 and not self._releasing:
            self._releasing = True
            self._requests.close("we have released the association")
            for request in self._requests.cancellable():
                self.cancel(request)
                request.close()
            self._quiet()
        released: Deferred[None] = Deferred()
        self.over.addBoth(released.callback)
        return released

    def _quiet(self) -> None:
        idle = not (self._requests.outstanding or self.busy)
        if self._releasing and idle and self.provider.state == State.Sta6:
            self.provider.release_request()

    def release_confirmation(self, _: object) -> None:
        self.ended = "released"
        self._gone("")

    def _gone(self, how: str) -> None:
        super()._gone(how)
        self._fail(AssociationLost(self.ended))

    def _fail(self, fault: AssociationLost) -> None:
        if not self.established.called:
            self.established.errback(fault)
        if not self.over.called:
            self.over.callback(None)

    def not_connected(self, why: str) -> None:
        """The connection ended before there was an association."""
        self._fail(NotConnected(why))


def _refused(context: PresentationContextRQ, result: int) -> RefusedContext:
    """A context that the peer has not accepted, and its result in words (PS3.8 Table 9-18)."""
    try:
        known = ContextResult(result)
    except ValueError:
        known = ContextResult.NO_REASON
    why = known.name.lower().replace("_", " ")
    return RefusedContext(context.context_id, context.abstract_syntax, known, why)
