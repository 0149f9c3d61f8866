"""Queries of an archive, answered by us and by an unmodified Orthanc, in turn, in one run.

Both hold the same objects. Ours come as files, of which the server makes its index; Orthanc's are sent. A
requestor that decodes nothing asks both the same, one after the other: matches are counted and timed.

With ``--copies`` both have so many times as much, in their databases alone (see `benchmarks.copies`):
``--studies 500 --instances 25000 --copies 40`` makes 20000 studies of 10^6 instances in a few minutes.

Usage: python -m benchmarks.query [--studies 1000] [--instances 100000] [--rounds 7] [--json FILE]
       [--copies N] [--directory DIR]  DIR is kept, and what is in it used again in the next run
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from benchmarks import copies, servers, studies
from benchmarks.finder import CHUNK, Finder, Found, identifier
from benchmarks.sender import Sender
from benchmarks.studies import Study

#: What a workstation shows of patients, studies, series and instances; Orthanc's database has all of it.
_STUDY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime AccessionNumber "
    "StudyID StudyDescription ReferringPhysicianName"
)
_COUNTS = "ModalitiesInStudy NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances"
_SERIES = "SeriesInstanceUID Modality SeriesNumber SeriesDescription SeriesDate SeriesTime Manufacturer"
_IMAGE = "SOPInstanceUID InstanceNumber"

#: Associations that fill Orthanc, which serves four at a time.
_ASSOCIATIONS = 4
#: A repetition of a query for little asks for so many different studies, one after the other.
_DIFFERENT = 20
#: Seconds for our server to make its index.
_INDEXING = 600.0
_TITLES = {"dicomtw": "PMOD", "Orthanc": "ORTHANC"}


@attrs.frozen
class Case:
    """Queries that are asked one after the other, and how many matches each has."""

    name: str
    identifiers: tuple[bytes, ...]
    expected: tuple[int, ...]
    relational: bool = False


def cases(made: Sequence[Study]) -> list[Case]:
    """What is measured."""
    some = made[:: max(1, len(made) // _DIFFERENT)][:_DIFFERENT]
    of_patient = [
        sum(other.patient.identifier == study.patient.identifier for other in made) for study in some
    ]
    named = sum("a" in study.patient.name.casefold() for study in made)
    dated = sum(study.date.startswith("2022") for study in made)
    series = [each.series[len(each.series) // 2] for each in some]
    wild_card = _asked("STUDY", _STUDY, PatientName="*A*")
    counted = _asked("STUDY", f"{_STUDY} {_COUNTS}", PatientName="*A*")
    ranged = _asked("STUDY", _STUDY, StudyDate="20220101-20221231")
    everything = _asked("IMAGE", f"{_IMAGE} StudyInstanceUID SeriesInstanceUID")
    return [
        Case("studies, PatientName=*A*", (wild_card,), (named,)),
        Case("  with modalities and counts", (counted,), (named,)),
        Case("studies, StudyDate a year", (ranged,), (dated,)),
        Case(
            "study, StudyInstanceUID",
            tuple(_asked("STUDY", _STUDY, StudyInstanceUID=each.uid) for each in some),
            (1,) * len(some),
        ),
        Case(
            "studies, PatientID",
            tuple(_asked("STUDY", _STUDY, PatientID=each.patient.identifier) for each in some),
            tuple(of_patient),
        ),
        Case(
            "series of a study",
            tuple(_asked("SERIES", _SERIES, StudyInstanceUID=each.uid) for each in some),
            tuple(len(each.series) for each in some),
        ),
        Case(
            "instances of a series",
            tuple(
                _asked("IMAGE", _IMAGE, StudyInstanceUID=study.uid, SeriesInstanceUID=each.uid)
                for study, each in zip(some, series, strict=True)
            ),
            tuple(len(each.instances) for each in series),
        ),
        Case("all instances", (everything,), (sum(map(Study.instance_count, made)),), relational=True),
    ]


def _asked(level: str, universal: str, **keys: str) -> bytes:
    return identifier(level, **{**dict.fromkeys(universal.split(), ""), **keys})


# -- filling both


def write_ours(directory: Path, made: Sequence[Study]) -> float:
    """Write the files of our store; seconds."""
    started = time.monotonic()
    (directory / "store").mkdir(mode=0o700)
    for study in made:
        studies.write(study, directory / "store")
    return time.monotonic() - started


def index_ours(directory: Path, made: Sequence[Study]) -> float:
    """Let a server make the index of its files, unless it has one; seconds."""
    started = time.monotonic()
    anything = identifier("STUDY", StudyInstanceUID=made[0].uid)
    with servers.dicomtw(directory, "--allow-retrieve=any") as server:
        while _ask(server, anything).status != 0:
            if time.monotonic() > started + _INDEXING:
                raise RuntimeError(f"no index after {_INDEXING} s; see {directory}/log")
            time.sleep(0.1)
        return time.monotonic() - started


def fill_orthanc(directory: Path, made: Sequence[Study], seconds: float) -> tuple[int, float]:
    """Send the studies, one after the other until `seconds` have passed; how many were sent, and seconds."""
    waiting, lock = iter(made), threading.Lock()
    sent: list[Study] = []
    faults: list[Exception] = []
    started = time.monotonic()

    def send(port: int) -> None:
        try:
            first, *others = studies.SOP_CLASSES
            sender = Sender(port, 1 << 17, first, others=others)
            while not faults and time.monotonic() < started + seconds:
                with lock:
                    study = next(waiting, None)
                    if study is None:
                        break
                    sent.append(study)
                for series, uid, data_set in study.objects():
                    status = sender.store_small(series.sop_class_uid, uid, data_set)
                    if status != 0:
                        raise RuntimeError(f"Orthanc answered {status:04X}H")
            sender.release()
        except Exception as error:
            faults.append(error)

    with servers.orthanc(directory) as server:
        threads = [threading.Thread(target=send, args=(server.port,)) for _ in range(_ASSOCIATIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for fault in faults:
            raise fault
        return len(sent), time.monotonic() - started


def fill(root: Path, arguments: argparse.Namespace) -> list[Study]:
    """Make both archives below `root`, unless they are there; the studies that are in them."""
    wanted = {"studies": arguments.studies, "instances": arguments.instances, "version": studies.VERSION}
    if arguments.copies > 1:
        wanted["copies"] = arguments.copies
    note = root / "made.json"
    if note.exists() and (there := json.loads(note.read_text()))["wanted"] == wanted:
        made = studies.make(arguments.studies, arguments.instances)[: there["sent"]]
        index_ours(root / "ours", made)
        return copies.copied(made, arguments.copies)
    for part in ("ours", "theirs"):
        shutil.rmtree(root / part, ignore_errors=True)
        (root / part).mkdir()
    made = studies.make(arguments.studies, arguments.instances)
    (root / "theirs" / "store").mkdir()
    sent, seconds = fill_orthanc(root / "theirs", made, arguments.fill_seconds)
    if sent < len(made):
        print(f"only {sent} of {len(made)} studies in {arguments.fill_seconds:.0f} s: both have these alone")
        made = made[:sent]
    count = sum(map(Study.instance_count, made))
    print(f"Orthanc    {count} instances sent in {seconds:.0f} s, {count / seconds:.0f}/s", flush=True)
    written, indexed = write_ours(root / "ours", made), index_ours(root / "ours", made)
    print(
        f"dicomtw    {count} files in {written:.0f} s, index in {indexed:.0f} s, {count / indexed:.0f}/s",
        flush=True,
    )
    if arguments.copies > 1:
        everything = copies.copied(made, arguments.copies)
        copies.into_ours(root / "ours" / "store", everything[len(made) :])
        copies.into_orthanc(root / "theirs" / "store" / "index", arguments.copies)
        made = everything
    note.write_text(json.dumps({"wanted": wanted, "sent": sent}))
    return made


# -- measuring


def _ask(server: servers.Running, asked: bytes, **finder: Any) -> Found:
    (found,) = _ask_all(server, [asked], **finder)
    return found


def _ask_all(server: servers.Running, identifiers: Sequence[bytes], **finder: Any) -> list[Found]:
    finding = Finder(server.port, called=_TITLES[server.name], **finder)
    found = [finding.find(each) for each in identifiers]
    finding.release()
    return found


def _repetition(server: servers.Running, case: Case) -> dict[str, Any]:
    """Ask once; times in seconds, each the mean of the queries asked."""
    cpu, our_cpu = server.cpu_seconds(), time.process_time()
    found = _ask_all(server, case.identifiers, relational=case.relational)
    failed = next((each.status for each in found if each.status != 0), 0)
    if failed:
        raise RuntimeError(f"{server.name} answered {case.name!r} with {failed:04X}H")
    matches = sum(each.matches for each in found)
    seconds = sum(each.seconds for each in found)
    return {
        "first": statistics.mean(each.first for each in found if each.first is not None),
        "seconds": seconds / len(found),
        "rate": matches / seconds,
        "matches": [each.matches for each in found],
        "cpu": (server.cpu_seconds() - cpu) / len(found),
        "requestor_cpu": (time.process_time() - our_cpu) / len(found),
    }


def measure(
    both: Sequence[servers.Running], case: Case, repetitions: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Medians for each server by its name, of repetitions in turn: fewer if they take more than `seconds`."""
    runs: dict[str, list[dict[str, Any]]] = {server.name: [] for server in both}
    started = time.monotonic()
    for number in range(repetitions):
        for server in both if number % 2 == 0 else reversed(both):
            runs[server.name].append(_repetition(server, case))
        if time.monotonic() > started + seconds:
            break
    return {
        name: {
            "repetitions": len(of_server),
            "matches": of_server[0]["matches"],
            "expected": case.expected,
            **{key: statistics.median(run[key] for run in of_server) for key in ("first", "seconds", "rate")},
            # Their clock is coarse.
            **{key: statistics.mean(run[key] for run in of_server) for key in ("cpu", "requestor_cpu")},
            "all_seconds": [run["seconds"] for run in of_server],
        }
        for name, of_server in runs.items()
    }


def memory(server: servers.Running, case: Case, slow: float = 0.0) -> dict[str, Any]:
    """Resident memory in KiB around one query, read at 2 MiB/s for `slow` seconds before the rest of it."""
    (asked,) = case.identifiers
    before = server.resident_kib()
    server.reset_peak()
    finding = Finder(
        server.port,
        called=_TITLES[server.name],
        relational=case.relational,
        receive_buffer=1 << 16 if slow else None,
    )
    until = time.monotonic() + slow

    def step() -> int:
        if time.monotonic() < until:
            time.sleep(0.015)
            return 1 << 15
        return CHUNK

    found = finding.find(asked, before_receiving=step)
    finding.release()
    measured = {"matches": found.matches, "before": before, "peak": server.peak_kib(), "slow": slow}
    time.sleep(1)
    return {**measured, "after": server.resident_kib(), "seconds": found.seconds, "bytes": found.size}


# -- the report


def _lines(case: Case, results: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, result in results.items():
        matches = statistics.mean(result["matches"])
        mark = (
            " " if tuple(result["matches"]) == case.expected else f" of {statistics.mean(case.expected):g}!"
        )
        yield (
            f"{case.name:30} {name:8} {matches:>8g}{mark} {result['first'] * 1000:>9.1f} "
            f"{result['seconds'] * 1000:>9.1f} {result['rate']:>9.0f} {result['cpu'] * 1000:>9.1f} "
            f"{result['repetitions']:>3}"
        )
    ours, theirs = results.values()
    yield (
        f"{'':30} {'ratio':8} {'':>8}  {theirs['first'] / ours['first']:>9.2f} "
        f"{theirs['seconds'] / ours['seconds']:>9.2f} {ours['rate'] / theirs['rate']:>9.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--copies", type=int, default=1, help="of each study, but for the first in databases")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=120.0, help="begin no repetition of a query later")
    parser.add_argument("--fill-seconds", type=float, default=240.0, help="send Orthanc no study later")
    parser.add_argument("--slow-seconds", type=float, default=8.0, help="how long the slow reader is slow")
    parser.add_argument("--directory", type=Path, default=None, help="where the archives are (temporary)")
    parser.add_argument("--json", type=Path, default=None, help="write the results to this file, too")
    arguments = parser.parse_args()
    if not Path(servers.ORTHANC).exists():
        raise SystemExit(f"Orthanc is not installed: no {servers.ORTHANC}")
    if not 0 < 4 * arguments.studies <= arguments.instances:
        raise SystemExit("a study has four instances at least")
    with ExitStack() as stack:
        root = arguments.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.mkdir(parents=True, exist_ok=True)
        made = fill(root, arguments)
        ours = stack.enter_context(servers.dicomtw(root / "ours", "--allow-retrieve=any"))
        theirs = stack.enter_context(servers.orthanc(root / "theirs"))
        results = run((ours, theirs), made, arguments)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1))


def run(
    both: tuple[servers.Running, servers.Running], made: Sequence[Study], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure and print; all there is to know of it."""
    *measured, everything = cases(made)
    if arguments.copies > 1:
        print("all instances are not asked for: Orthanc takes minutes, and a gigabyte")
    else:
        measured.append(everything)
    for server in both:  # what is slow only the first time is not what is measured
        _ask_all(server, [case.identifiers[0] for case in measured if case is not everything])
    memories = (
        {}
        if arguments.copies > 1
        else {
            "dicomtw": memory(both[0], everything),
            "dicomtw, slow reader": memory(both[0], everything, arguments.slow_seconds),
            "Orthanc": memory(both[1], everything),
        }
    )
    instances = sum(map(Study.instance_count, made))
    print(
        f"{instances} instances in {len(made)} studies. Of one query, medians; ratio: how much faster we are"
    )
    print(
        f"{'':30} {'':8} {'matches':>8}  {'first ms':>9} {'all ms':>9} "
        f"{'matches/s':>9} {'CPU ms':>9} {'n':>3}"
    )
    results = {}
    for case in measured:
        results[case.name.strip()] = result = measure(both, case, arguments.rounds, arguments.seconds)
        for line in _lines(case, result):
            print(line, flush=True)
    requestor = max(result["requestor_cpu"] for result in results[measured[-1].name.strip()].values())
    print(f"the requestor itself: {requestor * 1000:.1f} ms CPU for {measured[-1].name}")
    print("load average: {:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg()))
    for name, each in memories.items():
        print(
            f"{name:22} {each['matches']} matches, {each['bytes'] >> 20} MiB in {each['seconds']:.1f} s: "
            f"resident {each['before'] / 1024:.1f} MiB before, {each['peak'] / 1024:.1f} at the peak, "
            f"{each['after'] / 1024:.1f} after"
        )
    return {
        "studies": len(made),
        "instances": instances,
        "load_average": os.getloadavg(),
        "queries": results,
        "memory_kib": memories,
    }


if __name__ == "__main__":
    main()
