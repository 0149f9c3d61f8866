"""The few faults, each carrying its wire code.

Parsers of PDUs and messages raise `ProtocolError` and nothing else, those of data sets `UnreadableDataSet`. A
service raises `DimseError`, and that is the response. Anything else that escapes is a bug of ours: it is
logged and the association aborted. What a client is told is here too: `AssociationLost` and what is derived
from it, `NotAccepted`, `OperationFailed`.
"""

from __future__ import annotations

from enum import IntEnum


class AbortReason(IntEnum):
    """Reason of an A-ABORT whose source is the UL service-provider (PS3.8 9.3.8, Table 9-26)."""

    REASON_NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


class ProtocolError(Exception):
    """The peer broke the protocol. The state machine turns it into A-ABORT with `reason` (Evt19)."""

    def __init__(self, message: str, reason: AbortReason = AbortReason.INVALID_PDU_PARAMETER_VALUE) -> None:
        super().__init__(message)
        self.reason = reason


class LocalStateError(Exception):
    """We asked for something that the association's state does not allow. Never reaches the wire."""


class UnreadableDataSet(Exception):
    """These bytes are no data set in their transfer syntax, or too deeply nested or too long to be walked."""


class IndexFault(Exception):
    """The index of a store cannot be used now: one line that says why. No object is lost by it."""


class QueryLimit(Exception):
    """A query takes more than it may: one line that says what, for its requestor."""


class Cancelled(Exception):
    """The operation is cancelled: by C-CANCEL, or because nobody is left to answer (PS3.7 9.3.2.3)."""


class AssociationLost(Exception):
    """The association that was to carry something has ended, or did not come about; the text says how."""


class NotConnected(AssociationLost):
    """The connection to the peer could not be opened."""


class Rejected(AssociationLost):
    """The peer has rejected the association, with the result, source and reason of PS3.8 Table 9-21."""

    def __init__(self, message: str, result: int, source: int, reason: int) -> None:
        super().__init__(message)
        self.result = result
        self.source = source
        self.reason = reason

    @property
    def transient(self) -> bool:
        """Whether it may do to ask again later."""
        return self.result == 2


class NotAccepted(Exception):
    """No presentation context that the peer has accepted is for this."""


class OperationFailed(Exception):
    """The peer has answered a request with a failure: `status` (PS3.7 Annex C) and its comment."""

    def __init__(self, operation: str, status: int, comment: str = "", retrieval: object = None) -> None:
        super().__init__(
            f"{operation} failed with status {status:04X}H" + (f": {comment}" if comment else "")
        )
        self.status = status
        self.comment = comment
        #: How far a C-MOVE or C-GET came: an `scu.Retrieval`.
        self.retrieval = retrieval


class DimseError(Exception):
    """The status a DIMSE operation ends with when it fails, and a comment for the peer (PS3.7 Annex C).

    `status` is the 16-bit Status (0000,0900); `comment` becomes Error Comment (0000,0902), of which
    64 characters are sent, and must hold nothing about a patient.
    """

    def __init__(self, status: int, comment: str = "") -> None:
        super().__init__(f"{status:04X}H {comment}".rstrip())
        self.status = status
        self.comment = comment
