"""An unmodified storescu sends CT slices into us and into an unmodified storescp, in turn, in one run.

Usage: python -m benchmarks.storescu_pair [--objects 300] [--pairs 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import objects, servers


def _send(server: servers.Running, files: Path, count: int) -> tuple[float, float]:
    """Objects per second, and CPU milliseconds of the server per object."""
    cpu, started = server.cpu_seconds(), time.monotonic()
    subprocess.run(
        ["storescu", "-aec", "PMOD", "127.0.0.1", str(server.port), "+sd", str(files)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=600,
    )
    seconds = time.monotonic() - started
    return count / seconds, (server.cpu_seconds() - cpu) * 1000 / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=None, help="where to store (default: temporary)")
    parser.add_argument("--durability", default="relaxed")
    arguments = parser.parse_args()
    if shutil.which("storescu") is None or shutil.which("storescp") is None:
        raise SystemExit("DCMTK's storescu and storescp are not installed")
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        root = Path(name)
        for part in ("files", "ours", "theirs"):
            (root / part).mkdir()
        objects.write_ct_files(root / "files", arguments.objects)
        ratios = []
        with (
            servers.dicomtw(root / "ours", f"--durability={arguments.durability}") as ours,
            servers.storescp(root / "theirs") as theirs,
        ):
            for _ in range(arguments.pairs):
                rates = []
                for server in (ours, theirs):
                    rate, cpu = _send(server, root / "files", arguments.objects)
                    rates.append(rate)
                    print(f"{server.name:10} {rate:8.1f} objects/s  {cpu:6.2f} ms CPU per object", flush=True)
                ratios.append(rates[0] / rates[1])
                for path in (root / "ours/store").glob("[0-9]*"):
                    shutil.rmtree(path)
        print(f"ratio: median {statistics.median(ratios):.1f} (min {min(ratios):.1f}, max {max(ratios):.1f})")


if __name__ == "__main__":
    main()
