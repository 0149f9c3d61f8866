"""Pins: a peer that is known by the fingerprint of its certificate alone."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL

from dicomtw.security.certificate import sha256_from, sha256_of
from dicomtw.security.tls import TLSFiles, client_context, server_context
from dicomtw.security.verification import pinned
from tests.security.identities import Identity, TLSTestCase, certificate_of, handshake, identity


class PinTests(TLSTestCase):
    def faults(self, pins: list[str], *chain: Identity, ca: Identity | None = None) -> list[str]:
        """What is wrong with a server that shows this chain, to a client with pins."""
        pem = b"".join(one.cert_pem for one in chain)
        cert, key = self.file("chain.pem", pem), self.file("key.pem", chain[0].key_pem)
        server = server_context(TLSFiles(cert=cert, key=key))
        known = None if ca is None else self.file("ca.pem", ca.cert_pem)
        told: list[list[str]] = []
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            context = client_context(TLSFiles(ca=known))
            context.set_max_proto_version(version)
            connection = SSL.Connection(context, None)
            faults: list[str] = []
            connection.set_verify(SSL.VERIFY_PEER, pinned(pins, faults.append))
            try:
                handshake(server, connection)
            except SSL.Error:
                self.assertEqual(len(faults), 1)
            else:
                self.assertEqual(faults, [])
            told.append(faults)
        self.assertEqual(told[0], told[1], "the same in TLS 1.2 and 1.3")
        return told[0]

    def test_known(self) -> None:
        """Whoever has issued it, whatever it is for and however old it is, a known certificate is taken."""
        alone = identity("alone")
        between = identity("between", "CA", is_authority=True)
        for chain in (
            (alone,),
            (identity("pacs", "CA"),),
            (identity("pacs", "CA"), identity("CA")),
            (identity("low", "between"), between, identity("CA")),
            (identity("old", "CA", days=(-9, -2)),),
            (identity("expired alone", days=(-9, -2)),),
        ):
            pin = sha256_of(chain[0].certificate)
            self.assertEqual(self.faults([pin], *chain), [])
            self.assertEqual(self.faults(["0" * 64, pin], *chain), [], "one of several")

    def test_unknown(self) -> None:
        """Any other is not, not even one by an authority that is known, nor by that authority's own pin."""
        own, authority = identity("pacs", "CA"), identity("CA")
        words = f"the certificate is not the one that is known, but {sha256_of(own.certificate)} (SHA-256)"
        for pin in (
            "0" * 64,
            sha256_of(authority.certificate),
            sha256_of(identity("other", "CA").certificate),
        ):
            self.assertEqual(self.faults([pin], own, authority, ca=authority), [words])

    def test_same_key(self) -> None:
        """A renewed certificate of the same key is another one."""
        old, new = identity("pacs", "CA"), identity("pacs", "CA", days=(-1, 3))
        self.assertEqual(len(self.faults([sha256_of(old.certificate)], new)), 1)

    def test_weak_key(self) -> None:
        """A certificate is worth no more than its key."""
        own = certificate_of(rsa.generate_private_key(65537, 1024))
        faults: list[str] = []
        verify = pinned([sha256_of(own.certificate)], faults.append)
        self.assertFalse(verify(None, None, 66, 0, 0))  # type: ignore[arg-type]
        self.assertEqual(faults, ["the certificate is of a key that is too short"])

    def test_written(self) -> None:
        """Fingerprints are written with or without colons, in capitals or not."""
        pin = "0123456789abcdef" * 4
        colons = ":".join(pin[i : i + 2] for i in range(0, 64, 2))
        for text in (pin, pin.upper(), colons, colons.upper()):
            self.assertEqual(sha256_from(text), pin)
        for text in (
            "",
            "ab",
            pin[1:],
            f"{pin}0",
            f"{pin[:-1]}g",
            colons[1:],
            f":{pin}",
            f"{pin} ",
            "\u0660" * 64,
        ):
            self.assertRaises(ValueError, sha256_from, text)
