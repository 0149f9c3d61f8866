"""X.509 certificates of peers (PS3.15 Annex B, RFC 5280): what rules and logs say about one."""

from __future__ import annotations

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes


@attrs.frozen
class PeerCertificate:
    """What is known of the certificate that a peer has shown."""

    #: RFC 4514, the most specific first: ``CN=scanner,O=Clinic``.
    subject: str
    #: Subject alternative names with their kinds: ``DNS:a.b``, ``IP:192.0.2.7``, ``URI:...``, ``email:...``.
    alternative_names: tuple[str, ...]
    #: SHA-256 of the whole certificate, in lower-case hex without colons.
    sha256: str


def peer_certificate_of(certificate: x509.Certificate) -> PeerCertificate:
    """What `certificate` says of its holder; raises ValueError for one that cannot be read.

    OpenSSL is content with more than can be parsed here: names that are no strings, versions that there
    are not. Alternative names of other kinds are left out.
    """
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(filter(None, map(_written, found)))
    except x509.ExtensionNotFound:
        names = ()
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from None
    return PeerCertificate(certificate.subject.rfc4514_string(), names, sha256_of(certificate))


def sha256_of(certificate: x509.Certificate) -> str:
    """The SHA-256 fingerprint of a certificate, in lower-case hex without colons."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def sha256_from(text: str) -> str:
    """A fingerprint as people write it, in hex with or without colons, the way `sha256_of` gives it.

    Raises ValueError for what is none.
    """
    parts = text.split(":")
    joined = "".join(parts).lower()
    if len(parts) not in (1, 32) or len(joined) != 64 or not set(joined) <= set("0123456789abcdef"):
        raise ValueError(f"{text!r} is no SHA-256 fingerprint: 64 hex digits, with or without colons")
    return joined


def _written(name: x509.GeneralName) -> str:
    if isinstance(name, x509.DNSName):
        return f"DNS:{name.value}"
    if isinstance(name, x509.IPAddress):
        return f"IP:{name.value}"
    if isinstance(name, x509.UniformResourceIdentifier):
        return f"URI:{name.value}"
    if isinstance(name, x509.RFC822Name):
        return f"email:{name.value}"
    return ""
