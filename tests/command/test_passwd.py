"""``dicomtw passwd``: users and their passcodes in a file."""

from __future__ import annotations

import getpass
import io
import stat
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.command import passwd, terminal
from dicomtw.command.arguments import parser
from dicomtw.command.exits import Exit, Fault
from dicomtw.security.passwords import read
from tests.command.memory import heard


class PasswdTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.patch(terminal, "verbosity", 0)

    def passwd(self, user: str, said: bytes, *, is_terminal: bool = False) -> str:
        """What the command prints when `said` is its standard input."""
        stdin = io.TextIOWrapper(io.BytesIO(said))
        self.patch(stdin, "isatty", lambda: is_terminal)
        self.patch(sys, "stdin", stdin)
        with heard() as (out, _):
            status = passwd.run(parser().parse_args(["passwd", str(self.path), user]))
        self.assertEqual(status, Exit.WELL)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        return out.getvalue()

    def matches(self, user: str, passcode: bytes) -> bool:
        users, faults = read(self.path)
        self.assertEqual(faults, [])
        return users[user].matches(passcode)

    def test_from_standard_input(self) -> None:
        """The passcode is the first line of standard input; the file has its hash alone."""
        self.assertEqual(self.passwd("alice", b"ses ame\nmore\n"), f"{self.path}: alice is added\n")
        self.assertTrue(self.matches("alice", b"ses ame"))
        self.assertNotIn("ses ame", self.path.read_text())
        self.assertEqual(self.passwd("alice", "Schlüssel\r\n".encode()), f"{self.path}: alice is changed\n")
        self.assertTrue(self.matches("alice", "Schlüssel".encode()))

    def test_at_a_terminal(self) -> None:
        """At a terminal it is asked for twice, and not shown."""
        typed = ["sesame", "sesame"]
        self.patch(getpass, "getpass", lambda prompt: typed.pop())
        self.passwd("alice", b"", is_terminal=True)
        self.assertTrue(self.matches("alice", b"sesame"))
        typed += ["sesame", "other"]
        fault = self.assertRaises(Fault, self.passwd, "alice", b"", is_terminal=True)
        self.assertEqual(str(fault), "the two are not the same")
        self.assertTrue(self.matches("alice", b"sesame"))

    def test_faults(self) -> None:
        """A name that cannot be one, or an empty passcode, is told in one line, and nothing is made."""
        for user, said in (("al:ice", b"x\n"), ("", b"x\n"), ("alice", b"\n"), ("alice", b"")):
            fault = self.assertRaises(Fault, self.passwd, user, said)
            self.assertEqual(len(str(fault).splitlines()), 1)
        fault = self.assertRaises(Fault, self.passwd, "alice", b"\n")
        self.assertEqual(str(fault), "the first line of standard input is empty")
        self.assertFalse(self.path.exists())
