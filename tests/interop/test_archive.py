"""The archive as a whole: who may ask it, when what is stored is found, and what its index comes through."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dicomtw import uids
from dicomtw.dimse.messages import C_FIND_RQ, C_GET_RQ, C_MOVE_RQ
from dicomtw.storage.index.attributes import Attributes
from dicomtw.storage.index.database import FILE_NAME, INDEX, Index
from dicomtw.storage.index.rebuild import rebuild
from dicomtw.transcode import encode
from dicomtw.ul.items import RoleSelection, SOPClassExtendedNegotiation
from tests.interop.archive import (
    DCMTK,
    IMPLICIT,
    PEER,
    PYNETDICOM,
    archive,
    associated,
    ct,
    family,
    fill,
    fill_with_files,
    found_by_programs,
    identifier,
    matches,
)
from tests.interop.cases import CasesTestCase
from tests.interop.files import sources
from tests.interop.peers import missing
from tests.interop.processes import children, ignores_sigterm, is_running, processor_time
from tests.interop.scp import Scp
from tests.interop.scu import CT, CT_IMPLICIT, Scu, ct_data_set
from tests.interop.test_crash import KILLS, Ledger
from tests.interop.test_process import NOBODY, is_root
from tests.interop.twistd import TWISTD, Twistd, run_twistd, temporary_directory, wait_until
from tests.storage.index import dump_file

FIND, GET, MOVE = uids.STUDY_ROOT_FIND, uids.STUDY_ROOT_GET, uids.STUDY_ROOT_MOVE

#: Contexts for all that can be asked for.
CONTEXTS = {
    1: (uids.VERIFICATION, IMPLICIT),
    3: (CT, IMPLICIT),
    5: (FIND, IMPLICIT),
    7: (GET, IMPLICIT),
    9: (MOVE, IMPLICIT),
}
ROLES = (RoleSelection(CT, True, True),)
STUDY = encode(identifier("STUDY", StudyInstanceUID="1.2.1.1"), IMPLICIT)


def statuses(server: Twistd, calling: str, number: int = 0) -> dict[str, str]:
    """What each operation is answered to a caller: hexadecimal."""
    with Scu(server.address) as scu:
        scu.associate(CONTEXTS, *ROLES, calling=calling)
        uid = f"1.2.3.{number}"
        answered = {
            "echo": scu.echo(1) or 0,
            "store": scu.store(uid, ct_data_set(uid), context_id=3),
        }
        for name, request, context_id, more in (
            ("find", C_FIND_RQ, 5, {}),
            ("get", C_GET_RQ, 7, {}),
            ("move", C_MOVE_RQ, 9, {"move_destination": "DEST"}),
        ):
            scu.ask(request, STUDY, context_id, **more)
            answered[name] = scu.responses()[-1].status or 0
        scu.release()
    return {name: f"{status:04X}" for name, status in answered.items()}


class AccessTests(CasesTestCase):
    """Who may query and retrieve."""

    def test_strangers(self) -> None:
        """0124H for queries and retrievals of who is no remote; to store and to echo they may, if any may."""
        scp = Scp(self)
        remotes = (f"--remote=DEST@127.0.0.1:{scp.port}", "--accept-any-ae")
        refused = {"echo": "0000", "store": "0000", "find": "0124", "get": "0124", "move": "0124"}
        for options, expected in (([], refused), (["--allow-retrieve=any"], dict.fromkeys(refused, "0000"))):
            with self.case(options):
                server = archive(self, *remotes, *options)
                fill(server, [ct(1)])
                del scp.received[:]
                self.assertEqual(statuses(server, "STRANGER"), expected)
                self.assertEqual(len(scp.received), len(options))
                self.assertEqual(statuses(server, PEER), dict.fromkeys(refused, "0000"))
                self.assertIn("1.2.3.0", server.objects)
                if not options and missing("findscu") is None:
                    for peer in (DCMTK, PYNETDICOM):
                        asked = [("-S", identifier("STUDY", StudyInstanceUID=""))]
                        ((said, found),) = found_by_programs(peer, server, asked, "-aet", "STRANGER")
                        self.assertEqual(found, [])
                        self.assertIn("0x124" if peer is DCMTK else "0x0124", said)

    def test_operations(self) -> None:
        """A remote may ask for the operations configured for it; what it may not ask for has no effect."""
        scp = Scp(self)
        lists = {
            "ALL": ["echo", "store", "find", "get", "move"],
            "SENDER": ["echo", "store"],
            "READER": ["find", "get"],
            "MOVER": ["echo", "move"],
            "NONE": [],
        }
        directory = temporary_directory(self)
        config = directory / "dicom.toml"
        tables = [f'[[remote]]\naet = "{aet}"\noperations = {names}\n' for aet, names in lists.items()]
        tables += [f'[[remote]]\naet = "DEST"\nhost = "127.0.0.1"\nport = {scp.port}\n']
        tables += [f'[[remote]]\naet = "{PEER}"\n']
        config.write_text("\n".join(tables))
        server = configured(self, directory, config)
        fill(server, [ct(1)])
        for number, (aet, allowed) in enumerate(lists.items(), 1):
            with self.case(aet):
                answered = statuses(server, aet, number)
                self.assertEqual(
                    {name for name, status in answered.items() if status == "0000"}, set(allowed)
                )
                self.assertEqual(set(answered.values()) - {"0000"}, {"0124"} if len(allowed) < 5 else set())
                self.assertEqual(f"1.2.3.{number}" in server.objects, "store" in allowed)
        self.assertEqual(len(scp.requests), 2)


def configured(test: CasesTestCase, directory: Path, config: Path, **more: Any) -> Twistd:
    """A server of a configuration file, whose store is in a directory."""
    options = ("--aet=PMOD", "--port=0", "--interface=127.0.0.1", f"--store={directory / 'store'}")
    return Twistd(test, f"--config={config}", *options, directory=directory, **more)


RELATIONAL = SOPClassExtendedNegotiation(FIND, b"\1")


def is_found(server: Twistd, sop_instance_uid: str) -> bool:
    """Whether an object is found."""
    query = encode(identifier("IMAGE", SOPInstanceUID=sop_instance_uid), IMPLICIT)
    with associated(server, FIND, RELATIONAL) as scu:
        *found, final = scu.find(query)
    assert final.status == 0, f"{final.status:04X}"
    return len(found) == 1


def all_found(server: Twistd) -> list[Mapping[str, Any]]:
    """All instances with all that can be said of them."""
    keys = {
        "PatientID": "",
        "PatientName": "",
        "NumberOfPatientRelatedInstances": "",
        "StudyInstanceUID": "",
        "StudyDate": "",
        "ModalitiesInStudy": "",
        "NumberOfStudyRelatedInstances": "",
        "SeriesInstanceUID": "",
        "Modality": "",
        "SOPInstanceUID": "",
        "SOPClassUID": "",
        "Rows": "",
    }
    query = identifier("IMAGE", SpecificCharacterSet="ISO_IR 192", **keys)
    with associated(server, FIND, RELATIONAL) as scu:
        responses = scu.find(encode(query, IMPLICIT))
    assert responses[-1].status == 0, f"{responses[-1].status:04X} {responses[-1].command.error_comment}"
    found = [one.to_json_dict() for one in matches(responses)]
    return sorted(found, key=lambda one: str(one["00080018"]["Value"]))


def fresh_rows(store: Path) -> dict[str, Any]:
    """The rows of an index that is made now, of the files."""
    path = store.parent / "fresh" / INDEX / FILE_NAME
    shutil.rmtree(store.parent / "fresh", ignore_errors=True)
    # A name that was claimed and then not given, for the server was killed, leaves a link that leads nowhere.
    shutil.copytree(store, store.parent / "fresh", symlinks=True, ignore=shutil.ignore_patterns(INDEX))
    index = Index(path, Attributes(), synchronous=False)
    index.open()
    rebuild(store.parent / "fresh", index, lambda done, total: None)
    index.close()
    return dump_file(path)


class FreshnessTests(CasesTestCase):
    def test_found_at_once(self) -> None:
        """As soon as its C-STORE is answered an object is found, strict or relaxed, whoever else stores."""
        for durability in ("strict", "relaxed"):
            server = archive(self, f"--durability={durability}")
            faults: list[BaseException] = []

            def send(sender: int, server: Twistd = server, faults: list[BaseException] = faults) -> None:
                try:
                    self._send(server, sender)
                except BaseException as fault:
                    faults.append(fault)

            threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            with self.case(durability):
                self.assertEqual(faults, [])
                self.assertEqual(len(all_found(server)), 4 * 15)

    def _send(self, server: Twistd, sender: int) -> None:
        with Scu(server.address) as storing, Scu(server.address) as asking:
            storing.associate({1: (CT, IMPLICIT)}, calling=PEER)
            asking.associate({1: (FIND, IMPLICIT)}, RELATIONAL, calling=PEER)
            for number in range(1, 16):
                one = ct(sender, 1, 1, number)
                assert storing.store(one.SOPInstanceUID, encode(one, IMPLICIT)) == 0
                query = identifier(
                    "IMAGE", SOPInstanceUID=one.SOPInstanceUID, NumberOfStudyRelatedInstances=""
                )
                (found,) = matches(asking.find(encode(query, IMPLICIT)))
                assert found.NumberOfStudyRelatedInstances == number, found

    def test_replaced_and_moved(self) -> None:
        """What is found of an object is what came last, in the series that it is in by now."""
        server = archive(self)
        first = [ct(1, 1, 1, 1), ct(1, 1, 1, 2)]
        fill(server, first)
        later = ct(1, 1, 1, 1, SeriesInstanceUID="1.2.1.1.9", PatientName="Newer^Name", SeriesNumber=9)
        fill(server, [later])
        with associated(server, FIND) as scu:
            for series, expected in (("1.2.1.1.1", ["1.2.1.1.1.2"]), ("1.2.1.1.9", ["1.2.1.1.1.1"])):
                query = identifier(
                    "IMAGE", StudyInstanceUID="1.2.1.1", SeriesInstanceUID=series, SOPInstanceUID=""
                )
                found = matches(scu.find(encode(query, IMPLICIT)))
                self.assertEqual([one.SOPInstanceUID for one in found], expected)
            query = identifier("STUDY", StudyInstanceUID="", PatientName="newer*")
            (one,) = matches(scu.find(encode(query, IMPLICIT)))
            self.assertEqual((one.StudyInstanceUID, one.PatientName), ("1.2.1.1", "Newer^Name"))
        server.stop()
        self.assertEqual(dump_file(server.store / INDEX / FILE_NAME), fresh_rows(server.store))

    def test_servers_that_share_a_store(self) -> None:
        """Two servers of one process have one archive: what one has got the other one finds."""
        directory = temporary_directory(self)
        config = directory / "dicom.toml"
        table = f'[[server]]\nstore = "{directory / "store"}"\nport = 0\ninterface = "127.0.0.1"\n'
        config.write_text(f'{table}aet = "ONE"\n{table}aet = "TWO"\n[[remote]]\naet = "{PEER}"\n')
        server = Twistd(self, f"--config={config}", directory=directory)
        one, two = (("127.0.0.1", int(port)) for port in server.listening)
        with Scu(one) as scu:
            scu.associate({1: (CT, IMPLICIT)}, called="ONE", calling=PEER)
            self.assertEqual(scu.store("1.2.1.1.1.1", encode(ct(1), IMPLICIT)), 0)
            scu.release()
        with Scu(two) as scu:
            scu.associate({1: (FIND, IMPLICIT)}, called="TWO", calling=PEER)
            (found,) = matches(scu.find(STUDY))
            self.assertEqual((found.StudyInstanceUID, found.RetrieveAETitle), ("1.2.1.1", "TWO"))
            scu.release()


class RecoveryTests(CasesTestCase):
    """The index is derived: whatever becomes of it, the files say what is there."""

    def test_index_is_lost(self) -> None:
        """Deleted, or damaged, while the server was stopped it is made anew, and says the same."""
        server = archive(self)
        fill(server, family())
        by_uid = {one.sop_instance_uid: one for one in sources()}
        for syntax in sorted({one.transfer_syntax_uid for one in by_uid.values()}):
            fill_with_files(server, [one for one in by_uid.values() if one.transfer_syntax_uid == syntax])
        before = all_found(server)
        self.assertEqual(len(before), 16 + len(by_uid))
        server.stop()
        index = server.store / INDEX / FILE_NAME
        rows = dump_file(index)
        for what, harm in (
            ("deleted", lambda: shutil.rmtree(index.parent)),
            ("rubbish", lambda: index.write_bytes(random.Random(1).randbytes(50_000))),
        ):
            with self.case(what):
                harm()
                server.restart()
                server.wait_for_log("is complete: ")
                self.assertEqual(all_found(server), before)
                server.stop()
                self.assertTrue(dump_file(index) == rows, "the rows are the same")
        self.assertEqual(len(list(index.parent.glob("*.corrupt-*"))), 1)

    def test_damage_inside(self) -> None:
        """Damage that shows only when it is read is answered A700H, and mended while the server runs."""
        server = archive(self)
        fill(server, family())
        before = all_found(server)
        server.stop()
        index = server.store / INDEX / FILE_NAME
        with contextlib.closing(sqlite3.connect(index)) as connection:
            (page,) = connection.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = 'instance'"
            ).fetchone()
            ((size,),) = connection.execute("PRAGMA page_size")
        with open(index, "r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xa5" * size)
        server.restart()
        with associated(server, FIND, RELATIONAL) as scu:
            final = scu.find(encode(identifier("IMAGE", SOPInstanceUID=""), IMPLICIT))[-1]
            self.assertEqual(f"{final.status:04X}", "A700")
            # Who asks next has it made anew, and is refused or told of everything.
            self.assertIn(len(scu.find(encode(identifier("STUDY"), IMPLICIT))), (1, 5))
            server.wait_for_log("is lost: database disk image is malformed")
            server.wait_for_log("is complete: ")
        self.assertEqual(all_found(server), before)
        server.stop()
        server.restart()
        self.assertEqual(all_found(server), before)
        self.assertEqual(server.log.count("is made from the files"), 0)

    def test_another_attribute(self) -> None:
        """An attribute that is indexed from now on is found in what was stored before."""
        directory = temporary_directory(self)
        server = archive(self, directory=directory)
        fill(server, [ct(1, KVP="120"), ct(2, KVP="80"), ct(3)])
        server.stop()
        server = archive(self, "--index-attribute=SERIES:KVP", directory=directory)
        server.wait_for_log("is complete: ")
        with associated(server, FIND, RELATIONAL) as scu:
            query = identifier("SERIES", SeriesInstanceUID="", KVP="120")
            pending, final = scu.find(encode(query, IMPLICIT))
            self.assertEqual((pending.status, final.status), (0xFF00, 0))
            (found,) = matches([pending])
            self.assertEqual((found.SeriesInstanceUID, found.KVP), ("1.2.1.1.1", 120))

    def test_kill(self) -> None:
        """After ``kill -9`` what was acknowledged is found, and the index is what the files make of it."""
        for seed, durability in enumerate(("strict", "relaxed")):
            server = archive(self, "--accept-any-ae", f"--durability={durability}")
            ledger = Ledger()
            for number in range(-(-KILLS // 3)):
                enough = ledger.count + random.Random(number).randint(20, 60)
                self._ingest_and_kill(server, ledger, enough, 10 * number + seed)
                server.restart()
                with self.case(durability, number):
                    found = {one["00080018"]["Value"][0] for one in all_found(server)}
                    self.assertEqual(set(ledger.acknowledged) - found, set())
                    self.assertEqual(found, set(server.objects))
            server.stop()
            with self.case(durability):
                self.assertEqual(dump_file(server.store / INDEX / FILE_NAME), fresh_rows(server.store))

    def _ingest_and_kill(self, server: Twistd, ledger: Ledger, enough: int, seed: int) -> None:
        senders = [
            threading.Thread(target=ledger.ingest, args=(server.address, str(name), seed))
            for name in range(4)
        ]
        for sender in senders:
            sender.start()
        try:
            wait_until(lambda: ledger.count >= enough or ledger.faults, "objects are acknowledged", 60)
        finally:
            server.kill()
            for sender in senders:
                sender.join(30)
        self.assertEqual(ledger.faults, [])


class HelperTests(CasesTestCase):
    """Where much comes in, relaxed, a process of its own enters it."""

    def setUp(self) -> None:
        self.server = archive(self, "--durability=relaxed")
        self.stored: set[str] = set()

    def store_until(self, condition: Callable[[], object]) -> None:
        """Store new objects until that is so."""
        with Scu(self.server.address) as scu:
            scu.associate(CT_IMPLICIT, calling=PEER)
            end = time.monotonic() + 20
            while not condition():
                self.assertLess(time.monotonic(), end)
                for _ in range(100):
                    uid = f"1.2.3.{len(self.stored)}"
                    self.assertEqual(scu.store(uid, ct_data_set(uid)), 0)
                    self.stored.add(uid)
            scu.release()

    def enters(self) -> bool:
        """Whether the process is there, and has objects to enter."""
        return any(
            ignores_sigterm(child) and processor_time(child) > 0.3 for child in children(self.server.pid)
        )

    def assertComplete(self) -> None:
        found = {one["00080018"]["Value"][0] for one in all_found(self.server)}
        self.assertEqual(found, self.stored)
        self.server.wait_until_nothing_comes_in()

    def test_life(self) -> None:
        """It enters what is stored, nobody notices if it is killed, and it ends with the server."""
        self.assertEqual(children(self.server.pid), [], "nothing has come yet")
        self.store_until(self.enters)
        self.assertComplete()
        (child,) = children(self.server.pid)
        os.kill(child, signal.SIGTERM)
        self.store_until(lambda: True)
        stored = len(self.stored)
        self.store_until(lambda: len(self.stored) >= stored + 100)
        self.assertEqual(children(self.server.pid), [child], "its parent says when it ends")
        self.assertComplete()
        os.kill(child, signal.SIGKILL)
        self.store_until(lambda: not children(self.server.pid))
        self.assertComplete()
        self.server.stop()
        self.server.restart()
        self.store_until(self.enters)
        (child,) = children(self.server.pid)
        self.server.stop()
        self.assertFalse(is_running(child))
        rows = dump_file(self.server.store / INDEX / FILE_NAME)
        self.assertEqual(rows, fresh_rows(self.server.store))

    def test_stopped(self) -> None:
        """One that does not answer is not waited for for ever: who asks is told everything."""
        self.store_until(self.enters)
        (child,) = children(self.server.pid)
        os.kill(child, signal.SIGSTOP)
        self.store_until(lambda: True)
        self.assertComplete()
        self.assertEqual(children(self.server.pid), [])
        self.server.stop()

    def test_orphan(self) -> None:
        """When the server is killed it ends, and the next start has everything."""
        self.store_until(self.enters)
        (child,) = children(self.server.pid)
        self.server.kill()
        self.server.restart()
        wait_until(lambda: not is_running(child), "it has ended")
        self.assertComplete()


class FaultyIndexTests(CasesTestCase):
    """S27: an index that does not work: A7xx, or stored and found later; never 0000H and lost."""

    def test_locked(self) -> None:
        """While another process has the index locked: strict refuses, relaxed stores, and finds it later."""
        strict, relaxed = archive(self), archive(self, "--durability=relaxed")
        fill(strict, [ct(1)])
        fill(relaxed, [ct(1)])
        answers: dict[str, int] = {}

        def store(name: str, server: Twistd) -> None:
            with Scu(server.address) as scu:
                scu.associate({1: (CT, IMPLICIT)}, calling=PEER)
                answers[f"{name} store"] = scu.store("1.2.1.1.1.2", encode(ct(1, 1, 1, 2), IMPLICIT))
                scu.release()

        def find(name: str, server: Twistd) -> None:
            with associated(server, FIND, RELATIONAL, timeout=20) as scu:
                one = identifier("IMAGE", SOPInstanceUID="1.2.1.1.1.2")
                *found, final = scu.find(encode(one, IMPLICIT))
                answers[f"{name} find"] = final.status or (0 if found else 0x0112)

        locked = Twistd(self)
        locked.stop()
        with (
            lock(strict.store),
            lock(relaxed.store),
            lock(locked.store),
        ):
            self.assertTrue(is_found(strict, "1.2.1.1.1.1"), "who reads does not wait for who writes")
            store("relaxed", relaxed)
            refused = threading.Thread(target=store, args=("strict", strict))
            found = threading.Thread(target=find, args=("relaxed", relaxed))
            refused.start()
            found.start()
            ended = run_twistd(f"--store={locked.store}", "--aet=PMOD", "--port=0", cwd=locked.directory)
            refused.join(20)
        found.join(20)
        self.assertEqual((answers["relaxed store"], answers["strict store"]), (0, 0xA700))
        self.assertIn(answers["relaxed find"], (0, 0xA700), "nothing is kept back in silence")
        with self.case("at the start"):
            self.assertEqual(ended.returncode, 1)
            self.assertIn("dicom: cannot use the index of the store", ended.stderr)
            self.assertEqual(ended.stderr.count("\n"), 1)
            self.assertNotIn("Traceback", ended.stdout)
        self.assertTrue(is_found(relaxed, "1.2.1.1.1.2"))
        store("again", strict)
        self.assertEqual(answers["again store"], 0)
        for server in (strict, relaxed):
            with self.case(server.store):
                self.assertTrue(is_found(server, "1.2.1.1.1.2"))
                server.stop()
                self.assertEqual(dump_file(server.store / INDEX / FILE_NAME), fresh_rows(server.store))
        strict.restart()
        strict.wait_until_nothing_comes_in()

    def test_no_room(self) -> None:
        """So it is while the index cannot grow; when it can again nothing is missing."""
        for durability in ("strict", "relaxed"):
            with self.case(durability):
                server = archive(self, f"--durability={durability}")
                fill(server, [ct(1)])
                before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (20_000, before[1]))
                answers = {}
                with Scu(server.address) as scu:
                    scu.associate({1: (CT, IMPLICIT), 3: (FIND, IMPLICIT)}, calling=PEER)
                    for number in range(2, 12):
                        one = ct(1, 1, 1, number)
                        answers[str(one.SOPInstanceUID)] = scu.store(
                            str(one.SOPInstanceUID), encode(one, IMPLICIT)
                        )
                    final = scu.find(STUDY, 3)[-1]
                    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
                    expected = {0xA700} if durability == "strict" else {0}
                    self.assertEqual(set(answers.values()), expected)
                    self.assertEqual(final.status, 0 if durability == "strict" else 0xA700)
                    if durability == "strict":
                        uid = "1.2.1.1.1.2"
                        self.assertEqual(scu.store(uid, encode(ct(1, 1, 1, 2), IMPLICIT)), 0)
                    scu.release()
                self.assertIn("1.2.1.1.1.2", {one["00080018"]["Value"][0] for one in all_found(server)})
                if durability == "strict":  # what was refused the next start enters, too
                    server.kill()
                    server.restart()
                found = {one["00080018"]["Value"][0] for one in all_found(server)}
                self.assertEqual(found, set(server.objects))

    def test_read_only(self) -> None:
        """Where the index may not be written the server says so at the start, in one line, and ends."""
        if not is_root():
            self.skipTest("not root")
        directory = temporary_directory(self)
        directory.chmod(0o777)
        command = (*TWISTD, "-n", "--pidfile=", f"--uid={NOBODY}", f"--gid={NOBODY}")
        server = archive(self, command=command, directory=directory)
        fill(server, [ct(1)])
        server.stop()
        index = server.store / INDEX
        for path in (index, *index.iterdir()):
            os.chown(path, 0, 0)
            path.chmod(0o755 if path == index else 0o644)
        ended = run_twistd(
            *("--store=store", "--aet=PMOD", "--port=0"),
            twistd=("-n", "--pidfile=", f"--uid={NOBODY}", f"--gid={NOBODY}"),
            cwd=directory,
        )
        self.assertEqual(ended.returncode, 1, ended.stdout)
        self.assertIn("dicom: cannot use the index of the store", ended.stderr)
        self.assertEqual(ended.stderr.count("\n"), 1)
        for path in (index, *index.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        server.restart()
        fill(server, [ct(1, 1, 1, 2)])


@contextlib.contextmanager
def lock(store: Path) -> Iterator[None]:
    """Have a transaction open that writes to the index of a store."""
    with contextlib.closing(sqlite3.connect(store / INDEX / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
