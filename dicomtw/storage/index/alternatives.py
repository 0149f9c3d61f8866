"""Alternatives of a key (PS3.4 C.2.2.2): a value, a pattern or a range that one value is compared with.

Each is a condition in SQL and a test in Python that say the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

import attrs

from dicomtw.storage.index.keys import date_key, datetime_key, name_keys, time_key

#: The column with a form of a value, in SQL: of its suffix, "" for the value itself.
Column: TypeAlias = Callable[[str], str]


@attrs.frozen
class Condition:
    """A condition in SQL, with a question mark for each of its parameters."""

    text: str
    parameters: tuple[str, ...] = ()
    #: Whether it says all; otherwise what meets it is to be tested, too.
    is_exact: bool = True


class Alternative(Protocol):
    """One of the values that a key asks for."""

    @property
    def cost(self) -> int:
        """What comparing a value of 64 characters takes: 1 is a simple pattern, about 0.1 microseconds."""

    def matches(self, value: str) -> bool:
        """Whether a single value does."""

    def condition(self, column: Column) -> Condition:
        """The same in SQL, for an attribute with a single value."""


@attrs.frozen
class OneOf:
    """Single Value Matching (PS3.4 C.2.2.2.1), List of UID Matching (C.2.2.2.2)."""

    values: frozenset[str]
    #: Looked up.
    cost: int = attrs.field(default=0, init=False)

    def matches(self, value: str) -> bool:
        return value in self.values

    def condition(self, column: Column) -> Condition:
        if len(self.values) == 1:
            return Condition(f"{column('')} = ?", tuple(self.values))
        marks = ", ".join("?" * len(self.values))
        return Condition(f"{column('')} IN ({marks})", tuple(sorted(self.values)))


@attrs.frozen
class WildCard:
    """Wild Card Matching (PS3.4 C.2.2.2.4): "*" any characters, also none, "?" any one character."""

    pattern: str
    _compiled: re.Pattern[str] = attrs.field(init=False, eq=False, repr=False)

    @_compiled.default
    def _compile(self) -> re.Pattern[str]:
        """A regular expression in linear time: what an asterisk and the text behind it took, they keep."""
        parts = re.sub(r"\*+", "*", self.pattern).split("*")
        first, *others = (".".join(map(re.escape, part.split("?"))) for part in parts)
        middle = "".join(f"(?>.*?{part})" for part in others[:-1])
        return re.compile(first + middle + (f".*{others[-1]}" if others else ""), re.DOTALL)

    @property
    def cost(self) -> int:
        """More where what follows an asterisk is long: it may be compared to its end at many places."""
        _, *tried = (part.lstrip("?") for part in re.sub(r"\*+", "*", self.pattern).split("*"))
        return 1 + (max(map(len, tried), default=0) + len(tried)) // 8

    def matches(self, value: str) -> bool:
        return self._compiled.fullmatch(value) is not None

    def condition(self, column: Column) -> Condition:
        return like_condition(column(""), like(self.pattern))


@attrs.frozen
class Span:
    """Range Matching (PS3.4 C.2.2.2.5), and single values of dates and times: compared by their meaning."""

    vr: str
    #: Suffix of the column and the bound in the form that it has there; None: open.
    lower: tuple[str, str] | None
    upper: tuple[str, str] | None
    cost: int = attrs.field(default=1, init=False)

    def matches(self, value: str) -> bool:
        forms = _forms(self.vr, value)
        if forms is None:
            return False
        return (self.lower is None or forms[self.lower[0]] >= self.lower[1]) and (
            self.upper is None or forms[self.upper[0]] <= self.upper[1]
        )

    def condition(self, column: Column) -> Condition:
        if self.lower is not None and self.lower == self.upper:
            return Condition(f"{column(self.lower[0])} = ?", (self.lower[1],))
        texts, parameters = [], []
        for operator, bound in ((">=", self.lower), ("<=", self.upper)):
            if bound is not None:
                texts.append(f"{column(bound[0])} {operator} ?")
                parameters.append(bound[1])
        return Condition(" AND ".join(texts), tuple(parameters))


@attrs.frozen
class Numbers:
    """Values that are one of these numbers, however they are written."""

    numbers: frozenset[float]
    cost: int = attrs.field(default=0, init=False)

    def matches(self, value: str) -> bool:
        try:
            return float(value) in self.numbers
        except ValueError:
            return False

    def condition(self, column: Column) -> Condition:
        return Condition(f"{column('')} IS NOT NULL", is_exact=False)


@attrs.frozen
class Name:
    """A PN key (PS3.4 C.2.2.2.1, C.2.2.2.4): without regard to case, by component groups.

    A key with one group matches any of the three; one with several is matched group by group.
    """

    #: For each group of the key, patterns of which one has to match; none: universal.
    groups: tuple[tuple[OneOf | WildCard, ...], ...]

    @property
    def cost(self) -> int:
        compared = self.groups if len(self.groups) > 1 else self.groups * 3
        return sum(pattern.cost for patterns in compared for pattern in patterns)

    @property
    def literal(self) -> frozenset[str]:
        """What any group may be; empty where there are wild cards or several groups."""
        if len(self.groups) == 1 and len(self.groups[0]) == 1 and isinstance(self.groups[0][0], OneOf):
            return self.groups[0][0].values
        return frozenset()

    def matches(self, value: str) -> bool:
        keys = name_keys(value)
        if len(self.groups) == 1:
            return any(_any_matches(self.groups[0], key) for key in keys)
        return all(
            not patterns or _any_matches(patterns, key)
            for patterns, key in zip(self.groups, keys, strict=False)
        )

    def condition(self, column: Column) -> Condition:
        def of_group(number: int, patterns: Iterable[OneOf | WildCard]) -> list[Condition]:
            return [pattern.condition(lambda suffix: column(f"_{number}")) for pattern in patterns]

        if len(self.groups) == 1:
            return any_of([each for number in (1, 2, 3) for each in of_group(number, self.groups[0])])
        return all_of(
            [any_of(of_group(number, patterns)) for number, patterns in enumerate(self.groups, 1) if patterns]
        )


def _forms(vr: str, value: str) -> dict[str, str] | None:
    """The forms of a stored date or time, by suffix."""
    if vr == "DT":
        instant = datetime_key(value)
        return None if instant is None else {"_key": instant.local, "_utc": instant.utc}
    key = date_key(value) if vr == "DA" else time_key(value)
    return None if key is None else {"_key": key}


def _any_matches(patterns: Iterable[OneOf | WildCard], key: str | None) -> bool:
    return key is not None and any(pattern.matches(key) for pattern in patterns)


def like(pattern: str, literal: bool = False) -> str:
    """A pattern for LIKE, with "!" as the escape character; `literal` text has no wild cards."""
    escaped = re.sub(r"[!%_]", r"!\g<0>", pattern)
    return escaped if literal else re.sub(r"\*+", "%", escaped).replace("?", "_")


def like_condition(column: str, pattern: str, *, is_exact: bool = True) -> Condition:
    return Condition(f"{column} LIKE ? ESCAPE '!'", (pattern,), is_exact)


def merged(alternatives: Iterable[Alternative]) -> tuple[Alternative, ...]:
    """The same with all that can be looked up at once in one alternative."""
    texts: set[str] = set()
    numbers: set[float] = set()
    names: set[str] = set()
    others: list[Alternative] = []
    for each in alternatives:
        if isinstance(each, OneOf):
            texts |= each.values
        elif isinstance(each, Numbers):
            numbers |= each.numbers
        elif isinstance(each, Name) and each.literal:
            names |= each.literal
        else:
            others.append(each)
    if names:
        others.append(Name(((OneOf(frozenset(names)),),)))
    if numbers:
        others.append(Numbers(frozenset(numbers)))
    if texts:
        others.append(OneOf(frozenset(texts)))
    return tuple(others)


def any_of(conditions: list[Condition]) -> Condition:
    return _joined(conditions, " OR ")


def all_of(conditions: list[Condition]) -> Condition:
    return _joined(conditions, " AND ")


def _joined(conditions: list[Condition], operator: str) -> Condition:
    if len(conditions) == 1:
        return conditions[0]
    return Condition(
        operator.join(f"({condition.text})" for condition in conditions),
        tuple(parameter for condition in conditions for parameter in condition.parameters),
        all(condition.is_exact for condition in conditions),
    )
