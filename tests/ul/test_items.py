"""Items and sub-items against bytes typed from PS3.8 9.3.2, 9.3.3, Annex D and PS3.7 D.3.3."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import AbortReason, ProtocolError
from dicomtw.ul.items import (
    MAXIMUM_ITEMS,
    MAXIMUM_TRANSFER_SYNTAXES,
    SUB_ITEM_CLASSES,
    AsynchronousOperationsWindow,
    ContextResult,
    Cursor,
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
    RoleSelection,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    SubItem,
    UserIdentityAC,
    UserIdentityRQ,
    UserIdentityType,
    UserInformation,
)
from tests.ul.recorders import modest, octets

CONTEXT_RQ = octets("""
    20 00 00 45                                                # 1-4: item type, reserved, length 69
    01 00 00 00                                                # 5: presentation context ID; 6-8: reserved
    30 00 00 11                                                # abstract syntax sub-item, length 17
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 31         # 1.2.840.10008.1.1
    40 00 00 13                                                # transfer syntax sub-item, length 19
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 32 2E 31   # 1.2.840.10008.1.2.1
    40 00 00 11                                                # transfer syntax sub-item, length 17
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 32         # 1.2.840.10008.1.2
""")

CONTEXT_AC = octets("""
    21 00 00 19                                                # 1-4: item type, reserved, length 25
    01 00 00 00                                                # 5: context ID; 7: result 0, acceptance
    40 00 00 11                                                # transfer syntax sub-item, length 17
    31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 32         # 1.2.840.10008.1.2
""")

CONTEXT_AC_REFUSED = octets("""
    21 00 00 0A                                                # 1-4: item type, reserved, length 10
    FF 00 03 00                                                # 5: context ID; 7: result 3, abstract syntax
    40 00 00 02                                                # transfer syntax sub-item, length 2
    31 2E                                                      # not significant
""")

GOLDEN_CONTEXTS: list[tuple[PresentationContextRQ | PresentationContextAC, bytes]] = [
    (PresentationContextRQ(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")), CONTEXT_RQ),
    (PresentationContextAC(1, 0, "1.2.840.10008.1.2"), CONTEXT_AC),
    (PresentationContextAC(255, 3, "1."), CONTEXT_AC_REFUSED),
]

#: Every sub-item of user information there is: 51H to 59H.
GOLDEN_SUB_ITEMS: list[tuple[SubItem, bytes]] = [
    (
        MaximumLength(16384),
        octets("""
            51 00 00 04                                            # item type, reserved, length 4
            00 00 40 00                                            # 5-8: maximum length received
        """),
    ),
    (
        ImplementationClassUID("1.2.3.4"),
        octets("""
            52 00 00 07                                            # item type, reserved, length 7
            31 2E 32 2E 33 2E 34                                   # 1.2.3.4
        """),
    ),
    (
        AsynchronousOperationsWindow(5, 256),
        octets("""
            53 00 00 04                                            # item type, reserved, length 4
            00 05                                                  # 5-6: operations invoked
            01 00                                                  # 7-8: operations performed
        """),
    ),
    (
        RoleSelection("1.2.840.10008.1.1", False, True),
        octets("""
            54 00 00 15                                            # item type, reserved, length 21
            00 11                                                  # 5-6: UID length
            31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 31     # 1.2.840.10008.1.1
            00 01                                                  # SCU role, SCP role
        """),
    ),
    (
        ImplementationVersionName("TEST"),
        octets("""
            55 00 00 04                                            # item type, reserved, length 4
            54 45 53 54                                            # TEST
        """),
    ),
    (
        SOPClassExtendedNegotiation("1.2.840.10008.1.1", b"\x01\x00\x02"),
        octets("""
            56 00 00 16                                            # item type, reserved, length 22
            00 11                                                  # 5-6: SOP class UID length
            31 2E 32 2E 38 34 30 2E 31 30 30 30 38 2E 31 2E 31     # 1.2.840.10008.1.1
            01 00 02                                               # service class application information
        """),
    ),
    (
        SOPClassCommonExtendedNegotiation("1.2.3", "1.2.4", ("1.5", "1.67")),
        octets("""
            57 00 00 1B                                            # item type, version 0, length 27
            00 05  31 2E 32 2E 33                                  # SOP class UID 1.2.3
            00 05  31 2E 32 2E 34                                  # service class UID 1.2.4
            00 0B                                                  # related general SOP classes: 11 bytes
            00 03  31 2E 35                                        # 1.5
            00 04  31 2E 36 37                                     # 1.67
        """),
    ),
    (
        UserIdentityRQ(2, True, b"user", b"secret"),
        octets("""
            58 00 00 10                                            # item type, reserved, length 16
            02 01                                                  # 5: username and passcode; 6: respond
            00 04  75 73 65 72                                     # primary field: user
            00 06  73 65 63 72 65 74                               # secondary field: secret
        """),
    ),
    (
        UserIdentityAC(b"yes"),
        octets("""
            59 00 00 05                                            # item type, reserved, length 5
            00 03  79 65 73                                        # server response: yes
        """),
    ),
]

uid_texts = st.text("0123456789.", min_size=1, max_size=64)
byte_counts = st.integers(0, 0xFFFF)

sub_items = st.one_of(
    st.builds(MaximumLength, st.integers(0, 0xFFFFFFFF)),
    st.builds(ImplementationClassUID, uid_texts),
    st.builds(AsynchronousOperationsWindow, byte_counts, byte_counts),
    st.builds(RoleSelection, uid_texts, st.booleans(), st.booleans()),
    st.builds(ImplementationVersionName, st.text(st.characters(max_codepoint=255), min_size=1, max_size=16)),
    st.builds(SOPClassExtendedNegotiation, uid_texts, st.binary(max_size=40)),
    st.builds(
        SOPClassCommonExtendedNegotiation, uid_texts, uid_texts, st.lists(uid_texts, max_size=3).map(tuple)
    ),
    st.builds(
        UserIdentityRQ, st.integers(0, 255), st.booleans(), st.binary(max_size=40), st.binary(max_size=40)
    ),
    st.builds(UserIdentityAC, st.binary(max_size=40)),
)


def _once_where_once(items: list[SubItem]) -> tuple[SubItem, ...]:
    """Of each kind of sub-item the first, or the first for each SOP class where it names one."""
    kept: dict[object, SubItem] = {}
    for item in items:
        kept.setdefault((type(item), getattr(item, "sop_class_uid", None)), item)
    return tuple(kept.values())


user_informations = st.builds(UserInformation, st.lists(sub_items, max_size=6).map(_once_where_once))


def one_item(data: bytes) -> tuple[int, Cursor]:
    """The type of the one item that `data` is, and a cursor over its body."""
    [item] = Cursor(data, "test").items()
    return item


def user_information(body: bytes) -> UserInformation:
    """The user information item whose body is `body`."""
    return UserInformation.decode(Cursor(body, "user information"))


def with_length(item: bytes, length: int) -> bytes:
    """`item` saying that it is `length` bytes long."""
    return item[:2] + length.to_bytes(2, "big") + item[4:]


class GoldenTests(SynchronousTestCase):
    def test_every_type_is_here(self) -> None:
        """The table of golden sub-items has one for every type from 51H to 59H."""
        self.assertEqual([golden[0] for _, golden in GOLDEN_SUB_ITEMS], list(range(0x51, 0x5A)))
        self.assertEqual(sorted(SUB_ITEM_CLASSES), list(range(0x51, 0x5A)))

    def test_contexts(self) -> None:
        """A presentation context item encodes to its golden bytes, and they decode to it."""
        for context, golden in GOLDEN_CONTEXTS:
            self.assertEqual(context.encode().hex(" "), golden.hex(" "))
            item_type, cursor = one_item(golden)
            self.assertEqual(item_type, context.item_type)
            self.assertEqual(type(context).decode(cursor), context)

    def test_sub_items(self) -> None:
        """A sub-item encodes to its golden bytes, and they decode to it."""
        for item, golden in GOLDEN_SUB_ITEMS:
            self.assertEqual(item.encode().hex(" "), golden.hex(" "))
            self.assertEqual(user_information(golden).sub_items, (item,))

    def test_user_information(self) -> None:
        """A user information item is its sub-items in their order behind its own header."""
        item = UserInformation(tuple(item for item, _ in GOLDEN_SUB_ITEMS))
        body = b"".join(golden for _, golden in GOLDEN_SUB_ITEMS)
        self.assertEqual(item.encode(), octets("50 00 00 92") + body)
        self.assertEqual(user_information(body), item)

    def test_first_and_all(self) -> None:
        """`first` is one sub-item or None, `all` is every one of its class in wire order."""
        roles = (RoleSelection("1.2", True, False), RoleSelection("1.3", False, True))
        item = UserInformation((roles[0], MaximumLength(0), roles[1]))
        self.assertEqual(item.all(RoleSelection), roles)
        self.assertEqual(item.first(RoleSelection), roles[0])
        self.assertEqual(item.first(MaximumLength), MaximumLength(0))
        self.assertIsNone(item.first(UserIdentityRQ))
        self.assertEqual(item.all(UserIdentityRQ), ())

    def test_values(self) -> None:
        """Results of a context (PS3.8 Table 9-18) and types of user identity (PS3.7 D.3.3.7.1)."""
        self.assertEqual([result.value for result in ContextResult], [0, 1, 2, 3, 4])
        self.assertEqual([identity.value for identity in UserIdentityType], [1, 2, 3, 4, 5])

    def test_secrets_stay_out_of_the_repr(self) -> None:
        """A user identity does not show username, passcode or ticket when it is logged."""
        for item in (UserIdentityRQ(2, True, b"user", b"secret"), UserIdentityAC(b"secret")):
            self.assertNotIn("secret", repr(item))
            self.assertNotIn("user'", repr(item))

    def test_items_cannot_change(self) -> None:
        """What was negotiated stays as it was read."""
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            MaximumLength(1).maximum_length_received = 2  # type: ignore[misc]


class LenientTests(SynchronousTestCase):
    def test_reserved_bytes_are_not_tested(self) -> None:
        """Reserved bytes may hold anything (PS3.8 9.3.2)."""
        rq = bytearray(CONTEXT_RQ)
        for at in (1, 5, 6, 7, 9):
            rq[at] = 0xFF
        self.assertEqual(PresentationContextRQ.decode(one_item(bytes(rq))[1]), GOLDEN_CONTEXTS[0][0])
        ac = bytearray(CONTEXT_AC)
        for at in (1, 5, 7, 9):
            ac[at] = 0xFF
        self.assertEqual(PresentationContextAC.decode(one_item(bytes(ac))[1]), GOLDEN_CONTEXTS[1][0])
        for item, golden in GOLDEN_SUB_ITEMS:
            self.assertEqual(
                user_information(golden[:1] + b"\xff" + golden[2:]).sub_items, (item,), f"{golden[0]:02X}H"
            )

    def test_unrecognized_sub_items_are_skipped(self) -> None:
        """User sub-items 50H, 5AH, 5FH, 00H and FFH are skipped, wherever they stand (PS3.8 9.3.1)."""
        expected = (MaximumLength(16384), ImplementationVersionName("TEST"))
        first, last = (item.encode() for item in expected)
        for item_type in (0x00, 0x50, 0x5A, 0x5F, 0xFF):
            for strange in (bytes((item_type, 0, 0, 0)), bytes((item_type, 0, 0, 3)) + b"abc"):
                for body in (strange + first + last, first + strange + last, first + last + strange * 2):
                    self.assertEqual(user_information(body).sub_items, expected)

    def test_unrecognized_sub_items_of_contexts_are_skipped(self) -> None:
        """An unknown sub-item of a presentation context is skipped, in the RQ and in the AC."""
        strange = octets("77 00 00 02 41 42")
        for context, golden in GOLDEN_CONTEXTS:
            for body in (golden[4:8] + strange + golden[8:], golden[4:] + strange):
                self.assertEqual(type(context).decode(Cursor(body, "context")), context)

    def test_padded_uids(self) -> None:
        """NULs and spaces that pad a UID to an even length are no part of it."""
        for padding in ("00", "20", "00 00", "20 00"):
            body = octets("31 2E 32") + octets(padding)
            item = bytes((0x52, 0, 0, len(body))) + body
            self.assertEqual(user_information(item).sub_items, (ImplementationClassUID("1.2"),))

    def test_context_without_transfer_syntax(self) -> None:
        """A proposed context without transfer syntax can be read: it is answered with result 4."""
        [(_, cursor)] = Cursor(octets("20 00 00 0B  03 00 00 00  30 00 00 03 31 2E 32"), "test").items()
        self.assertEqual(PresentationContextRQ.decode(cursor), PresentationContextRQ(3, "1.2", ()))

    def test_refused_context_without_transfer_syntax(self) -> None:
        """The transfer syntax of a refused context is not significant and may be absent."""
        context = PresentationContextAC.decode(Cursor(octets("05 00 04 00"), "context"))
        self.assertEqual(context, PresentationContextAC(5, 4, ""))

    def test_roles_other_than_one(self) -> None:
        """A role byte is a yes only if it is 1; so is the request for a response to a user identity."""
        self.assertEqual(
            user_information(octets("54 00 00 07 00 03 31 2E 32 02 FF")).sub_items,
            (RoleSelection("1.2", False, False),),
        )
        self.assertEqual(
            user_information(octets("58 00 00 07 01 02 00 01 75 00 00")).sub_items,
            (UserIdentityRQ(1, False, b"u"),),
        )

    def test_later_version_of_common_extended_negotiation(self) -> None:
        """Fields that a later version appends to sub-item 57H are ignored (PS3.7 D.3.3.6)."""
        item = octets("57 01 00 0D  00 01 31  00 01 32  00 00  AA BB CC DD EE")
        expected = (SOPClassCommonExtendedNegotiation("1", "2"),)
        self.assertEqual(user_information(item).sub_items, expected)

    def test_one_for_each_sop_class(self) -> None:
        """Sub-items 54H, 56H and 57H come once for each SOP class, so there may be many, in any order."""
        sub_items = [
            kind
            for sop_class_uid in ("1.2", "1.20", "1.3", "")
            for kind in (
                RoleSelection(sop_class_uid, True, True),
                SOPClassExtendedNegotiation(sop_class_uid, b"\x01"),
                SOPClassCommonExtendedNegotiation(sop_class_uid, "1.2", ("1.2",)),
            )
        ]
        for ordered in (sub_items, sub_items[::-1]):
            item = UserInformation(tuple(ordered))
            self.assertEqual(user_information(item.encode()[4:]), item)

    def test_empty_user_information(self) -> None:
        """A user information item may be empty."""
        self.assertEqual(user_information(b""), UserInformation())


class StrictTests(SynchronousTestCase):
    def _invalid(self, body: bytes, message: str) -> None:
        fault = self.assertRaises(ProtocolError, user_information, body)
        self.assertIn(message, str(fault))
        self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)

    def test_repeated(self) -> None:
        """A sub-item that names no SOP class is a fault when it comes twice, next to the first or not."""
        repeatable = {0x54, 0x56, 0x57}
        strict = [golden for _, golden in GOLDEN_SUB_ITEMS if golden[0] not in repeatable]
        self.assertEqual(len(strict), len(GOLDEN_SUB_ITEMS) - len(repeatable))
        for golden in strict:
            others = b"".join(other for _, other in GOLDEN_SUB_ITEMS if other[0] != golden[0])
            for body in (golden + golden, golden + others + golden, others + golden * 3):
                self._invalid(body, f"item {golden[0]:02X}H appears twice")

    def test_repeated_for_one_sop_class(self) -> None:
        """Of sub-items 54H, 56H and 57H for one SOP class the first counts, whatever the others say."""
        groups: list[tuple[SubItem, SubItem, SubItem]] = [
            (
                RoleSelection("1.2", True, False),
                RoleSelection("1.2", False, True),
                RoleSelection("1.3", False, True),
            ),
            (
                SOPClassExtendedNegotiation("1.2", b""),
                SOPClassExtendedNegotiation("1.2", b"\x01"),
                SOPClassExtendedNegotiation("1.3", b"\x01"),
            ),
            (
                SOPClassCommonExtendedNegotiation("1.2", "1.4"),
                SOPClassCommonExtendedNegotiation("1.2", "1.5", ("1.6",)),
                SOPClassCommonExtendedNegotiation("1.3", "1.5", ("1.6",)),
            ),
        ]
        for one, other, of_another in groups:
            # padded, it is the same SOP class
            padded = bytearray(other.encode().replace(b"\x00\x031.2", b"\x00\x041.2\x00", 1))
            padded[3] += 1
            for again in (one.encode(), other.encode(), bytes(padded)):
                for body in (
                    one.encode() + again + of_another.encode(),
                    one.encode() + of_another.encode() + again * 3,
                ):
                    self.assertEqual(user_information(body).sub_items, (one, of_another))
        for group in groups:  # each kind for itself
            others = tuple(first for first, *_ in groups if first is not group[0])
            body = b"".join(item.encode() for item in (*others, *group))
            self.assertEqual(user_information(body).sub_items, (*others, group[0], group[2]))

    def test_repeated_and_broken(self) -> None:
        """A repeated sub-item that is skipped is read all the same: a broken one is a fault."""
        role = RoleSelection("1.2", True, False).encode()
        self._invalid(role + octets("54 00 00 05 00 03") + b"1.2", "item 54H")

    def test_too_many_items(self) -> None:
        """User information of 1024 sub-items is read, unrecognized ones and all, and not one more."""
        self.assertEqual(MAXIMUM_ITEMS, 1024)
        strange = octets("5F 00 00 00")
        role = RoleSelection("1.2", True, False)
        most = user_information(strange * 1023 + role.encode())
        self.assertEqual(most.sub_items, (role,))
        for body in (strange * 1024 + role.encode(), role.encode() + strange * 1024, strange * 16383):
            self._invalid(body, "more than 1024 items in user information")
        roles = tuple(RoleSelection(f"1.{number}", True, False) for number in range(1025))
        self.assertEqual(len(user_information(UserInformation(roles[:-1]).encode()[4:]).sub_items), 1024)
        self._invalid(UserInformation(roles).encode()[4:], "more than 1024 items in user information")

    def test_nothing_behind_the_bound_is_read(self) -> None:
        """The item that is one too many is not looked at: even its lengths may lie."""
        self._invalid(octets("5F 00 00 00") * 1024 + b"\xff", "more than 1024 items in user information")

    def test_too_many_transfer_syntaxes(self) -> None:
        """A context has 128 sub-items at most beside its abstract syntax, unrecognized ones among them."""
        self.assertEqual(MAXIMUM_TRANSFER_SYNTAXES, 128)
        syntaxes = tuple(f"1.2.{number}" for number in range(129))
        most = PresentationContextRQ(1, "1.2", syntaxes[:128])
        self.assertEqual(PresentationContextRQ.decode(one_item(most.encode())[1]), most)
        strange = octets("77 00 00 00")
        for body in (
            PresentationContextRQ(1, "1.2", syntaxes).encode()[4:],
            most.encode()[4:] + strange,
            octets("01 00 00 00") + strange * 129 + most.encode()[8:],
        ):
            fault = self.assertRaises(ProtocolError, PresentationContextRQ.decode, Cursor(body, "item 20H"))
            self.assertEqual(str(fault), "more than 129 items in item 20H")
            self.assertEqual(fault.reason, AbortReason.INVALID_PDU_PARAMETER_VALUE)

    def test_too_many_items_of_an_answered_context(self) -> None:
        """A context of an A-ASSOCIATE-AC has 1024 sub-items at the most."""
        accepted = CONTEXT_AC[4:]
        strange = octets("77 00 00 00")
        context = PresentationContextAC.decode(Cursor(accepted + strange * 1023, "item 21H"))
        self.assertEqual(context, GOLDEN_CONTEXTS[1][0])
        body = accepted + strange * 1024
        fault = self.assertRaises(ProtocolError, PresentationContextAC.decode, Cursor(body, "item 21H"))
        self.assertEqual(str(fault), "more than 1024 items in item 21H")

    def test_length_past_the_parent(self) -> None:
        """A sub-item that says it is longer than what is left in its parent is a fault."""
        for _, golden in GOLDEN_SUB_ITEMS:
            for length in (len(golden) - 3, 0x7FFF, 0xFFFF):
                self._invalid(with_length(golden, length), f"item {golden[0]:02X}H says {length} bytes")
        self._invalid(octets("5F 00 00 01"), "item 5FH says 1 bytes, but 0 are left in user information")

    def test_bytes_too_many(self) -> None:
        """A sub-item of fixed structure that is longer than its fields is a fault."""
        for _, golden in GOLDEN_SUB_ITEMS:
            if golden[0] in (0x51, 0x53, 0x54, 0x58, 0x59):
                longer = with_length(golden + b"\0", len(golden) - 3)
                self._invalid(longer, f"item {golden[0]:02X}H has 1 bytes too many")

    def test_length_of_a_field_past_its_item(self) -> None:
        """A length inside a sub-item that reaches over its end is a fault."""
        cases = {
            "54H UID": "54 00 00 05  00 04 31 01 00",
            "54H no roles": "54 00 00 03  00 01 31",
            "56H UID": "56 00 00 03  00 02 31",
            "57H SOP class": "57 00 00 08  FF FF 31  00 01 32  00",
            "57H service class": "57 00 00 08  00 01 31  00 09 32  00 00",
            "57H related": "57 00 00 09  00 01 31  00 01 32  00 02 00",
            "57H a related UID": "57 00 00 0B  00 01 31  00 01 32  00 03  00 02 31",
            "57H odd end": "57 00 00 09  00 01 31  00 01 32  00 01  00",
            "58H primary": "58 00 00 06  01 00  00 03 75 73",
            "58H secondary": "58 00 00 07  02 00  00 01 75  00 01",
            "58H no secondary": "58 00 00 05  01 00  00 01 75",
            "59H response": "59 00 00 02  FF FF",
        }
        for name, item in cases.items():
            with self.assertRaises(ProtocolError, msg=name):
                user_information(octets(item))

    def test_abstract_syntaxes(self) -> None:
        """A proposed context has exactly one abstract syntax."""
        for count in (0, 2):
            body = octets("01 00 00 00") + octets("30 00 00 03 31 2E 32") * count
            fault = self.assertRaises(ProtocolError, PresentationContextRQ.decode, Cursor(body, "context"))
            self.assertEqual(str(fault), f"presentation context 1 has {count} abstract syntaxes")

    def test_transfer_syntaxes_of_an_accepted_context(self) -> None:
        """An accepted context has exactly one transfer syntax."""
        for count in (0, 2):
            body = octets("01 00 00 00") + octets("40 00 00 03 31 2E 32") * count
            fault = self.assertRaises(ProtocolError, PresentationContextAC.decode, Cursor(body, "context"))
            self.assertEqual(str(fault), f"accepted presentation context 1 has {count} transfer syntaxes")

    def test_cut_anywhere(self) -> None:
        """User information cut at any byte is a `ProtocolError`, unless the cut is between sub-items."""
        edges = {0}
        body = b""
        for _, golden in GOLDEN_SUB_ITEMS:
            body += golden
            edges.add(len(body))
        for end in range(len(body) + 1):
            if end in edges:
                self.assertEqual(
                    UserInformation(user_information(body[:end]).sub_items).encode()[4:], body[:end]
                )
            else:
                self.assertRaises(ProtocolError, user_information, body[:end])

    def test_shortened_anywhere(self) -> None:
        """A sub-item cut at any byte, its length with it, is a `ProtocolError` or a shorter sub-item."""
        for _, golden in GOLDEN_SUB_ITEMS:
            for end in range(4, len(golden)):
                shorter = with_length(golden[:end], end - 4)
                try:
                    [item] = user_information(shorter).sub_items
                except ProtocolError:
                    continue
                self.assertEqual(item.encode(), shorter)

    def test_contexts_cut_anywhere(self) -> None:
        """A context item cut at any byte is a `ProtocolError`, or a context of fewer transfer syntaxes."""
        for context, golden in GOLDEN_CONTEXTS:
            for end in range(4, len(golden)):
                try:
                    shorter = type(context).decode(Cursor(golden[4:end], "context"))
                except ProtocolError:
                    continue
                self.assertEqual(shorter.context_id, context.context_id)
                self.assertTrue(golden[4:end].startswith(shorter.encode()[4:8]))

    def test_context_sub_item_past_the_context(self) -> None:
        """A syntax sub-item that is longer than what is left in its context is a fault."""
        for context, golden in GOLDEN_CONTEXTS:
            body = golden[4:8] + with_length(golden[8:], 0x4000)
            self.assertRaises(ProtocolError, type(context).decode, Cursor(body, "context"))

    @modest
    @given(st.binary(max_size=80))
    def test_garbage(self, body: bytes) -> None:
        """Whatever the bytes, decoding gives user information or a `ProtocolError`, nothing else."""
        try:
            self.assertIsInstance(user_information(body), UserInformation)
        except ProtocolError:
            pass

    @modest
    @given(st.sampled_from(GOLDEN_SUB_ITEMS), st.data())
    def test_damaged(self, case: tuple[SubItem, bytes], data: st.DataObject) -> None:
        """A golden sub-item with one byte changed decodes to something or is a `ProtocolError`."""
        damaged = bytearray(case[1])
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        try:
            self.assertIsInstance(user_information(bytes(damaged)), UserInformation)
        except ProtocolError:
            pass


class RoundTripTests(SynchronousTestCase):
    @modest
    @given(user_informations)
    def test_user_information(self, item: UserInformation) -> None:
        """Any user information is what its bytes decode to."""
        item_type, cursor = one_item(item.encode())
        self.assertEqual(item_type, 0x50)
        self.assertEqual(UserInformation.decode(cursor), item)


class CursorTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """Fields are big endian and come in their order."""
        cursor = Cursor(octets("01 02 03 04 05 06 07 FF 41 42 43 44"), "test")
        self.assertEqual((cursor.u8(), cursor.u16(), cursor.u32()), (0x01, 0x0203, 0x04050607))
        cursor.skip(1)
        self.assertEqual((cursor.text(1), cursor.take(1), cursor.remaining), ("A", b"B", 2))
        self.assertEqual(cursor.rest(), b"CD")
        cursor.finish()
        self.assertEqual((cursor.rest(), list(cursor.items())), (b"", []))

    def test_never_past_its_end(self) -> None:
        """A cursor confined to part of the bytes reads none behind its end."""
        for read in ("u16", "u32"):
            fault = self.assertRaises(ProtocolError, getattr(Cursor(bytes(9), "item 77H", 2, 3), read))
            self.assertIn("item 77H ends", str(fault))
        self.assertRaises(ProtocolError, Cursor(bytes(9), "item 77H", 3, 3).u8)
        self.assertRaises(ProtocolError, Cursor(bytes(9), "item 77H", 2, 8).take, 7)

    def test_fault_says_how_far(self) -> None:
        """The words tell the item and by how many bytes it is short, and nothing was read."""
        cursor = Cursor(bytes(1), "item 51H")
        fault = self.assertRaises(ProtocolError, cursor.u32)
        self.assertEqual(str(fault), "item 51H ends 3 bytes inside a field")
        self.assertEqual(cursor.remaining, 1)

    def test_items_are_bounded(self) -> None:
        """As many items as were asked for come, then a fault, and none if they are as many as there are."""
        for most in (0, 1, 5):
            cursor = Cursor(octets("77 00 00 00") * (most + 1), "test")
            came = []
            with self.assertRaises(ProtocolError) as caught:
                for item_type, _ in cursor.items(most):
                    came.append(item_type)
            self.assertEqual(came, [0x77] * most)
            self.assertEqual(str(caught.exception), f"more than {most} items in test")
            exactly = Cursor(octets("77 00 00 00") * most, "test")
            self.assertEqual(len(list(exactly.items(most))), most)
