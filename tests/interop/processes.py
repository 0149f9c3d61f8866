"""What /proc says of processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that one has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += map(int, (task / "children").read_text("ascii").split())
    return sorted(found)


def is_running(pid: int) -> bool:
    """Whether a process has not ended, though somebody may still want to know how one has."""
    try:
        return _fields(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processor_time(pid: int) -> float:
    """Of a process so far, in seconds."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ignores_sigterm(pid: int) -> bool:
    (mask,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text("ascii"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def _fields(pid: int) -> list[str]:
    """Those behind its name, from the third on (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
