"""Who has a database open without forcing it to stable storage: rows that say in which boot, what process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Names of these rows begin so; their value is the boot of the machine.
BOOT: Final = "boot:"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: Processes can be told by their numbers within one of these; containers have their own.
_PROCESSES: Final = Path("/proc/self/ns/pid")


def boot_id() -> str:
    """Another one each time that the machine starts; empty where that is not known."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def processes() -> str:
    """Where processes have the same numbers as we see; empty where that is not known."""
    try:
        return str(os.stat(_PROCESSES).st_ino)
    except OSError:
        return ""


def is_of_dead(name: str, ours: str) -> bool:
    """Whether a row's name is that of a process which is known to have ended."""
    if not name.startswith(BOOT) or not ours:
        return False
    number, _, rest = name.removeprefix(BOOT).partition("-")
    if rest.partition("-")[0] != ours:
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        pass  # it lives, and is another user's; or the row is not of our making
    return False
