"""The queue on disk: order, its end after a crash, its limit, and what else can go wrong with files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import dicomtw
from dicomtw.security.audit import queue
from dicomtw.security.audit.queue import Queue, QueueFull

CHECKOUT_DIRECTORY = Path(dicomtw.__file__).parent.parent
RECORDS = [f"message {number}".encode() for number in range(100)]


class QueueTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(os.path.abspath(self.mktemp()))

    def opened(self, cut: int = 0, **more: Any) -> Queue:
        """The queue, as a start finds it."""
        made = Queue(self.directory, **more)
        self.addCleanup(made.close)
        self.assertEqual(made.open(), cut)
        return made

    def taken(self, made: Queue, count: int = 1000) -> list[bytes]:
        """Take what there is, in portions."""
        found: list[bytes] = []
        while (records := made.peek(min(7, count - len(found)), 1 << 20)) and len(found) < count:
            found += records
            made.take(len(records))
        return found

    @property
    def segments(self) -> list[Path]:
        return sorted(self.directory.glob("*.segment"))


class OrderTests(QueueTestCase):
    def test_in_order(self) -> None:
        """What is added first is taken first; nothing is there twice, and peeking takes nothing."""
        made = self.opened()
        self.assertEqual(made.peek(10, 1000), [])
        made.append(RECORDS[:3])
        made.append(RECORDS[3:10])
        self.assertEqual(made.peek(4, 1 << 20), RECORDS[:4])
        self.assertEqual(made.peek(2, 1 << 20), RECORDS[:2])
        made.take(2)
        made.append(RECORDS[10:])
        self.assertEqual(self.taken(made), RECORDS[2:])
        self.assertEqual(made.size, 0)
        made.append(RECORDS[:1])
        self.assertEqual(self.taken(made), RECORDS[:1])

    def test_sizes(self) -> None:
        """A portion is about as long as is asked for, and one record at least."""
        made = self.opened()
        made.append([b"a" * 100] * 10)
        self.assertEqual(len(made.peek(10, 1)), 1)
        self.assertEqual(len(made.peek(10, 100)), 1)
        made.take(1)
        self.assertEqual(len(made.peek(10, 250)), 2)

    def test_restart(self) -> None:
        """A start finds what was not taken, in its order, and files that are all taken are gone."""
        made = self.opened(segment_size=100)
        for record in RECORDS:
            made.append([record])
        self.assertGreater(len(self.segments), 10)
        self.assertEqual(self.taken(made, 37), RECORDS[:37])
        made.close()
        made = self.opened(segment_size=100)
        made.append([b"later"])
        self.assertEqual(self.taken(made), [*RECORDS[37:], b"later"])
        made.close()
        made = self.opened()
        self.assertEqual(self.taken(made), [])
        self.assertLess(len(self.segments), 2)
        made.append([b"even later"])
        self.assertEqual(self.taken(made), [b"even later"])

    def test_any_restarts(self) -> None:
        """Whatever of it is taken between starts, nothing is lost, doubled or out of order."""
        added, taken = iter(RECORDS), list[bytes]()
        for number in range(40):
            made = self.opened(segment_size=50 + number)
            for _ in range(number % 4):
                record = next(added, None)
                if record is not None:
                    made.append([record])
            taken += self.taken(made, number % 3)
            made.close()
        taken += self.taken(self.opened())
        self.assertEqual(taken, RECORDS[: len(taken)])
        self.assertEqual(len(taken), 60)

    def test_one_process(self) -> None:
        """A second process cannot have it, and can when the first has let go."""
        made = self.opened()
        self.assertRaises(BlockingIOError, Queue(self.directory).open)
        made.close()
        self.opened()

    def test_modes(self) -> None:
        """Nobody else can read it."""
        made = self.opened()
        made.append(RECORDS)
        made.take(len(made.peek(1, 1)))
        self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)
        for path in self.directory.iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path.name)


class CrashTests(QueueTestCase):
    def test_unfinished(self) -> None:
        """Wherever an append was cut off, what came before is there, and what comes after follows it."""
        made = self.opened()
        made.append([b"one", b"two", b"three"])
        made.close()
        (path,) = self.segments
        whole = path.read_bytes()
        kept = Path(self.mktemp())
        shutil.copytree(self.directory, kept)
        for length in range(len(whole) - 13, len(whole)):
            for rest in (b"", bytes(40), b"\xff" * 9):
                shutil.rmtree(self.directory)
                shutil.copytree(kept, self.directory)
                path.write_bytes(whole[:length] + rest)
                cut = length - (len(whole) - 13) + len(rest)
                made = self.opened(cut)
                made.append([b"four"])
                self.assertEqual(self.taken(made), [b"one", b"two", b"four"], (length, rest))
                made.close()

    def test_taken_again(self) -> None:
        """Without a word of what was taken, or with a damaged one, it is all taken again."""
        for said in (None, b"", b"x" * 20, bytes(20), b"x" * 30):
            self.directory = Path(self.mktemp())
            made = self.opened()
            made.append(RECORDS)
            self.taken(made, 5)
            made.close()
            if said is None:
                (self.directory / "taken").unlink()
            else:
                (self.directory / "taken").write_bytes(said)
            self.assertEqual(self.taken(self.opened()), RECORDS)

    def test_damaged(self) -> None:
        """Damage in the middle of a file costs what follows in it, and nothing else; how many records that
        are is known, and the file is kept.
        """
        made = self.opened(segment_size=51)
        for record in RECORDS[:9]:
            made.append([record])
        made.close()
        self.assertEqual(len(self.segments), 3)
        whole = {path: path.read_bytes() for path in self.segments}
        for number, at, kept in ((0, 17 + 10, 1), (1, 3, 0), (1, 10, 0), (2, 10, 0), (2, 17, 1), (1, 40, 2)):
            for path, data in whole.items():
                path.write_bytes(data)
            (self.directory / "taken").unlink(missing_ok=True)
            damaged = bytearray(whole[path := [*whole][number]])
            damaged[at] ^= 1
            path.write_bytes(damaged)
            expected = RECORDS[:9]
            del expected[3 * number + kept : 3 * number + 3]
            made = self.opened()
            self.assertEqual(self.taken(made), expected, (number, at))
            self.assertEqual(made.lost, 3 - kept)
            path = path.with_suffix(".damaged")
            self.assertEqual((path.read_bytes(), path.stat().st_mode & 0o777), (damaged, 0o600))
            path.unlink()
            made.close()
            made = self.opened()
            self.assertEqual(made.lost, 0)
            made.close()

    def test_damaged_meanwhile(self) -> None:
        """So it is if that happens while it is open."""
        for number in range(3):
            self.directory = Path(self.mktemp())
            made = self.opened(segment_size=51)
            for record in RECORDS[:9]:
                made.append([record])
            path = self.segments[number]
            damaged = b"\xff" * 17 + path.read_bytes()[17:]
            path.write_bytes(damaged)
            expected = RECORDS[:9]
            del expected[3 * number : 3 * number + 3]
            self.assertEqual(self.taken(made), expected)
            self.assertEqual(made.lost, 3)
            self.assertEqual(path.with_suffix(".damaged").read_bytes(), damaged)
            made.append([b"later"])
            self.assertEqual(self.taken(made), [b"later"])
            made.close()

    def test_damaged_again(self) -> None:
        """Only so many damaged files are kept."""
        for _ in range(queue.MAXIMUM_DAMAGED + 1):
            made = self.opened()
            made.append(RECORDS[:2])
            (path,) = self.segments
            path.write_bytes(b"\xff" * path.stat().st_size)
            self.assertEqual(self.taken(made), [])
            made.append(RECORDS[:1])
            self.assertEqual(self.taken(made), RECORDS[:1])
            made.close()
        self.assertEqual(len([*self.directory.glob("*.damaged")]), queue.MAXIMUM_DAMAGED)

    def test_strange_files(self) -> None:
        """Files of other names do not matter; symbolic links are not followed."""
        made = self.opened()
        made.append(RECORDS[:1])
        made.close()
        (self.directory / "notes.segment").write_bytes(b"?")
        (self.directory / "x").write_bytes(b"?")
        self.assertEqual(self.taken(self.opened()), RECORDS[:1])
        other = Path(self.mktemp())
        other.mkdir()
        (other / ".lock").symlink_to(os.path.abspath(self.directory / "x"))
        self.assertRaises(OSError, Queue(other).open)

    def test_killed(self) -> None:
        """After kill -9 in the middle of its work all that it had added is there, once and in order."""
        script = (
            "import sys; from pathlib import Path; from dicomtw.security.audit.queue import Queue\n"
            "queue = Queue(Path(sys.argv[1]), segment_size=20000); queue.open()\n"
            "for number in range(int(sys.argv[2]), 10**9, 3):\n"
            "    queue.append([str(number + each).encode() * 100 for each in range(3)])\n"
            "    print(number + 2, flush=True)\n"
        )
        taken: list[int] = []
        for _ in range(3):
            command = [sys.executable, "-c", script, str(self.directory), str(len(taken))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CHECKOUT_DIRECTORY) as process:
                assert process.stdout is not None
                said = [int(process.stdout.readline()) for _ in range(50)]
                process.kill()
            made = Queue(self.directory)
            made.open()
            records = [record.decode() for record in self.taken(made)]
            made.close()
            taken += [int(record[: len(record) // 100]) for record in records]
            self.assertGreaterEqual(len(taken), said[-1] + 1)
            self.assertEqual(taken, list(range(len(taken))))


class LimitTests(QueueTestCase):
    def test_full(self) -> None:
        """A full queue keeps what it has and takes nothing until some of it is taken."""
        made = self.opened(maximum=5 * 17, segment_size=1)
        made.append(RECORDS[:5])
        fault = self.assertRaises(QueueFull, made.append, [b"message 5"])
        self.assertIsInstance(fault, OSError)
        self.assertEqual(made.peek(1, 1), RECORDS[:1])
        made.take(1)
        made.append([b"message 5"])
        self.assertRaises(QueueFull, made.append, [b"x"])
        self.assertEqual(self.taken(made), [*RECORDS[1:5], b"message 5"])

    def test_limit(self) -> None:
        """What is taken does not count, whatever is left in its file; a full one is full after a start."""
        made = self.opened(maximum=100, segment_size=1 << 20)
        for _ in range(50):
            made.append([bytes(92)])
            self.assertRaises(QueueFull, made.append, [b"x"])
            self.assertEqual(len(self.taken(made)), 1)
        made.append([bytes(92)])
        made.close()
        made = self.opened(maximum=100)
        self.assertRaises(QueueFull, made.append, [b"x"])

    def test_default_limit(self) -> None:
        """Without another word the limit is 256 MiB."""
        made = self.opened()
        self.patch(Queue, "size", property(lambda _: (256 << 20) - 17))
        made.append([b"message 0"])
        self.patch(Queue, "size", property(lambda _: (256 << 20) - 16))
        self.assertRaises(QueueFull, made.append, [b"message 1"])

    def test_disk_full(self) -> None:
        """An append that fails leaves nothing of itself, and the next one succeeds when there is room."""
        made = self.opened()
        made.append(RECORDS[:2])
        write, room = os.write, 20

        def short(fd: int, data: Any) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(fd, data[:room])
            room -= written
            return written

        self.patch(os, "write", short)
        self.assertRaises(OSError, made.append, RECORDS[2:10])
        room = 1000
        made.append(RECORDS[10:12])
        self.assertEqual(self.taken(made), [*RECORDS[:2], *RECORDS[10:12]])
        made.close()
        self.opened()

    def test_sync_fails(self) -> None:
        """What may not be on stable storage is not there, and nothing is written behind it."""
        made = self.opened()
        made.append(RECORDS[:2])

        def fails(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with_sync = os.fdatasync
        self.patch(os, "fdatasync", fails)
        self.patch(os, "ftruncate", lambda fd, size: fails(fd))
        self.assertRaises(OSError, made.append, RECORDS[2:4])
        self.patch(os, "fdatasync", with_sync)
        made.append(RECORDS[4:6])
        self.assertEqual(len(self.segments), 2)
        self.assertEqual(self.taken(made), [*RECORDS[:2], *RECORDS[4:6]])

    def test_unfinished_again(self) -> None:
        """What has failed is cut off at once: nobody takes it for a message later."""
        made = self.opened()
        made.append(RECORDS[:2])
        size = self.segments[0].stat().st_size

        def fails(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patched = self.patch(os, "fdatasync", fails)
        self.assertRaises(OSError, made.append, RECORDS[2:4])
        patched.restore()
        self.assertEqual(self.segments[0].stat().st_size, size)

    def synced(self) -> list[Path]:
        """The directories that are synced from now on."""
        found: list[Path] = []
        sync = queue._sync_directory
        self.patch(queue, "_sync_directory", lambda path: (found.append(path), sync(path)))
        return found

    def test_directories(self) -> None:
        """What is made is in its directory for good: those above the queue, it itself, and each file."""
        above = Path(os.path.abspath(self.mktemp()))
        above.mkdir()
        self.directory = above / "state" / "audit"
        synced = self.synced()
        made = self.opened(segment_size=1)
        self.assertEqual(synced, [above, above / "state"])
        synced.clear()
        made.append(RECORDS[:1])
        made.append(RECORDS[1:2])
        self.assertEqual(synced, [self.directory] * 2)
        made.close()
        synced.clear()
        self.opened()
        self.assertEqual(synced, [])

    def test_directory_fails(self) -> None:
        """A file that may be gone after a power cut is not written to."""

        def fails(path: Path) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        for count in (0, 1):
            made = self.opened(segment_size=1)
            if count:
                made.append(RECORDS[:1])
            patched = self.patch(queue, "_sync_directory", fails)
            for _ in range(2):
                self.assertRaises(OSError, made.append, RECORDS[1:2])
            self.assertEqual(len(self.segments), count)
            patched.restore()
            made.append(RECORDS[2:3])
            self.assertEqual(self.taken(made), RECORDS[0:3:2][-1 - count :])
            made.close()

    def test_nothing_noted(self) -> None:
        """On a disk that has no room for a note of what is taken, what is taken makes room."""
        made = self.opened(segment_size=51)
        for record in RECORDS[:9]:
            made.append([record])
        open_file = os.open

        def full(path: Any, *given: Any, **more: Any) -> int:
            if Path(path).name == "taken":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return open_file(path, *given, **more)

        patched = self.patch(os, "open", full)
        self.assertEqual(self.taken(made, 4), RECORDS[:4])
        self.assertEqual(len(self.segments), 2)
        self.assertEqual(self.taken(made), RECORDS[4:9])
        self.assertEqual(self.segments, [])
        made.append(RECORDS[9:10])
        patched.restore()
        made.close()
        self.assertEqual(self.taken(self.opened()), RECORDS[9:10])

    def test_nothing_longer(self) -> None:
        """A length that no record has ends a file, and is not believed."""
        made = self.opened()
        made.append(RECORDS[:1])
        made.close()
        with open(self.segments[0], "ab") as file:
            file.write(queue._HEADER.pack(queue.MAXIMUM_RECORD + 1, 0) + b"x")
        self.assertEqual(self.taken(self.opened(cut=9)), RECORDS[:1])
