"""The seven PDUs against bytes typed from the tables of PS3.8 9.3."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import AbortReason, ProtocolError
from dicomtw.ul.items import (
    ImplementationClassUID,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
    UserInformation,
)
from dicomtw.ul.pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    ABORT_REASONS,
    COMMAND,
    LAST,
    MAXIMUM_CONTEXTS,
    P_DATA_TF,
    PDU,
    PDU_CLASSES,
    REJECT_REASONS,
    AbortSource,
    PresentationDataValue,
    ReceivedPDU,
    Result,
    Source,
)
from tests.ul.recorders import modest, octets
from tests.ul.test_items import uid_texts, user_informations

USER_INFORMATION = UserInformation((MaximumLength(16384), ImplementationClassUID("1.2.3.4")))

RQ = A_ASSOCIATE_RQ(
    called_ae_title="STORE",
    calling_ae_title="MODALITY",
    presentation_contexts=(
        PresentationContextRQ(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")),
    ),
    user_information=USER_INFORMATION,
)

RQ_BYTES = octets("""
    01 00                                                           # 1: PDU type; 2: reserved
    00 00 00 BD                                                     # 3-6: length 189
    00 01                                                           # 7-8: protocol version
    00 00                                                           # 9-10: reserved
    53 54 4F 52 45 20 20 20 20 20 20 20 20 20 20 20                 # 11-26: called AE title STORE
    4D 4F 44 41 4C 49 54 59 20 20 20 20 20 20 20 20                 # 27-42: calling AE title MODALITY
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00                 # 43-58: reserved
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00                 # 59-74: reserved
    10 00 00 15                                                     # application context item, length 21
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 33 2E 31 2E 31 2E 31  # 1.2.840.10008.3.1.1.1
    20 00 00 45                                                     # presentation context item, length 69
    01 00 00 00                                                     # presentation context ID 1
    30 00 00 11                                                     # abstract syntax, length 17
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 31              # 1.2.840.10008.1.1
    40 00 00 13                                                     # transfer syntax, length 19
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 32 2E 31        # 1.2.840.10008.1.2.1
    40 00 00 11                                                     # transfer syntax, length 17
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 32              # 1.2.840.10008.1.2
    50 00 00 13                                                     # user information item, length 19
    51 00 00 04  00 00 40 00                                        # maximum length received 16384
    52 00 00 07  31 2E 32 2E 33 2E 34                               # implementation class UID 1.2.3.4
""")

AC = A_ASSOCIATE_AC(
    called_ae_title="STORE",
    calling_ae_title="MODALITY",
    presentation_contexts=(PresentationContextAC(1, 0, "1.2.840.10008.1.2"),),
    user_information=USER_INFORMATION,
)

AC_BYTES = octets("""
    02 00                                                           # 1: PDU type; 2: reserved
    00 00 00 91                                                     # 3-6: length 145
    00 01                                                           # 7-8: protocol version
    00 00                                                           # 9-10: reserved
    53 54 4F 52 45 20 20 20 20 20 20 20 20 20 20 20                 # 11-26: reserved, as in the RQ
    4D 4F 44 41 4C 49 54 59 20 20 20 20 20 20 20 20                 # 27-42: reserved, as in the RQ
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00                 # 43-58: reserved, as in the RQ
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00                 # 59-74: reserved, as in the RQ
    10 00 00 15                                                     # application context item, length 21
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 33 2E 31 2E 31 2E 31  # 1.2.840.10008.3.1.1.1
    21 00 00 19                                                     # presentation context item, length 25
    01 00 00 00                                                     # context ID 1, result acceptance
    40 00 00 11                                                     # transfer syntax, length 17
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 32              # 1.2.840.10008.1.2
    50 00 00 13                                                     # user information item, length 19
    51 00 00 04  00 00 40 00                                        # maximum length received 16384
    52 00 00 07  31 2E 32 2E 33 2E 34                               # implementation class UID 1.2.3.4
""")

RJ = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 7)

RJ_BYTES = octets("""
    03 00  00 00 00 04                                              # 1: PDU type; 3-6: length 4
    00 01 01 07                                                     # 8: result; 9: source; 10: reason
""")

P_DATA = P_DATA_TF(
    (
        PresentationDataValue(1, COMMAND | LAST, b"\xaa\xbb\xcc\xdd"),
        PresentationDataValue(1, LAST, b""),
        PresentationDataValue(3, 0, b"\x11\x22"),
    )
)

P_DATA_BYTES = octets("""
    04 00  00 00 00 18                                              # 1: PDU type; 3-6: length 24
    00 00 00 06  01 03  AA BB CC DD                                 # length 6, context 1, last of a command
    00 00 00 02  01 02                                              # length 2, context 1, last of a data set
    00 00 00 04  03 00  11 22                                       # length 4, context 3, part of a data set
""")

RELEASE_RQ_BYTES = octets("""
    05 00  00 00 00 04                                              # 1: PDU type; 3-6: length 4
    00 00 00 00                                                     # 7-10: reserved
""")

RELEASE_RP_BYTES = octets("""
    06 00  00 00 00 04                                              # 1: PDU type; 3-6: length 4
    00 00 00 00                                                     # 7-10: reserved
""")

ABORT = A_ABORT(AbortSource.SERVICE_PROVIDER, AbortReason.INVALID_PDU_PARAMETER_VALUE)

ABORT_BYTES = octets("""
    07 00  00 00 00 04                                              # 1: PDU type; 3-6: length 4
    00 00 02 06                                                     # 9: source; 10: reason
""")

#: The PDUs that are decoded whole.
GOLDEN_PDUS: list[tuple[ReceivedPDU, bytes]] = [
    (RQ, RQ_BYTES),
    (AC, AC_BYTES),
    (RJ, RJ_BYTES),
    (A_RELEASE_RQ(), RELEASE_RQ_BYTES),
    (A_RELEASE_RP(), RELEASE_RP_BYTES),
    (ABORT, ABORT_BYTES),
]

FIXED = RQ_BYTES[6:74]  # bytes 7-74 of A-ASSOCIATE-RQ and -AC
APPLICATION_CONTEXT = RQ_BYTES[74:99]
CONTEXT_RQ = RQ_BYTES[99:172]
USER = RQ_BYTES[172:]

ae_titles = st.text(st.characters(max_codepoint=255), max_size=16).map(lambda title: title.ljust(16))
octet = st.integers(0, 255)


def associate(
    kind: type[A_ASSOCIATE_RQ] | type[A_ASSOCIATE_AC], context: st.SearchStrategy[object]
) -> st.SearchStrategy[A_ASSOCIATE_RQ | A_ASSOCIATE_AC]:
    """A-ASSOCIATE-RQ or -AC PDUs with any contents."""
    return st.builds(
        kind,
        ae_titles,
        ae_titles,
        st.lists(context, max_size=4).map(tuple),
        user_informations,
        st.one_of(st.just(""), uid_texts),
        st.integers(0, 0xFFFF),
        st.binary(min_size=32, max_size=32),
    )


contexts_rq = st.builds(PresentationContextRQ, octet, uid_texts, st.lists(uid_texts, max_size=3).map(tuple))
contexts_ac = st.builds(PresentationContextAC, octet, octet, uid_texts)


class GoldenTests(SynchronousTestCase):
    def test_every_type_is_here(self) -> None:
        """There is a golden for every PDU type; P-DATA-TF is the one not decoded whole."""
        self.assertEqual([golden[0] for _, golden in GOLDEN_PDUS], sorted(PDU_CLASSES))
        self.assertEqual({*PDU_CLASSES, P_DATA_TF.pdu_type}, {1, 2, 3, 4, 5, 6, 7})
        for pdu_type, pdu_class in PDU_CLASSES.items():
            self.assertEqual(pdu_class.pdu_type, pdu_type)

    def test_encode(self) -> None:
        """Each PDU encodes to its golden bytes."""
        pdus: list[tuple[PDU, bytes]] = [*GOLDEN_PDUS, (P_DATA, P_DATA_BYTES)]
        for pdu, golden in pdus:
            self.assertEqual(pdu.encode().hex(" "), golden.hex(" "))

    def test_decode(self) -> None:
        """The golden bytes behind the header decode to the PDU."""
        for pdu, golden in GOLDEN_PDUS:
            self.assertEqual(type(pdu).decode(golden[6:]), pdu)

    def test_ae_titles_are_padded(self) -> None:
        """AE titles are held as on the wire, so a PDU made here equals one received."""
        self.assertEqual(RQ.called_ae_title, "STORE           ")
        self.assertEqual(A_ASSOCIATE_RQ(" " * 16, "").calling_ae_title, " " * 16)

    def test_words(self) -> None:
        """A-ASSOCIATE-RJ and A-ABORT say what they mean in the words of Tables 9-21 and 9-26."""
        cases: dict[PDU, str] = {
            RJ: "RJ(1,1,7) called-AE-title-not-recognized",
            A_ASSOCIATE_RJ(2, 3, 2): "RJ(2,3,2) local-limit-exceeded",
            A_ASSOCIATE_RJ(1, 1, 99): "RJ(1,1,99) reserved",
            ABORT: "A-ABORT by the service-provider: invalid-PDU-parameter-value",
            A_ABORT(2, 3): "A-ABORT by the service-provider: reserved",
            A_ABORT(0, 6): "A-ABORT by the service-user",
        }
        for pdu, words in cases.items():
            self.assertEqual(str(pdu), words)

    def test_reasons(self) -> None:
        """Tables 9-21 and 9-26: the reasons that exist for each source, without the reserved ones."""
        self.assertEqual(
            set(REJECT_REASONS), {(1, 1), (1, 2), (1, 3), (1, 7), (2, 1), (2, 2), (3, 1), (3, 2)}
        )
        self.assertEqual(set(ABORT_REASONS), {0, 1, 2, 4, 5, 6})
        self.assertEqual(set(ABORT_REASONS), set(AbortReason))

    def test_values(self) -> None:
        """Results and sources of A-ASSOCIATE-RJ (Table 9-21) and sources of A-ABORT (Table 9-26)."""
        self.assertEqual([result.value for result in Result], [1, 2])
        self.assertEqual([source.value for source in Source], [1, 2, 3])
        self.assertEqual([source.value for source in AbortSource], [0, 2])


class LenientTests(SynchronousTestCase):
    def test_reserved_bytes_of_short_pdus(self) -> None:
        """The reserved bytes of RJ, RELEASE-RQ, RELEASE-RP and ABORT may hold anything."""
        self.assertEqual(A_ASSOCIATE_RJ.decode(octets("FF 01 01 07")), RJ)
        self.assertEqual(A_RELEASE_RQ.decode(octets("FF FF FF FF")), A_RELEASE_RQ())
        self.assertEqual(A_RELEASE_RP.decode(octets("FF FF FF FF")), A_RELEASE_RP())
        self.assertEqual(A_ABORT.decode(octets("FF FF 02 06")), ABORT)

    def test_reserved_bytes_of_associate(self) -> None:
        """Bytes 9-10 may hold anything; bytes 43-74 are kept, because an acceptor sends them back."""
        reserved = bytes(range(0x80, 0xA0))
        body = FIXED[:2] + b"\xff\xff" + FIXED[4:36] + reserved + RQ_BYTES[74:]
        decoded = A_ASSOCIATE_RQ.decode(body)
        self.assertEqual(decoded.reserved, reserved)
        self.assertEqual(decoded.encode()[42:74], reserved)
        self.assertEqual(decoded.presentation_contexts, RQ.presentation_contexts)

    def test_unrecognized_items_are_skipped(self) -> None:
        """Unknown items are skipped wherever they stand, and so are contexts of the other PDU (9.3.1)."""
        for pdu, golden in GOLDEN_PDUS[:2]:
            other = "21" if isinstance(pdu, A_ASSOCIATE_RQ) else "20"
            for strange in ("77 00 00 00", "77 FF 00 03 01 02 03", "00 00 00 00", f"{other} 00 00 01 FF"):
                item = octets(strange)
                for at in (74, 99, len(golden)):
                    self.assertEqual(type(pdu).decode(golden[6:at] + item + golden[at:]), pdu)

    def test_items_in_any_order(self) -> None:
        """The items of A-ASSOCIATE-RQ are taken in any order; contexts keep theirs."""
        second = octets("20 00 00 0B  03 00 00 00  30 00 00 03 31 2E 32")
        decoded = A_ASSOCIATE_RQ.decode(FIXED + USER + second + CONTEXT_RQ + APPLICATION_CONTEXT)
        self.assertEqual([context.context_id for context in decoded.presentation_contexts], [3, 1])
        self.assertEqual(decoded.user_information, USER_INFORMATION)
        self.assertEqual(decoded.application_context_name, RQ.application_context_name)

    def test_items_absent(self) -> None:
        """Without items there is no application context, no context and nothing known of the user."""
        for kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
            decoded = kind.decode(FIXED)
            self.assertEqual(decoded.application_context_name, "")
            self.assertEqual(decoded.presentation_contexts, ())
            self.assertEqual(decoded.user_information, UserInformation())

    def test_what_is_judged_elsewhere(self) -> None:
        """Protocol version, AE titles, context IDs and UIDs are read as they are; others judge them."""
        fixed = octets("00 02 00 00") + bytes(16) + b"\xe9\\\n" + b"\x01" * 13 + bytes(32)
        context = octets("20 00 00 08  00 00 00 00  30 00 00 00")
        decoded = A_ASSOCIATE_RQ.decode(fixed + context)
        self.assertEqual(decoded.protocol_version, 2)
        self.assertEqual(decoded.called_ae_title, "\0" * 16)
        self.assertEqual(decoded.calling_ae_title, "\xe9\\\n" + "\x01" * 13)
        self.assertEqual(decoded.presentation_contexts, (PresentationContextRQ(0, "", ()),))


class StrictTests(SynchronousTestCase):
    def _invalid(self, kind: type[ReceivedPDU], body: bytes, message: str) -> None:
        fault = self.assertRaises(ProtocolError, kind.decode, body)
        self.assertEqual(str(fault), message)
        self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)

    def test_four_bytes(self) -> None:
        """RJ, RELEASE-RQ, RELEASE-RP and ABORT are 4 bytes long and nothing else."""
        names = {3: "A-ASSOCIATE-RJ", 5: "A-RELEASE-RQ", 6: "A-RELEASE-RP", 7: "A-ABORT"}
        for pdu_type, name in names.items():
            for length in (0, 3, 5):
                words = f"{name} has a length of {length}; it is always 4"
                self._invalid(PDU_CLASSES[pdu_type], bytes(length), words)

    def test_repeated_items(self) -> None:
        """The application context and the user information come once."""
        for kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
            self._invalid(kind, FIXED + APPLICATION_CONTEXT * 2, "item 10H appears twice")
            self._invalid(kind, FIXED + USER * 2, "item 50H appears twice")
            self._invalid(kind, FIXED + octets("10 00 00 00") * 2, "item 10H appears twice")

    def test_length_past_the_pdu(self) -> None:
        """An item that says it is longer than what is left in its PDU is a fault, of any type."""
        for item_type in (0x10, 0x20, 0x21, 0x50, 0x77):
            item = bytes((item_type, 0, 0x00, 0x05)) + bytes(4)
            words = f"item {item_type:02X}H says 5 bytes, but 4 are left in A-ASSOCIATE-RQ"
            self._invalid(A_ASSOCIATE_RQ, FIXED + item, words)

    def test_sub_item_past_its_item(self) -> None:
        """A sub-item longer than its item is a fault, though the PDU has bytes enough."""
        user = octets("50 00 00 08  51 00 00 05 00 00 40 00") + APPLICATION_CONTEXT
        self._invalid(A_ASSOCIATE_RQ, FIXED + user, "item 51H says 5 bytes, but 4 are left in item 50H")
        context = octets("20 00 00 0A  01 00 00 00  30 00 00 11 31 2E") + APPLICATION_CONTEXT
        self._invalid(A_ASSOCIATE_RQ, FIXED + context, "item 30H says 17 bytes, but 2 are left in item 20H")

    def test_too_many_items(self) -> None:
        """A PDU of 1024 items is read, whatever they are, and not one more."""
        for kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
            for strange in ("77 00 00 00", "20 00 00 00" if kind is A_ASSOCIATE_AC else "21 00 00 00"):
                items = octets(strange) * 1023
                self.assertEqual(kind.decode(FIXED + items + USER).user_information, USER_INFORMATION)
                words = f"more than 1024 items in {kind.__name__.replace('_', '-')}"
                self._invalid(kind, FIXED + items + octets(strange) + USER, words)
                self._invalid(kind, FIXED + USER + items + octets(strange) * 100_000, words)

    def test_many_contexts_that_are_not_read(self) -> None:
        """Contexts behind those that are read may be anything, but count as items."""
        nothing = octets("20 00 00 00")
        decoded = A_ASSOCIATE_RQ.decode(FIXED + CONTEXT_RQ * 129 + nothing * 895)
        self.assertEqual(decoded.presentation_contexts, RQ.presentation_contexts * 129)
        self._invalid(
            A_ASSOCIATE_RQ, FIXED + CONTEXT_RQ * 128 + nothing, "item 20H ends 1 bytes inside a field"
        )
        words = "more than 1024 items in A-ASSOCIATE-RQ"
        self._invalid(A_ASSOCIATE_RQ, FIXED + CONTEXT_RQ * 129 + nothing * 896, words)

    def test_cut_anywhere(self) -> None:
        """A PDU cut at any byte is a `ProtocolError`, or a PDU with fewer items if cut between two."""
        for pdu, golden in GOLDEN_PDUS:
            decoded = []
            for end in range(6, len(golden)):
                try:
                    self.assertIsInstance(type(pdu).decode(golden[6:end]), type(pdu))
                except ProtocolError:
                    continue
                decoded.append(end)
            edges = {RQ: [74, 99, 172], AC: [74, 99, 128]}.get(pdu, [])
            self.assertEqual(decoded, edges, type(pdu).__name__)

    @modest
    @given(st.sampled_from(sorted(PDU_CLASSES)), st.binary(max_size=80), st.booleans())
    def test_garbage(self, pdu_type: int, body: bytes, fixed: bool) -> None:
        """Whatever the bytes, decoding gives a PDU or a `ProtocolError`, nothing else."""
        try:
            PDU_CLASSES[pdu_type].decode(FIXED + body if fixed else body)
        except ProtocolError as fault:
            self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)

    @modest
    @given(st.sampled_from(GOLDEN_PDUS[:2]), st.data())
    def test_damaged(self, case: tuple[ReceivedPDU, bytes], data: st.DataObject) -> None:
        """A golden PDU with two bytes changed decodes to something or is a `ProtocolError`."""
        damaged = bytearray(case[1][6:])
        for _ in range(2):
            damaged[data.draw(st.integers(68, len(damaged) - 1))] = data.draw(octet)
        try:
            self.assertIsInstance(type(case[0]).decode(bytes(damaged)), type(case[0]))
        except ProtocolError:
            pass


class RoundTripTests(SynchronousTestCase):
    @modest
    @given(st.one_of(associate(A_ASSOCIATE_RQ, contexts_rq), associate(A_ASSOCIATE_AC, contexts_ac)))
    def test_associate(self, pdu: A_ASSOCIATE_RQ | A_ASSOCIATE_AC) -> None:
        """Any A-ASSOCIATE-RQ or -AC is what its bytes decode to, and its length field is true."""
        encoded = pdu.encode()
        self.assertEqual(type(pdu).decode(encoded[6:]), pdu)
        self.assertEqual(int.from_bytes(encoded[2:6], "big"), len(encoded) - 6)

    def test_128_contexts(self) -> None:
        """As many contexts as can be proposed, each with its own syntaxes, keep their order."""
        contexts = tuple(
            PresentationContextRQ(context_id, f"1.2.{context_id}", (f"1.3.{context_id}", "1.4"))
            for context_id in range(255, 0, -2)
        )
        pdu = A_ASSOCIATE_RQ("STORE", "MODALITY", contexts)
        self.assertEqual(A_ASSOCIATE_RQ.decode(pdu.encode()[6:]).presentation_contexts, contexts)

    def test_more_contexts(self) -> None:
        """Of more contexts than there can be one too many is read: that says enough to refuse them all."""
        self.assertEqual(MAXIMUM_CONTEXTS, 128)
        for count in (129, 130, 1000):
            numbers = [number % 256 for number in range(count)]
            proposed = tuple(PresentationContextRQ(number, "1.2", ("1.3",)) for number in numbers)
            answered = tuple(PresentationContextAC(number, 0, "1.3") for number in numbers)
            rq = A_ASSOCIATE_RQ("STORE", "MODALITY", proposed, USER_INFORMATION)
            decoded = A_ASSOCIATE_RQ.decode(rq.encode()[6:])
            self.assertEqual(decoded.presentation_contexts, proposed[:129])
            self.assertEqual(decoded.user_information, USER_INFORMATION)
            ac = A_ASSOCIATE_AC("STORE", "MODALITY", answered, USER_INFORMATION)
            answer = A_ASSOCIATE_AC.decode(ac.encode()[6:])
            self.assertEqual(answer.presentation_contexts, answered[:129])
            self.assertEqual(answer.user_information, USER_INFORMATION)


class ConstructorTests(SynchronousTestCase):
    """What exists can be sent."""

    def test_titles(self) -> None:
        """An AE title has 16 characters of one byte each at most."""
        for pdu in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
            for title in ("SEVENTEEN LETTERS", "T\u0142umik"):
                self.assertRaises(ValueError, pdu, title, "CALLING")
                self.assertRaises(ValueError, pdu, "CALLED", title)

    def test_reserved(self) -> None:
        """Bytes 43-74 are 32."""
        for pdu in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
            self.assertRaises(ValueError, pdu, "CALLED", "CALLING", reserved=bytes(31))
