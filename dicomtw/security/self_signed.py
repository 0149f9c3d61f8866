"""The certificate that a server makes for itself, when it is told to use TLS and given none."""

from __future__ import annotations

import contextlib
import datetime
import errno
import ipaddress
import os
import secrets
import socket
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Its lifetime, in days.
_LIFETIME = 3650

#: Where it is in the state directory, with its key; while it is made the directory has another name.
_PAIR, _CERT, _KEY = "tls", "cert.pem", "key.pem"
_UNFINISHED = f".{_PAIR}-"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def make_self_signed(directory: Path, owner: tuple[int, int] | None = None) -> tuple[Path, Path]:
    """The certificate and key of this server's own making, made if they are not there yet.

    For encryption without authentication, unless it is given to peers by other ways. RSA, for the sake of
    old peers. `owner` is the (uid, gid) the server will run as. Raises `OSError`.

    This may be done by root, in a directory where `owner` can put what he likes: nothing is followed or
    given away but what is held open, and a pair is there as a whole or not at all.
    """
    try:
        state = _open_state(directory, owner)
        try:
            trusted = {os.geteuid(), 0} | ({owner[0]} if owner is not None else set())
            _must_belong(os.fstat(state), trusted, "it")
            if not _has_pair(state, trusted):
                _make_pair(state, owner, trusted)
        finally:
            os.close(state)
    except OSError as error:  # which names a file relative to what was open, if any
        raise OSError(error.errno, error.strerror, str(directory)) from None
    return directory / _PAIR / _CERT, directory / _PAIR / _KEY


def _open_state(directory: Path, owner: tuple[int, int] | None) -> int:
    """Open the state directory, made with those above it where they are missing."""
    path, missing = directory, list[str]()
    while True:
        try:
            # Those above are the administrator's, who may have symbolic links there.
            fd = os.open(path, _DIRECTORY | (0 if missing else os.O_NOFOLLOW))
            break
        except FileNotFoundError:
            if path == path.parent:
                raise
            missing.append(path.name)
            path = path.parent
        except NotADirectoryError:
            if path.is_symlink():
                raise PermissionError(errno.EPERM, "it is a symbolic link") from None
            raise
    while missing:
        above = fd
        try:
            fd = _make_directory(missing.pop(), above, owner, inside=missing[-1] if missing else _PAIR)
        finally:
            os.close(above)
    return fd


def _make_directory(name: str, above: int, owner: tuple[int, int] | None, inside: str = "") -> int:
    """Make a directory, the owner's alone, and open it; if another start was faster, open that one's.

    `inside` is what another start may have put in it already.
    """
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    try:
        # With anything else in it, it is not the one just made.
        strange = [one for one in os.listdir(fd) if one != inside and not one.startswith(_UNFINISHED)]
        if strange or os.fstat(fd).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"{name} was exchanged while it was made")
        if owner is not None:
            os.fchown(fd, *owner)
        os.fsync(above)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _must_belong(found: os.stat_result, trusted: set[int], what: str) -> None:
    if found.st_uid not in trusted:
        raise PermissionError(errno.EPERM, f"{what} belongs to user {found.st_uid}")


def _has_pair(state: int, trusted: set[int]) -> bool:
    """Whether certificate and key are there. One without the other is removed, to make way for a new pair."""
    try:
        pair = os.open(_PAIR, _DIRECTORY | os.O_NOFOLLOW, dir_fd=state)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise PermissionError(errno.EPERM, f"{_PAIR} is not a directory") from None
    try:
        _must_belong(os.fstat(pair), trusted, _PAIR)
        there = set(os.listdir(pair)) & {_CERT, _KEY}
        for name in there:
            # A link would have root read what the owner may not, such as somebody else's key.
            found = os.stat(name, dir_fd=pair, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise PermissionError(errno.EPERM, f"{_PAIR}/{name} is not a regular file")
            _must_belong(found, trusted, f"{_PAIR}/{name}")
        if len(there) == 2:
            return True
        # In the directory that is open: should another start replace it now, that one's is not touched.
        _remove_files(pair)
        return False
    finally:
        os.close(pair)


def _make_pair(state: int, owner: tuple[int, int] | None, trusted: set[int]) -> None:
    """Make a pair in a directory of its own, which one rename publishes; another start may be faster."""
    name = _UNFINISHED + secrets.token_hex(8)  # no other start's, and not that of one that was cut off
    unfinished = _make_directory(name, state, owner)
    try:
        for file_name, data in _self_signed().items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(file_name, flags, 0o600, dir_fd=unfinished), "wb", buffering=0) as file:
                file.write(data)
                if owner is not None:
                    os.fchown(file.fileno(), *owner)
                os.fsync(file.fileno())
        os.fsync(unfinished)
        try:
            os.rename(name, _PAIR, src_dir_fd=state, dst_dir_fd=state)
        except OSError as error:
            # A directory that is not empty is not replaced: it is the winner's, or has what is not ours.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _has_pair(state, trusted):
                raise
            _remove_unfinished(name, state, unfinished)
        os.fsync(state)
    except BaseException:
        _remove_unfinished(name, state, unfinished)
        raise
    finally:
        os.close(unfinished)


def _remove_unfinished(name: str, state: int, unfinished: int) -> None:
    with contextlib.suppress(OSError):  # if it stays it does no harm
        _remove_files(unfinished)
        os.rmdir(name, dir_fd=state)


def _remove_files(pair: int) -> None:
    for name in (_CERT, _KEY):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=pair)


def _self_signed() -> dict[str, bytes]:
    """A new key and its certificate in PEM, by their file names."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    names = [name for name in dict.fromkeys((socket.gethostname(), "localhost")) if name]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_LIFETIME))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(name) for name in names]
                + [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1")]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {_KEY: key_pem, _CERT: certificate.public_bytes(serialization.Encoding.PEM)}
