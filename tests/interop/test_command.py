"""The command ``dicomtw`` as a process, with the archives of others and our own server."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.filereader import read_file_meta_info
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.services import UNCOMPRESSED
from tests.interop import peers
from tests.interop.cases import CasesTestCase
from tests.interop.files import Source, sources, stored_data_set
from tests.interop.peers import SCP, missing
from tests.interop.twistd import PATIENCE, Twistd, environment, objects_in, temporary_directory, wait_until
from tests.running import Running, free_ports

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SC = "1.2.840.10008.5.1.4.1.1.7"

DICOMTW = (sys.executable, "-m", "dicomtw")


def start(*words: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """The command, started."""
    return subprocess.Popen(
        [*DICOMTW, *map(str, words)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command, when it has ended."""
    with start(*words, cwd=cwd) as process:
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def sound(source: Source) -> bool:
    """Whether a file calls itself by the name that its data set has, and belongs to a study."""
    try:
        meta = read_file_meta_info(source.path)
    except Exception:  # what has none may fail in any way
        return False
    if meta.get("MediaStorageSOPInstanceUID") != source.sop_instance_uid:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return "StudyInstanceUID" in pydicom.dcmread(source.path, stop_before_pixels=True)


def studies() -> list[Source]:
    """Two patients with some studies, uncompressed."""
    beginnings = ("dicomdirtests/77", "dicomdirtests/98")
    return [source for source in sources() if source.name.startswith(beginnings)]


def directory_of(test: SynchronousTestCase, found: Sequence[Source]) -> Path:
    """A directory with these files, and one that is none."""
    directory = temporary_directory(test)
    for number, source in enumerate(found):
        (directory / str(number % 3)).mkdir(exist_ok=True)
        shutil.copy(source.path, directory / str(number % 3) / f"{number}.dcm")
    (directory / "README").write_text("These are images.")
    return directory


def many(test: SynchronousTestCase, count: int) -> Path:
    """A directory with so many CT images, of one study each."""
    directory = temporary_directory(test)
    image = pydicom.dcmread(next(source.path for source in sources() if source.name == "CT_small.dcm"))
    for number in range(count):
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"1.2.3.{number}"
        image.StudyInstanceUID = f"1.2.4.{number}"
        image.save_as(directory / f"{number:04d}.dcm")
    return directory


def received(receiver: SCP) -> list[Path]:
    """What DCMTK's receiver has received."""
    return [path for path in receiver.directory.iterdir() if not path.name.startswith("log-")]


class CommandTestCase(CasesTestCase):
    def expect(self, status: int, *words: object, cwd: Path | None = None) -> str:
        """What the command prints, and complains of where `status`, which it must end with, is not 0."""
        done = run(*words, cwd=cwd)
        self.assertEqual(done.returncode, status, f"{words}: {done.stdout}{done.stderr}")
        self.assertNotIn("Traceback", done.stderr)
        if status == 0:
            self.assertEqual(done.stderr, "")
        else:
            for line in done.stderr.splitlines():
                self.assertTrue(line.startswith("dicomtw: "), line)
        return done.stdout if status == 0 else done.stderr


class DcmqrscpTests(CommandTestCase):
    """DCMTK's archive."""

    skip = missing("dcmqrscp", "storescp")

    def setUp(self) -> None:
        self.destination = peers.storescp(self, "-aet", "DEST", "+B", "+xa")
        self.archive = peers.dcmqrscp(self, {"DEST": self.destination.port})

    def test_echo(self) -> None:
        """The archive is there; one of another name is not, and nobody is where nobody listens."""
        self.assertRegex(
            self.expect(0, "echo", self.archive, "--repeat", 3),
            rf"\A{self.archive} answers 3 times, in [0-9.]+ ms\n",
        )
        self.assertEqual(self.expect(0, "echo", self.archive, "-q"), "")
        self.assertIn(
            "called-AE-title-not-recognized", self.expect(2, "echo", f"OTHER@127.0.0.1:{self.archive.port}")
        )
        (port,) = free_ports(1)
        self.assertIn("Connection refused", self.expect(2, "echo", f"PMOD@127.0.0.1:{port}"))

    def test_round_trip(self) -> None:
        """What is sent is found, moved and got, byte for byte."""
        sent = studies()
        said = self.expect(0, "send", self.archive, directory_of(self, sent))
        self.assertRegex(
            said, rf"\A{len(sent)} objects \([0-9.]+ MB\) sent to {self.archive} in .* s, 1 skipped\n"
        )
        by_study: dict[str, set[str]] = {}
        for source in sent:
            study = str(pydicom.dcmread(source.path, stop_before_pixels=True).StudyInstanceUID)
            by_study.setdefault(study, set()).add(source.sop_instance_uid)
        with self.case("find"):
            found = self.expect(0, "find", self.archive, "-L", "STUDY", "-k", "StudyInstanceUID")
            lines = [json.loads(line) for line in found.splitlines()]
            self.assertEqual({line["StudyInstanceUID"] for line in lines}, set(by_study))
        study, instances = max(by_study.items(), key=lambda item: len(item[1]))
        with self.case("move"):
            said = self.expect(0, "move", self.archive, "--to", "DEST", "-k", f"StudyInstanceUID={study}")
            self.assertEqual(said, f"{len(instances)} objects sent from {self.archive} to DEST\n")
            moved = [path for path in self.destination.directory.iterdir() if path.name.startswith("CT.")]
            moved = [
                path for path in self.destination.directory.iterdir() if not path.name.startswith("log-")
            ]
            self.assertEqual(len(moved), len(instances))
        with self.case("get"):
            directory = temporary_directory(self) / "got"
            said = self.expect(0, "get", self.archive, "-k", f"StudyInstanceUID={study}", "-o", directory)
            self.assertEqual(said, f"{len(instances)} objects from {self.archive} in {directory}\n")
            self.assertEqual(set(objects_in(directory)), instances)

    def test_find(self) -> None:
        """Keys match as they should, in each of the forms."""
        self.expect(0, "send", self.archive, directory_of(self, studies()))
        keys = ("-L", "PATIENT", "-k", "PatientName=Doe^A*", "-k", "PatientID")
        with self.case("csv"):
            rows = [*csv.reader(io.StringIO(self.expect(0, "find", self.archive, *keys, "--format", "csv")))]
            self.assertEqual(rows, [["PatientName", "PatientID"], ["Doe^Archibald", "77654033"]])
        with self.case("table"):
            table = self.expect(0, "find", self.archive, *keys, "--format", "table")
            self.assertEqual(
                table, "PatientName    PatientID\n-------------  ---------\nDoe^Archibald  77654033\n"
            )
        with self.case("dicom-json"):
            model = json.loads(self.expect(0, "find", self.archive, *keys, "--format", "dicom-json"))
            self.assertEqual(model["00100020"]["Value"], ["77654033"])
        with self.case("nothing"):
            self.assertEqual(self.expect(0, "find", self.archive, "-k", "PatientID=NOBODY"), "")

    def test_failures(self) -> None:
        """What the archive answers with a failure is one line, and exit status 3."""
        sent = studies()[0]
        self.expect(0, "send", self.archive, sent.path)
        uid = pydicom.dcmread(sent.path, stop_before_pixels=True).StudyInstanceUID
        wanted = ("-k", f"StudyInstanceUID={uid}")
        self.assertIn(
            "C-MOVE failed with status A801H", self.expect(3, "move", self.archive, "--to", "X", *wanted)
        )
        self.assertIn("say what is wanted", self.expect(1, "move", self.archive, "--to", "DEST"))

    def test_reader_is_gone(self) -> None:
        """Who closes the pipe gets no complaint."""
        self.expect(0, "send", self.archive, directory_of(self, studies()))
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as nobody:
            done = subprocess.run(
                [*DICOMTW, "find", str(self.archive)],
                stdout=nobody,
                stderr=subprocess.PIPE,
                env=environment(),
                check=False,
                timeout=60,
            )
        self.assertEqual((done.returncode, done.stderr), (141, b""))


class StorescpTests(CommandTestCase):
    """DCMTK's receiver."""

    skip = missing("storescp")

    def test_uncompressed(self) -> None:
        """For a receiver that takes Implicit VR alone what can be converted is, and --as-is leaves it."""
        receiver = peers.storescp(self, "+xi")
        directory = directory_of(
            self, [source for source in studies() if source.transfer_syntax_uid in UNCOMPRESSED]
        )
        count = len([*directory.glob("*/*.dcm")])
        self.expect(0, "send", receiver, directory)
        stored = received(receiver)
        self.assertEqual(len(stored), count)
        for path in stored:
            self.assertEqual(read_file_meta_info(path).TransferSyntaxUID, uids.IMPLICIT_VR_LITTLE_ENDIAN)
        said = self.expect(3, "send", receiver, directory, "--as-is")
        self.assertIn("no presentation context for", said)
        self.assertIn("further failures are counted only", said)

    def test_interrupted(self) -> None:
        """After Ctrl-C the journal has what has arrived, and --resume sends the rest alone."""
        receiver = peers.storescp(self, "+B")
        directory, state = many(self, 400), temporary_directory(self)
        words = ("send", receiver, directory, "--resume", "--window", 2)
        journal = state / ".dicomtw-journal"
        with start(*words, cwd=state) as process:
            wait_until(
                lambda: journal.exists() and journal.read_bytes().count(b"\n") > 20, "some have arrived"
            )
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        self.assertEqual((process.returncode, err), (130, ""))
        before = journal.read_text().count("\n")
        self.assertLess(before, 400)
        self.assertRegex(out, rf"\A{before} objects .*, {400 - before} not sent\n")
        said = self.expect(0, *words, cwd=state)
        self.assertRegex(said, rf"\A{400 - before} objects .*, {before} had arrived before\n")
        self.assertEqual(journal.read_text().count("\n"), 400)
        self.assertIn("0 objects", self.expect(0, *words, cwd=state))

    def test_association_ends(self) -> None:
        """A receiver that aborts each association does not keep the command for ever."""
        receiver = peers.storescp(self, "--abort-after")
        said = self.expect(3, "send", receiver, many(self, 3))
        self.assertEqual(said.count("aborted by the peer"), 3)


class OwnServerTests(CommandTestCase):
    """Our own server, and nobody else's program."""

    def server(self, *options: str) -> tuple[Twistd, str]:
        """A server that answers everybody's queries, and PEER for it."""
        server = Twistd(self, "--allow-retrieve=any", "--accept-any-ae", *options)
        return server, f"PMOD@127.0.0.1:{server.port}"

    def test_transfer_syntaxes(self) -> None:
        """A file of each transfer syntax is sent as it is, byte for byte, and comes back so."""
        usual = [source for source in sources() if source.sop_class_uid in (CT, MR, SC) and sound(source)]
        by_syntax = {source.transfer_syntax_uid: source for source in usual}
        sent = {source.sop_instance_uid: source for source in by_syntax.values()}
        _, peer = self.server("--durability=relaxed")
        self.expect(0, "send", peer, *(source.path for source in sent.values()), "--jobs", 2)
        found = self.expect(0, "find", peer, "-k", "StudyInstanceUID")
        wanted = "\\".join(json.loads(line)["StudyInstanceUID"] for line in found.splitlines())
        directory = temporary_directory(self) / "got"
        said = self.expect(0, "get", peer, "-k", f"StudyInstanceUID={wanted}", "-o", directory)
        self.assertEqual(said, f"{len(sent)} objects from {peer} in {directory}\n")
        self.assertGreater(len(sent), 8)
        for uid, path in objects_in(directory).items():
            with self.case(sent[uid].name):
                self.assertEqual(read_file_meta_info(path).TransferSyntaxUID, sent[uid].transfer_syntax_uid)
                expected = sent[uid].data_set + b"\0" * (len(sent[uid].data_set) % 2)  # as PS3.5 A.5 has it
                self.assertTrue(stored_data_set(path) == expected, "the bytes are the same")

    def test_move(self) -> None:
        """A server sends to another one, which may be named by a configuration, and counts."""
        other = Twistd(self, "--accept-any-ae", aet="OTHER")
        server, peer = self.server(f"--remote=OTHER@127.0.0.1:{other.port}")
        self.expect(0, "send", peer, directory_of(self, studies()))
        uid = str(pydicom.dcmread(studies()[0].path, stop_before_pixels=True).PatientID)
        config = server.directory / "peers.toml"
        config.write_text(f'[[remote]]\naet = "PMOD"\nhost = "127.0.0.1"\nport = {server.port}\n')
        said = self.expect(
            0,
            "move",
            "PMOD",
            f"--config={config}",
            "--to",
            "OTHER",
            "-L",
            "PATIENT",
            "-k",
            f"PatientID={uid}",
        )
        self.assertEqual(said, f"{len(other.objects)} objects sent from {peer} to OTHER\n")
        self.assertGreater(len(other.objects), 0)

    def test_move_interrupted(self) -> None:
        """Ctrl-C ends a retrieval at the server, too."""
        if missing("storescp"):
            self.skipTest("not installed: storescp")
        slow = peers.storescp(self, "-aet", "SLOW", "--sleep-after", 1)
        server, peer = self.server(f"--remote=SLOW@127.0.0.1:{slow.port}")
        sent = studies()
        self.expect(0, "send", peer, directory_of(self, sent))
        uid = str(pydicom.dcmread(sent[0].path, stop_before_pixels=True).PatientID)
        wanted = ("-L", "PATIENT", "-k", f"PatientID={uid}")
        with start("move", peer, "--to", "SLOW", *wanted) as process:
            wait_until(
                lambda: "Store Request" in slow.running.log or process.poll() is not None,
                f"the first object, of {server.log}",
                PATIENCE,
            )
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        self.assertEqual((process.returncode, out, err), (130, "", ""))
        ended = server.wait_for_log("aborted by the peer")
        self.assertIn("'DICOMTW' to 'PMOD'", ended)

    def test_reindex(self) -> None:
        """A store can be reindexed while its server runs, which then finds what was put there by hand."""
        server, peer = self.server()
        self.expect(0, "send", peer, directory_of(self, studies()))
        stored = dict(server.objects)
        gone = next(iter(stored.values()))
        gone.unlink()
        said = self.expect(0, "reindex", server.store)
        self.assertIn(f"objects: {len(stored) - 1}, 1 removed\n", said)
        patients = self.expect(0, "find", peer, "-L", "PATIENT", "-k", "NumberOfPatientRelatedInstances")
        counts = [json.loads(line)["NumberOfPatientRelatedInstances"] for line in patients.splitlines()]
        self.assertEqual(sum(counts), len(stored) - 1)

    def test_tls(self) -> None:
        """A server with a certificate of its own is known by it; who has it not does not talk to it."""
        server, peer = self.server("-tls")
        cert = server.store / ".state" / "tls" / "cert.pem"
        peer = peer.replace("127.0.0.1", "localhost")
        self.assertIn("answers", self.expect(0, "echo", peer, "-tls", "--tls-ca", cert))
        self.assertIn("answers", self.expect(0, "echo", peer, "-tls", "--tls-no-verify"))
        self.assertIn("self-signed", self.expect(2, "echo", peer, "-tls"))
        self.expect(2, "echo", peer)

    def test_serve(self) -> None:
        """``dicomtw serve`` is a server that ends in order at Ctrl-C, and leaves no pid file."""
        directory = temporary_directory(self)
        (port,) = free_ports(1)
        command = [*DICOMTW, "serve", "--interface=127.0.0.1", f"--port={port}", "--aet=PMOD"]
        running = Running(self, command, directory, environment())
        running.wait_for("associations are accepted from")
        self.expect(0, "echo", f"PMOD@127.0.0.1:{port}")
        running.process.send_signal(signal.SIGINT)
        self.assertEqual(running.stop(), 0, running.log)
        self.assertIn("Server Shut Down", running.log)
        self.assertFalse((directory / "twistd.pid").exists())

    def test_check(self) -> None:
        """``dicomtw check`` says what the options mean, and status 1 if they cannot be."""
        done = run("check", "--port=4030", "--aet=PMOD")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("AE title PMOD on tcp:4030", done.stdout)
        self.assertEqual(run("check", "--port=none").returncode, 1)
        self.assertEqual(run("serve", "--port=none").returncode, 1)
