"""Table 9-10, cell by cell, against a second copy of it; and users that answer inside an indication."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.errors import LocalStateError, ProtocolError
from dicomtw.ul.machine import TABLE_9_10, Event, State
from dicomtw.ul.pdu import A_ABORT
from dicomtw.ul.provider import Provider
from tests.ul.recorders import RecordingNeighbours, octets
from tests.ul.test_pdu import (
    AC,
    AC_BYTES,
    P_DATA,
    P_DATA_BYTES,
    RELEASE_RP_BYTES,
    RELEASE_RQ_BYTES,
    RJ,
    RJ_BYTES,
    RQ,
    RQ_BYTES,
)

#: PS3.8 Table 9-10, typed from the standard: action and number of the next state in each cell.
#: AE-6 goes to Sta3 if the A-ASSOCIATE-RQ is acceptable; AR-8 to Sta9 if we are the association-requestor.
STANDARD = """
        Sta1   Sta2     Sta3   Sta4   Sta5   Sta6   Sta7     Sta8    Sta9   Sta10   Sta11  Sta12   Sta13
Evt1    AE1>4  -        -      -      -      -      -        -       -      -       -      -       -
Evt2    -      -        -      AE2>5  -      -      -        -       -      -       -      -       -
Evt3    -      AA1>13   AA8>13 -      AE3>6  AA8>13 AA8>13   AA8>13  AA8>13 AA8>13  AA8>13 AA8>13  AA6>13
Evt4    -      AA1>13   AA8>13 -      AE4>1  AA8>13 AA8>13   AA8>13  AA8>13 AA8>13  AA8>13 AA8>13  AA6>13
Evt5    AE5>2  -        -      -      -      -      -        -       -      -       -      -       -
Evt6    -      AE6>3|13 AA8>13 -      AA8>13 AA8>13 AA8>13   AA8>13  AA8>13 AA8>13  AA8>13 AA8>13  AA7>13
Evt7    -      -        AE7>6  -      -      -      -        -       -      -       -      -       -
Evt8    -      -        AE8>13 -      -      -      -        -       -      -       -      -       -
Evt9    -      -        -      -      -      DT1>6  -        AR7>8   -      -       -      -       -
Evt10   -      AA1>13   AA8>13 -      AA8>13 DT2>6  AR6>7    AA8>13  AA8>13 AA8>13  AA8>13 AA8>13  AA6>13
Evt11   -      -        -      -      -      AR1>7  -        -       -      -       -      -       -
Evt12   -      AA1>13   AA8>13 -      AA8>13 AR2>8  AR8>9|10 AA8>13  AA8>13 AA8>13  AA8>13 AA8>13  AA6>13
Evt13   -      AA1>13   AA8>13 -      AA8>13 AA8>13 AR3>1    AA8>13  AA8>13 AR10>12 AR3>1  AA8>13  AA6>13
Evt14   -      -        -      -      -      -      -        AR4>13  AR9>11 -       -      AR4>13  -
Evt15   -      -        AA1>13 AA2>1  AA1>13 AA1>13 AA1>13   AA1>13  AA1>13 AA1>13  AA1>13 AA1>13  -
Evt16   -      AA2>1    AA3>1  -      AA3>1  AA3>1  AA3>1    AA3>1   AA3>1  AA3>1   AA3>1  AA3>1   AA2>1
Evt17   -      AA5>1    AA4>1  AA4>1  AA4>1  AA4>1  AA4>1    AA4>1   AA4>1  AA4>1   AA4>1  AA4>1   AR5>1
Evt18   -      AA2>1    -      -      -      -      -        -       -      -       -      -       AA2>1
Evt19   -      AA1>13   AA8>13 -      AA8>13 AA8>13 AA8>13   AA8>13  AA8>13 AA8>13  AA8>13 AA8>13  AA7>13
"""

#: Tables 9-6 to 9-9: what each action does, in the order it is to be seen. A sent PDU is named in SENT.
ACTIONS: dict[str, list[str]] = {
    "AE1": ["connect"],
    "AE2": ["send A-ASSOCIATE-RQ"],
    "AE3": ["associate_confirmation_accept"],
    "AE4": ["close", "associate_confirmation_reject"],
    "AE5": ["start_artim"],
    "AE6": ["stop_artim", "associate_indication"],
    "AE7": ["send A-ASSOCIATE-AC"],
    "AE8": ["send A-ASSOCIATE-RJ", "start_artim"],
    "DT1": ["send P-DATA-TF"],
    "DT2": ["data_indication"],
    "AR1": ["send A-RELEASE-RQ"],
    "AR2": ["release_indication"],
    "AR3": ["close", "release_confirmation"],
    "AR4": ["send A-RELEASE-RP", "start_artim"],
    "AR5": ["stop_artim"],
    "AR6": ["data_indication"],
    "AR7": ["send P-DATA-TF"],
    "AR8": ["release_indication"],
    "AR9": ["send A-RELEASE-RP"],
    "AR10": ["release_confirmation"],
    "AA1": ["send A-ABORT of the service-user", "start_artim"],
    "AA2": ["stop_artim", "close"],
    "AA3": ["close", "abort_indication"],
    "AA4": ["p_abort_indication"],
    "AA5": ["stop_artim"],
    "AA6": [],
    "AA7": ["send A-ABORT of the service-provider"],
    "AA8": ["send A-ABORT of the service-provider", "start_artim", "p_abort_indication"],
}

#: Bytes of the PDUs that the actions send. The last byte of an A-ABORT is its reason.
SENT = {
    "A-ASSOCIATE-RQ": RQ_BYTES,
    "A-ASSOCIATE-AC": AC_BYTES,
    "A-ASSOCIATE-RJ": RJ_BYTES,
    "P-DATA-TF": P_DATA_BYTES,
    "A-RELEASE-RQ": RELEASE_RQ_BYTES,
    "A-RELEASE-RP": RELEASE_RP_BYTES,
    "A-ABORT of the service-user": octets("07 00  00 00 00 04  00 00 00 00"),
}

ABORT_OF_THE_PROVIDER = {
    "unrecognized-PDU": octets("07 00  00 00 00 04  00 00 02 01"),
    "unexpected-PDU": octets("07 00  00 00 00 04  00 00 02 02"),
}

USER_ABORT = octets("07 00  00 00 00 04  00 00 00 00")
PROVIDER_ABORT = octets("07 00  00 00 00 04  00 00 02 00")
UNRECOGNIZED = octets("08 00  00 00 00 04  00 00 00 00")
OTHER_VERSION = RQ_BYTES[:6] + octets("00 02") + RQ_BYTES[8:]

#: How each event comes to the provider.
CAUSES: dict[str, Callable[[Provider], None]] = {
    "Evt1": lambda provider: provider.associate_request(RQ),
    "Evt2": lambda provider: provider.connection_confirmation(),
    "Evt3": lambda provider: provider.bytes_received(AC_BYTES),
    "Evt4": lambda provider: provider.bytes_received(RJ_BYTES),
    "Evt5": lambda provider: provider.connection_indication(),
    "Evt6": lambda provider: provider.bytes_received(RQ_BYTES),
    "Evt7": lambda provider: provider.associate_response(AC),
    "Evt8": lambda provider: provider.associate_response(RJ),
    "Evt9": lambda provider: provider.data_request(P_DATA),
    "Evt10": lambda provider: provider.bytes_received(P_DATA_BYTES),
    "Evt11": lambda provider: provider.release_request(),
    "Evt12": lambda provider: provider.bytes_received(RELEASE_RQ_BYTES),
    "Evt13": lambda provider: provider.bytes_received(RELEASE_RP_BYTES),
    "Evt14": lambda provider: provider.release_response(),
    "Evt15": lambda provider: provider.abort_request("a test"),
    "Evt16": lambda provider: provider.bytes_received(USER_ABORT),
    "Evt17": lambda provider: provider.connection_closed(),
    "Evt18": lambda provider: provider.artim_expired(),
    "Evt19": lambda provider: provider.bytes_received(UNRECOGNIZED),
}


def cells() -> dict[tuple[str, str], str]:
    """The cells of STANDARD by event and state."""
    heading, *rows = STANDARD.strip().splitlines()
    table = {}
    for row in rows:
        event, *columns = row.split()
        for state, cell in zip(heading.split(), columns, strict=True):
            table[event, state] = cell
    return table


def neighbours_in(state: str, *, is_requestor: bool) -> RecordingNeighbours:
    """The neighbours of a provider whose state was set by hand, and that has a request to send."""
    neighbours = RecordingNeighbours(is_requestor=is_requestor)
    neighbours.provider.associate_request(RQ)
    neighbours.calls.clear()
    neighbours.provider.state = State[state]
    return neighbours


def expected_calls(event: str, action: str) -> list[str]:
    """What `neighbours.calls` is after `action`, the PDUs in hexadecimal."""
    reason = "unrecognized-PDU" if event == "Evt19" else "unexpected-PDU"
    sent = SENT | {"A-ABORT of the service-provider": ABORT_OF_THE_PROVIDER[reason]}
    return [
        f"send {sent[call.removeprefix('send ')].hex(' ')}" if call.startswith("send ") else call
        for call in ACTIONS[action]
    ]


class TableTests(SynchronousTestCase):
    """One test for each of the 247 cells, which are added below."""

    def _filled(self, event: str, state: str, cell: str, *, is_requestor: bool) -> None:
        action, _, next_states = cell.partition(">")
        next_state = next_states.split("|")[0]
        if action == "AR8" and not is_requestor:
            next_state = next_states.split("|")[1]
        neighbours = neighbours_in(state, is_requestor=is_requestor)
        CAUSES[event](neighbours.provider)
        self.assertEqual(neighbours.calls, expected_calls(event, action))
        self.assertEqual(neighbours.provider.state, State[f"Sta{next_state}"])
        for primitive, _, state_then in neighbours.told:
            self.assertEqual(state_then, State[f"Sta{next_state}"], f"when {primitive} came")

    def _empty(self, event: str, state: str, *, is_requestor: bool) -> None:
        neighbours = neighbours_in(state, is_requestor=is_requestor)
        if (event, state) == ("Evt17", "Sta1"):
            CAUSES[event](neighbours.provider)  # the connection that we have closed is closed: no event
        else:
            fault = self.assertRaises(LocalStateError, CAUSES[event], neighbours.provider)
            self.assertEqual(str(fault), f"{event} has no action in {state}")
        self.assertEqual(neighbours.calls, [])
        self.assertEqual(neighbours.provider.state, State[state])


def _add_test(event: str, state: str, cell: str) -> None:
    def test(self: TableTests) -> None:
        for is_requestor in (False, True):
            if cell == "-":
                self._empty(event, state, is_requestor=is_requestor)
            else:
                self._filled(event, state, cell, is_requestor=is_requestor)

    test.__doc__ = f"{event} in {state}: {'no action' if cell == '-' else cell}."
    test.__name__ = f"test_{event}_{state}"
    test.__qualname__ = f"{TableTests.__qualname__}.{test.__name__}"
    setattr(TableTests, test.__name__, test)


for (_event, _state), _cell in cells().items():
    _add_test(_event, _state, _cell)


class GridTests(SynchronousTestCase):
    def test_size(self) -> None:
        """Both copies have 19 events, 13 states, 123 actions and 124 empty cells."""
        table = cells()
        self.assertEqual(len(table), 247)
        self.assertEqual(len([cell for cell in table.values() if cell != "-"]), 123)
        self.assertEqual([event.name for event in TABLE_9_10], [f"Evt{n}" for n in range(1, 20)])
        self.assertEqual({len(row) for row in TABLE_9_10.values()}, {13})

    def test_actions(self) -> None:
        """Each cell of the grid has the action that the standard has there."""
        for (event, state), cell in cells().items():
            action = TABLE_9_10[Event[event]][State[state] - 1]
            name = "-" if action is None else action.__name__.replace("_", "")
            self.assertEqual(name, cell.partition(">")[0], f"{event} in {state}")

    def test_every_action(self) -> None:
        """Tables 9-6 to 9-9 have 28 actions, and the grid has use for all of them."""
        used = {cell.partition(">")[0] for cell in cells().values()} - {"-"}
        self.assertEqual(used, set(ACTIONS))
        self.assertEqual(len(ACTIONS), 28)


class ArgumentTests(SynchronousTestCase):
    def _told(self, state: str, cause: Callable[[Provider], None]) -> object:
        neighbours = neighbours_in(state, is_requestor=False)
        cause(neighbours.provider)
        [(_, argument, _)] = neighbours.told
        return argument

    def test_pdus(self) -> None:
        """An indication or confirmation carries the PDU that it comes from."""
        self.assertEqual(self._told("Sta2", CAUSES["Evt6"]), RQ)
        self.assertEqual(self._told("Sta5", CAUSES["Evt3"]), AC)
        self.assertEqual(self._told("Sta5", CAUSES["Evt4"]), RJ)
        self.assertEqual(self._told("Sta6", CAUSES["Evt16"]), A_ABORT(0, 0))

    def test_causes(self) -> None:
        """A-P-ABORT carries its cause: the unexpected or invalid PDU, or None for a closed connection."""
        self.assertEqual(self._told("Sta6", CAUSES["Evt3"]), AC)
        self.assertIsInstance(self._told("Sta6", CAUSES["Evt19"]), ProtocolError)
        self.assertIsNone(self._told("Sta6", CAUSES["Evt17"]))

    def test_abort_of_the_provider(self) -> None:
        """AA-3: an A-ABORT of the peer's service-provider is an A-P-ABORT indication."""
        for state in ("Sta3", "Sta5", "Sta6", "Sta7", "Sta8", "Sta9", "Sta10", "Sta11", "Sta12"):
            neighbours = neighbours_in(state, is_requestor=False)
            neighbours.provider.bytes_received(PROVIDER_ABORT)
            self.assertEqual(neighbours.calls, ["close", "p_abort_indication"])
            self.assertEqual(neighbours.told, [("p_abort_indication", A_ABORT(2, 0), State.Sta1)])

    def test_unacceptable(self) -> None:
        """AE-6: a request that the service-provider cannot accept is rejected, and the user not told."""
        neighbours = neighbours_in("Sta2", is_requestor=False)
        neighbours.provider.bytes_received(OTHER_VERSION)
        rejection = "send 03 00 00 00 00 04 00 01 02 02"
        self.assertEqual(neighbours.calls, ["stop_artim", rejection, "start_artim"])
        self.assertEqual(neighbours.provider.state, State.Sta13)

    def test_encoded_p_data(self) -> None:
        """DT-1 and AR-7 send a P-DATA-TF that is encoded already as it is."""
        for state in ("Sta6", "Sta8"):
            neighbours = neighbours_in(state, is_requestor=False)
            neighbours.provider.data_request(b"encoded")
            self.assertEqual(neighbours.sent, [b"encoded".hex(" ")])


class AnswerInsideTests(SynchronousTestCase):
    """A user that answers inside an indication finds the state that the standard has after the action."""

    def _answered(
        self,
        state: str,
        event: str,
        primitive: str,
        answer: Callable[[Provider], None],
        *,
        is_requestor: bool,
    ) -> RecordingNeighbours:
        neighbours = neighbours_in(state, is_requestor=is_requestor)
        neighbours.meanwhile[primitive] = lambda: answer(neighbours.provider)
        CAUSES[event](neighbours.provider)
        return neighbours

    def test_answers(self) -> None:
        """Responses and requests inside an indication or confirmation, and where they lead."""
        accept, reject = CAUSES["Evt7"], CAUSES["Evt8"]
        data_request, release_request, release_response = CAUSES["Evt9"], CAUSES["Evt11"], CAUSES["Evt14"]
        indication, confirmation = "associate_indication", "associate_confirmation_accept"
        cases: list[tuple[str, str, bool, str, Callable[[Provider], None], list[str], str]] = [
            # state, event, requestor, primitive, answer, sent, next state
            ("Sta2", "Evt6", False, indication, accept, ["A-ASSOCIATE-AC"], "Sta6"),
            ("Sta2", "Evt6", False, indication, reject, ["A-ASSOCIATE-RJ"], "Sta13"),
            ("Sta5", "Evt3", True, confirmation, data_request, ["P-DATA-TF"], "Sta6"),
            ("Sta5", "Evt3", True, confirmation, release_request, ["A-RELEASE-RQ"], "Sta7"),
            ("Sta6", "Evt10", False, "data_indication", data_request, ["P-DATA-TF"], "Sta6"),
            ("Sta6", "Evt10", True, "data_indication", release_request, ["A-RELEASE-RQ"], "Sta7"),
            ("Sta6", "Evt12", False, "release_indication", release_response, ["A-RELEASE-RP"], "Sta13"),
            ("Sta6", "Evt12", False, "release_indication", data_request, ["P-DATA-TF"], "Sta8"),
            ("Sta7", "Evt12", True, "release_indication", release_response, ["A-RELEASE-RP"], "Sta11"),
            ("Sta10", "Evt13", False, "release_confirmation", release_response, ["A-RELEASE-RP"], "Sta13"),
        ]
        for state, event, is_requestor, primitive, answer, sent, next_state in cases:
            neighbours = self._answered(state, event, primitive, answer, is_requestor=is_requestor)
            case = f"{event} in {state}"
            self.assertEqual(neighbours.provider.state, State[next_state], case)
            self.assertEqual(neighbours.sent, [SENT[name].hex(" ") for name in sent], case)

    def test_accept(self) -> None:
        """The calls of an acceptor that accepts at once: ARTIM is stopped and not started again."""
        neighbours = self._answered(
            "Sta2", "Evt6", "associate_indication", CAUSES["Evt7"], is_requestor=False
        )
        expected = ["stop_artim", "associate_indication", f"send {AC_BYTES.hex(' ')}"]
        self.assertEqual(neighbours.calls, expected)

    def test_reject(self) -> None:
        """The calls of an acceptor that rejects at once: ARTIM is stopped, then started for the close."""
        neighbours = self._answered(
            "Sta2", "Evt6", "associate_indication", CAUSES["Evt8"], is_requestor=False
        )
        expected = ["stop_artim", "associate_indication", f"send {RJ_BYTES.hex(' ')}", "start_artim"]
        self.assertEqual(neighbours.calls, expected)

    def test_abort(self) -> None:
        """A user may abort inside any indication that leaves an association: one A-ABORT goes out."""
        cases = [
            ("Sta2", "Evt6", "associate_indication", False),
            ("Sta5", "Evt3", "associate_confirmation_accept", True),
            ("Sta6", "Evt10", "data_indication", False),
            ("Sta7", "Evt10", "data_indication", True),
            ("Sta6", "Evt12", "release_indication", False),
            ("Sta7", "Evt12", "release_indication", False),
            ("Sta7", "Evt12", "release_indication", True),
            ("Sta10", "Evt13", "release_confirmation", False),
        ]
        for state, event, primitive, is_requestor in cases:
            neighbours = self._answered(state, event, primitive, CAUSES["Evt15"], is_requestor=is_requestor)
            case = f"{event} in {state}"
            self.assertEqual(neighbours.provider.state, State.Sta13, case)
            self.assertEqual(neighbours.sent, [USER_ABORT.hex(" ")], case)
            self.assertEqual(neighbours.calls[-2:], [f"send {USER_ABORT.hex(' ')}", "start_artim"], case)
            self.assertEqual(neighbours.fragments, [], case)

    def test_too_late(self) -> None:
        """Inside an indication that ends the association there is nothing left to answer or abort."""
        cases = [
            ("Sta5", "Evt4", "associate_confirmation_reject"),
            ("Sta7", "Evt13", "release_confirmation"),
            ("Sta11", "Evt13", "release_confirmation"),
            ("Sta6", "Evt16", "abort_indication"),
            ("Sta6", "Evt17", "p_abort_indication"),
            ("Sta6", "Evt19", "p_abort_indication"),
        ]
        for state, event, primitive in cases:
            for request in ("Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"):

                def answer(provider: Provider, request: str = request) -> None:
                    self.assertRaises(LocalStateError, CAUSES[request], provider)

                neighbours = self._answered(state, event, primitive, answer, is_requestor=True)
                self.assertEqual([told[0] for told in neighbours.told], [primitive])

    def test_collision_on_the_acceptor_side(self) -> None:
        """In a release collision the acceptor responds after the requestor's A-RELEASE-RP, not before."""
        neighbours = neighbours_in("Sta7", is_requestor=False)
        provider = neighbours.provider
        neighbours.meanwhile["release_indication"] = lambda: self.assertRaises(
            LocalStateError, provider.release_response
        )
        neighbours.meanwhile["release_confirmation"] = provider.release_response
        provider.bytes_received(RELEASE_RQ_BYTES)
        self.assertEqual(provider.state, State.Sta10)
        provider.bytes_received(RELEASE_RP_BYTES)
        self.assertEqual(provider.state, State.Sta13)
        self.assertEqual(neighbours.sent, [RELEASE_RP_BYTES.hex(" ")])

    def test_collision_on_the_requestor_side(self) -> None:
        """In a release collision the requestor responds at once, and the A-RELEASE-RP then ends it."""
        neighbours = neighbours_in("Sta7", is_requestor=True)
        neighbours.meanwhile["release_indication"] = neighbours.provider.release_response
        neighbours.provider.bytes_received(RELEASE_RQ_BYTES + RELEASE_RP_BYTES)
        self.assertEqual(neighbours.provider.state, State.Sta1)
        self.assertEqual(
            neighbours.calls,
            ["release_indication", f"send {RELEASE_RP_BYTES.hex(' ')}", "close", "release_confirmation"],
        )


class WholeAssociationTests(SynchronousTestCase):
    def test_two_providers(self) -> None:
        """A requestor and an acceptor, joined, associate, transfer and release, and end in Sta1."""
        requestor, acceptor = RecordingNeighbours(is_requestor=True), RecordingNeighbours()

        def deliver() -> None:
            """Carry what each side has sent to the other, until both are silent."""
            while requestor.sent or acceptor.sent:
                for sender, receiver in ((requestor, acceptor), (acceptor, requestor)):
                    stream = bytes.fromhex("".join(sender.sent))
                    sender.calls[:] = [call for call in sender.calls if not call.startswith("send ")]
                    receiver.provider.bytes_received(stream)

        acceptor.meanwhile["associate_indication"] = lambda: acceptor.provider.associate_response(AC)
        acceptor.meanwhile["release_indication"] = acceptor.provider.release_response
        requestor.provider.associate_request(RQ)
        acceptor.provider.connection_indication()
        requestor.provider.connection_confirmation()
        deliver()
        requestor.provider.data_request(P_DATA)
        requestor.provider.release_request()
        deliver()
        acceptor.provider.connection_closed()
        requestor.provider.connection_closed()
        self.assertEqual(
            requestor.calls, ["connect", "associate_confirmation_accept", "close", "release_confirmation"]
        )
        indications = ["associate_indication", "data_indication", "release_indication"]
        self.assertEqual([told[0] for told in acceptor.told], indications)
        artim = [call for call in acceptor.calls if call not in indications]
        self.assertEqual(artim, ["start_artim", "stop_artim", "start_artim", "stop_artim"])
        self.assertEqual(len(acceptor.fragments), 3)
        self.assertEqual((requestor.provider.state, acceptor.provider.state), (State.Sta1, State.Sta1))
        self.assertEqual((requestor.provider.fault, acceptor.provider.fault), ("", ""))
