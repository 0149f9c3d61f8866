"""Retrievals of a series of CT slices from our archive, DCMTK's `dcmqrscp` and Orthanc, in turn, in one run.

All hold the same objects, on the same file system. C-GET is asked by a requestor, and C-MOVE sends to a
receiver, that answer each object at once and decode nothing: what is measured is how fast an archive finds,
reads and sends. The files are in the kernel's cache, for any of them. DCMTK and Orthanc run with
``TCP_NODELAY=1``, without which each object costs them 40 ms more.

Usage: python -m benchmarks.retrieve [--slices 500] [--pixels 524288] [--rounds 7] [--pdu 131072]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks import objects, servers
from benchmarks.finder import identifier
from benchmarks.getter import Destination, Getter, Mover, Retrieved
from benchmarks.sender import Sender

#: Peers, and how much faster than them we want to be.
TARGETS = {"dcmqrscp": 1.5, "Orthanc": 3.0}


@attrs.frozen
class Row:
    """What one server made of one kind of work: medians of all rounds, and the CPU time of all of them."""

    work: str
    server: str
    rounds: int
    #: Objects and megabytes (10^6 bytes) in a second.
    rate: float
    megabytes: float
    #: User and system time of the server, in milliseconds for each object.
    cpu_ms: float
    #: From one object to the next, in milliseconds.
    p50_ms: float
    p99_ms: float
    #: Median of our rate over its, round by round; 1 for ours.
    ratio: float


@attrs.frozen
class Sample:
    """What one retrieval took; `cpu` in seconds."""

    retrieved: Retrieved
    cpu: float

    @property
    def rate(self) -> float:
        return self.retrieved.objects / self.retrieved.seconds


@contextmanager
def archives(directory: Path, destination: Destination) -> Iterator[list[servers.Running]]:
    """Ours and those of others that are installed, empty."""
    options = (
        "--durability=relaxed",  # of what is received, before it is measured
        "--accept-any-ae",
        "--allow-retrieve=any",
        f"--remote={destination.aet}@127.0.0.1:{destination.port}",
    )
    destinations = {destination.aet: destination.port}
    starts: dict[str, servers.Start] = {
        "dicomtw": lambda directory: servers.dicomtw(directory, *options),
        "dcmqrscp": lambda directory: servers.dcmqrscp(directory, destinations=destinations),
        "Orthanc": lambda directory: servers.orthanc(directory, destinations=destinations),
    }
    with ExitStack() as running:
        there = []
        for name, start in starts.items():
            if name != "dicomtw" and servers.missing(name):
                print(f"{name}: {servers.missing(name)}")
                continue
            (directory / name).mkdir()
            there.append(running.enter_context(start(directory / name)))
        yield there


def fill(all_servers: Sequence[servers.Running], slices: int, pixels: int) -> bytes:
    """Send the same series to all; the identifier that asks for it."""
    study, series = objects.new_uid(), objects.new_uid()
    uids = [objects.new_uid() for _ in range(slices)]
    pixel_data = bytes(pixels)
    for server in all_servers:
        sender = Sender(server.port)
        for number, uid in enumerate(uids, 1):
            status = sender.store(uid, objects.ct_head(uid, study, series, number, pixels), pixel_data)
            if status != 0:
                raise RuntimeError(f"{server.name} answered a C-STORE with {status:04X}H")
        sender.release()
    return identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)


def _get(server: servers.Running, asked: bytes, pdu: int, _: Destination) -> Sample:
    getter = Getter(server.port, called=server.aet, pdu=pdu)
    return _sample(server, lambda: getter.get(asked), getter.release)


def _move(server: servers.Running, asked: bytes, _: int, destination: Destination) -> Sample:
    mover = Mover(server.port, called=server.aet)
    return _sample(server, lambda: mover.move(asked, destination), mover.release)


def _sample(server: servers.Running, once: Callable[[], Retrieved], release: Callable[[], None]) -> Sample:
    before = server.cpu_seconds()
    retrieved = once()
    cpu = server.cpu_seconds() - before  # while what has been forked for the association is there
    release()
    return Sample(retrieved, cpu)


_RETRIEVALS = {"C-GET": _get, "C-MOVE": _move}


def measure(
    slices: int = 500, pixels: int = objects.CT_PIXELS, rounds: int = 7, pdu: int = 1 << 17
) -> list[Row]:
    """The figures: of each kind of work a row for ours, and one for each peer that is there."""
    destination = Destination(pdu=pdu)
    rows: list[Row] = []
    with ExitStack() as stack:
        stack.callback(destination.close)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        there = stack.enter_context(archives(directory, destination))
        asked = fill(there, slices, pixels)
        for work, retrieve in _RETRIEVALS.items():
            samples: dict[str, list[Sample]] = {server.name: [] for server in there}
            for number in range(-1, rounds):
                for server in there if number % 2 == 0 else reversed(there):
                    sample = retrieve(server, asked, pdu, destination)
                    if (sample.retrieved.objects, sample.retrieved.status) != (slices, 0):
                        raise RuntimeError(f"{server.name} has sent {sample.retrieved}")
                    if number >= 0:  # the first one of each is not what is measured
                        samples[server.name].append(sample)
            rows += _rows(work, samples)
    return rows


def _rows(work: str, samples: dict[str, list[Sample]]) -> Iterator[Row]:
    ours = [sample.rate for sample in samples["dicomtw"]]
    for name, of_server in samples.items():
        rates = [sample.rate for sample in of_server]
        latencies = sorted(each for sample in of_server for each in sample.retrieved.latencies)
        yield Row(
            work,
            name,
            len(of_server),
            statistics.median(rates),
            statistics.median(each.retrieved.bytes / each.retrieved.seconds for each in of_server) / 1e6,
            sum(each.cpu for each in of_server) / sum(each.retrieved.objects for each in of_server) * 1000,
            latencies[len(latencies) // 2] * 1000,
            latencies[len(latencies) * 99 // 100] * 1000,
            statistics.median(mine / its for mine, its in zip(ours, rates, strict=True)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--pixels", type=int, default=objects.CT_PIXELS, help="bytes of each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pdu", type=int, default=1 << 17, help="the longest P-DATA-TF the receiver takes")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file, too")
    arguments = parser.parse_args()
    rows = measure(arguments.slices, arguments.pixels, arguments.rounds, arguments.pdu)
    print(f"{arguments.slices} slices of {arguments.pixels} bytes, P-DATA-TF of {arguments.pdu} bytes")
    print(f"{'':8}{'':10}{'objects/s':>10}{'MB/s':>8}{'CPU ms':>8}{'p50 ms':>8}{'p99 ms':>8}{'ratio':>8}")
    for row in rows:
        print(
            f"{row.work:8}{row.server:10}{row.rate:>10.0f}{row.megabytes:>8.0f}{row.cpu_ms:>8.2f}"
            f"{row.p50_ms:>8.2f}{row.p99_ms:>8.2f}{row.ratio:>8.2f}"
        )
    if arguments.json is not None:
        figures: list[dict[str, Any]] = [attrs.asdict(row) for row in rows]
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
