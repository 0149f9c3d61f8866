"""What the index keeps of one object: its attributes as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from struct import Struct
from typing import Any, Final, TypeAlias

import attrs

from dicomtw import uids
from dicomtw.encoding import character_sets, data_set, dictionary
from dicomtw.encoding.data_set import DataSet, Element
from dicomtw.encoding.representations import BYTES, NUMBERS, TEXT, WHOLE, numbers_text
from dicomtw.errors import UnreadableDataSet
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.keys import date_key, integer_text

_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_SOP_CLASS_UID: Final = 0x00080016

_SEQUENCE_DELIMITATION = {"<": b"\xfe\xff\xdd\xe0\0\0\0\0", ">": b"\xff\xfe\xe0\xdd\0\0\0\0"}

#: Databases take integers of 64 bits, which ends in 2262; file systems go on.
MAXIMUM_MTIME_NS: Final = (1 << 63) - 1

#: A sequence that is longer as text is not kept.
MAXIMUM_SEQUENCE: Final = 65536

#: The text of values up to this length, in bytes, is remembered for a while.
_REMEMBERED: Final = 64

#: Items of a sequence: text, or items again, by tag.
Items: TypeAlias = "tuple[Mapping[int, str | Items], ...]"


@attrs.frozen
class Record:
    """What the index keeps of one object, and where the store has it."""

    #: Names of its directories in the store: UIDs, as a rule.
    study: str
    series: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    #: Modification time of its file, in nanoseconds.
    mtime_ns: int
    #: Text by keyword, several values with a backslash between them; nothing that is absent or empty.
    values: Mapping[str, str]


def record_of(
    found: Mapping[int, bytes],
    transfer_syntax: str,
    *,
    study: str,
    series: str,
    sop_instance_uid: str,
    mtime_ns: int,
    attributes: Attributes,
) -> Record:
    """The record of an object of which `found` has the raw values of its top-level elements, by tag.

    Values that are not what their VR says are kept as far as they are text, or left out.
    """
    terms = character_sets.terms_of(found.get(_SPECIFIC_CHARACTER_SET))
    values: dict[str, str] = {}
    for tag, value in found.items():
        indexed = attributes.get(tag)
        if indexed is None or not value:
            continue
        attribute = indexed.attribute
        if attribute.vr == "SQ":
            text = _sequence_text(tag, value, transfer_syntax, terms)
        else:
            if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN and attribute.vr in NUMBERS:
                value = _little_endian(value, attribute.vr)
            # Most of what a patient, a study and a series are called is in each of their objects.
            read = text_of if len(value) > _REMEMBERED else _remembered_text_of
            text = read(value, attribute.vr, terms)
        if text:
            values[attribute.keyword] = text
    sop_class_uid = text_of(found.get(_SOP_CLASS_UID, b""), "UI", ())
    mtime_ns = min(mtime_ns, MAXIMUM_MTIME_NS)
    return Record(study, series, sop_instance_uid, sop_class_uid, transfer_syntax, mtime_ns, values)


def text_of(value: bytes, vr: str, terms: tuple[str, ...]) -> str:
    """A value as text, several with a backslash between them; empty where it cannot be text.

    Numbers are little endian. Padding is removed, dates become YYYYMMDD.
    """
    if vr in NUMBERS:
        return numbers_text(value, vr)
    if vr in BYTES or vr == "SQ":
        return ""
    if (vr in TEXT and not value.isascii()) or b"\x1b" in value:
        text = character_sets.decode(value, terms, is_person_name=vr == "PN")
    else:
        text = value.decode("latin-1")
    if "\0" in text:
        text = text.replace("\0", "")  # padding, or rubbish that databases do not take
    if vr in WHOLE:
        return text.rstrip()
    if vr == "DA" or vr == "IS":
        normal = _date_text if vr == "DA" else integer_text
        return "\\".join(map(normal, text.split("\\"))) if "\\" in text else normal(text)
    if " " not in text or "\\" not in text:
        return text.strip()
    return "\\".join(part.strip() for part in text.split("\\"))


_remembered_text_of = lru_cache(maxsize=1024)(text_of)


def items_of(text: str | None) -> Items:
    """The items of a sequence, of which the index keeps `text`."""
    return () if text is None else tuple(_item_of(item) for item in json.loads(text))


def _item_of(item: dict[str, Any]) -> dict[int, str | Items]:
    return {
        int(tag, 16): value if isinstance(value, str) else tuple(_item_of(each) for each in value)
        for tag, value in item.items()
    }


def _date_text(text: str) -> str:
    stripped = text.strip()
    return date_key(stripped) or stripped


def _little_endian(value: bytes, vr: str) -> bytes:
    size = 2 if vr == "AT" else NUMBERS[vr].size
    return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size))


def _sequence_text(tag: int, value: bytes, transfer_syntax: str, terms: tuple[str, ...]) -> str:
    """The items of a sequence as JSON: objects of texts, and of arrays of such objects, by tag.

    `value` is what stands behind the element's header, the delimiter of a sequence of undefined length with
    or without it. Empty if it is unreadable or too long.
    """
    order = ">" if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<"
    stated = uids.EXPLICIT_VR_LITTLE_ENDIAN if transfer_syntax in uids.DEFLATED else transfer_syntax
    value = value.removesuffix(_SEQUENCE_DELIMITATION[order])
    for syntax in (stated, uids.IMPLICIT_VR_LITTLE_ENDIAN):  # as lenient as the header's reader
        try:
            items = _decoded(tag, value, syntax)
        except UnreadableDataSet:
            continue
        kept = [_kept(item, terms) for item in items]
        if not any(kept):
            return ""
        text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
        return text if len(text) <= MAXIMUM_SEQUENCE else ""
    return ""


def _decoded(tag: int, value: bytes, transfer_syntax: str) -> tuple[DataSet, ...]:
    order = ">" if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<"
    if transfer_syntax in uids.IMPLICIT_VR:
        header = Struct("<HHL").pack(tag >> 16, tag & 0xFFFF, len(value))
    else:
        header = Struct(order + "HH2sHL").pack(tag >> 16, tag & 0xFFFF, b"SQ", 0, len(value))
    element: Element = data_set.decode(header + value, transfer_syntax)[tag]
    return element.value if isinstance(element.value, tuple) else ()


def _kept(item: DataSet, inherited: tuple[str, ...]) -> dict[str, Any]:
    """The texts of an item and of those nested in it."""
    own = item.get(_SPECIFIC_CHARACTER_SET)
    terms = inherited
    if own is not None and isinstance(own.value, bytes):
        terms = character_sets.terms_of(own.value) or inherited
    return dict(_texts(item, terms))


def _texts(item: DataSet, terms: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for tag, element in item.items():
        if isinstance(element.value, tuple):
            nested = [_kept(each, terms) for each in element.value]
            if any(nested):
                yield f"{tag:08X}", nested
            continue
        vr = element.vr
        if vr == "UN":
            attribute = dictionary.lookup(tag)
            vr = "UN" if attribute is None else attribute.vr
        text = text_of(element.value, vr, terms)
        if text:
            yield f"{tag:08X}", text
