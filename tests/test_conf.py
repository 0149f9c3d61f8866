"""The deployment examples in ``conf/``: each does what it says, with the programs it is for."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.config import Server
from dicomtw.configure import configure
from dicomtw.security.remote import Remote
from dicomtw.settings import settings_of
from tests.interop.peers import missing, program, run
from tests.interop.twistd import (
    CHECKOUT,
    TWISTD,
    environment,
    run_twistd,
    temporary_directory,
    wait_until,
)
from tests.running import READY, Running, free_ports

CONF = CHECKOUT / "conf"

#: Starts a program as systemd does, with the listening socket as file descriptor 3.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


#: A C-ECHO by pynetdicom, which in this process would add to pydicom's tables.
_ECHO = """
import sys
from pynetdicom import AE
port, source = sys.argv[1:]
entity = AE("SCU")
entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
entity.add_requested_context("1.2.840.10008.1.1")
association = entity.associate("127.0.0.1", int(port), ae_title="PMOD", bind_address=(source, 0))
assert association.is_established, "no association"
print(association.send_c_echo().Status)
association.release()
"""


def echo(port: int, source: str = "127.0.0.1") -> str:
    """The status of a C-ECHO to PMOD on `port`, from an address of the loopback interface; else why not."""
    done = run(sys.executable, "-c", _ECHO, port, source)
    return done.stdout.strip()


def with_ports(text: str, ports: dict[int, int]) -> str:
    """`text` with ports of 127.0.0.1 in place of those that are written in it."""
    text = text.replace("0.0.0.0:", "127.0.0.1:")
    for written in ports:
        assert re.search(rf"\b{written}\b", text), f"{written} is not in the file"
    return re.sub("|".join(rf"\b{port}\b" for port in ports), lambda found: str(ports[int(found[0])]), text)


class PmodTomlTests(SynchronousTestCase):
    """conf/pmod.toml"""

    path = CONF / "pmod.toml"

    def _uncommented(self) -> str:
        """The file with its commented keys and tables taken as meant."""
        return re.sub(r"^#(?=\[|[a-z0-9-]+ = )", "", self.path.read_text("utf-8"), flags=re.MULTILINE)

    def test_is_the_default(self) -> None:
        """As it is, it means what the command line of PMOD's server means."""
        self.assertEqual(configure(self.path, {}), configure(None, {"aet": "PMOD", "port": 4030}))

    def test_has_every_key(self) -> None:
        """Set or commented out, each key is there, and what a commented one shows is valid."""
        document = tomllib.loads(self._uncommented())
        (server,), (remote,) = document.pop("server"), document.pop("remote")
        self.assertEqual(set(server), set(settings_of(Server)))
        self.assertEqual(set(remote), set(settings_of(Remote)))
        self.assertEqual(set(document), {"log-format", "workers"})

    def test_every_example_is_valid(self) -> None:
        """With all that is commented out set too, and the TLS that some of it is about, it is valid."""
        path = temporary_directory(self) / "all.toml"
        path.write_text(self._uncommented().replace("tls = false", "tls = true", 1), "utf-8")
        configuration = configure(path, {})
        self.assertEqual(configuration.servers[0].tls_verify, "required")
        self.assertEqual(configuration.remotes[0].aet, "SCANNER")

    def test_check(self) -> None:
        """``--check`` finds nothing wrong with it."""
        done = run_twistd("--check", f"--config={self.path}", cwd=temporary_directory(self))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("AE title PMOD on tcp:4030", done.stdout)


class SystemdTests(SynchronousTestCase):
    """conf/dicomtw.socket and conf/dicomtw.service"""

    def _unit(self, name: str, section: str) -> dict[str, str]:
        text = (CONF / name).read_text("utf-8")
        body = text.partition(f"[{section}]\n")[2].partition("\n[")[0]
        lines = [line for line in body.splitlines() if "=" in line and not line.startswith("#")]
        return {key: value for key, _, value in (line.partition("=") for line in lines)}

    def _start(self, *more: str) -> tuple[Running, int, Path]:
        """The command of ExecStart, on a socket that is handed to it; its port; its state directory."""
        service, listener = self._unit("dicomtw.service", "Service"), self._unit("dicomtw.socket", "Socket")
        state = temporary_directory(self)
        program, *words = shlex.split(service["ExecStart"].replace("%S/dicomtw", str(state)))
        self.assertEqual(program, "/opt/dicomtw/bin/twistd")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen(int(listener["Backlog"]))
            command = [sys.executable, "-c", _AS_SYSTEMD, str(sock.fileno()), listener["FileDescriptorName"]]
            server = Running(
                self,
                [*command, *TWISTD, *words, *more],
                state,
                environment(STATE_DIRECTORY=str(state)),
                (sock.fileno(),),
            )
            return server, int(sock.getsockname()[1]), state

    def test_check(self) -> None:
        """The options of ExecStart are valid, given the socket of the .socket unit by its name."""
        server, _, _ = self._start("--check")
        self.assertEqual(server.process.wait(20), 0, server.log)
        self.assertIn("AE title PMOD on systemd:domain=INET:name=dicom", server.log)

    def test_answers_on_the_socket_it_is_given(self) -> None:
        """A connection made before the server is there is answered when it is; it stops in good order."""
        server, port, state = self._start()
        self.assertEqual(echo(port), "0")  # the kernel has it wait
        server.wait_for("1 echoes")
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("Traceback", server.log)
        self.assertTrue((state / "objects").is_dir())
        self.assertEqual([path.name for path in state.glob("*.pid")], [])

    def test_units_are_valid(self) -> None:
        """``systemd-analyze verify`` has nothing to say."""
        absent = missing("systemd-analyze")
        if absent:
            self.skipTest(absent)
        directory = temporary_directory(self)
        for name in ("dicomtw.socket", "dicomtw.service"):
            text = (CONF / name).read_text("utf-8").replace("/opt/dicomtw/bin/twistd", sys.executable)
            (directory / name).write_text(text, "utf-8")
        done = subprocess.run(
            [program("systemd-analyze"), "verify", *map(str, directory.iterdir())],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = [line for line in done.stderr.splitlines() if "dicomtw" in line]
        self.assertEqual((done.returncode, said), (0, []), done.stderr)

    def test_stops_later_than_associations_may_last(self) -> None:
        """The server is not killed while it drains."""
        timeout = float(self._unit("dicomtw.service", "Service")["TimeoutStopSec"])
        self.assertGreater(timeout, Server().drain_timeout)


class HaproxyTests(SynchronousTestCase):
    """conf/haproxy.cfg"""

    skip = missing("haproxy")
    path = CONF / "haproxy.cfg"

    def test_is_valid(self) -> None:
        """``haproxy -c`` accepts it, without a warning."""
        done = subprocess.run(
            [program("haproxy"), "-c", "-f", str(self.path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("WARNING", done.stderr)

    def test_times_out_after_the_server(self) -> None:
        """It is the server that ends an idle association."""
        seconds = re.findall(
            r"timeout (?:client|server) +(\d+)s$", self.path.read_text("utf-8"), re.MULTILINE
        )
        self.assertEqual(len(seconds), 2)
        self.assertGreater(min(map(float, seconds)), Server().idle_timeout)

    def test_true_peer_address(self) -> None:
        """A C-ECHO through it is answered, and the log has the peer's own address, not HAProxy's."""
        text = self.path.read_text("utf-8")
        front, back = free_ports(2)
        text = with_ports(text, {4030: front, 4031: back})
        directory = temporary_directory(self)
        (directory / "haproxy.cfg").write_text(text, "utf-8")
        (command,) = re.findall(r"^#\s+twistd -n (dicom .*)$", text, re.MULTILINE)
        server = Running(self, [*TWISTD, "-n", "--pidfile=", *shlex.split(command)], directory)
        server.wait_for(READY)
        proxy = Running(self, [program("haproxy"), "-db", "-f", "haproxy.cfg"], directory)

        def listens() -> bool:
            self.assertIsNone(proxy.process.poll(), proxy.log)
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", front)) == 0

        wait_until(listens, "haproxy listens")
        self.assertEqual(echo(front, source="127.0.0.2"), "0")
        self.assertRegex(server.wait_for("1 echoes"), r" 127\.0\.0\.2:\d+ 'SCU' to 'PMOD'")


class TacTests(SynchronousTestCase):
    """conf/dicomtw.tac"""

    def test_serves_both_its_endpoints(self) -> None:
        """``twistd -ny`` starts it; it answers in the clear, and behind the PROXY protocol."""
        plain, proxied, remote = free_ports(3)
        text = (
            (CONF / "dicomtw.tac").read_text("utf-8").replace('"tcp:4030"', '"tcp:4030:interface=127.0.0.1"')
        )
        directory = temporary_directory(self)
        (directory / "dicomtw.tac").write_text(
            with_ports(text, {4030: plain, 4031: proxied, 11112: remote}), "utf-8"
        )
        server = Running(self, [*TWISTD, "-n", "--pidfile=", "-y", "dicomtw.tac"], directory)
        server.wait_for(READY)
        self.assertEqual(echo(plain), "0")
        with socket.create_connection(("127.0.0.1", proxied), 10) as peer:
            peer.sendall(b"PROXY TCP4 192.0.2.9 192.0.2.1 40000 4031\r\n\x07\x00")
        server.wait_for(" 192.0.2.9:40000")
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("Traceback", server.log)
