"""UIDs: what may name something here (PS3.5 9.1), and the tables against pydicom's dictionary."""

from __future__ import annotations

import importlib.util
import os.path
from pathlib import Path
from types import ModuleType

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids

GENERATOR = Path(__file__).parent.parent / "tools" / "generate_uids.py"


def generator() -> ModuleType:
    """``tools/generate_uids.py`` as a module; it is no part of a package."""
    spec = importlib.util.spec_from_file_location("generate_uids", GENERATOR)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TableTests(SynchronousTestCase):
    if importlib.util.find_spec("pydicom") is None:
        skip = "needs pydicom"

    def test_storage_sop_classes(self) -> None:
        """The storage SOP classes are those of the installed pydicom, in its order."""
        self.assertEqual(
            list(uids.STORAGE_SOP_CLASSES.items()), list(generator().storage_sop_classes().items())
        )

    def test_transfer_syntaxes(self) -> None:
        """The transfer syntaxes are those of the installed pydicom, in its order."""
        generated = generator().transfer_syntaxes()
        self.assertEqual(list(uids.TRANSFER_SYNTAXES.items()), list(generated.items()))


class NameTests(SynchronousTestCase):
    def test_names(self) -> None:
        """A registered UID has a name, any other is its own."""
        cases = {
            uids.VERIFICATION: "Verification SOP Class",
            "1.2.840.10008.5.1.4.1.1.2": "CT Image Storage",
            uids.IMPLICIT_VR_LITTLE_ENDIAN: "Implicit VR Little Endian",
            "1.2.3": "1.2.3",
            "": "",
        }
        for uid, name in cases.items():
            self.assertEqual(uids.name_of(uid), name)

    def test_named_transfer_syntaxes(self) -> None:
        """The transfer syntaxes that the code names are in the table."""
        named = {
            uids.EXPLICIT_VR_LITTLE_ENDIAN,
            uids.EXPLICIT_VR_BIG_ENDIAN,
            *uids.IMPLICIT_VR,
            *uids.DEFLATED,
        }
        self.assertEqual(named - set(uids.TRANSFER_SYNTAXES), set())

    def test_deflated(self) -> None:
        """Those with Deflate in their name are deflated, but for the one that deflates frames alone."""
        named = {uid for uid, name in uids.TRANSFER_SYNTAXES.items() if "Deflate" in name}
        named.remove("1.2.840.10008.1.2.8.1")
        self.assertEqual(uids.DEFLATED, named)

    def test_implicit_vr(self) -> None:
        """Every transfer syntax with Implicit VR in its name is taken for one, and no other."""
        named = {uid for uid, name in uids.TRANSFER_SYNTAXES.items() if "Implicit VR" in name}
        self.assertEqual(uids.IMPLICIT_VR, named)

    def test_not_stored_by_c_store(self) -> None:
        """DICOMDIR and storage commitment are no storage SOP classes, whatever their names."""
        self.assertEqual(uids.NOT_STORED_BY_C_STORE & set(uids.STORAGE_SOP_CLASSES), set())

    def test_ours(self) -> None:
        """What the implementation calls itself is a strict UID and at most 16 characters."""
        self.assertTrue(uids.is_valid_uid(uids.IMPLEMENTATION_CLASS_UID))
        self.assertTrue(uids.is_strict_uid(uids.IMPLEMENTATION_CLASS_UID))
        self.assertTrue(1 <= len(uids.IMPLEMENTATION_VERSION_NAME) <= 16)

    def test_registered_uids_are_strict(self) -> None:
        """Every registered UID passes both tests."""
        for uid in (*uids.STORAGE_SOP_CLASSES, *uids.TRANSFER_SYNTAXES, uids.APPLICATION_CONTEXT_NAME):
            self.assertTrue(uids.is_valid_uid(uid) and uids.is_strict_uid(uid), uid)


class ValidTests(SynchronousTestCase):
    def test_strict(self) -> None:
        """UIDs that keep to PS3.5 9.1."""
        for uid in ("1.2.3", "0", "1.0.3", "2.25.0", "1", "1" * 64, "1.20.300"):
            self.assertTrue(uids.is_valid_uid(uid), uid)
            self.assertTrue(uids.is_strict_uid(uid), uid)

    def test_lax(self) -> None:
        """Leading zeros and empty components are in archives everywhere: valid, but not strict."""
        for uid in ("1.02.3", "00", "01", "1.2.00", "1..2", ".1", "1.", "...", "." * 64):
            self.assertTrue(uids.is_valid_uid(uid), uid)
            self.assertFalse(uids.is_strict_uid(uid), uid)

    def test_hostile(self) -> None:
        """Nothing that could leave its directory or is no digit or dot is a UID."""
        hostile = (
            "", ".", "..", "/", "/abs/1.2", "../../1.2", "1.2/3", "1.2/..", "1.2\\3", "..\\1",
            "1.2\0", "\x001.2", "1.2\n", "\n1.2", "1.2\r\n", "1.2 ", " 1.2", "1.2\t3",
            "1" * 65, "1.2." * 17, "abc.def", "1.2.a", "1e5", "0x1", "-1.2", "+1", "1,2", "1:2", "1*", "1?",
            "~", "%2e%2e", "%00", "CON", "1.2;ls", "$HOME", "\uff11.\uff12", "\u0661.\u0662",
            "1\u20242", "1\u30022", "\xb2",
        )  # fmt: skip
        for uid in hostile:
            self.assertFalse(uids.is_valid_uid(uid), repr(uid))

    @settings(deadline=None, max_examples=200, database=None)
    @given(st.one_of(st.text(max_size=70), st.text("0123456789./\\\0\n ", max_size=70)))
    def test_valid_is_a_file_name(self, uid: str) -> None:
        """What is valid is one component of a path and stays in its directory."""
        if uids.is_valid_uid(uid):
            self.assertEqual(os.path.normpath(os.path.join("/store", uid)), f"/store/{uid}")
            self.assertEqual(os.path.dirname(uid), "")
            self.assertTrue(uid.isascii())
            self.assertNotIn("\0", uid)


class SOPClassTests(SynchronousTestCase):
    def test_names(self) -> None:
        """A SOP class is found by its registered name or keyword; the current one, of two of one name."""
        for name, uid in (
            ("CT Image Storage", "1.2.840.10008.5.1.4.1.1.2"),
            ("CTImageStorage", "1.2.840.10008.5.1.4.1.1.2"),
            ("ctimagestorage", "1.2.840.10008.5.1.4.1.1.2"),
            ("Verification", uids.VERIFICATION),
            ("Verification SOP Class", uids.VERIFICATION),
            ("StudyRootQueryRetrieveInformationModelFind", uids.STUDY_ROOT_FIND),
            ("UltrasoundImageStorage", "1.2.840.10008.5.1.4.1.1.6.1"),
            ("UltrasoundMultiframeImageStorage", "1.2.840.10008.5.1.4.1.1.3.1"),
            ("NuclearMedicineImageStorage", "1.2.840.10008.5.1.4.1.1.20"),
            ("CT", None),
            ("", None),
        ):
            self.assertEqual(uids.sop_class_of(name), uid, name)

    def test_all(self) -> None:
        """Every one in the table is found by its name, but for three that have a successor of that name."""
        table = uids.STORAGE_SOP_CLASSES
        hidden = [uid for uid, name in table.items() if uids.sop_class_of(name) != uid]
        self.assertEqual([uid.rpartition(".")[2] for uid in hidden], ["3", "5", "6"])
