"""User identity negotiation (PS3.7 D.3.3.7; PS3.15 B.4-B.7): for which user an association is.

What a requestor says of its user, why that may be refused before anybody is asked whether it is true, and
what is answered. Whether it is true is the business of `dicomtw.authentication`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

import attrs

from dicomtw.ul.items import UserIdentityAC, UserIdentityRQ, UserIdentityType
from dicomtw.ul.pdu import A_ASSOCIATE_RJ, Result, Source

#: The answer to a requestor whose user is not who it says, or may not associate.
NOT_AUTHENTICATED = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 1)

#: Bytes of a field of the item; of our response, so that it goes into the A-ASSOCIATE-AC with all the rest.
MAXIMUM_FIELD = 0xFFFF
MAXIMUM_RESPONSE = 0x8000

#: What each type is called in words.
WORDS = {
    UserIdentityType.USERNAME: "a username without proof",
    UserIdentityType.USERNAME_AND_PASSCODE: "a username and passcode",
    UserIdentityType.KERBEROS: "a Kerberos ticket",
    UserIdentityType.SAML: "a SAML assertion",
    UserIdentityType.JWT: "a JSON Web Token",
}

#: What whoever overhears it can use in its place. A Kerberos ticket is of no use without its session key.
_OVERHEARD = (UserIdentityType.USERNAME_AND_PASSCODE, UserIdentityType.SAML, UserIdentityType.JWT)
#: The types whose primary field is the name, in UTF-8.
_NAMED = (UserIdentityType.USERNAME, UserIdentityType.USERNAME_AND_PASSCODE)
#: Types whose server response has a value (Table D.3-15).
_ANSWERED = (UserIdentityType.KERBEROS, UserIdentityType.SAML, UserIdentityType.JWT)

#: Characters of a name that the log tells.
_TOLD = 64


@attrs.frozen
class Identity:
    """A user who is who the requestor says."""

    name: str
    kind: UserIdentityType

    def __str__(self) -> str:
        return user(self.name)


def user(name: str) -> str:
    """A name, which may hold anything, for the log."""
    return f"user {name[:_TOLD]!r}" + ("..." if len(name) > _TOLD else "")


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


@attrs.frozen(kw_only=True)
class UserIdentity:
    """What we say of our own user, as a requestor: made by one of the methods, one for each type.

    They raise `ValueError` for what does not fit into the item. Nothing of it is in the repr.
    """

    kind: UserIdentityType
    primary_field: bytes = attrs.field(repr=False)
    secondary_field: bytes = attrs.field(default=b"", repr=False)
    positive_response_requested: bool = False

    def __attrs_post_init__(self) -> None:
        for field in (self.primary_field, self.secondary_field):
            if len(field) > MAXIMUM_FIELD:
                raise ValueError(f"{WORDS[self.kind]} of {len(field)} bytes; {MAXIMUM_FIELD} are possible")
        if not self.primary_field:
            raise ValueError(f"{WORDS[self.kind]} cannot be empty")

    @classmethod
    def username(cls, name: str, *, positive_response_requested: bool = False) -> UserIdentity:
        """Type 1: the name alone."""
        return cls(
            kind=UserIdentityType.USERNAME,
            primary_field=name.encode(),
            positive_response_requested=positive_response_requested,
        )

    @classmethod
    def username_and_passcode(
        cls, name: str, passcode: str | bytes, *, positive_response_requested: bool = False
    ) -> UserIdentity:
        """Type 2. To be sent over TLS only: whoever overhears it is that user."""
        return cls(
            kind=UserIdentityType.USERNAME_AND_PASSCODE,
            primary_field=name.encode(),
            secondary_field=_bytes(passcode),
            positive_response_requested=positive_response_requested,
        )

    @classmethod
    def kerberos(cls, ticket: bytes, *, positive_response_requested: bool = False) -> UserIdentity:
        """Type 3: a service ticket."""
        return cls(
            kind=UserIdentityType.KERBEROS,
            primary_field=ticket,
            positive_response_requested=positive_response_requested,
        )

    @classmethod
    def saml(cls, assertion: str | bytes, *, positive_response_requested: bool = False) -> UserIdentity:
        """Type 4."""
        return cls(
            kind=UserIdentityType.SAML,
            primary_field=_bytes(assertion),
            positive_response_requested=positive_response_requested,
        )

    @classmethod
    def jwt(cls, token: str | bytes, *, positive_response_requested: bool = False) -> UserIdentity:
        """Type 5."""
        return cls(
            kind=UserIdentityType.JWT,
            primary_field=_bytes(token),
            positive_response_requested=positive_response_requested,
        )

    def item(self) -> UserIdentityRQ:
        """The sub-item 58H (Table D.3-14)."""
        return UserIdentityRQ(
            self.kind, self.positive_response_requested, self.primary_field, self.secondary_field
        )


class Demand(Enum):
    """What a server does about user identities."""

    IGNORE = "ignore"  # as an acceptor that does not support them: accepted, and no answer to the item
    OPTIONAL = "optional"  # what is said is checked
    REQUIRED = "required"  # and it must be said


@attrs.frozen(kw_only=True)
class IdentityPolicy:
    """The rules of one server about user identities, before one is checked."""

    demand: Demand
    #: What can be checked here at all.
    kinds: frozenset[UserIdentityType]
    #: Secrets may come over a connection that others can read.
    without_tls: bool = False

    def refusal(self, item: UserIdentityRQ | None, *, confidential: bool) -> str:
        """Why a requestor is rejected for its item as it stands, or for having none; else empty.

        `confidential`: nobody overhears the connection, for it has TLS or does not leave this machine.
        """
        if self.demand is Demand.IGNORE:
            return ""
        if item is None:
            return "no user identity, and one is required" if self.demand is Demand.REQUIRED else ""
        kind = kind_of(item)
        if kind is None:
            return f"user identity of the unknown type {item.user_identity_type}"
        said = described(item)
        if not item.primary_field:
            return f"{said}: the field is empty"
        if kind in _NAMED and name_of(item) is None:
            return f"{said}: the name is not UTF-8 without control characters"
        if kind not in self.kinds:
            return f"{said}: no checker here takes that (--auth)"
        if kind in _OVERHEARD and not (confidential or self.without_tls):
            return f"{said}: refused over a connection without TLS (--auth-without-tls)"
        if kind is UserIdentityType.USERNAME_AND_PASSCODE and not item.secondary_field:
            # There are directories to which an empty passcode means: do not check.
            return f"{said}: the passcode is empty"
        if kind is UserIdentityType.USERNAME_AND_PASSCODE and b"\0" in item.secondary_field:
            # What a checker hands to C would end there, or not be taken at all.
            return f"{said}: the passcode has a NUL in it"
        return ""


def kind_of(item: UserIdentityRQ) -> UserIdentityType | None:
    """The type of an item, None for a reserved value."""
    try:
        return UserIdentityType(item.user_identity_type)
    except ValueError:
        return None


def name_of(item: UserIdentityRQ) -> str | None:
    """The name that an item of type 1 or 2 has; None for what cannot be one."""
    try:
        name = item.primary_field.decode()
    except UnicodeDecodeError:
        return None
    return None if any(ord(one) < 0x20 or ord(one) == 0x7F for one in name) else name


def described(item: UserIdentityRQ) -> str:
    """Whom an item is about, for the log: its secrets are not in it."""
    kind = kind_of(item)
    if kind is None:
        return f"user identity of type {item.user_identity_type}"
    return user(item.primary_field.decode(errors="replace")) if kind in _NAMED else WORDS[kind]


def claimed(item: UserIdentityRQ) -> str:
    """The user that an item names, for an audit trail; what kind of item it is where that needs decoding."""
    kind = kind_of(item)
    return item.primary_field.decode(errors="replace") if kind in _NAMED else described(item)


def answer(item: UserIdentityRQ, response: bytes) -> UserIdentityAC | None:
    """The sub-item 59H for a user who is who the requestor says (Table D.3-15); None if none is asked for."""
    if not item.positive_response_requested:
        return None
    return UserIdentityAC(response if item.user_identity_type in _ANSWERED else b"")


def in_words(demand: Demand, checkers: Collection[str], *, without_tls: bool) -> list[str]:
    """What a server does about users, in words; of a checker only the type, for the rest may be secret."""
    if demand is Demand.IGNORE:
        return []
    types = ", ".join(one.partition(":")[0] for one in checkers)
    named = "one must be named" if demand is Demand.REQUIRED else "none need be named"
    taken = "anywhere" if without_tls else "over TLS and unix: sockets only"
    return [f"users are checked by {types}, {named}; passcodes and tokens are taken {taken}"]


def warnings(demand: Demand, bound: Collection[str], *, is_plain: bool, without_tls: bool) -> list[str]:
    """What an operator should think about; `bound` are the remotes that are for their users only.

    `is_plain`: there are listeners without TLS.
    """
    if demand is Demand.IGNORE:
        why = "is for its users only, and users are not checked: nobody associates in its name"
        return [f"remote {title} {why}" for title in bound]
    if not is_plain:
        return []
    if without_tls:
        return ["passcodes and tokens are taken without TLS: others can read and use them"]
    return ["without TLS passcodes and tokens are refused"]
