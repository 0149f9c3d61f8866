"""PS3.4 C.4.2 and C.4.3: what C-MOVE and C-GET send, and what they say of it."""

from __future__ import annotations

import errno
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.dimse.messages import C_GET_RQ, C_STORE_RSP, Command
from dicomtw.errors import AssociationLost, Cancelled, NotConnected, OperationFailed
from dicomtw.operations import or_cancelled
from dicomtw.requestor import RequestedAssociation
from dicomtw.scu import SCU, Retrieval
from dicomtw.services import Operation, ServiceClass, reading, retrieve, selection
from dicomtw.services.retrieve import Get, Move
from dicomtw.services.selection import Group
from dicomtw.services.storage import Storage
from dicomtw.storage.data_set_file import DataSetFile, open_data_set
from dicomtw.storage.index.cursor import Cursor
from dicomtw.testing import MemoryServer, MemoryStore, message
from dicomtw.transcode import encode
from dicomtw.ul.items import RoleSelection
from dicomtw.ul.pdu import A_ABORT
from tests.services.archive import CT, EXPLICIT, IMPLICIT, MR, Archive, ct, data_set

JPEG = "1.2.840.10008.1.2.4.50"
MODELS = {
    "MOVE": (uids.PATIENT_ROOT_MOVE, uids.STUDY_ROOT_MOVE, uids.PATIENT_STUDY_ONLY_MOVE),
    "GET": (uids.PATIENT_ROOT_GET, uids.STUDY_ROOT_GET, uids.PATIENT_STUDY_ONLY_GET),
}


class AnsweringStorage(Storage):
    """A storage service that answers what it is told to, and has done to it what a test does meanwhile."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        super().__init__(self.store)
        #: By SOP Instance UID; others are stored and answered with success.
        self.answers: dict[str, int] = {}
        self.requests: list[Any] = []
        self.waiting: Deferred[None] | None = None
        self.syntaxes: Sequence[str] = (IMPLICIT, EXPLICIT, JPEG)

    def offer(self, abstract_syntax: str) -> Any:
        offer = super().offer(abstract_syntax)
        return type(offer)(self.syntaxes, scp_role=True)

    async def c_store(self, operation: Operation) -> int:
        self.requests.append(operation.request)
        if self.waiting is not None:
            await self.waiting
        answer = self.answers.get(operation.request.affected_sop_instance_uid or "", 0)
        if answer == 0:
            await super().c_store(operation)
        return answer

    @property
    def stored(self) -> list[str]:
        return list(self.store.objects)


class RetrieveTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.archive = Archive(Path(self.mktemp()))
        self.addCleanup(self.archive.index.close)
        self.receiver = AnsweringStorage()
        archive = self.archive
        self.server = MemoryServer.of(
            Get(archive.index, archive, archive.root),
            Move(archive.index, archive, archive.root, self),
            Storage(MemoryStore()),  # whose classes can be stored to a requestor
        )
        self.destination = MemoryServer.of(self.receiver)
        self.destination.clock = self.server.clock
        self.destination.factory.clock = self.server.clock
        #: What an association with the destination fails with, or waits for.
        self.fault: Exception | None = None
        self.waiting: Deferred[None] | None = None
        self.proposed: list[Any] = []
        self.progress: list[Retrieval] = []

    # -- services.retrieve.Destinations

    def __contains__(self, title: object) -> bool:
        return title == "WS"

    def associate(self, title: str, contexts: Any) -> Deferred[RequestedAssociation]:
        self.proposed.append(contexts)

        async def associated() -> RequestedAssociation:
            if self.waiting is not None:
                await self.waiting
            if self.fault is not None:
                raise self.fault
            associating = self.destination.associating(contexts, calling="PMOD", called="PMOD")
            return (await associating).association

        return or_cancelled(Deferred.fromCoroutine(associated()))

    # -- what the tests ask for

    def begin(
        self,
        operation: str,
        level: str,
        model: int = 1,
        contexts: Sequence[Any] = ((CT, (EXPLICIT,)), (MR, (EXPLICIT,))),
        relational: bool = False,
        **keys: Any,
    ) -> Deferred[Retrieval]:
        """Ask for something, by C-MOVE to WS or C-GET of these contexts."""
        sop_class_uid = MODELS[operation][model]
        services: list[ServiceClass] = [self.receiver] if operation == "GET" else []
        extended = {sop_class_uid: b"\1"} if relational else {}
        proposed = [sop_class_uid, *(contexts if operation == "GET" else ())]
        self.scu: SCU = self.server.associate(proposed, services=services, extended_negotiation=extended)
        keys["QueryRetrieveLevel"] = level
        if operation == "GET":
            return self.scu.c_get(
                data_set(**keys), sop_class_uid=sop_class_uid, progress=self.progress.append
            )
        return self.scu.c_move(
            data_set(**keys), "WS", sop_class_uid=sop_class_uid, progress=self.progress.append
        )

    def retrieve(self, *arguments: Any, **keys: Any) -> Retrieval:
        retrieval = self.begin(*arguments, **keys)
        self.server.clock.advance(0)
        return self.successResultOf(retrieval)

    def refusal(self, *arguments: Any, **keys: Any) -> OperationFailed:
        retrieval = self.begin(*arguments, **keys)
        self.server.clock.advance(0)
        fault: OperationFailed = self.failureResultOf(retrieval, OperationFailed).value
        return fault

    def server_counts(self) -> dict[str, int]:
        (protocol,) = self.server.factory.connections
        return dict(protocol.association.operations)


class SelectionTests(RetrieveTestCase):
    def test_levels(self) -> None:
        """Each model retrieves at each of its levels, in the order of series and Instance Number."""
        self.archive.fill(studies=2, series=2, instances=2)
        patient, study, series = (
            {"PatientID": "P1"},
            {"StudyInstanceUID": "1.1"},
            {"SeriesInstanceUID": "1.1.2"},
        )
        image = {"SOPInstanceUID": ["1.1.2.2", "1.1.2.1"]}
        first, second = ["1.1.1.1", "1.1.1.2"], ["1.1.2.1", "1.1.2.2"]
        for operation in MODELS:
            for model, level, keys, expected in (
                (0, "PATIENT", patient, first + second),
                (0, "STUDY", patient | study, first + second),
                (0, "SERIES", patient | study | series, second),
                (0, "IMAGE", patient | study | series | image, second),
                (1, "STUDY", study, first + second),
                (1, "SERIES", study | series, second),
                (1, "IMAGE", study | series | image, second),
                (2, "PATIENT", patient, first + second),
                (2, "STUDY", patient | study, first + second),
            ):
                self.receiver.store.objects.clear()
                retrieval = self.retrieve(operation, level, model, **keys)
                self.assertEqual(self.receiver.stored, expected, (operation, model, level))
                self.assertEqual((retrieval.status, retrieval.completed), (0, len(expected)))

    def test_list(self) -> None:
        """A list of UIDs retrieves all of them, and those that are not stored are none."""
        self.archive.fill(studies=3, series=1, instances=1)
        retrieval = self.retrieve("MOVE", "STUDY", StudyInstanceUID=["1.1", "1.3", "1.9"])
        self.assertEqual(self.receiver.stored, ["1.1.1.1", "1.3.1.1"])
        self.assertEqual((retrieval.completed, retrieval.failed), (2, 0))

    def test_nothing(self) -> None:
        """What is not stored is retrieved with success: there is nothing of it."""
        for operation in MODELS:
            retrieval = self.retrieve(operation, "STUDY", StudyInstanceUID="1.9")
            self.assertEqual((retrieval.status, retrieval.completed, retrieval.failed), (0, 0, 0))
        self.assertEqual(self.proposed, [], "nobody is connected to for nothing")

    def test_named(self) -> None:
        """PS3.4 C.4.2.2.1: what is retrieved is named, without wild cards and in its place; else A900H."""
        self.archive.fill(studies=1)
        for operation in MODELS:
            for level, keys in (
                ("STUDY", {}),
                ("STUDY", {"StudyInstanceUID": ""}),
                ("STUDY", {"PatientID": "P1"}),
                ("SERIES", {"SeriesInstanceUID": "1.1.1"}),
                ("PATIENT", {"PatientID": "P1"}),
                ("STUDY", {"StudyInstanceUID": "\\"}),
                ("STUDY", {"StudyInstanceUID": "1.1", "SOPInstanceUID": "1.1.1.1"}),
            ):
                self.assertEqual(self.refusal(operation, level, **keys).status, 0xA900, (level, keys))
            self.assertEqual(self.refusal(operation, "PATIENT", 0, PatientID="P*").status, 0xA900)

    def test_relational(self) -> None:
        """A relational retrieval needs no keys of the levels above."""
        self.archive.fill(studies=1, series=2, instances=1)
        self.retrieve("MOVE", "IMAGE", relational=True, SOPInstanceUID="1.1.2.1")
        self.assertEqual(self.receiver.stored, ["1.1.2.1"])

    def test_index(self) -> None:
        """An index that fails is A701H; why it does is for our log, not for the peer."""
        self.archive.fault = "locked"
        for operation in MODELS:
            with capturedLogs() as events:
                fault = self.refusal(operation, "STUDY", StudyInstanceUID="1.1")
            self.assertEqual((fault.status, fault.comment), (0xA701, "the index is not available"))
            self.assertIn("index: locked", [event.get("what") for event in events])


class SendingTests(RetrieveTestCase):
    def test_bit_for_bit(self) -> None:
        """A data set is sent as it is in the file, in its transfer syntax."""
        private = b"\x09\x00\x10\x10OB\0\0\0\xd0\x07\0" + bytes(range(256)) * 2000
        plain = encode(ct(1), EXPLICIT)
        at = plain.index(b"\x10\x00\x10\x00PN")
        content = plain[:at] + private + plain[at:]
        for operation in MODELS:
            self.receiver.store.objects.clear()
            self.archive.add(ct(1), JPEG, content)
            kinds = [(CT, (JPEG,)), (CT, (EXPLICIT,))]
            self.retrieve(operation, "STUDY", contexts=kinds, StudyInstanceUID="1.1")
            ((meta, received),) = self.receiver.store.objects.values()
            self.assertEqual((meta.transfer_syntax_uid, received == content), (JPEG, True), operation)

    def test_originator(self) -> None:
        """PS3.7 9.1.1.1: C-MOVE's sub-operations name who asked for them, and C-GET's do not."""
        self.archive.fill(studies=1, series=1, instances=1)
        self.retrieve("MOVE", "STUDY", StudyInstanceUID="1.1")
        (request,) = self.receiver.requests
        originator = request.move_originator_application_entity_title, request.move_originator_message_id
        self.assertEqual(originator, ("DICOMTW", 1))
        self.retrieve("GET", "STUDY", StudyInstanceUID="1.1")
        self.assertIsNone(self.receiver.requests[1].move_originator_message_id)

    def test_proposed(self) -> None:
        """Each transfer syntax as stored is proposed, and for each class what can be made of it."""
        self.archive.add(ct(1, 1, 1), EXPLICIT)
        self.archive.add(ct(1, 1, 2), IMPLICIT)
        self.archive.add(ct(1, 2, 1, SOPClassUID=MR), EXPLICIT)
        self.retrieve("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual(
            self.proposed,
            [
                [
                    (CT, (IMPLICIT,)),
                    (CT, (EXPLICIT,)),
                    (MR, (EXPLICIT,)),
                    (CT, (EXPLICIT, IMPLICIT)),
                    (MR, (EXPLICIT, IMPLICIT)),
                ]
            ],
        )

    def test_transcoded(self) -> None:
        """Where the receiver takes another transfer syntax, the object is sent in that."""
        self.archive.add(ct(1, PatientName="Ä", SpecificCharacterSet="ISO_IR 100"), EXPLICIT)
        self.receiver.syntaxes = (IMPLICIT,)
        for operation in MODELS:
            kinds = [(CT, (IMPLICIT,))]
            self.receiver.store.objects.clear()
            retrieval = self.retrieve(operation, "STUDY", contexts=kinds, StudyInstanceUID="1.1")
            self.assertEqual(retrieval.completed, 1)
            ((meta, received),) = self.receiver.store.objects.values()
            self.assertEqual(meta.transfer_syntax_uid, IMPLICIT)
            self.assertIn(b"\x10\x00\x10\x00\x02\x00\x00\x00\xc4 ", received)

    def test_groups(self) -> None:
        """What one association has no contexts for is sent on another."""
        group = Group()
        kinds = [(f"1.2.{number}", EXPLICIT) for number in range(100)]
        room = [kind for kind in kinds if group.has_room(kind) and group.kinds.add(kind) is None]
        self.assertEqual(len(room), 64)
        self.assertEqual(len(group.contexts()), 128)
        self.assertTrue(group.has_room(kinds[0]))
        self.assertFalse(group.has_room(("1.2.0", JPEG)))
        for number, sop_class_uid in enumerate(list(uids.STORAGE_SOP_CLASSES)[:70], 1):
            self.archive.add(ct(1, 1, number, SOPClassUID=sop_class_uid))
        retrieval = self.retrieve("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual((retrieval.status, retrieval.completed), (0, 70))
        self.assertEqual([len(contexts) for contexts in self.proposed], [128, 12])


class CounterTests(RetrieveTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.archive.fill(studies=1, series=1, instances=4)

    def test_pending(self) -> None:
        """A pending response follows each sub-operation but the last, with what remains."""
        for operation in MODELS:
            self.progress.clear()
            last = self.retrieve(operation, "STUDY", StudyInstanceUID="1.1")
            counts = [(one.status, one.remaining, one.completed) for one in self.progress]
            self.assertEqual(counts, [(0xFF00, 3, 1), (0xFF00, 2, 2), (0xFF00, 1, 3)])
            self.assertEqual(last, Retrieval(0, 4, 0, 0))

    def test_pending_now_and_then(self) -> None:
        """Where many are sent in a moment each of the first has a pending response, and the last one says it
        all; where it takes longer there are more.
        """
        self.patch(retrieve, "EACH", 2)
        for interval, remaining in ((1000.0, [(3, 1), (2, 2)]), (0.0, [(3, 1), (2, 2), (1, 3)])):
            self.patch(retrieve, "INTERVAL", interval)
            for operation in MODELS:
                self.progress.clear()
                last = self.retrieve(operation, "STUDY", StudyInstanceUID="1.1")
                self.assertEqual(self.remaining(), remaining)
                self.assertEqual(last, Retrieval(0, 4, 0, 0))

    def remaining(self) -> list[tuple[int | None, int]]:
        """What remained and what was completed, by pending response."""
        return [(one.remaining, one.completed) for one in self.progress]

    def test_gone_meanwhile(self) -> None:
        """An object that goes while others are sent is none of those that remain."""
        self.patch(reading, "BATCH", 2)
        for operation in MODELS:
            self.progress.clear()
            self.archive.fill(studies=1, series=1, instances=6)
            waiting = self.receiver.waiting = Deferred()
            retrieval = self.begin(operation, "STUDY", StudyInstanceUID="1.1")
            self.server.clock.advance(0)
            self.archive.index.delete(["1.1.1.5"])  # the third and fourth are read ahead
            self.receiver.waiting = None
            waiting.callback(None)
            self.server.clock.advance(0)
            self.assertEqual(self.successResultOf(retrieval), Retrieval(0, 5, 0, 0))
            self.assertEqual(self.remaining(), [(5, 1), (4, 2), (3, 3), (2, 4)], operation)

    def test_few_descriptors(self) -> None:
        """Where no more files can be open those before are sent and closed first, and none is missing."""
        calls: list[Any] = []

        def open_few(*arguments: Any, **more: Any) -> DataSetFile:
            calls.append(arguments)
            if len(calls) % 3 == 0:
                raise OSError(errno.EMFILE, "Too many open files")
            return open_data_set(*arguments, **more)

        self.patch(reading, "open_data_set", open_few)
        for operation in MODELS:
            calls.clear()
            self.archive.fill(studies=1, series=1, instances=6)
            last = self.retrieve(operation, "STUDY", StudyInstanceUID="1.1")
            self.assertEqual((last, len(calls)), (Retrieval(0, 6, 0, 0), 8), operation)

    def test_no_descriptors(self) -> None:
        """Where none can be open at all each has failed, and says why."""

        def open_none(*arguments: Any, **more: Any) -> DataSetFile:
            raise OSError(errno.EMFILE, "Too many open files")

        self.patch(reading, "open_data_set", open_none)
        refusal = self.refusal("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertIn("A702H: nothing could be sent", str(refusal))

    def test_replaced_meanwhile(self) -> None:
        """What has another transfer syntax by now than the index said goes by what it is."""

        def open_other(*arguments: Any, **more: Any) -> DataSetFile:
            opened = open_data_set(*arguments, **more)
            opened.transfer_syntax_uid = uids.EXPLICIT_VR_BIG_ENDIAN
            return opened

        transcoded: list[str] = []

        def transcode(root: Any, instance: Any, contexts: Any) -> Any:
            transcoded.append(instance.sop_instance_uid)
            raise ValueError("not here")

        self.patch(reading, "open_data_set", open_other)
        self.patch(retrieve, "transcoded", transcode)
        self.refusal("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual(len(transcoded), 4)

    def test_gone_before(self) -> None:
        """Nor is one that goes after it was selected and before anybody knows of what kind it is."""

        def kinds_of(cursor: Cursor, ids: array[int]) -> Any:
            self.archive.index.delete(["1.1.1.3"])
            return original(cursor, ids)

        original = selection.kinds_of
        self.patch(selection, "kinds_of", kinds_of)
        last = self.retrieve("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual((last, self.remaining()), (Retrieval(0, 3, 0, 0), [(2, 1), (1, 2)]))

    def test_gone_before_the_destination_was(self) -> None:
        """Nor is one that goes while the destination is not reached."""
        self.archive.fill(studies=1, series=1, instances=2)
        self.archive.index.delete(["1.1.1.3", "1.1.1.4"])
        for number in (1, 2):
            self.archive.add(ct(1, 2, number, SOPClassUID=MR))
        self.patch(selection, "MAXIMUM_CONTEXTS", 2)  # an association for each SOP class
        associate = self.associate

        def associate_or_not(title: str, contexts: Any) -> Deferred[RequestedAssociation]:
            if self.archive.index.delete(["1.1.1.2"]):
                return fail(NotConnected("connection refused"))
            return associate(title, contexts)

        self.patch(self, "associate", associate_or_not)
        last = self.retrieve("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual(last, Retrieval(0xB000, 2, 1, 0, None, ("1.1.1.1",)))
        self.assertEqual(self.remaining(), [(1, 1)])

    def test_list_of_failed(self) -> None:
        """Of more failed ones than an element has room for, the first are listed, and all are counted."""
        self.receiver.answers = {f"1.1.1.{number}": 0xC000 for number in range(5)}
        for most, listed in ((2, ("1.1.1.1", "1.1.1.2")), (4, tuple(self.receiver.answers)[1:])):
            self.patch(retrieve, "_FAILED_KEPT", most)
            for operation in MODELS:
                fault = self.refusal(operation, "STUDY", StudyInstanceUID="1.1")
                self.assertEqual(fault.retrieval.failed, 4)
                self.assertEqual(fault.retrieval.failed_sop_instance_uids, listed)

    def test_failures_and_warnings(self) -> None:
        """PS3.4 C.4.2.1.5: what failed is listed, what was stored with a warning is counted: B000H."""
        self.receiver.answers = {"1.1.1.1": 0xA700, "1.1.1.3": 0xB000}
        for operation in MODELS:
            last = self.retrieve(operation, "STUDY", StudyInstanceUID="1.1")
            self.assertEqual(last, Retrieval(0xB000, 2, 1, 1, None, ("1.1.1.1",)))

    def test_all_failed(self) -> None:
        """Where nothing arrives the status is a failure."""
        self.receiver.answers = {f"1.1.1.{number}": 0xC000 for number in range(5)}
        for operation in MODELS:
            fault = self.refusal(operation, "STUDY", StudyInstanceUID="1.1")
            self.assertEqual(fault.status, 0xA702)
            self.assertEqual((fault.retrieval.failed, len(fault.retrieval.failed_sop_instance_uids)), (4, 4))

    def test_no_contexts(self) -> None:
        """C-GET of a class that the requestor is no SCP of fails; so it does for all of them."""
        fault = self.refusal("GET", "STUDY", contexts=(), StudyInstanceUID="1.1")
        self.assertEqual((fault.status, fault.retrieval.failed), (0xA702, 4))
        self.archive.add(ct(1, 2, 1, SOPClassUID=MR))
        last = self.retrieve("GET", "STUDY", contexts=[(MR, (EXPLICIT,))], StudyInstanceUID="1.1")
        self.assertEqual((last.status, last.completed, last.failed), (0xB000, 1, 4))

    def test_unreadable(self) -> None:
        """A file that is gone, or is none, is a failure of its own."""
        for number, content in ((1, None), (2, b"rubbish")):
            path = self.archive.root / "1.1" / "1.1.1" / f"1.1.1.{number}.dcm"
            path.unlink()
            if content is not None:
                path.write_bytes(content)
        for operation in MODELS:
            last = self.retrieve(operation, "STUDY", StudyInstanceUID="1.1")
            self.assertEqual(last, Retrieval(0xB000, 2, 2, 0, None, ("1.1.1.1", "1.1.1.2")))

    def test_unknown_destination(self) -> None:
        """PS3.4 Table C.4-2: a destination that is not configured is A801H."""
        scu = self.server.associate([uids.STUDY_ROOT_MOVE])
        identifier = data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1")
        retrieval = scu.c_move(identifier, "ELSEWHERE")
        self.server.clock.advance(0)
        self.assertEqual(self.failureResultOf(retrieval, OperationFailed).value.status, 0xA801)

    def test_destination_is_down(self) -> None:
        """A destination that cannot be reached fails all sub-operations."""
        self.fault = NotConnected("connection refused")
        fault = self.refusal("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual((fault.status, fault.retrieval.failed), (0xA702, 4))
        self.assertEqual(len(fault.retrieval.failed_sop_instance_uids), 4)

    def test_destination_leaves(self) -> None:
        """A destination that aborts fails what it has not answered."""
        self.receiver.waiting = Deferred()
        retrieval = self.begin("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.server.clock.advance(0)
        waiting, self.receiver.waiting = self.receiver.waiting, None
        waiting.callback(None)
        self.server.clock.advance(0)
        self.assertEqual(self.successResultOf(retrieval).completed, 4)
        self.receiver.waiting = Deferred()
        retrieval = self.begin("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.server.clock.advance(0)
        self.destination.factory.abort("it is switched off")
        self.server.clock.advance(0)
        fault = self.failureResultOf(retrieval, OperationFailed).value
        self.assertEqual((fault.status, fault.retrieval.failed), (0xA702, 4))


class EndTests(RetrieveTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.archive.fill(studies=1, series=1, instances=4)
        self.receiver.waiting = Deferred()

    def go_on(self) -> None:
        waiting, self.receiver.waiting = self.receiver.waiting, None
        assert waiting is not None
        waiting.callback(None)
        self.server.clock.advance(0)

    def test_cancel(self) -> None:
        """C-CANCEL lets the sub-operation that has begun end, and none begin: FE00H, and what remains."""
        for operation in MODELS:
            answers: list[Retrieval] = []
            self.receiver.waiting = Deferred()
            retrieval = self.begin(operation, "STUDY", StudyInstanceUID="1.1")
            self.server.clock.advance(0)
            (request,) = self.scu.association._requests._outstanding.values()
            self.scu.association.cancel(request)
            self.server.clock.advance(0)
            retrieval.addCallback(answers.append)
            self.assertEqual(answers, [])
            self.go_on()
            self.assertEqual(answers, [Retrieval(0xFE00, 1, 0, 0, 3)])
            self.assertEqual(self.receiver.stored, ["1.1.1.1"], operation)

    def test_cancel_without_pending_responses(self) -> None:
        """C-CANCEL takes effect where no pending response is due, too."""
        self.patch(retrieve, "EACH", 1)
        self.patch(retrieve, "INTERVAL", 1000.0)
        for operation in MODELS:
            retrieval = self.begin(operation, "STUDY", StudyInstanceUID="1.1")
            self.server.clock.advance(0)
            waiting, self.receiver.waiting = self.receiver.waiting, Deferred()
            waiting.callback(None)
            self.server.clock.advance(0)
            (request,) = self.scu.association._requests._outstanding.values()
            self.scu.association.cancel(request)
            self.server.clock.advance(0)
            self.go_on()
            self.assertEqual(self.successResultOf(retrieval), Retrieval(0xFE00, 2, 0, 0, 2))
            self.receiver.waiting = Deferred()

    def test_cancel_while_a_file_is_opened(self) -> None:
        """A file that is open when nobody wants it any more is closed."""
        image = ct(1, 1, 1)
        image.add_new(0x7FE00010, "OW", bytes(1_300_000))
        self.archive.add(image)
        waiting: list[tuple[Deferred[Any], Any]] = []

        def aside(function: Any) -> Deferred[Any]:
            waiting.append((Deferred(), function))
            return waiting[-1][0]

        self.server.factory.entity.disk.call_aside = aside
        retrieval = self.begin("GET", "STUDY", StudyInstanceUID="1.1")
        self.server.clock.advance(0)
        called, function = waiting.pop()
        called.callback(function())
        self.server.clock.advance(0)
        (request,) = self.scu.association._requests._outstanding.values()
        self.scu.association.cancel(request)
        self.server.clock.advance(0)
        called, function = waiting.pop()
        opened: list[DataSetFile] = []

        def open_it(*arguments: Any, **more: Any) -> DataSetFile:
            opened.append(open_data_set(*arguments, **more))
            self.assertFalse(opened[0]._fd < 0, "it is held open")
            return opened[0]

        self.patch(reading, "open_data_set", open_it)
        called.callback(function())
        self.assertEqual(self.successResultOf(retrieval).status, 0xFE00)
        self.assertEqual([each._fd for each in opened], [-1])

    def test_cancel_while_it_is_looked_up(self) -> None:
        """C-CANCEL ends what looks up the kinds of what is to be sent, in its thread."""
        waiting: list[tuple[Deferred[Any], Any]] = []

        def aside(function: Any) -> Deferred[Any]:
            waiting.append((Deferred(), function))
            return waiting[-1][0]

        self.server.factory.entity.disk.call_aside = aside
        retrieval = self.begin("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.server.clock.advance(0)
        ids = array("q", (each.id for some in self.archive.index.all_instances() for each in some))
        self.patch(Cursor, "instances", lambda _: ids)
        (request,) = self.scu.association._requests._outstanding.values()
        self.scu.association.cancel(request)
        self.server.clock.advance(0)
        self.assertEqual(self.successResultOf(retrieval).status, 0xFE00)
        ((_, function),) = waiting
        self.assertRaises(Cancelled, function)

    def test_cancel_while_connecting(self) -> None:
        """C-CANCEL before the destination is connected to sends nothing."""
        self.waiting = Deferred()
        retrieval = self.begin("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.server.clock.advance(0)
        (request,) = self.scu.association._requests._outstanding.values()
        self.scu.association.cancel(request)
        self.server.clock.advance(0)
        self.assertEqual(self.successResultOf(retrieval), Retrieval(0xFE00, 0, 0, 0, 4))
        self.assertEqual(self.destination.connections, [])

    def test_requestor_leaves(self) -> None:
        """An abort stops the sub-operations at once: the association with the destination is aborted."""
        for leave in (self.scu_aborts, self.server_ends):
            self.receiver.waiting = Deferred()
            retrieval = self.begin("MOVE", "STUDY", StudyInstanceUID="1.1")
            self.server.clock.advance(0)
            self.assertEqual(len(self.destination.factory.connections), 1)
            leave()
            self.server.clock.advance(0)
            self.failureResultOf(retrieval, AssociationLost, CancelledError)
            self.assertEqual(len(self.destination.factory.connections), 0)
            self.go_on()

    def scu_aborts(self) -> None:
        self.scu.abort()

    def server_ends(self) -> None:
        self.server.factory.abort("the server stops")

    def test_requests_before_the_response(self) -> None:
        """The response that C-GET waits for is read, however many requests stand before it."""
        peer = self.server.connect()
        contexts = {1: (uids.STUDY_ROOT_GET, IMPLICIT), 3: (CT, EXPLICIT)}
        peer.associate(contexts, RoleSelection(CT, scu_role=False, scp_role=True))
        keys = encode(data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.1"), IMPLICIT)
        get = C_GET_RQ(affected_sop_class_uid=uids.STUDY_ROOT_GET, message_id=1, priority=0)
        peer.send(*message(1, get, keys))
        (request,) = [one for one in peer.received() if isinstance(one, Command)]
        for number in range(2, 10):
            again = C_GET_RQ(affected_sop_class_uid=uids.STUDY_ROOT_GET, message_id=number, priority=0)
            peer.send(*message(1, again, keys))
        self.assertEqual(peer.transport.producerState, "producing")
        response = C_STORE_RSP(message_id_being_responded_to=request.message_id, status=0)
        peer.send(*message(3, response))
        self.assertIn(0xFF00, [one.status for one in peer.received() if isinstance(one, Command)])
        for number in range(10, 100):
            again = C_GET_RQ(affected_sop_class_uid=uids.STUDY_ROOT_GET, message_id=number, priority=0)
            if peer.connected:
                peer.send(*message(1, again, keys))
        self.assertEqual(peer.received(), [A_ABORT(2, 6)], "more than any window has room for")

    def test_release(self) -> None:
        """A requestor that releases is answered FE00H for what it had asked for, and released."""
        retrieval = self.begin("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.server.clock.advance(0)
        released = self.scu.release()
        self.server.clock.advance(0)
        self.go_on()
        self.assertEqual(self.successResultOf(retrieval).status, 0xFE00)
        self.successResultOf(released)
        self.assertEqual(self.receiver.stored, ["1.1.1.1"])
