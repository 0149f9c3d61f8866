"""Other people's DICOM programs: whether they are here, and one way to run them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


def missing(*programs: str) -> str | None:
    """Why a test case is skipped, for its `skip` attribute: programs that are not on the PATH."""
    absent = [name for name in programs if find(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def find(name: str) -> str | None:
    """The full path of a program on the PATH that is not written in Python.

    pynetdicom's commands have the names of DCMTK's, and come first where its virtual environment is active.
    """
    for directory in os.get_exec_path():
        path = shutil.which(name, path=directory)
        if path is not None and not _is_python(path):
            return path
    return None


def program(name: str) -> str:
    """The full path of a program that is not `missing`."""
    path = find(name)
    assert path is not None, missing(name)
    return path


def _is_python(path: str) -> bool:
    with open(path, "rb") as file:
        beginning = file.read(512)
    # Where the interpreter's path is too long for "#!" the first line names the shell, and the second Python.
    return beginning.startswith(b"#!") and b"python" in b"".join(beginning.splitlines()[:2])


def run(
    *command: str | Path | int, timeout: float = 60.0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, a bare name being one that `find` finds; its output and errors are both in `stdout`."""
    name, *words = map(str, command)
    return subprocess.run(
        [name if os.sep in name else program(name), *words],
        stdin=subprocess.DEVNULL,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
