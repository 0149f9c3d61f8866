"""Our client against the archives and receivers of others, and against our own server."""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import functools
import importlib.util
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from pydicom.dataset import Dataset
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from dicomtw import uids
from dicomtw.client import TLS, Context, associate
from dicomtw.errors import AssociationLost, NotAccepted, NotConnected, OperationFailed, Rejected
from dicomtw.limits import Limits
from dicomtw.scu import SCU, Retrieval
from dicomtw.security.tls import TLSError
from dicomtw.services import UNCOMPRESSED
from dicomtw.services.storage import Storage
from dicomtw.storage.directory import DirectoryStore, Durability
from tests.interop import peers
from tests.interop.cases import CasesTestCase
from tests.interop.certificates import Authority
from tests.interop.files import Source, sources, stored_data_set
from tests.interop.peers import SCP, missing, run
from tests.interop.test_dcmtk import NOT_FOR_DCMTK
from tests.interop.twistd import Twistd, environment, objects_in, temporary_directory
from tests.running import free_ports

#: Files without File Meta Information, no DICOM files by PS3.10; pydicom reads them if it is forced to.
WITHOUT_FILE_META = {"ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm"}

#: What can be asked of an archive.
QUERIES = (uids.VERIFICATION, uids.STUDY_ROOT_FIND, uids.STUDY_ROOT_MOVE)


def files() -> list[Source]:
    """What can be stored from a file, as it is."""
    return [source for source in sources() if source.name not in WITHOUT_FILE_META]


def archived() -> list[Source]:
    """A small archive: CR, CT and MR studies of two patients."""
    of_two = ("dicomdirtests/7", "dicomdirtests/9")
    return [source for source in sources() if source.name.startswith(of_two)]


def named(name: str) -> Source:
    """The source of this name."""
    return next(source for source in sources() if source.name == name)


def contexts(sent: Iterable[Source]) -> list[Context]:
    """A presentation context for each SOP class and transfer syntax."""
    kinds = sorted({(source.sop_class_uid, source.transfer_syntax_uid) for source in sent})
    return [(sop_class_uid, (transfer_syntax_uid,)) for sop_class_uid, transfer_syntax_uid in kinds]


def as_sent(source: Source) -> bytes:
    """Its data set on the wire, padded to an even length (PS3.5 A.5, PS3.8 Annex E)."""
    return source.data_set + bytes(len(source.data_set) % 2)


def rounds(sent: Iterable[Source]) -> Iterator[list[Source]]:
    """The sources in groups without two of one SOP instance, of which archives keep only the last."""
    left = list(sent)
    while left:
        by_uid: dict[str, Source] = {}
        for source in left:
            by_uid.setdefault(source.sop_instance_uid, source)
        yield [*by_uid.values()]
        left = [source for source in left if by_uid[source.sop_instance_uid] is not source]


def read(path: Path) -> Dataset:
    """A file as pydicom reads it, which has something to say about some."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, force=True)


def differences(got: Dataset, sent: Dataset) -> list[str]:
    """Elements whose values are not the same; what archives leave out by right does not count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tags = {tag for tag in {*got.keys(), *sent.keys()} if tag.element != 0 and tag != 0xFFFCFFFC}
        return [str(tag) for tag in sorted(tags) if _value(got, tag) != _value(sent, tag)]


def _value(data_set: Dataset, tag: int) -> object:
    return data_set[tag].value if tag in data_set else None


class ClientTestCase(CasesTestCase, TestCase):
    """Tests that await what the client does; nothing may be left in the reactor after them."""

    timeout = 60

    def receiver(self) -> tuple[Storage, Path]:
        """A service that stores what C-GET brings, and where."""
        directory = temporary_directory(self)
        store = DirectoryStore(directory, Durability.RELAXED)
        store.prepare()
        self.addCleanup(store.close)
        return Storage(store), directory


class RoundTripTests(ClientTestCase):
    """All of pydicom's files, stored and got back by our client."""

    async def _store_and_get(self, peer: str, group: list[Source], window: int = 1) -> dict[str, Path]:
        """What comes back of files that are stored, by SOP Instance UID."""
        service, directory = self.receiver()
        async with associate(peer, contexts=contexts(group), operations_window=window) as scu:
            for result in [scu.c_store(source.path, transcoded=False) for source in group]:
                await result
        # In a study there may be files of an earlier group, too.
        proposed = [uids.STUDY_ROOT_GET, *contexts(files())]
        async with associate(peer, contexts=proposed, services=[service]) as scu:
            for study in sorted({str(read(source.path).StudyInstanceUID) for source in group}):
                retrieval = await scu.c_get({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study})
                self.assertEqual((retrieval.status, retrieval.failed), (0, 0), study)
        return objects_in(directory)

    def _retrievable(self, sent: Iterable[Source]) -> list[Source]:
        """Those that belong to a study: no query reaches others."""
        return [source for source in sent if "StudyInstanceUID" in read(source.path)]

    async def test_own_server(self) -> None:
        """Byte for byte what was in the file comes back, four files at a time on their way there."""
        server = Twistd(self, "--allow-retrieve=any", "--accept-any-ae", "--durability=relaxed")
        count = 0
        for group in rounds(self._retrievable(files())):
            got = await self._store_and_get(f"PMOD@127.0.0.1:{server.port}", group, window=4)
            for source in group:
                with self.case(source.name):
                    path = got[source.sop_instance_uid]
                    self.assertEqual(stored_data_set(path), as_sent(source))
                    self.assertEqual(read(path).file_meta.TransferSyntaxUID, source.transfer_syntax_uid)
                    count += 1
        self.assertGreaterEqual(count, 140)

    async def _through_others(self, peer: SCP, sent: list[Source]) -> int:
        """How many data sets come back byte for byte; the values of the others are the same."""
        same = 0
        for group in rounds(source for source in sent if source.name not in NOT_FOR_DCMTK):
            got = await self._store_and_get(str(peer), group)
            for source in group:
                with self.case(source.name):
                    path = got[source.sop_instance_uid]
                    if stored_data_set(path) == as_sent(source):
                        same += 1
                    else:
                        self.assertEqual(differences(read(path), read(source.path)), [])
        return same

    async def test_dcmqrscp(self) -> None:
        """Of what is uncompressed DCMTK's archive leaves out group lengths, and changes nothing else."""
        if missing("dcmqrscp"):
            self.skipTest(str(missing("dcmqrscp")))
        peer = peers.dcmqrscp(self, {}, "--bit-preserving")
        little_endian = (uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN)
        sent = [source for source in files() if source.transfer_syntax_uid in little_endian]
        self.assertGreater(await self._through_others(peer, self._retrievable(sent)), 60)

    async def test_orthanc(self) -> None:
        """What Orthanc keeps comes back in its transfer syntax, compressed, deflated and Big Endian too."""
        if missing("Orthanc"):
            self.skipTest(str(missing("Orthanc")))
        peer = peers.orthanc(self, {})
        sent = self._retrievable(files())
        self.assertGreater(await self._through_others(peer, sent), 90)


class Archive:
    """What our client does with an archive, whoever has made it. A mixin of `ClientTestCase`."""

    #: Operations that it lets be outstanding at a time, of four.
    window = 1
    #: Whether it matches at the level of the query, as the standard wants it.
    one_match_each = True

    def start(self: Any, destinations: Mapping[str, int]) -> str:
        """Start it, and say how our client addresses it; `destinations` are ports to move to by AE title."""
        raise NotImplementedError

    async def filled(self: Any, destinations: Mapping[str, int]) -> str:
        """Start it and fill it."""
        peer: str = self.start(destinations)
        sent = archived()
        async with associate(peer, contexts=contexts(sent), operations_window=4) as scu:
            self.assertEqual(scu.association.operations_window, self.window)
            for result in [scu.c_store(source.path) for source in sent]:
                await result
        return peer

    async def test_store(self: Any) -> None:
        """C-ECHO is answered, and C-STORE of a file by its path, of an open one, of a member of a ZIP file
        and of a data set: each is there then, as a query for it finds.
        """
        peer = self.start({})
        sent = archived()[:5]
        members = temporary_directory(self) / "members.zip"
        with zipfile.ZipFile(members, "w") as archive:
            archive.write(sent[3].path, "member")
        async with associate(peer, contexts=[*QUERIES, *contexts(sent)]) as scu:
            self.assertEqual((await scu.c_echo()).status, 0)
            with open(sent[2].path, "rb") as file, zipfile.ZipFile(members) as archive:
                for source in (sent[0].path, str(sent[1].path), file, archive.open("member")):
                    self.assertEqual((await scu.c_store(source)).status, 0)
                self.assertFalse(file.closed)
            self.assertEqual((await scu.c_store(read(sent[4].path))).status, 0)
            for source in sent:
                keys = {keyword: str(read(source.path)[keyword].value) for keyword in UNIQUE_KEYS}
                found = await scu.c_find({"QueryRetrieveLevel": "IMAGE", **keys}).all()
                self.assertEqual([match.SOPInstanceUID for match in found], [source.sop_instance_uid])

    async def test_query_and_retrieve(self: Any) -> None:
        """C-FIND finds what pydicom sees in the files; C-MOVE and C-GET of a study bring its objects."""
        received, port = self.destination()
        peer = await self.filled({"DEST": port})
        async with associate(peer, contexts=QUERIES) as scu:
            await self.check_queries(scu)
            await self.check_leaving(scu)
            study, expected = study_of(named("dicomdirtests/98892003/MR1/5641"))
            identifier = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
            progress: list[Retrieval] = []
            moved = await scu.c_move(identifier, "DEST", progress=progress.append)
        self.check_retrieval(moved, progress, expected)
        self.check_objects(received(), expected)
        progress.clear()
        service, directory = self.receiver()
        proposed = [uids.VERIFICATION, uids.STUDY_ROOT_GET, *contexts(expected)]
        async with associate(peer, contexts=proposed, services=[service]) as scu:
            got = await scu.c_get(identifier, progress=progress.append)
            # Again, and it is cancelled at the first word.
            stopped = scu.c_get(identifier, progress=lambda _: stopped.cancel())
            await self.assertFailure(stopped, CancelledError)
            self.assertEqual((await scu.c_echo()).status, 0)
        self.check_retrieval(got, progress, expected)
        self.check_objects(objects_in(directory), expected)

    def destination(self: Any) -> tuple[Callable[[], dict[str, Path]], int]:
        """Where objects can be moved to: what has come there, and its port."""
        if missing("storescp"):
            server = Twistd(self, aet="DEST")
            return lambda: server.objects, server.port
        receiver = peers.storescp(self, "--bit-preserving", "-aet", "DEST")
        return lambda: received_by(receiver), receiver.port

    async def check_queries(self: Any, scu: SCU) -> None:
        """Keys, wild cards and ranges."""
        for keys in QUERY_KEYS:
            with self.case(keys):
                matches = scu.c_find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", **keys})
                found = [str(match.StudyInstanceUID) async for match in matches]
                self.assertEqual(set(found), studies(keys))
                if self.one_match_each:
                    self.assertEqual(len(found), len(set(found)))

    async def check_leaving(self: Any, scu: SCU) -> None:
        """A query that is left early is cancelled, and the association goes on."""
        for _ in range(3):
            everything = scu.c_find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
            async with contextlib.aclosing(everything) as matches:
                async for match in matches:
                    self.assertIn(match.StudyInstanceUID, studies({}))
                    break
            self.assertEqual((await scu.c_echo()).status, 0)
        nothing = scu.c_find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3.4"})
        self.assertIs(await nothing.next(), None)

    def check_retrieval(self: Any, last: Retrieval, pending: list[Retrieval], sent: list[Source]) -> None:
        """All is completed, and what was told on the way counts up to that."""
        self.assertEqual((last.status, last.completed, last.failed), (0, len(sent), 0))
        completed = [one.completed for one in pending]
        self.assertEqual(completed, sorted(completed))
        self.assertTrue(completed, "it tells how far it is")

    def check_objects(self: Any, got: dict[str, Path], sent: list[Source]) -> None:
        """What has come is what was sent."""
        self.assertEqual(set(got), {source.sop_instance_uid for source in sent})
        for source in sent:
            self.assertEqual(differences(read(got[source.sop_instance_uid]), read(source.path)), [])


def received_by(peer: SCP) -> dict[str, Path]:
    """What DCMTK's receiver has, by SOP Instance UID."""
    return {str(read(path).SOPInstanceUID): path for path in peer.directory.glob("*.*.*")}


#: Identify a composite object, with the levels above it.
UNIQUE_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")

#: Queries at the level of studies.
QUERY_KEYS = (
    {},
    {"PatientID": "77654033"},
    {"PatientName": "Doe^Peter"},
    {"PatientName": "Doe^*"},
    {"PatientName": "Doe^?eter"},
    {"PatientName": "Nobody*"},
    {"StudyDate": "20010101"},
    {"StudyDate": "20010101-"},
    {"StudyDate": "19950101-20011231", "PatientID": "7*"},
    {"StudyID": "428"},
)


@functools.cache
def data_sets() -> dict[Source, Dataset]:
    """The archive as pydicom sees it."""
    return {source: read(source.path) for source in archived()}


def studies(keys: Mapping[str, str]) -> set[str]:
    """The Study Instance UIDs of the archive that match."""
    return {
        str(data_set.StudyInstanceUID)
        for data_set in data_sets().values()
        if all(_matches(str(data_set.get(keyword, "")), key) for keyword, key in keys.items())
    }


def _matches(value: str, key: str) -> bool:
    """PS3.4 C.2.2.2, as far as the queries go."""
    first, is_range, last = key.partition("-")
    return first <= value <= (last or "9") if is_range else fnmatch.fnmatchcase(value, key)


def study_of(source: Source) -> tuple[str, list[Source]]:
    """The study that an object of the archive belongs to, and all of it."""
    study = data_sets()[source].StudyInstanceUID
    return str(study), [one for one, other in data_sets().items() if other.StudyInstanceUID == study]


class OwnServerTests(Archive, ClientTestCase):
    """Our own server."""

    window = 4

    def start(self, destinations: Mapping[str, int]) -> str:
        remotes = [f"--remote={aet}@127.0.0.1:{port}" for aet, port in destinations.items()]
        server = Twistd(self, "--allow-retrieve=any", "--accept-any-ae", "--durability=relaxed", *remotes)
        return f"PMOD@127.0.0.1:{server.port}"


class DcmqrscpTests(Archive, ClientTestCase):
    """DCMTK's archive, which moves to our own server."""

    skip = missing("dcmqrscp")

    def start(self, destinations: Mapping[str, int]) -> str:
        return str(peers.dcmqrscp(self, destinations))

    def destination(self) -> tuple[Callable[[], dict[str, Path]], int]:
        server = Twistd(self, aet="DEST")
        return lambda: server.objects, server.port


class OrthancTests(Archive, ClientTestCase):
    """Orthanc."""

    skip = missing("Orthanc")

    def start(self, destinations: Mapping[str, int]) -> str:
        return str(peers.orthanc(self, destinations))


class QrscpTests(Archive, ClientTestCase):
    """The archive of pynetdicom."""

    skip = peers.without_qrscp()
    one_match_each = False  # it tells one for each object

    def start(self, destinations: Mapping[str, int]) -> str:
        return str(peers.qrscp(self, destinations))


class ReceiverTests(ClientTestCase):
    """Programs that only receive."""

    async def store(self, peer: SCP, sent: list[Source]) -> dict[str, Path]:
        """What is there after C-ECHO and C-STORE, all at once, by SOP Instance UID."""
        proposed = [uids.VERIFICATION, *contexts(sent)]
        async with associate(str(peer), contexts=proposed, operations_window=4) as scu:
            self.assertEqual((await scu.c_echo()).status, 0)
            for result in [scu.c_store(source.path, transcoded=False) for source in sent]:
                self.assertEqual((await result).status, 0)
        return received_by(peer)

    async def test_dcmtk(self) -> None:
        """DCMTK's storescp gets the bytes that are in the files: it keeps them, if it is told to."""
        if missing("storescp"):
            self.skipTest(str(missing("storescp")))
        sent = self.of_many_kinds()
        stored = await self.store(peers.storescp(self, "--bit-preserving", "--accept-all"), sent)
        for source in sent:
            with self.case(source.name):
                self.assertEqual(stored_data_set(stored[source.sop_instance_uid]), as_sent(source))

    async def test_pynetdicom(self) -> None:
        """The storescp of pynetdicom has what pydicom encodes of it."""
        sent = self.of_many_kinds()
        stored = await self.store(peers.pynetdicom_storescp(self), sent)
        for source in sent:
            with self.case(source.name):
                got = read(stored[source.sop_instance_uid])
                self.assertEqual(got.file_meta.TransferSyntaxUID, source.transfer_syntax_uid)
                self.assertEqual(differences(got, read(source.path)), [])

    def of_many_kinds(self) -> list[Source]:
        """Files in eleven transfer syntaxes, no two of one SOP instance."""
        sent: dict[str, Source] = {}
        for source in files():
            if source.name not in NOT_FOR_DCMTK and source.transfer_syntax_uid not in {
                one.transfer_syntax_uid for one in sent.values()
            }:
                sent.setdefault(source.sop_instance_uid, source)
        return [*sent.values()]


class TranscodingTests(ClientTestCase):
    """Peers that take only what is uncompressed: DCMTK's receiver, as it is by default."""

    skip = missing("storescp")

    #: The same image in each.
    MR = ("MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm")

    def fallback(self, source: Source, *fallback: str) -> list[Context]:
        """A context for a file as it is, and one to fall back on."""
        own = [(source.sop_class_uid, (source.transfer_syntax_uid,))]
        return [uids.VERIFICATION, *own, (source.sop_class_uid, fallback or UNCOMPRESSED[:2])]

    def only(self, peer: SCP) -> Path:
        """The one object there is."""
        (path,) = peer.directory.glob("*.*.*")
        return path

    async def test_uncompressed(self) -> None:
        """What is uncompressed goes into any other such transfer syntax, and is the same image there."""
        pixels = read(named(self.MR[0]).path).PixelData
        for name in self.MR:
            for syntax in UNCOMPRESSED:
                with self.case(name, syntax):
                    peer = peers.storescp(self, "--bit-preserving")
                    source = named(name)
                    async with associate(str(peer), contexts=[(source.sop_class_uid, (syntax,))]) as scu:
                        self.assertEqual((await scu.c_store(source.path)).status, 0)
                    stored = read(self.only(peer))
                    self.assertEqual(stored.file_meta.TransferSyntaxUID, syntax)
                    if syntax == uids.EXPLICIT_VR_BIG_ENDIAN:
                        self.assertEqual(swapped(stored.PixelData), pixels)
                    else:
                        self.assertEqual(stored.PixelData, pixels)
                    others = differences(stored, read(source.path))
                    self.assertIn(others, ([], ["(7FE0,0010)"]))

    async def test_run_lengths(self) -> None:
        """With NumPy an image in RLE is decompressed; without, it is not accepted, with the reason in one
        line, and the association goes on.
        """
        peer = peers.storescp(self)
        source = named("MR_small_RLE.dcm")
        async with associate(str(peer), contexts=self.fallback(source)) as scu:
            if importlib.util.find_spec("numpy") is not None:
                self.assertEqual((await scu.c_store(source.path)).status, 0)
                pixels = read(named("MR_small.dcm").path).PixelData
                self.assertEqual(read(self.only(peer)).PixelData, pixels)
            else:
                error = await self.assertFailure(scu.c_store(source.path), NotAccepted)
                self.assertEqual(
                    str(error),
                    "no presentation context for MR Image Storage: it is not accepted in RLE Lossless, and "
                    "it cannot be decompressed: NumPy is required when converting pixel data to an ndarray",
                )
            self.assertEqual((await scu.c_echo()).status, 0)

    async def test_as_it_is_or_not_at_all(self) -> None:
        """Who wants nothing transcoded is told what is not accepted: a transfer syntax, a SOP class, or what
        was not proposed.
        """
        peer = peers.storescp(self)
        source, other = named("MR_small_RLE.dcm"), named("CT_small.dcm")
        unknown = ("1.2.3.4", UNCOMPRESSED)
        async with associate(str(peer), contexts=[*self.fallback(source), unknown]) as scu:
            of_unknown = read(other.path)
            of_unknown.SOPClassUID = "1.2.3.4"
            for what, why in (
                (source.path, "MR Image Storage: it is not accepted in RLE Lossless"),
                (other.path, "CT Image Storage: it was not proposed"),
                (of_unknown, "1.2.3.4: the peer has refused it: abstract syntax not supported"),
            ):
                error = await self.assertFailure(scu.c_store(what, transcoded=False), NotAccepted)
                self.assertEqual(str(error), f"no presentation context for {why}")
            self.assertEqual((await scu.c_echo()).status, 0)

    async def test_without_file_meta_information(self) -> None:
        """What pydicom reads only when it is forced to can be stored as pydicom's data set."""
        sent = [source for source in sources() if source.name in WITHOUT_FILE_META]
        for source in sent:
            with self.case(source.name):
                peer = peers.storescp(self)
                async with associate(str(peer), contexts=[(source.sop_class_uid, UNCOMPRESSED[:1])]) as scu:
                    await self.assertFailure(scu.c_store(source.path), ValueError)
                    self.assertEqual((await scu.c_store(read(source.path))).status, 0)
                self.assertEqual(differences(read(self.only(peer)), read(source.path)), [])


def swapped(words: bytes) -> bytes:
    """Words of 16 bits in the other byte order."""
    turned = bytearray(len(words))
    turned[0::2], turned[1::2] = words[1::2], words[0::2]
    return bytes(turned)


class Lost(Protocol):
    """The peer's end of a connection, and when it is over."""

    #: What it sends when it is connected to; and whether it closes the connection then.
    greeting = b""
    closes = False

    def connectionMade(self) -> None:
        self.transport.write(self.greeting)
        if self.closes:
            self.transport.loseConnection()

    def connectionLost(self, reason: object) -> None:
        self.factory.lost.callback(None)


class ErrorTests(ClientTestCase):
    """What goes wrong is an exception with a type of its own, and says in one line what it was."""

    limits = Limits(artim_timeout=0.3, dimse_timeout=0.3)

    async def fails(self, peer: str, kind: type[Exception], *, why: str, **more: Any) -> Exception:
        """No association comes about with `peer`."""
        error = await self.assertFailure(associate(peer, limits=self.limits, **more).asDeferred(), kind)
        self.assertIs(type(error), kind)
        self.assertIn(why, str(error))
        self.assertNotIn("\n", str(error))
        return error

    async def test_nobody(self) -> None:
        """Nobody listens, or there is no such host: `NotConnected`."""
        (port,) = free_ports(1)
        where = f"127.0.0.1:{port}"
        await self.fails(where, NotConnected, why=f"cannot connect to {where}: Connection was refused")
        await self.fails(
            "nowhere.invalid:104", NotConnected, why="cannot connect to nowhere.invalid:104: DNS"
        )

    async def test_retries(self) -> None:
        """It is tried again as often as asked for, and then comes about."""
        (port,) = free_ports(1)
        scu = associate(f"127.0.0.1:{port}", retries=100, retry_delay=0.1, limits=self.limits).asDeferred()
        lost = await self.listen(port=port)
        error = await self.assertFailure(scu, AssociationLost)
        self.assertIn("no answer", str(error))
        await lost

    async def listen(self, *, port: int = 0, **attributes: Any) -> Any:
        """A peer that accepts a connection and speaks no DICOM: fires when the connection is over."""
        factory = Factory.forProtocol(type("Peer", (Lost,), attributes))
        factory.lost = Deferred()
        listening = await TCP4ServerEndpoint(reactor, port, interface="127.0.0.1").listen(factory)
        self.addCleanup(listening.stopListening)
        factory.lost.port = listening.getHost().port
        return factory.lost

    async def test_others(self) -> None:
        """Who is no DICOM peer, or is silent, or does not speak TLS, is given up."""
        ssh = {"greeting": b"SSH-2.0-OpenSSH_9.2\r\n"}
        for attributes, tls, kind, why in (
            ({}, None, AssociationLost, "no answer to the A-ASSOCIATE-RQ within the ARTIM time"),
            ({}, TLS(), AssociationLost, "no answer to the A-ASSOCIATE-RQ within the ARTIM time"),
            ({"closes": True}, None, AssociationLost, "connection closed by the peer"),
            ({"closes": True}, TLS(), NotConnected, "closed in the handshake (does the peer speak TLS?)"),
            (ssh, None, AssociationLost, "unrecognized PDU type 53H"),
            (ssh, TLS(), NotConnected, "wrong version number (the peer does not speak TLS)"),
        ):
            with self.case(attributes, tls):
                lost = await self.listen(**attributes)
                await self.fails(f"localhost:{lost.port}", kind, why=why, tls=tls)
                await lost

    async def test_aborted(self) -> None:
        """A peer that aborts, or is silent, in the middle of an operation ends it with `AssociationLost`."""
        if missing("storescp"):
            self.skipTest(str(missing("storescp")))
        source = named("CT_small.dcm")
        for option, why in (
            (["--abort-after"], "aborted by the peer"),
            (["--abort-during"], "aborted by the peer"),
            (["--sleep-during", "2"], "no response within the DIMSE timeout"),
        ):
            with self.case(*option):
                peer = peers.storescp(self, *option)
                scu = await associate(str(peer), contexts=contexts([source]), limits=self.limits)
                error = await self.assertFailure(scu.c_store(source.path), AssociationLost)
                self.assertIn(why, str(error))
                error = await self.assertFailure(scu.c_store(source.path), AssociationLost)
                self.assertIn(why, str(error))
                peer.running.process.kill()
                await scu.association.over
                await scu.release()  # which there is nothing left to do for

    async def test_no_context(self) -> None:
        """A peer that accepts no context: what is asked for is `NotAccepted`, and the release is in order."""
        if missing("storescp"):
            self.skipTest(str(missing("storescp")))
        async with associate(str(peers.storescp(self)), contexts=[uids.STUDY_ROOT_FIND]) as scu:
            matches = scu.c_find({"QueryRetrieveLevel": "STUDY"})
            error = await self.assertFailure(matches.all(), NotAccepted)
            self.assertIn("the peer has refused it: abstract syntax not supported", str(error))

    async def test_failures(self) -> None:
        """A rejection tells result, source and reason, and whether to come again; an answer of failure is
        `OperationFailed` with its status and comment, and the association goes on.
        """
        server = Twistd(self, "--allow-retrieve=any", "--on-duplicate=refuse")
        why = "RJ(1,1,7) called-AE-title-not-recognized"
        error = await self.fails(f"OTHER@127.0.0.1:{server.port}", Rejected, why=why)
        assert isinstance(error, Rejected)
        self.assertEqual((error.result, error.source, error.reason, error.transient), (1, 1, 7, False))
        source = named("CT_small.dcm")
        changed = read(source.path)
        changed.PatientID = "SOMEBODY^ELSE"
        study = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": str(changed.StudyInstanceUID)}
        proposed = [*QUERIES, *contexts([source])]
        async with associate(f"PMOD@127.0.0.1:{server.port}", contexts=proposed) as scu:
            await scu.c_store(source.path)
            for operation, status, name in (
                (lambda: scu.c_store(changed), 0x0111, "C-STORE"),
                (lambda: scu.c_find({"QueryRetrieveLevel": "HOSPITAL"}).all(), 0xA900, "C-FIND"),
                (lambda: scu.c_move(study, "NOWHERE"), 0xA801, "C-MOVE"),
            ):
                error = await self.assertFailure(operation(), OperationFailed)
                self.assertEqual(error.status, status)
                self.assertTrue(error.comment)
                self.assertEqual(str(error), f"{name} failed with status {status:04X}H: {error.comment}")
            self.assertEqual((await scu.c_echo()).status, 0)


class TLSTests(ClientTestCase):
    """Whose certificate is taken, and what is said of others."""

    def setUp(self) -> None:
        directory = temporary_directory(self)
        (directory / "strangers").mkdir()
        self.authority = Authority(directory)
        self.stranger = Authority(directory / "strangers", "stranger")
        self.server = self.authority.certify("server", 1)
        self.client = self.authority.certify("client", 2)
        self.unknown = self.stranger.certify("client", 2)

    async def check(self, port: int, cases: Iterable[tuple[str, TLS | None, str]]) -> None:
        """Associate with each host: an echo, or `NotConnected` with what it says."""
        for host, tls, why in cases:
            with self.case(host, tls, why):
                requested = associate(f"PMOD@{host}:{port}", tls=tls)
                if why:
                    error = await self.assertFailure(requested.asDeferred(), NotConnected)
                    self.assertIn(why, str(error))
                    self.assertNotIn("\n", str(error))
                else:
                    async with requested as scu:
                        self.assertEqual((await scu.c_echo()).status, 0)

    async def test_server(self) -> None:
        """The certificate is to be of the host that is meant, by an authority that is known."""
        cert, key = self.server
        server = Twistd(self, "--tls", f"--tls-cert={cert}", f"--tls-key={key}")
        ca = self.authority.pem
        by_others = "the certificate is of an issuer who is not among those known"
        await self.check(
            server.port,
            [
                ("localhost", TLS(ca=ca), ""),
                ("127.0.0.1", TLS(ca=ca), "the certificate is not for 127.0.0.1"),
                ("127.0.0.1", TLS(ca=ca, host="localhost"), ""),
                ("localhost", TLS(ca=ca, host="pacs.example.org"), "not for pacs.example.org"),
                ("localhost", TLS(ca=self.stranger.pem), by_others),
                ("localhost", TLS(), by_others),  # by the roots of this machine
                ("localhost", TLS(verify=False), ""),
            ],
        )
        # Without TLS, and as an endpoint of Twisted's.
        where = f"tcp:127.0.0.1:{server.port}"
        async with associate(where, called="PMOD", tls=TLS(ca=ca, host="localhost")) as scu:
            await scu.c_echo()
        error = await self.assertFailure(associate(where, called="PMOD").asDeferred(), AssociationLost)
        self.assertEqual(str(error), "connection closed by the peer")
        self.assertRaises(ValueError, associate, where, tls=TLS(ca=ca))

        async def without_a_file() -> None:
            await associate(where, tls=TLS(ca=ca.parent / "nothing", host="localhost"))

        error = await self.assertFailure(Deferred.fromCoroutine(without_a_file()), TLSError, NotConnected)
        self.assertIn("nothing: No such file or directory", str(error))

    async def test_client(self) -> None:
        """Our certificate is shown to those who want one; what they say of it is told."""
        cert, key = self.server
        ca = self.authority.pem
        server = Twistd(self, "--tls", f"--tls-cert={cert}", f"--tls-key={key}", f"--tls-ca={ca}")
        cases = [
            ("localhost", TLS(ca=ca, cert=self.client[0], key=self.client[1]), ""),
            ("localhost", TLS(ca=ca), "alert certificate required"),
            ("localhost", TLS(ca=ca, cert=self.unknown[0], key=self.unknown[1]), "alert unknown ca"),
        ]
        await self.check(server.port, cases)
        if not missing("storescp"):
            peer = peers.storescp(self, "+tls", key, cert, "+cf", ca)
            await self.check(peer.port, cases)

    async def test_dates(self) -> None:
        """A certificate is not taken before its time and after it."""
        if missing("storescp"):
            self.skipTest(str(missing("storescp")))
        directory = temporary_directory(self)
        for first, last, why in ((-9, -1, "is expired"), (1, 9, "is not valid yet"), (-1, 1, "")):
            cert, key = self_signed(directory, first, last)
            peer = peers.storescp(self, "+tls", key, cert, "-ic")
            await self.check(
                peer.port, [("localhost", TLS(ca=cert), f"the certificate {why}" if why else "")]
            )


def self_signed(directory: Path, first: int, last: int) -> tuple[Path, Path]:
    """A certificate for localhost, valid from one day to another, counted from today; and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today + datetime.timedelta(days=first))
        .not_valid_after(today + datetime.timedelta(days=last))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / f"{first}.pem", directory / f"{first}.key"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


#: With `react` and callbacks, without a coroutine.
CALLBACKS = """
import sys
from twisted.internet.task import react
from dicomtw import uids
from dicomtw.client import associate

def main(reactor, peer, path):
    def associated(scu):
        found = []
        matches = scu.c_find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"})

        def took(match):
            if match is None:
                return scu.release()
            found.append(match)
            return matches.next().addCallback(took)

        stored = scu.c_store(path)
        stored.addCallback(lambda response: print("store", response.status))
        stored.addCallback(lambda _: matches.next()).addCallback(took)
        return stored.addCallback(lambda _: print("found", len(found)))

    associating = associate(peer, contexts=[uids.STUDY_ROOT_FIND, "1.2.840.10008.5.1.4.1.1.2"])
    return associating.asDeferred().addCallback(associated)

react(main, sys.argv[1:])
"""

#: With `react` and a coroutine, on the asyncio reactor.
COROUTINE = """
import sys
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet.task import react
from dicomtw import uids
from dicomtw.client import associate

async def main(reactor, peer, path):
    async with associate(peer, contexts=[uids.STUDY_ROOT_FIND, "1.2.840.10008.5.1.4.1.1.2"]) as scu:
        print("store", (await scu.c_store(path)).status)
        keys = {"QueryRetrieveLevel": "STUDY", "PatientID": "", "StudyInstanceUID": ""}
        async for match in scu.c_find(keys):
            print("found", match.PatientID)

react(main, sys.argv[1:])
"""

#: In a program of asyncio, whose coroutines await Deferreds as Futures.
ASYNCIO = """
import asyncio, sys
from twisted.internet import asyncioreactor

async def main(peer, path):
    loop = asyncio.get_running_loop()
    asyncioreactor.install(loop)
    from twisted.internet import reactor
    from dicomtw.client import associate

    reactor.startRunning(installSignalHandlers=False)
    associating = associate(peer, contexts=["1.2.840.10008.5.1.4.1.1.2"])
    scu = await associating.asDeferred().asFuture(loop)
    response = await scu.c_store(path).asFuture(loop)
    await scu.release().asFuture(loop)
    print("store", response.status)
    reactor.fireSystemEvent("shutdown")

asyncio.run(main(*sys.argv[1:]))
"""


class ProcessTests(ClientTestCase):
    """Programs that use the client, each in a process of its own."""

    def setUp(self) -> None:
        options = ("--allow-retrieve=any", "--accept-any-ae", "--durability=relaxed")
        self.server = Twistd(self, *options)

    def play(self, program: str, *arguments: object) -> str:
        """What a program prints; its first argument is the server."""
        peer = f"PMOD@127.0.0.1:{self.server.port}"
        done = run(
            *(sys.executable, "-W", "error", "-c", textwrap.dedent(program), peer),
            *map(str, arguments),
            env=environment(),
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_reactors(self) -> None:
        """It is used with callbacks and with coroutines, on any reactor, and from asyncio."""
        path = named("CT_small.dcm").path
        with ThreadPoolExecutor(2) as pool:
            said = pool.map(lambda program: self.play(program, path), (COROUTINE, CALLBACKS, ASYNCIO))
        self.assertEqual(list(said), ["store 0\nfound 1CT1\n", "store 0\nfound 0\n", "store 0\n"])

    def test_memory(self) -> None:
        """A process stays small that sends a file of 300 MB, gets it back, and stores many at once."""
        directory = temporary_directory(self)
        large, size = directory / "large.dcm", 300_000_000
        source = named("CT_small.dcm")
        content = source.path.read_bytes()
        pixels = content.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
        with open(large, "wb") as file:
            file.write(content[:pixels] + size.to_bytes(4, "little"))
            file.truncate(file.tell() + size)
        program = """
            import resource, sys
            from pathlib import Path
            from twisted.internet.defer import gatherResults
            from twisted.internet.task import react
            from dicomtw import uids
            from dicomtw.client import associate
            from dicomtw.services.storage import Storage
            from dicomtw.storage.directory import DirectoryStore, Durability

            def peak():
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

            async def main(reactor, peer, of_many, of_one, study, many, large, got):
                store = DirectoryStore(Path(got), Durability.RELAXED)
                store.prepare()
                async with associate(peer, contexts=[of_many, of_one], operations_window=4) as scu:
                    await scu.c_store(many)
                    before = peak()
                    await gatherResults([scu.c_store(many) for _ in range(400)])
                    await scu.c_store(large)
                contexts = [uids.STUDY_ROOT_GET, of_one]
                async with associate(peer, contexts=contexts, services=[Storage(store)]) as scu:
                    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
                    retrieval = await scu.c_get(keys)
                print(retrieval.completed, peak() - before)

            react(main, sys.argv[1:])
            """
        study = str(read(source.path).StudyInstanceUID)
        many = named("examples_overlay.dcm")
        arguments = (many.sop_class_uid, source.sop_class_uid, study, many.path, large, directory / "got")
        completed, kilobytes = map(int, self.play(program, *arguments).split())
        self.assertEqual(completed, 1)
        self.assertLess(kilobytes, 30_000)
        (path,) = objects_in(directory / "got").values()
        self.assertGreater(path.stat().st_size, size)
