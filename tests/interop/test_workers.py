"""``--workers``: several processes that are one server, also when one of them dies, and when they end."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.ul.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ
from tests.interop.certificates import Authority, client_context
from tests.interop.files import stored_data_set
from tests.interop.processes import children, is_running
from tests.interop.scu import CT_IMPLICIT, Closed, Scu, ct_data_set, element, uid_element
from tests.interop.test_crash import Ledger
from tests.interop.twistd import Twistd, run_twistd, temporary_directory, wait_until

FIND = {1: (uids.STUDY_ROOT_FIND, uids.IMPLICIT_VR_LITTLE_ENDIAN)}
STORE_AND_FIND = {**CT_IMPLICIT, 3: FIND[1]}


def images(study: str) -> bytes:
    """The identifier of a query for all objects of a study's first series."""
    return b"".join(
        (
            uid_element(0x00080018, ""),
            element(0x00080052, b"IMAGE "),
            uid_element(0x0020000D, study),
            uid_element(0x0020000E, f"{study}.1"),
        )
    )


def associated(server: Twistd, count: int) -> list[Scu]:
    """So many associations."""
    found = []
    for _ in range(count):
        scu = Scu(server.address)
        assert isinstance(scu.associate(STORE_AND_FIND), A_ASSOCIATE_AC)
        found.append(scu)
    return found


def store_and_release(scus: Iterable[Scu]) -> None:
    """An object on each of these associations, and then its end."""
    for scu in scus:
        status = scu.store("1.2.3.4", ct_data_set("1.2.3.4"))
        assert status == 0, f"{status:04X}"
        scu.release()


def by_worker(lines: Iterable[str]) -> Counter[str]:
    """How many log lines each worker has left."""
    return Counter(found[1] for line in lines if (found := re.match(r"worker (\d)", line)))


class WorkersTests(SynchronousTestCase):
    def started(self, *options: str) -> Twistd:
        return Twistd(self, "--workers=2", "--durability=relaxed", "--allow-retrieve=any", *options)

    def test_shared_out(self) -> None:
        """Associations that come together are shared out; what was done is summed up in the end."""
        server = self.started()
        self.assertEqual(len(children(server.pid)), 2)
        store_and_release(associated(server, 6))
        server.wait_for_summaries(6)
        scus = associated(server, 4)
        for scu in scus:
            scu.release()
        counted = by_worker(server.wait_for_summaries(10)[6:])
        self.assertEqual(set(counted), {"1", "2"}, counted)  # how many each has is the machine's pace, too
        server.stop()
        self.assertIn("all workers have ended: 10 associations, 6 objects, ", server.log)

    def test_limits(self) -> None:
        """Limits are for all of them together, and what one has left another can have."""
        server = self.started("--max-associations=3", "--associations-per-minute-per-host=9")
        scus = associated(server, 3)
        for _ in range(4):
            with Scu(server.address) as scu:
                answer = scu.associate()
                assert isinstance(answer, A_ASSOCIATE_RJ), answer
        scus.pop().release()
        wait_until(lambda: len(server.summaries) == 5, "it has ended")
        scus += associated(server, 1)
        with Scu(server.address) as scu:
            scu.associate()
        with Scu(server.address) as scu:
            scu.associate()
        self.assertIn("has asked more than 9 times a minute", server.wait_for_log("has asked more"))
        for scu in scus:
            scu.release()

    def test_query(self) -> None:
        """A query of one finds what another has acknowledged before."""
        server = self.started()
        one, other = associated(server, 2)
        for number in range(30):
            uid, study = f"1.2.{number}.1", f"1.2.{number}"
            self.assertEqual(one.store(uid, ct_data_set(uid, study=study)), 0)
            *found, final = other.find(images(study), 3)
            self.assertEqual((len(found), final.status), (1, 0), number)
        one.release()
        other.release()
        self.assertEqual(by_worker(server.wait_for_summaries(2)), {"1": 1, "2": 1})

    def test_killed_worker(self) -> None:
        """A worker that is killed under load is replaced, and nothing that it had acknowledged is lost."""
        server, ledger = self.started(), Ledger()
        senders = [
            threading.Thread(target=ledger.ingest, args=(server.address, str(name), 1)) for name in range(4)
        ]
        for sender in senders:
            sender.start()
        for _ in range(2):
            enough = ledger.count + 60
            wait_until(lambda enough=enough: ledger.count >= enough, "objects are acknowledged", 30)  # type: ignore[misc]
            working = sum(map(threading.Thread.is_alive, senders))
            victim = children(server.pid)[0]
            os.kill(victim, signal.SIGKILL)
            server.wait_for_log(f"(process {victim}) ended by signal 9 (SIGKILL); another one is started in")
            wait_until(lambda n=working: sum(map(threading.Thread.is_alive, senders)) < n, "some are cut off")  # type: ignore[misc]
            # What its successor has to make of what it has left is waited for.
            self._check(server, ledger)
            wait_until(lambda: len(children(server.pid)) == 2, "it is replaced")
            associated(server, 1)[0].release()
        self.assertEqual(ledger.faults, [])
        wait_until(lambda: not list((server.store / ".incoming").iterdir()), "nothing is left over")

    def _check(self, server: Twistd, ledger: Ledger) -> None:
        """What is acknowledged by now is found, and is bit by bit what was sent."""
        acknowledged = {uid: digests[-1] for uid, digests in [*ledger.acknowledged.items()] if digests}
        found: set[str] = set()
        with Scu(server.address, timeout=30) as scu:
            scu.associate(STORE_AND_FIND)
            for number in range(1 + max(int(uid.rpartition(".")[2]) for uid in acknowledged) // 10):
                *matches, final = scu.find(images(f"1.2.1.{number}"), 3)
                self.assertEqual(final.status, 0)
                found |= {_uid(match.data_set) for match in matches}
        self.assertEqual(set(acknowledged) - found, set())
        objects = server.objects
        for uid, last in acknowledged.items():
            there = hashlib.sha256(stored_data_set(objects[uid])).hexdigest()
            known = ledger.sent[uid]
            self.assertIn(there, known[known.index(last) :], uid)

    def test_drain(self) -> None:
        """SIGTERM has all of them drain: what is associated goes on, nobody else comes."""
        server = self.started()
        scus = associated(server, 4)
        server.signal(signal.SIGTERM)
        server.wait_for_log("associations to end")
        self.assertRaises(OSError, Scu, server.address)
        store_and_release(scus)
        self.assertEqual(server.wait(), 0)

    def test_all_at_once(self) -> None:
        """SIGTERM to all of them, which are told to end by the first one as well, drains."""
        server = self.started()
        scus = associated(server, 2)
        for pid in (server.pid, *children(server.pid), *children(server.pid)):
            os.kill(pid, signal.SIGTERM)
        server.wait_for_log("associations to end")
        store_and_release(scus)
        self.assertEqual(server.wait(), 0)

    def test_twice(self) -> None:
        """A second SIGTERM ends them at once."""
        server = self.started()
        scus = associated(server, 2)
        server.signal(signal.SIGTERM)
        server.wait_for_log("associations to end")
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(), 0)
        self.assertLess(time.monotonic() - started, 5)
        for scu in scus:
            self.assertRaises((Closed, AssertionError), scu.release)
            scu.close()

    def test_orphans(self) -> None:
        """Whose parent is killed drain and go; till then nobody cleans up what they receive."""
        server = self.started()
        scus, pids = associated(server, 2), children(server.pid)
        server.kill()
        self.assertTrue(all(map(is_running, pids)))
        store_and_release(scus)
        wait_until(lambda: not any(map(is_running, pids)), "they have ended")
        self.assertEqual(server.log.count("1 objects"), 2, "each association has left its line all the same")

    def test_tls(self) -> None:
        """TLS, and a port of any kind: each has all listeners. SIGHUP gets to all."""
        directory = temporary_directory(self)
        authority = Authority(directory)
        cert, key = authority.certify("server")
        place = directory / "socket"
        server = self.started(
            f"--listen=dicomtls:0:interface=127.0.0.1:cert={cert}:key={key}", f"--listen=unix:{place}"
        )
        for _ in range(4):
            with Scu(server.address, tls=client_context(directory / "ca.pem")) as scu:
                scu.associate()
                self.assertEqual(scu.echo(), 0)
                scu.release()
            with Scu(place) as scu:
                scu.associate()
                scu.release()
        self.assertEqual(set(by_worker(server.wait_for_summaries(8))), {"1", "2"})
        server.signal(signal.SIGHUP)
        for number in (1, 2):
            server.wait_for_log(f"worker {number}: unchanged: TLS certificate")
        server.stop()
        self.assertFalse(place.exists())

    def test_audit(self) -> None:
        """All have one audit trail, which says once that the server starts and once that it stops."""
        trail = temporary_directory(self) / "audit.xml"
        server = self.started(f"--audit=file:{trail}")
        for scu in associated(server, 4):
            uid = f"1.2.{scu.socket.getsockname()[1]}"
            self.assertEqual(scu.store(uid, ct_data_set(uid)), 0)
            scu.release()
        os.kill(children(server.pid)[0], signal.SIGTERM)
        server.wait_for_log("ended with exit status 0; another one is started in")
        server.wait_for_log("is started in")
        wait_until(lambda: len(children(server.pid)) == 2, "it is replaced")
        server.stop()
        lines = trail.read_text("utf-8").splitlines()
        started, *others, stopped = (line for line in lines if 'csd-code="110100"' in line)
        self.assertEqual((len(others), "110120" in started, "110121" in stopped), (0, True, True))
        self.assertEqual((lines[0], lines[-1]), (started, stopped))
        self.assertEqual(sum('csd-code="110104"' in line for line in lines), 4)

    def test_no_index(self) -> None:
        """A worker that cannot use the index is tried again, while others serve."""
        server = self.started()
        directory = server.store / ".index"
        away = directory.with_name("away")
        directory.rename(away)
        directory.write_text("no directory")
        victim, other = children(server.pid)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: server.log.count("ended with exit status 75") >= 2, "it tries", 20)
        associated(server, 1)[0].release()
        directory.unlink()
        away.rename(directory)
        wait_until(lambda: self._serving(server) == {"1", "2"}, "it is there again", 20)
        self.assertIn(other, children(server.pid))
        server.stop()

    def _serving(self, server: Twistd) -> set[str]:
        """Which workers have had an association."""
        for scu in associated(server, 4):
            scu.release()
        return set(by_worker(server.summaries))

    def test_never_up(self) -> None:
        """If workers do not come up the server ends with a line."""
        server = self.started()
        directory = server.store / ".incoming"
        directory.rename(directory.with_name("away"))
        directory.write_text("no directory")
        os.kill(children(server.pid)[0], signal.SIGKILL)
        self.assertEqual(server.wait(30), 1)
        self.assertIn("does not come up: it ended with exit status 1", server.stderr)

    def test_check(self) -> None:
        """``--check`` says how many; what is none is one line."""
        ended = run_twistd("--workers=3", "--check", cwd=temporary_directory(self))
        self.assertEqual(ended.returncode, 0)
        self.assertIn("3 processes share what follows\n", ended.stdout)


def _uid(data_set: bytes) -> str:
    """The SOP Instance UID of an identifier, Implicit VR Little Endian."""
    at = data_set.index(b"\x08\0\x18\0")
    length = int.from_bytes(data_set[at + 4 : at + 8], "little")
    return data_set[at + 8 : at + 8 + length].decode("ascii").rstrip("\0")
