"""Contexts follow their files: a look at most once a second, and what is no good changes nothing."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import attrs
from OpenSSL import SSL

from dicomtw.security import tls
from dicomtw.security.renewal import RenewedContext, contexts
from dicomtw.security.tls import SESSION_LIFETIME, TLSError, TLSFiles, fingerprint, server_context
from tests.security.identities import Identity, TLSTestCase, client, crl, handshake, identity, shaken


def resuming(server: SSL.Context, peer: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLObject:
    """The peer's end of a connection on which a byte was received, and with it the tickets of TLS 1.3."""
    server_end, client_end, received = shaken(server, peer, session)
    server_end.send(b"x")
    received.write(server_end.bio_read(1 << 16))
    client_end.read(1)
    return client_end


class RenewalTests(TLSTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.old, self.new = identity("old"), identity("new")
        self.seconds = 0.0
        self.told: list[tuple[str, bool]] = []

    def renewed(self, files: TLSFiles) -> RenewedContext:
        return RenewedContext(
            files, server_context, lambda *what: self.told.append(what), lambda: self.seconds
        )

    def write(self, own: Identity) -> TLSFiles:
        """Put a certificate and its key in place, as programs do that renew them."""
        for name, content in (("cert.pem", own.cert_pem), ("key.pem", own.key_pem)):
            path = self.file(f"new-{name}", content)
            os.replace(path, self.directory / name)
        return TLSFiles(cert=self.directory / "cert.pem", key=self.directory / "key.pem")

    def shown(self, context: SSL.Context) -> bytes:
        """The fingerprint of the certificate that a peer is shown."""
        connection = SSL.Connection(client(), None)
        handshake(context, connection)
        shown = connection.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        return Identity(shown, self.old.key).cert_pem

    def test_renewed(self) -> None:
        """New files are used a second after the last look, and told of once, with the fingerprint."""
        renewed = self.renewed(self.write(self.old))
        first = renewed.current()
        self.write(self.new)
        self.seconds = 0.9
        self.assertIs(renewed.current(), first)
        self.seconds = 1.0
        self.assertEqual(self.shown(renewed.current()), self.new.cert_pem)
        for _ in range(5):
            self.seconds += 1
            renewed.current()
        name = f"TLS certificate {self.directory / 'cert.pem'}"
        line = f"renewed: {name}, SHA-256 fingerprint {fingerprint(self.new.cert_pem)}"
        self.assertEqual(self.told, [(line, False)])

    def test_nothing_new(self) -> None:
        """Files that were touched, or written again as they were, change nothing and are not told of."""
        files = self.write(self.old)
        renewed = self.renewed(files)
        first = renewed.current()
        for change in (lambda: os.utime(files.cert), lambda: self.write(self.old)):
            change()
            self.seconds += 2
            self.assertIs(renewed.current(), first)
        self.assertEqual(self.told, [])

    def test_looks(self) -> None:
        """However many connections there are, the files are looked at once a second."""
        renewed = self.renewed(self.write(self.old))
        looks = []
        stat = os.stat

        def counted(path: Path) -> os.stat_result:
            looks.append(path)
            return stat(path)

        self.patch(os, "stat", counted)
        for _ in range(50):
            self.seconds += 0.1
            renewed.current()
        self.assertLessEqual(len(looks), 5 * 2)

    def test_no_good(self) -> None:
        """Broken, half-written and missing files leave TLS as it was, and one line each."""
        files = self.write(self.old)
        renewed = self.renewed(files)
        first = renewed.current()
        cert, key = self.directory / "cert.pem", self.directory / "key.pem"
        for change, words in (
            (
                lambda: cert.write_bytes(self.new.cert_pem[:200]),
                f"--tls-cert {cert} holds no usable certificate",
            ),
            (lambda: cert.write_bytes(b""), f"--tls-cert {cert} holds no usable certificate"),
            (
                lambda: cert.write_bytes(self.new.cert_pem),
                f"--tls-key {key} holds no usable private key that",
            ),
            (lambda: cert.unlink(), f"--tls-cert {cert}: No such file or directory"),
        ):
            change()
            self.told.clear()
            for _ in range(3):
                self.seconds += 2
                self.assertIs(renewed.current(), first)
            ((line, is_fault),) = self.told
            self.assertTrue(line.startswith(words), line)
            self.assertTrue(line.endswith("; TLS stays as it was"), line)
            self.assertEqual((is_fault, len(line.splitlines())), (True, 1))
        self.write(self.new)
        self.seconds += 2
        self.assertEqual(self.shown(renewed.current()), self.new.cert_pem)

    def test_weaker(self) -> None:
        """A new file that is no good for the profile is no good."""
        renewed = self.renewed(self.write(self.old))
        first = renewed.current()
        self.file("cert.pem", identity("CA").cert_pem)
        self.seconds += 2
        self.assertIs(renewed.current(), first)

    def test_authorities(self) -> None:
        """New authorities and CRLs count from the next connection on."""
        one, two = identity("one", "CA"), identity("two", "other CA")
        ca, crl_path = self.file("ca.pem", identity("CA").cert_pem), self.file("crl.pem", crl("CA"))
        renewed = self.renewed(attrs.evolve(self.write(self.old), ca=ca, crl=crl_path))
        handshake(renewed.current(), client(one))
        self.assertRaises(SSL.Error, handshake, renewed.current(), client(two))
        crl_path.write_bytes(crl("CA", one))
        self.seconds += 2
        self.assertRaises(SSL.Error, handshake, renewed.current(), client(one))
        ca.write_bytes(identity("other CA").cert_pem)
        crl_path.write_bytes(crl("other CA"))
        self.seconds += 2
        handshake(renewed.current(), client(two))

    def test_half_written(self) -> None:
        """A file of which the second block is cut off, wherever that is, leaves TLS as it was."""
        ca, crl_path = self.file("ca.pem", identity("CA").cert_pem), self.file("crl.pem", crl("CA"))
        files = attrs.evolve(self.write(self.old), ca=ca, crl=crl_path)
        renewed = self.renewed(files)
        first = renewed.current()
        for path, name, what, second in (
            (files.cert, "cert", "certificate", identity("CA").cert_pem),
            (ca, "ca", "certificate", identity("other CA").cert_pem),
            (crl_path, "crl", "CRL", crl("other CA")),
        ):
            assert path is not None
            whole = path.read_bytes()
            for length in (11, 30, len(second) // 2, len(second) - 20, len(second) - 2):
                self.told.clear()
                path.write_bytes(whole + second[:length])
                self.seconds += 2
                self.assertIs(renewed.current(), first)
                ((line, _),) = self.told
                words = (
                    f"--tls-{name} {path} holds no usable {what}: a PEM block has no end; TLS stays as it was"
                )
                self.assertEqual(line, words)
            path.write_bytes(whole + b"# ----- a remark -----\n" + second)
            self.seconds += 2
            self.assertIsNot(renewed.current(), first)
            first = renewed.current()

    def test_out_of_date(self) -> None:
        """New files that are out of date are used, and said to be."""
        renewed = self.renewed(self.write(self.old))
        self.write(identity("expired", days=(-9, -2)))
        self.seconds += 2
        renewed.current()
        (_, fine), (remark, is_fault) = self.told
        self.assertEqual((fine, is_fault), (False, True))
        self.assertIn(" has expired on ", remark)

    def test_sessions_end(self) -> None:
        """However often a session is resumed: when its time is over a certificate is asked for again."""
        ca, own = self.file("ca.pem", identity("CA").cert_pem), identity("one", "CA")
        renewed = self.renewed(attrs.evolve(self.write(self.old), ca=ca))
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            peer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            peer.check_hostname, peer.verify_mode = False, ssl.CERT_NONE
            peer.minimum_version = peer.maximum_version = version
            peer.load_cert_chain(self.file("own.pem", own.cert_pem + own.key_pem))
            self.seconds += SESSION_LIFETIME
            session, resumed = None, []
            for _ in range(9):
                connection = resuming(renewed.current(), peer, session)
                session = connection.session
                resumed.append(connection.session_reused)
                self.seconds += SESSION_LIFETIME / 4
            self.assertEqual(resumed, [False, True, True, True] * 2 + [False], version.name)
        self.assertEqual(self.told, [])

    def test_no_new_keys(self) -> None:
        """Where no new context can be made the one of before stays, and one line says what that means."""
        renewed = self.renewed(self.write(self.old))
        first = renewed.current()
        self.patch(tls, "_DH_GROUP", self.directory / "absent")
        self.seconds += SESSION_LIFETIME
        for _ in range(3):
            self.assertIs(renewed.current(), first)
        ((line, is_fault),) = self.told
        self.assertIn("absent cannot be read; sessions can be resumed for longer", line)
        self.assertTrue(is_fault)

    def test_read_again(self) -> None:
        """Told to read again it does at once, and tells what came of it, whatever that is."""
        renewed = self.renewed(self.write(self.old))
        renewed.read_again()
        self.write(self.new)
        renewed.read_again()
        self.assertEqual(self.shown(renewed.current()), self.new.cert_pem)
        self.file("cert.pem", b"")
        renewed.read_again()
        lines = [line for line, _ in self.told]
        self.assertEqual([line.partition(" ")[0] for line in lines], ["unchanged:", "renewed:", "--tls-cert"])
        self.assertEqual([is_fault for _, is_fault in self.told], [False, False, True])

    def test_unreadable(self) -> None:
        """Files that cannot be read any more, now that root is dropped, are told of once, and TLS goes on."""
        renewed = self.renewed(self.write(self.old))
        first = renewed.current()
        real = os.open

        def refused(path: Path, flags: int, *rest: int) -> int:
            if Path(path).name == "key.pem":
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, flags, *rest)

        self.patch(os, "open", refused)
        renewed.tell_unreadable()
        for _ in range(3):
            self.seconds += 2
            self.assertIs(renewed.current(), first)
        ((line, is_fault),) = self.told
        self.assertTrue(
            line.startswith(f"--tls-key {self.directory / 'key.pem'} cannot be read by user "), line
        )
        self.assertTrue(is_fault)

    def test_none_to_begin_with(self) -> None:
        """Files that are no good from the beginning are a fault, and nothing is kept of them."""
        before = len(contexts())
        self.assertRaises(TLSError, self.renewed, TLSFiles(cert=self.directory / "absent"))
        kept = self.renewed(self.write(self.old))
        self.assertIn(kept, contexts())
        self.assertEqual(len(contexts()), before + 1)
