"""A real ``twistd dicom``: a process of its own, started for one test and judged at the end of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parents[2]

#: What `twistd` and `twist` on the PATH do; they need not be there.
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
TWIST = (sys.executable, "-m", "twisted")

#: Seconds that a start or an orderly stop may take on a busy machine.
PATIENCE = 20.0

#: Ports, and sockets of other kinds, that the log says are open.
_LISTENING = re.compile(r" starting on (\"?[^\s\",]+)", re.MULTILINE)
#: The one line of each connection.
_SUMMARY = re.compile(r"\[dicomtw\.association#(?:info|warn)\] (.*)$", re.MULTILINE)
#: What no log may hold.
_BUGS = ("Traceback", "Unhandled Error", "Unhandled error", "bug in an association")


def wait_until(condition: Callable[[], T], why: str, seconds: float = 10.0) -> T:
    """What `condition` returns as soon as that is true; fails with `why` after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {why}")
        time.sleep(0.01)


def temporary_directory(test: SynchronousTestCase) -> Path:
    """A directory for `test`; its path is short enough for the name of a socket, unlike trial's own."""
    path = Path(tempfile.mkdtemp(prefix="dicomtw-"))
    test.addCleanup(shutil.rmtree, path, ignore_errors=True)
    return path


def environment(**more: str) -> dict[str, str]:
    """The environment of a server: this checkout's code, nothing of the service manager we may run under."""
    dropped = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "STATE_DIRECTORY", "NOTIFY_SOCKET")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH", ""))))
    return {**kept, "PYTHONPATH": path, **more}


def run_twistd(
    *options: str,
    twistd: Sequence[str] = ("-n", "--pidfile="),
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """Run ``twistd dicom`` with options that end it at once; it is killed, as its status says, if not."""
    command = [*TWISTD, *twistd, "dicom", *options]
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    ) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE / 2)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run_each_twistd(
    commands: Iterable[tuple[Sequence[str], Path]],
) -> list[subprocess.CompletedProcess[str]]:
    """`run_twistd` for (options, working directory) each, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda command: run_twistd(*command[0], cwd=command[1]), commands))


class Twistd:
    """A running server, on a free port of 127.0.0.1 unless `options` say where it listens.

    `command` takes the place of ``twistd -n --pidfile=``. At the end of the test it must still be alive,
    unless the test has ended it itself, must stop when told to, and its log must be free of tracebacks.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        *options: str,
        aet: str = "PMOD",
        command: Sequence[str] = (*TWISTD, "-n", "--pidfile="),
        directory: Path | None = None,
        env: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> None:
        self.directory = directory or temporary_directory(test)
        self.store = self.directory / "store"
        self._command = [*command, "dicom", *options]
        if not any(option.startswith(("--config", "--store")) for option in options):
            self._command.append(f"--store={self.store}")
        if not any(option.startswith("--config") for option in options):
            self._command.append(f"--aet={aet}")
        if not any(option.startswith(("--config", "--listen", "--port")) for option in options):
            self._command += ["--port=0", "--interface=127.0.0.1"]
        self._popen = {"cwd": self.directory, "env": environment(**(env or {})), **popen}
        self._log = self.directory / "log"
        self._errors = self.directory / "stderr"
        self._earlier_log = ""
        self._ended_by_test = False
        test.addCleanup(self._judge)
        self._start()

    def _start(self) -> None:
        with open(self._log, "wb") as log, open(self._errors, "wb") as errors:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=errors, **self._popen
            )
        wait_until(lambda: self._is_up() or self.process.poll() is not None, "the server starts", PATIENCE)
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended at its start: {self.log}{self.stderr}")

    def _is_up(self) -> bool:
        # Said when all ports are open and the stores are prepared.
        return "associations are accepted from" in self.log

    # -- what it says

    @property
    def log(self) -> str:
        """What this process has logged, which in the foreground is its standard output."""
        return self._log.read_text("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self._errors.read_text("utf-8", "replace")

    @property
    def listening(self) -> list[str]:
        """Its ports, and names of sockets that have no port."""
        return [name.strip("'\"") for name in _LISTENING.findall(self.log)]

    @property
    def port(self) -> int:
        """Its first port."""
        return int(self.listening[0])

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def summaries(self) -> list[str]:
        """The lines that ended connections have left, without time and system."""
        return _SUMMARY.findall(self.log)

    def wait_for_log(self, text: str, seconds: float = 10.0) -> str:
        """The first line with `text` in it."""
        wait_until(lambda: text in self.log, f"{text!r} in the log:\n{self.log}", seconds)
        return next(line for line in self.log.splitlines() if text in line)

    def wait_for_summaries(self, number: int, seconds: float = 10.0) -> list[str]:
        """The lines of ended connections when there are so many."""
        wait_until(
            lambda: len(self.summaries) >= number, f"{number} ended connections in:\n{self.log}", seconds
        )
        return self.summaries

    def wait_until_nothing_comes_in(self) -> None:
        """Nothing is half received, nor stored and not in the index: that may take a moment, no longer."""
        wait_until(lambda: not list((self.store / ".incoming").iterdir()), "nothing is left in .incoming")

    # -- what it is

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def rss(self) -> int:
        """Its resident memory, in bytes."""
        return self._memory("VmRSS")

    @property
    def peak(self) -> int:
        """The most that its resident memory has been since `reset_peak`, in bytes."""
        return self._memory("VmHWM")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _memory(self, field: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        (kilobytes,) = re.findall(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kilobytes) * 1024

    @property
    def fds(self) -> int:
        """The number of its open file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def opened(self) -> list[str]:
        """What its open file descriptors are: paths, and ``socket:[number]``."""
        names = []
        for path in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                names.append(os.readlink(path))
        return names

    @property
    def objects(self) -> dict[str, Path]:
        """What it has stored, by SOP Instance UID, without what was superseded."""
        return objects_in(self.store)

    # -- its end

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status, when it has ended because of what the test did."""
        self._ended_by_test = True
        return self.process.wait(seconds)

    def kill(self) -> None:
        """``kill -9``."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """End it as an operator does."""
        self.signal(signal.SIGTERM)
        self.wait()

    def restart(self) -> None:
        """Start it again after it was ended, with the same options."""
        self._earlier_log += self.log
        self._ended_by_test = False
        self._start()

    def _judge(self) -> None:
        status = self.process.poll()
        late = False
        if status is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                late = True
                self.process.kill()
                self.process.wait()
        self._check(status)
        if late:
            raise AssertionError(f"the server did not stop within {PATIENCE} s:\n{self._said}")

    def check(self) -> None:
        """Judge it so far, for those who share it: it must be alive, and its log free of tracebacks."""
        self._check(self.process.poll())

    @property
    def _said(self) -> str:
        return f"{self._earlier_log}{self.log}{self.stderr}"

    def _check(self, status: int | None) -> None:
        if status is not None and not self._ended_by_test:
            raise AssertionError(f"the server had ended with status {status}:\n{self._said}")
        for bug in _BUGS:
            if bug in self._said:
                raise AssertionError(f"{bug!r} in the log:\n{self._said}")


def objects_in(store: Path) -> dict[str, Path]:
    """The objects in a store, by SOP Instance UID, without what was superseded."""
    return {path.stem: path for path in store.glob("*/*/*.dcm") if path.parts[-4] == store.name}
