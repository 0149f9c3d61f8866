"""Associations that peers request of us: `security.access` and `ul.negotiation` decide."""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

import attrs
from twisted.cred.error import LoginFailed
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from dicomtw import ae_title, uids
from dicomtw.association import Association, Shell, maximum_length_of
from dicomtw.authentication import Authentication, Unavailable, reason
from dicomtw.dimse import status
from dicomtw.dimse.messages import C_MOVE_RQ, Command
from dicomtw.errors import DimseError
from dicomtw.feed import Disk
from dicomtw.operations import OPERATIONS_WINDOW
from dicomtw.security.access import (
    TEMPORARY_CONGESTION,
    AccessPolicy,
    Decision,
    Requestor,
    Standing,
    sop_class_refusal,
)
from dicomtw.security.certificate import PeerCertificate
from dicomtw.security.identity import NOT_AUTHENTICATED, Demand, Identity, answer, claimed, described
from dicomtw.security.remote import Remote
from dicomtw.services import ServiceRegistry
from dicomtw.trail import SILENT, Audit
from dicomtw.ul.items import UserIdentityAC, UserIdentityRQ
from dicomtw.ul.machine import State
from dicomtw.ul.negotiation import Acceptor, check_contexts, negotiate
from dicomtw.ul.pdu import A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, Result, Source

T = TypeVar("T")

#: Seconds that the rejection of a user waits whose name or passcode, ticket or token is wrong.
LOGIN_PAUSE: Final = 1.0

# PS3.8 Table 9-21
APPLICATION_CONTEXT_NOT_SUPPORTED = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 2)


@attrs.frozen(kw_only=True)
class ApplicationEntity:
    """One server as its associations see it: its name, its rules, its services."""

    access: AccessPolicy
    registry: ServiceRegistry
    disk: Disk
    maximum_length: int = 262144
    no_implementation_version_name: bool = False
    enforce_default_transfer_syntax: bool = False
    preferred_transfer_syntaxes: tuple[str, ...] = ()
    #: How users are checked; None: user identities are ignored.
    authentication: Authentication | None = None
    audit: Audit = SILENT


class AcceptorShell(Shell, Protocol):
    """What an association that a peer requests asks of whoever carries its bytes."""

    def requestor_address(self) -> str:
        """The peer's address; asked when it proposes the association, not before."""

    def requestor_certificate(self) -> tuple[PeerCertificate | None, bool]:
        """The certificate that the peer has shown, and whether TLS has verified who signed it."""

    def standing(self, remote: Remote | None = None) -> Standing:
        """How the requestor stands now, who is `remote` if that is known.

        Asked for the first time this is its asking for the association.
        """

    def rejected(self) -> None:
        """The requestor is rejected for good."""

    def full(self) -> tuple[A_ASSOCIATE_RJ, str] | None:
        """The transient rejection to send, and why, if no further association is possible now."""

    def resolve(self, names: frozenset[str]) -> Deferred[dict[str, frozenset[str]]]:
        """The addresses of host names, by name."""

    def is_confidential(self) -> bool:
        """Whether nobody overhears the connection: it has TLS, or does not leave this machine."""

    def in_time(self, waited: Deferred[T]) -> Deferred[T]:
        """`waited`, cancelled when the ARTIM time is over or the peer is gone."""

    def pause(self, seconds: float) -> Deferred[None]:
        """Fires later."""


class AcceptedAssociation(Association):
    """One association that a peer has requested of `entity`."""

    _shell: AcceptorShell

    def __init__(self, entity: ApplicationEntity, shell: AcceptorShell) -> None:
        super().__init__(shell, entity.registry, entity.disk)
        self._entity = entity
        #: Who the requestor is; None while that is not known, and for whoever is no configured remote.
        self.remote: Remote | None = None
        self._requestor: Requestor | None = None
        #: Those of remotes that had to be looked up.
        self._addresses: dict[str, frozenset[str]] = {}
        #: What the requestor is told of its user.
        self._user_identity: UserIdentityAC | None = None
        #: Whose name it comes in, as it says.
        self._claimed_user = ""
        #: SOP classes of which the requestor is an SCP, and we may be the SCU.
        self._scp_roles: frozenset[str] = frozenset()

    def associate_indication(self, rq: A_ASSOCIATE_RQ) -> None:
        """PS3.8 7.1: decide, and answer now or when the names that the decision needs are resolved."""
        self.calling_ae_title = ae_title.significant(rq.calling_ae_title)
        self.called_ae_title = ae_title.significant(rq.called_ae_title)
        if rq.application_context_name != uids.APPLICATION_CONTEXT_NAME:
            name = rq.application_context_name
            self._reject(APPLICATION_CONTEXT_NOT_SUPPORTED, f"application context name {name[:64]!r}")
            return
        certificate, verified = self._shell.requestor_certificate()
        self._requestor = Requestor(
            calling_ae_title=rq.calling_ae_title,
            called_ae_title=rq.called_ae_title,
            address=self._shell.requestor_address(),
            certificate=certificate,
            verified=verified,
        )
        decision = self._decision()
        if decision.rejection is None:
            # Of no interest from somebody who is turned away: only now the proposal itself is looked at.
            check_contexts(rq.presentation_contexts)
            maximum_length_of(rq.user_information)
        self._decided(rq, decision)

    def _decision(self) -> Decision:
        assert self._requestor is not None
        return self._entity.access.decide(self._requestor, self._addresses, self._shell.standing())

    def _decided(self, rq: A_ASSOCIATE_RQ, decision: Decision) -> None:
        """By what is known up to now: first of the requestor, then of its addresses, then of its user."""
        assert self._requestor is not None
        if decision.rejection is not None:
            # After it is known who the user is, nothing else can have changed it.
            self._reject(decision.rejection, decision.why, of_the_user=self._requestor.is_identified)
            return
        no_room = self._no_room(decision.remote)
        if no_room is not None:
            self._reject(*no_room)
        elif decision.resolve:
            resolved = self._shell.resolve(decision.resolve)
            resolved.addCallbacks(self._resolved, self._not_resolved, (rq,))
            resolved.addErrback(self.bug)
        else:
            self.remote = decision.remote
            if self._requestor.is_identified:
                self._accept(rq)
            else:
                self._identify(rq)

    def _no_room(self, remote: Remote | None) -> tuple[A_ASSOCIATE_RJ, str] | None:
        """The rejection of one more association, and why; asked again when others may have come meanwhile."""
        no_room = self._shell.full() or self._entity.access.limit(remote, self._shell.standing(remote))
        if no_room is None and (unavailable := self._entity.audit.unavailable()):
            return TEMPORARY_CONGESTION, unavailable
        return no_room

    def _is_waiting(self) -> bool:
        """Whether the requestor has neither left nor been turned out while something was found out of it."""
        return not self.ended

    def _resolved(self, addresses: dict[str, frozenset[str]], rq: A_ASSOCIATE_RQ) -> None:
        if self._is_waiting():
            self._addresses |= addresses
            self._decided(rq, self._decision())

    def _not_resolved(self, failure: Failure) -> None:
        if not failure.check(defer.TimeoutError, defer.CancelledError):
            self.log.failure("names of remotes cannot be resolved", failure)
        self._reject(TEMPORARY_CONGESTION, "the names of remotes cannot be resolved now")

    # -- who the user is (PS3.7 D.3.3.7)

    def _identify(self, rq: A_ASSOCIATE_RQ) -> None:
        """Find out who the user is, if that is of interest, and go on."""
        authentication = self._entity.authentication
        item = rq.user_information.first(UserIdentityRQ)
        if authentication is None or authentication.policy.demand is Demand.IGNORE:
            self._identified(rq, None)
            return
        self._claimed_user = "" if item is None else claimed(item)
        why = authentication.policy.refusal(item, confidential=self._shell.is_confidential())
        if why:
            self._reject(NOT_AUTHENTICATED, why, of_the_user=True)
        elif item is None:
            self._identified(rq, None)
        else:
            assert self._requestor is not None
            checked = self._shell.in_time(authentication.check(item, self._requestor.address))
            checked.addCallbacks(self._authenticated, self._not_known, (rq, item), {}, (item,))
            checked.addErrback(self.bug)

    def _authenticated(self, found: tuple[Identity, bytes], rq: A_ASSOCIATE_RQ, item: UserIdentityRQ) -> None:
        if self._is_waiting():
            identity, response = found
            self.user = identity.name
            self._user_identity = answer(item, response)
            self._identified(rq, identity)

    def _identified(self, rq: A_ASSOCIATE_RQ, identity: Identity | None) -> None:
        assert self._requestor is not None
        self._requestor = attrs.evolve(self._requestor, identity=identity, is_identified=True)
        self._decided(rq, self._decision())

    def _not_known(self, failure: Failure, item: UserIdentityRQ) -> Deferred[None] | None:
        """The checkers have said no, or could not say; who has guessed is to wait before he can go on."""
        error = failure.value
        assert error is not None
        said, who = reason(error, item), described(item)
        if failure.check(LoginFailed):
            # Told and counted at once: who guesses need not stay to hear the answer.
            why = f"{who}: {said or 'not who he says'}"
            self._tell_of_rejection(NOT_AUTHENTICATED, why, of_the_user=True)
            paused = self._shell.in_time(self._shell.pause(LOGIN_PAUSE))
            return paused.addBoth(lambda _: self._respond(NOT_AUTHENTICATED))
        if failure.check(defer.CancelledError) and self.provider.state != State.Sta3:
            self._tell_of_rejection(NOT_AUTHENTICATED, f"{who}: gone before he was checked", of_the_user=True)
            return None
        if failure.check(defer.TimeoutError, defer.CancelledError):
            said = "not in time"
        elif said is not None and not failure.check(OSError, Unavailable):
            self.log.failure("bug in a checker of users", failure)
        self._reject(TEMPORARY_CONGESTION, f"{who}: cannot be checked now: {said or type(error).__name__}")
        return None

    # -- the answer

    def _accept(self, rq: A_ASSOCIATE_RQ) -> None:
        entity, remote = self._entity, self.remote
        anonymous = entity.no_implementation_version_name or (
            remote is not None and remote.no_implementation_version_name
        )
        agreement = negotiate(
            rq,
            Acceptor(
                offer=entity.registry.offer,
                maximum_length=entity.maximum_length,
                preferred_transfer_syntaxes=entity.preferred_transfer_syntaxes,
                enforce_default_transfer_syntax=entity.enforce_default_transfer_syntax
                or (remote is not None and remote.enforce_default_transfer_syntax),
                implementation_version_name=None if anonymous else uids.IMPLEMENTATION_VERSION_NAME,
                operations_window=OPERATIONS_WINDOW,
                user_identity=self._user_identity,
                refusal=lambda sop_class_uid: sop_class_refusal(remote, sop_class_uid),
            ),
        )
        self.accepted = dict(agreement.accepted)
        self.refused = agreement.refused
        self._scp_roles = agreement.scp_roles
        self._extended_negotiation = dict(agreement.extended_negotiation)
        assert self._requestor is not None
        self.trail = entity.audit.established(self._requestor)
        self._established(
            maximum_length_of(rq.user_information),
            performed=agreement.operations_window,
            invoked=agreement.invoked_window,
        )
        self.provider.associate_response(agreement.ac)

    def _reject(self, rejection: A_ASSOCIATE_RJ, why: str, *, of_the_user: bool = False) -> None:
        if self.provider.state == State.Sta3:
            self._tell_of_rejection(rejection, why, of_the_user=of_the_user)
            self._respond(rejection)

    def _respond(self, rejection: A_ASSOCIATE_RJ) -> None:
        if self.provider.state == State.Sta3:  # or else it has left meanwhile
            self.provider.associate_response(rejection)

    def _tell_of_rejection(self, rejection: A_ASSOCIATE_RJ, why: str, *, of_the_user: bool) -> None:
        """Count it, and tell the log and the audit trail."""
        if rejection.result == Result.REJECTED_PERMANENT:
            self._shell.rejected()
        self.ended = self.ended or f"rejected with {rejection}: {why}"
        audit = self._entity.audit
        requestor = self._requestor or Requestor(
            calling_ae_title=self.calling_ae_title,
            called_ae_title=self.called_ae_title,
            address=self._shell.requestor_address(),
        )
        if of_the_user and self._claimed_user:
            audit.login_failed(requestor, self._claimed_user, why)
        else:
            audit.rejected(requestor, why, transient=rejection.result != Result.REJECTED_PERMANENT)

    def _scu_of(self, sop_class_uid: str) -> bool:
        return sop_class_uid in self._scp_roles

    def _refusal(self, request: Command) -> DimseError | None:
        access, remote = self._entity.access, self.remote
        why = access.refusal(remote, request.message_type.operation)
        if why:
            return DimseError(status.NOT_AUTHORIZED, why)
        if request.message_type is C_MOVE_RQ:
            # PS3.4 Table C.4-2 knows one refusal of a destination: to this remote it is unknown.
            why = access.destination_refusal(remote, (request.move_destination or "").strip())
            if why:
                return DimseError(status.MOVE_DESTINATION_UNKNOWN, why)
        return None
