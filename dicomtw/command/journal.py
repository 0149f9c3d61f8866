"""What has arrived at which peer: a file of JSON objects, one a line, appended to and never rewritten."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from dicomtw.command.exits import Fault
from dicomtw.command.files import Found
from dicomtw.command.peer import Peer

#: Where it is kept unless the command line says otherwise.
DEFAULT = Path(".dicomtw-journal")


class Journal:
    """The journal of objects sent to one peer; others' lines in the file are theirs.

    A line is written when the peer has acknowledged its object, in one piece. A power cut may take the last
    lines, and their objects are then sent again.
    """

    def __init__(self, path: Path, peer: Peer) -> None:
        """Open the file, or make it; raises `Fault`."""
        self._path = path
        self._peer = {"aet": peer.called, "host": peer.remote.host, "port": peer.remote.port}
        self._arrived: set[tuple[str, int, int]] = set()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._read()
        except OSError as error:
            raise Fault(f"cannot use the journal {path}: {error.strerror}") from None

    def _read(self) -> None:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            return
        line = b"\n"
        with open(self._fd, "rb", closefd=False) as file:
            for line in file:
                self._take(line)
        if not line.endswith(b"\n"):  # cut off, and what follows is not to be
            os.write(self._fd, b"\n")

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if all(entry[name] == value for name, value in self._peer.items()):
                self._arrived.add((entry["path"], entry["size"], entry["mtime_ns"]))
        except (ValueError, LookupError, TypeError):
            pass  # not one of ours, or not there whole

    def arrived(self, path: str, size: int, mtime_ns: int) -> bool:
        """Whether the file has arrived as it is now."""
        return (path, size, mtime_ns) in self._arrived

    def add(self, file: Found) -> None:
        """The peer has acknowledged a file; raises `Fault` where that cannot be written down."""
        entry = {
            **self._peer,
            "sop_instance_uid": file.sop_instance_uid,
            "path": file.path,
            "size": file.size,
            "mtime_ns": file.mtime_ns,
        }
        try:
            os.write(self._fd, json.dumps(entry).encode("ascii") + b"\n")
        except OSError as error:
            raise Fault(f"cannot write to the journal {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
