"""What is made of the certificates of peers: by chain, by host (RFC 6125) or by fingerprint (a pin)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from typing import Final

from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity

from dicomtw.security.certificate import sha256_of

#: What OpenSSL calls for each certificate of a chain.
Verify = Callable[[SSL.Connection, crypto.X509, int, int, int], bool]

#: X509_V_ERR_... of OpenSSL, in words.
_VERIFY_FAULTS: Final = {
    3: "of an issuer whose CRL is not there",
    7: "not signed by its issuer",
    8: "of an issuer whose CRL is signed by somebody else",
    9: "not valid yet",
    10: "expired",
    11: "of an issuer whose CRL is not valid yet",
    12: "of an issuer whose CRL has expired",
    18: "self-signed and not among those known",
    19: "of a chain whose root is not among those known",
    20: "of an issuer who is not among those known",
    21: "of an issuer who is not among those known",
    23: "revoked",
    24: "of an issuer who may not certify",
    26: "not for this purpose",
    66: "of a key that is too short",
    67: "of an issuer whose key is too short",
    68: "signed with a hash that is too weak",
}
#: Those that are about the certificate at hand, which may be an issuer's.
_OF_ITSELF: Final = frozenset({7, 9, 10, 23})

#: There is no CRL of its issuer.
_NO_CRL: Final = 3

#: No certificate is worth more than its key.
_WEAK_KEY: Final = 66


def words_of(number: int, depth: int = 0) -> str:
    """What OpenSSL says of a certificate that is `depth` steps above the peer's."""
    whose = "the certificate" if depth == 0 or number not in _OF_ITSELF else "an issuer's certificate"
    return f"{whose} is {_VERIFY_FAULTS.get(number, f'not accepted, OpenSSL says {number}')}"


def is_good(number: int, depth: int, good: int) -> bool:
    """Whether OpenSSL, and we, accept a certificate that is `depth` steps above the peer's.

    Who certifies authorities rarely publishes a CRL of those. One that there is counts.
    """
    return bool(good) or (number == _NO_CRL and depth > 0)


def leave_fault(
    connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, good: int
) -> bool:
    """An OpenSSL verify callback that leaves with the connection why a certificate is not accepted."""
    accepted = is_good(number, depth, good)
    if not accepted:
        connection.set_app_data(f"{words_of(number, depth)}: {_named(certificate)}")
    return accepted


def verification_fault(connection: SSL.Connection) -> str:
    """What `leave_fault` has left with a connection; empty if nothing."""
    said = connection.get_app_data()
    return said if isinstance(said, str) else ""


def _named(certificate: crypto.X509) -> str:
    try:
        subject = repr(certificate.to_cryptography().subject.rfc4514_string())  # repr: it may hold anything
    except ValueError:  # OpenSSL is content with more than cryptography can parse
        return "it cannot be read"
    return subject if len(subject) <= 100 else subject[:97] + "..."


def verification(host: str, failed: Callable[[str], None]) -> Verify:
    """An OpenSSL verify callback: the chain is to be good, and the certificate `host`'s (RFC 6125).

    `failed` is told in words why a certificate is not accepted. Raises ValueError for what is no host.
    """
    try:
        expected: DNS_ID | IPAddress_ID = IPAddress_ID(ipaddress.ip_address(host))
    except ValueError:
        expected = DNS_ID(host)

    def verify(_: SSL.Connection, certificate: crypto.X509, number: int, depth: int, good: int) -> bool:
        if not is_good(number, depth, good):
            failed(words_of(number, depth))
            return False
        if depth:
            return True
        try:
            patterns = extract_patterns(certificate.to_cryptography())
            verify_service_identity(patterns, obligatory_ids=[expected], optional_ids=[])
        except (VerificationError, CertificateError, ValueError):
            failed(f"the certificate is not for {host}")
            return False
        return True

    return verify


def pinned(pins: Collection[str], failed: Callable[[str], None]) -> Verify:
    """An OpenSSL verify callback: the certificate is to be one of `pins`, SHA-256 in lower-case hex.

    Who is known by that needs no other witness: issuer, host and dates do not count (as in RFC 7671 5.1).
    """

    def verify(_: SSL.Connection, certificate: crypto.X509, number: int, depth: int, good: int) -> bool:
        if depth:
            return True
        if not good and number == _WEAK_KEY:
            failed(words_of(number))
            return False
        try:
            shown = sha256_of(certificate.to_cryptography())
        except ValueError:
            shown = "what cannot be read"
        if shown in pins:
            return True
        failed(f"the certificate is not the one that is known, but {shown} (SHA-256)")
        return False

    return verify
