"""Storage Service Class (PS3.4 Annex B): C-STORE into a `Store`, each data set kept as it was received."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol, cast

from dicomtw import uids
from dicomtw.dimse import status
from dicomtw.errors import DimseError
from dicomtw.services import Operation, ServiceClass
from dicomtw.storage import DataSetSink, IndexedSink, Store
from dicomtw.storage.part10 import FileMeta
from dicomtw.storage.stored import Stored
from dicomtw.ul.negotiation import Offer

#: SOP classes of the standard's that are for storage begin so; the tables know today's.
_STANDARD = "1.2.840.10008."
_STANDARD_STORAGE = "1.2.840.10008.5.1.4.1.1."

#: What we answer in extended negotiation (PS3.4 B.3.1, Table B.3-2): level of support 2 (Full), digital
#: signatures level 3 (bit preserving), no element coercion.
_SUPPORT = bytes((2, 0, 3, 0, 0, 0))


class Indexing(Protocol):
    """What enters objects into the index of a store."""

    def add(self, stored: Stored) -> Awaitable[None]:
        """Enter an object, or see to it that it will be. Raises `DimseError`."""


class Storage(ServiceClass):
    """Stores what C-STORE brings.

    `accept_unknown`: serve SOP classes that no table here knows, private ones and those of later editions.
    `indexing`: who is told what is stored; the sinks of `store` are `IndexedSink`s then.
    """

    abstract_syntaxes = tuple(uids.STORAGE_SOP_CLASSES)
    transfer_syntaxes = frozenset(uids.TRANSFER_SYNTAXES)

    def __init__(
        self, store: Store, *, accept_unknown: bool = False, indexing: Indexing | None = None
    ) -> None:
        self._store = store
        self._accept_unknown = accept_unknown
        self._indexing = indexing

    def accepts(self, abstract_syntax: str) -> bool:
        """Private SOP classes and new storage ones, but no other of the standard's."""
        is_other = abstract_syntax.startswith(_STANDARD) and not abstract_syntax.startswith(_STANDARD_STORAGE)
        return self._accept_unknown and not is_other

    def offer(self, abstract_syntax: str) -> Offer:
        # In the SCP role a requestor is stored to, by C-GET.
        return Offer(self.transfer_syntaxes, scp_role=True, extended_negotiation=lambda _: _SUPPORT)

    def data_set_sink(self, operation: Operation) -> DataSetSink:
        """A file of the store, named by the command."""
        request = operation.request
        if request.affected_sop_class_uid != operation.context.abstract_syntax:
            raise DimseError(status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, "SOP class is not the context's")
        return self._store.open(
            FileMeta(
                sop_class_uid=request.affected_sop_class_uid or "",
                sop_instance_uid=request.affected_sop_instance_uid or "",
                transfer_syntax_uid=operation.context.transfer_syntax,
                sending_ae_title=operation.calling_ae_title,
                receiving_ae_title=operation.called_ae_title,
            )
        )

    async def c_store(self, operation: Operation) -> int:
        """PS3.7 9.1.1, PS3.4 B.2.2: the answer is given when the object is as safe as the store promises."""
        await operation.commit()
        if self._indexing is not None:
            stored = cast(IndexedSink, operation.sink).stored
            if stored is not None:
                await self._indexing.add(stored)
                if operation.trail is not None:
                    operation.trail.received(stored, operation.context.abstract_syntax)
        return status.SUCCESS
