"""Addresses and networks as rules see them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.addresses import NETWORK, address_of, host_of, network_of, same_address, within
from tests.storage import modest


class AddressTests(SynchronousTestCase):
    def test_same(self) -> None:
        """One address may be written in several ways."""
        for one, other, same in (
            ("192.0.2.1", "192.0.2.1", True),
            ("192.0.2.1", "::ffff:192.0.2.1", True),
            ("192.0.2.1", "::192.0.2.1", False),
            ("2001:DB8::0007", "2001:db8:0:0::7", True),
            ("fe80::1%eth0", "fe80::1", True),
            ("", "", False),
            ("ct.example", "ct.example", False),
            ("192.0.2.01", "192.0.2.1", False),
        ):
            self.assertEqual(same_address(one, other), same, (one, other))

    def test_hosts(self) -> None:
        """An IPv4 address is a host, whatever it is dressed in; of IPv6 the /64 is."""
        for address, host in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::", "2001:db8:1:3::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("", ""),
            ("local socket", ""),
        ):
            self.assertEqual(host_of(address), host, address)

    @modest
    @given(st.text(max_size=20) | st.ip_addresses().map(str))
    def test_anything(self, text: str) -> None:
        """Whatever a text is, it is an address in one way only, and nothing else is of any network."""
        address = address_of(text)
        everywhere = [network_of("0.0.0.0/0"), network_of("::/0")]
        self.assertEqual(within(everywhere, text), address is not None)
        self.assertEqual(bool(host_of(text)), address is not None)
        if address is not None:
            self.assertEqual(address_of(str(address)), address)


class NetworkTests(SynchronousTestCase):
    def test_written(self) -> None:
        """Networks are written as addresses with prefixes; an address is a network of its own."""
        for text, written in (
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ):
            network = NETWORK.check(text)
            self.assertEqual(str(network), written)
            self.assertEqual(NETWORK.check(network), network)

    def test_wrong(self) -> None:
        """What is none, or has bits behind its prefix, is refused."""
        for value in ("", "192.0.2.7/24", "192.0.2.0/33", "ct.example", "10", 10, "192.0.2.0/24 ", "*", None):
            self.assertRaises(ValueError, NETWORK.check, value)

    def test_edges(self) -> None:
        """First and last address are of a network, their neighbours are not."""
        network = [network_of("192.0.2.4/30")]
        for last, inside in ((3, False), (4, True), (7, True), (8, False)):
            for address in (f"192.0.2.{last}", f"::ffff:192.0.2.{last}"):
                self.assertEqual(within(network, address), inside, address)
        self.assertFalse(within([], "192.0.2.4"))
