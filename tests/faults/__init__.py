"""Disks that fail, processes that die, power cuts: what was acknowledged stays, so does what was there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.interop.scu import Scu, c_store_rq


def files_in(store: Path) -> dict[str, tuple[str, int, int]]:
    """SHA-256, inode and modification time of every file that is an object's, or was, by its path."""
    return {
        str(path.relative_to(store)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_ino,
            path.stat().st_mtime_ns,
        )
        for path in store.rglob("*.dcm")
        if not path.is_symlink()
    }


def incoming(store: Path) -> list[str]:
    """What is on its way, and notes of what the index may not have."""
    return sorted(path.name for path in (store / ".incoming").iterdir())


def answer(scu: Scu, sop_instance_uid: str, data_set: bytes) -> tuple[str, str]:
    """Status of a C-STORE, in hexadecimal, and its Error Comment."""
    response = scu.request(1, c_store_rq(sop_instance_uid), data_set)
    return f"{response.status:04X}", response.error_comment or ""
