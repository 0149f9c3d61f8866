"""Memory while large objects stream in, and many associations that store at once.

Usage: python -m benchmarks.streaming [--gigabytes 2] [--associations 300] [--directory DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import objects, servers
from benchmarks.sender import Sender

_BLOCK = 1 << 20


def large_object(server: servers.Running, gigabytes: float) -> None:
    """Send one object of `gigabytes`; print how far resident memory rose meanwhile."""
    warm_up = Sender(server.port, 131072)
    uid, study, series = (objects.new_uid() for _ in range(3))
    warm_up.store(uid, objects.ct_head(uid, study, series, 1, _BLOCK), bytes(_BLOCK))
    warm_up.release()
    blocks = int(gigabytes * 1024)
    server.reset_peak()
    before, started = server.resident_kib(), time.monotonic()
    sender = Sender(server.port, 131072)
    uid = objects.new_uid()
    status = sender.store(uid, objects.ct_head(uid, study, series, 2, blocks * _BLOCK), bytes(_BLOCK), blocks)
    seconds = time.monotonic() - started
    sender.release()
    (stored,) = (server.directory / "store").glob(f"*/*/{uid}.dcm")
    print(
        f"{gigabytes} GiB object: status {status:04X}H, {stored.stat().st_size} bytes stored, "
        f"{blocks / seconds:.0f} MiB/s, resident {before} KiB before, "
        f"{server.peak_kib() - before:+d} KiB at the peak"
    )
    stored.unlink()


def many_associations(server: servers.Running, count: int, pixels: int = objects.CT_PIXELS) -> None:
    """Open `count` associations, then store an object on each at the same time."""
    senders = [Sender(server.port) for _ in range(count)]
    statuses: list[int] = []
    pixel_data = bytes(pixels)
    gate = threading.Event()

    def store(sender: Sender) -> None:
        uid, study, series = (objects.new_uid() for _ in range(3))
        head = objects.ct_head(uid, study, series, 1, pixels)
        gate.wait()
        statuses.append(sender.store(uid, head, pixel_data))
        sender.release()

    threads = [threading.Thread(target=store, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    idle, started = server.resident_kib(), time.monotonic()
    server.reset_peak()
    gate.set()
    for thread in threads:
        thread.join(300)
    seconds = time.monotonic() - started
    stored = len(list((server.directory / "store").glob("*/*/*.dcm")))
    print(
        f"{count} associations at once: {statuses.count(0)} objects answered 0000H, {stored} files, "
        f"{count / seconds:.0f} objects/s, resident {idle} KiB idle, "
        f"{server.peak_kib() - idle:+d} KiB at the peak"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--associations", type=int, default=300)
    parser.add_argument("--directory", type=Path, default=None, help="where to store (default: temporary)")
    arguments = parser.parse_args()
    for durability in ("relaxed", "strict"):
        with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
            options = (f"--durability={durability}", f"--max-associations={arguments.associations}")
            print(f"durability {durability}:")
            with servers.dicomtw(Path(name), *options) as server:
                large_object(server, arguments.gigabytes)
                many_associations(server, arguments.associations)


if __name__ == "__main__":
    main()
