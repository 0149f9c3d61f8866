"""``python -m dicomtw``: the command ``dicomtw``."""

from __future__ import annotations

import sys

from dicomtw.command import main

if __name__ == "__main__":
    sys.exit(main())
