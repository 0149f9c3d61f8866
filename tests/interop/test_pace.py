"""Queries with very many matches: cancelled, not read, left alone; what they cost the server and others."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from dicomtw import uids
from dicomtw.dimse.messages import C_CANCEL_RQ, C_FIND_RQ, C_GET_RQ
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.record import Record
from dicomtw.testing import message
from dicomtw.transcode import decode, encode
from dicomtw.ul.items import AsynchronousOperationsWindow
from dicomtw.ul.pdu import A_RELEASE_RP, A_RELEASE_RQ
from tests.interop.archive import (
    EXPLICIT,
    IMPLICIT,
    PEER,
    archive,
    associated,
    ct,
    fill,
    identifier,
    shared,
)
from tests.interop.cases import CasesTestCase
from tests.interop.peers import missing, run
from tests.interop.scu import CT, Scu
from tests.interop.twistd import Twistd, temporary_directory

FIND = uids.STUDY_ROOT_FIND
STUDIES = 10_000
#: What a match is as large as, so that all of them are more than the buffers of TCP hold, in bytes.
LENGTH = 1_500
#: How much the server may grow for each query, in bytes: a portion of the matches, and what SQLite keeps.
GROWTH = 2 << 20

ALL = encode(identifier("STUDY", StudyInstanceUID="", AdditionalPatientHistory=""), IMPLICIT)


def indexed(directory: Path) -> None:
    """Make a store there that has an index of many studies, and nothing else."""
    index = Index(directory / "store" / INDEX / FILE_NAME, Attributes(), synchronous=False)
    index.open()
    for at in range(0, STUDIES, 1000):
        index.put([_record(number) for number in range(at, at + 1000)])
    index.set_complete()
    index.close()


def _record(number: int) -> Record:
    study = f"1.2.{number}"
    values = {
        "PatientID": f"P{number}",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.1",
        "SOPInstanceUID": f"{study}.1.1",
        "SOPClassUID": CT,
        "Modality": "CT",
        "AdditionalPatientHistory": f"{number} ".ljust(LENGTH, "x"),
    }
    return Record(study, f"{study}.1", f"{study}.1.1", CT, IMPLICIT, 1, values)


def with_studies(test: Any) -> Twistd:
    """A server with these."""
    directory = temporary_directory(test)
    indexed(directory)
    server = archive(test, directory=directory)
    with associated(server, FIND) as scu:  # what is needed once is there
        scu.find(encode(identifier("STUDY", StudyInstanceUID="1.2.1"), IMPLICIT))
    return server


class PaceTests(CasesTestCase):
    def setUp(self) -> None:
        self.server = shared(self, with_studies)

    def test_cancel(self) -> None:
        """Q05: cancelled after ten matches a query ends with FE00H at once, and has cost no memory."""
        self.server.reset_peak()
        before = self.server.rss
        for context in (uids.VERIFICATION, FIND):
            with self.case(context), Scu(self.server.address, buffer=65536) as scu:
                scu.associate({1: (FIND, IMPLICIT), 3: (context, IMPLICIT)}, calling=PEER)
                scu.ask(C_FIND_RQ, ALL, message_id=9)
                for _ in range(10):
                    self.assertEqual(scu.receive_message().status, 0xFF00)
                started = time.monotonic()
                scu.send(*message(3 if context == FIND else 1, C_CANCEL_RQ(message_id_being_responded_to=9)))
                *_, final = scu.responses()
                self.assertLess(time.monotonic() - started, 1)
                self.assertEqual(final.status, 0xFE00)
                self.assertEqual(final.data_set, b"")
                again = scu.find(encode(identifier("STUDY", StudyInstanceUID="1.2.77"), IMPLICIT))
                self.assertEqual([one.status for one in again], [0xFF00, 0])
                scu.release()
        self.assertLess(self.server.peak - before, 3 * GROWTH)

        if missing("findscu") is None:
            with self.case("DCMTK"):
                peer = run(
                    *("findscu", "-v", "-S", "-aet", PEER, "-aec", "PMOD", "--cancel", 10),
                    *("-k", "QueryRetrieveLevel=STUDY", "-k", "AdditionalPatientHistory"),
                    *("127.0.0.1", self.server.port),
                )
                self.assertIn("Received Final Find Response (Cancel", peer.stdout)
                self.assertLess(peer.stdout.count("(Pending)"), STUDIES)

    def test_other_cancellations(self) -> None:
        """C-CANCEL of what is not being performed changes nothing: two who ask for all get all."""
        scus = []
        for _ in range(2):
            scu = Scu(self.server.address, timeout=30)
            self.addCleanup(scu.close)
            scu.associate({1: (FIND, IMPLICIT)}, calling=PEER)
            scu.ask(C_FIND_RQ, ALL, message_id=9)
            for other in (8, 10, 0):
                scu.send(*message(1, C_CANCEL_RQ(message_id_being_responded_to=other)))
            scus.append(scu)
        for scu in scus:
            *pending, final = scu.responses()
            self.assertEqual((len(pending), final.status), (STUDIES, 0))
            scu.send(*message(1, C_CANCEL_RQ(message_id_being_responded_to=9)))
            scu.release()

    def test_window(self) -> None:
        """Queries of one association go on side by side if that was agreed on, each is cancelled alone."""
        with Scu(self.server.address, buffer=65536) as scu:
            window = AsynchronousOperationsWindow(4, 1)
            scu.associate({1: (FIND, IMPLICIT)}, window, calling=PEER)
            for message_id in (1, 2, 3):
                scu.ask(C_FIND_RQ, ALL, message_id=message_id)
            counts = Counter[int | None]()
            finals: dict[int | None, int | None] = {}
            while len(finals) < 3:
                received = scu.receive_message()
                message_id = received.command.message_id_being_responded_to
                if received.status != 0xFF00:
                    finals[message_id] = received.status
                    continue
                counts[message_id] += 1
                if set(counts) == {1, 2, 3} and counts[message_id] == 1:  # all are under way
                    for cancelled in (3, 1):
                        scu.send(*message(1, C_CANCEL_RQ(message_id_being_responded_to=cancelled)))
            self.assertEqual(finals, {1: 0xFE00, 2: 0, 3: 0xFE00})
            self.assertEqual(counts[2], STUDIES)
            self.assertLess(counts[1] + counts[3], STUDIES)
            scu.release()

    def test_release(self) -> None:
        """A release in the middle of a query ends it, and is answered soon."""
        with Scu(self.server.address, buffer=65536) as scu:
            scu.associate({1: (FIND, IMPLICIT)}, calling=PEER)
            scu.ask(C_FIND_RQ, ALL)
            scu.receive_message()
            started = time.monotonic()
            scu.send(A_RELEASE_RQ())
            received: list[object] = []
            while not isinstance(one := scu.receive_whole(), A_RELEASE_RP):
                received.append(one)
            self.assertLess(time.monotonic() - started, 1)
            self.assertLess(len(received), STUDIES)
            self.assertEqual(received[-1].status, 0xFE00)  # type: ignore[attr-defined]

    def test_more_failures_than_can_be_told(self) -> None:
        """The list of what has failed is cut to what an element holds, the number is that of all of them."""
        studies = [f"1.2.{number}" for number in range(2000)]
        query = identifier("STUDY", StudyInstanceUID=studies)
        for transfer_syntax in (IMPLICIT, EXPLICIT):
            with (
                self.case(transfer_syntax),
                associated(self.server, uids.STUDY_ROOT_GET, transfer_syntax=transfer_syntax) as scu,
            ):
                scu.ask(C_GET_RQ, encode(query, transfer_syntax))
                final = scu.responses()[-1]
                self.assertEqual((final.status, final.counters), (0xA702, (None, 0, 2000, 0)))
                told = decode(final.data_set, transfer_syntax).FailedSOPInstanceUIDList
                self.assertGreater(len(told), 1000)
                self.assertEqual(set(told) - {f"{study}.1.1" for study in studies}, set())

    def test_peers_that_do_not_read(self) -> None:
        """A query waits while its answers are not read; it costs little memory, and others are served."""
        self.server.reset_peak()
        before = self.server.rss
        idle, ended = [], len(self.server.summaries)
        for _ in range(12):  # more than there are threads for queries
            scu = Scu(self.server.address, buffer=4096)
            self.addCleanup(scu.close)
            scu.associate({1: (FIND, IMPLICIT)}, calling=PEER)
            scu.ask(C_FIND_RQ, ALL)
            idle.append(scu)
        time.sleep(0.5)
        self.assertLess(self.server.peak - before, len(idle) * GROWTH)
        started = time.monotonic()
        fill(self.server, [ct(1, StudyInstanceUID="1.2.5")])
        with associated(self.server, FIND) as scu:
            found = scu.find(encode(identifier("STUDY", StudyInstanceUID="1.2.5"), IMPLICIT))
            self.assertEqual([one.status for one in found], [0xFF00, 0])
        self.assertLess(time.monotonic() - started, 1)
        ended = len(self.server.wait_for_summaries(ended + 2))
        *pending, final = idle[0].responses()
        self.assertEqual((len(pending), final.status), (STUDIES, 0))
        self.assertEqual(len({one.data_set for one in pending}), STUDIES)
        self.assertLess(self.server.peak - before, (len(idle) + 1) * GROWTH)  # the other query is one more
        for scu in idle:
            scu.close()
        lines = self.server.wait_for_summaries(ended + len(idle))[ended:]
        self.assertEqual(sum("1 dropped unfinished" in line for line in lines), len(idle) - 1, lines)
