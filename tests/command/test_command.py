"""dicomtw.command: the command line, exit statuses, and the one line that says what is wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import dicomtw
from dicomtw import command
from dicomtw.command import main, terminal
from dicomtw.command.arguments import parser
from dicomtw.command.exits import MEANINGS, Exit, Fault, status_of, why
from dicomtw.errors import (
    AssociationLost,
    IndexFault,
    NotAccepted,
    NotConnected,
    OperationFailed,
    Rejected,
    UnreadableDataSet,
)
from tests.command.memory import heard

CHECKOUT = Path(dicomtw.__file__).parents[1]

COMMANDS = ("echo", "send", "find", "move", "get", "serve", "check", "passwd", "reindex")


class ParserTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """A command with nothing but its peer has the defaults that its help names."""
        arguments = parser().parse_args(["find", "PMOD@localhost:4030"])
        self.assertEqual(arguments.peer, "PMOD@localhost:4030")
        self.assertEqual((arguments.calling, arguments.called), ("DICOMTW", None))
        self.assertEqual((arguments.timeout, arguments.dimse_timeout), (30.0, 600.0))
        self.assertEqual((arguments.level, arguments.model, arguments.keys), ("STUDY", None, []))
        self.assertEqual((arguments.max_pdu, arguments.retries, arguments.tls), (262144, None, False))

    def test_short_options(self) -> None:
        """DCMTK's short options are understood, and stand for the long ones."""
        words = "find localhost:104 -aet ME -aec YOU -to 3 -td 4 -pdu 16384 -L series -k A -k B=1 -v -v"
        arguments = parser().parse_args(words.split())
        self.assertEqual((arguments.calling, arguments.called), ("ME", "YOU"))
        self.assertEqual((arguments.timeout, arguments.dimse_timeout, arguments.max_pdu), (3.0, 4.0, 16384))
        self.assertEqual((arguments.level, arguments.keys, arguments.verbose), ("SERIES", ["A", "B=1"], 2))

    def test_wrong_words(self) -> None:
        """A wrong word ends with one line that names it, and points to the help."""
        cases = [
            ("", "COMMAND"),
            ("fnid localhost:104", "invalid choice: 'fnid'"),
            ("echo", "PEER"),
            ("echo localhost:104 -aet ABCDEFGHIJKLMNOPQ", "takes an AE title, not 'ABCDEFGHIJKLMNOPQ'"),
            ("echo localhost:104 -to soon", "takes a number of seconds from 0.1 to 1000000, not 'soon'"),
            ("echo localhost:104 -pdu 7", "takes a number of bytes from 4096, or 0 for no limit, not '7'"),
            ("echo localhost:104 --repeat 0", "takes a whole number from 1 to 1000, not '0'"),
            ("find localhost:104 -L FRAME", "takes one of PATIENT, STUDY, SERIES, IMAGE, not 'FRAME'"),
            ("find localhost:104 --form=csv", "unrecognized arguments: --form=csv"),
            ("move localhost:104", "--to"),
            ("get localhost:104", "-o/--output"),
        ]
        for words, said in cases:
            fault = self.assertRaises(Fault, parser().parse_args, words.split())
            self.assertIn(said, str(fault))
            self.assertRegex(str(fault), r"\(see dicomtw.* --help\)\Z")
            self.assertNotIn("\n", str(fault))

    def test_help(self) -> None:
        """The help of each command can be had, and has the table of exit statuses."""
        for words in [["--help"], *([name, "--help"] for name in COMMANDS if name not in ("serve", "check"))]:
            with heard() as (out, _):
                self.assertRaises(SystemExit, parser().parse_args, words)
            self.assertIn("exit status:", out.getvalue())
            for meaning in MEANINGS.values():
                self.assertIn(meaning, out.getvalue())

    def test_version(self) -> None:
        """The command tells which version it is."""
        with heard() as (out, _):
            self.assertRaises(SystemExit, parser().parse_args, ["--version"])
        self.assertEqual(out.getvalue(), f"dicomtw {dicomtw.__version__}\n")


class ExitTests(SynchronousTestCase):
    def test_statuses(self) -> None:
        """Each fault has its exit status."""
        cases = [
            (Fault("no"), Exit.USAGE),
            (Fault("no", Exit.FAILED), Exit.FAILED),
            (FileNotFoundError(2, "No such file", "x"), Exit.USAGE),
            (IndexFault("locked"), Exit.USAGE),
            (NotConnected("refused"), Exit.NO_ASSOCIATION),
            (Rejected("no", 1, 1, 7), Exit.NO_ASSOCIATION),
            (AssociationLost("aborted"), Exit.NO_ASSOCIATION),
            (OperationFailed("C-FIND", 0xA700), Exit.FAILED),
            (NotAccepted("no context"), Exit.FAILED),
            (UnreadableDataSet("no data set"), Exit.FAILED),
            (KeyError("bug"), Exit.BUG),
        ]
        for error, status in cases:
            self.assertEqual(status_of(error), status, error)

    def test_words(self) -> None:
        """A fault of the operating system is told with the file that it is about."""
        self.assertEqual(why(FileNotFoundError(2, "No such file", "x")), "x: No such file")
        self.assertEqual(why(OSError(28, "No space left on device")), "No space left on device")
        self.assertEqual(why(AssociationLost("aborted")), "aborted")
        self.assertEqual(why(ValueError()), "ValueError")


class MainTests(SynchronousTestCase):
    def performing(self, outcome: BaseException | int) -> None:
        def perform(name: str, arguments: object) -> int:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        self.patch(command, "_perform", perform)

    def test_status(self) -> None:
        """What a command returns is the exit status."""
        self.performing(3)
        self.assertEqual(main(["echo", "localhost:104"]), 3)

    def test_fault(self) -> None:
        """A fault is one line on standard error, whatever is in it."""
        self.performing(OperationFailed("C-FIND", 0xA700, "out of\n\x1b[31mresources"))
        with heard() as (out, err):
            self.assertEqual(main(["echo", "localhost:104"]), 3)
        said = "C-FIND failed with status A700H: out of\N{REPLACEMENT CHARACTER}"
        self.assertEqual(err.getvalue(), f"dicomtw: {said}\N{REPLACEMENT CHARACTER}[31mresources\n")
        self.assertEqual(out.getvalue(), "")

    def test_bug(self) -> None:
        """A bug is one line, too, and a traceback only for those who ask for it."""
        self.performing(ZeroDivisionError("division by zero"))
        with heard() as (_, err):
            self.assertEqual(main(["echo", "localhost:104"]), 4)
        line = "dicomtw: a fault in dicomtw: ZeroDivisionError('division by zero')\n"
        self.assertEqual(err.getvalue(), line)
        with heard() as (_, err):
            self.assertEqual(main(["echo", "localhost:104", "-vv"]), 4)
        self.assertIn("Traceback", err.getvalue())

    def test_interrupted(self) -> None:
        """Ctrl-C where no reactor runs has the same exit status, and nothing is said."""
        self.performing(KeyboardInterrupt())
        with heard() as (_, err):
            self.assertEqual(main(["echo", "localhost:104"]), 130)
        self.assertEqual(err.getvalue(), "")

    def test_nobody_reads(self) -> None:
        """That nobody reads the output is no fault to speak of."""
        self.performing(BrokenPipeError(32, "Broken pipe"))
        with heard() as (_, err):
            self.assertEqual(main(["echo", "localhost:104"]), 141)
        self.assertEqual(err.getvalue(), "")

    def test_passed_on(self) -> None:
        """The options of serve and check are not ours to parse."""
        seen = []
        self.patch(command, "_perform", lambda *what: seen.append(what) or 0)
        main(["serve", "-tls", "--port=4030"])
        main(["check", "--config", "x"])
        self.assertEqual(seen, [("serve", ["-tls", "--port=4030"]), ("check", ["--config", "x"])])

    def test_check(self) -> None:
        """``dicomtw check`` says what twistd dicom --check does."""
        with heard() as (out, _):
            ended = self.assertRaises(SystemExit, main, ["check", "--port=4030", "--aet=PMOD"])
        self.assertEqual(ended.code, 0)
        self.assertIn("AE title PMOD on tcp:4030", out.getvalue())


class TerminalTests(SynchronousTestCase):
    def test_verbosity(self) -> None:
        """-q leaves out the result, -v brings in more, faults are always told."""
        for verbosity, said in [(-1, "fault"), (0, "fault result"), (1, "fault result detail")]:
            with heard(verbosity) as (out, err):
                terminal.say("fault")
                terminal.result("result")
                terminal.say("detail", least=1)
            lines = (err.getvalue() + out.getvalue()).replace("dicomtw: ", "").split()
            self.assertEqual(sorted(lines), sorted(said.split()))

    def test_progress(self) -> None:
        """Where standard error is no terminal there is no bar."""
        with heard() as (_, err), terminal.Progress(3, "objects") as bar:
            bar.advance()
            bar.at(2, 3)
        self.assertEqual(err.getvalue(), "")

    def test_bar(self) -> None:
        """On a terminal there is one, which is gone at the end, and lines are written above it."""
        with heard() as (_, err):
            err.isatty = lambda: True  # type: ignore[method-assign]
            with terminal.Progress(None, "objects") as bar:
                bar.at(1, 4)
                terminal.say("fault")
                bar.advance()
        self.assertIn("1/4", err.getvalue())
        self.assertIn("dicomtw: fault\n", err.getvalue())
        self.assertTrue(err.getvalue().endswith("\r"), err.getvalue())


class ReferenceTests(SynchronousTestCase):
    """docs/command.rst"""

    def setUp(self) -> None:
        self.text = (CHECKOUT / "docs" / "command.rst").read_text("utf-8")

    def test_options(self) -> None:
        """It has every command and every option of each."""
        subparsers = next(action for action in parser()._actions if action.dest == "command")
        assert subparsers.choices is not None
        self.assertCountEqual(subparsers.choices, COMMANDS)
        for name, one in subparsers.choices.items():  # type: ignore[attr-defined]
            self.assertIn(f"``dicomtw {name} ", self.text)
            for option in (word for action in one._actions for word in action.option_strings):
                if option not in ("-h", "--help", "--verbose", "--quiet"):
                    self.assertRegex(self.text, rf"``{option}[`= ]", f"{name} {option}")

    def test_exit_statuses(self) -> None:
        """It has every exit status."""
        for status in Exit:
            self.assertRegex(self.text, rf"\b{status:d}\b")


class StartTests(SynchronousTestCase):
    """What the command imports, in processes of its own."""

    def run_python(self, script: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            cwd=CHECKOUT,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_help_is_quick(self) -> None:
        """Parsing words imports neither Twisted nor pydicom, nor attrs, and so takes no time."""
        script = (
            "import sys\n"
            "from dicomtw.command.arguments import parser\n"
            "parser().parse_args(['send', 'PMOD@localhost:4030', '.'])\n"
            "absent = ('twisted', 'pydicom', 'attr', 'OpenSSL', 'tqdm')\n"
            "print([name for name in absent if name in sys.modules])"
        )
        self.assertEqual(self.run_python(script), "[]\n")

    def test_no_reactor_before_its_time(self) -> None:
        """Importing the commands installs no reactor, and does not import pydicom."""
        script = (
            "import sys\n"
            "from dicomtw.command import echo, find, get, move, reindex, send\n"
            "absent = ('twisted.internet.reactor', 'pydicom', 'numpy', 'tqdm')\n"
            "print([name for name in absent if name in sys.modules])"
        )
        self.assertEqual(self.run_python(script), "[]\n")

    def test_as_module(self) -> None:
        """``python -m dicomtw`` is the command, and there at once."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "dicomtw", "--help"],
            capture_output=True,
            text=True,
            check=True,
            cwd=CHECKOUT,
        )
        self.assertLess(time.monotonic() - began, 2.0)  # 0.1 s, where the machine has nothing else to do
        for name in COMMANDS:
            self.assertIn(f"    {name} ", done.stdout)
