"""What associations leave in the audit trail, and what they do not: in memory, with a virtual clock."""

from __future__ import annotations

import base64
import errno
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import auditing, uids
from dicomtw.acceptor import LOGIN_PAUSE, TEMPORARY_CONGESTION
from dicomtw.auditing import QUEUE, Auditing, DiskThread, ServerAudit
from dicomtw.config import Server
from dicomtw.errors import Rejected
from dicomtw.limits import Limits
from dicomtw.recorder import PORTION
from dicomtw.security.access import Requestor
from dicomtw.security.audit import events
from dicomtw.security.audit.events import Events
from dicomtw.security.audit.message import AuditMessage
from dicomtw.security.audit.repeats import TOLD, WINDOW
from dicomtw.security.certificate import PeerCertificate
from dicomtw.security.identity import Demand
from dicomtw.services.verification import Verification
from dicomtw.storage.content import Content
from dicomtw.testing import MemoryServer, associate_rq, at_once
from tests.security.audit.schema import faults_of
from tests.test_association import c_echo_rq
from tests.test_user_identity import ALICE, WRONG, UserIdentityTestCase

LOGIN = "110114"


class Trail:
    """Messages, as collectors get them; each of them is valid."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self._test = test
        self.messages: list[AuditMessage] = []

    def all(self, made: Iterable[Callable[[], AuditMessage]]) -> None:
        for make in made:
            self(make())

    def __call__(self, message: AuditMessage) -> None:
        self._test.assertEqual(faults_of(message.xml()), [])
        self.messages.append(message)

    @property
    def kinds(self) -> list[str]:
        """Event types, or events without one."""
        return [message.types[0].code if message.types else message.event.code for message in self.messages]

    def studies(self, event: str) -> list[tuple[str, str, dict[str, int]]]:
        """Study, patient and instances of the messages about an event."""
        return [
            (one.objects[0].object_id, one.objects[1].object_id, dict(one.objects[0].instances))
            for one in self.messages
            if one.event.code == event
        ]


def audited(test: SynchronousTestCase, server: MemoryServer, **more: Any) -> Trail:
    """The audit trail of a server, kept from now on."""
    trail = Trail(test)
    audit = ServerAudit(
        Events(ae_title="PMOD", process_id="1", host="h"),
        trail,
        trail.all,
        server.clock,
        addresses={},
        **more,
    )
    server.factory.entity = attrs.evolve(server.factory.entity, audit=audit)
    return trail


class AssociationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = MemoryServer.of(Verification())
        self.trail = audited(self, self.server)

    def test_quiet(self) -> None:
        """An association that does nothing of interest leaves nothing."""
        peer = self.server.connect()
        peer.associate({1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)})
        peer.request(1, c_echo_rq())
        peer.close()
        self.assertEqual(self.trail.messages, [])

    def test_rejected(self) -> None:
        """A rejection is an alert that says why, and from where: for good a serious failure."""
        self.assertRaises(Rejected, self.server.associate, called="OTHER", calling="CT1")
        (message,) = self.trail.messages
        self.assertEqual((message.event.code, message.types), ("110113", (events.NODE_AUTHENTICATION,)))
        self.assertEqual(message.outcome.value, "8")
        self.assertEqual(
            message.outcome_description, "association rejected: called AE title 'OTHER' is not 'PMOD'"
        )
        self.assertEqual(message.participants[1].user_id, "CT1")
        self.assertEqual(message.participants[1].access_point, "192.0.2.1")

    def test_limit(self) -> None:
        """So is one for the time being, a minor one."""
        self.server.factory.limits = Limits(max_associations=1)
        self.server.associate()
        self.assertRaises(Rejected, self.server.associate)
        (message,) = self.trail.messages
        self.assertEqual(message.outcome.value, "4")
        self.assertIn("there are 1 associations", message.outcome_description)

    def test_odd_proposal(self) -> None:
        """A rejection before anything is decided has a requestor, too."""
        peer = self.server.connect()
        rq = peer_rq(application_context_name="1.2.3")
        peer.send(rq)
        (message,) = self.trail.messages
        self.assertIn("application context name", message.outcome_description)
        self.assertEqual(message.participants[1].user_id, "SCU")

    def test_turned_out(self) -> None:
        """A connection that has to go for others is an alert, one that just ends is none."""
        self.server.factory.limits = Limits(max_connections=1)
        first, second = self.server.connect("192.0.2.7"), self.server.connect("192.0.2.8")
        self.assertFalse(first.connected)
        second.close()
        (message,) = self.trail.messages
        self.assertEqual(message.objects[0].object_id, "192.0.2.7")
        self.assertIn("too many connections", message.outcome_description)

    def test_tls(self) -> None:
        """TLS that fails is an alert with what OpenSSL says."""
        peer = self.server.connect()
        peer.protocol.connectionLost(Failure(SSL.Error([("", "", "no shared cipher")])))
        (message,) = self.trail.messages
        self.assertIn("TLS failed: no shared cipher", message.outcome_description)
        peer = self.server.connect()
        peer.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(self.trail.messages), 1)

    def test_no_proposal(self) -> None:
        """So is who speaks something else, or says nothing for too long; who just comes and goes is not."""
        for data in (b"", b"\1\0\0\0"):
            peer = self.server.connect()
            peer.protocol.dataReceived(data)
            peer.close()
        self.assertEqual(self.trail.messages, [])
        self.server.connect().protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: pmod\r\n\r\n")
        self.server.connect()
        for _ in range(5):
            self.server.clock.advance(self.server.factory.limits.artim_timeout)
        first, second = sorted(self.trail.messages, key=lambda message: len(message.outcome_description))
        self.assertIn("no A-ASSOCIATE-RQ within the ARTIM time", first.outcome_description)
        self.assertIn("PDU", second.outcome_description)
        self.assertEqual({first.objects[0].object_id, second.objects[0].object_id}, {"192.0.2.1"})

    def test_gone(self) -> None:
        """Who does not wait for his answer is told of once."""
        peer = self.server.connect()
        peer.send(peer_rq(called_ae_title="OTHER"))
        peer.protocol.dataReceived(b"?" * 10)
        peer.close()
        self.assertEqual(len(self.trail.messages), 1)

    def test_repeated(self) -> None:
        """Of many alerts about one address a few are told; then how many more there were."""
        for _ in range(TOLD + 5):
            self.assertRaises(Rejected, self.server.associate, called="OTHER")
        self.assertRaises(Rejected, self.server.associate, called="OTHER", host="192.0.2.2")
        self.assertEqual(len(self.trail.messages), TOLD + 1)
        self.server.clock.advance(WINDOW + 1)
        (*_, message) = self.trail.messages
        self.assertEqual(len(self.trail.messages), TOLD + 2)
        self.assertEqual(message.outcome_description, "5 more such events about 192.0.2.1")
        self.server.clock.advance(WINDOW)
        self.assertEqual(len(self.trail.messages), TOLD + 2)
        self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_repeated_later(self) -> None:
        """That is told of one after the other, each when its own time is over."""
        audit: Any = self.server.factory.entity.audit
        audit.turned_out("192.0.2.1", "too many")
        self.server.clock.advance(WINDOW / 2)
        for number in range(TOLD + 3):
            audit.turned_out(f"2001:db8::{number}", "too many")
        for _ in range(3):
            self.assertEqual(len(self.trail.messages), TOLD + 1)
            self.server.clock.advance(WINDOW / 2)
        self.assertEqual(
            self.trail.messages[-1].outcome_description, "3 more such events about 2001:db8::/64"
        )
        self.server.clock.advance(WINDOW)
        self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_start_and_stop(self) -> None:
        """The server starts and stops; what was only counted is told before the end."""
        audit: Any = self.server.factory.entity.audit
        audit.started()
        for _ in range(TOLD + 1):
            self.assertRaises(Rejected, self.server.associate, called="OTHER")
        audit.stopped()
        self.assertEqual(self.trail.kinds[0], "110120")
        self.assertEqual(self.trail.kinds[-1], "110121")
        self.assertIn("1 more such", self.trail.messages[-2].outcome_description)

    def test_certificate(self) -> None:
        """A peer's certificate is what it is named by."""
        audit: Any = self.server.factory.entity.audit
        certificate = PeerCertificate("CN=ct1,O=Clinic", (), "00")
        requestor = Requestor(calling_ae_title="CT1 ", called_ae_title="PMOD", certificate=certificate)
        audit.rejected(requestor, "no", transient=True)
        (message,) = self.trail.messages
        self.assertEqual(message.participants[1].user_name, "CN=ct1,O=Clinic")
        self.assertEqual(message.participants[1].user_id, "CT1")

    def test_lost(self) -> None:
        """What was lost is told of in two messages: the recording stopped, and has begun again."""
        audit: Any = self.server.factory.entity.audit
        for message in audit.lost(7):
            self.trail(message)
        self.assertEqual(self.trail.kinds, ["110133", "110134"])
        self.assertIn("7 audit messages", self.trail.messages[0].outcome_description)


class RequiredTests(SynchronousTestCase):
    def test_unavailable(self) -> None:
        """While nothing can be recorded associations are rejected for the time being, where that is asked
        for; those that are there go on.
        """
        server = MemoryServer.of(Verification())
        fault = ""
        audited(self, server, fault=lambda: fault)
        before = server.connect()
        before.associate({1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)})
        fault = "the audit queue cannot be written: No space left on device"
        with capturedLogs() as logs:
            peer = server.connect()
            peer.send(peer_rq())
            self.assertEqual(peer.received(), [TEMPORARY_CONGESTION])
            peer.close()
        self.assertIn(fault, str([event.get("summary") for event in logs]))
        self.assertEqual(before.request(1, c_echo_rq()).status, 0)
        fault = ""
        server.associate()

    def test_not_required(self) -> None:
        """By default nobody is rejected for it."""
        server = MemoryServer.of(Verification())
        audited(self, server)
        self.assertEqual(server.factory.entity.audit.unavailable(), "")
        server.associate()


class UserTests(UserIdentityTestCase):
    def test_login(self) -> None:
        """A user who is who he says has logged in; who is not has not, and his passcode is nowhere."""
        server = self.server()
        trail = audited(self, server)
        self.answer(server, ALICE)
        self.answer(server, WRONG)
        right, wrong = trail.messages
        self.assertEqual((right.event.code, right.types[0].code), (LOGIN, "110122"))
        self.assertEqual((right.participants[0].user_id, right.outcome.value), ("alice", "0"))
        self.assertEqual((wrong.participants[0].user_id, wrong.outcome.value), ("alice", "4"))
        self.assertIn("wrong name or passcode", wrong.outcome_description)
        for message in trail.messages:
            self.assertNotIn("sesame", message.xml())
            self.assertNotIn(base64.b64encode(b"swordfish").decode(), message.xml())
            self.assertNotIn("swordfish", message.xml())

    def test_nobody(self) -> None:
        """Who names nobody where a user is required is rejected like others."""
        server = self.server(demand=Demand.REQUIRED)
        trail = audited(self, server)
        self.answer(server)
        server.clock.advance(LOGIN_PAUSE)
        self.assertEqual(trail.kinds, ["110126"])


class NoThread(DiskThread):
    """Does at once what a thread should, unless its disk hangs."""

    hangs = frozenset[str]()

    def __init__(self, reactor: Any, name: str) -> None:
        self._name = name

    def __call__(self, function: Callable[[], Any], /) -> Deferred[Any]:
        return Deferred() if self._name in self.hangs else at_once(function)

    def start(self) -> None:
        pass

    def stop(self) -> Deferred[None]:
        return succeed(None)


class DiskThreadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.reactor.callFromThread = self.called
        self.reached = threading.Event()
        self.calls: list[Callable[[], Any]] = []

    def called(self, function: Callable[..., Any], *given: Any) -> None:
        self.calls.append(lambda: function(*given))
        self.reached.set()

    def come(self) -> None:
        """Do what the thread asks the reactor for next."""
        self.assertTrue(self.reached.wait(10))
        self.reached.clear()
        self.calls.pop(0)()

    def test_done(self) -> None:
        """What it was at is done before it stops; it keeps no process alive."""
        thread = DiskThread(self.reactor, "disk")
        found = thread(lambda: threading.current_thread().daemon)
        thread.start()
        self.come()
        self.assertTrue(self.successResultOf(found))
        stopping = thread.stop()
        self.come()
        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_hangs(self) -> None:
        """Where that hangs nobody waits for it."""
        thread = DiskThread(self.reactor, "disk")
        thread.start()
        disk = threading.Event()
        hanging = thread(disk.wait)
        stopping = thread.stop()
        self.assertNoResult(stopping)
        self.reactor.advance(auditing._LAST)
        self.successResultOf(stopping)
        disk.set()
        self.come()
        self.assertTrue(self.successResultOf(hanging))


class AuditingTests(SynchronousTestCase):
    """The whole of it, to a file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.directory = Path(self.mktemp()) / QUEUE
        self.reactor = MemoryReactorClock()
        self.patch(auditing, "DiskThread", NoThread)

    def auditing(self, **settings: Any) -> Auditing:
        settings.setdefault("audit", f"file:{self.path}")
        return Auditing(Server(port=1, **settings), self.directory, self.reactor)

    def test_file(self) -> None:
        """The start and the stop of each server, and what comes between, are lines of the file."""
        made = self.auditing()
        one, other = (made.audit_of(Server(port=1, aet=aet), {}) for aet in ("ONE", "OTHER"))
        self.assertEqual(made.fault(), "")
        made.start()
        other.rejected(Requestor(calling_ae_title="CT1", called_ae_title="X"), "no", transient=True)
        self.successResultOf(made.stop())
        lines = self.path.read_text("utf-8").splitlines()
        self.assertEqual([faults_of(line) for line in lines], [[]] * 5)
        sources = [ElementTree.fromstring(line)[-1] for line in lines]
        self.assertEqual(len(sources), 5)
        said = [line.partition('AuditSourceID="')[2].partition('"')[0] for line in lines]
        self.assertEqual(said, ["ONE", "OTHER", "OTHER", "ONE", "OTHER"])
        self.assertEqual(one.unavailable(), "")

    def test_required(self) -> None:
        """Only where it is required does it matter to associations whether messages can be recorded."""
        made = self.auditing(audit_required=True)
        required = made.audit_of(made.server, {})
        optional = made.audit_of(Server(port=1), {})
        made.start()
        self.patch(type(made._recorder), "fault", property(lambda _: "full"))
        self.assertEqual((required.unavailable(), optional.unavailable()), ("full", ""))
        self.successResultOf(made.stop())

    def test_disk_full(self) -> None:
        """From the disk to the peer: while nothing can be written associations are rejected, then no more."""
        made = self.auditing(audit_required=True)
        audit = made.audit_of(made.server, {})
        made.start()
        server = MemoryServer.of(Verification())
        server.factory.entity = attrs.evolve(server.factory.entity, audit=audit)
        server.associate()

        def fails(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched = self.patch(os, "fdatasync", fails)
        self.assertRaises(Rejected, server.associate, called="OTHER")  # is to be recorded
        fault = self.assertRaises(Rejected, server.associate)
        self.assertTrue(fault.transient)
        patched.restore()
        self.reactor.advance(1)
        server.associate()
        self.successResultOf(made.stop())
        self.assertEqual([faults_of(line) for line in self.path.read_text("utf-8").splitlines()], [[]] * 4)

    def test_many_studies(self) -> None:
        """Of a retrieval of many studies some are told of at once, the others in turns, with its time."""
        made = self.auditing()
        audit = made.audit_of(made.server, {})
        made.start()
        requestor = Requestor(calling_ae_title="WS", called_ae_title="PMOD")
        contents = [
            Content(
                directory=f"1.{number}",
                study_instance_uid=f"1.{number}",
                patient_id="P",
                patient_name="",
                accession_number="",
                sop_class_uid="1.2",
                count=1,
            )
            for number in range(3 * PORTION)
        ]
        sending = audit.established(requestor).sending(contents)
        for content in contents:
            sending.sent(content.directory, "1.2", success=True)
        self.assertEqual(len(self.path.read_text("utf-8").splitlines()), 1 + PORTION)
        sending.ended()
        audit.rejected(requestor, "no", transient=True)
        for _ in range(10):
            self.reactor.advance(0)
        lines = self.path.read_text("utf-8").splitlines()
        begun = [line for line in lines if "Begin Transferring" in line]
        self.assertEqual((len(lines), len(begun)), (2 + 6 * PORTION, 3 * PORTION))
        self.assertLess(lines.index(begun[-1]), 2 + 3 * PORTION)
        self.assertEqual(len({line.partition('EventDateTime="')[2][:23] for line in begun}), 1)
        self.successResultOf(made.stop())

    def test_target_hangs(self) -> None:
        """A target file on a disk that hangs stops neither the queue nor the end; its messages stay."""
        self.patch(NoThread, "hangs", frozenset(["dicomtw-audit-file"]))
        made = self.auditing()
        made.audit_of(made.server, {})
        made.start()
        stopping = made.stop()
        for _ in range(20):
            self.reactor.advance(1)
        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertFalse(self.path.exists())
        self.patch(NoThread, "hangs", frozenset())
        made = self.auditing()
        made.start()
        self.assertEqual(len(self.path.read_text("utf-8").splitlines()), 2)
        self.successResultOf(made.stop())

    def test_not_started(self) -> None:
        """What was never started can be stopped."""
        made = self.auditing()
        made.audit_of(made.server, {})
        self.successResultOf(made.stop())
        self.assertFalse(self.path.exists())

    def test_tls_files(self) -> None:
        """What is wrong with the files for TLS is a line that names the option."""
        for settings, option in (
            ({"audit_ca": "nowhere.pem"}, "--audit-ca nowhere.pem: "),
            ({"audit_cert": "nowhere.pem"}, "--audit-cert nowhere.pem: "),
        ):
            made = self.auditing(audit="tls:log.example", **settings)
            self.assertTrue(made.fault().startswith(option), made.fault())
            self.assertTrue(auditing.fault_in(made.server).startswith(option))
        self.assertEqual(auditing.fault_in(Server(port=1)), "")
        self.assertEqual(auditing.fault_in(Server(port=1, audit="udp:log")), "")

    def test_directory(self) -> None:
        """A queue that cannot be made is an error."""
        self.directory.parent.write_text("a file")
        self.assertRaises(OSError, self.auditing().start)


def peer_rq(**more: Any) -> Any:
    rq = associate_rq({1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)})
    return attrs.evolve(rq, **more)
