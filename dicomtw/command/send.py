"""``dicomtw send``: files to a peer (PS3.4 Annex B), on as many associations as it takes."""

from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import attrs

from dicomtw.command import terminal
from dicomtw.command.contexts import Batch, batches
from dicomtw.command.exits import Exit, Fault, reason
from dicomtw.command.files import Found, Scan, files_in
from dicomtw.command.journal import DEFAULT, Journal
from dicomtw.command.peer import Peer, peer_of
from dicomtw.command.running import run as run_under_reactor
from dicomtw.command.running import together
from dicomtw.dimse import status
from dicomtw.errors import AssociationLost, NotAccepted, NotConnected, OperationFailed, Rejected
from dicomtw.scu import SCU

#: How often a file is tried alone after an association has ended under it.
_TRIES = 2
#: Associations in a row that may end without an object sent.
_FRUITLESS = 10
#: Failures that are told each, unless -v is given.
_TOLD = 10


def run(arguments: Namespace) -> int:
    """Look for files, send them, and say what became of them."""
    peer = peer_of(arguments)
    with contextlib.ExitStack() as stack:
        journal = None
        if arguments.resume or arguments.journal is not None:
            journal = Journal(arguments.journal or DEFAULT, peer)
            stack.callback(journal.close)
        scan = Scan(journal.arrived) if arguments.resume and journal is not None else Scan()
        look_for(arguments.paths, scan)
        outcome = Outcome(scan)
        if scan.found:
            stack.callback(lambda: terminal.result(outcome.line(peer)))
            bar = stack.enter_context(terminal.Progress(len(scan.found), "objects"))
            sending = Sending(peer, arguments.window, journal, bar, outcome)
            found = batches(scan.found, as_is=arguments.as_is)
            run_under_reactor(lambda: sending.send(found, arguments.jobs))
        elif scan.earlier:
            terminal.result(outcome.line(peer))
        else:
            raise Fault(f"nothing to send: {_counted(scan.skipped.total(), 'file')} and no DICOM among them")
    return Exit.FAILED if outcome.failed else Exit.WELL


def look_for(paths: Iterable[Path], scan: Scan) -> None:
    """Look at all files that there are; who names one himself is told why it is skipped."""
    with terminal.Progress(None, "files looked at") as bar:
        for path, is_named in files_in(paths):
            skipped = scan.look(path)
            bar.advance()
            if skipped:
                terminal.say(f"{path}: skipped: {skipped}", least=0 if is_named else 1)


@attrs.define
class Outcome:
    """What became of the files."""

    scan: Scan
    sent: int = 0
    size: int = 0
    warnings: int = 0
    failed: int = 0
    began: float = attrs.field(factory=time.monotonic)

    def line(self, peer: Peer) -> str:
        """All of it in one line."""
        seconds = time.monotonic() - self.began
        parts = [
            f"{_counted(self.sent, 'object')} ({self.size / 1e6:.1f} MB) sent to {peer} in {seconds:.1f} s"
        ]
        rest = len(self.scan.found) - self.sent - self.failed
        others = {
            "{} with warnings": self.warnings,
            "{} failed": self.failed,
            "{} not sent": rest,
            "{} had arrived before": self.scan.earlier,
            "{} skipped": self.scan.skipped.total(),
        }
        parts += [text.format(count) for text, count in others.items() if count]
        return ", ".join(parts)


class Sending:
    """Files on their way to one peer."""

    def __init__(
        self, peer: Peer, window: int, journal: Journal | None, bar: terminal.Progress, outcome: Outcome
    ) -> None:
        self._peer = peer
        self._window = window
        self._journal = journal
        self._bar = bar
        self._outcome = outcome
        self._tries: dict[str, int] = {}
        self._waiting: deque[Found] = deque()
        #: Those under which associations have ended that others were on, too.
        self._lost: list[Found] = []

    async def send(self, found: Iterable[Batch], jobs: int) -> None:
        """Send batch after batch on `jobs` associations each.

        Raises `AssociationLost` when there are files left and no association can be had.
        """
        for batch in found:
            self._waiting.extend(batch.files)
            await self._all(batch, jobs)
            self._waiting.extend(self._lost)
            self._lost.clear()
            await self._all(batch, jobs, alone=True)

    async def _all(self, batch: Batch, jobs: int, *, alone: bool = False) -> None:
        """Send what is waiting; `alone`: one after the other, so that it shows what ends an association."""
        while self._waiting:  # also with what came back when others were done
            faults = await together(self._job(batch, alone) for _ in range(min(jobs, len(self._waiting))))
            for fault in faults:
                if fault is not None and self._waiting:
                    raise fault

    async def _job(self, batch: Batch, alone: bool) -> AssociationLost | None:
        """Associate until all files are sent; why that is no use any more, else None."""
        fruitless = 0
        window = 1 if alone else self._window
        while self._waiting:
            before = self._outcome.sent
            try:
                async with self._peer.associate(batch.contexts, operations_window=window) as scu:
                    await together(self._pump(scu, alone) for _ in range(window))
            except (NotConnected, Rejected) as fault:
                return fault
            except AssociationLost as fault:
                fruitless = 0 if self._outcome.sent > before else fruitless + 1
                if fruitless == _FRUITLESS and not alone:
                    return fault
                terminal.say(f"association lost: {fault}", least=1)
        return None

    async def _pump(self, scu: SCU, alone: bool) -> None:
        """Send one file after the other."""
        while self._waiting:
            file = self._waiting.popleft()
            try:
                response = await scu.c_store(Path(file.path))
            except AssociationLost as fault:
                self._again(file, fault, alone)
                raise
            except (OperationFailed, NotAccepted, OSError, ValueError) as fault:
                self._failed(file, fault)
            else:
                self._arrived(file, response.status)

    def _arrived(self, file: Found, code: int) -> None:
        self._outcome.sent += 1
        self._outcome.size += file.size
        if status.category(code) is not status.Category.SUCCESS:
            self._outcome.warnings += 1
            terminal.say(f"{file.path}: sent, and answered with warning {code:04X}H", least=1)
        if self._journal is not None:
            self._journal.add(file)
        self._bar.advance()

    def _again(self, file: Found, fault: AssociationLost, alone: bool) -> None:
        """Try a file once more whose association has ended, which may be its own doing: later, and alone."""
        if not alone:
            self._lost.append(file)
            return
        tries = self._tries[file.path] = self._tries.get(file.path, 0) + 1
        if tries < _TRIES:
            self._waiting.append(file)
        else:
            self._failed(file, fault)

    def _failed(self, file: Found, fault: Exception) -> None:
        self._outcome.failed += 1
        if self._outcome.failed <= _TOLD or terminal.verbosity > 0:
            terminal.say(f"{file.path}: {reason(fault)}")
        elif self._outcome.failed == _TOLD + 1:
            terminal.say("further failures are counted only; -v tells them too")
        self._bar.advance()


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
