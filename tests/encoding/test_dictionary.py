"""The data dictionary against pydicom's, from which its file is made."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.encoding import dictionary
from dicomtw.encoding.dictionary import Attribute, by_keyword, lookup, near, tag_text

GENERATOR = Path(__file__).parent.parent.parent / "tools" / "generate_dictionary.py"

ATTRIBUTES = [attribute for tag in DicomDictionary if (attribute := lookup(tag)) is not None]


def generator() -> ModuleType:
    """``tools/generate_dictionary.py`` as a module; it is no part of a package."""
    spec = importlib.util.spec_from_file_location("generate_dictionary", GENERATOR)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FileTests(SynchronousTestCase):
    def test_generated(self) -> None:
        """The file is what the generator makes of the installed pydicom."""
        self.assertEqual(dictionary.FILE.read_text("ascii").splitlines(), generator().lines())

    def test_ascending(self) -> None:
        """Tags ascend in it, so that none comes twice."""
        tags = [int(line[:8], 16) for line in dictionary.FILE.read_text("ascii").splitlines()]
        self.assertEqual(tags, sorted(set(tags)))

    def test_read_when_asked(self) -> None:
        """It is not read before something is asked for, and then once."""
        script = (
            "from dicomtw.encoding import dictionary as it\n"
            "print(it._by_tag.cache_info().currsize)\n"
            "for _ in range(3): it.lookup(0x00100010), it.by_keyword('PatientID')\n"
            "print(it._by_tag.cache_info().misses)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.split(), ["0", "1"])


class LookupTests(SynchronousTestCase):
    def test_attributes(self) -> None:
        """What an attribute looks like, current or retired, and of several VRs the first counts."""
        for attribute in (
            Attribute(0x00080005, "CS", "1-n", "SpecificCharacterSet"),
            Attribute(0x00100010, "PN", "1", "PatientName"),
            Attribute(0x00081199, "SQ", "1", "ReferencedSOPSequence"),
            Attribute(0x00080040, "US", "1", "DataSetType"),
            Attribute(0x00280106, "US", "1", "SmallestImagePixelValue"),
            Attribute(0x7FE00010, "OB", "1", "PixelData"),
        ):
            self.assertEqual(lookup(attribute.tag), attribute)
            self.assertEqual(by_keyword(attribute.keyword), attribute)

    def test_pydicom(self) -> None:
        """VR, VM and keyword of every attribute are pydicom's, and its keyword finds it."""
        self.assertGreater(len(ATTRIBUTES), 5000)
        for attribute in ATTRIBUTES:
            tag = attribute.tag
            self.assertEqual(attribute.vr, dictionary_VR(tag).split(" ")[0])
            self.assertEqual(attribute.vm, dictionary_VM(tag))
            self.assertEqual(attribute.keyword, keyword_for_tag(tag))
            self.assertIs(by_keyword(attribute.keyword), attribute)

    def test_absent(self) -> None:
        """Private elements, group lengths, items, repeating groups and nonsense are not in it."""
        for tag in (0x00091001, 0x00080000, 0xFFFEE000, 0x60000010, 0x50001001, -1, 1 << 40):
            self.assertIsNone(lookup(tag))
        for keyword in ("", "Nonsense", "patientname", "PATIENTNAME", "Patient Name", "Item", "OverlayRows"):
            self.assertIsNone(by_keyword(keyword))
        self.assertIn("OverlayRows", {entry[4] for entry in RepeatersDictionary.values()})

    def test_near(self) -> None:
        """A keyword that is misspelled is told from nonsense."""
        for keyword in ("PatientNam", "patientname", "PatientsName", "PatientName"):
            self.assertEqual(near(keyword), "PatientName", keyword)
        for keyword in ("", "Xyzzy12345"):
            self.assertIsNone(near(keyword))

    def test_tag_text(self) -> None:
        """A tag is written as in the standard."""
        self.assertEqual(tag_text(0x0008103E), "(0008,103E)")
