"""Value Representations: numbers as text and back."""

from __future__ import annotations

import math
from struct import pack

from hypothesis import given
from hypothesis import strategies as st
from pydicom.valuerep import BYTES_VR, CUSTOMIZABLE_CHARSET_VR, FLOAT_VR, INT_VR, VR
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.encoding.representations import BYTES, NUMBERS, TEXT, numbers_text, numbers_value
from tests.storage import modest


class TableTests(SynchronousTestCase):
    def test_pydicom(self) -> None:
        """Numbers, bytes and text in the Specific Character Set are those VRs that pydicom takes for them."""
        numbers = {str(vr) for vr in (INT_VR | FLOAT_VR) - {VR.DS, VR.IS}}
        self.assertEqual(set(NUMBERS), numbers)
        self.assertEqual(BYTES, {str(vr) for vr in BYTES_VR if " " not in vr})
        self.assertEqual(TEXT, {str(vr) for vr in CUSTOMIZABLE_CHARSET_VR})


class NumberTests(SynchronousTestCase):
    def test_text(self) -> None:
        """Numbers are decimal text, tags hexadecimal, several have a backslash between them."""
        for vr, value, text in (
            ("US", pack("<2H", 1, 65535), "1\\65535"),
            ("SS", pack("<h", -1), "-1"),
            ("UL", pack("<L", 1 << 31), "2147483648"),
            ("SL", pack("<l", -(1 << 31)), "-2147483648"),
            ("UV", pack("<Q", (1 << 64) - 1), "18446744073709551615"),
            ("SV", pack("<q", -(1 << 63)), "-9223372036854775808"),
            ("FL", pack("<f", 0.1), "0.1"),
            ("FD", pack("<2d", 0.1, 1e300), "0.1\\1e+300"),
            ("FD", pack("<d", math.inf), "inf"),
            ("AT", pack("<4H", 0x0018, 0x1063, 0x0054, 0x00F0), "00181063\\005400F0"),
            ("US", b"", ""),
        ):
            self.assertEqual(numbers_text(value, vr), text)
            self.assertEqual(numbers_value(text, vr), value)

    def test_no_numbers(self) -> None:
        """Bytes of another length are no numbers; and text that is none, or too large, is no bytes."""
        for vr, number in NUMBERS.items():
            self.assertEqual(numbers_text(bytes(number.size + 1), vr), "")
            for text in (
                "abc",
                "1\\abc",
                "1\\\\2",
                "\\",
                " ",
                "1_0",
                "\N{ARABIC-INDIC DIGIT ONE}",
                "1" * 5000,
                "0x10",
                ".",
            ):
                self.assertEqual(numbers_value(text, vr), b"", (vr, text))
        for vr, text in (
            ("US", "-1"),
            ("US", "65536"),
            ("SS", "-32769"),
            ("UL", "4294967296"),
            ("SV", "9223372036854775808"),
            ("UV", "18446744073709551616"),
            ("US", "1.5"),
            ("FL", "1e39"),
            ("AT", "0018106"),
            ("AT", "001810630"),
        ):
            self.assertEqual(numbers_value(text, vr), b"", (vr, text))

    @modest
    @given(st.sampled_from(sorted(NUMBERS)), st.binary(max_size=32))
    def test_inverse(self, vr: str, value: bytes) -> None:
        """Numbers that have been text are what they were; of those that are none but one is another."""
        text = numbers_text(value, vr)
        again = numbers_value(text, vr)
        if "nan" in text:
            self.assertEqual(numbers_text(again, vr), text)
        else:
            self.assertEqual(again, value[: len(value) if text else 0])

    @modest
    @given(st.sampled_from(sorted(NUMBERS)), st.text(max_size=40))
    def test_anything(self, vr: str, text: str) -> None:
        """Of whatever text bytes are made, they are numbers."""
        self.assertEqual(len(numbers_value(text, vr)) % NUMBERS[vr].size, 0)
