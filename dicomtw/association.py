"""The DICOM service-user of one association: what PS3.8 calls the user of the upper layer service.

It answers proposals (`negotiation` and `access` decide), puts requests together and has services perform
them, and sends their answers. It knows neither sockets nor files.
"""

from __future__ import annotations

from collections import Counter
from enum import Flag, auto
from typing import Any, Protocol

import attrs
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dicomtw import ae_title, uids
from dicomtw.dimse import status, writer
from dicomtw.dimse.messages import C_CANCEL_RQ, Command, DataSet
from dicomtw.dimse.reader import MessageReader
from dicomtw.errors import DimseError, ProtocolError
from dicomtw.feed import Disk, Feed
from dicomtw.operations import OPERATIONS_WINDOW, Operation, OperationQueue
from dicomtw.security.access import AccessPolicy, Decision, Requestor
from dicomtw.services import ServiceRegistry
from dicomtw.ul.items import MaximumLength
from dicomtw.ul.machine import State
from dicomtw.ul.negotiation import AcceptedContext, Acceptor, RefusedContext, check_contexts, negotiate
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, Result, Source
from dicomtw.ul.provider import Provider

# PS3.8 Table 9-21
TEMPORARY_CONGESTION = A_ASSOCIATE_RJ(Result.REJECTED_TRANSIENT, Source.SERVICE_PROVIDER_PRESENTATION, 1)
LOCAL_LIMIT_EXCEEDED = A_ASSOCIATE_RJ(Result.REJECTED_TRANSIENT, Source.SERVICE_PROVIDER_PRESENTATION, 2)
APPLICATION_CONTEXT_NOT_SUPPORTED = A_ASSOCIATE_RJ(Result.REJECTED_PERMANENT, Source.SERVICE_USER, 2)

#: Failed operations of one association that get a log line of their own; all are counted in the summary.
_FAILURES_LOGGED = 5

#: States in which a response can still be sent.
_CAN_SEND = (State.Sta6, State.Sta8)


@attrs.frozen(kw_only=True)
class ApplicationEntity:
    """One server as its associations see it: its name, its rules, its services."""

    access: AccessPolicy
    registry: ServiceRegistry
    disk: Disk
    maximum_length: int = 262144
    no_implementation_version_name: bool = False
    enforce_default_transfer_syntax: bool = False
    preferred_transfer_syntaxes: tuple[str, ...] = ()


class Hold(Flag):
    """Why nothing is read from a peer for a while."""

    DISK = auto()
    #: Too many of its requests wait.
    OPERATIONS = auto()
    #: It does not read what we answer.
    UNREAD_ANSWERS = auto()


class Shell(Protocol):
    """What an association asks of whoever carries its bytes."""

    def requestor_address(self) -> str:
        """The peer's address; asked when it proposes the association, not before."""

    def full(self) -> A_ASSOCIATE_RJ | None:
        """The transient rejection to send if no further association is possible now."""

    def resolve(self, names: frozenset[str]) -> Deferred[frozenset[str]]:
        """The addresses of host names."""

    def hold(self, reason: Hold, held: bool) -> None:
        """Stop reading from the peer for `reason`, or (False) no longer for it."""

    def associated(self) -> None:
        """The association is established."""

    def idle(self) -> None:
        """No operation is left to perform."""


class Association:
    """One association that a peer has requested of `entity`. It is a `provider.User`."""

    log = Logger()

    def __init__(self, entity: ApplicationEntity, shell: Shell) -> None:
        self._entity = entity
        self._shell = shell
        self.provider: Provider
        self.calling_ae_title = ""
        self.called_ae_title = ""
        self.accepted: dict[int, AcceptedContext] = {}
        self.refused: tuple[RefusedContext, ...] = ()
        #: How it ended, in words; empty while it lives.
        self.ended = ""
        # For the summary: operations that succeeded by name, failures by status, and the bytes of all data
        # sets, refused ones too.
        self.operations: Counter[str] = Counter()
        self.failures: Counter[int] = Counter()
        self.data_set_bytes = 0
        self.lax_uids = False
        self.unfinished = 0
        self._reader: MessageReader | None = None
        self._peer_maximum_length = 0
        self._receiving: Operation | None = None
        self._fragments: list[memoryview] = []
        self._queue = OperationQueue(self, 1)
        self._busy_feeds = 0
        self._release_requested = False

    # -- association establishment

    def associate_indication(self, rq: A_ASSOCIATE_RQ) -> None:
        """PS3.8 7.1: decide, and answer now or when the names that the decision needs are resolved."""
        self.calling_ae_title = ae_title.significant(rq.calling_ae_title)
        self.called_ae_title = ae_title.significant(rq.called_ae_title)
        if rq.application_context_name != uids.APPLICATION_CONTEXT_NAME:
            name = rq.application_context_name
            self._reject(APPLICATION_CONTEXT_NOT_SUPPORTED, f"application context name {name[:64]!r}")
            return
        requestor = Requestor(
            calling_ae_title=rq.calling_ae_title,
            called_ae_title=rq.called_ae_title,
            address=self._shell.requestor_address(),
        )
        decision = self._entity.access.decide(requestor)
        if decision.rejection is None:
            # Of no interest from somebody who is turned away: only now the proposal itself is looked at.
            check_contexts(rq.presentation_contexts)
            maximum_length = rq.user_information.first(MaximumLength)
            if maximum_length is not None:
                self._peer_maximum_length = maximum_length.maximum_length_received
            try:
                writer.fragment_length(self._peer_maximum_length)
            except ValueError as error:
                raise ProtocolError(str(error)) from None
        if decision.resolve and self._shell.full() is None:
            resolved = self._shell.resolve(decision.resolve)
            resolved.addCallbacks(
                lambda addresses: self._decided(rq, self._entity.access.decide(requestor, addresses)),
                self._not_resolved,
            )
            resolved.addErrback(self.bug)
        else:
            self._decided(rq, decision)

    def _decided(self, rq: A_ASSOCIATE_RQ, decision: Decision) -> None:
        if self.provider.state != State.Sta3 or self.ended:
            return  # it left, or was turned out, while its name was looked up
        if decision.rejection is not None:
            self._reject(decision.rejection, decision.why)
            return
        full = self._shell.full()
        if full is not None:
            self._reject(full, "no further association possible now")
            return
        entity, remote = self._entity, decision.remote
        anonymous = entity.no_implementation_version_name or (
            remote is not None and remote.no_implementation_version_name
        )
        agreement = negotiate(
            rq,
            Acceptor(
                offer=entity.registry.offer,
                maximum_length=entity.maximum_length,
                preferred_transfer_syntaxes=entity.preferred_transfer_syntaxes,
                enforce_default_transfer_syntax=entity.enforce_default_transfer_syntax
                or (remote is not None and remote.enforce_default_transfer_syntax),
                implementation_version_name=None if anonymous else uids.IMPLEMENTATION_VERSION_NAME,
                operations_window=OPERATIONS_WINDOW,
            ),
        )
        self.accepted = dict(agreement.accepted)
        self.refused = agreement.refused
        self._queue = OperationQueue(self, agreement.operations_window)
        self._reader = MessageReader(self.accepted, self)
        self._shell.associated()
        self.provider.associate_response(agreement.ac)

    def _not_resolved(self, failure: Failure) -> None:
        if not failure.check(defer.TimeoutError, defer.CancelledError):
            self.log.failure("names of remotes cannot be resolved", failure)
        self._reject(TEMPORARY_CONGESTION, "the names of remotes cannot be resolved now")

    def _reject(self, rejection: A_ASSOCIATE_RJ, why: str) -> None:
        if self.provider.state != State.Sta3:
            return  # it left meanwhile
        self.ended = f"rejected with {rejection}: {why}"
        self.provider.associate_response(rejection)

    def associate_confirmation_accept(self, pdu: Any) -> None:
        raise AssertionError("an acceptor gets no confirmation")

    associate_confirmation_reject = associate_confirmation_accept

    # -- data transfer

    def data_indication(self, _: Any) -> None:
        """Its fragments follow, see `fragment_received`."""

    def fragment_received(
        self, context_id: int, control_header: int, data: memoryview, complete: bool
    ) -> None:
        assert self._reader is not None
        self._reader.fragment_received(context_id, control_header, data, complete)

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

    # -- dimse.reader.MessageReceiver

    def command_received(self, context_id: int, command: Command) -> None:
        if command.is_response:
            raise ProtocolError(f"{command.message_type.name} to nothing that we asked")
        operation = Operation(self.accepted[context_id], command, self.calling_ae_title, self.called_ae_title)
        self._receiving = operation
        if command.message_type is C_CANCEL_RQ:
            return
        try:
            service, operation.perform = self._entity.registry.perform(
                operation.context.abstract_syntax, command.message_type
            )
            if command.message_type.data_set is DataSet.ALWAYS and not command.has_data_set:
                raise DimseError(status.MISTYPED_ARGUMENT, "the data set is missing")
            if not uids.is_strict_uid(command.affected_sop_instance_uid or "0"):
                self.lax_uids = True
            if command.has_data_set:
                sink = service.data_set_sink(operation)
                operation.feed = Feed(sink, self._entity.disk, self._disk_busy)
        except DimseError as refusal:
            operation.refusal = refusal

    def data_received(self, data: memoryview) -> None:
        if data:
            self.data_set_bytes += len(data)
            operation = self._receiving
            if operation is not None and operation.feed is not None:
                self._fragments.append(data)

    def message_ended(self) -> None:
        self.chunk_ended()
        operation, self._receiving = self._receiving, None
        assert operation is not None
        if operation.request.message_type is C_CANCEL_RQ:
            return  # of an operation that is over: nothing we perform yet takes long enough to be cancelled
        self._queue.add(operation)

    # -- operations.Performer

    def performed(self, operation: Operation, result: int, comment: str) -> None:
        name = operation.request.message_type.name.removesuffix("-RQ")
        if status.category(result) is status.Category.FAILURE:
            self.failures[result] += 1
            if self.failures.total() <= _FAILURES_LOGGED:
                self.log.warn(
                    "{name} of {calling!r} answered {status:04X}H: {comment}",
                    name=name,
                    calling=self.calling_ae_title,
                    status=result,
                    comment=comment,
                )
        else:
            self.operations[name] += 1
        if self.provider.state not in _CAN_SEND:
            return  # the peer is gone; what it sent is stored, and it was not told
        response = operation.response(result, comment).encode()
        context_id = operation.context.context_id
        self.provider.data_request(writer.command_pdus(context_id, response, self._peer_maximum_length))

    def waiting(self, too_many: bool) -> None:
        self._shell.hold(Hold.OPERATIONS, too_many)

    def all_performed(self) -> None:
        if self._release_requested and self.provider.state == State.Sta8:
            self.ended = self.ended or "released"
            self.provider.release_response()
        self._shell.idle()

    def bug(self, failure: Any) -> None:
        """Nothing that a peer does may end here."""
        self.log.failure("bug in an association of {calling!r}", failure, calling=self.calling_ae_title)
        self.abort("internal error")

    # -- the end

    def release_indication(self, _: Any) -> None:
        """PS3.8 7.2: what is being performed is answered first (AR-7); what is half sent is dropped."""
        self._release_requested = True
        self._drop_received()
        if not self.busy:
            self.all_performed()

    def release_confirmation(self, _: Any) -> None:
        raise AssertionError("we have requested no release")

    def abort_indication(self, _: A_ABORT) -> None:
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
        self.unfinished += self._queue.drop_waiting()

    def _drop_received(self) -> None:
        """Leave no trace of a message that will not become complete."""
        operation, self._receiving = self._receiving, None
        self._fragments.clear()
        if operation is not None:
            self.unfinished += 1
            operation.discard()

    def _disk_busy(self, busy: bool) -> None:
        self._busy_feeds += 1 if busy else -1
        self._shell.hold(Hold.DISK, bool(self._busy_feeds))
