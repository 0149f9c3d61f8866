"""The wire cases of the acceptance table, C01 to C93: what a peer sends and what it must see.

Bytes are put together here, not by the code under test. After each case a fresh peer's C-ECHO is answered,
nothing of the case is left, and one log line says how the connection ended.
"""

from __future__ import annotations

from struct import pack, unpack_from
from typing import Any

import attrs
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.acceptor import ApplicationEntity
from dicomtw.dimse.messages import (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_STORE_RQ,
    C_STORE_RSP,
    N_GET_RQ,
    N_GET_RSP,
    Command,
)
from dicomtw.feed import Disk
from dicomtw.limits import Limits
from dicomtw.security.access import AccessPolicy
from dicomtw.security.remote import Remote
from dicomtw.services import ServiceRegistry
from dicomtw.services.storage import Storage
from dicomtw.services.verification import Verification
from dicomtw.storage.part10 import FileMeta
from dicomtw.testing import MemoryServer, MemoryStore, Peer, at_once, message
from dicomtw.ul.items import (
    AsynchronousOperationsWindow,
    ImplementationVersionName,
    PresentationContextAC,
    RoleSelection,
    UserIdentityAC,
    UserIdentityRQ,
)
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RP, A_RELEASE_RQ
from tests.test_association import Held

IVR = uids.IMPLICIT_VR_LITTLE_ENDIAN
EVR = uids.EXPLICIT_VR_LITTLE_ENDIAN
JPEG = "1.2.840.10008.1.2.4.50"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
PRIVATE = "1.3.6.1.4.1.99999.1"
ARTIM = 30

#: What a case must see: RJ(result, source, reason) and AB(source, reason) as the acceptance table has them.
RJ = A_ASSOCIATE_RJ
AB = A_ABORT


def pdu(pdu_type: int, body: bytes, length: int | None = None, reserved: int = 0) -> bytes:
    """A PDU, whose length may lie."""
    return pack(">BBL", pdu_type, reserved, len(body) if length is None else length) + body


def item(item_type: int, body: bytes | str, length: int | None = None, reserved: int = 0) -> bytes:
    """An item or sub-item, whose length may lie."""
    body = body.encode() if isinstance(body, str) else body
    return pack(">BBH", item_type, reserved, len(body) if length is None else length) + body


def context(context_id: int, abstract_syntax: str, *transfer_syntaxes: str, reserved: int = 0) -> bytes:
    """A presentation context item of an A-ASSOCIATE-RQ."""
    body = pack("4B", context_id, *3 * [reserved]) + item(0x30, abstract_syntax, reserved=reserved)
    body += b"".join(item(0x40, transfer_syntax, reserved=reserved) for transfer_syntax in transfer_syntaxes)
    return item(0x20, body, reserved=reserved)


NAME = item(0x10, "1.2.840.10008.3.1.1.1")
ECHO = context(1, uids.VERIFICATION, IVR)
STORE = context(3, CT, IVR)
MAXIMUM_LENGTH = item(0x51, pack(">L", 16384))
USER = item(0x50, MAXIMUM_LENGTH + item(0x52, "1.2.3.4"))


def rq(
    *items: bytes,
    called: bytes = b"PMOD",
    calling: bytes = b"SCU",
    version: int = 1,
    reserved: int = 0,
) -> bytes:
    """An A-ASSOCIATE-RQ of these items; without any, of a good proposal."""
    fixed = pack(">HH", version, 0x0101 * reserved) + called.ljust(16) + calling.ljust(16)
    body = fixed + bytes([reserved]) * 32 + b"".join(items or (NAME, ECHO, STORE, USER))
    return pdu(0x01, body, reserved=reserved)


def user(*sub_items: bytes) -> bytes:
    """An A-ASSOCIATE-RQ whose user information also has `sub_items`."""
    return rq(NAME, ECHO, item(0x50, MAXIMUM_LENGTH + b"".join(sub_items)))


def about(item_type: int, uid: str, rest: bytes) -> bytes:
    """A sub-item that begins with the UID of the SOP class it is about."""
    return item(item_type, pack(">H", len(uid)) + uid.encode() + rest)


ROLE = about(0x54, CT, b"\1\1")
EXTENDED = about(0x56, CT, bytes(6))
COMMON = about(0x57, CT, pack(">H", 0) + pack(">H", 0))


def pdv(context_id: int, control_header: int, fragment: bytes, length: int | None = None) -> bytes:
    """A presentation-data-value item, whose length may lie."""
    length = len(fragment) + 2 if length is None else length
    return pack(">LBB", length, context_id, control_header) + fragment


def p_data(*pdvs: bytes) -> bytes:
    """A P-DATA-TF of these presentation-data-values."""
    return pdu(0x04, b"".join(pdvs))


def elements(*pairs: tuple[int, bytes]) -> bytes:
    """An encoded command set of (element number, value), with its group length."""
    body = b"".join(pack("<HHL", 0, number, len(value)) + value for number, value in pairs)
    return pack("<HHLL", 0, 0, 4, len(body)) + body


def us(number: int) -> bytes:
    return pack("<H", number)


VERIFICATION_UID = uids.VERIFICATION.encode() + b"\0"
ECHO_COMMAND = elements(
    (0x0002, VERIFICATION_UID), (0x0100, us(0x0030)), (0x0110, us(7)), (0x0800, us(0x0101))
)
ECHO_REQUEST = p_data(pdv(1, 3, ECHO_COMMAND))
ECHO_ANSWER = C_ECHO_RSP(affected_sop_class_uid=uids.VERIFICATION, message_id_being_responded_to=7, status=0)

RELEASE_RQ = pdu(0x05, bytes(4))
RELEASE_RP = pdu(0x06, bytes(4))
ABORT = pdu(0x07, bytes(4))
AC = pdu(0x02, pack(">HH", 1, 0) + b"PMOD".ljust(16) + b"SCU".ljust(16) + bytes(32) + NAME + USER)
REJECT = pdu(0x03, bytes((0, 1, 1, 1)))

DATA_SET = pack("<HHL", 8, 0x16, 26) + CT.encode() + b"\0" + pack("<HHL", 8, 0x18, 4) + b"1.23"


def c_store_rq(uid: str = "1.23", message_id: int = 1, sop_class: str = CT) -> Command:
    """A C-STORE request."""
    return C_STORE_RQ(
        affected_sop_class_uid=sop_class, affected_sop_instance_uid=uid, message_id=message_id, priority=0
    )


@attrs.frozen
class Case:
    """A row of the acceptance table.

    `send` is sent in one chunk; `sees` is all that the peer must see. The connection is then left to the
    peer to close until ARTIM, unless what was sent was an A-ABORT; `says` is in the log line.
    """

    id: str
    send: bytes
    sees: tuple[Any, ...]
    says: str
    section: str
    closes_at_once: bool = False


#: The first bytes of a connection.
FIRST = (
    Case("C05 08h", pdu(0x08, bytes(4)), (AB(0),), "unrecognized PDU type 08H", "Evt19/Sta2 AA-1"),
    Case("C05 FFh", pdu(0xFF, bytes(4)), (AB(0),), "unrecognized PDU type FFH", "Evt19/Sta2 AA-1"),
    Case("C06", b"GET / HTTP/1.1\r\nHost: pmod\r\n\r\n", (AB(0),), "HTTP", "AA-1"),
    Case("C06 TLS", bytes.fromhex("160301020001"), (AB(0),), "TLS ClientHello", "AA-1"),
    Case("C07", ECHO_REQUEST, (AB(0),), "P-DATA-TF in Sta2", "Evt10/Sta2 AA-1"),
    Case("C08", RELEASE_RQ, (AB(0),), "A-RELEASE-RQ in Sta2", "Evt12/Sta2 AA-1"),
    Case("C09", RELEASE_RP, (AB(0),), "A-RELEASE-RP in Sta2", "Evt13/Sta2 AA-1"),
    Case("C10", AC, (AB(0),), "A-ASSOCIATE-AC in Sta2", "Evt3/Sta2 AA-1"),
    Case("C11", REJECT, (AB(0),), "A-ASSOCIATE-RJ in Sta2", "Evt4/Sta2 AA-1"),
    Case("C12", ABORT, (), "A-ABORT by the service-user", "Evt16/Sta2 AA-2", closes_at_once=True),
    Case("C13", pdu(0x01, b"", 0xFFFFFFFF), (AB(0, 6),), "4294967295", "9.3.2; AA-1"),
    Case("C14", pdu(0x01, bytes((0, 1, 0, 0))), (AB(0, 6),), "A-ASSOCIATE-RQ ends", "9.3.2"),
    Case("C14 empty", pdu(0x01, b""), (AB(0, 6),), "its length is 0", "9.3.2"),
    Case("C15 10H", rq(item(0x10, "1.2", 90)), (AB(0, 6),), "item 10H says 90", "9.3.2.1"),
    Case("C15 20H", rq(NAME, ECHO[:2] + b"\xff\xff" + ECHO[4:]), (AB(0, 6),), "20H says 65535", "9.3.2.2"),
    Case("C15 50H", rq(NAME, ECHO, item(0x50, b"", 4)), (AB(0, 6),), "item 50H says 4", "9.3.2.3"),
    Case(
        "C15 30H",
        rq(NAME, item(0x20, bytes((1, 0, 0, 0)) + item(0x30, "1.2", 9)), USER),
        (AB(0, 6),),
        "item 30H says 9",
        "9.3.2.2.1",
    ),
    Case("C15 header", rq(NAME, ECHO, b"\x50\x00"), (AB(0, 6),), "ends 2 bytes inside", "9.3.2"),
    Case("C16 51H", user(item(0x51, b"\0\0")), (AB(0, 6),), "51H", "8:D.1"),
    Case("C16 54H", user(item(0x54, pack(">H", 99) + b"1.2\1\1")), (AB(0, 6),), "item 54H", "7:D.3.3.4"),
    Case("C16 56H", user(item(0x56, pack(">H", 99) + b"1.2")), (AB(0, 6),), "item 56H", "7:D.3.3.5"),
    Case("C16 57H", user(item(0x57, pack(">H", 99) + b"1.2")), (AB(0, 6),), "item 57H", "7:D.3.3.6"),
    Case("C16 58H", user(item(0x58, b"\1\0" + pack(">H", 99) + b"me")), (AB(0, 6),), "58H", "7:D.3.3.7"),
    Case("C16 51H twice", user(MAXIMUM_LENGTH), (AB(0, 6),), "51H appears twice", "8:D.1"),
    Case("C16 past 50H", user(item(0x54, b"", 500)), (AB(0, 6),), "item 54H says 500", "9.3.2.3"),
    Case("C20 0000", rq(version=0), (RJ(1, 2, 2),), "protocol version 0000H", "9.3.4 T9-21"),
    Case("C20 0002", rq(version=2), (RJ(1, 2, 2),), "protocol version 0002H", "9.3.4 T9-21"),
    Case("C22", rq(item(0x10, "1.2.3"), ECHO, USER), (RJ(1, 1, 2),), "context name '1.2.3'", "7.1.1.2"),
    Case("C23", rq(ECHO, USER), (RJ(1, 1, 2),), "application context name ''", "9.3.2.1"),
    Case("C24", rq(called=b"OTHER"), (RJ(1, 1, 7),), "'OTHER' is not 'PMOD'", "T9-21"),
    Case("C26 called", rq(called=b" "), (RJ(1, 1, 7),), "called AE title ''", "7.1.1.3"),
    Case("C26 calling", rq(calling=b" "), (RJ(1, 1, 3),), "calling AE title ''", "7.1.1.4"),
    Case("C26 NUL", rq(calling=bytes(16)), (RJ(1, 1, 3),), "control character", "7.1.1.4"),
    Case("C27 case", rq(called=b"pmod"), (RJ(1, 1, 7),), "'pmod' is not 'PMOD'", "5:6.2 AE"),
    Case("C28 control", rq(calling=b"SC\nU"), (RJ(1, 1, 3),), "'SC\\nU' has a control", "5:6.2"),
    Case("C28 backslash", rq(calling=b"SC\\U"), (RJ(1, 1, 3),), "a backslash", "5:6.2"),
    Case("C28 8 bits", rq(calling=b"SC\xdc"), (RJ(1, 1, 3),), "outside ASCII", "5:6.2"),
    Case("C28 called", rq(called=b"PMOD\x7f"), (RJ(1, 1, 7),), "is not 'PMOD'", "5:6.2"),
    Case("C30", rq(NAME, ECHO, context(1, CT, IVR), USER), (AB(2, 6),), "1 is used twice", "7.1.1.13"),
    Case("C31 2", rq(NAME, context(2, CT, IVR), USER), (AB(2, 6),), "ID 2 is not odd", "7.1.1.13"),
    Case("C31 0", rq(NAME, context(0, CT, IVR), USER), (AB(2, 6),), "ID 0 is not odd", "7.1.1.13"),
    Case(
        "C32",
        rq(NAME, *(context((2 * number + 1) % 256, CT, IVR) for number in range(200)), USER),
        (AB(2, 6),),
        "more than 128 presentation contexts",
        "7.1.1.13",
    ),
    Case("C33", rq(NAME, USER), (AB(2, 6),), "no presentation context", "9.3.2"),
    *(
        Case(f"C38 {length}", user()[:-8] + item(0x51, pack(">L", length)), (AB(2, 6),), "no room", "8:D.1")
        for length in range(1, 8)
    ),
    Case("RQ and more", rq(ECHO, USER) + ECHO_REQUEST, (RJ(1, 1, 2),), "application", "Evt10/Sta13 AA-6"),
    Case("RQ twice", rq(ECHO, USER) * 2, (RJ(1, 1, 2), AB(2, 2)), "application", "Evt6/Sta13 AA-7"),
)

#: What comes on an association with the contexts 1 (Verification) and 3 (CT); context 5 was refused.
LATER = (
    Case("C66", rq(), (AB(2, 2),), "A-ASSOCIATE-RQ in Sta6", "Evt6/Sta6 AA-8"),
    Case("C67", AC, (AB(2, 2),), "A-ASSOCIATE-AC in Sta6", "Evt3/Sta6 AA-8"),
    Case("C67 RJ", REJECT, (AB(2, 2),), "A-ASSOCIATE-RJ in Sta6", "Evt4/Sta6 AA-8"),
    Case("C68", RELEASE_RP, (AB(2, 2),), "A-RELEASE-RP in Sta6", "Evt13/Sta6 AA-8"),
    Case("C69", pdu(0x0A, bytes(4)), (AB(2, 1),), "unrecognized PDU type 0AH", "Evt19/Sta6 AA-8"),
    Case("C70", pdu(0x05, bytes(6)), (AB(2, 6),), "its length is 6", "9.3.6"),
    Case("C71", pdu(0x04, b""), (AB(2, 6),), "no room", "9.3.5"),
    Case("C72 0", p_data(pdv(1, 3, b"", 0)), (AB(2, 6),), "length of 0", "9.3.5.1"),
    Case("C72 1", p_data(pdv(1, 3, b"", 1)), (AB(2, 6),), "length of 1", "9.3.5.1"),
    Case("C73", p_data(pdv(1, 3, ECHO_COMMAND, 99)), (AB(2, 6),), "99 bytes where", "9.3.5.1"),
    Case("C74", p_data(pdv(1, 3, b"", 0xFFFFFFFF)), (AB(2, 6),), "4294967295 bytes", "9.3.5.1"),
    Case("C74 rest", p_data(pdv(1, 3, ECHO_COMMAND), b"xyz"), (AB(2, 6),), "left over", "9.3.5.1"),
    Case("C75", pdu(0x04, pdv(3, 0, b""), 1_200_000), (AB(2, 6),), "1200000 bytes; we receive", "8:D.1"),
    Case("C75 by 1", pdu(0x04, pdv(3, 0, b""), 262145), (AB(2, 6),), "262145 bytes; we receive", "8:D.1"),
    Case("C76", pdu(0x04, b"", 0x7FFFFFFF), (AB(2, 6),), "2147483647 bytes", "8:D.1"),
    Case("C77", p_data(pdv(9, 3, ECHO_COMMAND)), (AB(2, 6),), "context 9 is not accepted", "9.3.5.1"),
    Case("C78", p_data(pdv(5, 3, ECHO_COMMAND)), (AB(2, 6),), "context 5 is not accepted", "9.3.5.1"),
    Case("C81 empty", p_data(pdv(1, 3, b"")), (AB(2, 6),), "without a Command Field", "7:6.3.1"),
    Case("C81 random", p_data(pdv(1, 3, b"\xa5" * 64)), (AB(2, 6),), "in a command set", "7:6.3.1"),
    Case("C81 data", p_data(pdv(1, 2, ECHO_COMMAND)), (AB(2, 6),), "a command is due", "8:E.2"),
    Case(
        "C82 contexts",
        p_data(pdv(1, 1, ECHO_COMMAND[:10]), pdv(3, 3, ECHO_COMMAND[10:])),
        (AB(2, 6),),
        "inside a message",
        "8:E.2",
    ),
    Case(
        "C83",
        p_data(pdv(1, 3, elements((2, VERIFICATION_UID), (0x0100, us(0x30)), (0x0800, us(0x0101))))),
        (AB(2, 6),),
        "without message_id",
        "7:9.3.5",
    ),
    Case(
        "C84",
        p_data(pdv(1, 3, elements((0x0100, us(0x0999)), (0x0110, us(1)), (0x0800, us(0x0101))))),
        (AB(2, 6),),
        "Command Field 0999H",
        "7:E.1",
    ),
    Case(
        "C87",
        p_data(pdv(1, 3, ECHO_ANSWER.encode())),
        (AB(2, 6),),
        "C-ECHO-RSP to nothing",
        "7:9.3.5",
    ),
    Case("C88", ABORT, (), "by the", "Evt16/Sta6 AA-3", closes_at_once=True),
    Case(
        "C88 provider",
        pdu(0x07, bytes((0, 0, 2, 2))),
        (),
        "unexpected-PDU",
        "Evt16/Sta6 AA-3",
        closes_at_once=True,
    ),
    Case("C89", RELEASE_RQ, (A_RELEASE_RP(),), "released", "Evt14/Sta8 AR-4"),
    Case("C89 twice", RELEASE_RQ * 2, (A_RELEASE_RP(),), "released", "Evt12/Sta13 AA-6"),
    Case(
        "C89 pipelined",
        ECHO_REQUEST + RELEASE_RQ,
        (ECHO_ANSWER, A_RELEASE_RP()),
        "released",
        "7.2",
    ),
)

#: Ways to send the same things; all are answered with success.
FRAMINGS = {
    "C60": [ECHO_REQUEST],
    "C61 PDVs": [p_data(pdv(1, 1, ECHO_COMMAND[:20]), pdv(1, 3, ECHO_COMMAND[20:]))],
    "C61 PDUs": [p_data(pdv(1, 1, ECHO_COMMAND[:20])), p_data(pdv(1, 3, ECHO_COMMAND[20:]))],
    "C61 empty last": [p_data(pdv(1, 1, ECHO_COMMAND), pdv(1, 3, b""))],
    "C63 cut headers": [ECHO_REQUEST[:3], ECHO_REQUEST[3:9], ECHO_REQUEST[9:]],
    "C64": [bytes((octet,)) for octet in ECHO_REQUEST],
    "E.2 bits 2 to 7": [p_data(pdv(1, 0xFF, ECHO_COMMAND))],
    "9.3.1 reserved": [pdu(0x04, pdv(1, 3, ECHO_COMMAND), reserved=0xFF)],
}


class WireTestCase(SynchronousTestCase):
    """A server to attack, and what must be true after each attack."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.server = self.serve()

    def serve(self, limits: Limits | None = None, **changes: Any) -> MemoryServer:
        """A server called PMOD that takes anybody; `changes` are fields of its `ApplicationEntity`."""
        entity = ApplicationEntity(
            access=AccessPolicy(ae_title="PMOD", accept_any_ae=True),
            registry=ServiceRegistry([Verification(), Storage(self.store)]),
            disk=Disk(at_once),
        )
        self.server = MemoryServer(attrs.evolve(entity, **changes), limits)
        return self.server

    def associated(self, proposal: bytes | None = None) -> tuple[Peer, A_ASSOCIATE_AC]:
        """A peer whose proposal was accepted, and the acceptance."""
        peer = self.server.connect()
        refused = context(5, PRIVATE, IVR)
        peer.send(rq(NAME, ECHO, STORE, refused, USER) if proposal is None else proposal)
        (ac,) = peer.received()
        assert isinstance(ac, A_ASSOCIATE_AC), ac
        return peer, ac

    def assert_alive(self, case: str) -> None:
        """Nothing is left of the case, and a fresh peer is served and lets go."""
        self.assertEqual(self.server.factory.connections, {}, case)
        self.assertEqual(self.server.factory.associations, set(), case)
        self.assertEqual(self.server.clock.getDelayedCalls(), [], case)
        self.assert_served(case)

    def assert_served(self, case: str, calling: bytes = b"SCU") -> None:
        """A fresh peer's C-ECHO is answered, and its association released."""
        peer = self.server.connect()
        peer.send(rq(calling=calling), ECHO_REQUEST, RELEASE_RQ)
        ac, answer, released = peer.received()
        self.assertIsInstance(ac, A_ASSOCIATE_AC, case)
        self.assertEqual((answer, released), (ECHO_ANSWER, A_RELEASE_RP()), case)
        peer.close()

    def run_case(self, case: Case, peer: Peer) -> None:
        """Send what the case has, see what it says, leave the rest to ARTIM, and look at the log."""
        name = f"{case.id} ({case.section})"
        with capturedLogs() as events:
            peer.send(case.send)
            self.assertEqual(tuple(peer.received()), case.sees, name)
            self.assertEqual(peer.connected, not case.closes_at_once, name)
            self.server.clock.advance(ARTIM - 0.5)
            self.assertEqual(peer.connected, not case.closes_at_once, name)
            self.server.clock.advance(0.5)
            self.assertFalse(peer.connected, name)
            self.assertEqual(peer.received(), [], name)
        ends = [event["association"]["ended"] for event in events if "association" in event]
        self.assertEqual(len(ends), 1, name)
        self.assertIn(case.says, ends[0], f"{name}: {ends[0]}")
        self.assert_alive(name)


class TableTests(WireTestCase):
    def test_first_bytes(self) -> None:
        """C05 to C38: whatever a connection begins with, it sees what Table 9-10 says, and all else live."""
        for case in FIRST:
            self.serve()
            self.run_case(case, self.server.connect())

    def test_first_bytes_one_by_one(self) -> None:
        """The same cases, each byte in a chunk of its own: they see the same."""
        for case in FIRST:
            self.serve()
            peer = self.server.connect()
            for octet in case.send[:-1]:
                peer.send(bytes((octet,)))
            self.run_case(attrs.evolve(case, sees=self._rest(case, peer), send=case.send[-1:]), peer)

    def _rest(self, case: Case, peer: Peer) -> tuple[Any, ...]:
        seen = tuple(peer.received())
        self.assertEqual(seen, case.sees[: len(seen)], case.id)
        return case.sees[len(seen) :]

    def test_on_an_association(self) -> None:
        """C66 to C89: whatever comes on an association, it sees what Table 9-10 says, and all else live."""
        for case in LATER:
            self.serve()
            peer, _ = self.associated()
            self.run_case(case, peer)

    def test_framings(self) -> None:
        """C60 to C64: a C-ECHO is answered once however its bytes are cut."""
        for case, chunks in FRAMINGS.items():
            self.serve()
            peer, _ = self.associated()
            for chunk in chunks:
                self.assertEqual(peer.received(), [], case)
                peer.send(chunk)
            self.assertEqual(peer.received(), [ECHO_ANSWER], case)
            peer.close()
            self.assert_alive(case)

    def test_two_commands(self) -> None:
        """C62 (7.6): two commands in one segment get two answers."""
        peer, _ = self.associated()
        peer.send(ECHO_REQUEST * 2)
        self.assertEqual(peer.received(), [ECHO_ANSWER, ECHO_ANSWER])
        peer.close()
        self.assert_alive("C62")

    def test_everything_singly(self) -> None:
        """C64 (TCP): a whole association of single bytes."""
        peer = self.server.connect()
        for octet in rq() + ECHO_REQUEST + RELEASE_RQ:
            peer.send(bytes((octet,)))
        ac, *rest = peer.received()
        self.assertIsInstance(ac, A_ASSOCIATE_AC)
        self.assertEqual(rest, [ECHO_ANSWER, A_RELEASE_RP()])
        peer.close()
        self.assert_alive("C64")

    def test_command_and_data_set_in_one_pdu(self) -> None:
        """C65 (9.3.5): command and data set as two presentation-data-values of one P-DATA-TF are stored."""
        command = c_store_rq().encode()
        for case, data_set in {
            "whole": [pdv(3, 2, DATA_SET)],
            "two fragments": [pdv(3, 0, DATA_SET[:10]), pdv(3, 2, DATA_SET[10:])],
            "empty last fragment": [pdv(3, 0, DATA_SET), pdv(3, 2, b"")],
        }.items():
            self.store = MemoryStore()
            self.serve()
            peer, _ = self.associated()
            peer.send(p_data(pdv(3, 3, command), *data_set))
            (answer,) = peer.received()
            assert isinstance(answer, Command)
            self.assertEqual((answer.message_type, answer.status), (C_STORE_RSP, 0), case)
            self.assertEqual(self.store.objects["1.23"][1], DATA_SET, case)
            peer.close()
            self.assert_alive(case)


class TimeTests(WireTestCase):
    """C01 to C04, C17, C93: ARTIM, and nobody waits for anybody else."""

    def close_at_artim(self, peer: Peer, case: str, seconds_left: float) -> None:
        """The connection is closed when that time is over, not before, and without a word."""
        self.server.clock.advance(seconds_left - 0.5)
        self.assertTrue(peer.connected, case)
        with capturedLogs() as events:
            self.server.clock.advance(0.5)
        self.assertFalse(peer.connected, case)
        self.assertEqual(peer.received(), [], case)
        (ended,) = [event["association"]["ended"] for event in events if "association" in event]
        self.assertIn("no A-ASSOCIATE-RQ within the ARTIM time", ended, case)
        self.assert_alive(case)

    def test_silence(self) -> None:
        """C01, C02 (8:9.1.5): nothing, or three bytes of an A-ASSOCIATE-RQ, are closed at ARTIM."""
        for case, begun in {"C01": b"", "C02": rq()[:3], "C02 whole header": rq()[:80]}.items():
            self.serve()
            peer = self.server.connect()
            peer.send(begun)
            self.close_at_artim(peer, case, ARTIM)

    def test_configured(self) -> None:
        """C01: the time is the configured one."""
        self.serve(Limits(artim_timeout=5))
        self.close_at_artim(self.server.connect(), "C01", 5)

    def test_dribble(self) -> None:
        """C04 (9.1.5): an A-ASSOCIATE-RQ that comes at one byte a second does not extend the time."""
        peer = self.server.connect()
        proposal = rq()
        for second in range(29):
            peer.send(proposal[second : second + 1])
            self.server.clock.advance(1)
            self.assertTrue(peer.connected, f"after {second + 1} s")
        self.close_at_artim(peer, "C04", 1)

    def test_artim_stops(self) -> None:
        """9.1.5: a proposal in time stops the timer."""
        peer = self.server.connect()
        self.server.clock.advance(ARTIM - 0.5)
        peer.send(rq())
        self.server.clock.advance(1)
        self.assertTrue(peer.connected)
        peer.received()
        peer.send(ECHO_REQUEST)
        self.assertEqual(peer.received(), [ECHO_ANSWER])

    def test_restart(self) -> None:
        """AA-1: an abort just before ARTIM ends gives the peer the whole time again to close."""
        peer = self.server.connect()
        self.server.clock.advance(ARTIM - 1)
        peer.send(RELEASE_RQ)
        self.server.clock.advance(ARTIM - 1)
        self.assertTrue(peer.connected)
        self.server.clock.advance(1)
        self.assertFalse(peer.connected)

    def test_others_wait_for_nobody(self) -> None:
        """C03 (9.2.1): while twenty peers have sent three bytes, another one's C-ECHO is answered."""
        silent = [self.server.connect() for _ in range(20)]
        for peer in silent:
            peer.send(rq()[:3])
        self.assert_served("C03")
        self.assertTrue(all(peer.connected for peer in silent))
        for peer in silent:
            peer.close()
        self.assert_alive("C03")

    def test_come_and_go(self) -> None:
        """C17: after fifty connections that say nothing a C-ECHO is answered at once."""
        for _ in range(50):
            self.server.connect().close()
        self.assert_alive("C17")

    def test_socket_kept_after_release(self) -> None:
        """C93 (AR-4, AA-2): who keeps the socket after A-RELEASE-RP is closed at ARTIM."""
        peer, _ = self.associated()
        peer.send(RELEASE_RQ)
        self.assertEqual(peer.received(), [A_RELEASE_RP()])
        for _ in range(29):
            self.server.clock.advance(1)
            peer.send(ECHO_REQUEST)
        self.assertEqual(peer.received(), [])
        self.assertTrue(peer.connected)
        self.server.clock.advance(1)
        self.assertFalse(peer.connected)
        self.assert_alive("C93")


class NegotiationTests(WireTestCase):
    """C25 to C51: what is accepted, and how."""

    def test_unknown_caller(self) -> None:
        """C25 (T9-21): if only known AE titles are accepted, another one is rejected and a known one not."""
        known = Remote(aet="KNOWN")
        self.serve(access=AccessPolicy(ae_title="PMOD", remotes=(known,)))
        peer = self.server.connect()
        peer.send(rq())
        self.assertEqual(peer.received(), [RJ(1, 1, 3)])
        peer.close()
        self.assert_served("C25", calling=b"KNOWN")

    def test_padding(self) -> None:
        """C27 (5:6.2 AE): titles are equal after trimming, and come back as they were sent."""
        peer, ac = self.associated(rq(called=b"   PMOD", calling=b" SCU 1"))
        self.assertEqual((ac.called_ae_title, ac.calling_ae_title), ("   PMOD".ljust(16), " SCU 1".ljust(16)))
        peer.close()
        self.assert_alive("C27")

    def test_contexts(self) -> None:
        """C29, C34 to C36, C41, C44 (9.3.3.2): each context gets its result under its own ID."""
        accepted, unknown, no_syntax = 0, 3, 4
        cases: dict[str, tuple[list[bytes], list[tuple[int, int, str]]]] = {
            "C29": (
                [context(number, uids.VERIFICATION, IVR) for number in range(1, 256, 2)],
                [(number, accepted, IVR) for number in range(1, 256, 2)],
            ),
            "C34": ([ECHO, context(3, CT)], [(1, accepted, IVR), (3, no_syntax, IVR)]),
            "C35": ([context(1, PRIVATE, EVR, IVR)], [(1, unknown, EVR)]),
            "C36": ([context(1, CT, "1.2.3.4")], [(1, no_syntax, "1.2.3.4")]),
            "C36 no compression for C-ECHO": ([context(1, uids.VERIFICATION, JPEG)], [(1, no_syntax, JPEG)]),
            "C36 private beside known": ([context(1, CT, "1.2.3.4", JPEG)], [(1, accepted, JPEG)]),
            "C41": ([ECHO, context(3, "1." + "2" * 63, IVR)], [(1, accepted, IVR), (3, unknown, IVR)]),
            "C41 empty": ([context(1, "", IVR)], [(1, unknown, IVR)]),
            "C44": (
                [context(1, PRIVATE, IVR), context(3, CT, "1.2.3.4")],
                [(1, unknown, IVR), (3, no_syntax, "1.2.3.4")],
            ),
            "order of the requestor": (
                [context(1, CT, IVR, EVR), context(3, CT, JPEG, IVR), context(255, CT, EVR, IVR)],
                [(1, accepted, IVR), (3, accepted, JPEG), (255, accepted, EVR)],
            ),
        }
        for case, (proposed, answered) in cases.items():
            self.serve()
            peer, ac = self.associated(rq(NAME, *proposed, USER))
            expected = tuple(PresentationContextAC(*result) for result in answered)
            self.assertEqual(ac.presentation_contexts, expected, case)
            peer.close()
            self.assert_alive(case)

    def test_all_refused(self) -> None:
        """C44 (7.1.1.14): an association of refused contexts lives and is released."""
        peer, _ = self.associated(rq(NAME, context(1, PRIVATE, IVR), USER))
        peer.send(RELEASE_RQ)
        self.assertEqual(peer.received(), [A_RELEASE_RP()])
        peer.close()
        self.assert_alive("C44")

    def test_lenient(self) -> None:
        """C20, C37, C40, C43 (9.3.1): what is absent, unknown or reserved does not keep anybody out."""
        cases = {
            "C20 more bits": rq(version=0xFFFF),
            "C37 no user information": rq(NAME, ECHO),
            "C37 no maximum length": rq(NAME, ECHO, item(0x50, item(0x52, "1.2.3"))),
            "C37 no implementation": rq(NAME, ECHO, item(0x50, MAXIMUM_LENGTH)),
            "one role for each SOP class": user(ROLE, about(0x54, MR, b"\1\1")),
            "role selection for each context again, as DCMTK": user(ROLE, ROLE, ROLE[:-2] + b"\0\1"),
            "extensions again": user(EXTENDED, EXTENDED, COMMON, COMMON),
            "one extension for each SOP class": user(EXTENDED, about(0x56, MR, b""), COMMON),
            "C40 item 77h": rq(item(0x77, b"?"), NAME, ECHO, item(0x77, b""), USER),
            "C40 sub-item 5Fh": user(item(0x5F, b"?"), item(0x01, b"")),
            "C40 in a context": rq(NAME, item(0x20, ECHO[4:] + item(0x77, b"?")), USER),
            "C43": rq(
                item(0x10, uids.APPLICATION_CONTEXT_NAME, reserved=0xFF),
                context(1, uids.VERIFICATION, IVR, reserved=0xFF),
                item(0x50, item(0x51, pack(">L", 16384), reserved=0xFF), reserved=0xFF),
                reserved=0xFF,
            ),
            "items in another order": rq(USER, ECHO, NAME),
            "padded UIDs": rq(item(0x10, uids.APPLICATION_CONTEXT_NAME + "\0"), ECHO, USER),
        }
        for case, proposal in cases.items():
            self.serve()
            peer, ac = self.associated(proposal)
            self.assertEqual({one.result for one in ac.presentation_contexts}, {0}, case)
            peer.send(ECHO_REQUEST, pdu(0x05, b"\xff" * 4, reserved=0xFF))
            self.assertEqual(peer.received(), [ECHO_ANSWER, A_RELEASE_RP()], case)
            peer.close()
            self.assert_alive(case)

    def test_reserved_comes_back(self) -> None:
        """C43 (9.3.3): bytes 43 to 74 of the A-ASSOCIATE-AC are those of the A-ASSOCIATE-RQ."""
        _, ac = self.associated(rq(reserved=0xA5))
        self.assertEqual(ac.reserved, b"\xa5" * 32)

    def test_maximum_length(self) -> None:
        """C38 (8:D.1): we say what we receive, and send no P-DATA-TF longer than the peer receives."""
        for length in (0, 8, 9, 16, 64, 0xFFFFFFFF):
            self.serve(maximum_length=65536)
            peer, ac = self.associated(user()[:-8] + item(0x51, pack(">L", length)))
            self.assertEqual(ac.user_information.sub_items[0].encode(), item(0x51, pack(">L", 65536)))
            peer.send(ECHO_REQUEST)
            sent, at, lengths = peer.transport.value(), 0, []
            while at < len(sent):
                lengths.append(unpack_from(">L", sent, at + 2)[0])
                at += 6 + lengths[-1]
            self.assertLessEqual(max(lengths), length or 1 << 18, f"C38 {length}")
            self.assertTrue(all(one % 2 == 0 for one in lengths), "fragments are even (8:E.1)")
            self.assertEqual(peer.received(), [ECHO_ANSWER], f"C38 {length}")

    def test_own_maximum_length_is_none(self) -> None:
        """C38 (8:D.1): a server that sets no limit receives any length."""
        self.serve(maximum_length=0)
        peer, ac = self.associated()
        self.assertEqual(ac.user_information.sub_items[0].encode(), item(0x51, bytes(4)))
        data_set = bytes(300_000)
        peer.send(p_data(pdv(3, 3, c_store_rq().encode())), p_data(pdv(3, 2, data_set)))
        self.assertEqual(self.store.objects["1.23"][1], data_set)

    def test_role_selection(self) -> None:
        """C45 (7:D.3.3.4): a role item is answered only where one was proposed, of what we are."""
        _, ac = self.associated(rq(NAME, STORE, USER))
        self.assertEqual(ac.user_information.all(RoleSelection), ())
        role = item(0x54, pack(">H", len(CT)) + CT.encode() + b"\1\1")
        of_nothing = item(0x54, pack(">H", len(PRIVATE)) + PRIVATE.encode() + b"\1\1")
        _, ac = self.associated(rq(NAME, STORE, item(0x50, MAXIMUM_LENGTH + role + of_nothing)))
        self.assertEqual(ac.user_information.all(RoleSelection), (RoleSelection(CT, True, True),))

    def test_user_identity(self) -> None:
        """C47 (7:D.3.3.7): 59H is answered only if identities are supported, which they are not."""
        identity = UserIdentityRQ(2, True, b"user", b"passcode").encode()
        peer, ac = self.associated(user(identity))
        self.assertEqual(ac.user_information.all(UserIdentityAC), ())
        peer.close()
        self.assert_alive("C47")

    def test_window_only_if_asked(self) -> None:
        """7:D.3.3.3: 53H is answered only where one was proposed, with one operation of ours."""
        _, ac = self.associated()
        self.assertEqual(ac.user_information.all(AsynchronousOperationsWindow), ())
        for asked, answered in (
            ((0, 0), (4, 1)),
            ((3, 3), (3, 1)),
            ((4, 4), (4, 1)),
            ((99, 1), (4, 1)),
            ((1, 1), (1, 1)),
        ):
            window = item(0x53, pack(">HH", *asked))
            _, ac = self.associated(user(window))
            self.assertEqual(
                ac.user_information.all(AsynchronousOperationsWindow),
                (AsynchronousOperationsWindow(*answered),),
            )

    def test_version_name(self) -> None:
        """C49 (7:D.3.3.2): 55H is in the answer unless the option leaves it out; 52H always is."""
        for anonymous in (False, True):
            self.serve(no_implementation_version_name=anonymous)
            peer, ac = self.associated()
            names = [
                one.implementation_version_name for one in ac.user_information.all(ImplementationVersionName)
            ]
            self.assertEqual(names, [] if anonymous else [uids.IMPLEMENTATION_VERSION_NAME])
            self.assertIn(item(0x52, uids.IMPLEMENTATION_CLASS_UID), ac.encode())
            peer.close()
            self.assert_alive("C49")

    def test_default_transfer_syntax(self) -> None:
        """C50 (5:10.1): enforced, Implicit VR Little Endian is chosen where offered, else result 4."""
        self.serve(enforce_default_transfer_syntax=True)
        with capturedLogs() as events:
            peer, ac = self.associated(rq(NAME, context(1, CT, JPEG, EVR, IVR), context(3, CT, EVR), USER))
            peer.close()
        self.assertEqual(
            ac.presentation_contexts,
            (PresentationContextAC(1, 0, IVR), PresentationContextAC(3, 4, EVR)),
        )
        self.assertIn("Implicit VR Little Endian is enforced and was not proposed", events[-1]["summary"])
        self.assert_alive("C50")

    def test_preferred_transfer_syntaxes(self) -> None:
        """9.3.3.2: a preferred transfer syntax is chosen before others, but only if it was proposed."""
        self.serve(preferred_transfer_syntaxes=(JPEG, EVR))
        proposed = (context(1, CT, IVR, EVR, JPEG), context(3, CT, IVR, EVR), context(5, CT, IVR))
        _, ac = self.associated(rq(NAME, *proposed, USER))
        self.assertEqual([one.transfer_syntax for one in ac.presentation_contexts], [JPEG, EVR, IVR])


class LimitTests(WireTestCase):
    """C51 (T9-21): associations at a time."""

    def test_limit(self) -> None:
        """One more than the limit is rejected RJ(2,3,2), the others live, and an ended one makes room."""
        self.serve(Limits(max_associations=3))
        peers = [self.associated()[0] for _ in range(3)]
        rejected = self.server.connect()
        rejected.send(rq())
        self.assertEqual(rejected.received(), [RJ(2, 3, 2)])
        for peer in peers:
            peer.send(ECHO_REQUEST)
            self.assertEqual(peer.received(), [ECHO_ANSWER])
        peers.pop().close()
        self.assert_served("C51")
        for peer in (*peers, rejected):
            peer.close()
        self.assert_alive("C51")

    def test_no_slot_for_others(self) -> None:
        """Connections that are no associations, and rejected ones, take no place."""
        self.serve(Limits(max_associations=1))
        others = [self.server.connect() for _ in range(5)]
        others[0].send(rq(called=b"OTHER"))
        self.assertEqual(others[0].received(), [RJ(1, 1, 7)])
        self.assert_served("C51")

    def test_socket_kept_after_release(self) -> None:
        """C51, C93: who keeps the socket after release or abort holds nobody's place, and lives to ARTIM."""
        for case, end, sees in (("release", RELEASE_RQ, A_RELEASE_RP()), ("abort", REJECT, AB(2, 2))):
            self.serve(Limits(max_associations=1))
            peer, _ = self.associated()
            peer.send(end)
            self.assertEqual(peer.received(), [sees], case)
            self.assertEqual(self.server.factory.associations, set(), case)
            self.assert_served(case)
            self.assertTrue(peer.connected, case)
            self.server.clock.advance(ARTIM)
            self.assertFalse(peer.connected, case)
            self.assert_alive(case)

    def test_place_is_held_until_the_release_is_answered(self) -> None:
        """C51 (AR-7): a release that waits for an operation still holds its place."""
        held = Held(self.store)
        self.serve(Limits(max_associations=1), registry=ServiceRegistry([Verification(), held]))
        peer, _ = self.associated()
        peer.send(*message(3, c_store_rq(), DATA_SET), RELEASE_RQ)
        rejected = self.server.connect()
        rejected.send(rq())
        self.assertEqual(rejected.received(), [RJ(2, 3, 2)])
        held.let(1)
        self.assertEqual(len(peer.received()), 2)
        self.assert_served("C51")


class OperationTests(WireTestCase):
    """C85 to C91: requests out of place, and data sets that stay half."""

    def test_out_of_place(self) -> None:
        """C85, C86 (7:C.5): 0211H for an operation of nobody's, 0122H for one of another SOP class."""
        instance = {"requested_sop_class_uid": CT, "requested_sop_instance_uid": "1.2"}
        cases = {
            "C85": (3, N_GET_RQ(message_id=1, **instance), N_GET_RSP, 0x0211),
            "C86": (3, C_ECHO_RQ(message_id=1, affected_sop_class_uid=CT), C_ECHO_RSP, 0x0122),
            "C86 class": (1, C_ECHO_RQ(message_id=1, affected_sop_class_uid=CT), C_ECHO_RSP, 0x0122),
            "C-STORE for C-ECHO": (1, c_store_rq(), C_STORE_RSP, 0x0122),
            "C-STORE of another class": (3, c_store_rq(sop_class=MR), C_STORE_RSP, 0xA900),
        }
        for case, (context_id, request, answer, status) in cases.items():
            self.serve()
            peer, _ = self.associated()
            response = peer.request(context_id, request, DATA_SET)
            self.assertEqual((response.message_type, response.status), (answer, status), case)
            self.assertTrue(response.error_comment, case)
            peer.send(ECHO_REQUEST)
            self.assertEqual(peer.received(), [ECHO_ANSWER], case)
            self.assertEqual(self.store.objects, {}, case)
            peer.close()
            self.assert_alive(case)

    def test_data_set_that_stays_half(self) -> None:
        """C90, C91 (AA-3, AA-4): of a data set that breaks off nothing is left, of an earlier copy all is."""
        earlier = FileMeta(CT, "1.23", IVR), b"earlier"
        begun = p_data(pdv(3, 3, c_store_rq().encode())) + p_data(pdv(3, 0, DATA_SET[:10]))
        half_fragment = begun + p_data(pdv(3, 2, DATA_SET[10:]))[:-4]
        for case, sent, ending in (
            ("C90 A-ABORT", begun, ABORT),
            ("C90 A-ABORT of the provider", begun, pdu(0x07, bytes((0, 0, 2, 0)))),
            ("C91 FIN", begun, b""),
            ("C91 FIN inside a fragment", half_fragment, b""),
            ("C91 FIN before the data set", begun[: -len(p_data(pdv(3, 0, DATA_SET[:10])))], b""),
            ("C92 release", begun, RELEASE_RQ),
            ("C92 another command", begun, ECHO_REQUEST),
            ("C92 a command fragment", begun, p_data(pdv(3, 3, ECHO_COMMAND))),
        ):
            self.store = MemoryStore()
            self.store.objects["1.23"] = earlier
            self.serve()
            peer, _ = self.associated()
            peer.send(sent)
            if ending:
                peer.send(ending)
            peer.close()
            self.assertEqual(self.store.objects, {"1.23": earlier}, case)
            self.assertEqual(self.store.discarded, 1, case)
            self.assert_alive(case)

    def test_silence_inside_a_data_set(self) -> None:
        """7:9.3.5: a data set that stops coming is aborted by the DIMSE timeout, and nothing is left."""
        self.serve(Limits(dimse_timeout=20))
        peer, _ = self.associated()
        peer.send(*message(3, c_store_rq(), DATA_SET)[:1])
        self.server.clock.advance(19.5)
        self.assertEqual(peer.received(), [])
        self.server.clock.advance(0.5)
        self.assertEqual(peer.received(), [AB(0)])
        self.assertEqual((self.store.objects, self.store.discarded), ({}, 1))

    def test_release_is_a_pdu(self) -> None:
        """The kit's own PDUs are those that are put together here."""
        self.assertEqual(A_RELEASE_RQ().encode(), RELEASE_RQ)
        self.assertEqual(AB(2, 6).encode(), pdu(0x07, bytes((0, 0, 2, 6))))
        self.assertEqual(
            ECHO_COMMAND, C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=7).encode()
        )
