"""Our client against our server, through memory: each operation, its faults, and its end."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from OpenSSL import SSL
from pydicom import dcmread
from pydicom.dataset import Dataset
from twisted.internet import defer
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError as RefusedError
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.error import UserError
from twisted.internet.interfaces import (
    IOpenSSLServerConnectionCreator,
    IReactorPluggableNameResolver,
    IReactorTime,
)
from twisted.logger import capturedLogs
from twisted.protocols import tls as tls_of_twisted
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from dicomtw import uids
from dicomtw.client import TLS, associate, storage_contexts
from dicomtw.dimse import status
from dicomtw.dimse.messages import Command
from dicomtw.errors import (
    AssociationLost,
    DimseError,
    NotAccepted,
    NotConnected,
    OperationFailed,
    Rejected,
    UnreadableDataSet,
)
from dicomtw.feed import Disk
from dicomtw.limits import Limits
from dicomtw.outbox import BLOCK
from dicomtw.requestor import Proposal
from dicomtw.scu import SCU, Retrieval
from dicomtw.security.certificate import sha256_of
from dicomtw.security.profiles import PROFILES
from dicomtw.security.remote import Remote
from dicomtw.security.tls import TLSError, TLSFiles, server_context
from dicomtw.services import MemorySink, Operation, Response, ServiceClass
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.storage import DataSetSink
from dicomtw.storage.part10 import FileMeta
from dicomtw.testing import MemoryReactor, MemoryServer, MemoryStore, at_once
from dicomtw.transcode import decode, encode
from dicomtw.ul.items import ImplementationVersionName
from dicomtw.ul.negotiation import Offer
from tests.security.identities import Identity, crl, identity
from tests.test_association import Held

IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
EVR = uids.EXPLICIT_VR_LITTLE_ENDIAN
BIG = uids.EXPLICIT_VR_BIG_ENDIAN
JPEG = "1.2.840.10008.1.2.4.50"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
FIND, MOVE, GET = uids.STUDY_ROOT_FIND, uids.STUDY_ROOT_MOVE, uids.STUDY_ROOT_GET
THIRD_PARTY = "1.3.6.1.4.1.99999.1"
#: What is no data set.
GARBAGE = b"\xff" * 9


def data_set(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def image(uid: str = "1.2.3", length: int = 100, sop_class_uid: str = CT) -> Dataset:
    """An object with so many bytes of pixels."""
    made = data_set(SOPClassUID=sop_class_uid, SOPInstanceUID=uid, PatientName="Doe^John", BitsAllocated=16)
    made.add_new(0x7FE00010, "OW", bytes(range(256)) * (length // 256) + bytes(range(length % 256)))
    return made


class Service(ServiceClass):
    """Answers what the test has put into it, and remembers what it was asked."""

    abstract_syntaxes = (FIND, MOVE, GET, THIRD_PARTY)

    def __init__(self) -> None:
        self.asked: list[tuple[Command, Dataset]] = []
        self.responses: list[Response] = [Response(0)]
        #: Instead of those, for what has many.
        self.generate: Callable[[Operation], AsyncGenerator[Response, None]] | None = None

    def offer(self, abstract_syntax: str) -> Offer:
        return Offer((IVR,), extended_negotiation=lambda asked: asked[:1])

    def _asked(self, operation: Operation) -> None:
        self.asked.append((operation.request, decode(operation.data_set, operation.context.transfer_syntax)))

    async def perform(self, operation: Operation) -> Response:
        self._asked(operation)
        return self.responses[0]

    async def many(self, operation: Operation) -> AsyncGenerator[Response, None]:
        self._asked(operation)
        if self.generate is None:
            for response in self.responses:
                yield response
            return
        async with aclosing(self.generate(operation)) as responses:
            async for response in responses:
                yield response

    c_find = c_move = c_get = many
    n_event_report = n_get = n_set = n_action = n_create = n_delete = perform


class ClientTestCase(SynchronousTestCase):
    CONTEXTS = (uids.VERIFICATION, (CT, (EVR,)), (CT, (IVR,)), FIND, MOVE, GET, THIRD_PARTY)

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.service = Service()
        self.serve(Verification(), Storage(self.store), self.service)

    def serve(self, *services: ServiceClass, contexts: Any = CONTEXTS, **options: Any) -> SCU:
        """A server with these services, and an association with it."""
        self.server = MemoryServer.of(*services)
        self.scu = self.server.associate(contexts, **options)
        return self.scu

    def result(self, deferred: Deferred[Any]) -> Any:
        """What comes of it, when time passes."""
        self.server.clock.advance(0)
        return self.successResultOf(deferred)

    def run_(self, coroutine: Any) -> Any:
        return self.result(Deferred.fromCoroutine(coroutine))

    def assert_fault(self, deferred: Deferred[Any], kind: type[Exception], words: str) -> Any:
        """It comes to this fault, which says this."""
        self.server.clock.advance(0)
        failure = self.failureResultOf(deferred, kind)
        self.assertEqual(failure.getErrorMessage(), words)
        return failure.value

    def assert_alive(self) -> None:
        self.assertEqual(self.result(self.scu.c_echo()).status, 0)

    def assert_released(self) -> None:
        """The association is released in order, and nothing is left of it."""
        self.assertIsNone(self.result(self.scu.release()))
        self.assertEqual(self.scu.association.ended, "released")
        self.assertEqual(self.server.clock.getDelayedCalls(), [])
        self.assertEqual(self.server.factory.connections, {})


class EchoTests(ClientTestCase):
    def test_echo(self) -> None:
        """C-ECHO is answered with its status."""
        self.assertEqual(self.result(self.scu.c_echo()), Response(0))
        self.assert_released()

    def test_failure(self) -> None:
        """A status of failure raises, with status and comment for machines and men."""

        class Refusing(Verification):
            async def c_echo(self, operation: Operation) -> int:
                raise DimseError(0x0124, "not for you")

        self.serve(Refusing())
        fault = self.assert_fault(
            self.scu.c_echo(), OperationFailed, "C-ECHO failed with status 0124H: not for you"
        )
        self.assertEqual((fault.status, fault.comment), (0x0124, "not for you"))
        self.assertEqual(str(OperationFailed("C-ECHO", 0xA)), "C-ECHO failed with status 000AH")

    def test_aborted(self) -> None:
        """Who waits when the association is aborted hears by whom, and who asks later, too."""
        for end, words in (
            (lambda: self.scu.abort(), "aborted by us: the SCU has ended it"),
            (lambda: self.server.factory.abort("the server stops"), "aborted by the peer"),
        ):
            self.serve(Held(self.store), contexts=self.CONTEXTS)
            stored = self.scu.c_store(image())
            self.server.clock.advance(0)
            end()
            self.assert_fault(stored, AssociationLost, words)
            self.assert_fault(self.scu.c_store(image()), AssociationLost, words)
            self.assertIsNone(self.result(self.scu.release()))
            self.server.clock.advance(100)
            self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_timeout(self) -> None:
        """What takes too long can be given up as any Deferred, and the association goes on."""
        held = Held(self.store)
        self.serve(Verification(), held)
        stored = self.scu.c_store(image()).addTimeout(5, self.server.clock)
        self.server.clock.advance(0)
        self.server.clock.advance(5)
        self.failureResultOf(stored, defer.TimeoutError)
        held.let(*held.begun)
        self.assert_alive()
        self.assert_released()


class NotAcceptedTests(ClientTestCase):
    def test_words(self) -> None:
        """Who has no presentation context hears which side it was that did not have it, and why."""
        self.serve(
            Verification(),
            Storage(self.store),
            contexts=[(CT, (IVR,)), FIND, (MR, ("1.2.3",))],
            services=[],
        )
        about = "no presentation context for "
        for deferred, words in (
            (self.scu.c_echo(), "Verification SOP Class: it was not proposed"),
            (
                self.scu.c_find({}).next(),
                f"{uids.name_of(FIND)}: the peer has refused it: abstract syntax not supported",
            ),
            (self.scu.c_move({}, "WS"), f"{uids.name_of(MOVE)}: it was not proposed"),
            (
                self.scu.c_store(image(sop_class_uid=MR)),
                "MR Image Storage: the peer has refused it: transfer syntaxes not supported",
            ),
            (
                self.scu.c_store(image(), transcoded=False),
                "CT Image Storage: it is not accepted in Explicit VR Little Endian",
            ),
            (self.scu.n_get(THIRD_PARTY, "1.2"), f"{THIRD_PARTY}: it was not proposed"),
        ):
            self.assert_fault(deferred, NotAccepted, about + words)

    def test_role(self) -> None:
        """Where a peer takes us for the SCP of a SOP class, and not for its SCU, we cannot store it."""

        class Sending(Storage):
            def offer(self, abstract_syntax: str) -> Offer:
                return Offer(self.transfer_syntaxes, scu_role=False, scp_role=True)

        self.serve(Sending(self.store), contexts=[CT], services=[Storage(MemoryStore())])
        self.assert_fault(
            self.scu.c_store(image()),
            NotAccepted,
            "no presentation context for CT Image Storage: by the roles agreed on we are not its SCU",
        )


class StoreTests(ClientTestCase):
    def file(self, uid: str = "1.2.3", transfer_syntax: str = EVR, length: int = 100) -> Path:
        """A file with an object."""
        meta = FileMeta(CT, uid, transfer_syntax).encode()
        path = Path(self.mktemp())
        path.write_bytes(meta + encode(image(uid, length), transfer_syntax))
        return path

    def content(self, path: Path) -> bytes:
        """The data set in a file, as it is."""
        data = path.read_bytes()
        return data[len(FileMeta(CT, "1.2.3", EVR).encode()) :]

    def stored(self, source: Any, **options: Any) -> tuple[str, bytes]:
        """Store it; in which transfer syntax it came, and what."""
        self.assertEqual(self.result(self.scu.c_store(source, **options)), Response(0))
        meta, content = self.store.objects.pop("1.2.3")
        return meta.transfer_syntax_uid, content

    def test_path(self) -> None:
        """A file, by its path, is stored byte for byte, in its transfer syntax."""
        for length in (100, 1 << 18, 1 << 20):
            path = self.file(length=length)
            for source in (path, str(path)):
                self.assertEqual(self.stored(source), (EVR, self.content(path)))
        self.assertEqual(self.scu.association.objects_sent, 6)
        self.assert_released()

    def test_symbolic_link(self) -> None:
        """A symbolic link is stored as what it leads to, for many keep their objects behind such."""
        path, link = self.file().resolve(), Path(self.mktemp())
        link.symlink_to(path)
        self.assertEqual(self.stored(link), (EVR, self.content(path)))

    def test_open_file(self) -> None:
        """A file that is open is stored from its beginning, and stays open and the caller's."""
        path = self.file(length=1 << 20)
        with path.open("rb") as file:
            dcmread(file)
            self.assertEqual(self.stored(file), (EVR, self.content(path)))
            self.assertFalse(file.closed)
            self.assertTrue(file.read(0) == b"")

    def test_what_is_like_a_file(self) -> None:
        """So is what only reads like one: memory, or a member of an archive."""
        path = self.file()
        compressed = io.BytesIO(gzip.compress(path.read_bytes()))
        memory = io.BytesIO(path.read_bytes())
        memory.seek(0, os.SEEK_END)
        for file in (memory, gzip.GzipFile(fileobj=compressed), Stream(path.read_bytes())):
            self.assertEqual(self.stored(file), (EVR, self.content(path)))

    def test_data_set(self) -> None:
        """A pydicom.Dataset is stored in its transfer syntax, explicit little endian if it has none."""
        for transfer_syntax in (EVR, IVR, None):
            source = image()
            if transfer_syntax is not None:
                source.file_meta = data_set(TransferSyntaxUID=transfer_syntax)
            found, content = self.stored(source)
            self.assertEqual(found, transfer_syntax or EVR)
            self.assertEqual(decode(content, found), image())

    def test_transcoded(self) -> None:
        """What is not accepted as it is, is stored in what is accepted, if that is wanted."""
        path = self.file(transfer_syntax=BIG)
        about = image()
        about.file_meta = data_set(TransferSyntaxUID=uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
        with path.open("rb") as file:
            file.read(10)
            for source in (path, str(path), file, io.BytesIO(path.read_bytes()), about):
                found, content = self.stored(source)
                self.assertEqual(found, EVR)
                self.assertEqual(decode(content, found).PatientName, "Doe^John")
                for kept in (path, file):
                    words = "no presentation context for CT Image Storage: it is not accepted in "
                    fault = self.scu.c_store(kept, transcoded=False)
                    self.assert_fault(fault, NotAccepted, words + uids.name_of(BIG))

    def test_cannot_be_transcoded(self) -> None:
        """What cannot be decompressed is not stored, and why is said."""
        path = Path(self.mktemp())
        path.write_bytes(FileMeta(CT, "1.2.3", JPEG).encode() + encode(image(), EVR))
        self.server.clock.advance(0)
        failure = self.failureResultOf(self.scu.c_store(path), NotAccepted)
        said = failure.getErrorMessage()
        about = (
            "no presentation context for CT Image Storage: it is not accepted in JPEG Baseline (Process 1)"
        )
        self.assertTrue(said.startswith(about + ", and it cannot be decompressed: "), said)
        self.assertEqual(said.splitlines(), [said])
        self.assert_alive()

    def test_faults(self) -> None:
        """What is no DICOM file, cannot be read or has no names is refused before anything is sent."""
        garbage = Path(self.mktemp())
        garbage.write_bytes(b"garbage")
        for source, kind in (
            (garbage, ValueError),
            (io.BytesIO(b"garbage"), ValueError),
            (Path("absent"), OSError),
            ("absent", OSError),
            (data_set(PatientName="Doe"), ValueError),
        ):
            self.server.clock.advance(0)
            self.failureResultOf(self.scu.c_store(source), kind)
        with garbage.open("rb") as file:
            self.failureResultOf(self.scu.c_store(file), ValueError)
        self.assertFalse(self.scu.association.waits_for_response)
        self.assert_alive()

    def test_descriptors(self) -> None:
        """Whatever becomes of it, no file is left open."""
        path = self.file(length=1 << 20)
        before = os.listdir("/proc/self/fd")
        self.stored(path)
        with path.open("rb") as file:
            self.stored(file)
            self.stored(io.BytesIO(path.read_bytes()))
            self.failureResultOf(self.scu.c_store(io.BytesIO(b"garbage")), ValueError)
        other = self.file(transfer_syntax=BIG)
        self.stored(other)
        self.assert_fault(
            self.scu.c_store(other, transcoded=False),
            NotAccepted,
            "no presentation context for CT Image Storage: it is not accepted in Explicit VR Big Endian",
        )
        self.server.connections[0][1].slow = True
        cancelled = self.scu.c_store(path)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_given_up_while_it_is_opened(self) -> None:
        """Nor of one that is given up while a thread opens it."""
        path = self.file(length=1 << 20)
        before = os.listdir("/proc/self/fd")
        threads: list[tuple[Callable[[bool, Any], None], Callable[[], Any]]] = []
        self.patch(
            self.server.clock,
            "callInThreadWithCallback",
            lambda over, function: threads.append((over, function)),
        )
        stored = self.scu.c_store(path)
        stored.cancel()
        self.failureResultOf(stored, CancelledError)
        ((over, function),) = threads
        over(True, function())
        self.assertEqual(os.listdir("/proc/self/fd"), before)
        self.assertFalse(self.scu.association.waits_for_response)

    def test_many_at_once(self) -> None:
        """Of any number that are asked for at once, one more is open than can be under way."""
        path = self.file(length=1 << 20)
        held = Held(self.store)
        self.serve(held, operations_window=4)
        before = len(os.listdir("/proc/self/fd"))
        stored = [self.scu.c_store(path) for _ in range(20)]
        self.server.clock.advance(0)
        # Those under way have been read to their ends, and the next one not.
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 1)
        self.scu.abort()
        for one in stored:
            self.failureResultOf(one, AssociationLost)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_contexts(self) -> None:
        """The contexts that files need: their transfer syntaxes one by one, and for each SOP class the rest
        of what is to fall back on.
        """
        explicit, big = str(self.file()), self.file(transfer_syntax=BIG)
        link = Path(self.mktemp())
        link.symlink_to(big.resolve())
        other = Path(self.mktemp())
        meta = FileMeta(MR, "1.2.4", JPEG).encode()
        other.write_bytes(meta + encode(image(sop_class_uid=MR), EVR))
        self.assertEqual(
            storage_contexts([explicit, big, other, link]),
            [(CT, (EVR,)), (CT, (BIG,)), (CT, (IVR,)), (MR, (JPEG,)), (MR, (EVR, IVR))],
        )
        self.assertEqual(storage_contexts([]), [])
        self.assertRaises(FileNotFoundError, storage_contexts, ["absent"])

    def test_answers(self) -> None:
        """A warning is the response's status, a failure raises what the peer said."""

        class Answering(Storage):
            outcome: int | DimseError = 0xB000

            async def c_store(self, operation: Operation) -> int:
                if isinstance(self.outcome, DimseError):
                    raise self.outcome
                return self.outcome

        answering = Answering(self.store)
        self.serve(answering)
        self.assertEqual(self.result(self.scu.c_store(image())), Response(0xB000))
        answering.outcome = DimseError(0xA700, "No space left on device")
        words = "C-STORE failed with status A700H: No space left on device"
        self.assert_fault(self.scu.c_store(image()), OperationFailed, words)
        self.assertEqual(self.scu.association.objects_sent, 2)

    def test_window(self) -> None:
        """With a window of four as many stores are under way at once, and the next begins as one is over."""
        held = Held(self.store)
        self.serve(held, operations_window=4)
        stored = [self.scu.c_store(image(f"1.2.{number}", 1 << 19)) for number in range(1, 7)]
        self.server.clock.advance(0)
        self.assertEqual(held.begun, [1, 2, 3, 4])
        held.let(3)
        self.server.clock.advance(0)
        self.assertEqual(self.successResultOf(stored[2]), Response(0))
        self.assertEqual(held.begun, [1, 2, 3, 4, 5])
        for number in (5, 1, 2, 4):
            held.let(number)
            self.server.clock.advance(0)
        held.let(6)
        for one in (*stored[:2], *stored[3:]):
            self.assertEqual(self.result(one), Response(0))
        self.assertEqual(len(self.store.objects), 6)
        self.assert_released()

    def test_release(self) -> None:
        """A release waits for what is under way."""
        held = Held(self.store)
        self.serve(held, operations_window=4)
        stored = [self.scu.c_store(image(f"1.2.{number}", 1 << 19)) for number in range(1, 3)]
        released = self.scu.release()
        self.server.clock.advance(0)
        self.assertNoResult(released)
        held.let(1, 2)
        for one in stored:
            self.assertEqual(self.result(one), Response(0))
        self.assertIsNone(self.successResultOf(released))

    def test_slow_peer(self) -> None:
        """A peer that takes no bytes is sent no more than two blocks, however large the object is."""
        path = self.file(length=1 << 23)
        client, server = self.server.connections[0]
        server.slow = True
        stored = self.scu.c_store(path)
        for _ in range(30):
            self.server.clock.advance(1)
        self.assertLess(client.peak, 2 * BLOCK)
        server.slow = False
        self.assertEqual(self.result(stored), Response(0))
        self.assertEqual(self.store.objects["1.2.3"][1], self.content(path))
        self.assertLess(client.peak, 2 * BLOCK)

    def test_cut_short(self) -> None:
        """A file that becomes shorter while it is sent is not stored: the association is aborted."""
        path = self.file(length=4 * BLOCK)
        self.server.connections[0][1].slow = True
        stored = self.scu.c_store(path)
        os.truncate(path, 2 * BLOCK)
        self.server.connections[0][1].slow = False
        self.server.clock.advance(0)
        self.failureResultOf(stored, OSError)
        self.assertIn("a data set was not sent to its end", self.scu.association.ended)
        self.assertEqual((self.store.objects, self.store.discarded), ({}, 1))


class Stream:
    """What can be read once."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def seekable(self) -> bool:
        return False

    def read(self, length: int = -1) -> bytes:
        return self._data.read(length)


def match(number: int, code: int = status.PENDING, length: int = 0) -> Response:
    """A match."""
    found = data_set(StudyInstanceUID=f"1.2.{number}", PatientComments="x" * length)
    return Response(code, encode(found, IVR))


class FindTests(ClientTestCase):
    def find(self, identifier: Any = None, **options: Any) -> Any:
        return self.scu.c_find({} if identifier is None else identifier, **options)

    def uids_of(self, matches: list[Dataset]) -> list[str]:
        return [found.StudyInstanceUID for found in matches]

    def test_all(self) -> None:
        """What matches is found, one by one or all together, and the query is over."""
        self.service.responses = [match(1), match(2)]

        async def iterate() -> list[Dataset]:
            return [found async for found in self.find()]

        expected = ["1.2.1", "1.2.2"]
        self.assertEqual(self.uids_of(self.run_(iterate())), expected)
        self.assertEqual(self.uids_of(self.result(self.find().all())), expected)
        matches = self.find()
        found = [self.result(matches.next()) for _ in range(4)]
        self.assertEqual((self.uids_of(found[:2]), found[2:]), (expected, [None, None]))
        self.assertFalse(matches.unsupported_keys)
        self.assert_released()

    def test_nothing(self) -> None:
        """A query that nothing matches has no match, and is closed without a word."""
        matches = self.find()
        self.assertEqual(self.result(matches.all()), [])
        self.run_(matches.aclose())
        self.assertEqual(len(self.service.asked), 1)

    def test_lazy(self) -> None:
        """A query that nobody asks anything of is not begun, nor when it is closed."""
        self.run_(self.find().aclose())
        self.assertEqual(self.service.asked, [])
        matches = self.find()
        self.run_(matches.aclose())
        self.assertIsNone(self.result(matches.next()))

    def test_identifier(self) -> None:
        """An identifier is a pydicom.Dataset or its elements by keyword, with sequences of such."""
        step = {"Modality": "CT", "ScheduledStationAETitle": ""}
        for identifier in (
            {"PatientName": "D*", "ScheduledProcedureStepSequence": [step]},
            data_set(PatientName="D*", ScheduledProcedureStepSequence=[data_set(**step)]),
        ):
            self.result(self.find(identifier, priority=2).all())
            request, keys = self.service.asked.pop()
            self.assertEqual(
                keys, data_set(PatientName="D*", ScheduledProcedureStepSequence=[data_set(**step)])
            )
            self.assertEqual((request.affected_sop_class_uid, request.priority), (FIND, 2))

    def test_characters(self) -> None:
        """Beyond ASCII an identifier says in which characters, unless it has said so."""
        for identifier, expected in (
            ({"PatientName": "Doe"}, None),
            ({"PatientName": "M\xfcller"}, "ISO_IR 192"),
            ({"PatientName": "M\xfcller", "SpecificCharacterSet": "ISO_IR 100"}, "ISO_IR 100"),
            (
                {"ScheduledProcedureStepSequence": [{"ScheduledPerformingPhysicianName": "\u5c71\u7530"}]},
                "ISO_IR 192",
            ),
        ):
            self.result(self.find(identifier).all())
            _, keys = self.service.asked.pop()
            self.assertEqual(keys.get("SpecificCharacterSet"), expected)
            if "PatientName" in identifier:
                self.assertEqual(keys.PatientName, identifier["PatientName"])

    def test_wrong_keyword(self) -> None:
        """A keyword that there is not is refused, and not just left out."""
        words = "'PatientNam' is not the keyword of an attribute"
        self.assert_fault(self.find({"PatientNam": "D*"}).next(), ValueError, words)
        self.assert_alive()

    def test_unsupported_keys(self) -> None:
        """FF01H says that some key was not supported, and the match counts."""
        self.service.responses = [match(1), match(2, 0xFF01), match(3)]
        matches = self.find()
        self.assertEqual(len(self.result(matches.all())), 3)
        self.assertTrue(matches.unsupported_keys)

    def test_failure(self) -> None:
        """A failure raises when the matches before it are given out; then there is nothing more."""
        self.service.responses = [match(1), Response(0xA700, comment="index: disk I/O error")]
        matches = self.find()
        self.assertEqual(self.result(matches.next()).StudyInstanceUID, "1.2.1")
        words = "C-FIND failed with status A700H: index: disk I/O error"
        self.assert_fault(matches.next(), OperationFailed, words)
        self.assertIsNone(self.result(matches.next()))

    def test_unreadable(self) -> None:
        """A match that is no data set is told in one line; those after it can be had."""
        self.service.responses = [match(1), Response(status.PENDING, GARBAGE), match(2)]
        matches = self.find()
        self.result(matches.next())
        words = "response to C-FIND-RQ: the data set cannot be read: unpack requires a buffer of 4 bytes"
        self.assert_fault(matches.next(), UnreadableDataSet, words)
        self.assertEqual(self.result(matches.next()).StudyInstanceUID, "1.2.2")
        self.assertIsNone(self.result(matches.next()))
        self.assert_fault(self.find().all(), UnreadableDataSet, words)
        self.assert_alive()
        self.assert_released()

    def test_status(self) -> None:
        """The status that the peer has ended the query with is told; one ended early is not whole."""
        for code in (0x0000, 0xFE00, 0xB000, 0x0107):
            self.service.responses = [match(1), Response(code, comment="too many")]
            matches = self.find()
            self.result(matches.next())
            self.assertIsNone(matches.status)
            self.assertIsNone(self.result(matches.next()))
            self.assertEqual(matches.status, code)
            everything = self.find().all()
            if code:
                words = f"C-FIND failed with status {code:04X}H: too many"
                fault = self.assert_fault(everything, OperationFailed, words)
                self.assertEqual((fault.status, fault.comment), (code, "too many"))
            else:
                self.assertEqual(len(self.result(everything)), 1)
        self.service.responses = [Response(0xA700)]
        matches = self.find()
        self.assert_fault(matches.next(), OperationFailed, "C-FIND failed with status A700H")
        self.assertEqual(matches.status, 0xA700)

    def test_status_of_what_we_have_ended(self) -> None:
        """A query that we end has none."""
        self.endless()
        matches = self.find()
        self.result(matches.next())
        self.run_(matches.aclose())
        self.assertIsNone(matches.status)
        self.assertEqual(self.result(matches.all()), [])

    def endless(self, length: int = 1000) -> list[int]:
        """The service finds matches without end; the list is of those that were asked of it."""
        asked: list[int] = []

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            try:
                while len(asked) < 100_000:
                    asked.append(len(asked))
                    yield match(asked[-1], length=length)
            finally:
                asked.append(-1)

        self.service.generate = generate
        return asked

    def test_closed_early(self) -> None:
        """A query that ends early is cancelled, and its association goes on."""
        asked = self.endless()

        async def iterate() -> list[str]:
            found = []
            async with aclosing(self.find()) as matches:
                async for one in matches:
                    found.append(one.StudyInstanceUID)
                    if len(found) == 3:
                        break
            return found

        self.assertEqual(self.run_(iterate()), ["1.2.0", "1.2.1", "1.2.2"])
        self.assertEqual(asked[-1], -1)
        self.assertLess(len(asked), 2000)
        self.service.generate = None
        self.assertEqual(self.result(self.find().all()), [])
        self.assert_released()

    def test_nobody_asks(self) -> None:
        """Matches that nobody asks for stop the server: neither side's memory grows with their number."""
        asked = self.endless()
        matches = self.find()
        self.result(matches.next())
        for _ in range(50):
            self.server.clock.advance(1)
        stopped = len(asked)
        self.assertLess(stopped, 2000)
        for end in self.server.connections[0]:
            self.assertLess(end.peak, 1 << 18)
        for _ in range(1000):
            self.result(matches.next())
        self.assertGreater(len(asked), stopped)
        self.run_(matches.aclose())
        self.assertEqual(asked[-1], -1)
        self.assert_alive()
        self.assert_released()

    def test_peer_that_does_not_read(self) -> None:
        """A C-CANCEL comes through though no match is taken, and is answered when the peer reads again."""
        asked = self.endless()
        client, server = self.server.connections[0]
        matches = self.find()
        client.slow = True
        first = matches.next()
        for _ in range(30):
            self.server.clock.advance(1)
        stopped = len(asked)
        self.assertLess(server.peak, 1 << 18)
        closed = Deferred.fromCoroutine(matches.aclose())
        self.server.clock.advance(0)
        self.assertEqual(asked[stopped:], [-1])
        self.assertNoResult(closed)
        client.slow = False
        self.server.clock.advance(0)
        self.successResultOf(closed)
        self.successResultOf(first)
        self.assert_alive()

    def test_peer_that_never_reads(self) -> None:
        """Who does not read for the DIMSE timeout is aborted, and the query is over by then."""
        asked = self.endless()
        client, _ = self.server.connections[0]
        client.slow = True
        first = self.find().next()
        self.server.clock.advance(0)
        (protocol,) = self.server.factory.connections
        self.server.clock.advance(60)
        self.assertEqual(protocol.association.ended, "aborted by us: the peer does not read our answers")
        self.assertEqual(asked[-1], -1)
        self.server.clock.advance(100)
        self.failureResultOf(first, AssociationLost)
        self.assertEqual(self.server.factory.connections, {})

    def test_closed_when_all_has_come(self) -> None:
        """So is one that has come whole, to nobody: the peer is read again."""
        self.service.responses = [match(number) for number in range(200)]
        matches = self.find()
        self.result(matches.next())
        self.run_(matches.aclose())
        self.assert_alive()

    def test_released_early(self) -> None:
        """A release with a query that nobody has closed cancels it."""
        asked = self.endless()
        matches = self.find()
        self.result(matches.next())
        self.assert_released()
        self.assertEqual(asked[-1], -1)

    def test_lost(self) -> None:
        """A query whose association is lost raises that, after what has come; to close it does nothing."""
        self.endless()
        matches = self.find()
        self.result(matches.next())
        self.scu.abort()

        async def rest() -> int:
            count = 0
            try:
                async for _ in matches:
                    count += 1
            except AssociationLost:
                return count
            raise AssertionError("not lost")

        self.assertGreater(self.run_(rest()), 10)
        self.run_(matches.aclose())

    def test_given_up(self) -> None:
        """A match that is waited for no longer is the next one's."""
        waits: Deferred[None] = Deferred()

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            await waits
            yield match(1)

        self.service.generate = generate
        matches = self.find()
        first = matches.next()
        self.server.clock.advance(0)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        second = matches.next()
        waits.callback(None)
        self.assertEqual(self.result(second).StudyInstanceUID, "1.2.1")


def counters(remaining: int | None, completed: int, failed: int, warning: int) -> dict[str, Any]:
    """Elements of a response to C-MOVE or C-GET."""
    found = {
        "number_of_completed_sub_operations": completed,
        "number_of_failed_sub_operations": failed,
        "number_of_warning_sub_operations": warning,
    }
    return found if remaining is None else {"number_of_remaining_sub_operations": remaining, **found}


class RetrieveTests(ClientTestCase):
    def failed(self, *failed_uids: str) -> bytes:
        return encode(data_set(FailedSOPInstanceUIDList=list(failed_uids)), IVR)

    def test_move(self) -> None:
        """C-MOVE says how far it has come with each response, and what became of all with the last."""
        self.service.responses = [
            Response(0xFF00, elements=counters(2, 1, 0, 0)),
            Response(0xFF00, elements=counters(1, 1, 1, 0)),
            Response(0xB000, self.failed("1.2.8", "1.2.9"), elements=counters(None, 1, 2, 0)),
        ]
        progress: list[Retrieval] = []
        moved = self.scu.c_move(
            {"StudyInstanceUID": "1.2"}, "WORKSTATION", progress=progress.append, priority=1
        )
        self.assertEqual(self.result(moved), Retrieval(0xB000, 1, 2, 0, None, ("1.2.8", "1.2.9")))
        self.assertEqual(progress, [Retrieval(0xFF00, 1, 0, 0, 2), Retrieval(0xFF00, 1, 1, 0, 1)])
        ((request, keys),) = self.service.asked
        self.assertEqual((request.move_destination, request.priority), ("WORKSTATION", 1))
        self.assertEqual((request.affected_sop_class_uid, keys.StudyInstanceUID), (MOVE, "1.2"))

    def test_failed_list(self) -> None:
        """The list of what failed may be of one, empty or absent; counters that are absent are 0."""
        empty = encode(data_set(FailedSOPInstanceUIDList=None), IVR)
        for data, expected in (
            (self.failed("1.2.8"), ("1.2.8",)),
            (self.failed("1.2.8", "1.2.9"), ("1.2.8", "1.2.9")),
            (empty, ()),
            (b"", ()),
            (None, ()),
        ):
            self.service.responses = [Response(0xB000, data)]
            self.assertEqual(
                self.result(self.scu.c_move({}, "WS")), Retrieval(0xB000, 0, 0, 0, None, expected)
            )

    def test_unreadable_list(self) -> None:
        """Where that list cannot be read all else that the response says holds, and a line says so."""
        self.service.responses = [Response(0xB000, GARBAGE, elements=counters(None, 2, 1, 0))]
        for name, retrieve in (
            ("C-MOVE", lambda: self.scu.c_move({}, "WS")),
            ("C-GET", lambda: self.scu.c_get({})),
        ):
            with capturedLogs() as events:
                self.assertEqual(self.result(retrieve()), Retrieval(0xB000, 2, 1, 0), name)
            (line,) = [event["what"] for event in events if "what" in event]
            self.assertIn(f"response to {name}-RQ: the data set cannot be read: ", line)

    def test_failure(self) -> None:
        """A failure raises, and says how far it came."""
        self.service.responses = [
            Response(0xA702, self.failed("1.2.8"), "nothing could be sent", counters(None, 0, 1, 0))
        ]
        for retrieve, name in (
            (self.scu.c_move({}, "WS"), "C-MOVE"),
            (self.scu.c_get({}), "C-GET"),
        ):
            words = f"{name} failed with status A702H: nothing could be sent"
            fault = self.assert_fault(retrieve, OperationFailed, words)
            self.assertEqual(fault.retrieval, Retrieval(0xA702, 0, 1, 0, None, ("1.2.8",)))

    def waiting(self) -> tuple[list[str], Deferred[None]]:
        """The service has one response and then waits; what it does is listed."""
        done: list[str] = []
        waits: Deferred[None] = Deferred()

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            try:
                yield Response(0xFF00, elements=counters(9, 1, 0, 0))
                await waits
            finally:
                done.append("over")

        self.service.generate = generate
        return done, waits

    def test_cancelled(self) -> None:
        """A retrieval that is given up is cancelled at the peer, and its association goes on."""
        done, _ = self.waiting()
        moved = self.scu.c_move({}, "WS")
        self.server.clock.advance(0)
        self.assertEqual(done, [])
        moved.cancel()
        self.failureResultOf(moved, CancelledError)
        self.server.clock.advance(0)
        self.assertEqual(done, ["over"])
        self.assert_alive()
        self.assert_released()

    def test_progress_fails(self) -> None:
        """So is one whose progress could not be told; what comes of it yet holds nobody up."""
        done, _ = self.waiting()

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            try:
                for _ in range(500):
                    yield Response(0xFF00, elements=counters(9, 1, 0, 0))
                await Deferred()
            finally:
                done.append("over")

        self.service.generate = generate
        moved = self.scu.c_move({}, "WS", progress=lambda _: 1 // 0)
        self.server.clock.advance(0)
        self.failureResultOf(moved, ZeroDivisionError)
        self.assert_alive()
        self.assertEqual(done, ["over"])

    def test_cancelled_by_the_peer(self) -> None:
        """One that the peer ended as cancelled raises nothing, and has its counters."""
        self.service.responses = [Response(0xFE00, elements=counters(3, 1, 0, 0))]
        self.assertEqual(self.result(self.scu.c_move({}, "WS")), Retrieval(0xFE00, 1, 0, 0, 3))

    def get(self, objects: int, length: int, **options: Any) -> MemoryStore:
        """A client that stores what C-GET brings, and a service that sends so many objects by it."""
        received = MemoryStore()
        self.serve(
            Verification(),
            Storage(self.store),
            self.service,
            contexts=[uids.VERIFICATION, GET, (CT, (EVR,))],
            services=[Storage(received)],
            **options,
        )

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            association = operation.sub_operations
            self.assertEqual(association.contexts(MR), ())
            (context,) = association.contexts(CT)
            completed = failed = 0
            for number in range(1, objects + 1):
                uid = f"1.2.{number}"
                data = io.BytesIO(encode(image(uid, length), EVR))
                answer = await operation.shielded(association.c_store(context, uid, data))
                self.assertTrue(data.closed)
                completed += answer.status == 0
                failed += answer.status != 0
                yield Response(0xFF00, elements=counters(objects - number, completed, failed, 0))
            yield Response(0xB000 if failed else 0, elements=counters(None, completed, failed, 0))

        self.service.generate = generate
        return received

    def test_get(self) -> None:
        """What C-GET asks for comes on the same association, and is stored by the client's service."""
        for length in (100, 1 << 19):
            received = self.get(5, length)
            progress: list[Retrieval] = []
            got = self.scu.c_get({}, progress=progress.append)
            self.assertEqual(self.result(got), Retrieval(0, 5, 0, 0))
            self.assertEqual([one.remaining for one in progress], [4, 3, 2, 1, 0])
            for number in range(1, 6):
                meta, content = received.objects[f"1.2.{number}"]
                self.assertEqual((meta.sending_ae_title, meta.receiving_ae_title), ("DICOMTW", "PMOD"))
                self.assertEqual(content, encode(image(f"1.2.{number}", length), EVR))
            self.assertEqual(self.scu.association.operations["C-STORE"], 5)
            self.assert_released()

    def test_get_what_cannot_be_stored(self) -> None:
        """What our service refuses is a sub-operation that failed."""
        received = self.get(3, 100)
        received.commit_fault = DimseError(0xA700, "No space left on device")
        self.assertEqual(self.result(self.scu.c_get({})), Retrieval(0xB000, 0, 3, 0))

    def test_get_and_store(self) -> None:
        """Who gets objects on an association may store some on it; large ones do not block each other."""
        received = self.get(3, 1 << 20, operations_window=4)
        got = self.scu.c_get({})
        stored = self.scu.c_store(image("1.3.1", 1 << 20))
        self.assertEqual(self.result(got).completed, 3)
        self.assertEqual(self.successResultOf(stored), Response(0))
        self.assertEqual((len(received.objects), [*self.store.objects]), (3, ["1.3.1"]))

    def test_get_cancelled(self) -> None:
        """C-CANCEL takes effect between two objects: the one under way is stored."""
        received = self.get(5, 1 << 20)
        got = self.scu.c_get({}, progress=lambda _: got.cancel())
        self.server.clock.advance(0)
        self.failureResultOf(got, CancelledError)
        self.assertLess(len(received.objects), 5)
        self.assertGreater(len(received.objects), 0)
        self.assert_alive()
        self.assert_released()

    def test_get_aborted(self) -> None:
        """An abort in the middle of an object ends the retrieval at once, and leaves nothing half stored."""
        received = self.get(5, 1 << 20)
        client, _ = self.server.connections[0]
        got = self.scu.c_get({}, progress=lambda _: setattr(client, "slow", True))
        self.server.clock.advance(0)
        self.assertEqual(len(received.objects), 1)
        self.scu.abort()
        client.slow = False
        self.server.clock.advance(0)
        self.failureResultOf(got, AssociationLost)
        self.assertEqual(len(received.objects), 1)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.server.clock.advance(100)
        self.assertEqual(self.server.factory.connections, {})


class NormalizedTests(ClientTestCase):
    def test_requests(self) -> None:
        """Each N- service sends what its request has, with its data set, and gets that of the response."""
        info = data_set(PatientID="7")
        scu = self.scu
        cases: list[tuple[Deferred[Any], str, dict[str, Any], bool]] = [
            (
                scu.n_event_report(THIRD_PARTY, "1.2", 3, info),
                "N-EVENT-REPORT-RQ",
                {"affected_sop_instance_uid": "1.2", "event_type_id": 3},
                True,
            ),
            (
                scu.n_event_report(THIRD_PARTY, "1.2", 0),
                "N-EVENT-REPORT-RQ",
                {"affected_sop_instance_uid": "1.2", "event_type_id": 0},
                False,
            ),
            (
                scu.n_get(THIRD_PARTY, "1.2", [0x00100010, 0x00100020]),
                "N-GET-RQ",
                {
                    "requested_sop_instance_uid": "1.2",
                    "attribute_identifier_list": (0x00100010, 0x00100020),
                },
                False,
            ),
            (
                scu.n_get(THIRD_PARTY, "1.2"),
                "N-GET-RQ",
                {"requested_sop_instance_uid": "1.2", "attribute_identifier_list": None},
                False,
            ),
            (scu.n_set(THIRD_PARTY, "1.2", info), "N-SET-RQ", {"requested_sop_instance_uid": "1.2"}, True),
            (
                scu.n_action(THIRD_PARTY, "1.2", 2, {"PatientID": "7"}),
                "N-ACTION-RQ",
                {"requested_sop_instance_uid": "1.2", "action_type_id": 2},
                True,
            ),
            (
                scu.n_create(THIRD_PARTY, info, "1.2"),
                "N-CREATE-RQ",
                {"affected_sop_instance_uid": "1.2"},
                True,
            ),
            (scu.n_create(THIRD_PARTY), "N-CREATE-RQ", {"affected_sop_instance_uid": None}, False),
            (scu.n_delete(THIRD_PARTY, "1.2"), "N-DELETE-RQ", {"requested_sop_instance_uid": "1.2"}, False),
        ]
        for deferred, name, elements, has_data_set in cases:
            self.assertEqual(self.result(deferred)[1], None)
            request, found = self.service.asked.pop(0)
            self.assertEqual((request.message_type.name, request.has_data_set), (name, has_data_set))
            self.assertEqual(request.sop_class_uid, THIRD_PARTY)
            self.assertEqual({one: getattr(request, one) for one in elements}, elements, name)
            self.assertEqual(found, info if has_data_set else Dataset(), name)

    def test_answers(self) -> None:
        """The response's data set is given out, and its status if that is a warning."""
        self.service.responses = [Response(0x0107, encode(data_set(PatientID="8"), IVR), "some were ignored")]
        response, found = self.result(self.scu.n_get(THIRD_PARTY, "1.2"))
        self.assertEqual((response.status, response.comment), (0x0107, "some were ignored"))
        self.assertEqual(found, data_set(PatientID="8"))
        self.assertEqual(response.elements, {"affected_sop_instance_uid": "1.2"})

    def test_unreadable(self) -> None:
        """A data set that is none is told in one line."""
        self.service.responses = [Response(0, GARBAGE)]
        words = "response to N-GET-RQ: the data set cannot be read: unpack requires a buffer of 4 bytes"
        self.assert_fault(self.scu.n_get(THIRD_PARTY, "1.2"), UnreadableDataSet, words)
        self.assert_alive()

    def test_created(self) -> None:
        """A UID that the peer has made is in the response to N-CREATE."""
        self.service.responses = [Response(0, elements={"affected_sop_instance_uid": "1.2.77"})]
        response, _ = self.result(self.scu.n_create(THIRD_PARTY))
        self.assertEqual(response.elements, {"affected_sop_instance_uid": "1.2.77"})

    def test_failure(self) -> None:
        """A failure raises, with the name of the operation."""
        self.service.responses = [Response(0x0112)]
        for deferred, name in (
            (self.scu.n_set(THIRD_PARTY, "1.2", {}), "N-SET"),
            (self.scu.n_action(THIRD_PARTY, "1.2", 1), "N-ACTION"),
            (self.scu.n_delete(THIRD_PARTY, "1.2"), "N-DELETE"),
        ):
            self.assert_fault(deferred, OperationFailed, f"{name} failed with status 0112H")


class EndlessSink(MemorySink):
    """Takes what it gets, and keeps nothing."""

    def write(self, fragments: Any) -> None:
        pass


class BothWaysTests(ClientTestCase):
    def test_deadlock(self) -> None:
        """Two peers that send each other more than either has room for go on reading meanwhile."""

        class Taking(Storage):
            def data_set_sink(self, operation: Operation) -> DataSetSink:
                return EndlessSink()

        self.server = MemoryServer.of(Taking(self.store), self.service)
        sent: list[int] = []

        async def generate(operation: Operation) -> AsyncGenerator[Response, None]:
            (context,) = operation.sub_operations.contexts(CT)
            for number in range(3):
                data = io.BytesIO(bytes(1 << 22))
                answer = await operation.sub_operations.c_store(context, f"1.2.{number}", data)
                sent.append(answer.status)
            yield Response(0)

        self.service.generate = generate
        self.scu = self.server.associate([GET, CT], services=[Taking(MemoryStore())], operations_window=4)
        got = self.scu.c_get({})
        stored = [self.scu.c_store(image(f"1.3.{number}", 1 << 22)) for number in range(3)]
        self.assertEqual(self.result(got).status, 0)
        self.assertEqual(sent, [0, 0, 0])
        for one in stored:
            self.assertEqual(self.successResultOf(one).status, 0)
        for end in self.server.connections[0]:
            self.assertLess(end.peak, 2 * BLOCK)


class Resolver:
    """`IHostnameResolver`: host names have the addresses that the test gives them."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *_: Any, **__: Any) -> Any:
        receiver.resolutionBegan(None)
        if name in self.addresses:
            receiver.addressResolved(IPv4Address("TCP", self.addresses[name], portNumber))
        receiver.resolutionComplete()
        return receiver


@implementer(IReactorTime, IReactorPluggableNameResolver)
class Network(MemoryReactor):
    """A reactor whose network is a server in memory; `faults` are raised by as many connections."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__()
        self.server = server
        server.clock = self
        server.factory.clock = self
        self.nameResolver = Resolver({"pacs.example": "192.0.2.7", "192.0.2.7": "192.0.2.7"})
        self.tried: list[tuple[str, int]] = []
        self.faults: list[Exception] = []
        self.hangs = False

    def installNameResolver(self, resolver: Any) -> Any:
        raise AssertionError("nobody asks for that")

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, **_: Any) -> Any:
        def fail(fault: Exception) -> None:
            factory.clientConnectionFailed(connector, Failure(fault))

        def stop() -> None:
            timer.cancel()
            self.tried.append(("given up", 0))
            fail(UserError())

        self.tried.append((host, port))
        connector = SimpleNamespace(stopConnecting=stop, getDestination=lambda: None)
        factory.startedConnecting(connector)
        if self.hangs:
            timer = self.callLater(timeout, fail, TimedOut())
        elif self.faults:
            fail(self.faults.pop(0))
        else:
            self.server.endpoint("192.0.2.1").connect(factory)
        return connector


class AssociateTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = MemoryServer.of(Verification(), Storage(MemoryStore()))
        self.network = Network(self.server)

    def associate(self, peer: Any = "PMOD@192.0.2.7:4030", **options: Any) -> Deferred[SCU]:
        associating = associate(peer, reactor=self.network, **options).asDeferred()
        self.network.pump([0, 0.3, 0])  # that host names may have another address takes its time
        return associating

    def associated(self, *arguments: Any, **options: Any) -> SCU:
        return self.successResultOf(self.associate(*arguments, **options))

    def assert_fault(self, deferred: Deferred[Any], kind: type[Exception], words: str) -> None:
        failure = self.failureResultOf(deferred, kind)
        self.assertEqual((failure.type, failure.getErrorMessage()), (kind, words))

    def wait(self, seconds: float) -> None:
        self.network.pump([0.1] * round(10 * seconds))

    @property
    def accepted(self) -> Any:
        """The server's association."""
        (protocol,) = self.server.factory.connections
        return protocol.association


class AssociateTests(AssociateTestCase):
    def test_peers(self) -> None:
        """A peer is named by AE title, host and port, or by host and port, or an endpoint of Twisted's."""
        for peer, called, place in (
            ("PMOD@192.0.2.7:4030", "PMOD", ("192.0.2.7", 4030)),
            ("PMOD@pacs.example:104", "PMOD", ("192.0.2.7", 104)),
            ("tcp:192.0.2.7:11112", "PMOD", ("192.0.2.7", 11112)),
            (Remote(aet="PMOD", host="192.0.2.7", port=104), "PMOD", ("192.0.2.7", 104)),
        ):
            self.setUp()
            options = {"called": "PMOD"} if str(peer).startswith("tcp:") else {}
            scu = self.associated(peer, **options)
            self.assertEqual(scu.association.called_ae_title, called)
            self.assertEqual(self.network.tried, [place])
            self.assertEqual(self.accepted.calling_ae_title, "DICOMTW")

    def test_titles(self) -> None:
        """The called AE title may be said apart; ANY-SCP is called where none is."""
        scu = self.associated("OTHER@192.0.2.7:104", called="PMOD", calling="ME")
        self.assertEqual((scu.association.called_ae_title, self.accepted.calling_ae_title), ("PMOD", "ME"))
        rejected = self.associate("192.0.2.7:104")
        self.assertIn("RJ(1,1,7)", self.failureResultOf(rejected, Rejected).getErrorMessage())

    def test_what_is_no_peer(self) -> None:
        """What names no peer is a ValueError at once, and so is what cannot be proposed."""
        for peer in (
            *("", "PACS", "PACS@host", "PACS@:104", "PACS@host:0", "PACS@host:104,nonsense", "nonsense:x"),
            Remote(aet="PACS"),
            Remote(aet="PACS", host="192.0.2.7"),
        ):
            self.assertRaises(ValueError, associate, peer, reactor=self.network)
        for options in (
            {"contexts": []},
            {"calling": "A" * 17},
            {"called": "A\\B"},
            {"contexts": [uids.VERIFICATION] * 129},
        ):
            self.assertRaises(ValueError, associate, "A@192.0.2.7:104", reactor=self.network, **options)
        self.assertEqual(self.network.tried, [])

    def test_proposal(self) -> None:
        """Contexts have the transfer syntaxes given, or the uncompressed little endian ones."""
        scu = self.associated(
            contexts=[uids.VERIFICATION, (CT, [IVR]), (MR, ("1.2.3", EVR))],
            services=[Storage(MemoryStore())],
            operations_window=3,
            extended_negotiation={CT: b"\2"},
            maximum_length=16384,
            implementation_version_name=False,
        )
        expected = Proposal(
            calling_ae_title="DICOMTW",
            called_ae_title="PMOD",
            contexts=((uids.VERIFICATION, (EVR, IVR)), (CT, (IVR,)), (MR, ("1.2.3", EVR))),
            operations_window=3,
            maximum_length=16384,
            scp_roles=frozenset({CT, MR}),
            extended_negotiation={CT: b"\2"},
            implementation_version_name=None,
        )
        self.assertEqual(scu.association._rq, expected.rq())
        self.assertEqual(scu.association.scp_roles, {CT, MR})

    def test_remote(self) -> None:
        """What a configured remote says of itself holds, unless it is said otherwise."""
        remote = Remote(
            aet="PMOD",
            host="192.0.2.7",
            port=104,
            no_implementation_version_name=True,
            retries=2,
            retry_delay=7.0,
        )
        self.network.faults = [RefusedError()] * 2
        associating = self.associate(remote)
        for tries in (1, 2):
            self.assertEqual(len(self.network.tried), tries)
            self.wait(6.5)
            self.assertEqual(len(self.network.tried), tries)
            self.wait(1)
        scu = self.successResultOf(associating)
        named = scu.association._rq.user_information.first(ImplementationVersionName)
        self.assertIsNone(named)
        self.network.faults = [RefusedError()]
        associating = self.associate(remote, retry_delay=1)
        self.wait(1)
        self.successResultOf(associating)
        self.network.faults = [RefusedError()]
        self.failureResultOf(self.associate(remote, retries=0), NotConnected)

    def test_disk(self) -> None:
        """What is read from files and stored in them waits for the disk that is given."""
        called: list[int] = []

        def aside(function: Callable[[], Any]) -> Deferred[Any]:
            called.append(1)
            return at_once(function)

        disk = Disk(at_once, aside)
        scu = self.associated(contexts=[(CT, (EVR,))], disk=disk)
        self.assertIs(scu.association._disk, disk)
        stored = scu.c_store(image())
        self.network.advance(0)
        self.assertEqual((self.successResultOf(stored), called), (Response(0), [1]))

    def test_not_connected(self) -> None:
        """A connection that cannot be opened says to whom and why."""
        refused = RefusedError(111, "Connection refused")
        for peer, fault, words in (
            (
                "PMOD@192.0.2.7:104",
                refused,
                "cannot connect to 192.0.2.7:104: Connection was refused by other side",
            ),
            ("PMOD@nowhere.example:104", None, "cannot connect to nowhere.example:104: DNS lookup failed"),
            (
                "tcp:192.0.2.7:104",
                refused,
                "cannot connect to the endpoint: Connection was refused by other side",
            ),
            ("PMOD@192.0.2.7:104", UnnamedError(), "cannot connect to 192.0.2.7:104: UnnamedError"),
        ):
            self.network.faults = [] if fault is None else [fault]
            failure = self.failureResultOf(self.associate(peer), NotConnected)
            self.assertTrue(failure.getErrorMessage().startswith(words), failure.getErrorMessage())
            self.assertFalse(failure.getErrorMessage().endswith("."))
        self.assertEqual(self.network.getDelayedCalls(), [])

    def test_connection_that_hangs(self) -> None:
        """One that is not there within the ARTIM time is given up."""
        self.network.hangs = True
        associating = self.associate(limits=Limits(artim_timeout=10))
        self.wait(9)
        self.assertNoResult(associating)
        self.wait(1)
        words = "cannot connect to 192.0.2.7:4030: User timeout caused connection failure"
        self.assert_fault(associating, NotConnected, words)
        self.assertEqual(self.network.getDelayedCalls(), [])

    def test_retries(self) -> None:
        """What may be better later is tried again as often as is said: no connection, or congestion."""
        self.network.faults = [RefusedError()] * 3
        self.server.factory.limits = Limits(max_associations=0)
        associating = self.associate(retries=4, retry_delay=2)
        self.wait(7)
        self.assertEqual(len(self.network.tried), 4)
        self.assertNoResult(associating)
        self.server.factory.limits = Limits()
        self.wait(2)
        self.successResultOf(associating)
        self.assertEqual(len(self.network.tried), 5)

    def test_no_more_retries(self) -> None:
        """When it was tried often enough the last fault is told; what is permanent is not tried again."""
        self.network.faults = [RefusedError()] * 9
        associating = self.associate(retries=2)
        self.wait(11)
        self.failureResultOf(associating, NotConnected)
        self.assertEqual(len(self.network.tried), 3)
        self.network.faults.clear()
        self.failureResultOf(self.associate(called="OTHER", retries=2), Rejected)
        self.assertEqual(len(self.network.tried), 4)

    def test_given_up(self) -> None:
        """Who gives up gives up the connection, the pause between two tries, or the association half made."""
        self.network.hangs = True
        associating = self.associate(retries=1)
        associating.cancel()
        self.failureResultOf(associating, CancelledError)
        self.assertEqual(self.network.tried[-1], ("given up", 0))
        self.network.hangs = False
        self.network.faults = [RefusedError()]
        associating = self.associate(retries=1)
        associating.cancel()
        self.failureResultOf(associating, CancelledError)
        self.assertEqual(self.network.getDelayedCalls(), [])
        associating = associate("PMOD@192.0.2.7:104", reactor=self.network).asDeferred()
        associating.cancel()
        self.failureResultOf(associating, CancelledError)
        self.network.advance(0)
        self.assertEqual(self.server.factory.associations, set())
        self.network.advance(100)
        self.assertEqual(self.server.factory.connections, {})
        self.assertEqual(self.network.getDelayedCalls(), [])

    def test_context_manager(self) -> None:
        """``async with`` releases the association at its end, or aborts it if that is a fault."""
        ended: list[str] = []

        async def work(fault: bool) -> str:
            async with associate("PMOD@192.0.2.7:104", reactor=self.network) as scu:
                ended.append("")
                scu.association.over.addCallback(lambda _: ended.append(scu.association.ended))
                await scu.c_echo()
                if fault:
                    raise ZeroDivisionError
            return "done"

        worked = Deferred.fromCoroutine(work(False))
        self.network.advance(0)
        self.assertEqual(self.successResultOf(worked), "done")
        failed = Deferred.fromCoroutine(work(True))
        self.network.advance(0)
        self.failureResultOf(failed, ZeroDivisionError)
        self.assertEqual(ended, ["", "released", "", "aborted by us: the SCU has ended it"])

    def test_awaited(self) -> None:
        """It can be awaited as well."""

        async def work() -> Response:
            scu = await associate("PMOD@192.0.2.7:104", reactor=self.network)
            return await scu.c_echo()

        worked = Deferred.fromCoroutine(work())
        self.network.advance(0)
        self.assertEqual(self.successResultOf(worked), Response(0))


class UnnamedError(Exception):
    """A fault without words."""


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnections:
    """Makes a server's TLS connections."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class TLSTests(AssociateTestCase):
    """TLS to the server: both ends are OpenSSL's, and the bytes between them are in memory."""

    HOSTS = ("pacs.example", "192.0.2.7")

    def setUp(self) -> None:
        super().setUp()
        self.patch(tls_of_twisted, "_get_default_clock", lambda: self.network)
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.ca = self.file("ca.pem", identity("CA").cert_pem)
        self.listen(identity("pacs", "CA", hosts=self.HOSTS))

    def file(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def listen(self, own: Identity, **options: Any) -> None:
        """The server shows this certificate."""
        cert, key = self.file("cert.pem", own.cert_pem), self.file("key.pem", own.key_pem)
        context = server_context(TLSFiles(cert=cert, key=key, **options))
        self.server.listening = TLSMemoryBIOFactory(
            ServerConnections(context), False, self.server.factory, self.network
        )

    def test_verified(self) -> None:
        """A server whose certificate is good is talked to, and both sides say how."""
        for peer, tls in (
            ("PMOD@pacs.example:104", TLS(ca=self.ca)),
            ("PMOD@192.0.2.7:104", TLS(ca=self.ca)),
            ("PMOD@192.0.2.7:104", TLS(ca=self.ca, host="pacs.example.")),
            ("tcp:192.0.2.7:104", TLS(ca=self.ca, host="pacs.example")),
            (Remote(aet="PMOD", host="pacs.example", port=104, tls=True, tls_ca=self.ca), None),
        ):
            scu = self.associated(peer, called="PMOD", tls=tls)
            with capturedLogs() as events:
                echoed = scu.c_echo()
                self.network.advance(0)
                self.assertEqual(self.successResultOf(echoed), Response(0))
                released = scu.release()
                self.network.advance(0)
                self.successResultOf(released)
            lines = [event["association"] for event in events if "association" in event]
            self.assertEqual([line["ended"] for line in lines], ["released", "released"])
            for line in lines:
                self.assertTrue(line["tls"].startswith("TLSv1.3 TLS_AES_"), line["tls"])
            self.network.advance(100)
            self.assertEqual((self.server.factory.connections, self.network.getDelayedCalls()), ({}, []))

    def test_pinned(self) -> None:
        """A server with the certificate that is known is talked to, whoever issued it, and no other is."""
        own = identity("alone in the world")
        pin = sha256_of(own.certificate)
        self.listen(own)
        for peer, tls in (
            ("PMOD@192.0.2.7:104", TLS(pins=[pin])),
            ("PMOD@192.0.2.7:104", TLS(pins=["0" * 64, pin.upper()], ca=self.ca, host="other.example")),
            ("PMOD@192.0.2.7:104", TLS(pins=[pin], verify=False)),
            ("tcp:192.0.2.7:104", TLS(pins=[pin])),
            (Remote(aet="PMOD", host="pacs.example", port=104, tls=True, tls_sha256=[pin]), None),
        ):
            self.associated(peer, called="PMOD", tls=tls)
        self.listen(identity("pacs", "CA", hosts=self.HOSTS))
        for tls in (TLS(pins=[pin]), TLS(pins=[pin], ca=self.ca), TLS(pins=[pin], verify=False)):
            failed = self.associate("PMOD@pacs.example:104", tls=tls)
            said = self.failureResultOf(failed, NotConnected).getErrorMessage()
            self.assertTrue(said.startswith("the certificate is not the one that is known, but "), said)
        self.assertRaises(ValueError, TLS, pins=["abc"])

    def test_revoked(self) -> None:
        """A server that a CRL revokes is not talked to, nor one of an issuer whose CRL is not there."""
        own = identity("pacs", "CA", hosts=self.HOSTS)
        good = self.file("good.pem", crl("CA", identity("other", "CA")))
        self.associated("PMOD@pacs.example:104", tls=TLS(ca=str(self.ca), crl=str(good)))
        remote = Remote(
            aet="PMOD",
            host="pacs.example",
            port=104,
            tls=True,
            tls_ca=self.ca,
            tls_crl=self.file("revoked.pem", crl("CA", own)),
        )
        absent = TLS(ca=self.ca, crl=self.file("absent.pem", crl("another CA")))
        for tls, why in ((None, "revoked"), (absent, "of an issuer whose CRL is not there")):
            failed = self.associate(remote, tls=tls)
            self.assertEqual(
                self.failureResultOf(failed, NotConnected).getErrorMessage(), f"the certificate is {why}"
            )

    def test_renewed(self) -> None:
        """Files that have changed are read again for the next association; broken ones are not used."""
        tls = TLS(ca=self.ca)
        seconds = [0.0]
        tls._renewed._clock = lambda: seconds[0]
        tls._renewed._next_look = 0.0
        self.associated("PMOD@pacs.example:104", tls=tls)
        self.listen(identity("pacs", "other CA", hosts=self.HOSTS))
        self.ca.write_bytes(b"half writ")
        seconds[0] = 2.0
        with capturedLogs() as events:
            failed = self.associate("PMOD@pacs.example:104", tls=tls)
            words = "the certificate is of an issuer who is not among those known"
            self.assert_fault(failed, NotConnected, words)
        (line,) = [event["line"] for event in events if "TLS stays as it was" in str(event.get("line"))]
        self.assertTrue(line.startswith(f"--tls-ca {self.ca} holds no usable certificate"), line)
        self.ca.write_bytes(identity("other CA").cert_pem)
        seconds[0] = 4.0
        self.associated("PMOD@pacs.example:104", tls=tls)

    def test_not_verified(self) -> None:
        """One whose certificate is not is not told anything, and who asked hears what was wrong with it."""
        known, other = TLS(ca=self.ca), TLS(ca=self.file("other.pem", identity("stranger").cert_pem))
        expired = identity("old pacs", "CA", hosts=self.HOSTS, days=(-9, -2))
        good = identity("pacs", "CA", hosts=self.HOSTS)
        for own, tls, words in (
            (good, TLS(ca=self.ca, host="other.example"), "the certificate is not for other.example"),
            (good, other, "the certificate is of an issuer who is not among those known"),
            (good, TLS(), "the certificate is of an issuer who is not among those known"),
            (expired, known, "the certificate is expired"),
            (
                identity("alone", hosts=self.HOSTS),
                known,
                "the certificate is self-signed and not among those known",
            ),
        ):
            self.listen(own)
            self.assert_fault(self.associate("PMOD@pacs.example:104", tls=tls), NotConnected, words)
            self.network.advance(100)
            self.assertEqual((self.server.factory.connections, self.network.getDelayedCalls()), ({}, []))

    def test_verified_unless_told_otherwise(self) -> None:
        """A peer that is to be talked to with TLS is verified with the roots of this machine where nobody
        says with what, and not where TLS says so.
        """
        self.listen(identity("alone", hosts=self.HOSTS))
        remote = Remote(aet="PMOD", host="192.0.2.7", port=104, tls=True)
        words = "the certificate is self-signed and not among those known"
        for peer in ("PMOD@192.0.2.7:104,tls", remote):
            self.assert_fault(self.associate(peer), NotConnected, words)
            self.associated(peer, tls=TLS(verify=False))

    def test_roots_of_this_machine(self) -> None:
        """Whom the roots of this machine certify is talked to without further ado."""
        with mock.patch.dict(os.environ, SSL_CERT_FILE=str(self.ca)):
            self.associated("PMOD@pacs.example:104,tls")

    def test_without_verification(self) -> None:
        """Whoever asks for no more than encryption gets that from anybody, as PMOD does."""
        self.listen(identity("alone"))
        for peer in ("PMOD@192.0.2.7:104", "PMOD@192.0.2.7:104,tls", "tcp:192.0.2.7:104"):
            self.associated(peer, tls=TLS(verify=False), called="PMOD")

    def test_own_certificate(self) -> None:
        """A server that asks for a certificate is shown ours, and one that gets none says so."""
        own = identity("client", "CA")
        cert, key = self.file("own.pem", own.cert_pem), self.file("own.key", own.key_pem)
        both = self.file("both.pem", own.cert_pem + own.key_pem)
        self.listen(identity("pacs", "CA", hosts=self.HOSTS), verify="required", ca=self.ca)
        for tls in (TLS(ca=self.ca, cert=cert, key=key), TLS(ca=self.ca, cert=both)):
            scu = self.associated(tls=tls)
            self.assertIn("CN=client", next(iter(self.server.factory.associations))._tls)
            scu.abort()
            self.network.advance(100)
        self.failureResultOf(self.associate(tls=TLS(ca=self.ca)), AssociationLost)

    def test_faults(self) -> None:
        """What TLS cannot be had with is told before anything is sent."""
        for peer, tls in (
            ("tcp:192.0.2.7:104", TLS(ca=self.ca)),
            ("PMOD@192.0.2.7:104", TLS(ca=self.ca, host="no host")),
            ("PMOD@192.0.2.7:104", TLS(ca=self.ca, host="a..b")),
        ):
            self.assertRaises(ValueError, associate, peer, tls=tls, reactor=self.network)
        absent = self.directory / "absent.pem"
        about = "cannot connect to 192.0.2.7:4030: "
        for tls, words in (
            (TLS(ca=absent), f"{about}tls-ca {absent}: No such file or directory"),
            (TLS(profile="basic"), about + PROFILES["basic"].refused),
        ):
            self.assertRaises(TLSError, lambda tls=tls: tls.context)
            self.assert_fault(self.associate(tls=tls, retries=3), NotConnected, words)
        self.assertEqual((self.network.tried, self.network.getDelayedCalls()), ([], []))

    def test_read_once(self) -> None:
        """The files of one `TLS` are read once, however often it is used, while they do not change."""
        tls = TLS(ca=self.ca)
        self.associated(tls=tls)
        self.ca.unlink()
        self.associated("PMOD@pacs.example:104", tls=tls)
        self.failureResultOf(self.associate(tls=TLS(ca=self.ca)), NotConnected)

    def test_peer_without_tls(self) -> None:
        """A peer that does not speak TLS is told apart, and one that is silent is given up."""
        self.server.listening = self.server.factory
        failure = self.failureResultOf(self.associate(tls=TLS(ca=self.ca)), NotConnected)
        self.assertIn("the peer does not speak TLS", failure.getErrorMessage())
        self.network.advance(100)
        self.listen(identity("pacs", "CA", hosts=self.HOSTS))
        associating = associate(
            "PMOD@192.0.2.7:104", tls=TLS(ca=self.ca), reactor=self.network, limits=Limits(artim_timeout=30)
        ).asDeferred()
        self.server.connections[-1][1].slow = True
        self.wait(29)
        self.assertNoResult(associating)
        self.wait(1.1)
        words = "aborted by us: no answer to the A-ASSOCIATE-RQ within the ARTIM time"
        self.assert_fault(associating, AssociationLost, words)
        self.network.advance(100)
        self.assertEqual(self.network.getDelayedCalls(), [])

    def test_large_objects(self) -> None:
        """Large objects go through TLS as well, with no more of them in memory than without."""
        source = image(length=1 << 22)
        scu = self.associated(contexts=[(CT, (EVR,))], tls=TLS(ca=self.ca))
        client, server = self.server.connections[-1]
        server.slow = True
        stored = scu.c_store(source)
        self.network.pump([1] * 10)
        self.assertLess(client.peak, 2 * BLOCK)
        server.slow = False
        self.network.advance(0)
        self.assertEqual(self.successResultOf(stored), Response(0))
