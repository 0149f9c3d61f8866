"""Values in the forms in which they are compared (PS3.4 C.2.2.2; PS3.5 6.2 for the VRs).

Dates and times are compared by what they mean and names without regard to case, so the index has columns
with these forms beside the values themselves: comparing is then comparing text.
"""

from __future__ import annotations

import calendar
import re
import unicodedata
from datetime import datetime, timedelta
from typing import Final

import attrs

_DATE = re.compile(r"([0-9]{4})(\.?)(0[1-9]|1[0-2])\2(0[1-9]|[12][0-9]|3[01])")
_TIME = re.compile(r"([01][0-9]|2[0-3])(?::?([0-5][0-9])(?::?([0-5][0-9]|60)(?:\.([0-9]{1,6}))?)?)?")
_DATETIME = re.compile(
    r"([0-9]{4})(?:(0[1-9]|1[0-2])(?:(0[1-9]|[12][0-9]|3[01])"
    r"(?:([01][0-9]|2[0-3])(?:([0-5][0-9])(?:([0-5][0-9]|60)(?:\.([0-9]{1,6}))?)?)?)?)?)?"
    r"(?:([+-])(0[0-9]|1[0-4])([0-5][0-9]))?"
)
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}")

#: Characters of a name that is folded with all that Unicode has for it, in time that grows with their square;
#: a PN value has 64 of them in each of three component groups.
MAXIMUM_NAME: Final = 1024

#: Suffixes of the columns that keep the forms of a value in them beside it, by VR.
SUFFIXES: Final = {"DA": ("_key",), "TM": ("_key",), "DT": ("_key", "_utc"), "PN": ("_1", "_2", "_3")}


@attrs.frozen
class Instant:
    """A DT value: where it was, and in Coordinated Universal Time; YYYYMMDDHHMMSS.FFFFFF."""

    local: str
    #: The same as `local` where no offset is known.
    utc: str
    has_offset: bool


def date_key(text: str) -> str | None:
    """A DA value as YYYYMMDD, also one of ACR-NEMA times with dots; None for what is no date."""
    match = _DATE.fullmatch(text)
    return None if match is None else match[1] + match[3] + match[4]


def time_key(text: str, *, last: bool = False) -> str | None:
    """A TM value as HHMMSS.FFFFFF, the first or the last instant that it may mean; None for no time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    hour, minute, second, fraction = match.groups()
    rest = "59" if last else "00"
    return f"{hour}{minute or rest}{second or rest}.{(fraction or '').ljust(6, '9' if last else '0')}"


def datetime_key(text: str, *, last: bool = False) -> Instant | None:
    """A DT value as the first or the last instant that it may mean; None for no date and time."""
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = match.groups()
    month = month or ("12" if last else "01")
    if not day:
        day = f"{calendar.monthrange(max(int(year), 1), int(month))[1]}" if last else "01"
    rest = "59" if last else "00"
    seconds = f"{hour or ('23' if last else '00')}{minute or rest}{second or rest}"
    fraction = (fraction or "").ljust(6, "9" if last else "0")
    local = f"{year}{month}{day}{seconds}.{fraction}"
    if not sign:
        return Instant(local, local, has_offset=False)
    try:
        there = datetime.strptime(local[:12], "%Y%m%d%H%M")
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        here = there - offset if sign == "+" else there + offset
    except (ValueError, OverflowError):  # the 30th of February
        return None
    # Not strftime, which does not pad years.
    utc = f"{here.year:04}{here.month:02}{here.day:02}{here.hour:02}{here.minute:02}{local[12:]}"
    return Instant(local, utc, has_offset=True)


def folded(text: str) -> str:
    """Text without regard to case, and unless it is too long for a name, to the width of letters that Unicode
    has in several.
    """
    if text.isascii():
        return text.lower()
    if len(text) > MAXIMUM_NAME:
        return text.casefold()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded)


def folded_name(group: str) -> str:
    """A component group of a PN value, folded and without padding and trailing empty components."""
    text = folded(group)
    if " " in text:
        text = "^".join(component.strip() for component in text.split("^"))
    return text.rstrip("^ ")


def name_keys(text: str) -> tuple[str | None, str | None, str | None]:
    """The component groups of a PN value (PS3.5 6.2.1), folded: alphabetic, ideographic, phonetic."""
    if "=" not in text:
        return folded_name(text) or None, None, None
    first, second, third, *_ = [*(folded_name(group) or None for group in text.split("=")), None, None]
    return first, second, third


def integer_text(text: str) -> str:
    """An IS value without sign, zeros and spaces that mean nothing; other text as it is."""
    stripped = text.strip()
    return str(int(stripped)) if _NUMBER.fullmatch(stripped) else stripped


def keys_of(vr: str, value: str) -> tuple[str | None, ...]:
    """What goes to the columns of `SUFFIXES` for a value."""
    if vr == "PN":
        return name_keys(value)
    if vr == "DT":
        instant = datetime_key(value)
        return (None, None) if instant is None else (instant.local, instant.utc)
    return (date_key(value) if vr == "DA" else time_key(value),)
