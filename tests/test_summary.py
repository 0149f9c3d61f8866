"""The one log line of each connection, and its fields for machines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.error import ConnectionDone
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.errors import DimseError
from dicomtw.jsonlog import format_event
from dicomtw.security.certificate import peer_certificate_of
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.testing import MemoryServer, MemoryStore, Peer, associate_rq, message
from dicomtw.transports import certificate_of, in_handshake, tls_fault, tls_of
from dicomtw.ul.pdu import A_ABORT, A_RELEASE_RQ, P_DATA_TF, PresentationDataValue
from tests.security.test_tls import TLSTestCase, client, handshake, identity
from tests.test_association import c_echo_rq, c_store_rq

IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
CONTEXTS = {1: (uids.VERIFICATION, IVR), 3: (CT, IVR)}


class SummaryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()
        self.server = MemoryServer.of(Verification(), Storage(self.store))

    def summary(self, *sent: Any, seconds: float = 1.5) -> LogEvent:
        """The log event of a connection on which all that was sent."""
        peer = self.server.connect()
        peer.send(*sent)
        return self.end(peer, seconds)

    def end(self, peer: Peer, seconds: float = 1.5) -> LogEvent:
        self.server.clock.advance(seconds)
        with capturedLogs() as events:
            peer.close()
        (event,) = [event for event in events if "association" in event]
        return event

    def test_fields(self) -> None:
        """Who, from where, what was agreed and done, how it ended: in words, and as fields."""
        peer = self.server.connect("192.0.2.7")
        peer.associate({**CONTEXTS, 5: (CT, IVR), 7: ("1.2.3", IVR), 9: (MR, "1.2.3")}, calling="CT 1")
        peer.request(1, c_echo_rq())
        peer.request(3, c_store_rq(), bytes(100))
        peer.request(5, c_store_rq(uid="1.2.4"), bytes(20_000))
        self.store.commit_fault = DimseError(0xA700, "disk full")
        peer.request(5, c_store_rq(), bytes(10))
        peer.send(A_RELEASE_RQ())
        event = self.end(peer)
        self.assertEqual(
            event["association"],
            {
                "calling": "CT 1",
                "called": "PMOD",
                "peer": "192.0.2.7:50000",
                "tls": "",
                "user": "",
                "accepted": ["CT Image Storage", "Verification SOP Class"],
                "refused": [
                    "1.2.3 (result 3: SOP class not supported)",
                    "MR Image Storage (result 4: no proposed transfer syntax supported)",
                ],
                "objects": 2,
                "echoes": 1,
                "operations": {"C-ECHO": 1, "C-STORE": 2},
                "failures": {"A700H": 1},
                "bytes": 20_110,
                "objects_sent": 0,
                "bytes_sent": 0,
                "seconds": 1.5,
                "odd_lengths": False,
                "lax_uids": False,
                "unfinished": 0,
                "ended": "released",
            },
        )
        self.assertEqual(
            event["summary"],
            "192.0.2.7:50000 'CT 1' to 'PMOD'; 3 contexts accepted (CT Image Storage, Verification SOP "
            "Class), 2 refused (1.2.3 (result 3: SOP class not supported), MR Image Storage (result 4: no "
            "proposed transfer syntax supported)); 2 objects, 20110 bytes, 1 echoes, failed: 1 x A700H; "
            "1.500 s; released",
        )
        self.assertEqual(event["log_namespace"], "dicomtw.association")
        self.assertEqual(event["log_format"], "{summary}")

    def test_endings(self) -> None:
        """Every way to end has its words; what is in order is told at level info, all else as a warning."""
        rq = associate_rq(CONTEXTS)
        for sent, ended, level in (
            ((rq, A_RELEASE_RQ()), "released", LogLevel.info),
            ((), "closed by the peer before any association", LogLevel.info),
            ((rq,), "connection closed by the peer", LogLevel.warn),
            ((rq.encode()[:9],), "closed by the peer inside a PDU", LogLevel.warn),
            ((b"GET / HTTP/1.1\r\n",), "unrecognized PDU type 47H (an HTTP request?)", LogLevel.warn),
            (
                (associate_rq(CONTEXTS, called="OTHER"),),
                "RJ(1,1,7) called-AE-title-not-recognized: called AE title 'OTHER' is not 'PMOD'",
                LogLevel.warn,
            ),
            ((rq, rq), "A-ASSOCIATE-RQ in Sta6", LogLevel.warn),
            (
                (rq, A_ABORT(2, 6)),
                "peer sent A-ABORT by the service-provider: invalid-PDU-parameter-value",
                LogLevel.warn,
            ),
        ):
            peer = self.server.connect()
            with capturedLogs() as events:
                peer.send(*sent)
                peer.close()
            (event,) = [event for event in events if "association" in event]
            self.assertIn(ended, event["association"]["ended"])
            self.assertTrue(event["summary"].endswith(event["association"]["ended"]))
            self.assertEqual(event["log_level"], level, ended)

    def test_failures_are_warned_of(self) -> None:
        """An association that was released in order, but had a failure, is a warning."""
        self.store.commit_fault = DimseError(0xA700, "disk full")
        rq, store = associate_rq(CONTEXTS), message(3, c_store_rq(), b"data")
        event = self.summary(rq, *store, A_RELEASE_RQ())
        self.assertEqual(event["log_level"], LogLevel.warn)

    def test_no_patients(self) -> None:
        """Not a word about patients: neither data sets nor comments nor UIDs of instances are told."""
        self.store.commit_fault = DimseError(0xC000, "Doe^John")
        rq = associate_rq(CONTEXTS)
        event = self.summary(rq, *message(3, c_store_rq(uid="1.2.3.4.5"), b"Doe^John"), A_RELEASE_RQ())
        line = format_event(event)
        assert line is not None
        for secret in ("Doe", "John", "1.2.3.4.5"):
            self.assertNotIn(secret, line)

    def test_what_peers_write_is_escaped(self) -> None:
        """AE titles and UIDs with control characters forge no log line and reach no terminal."""
        for case, rq in {
            "calling": associate_rq(CONTEXTS, calling="A\n2023 forged"),
            "called": associate_rq(CONTEXTS, called="A\r\x1b[2J"),
            "abstract syntax": associate_rq({1: ("1.2\n2023 forged\x1b[2J", IVR), 3: (CT, IVR)}),
            "transfer syntax": associate_rq({1: (CT, "1.2\n2023 forged"), 3: (CT, IVR)}),
        }.items():
            summary = self.summary(rq)["summary"]
            self.assertTrue(summary.isprintable(), f"{case}: {summary!r}")

    def test_abridged(self) -> None:
        """The line tells five names of a kind and counts the others; the fields have all."""
        contexts = {2 * number + 1: (f"1.2.{number}", IVR) for number in range(7)}
        event = self.summary(associate_rq(contexts), A_RELEASE_RQ())
        self.assertIn("0 contexts accepted, 7 refused (1.2.0 (result 3", event["summary"])
        self.assertIn("1.2.4 (result 3: SOP class not supported) and 2 more)", event["summary"])
        self.assertNotIn("1.2.5", event["summary"])
        self.assertEqual(len(event["association"]["refused"]), 7)

    def test_odd_lengths(self) -> None:
        """Fragments of odd length, which the standard forbids, are told of."""
        odd = P_DATA_TF((PresentationDataValue(3, 2, b"odd"),))
        rq, command = associate_rq(CONTEXTS), message(3, c_store_rq(), b"")[0]
        event = self.summary(rq, command, odd, A_RELEASE_RQ())
        self.assertTrue(event["association"]["odd_lengths"])
        self.assertIn("fragments of odd length", event["summary"])

    def test_lax_uids(self) -> None:
        """UIDs of instances with leading zeros or empty components are told of once; the others are not."""
        rq = associate_rq(CONTEXTS)
        for instances, lax in (
            (["1.2.03", "01.2", "1..2", "1.2.", "00"], True),
            (["1.2.3", "1.2.03"], True),
            (["1.2.0", "1.2.30", "0"], False),
        ):
            stores = [pdu for uid in instances for pdu in message(3, c_store_rq(uid=uid), b"data")]
            event = self.summary(rq, *stores, A_RELEASE_RQ())
            self.assertEqual(event["association"]["lax_uids"], lax, instances)
            told = event["summary"].count("UIDs with leading zeros or empty components")
            self.assertEqual(told, int(lax), instances)
            self.assertEqual(event["association"]["objects"], len(instances))
            self.assertEqual(event["log_level"], LogLevel.info)

    def test_unfinished(self) -> None:
        """A message that was half sent when the end came is told of, and a warning though it was released."""
        rq, store = associate_rq(CONTEXTS), message(3, c_store_rq(), bytes(50_000))
        for sent, unfinished in (
            ((rq, *store[:2], A_RELEASE_RQ()), 1),
            ((rq, *store, *store[:1], A_RELEASE_RQ()), 1),
            ((rq, *store[:2], A_ABORT(0)), 1),
            ((rq, *store[:2]), 1),
            ((rq, *store, A_RELEASE_RQ()), 0),
        ):
            peer = self.server.connect()
            with capturedLogs() as events:
                peer.send(*sent)
                peer.close()
            (event,) = [event for event in events if "association" in event]
            self.assertEqual(event["association"]["unfinished"], unfinished)
            self.assertEqual(event["summary"].count("1 dropped unfinished"), unfinished)
            self.assertEqual(event["log_level"], LogLevel.warn if unfinished else LogLevel.info)

    def test_tls(self) -> None:
        """A connection over TLS says which version and cipher suite."""
        peer = self.server.connect()
        peer.protocol._tls = "TLSv1.3 TLS_AES_256_GCM_SHA384"
        self.assertIn("50000 over TLSv1.3 TLS_AES_256_GCM_SHA384; ", self.end(peer)["summary"])

    def test_closed_socket(self) -> None:
        """What is asked of TLS is answered for a TCP connection that has no socket any more."""
        closed = tcp.Connection.__new__(tcp.Connection)
        self.assertRaises(AttributeError, closed.getHandle)
        self.assertEqual((in_handshake(closed), tls_of(closed), certificate_of(closed)), (False, "", None))


class TLSTests(TLSTestCase):
    def test_version_and_suite(self) -> None:
        """Version and cipher suite of a connection, under any number of wrappers; nothing if it is plain."""
        connection = handshake(self.context(), client())
        transport = SimpleNamespace(getHandle=lambda: connection, transport=None)
        expected = "TLSv1.3 TLS_AES_256_GCM_SHA384"
        self.assertEqual(tls_of(transport), expected)
        self.assertEqual(tls_of(SimpleNamespace(transport=SimpleNamespace(transport=transport))), expected)
        self.assertEqual(tls_of(SimpleNamespace(getHandle=lambda: None)), "")
        self.assertEqual(tls_of(None), "")
        for one in (transport, SimpleNamespace(getHandle=lambda: None), None):
            self.assertIsNone(certificate_of(one))

    def test_certificate(self) -> None:
        """A peer that showed a certificate is told by its subject, escaped and cut, and its fingerprint."""
        for name, subject in (
            ("client", "'CN=client'"),
            ("a\n2023 forged\x1b[2J", r"'CN=a\n2023 forged\x1b[2J'"),
            ("Müller, O'Hara", '"CN=Müller\\\\, O\'Hara"'),
            ("\u202e" * 20, ("'CN=" + r"\u202e" * 20)[:97] + "..."),
        ):
            own = identity(name, "CA")
            ca = self.file("ca.pem", identity("CA").cert_pem)
            for verify in ("required", "optional"):
                connection = handshake(self.context(verify=verify, ca=ca), client(own))
                transport = SimpleNamespace(transport=SimpleNamespace(getHandle=lambda c=connection: c))
                self.assertEqual(certificate_of(transport), peer_certificate_of(own.certificate))
                self.assertEqual(
                    tls_of(SimpleNamespace(getHandle=lambda connection=connection: connection)),
                    "TLSv1.3 TLS_AES_256_GCM_SHA384 with "
                    f"{subject} (SHA-256 {own.certificate.fingerprint(SHA256()).hex()[:16]})",
                )

    def test_unreadable_certificate(self) -> None:
        """A certificate that cannot be parsed is told as that, and ends no connection."""
        connection = handshake(self.context(), client())

        def get_peer_certificate(connection: SSL.Connection, *, as_cryptography: bool) -> None:
            raise ValueError("invalid subject")

        self.patch(SSL.Connection, "get_peer_certificate", get_peer_certificate)
        expected = "TLSv1.3 TLS_AES_256_GCM_SHA384 with a certificate that cannot be read"
        self.assertEqual(tls_of(SimpleNamespace(getHandle=lambda: connection)), expected)
        self.assertIsNone(certificate_of(SimpleNamespace(getHandle=lambda: connection)))

    def test_real_faults(self) -> None:
        """What OpenSSL says of peers that we cannot talk to is put into words."""
        for sent, words in (
            (b"GET / HTTP/1.1\r\n\r\n", "the peer speaks HTTP"),
            (associate_rq(CONTEXTS).encode(), "the peer does not speak TLS"),
            (b"\xff" * 100, "the peer does not speak TLS"),
        ):
            connection = SSL.Connection(self.context(), None)
            connection.set_accept_state()
            connection.bio_write(sent)
            error = self.assertRaises(SSL.Error, connection.do_handshake)
            self.assertIn(words, tls_fault(Failure(error)))
        for peer, words in (
            (client(maximum_version=SSL.TLS1_1_VERSION), "no TLS version in common"),
            (client(ciphers="AES256-SHA", maximum_version=SSL.TLS1_2_VERSION), "no cipher suite in common"),
        ):
            error = self.assertRaises(SSL.Error, handshake, self.context(), peer)
            self.assertIn(words, tls_fault(Failure(error)))
        ca = self.directory / "ca.pem"
        ca.write_bytes(self.files().cert.read_bytes())
        required = self.context(verify="required", ca=ca)
        error = self.assertRaises(SSL.Error, handshake, required, client())
        self.assertIn("the peer has no certificate and one is required", tls_fault(Failure(error)))

    def test_words(self) -> None:
        """A fault without words is one all the same, and what is not about TLS is none."""
        for error, words in (
            (
                SSL.Error([("SSL routines", "", "tlsv1 alert unknown ca")]),
                "TLS failed: tlsv1 alert unknown ca (the peer does not know who certifies us)",
            ),
            (SSL.Error([("a", "b", "one"), ("a", "b", "two")]), "TLS failed: one; two"),
            (SSL.Error([]), "TLS failed: closed in the handshake"),
            (SSL.Error(), "TLS failed: closed in the handshake"),
            (ConnectionDone(), ""),
        ):
            self.assertEqual(tls_fault(Failure(error)), words)

    def test_in_the_line(self) -> None:
        """A connection that failed in the handshake says so in its line."""
        server = MemoryServer.of(Verification())
        peer = server.connect()
        fault = Failure(SSL.Error([("SSL routines", "", "no shared cipher")]))
        with capturedLogs() as events:
            peer.protocol.connectionLost(fault)
        self.assertEqual(
            events[-1]["association"]["ended"], "TLS failed: no shared cipher (no cipher suite in common)"
        )
        self.assertEqual(events[-1]["log_level"], LogLevel.warn)
