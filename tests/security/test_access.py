"""Who may associate: the truth table of the rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.security.access import (
    CALLED_NOT_RECOGNIZED,
    CALLING_NOT_RECOGNIZED,
    LOCAL_LIMIT_EXCEEDED,
    NO_REASON_GIVEN,
    TEMPORARY_CONGESTION,
    AccessPolicy,
    Decision,
    Requestor,
    Standing,
    sop_class_refusal,
)
from dicomtw.security.addresses import network_of
from dicomtw.security.certificate import PeerCertificate
from dicomtw.security.identity import NOT_AUTHENTICATED, Identity
from dicomtw.security.remote import OPERATIONS, Remote
from dicomtw.ul.items import UserIdentityType
from dicomtw.ul.pdu import A_ASSOCIATE_RJ
from tests.storage import modest

ANYWHERE = Remote(aet="ANYWHERE", host="192.0.2.1")
NUMBER = Remote(aet="NUMBER", host="192.0.2.7", check_host=True)
IPV6 = Remote(aet="IPV6", host="2001:db8:0:0::7", check_host=True)
NAME = Remote(aet="NAME", host="ct.example", check_host=True)
TWICE = (
    Remote(aet="TWICE", host="192.0.2.21", check_host=True),
    Remote(aet="TWICE", host="mr.example", check_host=True, operations=("echo",)),
    Remote(aet="TWICE", host="pet.example", check_host=True, operations=("echo", "move")),
)
REMOTES = (ANYWHERE, NUMBER, IPV6, NAME, *TWICE)

CLINIC = Remote(aet="CLINIC", networks=["192.0.2.0/28", "2001:db8:1::/48"])
BOTH = Remote(aet="BOTH", host="198.51.100.7", check_host=True, networks=["192.0.2.0/28"])

SCANNER = PeerCertificate("CN=scanner,O=Clinic", ("DNS:scanner.example", "IP:192.0.2.7"), "ab" * 32)
OTHER = PeerCertificate("CN=other", ("DNS:other.example",), "cd" * 32)

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"

OK = None
CALLED = CALLED_NOT_RECOGNIZED
CALLING = CALLING_NOT_RECOGNIZED
LATER = TEMPORARY_CONGESTION
FULL = LOCAL_LIMIT_EXCEEDED


def decide(
    calling: str = "SCU",
    called: str = "PMOD",
    address: str = "192.0.2.1",
    addresses: Mapping[str, Collection[str]] | None = None,
    *,
    any_ae: bool = False,
    any_called: bool = False,
    remotes: tuple[Remote, ...] = REMOTES,
) -> Decision:
    """The decision of a server called PMOD."""
    policy = AccessPolicy(
        ae_title="PMOD", remotes=remotes, accept_any_ae=any_ae, accept_any_called_ae=any_called
    )
    return policy.decide(
        Requestor(calling_ae_title=calling, called_ae_title=called, address=address), addresses or {}
    )


class AccessTests(SynchronousTestCase):
    def test_rejections(self) -> None:
        """PS3.8 Table 9-21: who may never is told so by the service-user, who may later by the provider."""
        self.assertEqual((CALLED, CALLING), (A_ASSOCIATE_RJ(1, 1, 7), A_ASSOCIATE_RJ(1, 1, 3)))
        self.assertEqual(NO_REASON_GIVEN, A_ASSOCIATE_RJ(1, 1, 1))
        self.assertEqual((LATER, FULL), (A_ASSOCIATE_RJ(2, 3, 1), A_ASSOCIATE_RJ(2, 3, 2)))

    def test_called(self) -> None:
        """Who calls another title than ours is rejected, unless any is accepted that is a title."""
        cases = {
            "PMOD": (OK, OK),
            "  PMOD  ".ljust(16): (OK, OK),
            "pmod": (CALLED, OK),
            "PMOD2": (CALLED, OK),
            "P MOD": (CALLED, OK),
            "": (CALLED, CALLED),
            " " * 16: (CALLED, CALLED),
            "PM\nOD": (CALLED, CALLED),
            "PM\\OD": (CALLED, CALLED),
            "PMOD\xa0": (CALLED, CALLED),
            "\0" * 16: (CALLED, CALLED),
        }
        for called, expected in cases.items():
            for any_called, rejection in zip((False, True), expected, strict=True):
                decision = decide(called=called, any_called=any_called, any_ae=True)
                self.assertEqual(decision.rejection, rejection, (called, any_called))

    def test_calling(self) -> None:
        """Who is no configured remote is taken where any AE title is accepted, if it is one."""
        cases = {
            "ANYWHERE": (OK, OK),
            "  ANYWHERE": (OK, OK),
            "anywhere": (CALLING, OK),
            "SCU": (CALLING, OK),
            "": (CALLING, CALLING),
            " " * 16: (CALLING, CALLING),
            "SC\tU": (CALLING, CALLING),
            "SC\\U": (CALLING, CALLING),
            "SC\x7fU": (CALLING, CALLING),
            "SC\xdc": (CALLING, CALLING),
        }
        for calling, expected in cases.items():
            for any_ae, rejection in zip((False, True), expected, strict=True):
                decision = decide(calling, any_ae=any_ae)
                self.assertEqual(decision.rejection, rejection, (calling, any_ae))

    def test_nobody(self) -> None:
        """Where only known ones are accepted and none is known, nobody is."""
        self.assertEqual(decide(remotes=()).rejection, CALLING)
        self.assertEqual(decide("ANYWHERE", remotes=()).rejection, CALLING)

    def test_hosts(self) -> None:
        """A remote whose host is checked is taken from there alone, even where any AE is accepted."""
        cases: list[tuple[str, str, A_ASSOCIATE_RJ | None, Remote | None]] = [
            ("ANYWHERE", "192.0.2.1", OK, ANYWHERE),
            ("ANYWHERE", "203.0.113.1", OK, ANYWHERE),
            ("ANYWHERE", "", OK, ANYWHERE),
            ("NUMBER", "192.0.2.7", OK, NUMBER),
            ("NUMBER", "::ffff:192.0.2.7", OK, NUMBER),
            ("NUMBER", "::ffff:c000:207", OK, NUMBER),
            ("NUMBER", "192.0.2.70", CALLING, None),
            ("NUMBER", "::192.0.2.7", CALLING, None),
            ("NUMBER", "", CALLING, None),
            ("NUMBER", "not an address", CALLING, None),
            ("IPV6", "2001:db8::7", OK, IPV6),
            ("IPV6", "2001:DB8::0007", OK, IPV6),
            ("IPV6", "2001:db8::8", CALLING, None),
            ("IPV6", "192.0.2.7", CALLING, None),
            ("TWICE", "192.0.2.21", OK, TWICE[0]),
        ]
        for (calling, address, rejection, remote), any_ae in product(cases, (False, True)):
            decision = decide(calling, address=address, any_ae=any_ae)
            self.assertEqual((decision.rejection, decision.remote), (rejection, remote), (calling, address))
            self.assertEqual(decision.resolve, frozenset(), (calling, address))

    def test_names(self) -> None:
        """Names of hosts are asked for first; then their addresses decide."""
        names = frozenset({"mr.example", "pet.example"})
        self.assertEqual(decide("NAME"), Decision(resolve=frozenset({"ct.example"})))
        self.assertEqual(decide("TWICE"), Decision(resolve=names))
        twice = {"mr.example": {"192.0.2.22"}, "pet.example": {"192.0.2.23"}}
        cases: list[tuple[str, str, Collection[str], A_ASSOCIATE_RJ | None, Remote | None]] = [
            ("NAME", "192.0.2.8", {"192.0.2.8"}, OK, NAME),
            ("NAME", "192.0.2.8", {"192.0.2.9", "2001:db8::8", "192.0.2.8"}, OK, NAME),
            ("NAME", "::ffff:192.0.2.8", {"192.0.2.8"}, OK, NAME),
            ("NAME", "2001:db8::8", {"2001:db8::8"}, OK, NAME),
            ("NAME", "192.0.2.8", {"192.0.2.9"}, CALLING, None),
            ("NAME", "192.0.2.8", set(), CALLING, None),
            ("NAME", "", {"192.0.2.8"}, CALLING, None),
            ("TWICE", "192.0.2.22", (), OK, TWICE[1]),
            ("TWICE", "192.0.2.23", (), OK, TWICE[2]),
            ("TWICE", "192.0.2.29", (), CALLING, None),
        ]
        for calling, address, found, rejection, remote in cases:
            addresses = twice if calling == "TWICE" else {"ct.example": found}
            decision = decide(calling, address=address, addresses=addresses, any_ae=True)
            self.assertEqual((decision.rejection, decision.remote), (rejection, remote), (calling, address))
            self.assertEqual(decision.resolve, frozenset(), "names are asked for once")
        some = decide("TWICE", address="192.0.2.23", addresses={"mr.example": {"192.0.2.22"}})
        self.assertEqual(some, Decision(resolve=frozenset({"pet.example"})))

    def test_words(self) -> None:
        """Every rejection has a reason in one line, which quotes what the peer sent and escapes it."""
        for decision, words in (
            (decide(called="OTHER\n"), "called AE title 'OTHER\\n' is not 'PMOD'"),
            (decide(called="A\nB", any_called=True), "called AE title 'A\\nB' has a control character"),
            (decide(), "calling AE title 'SCU' is not a configured remote"),
            (decide("A\x1b[2J"), "calling AE title 'A\\x1b[2J' has a control character"),
            (decide(""), "calling AE title '' is empty"),
            (decide("NUMBER"), "'NUMBER' is not known at 192.0.2.1"),
            (decide("NUMBER", address=""), "'NUMBER' is not known at this socket"),
        ):
            self.assertIn(words, decision.why)
            self.assertTrue(decision.why.isprintable(), decision.why)
        self.assertEqual(decide("ANYWHERE").why, "")


def policy_of(*remotes: Remote, **options: Any) -> AccessPolicy:
    """The policy of a server called PMOD."""
    return AccessPolicy(ae_title="PMOD", remotes=remotes, **options)


def from_(address: str = "192.0.2.1", calling: str = "CT", **more: Any) -> Requestor:
    """A requestor that calls PMOD."""
    return Requestor(calling_ae_title=calling, called_ae_title="PMOD", address=address, **more)


class NetworkTests(SynchronousTestCase):
    def test_strangers(self) -> None:
        """Whoever is not of the server's networks is rejected without a reason, whatever its name."""
        networks = tuple(map(network_of, ("192.0.2.0/30", "198.51.100.7", "2001:db8:1::/48")))
        cases = {
            "192.0.2.0": OK,
            "192.0.2.3": OK,
            "192.0.2.4": NO_REASON_GIVEN,
            "::ffff:192.0.2.3": OK,
            "::ffff:192.0.2.4": NO_REASON_GIVEN,
            "198.51.100.7": OK,
            "198.51.100.8": NO_REASON_GIVEN,
            "2001:db8:1:ffff::1": OK,
            "2001:db8:2::1": NO_REASON_GIVEN,
            "2001:db8:1::1%eth0": OK,
            "": NO_REASON_GIVEN,
            "not an address": NO_REASON_GIVEN,
        }
        for (address, rejection), calling in product(cases.items(), ("ANYWHERE", "SCU")):
            policy = policy_of(ANYWHERE, networks=networks, accept_any_ae=True)
            decision = policy.decide(from_(address, calling))
            self.assertEqual(decision.rejection, rejection, address)
            self.assertEqual(bool(decision.why), rejection is not OK)
            self.assertEqual(bool(policy.stranger(address)), rejection is not OK)
            self.assertEqual(policy_of(ANYWHERE).stranger(address), "")

    def test_remotes(self) -> None:
        """A remote with networks is taken from these alone; its host, if that is checked, is as good."""
        cases: list[tuple[Remote, str, A_ASSOCIATE_RJ | None]] = [
            (CLINIC, "192.0.2.0", OK),
            (CLINIC, "192.0.2.15", OK),
            (CLINIC, "192.0.2.16", CALLING),
            (CLINIC, "::ffff:192.0.2.15", OK),
            (CLINIC, "2001:db8:1::7", OK),
            (CLINIC, "2001:db8:2::7", CALLING),
            (CLINIC, "", CALLING),
            (BOTH, "192.0.2.15", OK),
            (BOTH, "198.51.100.7", OK),
            (BOTH, "198.51.100.8", CALLING),
            (BOTH, "", CALLING),
        ]
        for (remote, address, rejection), any_ae in product(cases, (False, True)):
            decision = policy_of(CLINIC, BOTH, accept_any_ae=any_ae).decide(from_(address, remote.aet))
            self.assertEqual(decision.rejection, rejection, (remote.aet, address))
            self.assertEqual(decision.remote, remote if rejection is OK else None)

    def test_names_are_looked_up_only_if_need_be(self) -> None:
        """Whoever comes from a network of a remote is known before its host name has been looked up."""
        named = Remote(aet="CT", host="ct.example", check_host=True, networks=["192.0.2.0/28"])
        self.assertEqual(policy_of(named).decide(from_("192.0.2.1")), Decision(remote=named))
        elsewhere = from_("198.51.100.7")
        self.assertEqual(policy_of(named).decide(elsewhere).resolve, {"ct.example"})
        self.assertEqual(
            policy_of(named).decide(elsewhere, {"ct.example": {"198.51.100.7"}}), Decision(remote=named)
        )
        self.assertEqual(
            policy_of(named).decide(elsewhere, {"ct.example": {"198.51.100.8"}}).rejection, CALLING
        )


class CertificateTests(SynchronousTestCase):
    """An AE title that is bound to a certificate (PS3.15 Annex B)."""

    def test_bound(self) -> None:
        """Nobody calls himself so with another certificate, with none, or, by what it says, with any."""
        pin = "sha256:" + ":".join(["AB"] * 32)
        cases: list[tuple[list[str], PeerCertificate | None, bool, A_ASSOCIATE_RJ | None]] = [
            ([pin], SCANNER, True, OK),
            ([pin], SCANNER, False, OK),
            ([pin], OTHER, True, CALLING),
            ([pin], None, False, CALLING),
            (["subject:CN=scanner,O=Clinic"], SCANNER, True, OK),
            (["subject:CN=scanner,O=Clinic"], SCANNER, False, CALLING),
            (["subject:CN=scanner"], SCANNER, True, CALLING),
            (["subject:O=Clinic,CN=scanner"], SCANNER, True, CALLING),
            (["san:DNS:scanner.example"], SCANNER, True, OK),
            (["san:DNS:SCANNER.example"], SCANNER, True, OK),
            (["san:DNS:scanner.example"], SCANNER, False, CALLING),
            (["san:DNS:example"], SCANNER, True, CALLING),
            (["san:DNS:192.0.2.7"], SCANNER, True, CALLING),
            (["san:IP:192.0.2.7"], SCANNER, True, OK),
            (["san:IP:192.0.2.8"], SCANNER, True, CALLING),
            (["san:DNS:other.example", pin], SCANNER, False, OK),
            (["san:DNS:other.example", pin], OTHER, True, OK),
            (["san:DNS:other.example", pin], OTHER, False, CALLING),
            ([], None, False, OK),
            ([], OTHER, False, OK),
        ]
        for (bound, certificate, verified, rejection), any_ae in product(cases, (False, True)):
            remote = Remote(aet="CT", certificate=bound) if bound else Remote(aet="CT")
            policy = policy_of(remote, accept_any_ae=any_ae)
            decision = policy.decide(from_(certificate=certificate, verified=verified))
            self.assertEqual(decision.rejection, rejection, (bound, certificate, verified))

    def test_two_of_one_name(self) -> None:
        """Of two remotes of one AE title it is the one whose certificate it has shown."""
        first = Remote(aet="CT", certificate=["san:DNS:scanner.example"], operations=["echo", "store"])
        second = Remote(aet="CT", certificate=["san:DNS:other.example"])
        for certificate, expected in ((SCANNER, first), (OTHER, second)):
            for remotes in ((first, second), (second, first)):
                decision = policy_of(*remotes).decide(from_(certificate=certificate, verified=True))
                self.assertEqual(decision.remote, expected)

    def test_place_and_certificate(self) -> None:
        """Where both are asked for both are needed; for a wrong certificate no name is looked up."""
        remote = Remote(aet="CT", host="ct.example", check_host=True, certificate=["san:DNS:other.example"])
        policy = policy_of(remote)
        right, wrong = (from_(certificate=one, verified=True) for one in (OTHER, SCANNER))
        self.assertEqual(policy.decide(wrong).rejection, CALLING)
        self.assertEqual(policy.decide(right).resolve, {"ct.example"})
        self.assertEqual(policy.decide(right, {"ct.example": {"192.0.2.1"}}).remote, remote)
        self.assertEqual(policy.decide(right, {"ct.example": {"192.0.2.2"}}).rejection, CALLING)

    def test_words(self) -> None:
        """The reason says what was shown, in one line."""
        policy = policy_of(Remote(aet="CT", certificate=["sha256:" + "0" * 64]))
        none = policy.decide(from_()).why
        self.assertEqual(none, "'CT' is bound to a certificate, and has shown none")
        other = policy.decide(from_(certificate=attrs.evolve(SCANNER, subject="CN=a\nb"))).why
        self.assertEqual(
            other, "'CT' is bound to another certificate than 'CN=a\\nb' (SHA-256 abababababababab)"
        )


class NumberTests(SynchronousTestCase):
    """Limits, at them and past them."""

    def test_associations(self) -> None:
        """A remote with its number of associations is told of the local limit, and no other remote is."""
        limited, other = Remote(aet="CT", max_associations=3), Remote(aet="MR")
        for number, rejection in ((0, OK), (2, OK), (3, FULL), (4, FULL)):
            policy, standing = policy_of(limited, other), Standing(associations=number)
            why = "'CT' has 3 associations, and no more are allowed to it"
            self.assertEqual(policy.limit(limited, standing), rejection and (rejection, why), number)
            for remote in (other, None):
                self.assertIsNone(policy.limit(remote, standing))

    def test_rates(self) -> None:
        """Who asks too often, or was rejected too often, is told to come later; who has no limit is not."""
        limits = {"associations_per_minute_per_host": 60, "failed_associations_per_minute_per_host": 600}
        ct, mr = Remote(aet="CT", associations_per_minute=5), Remote(aet="MR")
        policy = policy_of(ct, mr, **limits)
        rejected = "192.0.2.1 was rejected more than 600 times a minute"
        for remote, standing, words in (
            (ct, Standing(), ""),
            (ct, Standing(is_hasty=True), "more than 5 associations of 'CT' a minute"),
            (mr, Standing(is_hasty=True), ""),
            (None, Standing(is_hasty=True), ""),
        ):
            self.assertEqual(policy.limit(remote, standing), (LATER, words) if words else None)
        for standing, calling, words in (
            (Standing(), "CT", ""),
            (Standing(host_is_hasty=True), "MR", "192.0.2.1 has asked more than 60 times a minute"),
            (Standing(host_is_rejected=True), "MR", rejected),
            (Standing(host_is_rejected=True), "nobody", rejected),
        ):
            decision = policy.decide(from_(calling=calling), standing=standing)
            self.assertEqual((decision.rejection, decision.why), (LATER if words else OK, words), standing)


class UserTests(SynchronousTestCase):
    """Remotes that are for their users only."""

    def decided(self, *remotes: Remote, user: str | None, **more: Any) -> Decision:
        """The decision once it is known who the user is."""
        identity = None if user is None else Identity(user, UserIdentityType.USERNAME)
        return policy_of(*remotes).decide(from_(identity=identity, is_identified=True, **more))

    def test_users(self) -> None:
        """A remote with users is for them alone, one without is for everybody."""
        for_all, for_some = Remote(aet="CT"), Remote(aet="CT", users=("bob", "alice"))
        for remote, user, why in (
            (for_all, None, ""),
            (for_all, "alice", ""),
            (for_some, "alice", ""),
            (for_some, "mallory", "user 'mallory': 'CT' is for its users only"),
            (for_some, "Alice", "user 'Alice': 'CT' is for its users only"),
            (for_some, None, "no user identity: 'CT' is for its users only"),
        ):
            expected = Decision(NOT_AUTHENTICATED, why) if why else Decision(remote=remote)
            self.assertEqual(self.decided(remote, user=user), expected)

    def test_not_yet(self) -> None:
        """As long as it is not known who the user is nobody is held to be the wrong one."""
        remote = Remote(aet="CT", users=("alice",))
        self.assertEqual(policy_of(remote).decide(from_()), Decision(remote=remote))

    def test_two_of_one_name(self) -> None:
        """Of two remotes of one AE title it is the one whose user it has."""
        alices, bobs = Remote(aet="CT", users=("alice",)), Remote(aet="CT", users=("bob",))
        self.assertEqual(self.decided(alices, bobs, user="alice").remote, alices)
        self.assertEqual(self.decided(alices, bobs, user="bob").remote, bobs)
        self.assertEqual(self.decided(alices, bobs, user="carol").rejection, NOT_AUTHENTICATED)

    def test_place(self) -> None:
        """The right user at the wrong place is not the remote; its name is looked up for its users alone."""
        alices = Remote(aet="CT", users=("alice",), host="192.0.2.7", check_host=True)
        bobs = Remote(aet="CT", users=("bob",), host="ct.example", check_host=True)
        self.assertEqual(self.decided(alices, user="alice", address="192.0.2.8").rejection, CALLING)
        self.assertEqual(self.decided(alices, bobs, user="bob").resolve, {"ct.example"})
        self.assertEqual(self.decided(alices, bobs, user="carol").rejection, NOT_AUTHENTICATED)


class RefusalTests(SynchronousTestCase):
    """What those may ask for who may associate."""

    def refused(self, remote: Remote | None, **options: Any) -> dict[str, str]:
        """The operations that are refused, and why."""
        policy = AccessPolicy(ae_title="PMOD", accept_any_ae=True, **options)
        every = (*OPERATIONS.values(), "N-GET", "N-ACTION")
        return {name: why for name in every if (why := policy.refusal(remote, name))}

    def test_anybody(self) -> None:
        """Who is no configured remote may verify and store; query and retrieve only where anybody may."""
        why = "not a configured remote"
        self.assertEqual(self.refused(None), dict.fromkeys(("C-FIND", "C-GET", "C-MOVE"), why))
        self.assertEqual(self.refused(None, allow_retrieve_any=True), {})

    def test_remote(self) -> None:
        """A remote may do everything, unless it is told what; what else there is is no matter of it."""
        self.assertEqual(self.refused(ANYWHERE), {})
        for allowed in (("echo",), ("store", "find"), tuple(OPERATIONS)):
            remote = Remote(aet="SOME", operations=tuple(allowed))
            others = [name for word, name in OPERATIONS.items() if word not in allowed]
            for any_may in (False, True):
                found = self.refused(remote, allow_retrieve_any=any_may)
                self.assertEqual(found, dict.fromkeys(others, "not allowed to this remote"), allowed)

    def test_destinations(self) -> None:
        """A remote with destinations has C-MOVE send to these alone; one without, and who is none, to all."""
        policy = policy_of()
        chosen = Remote(aet="WS", destinations=["WS", "PACS"])
        for remote, destination, refused in (
            (chosen, "WS", False),
            (chosen, "PACS", False),
            (chosen, "pacs", True),
            (chosen, "CT", True),
            (chosen, "", True),
            (ANYWHERE, "CT", False),
            (None, "CT", False),
        ):
            why = policy.destination_refusal(remote, destination)
            expected = f"move destination {destination!r} is not allowed to this remote" if refused else ""
            self.assertEqual(why, expected)

    def test_sop_classes(self) -> None:
        """A remote with SOP classes uses these alone, and verification where it may C-ECHO."""
        find = uids.STUDY_ROOT_FIND
        some = Remote(aet="CT", sop_classes=["CTImageStorage", find])
        mute = attrs.evolve(some, operations=("store", "find"))
        for remote, allowed in (
            (some, {CT, find, uids.VERIFICATION}),
            (mute, {CT, find}),
            (ANYWHERE, {CT, MR, find, uids.VERIFICATION}),
            (None, {CT, MR, find, uids.VERIFICATION}),
        ):
            found = {uid for uid in (CT, MR, find, uids.VERIFICATION) if not sop_class_refusal(remote, uid)}
            self.assertEqual(found, allowed)


# What is likely to be accepted is there more often, so that a good part of the examples is.
ADDRESSES = (
    "192.0.2.1",
    "192.0.2.1",
    "::ffff:192.0.2.1",
    "192.0.2.9",
    "198.51.100.7",
    "2001:db8::7",
    "",
    "?",
)
TITLES = ("CT", "CT", "CT", "MR", "WS", "ct", "")
BINDINGS = ("sha256:" + "ab" * 32, "subject:CN=other", "san:IP:192.0.2.7")
OUR_NETWORKS = (network_of("192.0.2.0/28"), network_of("2001:db8::/32"))


def remote_of(**settings: Any) -> Remote:
    """A remote; a list that is empty is one that is not given."""
    return Remote(**{name: value for name, value in settings.items() if value not in ((), [])})


remotes_of_all_kinds = st.builds(
    remote_of,
    aet=st.sampled_from(("CT", "CT", "MR", "WS")),
    host=st.sampled_from(("192.0.2.1", "2001:db8::7", "ct.example")),
    check_host=st.booleans(),
    networks=st.sampled_from(((), ["192.0.2.0/29"], ["192.0.2.0/29", "2001:db8::/64"])),
    certificate=st.lists(st.sampled_from(BINDINGS), max_size=2),
    operations=st.lists(st.sampled_from(tuple(OPERATIONS)), unique=True, min_size=1),
    max_associations=st.sampled_from((0, 0, 3)),
    associations_per_minute=st.sampled_from((0, 0, 1)),
)
policies = st.builds(
    AccessPolicy,
    ae_title=st.just("PMOD"),
    remotes=st.lists(remotes_of_all_kinds, min_size=1, max_size=4).map(tuple),
    accept_any_ae=st.booleans(),
    accept_any_called_ae=st.booleans(),
    networks=st.lists(st.sampled_from(("192.0.2.0/28", "2001:db8::/32")).map(network_of), max_size=2).map(
        tuple
    ),
)
requestors = st.builds(
    Requestor,
    calling_ae_title=st.sampled_from(TITLES),
    called_ae_title=st.sampled_from(("PMOD", "PMOD", "PMOD", "OTHER", "")),
    address=st.sampled_from(ADDRESSES),
    certificate=st.sampled_from((None, SCANNER, OTHER)),
    verified=st.booleans(),
)
standings = st.builds(Standing, associations=st.integers(0, 3), is_hasty=st.booleans())


class RightsTests(SynchronousTestCase):
    """Whatever the rules are, nobody gets more than they say."""

    @settings(modest, max_examples=400)
    @given(policies, requestors, standings, st.sets(st.sampled_from(ADDRESSES)))
    def test_no_rights(
        self, policy: AccessPolicy, requestor: Requestor, standing: Standing, addresses: Collection[str]
    ) -> None:
        """Who is no remote in name, place and certificate never queries, retrieves or moves anything."""
        decision = policy.decide(requestor, {"ct.example": addresses}, standing)
        self.assertEqual(decision.resolve, frozenset())
        if decision.rejection is None and any(
            not policy.refusal(decision.remote, operation) for operation in ("C-FIND", "C-GET", "C-MOVE")
        ):
            self.assertIsNotNone(decision.remote)
            self.assertTrue(
                any(
                    _has_rights(remote, requestor, addresses)
                    for remote in policy.remotes
                    if remote == decision.remote
                ),
                (requestor, decision),
            )
            address = _plain(requestor.address)
            self.assertTrue(not policy.networks or address[:8] in ("192.0.2.", "2001:db8"))
            self.assertTrue(requestor.called_ae_title == "PMOD" or policy.accept_any_called_ae)

    @modest
    @given(policies, requestors, standings)
    def test_reasons(self, policy: AccessPolicy, requestor: Requestor, standing: Standing) -> None:
        """There is a reason with each rejection, and with nothing else; the answer is one of three."""
        decision = policy.decide(requestor, standing=standing)
        self.assertEqual(bool(decision.why), decision.rejection is not None)
        self.assertLessEqual(
            bool(decision.resolve) + bool(decision.remote) + bool(decision.rejection), 1, decision
        )


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def _has_rights(remote: Remote, requestor: Requestor, addresses: Collection[str]) -> bool:
    """The rules of a remote said in another way, for the few values that these tests use."""
    address = _plain(requestor.address)
    in_network = {str(network) for network in remote.networks} & {
        "192.0.2.0/29": {"192.0.2.0/29"},
        "2001:db8::7": {"2001:db8::/64"},
    }.get("192.0.2.0/29" if address == "192.0.2.1" else address, set())
    hosts = map(_plain, addresses) if remote.host == "ct.example" else (remote.host,)
    at_host = remote.check_host and address in {*hosts} - {"", "?"}
    placed = not (remote.check_host or remote.networks) or bool(in_network) or at_host
    shown = requestor.certificate
    said = {SCANNER: {BINDINGS[0]}, OTHER: set()}[shown] if shown else set()
    if requestor.verified:
        said |= {SCANNER: {BINDINGS[2]}, OTHER: {BINDINGS[1]}}[shown] if shown else set()
    bound = {str(binding) for binding in remote.certificate}
    return requestor.calling_ae_title == remote.aet and placed and (not bound or bool(bound & said))
