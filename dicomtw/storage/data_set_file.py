"""The data set of a DICOM file (PS3.10 section 7), to be sent as it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from dicomtw.errors import UnreadableDataSet
from dicomtw.storage import header, part10

#: What is read together with the head, in bytes: of most objects that is all.
_BLOCK: Final = 256 * 1024
#: SOP Class and Instance UID are in so much of the data set, as a rule, and File Meta Information in so much
#: of a file.
_HEAD: Final = 16 * 1024

#: What the system is to have in its cache of a file that is opened ahead, in bytes.
_SOON: Final = 1 << 20

_NOTHING: Final = memoryview(b"")

_NAMES = frozenset({header.SOP_CLASS_UID, header.SOP_INSTANCE_UID})


class DataSetFile:
    """A file that is open at its data set.

    It may be opened `ahead` of its turn, by somebody who knows what it is: the system is told that it will be
    read soon, and nobody looks for the SOP UIDs in its data set, they are those of File Meta Information.
    """

    __slots__ = (
        "_at",
        "_block",
        "_fd",
        "_offset",
        "_padding",
        "size",
        "sop_class_uid",
        "sop_instance_uid",
        "transfer_syntax_uid",
    )

    def __init__(self, fd: int, *, ahead: bool = False) -> None:
        """Take over the descriptor, unless this raises: `OSError`, `ValueError` for what is no DICOM file."""
        self._fd = fd
        wanted = _HEAD if ahead else _BLOCK
        beginning = os.pread(fd, wanted, 0)
        try:
            head = part10.read_head(beginning)
        except ValueError:
            if not ahead or len(beginning) < wanted:
                raise
            beginning = os.pread(fd, wanted := _BLOCK, 0)
            head = part10.read_head(beginning)
        self._block = memoryview(beginning)
        self._offset = head.data_set_offset
        self._at = 0  # of the data set
        length = len(beginning)
        if length == wanted:
            length = max(length, os.fstat(fd).st_size)
        if ahead and length > wanted:
            self._block = _NOTHING
            os.posix_fadvise(fd, 0, _SOON, os.POSIX_FADV_WILLNEED)
        #: Of the data set in the file, in bytes.
        self.size = length - self._offset
        # What follows it, for fragments are of even length (PS3.5 A.5, PS3.8 Annex E): receivers abort the
        # association, with all that was to follow, at a last one of odd length.
        self._padding = b"\0" * (self.size % 2)
        #: How it is encoded, by its File Meta Information.
        self.transfer_syntax_uid = head.transfer_syntax_uid
        self.sop_class_uid, self.sop_instance_uid = head.sop_class_uid, head.sop_instance_uid
        if not ahead:
            self.sop_class_uid, self.sop_instance_uid = self._names(head)
        if length == len(self._block):
            self._close()  # all is read

    def _names(self, head: part10.FileHead) -> tuple[str, str]:
        """By the data set, for that is what is sent: File Meta Information of others may say another thing.
        It counts where the data set does not tell.
        """
        beginning = bytes(self._block[self._offset : self._offset + _HEAD])
        try:
            found = header.find_elements(
                self._read_at, self.transfer_syntax_uid, _NAMES, beginning, self.size
            )
        except UnreadableDataSet as error:
            if not (head.sop_class_uid and head.sop_instance_uid):
                raise ValueError(f"unreadable: {error}") from None
            found = {}
        return (
            header.uid_value(found.get(header.SOP_CLASS_UID)) or head.sop_class_uid,
            header.uid_value(found.get(header.SOP_INSTANCE_UID)) or head.sop_instance_uid,
        )

    def read_ahead(self) -> None:
        """Read the beginning, of most objects all, before it is asked for. Raises `OSError`."""
        if self._at == 0 and not self._block and self._fd >= 0:
            self._block = memoryview(os.pread(self._fd, self._offset + min(self.size, _SOON), 0))

    def _read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, self._offset + offset)

    def read(self, length: int, /) -> bytes | memoryview:
        """The next bytes, `length` at most; none at the end. What is odd is padded to an even length.

        Raises `OSError`, also if the file is shorter than when it was opened: its end is not the object's.
        """
        if length > 0 and self._at == self.size:
            padding, self._padding = self._padding, b""
            return padding
        length = min(length, self.size - self._at)
        if length <= 0:
            return b""
        start = self._offset + self._at
        piece: bytes | memoryview = self._block[start : start + length]
        if not piece:
            self._block = _NOTHING  # behind it
            piece = self._read_at(self._at, length)
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than it was")
        self._at += len(piece)
        return piece

    def close(self) -> None:
        """Read no more; again if need be."""
        self._block = _NOTHING
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def open_data_set(path: Path | str, *, ahead: bool = False) -> DataSetFile:
    """Open a file at its data set, as `DataSetFile` has it.

    Raises `OSError`, for a symbolic link too; `ValueError`, one line, for what is no DICOM file.
    """
    # O_NONBLOCK: to open a FIFO does not wait for its other end.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return DataSetFile(fd, ahead=ahead)
    except BaseException:
        os.close(fd)
        raise
