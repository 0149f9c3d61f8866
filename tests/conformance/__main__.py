"""``python -m tests.conformance HOST PORT AET``: put the cases to any server, one line for each.

The status is 0 if the server does nothing that a case does not allow. A case that needs something of the
server is not applicable, unless an option says that the server has it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from tests.conformance import runner
from tests.conformance.case import NEEDS, Target


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser("python -m tests.conformance", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("aet", help="the AE title of the server")
    parser.add_argument("--calling", default="CONFORMANCE", help="our AE title")
    parser.add_argument("--json", action="store_true", help="a JSON object in each line")
    parser.add_argument("--only", default="", metavar="ID,ID", help="these cases, such as C01,C05")
    parser.add_argument("--artim", type=float, default=30.0, help="the server's ARTIM time in seconds")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds until no answer is silence")
    parser.add_argument("--recovery", type=float, default=60.0, help="seconds until it must serve again")
    parser.add_argument("--matches", type=int, default=1000, help="objects to store for Q05")
    parser.add_argument(
        "--has", default="", metavar="WHAT,WHAT", help="what else it has: " + ", ".join(NEEDS)
    )
    parser.add_argument("--limit", type=int, default=0, help="how many associations it takes")
    parser.add_argument("--files", type=Path, help="the directory that it keeps objects in")
    parser.add_argument("--pid", type=int, help="its process, here")
    parser.add_argument("--dead", default="", help="an AE title it has a way to, where nobody listens")
    parser.add_argument("--decided", action="store_true", help="hold it to what dicomtw has decided")
    return parser


def main() -> int:
    """Put the cases to a server; returns the exit status."""
    given = arguments().parse_args()
    target = Target(
        host=given.host,
        port=given.port,
        called=given.aet,
        calling=given.calling,
        artim=given.artim,
        patience=given.patience,
        recovery=given.recovery,
        matches=given.matches,
        has=frozenset(filter(None, given.has.split(","))),
        limit=given.limit,
        files=given.files,
        pid=given.pid,
        dead=given.dead,
        decided=given.decided,
    )
    counts: Counter[str] = Counter()
    for result in runner.run(target, runner.cases(filter(None, given.only.split(",")))):
        case = result.case
        counts[result.verdict] += 1
        if given.json:
            said = json.dumps(
                {
                    "id": case.id,
                    "part": case.part,
                    "sends": case.sends,
                    "sees": case.sees,
                    "decided": case.decided,
                    "section": case.section,
                    "verdict": result.verdict,
                    "seen": result.seen,
                }
            )
        else:
            said = f"{case.name:<26} {result.verdict:<15} {result.seen}  [{case.section}]"
        print(said, flush=True)
    total = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    print(total, file=sys.stderr)
    return 1 if counts["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
