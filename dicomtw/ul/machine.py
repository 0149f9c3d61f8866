"""The DICOM UL protocol machine (PS3.8 9.2): Tables 9-1 to 9-10, to be read beside the standard.

States, events, then the actions of Tables 9-6 to 9-9, each with the table's sentence as its docstring,
then the grid of Table 9-10. An action does what it says to `ul` and returns the next state and whom to tell.
The service-user is told after the state has changed, so a user that answers inside an indication finds
the machine where the standard has it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol

from dicomtw.errors import AbortReason, ProtocolError
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_RJ, A_RELEASE_RP, A_RELEASE_RQ, PDU, AbortSource


class State(IntEnum):
    """Tables 9-1 to 9-5."""

    Sta1 = 1  # Idle
    Sta2 = 2  # Transport connection open (Awaiting A-ASSOCIATE-RQ PDU)
    Sta3 = 3  # Awaiting local A-ASSOCIATE response primitive (from local user)
    Sta4 = 4  # Awaiting transport connection opening to complete (from local transport service)
    Sta5 = 5  # Awaiting A-ASSOCIATE-AC or A-ASSOCIATE-RJ PDU
    Sta6 = 6  # Association established and ready for data transfer
    Sta7 = 7  # Awaiting A-RELEASE-RP PDU
    Sta8 = 8  # Awaiting local A-RELEASE response primitive (from local user)
    Sta9 = 9  # Release collision requestor side; awaiting A-RELEASE response (from local user)
    Sta10 = 10  # Release collision acceptor side; awaiting A-RELEASE-RP PDU
    Sta11 = 11  # Release collision requestor side; awaiting A-RELEASE-RP PDU
    Sta12 = 12  # Release collision acceptor side; awaiting A-RELEASE response primitive (from local user)
    Sta13 = 13  # Awaiting Transport Connection Close Indication (Association no longer exists)


class Event(IntEnum):
    """The rows of Table 9-10."""

    Evt1 = 1  # A-ASSOCIATE Request (local user)
    Evt2 = 2  # Transport Conn. Confirmation (local transport service)
    Evt3 = 3  # A-ASSOCIATE-AC PDU (received on transport connection)
    Evt4 = 4  # A-ASSOCIATE-RJ PDU (received on transport connection)
    Evt5 = 5  # Transport Connection Indication (local transport service)
    Evt6 = 6  # A-ASSOCIATE-RQ PDU (received on transport connection)
    Evt7 = 7  # A-ASSOCIATE response primitive (accept)
    Evt8 = 8  # A-ASSOCIATE response primitive (reject)
    Evt9 = 9  # P-DATA request primitive
    Evt10 = 10  # P-DATA-TF PDU
    Evt11 = 11  # A-RELEASE Request primitive
    Evt12 = 12  # A-RELEASE-RQ PDU (received on open transport connection)
    Evt13 = 13  # A-RELEASE-RP PDU (received on transport connection)
    Evt14 = 14  # A-RELEASE Response primitive
    Evt15 = 15  # A-ABORT Request primitive
    Evt16 = 16  # A-ABORT PDU (received on open transport connection)
    Evt17 = 17  # Transport connection closed indication (local transport service)
    Evt18 = 18  # ARTIM timer expired (Association reject/release timer)
    Evt19 = 19  # Unrecognized or invalid PDU received


Sta1, Sta2, Sta3, Sta4, Sta5, Sta6, Sta7, Sta8, Sta9, Sta10, Sta11, Sta12, Sta13 = State
(
    Evt1, Evt2, Evt3, Evt4, Evt5, Evt6, Evt7, Evt8, Evt9, Evt10,
    Evt11, Evt12, Evt13, Evt14, Evt15, Evt16, Evt17, Evt18, Evt19,
) = Event  # fmt: skip


class ServiceUser(Protocol):
    """Whom the machine tells: the indication and confirmation primitives of PS3.8 section 7."""

    def associate_indication(self, pdu: Any) -> None: ...
    def associate_confirmation_accept(self, pdu: Any) -> None: ...
    def associate_confirmation_reject(self, pdu: Any) -> None: ...
    def data_indication(self, pdu: Any) -> None: ...
    def release_indication(self, pdu: Any) -> None: ...
    def release_confirmation(self, pdu: Any) -> None: ...
    def abort_indication(self, pdu: Any) -> None: ...
    def p_abort_indication(self, cause: Any) -> None: ...


class UL(Protocol):
    """What the actions act on: the verbs of Tables 9-6 to 9-9."""

    is_requestor: bool

    @property
    def user(self) -> ServiceUser: ...
    def connect(self) -> None: ...
    def send(self, pdu: PDU | bytes | list[bytes | memoryview]) -> None: ...
    def close(self) -> None: ...
    def start_artim(self) -> None: ...
    def stop_artim(self) -> None: ...
    def unacceptable(self, rq: Any) -> A_ASSOCIATE_RJ | None: ...


Tell = Callable[[Any], None] | None
Action = Callable[[UL, Any], tuple[State, Tell]]


# ---- Table 9-6: association establishment related actions -------------------------------------------


def AE_1(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue TRANSPORT CONNECT request primitive to local transport service."""
    ul.connect()
    return Sta4, None


def AE_2(ul: UL, rq: Any) -> tuple[State, Tell]:
    """Send A-ASSOCIATE-RQ-PDU."""
    ul.send(rq)
    return Sta5, None


def AE_3(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue A-ASSOCIATE confirmation (accept) primitive."""
    return Sta6, ul.user.associate_confirmation_accept


def AE_4(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue A-ASSOCIATE confirmation (reject) primitive and close transport connection."""
    ul.close()
    return Sta1, ul.user.associate_confirmation_reject


def AE_5(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue Transport connection response primitive; start ARTIM timer."""
    ul.start_artim()
    return Sta2, None


def AE_6(ul: UL, rq: Any) -> tuple[State, Tell]:
    """Stop ARTIM timer and if A-ASSOCIATE-RQ acceptable by service-provider: issue A-ASSOCIATE indication
    primitive; otherwise: issue A-ASSOCIATE-RJ-PDU and start ARTIM timer.
    """
    ul.stop_artim()
    rejection = ul.unacceptable(rq)
    if rejection is None:
        return Sta3, ul.user.associate_indication
    ul.send(rejection)
    ul.start_artim()
    return Sta13, None


def AE_7(ul: UL, ac: Any) -> tuple[State, Tell]:
    """Send A-ASSOCIATE-AC PDU."""
    ul.send(ac)
    return Sta6, None


def AE_8(ul: UL, rj: Any) -> tuple[State, Tell]:
    """Send A-ASSOCIATE-RJ PDU and start ARTIM timer."""
    ul.send(rj)
    ul.start_artim()
    return Sta13, None


# ---- Table 9-7: data transfer related actions -------------------------------------------------------


def DT_1(ul: UL, p_data: Any) -> tuple[State, Tell]:
    """Send P-DATA-TF PDU."""
    ul.send(p_data)
    return Sta6, None


def DT_2(ul: UL, _: Any) -> tuple[State, Tell]:
    """Send P-DATA indication primitive."""
    return Sta6, ul.user.data_indication


# ---- Table 9-8: association release related actions -------------------------------------------------


def AR_1(ul: UL, _: Any) -> tuple[State, Tell]:
    """Send A-RELEASE-RQ PDU."""
    ul.send(A_RELEASE_RQ())
    return Sta7, None


def AR_2(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue A-RELEASE indication primitive."""
    return Sta8, ul.user.release_indication


def AR_3(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue A-RELEASE confirmation primitive, and close transport connection."""
    ul.close()
    return Sta1, ul.user.release_confirmation


def AR_4(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue A-RELEASE-RP PDU and start ARTIM timer."""
    ul.send(A_RELEASE_RP())
    ul.start_artim()
    return Sta13, None


def AR_5(ul: UL, _: Any) -> tuple[State, Tell]:
    """Stop ARTIM timer."""
    ul.stop_artim()
    return Sta1, None


def AR_6(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue P-DATA indication."""
    return Sta7, ul.user.data_indication


def AR_7(ul: UL, p_data: Any) -> tuple[State, Tell]:
    """Issue P-DATA-TF PDU."""
    ul.send(p_data)
    return Sta8, None


def AR_8(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue A-RELEASE indication (release collision): if association-requestor, next state is Sta9,
    if not next state is Sta10.
    """
    return (Sta9 if ul.is_requestor else Sta10), ul.user.release_indication


def AR_9(ul: UL, _: Any) -> tuple[State, Tell]:
    """Send A-RELEASE-RP PDU."""
    ul.send(A_RELEASE_RP())
    return Sta11, None


def AR_10(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue A-RELEASE confirmation primitive."""
    return Sta12, ul.user.release_confirmation


# ---- Table 9-9: association abort related actions ---------------------------------------------------


def AA_1(ul: UL, cause: Any) -> tuple[State, Tell]:
    """Send A-ABORT PDU (service-user source) and start (or restart if already started) ARTIM timer.

    Table 9-26 calls the reason not significant with this source; an invalid PDU's is sent all the same,
    for whoever reads the trace at the other end.
    """
    reason = cause.reason if isinstance(cause, ProtocolError) else AbortReason.REASON_NOT_SPECIFIED
    if reason == AbortReason.UNRECOGNIZED_PDU:
        reason = AbortReason.REASON_NOT_SPECIFIED
    ul.send(A_ABORT(AbortSource.SERVICE_USER, reason))
    ul.start_artim()
    return Sta13, None


def AA_2(ul: UL, _: Any) -> tuple[State, Tell]:
    """Stop ARTIM timer if running. Close transport connection."""
    ul.stop_artim()
    ul.close()
    return Sta1, None


def AA_3(ul: UL, abort: Any) -> tuple[State, Tell]:
    """If (service-user initiated abort): issue A-ABORT indication and close transport connection; otherwise
    (service-provider initiated abort): issue A-P-ABORT indication and close transport connection.
    """
    ul.close()
    by_user = abort.source == AbortSource.SERVICE_USER
    return Sta1, ul.user.abort_indication if by_user else ul.user.p_abort_indication


def AA_4(ul: UL, _: Any) -> tuple[State, Tell]:
    """Issue A-P-ABORT indication primitive."""
    return Sta1, ul.user.p_abort_indication


def AA_5(ul: UL, _: Any) -> tuple[State, Tell]:
    """Stop ARTIM timer."""
    ul.stop_artim()
    return Sta1, None


def AA_6(ul: UL, _: Any) -> tuple[State, Tell]:
    """Ignore PDU."""
    return Sta13, None


def AA_7(ul: UL, cause: Any) -> tuple[State, Tell]:
    """Send A-ABORT PDU."""
    ul.send(A_ABORT(AbortSource.SERVICE_PROVIDER, _provider_reason(cause)))
    return Sta13, None


def AA_8(ul: UL, cause: Any) -> tuple[State, Tell]:
    """Send A-ABORT PDU (service-provider source-), issue an A-P-ABORT indication, and start ARTIM timer."""
    ul.send(A_ABORT(AbortSource.SERVICE_PROVIDER, _provider_reason(cause)))
    ul.start_artim()
    return Sta13, ul.user.p_abort_indication


def _provider_reason(cause: Any) -> AbortReason:
    """Table 9-26: the reason of an invalid PDU, else that a valid PDU came in the wrong state."""
    return cause.reason if isinstance(cause, ProtocolError) else AbortReason.UNEXPECTED_PDU


# ---- Table 9-10: DICOM upper layer protocol state transition table ----------------------------------

____ = None

# fmt: off
TABLE_9_10: dict[Event, tuple[Action | None, ...]] = {
    #      Sta1  Sta2  Sta3  Sta4  Sta5  Sta6  Sta7  Sta8  Sta9  Sta10  Sta11 Sta12 Sta13
    Evt1:  (AE_1, ____, ____, ____, ____, ____, ____, ____, ____, ____,  ____, ____, ____),
    Evt2:  (____, ____, ____, AE_2, ____, ____, ____, ____, ____, ____,  ____, ____, ____),
    Evt3:  (____, AA_1, AA_8, ____, AE_3, AA_8, AA_8, AA_8, AA_8, AA_8,  AA_8, AA_8, AA_6),
    Evt4:  (____, AA_1, AA_8, ____, AE_4, AA_8, AA_8, AA_8, AA_8, AA_8,  AA_8, AA_8, AA_6),
    Evt5:  (AE_5, ____, ____, ____, ____, ____, ____, ____, ____, ____,  ____, ____, ____),
    Evt6:  (____, AE_6, AA_8, ____, AA_8, AA_8, AA_8, AA_8, AA_8, AA_8,  AA_8, AA_8, AA_7),
    Evt7:  (____, ____, AE_7, ____, ____, ____, ____, ____, ____, ____,  ____, ____, ____),
    Evt8:  (____, ____, AE_8, ____, ____, ____, ____, ____, ____, ____,  ____, ____, ____),
    Evt9:  (____, ____, ____, ____, ____, DT_1, ____, AR_7, ____, ____,  ____, ____, ____),
    Evt10: (____, AA_1, AA_8, ____, AA_8, DT_2, AR_6, AA_8, AA_8, AA_8,  AA_8, AA_8, AA_6),
    Evt11: (____, ____, ____, ____, ____, AR_1, ____, ____, ____, ____,  ____, ____, ____),
    Evt12: (____, AA_1, AA_8, ____, AA_8, AR_2, AR_8, AA_8, AA_8, AA_8,  AA_8, AA_8, AA_6),
    Evt13: (____, AA_1, AA_8, ____, AA_8, AA_8, AR_3, AA_8, AA_8, AR_10, AR_3, AA_8, AA_6),
    Evt14: (____, ____, ____, ____, ____, ____, ____, AR_4, AR_9, ____,  ____, AR_4, ____),
    Evt15: (____, ____, AA_1, AA_2, AA_1, AA_1, AA_1, AA_1, AA_1, AA_1,  AA_1, AA_1, ____),
    Evt16: (____, AA_2, AA_3, ____, AA_3, AA_3, AA_3, AA_3, AA_3, AA_3,  AA_3, AA_3, AA_2),
    Evt17: (____, AA_5, AA_4, AA_4, AA_4, AA_4, AA_4, AA_4, AA_4, AA_4,  AA_4, AA_4, AR_5),
    Evt18: (____, AA_2, ____, ____, ____, ____, ____, ____, ____, ____,  ____, ____, AA_2),
    Evt19: (____, AA_1, AA_8, ____, AA_8, AA_8, AA_8, AA_8, AA_8, AA_8,  AA_8, AA_8, AA_7),
}
# fmt: on


#: The rows in order: the dictionary would hash the event's name for each PDU.
_ROWS = tuple(TABLE_9_10.values())


def action_of(event: Event, state: State) -> Action | None:
    """The action of Table 9-10; None where it has none."""
    return _ROWS[event - 1][state - 1]
