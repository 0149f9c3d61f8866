"""dicomtw.command.send: every file is sent, or told of, on as many associations as it takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.command.arguments import parser
from dicomtw.command.contexts import Batch, batches
from dicomtw.command.exits import Fault
from dicomtw.command.files import Scan
from dicomtw.command.journal import Journal
from dicomtw.command.send import Outcome, Sending, look_for, run
from dicomtw.command.terminal import Progress
from dicomtw.errors import AssociationLost, DimseError, NotConnected
from dicomtw.services import Operation, ServiceClass
from dicomtw.services.storage import Storage
from dicomtw.storage import DataSetSink
from dicomtw.testing import MemoryServer, MemoryStore
from tests.command.memory import CT, JPEG, MR, MemoryPeer, heard, peer_named, write_object


class Moody(Storage):
    """A storage service that does as its `mood` says, by SOP Instance UID."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.mood: dict[str, str] = {}
        self.seen: list[str] = []

    def data_set_sink(self, operation: Operation) -> DataSetSink:
        uid = operation.request.affected_sop_instance_uid or ""
        self.seen.append(uid)
        if self.mood.get(uid) == "abort":
            raise ZeroDivisionError("a bug of the peer's")
        if self.mood.get(uid) == "refuse":
            raise DimseError(0xA700, "disk full")
        return super().data_set_sink(operation)

    async def c_store(self, operation: Operation) -> int:
        await super().c_store(operation)
        return 0xB000 if self.mood.get(operation.request.affected_sop_instance_uid or "") == "warn" else 0


class OnlyUncompressed(ServiceClass):
    """Stores CT images, and takes no compressed transfer syntax."""

    abstract_syntaxes = (CT,)

    async def c_store(self, operation: Operation) -> int:
        return 0


class SendingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.store = MemoryStore()
        self.service = Moody(self.store)
        self.use(self.service)

    def use(self, service: ServiceClass) -> None:
        self.server = MemoryServer.of(service)
        self.peer = MemoryPeer(self.server)

    def files(self, count: int, **kinds: str) -> list[Batch]:
        for number in range(count):
            write_object(self.root / f"{number}.dcm", number, **kinds)
        return self.found()

    def found(self) -> list[Batch]:
        self.scan = Scan()
        look_for([self.root], self.scan)
        self.outcome = Outcome(self.scan)
        return batches(self.scan.found)

    def send(
        self, found: Iterable[Batch], jobs: int = 1, window: int = 1, journal: Journal | None = None
    ) -> str:
        """What is said while the files are sent."""
        with heard() as (_, err):
            sending = Sending(self.peer, window, journal, Progress(None, ""), self.outcome)  # type: ignore[arg-type]
            try:
                self.peer.do(sending.send(found, jobs))
            finally:
                said = err.getvalue()
        return said

    def uids(self, *numbers: int) -> list[str]:
        return [f"1.2.3.{number}" for number in numbers]

    def test_all(self) -> None:
        """All files arrive, in one association, as they are."""
        self.assertEqual(self.send(self.files(5)), "")
        self.assertEqual((self.outcome.sent, self.outcome.failed), (5, 0))
        self.assertEqual(sorted(self.service.seen), self.uids(0, 1, 2, 3, 4))
        self.assertEqual(len(self.peer.proposed), 1)

    def test_jobs_and_window(self) -> None:
        """With several associations, and several files under way on each, each file is sent once."""
        self.send(self.files(40), jobs=3, window=4)
        self.assertEqual(self.outcome.sent, 40)
        self.assertCountEqual(self.service.seen, self.uids(*range(40)))
        self.assertEqual(len(self.peer.proposed), 3)

    def test_no_more_jobs_than_files(self) -> None:
        """Nobody associates who has nothing to send."""
        self.send(self.files(2), jobs=8)
        self.assertEqual(len(self.peer.proposed), 2)

    def test_batches(self) -> None:
        """What does not fit into the contexts of one association goes on a second one."""
        write_object(self.root / "ct", 1)
        write_object(self.root / "mr", 2, sop_class_uid=MR)
        self.found()
        self.send(batches(self.scan.found, limit=2))
        self.assertEqual(self.outcome.sent, 2)
        self.assertEqual([contexts[0][0] for contexts in self.peer.proposed], [CT, MR])

    def test_transfer_syntax_of_its_own(self) -> None:
        """A compressed file is sent in its own transfer syntax."""
        self.send(self.files(1, transfer_syntax_uid=JPEG))
        self.assertEqual(self.outcome.sent, 1)
        ((_, stored),) = self.store.objects.items()
        self.assertEqual(stored[0].transfer_syntax_uid, JPEG)

    def test_refused(self) -> None:
        """A failure is told with its file, and the others are sent."""
        self.service.mood = {"1.2.3.1": "refuse"}
        said = self.send(self.files(3))
        self.assertEqual(said, f"dicomtw: {self.root}/1.dcm: C-STORE failed with status A700H: disk full\n")
        self.assertEqual((self.outcome.sent, self.outcome.failed), (2, 1))

    def test_warned(self) -> None:
        """A file that was stored with a warning has arrived, and is counted."""
        self.service.mood = {"1.2.3.1": "warn"}
        self.assertEqual(self.send(self.files(2)), "")
        self.assertEqual((self.outcome.sent, self.outcome.warnings), (2, 1))
        self.assertIn("2 objects (0.0 MB) sent to PMOD@memory:104 in", self.outcome.line(self.peer))  # type: ignore[arg-type]
        self.assertIn(", 1 with warnings", self.outcome.line(self.peer))  # type: ignore[arg-type]

    def test_many_failures(self) -> None:
        """Not every one of many failures has a line."""
        self.service.mood = dict.fromkeys(self.uids(*range(15)), "refuse")
        said = self.send(self.files(15)).splitlines()
        self.assertEqual(len(said), 11)
        self.assertEqual(said[-1], "dicomtw: further failures are counted only; -v tells them too")
        self.assertEqual(self.outcome.failed, 15)

    def test_not_accepted(self) -> None:
        """A file that no accepted context is for is told with the reason."""
        self.use(OnlyUncompressed())
        said = self.send(self.files(1, sop_class_uid=MR))
        self.assertIn("no presentation context for MR Image Storage: the peer has refused it", said)
        self.assertEqual((self.outcome.sent, self.outcome.failed), (0, 1))

    def test_gone(self) -> None:
        """A file that is not there any more is one that failed, and the rest is sent."""
        found = self.files(3)
        (self.root / "1.dcm").unlink()
        self.assertEqual(self.send(found), f"dicomtw: {self.root}/1.dcm: No such file or directory\n")
        self.assertEqual((self.outcome.sent, self.outcome.failed), (2, 1))

    def test_association_lost(self) -> None:
        """Where an association ends under files each is tried alone, so that only the culprits fail."""
        self.service.mood = {"1.2.3.1": "abort", "1.2.3.2": "abort"}
        said = self.send(self.files(20), window=4, jobs=2)
        self.flushLoggedErrors(ZeroDivisionError)
        for number in (1, 2):
            self.assertIn(f"{self.root}/{number}.dcm: aborted by the peer", said)
            self.assertLessEqual(self.service.seen.count(f"1.2.3.{number}"), 3)
        self.assertEqual((self.outcome.sent, self.outcome.failed), (18, 2))

    def test_fruitless(self) -> None:
        """A peer that ends each association is given up after ten."""
        self.service.mood = dict.fromkeys(self.uids(*range(20)), "abort")
        self.assertRaises(AssociationLost, self.send, self.files(20))
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(len(self.peer.proposed), 10)
        self.assertEqual(self.outcome.sent, 0)
        self.assertIn(", 20 not sent", self.outcome.line(self.peer))  # type: ignore[arg-type]

    def test_left_over(self) -> None:
        """What comes back when all others have found nothing more to send is sent all the same."""
        found = self.files(2)
        sending = Sending(self.peer, 1, None, Progress(None, ""), self.outcome)  # type: ignore[arg-type]
        job, calls = sending._job, 0

        async def late(batch: Batch, alone: bool) -> AssociationLost | None:
            nonlocal calls
            calls += 1
            return None if calls <= 2 else await job(batch, alone)

        self.patch(sending, "_job", late)
        self.peer.do(sending.send(found, 2))
        self.assertEqual((self.outcome.sent, self.outcome.failed), (2, 0))

    def test_not_connected(self) -> None:
        """A peer that cannot be reached is a fault of the whole command."""
        self.peer.fault = NotConnected("cannot connect")
        self.assertRaises(NotConnected, self.send, self.files(2), 2)
        self.assertEqual(len(self.peer.proposed), 2)

    def test_journal(self) -> None:
        """What has arrived is in the journal, and what was refused is not."""
        self.service.mood = {"1.2.3.1": "refuse"}
        path = Path(self.mktemp())
        journal = Journal(path, peer_named())
        self.send(self.files(3), journal=journal)
        journal.close()
        journal = Journal(path, peer_named())
        self.addCleanup(journal.close)
        scan = Scan(journal.arrived)
        look_for([self.root], scan)
        self.assertEqual([file.sop_instance_uid for file in scan.found], self.uids(1))
        self.assertEqual(scan.earlier, 2)

    def test_journal_full(self) -> None:
        """If what arrives cannot be written down, nothing more is sent."""
        journal = Journal(Path("/dev/full"), peer_named())
        self.addCleanup(journal.close)
        fault = self.assertRaises(Fault, self.send, self.files(3), journal=journal)
        self.assertIn("No space left on device", str(fault))
        self.assertEqual(self.service.seen, self.uids(0))


class RunTests(SynchronousTestCase):
    """What ends before anything is sent."""

    def run_words(self, *words: str, verbosity: int = 0) -> tuple[int, str, str]:
        with heard(verbosity) as (out, err):
            status = run(parser().parse_args(["send", "PMOD@localhost:1", *words]))
        return status, out.getvalue(), err.getvalue()

    def test_nothing_to_send(self) -> None:
        """That there is nothing to send is a fault, for it is not what was meant."""
        root = Path(self.mktemp())
        root.mkdir()
        (root / "a.txt").write_text("text")
        fault = self.assertRaises(Fault, self.run_words, str(root))
        self.assertEqual(str(fault), "nothing to send: 1 file and no DICOM among them")

    def test_told(self) -> None:
        """Who names a file is told why it is skipped; of those found in a directory -v tells."""
        root = Path(self.mktemp())
        root.mkdir()
        (root / "a.txt").write_text("text")
        for path, verbosity, is_told in [(root / "a.txt", 0, True), (root, 0, False), (root, 1, True)]:
            with heard(verbosity) as (_, err):
                look_for([path], Scan())
            said = f"dicomtw: {root}/a.txt: skipped: not a DICOM file\n"
            self.assertEqual(err.getvalue(), said if is_told else "")

    def test_all_arrived(self) -> None:
        """If everything has arrived before nobody connects, and all is well."""
        path = write_object(Path(self.mktemp()) / "x")
        kept = Path(self.mktemp())
        journal = Journal(kept, peer_named(port=1))
        scan = Scan()
        scan.look(str(path))
        journal.add(scan.found[0])
        journal.close()
        status, out, _ = self.run_words(str(path), "--resume", f"--journal={kept}")
        self.assertEqual(status, 0)
        self.assertIn("0 objects (0.0 MB) sent to PMOD@localhost:1 in 0.0 s, 1 had arrived before", out)

    def test_transfer_syntaxes(self) -> None:
        """What is found keeps the transfer syntax that its file names."""
        path = write_object(Path(self.mktemp()) / "x", transfer_syntax_uid=uids.IMPLICIT_VR_LITTLE_ENDIAN)
        scan = Scan()
        look_for([path], scan)
        self.assertEqual(scan.found[0].transfer_syntax_uid, uids.IMPLICIT_VR_LITTLE_ENDIAN)
