"""A few seconds of the soak (benchmarks/soak.py): what it promises however slow the machine is."""

from __future__ import annotations

import json
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import crowd, good, hostile, kept
from benchmarks.vitals import slope
from dicomtw.storage.part10 import FileMeta
from tests.interop.twistd import CHECKOUT, environment, temporary_directory


class JudgingTests(SynchronousTestCase):
    """How the soak judges."""

    def test_slope(self) -> None:
        """Memory that goes up is seen to go up so much, and a peak now and then moves nothing."""
        level = [(float(at), 70.0 + (100.0 if at % 10 == 0 else 0.0)) for at in range(1, 100)]
        rising = [(at, value + 0.5 * at) for at, value in level]
        self.assertEqual(slope(level), 0.0)
        self.assertAlmostEqual(slope(rising), 0.5)
        self.assertEqual(slope(level[:1]), 0.0)

    def test_members(self) -> None:
        """There is one of each kind at least, and the others are by their shares."""
        kinds = (*good.KINDS, *hostile.KINDS)
        for number in (len(kinds), 60, 200, 1000):
            names = crowd.members(kinds, number)
            self.assertEqual(len(names), number)
            self.assertEqual(set(names), {kind.name for kind in kinds})
            self.assertEqual(sorted(names), sorted(sum(crowd.dealt(names, 3), ())))

    def test_objects(self) -> None:
        """An acknowledged object that is not there, and one that is another, are seen."""
        store = temporary_directory(self)
        series = store / "1.2" / "1.2.1"
        series.mkdir(parents=True)
        head = FileMeta("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2").encode()
        for uid in ("1.2.3", "1.2.4"):
            (series / f"{uid}.dcm").write_bytes(head + b"as sent")
        digests = {"1.2.3": b"as sent", "1.2.4": b"as not sent", "1.2.5": b"as sent"}
        stored = {uid: crowd.Stored(uid, "1.2", crowd.digest(data)) for uid, data in digests.items()}
        wrong = ["1.2.4: another data set", "1.2.5: No such file or directory"]
        self.assertEqual(kept.on_disk(store, stored), wrong)


class SoakTests(SynchronousTestCase):
    """Good and hostile peers of a real server, all at once."""

    def test_short(self) -> None:
        """A peer of each kind: no traceback, nothing left open or half received, no object lost."""
        written = temporary_directory(self) / "soak.json"
        options = ("--seconds=4", "--associations=40", "--warm-up=1", "--quiet=1", "--processes=2")
        timers = ("--artim=2", "--dimse=2", "--idle=3", "--leisure=0.5")
        soak = subprocess.run(
            [sys.executable, "-m", "benchmarks.soak", *options, *timers, f"--write={written}"],
            cwd=CHECKOUT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertTrue(written.exists(), soak.stdout)
        said = json.loads(written.read_text("utf-8"))
        certain = [promise for promise in said["promises"] if promise["certain"]]
        broken = [f"{promise['says']}: {promise['figures']}" for promise in certain if not promise["kept"]]
        self.assertEqual(broken, [], soak.stdout)
        self.assertEqual(
            {promise["key"] for promise in certain},
            {"log", "descriptors", "temporary files", "objects", "found", "got", "moved", "end"},
        )
        self.assertEqual([name for name, one in said["kinds"].items() if not one["visits"]], [])
