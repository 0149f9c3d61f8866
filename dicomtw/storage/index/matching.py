"""Attribute matching (PS3.4 C.2.2.2): a key, as a condition in SQL and as a test of one value.

Both say the same of an attribute that has one value by the registry. What may have several is compared value
by value, which is left to the test: there the condition only leaves out what cannot match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from dicomtw.encoding import dictionary
from dicomtw.encoding.dictionary import Attribute
from dicomtw.encoding.representations import WHOLE
from dicomtw.errors import DimseError
from dicomtw.storage.index.alternatives import (
    Alternative,
    Column,
    Condition,
    Name,
    Numbers,
    OneOf,
    Span,
    WildCard,
    all_of,
    any_of,
    like,
    like_condition,
    merged,
)
from dicomtw.storage.index.keys import (
    MAXIMUM_NAME,
    date_key,
    datetime_key,
    folded_name,
    integer_text,
    time_key,
)
from dicomtw.storage.index.record import Items, items_of

#: The value of a key: text, or the items of a sequence.
KeyValue: TypeAlias = "str | tuple[Mapping[int, KeyValue], ...]"

#: "Identifier does not match SOP Class" (PS3.4 Table C.4-1).
DOES_NOT_MATCH: Final = 0xA900

MAXIMUM_UIDS: Final = 10_000
#: Alternatives in a key that is no list of UIDs.
MAXIMUM_ALTERNATIVES: Final = 256
#: Characters of a key with wild cards.
MAXIMUM_PATTERN: Final = 256
#: Characters of any other key.
MAXIMUM_TEXT: Final = 16384
MAXIMUM_DEPTH: Final = 8
#: Keys in one item of a sequence: each is a condition, of which SQLite takes 1000 at a time.
MAXIMUM_ITEM_KEYS: Final = 256

#: Characters of a text that SQL looks for inside what is kept, where a test follows: more of them would
#: leave out little more and take long, and SQLite takes patterns of 50000 bytes.
_LOOKED_FOR: Final = 64

#: Values of a list that SQL looks for inside an attribute with several; more are left to the test.
_LISTED: Final = 8

#: VRs whose values may be long, and how much more comparing them takes; values in a list and in items are no
#: better.
_LONG, _LONGER = frozenset({"LT", "SQ", "ST", "UC", "UR", "UT"}), 4

#: VRs without wild cards (PS3.4 C.2.2.2.4).
_WITHOUT_WILD_CARDS = frozenset(
    {"AT", "DA", "DS", "DT", "FD", "FL", "IS", "SL", "SS", "SV", "TM", "UI", "UL", "US", "UV"}
)
_INTEGERS = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV"})
_FRACTIONS = frozenset({"DS", "FD", "FL"})
#: What text JSON writes as it is.
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')

_DT = r"[0-9]{4,14}(?:\.[0-9]{1,6})?(?:\+[0-9]{4}|-(?:0[0-9]|1[0-2])[0-5][0-9])?"
#: The offset from UTC has a hyphen too: what may be an offset is none of a range.
_DATETIME_RANGE = re.compile(rf"({_DT})?\s*-\s*({_DT})?")
_SINGLE_DATETIME = re.compile(_DT)
_RANGE = re.compile(r"([0-9.:]*)\s*-\s*([0-9.:]*)")


@attrs.frozen
class ItemKeys:
    """Sequence Matching (PS3.4 C.2.2.2.6): all keys have to match in one item."""

    keys: tuple[tuple[int, Matching], ...]

    @property
    def cost(self) -> int:
        return 1 + len(self.keys) // 8 + sum(matching.cost for _, matching in self.keys)

    def matches(self, value: str) -> bool:
        return self.any_item(items_of(value))

    def any_item(self, items: Items) -> bool:
        return any(all(matching.in_item(item.get(tag)) for tag, matching in self.keys) for item in items)

    def condition(self, column: Column) -> Condition:
        """Leaves out the items without the text of a key in them."""
        conditions = [Condition(f"{column('')} IS NOT NULL", is_exact=False)]
        for _, matching in self.keys:
            patterns = [_in_json(alternative) for alternative in matching.alternatives]
            if all(patterns):
                conditions.append(any_of([like_condition(column(""), pattern) for pattern in patterns]))
        return all_of(conditions)


@attrs.frozen
class Matching:
    """What a key that is not universal asks of an attribute."""

    attribute: Attribute
    #: One of them has to match.
    alternatives: tuple[Alternative, ...]

    @property
    def is_single(self) -> bool:
        """Whether the key is a single value: no list, no wild card, no range."""
        if len(self.alternatives) != 1:
            return False
        (alternative,) = self.alternatives
        return isinstance(alternative, OneOf) and len(alternative.values) == 1

    def matches(self, stored: str | None) -> bool:
        """Whether the text that is kept of the attribute matches, in any of its values."""
        if stored is None:
            return False
        values = stored.split("\\") if self._has_several else [stored]
        return any(alternative.matches(value) for value in values for alternative in self.alternatives)

    @property
    def _has_several(self) -> bool:
        return self.attribute.vm != "1" and self.attribute.vr not in (*WHOLE, "SQ")

    def in_item(self, value: str | Items | None) -> bool:
        """Whether the attribute matches that an item of a sequence has or not."""
        if isinstance(value, tuple):
            return any(isinstance(each, ItemKeys) and each.any_item(value) for each in self.alternatives)
        return self.matches(value)

    @property
    def cost(self) -> int:
        """What the comparison with a row takes, as for `Alternative`."""
        cost = sum(alternative.cost for alternative in self.alternatives)
        return cost * _LONGER if self._has_several or self.attribute.vr in _LONG else cost

    def condition(self, column: Column) -> Condition:
        """The same in SQL, as far as it can be said there."""
        if not self._has_several:
            return any_of([alternative.condition(column) for alternative in self.alternatives])
        conditions: list[Condition] = []
        delimited = f"'\\' || {column('')} || '\\'"
        for alternative in self.alternatives:
            if isinstance(alternative, OneOf) and len(alternative.values) <= _LISTED:
                for value in sorted(alternative.values):
                    beginning, is_whole = value[:_LOOKED_FOR], len(value) <= _LOOKED_FOR
                    pattern = like(f"\\{beginning}\\" if is_whole else f"\\{beginning}", literal=True)
                    conditions.append(like_condition(delimited, f"%{pattern}%", is_exact=is_whole))
            elif isinstance(alternative, WildCard):  # which may match what has a delimiter in it, too
                pattern = f"%\\{like(alternative.pattern)}\\%"
                conditions.append(like_condition(delimited, pattern, is_exact=False))
            else:
                return Condition(f"{column('')} IS NOT NULL", is_exact=False)
        return any_of(conditions)


def _in_json(alternative: Alternative) -> str:
    """A pattern for LIKE that the items must match; empty where nothing certain is known."""
    if isinstance(alternative, WildCard) and _PLAIN.fullmatch(alternative.pattern):
        # A question mark may stand for what is escaped, of several characters.
        return f"%{like(alternative.pattern.replace('?', '*'))}%"
    if isinstance(alternative, OneOf) and len(alternative.values) == 1:
        (value,) = alternative.values
        if _PLAIN.fullmatch(value):
            return f"%{like(value[:_LOOKED_FOR], literal=True)}%"
    return ""


def _is_universal(text: str) -> bool:
    """Universal Matching (PS3.4 C.2.2.2.3): nothing is said of the value, nor by asterisks alone."""
    return not text.strip(" *")


def matching_of(attribute: Attribute, key: KeyValue, depth: int = 0) -> Matching | None:
    """What `key` asks of `attribute`; None where it is universal. Raises `DimseError` (A900H)."""
    if isinstance(key, str) == (attribute.vr == "SQ"):
        what = "a sequence" if attribute.vr == "SQ" else "no sequence"
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} is {what}")
    if isinstance(key, str):
        return _text_matching(attribute, key.replace("\0", ""))
    if depth >= MAXIMUM_DEPTH:
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} is nested too deep")
    if len(key) > 1:
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} has more than one item")
    if key and len(key[0]) > MAXIMUM_ITEM_KEYS:
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} has too many keys")
    keys = []
    for tag, value in (key[0] if key else {}).items():
        inner = dictionary.lookup(tag)
        if inner is None:  # private: as text
            inner = Attribute(tag, "SQ" if isinstance(value, tuple) else "LO", "1-n", f"{tag:08X}")
        matching = matching_of(inner, value, depth + 1)
        if matching is not None:
            keys.append((tag, matching))
    return Matching(attribute, (ItemKeys(tuple(keys)),)) if keys else None


def _text_matching(attribute: Attribute, key: str) -> Matching | None:
    if _is_universal(key):
        return None
    vr = attribute.vr
    if len(key) > (MAXIMUM_TEXT if vr != "UI" else 65 * MAXIMUM_UIDS):
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} is too long")
    # Halves of characters no database takes; they become U+FFFD.
    key = key.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    parts = [key] if vr in WHOLE else key.split("\\")
    if len(parts) > (MAXIMUM_UIDS if vr == "UI" else MAXIMUM_ALTERNATIVES):
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} has too many values")
    alternatives: list[Alternative] = []
    for part in parts:
        text = part.rstrip() if vr in WHOLE else part.strip()
        if not text:
            continue
        if _is_universal(text):
            return None  # one value of the list matches everything
        alternative = _alternative(attribute, text)
        if alternative is None:
            return None
        alternatives.append(alternative)
    return Matching(attribute, merged(alternatives)) if alternatives else None


def _alternative(attribute: Attribute, text: str) -> Alternative | None:
    """What one value of a key asks for; None if it is universal after all."""
    vr = attribute.vr
    if vr in ("DA", "DT", "TM"):
        return _span(attribute, text)
    if vr == "PN":
        return _name(attribute, text)
    if vr in _INTEGERS:
        return OneOf(frozenset({integer_text(text)}))
    if vr in _FRACTIONS:
        try:
            return Numbers(frozenset({float(text)}))
        except ValueError:
            return OneOf(frozenset({text}))
    if vr in _WITHOUT_WILD_CARDS or not _has_wild_cards(text):
        return OneOf(frozenset({text}))
    return _wild_card(attribute, text)


def _has_wild_cards(text: str) -> bool:
    return "*" in text or "?" in text


def _wild_card(attribute: Attribute, text: str) -> WildCard:
    if len(text) > MAXIMUM_PATTERN:
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} is too long for wild cards")
    return WildCard(text)


def _span(attribute: Attribute, text: str) -> Alternative | None:
    vr = attribute.vr
    if "-" not in text or (vr == "DT" and _SINGLE_DATETIME.fullmatch(text)):
        single = _bound(vr, text, last=False)
        # What is no date can still be the very text that is stored.
        return OneOf(frozenset({text})) if single is None else Span(vr, single, single)
    match = (_DATETIME_RANGE if vr == "DT" else _RANGE).fullmatch(text)
    bounds = [
        _bound(vr, part, last) if part else None
        for part, last in zip(match.groups() if match else (), (False, True), strict=False)
    ]
    if match is None or any(part and not bound for part, bound in zip(match.groups(), bounds, strict=True)):
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} is no range")
    lower, upper = bounds
    return None if lower is None and upper is None else Span(vr, lower, upper)


def _bound(vr: str, text: str, last: bool) -> tuple[str, str] | None:
    """The suffix of the column in which a date or time is compared, and its form there."""
    if vr == "DT":
        instant = datetime_key(text, last=last)
        if instant is None:
            return None
        # Without an offset it means the time that the clock showed where the value was made.
        return ("_utc", instant.utc) if instant.has_offset else ("_key", instant.local)
    key = date_key(text) if vr == "DA" else time_key(text, last=last)
    return None if key is None else ("_key", key)


def _name(attribute: Attribute, text: str) -> Name | None:
    if len(text) > MAXIMUM_NAME:
        raise DimseError(DOES_NOT_MATCH, f"{attribute.keyword} is too long for a name")
    groups = tuple(_group_patterns(attribute, group) for group in text.split("=")[:3])
    return Name(groups) if any(groups) else None


def _group_patterns(attribute: Attribute, group: str) -> tuple[OneOf | WildCard, ...]:
    """Patterns of which one has to match a component group; none where any does."""
    text = folded_name(group)
    if not text.strip("*^"):
        return ()
    if not _has_wild_cards(text):
        return (OneOf(frozenset({text})),)
    # Components that may be anything may be absent, with their delimiters: "DOE^*" is "DOE", too.
    base = re.sub(r"(\^\**)*\^\*+$", "", text) if text.endswith("^*") else text
    if base == text:
        return (_wild_card(attribute, text),)
    pattern = _wild_card(attribute, base) if _has_wild_cards(base) else OneOf(frozenset({base}))
    return pattern, _wild_card(attribute, f"{base}^*")
