"""``dicomtw check``: ``twistd dicom --check`` under another name."""

from __future__ import annotations

from collections.abc import Sequence

from dicomtw.tap import Options


def run(options: Sequence[str]) -> int:
    """Say what the options of a server mean, and what is wrong with them; raises `SystemExit`."""
    Options().parseOptions(["--check", *options])
    return 0
