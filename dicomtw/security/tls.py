"""TLS as PS3.15 Annex B profiles it: OpenSSL contexts made of PEM files and of one of the `profiles`.

Only pyOpenSSL and cryptography are used here; `tls_listening` and `client` hand the contexts to Twisted.
"""

from __future__ import annotations

import datetime
import functools
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from OpenSSL import SSL, crypto

from dicomtw.security.profiles import PROFILES, SUITES, Profile
from dicomtw.security.verification import leave_fault
from dicomtw.security.verification import verification as verification  # for those who make connections

#: The group of RFC 7919 for suites with DHE. Without it OpenSSL has them only for peers that name a group
#: themselves, which those that know DHE alone do not.
_DH_GROUP = Path(__file__).with_name("ffdhe3072.pem")

#: Seconds for which a session can be resumed: so long is nobody asked for a certificate again. In TLS 1.3
#: each resumption begins such a time anew, so that contexts are to be made anew, too: see `renewal`.
SESSION_LIFETIME = 600

#: The last part of the lifetime of a certificate of ours, in which it should have been renewed.
_LAST = 10

#: A PEM block, whole (RFC 7468).
_BLOCK = re.compile(rb"-----BEGIN ([^-\n]*)-----(?:(?!-----).)*-----END \1-----", re.DOTALL)

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


class TLSError(Exception):
    """One line that says why there can be no TLS with these files or this profile."""


_VERIFY: Final[Mapping[str, int]] = {
    "none": SSL.VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
#: What is made of the certificates of peers.
VERIFY: Final = tuple(_VERIFY)


@attrs.frozen(kw_only=True)
class TLSFiles:
    """What TLS is made of; all files are PEM. The names are those of the settings, without ``tls-``."""

    #: None to look at the rest alone, and for clients that have none.
    cert: Path | None = None
    #: By default it is in the file of the certificate.
    key: Path | None = None
    #: Certificates of authorities to send along, if they are not in the file of the certificate.
    chain: Path | None = None
    #: Those who certify peers, and the CRLs that they publish.
    ca: Path | None = None
    crl: Path | None = None
    #: One of `VERIFY`, by default required where there is a `ca`, else none.
    verify: str = ""
    profile: str = "8996"

    @property
    def verification(self) -> str:
        return self.verify or ("none" if self.ca is None else "required")

    def paths(self) -> dict[str, Path]:
        """The files that there are, by the names of their settings."""
        names = ("cert", "key", "chain", "ca", "crl")
        found = {name: getattr(self, name) for name in names}
        return {name: path for name, path in found.items() if path is not None}

    def contradictions(self) -> list[str]:
        """What does not go together, a line each, with options of the command line for the settings."""
        rules = {
            "--tls-key needs --tls-cert": self.key is not None and self.cert is None,
            "--tls-chain needs --tls-cert": self.chain is not None and self.cert is None,
            "--tls-verify needs the certificates to verify against: --tls-ca": self.ca is None
            and self.verify in ("optional", "required"),
            "--tls-crl needs the certificates of those whose it is: --tls-ca": self.crl is not None
            and self.ca is None,
            "--tls-crl is of no use with --tls-verify=none": self.crl is not None and self.verify == "none",
        }
        return [fault for fault, applies in rules.items() if applies]


#: What was in the files when they were read, by the names of their settings.
Contents = Mapping[str, bytes]


def read(files: TLSFiles) -> Contents:
    """Read all files; raises `TLSError` for one that cannot be read."""
    contents = {}
    for name, path in files.paths().items():
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            raise TLSError(f"--tls-{name} {path}: {error.strerror}") from None
    return contents


def server_context(files: TLSFiles, contents: Contents | None = None) -> SSL.Context:
    """The OpenSSL context of a server; raises `TLSError` where the files or the profile do not make one.

    The files are read, unless it is known what is in them. What is wrong with the certificate of a peer is
    left with its connection, see `verification.verification_fault`.
    """
    contents = read(files) if contents is None else contents
    context = _context(SSL.TLS_SERVER_METHOD, files, contents)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    try:
        context.load_tmp_dh(str(_DH_GROUP))
    except SSL.Error:  # root was dropped, and with it the right to read our own installation
        raise TLSError(f"{_DH_GROUP} cannot be read") from None
    # Without one no session is resumed under client certificates. Keys for tickets are each context's own.
    context.set_session_id(secrets.token_bytes(32))
    context.set_timeout(SESSION_LIFETIME)
    context.set_verify(_VERIFY[files.verification], leave_fault)
    if files.ca is not None and files.verification != "none":
        for authority in _certificates(files, "ca", contents):
            context.add_client_ca(authority)
    return context


def client_context(files: TLSFiles, contents: Contents | None = None) -> SSL.Context:
    """The OpenSSL context of a client; raises `TLSError` as `server_context` does.

    Its connections are verified by what `verification.verification` or `verification.pinned` says.
    """
    return _context(SSL.TLS_CLIENT_METHOD, files, read(files) if contents is None else contents)


def _context(method: int, files: TLSFiles, contents: Contents) -> SSL.Context:
    profile = PROFILES[files.profile]
    if profile.refused:
        raise TLSError(profile.refused)
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    _offer(context, profile)
    if "cert" in contents:
        _use_own(context, files, contents, profile)
    store = context.get_cert_store()
    assert store is not None
    if "ca" in contents:
        for authority in _certificates(files, "ca", contents):
            store.add_cert(crypto.X509.from_cryptography(authority))
    if "crl" in contents:
        for crl in _crls(files, contents):
            store.add_crl(crl)
        # Also of authorities; that there is no list of these is let pass by `verification.is_good`.
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
    return context


def _offer(context: SSL.Context, profile: Profile, level: str = "") -> None:
    if "TLS 1.3" not in profile.versions:
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(":".join((*profile.ciphers, *filter(None, [level]))).encode())
    if profile.tls13_ciphers:
        context.set_tls13_ciphersuites(":".join(profile.tls13_ciphers).encode())


# -- what is in the files


def _use_own(context: SSL.Context, files: TLSFiles, contents: Contents, profile: Profile) -> None:
    own, *chain = _certificates(files, "cert", contents)
    name = "cert" if files.key is None else "key"
    key = _loaded(files, name, "private key", lambda: _private_key(contents[name]))
    fault = _key_fault(own.public_key(), profile)
    if fault:
        raise TLSError(f"--tls-cert {files.cert}: {fault}")
    _loaded(files, "cert", "certificate", lambda: context.use_certificate(own))
    for one in (*chain, *(_certificates(files, "chain", contents) if "chain" in contents else ())):
        context.add_extra_chain_cert(one)

    def use_key() -> None:
        context.use_privatekey(key)
        context.check_privatekey()

    _loaded(files, name, "private key that belongs to the certificate", use_key)


def _loaded(files: TLSFiles, name: str, what: str, load: Callable[[], Any]) -> Any:
    """What `load` returns; what is wrong with the file as a `TLSError`."""
    try:
        return load()
    except (SSL.Error, crypto.Error, ValueError, TypeError, x509.InvalidVersion) as error:
        said = error.args[0] if error.args else ""
        if isinstance(error, SSL.Error | crypto.Error):
            said = ", ".join(str(entry[-1]) for entry in said if entry)
        said = str(said).partition(" See https://")[0].rstrip(".").replace("\n", " ")
        colon = ": " if said else ""
        path = files.paths()[name]
        raise TLSError(f"--tls-{name} {path} holds no usable {what}{colon}{said}") from None


def _refuse_half(files: TLSFiles, name: str, what: str, contents: Contents) -> None:
    """Raise `TLSError` for a file that is being written: parsers pass over a block without its end."""
    if b"-----BEGIN" in _BLOCK.sub(b"", contents[name]):
        raise TLSError(f"--tls-{name} {files.paths()[name]} holds no usable {what}: a PEM block has no end")


def _certificates(files: TLSFiles, name: str, contents: Contents) -> list[x509.Certificate]:
    """The certificates in a file, of which there is one at least."""
    _refuse_half(files, name, "certificate", contents)
    found: list[x509.Certificate] = _loaded(
        files, name, "certificate", lambda: x509.load_pem_x509_certificates(contents[name])
    )
    return found


def _crls(files: TLSFiles, contents: Contents) -> list[x509.CertificateRevocationList]:
    _refuse_half(files, "crl", "CRL", contents)
    blocks = _CRL.findall(contents["crl"])
    if not blocks:
        raise TLSError(f"--tls-crl {files.crl} holds no usable CRL")
    found: list[x509.CertificateRevocationList] = _loaded(
        files, "crl", "CRL", lambda: [x509.load_pem_x509_crl(block) for block in blocks]
    )
    return found


def _private_key(pem: bytes) -> Any:
    """An unencrypted key. OpenSSL's own loader would ask for a passphrase on the terminal."""
    return serialization.load_pem_private_key(pem, password=None)


def _key_fault(key: object, profile: Profile) -> str:
    """Why a profile allows no certificate with this key, in words; empty if it does."""
    if isinstance(key, rsa.RSAPublicKey):
        kind, bits, least = "RSA", key.key_size, profile.rsa_bits
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind, bits, least = "EC", key.key_size, profile.ec_bits
    elif isinstance(key, dsa.DSAPublicKey):
        return "its key is DSA, which TLS no longer has"
    else:
        return ""
    if bits >= least:
        return ""
    return f"its {kind} key has {bits} bits, and PS3.15 {profile.section} wants {least} at least"


def remarks(files: TLSFiles, contents: Contents, now: datetime.datetime | None = None) -> Iterator[str]:
    """What an operator should know of good files: what in them is out of date, a line each."""
    now = now or datetime.datetime.now(datetime.UTC)
    if "cert" in contents:
        own = _certificates(files, "cert", contents)[0]
        if own.not_valid_after_utc < now:
            yield f"the certificate {files.cert} has expired on {own.not_valid_after_utc:%Y-%m-%d}"
        elif (own.not_valid_after_utc - now) * _LAST < own.not_valid_after_utc - own.not_valid_before_utc:
            yield f"the certificate {files.cert} expires on {own.not_valid_after_utc:%Y-%m-%d}"
        elif own.not_valid_before_utc > now:
            yield f"the certificate {files.cert} is not valid before {own.not_valid_before_utc:%Y-%m-%d}"
    for crl in _crls(files, contents) if "crl" in contents else ():
        due = crl.next_update_utc
        if due is not None and due < now:
            issuer = crl.issuer.rfc4514_string()
            yield (
                f"the CRL of {issuer!r} in {files.crl} has expired on {due:%Y-%m-%d %H:%M} UTC: "
                "certificates of that issuer are refused until there is a new one"
            )


def fingerprint(pem: bytes) -> str:
    """The SHA-256 fingerprint of the first certificate in a PEM file, written as OpenSSL does."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":").upper()


# -- what the OpenSSL in use does not have


@functools.cache
def not_honoured(name: str) -> tuple[str, ...]:
    """What of a profile is not offered, in words: versions, and suites that this OpenSSL lacks or forbids."""
    profile = PROFILES[name]
    found = []
    if profile.unserved_versions:
        found.append(f"{' and '.join(profile.unserved_versions)}, which it allows, are not offered")
    missing = [suite for suite in profile.suites if suite not in offered(profile)]
    possible = offered(profile, "@SECLEVEL=0")
    openssl = " ".join(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace").split()[:2])
    weak = [suite for suite in missing if suite in possible]
    absent = [suite for suite in missing if suite not in possible]
    if weak:
        found.append(f"{openssl} holds {', '.join(weak)} for too weak to be offered")
    if absent:
        found.append(f"{openssl} does not have {', '.join(absent)}")
    return tuple(found)


def offered(profile: Profile, level: str = "") -> frozenset[str]:
    """The suites of a profile that this OpenSSL names in a ClientHello; `level` is one of its @SECLEVELs."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    try:
        _offer(context, profile, level)
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        connection.do_handshake()
    except SSL.WantReadError:
        numbers = _suites_in(connection.bio_read(1 << 16))
        return frozenset(suite for suite in profile.suites if SUITES[suite] in numbers)
    except SSL.Error:
        pass  # none of them
    return frozenset()


def _suites_in(client_hello: bytes) -> frozenset[int]:
    """The cipher suites of a ClientHello in one record (RFC 8446 4.1.2, 5.1)."""
    at = 5 + 4 + 2 + 32  # the heads of record and handshake, version, random
    at += 1 + client_hello[at]  # the session ID
    end = at + 2 + int.from_bytes(client_hello[at : at + 2])
    return frozenset(int.from_bytes(client_hello[i : i + 2]) for i in range(at + 2, end, 2))
