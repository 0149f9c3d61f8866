"""An object that is there is sent again, and that comes to nothing: it is as it was, whoever cut it short."""

from __future__ import annotations

from collections.abc import Callable

from dicomtw.ul.pdu import A_ABORT
from tests.faults import answer, files_in, incoming
from tests.interop.cases import CasesTestCase
from tests.interop.files import stored_data_set
from tests.interop.scu import CT_IMPLICIT, Scu, c_store_rq, ct_data_set, message
from tests.interop.strace import injected
from tests.interop.twistd import Twistd, wait_until

UID = "1.2.3.1"
EARLIER = ct_data_set(UID, b"\1" * 100_000)
OTHER = ct_data_set(UID, b"\2" * 300_000)

#: How somebody ends it in the midst of the data set, after whole PDUs.
ENDINGS: dict[str, Callable[[Scu], object]] = {
    "A-ABORT": lambda scu: scu.send(A_ABORT(0, 0)),
    "FIN": lambda scu: scu.close(),
    "A-RELEASE-RQ": lambda scu: scu.release(),
}

#: For --on-duplicate: what is answered to other bytes, and what is there then.
POLICIES = {"replace": ("0000", OTHER), "keep": ("0000", EARLIER), "refuse": ("0111", EARLIER)}


class ResendTests(CasesTestCase):
    def test_resend(self) -> None:
        """A-ABORT, FIN, A-RELEASE-RQ, a full disk, another UID: bytes, inode and time stay as they were."""
        for policy, (status, kept) in POLICIES.items():
            server = Twistd(self, f"--on-duplicate={policy}")
            with Scu(server.address) as scu:
                scu.associate(CT_IMPLICIT)
                self.assertEqual(scu.store(UID, EARLIER), 0)
                before = files_in(server.store)

                def assert_unchanged() -> None:
                    wait_until(lambda: not incoming(server.store), "nothing is left of it")  # noqa: B023
                    self.assertEqual(files_in(server.store), before)  # noqa: B023

                for number, (what, end) in enumerate(ENDINGS.items(), 1):
                    with self.case(policy, what), Scu(server.address) as other:
                        other.associate(CT_IMPLICIT)
                        other.send(*message(1, c_store_rq(UID), OTHER)[:12])
                        wait_until(lambda: incoming(server.store), "it is begun")  # noqa: B023
                        end(other)
                        server.wait_for_summaries(number)
                        assert_unchanged()
                with self.case(policy, "ENOSPC"):
                    with injected(server, "writev:error=ENOSPC:when=3+"):
                        self.assertEqual(answer(scu, UID, OTHER), ("A700", "No space left on device"))
                    assert_unchanged()
                with self.case(policy, "another UID"):
                    self.assertEqual(answer(scu, UID, ct_data_set("1.2.3.2", b"\2" * 300_000))[0], "A900")
                    assert_unchanged()
                with self.case(policy, "another SOP class"):
                    other_class = ct_data_set(UID, b"\2" * 300_000, sop_class_uid="1.2.840.10008.5.1.4.1.1.4")
                    self.assertEqual(answer(scu, UID, other_class)[0], "A900")
                    assert_unchanged()
                with self.case(policy, "no data set"):
                    self.assertEqual(answer(scu, UID, b"\2" * 300_000)[0][:1], "C")
                    assert_unchanged()
                with self.case(policy, "whole"):
                    self.assertEqual(answer(scu, UID, OTHER)[0], status)
                    self.assertEqual(stored_data_set(server.objects[UID]), kept)
                scu.release()
