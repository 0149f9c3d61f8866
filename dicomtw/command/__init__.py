"""The command ``dicomtw``: a service class user for the shell, and the server's daily chores.

A command is a module here with a function `run`, which takes the parsed words and returns the exit status.
It is imported when it is called, for ``dicomtw --help`` needs neither Twisted nor pydicom.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

from dicomtw.command import terminal
from dicomtw.command.arguments import PASSED_ON, parser
from dicomtw.command.exits import EXPECTED, Exit, status_of, why


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line, the process's own by default, and return its exit status.

    Whatever is wrong is one line on standard error.
    """
    words = list(sys.argv[1:] if words is None else words)
    try:
        status = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        terminal.drop_output()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:
        terminal.say(why(error) if isinstance(error, EXPECTED) else f"a fault in dicomtw: {error!r}")
        terminal.trace(error)
        return status_of(error)
    return status


def _run(words: Sequence[str]) -> int:
    if words and words[0] in PASSED_ON:
        return _perform(words[0], words[1:])
    arguments = parser().parse_args(words)
    terminal.verbosity = arguments.verbose - arguments.quiet
    return _perform(arguments.command, arguments)


def _perform(command: str, arguments: Namespace | Sequence[str]) -> int:
    status: int = import_module(f"dicomtw.command.{command}").run(arguments)
    return status
