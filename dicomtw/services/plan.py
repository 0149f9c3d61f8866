"""How the identifiers of one query's responses are put together: all that is the same in each, made once.

A match costs one `str.join`. What goes between its values (tags, VRs, lengths, and elements that are the same
in all) is text of one character for each byte, so that values need no encoding of their own as long as they
are ASCII. That is a quarter of what `encoding.data_set.encode` takes for the same (benchmarks/query.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from dicomtw import uids
from dicomtw.encoding import character_sets, data_set
from dicomtw.encoding.data_set import Element
from dicomtw.encoding.dictionary import Attribute
from dicomtw.encoding.representations import BYTES, LONG_FORM, NUMBERS, TEXT

SPECIFIC_CHARACTER_SET: Final = 0x00080005

#: Encodes an element whose value is more than text: of an attribute, from what the index has, with terms.
EncodeElement = Callable[[Attribute, "str | None", tuple[str, ...]], Element]

#: Values up to this have their lengths below, in characters; with longer ones `encode` gives up.
_LONGEST: Final = 1024
_SHORT_LENGTHS: Final = [length.to_bytes(2, "little").decode("latin-1") for length in range(_LONGEST + 2)]
_LONG_LENGTHS: Final = [length.to_bytes(4, "little").decode("latin-1") for length in range(_LONGEST + 2)]

_MORE_THAN_TEXT: Final = BYTES | LONG_FORM | NUMBERS.keys() | {"SQ"}


class Plan:
    """The plan for `columns`, in tag order, and elements that are `always` there.

    Of columns that are not text `element` makes an element, when it is their turn.
    """

    def __init__(
        self,
        columns: Sequence[Attribute],
        always: Sequence[Element],
        transfer_syntax: str,
        element: EncodeElement,
    ) -> None:
        self._transfer_syntax = transfer_syntax
        self._element = element
        implicit = transfer_syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN
        self._lengths = _LONG_LENGTHS if implicit else _SHORT_LENGTHS
        #: For each column: what stands before its length, the same with the length 0, and its padding; an
        #: empty padding where it is not text.
        self._columns: list[tuple[str, str, str, Attribute]] = []
        constants = sorted(always, key=lambda element: element.tag)
        before = ""
        for column in columns:
            while constants and constants[0].tag < column.tag:
                before += self._text([constants.pop(0)])
            if column.vr in _MORE_THAN_TEXT:
                self._columns.append((before, "", "", column))
            else:
                empty = before + self._text([Element(column.tag, column.vr, b"")])
                padded = self._text([Element(column.tag, column.vr, b"x")])
                self._columns.append((empty[: -4 if implicit else -2], empty, padded[-1], column))
            before = ""
        self._end = self._text(constants)

    @staticmethod
    def is_for(columns: Sequence[Attribute], transfer_syntax: str) -> bool:
        """Whether there is a plan for these: Specific Character Set, which depends, is to come first."""
        return transfer_syntax in (uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN) and all(
            column.tag > SPECIFIC_CHARACTER_SET for column in columns
        )

    def encode(self, row: Sequence[str | None], terms: tuple[str, ...]) -> bytes | None:
        """The identifier for one match; None if it has to be made in another way.

        `terms` are those of Specific Character Set, none where all is ASCII.
        """
        lengths = self._lengths
        parts: list[str] = []
        if terms:
            named = Element(SPECIFIC_CHARACTER_SET, "CS", "\\".join(terms).encode())
            parts.append(self._text([named]))
        for (before, empty, padding, column), value in zip(self._columns, row, strict=True):
            if not padding:
                parts += (before, self._text([self._element(column, value, terms)]))
                continue
            if not value:
                parts.append(empty)
                continue
            if terms:
                value = _in_character_set(value, column.vr, terms)
            length = len(value)
            if length > _LONGEST:
                return None
            if length & 1:
                parts += (before, lengths[length + 1], value, padding)
            else:
                parts += (before, lengths[length], value)
        parts.append(self._end)
        return "".join(parts).encode("latin-1")

    def _text(self, elements: Sequence[Element]) -> str:
        return data_set.encode(elements, self._transfer_syntax).decode("latin-1")


def _in_character_set(value: str, vr: str, terms: tuple[str, ...]) -> str:
    if vr in TEXT:
        return character_sets.encode(value, terms, is_person_name=vr == "PN").decode("latin-1")
    return value if value.isascii() else value.encode("ascii", "replace").decode("ascii")
