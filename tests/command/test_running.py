"""dicomtw.command.running: a coroutine under the reactor, its outcome, and signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

import dicomtw
from dicomtw.command.running import Work, together

CHECKOUT = Path(dicomtw.__file__).parents[1]

_PREAMBLE = """
import sys
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from dicomtw.command import terminal
from dicomtw.command.running import run

def say(*words):
    print(*words, flush=True)
"""


class RunTests(SynchronousTestCase):
    """Each in a process of its own, for there is one reactor."""

    def start(self, script: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=CHECKOUT,
        )
        self.addCleanup(process.stdout.close)  # type: ignore[union-attr]
        self.addCleanup(process.kill)
        return process

    def run_script(self, script: str, status: int = 0) -> str:
        process = self.start(script)
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, status, out)
        return out

    def test_returned(self) -> None:
        """What the coroutine returns is returned, when the reactor has stopped."""
        script = "async def work():\n    return await deferToThread(lambda: 7)\nsay(run(work))\n"
        self.assertEqual(self.run_script(script), "7\n")

    def test_raised(self) -> None:
        """What it raises is raised."""
        script = (
            "async def work():\n"
            "    raise ValueError('no')\n"
            "try:\n"
            "    run(work)\n"
            "except ValueError as error:\n"
            "    say('raised', error)\n"
        )
        self.assertEqual(self.run_script(script), "raised no\n")

    def test_log(self) -> None:
        """Warnings are lines, news is not told, and a failure has no traceback unless -vv is given."""
        script = (
            "terminal.verbosity = {}\n"
            "async def work():\n"
            "    log = Logger('x')\n"
            "    log.info('news')\n"
            "    log.warn('a warning')\n"
            "    try:\n"
            "        1 / 0\n"
            "    except ZeroDivisionError:\n"
            "        log.failure('a bug')\n"
            "run(work)\n"
        )
        self.assertEqual(self.run_script(script.format(0)), "dicomtw: a warning\ndicomtw: a bug\n")
        out = self.run_script(script.format(2))
        self.assertIn("dicomtw: news\n", out)
        self.assertIn("Traceback", out)

    def test_interrupted(self) -> None:
        """Ctrl-C and SIGTERM cancel what is under way, let it clean up, and are the exit status."""
        script = (
            "async def work():\n"
            "    say('begun')\n"
            "    try:\n"
            "        await Deferred()\n"
            "    except CancelledError:\n"
            "        say('cancelled')\n"
            "        raise\n"
            "run(work)\n"
        )
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = self.start(script)
            self.assertEqual(process.stdout.readline(), "begun\n")  # type: ignore[union-attr]
            process.send_signal(number)
            out, _ = process.communicate(timeout=30)
            self.assertEqual((out, process.returncode), ("cancelled\n", status))

    def test_interrupted_before_it_begins(self) -> None:
        """A signal that comes before the work does leaves it undone."""
        script = (
            "import os, signal\n"
            "from twisted.internet import reactor\n"
            "async def work():\n"
            "    say('begun')\n"
            "reactor.callWhenRunning(os.kill, os.getpid(), signal.SIGTERM)\n"
            "run(work)\n"
        )
        self.assertEqual(self.run_script(script, 143), "")

    def test_interrupted_twice(self) -> None:
        """A second Ctrl-C ends a command that does not end."""
        script = (
            "async def work():\n"
            "    say('begun')\n"
            "    try:\n"
            "        await Deferred()\n"
            "    except CancelledError:\n"
            "        say('cancelled')\n"
            "        await Deferred()\n"
            "run(work)\n"
        )
        process = self.start(script)
        for line in ("begun\n", "cancelled\n"):
            self.assertEqual(process.stdout.readline(), line)  # type: ignore[union-attr]
            process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(30), 130)

    def test_command(self) -> None:
        """The whole command ends so, too, without a word, while a peer is silent."""
        script = (
            "import socket, subprocess, signal\n"
            "listener = socket.create_server(('127.0.0.1', 0))\n"
            "port = listener.getsockname()[1]\n"
            "command = [sys.executable, '-m', 'dicomtw', 'echo', f'PMOD@127.0.0.1:{port}']\n"
            "process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)\n"
            "connection, _ = listener.accept()\n"
            "connection.recv(6)\n"
            "process.send_signal(signal.SIGINT)\n"
            "say(process.communicate(timeout=20), process.returncode)\n"
            "received = b''\n"
            "while chunk := connection.recv(4096):\n"
            "    received += chunk\n"
            "say(received[-10:].hex())\n"
        )
        out = self.run_script(script)
        self.assertEqual(out.splitlines()[0], "(b'', None) 130")
        self.assertEqual(out.splitlines()[1], "07000000000400000000", "the peer is sent an A-ABORT")


class TogetherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.waiting: list[Deferred[int]] = []

    def work(self, outcome: object = None) -> Work:
        async def work() -> object:
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                return await succeed(outcome)
            waiting: Deferred[int] = Deferred()
            self.waiting.append(waiting)
            return await waiting

        return work()

    def test_results(self) -> None:
        """What all have returned is there when the last is over, in their order."""
        all_of_them = Deferred.fromCoroutine(together([self.work(), self.work(2), self.work()]))
        self.waiting[1].callback(3)
        self.assertNoResult(all_of_them)
        self.waiting[0].callback(1)
        self.assertEqual(self.successResultOf(all_of_them), [1, 2, 3])

    def test_none(self) -> None:
        """Nothing to do is done."""
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(together([]))), [])

    def test_raised(self) -> None:
        """What one raises is raised when all are over."""
        all_of_them = Deferred.fromCoroutine(together([self.work(), self.work(ValueError("no"))]))
        self.assertNoResult(all_of_them)
        self.waiting[0].callback(1)
        self.failureResultOf(all_of_them, ValueError)

    def test_cancelled(self) -> None:
        """Cancelled, it cancels all of them, and that is what comes of it, whatever others raise."""
        fault = self.work(ValueError("no"))
        all_of_them = Deferred.fromCoroutine(together([fault, self.work(), self.work()]))
        all_of_them.cancel()
        self.failureResultOf(all_of_them, CancelledError)
        for waiting in self.waiting:
            self.assertTrue(waiting.called)
