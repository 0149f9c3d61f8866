"""PS3.4: service classes, one file each, and the registry that the association asks for them.

To add one, derive from `ServiceClass`, name its `abstract_syntaxes` and write a method named after each
operation it performs, as in `verification`; then put it into the `ServiceRegistry` that the server is given.
An operation that has several responses is an async generator, as in `query`.
This module is the interface, which `association` uses; it never learns of a particular service class.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs

from dicomtw import uids
from dicomtw.dimse import status
from dicomtw.dimse.messages import MESSAGE_TYPES, Command, MessageType
from dicomtw.errors import DimseError
from dicomtw.storage import DataSetSink
from dicomtw.storage.content import Content
from dicomtw.storage.stored import Stored
from dicomtw.ul.negotiation import AcceptedContext, Offer

#: A data set that is no object to store is kept in memory up to this, in bytes: identifiers, attribute lists.
MAXIMUM_DATA_SET = 1 << 20

#: Transfer syntaxes of services that read the data sets they get.
UNCOMPRESSED = (
    uids.EXPLICIT_VR_LITTLE_ENDIAN,
    uids.IMPLICIT_VR_LITTLE_ENDIAN,
    uids.EXPLICIT_VR_BIG_ENDIAN,
)

#: What every peer should take, and what is compressed can be made into, best first.
FALLBACK = UNCOMPRESSED[:2]


T = TypeVar("T")


@attrs.frozen
class Response:
    """A response that says more than its status."""

    status: int
    #: Encoded in the transfer syntax of the operation's context.
    data_set: bytes | None = None
    #: Error Comment (0000,0902), of which 64 characters are sent; nothing about a patient.
    comment: str = ""
    #: Further elements of the response by name, such as ``number_of_remaining_sub_operations``.
    elements: Mapping[str, Any] = attrs.field(factory=dict)
    #: Data sets of further pending responses, which are the same but for that: all are written at once.
    more: Sequence[bytes] = ()


class DataSetSource(Protocol):
    """An encoded data set that is read as it is sent: an open file, `io.BytesIO`. May block on the disk."""

    def read(self, length: int, /) -> bytes | memoryview:
        """The next bytes, `length` at most; none at the end. Raises `OSError`."""

    def close(self) -> None:
        """Read no more."""


class SubOperations(Protocol):
    """An association on which a service is itself the SCU: to store what C-GET or C-MOVE asks for."""

    def contexts(self, sop_class_uid: str) -> Sequence[AcceptedContext]:
        """The presentation contexts of a SOP class in which we may be its SCU."""

    def c_store(
        self,
        context: AcceptedContext,
        sop_instance_uid: str,
        data_set: DataSetSource,
        *,
        move_originator: tuple[str, int] | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Awaitable[Response]:
        """PS3.7 9.1.1: send an object, byte for byte, and wait for the response. Closes `data_set`.

        `meanwhile` is called when all is sent: it may read the next one from a disk that keeps up.
        `move_originator`: AE title and message ID of the C-MOVE that this is for.
        Raises `OSError` if `data_set` does, `AssociationLost`, `Cancelled`.
        """


class Sending(Protocol):
    """What becomes of the instances that an operation sends, for an audit trail."""

    def sent(self, directory: str, sop_class_uid: str, *, success: bool) -> None:
        """The receiver has taken one, of the study in `directory`; or it has not."""

    def ended(self) -> None:
        """No more are sent."""


class Trail(Protocol):
    """The audit trail of an association (PS3.15 A.5), for what a service alone knows. Does not block."""

    def received(self, stored: Stored, sop_class_uid: str) -> None:
        """An object that the requestor has sent is stored."""

    def sending(self, contents: Collection[Content], destination: str = "") -> Sending:
        """These are about to be sent to the AE title `destination`, or else to the requestor."""


class Operation(Protocol):
    """One request that a service performs, as the service sees it.

    What is awaited here raises `Cancelled` when the operation is cancelled, or nobody is left to answer. Of
    C-FIND, C-GET and C-MOVE, which can be cancelled, a generator may catch it to yield a last response.
    """

    @property
    def request(self) -> Command:
        """What is asked for."""

    @property
    def context(self) -> AcceptedContext:
        """The presentation context it is asked in."""

    @property
    def calling_ae_title(self) -> str:
        """Who asks."""

    @property
    def called_ae_title(self) -> str:
        """Whom they called."""

    @property
    def data_set(self) -> bytes:
        """The encoded data set, where `ServiceClass.data_set_sink` left it in memory; empty without one."""

    @property
    def sink(self) -> DataSetSink:
        """What `ServiceClass.data_set_sink` returned; complete when the operation's method is called."""

    @property
    def extended_negotiation(self) -> bytes:
        """What was agreed on for the SOP class in extended negotiation (PS3.7 D.3.3.5); empty for nothing."""

    @property
    def cancelled(self) -> bool:
        """Whether C-CANCEL has come, for those who do not yield after each thing that they shield."""

    @property
    def sub_operations(self) -> SubOperations:
        """The association that the request came on, where its requestor is an SCP too."""

    @property
    def trail(self) -> Trail | None:
        """Who is to know what is stored and sent; None where no audit trail is kept."""

    def commit(self) -> Awaitable[None]:
        """Commit the sink, off the reactor thread if that takes long."""

    def call_in_thread(
        self, function: Callable[[], T], *, late: Callable[[T], object] | None = None
    ) -> Awaitable[T]:
        """Call what may block, off the reactor thread.

        `late` gets what is returned when nobody waits for it any more, such as a file to be closed.
        """

    def warn(self, what: str) -> None:
        """A line for the log; nothing about a patient."""

    def shielded(self, awaitable: Awaitable[T]) -> Awaitable[T]:
        """Await what C-CANCEL does not interrupt: it then takes effect at the next yield."""


class MemorySink:
    """Keeps a data set in memory, up to `MAXIMUM_DATA_SET` bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, fragments: Sequence[memoryview]) -> None:
        for fragment in fragments:
            if len(self.data) + len(fragment) > MAXIMUM_DATA_SET:
                raise DimseError(status.OUT_OF_RESOURCES, f"data set of more than {MAXIMUM_DATA_SET} bytes")
            self.data += fragment

    def commit(self, may_block: bool = True) -> None:
        pass

    def discard(self) -> None:
        self.data.clear()


#: Performs an operation and returns its response, or its status alone; raises `DimseError` for a failure with
#: a comment. As an async generator: yields the pending responses and then the final one, or ends for 0000H.
Perform = Callable[[Operation], Awaitable[int | Response] | AsyncGenerator[Response, None]]


class ServiceClass:
    """One service class in the SCP role.

    An operation is performed by the coroutine method named after it (`c_echo`, `c_store`, `n_get` ...), which
    gets an `Operation` and returns a status or a `Response`; or by an async generator of responses.
    """

    #: The SOP classes it serves.
    abstract_syntaxes: Collection[str] = ()
    #: The transfer syntaxes it takes them in.
    transfer_syntaxes: Collection[str] = UNCOMPRESSED

    def accepts(self, abstract_syntax: str) -> bool:
        """Whether it also serves a SOP class that no service class names."""
        return False

    def offer(self, abstract_syntax: str) -> Offer:
        """What is negotiated for a SOP class it serves."""
        return Offer(self.transfer_syntaxes)

    def data_set_sink(self, operation: Operation) -> DataSetSink:
        """Where the data set of a request goes; asked when its command is complete.

        Raises `DimseError` to refuse the request: the data set is then passed over and this the answer.
        """
        return MemorySink()

    def operations(self) -> Mapping[MessageType, Perform]:
        """The methods of this service by the request they perform."""
        names = {
            message_type: message_type.operation.lower().replace("-", "_")
            for message_type in MESSAGE_TYPES.values()
            if not message_type.is_response
        }
        return {
            message_type: getattr(self, name) for message_type, name in names.items() if hasattr(self, name)
        }


class ServiceRegistry:
    """The service classes of a server. The first one that names a SOP class serves it."""

    def __init__(self, services: Iterable[ServiceClass]) -> None:
        self._services = tuple(services)
        self._by_abstract_syntax: dict[str, ServiceClass] = {}
        for service in self._services:
            for abstract_syntax in service.abstract_syntaxes:
                self._by_abstract_syntax.setdefault(abstract_syntax, service)
        self._operations = {service: service.operations() for service in self._services}

    def service(self, abstract_syntax: str) -> ServiceClass | None:
        """Who serves `abstract_syntax`."""
        named = self._by_abstract_syntax.get(abstract_syntax)
        if named is not None:
            return named
        if not uids.is_valid_uid(abstract_syntax):
            return None
        return next((service for service in self._services if service.accepts(abstract_syntax)), None)

    def offer(self, abstract_syntax: str) -> Offer | None:
        """What to negotiate for `abstract_syntax`."""
        service = self.service(abstract_syntax)
        return None if service is None else service.offer(abstract_syntax)

    def perform(self, abstract_syntax: str, request: MessageType) -> tuple[ServiceClass, Perform]:
        """Who performs `request` in a context for `abstract_syntax`, and how (PS3.7 Annex C.5).

        Raises `DimseError`: 0122H where the operation belongs to another SOP class, 0211H where to none.
        """
        service = self.service(abstract_syntax)
        perform = None if service is None else self._operations[service].get(request)
        if service is not None and perform is not None:
            return service, perform
        if any(request in operations for operations in self._operations.values()):
            raise DimseError(status.SOP_CLASS_NOT_SUPPORTED, f"no {request.name} in this context")
        raise DimseError(status.UNRECOGNIZED_OPERATION, f"{request.name} is not performed here")
