"""``dicomtw passwd``: a user and his passcode in a file for ``--auth=scrypt:FILE``."""

from __future__ import annotations

import getpass
import sys
from argparse import Namespace

from dicomtw.command import terminal
from dicomtw.command.exits import Exit, Fault
from dicomtw.security import passwords
from dicomtw.security.passwords import line_of


def run(arguments: Namespace) -> int:
    """Add the user or change his passcode, and say which."""
    try:
        passwords.check_user(arguments.user)
    except ValueError as fault:
        raise Fault(f"USER: {fault}") from None
    try:
        passcode = (
            _asked(arguments.user) if sys.stdin.isatty() else line_of(sys.stdin.buffer, "standard input")
        )
    except ValueError as fault:
        raise Fault(str(fault)) from None
    if not passcode:
        raise Fault("the passcode is empty")
    try:
        is_new = passwords.put(arguments.file, arguments.user, passwords.hashed(passcode))
    except ValueError as fault:
        raise Fault(str(fault)) from None
    terminal.result(f"{arguments.file}: {arguments.user} is {'added' if is_new else 'changed'}")
    return Exit.WELL


def _asked(user: str) -> bytes:
    """What somebody at a terminal types, twice."""
    first = getpass.getpass(f"Passcode of {terminal.printable(user)}: ")
    if getpass.getpass("Once more: ") != first:
        raise Fault("the two are not the same")
    return first.encode()
