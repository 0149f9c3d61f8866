"""The process: its options, its start, its sockets, its logs, its end."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dicomtw.testing import message
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC
from tests.interop.cases import CasesTestCase
from tests.interop.peers import missing, program
from tests.interop.scu import CT_IMPLICIT, Closed, Scu, c_store_rq, ct_data_set
from tests.interop.twistd import (
    PATIENCE,
    TWIST,
    TWISTD,
    Twistd,
    environment,
    objects_in,
    run_each_twistd,
    run_twistd,
    temporary_directory,
    wait_until,
)

#: A user that is not root and owns nothing.
NOBODY = 65534


def is_root() -> bool:
    return os.geteuid() == 0


@contextmanager
def taken_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class BadOptionsTests(CasesTestCase):
    """A bad value is one line on standard error, naming the option and what it takes; exit status 1."""

    def _check(self, cases: Sequence[tuple[list[str], list[str]]], files: Mapping[str, str]) -> None:
        """Options and words of the line they lead to; nothing else is said, and nothing is made."""
        directories = [temporary_directory(self) for _ in cases]
        for directory in directories:
            for name, text in files.items():
                (directory / name).write_text(text)
        ended = run_each_twistd(zip((options for options, _ in cases), directories, strict=True))
        for (options, words), directory, process in zip(cases, directories, ended, strict=True):
            with self.case(*options):
                self.assertEqual(process.returncode, 1, process.stdout + process.stderr)
                self.assertNotIn("Traceback", process.stdout + process.stderr)
                self.assertEqual(len(process.stderr.splitlines()), 1, process.stderr)
                for word in words:
                    self.assertIn(word, process.stderr)
                made = {path.name for path in directory.rglob("*")} - set(files)
                self.assertEqual(made, set(), "something was made")

    def test_options(self) -> None:
        """Each fault of the command line is told by the option's name, with what it takes."""
        cases: list[tuple[list[str], list[str]]] = [
            (["--port=99999"], ["--port", "from 0", "to 65535", "99999"]),
            (["--port=dicom"], ["--port", "to 65535", "'dicom'"]),
            (["--port"], ["--port", "requires argument"]),
            (["--aet=SEVENTEEN_LETTERS"], ["--aet", "1 to 16", "'SEVENTEEN_LETTERS'"]),
            (["--aet=A\\B"], ["--aet", "no backslash"]),
            (["--aet=", "--port=0"], ["--aet", "1 to 16"]),
            (["--store=", "--port=0"], ["--store"]),
            (["--nonsense"], ["--nonsense", "not recognized"]),
            (["nonsense"], ["'nonsense'"]),
            (["--accept-any-ae", "--known-ae-only"], ["accept-any-ae", "known-ae-only", "contradict"]),
            (["--tls", "--listen=tcp:0"], ["tls", "dicomtls:"]),
            (["--interface=127.0.0.1", "--listen=tcp:0"], ["interface", "tcp:PORT:interface=ADDRESS"]),
            (["--interface=nowhere.invalid"], ["--interface", "IP address"]),
            (["--interface=192.0.2.1", "--port=0"], ["192.0.2.1", "Cannot assign requested address"]),
            (["--listen=foo:1"], ["--listen", "'foo:1'", "endpoint"]),
            (["--listen=tcp:x"], ["--listen", "'tcp:x'", "endpoint"]),
            (["--listen=systemd:domain=INET:name=x"], ["--listen", "systemd"]),
            (["-tls", "--tls-profile=basic"], ["tls-profile", "3DES"]),
            (["-tls", "--tls-profile=nonsense"], ["--tls-profile", "8996"]),
            (["--tls-cert=file"], ["--tls-cert", "need --tls"]),
            (["-tls", "--tls-cert=missing.pem"], ["tls-cert", "missing.pem", "No such file"]),
            (["-tls", "--tls-cert=file"], ["tls-cert", "file"]),
            (["-tls", "--tls-verify=required"], ["tls-verify", "tls-ca"]),
            (["--store=file", "--port=0"], ["store", "file", "Not a directory"]),
            (["--store=file/below", "--port=0"], ["store", "file/below", "Not a directory"]),
            (["--remote=ROOM1"], ["--remote", "AET@HOST:PORT"]),
            (["--remote=ROOM1@host:104,nonsense"], ["--remote", "no-version", "'nonsense'"]),
            (["--remote=ROOM1@host:104000"], ["--remote", "65535"]),
            (["--max-pdu=100"], ["--max-pdu", "from 4096", "100"]),
            (["--max-associations=0"], ["--max-associations", "from 1"]),
            (["--artim-timeout=soon"], ["--artim-timeout", "seconds", "'soon'"]),
            (["--artim-timeout=nan"], ["--artim-timeout", "seconds", "nan"]),
            (["--durability=maybe"], ["--durability", "strict, relaxed", "'maybe'"]),
            (["--on-duplicate=maybe"], ["--on-duplicate", "replace, keep, refuse"]),
            (["--log-format=xml"], ["log-format", "text, json"]),
            (["--prefer-transfer-syntax=1.2.3"], ["--prefer-transfer-syntax", "'1.2.3'"]),
            (["--config=missing.toml"], ["missing.toml", "No such file"]),
        ]
        self._check(cases, {"file": ""})

    def test_config(self) -> None:
        """Each fault of a file is told by file, table and key, with what the key takes."""
        server = '[[server]]\naet = "A"\nstore = "a"\nport = 0\n'
        cases: list[tuple[str, list[str]]] = [
            ("porrt = 1", ["unknown key 'porrt'", "did you mean 'port'"]),
            ("port = [", ["Invalid value"]),
            ("max-pdu = 1", ["max-pdu takes", "from 4096"]),
            (f"{server}[[server]]\nport = 'x'", ["[[server]] 2", "port takes", "65535", "'x'"]),
            (f"{server}[[server]]\nspeed = 1", ["[[server]] 2", "unknown key 'speed'"]),
            (f"{server}[[remote]]\nhost = 'h'", ["[[remote]] 1", "aet is missing"]),
            (f"{server}[[remote]]\naet = 'A\\\\B'", ["[[remote]] 1", "aet takes an AE title"]),
            (f"{server}[[remote]]\naet = 'A'\nport = true", ["[[remote]] 1", "port takes"]),
            (f"{server}accept-any-ae = true\nknown-ae-only = true", ["[[server]] 1", "contradict"]),
            (f"{server}listen = 'tcp:0'", ["[[server]] 1", "listen takes a list"]),
            ("server = 1", ["server takes tables", "[[server]]"]),
            ("tls = 'yes'", ["tls takes true or false", "'yes'"]),
        ]
        files = {f"{number}.toml": text for number, (text, _) in enumerate(cases)}
        rows = [([f"--config={name}"], [name, *words]) for name, (_, words) in zip(files, cases, strict=True)]
        self._check(rows, files)

    def test_no_such_user(self) -> None:
        """A user that is none of this machine's needs a group; without one, nothing is made or opened."""
        if not is_root():
            self.skipTest("not root")
        directory = temporary_directory(self)
        ended = run_twistd(
            *("--port=0", "--interface=127.0.0.1"),
            twistd=("-n", "--pidfile=", "--uid=54321"),
            cwd=directory,
        )
        self.assertEqual(ended.returncode, 1, ended.stdout)
        said = "dicom: --uid 54321 is no user of this machine: --gid is needed too\n"
        self.assertEqual(ended.stderr, said)
        self.assertNotIn("Traceback", ended.stdout)
        self.assertNotIn("starting on", ended.stdout)
        self.assertEqual(list(directory.iterdir()), [])

    def test_port_in_use(self) -> None:
        """A port where another program listens is named, in one line."""
        with taken_port() as port:
            directory = temporary_directory(self)
            ended = run_twistd(f"--port={port}", "--interface=127.0.0.1", cwd=directory)
        self.assertEqual(ended.returncode, 1, ended.stdout)
        (line,) = ended.stderr.splitlines()
        self.assertIn(f"cannot listen on port {port} of 127.0.0.1: another program listens there", line)
        self.assertNotIn("Traceback", ended.stdout)

    def test_daemon(self) -> None:
        """As a daemon it tells its parent, which is still at the terminal, and logs no traceback."""
        directory = temporary_directory(self)
        # The daemon holds the other end of this as long as it lives.
        alive, held_by_daemon = os.pipe()
        self.addCleanup(os.close, alive)
        with taken_port() as port:
            ended = run_twistd(
                *(f"--port={port}", "--interface=127.0.0.1"),
                twistd=("--pidfile=pid", "--logfile=log"),
                cwd=directory,
                pass_fds=(held_by_daemon,),
            )
            os.close(held_by_daemon)
            self.assertEqual(select.select([alive], [], [], PATIENCE)[0], [alive], "the daemon ends")
        self.assertEqual(ended.returncode, 1, ended.stderr)
        # The second line is twistd's own: that there is a log.
        self.assertLessEqual(len(ended.stderr.splitlines()), 2, ended.stderr)
        for text in (ended.stderr, (directory / "log").read_text()):
            self.assertIn(f"cannot listen on port {port} of 127.0.0.1: another program listens there", text)
            self.assertNotIn("Traceback", text)
        self.assertFalse((directory / "pid").exists())

    def test_low_port(self) -> None:
        """Who may not have a low port is told so, and the two ways out."""
        lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
        if lowest <= 104:
            self.skipTest("anybody may listen on port 104 here")
        command: tuple[str, ...] = (*TWISTD, "-n", "--pidfile=")
        if is_root():
            if missing("setpriv"):
                self.skipTest("setpriv, to start without the right to low ports, is not installed")
            command = (program("setpriv"), "--bounding-set=-net_bind_service", *command)
        ended = subprocess.run(
            [*command, "dicom", "--port=104", "--interface=127.0.0.1"],
            cwd=temporary_directory(self),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual(ended.returncode, 1, ended.stderr)
        (line,) = ended.stderr.splitlines()
        for words in ("port 104", "permission denied", "above 1024", "--uid and --gid"):
            self.assertIn(words, line)
        self.assertNotIn("Traceback", ended.stdout)


class CheckTests(CasesTestCase):
    def test_good(self) -> None:
        """``--check`` says what the configuration means, ends with 0, and makes and opens nothing."""
        directory = temporary_directory(self)
        (directory / "two.toml").write_text(TWO_SERVERS)
        with taken_port() as port:
            cases: list[tuple[list[str], list[str]]] = [
                (
                    ["--aet=PMOD", f"--port={port}"],
                    ["AE title PMOD on tcp:", "from any AE title", "warning:"],
                ),
                (["-tls", "--no-implementation-version-name"], ["TLS profile", "version name is not sent"]),
                (["--remote=ROOM1@h:104,check-host"], ["remote ROOM1 at h:104", "configured remotes only"]),
                (["--enforce-default-transfer-syntax"], ["Implicit VR Little Endian is enforced"]),
                (["--listen=haproxy:tcp:0", "--listen=unix:sock"], ["haproxy:tcp:0", "unix:sock"]),
                (["--config=two.toml"], ["server 1:", "AE title ONE", "server 2:", "AE title TWO"]),
                (["--durability=relaxed"], ["durability relaxed", "power cut"]),
            ]
            before = sorted(directory.rglob("*"))
            ended = run_each_twistd(([*options, "--check"], directory) for options, _ in cases)
        self.assertEqual(sorted(directory.rglob("*")), before)
        for (options, words), checked in zip(cases, ended, strict=True):
            with self.case(*options):
                self.assertEqual(checked.returncode, 0, checked.stderr)
                self.assertEqual(checked.stderr, "")
                for word in words:
                    self.assertIn(word, checked.stdout)

    def test_bad(self) -> None:
        """``--check`` finds what a start would fail on, with one line for each fault, and ends with 1."""
        directory = temporary_directory(self)
        (directory / "file").touch()
        cases: list[tuple[list[str], list[str]]] = [
            (["--port=99999"], ["--port takes"]),
            (["--store=file"], ["store file", "not a directory"]),
            (["--store=file/below"], ["store file/below", "not a directory"]),
            (["--listen=foo:1"], ["--listen", "'foo:1'"]),
            (["-tls", "--tls-cert=missing.pem"], ["missing.pem"]),
            (["-tls", "--tls-profile=basic"], ["3DES"]),
        ]
        ended = run_each_twistd(([*options, "--check"], directory) for options, _ in cases)
        for (options, words), checked in zip(cases, ended, strict=True):
            with self.case(*options):
                self.assertEqual(checked.returncode, 1, checked.stdout)
                (line,) = checked.stderr.splitlines()
                for word in words:
                    self.assertIn(word, line)
        self.assertEqual([path.name for path in directory.iterdir()], ["file"])


TWO_SERVERS = """
interface = "127.0.0.1"

[[server]]
aet = "ONE"
port = 0
store = "one"

[[server]]
aet = "TWO"
port = 0
store = "two"
no-implementation-version-name = true

[[remote]]
aet = "ROOM1"
host = "127.0.0.1"
port = 104
"""


class StartTests(CasesTestCase):
    """The ways to start a server, and the sockets it may listen on."""

    def _check(self, server: Twistd, address: tuple[str, int] | Path, uid: str = "1.2.3.4") -> None:
        """It stores what comes to `address`."""
        with Scu(address) as scu:
            self.assertIsInstance(scu.associate(CT_IMPLICIT), A_ASSOCIATE_AC)
            self.assertEqual(scu.store(uid, ct_data_set(uid)), 0)
            scu.release()
        self.assertIn(uid, server.objects)

    def test_two_servers(self) -> None:
        """Two servers of one file: each has its port, its AE title, its answers and its store."""
        directory = temporary_directory(self)
        (directory / "two.toml").write_text(TWO_SERVERS)
        server = Twistd(self, "--config=two.toml", directory=directory)
        ports = [int(name) for name in server.listening]
        self.assertEqual(len(ports), 2)
        for number, (name, other) in enumerate((("ONE", "TWO"), ("TWO", "ONE"))):
            with self.case(name):
                address = ("127.0.0.1", ports[number])
                with Scu(address) as scu:
                    answer = scu.associate(CT_IMPLICIT, called=name, calling="ROOM1")
                    assert isinstance(answer, A_ASSOCIATE_AC), answer
                    has_name = any(item.item_type == 0x55 for item in answer.user_information.sub_items)
                    self.assertEqual(has_name, name == "ONE")
                    self.assertEqual(scu.store(f"1.2.{number}", ct_data_set(f"1.2.{number}")), 0)
                    scu.release()
                self.assertEqual(set(objects_in(directory / name.lower())), {f"1.2.{number}"})
                for called, calling in ((other, "ROOM1"), (name, "ROOM2")):
                    with Scu(address) as scu:
                        rejected = scu.associate(called=called, calling=calling)
                        self.assertNotIsInstance(rejected, A_ASSOCIATE_AC)

    def test_command_line_wins(self) -> None:
        """What the command line says is said of all servers of the file, and wins."""
        directory = temporary_directory(self)
        (directory / "two.toml").write_text(TWO_SERVERS)
        server = Twistd(self, "--config=two.toml", "--aet=PMOD", "--accept-any-ae", directory=directory)
        for port in server.listening:
            with Scu(("127.0.0.1", int(port))) as scu:
                self.assertIsInstance(scu.associate(called="PMOD", calling="ROOM2"), A_ASSOCIATE_AC)
                scu.release()

    def test_several_listeners(self) -> None:
        """A port, another endpoint and a UNIX socket of one server lead to one store."""
        directory = temporary_directory(self)
        path = directory / "socket"
        server = Twistd(
            self,
            *("--port=0", "--interface=127.0.0.1", "--listen=tcp:0:interface=127.0.0.1"),
            f"--listen=unix:{path}",
            directory=directory,
        )
        ports = [int(name) for name in server.listening if name.isdigit()]
        self.assertEqual(len(ports), 2)
        for number, port in enumerate(ports):
            self._check(server, ("127.0.0.1", port), f"1.2.3.{number}")
        self._check(server, path, "1.2.3.9")
        self.assertIn("local socket 'SCU' to 'PMOD'", server.wait_for_summaries(3)[-1])
        server.stop()
        self.assertFalse(path.exists())

    def test_unix_and_remotes(self) -> None:
        """Over a UNIX socket there is no host to compare: a remote bound to its host is not known there."""
        directory = temporary_directory(self)
        path = directory / "socket"
        server = Twistd(
            self,
            *(f"--listen=unix:{path}", "--remote=ROOM1@127.0.0.1:104,check-host", "--remote=ROOM2@h:104"),
            directory=directory,
        )
        for calling, is_accepted in (("ROOM1", False), ("ROOM2", True), ("ROOM3", False)):
            with self.case(calling), Scu(path) as scu:
                self.assertEqual(isinstance(scu.associate(calling=calling), A_ASSOCIATE_AC), is_accepted)
        self.assertIn("'ROOM1' is not known at this socket", server.wait_for_summaries(3)[0])

    def test_twist(self) -> None:
        """``twist dicom`` takes the same options and ends on SIGTERM as well."""
        for log_format in ((), ("--log-format=text",)):
            with self.case(*log_format):
                server = Twistd(self, command=(*TWIST, *log_format))
                self._check(server, ("127.0.0.1", int(server.listening[0])))
                server.signal(signal.SIGTERM)
                self.assertIn(server.wait(), (0, -signal.SIGTERM))

    def test_systemd(self) -> None:
        """A socket that the service manager has opened is served, by its name."""
        starter = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
            "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            server = Twistd(
                self,
                "--listen=systemd:domain=INET:name=dicom",
                command=(
                    sys.executable,
                    "-c",
                    starter,
                    str(listener.fileno()),
                    *TWISTD[1:],
                    "-n",
                    "--pidfile=",
                ),
                env={"LISTEN_FDS": "1", "LISTEN_FDNAMES": "dicom"},
                pass_fds=(listener.fileno(),),
            )
        self._check(server, address)

    def test_daemon(self) -> None:
        """As a daemon it is up when its pid file is there, and takes that away when it ends."""
        directory = temporary_directory(self)
        pid_file, log = directory / "pid", directory / "log"
        ended = run_twistd(
            *("--port=0", "--interface=127.0.0.1", "--aet=PMOD", f"--store={directory / 'store'}"),
            twistd=("--pidfile=pid", "--logfile=log"),
            cwd=directory,
        )
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (0, "", ""))
        pid = int(wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the pid file", PATIENCE))

        def end() -> None:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)

        self.addCleanup(end)
        (port,) = wait_until(
            lambda: log.exists() and re.findall(r"starting on (\d+)", log.read_text()), "the port in the log"
        )
        with Scu(("127.0.0.1", int(port))) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store("1.2.3", ct_data_set("1.2.3")), 0)
            scu.release()
        self.assertIn("1.2.3", objects_in(directory / "store"))
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon ends", PATIENCE)
        self.assertFalse(pid_file.exists())
        self.assertNotIn("Traceback", log.read_text())

    def test_haproxy(self) -> None:
        """Behind HAProxy with the PROXY protocol the peer is who it is, for the log and for the rules."""
        if missing("haproxy"):
            self.skipTest(str(missing("haproxy")))
        server = Twistd(
            self,
            *("--listen=haproxy:tcp:0:interface=127.0.0.1", "--remote=ROOM1@127.0.0.2:104,check-host"),
        )
        with taken_port() as port:
            pass  # free again, for HAProxy
        config = server.directory / "haproxy.cfg"
        config.write_text(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"
            f"listen dicom\n bind 127.0.0.1:{port}\n server it 127.0.0.1:{server.port} send-proxy-v2\n"
        )
        with subprocess.Popen(
            [program("haproxy"), "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as haproxy:
            try:
                wait_until(lambda: socket_opens(port), "HAProxy listens")
                for host, is_accepted in (("127.0.0.2", True), ("127.0.0.3", False)):
                    with self.case(host):
                        with Scu(("127.0.0.1", port), source=host) as scu:
                            answer = scu.associate(CT_IMPLICIT, calling="ROOM1")
                            self.assertEqual(isinstance(answer, A_ASSOCIATE_AC), is_accepted)
                            if is_accepted:
                                self.assertEqual(scu.store("1.2.3", ct_data_set("1.2.3")), 0)
                                scu.release()
                        server.wait_for_log(f" {host}:")
                with Scu(("127.0.0.1", port), source="127.0.0.2") as scu:
                    scu.associate(CT_IMPLICIT, calling="ROOM1")
                    scu.send(*message(1, c_store_rq("1.2.4"), ct_data_set("1.2.4", bytes(1_000_000))))
                    scu.socket.shutdown(socket.SHUT_WR)
                    self.assertEqual(scu.receive().status, 0)  # type: ignore[union-attr]
                    self.assertRaises(Closed, scu.receive)
                self.assertIn("1.2.4", server.objects)
                # Who speaks to our port as nobody but HAProxy should.
                for sent, said in (
                    (b"PROXY TCP4 1.2.3.4 1.2.3.4 x y\r\n", "not a PROXY header: 'x' is no port"),
                    (b"PROXY TCP4 \xff\r\n", "not a PROXY header: not TCP4 or TCP6"),
                    (message(1, c_store_rq("1.2.5"))[0], "not a PROXY header: begins with 04 00"),
                ):
                    with self.case(sent), Scu(server.address) as scu:
                        scu.send(sent)
                        self.assertLess(scu.seconds_until_closed(), 5)
                        self.assertRegex(server.wait_for_log(said), r"#warn\] 127\.0\.0\.1:\d+; ")
            finally:
                haproxy.terminate()
                haproxy.wait(10)
        half_closed = [line for line in server.summaries if line.startswith("127.0.0.2:")][1]
        self.assertIn("; 1 objects, ", half_closed)
        accepted = next(line for line in server.summaries if line.startswith("127.0.0.2:"))
        self.assertTrue(accepted.endswith("; released"), accepted)
        self.assertTrue(any("'ROOM1' is not known at 127.0.0.3" in line for line in server.summaries))

    def test_deep_store(self) -> None:
        """All directories that root makes on the way to a store belong to whom the server runs as."""
        if not is_root():
            self.skipTest("not root")
        directory = temporary_directory(self)
        directory.chmod(0o755)
        server = Twistd(
            self,
            *("--port=0", "--interface=127.0.0.1", f"--store={directory / 'a' / 'b' / 'store'}"),
            command=(*TWISTD, "-n", "--pidfile=", f"--uid={NOBODY}", f"--gid={NOBODY}"),
            directory=directory,
        )
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store("1.2.3.4", ct_data_set("1.2.3.4")), 0)
            scu.release()
        made = [directory / "a", *(directory / "a").rglob("*")]
        self.assertIn(directory / "a" / "b" / "store" / "1.2.3" / "1.2.3.1" / "1.2.3.4.dcm", made)
        owners = {(path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o077) for path in made}
        self.assertEqual(owners, {(NOBODY, NOBODY, 0)})
        self.assertEqual((directory.stat().st_uid, directory.stat().st_mode & 0o777), (0, 0o755))

    def test_privileges_dropped(self) -> None:
        """Started as root with --uid and --gid it opens a low port, and then nothing of it is root's."""
        if not is_root():
            self.skipTest("not root")
        for options in ([], ["-tls"]):
            with self.case(*options):
                directory = temporary_directory(self)
                directory.chmod(0o755)
                port = free_low_port()
                server = Twistd(
                    self,
                    *(f"--port={port}", "--interface=127.0.0.1", *options),
                    command=(*TWISTD, "-n", "--pidfile=", f"--uid={NOBODY}", f"--gid={NOBODY}"),
                    directory=directory,
                )
                status = Path(f"/proc/{server.pid}/status").read_text()
                for field in ("Uid", "Gid"):
                    self.assertRegex(status, rf"{field}:(\t{NOBODY}){{4}}\n")
                (groups,) = re.findall(r"^Groups:\t(.*)$", status, re.MULTILINE)
                self.assertNotIn("0", groups.split())
                if not options:
                    self._check(server, ("127.0.0.1", port))
                files = [server.store, *server.store.rglob("*")]
                self.assertEqual({path.stat().st_uid for path in files}, {NOBODY})
                self.assertEqual({path.stat().st_gid for path in files}, {NOBODY})
                self.assertEqual({path.stat().st_mode & 0o077 for path in files}, {0})


def socket_opens(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def free_low_port() -> int:
    """A port under 1024 that is free, as root finds one."""
    for port in range(1023, 600, -1):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no free port below 1024")


#: What `TWISTD` does, on a disk that takes what is written and then hangs.
HANGING_DISK = """
import os, time
from twisted.python import log
from twisted.scripts.twistd import run
os.fdatasync = lambda fd: (log.msg("the disk hangs"), time.sleep(60))
run()
"""


class StopTests(CasesTestCase):
    """The first SIGTERM lets the present associations finish, the second does not."""

    def setUp(self) -> None:
        self.data_set = ct_data_set("1.2.3", b"\1" * 200_000)
        self.message = b"".join(message(1, c_store_rq("1.2.3"), self.data_set))

    def _storing(self, server: Twistd) -> Scu:
        """A peer that has sent half of an object when the server is told to stop."""
        scu = Scu(server.address)
        self.addCleanup(scu.close)
        scu.associate(CT_IMPLICIT)
        scu.send(self.message[:100_000])
        wait_until(lambda: list((server.store / ".incoming").iterdir()), "the object is begun")
        server.signal(signal.SIGTERM)
        server.wait_for_log("waiting for 1 association")
        return scu

    def test_drain(self) -> None:
        """What is being stored is stored and answered; nobody new is let in; then the process ends."""
        server = Twistd(self)
        idle = Scu(server.address)
        scu = self._storing(server)
        self.assertRaises(OSError, Scu, server.address)
        self.assertRaises((Closed, OSError), idle.associate)
        idle.close()
        self.assertIsNone(server.process.poll())
        scu.send(self.message[100_000:])
        answer = scu.receive()
        self.assertEqual(answer.status, 0)  # type: ignore[union-attr]
        scu.release()
        self.assertEqual(server.wait(5), 0)
        self.assertEqual(set(server.objects), {"1.2.3"})

    def test_second_signal(self) -> None:
        """The second SIGTERM aborts what is left and ends the process at once; nothing half stays."""
        server = Twistd(self)
        scu = self._storing(server)
        server.signal(signal.SIGTERM)
        self.assertIsInstance(scu.receive(), A_ABORT)
        self.assertEqual(server.wait(4), 0)
        self.assertEqual(server.objects, {})
        self.assertEqual(list((server.store / ".incoming").iterdir()), [])

    def test_disk_hangs(self) -> None:
        """A disk that hangs costs others nothing, and the second SIGTERM ends the process all the same."""
        for peer_stays in (True, False):
            with self.case("the peer stays" if peer_stays else "the peer has gone"):
                server = Twistd(self, command=(sys.executable, "-c", HANGING_DISK, "-n", "--pidfile="))
                incoming = server.store / ".incoming"
                with Scu(server.address) as scu, Scu(server.address) as other:
                    scu.associate(CT_IMPLICIT)
                    other.associate()
                    scu.send(self.message)
                    server.wait_for_log("the disk hangs")
                    began = time.monotonic()
                    for _ in range(10):
                        self.assertEqual(other.echo(), 0)
                    self.assertLess(time.monotonic() - began, 1)
                    server.signal(signal.SIGTERM)
                    server.wait_for_log("waiting for 2 associations")
                    self.assertEqual(other.echo(), 0)
                    other.release()
                    if not peer_stays:
                        scu.send(A_ABORT(0, 0))
                        server.wait_for_summaries(2)
                    began = time.monotonic()
                    server.signal(signal.SIGTERM)
                    if peer_stays:
                        self.assertEqual(scu.answers(), [A_ABORT(0, 0)], "not acknowledged")
                    self.assertEqual(server.wait(8), 1)
                    self.assertLess(time.monotonic() - began, 5)
                self.assertIn("leaving 1 calls to the disk unfinished", server.log)
                self.assertEqual(server.objects, {})
                self.assertEqual(len(list(incoming.iterdir())), 1)
                server.restart()
                server.wait_for_log("removed 1 half-received objects")
                self.assertEqual(list(incoming.iterdir()), [])
                server.stop()

    def test_signals_at_once(self) -> None:
        """Two signals that come together are a first and a second one."""
        server = Twistd(self)
        scu = Scu(server.address)
        self.addCleanup(scu.close)
        scu.associate()
        server.signal(signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        server.signal(signal.SIGCONT)
        self.assertIsInstance(scu.receive(), A_ABORT)
        self.assertEqual(server.wait(5), 0)

    def test_deadline(self) -> None:
        """An association that does not end is aborted at the deadline."""
        server = Twistd(self, "--drain-timeout=1")
        scu = self._storing(server)
        self.assertIsInstance(scu.receive(), A_ABORT)
        self.assertEqual(server.wait(5), 0)

    def test_interrupt(self) -> None:
        """SIGINT is what SIGTERM is."""
        server = Twistd(self)
        with Scu(server.address) as scu:  # the reactor runs
            scu.associate()
            scu.release()
        server.signal(signal.SIGINT)
        self.assertEqual(server.wait(5), 0)

    def test_while_it_starts(self) -> None:
        """Who stops it as soon as it says that it is there does not find it half started."""
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.case(number.name):
                server = Twistd(self)
                server.signal(number)
                self.assertIn(server.wait(5), (0, -number))  # Twisted's own handlers tell the parent so
                self.assertIn("Server Shut Down", server.log)

    def test_half_close(self) -> None:
        """A peer that shuts down its sending side after a C-STORE still gets the answer."""
        server = Twistd(self)
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            scu.send(self.message)
            scu.socket.shutdown(socket.SHUT_WR)
            self.assertEqual(scu.receive().status, 0)  # type: ignore[union-attr]
            self.assertRaises(Closed, scu.receive)
        self.assertIn("1.2.3", server.objects)

    def test_out_of_descriptors(self) -> None:
        """When no connection can be accepted the server waits, and serves again when it can."""
        server = Twistd(self)
        with Scu(server.address) as scu:  # the reactor runs, and has the descriptors that it needs
            scu.associate(CT_IMPLICIT)
            scu.release()
        server.wait_for_summaries(1)
        before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.fds, before[1]))
        with Scu(server.address) as scu:
            scu.send(b"")
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
            self.assertIsInstance(scu.associate(), A_ASSOCIATE_AC)
            self.assertEqual(scu.echo(), 0)
            scu.release()


class LogTests(CasesTestCase):
    def test_json(self) -> None:
        """With ``--log-format=json`` each line is an object, and an association's has its fields."""
        server = Twistd(self, "--log-format=json")
        (port,) = re.findall(r"starting on (\d+)", server.log)
        with Scu(("127.0.0.1", int(port))) as scu:
            scu.associate(CT_IMPLICIT, calling='QUO"TE')
            data_set = ct_data_set("1.2.3")
            self.assertEqual(scu.store("1.2.3", data_set), 0)
            self.assertEqual(scu.store("1.2.4", data_set), 0xA900)
            scu.release()
        server.wait_for_log("released")
        server.stop()
        records = [json.loads(line) for line in server.log.splitlines()]
        for record in records:
            self.assertRegex(record["time"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
            self.assertIn(record["level"], ("debug", "info", "warn", "error", "critical"))
            self.assertTrue({"system", "message"} <= set(record))
        (fields,) = [record["association"] for record in records if "association" in record]
        self.assertRegex(fields.pop("peer"), r"^127\.0\.0\.1:\d+$")
        self.assertGreater(fields.pop("seconds"), 0)
        self.assertEqual(
            fields,
            {
                "calling": 'QUO"TE',
                "called": "PMOD",
                "tls": "",
                "user": "",
                "accepted": ["CT Image Storage"],
                "refused": [],
                "objects": 1,
                "echoes": 0,
                "operations": {"C-STORE": 1},
                "failures": {"A900H": 1},
                "bytes": 2 * len(data_set),
                "objects_sent": 0,
                "bytes_sent": 0,
                "odd_lengths": False,
                "lax_uids": False,
                "unfinished": 0,
                "ended": "released",
            },
        )

    def test_titles_cannot_forge_lines(self) -> None:
        """What a peer calls itself makes no line of its own in the log."""
        server = Twistd(self, "--accept-any-called-ae")
        with Scu(server.address) as scu:
            scu.associate(calling="A\n26 [x#info] y", called="\x1b[31mRED")
        (line,) = server.wait_for_summaries(1)
        self.assertIn(r"'A\n26 [x#info] y'", line)
        self.assertNotIn("\x1b", server.log)
