"""TLS as PS3.15 Annex B profiles it: the profiles as data, and the OpenSSL context made of one.

Only pyOpenSSL, cryptography and service-identity are used here; `service` hands the context to Twisted.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import ipaddress
import os
import secrets
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from service_identity import CertificateError as ServiceCertificateError
from service_identity import VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity

#: Lifetime of a certificate that the server makes for itself, in days.
_LIFETIME = 3650

#: Where it is in the state directory, with its key; while it is made the directory has another name.
_PAIR, _CERT, _KEY = "tls", "cert.pem", "key.pem"
_UNFINISHED = f".{_PAIR}-"

#: The group of RFC 7919 for suites with DHE. Without it OpenSSL has them only for peers that name a group
#: themselves, which those that know DHE alone do not.
_DH_GROUP = Path(__file__).with_name("ffdhe3072.pem")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class TLSError(Exception):
    """One line that says why there can be no TLS with these files or this profile."""


@attrs.frozen
class Profile:
    """A TLS Secure Transport Connection Profile (PS3.15 Annex B)."""

    section: str
    title: str
    #: Cipher suites up to TLS 1.2, as OpenSSL names them; those of TLS 1.3 if they are restricted.
    ciphers: tuple[str, ...] = ()
    tls13_ciphers: tuple[str, ...] = ()
    maximum_version: int = 0  # 0: the highest there is
    #: Why it cannot be had, or a warning for whoever chooses it.
    refused: str = ""
    warning: str = ""


_GCM_RSA = (
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "DHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-AES256-GCM-SHA384",
)
_GCM_ECDSA = ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384")
_MODIFIED = (
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "DHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES256-CCM",
    "DHE-RSA-AES128-CCM",
    "DHE-RSA-AES256-CCM",
)
_AES = ("AES128-SHA",)
_OLD_VERSIONS = "TLS 1.0 and 1.1, which the profile allows, are not offered: OpenSSL refuses them"

#: By the names that DCMTK's tools have for them.
PROFILES: Final[Mapping[str, Profile]] = {
    "8996": Profile("B.12", "BCP 195 RFC 8996, 9325", _GCM_ECDSA + _GCM_RSA),
    "8996-mod": Profile(
        "B.13",
        "Modified BCP 195 RFC 8996, 9325",
        _GCM_ECDSA + _GCM_RSA + _MODIFIED,
        (
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_AES_128_CCM_SHA256",
        ),
        warning="TLS_AES_128_CCM_8_SHA256, which the profile lists, is not offered: OpenSSL holds its short "
        "tags for too weak",
    ),
    "bcp195-ex": Profile(
        "B.11",
        "Extended BCP 195",
        _GCM_ECDSA + _GCM_RSA,
        maximum_version=SSL.TLS1_2_VERSION,
        warning="the standard has retired this profile",
    ),
    "bcp195-nd": Profile(
        "B.10", "Non-Downgrading BCP 195", _GCM_RSA, warning="the standard has retired this profile"
    ),
    "bcp195": Profile(
        "B.9",
        "BCP 195",
        _GCM_ECDSA + _GCM_RSA + _AES,
        warning=f"the standard has retired this profile. {_OLD_VERSIONS}",
    ),
    "aes": Profile(
        "B.3",
        "AES",
        _GCM_ECDSA + _GCM_RSA + _AES,
        warning=f"the standard has retired this profile; AES128-SHA has no forward secrecy. {_OLD_VERSIONS}",
    ),
    "basic": Profile(
        "B.1",
        "Basic",
        refused="the Basic TLS profile (PS3.15 B.1) is 3DES, which no current OpenSSL has; "
        "put a TLS proxy in front for peers that know nothing else",
    ),
}

_VERIFY: Final[Mapping[str, int]] = {
    "none": SSL.VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}


@attrs.frozen(kw_only=True)
class TLSFiles:
    """What TLS on a server needs; all files are PEM."""

    #: Both None to look at the rest alone.
    cert: Path | None
    key: Path | None
    ca: Path | None = None
    verify: str = "none"
    profile: str = "8996"


def server_context(files: TLSFiles) -> SSL.Context:
    """The OpenSSL context of a server; raises `TLSError` where the files or the profile do not make one."""
    context = _context(SSL.TLS_SERVER_METHOD, files)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.load_tmp_dh(str(_DH_GROUP))
    # Binds resumed sessions to this configuration, without which none is resumed under client certificates.
    context.set_session_id(hashlib.sha256(repr(files).encode()).digest())
    return context


def client_context(files: TLSFiles) -> SSL.Context:
    """The OpenSSL context of a client; raises `TLSError` as `server_context` does.

    Its connections are verified by what `verification` says.
    """
    return _context(SSL.TLS_CLIENT_METHOD, files)


def _context(method: int, files: TLSFiles) -> SSL.Context:
    profile = PROFILES[files.profile]
    if profile.refused:
        raise TLSError(profile.refused)
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    if profile.maximum_version:
        context.set_max_proto_version(profile.maximum_version)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(":".join(profile.ciphers).encode())
    if profile.tls13_ciphers:
        context.set_tls13_ciphersuites(":".join(profile.tls13_ciphers).encode())
    _load(context, files)
    return context


#: X509_V_ERR_... of OpenSSL, in words.
_VERIFY_FAULTS: Final = {
    9: "not valid yet",
    10: "expired",
    18: "self-signed and not among those known",
    19: "of a chain whose root is not among those known",
    20: "of an issuer who is not among those known",
    21: "of an issuer who is not among those known",
    23: "revoked",
    26: "not for this purpose",
}


def verification(host: str, failed: Callable[[str], None]) -> Callable[..., bool]:
    """An OpenSSL verify callback: the chain is to be good, and the certificate `host`'s (RFC 6125).

    `failed` is told in words why a certificate is not accepted.
    """
    try:
        expected: DNS_ID | IPAddress_ID = IPAddress_ID(ipaddress.ip_address(host))
    except ValueError:
        expected = DNS_ID(host)

    def verify(_: SSL.Connection, certificate: crypto.X509, number: int, depth: int, good: int) -> bool:
        if not good:
            failed(f"the certificate is {_VERIFY_FAULTS.get(number, f'not accepted, OpenSSL says {number}')}")
            return False
        if depth:
            return True
        try:
            patterns = extract_patterns(certificate.to_cryptography())
            verify_service_identity(patterns, obligatory_ids=[expected], optional_ids=[])
        except (VerificationError, ServiceCertificateError, ValueError):
            failed(f"the certificate is not for {host}")
            return False
        return True

    return verify


def _load(context: SSL.Context, files: TLSFiles) -> None:
    steps: list[tuple[str, Path, str, Callable[[], object]]] = []
    if files.cert is not None and files.key is not None:
        cert, key = str(files.cert), str(files.key)
        steps += [
            ("cert", files.cert, "certificate", lambda: context.use_certificate_chain_file(cert)),
            ("key", files.key, "private key", lambda: context.use_privatekey(_private_key(key))),
            ("key", files.key, "private key that belongs to the certificate", context.check_privatekey),
        ]
    if files.ca is not None:
        ca = files.ca
        steps.append(("ca", ca, "certificate", lambda: context.load_verify_locations(str(ca))))
    for option, path, what, load in steps:
        try:
            path.read_bytes()
            load()
        except OSError as error:
            raise TLSError(f"--tls-{option} {path}: {error.strerror}") from None
        except (SSL.Error, ValueError, TypeError) as error:
            said = error.args[0] if error.args else ""
            if isinstance(error, SSL.Error):
                said = ", ".join(str(entry[-1]) for entry in said if entry)
            colon = ": " if said else ""
            raise TLSError(f"--tls-{option} {path} holds no usable {what}{colon}{said}") from None
    context.set_verify(_VERIFY[files.verify], lambda connection, cert, number, depth, ok: bool(ok))
    if files.ca is not None and files.verify != "none":
        context.load_client_ca(str(files.ca).encode())


def _private_key(path: str) -> Any:
    """An unencrypted key. OpenSSL's own loader would ask for a passphrase on the terminal."""
    return serialization.load_pem_private_key(Path(path).read_bytes(), password=None)


def fingerprint(cert: Path) -> str:
    """The SHA-256 fingerprint of the first certificate in a PEM file, written as OpenSSL does."""
    digest = x509.load_pem_x509_certificate(cert.read_bytes()).fingerprint(hashes.SHA256())
    return digest.hex(":").upper()


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
