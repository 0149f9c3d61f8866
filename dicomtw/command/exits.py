"""What the exit status of ``dicomtw`` means, and which fault has which."""

from __future__ import annotations

from enum import IntEnum

from dicomtw.errors import AssociationLost, IndexFault, NotAccepted, OperationFailed, UnreadableDataSet


class Exit(IntEnum):
    """Exit statuses of the command."""

    WELL = 0
    USAGE = 1
    NO_ASSOCIATION = 2
    FAILED = 3
    BUG = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


#: For ``--help``.
MEANINGS = {
    Exit.WELL: "all is well",
    Exit.USAGE: "wrong words, or a file that cannot be used",
    Exit.NO_ASSOCIATION: "the peer cannot be reached, has rejected the association or has ended it",
    Exit.FAILED: "the peer has answered with a failure, or not all objects came through",
    Exit.BUG: "a fault in dicomtw itself; -vv says where",
    Exit.INTERRUPTED: "ended by Ctrl-C; 143 by SIGTERM, 141 because nobody reads the output",
}


class Fault(Exception):
    """Why a command ends, in one line, and with which status."""

    def __init__(self, text: str, status: Exit = Exit.USAGE) -> None:
        super().__init__(text)
        self.status = status


_STATUSES: dict[type[Exception], Exit] = {
    AssociationLost: Exit.NO_ASSOCIATION,
    OperationFailed: Exit.FAILED,
    NotAccepted: Exit.FAILED,
    UnreadableDataSet: Exit.FAILED,
    OSError: Exit.USAGE,
    IndexFault: Exit.USAGE,
}

#: Exceptions whose text is for users; others are faults of ours.
EXPECTED: tuple[type[Exception], ...] = (Fault, *_STATUSES)


def status_of(error: Exception) -> Exit:
    """The exit status when a command ends with `error`."""
    if isinstance(error, Fault):
        return error.status
    found = (status for kind, status in _STATUSES.items() if isinstance(error, kind))
    return next(found, Exit.BUG)


def why(error: Exception) -> str:
    """An error in words, with the file that it is about."""
    filename = error.filename if isinstance(error, OSError) else None
    return f"{filename}: {reason(error)}" if filename else reason(error)


def reason(error: Exception) -> str:
    """An error in words, where it is known which file it is about."""
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error) or type(error).__name__
