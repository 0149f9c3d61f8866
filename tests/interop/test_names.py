"""Names in the scripts of the world: pydicom's files, queried in their character sets and in UTF-8."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pydicom
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset

from dicomtw import uids
from dicomtw.transcode import CannotTranscode, encode
from tests.interop.archive import (
    EXPLICIT,
    IMPLICIT,
    PEERS,
    archive,
    associated,
    data_set,
    fill_with_files,
    found_by_programs,
    identifier,
    matches,
    shared,
)
from tests.interop.cases import CasesTestCase
from tests.interop.files import Source, read_source
from tests.interop.peers import missing
from tests.interop.twistd import Twistd

FIND = uids.PATIENT_ROOT_FIND
UTF_8 = "ISO_IR 192"


def files() -> dict[str, Dataset]:
    """Those files that are objects, by name; of two with one SOP Instance UID the first."""
    read: dict[str, Dataset] = {}
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(map(str, get_charset_files())):
            one = pydicom.dcmread(path, force=True)
            uid = one.get("SOPInstanceUID")
            if uid is not None and uid not in seen:
                seen.add(uid)
                one.decode()
                read[Path(path).name] = one
    return read


def source(path: str | Path) -> Source:
    """One of the files, as what to send."""
    found = read_source(Path(path))
    assert found is not None, path
    return found


def name_of(one: Dataset) -> str:
    """The Patient's Name, without empty component groups at the end."""
    return normalize("NFC", str(one.PatientName)).rstrip("=")


def groups(name: str) -> list[str]:
    """Its three component groups, folded."""
    return [*(group.casefold().rstrip("^ ") for group in name.split("=")), "", ""][:3]


def matching(objects: Iterable[Dataset], name: str) -> list[str]:
    """Patient IDs of those whose name matches, an asterisk being at the end of a group only.

    Groups match each on its own; a single one may be any of the three.
    """
    wanted = groups(name)

    def fits(key: str, has: str) -> bool:
        return not key or (has.startswith(key[:-1]) if key[-1] == "*" else has == key)

    return sorted(
        one.PatientID
        for one in objects
        for has in [groups(name_of(one))]
        if (all(map(fits, wanted, has)) if "=" in name else any(fits(wanted[0], each) for each in has))
    )


def keys_of(name: str) -> list[str]:
    """Names to ask for so that the one of this name is found."""
    keys = [name, name.upper(), name.lower(), f"{name[:2]}*"]
    for at, group in enumerate(name.split("=")):
        keys += ["=" * at + group, "=" * at + group[:2] + "*"]
        family_name = group.split("^")[0]
        keys.append("=" * at + family_name + "*")
    return sorted(set(keys))


def with_names(test: Any) -> Twistd:
    """A server with the files."""
    server = archive(test)
    fill_with_files(server, [source(one.filename) for one in files().values()])
    return server


class NameTests(CasesTestCase):
    def test_names(self) -> None:
        """Each is found by its name, whole or in part, by each group, in its own set and in UTF-8."""
        server = shared(self, with_names)
        objects = files()
        asked = 0
        with associated(server, FIND, transfer_syntax=EXPLICIT) as scu:
            for file, one in objects.items():
                own = one.SpecificCharacterSet
                for key in keys_of(name_of(one)):
                    expected = matching(objects.values(), key)
                    self.assertIn(one.PatientID, expected)
                    for terms in (own, UTF_8):
                        with self.case(file, key, terms):
                            query = identifier(
                                "PATIENT", SpecificCharacterSet=terms, PatientID="", PatientName=key
                            )
                            encoded = encoded_in_its_set(query)
                            if encoded is None:
                                continue  # no capital letter for one of these
                            asked += 1
                            responses = scu.find(encoded)
                            self.assertEqual(responses[-1].status, 0)
                            found = matches(responses, EXPLICIT)
                            self.assertEqual(sorted(each.PatientID for each in found), expected)
                            for each in found:
                                (stored,) = (o for o in objects.values() if o.PatientID == each.PatientID)
                                self.assertEqual(name_of(each), name_of(stored))
                                if each.PatientID == one.PatientID and not name_of(one).isascii():
                                    self.assertEqual(each.SpecificCharacterSet, terms)
        self.assertGreater(asked, 10 * len(objects))

    def test_bytes(self) -> None:
        """The value as it is in the file, asked for in the file's character set, comes back byte for byte."""
        server = shared(self, with_names)
        objects = files()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = {name: pydicom.dcmread(one.filename, force=True) for name, one in objects.items()}
        with associated(server, FIND, transfer_syntax=EXPLICIT) as scu:
            for file, one in raw.items():
                with self.case(file):
                    value = one.get_item("PatientName").value.rstrip(b" ")
                    query = identifier("PATIENT", SpecificCharacterSet=one.SpecificCharacterSet, PatientID="")
                    encoded = encode(query, EXPLICIT)
                    if file == "chrKoreanMulti.dcm":  # a switch back from where it never was
                        value = value.removesuffix(b"\x1b(B")
                    padded = value + b" " * (len(value) % 2)
                    at = encoded.index(b"\x10\x00\x20\x00LO")
                    name = b"\x10\x00\x10\x00PN" + len(padded).to_bytes(2, "little") + padded
                    responses = scu.find(encoded[:at] + name + encoded[at:])
                    own = [r for r in responses[:-1] if str(one.PatientID).encode() in r.data_set]
                    self.assertEqual(len(own), 1, responses)
                    self.assertIn(name, own[0].data_set)

    def test_everybody(self) -> None:
        """Who asks for all gets each name in a character set that reaches: that of the query if it does."""
        server = shared(self, with_names)
        objects = files()
        names = {one.PatientID: name_of(one) for one in objects.values()}
        sets = [None, UTF_8, *(one.SpecificCharacterSet for one in objects.values()), "no such set"]
        with associated(server, FIND, transfer_syntax=IMPLICIT) as scu:
            for terms in sets:
                with self.case(terms):
                    query = identifier("PATIENT", PatientID="", PatientName="")
                    if terms is not None:
                        query.update(data_set(SpecificCharacterSet=terms))
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        encoded = encode(query, IMPLICIT)
                    found = matches(scu.find(encoded))
                    self.assertEqual({one.PatientID: name_of(one) for one in found}, names)
                    for one in found:
                        if names[one.PatientID].isascii():
                            self.assertNotIn("SpecificCharacterSet", one)
                        else:
                            self.assertIn(one.SpecificCharacterSet, (terms, UTF_8, "ISO_IR 100"))

    def test_another_version(self) -> None:
        """Other bytes under the same UID, with several names or in another character set, take its place."""
        server = shared(self, with_names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paths = {Path(path).name: Path(path) for path in map(str, get_charset_files())}
        for first, second in (
            ("chrFren.dcm", "chrFrenMulti.dcm"),
            ("chrJapMulti.dcm", "chrJapMultiExplicitIR6.dcm"),
        ):
            for name in (first, second, first):
                with self.case(first, name):
                    fill_with_files(server, [source(paths[name])])
                    stored = pydicom.dcmread(paths[name], force=True)
                    query = identifier("PATIENT", PatientID=stored.PatientID, PatientName="")
                    query.update(data_set(SpecificCharacterSet=UTF_8))
                    with associated(server, FIND) as scu:
                        (one,) = matches(scu.find(encode(query, IMPLICIT)))
                    self.assertEqual(str(one.PatientName), str(stored.PatientName))


class ProgramTests(CasesTestCase):
    skip = missing("findscu")

    def test_programs(self) -> None:
        """The programs of both peers, which ask in UTF-8, read the names as they are in the files."""
        server = shared(self, with_names)
        objects = files()
        for peer in PEERS:
            queries = [
                ("-P", identifier("PATIENT", SpecificCharacterSet=UTF_8, PatientID="", PatientName=key))
                for key in (
                    "*",
                    "=山田^太郎",
                    "==やまだ*",
                    "äneas^rüdiger",
                    "ΔΙΟΝΥΣΙΟΣ",
                    "люк*",
                    "홍*",
                    "=洪*",
                    "김희중",
                )
            ]
            for (_, asked), (said, found) in zip(
                queries, found_by_programs(peer, server, queries), strict=True
            ):
                key = str(asked.PatientName)
                with self.case(peer.name, key):
                    expected = matching(objects.values(), "" if key == "*" else key)
                    self.assertEqual(sorted(one.PatientID for one in found), expected, said)
                    for one in found:
                        (stored,) = (each for each in objects.values() if each.PatientID == one.PatientID)
                        self.assertEqual(name_of(one), name_of(stored))


def encoded_in_its_set(query: Dataset) -> bytes | None:
    """An identifier, encoded; None if its character set has not its letters."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return encode(query, EXPLICIT)
        except CannotTranscode:
            return None
