"""A server's factory in a worker: its limits are for all workers together."""

# ruff: noqa: N802 (Twisted's hooks keep Twisted's case)

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.python.failure import Failure

from dicomtw.acceptor import ApplicationEntity
from dicomtw.limits import Limits
from dicomtw.security.access import Standing
from dicomtw.security.remote import Remote
from dicomtw.server import DicomFactory, DicomProtocol, T
from dicomtw.ul.pdu import A_ASSOCIATE_RJ
from dicomtw.workers.buckets import SharedRegister
from dicomtw.workers.crowd import SharedCrowd
from dicomtw.workers.standing import Common


class SharedProtocol(DicomProtocol):
    """One connection of a peer to a worker."""

    _server: SharedFactory

    def in_time(self, waited: Deferred[T]) -> Deferred[T]:
        self._server.crowd.put_off(self)  # who waits has no place yet
        return super().in_time(waited)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        if self._was_associated:
            done = self.association
            self._server.common.count(1, done.operations["C-STORE"], done.data_set_bytes, done.objects_sent)


class SharedFactory(DicomFactory):
    """As `DicomFactory`, of one server in one worker; `name` is another one for each server."""

    protocol = SharedProtocol
    crowd: SharedCrowd[DicomProtocol]
    register: SharedRegister

    def __init__(
        self,
        entity: ApplicationEntity,
        limits: Limits,
        clock: IReactorTime,
        resolve: Callable[[frozenset[str]], Deferred[dict[str, frozenset[str]]]],
        common: Common,
        name: str,
    ) -> None:
        super().__init__(entity, limits, clock, resolve)
        self.common = common
        self.crowd = SharedCrowd(common.ledger, name, common.connected)
        self.register = SharedRegister(entity.access, common.buckets, name)

    def buildProtocol(self, addr: IAddress | None) -> DicomProtocol:
        if self.crowd.waiting >= self.limits.waiting and not self.crowd.waiting_here:
            return self.protocol(self, refused=True)  # there is nobody whom we could turn out for it
        return super().buildProtocol(addr)

    def full(self, protocol: DicomProtocol) -> tuple[A_ASSOCIATE_RJ, str] | None:
        if self.crowd.has_place(protocol):
            return None
        with self.common.ledger.held():
            rejection = super().full(protocol)
            if rejection is None:
                self.crowd.take_place(protocol, "")
                if self.limits.max_associations_per_host:
                    self.crowd.take_host(protocol)
        return rejection

    def standing(self, of_host: Standing, remote: Remote | None, protocol: DicomProtocol) -> Standing:
        if remote is None or not (remote.max_associations or remote.associations_per_minute):
            return of_host
        place = f"remote {self.entity.access.remotes.index(remote)}"
        if self.crowd.has_place(protocol, place):
            return of_host
        with self.common.ledger.held():
            associations = self.crowd.count(place)
            if 0 < remote.max_associations <= associations:
                return attrs.evolve(of_host, associations=associations)
            is_hasty = remote.associations_per_minute > 0
            if is_hasty and self.register.take(remote, self.clock.seconds()):
                is_hasty = False
                self.crowd.or_else(protocol, partial(self._put_back, remote))
            if not is_hasty:
                self.crowd.take_place(protocol, place)
        return attrs.evolve(of_host, associations=associations, is_hasty=is_hasty)

    def _put_back(self, remote: Remote) -> None:
        self.register.put_back(remote, self.clock.seconds())
