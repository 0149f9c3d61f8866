"""The TLS Secure Transport Connection Profiles of PS3.15 Annex B, as data.

What is made of them is in `tls`; no cryptography is needed to know that they are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

#: The versions that are served; a profile may allow older ones.
SERVED_VERSIONS: Final = ("TLS 1.2", "TLS 1.3")

#: Cipher suites as OpenSSL names them, and their numbers in a ClientHello (IANA, TLS Cipher Suites).
SUITES: Final[Mapping[str, int]] = {
    "DES-CBC3-SHA": 0x000A,
    "AES128-SHA": 0x002F,
    "DHE-RSA-AES128-GCM-SHA256": 0x009E,
    "DHE-RSA-AES256-GCM-SHA384": 0x009F,
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
    "TLS_AES_128_CCM_SHA256": 0x1304,
    "TLS_AES_128_CCM_8_SHA256": 0x1305,
    "ECDHE-ECDSA-AES128-GCM-SHA256": 0xC02B,
    "ECDHE-ECDSA-AES256-GCM-SHA384": 0xC02C,
    "ECDHE-RSA-AES128-GCM-SHA256": 0xC02F,
    "ECDHE-RSA-AES256-GCM-SHA384": 0xC030,
    "DHE-RSA-AES128-CCM": 0xC09E,
    "DHE-RSA-AES256-CCM": 0xC09F,
    "ECDHE-ECDSA-AES128-CCM": 0xC0AC,
    "ECDHE-ECDSA-AES256-CCM": 0xC0AD,
    "ECDHE-ECDSA-AES128-CCM8": 0xC0AE,
    "ECDHE-ECDSA-AES256-CCM8": 0xC0AF,
    "ECDHE-RSA-CHACHA20-POLY1305": 0xCCA8,
    "ECDHE-ECDSA-CHACHA20-POLY1305": 0xCCA9,
    "DHE-RSA-CHACHA20-POLY1305": 0xCCAA,
}


@attrs.frozen(kw_only=True)
class Profile:
    """A TLS Secure Transport Connection Profile."""

    section: str
    title: str
    #: Versions that it allows; those of `SERVED_VERSIONS` among them are offered.
    versions: tuple[str, ...] = SERVED_VERSIONS
    #: Cipher suites up to TLS 1.2, those that we would rather have first; those of TLS 1.3 if it lists them.
    ciphers: tuple[str, ...]
    tls13_ciphers: tuple[str, ...] = ()
    #: The shortest keys of certificates, in bits.
    rsa_bits: int = 2048
    ec_bits: int = 256
    #: The standard has retired it.
    retired: bool = False
    #: Why it cannot be had, or a warning for whoever chooses it.
    refused: str = ""
    warning: str = ""

    @property
    def suites(self) -> tuple[str, ...]:
        return self.ciphers + self.tls13_ciphers

    @property
    def unserved_versions(self) -> tuple[str, ...]:
        """Versions that it allows and that are not offered."""
        return tuple(one for one in self.versions if one not in SERVED_VERSIONS)


_ECDHE = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
_DHE = ("DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384")
_RETIRED = "the standard has retired this profile"
_OLD_VERSIONS = ("TLS 1.0", "TLS 1.1")

#: By the names that DCMTK's tools have for them.
PROFILES: Final[Mapping[str, Profile]] = {
    # RFC 9325 4.2 recommends these four, and 4.1 advises against DHE.
    "8996": Profile(section="B.12", title="BCP 195 RFC 8996, 9325", ciphers=_ECDHE),
    "8996-mod": Profile(
        section="B.13",
        title="Modified BCP 195 RFC 8996, 9325",
        ciphers=(
            *_ECDHE,
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "ECDHE-RSA-CHACHA20-POLY1305",
            "ECDHE-ECDSA-AES128-CCM",
            "ECDHE-ECDSA-AES256-CCM",
            *_DHE,
            "DHE-RSA-CHACHA20-POLY1305",
            "DHE-RSA-AES128-CCM",
            "DHE-RSA-AES256-CCM",
            "ECDHE-ECDSA-AES128-CCM8",
            "ECDHE-ECDSA-AES256-CCM8",
        ),
        # "Servers shall support all of the following cipher suites for TLS 1.3."
        tls13_ciphers=(
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_AES_128_CCM_SHA256",
            "TLS_AES_128_CCM_8_SHA256",
        ),
    ),
    "bcp195-ex": Profile(
        section="B.11",
        title="Extended BCP 195",
        versions=("TLS 1.2",),
        ciphers=_ECDHE + _DHE,
        retired=True,
        warning=_RETIRED,
    ),
    "bcp195-nd": Profile(
        section="B.10",
        title="Non-Downgrading BCP 195",
        ciphers=_ECDHE + _DHE,
        retired=True,
        warning=_RETIRED,
    ),
    "bcp195": Profile(
        section="B.9",
        title="BCP 195",
        versions=(*_OLD_VERSIONS, *SERVED_VERSIONS),
        ciphers=(*_ECDHE, *_DHE, "AES128-SHA", "DES-CBC3-SHA"),
        retired=True,
        warning=_RETIRED,
    ),
    "aes": Profile(
        section="B.3",
        title="AES",
        versions=(*_OLD_VERSIONS, *SERVED_VERSIONS),
        ciphers=(*_ECDHE, *_DHE, "AES128-SHA", "DES-CBC3-SHA"),
        retired=True,
        warning=f"{_RETIRED}; AES128-SHA has no forward secrecy",
    ),
    "basic": Profile(
        section="B.1",
        title="Basic",
        versions=("TLS 1.0",),
        ciphers=("DES-CBC3-SHA",),
        retired=True,
        refused="the Basic TLS profile (PS3.15 B.1) is 3DES, which no current OpenSSL has; "
        "put a TLS proxy in front for peers that know nothing else",
    ),
}
