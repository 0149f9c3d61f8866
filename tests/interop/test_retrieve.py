"""C-GET and C-MOVE with the programs of DCMTK and pynetdicom, and with all that pydicom has files of."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pydicom
from pydicom.dataset import Dataset

from dicomtw import uids
from dicomtw.dimse.messages import C_GET_RQ, C_MOVE_RQ
from dicomtw.services import UNCOMPRESSED
from dicomtw.transcode import decode, encode
from dicomtw.ul.items import RoleSelection, SOPClassExtendedNegotiation
from tests.interop.archive import (
    DCMTK,
    IMPLICIT,
    MODELS,
    PEER,
    PEERS,
    PYNETDICOM,
    UNIQUE_KEYS,
    archive,
    associated,
    family,
    fill,
    fill_with_files,
    identifier,
    run_each,
    run_one,
    selected,
    shared,
    words,
)
from tests.interop.cases import CasesTestCase
from tests.interop.files import Source, sources, stored_data_set
from tests.interop.peers import missing, storescp
from tests.interop.scp import Manners, Scp
from tests.interop.scu import Message, Scu
from tests.interop.test_dcmtk import STORESCU_OPTIONS
from tests.interop.twistd import Twistd
from tests.running import free_ports

#: The options of getscu that have it prefer a transfer syntax: storescu's, with another sign.
GETSCU_OPTIONS = {uid: f"+{option[1:]}" for uid, option in STORESCU_OPTIONS.items()}


def retrievals(objects: Sequence[Dataset]) -> list[tuple[str, Dataset, list[str]]]:
    """For each model and level: what to ask for, and the instances that it should bring."""
    one = objects[5]
    asked = []
    for model, (_, levels) in MODELS.items():
        for depth, level in enumerate(levels, 1):
            keys = {UNIQUE_KEYS[each]: str(one[UNIQUE_KEYS[each]].value) for each in levels[:depth]}
            expected = sorted(str(each.SOPInstanceUID) for each in selected(objects, keys))
            asked.append((model, identifier(level, **keys), expected))
    return asked


def received_in(directory: Path) -> list[str]:
    """SOP Instance UIDs of the files there, sorted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = [path for path in directory.iterdir() if path.is_file()]
        return sorted(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files)


def with_destination(test: Any) -> tuple[Twistd, Scp]:
    """A server with a family, and its remote DEST."""
    destination = Scp(test)
    server = archive(test, f"--remote=DEST@127.0.0.1:{destination.port}")
    fill(server, family())
    return server, destination


class LevelTests(CasesTestCase):
    """Every level of every information model."""

    skip = missing("getscu", "movescu")

    def test_get(self) -> None:
        """The getscu of both peers brings what is below the entity that is asked for."""
        server, _ = shared(self, with_destination)
        objects = family()
        asked = retrievals(objects)
        for peer in PEERS:
            commands = []
            for model, query, _ in asked:
                directory = Path(tempfile.mkdtemp(dir=server.directory))
                command = peer.command("getscu", server, model, words(query))
                commands.append(([*command, "-od", str(directory)], directory))
            for (model, query, expected), (_, directory), ended in zip(
                asked, commands, run_each(commands), strict=True
            ):
                with self.case(peer.name, model, query.QueryRetrieveLevel):
                    self.assertEqual(ended.returncode, 0, ended.stdout)
                    self.assertEqual(received_in(directory), expected, ended.stdout)
                    # DCMTK sets out what the last response says, pynetdicom keeps it in a line.
                    completed = f"Completed Suboperations : {len(expected)}\n"
                    if peer is PYNETDICOM:
                        completed = f"Remaining: 0, Completed: {len(expected)}, Failed: 0, Warning: 0"
                    self.assertIn(completed, ended.stdout)

    def test_move(self) -> None:
        """The movescu of both peers has it sent to another, in one association each."""
        server, destination = shared(self, with_destination)
        objects = family()
        for peer in PEERS:
            for model, query, expected in retrievals(objects):
                with self.case(peer.name, model, query.QueryRetrieveLevel):
                    destination.start_over(Manners())
                    command = peer.command("movescu", server, model, words(query))
                    ended = run_one(server, command, "-aem", "DEST")
                    self.assertEqual(ended.returncode, 0, ended.stdout)
                    self.assertEqual(sorted(destination.sop_instance_uids), expected)
                    self.assertIn("(Success)", ended.stdout)
                    self.assertEqual(ended.stdout.count("(Pending)"), len(expected) - 1)
                    (request,) = destination.requests
                    titles = request.calling_ae_title.strip(), request.called_ae_title.strip()
                    self.assertEqual(titles, ("PMOD", "DEST"))
                    originators = {
                        (
                            one.command.move_originator_application_entity_title,
                            one.command.move_originator_message_id,
                        )
                        for one in destination.received
                    }
                    self.assertEqual(originators, {(PEER, 1)})

    def test_move_to_oneself(self) -> None:
        """The movescu of both peers is its own destination."""
        (port,) = free_ports(1)
        server = archive(self, port=port)
        objects = family(1)
        fill(server, objects)
        model, query, expected = retrievals(objects)[0]
        for peer, options in (
            (DCMTK, ("+P", port)),
            (PYNETDICOM, ("--store", "--store-port", port, "--store-aet", PEER)),
        ):
            with self.case(peer.name):
                directory = Path(tempfile.mkdtemp(dir=server.directory))
                command = peer.command("movescu", server, model, words(query))
                ended = run_one(server, command, "-aem", PEER, "-od", directory, *options)
                self.assertIn("(Success)", ended.stdout)
                self.assertEqual(received_in(directory), expected, ended.stdout)

    def test_relational(self) -> None:
        """Levels above need not be named where that was agreed on: so pynetdicom's programs have it."""
        server, destination = shared(self, with_destination)
        destination.start_over(Manners())
        query = identifier("IMAGE", SOPInstanceUID=["1.2.1.1.1.1", "1.2.2.1.1.2"])
        commands = []
        for tool in ("movescu", "getscu"):
            for options in ([], ["--relational-retrieval"]):
                directory = Path(tempfile.mkdtemp(dir=server.directory))
                where = ["-aem", "DEST"] if tool == "movescu" else ["-od", str(directory)]
                command = PYNETDICOM.command(tool, server, "-S", words(query))
                commands.append(([*command, *where, *options], directory))
        refused_move, move, refused_get, get = run_each(commands)
        for refused in (refused_move, refused_get):
            self.assertIn("0xA900", refused.stdout)
        for done in (move, get):
            self.assertIn("Remaining: 0, Completed: 2, Failed: 0, Warning: 0", done.stdout)
        self.assertEqual(destination.sop_instance_uids, ["1.2.1.1.1.1", "1.2.2.1.1.2"])
        self.assertEqual(received_in(commands[3][1]), ["1.2.1.1.1.1", "1.2.2.1.1.2"])


def latest(files: Iterable[Source]) -> dict[str, Source]:
    """By SOP Instance UID what is there when all have been stored: the last of those with the same UID."""
    return {one.sop_instance_uid: one for one in files}


@attrs.frozen
class Storescp:
    """DCMTK's storescp, for tests to share."""

    port: int
    directory: Path

    def check(self) -> None:
        """It does not tell."""


def with_all_files(test: Any) -> tuple[Twistd, Storescp, Scp]:
    """A server with all of pydicom's files, and its remotes STORESCP, DCMTK's, and DEST."""
    started, scp = storescp(test, "+B", "+xa", "-aet", "STORESCP"), Scp(test)
    server = archive(
        test, f"--remote=STORESCP@127.0.0.1:{started.port}", f"--remote=DEST@127.0.0.1:{scp.port}"
    )
    for transfer_syntax_uid in STORESCU_OPTIONS:
        files = latest(sources()).values()
        fill_with_files(server, [one for one in files if one.transfer_syntax_uid == transfer_syntax_uid])
    return server, Storescp(started.port, started.directory), scp


class FileTests(CasesTestCase):
    """All of pydicom's files, byte for byte."""

    skip = missing("getscu", "movescu", "storescp")

    def setUp(self) -> None:
        self.stored = latest(sources())
        self.kinds = sorted({(one.sop_class_uid, one.transfer_syntax_uid) for one in self.stored.values()})
        self.server, self.storescp, self.scp = shared(self, with_all_files)

    def test_get(self) -> None:
        """C-GET of all of them at once, and with getscu of each transfer syntax: the bytes stored."""
        server = self.server
        with self.case("socket"), Scu(server.address) as scu:
            roles = [
                RoleSelection(uid, scu_role=False, scp_role=True)
                for uid in sorted({k[0] for k in self.kinds})
            ]
            relational = SOPClassExtendedNegotiation(uids.STUDY_ROOT_GET, b"\1")
            contexts = {1: (uids.STUDY_ROOT_GET, IMPLICIT)}
            contexts |= {2 * at + 3: kind for at, kind in enumerate(self.kinds)}
            scu.associate(contexts, *roles, relational, calling=PEER)
            received: dict[str, Message] = {}

            def take(one: Message) -> int:
                received[str(one.command.affected_sop_instance_uid)] = one
                return 0

            scu.ask(C_GET_RQ, encode(identifier("IMAGE", SOPInstanceUID=list(self.stored)), IMPLICIT))
            *pending, final = scu.responses(take)
            self.assertEqual((final.status, final.counters), (0, (None, len(self.stored), 0, 0)))
            self.assertEqual(len(pending), len(self.stored) - 1)
            self.assertEqual(set(received), set(self.stored))
            for uid, one in received.items():
                with self.case(self.stored[uid].name):
                    self.assertTrue(one.data_set == padded(self.stored[uid]))
                    kind = contexts[one.context_id]
                    self.assertEqual(kind[1], self.stored[uid].transfer_syntax_uid)
            scu.release()
        commands, expected = [], []
        for files in one_transfer_syntax_each(self.stored.values()):
            if files[0].transfer_syntax_uid == IMPLICIT:
                continue  # the option of getscu for it proposes Explicit VR
            output = Path(tempfile.mkdtemp(dir=server.directory))
            first = files[0]
            query = identifier("STUDY", StudyInstanceUID=sorted({study_of(one) for one in files}))
            command = DCMTK.command("getscu", server, "-S", words(query))
            option = GETSCU_OPTIONS[first.transfer_syntax_uid]
            commands.append(([*command, "+B", "-od", str(output), option], output))
            expected.append(files)
        for files, (_, output), ended in zip(expected, commands, run_each(commands), strict=True):
            with self.case("getscu", files[0].transfer_syntax_uid):
                self.assertEqual(ended.returncode, 0, ended.stdout)
                got = sorted(stored_data_set(path) for path in output.iterdir())
                self.assertEqual(len(got), len(files), ended.stdout)
                self.assertTrue(got == sorted(map(padded, files)), [one.name for one in files])

    def test_move(self) -> None:
        """C-MOVE of all of them, in one association to storescp, which writes the bytes stored."""
        server, scp = self.server, self.storescp
        files = [one for one in self.stored.values() if in_a_study(one)]
        studies = sorted({study_of(one) for one in files})
        query = identifier("STUDY", StudyInstanceUID=studies)
        command = DCMTK.command("movescu", server, "-S", words(query))
        ended = run_one(server, command, "-aem", "STORESCP")
        self.assertIn("Received Final Move Response (Success)", ended.stdout)
        self.assertEqual(ended.stdout.count("(Pending)"), len(files) - 1)
        server.wait_for_log(f"{len(files)} objects sent")
        data_sets = {stored_data_set(path) for path in scp.directory.iterdir() if path.name[:3] != "log"}
        self.assertEqual([one.name for one in files if padded(one) not in data_sets], [])

    def test_other_transfer_syntaxes(self) -> None:
        """Who takes nothing but Implicit VR gets in that what is not compressed, and is told of the rest."""
        manners = Manners(accepts=lambda context: IMPLICIT if IMPLICIT in context.transfer_syntaxes else None)
        server, scp = self.server, self.scp
        scp.start_over(manners)
        files = {uid: one for uid, one in self.stored.items() if in_a_study(one)}
        query = identifier("STUDY", StudyInstanceUID=sorted({study_of(one) for one in files.values()}))
        with associated(server, uids.STUDY_ROOT_MOVE) as scu:
            scu.ask(C_MOVE_RQ, encode(query, IMPLICIT), move_destination="DEST")
            final = scu.responses()[-1]
        received = {str(one.command.affected_sop_instance_uid): one for one in scp.received}
        failed = set(decode(final.data_set, IMPLICIT).FailedSOPInstanceUIDList)
        self.assertEqual((final.status, final.counters), (0xB000, (None, len(received), len(failed), 0)))
        self.assertEqual(failed | set(received), set(files))
        for uid, one in files.items():
            with self.case(one.name):
                if one.transfer_syntax_uid in (*UNCOMPRESSED, uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN):
                    self.assertIn(uid, received)
                if uid not in received:
                    continue
                if one.transfer_syntax_uid == IMPLICIT:
                    self.assertEqual(received[uid].data_set, padded(one))
                if one.transfer_syntax_uid in UNCOMPRESSED:
                    self._compare(decode(received[uid].data_set, IMPLICIT), read(one))

    def _compare(self, found: Dataset, original: Dataset) -> None:
        """All that the dictionary knows, apart from group lengths, has its value."""
        for element in original:
            if element.tag.is_private or element.tag.element == 0:
                continue
            value = element.value
            if element.VR == "OW" and not original.original_encoding[1]:
                value = bytes(byte for at in range(0, len(value), 2) for byte in reversed(value[at : at + 2]))
            self.assertEqual(found[element.tag].value, value, element.keyword)


def read(one: Source) -> Dataset:
    """A file as pydicom reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(one.path, force=True)


@cache
def place(path: Path) -> tuple[str, str]:
    """Study and Series Instance UID in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    return str(found.get("StudyInstanceUID", "")), str(found.get("SeriesInstanceUID", ""))


def study_of(one: Source) -> str:
    return place(one.path)[0]


def in_a_study(one: Source) -> bool:
    """Whether it can be asked for level by level: it says what study and series it is in."""
    return all(place(one.path))


def one_transfer_syntax_each(files: Iterable[Source]) -> list[list[Source]]:
    """Those in studies that have one transfer syntax, by that."""
    studies: dict[str, list[Source]] = {}
    for one in filter(in_a_study, files):
        studies.setdefault(study_of(one), []).append(one)
    groups: dict[str, list[Source]] = {}
    for members in studies.values():
        if len({each.transfer_syntax_uid for each in members}) == 1:
            groups.setdefault(members[0].transfer_syntax_uid, []).extend(members)
    return list(groups.values())


def padded(one: Source) -> bytes:
    """Its data set as it is sent: fragments have even length (PS3.8 Annex E), and DCMTK insists on that."""
    return one.data_set + b"\0" * (len(one.data_set) % 2)
