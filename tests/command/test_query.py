"""dicomtw.command.find, move and get, with an archive of a few words in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.command import get as get_command
from dicomtw.command.arguments import parser
from dicomtw.command.contexts import COMMON_SOP_CLASSES
from dicomtw.command.echo import echo
from dicomtw.command.exits import Exit, Fault
from dicomtw.command.find import find
from dicomtw.command.get import get, sop_classes_of
from dicomtw.command.identifier import Question, question_of
from dicomtw.command.move import move, tell
from dicomtw.command.output import Written, form_of
from dicomtw.command.terminal import Progress
from dicomtw.errors import DimseError, NotAccepted, OperationFailed
from dicomtw.scu import Retrieval
from dicomtw.services import Operation, Response, ServiceClass
from dicomtw.services.verification import Verification
from dicomtw.storage.directory import DirectoryStore, Durability
from dicomtw.testing import MemoryServer
from dicomtw.transcode import decode, encode
from tests.command.memory import CT, MR, MemoryPeer, heard

Answer = Callable[[Dataset], list[dict[str, Any]]]


class Archive(ServiceClass):
    """Answers queries as `answer` says, by their identifier, and says how a retrieval has gone."""

    abstract_syntaxes = (
        uids.STUDY_ROOT_FIND,
        uids.STUDY_ROOT_MOVE,
        uids.STUDY_ROOT_GET,
        uids.PATIENT_ROOT_FIND,
    )

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Dataset] = []
        self.destinations: list[str] = []
        self.result = 0x0000
        #: How a query ends.
        self.found = 0x0000
        self.cancelled = False

    async def c_find(self, operation: Operation) -> AsyncGenerator[Response, None]:
        syntax = operation.context.transfer_syntax
        self.asked.append(decode(operation.data_set, syntax))
        for values in self.answer(self.asked[-1]):
            match = Dataset()
            for keyword, value in values.items():
                setattr(match, keyword, value)
            yield Response(0xFF00, encode(match, syntax))
        yield Response(self.found)

    async def _retrieve(self, operation: Operation) -> AsyncGenerator[Response, None]:
        self.asked.append(decode(operation.data_set, operation.context.transfer_syntax))
        self.destinations.append(operation.request.move_destination or "")
        counts = {f"number_of_{what}_sub_operations": 0 for what in ("failed", "warning")}
        for done in range(2):
            yield Response(
                0xFF00,
                elements=counts
                | {
                    "number_of_completed_sub_operations": done,
                    "number_of_remaining_sub_operations": 2 - done,
                },
            )
        yield Response(self.result, elements=counts | {"number_of_completed_sub_operations": 2})

    c_move = c_get = _retrieve


def question(words: str) -> Question:
    return question_of(parser().parse_args(["find", "localhost:104", *words.split()]))


class _Lines:
    """What is written, and what then fails."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""
        self.fault: Exception | None = None

    def write(self, text: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.text += text

    def flush(self) -> None:
        pass


def at_once(function: Callable[[], None]) -> Deferred[None]:
    return succeed(None).addCallback(lambda _: function())


class Bar(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(None, "")
        self.seen: list[tuple[int, int | None]] = []

    def at(self, done: int, total: int | None) -> None:
        self.seen.append((done, total))


class EchoTests(SynchronousTestCase):
    def test_repeat(self) -> None:
        """The peer is asked as often as was wanted, on one association."""
        server = MemoryServer.of(Verification())
        peer = MemoryPeer(server)
        seconds = peer.do(echo(peer, 3))  # type: ignore[arg-type]
        self.assertGreaterEqual(seconds, 0)
        self.assertEqual(peer.proposed, [[uids.VERIFICATION]])


class QueryTestCase(SynchronousTestCase):
    def use(self, answer: Answer = lambda _: []) -> None:
        self.archive = Archive(answer)
        self.peer: Any = MemoryPeer(MemoryServer.of(self.archive))


class FindTests(QueryTestCase):
    def find(self, words: str, form: str = "csv") -> str:
        self.lines = _Lines()
        return self.find_to(self.lines, words, form)

    def find_to(self, lines: _Lines, words: str, form: str) -> str:
        asked = question(words).with_usual_keys()
        written = Written(at_once, lines)
        self.number = self.peer.do(find(self.peer, asked, form_of(form, asked.columns), written))
        return lines.text

    def test_matches(self) -> None:
        """What is found is written in the columns that were asked for."""
        self.use(lambda _: [{"PatientID": "1", "PatientName": "A"}, {"PatientID": "2"}])
        self.assertEqual(self.find("-k PatientName -k PatientID"), "PatientName,PatientID\nA,1\n,2\n")
        self.assertEqual(self.number, 2)

    def test_asked(self) -> None:
        """The peer gets level and keys, in the information model of the level."""
        self.use()
        self.find("-L PATIENT -k PatientID=7 -k PatientName")
        (asked,) = self.archive.asked
        self.assertEqual((asked.QueryRetrieveLevel, asked.PatientID, asked.PatientName), ("PATIENT", "7", ""))
        self.assertEqual(self.peer.proposed, [[uids.PATIENT_ROOT_FIND]])

    def test_none(self) -> None:
        """Where nothing is found all is well."""
        self.use()
        self.assertEqual(self.find("", "json"), "")
        self.assertEqual(self.number, 0)

    def test_refused(self) -> None:
        """A peer that refuses the query, or the information model, is a fault with its words."""

        def refuse(_: Dataset) -> list[dict[str, Any]]:
            raise DimseError(0xA900, "no")

        self.use(refuse)
        self.assertRaises(OperationFailed, self.find, "")
        self.peer = MemoryPeer(MemoryServer.of(Verification()))
        self.assertRaises(NotAccepted, self.find, "")

    def test_ended_early(self) -> None:
        """A query that the peer ends early is a fault, after what was found."""
        for status in (0xFE00, 0xB000):
            self.use(lambda _: [{"PatientID": "1"}])
            self.archive.found = status
            fault = self.assertRaises(Fault, self.find, "-k PatientID")
            words = f"the peer may not have told all: it ended the query with status {status:04X}H"
            self.assertEqual((str(fault), fault.status), (f"{words} after 1 matches", Exit.FAILED))
            self.assertEqual(self.lines.text, "PatientID\n1\n")

    def test_nobody_reads(self) -> None:
        """When nobody reads any more the query is ended, and that is told as it is."""
        self.use(lambda _: [{"PatientID": str(number)} for number in range(100)])
        lines = _Lines()
        lines.fault = BrokenPipeError()
        self.assertRaises(BrokenPipeError, self.find_to, lines, "", "json")


class MoveTests(QueryTestCase):
    def test_move(self) -> None:
        """The peer is told what and whither, and says how far it has come."""
        self.use()
        bar = Bar()
        asked = question("-k StudyInstanceUID=1.2")
        retrieval = self.peer.do(move(self.peer, asked, "WORKSTATION", bar))
        self.assertEqual((retrieval.completed, retrieval.failed), (2, 0))
        self.assertEqual(self.archive.asked[0].StudyInstanceUID, "1.2")
        self.assertEqual(self.archive.destinations, ["WORKSTATION"])
        self.assertEqual(bar.seen, [(0, 2), (1, 2)])

    def test_told(self) -> None:
        """How it went is one line, and all is well if nothing failed."""
        cases = [
            (Retrieval(0x0000, 2, 0, 0), 0, "2 objects there"),
            (Retrieval(0x0000, 1, 0, 0), 0, "1 object there"),
            (Retrieval(0x0000, 0, 0, 0), 0, "0 objects there"),
            (Retrieval(0xB000, 1, 0, 1), 0, "2 objects there, 1 with warnings"),
            (Retrieval(0xB000, 1, 2, 0), 3, "1 object there, 2 failed"),
            (Retrieval(0xFE00, 1, 0, 0), 3, "1 object there"),
        ]
        for retrieval, status, line in cases:
            with heard() as (out, _):
                self.assertEqual(tell(retrieval, "there"), status)
            self.assertEqual(out.getvalue(), line + "\n")

    def test_failed_uids(self) -> None:
        """Which objects failed is told to those who ask."""
        with heard(1) as (_, err):
            tell(Retrieval(0xB000, 0, 1, 0, failed_sop_instance_uids=("1.2.3",)), "there")
        self.assertEqual(err.getvalue(), "dicomtw: failed: 1.2.3\n")


class SOPClassTests(QueryTestCase):
    """How `get` learns what there is to be had."""

    def classes(self, words: str) -> list[str]:
        found: list[str] = self.peer.do(sop_classes_of(self.peer, question(words)))
        return found

    def levels(self) -> list[str]:
        return [asked.QueryRetrieveLevel for asked in self.archive.asked]

    def test_study(self) -> None:
        """A peer that knows the SOP classes of a study is asked once."""
        self.use(lambda _: [{"SOPClassesInStudy": [CT, MR], "StudyInstanceUID": "1.2"}])
        self.assertEqual(self.classes("-k StudyInstanceUID=1.2"), [CT, MR])
        self.assertEqual(self.levels(), ["STUDY"])

    def test_instances(self) -> None:
        """Where it does not, series and instances are asked for."""

        def answer(asked: Dataset) -> list[dict[str, Any]]:
            if asked.QueryRetrieveLevel == "STUDY":
                return [{"StudyInstanceUID": asked.StudyInstanceUID}]
            if asked.QueryRetrieveLevel == "SERIES":
                return [{"SeriesInstanceUID": f"{asked.StudyInstanceUID}.{number}"} for number in (1, 2)]
            return [{"SOPClassUID": CT if asked.SeriesInstanceUID.endswith("1") else MR}] * 2

        self.use(answer)
        self.assertEqual(self.classes("-k StudyInstanceUID=1.2"), [CT, MR])
        self.assertEqual(self.levels(), ["STUDY", "SERIES", "IMAGE", "IMAGE"])
        asked = self.archive.asked[-1]
        self.assertEqual((asked.StudyInstanceUID, asked.SeriesInstanceUID), ("1.2", "1.2.2"))

    def test_patient(self) -> None:
        """For a patient the studies are asked for."""
        self.use(lambda _: [{"SOPClassesInStudy": CT}, {"SOPClassesInStudy": CT}])
        self.assertEqual(self.classes("-L PATIENT -k PatientID=7"), [CT])
        self.assertEqual(self.archive.asked[0].PatientID, "7")
        self.assertEqual(self.levels(), ["STUDY"])

    def test_series(self) -> None:
        """For a series its instances are, by the keys that name it alone."""
        self.use(lambda _: [{"SOPClassUID": CT}])
        self.assertEqual(self.classes("-L SERIES -k StudyInstanceUID=1.2 -k SeriesInstanceUID=1.3"), [CT])
        (asked,) = self.archive.asked
        self.assertEqual((asked.StudyInstanceUID, asked.SeriesInstanceUID), ("1.2", "1.3"))

    def test_no_answer(self) -> None:
        """A peer that does not say what there is leaves the common SOP classes."""

        def refuse(_: Dataset) -> list[dict[str, Any]]:
            raise DimseError(0xA900, "no")

        for answer in (refuse, lambda _: []):
            self.use(answer)
            self.assertEqual(self.classes("-k StudyInstanceUID=1.2"), [])
        self.peer = MemoryPeer(MemoryServer.of(Verification()))
        self.assertEqual(self.classes("-k StudyInstanceUID=1.2"), [])


class GetTests(QueryTestCase):
    def get(self) -> Retrieval:
        store = DirectoryStore(Path(self.mktemp()), Durability.RELAXED)
        store.prepare()
        self.addCleanup(store.close)
        retrieval: Retrieval = self.peer.do(get(self.peer, question("-k StudyInstanceUID=1.2"), store, Bar()))
        return retrieval

    def test_known(self) -> None:
        """The SOP classes that there are are proposed, and no others."""
        self.use(lambda _: [{"SOPClassesInStudy": [CT]}])
        self.assertEqual(self.get().completed, 2)
        _, proposed = self.peer.proposed
        self.assertEqual(proposed[0], uids.STUDY_ROOT_GET)
        self.assertEqual({sop_class_uid for sop_class_uid, _ in proposed[1:]}, {CT})

    def test_not_known(self) -> None:
        """Where nobody knows, the common ones are, on one association."""
        self.use()
        self.assertEqual(self.get().completed, 2)
        _, proposed = self.peer.proposed
        self.assertLessEqual(len(proposed), 128)
        self.assertEqual({sop_class_uid for sop_class_uid, _ in proposed[1:]}, set(COMMON_SOP_CLASSES))

    def test_too_many(self) -> None:
        """What one association has no room for is told, by name."""
        classes = [f"1.2.{number}" for number in range(126)] + [CT, MR, "1.2.999"]
        self.use(lambda _: [{"SOPClassesInStudy": classes}])
        with heard() as (_, err):
            self.assertEqual(self.get().completed, 2)
        self.assertEqual(len(self.peer.proposed[1]), 128)
        words = "dicomtw: there is no room on the association for {}: objects of it do not come\n"
        self.assertEqual(err.getvalue(), words.format("MR Image Storage") + words.format("1.2.999"))

    def test_told_in_part(self) -> None:
        """Where the peer may not have told all SOP classes that is said, and those it told are proposed."""
        self.use(lambda _: [{"SOPClassesInStudy": [CT]}])
        self.archive.found = 0xFE00
        with heard() as (_, err):
            self.assertEqual(self.get().completed, 2)
        words = "SOP classes: the peer may not have told all: it ended the query with status FE00H"
        self.assertEqual(err.getvalue(), f"dicomtw: {words}\n")

    def test_store_of_a_server(self) -> None:
        """Nothing is put into a server's store past the server, which would not know of it."""
        root = Path(self.mktemp())
        (root / ".index").mkdir(parents=True)
        words = ["get", "localhost:1", "-k", "StudyInstanceUID=1.2", "-o", str(root)]
        fault = self.assertRaises(Fault, get_command.run, parser().parse_args(words))
        self.assertIn("is a server's store", str(fault))

    def test_unusable_directory(self) -> None:
        """A directory that cannot be made is a fault that names it."""
        words = ["get", "localhost:1", "-k", "StudyInstanceUID=1.2", "-o", "/dev/null/x"]
        fault = self.assertRaises(Fault, get_command.run, parser().parse_args(words))
        self.assertEqual(str(fault), "cannot use /dev/null/x: Not a directory")
