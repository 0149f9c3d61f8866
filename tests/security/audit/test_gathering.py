"""What is gathered before it is told: instances of a study, and alerts about one peer."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.audit.events import MAXIMUM_SOP_CLASSES, Study
from dicomtw.security.audit.repeats import MAXIMUM_HOSTS, TOLD, TOLD_TOGETHER, WINDOW, Repeats
from dicomtw.security.audit.transfers import (
    LONGEST,
    MAXIMUM_STUDIES,
    Gathered,
    Transfers,
)


class TransferTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.transfers = Transfers()

    def add(self, study: int, sop_class: str = "CT", now: float = 0.0) -> Gathered | None:
        return self.transfers.add(study, lambda: Study(study_instance_uid=f"1.{study}"), sop_class, now)

    def taken(self) -> list[tuple[str, dict[str, int]]]:
        return [(one.study.study_instance_uid, dict(one.instances)) for one in self.transfers.take()]

    def test_gathered(self) -> None:
        """Instances are counted by study and SOP class, and told of once."""
        for study, sop_class in ((1, "CT"), (2, "MR"), (1, "CT"), (1, "SR")):
            self.assertIsNone(self.add(study, sop_class))
        self.assertEqual(self.taken(), [("1.1", {"CT": 2, "SR": 1}), ("1.2", {"MR": 1})])
        self.assertEqual(self.taken(), [])

    def test_studies(self) -> None:
        """Of many studies the oldest is told of when there is one more."""
        for study in range(MAXIMUM_STUDIES):
            self.assertIsNone(self.add(study))
            self.assertIsNone(self.add(study))
        due = self.add(MAXIMUM_STUDIES)
        assert due is not None
        self.assertEqual((due.study.study_instance_uid, due.instances), ("1.0", {"CT": 2}))
        self.assertEqual(len(self.taken()), MAXIMUM_STUDIES)

    def test_sop_classes(self) -> None:
        """So it is with SOP classes of one study, of which none is counted twice."""
        for number in range(MAXIMUM_SOP_CLASSES):
            self.assertIsNone(self.add(1, str(number)))
        self.assertIsNone(self.add(1, "0"))
        due = self.add(1, "one more")
        assert due is not None
        self.assertEqual(due.instances.total(), MAXIMUM_SOP_CLASSES + 1)
        self.assertEqual(self.taken(), [("1.1", {"one more": 1})])

    def test_long(self) -> None:
        """What is sent for long is told of meanwhile."""
        self.assertIsNone(self.add(1, now=5.0))
        self.assertIsNone(self.add(1, now=5.0 + LONGEST - 0.1))
        due = self.add(1, now=5.0 + LONGEST)
        assert due is not None
        self.assertEqual(due.instances, {"CT": 2})
        self.assertIsNone(self.add(1, now=5.0 + 2 * LONGEST - 0.1))
        self.assertEqual(self.taken(), [("1.1", {"CT": 2})])


class RepeatTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.repeats = Repeats()

    def told(self, address: str, times: int, now: float = 0.0) -> int:
        return sum(self.repeats.is_to_be_told(address, now) for _ in range(times))

    def test_counted(self) -> None:
        """Of alerts about one peer the first few are told, the others counted until their time is over."""
        self.assertFalse(self.repeats)
        self.assertEqual(self.told("192.0.2.1", TOLD), TOLD)
        self.assertEqual(self.told("192.0.2.1", 5), 0)
        self.assertEqual(self.told("192.0.2.2", 1, 1.0), 1)
        self.assertEqual(list(self.repeats.ended(WINDOW - 0.1)), [])
        self.assertEqual(list(self.repeats.ended(WINDOW)), [("192.0.2.1", 5)])
        self.assertEqual(self.told("192.0.2.1", 1), 1)
        self.assertTrue(self.repeats)
        self.assertEqual(list(self.repeats.ended()), [])
        self.assertFalse(self.repeats)

    def test_hosts(self) -> None:
        """A host has one count, whatever of its addresses it comes from: IPv6, and IPv4 in its clothes."""
        for address in (f"2001:db8::{number}" for number in range(1, 2 * TOLD + 1)):
            self.repeats.is_to_be_told(address, 0.0)
        for address in ("192.0.2.1", "::ffff:192.0.2.1"):
            self.told(address, TOLD)
        self.assertEqual(list(self.repeats.ended()), [("2001:db8::/64", TOLD), ("192.0.2.1", TOLD)])

    def hosts(self, count: int, now: float = 0.0, first: int = 0) -> int:
        """How many alerts are told of one about each of so many hosts."""
        numbers = range(first, first + count)
        return sum(self.repeats.is_to_be_told(f"10.0.{n >> 8}.{n & 255}", now) for n in numbers)

    def test_together(self) -> None:
        """Of all hosts together only so many are told in that time; the others are counted together."""
        self.assertEqual(self.hosts(TOLD_TOGETHER), TOLD_TOGETHER)
        self.assertEqual(self.hosts(100, first=1000), 0)
        self.assertEqual(self.hosts(1), 0)
        self.assertEqual(list(self.repeats.ended(WINDOW)), [("10.0.0.0", 1), ("", 100)])
        self.assertEqual(self.hosts(1, WINDOW), 1)

    def test_many_hosts(self) -> None:
        """Only so many hosts are remembered; what is about more is counted together."""
        for number in range(MAXIMUM_HOSTS):
            self.assertEqual(self.hosts(1, WINDOW * (number // TOLD_TOGETHER), number), 1)
        now = WINDOW * (MAXIMUM_HOSTS // TOLD_TOGETHER + 1)
        self.assertEqual(self.hosts(100, now, 2000), TOLD)
        self.assertEqual([each for each in self.repeats.ended() if each[1]], [("", 100 - TOLD)])
