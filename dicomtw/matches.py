"""What a C-FIND finds (PS3.4 C.4.1), match after match."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred

from dicomtw.answers import checked, data_set_of, response_of
from dicomtw.dimse import status
from dicomtw.errors import OperationFailed
from dicomtw.requestor import RequestedAssociation
from dicomtw.requests import Request


class Matches(AsyncIterator[Any]):
    """What a C-FIND finds: iterate over it with ``async for``, or ask for one after the other with `next`.

    A match that cannot be read raises `UnreadableDataSet`; those after it can still be asked for.
    """

    def __init__(
        self, association: RequestedAssociation, begin: Callable[[], Coroutine[Any, Any, Request]]
    ) -> None:
        self._association = association
        self._begin = begin
        self._request: Request | None = None
        self._over = False
        self._comment = ""
        #: The peer did not support every key of the identifier (FF01H).
        self.unsupported_keys = False
        #: With which status the peer has ended the query; None before, and where we have ended it. With
        #: another than 0000H, such as FE00H or one of B0xxH, it may not have told all.
        self.status: int | None = None

    async def __anext__(self) -> Any:
        if self._over:
            raise StopAsyncIteration
        if self._request is None:
            self._request = await self._begin()
        answer = await self._request.answer()
        response = response_of(answer)
        if status.category(response.status) is status.Category.PENDING:
            self.unsupported_keys |= response.status == status.PENDING_WITH_WARNING
            return data_set_of(self._request, answer)
        self._over = True
        self.status, self._comment = response.status, response.comment
        checked("C-FIND", response)
        raise StopAsyncIteration

    def next(self) -> Deferred[Any]:
        """Fires with the next match, None after the last."""

        async def following() -> Any:
            return await anext(self, None)

        return Deferred.fromCoroutine(following())

    def all(self) -> Deferred[list[Any]]:
        """Fires with all matches; for queries that do not have many.

        Fails with `OperationFailed` if the peer has ended the query before it told all.
        """

        async def collect() -> list[Any]:
            found = [match async for match in self]
            if self.status not in (None, status.SUCCESS):
                raise OperationFailed("C-FIND", self.status, self._comment)
            return found

        return Deferred.fromCoroutine(collect())

    async def aclose(self) -> None:
        """Cancel the query if it is not over; what comes of it yet is dropped."""
        request, self._over = self._request, True
        if request is not None:
            self._association.cancel(request)
            await request.close()
