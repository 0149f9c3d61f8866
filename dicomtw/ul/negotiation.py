"""What an association agrees on (PS3.8 7.1.1.13-16, PS3.7 D.3.3): pure functions of what was proposed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import attrs

from dicomtw import uids
from dicomtw.errors import ProtocolError
from dicomtw.ul.items import (
    AsynchronousOperationsWindow,
    ContextResult,
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
    RoleSelection,
    SOPClassExtendedNegotiation,
    SubItem,
    UserIdentityAC,
    UserInformation,
)
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, MAXIMUM_CONTEXTS


@attrs.frozen
class Offer:
    """What an acceptor supports for one abstract syntax."""

    transfer_syntaxes: Collection[str]
    #: Roles in which the requestor is taken, if it asks (PS3.7 D.3.3.4); without asking it is the SCU.
    scu_role: bool = True
    scp_role: bool = False
    #: Answers a SOP class extended negotiation (PS3.7 D.3.3.5) with our application information, or None.
    extended_negotiation: Callable[[bytes], bytes | None] | None = None


@attrs.frozen(kw_only=True)
class Acceptor:
    """How an acceptor answers. `offer` maps an abstract syntax to what is supported, None for nothing."""

    offer: Callable[[str], Offer | None]
    maximum_length: int
    #: Transfer syntaxes chosen before all others, in this order; then the requestor's order decides.
    preferred_transfer_syntaxes: tuple[str, ...] = ()
    #: Choose Implicit VR Little Endian in every context that has it, refuse the others (result 4).
    enforce_default_transfer_syntax: bool = False
    #: None leaves item 55H out of the A-ASSOCIATE-AC.
    implementation_version_name: str | None = uids.IMPLEMENTATION_VERSION_NAME
    #: Operations the requestor may have outstanding, if it asks for a window (PS3.7 D.3.3.3); 0: any number.
    operations_window: int = 1
    #: The answer about the requestor's user, where it has asked for one (PS3.7 D.3.3.7).
    user_identity: UserIdentityAC | None = None
    #: Why an abstract syntax that is supported is refused to this requestor; empty where it is not.
    refusal: Callable[[str], str] = lambda _: ""


@attrs.frozen
class AcceptedContext:
    """A presentation context both sides have agreed on."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


@attrs.frozen
class RefusedContext:
    """A presentation context that was refused: the result sent, and which rule refused it, for the log."""

    context_id: int
    abstract_syntax: str
    result: ContextResult
    why: str


@attrs.frozen
class Agreement:
    """The answer to an A-ASSOCIATE-RQ: the AC, and what it means."""

    ac: A_ASSOCIATE_AC
    accepted: Mapping[int, AcceptedContext]
    refused: tuple[RefusedContext, ...]
    #: Operations the requestor may have outstanding, and those that we may; 0: any number.
    operations_window: int
    invoked_window: int
    #: SOP classes of which the requestor is an SCP.
    scp_roles: frozenset[str]
    #: Service class application information that we have answered, by SOP class.
    extended_negotiation: Mapping[str, bytes]


def check_contexts(contexts: Collection[PresentationContextRQ]) -> None:
    """Raise `ProtocolError` unless the contexts are 1 to 128 with odd, unique IDs (PS3.8 7.1.1.13)."""
    if not contexts:
        raise ProtocolError("A-ASSOCIATE-RQ proposes no presentation context")
    if len(contexts) > MAXIMUM_CONTEXTS:
        raise ProtocolError(f"A-ASSOCIATE-RQ proposes more than {MAXIMUM_CONTEXTS} presentation contexts")
    seen = set()
    for context in contexts:
        if context.context_id % 2 == 0:
            raise ProtocolError(f"presentation context ID {context.context_id} is not odd")
        if context.context_id in seen:
            raise ProtocolError(f"presentation context ID {context.context_id} is used twice")
        seen.add(context.context_id)


def negotiate(rq: A_ASSOCIATE_RQ, acceptor: Acceptor) -> Agreement:
    """Answer a proposal that is to be accepted; its contexts have passed `check_contexts`."""
    accepted: dict[int, AcceptedContext] = {}
    refused: list[RefusedContext] = []
    answers = []
    for context in rq.presentation_contexts:
        outcome = _answer(context, acceptor)
        if isinstance(outcome, AcceptedContext):
            accepted[context.context_id] = outcome
            result, transfer_syntax = ContextResult.ACCEPTANCE, outcome.transfer_syntax
        else:
            refused.append(outcome)
            result = outcome.result
            # Not significant, but the item is to be there (PS3.8 9.3.3.2).
            transfer_syntax = next(iter(context.transfer_syntaxes), uids.IMPLICIT_VR_LITTLE_ENDIAN)
        answers.append(PresentationContextAC(context.context_id, result, transfer_syntax))
    window = _window(rq, acceptor)
    ac = A_ASSOCIATE_AC(
        called_ae_title=rq.called_ae_title,
        calling_ae_title=rq.calling_ae_title,
        presentation_contexts=tuple(answers),
        user_information=_user_information(
            rq, acceptor, window, {c.abstract_syntax for c in accepted.values()}
        ),
        reserved=rq.reserved,
    )
    return Agreement(
        ac,
        accepted,
        tuple(refused),
        operations_window=window.maximum_number_operations_invoked if window else 1,
        invoked_window=window.maximum_number_operations_performed if window else 1,
        scp_roles=scp_roles(ac.user_information),
        extended_negotiation=extended_negotiation(ac.user_information),
    )


def scp_roles(user_information: UserInformation) -> frozenset[str]:
    """The SOP classes of which the requestor is an SCP, by what an A-ASSOCIATE-AC says (PS3.7 D.3.3.4)."""
    return frozenset(role.sop_class_uid for role in user_information.all(RoleSelection) if role.scp_role)


def extended_negotiation(user_information: UserInformation) -> dict[str, bytes]:
    """Service class application information by SOP class (PS3.7 D.3.3.5)."""
    return {
        item.sop_class_uid: item.service_class_application_information
        for item in user_information.all(SOPClassExtendedNegotiation)
    }


def _answer(context: PresentationContextRQ, acceptor: Acceptor) -> AcceptedContext | RefusedContext:
    offer = acceptor.offer(context.abstract_syntax)
    if offer is None:
        result, why = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, "SOP class not supported"
    elif refusal := acceptor.refusal(context.abstract_syntax):
        result, why = ContextResult.USER_REJECTION, refusal
    elif not context.transfer_syntaxes:
        result, why = ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, "no transfer syntax proposed"
    else:
        transfer_syntax = _choose(context.transfer_syntaxes, offer, acceptor)
        if transfer_syntax is not None:
            return AcceptedContext(context.context_id, context.abstract_syntax, transfer_syntax)
        result = ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
        if acceptor.enforce_default_transfer_syntax:
            why = "Implicit VR Little Endian is enforced and was not proposed"
        else:
            why = "no proposed transfer syntax supported"
    return RefusedContext(context.context_id, context.abstract_syntax, result, why)


def _choose(proposed: tuple[str, ...], offer: Offer, acceptor: Acceptor) -> str | None:
    """An acceptor may choose only among what was proposed (PS3.8 9.3.3.2)."""
    if acceptor.enforce_default_transfer_syntax:
        candidates: tuple[str, ...] = (uids.IMPLICIT_VR_LITTLE_ENDIAN,)
    else:
        candidates = (*acceptor.preferred_transfer_syntaxes, *proposed)
    return next((uid for uid in candidates if uid in proposed and uid in offer.transfer_syntaxes), None)


def _window(rq: A_ASSOCIATE_RQ, acceptor: Acceptor) -> AsynchronousOperationsWindow | None:
    """Answered only when asked for. We invoke nothing on the requestor in parallel."""
    proposed = rq.user_information.first(AsynchronousOperationsWindow)
    if proposed is None:
        return None
    return AsynchronousOperationsWindow(
        narrower(proposed.maximum_number_operations_invoked, acceptor.operations_window),
        narrower(proposed.maximum_number_operations_performed, 1),
    )


def narrower(one: int, other: int) -> int:
    """The narrower of two windows, of which 0 is the widest."""
    return min(one, other) if one and other else one or other


def _user_information(
    rq: A_ASSOCIATE_RQ,
    acceptor: Acceptor,
    window: AsynchronousOperationsWindow | None,
    abstract_syntaxes: Collection[str],
) -> UserInformation:
    """The sub-items of the AC: ours, then answers to those that the requestor sent and we implement."""
    sub_items: list[SubItem] = [
        MaximumLength(acceptor.maximum_length),
        ImplementationClassUID(uids.IMPLEMENTATION_CLASS_UID),
    ]
    if window is not None:
        sub_items.append(window)
    for role in rq.user_information.all(RoleSelection):
        offer = acceptor.offer(role.sop_class_uid)
        if offer is not None and role.sop_class_uid in abstract_syntaxes:
            sub_items.append(
                RoleSelection(
                    role.sop_class_uid, role.scu_role and offer.scu_role, role.scp_role and offer.scp_role
                )
            )
    if acceptor.implementation_version_name is not None:
        sub_items.append(ImplementationVersionName(acceptor.implementation_version_name))
    for extended in rq.user_information.all(SOPClassExtendedNegotiation):
        offer = acceptor.offer(extended.sop_class_uid)
        if (
            offer is None
            or offer.extended_negotiation is None
            or extended.sop_class_uid not in abstract_syntaxes
        ):
            continue
        answer = offer.extended_negotiation(extended.service_class_application_information)
        if answer is not None:
            sub_items.append(SOPClassExtendedNegotiation(extended.sop_class_uid, answer))
    if acceptor.user_identity is not None:
        sub_items.append(acceptor.user_identity)
    return UserInformation(tuple(sub_items))


def accepted_contexts(rq: A_ASSOCIATE_RQ, ac: A_ASSOCIATE_AC) -> dict[int, AcceptedContext]:
    """What an A-ASSOCIATE-AC accepts of our proposal.

    Raises `ProtocolError` where the acceptor chose what was not proposed (PS3.8 9.3.3.2).
    """
    proposed = {context.context_id: context for context in rq.presentation_contexts}
    accepted = {}
    for context in ac.presentation_contexts:
        if context.result != ContextResult.ACCEPTANCE:
            continue
        if context.context_id in accepted:
            raise ProtocolError(f"A-ASSOCIATE-AC accepts context {context.context_id} twice")
        proposal = proposed.get(context.context_id)
        if proposal is None:
            raise ProtocolError(
                f"A-ASSOCIATE-AC accepts context {context.context_id}, which was not proposed"
            )
        if context.transfer_syntax not in proposal.transfer_syntaxes:
            raise ProtocolError(
                f"A-ASSOCIATE-AC chooses {context.transfer_syntax} for context {context.context_id}, "
                "which was not proposed"
            )
        accepted[context.context_id] = AcceptedContext(
            context.context_id, proposal.abstract_syntax, context.transfer_syntax
        )
    return accepted
