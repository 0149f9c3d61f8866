"""Query of the Query/Retrieve Service Class (PS3.4 C.4.1): C-FIND over the index of a store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator
from functools import partial
from typing import Final, Protocol

from dicomtw import uids
from dicomtw.dimse import status
from dicomtw.errors import DimseError, IndexFault, QueryLimit
from dicomtw.services import Operation, Response, ServiceClass
from dicomtw.services.bounds import DEFAULT, Bounds
from dicomtw.services.identifier import Answers, Identifier
from dicomtw.storage.index.database import Index
from dicomtw.ul.negotiation import Offer

#: Matches fetched at a time: few at first, so that the first one is not waited for, then more.
_FIRST_BATCH: Final = 10
_BATCH: Final = 100

#: Matches are written together up to this, in bytes. C-CANCEL takes effect between one write and the next.
_WRITTEN: Final = 1 << 16

#: An identifier that is longer is decoded in a thread; in bytes.
_LONG: Final = 4096

#: What is supported of SOP class extended negotiation, byte by byte (PS3.4 Table C.5-1): relational queries
#: and date-time matching, but no fuzzy matching of names, no adjustment to time zones, no conversion of
#: enhanced multi-frame images.
_SUPPORTED: Final = (1, 1, 0, 0, 0)


class Settled(Protocol):
    """Who knows when what has been stored is in the index."""

    def settled(self) -> Awaitable[None]:
        """Wait for the index to have everything that was stored before. Raises `IndexFault`."""


class Query(ServiceClass):
    """Answers queries in all three information models from `index`.

    `retrieve_ae_title` is where what is found can be retrieved from, `bounds` what a query may take.
    """

    abstract_syntaxes = (uids.PATIENT_ROOT_FIND, uids.STUDY_ROOT_FIND, uids.PATIENT_STUDY_ONLY_FIND)

    def __init__(
        self, index: Index, indexing: Settled, retrieve_ae_title: str, bounds: Bounds = DEFAULT
    ) -> None:
        self._bounds = bounds
        self._index = index
        self._indexing = indexing
        self._retrieve_ae_title = retrieve_ae_title

    def offer(self, abstract_syntax: str) -> Offer:
        return Offer(self.transfer_syntaxes, extended_negotiation=lambda asked: agreed(asked, _SUPPORTED))

    async def c_find(self, operation: Operation) -> AsyncGenerator[Response, None]:
        """PS3.7 9.1.2: a pending response for each match, as they are found."""
        identifier = await decoded(operation)
        asked = operation.extended_negotiation
        query = identifier.query(
            self._index.attributes, relational=asked[:1] == b"\1", combined_datetime=asked[1:2] == b"\1"
        )
        answers = Answers(identifier, query, self._retrieve_ae_title)
        pending = status.PENDING_WITH_WARNING if query.unsupported else status.PENDING
        cursor = self._index.find(query, self._bounds.query_timeout)
        most, count = self._bounds.max_matches, 0

        def encoded(count: int) -> list[bytes]:
            return [answers.encode(row) for row in cursor.fetch(count)]

        try:
            await self._indexing.settled()
            size = _FIRST_BATCH
            # Encoded in the thread, too: other associations are not to wait for it.
            while matches := await operation.call_in_thread(partial(encoded, size)):
                wanted = matches if not most else matches[: most - count]
                for first, more in _portions(wanted):
                    yield Response(pending, first, more=more)
                if len(wanted) < len(matches):
                    raise QueryLimit(f"more than {most} matches")
                count += len(matches)
                if len(matches) < size:
                    break
                size = _BATCH
        except IndexFault as fault:
            raise not_available(operation, fault, status.OUT_OF_RESOURCES) from fault
        except QueryLimit as fault:
            raise DimseError(status.OUT_OF_RESOURCES, str(fault)) from fault
        finally:
            cursor.close()


def _portions(matches: list[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """The matches that are written at once: the first of them, and the others."""
    at = 0
    while at < len(matches):
        end, size = at + 1, len(matches[at])
        while end < len(matches) and size + len(matches[end]) <= _WRITTEN:
            size += len(matches[end])
            end += 1
        yield matches[at], matches[at + 1 : end]
        at = end


async def decoded(operation: Operation) -> Identifier:
    """The identifier of a request; raises `DimseError`."""
    if len(operation.data_set) <= _LONG:
        return Identifier(operation)
    return await operation.call_in_thread(lambda: Identifier(operation))


def not_available(operation: Operation, fault: IndexFault, code: int) -> DimseError:
    """The answer where the index fails: why is for the log, it is no business of peers."""
    operation.warn(f"index: {fault}")
    return DimseError(code, "the index is not available")


def agreed(asked: bytes, supported: tuple[int, ...]) -> bytes:
    """The answer to a service class application information of flags: what both sides have."""
    return bytes(ours & theirs for ours, theirs in zip(supported, asked, strict=False))
