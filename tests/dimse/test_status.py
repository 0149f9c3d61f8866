"""Status codes against PS3.7 Annex C and PS3.4 Tables B.2-1 and C.4-1, typed a second time."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.dimse import status
from dicomtw.dimse.status import Category

TABLE = {
    "SUCCESS": 0x0000,  # PS3.7 C.1.1
    "PENDING": 0xFF00,  # C.1.3
    "PENDING_WITH_WARNING": 0xFF01,  # PS3.4 Table C.4-1
    "CANCEL": 0xFE00,  # C.3
    "PROCESSING_FAILURE": 0x0110,  # C.5.21
    "DUPLICATE_SOP_INSTANCE": 0x0111,  # C.5.7
    "NO_SUCH_SOP_INSTANCE": 0x0112,
    "INVALID_SOP_INSTANCE": 0x0117,
    "SOP_CLASS_NOT_SUPPORTED": 0x0122,
    "NOT_AUTHORIZED": 0x0124,
    "DUPLICATE_INVOCATION": 0x0210,
    "UNRECOGNIZED_OPERATION": 0x0211,
    "MISTYPED_ARGUMENT": 0x0212,
    "OUT_OF_RESOURCES": 0xA700,  # PS3.4 Table B.2-1
    "DATA_SET_DOES_NOT_MATCH_SOP_CLASS": 0xA900,
    "CANNOT_UNDERSTAND": 0xC000,
    "IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS": 0xA900,  # PS3.4 Tables C.4-1 to C.4-3
    "UNABLE_TO_CALCULATE_MATCHES": 0xA701,
    "UNABLE_TO_PERFORM_SUB_OPERATIONS": 0xA702,
    "MOVE_DESTINATION_UNKNOWN": 0xA801,
    "SUB_OPERATIONS_COMPLETE_WITH_FAILURES": 0xB000,
}


class StatusTests(SynchronousTestCase):
    def test_codes(self) -> None:
        """The codes are the standard's."""
        for name, code in TABLE.items():
            self.assertEqual(getattr(status, name), code, name)
        named = {name for name, value in vars(status).items() if isinstance(value, int)}
        self.assertEqual(named, set(TABLE))

    def test_categories(self) -> None:
        """Each code that the standard gives a meaning is in its category."""
        table = {
            Category.SUCCESS: [0x0000],
            Category.PENDING: [0xFF00, 0xFF01],
            Category.CANCEL: [0xFE00],
            Category.WARNING: [0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007, 0xBFFF],
            Category.FAILURE: [
                *(0x0105, 0x0106, 0x0110, 0x0111, 0x0112, 0x0113, 0x0114, 0x0115, 0x0117, 0x0118, 0x0119),
                *(0x0120, 0x0121, 0x0122, 0x0123, 0x0124, 0x0210, 0x0211, 0x0212, 0x0213),
                *(0xA700, 0xA701, 0xA702, 0xA801, 0xA900, 0xA9FF, 0xAFFF, 0xC000, 0xC001, 0xCFFF),
            ],
        }
        for category, codes in table.items():
            for code in codes:
                self.assertIs(status.category(code), category, f"{code:04X}H")

    def test_every_code(self) -> None:
        """What the standard does not list is a failure: nothing unknown passes for success or a warning."""
        others = {code for code in range(0x10000) if status.category(code) is not Category.FAILURE}
        warnings = {0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}
        self.assertEqual(others, warnings | {0x0000, 0xFE00, 0xFF00, 0xFF01})

    def test_names(self) -> None:
        """Categories are named as in PS3.7 C.1, for they are shown."""
        self.assertEqual(
            [category.value for category in Category], ["Success", "Warning", "Failure", "Cancel", "Pending"]
        )
