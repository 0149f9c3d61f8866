"""Where each SOP instance is, by its UID: one UID is one object, whatever study it claims to be of.

``.by-uid/<two digits>/<UID>`` is a symbolic link to the object's file. The registry is a hint and never the
truth: it is not synced, a link that leads nowhere counts as none, and without one nothing is lost but the
knowledge that a UID is taken in another study.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import Final

#: Inside the store.
BY_UID: Final = ".by-uid"

_BUCKETS = 256


class Locations:
    """The registry of the store at `root`. Its methods are called while the names of the store are held."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / BY_UID

    def prepare(self) -> None:
        """Make the directories; raises `OSError`."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for number in range(_BUCKETS):
            (self._directory / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)

    def _link(self, sop_instance_uid: str) -> str:
        # Text, for every object passes here and a `Path` takes longer than what is done with it.
        bucket = zlib.crc32(sop_instance_uid.encode()) % _BUCKETS
        return f"{self._directory}/{bucket:02x}/{sop_instance_uid}"

    def find(self, sop_instance_uid: str) -> Path | None:
        """The file of an object that is stored, wherever it is; None if the UID is not known to be taken."""
        link = self._link(sop_instance_uid)
        try:
            target = os.readlink(link)
        except OSError:
            return None
        parts = Path(target).parts[2:]  # behind "../.."
        path = self._root.joinpath(*parts)
        is_ours = len(parts) == 3 and ".." not in parts and parts[-1] == f"{sop_instance_uid}.dcm"
        return path if is_ours else None

    def claim(self, sop_instance_uid: str, study: str, series: str) -> bool:
        """Register that an object is about to be there, if nothing is known of it: one call for nearly all.

        False where something may be known, or registered it cannot be.
        """
        try:
            target = f"../../{study}/{series}/{sop_instance_uid}.dcm"
            os.symlink(target, self._link(sop_instance_uid))
        except OSError:
            return False
        return True

    def forget(self, sop_instance_uid: str) -> None:
        """The object that was claimed to be there has not come."""
        with contextlib.suppress(OSError):
            os.unlink(self._link(sop_instance_uid))

    def put(self, sop_instance_uid: str, path: Path) -> None:
        """Register that the object is at `path`, instead of where it was before."""
        link = self._link(sop_instance_uid)
        target = "/".join(("..", "..", *path.parts[-3:]))
        with contextlib.suppress(OSError):
            try:
                os.symlink(target, link)
            except FileExistsError:
                os.unlink(link)
                os.symlink(target, link)
