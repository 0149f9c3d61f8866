"""An index that is deleted or damaged while the server runs: what is stored is found in the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dicomtw import uids
from tests.faults import answer, incoming
from tests.interop.archive import PEER, archive, encode, identifier
from tests.interop.cases import CasesTestCase
from tests.interop.files import stored_data_set
from tests.interop.scu import CT, Scu, ct_data_set
from tests.interop.test_crash import indexed
from tests.interop.twistd import wait_until

CONTEXTS = {
    1: (CT, uids.IMPLICIT_VR_LITTLE_ENDIAN),
    3: (uids.STUDY_ROOT_FIND, uids.IMPLICIT_VR_LITTLE_ENDIAN),
}
#: What a query is answered while the index is made from the files, besides 0000H when it is.
UNAVAILABLE = 0xA700


def log_of(index: Path) -> Path:
    return index.with_name(f"{index.name}-wal")


def delete(index: Path) -> None:
    index.unlink()


def delete_log(index: Path) -> None:
    log_of(index).unlink()


def delete_all(index: Path) -> None:
    shutil.rmtree(index.parent)


def put_an_older_one(index: Path) -> None:
    shutil.copy(index, f"{index}.older")
    os.rename(f"{index}.older", index)


def overwrite(index: Path) -> None:
    """Everything but what SQLite has mapped into memory."""
    for path in (index, log_of(index)):
        with open(path, "r+b") as file:
            file.write(b"\xa5" * path.stat().st_size)


def truncate(index: Path) -> None:
    for path in (log_of(index), index):
        os.truncate(path, 100)


LOSSES: tuple[Callable[[Path], None], ...] = (
    delete,
    delete_log,
    delete_all,
    put_an_older_one,
    overwrite,
    truncate,
)


class LostTests(CasesTestCase):
    def test_strict(self) -> None:
        """Strict: what is sent meanwhile is 0000H and found later, or A700H; queries find all, or fail."""
        self._test("strict")

    def test_relaxed(self) -> None:
        """Relaxed: what is sent meanwhile is 0000H and found later; queries are refused or find all."""
        self._test("relaxed")

    def _test(self, durability: str) -> None:
        server = archive(self, f"--durability={durability}", "--accept-any-ae")
        acknowledged: dict[str, bytes] = {}
        with Scu(server.address) as scu:
            scu.associate(CONTEXTS, calling=PEER)

            def store(uid: str) -> str:
                content = ct_data_set(uid, os.urandom(1000), study=uid)
                status, _ = answer(scu, uid, content)
                if status == "0000":
                    acknowledged[uid] = content
                return status

            def find() -> set[str] | None:
                """What a query finds, None: it is refused."""
                key = identifier("STUDY", StudyInstanceUID="")
                *found, final = scu.find(encode(key, uids.IMPLICIT_VR_LITTLE_ENDIAN), 3)
                if final.status == UNAVAILABLE:
                    return None
                self.assertEqual(final.status, 0)
                return {uid for uid in acknowledged if any(uid.encode() in each.data_set for each in found)}

            for number, lose in enumerate(LOSSES, 1):
                with self.case(lose.__name__):
                    for more in range(20):
                        self.assertEqual(store(f"1.2.{number}.1{more:02}"), "0000")
                    self.assertEqual(find(), set(acknowledged))
                    lose(server.store / ".index" / "index.sqlite3")
                    statuses = [store(f"1.2.{number}.2{more:02}") for more in range(20)]
                    self.assertLessEqual(set(statuses), {"0000", "A700"})
                    self.assertLessEqual(statuses.count("A700"), 1)
                    # What is found by then is all, or nobody is told that there is nothing.
                    self.assertIn(find(), (None, set(acknowledged)))
                    wait_until(lambda: find() == set(acknowledged), "everything is found")
                    self.assertIn("is lost: ", server.wait_for_log(f"the index of {server.store} is lost"))
                    self.assertEqual(server.log.count("is lost: "), number)
            scu.release()
        server.kill()
        server.restart()
        objects = server.objects
        self.assertEqual({uid: stored_data_set(objects[uid]) for uid in acknowledged}, acknowledged)
        self.assertEqual(indexed(server.store), objects)
        self.assertEqual(incoming(server.store), [])
