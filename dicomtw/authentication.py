"""Whether a user is who the requestor says (PS3.7 D.3.3.7; PS3.15 B.4-B.7): Twisted's checkers decide.

A checker is what `twisted.cred` has: an object whose `requestAvatarId` takes credentials of one of its
`credentialInterfaces`, and fires with the user's name or fails with `UnauthorizedLogin`. The types of user
identity come as these credentials::

    1  IUsername                                      ours: a name, and no proof
    2  IUsernamePassword and IUsernameHashedPassword  Twisted's
    3  IKerberosTicket                                ours
    4  ISAMLAssertion                                 ours
    5  IJSONWebToken                                  ours

So no checker of Twisted's believes a name without proof. Instead of the name a checker may return an
`Authenticated`, with the server response for who asks for one.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
from twisted.cred.credentials import ICredentials, IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from zope.interface import Attribute, Interface, implementer

from dicomtw.security.addresses import host_of
from dicomtw.security.identity import MAXIMUM_RESPONSE, Identity, IdentityPolicy, kind_of
from dicomtw.security.kept import unreadable
from dicomtw.threaded import Unavailable as Unavailable  # for those who write checkers
from dicomtw.ul.items import UserIdentityRQ, UserIdentityType

T = TypeVar("T")

#: Users who are checked for one host at a time: whoever guesses does not take all places from the others.
OF_A_HOST: Final = 8


class IUsername(ICredentials):
    """Type 1: a name that is asserted, with no proof of it. A checker that takes it believes the peer."""

    username = Attribute("The name as sent: bytes, UTF-8.")


class IKerberosTicket(ICredentials):
    """Type 3: a Kerberos service ticket."""

    ticket = Attribute("The ticket as sent: bytes, an AP-REQ of RFC 4120.")
    response_requested = Attribute("Whether the requestor wants a server ticket in answer.")


class ISAMLAssertion(ICredentials):
    """Type 4: a SAML assertion."""

    assertion = Attribute("The assertion as sent: bytes, XML.")
    response_requested = Attribute("Whether the requestor wants a SAML response.")


class IJSONWebToken(ICredentials):
    """Type 5: a JSON Web Token (RFC 7519)."""

    token = Attribute("The token as sent: bytes.")
    response_requested = Attribute("Whether the requestor wants a token in answer.")


@implementer(IUsername)
@attrs.frozen
class Username:
    """A name without proof."""

    username: bytes


@implementer(IUsernamePassword, IUsernameHashedPassword)
@attrs.frozen
class UsernamePasscode:
    """A name and a passcode, which is not in the repr."""

    username: bytes
    password: bytes = attrs.field(repr=False)

    def checkPassword(self, password: bytes) -> bool:
        """Whether the passcode is this one."""
        return hmac.compare_digest(self.password, password)


@implementer(IKerberosTicket)
@attrs.frozen
class KerberosTicket:
    """A service ticket, which is not in the repr."""

    ticket: bytes = attrs.field(repr=False)
    response_requested: bool


@implementer(ISAMLAssertion)
@attrs.frozen
class SAMLAssertion:
    """An assertion, which is not in the repr."""

    assertion: bytes = attrs.field(repr=False)
    response_requested: bool


@implementer(IJSONWebToken)
@attrs.frozen
class JSONWebToken:
    """A token, which is not in the repr."""

    token: bytes = attrs.field(repr=False)
    response_requested: bool


INTERFACES: dict[UserIdentityType, tuple[type[Interface], ...]] = {
    UserIdentityType.USERNAME: (IUsername,),
    UserIdentityType.USERNAME_AND_PASSCODE: (IUsernamePassword, IUsernameHashedPassword),
    UserIdentityType.KERBEROS: (IKerberosTicket,),
    UserIdentityType.SAML: (ISAMLAssertion,),
    UserIdentityType.JWT: (IJSONWebToken,),
}


def credentials_of(item: UserIdentityRQ) -> Any:
    """The credentials that an item of a known type is."""
    kind, field, wanted = kind_of(item), item.primary_field, item.positive_response_requested
    if kind is UserIdentityType.USERNAME:
        return Username(field)
    if kind is UserIdentityType.USERNAME_AND_PASSCODE:
        return UsernamePasscode(field, item.secondary_field)
    if kind is UserIdentityType.KERBEROS:
        return KerberosTicket(field, wanted)
    if kind is UserIdentityType.SAML:
        return SAMLAssertion(field, wanted)
    return JSONWebToken(field, wanted)


@attrs.frozen
class Authenticated:
    """What a checker may return in the place of the name: also the server response, of types 3 to 5."""

    name: str | bytes
    response: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class Authentication:
    """How one server finds out who a user is: its rules and its checkers, which are asked one by one."""

    policy: IdentityPolicy
    checkers: Sequence[Any]
    #: What they read, and what becomes of that where they no longer can.
    files: Mapping[Path, str] = attrs.field(factory=dict)
    #: Checks under way, by the host that waits for them.
    _under_way: Counter[str] = attrs.field(factory=Counter, init=False, eq=False, repr=False)

    def check(self, item: UserIdentityRQ, address: str = "") -> Deferred[tuple[Identity, bytes]]:
        """Ask the checkers, the first that says yes is right: fires with the user and the server response.

        `item` is one that the policy does not refuse, from `address`, empty for a socket of this machine.
        Fails with a `LoginFailed` if all that take it say no, and with anything else if it cannot be found
        out now.
        """
        host = host_of(address)
        if host and self._under_way[host] >= OF_A_HOST:
            return fail(Unavailable(f"{OF_A_HOST} users from {host} are being checked"))
        self._under_way[host] += 1
        return Deferred.fromCoroutine(self._check(item)).addBoth(self._checked, host)

    def _checked(self, outcome: T, host: str) -> T:
        self._under_way[host] -= 1
        if not self._under_way[host]:
            del self._under_way[host]
        return outcome

    def unreadable(self) -> list[str]:
        """Which files of the checkers cannot be read by this process, a line each. Blocks."""
        return [f"--auth: {why}: {then}" for path, then in self.files.items() if (why := unreadable(path))]

    async def _check(self, item: UserIdentityRQ) -> tuple[Identity, bytes]:
        credentials = credentials_of(item)
        kind = UserIdentityType(item.user_identity_type)
        fault: Exception = UnauthorizedLogin()
        for checker in self.checkers:
            if not any(one in INTERFACES[kind] for one in checker.credentialInterfaces):
                continue
            try:
                avatar = await maybeDeferred(checker.requestAvatarId, credentials)
            except CancelledError:
                raise
            except LoginFailed as refusal:
                if isinstance(fault, LoginFailed):  # or else one of them may still have said yes
                    fault = refusal
            except Exception as error:
                fault = error
            else:
                return _authenticated(avatar, kind)
        raise fault


def _authenticated(avatar: Any, kind: UserIdentityType) -> tuple[Identity, bytes]:
    """Whom a checker has named. Raises `LoginFailed` for nobody, `TypeError` for what is no name."""
    name, response = (avatar.name, avatar.response) if isinstance(avatar, Authenticated) else (avatar, b"")
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    if not isinstance(response, bytes) or len(response) > MAXIMUM_RESPONSE:
        raise TypeError(f"a server response takes bytes, {MAXIMUM_RESPONSE} at most")
    if not isinstance(name, str) and name != ():
        raise TypeError(f"a checker returned a {type(name).__name__} and no name")
    if not name:  # () is Twisted's anonymous user
        raise UnauthorizedLogin("the checker names nobody")
    return Identity(name, kind), response


def reason(fault: BaseException, item: UserIdentityRQ) -> str | None:
    """What a checker says about why it does not let somebody in, on one line; None if secrets are in it."""
    said = str(fault)
    secrets = [item.secondary_field]
    if kind_of(item) not in (UserIdentityType.USERNAME, UserIdentityType.USERNAME_AND_PASSCODE):
        secrets.append(item.primary_field)
    if any(spelling in said for secret in secrets if secret for spelling in _spellings(secret)):
        return None
    return "".join(one if one.isprintable() else "?" for one in said[:100])


def _spellings(secret: bytes) -> tuple[str, ...]:
    """How a secret may stand in a message: as text of one encoding or another, or as Python writes both."""
    text = secret.decode("utf-8", "replace")
    return secret.decode("latin-1"), text, repr(text)[1:-1], repr(secret)[2:-1]


def kinds_of(interfaces: Iterable[Any]) -> frozenset[UserIdentityType]:
    """The types of user identity that credential interfaces stand for."""
    among = set(interfaces)
    return frozenset(kind for kind, ours in INTERFACES.items() if not among.isdisjoint(ours))
