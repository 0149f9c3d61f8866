"""Log lines for machines: one JSON object per event, as ``--log-format=json`` writes them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, formatEvent
from twisted.python.logfile import LogFile

#: Characters of a message.
LONGEST_MESSAGE = 8000


def format_event(event: LogEvent) -> str | None:
    """An event as one line: time (RFC 3339, UTC), level, system, message, an association's fields."""
    record: dict[str, Any] = {
        "time": _timestamp(event.get("log_time", 0.0)),
        "level": event["log_level"].name if "log_level" in event else "info",
        "system": event.get("log_namespace", "-"),
        "message": formatEvent(event)[:LONGEST_MESSAGE],
    }
    if "association" in event:
        record["association"] = event["association"]
    if "log_failure" in event:
        record["traceback"] = event["log_failure"].getTraceback()
    return json.dumps(record, ensure_ascii=False, default=repr) + "\n"


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}Z"


def file_log_observer(file: IO[Any]) -> ILogObserver:
    """An observer that writes to `file`."""
    observer: ILogObserver = FileLogObserver(file, format_event)
    return observer


def observer_for_twistd(options: Mapping[str, Any]) -> ILogObserver:
    """An observer that writes where twistd's --logfile and --nodaemon say."""
    name = options["logfile"]
    if name == "-" or (not name and options["nodaemon"]):
        return file_log_observer(sys.stdout)
    return file_log_observer(LogFile.fromFullPath(name or "twistd.log"))
