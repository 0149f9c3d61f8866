"""What associations tell an audit trail (PS3.15 A.5), if one is kept.

Who keeps it, and how, is not known here. What it is told about patients is for it alone, and for no log.
"""

from __future__ import annotations

from typing import Final, Protocol

from dicomtw.errors import DimseError
from dicomtw.security.access import Requestor
from dicomtw.services import Operation, Trail


class AssociationTrail(Trail, Protocol):
    """The audit trail of one association."""

    def begun(self, operation: Operation, refusal: DimseError | None) -> None:
        """An operation is performed, or refused; its request is complete."""

    def ended(self) -> None:
        """The association is over; what it was about to do may still be done."""


class Audit(Protocol):
    """The audit trail of one server. No method blocks or raises."""

    def unavailable(self) -> str:
        """Why no association is possible now, in words: the trail is required and cannot be written."""

    def established(self, requestor: Requestor) -> AssociationTrail | None:
        """An association is accepted; None: no trail is kept."""

    def rejected(self, requestor: Requestor, why: str, *, transient: bool) -> None:
        """An association is rejected, for now or altogether."""

    def login_failed(self, requestor: Requestor, user: str, why: str) -> None:
        """Somebody is not who he says, so the association is rejected: instead of `rejected`."""

    def turned_out(self, address: str, why: str) -> None:
        """A connection ended before any association, by a limit or because TLS failed."""


class _Silent:
    def unavailable(self) -> str:
        return ""

    def established(self, requestor: Requestor) -> AssociationTrail | None:
        return None

    def rejected(self, requestor: Requestor, why: str, *, transient: bool) -> None:
        pass

    def login_failed(self, requestor: Requestor, user: str, why: str) -> None:
        pass

    def turned_out(self, address: str, why: str) -> None:
        pass


#: No audit trail is kept.
SILENT: Final[Audit] = _Silent()
