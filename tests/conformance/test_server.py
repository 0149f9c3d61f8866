"""Our own server does in each case what the standard demands, and what was decided where that leaves room."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.passwords import hashed, put
from tests.conformance import runner
from tests.conformance.case import NEEDS, Result, Target, fits
from tests.interop.twistd import CHECKOUT, Twistd, environment, wait_until
from tests.running import free_ports

#: Seconds; what waits for timers does so for this long.
ARTIM = 2.0
QUICK = (f"--artim-timeout={ARTIM}", "--dimse-timeout=3", "--idle-timeout=10")

#: The ids of the acceptance table. Those that are missing between them were never given.
TABLE = {
    *(f"C{number:02}" for number in range(1, 18)),
    *("C20", *(f"C{number}" for number in range(22, 39)), "C40", "C41", "C43", "C44", "C45"),
    *(f"C{number}" for number in (47, 48, 49, 50, 51)),
    *(
        f"C{number}"
        for number in (60, 61, 62, 64, 65, 66, 67, 68, 69, *range(71, 79), 81, 83, 84, 85, 86, 87)
    ),
    *("C90", "C91", "C93"),
    *("S01", "S02", "S03", "S04", "S05", "S07", "S08", "S09", "S11", "S12", "S13", "S16"),
    *(f"S{number}" for number in range(18, 28)),
    *("Q01", "Q02", "Q03", "Q04", "Q05", "Q07", "Q08", "Q09", "Q10", "N01", "N02", "N03", "N04"),
}
#: What one server cannot have besides the others, what is done from inside, and what we do not do (yet).
ELSEWHERE = {"C25", "C48", "C49", "C50", "C51"}
INSIDE = {"S23", "S24", "S25", "S26", "S27"}
NOT_DONE = {"N01", "N02", "N03", "N04"}


class ConformanceTests(SynchronousTestCase):
    """The cases, put to a server in a process of its own."""

    def check(self, results: Iterable[Result], not_applicable: set[str]) -> None:
        """None differs, and none but these is not applicable."""
        results = list(results)
        differ = [
            f"{one.case.name}: {one.seen}, not {' or '.join(one.case.decided or one.case.sees)}"
            for one in results
            if one.verdict == "differs"
        ]
        self.assertEqual(differ, [])
        skipped = {one.case.id for one in results if one.verdict == "not applicable"}
        self.assertEqual(skipped, not_applicable)

    def test_all(self) -> None:
        """Each case is seen twice; the second time costs no memory, and leaves nothing open or behind."""
        (dead,) = free_ports(1)
        remotes = ("--remote=CONFORMANCE@127.0.0.1:104", f"--remote=DEAD@127.0.0.1:{dead}")
        server = Twistd(self, *QUICK, *remotes, "--accept-any-ae", aet="TWISTD")
        target = Target(
            host="127.0.0.1",
            port=server.port,
            called="TWISTD",
            artim=ARTIM,
            recovery=10.0,
            has=frozenset({"called-ae"}),
            files=server.store,
            pid=server.pid,
            dead="DEAD",
            matches=300,
            decided=True,
        )
        self.check(runner.run(target, runner.cases()), ELSEWHERE | INSIDE | NOT_DONE)
        wait_until(lambda: runner.echo(target) == "0000H", "it is served")
        rss, fds = server.rss, server.fds
        again = attrs.evolve(target, matches=100)
        self.check(runner.run(again, runner.cases()), ELSEWHERE | INSIDE | NOT_DONE)
        self.assertLessEqual((server.rss - rss) / runner.MEGABYTE, 8)
        wait_until(lambda: server.fds <= fds, f"{fds} file descriptors as before")
        wait_until(lambda: not list((server.store / ".incoming").iterdir()), "nothing is left half received")
        self.assertEqual({path.name for path in server.directory.iterdir()}, {"store", "log", "stderr"})

    def test_options(self) -> None:
        """The cases about options of the server, which another server has."""
        options = ("--known-ae-only", "--no-implementation-version-name", "--enforce-default-transfer-syntax")
        remote = "--remote=CONFORMANCE@127.0.0.1:104"
        server = Twistd(self, *QUICK, *options, remote, "--max-associations=3", aet="TWISTD")
        target = Target(
            host="127.0.0.1",
            port=server.port,
            called="TWISTD",
            artim=ARTIM,
            has=frozenset({"known-ae", "anonymous", "default-ts"}),
            limit=3,
            pid=server.pid,
            decided=True,
        )
        self.check(runner.run(target, runner.cases(ELSEWHERE - {"C48"})), set())

    def test_users(self) -> None:
        """The case of a user, put to a server that checks them."""
        users = Path(self.mktemp()).absolute()
        put(users, "me", hashed(b"secret"))
        server = Twistd(self, *QUICK, f"--auth=scrypt:{users}", "--auth-without-tls", aet="TWISTD")
        target = Target(
            host="127.0.0.1", port=server.port, called="TWISTD", has=frozenset({"identity"}), decided=True
        )
        self.check(runner.run(target, runner.cases({"C48"})), set())


class CommandTests(SynchronousTestCase):
    """``python -m tests.conformance``, for any server."""

    def run_command(self, *words: str | int | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.conformance", *map(str, words)]
        return subprocess.run(
            command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, check=False, timeout=60
        )

    def test_ok(self) -> None:
        """Status 0 and a line for each case where nothing differs, as text and as JSON."""
        server = Twistd(self)
        words = ("127.0.0.1", server.port, "PMOD", "--only=C05,C24,C60")
        done = self.run_command(*words)
        self.assertEqual((done.returncode, done.stderr), (0, "1 not applicable, 3 ok\n"), done.stdout)
        self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], ["C05", "C05", "C24", "C60"])
        said = [json.loads(line) for line in self.run_command(*words, "--json").stdout.splitlines()]
        self.assertEqual([one["seen"] for one in said], ["AB(0,0)", "AB(0,0)", NEEDS["called-ae"], "0000H"])

    def test_differs(self) -> None:
        """Status 1 where something does: of a server that closes at once, and so is never alive."""
        listening = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            port = listening.getsockname()[1]
            done = self.run_command("127.0.0.1", port, "ANY", "--only=C12,C60", "--recovery=0.1")
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()
            thread.join()
        self.assertEqual((done.returncode, done.stderr), (1, "2 differs\n"), done.stdout)
        self.assertIn("closed, then C-ECHO: closed; not served any more", done.stdout)


class TableTests(SynchronousTestCase):
    """The tables themselves."""

    def test_complete(self) -> None:
        """They have each id, no name twice, and a known word for whatever they need."""
        cases = runner.cases()
        self.assertEqual({case.id for case in cases}, TABLE)
        names = [case.name for case in cases]
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual({need for case in cases for need in case.needs}, set(NEEDS))

    def test_page(self) -> None:
        """docs/conformance-cases.rst has a row for each, with what is sent."""
        text = " ".join((CHECKOUT / "docs" / "conformance-cases.rst").read_text("utf-8").split())
        for case in runner.cases():
            self.assertIn(f"* - {case.name} - {case.sends} ", text)

    def test_patterns(self) -> None:
        """What stands for a number, for digits and for anything does so, and nothing else does."""
        for pattern, said, fit in (
            ("AB(·,6)", "AB(2,6)", True),
            ("AB(·,6)", "AB(2,5)", False),
            ("A9xxH, no file", "A900H, no file", True),
            ("A9xxH, no file", "A900H, 1 file", False),
            ("A9xxH", "0000H", False),
            ("closed at ARTIM ...", "closed at ARTIM 2.0 s", True),
            ("2 x 0000H", "2 x 0000H", True),
            ("0000H", "0000H, then C-ECHO: closed", False),
        ):
            self.assertEqual(fits(pattern, said), fit, (pattern, said))
