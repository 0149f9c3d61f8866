"""The machine that figures are of, and what is installed on it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.servers import program


def described(directory: Path, disk: Path) -> dict[str, str]:
    """What there is to know, by what it is called."""
    described = {
        "processors": f"{os.cpu_count()} x {_field('/proc/cpuinfo', 'model name')}",
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / (1 << 20):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": _file_system(directory),
        "file system that syncs": _file_system(disk),
        "Python": platform.python_version(),
        **{name: _package(name) for name in ("dicomtw", "Twisted", "pynetdicom")},
        "DCMTK": _printed("storescp", "--version"),
        "Orthanc": _printed("Orthanc", "--version"),
        "C compiler": _printed("cc", "--version"),
    }
    return {key: value for key, value in described.items() if value}


def _field(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "?"


def _file_system(path: Path) -> str:
    """The type of the file system of `path`."""
    mounted = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [path.resolve(), *path.resolve().parents]
    points = [(len(point), kind) for point, kind in mounted if Path(point) in above]
    return max(points)[1] if points else "?"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _printed(name: str, *options: str) -> str:
    """The version number that a program prints of itself."""
    path = program(name)
    if path is None:
        return ""
    printed = subprocess.run([path, *options], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+(\.\d+)*", printed)
    return found.group() if found else "?"
