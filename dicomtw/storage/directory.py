"""A store that is a directory: ``<Study UID>/<Series UID>/<SOP Instance UID>.dcm``, each a PS3.10 file.

What is acknowledged is never lost: bytes go to a temporary file, which gets its name in one step when
everything is there, checked and (``durability="strict"``) on stable storage; then the directory is synced.
Whatever fails before it has its name leaves no trace and does not touch an object stored before. If the
directory cannot be synced after that, the object is refused and stays, whole: somebody else who sent it too
may have been told that it is safe. If the store has an index, a note stays in its journal until the index has
the object too: what a crash comes between, the next start finds there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

import attrs

from dicomtw import uids
from dicomtw.errors import DimseError
from dicomtw.storage import WouldBlock, header
from dicomtw.storage.directory_sink import DirectorySink
from dicomtw.storage.doubts import Doubts
from dicomtw.storage.files import same_file, same_object, stat_of, sync
from dicomtw.storage.journal import Journal
from dicomtw.storage.locations import Locations
from dicomtw.storage.lock_file import LockFile
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored, read_stored

# Statuses of PS3.4 Table B.2-1 and PS3.7 Annex C, spelled out: this layer stands below `dimse`.
_DUPLICATE_SOP_INSTANCE: Final = 0x0111
_INVALID_SOP_INSTANCE: Final = 0x0117

#: Inside the store: earlier versions of what was replaced.
SUPERSEDED: Final = "superseded"

#: Directories remembered as made, so that not every object makes them again.
_DIRECTORIES = 10_000


class Durability(Enum):
    """What an acknowledged object survives."""

    #: A power cut: file, name and new directories are on stable storage before the answer.
    STRICT = "strict"
    #: A crash of the server, not of the machine: nothing is forced to stable storage.
    RELAXED = "relaxed"


class OnDuplicate(Enum):
    """What happens when an object comes whose SOP Instance UID is there already with other bytes."""

    REPLACE = "replace"
    KEEP = "keep"
    REFUSE = "refuse"


class DirectoryStore:
    """Keeps SOP instances below `root`; any number of threads and processes may share one.

    `indexed` are the tags that an index wants of each object; None: there is no index, and no journal.
    Call `prepare` once before the first `open`; then, with an index, enter what `unsettled` has.
    """

    def __init__(
        self,
        root: Path,
        durability: Durability = Durability.STRICT,
        on_duplicate: OnDuplicate = OnDuplicate.REPLACE,
        indexed: frozenset[int] | None = None,
    ) -> None:
        self.root = root
        self._root = str(root)
        self.strict = durability is Durability.STRICT
        self.wanted = header.NAMING | (indexed or frozenset())
        self._has_index = indexed is not None
        self._on_duplicate = on_duplicate
        self.journal = Journal(root, notes=self._has_index)
        self._unsettled: list[Path] = []
        self._in_use = LockFile(root / ".lock")
        self._names = LockFile(root / ".names")
        self._locations = Locations(root)
        #: Paths of directories known to be there, and (strict) to have their own names on stable storage.
        self._directories: set[str] = set()
        self._doubts = Doubts(root)

    def prepare(self) -> int:
        """Make the directories and remove what earlier runs had half received; the number of such files.

        Leftovers are removed only while no other process uses the store. Raises `OSError`.
        """
        self._make_root()
        (self.root / SUPERSEDED).mkdir(mode=0o700, exist_ok=True)
        self.journal.prepare()
        self._locations.prepare()
        removed = 0
        if self._in_use.try_exclusive():
            removed, self._unsettled = self.journal.clean()
        self._in_use.share()
        self._names.open()
        if self.strict:
            sync(self.root)
        return removed

    def forked(self, ended: Sequence[int]) -> int:
        """To be called in a process that was forked after `prepare`; what it shares with others is the lock.

        Removes what such processes had half received that have `ended`, by their numbers; how many files.
        Enter what `unsettled` has. Raises `OSError`.
        """
        self.journal.forked()
        self._names.close()  # who holds a lock holds it for all that have it from the same opening
        self._names.open()
        removed, self._unsettled = self.journal.clean(ended)
        return removed

    def _make_root(self) -> None:
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            if self.strict:
                sync(path.parent)

    def close(self) -> None:
        """Let other processes clean up after us."""
        self._in_use.close()
        self._names.close()

    def open(self, meta: FileMeta) -> DirectorySink:
        """A sink for the data set of one SOP instance.

        Raises `DimseError` if its UID cannot be a name (0117H): what a peer sends never chooses a path.
        """
        if not uids.is_valid_uid(meta.sop_instance_uid):
            raise DimseError(_INVALID_SOP_INSTANCE, "invalid SOP Instance UID")
        return DirectorySink(self, meta)

    # -- what the index has

    def unsettled(self) -> Iterator[Stored]:
        """What earlier runs gave its name and the index may not have, as `prepare` found it.

        For each to be entered into the index, and then `settled`. Reads each file.
        """
        for note in self._unsettled:
            try:
                stored = self._arrived(note)
            except (FileNotFoundError, NotADirectoryError, ValueError):
                stored = None
            except OSError:
                continue  # another start may be able to read it
            if stored is None:
                self.journal.remove(str(note))  # it had not come to its name, or is no longer there
            else:
                yield stored
        self._unsettled = []

    def _arrived(self, note: Path) -> Stored | None:
        path = self.journal.noted(note)
        if path is None:
            stored = read_stored(note, self.wanted)
            path = self._path(stored)
            if not os.path.samestat(os.lstat(note), os.lstat(path)):
                return None
        else:
            stored = self._read(path)
        self._finish_move(stored.sop_instance_uid, path)
        return stored.noted(str(note))

    def _finish_move(self, sop_instance_uid: str, path: Path) -> None:
        """Remove the name that the object has in another series still, if a crash came before that."""
        with self._names.held():
            earlier = self._locations.find(sop_instance_uid)
            there = None if earlier is None or earlier == path else stat_of(earlier)
            if earlier is not None and there is not None:
                if not self._is_superseded(earlier, there):
                    return
                self._leave(earlier)
            self._locations.put(sop_instance_uid, path)

    def _is_superseded(self, path: Path, there: os.stat_result) -> bool:
        kept = self._superseded(path).glob(f"{path.stem}.*.dcm")
        return any(os.path.samestat(os.lstat(each), there) for each in kept)

    def settled(self, batch: Iterable[Stored]) -> list[Stored]:
        """The index has these.

        Returns what by now is there instead of those that were replaced meanwhile, perhaps before the index
        learned of them: enter that too, so that the last word is true, and settle it.
        """
        again = []
        for stored in batch:
            try:
                now = self._now(stored)
            except OSError:
                continue  # the next start may be able to say
            if now is not None:
                again.append(now)
            elif stored.journal is not None:
                self.journal.remove(stored.journal)
        return again

    def _now(self, stored: Stored) -> Stored | None:
        """What is there instead of `stored`; None if nothing is or it is as it was."""
        there = stat_of(f"{self._root}/{stored.study}/{stored.series}/{stored.sop_instance_uid}.dcm")
        if there is not None and (there.st_ino, there.st_mtime_ns) == (stored.inode, stored.mtime_ns):
            return None  # as nearly all are
        path, there = self._find(self._path(stored), stored.sop_instance_uid)
        if there is None:
            return None
        try:
            return self._read(path).noted(stored.journal)
        except (FileNotFoundError, ValueError):
            return None

    def _read(self, path: Path) -> Stored:
        """What the object at `path` is; its names are the path's. Raises as `read_stored`."""
        stored = read_stored(path, self.wanted)
        if path.name != stored.path.name:
            raise ValueError("has another object's name")
        return attrs.evolve(stored, study=path.parent.parent.name, series=path.parent.name)

    # -- directory_sink.Publisher

    def publish(self, temporary: str, stored: Stored, may_block: bool) -> Stored | None:
        """Give a complete temporary file its name, or find that its object is there already.

        Returns what the index is to know: of the object, or of the earlier one if that stays. That is the
        file's only name then, but for a note in the journal. The temporary file is left where this raises:
        `OSError`, `DimseError` for a duplicate that is refused, `WouldBlock`.
        """
        with self._names.held(may_block):
            is_named, note = self._name_new(temporary, stored)
        if is_named:
            if self.strict:
                self._force_out_name(self._path(stored))
            return stored.noted(note)
        final = self._path(stored)
        while True:
            with self._names.held(may_block):
                earlier, there = self._find(final, stored.sop_instance_uid)
                if there is None:
                    self._make_directory(final.parent)
                    note = self.journal.name(temporary, str(final), taken=False)
                    self._locations.put(stored.sop_instance_uid, final)
                    break
            if not may_block:
                raise WouldBlock
            if not stat.S_ISREG(there.st_mode):
                raise FileExistsError(errno.EEXIST, "what has the object's name is no file")
            try:
                if self._doubts.has(there):
                    self._check_replaces_doubtful(temporary, earlier)
                elif self._on_duplicate is OnDuplicate.KEEP or same_object(temporary, earlier):
                    return self._keep(temporary, earlier)
                elif self._on_duplicate is OnDuplicate.REFUSE:
                    raise DimseError(_DUPLICATE_SOP_INSTANCE, "SOP instance stored before with other content")
            except FileNotFoundError:
                if not os.path.lexists(temporary):
                    raise
                continue  # moved meanwhile
            try:
                note = self._replace(temporary, final, earlier, there)
            except _Changed:
                continue
            return stored.noted(note)
        if self.strict:
            self._force_out_name(final)
        return stored.noted(note)

    def _name_new(self, temporary: str, stored: Stored) -> tuple[bool, str | None]:
        """Give a file its name if its series is known and its UID is not, as with nearly all that come: two
        system calls. Whether that could be done, and its note in the journal.
        """
        study, series, uid = stored.study, stored.series, stored.sop_instance_uid
        directory = f"{self._root}/{study}/{series}"
        if directory not in self._directories or not self._locations.claim(uid, study, series):
            return False, None
        try:
            return True, self.journal.name(temporary, f"{directory}/{uid}.dcm", taken=False)
        except OSError as error:
            self._locations.forget(uid)
            if isinstance(error, (FileExistsError, FileNotFoundError)):
                return False, None  # it is there, unregistered; or its directory is gone
            raise

    def _keep(self, temporary: str, earlier: Path) -> Stored | None:
        """Give up `temporary` for what is there already; what that is, None if there is no index to know."""
        if self.strict:
            self._force_out(earlier)  # it may have been stored relaxed
            self._make_directory(earlier.parent)
            sync(earlier.parent)
        stored = None
        if self._has_index:
            with contextlib.suppress(ValueError):  # whatever became of its content
                stored = self._read(earlier)
        os.unlink(temporary)
        return stored

    def _force_out(self, earlier: Path) -> None:
        there = os.lstat(earlier)
        try:
            sync(earlier)
        except OSError:
            self._doubts.add(there)
            raise

    def _force_out_name(self, final: Path) -> None:
        """Force out the name that a new file has got."""
        try:
            sync(final.parent)
        except OSError:
            with contextlib.suppress(OSError):
                self._doubts.add(os.lstat(final))
            raise

    def _check_replaces_doubtful(self, temporary: str, earlier: Path) -> None:
        """The same bytes, which are safe, take the place of a file that cannot be relied on; no others do."""
        if self._on_duplicate is not OnDuplicate.REPLACE and not same_object(temporary, earlier):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _path(self, stored: Stored) -> Path:
        return self.root.joinpath(stored.study, stored.series, f"{stored.sop_instance_uid}.dcm")

    def _find(self, final: Path, sop_instance_uid: str) -> tuple[Path, os.stat_result | None]:
        """Where the object of this UID is, and what is there: `final` and None if it is not stored."""
        there = stat_of(final)
        if there is None:
            elsewhere = self._locations.find(sop_instance_uid)
            if elsewhere is not None:
                return elsewhere, stat_of(elsewhere)
        return final, there

    def _replace(self, temporary: str, final: Path, earlier: Path, there: os.stat_result) -> str | None:
        """Let `temporary` take the name, and keep the earlier version under ``superseded``.

        Returns the note in the journal. Raises `_Changed` if `earlier` is no longer the file that `there`
        describes; then nothing is done.
        """
        directory = self._superseded(earlier)
        self._make_directory(directory)
        kept = directory / f"{final.stem}.{there.st_mtime_ns}-{secrets.token_hex(2)}.dcm"
        with self._names.held():
            now = stat_of(earlier)
            if now is None or not same_file(now, there):
                raise _Changed
            if earlier != final and stat_of(final) is not None:
                raise _Changed
            self._make_directory(final.parent)  # while nobody else may remove it for being empty
            os.link(earlier, kept)
            try:
                if self.strict:
                    sync(directory)
                note = self.journal.name(temporary, str(final), taken=earlier == final)
            except OSError:
                os.unlink(kept)
                raise
            try:
                if self.strict:
                    if earlier != final:
                        # The index has it where it soon is not: the next start must learn that.
                        self.journal.force_out()
                    sync(final.parent)
            except OSError:
                # A store that fails does not change what was stored before.
                if earlier == final:
                    os.rename(kept, final)
                else:
                    os.unlink(final)
                    os.unlink(kept)
                raise
            if earlier != final:
                self._leave(earlier)
            # Only now: where a crash comes between, this still says what was to be left.
            self._locations.put(final.stem, final)
        return note

    def _superseded(self, path: Path) -> Path:
        """Where earlier versions of an object are kept."""
        return self.root / SUPERSEDED / path.parent.relative_to(self.root)

    def _leave(self, earlier: Path) -> None:
        """Remove the name that an object had in another series; it is stored whether this succeeds or not."""
        with contextlib.suppress(OSError):
            os.unlink(earlier)
            if self.strict:
                sync(earlier.parent)
            os.rmdir(earlier.parent)  # if it was the last one there
            self._directories.discard(str(earlier.parent))
            os.rmdir(earlier.parent.parent)

    def _is_made(self, directory: Path) -> bool:
        return str(directory) in self._directories and directory.is_dir()

    def _make_directory(self, directory: Path) -> None:
        """A directory below the root, with the names that lead to it on stable storage."""
        if self._is_made(directory):
            return
        path = self.root
        for name in directory.relative_to(self.root).parts:
            parent, path = path, path / name
            path.mkdir(mode=0o700, exist_ok=True)
            if self.strict:
                sync(parent)  # whoever made it: that it is there does not say that its maker has synced it
        if len(self._directories) >= _DIRECTORIES:
            self._directories.clear()
        self._directories.add(str(directory))


class _Changed(Exception):
    """What was there is no longer as it was: look again."""
