"""Other people's DICOM programs: whether they are here, and one way to run them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.interop.twistd import environment, temporary_directory, wait_until
from tests.running import Running, free_ports


def missing(*programs: str) -> str | None:
    """Why a test case is skipped, for its `skip` attribute: programs that are not on the PATH."""
    absent = [name for name in programs if find(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def find(name: str) -> str | None:
    """The full path of a program on the PATH that is not written in Python.

    pynetdicom's commands have the names of DCMTK's, and come first where its virtual environment is active.
    """
    for directory in (*os.get_exec_path(), "/usr/sbin"):  # where Debian has servers, and not all look
        path = shutil.which(name, path=directory)
        if path is not None and not _is_python(path):
            return path
    return None


def program(name: str) -> str:
    """The full path of a program that is not `missing`."""
    path = find(name)
    assert path is not None, missing(name)
    return path


def _is_python(path: str) -> bool:
    with open(path, "rb") as file:
        beginning = file.read(512)
    # Where the interpreter's path is too long for "#!" the first line names the shell, and the second Python.
    return beginning.startswith(b"#!") and b"python" in b"".join(beginning.splitlines()[:2])


def run(
    *command: str | Path | int,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program, a bare name being one that `find` finds; its output and errors are both in `stdout`."""
    name, *words = map(str, command)
    return subprocess.run(
        [name if os.sep in name else program(name), *words],
        stdin=subprocess.DEVNULL,
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


@attrs.frozen
class SCP:
    """A DICOM server that runs until its test ends, on a free port, and the directory it keeps things in."""

    aet: str
    port: int
    directory: Path
    running: Running

    def __str__(self) -> str:
        """As our client names a peer."""
        return f"{self.aet}@127.0.0.1:{self.port}"


def dcmqrscp(test: SynchronousTestCase, destinations: Mapping[str, int], *options: str) -> SCP:
    """DCMTK's archive, which moves to `destinations`: ports of this machine by AE title.

    It forks for each association: as a single process, 3.6.7 crashes at the end of the first.
    """
    directory = temporary_directory(test)
    (directory / "objects").mkdir()
    (port,) = free_ports(1)
    hosts = [
        f"host{at} = ({aet}, 127.0.0.1, {number})" for at, (aet, number) in enumerate(destinations.items())
    ]
    lines = [
        f"NetworkTCPPort = {port}",
        "MaxPDUSize = 131072",
        "MaxAssociations = 16",
        *("HostTable BEGIN", *hosts, "HostTable END"),
        *("VendorTable BEGIN", "VendorTable END"),
        *("AETable BEGIN", f"DCMQRSCP {directory}/objects RW (200, 1024mb) ANY", "AETable END"),
    ]
    (directory / "dcmqrscp.cfg").write_text("\n".join(lines) + "\n", "ascii")
    command = [program("dcmqrscp"), "-v", "-c", "dcmqrscp.cfg", *options]
    return _started(test, "DCMQRSCP", port, directory, command)


def storescp(test: SynchronousTestCase, *options: str | Path) -> SCP:
    """DCMTK's receiver; objects go to its directory."""
    directory = temporary_directory(test)
    (port,) = free_ports(1)
    command = [program("storescp"), "-v", "-od", ".", *map(str, options), str(port)]
    return _started(test, "STORESCP", port, directory, command)


def pynetdicom_storescp(test: SynchronousTestCase) -> SCP:
    """The receiver of pynetdicom; objects go to its directory."""
    directory = temporary_directory(test)
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "pynetdicom", "storescp", "-od", ".", "-ba", "127.0.0.1", str(port)]
    scp = _started(test, "STORESCP", port, directory, command, environment(PYTHONWARNINGS="ignore"))
    test.addCleanup(scp.running.process.kill)  # it does not hear of SIGTERM
    return scp


def orthanc(test: SynchronousTestCase, destinations: Mapping[str, int]) -> SCP:
    """Orthanc, which moves to `destinations`: ports of this machine by AE title.

    It has no setting for the address it listens on, so it serves only callers from here that it knows.
    """
    directory = temporary_directory(test)
    (port,) = free_ports(1)
    known = {"DICOMTW": 1} | dict(destinations)
    settings = {
        "StorageDirectory": str(directory),
        "IndexDirectory": str(directory),
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DicomModalities": {aet: [aet, "127.0.0.1", number] for aet, number in known.items()},
        "DicomCheckModalityHost": True,
        **{f"DicomAlwaysAllow{what}": False for what in ("Echo", "Store", "Find", "Get", "Move")},
        "OverwriteInstances": True,
    }
    (directory / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    # Without TCP_NODELAY DCMTK, on which it stands, waits for acknowledgements.
    env = environment(TCP_NODELAY="1")
    scp = _started(test, "ORTHANC", port, directory, [program("Orthanc"), "orthanc.json"], env)
    test.addCleanup(scp.running.process.kill)  # in order it takes two seconds
    return scp


def without_qrscp() -> str | None:
    """Why a test case with pynetdicom's archive is skipped, for its `skip` attribute."""
    if importlib.util.find_spec("sqlalchemy") is None:
        return "not installed: sqlalchemy, which pynetdicom's qrscp needs"
    return None


def qrscp(test: SynchronousTestCase, destinations: Mapping[str, int]) -> SCP:
    """The archive of pynetdicom, which moves to `destinations`: ports of this machine by AE title."""
    directory = temporary_directory(test)
    (port,) = free_ports(1)
    lines = [
        "[DEFAULT]",
        "ae_title: QRSCP",
        f"port: {port}",
        "max_pdu: 131072",
        *("acse_timeout: 30", "dimse_timeout: 30", "network_timeout: 30"),
        "bind_address: 127.0.0.1",
        "instance_location: instances",
        "database_location: instances.sqlite",
        "log_identifier: False",
    ]
    for aet, number in destinations.items():
        lines += [f"[{aet}]", "address: 127.0.0.1", f"port: {number}"]
    (directory / "qrscp.ini").write_text("\n".join(lines) + "\n", "ascii")
    command = [sys.executable, "-m", "pynetdicom", "qrscp", "-v", "-c", "qrscp.ini"]
    scp = _started(test, "QRSCP", port, directory, command, environment(PYTHONWARNINGS="ignore"))
    test.addCleanup(scp.running.process.kill)  # it does not hear of SIGTERM
    return scp


def _started(
    test: SynchronousTestCase,
    aet: str,
    port: int,
    directory: Path,
    command: list[str],
    env: Mapping[str, str] | None = None,
) -> SCP:
    """Start a server, and wait until it takes connections."""
    running = Running(test, command, directory, env)

    def listens() -> bool:
        if running.process.poll() is not None:
            raise AssertionError(f"ended with status {running.process.returncode}:\n{running.log}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(listens, f"{command[0]} listens")
    return SCP(aet, port, directory, running)
