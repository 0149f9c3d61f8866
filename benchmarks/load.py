"""Load that costs its sender little: whole C-STOREs encoded beforehand, of which each is one write.

A process of its own for each association, so that four of them are not held up by one interpreter:
``python -m benchmarks.load --help``. It prints one line of JSON with the seconds that each response took.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from benchmarks import objects
from dicomtw import uids
from dicomtw.dimse.messages import C_ECHO_RQ, C_STORE_RQ, Command
from dicomtw.dimse.writer import command_pdus, data_set_pdus
from dicomtw.testing import associate_rq
from dicomtw.ul.pdu import A_RELEASE_RQ

_CONTEXT_ID = 1
#: Stands for the SOP Instance UID, which is of this length in all objects.
_PLACE = "2.25." + "7" * 38
_VERIFICATION = "1.2.840.10008.1.1"


class Association:
    """One association, on a blocking socket."""

    def __init__(self, port: int, called: str, abstract_syntax: str, tls: ssl.SSLContext | None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = plain if tls is None else tls.wrap_socket(plain)
        self._file = self._socket.makefile("rb", buffering=4096)
        proposal = associate_rq(
            {_CONTEXT_ID: (abstract_syntax, uids.EXPLICIT_VR_LITTLE_ENDIAN)}, called=called, calling="SCU"
        )
        self._socket.sendall(proposal.encode())
        if self._pdu()[0] != 0x02:
            raise ConnectionError("no A-ASSOCIATE-AC")

    def _pdu(self) -> bytes:
        header: bytes = self._file.read(6)
        if len(header) < 6:
            raise ConnectionError("closed by the server")
        pdu: bytes = header + self._file.read(int.from_bytes(header[2:], "big"))
        return pdu

    def send(self, message: bytes | bytearray) -> None:
        """Send a request and wait for its response, which is to be 0000H."""
        self._socket.sendall(message)
        answer = self._pdu()
        if answer[0] != 0x04:
            raise ConnectionError(f"no P-DATA-TF but {answer.hex()}")
        status = Command.decode(answer[12:]).status
        if status != 0:
            raise ConnectionError(f"answered {status:04X}H")

    def release(self) -> None:
        self._socket.sendall(A_RELEASE_RQ().encode())
        self._pdu()
        self._file.close()
        self._socket.close()


class Message:
    """A C-STORE of a CT image, encoded; its SOP Instance UID is written into it for each object."""

    def __init__(self, pixels: int, pdu: int) -> None:
        study, series = objects.new_uid(), objects.new_uid()
        request = C_STORE_RQ(
            affected_sop_class_uid=objects.CT_IMAGE_STORAGE,
            affected_sop_instance_uid=_PLACE,
            message_id=1,
            priority=0,
        )
        data_set = objects.ct_head(_PLACE, study, series, 1, pixels) + bytes(pixels)
        self._bytes = bytearray(
            command_pdus(_CONTEXT_ID, request.encode(), pdu) + data_set_pdus(_CONTEXT_ID, data_set, pdu)
        )
        place = _PLACE.encode()
        first = self._bytes.index(place)
        self._places = first, self._bytes.index(place, first + 1)

    def of(self, number: int) -> bytearray:
        """The message of another object."""
        uid = f"2.25.{os.getpid() % 10**8 + 10**8:09d}{number:029d}".encode()
        for place in self._places:
            self._bytes[place : place + len(uid)] = uid
        return self._bytes


def _stores(arguments: argparse.Namespace, tls: ssl.SSLContext | None) -> Callable[[int], None]:
    association = Association(arguments.port, arguments.called, objects.CT_IMAGE_STORAGE, tls)
    message = Message(arguments.pixels, arguments.pdu)
    return lambda number: association.send(message.of(number))


def _echoes(arguments: argparse.Namespace, tls: ssl.SSLContext | None) -> Callable[[int], None]:
    association = Association(arguments.port, arguments.called, _VERIFICATION, tls)
    request = C_ECHO_RQ(affected_sop_class_uid=_VERIFICATION, message_id=1)
    message = command_pdus(_CONTEXT_ID, request.encode(), 0)
    return lambda _: association.send(message)


def _associations(arguments: argparse.Namespace, tls: ssl.SSLContext | None) -> Callable[[int], None]:
    request = C_ECHO_RQ(affected_sop_class_uid=_VERIFICATION, message_id=1)
    message = command_pdus(_CONTEXT_ID, request.encode(), 0)

    def one(_: int) -> None:
        association = Association(arguments.port, arguments.called, _VERIFICATION, tls)
        association.send(message)
        association.release()

    return one


_KINDS = {"store": _stores, "echo": _echoes, "associate": _associations}


@attrs.frozen
class Load:
    """What one run is to send, `count` times on each of a number of associations."""

    kind: str
    count: int
    associations: int = 1
    pixels: int = objects.CT_PIXELS
    pdu: int = 16384
    tls: bool = False

    def run(self, port: int, called: str = "PMOD") -> tuple[float, list[float]]:
        """Seconds from the first request to the last response, and those of each."""
        command = [sys.executable, "-m", "benchmarks.load", f"--port={port}", f"--called={called}"]
        command += [f"--kind={self.kind}", f"--count={self.count}", f"--pixels={self.pixels}"]
        command += [f"--pdu={self.pdu}", *(["--tls"] if self.tls else [])]
        root = Path(__file__).resolve().parent.parent
        processes = [
            subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(self.associations)
        ]
        results: list[dict[str, Any]] = []
        try:
            for process in processes:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise RuntimeError(f"{self}: a sender has not begun")
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            for process in processes:
                results.append(json.loads(process.communicate(timeout=600)[0]))
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
        seconds = max(one["ended"] for one in results) - min(one["began"] for one in results)
        return seconds, [latency for one in results for latency in one["latencies"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--called", default="PMOD")
    parser.add_argument("--kind", choices=_KINDS, default="store")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--pixels", type=int, default=objects.CT_PIXELS)
    parser.add_argument("--pdu", type=int, default=16384)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()
    tls = None
    if arguments.tls:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    once = _KINDS[arguments.kind](arguments, tls)
    print("ready", flush=True)
    sys.stdin.readline()
    latencies = []
    began = last = time.monotonic()
    for number in range(arguments.count):
        once(number)
        now = time.monotonic()
        latencies.append(now - last)
        last = now
    print(json.dumps({"began": began, "ended": last, "latencies": latencies}))


if __name__ == "__main__":
    main()
