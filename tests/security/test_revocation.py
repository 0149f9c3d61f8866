"""``--tls-crl``: who is revoked is turned away, and what is wrong with a CRL is said."""

from __future__ import annotations

import datetime
from pathlib import Path

import attrs
from OpenSSL import SSL

from dicomtw.security.tls import TLSError, TLSFiles, read, remarks, server_context
from dicomtw.security.verification import verification_fault
from tests.security.identities import Identity, TLSTestCase, client, crl, handshake, identity


class RevocationTests(TLSTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.good, self.bad = identity("good", "CA"), identity("bad", "CA")
        self.ca = self.file("ca.pem", identity("CA").cert_pem)

    def server(self, *lists: bytes, ca: Path | None = None, verify: str = "") -> TLSFiles:
        own = self.files(identity("server"))
        return attrs.evolve(own, ca=ca or self.ca, crl=self.file("crl.pem", b"".join(lists)), verify=verify)

    def faults(self, files: TLSFiles, own: Identity | None, *chain: Identity) -> str:
        """Why a peer that sends `chain` along is refused, the same in TLS 1.2 and 1.3; empty if it is not."""
        told = set()
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            connection = SSL.Connection(server_context(files), None)
            peer = client(own, maximum_version=version)
            for authority in chain:
                peer.add_extra_chain_cert(authority.certificate)
            try:
                handshake(connection, peer)
            except SSL.Error:
                told.add(verification_fault(connection) or "refused")
            else:
                told.add("")
        (fault,) = told
        return fault

    def test_revoked(self) -> None:
        """Who is in the CRL of his issuer is refused and named, others are not."""
        files = self.server(crl("CA", self.bad))
        self.assertEqual(self.faults(files, self.good), "")
        self.assertEqual(self.faults(files, self.bad), "the certificate is revoked: 'CN=bad'")
        optional = self.server(crl("CA", self.bad), verify="optional")
        self.assertEqual(self.faults(optional, None), "")
        self.assertEqual(self.faults(optional, self.bad), "the certificate is revoked: 'CN=bad'")

    def test_nobody(self) -> None:
        """An empty CRL revokes nobody."""
        self.assertEqual(self.faults(self.server(crl("CA")), self.bad), "")

    def test_out_of_date(self) -> None:
        """A CRL that has expired, or is not valid yet, certifies nobody, which is said."""
        files = self.server(crl("CA", days=(-9, -2)))
        fault = "the certificate is of an issuer whose CRL has expired: 'CN=good'"
        self.assertEqual(self.faults(files, self.good), fault)
        (remark,) = remarks(files, read(files))
        day = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
        self.assertTrue(
            remark.startswith(f"the CRL of 'CN=CA' in {files.crl} has expired on {day:%Y-%m-%d}"), remark
        )
        early = self.server(crl("CA", days=(2, 9)))
        fault = "the certificate is of an issuer whose CRL is not valid yet: 'CN=good'"
        self.assertEqual(self.faults(early, self.good), fault)
        self.assertEqual(list(remarks(early, read(early))), [])

    def test_two_authorities(self) -> None:
        """A file may have the CRLs of several issuers; who has none is not certified."""
        other = identity("other's", "other CA")
        both = self.file("both.pem", identity("CA").cert_pem + identity("other CA").cert_pem)
        files = self.server(crl("CA", self.bad), crl("other CA"), ca=both)
        self.assertEqual(self.faults(files, other), "")
        self.assertEqual(self.faults(files, self.bad), "the certificate is revoked: 'CN=bad'")
        alone = self.server(crl("CA", self.bad), ca=both)
        missing = 'the certificate is of an issuer whose CRL is not there: "CN=other\'s"'
        self.assertEqual(self.faults(alone, other), missing)

    def test_forged(self) -> None:
        """A CRL that somebody else has signed frees nobody."""
        files = self.server(crl("CA", signer="stranger"))
        self.assertIn("signed by somebody else", self.faults(files, self.bad))

    def test_intermediate_authorities(self) -> None:
        """An authority that a CRL revokes certifies nobody; that there is no CRL for it is no fault."""
        between = identity("between", "CA", is_authority=True)
        peer = identity("peer", "between")
        revoked = "the certificate is revoked: 'CN=peer'"
        for lists, fault in (
            ([crl("between")], ""),
            ([crl("between"), crl("CA")], ""),
            ([crl("between"), crl("CA", between)], "an issuer's certificate is revoked: 'CN=between'"),
            ([crl("between", peer)], revoked),
            ([crl("between", peer), crl("CA")], revoked),
            ([crl("CA")], "the certificate is of an issuer whose CRL is not there: 'CN=peer'"),
            (
                [crl("between"), crl("CA", signer="stranger")],
                "the certificate is of an issuer whose CRL is signed by somebody else: 'CN=between'",
            ),
            (
                [crl("between"), crl("CA", days=(-9, -2))],
                "the certificate is of an issuer whose CRL has expired: 'CN=between'",
            ),
            (
                [crl("between", days=(-9, -2)), crl("CA")],
                "the certificate is of an issuer whose CRL has expired: 'CN=peer'",
            ),
        ):
            self.assertEqual(self.faults(self.server(*lists), peer, between), fault)

    def test_sessions_of_before(self) -> None:
        """Who is revoked by a newer CRL cannot come in by a session of before."""
        peer = client(self.bad, maximum_version=SSL.TLS1_2_VERSION)
        first = SSL.Connection(peer, None)
        handshake(server_context(self.server(crl("CA"))), first)
        session = first.get_session()
        again = SSL.Connection(peer, None)
        again.set_session(session)
        self.assertRaises(SSL.Error, handshake, server_context(self.server(crl("CA", self.bad))), again)

    def test_broken(self) -> None:
        """What is no CRL is refused in one line that names the file."""
        for content in (
            b"",
            b"garbage",
            identity("CA").cert_pem,
            crl("CA")[:100],
            crl("CA").replace(b"M", b"!"),
            *(crl("CA") + crl("other CA")[:-cut] for cut in (2, 20, 100, 200)),
        ):
            files = self.server(content)
            said = str(self.assertRaises(TLSError, server_context, files))
            self.assertTrue(said.startswith(f"--tls-crl {files.crl} holds no usable CRL"), said)
            self.assertEqual(len(said.splitlines()), 1)
        absent = attrs.evolve(files, crl=Path("absent"))
        said = str(self.assertRaises(TLSError, server_context, absent))
        self.assertEqual(said, "--tls-crl absent: No such file or directory")


class RemarkTests(TLSTestCase):
    def test_certificate(self) -> None:
        """A certificate of ours that is out of date, or soon will be, is used, and said to be."""
        for days, words in (
            ((-1, 1), ""),
            ((-96, 10), "expires on "),
            ((-81, 10), ""),
            ((-9, -2), "has expired on "),
            ((2, 9), "is not valid before "),
        ):
            files = self.files(identity(f"own {days}", days=days))
            server_context(files)
            found = list(remarks(files, read(files)))
            self.assertEqual(len(found), 1 if words else 0)
            for remark in found:
                self.assertTrue(remark.startswith(f"the certificate {files.cert} {words}"), remark)
