"""Contexts that follow their files: what is renewed on disk is used for the next connection.

Connections keep the context that they began with. New files that are no good, such as half-written ones,
change nothing but the log. Without new files, too, a context is made anew from time to time: keys for session
tickets are its own, and no session is to be resumed for ever.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable

from OpenSSL import SSL

from dicomtw.security import tls
from dicomtw.security.tls import Contents, TLSError, TLSFiles

#: Seconds between two looks at the files.
_LOOK = 1.0

#: All that there are in this process.
_all: weakref.WeakSet[RenewedContext] = weakref.WeakSet()

#: Told in one line what became of the files; whether something is wrong.
Told = Callable[[str, bool], None]


class RenewedContext:
    """The context of some files, made anew when they have changed.

    `make` is `tls.server_context`, or like it. Raises `TLSError` if the files are no good to begin with.
    """

    def __init__(
        self,
        files: TLSFiles,
        make: Callable[[TLSFiles, Contents], SSL.Context],
        told: Told,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files = files
        self._make = make
        self._told = told
        self._clock = clock
        self._seen = self._state()
        self._contents = tls.read(files)
        self._context = make(files, self._contents)
        self._next_look = clock() + _LOOK
        self._next_keys = clock() + tls.SESSION_LIFETIME
        _all.add(self)

    def current(self) -> SSL.Context:
        """The context for a new connection. Blocks for a look at the files, at most once a second."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            state = self._state()
            if state != self._seen:
                # Whatever comes of it: what is no good is not tried, and told, again until it changes.
                self._seen = state
                self._renew()
        if now >= self._next_keys:
            self._next_keys = now + tls.SESSION_LIFETIME
            self._renew_keys()
        return self._context

    def read_again(self) -> None:
        """Read the files, whether they seem to have changed or not, and tell what came of it."""
        self._seen = self._state()
        if not self._renew():
            self._told(f"unchanged: {self.described}", False)

    def tell_unreadable(self) -> None:
        """Tell of files that could be read, but no longer can: root has been dropped since."""
        for name, path in self.files.paths().items():
            try:
                os.close(os.open(path, os.O_RDONLY))
            except OSError as error:
                self._seen = self._state()
                why = f"cannot be read by user {os.geteuid()} ({error.strerror})"
                self._told(f"--tls-{name} {path} {why}: a new one is used after a restart only", True)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of our certificate, empty if we have none."""
        return tls.fingerprint(self._contents["cert"]) if "cert" in self._contents else ""

    @property
    def described(self) -> str:
        """The files, and what is in them: one line."""
        if self.fingerprint:
            return f"TLS certificate {self.files.cert}, SHA-256 fingerprint {self.fingerprint}"
        files = ", ".join(f"{name} {path}" for name, path in self.files.paths().items())
        return f"TLS with {files or 'no files of ours'}"

    def remarks(self) -> list[str]:
        """What in the files is out of date."""
        return list(tls.remarks(self.files, self._contents))

    def _state(self) -> list[object]:
        """Something that changes with the files."""
        found: list[object] = []
        for path in self.files.paths().values():
            try:
                one = os.stat(path)
                found.append((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns))
            except OSError as error:
                found.append(error.errno)
        return found

    def _renew_keys(self) -> None:
        """Make the context again, with other keys for session tickets: those of before are worth nothing."""
        try:
            self._context = self._make(self.files, self._contents)
        except TLSError as fault:
            self._told(
                f"{fault}; sessions can be resumed for longer than {tls.SESSION_LIFETIME} seconds", True
            )

    def _renew(self) -> bool:
        """Whether there was something new to be told."""
        try:
            contents = tls.read(self.files)
            if contents == self._contents:
                return False
            context = self._make(self.files, contents)
        except TLSError as fault:
            self._told(f"{fault}; TLS stays as it was", True)
            return True
        self._context, self._contents = context, contents
        self._told(f"renewed: {self.described}", False)
        for remark in self.remarks():
            self._told(remark, True)
        return True


def contexts() -> list[RenewedContext]:
    """Those of this process."""
    return list(_all)
