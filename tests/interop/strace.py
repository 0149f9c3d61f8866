"""System calls of a running server that fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.interop.peers import missing, program
from tests.interop.twistd import Twistd, wait_until


@contextmanager
def injected(server: Twistd, fault: str) -> Iterator[None]:
    """Let a system call of the server fail, in the words of strace: ``fdatasync:error=EIO``."""
    absent = missing("strace")
    if absent:
        raise SkipTest(absent)
    command = [program("strace"), "-f", "-o", os.devnull, "-p", str(server.pid)]
    command += ["-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:

            def traced() -> bool:
                if strace.poll() is not None:
                    assert strace.stderr is not None
                    raise SkipTest(f"strace may not trace here: {strace.stderr.read()}")
                tasks = Path(f"/proc/{server.pid}/task").iterdir()
                return not any("TracerPid:\t0\n" in (task / "status").read_text() for task in tasks)

            wait_until(traced, "strace has attached")
            yield
        finally:
            strace.terminate()
            try:
                strace.wait(10)
            except subprocess.TimeoutExpired:
                strace.kill()
    wait_until(lambda: not _is_traced(server), "strace has left")


def _is_traced(server: Twistd) -> bool:
    try:
        return "TracerPid:\t0\n" not in Path(f"/proc/{server.pid}/status").read_text()
    except FileNotFoundError:
        return False  # it has ended
