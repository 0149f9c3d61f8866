"""The table of attributes, beside the standard's."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.storage.index.attributes import LEVELS, UNIQUE_KEYS, Attributes, Kind, Level
from tests.storage.index import ATTRIBUTES, tag

#: PS3.4 Tables C.6-1 to C.6-4: unique and required keys.
UNIQUE_AND_REQUIRED = {
    Level.PATIENT: ({"PatientID"}, {"PatientName"}),
    Level.STUDY: ({"StudyInstanceUID"}, {"StudyDate", "StudyTime", "AccessionNumber", "StudyID"}),
    Level.SERIES: ({"SeriesInstanceUID"}, {"Modality", "SeriesNumber"}),
    Level.IMAGE: ({"SOPInstanceUID"}, {"InstanceNumber"}),
}


class AttributesTests(SynchronousTestCase):
    def test_standard(self) -> None:
        """Unique and required keys are those of the standard."""
        for level, (unique, required) in UNIQUE_AND_REQUIRED.items():
            kinds: dict[Kind, set[str]] = {Kind.UNIQUE: set(), Kind.REQUIRED: set(), Kind.OPTIONAL: set()}
            for attribute in ATTRIBUTES.stored[level]:
                indexed = ATTRIBUTES.get(attribute.tag)
                assert indexed is not None
                kinds[indexed.kind].add(attribute.keyword)
            self.assertEqual((kinds[Kind.UNIQUE], kinds[Kind.REQUIRED]), (unique, required))
            self.assertEqual({UNIQUE_KEYS[level]}, unique)

    def test_levels(self) -> None:
        """The levels are the standard's, from the top."""
        self.assertEqual([level.value for level in LEVELS], ["PATIENT", "STUDY", "SERIES", "IMAGE"])

    def test_tags(self) -> None:
        """What is wanted of a data set is all that is stored, and how its text is encoded; not File Meta."""
        self.assertIn(0x00080005, ATTRIBUTES.tags)
        self.assertIn(tag("StudyInstanceUID"), ATTRIBUTES.tags)
        self.assertNotIn(tag("TransferSyntaxUID"), ATTRIBUTES.tags)
        self.assertNotIn(tag("ModalitiesInStudy"), ATTRIBUTES.tags)
        self.assertTrue(all(0x00080005 <= each < 0x7FE00000 for each in ATTRIBUTES.tags))

    def test_computed(self) -> None:
        """Numbers of what there is, and what is in a study, have no columns."""
        for keyword in ("NumberOfStudyRelatedInstances", "ModalitiesInStudy", "AvailableTransferSyntaxUID"):
            indexed = ATTRIBUTES.get(tag(keyword))
            assert indexed is not None
            self.assertTrue(indexed.is_computed)
            self.assertNotIn(indexed.attribute, ATTRIBUTES.stored[indexed.level])

    def test_extra(self) -> None:
        """More attributes are had by keyword, of instances unless a level is given."""
        extended = Attributes(["EchoTime", "series: SliceThickness", "Rows", "PATIENT:PatientName"])
        for keyword, level in (
            ("EchoTime", Level.IMAGE),
            ("SliceThickness", Level.SERIES),
            ("PatientName", Level.PATIENT),
        ):
            indexed = extended.get(tag(keyword))
            assert indexed is not None
            self.assertIs(indexed.level, level)
        self.assertEqual(extended.tags - ATTRIBUTES.tags, {tag("EchoTime"), tag("SliceThickness")})

    def test_refused(self) -> None:
        """What cannot be had is refused, saying why."""
        for name, why in (
            ("Ecotime", "'Ecotime' is no keyword of the data dictionary; did you mean EchoTime?"),
            ("Xyzzy12345", "'Xyzzy12345' is no keyword of the data dictionary"),
            ("", "'' is no keyword of the data dictionary"),
            ("FILM:EchoTime", "'FILM:EchoTime': a level is one of PATIENT, STUDY, SERIES, IMAGE"),
            ("IMAGE:PatientName", "'IMAGE:PatientName': PatientName is an attribute of PATIENT"),
            ("PixelData", "'PixelData': only what stands between group 0002 and the pixel data is"),
            ("FileMetaInformationVersion", "'FileMetaInformationVersion': only what stands between"),
            ("EncapsulatedDocument", "'EncapsulatedDocument': OB values are not indexed"),
        ):
            error = self.assertRaises(ValueError, Attributes, [name])
            self.assertTrue(str(error).startswith(why), error)
