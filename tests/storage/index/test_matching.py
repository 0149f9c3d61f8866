"""Attribute matching, by the rules of PS3.4 C.2.2.2."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.encoding.dictionary import Attribute, lookup
from dicomtw.errors import DimseError
from dicomtw.storage.index.keys import SUFFIXES, keys_of
from dicomtw.storage.index.matching import KeyValue, matching_of
from dicomtw.storage.index.record import text_of
from tests.storage import modest
from tests.storage.index import tag


def attribute(vr: str, vm: str = "1") -> Attribute:
    return Attribute(0x00990010, vr, vm, "Tested")


def matches(vr: str, key: KeyValue, stored: str | None, vm: str = "1") -> bool:
    """Whether `stored` matches `key`, in SQL and in Python alike."""
    return matches_attribute(attribute(vr, vm), key, stored)


def matches_attribute(tested: Attribute, key: KeyValue, stored: str | None) -> bool:
    matching = matching_of(tested, key)
    if matching is None:
        return True
    condition = matching.condition(lambda suffix: f"t.c{suffix}")
    suffixes = SUFFIXES.get(tested.vr, ()) if tested.vm == "1" else ()
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA case_sensitive_like = ON")
    connection.execute(f"CREATE TABLE t ({', '.join(f'c{suffix} TEXT' for suffix in ('', *suffixes))})")
    keys: tuple[str | None, ...] = ()
    if suffixes:
        keys = (None,) * len(suffixes) if stored is None else keys_of(tested.vr, stored)
    connection.execute(f"INSERT INTO t VALUES (?{', ?' * len(suffixes)})", (stored, *keys))
    by_sql = bool(
        connection.execute(f"SELECT 1 FROM t WHERE {condition.text}", condition.parameters).fetchall()
    )
    connection.close()
    by_test = matching.matches(stored)
    if condition.is_exact:
        assert by_sql == by_test, (tested, key, stored, by_sql)
    else:
        assert by_sql or not by_test, (tested, key, stored)
    return by_test


class Matching(SynchronousTestCase):
    def yes(self, vr: str, key: KeyValue, stored: str | None, vm: str = "1") -> None:
        self.assertTrue(matches(vr, key, stored, vm), f"{key!r} does not match {stored!r}")

    def no(self, vr: str, key: KeyValue, stored: str | None, vm: str = "1") -> None:
        self.assertFalse(matches(vr, key, stored, vm), f"{key!r} matches {stored!r}")

    def refused(self, vr: str, key: KeyValue) -> str:
        error = self.assertRaises(DimseError, matching_of, attribute(vr), key)
        self.assertEqual(error.status, 0xA900)
        self.assertLessEqual(len(error.comment), 64)
        return error.comment


class SingleValueTests(Matching):
    def test_case(self) -> None:
        """Text is compared with regard to case, without padding."""
        self.yes("LO", "Head ", "Head")
        self.yes("SH", " Head\0", "Head")
        self.no("LO", "head", "Head")
        self.no("LO", "Head", "Heads")
        self.no("LO", "Head", None)

    def test_universal(self) -> None:
        """An empty key and asterisks alone match anything, also what is absent."""
        for vr in ("LO", "PN", "DA", "UI", "IS"):
            for key in ("", " ", "*", "**", "\0"):
                self.yes(vr, key, None)
                self.yes(vr, key, "1")

    def test_whole_text(self) -> None:
        """Text that has one value is compared with its backslashes."""
        self.yes("LT", "a\\b", "a\\b")
        self.no("LT", "a\\b", "a")

    def test_list(self) -> None:
        """A list matches any of its UIDs, and for other VRs any of its values, wild cards among them."""
        self.yes("UI", "1.2\\1.3", "1.3")
        self.no("UI", "1.2\\1.3", "1.4")
        self.yes("CS", "CT\\M*", "MR")
        self.yes("LO", "a\\\\b", "b")
        self.yes("LO", "\\", None)
        self.yes("LO", "a\\*", None)
        self.yes("DA", "20240101\\20240301-", "20240401")
        self.yes("PN", "Doe\\Roe\\P*", "ROE")
        self.yes("PN", "Doe\\Roe", "x=y=Roe")
        self.no("PN", "Doe\\Roe\\P*", "Roe^Jane")
        self.yes("DS", "1\\2.50\\x", "2.5")
        self.yes("DS", "1\\2.50\\x", "x")
        self.no("DS", "1\\2.50\\x", "3")

    def test_integers(self) -> None:
        """Integers are compared as such, in whichever way they are written."""
        self.yes("IS", "+07", "7")
        self.no("IS", "7", "70")
        self.no("IS", "?", "7")

    def test_fractions(self) -> None:
        """Decimal numbers are compared as such."""
        self.yes("DS", "70", "70.0")
        self.yes("DS", "7e1", "70")
        self.no("DS", "70", "71")
        self.no("DS", "70", "seventy")
        self.yes("DS", "seventy", "seventy")

    def test_several_values(self) -> None:
        """An attribute with several values matches if one of them does."""
        self.yes("CS", "PRIMARY", "ORIGINAL\\PRIMARY\\AXIAL", "2-n")
        self.no("CS", "RIMARY", "ORIGINAL\\PRIMARY\\AXIAL", "2-n")
        self.yes("CS", "PRI*", "ORIGINAL\\PRIMARY", "2-n")
        self.no("CS", "ORI*RY", "ORIGINAL\\PRIMARY", "2-n")
        self.yes("CS", "A\\*R?\\B", "ORIGINAL\\PRIMARY", "2-n")
        self.yes("DS", "1\\2", "3.0\\2.0", "1-n")
        for key in ("ORIGINAL", "PRIMARY", "AXIAL"):
            self.yes("CS", key, "ORIGINAL\\PRIMARY\\AXIAL", "2-n")
        self.yes("UI", "1.2\\1.3", "1.1\\1.3", "1-n")
        self.no("UI", "1.2\\1.3", "1.1\\1.31", "1-n")
        self.yes("PN", "roe^j*", "Doe^John\\Roe^Jane", "1-n")
        self.yes("DA", "20240101-20240131", "20230101\\20240115", "1-n")
        self.no("CS", "A", None, "1-n")

    def test_many_uids(self) -> None:
        """Ten thousand UIDs may be asked for, no more."""
        uids = [f"1.2.{number}" for number in range(10_000)]
        self.yes("UI", "\\".join(uids), "1.2.9999")
        self.yes("UI", "\\".join(uids), "1.1\\1.2.9999", "1-n")
        self.assertIn("too many", self.refused("UI", "\\".join([*uids, "1.3"])))

    def test_bounds(self) -> None:
        """Keys that would cost too much are refused."""
        self.assertIn("too many", self.refused("LO", "\\".join(map(str, range(257)))))
        self.assertIn("too long", self.refused("LO", "x" * 17_000))
        self.assertIn("wild cards", self.refused("LO", "x" * 257 + "*"))
        self.assertIn("wild cards", self.refused("PN", "x" * 257 + "*"))
        self.yes("LO", "x" * 257, "x" * 257)

    def test_deep_conditions(self) -> None:
        """The longest list of the most complicated patterns is no statement that SQLite does not take."""
        self.yes("PN", "\\".join(f"a{number}*^*" for number in range(256)), "A255^b")
        self.yes("CS", "\\".join(f"A{number}" for number in range(256)), "B\\A255", "1-n")
        self.no("CS", "\\".join(["A?", *(f"A{number}" for number in range(255))]), "B", "1-n")

    def test_long_texts(self) -> None:
        """The longest text that a key may be is found, and what differs at its end only is not."""
        text = "\U00020000" * 16_383
        self.yes("LO", f"{text}x", f"a\\{text}x", "1-n")
        self.no("LO", f"{text}x", f"a\\{text}y", "1-n")

    def test_rubbish(self) -> None:
        """Halves of UTF-16 characters and NUL in a key do no harm."""
        self.no("LO", "\ud800", "x")
        self.yes("LO", "a\0b", "ab")


class WildCardTests(Matching):
    def test_wild_cards(self) -> None:
        """An asterisk stands for any characters, a question mark for one."""
        self.yes("LO", "H*d", "Head")
        self.yes("LO", "H*d", "Hd")
        self.yes("LO", "H??d", "Head")
        self.no("LO", "H?d", "Head")
        self.yes("LO", "*ea*", "Head")
        self.no("LO", "h*", "Head")
        self.yes("LO", "?", "x")
        self.no("LO", "?", None)
        self.yes("LO", "a*b*b", "ab b")
        self.no("LO", "a*b*b", "ab")
        self.yes("LO", "**a", "a")
        self.yes("LO", "a?", "a\n")

    def test_no_wild_cards(self) -> None:
        """What means something in SQL or in regular expressions means nothing in a key."""
        for text in ("%", "_", "[a]", "!", ".", "^", "'", '"', "(", "!%"):
            self.yes("LO", f"x{text}*", f"x{text}y")
            self.no("LO", f"x{text}*", "xay")

    def test_where_not(self) -> None:
        """Dates, times, UIDs and numbers have no wild cards."""
        self.no("UI", "1.2.*", "1.2.3")
        self.no("DA", "2024*", "20240101")
        self.no("TM", "10*", "1030")
        self.no("IS", "1?", "12")

    def test_hostile(self) -> None:
        """A key made to take long takes no time that matters."""
        began = time.process_time()
        for key in ("a*" * 127 + "b", "*a?" * 80 + "b", "?*" * 127 + "b"):
            self.no("LO", key, "a" * 4096)
        for key in ("^*" * 500 + "a^*", ("^" + "*" * 9) * 100 + "a^*"):
            self.assertIn("wild cards", self.refused("PN", key))
        for key in ("^*" * 8000 + "a^*", "a" + "\u0301\u0316" * 8000):
            self.assertIn("too long for a name", self.refused("PN", key))
        self.assertLess(time.process_time() - began, 5)

    @modest
    @given(st.text("aAb*?%_!\\^.[", max_size=6), st.text("aAb*?%_!\\^.[", min_size=1, max_size=6))
    @example("*a", "aa")
    def test_property(self, key: str, value: str) -> None:
        """SQL and Python agree, for text, for names, and for what has several values."""
        for vr in ("LO", "PN", "LT"):
            for vm in ("1", "1-n"):
                for stored in (value, None):
                    matches(vr, key, stored, vm)


class NameTests(Matching):
    def test_case(self) -> None:
        """Names are compared without regard to case."""
        self.yes("PN", "doe^john", "DOE^John")
        self.yes("PN", "MÜLLER*", "Müller^Jürgen")
        self.yes("PN", "STRASSE", "Straße")

    def test_whole_group(self) -> None:
        """Without a wild card a key is a whole component group; empty components at its end do not count."""
        self.no("PN", "Doe", "Doe^John")
        self.yes("PN", "Doe^John^^", "Doe^John")
        self.yes("PN", "Doe", "Doe^^^")
        self.yes("PN", "Doe^John", "Doe ^John ")

    def test_any_group(self) -> None:
        """A key with one group matches any of the groups."""
        stored = "Yamada^Tarou=山田^太郎=やまだ^たろう"
        for key in ("yamada^*", "山田*", "やまだ^たろう", "*^太郎"):
            self.yes("PN", key, stored)
        self.no("PN", "山田^花子", stored)

    def test_group_by_group(self) -> None:
        """A key with several groups is matched group by group, an empty one matches any."""
        stored = "Yamada^Tarou=山田^太郎"
        self.yes("PN", "=山田*", stored)
        self.no("PN", "山田*=", stored)
        self.yes("PN", "yamada*=山田*=", stored)
        self.no("PN", "yamada*=鈴木*", stored)
        self.no("PN", "=山田*", "Yamada^Tarou")
        self.yes("PN", "==", None)

    def test_absent_components(self) -> None:
        """Components that may be anything may be absent: "DOE^*" is "DOE", too."""
        for stored in ("Doe", "Doe^John", "Doe^^^Dr"):
            self.yes("PN", "doe^*", stored)
            self.yes("PN", "doe^*^*", stored)
            self.yes("PN", "d*^*", stored)
        self.no("PN", "doe^*", "Doering^John")
        self.no("PN", "doe^*^*^dr", "Doe")
        self.yes("PN", "*^*", "Doe")
        self.yes("PN", "*^john", "Doe^John")


class RangeTests(Matching):
    def test_dates(self) -> None:
        """A range of dates has both ends in it, and may be open at either."""
        for key in (
            "20240101-20240131",
            "20240101-",
            "-20240131",
            "20240115-20240115",
            "2024.01.01 - 2024.01.31",
        ):
            self.yes("DA", key, "20240115")
        for key in ("20240116-", "-20240114", "20240131-20240101"):
            self.no("DA", key, "20240115")
        self.yes("DA", "20240101-20240131", "20240101")
        self.yes("DA", "20240101-20240131", "20240131")

    def test_open(self) -> None:
        """A range without ends matches anything."""
        for vr in ("DA", "TM", "DT"):
            self.yes(vr, "-", None)

    def test_hyphen(self) -> None:
        """A hyphen means something in dates and times alone."""
        self.no("LO", "-", None)
        self.yes("LO", "a-b", "a-b")
        self.no("SH", "a-c", "b")

    def test_invalid(self) -> None:
        """What is stored and no date is in no range, and is matched by its very text."""
        self.no("DA", "00000101-99991231", "20249999")
        self.no("DA", "20240101-", None)
        self.yes("DA", "20249999", "20249999")
        self.no("DA", "20240101", "2024")

    def test_no_range(self) -> None:
        """What has a hyphen and no dates around it is refused."""
        for vr, key in (
            ("DA", "2024-2025"),
            ("DA", "20240101-x"),
            ("DA", "20240101-20240201-20240301"),
            ("TM", "10-25"),
            ("DT", "2024-13-"),
            ("DT", "x-y"),
        ):
            self.assertEqual(self.refused(vr, key), "Tested is no range")

    def test_times(self) -> None:
        """Times in a range may be partial: they begin with their first instant and end with their last."""
        for key in ("10-11", "1030-1030", "103000-103059.5", "-10", "1030-", "10:30-10:31"):
            self.yes("TM", key, "103059.5")
        self.no("TM", "-1029", "103000")
        self.no("TM", "11-", "105959.999999")
        self.yes("TM", "10-", "10")

    def test_single(self) -> None:
        """Dates and times are compared by what they mean."""
        self.yes("TM", "1030", "103000.000")
        self.yes("TM", "10:30:00", "1030")
        self.no("TM", "1030", "103001")
        self.yes("DA", "2024.01.15", "20240115")
        self.yes("DT", "20240115103000+0100", "20240115093000+0000")

    def test_datetimes(self) -> None:
        """Dates with times may be partial, too."""
        for key in ("2024-2024", "202401-", "-20240115", "20240115103000-20240115103000.9"):
            self.yes("DT", key, "20240115103000.5")
        self.no("DT", "20240116-", "20240115103000.5")

    def test_offsets(self) -> None:
        """The hyphen of an offset from UTC is none of a range."""
        stored = "20240115093000+0000"
        for key in (
            "20240115043000-0500",
            "20240115043000-0500-",
            "-20240115043000-0500",
            "20240115040000-0500-20240115050000-0500",
            "20240115100000+0100-20240115110000+0100",
            "20240115-0500-2025",
        ):
            self.yes("DT", key, stored)
        for key in ("20240115043001-0500-", "-20240115042959-0500", "20240115093000-0500"):
            self.no("DT", key, stored)

    def test_without_offset(self) -> None:
        """A key without an offset is about what the clock showed."""
        self.yes("DT", "20240115", "20240115003000+0900".replace("003000", "000000"))
        self.yes("DT", "20240115-20240115", "20240115003000+0900")
        self.no("DT", "20240115+0000-20240115+0000", "20240115003000+0900")

    @modest
    @given(
        st.sampled_from(["DA", "TM", "DT"]),
        st.lists(st.text("0123456789.+-:", max_size=16), min_size=1, max_size=2),
        st.text("0123456789.+-:", min_size=1, max_size=16),
    )
    def test_anything(self, vr: str, ends: list[str], stored: str) -> None:
        """SQL and Python agree for whatever is asked and stored, unless it is refused."""
        try:
            matches(vr, "-".join(ends), stored)
        except DimseError as error:
            self.assertEqual(error.status, 0xA900)

    @modest
    @given(
        st.lists(st.sampled_from(["20240101", "20240102", "2024", "x", ""]), min_size=1, max_size=2),
        st.sampled_from(["20240101", "20240102", "20240103", "x"]),
    )
    def test_dates_agree(self, ends: list[str], stored: str) -> None:
        """They do for dates that are likely to be near each other."""
        try:
            matches("DA", "-".join(ends), stored)
        except DimseError as error:
            self.assertEqual(error.status, 0xA900)


#: (0040,0275) Request Attributes Sequence, and what is in its items.
REQUEST = lookup(0x00400275)
STEP_ID, PROCEDURE_ID, CODES = 0x00400009, 0x00401001, 0x00400008
STORED = (
    '[{"00400009":"S1","00401001":"P1"},{"00400009":"S2","00401001":"P2","00400008":[{"00080100":"C\\"1"}]}]'
)


class SequenceTests(Matching):
    def check(self, key: KeyValue, stored: str | None = STORED) -> bool:
        assert REQUEST is not None
        return matches_attribute(REQUEST, key, stored)

    def test_universal(self) -> None:
        """No item, an empty one, and one with keys that match anything match anything."""
        for key in ((), ({},), ({STEP_ID: ""},), ({CODES: ()},), ({CODES: ({0x00080100: "*"},)},)):
            self.assertTrue(self.check(key, None), key)

    def test_one_item(self) -> None:
        """All keys have to match in one item."""
        self.assertTrue(self.check(({STEP_ID: "S2", PROCEDURE_ID: "P2"},)))
        self.assertFalse(self.check(({STEP_ID: "S1", PROCEDURE_ID: "P2"},)))
        self.assertTrue(self.check(({STEP_ID: "S?", PROCEDURE_ID: "P1\\P3"},)))
        self.assertFalse(self.check(({STEP_ID: "S3"},)))
        self.assertFalse(self.check(({STEP_ID: "S1"},), None))

    def test_nested(self) -> None:
        """Keys in sequences in the item are matched likewise."""
        self.assertTrue(self.check(({CODES: ({0x00080100: 'C"1'},)},)))
        self.assertFalse(self.check(({STEP_ID: "S1", CODES: ({0x00080100: 'C"1'},)},)))
        self.assertFalse(self.check(({CODES: ({0x00080100: "C2"},)},)))
        for key in ("C?1", 'C"*', "C*1", "*?*"):
            self.assertTrue(self.check(({CODES: ({0x00080100: key},)},)), key)

    @modest
    @given(st.text('aA*?%!"\\\x01\u00e4', max_size=5), st.text('aA%!"\\\x01\u00e4', max_size=6))
    def test_property(self, key: str, value: str) -> None:
        """SQL leaves out no item that matches, whatever is in it."""
        stored = json.dumps([{"00400007": value}], ensure_ascii=False, separators=(",", ":"))
        self.check(({0x00400007: key},), stored)

    def test_private(self) -> None:
        """Private keys are compared as text with what is stored under their tag."""
        stored = '[{"00091001":"a\\\\b"}]'
        self.assertTrue(self.check(({0x00091001: "b"},), stored))
        self.assertFalse(self.check(({0x00091001: "c"},), stored))
        self.assertFalse(self.check(({0x00091002: ({STEP_ID: "x"},)},), stored))

    def test_long_texts(self) -> None:
        """The longest text that a key in an item may be is found."""
        text = "\U00020000" * 16_384
        self.assertTrue(self.check(({STEP_ID: text},), f'[{{"{STEP_ID:08X}":"{text}"}}]'))

    def test_many_keys(self) -> None:
        """As many keys as SQLite takes conditions for may be in an item, no more."""
        keys = {0x00091000 + number: "x" for number in range(256)}
        stored = ",".join(f'"{each:08X}":"x"' for each in keys)
        self.assertTrue(self.check((keys,), f"[{{{stored}}}]"))
        assert REQUEST is not None
        error = self.assertRaises(DimseError, matching_of, REQUEST, ({**keys, STEP_ID: "x"},))
        self.assertIn("too many keys", error.comment)

    def test_refused(self) -> None:
        """A sequence as text, text as a sequence, several items and deep nesting are refused."""
        assert REQUEST is not None
        deep: KeyValue = ()
        for _ in range(10):
            deep = ({CODES: deep},)
        keys: tuple[tuple[Attribute, Any], ...] = (
            (REQUEST, ""),
            (REQUEST, "x"),
            (attribute("LO"), ()),
            (attribute("LO"), ({STEP_ID: "x"},)),
            (REQUEST, ({STEP_ID: ()},)),
            (REQUEST, ({CODES: "x"},)),
            (REQUEST, ({STEP_ID: "x"}, {STEP_ID: "y"})),
            (REQUEST, deep),
        )
        for tested, key in keys:
            error = self.assertRaises(DimseError, matching_of, tested, key)
            self.assertEqual(error.status, 0xA900)


class StoredTests(SynchronousTestCase):
    def test_stored_as_encoded(self) -> None:
        """What an SCU takes from a response and asks for matches what it was taken from."""
        for keyword, value in (
            ("StudyDate", b"2024.01.15"),
            ("StudyDate", b"unknown "),
            ("StudyTime", b"103000.120"),
            ("PatientName", "Müller^Jürgen".encode("latin-1")),
            ("PatientID", b" 4711"),
            ("InstanceNumber", b"007 "),
            ("ImageType", b"ORIGINAL\\PRIMARY "),
            ("Rows", b"\0\2"),
            ("ImageComments", b"two\r\nlines "),
        ):
            tested = lookup(tag(keyword))
            assert tested is not None
            stored = text_of(value, tested.vr, ("ISO_IR 100",))
            self.assertTrue(matches_attribute(tested, stored, stored), stored)
