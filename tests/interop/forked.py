"""pynetdicom's programs, each in a process of its own, forked from one that has loaded them."""

from __future__ import annotations

import atexit
import functools
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.interop.twistd import environment

_SOURCE = """
import importlib, json, os, sys, threading, traceback

programs = {name: importlib.import_module(f"pynetdicom.apps.{name}.{name}") for name in sys.argv[1:]}


def run(words, directory, output):
    os.chdir(directory)
    for fd in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), fd)
    status = 0
    try:
        programs[words[0]].main(words[1:])
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


for line in sys.stdin:
    waiting, running, ended = list(enumerate(json.loads(line))), {}, {}
    while waiting or running:
        while waiting and len(running) < 2:
            number, job = waiting.pop(0)
            pid = os.fork()
            if not pid:
                run(*job)
            running[pid] = number
        pid, status = os.wait()
        ended[running.pop(pid)] = os.waitstatus_to_exitcode(status)
    print(json.dumps([status for _, status in sorted(ended.items())]), flush=True)
"""


@functools.cache
def _loaded() -> subprocess.Popen[str]:
    """The process that has them; it ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SOURCE, "findscu", "getscu", "movescu"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> None:
        with process:
            process.kill()

    atexit.register(end)
    return process


def run_forked(
    commands: Sequence[tuple[Sequence[str], Path]], timeout: float = 60.0
) -> list[subprocess.CompletedProcess[str]]:
    """Run (name and options, working directory) each, two at a time, as `peers.run` does one."""
    process = _loaded()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as directory:
        outputs = [Path(directory, str(number)) for number in range(len(commands))]
        jobs = [
            (list(words), str(cwd), str(output))
            for (words, cwd), output in zip(commands, outputs, strict=True)
        ]
        process.stdin.write(json.dumps(jobs) + "\n")
        process.stdin.flush()
        readable, _, _ = select.select([process.stdout], [], [], timeout)
        if not readable:
            _loaded.cache_clear()
            process.kill()
            raise AssertionError(f"not within {timeout} s: {[words for words, _, _ in jobs]}")
        statuses = json.loads(process.stdout.readline())
        return [
            subprocess.CompletedProcess(words, status, output.read_text("utf-8", "replace"))
            for (words, _), status, output in zip(commands, statuses, outputs, strict=True)
        ]
