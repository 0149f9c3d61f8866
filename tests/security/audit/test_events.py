"""Audit messages: each kind is what PS3.15 A.5 says, whatever stands in it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.audit import events
from dicomtw.security.audit.events import MAXIMUM_SOP_CLASSES, Events, Party, Study
from dicomtw.security.audit.message import LONGEST_TEXT, AuditMessage, Outcome
from tests.security.audit.schema import faults_of

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
EXPLICIT = "1.2.840.10008.1.2.1"

NOW = datetime(2026, 11, 23, 15, 5, 54, 123456, UTC)
EVENTS = Events(ae_title="PMOD", process_id="4711", host="server.example", now=lambda: NOW)
SCANNER = Party(ae_title="CT1", address="192.0.2.7")
DOCTOR = Party(
    ae_title="WS", address="2001:db8::7", certificate="CN=ws,O=Clinic", user="doctor@clinic.example"
)
STUDY = Study(study_instance_uid="1.2.3", patient_id="P1", patient_name="Müller^Änne", accession_number="A-1")
NOTHING_KNOWN = Study(study_instance_uid="unknown-study")
#: What a peer may send where a text is due.
HOSTILE = '<x a="1">\'&amp;]]>\r\n\t\0\x1b[31m\x85\u2028\ud800\ufffe\U0001f600' + "y" * 5000

MESSAGES: dict[str, AuditMessage] = {
    "start": EVENTS.application(starts=True),
    "stop": EVENTS.application(starts=False),
    "begin C-GET": EVENTS.begin_transferring(SCANNER, None, STUDY, {CT: 3}),
    "begin C-MOVE": EVENTS.begin_transferring(DOCTOR, SCANNER, STUDY, {CT: 3, MR: 1}),
    "sent": EVENTS.sent(DOCTOR, SCANNER, STUDY, {CT: 3}),
    "sent, got": EVENTS.sent(DOCTOR, None, STUDY, {CT: 3}),
    "not sent": EVENTS.sent(SCANNER, None, STUDY, {CT: 2}, failed=True),
    "received": EVENTS.received(SCANNER, STUDY, {CT: 500, MR: 1}),
    "received from somebody": EVENTS.received(DOCTOR, NOTHING_KNOWN, {CT: 1}),
    "received again": EVENTS.received(Party(), STUDY, {CT: 1}, held_before=True),
    "query": EVENTS.query(DOCTOR, FIND, EXPLICIT, b"\x08\0\x52\0CS\6\0STUDY "),
    "empty query": EVENTS.query(SCANNER, FIND, EXPLICIT, b""),
    "alert": EVENTS.alert(events.NODE_AUTHENTICATION, "TLS failed", Party(address="192.0.2.9")),
    "alert about somebody": EVENTS.alert(
        events.USE_OF_RESTRICTED_FUNCTION, "C-FIND refused", DOCTOR, Outcome.SERIOUS_FAILURE
    ),
    "alert about us": EVENTS.alert(events.AUDIT_RECORDING_STOPPED, "7 messages were not recorded"),
    "login": EVENTS.login(DOCTOR),
    "no login": EVENTS.login(attrs.evolve(DOCTOR, address=""), "wrong passcode"),
}


def parsed(message: AuditMessage) -> Element:
    return ElementTree.fromstring(message.xml().encode("utf-8"))


class SchemaTests(SynchronousTestCase):
    def test_every_message(self) -> None:
        """Every message has the structure of A.5.1 and what its table in A.5.3 asks for, in one line."""
        for name, message in MESSAGES.items():
            self.assertEqual(faults_of(message.xml()), [], name)

    def test_hostile(self) -> None:
        """Whatever a peer sends, the message is one line of well-formed XML with the same structure."""
        party = Party(ae_title=HOSTILE, address=HOSTILE, certificate=HOSTILE, user=HOSTILE)
        study = Study(
            study_instance_uid=HOSTILE,
            patient_id=HOSTILE,
            patient_name=HOSTILE,
            accession_number=HOSTILE,
        )
        makes = Events(ae_title=HOSTILE, process_id="1", host=HOSTILE, now=lambda: NOW)
        messages = [
            makes.application(starts=True),
            makes.begin_transferring(party, party, study, {HOSTILE: 1}),
            makes.sent(party, None, study, {HOSTILE: 1}, failed=True),
            makes.received(party, study, {HOSTILE: 1}),
            makes.query(party, HOSTILE, HOSTILE, HOSTILE.encode("utf-8", "replace")),
            makes.alert(events.NODE_AUTHENTICATION, HOSTILE, party),
            makes.login(party, HOSTILE),
        ]
        for message in messages:
            xml = message.xml()
            self.assertEqual(faults_of(xml), [], xml[:200])
            self.assertLess(len(xml), 60_000)
            self.assertTrue(all(one >= " " for one in xml))

    def test_every_character(self) -> None:
        """No character breaks the XML or ends the line; those that XML has come back as they went in."""
        for start in range(0, 0x11000, 512):
            said = "".join(map(chr, range(start, start + 512)))
            xml = EVENTS.received(SCANNER, attrs.evolve(STUDY, patient_name=said), {CT: 1}).xml()
            self.assertEqual(len(xml.splitlines()), 1)
            xml.encode("utf-8")
            back = ElementTree.fromstring(xml).findall(".//ParticipantObjectName")[-1].text or ""
            self.assertEqual(len(back), len(said))
            for sent, came in zip(said, back, strict=True):
                self.assertIn(came, (sent, "\ufffd"))
                if sent.isalnum():
                    self.assertEqual(came, sent)

    def test_long_texts(self) -> None:
        """A text is cut, also in a detail; an identifier is not."""
        long = attrs.evolve(STUDY, patient_id="p" * (LONGEST_TEXT + 1))
        patient = parsed(EVENTS.received(SCANNER, long, {CT: 1})).findall("ParticipantObjectIdentification")[
            1
        ]
        self.assertEqual(patient.get("ParticipantObjectID"), "p" * LONGEST_TEXT)
        alert = parsed(EVENTS.alert(events.NODE_AUTHENTICATION, "w" * (LONGEST_TEXT + 1), SCANNER))
        why = alert.findall(".//ParticipantObjectDetail")[0].get("value") or ""
        self.assertEqual(base64.b64decode(why), b"w" * LONGEST_TEXT)
        query = parsed(EVENTS.query(SCANNER, FIND, EXPLICIT, bytes(100_000)))
        said = query.findtext(".//ParticipantObjectQuery") or ""
        self.assertEqual(base64.b64decode(said), bytes(100_000))


class ContentTests(SynchronousTestCase):
    def test_time(self) -> None:
        """The time of an event has its zone (A.5.2.5)."""
        self.assertEqual(parsed(MESSAGES["login"])[0].get("EventDateTime"), "2026-11-23T15:05:54.123+00:00")
        east = timezone(timedelta(hours=5, minutes=45))
        makes = attrs.evolve(EVENTS, now=lambda: NOW.astimezone(east))
        said = parsed(makes.application(starts=True))[0].get("EventDateTime")
        self.assertEqual(said, "2026-11-23T20:50:54.123+05:45")

    def test_real_time(self) -> None:
        """Without another clock it is that of the machine."""
        message = Events(ae_title="A", process_id="1", host="h").application(starts=True)
        self.assertLess(abs(datetime.now(UTC) - message.time), timedelta(minutes=1))

    def test_transfer(self) -> None:
        """Who sent to whom, the study, its accession number and its SOP classes, and the patient."""
        root = parsed(MESSAGES["received"])
        source, destination = root.findall("ActiveParticipant")
        self.assertEqual(
            source.attrib,
            {
                "UserID": "CT1",
                "AlternativeUserID": "AETITLES=CT1",
                "UserIsRequestor": "true",
                "NetworkAccessPointID": "192.0.2.7",
                "NetworkAccessPointTypeCode": "2",
            },
        )
        self.assertEqual(
            destination.attrib,
            {
                "UserID": "4711",
                "AlternativeUserID": "AETITLES=PMOD",
                "UserName": "dicomtw",
                "UserIsRequestor": "false",
                "NetworkAccessPointID": "server.example",
                "NetworkAccessPointTypeCode": "1",
            },
        )
        study, patient = root.findall("ParticipantObjectIdentification")
        self.assertEqual(study.get("ParticipantObjectID"), "1.2.3")
        self.assertEqual(study.find(".//Accession").attrib, {"Number": "A-1"})  # type: ignore[union-attr]
        classes = {one.get("UID"): one.get("NumberOfInstances") for one in study.iter("SOPClass")}
        self.assertEqual(classes, {CT: "500", MR: "1"})
        self.assertEqual(patient.get("ParticipantObjectID"), "P1")
        self.assertEqual(patient.findtext("ParticipantObjectName"), "Müller^Änne")
        self.assertEqual(root.find("AuditSourceIdentification").get("AuditSourceID"), "PMOD")  # type: ignore[union-attr]

    def test_many_sop_classes(self) -> None:
        """Of very many SOP classes the largest are told, and how many instances there are of others."""
        many = {f"1.2.{number}": number + 1 for number in range(MAXIMUM_SOP_CLASSES + 3)}
        message = EVENTS.sent(SCANNER, None, STUDY, many)
        self.assertEqual(faults_of(message.xml()), [])
        said = {
            one.get("UID"): int(one.get("NumberOfInstances") or 0) for one in parsed(message).iter("SOPClass")
        }
        self.assertEqual(len(said), MAXIMUM_SOP_CLASSES + 1)
        self.assertEqual((said[None], sum(said.values())), (1 + 2 + 3, sum(many.values())))

    def test_actions(self) -> None:
        """C for what we did not have, R for what we had and for what others receive (A.5.3.7)."""
        said = {name: message.action.value for name, message in MESSAGES.items()}
        self.assertEqual([said[name] for name in ("received", "received again", "sent")], ["C", "R", "R"])
        self.assertEqual({said[name] for name in ("query", "login", "start", "begin C-GET", "alert")}, {"E"})

    def test_user(self) -> None:
        """A user is a participant beside his process, and of the two he is the requestor (A.5.2)."""
        participants = parsed(MESSAGES["query"]).findall("ActiveParticipant")
        said = [(one.get("UserID"), one.get("UserName"), one.get("UserIsRequestor")) for one in participants]
        self.assertEqual(
            said,
            [
                ("WS", "CN=ws,O=Clinic", "false"),
                ("doctor@clinic.example", None, "true"),
                ("4711", "dicomtw", "false"),
            ],
        )

    def test_third_party(self) -> None:
        """C-MOVE: we send, the destination receives, and who has asked for it is the requestor."""
        participants = parsed(MESSAGES["begin C-MOVE"]).findall("ActiveParticipant")
        said = [
            (one.get("UserID"), [role.get("csd-code") for role in one], one.get("UserIsRequestor"))
            for one in participants
        ]
        self.assertEqual(
            said,
            [
                ("4711", ["110153"], "false"),
                ("CT1", ["110152"], "false"),
                ("WS", [], "false"),
                ("doctor@clinic.example", [], "true"),
            ],
        )

    def test_query(self) -> None:
        """The identifier as it came and its transfer syntax, both in base64."""
        (found,) = parsed(MESSAGES["query"]).findall("ParticipantObjectIdentification")
        self.assertEqual(found.get("ParticipantObjectID"), FIND)
        said = base64.b64decode(found.findtext("ParticipantObjectQuery") or "")
        self.assertEqual(said, b"\x08\0\x52\0CS\6\0STUDY ")
        detail = found.find("ParticipantObjectDetail")
        self.assertEqual(base64.b64decode(detail.get("value") or ""), EXPLICIT.encode())  # type: ignore[union-attr]

    def test_alert(self) -> None:
        """What the matter is, in the outcome and in base64, and the node that it is about."""
        root = parsed(MESSAGES["alert"])
        self.assertEqual(root.findtext(".//EventOutcomeDescription"), "TLS failed")
        node = root.find("ParticipantObjectIdentification")
        self.assertEqual(node.get("ParticipantObjectID"), "192.0.2.9")  # type: ignore[union-attr]
        detail = root.find(".//ParticipantObjectDetail")
        self.assertEqual(base64.b64decode(detail.get("value") or ""), b"TLS failed")  # type: ignore[union-attr]

    def test_schema_is_a_test(self) -> None:
        """The check of these tests finds what is wrong."""
        good = MESSAGES["received"].xml()
        for what, instead in (
            ('UserIsRequestor="true"', 'UserIsRequestor="TRUE"'),
            ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
            ('EventActionCode="C"', 'EventActionCode="E"'),
            (' UserID="CT1"', ""),
            (".123+00:00", ""),
            ("110153", "110152"),
            ("<ParticipantObjectName></ParticipantObjectName>", ""),
            ('NumberOfInstances="500"', 'NumberOfInstances="many"'),
            ('codeSystemName="DCM"', ""),
            ("</EventIdentification>", "</EventIdentification>x"),
            ('<AuditSourceTypeCode csd-code="4"/>', ""),
        ):
            self.assertIn(what, good)
            wrong = good.replace(what, instead, 1)
            if what.startswith("<AuditSourceTypeCode"):
                self.assertEqual(faults_of(wrong), [])  # it may be missing
            else:
                self.assertNotEqual(faults_of(wrong), [], what)
