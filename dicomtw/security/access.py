"""Who may associate, and for what: one pure object from who asks to a decision with its reason.

Each rule is a function that says in words what it has against a requestor, empty for nothing; the first one
of its table that objects decides. What does not depend on the requestor alone, how many associations there
are and how often somebody has asked, comes in as a `Standing`, which `rates.Register` keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from dicomtw import ae_title, uids
from dicomtw.security.addresses import Network, address_of, host_of, same_address, within
from dicomtw.security.certificate import PeerCertificate
from dicomtw.security.identity import NOT_AUTHENTICATED, Identity
from dicomtw.security.remote import OPERATIONS, Remote
from dicomtw.ul.pdu import A_ASSOCIATE_RJ, Result, Source

#: The addresses of host names, by name.
Addresses = Mapping[str, Collection[str]]
_NONE: Final[Addresses] = MappingProxyType({})

#: Operations that hand out what is stored.
_RETRIEVAL = ("C-FIND", "C-GET", "C-MOVE")

# PS3.8 Table 9-21
NO_REASON_GIVEN = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 1)
CALLING_NOT_RECOGNIZED = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 3)
CALLED_NOT_RECOGNIZED = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 7)
TEMPORARY_CONGESTION = A_ASSOCIATE_RJ(Result.REJECTED_TRANSIENT, Source.SERVICE_PROVIDER_PRESENTATION, 1)
LOCAL_LIMIT_EXCEEDED = A_ASSOCIATE_RJ(Result.REJECTED_TRANSIENT, Source.SERVICE_PROVIDER_PRESENTATION, 2)


@attrs.frozen(kw_only=True)
class Requestor:
    """Who asks for an association: AE titles as sent, the address, empty where there is none (unix:), the
    certificate it has shown, which is `verified` where TLS checks who has signed it, and its user.
    """

    calling_ae_title: str
    called_ae_title: str
    address: str = ""
    certificate: PeerCertificate | None = None
    verified: bool = False
    #: None where no user was named, or it is not known yet whether that is who asks.
    identity: Identity | None = None
    #: It is known; before that nobody is held to be the wrong user.
    is_identified: bool = False


@attrs.frozen(kw_only=True)
class Standing:
    """How a requestor stands by what was before; the default is that of the first who ever asks."""

    #: Associations of the remote that it is.
    associations: int = 0
    #: There were too many of late.
    is_hasty: bool = False
    #: Its host has asked too often of late, or was rejected too often.
    host_is_hasty: bool = False
    host_is_rejected: bool = False


@attrs.frozen
class Decision:
    """What becomes of a requestor.

    `rejection` is None for one who may associate; `why` says it in words. `remote` is who they are, if known.
    `resolve`: names of hosts to look up; decide again when their addresses are known, and when it is known
    who the user is.
    """

    rejection: A_ASSOCIATE_RJ | None = None
    why: str = ""
    remote: Remote | None = None
    resolve: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class AccessPolicy:
    """The rules of one server."""

    ae_title: str
    remotes: tuple[Remote, ...] = ()
    accept_any_ae: bool = False
    accept_any_called_ae: bool = False
    #: Query and retrieve are for those too who are no configured remote.
    allow_retrieve_any: bool = False
    #: Where requestors come from; empty: from anywhere.
    networks: tuple[Network, ...] = ()
    #: What one host may do in a minute; 0: as much as it likes.
    associations_per_minute_per_host: int = 0
    failed_associations_per_minute_per_host: int = 0

    # -- who may associate

    def stranger(self, address: str) -> str:
        """Why nobody at `address` is spoken to; else empty."""
        if not self.networks or within(self.networks, address):
            return ""
        return f"{address or 'this socket'} is not of the server's networks"

    def decide(
        self,
        requestor: Requestor,
        addresses: Addresses = _NONE,
        standing: Standing = Standing(),
    ) -> Decision:
        """Whether `requestor` may associate, by itself: whether there is room for it `limit` says.

        `addresses` are those of the names asked for in `resolve`.
        """
        for rule, rejection in _OF_THE_SERVER:
            why = rule(self, requestor, standing)
            if why:
                return Decision(rejection, why)
        return self._identified(requestor, addresses)

    def limit(self, remote: Remote | None, standing: Standing) -> tuple[A_ASSOCIATE_RJ, str] | None:
        """The rejection of one more association of `remote`, and why; None if it may have it.

        To be asked again when time has passed, for others may have come meanwhile.
        """
        if remote is not None:
            for rule, rejection in _OF_THE_REMOTE:
                why = rule(remote, standing)
                if why:
                    return rejection, why
        return None

    def _identified(self, requestor: Requestor, addresses: Addresses) -> Decision:
        """Which remote it is: of those with its name the first that nothing speaks against."""
        calling = ae_title.significant(requestor.calling_ae_title)
        known = [remote for remote in self.remotes if remote.aet == calling]
        against: dict[str, A_ASSOCIATE_RJ] = {}
        names = set()
        for remote in known:
            why, rejection = next(
                ((why, rejection) for rule, rejection in _WHO_IT_IS if (why := rule(remote, requestor))),
                ("", CALLING_NOT_RECOGNIZED),
            )
            if not why:
                if _is_at(remote, requestor.address, addresses):
                    return Decision(remote=remote)
                if _is_looked_up(remote) and remote.host not in addresses:
                    names.add(remote.host)
                why = f"{calling!r} is not known at {requestor.address or 'this socket'}"
            against[why] = rejection
        if names:
            return Decision(resolve=frozenset(names))
        if known:
            # Its name is taken: whoever else comes with it is not it, even where any AE is accepted.
            of_the_user = NOT_AUTHENTICATED in against.values()
            rejection = NOT_AUTHENTICATED if of_the_user else CALLING_NOT_RECOGNIZED
            return Decision(rejection, "; ".join(against))
        if self.accept_any_ae:
            return Decision()
        return Decision(CALLING_NOT_RECOGNIZED, f"calling AE title {calling!r} is not a configured remote")

    # -- for what

    def refusal(self, remote: Remote | None, operation: str) -> str:
        """Why `operation`, such as C-FIND, is refused to `remote`, None for an unknown one; else empty."""
        if remote is None:
            if operation in _RETRIEVAL and not self.allow_retrieve_any:
                return "not a configured remote"
            return ""
        if operation in OPERATIONS.values() and operation not in _operations(remote):
            return "not allowed to this remote"
        return ""

    def destination_refusal(self, remote: Remote | None, destination: str) -> str:
        """Why C-MOVE to the AE title `destination` is refused to `remote`; else empty."""
        if remote is None or not remote.destinations or destination in remote.destinations:
            return ""
        return f"move destination {destination!r} is not allowed to this remote"


def sop_class_refusal(remote: Remote | None, sop_class_uid: str) -> str:
    """Why `remote` may not use a SOP class; else empty. Whoever may C-ECHO may use that of verification."""
    if remote is None or not remote.sop_classes or sop_class_uid in remote.sop_classes:
        return ""
    if sop_class_uid == uids.VERIFICATION and "C-ECHO" in _operations(remote):
        return ""
    return "SOP class not allowed to this remote"


def _operations(remote: Remote) -> frozenset[str]:
    return frozenset(OPERATIONS[name] for name in remote.operations)


# -- rules of the server, whoever asks


def _strangers(policy: AccessPolicy, requestor: Requestor, _: Standing) -> str:
    return policy.stranger(requestor.address)


def _rejected_hosts(policy: AccessPolicy, requestor: Requestor, standing: Standing) -> str:
    if not standing.host_is_rejected:
        return ""
    limit = policy.failed_associations_per_minute_per_host
    return f"{host_of(requestor.address)} was rejected more than {limit} times a minute"


def _hasty_hosts(policy: AccessPolicy, requestor: Requestor, standing: Standing) -> str:
    if not standing.host_is_hasty:
        return ""
    limit = policy.associations_per_minute_per_host
    return f"{host_of(requestor.address)} has asked more than {limit} times a minute"


def _called_title(policy: AccessPolicy, requestor: Requestor, _: Standing) -> str:
    called = ae_title.significant(requestor.called_ae_title)
    if not called or (called != policy.ae_title and not policy.accept_any_called_ae):
        return f"called AE title {called!r} is not {policy.ae_title!r}"
    fault = ae_title.fault(called)
    return "" if fault is None else f"called AE title {called!r} {fault}"


def _calling_title(policy: AccessPolicy, requestor: Requestor, _: Standing) -> str:
    calling = ae_title.significant(requestor.calling_ae_title)
    fault = ae_title.fault(calling)
    return "" if fault is None else f"calling AE title {calling!r} {fault}"


_OF_THE_SERVER: tuple[tuple[Callable[[AccessPolicy, Requestor, Standing], str], A_ASSOCIATE_RJ], ...] = (
    (_strangers, NO_REASON_GIVEN),
    (_rejected_hosts, TEMPORARY_CONGESTION),
    (_hasty_hosts, TEMPORARY_CONGESTION),
    (_called_title, CALLED_NOT_RECOGNIZED),
    (_calling_title, CALLING_NOT_RECOGNIZED),
)


# -- rules that tell a remote from others who use its name


def _certificates(remote: Remote, requestor: Requestor) -> str:
    certificate = requestor.certificate
    if not remote.certificate:
        return ""
    if certificate is None:
        return f"{remote.aet!r} is bound to a certificate, and has shown none"
    if any(binding.fits(certificate, requestor.verified) for binding in remote.certificate):
        return ""
    shown = f"{certificate.subject[:80]!r} (SHA-256 {certificate.sha256[:16]})"
    return f"{remote.aet!r} is bound to another certificate than {shown}"


def _users(remote: Remote, requestor: Requestor) -> str:
    identity = requestor.identity
    if not (remote.users and requestor.is_identified):
        return ""
    if identity is None:
        return f"no user identity: {remote.aet!r} is for its users only"
    return "" if identity.name in remote.users else f"{identity}: {remote.aet!r} is for its users only"


#: What a remote may be bound to besides the place it is at: a rule says what is against it.
_WHO_IT_IS: tuple[tuple[Callable[[Remote, Requestor], str], A_ASSOCIATE_RJ], ...] = (
    (_certificates, CALLING_NOT_RECOGNIZED),
    (_users, NOT_AUTHENTICATED),
)


def _is_at(remote: Remote, address: str, addresses: Addresses) -> bool:
    """Whether `address` is the remote's: its host's, or of its networks."""
    if not remote.check_host and not remote.networks:
        return True
    if within(remote.networks, address):
        return True
    places = addresses.get(remote.host, ()) if _is_looked_up(remote) else (remote.host,)
    return remote.check_host and any(same_address(one, address) for one in places)


def _is_looked_up(remote: Remote) -> bool:
    return remote.check_host and address_of(remote.host) is None


# -- limits of a remote


def _room(remote: Remote, standing: Standing) -> str:
    limit = remote.max_associations
    full = limit and standing.associations >= limit
    return f"{remote.aet!r} has {limit} associations, and no more are allowed to it" if full else ""


def _pace(remote: Remote, standing: Standing) -> str:
    limit = remote.associations_per_minute
    return f"more than {limit} associations of {remote.aet!r} a minute" if limit and standing.is_hasty else ""


_OF_THE_REMOTE: tuple[tuple[Callable[[Remote, Standing], str], A_ASSOCIATE_RJ], ...] = (
    (_room, LOCAL_LIMIT_EXCEEDED),
    (_pace, TEMPORARY_CONGESTION),
)
