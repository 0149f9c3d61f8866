"""User identity negotiation: what is said of a user, what is refused unchecked, and what is answered."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.identity import (
    MAXIMUM_FIELD,
    Demand,
    IdentityPolicy,
    UserIdentity,
    answer,
    described,
    in_words,
    warnings,
)
from dicomtw.ul.items import Cursor, UserIdentityRQ, UserIdentityType

NAME = UserIdentityRQ(1, False, b"alice")
PASSCODE = UserIdentityRQ(2, False, b"alice", b"sesame")
TICKET = UserIdentityRQ(3, False, b"ticket")
ASSERTION = UserIdentityRQ(4, False, b"<assertion/>")
TOKEN = UserIdentityRQ(5, False, b"a.b.c")
ALL = (NAME, PASSCODE, TICKET, ASSERTION, TOKEN)

OPTIONAL = IdentityPolicy(demand=Demand.OPTIONAL, kinds=frozenset(UserIdentityType))
REQUIRED = attrs.evolve(OPTIONAL, demand=Demand.REQUIRED)
IGNORE = attrs.evolve(OPTIONAL, demand=Demand.IGNORE, kinds=frozenset())


def refusal(policy: IdentityPolicy, item: UserIdentityRQ | None, *, confidential: bool = True) -> str:
    return policy.refusal(item, confidential=confidential)


class PolicyTests(SynchronousTestCase):
    def test_demand(self) -> None:
        """Only where it is required is a requestor without a user identity refused."""
        self.assertEqual(refusal(IGNORE, None), "")
        self.assertEqual(refusal(OPTIONAL, None), "")
        self.assertEqual(refusal(REQUIRED, None), "no user identity, and one is required")

    def test_every_type(self) -> None:
        """Each of the five types goes on to be checked."""
        for policy in (OPTIONAL, REQUIRED):
            self.assertEqual([refusal(policy, item) for item in ALL], [""] * 5)

    def test_ignored(self) -> None:
        """A server that ignores user identities refuses none, not even one that is none (PS3.7 D.3.3.7)."""
        for item in (*ALL, UserIdentityRQ(9, True, b""), UserIdentityRQ(2, True, b"", b"")):
            self.assertEqual(refusal(IGNORE, item, confidential=False), "")

    def test_unknown_type(self) -> None:
        """A reserved value of User-Identity-Type is nobody's identity."""
        for value in (0, 6, 255):
            said = refusal(OPTIONAL, UserIdentityRQ(value, True, b"alice", b"sesame"))
            self.assertEqual(said, f"user identity of the unknown type {value}")

    def test_empty(self) -> None:
        """An empty name, ticket, assertion, token or passcode is refused before any checker sees it."""
        for item in ALL:
            said = refusal(OPTIONAL, attrs.evolve(item, primary_field=b""))
            self.assertTrue(said.endswith("the field is empty"), said)
        said = refusal(OPTIONAL, attrs.evolve(PASSCODE, secondary_field=b""))
        self.assertEqual(said, "user 'alice': the passcode is empty")

    def test_nul(self) -> None:
        """A passcode with a NUL is refused before any checker sees it; what else has one is its checker's."""
        for kind, why in ((2, "user 'alice': the passcode has a NUL in it"), (3, "")):
            asked = UserIdentityRQ(kind, False, b"alice", b"ses\0ame")
            self.assertEqual(OPTIONAL.refusal(asked, confidential=True), why)

    def test_name(self) -> None:
        """A name is UTF-8, and has no control characters."""
        for name in ("Jürgen", "山田", "a b"):
            self.assertEqual(refusal(OPTIONAL, UserIdentityRQ(1, False, name.encode())), "")
        for raw in (b"J\xfcrgen", b"alice\0", b"alice\n", b"\x1b[2J", b"alice\x7f"):
            said = refusal(OPTIONAL, UserIdentityRQ(1, False, raw))
            self.assertTrue(said.endswith("the name is not UTF-8 without control characters"), said)
            self.assertTrue(said.isprintable(), said)

    def test_nobody_to_check(self) -> None:
        """What no checker takes is refused, for it is not known to be true."""
        only = attrs.evolve(OPTIONAL, kinds=frozenset({UserIdentityType.USERNAME_AND_PASSCODE}))
        self.assertEqual(refusal(only, PASSCODE), "")
        self.assertEqual(refusal(only, NAME), "user 'alice': no checker here takes that (--auth)")
        self.assertEqual(refusal(only, TOKEN), "a JSON Web Token: no checker here takes that (--auth)")

    def test_without_tls(self) -> None:
        """What can be used by whoever overhears it wants TLS, or the operator's word that it need not."""
        open_to_all = attrs.evolve(OPTIONAL, without_tls=True)
        why = "refused over a connection without TLS (--auth-without-tls)"
        said = [refusal(OPTIONAL, item, confidential=False) for item in ALL]
        self.assertEqual(
            said, ["", f"user 'alice': {why}", "", f"a SAML assertion: {why}", f"a JSON Web Token: {why}"]
        )
        self.assertEqual([refusal(open_to_all, item, confidential=False) for item in ALL], [""] * 5)


class AnswerTests(SynchronousTestCase):
    def test_only_when_asked(self) -> None:
        """There is no sub-item 59H but for whom has asked for a positive response."""
        for item in ALL:
            self.assertIsNone(answer(item, b"response"))

    def test_table_d_3_15(self) -> None:
        """The server response is empty for names and passcodes, and the checker's for the other types."""
        asked = [attrs.evolve(item, positive_response_requested=True) for item in ALL]
        given = [answer(item, b"response") for item in asked]
        self.assertEqual(
            [item.server_response for item in given if item is not None],
            [b"", b"", b"response", b"response", b"response"],
        )
        first = given[0]
        assert first is not None
        self.assertEqual(first.encode().hex(), "590000020000")


class WordsTests(SynchronousTestCase):
    """What an operator is told."""

    def test_in_words(self) -> None:
        """Who checks users, and not with what."""
        (said,) = in_words(Demand.REQUIRED, ["memory:alice:sesame", "unix"], without_tls=False)
        self.assertTrue(said.startswith("users are checked by memory, unix, one must be named; "), said)
        self.assertIn("over TLS and unix: sockets only", said)
        (said,) = in_words(Demand.OPTIONAL, ["unix"], without_tls=True)
        self.assertIn("none need be named; passcodes and tokens are taken anywhere", said)
        self.assertEqual(in_words(Demand.IGNORE, ["unix"], without_tls=True), [])

    def test_warnings(self) -> None:
        """Secrets that can be overheard, or are refused for it; users of a remote that nobody checks."""
        cases = [
            (Demand.IGNORE, False, False, ["remote CT is for its users only, and users are not checked"]),
            (Demand.OPTIONAL, True, False, ["without TLS passcodes and tokens are refused"]),
            (Demand.REQUIRED, True, True, ["passcodes and tokens are taken without TLS: others can read"]),
            (Demand.REQUIRED, False, True, []),
        ]
        for demand, is_plain, without_tls, expected in cases:
            said = warnings(demand, ["CT"], is_plain=is_plain, without_tls=without_tls)
            self.assertEqual([one[: len(other)] for one, other in zip(said, expected, strict=True)], expected)


class SecrecyTests(SynchronousTestCase):
    def test_described(self) -> None:
        """For the log a name is escaped and cut off; the other types are told by their type."""
        self.assertEqual(described(PASSCODE), "user 'alice'")
        self.assertEqual(described(UserIdentityRQ(1, False, b"a\nb\xff")), "user 'a\\nb\ufffd'")
        self.assertEqual(described(UserIdentityRQ(1, False, b"x" * 100)), f"user '{'x' * 64}'...")
        self.assertEqual(described(TICKET), "a Kerberos ticket")
        self.assertEqual(described(UserIdentityRQ(9, False, b"secret")), "user identity of type 9")

    def test_repr(self) -> None:
        """Nothing secret is in the repr of an item, or of what we say ourselves."""
        ours = UserIdentity.username_and_passcode("alice", "sesame")
        for one in (PASSCODE, ours, UserIdentityRQ.decode(Cursor(PASSCODE.encode()[4:], "item 58H"))):
            self.assertNotIn("sesame", repr(one))
            self.assertNotIn("sesame", str(one))


class UserIdentityTests(SynchronousTestCase):
    """What a client says of its user."""

    def test_table_d_3_14(self) -> None:
        """Each type makes its sub-item 58H."""
        cases = [
            (UserIdentity.username("Jürgen"), "5800 000d 01 00 0007 4ac3bc7267656e 0000"),
            (
                UserIdentity.username_and_passcode("a", "pw", positive_response_requested=True),
                "5800 0009 02 01 0001 61 0002 7077",
            ),
            (UserIdentity.kerberos(b"\x6e\x82"), "5800 0008 03 00 0002 6e82 0000"),
            (UserIdentity.saml("<a/>"), "5800 000a 04 00 0004 3c612f3e 0000"),
            (UserIdentity.jwt("a.b.c"), "5800 000b 05 00 0005 612e622e63 0000"),
        ]
        for one, encoded in cases:
            expected = bytes.fromhex(encoded)
            self.assertEqual(one.item().encode(), expected)
            self.assertEqual(UserIdentityRQ.decode(Cursor(expected[4:], "item")), one.item())

    def test_what_does_not_fit(self) -> None:
        """A field has a length of 2 bytes, and is not empty."""
        self.assertEqual(len(UserIdentity.jwt(bytes(MAXIMUM_FIELD)).primary_field), MAXIMUM_FIELD)
        self.assertRaises(ValueError, UserIdentity.jwt, bytes(MAXIMUM_FIELD + 1))
        self.assertRaises(ValueError, UserIdentity.username_and_passcode, "a", bytes(MAXIMUM_FIELD + 1))
        for make in (UserIdentity.username, UserIdentity.saml, UserIdentity.jwt):
            self.assertRaises(ValueError, make, "")
