"""What is kept of an object, with pydicom as the judge of what its files say."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage.index.attributes import LEVELS, Attributes
from dicomtw.storage.index.record import MAXIMUM_SEQUENCE, Items, Record, items_of, record_of, text_of
from dicomtw.storage.stored import read_stored
from tests.storage import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, PYDICOM_FILES, UNDEFINED, element
from tests.storage.index import ATTRIBUTES

CHARSET_FILES = PYDICOM_FILES.parent / "charset_files"

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
REQUEST_ATTRIBUTES = 0x00400275

EXTENDED = Attributes(
    [
        "IMAGE:PixelSpacing",
        "RescaleSlope",
        "SERIES:PatientOrientation",
        "FrameIncrementPointer",
        "ReferencedStudySequence",
        "SourceImageSequence",
        "RequestedProcedureCodeSequence",
        "StudyStatusID",
        "ImagePositionPatient",
        "BitsStored",
        "PixelRepresentation",
    ]
)


def record(found: dict[int, bytes], syntax: str = EXPLICIT, attributes: Attributes = ATTRIBUTES) -> Record:
    return record_of(
        found, syntax, study="1", series="2", sop_instance_uid="3", mtime_ns=4, attributes=attributes
    )


def all_files() -> Iterator[tuple[Path, Record, Dataset]]:
    """Bundled files that are objects of a store, what the index makes of them, and what pydicom reads."""
    for path in sorted([*PYDICOM_FILES.glob("*.dcm"), *CHARSET_FILES.glob("*.dcm")]):
        try:
            stored = read_stored(path, EXTENDED.tags)
        except ValueError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data_set = pydicom.dcmread(path, stop_before_pixels=True)
            data_set.decode()
        made = record_of(
            stored.found,
            stored.transfer_syntax_uid,
            study=stored.study,
            series=stored.series,
            sop_instance_uid=stored.sop_instance_uid,
            mtime_ns=stored.mtime_ns,
            attributes=EXTENDED,
        )
        yield path, made, data_set


def text_by_pydicom(data_set: Dataset, keyword: str) -> str:
    """What pydicom says the value is, in the index's form."""
    try:
        value = data_set[keyword].value
        vr = data_set[keyword].VR
    except KeyError:
        return ""
    if vr == "SQ":
        return repr([dict(items_by_pydicom(item)) for item in value]) if value else ""
    values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return "\\".join(one_by_pydicom(each, vr) for each in values)


def one_by_pydicom(value: Any, vr: str) -> str:
    if value is None:
        return ""
    if vr == "AT":
        return f"{int(value):08X}"
    text = str(getattr(value, "original_string", value) if vr in ("DS", "IS") else value)
    if vr == "PN":
        return text.strip("\0 =")
    if vr == "IS" and text.strip().isdigit():
        return str(int(text))
    if vr == "DA" and len(text) == 10:
        return text.replace(".", "")
    return text.rstrip("\0 ") if vr in ("LT", "ST", "UT") else text.strip("\0 ")


def items_by_pydicom(item: Dataset) -> Iterator[tuple[int, str]]:
    for each in item:
        if each.VR not in ("OB", "OW", "UN", "OB or OW"):
            text = text_by_pydicom(item, each.tag)  # type: ignore[arg-type]
            if text:
                yield int(each.tag), text


def plain(items: Items) -> str:
    """Items as `items_by_pydicom` puts them."""

    def of(item: Any) -> dict[int, str]:
        return {
            tag: value if isinstance(value, str) else repr([of(each) for each in value])
            for tag, value in item.items()
        }

    return repr([of(item) for item in items])


class FileTests(SynchronousTestCase):
    def test_files(self) -> None:
        """Of every file that comes with pydicom, every attribute is what pydicom reads."""
        count = 0
        differences = []
        for path, made, data_set in all_files():
            for level in LEVELS:
                for attribute in EXTENDED.stored[level]:
                    if attribute.tag >> 16 == 2:
                        continue
                    theirs = text_by_pydicom(data_set, attribute.keyword)
                    ours = made.values.get(attribute.keyword, "")
                    if attribute.vr == "SQ":
                        ours = plain(items_of(ours or None)) if ours else ""
                    if attribute.vr == "PN":
                        ours = ours.rstrip("=")  # pydicom leaves out empty component groups
                    count += bool(theirs)
                    if ours != theirs:
                        differences.append((path.name, attribute.keyword, ours, theirs))
        self.assertEqual(differences, [])
        self.assertGreater(count, 1500)


class TextTests(SynchronousTestCase):
    def test_padding(self) -> None:
        """Padding is no part of a value, nor of one of several; of whole texts the leading spaces are."""
        self.assertEqual(text_of(b" a b \\ c ", "LO", ()), "a b\\c")
        self.assertEqual(text_of(b" a b ", "LO", ()), "a b")
        self.assertEqual(text_of(b"1.2\0", "UI", ()), "1.2")
        self.assertEqual(text_of(b"  a \\ b \r\n", "LT", ()), "  a \\ b")
        self.assertEqual(text_of(b"\0\0", "LO", ()), "")

    def test_dates(self) -> None:
        """Dates come as eight digits; what is no date stays what it is."""
        self.assertEqual(text_of(b"2024.01.15", "DA", ()), "20240115")
        self.assertEqual(text_of(b"20240115\\2024.01.16", "DA", ()), "20240115\\20240116")
        self.assertEqual(text_of(b"yesterday ", "DA", ()), "yesterday")

    def test_numbers(self) -> None:
        """Numbers come as decimal ones; bytes that are none of their VR come to nothing."""
        self.assertEqual(text_of(pack("<2H", 1, 65535), "US", ()), "1\\65535")
        self.assertEqual(text_of(pack("<h", -1), "SS", ()), "-1")
        self.assertEqual(text_of(pack("<f", 0.1), "FL", ()), "0.1")
        for number in (16777217 / 3, 3.4028234663852886e38, float("inf"), 1.00000012):
            text = text_of(pack("<f", number), "FL", ())
            self.assertEqual(pack("<f", float(text)), pack("<f", number))
        self.assertEqual(text_of(pack("<f", 16777217 / 3), "FL", ()), "5592405.5")
        self.assertEqual(text_of(pack("<f", 1.36441695e-05), "FL", ()), "1.36441695e-05")
        self.assertEqual(text_of(pack("<d", 0.1), "FD", ()), "0.1")
        self.assertEqual(text_of(pack("<2H", 0x0018, 0x1063), "AT", ()), "00181063")
        self.assertEqual(text_of(b"123", "US", ()), "")
        self.assertEqual(text_of(b"+012 ", "IS", ()), "12")

    def test_bulk(self) -> None:
        """Bulk data is no text."""
        self.assertEqual(text_of(b"abcd", "OB", ()), "")

    def test_character_set(self) -> None:
        """Text is decoded as its Specific Character Set says; identifiers are ASCII whatever it says."""
        found = {
            0x00080005: b"ISO_IR 100",
            0x00100010: "M\u00fcller^J\u00fcrgen".encode("latin-1"),
            0x00080060: b"CT",
        }
        self.assertEqual(record(found).values["PatientName"], "M\u00fcller^J\u00fcrgen")

    def test_rubbish(self) -> None:
        """Whatever the values are, there is a record."""
        for value in (b"", b"\xff", b"\x1b$", bytes(range(256)), b"\xfe\xff\x00\xe0\xff\xff\xff\xff"):
            for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED):
                made = record(dict.fromkeys(EXTENDED.tags, value), syntax, EXTENDED)
                for text in made.values.values():
                    self.assertNotIn("\0", text)
                    text.encode("utf-8")

    def test_fields(self) -> None:
        """Values without text are left out, and what the store says of the object is taken as it is."""
        made = record({0x00080016: b"1.2.3\0", 0x00100020: b"  ", 0x00100010: b"Doe"})
        self.assertEqual(
            made, Record("1", "2", "3", "1.2.3", EXPLICIT, 4, {"SOPClassUID": "1.2.3", "PatientName": "Doe"})
        )


def items(syntax: str, *contents: bytes, undefined: bool = False) -> bytes:
    """A sequence's value, with its delimiter where its length is undefined."""
    if not undefined:
        return b"".join(element(ITEM, "", content, syntax) for content in contents)
    delimited = (
        element(ITEM, "", content, syntax, UNDEFINED) + element(ITEM_END, "", b"", syntax)
        for content in contents
    )
    return b"".join(delimited) + element(SEQUENCE_END, "", b"", syntax)


class SequenceTests(SynchronousTestCase):
    def check(self, value: bytes, syntax: str) -> None:
        kept = record({REQUEST_ATTRIBUTES: value}, syntax).values["RequestAttributesSequence"]
        self.assertEqual(
            items_of(kept),
            ({0x00400009: "S1", 0x00400008: ({0x00080100: "C1", 0x00080104: "Code"},)}, {0x00401001: "P2"}),
        )

    def value(self, syntax: str, undefined: bool) -> bytes:
        codes = items(
            syntax,
            element(0x00080100, "SH", b"C1", syntax) + element(0x00080104, "LO", b"Code", syntax),
            undefined=undefined,
        )
        length = UNDEFINED if undefined else None
        first = element(0x00400008, "SQ", codes, syntax, length) + element(0x00400009, "SH", b"S1", syntax)
        return items(syntax, first, element(0x00401001, "SH", b"P2", syntax), undefined=undefined)

    def test_encodings(self) -> None:
        """Items are read in any encoding, of defined and undefined length, with the delimiter and without."""
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            for undefined in (False, True):
                value = self.value(syntax, undefined)
                self.check(value, syntax)
                if undefined:
                    self.check(value.removesuffix(element(SEQUENCE_END, "", b"", syntax)), syntax)
        self.check(self.value(EXPLICIT, undefined=False), DEFLATED)

    def test_implicit_in_explicit(self) -> None:
        """Items with implicit VR are read, where the transfer syntax has explicit VR, too."""
        self.check(self.value(IMPLICIT, undefined=True), EXPLICIT)

    def test_character_sets(self) -> None:
        """An item has a character set of its own, or that of what it is in."""
        name = "M\u00fcller".encode()
        own = element(0x00080005, "CS", b"ISO_IR 192") + element(0x00321032, "PN", name + b" ")
        inherited = element(0x00321032, "PN", "M\u00fcller".encode("latin-1"))
        made = record({0x00080005: b"ISO_IR 100", REQUEST_ATTRIBUTES: items(EXPLICIT, own, inherited)})
        one, other = items_of(made.values["RequestAttributesSequence"])
        self.assertEqual((one[0x00321032], other[0x00321032]), ("M\u00fcller", "M\u00fcller"))

    def test_nothing(self) -> None:
        """A sequence without text in its items is left out, and so is one that is unreadable or too long."""
        long = element(0x00400007, "LO", b"x" * 60_000)
        for value in (
            b"",
            items(EXPLICIT, b""),
            items(EXPLICIT, element(0x00420011, "OB", b"ab")),
            b"\xfe\xff\x00\xe0\x08\0\0\0abcd",
            items(EXPLICIT, long, long),
        ):
            self.assertEqual(record({REQUEST_ATTRIBUTES: value}).values, {})
        self.assertLess(MAXIMUM_SEQUENCE, 120_000)

    def test_unknown_vr(self) -> None:
        """What came as UN is what the dictionary says; what it does not know is left out."""
        item = element(0x00400007, "UN", b"Step") + element(0x00091001, "UN", b"abcd")
        made = record({REQUEST_ATTRIBUTES: items(EXPLICIT, item)})
        self.assertEqual(items_of(made.values["RequestAttributesSequence"]), ({0x00400007: "Step"},))

    def test_nested_without_text(self) -> None:
        """A sequence in an item that has no text in it is left out."""
        nested = element(0x00400008, "SQ", items(EXPLICIT, b"")) + element(0x00400009, "SH", b"S1")
        made = record({REQUEST_ATTRIBUTES: items(EXPLICIT, nested)})
        self.assertEqual(items_of(made.values["RequestAttributesSequence"]), ({0x00400009: "S1"},))

    def test_none(self) -> None:
        """No text is no items."""
        self.assertEqual(items_of(None), ())
