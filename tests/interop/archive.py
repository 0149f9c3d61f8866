"""Servers that have objects, and other people's programs that query and retrieve these."""

from __future__ import annotations

import atexit
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TypeVar

import attrs
import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.transcode import decode, encode
from tests.interop.files import Source
from tests.interop.forked import run_forked
from tests.interop.peers import run
from tests.interop.scu import CT, Message, Scu
from tests.interop.twistd import Twistd

T = TypeVar("T")

IMPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN
EXPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN

#: The remote that every archive knows.
PEER = "PEER"

UNIQUE_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}

#: Options of the peers' programs for the information models: C-FIND, C-MOVE, C-GET; levels.
MODELS = {
    "-P": (
        (uids.PATIENT_ROOT_FIND, uids.PATIENT_ROOT_MOVE, uids.PATIENT_ROOT_GET),
        ("PATIENT", "STUDY", "SERIES", "IMAGE"),
    ),
    "-S": (
        (uids.STUDY_ROOT_FIND, uids.STUDY_ROOT_MOVE, uids.STUDY_ROOT_GET),
        ("STUDY", "SERIES", "IMAGE"),
    ),
    "-O": (
        (uids.PATIENT_STUDY_ONLY_FIND, uids.PATIENT_STUDY_ONLY_MOVE, uids.PATIENT_STUDY_ONLY_GET),
        ("PATIENT", "STUDY"),
    ),
}


def archive(test: SynchronousTestCase, *options: str, port: int = 104, **more: Any) -> Twistd:
    """A server that knows the remote `PEER`, at `port` of 127.0.0.1."""
    return Twistd(test, f"--remote={PEER}@127.0.0.1:{port}", *options, **more)


class Forever:
    """In the place of a test: what it is to clean up is cleaned up when the process ends."""

    def addCleanup(self, call: Callable[..., object], *arguments: object, **more: object) -> None:
        atexit.register(call, *arguments, **more)


_shared: dict[Callable[[Any], Any], Any] = {}


def shared(test: SynchronousTestCase, make: Callable[[Any], T]) -> T:
    """What tests have together, for it takes long to start: the first one has it made.

    It is a server, or an `Scp`, and judged after each test. Tests leave in a server what is there.
    """
    if make not in _shared:
        _shared[make] = make(Forever())
    made: T = _shared[make]
    for one in made if isinstance(made, tuple) else (made,):
        test.addCleanup(one.check)
    return made


# -- objects


def data_set(**elements: Any) -> Dataset:
    """A data set of these elements by keyword, whatever their values."""
    made = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in elements.items():
            setattr(made, keyword, value)
    return made


def ct(patient: int, study: int = 1, series: int = 1, instance: int = 1, **elements: Any) -> Dataset:
    """A CT image of no size, whose UIDs say where it belongs."""
    study_uid = f"1.2.{patient}.{study}"
    made = data_set(
        SOPClassUID=CT,
        SOPInstanceUID=f"{study_uid}.{series}.{instance}",
        StudyInstanceUID=study_uid,
        SeriesInstanceUID=f"{study_uid}.{series}",
        PatientID=f"P{patient}",
        PatientName=f"Patient^{patient}",
        StudyDate=f"20200{patient}0{study}",
        StudyTime=f"0{study}3000",
        StudyID=f"S{study}",
        AccessionNumber=f"A{patient}.{study}",
        Modality="CT",
        SeriesNumber=series,
        InstanceNumber=instance,
    )
    made.update(data_set(**elements))
    return made


def family(patients: int = 2, studies: int = 2, series: int = 2, instances: int = 2) -> list[Dataset]:
    """So many of each."""
    return [
        ct(i, j, k, m)
        for i in range(1, patients + 1)
        for j in range(1, studies + 1)
        for k in range(1, series + 1)
        for m in range(1, instances + 1)
    ]


def with_family(test: Any) -> Twistd:
    """A server with a `family`, for tests to share."""
    server = archive(test)
    fill(server, family())
    return server


def fill(server: Twistd, objects: Iterable[Dataset], transfer_syntax: str = IMPLICIT) -> None:
    """Store objects of not too many SOP classes."""
    objects = list(objects)
    classes = sorted({str(one.SOPClassUID) for one in objects})
    with Scu(server.address) as scu:
        scu.associate({2 * at + 1: (uid, transfer_syntax) for at, uid in enumerate(classes)}, calling=PEER)
        for one in objects:
            status = scu.store(
                str(one.SOPInstanceUID),
                encode(one, transfer_syntax),
                str(one.SOPClassUID),
                2 * classes.index(str(one.SOPClassUID)) + 1,
            )
            assert status == 0, f"{one.SOPInstanceUID} answered {status:04X}H"
        scu.release()


def fill_with_files(server: Twistd, files: Iterable[Source]) -> None:
    """Store what is in files, byte for byte."""
    files = list(files)
    if not files:
        return
    kinds = sorted({(one.sop_class_uid, one.transfer_syntax_uid) for one in files})
    with Scu(server.address) as scu:
        scu.associate({2 * at + 1: kind for at, kind in enumerate(kinds)}, calling=PEER)
        for one in files:
            context_id = 2 * kinds.index((one.sop_class_uid, one.transfer_syntax_uid)) + 1
            status = scu.store(one.sop_instance_uid, one.data_set, one.sop_class_uid, context_id)
            assert status == 0, f"{one.name} answered {status:04X}H"
        scu.release()


# -- what is asked


def identifier(level: str, **keys: Any) -> Dataset:
    """The identifier of a request; keys by keyword."""
    return data_set(QueryRetrieveLevel=level, **keys)


def matches(responses: Iterable[Message], transfer_syntax: str = IMPLICIT) -> list[Dataset]:
    """The identifiers of pending responses."""
    return [decode(one.data_set, transfer_syntax) for one in responses if one.status in (0xFF00, 0xFF01)]


@contextmanager
def associated(
    server: Twistd, sop_class_uid: str, *sub_items: Any, transfer_syntax: str = IMPLICIT, **more: Any
) -> Iterator[Scu]:
    """A socket SCU in the name of `PEER`, with one context; released in the end."""
    with Scu(server.address, **more) as scu:
        scu.associate({1: (sop_class_uid, transfer_syntax)}, *sub_items, calling=PEER)
        yield scu
        scu.release()


# -- other people's programs


@attrs.frozen
class Peer:
    """Programs of one name and one purpose, which differ in their options: DCMTK's or pynetdicom's."""

    name: str
    program: tuple[str, ...]

    def command(self, tool: str, server: Twistd, model: str, keys: Iterable[str]) -> list[str]:
        """A query or retrieval in the name of `PEER`, without what is done with the results."""
        options = [word for key in keys for word in ("-k", key)]
        return [
            *self.program,
            *(tool, "-v", model, "-aet", PEER, "-aec", "PMOD", *options),
            *("127.0.0.1", str(server.port)),
        ]


DCMTK = Peer("DCMTK", ())
PYNETDICOM = Peer("pynetdicom", ("pynetdicom",))
PEERS = (DCMTK, PYNETDICOM)


def words(identifier: Dataset) -> list[str]:
    """An identifier, as the peers' programs take it: element by element."""
    return list(_words(identifier, ""))


def _words(items: Dataset, path: str) -> Iterator[str]:
    for element in items:
        name = f"{path}{element.keyword}"
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from _words(item, f"{name}[{number}].")
        else:
            values = element.value if element.VM > 1 else [element.value]
            yield f"{name}={chr(92).join(str(value or '') for value in values)}"


def run_each(commands: Sequence[tuple[Sequence[str], Path]]) -> list[CompletedProcess[str]]:
    """Run (program and options, working directory) each, all DCMTK's or all pynetdicom's, two at a time."""
    if all(command[0] == PYNETDICOM.name for command, _ in commands):
        return run_forked([(command[1:], directory) for command, directory in commands])
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda one: run(*one[0], cwd=one[1]), commands))


def run_one(server: Twistd, command: Sequence[str], *options: object) -> CompletedProcess[str]:
    """Run a program of a peer's, in the directory of a server."""
    (ended,) = run_each([([*command, *map(str, options)], server.directory)])
    return ended


def found_by_programs(
    peer: Peer, server: Twistd, queries: Sequence[tuple[str, Dataset]], *options: str
) -> list[tuple[str, list[Dataset]]]:
    """What findscu says, and what it finds, for (model, identifier) each."""
    commands = []
    for model, asked in queries:
        directory = Path(tempfile.mkdtemp(dir=server.directory))
        command = peer.command("findscu", server, model, words(asked))
        commands.append(([*command, *options, "-X" if peer is DCMTK else "-w"], directory))
    finished = run_each(commands)
    return [
        (process.stdout, [pydicom.dcmread(path) for path in sorted(directory.glob("rsp*.dcm"))])
        for process, (_, directory) in zip(finished, commands, strict=True)
    ]


@contextmanager
def pynetdicom_association(
    server: Twistd, sop_class_uid: str, *, relational: bool = False
) -> Iterator[Association]:
    """An association of pynetdicom's in the name of `PEER`, for one SOP class; released in the end."""
    ae = AE(ae_title=PEER)
    ae.add_requested_context(sop_class_uid)
    negotiation = SOPClassExtendedNegotiation()
    negotiation.sop_class_uid = sop_class_uid
    negotiation.service_class_application_information = b"\1"
    ext_neg = [negotiation] if relational else []
    association = ae.associate(*server.address, ae_title="PMOD", ext_neg=ext_neg)
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def of(level: str, found: Iterable[Dataset]) -> list[str]:
    """The unique keys of what was found at a level, sorted."""
    return sorted(str(one[UNIQUE_KEYS[level]].value) for one in found)


def selected(objects: Iterable[Dataset], keys: Mapping[str, str]) -> list[Dataset]:
    """The objects with these values."""
    return [one for one in objects if all(str(one[key].value) == value for key, value in keys.items())]
