"""Memory: at rest, for each association that waits, and as objects grow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks import objects, servers
from benchmarks.ingest import RELAXED, WORKERS
from benchmarks.load import Association, Load
from benchmarks.pairs import memory_of
from benchmarks.servers import NODELAY, Start
from benchmarks.targets import OURS

_SMALL, _LARGE = 1 << 16, 1 << 30
#: Seconds after which a server is at rest.
_REST = 1.0

STARTS: Mapping[str, Start] = {
    OURS: lambda place: servers.dicomtw(place, RELAXED, "--max-associations=2000"),
    f"{OURS}, two workers": lambda place: servers.dicomtw(
        place, RELAXED, "--max-associations=2000", *WORKERS
    ),
    "storescp --fork": lambda place: servers.storescp(place, "--fork", environment=NODELAY),
    "Orthanc": lambda place: servers.orthanc(place),
    "pynetdicom": servers.pynetdicom_storescp,
}
#: Who is not asked for a thousand associations: Orthanc serves four at a time, pynetdicom ten.
_FEW = ("Orthanc", "pynetdicom")


def measure(directory: Path | None, idle: int, large: int = _LARGE) -> dict[str, dict[str, float]]:
    """In KiB: `rest`; `association`, for each of `idle`; `growth`, from a small object to a `large` one."""
    measured = {}
    for name, start in STARTS.items():
        with tempfile.TemporaryDirectory(dir=directory) as place, start(Path(place)) as server:
            time.sleep(_REST)
            of_server: dict[str, float] = {"rest": server.memory_kib()}
            if name not in _FEW:
                of_server["association"] = _of_associations(server, idle)
            if not name.endswith("workers"):
                of_server["growth"] = _growth(server, large)
            measured[name] = of_server
    return measured


def _of_associations(server: servers.Running, count: int) -> float:
    """Of one association that waits, in KiB."""
    with ExitStack() as stack:
        warm = [Association(server.port, server.aet, objects.CT_IMAGE_STORAGE) for _ in range(10)]
        for association in warm:
            stack.callback(association.release)
        time.sleep(_REST)
        before = server.memory_kib()
        for _ in range(count):
            stack.callback(Association(server.port, server.aet, objects.CT_IMAGE_STORAGE).release)
        time.sleep(_REST)
        return round((server.memory_kib() - before) / count, 1)


def _growth(server: servers.Running, large: int) -> int:
    """How much higher the peak is with a large object than with small ones, in KiB."""
    load = Load("store", 400, pixels=_SMALL)
    load.run(server.port, server.aet)  # has a process started that helps; it is to be there in both
    time.sleep(_REST)
    small = memory_of(load, server)
    return memory_of(Load("store", 1, pixels=large), server) - small
