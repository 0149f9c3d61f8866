"""Specific Character Set (PS3.3 C.12.1.1.2) and the text it stands for (PS3.5 6.1).

A character set is reached in one of two ways. Either it is all there is (ISO_IR 192, GB18030, GBK), or it
fills one half of the code table (ISO/IEC 2022): G0, the bytes 21H to 7EH, or G1, the bytes A0H to FFH. The
first term says what G0 and G1 are at the beginning; escape sequences put the sets of further terms in their
place, until a delimiter brings back the first (PS3.5 6.1.2.5.3).

Reading is lenient, for text of archives is what its writers made of it: misspelled terms are understood,
escape sequences are followed whether announced or not. Writing keeps to the standard.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import attrs

ESCAPE: Final = b"\x1b"
#: Terms of a Specific Character Set that are looked at; there are not as many that can be combined.
MAXIMUM_TERMS: Final = 32
#: The terms of a value up to this length, in bytes, are remembered for a while.
_REMEMBERED: Final = 64


@attrs.frozen(eq=False)
class _Set:
    """A character set that fills one half of the code table (PS3.3 Tables C.12-3 and C.12-4)."""

    #: Python's codec. It has ASCII in G0, so that it decodes any text of G0 and this set in G1.
    codec: str
    #: What follows ESC in the escape sequence for G0; empty for those that are for G1 only.
    g0: bytes
    #: The same for G1.
    g1: bytes
    #: Bytes of a character.
    width: int = 1
    #: What the codec puts before a character of this set: EUC has the sets of Japan in one code table.
    prefix: bytes = b""
    #: The codec of a larger set, which writers take for this one.
    larger: str = ""

    @property
    def is_wide(self) -> bool:
        """Whether it is of two bytes and for G0, where there is no ASCII as long as it is there."""
        return not self.g1 and self.width == 2


#: Also stands for G1 where nothing is in it; what is found there all the same is taken for Latin-1.
_ASCII: Final = _Set("ascii", b"(B", b"", larger="latin_1")

#: By the number that the defined terms end with, that of the International Register.
_SETS: Final = {
    6: _ASCII,
    13: _Set("shift_jis", b"(J", b")I", larger="cp932"),  # G0 is ISO-IR 14, ASCII with a yen sign for "\"
    100: _Set("latin_1", b"(B", b"-A"),
    101: _Set("iso8859_2", b"(B", b"-B"),
    109: _Set("iso8859_3", b"(B", b"-C"),
    110: _Set("iso8859_4", b"(B", b"-D"),
    126: _Set("iso8859_7", b"(B", b"-F"),
    127: _Set("iso8859_6", b"(B", b"-G"),
    138: _Set("iso8859_8", b"(B", b"-H"),
    144: _Set("iso8859_5", b"(B", b"-L"),
    148: _Set("iso8859_9", b"(B", b"-M"),
    166: _Set("tis_620", b"(B", b"-T"),
    203: _Set("iso8859_15", b"(B", b"-b"),
    87: _Set("euc_jp", b"$B", b"", 2),
    159: _Set("euc_jp", b"$(D", b"", 2, prefix=b"\x8f"),
    149: _Set("euc_kr", b"", b"$)C", 2, larger="cp949"),
    58: _Set("gb2312", b"", b"$)A", 2, larger="gbk"),
}

#: Character sets that take the whole code table and no escape sequences (PS3.3 Table C.12-5).
_WHOLE: Final = {"ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk"}

_BY_TERM: Final = {f"ISO 2022 IR {number}": each for number, each in _SETS.items()} | {
    f"ISO_IR {number}": each for number, each in _SETS.items() if each.width == 1
}
# ESC ( B stands in many rows and always means ASCII, which is the first.
_IN_G0: Final = {each.g0: each for each in reversed(_SETS.values()) if each.g0}
_IN_G1: Final = {each.g1: each for each in _SETS.values() if each.g1}

_ESCAPE_SEQUENCE = re.compile(b"|".join(re.escape(sequence) for sequence in (*_IN_G0, *_IN_G1)))
#: What comes before the first delimiter (PS3.5 6.1.2.5.3).
_UNDELIMITED = re.compile(rb"[^\\\t\n\f\r]*")
_UNDELIMITED_NAME = re.compile(rb"[^\\^=\t\n\f\r]*")
#: The same with a set of two bytes in G0: there 5CH and its like are halves of characters.
_UNDELIMITED_WIDE = re.compile(rb"[^\t\n\f\r]*")
_WIDE_TEXT = re.compile(rb"[!-~]{2}|[\x80-\xff]+|.", re.DOTALL)

_DELIMITERS = frozenset("\\\t\n\f\r")
_NAME_DELIMITERS = _DELIMITERS | frozenset("^=")

_MISSPELLED = re.compile(r"ISO[ _-]*(2022)?[ _-]*(?:IR)?[ _-]*([0-9]{1,3})")
_ISO_8859 = re.compile(r"ISO[ _-]*8859[ _-]*([0-9]{1,2})")
_PARTS_OF_ISO_8859 = {
    1: 100, 2: 101, 3: 109, 4: 110, 5: 144, 6: 127, 7: 126, 8: 138, 9: 148, 11: 166, 15: 203
}  # fmt: skip
_OTHER_NAMES = {
    "UTF-8": "ISO_IR 192",
    "UTF8": "ISO_IR 192",
    "ISO 2022 GBK": "GBK",
    "ISO 2022 GB18030": "GB18030",
    "GB 18030": "GB18030",
}


def load() -> None:
    """Have Python load the codecs: later the server may be somebody who cannot read where Python is."""
    for each in _SETS.values():
        for name in filter(None, (each.codec, each.larger)):
            codecs.lookup(name)
    for name in (*_WHOLE.values(), "utf-16-le"):
        codecs.lookup(name)


def terms_of(value: bytes | None) -> tuple[str, ...]:
    """The terms of a Specific Character Set (0008,0005) value; () where it is absent or empty.

    Common misspellings are put right, other unknown terms stay. An empty first term means ASCII.
    """
    if not value:
        return ()
    return _remembered_terms_of(value) if len(value) <= _REMEMBERED else _terms_of(value)


def _terms_of(value: bytes) -> tuple[str, ...]:
    terms = value.decode("latin-1").split("\\", MAXIMUM_TERMS)[:MAXIMUM_TERMS]
    terms = [_defined_term(term) for term in terms]
    return tuple(terms) if any(terms) else ()


_remembered_terms_of = lru_cache(maxsize=64)(_terms_of)  # it is in each object, and the same in most


def decode(value: bytes, terms: tuple[str, ...], *, is_person_name: bool = False) -> str:
    r"""The text of a value, with its padding; what cannot be decoded, and ESC, becomes U+FFFD. Never raises.

    A value of several is decoded first and split at ``\`` then, for 5CH is also a half of characters. Where
    ASCII is all that the terms reach, bytes above 7FH are taken for Latin-1; so are they without any terms.
    """
    if value.isascii() and ESCAPE not in value:
        return value.decode("ascii")
    repertoire = _repertoire(terms)
    if repertoire.whole:
        return value.decode(repertoire.whole, "replace").replace("\x1b", "\ufffd")
    first, *parts = value.split(ESCAPE)
    g0, g1 = repertoire.g0, repertoire.g1
    text = [_decoded(first, g0, g1)]
    for part in parts:
        escaped = _ESCAPE_SEQUENCE.match(part)
        if escaped is None:
            text.append("\ufffd")
        else:
            part = part[escaped.end() :]
            g0 = _IN_G0.get(escaped.group(), g0)
            g1 = _IN_G1.get(escaped.group(), g1)
        if (g0, g1) != (repertoire.g0, repertoire.g1):
            undelimited = _undelimited(part, g0, is_person_name)
            text.append(_decoded(undelimited, g0, g1))
            part = part[len(undelimited) :]
            if part:
                # With ASCII alone there is nothing in G1 to come back to, and writers that do
                # not repeat the escape sequence on each line mean the set that they had.
                g0, g1 = repertoire.g0, g1 if repertoire.g1 is _ASCII else repertoire.g1
        text.append(_decoded(part, g0, g1))
    return "".join(text)


def encode(text: str, terms: tuple[str, ...], *, is_person_name: bool = False) -> bytes:
    """The bytes of a text, not padded, with the escape sequences it takes.

    Raises `UnicodeEncodeError` where the terms do not reach. Unknown terms reach ASCII, none reach ESC,
    which is no character of a text (PS3.5 6.1.3).
    """
    if "\x1b" in text:
        raise _out_of_reach(text, text.index("\x1b"), terms)
    if text.isascii():
        return text.encode("ascii")
    repertoire = _repertoire(terms)
    if repertoire.whole:
        return text.encode(repertoire.whole)
    delimiters = _NAME_DELIMITERS if is_person_name else _DELIMITERS
    g0, g1 = first = repertoire.g0, repertoire.g1_of_writers
    encoded = bytearray()
    for index, character in enumerate(text):
        if character.isascii():
            back = first if character in delimiters else (first[0], g1)
            encoded += _switched((g0, g1), back)
            g0, g1 = back
            encoded += character.encode("ascii")
            continue
        for each in (g0, g1, *repertoire.sets):
            code = _code(character, each)
            if code:
                break
        else:
            raise _out_of_reach(text, index, terms)
        there = (each, g1) if each.is_wide else (g0, each)
        encoded += _switched((g0, g1), there) + code
        g0, g1 = there
    return bytes(encoded + _switched((g0, g1), first))


def fitting(texts: Iterable[str], preferred: tuple[str, ...]) -> tuple[str, ...]:
    """The terms to encode these texts with: () if all is ASCII, else `preferred` if it reaches all of them,
    else ISO_IR 100 if that does, else ISO_IR 192, which does for all that `decode` makes.
    """
    text = "".join(texts)
    for terms in ((), preferred, ("ISO_IR 100",)):
        try:
            encode(text, terms)
        except UnicodeEncodeError:
            continue
        return terms
    return ("ISO_IR 192",)


@attrs.frozen
class _Repertoire:
    """What a Specific Character Set comes to."""

    #: The codec of a character set that takes the whole code table; empty where there are halves.
    whole: str = ""
    #: What is in G0 and G1 at the beginning and behind each delimiter.
    g0: _Set = _ASCII
    g1: _Set = _ASCII
    #: All that can be reached, in the order of the terms.
    sets: tuple[_Set, ...] = ()

    @property
    def g1_of_writers(self) -> _Set:
        """G1 at the beginning by the standard, which has no set of two bytes there (PS3.3 C.12.1.1.2)."""
        return _ASCII if self.g1.width == 2 else self.g1


@lru_cache(maxsize=128)
def _repertoire(terms: tuple[str, ...]) -> _Repertoire:
    defined = [_defined_term(term) for term in terms[:MAXIMUM_TERMS]] or [""]
    if defined[0] in _WHOLE:
        return _Repertoire(_WHOLE[defined[0]])
    first = _BY_TERM.get(defined[0], _ASCII)
    return _Repertoire(
        g0=_ASCII if first.is_wide else _IN_G0.get(first.g0, _ASCII),
        g1=first if first.g1 else _ASCII,
        sets=tuple(dict.fromkeys(_BY_TERM[term] for term in defined if term in _BY_TERM)),
    )


def _defined_term(term: str) -> str:
    """The defined term that is meant; the term as it is, without padding, where none can be."""
    term = term.strip(" \0")
    upper = term.upper()
    if upper in _BY_TERM or upper in _WHOLE:
        return upper
    misspelled = _MISSPELLED.fullmatch(upper)
    if misspelled is not None:
        number = int(misspelled[2])
        terms = (f"ISO_IR {number}", f"ISO 2022 IR {number}")
        for meant in reversed(terms) if misspelled[1] else terms:
            if meant in _BY_TERM or meant in _WHOLE:
                return meant
    part = _ISO_8859.fullmatch(upper)
    if part is not None and int(part[1]) in _PARTS_OF_ISO_8859:
        return f"ISO_IR {_PARTS_OF_ISO_8859[int(part[1])]}"
    return _OTHER_NAMES.get(upper, term)


def _out_of_reach(text: str, index: int, terms: tuple[str, ...]) -> UnicodeEncodeError:
    reason = "not in the Specific Character Set"
    return UnicodeEncodeError("\\".join(terms) or "ASCII", text, index, index + 1, reason)


def _undelimited(part: bytes, g0: _Set, is_person_name: bool) -> bytes:
    """What comes before the first delimiter."""
    pattern = _UNDELIMITED_NAME if is_person_name else _UNDELIMITED
    found = (_UNDELIMITED_WIDE if g0.is_wide else pattern).match(part)
    return b"" if found is None else found.group()


def _decoded(part: bytes, g0: _Set, g1: _Set) -> str:
    """The text of bytes without escape sequences."""
    if not g0.is_wide:
        return _decoded_narrow(part, g1)
    text = []
    for token in _WIDE_TEXT.findall(part):
        if token[0] > 0x7F:
            text.append(_decoded_narrow(token, g1))
        elif len(token) == 2:
            text.append(_character(token, g0))
        else:  # a control character, a space, or a delimiter that should not be here
            text.append(chr(token[0]) if token in b"\t\n\f\r ^=\\" else "\ufffd")
    return "".join(text)


def _decoded_narrow(part: bytes, g1: _Set) -> str:
    """The same with ASCII in G0."""
    try:
        return part.decode(g1.codec)
    except UnicodeDecodeError:
        return part.decode(g1.larger or g1.codec, "replace")


def _character(pair: bytes, g0: _Set) -> str:
    """The character of two bytes in G0."""
    try:
        return (g0.prefix + bytes((pair[0] | 0x80, pair[1] | 0x80))).decode(g0.codec)
    except UnicodeDecodeError:
        return "\ufffd"


@lru_cache(maxsize=4096)
def _code(character: str, character_set: _Set) -> bytes:
    """The bytes of a character in its half of the code table; none where the set does not have it."""
    try:
        code = character.encode(character_set.codec)
        if code.decode(character_set.codec) != character:  # the yen sign is not "\\"
            return b""
    except UnicodeError:
        return b""
    code, prefix = code[len(character_set.prefix) :], code[: len(character_set.prefix)]
    if prefix != character_set.prefix or len(code) != character_set.width or min(code) < 0xA0:
        return b""
    return bytes(byte & 0x7F for byte in code) if character_set.is_wide else code


def _switched(here: tuple[_Set, _Set], there: tuple[_Set, _Set]) -> bytes:
    """The escape sequences from what is in G0 and G1 here to what is there."""
    switched = ESCAPE + there[0].g0 if there[0] is not here[0] else b""
    if there[1] is not here[1] and there[1].g1:
        switched += ESCAPE + there[1].g1
    return switched
