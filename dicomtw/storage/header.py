"""A light reader of a data set's top-level elements (PS3.5 section 7), for the few that name and index it.

It decodes nothing that it is not asked for, passes over values by their lengths, walks items of undefined
length with a counter instead of recursion, and reads no further than the last element it is asked for.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import Final

from dicomtw import uids
from dicomtw.encoding.dictionary import tag_text
from dicomtw.encoding.representations import LONG_FORM
from dicomtw.errors import UnreadableDataSet

SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
STUDY_INSTANCE_UID: Final = 0x0020000D
SERIES_INSTANCE_UID: Final = 0x0020000E

#: Nested deeper than this, a data set is not walked; DCMTK draws the same line.
MAXIMUM_DEPTH: Final = 64
#: Elements walked at most, nested ones too: this bounds the time spent on a hostile data set.
MAXIMUM_ELEMENTS: Final = 1 << 14
#: A deflated data set is inflated no further than this to find its header, in bytes.
MAXIMUM_INFLATED: Final = 4 << 20
#: Longest value handed out, in bytes, a sequence's with all its items; what is longer counts as absent.
MAXIMUM_VALUE: Final = 1 << 14

#: The elements that name an object.
NAMING: Final = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID})

_WINDOW = 16384
#: Headers of elements remembered.
_REMEMBERED = 4096
_UNDEFINED = 0xFFFFFFFF
_IMPLICIT_HEADER = Struct("<HHL")  # little endian in every transfer syntax (PS3.5 A.1)
_ITEM, _ITEM_DELIMITATION, _SEQUENCE_DELIMITATION = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_FORM = frozenset(vr.encode() for vr in LONG_FORM)
_SHORT_FORM = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"}
    | {b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)

#: Reads up to `length` bytes of the data set from `offset`; fewer only at its end.
ReadAt = Callable[[int, int], bytes]


class _PlainHeaders(dict[bytes, "tuple[int, int, bool] | None"]):
    """What headers of short elements that are sound mean: by their 8 bytes the tag, the size of the element
    with its header in bytes, and whether it is wanted. None for others, and those behind the last one wanted.

    From object to object they are the same, so to remember them is quicker than to read them.
    """

    def __init__(self, implicit: bool, layout: str, wanted: frozenset[int]) -> None:
        self.wanted = wanted
        self.last = max(wanted)
        self._implicit = implicit
        self._short_header = Struct(layout)

    def __missing__(self, header: bytes) -> tuple[int, int, bool] | None:
        if len(header) < 8:
            return None
        if self._implicit:
            group, element, length = _IMPLICIT_HEADER.unpack(header)
        else:
            group, element, vr, length = self._short_header.unpack(header)
            if vr not in _SHORT_FORM:
                return None
        tag = group << 16 | element
        if not 0x00030000 <= tag <= self.last:
            return None
        if len(self) >= _REMEMBERED:
            self.clear()
        meaning = self[header] = tag, 8 + length, tag in self.wanted and length <= MAXIMUM_VALUE
        return meaning


_plain_headers = lru_cache(maxsize=16)(_PlainHeaders)


class _Elements:
    """A position in a data set and the rules to read elements there."""

    def __init__(self, read_at: ReadAt, transfer_syntax: str, head: bytes, size: int) -> None:
        self._read_at = read_at
        self._size = size
        self._window = head
        self._base = 0
        self._count = 0
        self.at = 0
        self.implicit = transfer_syntax in uids.IMPLICIT_VR
        order = ">" if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<"
        self._tag = Struct(order + "HH")
        self._u16 = Struct(order + "H")
        self._u32 = Struct(order + "L")
        self._short_header = Struct(order + "HH2sH")

    def _locate(self, length: int) -> int:
        """The index in the window of `length` bytes at the position, or -1 where the data set ends first."""
        if not self.fits(length):
            return -1
        index = self.at - self._base
        if index < 0 or index + length > len(self._window):
            self._window = self._read_at(self.at, max(length, _WINDOW))
            self._base = self.at
            index = 0
        return index if index + length <= len(self._window) else -1

    def at_end(self) -> bool:
        return self._locate(1) < 0

    def value(self, length: int) -> bytes:
        index = self._locate(length)
        if index < 0:
            raise UnreadableDataSet(f"a value of {length} bytes at offset {self.at} is cut off")
        return self._window[index : index + length]

    def fits(self, length: int) -> bool:
        """Whether the data set, as far as its size is known, has `length` bytes from here."""
        return self.at + length <= self._size

    def header(self, implicit: bool) -> tuple[int, bytes, int]:
        """Tag, VR (empty where implicit) and length of the element here; moves to its value."""
        self._count += 1
        if self._count > MAXIMUM_ELEMENTS:
            raise UnreadableDataSet(f"more than {MAXIMUM_ELEMENTS} elements before what was looked for")
        index = self._locate(8)
        if index < 0:
            raise UnreadableDataSet(f"the data set ends inside an element at offset {self.at}")
        window = self._window
        if implicit:
            group, element, length = _IMPLICIT_HEADER.unpack_from(window, index)
            self.at += 8
            return group << 16 | element, b"", length
        group, element = self._tag.unpack_from(window, index)
        tag = group << 16 | element
        if group == 0xFFFE:  # items and delimiters have no VR (PS3.5 7.5)
            self.at += 8
            return tag, b"", self._u32.unpack_from(window, index + 4)[0]
        vr = window[index + 4 : index + 6]
        if not (vr.isalpha() and vr.isupper()):
            raise UnreadableDataSet(f"{vr!r} at offset {self.at + 4} is no VR")
        if vr in _LONG_FORM:
            index = self._locate(12)
            if index < 0:
                raise UnreadableDataSet(f"the data set ends inside an element at offset {self.at}")
            self.at += 12
            return tag, vr, self._u32.unpack_from(self._window, index + 8)[0]
        self.at += 8
        return tag, vr, self._u16.unpack_from(window, index + 6)[0]

    def pass_over(self, vr: bytes, length: int) -> None:
        """Move behind the value of `length` bytes that begins here, of undefined length too."""
        if length != _UNDEFINED:
            self.at += length
            return
        # One entry for each open sequence or item: whether elements inside it have implicit VR.
        # UN of undefined length is a sequence in Implicit VR Little Endian (PS3.5 6.2.2 Note 2),
        # in a big endian data set too.
        enclosing = [self.implicit or vr == b"UN"]
        in_item = False
        while enclosing:
            tag, vr, length = self.header(enclosing[-1])
            if in_item:
                if tag == _ITEM_DELIMITATION:
                    in_item = False
                elif length == _UNDEFINED:
                    enclosing.append(enclosing[-1] or vr == b"UN")
                    in_item = False
                else:
                    self.at += length
            elif tag == _SEQUENCE_DELIMITATION:
                enclosing.pop()
                in_item = True  # back in the item that held the sequence
            elif tag != _ITEM:
                raise UnreadableDataSet(f"{tag_text(tag)} where an item is due")
            elif length == _UNDEFINED:
                in_item = True
            else:
                self.at += length
            if len(enclosing) > MAXIMUM_DEPTH:
                raise UnreadableDataSet(f"sequences nested more than {MAXIMUM_DEPTH} deep")

    def find(self, wanted: frozenset[int], naming: frozenset[int]) -> dict[int, bytes]:
        """The values of the elements `wanted` that come from here on.

        What is wrong before the last of the elements `naming` raises `UnreadableDataSet`; what is wrong
        behind it costs what would have come after.
        """
        found: dict[int, bytes] = {}
        plain = _plain_headers(self.implicit, self._short_header.format, wanted)
        reached = -1  # the highest tag of a sound element: some come out of order
        try:
            while len(found) < len(wanted):
                reached = max(reached, self._run(plain, found))
                if len(found) == len(wanted) or self.at_end():
                    break
                tag, vr, length = self.header(self.implicit)
                if tag >> 16 in (0x0000, 0x0002, 0xFFFE):
                    raise UnreadableDataSet(f"{tag_text(tag)} at the top level of a data set")
                if length != _UNDEFINED and not self.fits(length):
                    raise UnreadableDataSet(
                        f"{tag_text(tag)} is {length} bytes long and the data set ends before"
                    )
                reached = max(reached, tag)
                if tag > plain.last:
                    break
                value = self._take(vr, length, tag in wanted)
                if value is not None:
                    found.setdefault(tag, value)
        except UnreadableDataSet:
            if reached <= max(naming) and not naming <= found.keys():
                raise
        return found

    def _run(self, plain: _PlainHeaders, found: dict[int, bytes]) -> int:
        """Walk on for as long as all is plain: short elements, sound, whole in the window.

        This is done with every object that comes in, and most of its elements are so. What is not is left
        to be read with care. Returns the highest tag walked past, or -1.
        """
        window, count = self._window, self._count
        index, end, reached = self.at - self._base, len(window), -1
        while index >= 0 and count < MAXIMUM_ELEMENTS:
            meaning = plain[window[index : index + 8]]
            if meaning is None:
                break
            tag, size, is_wanted = meaning
            behind = index + size
            if behind > end:
                break
            count += 1
            if tag > reached:
                reached = tag
            if is_wanted:
                found.setdefault(tag, window[index + 8 : behind])
                if len(found) == len(plain.wanted):
                    break
            index = behind
        self.at, self._count = self._base + index, count
        return reached

    def _take(self, vr: bytes, length: int, is_wanted: bool) -> bytes | None:
        """Move behind the value that begins here; return it if it is wanted and not too long."""
        start, value = self.at, None
        self.pass_over(vr, length)
        behind = self.at
        if length == _UNDEFINED:
            length = behind - 8 - start  # without the delimiter
        if is_wanted and length <= MAXIMUM_VALUE:
            self.at = start
            value = self.value(length)
            self.at = behind
        return value


def find_elements(
    read_at: ReadAt,
    transfer_syntax: str,
    wanted: frozenset[int],
    head: bytes,
    size: int,
    naming: frozenset[int] | None = None,
) -> dict[int, bytes]:
    """The values of those top-level elements in `wanted` that the data set has, undecoded.

    Of a sequence it is the items as they are encoded, without the delimiter; where it came as UN of
    undefined length, in Implicit VR Little Endian. `head` is what is at hand of the data set's beginning,
    so that as a rule nothing is read; `size` its length in bytes. Elements are in ascending order
    (PS3.5 7.1), so the search ends behind the last one wanted; of one that comes twice the first counts.

    Raises `UnreadableDataSet` for what is wrong as far as it goes, or as far as the elements `naming`, which
    are to be among those wanted: a fault behind them costs what would have come after it, and no more.
    """
    if transfer_syntax in uids.DEFLATED:
        read_at, head, size = _inflated(read_at, head), b"", sys.maxsize
    return _Elements(read_at, transfer_syntax, head, size).find(wanted, naming or wanted)


def find_naming_elements(
    read_at: ReadAt, transfer_syntax: str, wanted: frozenset[int], head: bytes, size: int
) -> dict[int, bytes]:
    """The elements in `NAMING`, and in the same scan those `wanted` besides; as `find_elements` otherwise.

    Lenient with writers that encode with implicit VR whatever the transfer syntax says: such data sets are
    kept as they came, like any other. Raises what is wrong by the transfer syntax.
    """
    if not wanted >= NAMING:
        wanted |= NAMING
    try:
        return find_elements(read_at, transfer_syntax, wanted, head, size, NAMING)
    except UnreadableDataSet:
        if transfer_syntax in uids.DEFLATED:
            raise  # kept as it is, nobody could inflate it
        try:
            found = find_elements(read_at, uids.IMPLICIT_VR_LITTLE_ENDIAN, wanted, head, size, NAMING)
        except UnreadableDataSet:
            found = {}
        if SOP_INSTANCE_UID not in found:
            raise
        return found


def uid_value(value: bytes | None) -> str:
    """A UI value as a string without its padding; empty for None."""
    return "" if value is None else value.decode("latin-1").rstrip("\0 ")


def _inflated(read_at: ReadAt, head: bytes) -> ReadAt:
    """The inflated stream behind a deflated one (PS3.5 A.5), kept up to `MAXIMUM_INFLATED` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    consumed = 0

    def read_inflated_at(offset: int, length: int) -> bytes:
        nonlocal consumed
        while len(inflated) < offset + length and not inflater.eof:
            if len(inflated) >= MAXIMUM_INFLATED:
                raise UnreadableDataSet(f"no header within {MAXIMUM_INFLATED} inflated bytes")
            compressed = inflater.unconsumed_tail
            if not compressed:
                compressed = head[consumed : consumed + _WINDOW] or read_at(consumed, _WINDOW)
                consumed += len(compressed)
            try:
                more = inflater.decompress(compressed, _WINDOW)
            except zlib.error as error:
                raise UnreadableDataSet(f"the data set does not inflate: {error}") from None
            if not more and not compressed:
                break  # the stream is cut off
            inflated.extend(more)
        return bytes(inflated[offset : offset + length])

    return read_inflated_at
