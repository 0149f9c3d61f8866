"""IP addresses and networks that requestors come from."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Any

from dicomtw.settings import Kind, check_text

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IPv4 addresses in IPv6 clothes (RFC 4291 2.5.5.2), as a listener for both sees them.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

#: Whoever has one IPv6 address has all of its /64 (RFC 4291 2.5.1).
_ONE_HOST = 64


@functools.lru_cache(maxsize=1024)
def address_of(text: str) -> Address | None:
    """The address that a text is, None if it is none; an IPv4 address in IPv6 clothes is that, without them.

    A zone, as in ``fe80::1%eth0``, says which of our interfaces it came in at, and is left out.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def same_address(one: str, other: str) -> bool:
    """Whether two texts are one IP address."""
    address = address_of(one)
    return address is not None and address == address_of(other)


def within(networks: Iterable[Network], address: str) -> bool:
    """Whether `address` is of one of `networks`; what is no address is of none."""
    found = address_of(address)
    return found is not None and any(found in network for network in networks)


def host_of(address: str) -> str:
    """What is counted as one host: an IPv4 address, the /64 of an IPv6 one; empty for what is no address."""
    found = address_of(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, _ONE_HOST), strict=False))
    return "" if found is None else str(found)


def network_of(text: str) -> Network:
    """The network that a text is, an address being one of its own; raises ValueError.

    So does one with bits set behind its prefix: it may be an address with a prefix too many.
    """
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = int(network.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((inner, network.prefixlen - _MAPPED.prefixlen))
    return network


def _check_network(value: Any) -> Network:
    if isinstance(value, Network):
        return value
    return network_of(check_text(value))


NETWORK = Kind("a network or an address, such as 192.0.2.0/24 or 2001:db8::7", _check_network)
