"""``dicomtw serve``: ``twistd -n dicom`` under another name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.scripts import twistd


def run(options: Sequence[str]) -> int:
    """Run a server in the foreground, without a pid file, until Ctrl-C."""
    sys.argv = ["twistd", "-n", "--pidfile=", "dicom", *options]
    twistd.run()
    return 0
