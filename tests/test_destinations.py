"""dicomtw.destinations: the configured remotes as those whom a server sends to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionRefusedError as RefusedError
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import client, destinations
from dicomtw.acceptor import AcceptedAssociation
from dicomtw.client import TLS, UserIdentity, user_of
from dicomtw.config import Server
from dicomtw.destinations import RemoteDestinations, fault_of, tls_of
from dicomtw.errors import Cancelled, NotConnected
from dicomtw.feed import Disk
from dicomtw.security.remote import Remote
from dicomtw.services.storage import Storage
from dicomtw.testing import MemoryServer, MemoryStore, at_once
from dicomtw.ul.items import UserIdentityRQ
from tests.security.test_tls import identity
from tests.test_client import EVR, Network

CONTEXTS = [("1.2.840.10008.5.1.4.1.1.2", (EVR,))]


class DestinationTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = Network(MemoryServer.of(Storage(MemoryStore())))
        self.disk = Disk(at_once)
        self.ca = Path(self.mktemp()).absolute()
        self.ca.write_bytes(identity("CA").cert_pem)

    def remote(self, **settings: Any) -> Remote:
        return Remote(**{"aet": "PMOD", "host": "192.0.2.7", "port": 104, **settings})

    def made(self, *remotes: Remote, **settings: Any) -> RemoteDestinations:
        """The destinations of a server."""
        server = Server(port=4030, aet="OURS", **settings)
        return RemoteDestinations(server, remotes, self.network, self.disk)

    def associating(self, made: RemoteDestinations, ae_title: str = "PMOD") -> Deferred[Any]:
        found = made.associate(ae_title, CONTEXTS)
        self.network.pump([0, 0.3, 0])
        return found


class AssociateTests(DestinationTestCase):
    def test_associated(self) -> None:
        """An association with a remote is the server's own: its title, its limits, its disk."""
        made = self.made(self.remote(), dimse_timeout=7, no_implementation_version_name=True)
        association = self.successResultOf(self.associating(made))
        self.assertEqual((association.calling_ae_title, association.called_ae_title), ("OURS", "PMOD"))
        self.assertIs(association._disk, self.disk)
        self.assertEqual(association._shell.limits.dimse_timeout, 7)
        self.assertEqual(self.network.tried, [("192.0.2.7", 104)])

    def test_user(self) -> None:
        """A remote is told who the server's user is, with the passcode that its file has now."""
        passcode = Path(self.mktemp()).absolute()
        pin = {"tls": True, "tls_sha256": ["00" * 32]}
        cases: list[tuple[dict[str, Any], UserIdentity | None]] = [
            ({}, None),
            ({"user": "archive"}, UserIdentity.username("archive")),
            (
                {"user": "archive", "password_file": passcode, **pin},
                UserIdentity.username_and_passcode("archive", b"ses ame"),
            ),
        ]
        passcode.write_bytes(b"ses ame\r\nmore\n")
        for settings, expected in cases:
            self.assertEqual(user_of(self.remote(**settings)), expected)
        seen: list[Any] = []
        self.patch(
            AcceptedAssociation,
            "associate_indication",
            lambda one, rq: seen.append(rq.user_information.first(UserIdentityRQ)),
        )
        self.associating(self.made(self.remote(user="archive")))
        self.assertEqual(seen, [UserIdentityRQ(1, False, b"archive")])

    def test_passcode_is_kept(self) -> None:
        """The passcode that root has read at the start is good for a server that may not read it."""
        passcode = Path(self.mktemp()).absolute()
        passcode.write_bytes(b"sesame")
        pin = {"tls": True, "tls_sha256": ["00" * 32]}
        made = self.made(self.remote(user="archive", password_file=passcode, **pin))
        self.assertEqual((made.faults(), made.unreadable()), ([], []))
        told: list[Any] = []
        self.patch(destinations, "associate", lambda remote, **how: told.append(how["user_identity"]))
        reads = []

        def refused(path: Path) -> Any:
            reads.append(path)
            raise PermissionError(13, "Permission denied", str(path))

        self.patch(Path, "stat", refused)
        made.associate("PMOD", CONTEXTS).addErrback(lambda _: None)
        self.assertEqual(told, [UserIdentity.username_and_passcode("archive", b"sesame")])
        self.assertEqual(reads, [passcode])
        passcode.unlink()
        (line,) = made.unreadable()
        self.assertTrue(line.startswith(f"password-file {passcode} cannot be read by user "), line)

    def test_passcode_is_read_aside(self) -> None:
        """What is read for an association is read in a thread of the store's, not by the reactor."""
        passcode = Path(self.mktemp()).absolute()
        passcode.write_bytes(b"sesame")
        pin = {"tls": True, "tls_sha256": ["00" * 32]}
        calls: list[Any] = []
        self.disk.call_aside = lambda call: calls.append(call) or Deferred()
        found = self.made(self.remote(user="archive", password_file=passcode, **pin)).associate(
            "PMOD", CONTEXTS
        )
        self.assertEqual((len(calls), self.network.tried), (1, []))
        found.cancel()
        self.failureResultOf(found, Cancelled)

    def test_no_passcode(self) -> None:
        """Without its passcode there is no association, and the start says so."""
        passcode = Path(self.mktemp()).absolute()
        remote = self.remote(user="a", password_file=passcode, tls=True, tls_sha256=["00" * 32])
        said = f"cannot read {passcode}: No such file or directory"
        failure = self.failureResultOf(self.associating(self.made(remote)), NotConnected)
        self.assertEqual(failure.getErrorMessage(), said)
        self.assertEqual(self.made(remote).faults(), [f"remote PMOD: {said}"])
        passcode.write_text("\n")
        self.assertEqual(fault_of(remote, None), f"remote PMOD: the first line of {passcode} is empty")

    def test_contained(self) -> None:
        """A remote without host or port is no destination."""
        made = self.made(self.remote(), self.remote(aet="A", port=0), Remote(aet="B"))
        self.assertEqual([title in made for title in ("PMOD", "A", "B", "C")], [True, False, False, False])

    def test_not_connected(self) -> None:
        """Whatever keeps a connection from coming about is that, and no fault of the server's."""
        absent = Path("absent.pem")
        for settings, words in (
            ({}, "cannot connect to 192.0.2.7:104: Connection was refused by other side"),
            ({"host": "a..b"}, "cannot connect to a..b:104: "),
            (
                {"tls": True, "tls_ca": absent},
                "cannot connect to 192.0.2.7:104: tls-ca absent.pem: No such file or directory",
            ),
            (
                {"tls": True, "tls_ca": self.ca, "host": "a..b"},
                "'a..b' is no name that a certificate could be for",
            ),
            ({"tls": True, "host": "a..b"}, "'a..b' is no name that a certificate could be for"),
        ):
            self.network.faults = [RefusedError()]
            found = self.associating(self.made(self.remote(**settings)))
            said = self.failureResultOf(found, NotConnected).getErrorMessage()
            self.assertTrue(said.startswith(words), said)

    def test_cancelled(self) -> None:
        """Who gives up is told so in the words that services know."""
        self.network.hangs = True
        found = self.associating(self.made(self.remote()))
        found.cancel()
        self.failureResultOf(found, Cancelled)


class TLSTests(DestinationTestCase):
    def test_settings(self) -> None:
        """A remote is verified with the certificates that it has, and merely encrypted to without."""
        self.assertIsNone(tls_of(self.remote()))
        self.assertEqual(tls_of(self.remote(tls=True)), TLS(verify=False))
        remote = self.remote(tls=True, tls_ca="ca", tls_cert="cert", tls_key="key")
        self.assertEqual(tls_of(remote), TLS(ca=Path("ca"), cert=Path("cert"), key=Path("key")))

    def test_faults(self) -> None:
        """What TLS cannot be had with is a line that names the remote, also of one that is no destination."""
        own = identity("other")
        cert = Path(self.mktemp()).absolute()
        cert.write_bytes(own.cert_pem)
        for settings, words in (
            ({}, ""),
            ({"tls": True}, ""),
            ({"tls": True, "tls_ca": self.ca}, ""),
            ({"tls": True, "tls_ca": self.ca, "host": ""}, ""),
            ({"tls": True, "tls_ca": "absent", "host": ""}, "tls-ca absent: No such file or directory"),
            ({"tls": True, "tls_cert": "absent"}, "tls-cert absent: No such file or directory"),
            ({"tls": True, "tls_cert": cert}, f"tls-cert {cert} holds no usable private key"),
            (
                {"tls": True, "tls_ca": self.ca, "host": "a b"},
                "'a b' is no name that a certificate could be for",
            ),
            ({"host": "a..b", "tls": True}, "'a..b' is no name that a certificate could be for"),
        ):
            remote = self.remote(**settings)
            faults = [fault_of(remote, tls_of(remote)), *self.made(remote).faults()]
            if words:
                self.assertTrue(faults[0].startswith(f"remote PMOD: {words}"), faults)
                self.assertEqual(len(faults[0].splitlines()), 1)
                self.assertEqual(faults, [faults[0]] * 2)
            else:
                self.assertEqual(faults, [""])

    def test_pinned(self) -> None:
        """A remote that is known by its certificate is verified by that, with authorities or without."""
        pin = "0123456789abcdef" * 4
        for settings in ({"tls_sha256": [pin]}, {"tls_sha256": [pin], "tls_ca": self.ca}):
            tls = tls_of(self.remote(tls=True, **settings))
            assert tls is not None
            self.assertEqual(tls.pins, (pin,))
            self.assertEqual(tls.connection("192.0.2.7", print).get_verify_mode(), SSL.VERIFY_PEER)
        plain = tls_of(self.remote(tls=True))
        assert plain is not None
        self.assertEqual(plain.connection("192.0.2.7", print).get_verify_mode(), SSL.VERIFY_NONE)

    def test_read_once(self) -> None:
        """Certificates are read when the server starts, and not for each C-MOVE."""
        contexts = []
        real = client.client_context

        def made_of(files: Any, contents: Any) -> Any:
            contexts.append(files)
            return real(files, contents)

        self.patch(client, "client_context", made_of)
        made = self.made(self.remote(tls=True, tls_ca=self.ca), self.remote(aet="PLAIN"))
        self.assertEqual(made.faults(), [])
        self.ca.unlink()
        self.network.faults = [ConnectionDone()] * 2
        for _ in range(2):
            self.failureResultOf(self.associating(made), NotConnected)
        self.assertEqual(len(self.network.tried), 2)
        self.assertEqual(len(contexts), 1)
