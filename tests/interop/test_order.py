"""The order of system calls behind an acknowledgement: no 0000H before all of it is on stable storage."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.scu import CT_IMPLICIT, Address, Scu, ct_data_set
from tests.interop.strace import Call, traced
from tests.interop.twistd import Twistd

#: Those with a question mark not every machine has.
CALLS = "writev,pwrite64,fdatasync,fsync,?link,?linkat,?unlink,?unlinkat,sendto"
SENDERS, OBJECTS = 4, 5


def uid_of(sender: int, number: int) -> str:
    """None of these begins another."""
    return f"1.2.3.{sender + 1}.{number + 100}"


class OrderTests(SynchronousTestCase):
    def test_strict(self) -> None:
        """Strict: content, name and row of an object are forced out, one after the other; then it is told."""
        server = Twistd(self)
        with Scu(server.address) as scu:  # so that the threads are there
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store("1.2.3.4", ct_data_set("1.2.3.4")), 0)
            scu.release()
        statuses: list[int] = []
        with traced(server, CALLS) as calls:
            senders = [
                threading.Thread(target=self._send, args=(server.address, sender, statuses))
                for sender in range(SENDERS)
            ]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join(60)
        self.assertEqual(statuses, [0] * SENDERS * OBJECTS)
        self.assertGreater(len(calls), 100)
        for sender in range(SENDERS):
            for number in range(OBJECTS):
                self._check(calls, server.objects[uid_of(sender, number)], uid_of(sender, number))

    def _send(self, address: Address, sender: int, statuses: list[int]) -> None:
        with Scu(address) as scu:
            scu.associate(CT_IMPLICIT)
            for number in range(OBJECTS):
                uid = uid_of(sender, number)
                data_set = ct_data_set(uid, b"\1" * (1000, 100_000)[number % 2], study=f"1.2.3.{sender + 1}")
                statuses.append(scu.store(uid, data_set))
            scu.release()

    def _check(self, calls: list[Call], path: Path, uid: str) -> None:
        name, instance = str(path).encode(), uid.encode()
        (link,) = (call for call in calls if call.name.startswith("link") and call.strings[1] == name)
        temporary = link.strings[0]
        of_the_file = [call for call in calls if call.path == temporary.decode()]
        *written, synced = sorted(of_the_file, key=lambda call: call.start)
        self.assertEqual({call.name for call in written}, {"writev"}, uid)
        self.assertEqual(synced.name, "fdatasync", uid)
        self.assert_in_order([max(written, key=lambda call: call.end), synced, link], uid)

        def first(after: Call, name: str, path: Path, content: bytes = b"") -> Call:
            return next(
                call
                for call in calls
                if (call.name, call.path) == (name, str(path))
                and call.start >= after.end
                and (not content or any(content in string for string in call.strings))
            )

        log = path.parents[2] / ".index" / "index.sqlite3-wal"
        name_synced = first(link, "fsync", path.parent)
        row = first(name_synced, "pwrite64", log, instance)
        row_synced = first(row, "fdatasync", log)
        (note_removed,) = (
            call for call in calls if call.name.startswith("unlink") and call.strings[0] == temporary
        )
        (answered,) = (
            call
            for call in calls
            if call.name == "sendto"
            and any(string[:1] == b"\4" and instance in string for string in call.strings)
        )
        self.assert_in_order([link, name_synced, row, row_synced, note_removed], uid)
        self.assert_in_order([row_synced, answered], uid)

    def assert_in_order(self, calls: list[Call], uid: str) -> None:
        """Each is over before the next begins."""
        for one, other in pairwise(calls):
            self.assertLessEqual(one.end, other.start, f"{uid}: {other} before {one} was over")
