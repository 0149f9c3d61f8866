"""Identifiers of C-FIND, C-GET and C-MOVE (PS3.4 C.4): decoded into keys, and made of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dicomtw import uids
from dicomtw.dimse import status
from dicomtw.encoding import character_sets, data_set, dictionary
from dicomtw.encoding.data_set import DataSet, Element
from dicomtw.encoding.dictionary import Attribute
from dicomtw.encoding.representations import BYTES, NUMBERS, TEXT, numbers_value
from dicomtw.errors import DimseError, UnreadableDataSet
from dicomtw.services import Operation
from dicomtw.services.plan import SPECIFIC_CHARACTER_SET, Plan
from dicomtw.storage.index.attributes import Attributes, Level
from dicomtw.storage.index.matching import KeyValue
from dicomtw.storage.index.query import Model, Query
from dicomtw.storage.index.record import Items, items_of, text_of

QUERY_RETRIEVE_LEVEL: Final = 0x00080052
RETRIEVE_AE_TITLE: Final = 0x00080054
INSTANCE_AVAILABILITY: Final = 0x00080056
FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058

#: The information models by the SOP classes of PS3.4 C.6.
MODELS: Final = {
    uids.PATIENT_ROOT_FIND: Model.PATIENT_ROOT,
    uids.PATIENT_ROOT_MOVE: Model.PATIENT_ROOT,
    uids.PATIENT_ROOT_GET: Model.PATIENT_ROOT,
    uids.STUDY_ROOT_FIND: Model.STUDY_ROOT,
    uids.STUDY_ROOT_MOVE: Model.STUDY_ROOT,
    uids.STUDY_ROOT_GET: Model.STUDY_ROOT,
    uids.PATIENT_STUDY_ONLY_FIND: Model.PATIENT_STUDY_ONLY,
    uids.PATIENT_STUDY_ONLY_MOVE: Model.PATIENT_STUDY_ONLY,
    uids.PATIENT_STUDY_ONLY_GET: Model.PATIENT_STUDY_ONLY,
}

#: A list of UIDs is cut to what fits into the 16 bits of its length in Explicit VR, in bytes.
_LONGEST_LIST = 0xFFFE


class Identifier:
    """The identifier of a request: its level, its keys as text, and the character set of both sides.

    Raises `DimseError`, A900H, where it is none.
    """

    def __init__(self, operation: Operation) -> None:
        self.model = MODELS[operation.context.abstract_syntax]
        self.transfer_syntax = operation.context.transfer_syntax
        try:
            elements = data_set.decode(operation.data_set, self.transfer_syntax)
        except UnreadableDataSet as error:
            raise _does_not_match(f"unreadable identifier: {error}") from error
        named = elements.get(SPECIFIC_CHARACTER_SET)
        self.character_set = character_sets.terms_of(_bytes(named))
        level = elements.get(QUERY_RETRIEVE_LEVEL)
        if level is None:
            raise _does_not_match("the Query/Retrieve Level (0008,0052) is missing")
        try:
            self.level = Level(text_of(_bytes(level), "CS", ()))
        except ValueError:
            raise _does_not_match("there is no such Query/Retrieve Level") from None
        self.keys = _keys(elements, self.character_set)

    def query(self, attributes: Attributes, *, relational: bool, combined_datetime: bool = False) -> Query:
        """What it asks for; raises `DimseError`."""
        return Query.of(
            self.level,
            self.keys,
            attributes,
            model=self.model,
            relational=relational,
            combined_datetime=combined_datetime,
        )


def _does_not_match(why: str) -> DimseError:
    return DimseError(status.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, why)


def _bytes(element: Element | None) -> bytes:
    return element.value if element is not None and isinstance(element.value, bytes) else b""


def _keys(elements: DataSet, terms: tuple[str, ...]) -> dict[int, KeyValue]:
    return {tag: _key(element, terms) for tag, element in elements.items()}


def _key(element: Element, terms: tuple[str, ...]) -> KeyValue:
    if not isinstance(element.value, bytes):
        return tuple(_keys(item, terms) for item in element.value)
    known = dictionary.lookup(element.tag)
    vr = element.vr if element.vr != "UN" or known is None else known.vr
    if vr == "SQ":
        if element.value:
            raise _does_not_match(f"{dictionary.tag_text(element.tag)} is no sequence")
        return ()
    return text_of(element.value, vr, terms)


class Answers:
    """Makes the identifiers of responses from the rows that a query finds (PS3.4 C.4.1.1.3.2)."""

    def __init__(self, identifier: Identifier, query: Query, retrieve_ae_title: str) -> None:
        self._columns = query.columns
        self._transfer_syntax = identifier.transfer_syntax
        self._character_set = identifier.character_set
        self._keys = identifier.keys
        self._always = [
            Element(QUERY_RETRIEVE_LEVEL, "CS", identifier.level.value.encode()),
            Element(RETRIEVE_AE_TITLE, "AE", retrieve_ae_title.encode()),
        ]
        if INSTANCE_AVAILABILITY in identifier.keys:
            self._always.append(Element(INSTANCE_AVAILABILITY, "CS", b"ONLINE"))

        self._plan = (
            Plan(self._columns, self._always, self._transfer_syntax, self._element)
            if Plan.is_for(self._columns, self._transfer_syntax)
            else None
        )

    def encode(self, row: Sequence[str | None]) -> bytes:
        """The identifier for one match, in a character set that reaches: the requestor's, if it does."""
        terms: tuple[str, ...] = ()
        if not "".join(filter(None, row)).isascii():
            beyond_ascii = [value for value in row if value and not value.isascii()]
            terms = character_sets.fitting(beyond_ascii, self._character_set)
        encoded = None if self._plan is None else self._plan.encode(row, terms)
        return self._encode(row, terms) if encoded is None else encoded

    def _encode(self, row: Sequence[str | None], terms: tuple[str, ...]) -> bytes:
        """The same for any transfer syntax, and values of any length."""
        elements = list(self._always)
        if terms:
            elements.append(Element(SPECIFIC_CHARACTER_SET, "CS", "\\".join(terms).encode()))
        for attribute, value in zip(self._columns, row, strict=True):
            elements.append(self._element(attribute, value, terms))
        return data_set.encode(elements, self._transfer_syntax)

    def _element(self, attribute: Attribute, value: str | None, terms: tuple[str, ...]) -> Element:
        if attribute.vr == "SQ":
            return _sequence(attribute.tag, items_of(value), self._keys[attribute.tag], terms)
        return _element(attribute.tag, attribute.vr, value or "", terms)


def failed_list(sop_instance_uids: Sequence[str], transfer_syntax: str) -> bytes:
    """The identifier of a response to C-GET or C-MOVE that names what could not be sent (PS3.4 C.4.2.1.4.2).

    A list that is longer than an element can be is cut.
    """
    text = "\\".join(sop_instance_uids)
    if len(text) > _LONGEST_LIST:
        text = text[: text.rindex("\\", 0, _LONGEST_LIST)]
    return data_set.encode([Element(FAILED_SOP_INSTANCE_UID_LIST, "UI", text.encode())], transfer_syntax)


def _element(tag: int, vr: str, text: str, terms: tuple[str, ...]) -> Element:
    """An element of text from the index; empty where that can be no value of the VR.

    In a sequence the text is of the VR that the file says, whatever the dictionary does.
    """
    if vr in NUMBERS:
        return Element(tag, vr, numbers_value(text, vr))
    if vr == "SQ":
        return Element(tag, vr, ())
    if vr in BYTES:
        return Element(tag, vr, b"")
    if vr in TEXT:
        return Element(tag, vr, character_sets.encode(text, terms, is_person_name=vr == "PN"))
    return Element(tag, vr, text.encode("ascii", "replace"))


def _sequence(tag: int, items: Items, key: KeyValue, terms: tuple[str, ...]) -> Element:
    """The items of a sequence with the keys that were asked for in it; all of them if none were."""
    wanted = key[0] if not isinstance(key, str) and key else {}
    return Element(
        tag,
        "SQ",
        tuple(
            {
                inner: _in_item(inner, value, wanted.get(inner, ()), terms)
                for inner, value in item.items()
                if not wanted or inner in wanted
            }
            for item in items
        ),
    )


def _in_item(tag: int, value: str | Items, key: KeyValue, terms: tuple[str, ...]) -> Element:
    known = dictionary.lookup(tag)
    if isinstance(value, str):
        return _element(tag, "LO" if known is None else known.vr, value, terms)
    if known is None or known.vr == "SQ":
        return _sequence(tag, value, key, terms)
    return Element(tag, known.vr, b"")
