"""Associations that peers request of us: `security.access` and `ul.negotiation` decide."""

from __future__ import annotations

from collections.abc import Collection
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
from dicomtw.security.identity import (
    NOT_AUTHENTICATED,
    Demand,
    Identity,
    answer,
    claimed,
    described,
)
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

    def standing(self) -> Standing:
        """How the requestor stands now; asked for the first time this is its asking for the association."""

    def rejected(self) -> None:
        """The requestor is rejected for good."""

    def full(self) -> tuple[A_ASSOCIATE_RJ, str] | None:
        """The transient rejection to send, and why, if no further association is possible now."""

    def resolve(self, names: frozenset[str]) -> Deferred[frozenset[str]]:
        """The addresses of host names."""

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
        self._remote: Remote | None = None
        self._requestor: Requestor | None = None
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
        requestor = Requestor(
            calling_ae_title=rq.calling_ae_title,
            called_ae_title=rq.called_ae_title,
            address=self._shell.requestor_address(),
            certificate=certificate,
            verified=verified,
        )
        self._requestor = requestor
        decision = self._decision(requestor)
        if decision.rejection is None:
            # Of no interest from somebody who is turned away: only now the proposal itself is looked at.
            check_contexts(rq.presentation_contexts)
            maximum_length_of(rq.user_information)
        if decision.resolve and self._shell.full() is None:
            resolved = self._shell.resolve(decision.resolve)
            resolved.addCallbacks(
                lambda addresses: self._decided(rq, self._decision(requestor, addresses)),
                self._not_resolved,
            )
            resolved.addErrback(self.bug)
        else:
            self._decided(rq, decision)

    def _decision(self, requestor: Requestor, addresses: Collection[str] | None = None) -> Decision:
        return self._entity.access.decide(requestor, addresses, self._shell.standing())

    def _decided(self, rq: A_ASSOCIATE_RQ, decision: Decision) -> None:
        if self.provider.state != State.Sta3 or self.ended:
            return  # it left, or was turned out, while its name was looked up
        if decision.rejection is not None:
            self._reject(decision.rejection, decision.why)
            return
        full = self._shell.full()
        if full is not None:
            self._reject(*full)
            return
        unavailable = self._entity.audit.unavailable()
        if unavailable:
            self._reject(TEMPORARY_CONGESTION, unavailable)
            return
        self._remote = decision.remote
        self._identify(rq)

    # -- who the user is (PS3.7 D.3.3.7)

    def _identify(self, rq: A_ASSOCIATE_RQ) -> None:
        """Find out who the user is, if that is of interest, and go on."""
        authentication = self._entity.authentication
        item = rq.user_information.first(UserIdentityRQ)
        if authentication is None or authentication.policy.demand is Demand.IGNORE:
            self._identified(rq)
            return
        self._claimed_user = "" if item is None else claimed(item)
        why = authentication.policy.refusal(item, confidential=self._shell.is_confidential())
        if why:
            self._not_authenticated(why)
        elif item is None:
            self._identified(rq)
        else:
            assert self._requestor is not None
            checked = self._shell.in_time(authentication.check(item, self._requestor.address))
            checked.addCallbacks(self._authenticated, self._not_known, (rq, item), {}, (item,))
            checked.addErrback(self.bug)

    def _authenticated(self, found: tuple[Identity, bytes], rq: A_ASSOCIATE_RQ, item: UserIdentityRQ) -> None:
        if self.provider.state != State.Sta3 or self.ended:
            return  # it left, or was turned out, while its user was checked
        # Others may have come meanwhile.
        full = self._shell.full() or self._entity.access.limit(self._remote, self._shell.standing())
        if full is not None:
            self._reject(*full)
            return
        identity, response = found
        assert self._requestor is not None
        self._requestor = attrs.evolve(self._requestor, identity=identity)
        self.user = identity.name
        self._identified(rq, answer(item, response))

    def _identified(self, rq: A_ASSOCIATE_RQ, user_identity: UserIdentityAC | None = None) -> None:
        assert self._requestor is not None
        why = self._entity.access.user_refusal(self._remote, self._requestor.identity)
        if why:
            self._not_authenticated(why)
        else:
            self._accept(rq, user_identity)

    def _not_known(self, failure: Failure, item: UserIdentityRQ) -> Deferred[None] | None:
        """The checkers have said no, or could not say; who has guessed is to wait before he can go on."""
        error = failure.value
        assert error is not None
        said, who = reason(error, item), described(item)
        if failure.check(LoginFailed):
            why = f"{who}: {said or 'not who he says'}"
            paused = self._shell.in_time(self._shell.pause(LOGIN_PAUSE))
            return paused.addBoth(lambda _: self._not_authenticated(why))
        if failure.check(defer.TimeoutError, defer.CancelledError):
            said = "not in time"
        elif said and not failure.check(OSError, Unavailable):
            self.log.failure("bug in a checker of users", failure)
        self._reject(TEMPORARY_CONGESTION, f"{who}: cannot be checked now: {said or type(error).__name__}")
        return None

    def _not_authenticated(self, why: str) -> None:
        self._reject(NOT_AUTHENTICATED, why)

    # -- the answer

    def _accept(self, rq: A_ASSOCIATE_RQ, user_identity: UserIdentityAC | None) -> None:
        entity, remote = self._entity, self._remote
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
                user_identity=user_identity,
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

    def _not_resolved(self, failure: Failure) -> None:
        if not failure.check(defer.TimeoutError, defer.CancelledError):
            self.log.failure("names of remotes cannot be resolved", failure)
        self._reject(TEMPORARY_CONGESTION, "the names of remotes cannot be resolved now")

    def _reject(self, rejection: A_ASSOCIATE_RJ, why: str) -> None:
        if self.provider.state != State.Sta3:
            return  # it left meanwhile
        if rejection.result == Result.REJECTED_PERMANENT:
            self._shell.rejected()
        self._tell_of_rejection(rejection, why)
        self.ended = f"rejected with {rejection}: {why}"
        self.provider.associate_response(rejection)

    def _tell_of_rejection(self, rejection: A_ASSOCIATE_RJ, why: str) -> None:
        audit = self._entity.audit
        requestor = self._requestor or Requestor(
            calling_ae_title=self.calling_ae_title,
            called_ae_title=self.called_ae_title,
            address=self._shell.requestor_address(),
        )
        if rejection is NOT_AUTHENTICATED and self._claimed_user:
            audit.login_failed(requestor, self._claimed_user, why)
        else:
            audit.rejected(requestor, why, transient=rejection.result != Result.REJECTED_PERMANENT)

    def _scu_of(self, sop_class_uid: str) -> bool:
        return sop_class_uid in self._scp_roles

    def _refusal(self, request: Command) -> DimseError | None:
        access, remote = self._entity.access, self._remote
        why = access.refusal(remote, request.message_type.name.removesuffix("-RQ"))
        if why:
            return DimseError(status.NOT_AUTHORIZED, why)
        if request.message_type is C_MOVE_RQ:
            # PS3.4 Table C.4-2 knows one refusal of a destination: to this remote it is unknown.
            why = access.destination_refusal(remote, (request.move_destination or "").strip())
            if why:
                return DimseError(status.MOVE_DESTINATION_UNKNOWN, why)
        return None
