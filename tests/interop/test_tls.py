"""TLS (PS3.15 Annex B): DCMTK, OpenSSL and Python against the server, with and without certificates."""

from __future__ import annotations

import socket
import ssl
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from dicomtw.testing import associate_rq
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC
from tests.interop.cases import CasesTestCase
from tests.interop.certificates import Authority, client_context
from tests.interop.files import sources, stored_data_set
from tests.interop.peers import missing, run
from tests.interop.scu import CT_IMPLICIT, VERIFICATION, Closed, Scu, ct_data_set, everything_from
from tests.interop.twistd import Twistd, temporary_directory

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class OutOfTheBoxTests(CasesTestCase):
    """TLS as PMOD has it: one option, no certificate needed."""

    def test_certificate_is_made(self) -> None:
        """The first start makes a certificate that nobody else can read; the next start uses it again."""
        for option in ("-tls", "--tls"):
            with self.case(option):
                server = Twistd(self, option)
                state = server.store / ".state"
                cert, key = state / "tls" / "cert.pem", state / "tls" / "key.pem"
                for path, mode in (
                    (state, 0o40700),
                    (cert.parent, 0o40700),
                    (cert, 0o100600),
                    (key, 0o100600),
                ):
                    self.assertEqual(oct(path.stat().st_mode), oct(mode), path)
                made = x509.load_pem_x509_certificate(cert.read_bytes())
                fingerprint = made.fingerprint(hashes.SHA256()).hex(":").upper()
                self.assertIn(fingerprint, server.wait_for_log("SHA-256 fingerprint"))
                with Scu(server.address, tls=client_context(cert)) as scu:
                    scu.associate()
                    self.assertEqual(scu.echo(), 0)
                    scu.release()
                server.stop()
                server.restart()
                self.assertIn(fingerprint, server.wait_for_log("SHA-256 fingerprint"))

    def test_nothing_to_worry_about(self) -> None:
        """A start with TLS leaves no warning but the one about who may call."""
        server = Twistd(self, "-tls")
        server.wait_for_log("no remote is configured")
        server.stop()
        worries = [line for line in server.log.splitlines() if "#warn" in line or "Warning" in line]
        self.assertEqual(len(worries), 1, worries)
        self.assertIn("no remote is configured", worries[0])

    def test_dcmtk(self) -> None:
        """DCMTK verifies the server by the certificate that was made, and refuses it without."""
        if missing("echoscu"):
            self.skipTest(str(missing("echoscu")))
        server = Twistd(self, "-tls")
        address = ("-v", "-aec", "PMOD", "127.0.0.1", server.port)
        peer = run("echoscu", "+tla", "+cf", server.store / ".state" / "tls" / "cert.pem", *address)
        self.assertEqual(peer.returncode, 0, peer.stdout)
        peer = run("echoscu", "+tla", *address)
        self.assertNotEqual(peer.returncode, 0, peer.stdout)
        accepted, refused = server.wait_for_summaries(2)
        self.assertRegex(accepted, r"over TLSv1\.[23] .*; 0 objects, 0 bytes, 1 echoes; .*; released$")
        self.assertIn("TLS failed: ", refused)


@attrs.frozen
class Peer:
    """A peer with or without a certificate: the test's authority signed it, or somebody else."""

    what: str
    cert: tuple[Path, Path] | None


class CertificateTests(CasesTestCase):
    """A site with its own certification authority."""

    def setUp(self) -> None:
        directory = temporary_directory(self)
        self.authority = Authority(directory)
        cert, key = self.authority.certify("server", 1)
        self.tls = ("--tls", f"--tls-cert={cert}", f"--tls-key={key}")
        self.with_ca = f"--tls-ca={self.authority.pem}"
        (directory / "strangers").mkdir()
        stranger = Authority(directory / "strangers", "stranger")
        self.known = Peer("known", self.authority.certify("client", 2))
        self.unknown = Peer("unknown", stranger.certify("client", 2))
        self.anonymous = Peer("anonymous", None)

    def cases(self) -> list[tuple[tuple[str, ...], Peer, str]]:
        """Options of the server, a peer, and what the log says if it is refused."""
        no_cert = "(the peer has no certificate and one is required)"
        bad_cert = "certificate verify failed"
        required = (*self.tls, self.with_ca, "--tls-verify=required")
        optional = (*self.tls, self.with_ca, "--tls-verify=optional")
        none = (*self.tls, self.with_ca, "--tls-verify=none")
        return [
            (required, self.known, ""),
            (required, self.unknown, bad_cert),
            (required, self.anonymous, no_cert),
            ((*self.tls, self.with_ca), self.anonymous, no_cert),  # required by default
            (optional, self.known, ""),
            (optional, self.unknown, bad_cert),
            (optional, self.anonymous, ""),
            (none, self.unknown, ""),
            (self.tls, self.known, ""),
            (self.tls, self.anonymous, ""),
        ]

    def go_through_cases(self, send: Callable[[Twistd, Peer], bool]) -> None:
        """Each peer is served or refused; `send` says whether it was served."""
        servers: dict[tuple[str, ...], Twistd] = {}
        for options, peer, refusal in self.cases():
            with self.case(options[3:], peer.what):
                server = servers.get(options) or Twistd(self, *options)
                servers[options] = server
                before = len(server.summaries)
                self.assertEqual(send(server, peer), not refusal)
                line = server.wait_for_summaries(before + 1)[-1]
                if refusal:
                    self.assertIn("TLS failed: ", line)
                    self.assertIn(refusal, line)
                else:
                    self.assertTrue(line.endswith("; released"), line)
                    self.assertIn(" over TLSv1.", line)
                    shown = peer is self.known and self.with_ca in options
                    self.assertEqual("with 'CN=client' (SHA-256 " in line, shown, line)
                self.assertEqual(len(server.summaries), before + 1, "one line for each connection")

    def test_dcmtk(self) -> None:
        """Who has the right certificate stores by storescu, verifying ours; others leave one line."""
        if missing("storescu"):
            self.skipTest(str(missing("storescu")))
        source = next(source for source in sources() if source.name == "MR_small.dcm")

        def send(server: Twistd, peer: Peer) -> bool:
            tls = ("+tla",) if peer.cert is None else ("+tls", peer.cert[1], peer.cert[0])
            sent = run(
                *("storescu", "-v", "-R", *tls, "+cf", self.authority.pem, "-aec", "PMOD"),
                *("127.0.0.1", server.port, source.path),
            )
            self.assertEqual(sent.returncode == 0, "Store Response (Success)" in sent.stdout, sent.stdout)
            return sent.returncode == 0

        self.go_through_cases(send)

    def test_python(self) -> None:
        """The same with Python's ssl and a raw sender, in TLS 1.2 and TLS 1.3: the bytes are kept."""
        for version in (TLS_1_2, TLS_1_3):

            def send(server: Twistd, peer: Peer, version: ssl.TLSVersion = version) -> bool:
                context = client_context(self.authority.pem, peer.cert, version=version)
                data_set = ct_data_set("1.2.3.4", b"\x55" * 100_000)
                try:
                    with Scu(server.address, tls=context) as scu:
                        scu.associate(CT_IMPLICIT)
                        self.assertEqual(scu.store("1.2.3.4", data_set), 0)
                        scu.release()
                except (ssl.SSLError, Closed, ConnectionError):
                    return False
                self.assertEqual(stored_data_set(server.objects["1.2.3.4"]), data_set)
                return True

            self.go_through_cases(send)

    def test_openssl(self) -> None:
        """``openssl s_client`` agrees on each version and verifies the chain we send."""
        if missing("openssl"):
            self.skipTest(str(missing("openssl")))
        server = Twistd(self, *self.tls)
        for number, version in enumerate(("1_2", "1_3"), 1):
            with self.case(version):
                peer = run(
                    *("openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", f"-tls{version}"),
                    *("-CAfile", self.authority.pem, "-verify_return_error", "-servername", "localhost"),
                )
                self.assertIn("Verify return code: 0 (ok)", peer.stdout)
                self.assertIn(f"TLSv{version.replace('_', '.')}", peer.stdout)
                line = server.wait_for_summaries(number)[-1]
                self.assertIn("closed by the peer before any association", line)

    def test_dhe(self) -> None:
        """``openssl s_client`` with nothing but DHE is served by profiles that have it, with 3072 bits."""
        if missing("openssl"):
            self.skipTest(str(missing("openssl")))
        server = Twistd(self, *self.tls, "--tls-profile=8996-mod")
        peer = run(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2"),
            *("-cipher", "DHE-RSA-AES128-GCM-SHA256", "-groups", "P-256", "-CAfile", self.authority.pem),
        )
        self.assertIn("Cipher is DHE-RSA-AES128-GCM-SHA256", peer.stdout)
        self.assertRegex(peer.stdout, "Temp Key: DH, 3072 bits")

    def test_resumption(self) -> None:
        """The second of two connections resumes the first's session, under client certificates too."""
        server = Twistd(self, *self.tls, self.with_ca)
        for version in (TLS_1_2, TLS_1_3):
            with self.case(version.name):
                context = client_context(self.authority.pem, self.known.cert, version=version)
                session = None
                for attempt in range(3):
                    with Scu(server.address, tls=context, session=session) as scu:
                        self.assertIsInstance(scu.associate(), A_ASSOCIATE_AC)
                        self.assertEqual(scu.echo(), 0)
                        assert isinstance(scu.socket, ssl.SSLSocket)
                        self.assertEqual(scu.socket.session_reused, attempt > 0)
                        session = scu.socket.session
                        scu.release()
        self.assertTrue(all(line.endswith("; released") for line in server.wait_for_summaries(6)))


class RefusalTests(CasesTestCase):
    """Peers whose certificate is not good: each leaves one line that says why, and costs others nothing."""

    def setUp(self) -> None:
        directory = temporary_directory(self)
        self.authority = Authority(directory)
        (directory / "strangers").mkdir()
        stranger = Authority(directory / "strangers", "stranger")
        cert, key = self.authority.certify("server", 1)
        good = self.authority.certify("good", 2)
        revoked = self.authority.certify("revoked", 2)
        crl = self.authority.revoke(revoked[0])
        self.server = Twistd(
            self,
            *("--tls", f"--tls-cert={cert}", f"--tls-key={key}"),
            *(f"--tls-ca={self.authority.pem}", f"--tls-crl={crl}"),
        )
        #: A peer's certificate, and what the log says of it; nothing of one that is served.
        self.peers = (
            (good, ""),
            (self.authority.certify("expired", 2, days=(-3, -2)), "the certificate is expired: 'CN=expired'"),
            (self.authority.certify("early", 2, days=(2, 3)), "the certificate is not valid yet: 'CN=early'"),
            (revoked, "the certificate is revoked: 'CN=revoked'"),
            (stranger.certify("unknown", 2), "of an issuer who is not among those known: 'CN=unknown'"),
            (None, "(the peer has no certificate and one is required)"),
            (good, ""),
        )

    def go_through_peers(self, served: Callable[[tuple[Path, Path] | None], bool]) -> None:
        for number, (cert, fault) in enumerate(self.peers, 1):
            with self.case(fault):
                self.assertEqual(served(cert), not fault)
                line = self.server.wait_for_summaries(number)[-1]
                self.assertIn(fault, line)
                self.assertEqual("TLS failed: " in line, bool(fault), line)
                self.assertEqual(len(self.server.summaries), number, "one line for each connection")

    def test_dcmtk(self) -> None:
        """DCMTK's echoscu."""
        if missing("echoscu"):
            self.skipTest(str(missing("echoscu")))

        def served(cert: tuple[Path, Path] | None) -> bool:
            tls = ("+tla",) if cert is None else ("+tls", cert[1], cert[0])
            address = ("-aec", "PMOD", "localhost", self.server.port)
            return run("echoscu", *tls, "+cf", self.authority.pem, *address).returncode == 0

        self.go_through_peers(served)

    def test_openssl(self) -> None:
        """``openssl s_client``, in TLS 1.2, in which the client hears of it before the handshake is over."""
        if missing("openssl"):
            self.skipTest(str(missing("openssl")))

        def served(cert: tuple[Path, Path] | None) -> bool:
            own = () if cert is None else ("-cert", cert[0], "-key", cert[1])
            peer = run(
                *("openssl", "s_client", "-connect", f"127.0.0.1:{self.server.port}", "-tls1_2"),
                *("-CAfile", self.authority.pem, *own),
            )
            self.assertEqual(peer.returncode != 0, "alert" in peer.stdout, peer.stdout)
            return peer.returncode == 0

        self.go_through_peers(served)

    def test_python(self) -> None:
        """Python's ssl, in TLS 1.3, in which the client hears of it only when it reads."""

        def served(cert: tuple[Path, Path] | None) -> bool:
            context = client_context(self.authority.pem, cert, version=TLS_1_3)
            try:
                with Scu(self.server.address, tls=context) as scu:
                    scu.associate()
                    scu.release()
            except (ssl.SSLError, Closed, ConnectionError):
                return False
            return True

        self.go_through_peers(served)

    def test_expired_crl(self) -> None:
        """A CRL that has expired is told of at the start, and each peer that it keeps out by its line."""
        crl = self.authority.revoke(days=(-3, -2))
        cert, key = self.authority.certify("server", 1)
        server = Twistd(
            self,
            *("--tls", f"--tls-cert={cert}", f"--tls-key={key}"),
            *(f"--tls-ca={self.authority.pem}", f"--tls-crl={crl}"),
        )
        self.assertIn("has expired on", server.wait_for_log("the CRL of 'CN=ca of the tests'"))
        good, _ = self.peers[0]
        refused = self.assertRaises((ssl.SSLError, Closed, ConnectionError))
        with refused, Scu(server.address, tls=client_context(self.authority.pem, good)) as scu:
            scu.associate()
        line = server.wait_for_summaries(1)[-1]
        self.assertIn("the certificate is of an issuer whose CRL has expired: 'CN=good'", line)


class MisunderstandingTests(CasesTestCase):
    """Connections that cannot work: each leaves one line that says what the other end should change."""

    def test_wrong_door(self) -> None:
        """DICOM or HTTP on the TLS port, TLS on the plain port, versions and ciphers that we have not."""
        tls_server = Twistd(self, "-tls", "--artim-timeout=1")
        plain_server = Twistd(self, "--artim-timeout=1")

        def sends(data: bytes) -> Callable[[Twistd], None]:
            def send(server: Twistd) -> None:
                with socket.create_connection(server.address, 10) as connection:
                    connection.sendall(data)
                    everything_from(connection)

            return send

        def handshake(**options: object) -> Callable[[Twistd], None]:
            def send(server: Twistd) -> None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # for old versions of TLS
                    context = client_context(**options)  # type: ignore[arg-type]
                with self.assertRaises((ssl.SSLError, ConnectionError)):
                    Scu(server.address, tls=context)

            return send

        request = associate_rq(VERIFICATION).encode()
        cases = [
            ("A-ASSOCIATE-RQ", tls_server, sends(request), "(the peer does not speak TLS)"),
            ("HTTP", tls_server, sends(b"GET / HTTP/1.1\r\n\r\n"), "(the peer speaks HTTP)"),
            (
                "TLS 1.1",
                tls_server,
                handshake(version=ssl.TLSVersion.TLSv1_1, ciphers="ALL:@SECLEVEL=0"),
                "(no TLS version in common)",
            ),
            (
                "AES128-SHA",
                tls_server,
                handshake(version=TLS_1_2, ciphers="AES128-SHA"),
                "(no cipher suite in common)",
            ),
            ("ClientHello", plain_server, handshake(), "(a TLS ClientHello on a port without TLS?)"),
            ("HTTP", plain_server, sends(b"GET / HTTP/1.1\r\n\r\n"), "(an HTTP request?)"),
        ]
        for what, server, send, hint in cases:
            with self.case(what, "to TLS" if server is tls_server else "to plain"):
                before = len(server.summaries)
                send(server)
                line = server.wait_for_summaries(before + 1)[-1]
                self.assertIn(hint, line)
                self.assertEqual(len(server.summaries), before + 1, "one line for each connection")
        for server, context in ((tls_server, client_context()), (plain_server, None)):
            with Scu(server.address, tls=context) as scu:
                scu.associate()
                self.assertEqual(scu.echo(), 0)
                scu.release()

    def test_abort_in_plain(self) -> None:
        """A TLS ClientHello on the plain port is answered as the unrecognized PDU that it is (AA-1)."""
        server = Twistd(self, "--artim-timeout=1")
        with Scu(server.address) as scu:
            scu.send(bytes.fromhex("16030100c8010000c40303") + bytes(200))
            self.assertIsInstance(scu.receive(), A_ABORT)

    def test_slow_handshakes(self) -> None:
        """Handshakes that stop half way cost others nothing, and are closed at ARTIM."""
        server = Twistd(self, "-tls", "--artim-timeout=1")
        started = time.monotonic()
        slow = [socket.create_connection(server.address, 10) for _ in range(20)]
        try:
            for connection in slow:
                connection.sendall(bytes.fromhex("1603010200010001fc0303"))  # the head of a ClientHello
            with Scu(server.address, tls=client_context()) as scu:
                scu.associate()
                self.assertEqual(scu.echo(), 0)
                scu.release()
            self.assertLess(time.monotonic() - started, 1.0)
            for connection in slow:
                everything_from(connection)
            # ARTIM, and the two seconds of grace for a goodbye.
            self.assertLess(time.monotonic() - started, 4.5)
        finally:
            for connection in slow:
                connection.close()
        lines = server.wait_for_summaries(21)
        said = "no A-ASSOCIATE-RQ within the ARTIM time: the TLS handshake was not finished"
        self.assertEqual(sum(line.endswith(said) for line in lines), 20, lines)

    def test_silence(self) -> None:
        """A peer that connects and says nothing is closed at ARTIM, which runs from its connection on."""
        server = Twistd(self, "-tls", "--artim-timeout=1")
        started = time.monotonic()
        with socket.create_connection(server.address, 10) as connection:
            self.assertEqual(everything_from(connection), b"")
        self.assertTrue(0.9 < time.monotonic() - started < 3.5, time.monotonic() - started)
        (line,) = server.wait_for_summaries(1)
        self.assertIn("within the ARTIM time: the TLS handshake was not finished", line)
