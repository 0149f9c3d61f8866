"""Value Representations (PS3.5 6.2): which are text, which are bytes, and numbers as text and back.

Numbers are little endian here, as everywhere but in encoded data sets.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from struct import Struct
from typing import Final

#: VRs whose text is in the Specific Character Set (PS3.5 6.1.2.2); that of others is ASCII.
TEXT: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
#: VRs with one value, where a backslash is none but itself and leading spaces mean something.
WHOLE: Final = frozenset({"LT", "ST", "UR", "UT"})
#: VRs that are bytes to all but those who know what is in them.
BYTES: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
#: VRs whose explicit form has a length of 32 bits (PS3.5 Table 7.1-1); that of others has 16.
LONG_FORM: Final = BYTES | {"SQ", "SV", "UC", "UR", "UT", "UV"}
#: VRs of numbers in binary, and one of them.
NUMBERS: Final = {
    "AT": Struct("<HH"),
    "FD": Struct("<d"),
    "FL": Struct("<f"),
    "SL": Struct("<l"),
    "SS": Struct("<h"),
    "SV": Struct("<q"),
    "UL": Struct("<L"),
    "US": Struct("<H"),
    "UV": Struct("<Q"),
}

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_FRACTION = re.compile(r"[+-]?(?:[0-9.]{1,32}(?:[eE][+-]?[0-9]{1,4})?|inf|nan)", re.ASCII)
_TAG = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)


def numbers_text(value: bytes, vr: str) -> str:
    """The numbers of a VR of `NUMBERS`, several with a backslash between them; tags as GGGGEEEE.

    Empty where the bytes are none of that VR.
    """
    number = NUMBERS[vr]
    if len(value) % number.size:
        return ""
    if vr == "AT":
        return "\\".join(f"{group:04X}{element:04X}" for group, element in number.iter_unpack(value))
    text = _single_text if vr == "FL" else str
    return "\\".join(text(each) for (each,) in number.iter_unpack(value))


def numbers_value(text: str, vr: str) -> bytes:
    """The inverse; empty where the text, or a part of it, is none of that VR or out of its range."""
    if not text:
        return b""
    try:
        return b"".join(_packed(part.strip(), vr) for part in text.split("\\"))
    except (ValueError, OverflowError, struct.error):
        return b""


def _packed(text: str, vr: str) -> bytes:
    number = NUMBERS[vr]
    if vr == "AT":
        if not _TAG.fullmatch(text):
            raise ValueError(text)
        return number.pack(int(text[:4], 16), int(text[4:], 16))
    if vr in ("FD", "FL"):
        if not _FRACTION.fullmatch(text):  # float takes more than that
            raise ValueError(text)
        return number.pack(float(text))
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    return number.pack(int(text))


def _single_text(number: float) -> str:
    """The shortest text of a number of single precision that is still that number."""
    single = NUMBERS["FL"]
    for digits in (7, 8):
        text = f"{number:.{digits}g}"
        with suppress(OverflowError):
            if single.pack(float(text)) == single.pack(number):
                return text
    return f"{number:.9g}"
