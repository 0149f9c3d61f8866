"""Certificates made on the spot, and handshakes in memory between two connections of OpenSSL's."""

from __future__ import annotations

import contextlib
import datetime
import functools
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.tls import TLSFiles, server_context

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@attrs.frozen
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@functools.cache
def key_of(name: str) -> PrivateKey:
    """A key made once per name: RSA for names that begin so, which takes long."""
    if name.startswith("RSA"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def identity(
    name: str,
    issuer: str = "",
    *,
    hosts: tuple[str, ...] = (),
    days: tuple[int, int] = (-1, 1),
    is_authority: bool | None = None,
    usage: x509.ObjectIdentifier | None = None,
) -> Identity:
    """A certificate for `name`, by `issuer` or itself, valid from and to so many days from now; for hosts."""
    by = issuer or name
    key = key_of(name)
    now = datetime.datetime.now(datetime.UTC)
    first, last = (now + datetime.timedelta(days=number) for number in days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(
            x509.BasicConstraints(ca=not issuer if is_authority is None else is_authority, path_length=None),
            critical=True,
        )
    )
    if hosts:
        names = [_general_name(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Identity(builder.sign(key_of(by), hashes.SHA256()), key)


def crl(issuer: str, *revoked: Identity, days: tuple[int, int] = (-1, 1), signer: str = "") -> bytes:
    """A CRL of `issuer`, PEM, from and to so many days from now; `signer` may be somebody else."""
    now = datetime.datetime.now(datetime.UTC)
    first, last = (now + datetime.timedelta(days=number) for number in days)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .last_update(first)
        .next_update(last)
    )
    for one in revoked:
        number = one.certificate.serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key_of(signer or issuer), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def certificate_of(key: Any) -> Identity:
    """A certificate for a key, by itself."""
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    is_edwards = isinstance(key, ed25519.Ed25519PrivateKey)
    return Identity(builder.sign(key, None if is_edwards else hashes.SHA256()), key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def client(
    own: Identity | None = None,
    ciphers: str = "",
    maximum_version: int = 0,
    tls13_ciphers: str = "",
) -> SSL.Context:
    """A client that believes everybody."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if own is not None:
        context.use_certificate(own.certificate)
        context.use_privatekey(own.key)
    context.set_cipher_list((ciphers or "ALL:@SECLEVEL=0").encode())
    if tls13_ciphers:
        context.set_tls13_ciphersuites(tls13_ciphers.encode())
    if maximum_version:
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(maximum_version)
    return context


def handshake(server: SSL.Context | SSL.Connection, peer: SSL.Context | SSL.Connection) -> SSL.Connection:
    """The server's end of a connection after the handshake; raises `SSL.Error` if either end fails."""
    client_end = peer if isinstance(peer, SSL.Connection) else SSL.Connection(peer, None)
    ends = server if isinstance(server, SSL.Connection) else SSL.Connection(server, None), client_end
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    for _ in range(10):
        for end, other in (ends, ends[::-1]):
            try:
                end.do_handshake()
            except SSL.WantReadError:
                pass
            finally:
                try:
                    other.bio_write(end.bio_read(1 << 16))
                except SSL.WantReadError:
                    pass
    ends[0].do_handshake()
    return ends[0]


def agreed_without_groups(server: SSL.Context, suite: str) -> str:
    """The cipher suite agreed on in TLS 1.2 with a peer that offers `suite`, and no group but P-256."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    context.set_ecdh_curve("prime256v1")
    connection, _, _ = shaken(server, context)
    return connection.get_cipher_name() or ""


def shaken(
    server: SSL.Context, peer: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[SSL.Connection, ssl.SSLObject, ssl.MemoryBIO]:
    """Both ends of a connection after the handshake, and what the peer's end receives by."""
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    peers_end = peer.wrap_bio(received, sent, session=session)
    connection = SSL.Connection(server, None)
    connection.set_accept_state()
    for _ in range(4):
        with contextlib.suppress(ssl.SSLWantReadError):
            peers_end.do_handshake()
        if sent.pending:
            connection.bio_write(sent.read())
        with contextlib.suppress(SSL.WantReadError):
            connection.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            received.write(connection.bio_read(1 << 16))
    return connection, peers_end, received


class TLSTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def file(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def files(self, own: Identity | None = None, profile: str = "8996", **other: Path | str) -> TLSFiles:
        """The files of a server, written."""
        own = identity("RSA server") if own is None else own
        cert = self.file("cert.pem", own.cert_pem)
        return TLSFiles(cert=cert, key=self.file("key.pem", own.key_pem), profile=profile, **other)

    def context(self, own: Identity | None = None, profile: str = "8996", **other: Path | str) -> SSL.Context:
        return server_context(self.files(own, profile, **other))
