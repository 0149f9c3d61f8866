"""Load that costs its sender little: C-STOREs encoded beforehand, sent without being copied.

A sender is a process of its own, forked from this one. It drives one association with blocking calls, or
many in one loop of epoll; each sends its next request when the last is answered. How long each response
took, and what the sender itself cost in CPU, comes back to whoever asked.
"""

from __future__ import annotations

import itertools
import multiprocessing
import secrets
import select
import socket
import ssl
import struct
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar

import attrs

from benchmarks import objects
from dicomtw import uids
from dicomtw.dimse.messages import C_ECHO_RQ, C_STORE_RQ
from dicomtw.dimse.writer import command_pdus, data_set_pdus, fragment_length
from dicomtw.testing import associate_rq
from dicomtw.ul.pdu import A_RELEASE_RQ

_CONTEXT_ID = 1
#: Stands for the SOP Instance UID, which is of this length in all objects.
_PLACE = "2.25." + "7" * 38
_VERIFICATION = "1.2.840.10008.1.1"
#: What an association of each kind of load is about.
_ABSTRACT_SYNTAXES = {"store": objects.CT_IMAGE_STORAGE, "echo": _VERIFICATION, "associate": _VERIFICATION}
#: (0000,0900) Status, its length and its value.
_STATUS = b"\0\0\0\x09\x02\0\0\0"
_SUCCESS = _STATUS + b"\0\0"
#: What is repeated in large objects, in bytes.
_BLOCK = 1 << 20
#: Buffers given to one sendmsg(2).
_VECTOR = 64
#: Seconds without an answer that end a run.
_PATIENCE = 120

#: Encoded PDUs, to be sent one after the other.
Parts = list[memoryview]
#: Another request, by its number.
Request = Callable[[int], Parts]


class Association:
    """One association, on a blocking socket."""

    def __init__(
        self, port: int, called: str, abstract_syntax: str, tls: ssl.SSLContext | None = None
    ) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(None)  # for the kernel waits at less cost than Python does
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            plain.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _PATIENCE, 0))
        self.socket = plain if tls is None else tls.wrap_socket(plain)
        self._is_plain = tls is None
        self._received = b""
        proposal = associate_rq(
            {_CONTEXT_ID: (abstract_syntax, uids.EXPLICIT_VR_LITTLE_ENDIAN)}, called=called, calling="SCU"
        )
        self.socket.sendall(proposal.encode())
        if self._pdu()[0] != 0x02:
            raise ConnectionError("no A-ASSOCIATE-AC")

    def receive(self) -> bytes | None:
        """What has come of a PDU, read once; the PDU as soon as it is complete."""
        chunk = self.socket.recv(4096)
        if not chunk:
            raise ConnectionError("closed by the server")
        pdu = self._received = self._received + chunk
        if len(pdu) < 6 or len(pdu) < 6 + int.from_bytes(pdu[2:6], "big"):
            return None
        self._received = b""
        return pdu

    def _pdu(self) -> bytes:
        while (pdu := self.receive()) is None:
            pass
        return pdu

    def send(self, parts: Parts) -> None:
        """Send a request and wait for its response, which is to be 0000H."""
        if self._is_plain:
            sending = Sending(self.socket, parts)
            while not sending.go_on():
                pass
        else:
            for part in parts:
                self.socket.sendall(part)
        judge(self._pdu())

    def release(self) -> None:
        self.socket.sendall(A_RELEASE_RQ().encode())
        self._pdu()
        self.socket.close()


def judge(answer: bytes) -> None:
    """Raise `ConnectionError` for all but the response 0000H."""
    if answer[0] != 0x04 or _SUCCESS not in answer:
        raise ConnectionError(f"not answered with 0000H but {answer[:200].hex()}")


class Sending:
    """A request of which a part may have been sent."""

    __slots__ = ("_at", "_parts", "_socket")

    def __init__(self, to: socket.socket, parts: Parts) -> None:
        self._socket = to
        self._parts = parts.copy()
        self._at = 0

    def go_on(self) -> bool:
        """Whether all is sent; if not, the socket has taken what it could."""
        parts = self._parts
        sent = self._socket.sendmsg(parts[self._at : self._at + _VECTOR])
        while sent and sent >= len(parts[self._at]):
            sent -= len(parts[self._at])
            self._at += 1
        if sent:
            parts[self._at] = parts[self._at][sent:]
        return self._at == len(parts)


class Message:
    """A C-STORE of a CT image, encoded; its SOP Instance UID is written into it for each object.

    What comes after the UID is shared by all objects, and is one block again and again in a large one.
    """

    def __init__(self, pixels: int, pdu: int) -> None:
        study, series = objects.new_uid(), objects.new_uid()
        request = C_STORE_RQ(
            affected_sop_class_uid=objects.CT_IMAGE_STORAGE,
            affected_sop_instance_uid=_PLACE,
            message_id=1,
            priority=0,
        )
        head = objects.ct_head(_PLACE, study, series, 1, pixels)
        step = fragment_length(pdu)
        rest = max(0, len(head) + pixels - step)  # after the first PDU of the data set
        full, short = divmod(rest, step)
        if rest and not short:
            full, short = full - 1, step
        first = (head + bytes(min(pixels, step)))[:step]
        beginning = command_pdus(_CONTEXT_ID, request.encode(), pdu)
        beginning += data_set_pdus(_CONTEXT_ID, first, pdu, last=not rest)
        place = _PLACE.encode()
        self._places = beginning.index(place), beginning.rindex(place)
        end = self._places[1] + len(place)
        self._beginning = beginning[:end]
        at_once = max(1, _BLOCK // step)
        blocks, more = divmod(full, at_once)
        tail = beginning[end:]
        if more:
            tail += data_set_pdus(_CONTEXT_ID, bytes(more * step), pdu, last=False)
        self._rest = [memoryview(tail)]
        if blocks:
            block = memoryview(data_set_pdus(_CONTEXT_ID, bytes(at_once * step), pdu, last=False))
            self._rest += [block] * blocks
        if rest:
            self._rest.append(memoryview(data_set_pdus(_CONTEXT_ID, bytes(short), pdu)))
        self._token = secrets.randbelow(10**9)

    def of(self, number: int) -> Parts:
        """The message of another object."""
        uid = f"2.25.1{self._token:09d}{number:028d}".encode()
        beginning = bytearray(self._beginning)
        for place in self._places:
            beginning[place : place + len(uid)] = uid
        return [memoryview(beginning), *self._rest]


def _echo() -> Request:
    request = C_ECHO_RQ(affected_sop_class_uid=_VERIFICATION, message_id=1)
    parts = [memoryview(command_pdus(_CONTEXT_ID, request.encode(), 0))]
    return lambda _: parts


@attrs.frozen
class Result:
    """What a run has shown."""

    #: From the first request to the last response.
    seconds: float
    #: Seconds, of each response, sorted.
    latencies: list[float]
    #: Of the senders, from the first request to the last response.
    cpu_seconds: float

    def percentile_ms(self, percent: int) -> float:
        return self.latencies[min(len(self.latencies) - 1, len(self.latencies) * percent // 100)] * 1000


def _nothing() -> None:
    pass


@attrs.frozen
class Load:
    """What one run is to send: `count` times on each of a number of associations."""

    kind: str
    count: int
    associations: int = 1
    pixels: int = objects.CT_PIXELS
    pdu: int = 16384
    tls: bool = False

    @property
    def total(self) -> int:
        return self.count * self.associations

    def run(self, port: int, called: str = "PMOD", watch: Callable[[], None] = _nothing) -> Result:
        """Send it all; `watch` is called when all associations are there, and when all is answered.

        Raises `RuntimeError` if that fails.
        """
        # TLS is work of its own, and goes on in as many processes; epoll is for the rest.
        each = self.associations if not self.tls and self.kind != "associate" else 1
        senders = [_Process(self, each, port, called) for _ in range(self.associations // each)]
        try:
            for sender in senders:
                sender.expect(float)  # is ready
            watch()
            for sender in senders:
                sender.pipe.send("go")
            results = [sender.expect(_Sent) for sender in senders]
            watch()
            for sender in senders:
                sender.pipe.send("release")
        finally:
            for sender in senders:
                sender.end()
        return Result(
            max(sent.ended for sent in results) - min(sent.began for sent in results),
            sorted(latency for sent in results for latency in sent.latencies),
            sum(sent.cpu_seconds for sent in results),
        )


T = TypeVar("T")


@attrs.frozen
class _Sent:
    """What one sender has to say; moments are of `time.monotonic`."""

    began: float
    ended: float
    latencies: list[float]
    cpu_seconds: float


class _Process:
    """A sender."""

    def __init__(self, load: Load, associations: int, port: int, called: str) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, there = context.Pipe()
        self._process = context.Process(target=_send, args=(load, associations, port, called, there))
        self._process.start()
        there.close()

    def expect(self, kind: type[T]) -> T:
        try:
            said = self.pipe.recv()
        except EOFError:
            said = "a sender has ended"
        if not isinstance(said, kind):
            raise RuntimeError(said)
        return said

    def end(self) -> None:
        self.pipe.close()
        self._process.join(_PATIENCE)  # it releases its associations
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _send(load: Load, count: int, port: int, called: str, pipe: Connection) -> None:
    """The life of a sender."""
    try:
        tls = None
        if load.tls:
            tls = ssl.create_default_context()
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        open_one = partial(Association, port, called, _ABSTRACT_SYNTAXES[load.kind], tls)
        opened = [] if load.kind == "associate" else [open_one() for _ in range(count)]
        request = Message(load.pixels, load.pdu).of if load.kind == "store" else _echo()
        pipe.send(time.monotonic())
        pipe.recv()
        cpu, began = time.process_time(), time.monotonic()
        if load.kind == "associate":
            latencies = [_visit(open_one, request(number)) for number in range(load.count)]
        elif len(opened) == 1:
            latencies = [_one(opened[0], request(number)) for number in range(load.count)]
        else:
            latencies = _all(opened, request, load.count)
        ended = time.monotonic()
        cpu = time.process_time() - cpu
        pipe.send(_Sent(began, ended, latencies, cpu))
        pipe.recv()
        for association in opened:
            association.release()
    except EOFError:
        pass  # another sender has failed, and nobody waits for this one
    except Exception:
        pipe.send(traceback.format_exc())


def _one(association: Association, parts: Parts) -> float:
    began = time.monotonic()
    association.send(parts)
    return time.monotonic() - began


def _visit(open_one: Callable[[], Association], parts: Parts) -> float:
    """An association with one request in it, from connection to release."""
    began = time.monotonic()
    association = open_one()
    association.send(parts)
    association.release()
    return time.monotonic() - began


def _all(opened: Sequence[Association], request: Request, count: int) -> list[float]:
    """`count` requests on each association, each as soon as that before it is answered."""
    latencies = []
    poll = select.epoll()
    by_fd = {association.socket.fileno(): association for association in opened}
    numbers = itertools.count()
    left = dict.fromkeys(by_fd, count)
    began: dict[int, float] = {}
    under_way: dict[int, Sending] = {}

    def begin(fd: int) -> None:
        began[fd] = time.monotonic()
        go_on(fd, Sending(by_fd[fd].socket, request(next(numbers))))

    def go_on(fd: int, sending: Sending) -> None:
        if sending.go_on():
            if under_way.pop(fd, None) is not None:
                poll.modify(fd, select.EPOLLIN)
        elif under_way.setdefault(fd, sending) is sending:
            poll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    for fd, association in by_fd.items():
        association.socket.setblocking(False)
        poll.register(fd, select.EPOLLIN)
    for fd in by_fd:
        begin(fd)
    while left:
        events = poll.poll(_PATIENCE)
        if not events:
            raise TimeoutError(f"no answer for {_PATIENCE} s")
        for fd, event in events:
            if event & select.EPOLLOUT:
                go_on(fd, under_way[fd])
            if event & ~select.EPOLLOUT:
                answer = by_fd[fd].receive()
                if answer is None:
                    continue
                judge(answer)
                latencies.append(time.monotonic() - began[fd])
                left[fd] -= 1
                if left[fd]:
                    begin(fd)
                else:
                    del left[fd]
    for association in opened:
        association.socket.setblocking(True)
    return latencies
