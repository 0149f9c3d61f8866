"""A few seconds of the soak (benchmarks/soak.py): what it promises however slow the machine is."""

from __future__ import annotations

import json
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.twistd import CHECKOUT, environment, temporary_directory


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
