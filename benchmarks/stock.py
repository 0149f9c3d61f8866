"""An unmodified storescu as the load: nothing in its environment, all else as it comes."""

from __future__ import annotations

import atexit
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import attrs

from benchmarks import objects
from benchmarks.load import Result
from benchmarks.servers import program


@cache
def _files(count: int) -> Path:
    """A directory of slices, which is there until the end."""
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    objects.write_ct_files(directory, count)
    return directory


@attrs.frozen
class Storescu:
    """`count` CT slices on one association; the time it takes to start is part of a run."""

    count: int

    @property
    def total(self) -> int:
        return self.count

    def run(self, port: int, called: str = "PMOD", watch: Callable[[], None] = lambda: None) -> Result:
        files = _files(self.count)
        command = [
            program("storescu") or "storescu",
            "-aec",
            called,
            "127.0.0.1",
            str(port),
            "+sd",
            str(files),
        ]
        environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
        watch()
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        ended = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
        seconds = time.monotonic() - began
        if ended.returncode != 0:
            raise RuntimeError(f"storescu: {ended.stdout.decode(errors='replace')}")
        watch()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Result(seconds, [seconds / self.count], cpu)
