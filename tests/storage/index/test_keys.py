"""The forms in which values are compared."""

from __future__ import annotations

import time

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage.index.keys import (
    Instant,
    date_key,
    datetime_key,
    folded,
    integer_text,
    keys_of,
    name_keys,
    time_key,
)


class DateTests(SynchronousTestCase):
    def test_dates(self) -> None:
        """A date is eight digits, also with the dots of ACR-NEMA between them."""
        self.assertEqual(date_key("20240229"), "20240229")
        self.assertEqual(date_key("2024.02.29"), "20240229")

    def test_no_dates(self) -> None:
        """What has no such month or day, or other digits, is no date."""
        for text in ("", "2024", "20241301", "20240132", "2024.0229", "20240229 ", "٢٠٢٤٠٢٢٩", "19000000"):
            self.assertIsNone(date_key(text), text)


class TimeTests(SynchronousTestCase):
    def test_first(self) -> None:
        """What is not said of a time is zero at its beginning."""
        self.assertEqual(time_key("10"), "100000.000000")
        self.assertEqual(time_key("1030"), "103000.000000")
        self.assertEqual(time_key("103015"), "103015.000000")
        self.assertEqual(time_key("103015.5"), "103015.500000")
        self.assertEqual(time_key("10:30:15"), "103015.000000")

    def test_last(self) -> None:
        """What is not said of a time is the utmost at its end."""
        self.assertEqual(time_key("10", last=True), "105959.999999")
        self.assertEqual(time_key("1030", last=True), "103059.999999")
        self.assertEqual(time_key("103015", last=True), "103015.999999")
        self.assertEqual(time_key("103015.5", last=True), "103015.599999")

    def test_no_times(self) -> None:
        """Hours beyond 23 and odd numbers of digits are no times; a leap second is one."""
        for text in ("", "24", "1", "103", "1060", "103061", "103015.1234567", "ab"):
            self.assertIsNone(time_key(text), text)
        self.assertEqual(time_key("235960"), "235960.000000")


class DatetimeTests(SynchronousTestCase):
    def test_padded(self) -> None:
        """What is not said of a date and time is padded on either end, with the month's last day."""
        self.assertEqual(
            datetime_key("2024"), Instant("20240101000000.000000", "20240101000000.000000", False)
        )
        last = datetime_key("202402", last=True)
        assert last is not None
        self.assertEqual(last.local, "20240229235959.999999")

    def test_offset(self) -> None:
        """An offset from UTC is taken into account, over the ends of days and years."""
        east = datetime_key("20240101003000.5+0100")
        assert east is not None
        self.assertEqual(east, Instant("20240101003000.500000", "20231231233000.500000", True))
        west = datetime_key("20231231233000-0130")
        assert west is not None
        self.assertEqual(west.utc, "20240101010000.000000")

    def test_none(self) -> None:
        """What is no date and time, or cannot be counted back, has no form."""
        for text in (
            "",
            "20241",
            "202413",
            "20240230+0100",
            "00010101+1400",
            "2024-99",
            "20240101000000.+0100",
        ):
            self.assertIsNone(datetime_key(text), text)

    def test_leap_second(self) -> None:
        """A leap second stays one in UTC."""
        leap = datetime_key("20170101085960+0900")
        assert leap is not None
        self.assertEqual(leap.utc, "20161231235960.000000")


class NameTests(SynchronousTestCase):
    def test_groups(self) -> None:
        """Each component group has a form of its own, without case, padding and empty last components."""
        self.assertEqual(
            name_keys("Yamada^Tarou^^=山田^太郎=やまだ^たろう"),
            ("yamada^tarou", "山田^太郎", "やまだ^たろう"),
        )
        self.assertEqual(name_keys(" Doe ^ John ^"), ("doe^john", None, None))
        self.assertEqual(name_keys("=山田"), (None, "山田", None))
        self.assertEqual(name_keys("a=b=c=d"), ("a", "b", "c"))

    def test_folded(self) -> None:
        """Neither case nor width tell letters apart, accents do."""
        self.assertEqual(folded("STRASSE"), folded("Straße"))
        self.assertEqual(folded("ヤマダ"), folded("ﾔﾏﾀﾞ"))
        self.assertEqual(folded("ΣΊΣΥΦΟΣ"), folded("σίσυφος"))
        self.assertNotEqual(folded("Muller"), folded("Müller"))

    def test_too_long(self) -> None:
        """What is too long for a name is folded for its case alone: accents without end take no time."""
        accents = "\u0301\u0316" * 4000
        began = time.process_time()
        for _ in range(100):
            self.assertEqual(folded(f"A{accents}"), f"a{accents}".casefold())
        self.assertLess(time.process_time() - began, 2)


class ColumnTests(SynchronousTestCase):
    def test_columns(self) -> None:
        """What is no date or time has nothing in the columns beside it."""
        self.assertEqual(keys_of("DA", "2024"), (None,))
        self.assertEqual(keys_of("TM", "1030"), ("103000.000000",))
        self.assertEqual(keys_of("DT", "soon"), (None, None))
        self.assertEqual(keys_of("PN", "Doe"), ("doe", None, None))

    def test_integers(self) -> None:
        """Signs and zeros that mean nothing do not tell integers apart."""
        for text in ("7", "+7", "007", " 7 "):
            self.assertEqual(integer_text(text), "7")
        self.assertEqual(integer_text("-07"), "-7")
        self.assertEqual(integer_text("seven"), "seven")
        self.assertEqual(integer_text("9" * 30), "9" * 30)
