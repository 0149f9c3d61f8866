"""Small data sets, such as identifiers, decoded whole in memory and encoded (PS3.5 Section 7, Annex A).

Values stay bytes, as encoded but for the byte order: numbers are little endian here whatever the
transfer syntax, so that nobody else has to know of it. Text is decoded by `character_sets`.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Mapping
from operator import attrgetter
from struct import Struct
from typing import Final, TypeAlias

import attrs

from dicomtw import uids
from dicomtw.encoding import dictionary
from dicomtw.encoding.dictionary import tag_text
from dicomtw.encoding.representations import LONG_FORM
from dicomtw.errors import UnreadableDataSet

#: Sequences nested deeper than this are not decoded; DCMTK draws the same line.
MAXIMUM_DEPTH: Final = 64
#: Elements, items and delimiters decoded at most, nested ones too: this bounds what a data set costs.
MAXIMUM_ELEMENTS: Final = 1 << 14
#: A deflated data set is inflated no further than this, in bytes.
MAXIMUM_INFLATED: Final = 4 << 20

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_DELIMITATION, _SEQUENCE_DELIMITATION = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
#: VRs padded with a space, all others with NUL (PS3.5 6.2).
_PADDED_WITH_SPACE = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}
)
#: VRs that depend on the byte order, and the type code of an array of their words (PS3.5 7.3).
_WORDS = (
    dict.fromkeys(("AT", "OW", "SS", "US"), "H")
    | dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), "I")
    | dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), "Q")
)

_by_tag = attrgetter("tag")


@attrs.frozen
class Element:
    """A data element (PS3.5 7.1)."""

    #: Group and element number, (gggg,eeee) as 0xGGGGEEEE.
    tag: int
    #: As encoded, whatever the dictionary says; in Implicit VR the dictionary's, or UN. SQ with items only.
    vr: str
    #: A value with its padding, numbers in little endian; or the items of a sequence.
    value: Value


#: Elements by tag, in ascending order of tags.
DataSet: TypeAlias = Mapping[int, Element]
Value: TypeAlias = "bytes | tuple[DataSet, ...]"


class _Syntax:
    """The rules of an encoding: explicit VR or not, and byte order."""

    def __init__(self, order: str, implicit: bool) -> None:
        self.implicit = implicit
        self.swapped = order == ">"
        self.implicit_header = Struct(order + "HHL")
        self.short_header = Struct(order + "HH2sH")
        self.long_header = Struct(order + "HH2sHL")


_IMPLICIT = _Syntax("<", implicit=True)
_EXPLICIT = _Syntax("<", implicit=False)
_BIG_ENDIAN = _Syntax(">", implicit=False)


def _syntax(transfer_syntax: str) -> _Syntax:
    if transfer_syntax in uids.IMPLICIT_VR:
        return _IMPLICIT
    return _BIG_ENDIAN if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else _EXPLICIT


def decode(data: bytes, transfer_syntax: str) -> dict[int, Element]:
    """The elements of a data set by tag, in ascending order.

    Where a tag comes twice the last one counts, and tags out of order are put in order. Group lengths
    (gggg,0000) are left out. Raises `UnreadableDataSet`.
    """
    if transfer_syntax in uids.DEFLATED:
        data = _inflated(data)
    elements, _ = _Decoder(data).elements(0, len(data), _syntax(transfer_syntax), depth=0, delimited=False)
    return elements


def encode(elements: Iterable[Element], transfer_syntax: str) -> bytes:
    """A data set, its elements sorted by tag, values padded, sequences and items with their lengths.

    Group lengths are not written. The inverse of `decode` for values of even length.
    """
    encoded = _encoded(elements, _syntax(transfer_syntax))
    if transfer_syntax in uids.DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        encoded = deflater.compress(encoded) + deflater.flush()
        encoded += b"\0" * (len(encoded) % 2)  # PS3.5 A.5
    return encoded


class _Decoder:
    """Bytes, and how many elements of them may still be decoded."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAXIMUM_ELEMENTS

    def elements(
        self, at: int, end: int, syntax: _Syntax, depth: int, delimited: bool
    ) -> tuple[dict[int, Element], int]:
        """The elements from `at` to `end`, or to the item's delimiter, and where what follows begins."""
        elements: dict[int, Element] = {}
        previous, sorted_already = -1, True
        while at < end:
            tag, vr, length, at = self._header(at, end, syntax)
            if tag == _ITEM_DELIMITATION and delimited:
                break
            group = tag >> 16
            if group in (0x0000, 0x0002, 0xFFFE):
                raise UnreadableDataSet(f"{tag_text(tag)} among the elements of a data set")
            value: Value
            if length == _UNDEFINED:
                if vr not in ("SQ", "UN") and not syntax.implicit:
                    raise UnreadableDataSet(f"{tag_text(tag)} is {vr} and of undefined length")
                inside = _IMPLICIT if vr == "UN" else syntax  # PS3.5 6.2.2 Note 2
                value, at = self._items(at, end, inside, depth + 1, delimited=True)
                vr = "SQ"
            elif at + length > end:
                raise UnreadableDataSet(f"{tag_text(tag)} is {length} bytes long, {end - at} are there")
            elif vr == "SQ" and (not syntax.implicit or self._begins_item(at, length)):
                value, at = self._items(at, at + length, syntax, depth + 1, delimited=False)
            else:
                value = self._data[at : at + length]
                at += length
                if syntax.swapped:
                    value = _swapped(value, vr)
                elif vr == "SQ":
                    vr = "UN"
            if tag & 0xFFFF == 0:
                continue
            elements[tag] = Element(tag, vr, value)
            sorted_already = sorted_already and tag > previous
            previous = tag
        else:
            if delimited:
                raise UnreadableDataSet(f"an item is not delimited before offset {end}")
        if not sorted_already:
            elements = {tag: elements[tag] for tag in sorted(elements)}
        return elements, at

    def _items(
        self, at: int, end: int, syntax: _Syntax, depth: int, delimited: bool
    ) -> tuple[tuple[DataSet, ...], int]:
        """The items of a sequence from `at` to `end`, or to its delimiter, and where what follows begins."""
        if depth > MAXIMUM_DEPTH:
            raise UnreadableDataSet(f"sequences nested more than {MAXIMUM_DEPTH} deep")
        items: list[DataSet] = []
        while at < end:
            tag, _, length, at = self._header(at, end, syntax)
            if tag == _SEQUENCE_DELIMITATION and delimited:
                return tuple(items), at
            if tag != _ITEM:
                raise UnreadableDataSet(f"{tag_text(tag)} where an item is due")
            if length == _UNDEFINED:
                item, at = self.elements(at, end, syntax, depth, delimited=True)
            elif at + length > end:
                raise UnreadableDataSet(f"an item is {length} bytes long, {end - at} are there")
            else:
                item, at = self.elements(at, at + length, syntax, depth, delimited=False)
            items.append(item)
        if delimited:
            raise UnreadableDataSet(f"a sequence is not delimited before offset {end}")
        return tuple(items), at

    def _header(self, at: int, end: int, syntax: _Syntax) -> tuple[int, str, int, int]:
        """Tag, VR (empty for items, delimiters) and length of the element at `at`; where its value begins."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableDataSet(f"more than {MAXIMUM_ELEMENTS} elements")
        if at + 8 > end:
            raise UnreadableDataSet(f"the data set ends inside an element at offset {at}")
        group, element, length = syntax.implicit_header.unpack_from(self._data, at)
        tag = group << 16 | element
        if group == 0xFFFE:
            return tag, "", length, at + 8
        if syntax.implicit:
            return tag, _dictionary_vr(tag), length, at + 8
        _, _, raw, length = syntax.short_header.unpack_from(self._data, at)
        if not (raw.isalpha() and raw.isupper()):
            raise UnreadableDataSet(f"{raw!r} at offset {at + 4} is no VR")
        vr = raw.decode("ascii")
        if vr not in LONG_FORM:
            return tag, vr, length, at + 8
        if at + 12 > end:
            raise UnreadableDataSet(f"the data set ends inside an element at offset {at}")
        return tag, vr, syntax.long_header.unpack_from(self._data, at)[4], at + 12

    def _begins_item(self, at: int, length: int) -> bool:
        return length == 0 or self._data[at : at + 4] == b"\xfe\xff\x00\xe0"


def _dictionary_vr(tag: int) -> str:
    attribute = dictionary.lookup(tag)
    if attribute is not None:
        return attribute.vr
    return "LO" if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF else "UN"  # PS3.5 7.8.1


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, MAXIMUM_INFLATED)
    except zlib.error as error:
        raise UnreadableDataSet(f"the data set does not inflate: {error}") from None
    if not inflater.eof:
        raise UnreadableDataSet(f"the data set is cut off, or longer than {MAXIMUM_INFLATED} inflated bytes")
    return inflated


def _swapped(value: bytes, vr: str) -> bytes:
    """A value in the other byte order."""
    code = _WORDS.get(vr)
    if code is None:
        return value
    words = array(code)
    if len(value) % words.itemsize:
        return value  # no numbers of its VR
    words.frombytes(value)
    words.byteswap()
    return words.tobytes()


def _encoded(elements: Iterable[Element], syntax: _Syntax) -> bytes:
    parts: list[bytes] = []
    for element in sorted(elements, key=_by_tag):
        tag, vr, value = element.tag, element.vr, element.value
        if tag & 0xFFFF == 0:
            continue
        if isinstance(value, tuple):
            vr = "SQ"
            items: list[bytes] = []
            for item in value:
                body = _encoded(item.values(), syntax)
                items += (syntax.implicit_header.pack(_ITEM >> 16, _ITEM & 0xFFFF, len(body)), body)
            value = b"".join(items)
        elif len(value) % 2:
            value += b" " if vr in _PADDED_WITH_SPACE else b"\0"
        if syntax.swapped:
            value = _swapped(value, vr)
        length = len(value)
        if syntax.implicit:
            header = syntax.implicit_header.pack(tag >> 16, tag & 0xFFFF, length)
        elif vr in LONG_FORM:
            header = syntax.long_header.pack(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), 0, length)
        elif length > 0xFFFF:
            header = syntax.long_header.pack(tag >> 16, tag & 0xFFFF, b"UN", 0, length)  # PS3.5 6.2.2
        else:
            header = syntax.short_header.pack(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), length)
        parts += (header, value)
    return b"".join(parts)
