"""``python -m fuzz TARGET [--seconds N]``: fuzz one target with atheris, from its corpus."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from fuzz import __doc__ as about

#: What one input may take: seconds, and MiB of the process.
TIMEOUT, MEMORY = 5, 1024
LONGEST = 4096


def main() -> None:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["dicomtw"]):
        targets = importlib.import_module("fuzz.targets")
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=about, epilog="Other options are libFuzzer's."
    )
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--work", type=Path, help="where new inputs and findings are kept (a new directory)")
    options, others = parser.parse_known_args()
    work = options.work or Path(tempfile.mkdtemp(prefix=f"fuzz-{options.target}-"))
    found = work / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    print(f"new inputs and findings: {work}", file=sys.stderr)
    test = targets.TARGETS[options.target]

    def one_input(data: bytes) -> None:
        if data:
            test(data)

    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-timeout={TIMEOUT}",
        f"-rss_limit_mb={MEMORY}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={work}/",
        "-print_final_stats=1",
        *others,
        str(found),
        str(targets.CORPUS / options.target),
    ]
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
