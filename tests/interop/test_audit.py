"""Audit messages of a real server, about DCMTK's programs, at collectors that come late, and after a kill."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from pathlib import Path
from xml.etree import ElementTree

import pydicom
from twisted.trial.unittest import SynchronousTestCase

from tests.interop.certificates import Authority
from tests.interop.peers import missing, run
from tests.interop.twistd import Twistd, run_twistd, temporary_directory, wait_until
from tests.running import free_ports
from tests.security.audit.schema import faults_of

#: RFC 5424 as PS3.15 A.6 has it, and the XML.
_SYSLOG = re.compile(
    rb"<8[45]>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 \S+ dicomtw "
    rb"(\d+) DICOM\+RFC3881 - \xef\xbb\xbf(.*)",
    re.DOTALL,
)
PATIENT = "Doe^Secret"
PATIENT_ID = "PID-4711"


def xml_of(message: bytes) -> str:
    found = _SYSLOG.fullmatch(message)
    assert found is not None, message
    return found[2].decode("utf-8")


class UDPCollector:
    """Keeps the datagrams that come to a port."""

    def __init__(self, test: SynchronousTestCase, port: int) -> None:
        self.messages: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self._socket.settimeout(0.1)
        self._ended = False
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()
        test.addCleanup(self.close)

    def _receive(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                self.messages.append(self._socket.recv(65536))

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()


class TLSCollector:
    """Keeps the messages that come to a port by TLS, from whoever has a certificate of `authority`."""

    def __init__(
        self, test: SynchronousTestCase, port: int, authority: Authority, own: tuple[Path, Path]
    ) -> None:
        self.messages: list[bytes] = []
        self.faults: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*own)
        context.load_verify_locations(authority.pem)
        context.verify_mode = ssl.CERT_REQUIRED
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", port))
        self._listening.settimeout(0.1)
        self._ended = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        test.addCleanup(self.close)

    def _serve(self) -> None:
        while not self._ended:
            try:
                plain, _ = self._listening.accept()
            except TimeoutError:
                continue
            try:
                with plain, self._context.wrap_socket(plain, server_side=True) as connection:
                    connection.settimeout(0.1)
                    self._receive(connection)
            except OSError as fault:  # ssl.SSLError is one
                self.faults.append(str(fault))

    def _receive(self, connection: ssl.SSLSocket) -> None:
        data = b""
        while not self._ended:
            try:
                more = connection.recv(65536)
            except TimeoutError:
                continue
            if not more:
                return
            data += more
            while (at := data.find(b" ")) > 0 and len(data) >= (end := at + 1 + int(data[:at])):
                self.messages.append(data[at + 1 : end])
                data = data[end:]

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._listening.close()


class AuditTests(SynchronousTestCase):
    skip = missing("storescu", "findscu")

    def setUp(self) -> None:
        self.directory = temporary_directory(self)
        self.object = self.directory / "ct.dcm"
        instance = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
        instance.PatientName, instance.PatientID = PATIENT, PATIENT_ID
        instance.save_as(self.object)

    def use(self, server: Twistd) -> None:
        """Store, query, and be rejected, by DCMTK."""
        port = server.port
        run("storescu", "-aet", "CT1", "-aec", "PMOD", "127.0.0.1", port, self.object)
        keys = ("-k", "0008,0052=STUDY", "-k", "0020,000D", "-k", f"0010,0010={PATIENT}")
        run("findscu", "-S", "-aet", "WS", "-aec", "PMOD", "127.0.0.1", port, *keys)
        run("storescu", "-aet", "CT1", "-aec", "NOBODY", "127.0.0.1", port, self.object)

    USED = ("110104", "110112", "110126")

    def judge(self, messages: list[str], *expected: str) -> None:
        """They are valid, in order, and these."""
        self.assertEqual([fault for message in messages for fault in faults_of(message)], [])
        roots = [ElementTree.fromstring(message)[0] for message in messages]
        kinds = [
            [one.get("csd-code") for one in root if one.tag != "EventOutcomeDescription"][-1]
            for root in roots
        ]
        self.assertEqual(kinds, list(expected))
        times = [str(root.get("EventDateTime")) for root in roots]
        self.assertEqual(times, sorted(times))
        for stored in (message for message in messages if 'csd-code="110104"' in message):
            self.assertIn(PATIENT, stored)
            self.assertIn(f'ParticipantObjectID="{PATIENT_ID}"', stored)

    def nobody_told(self, server: Twistd) -> None:
        """The ordinary log has no word about the patient."""
        for word in (PATIENT, PATIENT_ID, "Secret"):
            self.assertNotIn(word, server.log)

    def test_udp(self) -> None:
        """By UDP: the collector is down at first, then all messages come, in order."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
            port.bind(("127.0.0.1", 0))
            number = port.getsockname()[1]
        server = Twistd(self, f"--audit=udp:localhost:{number}", "--allow-retrieve=any")
        self.use(server)
        server.wait_for_log("audit messages do not get to udp:localhost")
        collector = UDPCollector(self, number)
        wait_until(lambda: len(collector.messages) >= 4, "messages", 15)
        server.wait_for_log("audit messages get to udp:localhost")
        self.judge([*map(xml_of, collector.messages)], "110120", *self.USED)
        server.stop()
        wait_until(lambda: len(collector.messages) >= 5, "the last message")
        self.judge([*map(xml_of, collector.messages)], "110120", *self.USED, "110121")
        self.nobody_told(server)

    def test_tls(self) -> None:
        """By TLS with certificates on both sides: down at first, we are killed, then all come in order; the
        collector is away once more, and those of that time come when it is back.
        """
        authority = Authority(self.directory)
        own, theirs = authority.certify("dicom"), authority.certify("collector", 2)
        (number,) = free_ports(1)
        server = Twistd(
            self,
            f"--audit=tls:localhost:{number}",
            f"--audit-ca={authority.pem}",
            f"--audit-cert={own[0]}",
            f"--audit-key={own[1]}",
            "--audit-required",
            "--allow-retrieve=any",
        )
        self.use(server)
        server.wait_for_log("audit messages do not get to tls:localhost")
        queue = server.store / ".state" / "audit"
        wait_until(
            lambda: b"NOBODY" in b"".join(each.read_bytes() for each in queue.glob("*.segment")), "disk"
        )
        server.kill()
        (segment,) = queue.glob("*.segment")
        with open(segment, "ab") as file:
            file.write(b"\0\0\1\0unfinished")
        server.restart()
        server.wait_for_log("an unfinished audit message")
        collector = TLSCollector(self, number, authority, theirs)
        wait_until(lambda: len(collector.messages) >= 5, f"messages\n{server.log}", 15)
        self.judge([*map(xml_of, collector.messages)], "110120", *self.USED, "110120")
        collector.close()
        self.use(server)
        later = TLSCollector(self, number, authority, theirs)
        wait_until(lambda: len(later.messages) >= 3, f"messages\n{server.log}", 15)
        server.stop()
        wait_until(lambda: len(later.messages) >= 4, "the last message")
        self.judge([*map(xml_of, later.messages)], *self.USED, "110121")
        self.assertEqual(collector.faults + later.faults, [])
        self.assertEqual(list(queue.glob("*.segment")), [], "all is delivered")
        self.nobody_told(server)

    def test_wrong_collector(self) -> None:
        """Nothing is sent to a collector of another name or authority, or one that refuses us; it is logged,
        and nothing is lost.
        """
        authority, stranger = Authority(self.directory), Authority(self.directory, "stranger")
        own, theirs = stranger.certify("dicom"), authority.certify("collector", 2)
        (number,) = free_ports(1)
        collector = TLSCollector(self, number, authority, theirs)
        for host, ca, said in (
            ("127.0.0.1", authority.pem, "certificate is not for 127.0.0.1"),
            ("localhost", stranger.pem, "the certificate is"),
            ("localhost", authority.pem, "TLS failed"),
        ):
            server = Twistd(
                self,
                f"--audit=tls:{host}:{number}",
                f"--audit-ca={ca}",
                f"--audit-cert={own[0]}",
                f"--audit-key={own[1]}",
                directory=temporary_directory(self),
            )
            line = server.wait_for_log("audit messages do not get to tls:")
            self.assertIn(said, line)
            server.stop()
            self.assertEqual(len([*(server.store / ".state" / "audit").glob("*.segment")]), 1)
        self.assertEqual(collector.messages, [])

    def test_file(self) -> None:
        """To a file: one message a line, for nobody else to read."""
        file = self.directory / "audit.xml"
        server = Twistd(self, f"--audit=file:{file}", "--allow-retrieve=any")
        self.use(server)
        server.stop()
        self.judge(file.read_text("utf-8").splitlines(), "110120", *self.USED, "110121")
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        self.nobody_told(server)

    def test_check(self) -> None:
        """--check says where audit messages go, and what is wrong with the files."""
        done = run_twistd("--check", "--audit=tls:log.example", f"--store={self.directory}/store")
        self.assertIn("audit messages go to tls:log.example:6514", done.stdout)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = run_twistd(
            "--check", "--audit=tls:log.example", "--audit-ca=/nowhere", f"--store={self.directory}"
        )
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1), done.stderr)
        self.assertIn("--audit-ca /nowhere: No such file", done.stderr)
