"""What TLS costs: a CT and an association, with it and without, ours and storescp's; and what it must cost.

The floors are of this process and in memory: the records of one CT, in chunks as they come from a socket, are
decrypted and thrown away. Between what TLS adds to a server's CPU and the floor there is what is done beside
decryption: chunks in and out of OpenSSL, calls up the stack, answers. `dicomtw.tls_transport` is measured in
memory, too, beside Twisted's own, with a protocol that does nothing: what it takes more there is that records
are put together, and what it saves is in the server, where each call up the stack has its price.

Usage: python -m benchmarks.tls [--rounds 7] [--scale 1] [--directory DIR]
"""

from __future__ import annotations

import argparse
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from benchmarks import ingest, objects, servers
from benchmarks.load import Load
from benchmarks.pairs import Competitor, Work, measure, median
from benchmarks.servers import NODELAY
from benchmarks.targets import OURS
from dicomtw.security.self_signed import make_self_signed
from dicomtw.security.tls import TLSFiles, client_context, server_context
from dicomtw.tls_transport import TLSFactory

#: What our server reads at a time, in bytes (`dicomtw.transports`).
_CHUNK = 1 << 18
_RECORD = 1 << 14

#: Takes one chunk.
Receive = Callable[[bytes], object]


@attrs.frozen
class Floor:
    """How long the records of one CT take to be decrypted, in ms of CPU; the median."""

    name: str
    suite: str
    milliseconds: float


def works(scale: float = 1.0) -> list[Work]:
    """Each as with TLS; those of plain have loads of their own."""
    plain, over_tls = (ingest.RELAXED,), (ingest.RELAXED, "--tls")
    found = []
    for kind, count, name in (("store", 300, "CT"), ("associate", 150, "associations")):
        loads = [Load(kind, max(2, round(count * scale)), tls=tls) for tls in (True, False)]
        competitors = {
            OURS: Competitor(partial(_ours, *over_tls)),
            "storescp +tls": Competitor(partial(servers.storescp, environment=NODELAY, tls=True)),
            f"{OURS}, plain": Competitor(partial(_ours, *plain), loads[1]),
            "storescp, plain": Competitor(partial(servers.storescp, environment=NODELAY), loads[1]),
        }
        found.append(Work(f"tls-{kind}", f"{name}, 1 at a time, with TLS and without", loads[0], competitors))
    return found


def _ours(*options_and_directory: Any) -> Any:
    *options, directory = options_and_directory
    return servers.dicomtw(directory, *options)


# -- in memory


class _Sender:
    """A client in memory that speaks TLS with `receive` and what `answers` it."""

    def __init__(self, context: SSL.Context) -> None:
        self._connection = SSL.Connection(context, None)
        self._connection.set_connect_state()

    def shake(self, receive: Receive, answers: Callable[[], bytes]) -> str:
        """Shake hands; the cipher suite that is agreed on."""
        for _ in range(4):
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                pass
            try:
                receive(self._connection.bio_read(1 << 16))
            except SSL.WantReadError:
                pass
            answer = answers()
            if answer:
                self._connection.bio_write(answer)
        return self._connection.get_cipher_name() or "none"

    def chunks(self, data: bytes) -> list[bytes]:
        """What is on the wire of it."""
        self._connection.sendall(data)
        said = self._connection.bio_read(2 * len(data))
        return [said[at : at + _CHUNK] for at in range(0, len(said), _CHUNK)]


def _with_pyopenssl(files: TLSFiles) -> tuple[Receive, Callable[[], bytes]]:
    connection = SSL.Connection(server_context(files), None)
    connection.set_accept_state()

    def receive(chunk: bytes) -> None:
        connection.bio_write(chunk)
        try:
            while True:
                connection.recv(_RECORD)
        except SSL.WantReadError:
            pass

    def answers() -> bytes:
        try:
            return connection.bio_read(1 << 16)
        except SSL.WantReadError:
            return b""

    return receive, answers


def _with_stdlib(files: TLSFiles) -> tuple[Receive, Callable[[], bytes]]:
    """The module ssl: written in C, into a buffer that is there."""
    assert files.cert is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_side=True)
    buffer = bytearray(_RECORD)

    def receive(chunk: bytes) -> None:
        incoming.write(chunk)
        try:
            while True:
                connection.read(_RECORD, buffer)
        except ssl.SSLWantReadError:
            pass

    return receive, outgoing.read


def _with_twisted(factory: type[TLSMemoryBIOFactory], files: TLSFiles) -> tuple[Receive, Callable[[], bytes]]:
    """A transport of Twisted's, and a protocol that does nothing."""

    @implementer(IOpenSSLServerConnectionCreator)
    class Creator:
        def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:  # noqa: N802, N803 (Twisted's)
            return SSL.Connection(server_context(files), None)

    wire = StringTransport()
    clock: Any = Clock()
    tls: Any = factory(Creator(), False, Factory.forProtocol(Protocol), clock).buildProtocol(None)
    tls.makeConnection(wire)

    def answers() -> bytes:
        said: bytes = wire.value()
        wire.clear()
        return said

    return tls.dataReceived, answers


def floors(times: int = 200) -> list[Floor]:
    """What decryption alone takes, and what the transports make of it, interleaved."""
    data = bytes(objects.CT_PIXELS)
    with tempfile.TemporaryDirectory() as name:
        cert, key = make_self_signed(Path(name))
        files = TLSFiles(cert=cert, key=key)
        receivers = {
            "module ssl": _with_stdlib(files),
            "pyOpenSSL": _with_pyopenssl(files),
            "dicomtw.tls_transport": _with_twisted(TLSFactory, files),
            "Twisted's own": _with_twisted(TLSMemoryBIOFactory, files),
        }
        client = client_context(TLSFiles())
    senders = {name: _Sender(client) for name in receivers}
    suites = {name: senders[name].shake(*of_name) for name, of_name in receivers.items()}
    taken: dict[str, list[float]] = {name: [] for name in receivers}
    for _ in range(times):
        for name, (receive, _answers) in receivers.items():
            chunks = senders[name].chunks(data)
            began = time.thread_time()
            for chunk in chunks:
                receive(chunk)
            taken[name].append((time.thread_time() - began) * 1000)
    return [Floor(name, suites[name], statistics.median(each)) for name, each in taken.items()]


def rows(rounds: int, directory: Path | None, scale: float = 1.0) -> dict[str, Any]:
    """All figures, as data: of each work those of `pairs.measure`, and the floors."""
    where = directory or Path(tempfile.gettempdir())
    of_works = {
        work.key: {"name": work.name, "figures": measure(work, rounds, where)} for work in works(scale)
    }
    return {"works": of_works, "floors": [attrs.asdict(floor) for floor in floors()]}


def _added(work: Work, figures: dict[str, Any], names: Sequence[str]) -> str:
    """What TLS adds to the CPU of a server."""
    with_tls, without = (median(figures[name], "cpu") for name in names)
    return "" if with_tls is None or without is None else f"{work.key}: {with_tls - without:.3f} ms CPU more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=None, help="where to store (default: temporary)")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many objects")
    arguments = parser.parse_args()
    for work in works(arguments.scale):
        figures = measure(work, arguments.rounds, arguments.directory or Path(tempfile.gettempdir()))
        for line in ingest.lines(work, figures):
            print(line, flush=True)
        for names in ((OURS, f"{OURS}, plain"), ("storescp +tls", "storescp, plain")):
            print(f"  with TLS {names[0]:16} {_added(work, figures, names)}", flush=True)
    for floor in floors():
        print(f"in memory    {floor.name:24} {floor.milliseconds:.3f} ms CPU for a CT   {floor.suite}")


if __name__ == "__main__":
    main()
