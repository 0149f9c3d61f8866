"""Files on their way into a store, and the note of which have arrived that its index may not have.

A temporary file gets its name by a second hard link. It keeps its first name, in ``.incoming``, until the
index has the object: what is found there with two names after a crash has arrived, what has one was only half
received. Where a file system has no hard links, a small file that says the name is the note.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dicomtw.storage.files import sync

#: Inside the store.
INCOMING: Final = ".incoming"

#: Second temporary names, by which what has a name already gets another's; and notes that say a name.
_SECOND: Final = ".second"
_NOTE: Final = ".note"

#: What `os.link` says where there are no hard links, or no more of them.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Journal:
    """``.incoming`` in the store at `root`; without `notes`, as there is no index, it has what comes in."""

    def __init__(self, root: Path, notes: bool) -> None:
        self._root = root
        self._notes = notes
        self._directory = root / INCOMING
        self._token = secrets.token_hex(4)
        self.forked()
        self._numbers = itertools.count()  # threads may share it: next() is atomic

    def forked(self) -> None:
        """We are another process than before: our files get names of their own."""
        # Text, for every object passes here and a `Path` takes longer than what is done with it.
        self._prefix = f"{self._directory}/{self._prefix_of(os.getpid())}"

    def _prefix_of(self, process: int) -> str:
        return f"{process}-{self._token}"

    def prepare(self) -> None:
        """Make the directory; raises `OSError`."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if self._directory.is_symlink():
            # What it leads to is not ours to clean up.
            raise OSError(errno.ELOOP, f"{INCOMING} is a symbolic link")

    def clean(self, processes: Sequence[int] | None = None) -> tuple[int, list[Path]]:
        """Remove what was half received; how many such files, and the notes of what has arrived.

        Call it while nobody else uses the store, or for forked `processes` that have ended. Raises `OSError`.
        """
        removed, notes = 0, []
        prefixes = ("",) if processes is None else tuple(f"{self._prefix_of(each)}-" for each in processes)
        for path in sorted(self._directory.iterdir()):
            if not path.name.startswith(prefixes):
                continue
            if path.is_dir():
                continue  # somebody else's
            with contextlib.suppress(FileNotFoundError):  # an earlier run's process has entered just this
                if self._notes and (path.suffix == _NOTE or path.stat(follow_symlinks=False).st_nlink > 1):
                    notes.append(path)
                else:
                    path.unlink()
                    removed += 1
        return removed, notes

    def temporary_file(self) -> tuple[int, str]:
        """A new file, open for reading and writing, and its path."""
        path = f"{self._prefix}-{next(self._numbers)}"
        return _create(path), path

    def force_out(self) -> None:
        """Force the names of all notes to stable storage; raises `OSError`."""
        sync(self._directory)

    def name(self, temporary: str, final: str, *, taken: bool) -> str | None:
        """Give a complete temporary file its name, be that `taken` or not; the note of it.

        Raises `OSError`, of which `FileExistsError` says that it is taken; then nothing is changed.
        """
        if self._notes:
            try:
                if taken:
                    self._take(temporary, final)
                else:
                    os.link(temporary, final)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            else:
                return temporary
        if not taken and os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not self._notes:
            os.rename(temporary, final)
            return None
        note = temporary + _NOTE
        try:
            self._write(note, os.fsencode(os.path.relpath(final, self._root)))
            os.rename(temporary, final)
        except OSError:
            self.remove(note)
            raise
        return note

    def _write(self, note: str, content: bytes) -> None:
        fd = _create(note)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def _take(self, temporary: str, final: str) -> None:
        second = temporary + _SECOND
        os.link(temporary, second)
        try:
            os.rename(second, final)
        except OSError:
            self.remove(second)
            raise

    def noted(self, note: Path) -> Path | None:
        """The file that a note of a name is about; None if the note is the file itself, by another name.

        Raises `OSError`, `ValueError`.
        """
        if note.suffix != _NOTE:
            return None
        parts = Path(os.fsdecode(note.read_bytes())).parts
        if len(parts) != 3 or ".." in parts or "/" in parts:
            raise ValueError("no note of a name")
        return self._root.joinpath(*parts)

    def discard(self, fd: int, temporary: str) -> None:
        """Remove a temporary file that is open, unless it has its name: then it is the note of that."""
        with contextlib.suppress(OSError):  # what cannot be removed now, the next start removes
            if not (self._notes and os.fstat(fd).st_nlink > 1):
                os.unlink(temporary)

    def remove(self, note: str) -> None:
        """The index has what the note is about."""
        with contextlib.suppress(OSError):  # then the next start enters it once more
            os.unlink(note)


def _create(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
