"""Rules of access on a real server: networks, certificates, SOP classes, destinations, numbers."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from dicomtw import uids
from dicomtw.dimse.messages import C_GET_RQ, C_MOVE_RQ
from dicomtw.transcode import encode
from dicomtw.ul.items import ContextResult, RoleSelection
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ
from tests.interop.archive import IMPLICIT, PEER, ct, fill, identifier
from tests.interop.cases import CasesTestCase
from tests.interop.certificates import Authority, client_context
from tests.interop.peers import missing, run
from tests.interop.scu import CT, Address, Closed, Scu
from tests.interop.twistd import Twistd, run_twistd, temporary_directory, wait_until
from tests.running import free_ports

MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY = encode(identifier("STUDY", StudyInstanceUID="1.2.1.1"), IMPLICIT)

OK = None
CALLING = A_ASSOCIATE_RJ(1, 1, 3)
LATER = A_ASSOCIATE_RJ(2, 3, 1)
FULL = A_ASSOCIATE_RJ(2, 3, 2)


class AccessTests(CasesTestCase):
    def started(self, text: str, *options: str) -> Twistd:
        """A server called PMOD, of this configuration, on a free port unless that says where."""
        where = () if "port = " in text.partition("[[")[0] else ("--port=0", "--interface=127.0.0.1")
        directory = temporary_directory(self)
        config = directory / "dicom.toml"
        config.write_text(text)
        return Twistd(
            self,
            f"--config={config}",
            *("--aet=PMOD", *where, f"--store={directory / 'store'}"),
            *options,
            directory=directory,
        )

    def ports(self, server: Twistd) -> list[int]:
        """Those of a server, that of ``port`` first."""
        wait_until(lambda: len(server.listening) == 2, "two ports are open")
        return [*map(int, server.listening)]

    def rejection(self, address: Address, calling: str, source: str = "", **more: object) -> object:
        """How an association in this name is rejected; None if it is not."""
        with Scu(address, source=source, **more) as scu:  # type: ignore[arg-type]
            answer = scu.associate(calling=calling)
            if isinstance(answer, A_ASSOCIATE_RJ):
                return answer
            scu.release()
            return None

    def test_networks(self) -> None:
        """Who is not of the server's networks gets no byte; a remote with networks calls from these alone."""
        server = self.started(
            'networks = ["127.0.0.0/30"]\n'
            '[[remote]]\naet = "NEAR"\nnetworks = ["127.0.0.1"]\n'
            '[[remote]]\naet = "ANY"\n'
        )
        for source, calling, expected in (
            ("127.0.0.1", "NEAR", OK),
            ("127.0.0.2", "NEAR", CALLING),
            ("127.0.0.3", "ANY", OK),
            ("127.0.0.3", "NOBODY", CALLING),
        ):
            with self.case(source, calling):
                self.assertEqual(self.rejection(server.address, calling, source), expected)
        for source in ("127.0.0.4", "127.0.0.5"):
            with self.case(source):
                try:
                    found = self.rejection(server.address, "ANY", source)
                except (Closed, BrokenPipeError, ConnectionResetError):
                    found = "closed"
                self.assertEqual(found, "closed")
                server.wait_for_log(f"{source} is not of the server's networks")

    def test_networks_before_tls(self) -> None:
        """With who is not of the server's networks there is no TLS either."""
        server = self.started('networks = ["127.0.0.0/30"]\n', "--tls")
        context = client_context()
        self.assertEqual(self.rejection(server.address, "ANY", "127.0.0.2", tls=context), OK)
        self.assertRaises(OSError, self.rejection, server.address, "ANY", "127.0.0.5", tls=context)
        server.wait_for_log("127.0.0.5 is not of the server's networks")

    def test_front_end(self) -> None:
        """Behind a PROXY front end it is the address of the peer that counts, not that of the front end."""
        server = self.started(
            'port = 0\ninterface = "127.0.0.1"\nlisten = ["haproxy:tcp:0:interface=127.0.0.1"]\n'
            'networks = ["192.0.2.0/30"]\naccept-any-ae = true\n'
        )
        _, port = self.ports(server)
        for source, expected in (("192.0.2.3", OK), ("192.0.2.4", "closed")):
            with self.case(source), Scu(("127.0.0.1", port)) as scu:
                scu.send(f"PROXY TCP4 {source} 192.0.2.1 5000 104\r\n".encode())
                try:
                    answer = scu.associate(calling="ANY")
                    found = OK if isinstance(answer, A_ASSOCIATE_AC) else answer
                except (Closed, BrokenPipeError, ConnectionResetError):
                    found = "closed"
                self.assertEqual(found, expected)

    def test_certificates(self) -> None:
        """An AE title that is bound to a certificate is accepted with that one, and with nothing else."""
        directory = temporary_directory(self)
        authority = Authority(directory)
        cert, key = authority.certify("server", 1)
        alice, bob = authority.certify("alice", 2), authority.certify("bob", 2)
        server = self.started(
            'tls = true\nport = 0\ninterface = "127.0.0.1"\n'
            f'tls-cert = "{cert}"\ntls-key = "{key}"\ntls-ca = "{authority.pem}"\ntls-verify = "optional"\n'
            'listen = ["tcp:0:interface=127.0.0.1"]\n'
            '[[remote]]\naet = "ALICE"\ncertificate = ["subject:CN=alice"]\n'
            f'[[remote]]\naet = "BOB"\ncertificate = ["sha256:{fingerprint(bob[0])}"]\n'
            '[[remote]]\naet = "ANY"\ncertificate = ["san:DNS:localhost"]\n'
            '[[remote]]\naet = "FREE"\n'
        )
        with_tls, plain = self.ports(server)
        callers = {
            "alice": ("127.0.0.1", with_tls, client_context(authority.pem, alice)),
            "bob": ("127.0.0.1", with_tls, client_context(authority.pem, bob)),
            "no certificate": ("127.0.0.1", with_tls, client_context(authority.pem)),
            "plain": ("127.0.0.1", plain, None),
        }
        for calling, accepted in {
            "ALICE": ["alice"],
            "BOB": ["bob"],
            "ANY": ["alice", "bob"],
            "FREE": list(callers),
        }.items():
            for who, (host, port, context) in callers.items():
                with self.case(calling, who):
                    expected = OK if who in accepted else CALLING
                    self.assertEqual(self.rejection((host, port), calling, tls=context), expected)
        server.wait_for_log("'ALICE' is bound to another certificate than 'CN=bob'")
        server.wait_for_log("'BOB' is bound to a certificate, and has shown none")

    def test_dcmtk_with_certificates(self) -> None:
        """DCMTK's echoscu is accepted with the certificate of its AE title, not with another."""
        if missing("echoscu"):
            self.skipTest(str(missing("echoscu")))
        directory = temporary_directory(self)
        authority = Authority(directory)
        cert, key = authority.certify("server", 1)
        alice, bob = authority.certify("alice", 2), authority.certify("bob", 2)
        server = self.started(
            f'tls = true\ntls-cert = "{cert}"\ntls-key = "{key}"\ntls-ca = "{authority.pem}"\n'
            '[[remote]]\naet = "ALICE"\ncertificate = ["subject:CN=alice"]\n'
        )
        for (certificate, private), status in ((alice, 0), (bob, 1)):
            files = ("+tls", private, certificate, "+cf", authority.pem)
            peer = run("echoscu", *files, "-aet", "ALICE", "-aec", "PMOD", "localhost", server.port)
            with self.case(certificate.name):
                self.assertEqual(bool(peer.returncode), bool(status), peer.stdout)

    def test_sop_classes(self) -> None:
        """What a remote may not use it cannot propose, store, nor get in sub-operations; the log says so."""
        server = self.started(
            f'[[remote]]\naet = "{PEER}"\n'
            '[[remote]]\naet = "CTONLY"\nsop-classes = ["CTImageStorage", "StudyRootQueryRetrieveInformation'
            'ModelGet"]\n'
        )
        fill(server, [ct(1, instance=1), ct(1, instance=2, SOPClassUID=MR, Modality="MR"), ct(1, instance=3)])
        roles = [RoleSelection(uid, False, True) for uid in (CT, MR)]
        contexts = {1: (uids.STUDY_ROOT_GET, IMPLICIT), 3: (CT, IMPLICIT), 5: (MR, IMPLICIT)}
        for calling, result, counters in (
            (PEER, ContextResult.ACCEPTANCE, (None, 3, 0, 0)),
            ("CTONLY", ContextResult.USER_REJECTION, (None, 2, 1, 0)),
        ):
            with self.case(calling), Scu(server.address) as scu:
                answer = scu.associate(contexts, *roles, calling=calling)
                assert isinstance(answer, A_ASSOCIATE_AC)
                self.assertEqual(answer.presentation_contexts[2].result, result)
                scu.ask(C_GET_RQ, STUDY)
                received: list[str] = []

                def take(store: object, received: list[str] = received) -> int:
                    received.append(store.command.affected_sop_class_uid)  # type: ignore[attr-defined]
                    return 0

                last = scu.responses(take)[-1]
                self.assertEqual(last.counters, counters)
                self.assertEqual(MR in received, calling == PEER)
                scu.release()
        server.wait_for_log("MR Image Storage (result 1: SOP class not allowed to this remote)")

    def test_destinations(self) -> None:
        """C-MOVE sends to the destinations of a remote alone; what it may not use is not sent to it."""
        (closed,) = free_ports(1)
        server = self.started(
            f'[[remote]]\naet = "{PEER}"\nhost = "127.0.0.1"\nport = {closed}\n'
            f'[[remote]]\naet = "WS"\nhost = "127.0.0.1"\nport = {closed}\ndestinations = ["WS"]\n'
            f'[[remote]]\naet = "MRONLY"\nhost = "127.0.0.1"\nport = {closed}\n'
            'sop-classes = ["MRImageStorage"]\n'
        )
        fill(server, [ct(1)])
        for calling, destination, status in (
            ("WS", PEER, 0xA801),
            ("WS", "NOBODY", 0xA801),
            ("WS", "WS", 0xA702),  # it may, but nobody listens
            (PEER, "WS", 0xA702),
            (PEER, "MRONLY", 0xA702),
        ):
            with self.case(calling, destination), Scu(server.address) as scu:
                scu.associate({1: (uids.STUDY_ROOT_MOVE, IMPLICIT)}, calling=calling)
                scu.ask(C_MOVE_RQ, STUDY, move_destination=destination)
                self.assertEqual(scu.responses()[-1].status, status)
                scu.release()
        server.wait_for_log(f"move destination '{PEER}' is not allowed to this remote")
        server.wait_for_log("move destination 'MRONLY': none of the SOP classes is allowed to it")

    def test_numbers(self) -> None:
        """A remote has its number of associations; one that ends makes room, and others have their own."""
        server = self.started(
            '[[remote]]\naet = "TWO"\nmax-associations = 2\n[[remote]]\naet = "ANY"\n',
            "--failed-associations-per-minute-per-host=5",
        )
        with Scu(server.address) as first, Scu(server.address) as second:
            for scu in (first, second):
                self.assertIsInstance(scu.associate(calling="TWO"), A_ASSOCIATE_AC)
            self.assertEqual(self.rejection(server.address, "TWO"), FULL)
            self.assertEqual(self.rejection(server.address, "ANY"), OK)
            first.release()
            wait_until(lambda: self.rejection(server.address, "TWO") is OK, "there is room again")
        server.wait_for_log("'TWO' has 2 associations, and no more are allowed to it")
        found = [self.rejection(server.address, "GUESS") for _ in range(5)]
        self.assertEqual(found, [CALLING] * 5)
        self.assertEqual(self.rejection(server.address, "ANY"), LATER)
        self.assertEqual(self.rejection(server.address, "ANY", "127.0.0.2"), OK)

    def test_check(self) -> None:
        """``--check`` says each rule in words, and what is wrong with one in a line."""
        directory = temporary_directory(self)
        config = directory / "dicom.toml"
        config.write_text(
            'networks = ["192.0.2.0/24", "2001:db8::/32"]\n'
            "associations-per-minute-per-host = 1000\n"
            '[[remote]]\naet = "WS"\nhost = "ws.example"\nport = 104\ncheck-host = true\n'
            'networks = ["192.0.2.0/28"]\ncertificate = ["san:DNS:ws.example"]\n'
            'sop-classes = ["CTImageStorage", "1.2.840.10008.5.1.4.1.1.4"]\ndestinations = ["WS"]\n'
            "max-associations = 4\nassociations-per-minute = 60\n"
        )
        done = run_twistd("--check", f"--config={config}", cwd=directory)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        place = "from there or 192.0.2.0/28 only, with certificate san:DNS:ws.example only"
        rights = "of CT Image Storage and MR Image Storage only, C-MOVE to WS only"
        numbers = "4 associations at a time, 60 associations a minute"
        bound = "remote WS is bound to a certificate, and there is no TLS"
        for words in (
            "peers are spoken with from 192.0.2.0/24 and 2001:db8::/32 only",
            "a host may ask for 1000 associations a minute",
            "a host that is rejected 600 times a minute is put off",
            f"remote WS at ws.example:104, {place}, {rights}, {numbers}",
            f"warning: {bound}: its associations are rejected",
        ):
            self.assertIn(words, done.stdout)
        remote = '[[remote]]\naet = "A"\n'
        for wrong, words in (
            ('networks = ["192.0.2.7/24"]', "networks takes a list of values, each a network or an address"),
            (f'{remote}certificate = ["CN=a"]', "certificate takes a list of values, each sha256"),
            (f'{remote}sop-classes = ["CT"]', "sop-classes takes a list of values, each a SOP class"),
            (f'{remote}destinations = ["B"]', "remote A: destination B is no configured remote"),
            (f"{remote}max-associations = -1", "max-associations takes a whole number"),
        ):
            config.write_text(wrong)
            done = run_twistd("--check", f"--config={config}", cwd=directory)
            with self.case(wrong):
                self.assertEqual(done.returncode, 1)
                self.assertIn(words, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)


def fingerprint(path: Path) -> str:
    """The SHA-256 of a certificate."""
    return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256()).hex(":")
