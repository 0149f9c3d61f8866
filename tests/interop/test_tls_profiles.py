"""The profiles of PS3.15 Annex B on the wire: what DCMTK and OpenSSL get of a ``dicomtls:`` port of each."""

from __future__ import annotations

import re
import socket
import subprocess
import time

from dicomtw.security.profiles import PROFILES
from dicomtw.testing import associate_rq
from dicomtw.ul.pdu import A_ASSOCIATE_AC
from tests.interop.cases import CasesTestCase
from tests.interop.certificates import Authority, client_context
from tests.interop.peers import missing, program, run
from tests.interop.scu import VERIFICATION, Scu, everything_from
from tests.interop.twistd import TWISTD, Twistd, environment, run_each_twistd, temporary_directory, wait_until
from tests.running import Running, free_ports

SERVED = [name for name, profile in PROFILES.items() if not profile.refused]
#: The profiles of DCMTK 3.6.7, which has none of TLS 1.3 by name.
OF_DCMTK = ("bcp195-nd", "bcp195", "bcp195-ex", "aes")


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class ProfileTestCase(CasesTestCase):
    def setUp(self) -> None:
        self.directory = temporary_directory(self)
        self.authority = Authority(self.directory)
        self.cert, self.key = self.authority.certify("server")

    def endpoint(self, profile: str, port: int = 0) -> str:
        return (
            f"dicomtls:{port}:interface=127.0.0.1:cert={self.cert}:key={self.key}"
            f":ca={self.authority.pem}:verify=optional:profile={profile}"
        )


class WireTests(ProfileTestCase):
    """One server with a port for each profile."""

    def setUp(self) -> None:
        super().setUp()
        self.server = Twistd(self, *(f"--listen={self.endpoint(name)}" for name in SERVED))
        self.ports = dict(zip(SERVED, map(int, self.server.listening), strict=True))

    def agreed(self, number: int) -> str:
        """Version and cipher suite of the connection that ended last, by the server's line."""
        line = self.server.wait_for_summaries(number)[-1]
        found = re.search(r" over (TLSv1\.\d [^ ;]+)", line)
        return found[1] if found else line

    def test_dcmtk(self) -> None:
        """Each of DCMTK's profiles associates with each of ours, by the best that both have; AES is AES."""
        if missing("echoscu"):
            self.skipTest(str(missing("echoscu")))
        number = 0
        for ours, port in self.ports.items():
            for theirs in OF_DCMTK:
                with self.case(ours, theirs):
                    number += 1
                    peer = run(
                        *("echoscu", "-v", "+tla", f"--profile-{theirs}", "+cf", self.authority.pem),
                        *("-aec", "PMOD", "localhost", port),
                    )
                    agreed = self.agreed(number)
                    if theirs == "aes" and ours not in ("bcp195", "aes"):
                        self.assertNotEqual(peer.returncode, 0, peer.stdout)
                        self.assertIn("no cipher suite in common", agreed)
                    else:
                        self.assertEqual(peer.returncode, 0, peer.stdout)
                        self.assertRegex(agreed, AGREED[theirs], ours)

    def test_openssl(self) -> None:
        """Version by version, suite by suite, ``openssl s_client`` gets what the profile has and no more."""
        if missing("openssl"):
            self.skipTest(str(missing("openssl")))
        for ours, port in self.ports.items():
            profile = PROFILES[ours]
            for words, wanted in (
                (("-tls1_2",), "TLS 1.2"),
                (("-tls1_3",), "TLS 1.3"),
                (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), ""),
                (("-tls1", "-cipher", "ALL:@SECLEVEL=0"), ""),
                (("-tls1_2", "-cipher", "AES128-SHA"), "AES128-SHA"),
                (("-tls1_2", "-cipher", "AES256-SHA"), "AES256-SHA"),
                (("-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"), "DHE-RSA-AES256-GCM-SHA384"),
                (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"), "ECDHE-RSA-AES128-SHA"),
                (("-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"), "ECDHE-RSA-CHACHA20-POLY1305"),
                (("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"), "TLS_AES_128_CCM_SHA256"),
            ):
                with self.case(ours, *words):
                    peer = run(
                        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *words),
                        *("-CAfile", self.authority.pem, "-verify_return_error"),
                    )
                    served = wanted in (*profile.versions, *profile.suites)
                    said = re.search(r"Cipher is (\S+)", peer.stdout)
                    got = "" if said is None or said[1] == "(NONE)" else said[1]
                    self.assertEqual(bool(got), served, peer.stdout)
                    if served and not wanted.startswith("TLS "):
                        self.assertEqual(got, wanted)
                    # Neither compression nor renegotiation is to be had; TLS 1.3 has no such thing.
                    if served:
                        self.assertIn("Compression: NONE", peer.stdout)


#: What DCMTK agrees on with a profile of its own, whatever ours is.
AGREED = {
    "bcp195-nd": r"^TLSv1\.[23] (ECDHE-RSA-AES|TLS_AES)",
    "bcp195": r"^TLSv1\.[23] (ECDHE-RSA-AES|TLS_AES)",
    "bcp195-ex": r"^TLSv1\.2 ECDHE-RSA-AES",
    "aes": r"^TLSv1\.2 AES128-SHA$",
}


class EndpointTests(ProfileTestCase):
    """``dicomtls:`` where an endpoint string is taken."""

    def test_behind_haproxy(self) -> None:
        """Behind a front end that passes TLS on, the PROXY header comes before the handshake."""
        server = Twistd(self, f"--listen=haproxy:{self.endpoint('8996')}", "--artim-timeout=1")
        context = client_context(self.authority.pem)
        with socket.create_connection(server.address, 10) as plain:
            plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 104\r\n")
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                secure.sendall(associate_rq(VERIFICATION).encode())
                self.assertEqual(secure.recv(1), b"\x02")
        line = server.wait_for_summaries(1)[-1]
        self.assertTrue(line.startswith("192.0.2.7:40000 "), line)
        self.assertIn(" over TLSv1.3 ", line)
        with socket.create_connection(server.address, 10) as plain:  # and nothing more
            plain.sendall(b"PROXY TCP4 192.0.2.8 192.0.2.1 40000 104\r\n")
            everything_from(plain)
        line = server.wait_for_summaries(2)[-1]
        self.assertTrue(line.startswith("192.0.2.8:40000; "), line)
        self.assertTrue(line.endswith("the TLS handshake was not finished"), line)
        started = time.monotonic()
        with socket.create_connection(server.address, 10) as plain:  # and that is all
            plain.sendall(b"PROXY TCP4 192.0.2.9 192.0.2.1 40000 104\r\n")
            plain.shutdown(socket.SHUT_WR)
            everything_from(plain)
        self.assertLess(time.monotonic() - started, 0.9)
        line = server.wait_for_summaries(3)[-1]
        self.assertTrue(line.startswith("192.0.2.9:40000; "), line)

    def test_haproxy(self) -> None:
        """HAProxy passes TLS on: DCMTK verifies our certificate, and our log knows its address."""
        if missing("haproxy", "echoscu"):
            self.skipTest(str(missing("haproxy", "echoscu")))
        server = Twistd(self, f"--listen=haproxy:{self.endpoint('8996')}")
        (port,) = free_ports(1)
        lines = [
            *("defaults", "mode tcp", "timeout connect 5s", "timeout client 60s", "timeout server 60s"),
            *("listen dicom", f"bind 127.0.0.1:{port}", f"server one 127.0.0.1:{server.port} send-proxy-v2"),
        ]
        (self.directory / "haproxy.cfg").write_text("\n".join(lines) + "\n", "ascii")
        Running(self, [program("haproxy"), "-db", "-f", "haproxy.cfg"], self.directory)
        wait_until(lambda: _listens(port), "HAProxy listens")
        peer = run("echoscu", "-v", "+tla", "+cf", self.authority.pem, "-aec", "PMOD", "localhost", port)
        self.assertEqual(peer.returncode, 0, peer.stdout)
        (line,) = wait_until(
            lambda: [line for line in server.summaries if line.endswith("; released")], "the echo's line"
        )
        self.assertRegex(line, r"^127\.0\.0\.1:\d+ 'ECHOSCU' to 'PMOD' over TLSv1\.3 ")

    def test_beside_others(self) -> None:
        """One process has plain ports, ``--tls`` and ``dicomtls:`` at a time."""
        server = Twistd(
            self,
            *("--tls", "--port=0", "--interface=127.0.0.1", f"--listen={self.endpoint('8996-mod')}"),
            "--listen=tcp:0:interface=127.0.0.1",
        )
        for port, context in zip(
            server.listening, (client_context(), client_context(self.authority.pem), None), strict=True
        ):
            with Scu(("127.0.0.1", int(port)), tls=context) as scu:
                self.assertIsInstance(scu.associate(), A_ASSOCIATE_AC)
                scu.release()

    def test_faults(self) -> None:
        """What is wrong with one is one line, and exit status 1, at the start as with ``--check``."""
        commands, expected = [], []
        for text, words in (
            ("dicomtls:0", "dicomtls: needs a certificate"),
            (f"dicomtls:0:cert={self.cert}:key=absent", "key absent: No such file or directory"),
            (self.endpoint("basic"), "the Basic TLS profile (PS3.15 B.1) is 3DES"),
            (f"haproxy:{self.endpoint('b12')}", "profile takes one of 8996"),
        ):
            for more in ((), ("--check",)):
                commands.append(((f"--listen={text}", *more), self.directory))
                expected.append(words)
        for done, words in zip(run_each_twistd(commands), expected, strict=True):
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(words, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_any_program(self) -> None:
        """Other programs of Twisted's listen by it, too: a web server."""
        options = ("-n", "--pidfile=", "web", f"--listen={self.endpoint('8996')}", f"--path={self.directory}")
        server = Running(self, [*TWISTD, *options], temporary_directory(self), environment())
        port = int(server.wait_for("Site (TLS) starting on").rpartition(" ")[2])
        context = client_context(self.authority.pem)
        plain = socket.create_connection(("127.0.0.1", port), 10)
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(b"GET /ca.pem HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: secure.recv(65536), b""))
        self.assertTrue(answer.endswith(self.authority.pem.read_bytes()), answer)

    def test_renegotiation(self) -> None:
        """Who asks for another handshake is refused it; there are tickets for a next connection."""
        if missing("openssl"):
            self.skipTest(str(missing("openssl")))
        server = Twistd(self, f"--listen={self.endpoint('8996')}")
        done = subprocess.run(
            [program("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2"],
            input="R\n",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        self.assertIn("RENEGOTIATING", done.stderr)
        self.assertIn("no renegotiation", done.stderr)
        self.assertIn("TLS session ticket lifetime hint: 600", done.stdout)

    def test_check(self) -> None:
        """``--check`` says what of a profile the OpenSSL at hand does not honour."""
        (done,) = run_each_twistd([((f"--listen={self.endpoint('8996-mod')}", "--check"), self.directory)])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("TLS profile Modified BCP 195 RFC 8996, 9325 (PS3.15 B.13)", done.stdout)
        self.assertRegex(done.stdout, "warning: TLS profile 8996-mod: OpenSSL .*TLS_AES_128_CCM_8_SHA256")
