"""What is known of a peer by its certificate."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.certificate import PeerCertificate, peer_certificate_of

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(*extensions: x509.ExtensionType, subject: x509.Name | None = None) -> x509.Certificate:
    name = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scanner")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256())


class PeerCertificateTests(SynchronousTestCase):
    def test_all(self) -> None:
        """Subject, alternative names with their kinds, and fingerprint; names of other kinds are left out."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Clinic, North"),
                x509.NameAttribute(NameOID.COMMON_NAME, "scanner"),
            ]
        )
        names = x509.SubjectAlternativeName(
            [
                x509.DNSName("scanner.example"),
                x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
                x509.IPAddress(ipaddress.ip_address("2001:db8::7")),
                x509.UniformResourceIdentifier("urn:oid:1.2.3"),
                x509.RFC822Name("physics@clinic.example"),
                x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
            ]
        )
        made = certificate(names, subject=subject)
        der = made.public_bytes(serialization.Encoding.DER)
        self.assertEqual(
            peer_certificate_of(made),
            PeerCertificate(
                r"CN=scanner,O=Clinic\, North",
                (
                    "DNS:scanner.example",
                    "IP:192.0.2.7",
                    "IP:2001:db8::7",
                    "URI:urn:oid:1.2.3",
                    "email:physics@clinic.example",
                ),
                hashlib.sha256(der).hexdigest(),
            ),
        )

    def test_no_names(self) -> None:
        """A certificate need not have alternative names."""
        self.assertEqual(peer_certificate_of(certificate()).alternative_names, ())

    def test_unreadable(self) -> None:
        """Names that are none are a ValueError."""
        broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x82\x01\xff")
        self.assertRaises(ValueError, peer_certificate_of, certificate(broken))
