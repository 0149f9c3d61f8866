"""What is said to whoever sits at the terminal: lines on standard error, bars of progress."""

from __future__ import annotations

import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any

#: The number of -v less that of -q.
verbosity = 0

#: What would move the cursor, or do worse: names and comments come from other machines.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal obeys."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str, *, least: int = -2) -> None:
    """A line for people, where `verbosity` is `least` or more."""
    if verbosity < least:
        return
    line = f"dicomtw: {printable(text)}"
    bars = sys.modules.get("tqdm")
    try:
        if bars is not None:  # it may have to clear its bar first
            bars.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody looks


def result(text: str) -> None:
    """The line that a command ends with, to standard output unless -q is given."""
    if verbosity >= 0:
        sys.stdout.write(printable(text) + "\n")


def trace(error: BaseException) -> None:
    """Where `error` comes from, for those who gave -vv."""
    if verbosity >= 2:
        traceback.print_exception(error, file=sys.stderr)


def drop_output() -> None:
    """Nobody reads standard output any more; what is left in its buffer goes nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # it is no file


class Progress:
    """How far a command has come: a bar where standard error is a terminal, else nothing."""

    def __init__(self, total: int | None, unit: str) -> None:
        self._bar: Any = None
        if verbosity >= 0 and sys.stderr.isatty():
            from tqdm import tqdm  # type: ignore[import-untyped]

            tqdm.monitor_interval = 0  # no thread that watches over it
            self._bar = tqdm(total=total, unit=f" {unit}", leave=False, dynamic_ncols=True, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self) -> None:
        """One more."""
        if self._bar is not None:
            self._bar.update()

    def at(self, done: int, total: int | None) -> None:
        """So many are done, out of so many."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()
