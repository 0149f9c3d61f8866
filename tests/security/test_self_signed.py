"""The certificate that a server makes for itself: made once, as a whole, and given to nobody else."""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto

from dicomtw.security import self_signed
from dicomtw.security.self_signed import make_self_signed
from dicomtw.security.tls import TLSFiles, fingerprint, server_context
from tests.security.identities import TLSTestCase, client, handshake, identity


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
        told = fingerprint(path.read_bytes())
        self.assertEqual(told, certificate.digest("sha256").decode())
        der = identity("server").certificate.public_bytes(serialization.Encoding.DER)
        self.assertEqual(told.replace(":", "").lower(), hashlib.sha256(der).hexdigest())

    def test_certificate(self) -> None:
        """It is for this host by all its names, for servers and clients, and certifies nobody else."""
        for host in ("pmod.example", "x" * 63 + ".example", ""):
            self.setUp()
            self.patch(self_signed.socket, "gethostname", lambda host=host: host)
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
