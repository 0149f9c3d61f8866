"""Verification Service Class (PS3.4 Annex A): the smallest there is, and the model for others."""

from __future__ import annotations

from dicomtw import uids
from dicomtw.dimse import status
from dicomtw.errors import DimseError
from dicomtw.services import Operation, ServiceClass


class Verification(ServiceClass):
    """Answers C-ECHO."""

    abstract_syntaxes = (uids.VERIFICATION,)

    async def c_echo(self, operation: Operation) -> int:
        """PS3.7 9.1.5."""
        if operation.request.affected_sop_class_uid != uids.VERIFICATION:
            raise DimseError(status.SOP_CLASS_NOT_SUPPORTED, "C-ECHO is for the Verification SOP Class")
        return status.SUCCESS
