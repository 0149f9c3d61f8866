"""The DICOM files among what a command line names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from sys import intern

import attrs

from dicomtw import uids
from dicomtw.command.exits import Fault, reason, why
from dicomtw.storage import part10
from dicomtw.storage.data_set_file import open_data_set
from dicomtw.storage.part10 import FileHead

#: The File Meta Information is within this, in bytes, as a rule.
_HEAD = 2048


@attrs.frozen
class Found:
    """A file that can be sent."""

    path: str
    size: int
    mtime_ns: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@attrs.define
class Scan:
    """What is there to be sent, and what is not, with the reasons."""

    #: Called with a path, size and mtime in nanoseconds: whether it need not be sent again.
    arrived: Callable[[str, int, int], bool] = lambda *_: False
    found: list[Found] = attrs.field(factory=list)
    earlier: int = 0
    skipped: Counter[str] = attrs.field(factory=Counter)

    def look(self, path: str) -> str:
        """Look at a file; why it is skipped, empty if it is not."""
        try:
            path = os.path.realpath(path)
            status = os.stat(path)
            if self.arrived(path, status.st_size, status.st_mtime_ns):
                self.earlier += 1
                return ""
            head = _head_of(path)
            fault = _fault_of(head)
        except (OSError, ValueError) as error:
            fault = reason(error)
        if fault:
            self.skipped[fault] += 1
            return fault
        self.found.append(
            Found(
                path,
                status.st_size,
                status.st_mtime_ns,
                intern(head.sop_class_uid),
                head.sop_instance_uid,
                intern(head.transfer_syntax_uid),
            )
        )
        return ""


def files_in(paths: Iterable[Path]) -> Iterator[tuple[str, bool]]:
    """Files by name or below directories, in order of their names, and whether they are named themselves.

    What begins with a dot is not looked for in directories: a store keeps there what is half received.
    Raises `Fault` where a path names nothing, at once.
    """
    named = [*paths]
    for path in named:
        if not path.exists():
            raise Fault(f"{path}: no such file or directory")
    for path in named:
        if path.is_dir():
            yield from ((file, False) for file in _below(path))
        else:
            yield str(path), True


def _below(top: Path) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        raise Fault(why(error))

    for directory, directories, files in os.walk(top, onerror=unreadable):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        yield from (os.path.join(directory, name) for name in sorted(files) if not name.startswith("."))


def _head_of(path: str) -> FileHead:
    """What a file says of itself; raises `OSError`, `ValueError` for what is no DICOM file."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0) as file:
        beginning = file.read(_HEAD) or b""
    try:
        head = part10.read_head(beginning)
        if head.sop_class_uid and head.sop_instance_uid:
            return head
    except ValueError:
        if beginning[128:132] != b"DICM":
            raise
    # A long File Meta Information, or one without names, which are then in the data set.
    found = open_data_set(Path(path))
    found.close()
    return FileHead(0, found.transfer_syntax_uid, found.sop_class_uid, found.sop_instance_uid)


def _fault_of(head: FileHead) -> str:
    """Why what has this head cannot be sent; empty if it can."""
    if head.sop_class_uid in uids.NOT_STORED_BY_C_STORE:
        return "a directory of media (DICOMDIR) is not sent"
    named = {
        "SOP Class UID": head.sop_class_uid,
        "SOP Instance UID": head.sop_instance_uid,
        "Transfer Syntax UID": head.transfer_syntax_uid,
    }
    return next((f"no valid {name}" for name, uid in named.items() if not uids.is_valid_uid(uid)), "")
