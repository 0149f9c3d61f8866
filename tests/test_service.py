"""The running server: where it listens, what it says when it cannot, whom it takes, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import pwd
import resource
import socket
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.application.service import Application
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogLevel, capturedLogs, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import archive, names, ports, service, uids
from dicomtw.check import check
from dicomtw.config import Configuration, Server
from dicomtw.security.profiles import PROFILES
from dicomtw.security.remote import Remote
from dicomtw.service import (
    DicomService,
    Process,
    describe,
    standard_services,
    state_directory,
    warnings_of,
)
from dicomtw.settings import ConfigError
from dicomtw.storage.journal import INCOMING
from dicomtw.testing import Peer, at_once, message
from dicomtw.ul.items import ImplementationVersionName
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RQ
from tests.security.test_tls import client, handshake, identity
from tests.test_association import CONTEXTS, CT, Outcome, c_echo_rq, c_store_rq
from tests.test_conformance_in_memory import DATA_SET

ANY = Remote(aet="CT1", host="192.0.2.1", port=104)
CHECKED = Remote(aet="CT1", host="192.0.2.1", port=104, check_host=True)


class Port:
    """A listening port that remembers whether it still listens; stopping takes until the test says so."""

    def __init__(self) -> None:
        self.stopped: Deferred[None] | None = None

    def stopListening(self) -> Deferred[None]:
        self.stopped = Deferred()
        return self.stopped


def may_clean_up(store: Path) -> bool:
    """Whether nobody uses a store."""
    with open(store / ".lock", "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class ServiceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.here = Path(os.path.abspath(self.mktemp()))
        self.here.mkdir()
        self.store = self.here / "store"
        self.reactor = MemoryReactorClock()
        self.err = io.StringIO()
        self.patch(sys, "__stderr__", self.err)
        self.patch(archive, "deferToThreadPool", lambda reactor, pool, function: at_once(function))
        self.patch(archive, "deferToThread", at_once)
        self.patch(
            os, "environ", {name: value for name, value in os.environ.items() if name != "STATE_DIRECTORY"}
        )

    def server(self, **settings: Any) -> Server:
        settings.setdefault("port", None if "listen" in settings else 4030)
        settings.setdefault("store", str(self.store))
        return Server(**settings)

    def made(self, *servers: Server, remotes: tuple[Remote, ...] = (), **more: Any) -> DicomService:
        """A service, not started."""
        configuration = Configuration(servers=servers or (self.server(),), remotes=remotes)
        return DicomService(configuration, self.reactor, **more)

    def started(self, *servers: Server, **more: Any) -> DicomService:
        """A service that was started as twistd does it, and is stopped after the test."""
        made = self.made(*servers, **more)
        made.privilegedStartService()
        made.startService()
        self.addCleanup(self.stop, made)
        return made

    def stop(self, made: DicomService) -> None:
        if made.running:
            stopped = made.stopService()
            self.reactor.advance(30)
            self.successResultOf(stopped)

    def peer(self, made: DicomService, number: int = 0, host: str = "192.0.2.1") -> Peer:
        """A connection to one of its servers."""
        server: Any = SimpleNamespace(factory=made.factories[number], clock=self.reactor)
        return Peer(server, host)

    def refused(
        self, *servers: Server, process: Process | None = None, start: bool = False, **more: Any
    ) -> str:
        """The one line on standard error of a service that does not start, and ends the process."""
        made = self.made(*servers, process=process or Process(), **more)
        with capturedLogs() as events:
            if start:
                made.privilegedStartService()
            code = self.assertRaises(SystemExit, made.startService).code
        self.assertEqual(code, 1)
        (line,) = self.err.getvalue().splitlines()
        self.err.truncate(0)
        self.err.seek(0)
        logged = [event["why"] for event in events if event["log_level"] is LogLevel.critical]
        self.assertEqual(line, f"dicom: {logged[0]}")
        self.assertEqual(len(logged), 1)
        return logged[0]


class ListenTests(ServiceTestCase):
    def test_port(self) -> None:
        """Plain TCP on the port, on the interface, with room for many to knock."""
        made = self.started(self.server(port=11112, interface="127.0.0.1"))
        self.assertEqual(self.reactor.tcpServers, [(11112, made.factories[0], 512, "127.0.0.1")])
        self.assertEqual(self.reactor.sslServers, [])

    def test_endpoints(self) -> None:
        """Any endpoint strings, besides the port or without it."""
        made = self.started(self.server(port=104, listen=["tcp:11112:interface=\\:\\:1", "unix:dicom.sock"]))
        (factory,) = made.factories
        self.assertEqual([one[0] for one in self.reactor.tcpServers], [104, 11112])
        self.assertEqual([one[:2] for one in self.reactor.unixServers], [("dicom.sock", factory)])
        self.reactor.tcpServers.clear()
        self.started(self.server(listen=["tcp:11113"]))
        self.assertEqual([one[0] for one in self.reactor.tcpServers], [11113])

    def test_front_ends(self) -> None:
        """With ``haproxy:`` connections are those of the peers that the front end tells of."""
        made = self.started(self.server(listen=["haproxy:tcp:4031:interface=127.0.0.1"]))
        ((port, factory, _, interface),) = self.reactor.tcpServers
        self.assertEqual((port, interface), (4031, "127.0.0.1"))
        server: Any = SimpleNamespace(factory=factory, clock=self.reactor)
        peer = Peer(server, "192.0.2.99")
        peer.protocol.dataReceived(b"PROXY TCP4 192.0.2.1 192.0.2.98 50000 4031\r\n")
        self.assertIsInstance(peer.associate(called="DICOMTW"), A_ASSOCIATE_AC)
        (protocol,) = made.factories[0].associations
        self.assertEqual(protocol.transport.getPeer().host, "192.0.2.1")
        with capturedLogs() as events:
            bad = Peer(server, "192.0.2.99")
            bad.protocol.dataReceived(b"PROXY TCP4 1.2.3.4 1.2.3.4 x y\r\n")
            self.assertFalse(bad.connected)
        (event,) = events
        self.assertIs(event["log_level"], LogLevel.warn)
        self.assertIn("192.0.2.99:50000; ", event["summary"])
        peer.close()

    def test_descriptors(self) -> None:
        """As many descriptors may be open as the system allows; that it allows no more is no fault."""
        limits: list[tuple[int, tuple[int, int]]] = []
        self.patch(resource, "getrlimit", lambda which: (1024, 4096))
        self.patch(resource, "setrlimit", lambda which, limit: limits.append((which, limit)))
        self.started()
        self.assertEqual(limits, [(resource.RLIMIT_NOFILE, (4096, 4096))])

        for fault in (ValueError("not allowed to raise maximum limit"), PermissionError(errno.EPERM, "no")):

            def refuse(which: int, limit: tuple[int, int], fault: Exception = fault) -> None:
                raise fault

            self.patch(resource, "setrlimit", refuse)
            self.assertTrue(self.started(self.server(store=str(self.here / "other"))).running)

    def test_few_descriptors(self) -> None:
        """Servers share the descriptors there are, and a warning each says what there are too few for."""
        self.patch(resource, "getrlimit", lambda which: (400, 400))
        self.patch(resource, "setrlimit", lambda which, limit: None)
        self.patch(service, "_descriptors_in_use", lambda: 60)
        with capturedLogs() as events:
            made = self.started(
                self.server(port=1, aet="ONE"),
                self.server(port=2, aet="TWO", max_associations=10, max_connections=20),
            )
        told = [line for event in events if "too few" in (line := formatEvent(event))]
        self.assertEqual(len(told), 2, told)
        self.assertRegex(
            told[0],
            r"^400 file descriptors \(ulimit -n\) are too few: ONE has \d+ associations at a time, not 200$",
        )
        one, two = (factory.limits for factory in made.factories)
        self.assertLess(one.max_associations + one.waiting, 200)
        self.assertEqual((two.max_associations, two.waiting), (10, 20))

    def test_several_servers(self) -> None:
        """Each server has its own ports, name and limits; one store is one, whoever uses it."""
        other = self.here / "other"
        made = self.started(
            self.server(port=1, aet="ONE", max_associations=1),
            self.server(port=2, aet="TWO", store=str(other)),
            self.server(port=3, aet="THREE", store=f"{self.here}/./store"),
        )
        self.assertEqual([one[:2] for one in self.reactor.tcpServers], list(enumerate(made.factories, 1)))
        self.assertEqual([one.limits.max_associations for one in made.factories], [1, 200, 200])
        self.assertEqual([one.entity.access.ae_title for one in made.factories], ["ONE", "TWO", "THREE"])
        self.assertEqual({path.name for path in self.here.iterdir()}, {"store", "other"})

    def test_twist(self) -> None:
        """Under twist, which knows no privileged start, the ports are opened all the same, and once."""
        made = self.made()
        made.startService()
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.stop(made)

    def test_store(self) -> None:
        """The store is made, the owner's alone, and belongs to whom the server will run as."""
        owned: list[tuple[str, int, int]] = []
        self.patch(os, "chown", lambda path, uid, gid, **_: owned.append((str(path), uid, gid)))
        self.store = self.here / "deep" / "store"
        self.started(process=Process({"uid": 7, "gid": 8}))
        self.assertEqual(stat.S_IMODE(self.store.stat().st_mode), 0o700)
        self.assertIn((str(self.store), 7, 8), owned)

    def test_unreadable(self) -> None:
        """Whose files of passcodes root could read, and who it runs as cannot, is told."""
        users = self.here / "users"
        users.write_text("")
        self.patch(os, "chown", lambda *_, **__: None)
        self.patch(os, "open", self.refusing(users, os.open))
        for process, lines in ((Process({"uid": 7, "gid": 8}), 1), (Process(), 0)):
            with capturedLogs() as events:
                self.started(self.server(auth=[f"scrypt:{users}"]), process=process)
            told = [event["line"] for event in events if str(users) in str(event.get("line"))]
            self.assertEqual(len(told), lines)
            self.assertTrue(all("cannot be read by user" in line for line in told), told)

    def refusing(self, refused: Path, real: Any) -> Any:
        """`os.open`, which may not open one file."""

        def opened(path: Any, *more: Any, **named: Any) -> int:
            if path == refused:
                raise PermissionError(13, "Permission denied", str(path))
            return int(real(path, *more, **named))

        return opened

    def test_leftovers(self) -> None:
        """What earlier runs had half received is removed, and told."""
        (self.store / INCOMING).mkdir(parents=True)
        (self.store / INCOMING / "half").touch()
        with capturedLogs() as events:
            self.started()
        self.assertEqual(list((self.store / INCOMING).iterdir()), [])
        self.assertIn(1, [event.get("removed") for event in events])

    def test_told(self) -> None:
        """At its start the server tells what it will do, and what to think about, as warnings."""
        with capturedLogs() as events:
            self.started(self.server(aet="PMOD", durability="relaxed"))
        told = [(event["log_level"], event["line"]) for event in events if "line" in event]
        self.assertIn((LogLevel.info, "AE title PMOD on tcp:4030"), told)
        self.assertIn(
            (LogLevel.warn, "no remote is configured: C-ECHO and C-STORE are accepted from anyone"), told
        )
        self.assertEqual(len([line for level, line in told if level is LogLevel.warn]), 2)

    def test_log_observer(self) -> None:
        """Under twistd, and if that is the log format, the application gets our observer of JSON lines."""
        twistd = Process({"logfile": "-", "nodaemon": 1})
        for log_format, process, is_ours in (
            ("json", twistd, True),
            ("text", twistd, False),
            ("json", Process(), False),
        ):
            configuration = Configuration(servers=(self.server(),), log_format=log_format)
            application = Application("dicom")
            DicomService(configuration, self.reactor, process).setServiceParent(application)
            observer = application.getComponent(ILogObserver, None)
            self.assertEqual(observer is not None, is_ours, (log_format, process))


class TLSTests(ServiceTestCase):
    def connection(self) -> SSL.Context:
        """What the port makes of a connection, as a context to shake hands with."""
        ((_, factory, *_),) = self.reactor.tcpServers
        self.assertIsInstance(factory, TLSMemoryBIOFactory)
        connection = factory._creatorCallable(None)
        self.assertIsInstance(connection, SSL.Connection)
        context = connection.get_context()
        self.assertIs(factory._creatorCallable(None).get_context(), context)
        return context

    def test_own_certificate(self) -> None:
        """Without a certificate one is made in the state directory, and its fingerprint told."""
        with capturedLogs() as events:
            self.started(self.server(tls=True, port=2762))
        self.assertEqual(self.reactor.tcpServers[0][0], 2762)
        cert = self.store / ".state" / "tls" / "cert.pem"
        (told,) = [line for event in events if "fingerprint" in (line := formatEvent(event))]
        self.assertRegex(
            told, f"^TLS certificate {cert}, SHA-256 fingerprint ([0-9A-F]{{2}}:){{31}}[0-9A-F]{{2}}$"
        )
        self.assertEqual(stat.S_IMODE(cert.stat().st_mode), 0o600)
        self.assertEqual(handshake(self.connection(), client()).get_protocol_version_name(), "TLSv1.3")

    def test_given_certificate(self) -> None:
        """A given certificate is used, with its key in the same file or in another."""
        own = identity("server")
        both, cert, key = self.here / "both.pem", self.here / "cert.pem", self.here / "key.pem"
        both.write_bytes(own.cert_pem + own.key_pem)
        cert.write_bytes(own.cert_pem)
        key.write_bytes(own.key_pem)
        for settings in ({"tls_cert": str(both)}, {"tls_cert": str(cert), "tls_key": str(key)}):
            self.started(self.server(tls=True, **settings))
            handshake(self.connection(), client())
            self.assertFalse((self.store / ".state").exists())
            self.reactor.tcpServers.clear()

    def test_verification(self) -> None:
        """With authorities given peers must have a certificate, unless told otherwise."""
        ca = self.here / "ca.pem"
        ca.write_bytes(identity("CA").cert_pem)
        for verify, strangers in ((None, False), ("required", False), ("optional", True), ("none", True)):
            settings = {} if verify is None else {"tls_verify": verify}
            self.started(self.server(tls=True, tls_ca=str(ca), **settings))
            context = self.connection()
            handshake(context, client(identity("client", "CA")))
            if strangers:
                handshake(context, client())
            else:
                self.assertRaises(SSL.Error, handshake, context, client())
            self.reactor.tcpServers.clear()

    def test_told(self) -> None:
        """Which profile, what of peers' certificates, and what of the profile cannot be had, is told."""
        ca = self.here / "ca.pem"
        ca.write_bytes(identity("CA").cert_pem)
        for settings, words in (
            ({}, "TLS profile BCP 195 RFC 8996, 9325 (PS3.15 B.12), client certificates: none"),
            *(
                ({"tls_profile": name}, f"(PS3.15 {profile.section})")
                for name, profile in PROFILES.items()
                if not profile.refused
            ),
            ({"tls_ca": str(ca)}, "client certificates: required"),
            ({"tls_profile": "bcp195"}, "TLS profile bcp195: the standard has retired this profile"),
            ({"tls_profile": "8996-mod"}, "TLS_AES_128_CCM_8_SHA256 for too weak to be offered"),
        ):
            with capturedLogs() as events:
                self.started(self.server(tls=True, **settings))
            told = [formatEvent(event) for event in events]
            self.assertTrue(any(words in line for line in told), (words, told))
            self.reactor.tcpServers.clear()

    def test_state_directory(self) -> None:
        """The state directory is the option's, or systemd's, or one in the store."""
        server = self.server(state_dir="/var/lib/dicom")
        self.assertEqual(state_directory(server), Path("/var/lib/dicom"))
        self.assertEqual(state_directory(self.server()), self.store / ".state")
        os.environ["STATE_DIRECTORY"] = "/run/one:/run/two"
        self.assertEqual(state_directory(self.server()), Path("/run/one"))
        self.assertEqual(state_directory(server), Path("/var/lib/dicom"))


class StartErrorTests(ServiceTestCase):
    """What keeps a server from starting is one line, exit status 1, and never a traceback."""

    def test_ports(self) -> None:
        """A port that cannot be had is named, with the reason and the way out."""
        root = "Use a port above 1024, or start as root with twistd --uid and --gid"
        for number, settings, said in (
            (errno.EACCES, {"port": 104}, f"cannot listen on port 104: permission denied. {root}"),
            (errno.EACCES, {"listen": ["tcp:104"]}, f"cannot listen on tcp:104: permission denied. {root}"),
            (
                errno.EACCES,
                {"listen": ["haproxy:tcp:104"]},
                f"cannot listen on haproxy:tcp:104: permission denied. {root}",
            ),
            (errno.EACCES, {"listen": ["unix:/run/x"]}, "cannot listen on unix:/run/x: Permission denied"),
            (errno.EADDRINUSE, {"port": 104}, "cannot listen on port 104: another program listens there"),
            (errno.EADDRINUSE, {"port": 104, "tls": True}, "cannot listen on port 104: another program"),
            (
                errno.EADDRNOTAVAIL,
                {"port": 104},
                "cannot listen on port 104: Cannot assign requested address (--interface takes",
            ),
            (None, {"port": 104}, "cannot listen on port 104: "),
        ):
            reason = OSError("odd") if number is None else OSError(number, os.strerror(number))

            def listen(port: Any, *_: Any, reason: OSError = reason, **__: Any) -> Any:
                raise CannotListenError("", port, reason)

            for method in ("listenTCP", "listenSSL", "listenUNIX"):
                setattr(self.reactor, method, listen)
            line = self.refused(self.server(**settings))
            self.assertTrue(line.startswith(said), line)

    def test_other_failures(self) -> None:
        """So is an endpoint that fails in a way of its own."""

        class Endpoint:
            def listen(self, factory: object) -> Deferred[Any]:
                failed: Deferred[Any] = Deferred()
                failed.errback(Failure(RuntimeError("no such thing")))
                return failed

        self.patch(ports, "server_endpoint", lambda reactor, text: Endpoint())
        line = self.refused(self.server(listen=["odd:1"]))
        self.assertEqual(line, "cannot listen on odd:1: no such thing")

    def test_late_failure(self) -> None:
        """An endpoint that fails when the server runs is told as critical, and stops it."""
        listening: Deferred[Any] = Deferred()
        endpoint = SimpleNamespace(listen=lambda factory: listening)
        self.patch(ports, "server_endpoint", lambda reactor, text: endpoint)
        self.started(self.server(listen=["late:1"]))
        self.assertFalse(self.reactor.hasStopped)
        with capturedLogs() as events:
            listening.errback(Failure(RuntimeError("no such thing")))
        (event,) = events
        self.assertIs(event["log_level"], LogLevel.critical)
        self.assertEqual(event["why"], "cannot listen on late:1: no such thing")
        self.assertTrue(self.reactor.hasStopped)

    def test_endpoint_strings(self) -> None:
        """What is no endpoint is quoted; a socket that systemd has not passed is told as that."""
        for text, said in (
            ("nonsense", "--listen takes a Twisted server endpoint, not 'nonsense': "),
            ("tcp:x", "--listen takes a Twisted server endpoint, not 'tcp:x': "),
            ("tcp", "--listen takes a Twisted server endpoint, not 'tcp': "),
            ("haproxy:tcp:x", "--listen takes a Twisted server endpoint, not 'haproxy:tcp:x': "),
            ("haproxy:", "--listen takes a Twisted server endpoint, not 'haproxy:': "),
            ("haproxy", "--listen takes a Twisted server endpoint, not 'haproxy': "),
            ("systemd:domain=INET:index=0", "--listen=systemd:domain=INET:index=0: systemd has passed no"),
        ):
            line = self.refused(self.server(listen=[text]))
            self.assertTrue(line.startswith(said), line)
            self.assertFalse(line.endswith(": "), line)

    def test_tls_files(self) -> None:
        """TLS files that are not usable, or cannot be made, are named."""
        file = self.here / "file"
        file.write_text("no certificate")
        absent = self.here / "absent.pem"
        for settings, said in (
            ({"tls_cert": str(absent)}, f"--tls-cert {absent}: No such file or directory"),
            ({"tls_cert": str(file)}, f"--tls-cert {file} holds no usable certificate"),
            ({"tls_ca": str(absent)}, f"--tls-ca {absent}: No such file or directory"),
            ({"state_dir": str(file)}, f"cannot make a certificate in {file}: "),
        ):
            line = self.refused(self.server(tls=True, **settings))
            self.assertTrue(line.startswith(said), line)

    def test_tls_of_remotes(self) -> None:
        """So is what TLS with a remote is to be made of, before anything is made or opened."""
        absent = self.here / "absent.pem"
        for settings, said in (
            ({"tls_ca": str(absent)}, f"remote CT1: tls-ca {absent}: No such file or directory"),
            ({"host": "a..b"}, "remote CT1: 'a..b' is no name that a certificate could be for"),
        ):
            remote = Remote(**{"aet": "CT1", "host": "192.0.2.1", "port": 104, "tls": True, **settings})
            line = self.refused(self.server(tls=True), remotes=(remote,))
            self.assertEqual(line, said)
            self.assertFalse(self.store.exists())
            both = self.server(port=1), self.server(port=2)
            with contextlib.redirect_stdout(io.StringIO()):
                self.assertEqual(check(Configuration(servers=both, remotes=(remote,))), [said])

    def test_stores(self) -> None:
        """A store that cannot be made or used is named."""
        file = self.here / "file"
        file.touch()
        line = self.refused(self.server(store=str(file / "store")))
        self.assertEqual(line, f"cannot make the store {file}/store: Not a directory")
        line = self.refused(self.server(store=str(file)), start=True)
        self.assertEqual(line, f"cannot use the store {file}: Not a directory")

    def test_no_such_user(self) -> None:
        """A user that is none of this machine's is told before anything is made or opened."""

        def getpwuid(uid: int) -> Any:
            raise KeyError(f"getpwuid(): uid not found: {uid}")

        self.patch(pwd, "getpwuid", getpwuid)
        line = self.refused(self.server(tls=True), process=Process({"uid": 54321}))
        self.assertEqual(line, "--uid 54321 is no user of this machine: --gid is needed too")
        self.assertEqual(self.reactor.sslServers, [])
        self.assertFalse(self.store.exists())

    def test_pid_file(self) -> None:
        """The pid file goes with the process, if there is one."""
        pidfile = self.here / "twistd.pid"
        pidfile.write_text("1")
        for _ in range(2):
            self.refused(self.server(listen=["nonsense"]), process=Process({"pidfile": str(pidfile)}))
            self.assertFalse(pidfile.exists())

    def test_daemon(self) -> None:
        """A daemon tells its parent, which is still at the terminal, and prints nothing itself."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        process = Process({"statusPipe": writing})
        made = self.made(self.server(listen=["nonsense" * 20]), process=process)
        self.assertRaises(SystemExit, made.privilegedStartService)
        os.close(writing)
        said = os.read(reading, 1000)
        self.assertTrue(said.startswith(b"1 --listen takes a Twisted server endpoint, not 'nonsense"), said)
        self.assertEqual(len(said), 100)
        self.assertEqual(self.err.getvalue(), "")


class ServingTests(ServiceTestCase):
    def test_store_and_echo(self) -> None:
        """A C-STORE through the whole server is a file, answered when it is there."""
        for durability in ("strict", "relaxed"):
            made = self.started(self.server(durability=durability))
            peer = self.peer(made)
            peer.associate(CONTEXTS, called="DICOMTW")
            self.assertEqual(peer.request(3, c_store_rq(uid="1.23"), DATA_SET).status, 0)
            (path,) = self.store.rglob("1.23.dcm")
            self.assertTrue(path.read_bytes().endswith(DATA_SET))
            path.unlink()
            self.assertEqual(peer.request(1, c_echo_rq()).status, 0)
            peer.close()
            self.stop(made)

    def test_settings_reach_their_place(self) -> None:
        """What is configured for a server is what its associations get."""
        remote = Remote(aet="KNOWN", host="h", port=1, tls=True, no_implementation_version_name=True)
        made = self.made(
            self.server(
                aet="PMOD",
                max_pdu=8192,
                no_implementation_version_name=True,
                enforce_default_transfer_syntax=True,
                prefer_transfer_syntax=[uids.EXPLICIT_VR_LITTLE_ENDIAN],
                accept_any_called_ae=True,
                artim_timeout=1,
                dimse_timeout=2,
                idle_timeout=3,
                max_associations=4,
            ),
            remotes=(remote,),
        )
        (factory,) = made.factories
        entity, limits = factory.entity, factory.limits
        self.assertEqual(entity.maximum_length, 8192)
        self.assertTrue(entity.no_implementation_version_name and entity.enforce_default_transfer_syntax)
        self.assertEqual(entity.preferred_transfer_syntaxes, (uids.EXPLICIT_VR_LITTLE_ENDIAN,))
        self.assertTrue(entity.access.accept_any_called_ae)
        (known,) = entity.access.remotes
        self.assertEqual((known.aet, known.host, known.port, known.tls), ("KNOWN", "h", 1, True))
        self.assertTrue(known.no_implementation_version_name)
        timers = (limits.artim_timeout, limits.dimse_timeout, limits.idle_timeout)
        self.assertEqual((*timers, limits.max_associations), (1, 2, 3, 4))
        peer = self.peer(made)
        ac = peer.associate({1: (CT, uids.EXPLICIT_VR_LITTLE_ENDIAN)}, calling="KNOWN")
        assert isinstance(ac, A_ASSOCIATE_AC)
        self.assertEqual([one.result for one in ac.presentation_contexts], [4])
        self.assertIsNone(ac.user_information.first(ImplementationVersionName))

    def test_unknown_sop_classes(self) -> None:
        """SOP classes that no table knows are taken where that is configured."""
        for accept, result in ((False, 3), (True, 0)):
            made = self.made(self.server(accept_unknown_sop_classes=accept))
            ac = self.peer(made).associate({1: ("2.25.1", uids.IMPLICIT_VR_LITTLE_ENDIAN)}, called="DICOMTW")
            assert isinstance(ac, A_ASSOCIATE_AC)
            self.assertEqual([one.result for one in ac.presentation_contexts], [result])

    def test_slow_store(self) -> None:
        """Each store has a disk and threads of its own: one that hangs does not delay another's objects."""
        calls: list[tuple[Any, Callable[[], Any], Deferred[Any]]] = []

        def in_thread(reactor: object, pool: ThreadPool, function: Callable[[], Any]) -> Deferred[Any]:
            if pool.name not in ("dicomtw-disk", "dicomtw-commit"):
                return at_once(function)
            waiting: Deferred[Any] = Deferred()
            calls.append((pool, function, waiting))
            return waiting

        def let(at: int) -> None:
            _, function, waiting = calls.pop(at)
            function()
            waiting.callback(None)

        self.patch(archive, "deferToThreadPool", in_thread)
        made = self.started(
            self.server(port=1),
            self.server(port=2, store=str(self.here / "other")),
            self.server(port=3, store=f"{self.here}/./store"),
        )
        disks = [factory.entity.disk for factory in made.factories]
        self.assertIs(disks[0], disks[2])
        self.assertIsNot(disks[0], disks[1])
        peers = [self.peer(made, number) for number in range(3)]
        for number, peer in enumerate(peers):
            peer.associate(CONTEXTS, called="DICOMTW")
            peer.send(*message(3, c_store_rq(uid="1.23"), DATA_SET))
            self.assertEqual(len(calls), number + 1)
        pools = [pool for pool, *_ in calls]
        self.assertIs(pools[0], pools[2])
        self.assertIsNot(pools[0], pools[1])
        self.assertEqual([disk.busy for disk in disks], [2, 1, 2])
        let(1)
        self.assertEqual([len(peer.received()) for peer in peers], [0, 1, 0])
        self.assertEqual([disk.busy for disk in disks], [2, 0, 2])
        self.assertEqual([path.name for path in self.here.rglob("1.23.dcm")], ["1.23.dcm"])
        # What one disk is slow at makes nobody else wait for a thread.
        disks[0].call(lambda: time.sleep(0.03))
        self.assertEqual([disk.lags for disk in disks], [True, False, True])
        for _ in range(2):
            let(0)
        self.assertEqual([len(peer.received()) for peer in peers], [1, 0, 1])
        for peer in peers:
            peer.close()

    def test_stores_of_two_minds(self) -> None:
        """Servers that share a store each keep their own promise: a strict one is never made relaxed."""
        servers = [self.server(port=1, durability="relaxed"), self.server(port=2, durability="strict")]
        try:
            made = self.started(*servers)
        except (ConfigError, SystemExit):
            return  # refused is as good
        synced: list[int] = []
        real = os.fdatasync
        self.patch(os, "fdatasync", lambda fd: (synced.append(fd), real(fd))[1])
        peer = self.peer(made, 1)
        peer.associate(CONTEXTS, called="DICOMTW")
        self.assertEqual(peer.request(3, c_store_rq(uid="1.23"), DATA_SET).status, 0)
        self.assertEqual(len(synced), 1)

    def test_who_is_accepted(self) -> None:
        """PMOD's box: checked by default only while no remote is configured, and unchecked for good."""
        for settings, remotes, stranger, known in (
            ({}, (), True, True),
            ({}, (ANY,), False, True),
            ({"accept_any_ae": True}, (), True, True),
            ({"accept_any_ae": True}, (ANY,), True, True),
            ({"known_ae_only": True}, (), False, False),
            ({"known_ae_only": True}, (ANY,), False, True),
        ):
            made = self.made(self.server(**settings), remotes=remotes)
            for calling, accepted in (("STRANGER", stranger), ("CT1", known)):
                answer = self.peer(made).associate(CONTEXTS, called="DICOMTW", calling=calling)
                expected = A_ASSOCIATE_AC if accepted else A_ASSOCIATE_RJ
                self.assertIsInstance(answer, expected, (settings, remotes, calling))

    def test_other_services(self) -> None:
        """Whoever runs the service in their own code adds service classes to the standard ones."""
        outcome = Outcome()
        made = self.made(services=lambda *made: [*standard_services(*made), outcome])
        peer = self.peer(made)
        peer.associate(CONTEXTS, called="DICOMTW")
        self.assertEqual(peer.request(5, c_echo_rq()).status, 0)
        self.assertEqual(len(outcome.seen), 1)

    def test_look_up(self) -> None:
        """Names are looked up off the reactor; one that is not known has no address."""
        known = {"ct.example": ["192.0.2.1", "2001:db8::1"]}

        def getaddrinfo(name: str, port: object) -> list[Any]:
            if name not in known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(0, 0, 0, "", (address, 0)) for address in known[name]]

        self.patch(socket, "getaddrinfo", getaddrinfo)
        self.patch(names, "deferToThread", lambda look_up, name: at_once(lambda: look_up(name)))
        remotes = tuple(
            Remote(aet="CT1", host=name, check_host=True) for name in ("gone.example", "ct.example")
        )
        made = self.made(remotes=remotes)
        for host, accepted in (("192.0.2.1", True), ("2001:db8::1", True), ("192.0.2.2", False)):
            answer = self.peer(made, host=host).associate(CONTEXTS, called="DICOMTW", calling="CT1")
            self.assertEqual(isinstance(answer, A_ASSOCIATE_AC), accepted, host)


class StopTests(ServiceTestCase):
    """The first SIGTERM drains, the second one ends at once."""

    def setUp(self) -> None:
        super().setUp()
        self.ports: list[Port] = []

        def listen(*_: Any, **__: Any) -> Port:
            self.ports.append(Port())
            return self.ports[-1]

        self.patch(self.reactor, "listenTCP", listen)

    def associated(self, made: DicomService) -> Peer:
        peer = self.peer(made)
        peer.associate(CONTEXTS, called="DICOMTW")
        return peer

    def stopped(self, made: DicomService) -> Deferred[Any]:
        """A service that was told to stop, and whose ports have closed."""
        stopped = made.stopService()
        for port in self.ports:
            assert port.stopped is not None
            port.stopped.callback(None)
        return stopped

    def stop(self, made: DicomService) -> None:
        if made.running:
            self.stopped(made)
            self.reactor.advance(30)

    def test_nobody(self) -> None:
        """With nobody connected it ends when its ports are closed, and leaves nothing."""
        made = self.started()
        stopped = made.stopService()
        self.assertNoResult(stopped)
        assert self.ports[0].stopped is not None
        self.ports[0].stopped.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_drain(self) -> None:
        """Associations go on until they have ended by themselves; then it ends, before the deadline."""
        made = self.started()
        silent, peer = self.peer(made), self.associated(made)
        with capturedLogs() as events:
            stopped = self.stopped(made)
        self.assertIn(1, [event.get("count") for event in events])
        self.assertFalse(silent.connected)
        self.reactor.advance(29)
        self.assertEqual(peer.request(3, c_store_rq(uid="1.23"), DATA_SET).status, 0)
        peer.send(A_RELEASE_RQ())
        peer.close()
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_deadline(self) -> None:
        """What has not ended by the deadline, of each server its own, is aborted."""
        made = self.started(self.server(drain_timeout=5), self.server(port=2, drain_timeout=10))
        peers = [self.peer(made, number) for number in (0, 1)]
        for peer in peers:
            peer.associate(CONTEXTS, called="DICOMTW")
        stopped = self.stopped(made)
        self.reactor.advance(4.5)
        self.assertEqual([peer.received() for peer in peers], [[], []])
        self.reactor.advance(0.5)
        self.assertEqual([peer.received() for peer in peers], [[A_ABORT(0)], []])
        self.assertNoResult(stopped)
        self.reactor.advance(5)
        self.assertEqual(peers[1].received(), [A_ABORT(0)])
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_late_comers(self) -> None:
        """Whoever got in just before the ports closed is told of temporary congestion."""
        made = self.started()
        peer = self.associated(made)
        stopped = self.stopped(made)
        late = self.peer(made)
        self.assertEqual(late.associate(CONTEXTS, called="DICOMTW"), A_ASSOCIATE_RJ(2, 3, 1))
        late.close()
        peer.close()
        self.successResultOf(stopped)

    def test_signals(self) -> None:
        """The first signal stops the reactor, which drains; the second aborts what is left."""
        self.patch(os, "_exit", lambda code: self.fail("it ended by itself"))
        made = self.started()
        peer = self.associated(made)
        made._terminate()
        self.assertTrue(self.reactor.hasStopped)
        stopped = self.stopped(made)
        self.assertTrue(peer.connected)
        made._terminate()
        self.assertEqual(peer.received(), [A_ABORT(0)])
        self.assertFalse(peer.connected)
        self.successResultOf(stopped)

    def test_threads(self) -> None:
        """Threads that are busy are waited for in a thread, and only then others may have the store."""
        waits: list[tuple[Callable[[], Any], Deferred[Any]]] = []

        def in_thread(function: Callable[[], Any]) -> Deferred[Any]:
            waits.append((function, Deferred()))
            return waits[-1][1]

        self.patch(archive, "deferToThread", in_thread)
        made = self.started(self.server(), self.server(port=2, store=str(self.here / "other")))
        shelves = list(made._archives.values())
        stopped = self.stopped(made)
        self.assertNoResult(stopped)
        self.assertEqual(len(waits), 2)
        for (function, over), shelf in zip(waits, shelves, strict=True):
            self.assertNoResult(stopped)
            self.assertFalse(may_clean_up(shelf.root), "it is still ours")
            function()
            over.callback(None)
            self.assertTrue(may_clean_up(shelf.root))
        self.successResultOf(stopped)

    def test_disk_hangs(self) -> None:
        """Two seconds after the second signal the process ends, whatever its threads wait for."""
        exits: list[int] = []
        self.patch(os, "_exit", exits.append)
        hanging: Deferred[None] = Deferred()
        self.patch(archive, "deferToThread", lambda function: hanging)
        made = self.started()
        for shelf in made._archives.values():
            self.assertTrue(all(pool.started for pool in shelf.pools))
        made._terminate()
        stopped = self.stopped(made)
        self.assertNoResult(stopped)
        made._terminate()
        self.reactor.advance(1.9)
        self.assertEqual(exits, [])
        self.reactor.advance(0.1)
        self.assertEqual(exits, [1])
        hanging.callback(None)
        self.successResultOf(stopped)
        for shelf in made._archives.values():
            shelf._stop_threads()

    def test_signals_of_others(self) -> None:
        """Signals are caught when the reactor runs, and a test's reactor catches none."""
        self.started()
        hooks: list[tuple[Callable[[], None], Any, Any]] = self.reactor.whenRunningHooks
        for hook, arguments, more in hooks:
            hook(*arguments, **more)
        self.assertEqual(len(hooks), 1)

    def test_store_is_let_go(self) -> None:
        """At the end the store is unlocked: another process may clean up."""
        made = self.started()
        self.successResultOf(self.stopped(made))
        (self.store / INCOMING / "left over").touch()
        again = self.made()
        with capturedLogs() as events:
            again.privilegedStartService()
            again.startService()
        self.assertIn(1, [event.get("removed") for event in events])
        again.stopService()


class WordsTests(ServiceTestCase):
    def test_describe(self) -> None:
        """Every setting that changes what a peer meets is told in words."""
        for settings, remotes, words in (
            ({"port": 104, "aet": "PMOD"}, (), "AE title PMOD on tcp:104"),
            ({"port": 104, "tls": True, "listen": ["tcp:1"]}, (), "on dicomtls:104, tcp:1"),
            ({}, (), f"objects go to {self.here}/store, durability strict, on duplicate replace"),
            ({}, (), "associations are accepted from any AE title"),
            ({}, (ANY,), "associations are accepted from configured remotes only"),
            ({"known_ae_only": True}, (), "associations are accepted from configured remotes only"),
            ({"accept_any_ae": True}, (ANY,), "associations are accepted from any AE title"),
            ({"no_implementation_version_name": True}, (), "the implementation version name is not sent"),
            ({"enforce_default_transfer_syntax": True}, (), "Implicit VR Little Endian is enforced"),
            ({}, (), "at most 200 associations at a time, and 464 connections without one (232 of one host)"),
            ({"max_associations_per_host": 3}, (), "at most 200 associations at a time (3 of one host), and"),
            ({}, (), "objects of 4096 MiB at most are stored while 256 MiB, or a twentieth"),
            (
                {"max_object_size": 0, "min_free_space": 9},
                (),
                "of any size are stored while 9 MiB are free",
            ),
            ({"min_free_space": 0}, (), "objects of 4096 MiB at most are stored"),
            ({}, (), "a query may take 30 seconds and have any number of matches"),
            ({"max_matches": 5}, (), "a query may take 30 seconds and have 5 matches"),
            ({}, (ANY,), "remote CT1 at 192.0.2.1:104"),
            ({}, (Remote(aet="A"),), "remote A at any host"),
            ({}, (Remote(aet="A", host="h", check_host=True),), "remote A at h, from there only"),
        ):
            server = self.server(**settings)
            lines = describe(server, Configuration(servers=(server,), remotes=remotes))
            self.assertTrue(any(words in line for line in lines), (words, lines))

    def test_warnings(self) -> None:
        """What an operator should think about is told, and what is in order is not."""
        anyone = "no remote is configured: C-ECHO and C-STORE are accepted from anyone"
        nobody = "only known AEs are accepted and none is configured: nobody is accepted"
        relaxed = "durability is relaxed: a power cut may take objects that were acknowledged"
        foreign = "ssl: endpoints have the TLS settings of Twisted; dicomtls: has the profiles of PS3.15"
        impersonated = "without check-host whoever calls himself {} may query or retrieve what is stored"
        full = "objects are stored until no space is left: others on the same disk have none either"
        anybody = "anybody may query and retrieve what is stored"
        refused = "without TLS passcodes and tokens are refused"
        same = "3 remotes are called CT1, each for whom it fits: one is for anybody of that name"
        loose = Remote(aet="CT2", host="192.0.2.2", operations=["echo", "move"])
        storing = Remote(aet="CT3", host="192.0.2.3", operations=["echo", "store"])
        for settings, remotes, expected in (
            ({}, (), [anyone]),
            ({"accept_any_ae": True}, (), []),
            ({"known_ae_only": True}, (), [nobody]),
            ({"accept_any_ae": True, "min_free_space": 0}, (), [full]),
            ({}, (CHECKED,), []),
            ({}, (CHECKED, storing), []),
            ({}, (ANY,), [impersonated.format("CT1")]),
            ({}, (ANY, CHECKED, loose, storing, ANY), [impersonated.format("CT1, CT2"), same]),
            ({"allow_retrieve": "any"}, (ANY,), [impersonated.format("CT1")]),
            ({"allow_retrieve": "any", "accept_any_ae": True}, (ANY,), [anybody]),
            ({"durability": "relaxed"}, (CHECKED,), [relaxed]),
            ({"listen": ["ssl:104"]}, (CHECKED,), [foreign]),
            ({"listen": ["haproxy:ssl:104"]}, (CHECKED,), [foreign]),
            ({"listen": ["dicomtls:104"]}, (CHECKED,), []),
            ({"tls": True}, (CHECKED,), []),
            *(
                ({"listen": [text], "auth": ["unix"]}, (CHECKED,), [refused])
                for text in ("tcp:1", "systemd:domain=INET:index=0", "haproxy:systemd:domain=INET:index=0")
            ),
            ({"listen": ["unix:/run/d"], "auth": ["unix"]}, (CHECKED,), []),
        ):
            server = self.server(**settings)
            found = warnings_of(server, Configuration(servers=(server,), remotes=remotes))
            self.assertEqual(len(found), len(expected), (settings, found))
            for line, words in zip(found, expected, strict=True):
                self.assertTrue(line.startswith(words), line)
