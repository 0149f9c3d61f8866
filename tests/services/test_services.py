"""The registry of service classes, and the two that are built in: verification, the model, and storage."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.dimse import status
from dicomtw.dimse.messages import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_FIND_RQ,
    C_STORE_RQ,
    C_STORE_RSP,
    MESSAGE_TYPES,
    N_GET_RQ,
    Command,
)
from dicomtw.errors import DimseError
from dicomtw.services import (
    MAXIMUM_DATA_SET,
    UNCOMPRESSED,
    MemorySink,
    Operation,
    ServiceClass,
    ServiceRegistry,
)
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.storage import DataSetSink
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored
from dicomtw.testing import MemoryServer, MemoryStore, MemoryStoreSink, Peer, message
from dicomtw.ul.items import RoleSelection, SOPClassExtendedNegotiation
from dicomtw.ul.negotiation import Offer
from dicomtw.ul.pdu import A_ASSOCIATE_AC

IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
EVR = uids.EXPLICIT_VR_LITTLE_ENDIAN
JPEG = "1.2.840.10008.1.2.4.50"
CT = "1.2.840.10008.5.1.4.1.1.2"
MPPS = "1.2.840.10008.3.1.2.3.3"
PRIVATE = "1.3.6.1.4.1.99999.1"


class Steps(ServiceClass):
    """A third party's service class, as anybody may write one: performed procedure steps, in short."""

    abstract_syntaxes = (MPPS,)

    def __init__(self) -> None:
        self.steps: dict[str, bytes] = {}

    def offer(self, abstract_syntax: str) -> Offer:
        return Offer(
            self.transfer_syntaxes, scp_role=True, extended_negotiation=lambda asked: asked[:1] or None
        )

    def data_set_sink(self, operation: Operation) -> DataSetSink:
        if operation.request.affected_sop_instance_uid in self.steps:
            raise DimseError(status.DUPLICATE_SOP_INSTANCE, "begun before")
        return super().data_set_sink(operation)

    async def n_create(self, operation: Operation) -> int:
        assert isinstance(operation.sink, MemorySink)
        self.steps[operation.request.affected_sop_instance_uid or ""] = bytes(operation.sink.data)
        return status.SUCCESS


class RegistryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.verification, self.steps = Verification(), Steps()
        self.storage = Storage(MemoryStore(), accept_unknown=True)
        self.registry = ServiceRegistry([self.verification, self.steps, self.storage])

    def test_who_serves(self) -> None:
        """Whoever names a SOP class serves it; what nobody names is for who accepts it; else nobody's."""
        for abstract_syntax, service in (
            (uids.VERIFICATION, self.verification),
            (MPPS, self.steps),
            (CT, self.storage),
            (PRIVATE, self.storage),
            ("1.2.840.10008.5.1.4.1.2.1.1", None),
            ("1.2.840.10008.1.1.1", None),
            ("not a UID", None),
            ("..", None),
            ("1" * 65, None),
            ("", None),
        ):
            self.assertIs(self.registry.service(abstract_syntax), service, abstract_syntax)
            self.assertEqual(self.registry.offer(abstract_syntax) is None, service is None, abstract_syntax)

    def test_first_come(self) -> None:
        """Of two that name a SOP class the first serves it."""
        first, second = Verification(), Verification()
        self.assertIs(ServiceRegistry([first, second]).service(uids.VERIFICATION), first)

    def test_no_service(self) -> None:
        """A registry of nothing serves nothing."""
        registry = ServiceRegistry(())
        self.assertIsNone(registry.offer(uids.VERIFICATION))
        refusal = self.assertRaises(DimseError, registry.perform, uids.VERIFICATION, C_ECHO_RQ)
        self.assertEqual(refusal.status, 0x0211)

    def test_who_performs(self) -> None:
        """PS3.7 Annex C.5: an operation of another SOP class is 0122H, one of nobody's 0211H."""
        service, perform = self.registry.perform(CT, C_STORE_RQ)
        self.assertEqual((service, perform), (self.storage, self.storage.c_store))
        for abstract_syntax, request, expected in (
            (CT, C_ECHO_RQ, 0x0122),
            (uids.VERIFICATION, C_STORE_RQ, 0x0122),
            ("1.2", C_ECHO_RQ, 0x0122),
            (CT, N_GET_RQ, 0x0211),
            (uids.VERIFICATION, C_FIND_RQ, 0x0211),
        ):
            refusal = self.assertRaises(DimseError, self.registry.perform, abstract_syntax, request)
            self.assertEqual(refusal.status, expected, (abstract_syntax, request.name))
            self.assertIn(request.name, refusal.comment)
            self.assertLessEqual(len(refusal.comment), 64)

    def test_operations(self) -> None:
        """A service performs the requests that it has a method for, by the standard's names."""

        class All(ServiceClass):
            async def c_store(self, operation: Operation) -> int:
                return status.SUCCESS

            c_get = c_find = c_move = c_echo = n_event_report = n_get = n_set = n_action = c_store
            n_create = n_delete = c_store

        requests = {one for one in MESSAGE_TYPES.values() if not one.is_response}
        self.assertEqual(set(All().operations()), requests - {C_CANCEL_RQ})
        self.assertEqual(set(Verification().operations()), {C_ECHO_RQ})
        self.assertEqual(set(ServiceClass().operations()), set())

    def test_base(self) -> None:
        """A service class serves nothing until it says so, in uncompressed transfer syntaxes."""
        base = ServiceClass()
        self.assertEqual((tuple(base.abstract_syntaxes), base.accepts(PRIVATE)), ((), False))
        self.assertEqual(base.offer(PRIVATE), Offer(UNCOMPRESSED))


class MemorySinkTests(SynchronousTestCase):
    def test_kept(self) -> None:
        """What is written is there; discarded, it is not."""
        sink = MemorySink()
        sink.write([memoryview(b"ab"), memoryview(b"c")])
        sink.write([memoryview(b"d")])
        sink.commit()
        sink.commit(may_block=False)
        self.assertEqual(bytes(sink.data), b"abcd")
        sink.discard()
        self.assertEqual(bytes(sink.data), b"")

    def test_limit(self) -> None:
        """No peer can fill our memory: A700H beyond the limit."""
        sink = MemorySink()
        sink.write([memoryview(bytes(MAXIMUM_DATA_SET))])
        refusal = self.assertRaises(DimseError, sink.write, [memoryview(b"x")])
        self.assertEqual(refusal.status, 0xA700)


class ThirdPartyTests(SynchronousTestCase):
    """Rule 7 of the house: a service class is added to a server, and the core never learns its name."""

    def setUp(self) -> None:
        self.steps = Steps()
        self.server = MemoryServer.of(Verification(), self.steps)

    def test_added(self) -> None:
        """It negotiates, gets its data sets and answers; C-ECHO beside it works as ever."""
        peer = self.server.connect()
        role, extended = RoleSelection(MPPS, True, True), SOPClassExtendedNegotiation(MPPS, b"\1\2")
        unasked = SOPClassExtendedNegotiation(uids.VERIFICATION, b"\1")
        ac = peer.associate({1: (MPPS, EVR), 3: (uids.VERIFICATION, IVR)}, role, extended, unasked)
        assert isinstance(ac, A_ASSOCIATE_AC)
        self.assertEqual([one.result for one in ac.presentation_contexts], [0, 0])
        self.assertEqual(ac.user_information.all(RoleSelection), (role,))
        answered = (SOPClassExtendedNegotiation(MPPS, b"\1"),)
        self.assertEqual(ac.user_information.all(SOPClassExtendedNegotiation), answered)
        create = MESSAGE_TYPES[0x0140]
        for expected in (0x0000, 0x0111):
            request = create(
                affected_sop_class_uid=MPPS,
                affected_sop_instance_uid="1.2.3",
                message_id=1,
                data_set=True,
            )
            response = peer.request(1, request, b"begun")
            self.assertEqual((response.status, response.affected_sop_instance_uid), (expected, "1.2.3"))
        self.assertEqual(self.steps.steps, {"1.2.3": b"begun"})
        echo = C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=2)
        self.assertEqual(peer.request(3, echo).status, 0)

    def test_nothing_else(self) -> None:
        """What it has no method for is answered 0211H."""
        peer = self.server.connect()
        peer.associate({1: (MPPS, EVR)})
        request = N_GET_RQ(requested_sop_class_uid=MPPS, requested_sop_instance_uid="1.2.3", message_id=1)
        self.assertEqual(peer.request(1, request).status, 0x0211)


class VerificationTests(SynchronousTestCase):
    def test_transfer_syntaxes(self) -> None:
        """PS3.4 Annex A: there is no data set to compress."""
        self.assertEqual(set(Verification().offer(uids.VERIFICATION).transfer_syntaxes), set(UNCOMPRESSED))

    def test_sop_class(self) -> None:
        """PS3.7 9.1.5: a C-ECHO is about the Verification SOP Class, or 0122H."""
        peer = MemoryServer.of(Verification()).connect()
        peer.associate()
        for sop_class, expected in ((uids.VERIFICATION, 0), (CT, 0x0122), ("", 0x0122)):
            request = C_ECHO_RQ(affected_sop_class_uid=sop_class, message_id=1)
            self.assertEqual(peer.request(1, request).status, expected, sop_class)


STORED = Stored("1.2.10", "1.2.20", "1.2.3", IVR, 1, 1, {})


class IndexedStore(MemoryStore):
    """A store whose sinks tell this of what they have stored."""

    def __init__(self, stored: Stored | None) -> None:
        super().__init__()
        self._stored = stored

    def open(self, meta: FileMeta) -> MemoryStoreSink:
        sink = super().open(meta)
        sink.stored = self._stored  # type: ignore[attr-defined]
        return sink


class FakeIndexing:
    """Whom a service tells what is stored; `told` is what it waits for."""

    def __init__(self) -> None:
        self.added: list[Stored] = []
        self.told: Deferred[None] = Deferred()

    def add(self, stored: Stored) -> Deferred[None]:
        self.added.append(stored)
        return self.told


class StorageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()

    def test_unknown_classes(self) -> None:
        """Asked to, it takes private SOP classes and storage classes to come, no other of the standard's."""
        for accept_unknown in (False, True):
            registry = ServiceRegistry([Storage(self.store, accept_unknown=accept_unknown)])
            for abstract_syntax, known, unknown in (
                (CT, True, True),
                ("1.2.840.10008.5.1.4.1.1.999", False, True),
                (PRIVATE, False, True),
                ("2.25.1", False, True),
                ("1.2.840.10008.5.1.4.1.2.2.1", False, False),
                ("1.2.840.10008.1.20.1", False, False),
                ("1.2.840.10008.5.1.4.31", False, False),
                ("../../etc", False, False),
            ):
                expected = unknown if accept_unknown else known
                self.assertEqual(registry.offer(abstract_syntax) is not None, expected, abstract_syntax)

    def test_offer(self) -> None:
        """It takes every transfer syntax of the standard's, and says that it keeps what it gets as it is."""
        offer = Storage(self.store).offer(CT)
        self.assertEqual(set(offer.transfer_syntaxes), set(uids.TRANSFER_SYNTAXES))
        self.assertIn(JPEG, offer.transfer_syntaxes)
        assert offer.extended_negotiation is not None
        self.assertEqual(offer.extended_negotiation(b""), bytes((2, 0, 3, 0, 0, 0)))
        self.assertEqual((offer.scu_role, offer.scp_role), (True, True))

    def test_extended_negotiation(self) -> None:
        """PS3.4 B.3.1: level 2 and bit preserving is answered where it is asked for, and only there."""
        for asked in ((), (SOPClassExtendedNegotiation(CT, bytes((1, 0, 0, 0, 1, 0))),)):
            ac = MemoryServer.of(Storage(self.store)).connect().associate({1: (CT, IVR)}, *asked)
            assert isinstance(ac, A_ASSOCIATE_AC)
            answered = ac.user_information.all(SOPClassExtendedNegotiation)
            expected = (SOPClassExtendedNegotiation(CT, bytes((2, 0, 3, 0, 0, 0))),) if asked else ()
            self.assertEqual(answered, expected)

    def test_file_meta(self) -> None:
        """PS3.10 7.1: the file has the command's UIDs, the context's transfer syntax and both AE titles."""
        peer = MemoryServer.of(Storage(self.store)).connect()
        peer.associate({1: (CT, JPEG), 3: (CT, IVR)}, calling=" SCU ")
        for context_id, transfer_syntax in ((1, JPEG), (3, IVR)):
            request = C_STORE_RQ(
                affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3", message_id=1, priority=0
            )
            self.assertEqual(peer.request(context_id, request, b"data").message_type, C_STORE_RSP)
            meta = FileMeta(CT, "1.2.3", transfer_syntax, "SCU", "PMOD")
            self.assertEqual(self.store.objects["1.2.3"], (meta, b"data"))

    def stored(self, store: MemoryStore, indexing: FakeIndexing) -> tuple[Peer, C_STORE_RQ]:
        """A connection to a server with an index, and a request."""
        peer = MemoryServer.of(Storage(store, indexing=indexing)).connect()
        peer.associate({1: (CT, IVR)})
        return peer, C_STORE_RQ(
            affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3", message_id=1, priority=0
        )

    def test_index(self) -> None:
        """With an index, an object is acknowledged when it is committed and the index told so."""
        indexing = FakeIndexing()
        store = IndexedStore(STORED)
        peer, request = self.stored(store, indexing)
        peer.send(*message(1, request, b"data"))
        self.assertEqual(peer.received(), [])
        self.assertEqual((indexing.added, list(store.objects)), ([STORED], ["1.2.3"]))
        indexing.told.callback(None)
        (response,) = peer.received()
        assert isinstance(response, Command)
        self.assertEqual(response.status, 0)

    def test_index_fails(self) -> None:
        """An index that cannot take the object is the answer; the object stays, and its note."""
        indexing = FakeIndexing()
        store = IndexedStore(STORED)
        peer, request = self.stored(store, indexing)
        peer.send(*message(1, request, b"data"))
        indexing.told.errback(DimseError(status.OUT_OF_RESOURCES, "index: database is locked"))
        (response,) = peer.received()
        assert isinstance(response, Command)
        self.assertEqual((response.status, response.error_comment), (0xA700, "index: database is locked"))
        self.assertEqual((list(store.objects), store.discarded), (["1.2.3"], 0))

    def test_nothing_for_the_index(self) -> None:
        """Where there is nothing that the index should know, or the object is refused, it is not told."""
        for store, expected in ((IndexedStore(None), 0), (IndexedStore(STORED), 0xA900)):
            if expected:
                store.commit_fault = DimseError(expected)
            indexing = FakeIndexing()
            peer, request = self.stored(store, indexing)
            self.assertEqual(peer.request(1, request, b"data").status, expected)
            self.assertEqual(indexing.added, [])

    def test_class_of_the_context(self) -> None:
        """PS3.4 B.2.3: a command about another SOP class than the context's is A900H, and no file begun."""
        opened: list[FileMeta] = []
        make = self.store.open

        def opening(meta: FileMeta) -> MemoryStoreSink:
            opened.append(meta)
            return make(meta)

        self.patch(self.store, "open", opening)
        peer = MemoryServer.of(Storage(self.store)).connect()
        peer.associate({1: (CT, IVR)})
        request = C_STORE_RQ(
            affected_sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
            affected_sop_instance_uid="1.2.3",
            message_id=1,
            priority=0,
        )
        self.assertEqual(peer.request(1, request, b"data").status, 0xA900)
        self.assertEqual((self.store.objects, self.store.discarded, opened), ({}, 0, []))
        accepted = C_STORE_RQ(
            affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3", message_id=2, priority=0
        )
        self.assertEqual(peer.request(1, accepted, b"data").status, 0)
        self.assertEqual([meta.sop_class_uid for meta in opened], [CT])
