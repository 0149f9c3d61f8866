"""Audit messages inside syslog messages, their framing, and where they are sent."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.audit.syslog import LONGEST_DATAGRAM, Entry, datagram, frame, line, syslog_message
from dicomtw.security.audit.target import Target
from tests.security.audit.test_events import HOSTILE, MESSAGES

BOM = b"\xef\xbb\xbf"


class MessageTests(SynchronousTestCase):
    def test_header(self) -> None:
        """RFC 5424 with what PS3.15 A.6 says of PRI and MSGID, and the XML behind a byte order mark."""
        message = MESSAGES["received"]
        said = syslog_message(Entry.of(message, "4711"), "server.example")
        header, _, xml = said.partition(BOM)
        expected = "<85>1 2026-11-23T15:05:54.123+00:00 server.example dicomtw 4711 DICOM+RFC3881 - "
        self.assertEqual(header.decode("ascii"), expected)
        self.assertEqual(xml.decode("utf-8"), message.xml())

    def test_severity(self) -> None:
        """Notice for what succeeds, warning for what does not."""
        for name, pri in (
            ("login", b"<85>"),
            ("no login", b"<84>"),
            ("alert", b"<84>"),
            ("not sent", b"<84>"),
        ):
            self.assertTrue(syslog_message(Entry.of(MESSAGES[name], "1"), "h").startswith(pri), name)

    def test_odd_names(self) -> None:
        """A host name and a process that the header has no place for do not break it."""
        said = syslog_message(Entry.of(MESSAGES["login"], "a b\n"), "höst name\r\n" + "x" * 300)
        fields = said.partition(BOM)[0].split(b" ")
        self.assertEqual(len(fields), 8)
        self.assertEqual((fields[2][:11], len(fields[2]), fields[4]), (b"h_st_name__", 255, b"a_b_"))
        said = syslog_message(Entry.of(MESSAGES["login"], ""), "")
        self.assertEqual(said.split(b" ")[2:5], [b"-", b"dicomtw", b"-"])

    def test_entries(self) -> None:
        """What waits on disk comes back as it was."""
        for name, message in MESSAGES.items():
            entry = Entry.of(message, "4711")
            self.assertEqual(Entry.decode(entry.encode()), entry, name)
        for wrong in (b"", b"5", b"5 a b", b"x a b c", b"5 a b \xff"):
            self.assertRaises(ValueError, Entry.decode, wrong)

    def test_line(self) -> None:
        """In a file a message is a line, and the XML alone."""
        said = line(Entry.of(MESSAGES["alert"], "1"))
        self.assertEqual(said, MESSAGES["alert"].xml().encode() + b"\n")


class FramingTests(SynchronousTestCase):
    def test_octet_counting(self) -> None:
        """RFC 5425: the length in octets, not characters."""
        self.assertEqual(frame("ä".encode()), b"2 \xc3\xa4")
        self.assertEqual(frame(b"<85>1 x"), b"7 <85>1 x")

    def test_datagram(self) -> None:
        """RFC 5426: a message that is too long is cut between characters, and it is known by how much."""
        self.assertEqual(datagram(b"12345", 5), (b"12345", 0))
        self.assertEqual(datagram(b"123456", 5), (b"12345", 1))
        for character in ("ä", "€", "\U0001f600"):
            data = f"12{character}{character}".encode()
            for longest in range(2, len(data)):
                kept, missing = datagram(data, longest)
                self.assertEqual(len(kept) + missing, len(data))
                self.assertLessEqual(len(kept), longest)
                kept.decode("utf-8")
        self.assertEqual(len(datagram(bytes(70_000))[0]), LONGEST_DATAGRAM)


class TargetTests(SynchronousTestCase):
    def test_targets(self) -> None:
        """A file, or a host with a port or with the one of its kind."""
        for text, target, words in (
            ("file:audit.xml", Target("file", Path("audit.xml")), "file:audit.xml"),
            ("file:/var/log/a:b", Target("file", Path("/var/log/a:b")), "file:/var/log/a:b"),
            ("udp:log", Target("udp", None, "log", 514), "udp:log:514"),
            ("udp:192.0.2.1:1514", Target("udp", None, "192.0.2.1", 1514), "udp:192.0.2.1:1514"),
            ("tls:log.example", Target("tls", None, "log.example", 6514), "tls:log.example:6514"),
            ("tls:log.example:65535", Target("tls", None, "log.example", 65535), "tls:log.example:65535"),
            ("tls:[2001:db8::1]", Target("tls", None, "2001:db8::1", 6514), "tls:[2001:db8::1]:6514"),
            ("udp:[2001:db8::1]:1", Target("udp", None, "2001:db8::1", 1), "udp:[2001:db8::1]:1"),
        ):
            self.assertEqual(Target.parse(text), target)
            self.assertEqual(str(target), words)

    def test_faults(self) -> None:
        """What is neither is refused."""
        for text in (
            *(
                "",
                "x",
                "file",
                "file:",
                "file:a\0b",
                "udp:",
                "tls",
                "tcp:a",
                "udp:a:",
                "udp:a:0",
                "udp:a:65536",
            ),
            *("udp:a:x", "tls:::1", "tls:[::1", "tls:[a]", "tls:[::1]x", "tls:[::1]:", "tls: a", "tls:a/b"),
            *("udp:a@b", "udp::514", "udp:hö", "udp:a:\u0661", HOSTILE),
        ):
            self.assertRaises(ValueError, Target.parse, text)
