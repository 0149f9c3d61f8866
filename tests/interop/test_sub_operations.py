"""What becomes of each object that C-MOVE and C-GET send, and what is told of it: counters, who failed."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any

from dicomtw import uids
from dicomtw.dimse.messages import C_CANCEL_RQ, C_GET_RQ, C_MOVE_RQ, C_STORE_RQ
from dicomtw.testing import message
from dicomtw.transcode import decode, encode
from dicomtw.ul.items import PresentationContextRQ, RoleSelection
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_RJ, A_RELEASE_RQ
from tests.interop.archive import (
    DCMTK,
    EXPLICIT,
    IMPLICIT,
    PEER,
    PYNETDICOM,
    archive,
    associated,
    ct,
    fill,
    identifier,
    run_one,
    shared,
    words,
)
from tests.interop.cases import CasesTestCase
from tests.interop.peers import missing
from tests.interop.scp import Manners, Scp
from tests.interop.scu import CT, Message, Scu, c_store_rsp
from tests.interop.twistd import Twistd, wait_until

MOVE, GET = uids.STUDY_ROOT_MOVE, uids.STUDY_ROOT_GET
SC = "1.2.840.10008.5.1.4.1.1.7"

#: What is moved: ten objects of a study, every other one a CT image, the rest secondary captures.
OBJECTS = [ct(1, 1, 1 + number % 2, number, SOPClassUID=SC if number % 2 else CT) for number in range(10)]
CT_UIDS = [str(one.SOPInstanceUID) for one in OBJECTS if one.SOPClassUID == CT]
SC_UIDS = [str(one.SOPInstanceUID) for one in OBJECTS if one.SOPClassUID == SC]
#: In the order that they are sent in: by series, then by Instance Number.
IN_ORDER = [*CT_UIDS, *SC_UIDS]
STUDY = encode(identifier("STUDY", StudyInstanceUID="1.2.1.1"), IMPLICIT)

#: Another study, whose objects are more than any buffer holds.
LARGE = [
    ct(2, 1, 1, number, BitsAllocated=16, PixelRepresentation=0, PixelData=bytes(3_000_000))
    for number in range(10)
]
LARGE_STUDY = encode(identifier("STUDY", StudyInstanceUID="1.2.2.1"), IMPLICIT)


def failed_uids(final: Message) -> list[str]:
    """The Failed SOP Instance UID List of a last response."""
    if not final.data_set:
        return []
    value = decode(final.data_set, IMPLICIT).FailedSOPInstanceUIDList
    return [value] if isinstance(value, str) else list(value)


def filled(test: Any, *options: str) -> tuple[Twistd, Scp]:
    """An archive with the objects, and its remote DEST."""
    scp = Scp(test)
    server = archive(test, f"--remote=DEST@127.0.0.1:{scp.port}", "--dimse-timeout=2", *options)
    fill(server, OBJECTS)
    return server, scp


def filled_for_all(test: Any) -> tuple[Twistd, Scp]:
    """The one that tests share, with large objects, too."""
    server, scp = filled(test)
    fill(server, LARGE)
    return server, scp


def open_in(server: Twistd) -> int:
    """How many connections and objects a server has open, and its listening port."""
    return sum(name.startswith("socket:") or name.endswith(".dcm") for name in server.opened)


class SubOperationsTestCase(CasesTestCase):
    def check(
        self,
        responses: Sequence[Message],
        *,
        status: int,
        completed: int,
        failed: Sequence[str] = (),
        warning: int = 0,
        total: int = 10,
    ) -> None:
        """The last response says what became of them, and those before it count on to that, one by one."""
        *pending, final = responses
        self.assertEqual(f"{final.status:04X}", f"{status:04X}")
        self.assertEqual(final.counters[1:], (completed, len(failed), warning))
        remaining = total - completed - len(failed) - warning
        self.assertEqual(final.counters[0], remaining if status == 0xFE00 else None)
        self.assertEqual(failed_uids(final), list(failed))
        before = total
        for one in pending:
            self.assertEqual((one.status, one.data_set), (0xFF00, b""))
            self.assertEqual(sum(number or 0 for number in one.counters), total)
            assert one.counters[0] is not None
            self.assertTrue(0 < one.counters[0] < before, one.counters)
            before = one.counters[0]


class DestinationTests(SubOperationsTestCase):
    """C-MOVE to destinations of all kinds."""

    def server(self, manners: Manners | None = None) -> tuple[Twistd, Scp]:
        """An archive, and its remote DEST with these manners."""
        server, scp = shared(self, filled_for_all)
        scp.start_over(manners or Manners())
        return server, scp

    def move(self, server: Twistd, destination: str = "DEST", query: bytes = STUDY) -> list[Message]:
        """All responses to a C-MOVE, after which the association is alive and is released."""
        with associated(server, MOVE) as scu:
            scu.ask(C_MOVE_RQ, query, move_destination=destination)
            return scu.responses()

    def test_unknown(self) -> None:
        """Q08: A801H for a destination that is no remote, whoever asks, and nothing is sent."""
        server, scp = self.server()
        for title in ("NOBODY", "dest", "PMOD", "DEST "):
            with self.case(title):
                (*pending, final) = self.move(server, title)
                if title == "DEST ":
                    self.assertEqual((len(pending), final.status), (9, 0))
                else:
                    self.assertEqual((final.status, final.data_set), (0xA801, b""))
                    self.assertIn("unknown", final.command.error_comment or "")
        self.assertEqual(len(scp.received), 10)
        for peer, refused in ((DCMTK, "MoveDestinationUnknown"), (PYNETDICOM, "0xA801")):
            if missing("movescu"):
                continue
            with self.case(peer.name):
                query = words(identifier("STUDY", StudyInstanceUID="1.2.1.1"))
                command = peer.command("movescu", server, "-S", query)
                ended = run_one(server, command, "-aem", "NOBODY")
                self.assertIn(refused, ended.stdout)

    def test_nothing(self) -> None:
        """Where nothing matches nothing is sent: 0000H, and no association is requested."""
        server, scp = self.server()
        nothing = encode(identifier("STUDY", StudyInstanceUID="1.2.99"), IMPLICIT)
        self.check(self.move(server, query=nothing), status=0, completed=0, total=0)
        self.assertEqual(scp.requests, [])

    def test_faulty_identifiers(self) -> None:
        """A900H where the unique key is missing or has wild cards, to C-MOVE and C-GET; nothing is sent."""
        server, scp = self.server()
        for query in (
            identifier("STUDY"),
            identifier("STUDY", StudyInstanceUID=""),
            identifier("STUDY", StudyInstanceUID="*"),
            identifier("STUDY", StudyInstanceUID="1.2.*"),
            identifier("SERIES", SeriesInstanceUID="1.2.1.1.1"),
            identifier("SERIES", StudyInstanceUID="1.2.1.1"),
            identifier("IMAGE", StudyInstanceUID="1.2.1.1", SOPInstanceUID=CT_UIDS),
            identifier("PATIENT", PatientID="P1"),
            identifier("NONSENSE", StudyInstanceUID="1.2.1.1"),
        ):
            with self.case(query):
                (final,) = self.move(server, query=encode(query, IMPLICIT))
                self.assertEqual((final.status, final.data_set), (0xA900, b""))
                with associated(server, GET) as scu:
                    scu.ask(C_GET_RQ, encode(query, IMPLICIT))
                    (final,) = scu.responses()
                    self.assertEqual((final.status, final.data_set), (0xA900, b""))
        self.assertEqual(scp.requests, [])

    def test_down(self) -> None:
        """Q09: a destination that is not there: all have failed, and the log says why, in a line."""
        server, scp = filled(self)
        scp.stop()
        started = time.monotonic()
        self.check(self.move(server), status=0xA702, completed=0, failed=IN_ORDER)
        self.assertLess(time.monotonic() - started, 2)
        self.assertEqual(server.log.count("move destination 'DEST'"), 1)
        self.assertIn("refused", server.wait_for_log("move destination 'DEST'"))

    def test_rejected(self) -> None:
        """A destination that rejects the association: all have failed, and the log says with what."""
        server, scp = self.server(Manners(rejections=[A_ASSOCIATE_RJ(1, 1, 3)]))
        self.check(self.move(server), status=0xA702, completed=0, failed=IN_ORDER)
        server.wait_for_log("move destination 'DEST': the peer has rejected the association: RJ(1,1,3)")
        self.check(self.move(server), status=0, completed=10)
        self.assertEqual(scp.sop_instance_uids, IN_ORDER)

    def test_slow(self) -> None:
        """One that accepts late, reads late and little at a time: all get there, the server stays small."""
        manners = Manners(accepts_after=0.7, reads_after=0.02, buffer=4096, maximum_length=4096)
        server, scp = self.server(manners)
        self.move(server, query=encode(identifier("STUDY", StudyInstanceUID="1.2.99"), IMPLICIT))
        server.reset_peak()
        before = server.rss
        self.check(self.move(server, query=LARGE_STUDY), status=0, completed=10)
        self.assertLess(server.peak - before, 8 << 20)
        self.assertTrue([one.data_set for one in scp.received] == [encode(one, IMPLICIT) for one in LARGE])

    def test_silent(self) -> None:
        """One that never answers the association request is given up after the ARTIM time."""
        server, scp = filled(self, "--artim-timeout=0.5")
        scp.manners = Manners(accepts_after=1.5)
        started = time.monotonic()
        self.check(self.move(server), status=0xA702, completed=0, failed=IN_ORDER)
        self.assertLess(time.monotonic() - started, 2)

    def test_refused_contexts(self) -> None:
        """Half of the contexts are refused: what they were for has failed, the rest is sent."""

        def only_ct(context: PresentationContextRQ) -> str | None:
            return context.transfer_syntaxes[0] if context.abstract_syntax == CT else None

        server, scp = self.server(Manners(accepts=only_ct))
        self.check(self.move(server), status=0xB000, completed=5, failed=SC_UIDS)
        self.assertEqual(scp.sop_instance_uids, CT_UIDS)
        scp.manners.accepts = lambda _: None
        self.check(self.move(server), status=0xA702, completed=0, failed=IN_ORDER)
        self.assertEqual(scp.ends_of(2), ["released", "released"])

    def test_statuses(self) -> None:
        """Failures and warnings that the destination answers are counted as such, each."""
        by_uid = dict(
            zip(IN_ORDER, (0, 0xA700, 0xB000, 0, 0xC001, 0xB007, 0x0111, 0xB006, 0x0122, 0), strict=True)
        )
        server, scp = self.server(
            Manners(answer=lambda one: by_uid[str(one.command.affected_sop_instance_uid)])
        )
        failed = [uid for uid, status in by_uid.items() if status and status >> 12 != 0xB]
        self.check(self.move(server), status=0xB000, completed=3, failed=failed, warning=3)
        self.assertEqual(scp.sop_instance_uids, IN_ORDER)
        for answer, status, completed, warning in ((0xA700, 0xA702, 0, 0), (0xB000, 0xB000, 0, 10)):
            with self.case(f"all {answer:04X}H"):
                scp.manners.answer = lambda _, answer=answer: answer  # type: ignore[misc]
                failed = [] if warning else IN_ORDER
                self.check(
                    self.move(server), status=status, completed=completed, failed=failed, warning=warning
                )

    def test_abort(self) -> None:
        """One that aborts in the middle: what it has not answered has failed, and the requestor is told."""
        server, scp = self.server(Manners(aborts_at=4))
        self.check(self.move(server), status=0xB000, completed=3, failed=IN_ORDER[3:])
        self.assertEqual(scp.sop_instance_uids, IN_ORDER[:4])
        server.wait_for_log(f"the association ended at {IN_ORDER[3]}: aborted by the peer", 2)

    def test_file_is_gone(self) -> None:
        """An object that cannot be read any more has failed, and the others are sent."""
        server, scp = filled(self)
        server.objects[IN_ORDER[2]].unlink()
        server.objects[IN_ORDER[7]].write_bytes(b"")
        failed = [IN_ORDER[2], IN_ORDER[7]]
        self.check(self.move(server), status=0xB000, completed=8, failed=failed)
        self.assertEqual(scp.sop_instance_uids, [uid for uid in IN_ORDER if uid not in failed])

    def test_many_at_once(self) -> None:
        """Retrievals of many requestors go on side by side, each with its own counters."""
        server, scp = self.server(Manners(reads_after=0.01))
        scus = []
        for _ in range(5):
            scu = Scu(server.address)
            self.addCleanup(scu.close)
            scu.associate({1: (MOVE, IMPLICIT)}, calling=PEER)
            scu.ask(C_MOVE_RQ, STUDY, move_destination="DEST")
            scus.append(scu)
        for scu in scus:
            self.check(scu.responses(), status=0, completed=10)
            scu.release()
        self.assertEqual(sorted(scp.sop_instance_uids), sorted(IN_ORDER * 5))
        self.assertEqual(len(scp.requests), 5)

    def test_cancel(self) -> None:
        """C-CANCEL in the middle: FE00H soon, with counters of what has got there, exactly."""
        server, scp = self.server(Manners(reads_after=0.05))
        with associated(server, MOVE) as scu:
            scu.ask(C_MOVE_RQ, STUDY, move_destination="DEST", message_id=5)
            first = [scu.receive_message() for _ in range(3)]
            started = time.monotonic()
            scu.send(*message(1, C_CANCEL_RQ(message_id_being_responded_to=5)))
            responses = [*first, *scu.responses()]
            self.assertLess(time.monotonic() - started, 1)
        scp.ends_of(1)
        completed = len(scp.received)
        self.assertIn(completed, (3, 4, 5))
        self.check(responses, status=0xFE00, completed=completed)
        with self.case("DCMTK"):
            if missing("movescu") is None:
                query = words(identifier("STUDY", StudyInstanceUID="1.2.1.1"))
                command = DCMTK.command("movescu", server, "-S", query)
                ended = run_one(server, command, "-aem", "DEST", "--cancel", 2)
                self.assertIn("Received Final Move Response (Cancel", ended.stdout)

    def test_cancelled_before_it_is_connected(self) -> None:
        """C-CANCEL while the destination has not accepted: nothing is sent, all of it remains."""
        server, scp = self.server(Manners(accepts_after=1.0))
        with associated(server, MOVE) as scu:
            scu.ask(C_MOVE_RQ, STUDY, move_destination="DEST", message_id=5)
            wait_until(lambda: scp.requests, "an association is requested")
            started = time.monotonic()
            scu.send(*message(1, C_CANCEL_RQ(message_id_being_responded_to=5)))
            self.check(scu.responses(), status=0xFE00, completed=0)
            self.assertLess(time.monotonic() - started, 0.5)

    def test_requestor_leaves(self) -> None:
        """When the requestor releases, aborts or is gone the destination is not sent the rest."""
        server, scp = self.server(Manners(reads_after=0.05))
        for number, how in enumerate((A_RELEASE_RQ(), A_ABORT(0), None), 1):
            with self.case(how):
                del scp.received[:]
                with Scu(server.address) as scu:
                    scu.associate({1: (MOVE, IMPLICIT)}, calling=PEER)
                    scu.ask(C_MOVE_RQ, STUDY, move_destination="DEST")
                    scu.receive_message()
                    if how is not None:
                        scu.send(how)
                scp.ends_of(number)
                self.assertLess(len(scp.received), 6)
        self.check(self.move(server), status=0, completed=10)

    def test_more_contexts_than_there_are(self) -> None:
        """What needs more contexts than an association has is sent in several, and counted once."""
        scp = Scp(self)
        server = archive(self, f"--remote=DEST@127.0.0.1:{scp.port}")
        classes = sorted(uids.STORAGE_SOP_CLASSES)[:100]
        for offset, transfer_syntax in ((1, IMPLICIT), (2, EXPLICIT)):
            objects = [
                ct(1, 1, 1, 2 * number + offset, SOPClassUID=uid) for number, uid in enumerate(classes)
            ]
            fill(server, objects[:64], transfer_syntax)
            fill(server, objects[64:], transfer_syntax)
        self.check(self.move(server), status=0, completed=200, total=200)
        self.assertGreater(len(scp.requests), 1)
        self.assertEqual(scp.ends_of(len(scp.requests)), ["released"] * len(scp.requests))
        self.assertEqual(len(set(scp.sop_instance_uids)), 200)

    def test_stop(self) -> None:
        """Told to stop the server first ends what it was asked for; told twice it ends at once."""
        for signals, received in ((1, 10), (2, None)):
            with self.case(signals):
                server, scp = filled(self)
                scp.manners = Manners(reads_after=0.05)
                with Scu(server.address) as scu:
                    scu.associate({1: (MOVE, IMPLICIT)}, calling=PEER)
                    scu.ask(C_MOVE_RQ, STUDY, move_destination="DEST")
                    scu.receive_message()
                    for _ in range(signals):
                        server.signal(signal.SIGTERM)
                        server.wait_for_log("waiting for 1 associations to end")
                    if received:
                        *_, final = scu.responses()
                        self.assertEqual((final.status, final.counters), (0, (None, 10, 0, 0)))
                        scu.release()
                    self.assertEqual(server.wait(5), 0 if received else server.process.returncode)
                scp.ends_of(1)
                self.assertTrue(len(scp.received) == received if received else len(scp.received) < 10)


class GetTests(SubOperationsTestCase):
    """C-GET, whose requestor is the destination."""

    def setUp(self) -> None:
        self.server, _ = shared(self, filled_for_all)

    def test_contexts(self) -> None:
        """Q10: what there is no context for, or none in which the requestor is SCP, has failed."""
        both = [RoleSelection(CT, False, True), RoleSelection(SC, False, True)]
        contexts = {1: (GET, IMPLICIT), 3: (CT, IMPLICIT), 5: (SC, IMPLICIT)}
        for what, proposed, roles, received in (
            ("none", {1: contexts[1]}, [], []),
            ("no roles", contexts, [], []),
            ("as SCU alone", contexts, [RoleSelection(CT, True, False), RoleSelection(SC, True, False)], []),
            ("one role", contexts, both[:1], CT_UIDS),
            ("one context", {1: contexts[1], 5: contexts[5]}, both, SC_UIDS),
            ("all", contexts, both, IN_ORDER),
        ):
            with self.case(what), Scu(self.server.address) as scu:
                scu.associate(proposed, *roles, calling=PEER)
                taken: list[str] = []

                def take(one: Message, taken: list[str] = taken) -> int:
                    self.assertIsNone(one.command.move_originator_application_entity_title)
                    taken.append(str(one.command.affected_sop_instance_uid))
                    return 0

                scu.ask(C_GET_RQ, STUDY)
                responses = scu.responses(take)
                self.assertEqual(taken, received)
                status = 0 if len(received) == 10 else 0xB000 if received else 0xA702
                failed = [uid for uid in IN_ORDER if uid not in received]
                self.check(responses, status=status, completed=len(received), failed=failed)
                scu.release()

    def _requestor(self, **more: int) -> Scu:
        scu = Scu(self.server.address, **more)
        self.addCleanup(scu.close)
        roles = [RoleSelection(CT, False, True), RoleSelection(SC, False, True)]
        contexts = {1: (GET, IMPLICIT), 3: (CT, IMPLICIT), 5: (SC, IMPLICIT)}
        scu.associate(contexts, *roles, calling=PEER)
        return scu

    def test_statuses(self) -> None:
        """Failures and warnings that the requestor answers are counted as such, each."""
        statuses = iter((0, 0xA700, 0xB000, 0, 0xC001, 0xB007, 0x0111, 0xB006, 0x0122, 0))
        scu = self._requestor()
        scu.ask(C_GET_RQ, STUDY)
        responses = scu.responses(lambda _: next(statuses))
        failed = [IN_ORDER[number] for number in (1, 4, 6, 8)]
        self.check(responses, status=0xB000, completed=3, failed=failed, warning=3)
        scu.release()

    def test_cancel(self) -> None:
        """C-CANCEL in the middle: what is under way comes to its end, then FE00H with exact counters."""
        for count in (1, 4):
            with self.case(count):
                scu = self._requestor()
                scu.ask(C_GET_RQ, STUDY, message_id=5)
                taken: list[str] = []

                def take(one: Message, taken: list[str] = taken, scu: Scu = scu, count: int = count) -> int:
                    taken.append(str(one.command.affected_sop_instance_uid))
                    if len(taken) == count:
                        scu.send(*message(1, C_CANCEL_RQ(message_id_being_responded_to=5)))
                    return 0

                responses = scu.responses(take)
                self.assertEqual(taken, IN_ORDER[:count])
                self.check(responses, status=0xFE00, completed=count)
                scu.ask(C_GET_RQ, STUDY)
                self.check(scu.responses(), status=0, completed=10)
                scu.release()

    def test_requestor_leaves(self) -> None:
        """A requestor that aborts, releases, closes or is silent in the middle costs nothing in the end."""
        before = open_in(self.server)
        silent = self._requestor()
        silent.ask(C_GET_RQ, STUDY)
        self.assertIs(silent.receive_message().command.message_type, C_STORE_RQ)
        for how in (A_ABORT(0), A_RELEASE_RQ(), None):
            scu = self._requestor()
            scu.ask(C_GET_RQ, STUDY)
            scu.receive_message()
            if how is not None:
                scu.send(how)
            scu.close()
        self.assertIsInstance(silent.receive_whole(), A_ABORT)
        silent.close()
        wait_until(lambda: open_in(self.server) <= before, "connections and files are closed")
        scu = self._requestor()
        scu.ask(C_GET_RQ, STUDY)
        self.check(scu.responses(), status=0, completed=10)

    def test_requestor_that_does_not_read(self) -> None:
        """Sending waits for who does not read: the server stays small, and in the end all get there."""
        scus = [self._requestor(buffer=4096) for _ in range(4)]
        self.server.reset_peak()
        before = self.server.rss
        for scu in scus:
            scu.ask(C_GET_RQ, LARGE_STUDY)
        time.sleep(0.5)
        self.assertLess(self.server.peak - before, 12 << 20)
        found: list[bytes] = []
        scus[0].socket.settimeout(20)

        def take(one: Message) -> int:
            found.append(one.data_set)
            return 0

        self.check(scus[0].responses(take), status=0, completed=10)
        self.assertTrue(found == [encode(one, IMPLICIT) for one in LARGE])
        self.assertLess(self.server.peak - before, 12 << 20)

    def test_other_requests_meanwhile(self) -> None:
        """A response to a sub-operation that nobody has asked for ends the association, and nothing else."""
        scu = self._requestor()
        scu.ask(C_GET_RQ, STUDY)
        first = scu.receive_message()
        self.assertIs(first.command.message_type, C_STORE_RQ)
        wrong = c_store_rsp(first.command, 0)
        scu.send(*message(5, wrong))
        self.assertIsInstance(scu.receive_whole(), A_ABORT)
        scu = self._requestor()
        scu.ask(C_GET_RQ, STUDY)
        self.check(scu.responses(), status=0, completed=10)
