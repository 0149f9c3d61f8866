"""What binds an AE title to a certificate (PS3.15 Annex B: node authentication is of certificates)."""

from __future__ import annotations

import re
from typing import Any

import attrs
from cryptography import x509

from dicomtw.security.addresses import same_address
from dicomtw.security.certificate import PeerCertificate, sha256_from
from dicomtw.settings import Kind, check_text

_ALTERNATIVE = re.compile(r"(DNS|IP|URI|email):(.+)")


@attrs.frozen
class Binding:
    """One certificate, by its fingerprint, or those of one holder, by what they say of him.

    `kind` is ``sha256``, ``subject`` or ``san``; `value` is written as `PeerCertificate` writes it.
    """

    kind: str
    value: str

    def fits(self, certificate: PeerCertificate, verified: bool) -> bool:
        """Whether `certificate`, `verified` by those who certify our peers or not, is what is bound."""
        if self.kind == "sha256":
            return certificate.sha256 == self.value
        if not verified:  # the rest is about what it says, which anybody can write into one of his own
            return False
        if self.kind == "subject":
            return certificate.subject == self.value
        return any(_same_name(self.value, name) for name in certificate.alternative_names)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def _same_name(one: str, other: str) -> bool:
    """Whether two alternative names are one. A wild card in a certificate is a name like others."""
    kind, _, value = one.partition(":")
    other_kind, _, other_value = other.partition(":")
    if kind != other_kind:
        return False
    if kind == "IP":
        return same_address(value, other_value)
    if kind == "DNS":
        return value.lower() == other_value.lower()
    return value == other_value


def binding_of(text: str) -> Binding:
    """``sha256:HEX``, ``subject:RFC 4514``, ``san:DNS:name`` and the like; raises ValueError."""
    kind, _, value = text.partition(":")
    if kind == "sha256":
        value = sha256_from(value)
        good = True
    elif kind == "subject":
        # As the certificate's is written: spaces, escapes and names of attributes have one form.
        value = x509.Name.from_rfc4514_string(value).rfc4514_string()
        good = bool(value)
    elif kind == "san":
        name = _ALTERNATIVE.fullmatch(value)
        good = name is not None and (name[1] != "IP" or same_address(name[2], name[2]))
    else:
        good = False
    if not good:
        raise ValueError
    return Binding(kind, value)


def _check_binding(value: Any) -> Binding:
    return value if isinstance(value, Binding) else binding_of(check_text(value))


CERTIFICATE = Kind(
    "sha256:HEX, subject:NAME as RFC 4514 writes it, or san:DNS:NAME, san:IP:ADDRESS, san:URI:, san:email:",
    _check_binding,
)
