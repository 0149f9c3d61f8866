"""An application entity that we know: who it is, what it may do, and how we reach it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs

from dicomtw import uids
from dicomtw.security.addresses import NETWORK, Network
from dicomtw.security.bindings import CERTIFICATE, Binding
from dicomtw.security.certificate import sha256_from
from dicomtw.settings import (
    AE_TITLE,
    FLAG,
    PATH,
    REMOTE_PORT,
    SECONDS,
    TEXT,
    ConfigError,
    Kind,
    check_text,
    kind_of_choice,
    kind_of_number,
    make,
    setting,
)

#: What a remote may be allowed, and the DIMSE operation that it is.
OPERATIONS = {"echo": "C-ECHO", "store": "C-STORE", "find": "C-FIND", "get": "C-GET", "move": "C-MOVE"}


def _check_sop_class(value: Any) -> str:
    text = check_text(value)
    if uids.is_valid_uid(text) and uids.is_strict_uid(text):
        return text
    found = uids.sop_class_of(text)
    if found is None:
        raise ValueError
    return found


FINGERPRINT = Kind(
    "a SHA-256 fingerprint: 64 hex digits, with or without colons",
    lambda value: sha256_from(check_text(value)),
)
SOP_CLASS = Kind("a SOP class, by its UID, its name or its keyword, such as CTImageStorage", _check_sop_class)


@attrs.frozen(kw_only=True)
class Remote:
    """An application entity that we know (PS3.15 leaves who may call to us)."""

    aet: str = setting(AE_TITLE, attrs.NOTHING, "its AE title")
    host: str = setting(TEXT, "", "its host name or IP address")
    port: int = setting(REMOTE_PORT, 0, "the port it listens on")
    tls: bool = setting(FLAG, False, "connections to it use TLS")
    check_host: bool = setting(
        FLAG, False, "accept associations in its name from its host only, and from its networks if it has any"
    )
    networks: tuple[Network, ...] = setting(
        NETWORK,
        (),
        "accept associations in its name from these networks only, and from its host if that is checked",
        many=True,
    )
    certificate: tuple[Binding, ...] = setting(
        CERTIFICATE,
        (),
        "accept associations in its name over TLS only, with one of these certificates: by fingerprint, or "
        "by subject or alternative name, which --tls-ca has to verify",
        many=True,
    )
    max_associations: int = setting(
        kind_of_number(0, 100000, "associations"),
        0,
        "associations in its name at a time; 0: no limit but the server's",
    )
    associations_per_minute: int = setting(
        kind_of_number(0, 1000000, "associations"), 0, "associations in its name in a minute; 0: no limit"
    )
    no_implementation_version_name: bool = setting(
        FLAG, False, "leave item 55H out of what we answer it, as the server option does for all"
    )
    enforce_default_transfer_syntax: bool = setting(
        FLAG, False, "choose Implicit VR Little Endian for it, as the server option does for all"
    )

    operations: tuple[str, ...] = setting(
        kind_of_choice(*OPERATIONS),
        tuple(OPERATIONS),
        f"what it may ask for: {', '.join(OPERATIONS)}",
        many=True,
        may_be_empty=True,
    )
    users: tuple[str, ...] = setting(
        TEXT, (), "accept associations in its name for these users only, as --auth knows them", many=True
    )
    sop_classes: tuple[str, ...] = setting(
        SOP_CLASS,
        (),
        "SOP classes it may use, and be sent objects of, besides verification; without any it may use all",
        many=True,
    )
    destinations: tuple[str, ...] = setting(
        AE_TITLE,
        (),
        "remotes to which it may have C-MOVE send; without any it may have it send to all",
        many=True,
    )
    tls_ca: Path | None = setting(
        PATH, None, "certificates of those who certify it, PEM; without them its certificate is not verified"
    )
    tls_cert: Path | None = setting(PATH, None, "our certificate for connections to it, PEM")
    tls_key: Path | None = setting(PATH, None, "the private key of that certificate, PEM (its file)")
    tls_crl: Path | None = setting(
        PATH, None, "certificate revocation lists of those who certify it, PEM: who is revoked is not sent to"
    )
    tls_sha256: tuple[str, ...] = setting(
        FINGERPRINT,
        (),
        "its certificate is one with this SHA-256 fingerprint, whoever has issued it",
        many=True,
    )
    user: str = setting(TEXT, "", "who we say our user is, in associations that we open to it")
    password_file: Path | None = setting(
        PATH, None, "a file whose first line is the passcode of that user, for a remote whom TLS verifies"
    )
    retries: int = setting(
        kind_of_number(0, 100, "times"), 0, "how often to try again if it cannot be reached or is busy"
    )
    retry_delay: float = setting(SECONDS, 5.0, "seconds between two tries")

    def __attrs_post_init__(self) -> None:
        if self.check_host and not self.host:
            raise ConfigError("check-host needs the host")
        if (self.tls_ca, self.tls_cert, self.tls_key) != (None, None, None) and not self.tls:
            raise ConfigError("tls-ca, tls-cert and tls-key need tls")
        if self.tls_sha256 and not self.tls:
            raise ConfigError("tls-sha256 needs tls")
        if self.password_file is not None and not self.user:
            raise ConfigError("password-file needs user")
        if self.password_file is not None and self.tls_ca is None and not self.tls_sha256:
            raise ConfigError(
                "password-file needs tls, and tls-ca or tls-sha256: others would get the passcode"
            )
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("tls-key needs tls-cert")
        if self.tls_crl is not None and self.tls_ca is None:
            raise ConfigError("tls-crl needs the certificates of those whose it is: tls-ca")


#: Words after AET@HOST:PORT in --remote, and what they set.
REMOTE_FLAGS = {
    "tls": "tls",
    "check-host": "check_host",
    "no-version": "no_implementation_version_name",
    "no-implementation-version-name": "no_implementation_version_name",
    "default-transfer-syntax": "enforce_default_transfer_syntax",
    "enforce-default-transfer-syntax": "enforce_default_transfer_syntax",
}


def parse_remote(text: str) -> Remote:
    """``AET@HOST:PORT[,FLAG...]``; an IPv6 address stands in brackets. Raises `ConfigError`."""
    address, *flags = text.split(",")
    title, at, host_and_port = address.rpartition("@")
    host, colon, port = host_and_port.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    if not (at and colon and host and port.isascii() and port.isdigit()) or (":" in host and not in_brackets):
        raise ConfigError(f"takes AET@HOST:PORT[,FLAG...], not {text!r}")
    if in_brackets:
        host = host[1:-1]
    unknown = [flag for flag in flags if flag not in REMOTE_FLAGS]
    if unknown:
        raise ConfigError(f"takes the flags {', '.join(REMOTE_FLAGS)}, not {unknown[0]!r}")
    values: dict[str, Any] = {"aet": title, "host": host, "port": int(port)}
    values |= {REMOTE_FLAGS[flag]: True for flag in flags}
    remote: Remote = make(Remote, values, str.upper)
    return remote


_AT_A_PORT = re.compile(r"(?:[^@]*@)?(?:\[[0-9a-fA-F:.%]+\]|[^:@/\[\]]+):[0-9]+(?:,.*)?")


def parse_peer(text: str) -> Remote | None:
    """``[AET@]HOST:PORT[,FLAG...]``, called ANY-SCP without a title; None for what does not look like that.

    Raises `ConfigError`.
    """
    if not _AT_A_PORT.fullmatch(text):
        return None
    remote = parse_remote(text if "@" in text else f"ANY-SCP@{text}")
    if not remote.port:
        raise ConfigError("cannot be at port 0")
    return remote
