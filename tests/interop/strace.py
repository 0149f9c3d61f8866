"""System calls of a running server: some that fail, and all that it makes, in their order."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from twisted.trial.unittest import SkipTest

from tests.interop.peers import missing, program
from tests.interop.twistd import Twistd, wait_until

#: A line of ``strace -ttt -T -y -xx``, written when the call is over.
_LINE = re.compile(
    r"(?P<time>\d+\.\d+) (?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+).* <(?P<taken>[\d.]+)>$"
)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_PATH = re.compile(r"^\d+<(.*?)>")


@attrs.frozen
class Call:
    """A system call that has succeeded."""

    name: str
    #: When it began and when it was over, in seconds of the same clock.
    start: float
    end: float
    #: The file or socket of the descriptor that is its first argument, if it is one; empty else.
    path: str
    #: Its arguments that are strings or buffers, as far as they are shown.
    strings: tuple[bytes, ...] = attrs.field(repr=False)


@contextmanager
def injected(server: Twistd, fault: str, path: Path | None = None) -> Iterator[None]:
    """Let a system call of the server fail, in the words of strace: ``fdatasync:error=EIO``.

    With `path`, only where it is called for that file, which must be there.
    """
    calls = fault.partition(":")[0]
    options = ["-o", os.devnull, "-f", "-e", f"trace={calls}", "-e", f"inject={fault}"]
    if path is not None:
        options += ["-P", str(path)]
    with _attached(server, *options):
        yield


@contextmanager
def traced(server: Twistd, calls: str) -> Iterator[list[Call]]:
    """Note the server's system calls of these names; when this is over the list has them, as they began."""
    noted: list[Call] = []
    with tempfile.TemporaryDirectory() as directory:
        options = ("-ff", "-ttt", "-T", "-y", "-xx", "-s", "4200", "-e", f"trace={calls}")
        with _attached(server, "-o", f"{directory}/thread", *options):
            yield noted
        for path in Path(directory).iterdir():  # one for each thread
            noted += filter(None, map(_call, path.read_text("ascii").splitlines()))
    noted.sort(key=lambda call: call.start)


def _call(line: str) -> Call | None:
    match = _LINE.match(line)
    if match is None or int(match["result"]) < 0:
        return None
    arguments, start = match["arguments"], float(match["time"])
    path = _PATH.match(arguments)
    strings = tuple(bytes.fromhex(each.replace("\\x", "")) for each in _STRING.findall(arguments))
    end = start + float(match["taken"])
    return Call(match["name"], start, end, _decoded(path[1]) if path else "", strings)


def _decoded(path: str) -> str:
    return bytes.fromhex(path.replace("\\x", "")).decode() if path.startswith("\\x") else path


@contextmanager
def _attached(server: Twistd, *options: str) -> Iterator[None]:
    absent = missing("strace")
    if absent:
        raise SkipTest(absent)
    command = [program("strace"), "-p", str(server.pid), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:

            def attached() -> bool:
                if strace.poll() is not None:
                    assert strace.stderr is not None
                    raise SkipTest(f"strace may not trace here: {strace.stderr.read()}")
                tasks = Path(f"/proc/{server.pid}/task").iterdir()
                return not any("TracerPid:\t0\n" in (task / "status").read_text() for task in tasks)

            wait_until(attached, "strace has attached")
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
