"""Identifiers of responses: whatever is in the index, they can be encoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.encoding import character_sets, data_set, dictionary
from dicomtw.encoding.data_set import DataSet, Element
from dicomtw.services.identifier import Answers
from dicomtw.storage.index.attributes import LEVELS, Attributes, Level
from dicomtw.storage.index.database import Index
from dicomtw.storage.index.matching import KeyValue
from dicomtw.storage.index.query import Model, Query
from dicomtw.storage.index.record import record_of
from tests.services.archive import CT, EXPLICIT, IMPLICIT
from tests.storage import modest
from tests.storage.index import tag as tag_of

BIG_ENDIAN = uids.EXPLICIT_VR_BIG_ENDIAN
SYNTAXES = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
SEQUENCE = 0x00400275
ROWS, PATIENT_ID, PIXEL_DATA, CODES = 0x00280010, 0x00100020, 0x7FE00010, 0x00400008
VRS = (
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OW", "PN"),
    *("SH", "SL", "SQ", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UN", "UR", "US", "UT", "UV"),
)
TERMS = (
    (),
    ("ISO_IR 192",),
    ("ISO_IR 100",),
    ("ISO_IR 13",),
    ("GB18030",),
    ("GBK",),
    ("", "ISO 2022 IR 87"),
    ("ISO 2022 IR 13", "ISO 2022 IR 87", "ISO 2022 IR 159"),
    ("", "ISO 2022 IR 149"),
    ("no such",),
)

#: No control characters: what is decoded has none (PS3.5 6.1.3).
_PRINTED = st.characters(exclude_categories=("Cc", "Cs"))
_VALUES = st.none() | st.text(_PRINTED, max_size=40) | st.text("xé", max_size=1100)

#: The VRs that are not indexed anyway, too.
ATTRIBUTES = Attributes(
    [
        "FrameIncrementPointer",
        "SelectorSVValue",
        "SelectorUVValue",
        "SelectorFDValue",
        "SelectorFLValue",
        "SelectorSLValue",
        "SelectorSSValue",
        "SelectorULValue",
        "SelectorATValue",
        "SelectorURValue",
        "SelectorUCValue",
        "RetrieveURI",
        "PixelSpacing",
        "SourceImageSequence",
    ]
)

#: Bytes with what means something in one VR or another, and numbers.
contents = st.one_of(
    st.text('\x1b$B(J)\\^=-+.0123456789 \0"{', max_size=24).map(str.encode),
    st.lists(
        st.sampled_from(
            [b"\x1b$B", b"\x1b(B", b"\x1b(J", b"\x1b$)C", b"\xb1", b";3", b"\\", b"=", b"^", b"\xff"]
        )
    ).map(b"".join),
    st.text(max_size=16).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(max_size=16).map(lambda text: text.encode("gb18030", "replace")),
    st.binary(max_size=24),
    st.sampled_from([b"abc", b"-1", b"65536", b"1e39", b"nan", b"1_0"]),
)
#: Tags in items: of any VR, private ones, and one that is a sequence.
inner_tags = st.one_of(
    st.sampled_from([tag_of(f"Selector{vr}Value") for vr in VRS if vr != "SQ"]),
    st.sampled_from([0x00280010, 0x00100010, 0x00400008, 0x00091001, 0x60000010, 0x7FE00010, 0x00400007]),
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 2) -> Element:
    tag, vr = draw(inner_tags), draw(st.sampled_from(VRS))
    if vr != "SQ":
        return Element(tag, vr, draw(contents))
    return Element(tag, vr, tuple(draw(items(depth - 1))) if depth else ())


def items(depth: int = 2) -> st.SearchStrategy[list[dict[int, Element]]]:
    item = st.lists(elements(depth), max_size=4).map(lambda made: {each.tag: each for each in made})
    return st.lists(item, max_size=2)


@st.composite
def objects(draw: st.DrawFn, syntax: str) -> dict[int, bytes]:
    """Raw values of an object's elements, by tag."""
    tags = st.sampled_from(sorted(ATTRIBUTES.tags))
    found = draw(st.dictionaries(tags, contents, max_size=8))
    encoded = data_set.encode([Element(SEQUENCE, "SQ", tuple(draw(items())))], syntax)
    found[SEQUENCE] = encoded[8 if syntax == IMPLICIT else 12 :]
    found[0x00080005] = "\\".join(draw(st.sampled_from(TERMS))).encode()
    return found | {0x00080016: CT.encode(), 0x00080018: b"1.2.3"}


@attrs.frozen
class Asked:
    """What `Answers` takes of an identifier."""

    keys: dict[int, KeyValue]
    level: Level
    character_set: tuple[str, ...]
    transfer_syntax: str


class AnswersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.index = Index(Path(self.mktemp(), "index.sqlite3"), ATTRIBUTES, synchronous=False)
        self.index.open()
        self.addCleanup(self.index.close)

    def answer(
        self,
        found: Mapping[int, bytes],
        keys: dict[int, KeyValue],
        *,
        stored: str = EXPLICIT,
        answered: str = EXPLICIT,
        character_set: tuple[str, ...] = (),
    ) -> dict[int, Element]:
        """What is answered of an object with these values, but for what is always there."""
        record = record_of(
            found,
            stored,
            study="1.1",
            series="1.2",
            sop_instance_uid="1.2.3",
            mtime_ns=1,
            attributes=ATTRIBUTES,
        )
        self.index.delete(["1.2.3"])
        self.index.put([record])
        query = Query.of(Level.IMAGE, keys, ATTRIBUTES, model=Model.PATIENT_ROOT, relational=True)
        (row,) = self.index.find(query).fetch(2)
        asked = Asked(keys, Level.IMAGE, character_set, answered)
        encoded = Answers(asked, query, "PMOD").encode(row)  # type: ignore[arg-type]
        decoded = data_set.decode(encoded, answered)
        for tag in (0x00080052, 0x00080054):
            del decoded[tag]
        decoded.pop(0x00080005, None)
        return decoded

    def item(self, *elements: Element, **options: Any) -> DataSet:
        """How an item of these elements is answered."""
        encoded = data_set.encode(
            [Element(SEQUENCE, "SQ", ({each.tag: each for each in elements},))], EXPLICIT
        )
        answer = self.answer({SEQUENCE: encoded[12:]}, {SEQUENCE: ()}, **options)
        (item,) = answer[SEQUENCE].value
        assert not isinstance(item, int)
        return item

    @given(
        st.lists(
            st.text(_PRINTED, max_size=40) | st.none() | st.text("xé", max_size=1100), min_size=4, max_size=4
        )
    )
    def test_plan(self, values: list[str | None]) -> None:
        """The plan of a query makes of a row what is made of its elements, whatever the values."""
        keys: dict[int, KeyValue] = dict.fromkeys(
            map(tag_of, ("StudyDate", "PatientName", "PatientComments")), ""
        )
        keys[ROWS] = keys[0x00080056] = ""
        query = Query.of(Level.IMAGE, keys, ATTRIBUTES, model=Model.PATIENT_ROOT, relational=True)
        self.assertEqual(len(query.columns), 4)
        for syntax in SYNTAXES:
            answers = Answers(Asked(keys, Level.IMAGE, (), syntax), query, "PMOD")  # type: ignore[arg-type]
            beyond_ascii = [value for value in values if value and not value.isascii()]
            terms = character_sets.fitting(beyond_ascii, ()) if beyond_ascii else ()
            self.assertEqual(answers.encode(values), answers._encode(values, terms), syntax)

    def test_numbers(self) -> None:
        """Numbers of all VRs are answered as they were stored, whatever the byte orders."""
        for vr, value, swapped in (
            ("AT", b"\x18\0\x63\x10\x54\0\xf0\0", b"\0\x18\x10\x63\0\x54\0\xf0"),
            ("SV", b"\xfe" + b"\xff" * 7, b"\xff" * 7 + b"\xfe"),
            ("UV", b"\1" + bytes(6) + b"\x80", b"\x80" + bytes(6) + b"\1"),
            ("SL", b"\xfe\xff\xff\xff", b"\xff\xff\xff\xfe"),
            ("SS", b"\xfe\xff", b"\xff\xfe"),
            ("FD", b"\0\0\0\0\0\0\xf8\x3f", b"\x3f\xf8\0\0\0\0\0\0"),
        ):
            tag = tag_of(f"Selector{vr}Value")
            for stored, content in ((EXPLICIT, value), (BIG_ENDIAN, swapped)):
                for answered in SYNTAXES:
                    answer = self.answer({tag: content}, {tag: ""}, stored=stored, answered=answered)
                    self.assertEqual(answer, {tag: Element(tag, vr, value)}, (vr, stored, answered))

    def test_other_vr(self) -> None:
        """In an item the file's VR may be another than the dictionary's: what is none of that is empty."""
        for element, value in (
            (Element(ROWS, "LO", b"abc "), b""),
            (Element(ROWS, "LO", b"512 "), b"\0\2"),
            (Element(ROWS, "LO", b"65536 "), b""),
            (Element(ROWS, "LO", b"1\\x "), b""),
            (Element(ROWS, "SS", b"\xff\xff"), b""),
            (Element(PATIENT_ID, "US", b"\0\2"), b"512 "),
            (Element(PATIENT_ID, "SQ", ({ROWS: Element(ROWS, "US", b"\0\2")},)), b""),
            (Element(PIXEL_DATA, "LO", b"text"), b""),
            (Element(CODES, "LO", b"text"), ()),
        ):
            item = self.item(element)
            self.assertEqual(item[element.tag].value, value, element)
            known = dictionary.lookup(element.tag)
            assert known is not None
            self.assertEqual(item[element.tag].vr, known.vr)

    def test_private(self) -> None:
        """Of private elements in an item the text is answered, for their VR nobody knows."""
        element = Element(0x00091001, "LO", b"text")
        self.assertEqual(self.item(element), {0x00091001: element})
        self.assertEqual(
            self.item(Element(0x00091001, "US", b"\0\2")), {0x00091001: Element(0x00091001, "LO", b"512 ")}
        )
        nested = Element(0x00091001, "SQ", ({PATIENT_ID: Element(PATIENT_ID, "LO", b"X ")},))
        self.assertEqual(self.item(nested), {0x00091001: nested})

    @modest
    @given(st.data(), st.sampled_from(SYNTAXES), st.sampled_from(SYNTAXES), st.sampled_from(TERMS))
    def test_anything(
        self, data: st.DataObject, stored: str, answered: str, character_set: tuple[str, ...]
    ) -> None:
        """Whatever is stored is answered, in any transfer syntax and character set."""
        keys: dict[int, KeyValue] = {}
        for level in LEVELS:
            keys |= {each.tag: () if each.vr == "SQ" else "" for each in ATTRIBUTES.stored[level]}
        del keys[0x00020010]  # File Meta Information is in no identifier
        answer = self.answer(
            data.draw(objects(stored)), keys, stored=stored, answered=answered, character_set=character_set
        )
        self.assertEqual(answer.keys(), keys.keys())
