"""The PROXY protocol, versions 1 and 2, before the first PDU: a front end tells for whom it connects.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2. Twisted's own ``haproxy:``
logs tracebacks for malformed headers, refuses ``PROXY UNKNOWN`` and headers that come in pieces, and hides
from the transport that our protocol can be half closed.
"""

# ruff: noqa: N802, N803 (Twisted's hooks keep Twisted's case)

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

from dicomtw.server import DicomProtocol
from dicomtw.tls_listening import TLSEndpoint

_PREFIX = "haproxy:"

_V1_START = b"PROXY "
_V1_MAXIMUM = 107
_V2_START = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = 16
_V2_MAXIMUM = 536
#: Version 2, and its commands.
_LOCAL, _PROXY = 0x20, 0x21
#: TCP over IPv4 and IPv6: source and destination, their ports.
_V2_ADDRESSES = {0x11: struct.Struct("!4s4sHH"), 0x21: struct.Struct("!16s16sHH")}


@attrs.frozen
class Header:
    """A PROXY header: its length in bytes, and the addresses it gives, which may be none."""

    length: int
    source: IAddress | None = None
    destination: IAddress | None = None


def parse(data: bytes) -> Header | None:
    """The header that `data` begins with, None while it is incomplete; raises ValueError if it is none."""
    if data[: len(_V2_START)] == _V2_START[: len(data)]:
        return _parse_v2(data)
    if data[: len(_V1_START)] == _V1_START[: len(data)]:
        return _parse_v1(data)
    raise ValueError(f"begins with {data[:12].hex(' ').upper()}")


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, _V1_MAXIMUM)
    if end < 0:
        if len(data) >= _V1_MAXIMUM:
            raise ValueError(f"no end of line within {_V1_MAXIMUM} bytes")
        return None
    words = data[:end].decode("ascii", "backslashreplace").split(" ")[1:]
    if words[0] == "UNKNOWN":  # the rest of the line, if any, is to be ignored
        return Header(end + 2)
    if words[0] not in ("TCP4", "TCP6") or len(words) != 5:
        raise ValueError(f"not TCP4 or TCP6, two addresses and two ports: {' '.join(words)!r}")
    make = ipaddress.IPv4Address if words[0] == "TCP4" else ipaddress.IPv6Address
    source, destination = (make(host) for host in words[1:3])
    source_port, destination_port = map(_port, words[3:])
    return Header(end + 2, _address(source, source_port), _address(destination, destination_port))


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < _V2_FIXED:
        return None
    command, family, length = struct.unpack_from("!BBH", data, len(_V2_START))
    if command not in (_LOCAL, _PROXY):
        raise ValueError(f"version and command {command:02X}H")
    end = _V2_FIXED + length
    if end > _V2_MAXIMUM:
        raise ValueError(f"{end} bytes long, more than {_V2_MAXIMUM}")
    if len(data) < end:
        return None
    if command == _LOCAL or family >> 4 == 0:  # AF_UNSPEC
        return Header(end)
    layout = _V2_ADDRESSES.get(family)
    if layout is None:
        raise ValueError(f"address family and protocol {family:02X}H, which are not TCP over IP")
    if length < layout.size:
        raise ValueError(f"addresses of {length} bytes, not {layout.size}")
    *hosts, source_port, destination_port = layout.unpack_from(data, _V2_FIXED)
    source, destination = map(ipaddress.ip_address, hosts)
    return Header(end, _address(source, source_port), _address(destination, destination_port))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError(f"{text!r} is no port")
    return int(text)


def _address(host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> IAddress:
    if host.version == 4:
        return IPv4Address("TCP", str(host), port)
    if host.scope_id is not None:
        raise ValueError(f"{str(host)!r} has a zone, which is another machine's")
    return IPv6Address("TCP", str(host), port)


@implementer(IHalfCloseableProtocol)
class ProxyProtocol(ProtocolWrapper):
    """Takes the header off a connection, and is to the protocol behind it a transport with its addresses.

    That is a `DicomProtocol`, or TLS around one: the header comes before the handshake.
    """

    transport: Any

    def __init__(self, factory: WrappingFactory[ProxyProtocol], wrappedProtocol: Any) -> None:
        super().__init__(factory, wrappedProtocol)
        #: Whether `getPeer` is that of the peer itself; till then it is that of the front end.
        self.peer_is_known = False
        #: What has come of the header; None after it.
        self._beginning: bytes | None = b""
        self._header = Header(0)

    def dataReceived(self, data: bytes) -> None:
        if self._beginning is None:
            self.wrappedProtocol.dataReceived(data)
        elif not self.disconnecting:
            self._beginning += data
            self._look_for_header(self._beginning)

    def _look_for_header(self, data: bytes) -> None:
        try:
            header = parse(data)
        except Exception as fault:  # whatever it is, it is the front end's
            # Its one line in the log names the front end, for nobody else is known.
            self._association.turn_out(f"not a PROXY header: {fault}")
            return
        if header is not None:
            self._beginning = None
            self._header = header
            self.peer_is_known = True
            self._association.peer_known()
            if len(data) > header.length:
                self.wrappedProtocol.dataReceived(data[header.length :])

    @property
    def _association(self) -> DicomProtocol:
        protocol = self.wrappedProtocol
        while not isinstance(protocol, DicomProtocol):
            protocol = protocol.wrappedProtocol  # type: ignore[attr-defined]
        return protocol

    def readConnectionLost(self) -> None:
        if self.wrappedProtocol is self._association:
            self._association.readConnectionLost()
        else:
            self.transport.loseConnection()  # TLS cannot be half closed

    def writeConnectionLost(self) -> None:
        if self.wrappedProtocol is self._association:
            self._association.writeConnectionLost()
        else:
            self.transport.loseConnection()

    def getPeer(self) -> IAddress:
        return self._header.source or self.transport.getPeer()

    def getHost(self) -> IAddress:
        return self._header.destination or self.transport.getHost()


class ProxyFactory(WrappingFactory):
    """Puts a `ProxyProtocol` before each protocol of a `DicomFactory`."""

    protocol = ProxyProtocol
    noisy = False

    def logPrefix(self) -> str:
        return f"{type(self.wrappedFactory).__name__} (PROXY)"


@implementer(IStreamServerEndpoint)
@attrs.frozen
class ProxyEndpoint:
    """Listens where another endpoint does, for front ends that speak the PROXY protocol."""

    endpoint: IStreamServerEndpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        if isinstance(self.endpoint, TLSEndpoint):
            return self.endpoint.listen(protocolFactory, before=ProxyFactory)
        return self.endpoint.listen(ProxyFactory(protocolFactory))  # type: ignore[no-untyped-call]


def server_endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    """Twisted's `serverFromString`, but with our own ``haproxy:``; raises whatever a plugin may.

    ``haproxy:dicomtls:`` takes the header in plain before the handshake, as front ends send it that pass TLS
    on; with ``haproxy:ssl:``, as Twisted has it, the header comes inside.
    """
    if text.startswith(_PREFIX):
        return ProxyEndpoint(serverFromString(reactor, text.removeprefix(_PREFIX)))
    endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
    return endpoint
