"""A server that runs, and what /proc tells of it and of the processes it has started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

_START = 20.0  # seconds for a server to listen
_TICKS = os.sysconf("SC_CLK_TCK")
_STOP = 10.0  # seconds for a server to end


@attrs.frozen
class Running:
    """A server that listens. What it has forked counts as it does: each number is of all its processes."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    directory: Path
    #: The AE title that it is called by.
    aet: str = "PMOD"

    @property
    def pid(self) -> int:
        return self.process.pid

    def pids(self) -> list[int]:
        """The process, its children and theirs."""
        pids = [self.pid]
        for pid in pids:  # grows meanwhile
            try:
                tasks = os.listdir(f"/proc/{pid}/task")
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
            for task in tasks:
                pids += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
        return pids

    def cpu_seconds(self) -> float:
        """User and system time so far, also of children that have ended."""
        return sum(map(_cpu_seconds, self.pids()))

    def resident_kib(self) -> int:
        """Resident memory now; pages that processes share count once for each."""
        return self._status("VmRSS")

    def memory_kib(self) -> int:
        """Memory now: what all have or share, each page once, and what is mapped of files.

        Of files that which maps most counts, for they are the same programs; and as if nobody else on the
        machine had mapped them.
        """
        pids = self.pids()
        files = (_field(f"/proc/{pid}/status", "RssFile") for pid in pids)
        return sum(_field(f"/proc/{pid}/smaps_rollup", "Pss_Anon") for pid in pids) + max(files)

    def peak_kib(self) -> int:
        """The most resident memory there has been since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> int:
        return sum(_field(f"/proc/{pid}/status", key) for pid in self.pids())


def _read(path: str) -> str:
    """A file of /proc; nothing if the process is gone."""
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _field(path: str, key: str) -> int:
    for line in _read(path).splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0  # it has ended, and has no memory


def _cpu_seconds(pid: int) -> float:
    """Of a process and its children that have ended.

    Its own comes twice: in ticks of 10 ms as a rule, which a process made for one object does not fill, and
    in nanoseconds of the threads that have not ended. The greater is nearer to what it is.
    """
    # After the name in parentheses the first field is the third of proc_pid_stat(5).
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not fields:
        return 0.0
    user, system, user_of_children, system_of_children = (int(field) / _TICKS for field in fields[11:15])
    threads = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            threads += int((_read(f"/proc/{pid}/task/{task}/schedstat") or "0").split()[0])
    except FileNotFoundError:
        pass  # it has ended meanwhile
    return max(user + system, threads / 1e9) + user_of_children + system_of_children


class Peak:
    """The most memory a server and its children have together, looked for every few milliseconds.

    Children that come and go leave no high-water mark. To look takes time: not while rates are measured.
    """

    def __init__(self, server: Running, interval: float = 0.02) -> None:
        self.kib = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(server, interval), daemon=True)
        self._thread.start()

    def _look(self, server: Running, interval: float) -> None:
        while True:
            self.kib = max(self.kib, server.memory_kib())
            if self._over.wait(interval):
                return

    def stop(self) -> int:
        """In KiB."""
        self._over.set()
        self._thread.join()
        return self.kib


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    port: int,
    directory: Path,
    environment: Mapping[str, str] | None = None,
    aet: str = "PMOD",
    end: signal.Signals = signal.SIGTERM,
) -> Iterator[Running]:
    """Start a server, wait until it listens on `port`, end it by a signal."""
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
        yield Running(name, port, process, directory, aet)
    finally:
        if process.poll() is None:
            process.send_signal(end)
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
