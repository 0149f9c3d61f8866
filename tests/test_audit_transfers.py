"""What storage, queries and retrieval leave in the audit trail: in memory, with a virtual clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from pydicom.dataset import Dataset
from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.dimse.messages import C_FIND_RQ, C_STORE_RQ
from dicomtw.errors import AssociationLost, Rejected
from dicomtw.security.audit.events import Study
from dicomtw.security.audit.message import LONGEST_TEXT
from dicomtw.security.audit.transfers import LONGEST, Transfers
from dicomtw.security.remote import Remote
from dicomtw.services import selection
from dicomtw.services.query import Query
from dicomtw.services.storage import Storage
from dicomtw.storage.directory import DirectoryStore, Durability, OnDuplicate
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.stored import Stored
from dicomtw.testing import MemoryServer, Peer
from dicomtw.testing import message as sent_message
from dicomtw.trail import SILENT
from dicomtw.transcode import encode
from tests.services.archive import CT, EXPLICIT, MR, ct, data_set
from tests.services.test_retrieve import RetrieveTestCase
from tests.test_auditing import audited

SENT, BEGUN, QUERY = "110104", "110102", "110112"
FIND = uids.STUDY_ROOT_FIND


class Entering:
    """Whom the storage service tells."""

    def __init__(self) -> None:
        self.waiting: Deferred[None] | None = None

    def add(self, stored: Stored) -> Deferred[None]:
        return self.waiting or succeed(None)


class StorageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = DirectoryStore(
            Path(self.mktemp()), Durability.RELAXED, OnDuplicate.KEEP, Attributes().tags
        )
        self.store.prepare()
        self.addCleanup(self.store.close)
        self.indexing = Entering()
        self.server = MemoryServer.of(Storage(self.store, indexing=self.indexing))
        self.trail = audited(self, self.server)

    def associated(self) -> Peer:
        peer = self.server.connect()
        peer.associate({1: (CT, EXPLICIT), 3: (MR, EXPLICIT)}, calling="CT1")
        return peer

    def send(self, peer: Peer, instance: Dataset) -> int:
        request = C_STORE_RQ(
            affected_sop_class_uid=instance.SOPClassUID,
            affected_sop_instance_uid=instance.SOPInstanceUID,
            message_id=1,
            priority=0,
        )
        answer = peer.request(1 if instance.SOPClassUID == CT else 3, request, encode(instance, EXPLICIT))
        return answer.status or 0

    def test_gathered(self) -> None:
        """What one association stores is a message for each study, at its end."""
        peer = self.associated()
        for number in range(1, 4):
            self.send(peer, ct(1, 1, number))
        self.send(peer, ct(1, 2, 1, SOPClassUID=MR))
        self.send(peer, ct(2, PatientName="Müller", SpecificCharacterSet="ISO_IR 192"))
        self.assertEqual(self.trail.messages, [])
        peer.close()
        self.assertEqual(self.trail.studies(SENT), [("1.1", "P1", {CT: 3, MR: 1}), ("1.2", "P2", {CT: 1})])
        message = self.trail.messages[1]
        self.assertEqual(message.action.value, "C")
        self.assertEqual(message.objects[0].accession_numbers, ("A2",))
        self.assertEqual(message.objects[1].name, "Müller")
        self.assertEqual([one.user_id for one in message.participants], ["CT1", "1"])

    def test_sent_again(self) -> None:
        """What we had and keep is told apart (A.5.3.7)."""
        peer = self.associated()
        self.send(peer, ct(1))
        self.send(peer, ct(1))
        self.send(peer, ct(1, 1, 2))
        peer.close()
        self.assertEqual(self.trail.studies(SENT), [("1.1", "P1", {CT: 2}), ("1.1", "P1", {CT: 1})])
        self.assertEqual([message.action.value for message in self.trail.messages], ["C", "R"])

    def test_refused(self) -> None:
        """What is not stored is not transferred."""
        peer = self.associated()
        request = C_STORE_RQ(
            affected_sop_class_uid=CT, affected_sop_instance_uid="1.9", message_id=1, priority=0
        )
        self.assertNotEqual(peer.request(1, request, encode(ct(1), EXPLICIT)).status, 0)
        peer.close()
        self.assertEqual(self.trail.messages, [])

    def test_two_patients(self) -> None:
        """A message is about one patient, be the study said to be of two."""
        peer = self.associated()
        self.send(peer, ct(1, 1, 1))
        self.send(peer, ct(1, 1, 2, PatientID="Q1"))
        peer.close()
        self.assertEqual(self.trail.studies(SENT), [("1.1", "P1", {CT: 1}), ("1.1", "Q1", {CT: 1})])

    def test_nameless(self) -> None:
        """An object without patient and study is told of like others."""
        instance = ct(1)
        del instance.StudyInstanceUID, instance.PatientID, instance.PatientName, instance.AccessionNumber
        peer = self.associated()
        self.send(peer, instance)
        peer.close()
        self.assertEqual(self.trail.studies(SENT), [("unknown-study", "", {CT: 1})])

    def test_long_texts(self) -> None:
        """What is kept of a study until it is told of is cut."""
        added: list[tuple[Any, Study]] = []
        add = Transfers.add
        self.patch(
            Transfers,
            "add",
            lambda it, key, study, *given: (added.append((key, study())), add(it, key, study, *given))[1],
        )
        peer = self.associated()
        long = "x" * 16000
        self.send(peer, ct(1, PatientID=long, PatientName=long, AccessionNumber=long))
        self.flushWarnings()  # of pydicom, about their lengths
        ((key, study),) = added
        for text in (key[1], study.patient_id, study.patient_name, study.accession_number):
            self.assertEqual(len(text), LONGEST_TEXT)

    def test_long(self) -> None:
        """An association that goes on and on is told of meanwhile."""
        peer = self.associated()
        self.send(peer, ct(1, 1, 1))
        self.server.clock.advance(LONGEST)
        self.send(peer, ct(1, 1, 2))
        self.assertEqual(self.trail.studies(SENT), [("1.1", "P1", {CT: 1})])

    def test_after_the_end(self) -> None:
        """What is committed when the peer is gone already is told of then."""
        peer = self.associated()
        self.indexing.waiting = Deferred()
        request = C_STORE_RQ(
            affected_sop_class_uid=CT, affected_sop_instance_uid="1.1.1.1", message_id=1, priority=0
        )
        peer.send(*sent_message(1, request, encode(ct(1), EXPLICIT)))
        peer.close()
        self.assertEqual(self.trail.messages, [])
        self.indexing.waiting.callback(None)
        self.assertEqual(self.trail.studies(SENT), [("1.1", "P1", {CT: 1})])

    def test_silent(self) -> None:
        """Without an audit trail nothing is gathered, and nobody asked."""
        self.server.factory.entity = attrs.evolve(self.server.factory.entity, audit=SILENT)
        peer = self.associated()
        self.assertIsNone(peer.protocol.association.trail)
        self.assertEqual(self.send(peer, ct(1)), 0)
        self.assertRaises(Rejected, self.server.associate, called="OTHER")
        self.assertEqual(self.trail.messages, [])


class QueryTests(RetrieveTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = MemoryServer.of(Query(self.archive.index, self.archive, "PMOD"))
        self.trail = audited(self, self.server)

    def find(self) -> Any:
        peer = self.server.connect()
        peer.associate({1: (FIND, EXPLICIT)}, calling="WS")
        identifier = encode(data_set(QueryRetrieveLevel="STUDY", PatientName="Secret*"), EXPLICIT)
        answer = peer.request(1, C_FIND_RQ(affected_sop_class_uid=FIND, message_id=1, priority=0), identifier)
        return answer.status, identifier

    def test_query(self) -> None:
        """A query is told of with its identifier, when it begins."""
        status, identifier = self.find()
        self.assertEqual(status, 0)
        (message,) = self.trail.messages
        self.assertEqual((message.event.code, message.objects[0].object_id), (QUERY, FIND))
        self.assertEqual(message.objects[0].query, identifier)
        self.assertEqual(message.participants[0].user_id, "WS")

    def test_refused(self) -> None:
        """One that is refused is an alert, and no query; the identifier is not in it."""
        entity = self.server.factory.entity
        access = attrs.evolve(entity.access, allow_retrieve_any=False)
        self.server.factory.entity = attrs.evolve(entity, access=access)
        with capturedLogs() as logs:
            self.assertEqual(self.find()[0], 0x0124)
        (message,) = self.trail.messages
        self.assertEqual(self.trail.kinds, ["110132"])
        self.assertIn("C-FIND refused: not a configured remote", message.outcome_description)
        self.assertNotIn("Secret", message.xml())
        self.assertNotIn("Secret", str(logs))


class RetrievalTests(RetrieveTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.trail = audited(self, self.server)
        audit: Any = self.server.factory.entity.audit
        audit.addresses = {"WS": "ws.example"}

    def test_sent(self) -> None:
        """What is going to be sent is told of before, and what was sent after, study by study."""
        self.archive.fill(studies=3, series=2, instances=2)
        self.archive.add(ct(2, 3, 1, SOPClassUID=MR))
        for operation in ("MOVE", "GET"):
            self.trail.messages.clear()
            retrieval = self.retrieve(operation, "STUDY", StudyInstanceUID=["1.1", "1.2"])
            self.assertEqual(retrieval.completed, 9)
            expected = [("1.1", "P1", {CT: 4}), ("1.2", "P2", {CT: 4, MR: 1})]
            self.assertEqual(sorted(self.trail.studies(BEGUN)), expected)
            self.assertEqual(sorted(self.trail.studies(SENT)), expected)
            self.assertEqual(self.trail.kinds, [BEGUN, BEGUN, SENT, SENT])
            message = self.trail.messages[-1]
            self.assertEqual((message.action.value, message.outcome.value), ("R", "0"))
            self.assertEqual(message.objects[1].name, f"Patient^{message.objects[1].object_id[1:]}")
            self.assertEqual(message.objects[0].accession_numbers, (f"A{message.objects[0].object_id[2:]}",))

    def test_participants(self) -> None:
        """C-MOVE: the destination, where it is said to be, and who has asked; C-GET: he himself."""
        self.archive.fill(studies=1, series=1, instances=1)
        self.retrieve("MOVE", "STUDY", StudyInstanceUID="1.1")
        said = [(one.user_id, one.access_point) for one in self.trail.messages[0].participants]
        self.assertEqual(said, [("1", "h"), ("WS", "ws.example"), ("DICOMTW", "192.0.2.1")])
        self.retrieve("GET", "STUDY", StudyInstanceUID="1.1")
        said = [(one.user_id, one.access_point) for one in self.trail.messages[-1].participants]
        self.assertEqual(said, [("1", "h"), ("DICOMTW", "192.0.2.1")])

    def test_failures(self) -> None:
        """What the receiver did not take is a message of its own, with another outcome."""
        self.archive.fill(studies=1, series=1, instances=3)
        self.receiver.answers["1.1.1.2"] = 0xA700
        for operation in ("MOVE", "GET"):
            self.trail.messages.clear()
            self.retrieve(operation, "STUDY", StudyInstanceUID="1.1")
            self.assertEqual(self.trail.studies(SENT), [("1.1", "P1", {CT: 2}), ("1.1", "P1", {CT: 1})])
            self.assertEqual([one.outcome.value for one in self.trail.messages], ["0", "0", "4"])

    def test_destination_away(self) -> None:
        """So is what could not be sent at all."""
        self.archive.fill(studies=1, series=1, instances=3)
        self.fault = AssociationLost("away")
        self.refusal("MOVE", "STUDY", StudyInstanceUID="1.1")
        self.assertEqual(self.trail.studies(SENT), [("1.1", "P1", {CT: 3})])
        self.assertEqual(self.trail.messages[-1].outcome.value, "4")

    def test_cut_off(self) -> None:
        """When whoever asked is gone, what was sent by then is told of."""
        self.archive.fill(studies=1, series=1, instances=3)
        self.receiver.waiting = Deferred()
        self.begin("MOVE", "STUDY", StudyInstanceUID="1.1").addErrback(lambda _: None)
        self.server.clock.advance(0)
        self.assertEqual(self.trail.kinds, [BEGUN])
        self.scu.association.abort("enough")
        self.receiver.waiting.callback(None)
        for _ in range(5):
            self.server.clock.advance(1)
        sent = self.trail.studies(SENT)
        self.assertLessEqual(sum(sum(each[2].values()) for each in sent), 3)

    def test_destination_refused(self) -> None:
        """A destination that is not for this remote is an alert; one that nobody knows is none."""
        self.archive.fill(studies=1, series=1, instances=1)
        entity = self.server.factory.entity
        remote = Remote(aet="DICOMTW", host="192.0.2.1", destinations=("ELSE",))
        access = attrs.evolve(entity.access, remotes=(remote,))
        self.server.factory.entity = attrs.evolve(entity, access=access)
        self.assertEqual(self.refusal("MOVE", "STUDY", StudyInstanceUID="1.1").status, 0xA801)
        self.assertEqual(self.trail.kinds, ["110132"])

    def test_nothing(self) -> None:
        """Where nothing is found nothing is told."""
        self.retrieve("MOVE", "STUDY", StudyInstanceUID="1.9")
        self.assertEqual(self.trail.messages, [])

    def test_silent(self) -> None:
        """Without an audit trail the index is not asked what is sent."""
        self.archive.fill(studies=1, series=1, instances=1)
        self.server.factory.entity = attrs.evolve(self.server.factory.entity, audit=SILENT)
        self.patch(selection, "contents_of", None)
        self.assertEqual(self.retrieve("GET", "STUDY", StudyInstanceUID="1.1").completed, 1)
