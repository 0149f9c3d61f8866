"""``kill -9`` in the midst of ingest: what was acknowledged is there whole, and indexed, after the start."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import subprocess
import threading
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from dicomtw.errors import ProtocolError
from tests.interop.cases import CasesTestCase
from tests.interop.files import stored_data_set
from tests.interop.scu import CT_IMPLICIT, Address, Closed, Scu, ct_data_set
from tests.interop.strace import injected
from tests.interop.twistd import Twistd, objects_in, wait_until

#: How often the server is killed.
KILLS = int(os.environ.get("DICOMTW_KILLS", "3"))
#: Before how many of its system calls of each kind it is killed, for all of them say 1000.
STEPS = int(os.environ.get("DICOMTW_STEPS", "2"))
SENDERS = 4
#: Acknowledged objects after which the server is killed: anything between.
FEWEST, MOST = 5, 60


class Ledger:
    """What was sent and what was acknowledged: by SOP Instance UID, the SHA-256 of data sets in order."""

    def __init__(self) -> None:
        self.sent: defaultdict[str, list[str]] = defaultdict(list)
        self.acknowledged: defaultdict[str, list[str]] = defaultdict(list)
        self.count = 0
        self.faults: list[str] = []

    def send(self, scu: Scu, uid: str, data_set: bytes) -> None:
        """Send an object. Raises what tells that the server is gone."""
        digest = hashlib.sha256(data_set).hexdigest()
        self.sent[uid].append(digest)
        status = scu.store(uid, data_set)
        if status != 0:
            self.faults.append(f"{uid} answered {status:04X}H")
        self.acknowledged[uid].append(digest)
        self.count += 1

    def ingest(self, address: Address, name: str, seed: int) -> None:
        """Send until the server is gone: most objects are new, some replace one that was sent before."""
        chance = random.Random(seed)
        uids = []
        try:
            with Scu(address) as scu:
                scu.associate(CT_IMPLICIT, calling="CRASH")
                while True:
                    if uids and chance.random() < 0.1:
                        uid = chance.choice(uids)
                    else:
                        uid = f"1.2.{seed}.{name}.{len(uids)}"
                        uids.append(uid)
                    pixels = chance.randbytes(2 * chance.choice((50, 500, 5_000, 100_000)))
                    data_set = ct_data_set(uid, pixels, study=f"1.2.{seed}.{uids.index(uid) // 10}")
                    self.send(scu, uid, data_set)
        except (Closed, ConnectionError):
            pass
        except (AssertionError, TimeoutError, ProtocolError) as fault:
            self.faults.append(repr(fault))


def indexed(store: Path) -> dict[str, Path] | None:
    """What the index of a store has: the files of objects by SOP Instance UID. None if there is no index."""
    path = store / ".index" / "index.sqlite3"
    if not path.exists():
        return None
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            'SELECT study.directory, series.directory, instance."SOPInstanceUID" FROM instance '
            "JOIN series ON series.id = instance.series_id JOIN study ON study.id = series.study_id"
        ).fetchall()
    return {uid: store / study / series / f"{uid}.dcm" for study, series, uid in rows}


def modification_times(store: Path) -> dict[str, int]:
    """Those that the index of a store has, in nanoseconds."""
    path = store / ".index" / "index.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return dict(connection.execute('SELECT "SOPInstanceUID", mtime_ns FROM instance'))


class Crashes(CasesTestCase):
    def _check(self, server: Twistd, ledger: Ledger) -> None:
        """After the start everything is as it should be."""
        self.assertEqual(list((server.store / ".incoming").iterdir()), [], "half-received objects")
        present: defaultdict[str, set[str]] = defaultdict(set)
        for uid, path in server.objects.items():
            present[uid].add(hashlib.sha256(stored_data_set(path)).hexdigest())
            known = ledger.sent[uid]
            self.assertTrue(present[uid] <= set(known), f"{path} is not what was sent")
            last = ledger.acknowledged[uid][-1:]
            later = known[known.index(last[0]) :] if last else known
            self.assertTrue(present[uid] <= set(later), f"{path} is older than what was acknowledged")
        for path in (server.store / "superseded").rglob("*.dcm"):
            uid = path.stem.rpartition(".")[0]
            digest = hashlib.sha256(stored_data_set(path)).hexdigest()
            self.assertIn(digest, ledger.sent[uid], f"{path} is not what was sent")
            present[uid].add(digest)
        lost = [uid for uid, digests in ledger.acknowledged.items() if not set(digests) <= present[uid]]
        self.assertEqual(lost, [], "acknowledged and not there")
        rows = indexed(server.store)
        if rows is not None:
            self.assertEqual(rows, server.objects, "index and files disagree")
            times = {uid: path.stat().st_mtime_ns for uid, path in server.objects.items()}
            self.assertEqual(modification_times(server.store), times, "the index has other versions")
        self.assertEqual(set(objects_in(server.store)) - set(ledger.sent), set())


class CrashTests(Crashes):
    def test_kill(self) -> None:
        """Each acknowledged object is there whole and indexed, and nothing half-received is left."""
        self._test_kill("strict")

    def test_kill_relaxed(self) -> None:
        """So it is where nothing is forced to stable storage, and the index is not waited for."""
        self._test_kill("relaxed")

    def _test_kill(self, durability: str) -> None:
        ledger = Ledger()
        server = Twistd(self, f"--durability={durability}")
        for number in range(1, KILLS + 1):
            enough = ledger.count + random.Random(number).randint(FEWEST, MOST)
            senders = [
                threading.Thread(target=ledger.ingest, args=(server.address, str(name), number))
                for name in range(SENDERS)
            ]
            for sender in senders:
                sender.start()
            try:
                wait_until(
                    lambda enough=enough: ledger.count >= enough or ledger.faults,  # type: ignore[misc]
                    "objects are acknowledged",
                    60,
                )
            finally:
                server.kill()
                for sender in senders:
                    sender.join(30)
            self.assertFalse(any(sender.is_alive() for sender in senders))
            self.assertEqual(ledger.faults, [])
            server.restart()
            with self.case("kill", number):
                self._check(server, ledger)


class StepTests(Crashes):
    """Killed before a system call, one after the other: `DICOMTW_STEPS` says how many of each kind."""

    CALLS = (
        "openat",
        "writev",
        "fdatasync",
        "/^mkdir(at)?$",
        "/^link(at)?$",
        "/^symlink(at)?$",
        "/^rename(at|at2)?$",
        "fsync",
        "pwrite64",
        "/^unlink(at)?$",
        "sendto",
    )

    def test_strict(self) -> None:
        """Strict: before each step of storing an object, a new version of it, and one in another study."""
        self._test_steps("strict", STEPS)

    def test_relaxed(self) -> None:
        """Relaxed: so it is."""
        self._test_steps("relaxed", (STEPS + 1) // 2)

    def _test_steps(self, durability: str, steps: int) -> None:
        ledger, server = Ledger(), Twistd(self, f"--durability={durability}")
        study = killings = 0
        for call in self.CALLS:
            for number in range(1, steps + 1):
                study += 1
                with injected(server, f"{call}:signal=KILL:when={number}"):
                    self._store(server, ledger, study)
                    # Some of it is done when nobody waits for it any more.
                    killed = self._is_over(server)
                if not killed:
                    break  # none of its threads makes so many
                killings += 1
                server.restart()
                with self.case("killed before", call, number):
                    self.assertEqual(ledger.faults, [])
                    self._check(server, ledger)
        self.assertGreaterEqual(killings, 8)

    def _is_over(self, server: Twistd) -> bool:
        """Whether the server ends within the time that the index may take."""
        try:
            server.wait(0.2)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _store(self, server: Twistd, ledger: Ledger, study: int) -> None:
        uid = f"1.2.{study}.1"
        try:
            with Scu(server.address) as scu:
                scu.associate(CT_IMPLICIT, calling="CRASH")
                for pixels, there in ((1_000, study), (100_000, study), (1_000, study + 10_000)):
                    data_set = ct_data_set(uid, bytes([pixels % 251]) * pixels, study=f"1.2.{there}")
                    ledger.send(scu, uid, data_set)
                scu.release()
        except (Closed, ConnectionError):
            pass
