"""Programs that a test starts, to try documentation and deployment files with; they end with the test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.twistd import PATIENCE, environment, wait_until

#: What a server logs when it is up.
READY = "associations are accepted from"


def shell_environment() -> dict[str, str]:
    """The environment of a reader of the documentation: no virtual environment is active.

    In one, the commands of pynetdicom stand before DCMTK's, whose names they have.
    """
    scripts = Path(sys.executable).parent
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if (scripts / "storescu").exists():
        path = [directory for directory in path if not scripts.samefile(directory or os.curdir)]
    return environment(PATH=os.pathsep.join(path), PYTHONWARNINGS="ignore")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Running:
    """A program that has been started in `directory` and whose log is kept; it ends with `test`."""

    def __init__(
        self,
        test: SynchronousTestCase,
        command: Sequence[str],
        directory: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._log = directory / f"log-{len(list(directory.glob('log-*')))}"
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=dict(shell_environment() if env is None else env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
            )
        test.addCleanup(self.stop)

    @property
    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text("utf-8", "replace")

    def wait_for(self, text: str) -> str:
        """The first line of the log with `text` in it; fails if the program ends before."""

        def said() -> bool:
            ended = self.process.poll() is not None
            if text in self.log:
                return True
            if ended:
                raise AssertionError(f"ended with status {self.process.returncode}:\n{self.log}")
            return False

        wait_until(said, f"{text!r} in the log of {self.process.args!r}", PATIENCE)
        return next(line for line in self.log.splitlines() if text in line)

    def stop(self) -> int:
        """End it, if it has not ended; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.process.args!r} does not stop:\n{self.log}") from None
