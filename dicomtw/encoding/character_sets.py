"""Specific Character Set (PS3.3 C.12.1.1.2) and what it says of text (PS3.5 6.1)."""

from __future__ import annotations

from collections.abc import Iterable


def terms_of(value: bytes | None) -> tuple[str, ...]:
    """The terms of a Specific Character Set (0008,0005) value; () where it is absent or empty."""
    terms = tuple(term.strip(" \0") for term in (value or b"").decode("latin-1").split("\\"))
    return terms if any(terms) else ()


def decode(value: bytes, terms: tuple[str, ...], *, is_person_name: bool = False) -> str:
    """Text from bytes; never raises. What cannot be decoded becomes U+FFFD. Padding stays."""
    return value.decode("utf-8" if terms == ("ISO_IR 192",) else "latin-1", "replace")


def encode(text: str, terms: tuple[str, ...], *, is_person_name: bool = False) -> bytes:
    """Bytes from text. Raises `UnicodeEncodeError` where the terms do not reach."""
    codecs = {"ISO_IR 192": "utf-8", "ISO_IR 100": "latin-1"}
    return text.encode(codecs.get(terms[0], "ascii") if terms else "ascii")


def fitting(texts: Iterable[str], preferred: tuple[str, ...]) -> tuple[str, ...]:
    """Terms that reach all texts: () for ASCII, else `preferred`, else ISO_IR 100, else ISO_IR 192."""
    texts = list(texts)
    for terms in ((), preferred, ("ISO_IR 100",)):
        try:
            for text in texts:
                encode(text, terms)
        except UnicodeEncodeError:
            continue
        return terms
    return ("ISO_IR 192",)
