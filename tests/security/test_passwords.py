"""Files of users and their passcodes."""

from __future__ import annotations

import hashlib
import os
import stat
from base64 import b64decode
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security import passwords
from dicomtw.security.passwords import Hashed, hashed, nobodys, put, read

#: Quick to check: nothing here is about how hard it is.
SALT, KEY = "c2FsdHNhbHQ=", "a2V5a2V5a2V5a2V5a2V5aw=="
QUICK = f"scrypt$2$1$1${SALT}${KEY}"


def quick(passcode: bytes) -> Hashed:
    key = hashlib.scrypt(passcode, salt=b"saltsalt", n=2, r=1, p=1, dklen=32)
    return Hashed(2, 1, 1, b"saltsalt", key)


class HashedTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """A passcode matches what was made of it, as it is written in the file, and no other one does."""
        one = hashed(b"sesame")
        self.assertEqual(Hashed.parse(str(one)), one)
        self.assertTrue(one.matches(b"sesame"))
        self.assertFalse(one.matches(b"Sesame"))
        self.assertNotEqual(hashed(b"sesame").salt, one.salt)
        self.assertGreaterEqual(128 * one.n * one.r, 1 << 25, "it takes 32 MiB at least")

    def test_test_vector(self) -> None:
        """The third test vector of RFC 7914, section 12."""
        key = bytes.fromhex(
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
            "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
        )
        one = Hashed(16384, 8, 1, b"SodiumChloride", key)
        self.assertTrue(Hashed.parse(str(one)).matches(b"pleaseletmein"))

    def test_no_secrets(self) -> None:
        """Neither salt nor hash is in the repr."""
        one = Hashed.parse(QUICK)
        self.assertEqual(repr(one), "Hashed(n=2, r=1, p=1)")

    def test_bad(self) -> None:
        """What is no hash of ours is refused, and what would take the whole machine."""
        self.assertEqual(str(Hashed.parse(QUICK)), QUICK)
        for text in (
            "",
            "sesame",
            "$6$salt$hash",
            f"scrypt$2$1${SALT}${KEY}",
            f"scrypt$x$1$1${SALT}${KEY}",
            f"scrypt$-2$1$1${SALT}${KEY}",
            f"scrypt$3$1$1${SALT}${KEY}",
            f"scrypt$1$1$1${SALT}${KEY}",
            f"scrypt$2$0$1${SALT}${KEY}",
            f"scrypt$2097152$8$1${SALT}${KEY}",
            f"scrypt$2$1$65${SALT}${KEY}",
            f"scrypt$2$1$1$salt!${KEY}",
            f"scrypt$2$1$1$${KEY}",
            f"scrypt$2$1$1${SALT}$",
        ):
            self.assertRaises(ValueError, Hashed.parse, text)
        Hashed.parse(f"scrypt$131072$8$64${SALT}${KEY}")  # at the limits

    def test_words(self) -> None:
        """What is no such line at all is told what one is."""
        for text in ("sesame", "", "$6$salt$hash", f"scrypt$2$1${SALT}${KEY}", f"{QUICK}$"):
            fault = self.assertRaises(ValueError, Hashed.parse, text)
            self.assertEqual(str(fault), "not USER:scrypt$N$R$P$SALT$HASH")

    def test_nobody(self) -> None:
        """Somebody who is not in the file takes as long as the slowest who is."""
        slow = Hashed(1 << 10, 8, 2, b"salt", bytes(16))
        one = nobodys({"a": quick(b"x"), "b": slow})
        self.assertEqual((one.cost, len(one.hash)), (slow.cost, 16))
        self.assertFalse(one.matches(b"x"))
        self.assertEqual(nobodys({}).cost, hashed(b"").cost)


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_read(self) -> None:
        """Users by name; comments and blank lines are passed over, what is wrong is told without its text."""
        self.path.write_text(f"# ours\n\nalice:{QUICK}\n山田:{QUICK}\nbob:sesame\nalice:{QUICK}\ncarol\n")
        users, faults = read(self.path)
        self.assertEqual(list(users), ["alice", "山田"])
        self.assertEqual([fault.partition(" of ")[0] for fault in faults], ["line 5", "line 6", "line 7"])
        self.assertNotIn("sesame", "".join(faults))
        self.assertRaises(FileNotFoundError, read, Path(self.mktemp()))

    def test_put(self) -> None:
        """A user is added or replaced where he stands; all else stays, and nobody else can read the file."""
        self.assertTrue(put(self.path, "alice", quick(b"1")))
        self.path.write_text("# ours\n" + self.path.read_text())
        self.path.chmod(0o644)
        self.assertTrue(put(self.path, "bob", quick(b"2")))
        self.assertFalse(put(self.path, "alice", quick(b"3")))
        text = self.path.read_text()
        self.assertEqual([line.partition(":")[0] for line in text.splitlines()], ["# ours", "alice", "bob"])
        users, faults = read(self.path)
        self.assertEqual(faults, [])
        self.assertEqual((users["alice"].matches(b"3"), users["bob"].matches(b"2")), (True, True))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(len(b64decode(text.splitlines()[1].split("$")[-1])), 32)

    def test_put_elsewhere(self) -> None:
        """What is no file of users stays as it is: an image above all."""
        for content in (b"\0" * 128 + b"DICM", b"root:x:0:0:root:/root:/bin/sh\n", b"bob:sesame\n"):
            path = Path(self.mktemp())
            path.write_bytes(content)
            fault = self.assertRaises(ValueError, put, path, "me", hashed(b"secret"))
            self.assertRegex(str(fault), "^line 1 of .*; nothing is changed$")
            self.assertEqual(path.read_bytes(), content)

    def test_atomic(self) -> None:
        """Whoever has the file open reads the old one; one that cannot be replaced is as it was."""
        put(self.path, "alice", quick(b"1"))
        before = self.path.read_text()
        with open(self.path) as opened:
            put(self.path, "alice", quick(b"2"))
            self.assertEqual(opened.read(), before)
        before = self.path.read_text()

        def fails(*_: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(passwords.os, "replace", fails)
        self.assertRaises(OSError, put, self.path, "bob", quick(b"3"))
        self.assertEqual(self.path.read_text(), before)
        self.assertEqual(
            [name for name in os.listdir(self.path.parent) if self.path.name in name], [self.path.name]
        )

    def test_link(self) -> None:
        """A symbolic link stays one."""
        link = Path(self.mktemp())
        link.symlink_to(self.path.absolute())
        put(self.path, "alice", quick(b"1"))
        put(link, "bob", quick(b"2"))
        self.assertTrue(link.is_symlink())
        self.assertEqual(list(read(self.path)[0]), ["alice", "bob"])

    def test_names(self) -> None:
        """A name that the file, or the item, cannot hold is refused."""
        for name in ("", " alice", "al:ice", "al\nice", "#alice", "al\0ice"):
            self.assertRaises(ValueError, put, self.path, name, quick(b"1"))
        self.assertFalse(self.path.exists())
