"""Twisted's Protocol and Factory around an association: bytes, timers and pausing."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

import attrs
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dicomtw.acceptor import AcceptedAssociation, ApplicationEntity
from dicomtw.association import PROGRESS, Association, Hold
from dicomtw.limits import LONG_PROPOSAL, Crowd, Lines, turn_out_longest
from dicomtw.limits import Limits as Limits  # for those who make a factory
from dicomtw.security.access import LOCAL_LIMIT_EXCEEDED, TEMPORARY_CONGESTION, Standing
from dicomtw.security.certificate import PeerCertificate
from dicomtw.security.rates import Register, TokenBucket
from dicomtw.summary import (
    NOTHING_SAID,
    certificate_of,
    in_handshake,
    log_summary,
    tls_fault,
    tls_of,
    verifies,
)
from dicomtw.ul.machine import State
from dicomtw.ul.pdu import A_ASSOCIATE_RJ
from dicomtw.ul.provider import Provider

T = TypeVar("T")

#: After we have closed a connection its peer has this long, in seconds, to take what was sent (and under
#: TLS to say goodbye, which Twisted would wait for without end).
CLOSE_GRACE = 2.0

#: Log lines a minute about connections from networks that nobody is spoken with from, and of hosts that are
#: put off for they come too often.
_TURNED_AWAY_TOLD = 60

#: States in which the next PDU is the peer's to send, besides Sta6.
_PEER_IS_DUE = (State.Sta5, State.Sta7, State.Sta9, State.Sta10, State.Sta11, State.Sta12)


@implementer(IHalfCloseableProtocol, IPushProducer)
class AssociationProtocol(Protocol):
    """One connection: it carries the bytes of one association, and keeps its timers."""

    log = Logger()
    transport: Any  # TCP, TLS or UNIX, perhaps wrapped
    #: Set before the connection is made.
    association: Association
    provider: Provider

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self.clock = clock
        self.limits = limits
        self._artim: IDelayedCall | None = None
        self._watch: IDelayedCall | None = None
        self._closing: IDelayedCall | None = None
        self._holds = Hold(0)
        self._last_activity = self._began = clock.seconds()
        #: Whether something was half received when bytes came last, and the progress up to then.
        self._was_mid_message = False
        self._progress = 0
        #: What is waited for, and since when.
        self._turn: object = None
        self._turn_since = 0.0
        #: Since when the peer does not take what we send; None while it does.
        self._unread_since: float | None = None
        self._socket: socket.socket | None = None
        self._tls = ""
        self._input_ended = False

    def _carry(self, association: Association, *, is_requestor: bool, maximum_length: int) -> None:
        """Carry the bytes of `association`."""
        self.association = association
        self.provider = association.provider = Provider(
            self, association, is_requestor=is_requestor, maximum_length=maximum_length
        )

    # -- Twisted's Protocol

    def connectionMade(self) -> None:
        self._socket = _socket_of(self.transport)
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None and self._socket is not None:
            set_no_delay(True)
        # Told to pause while the peer does not take what we send, the association sends no more than it must.
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        try:
            self.provider.bytes_received(data)
            self.association.chunk_ended()
        except Exception:
            self._bug()
        association = self.association
        mid_message, progress = association.mid_message, association.progress
        # A message once begun is not kept alive by a byte now and then, nor by PDUs with nothing in them.
        if not (mid_message and self._was_mid_message) or progress - self._progress >= PROGRESS:
            self._last_activity = self.clock.seconds()
            self._progress = progress
        self._was_mid_message = mid_message
        if self._socket is not None and _TCP_QUICKACK:
            _acknowledge_now(self._socket)

    def readConnectionLost(self) -> None:
        """The peer sends no more, but may still read: what it has asked for is answered before we close."""
        self._input_ended = True
        self.association.input_ended()
        if not self.association.busy:
            self.close()

    def writeConnectionLost(self) -> None:
        self.close()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        for timer in (self._artim, self._watch, self._closing):
            if timer is not None and timer.active():
                timer.cancel()
        self._socket = None
        self._input_ended = False  # nobody waits for answers
        try:
            self.provider.connection_closed()
        except Exception:
            self._bug()
        self._log_summary(reason)

    def _bug(self) -> None:
        self.provider.stop()
        self.log.failure("bug in an association with {peer}", peer=self._peer_name())
        self.association.abort("internal error")

    # -- IPushProducer: what we send piles up

    def pauseProducing(self) -> None:
        self._unread_since = self.clock.seconds()
        self.association.taken(False)

    def resumeProducing(self) -> None:
        self._unread_since = None
        self._last_activity = self.clock.seconds()
        try:
            self.association.taken(True)
        except Exception:
            self._bug()

    def stopProducing(self) -> None:
        pass  # the connection is lost, and connectionLost follows

    # -- ul.provider.Transport

    def connect(self) -> None:
        """The connection is there before the association is asked for."""

    def write(self, data: bytes) -> None:
        self._last_activity = self.clock.seconds()
        self.transport.write(data)

    def close(self) -> None:
        if self._closing is None:
            unread = self._unread_since is not None and self._input_ended
            grace = self.limits.dimse_timeout if unread else CLOSE_GRACE
            self._closing = self.clock.callLater(grace, self.transport.abortConnection)
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    @property
    def closing(self) -> bool:
        """Whether we are closing the connection."""
        return self._closing is not None

    def start_artim(self) -> None:
        self.stop_artim()
        self._artim = self.clock.callLater(self.limits.artim_timeout, self.provider.artim_expired)

    def stop_artim(self) -> None:
        if self._artim is not None and self._artim.active():
            self._artim.cancel()

    # -- association.Shell

    def hold(self, reason: Hold, held: bool) -> None:
        was_held = bool(self._holds)
        self._holds = self._holds | reason if held else self._holds & ~reason
        if bool(self._holds) != was_held and not self.transport.disconnecting:
            self._last_activity = self.clock.seconds()
            if was_held:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def associated(self) -> None:
        if self._watch is None:
            self._check_progress()

    def idle(self) -> None:
        self._last_activity = self.clock.seconds()
        if self._input_ended:
            self.close()

    # -- DIMSE and idle timeout

    def _check_progress(self) -> None:
        """One timer for both, set again when it runs out: nothing is to be done per PDU but note the time."""
        limits = self.limits
        since = self._last_activity
        if self.provider.state in (State.Sta1, State.Sta13):
            return
        if self.provider.state == State.Sta5:
            since = self._began  # however slowly it comes, or TLS comes about before
            limit, why = limits.artim_timeout, "no answer to the A-ASSOCIATE-RQ within the ARTIM time"
        elif self._unread_since is not None:
            since = self._unread_since  # whatever it sends meanwhile
            limit, why = limits.dimse_timeout, "the peer does not read our answers"
        elif self._holds:
            limit, why = limits.dimse_timeout, ""  # it is our turn, however long that takes
        elif self.association.sends:
            limit, why = limits.dimse_timeout, ""
        elif self.association.waits_for_response:
            since = self._since(self.association.turn)  # whatever it asks of us meanwhile
            limit, why = limits.dimse_timeout, "no response within the DIMSE timeout"
        elif self.association.busy:
            limit, why = limits.dimse_timeout, ""
        elif self.provider.state in _PEER_IS_DUE:
            since = self._since(self.provider.state)
            limit, why = limits.dimse_timeout, "the release was not answered within the DIMSE timeout"
        elif self.association.mid_message:
            limit, why = limits.dimse_timeout, "nothing more came of a message within the DIMSE timeout"
        else:
            limit, why = limits.idle_timeout, "idle timeout"
        silence = self.clock.seconds() - since
        if silence >= limit and why:
            self.association.abort(why)
            return
        # Not longer than the DIMSE timeout, for a message may begin at any time.
        wait = limit - silence if why and silence < limit else limits.dimse_timeout
        self._watch = self.clock.callLater(min(wait, limits.dimse_timeout), self._check_progress)

    def _since(self, turn: object) -> float:
        """Since when `turn` is waited for: nothing else that the peer does makes that later."""
        if turn != self._turn:
            self._turn, self._turn_since = turn, self._last_activity
        return self._turn_since

    # -- for the log

    def _peer_name(self) -> str:
        peer = self.transport.getPeer()
        host = getattr(peer, "host", None)
        if host is None:
            return "local socket"
        return f"[{host}]:{peer.port}" if ":" in host else f"{host}:{peer.port}"

    def _log_summary(self, reason: Failure) -> None:
        association = self.association
        fault = self.provider.fault
        if fault and in_handshake(self.transport):
            fault += ": the TLS handshake was not finished"
        ended = association.ended or fault or tls_fault(reason, self.transport)
        log_summary(
            association,
            peer=self._peer_name(),
            tls=self._tls,
            seconds=self.clock.seconds() - self._began,
            ended=ended or ("closed by the peer inside a PDU" if self.provider.mid_pdu else NOTHING_SAID),
        )


class DicomProtocol(AssociationProtocol):
    """One connection of a peer to a server; `refused`: closed as soon as it is there."""

    def __init__(self, factory: DicomFactory, refused: bool = False) -> None:
        super().__init__(factory.clock, factory.limits)
        self._server = factory
        self._refused = refused
        self._carry(
            AcceptedAssociation(factory.entity, self),
            is_requestor=False,
            maximum_length=factory.entity.maximum_length,
        )
        self.association.maximum_data_set = factory.limits.max_data_set
        #: What the answer to the peer's proposal waits for.
        self._awaited: Deferred[Any] | None = None
        self._standing: Standing | None = None
        #: By where it comes from, whoever it is.
        self._is_turned_away = False
        self._was_associated = False
        #: Why it was closed before any association; empty if it was not.
        self._turned_out = ""

    def connectionMade(self) -> None:
        if self._refused:
            self._turned_out = self.association.ended = "there are too many connections"
            self.provider.stop()
            self.transport.abortConnection()
            return
        super().connectionMade()
        self._server.crowd.add(self)
        self.provider.connection_indication()
        if getattr(self.transport, "peer_is_known", True):
            self.peer_known()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if not self._was_associated:
            self._server.crowd.set_long(self, self.provider.held > LONG_PROPOSAL)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._server.crowd.remove(self)
        super().connectionLost(reason)
        self._end_trail(reason)
        if self._awaited is not None:
            self._awaited.cancel()
        self._server.connection_ended()

    def _end_trail(self, reason: Failure) -> None:
        trail = self.association.trail
        if trail is not None:
            trail.ended()
        elif why := self._turned_out or tls_fault(reason):
            self._server.entity.audit.turned_out(self._host(), why)

    def peer_known(self) -> None:
        """The transport has the address of the peer itself, be there a front end between us or not."""
        why = self._server.entity.access.stranger(self._host())
        if why:
            self._is_turned_away = True
            self.turn_out(why)
        else:
            self._server.crowd.peer_known(self, self._host(), self.limits.waiting_per_host)

    def _log_summary(self, reason: Failure) -> None:
        if self._is_turned_away:
            untold = self._server.tell_of_turned_away()
            if untold is None:
                return
            if untold:
                self.association.ended += f"; before it {untold} were turned away without a line"
        elif not (self._was_associated or self._server.lines.take(self._host())):
            return
        super()._log_summary(reason)

    def _host(self) -> str:
        return str(getattr(self.transport.getPeer(), "host", ""))

    def turn_out(self, why: str) -> None:
        """Close a connection that has no association."""
        self._turned_out = self.association.ended = self.association.ended or why
        self.provider.stop()
        self.close()

    def start_artim(self) -> None:
        # While ARTIM runs there is no association, yet or any longer (Sta2, Sta13): it takes nobody's place.
        self._server.crowd.set_associated(self, False)
        super().start_artim()

    # -- acceptor.AcceptorShell

    def requestor_address(self) -> str:
        # Behind a PROXY protocol front end the peer's address is known only now, not in connectionMade.
        self._tls = tls_of(self.transport)
        return self._host()

    def requestor_certificate(self) -> tuple[PeerCertificate | None, bool]:
        return certificate_of(self.transport), verifies(self.transport)

    def standing(self) -> Standing:
        if self._standing is None:
            self._standing = self._server.register.asked(self._host(), self.clock.seconds())
            self._is_turned_away = self._standing.host_is_hasty or self._standing.host_is_rejected
        return self._server.standing(self._standing, self.association.calling_ae_title)

    def rejected(self) -> None:
        self._server.register.rejected(self._host(), self.clock.seconds())

    def full(self) -> tuple[A_ASSOCIATE_RJ, str] | None:
        return self._server.full(self)

    def resolve(self, names: frozenset[str]) -> Deferred[frozenset[str]]:
        return self.in_time(self._server.resolve(names))

    def is_confidential(self) -> bool:
        return bool(tls_of(self.transport)) or isinstance(self.transport.getPeer(), UNIXAddress)

    def in_time(self, waited: Deferred[T]) -> Deferred[T]:
        # Sta3 has no timer of its own: nothing but this can keep an answer waiting.
        self._awaited = waited.addTimeout(self.limits.artim_timeout, self.clock)
        return waited

    def pause(self, seconds: float) -> Deferred[None]:
        return deferLater(self.clock, seconds)

    def associated(self) -> None:
        self._was_associated = True
        self._server.crowd.set_associated(self, True)
        self._server.register.accepted(self.association.calling_ae_title, self.clock.seconds())
        super().associated()


class DicomFactory(Factory):
    """Makes a `DicomProtocol` for each connection to one server, and knows them all."""

    noisy = False

    def __init__(
        self,
        entity: ApplicationEntity,
        limits: Limits,
        clock: IReactorTime,
        resolve: Callable[[frozenset[str]], Deferred[frozenset[str]]],
    ) -> None:
        self.entity = entity
        self.limits = limits
        self.clock = clock
        self.resolve = resolve
        self.crowd: Crowd[DicomProtocol] = Crowd()
        self.lines = Lines(clock)
        self.register = Register(entity.access)
        self._turned_away_told = TokenBucket(_TURNED_AWAY_TOLD, clock.seconds())
        self._turned_away_untold = 0
        self._draining = False
        self._drained: Deferred[None] | None = None

    @property
    def connections(self) -> Mapping[DicomProtocol, None]:
        """All connections, oldest first."""
        return self.crowd.connections

    @property
    def associations(self) -> Set[DicomProtocol]:
        """Those of them that have an association."""
        return self.crowd.associations

    def buildProtocol(self, addr: IAddress | None) -> DicomProtocol:
        limits, crowd = self.limits, self.crowd
        is_full = 0 < limits.max_open <= len(crowd.connections)
        if is_full or crowd.waiting >= limits.waiting:
            turn_out_longest(crowd.without_association(), "too many connections without an association")
        # What is turned out has its descriptor still: there is none for this one.
        return DicomProtocol(self, refused=is_full)

    def standing(self, of_host: Standing, calling_ae_title: str) -> Standing:
        """How a requestor stands whose host stands so."""
        if not self.register.has_limit(calling_ae_title):
            return of_host
        return attrs.evolve(
            of_host,
            associations=sum(
                one.association.calling_ae_title == calling_ae_title for one in self.associations
            ),
            is_hasty=self.register.is_hasty(calling_ae_title, self.clock.seconds()),
        )

    def tell_of_turned_away(self) -> int | None:
        """How many connections that were turned away the log still owes a word besides one; None: wait."""
        if not self._turned_away_told.take(self.clock.seconds()):
            self._turned_away_untold += 1
            return None
        untold, self._turned_away_untold = self._turned_away_untold, 0
        return untold

    def full(self, protocol: DicomProtocol) -> tuple[A_ASSOCIATE_RJ, str] | None:
        """The rejection for one more association, and why, if there is no room for it."""
        limits = self.limits
        if self._draining:
            return TEMPORARY_CONGESTION, "the server stops"
        if len(self.associations) >= limits.max_associations:
            return LOCAL_LIMIT_EXCEEDED, f"there are {limits.max_associations} associations"
        of_host = limits.max_associations_per_host
        if 0 < of_host <= self.crowd.associations_of(protocol):
            return LOCAL_LIMIT_EXCEEDED, f"its host has {of_host} associations"
        return None

    def connection_ended(self) -> None:
        if self._drained is not None and not self.connections and not self._drained.called:
            self._drained.callback(None)

    def drain(self) -> Deferred[None]:
        """Accept no further association; fires when the present ones have ended by themselves."""
        self._draining = True
        for protocol in tuple(self.connections):
            if protocol not in self.associations:
                protocol.close()
        if not self.connections:
            return succeed(None)
        self._drained = self._drained or Deferred()
        return self._drained

    def abort(self, why: str) -> None:
        """Abort all associations and close all connections."""
        for protocol in tuple(self.connections):
            protocol.association.abort(why)
            protocol.close()


def _socket_of(transport: Any) -> socket.socket | None:
    """The TCP socket under any number of wrappers (TLS, PROXY protocol); None where there is none."""
    while transport is not None:
        handle = getattr(transport, "getHandle", lambda: None)()
        if isinstance(handle, socket.socket):
            return None if handle.family == socket.AF_UNIX else handle
        transport = getattr(transport, "transport", None)
    return None


def _acknowledge_now(connection: socket.socket) -> None:
    """Have the kernel acknowledge at once what came in.

    Senders that write a PDU in two parts with Nagle's algorithm on, as DCMTK does, otherwise wait 40 ms for
    our delayed acknowledgement, for each object. The option does not stick, so it is set after each read.
    """
    try:
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
    except OSError:
        pass  # closed meanwhile


_TCP_QUICKACK: int = getattr(socket, "TCP_QUICKACK", 0)  # Linux alone has it
