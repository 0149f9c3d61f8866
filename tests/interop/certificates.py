"""Certificates for one test: an authority, what it has signed, and TLS contexts for peers made of them."""

from __future__ import annotations

import datetime
import functools
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


@functools.cache
def _key(number: int) -> rsa.RSAPrivateKey:
    """Keys take long to make, and tests may share them."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _times(days: tuple[float, float]) -> tuple[datetime.datetime, datetime.datetime]:
    now = datetime.datetime.now(datetime.UTC)
    return now + datetime.timedelta(days=days[0]), now + datetime.timedelta(days=days[1])


class Authority:
    """Certifies keys; files are made in `directory`, PEM: ``NAME.pem`` and ``NAME.key``."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of the tests")])
        self._key = _key(0)
        self.pem = directory / f"{name}.pem"
        self.pem.write_bytes(self._sign(self._name, self._key.public_key(), is_authority=True))

    def certify(
        self, name: str, number: int = 1, *, host: str = "localhost", days: tuple[float, float] = (-0.04, 1)
    ) -> tuple[Path, Path]:
        """A certificate and its key for a host, from and to so many days from now; keys of one `number` are
        the same.
        """
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        key = _key(number)
        cert_path, key_path = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        cert_path.write_bytes(self._sign(subject, key.public_key(), is_authority=False, host=host, days=days))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        return cert_path, key_path

    def revoke(self, *certs: Path, days: tuple[float, float] = (-0.04, 1)) -> Path:
        """A CRL with these certificates, in ``NAME.crl``, put in place at once."""
        first, last = _times(days)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(first)
            .next_update(last)
        )
        for cert in certs:
            number = x509.load_pem_x509_certificate(cert.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(first).build()
            builder = builder.add_revoked_certificate(entry)
        path = self.pem.with_suffix(".crl")
        new = path.with_suffix(".new")
        new.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return new.replace(path)

    def _sign(
        self,
        subject: x509.Name,
        key: rsa.RSAPublicKey,
        *,
        is_authority: bool,
        host: str = "localhost",
        days: tuple[float, float] = (-0.04, 1),
    ) -> bytes:
        first, last = _times(days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(first)
            .not_valid_after(last)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def fingerprint(cert: Path) -> str:
    """SHA-256, in lower-case hex."""
    return x509.load_pem_x509_certificate(cert.read_bytes()).fingerprint(hashes.SHA256()).hex()


def client_context(
    ca: Path | None = None,
    cert: tuple[Path, Path] | None = None,
    *,
    version: ssl.TLSVersion | None = None,
    ciphers: str = "",
) -> ssl.SSLContext:
    """A peer's TLS: it verifies the server against `ca`, if given, and speaks `version` alone, if given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(ca)
    if cert is not None:
        context.load_cert_chain(*cert)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    return context
