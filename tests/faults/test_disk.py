"""A disk that fails or is slow under a running server: what peers are told, and what is kept."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.faults import answer, files_in, incoming
from tests.interop.cases import CasesTestCase
from tests.interop.files import stored_data_set
from tests.interop.peers import missing, program
from tests.interop.scu import CT_IMPLICIT, VERIFICATION, Scu, ct_data_set
from tests.interop.strace import injected
from tests.interop.test_crash import indexed
from tests.interop.twistd import TWISTD, Twistd, environment, objects_in, temporary_directory

#: Of pixel data: an object whose file is made when all of it is there, and one whose file is made before.
SMALL, LARGE = SIZES = 1_000, 200_000
EARLIER, NEW = "1.2.3.1", "1.2.3.9"
#: What is answered when there is no room: for the object, or for its row.
FULL = {("A700", "No space left on device"), ("A700", "database or disk is full"), ("A700", "disk I/O error")}


class SystemCallTests(CasesTestCase):
    """System calls that fail, one kind after the other, at one server."""

    #: What fails, in the words of strace; what peer and log are told of why.
    FAULTS = (
        ("writev:error=ENOSPC", "No space left on device"),
        ("writev:error=EDQUOT", "Disk quota exceeded"),
        ("writev:error=EIO", "Input/output error"),
        ("fdatasync:error=EIO", "Input/output error"),
        ("fdatasync:error=ENOSPC", "No space left on device"),
        ("openat:error=EACCES", "Permission denied"),
        ("openat:error=EMFILE", "Too many open files"),
        ("openat:error=EROFS", "Read-only file system"),
        ("/^link(at)?$:error=EIO", "Input/output error"),
        ("/^link(at)?$:error=EROFS", "Read-only file system"),
        ("/^mkdir(at)?$:error=ENOSPC", "No space left on device"),
    )

    def test_before_the_name(self) -> None:
        """What fails before an object has its name is A700H with the cause; nothing has changed."""
        server = Twistd(self)
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store(EARLIER, ct_data_set(EARLIER)), 0)
            for number, (fault, why) in enumerate(self.FAULTS):
                with self.case(fault):
                    before = files_in(server.store)
                    new = {}
                    with injected(server, fault):
                        for size in SIZES:
                            # In a study of its own: its directories are new.
                            uid = f"1.2.4.{number}.{size}"
                            new[uid] = ct_data_set(uid, b"\2" * size, study=uid)
                            self.assertEqual(answer(scu, uid, new[uid]), ("A700", why))
                            if "mkdir" not in fault:
                                other = ct_data_set(EARLIER, b"\2" * size)
                                self.assertEqual(answer(scu, EARLIER, other), ("A700", why))
                    self.assertEqual(files_in(server.store), before)
                    server.wait_until_nothing_comes_in()
                    for uid, data_set in new.items():
                        self.assertEqual(scu.store(uid, data_set), 0, "when it is over")
                        self.assertEqual(stored_data_set(server.objects[uid]), data_set)
            scu.release()
        (line,) = server.wait_for_summaries(1)
        self.assertRegex(line, r"failed: \d+ x A700H")

    def test_name_not_forced_out(self) -> None:
        """If the name cannot be forced out the answer is A700H; a version that was there keeps its name."""
        server = Twistd(self)
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            earlier, new = ct_data_set(EARLIER), ct_data_set(NEW)
            self.assertEqual(scu.store(EARLIER, earlier), 0)
            before = files_in(server.store)
            with injected(server, "fsync:error=EIO"):
                for uid, data_set in ((NEW, new), (EARLIER, ct_data_set(EARLIER, b"another."))):
                    self.assertEqual(answer(scu, uid, data_set), ("A700", "Input/output error"))
            after = files_in(server.store)
            self.assertEqual(after, after | before)
            # It may stay: who else has sent it may have been told that it is there.
            self.assertLessEqual(set(after) - set(before), {f"1.2.3/1.2.3.1/{NEW}.dcm"})
            self.assertEqual(scu.store(NEW, new), 0)
            self.assertEqual(stored_data_set(server.objects[NEW]), new)
            scu.release()

    def test_index(self) -> None:
        """If its row cannot be written or forced out the answer is A700H; sent again it is in."""
        server = Twistd(self)
        log = server.store / ".index" / "index.sqlite3-wal"
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store(EARLIER, ct_data_set(EARLIER)), 0)
            faults = ("fdatasync:error=EIO", "pwrite64:error=ENOSPC", "pwrite64:error=EIO")
            for number, fault in enumerate(faults, 1):
                with self.case(fault):
                    uid = f"1.2.3.2{number}"
                    with injected(server, fault, log):
                        status, comment = answer(scu, uid, ct_data_set(uid))
                    self.assertEqual(status, "A700")
                    self.assertRegex(comment, "^index: (disk I/O error|database or disk is full)$")
                    self.assertEqual(len(incoming(server.store)), number)
                    self.assertEqual(scu.store(uid, ct_data_set(uid)), 0)
                    self.assertEqual(server.log.count("the index fails"), number)
                    self.assertEqual(server.log.count("the index works again"), number)
                    self.assertIn(uid, indexed(server.store) or {})
            scu.release()
        server.kill()
        server.restart()
        self.assertEqual(incoming(server.store), [])
        self.assertEqual(indexed(server.store), server.objects)

    def test_slow(self) -> None:
        """While a disk takes a second over each step of one object others are answered."""
        server = Twistd(self, "--durability=strict")
        large = ct_data_set(NEW, bytes(LARGE))
        with Scu(server.address) as scu, Scu(server.address) as other:
            scu.associate(CT_IMPLICIT)
            other.associate(VERIFICATION)
            self.assertEqual(scu.store(EARLIER, ct_data_set(EARLIER)), 0)
            for fault in ("fdatasync", "fsync", "/^link(at)?$"):
                with self.case(fault), injected(server, f"{fault}:delay_enter=1s"):
                    self.assertLess(max(self._echoes(other, lambda: scu.store(NEW, large))), 0.5)
                server.objects[NEW].unlink()
            scu.release()
            other.release()

    def test_slow_writes(self) -> None:
        """A disk on which every write takes long holds up the others for one write at the most."""
        for durability in ("strict", "relaxed"):
            with self.case(durability):
                server = Twistd(self, f"--durability={durability}")
                with Scu(server.address) as scu, Scu(server.address) as other:
                    scu.associate(CT_IMPLICIT)
                    other.associate(VERIFICATION)
                    with injected(server, "writev:delay_enter=300ms"):
                        large = ct_data_set(NEW, bytes(5 * LARGE))
                        echoes = self._echoes(other, lambda: scu.store(NEW, large))  # noqa: B023
                    self.assertLess(max(echoes), 0.6)
                    self.assertLessEqual(len([taken for taken in echoes if taken > 0.1]), 1)
                    self.assertEqual(stored_data_set(server.objects[NEW]), large)
                    scu.release()
                    other.release()

    def _echoes(self, other: Scu, store: Callable[[], int]) -> list[float]:
        """How long each C-ECHO takes that somebody else asks for while an object is stored."""
        statuses: list[int] = []
        storing = threading.Thread(target=lambda: statuses.append(store()))
        storing.start()
        taken = []
        while storing.is_alive():
            started = time.monotonic()
            self.assertEqual(other.echo(), 0)
            taken.append(time.monotonic() - started)
        self.assertEqual(statuses, [0])
        self.assertGreater(len(taken), 10)
        return taken


def in_mounted(store: Path, mount: str) -> tuple[str, ...]:
    """The beginning of a command that runs the rest of it where something is mounted on `store`."""
    command = (program("unshare"), "-m", "sh", "-c", f'{mount} "{store}" && exec "$@"', "sh")
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode:
        raise SkipTest(f"nothing can be mounted here: {tried.stderr.strip()}")
    return command


class MountTests(CasesTestCase):
    """A file system of the server's own, in a mount namespace that nobody else sees."""

    skip = missing("unshare", "nsenter")

    def started(self, mount: str, *options: str) -> tuple[Twistd, Path]:
        """A server whose store is mounted so; and where we see that store."""
        directory = temporary_directory(self)
        store = directory / "store"
        store.mkdir()
        command = (*in_mounted(store, mount), *TWISTD, "-n", "--pidfile=")
        server = Twistd(self, *options, command=command, directory=directory)
        return server, Path(f"/proc/{server.pid}/root{store}")

    def test_full(self) -> None:
        """A disk that is full is A700H for as long as it is; nothing is lost or half there."""
        server, store = self.started("mount -t tmpfs -o size=3m none")
        stored: dict[str, bytes] = {}
        refused = 0
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            for number in range(60):
                uid = f"1.2.3.{number}"
                content = ct_data_set(uid, bytes([number]) * 100_000)
                status, comment = answer(scu, uid, content)
                if status == "0000":
                    self.assertEqual(refused, 0, "there is room again")
                    stored[uid] = content
                else:
                    self.assertIn((status, comment.removeprefix("index: ")), FULL)
                    refused += 1
            self.assertGreater(min(len(stored), refused), 10)
            for uid in stored:  # no other version either
                self.assertEqual(answer(scu, uid, ct_data_set(uid, bytes(100_000)))[0], "A700")
            self.assertEqual({uid: stored_data_set(path) for uid, path in objects_in(store).items()}, stored)
            for uid in list(stored)[:5]:
                objects_in(store)[uid].unlink()
                del stored[uid]
            for uid in ("1.2.3.59", "1.2.3.58"):
                stored[uid] = ct_data_set(uid, bytes(100_000))
                self.assertEqual(scu.store(uid, stored[uid]), 0, "when there is room")
            self.assertEqual({uid: stored_data_set(path) for uid, path in objects_in(store).items()}, stored)
            scu.release()

    def test_read_only(self) -> None:
        """A store that becomes read-only is A700H until it is written again."""
        server, store = self.started("mount -t tmpfs none")
        place = server.store / ".incoming"
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            self.assertEqual(scu.store(EARLIER, ct_data_set(EARLIER)), 0)
            before = files_in(store)
            self._in_namespace(server, f"mount --bind {place} {place}; mount -o remount,bind,ro {place}")
            for size in SIZES:
                for uid in (NEW, EARLIER):
                    told = answer(scu, uid, ct_data_set(uid, b"\2" * size))
                    self.assertEqual(told, ("A700", "Read-only file system"))
            self.assertEqual(files_in(store), before)
            self._in_namespace(server, f"umount {place}")
            self.assertEqual(scu.store(NEW, ct_data_set(NEW)), 0)
            scu.release()

    def _in_namespace(self, server: Twistd, script: str) -> None:
        enter = [program("nsenter"), "-t", str(server.pid), "-m"]
        subprocess.run([*enter, "sh", "-e", "-c", script], check=True)

    def test_read_only_at_the_start(self) -> None:
        """A server whose store is read-only does not start, and says in one line why."""
        store = temporary_directory(self) / "store"
        store.mkdir()
        command = [*in_mounted(store, "mount -t tmpfs -o ro none"), *TWISTD, "-n", "--pidfile=", "dicom"]
        ended = subprocess.run(
            [*command, "--aet=PMOD", "--port=0", f"--store={store}"],
            cwd=store.parent,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=20,
        )
        self.assertEqual(ended.returncode, 1)
        self.assertEqual(ended.stderr, f"dicom: cannot use the store {store}: Read-only file system\n")
