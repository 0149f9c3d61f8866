"""What a query finds, as a table, JSON or CSV, written as it comes."""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed

from dicomtw.command.terminal import printable
from dicomtw.encoding import dictionary

#: Rows of a table that decide how wide its columns are.
_SAMPLE = 200
#: Text that may wait for whoever reads it, in characters.
_WAITING = 1 << 16

_INTEGERS = ("IS", "US", "SS", "UL", "SL", "UV", "SV")
_FLOATS = ("DS", "FL", "FD")


class Form(Protocol):
    """Makes text of matches."""

    def begin(self) -> str:
        """What stands before them."""

    def match(self, match: Any) -> str:
        """The text of a `pydicom.Dataset`; empty where it comes later."""

    def end(self) -> str:
        """What is left."""


class JSONLines:
    """An object on a line each, ``{"PatientName": "DOE^JANE", "ModalitiesInStudy": ["CT", "SR"]}``.

    What can have several values (by its VM) is always an array, what has none is null or empty.
    """

    def begin(self) -> str:
        return ""

    def match(self, match: Any) -> str:
        return json.dumps(plain(match), ensure_ascii=False) + "\n"

    def end(self) -> str:
        return ""


class DICOMJSONLines(JSONLines):
    """The DICOM JSON Model (PS3.18 Annex F), an object on a line each."""

    def match(self, match: Any) -> str:
        return json.dumps(match.to_json_dict(suppress_invalid_tags=True), ensure_ascii=False) + "\n"


class CSV:
    """A column for each key, the first line names them (RFC 4180, but for line feeds alone)."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def begin(self) -> str:
        return self._line(self._columns)

    def match(self, match: Any) -> str:
        return self._line(cells(match, self._columns))

    def end(self) -> str:
        return ""

    def _line(self, values: Sequence[str]) -> str:
        target = io.StringIO()
        csv.writer(target, lineterminator="\n").writerow(values)
        return target.getvalue()


class Table:
    """Columns as wide as the first rows need them; rows that come after those are not waited for."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._sample: list[Sequence[str]] = [columns]
        self._widths: list[int] = []

    def begin(self) -> str:
        return ""

    def match(self, match: Any) -> str:
        row = [printable(cell) for cell in cells(match, self._columns)]
        if self._widths:
            return self._line(row)
        self._sample.append(row)
        return self._all() if len(self._sample) > _SAMPLE else ""

    def end(self) -> str:
        return self._all() if len(self._sample) > 1 else ""

    def _all(self) -> str:
        sample, self._sample = self._sample, []
        self._widths = [max(map(_width, column)) for column in zip(*sample, strict=True)]
        rule = ["-" * width for width in self._widths]
        return "".join(map(self._line, (sample[0], rule, *sample[1:])))

    def _line(self, row: Sequence[str]) -> str:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(row, self._widths, strict=True))
        return "  ".join(padded).rstrip() + "\n"


def form_of(name: str, columns: Sequence[str]) -> Form:
    """The form of this name."""
    forms: dict[str, Callable[[], Form]] = {
        "table": lambda: Table(columns),
        "json": JSONLines,
        "dicom-json": DICOMJSONLines,
        "csv": lambda: CSV(columns),
    }
    return forms[name]()


def _width(text: str) -> int:
    """The columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) != 0 for character in text)


# -- values


def plain(data_set: Any) -> dict[str, Any]:
    """The elements of a `pydicom.Dataset` by keyword, or tag where there is none, as JSON has values."""
    return {_name(tag): _value(data_set, tag) for tag in data_set.keys()}  # noqa: SIM118


def cells(data_set: Any, columns: Sequence[str]) -> list[str]:
    """The values of columns as text; several of one element with a backslash between them."""
    found = {_name(tag): tag for tag in data_set.keys()}  # noqa: SIM118
    return [_text(_value(data_set, found[name])) if name in found else "" for name in columns]


def _name(tag: int) -> str:
    known = dictionary.lookup(int(tag))
    return known.keyword if known is not None else f"{int(tag):08X}"


def _value(data_set: Any, tag: int) -> Any:
    known = dictionary.lookup(int(tag))
    try:
        element = data_set[tag]
        if element.VR == "SQ":
            return [plain(item) for item in element.value]
        value = element.value
        values = [] if element.is_empty else value if element.VM > 1 else [value]
        simple = [_simple(element.VR, one) for one in values]
    except Exception:  # pydicom raises what it likes where a value is none of its VR
        raw = data_set.get_item(tag).value or b""
        simple = [raw.decode("latin-1").strip("\0 ") if isinstance(raw, bytes) else str(raw)]
    if known is not None and known.vm != "1":
        return simple
    return None if not simple else simple[0] if len(simple) == 1 else simple


def _simple(vr: str, value: Any) -> Any:
    """One value as JSON has it: a number, or text; what is binary in base 64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if value is None or value == "":
        return None
    if vr in _INTEGERS:
        return int(value)
    if vr in _FLOATS:
        return float(value)
    return str(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        if any(isinstance(one, dict) for one in value):
            return json.dumps(value, ensure_ascii=False)
        return "\\".join(map(_text, value))
    return "" if value is None else str(value)


# -- writing


class Written:
    """Text on its way to standard output, which whoever reads it may take his time with.

    It is written in a thread; the peer is waited for meanwhile, and asked for no more than can be written.
    `in_thread` calls a function in a thread.
    """

    def __init__(self, in_thread: Callable[[Callable[[], None]], Deferred[None]], stream: Any = None) -> None:
        self._in_thread = in_thread
        self._stream = sys.stdout if stream is None else stream
        self._waiting: list[str] = []
        self._length = 0
        self._busy = False
        self._writing: Deferred[None] = succeed(None)
        self._fault: Exception | None = None

    async def write(self, text: str) -> None:
        """Have `text` written; raises what writing has raised, `BrokenPipeError` above all."""
        if self._fault is not None:
            raise self._fault
        if text:
            self._waiting.append(text)
            self._length += len(text)
            if not self._busy:
                self._busy = True
                self._writing = Deferred.fromCoroutine(self._write())
        if self._length > _WAITING:
            await self.flush()

    async def flush(self) -> None:
        """Wait until all is written; raises what writing has raised."""
        if self._busy:
            await self._writing
        if self._fault is not None:
            raise self._fault

    async def _write(self) -> None:
        try:
            while self._waiting:
                text = "".join(self._waiting)
                self._waiting.clear()
                self._length = 0
                await self._in_thread(lambda text=text: self._put(text))  # type: ignore[misc]
        except Exception as fault:
            self._fault = fault
        finally:
            self._busy = False

    def _put(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
