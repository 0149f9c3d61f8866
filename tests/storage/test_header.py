"""The light reader against pydicom, and against data sets made to hurt."""

from __future__ import annotations

import io
import os
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_sequence
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage import header
from dicomtw.storage.header import UnreadableDataSet, find_elements, find_naming_elements, uid_value
from tests.storage import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_LOSSLESS,
    PYDICOM_FILES,
    UNDEFINED,
    behind_file_meta,
    data_set,
    deflate,
    element,
    modest,
    uid,
)

NAMING = frozenset({0x00080016, 0x00080018, 0x0020000D, 0x0020000E})
SYNTAXES = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
WHOLE = 1 << 30

ITEM, ITEM_DELIMITATION, SEQUENCE_DELIMITATION = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

#: The UIDs that `data_set("1.2.3")` has.
NAMES = {
    0x00080016: CT_IMAGE_STORAGE,
    0x00080018: "1.2.3",
    0x0020000D: "1.2.10",
    0x0020000E: "1.2.20",
}


class Bytes:
    """A data set in memory; `reads` has the offset of each read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads: list[int] = []

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append(offset)
        return self.content[offset : offset + length]


def find(content: bytes, syntax: str, head: int = WHOLE) -> dict[int, bytes]:
    """The naming elements of `content`, of which the first `head` bytes are at hand."""
    return find_elements(Bytes(content).read_at, syntax, NAMING, content[:head], len(content))


def find_leniently(
    content: bytes, syntax: str, head: int = WHOLE, wanted: frozenset[int] = NAMING
) -> dict[int, bytes]:
    """As `find`, with writers forgiven that have not heard of the transfer syntax."""
    return find_naming_elements(Bytes(content).read_at, syntax, wanted, content[:head], len(content))


def names(content: bytes, syntax: str, head: int = WHOLE) -> dict[int, str]:
    return {tag: uid_value(value) for tag, value in find(content, syntax, head).items()}


def nested(depth: int, syntax: str, vr: str = "SQ", inside: bytes = b"") -> bytes:
    """A sequence in a sequence in a sequence, all of undefined length."""
    inner = IMPLICIT if vr == "UN" else syntax
    begin = element(ITEM, "", b"", inner, UNDEFINED)
    end = element(ITEM_DELIMITATION, "", b"", inner) + element(SEQUENCE_DELIMITATION, "", b"", inner)
    outermost = element(0x00081140, vr, b"", syntax, UNDEFINED)
    sequence = element(0x00081140, "SQ", b"", inner, UNDEFINED)
    return outermost + begin + (sequence + begin) * (depth - 1) + inside + end * depth


class OracleTests(SynchronousTestCase):
    def test_files(self) -> None:
        """Of each of pydicom's test files the same UIDs are found as pydicom finds, from any head."""
        strange = {
            "SC_rgb_jpeg.dcm",  # implicit VR under a transfer syntax with explicit VR
            "no_meta.dcm",  # begins with a byte too many
        }
        found = 0
        for path in self.files():
            content = path.read_bytes()
            content = content[behind_file_meta(content) :]
            expected, syntax = self.oracle(path)
            for head in (1 << 16, 10, 0):
                if path.name in strange:
                    self.assertRaises(UnreadableDataSet, find, content, syntax, head)
                else:
                    self.assertEqual(names(content, syntax, head), expected, path.name)
                    found += len(expected)
                if path.name == "no_meta.dcm":
                    self.assertRaises(UnreadableDataSet, find_leniently, content, syntax, head)
                else:
                    lenient = find_leniently(content, syntax, head)
                    self.assertEqual(
                        {tag: uid_value(value) for tag, value in lenient.items()}, expected, path.name
                    )
        self.assertGreater(found, 3 * 4 * 100)

    def test_every_element(self) -> None:
        """Of each of pydicom's test files every element wanted is found as pydicom has it, in one scan."""
        found = sequences = 0
        longer = []
        for path in self.files():
            content = path.read_bytes()
            content = content[behind_file_meta(content) :]
            if path.name == "no_meta.dcm":
                continue  # begins with a byte too many
            _, syntax = self.oracle(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read = pydicom.dcmread(path, force=True)
            wanted = frozenset(tag for tag in map(int, read.keys()) if tag < 0x7FE00000)
            values = find_leniently(content, syntax, 1 << 16, wanted)
            self.assertEqual(find_leniently(content, syntax, 0, wanted), values)
            for tag in wanted:
                element, value = read.get_item(tag), values.get(tag)
                if value is None:
                    longer.append((path.name, f"{tag:08X}"))
                elif isinstance(element, RawDataElement):
                    self.assertEqual(value, element.value or b"", f"{path.name} {tag:08X}")
                    found += 1
                elif element.VR == "SQ":
                    encoding = (*read.original_encoding, len(value), "iso8859")
                    self.assertEqual(read_sequence(io.BytesIO(value), *encoding), element.value, path.name)
                    sequences += 1
                elif element.is_empty:
                    self.assertEqual(value, b"")
        self.assertGreater(found, 7000)
        self.assertGreater(sequences, 40)
        self.assertEqual(
            longer,
            [
                ("examples_overlay.dcm", "60003000"),
                ("examples_ybr_color.dcm", "00191050"),
                ("rtplan_truncated.dcm", "300A00B0"),  # where it is cut off
                ("waveform_ecg.dcm", "54000100"),
            ],
        )

    def files(self) -> list[Path]:
        return sorted(
            path
            for path in PYDICOM_FILES.rglob("*")
            if path.is_file() and (path.suffix == ".dcm" or path.read_bytes()[128:132] == b"DICM")
        )

    def oracle(self, path: Path) -> tuple[dict[int, str], str]:
        """What pydicom reads, and the transfer syntax that it reads it with."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            syntax = getattr(read, "file_meta", {}).get("TransferSyntaxUID")
            if syntax is None:
                implicit, little = read.original_encoding
                syntax = IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
            return {tag: str(read[tag].value or "") for tag in NAMING if tag in read}, str(syntax)


class FindTests(SynchronousTestCase):
    def test_transfer_syntaxes(self) -> None:
        """Implicit, explicit, big endian and deflated data sets are read, wherever the head ends."""
        for syntax in SYNTAXES:
            content = data_set("1.2.3", syntax=syntax)
            for head in range(len(content) + 1):
                self.assertEqual(names(content, syntax, head), NAMES)

    def test_compressed_pixel_data(self) -> None:
        """All other transfer syntaxes are explicit little endian as to what comes before the pixel data."""
        content = data_set("1.2.3")
        for syntax in ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5", "1.2.3.4"):
            self.assertEqual(names(content, syntax), NAMES)

    def test_missing(self) -> None:
        """What the data set does not have is not found, and an empty value is found empty."""
        for syntax in SYNTAXES:
            content = data_set("1.2.3", study=None, series="", syntax=syntax)
            self.assertEqual(
                names(content, syntax), {0x00080016: CT_IMAGE_STORAGE, 0x00080018: "1.2.3", 0x0020000E: ""}
            )
        self.assertEqual(find(b"", EXPLICIT), {})
        self.assertEqual(find(b"", IMPLICIT, 0), {})

    def test_only_top_level(self) -> None:
        """Elements inside sequences, of whatever length, are not taken for the data set's own."""
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            inside = data_set("9.9.9", study="9.9.10", series="9.9.20", syntax=syntax)
            item = element(ITEM, "", inside, syntax)
            open_item = element(ITEM, "", inside, syntax, UNDEFINED) + element(
                ITEM_DELIMITATION, "", b"", syntax
            )
            end = element(SEQUENCE_DELIMITATION, "", b"", syntax)
            tag = 0x00081140
            sequences = {
                "defined": element(tag, "SQ", item * 2, syntax),
                "open items": element(tag, "SQ", open_item * 2, syntax),
                "open": element(tag, "SQ", item * 2 + end, syntax, UNDEFINED),
                "all open": element(tag, "SQ", (open_item + item) * 2 + end, syntax, UNDEFINED),
                "empty": element(tag, "SQ", b"", syntax),
                "open and empty": element(tag, "SQ", end, syntax, UNDEFINED),
                "an empty item": element(
                    tag,
                    "SQ",
                    element(ITEM, "", b"", syntax) + end,
                    syntax,
                    UNDEFINED,
                ),
            }
            for what, sequence in sequences.items():
                content = data_set("1.2.3", syntax=syntax, middle=sequence)
                for head in (WHOLE, 0, 30):
                    self.assertEqual(names(content, syntax, head), NAMES, f"{syntax} {what}")

    def test_unknown_vr_of_undefined_length(self) -> None:
        """UN of undefined length is a sequence in Implicit VR Little Endian (PS3.5 6.2.2)."""
        inside = data_set("9.9.9", syntax=IMPLICIT)
        content = data_set("1.2.3", middle=nested(3, EXPLICIT, "UN", inside))
        self.assertEqual(names(content, EXPLICIT), NAMES)
        # and, inside an explicit sequence, back to explicit VR behind it
        item = element(ITEM, "", nested(1, EXPLICIT, "UN", inside) + uid(0x00090001, "9.9"), length=UNDEFINED)
        item += element(ITEM_DELIMITATION, "") + element(SEQUENCE_DELIMITATION, "")
        content = data_set("1.2.3", middle=element(0x00081115, "SQ", item, length=UNDEFINED))
        self.assertEqual(names(content, EXPLICIT), NAMES)

    def test_unknown_vr_in_big_endian(self) -> None:
        """UN of undefined length is little endian in a big endian data set, which goes on behind it."""
        inside = data_set("9.9.9", syntax=IMPLICIT)
        unknown = nested(3, BIG_ENDIAN, "UN", inside)
        in_sequence = nested(2, BIG_ENDIAN, inside=unknown + uid(0x00091111, "9.9", BIG_ENDIAN))
        for middle in (unknown, in_sequence):
            content = data_set("1.2.3", syntax=BIG_ENDIAN, middle=middle)
            for head in (WHOLE, 30, 0):
                self.assertEqual(names(content, BIG_ENDIAN, head), NAMES)
        wrong = element(0x00081140, "UN", b"", BIG_ENDIAN, UNDEFINED) + element(ITEM, "", b"", BIG_ENDIAN)
        error = self.assertRaises(UnreadableDataSet, names, wrong, BIG_ENDIAN)
        self.assertIn("(FEFF,00E0) where an item is due", str(error))

    def test_unknown_vr_in_big_endian_handed_out(self) -> None:
        """Where it is wanted its items are handed out as they are, without the delimiter."""
        unknown = nested(1, BIG_ENDIAN, "UN", uid(0x00080018, "9.9.9", IMPLICIT))
        content = data_set("1.2.3", syntax=BIG_ENDIAN, middle=unknown)
        found = find_leniently(content, BIG_ENDIAN, wanted=NAMING | {0x00081140})
        self.assertEqual(found[0x00081140], unknown[12:-8])

    def test_encapsulated_pixel_data_inside(self) -> None:
        """Fragments of an icon's pixel data, an OB of undefined length in an item, are passed over."""
        fragments = element(ITEM, "") + element(ITEM, "", b"jpeg") + element(SEQUENCE_DELIMITATION, "")
        icon = element(0x7FE00010, "OB", fragments, length=UNDEFINED)
        item = element(ITEM, "", icon, length=UNDEFINED) + element(ITEM_DELIMITATION, "")
        middle = element(0x00091110, "SQ", item + element(SEQUENCE_DELIMITATION, ""), length=UNDEFINED)
        self.assertEqual(names(data_set("1.2.3", middle=middle), EXPLICIT), NAMES)

    def test_reads_no_further(self) -> None:
        """Nothing is read while the head suffices, and nothing behind the last element wanted."""
        content = data_set("1.2.3", bytes(1 << 20))
        for syntax in (EXPLICIT, IMPLICIT, BIG_ENDIAN):
            source = Bytes(data_set("1.2.3", bytes(1 << 20), syntax=syntax))
            find_elements(source.read_at, syntax, NAMING, source.content[:200], len(source.content))
            self.assertEqual(source.reads, [])
        source = Bytes(data_set("1.2.3", bytes(1 << 20), series=None))
        find_elements(source.read_at, EXPLICIT, NAMING, b"", len(source.content))
        self.assertLess(len(source.reads), 3)
        self.assertLess(max(source.reads), len(content) - (1 << 20))

    def test_large_values_are_not_read(self) -> None:
        """A large value in the way is passed over unread."""
        middle = element(0x00091010, "OB", bytes(1 << 20))
        source = Bytes(data_set("1.2.3", middle=middle))
        found = find_elements(source.read_at, EXPLICIT, NAMING, b"", len(source.content))
        self.assertEqual(len(found), 4)
        self.assertLess(len(source.reads), 4)

    def test_longest_value(self) -> None:
        """A value of more than 16 KiB is not handed out, and the next one is, wherever the head ends."""
        for syntax in SYNTAXES:
            for length, there in ((1 << 14, True), ((1 << 14) + 2, False)):
                content = data_set("1" * length, syntax=syntax)
                for head in (WHOLE, 10_000, 100, 10, 0):
                    found = find(content, syntax, head)
                    self.assertEqual(found.get(0x00080018), b"1" * length if there else None)
                    self.assertEqual(uid_value(found[0x0020000E]), "1.2.20")

    def test_uid_value(self) -> None:
        """A UID is without its padding, trailing NULs or spaces, and empty where there is none."""
        cases = {None: "", b"": "", b"1.2\0": "1.2", b"1.2 ": "1.2", b"1.2\0\0": "1.2", b"\xff/..": "\xff/.."}
        for value, text in cases.items():
            self.assertEqual(uid_value(value), text)


class BesidesTests(SynchronousTestCase):
    """What is asked for besides the elements that name the object."""

    NUMBER, SERIES_NUMBER, ROWS, REQUESTS = 0x00200013, 0x00200011, 0x00280010, 0x00400275
    WANTED = frozenset({NUMBER, SERIES_NUMBER, ROWS, REQUESTS})

    def encoded(self, behind: bytes, syntax: str = EXPLICIT) -> bytes:
        """A data set whose naming elements come first; `behind` stands between them and the pixel data."""
        names = data_set("1.2.3", b"", syntax=syntax)[: -len(element(0x7FE00010, "OW", b"", syntax))]
        return names + behind + element(0x7FE00010, "OW", b"payload.", syntax)

    def elements(self, syntax: str) -> bytes:
        parts = ((self.SERIES_NUMBER, "IS", b"4 "), (self.NUMBER, "IS", b"17"), (self.ROWS, "US", b"\2\0"))
        return b"".join(element(tag, vr, value, syntax) for tag, vr, value in parts)

    def test_one_scan(self) -> None:
        """They come together with those that name it, undecoded, in every transfer syntax, from any head."""
        expected = {self.SERIES_NUMBER: b"4 ", self.NUMBER: b"17", self.ROWS: b"\2\0"}
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            content = self.encoded(self.elements(syntax), syntax)
            for head in (WHOLE, *range(0, len(content), 7)):
                found = find_leniently(content, syntax, head, self.WANTED)
                self.assertEqual({tag: found.pop(tag) for tag in expected}, expected)
                self.assertEqual({tag: uid_value(value) for tag, value in found.items()}, NAMES)
        content = deflate(self.encoded(self.elements(EXPLICIT)))
        self.assertLessEqual(expected.items(), find_leniently(content, DEFLATED, 0, self.WANTED).items())
        source = Bytes(self.encoded(self.elements(EXPLICIT) + element(0x00291010, "OB", bytes(1 << 20))))
        find_naming_elements(source.read_at, EXPLICIT, self.WANTED, b"", len(source.content))
        self.assertLess(len(source.reads), 4)

    def test_implicit_under_another_transfer_syntax(self) -> None:
        """They are found where the data set is in implicit VR whatever the transfer syntax says."""
        content = self.encoded(self.elements(IMPLICIT), IMPLICIT)
        self.assertEqual(find_leniently(content, JPEG_LOSSLESS, WHOLE, self.WANTED)[self.NUMBER], b"17")

    def test_twice(self) -> None:
        """Of an element that comes twice the first counts, whatever else is wanted: names do not change."""
        other = b"".join(uid(tag, "9.9") for tag in sorted(NAMING)) + self.elements(EXPLICIT).replace(
            b"17", b"18"
        )
        for content in (
            self.encoded(self.elements(EXPLICIT) + other),
            self.encoded(self.elements(EXPLICIT)) + other,
        ):
            for head in (WHOLE, 0):
                for wanted in (NAMING, self.WANTED):
                    found = find_leniently(content, EXPLICIT, head, wanted)
                    self.assertEqual({tag: uid_value(found[tag]) for tag in NAMING}, NAMES)
                self.assertEqual(found[self.NUMBER], b"17")

    def test_fault_behind(self) -> None:
        """A fault behind the naming elements costs what comes after it, and nothing else."""
        tiny = element(0x00091000, "LO")
        for fault in (
            element(self.NUMBER, "is", b"17"),
            element(self.NUMBER, "IS", b"17", length=40_000),
            element(self.NUMBER, "UN", b"17", length=0xFFFFFFFE),
            element(0x00201200, "UN", b"17", length=400),
            element(ITEM, ""),
            element(0x00020010, "UI", b"1.2."),
            element(0x00210010, "SQ", length=UNDEFINED),
            element(0x00210010, "SQ", element(self.ROWS, "US", b"\2\0"), length=UNDEFINED),
            nested(65, EXPLICIT),
            tiny * (1 << 14),
        ):
            before = element(self.SERIES_NUMBER, "IS", b"4 ")
            content = self.encoded(before + fault + element(self.ROWS, "US", b"\2\0"))
            for head in (WHOLE, 50, 0):
                found = find_leniently(content, EXPLICIT, head, self.WANTED)
                self.assertEqual(found.pop(self.SERIES_NUMBER), b"4 ")
                self.assertNotIn(self.ROWS, found)
                found.pop(self.NUMBER, None)
                self.assertEqual({tag: uid_value(value) for tag, value in found.items()}, NAMES)

    def test_cut_off(self) -> None:
        """A data set cut off is a fault as far as its naming elements go, with whatever else is wanted."""
        whole = self.encoded(self.elements(EXPLICIT))
        named = whole.index(b"1.2.20") + 6
        for cut in range(len(whole)):
            for head in (WHOLE, 0):
                try:
                    names = set(find_leniently(whole[:cut], EXPLICIT, head))
                except UnreadableDataSet:
                    names = set()
                    self.assertRaises(
                        UnreadableDataSet, find_leniently, whole[:cut], EXPLICIT, head, self.WANTED
                    )
                else:
                    found = find_leniently(whole[:cut], EXPLICIT, head, self.WANTED)
                    self.assertEqual(set(found) & NAMING, names)
                    self.assertTrue(cut >= named or not set(found) & self.WANTED)
        self.assertEqual(
            set(find_leniently(whole[:-4], EXPLICIT, WHOLE, self.WANTED)) - NAMING,
            self.WANTED - {self.REQUESTS},
        )

    def test_fault_behind_missing_names(self) -> None:
        """Where a naming element is missing, a fault counts as far as the first sound element behind it."""
        bad = element(0x00281000, "xx")
        for between, readable in ((b"", False), (element(self.NUMBER, "IS", b"17"), True)):
            content = data_set("1.2.3", series=None)[: -len(element(0x7FE00010, "OW", b"payload."))]
            content += between + bad
            if readable:
                self.assertEqual(find_leniently(content, EXPLICIT, WHOLE, self.WANTED)[self.NUMBER], b"17")
            else:
                self.assertRaises(UnreadableDataSet, find_leniently, content, EXPLICIT, WHOLE, self.WANTED)

    def test_sequences(self) -> None:
        """Of a sequence all its items come, as they are encoded, whether its length is defined or not."""
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            inside = element(0x00400007, "LO", b"step", syntax) + nested(2, syntax)
            item = element(ITEM, "", inside, syntax)
            open_item = element(ITEM, "", inside, syntax, UNDEFINED) + element(
                ITEM_DELIMITATION, "", b"", syntax
            )
            end = element(SEQUENCE_DELIMITATION, "", b"", syntax)
            for items in (item, item + open_item, open_item, b""):
                for sequence in (
                    element(self.REQUESTS, "SQ", items, syntax),
                    element(self.REQUESTS, "SQ", items + end, syntax, UNDEFINED),
                ):
                    content = self.encoded(sequence, syntax)
                    for head in (WHOLE, content.index(sequence) + 20, 0):
                        found = find_leniently(content, syntax, head, self.WANTED)
                        self.assertEqual(found[self.REQUESTS], items)

    def test_sequence_of_unknown_vr(self) -> None:
        """A sequence that came as UN of undefined length is its items, in Implicit VR Little Endian."""
        item = element(ITEM, "", element(0x00400007, "LO", b"step", IMPLICIT))
        end = element(SEQUENCE_DELIMITATION, "")
        content = self.encoded(element(self.REQUESTS, "UN", item + end, length=UNDEFINED))
        self.assertEqual(find_leniently(content, EXPLICIT, WHOLE, self.WANTED)[self.REQUESTS], item)

    def test_longest_sequence(self) -> None:
        """A sequence of more than 16 KiB with all its items counts as absent; the next element does not."""
        beside = element(0x00401001, "SH", b"ID")
        wanted = self.WANTED | {0x00401001}
        for syntax in (EXPLICIT, DEFLATED):
            for length, there in ((1 << 14, True), ((1 << 14) + 2, False)):
                item = element(ITEM, "", element(0x00400007, "UT", b"x" * (length - 20)))
                end = element(SEQUENCE_DELIMITATION, "")
                for sequence in (
                    element(self.REQUESTS, "SQ", item),
                    element(self.REQUESTS, "SQ", item + end, length=UNDEFINED),
                ):
                    content = self.encoded(sequence + beside)
                    if syntax == DEFLATED:
                        content = deflate(content)
                    for head in (WHOLE, 200, 0):
                        found = find_leniently(content, syntax, head, wanted)
                        self.assertEqual(found.get(self.REQUESTS), item if there else None)
                        self.assertEqual(found[0x00401001], b"ID")


class DepthTests(SynchronousTestCase):
    def test_64_deep(self) -> None:
        """Sequences nested 64 deep are walked: implicit, explicit, big endian, deflated, and in UN."""
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            content = data_set("1.2.3", syntax=syntax, middle=nested(64, syntax))
            for head in (WHOLE, 0):
                self.assertEqual(names(content, syntax, head), NAMES)
        self.assertEqual(names(data_set("1.2.3", middle=nested(64, EXPLICIT, "UN")), EXPLICIT), NAMES)
        content = data_set("1.2.3", syntax=DEFLATED, middle=nested(64, EXPLICIT))
        self.assertEqual(names(content, DEFLATED), NAMES)

    def test_deeper(self) -> None:
        """Sequences nested deeper are refused as soon as they are too deep, however deep they go on."""
        for syntax, vr in ((IMPLICIT, "SQ"), (EXPLICIT, "SQ"), (BIG_ENDIAN, "SQ"), (EXPLICIT, "UN")):
            for depth in (65, 2000, 100_000):
                source = Bytes(data_set("1.2.3", syntax=syntax, middle=nested(depth, syntax, vr)))
                error = self.assertRaises(
                    UnreadableDataSet,
                    find_elements,
                    source.read_at,
                    syntax,
                    NAMING,
                    b"",
                    len(source.content),
                )
                self.assertIn("nested more than 64 deep", str(error))
                self.assertLess(len(source.reads), 3)
        for depth in (65, 2000, 100_000):
            content = data_set("1.2.3", syntax=DEFLATED, middle=nested(depth, EXPLICIT))
            self.assertRaises(UnreadableDataSet, find, content, DEFLATED)

    def test_defined_lengths(self) -> None:
        """Sequences of defined length are passed over without a look inside, however deep they are."""
        inside = b""
        for _ in range(2000):
            inside = element(0x00081140, "SQ", element(ITEM, "", inside))
        self.assertEqual(names(data_set("1.2.3", middle=inside), EXPLICIT), NAMES)


class BoundTests(SynchronousTestCase):
    def test_too_many_elements(self) -> None:
        """The walk ends after 16384 elements, at the top level and in a sequence: time is bounded."""
        self.assertEqual(header.MAXIMUM_ELEMENTS, 1 << 14)
        tiny = element(0x00091000, "LO")
        open_item = element(ITEM, "", tiny * (1 << 14), length=UNDEFINED)
        for content in (
            tiny * (1 << 14) + data_set("1.2.3"),
            data_set("1.2.3", middle=element(0x00091001, "SQ", open_item, length=UNDEFINED)),
        ):
            error = self.assertRaises(UnreadableDataSet, find, content, EXPLICIT)
            self.assertEqual(str(error), "more than 16384 elements before what was looked for")

    def test_as_many_elements_as_may_be(self) -> None:
        """The four UIDs are found if they are the last of 16384 elements, and not behind one more."""
        tiny = element(0x00091000, "LO")
        for syntax in (EXPLICIT, DEFLATED):
            content = data_set("1.2.3", syntax=syntax, middle=tiny * ((1 << 14) - 4))
            self.assertEqual(names(content, syntax), NAMES)
            content = data_set("1.2.3", syntax=syntax, middle=tiny * ((1 << 14) - 3))
            self.assertRaises(UnreadableDataSet, find, content, syntax)

    def test_bound_is_exact(self) -> None:
        """As many elements as the bound says are walked, and not one more."""
        self.patch(header, "MAXIMUM_ELEMENTS", 40)
        for count, readable in ((36, True), (37, False)):
            content = data_set("1.2.3", middle=element(0x00091000, "LO") * count)
            if readable:
                self.assertEqual(names(content, EXPLICIT), NAMES)
            else:
                self.assertRaises(UnreadableDataSet, find, content, EXPLICIT)

    def test_deflate_bomb(self) -> None:
        """A deflated data set that swells to 400 MB costs less than 16 MB before it is refused."""
        self.assertEqual(header.MAXIMUM_INFLATED, 4 << 20)
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        start = uid(0x00080016, CT_IMAGE_STORAGE) + element(0x00091010, "OB", length=400 << 20)
        bomb = compressor.compress(start) + compressor.flush(zlib.Z_FULL_FLUSH)
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        megabyte = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
        bomb += megabyte * 400
        self.assertLess(len(bomb), 1 << 20)
        for head in (1 << 16, 0):
            tracemalloc.start()
            try:
                error = self.assertRaises(UnreadableDataSet, find, bomb, DEFLATED, head)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            self.assertIn("4194304 inflated bytes", str(error))
            self.assertLess(peak, 16 << 20)

    def test_names_within_the_inflated(self) -> None:
        """Of a deflated data set the names are found if they stand within the first 4 MiB, inflated."""
        for size, there in ((3 << 20, True), (5 << 20, False)):
            content = data_set("1.2.3", syntax=DEFLATED, middle=element(0x00091010, "OB", bytes(size)))
            for head in (WHOLE, 0):
                if there:
                    self.assertEqual(names(content, DEFLATED, head), NAMES)
                else:
                    error = self.assertRaises(UnreadableDataSet, find, content, DEFLATED, head)
                    self.assertEqual(str(error), "no header within 4194304 inflated bytes")

    def test_inflated_no_further_than_needed(self) -> None:
        """Of a large deflated data set no more is inflated than its header takes."""
        source = Bytes(data_set("1.2.3", os.urandom(1 << 20), syntax=DEFLATED))
        found = find_elements(source.read_at, DEFLATED, NAMING, b"", len(source.content))
        self.assertEqual(len(found), 4)
        self.assertLess(len(source.reads), 3)

    def test_inflated_to_the_last_byte(self) -> None:
        """A deflated data set that ends with an element wanted is read to its last byte."""
        # The last value repeats the one before, so that one symbol of the stream inflates to all of it: the
        # inflater has taken in the whole stream while some of what that symbol stands for is still to come.
        for size in (58, 60, 62, 64):
            long = "1.2.826.0.1.3680043.8.498.123456789012345678901234567890123456"[:size].ljust(size, "7")
            names = uid(0x0020000D, long) + uid(0x0020000E, long)
            for length in range(16384 - 310, 16384 - 190, 2):
                middle = element(0x00189999, "UT", b"x" * length)
                content = uid(0x00080016, long) + uid(0x00080018, long) + middle + names
                try:
                    found = find(deflate(content), DEFLATED)
                except UnreadableDataSet as error:
                    self.fail(f"a good data set of {len(content)} bytes: {error}")
                self.assertEqual(len(found), 4)


class LenientTests(SynchronousTestCase):
    def test_implicit_under_another_transfer_syntax(self) -> None:
        """A data set in implicit VR is read under any transfer syntax and from any head, but a deflated one:
        who would inflate it?
        """
        content = data_set("1.2.3", syntax=IMPLICIT)
        self.assertRaises(UnreadableDataSet, find_leniently, content, DEFLATED, WHOLE)
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN, JPEG_LOSSLESS):
            for head in (WHOLE, 100, 10, 0):
                found = find_leniently(content, syntax, head)
                self.assertEqual({tag: uid_value(value) for tag, value in found.items()}, NAMES, syntax)

    def test_as_declared(self) -> None:
        """What can be read by its transfer syntax is, once, without a second look."""
        for syntax in (*SYNTAXES, JPEG_LOSSLESS):
            content = data_set("1.2.3", syntax=syntax)
            one, other = Bytes(content), Bytes(content)
            found = find_naming_elements(one.read_at, syntax, NAMING, b"", len(content))
            self.assertEqual(found, find_elements(other.read_at, syntax, NAMING, b"", len(content)))
            self.assertEqual(one.reads, other.reads)

    def test_explicit_under_implicit(self) -> None:
        """Nothing else is forgiven: explicit VR under implicit, or big endian under little, is a fault."""
        for content, syntax in (
            (data_set("1.2.3"), IMPLICIT),
            (data_set("1.2.3"), DEFLATED),
            (data_set("1.2.3"), BIG_ENDIAN),
            (data_set("1.2.3", syntax=BIG_ENDIAN), EXPLICIT),
            (data_set("1.2.3", syntax=DEFLATED), EXPLICIT),
        ):
            self.assertRaises(UnreadableDataSet, find_leniently, content, syntax)

    def test_words(self) -> None:
        """Where neither helps, what is wrong by the transfer syntax is told, and nothing of the other try."""
        for content, syntax in (
            (data_set("1.2.3")[:20], EXPLICIT),
            (data_set("1.2.3")[:20], IMPLICIT),
            (element(0x00080016, "ui", b"1.2."), EXPLICIT),
        ):
            strict = self.assertRaises(UnreadableDataSet, find, content, syntax)
            lenient = self.assertRaises(UnreadableDataSet, find_leniently, content, syntax)
            self.assertEqual(str(lenient), str(strict))
            self.assertIsNone(lenient.__cause__)

    def test_garbage(self) -> None:
        """What is no data set by its transfer syntax is none in implicit VR if nothing is found in it."""
        for content, syntax in (
            (b"\xff" * 100, EXPLICIT),
            (b"\xff" * 100, DEFLATED),
            (b"GET / HTTP/1.1\r\n\r\n", EXPLICIT),
        ):
            self.assertRaises(UnreadableDataSet, find_leniently, content, syntax)

    def test_second_look_without_the_object(self) -> None:
        """The second look counts only where it finds the SOP Instance UID; the others alone are chance."""
        for syntax in (EXPLICIT, JPEG_LOSSLESS, BIG_ENDIAN, DEFLATED):
            content = data_set(None, syntax=IMPLICIT)
            self.assertEqual(len(find(content, IMPLICIT)), 3)
            strict = self.assertRaises(UnreadableDataSet, find, content, syntax)
            lenient = self.assertRaises(UnreadableDataSet, find_leniently, content, syntax)
            self.assertEqual(str(lenient), str(strict))
        alone = data_set("1.2.3", syntax=IMPLICIT, study=None, series=None, sop_class_uid=None)
        self.assertEqual(set(find_leniently(alone, EXPLICIT)), {0x00080018})
        nothing = find_leniently(data_set(None), EXPLICIT)  # as declared, it need not have one
        self.assertEqual(set(nothing), {0x00080016, 0x0020000D, 0x0020000E})

    def test_bounds(self) -> None:
        """The second look has the bounds of the first."""
        tiny = element(0x00091000, "LO", syntax=IMPLICIT)
        many = data_set("1.2.3", syntax=IMPLICIT, middle=tiny * (1 << 14))
        deep = data_set("1.2.3", syntax=IMPLICIT, middle=nested(65, IMPLICIT))
        for content in (many, deep):
            error = self.assertRaises(UnreadableDataSet, find_leniently, content, EXPLICIT)
            self.assertIn("is no VR", str(error))

    def test_other_exceptions_pass(self) -> None:
        """What the reader of the bytes raises is not taken for a fault of the data set."""

        def read_at(offset: int, length: int) -> bytes:
            raise InterruptedError

        for head in (b"", data_set("1.2.3", syntax=IMPLICIT)[:10]):
            for syntax in (EXPLICIT, IMPLICIT):
                self.assertRaises(InterruptedError, find_naming_elements, read_at, syntax, NAMING, head, 1000)


class FaultTests(SynchronousTestCase):
    def assertUnreadable(self, content: bytes, syntax: str, words: str) -> None:
        for head in (WHOLE, 10, 0):
            error = self.assertRaises(UnreadableDataSet, find, content, syntax, head)
            self.assertIn(words, str(error))

    def test_value_past_the_end(self) -> None:
        """A value longer than the data set is a fault, whether it is wanted or in the way or behind."""
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            wanted = element(0x00080018, "UI", b"1.2.", syntax, 400)
            in_the_way = element(0x00081110, "UN", b"1.2.", syntax, 0xFFFFFFFE)
            behind = data_set("1.2.3", series=None, syntax=syntax)[:-3]
            for content, words in (
                (wanted, "(0008,0018) is 400 bytes long and the data set ends before"),
                (in_the_way, "(0008,1110) is 4294967294 bytes long and the data set ends before"),
                (behind, "(7FE0,0010) is 8 bytes long and the data set ends before"),
            ):
                self.assertUnreadable(content, syntax, words)
        deflated = deflate(element(0x00080018, "UI", b"1.2.", length=400))
        self.assertUnreadable(deflated, DEFLATED, "a value of 400 bytes at offset 8 is cut off")

    def test_cut_off(self) -> None:
        """A data set cut off before the last element wanted is a fault, unless it ends with an element."""
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            middle = nested(2, syntax, inside=uid(0x00091000, "9.9", syntax))
            content = data_set("1.2.3", syntax=syntax, middle=middle)
            first = len(uid(0x00080016, CT_IMAGE_STORAGE, syntax))
            second = first + len(uid(0x00080018, "1.2.3", syntax))
            ends = {0: 0, first: 1, second: 2, second + len(middle): 2}
            ends[second + len(middle) + len(uid(0x0020000D, "1.2.10", syntax))] = 3
            whole = content.index(b"1.2.20") + 6
            for cut in range(whole):
                if cut in ends:
                    self.assertEqual(len(find(content[:cut], syntax)), ends[cut])
                else:
                    for head in (WHOLE, 10, 0):
                        self.assertRaises(UnreadableDataSet, find, content[:cut], syntax, head)
            self.assertEqual(len(find(content[:whole], syntax)), 4)

    def test_faults(self) -> None:
        """What is no data set is told in words."""
        open_sequence = element(0x00081140, "SQ", length=UNDEFINED)
        open_item = element(ITEM, "", length=UNDEFINED)
        cases: list[tuple[bytes, str, str]] = [
            (element(0x00080016, "ui", b"1.2."), EXPLICIT, "b'ui' at offset 4 is no VR"),
            (element(0x00080016, "U1", b"1.2."), EXPLICIT, "is no VR"),
            (element(0x00080016, "\0\0", b"1.2."), EXPLICIT, "is no VR"),
            (data_set("1.2.3", syntax=IMPLICIT), EXPLICIT, "is no VR"),
            (data_set("1.2.3"), BIG_ENDIAN, "the data set ends before"),
            (element(0x00020010, "UI", b"1.2."), EXPLICIT, "(0002,0010) at the top level"),
            (element(0x00000110, "US", b"\0\0", IMPLICIT), IMPLICIT, "(0000,0110) at the top level"),
            (element(ITEM, ""), EXPLICIT, "(FFFE,E000) at the top level"),
            (element(ITEM_DELIMITATION, ""), IMPLICIT, "(FFFE,E00D) at the top level"),
            (open_sequence + element(0x00080016, "UI"), EXPLICIT, "(0008,0016) where an item is due"),
            (open_sequence + element(ITEM_DELIMITATION, ""), EXPLICIT, "(FFFE,E00D) where an item is due"),
            (open_sequence, EXPLICIT, "ends inside an element"),
            (open_sequence + open_item, EXPLICIT, "ends inside an element"),
            (open_sequence + element(ITEM, "", length=400), EXPLICIT, "ends inside an element"),
            (b"\x08\0\x40\x11SQ\0\0", EXPLICIT, "ends inside an element"),
            (b"\x08\0", IMPLICIT, "ends inside an element"),
            (b"\xff" * 100, DEFLATED, "does not inflate"),
            (deflate(data_set("1.2.3"))[:40], DEFLATED, ""),
        ]
        for content, syntax, words in cases:
            self.assertUnreadable(content, syntax, words)

    @modest
    @given(st.sampled_from(SYNTAXES), st.binary(max_size=300), st.sampled_from([0, 10, WHOLE]))
    def test_garbage(self, syntax: str, content: bytes, head: int) -> None:
        """Any bytes at all are a data set or an UnreadableDataSet."""
        self.check(content, syntax, head)

    def test_fault_behind_what_is_out_of_order(self) -> None:
        """A fault behind an element that stands behind the names costs none, though one before it follows."""
        names = uid(0x00080016, CT_IMAGE_STORAGE) + uid(0x00080018, "1.2.3")
        content = names + element(0x00200018, "UI", b"1.") + element(0x00081140, "SQ", length=UNDEFINED)
        wanted = NAMING | {0x00281010}
        self.assertEqual(len(find_leniently(content, EXPLICIT, 0, wanted)), 2)
        self.assertEqual(len(find_leniently(content, EXPLICIT, WHOLE, wanted)), 2)

    @modest
    @given(st.data(), st.sampled_from(SYNTAXES), st.sampled_from([0, 10, WHOLE]))
    def test_spoilt(self, data: st.DataObject, syntax: str, head: int) -> None:
        """A data set with any few bytes changed is a data set or an UnreadableDataSet."""
        inner = EXPLICIT if syntax == DEFLATED else syntax
        middle = nested(3, inner, inside=uid(0x00091000, "9.9", inner))
        content = bytearray(data_set("1.2.3", syntax=syntax, middle=middle))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
                st.sampled_from([0x00, 0xFF, 0xFE, 0xE0, 0x08, 0x20, 0x41, 0x53])
            )
        self.check(bytes(content), syntax, head)

    @modest
    @given(
        st.lists(
            st.builds(
                element,
                st.sampled_from([0x00080016, 0x00080018, 0x00091010, 0x0020000D, ITEM, ITEM_DELIMITATION])
                | st.just(SEQUENCE_DELIMITATION),
                st.sampled_from(["UI", "SQ", "UN", "OB"]),
                st.binary(max_size=6),
                st.sampled_from([IMPLICIT, EXPLICIT]),
                st.sampled_from([None, None, 0, 2, UNDEFINED]),
            ),
            max_size=20,
        ),
        st.booleans(),
        st.sampled_from([IMPLICIT, EXPLICIT]),
    )
    def test_likely_garbage(self, elements: list[bytes], deflated: bool, syntax: str) -> None:
        """Elements, items and delimiters in any order are a data set or an UnreadableDataSet."""
        content = b"".join(elements)
        if deflated:
            content, syntax = deflate(content), DEFLATED
        self.check(content, syntax, WHOLE)

    def check(self, content: bytes, syntax: str, head: int) -> None:
        results = []
        finders: list[Callable[[], dict[int, bytes]]] = [
            lambda: find(content, syntax, head),
            lambda: find(content, syntax, 0),
            lambda: find_leniently(content, syntax, head),
            lambda: find_leniently(content, syntax, head, NAMING | {0x00091000, 0x00091010, 0x00281010}),
            lambda: find_leniently(content, syntax, 0, NAMING | {0x00091000, 0x00091010, 0x00281010}),
        ]
        for finder in finders:
            try:
                results.append(finder())
            except UnreadableDataSet:
                results.append({})
        self.assertEqual(results[0], results[1])
        self.assertLessEqual(set(results[0]), NAMING)
        self.assertEqual(results[3], results[4])
        # Whatever is wanted besides, the names are the same, or more where elements are in no order.
        self.assertLessEqual(results[2].items(), results[3].items())
