"""Connections of peers to one server, and the factory that makes and counts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

import attrs
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from dicomtw.acceptor import AcceptedAssociation, ApplicationEntity
from dicomtw.crowd import Crowd, turn_out_longest
from dicomtw.limits import LONG_PROPOSAL, Limits, Lines
from dicomtw.protocol import AssociationProtocol
from dicomtw.security.access import LOCAL_LIMIT_EXCEEDED, TEMPORARY_CONGESTION, Standing
from dicomtw.security.certificate import PeerCertificate
from dicomtw.security.rates import Register, TokenBucket
from dicomtw.security.remote import Remote
from dicomtw.transports import certificate_of, has_tls, tls_fault, tls_of, verifies
from dicomtw.ul.pdu import A_ASSOCIATE_RJ

T = TypeVar("T")

#: Log lines a minute about connections from networks that nobody is spoken with from, and of hosts that are
#: put off for they come too often.
_TURNED_AWAY_TOLD = 60


class DicomProtocol(AssociationProtocol):
    """One connection of a peer to a server; `refused`: closed as soon as it is there."""

    association: AcceptedAssociation

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
        try:
            super().connectionLost(reason)
            self._end_trail(reason)
            if self._awaited is not None:
                self._awaited.cancel()
        finally:
            self._server.connection_ended()

    def _end_trail(self, reason: Failure) -> None:
        trail = self.association.trail
        # What becomes of an association that was proposed the association tells.
        fault = "" if self.association.calling_ae_title else self.provider.fault
        if trail is not None:
            trail.ended()
        elif why := self._turned_out or fault or tls_fault(reason):
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

    def standing(self, remote: Remote | None = None) -> Standing:
        if self._standing is None:
            self._standing = self._server.register.asked(self._host(), self.clock.seconds())
            self._is_turned_away = self._standing.host_is_hasty or self._standing.host_is_rejected
        return self._server.standing(self._standing, remote, self)

    def rejected(self) -> None:
        self._server.register.rejected(self._host(), self.clock.seconds())

    def full(self) -> tuple[A_ASSOCIATE_RJ, str] | None:
        return self._server.full(self)

    def resolve(self, names: frozenset[str]) -> Deferred[dict[str, frozenset[str]]]:
        return self.in_time(self._server.resolve(names))

    def is_confidential(self) -> bool:
        # A front end that does not say for whom it connects has not said that it is of this machine.
        has_front_end = hasattr(self.transport, "peer_is_known")
        is_local = isinstance(self.transport.getPeer(), UNIXAddress) and not has_front_end
        return is_local or has_tls(self.transport)

    def in_time(self, waited: Deferred[T]) -> Deferred[T]:
        # Sta3 has no timer of its own: nothing but this can keep an answer waiting.
        self._awaited = waited.addTimeout(self.limits.artim_timeout, self.clock)
        return waited

    def pause(self, seconds: float) -> Deferred[None]:
        return deferLater(self.clock, seconds)

    def associated(self) -> None:
        self._was_associated = True
        self._server.crowd.set_associated(self, True)
        if self.association.remote is not None:
            self._server.register.accepted(self.association.remote, self.clock.seconds())
        super().associated()


class DicomFactory(Factory):
    """Makes a `DicomProtocol` for each connection to one server, and knows them all."""

    noisy = False
    protocol = DicomProtocol

    def __init__(
        self,
        entity: ApplicationEntity,
        limits: Limits,
        clock: IReactorTime,
        resolve: Callable[[frozenset[str]], Deferred[dict[str, frozenset[str]]]],
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
        return self.protocol(self, refused=is_full)

    def standing(self, of_host: Standing, remote: Remote | None, protocol: DicomProtocol) -> Standing:
        """How the requestor of a connection stands whose host stands so, who is `remote` if that is known."""
        if remote is None or not (remote.max_associations or remote.associations_per_minute):
            return of_host
        return attrs.evolve(
            of_host,
            associations=sum(one.association.remote == remote for one in self.associations),
            is_hasty=self.register.is_hasty(remote, self.clock.seconds()),
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
        if self.crowd.associated >= limits.max_associations:
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
