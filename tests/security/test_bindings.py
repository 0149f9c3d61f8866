"""How a certificate is named in a configuration."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.bindings import CERTIFICATE, Binding
from dicomtw.security.certificate import PeerCertificate

SHOWN = PeerCertificate(
    "CN=a\\,b,O=Clinic", ("DNS:a.example", "DNS:*.b.example", "IP:2001:db8::7", "URI:urn:x"), "0a" * 32
)


class BindingTests(SynchronousTestCase):
    def test_written(self) -> None:
        """Each has one form, however it was written."""
        for text, binding in (
            ("sha256:" + "0A" * 32, Binding("sha256", "0a" * 32)),
            ("sha256:" + ":".join(["0A"] * 32), Binding("sha256", "0a" * 32)),
            ("subject:CN=a\\,b,O=Clinic", Binding("subject", "CN=a\\,b,O=Clinic")),
            ("subject:CN=a\\2cb,O=Clinic", Binding("subject", "CN=a\\,b,O=Clinic")),
            ("san:DNS:a.example", Binding("san", "DNS:a.example")),
            ("san:IP:2001:DB8::0007", Binding("san", "IP:2001:DB8::0007")),
            ("san:URI:urn:x", Binding("san", "URI:urn:x")),
        ):
            found = CERTIFICATE.check(text)
            self.assertEqual(found, binding)
            self.assertEqual(CERTIFICATE.check(str(found)), found)
            self.assertTrue(found.fits(SHOWN, True), text)
            self.assertEqual(found.fits(SHOWN, False), binding.kind == "sha256", text)

    def test_wrong(self) -> None:
        """What names no certificate is refused, and so is what only looks as if it did."""
        for value in (
            *("", "0a" * 32, "sha256:", "sha256:0a", "sha1:" + "0a" * 20, "sha256:" + "0g" * 32),
            *(
                "sha256:" + "0a" * 33,
                "sha256:" + ":".join("a" * 64),
                "sha256:" + "0a" * 31 + ":0a",
                "subject:",
                "subject:scanner",
                "subject:CN=a, O=b",
                "subject:CN",
                "CN=a",
            ),
            *("san:", "san:a.example", "san:DNS:", "san:IP:a.example", "san:dns:a", "SHA256:" + "0a" * 32, 7),
        ):
            self.assertRaises(ValueError, CERTIFICATE.check, value)

    def test_names(self) -> None:
        """A wild card of a certificate stands for no other name, nor does a part of one."""
        for text, fits in (
            ("san:DNS:A.EXAMPLE", True),
            ("san:DNS:*.b.example", True),
            ("san:DNS:c.b.example", False),
            ("san:DNS:example", False),
            ("san:DNS:*.example", False),
            ("san:IP:2001:db8::8", False),
            ("san:URI:URN:x", False),
            ("san:email:urn:x", False),
        ):
            self.assertEqual(CERTIFICATE.check(text).fits(SHOWN, True), fits, text)
