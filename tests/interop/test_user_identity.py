"""User identity negotiation (PS3.7 D.3.3.7): DCMTK, pynetdicom and our own command against the server."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from pathlib import Path

import pydicom.data
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from dicomtw import uids
from dicomtw.authentication import OF_A_HOST
from dicomtw.testing import associate_rq
from dicomtw.ul.items import UserIdentityRQ
from dicomtw.ul.pdu import A_ASSOCIATE_RJ
from tests.interop.cases import CasesTestCase
from tests.interop.certificates import client_context
from tests.interop.peers import missing, run
from tests.interop.scu import VERIFICATION, Scu
from tests.interop.twistd import Twistd, environment, temporary_directory

CT = pydicom.data.get_testdata_file("CT_small.dcm")
DICOMTW = (sys.executable, "-m", "dicomtw")

#: A checker as others may write one: who has the word is carol, and is answered.
PLUGIN = """
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from zope.interface import implementer

from dicomtw.authentication import Authenticated, IJSONWebToken, IKerberosTicket, ISAMLAssertion


@implementer(ICheckerFactory, IPlugin, ICredentialsChecker)
class Word:
    authType = "word"
    authHelp = argStringFormat = "a word"
    credentialInterfaces = (IKerberosTicket, ISAMLAssertion, IJSONWebToken)

    def generateChecker(self, argstring):
        self.word = argstring.encode()
        return self

    def requestAvatarId(self, credentials):
        for name in ("ticket", "assertion", "token"):
            # DCMTK sends an even number of bytes
            if getattr(credentials, name, b"").rstrip(b" \\0") == self.word:
                return Authenticated(b"carol", b"welcome")
        raise UnauthorizedLogin("not the word")


word = Word()
"""


def passwd(directory: Path) -> Path:
    """A file in which alice has the passcode sesame, made as users make it."""
    path = directory / "passwd"
    subprocess.run(
        [*DICOMTW, "passwd", "-q", str(path), "alice"], input=b"sesame\n", check=True, env=environment()
    )
    return path


class UserIdentityTestCase(CasesTestCase):
    def setUp(self) -> None:
        self.directory = temporary_directory(self)
        self.auth = f"--auth=scrypt:{passwd(self.directory)}"

    def with_plugin(self, *options: str) -> Twistd:
        plugins = self.directory / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "word_auth.py").write_text(PLUGIN)
        path = f"{environment()['PYTHONPATH']}:{self.directory}"
        return Twistd(self, "--auth=word:open", *options, env={"PYTHONPATH": path})


class DCMTKTests(UserIdentityTestCase):
    skip = missing("storescu")

    def store(self, server: Twistd, *options: str | Path) -> tuple[bool, str]:
        """Whether storescu could store, and the line of the server about it."""
        before = len(server.summaries)
        peer = run("storescu", "-v", *options, "-aec", "PMOD", "127.0.0.1", server.port, CT)
        line = server.wait_for_summaries(before + 1)[-1]
        self.assertEqual("Association Rejected" in peer.stdout, peer.returncode != 0, peer.stdout)
        return peer.returncode == 0, line

    def test_passcodes(self) -> None:
        """Over TLS the right passcode, and a name that needs none, will do; else the log says why not."""
        server = Twistd(self, "-tls", self.auth, "--auth=usernames:bob", "--user-identity=required")
        tls = ("+tla", "+cf", server.store / ".state" / "tls" / "cert.pem")
        cases: list[tuple[tuple[str, ...], str]] = [
            (("--user", "alice", "--password", "sesame"), ""),
            (("--user", "alice", "--password", "sesame", "--pos-response"), ""),
            (("--user", "bob", "--pos-response"), ""),
            (("--user", "alice", "--password", "Sesame"), "user 'alice': wrong name or passcode"),
            (("--user", "mallory", "--password", "sesame"), "user 'mallory': wrong name or passcode"),
            (("--user", "alice", "--empty-password"), "user 'alice': the passcode is empty"),
            (("--user", "alice"), "user 'alice': the name is not in the list"),
            ((), "no user identity, and one is required"),
        ]
        for options, why in cases:
            with self.case(options):
                stored, line = self.store(server, *tls, *options)
                self.assertEqual(stored, not why, line)
                name = options[1] if options else ""
                self.assertIn(why or f"to 'PMOD' for user '{name}' over TLS", line)
        for secret in ("sesame", "Sesame"):
            self.assertNotIn(secret, server.log)

    def test_plain(self) -> None:
        """Over a plain connection a passcode is refused and why is logged, unless the operator takes it."""
        password = ("--user", "alice", "--password", "sesame")
        stored, line = self.store(Twistd(self, self.auth), *password)
        self.assertFalse(stored)
        self.assertIn("user 'alice': refused over a connection without TLS (--auth-without-tls)", line)
        server = Twistd(self, self.auth, "--auth-without-tls")
        self.assertTrue(self.store(server, *password)[0])
        self.assertTrue(self.store(server)[0], "nobody need be named")
        self.assertTrue(self.store(Twistd(self), *password)[0], "no users are checked")

    def test_tokens(self) -> None:
        """Tickets, assertions and tokens get to a checker of somebody else's, and its answer gets back."""
        server = self.with_plugin("--auth-without-tls")
        good, bad = self.directory / "good", self.directory / "bad"
        good.write_bytes(b"open")
        bad.write_bytes(b"shut")
        for option in ("--kerberos", "--saml", "--jwt"):
            with self.case(option):
                stored, line = self.store(server, option, good, "--pos-response")
                self.assertTrue(stored, line)
                self.assertIn("for user 'carol'", line)
                self.assertTrue(self.store(server, option, good)[0])
                stored, line = self.store(server, option, bad)
                self.assertFalse(stored)
                self.assertIn(": not the word", line)


class PynetdicomTests(UserIdentityTestCase):
    def associate(
        self, server: Twistd, kind: int, primary: bytes, secondary: bytes = b"", *, tls: bool = False
    ) -> bytes | None:
        """The server response, empty if there is none; None if the association is rejected."""
        item = UserIdentityNegotiation()
        item.user_identity_type = kind
        item.positive_response_requested = True
        item.primary_field = primary
        if secondary:
            item.secondary_field = secondary
        ae = AE(ae_title="ROOM1")
        ae.add_requested_context(uids.VERIFICATION)
        context = client_context(server.store / ".state" / "tls" / "cert.pem") if tls else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            association = ae.associate(
                *server.address,
                ae_title="PMOD",
                ext_neg=[item],
                tls_args=None if context is None else (context, "localhost"),
            )
        if not association.is_established:
            return None
        self.assertEqual(association.send_c_echo().Status, 0)
        answer = association.acceptor.user_identity
        association.release()
        return b"" if answer is None else answer.server_response or b""

    def test_passcode(self) -> None:
        """Over TLS the right passcode is accepted, another one is not."""
        server = Twistd(self, "-tls", self.auth)
        self.assertEqual(self.associate(server, 2, b"alice", b"sesame", tls=True), b"")
        self.assertIsNone(self.associate(server, 2, b"alice", b"other", tls=True))

    def test_responses(self) -> None:
        """Tickets, assertions and tokens are answered by what their checker returns."""
        server = self.with_plugin("--auth-without-tls")
        for kind in (3, 4, 5):
            self.assertEqual(self.associate(server, kind, b"open"), b"welcome")
            self.assertIsNone(self.associate(server, kind, b"shut"))


class CommandTests(UserIdentityTestCase):
    def test_echo(self) -> None:
        """``dicomtw echo`` says who we are, and fails where we are not."""
        server = Twistd(self, "-tls", self.auth, "--user-identity=required")
        passcode = self.directory / "passcode"
        for said, status in (("sesame\n", 0), ("other\n", 2)):
            passcode.write_text(said)
            peer = run(
                *(*DICOMTW, "echo", f"PMOD@127.0.0.1:{server.port}", "--tls", "--tls-no-verify"),
                *("--user=alice", f"--password-file={passcode}"),
                env=environment(),
            )
            self.assertEqual(peer.returncode, status, peer.stdout)


class CrowdTests(UserIdentityTestCase):
    def test_guesses(self) -> None:
        """While a crowd guesses passcodes others are answered at once, and memory stays as it was."""
        server = Twistd(self, self.auth, "--auth-without-tls")
        at_rest = server.rss
        guess = UserIdentityRQ(2, False, b"alice", b"guess")
        crowd = [Scu(server.address, timeout=30) for _ in range(20)]
        self.addCleanup(lambda: [one.close() for one in crowd])
        for one in crowd:
            one.send(associate_rq(VERIFICATION, guess))
        began = time.monotonic()
        with Scu(server.address) as scu:
            scu.associate()
            self.assertEqual(scu.echo(), 0)
            scu.release()
        self.assertLess(time.monotonic() - began, 1.0)
        for one in crowd:
            self.assertIsInstance(one.receive(), A_ASSOCIATE_RJ)
            one.close()
        lines = server.wait_for_summaries(1 + len(crowd))
        wrong, put_off = (
            sum(words in line for line in lines) for words in ("wrong name or passcode", "are being checked")
        )
        self.assertEqual(wrong + put_off, len(crowd))
        self.assertGreaterEqual(wrong, OF_A_HOST)
        self.assertLess(server.rss - at_rest, 8 << 20)
