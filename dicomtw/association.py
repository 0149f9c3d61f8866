"""The DICOM service-user of one association: what PS3.8 calls the user of the upper layer service.

It puts messages together and has services perform the requests among them, matches responses with the
requests that we have made ourselves, and sends both. How an association comes about is the business of
`acceptor` and `requestor`. It knows neither sockets nor files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Flag, auto
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from dicomtw import uids
from dicomtw.dimse import status, writer
from dicomtw.dimse.messages import (
    C_CANCEL_RQ,
    C_STORE_RQ,
    MEDIUM,
    Command,
    DataSet,
    MessageType,
)
from dicomtw.dimse.reader import MessageReader
from dicomtw.errors import AbortReason, DimseError, LocalStateError, ProtocolError
from dicomtw.feed import Disk, Feed
from dicomtw.operations import Operation, OperationQueue, or_cancelled
from dicomtw.outbox import Outbox
from dicomtw.requests import Answer, Request, Requests
from dicomtw.services import DataSetSource, MemorySink, Response, ServiceRegistry
from dicomtw.trail import AssociationTrail
from dicomtw.ul.items import MaximumLength, UserInformation
from dicomtw.ul.machine import State
from dicomtw.ul.negotiation import AcceptedContext, RefusedContext
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, COMMAND
from dicomtw.ul.provider import Provider

T = TypeVar("T")

#: Failed operations of one association that get a log line of their own; all are counted in the summary.
_FAILURES_LOGGED = 5

#: Other lines about the operations of one association; further ones are left out.
_WARNINGS_LOGGED = 20
#: Characters of such a line, and of what a failed operation is answered with.
_LONGEST_WARNING = 500

#: Bytes of messages that are progress: a peer brings as many in each DIMSE timeout, or a message to its end.
PROGRESS = 1024

#: States in which a response can still be sent.
_CAN_SEND = (State.Sta6, State.Sta8)

#: States in which the peer waits for our A-RELEASE response; in the second we have requested it, too.
_RELEASE_REQUESTED = (State.Sta8, State.Sta9)


class Hold(Flag):
    """Why nothing is read from a peer for a while."""

    DISK = auto()
    #: Too many of its requests wait.
    OPERATIONS = auto()
    #: Its responses wait for whoever has asked.
    RESPONSES = auto()


class Shell(Protocol):
    """What an association asks of whoever carries its bytes."""

    def hold(self, reason: Hold, held: bool) -> None:
        """Stop reading from the peer for `reason`, or (False) no longer for it."""

    def associated(self) -> None:
        """The association is established."""

    def idle(self) -> None:
        """No operation is left to perform."""


class Association:
    """One association, whoever has requested it. It is a `provider.User`; `disk` is where data sets go to."""

    log = Logger()

    def __init__(self, shell: Shell, registry: ServiceRegistry, disk: Disk) -> None:
        self._shell = shell
        self._registry = registry
        self._disk = disk
        self.provider: Provider
        self.calling_ae_title = ""
        self.called_ae_title = ""
        #: The peer's user, who is who it says; empty where nobody is known.
        self.user = ""
        self.accepted: dict[int, AcceptedContext] = {}
        self.refused: tuple[RefusedContext, ...] = ()
        #: How it ended, in words; empty while it lives.
        self.ended = ""
        # For the summary: operations that succeeded by name, failures by status, and the bytes of all data
        # sets, refused ones too; then what we have sent.
        self.operations: Counter[str] = Counter()
        self.failures: Counter[int] = Counter()
        self.data_set_bytes = 0
        #: Grows by `PROGRESS` where the peer makes that, however many PDUs it takes.
        self.progress = 0
        self._warnings = 0
        #: The longest data set that is taken in, or passed over, in bytes; 0: any length.
        self.maximum_data_set = 0
        self.objects_sent = 0
        self.bytes_sent = 0
        self.lax_uids = False
        self.unfinished = 0
        self._reader: MessageReader | None = None
        self._outbox: Outbox
        self._receiving: Operation | None = None
        self._fragments: list[memoryview] = []
        self._queue = OperationQueue(self, 1)
        self._requests = Requests(lambda waiting: self._shell.hold(Hold.RESPONSES, waiting))
        self._length = 0  # of the data set that is being received
        self._answered: tuple[Request, Command] | None = None
        self._answer = MemorySink()
        self._extended_negotiation: dict[str, bytes] = {}
        #: Who keeps the audit trail of what a peer asks of us; None for nobody.
        self.trail: AssociationTrail | None = None
        self._busy_feeds = 0
        self._too_many_wait = False
        self._release_requested = False

    # -- association establishment: a role overrides what it is told

    def associate_indication(self, rq: A_ASSOCIATE_RQ) -> None:
        raise AssertionError("a requestor gets no indication")

    def associate_confirmation_accept(self, ac: A_ASSOCIATE_AC) -> None:
        raise AssertionError("an acceptor gets no confirmation")

    def associate_confirmation_reject(self, rj: A_ASSOCIATE_RJ) -> None:
        raise AssertionError("an acceptor gets no confirmation")

    def _established(self, peer_maximum_length: int, *, performed: int, invoked: int) -> None:
        """What `accepted` says is agreed on, with windows for operations performed and invoked by us."""
        self._queue = OperationQueue(self, performed)
        self._requests.window = invoked
        self._reader = MessageReader(self.accepted, self)
        self._outbox = Outbox(self.provider.data_request, peer_maximum_length, self._disk)
        self._shell.associated()

    def _scu_of(self, sop_class_uid: str) -> bool:
        """Whether we may be the SCU of a SOP class (PS3.7 D.3.3.4)."""
        raise NotImplementedError

    def _refusal(self, request: Command) -> DimseError | None:
        """Why a request is not performed for this peer."""
        return None

    # -- data transfer

    def data_indication(self, _: Any) -> None:
        """Its fragments follow, see `fragment_received`."""

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        assert self._reader is not None
        if control_header & COMMAND and not self._requests.outstanding:
            self.progress += len(data)
        self._reader.fragment_received(context_id, control_header, data, complete)

    def fragments_received(self, context_id: int, fragments: list[memoryview]) -> None:
        assert self._reader is not None
        self._reader.fragments_received(context_id, fragments)

    def chunk_ended(self) -> None:
        """Pass on what the chunk of bytes brought of a data set: one write for all its fragments."""
        if self._fragments and self._receiving is not None and self._receiving.feed is not None:
            fragments, self._fragments = self._fragments, []
            self._receiving.feed.write(fragments)

    @property
    def mid_message(self) -> bool:
        """Whether we wait for the rest of something that the peer has begun to send."""
        return self.provider.mid_pdu or (self._reader is not None and self._reader.mid_message)

    @property
    def busy(self) -> bool:
        """Whether we owe the peer an answer."""
        return self._queue.busy

    @property
    def waits_for_response(self) -> bool:
        """Whether the peer owes us one."""
        return self._requests.outstanding

    @property
    def turn(self) -> tuple[int, int]:
        """Another one when we have asked for something more, or the peer has made progress."""
        return self._requests.begun, self.progress // PROGRESS

    @property
    def sends(self) -> bool:
        """Whether a data set of ours is on its way: its disk may take its time."""
        return self._reader is not None and self._outbox.busy

    def taken(self, taken: bool) -> None:
        """The peer takes what we send, or (False) too much of it waits.

        We read on while it does not, for what it sends may be a C-CANCEL; but no further operation is begun.
        """
        self._queue.hold(not taken)
        if self._reader is not None:
            self._outbox.taken(taken)

    # -- dimse.reader.MessageReceiver

    def command_received(self, context_id: int, command: Command) -> None:
        self._length = 0
        if command.is_response:
            self._answered = self._requests.match(context_id, command), command
            self._answer = MemorySink()
            return
        operation = Operation(
            self.accepted[context_id], command, self.calling_ae_title, self.called_ae_title, self, self
        )
        self._receiving = operation
        if command.message_type is C_CANCEL_RQ:
            return
        try:
            service, operation.perform = self._registry.perform(
                operation.context.abstract_syntax, command.message_type
            )
            refusal = self._refusal(command)
            if refusal is not None:
                raise refusal
            if command.message_type.data_set is DataSet.ALWAYS and not command.has_data_set:
                raise DimseError(status.MISTYPED_ARGUMENT, "the data set is missing")
            if not uids.is_strict_uid(command.affected_sop_instance_uid or "0"):
                self.lax_uids = True
            if command.has_data_set:
                sink = service.data_set_sink(operation)
                operation.feed = Feed(sink, self._disk, self._disk_busy)
        except DimseError as refusal:
            operation.refusal = refusal

    def data_received(self, fragments: list[memoryview]) -> None:
        length = sum(map(len, fragments))
        if not length:
            return
        self.progress += length
        self.data_set_bytes += length
        self._length += length
        if 0 < self.maximum_data_set < self._length:
            # What is refused is passed over, so that the peer gets its answer; but not without end.
            why = f"a data set of more than {self.maximum_data_set} bytes"
            raise ProtocolError(why, AbortReason.REASON_NOT_SPECIFIED)
        operation = self._receiving
        if operation is not None and operation.feed is not None:
            self._fragments += fragments
        elif self._answered is not None:
            try:
                self._answer.write(fragments)
            except DimseError as refusal:
                raise ProtocolError(f"response with a {refusal.comment}") from None

    def message_ended(self) -> None:
        if self._answered is not None or not self._requests.outstanding:
            self.progress += PROGRESS  # a request of the peer's is not what we wait for
        if self._answered is not None:
            (request, command), self._answered = self._answered, None
            self._requests.answered(request, Answer(command, bytes(self._answer.data)))
            self._hold_operations()
            self._quiet()
            return
        self.chunk_ended()
        operation, self._receiving = self._receiving, None
        assert operation is not None
        if operation.request.message_type is C_CANCEL_RQ:
            self._queue.cancel(operation.request.message_id_being_responded_to or 0)
        elif self._requests.outstanding and self._queue.is_crowded:
            raise ProtocolError("more requests than the asynchronous operations window has room for")
        else:
            self._queue.add(operation)

    # -- operations.Performer

    def pending(self, operation: Operation, response: Response) -> None:
        if self.provider.state in _CAN_SEND:
            command, context_id = operation.encoded(response), operation.context.context_id
            self._outbox.send(context_id, command, response.data_set, response.more)

    def ready(self) -> Deferred[None]:
        return self._outbox.ready()

    def performed(self, operation: Operation, response: Response) -> None:
        name = operation.request.message_type.operation
        if status.category(response.status) is status.Category.FAILURE:
            self.failures[response.status] += 1
            if self.failures.total() <= _FAILURES_LOGGED:
                self.log.warn(
                    "{name} of {calling!r} answered {status:04X}H: {comment}",
                    name=name,
                    calling=self.calling_ae_title,
                    status=response.status,
                    comment=_plain(response.comment),
                )
        else:
            self.operations[name] += 1
        # Else the peer is gone; what it sent is stored, and it was not told.
        self.pending(operation, response)

    def waiting(self, too_many: bool) -> None:
        self._too_many_wait = too_many
        self._hold_operations()

    def _hold_operations(self) -> None:
        # What the operations at work wait for may stand behind the requests: responses are always read.
        self._shell.hold(Hold.OPERATIONS, self._too_many_wait and not self._requests.outstanding)

    def all_performed(self) -> None:
        if self._release_requested and self.provider.state in _RELEASE_REQUESTED:
            self.provider.release_response()
            if self.provider.state == State.Sta13:
                self._gone("released")
        self._quiet()
        self._shell.idle()

    def _quiet(self) -> None:
        """An operation is over, of ours or of the peer's: perhaps it was the last."""

    def bug(self, failure: Any) -> None:
        """Nothing that a peer does may end here."""
        self.log.failure("bug in an association of {calling!r}", failure, calling=self.calling_ae_title)
        self.abort("internal error")

    # -- operations.Surroundings

    def extended_negotiation(self, sop_class_uid: str) -> bytes:
        return self._extended_negotiation.get(sop_class_uid, b"")

    def call_in_thread(self, function: Callable[[], T]) -> Deferred[T]:
        return self._disk.call_aside(function)

    def warn(self, what: str) -> None:
        self._warnings += 1
        if self._warnings > _WARNINGS_LOGGED:
            return
        if self._warnings == _WARNINGS_LOGGED:
            what = f"{what} (what else there is to warn of is left out)"
        self.log.warn("for {calling!r}: {what}", calling=self.calling_ae_title, what=_plain(what))

    # -- requests of ours; services.SubOperations

    def contexts(self, sop_class_uid: str) -> Sequence[AcceptedContext]:
        """The presentation contexts of a SOP class in which we may be its SCU."""
        if not self._scu_of(sop_class_uid):
            return ()
        return [context for context in self.accepted.values() if context.abstract_syntax == sop_class_uid]

    async def invoke(
        self,
        context: AcceptedContext,
        message_type: MessageType,
        data_set: bytes | DataSetSource | None = None,
        **elements: Any,
    ) -> Request:
        """Make a request when the window has room for it; `elements` of its command by name.

        Raises `AssociationLost`, and what `data_set` raises: if that is in mid data set, or it is cancelled
        there, the association is aborted.
        """
        request = await self._requests.begin(message_type, context)
        self._hold_operations()
        try:
            if self.provider.state != State.Sta6:
                raise LocalStateError(f"{message_type.name} in {self.provider.state.name}")
            command = message_type(
                data_set=data_set is not None, message_id=request.message_id, **elements
            ).encode()
            if data_set is None or isinstance(data_set, bytes):
                self._outbox.send(context.context_id, command, data_set)
                return request
            self.bytes_sent += await self._outbox.send_from(context.context_id, command, data_set)
        except BaseException as error:
            if self._reader is not None and self._outbox.cut_off:
                self.abort(f"a data set was not sent to its end: {str(error) or type(error).__name__}")
            self._requests.withdraw(request)
            raise
        self.objects_sent += 1
        return request

    def cancel(self, request: Request) -> None:
        """PS3.7 9.3.2.3: ask the peer to end an operation; its last response is still to come."""
        if request.can_be_cancelled and self.provider.state == State.Sta6:
            command = C_CANCEL_RQ(message_id_being_responded_to=request.message_id)
            self._outbox.send(request.context.context_id, command.encode())

    def c_store(
        self,
        context: AcceptedContext,
        sop_instance_uid: str,
        data_set: DataSetSource,
        *,
        move_originator: tuple[str, int] | None = None,
        meanwhile: Callable[[], object] | None = None,
        priority: int = MEDIUM,
    ) -> Deferred[Response]:
        """PS3.7 9.1.1: send an object, and wait for the response. See `services.SubOperations`."""
        stored = self.store(
            context,
            sop_instance_uid,
            data_set,
            move_originator=move_originator,
            meanwhile=meanwhile,
            priority=priority,
        )
        return or_cancelled(Deferred.fromCoroutine(stored))

    async def store(
        self,
        context: AcceptedContext,
        sop_instance_uid: str,
        data_set: DataSetSource,
        *,
        move_originator: tuple[str, int] | None = None,
        meanwhile: Callable[[], object] | None = None,
        priority: int = MEDIUM,
    ) -> Response:
        """As `c_store`, for those who know Twisted: when it is cancelled it raises `CancelledError`."""
        title, message_id = move_originator or (None, None)
        try:
            request = await self.invoke(
                context,
                C_STORE_RQ,
                data_set,
                affected_sop_class_uid=context.abstract_syntax,
                affected_sop_instance_uid=sop_instance_uid,
                priority=priority,
                move_originator_application_entity_title=title,
                move_originator_message_id=message_id,
            )
        finally:
            data_set.close()
        if meanwhile is not None and not self._disk.lags:
            self._disk.call(meanwhile)
        answer = await request.answer()
        return Response(answer.command.status or 0, comment=answer.command.error_comment or "")

    # -- the end

    def input_ended(self) -> None:
        """The peer sends no more: what we have asked of it will not be answered."""
        self._requests.lost("the peer has closed its side of the connection")

    def release_indication(self, _: Any) -> None:
        """PS3.8 7.2: what is being performed is answered first (AR-7); what is half sent is dropped, and
        what has many responses is cancelled.
        """
        self._release_requested = True
        self._drop_received()
        self._queue.cancel_all()
        self._requests.lost("the peer has requested the release of the association")
        if not self.busy:
            self.all_performed()

    def release_confirmation(self, _: Any) -> None:
        raise AssertionError("we have requested no release")

    def abort_indication(self, pdu: A_ABORT) -> None:
        self._gone("aborted by the peer")

    def p_abort_indication(self, cause: Any) -> None:
        if cause is None:
            self._gone(self.provider.fault)
        else:
            self._gone(f"aborted: {self.provider.fault}")

    def abort(self, why: str) -> None:
        """Abort as the service-user, whatever the state; `why` is for the log."""
        self.ended = self.ended or f"aborted by us: {why}"
        if self.provider.state not in (State.Sta1, State.Sta2, State.Sta13):
            self.provider.abort_request(why)
        self._gone("")

    def _gone(self, how: str) -> None:
        self.ended = self.ended or how
        self._drop_received()
        # Before what they may wait for is lost: an operation that nobody asks for any more is cancelled.
        self.unfinished += self._queue.drop()
        self._requests.lost(self.ended)
        if self._reader is not None:
            self._outbox.close(self.ended)

    def _drop_received(self) -> None:
        """Leave no trace of a message that will not become complete."""
        operation, self._receiving = self._receiving, None
        self._answered = None
        self._fragments.clear()
        if operation is not None:
            self.unfinished += 1
            operation.discard()

    def _disk_busy(self, busy: bool) -> None:
        self._busy_feeds += 1 if busy else -1
        self._shell.hold(Hold.DISK, bool(self._busy_feeds))


def _plain(text: str) -> str:
    """A text that may have come from a peer, as one printable piece of a line, and not too long a one."""
    beginning = text[: _LONGEST_WARNING + 1]
    plain = "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in beginning)
    return plain if len(plain) <= _LONGEST_WARNING else f"{plain[:_LONGEST_WARNING]}..."


def maximum_length_of(user_information: UserInformation) -> int:
    """The length of P-DATA-TF that the peer receives, 0 for any (PS3.8 D.1.1).

    Raises `ProtocolError` if nothing fits into it.
    """
    item = user_information.first(MaximumLength)
    maximum_length = 0 if item is None else item.maximum_length_received
    try:
        writer.fragment_length(maximum_length)
    except ValueError as error:
        raise ProtocolError(str(error)) from None
    return maximum_length
