"""Who may associate: one pure object from (who, from where) to a decision with its reason."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

import attrs

from dicomtw import ae_title
from dicomtw.security.remote import OPERATIONS, Remote
from dicomtw.ul.pdu import A_ASSOCIATE_RJ, Result, Source

#: Operations that hand out what is stored.
_RETRIEVAL = ("C-FIND", "C-GET", "C-MOVE")


@attrs.frozen(kw_only=True)
class Requestor:
    """Who asks for an association: AE titles as sent, and the address, empty where there is none (unix:)."""

    calling_ae_title: str
    called_ae_title: str
    address: str = ""


@attrs.frozen
class Decision:
    """What becomes of a requestor.

    `rejection` is None for one who may associate; `why` says it in words. `remote` is who they are, if known.
    `resolve`: names of hosts to look up; decide again when their addresses are known.
    """

    rejection: A_ASSOCIATE_RJ | None = None
    why: str = ""
    remote: Remote | None = None
    resolve: frozenset[str] = frozenset()


# PS3.8 Table 9-21
CALLED_NOT_RECOGNIZED = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 7)
CALLING_NOT_RECOGNIZED = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 3)


@attrs.frozen(kw_only=True)
class AccessPolicy:
    """The rules of one server."""

    ae_title: str
    remotes: tuple[Remote, ...] = ()
    accept_any_ae: bool = False
    accept_any_called_ae: bool = False
    #: Query and retrieve are for those too who are no configured remote.
    allow_retrieve_any: bool = False

    def refusal(self, remote: Remote | None, operation: str) -> str:
        """Why `operation`, such as C-FIND, is refused to `remote`, None for an unknown one; else empty."""
        if remote is None:
            if operation in _RETRIEVAL and not self.allow_retrieve_any:
                return "not a configured remote"
            return ""
        allowed = {OPERATIONS[name] for name in remote.operations}
        return (
            ""
            if operation in allowed or operation not in OPERATIONS.values()
            else "not allowed to this remote"
        )

    def decide(self, requestor: Requestor, addresses: Collection[str] | None = None) -> Decision:
        """Whether `requestor` may associate; `addresses` are those of the names asked for in `resolve`."""
        called = ae_title.significant(requestor.called_ae_title)
        calling = ae_title.significant(requestor.calling_ae_title)
        if not called or (called != self.ae_title and not self.accept_any_called_ae):
            return Decision(CALLED_NOT_RECOGNIZED, f"called AE title {called!r} is not {self.ae_title!r}")
        fault = ae_title.fault(called)
        if fault is not None:
            return Decision(CALLED_NOT_RECOGNIZED, f"called AE title {called!r} {fault}")
        fault = ae_title.fault(calling)
        if fault is not None:
            return Decision(CALLING_NOT_RECOGNIZED, f"calling AE title {calling!r} {fault}")
        return self._decide_remote(calling, requestor.address, addresses)

    def _decide_remote(self, calling: str, address: str, addresses: Collection[str] | None) -> Decision:
        known = [remote for remote in self.remotes if remote.aet == calling]
        names = set()
        for remote in known:
            if not remote.check_host or _same_address(remote.host, address):
                return Decision(remote=remote)
            if _is_address(remote.host):
                continue
            if addresses is None:
                names.add(remote.host)
            elif any(_same_address(one, address) for one in addresses):
                return Decision(remote=remote)
        if names:
            return Decision(resolve=frozenset(names))
        if known:
            # Its name is taken: whoever comes from elsewhere is not it, even where any AE is accepted.
            return Decision(CALLING_NOT_RECOGNIZED, f"{calling!r} is not known at {address or 'this socket'}")
        if self.accept_any_ae:
            return Decision()
        return Decision(CALLING_NOT_RECOGNIZED, f"calling AE title {calling!r} is not a configured remote")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _same_address(one: str, other: str) -> bool:
    """Whether two strings are one IP address; an IPv4 address in IPv6 clothes is the same."""
    try:
        pair = [ipaddress.ip_address(address) for address in (one, other)]
    except ValueError:
        return False
    plain = [(address.ipv4_mapped or address) if address.version == 6 else address for address in pair]
    return plain[0] == plain[1]
