"""dicomtw.command.journal: what has arrived is not sent again, and nothing else is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.command.exits import Fault
from dicomtw.command.files import Found
from dicomtw.command.journal import Journal
from dicomtw.command.peer import Peer
from tests.command.memory import CT, peer_named

FILE = Found("/data/ct.dcm", 1234, 5678, CT, "1.2.3", "1.2.840.10008.1.2.1")


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def journal(self, peer: Peer | None = None) -> Journal:
        journal = Journal(self.path, peer or peer_named())
        self.addCleanup(journal.close)
        return journal

    def arrived(self, file: Found, peer: Peer | None = None) -> bool:
        return self.journal(peer).arrived(file.path, file.size, file.mtime_ns)

    def test_line(self) -> None:
        """An object is one line of JSON, which says what arrived where, and only its owner may read it."""
        self.journal().add(FILE)
        (line,) = self.path.read_text("ascii").splitlines()
        self.assertEqual(
            json.loads(line),
            {
                "aet": "PMOD",
                "host": "localhost",
                "port": 4030,
                "sop_instance_uid": "1.2.3",
                "path": "/data/ct.dcm",
                "size": 1234,
                "mtime_ns": 5678,
            },
        )
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_arrived(self) -> None:
        """What was added has arrived for whoever opens the journal later."""
        self.assertFalse(self.arrived(FILE))
        self.journal().add(FILE)
        self.assertTrue(self.arrived(FILE))

    def test_changed(self) -> None:
        """A file of another size or time, or at another peer, has not arrived."""
        self.journal().add(FILE)
        for other in (
            attrs.evolve(FILE, size=1235),
            attrs.evolve(FILE, mtime_ns=5679),
            attrs.evolve(FILE, path="/data/other.dcm"),
        ):
            self.assertFalse(self.arrived(other))
        for peer in (peer_named("OTHER"), peer_named(host="elsewhere"), peer_named(port=104)):
            self.assertFalse(self.arrived(FILE, peer))

    def test_names(self) -> None:
        """File names may be any bytes."""
        named = attrs.evolve(FILE, path=os.fsdecode(b"/data/\xff\xfeM\xc3\xbcller\n.dcm"))
        self.journal().add(named)
        self.assertTrue(self.arrived(named))

    def test_cut_off(self) -> None:
        """A last line that is not whole is passed over, and the next one begins a line of its own."""
        self.journal().add(FILE)
        self.path.write_bytes(self.path.read_bytes() + b'{"aet": "PMOD", "ho')
        other = attrs.evolve(FILE, path="/data/mr.dcm")
        self.journal().add(other)
        self.assertTrue(self.arrived(FILE))
        self.assertTrue(self.arrived(other))

    def test_no_entries(self) -> None:
        """Lines that are none of ours do not count, nor do they harm."""
        self.journal().add(FILE)
        lines = b'\n[]\n7\n{}\n"aet"\n{"aet": "PMOD", "host": "localhost", "port": 4030, "path": []}\n\xff\n'
        self.path.write_bytes(lines + self.path.read_bytes())
        self.assertTrue(self.arrived(FILE))

    def test_unusable(self) -> None:
        """A journal that cannot be opened or written to is a fault that names it."""
        self.assertIn("Is a directory", str(self.assertRaises(Fault, Journal, Path(), peer_named())))
        journal = Journal(Path("/dev/full"), peer_named())
        self.addCleanup(journal.close)
        fault = self.assertRaises(Fault, journal.add, FILE)
        self.assertEqual(str(fault), "cannot write to the journal /dev/full: No space left on device")
