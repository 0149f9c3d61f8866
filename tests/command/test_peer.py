"""dicomtw.command.peer: whom PEER names, and how to get there."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.client import TLS, UserIdentity
from dicomtw.command.arguments import parser
from dicomtw.command.exits import Fault
from dicomtw.command.peer import Peer, peer_of
from tests.command.memory import heard
from tests.security.test_tls import identity

CONFIGURATION = """
[[remote]]
aet = "PACS"
host = "192.0.2.7"
port = 104
retries = 3

[[remote]]
aet = "NOWHERE"
"""


class PeerTests(SynchronousTestCase):
    def peer(self, *words: str) -> Peer:
        return peer_of(parser().parse_args(["echo", *words]))

    def fault(self, *words: str) -> str:
        return str(self.assertRaises(Fault, self.peer, *words))

    def configuration(self) -> str:
        path = Path(self.mktemp())
        path.write_text(CONFIGURATION)
        return f"--config={path}"

    def test_spellings(self) -> None:
        """A peer is host and port, perhaps with its AE title, which -aec overrides."""
        cases = [
            (["localhost:104"], "ANY-SCP@localhost:104"),
            (["PMOD@localhost:104"], "PMOD@localhost:104"),
            (["PMOD@[::1]:104"], "PMOD@[::1]:104"),
            (["[::1]:104"], "ANY-SCP@[::1]:104"),
            (["PMOD@localhost:104", "-aec", "OTHER"], "OTHER@localhost:104"),
        ]
        for words, expected in cases:
            self.assertEqual(str(self.peer(*words)), expected)

    def test_no_peers(self) -> None:
        """What is none is told in one line, with what a peer looks like."""
        for word in (
            "localhost",
            "PMOD",
            "PMOD@localhost",
            ":104",
            "@localhost:104:5",
            "localhost:x",
            "::1:104",
        ):
            self.assertIn(repr(word), self.fault(word))
        self.assertEqual(self.fault("PMOD"), "PEER is [AET@]HOST:PORT, not 'PMOD'")
        self.assertIn("cannot be at port 0", self.fault("localhost:0"))
        self.assertIn("takes an AE title", self.fault("TITLE-OF-17-CHARS@localhost:104"))

    def test_configured(self) -> None:
        """With a configuration a peer can be named by the AE title of a remote, and has its settings."""
        config = self.configuration()
        peer = self.peer(config, "PACS")
        self.assertEqual((str(peer), peer.remote.retries), ("PACS@192.0.2.7:104", 3))
        self.assertEqual(str(self.peer(config, "localhost:104")), "ANY-SCP@localhost:104")
        self.assertEqual(str(self.peer(config, "PACS", "-aec", "X")), "X@192.0.2.7:104")

    def test_not_configured(self) -> None:
        """Nobody can connect to a remote without host and port, nor to one that is not there."""
        config = self.configuration()
        for word in ("NOWHERE", "pacs"):
            self.assertIn("or the AE title of a remote with host and port in", self.fault(config, word))
        self.assertIn("No such file", self.fault("--config=/nowhere", "PACS"))

    def test_limits(self) -> None:
        """Timeouts and the length of PDUs are those of the command line."""
        peer = self.peer("localhost:104", "-to", "3", "-td", "1000", "-pdu", "16384", "--retries", "0")
        self.assertEqual((peer.limits.artim_timeout, peer.limits.dimse_timeout), (3.0, 1000.0))
        self.assertEqual((peer.limits.idle_timeout, peer.maximum_length, peer.retries), (1000.0, 16384, 0))
        self.assertIsNone(self.peer("localhost:104").retries, "they are up to the remote")

    def test_tls(self) -> None:
        """TLS verifies the peer unless that is turned off, and its files are looked at first."""
        self.assertIsNone(self.peer("localhost:104").tls)
        self.assertEqual(self.peer("localhost:104", "-tls").tls, TLS())
        self.assertEqual(self.peer("localhost:104", "--tls", "--tls-no-verify").tls, TLS(verify=False))
        self.assertIn("/nowhere", self.fault("localhost:104", "--tls", "--tls-ca=/nowhere"))
        self.assertEqual(self.peer("localhost:104,tls").tls, TLS())
        self.assertEqual(self.peer("localhost:104,tls", "--tls-no-verify").tls, TLS(verify=False))

    def test_tls_of_a_remote(self) -> None:
        """What a configured remote says of TLS holds where the command line says nothing else."""
        made = {name: Path(self.mktemp()) for name in ("ca", "cert", "key", "own")}
        ca, mine, other = identity("CA"), identity("me", "CA"), identity("other", "CA")
        made["ca"].write_bytes(ca.cert_pem)
        made["cert"].write_bytes(mine.cert_pem)
        made["key"].write_bytes(mine.key_pem)
        made["own"].write_bytes(other.cert_pem + other.key_pem)
        path = Path(self.mktemp())
        text = "[[remote]]\naet = 'PACS'\nhost = '192.0.2.7'\nport = 2762\ntls = true\n"
        config = f"--config={path}"
        path.write_text(text)
        self.assertEqual(self.peer(config, "PACS").tls, TLS())
        files = {name: made[name] for name in ("ca", "cert", "key")}
        path.write_text(text + "".join(f"tls-{name} = '{file}'\n" for name, file in files.items()))
        for words in ([], ["--tls"]):
            self.assertEqual(self.peer(config, "PACS", *words).tls, TLS(**files))
        self.assertEqual(self.peer(config, "PACS", "--tls-no-verify").tls, TLS(**files, verify=False))
        own = self.peer(config, "PACS", f"--tls-cert={made['own']}").tls
        self.assertEqual(own, TLS(ca=made["ca"], cert=made["own"]))
        made["ca"].unlink()
        self.assertIn(f"{made['ca']}: No such file", self.fault(config, "PACS"))

    def test_pins_of_a_remote(self) -> None:
        """A remote known by its fingerprint is verified by that, unless the command line says otherwise."""
        ca, path, pin = Path(self.mktemp()), Path(self.mktemp()), "ab" * 32
        ca.write_bytes(identity("CA").cert_pem)
        path.write_text(
            f"[[remote]]\naet = 'PACS'\nhost = 'h'\nport = 1\ntls = true\ntls-sha256 = ['{pin}']\n"
        )
        config = f"--config={path}"
        for words, expected in (
            ([], TLS(pins=[pin])),
            (["--tls"], TLS(pins=[pin])),
            ([f"--tls-ca={ca}"], TLS(ca=ca)),
            (["--tls-no-verify"], TLS(verify=False)),
        ):
            self.assertEqual(self.peer(config, "PACS", *words).tls, expected)

    def test_passcode_of_a_remote(self) -> None:
        """The passcode that a remote's settings hold does not go to whoever answers."""
        path, pin = Path(self.mktemp()), "ab" * 32
        path.write_text(
            f"[[remote]]\naet = 'PACS'\nhost = 'h'\nport = 1\ntls = true\ntls-sha256 = ['{pin}']\n"
            "user = 'me'\npassword-file = 'passcode'\n"
        )
        config = f"--config={path}"
        self.assertEqual(self.peer(config, "PACS").tls, TLS(pins=[pin]))
        said = self.fault(config, "PACS", "--tls-no-verify")
        self.assertEqual(
            said,
            "--tls-no-verify: anybody could get the passcode that is for PACS; say with --user who we are "
            "instead",
        )
        peer = self.peer(config, "PACS", "--tls-no-verify", "--user=guest")
        self.assertEqual(peer.user_identity, UserIdentity.username("guest"))

    def test_tls_options_alone(self) -> None:
        """Options of TLS without TLS are a fault, for nothing would be encrypted."""
        for option in ("--tls-ca=x", "--tls-cert=x", "--tls-key=x", "--tls-no-verify"):
            self.assertEqual(self.fault("localhost:104", option), f"{option.removesuffix('=x')} needs --tls")

    def test_what_cannot_be_proposed(self) -> None:
        """More contexts than an association can have are a fault, too."""
        contexts = [f"1.2.{at}" for at in range(129)]
        fault = self.assertRaises(Fault, self.peer("localhost:104").associate, contexts)
        self.assertEqual(str(fault), "129 presentation contexts; 1 to 128 are possible")


class UserTests(SynchronousTestCase):
    """Who we are."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_bytes(b"ses ame\r\nmore\n")

    def user(self, *words: str) -> UserIdentity | None:
        with heard() as (_, self.said):
            return peer_of(parser().parse_args(["echo", "localhost:104", *words])).user_identity

    def test_user(self) -> None:
        """A name alone has no proof, with a file the passcode is its first line; by default we are nobody."""
        passcode = f"--password-file={self.path}"
        self.assertIsNone(self.user())
        self.assertEqual(self.user("--user=alice"), UserIdentity.username("alice"))
        self.assertEqual(self.said.getvalue(), "")
        expected = UserIdentity.username_and_passcode("alice", b"ses ame")
        self.assertEqual(self.user("--user=alice", passcode), expected)
        self.assertIn("the passcode goes over a connection without TLS", self.said.getvalue())
        self.assertEqual(self.user("--user=alice", passcode, "--tls", "--tls-no-verify"), expected)
        self.assertEqual(self.said.getvalue(), "")
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ses ame\n")))
        self.assertEqual(self.user("--user=alice", "--password-file", "-"), expected)

    def test_faults(self) -> None:
        """What is missing is told in one line, and never the passcode."""
        empty = Path(self.mktemp())
        empty.write_text("\n")
        for words, said in (
            ([f"--password-file={self.path}"], "--password-file needs --user"),
            (["--user="], "--user: a username without proof cannot be empty"),
            (["--user=alice", f"--password-file={empty}"], f"the first line of {empty} is empty"),
        ):
            self.assertIn(said, str(self.assertRaises(Fault, self.user, *words)))
        self.assertRaises(FileNotFoundError, self.user, "--user=alice", "--password-file=/nowhere")
