"""PS3.15 A.6, A.7: audit messages in syslog messages (RFC 5424), over TLS (RFC 5425) and UDP (RFC 5426)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import attrs

from dicomtw.security.audit.message import AuditMessage, Outcome

# RFC 5424 6.2.1
_SECURITY: Final = 10
_WARNING, _NOTICE = 4, 5

#: The payload of a UDP datagram over IPv4, in bytes; IPv6 has room for 20 more.
LONGEST_DATAGRAM: Final = 65507

_BOM: Final = b"\xef\xbb\xbf"
_NOT_PRINTABLE: Final = re.compile("[^!-~]")


@attrs.frozen
class Entry:
    """An audit message as it waits to be sent: what of the syslog header is about the event, and the XML."""

    severity: int
    timestamp: str
    process_id: str
    xml: str

    @classmethod
    def of(cls, message: AuditMessage, process_id: str) -> Entry:
        severity = _NOTICE if message.outcome is Outcome.SUCCESS else _WARNING
        return cls(severity, _timestamp(message.time), _name(process_id, 128), message.xml())

    def encode(self) -> bytes:
        return f"{self.severity} {self.timestamp} {self.process_id} {self.xml}".encode("utf-8", "replace")

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Raises `ValueError`."""
        severity, timestamp, process_id, xml = data.decode("utf-8").split(" ", 3)
        return cls(int(severity), timestamp, process_id, xml)


def syslog_message(entry: Entry, host: str) -> bytes:
    """RFC 5424: header, no structured data, and the XML in UTF-8, as its byte order mark says."""
    header = (
        f"<{_SECURITY * 8 + entry.severity}>1 {entry.timestamp} {_name(host, 255)} dicomtw "
        f"{entry.process_id} DICOM+RFC3881 - "
    )
    return header.encode("ascii") + _BOM + entry.xml.encode()


def frame(message: bytes) -> bytes:
    """RFC 5425 4.3: octet counting."""
    return b"%d %b" % (len(message), message)


def datagram(message: bytes, longest: int = LONGEST_DATAGRAM) -> tuple[bytes, int]:
    """RFC 5426 3.1: one message in a datagram, and how many bytes of it that leaves out; whole characters."""
    if len(message) <= longest:
        return message, 0
    end = longest
    while message[end] & 0xC0 == 0x80:
        end -= 1
    return message[:end], len(message) - end


def line(entry: Entry) -> bytes:
    """The XML alone, as a line of a file."""
    return entry.xml.encode() + b"\n"


def _timestamp(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


def _name(value: str, longest: int) -> str:
    return _NOT_PRINTABLE.sub("_", value)[:longest] or "-"
