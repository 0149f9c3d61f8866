"""AE titles: what is compared, and what is no AE title (PS3.5 6.2)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import ae_title


class SignificantTests(SynchronousTestCase):
    def test_padding(self) -> None:
        """Leading and trailing spaces are not significant; spaces inside are."""
        cases = {
            "STORE": "STORE",
            "STORE           ": "STORE",
            "           STORE": "STORE",
            "  CT ROOM 1     ": "CT ROOM 1",
            "                ": "",
            "": "",
        }
        for title, significant in cases.items():
            self.assertEqual(ae_title.significant(title), significant)

    def test_case(self) -> None:
        """Case is significant."""
        self.assertNotEqual(ae_title.significant("Store"), ae_title.significant("STORE"))

    def test_only_spaces_are_padding(self) -> None:
        """NUL, tab and the no-break space are characters, so that what is rejected is not compared away."""
        for title in ("STORE\0", "\tSTORE", "STORE\xa0", "STORE\n"):
            self.assertEqual(ae_title.significant(title), title)


class FaultTests(SynchronousTestCase):
    def test_titles(self) -> None:
        """1 to 16 characters of printable ASCII other than backslash are an AE title."""
        for title in (
            "A",
            "STORE",
            "SIXTEEN_LETTERS_",
            "ct room 1",
            "~!@#$%^&*()",
            " PADDED         ",
            "1.2",
        ):
            self.assertIsNone(ae_title.fault(title), title)

    def test_faults(self) -> None:
        """What is no AE title is told in words."""
        characters = "has a control character, a backslash or a character outside ASCII"
        cases = {
            "": "is empty or all spaces",
            "                ": "is empty or all spaces",
            "SEVENTEEN_LETTERS": "is 17 characters long; 16 is the most",
            "A" * 300: "is 300 characters long; 16 is the most",
            "AE\\TITLE": characters,
            "AE\0": characters,
            "AE\n": characters,
            "\x1bAE": characters,
            "AE\x7f": characters,
            "AE\xa0": characters,
            "\xc4E": characters,
            "AE\u2603": characters,
        }
        for title, fault in cases.items():
            self.assertEqual(ae_title.fault(title), fault, repr(title))

    @settings(deadline=None, max_examples=100, database=None)
    @given(st.text(max_size=20))
    def test_any_text(self, title: str) -> None:
        """Padding makes no difference, and what has no fault fits in the 16 bytes of the field."""
        self.assertEqual(ae_title.fault(f"  {title} "), ae_title.fault(title))
        if ae_title.fault(title) is None:
            self.assertLessEqual(len(ae_title.significant(title).encode("ascii")), 16)
