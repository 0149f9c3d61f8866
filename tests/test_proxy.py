"""The PROXY protocol before the first PDU: what a header may be, who the peer then is, and how it closes."""

from __future__ import annotations

import ipaddress
import struct
from types import SimpleNamespace
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol, IStreamServerEndpoint, ITCPTransport
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from dicomtw import uids
from dicomtw.limits import Limits
from dicomtw.proxy import Header, ProxyEndpoint, ProxyFactory, ProxyProtocol, parse, server_endpoint
from dicomtw.security.access import AccessPolicy
from dicomtw.security.remote import Remote
from dicomtw.services.verification import Verification
from dicomtw.testing import MemoryServer, MemoryStore, Peer, associate_rq, message
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ
from tests.test_association import CONTEXTS, Held, c_echo_rq, c_store_rq

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FRONT_END = "192.0.2.99"
FROM_4 = IPv4Address("TCP", "198.51.100.7", 50001)
TO_4 = IPv4Address("TCP", "203.0.113.1", 104)
FROM_6 = IPv6Address("TCP", "2001:db8::7", 50001)
TO_6 = IPv6Address("TCP", "2001:db8::1", 104)
V1_4 = b"PROXY TCP4 198.51.100.7 203.0.113.1 50001 104\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 2001:db8:0::1 50001 104\r\n"
RQ = associate_rq({1: (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)}).encode()


def v2(command: int, family: int, addresses: bytes = b"", length: int | None = None) -> bytes:
    """A header of version 2."""
    return (
        SIGNATURE
        + struct.pack("!BBH", command, family, len(addresses) if length is None else length)
        + addresses
    )


def addresses(source: Any, destination: Any) -> bytes:
    hosts = b"".join(ipaddress.ip_address(one.host).packed for one in (source, destination))
    return hosts + struct.pack("!HH", source.port, destination.port)


V2_4 = v2(0x21, 0x11, addresses(FROM_4, TO_4))
V2_6 = v2(0x21, 0x21, addresses(FROM_6, TO_6))
LOCAL = v2(0x20, 0x00)

#: Headers that give addresses, with these.
GIVEN = [(V1_4, FROM_4, TO_4), (V1_6, FROM_6, TO_6), (V2_4, FROM_4, TO_4), (V2_6, FROM_6, TO_6)]
#: TLVs behind the addresses: an ALPN, a unique ID, nothing.
TLVS = b"\x01\0\x02h2\x05\0\x04abcd\x04\0\0"
#: Headers that give none: of connections that the front end cannot tell about, or makes by itself.
GIVING_NONE = [
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    b"PROXY UNKNOWN \xff\0\r\n",
    LOCAL,
    v2(0x20, 0x11, addresses(FROM_4, TO_4)),
    v2(0x20, 0x31, bytes(216)),
    v2(0x21, 0x00),
    v2(0x21, 0x00, TLVS),
]


class ParseTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        """Both versions give the addresses of both ends, IPv4 and IPv6, and end where they say."""
        for header, source, destination in GIVEN:
            self.assertEqual(parse(header), Header(len(header), source, destination))
            self.assertEqual(parse(header + RQ), Header(len(header), source, destination))

    def test_no_addresses(self) -> None:
        """What is UNKNOWN, LOCAL or of no address family is a header without addresses."""
        for header in GIVING_NONE:
            self.assertEqual(parse(header + RQ), Header(len(header)), header)

    def test_tlvs(self) -> None:
        """What follows the addresses in version 2 is of the header and passed over."""
        header = v2(0x21, 0x11, addresses(FROM_4, TO_4) + TLVS)
        self.assertEqual(parse(header + RQ), Header(len(header), FROM_4, TO_4))

    def test_pieces(self) -> None:
        """A header that has not come to its end is incomplete, wherever it is cut."""
        for header in [*(header for header, *_ in GIVEN), *GIVING_NONE]:
            for length in range(len(header)):
                self.assertIsNone(parse(header[:length]), header[:length])

    def test_faults(self) -> None:
        """Whatever else comes is refused, and what is wrong said."""
        ends = addresses(FROM_4, TO_4)
        for header, said in (
            (RQ, "begins with 01 00 00 00 "),
            (b"\x16\x03\x01\x02\0", "begins with 16 03 01 02 00"),
            (b"GET / HTTP/1.1\r\n", "begins with 47 45 54 "),
            (b"PROXY\r\n", "begins with 50 52 4F 58 59 0D 0A"),
            (b"proxy TCP4", "begins with "),
            (SIGNATURE[:-1] + b"x", "begins with "),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 x y\r\n", "'x' is no port"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "'65536' is no port"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -1\r\n", "'-1' is no port"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 +1\r\n", "'+1' is no port"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 000001\r\n", "'000001' is no port"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", "'' is no port"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "not TCP4 or TCP6, two addresses and two ports: "),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "not TCP4 or TCP6, two"),
            (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", "not TCP4 or TCP6, two"),
            (b"PROXY TCP4 \xff\r\n", r"not TCP4 or TCP6, two addresses and two ports: 'TCP4 \\xff'"),
            (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", "not TCP4 or TCP6, two"),
            (b"PROXY \r\n", "not TCP4 or TCP6, two"),
            (b"PROXY TCP4 localhost 1.2.3.4 1 2\r\n", "Expected 4 octets in 'localhost'"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\n", "Octet 256 "),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", "Expected 4 octets in '::1'"),
            (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", "At least 3 parts expected in '1.2.3.4'"),
            (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "'fe80::1%eth0' has a zone"),
            (b"PROXY TCP6 \xff\xff ::1 1 2\r\n", "At least 3 parts"),
            (b"PROXY TCP4 " + b"1" * 96, "no end of line within 107 bytes"),
            (b"PROXY UNKNOWN " + b"1" * 92 + b"\r\n", "no end of line within 107 bytes"),
            (v2(0x22, 0x11, ends), "version and command 22H"),
            (v2(0x11, 0x11, ends), "version and command 11H"),
            (v2(0x31, 0x11, ends), "version and command 31H"),
            (v2(0x21, 0x12, ends), "address family and protocol 12H"),
            (v2(0x21, 0x10, ends), "address family and protocol 10H"),
            (v2(0x21, 0x31, bytes(216)), "address family and protocol 31H"),
            (v2(0x21, 0x41, ends), "address family and protocol 41H"),
            (v2(0x21, 0x11, ends[:-1]), "addresses of 11 bytes, not 12"),
            (v2(0x21, 0x21, ends), "addresses of 12 bytes, not 36"),
            (v2(0x21, 0x11), "addresses of 0 bytes, not 12"),
            (v2(0x21, 0x11, length=521), "537 bytes long, more than 536"),
            (v2(0x20, 0x00, length=65535), "65551 bytes long, more than 536"),
        ):
            fault = str(self.assertRaises(ValueError, parse, header))
            self.assertIn(said, fault, header)

    def test_longest(self) -> None:
        """The longest headers that there may be are taken."""
        header = b"PROXY UNKNOWN " + b"1" * 91 + b"\r\n"
        self.assertEqual(len(header), 107)
        self.assertEqual(parse(header + RQ), Header(107))
        header = v2(0x21, 0x11, addresses(FROM_4, TO_4).ljust(520, b"\0"))
        self.assertEqual(parse(header + RQ), Header(536, FROM_4, TO_4))

    @settings(max_examples=500, deadline=None)
    @given(
        st.sampled_from(
            [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::", SIGNATURE, SIGNATURE + b"\x21\x11\0"]
        ),
        st.binary(max_size=600) | st.text("0123456789abcdef:. %", max_size=90).map(str.encode),
        st.sampled_from([b"", b"\r\n", b" 1 2\r\n", b" 1.2.3.4 ::1 1 2\r\n"]),
    )
    def test_anything(self, start: bytes, middle: bytes, end: bytes) -> None:
        """Whatever comes is a header, the beginning of one of bounded length, or a ValueError of one line."""
        data = start + middle + end
        try:
            header = parse(data)
        except ValueError as fault:
            self.assertLess(len(str(fault)), 600)
            self.assertTrue(str(fault).isprintable(), fault)
        else:
            if header is None:
                self.assertLess(len(data), 536)
                return
            self.assertLessEqual(header.length, min(len(data), 536))
            for address in (header.source, header.destination):
                if address is not None:
                    assert isinstance(address, IPv4Address | IPv6Address)
                    self.assertEqual(str(ipaddress.ip_address(address.host)), address.host)
                    self.assertLessEqual(address.port, 65535)


class ProxyTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.held = Held(self.store)
        self.server = MemoryServer.of(Verification(), self.held, limits=Limits(artim_timeout=30))

    def connection(self, *pieces: bytes) -> Peer:
        """A connection of the front end, which has sent this."""
        server: Any = SimpleNamespace(factory=ProxyFactory(self.server.factory), clock=self.server.clock)
        peer = Peer(server, FRONT_END)
        for piece in pieces:
            peer.protocol.dataReceived(piece)
        return peer


class ConnectionTests(ProxyTestCase):
    def test_peer(self) -> None:
        """The addresses of a connection are those of the header, once that has come."""
        for header, source, destination in GIVEN:
            peer = self.connection()
            inner: Any = peer.protocol
            transport = inner.wrappedProtocol.transport
            self.assertEqual(transport.getPeer(), peer.transport.getPeer())
            self.assertEqual(transport.getHost(), peer.transport.getHost())
            peer.protocol.dataReceived(header)
            self.assertEqual(transport.getPeer(), source)
            self.assertEqual(transport.getHost(), destination)
            with capturedLogs() as events:
                self.assertIsInstance(peer.associate(), A_ASSOCIATE_AC)
                peer.close()
            (fields,) = [event["association"] for event in events if "association" in event]
            self.assertIn(fields["peer"], ("198.51.100.7:50001", "[2001:db8::7]:50001"))

    def test_no_addresses(self) -> None:
        """A header without addresses leaves the connection the front end's, and it is served."""
        for header in GIVING_NONE:
            peer = self.connection(header)
            with capturedLogs() as events:
                self.assertIsInstance(peer.associate(), A_ASSOCIATE_AC)
                peer.close()
            (fields,) = [event["association"] for event in events if "association" in event]
            self.assertEqual(fields["peer"], f"{FRONT_END}:50000")

    def test_health_check(self) -> None:
        """A health check of the front end, a header and no more, is no reason to warn."""
        peer = self.connection(LOCAL)
        with capturedLogs() as events:
            peer.close()
        self.assertEqual([event["log_level"] for event in events], [LogLevel.info])

    def test_pieces(self) -> None:
        """Header and first PDU may come in one piece, byte by byte, or cut anywhere."""
        for header, *_ in GIVEN:
            stream = header + RQ
            for cut in range(1, len(header) + 2):
                (answer,) = self.connection(stream[:cut], stream[cut:]).received()
                self.assertIsInstance(answer, A_ASSOCIATE_AC, cut)
            (answer,) = self.connection(stream).received()
            self.assertIsInstance(answer, A_ASSOCIATE_AC)
            (answer,) = self.connection(*(bytes([one]) for one in stream)).received()
            self.assertIsInstance(answer, A_ASSOCIATE_AC)

    def test_rules(self) -> None:
        """A remote bound to its host is known by the header, and not by what the front end's address is."""
        remote = Remote(aet="ROOM1", host="198.51.100.7", check_host=True)
        access = AccessPolicy(ae_title="PMOD", remotes=(remote,))
        self.server.factory.entity = attrs.evolve(self.server.factory.entity, access=access)
        for header, accepted in ((V1_4, True), (V2_4, True), (V1_6, False), (LOCAL, False)):
            answer = self.connection(header).associate(calling="ROOM1")
            self.assertIsInstance(answer, A_ASSOCIATE_AC if accepted else A_ASSOCIATE_RJ, header)

    def test_faults(self) -> None:
        """What is no header closes the connection, unanswered, with one warning that names the front end."""
        for pieces, said in (
            ([b"PROXY TCP4 1.2.3.4 1.2.3.4 x y\r\n"], "not a PROXY header: 'x' is no port"),
            ([b"PROXY TCP4 \xff", b"\xff\r\n"], "not a PROXY header: not TCP4 or TCP6, two "),
            ([RQ], "not a PROXY header: begins with 01 00"),
            ([b"P" * 20, RQ], "not a PROXY header: begins with 50 50 50"),
            ([v2(0x21, 0x11, b"")], "not a PROXY header: addresses of 0 bytes, not 12"),
            ([v2(0x2F, 0x11, addresses(FROM_4, TO_4)) + RQ], "not a PROXY header: version and command 2FH"),
        ):
            with capturedLogs() as events:
                peer = self.connection(*pieces)
                self.assertEqual(peer.received(), [])
                peer.protocol.dataReceived(V1_4 + RQ)
                self.assertFalse(peer.connected)
                self.assertEqual(peer.received(), [])
            (event,) = events
            self.assertIs(event["log_level"], LogLevel.warn)
            self.assertTrue(event["summary"].startswith(f"{FRONT_END}:50000; "), event["summary"])
            self.assertIn(said, event["summary"])
            self.assertEqual(self.flushLoggedErrors(), [])
            self.assertEqual(self.server.factory.connections, {})

    def test_only_once(self) -> None:
        """There is one header: a second one is what the peer sent, and not believed."""
        (answer,) = self.connection(V1_4, b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n").received()
        self.assertNotIsInstance(answer, A_ASSOCIATE_AC)

    def test_silence(self) -> None:
        """A connection on which no header comes, or half of one, is closed at ARTIM."""
        for piece in (b"", V1_4[:20], V2_6[:13]):
            peer = self.connection(piece)
            self.server.clock.advance(29)
            self.assertTrue(peer.connected)
            self.server.clock.advance(1)
            self.assertFalse(peer.connected)


class HalfCloseTests(ProxyTestCase):
    def test_told(self) -> None:
        """The transport sees that the connection can be half closed, whatever it provides itself."""
        peer = self.connection()
        self.assertTrue(verifyObject(IHalfCloseableProtocol, peer.protocol))
        transport = StringTransport()
        directlyProvides(transport, ITCPTransport)
        again: Any = ProxyFactory(self.server.factory).buildProtocol(None)
        again.makeConnection(transport)
        self.assertTrue(IHalfCloseableProtocol.providedBy(again))
        self.assertTrue(ITCPTransport.providedBy(again))

    def test_answer(self) -> None:
        """What was asked before the peer closed its side is answered, and then we close ours."""
        peer = self.connection(V1_4)
        peer.associate(CONTEXTS)
        peer.send(*message(3, c_store_rq(), b"\0" * 10))
        half: Any = peer.protocol
        half.readConnectionLost()
        self.assertTrue(peer.connected)
        self.assertEqual(peer.received(), [])
        self.held.let(1)
        (response,) = peer.received()
        self.assertEqual(getattr(response, "status", None), 0)
        self.assertFalse(peer.connected)

    def test_idle(self) -> None:
        """A peer that closes its side and waits for nothing, or that reads no more, is closed at once."""
        for header in (V1_4, b"", V1_4[:9]):
            for loss in ("readConnectionLost", "writeConnectionLost"):
                peer = self.connection(header)
                if header == V1_4:
                    peer.associate(CONTEXTS)
                    self.assertEqual(getattr(peer.request(1, c_echo_rq()), "status", None), 0)
                getattr(peer.protocol, loss)()
                self.assertFalse(peer.connected, (header, loss))


class EndpointTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.server = MemoryServer.of(Verification())

    def test_haproxy(self) -> None:
        """With ``haproxy:`` before it any endpoint listens where it would, for front ends."""
        for text, port, interface in (
            ("haproxy:tcp:4030", 4030, ""),
            ("haproxy:tcp:4030:interface=127.0.0.1", 4030, "127.0.0.1"),
            ("haproxy:tcp:4030:interface=\\:\\:1", 4030, "::1"),
        ):
            self.reactor.tcpServers.clear()
            endpoint = server_endpoint(self.reactor, text)
            self.assertTrue(verifyObject(IStreamServerEndpoint, endpoint))
            self.successResultOf(endpoint.listen(self.server.factory))
            factory: Any
            ((at, factory, _, on),) = self.reactor.tcpServers
            self.assertEqual((at, on), (port, interface))
            self.assertIsInstance(factory, ProxyFactory)
            self.assertIs(factory.wrappedFactory, self.server.factory)
            self.assertIsInstance(factory.buildProtocol(None), ProxyProtocol)

    def test_others(self) -> None:
        """Other endpoint strings mean what they mean to Twisted."""
        self.assertIsInstance(server_endpoint(self.reactor, "tcp:4030"), TCP4ServerEndpoint)
        self.assertIsInstance(server_endpoint(self.reactor, "haproxy:tcp:4030"), ProxyEndpoint)
        for text in ("haproxy:", "haproxy", "haproxy:nonsense", "haproxy:tcp:x", "haproxyx:tcp:1"):
            self.assertRaises(Exception, server_endpoint, self.reactor, text)  # noqa: B017

    def test_name(self) -> None:
        """The log tells which ports are for front ends."""
        self.assertEqual(ProxyFactory(self.server.factory).logPrefix(), "DicomFactory (PROXY)")
