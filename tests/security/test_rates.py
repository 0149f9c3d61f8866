"""How often somebody may ask, by a virtual clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.access import AccessPolicy, Standing
from dicomtw.security.rates import MAXIMUM_HOSTS, Rates, Register, TokenBucket
from dicomtw.security.remote import Remote
from tests.storage import modest

HASTY = Standing(host_is_hasty=True)
REJECTED = Standing(host_is_rejected=True)


class TokenBucketTests(SynchronousTestCase):
    def test_limit(self) -> None:
        """It has a minute's worth at once, then one each time that a minute's part has passed."""
        bucket = TokenBucket(6, 1000.0)
        self.assertEqual([bucket.take(1000.0) for _ in range(8)], [True] * 6 + [False] * 2)
        for now, expected in (
            (1009.9, False),
            (1010.0, True),
            (1010.1, False),
            (1030.0, True),
            (1030.0, True),
            (1030.0, False),
        ):
            self.assertEqual(bucket.has(now), expected, now)
            self.assertEqual(bucket.take(now), expected, now)

    def test_never_more_than_full(self) -> None:
        """An hour of quiet is worth no more than a minute, and a clock that goes back takes nothing."""
        bucket = TokenBucket(3, 0.0)
        self.assertEqual([bucket.take(3600.0) for _ in range(4)], [True] * 3 + [False])
        self.assertFalse(bucket.take(0.0))
        self.assertTrue(bucket.take(3620.0))

    @modest
    @given(
        st.integers(1, 1000),
        st.lists(st.floats(0, 90, allow_nan=False), max_size=60),
    )
    def test_rate(self, per_minute: int, waits: list[float]) -> None:
        """Whenever it is asked, it gives no more than a bucketful and what the time is worth."""
        bucket, now, taken = TokenBucket(per_minute, 0.0), 0.0, 0
        for wait in waits:
            now += wait
            taken += sum(bucket.take(now) for _ in range(3))
        self.assertLessEqual(taken, per_minute + now * per_minute / 60 + 0.001)


class RatesTests(SynchronousTestCase):
    def test_each_has_its_own(self) -> None:
        """Who has none left takes none from others."""
        rates = Rates(1)
        self.assertEqual([rates.take(who, 0.0) for who in "aabb"], [True, False, True, False])
        self.assertEqual([rates.has(who, 0.0) for who in "abc"], [False, False, True])

    def test_no_limit(self) -> None:
        """Without a limit nothing is remembered."""
        rates = Rates(0)
        self.assertTrue(all(rates.take("a", 0.0) for _ in range(1000)))
        self.assertEqual(len(rates), 0)

    def test_bounded(self) -> None:
        """At its size it forgets who asked longest ago, whoever asks goes on being remembered."""
        rates = Rates(1, maximum=3)
        for who in "abcad":
            rates.take(who, 0.0)
        self.assertEqual(len(rates), 3)
        self.assertEqual([rates.has(who, 0.0) for who in "abcd"], [False, True, False, False])


class RegisterTests(SynchronousTestCase):
    def register(self, *remotes: Remote, hosts: int = 0, failed: int = 0) -> Register:
        return Register(
            AccessPolicy(
                ae_title="PMOD",
                remotes=remotes,
                associations_per_minute_per_host=hosts,
                failed_associations_per_minute_per_host=failed,
            )
        )

    def test_hosts(self) -> None:
        """A host has its number of associations a minute, by all its addresses; another has its own."""
        register = self.register(hosts=2)
        for address, expected in (
            ("192.0.2.1", Standing()),
            ("::ffff:192.0.2.1", Standing()),
            ("192.0.2.1", HASTY),
            ("192.0.2.2", Standing()),
            ("2001:db8::1", Standing()),
            ("2001:db8::2", Standing()),
            ("2001:db8::3", HASTY),
            ("2001:db8:0:1::1", Standing()),
        ):
            self.assertEqual(register.asked(address, 0.0), expected, address)
        self.assertEqual(register.asked("192.0.2.1", 30.0), Standing())
        self.assertEqual(register.asked("192.0.2.1", 30.0), HASTY)

    def test_rejected(self) -> None:
        """A host that is rejected again and again is put off; that itself costs it nothing more."""
        register = self.register(failed=3)
        for number in range(3):
            self.assertEqual(register.asked("192.0.2.1", 0.0), Standing(), number)
            register.rejected("192.0.2.1", 0.0)
        self.assertEqual(register.asked("192.0.2.1", 0.0), REJECTED)
        self.assertEqual(register.asked("192.0.2.1", 19.9), REJECTED)
        self.assertEqual(register.asked("192.0.2.2", 19.9), Standing())
        self.assertEqual(register.asked("192.0.2.1", 20.0), Standing())

    def test_accepted(self) -> None:
        """Who is accepted goes on being so, however often it comes."""
        register = self.register(failed=1)
        self.assertEqual({register.asked("192.0.2.1", 0.0) for _ in range(1000)}, {Standing()})

    def test_no_address(self) -> None:
        """Who comes through a local socket is no host, and is not counted as one."""
        register = self.register(hosts=1, failed=1)
        for _ in range(3):
            self.assertEqual(register.asked("", 0.0), Standing())
            register.rejected("", 0.0)

    def test_ipv6_network(self) -> None:
        """Whoever has a /64, or a /48 of them, costs no more memory than the table has room for."""
        register = self.register(hosts=1, failed=1)
        for number in range(3 * MAXIMUM_HOSTS):
            for address in (f"2001:db8::{number:x}", f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"):
                register.asked(address, 0.0)
                register.rejected(address, 0.0)
        self.assertLessEqual(len(register._asked), MAXIMUM_HOSTS)
        self.assertLessEqual(len(register._rejected), MAXIMUM_HOSTS)

    def test_remotes(self) -> None:
        """A remote has its number of associations a minute, also beside another of its AE title."""
        two, five = (Remote(aet="CT", associations_per_minute=number) for number in (2, 5))
        remotes = (two, five, Remote(aet="MR"))
        register = self.register(*remotes)
        for _ in range(2):
            self.assertFalse(register.is_hasty(two, 0.0))
            for remote in remotes:
                register.accepted(remote, 0.0)
        self.assertEqual([register.is_hasty(remote, 0.0) for remote in remotes], [True, False, False])
        for _ in range(3):
            self.assertFalse(register.is_hasty(five, 0.0))
            register.accepted(five, 0.0)
        self.assertTrue(register.is_hasty(five, 0.0))
        self.assertEqual([register.is_hasty(two, now) for now in (29.9, 30.0)], [True, False])
