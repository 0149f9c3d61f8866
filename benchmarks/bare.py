"""The floor under a C-STORE in Python: what Twisted, and the system calls for a file, take by themselves.

``receiver.c`` once more, as a protocol of Twisted's: it is no DICOM server either, and knows the load
generator's proposals alone. It checks nothing, keeps no index, no log and no journal, and answers with bytes
prepared beforehand. Over TLS it has Twisted's own transport, and what it forces out it does in Twisted's
threads, one file after the other: a mark to compare with, and no proof.

Usage: python -m benchmarks.bare PORT DIRECTORY [--sync] [--tls] [--workers N]
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import socket
from pathlib import Path
from struct import Struct
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from dicomtw.dimse.messages import C_ECHO_RSP, C_STORE_RSP
from dicomtw.dimse.writer import command_pdus
from dicomtw.security.self_signed import make_self_signed
from dicomtw.tls_listening import BACKLOG
from dicomtw.transports import read_much
from dicomtw.ul.items import ContextResult, MaximumLength, PresentationContextAC, UserInformation
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, A_RELEASE_RP, COMMAND, LAST, P_DATA_TF
from dicomtw.wakeful import stay_awake

_LENGTH = Struct(">L")
_FIXED = 74  # bytes of an A-ASSOCIATE PDU before its items (PS3.8 9.3.2)
_ITEMS = A_ASSOCIATE_AC(
    "PMOD",
    "SCU",
    (PresentationContextAC(1, ContextResult.ACCEPTANCE, "1.2.840.10008.1.2.1"),),
    UserInformation((MaximumLength(131072),)),
).encode()[_FIXED:]
_ACCEPTANCE = bytes((2, 0)) + _LENGTH.pack(_FIXED - 6 + len(_ITEMS))
_STORED, _ECHOED = (
    bytes(command_pdus(1, response(message_id_being_responded_to=1, status=0).encode(), 16384))
    for response in (C_STORE_RSP, C_ECHO_RSP)
)
_RELEASED = A_RELEASE_RP().encode()


class Receiver(Protocol):
    """One connection."""

    transport: Any
    factory: Receivers

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0  # of a fragment, in bytes
        self._is_last = False
        self._file = -1
        self._name = ""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        connection = None if self.factory.has_tls else self.transport.socket
        self._write = self.transport.write if connection is None else connection.send
        if connection is not None:
            read_much(self.transport)

    def dataReceived(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        view = memoryview(data)
        parts = []
        at, end = 0, len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                parts.append(view[at : at + step])
                self._left -= step
                at += step
                if not self._left and self._is_last:
                    os.writev(self._file, parts)
                    parts = []
                    self._end()
                continue
            if end - at < 10:
                break
            kind, length = data[at], _LENGTH.unpack_from(data, at + 2)[0]
            if kind == P_DATA_TF.pdu_type and end - at >= 12 and not data[at + 11] & COMMAND:
                if self._file < 0:
                    self._begin()
                self._is_last = bool(data[at + 11] & LAST)
                self._left = length - 6  # one fragment in each PDU, as load.py sends
                at += 12
                continue
            if end - at < 6 + length:
                break
            if kind == P_DATA_TF.pdu_type:
                # Behind group length, Affected SOP Class UID, and the header of Command Field.
                if data[at + 40 + data[at + 28]] == 0x30:
                    self._write(_ECHOED)
            elif kind == A_ASSOCIATE_RQ.pdu_type:
                self._write(_ACCEPTANCE + data[at + 6 : at + _FIXED] + _ITEMS)
            else:
                self._write(_RELEASED)
                self.transport.loseConnection()
            at += 6 + length
        if parts:
            os.writev(self._file, parts)
        if at < end:
            self._rest = data[at:]

    def _begin(self) -> None:
        self._name = self.factory.name()
        self._file = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _end(self) -> None:
        file, self._file = self._file, -1
        if self.factory.syncs:
            deferToThread(self._sync, file, self._name).addCallback(lambda _: self._write(_STORED))
        else:
            os.close(file)
            self._write(_STORED)

    def _sync(self, file: int, name: str) -> None:
        os.fdatasync(file)
        os.close(file)
        os.rename(name, f"{name}.dcm")
        os.fsync(self.factory.directory)


class Receivers(Factory):
    """All connections of one process."""

    noisy = False
    protocol = Receiver  # type: ignore[assignment]

    def __init__(self, directory: Path, syncs: bool, has_tls: bool) -> None:
        self.syncs = syncs
        self.has_tls = has_tls
        self.directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._beginning = f"{directory}/{os.getpid()}."
        self._numbers = itertools.count()

    def name(self) -> str:
        """For another file."""
        return f"{self._beginning}{next(self._numbers)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sync", action="store_true", help="force each file and its name out, in a thread")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    certificate, key = make_self_signed(arguments.directory) if arguments.tls else (None, None)
    listening = socket.create_server(("127.0.0.1", arguments.port), backlog=BACKLOG)
    listening.setblocking(False)
    children: list[int] = []
    for _ in range(arguments.workers - 1):
        child = os.fork()
        if not child:
            children.clear()
            break
        children.append(child)
    # Each process makes a reactor of its own.
    from twisted.internet import reactor as found

    reactor: Any = found
    factory: Any = Receivers(arguments.directory, arguments.sync, arguments.tls)
    if arguments.tls:
        from twisted.internet.ssl import DefaultOpenSSLContextFactory
        from twisted.protocols.tls import TLSMemoryBIOFactory

        factory = TLSMemoryBIOFactory(
            DefaultOpenSSLContextFactory(str(key), str(certificate)), False, factory
        )
    reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, factory)
    for child in children:
        reactor.addSystemEventTrigger("before", "shutdown", os.kill, child, signal.SIGTERM)
    stay_awake(reactor)
    reactor.run()


if __name__ == "__main__":
    main()
