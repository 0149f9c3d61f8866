"""TLS profiles as data, the contexts made of them, and what broken files are answered with.

Handshakes are made in memory, between two connections of OpenSSL's.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import hashlib
import ipaddress
import os
import ssl
import stat
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security import tls
from dicomtw.security.tls import (
    PROFILES,
    TLSError,
    TLSFiles,
    client_context,
    fingerprint,
    make_self_signed,
    server_context,
    verification,
)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@attrs.frozen
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@functools.cache
def key_of(name: str) -> PrivateKey:
    """A key made once per name: RSA for names that begin so, which takes long."""
    if name.startswith("RSA"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def identity(
    name: str,
    issuer: str = "",
    *,
    hosts: tuple[str, ...] = (),
    days: tuple[int, int] = (-1, 1),
    is_authority: bool | None = None,
    usage: x509.ObjectIdentifier | None = None,
) -> Identity:
    """A certificate for `name`, by `issuer` or itself, valid from and to so many days from now; for hosts."""
    by = issuer or name
    key = key_of(name)
    now = datetime.datetime.now(datetime.UTC)
    first, last = (now + datetime.timedelta(days=number) for number in days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(
            x509.BasicConstraints(ca=not issuer if is_authority is None else is_authority, path_length=None),
            critical=True,
        )
    )
    if hosts:
        names = [_general_name(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Identity(builder.sign(key_of(by), hashes.SHA256()), key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def client(
    own: Identity | None = None,
    ciphers: str = "",
    maximum_version: int = 0,
    tls13_ciphers: str = "",
) -> SSL.Context:
    """A client that believes everybody."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if own is not None:
        context.use_certificate(own.certificate)
        context.use_privatekey(own.key)
    context.set_cipher_list((ciphers or "ALL:@SECLEVEL=0").encode())
    if tls13_ciphers:
        context.set_tls13_ciphersuites(tls13_ciphers.encode())
    if maximum_version:
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(maximum_version)
    return context


def handshake(server: SSL.Context, peer: SSL.Context | SSL.Connection) -> SSL.Connection:
    """The server's end of a connection after the handshake; raises `SSL.Error` if either end fails."""
    client_end = peer if isinstance(peer, SSL.Connection) else SSL.Connection(peer, None)
    ends = SSL.Connection(server, None), client_end
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    for _ in range(10):
        for end, other in (ends, ends[::-1]):
            try:
                end.do_handshake()
            except SSL.WantReadError:
                pass
            finally:
                try:
                    other.bio_write(end.bio_read(1 << 16))
                except SSL.WantReadError:
                    pass
    ends[0].do_handshake()
    return ends[0]


def agreed_without_groups(server: SSL.Context, suite: str) -> str:
    """The cipher suite agreed on in TLS 1.2 with a peer that offers `suite`, and no group but P-256."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    context.set_ecdh_curve("prime256v1")
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = context.wrap_bio(received, sent)
    connection = SSL.Connection(server, None)
    connection.set_accept_state()
    for _ in range(3):
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.do_handshake()
        if sent.pending:
            connection.bio_write(sent.read())
        with contextlib.suppress(SSL.WantReadError):
            connection.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            received.write(connection.bio_read(1 << 16))
    return connection.get_cipher_name() or ""


class TLSTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def file(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def files(self, own: Identity | None = None, profile: str = "8996", **other: Path | str) -> TLSFiles:
        """The files of a server, written."""
        own = identity("RSA server") if own is None else own
        cert = self.file("cert.pem", own.cert_pem)
        return TLSFiles(cert=cert, key=self.file("key.pem", own.key_pem), profile=profile, **other)

    def context(self, own: Identity | None = None, profile: str = "8996", **other: Path | str) -> SSL.Context:
        return server_context(self.files(own, profile, **other))


class ProfileTests(TLSTestCase):
    def test_names(self) -> None:
        """The profiles have the names that DCMTK's tools have for them, each its section of PS3.15."""
        sections = {name: profile.section for name, profile in PROFILES.items()}
        self.assertEqual(
            sections,
            {
                "8996": "B.12",
                "8996-mod": "B.13",
                "bcp195-ex": "B.11",
                "bcp195-nd": "B.10",
                "bcp195": "B.9",
                "aes": "B.3",
                "basic": "B.1",
            },
        )

    def test_contexts(self) -> None:
        """Every profile makes a context with every cipher suite it names, or is refused with its reason."""
        for name, profile in PROFILES.items():
            if profile.refused:
                error = self.assertRaises(TLSError, self.context, profile=name)
                self.assertEqual(str(error), profile.refused)
                self.assertNotIn("\n", profile.refused)
                continue
            suites = SSL.Connection(self.context(profile=name), None).get_cipher_list()
            old = [suite for suite in suites if not suite.startswith("TLS_")]
            self.assertEqual(sorted(old), sorted(profile.ciphers), name)
            new = [suite for suite in suites if suite.startswith("TLS_")]
            self.assertEqual(set(new) >= set(profile.tls13_ciphers), True, name)
            if profile.tls13_ciphers:
                self.assertEqual(set(new), set(profile.tls13_ciphers), name)

    def test_cipher_suites(self) -> None:
        """Every cipher suite that a profile names can be agreed on, with the certificate it is for."""
        failed = []
        for name, profile in PROFILES.items():
            peers = {one: client(ciphers=one, maximum_version=SSL.TLS1_2_VERSION) for one in profile.ciphers}
            peers |= {one: client(tls13_ciphers=one) for one in profile.tls13_ciphers}
            for suite, peer in peers.items():
                context = self.context(identity("server" if "ECDSA" in suite else "RSA server"), name)
                try:
                    self.assertEqual(handshake(context, peer).get_cipher_name(), suite, name)
                except SSL.Error as error:
                    failed.append((name, suite, str(error)))
        self.assertEqual(failed, [])

    def test_peers_without_groups(self) -> None:
        """So it can with a peer that names no group for DHE, as OpenSSL before 4.0 does in TLS 1.2."""
        for name, profile in PROFILES.items():
            for suite in profile.ciphers if not profile.refused else ():
                context = self.context(identity("server" if "ECDSA" in suite else "RSA server"), name)
                self.assertEqual(agreed_without_groups(context, suite), suite, name)

    def test_versions(self) -> None:
        """TLS 1.2 is the least in every profile, and 1.3 is had but in the one that stops before."""
        for name, profile in PROFILES.items():
            if profile.refused:
                continue
            context = self.context(profile=name)
            best = handshake(context, client()).get_protocol_version_name()
            self.assertEqual(best, "TLSv1.2" if name == "bcp195-ex" else "TLSv1.3", name)
            old = client(maximum_version=SSL.TLS1_2_VERSION)
            self.assertEqual(handshake(context, old).get_protocol_version_name(), "TLSv1.2", name)
            for version in (SSL.TLS1_VERSION, SSL.TLS1_1_VERSION):
                self.assertRaises(SSL.Error, handshake, context, client(maximum_version=version))

    def test_weak_suites(self) -> None:
        """A peer that offers only what no profile has gets no connection."""
        for suite in ("AES256-SHA", "ECDHE-RSA-AES128-SHA", "NULL-SHA256:@SECLEVEL=0"):
            for name in ("8996", "8996-mod", "bcp195-ex", "bcp195-nd"):
                peer = client(ciphers=suite, maximum_version=SSL.TLS1_2_VERSION)
                self.assertRaises(SSL.Error, handshake, self.context(profile=name), peer)

    def test_retired(self) -> None:
        """Whoever chooses a profile that the standard has retired is warned."""
        warned = {name for name, profile in PROFILES.items() if "retired" in profile.warning}
        self.assertEqual(warned, {"bcp195-ex", "bcp195-nd", "bcp195", "aes"})


class VerificationTests(TLSTestCase):
    """``--tls-verify``: what the server makes of a peer's certificate."""

    def test_modes(self) -> None:
        """Which peers get a connection in which mode."""
        peers = {
            "no certificate": None,
            "certified": identity("client", "CA"),
            "certified by a stranger": identity("stranger's client", "stranger"),
            "self-signed": identity("self"),
        }
        ca = self.file("ca.pem", identity("CA").cert_pem)
        welcome = {
            "none": set(peers),
            "optional": {"no certificate", "certified"},
            "required": {"certified"},
        }
        for mode, expected in welcome.items():
            context = self.context(verify=mode, ca=ca)
            for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
                taken = set()
                for name, own in peers.items():
                    try:
                        handshake(context, client(own, maximum_version=version))
                    except SSL.Error:
                        continue
                    taken.add(name)
                self.assertEqual(taken, expected, (mode, version))

    def test_authorities_are_named(self) -> None:
        """Peers are told whose certificates are asked for, if any are."""
        ca = self.file("ca.pem", identity("CA").cert_pem)
        for mode, names in {"none": [], "optional": ["CA"], "required": ["CA"]}.items():
            connection = SSL.Connection(self.context(verify=mode, ca=ca), None)
            self.assertEqual([name.CN for name in connection.get_client_ca_list()], names, mode)


class ClientTests(TLSTestCase):
    """What our clients make of a server's certificate."""

    HOSTS = ("pacs.example", "*.clinic.example", "192.0.2.7", "2001:db8::7")

    def faults(self, host: str, *chain: Identity, ca: Identity | None = None) -> list[str]:
        """What is wrong with a server that shows this chain, to a client that wants `host`; nothing if it is
        taken.
        """
        own = chain[0]
        pem = b"".join(one.cert_pem for one in chain)
        server = server_context(
            TLSFiles(cert=self.file("chain.pem", pem), key=self.file("key.pem", own.key_pem))
        )
        known = self.file("ca.pem", (identity("CA") if ca is None else ca).cert_pem)
        told: list[str] = []
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            context = client_context(TLSFiles(cert=None, key=None, ca=known))
            context.set_max_proto_version(version)
            connection = SSL.Connection(context, None)
            faults: list[str] = []
            connection.set_verify(SSL.VERIFY_PEER, verification(host, faults.append))
            if faults or version == SSL.TLS1_2_VERSION:
                told = faults
            try:
                handshake(server, connection)
            except SSL.Error:
                self.assertEqual(len(faults), 1, "one fault is told, and no connection made")
            else:
                self.assertEqual(faults, [], "nothing is told of a connection that is made")
            self.assertEqual(faults, told, "the same in TLS 1.2 and 1.3")
        return told

    def test_good(self) -> None:
        """A certificate that names the host, as a name, by a wild card or as an address, is taken."""
        own = identity("pacs", "CA", hosts=self.HOSTS)
        for host in ("pacs.example", "PACS.Example", "one.clinic.example", "192.0.2.7", "2001:db8:0:0::7"):
            self.assertEqual(self.faults(host, own), [], host)

    def test_wrong_host(self) -> None:
        """One that names others, or only calls itself like the host, is not."""
        own = identity("pacs", "CA", hosts=self.HOSTS)
        for host in ("other.example", "clinic.example", "a.b.clinic.example", "192.0.2.8", "2001:db8::8"):
            self.assertEqual(self.faults(host, own), [f"the certificate is not for {host}"])
        named = identity("pacs.example", "CA")
        self.assertEqual(self.faults("pacs.example", named), ["the certificate is not for pacs.example"])
        address = identity("192.0.2.7", "CA", hosts=("pacs.example",))
        self.assertEqual(self.faults("192.0.2.7", address), ["the certificate is not for 192.0.2.7"])

    def test_chain(self) -> None:
        """One by an authority in between is taken, if that one's certificate comes with it."""
        between = identity("between", "CA", is_authority=True)
        own = identity("pacs of the clinic", "between", hosts=self.HOSTS)
        self.assertEqual(self.faults("pacs.example", own, between), [])
        self.assertEqual(
            self.faults("pacs.example", own), ["the certificate is of an issuer who is not among those known"]
        )

    def test_unknown(self) -> None:
        """One that nobody known to us certifies is not, and neither is one that certifies itself."""
        stranger = identity("stranger")
        own = identity("stranger's pacs", "stranger", hosts=self.HOSTS)
        for chain, words in (
            ((own,), "of an issuer who is not among those known"),
            ((own, stranger), "of a chain whose root is not among those known"),
            ((identity("alone", hosts=self.HOSTS),), "self-signed and not among those known"),
        ):
            self.assertEqual(self.faults("pacs.example", *chain), [f"the certificate is {words}"])

    def test_self_signed(self) -> None:
        """One that certifies itself is taken by who knows it, such as those that our servers make."""
        alone = identity("alone", hosts=self.HOSTS)
        self.assertEqual(self.faults("pacs.example", alone, ca=alone), [])

    def test_times(self) -> None:
        """One that has expired, or is not valid yet, is not taken, nor if that is so of its issuer's."""
        expired = identity("old pacs", "CA", hosts=self.HOSTS, days=(-9, -2))
        self.assertEqual(self.faults("pacs.example", expired), ["the certificate is expired"])
        early = identity("new pacs", "CA", hosts=self.HOSTS, days=(2, 9))
        self.assertEqual(self.faults("pacs.example", early), ["the certificate is not valid yet"])
        old = identity("old CA", days=(-9, -2))
        own = identity("pacs of the old", "old CA", hosts=self.HOSTS)
        self.assertEqual(self.faults("pacs.example", own, ca=old), ["the certificate is expired"])

    def test_purpose(self) -> None:
        """One that is for clients alone is no server's; other reasons are told by OpenSSL's number."""
        own = identity("a client", "CA", hosts=self.HOSTS, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.assertEqual(self.faults("pacs.example", own), ["the certificate is not for this purpose"])
        faults: list[str] = []
        self.assertFalse(verification("pacs.example", faults.append)(None, None, 99, 0, 0))
        self.assertEqual(faults, ["the certificate is not accepted, OpenSSL says 99"])

    def test_own_certificate(self) -> None:
        """A client shows its certificate to a server that asks for one."""
        own = identity("client", "CA")
        known = self.file("known.pem", identity("CA").cert_pem)
        server = self.context(verify="required", ca=known)
        cert, key = self.file("own.pem", own.cert_pem), self.file("own.key", own.key_pem)
        for files, taken in (
            (TLSFiles(cert=cert, key=key), True),
            (TLSFiles(cert=None, key=None), False),
        ):
            try:
                end = handshake(server, client_context(files))
            except SSL.Error:
                self.assertFalse(taken)
            else:
                self.assertTrue(taken)
                shown = end.get_peer_certificate(as_cryptography=True)
                self.assertEqual(shown, own.certificate)

    def test_faults(self) -> None:
        """Files and profiles that are none are refused as those of a server."""
        for files, words in (
            (TLSFiles(cert=None, key=None, ca=self.directory / "absent.pem"), "No such file"),
            (TLSFiles(cert=None, key=None, profile="basic"), "3DES"),
        ):
            self.assertIn(words, str(self.assertRaises(TLSError, client_context, files)))

    def test_hosts_that_are_none(self) -> None:
        """What cannot be the name of a host is a ValueError."""
        self.assertRaises(ValueError, verification, "no host", lambda _: None)


class BrokenFileTests(TLSTestCase):
    def assert_refused(self, files: TLSFiles, path: Path, words: str) -> None:
        """One line that begins with the file and says what is wrong with it."""
        said = str(self.assertRaises(TLSError, server_context, files))
        self.assertRegex(said, f"^--tls-(cert|key|ca) {path}[: ]")
        self.assertIn(words, said)
        self.assertEqual(said.splitlines(), [said])

    def test_broken(self) -> None:
        """Files that are absent, empty, of another kind or of another pair are named with what is wrong."""
        good = self.files()
        empty, garbage = self.file("empty", b""), self.file("garbage", b"\xff" * 100)
        cut = self.file("cut.pem", identity("RSA server").cert_pem[:200])
        other_key = self.file("other.pem", identity("RSA other").key_pem)
        absent = self.directory / "absent.pem"
        for field, path, words in (
            ("cert", absent, "No such file"),
            ("cert", self.directory, "Is a directory"),
            ("cert", empty, "no usable certificate"),
            ("cert", garbage, "no usable certificate"),
            ("cert", cut, "no usable certificate"),
            ("cert", good.key, "no usable certificate"),
            ("key", absent, "No such file"),
            ("key", empty, "no usable private key"),
            ("key", garbage, "no usable private key"),
            ("key", good.cert, "no usable private key"),
            ("key", other_key, "no usable private key"),
            ("ca", absent, "No such file"),
            ("ca", empty, "no usable certificate"),
            ("ca", garbage, "no usable certificate"),
            ("ca", good.key, "no usable certificate"),
        ):
            self.assert_refused(attrs.evolve(good, **{field: path}), path, words)

    def test_unreadable(self) -> None:
        """A file that may not be read is named with that."""
        good = self.files()

        def read_bytes(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        self.patch(Path, "read_bytes", read_bytes)
        self.assert_refused(good, good.cert, "Permission denied")

    def test_chain(self) -> None:
        """Certificate, chain and key may all be in one file."""
        own = identity("client", "CA")
        path = self.file("all.pem", own.cert_pem + identity("CA").cert_pem + own.key_pem)
        context = server_context(TLSFiles(cert=path, key=path))
        self.assertTrue(handshake(context, client()).get_cipher_name())


class SelfSignedTests(TLSTestCase):
    """The certificate that a server makes for itself."""

    def assert_a_pair(self, cert: Path, key: Path) -> None:
        """Certificate and key fit each other, and nothing else is where they were made."""
        server_context(TLSFiles(cert=cert, key=key))
        self.assertEqual(sorted(path.name for path in cert.parent.iterdir()), ["cert.pem", "key.pem"])
        self.assertEqual([path.name for path in cert.parent.parent.glob(".tls-*")], [])

    def assert_refused(self, directory: Path, words: str, owner: tuple[int, int] | None = None) -> None:
        error = self.assertRaises(OSError, make_self_signed, directory, owner)
        self.assertEqual((error.filename, error.strerror), (str(directory), words))
        self.assertEqual(list(directory.glob(".tls-*")), [])

    def test_files(self) -> None:
        """Directories and files are the owner's alone; nothing else is left there."""
        directory = self.directory / "made" / "state"
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        cert, key = make_self_signed(directory)
        self.assertEqual((cert, key), (directory / "tls" / "cert.pem", directory / "tls" / "key.pem"))
        self.assertEqual([path.name for path in directory.iterdir()], ["tls"])
        self.assert_a_pair(cert, key)
        directories = [
            stat.S_IMODE(path.stat().st_mode) for path in (directory.parent, directory, cert.parent)
        ]
        self.assertEqual(directories, [0o700, 0o700, 0o700])
        self.assertEqual([stat.S_IMODE(path.stat().st_mode) for path in (cert, key)], [0o600, 0o600])

    def test_relative(self) -> None:
        """The state directory may be named from the working directory."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        self.assert_a_pair(*make_self_signed(Path("one/state")))

    def test_kept(self) -> None:
        """It is made once: the second start finds it, and peers see the same fingerprint."""
        paths = make_self_signed(self.directory)
        before = [path.read_bytes() for path in paths]
        self.assertEqual(make_self_signed(self.directory), paths)
        self.assertEqual([path.read_bytes() for path in paths], before)

    def test_made_anew(self) -> None:
        """If one of the two or both are missing both are made, and fit each other."""
        for missing in (["cert.pem"], ["key.pem"], ["cert.pem", "key.pem"]):
            make_self_signed(self.directory)
            for name in missing:
                (self.directory / "tls" / name).unlink()
            self.assert_a_pair(*make_self_signed(self.directory))

    def test_after_a_crash(self) -> None:
        """What a start that was cut off left behind does not keep the next one from making it."""
        left = self.directory / ".tls-0123456789abcdef"
        left.mkdir()
        (left / "key.pem").write_bytes(b"half")
        cert, key = make_self_signed(self.directory)
        server_context(TLSFiles(cert=cert, key=key))

    def test_failure(self) -> None:
        """A start that cannot write leaves nothing behind, and names the directory."""

        def rename(*paths: object, **fds: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

        self.patch(os, "rename", rename)
        self.assert_refused(self.directory, "No space left on device")
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_race(self) -> None:
        """Of two starts at once one wins, and both use its pair; half a pair before does not matter."""
        for before in ([], ["key.pem"]):
            self.setUp()
            for name in before:
                (self.directory / "tls").mkdir()
                (self.directory / "tls" / name).touch()
            rename, winners = os.rename, list[bytes]()

            def second(*paths: str, rename=rename, winners=winners, **fds: int) -> None:
                self.patch(os, "rename", rename)
                for path in make_self_signed(self.directory):
                    winners.append(path.read_bytes())
                rename(*paths, **fds)

            self.patch(os, "rename", second)
            cert, key = make_self_signed(self.directory)
            self.assertEqual([cert.read_bytes(), key.read_bytes()], winners)
            self.assert_a_pair(cert, key)

    def test_race_for_the_directory(self) -> None:
        """A state directory that another start has made in the meantime is used."""
        mkdir = os.mkdir

        def second(path: str, mode: int, dir_fd: int) -> None:
            mkdir(path, mode, dir_fd=dir_fd)
            if path == "state":
                mkdir(path, mode, dir_fd=dir_fd)

        self.patch(os, "mkdir", second)
        self.assert_a_pair(*make_self_signed(self.directory / "state"))

    def test_links(self) -> None:
        """Neither the state directory nor what is in it may be a symbolic link; one above it may."""
        elsewhere = self.directory / "elsewhere"
        elsewhere.mkdir()
        state = self.directory / "state"
        for target in (elsewhere, self.directory / "absent"):
            state.symlink_to(target.absolute())
            self.assert_refused(state, "it is a symbolic link", (1000, 100))
            state.unlink()
        state.mkdir()
        (state / "tls").symlink_to(elsewhere.absolute())
        self.assert_refused(state, "tls is not a directory")
        (state / "tls").unlink()
        cert, key = make_self_signed(state)
        for path in (cert, key):
            path.rename(elsewhere / path.name)
            path.symlink_to((elsewhere / path.name).absolute())
            self.assert_refused(state, f"tls/{path.name} is not a regular file")
            path.unlink()
            (elsewhere / path.name).rename(path)
        self.assertEqual(list(elsewhere.iterdir()), [])
        above = self.directory / "above"
        above.symlink_to(elsewhere.absolute())
        self.assert_a_pair(*make_self_signed(above / "state"))

    def test_strangers(self) -> None:
        """What belongs to anybody but root, us and whom the server will run as is not used."""
        us = os.geteuid()
        for name, what in (("", "it"), ("tls", "tls"), ("tls/key.pem", "tls/key.pem")):
            self.setUp()
            make_self_signed(self.directory)
            if us == 0:
                uid = 12345
                os.chown(self.directory / name, uid, -1)
                self.assert_refused(self.directory, f"{what} belongs to user {uid}", (1000, 100))
            else:
                uid = us
                patched = self.patch(os, "geteuid", lambda: us + 1)
                self.assert_refused(self.directory, f"it belongs to user {uid}", (us + 2, 100))
            make_self_signed(self.directory, (uid, 100))
            if us != 0:
                patched.restore()

    def test_exchanged(self) -> None:
        """A directory that is put in the place of one that was just made is not given away."""
        other = self.directory / "other"
        other.mkdir()
        (other / "file").touch()
        mkdir = os.mkdir

        def exchange(path: str, mode: int, dir_fd: int) -> None:
            mkdir(path, mode, dir_fd=dir_fd)
            (self.directory / path).rmdir()
            other.rename(self.directory / path)

        self.patch(os, "mkdir", exchange)
        state = self.directory / "state"
        self.assert_refused(state, "state was exchanged while it was made", (1000, 100))
        self.assertEqual(state.stat().st_uid, os.geteuid())

    def test_more_than_a_pair(self) -> None:
        """A directory with one of the two and something else besides is not emptied, but named."""
        (self.directory / "tls").mkdir()
        other = self.directory / "tls" / "other"
        other.touch()
        self.assert_refused(self.directory, os.strerror(errno.ENOTEMPTY))
        self.assertTrue(other.exists())

    def test_fingerprint(self) -> None:
        """The fingerprint is written as ``openssl x509 -fingerprint -sha256`` does."""
        path = self.file("cert.pem", identity("server").cert_pem + identity("CA").cert_pem)
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, path.read_bytes())
        self.assertEqual(fingerprint(path), certificate.digest("sha256").decode())
        der = identity("server").certificate.public_bytes(serialization.Encoding.DER)
        self.assertEqual(fingerprint(path).replace(":", "").lower(), hashlib.sha256(der).hexdigest())

    def test_certificate(self) -> None:
        """It is for this host by all its names, for servers and clients, and certifies nobody else."""
        for host in ("pmod.example", "x" * 63 + ".example", ""):
            self.setUp()
            self.patch(tls.socket, "gethostname", lambda host=host: host)
            cert, key = make_self_signed(self.directory)
            certificate = x509.load_pem_x509_certificate(cert.read_bytes())
            (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            self.assertEqual(name.value, (host or "localhost")[:64])
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            expected = [one for one in (host, "localhost") if one]
            self.assertEqual(names.get_values_for_type(x509.DNSName), expected)
            addresses = [ipaddress.ip_address(one) for one in ("127.0.0.1", "::1")]
            self.assertEqual(names.get_values_for_type(x509.IPAddress), addresses)
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            self.assertEqual(set(usage), {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            self.assertFalse(constraints.ca)
            lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            self.assertEqual(lifetime.days, 3651)
            self.assertTrue(handshake(server_context(TLSFiles(cert=cert, key=key)), client()))

    def test_owner(self) -> None:
        """Made by root for whom the server will run as, it is theirs; what was there before is left alone."""
        owned: list[tuple[str, int, int]] = []

        def fchown(fd: int, uid: int, gid: int) -> None:
            name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
            owned.append((".tls-" if name.startswith(".tls-") else name, uid, gid))

        self.patch(os, "fchown", fchown)
        state = self.directory / "state"
        paths = make_self_signed(state, (1000, 100))
        pair = [(name, 1000, 100) for name in (".tls-", "key.pem", "cert.pem")]
        self.assertEqual(owned, [("state", 1000, 100), *pair])
        self.assertEqual(make_self_signed(state, (1000, 100)), paths)
        self.assertEqual(len(owned), 4)
        paths[0].unlink()
        make_self_signed(state, (1000, 100))
        self.assertEqual(owned[4:], pair)
