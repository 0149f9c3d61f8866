"""Who may associate: the truth table of the rules."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.access import (
    CALLED_NOT_RECOGNIZED,
    CALLING_NOT_RECOGNIZED,
    AccessPolicy,
    Decision,
    Requestor,
)
from dicomtw.security.remote import OPERATIONS, Remote
from dicomtw.ul.pdu import A_ASSOCIATE_RJ

ANYWHERE = Remote(aet="ANYWHERE", host="192.0.2.1")
NUMBER = Remote(aet="NUMBER", host="192.0.2.7", check_host=True)
IPV6 = Remote(aet="IPV6", host="2001:db8:0:0::7", check_host=True)
NAME = Remote(aet="NAME", host="ct.example", check_host=True)
TWICE = (
    Remote(aet="TWICE", host="192.0.2.21", check_host=True),
    Remote(aet="TWICE", host="mr.example", check_host=True),
    Remote(aet="TWICE", host="pet.example", check_host=True),
)
REMOTES = (ANYWHERE, NUMBER, IPV6, NAME, *TWICE)

OK = None
CALLED = CALLED_NOT_RECOGNIZED
CALLING = CALLING_NOT_RECOGNIZED


def decide(
    calling: str = "SCU",
    called: str = "PMOD",
    address: str = "192.0.2.1",
    addresses: frozenset[str] | None = None,
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
        Requestor(calling_ae_title=calling, called_ae_title=called, address=address), addresses
    )


class AccessTests(SynchronousTestCase):
    def test_rejections(self) -> None:
        """PS3.8 Table 9-21: both are permanent and by the service-user, reason 7 called, 3 calling."""
        self.assertEqual((CALLED, CALLING), (A_ASSOCIATE_RJ(1, 1, 7), A_ASSOCIATE_RJ(1, 1, 3)))

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
        cases: list[tuple[str, str, set[str], A_ASSOCIATE_RJ | None, Remote | None]] = [
            ("NAME", "192.0.2.8", {"192.0.2.8"}, OK, NAME),
            ("NAME", "192.0.2.8", {"192.0.2.9", "2001:db8::8", "192.0.2.8"}, OK, NAME),
            ("NAME", "::ffff:192.0.2.8", {"192.0.2.8"}, OK, NAME),
            ("NAME", "2001:db8::8", {"2001:db8::8"}, OK, NAME),
            ("NAME", "192.0.2.8", {"192.0.2.9"}, CALLING, None),
            ("NAME", "192.0.2.8", set(), CALLING, None),
            ("NAME", "", {"192.0.2.8"}, CALLING, None),
            ("TWICE", "192.0.2.22", {"192.0.2.22", "192.0.2.23"}, OK, TWICE[1]),
            ("TWICE", "192.0.2.29", {"192.0.2.22"}, CALLING, None),
        ]
        for calling, address, addresses, rejection, remote in cases:
            decision = decide(calling, address=address, addresses=frozenset(addresses), any_ae=True)
            self.assertEqual((decision.rejection, decision.remote), (rejection, remote), (calling, address))
            self.assertEqual(decision.resolve, frozenset(), "names are asked for once")

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


class RefusalTests(SynchronousTestCase):
    """What those may ask for who may associate."""

    def refused(self, remote: Remote | None, **options: bool) -> dict[str, str]:
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
        for allowed in ((), ("echo",), ("store", "find"), tuple(OPERATIONS)):
            remote = Remote(aet="SOME", operations=tuple(allowed))
            others = [name for word, name in OPERATIONS.items() if word not in allowed]
            for any_may in (False, True):
                found = self.refused(remote, allow_retrieve_any=any_may)
                self.assertEqual(found, dict.fromkeys(others, "not allowed to this remote"), allowed)
