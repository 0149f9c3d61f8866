"""A peer with a plain socket, and words for what it sees."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Collection, Iterable
from itertools import groupby
from struct import unpack_from

import attrs

_NAMES = {0x01: "A-ASSOCIATE-RQ", 0x05: "RELEASE-RQ", 0x06: "RELEASE-RP"}
_REQUESTS = {0x0001: "C-STORE-RQ", 0x0100: "N-EVENT-REPORT-RQ"}
_PENDING = (0xFF00, 0xFF01)


class Ended(Exception):
    """Nothing more comes: "closed", "reset" or "silence"."""


@attrs.frozen
class Answer:
    """A PDU, or a whole message (`kind` 04H), that the server has sent."""

    kind: int
    body: bytes = b""
    command: dict[int, bytes] = attrs.field(factory=dict)

    @property
    def ends(self) -> bool:
        """Whether there is no association any more."""
        return self.kind in (0x03, 0x06, 0x07)

    @property
    def pending(self) -> bool:
        """Whether it is a response that is followed by another."""
        return self.number(0x0900) in _PENDING

    def number(self, tag: int) -> int | None:
        """A command element of VR US."""
        value = self.command.get(tag, b"")
        return int.from_bytes(value, "little") if len(value) == 2 else None

    # -- A-ASSOCIATE-AC (PS3.8 9.3.3)

    @property
    def results(self) -> dict[int, int]:
        """Result by presentation context ID."""
        return {body[0]: body[2] for kind, body in _items(self.body[68:]) if kind == 0x21}

    @property
    def transfer_syntaxes(self) -> dict[int, str]:
        """Transfer syntax by presentation context ID."""
        found = {}
        for kind, body in _items(self.body[68:]):
            if kind == 0x21:
                names = [name for sub, name in _items(body[4:]) if sub == 0x40]
                found[body[0]] = b"".join(names).decode("latin-1").rstrip("\0")
        return found

    def sub_item(self, wanted: int) -> bytes | None:
        """A sub-item of the user information."""
        for kind, body in _items(self.body[68:]):
            if kind == 0x50:
                for sub, value in _items(body):
                    if sub == wanted:
                        return value
        return None

    def words(self, details: Collection[int] = ()) -> str:
        """In the words of the tables: ``AC 1:0``, ``RJ(1,1,7)``, ``AB(2,6)``, ``0000H``.

        `details` are the sub-items that an AC is looked at for, 40H standing for the transfer syntaxes.
        """
        if self.kind == 0x02:
            said = [" ".join(("AC", *(f"{number}:{result}" for number, result in self.results.items())))]
            numbers = list(self.results)
            if len(numbers) > 8 and len(set(self.results.values())) == 1:
                said = [f"AC {numbers[0]} to {numbers[-1]}, {len(numbers)} x {self.results[numbers[0]]}"]
            for kind in details:
                value = (
                    " ".join(self.transfer_syntaxes.values()) if kind == 0x40 else self._sub_item_words(kind)
                )
                said.append(value)
            return ", ".join(said)
        if self.kind == 0x03:
            return f"RJ({self.body[1]},{self.body[2]},{self.body[3]})"
        if self.kind == 0x07:
            return f"AB({self.body[2]},{self.body[3]})"
        if self.kind != 0x04:
            return _NAMES.get(self.kind, f"PDU {self.kind:02X}H")
        status, failed = self.number(0x0900), self.number(0x1022)
        if status is None:
            field = self.number(0x0100)
            return _REQUESTS.get(field or 0, f"command {field or 0:04X}H")
        if self.pending:
            return "matches"
        return f"{status:04X}H" + (f" {failed} failed" if failed else "")

    def _sub_item_words(self, kind: int) -> str:
        value = self.sub_item(kind)
        if value is None:
            return f"no {kind:02X}H"
        return f"{kind:02X}H" + (f" {value[-2]}/{value[-1]}" if kind == 0x54 else "")


def _items(data: bytes) -> Iterable[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        kind, length = unpack_from(">BxH", data, at)
        yield kind, data[at + 4 : at + 4 + length]
        at += 4 + length


def _elements(data: bytes) -> dict[int, bytes]:
    """The elements of a command set, by element number."""
    found, at = {}, 0
    while at + 8 <= len(data):
        _, number, length = unpack_from("<HHL", data, at)
        found[number] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def sentence(words: Iterable[str]) -> str:
    """What was seen, one after the other; what is seen again and again is counted."""
    said = []
    for word, same in groupby(words):
        number = len(list(same))
        said.append(word if number == 1 or word == "matches" else f"{number} x {word}")
    return ", ".join(said) or "nothing"


class Peer:
    """A connection to a server. What the server does to it is seen in the answers, never in `send`."""

    def __init__(self, address: tuple[str, int], patience: float, buffer: int = 0, source: str = "") -> None:
        """`patience`: seconds until it is "silence"; `buffer`: what may come before we read, in bytes.

        `source` is the address of this machine that the connection is made from.
        """
        self._socket = socket.socket()
        self._socket.settimeout(patience)
        try:
            if source:
                self._socket.bind((source, 0))
            if buffer:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self._socket.connect(address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self._socket.close()
            raise
        self.patience = patience
        self.began = time.monotonic()
        self.is_open = True
        self._received = bytearray()
        #: The longest P-DATA-TF that came, in bytes.
        self.longest = 0

    def send(self, data: bytes) -> bool:
        """Send all; False if the server takes no more of it."""
        self._socket.settimeout(self.patience)
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def answer(self, patience: float | None = None) -> Answer:
        """The next PDU or message; raises `Ended`."""
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        command, data_set_due, body = b"", False, b""
        while True:
            kind, content = self._pdu(deadline)
            if kind != 0x04:
                return Answer(kind, content)
            self.longest = max(self.longest, len(content))
            at = 0
            while at + 6 <= len(content):
                length, _, head = unpack_from(">LBB", content, at)
                fragment = content[at + 6 : at + 4 + length]
                at += 4 + length
                if not head & 1:
                    body += fragment
                else:
                    command += fragment
                    if head & 2:
                        data_set_due = _elements(command).get(0x0800) != b"\1\1"
                if head & 2 and not (head & 1 and data_set_due):
                    return Answer(kind, body, _elements(command))

    def closed_after(self, seconds: float) -> float | None:
        """When, in seconds after it was opened, the connection is closed; None if not within so many."""
        try:
            while True:
                self._pdu(self.began + seconds)
        except Ended as end:
            return None if str(end) == "silence" else time.monotonic() - self.began

    def finish(self) -> None:
        """Send no more (FIN), but go on reading."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is closed, which will be read

    def is_cut(self, seconds: float) -> bool:
        """Whether the server cuts the connection off within so many seconds, in which nothing is read."""
        poll = select.poll()
        poll.register(self._socket, 0)  # POLLHUP and POLLERR are always told
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        self.is_open = False
        self._socket.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def _pdu(self, deadline: float) -> tuple[int, bytes]:
        self._fill(6, deadline)
        kind, length = unpack_from(">BxL", self._received)
        self._fill(6 + length, deadline)
        body = bytes(self._received[6 : 6 + length])
        del self._received[: 6 + length]
        return kind, body

    def _fill(self, length: int, deadline: float) -> None:
        while len(self._received) < length:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise Ended("silence")
            self._socket.settimeout(remaining)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise Ended("silence") from None
            except OSError:
                self.is_open = False
                raise Ended("reset") from None
            if not data:
                self.is_open = False
                raise Ended("closed")
            self._received += data
