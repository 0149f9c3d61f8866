"""Certificates, keys, authorities and CRLs that change while the server runs: by SIGHUP, and without."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import ssl
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.ul.pdu import A_ASSOCIATE_AC
from tests.interop.certificates import Authority, client_context, fingerprint
from tests.interop.scu import Closed, Scu
from tests.interop.twistd import TWISTD, Twistd, temporary_directory

#: A user and group without rights.
NOBODY = 65534

#: Seconds between two looks at the files, and a little more.
LOOK = 1.3


def shown_by(server: Twistd, number: int = 0) -> str:
    """The fingerprint of the certificate that a port shows."""
    port = int(server.listening[number])
    plain = socket.create_connection(("127.0.0.1", port), 10)
    with client_context().wrap_socket(plain) as secure:
        der = secure.getpeercert(binary_form=True)
        assert der is not None
        return hashlib.sha256(der).hexdigest()


class RenewalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = temporary_directory(self)
        self.authority = Authority(self.directory)
        self.old = self.authority.certify("old", 1)
        self.new = self.authority.certify("new", 2)
        self.cert, self.key = self.directory / "cert.pem", self.directory / "key.pem"
        self.install(*self.old)

    def install(self, cert: Path, key: Path) -> None:
        """Put a pair in place as programs do that renew them."""
        for source, place in ((cert, self.cert), (key, self.key)):
            copy = place.with_suffix(".new")
            shutil.copyfile(source, copy)
            copy.replace(place)

    def tls(self, *more: str) -> tuple[str, ...]:
        return ("--tls", f"--tls-cert={self.cert}", f"--tls-key={self.key}", *more)

    def test_hangup(self) -> None:
        """SIGHUP has all ports use the new files; associations go on with what they began with."""
        endpoint = f"dicomtls:0:interface=127.0.0.1:cert={self.cert}:key={self.key}"
        port = ("--port=0", "--interface=127.0.0.1")
        server = Twistd(self, *self.tls(*port, f"--listen={endpoint}"))
        with Scu(server.address, tls=client_context(self.authority.pem)) as scu:
            self.assertIsInstance(scu.associate(), A_ASSOCIATE_AC)
            self.install(*self.new)
            server.signal(signal.SIGHUP)
            server.wait_for_log("renewed: ")
            for number in range(2):
                self.assertEqual(shown_by(server, number), fingerprint(self.new[0]))
            self.assertEqual(scu.echo(), 0)
            scu.release()
        renewed = [line for line in server.log.splitlines() if "renewed: " in line]
        self.assertEqual(len(renewed), 2, "one line for each port")
        self.assertIn(fingerprint(self.new[0]).upper()[:2] + ":", renewed[0])
        server.signal(signal.SIGHUP)
        server.wait_for_log("unchanged: ")
        self.key.write_bytes(b"half")
        server.signal(signal.SIGHUP)
        said = server.wait_for_log("TLS stays as it was")
        self.assertIn(f"--tls-key {self.key} holds no usable private key", said)
        self.assertEqual(shown_by(server), fingerprint(self.new[0]))

    def test_without_being_told(self) -> None:
        """A second after they have changed the files are used; while they are no good the old ones are."""
        server = Twistd(self, *self.tls())
        self.cert.write_bytes(b"half written")
        time.sleep(LOOK)
        for _ in range(3):
            self.assertEqual(shown_by(server), fingerprint(self.old[0]))
            time.sleep(LOOK)
        said = [line for line in server.log.splitlines() if "TLS stays as it was" in line]
        self.assertEqual(len(said), 1, "one line, not one for each connection")
        self.install(*self.new)
        time.sleep(LOOK)
        self.assertEqual(shown_by(server), fingerprint(self.new[0]))
        server.wait_for_log("renewed: ")

    def test_revoked_meanwhile(self) -> None:
        """Who is revoked while the server runs comes in no more, not with a session of before either."""
        crl = self.authority.revoke()
        peer, other = self.authority.certify("scanner", 3), self.authority.certify("other", 2)
        server = Twistd(self, *self.tls(f"--tls-ca={self.authority.pem}", f"--tls-crl={crl}"))
        context = client_context(self.authority.pem, peer, version=ssl.TLSVersion.TLSv1_2)
        with Scu(server.address, tls=context) as scu:
            self.assertIsInstance(scu.associate(), A_ASSOCIATE_AC)
            assert isinstance(scu.socket, ssl.SSLSocket)
            session = scu.socket.session
            self.authority.revoke(peer[0])
            server.signal(signal.SIGHUP)
            server.wait_for_log("renewed: ")
            self.assertEqual(scu.echo(), 0)
            scu.release()
        refused = self.assertRaises((ssl.SSLError, ConnectionError, Closed))
        with refused, Scu(server.address, tls=context, session=session) as scu:
            scu.associate()
        line = server.wait_for_summaries(2)[-1]
        self.assertIn("the certificate is revoked: 'CN=scanner'", line)
        with Scu(server.address, tls=client_context(self.authority.pem, other)) as scu:
            self.assertIsInstance(scu.associate(), A_ASSOCIATE_AC)
            scu.release()

    def test_root_dropped(self) -> None:
        """After ``twistd --uid`` a key that only root reads stays as it was; the log says so, once."""
        if os.geteuid() != 0:
            self.skipTest("not root")
        for path in (self.directory, self.cert, self.authority.pem):
            path.chmod(0o755)
        self.key.chmod(0o600)
        home = temporary_directory(self)
        home.chmod(0o755)
        server = Twistd(
            self,
            *self.tls(),
            command=(*TWISTD, "-n", "--pidfile=", f"--uid={NOBODY}", f"--gid={NOBODY}"),
            directory=home,
        )
        said = server.wait_for_log(
            f"--tls-key {self.key} cannot be read by user {NOBODY} (Permission denied)"
        )
        self.assertIn("a new one is used after a restart only", said)
        self.install(*self.new)
        self.key.chmod(0o600)
        server.signal(signal.SIGHUP)
        said = server.wait_for_log("TLS stays as it was")
        self.assertIn(f"--tls-key {self.key}: Permission denied", said)
        self.assertEqual(shown_by(server), fingerprint(self.old[0]))
        self.key.chmod(0o644)
        server.signal(signal.SIGHUP)
        server.wait_for_log("renewed: ")
        self.assertEqual(shown_by(server), fingerprint(self.new[0]))

    def test_without_tls(self) -> None:
        """Without TLS there is nothing to be read again, and SIGHUP ends nothing that has no terminal."""
        server = Twistd(self)
        server.signal(signal.SIGHUP)
        server.wait_for_log("there are no certificates to be read again")
        with Scu(server.address) as scu:
            scu.associate()
