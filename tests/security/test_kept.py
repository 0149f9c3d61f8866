"""Files that are read as one user and used as another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.kept import Kept, unreadable


class KeptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("one")
        self.kept = Kept(self.path, self.read)
        self.read_times = 0
        self.is_refused = False

    def read(self, path: Path) -> str:
        if self.is_refused:
            raise PermissionError(13, "Permission denied", str(path))
        self.read_times += 1
        return path.read_text()

    def test_read_once(self) -> None:
        """It is read when it is asked for first, and when it has changed."""
        self.assertEqual([self.kept.current() for _ in range(3)], ["one"] * 3)
        self.assertEqual(self.read_times, 1)
        self.path.write_text("two now")
        self.assertEqual([self.kept.current() for _ in range(3)], ["two now"] * 3)
        self.assertEqual(self.read_times, 2)

    def test_refused(self) -> None:
        """Who can no longer read it, or not even look at it, goes on with what was read; a new one counts."""
        self.kept.current()
        self.is_refused = True
        self.path.write_text("changed")
        self.assertEqual(self.kept.current(), "one")
        self.is_refused = False
        self.assertEqual(self.kept.current(), "changed")

        def stat(_: Path, **more: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        self.patch(Path, "stat", stat)
        self.assertEqual(self.kept.current(), "changed")

    def test_never_read(self) -> None:
        """What could never be read is a fault, and so is a file that is gone."""
        self.is_refused = True
        self.assertRaises(PermissionError, self.kept.current)
        self.is_refused = False
        self.kept.current()
        self.path.unlink()
        self.assertRaises(FileNotFoundError, self.kept.current)


class UnreadableTests(SynchronousTestCase):
    def test_words(self) -> None:
        """A line says which file it is, who cannot read it and why."""
        path = Path(self.mktemp())
        path.touch()
        self.assertEqual(unreadable(path), "")
        path.unlink()
        said = f"{path} cannot be read by user {os.geteuid()} (No such file or directory)"
        self.assertEqual(unreadable(path), said)
