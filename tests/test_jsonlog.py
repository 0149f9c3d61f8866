"""Log lines for machines."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import jsonlog
from dicomtw.jsonlog import file_log_observer, format_event, observer_for_twistd


def parsed(**event: Any) -> dict[str, Any]:
    """An event formatted and read again."""
    line = format_event(event)
    assert line is not None
    assert line.endswith("\n")
    assert line.count("\n") == 1, line
    record = json.loads(line)
    assert isinstance(record, dict)
    return record


class FormatTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """Time in UTC, level, system and the message, filled in."""
        record = parsed(
            log_time=1_700_000_000.25,
            log_level=LogLevel.warn,
            log_namespace="dicomtw.association",
            log_format="{who} did {what!r}",
            who="SCU",
            what="nothing\n",
        )
        self.assertEqual(
            record,
            {
                "time": "2023-11-14T22:13:20.250000Z",
                "level": "warn",
                "system": "dicomtw.association",
                "message": "SCU did 'nothing\\n'",
            },
        )

    def test_bare_event(self) -> None:
        """An event with nothing in it is a line all the same."""
        record = parsed()
        self.assertEqual(record["time"], "1970-01-01T00:00:00.000000Z")
        self.assertEqual((record["level"], record["system"], record["message"]), ("info", "-", ""))

    def test_one_line(self) -> None:
        """Whatever is in a message, it is one line, and stays as it is."""
        message = 'two\nlines, a "quote", \x1b[2J, \N{GREEK SMALL LETTER MU} and {braces}'
        self.assertEqual(parsed(log_format="{message}", message=message)["message"], message)

    def test_association(self) -> None:
        """The fields of an association's summary are there as they are; what JSON has not is its repr."""
        fields = {"calling": "SCU", "objects": 3, "failures": {"A700H": 1}, "odd": {1}}
        record = parsed(log_format="done", association=fields)
        self.assertEqual(record["association"], {**fields, "odd": "{1}"})

    def test_traceback(self) -> None:
        """A failure comes with its traceback."""
        record = parsed(log_format="bug", log_failure=Failure(ZeroDivisionError("bug")))
        self.assertIn("ZeroDivisionError", record["traceback"])


class ObserverTests(SynchronousTestCase):
    def test_file(self) -> None:
        """One JSON object per event and line."""
        file = io.StringIO()
        observer = file_log_observer(file)
        for word in ("one", "two"):
            observer({"log_format": word, "log_time": 0.0})
        self.assertEqual(
            [json.loads(line)["message"] for line in file.getvalue().splitlines()], ["one", "two"]
        )

    def test_twistd(self) -> None:
        """The options of twistd say where the lines go: --logfile, standard output, or a daemon's file."""
        out, file = io.StringIO(), io.StringIO()
        named: list[str] = []

        class LogFile:
            @staticmethod
            def fromFullPath(name: str) -> io.StringIO:
                named.append(name)
                return file

        self.patch(sys, "stdout", out)
        self.patch(jsonlog, "LogFile", LogFile)
        for logfile, nodaemon, expected in (
            ("-", 1, out),
            ("-", 0, out),
            (None, 1, out),
            ("named.log", 1, file),
            ("named.log", 0, file),
            (None, 0, file),
        ):
            before = expected.getvalue()
            observer_for_twistd({"logfile": logfile, "nodaemon": nodaemon})({"log_format": "said"})
            said = expected.getvalue().removeprefix(before)
            self.assertEqual(json.loads(said)["message"], "said", (logfile, nodaemon))
        self.assertEqual(named, ["named.log", "named.log", "twistd.log"])
