"""Files of users and their passcodes, hashed with scrypt (RFC 7914), for PS3.15 B.5.

One user a line: ``USER:scrypt$N$R$P$SALT$HASH``, salt and hash in base64. Blank lines, and those that begin
with ``#``, are passed over.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import attrs

#: Cost of what we hash: a quarter of a second or so, and 32 MiB, which malloc gives back to the system at
#: once (it keeps what is smaller).
_N, _R, _P = 1 << 15, 8, 3
#: Cost of what we check, in bytes and in times: a line of the file is not to take the whole machine.
MAXIMUM_MEMORY: Final = 1 << 27
MAXIMUM_P: Final = 64
_SALT = 16
_HASH = 32


@attrs.frozen
class Hashed:
    """A hashed passcode. Neither salt nor hash is in the repr."""

    n: int
    r: int
    p: int
    salt: bytes = attrs.field(repr=False)
    hash: bytes = attrs.field(repr=False)

    @property
    def cost(self) -> int:
        """What it takes to check it, in some unit of time."""
        return self.n * self.r * self.p

    def matches(self, passcode: bytes) -> bool:
        """Whether it is of `passcode`; takes long."""
        return hmac.compare_digest(_scrypt(passcode, self), self.hash)

    def __str__(self) -> str:
        salt, key = (b64encode(one).decode() for one in (self.salt, self.hash))
        return f"scrypt${self.n}${self.r}${self.p}${salt}${key}"

    @classmethod
    def parse(cls, text: str) -> Hashed:
        """What `str` has made; raises `ValueError`."""
        name, *parts = text.split("$")
        if name != "scrypt" or len(parts) != 5 or not all(map(_is_number, parts[:3])):
            raise ValueError("not USER:scrypt$N$R$P$SALT$HASH")
        n, r, p = map(int, parts[:3])
        salt, key = parts[3:]
        if n < 2 or n & (n - 1) or not r or not p or 128 * n * r > MAXIMUM_MEMORY or p > MAXIMUM_P:
            raise ValueError(f"scrypt with N={n}, R={r}, P={p} cannot be checked")
        try:
            one = cls(n, r, p, b64decode(salt, validate=True), b64decode(key, validate=True))
        except binascii.Error:
            raise ValueError("salt or hash is not base64") from None
        if not one.salt or len(one.hash) < 16:
            raise ValueError("salt or hash is too short")
        return one


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12


def _scrypt(passcode: bytes, how: Hashed) -> bytes:
    return hashlib.scrypt(
        passcode,
        salt=how.salt,
        n=how.n,
        r=how.r,
        p=how.p,
        maxmem=256 * how.n * how.r + 1024 * how.r * how.p + (1 << 20),
        dklen=len(how.hash),
    )


def hashed(passcode: bytes) -> Hashed:
    """A passcode hashed with a new salt; takes long."""
    how = Hashed(_N, _R, _P, secrets.token_bytes(_SALT), bytes(_HASH))
    return attrs.evolve(how, hash=_scrypt(passcode, how))


def nobodys(users: Mapping[str, Hashed]) -> Hashed:
    """A hash of no passcode, which takes as long to check as that of a user: the slowest of them."""
    like = max(users.values(), key=lambda one: one.cost, default=Hashed(_N, _R, _P, b"", bytes(_HASH)))
    return attrs.evolve(like, salt=secrets.token_bytes(_SALT), hash=secrets.token_bytes(len(like.hash)))


def read(path: Path) -> tuple[dict[str, Hashed], list[str]]:
    """The users of a file, and what is wrong with other lines of it; raises `OSError`."""
    users: dict[str, Hashed] = {}
    faults = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        text = line.decode("utf-8", "replace").strip()
        if not text or text.startswith("#"):
            continue
        try:
            name, one = _entry(text)
            if name in users:
                raise ValueError(f"a second line for {name!r}")
            users[name] = one
        except ValueError as fault:
            faults.append(f"line {number} of {path}: {fault}")  # without the line, which is secret
    return users, faults


def _entry(text: str) -> tuple[str, Hashed]:
    """The user of a line, and his passcode; raises `ValueError`."""
    name, colon, rest = text.rpartition(":")
    if not colon or not name:
        raise ValueError("not USER:scrypt$N$R$P$SALT$HASH")
    return name, Hashed.parse(rest)


def passcode_in(path: Path) -> bytes:
    """The passcode that is the first line of a file; raises `OSError`, and `ValueError` if that is empty."""
    with open(path, "rb") as file:
        return line_of(file, str(path))


def line_of(file: BinaryIO, name: str) -> bytes:
    """The same of a file that is open, called `name`."""
    passcode = file.readline().removesuffix(b"\n").removesuffix(b"\r")
    if not passcode:
        raise ValueError(f"the first line of {name} is empty")
    return passcode


def check_user(name: str) -> None:
    """Raise `ValueError` for a name that cannot be in such a file, or in an item of PS3.7 D.3.3.7."""
    if not name or name != name.strip() or name.startswith("#") or ":" in name or not name.isprintable():
        raise ValueError(f"{name!r} cannot be a user: printable characters but a colon are possible")


def put(path: Path, name: str, one: Hashed) -> bool:
    """Add a user, or replace his passcode; whether he is new. Raises `OSError` and `ValueError`.

    The file is replaced at once, so that a server that reads it sees the old or the new one; it keeps its
    owner, and nobody else can read it.
    """
    check_user(name)
    path = Path(os.path.realpath(path))
    try:
        lines, old = path.read_bytes().split(b"\n"), os.stat(path)
    except FileNotFoundError:
        lines, old = [], None
    if lines and not lines[-1]:
        lines.pop()
    entry = f"{name}:{one}".encode()
    mine = [at for at, line in enumerate(lines) if line.strip().rpartition(b":")[0] == name.encode()]
    for number, line in enumerate(lines, 1):
        text = line.decode("utf-8", "replace").strip()
        if text and not text.startswith("#") and number - 1 not in mine:
            try:  # what is no such file is not made one
                _entry(text)
            except ValueError as fault:
                raise ValueError(f"line {number} of {path}: {fault}; nothing is changed") from None
    if mine:
        lines[mine[0]] = entry
        for at in reversed(mine[1:]):
            del lines[at]
    else:
        lines.append(entry)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode is 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(b"\n".join(lines) + b"\n")
            file.flush()
            if old is not None and (old.st_uid, old.st_gid) != (os.getuid(), os.getgid()):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return not mine
