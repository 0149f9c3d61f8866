"""A storage SCP that speaks PDUs over a blocking socket: a destination of C-MOVE, well behaved or not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.dimse.messages import C_STORE_RQ
from dicomtw.testing import message
from dicomtw.ul.items import (
    ContextResult,
    ImplementationClassUID,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
    UserInformation,
)
from dicomtw.ul.pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
)
from tests.interop.scu import Closed, Connection, Message, c_store_rsp
from tests.interop.twistd import wait_until


@attrs.define(kw_only=True)
class Manners:
    """How an `Scp` behaves."""

    #: The transfer syntax in which it accepts a context, or None.
    accepts: Callable[[PresentationContextRQ], str | None] = lambda context: context.transfer_syntaxes[0]
    #: The status that each object is answered with.
    answer: Callable[[Message], int] = lambda _: 0
    #: What it answers to the first requests of an association, before it accepts.
    rejections: list[A_ASSOCIATE_RJ] = attrs.field(factory=list)
    #: Seconds until it accepts, and before it reads each object.
    accepts_after: float = 0.0
    reads_after: float = 0.0
    #: It aborts instead of answering when it has got so many objects.
    aborts_at: int = -1
    #: Its receive buffer, about so many bytes; 0: what the system thinks best.
    buffer: int = 0
    maximum_length: int = 16384


class Scp:
    """A storage SCP on a free port of 127.0.0.1, until its test ends; or for tests one after the other."""

    def __init__(self, test: SynchronousTestCase, manners: Manners | None = None, port: int = 0) -> None:
        self.manners = manners or Manners()
        self.received: list[Message] = []
        self.requests: list[A_ASSOCIATE_RQ] = []
        #: How each association ended.
        self.ends: list[str] = []
        self.faults: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._set_buffer()
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._start(self._listen)
        test.addCleanup(self._judge)

    def start_over(self, manners: Manners) -> None:
        """Forget what was, when all connections have ended, and behave like this from now on."""
        for thread in self._threads[1:]:
            thread.join(20)
        for seen in (self.received, self.requests, self.ends, self._connections):
            seen.clear()
        del self._threads[1:]
        self.manners = manners
        self._set_buffer()

    def _set_buffer(self) -> None:
        if self.manners.buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.manners.buffer)

    @property
    def sop_instance_uids(self) -> list[str]:
        """Of the objects that have come, in their order."""
        return [str(one.command.affected_sop_instance_uid) for one in self.received]

    def ends_of(self, number: int) -> list[str]:
        """How the associations ended, once ``number`` have: a requestor of C-MOVE may be answered before."""
        wait_until(lambda: len(self.ends) >= number, f"{number} associations with the SCP end")
        return self.ends

    def _start(self, call: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=call, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(20)
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connected: socket.socket) -> None:
        with connected:
            try:
                self._associate(Connection(connected))
            except (Closed, ConnectionError) as closed:
                self.ends.append(str(closed))
            except (AssertionError, OSError) as fault:
                self.faults.append(fault)

    def _associate(self, connection: Connection) -> None:
        request = connection.receive()
        assert isinstance(request, A_ASSOCIATE_RQ), request
        self.requests.append(request)
        if self.manners.rejections:
            connection.send(self.manners.rejections.pop(0))
            return
        time.sleep(self.manners.accepts_after)
        connection.send(self._ac(request))
        while True:
            time.sleep(self.manners.reads_after)
            received = connection.receive_whole()
            if isinstance(received, A_RELEASE_RQ):
                self.ends.append("released")
                connection.send(A_RELEASE_RP())
                return
            if isinstance(received, A_ABORT):
                self.ends.append("aborted")
                return
            assert isinstance(received, Message), received
            assert received.command.message_type is C_STORE_RQ, received
            self.received.append(received)
            if len(self.received) == self.manners.aborts_at:
                self.ends.append("aborted by us")
                connection.send(A_ABORT(0))
                return
            status = self.manners.answer(received)
            connection.send(*message(received.context_id, c_store_rsp(received.command, status)))

    def _ac(self, request: A_ASSOCIATE_RQ) -> A_ASSOCIATE_AC:
        return A_ASSOCIATE_AC(
            called_ae_title=request.called_ae_title,
            calling_ae_title=request.calling_ae_title,
            presentation_contexts=tuple(map(self._answer, request.presentation_contexts)),
            user_information=UserInformation(
                (
                    MaximumLength(self.manners.maximum_length),
                    ImplementationClassUID(uids.IMPLEMENTATION_CLASS_UID),
                )
            ),
        )

    def _answer(self, context: PresentationContextRQ) -> PresentationContextAC:
        chosen = self.manners.accepts(context)
        if chosen is None:
            refused = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
            return PresentationContextAC(context.context_id, refused, context.transfer_syntaxes[0])
        return PresentationContextAC(context.context_id, ContextResult.ACCEPTANCE, chosen)

    def stop(self) -> None:
        """Listen no more, and wait until all connections have ended."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)

    def _judge(self) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.stop()
        self.check()

    def check(self) -> None:
        """Nothing has been wrong with what it was sent."""
        if self.faults:
            raise AssertionError(f"the SCP of the test: {self.faults}")
