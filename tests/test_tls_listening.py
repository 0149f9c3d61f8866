"""The endpoint ``dicomtls:``: what its string may be, and what it makes of connections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface.verify import verifyObject

from dicomtw import tls_listening
from dicomtw.proxy import server_endpoint
from dicomtw.security.tls import TLSFiles
from dicomtw.tls_listening import TLSEndpoint, read_again, said_of
from tests.security.identities import TLSTestCase, client, crl, handshake, identity


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class EndpointTestCase(TLSTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.reactor = MemoryReactorClock()
        self.own = identity("RSA server")
        self.cert = self.file("cert.pem", self.own.cert_pem)
        self.key = self.file("key.pem", self.own.key_pem)
        self.ca = self.file("ca.pem", identity("CA").cert_pem)

    def string(self, *parts: str) -> str:
        return ":".join(("dicomtls", *parts, f"cert={self.cert}", f"key={self.key}"))

    def endpoint(self, *parts: str) -> TLSEndpoint:
        made = serverFromString(self.reactor, self.string(*parts))
        assert isinstance(made, TLSEndpoint)
        return made

    def connection(self, number: int = -1) -> SSL.Connection:
        """A connection as a port that listens makes it."""
        factory = self.reactor.tcpServers[number][1]
        self.assertIsInstance(factory, TLSMemoryBIOFactory)
        made = factory._creatorCallable(None)
        assert isinstance(made, SSL.Connection)
        return made


class ParseTests(EndpointTestCase):
    def test_port(self) -> None:
        """The port stands first or has a name; address and backlog may be given."""
        for parts, expected in (
            (("2762",), (2762, 512, "")),
            (("port=2762",), (2762, 512, "")),
            (("2762", "interface=127.0.0.1", "backlog=7"), (2762, 7, "127.0.0.1")),
            (("0", r"interface=\:\:1"), (0, 512, "::1")),
        ):
            endpoint = self.endpoint(*parts)
            self.assertTrue(verifyObject(IStreamServerEndpoint, endpoint))
            self.successResultOf(endpoint.listen(Factory.forProtocol(Echo)))
            port, _, backlog, interface = self.reactor.tcpServers[-1]
            self.assertEqual((port, backlog, interface), expected)

    def test_files(self) -> None:
        """All that the options of the command line can say, and a chain, can be said here."""
        crls = self.file("crl.pem", crl("CA"))
        chain = self.file("chain.pem", identity("CA").cert_pem)
        endpoint = self.endpoint(
            "2762", f"chain={chain}", f"ca={self.ca}", f"crl={crls}", "verify=optional", "profile=8996-mod"
        )
        expected = TLSFiles(
            cert=self.cert,
            key=self.key,
            chain=chain,
            ca=self.ca,
            crl=crls,
            verify="optional",
            profile="8996-mod",
        )
        self.assertEqual(endpoint.context.files, expected)

    def test_paths_with_colons(self) -> None:
        """A colon in a path is escaped, as in all of Twisted's strings."""
        path = self.file("a:b.pem", self.own.cert_pem + self.own.key_pem)
        text = f"dicomtls:2762:cert={str(path).replace(':', chr(92) + ':')}"
        self.assertEqual(serverFromString(self.reactor, text).context.files, TLSFiles(cert=path))

    def test_faults(self) -> None:
        """Whatever is wrong with a string is one line that names it."""
        absent = self.directory / "absent"
        for text, words in (
            ("dicomtls", "dicomtls: needs a port"),
            ("dicomtls:2762", "dicomtls: needs a certificate"),
            (self.string("x"), "port takes a number from 0 to 65535, not 'x'"),
            (self.string("65536"), "port takes a number"),
            (self.string("-1"), "port takes a number"),
            (self.string("1", "port=2"), "dicomtls: takes a port"),
            (self.string("1", "2"), "dicomtls: takes a port"),
            (self.string("1", "backlog=0"), "backlog takes a number from 1"),
            (self.string("1", "interface=localhost"), "interface takes an IP address, not 'localhost'"),
            (self.string("1", "privateKey=x"), "not 'privateKey'"),
            (self.string("1", "verify=maybe"), "verify takes one of none, optional, required, not 'maybe'"),
            (self.string("1", "profile=b12"), "profile takes one of 8996, "),
            (self.string("1", "profile=basic"), "the Basic TLS profile (PS3.15 B.1) is 3DES"),
            (self.string("1", "verify=required"), "verify needs the certificates to verify against: ca"),
            (self.string("1", "crl=c"), "crl needs the certificates of those whose it is: ca"),
            (self.string("1", f"ca={absent}"), f"ca {absent}: No such file or directory"),
            (self.string("1", "ca="), "ca takes a path"),
            (f"dicomtls:1:cert={self.cert}", f"cert {self.cert} holds no usable private key"),
            (f"dicomtls:1:cert={self.key}:key={self.key}", f"cert {self.key} holds no usable certificate"),
        ):
            error = self.assertRaises(ValueError, serverFromString, self.reactor, text)
            self.assertIn(words, str(error), text)
            self.assertEqual(len(str(error).splitlines()), 1)
            self.assertNotIn("--", str(error))

    def test_said(self) -> None:
        """What an endpoint is can be told without listening, also behind a PROXY header."""
        for text in (self.string("1", "profile=aes"), f"haproxy:{self.string('1', 'profile=aes')}"):
            lines = said_of(server_endpoint(self.reactor, text))
            self.assertEqual(lines[0], "TLS profile AES (PS3.15 B.3), client certificates: none")
            self.assertIn("fingerprint", lines[1])
            self.assertTrue(lines[2].startswith("warning: TLS profile aes: the standard has retired"))
        self.assertEqual(said_of(server_endpoint(self.reactor, "tcp:1")), [])
        self.assertEqual(self.reactor.tcpServers, [])


class ListenTests(EndpointTestCase):
    def test_any_protocol(self) -> None:
        """Any protocol of Twisted's can be had over it: what comes in plain comes out in plain."""
        self.successResultOf(self.endpoint("2762").listen(Factory.forProtocol(Echo)))
        factory = self.reactor.tcpServers[0][1]
        protocol, transport = factory.buildProtocol(None), StringTransport()
        transport.abortConnection = lambda: None  # type: ignore[method-assign]
        protocol.makeConnection(transport)
        peer = SSL.Connection(client(), None)
        peer.set_connect_state()

        def exchange(step: Any) -> Any:
            for _ in range(5):
                try:
                    return step()
                except SSL.WantReadError:
                    try:
                        protocol.dataReceived(peer.bio_read(1 << 16))
                    except SSL.WantReadError:
                        pass
                    self.reactor.advance(0)
                    if transport.value():
                        peer.bio_write(transport.value())
                        transport.clear()
            raise AssertionError("no end of it")

        exchange(peer.do_handshake)
        peer.send(b"hello")
        self.assertEqual(exchange(lambda: peer.recv(100)), b"hello")

    def test_told(self) -> None:
        """Listening tells the profile, the fingerprint, and what there is to be warned of."""
        old = identity("expired", days=(-9, -2))
        self.file("cert.pem", old.cert_pem)
        self.file("key.pem", old.key_pem)
        with capturedLogs() as events:
            self.successResultOf(self.endpoint("1", "profile=bcp195-nd").listen(Factory()))
        lines = [(event["log_level"], formatEvent(event)) for event in events if "line" in event]
        self.assertEqual([level for level, _ in lines], [LogLevel.info] * 2 + [LogLevel.warn] * 2)
        for (_, line), words in zip(
            lines, ("(PS3.15 B.10)", "SHA-256 fingerprint", "retired", "has expired on"), strict=True
        ):
            self.assertIn(words, line)

    def test_verified(self) -> None:
        """With authorities given, peers without a certificate of theirs are turned away."""
        self.successResultOf(self.endpoint("1", f"ca={self.ca}").listen(Factory()))
        handshake(self.connection(), client(identity("client", "CA")))
        self.assertRaises(SSL.Error, handshake, self.connection(), client())

    def test_read_again(self) -> None:
        """All endpoints of the process read their files again when told to; a broken one stays as it was."""
        for number in range(2):
            self.successResultOf(self.endpoint(str(number)).listen(Factory()))
        other = self.directory / "other.pem"
        other.write_bytes(self.own.cert_pem + self.own.key_pem)
        third = serverFromString(self.reactor, f"dicomtls:3:cert={other}")
        self.successResultOf(third.listen(Factory()))
        before = [self.connection(number).get_context() for number in range(3)]
        new = identity("RSA other")
        for path, content in ((self.cert, new.cert_pem), (self.key, new.key_pem), (other, b"")):
            path.write_bytes(content)
        with capturedLogs() as events:
            read_again()
        after = [self.connection(number).get_context() for number in range(3)]
        self.assertEqual([one is two for one, two in zip(before, after, strict=True)], [False, False, True])
        lines = [formatEvent(event) for event in events if str(self.directory) in str(event.get("line"))]
        self.assertEqual(len([line for line in lines if line.startswith("renewed: ")]), 2, lines)
        self.assertEqual(len([line for line in lines if "holds no usable certificate" in line]), 1, lines)

    def test_reactor(self) -> None:
        """Nothing is done by any reactor but the one that is given."""
        self.patch(tls_listening, "TLSFactory", self.factory)
        self.successResultOf(self.endpoint("1").listen(Factory()))

    def factory(self, creator: Any, is_client: bool, wrapped: Any, clock: Any) -> Factory:
        self.assertIs(clock, self.reactor)
        self.assertFalse(is_client)
        return Factory()


class UnreadableTests(EndpointTestCase):
    def test_told(self) -> None:
        """What can no longer be read is told of all endpoints of the process."""
        self.endpoint("1")
        kept = self.endpoint("2")
        os.chmod(self.key, 0)
        self.patch(os, "open", self.refused)
        with capturedLogs() as events:
            tls_listening.tell_unreadable()
        lines = [formatEvent(event) for event in events if str(self.key) in str(event.get("line"))]
        self.assertIn(
            f"--tls-key {self.key} cannot be read by user {os.geteuid()} (Permission denied)", lines[0]
        )
        self.assertIsNotNone(kept.context.current())

    def refused(self, path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))
