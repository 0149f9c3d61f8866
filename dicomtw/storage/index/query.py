"""What a query asks for (PS3.4 C.4.1, C.6): its keys checked, and as SQL."""

# Statements are put together from names of tables and columns; what comes from a peer is always a parameter.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

import attrs

from dicomtw.encoding import dictionary
from dicomtw.encoding.dictionary import Attribute
from dicomtw.errors import DimseError
from dicomtw.storage.index.alternatives import Condition, Span, all_of
from dicomtw.storage.index.attributes import LEVELS, UNIQUE_KEYS, Attributes, Indexed, Level
from dicomtw.storage.index.matching import DOES_NOT_MATCH, KeyValue, Matching, matching_of
from dicomtw.storage.index.schema import PARENTS, TABLES, quoted

MAXIMUM_KEYS: Final = 256
#: Parameters of one statement: SQLite takes 32766.
MAXIMUM_PARAMETERS: Final = 30_000

#: What comparing a row with patterns and ranges may take, as `Matching.cost` has it. With as much as this,
#: 20000 studies or 100000 instances take less than 0.3 seconds of processor time, if their text is text.
MAXIMUM_COST: Final = 32

#: What is no key (PS3.4 C.4.1.1.3.1): the service answers Specific Character Set, Query/Retrieve Level,
#: Retrieve AE Title and Instance Availability itself, and Timezone Offset From UTC says how times are meant.
_OF_THE_SERVICE = frozenset({0x00080005, 0x00080052, 0x00080054, 0x00080056, 0x00080201})

#: Computed attributes that are another's column.
_SAME: Final = {"AvailableTransferSyntaxUID": 'instance."TransferSyntaxUID"'}
#: Computed attributes that can be matched with all values that the study has: where those are, and their
#: column there.
_COLLECTED: Final = {
    "ModalitiesInStudy": ("series AS e", 'e."Modality"'),
    "SOPClassesInStudy": ("series AS e JOIN instance AS i ON i.series_id = e.id", 'i."SOPClassUID"'),
}
#: Numbers of what there is: of whom, what leads there, and where it is.
_COUNTED: Final = {
    "NumberOfPatientRelatedStudies": (Level.PATIENT, "s.patient_id", "study AS s"),
    "NumberOfPatientRelatedSeries": (
        Level.PATIENT,
        "s.patient_id",
        "study AS s JOIN series AS e ON e.study_id = s.id",
    ),
    "NumberOfPatientRelatedInstances": (
        Level.PATIENT,
        "s.patient_id",
        "study AS s JOIN series AS e ON e.study_id = s.id JOIN instance AS i ON i.series_id = e.id",
    ),
    "NumberOfStudyRelatedSeries": (Level.STUDY, "e.study_id", "series AS e"),
    "NumberOfStudyRelatedInstances": (
        Level.STUDY,
        "e.study_id",
        "series AS e JOIN instance AS i ON i.series_id = e.id",
    ),
    "NumberOfSeriesRelatedInstances": (Level.SERIES, "i.series_id", "instance AS i"),
}


class Model(Enum):
    """Query/Retrieve Information Models (PS3.4 C.6); the value is their levels."""

    PATIENT_ROOT = LEVELS
    STUDY_ROOT = LEVELS[1:]
    PATIENT_STUDY_ONLY = LEVELS[:2]


@attrs.frozen
class Query:
    """A query, made by `Query.of`."""

    level: Level
    #: The keys that are supported, in tag order; what comes back are their values.
    columns: tuple[Attribute, ...]
    #: Tags of the keys that are not: they are neither matched nor returned.
    unsupported: tuple[int, ...]
    _keys: tuple[Indexed, ...] = attrs.field(repr=False)
    _condition: Condition = attrs.field(repr=False)
    _condition_levels: frozenset[Level] = attrs.field(repr=False)
    #: What is left to be tested of the last columns that `ids` and `instances` select, in their order.
    tests: tuple[Matching, ...] = attrs.field(repr=False)
    _tested: tuple[Indexed, ...] = attrs.field(repr=False)

    @classmethod
    def of(
        cls,
        level: Level,
        keys: Mapping[int, KeyValue],
        attributes: Attributes,
        *,
        model: Model,
        relational: bool = False,
        combined_datetime: bool = False,
    ) -> Query:
        """The query of an identifier, whose keys are text or the items of a sequence, by tag.

        Without `relational` each level above has to be narrowed down to one entity (PS3.4 C.4.1.3.1).
        With `combined_datetime` a date and its time are one (C.2.2.2.5.4). Raises `DimseError` (A900H).
        """
        if level not in model.value:
            raise DimseError(DOES_NOT_MATCH, f"no level {level.value} in this model")
        if len(keys) > MAXIMUM_KEYS:
            raise DimseError(DOES_NOT_MATCH, "too many keys")
        supported: list[Indexed] = []
        unsupported: list[int] = []
        matchings: list[tuple[Indexed, Matching]] = []
        for tag, key in sorted(keys.items()):
            if tag in _OF_THE_SERVICE or tag & 0xFFFF == 0:
                continue
            indexed = attributes.get(tag)
            if indexed is None or LEVELS.index(indexed.level) > LEVELS.index(level):
                unsupported.append(tag)
                known = dictionary.lookup(tag)
                if known is not None:
                    matching_of(known, key)  # no key may be what it cannot be
                continue
            supported.append(indexed)
            matching = matching_of(_compared(indexed), key)
            if matching is not None and indexed.attribute.keyword not in _COUNTED:  # returned only
                matchings.append((indexed, matching))
        cost = sum(matching.cost for _, matching in matchings)
        if cost > MAXIMUM_COST // (2 if level is Level.IMAGE else 1):  # of which there are most
            raise DimseError(DOES_NOT_MATCH, "too many wild cards and ranges")
        if not relational:
            _check_hierarchy(level, model, keys, dict(matchings))
        conditions = _conditions(matchings, combined_datetime)
        condition = all_of(conditions) if conditions else Condition("1 = 1")
        if len(condition.parameters) > MAXIMUM_PARAMETERS:
            raise DimseError(DOES_NOT_MATCH, "too many values")
        inexact = [each for each in matchings if not _condition_of(*each).is_exact]
        return cls(
            level=level,
            columns=tuple(indexed.attribute for indexed in supported),
            unsupported=tuple(unsupported),
            keys=tuple(supported),
            condition=condition,
            condition_levels=frozenset(indexed.level for indexed, _ in matchings),
            tests=tuple(matching for _, matching in inexact),
            tested=tuple(indexed for indexed, _ in inexact),
        )

    def ids(self) -> tuple[str, tuple[str, ...]]:
        """The statement for the ids of what may match, with what is to be tested; and its parameters."""
        return self._matching(f"{TABLES[self.level]}.id", self.level), self._condition.parameters

    def instances(self) -> tuple[str, tuple[str, ...]]:
        """The same for the instances in what may match: series, number and id, in the order of series."""
        statement = self._matching('instance.series_id, instance."InstanceNumber", instance.id', Level.IMAGE)
        return f"{statement} ORDER BY instance.series_id", self._condition.parameters

    def rows(self, count: int) -> str:
        """The statement for ids and columns of entities, its parameters being `count` ids.

        A column that has to be `collected` holds the id of the patient, study or series.
        """
        table = TABLES[self.level]
        tables = _joined(self.level, (indexed.level for indexed in self._keys))
        columns = "".join(f", {_selected(indexed)}" for indexed in self._keys)
        return f"SELECT {table}.id{columns} FROM {tables} WHERE {table}.id IN ({', '.join('?' * count)})"

    def collected(self) -> tuple[tuple[int, str], ...]:
        """Positions of columns with what follows from others, and statements for that: id and value.

        The statements lack the list of ids, in braces.
        """
        return tuple(
            (position, statement)
            for position, indexed in enumerate(self._keys)
            if (statement := _collected(indexed.attribute.keyword))
        )

    def _matching(self, columns: str, level: Level) -> str:
        tested = "".join(f", {_selected(indexed)}" for indexed in self._tested)
        tables = _joined(level, self._condition_levels)
        return f"SELECT {columns}{tested} FROM {tables} WHERE {self._condition.text}"


def _joined(level: Level, levels: Iterable[Level]) -> str:
    """The table of a level, and those above it up to the highest of `levels`."""
    lowest = LEVELS.index(level)
    tables = TABLES[level]
    for index in range(lowest - 1, min(map(LEVELS.index, levels), default=lowest) - 1, -1):
        above, below = LEVELS[index], LEVELS[index + 1]
        tables += f" JOIN {TABLES[above]} ON {TABLES[above]}.id = {TABLES[below]}.{PARENTS[below]}"
    return tables


def _compared(indexed: Indexed) -> Attribute:
    """What a key is compared with: of computed attributes one value at a time."""
    attribute = indexed.attribute
    return attrs.evolve(attribute, vm="1") if indexed.is_computed else attribute


def _check_hierarchy(
    level: Level, model: Model, keys: Mapping[int, KeyValue], matchings: Mapping[Indexed, Matching]
) -> None:
    """Hierarchical queries name one entity of each level above theirs (PS3.4 C.4.1.3.1.1)."""
    by_keyword = {indexed.attribute.keyword: matching for indexed, matching in matchings.items()}
    for above in model.value[: model.value.index(level)]:
        matching = by_keyword.get(UNIQUE_KEYS[above])
        if matching is None:
            raise DimseError(DOES_NOT_MATCH, f"{UNIQUE_KEYS[above]} is missing")
        if not matching.is_single:
            raise DimseError(DOES_NOT_MATCH, f"{UNIQUE_KEYS[above]} is not a single value")


def _conditions(matchings: list[tuple[Indexed, Matching]], combined_datetime: bool) -> list[Condition]:
    by_keyword = {indexed.attribute.keyword: (indexed, matching) for indexed, matching in matchings}
    conditions = []
    for keyword, (indexed, matching) in by_keyword.items():
        if combined_datetime and keyword.endswith("Time"):
            if _combined(by_keyword.get(f"{keyword[:-4]}Date"), (indexed, matching)) is not None:
                continue  # with its date
        elif combined_datetime and keyword.endswith("Date"):
            combined = _combined((indexed, matching), by_keyword.get(f"{keyword[:-4]}Time"))
            if combined is not None:
                conditions.append(combined)
                continue
        conditions.append(_condition_of(indexed, matching))
    return conditions


def _condition_of(indexed: Indexed, matching: Matching) -> Condition:
    keyword = indexed.attribute.keyword
    if keyword in _COLLECTED:
        tables, column = _COLLECTED[keyword]
        inner = matching.condition(lambda suffix: column)
        text = f"EXISTS (SELECT 1 FROM {tables} WHERE e.study_id = study.id AND ({inner.text}))"
        return attrs.evolve(inner, text=text)
    if indexed.is_computed:
        return matching.condition(lambda suffix: _SAME[keyword])
    return matching.condition(lambda suffix: f"{TABLES[indexed.level]}.{quoted(indexed.attribute, suffix)}")


def _combined(
    date: tuple[Indexed, Matching] | None, time: tuple[Indexed, Matching] | None
) -> Condition | None:
    """A date and its time as one (PS3.4 C.2.2.2.5.4); None where they are not a pair of ranges."""
    if date is None or time is None or date[0].level is not time[0].level:
        return None
    spans = [each for _, matching in (date, time) for each in matching.alternatives if isinstance(each, Span)]
    if [span.vr for span in spans] != ["DA", "TM"] or not all(
        len(matching.alternatives) == 1 and indexed.attribute.vm == "1" for indexed, matching in (date, time)
    ):
        return None
    names = [f"{TABLES[indexed.level]}.{quoted(indexed.attribute, '_key')}" for indexed, _ in (date, time)]
    texts: list[str] = []
    parameters: list[str] = []
    for operator, day, instant in (
        (">", spans[0].lower, spans[1].lower),
        ("<", spans[0].upper, spans[1].upper),
    ):
        if day is None:
            continue
        texts.append(f"{names[0]} {operator}= ?")
        parameters.append(day[1])
        if instant is not None:
            texts.append(f"({names[0]} {operator} ? OR {names[1]} {operator}= ?)")
            parameters += (day[1], instant[1])
    return Condition(" AND ".join(texts), tuple(parameters))


def _selected(indexed: Indexed) -> str:
    keyword = indexed.attribute.keyword
    if keyword in _COLLECTED:
        return "study.id"
    if keyword in _COUNTED:
        return f"{TABLES[_COUNTED[keyword][0]]}.id"
    return _SAME.get(keyword, f"{TABLES[indexed.level]}.{quoted(indexed.attribute)}")


def _collected(keyword: str) -> str:
    if keyword in _COLLECTED:
        tables, column = _COLLECTED[keyword]
        return f"SELECT DISTINCT e.study_id, {column} FROM {tables} WHERE e.study_id IN ({{}})"
    if keyword in _COUNTED:
        _, column, tables = _COUNTED[keyword]
        return f"SELECT {column}, count(*) FROM {tables} WHERE {column} IN ({{}}) GROUP BY {column}"
    return ""
