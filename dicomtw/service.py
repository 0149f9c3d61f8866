"""The running server: listeners, threads, start with a clear word when it fails, and drain at the end."""

from __future__ import annotations

import codecs
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import ILogObserver, Logger

from dicomtw import tls_listening
from dicomtw.acceptor import ApplicationEntity
from dicomtw.archive import Archive
from dicomtw.authentication import Authentication
from dicomtw.config import Configuration, Server
from dicomtw.config import state_directory as state_directory
from dicomtw.destinations import RemoteDestinations, limits_of
from dicomtw.encoding import character_sets
from dicomtw.errors import IndexFault
from dicomtw.limits import descriptors_for_connections, fit
from dicomtw.named_checkers import AuthFault, authentication_of
from dicomtw.names import Names
from dicomtw.ports import Ports, endpoints_of, make_store
from dicomtw.process import Process as Process  # for those who start a service
from dicomtw.process import StartError
from dicomtw.protocol import CLOSE_GRACE
from dicomtw.security import access
from dicomtw.security.renewal import contexts
from dicomtw.server import DicomFactory
from dicomtw.services import ServiceRegistry
from dicomtw.standard import Services
from dicomtw.standard import standard_services as standard_services  # for those who add to them
from dicomtw.trail import SILENT, Audit
from dicomtw.wakeful import stay_awake
from dicomtw.words import any_may_associate, describe, warnings_of
from dicomtw.workers.crew import Crew
from dicomtw.workers.factory import SharedFactory
from dicomtw.workers.supervisor import TRY_LATER

_ALONE = Process()


class _NoIndex(StartError):
    """An index cannot be used, for now."""


class DicomService(Service):
    """All servers of a configuration in one process.

    `services` makes what they serve; the default is `standard_services`, to which others can be added.
    """

    log = Logger()
    name = "dicom"

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any = None,
        process: Process = _ALONE,
        services: Services = standard_services,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._configuration = configuration
        self._reactor = reactor
        self._process = process
        self._owner: tuple[int, int] | None = None
        self._services = services
        self._names = Names(reactor)
        self._archives: dict[Path, Archive] = {}
        self._destinations: list[RemoteDestinations] = []
        #: By the directories of their queues.
        self._auditings: dict[Path, Any] = {}
        self._ports = Ports(reactor, self._port_failed)
        self._listening = False
        self._stopping = False
        #: What is wrong with checkers of users, which are made, and what they need loaded, at once.
        self._auth_faults: list[str] = []
        self._crew = self._make_crew()
        self.factories = [self._factory(server) for server in configuration.servers]

    def _make_crew(self) -> Crew | None:
        """The processes that we are to be; None if we are but one."""
        if self._configuration.workers == 1:
            return None
        return Crew(self._configuration, self._reactor)

    def _factory(self, server: Server) -> DicomFactory:
        configuration = self._configuration
        root = Path(os.path.abspath(server.store))
        archive = self._archives.get(root)
        if archive is None:
            archive = self._archives[root] = Archive(
                root, server, self._reactor, None if self._crew is None else self._crew.common.progress[root]
            )
        destinations = RemoteDestinations(server, configuration.remotes, self._reactor, archive.disk)
        self._destinations.append(destinations)
        entity = ApplicationEntity(
            access=access.AccessPolicy(
                ae_title=server.aet,
                remotes=configuration.remotes,
                accept_any_ae=any_may_associate(server, configuration),
                accept_any_called_ae=server.accept_any_called_ae,
                allow_retrieve_any=server.allow_retrieve == "any",
                networks=server.networks,
                associations_per_minute_per_host=server.associations_per_minute_per_host,
                failed_associations_per_minute_per_host=server.failed_associations_per_minute_per_host,
            ),
            registry=ServiceRegistry(self._services(self._share_of(server), archive, destinations)),
            disk=archive.disk,
            maximum_length=server.max_pdu,
            no_implementation_version_name=server.no_implementation_version_name,
            enforce_default_transfer_syntax=server.enforce_default_transfer_syntax,
            preferred_transfer_syntaxes=server.prefer_transfer_syntax,
            authentication=self._authentication(server),
            audit=self._audit(server),
        )
        limits, resolve = limits_of(server), self._names.resolve
        if self._crew is None:
            return DicomFactory(entity, limits, self._reactor, resolve)
        name = str(self._configuration.servers.index(server))
        return SharedFactory(entity, limits, self._reactor, resolve, self._crew.common, name)

    def _share_of(self, server: Server) -> Server:
        """What each of several processes does of what is limited for all, and cannot be counted together."""
        moves = server.max_moves
        return attrs.evolve(server, max_moves=moves and max(1, moves // self._configuration.workers))

    def _audit(self, server: Server) -> Audit:
        """Who keeps the audit trail of a server."""
        if server.audit is None:
            return SILENT
        # Only now, for few need it; and not later, when it may no longer be readable.
        from dicomtw.auditing import QUEUE, Auditing

        directory = Path(os.path.abspath(state_directory(server))) / QUEUE
        auditing = self._auditings.get(directory)
        if auditing is None:
            auditing = self._auditings[directory] = Auditing(server, directory, self._reactor)
        hosts = {remote.aet: remote.host for remote in self._configuration.remotes}
        audit: Audit = auditing.audit_of(server, hosts)
        return audit

    def _authentication(self, server: Server) -> Authentication | None:
        """How a server checks users; None if it does not."""
        try:
            return authentication_of(server.demand, server.auth, without_tls=server.auth_without_tls)
        except AuthFault as fault:
            self._auth_faults.append(str(fault))
            return None

    # -- start

    def setServiceParent(self, parent: Any) -> None:
        """Give the application our log observer, which `twistd --logger` still overrides."""
        super().setServiceParent(parent)
        observer = self._process.log_observer() if self._configuration.log_format == "json" else None
        if observer is not None:
            parent.setComponent(ILogObserver, observer)

    def privilegedStartService(self) -> None:
        """Open the ports, as root if need be; what is made for the server belongs to whom it will run as."""
        super().privilegedStartService()
        character_sets.load()
        codecs.lookup("idna")  # which host names are looked up with
        servers = self._configuration.servers
        try:
            self._owner = self._process.owner()
            # All that can be wrong with the options shows before anything is made or opened.
            for fault in self._auth_faults:
                raise StartError(fault)
            if self._crew is not None and (fault := self._process.fork_fault() or self._crew.fault()):
                raise StartError(fault)
            for destinations in self._destinations:
                for fault in destinations.faults():
                    raise StartError(fault)
            for auditing in self._auditings.values():
                if fault := auditing.fault():
                    raise StartError(fault)
            endpoints = [endpoints_of(server, self._reactor, self._owner) for server in servers]
            for factory, places in zip(self.factories, endpoints, strict=True):
                for description, endpoint in places:
                    self._ports.open(description, endpoint, factory)
            for server in servers:
                make_store(server, self._owner)
        except StartError as error:
            self.give_up(str(error))
        self._listening = True

    def startService(self) -> None:
        """Clean up after earlier runs and begin."""
        if not self._listening:
            self.privilegedStartService()
        super().startService()
        try:
            self._prepare_stores()
            if self._crew is None:
                self._go_on()
        except StartError as error:
            self.give_up(str(error))
        self._fit_limits(_raise_descriptor_limit())
        if self._crew is None:
            # Already now: who is told that we have started may stop us before the reactor runs, which has
            # handlers of its own then.
            self._catch_signals(self._terminate)
            self.tell_start()
            self._reactor.callWhenRunning(self._catch_signals, self._terminate)
        elif self._crew.run(_Turns(self, self._process, self._reactor), hang_up=self._heeds_hang_up()):
            self._be_worker(self._crew)
        else:
            self._workers_ended(self._crew)

    def _go_on(self) -> None:
        """What the process does that serves: `StartError` says why it cannot."""
        for archive in self._archives.values():
            archive.begin()
        self._start_audit(tells=self._crew is None or self._crew.starts)
        stay_awake(self._reactor)

    def tell_start(self) -> None:
        """Log what the servers are, and what may be wrong with them."""
        for server in self._configuration.servers:
            for line in describe(server, self._configuration):
                self.log.info("{line}", line=line)
            for line in warnings_of(server, self._configuration):
                self.log.warn("{line}", line=line)
        if self._owner is not None:
            tls_listening.tell_unreadable()
            for line in self._unreadable():
                self.log.warn("{line}", line=line)

    # -- several processes

    def _be_worker(self, crew: Crew) -> None:
        """We are one of the workers, just forked."""
        self._process.forked()
        try:
            self._prepare_archives(lambda archive: archive.forked(crew.dead))
            self._go_on()
        except _NoIndex as error:
            # What our predecessor has stored waits for the next try; others serve what does not need it.
            self.log.error("{error}", error=str(error))
            raise SystemExit(TRY_LATER) from None
        except StartError as error:
            self.give_up(str(error))
        self._ports.take(crew.listen())

        def up() -> None:
            self._catch_signals(self.drain)  # all may get one; only the first process has us stop now
            for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's go to all of us
                signal.signal(number, signal.SIG_IGN)
            crew.up(
                drain=self.drain,
                stop=self._stop_now,
                read_again=tls_listening.read_again,
                hurry=self._hurry,
            )

        self._reactor.callWhenRunning(up)

    def _hurry(self) -> None:
        """Others wait for what we have stored."""
        for archive in self._archives.values():
            archive.hurry()

    def _workers_ended(self, crew: Crew) -> None:
        """We are who they were forked from, and are to end as well."""
        counted = ", ".join(f"{count} {name}" for name, count in crew.common.counted.items())
        self.log.info("all workers have ended: {counted}", counted=counted)
        try:
            self._start_audit(tells=False)
        except StartError as error:
            self.log.error("{error}", error=str(error))
        if crew.failed:
            self._process.remove_pidfile()
            raise SystemExit(1)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _unreadable(self) -> list[str]:
        """Which files of passcodes root could read, and who we are now cannot; a line each."""
        checked = [factory.entity.authentication for factory in self.factories]
        found = [line for one in checked if one is not None for line in one.unreadable()]
        found += [line for one in self._destinations for line in one.unreadable()]
        return list(dict.fromkeys(found))

    def _fit_limits(self, descriptors: int) -> None:
        """No more connections than there are file descriptors for: each server has its share of them."""
        share = descriptors_for_connections(descriptors, _descriptors_in_use(), len(self.factories))
        for factory in self.factories:
            who = factory.entity.access.ae_title
            factory.limits, lines = fit(factory.limits, who, descriptors, share)
            for line in lines:
                self.log.warn("{line}", line=line)

    def _prepare_stores(self) -> None:
        self._prepare_archives(Archive.prepare)
        if self._crew is not None:
            for archive in self._archives.values():
                archive.before_fork()

    def _prepare_archives(self, prepare: Callable[[Archive], int]) -> None:
        for root, archive in self._archives.items():
            try:
                removed = prepare(archive)
            except OSError as error:
                raise StartError(f"cannot use the store {root}: {error.strerror}") from None
            except IndexFault as fault:
                if self._crew is not None:
                    self._crew.common.progress[root].fails(True)  # so nobody waits for us
                raise _NoIndex(f"cannot use the index of the store {root}: {fault}") from None
            if removed:
                self.log.info(
                    "removed {removed} half-received objects from {root}", removed=removed, root=str(root)
                )

    def _start_audit(self, *, tells: bool) -> None:
        worker = 1 if self._crew is None else max(1, self._crew.number)
        for directory, auditing in self._auditings.items():
            try:
                auditing.start(worker, self._configuration.workers, tells=tells)
            except BlockingIOError:
                raise StartError(f"another process has the audit queue in {directory}") from None
            except OSError as error:
                raise StartError(f"cannot use the audit queue in {directory}: {error.strerror}") from None

    def _port_failed(self, why: str) -> None:
        self.log.critical("{why}", why=why)
        self._reactor.stop()

    def give_up(self, why: str) -> NoReturn:
        """End the process: the server cannot run."""
        self.log.critical("{why}", why=why)
        self._process.give_up(why)

    # -- stop

    def _catch_signals(self, terminate: Callable[[], None]) -> None:
        """SIGTERM and SIGINT `terminate`; SIGHUP reads certificates again."""
        if self._reactor is not sys.modules.get("twisted.internet.reactor"):
            return  # a test's
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(terminate))
        if self._heeds_hang_up():
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(tls_listening.read_again))

    def _heeds_hang_up(self) -> bool:
        """Else SIGHUP ends the process when its terminal is closed."""
        return bool(contexts()) or not os.isatty(0)

    def drain(self) -> None:
        """Let associations finish and end, if that has not begun yet."""
        if not self._stopping:
            self._terminate()

    def _stop_now(self) -> None:
        self.drain()
        self._terminate()

    def _terminate(self) -> None:
        """The first time it drains, the second it ends at once."""
        if self._stopping:
            self.log.warn("stopping now")
            for factory in self.factories:
                factory.abort("the server stops")
            self._reactor.callLater(CLOSE_GRACE, self._leave)
        else:
            self._stopping = True  # stopService follows only in the reactor's next turn
            self._reactor.stop()

    def _leave(self) -> None:
        """End the process whatever its threads wait for: what they commit has not been acknowledged."""
        busy = sum(archive.disk.busy for archive in self._archives.values())
        self.log.critical("leaving {busy} calls to the disk unfinished", busy=busy)
        self._process.remove_pidfile()
        os._exit(1)

    def close_ports(self) -> None:
        """Listen no longer, from the reactor's next turn on."""
        self._ports.close()

    def stopService(self) -> Deferred[Any]:
        """Stop listening, let associations finish until the deadline, then abort what is left."""
        super().stopService()
        self._stopping = True
        waiting = self._ports.close()
        deadlines = []
        count = sum(len(factory.associations) for factory in self.factories)
        if count:
            self.log.info("waiting for {count} associations to end", count=count)
        for server, factory in zip(self._configuration.servers, self.factories, strict=True):
            waiting.append(factory.drain())
            deadlines.append(self._reactor.callLater(server.drain_timeout, factory.abort, "the server stops"))

        def ended(_: object) -> Deferred[Any]:
            for deadline in deadlines:
                if deadline.active():
                    deadline.cancel()
            return DeferredList([archive.close() for archive in self._archives.values()])

        def told(_: object) -> Deferred[Any]:
            # Of several processes it is the last one that says so.
            tells = self._crew is None or not self._crew.number
            return DeferredList([auditing.stop(tells=tells) for auditing in self._auditings.values()])

        return DeferredList(waiting).addBoth(ended).addBoth(told)


class _Turns:
    """What a service does at the turns of those that are forked from it: `workers.supervisor.Turns`."""

    def __init__(self, service: DicomService, process: Process, reactor: Any) -> None:
        self._service = service
        self._process = process
        self._reactor = reactor
        self.give_up = service.give_up

    def all_up(self) -> None:
        self._service.tell_start()
        self._process.started()

    def drain(self) -> None:
        self._service.close_ports()
        self.turn()  # where they are closed

    def read_again(self) -> None:
        tls_listening.read_again()

    def turn(self) -> None:
        self._reactor.iterate(0)


def _raise_descriptor_limit() -> int:
    """Each association takes a descriptor for its connection, and one or more for files. How many we have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _descriptors_in_use() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 32  # about as many
