"""TLS profiles as data, the contexts made of them, and what broken files are answered with.

Handshakes are made in memory, between two connections of OpenSSL's.
"""

from __future__ import annotations

from pathlib import Path

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from dicomtw.security import tls
from dicomtw.security.profiles import PROFILES, SUITES
from dicomtw.security.tls import (
    TLSError,
    TLSFiles,
    client_context,
    not_honoured,
    offered,
    server_context,
)
from dicomtw.security.verification import verification
from tests.security.identities import Identity as Identity  # for other tests, too
from tests.security.identities import TLSTestCase as TLSTestCase
from tests.security.identities import agreed_without_groups, certificate_of
from tests.security.identities import client as client
from tests.security.identities import handshake as handshake
from tests.security.identities import identity as identity


class ProfileTests(TLSTestCase):
    def test_names(self) -> None:
        """The profiles have the names that DCMTK's tools have for them, each its section of PS3.15."""
        sections = {name: profile.section for name, profile in PROFILES.items()}
        self.assertEqual(
            sections,
            {
                "8996": "B.12",
                "8996-mod": "B.13",
                "bcp195-ex": "B.11",
                "bcp195-nd": "B.10",
                "bcp195": "B.9",
                "aes": "B.3",
                "basic": "B.1",
            },
        )

    def test_contexts(self) -> None:
        """Every profile makes a context with each cipher suite of it that OpenSSL has, or says why not."""
        for name, profile in PROFILES.items():
            if profile.refused:
                error = self.assertRaises(TLSError, self.context, profile=name)
                self.assertEqual(str(error), profile.refused)
                self.assertNotIn("\n", profile.refused)
                continue
            suites = SSL.Connection(self.context(profile=name), None).get_cipher_list()
            had = offered(profile, "@SECLEVEL=0")
            old = [suite for suite in suites if not suite.startswith("TLS_")]
            self.assertEqual(old, [one for one in profile.ciphers if one in had], name)
            new = [suite for suite in suites if suite.startswith("TLS_")]
            if profile.tls13_ciphers:
                self.assertEqual(new, [one for one in profile.tls13_ciphers if one in had], name)
            else:
                self.assertIn("TLS_AES_256_GCM_SHA384", new)

    def test_cipher_suites(self) -> None:
        """Every cipher suite that is offered can be agreed on, with the certificate that it is for."""
        failed = []
        for name, profile in PROFILES.items():
            peers = {}
            for one in offered(profile) if not profile.refused else ():
                if one in profile.tls13_ciphers:
                    peers[one] = client(tls13_ciphers=one)
                else:
                    peers[one] = client(ciphers=one, maximum_version=SSL.TLS1_2_VERSION)
            for suite, peer in peers.items():
                context = self.context(identity("server" if "ECDSA" in suite else "RSA server"), name)
                try:
                    self.assertEqual(handshake(context, peer).get_cipher_name(), suite, name)
                except SSL.Error as error:
                    failed.append((name, suite, str(error)))
        self.assertEqual(failed, [])

    def test_peers_without_groups(self) -> None:
        """So it can with a peer that names no group for DHE, as OpenSSL before 4.0 does in TLS 1.2."""
        for name, profile in PROFILES.items():
            for suite in offered(profile) - set(profile.tls13_ciphers) if not profile.refused else ():
                context = self.context(identity("server" if "ECDSA" in suite else "RSA server"), name)
                self.assertEqual(agreed_without_groups(context, suite), suite, name)

    def test_versions(self) -> None:
        """TLS 1.2 is the least in every profile, and 1.3 is had but in the one that stops before."""
        for name, profile in PROFILES.items():
            if profile.refused:
                continue
            context = self.context(profile=name)
            best = handshake(context, client()).get_protocol_version_name()
            self.assertEqual(best, "TLSv1.2" if name == "bcp195-ex" else "TLSv1.3", name)
            old = client(maximum_version=SSL.TLS1_2_VERSION)
            self.assertEqual(handshake(context, old).get_protocol_version_name(), "TLSv1.2", name)
            for version in (SSL.TLS1_VERSION, SSL.TLS1_1_VERSION):
                self.assertRaises(SSL.Error, handshake, context, client(maximum_version=version))

    def test_weak_suites(self) -> None:
        """A peer that offers only what no profile has gets no connection."""
        for suite in ("AES256-SHA", "ECDHE-RSA-AES128-SHA", "NULL-SHA256:@SECLEVEL=0"):
            for name in ("8996", "8996-mod", "bcp195-ex", "bcp195-nd"):
                peer = client(ciphers=suite, maximum_version=SSL.TLS1_2_VERSION)
                self.assertRaises(SSL.Error, handshake, self.context(profile=name), peer)

    def test_retired(self) -> None:
        """Whoever chooses a profile that the standard has retired is warned."""
        warned = {name for name, profile in PROFILES.items() if "retired" in profile.warning}
        self.assertEqual(warned, {"bcp195-ex", "bcp195-nd", "bcp195", "aes"})
        retired = {name for name, profile in PROFILES.items() if profile.retired}
        self.assertEqual(retired, warned | {"basic"})

    def test_numbers(self) -> None:
        """Every suite of every profile has its number in the table, each another one."""
        named = {suite for profile in PROFILES.values() for suite in profile.suites}
        self.assertEqual(named, set(SUITES))
        self.assertEqual(len(set(SUITES.values())), len(SUITES))

    def test_recommended(self) -> None:
        """The default is what RFC 9325 recommends: forward secrecy by elliptic curves, and GCM."""
        for suite in PROFILES["8996"].suites:
            self.assertRegex(suite, "^ECDHE-(RSA|ECDSA)-AES(128|256)-GCM-SHA")

    def test_not_honoured(self) -> None:
        """What is missing of a profile is found out, suite by suite: nothing of the default, and of others
        versions, what OpenSSL holds for too weak, and what it does not have.
        """
        self.assertEqual(not_honoured("8996"), ())
        self.assertEqual(not_honoured("bcp195-ex"), ())
        (weak,) = not_honoured("8996-mod")
        self.assertRegex(weak, "^OpenSSL [0-9.]+ holds .*TLS_AES_128_CCM_8_SHA256 for too weak")
        self.assertEqual(not_honoured("aes")[0], "TLS 1.0 and TLS 1.1, which it allows, are not offered")
        made_up = attrs.evolve(PROFILES["8996"], ciphers=("DES-CBC3-SHA", "ECDHE-RSA-AES128-GCM-SHA256"))
        self.patch(tls, "PROFILES", {"made up": made_up})
        self.addCleanup(not_honoured.cache_clear)
        if "DES-CBC3-SHA" not in offered(made_up, "@SECLEVEL=0"):
            self.assertRegex(not_honoured("made up")[0], "^OpenSSL [0-9.]+ does not have DES-CBC3-SHA$")

    def test_nothing_in_common(self) -> None:
        """Of a profile with suites that OpenSSL has never heard of nothing is offered."""
        none = attrs.evolve(PROFILES["8996"], versions=("TLS 1.2",), ciphers=("DES-CBC3-SHA",))
        self.assertEqual(offered(none), frozenset())


class KeyTests(TLSTestCase):
    """The keys that a profile allows."""

    def test_at_the_limit(self) -> None:
        """RSA keys of 2048 bits and EC keys of 256 are used; shorter ones are refused in one line."""
        for key, fault in (
            (rsa.generate_private_key(65537, 2048), ""),
            (rsa.generate_private_key(65537, 2047), "its RSA key has 2047 bits, and PS3.15 B.12 wants 2048"),
            (rsa.generate_private_key(65537, 1024), "its RSA key has 1024 bits, and PS3.15 B.12 wants 2048"),
            (ec.generate_private_key(ec.SECP256R1()), ""),
            (ec.generate_private_key(ec.SECP384R1()), ""),
            (ec.generate_private_key(ec.SECP224R1()), "its EC key has 224 bits, and PS3.15 B.12 wants 256"),
            (ed25519.Ed25519PrivateKey.generate(), ""),
            (dsa.generate_private_key(2048), "its key is DSA, which TLS no longer has"),
        ):
            files = self.files(certificate_of(key))
            if fault:
                said = str(self.assertRaises(TLSError, server_context, files))
                self.assertTrue(said.startswith(f"--tls-cert {files.cert}: {fault}"), said)
                self.assertEqual(len(said.splitlines()), 1)
            else:
                self.assertTrue(server_context(files))

    def test_passphrase(self) -> None:
        """A key that is encrypted is refused, and nobody is asked for its passphrase."""
        own = identity("server")
        files = self.files(own)
        secret = serialization.BestAvailableEncryption(b"secret")
        pem = own.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
        self.file("key.pem", pem)
        said = str(self.assertRaises(TLSError, server_context, files))
        self.assertTrue(said.startswith(f"--tls-key {files.key} holds no usable private key: "), said)


class VerificationTests(TLSTestCase):
    """``--tls-verify``: what the server makes of a peer's certificate."""

    def test_modes(self) -> None:
        """Which peers get a connection in which mode."""
        peers = {
            "no certificate": None,
            "certified": identity("client", "CA"),
            "certified by a stranger": identity("stranger's client", "stranger"),
            "self-signed": identity("self"),
        }
        ca = self.file("ca.pem", identity("CA").cert_pem)
        welcome = {
            "none": set(peers),
            "optional": {"no certificate", "certified"},
            "required": {"certified"},
        }
        for mode, expected in welcome.items():
            context = self.context(verify=mode, ca=ca)
            for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
                taken = set()
                for name, own in peers.items():
                    try:
                        handshake(context, client(own, maximum_version=version))
                    except SSL.Error:
                        continue
                    taken.add(name)
                self.assertEqual(taken, expected, (mode, version))

    def test_authorities_are_named(self) -> None:
        """Peers are told whose certificates are asked for, if any are."""
        ca = self.file("ca.pem", identity("CA").cert_pem)
        for mode, names in {"none": [], "optional": ["CA"], "required": ["CA"]}.items():
            connection = SSL.Connection(self.context(verify=mode, ca=ca), None)
            self.assertEqual([name.CN for name in connection.get_client_ca_list()], names, mode)


class ClientTests(TLSTestCase):
    """What our clients make of a server's certificate."""

    HOSTS = ("pacs.example", "*.clinic.example", "192.0.2.7", "2001:db8::7")

    def faults(self, host: str, *chain: Identity, ca: Identity | None = None) -> list[str]:
        """What is wrong with a server that shows this chain, to a client that wants `host`; nothing if it is
        taken.
        """
        own = chain[0]
        pem = b"".join(one.cert_pem for one in chain)
        server = server_context(
            TLSFiles(cert=self.file("chain.pem", pem), key=self.file("key.pem", own.key_pem))
        )
        known = self.file("ca.pem", (identity("CA") if ca is None else ca).cert_pem)
        told: list[str] = []
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            context = client_context(TLSFiles(cert=None, key=None, ca=known))
            context.set_max_proto_version(version)
            connection = SSL.Connection(context, None)
            faults: list[str] = []
            connection.set_verify(SSL.VERIFY_PEER, verification(host, faults.append))
            if faults or version == SSL.TLS1_2_VERSION:
                told = faults
            try:
                handshake(server, connection)
            except SSL.Error:
                self.assertEqual(len(faults), 1, "one fault is told, and no connection made")
            else:
                self.assertEqual(faults, [], "nothing is told of a connection that is made")
            self.assertEqual(faults, told, "the same in TLS 1.2 and 1.3")
        return told

    def test_good(self) -> None:
        """A certificate that names the host, as a name, by a wild card or as an address, is taken."""
        own = identity("pacs", "CA", hosts=self.HOSTS)
        for host in ("pacs.example", "PACS.Example", "one.clinic.example", "192.0.2.7", "2001:db8:0:0::7"):
            self.assertEqual(self.faults(host, own), [], host)

    def test_wrong_host(self) -> None:
        """One that names others, or only calls itself like the host, is not."""
        own = identity("pacs", "CA", hosts=self.HOSTS)
        for host in ("other.example", "clinic.example", "a.b.clinic.example", "192.0.2.8", "2001:db8::8"):
            self.assertEqual(self.faults(host, own), [f"the certificate is not for {host}"])
        named = identity("pacs.example", "CA")
        self.assertEqual(self.faults("pacs.example", named), ["the certificate is not for pacs.example"])
        address = identity("192.0.2.7", "CA", hosts=("pacs.example",))
        self.assertEqual(self.faults("192.0.2.7", address), ["the certificate is not for 192.0.2.7"])

    def test_chain(self) -> None:
        """One by an authority in between is taken, if that one's certificate comes with it."""
        between = identity("between", "CA", is_authority=True)
        own = identity("pacs of the clinic", "between", hosts=self.HOSTS)
        self.assertEqual(self.faults("pacs.example", own, between), [])
        self.assertEqual(
            self.faults("pacs.example", own), ["the certificate is of an issuer who is not among those known"]
        )

    def test_unknown(self) -> None:
        """One that nobody known to us certifies is not, and neither is one that certifies itself."""
        stranger = identity("stranger")
        own = identity("stranger's pacs", "stranger", hosts=self.HOSTS)
        for chain, words in (
            ((own,), "of an issuer who is not among those known"),
            ((own, stranger), "of a chain whose root is not among those known"),
            ((identity("alone", hosts=self.HOSTS),), "self-signed and not among those known"),
        ):
            self.assertEqual(self.faults("pacs.example", *chain), [f"the certificate is {words}"])

    def test_self_signed(self) -> None:
        """One that certifies itself is taken by who knows it, such as those that our servers make."""
        alone = identity("alone", hosts=self.HOSTS)
        self.assertEqual(self.faults("pacs.example", alone, ca=alone), [])

    def test_times(self) -> None:
        """One that has expired, or is not valid yet, is not taken, nor if that is so of its issuer's."""
        expired = identity("old pacs", "CA", hosts=self.HOSTS, days=(-9, -2))
        self.assertEqual(self.faults("pacs.example", expired), ["the certificate is expired"])
        early = identity("new pacs", "CA", hosts=self.HOSTS, days=(2, 9))
        self.assertEqual(self.faults("pacs.example", early), ["the certificate is not valid yet"])
        old = identity("old CA", days=(-9, -2))
        own = identity("pacs of the old", "old CA", hosts=self.HOSTS)
        self.assertEqual(self.faults("pacs.example", own, ca=old), ["an issuer's certificate is expired"])

    def test_purpose(self) -> None:
        """One that is for clients alone is no server's; other reasons are told by OpenSSL's number."""
        own = identity("a client", "CA", hosts=self.HOSTS, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.assertEqual(self.faults("pacs.example", own), ["the certificate is not for this purpose"])
        faults: list[str] = []
        self.assertFalse(verification("pacs.example", faults.append)(None, None, 99, 0, 0))
        self.assertEqual(faults, ["the certificate is not accepted, OpenSSL says 99"])

    def test_own_certificate(self) -> None:
        """A client shows its certificate to a server that asks for one."""
        own = identity("client", "CA")
        known = self.file("known.pem", identity("CA").cert_pem)
        server = self.context(verify="required", ca=known)
        cert, key = self.file("own.pem", own.cert_pem), self.file("own.key", own.key_pem)
        for files, taken in (
            (TLSFiles(cert=cert, key=key), True),
            (TLSFiles(cert=None, key=None), False),
        ):
            try:
                end = handshake(server, client_context(files))
            except SSL.Error:
                self.assertFalse(taken)
            else:
                self.assertTrue(taken)
                shown = end.get_peer_certificate(as_cryptography=True)
                self.assertEqual(shown, own.certificate)

    def test_faults(self) -> None:
        """Files and profiles that are none are refused as those of a server."""
        for files, words in (
            (TLSFiles(cert=None, key=None, ca=self.directory / "absent.pem"), "No such file"),
            (TLSFiles(cert=None, key=None, profile="basic"), "3DES"),
        ):
            self.assertIn(words, str(self.assertRaises(TLSError, client_context, files)))

    def test_hosts_that_are_none(self) -> None:
        """What cannot be the name of a host is a ValueError."""
        self.assertRaises(ValueError, verification, "no host", lambda _: None)


class BrokenFileTests(TLSTestCase):
    def assert_refused(self, files: TLSFiles, path: Path, words: str) -> None:
        """One line that begins with the file and says what is wrong with it."""
        said = str(self.assertRaises(TLSError, server_context, files))
        self.assertRegex(said, f"^--tls-(cert|key|ca) {path}[: ]")
        self.assertIn(words, said)
        self.assertEqual(said.splitlines(), [said])

    def test_broken(self) -> None:
        """Files that are absent, empty, of another kind or of another pair are named with what is wrong."""
        good = self.files()
        empty, garbage = self.file("empty", b""), self.file("garbage", b"\xff" * 100)
        cut = self.file("cut.pem", identity("RSA server").cert_pem[:200])
        other_key = self.file("other.pem", identity("RSA other").key_pem)
        absent = self.directory / "absent.pem"
        for field, path, words in (
            ("cert", absent, "No such file"),
            ("cert", self.directory, "Is a directory"),
            ("cert", empty, "no usable certificate"),
            ("cert", garbage, "no usable certificate"),
            ("cert", cut, "no usable certificate"),
            ("cert", good.key, "no usable certificate"),
            ("key", absent, "No such file"),
            ("key", empty, "no usable private key"),
            ("key", garbage, "no usable private key"),
            ("key", good.cert, "no usable private key"),
            ("key", other_key, "no usable private key"),
            ("ca", absent, "No such file"),
            ("ca", empty, "no usable certificate"),
            ("ca", garbage, "no usable certificate"),
            ("ca", good.key, "no usable certificate"),
        ):
            self.assert_refused(attrs.evolve(good, **{field: path}), path, words)

    def test_unreadable(self) -> None:
        """A file that may not be read is named with that."""
        good = self.files()

        def read_bytes(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        self.patch(Path, "read_bytes", read_bytes)
        self.assert_refused(good, good.cert, "Permission denied")

    def test_chain(self) -> None:
        """Certificate, chain and key may all be in one file."""
        own = identity("client", "CA")
        path = self.file("all.pem", own.cert_pem + identity("CA").cert_pem + own.key_pem)
        context = server_context(TLSFiles(cert=path, key=path))
        self.assertTrue(handshake(context, client()).get_cipher_name())
