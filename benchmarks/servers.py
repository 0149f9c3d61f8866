"""Servers to measure: ours and the peers found on this machine, each a process on a free port of loopback.

Each is as it comes, but for what it is told here. What stands on DCMTK has ``TCP_NODELAY=1`` in its
environment where that is asked for: without it a response waits for the acknowledgement of the one before,
which takes 40 ms. Destinations are ports, by AE title, that a server can move to.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.processes import Running, free_port, running
from dicomtw.security.self_signed import make_self_signed

__all__ = [
    "NODELAY",
    "ORTHANC",
    "Running",
    "Start",
    "bare",
    "dcmqrscp",
    "dicomtw",
    "free_port",
    "missing",
    "orthanc",
    "program",
    "pynetdicom_qrscp",
    "pynetdicom_storescp",
    "receiver",
    "storescp",
]

#: Starts a server, which stores in the directory.
Start = Callable[[Path], AbstractContextManager[Running]]

#: Where Debian has it.
ORTHANC = "/usr/sbin/Orthanc"
NODELAY = {"TCP_NODELAY": "1"}

_HERE = Path(__file__).resolve().parent
#: Python has nothing to say of how a peer uses other libraries.
_QUIET = {"PYTHONWARNINGS": "ignore"}
#: pynetdicom's servers do not hear of SIGTERM.
_DEAF = signal.SIGKILL


def program(name: str) -> str | None:
    """The full path of a program that is not written in Python, as pynetdicom's of the same names are."""
    for directory in (*os.get_exec_path(), os.path.dirname(ORTHANC)):
        path = shutil.which(name, path=directory)
        if path is not None and not _is_python(path):
            return path
    return None


def _is_python(path: str) -> bool:
    with open(path, "rb") as file:
        first = file.readline(512)
    return first.startswith(b"#!") and b"python" in first


def missing(peer: str) -> str | None:
    """Why a peer of this module cannot be started here, if so."""
    if peer.startswith("pynetdicom"):
        needed = ("pynetdicom", *(("sqlalchemy",) if peer.endswith("qrscp") else ()))
        absent = [name for name in needed if importlib.util.find_spec(name) is None]
    else:
        absent = [] if program("cc" if peer == "receiver" else peer) else [peer]
    return f"not installed: {', '.join(absent)}" if absent else None


@contextmanager
def dicomtw(directory: Path, *options: str, files: bool = False) -> Iterator[Running]:
    """Our server, storing below ``directory/store``: with its index, or `files` alone (files.py)."""
    port = free_port()
    twistd = ("-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", "dicom")
    command = [
        sys.executable,
        *(("-m", "benchmarks.files") if files else twistd),
        f"--port={port}",
        "--interface=127.0.0.1",
        "--aet=PMOD",
        "--store=store",
        *options,
    ]
    with running("dicomtw", command, port, directory, {"PYTHONPATH": str(_HERE.parent)}) as server:
        yield server


@contextmanager
def storescp(
    directory: Path, *options: str, environment: Mapping[str, str] | None = None, tls: bool = False
) -> Iterator[Running]:
    """DCMTK's receiver, storing into `directory`. It has no index, and syncs nothing."""
    port = free_port()
    command = [program("storescp") or "storescp", "-aet", "PMOD", *options]
    if tls:
        certificate, key = make_self_signed(directory)
        command += ["+tls", str(key), str(certificate), "-ic"]  # whoever calls
    with running("storescp", [*command, str(port)], port, directory, environment) as server:
        yield server


@contextmanager
def dcmqrscp(
    directory: Path, *options: str, destinations: Mapping[str, int] | None = None
) -> Iterator[Running]:
    """DCMTK's archive, below ``directory/store``. It forks for each association, for 3.6.7 crashes if not."""
    port = free_port()
    (directory / "store").mkdir(exist_ok=True)
    hosts = [
        f"host{at} = ({aet}, 127.0.0.1, {number})"
        for at, (aet, number) in enumerate((destinations or {}).items())
    ]
    lines = [
        f"NetworkTCPPort = {port}",
        "MaxPDUSize = 131072",
        "MaxAssociations = 100",
        *("HostTable BEGIN", *hosts, "HostTable END"),
        *("VendorTable BEGIN", "VendorTable END"),
        *("AETable BEGIN", f"PMOD {directory}/store RW (100000, 1024gb) ANY", "AETable END"),
    ]
    (directory / "dcmqrscp.cfg").write_text("\n".join(lines) + "\n", "ascii")
    command = [program("dcmqrscp") or "dcmqrscp", "-c", "dcmqrscp.cfg", *options]
    with running("dcmqrscp", command, port, directory, NODELAY) as server:
        yield server


@contextmanager
def orthanc(
    directory: Path,
    calling: str = "SCU",
    *,
    sync: bool = False,
    destinations: Mapping[str, int] | None = None,
) -> Iterator[Running]:
    """Orthanc as Debian has it, its files and its database in `directory`; it is called ORTHANC.

    It knows `calling` and `destinations` on this host alone, and syncs files if told to (as it does when it
    is not told otherwise). All else is as it comes.
    """
    port = free_port()
    known = {calling: free_port(), **(destinations or {})}
    configuration = {
        "Name": "bench",
        "StorageDirectory": "store",
        "IndexDirectory": "store",
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DefaultEncoding": "Utf8",
        "DicomModalities": {aet: [aet, "127.0.0.1", number] for aet, number in known.items()},
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowStore": False,
        "DicomScpTimeout": 600,
        "SyncStorageArea": sync,
        "OverwriteInstances": False,
    }
    (directory / "orthanc.json").write_text(json.dumps(configuration))
    with running("Orthanc", [ORTHANC, "orthanc.json"], port, directory, NODELAY, "ORTHANC") as server:
        yield server


@contextmanager
def pynetdicom_storescp(directory: Path) -> Iterator[Running]:
    """The receiver that comes with pynetdicom, storing below ``directory/store``."""
    port = free_port()
    command = [sys.executable, "-m", "pynetdicom", "storescp", "-q", "-aet", "PMOD"]
    command += ["-od", "store", "-ba", "127.0.0.1", str(port)]
    (directory / "store").mkdir()
    with running("pynetdicom", command, port, directory, _QUIET, end=_DEAF) as server:
        yield server


@contextmanager
def pynetdicom_qrscp(directory: Path, destinations: Mapping[str, int] | None = None) -> Iterator[Running]:
    """The archive that comes with pynetdicom, its files below ``directory/store``."""
    port = free_port()
    lines = [
        "[DEFAULT]",
        "ae_title: PMOD",
        f"port: {port}",
        "max_pdu: 131072",
        *("acse_timeout: 30", "dimse_timeout: 30", "network_timeout: 30"),
        "bind_address: 127.0.0.1",
        "instance_location: store",
        "database_location: instances.sqlite",
        "log_identifier: False",
    ]
    for aet, number in (destinations or {}).items():
        lines += [f"[{aet}]", "address: 127.0.0.1", f"port: {number}"]
    (directory / "qrscp.ini").write_text("\n".join(lines) + "\n", "ascii")
    command = [sys.executable, "-m", "pynetdicom", "qrscp", "-q", "-c", "qrscp.ini"]
    with running("pynetdicom qrscp", command, port, directory, _QUIET, end=_DEAF) as server:
        yield server


@contextmanager
def receiver(directory: Path, *, sync: bool = False) -> Iterator[Running]:
    """The floor (receiver.c): writes what `benchmarks.load` sends into files, and is no DICOM server."""
    port = free_port()
    binary = directory / "receiver"
    compiler = program("cc") or "cc"
    subprocess.run([compiler, "-O2", "-pthread", "-o", str(binary), str(_HERE / "receiver.c")], check=True)
    (directory / "store").mkdir()
    command = [str(binary), str(port), "store", *(["sync"] if sync else [])]
    with running("receiver", command, port, directory) as server:
        yield server


@contextmanager
def bare(directory: Path, *options: str) -> Iterator[Running]:
    """The floor of Python (bare.py): the same on Twisted."""
    port = free_port()
    (directory / "store").mkdir()
    command = [sys.executable, "-m", "benchmarks.bare", str(port), "store", *options]
    with running("bare", command, port, directory, {"PYTHONPATH": str(_HERE.parent)}) as server:
        yield server
