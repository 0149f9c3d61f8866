"""What a worker and the process that it was forked from tell each other: a line of JSON each, both ways."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

#: What a worker is told to do.
DRAIN: Final = "drain"
STOP: Final = "stop"
READ_AGAIN: Final = "read again"

_READ: Final = 1 << 16
#: Characters of what is logged; the rest is left out.
LONGEST: Final = 1 << 16


class Link:
    """One end of the connection between the two. Any thread may send."""

    log = Logger()

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        # One line at a time. Reentrant, for the garbage collector may have something logged meanwhile.
        self._sending = threading.RLock()
        #: The other end is gone, as `received` has found.
        self.lost = False

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, **message: Any) -> bool:
        """Tell the other end; whether it is not gone."""
        line = json.dumps(message, default=repr).encode() + b"\n"
        try:
            with self._sending:
                self._connection.sendall(line)
        except OSError:
            return False
        return True

    def received(self) -> Iterator[dict[str, Any]]:
        """What has come; waits if nothing has. What is no message is passed over."""
        try:
            data = self._connection.recv(_READ)
        except OSError:
            data = b""
        if not data:
            self.lost = True
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:  # no text of UTF-8, either
                message = None
            if isinstance(message, dict):
                yield message
            else:
                self.log.error("between processes came what is no message: {line!r}", line=line[:200])

    def close(self) -> None:
        self._connection.close()


def pair() -> tuple[Link, Link]:
    """Both ends."""
    one, other = socket.socketpair()
    return Link(one), Link(other)


class Reader:
    """Has a reactor read the commands that come to a worker; `gone`: there is nobody who could send any."""

    def __init__(self, link: Link, commands: dict[str, Callable[[], None]], gone: Callable[[], None]) -> None:
        self._link = link
        self._commands = commands
        self._gone = gone

    def logPrefix(self) -> str:  # noqa: N802 (Twisted's)
        return "dicomtw"

    def fileno(self) -> int:
        return self._link.fileno()

    def doRead(self) -> BaseException | None:  # noqa: N802
        for message in self._link.received():
            self._commands[message["do"]]()
        return EOFError() if self._link.lost else None

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        self._gone()


# -- the log


def observer(link: Link, otherwise: Iterable[ILogObserver] = ()) -> ILogObserver:
    """Has what a worker logs logged by who has the log; by `otherwise` when he is gone."""

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        told = {
            "log_time": event.get("log_time", 0.0),
            "log_namespace": event.get("log_namespace", "-"),
            "text": formatEvent(event),
        }
        if "association" in event:
            told["association"] = event["association"]
        if "log_failure" in event:
            told["text"] += "\n" + event["log_failure"].getTraceback()
        if len(told["text"]) > LONGEST:
            told["text"] = told["text"][:LONGEST] + "..."
        if not link.send(level=level.name, event=told):
            for each in otherwise:
                each(event)

    made: ILogObserver = observe
    return made


def log_of_worker(worker: int, message: dict[str, Any]) -> None:
    """Log what a worker had to say, as it was said, with its number."""
    globalLogPublisher(
        {
            "log_level": LogLevel.lookupByName(message["level"]),
            "log_format": "worker {worker}: {text}",
            "worker": worker,
            **message["event"],
        }
    )
