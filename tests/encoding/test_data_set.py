"""Data sets in memory against pydicom, against each other, and against bytes made to hurt."""

from __future__ import annotations

import zlib
from io import BytesIO
from struct import pack
from time import process_time
from typing import Any

import pydicom
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.encoding import data_set
from dicomtw.encoding.data_set import Element, decode, encode
from dicomtw.encoding.dictionary import by_keyword
from dicomtw.errors import UnreadableDataSet
from tests.storage import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_LOSSLESS,
    PYDICOM_FILES,
    UNDEFINED,
    behind_file_meta,
    deflate,
    element,
    modest,
)

SYNTAXES = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
ITEM, ITEM_DELIMITATION, SEQUENCE_DELIMITATION = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
REFERENCED_SOP_SEQUENCE, SOP_INSTANCE = 0x00081199, 0x00081155
NAME, ROWS = 0x00100010, 0x00280010

WORDS = dict.fromkeys(("AT", "OW", "SS", "US"), 2) | dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4)
WORDS |= dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8)
TEXT = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT")
OTHER = ("OB", "UI", "UN")


def elements_of(*elements: Element) -> dict[int, Element]:
    return {each.tag: each for each in elements}


def item(content: bytes, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """An item; one of undefined length with its delimiter."""
    end = element(ITEM_DELIMITATION, "", b"", syntax) if length == UNDEFINED else b""
    return element(ITEM, "", content, syntax, length) + end


def sequence(
    *items: bytes, syntax: str = EXPLICIT, length: int | None = None, tag: int = REFERENCED_SOP_SEQUENCE
) -> bytes:
    """A sequence; one of undefined length with its delimiter."""
    end = element(SEQUENCE_DELIMITATION, "", b"", syntax) if length == UNDEFINED else b""
    return element(tag, "SQ", b"".join(items), syntax, length) + end


def nested(depth: int, syntax: str = EXPLICIT, length: int | None = UNDEFINED) -> bytes:
    """A sequence in a sequence in a sequence."""
    encoded = b""
    if length == UNDEFINED:  # quickly, for depths by the thousand
        begin = element(REFERENCED_SOP_SEQUENCE, "SQ", b"", syntax, UNDEFINED)
        begin += element(ITEM, "", b"", syntax, UNDEFINED)
        end = element(ITEM_DELIMITATION, "", b"", syntax) + element(SEQUENCE_DELIMITATION, "", b"", syntax)
        return begin * depth + end * depth
    for _ in range(depth):
        encoded = sequence(item(encoded, syntax), syntax=syntax)
    return encoded


def from_pydicom(read: Dataset) -> dict[int, Element]:
    """What `decode` should make of a data set that pydicom has read, undecoded, from little endian."""
    found = {}
    for tag in read.keys():  # noqa: SIM118
        each = read.get_item(tag)
        value: bytes | tuple[dict[int, Element], ...]
        if isinstance(each, RawDataElement):
            vr, value = each.VR, each.value or b""
        elif each.VR == "SQ":
            vr, value = each.VR, tuple(from_pydicom(inner) for inner in each.value)
        else:
            vr, value = each.VR, b"" if each.is_empty else pack("<H", each.value)
        if vr is None:
            attribute = pydicom.datadict.DicomDictionary.get(int(tag))
            vr = "UN" if attribute is None else attribute[0].split(" ")[0]
            vr = "LO" if tag.is_private_creator else vr
        if vr == "SQ" and isinstance(value, bytes):
            value = tuple(from_pydicom(inner) for inner in read[tag].value)
        if tag.element:
            found[int(tag)] = Element(int(tag), vr, value)
    return found


def written_by_pydicom(content: Dataset, syntax: str) -> bytes:
    stream = pydicom.filebase.DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = syntax == IMPLICIT, syntax != BIG_ENDIAN
    write_dataset(stream, content)
    return deflate(stream.getvalue()) if syntax == DEFLATED else stream.getvalue()


def read_by_pydicom(content: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        content = zlib.decompress(content, -zlib.MAX_WBITS)
    return read_dataset(BytesIO(content), syntax == IMPLICIT, syntax != BIG_ENDIAN)


def identifiers() -> list[Dataset]:
    """A handful of data sets with all kinds of values, flat, nested, empty, private."""
    flat = Dataset()
    flat.QueryRetrieveLevel = "STUDY"
    flat.PatientName = "Doe^John"
    flat.PatientID = ""
    flat.ModalitiesInStudy = ["CT", "MR", "PT"]
    flat.StudyInstanceUID = "1.2.3"
    flat.StudyDate = "20200101-20201231"

    numbers = Dataset()
    numbers.Rows, numbers.Columns = 512, 256
    numbers.SmallestImagePixelValue = 3
    numbers.FrameIncrementPointer = [0x00181063, 0x00181065]
    numbers.add_new(0x00189087, "FD", 1000.5)
    numbers.add_new(0x00189219, "SS", -7)
    numbers.add_new(0x00186020, "SL", [-70000, 70000])
    numbers.add_new(0x00189306, "FD", [1.25, 2.5])
    numbers.add_new(0x00186046, "UL", 1 << 31)
    numbers.add_new(0x00720026, "AT", 0x00100010)
    numbers.add_new(0x0008040C, "UV", 1 << 63)
    numbers.add_new(0x00420011, "OB", b"\1\2\3\4")
    numbers.add_new(0x00081190, "UR", "https://example.org/x")
    numbers.add_new(0x0040A160, "UT", "long " * 20000)

    deep = Dataset()
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3.4"
    middle = Dataset()
    middle.ReferencedSOPSequence = Sequence([inner, Dataset(), numbers])
    middle.SeriesInstanceUID = "1.2.3"
    deep.ReferencedSeriesSequence = Sequence([middle, middle])
    deep.RequestAttributesSequence = Sequence([])
    deep.ReferencedStudySequence = Sequence([Dataset()])
    deep.PatientName = "Doe"

    private = Dataset()
    private.PatientName = "Doe"
    block = private.private_block(0x0029, "HERE", create=True)
    block.add_new(0x01, "LO", "something")
    block.add_new(0x02, "UN", b"\1\2\3\4")
    private.add_new(0x00081111, "SQ", Sequence([inner]))

    return [Dataset(), flat, numbers, deep, private]


class OracleTests(SynchronousTestCase):
    def test_pydicom_writes(self) -> None:
        """What pydicom has written is read here: the same tags, VRs, values and items."""
        for content in identifiers():
            for undefined in (False, True):
                for inner in content.iterall():
                    if inner.VR == "SQ":
                        inner.is_undefined_length = undefined
                for syntax in SYNTAXES:
                    written = written_by_pydicom(content, syntax)
                    little = IMPLICIT if syntax == IMPLICIT else EXPLICIT
                    expected = read_by_pydicom(written_by_pydicom(content, little), little)
                    self.assertEqual(decode(written, syntax), from_pydicom(expected))

    def test_pydicom_reads(self) -> None:
        """What was read here is written, and pydicom reads what it wrote itself."""
        for content in identifiers():
            for syntax in SYNTAXES:
                elements = decode(written_by_pydicom(content, syntax), syntax)
                again = read_by_pydicom(encode(elements.values(), syntax), syntax)
                self.assertEqual(again, read_by_pydicom(written_by_pydicom(content, syntax), syntax))
                if syntax == IMPLICIT:
                    continue  # of private elements the VR is lost
                for other in SYNTAXES:
                    again = read_by_pydicom(encode(elements.values(), other), other)
                    self.assertEqual(again, read_by_pydicom(written_by_pydicom(content, other), other))

    def test_files(self) -> None:
        """Of each of pydicom's files with native pixel data the data set is what pydicom reads."""
        faults = {}
        found = 0
        for path in sorted(PYDICOM_FILES.glob("*.dcm")):
            content = path.read_bytes()
            begin = behind_file_meta(content)
            meta = pydicom.filereader.read_file_meta_info(path) if begin else None
            syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
            if syntax not in (IMPLICIT, EXPLICIT) or path.stat().st_size > 1 << 20:
                continue
            read = read_by_pydicom(content[begin:], syntax)
            try:
                elements = decode(content[begin:], syntax)
            except UnreadableDataSet as error:
                faults[path.name] = str(error)
                continue
            self.assertEqual(elements, from_pydicom(read), path.name)
            encoded = encode(elements.values(), EXPLICIT)
            self.assertEqual(encode(decode(encoded, EXPLICIT).values(), EXPLICIT), encoded)
            found += 1
        self.assertEqual(list(faults), ["MR_truncated.dcm", "rtplan_truncated.dcm"], faults)
        self.assertGreater(found, 20)


#: Eight times anything is a number of whole words of any VR.
values = st.tuples(st.sampled_from((*TEXT, *OTHER, *WORDS)), st.binary(max_size=3).map(lambda part: part * 8))
tags = st.integers(0x0008_0001, 0x7FE0_FFFF).filter(lambda tag: tag & 0xFFFF)


def data_sets(contents: Any) -> Any:
    return st.dictionaries(tags, contents, max_size=4).map(
        lambda found: {tag: Element(tag, vr, value) for tag, (vr, value) in sorted(found.items())}
    )


sequences = st.recursive(
    values,
    lambda inner: st.tuples(st.just("SQ"), st.lists(data_sets(inner), max_size=3).map(tuple)),
    max_leaves=8,
)


class RoundTripTests(SynchronousTestCase):
    @modest
    @given(data_sets(sequences), st.sampled_from([EXPLICIT, BIG_ENDIAN, DEFLATED, JPEG_LOSSLESS]))
    def test_explicit(self, elements: dict[int, Element], syntax: str) -> None:
        """What is encoded with explicit VR is decoded to the same, in ascending order."""
        decoded = decode(encode(reversed(elements.values()), syntax), syntax)
        self.assertEqual(decoded, elements)
        self.assertEqual(list(decoded), sorted(decoded))

    @modest
    @given(data_sets(sequences))
    def test_implicit(self, elements: dict[int, Element]) -> None:
        """With implicit VR the dictionary gives the VR; values and items are the same."""
        decoded = decode(encode(elements.values(), IMPLICIT), IMPLICIT)
        explicit = decode(encode(decoded.values(), EXPLICIT), EXPLICIT)
        self.assertEqual(explicit, decoded)
        self.assertEqual(encode(decoded.values(), IMPLICIT), encode(elements.values(), IMPLICIT))

    @modest
    @given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
    def test_garbage(self, content: bytes, syntax: str) -> None:
        """Any bytes are a data set, which has a fixed encoding, or an UnreadableDataSet of one line."""
        self.check(content, syntax)

    @modest
    @given(data_sets(sequences), st.data(), st.sampled_from(SYNTAXES))
    def test_spoilt(self, elements: dict[int, Element], data: st.DataObject, syntax: str) -> None:
        """So is a data set with a few bytes changed or its end cut off."""
        content = bytearray(encode(elements.values(), syntax))
        for _ in range(data.draw(st.integers(0, 3))):
            if content:
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        self.check(bytes(content[: data.draw(st.integers(0, len(content)))]), syntax)

    def check(self, content: bytes, syntax: str) -> None:
        try:
            decoded = decode(content, syntax)
        except UnreadableDataSet as error:
            self.assertEqual(len(str(error).splitlines()), 1)
            return
        encoded = encode(decoded.values(), syntax)
        self.assertEqual(encode(decode(encoded, syntax).values(), syntax), encoded)


class DecodeTests(SynchronousTestCase):
    def test_vr_of_implicit(self) -> None:
        """Without a VR it is the dictionary's, LO of private creators, and UN of what nobody knows."""
        for tag, vr in (
            (NAME, "PN"),
            (ROWS, "US"),
            (0x00280106, "US"),  # US or SS
            (0x00091001, "UN"),
            (0x00090010, "LO"),
            (0x000900FF, "LO"),
            (0x00090100, "UN"),
            (0x00100011, "UN"),
            (0x60000010, "UN"),
        ):
            self.assertEqual(decode(element(tag, "", b"ab", IMPLICIT), IMPLICIT)[tag].vr, vr)

    def test_sequences_of_implicit(self) -> None:
        """Undefined length makes a sequence of any tag, a defined one of those the dictionary has as SQ."""
        name = element(NAME, "PN", b"Doe ", IMPLICIT)
        inside = (elements_of(Element(NAME, "PN", b"Doe ")),)
        for tag in (REFERENCED_SOP_SEQUENCE, 0x00091001, NAME):
            content = sequence(item(name, IMPLICIT), syntax=IMPLICIT, length=UNDEFINED, tag=tag)
            self.assertEqual(decode(content, IMPLICIT), elements_of(Element(tag, "SQ", inside)))
        content = sequence(item(name, IMPLICIT), syntax=IMPLICIT)
        self.assertEqual(decode(content, IMPLICIT)[REFERENCED_SOP_SEQUENCE].value, inside)
        content = sequence(item(name, IMPLICIT), syntax=IMPLICIT, tag=0x00091001)
        self.assertEqual(
            decode(content, IMPLICIT)[0x00091001], Element(0x00091001, "UN", item(name, IMPLICIT))
        )

    def test_as_encoded(self) -> None:
        """Text where a sequence is expected stays text, and the reverse."""
        content = element(REFERENCED_SOP_SEQUENCE, "LO", b"text")
        self.assertEqual(
            decode(content, EXPLICIT)[REFERENCED_SOP_SEQUENCE],
            Element(REFERENCED_SOP_SEQUENCE, "LO", b"text"),
        )
        content = element(REFERENCED_SOP_SEQUENCE, "", b"text", IMPLICIT)
        self.assertEqual(
            decode(content, IMPLICIT)[REFERENCED_SOP_SEQUENCE],
            Element(REFERENCED_SOP_SEQUENCE, "UN", b"text"),
        )
        content = sequence(item(element(NAME, "PN", b"Doe ")), tag=NAME)
        inside = (elements_of(Element(NAME, "PN", b"Doe ")),)
        self.assertEqual(decode(content, EXPLICIT)[NAME], Element(NAME, "SQ", inside))

    def test_lengths(self) -> None:
        """Sequences and items of undefined length are the same as those with theirs, in any mixture."""
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            name = element(NAME, "PN", b"Doe ", syntax)
            expected = (elements_of(Element(NAME, "PN", b"Doe ")), {})
            for outer in (None, UNDEFINED):
                for inner in (None, UNDEFINED):
                    content = sequence(
                        item(name, syntax, inner), item(b"", syntax, inner), syntax=syntax, length=outer
                    )
                    decoded = decode(content + name, syntax)
                    self.assertEqual(decoded[REFERENCED_SOP_SEQUENCE].value, expected)
                    self.assertEqual(decoded[NAME].value, b"Doe ")
            for length in (None, UNDEFINED):
                empty = sequence(syntax=syntax, length=length)
                self.assertEqual(
                    decode(empty, syntax), elements_of(Element(REFERENCED_SOP_SEQUENCE, "SQ", ()))
                )

    def test_un_of_undefined_length(self) -> None:
        """UN of undefined length is a sequence in Implicit VR Little Endian, in big endian too."""
        inside = sequence(
            item(element(ROWS, "US", b"\1\0", IMPLICIT), IMPLICIT, UNDEFINED),
            syntax=IMPLICIT,
            length=UNDEFINED,
        )[8:]
        expected = Element(0x00091001, "SQ", (elements_of(Element(ROWS, "US", b"\1\0")),))
        for syntax in (EXPLICIT, BIG_ENDIAN):
            content = element(0x00091001, "UN", inside, syntax, UNDEFINED) + element(
                NAME, "PN", b"Doe ", syntax
            )
            self.assertEqual(decode(content, syntax), elements_of(expected, Element(NAME, "PN", b"Doe ")))

    def test_numbers(self) -> None:
        """Numbers are little endian whatever the transfer syntax; what is no number stays as it is."""
        for vr, width in WORDS.items():
            value = bytes(range(16))
            swapped = b"".join(value[at : at + width][::-1] for at in range(0, 16, width))
            wide = {"OD", "OF", "OL", "OV", "SV", "UV"}
            header = pack(">HH2sHL", 9, 0x1001, vr.encode(), 0, 16) if vr in wide else None
            content = header + swapped if header else element(0x00091001, vr, swapped, BIG_ENDIAN)
            self.assertEqual(decode(content, BIG_ENDIAN)[0x00091001], Element(0x00091001, vr, value))
            self.assertEqual(encode([Element(0x00091001, vr, value)], BIG_ENDIAN), content)
        for vr in (*TEXT, *OTHER):
            decoded = decode(encode([Element(0x00091001, vr, b"abcd")], BIG_ENDIAN), BIG_ENDIAN)
            self.assertEqual(decoded[0x00091001].value, b"abcd")
        content = element(ROWS, "UL", b"\1\2", BIG_ENDIAN)
        self.assertEqual(decode(content, BIG_ENDIAN)[ROWS].value, b"\1\2")

    def test_order(self) -> None:
        """Of elements with the same tag the last one counts; tags out of order are put in order."""
        content = element(NAME, "PN", b"A ") + element(0x00080018, "UI", b"1\0") + element(NAME, "PN", b"B ")
        decoded = decode(content, EXPLICIT)
        self.assertEqual(
            [(each.tag, each.value) for each in decoded.values()], [(0x00080018, b"1\0"), (NAME, b"B ")]
        )
        self.assertEqual(list(decoded), [0x00080018, NAME])

    def test_group_lengths(self) -> None:
        """Group lengths are passed over, in items too."""
        length = element(0x00080000, "UL", b"\4\0\0\0")
        content = length + sequence(item(length)) + element(0x00100000, "UL", b"\0\0\0\0")
        expected = elements_of(Element(REFERENCED_SOP_SEQUENCE, "SQ", ({},)))
        self.assertEqual(decode(content, EXPLICIT), expected)

    def test_odd_lengths(self) -> None:
        """Values of odd length, which the standard does not know, are taken as they are."""
        self.assertEqual(decode(element(NAME, "PN", b"Doe"), EXPLICIT)[NAME].value, b"Doe")

    def test_foreign_syntax(self) -> None:
        """Transfer syntaxes that nobody has heard of are Explicit VR Little Endian."""
        for syntax in (JPEG_LOSSLESS, "1.2.3", ""):
            self.assertEqual(decode(element(NAME, "PN", b"Doe "), syntax)[NAME].vr, "PN")

    def test_unreadable(self) -> None:
        """What is wrong is said in one line."""
        name = element(NAME, "PN", b"Doe ")
        delimiter = element(SEQUENCE_DELIMITATION, "", b"")
        for content, reason in (
            (name[:5], "ends inside an element at offset 0"),
            (name + b"\0", "ends inside an element at offset 12"),
            (element(NAME, "UT", b"")[:10], "ends inside an element"),
            (name[:-1], "(0010,0010) is 4 bytes long, 3 are there"),
            (element(NAME, "UT", b"", length=UNDEFINED - 1), "is 4294967294 bytes long, 0 are there"),
            (element(NAME, "UT", b"", length=UNDEFINED), "is UT and of undefined length"),
            (
                element(0x7FE00010, "OB", item(b"") + delimiter, length=UNDEFINED),
                "OB and of undefined length",
            ),
            (b"\x10\0\x10\0\4\0\0\0Doe ", "is no VR"),
            (element(NAME, "pn", b""), "is no VR"),
            (item(b""), "(FFFE,E000) among the elements"),
            (delimiter, "(FFFE,E0DD) among the elements"),
            (element(ITEM_DELIMITATION, "", b""), "(FFFE,E00D) among the elements"),
            (element(0x00000100, "US", b"\1\0"), "(0000,0100) among the elements"),
            (element(0x00020010, "UI", b"1\0"), "(0002,0010) among the elements"),
            (sequence(item(element(0x00020010, "UI", b"1\0"))), "(0002,0010) among the elements"),
            (sequence(name), "(0010,0010) where an item is due"),
            (sequence(name, length=UNDEFINED), "(0010,0010) where an item is due"),
            (sequence(delimiter), "(FFFE,E0DD) where an item is due"),
            (sequence(item(name), length=UNDEFINED)[:-8], "a sequence is not delimited"),
            (sequence(item(name, length=UNDEFINED)[:-8]), "an item is not delimited"),
            (sequence(element(ITEM, "", name, length=13)), "an item is 13 bytes long, 12 are there"),
            (
                sequence(item(element(NAME, "PN", b"Doe ", length=5))),
                "(0010,0010) is 5 bytes long, 4 are there",
            ),
            (sequence(item(name) + name[:6]), "ends inside an element"),
        ):
            self.unreadable(content, EXPLICIT, reason)

    def unreadable(self, content: bytes, syntax: str, reason: str) -> None:
        error = self.assertRaises(UnreadableDataSet, decode, content, syntax)
        self.assertIn(reason, str(error))
        self.assertEqual(len(str(error).splitlines()), 1)


class BoundTests(SynchronousTestCase):
    def test_depth(self) -> None:
        """Sequences may be nested 64 deep and no deeper."""
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            for length in (None, UNDEFINED):
                content = nested(64, syntax, length)
                decoded = decode(content, syntax)
                self.assertEqual(decode(encode(decoded.values(), syntax), syntax), decoded)
                error = self.assertRaises(UnreadableDataSet, decode, nested(65, syntax, length), syntax)
                self.assertIn("more than 64 deep", str(error))

    def test_very_deep(self) -> None:
        """Nested 10,000 deep costs no more than that, of defined length or not, deflated or as UN."""
        began = process_time()
        for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
            self.assertRaises(UnreadableDataSet, decode, nested(10000, syntax), syntax)
        self.assertRaises(UnreadableDataSet, decode, deflate(nested(10000)), DEFLATED)
        content = element(0x00091001, "UN", nested(10000, IMPLICIT)[8:], EXPLICIT, UNDEFINED)
        self.assertRaises(UnreadableDataSet, decode, content, EXPLICIT)
        content = b"".join(
            sequence(length=16 * left) + element(ITEM, "", length=16 * left) for left in range(1000, 0, -1)
        )
        self.assertRaises(UnreadableDataSet, decode, content, IMPLICIT)
        self.assertLess(process_time() - began, 0.5)

    def test_elements(self) -> None:
        """16384 elements are decoded, one more is not, be they elements or items."""
        for most, one_more in (
            (b"".join(element(0x00091001 + at, "LO") for at in range(16384)), element(NAME, "PN")),
            (sequence(*[item(b"")] * 16383), element(NAME, "PN")),
            (sequence(*[item(element(NAME, "PN"))] * 8191, item(b"")), element(NAME, "PN")),
        ):
            decode(most, EXPLICIT)
            error = self.assertRaises(UnreadableDataSet, decode, most + one_more, EXPLICIT)
            self.assertIn("more than 16384 elements", str(error))

    def test_inflated(self) -> None:
        """A deflated data set is inflated to 4 MiB and no further, and must be whole."""
        size = data_set.MAXIMUM_INFLATED
        content = element(0x00420011, "OB", bytes(size - 64))
        self.assertEqual(decode(deflate(content), DEFLATED)[0x00420011].value, bytes(size - 64))
        for content, reason in (
            (deflate(element(0x00420011, "OB", bytes(size))), "longer than 4194304 inflated bytes"),
            (deflate(bytes(100 << 20)), "longer than"),
            (deflate(element(0x00420011, "OB", bytes(64)))[:-4], "cut off"),
            (b"", "cut off"),
            (element(NAME, "PN", b"Doe "), "does not inflate"),
            (zlib.compress(element(NAME, "PN", b"Doe ")), "does not inflate"),
        ):
            error = self.assertRaises(UnreadableDataSet, decode, content, DEFLATED)
            self.assertIn(reason, str(error))


class EncodeTests(SynchronousTestCase):
    def test_padding(self) -> None:
        """Values of odd length are padded: text with a space, all others with NUL."""
        for vr in (*TEXT, *OTHER):
            for syntax in SYNTAXES:
                encoded = encode([Element(0x00091001, vr, b"abc")], syntax)
                value = decode(encoded, syntax)[0x00091001].value
                self.assertEqual(value, b"abc " if vr in TEXT else b"abc\0")
                self.assertEqual(len(encoded) % 2, 0)

    def test_sorted(self) -> None:
        """Elements are written in the order of their tags, group lengths not at all, from any iterable."""
        name, rows = Element(NAME, "PN", b"Doe "), Element(ROWS, "US", b"\1\0")
        length = Element(0x00280000, "UL", b"\4\0\0\0")
        expected = element(NAME, "PN", b"Doe ") + element(ROWS, "US", b"\1\0")
        self.assertEqual(encode(iter((rows, length, name)), EXPLICIT), expected)
        inside = Element(REFERENCED_SOP_SEQUENCE, "SQ", ({ROWS: rows, 0x00280000: length, NAME: name},))
        self.assertEqual(encode([inside], EXPLICIT), sequence(item(expected)))
        self.assertEqual(encode([], EXPLICIT), b"")

    def test_items_make_a_sequence(self) -> None:
        """Items are written as SQ whatever the element's VR says; SQ without a value is empty."""
        items = ({}, elements_of(Element(NAME, "PN", b"Doe ")))
        for vr in ("SQ", "UN", "LO"):
            self.assertEqual(
                encode([Element(REFERENCED_SOP_SEQUENCE, vr, items)], EXPLICIT),
                sequence(item(b""), item(element(NAME, "PN", b"Doe "))),
            )
        for value in (b"", ()):
            self.assertEqual(encode([Element(REFERENCED_SOP_SEQUENCE, "SQ", value)], EXPLICIT), sequence())

    def test_long_values(self) -> None:
        """A value too long for the 16 bits of its VR's length is written as UN (PS3.5 6.2.2)."""
        for vr, expected in (("LO", "UN"), ("UT", "UT"), ("OB", "OB")):
            for length in (65534, 65536):
                value = b"x" * length
                decoded = decode(encode([Element(0x00091001, vr, value)], EXPLICIT), EXPLICIT)
                self.assertEqual(decoded[0x00091001].value, value)
                self.assertEqual(decoded[0x00091001].vr, vr if length == 65534 else expected)

    def test_fast(self) -> None:
        """A thousand matches of a C-FIND are encoded in no time."""
        keywords = (
            "StudyDate", "StudyTime", "AccessionNumber", "QueryRetrieveLevel", "RetrieveAETitle",
            "ModalitiesInStudy", "ReferringPhysicianName", "StudyDescription", "PatientName", "PatientID",
            "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedInstances",
        )  # fmt: skip
        attributes = [by_keyword(keyword) for keyword in keywords]
        match = [Element(each.tag, each.vr, b"something") for each in attributes if each is not None]
        self.assertEqual(len(match), 15)
        for syntax in (IMPLICIT, EXPLICIT):
            began = process_time()
            for _ in range(1000):
                encode(match, syntax)
            self.assertLess(process_time() - began, 0.2)  # 0.01 s on an idle machine


class ElementTests(SynchronousTestCase):
    def test_element(self) -> None:
        """An element is a small value: compared by what it holds, and not to be changed."""
        name = Element(NAME, "PN", b"Doe ")
        self.assertEqual(name, Element(NAME, "PN", b"Doe "))
        self.assertNotEqual(name, Element(NAME, "LO", b"Doe "))
        self.assertRaises(AttributeError, setattr, name, "value", b"")
        self.assertFalse(hasattr(name, "__dict__"))
