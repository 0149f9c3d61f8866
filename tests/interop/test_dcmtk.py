"""DCMTK against the server: what most senders in hospitals are made of."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import attrs
import pydicom
from pydicom.filereader import read_file_meta_info

from dicomtw import uids
from dicomtw.services import UNCOMPRESSED
from tests.interop.cases import CasesTestCase
from tests.interop.files import Source, sources, stored_data_set
from tests.interop.peers import missing, run
from tests.interop.scu import Closed, Scu
from tests.interop.twistd import Twistd

#: The option of storescu that proposes a transfer syntax (first, where it proposes several).
STORESCU_OPTIONS = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}

#: What DCMTK cannot read and therefore not send, and why.
NOT_FOR_DCMTK = {
    "MR_truncated.dcm": "its pixel data ends before its length",
    "SC_rgb_jpeg.dcm": "it says JPEG Baseline, which is Explicit VR, and is Implicit VR",
    "rtdose_rle.dcm": "its pixel data is native and of odd length, while it says RLE",
    "rtdose_rle_1frame.dcm": "as rtdose_rle.dcm",
    "rtplan_truncated.dcm": "it ends inside a sequence",
}


def senders(transfer_syntax_uid: str) -> list[Source]:
    """What DCMTK can send in a transfer syntax."""
    return [
        source
        for source in sources()
        if source.transfer_syntax_uid == transfer_syntax_uid and source.name not in NOT_FOR_DCMTK
    ]


class EchoTests(CasesTestCase):
    skip = missing("echoscu")

    def test_echo(self) -> None:
        """What echoscu asks is answered, and its line in the log says so."""
        server = Twistd(self)
        peer = run("echoscu", "-v", "-aet", "ROOM1", "-aec", "PMOD", "--repeat", 3, "127.0.0.1", server.port)
        self.assertEqual(peer.returncode, 0, peer.stdout)
        self.assertEqual(peer.stdout.count("Received Echo Response (Success)"), 3)
        (line,) = server.wait_for_summaries(1)
        self.assertIn("'ROOM1' to 'PMOD'", line)
        self.assertIn("3 echoes", line)
        self.assertTrue(line.endswith("released"), line)

    def test_who_may_call(self) -> None:
        """AE titles decide as they are configured: each refusal says which title is wrong, on both sides."""
        called = "Called AE Title Not Recognized"
        calling = "Calling AE Title Not Recognized"
        remote = "--remote=ROOM1@127.0.0.1:104"
        elsewhere = "--remote=ROOM1@192.0.2.7:104,check-host"
        cases = [
            # options of the server, calling, called, what echoscu says if it is refused
            ([], "ROOM1", "OTHER", called),
            ([], "ROOM1", "pmod", called),
            (["--accept-any-called-ae"], "ROOM1", "OTHER", ""),
            (["--known-ae-only"], "ROOM1", "PMOD", calling),
            (["--known-ae-only", remote], "ROOM1", "PMOD", ""),
            ([remote], "ROOM1", "PMOD", ""),
            ([remote], "ROOM2", "PMOD", calling),
            ([remote, "--accept-any-ae"], "ROOM2", "PMOD", ""),
            ([f"{remote},check-host"], "ROOM1", "PMOD", ""),
            (["--remote=ROOM1@localhost:104,check-host"], "ROOM1", "PMOD", ""),
            ([elsewhere], "ROOM1", "PMOD", calling),
            ([elsewhere, "--accept-any-ae"], "ROOM1", "PMOD", calling),
        ]
        servers: dict[tuple[str, ...], Twistd] = {}
        for options, calling_title, called_title, refusal in cases:
            with self.case(options, calling_title, called_title):
                server = servers.get(tuple(options)) or Twistd(self, *options)
                servers[tuple(options)] = server
                before = len(server.summaries)
                peer = run(
                    "echoscu", "-v", "-aet", calling_title, "-aec", called_title, "127.0.0.1", server.port
                )
                self.assertEqual(peer.returncode == 0, not refusal, peer.stdout)
                self.assertIn(refusal, peer.stdout)
                line = server.wait_for_summaries(before + 1)[-1]
                self.assertIn("rejected" if refusal else "released", line)


class AnswerTests(CasesTestCase):
    """What the A-ASSOCIATE-AC holds, as DCMTK prints it."""

    skip = missing("echoscu", "storescu")

    def test_implementation_version_name(self) -> None:
        """The option takes item 55H out of the answer, for all or for one remote, and nothing else."""
        cases: list[tuple[list[str], str, bool]] = [
            ([], "ROOM1", True),
            (["--no-implementation-version-name"], "ROOM1", False),
            (["--remote=ROOM1@127.0.0.1:104,no-version", "--accept-any-ae"], "ROOM1", False),
            (["--remote=ROOM1@127.0.0.1:104,no-version", "--accept-any-ae"], "ROOM2", True),
        ]
        for options, calling, is_sent in cases:
            with self.case(options, calling):
                server = Twistd(self, *options)
                peer = run("echoscu", "-d", "-aet", calling, "-aec", "PMOD", "127.0.0.1", server.port)
                self.assertEqual(peer.returncode, 0, peer.stdout)
                answer = peer.stdout[peer.stdout.index("A-ASSOCIATE-AC") :]
                self.assertRegex(answer, rf"Their Implementation Class UID: +{uids.IMPLEMENTATION_CLASS_UID}")
                name = uids.IMPLEMENTATION_VERSION_NAME if is_sent else ""
                self.assertRegex(answer, rf"Their Implementation Version Name: *{name}\n")

    def test_enforced_default_transfer_syntax(self) -> None:
        """Implicit VR Little Endian is chosen wherever it is offered, and other contexts are refused."""
        ct = str(next(source.path for source in sources() if source.name == "CT_small.dcm"))
        jpeg = str(next(source.path for source in sources() if source.name == "SC_rgb_jpeg_dcmtk.dcm"))
        for option, calling, enforced in [
            ("--accept-any-ae", "ROOM1", False),
            ("--enforce-default-transfer-syntax", "ROOM1", True),
            ("--remote=ROOM1@127.0.0.1:104,default-transfer-syntax", "ROOM1", True),
        ]:
            with self.case(option):
                server = Twistd(self, option)
                address = ("-aet", calling, "-aec", "PMOD", "127.0.0.1", server.port)
                # One context with all uncompressed transfer syntaxes, Explicit VR Little Endian first.
                peer = run("storescu", "-d", "-R", "-xe", "+C", *address, ct)
                self.assertEqual(peer.returncode, 0, peer.stdout)
                chosen = "LittleEndianImplicit" if enforced else "LittleEndianExplicit"
                answer = peer.stdout[peer.stdout.index("A-ASSOCIATE-AC") :]
                self.assertIn(f"Accepted Transfer Syntax: ={chosen}", answer)
                (stored,) = server.objects.values()
                chosen_uid = uids.IMPLICIT_VR_LITTLE_ENDIAN if enforced else uids.EXPLICIT_VR_LITTLE_ENDIAN
                self.assertEqual(read_file_meta_info(stored).TransferSyntaxUID, chosen_uid)
                # A context for JPEG alone (-xy: and one for the rest).
                peer = run("storescu", "-d", "-R", "-xy", *address, jpeg)
                self.assertEqual(peer.returncode == 0, not enforced, peer.stdout)
                self.assertEqual("(Transfer Syntaxes Not Supported)" in peer.stdout, enforced, peer.stdout)
                if enforced:
                    line = server.wait_for_summaries(2)[-1]
                    self.assertIn("Implicit VR Little Endian is enforced and was not proposed", line)


class StoreTests(CasesTestCase):
    """All of pydicom's files, sent by DCMTK."""

    skip = missing("storescu", "dcmsend", "dcmdump")

    def test_storescu(self) -> None:
        """Each file comes in the transfer syntax it has, and what is stored is what was sent."""
        server = Twistd(self)
        sent: list[Source] = []
        for transfer_syntax_uid, option in STORESCU_OPTIONS.items():
            with self.case(transfer_syntax_uid):
                files = senders(transfer_syntax_uid)
                self.assertTrue(files, "pydicom has one")
                sent += files
                peer = run(
                    *("storescu", "-v", "-R", option, "-nh", "-aec", "PMOD", "127.0.0.1", server.port),
                    *(file.path for file in files),
                )
                self.assertEqual(peer.returncode, 0, peer.stdout)
                self.assertEqual(peer.stdout.count("Received Store Response (Success)"), len(files))
                line = server.wait_for_summaries(1 + list(STORESCU_OPTIONS).index(transfer_syntax_uid))[-1]
                self.assertIn(f"; {len(files)} objects, ", line)
        self.assertEqual({source.transfer_syntax_uid for source in sources()}, set(STORESCU_OPTIONS))
        self._check(server, sent)

    def test_directory(self) -> None:
        """A directory tree sent by storescu, and in another association by dcmsend, is there once."""
        ct_tree = next(source.path for source in sources() if "98892001" in source.name).parents[1]
        series = [source for source in sources() if ct_tree in source.path.parents]
        server = Twistd(self)
        address = ("-aec", "PMOD", "127.0.0.1", server.port, ct_tree)
        for number, command in enumerate((("storescu", "-R"), ("dcmsend",)), 1):
            peer = run(*command, "-v", "+sd", "+r", *address)
            self.assertEqual(peer.returncode, 0, peer.stdout)
            self.assertIn(f"; {len(series)} objects, ", server.wait_for_summaries(number)[-1])
        self._check(server, series)

    def test_dcmsend(self) -> None:
        """The program dcmsend proposes what each file needs, for all files in one run."""
        server = Twistd(self)
        sent = [source for source in sources() if source.name not in NOT_FOR_DCMTK and has_preamble(source)]
        peer = run(
            *("dcmsend", "-v", "-dn", "-nh", "-nuc", "-aec", "PMOD", "127.0.0.1", server.port),
            *(source.path for source in sent),
        )
        self.assertEqual(peer.returncode, 0, peer.stdout)
        self.assertEqual(peer.stdout.count("Received C-STORE Response (Success)"), len(sent), peer.stdout)
        # Uncompressed ones it may convert to what was chosen in their one context.
        self._check(server, [*sent, *map(explicit_little_endian, filter(is_uncompressed, sent))])

    def _check(self, server: Twistd, sent: Iterable[Source]) -> None:
        """The store holds what was sent, each as a file that others can read."""
        stored = sorted(server.store.glob("**/*.dcm"))
        self.assertEqual(set(server.objects), {source.sop_instance_uid for source in sent})
        server.wait_until_nothing_comes_in()
        by_uid: dict[str, list[Source]] = {}
        for source in sent:
            by_uid.setdefault(source.sop_instance_uid, []).append(source)
        for path in stored:
            uid = path.stem if path.stem in by_uid else path.stem.rpartition(".")[0]
            with self.case(uid, path):
                check_file_meta(self, path, by_uid[uid], calling=None)
        dump = run("dcmdump", "-q", "+fo", *stored)
        self.assertEqual(dump.returncode, 0, dump.stdout)
        for path in stored:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pydicom.dcmread(path)


class ByteIdentityTests(CasesTestCase):
    """DCMTK may encode lengths anew as it sends; a raw sender sends what is in the file."""

    def test_all_files(self) -> None:
        """What is stored of each file are the bytes of its data set, in its transfer syntax."""
        server = Twistd(self)
        sent: Counter[tuple[str, bytes]] = Counter()
        for transfer_syntax_uid in STORESCU_OPTIONS:
            files = [source for source in sources() if source.transfer_syntax_uid == transfer_syntax_uid]
            classes = sorted({source.sop_class_uid for source in files})
            contexts = {2 * at + 1: (uid, transfer_syntax_uid) for at, uid in enumerate(classes)}
            with Scu(server.address) as scu:
                scu.associate(contexts, calling="RAW")
                for source in files:
                    with self.case(source.name):
                        status = scu.store(
                            source.sop_instance_uid,
                            source.data_set,
                            source.sop_class_uid,
                            2 * classes.index(source.sop_class_uid) + 1,
                        )
                        self.assertEqual(status, 0)
                        sent[source.sop_instance_uid, source.data_set] += 1
                        path = server.objects[source.sop_instance_uid]
                        self.assertEqual(stored_data_set(path), source.data_set)
                        check_file_meta(self, path, [source], calling="RAW")
                scu.release()
        kept = Counter((path.stem, stored_data_set(path)) for path in server.objects.values())
        kept += Counter(
            (path.stem.rpartition(".")[0], stored_data_set(path))
            for path in (server.store / "superseded").rglob("*.dcm")
        )
        self.assertEqual(set(kept), set(sent), "nothing is lost")

    def test_lengths_of_pdus(self) -> None:
        """The bytes are the same whatever PDUs and fragments they come in."""
        server = Twistd(self, "--on-duplicate=refuse")
        source = next(source for source in sources() if source.name == "CT_small.dcm")
        for tool, options in (("storescu", ["-R", "-xe"]), ("dcmsend", [])):
            if missing(tool):
                continue
            for length in (4096, 16384, 131072):
                with self.case(tool, length):
                    peer = run(
                        *(tool, "-v", *options, "--max-send-pdu", length, "-aec", "PMOD"),
                        *("127.0.0.1", server.port, source.path),
                    )
                    # Had a byte been different it would be a duplicate with other content, and refused.
                    self.assertEqual(peer.returncode, 0, peer.stdout)


def is_uncompressed(source: Source) -> bool:
    """Whether DCMTK converts it without a decoder."""
    return source.transfer_syntax_uid in UNCOMPRESSED


def explicit_little_endian(source: Source) -> Source:
    """What it is when it was converted so."""
    return attrs.evolve(source, transfer_syntax_uid=uids.EXPLICIT_VR_LITTLE_ENDIAN)


def has_preamble(source: Source) -> bool:
    """Whether it is a file of PS3.10, which dcmsend insists on."""
    return source.path.read_bytes()[128:132] == b"DICM"


def check_file_meta(test: CasesTestCase, path: Path, candidates: list[Source], calling: str | None) -> None:
    """The File Meta Information is that of one of the sources, and complete (PS3.10 Table 7.1-1)."""
    content = path.read_bytes()
    test.assertEqual(content[:132], bytes(128) + b"DICM")
    meta = read_file_meta_info(path)
    group_length = len(content) - 144 - len(stored_data_set(path))
    test.assertEqual(meta.FileMetaInformationGroupLength, group_length)
    test.assertEqual(meta.FileMetaInformationVersion, b"\x00\x01")
    test.assertEqual(meta.ImplementationClassUID, uids.IMPLEMENTATION_CLASS_UID)
    test.assertEqual(meta.ImplementationVersionName, uids.IMPLEMENTATION_VERSION_NAME)
    test.assertIn(
        (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID),
        [(one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid) for one in candidates],
    )
    test.assertEqual(meta.ReceivingApplicationEntityTitle, "PMOD")
    if calling is not None:
        test.assertEqual(meta.SourceApplicationEntityTitle, calling)
        test.assertEqual(meta.SendingApplicationEntityTitle, calling)


class RefusedTests(CasesTestCase):
    def test_raw_refusals(self) -> None:
        """The A-ASSOCIATE-RJ of a wrong AE title is permanent, by the service-user, with its reason."""
        server = Twistd(self, "--known-ae-only", "--remote=ROOM1@127.0.0.1:104")
        for called, calling, reason in [("OTHER", "ROOM1", 7), ("PMOD", "ROOM2", 3), ("OTHER", "ROOM2", 7)]:
            with self.case(called, calling), Scu(server.address) as scu:
                rejection = scu.associate(called=called, calling=calling)
                self.assertEqual(rejection.encode()[-3:], bytes((1, 1, reason)))  # type: ignore[union-attr]
                scu.close()
        with Scu(server.address) as scu:
            scu.associate(calling="ROOM1")
            self.assertEqual(scu.echo(), 0)
            scu.release()
            self.assertRaises((Closed, OSError), scu.receive)
