"""What a wrong, slow or hostile peer sends over a real socket, and what it must see.

The names C01 to C93 and S01 to S24 are those of the acceptance table for the acceptor side.
"""

from __future__ import annotations

import resource
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from struct import pack

import attrs

from dicomtw import uids
from dicomtw.dimse.messages import C_ECHO_RQ, N_GET_RQ, Command
from dicomtw.dimse.writer import p_data_header
from dicomtw.testing import associate_rq, message
from dicomtw.ul.items import (
    ContextResult,
    MaximumLength,
    PresentationContextRQ,
    RoleSelection,
    SOPClassExtendedNegotiation,
    SubItem,
    UserIdentityAC,
    UserIdentityRQ,
    UserInformation,
    encode_item,
)
from dicomtw.ul.pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    COMMAND,
    LAST,
    P_DATA_TF,
    PresentationDataValue,
    ReceivedPDU,
)
from tests.interop.cases import CasesTestCase
from tests.interop.files import stored_data_set
from tests.interop.scu import (
    CT,
    CT_IMPLICIT,
    VERIFICATION,
    Closed,
    Scu,
    c_store_rq,
    ct_data_set,
    element,
    everything_from,
    uid_element,
)
from tests.interop.strace import injected
from tests.interop.twistd import Twistd, wait_until

#: Short timers, in seconds, so that what runs into them does so soon.
ARTIM, DIMSE, IDLE = 1.0, 2.0, 3.0
QUICK = (f"--artim-timeout={ARTIM}", f"--dimse-timeout={DIMSE}", f"--idle-timeout={IDLE}")

IMPLICIT, EXPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN
ECHO = C_ECHO_RQ(affected_sop_class_uid=uids.VERIFICATION, message_id=7)
#: What the cases inside an association have agreed on; context 5 is refused.
CONTEXTS = {
    1: (uids.VERIFICATION, IMPLICIT),
    3: (CT, IMPLICIT),
    5: ("1.2.840.10008.1.9", IMPLICIT),
    7: (CT, "1.2.840.10008.1.2.1.99"),
}
PRIVATE_CLASS = "1.2.826.0.1.3680043.10.1"

MEGABYTE = 1 << 20


def said(answer: ReceivedPDU | Command) -> str:
    """An answer in the words of the tables below."""
    if isinstance(answer, A_ASSOCIATE_RJ):
        return f"RJ({answer.result},{answer.source},{answer.reason})"
    if isinstance(answer, A_ABORT):
        return f"AB({answer.source},{answer.reason})"
    if isinstance(answer, A_ASSOCIATE_AC):
        return "AC " + " ".join(f"{one.context_id}:{one.result}" for one in answer.presentation_contexts)
    if isinstance(answer, Command):
        return f"{answer.status:04X}H"
    return type(answer).__name__


# ---- bytes ------------------------------------------------------------------------------------------


def pdu(pdu_type: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU, with the length that is true unless another is told."""
    return pack(">BxL", pdu_type, len(body) if length is None else length) + body


def rq(
    *items: bytes,
    version: int = 1,
    called: bytes = b"PMOD",
    calling: bytes = b"SCU",
    reserved: bytes = bytes(32),
) -> bytes:
    """An A-ASSOCIATE-RQ of items that may be anything."""
    fixed = pack(">Hxx16s16s32s", version, called.ljust(16), calling.ljust(16), reserved)
    return pdu(0x01, fixed + b"".join(items))


APPLICATION_CONTEXT = encode_item(0x10, uids.APPLICATION_CONTEXT_NAME.encode())
VERIFICATION_CONTEXT = PresentationContextRQ(1, uids.VERIFICATION, (IMPLICIT,)).encode()
USER_INFORMATION = UserInformation((MaximumLength(16384),)).encode()
GOOD_ITEMS = (APPLICATION_CONTEXT, VERIFICATION_CONTEXT, USER_INFORMATION)


def user_information(*sub_items: bytes) -> bytes:
    """Item 50H of sub-items that may be anything."""
    return encode_item(0x50, b"".join(sub_items))


def rq_with(*sub_items: bytes) -> bytes:
    """An A-ASSOCIATE-RQ that is good but for its user information, perhaps."""
    return rq(APPLICATION_CONTEXT, VERIFICATION_CONTEXT, user_information(*sub_items))


def rq_of(contexts: Sequence[tuple[int, str, Sequence[str]]], *sub_items: SubItem) -> bytes:
    """An A-ASSOCIATE-RQ with these presentation contexts, in this order."""
    items = (PresentationContextRQ(number, syntax, tuple(transfer)) for number, syntax, transfer in contexts)
    return A_ASSOCIATE_RQ(
        "PMOD", "SCU", tuple(items), UserInformation((MaximumLength(16384), *sub_items))
    ).encode()


def p_data(*values: tuple[int, int, bytes]) -> bytes:
    """A P-DATA-TF of presentation-data-values (context ID, control header, fragment)."""
    return P_DATA_TF(tuple(PresentationDataValue(*value) for value in values)).encode()


def command(values: bytes, context_id: int = 1) -> bytes:
    """A P-DATA-TF with a whole command set, the elements of which may be anything."""
    return p_data((context_id, COMMAND | LAST, element(0x00000000, pack("<L", len(values))) + values))


def us(number: int, value: int) -> bytes:
    """A command element of VR US."""
    return element(number, pack("<H", value))


def store(uid: str, data_set: bytes, *, context_id: int = 3, sop_class_uid: str = CT) -> bytes:
    """The PDUs of a C-STORE."""
    return b"".join(message(context_id, c_store_rq(uid, sop_class_uid), data_set))


# ---- cases ------------------------------------------------------------------------------------------


@attrs.frozen
class Case:
    """A row: what is sent, the answers allowed (each a list of what `said` says), and a word of the log.

    An answer may end in ``*``: whatever follows.
    """

    name: str
    send: bytes
    answers: tuple[str, ...]
    log: str


AB_6 = ("AB(0,6)", "AB(2,6)")
AB_0 = ("AB(0,0)",)
SUB_ITEM_PAST_END = pack(">BxHH", 0x54, 40, 17) + b"1.2.840.10008.1.1" + b"\1\0"

#: On a new connection (Sta2).
FIRST = [
    Case("C05 08h", pdu(0x08, bytes(4)), AB_0, "unrecognized PDU type 08H"),
    Case("C05 FFh", pdu(0xFF, bytes(4)), AB_0, "unrecognized PDU type FFH"),
    Case("C06 HTTP", b"GET / HTTP/1.1\r\nHost: pmod\r\n\r\n", AB_0, "an HTTP request?"),
    Case("C07 P-DATA", p_data((1, 3, ECHO.encode())), AB_0, "P-DATA-TF in Sta2"),
    Case("C08 RELEASE-RQ", A_RELEASE_RQ().encode(), AB_0, "A-RELEASE-RQ in Sta2"),
    Case("C09 RELEASE-RP", A_RELEASE_RP().encode(), AB_0, "A-RELEASE-RP in Sta2"),
    Case("C10 AC", A_ASSOCIATE_AC("PMOD", "SCU").encode(), AB_0, "A-ASSOCIATE-AC in Sta2"),
    Case("C11 RJ", A_ASSOCIATE_RJ(1, 1, 1).encode(), AB_0, "A-ASSOCIATE-RJ in Sta2"),
    Case("C12 ABORT", A_ABORT(0, 0).encode(), ("closed",), "peer sent A-ABORT"),
    Case("C13 FFFFFFFF", pdu(0x01, bytes(68), 0xFFFFFFFF), AB_6, "says its length is 4294967295"),
    Case("C14 4 bytes", pdu(0x01, bytes(4)), AB_6, "A-ASSOCIATE-RQ ends"),
    Case("C15 item", rq(pack(">BxH", 0x10, 500) + b"1.2"), AB_6, "item 10H says 500 bytes"),
    Case(
        "C15 syntax", rq(APPLICATION_CONTEXT, encode_item(0x20, b"\1\0\0\0\x30\0\xff\xff")), AB_6, "item 30H"
    ),
    Case("C16 role", rq_with(SUB_ITEM_PAST_END), AB_6, "item 54H"),
    Case("C16 role UID", rq_with(encode_item(0x54, pack(">H", 99) + b"1.2")), AB_6, "item 54H"),
    Case("C16 extended", rq_with(encode_item(0x56, pack(">H", 99) + b"1.2")), AB_6, "item 56H"),
    Case("C16 user", rq_with(encode_item(0x58, pack(">BBH", 1, 0, 99) + b"me")), AB_6, "item 58H"),
    Case("C16 length", rq_with(encode_item(0x51, b"\0\0\x40")), AB_6, "item 51H"),
    Case("C20 0000", rq(*GOOD_ITEMS, version=0), ("RJ(1,2,2)",), "protocol version 0000H"),
    Case("C20 0002", rq(*GOOD_ITEMS, version=2), ("RJ(1,2,2)",), "protocol version 0002H"),
    Case("C20 0003", rq(*GOOD_ITEMS, version=3), ("AC 1:0",), ""),
    Case(
        "C22 application context",
        rq(encode_item(0x10, b"1.2.3"), VERIFICATION_CONTEXT, USER_INFORMATION),
        ("RJ(1,1,2)",),
        "application context name '1.2.3'",
    ),
    Case(
        "C23", rq(VERIFICATION_CONTEXT, USER_INFORMATION), ("RJ(1,1,2)", *AB_6), "application context name ''"
    ),
    Case(
        "C24 called",
        rq(*GOOD_ITEMS, called=b"OTHER"),
        ("RJ(1,1,7)",),
        "called AE title 'OTHER' is not 'PMOD'",
    ),
    Case("C26 called", rq(*GOOD_ITEMS, called=b""), ("RJ(1,1,7)",), "called AE title ''"),
    Case("C26 calling", rq(*GOOD_ITEMS, calling=b""), ("RJ(1,1,3)",), "is empty or all spaces"),
    Case(
        "C27 padding", rq(*GOOD_ITEMS, called=b"     PMOD", calling=b"   SCU"), ("AC 1:0",), "'SCU' to 'PMOD'"
    ),
    Case("C27 case", rq(*GOOD_ITEMS, called=b"pmod"), ("RJ(1,1,7)",), "'pmod'"),
    Case("C28 backslash", rq(*GOOD_ITEMS, calling=b"S\\CU"), ("RJ(1,1,3)",), "a backslash"),
    Case("C28 control", rq(*GOOD_ITEMS, calling=b"S\nCU"), ("RJ(1,1,3)",), r"'S\nCU'"),
    Case("C28 Latin", rq(*GOOD_ITEMS, calling=b"\xc4E"), ("RJ(1,1,3)",), "outside ASCII"),
    Case(
        "C29 128",
        rq_of([(number, uids.VERIFICATION, [IMPLICIT]) for number in range(1, 256, 2)]),
        ("AC " + " ".join(f"{number}:0" for number in range(1, 256, 2)),),
        "128 contexts accepted",
    ),
    Case("C30", rq_of([(1, CT, [IMPLICIT]), (1, uids.VERIFICATION, [IMPLICIT])]), ("AB(2,6)",), "used twice"),
    Case("C31 2", rq_of([(2, CT, [IMPLICIT])]), ("AB(2,6)",), "context ID 2 is not odd"),
    Case("C31 0", rq_of([(0, CT, [IMPLICIT])]), ("AB(2,6)",), "context ID 0 is not odd"),
    Case(
        "C32 200",
        rq_of([(number % 128 * 2 + 1, CT, [IMPLICIT]) for number in range(200)]),
        ("AB(2,6)",),
        "A-ASSOCIATE-RQ proposes more than 128 presentation contexts",
    ),
    Case(
        "C33", rq(APPLICATION_CONTEXT, USER_INFORMATION), ("AB(2,6)", "RJ(1,1,1)"), "no presentation context"
    ),
    Case("C34", rq_of([(1, CT, [])]), ("AC 1:4",), "no transfer syntax proposed"),
    Case("C35", rq_of([(1, PRIVATE_CLASS, [IMPLICIT])]), ("AC 1:3",), "SOP class not supported"),
    Case("C36", rq_of([(1, CT, ["1.2.3.4"])]), ("AC 1:4",), "no proposed transfer syntax supported"),
    Case("C37 none", rq(APPLICATION_CONTEXT, VERIFICATION_CONTEXT), ("AC 1:0",), ""),
    Case("C37 empty", rq_with(), ("AC 1:0",), ""),
    Case("C38", rq_with(encode_item(0x51, bytes(4))), ("AC 1:0",), ""),
    Case("C40 item 77h", rq(encode_item(0x77, b"odd"), *GOOD_ITEMS, encode_item(0x77, b"")), ("AC 1:0",), ""),
    Case("C40 5Fh", rq_with(encode_item(0x5F, b"odd"), MaximumLength(9999).encode()), ("AC 1:0",), ""),
    Case("C41 UID", rq_of([(1, "1." + "2" * 70, [IMPLICIT])]), ("AC 1:3", *AB_6), "SOP class not supported"),
    Case("C41 ASCII", rq_of([(1, "\xff\x1b[2J", [IMPLICIT])]), ("AC 1:3", *AB_6), ""),
    Case("C43", rq(*GOOD_ITEMS, reserved=b"\xff" * 32), ("AC 1:0",), ""),
    Case("C44", rq_of([(1, "1.2.3", [IMPLICIT]), (3, "1.2.4", [IMPLICIT])]), ("AC 1:3 3:3",), "2 refused"),
    Case("maximum length 4", rq_with(MaximumLength(4).encode()), AB_6, "no room for a fragment"),
]

ECHO_BYTES = ECHO.encode()
HALF = len(ECHO_BYTES) // 2
ECHO_PDU = p_data((1, COMMAND | LAST, ECHO_BYTES))
GOOD = ct_data_set("1.2.3.100")


def nested(depth: int, tag: int = 0x00080006) -> bytes:
    """Sequences within sequences, of undefined length."""
    opened = pack("<HHL", tag >> 16, tag & 0xFFFF, 0xFFFFFFFF) + pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = pack("<HHL", 0xFFFE, 0xE00D, 0) + pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return opened * depth + closed * depth


#: Inside an association (Sta6) with `CONTEXTS`.
INSIDE = [
    Case("C60", ECHO_PDU, ("0000H",), "1 echoes"),
    Case("C61 2 PDVs", p_data((1, 1, ECHO_BYTES[:HALF]), (1, 3, ECHO_BYTES[HALF:])), ("0000H",), "1 echoes"),
    Case(
        "C61 2 PDUs",
        p_data((1, 1, ECHO_BYTES[:HALF])) + p_data((1, 3, ECHO_BYTES[HALF:])),
        ("0000H",),
        "1 echoes",
    ),
    Case("C61 empty last", p_data((1, 1, ECHO_BYTES), (1, 3, b"")), ("0000H",), "1 echoes"),
    Case("C62 2 commands", ECHO_PDU * 2, ("0000H 0000H",), "2 echoes"),
    Case(
        "C65 one PDU",
        p_data((3, 3, c_store_rq("1.2.3.100").encode()), (3, 2, GOOD)),
        ("0000H",),
        "1 objects",
    ),
    Case("header bits 2-7", p_data((1, 0xFF, ECHO_BYTES)), ("0000H",), "1 echoes"),
    Case("C66 RQ", rq(*GOOD_ITEMS), ("AB(2,2)",), "A-ASSOCIATE-RQ in Sta6"),
    Case("C67 AC", A_ASSOCIATE_AC("PMOD", "SCU").encode(), ("AB(2,2)",), "A-ASSOCIATE-AC in Sta6"),
    Case("C67 RJ", A_ASSOCIATE_RJ(1, 1, 1).encode(), ("AB(2,2)",), "A-ASSOCIATE-RJ in Sta6"),
    Case("C68 RELEASE-RP", A_RELEASE_RP().encode(), ("AB(2,2)",), "A-RELEASE-RP in Sta6"),
    Case("C69 0Ah", pdu(0x0A, bytes(4)), ("AB(2,1)",), "unrecognized PDU type 0AH"),
    Case("C71", pdu(0x04, b""), ("AB(2,6)",), "P-DATA-TF of 0 bytes"),
    Case("C72 0", pdu(0x04, pack(">LBB", 0, 1, 3)), ("AB(2,6)",), "length of 0"),
    Case("C72 1", pdu(0x04, pack(">LBB", 1, 1, 3)), ("AB(2,6)",), "length of 1"),
    Case("C73 past PDU", pdu(0x04, pack(">LBB", 100, 1, 3) + bytes(20)), ("AB(2,6)",), "100 bytes where 22"),
    Case("C74", pdu(0x04, pack(">LBB", 0xFFFFFFFF, 1, 3) + bytes(20)), ("AB(2,6)",), "4294967295 bytes"),
    Case("C75", pdu(0x04, pack(">LBB", 1199998, 3, 0), 1200004), ("AB(2,6)",), "P-DATA-TF of 1200004 bytes"),
    Case("C76", pdu(0x04, b"", 0x7FFFFFFF), ("AB(2,6)",), "P-DATA-TF of 2147483647 bytes"),
    Case("C77 unknown", p_data((99, 3, ECHO_BYTES)), ("AB(2,6)",), "context 99 is not accepted"),
    Case("C78 refused", p_data((5, 3, ECHO_BYTES)), ("AB(2,6)",), "context 5 is not accepted"),
    Case("C81 empty", p_data((1, 3, b"")), ("AB*",), "without a Command Field"),
    Case("C81 random", p_data((1, 3, bytes(range(7, 99)))), ("AB*",), "in a command set"),
    Case("C81 endless", p_data(*[(1, 1, b"\0" * 9000)] * 8), ("AB*",), "command set"),
    Case(
        "C83 no Message ID",
        command(uid_element(0x00000002, uids.VERIFICATION) + us(0x100, 0x30) + us(0x800, 0x101)),
        ("AB*",),
        "C-ECHO-RQ without message_id",
    ),
    Case(
        "C84 0999h",
        command(us(0x100, 0x999) + us(0x110, 1) + us(0x800, 0x101)),
        ("AB*",),
        "unknown Command Field 0999H",
    ),
    Case(
        "C85 N-GET",
        b"".join(
            message(
                3,
                N_GET_RQ(requested_sop_class_uid=CT, requested_sop_instance_uid="1.2", message_id=1),
            )
        ),
        ("0211H",),
        "1 x 0211H",
    ),
    Case("C86 C-ECHO", b"".join(message(3, ECHO)), ("0122H",), "1 x 0122H"),
    Case(
        "C87 8030h",
        command(us(0x100, 0x8030) + us(0x120, 1) + us(0x800, 0x101) + us(0x900, 0)),
        ("AB*",),
        "C-ECHO-RSP to nothing that we asked",
    ),
    Case("data set first", p_data((3, 2, GOOD)), ("AB(2,6)",), "where a command is due"),
    Case(
        "command in data set",
        p_data((3, 3, c_store_rq("1.2").encode()), (3, 3, ECHO_BYTES)),
        ("AB(2,6)",),
        "command fragment inside a data set",
    ),
    Case(
        "context changes",
        p_data((3, 3, c_store_rq("1.2").encode()), (1, 3, ECHO_BYTES)),
        ("AB(2,6)",),
        "inside a message in 3",
    ),
    Case("S01", store("1.2.3.100", GOOD), ("0000H",), "1 objects"),
    Case("S02", store("1.2.3.100", GOOD) * 2, ("0000H 0000H",), "2 objects"),
    Case("S04 instance", store("1.2.3.101", GOOD), ("A900H",), "1 x A900H"),
    Case("S05 class", store("1.2.3.100", ct_data_set("1.2.3.100", sop_class_uid="1.2")), ("A900H",), "A900H"),
    Case("S05 context", store("1.2.3.100", GOOD, sop_class_uid="1.2.3"), ("A900H", "0122H"), "1 x "),
    Case("S07", store("../../x", ct_data_set("../../x")), ("0117H",), "1 x 0117H"),
    Case("S08", store("/tmp/x", ct_data_set("/tmp/x")), ("0117H",), "1 x 0117H"),
    Case("S09 ..", store("..", ct_data_set("..")), ("0117H",), "1 x 0117H"),
    Case("S09 .", store(".", ct_data_set(".")), ("0117H",), "1 x 0117H"),
    Case("S09 NUL", store("1.2\0.3", ct_data_set("1.2\0.3")), ("0117H",), "1 x 0117H"),
    Case("S09 empty", store("", ct_data_set("")), ("0117H",), "1 x 0117H"),
    Case("S09 65", store("1" * 65, ct_data_set("1" * 65)), ("0117H",), "1 x 0117H"),
    Case("S11", store("1.02.3", ct_data_set("1.02.3")), ("0000H",), "1 objects"),
    Case("S12", store("abc.def", ct_data_set("abc.def")), ("0117H",), "1 x 0117H"),
    Case(
        "S09 study",
        store("1.2.3.102", ct_data_set("1.2.3.102", study="../../up")),
        ("0000H",),
        "1 objects",
    ),
    Case("S13", store("1.2.3.103", bytes(range(256)) * 8) + ECHO_PDU, ("C000H 0000H",), "1 x C000H"),
    Case("S13 empty", store("1.2.3.103", b""), ("C000H", "A900H"), "1 x "),
    Case(
        "S16 odd lengths",
        p_data((3, 3, c_store_rq("1.2.3.100").encode()), (3, 0, GOOD[:33]), (3, 2, GOOD[33:])),
        ("0000H",),
        "fragments of odd length",
    ),
    Case("S18 60", store("1.2.3.104", nested(60) + ct_data_set("1.2.3.104")), ("0000H",), "1 objects"),
    Case("S19 2000", store("1.2.3.105", nested(2_000) + ct_data_set("1.2.3.105")), ("C000H", "0000H"), ""),
    Case(
        "S20 100000", store("1.2.3.106", nested(100_000) + ct_data_set("1.2.3.106")), ("C000H", "0000H"), ""
    ),
    Case(
        "S20 behind",
        store("1.2.3.107", ct_data_set("1.2.3.107") + nested(100_000, 0x7FE10006)),
        ("0000H",),
        "1 objects",
    ),
    Case("not deflated", store("1.2.3.108", b"\xff" * 1000, context_id=7), ("C000H",), "1 x C000H"),
    # Some writers encode with implicit VR whatever the transfer syntax says; that is not forgiven here.
    Case("not deflated S04", store("1.2.3.108", GOOD, context_id=7), ("C000H",), "1 x C000H"),
    Case("implicit", store("1.2.3.109", ct_data_set("1.2.3.109"), context_id=7), ("C000H",), "1 x C000H"),
]


def matches(allowed: Sequence[str], answer: str) -> bool:
    """Whether an answer is one of those allowed."""
    return any(answer == one or (one.endswith("*") and answer.startswith(one[:-1])) for one in allowed)


class TableTests(CasesTestCase):
    def test_table(self) -> None:
        """Each case gets its answer and leaves one line; others are served; nothing is left behind."""
        server = Twistd(self, *QUICK)
        self._go_through_all(server)
        # What is allocated once has been by now.
        rss, fds = server.rss, server.fds
        self._go_through_all(server)
        self.assertLessEqual(server.rss - rss, 8 * MEGABYTE)
        wait_until(lambda: server.fds <= fds, f"{fds} file descriptors as before")
        server.wait_until_nothing_comes_in()
        studies = {path.name for path in server.store.iterdir() if not path.name.startswith(".")}
        self.assertEqual(studies, {"1.2.3", "unknown-study", "superseded"})
        self.assertEqual([path.name for path in server.directory.parent.glob("up*")], [])

    def _go_through_all(self, server: Twistd) -> None:
        for inside, cases in ((False, FIRST), (True, INSIDE)):
            for case in cases:
                with self.case(case.name):
                    self._go_through(server, case, inside)
                with self.case("C-ECHO after", case.name):
                    before = len(server.summaries)
                    with Scu(server.address) as scu:
                        scu.associate()
                        self.assertEqual(scu.echo(), 0)
                        scu.release()
                    server.wait_for_summaries(before + 1)

    def _go_through(self, server: Twistd, case: Case, inside: bool) -> None:
        before = len(server.summaries)
        with Scu(server.address) as scu:
            if inside:
                self.assertEqual(said(scu.associate(CONTEXTS)), "AC 1:0 3:0 5:3 7:0")
            scu.send(case.send)
            wanted = len(case.answers[0].split()) if inside else 1
            answers: list[str] = []
            try:
                while len(answers) < wanted:
                    answers.append(said(scu.receive()))
            except Closed:
                answers.append("closed")
            self.assertTrue(matches(case.answers, " ".join(answers)), answers)
            if answers[-1].startswith("AC") or answers[-1].endswith("H"):
                scu.release()
        line = server.wait_for_summaries(before + 1)[before]
        self.assertIn(case.log, line)
        if inside and answers[-1].endswith("H"):
            self.assertTrue(line.endswith("; released"), line)
        self.assertEqual(len(server.summaries), before + 1, "one line for each connection")


class NegotiationTests(CasesTestCase):
    """What the A-ASSOCIATE-AC holds besides the results."""

    def test_answers_to_sub_items(self) -> None:
        """C45, C47: sub-items are answered only if they were proposed, and no more than we do."""
        server = Twistd(self)
        storage = (1, CT, [IMPLICIT])
        role = RoleSelection(CT, scu_role=True, scp_role=True)
        scp = RoleSelection(CT, scu_role=False, scp_role=True)
        extended = SOPClassExtendedNegotiation(CT, bytes((2, 0, 3, 0, 0, 0)))
        foreign = SOPClassExtendedNegotiation("1.2.3", b"1")
        identity = UserIdentityRQ(1, positive_response_requested=True, primary_field=b"me")
        cases: list[tuple[str, tuple[SubItem, ...], type[SubItem], int]] = [
            ("no role", (), RoleSelection, 0),
            ("role", (role,), RoleSelection, 1),
            ("role of the SCP alone", (scp,), RoleSelection, 1),
            ("role of another class", (RoleSelection("1.2.3", True, True),), RoleSelection, 0),
            ("no extended negotiation", (), SOPClassExtendedNegotiation, 0),
            ("extended negotiation", (extended,), SOPClassExtendedNegotiation, 1),
            ("extended negotiation of another class", (foreign,), SOPClassExtendedNegotiation, 0),
            ("user identity", (identity,), UserIdentityAC, 0),
        ]
        for what, sub_items, kind, number in cases:
            with self.case(what), Scu(server.address) as scu:
                scu.send(rq_of([storage], *sub_items))
                answer = scu.receive()
                assert isinstance(answer, A_ASSOCIATE_AC), answer
                self.assertEqual(answer.presentation_contexts[0].result, ContextResult.ACCEPTANCE)
                found = answer.user_information.all(kind)
                self.assertEqual(len(found), number, found)
                if kind is RoleSelection and number:
                    self.assertEqual(found, sub_items)  # granted: we are stored to, and send for C-GET
                scu.release()

    def test_titles_are_returned(self) -> None:
        """AE titles and reserved bytes of the request come back in the answer as they were sent."""
        server = Twistd(self)
        request = rq(*GOOD_ITEMS, called=b"  PMOD", calling=b" SCU", reserved=bytes(range(32)))
        with Scu(server.address) as scu:
            scu.send(request)
            self.assertEqual(scu.socket.recv(74)[10:], request[10:74])

    def test_limit(self) -> None:
        """C51: one association too many is rejected for now, and those that are there live on."""
        server = Twistd(self, "--max-associations=2")
        with Scu(server.address) as first, Scu(server.address) as second, Scu(server.address) as third:
            self.assertEqual(said(first.associate()), "AC 1:0")
            self.assertEqual(said(second.associate()), "AC 1:0")
            self.assertEqual(said(third.associate()), "RJ(2,3,2)")
            self.assertEqual((first.echo(), second.echo()), (0, 0))
            second.release()
            with Scu(server.address) as fourth:
                self.assertEqual(said(fourth.associate()), "AC 1:0")
                self.assertEqual(fourth.echo(), 0)
                fourth.release()
            first.release()


class TimerTests(CasesTestCase):
    def _check_time(self, elapsed: float, limit: float) -> None:
        """Not early, and late only as far as a busy machine explains it; in seconds."""
        self.assertGreater(elapsed, limit - 0.1)
        self.assertLess(elapsed, limit + 1.0)

    def test_timers(self) -> None:
        """C01, C02, DIMSE and idle timeout: each silent state ends when its time is up."""
        server = Twistd(self, *QUICK)
        half_message = p_data((3, 3, c_store_rq("1.2.3.100").encode()), (3, 0, GOOD[:50]))
        cases: list[tuple[str, bool, bytes, float, str]] = [
            ("C01", False, b"", ARTIM, "no A-ASSOCIATE-RQ within the ARTIM time"),
            ("C02", False, b"\1\0\0", ARTIM, "no A-ASSOCIATE-RQ within the ARTIM time"),
            ("half RQ", False, rq(*GOOD_ITEMS)[:-5], ARTIM, "no A-ASSOCIATE-RQ within the ARTIM time"),
            ("half message", True, half_message, DIMSE, "within the DIMSE timeout"),
            ("half PDU", True, ECHO_PDU[:20], DIMSE, "within the DIMSE timeout"),
            ("half header", True, ECHO_PDU[:3], DIMSE, "within the DIMSE timeout"),
            ("idle", True, b"", IDLE, "idle timeout"),
        ]
        connections: list[tuple[Scu, float]] = []
        try:
            for _, inside, data, _, _ in cases:
                scu = Scu(server.address)
                connections.append((scu, time.monotonic()))
                if inside:
                    scu.associate(CONTEXTS)
                scu.send(data)
            for (what, inside, _, limit, _), (scu, began) in zip(cases, connections, strict=True):
                with self.case(what):
                    if inside:
                        self.assertEqual(said(scu.receive()), "AB(0,0)")
                        elapsed = time.monotonic() - began
                        scu.close()
                    else:
                        self.assertEqual(everything_from(scu.socket), b"")
                        elapsed = time.monotonic() - began
                    self._check_time(elapsed, limit)
        finally:
            for scu, _ in connections:
                scu.close()
        lines = server.wait_for_summaries(len(cases))
        for what, _, _, _, why in cases:
            self.assertTrue(any(line.endswith(why) for line in lines), (what, why, lines))
        self.assertEqual(server.objects, {})

    def test_dribble(self) -> None:
        """C04: bytes that come singly do not extend ARTIM."""
        server = Twistd(self, *QUICK)
        with Scu(server.address) as scu:
            began = time.monotonic()
            scu.socket.settimeout(0.05)
            for byte in rq(*GOOD_ITEMS):
                try:
                    scu.send(bytes((byte,)))
                    if scu.socket.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            self._check_time(time.monotonic() - began, ARTIM)

    def test_peer_does_not_close(self) -> None:
        """C93: after RELEASE-RP, RJ and ABORT it is the peer that closes; if not, we do at ARTIM."""
        server = Twistd(self, *QUICK)
        cases = [
            ("RELEASE-RP", rq(*GOOD_ITEMS) + A_RELEASE_RQ().encode(), "A_RELEASE_RP"),
            ("RJ", rq(*GOOD_ITEMS, called=b"OTHER"), "RJ(1,1,7)"),
            ("ABORT", A_RELEASE_RQ().encode(), "AB(0,0)"),
        ]
        connections = [Scu(server.address) for _ in cases]
        for (_, data, _), scu in zip(cases, connections, strict=True):
            scu.send(data)
        began = time.monotonic()
        for (what, _, answer), scu in zip(cases, connections, strict=True):
            with self.case(what), scu:
                self.assertEqual(said(scu.answers()[-1]), answer)
                self._check_time(time.monotonic() - began, ARTIM)

    def test_others_do_not_wait(self) -> None:
        """C03, C17: silent and vanished connections cost another peer nothing."""
        server = Twistd(self)
        for _ in range(50):
            socket.create_connection(server.address, 10).close()
        silent = [socket.create_connection(server.address, 10) for _ in range(20)]
        try:
            for connection in silent:
                connection.sendall(b"\1\0\0")
            began = time.monotonic()
            with Scu(server.address) as scu:
                scu.associate()
                self.assertEqual(scu.echo(), 0)
                scu.release()
            self.assertLess(time.monotonic() - began, 1.0)
        finally:
            for connection in silent:
                connection.close()
        server.wait_for_summaries(71)

    def test_single_bytes(self) -> None:
        """C64: all bytes of an association sent singly."""
        server = Twistd(self)
        with Scu(server.address) as scu:
            for data, answer in (
                (associate_rq(VERIFICATION).encode(), "AC 1:0"),
                (ECHO_PDU, "0000H"),
                (A_RELEASE_RQ().encode(), "A_RELEASE_RP"),
            ):
                for byte in data:
                    scu.send(bytes((byte,)))
                self.assertEqual(said(scu.receive()), answer)


class BrokenTransferTests(CasesTestCase):
    """What becomes of objects stored before, and of what came in part."""

    def test_broken_off(self) -> None:
        """C90, C91: a data set that breaks off leaves no file, and the earlier copy as it was."""
        server = Twistd(self, *QUICK)
        uid = "1.2.3.200"
        earlier = ct_data_set(uid, b"\1" * 5000)
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store(uid, earlier), 0)
            scu.release()

        def reset(scu: Scu) -> None:
            scu.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            scu.close()

        endings: list[tuple[str, Callable[[Scu], object], str]] = [
            ("A-ABORT", lambda scu: scu.send(A_ABORT(0, 0)), "aborted by the peer"),
            ("FIN", lambda scu: scu.close(), "connection closed by the peer"),
            ("RST", reset, "connection closed by the peer"),
            ("half close", lambda scu: scu.socket.shutdown(socket.SHUT_WR), "connection closed"),
            ("release", lambda scu: scu.send(A_RELEASE_RQ()), ""),
            ("silence", lambda scu: scu.receive(), "within the DIMSE timeout"),
        ]
        whole_pdus = ("A-ABORT", "release")
        for number, (what, end, why) in enumerate(endings, 1):
            with self.case(what), Scu(server.address) as scu:
                scu.associate(CT_IMPLICIT)
                begun = store(uid, ct_data_set(uid, b"\2" * 200_000), context_id=1)
                scu.send(begun[: _end_of_pdu(begun, 100_000) if what in whole_pdus else 100_000])
                wait_until(lambda: list((server.store / ".incoming").iterdir()), "the object is begun")
                end(scu)
                line = server.wait_for_summaries(number + 1)[number]
                self.assertIn(why, line)
                wait_until(lambda: not list((server.store / ".incoming").iterdir()), "nothing is left of it")
                self.assertEqual(stored_data_set(server.objects[uid]), earlier)
        self.assertEqual(list((server.store / "superseded").iterdir()), [])

    def test_duplicates(self) -> None:
        """S02, S03: the same bytes are not written again; others replace, are dropped or are refused."""
        uid = "1.2.3.201"
        one, other = (ct_data_set(uid, pixels * 1000) for pixels in (b"\1", b"\2"))
        cases = [("replace", 0, other, [one]), ("keep", 0, one, []), ("refuse", 0x0111, one, [])]
        for option, status, kept, superseded in cases:
            with self.case(option):
                server = Twistd(self, f"--on-duplicate={option}")
                with Scu(server.address) as scu:
                    scu.associate(CT_IMPLICIT)
                    self.assertEqual(scu.store(uid, one), 0)
                    first = server.objects[uid].stat()
                    self.assertEqual(scu.store(uid, one), 0)
                    self.assertEqual(server.objects[uid].stat().st_ino, first.st_ino)
                    self.assertEqual(scu.store(uid, other), status)
                    scu.release()
                self.assertEqual(stored_data_set(server.objects[uid]), kept)
                earlier = (server.store / "superseded").rglob("*.dcm")
                self.assertEqual([stored_data_set(path) for path in earlier], superseded)
                server.wait_until_nothing_comes_in()

    def test_one_place(self) -> None:
        """S03: the same UID is the same object, even if another Study Instance UID comes with it."""
        server = Twistd(self, "--on-duplicate=refuse")
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store("1.2.3.202", ct_data_set("1.2.3.202", study="1.2.3")), 0)
            self.assertEqual(scu.store("1.2.3.202", ct_data_set("1.2.3.202", study="1.2.4")), 0x0111)
            scu.release()


def _end_of_pdu(data: bytes, at: int) -> int:
    """Where the first PDU ends that reaches `at`."""
    end = 0
    while end < at:
        end += 6 + int.from_bytes(data[end + 2 : end + 6], "big")
    return end


class MemoryTests(CasesTestCase):
    """Memory is bounded by the number of associations, whatever a peer sends."""

    def test_endless_object(self) -> None:
        """S22: an object of any size goes to the disk as it comes."""
        server = Twistd(self)
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            size = 64 * MEGABYTE
            head = ct_data_set("1.2.3.300", b"")[:-4] + pack("<L", size)
            scu.send(*message(1, c_store_rq("1.2.3.300"))[:1], p_data((1, 0, head)))
            fragment = p_data_header(1, 0, 65536) + bytes(65536)
            server.reset_peak()
            before = server.peak
            for _ in range(size // 65536):
                scu.send(fragment)
            self.assertLess(server.peak - before, 8 * MEGABYTE)
            scu.send(p_data((1, 2, b"")))
            answer = scu.receive()
            self.assertEqual(said(answer), "0000H")
            scu.release()
        self.assertEqual(server.objects["1.2.3.300"].stat().st_size > size, True)

    def test_deflated(self) -> None:
        """S21: a deflated data set is not inflated further than it takes to find its name."""
        server = Twistd(self)
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        size = 256 * MEGABYTE
        bomb = deflater.compress(pack("<HH2sHL", 0x0008, 0x0001, b"UN", 0, size))
        for _ in range(size // MEGABYTE):
            bomb += deflater.compress(bytes(MEGABYTE))
        bomb += deflater.flush()
        with Scu(server.address) as scu:
            scu.associate({1: (CT, "1.2.840.10008.1.2.1.99")})
            server.reset_peak()
            before = server.peak
            self.assertEqual(scu.store("1.2.3.301", bomb) & 0xF000, 0xC000)
            self.assertLess(server.peak - before, 32 * MEGABYTE)
            scu.release()

    def test_unread_answers(self) -> None:
        """A peer that asks and never reads the answers is not read either, and aborted in time."""
        server = Twistd(self, *QUICK)
        with Scu(server.address, timeout=0.5) as scu:
            scu.associate()
            server.reset_peak()
            before = server.peak
            sent = 0
            with self.assertRaises((TimeoutError, ConnectionError)):
                while sent < 200 * MEGABYTE:
                    scu.send(ECHO_PDU * 1000)
                    sent += len(ECHO_PDU) * 1000
            (line,) = server.wait_for_summaries(1)
            self.assertIn("the peer does not read our answers", line)
            self.assertLess(server.peak - before, 8 * MEGABYTE)


class DiskTests(CasesTestCase):
    """A disk that fails costs the transfer, not the server nor what is stored."""

    def test_faults(self) -> None:
        """S23, S24: a full disk, no descriptor, no directory: A7xx each, and all is well when it is over."""
        server = Twistd(self)
        incoming = server.store / ".incoming"
        earlier = ct_data_set("1.2.3.400", b"\1" * 10)

        @contextmanager
        def limited(which: int, limit: int) -> Iterator[None]:
            before = resource.prlimit(server.pid, which)
            resource.prlimit(server.pid, which, (limit, before[1]))
            try:
                yield
            finally:
                resource.prlimit(server.pid, which, before)

        @contextmanager
        def moved_away() -> Iterator[None]:
            away = server.store / "away"
            incoming.rename(away)
            try:
                yield
            finally:
                away.rename(incoming)

        @contextmanager
        def in_the_way() -> Iterator[None]:
            """The directory of the study is a file."""
            path = server.store / "1.2.9"
            path.write_bytes(b"")
            try:
                yield
            finally:
                path.unlink()

        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store("1.2.3.400", earlier), 0)
            cases = [
                ("file too large", limited(resource.RLIMIT_FSIZE, 256 * 1024), 1_000_000, "1.2.3"),
                ("EMFILE", limited(resource.RLIMIT_NOFILE, 8), 1_000, "1.2.3"),
                ("no .incoming", moved_away(), 1_000, "1.2.3"),
                ("ENOTDIR", in_the_way(), 1_000, "1.2.9"),
            ]
            for number, (what, fault, size, study) in enumerate(cases):
                with self.case(what):
                    uid = f"1.2.3.41{number}"
                    with fault:
                        for name in (uid, "1.2.3.400"):
                            data_set = ct_data_set(name, b"\2" * size, study=study)
                            self.assertEqual(f"{scu.store(name, data_set):04X}"[:2], "A7", name)
                    self.assertNotIn(uid, server.objects)
                    self.assertEqual(stored_data_set(server.objects["1.2.3.400"]), earlier)
                    server.wait_until_nothing_comes_in()
                    data_set = ct_data_set(uid, b"\2" * size, study=study)
                    self.assertEqual(scu.store(uid, data_set), 0, "after it is over")
                    self.assertEqual(stored_data_set(server.objects[uid]), data_set)
            scu.release()
        (line,) = server.wait_for_summaries(1)
        self.assertIn(f"failed: {2 * len(cases)} x A700H", line)

    def test_sync_fails(self) -> None:
        """S25: an object that cannot be forced to stable storage is refused and not there."""
        server = Twistd(self)
        earlier = ct_data_set("1.2.3.500", b"\1" * 1000)
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store("1.2.3.500", earlier), 0)
            for number, fault in enumerate(
                ("writev:error=ENOSPC", "fdatasync:error=EIO", "/^link:error=EIO")
            ):
                with self.case(fault):
                    uid = f"1.2.3.51{number}"
                    with injected(server, fault):
                        for name in (uid, "1.2.3.500"):
                            status = scu.store(name, ct_data_set(name, b"\2" * 1000))
                            self.assertEqual(f"{status:04X}", "A700", name)
                    self.assertNotIn(uid, server.objects)
                    self.assertEqual(stored_data_set(server.objects["1.2.3.500"]), earlier)
                    server.wait_until_nothing_comes_in()
                    self.assertEqual(scu.store(uid, ct_data_set(uid)), 0, "after it is over")
            with self.case("fsync of the directory"):
                # It has its name already; what counts is that nobody is told that it is safe.
                data_set = ct_data_set("1.2.3.520")
                with injected(server, "fsync:error=EIO"):
                    self.assertEqual(f"{scu.store('1.2.3.520', data_set):04X}", "A700")
                self.assertEqual(scu.store("1.2.3.520", data_set), 0)
                self.assertEqual(stored_data_set(server.objects["1.2.3.520"]), data_set)
            scu.release()
