"""Servers to measure: ours and the peers found on this machine, each a process on a free port of loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

_START = 20.0  # seconds for a server to listen
#: Where Debian has it.
ORTHANC = "/usr/sbin/Orthanc"


@attrs.frozen
class Running:
    """A server that listens."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        """User and system time of the process and its ended children so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")

    def resident_kib(self) -> int:
        """Resident memory now."""
        return self._status("VmRSS")

    def peak_kib(self) -> int:
        """The most resident memory there has been since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
        raise LookupError(key)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(
    name: str, command: list[str], port: int, directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    with open(directory / "log", "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} does not start; see {directory}/log") from None
                time.sleep(0.05)
        yield Running(name, port, process, directory)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def dicomtw(directory: Path, *options: str) -> Iterator[Running]:
    """Our server, storing below ``directory/store``."""
    port = free_port()
    root = str(Path(__file__).resolve().parent.parent)
    command = [
        sys.executable,
        "-c",
        "from twisted.scripts.twistd import run; run()",
        "-n",
        "--pidfile=",
        "dicom",
        f"--port={port}",
        "--interface=127.0.0.1",
        "--aet=PMOD",
        "--store=store",
        *options,
    ]
    with _running("dicomtw", command, port, directory, {"PYTHONPATH": root}) as running:
        yield running


@contextmanager
def storescp(
    directory: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """DCMTK's storescp, as it comes, storing into `directory`."""
    port = free_port()
    with _running(
        "storescp", ["storescp", "-aet", "PMOD", *options, str(port)], port, directory, environment
    ) as running:
        yield running


@contextmanager
def orthanc(directory: Path, calling: str = "SCU") -> Iterator[Running]:
    """Orthanc as Debian has it, its files and its database in `directory`; it is called ORTHANC.

    It knows `calling` on this host alone, sends small packets at once (DCMTK would wait) and does not sync
    files. All else is as it comes.
    """
    port = free_port()
    configuration = {
        "Name": "bench",
        "StorageDirectory": "store",
        "IndexDirectory": "store",
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DefaultEncoding": "Utf8",
        "DicomModalities": {calling: [calling, "127.0.0.1", free_port()]},
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowStore": False,
        "DicomScpTimeout": 600,
        "SyncStorageArea": False,
        "OverwriteInstances": False,
    }
    (directory / "orthanc.json").write_text(json.dumps(configuration))
    with _running("Orthanc", [ORTHANC, "orthanc.json"], port, directory, {"TCP_NODELAY": "1"}) as running:
        yield running
