"""The process that a server runs in: what it was told at its start, and its end when it cannot start."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import MutableMapping
from typing import Any, NoReturn

import attrs
from twisted.logger import ILogObserver

from dicomtw.jsonlog import observer_for_twistd


class StartError(Exception):
    """One line that says why the server does not start."""


@attrs.frozen
class Process:
    """What the twistd (or twist) around us was told: its options, some of them set only when it starts."""

    options: MutableMapping[str, Any] = attrs.field(factory=dict)

    def owner(self) -> tuple[int, int] | None:
        """The uid and gid to run as once the ports are open; raises `StartError` for no user."""
        uid, gid = self.options.get("uid"), self.options.get("gid")
        if uid is None:
            return None
        try:
            return uid, pwd.getpwuid(uid).pw_gid if gid is None else gid
        except KeyError:
            raise StartError(f"--uid {uid} is no user of this machine: --gid is needed too") from None

    def log_observer(self) -> ILogObserver | None:
        """Our log observer in the place of twistd's, or None where we are not under twistd."""
        return observer_for_twistd(self.options) if "logfile" in self.options else None

    def fork_fault(self) -> str:
        """Why there can be no workers here, in words; empty if there can."""
        return "" if "logfile" in self.options else "--workers is for twistd dicom: others may log elsewhere"

    def started(self) -> None:
        """What twistd says itself when a start is over: a daemon's parent goes away."""
        pipe = self.options.get("statusPipe")
        if pipe is not None:
            os.write(pipe, b"0")
            os.close(pipe)
            self.options["statusPipe"] = None

    def forked(self) -> None:
        """We are another process than twistd has started: what that leaves behind is not ours to remove."""
        self.options["statusPipe"] = None
        self.options["pidfile"] = ""

    def give_up(self, why: str) -> NoReturn:
        """End the process with one line where its user looks, and leave no pid file behind."""
        pipe = self.options.get("statusPipe")
        if pipe is not None:  # a daemon: its parent is still at the terminal, and reads 100 bytes
            os.write(pipe, f"1 {why}".encode()[:100])
        else:
            # twistd has redirected sys.stderr into its log.
            print(f"dicom: {why}", file=sys.__stderr__, flush=True)
        self.remove_pidfile()
        raise SystemExit(1)

    def remove_pidfile(self) -> None:
        """What twistd does itself when it ends in an orderly way."""
        pidfile = self.options.get("pidfile")
        if pidfile:
            with contextlib.suppress(OSError):
                os.unlink(pidfile)
