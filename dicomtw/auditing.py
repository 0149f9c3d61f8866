"""The audit trail of the servers of one process (PS3.15 Annex A): what associations tell becomes messages."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from dicomtw.client import TLS, certified_name
from dicomtw.collectors import Collector, FileCollector, TLSCollector, UDPCollector
from dicomtw.config import Server
from dicomtw.dimse import status
from dicomtw.dimse.messages import C_FIND_RQ
from dicomtw.encoding import character_sets
from dicomtw.errors import DimseError
from dicomtw.recorder import Recorder
from dicomtw.security.access import Requestor
from dicomtw.security.addresses import address_of
from dicomtw.security.audit import events
from dicomtw.security.audit.events import Events, Party, Study
from dicomtw.security.audit.message import LONGEST_TEXT, AuditMessage, Code, Outcome
from dicomtw.security.audit.queue import Queue
from dicomtw.security.audit.repeats import WINDOW, Repeats
from dicomtw.security.audit.target import Target
from dicomtw.security.audit.transfers import Gathered, Transfers
from dicomtw.security.tls import TLSError
from dicomtw.services import Operation, Sending
from dicomtw.storage.content import Content
from dicomtw.storage.index.record import text_of
from dicomtw.storage.stored import Stored

T = TypeVar("T")

#: The queue's directory in the state directory.
QUEUE: Final = "audit"

_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_ACCESSION_NUMBER: Final = 0x00080050
_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_STUDY_INSTANCE_UID: Final = 0x0020000D

#: With these an operation is refused before any service sees it, by the rules of access.
_BY_ACCESS: Final = (status.NOT_AUTHORIZED, status.MOVE_DESTINATION_UNKNOWN)

#: For threads to end when all is done, in seconds.
_LAST: Final = 2.0

#: Takes a message, and does not block; and many, that are to be made.
Record = Callable[[AuditMessage], None]
RecordAll = Callable[[Iterable[Callable[[], AuditMessage]]], None]


class Auditing:
    """Where the audit messages of servers with one state directory go, and the threads for their disks.

    `directory` is that of the queue.
    """

    def __init__(self, server: Server, directory: Path, reactor: Any) -> None:
        assert server.audit is not None
        self.directory = directory
        self.server = server
        self._target = Target.parse(server.audit)
        self._reactor = reactor
        #: Another for the file that messages go to: that may be on a disk that hangs.
        self._threads = [DiskThread(reactor, name) for name in ("dicomtw-audit", "dicomtw-audit-file")]
        self._host = socket.gethostname()
        self._tls = tls_of(server)
        self._audits: list[ServerAudit] = []
        self._is_started = False
        self._queue = Queue(directory)
        self._recorder = self._recorder_of(self._queue, self._lost)
        #: Of queues that others have left.
        self._left: list[Recorder] = []

    def _recorder_of(self, queue: Queue, lost: Callable[[int], tuple[AuditMessage, ...]]) -> Recorder:
        collector, thread = self._collector(self._target), self._threads[0]
        return Recorder(queue, collector, thread, self._reactor, name=str(self._target), lost=lost)

    def _collector(self, target: Target) -> Collector:
        if target.path is not None:
            return FileCollector(Path(os.path.abspath(target.path)), self._threads[1])
        if target.kind == "udp":
            return UDPCollector(target.host, target.port, self._reactor, self._host)
        return TLSCollector(target.host, target.port, self._tls, self._reactor, self._host)

    def audit_of(self, server: Server, addresses: Mapping[str, str]) -> ServerAudit:
        """The audit trail of one server; `addresses` are the hosts of remotes, by AE title."""
        audit = ServerAudit(
            Events(ae_title=server.aet, host=self._host),
            self._recorder.record,
            self._recorder.record_all,
            self._reactor,
            addresses=addresses,
            fault=(lambda: self._recorder.fault) if server.audit_required else None,
        )
        self._audits.append(audit)
        return audit

    def fault(self) -> str:
        """Why there can be no TLS with the collector, in a line; empty for nothing. Blocks."""
        return fault_of(self._target, self._tls)

    def start(self, worker: int = 1, workers: int = 1, *, tells: bool = True) -> None:
        """Open the queue and, if it `tells`, say that the servers start. Blocks; raises `OSError`.

        Each of several `workers` has a queue of its own. The first takes those as well that more of them have
        left in an earlier run.
        """
        if worker > 1:
            self._queue.move(self._queue_of(worker))
        self._recorder.start()
        for thread in self._threads:
            thread.start()
        self._is_started = True
        if worker == 1:
            self._take_left(workers)
        for audit in self._audits if tells else ():
            audit.started()

    def _queue_of(self, worker: int) -> Path:
        return self.directory / f"worker-{worker}"

    def _take_left(self, workers: int) -> None:
        ours = {self._queue_of(number) for number in range(1, workers + 1)}
        for directory in sorted({*self.directory.glob("worker-*")} - ours):
            recorder = self._recorder_of(Queue(directory), lambda count: ())
            with suppress(BlockingIOError):  # one that is still ending has it
                recorder.start()
                self._left.append(recorder)

    def stop(self, *, tells: bool = True) -> Deferred[Any]:
        """Say that the servers have stopped, if it `tells`, and deliver what can be delivered at once."""
        if not self._is_started:
            return succeed(None)
        self._is_started = False
        for audit in self._audits:
            audit.stopped(tells=tells)
        stopped = DeferredList([one.stop() for one in (self._recorder, *self._left)])
        return stopped.addBoth(self._stop_threads)

    def _stop_threads(self, result: object) -> Deferred[Any]:
        return DeferredList([thread.stop() for thread in self._threads]).addCallback(lambda _: result)

    def _lost(self, count: int) -> tuple[AuditMessage, ...]:
        return self._audits[0].lost(count) if self._audits else ()


class DiskThread:
    """A thread for a disk. If that hangs the thread is left to end with the process."""

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, 1, name)
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, function)

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> Deferred[None]:
        """Fires when what it was at is done, or after a while."""
        stopped: Deferred[None] = Deferred()

        def stop() -> None:
            self._pool.stop()
            self._reactor.callFromThread(stopped.callback, None)

        Thread(target=stop, daemon=True).start()  # for it waits
        return stopped.addTimeout(_LAST, self._reactor, lambda *_: None)


def tls_of(server: Server) -> TLS:
    """TLS with the collector of a server's audit messages."""
    return TLS(ca=server.audit_ca, cert=server.audit_cert, key=server.audit_key)


def fault_of(target: Target, tls: TLS) -> str:
    """Why there can be no TLS with a collector, in a line; empty for nothing. Blocks: `tls` is loaded."""
    if target.kind == "tls":
        try:
            certified_name(tls, target.host)
            tls.context  # noqa: B018
        except TLSError as error:
            return str(error).replace("--tls-", "--audit-")
        except ValueError as error:
            return f"--audit={target}: {error}"
    return ""


def fault_in(server: Server) -> str:
    """The same of a server's settings, for those who do not start it."""
    return "" if server.audit is None else fault_of(Target.parse(server.audit), tls_of(server))


class ServerAudit:
    """The audit trail of one server: a `trail.Audit`.

    `fault` says why nothing can be recorded, where associations depend on that; else it is None.
    """

    def __init__(
        self,
        makes: Events,
        record: Record,
        record_all: RecordAll,
        clock: Any,
        *,
        addresses: Mapping[str, str],
        fault: Callable[[], str] | None = None,
    ) -> None:
        self.events = makes
        self.record = record
        self.record_all = record_all
        self.clock = clock
        self.addresses = addresses
        self._fault = fault
        self._repeats = Repeats()
        self._report: IDelayedCall | None = None

    def started(self) -> None:
        self.record(self.events.application(starts=True))

    def stopped(self, *, tells: bool = True) -> None:
        if self._report is not None:
            self._report.cancel()
            self._report = None
        self._tell_counted(None)
        if tells:
            self.record(self.events.application(starts=False))

    def lost(self, count: int) -> tuple[AuditMessage, ...]:
        """Messages that say that others were not recorded."""
        why = f"{count} audit messages were not recorded"
        return (
            self.events.alert(events.AUDIT_RECORDING_STOPPED, why, outcome=Outcome.MAJOR_FAILURE),
            self.events.alert(
                events.AUDIT_RECORDING_STARTED, "audit messages are recorded again", outcome=Outcome.SUCCESS
            ),
        )

    # -- trail.Audit

    def unavailable(self) -> str:
        return "" if self._fault is None else self._fault()

    def established(self, requestor: Requestor) -> AssociationAudit:
        party = party_of(requestor)
        if party.user:
            self.record(self.events.login(party))
        return AssociationAudit(self, party)

    def rejected(self, requestor: Requestor, why: str, *, transient: bool) -> None:
        outcome = Outcome.MINOR_FAILURE if transient else Outcome.SERIOUS_FAILURE
        self.alert(events.NODE_AUTHENTICATION, f"association rejected: {why}", party_of(requestor), outcome)

    def login_failed(self, requestor: Requestor, user: str, why: str) -> None:
        party = party_of(requestor, user)
        if self._is_to_be_told(party.address):
            self.record(self.events.login(party, why))

    def turned_out(self, address: str, why: str) -> None:
        self.alert(events.NODE_AUTHENTICATION, why, Party(address=address), Outcome.SERIOUS_FAILURE)

    # --

    def alert(self, kind: Code, why: str, party: Party, outcome: Outcome) -> None:
        """A Security Alert, unless there were many about this peer of late."""
        if self._is_to_be_told(party.address):
            self.record(self.events.alert(kind, why, party, outcome))

    def _is_to_be_told(self, address: str) -> bool:
        if self._report is None:
            self._report = self.clock.callLater(WINDOW, self._tell)
        return self._repeats.is_to_be_told(address, self.clock.seconds())

    def _tell(self) -> None:
        self._report = None
        self._tell_counted(self.clock.seconds())
        if self._repeats:
            self._report = self.clock.callLater(WINDOW, self._tell)

    def _tell_counted(self, now: float | None) -> None:
        for host, times in self._repeats.ended(now):
            why = f"{times} more such events {f'about {host}' if host else 'about several peers'}"
            party = Party(address=host) if address_of(host) else Party()  # no network
            self.record(self.events.alert(events.NODE_AUTHENTICATION, why, party))


class AssociationAudit:
    """The audit trail of one association: a `trail.AssociationTrail`."""

    def __init__(self, audit: ServerAudit, party: Party) -> None:
        self._audit = audit
        self._party = party
        #: What is stored; and what was there before, and stays.
        self._stored = Transfers()
        self._held_before = Transfers()
        self._has_ended = False

    def begun(self, operation: Operation, refusal: DimseError | None) -> None:
        audit, request = self._audit, operation.request
        if refusal is not None:
            if refusal.status in _BY_ACCESS:
                why = f"{request.message_type.operation} refused: {refusal.comment}"
                kind = events.USE_OF_RESTRICTED_FUNCTION
                audit.alert(kind, why, self._party, Outcome.SERIOUS_FAILURE)
        elif request.message_type is C_FIND_RQ:
            context = operation.context
            audit.record(
                audit.events.query(
                    self._party, context.abstract_syntax, context.transfer_syntax, operation.data_set
                )
            )

    def received(self, stored: Stored, sop_class_uid: str) -> None:
        transfers = self._stored if stored.journal is not None else self._held_before
        found = stored.found
        key = stored.study, found.get(_PATIENT_ID, b"")[:LONGEST_TEXT]
        due = transfers.add(key, lambda: study_of(stored), sop_class_uid, self._audit.clock.seconds())
        if due is not None:
            self._tell(due, transfers)
        if self._has_ended:
            self._tell_all()

    def sending(self, contents: Collection[Content], destination: str = "") -> Sending:
        party = None
        if destination:
            party = Party(ae_title=destination, address=self._audit.addresses.get(destination, ""))
        return _Sending(self._audit, self._party, party, contents)

    def ended(self) -> None:
        self._has_ended = True
        self._tell_all()

    def _tell_all(self) -> None:
        for transfers in (self._stored, self._held_before):
            for gathered in transfers.take():
                self._tell(gathered, transfers)

    def _tell(self, gathered: Gathered, transfers: Transfers) -> None:
        audit = self._audit
        held_before = transfers is self._held_before
        audit.record(
            audit.events.received(self._party, gathered.study, gathered.instances, held_before=held_before)
        )


class _Sending:
    """Instances that are sent: a `services.Sending`."""

    def __init__(
        self, audit: ServerAudit, requestor: Party, destination: Party | None, contents: Iterable[Content]
    ) -> None:
        self._audit = audit
        self._parties = requestor, destination
        self._studies: dict[str, Study] = {}
        self._sent: dict[str, Counter[str]] = {}
        self._failed: dict[str, Counter[str]] = {}
        planned: dict[str, Counter[str]] = {}
        for content in contents:
            self._studies[content.directory] = Study(
                study_instance_uid=content.study_instance_uid,
                patient_id=content.patient_id,
                patient_name=content.patient_name,
                accession_number=content.accession_number,
            )
            planned.setdefault(content.directory, Counter())[content.sop_class_uid] += content.count
        makes = self._now()
        audit.record_all(
            partial(makes.begin_transferring, requestor, destination, self._studies[directory], instances)
            for directory, instances in planned.items()
        )

    def _now(self) -> Events:
        """Makes messages of what happens now, if it be later."""
        now = self._audit.events.now()
        return attrs.evolve(self._audit.events, now=lambda: now)

    def sent(self, directory: str, sop_class_uid: str, *, success: bool) -> None:
        counts = self._sent if success else self._failed
        counts.setdefault(directory, Counter())[sop_class_uid] += 1

    def ended(self) -> None:
        makes = self._now()
        for counts, failed in ((self._sent, False), (self._failed, True)):
            self._audit.record_all(
                # What came meanwhile was not among what was to be sent.
                partial(
                    makes.sent,
                    *self._parties,
                    self._studies.get(directory) or Study(study_instance_uid=directory),
                    instances,
                    failed=failed,
                )
                for directory, instances in counts.items()
            )
            counts.clear()


def party_of(requestor: Requestor, user: str = "") -> Party:
    """Who has requested an association."""
    return Party(
        ae_title=requestor.calling_ae_title.strip(),
        address=requestor.address,
        certificate="" if requestor.certificate is None else requestor.certificate.subject,
        user=user or ("" if requestor.identity is None else requestor.identity.name),
    )


def study_of(stored: Stored) -> Study:
    """The study of an object, and whose it is, as its data set has it."""
    found = stored.found
    terms = character_sets.terms_of(found.get(_SPECIFIC_CHARACTER_SET))

    def text(tag: int, vr: str) -> str:
        # What is gathered is kept as long as the association.
        return text_of(found.get(tag, b""), vr, terms)[:LONGEST_TEXT]

    return Study(
        study_instance_uid=text(_STUDY_INSTANCE_UID, "UI") or stored.study,
        patient_id=text(_PATIENT_ID, "LO"),
        patient_name=text(_PATIENT_NAME, "PN"),
        accession_number=text(_ACCESSION_NUMBER, "SH"),
    )
