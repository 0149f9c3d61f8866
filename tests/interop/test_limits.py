"""A real server at its limits: descriptors, connections, space and sizes; it lives and answers afterwards."""

from __future__ import annotations

import contextlib
import resource
import socket
import time

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.testing import message
from dicomtw.ul.pdu import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ
from tests.interop.processes import processor_time
from tests.interop.scu import CT_IMPLICIT, VERIFICATION, Closed, Scu, c_store_rq, ct_data_set
from tests.interop.twistd import Twistd, wait_until

MIB = 1 << 20


def descriptors(number: int) -> None:
    """In the child, before it becomes the server."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


class DescriptorTests(SynchronousTestCase):
    def test_too_many_connections(self) -> None:
        """With 64 descriptors, 200 connections cost no processor time, no tracebacks and no life."""
        server = Twistd(self, preexec_fn=lambda: descriptors(64))
        self.assertIn("64 file descriptors (ulimit -n) are too few: PMOD has", server.log)
        at_rest = server.fds
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                connection = stack.enter_context(socket.create_connection(server.address, 10))
                connection.sendall(b"\1\0")
            wait_until(lambda: server.fds < 64, "descriptors are left")
            time.sleep(0.2)
            before = processor_time(server.pid)
            time.sleep(1)
            self.assertLess(processor_time(server.pid) - before, 0.3)
            with Scu(server.address) as scu:
                scu.associate(CT_IMPLICIT)
                self.assertEqual(scu.store("1.2.3.64", ct_data_set("1.2.3.64")), 0)
                scu.release()
        wait_until(lambda: server.fds <= at_rest + 3, "all descriptors are given back")
        with Scu(server.address) as scu:
            scu.associate(VERIFICATION)
            self.assertEqual(scu.echo(), 0)
            scu.release()

    def test_all_descriptors_are_gone(self) -> None:
        """Without any, what cannot be accepted is closed at no cost, and when there are some all is well."""
        server = Twistd(self)
        number = server.fds + 10
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (number, number))
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection(server.address, 10))
            wait_until(lambda: server.fds >= number - 1, "all descriptors are in use")
            time.sleep(0.5)
            before = processor_time(server.pid)
            time.sleep(1)
            self.assertLess(processor_time(server.pid) - before, 0.3)
        wait_until(lambda: server.fds < number - 5, "descriptors are given back")
        with Scu(server.address) as scu:
            scu.associate(VERIFICATION)
            self.assertEqual(scu.echo(), 0)
            scu.release()

    def test_associations_take_no_more_than_there_are(self) -> None:
        """With 64 descriptors every association that is accepted can store, all at the same time."""
        server = Twistd(self, preexec_fn=lambda: descriptors(64))
        with contextlib.ExitStack() as stack:
            accepted = []
            for _ in range(30):
                scu = stack.enter_context(Scu(server.address))
                with contextlib.suppress(Closed):
                    if isinstance(scu.associate(CT_IMPLICIT), A_ASSOCIATE_AC):
                        accepted.append(scu)
            self.assertGreater(len(accepted), 2)
            parts = []
            for number, scu in enumerate(accepted):
                uid = f"1.2.3.{number}"
                pdus = message(1, c_store_rq(uid), ct_data_set(uid, bytes(300_000)))
                scu.send(*pdus[:15])  # so much that it has a file
                parts.append(pdus[15:])
            wait_until(lambda: len(list((server.store / ".incoming").iterdir())) == len(accepted), "files")
            for scu, pdus in zip(accepted, parts, strict=True):
                scu.send(*pdus)
            for scu in accepted:
                self.assertEqual(getattr(scu.receive(), "status", None), 0)
                scu.release()


class ConnectionTests(SynchronousTestCase):
    def test_one_host(self) -> None:
        """Silent connections of one host cost that host its oldest, while others keep theirs."""
        server = Twistd(self, "--max-connections=20", "--max-connections-per-host=5")
        with contextlib.ExitStack() as stack:
            other = stack.enter_context(socket.create_connection(server.address, 10, ("127.0.0.2", 0)))
            silent = [stack.enter_context(socket.create_connection(server.address, 10)) for _ in range(8)]
            server.wait_for_summaries(3)
            for number, connection in enumerate(silent):
                connection.settimeout(5 if number < 3 else 0.05)
                if number < 3:
                    self.assertEqual(connection.recv(1), b"", number)
                else:
                    self.assertRaises(TimeoutError, connection.recv, 1)
            other.settimeout(0.05)
            self.assertRaises(TimeoutError, other.recv, 1)

    def test_associations_of_one_host(self) -> None:
        """One association more than a host may have is RJ(2,3,2), and another host has its own."""
        server = Twistd(self, "--max-associations-per-host=1")
        with Scu(server.address) as first, Scu(server.address) as second:
            first.associate(VERIFICATION)
            self.assertEqual(second.associate(VERIFICATION), A_ASSOCIATE_RJ(2, 3, 2))
            self.assertEqual(first.echo(), 0)


class StoreTests(SynchronousTestCase):
    def test_object_size(self) -> None:
        """An object past the limit is A700H and leaves no file; the association goes on, up to twice that."""
        server = Twistd(self, "--max-object-size=1")
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            small = ct_data_set("1.2.3.1")
            self.assertEqual(scu.store("1.2.3.1", small), 0)
            self.assertEqual(scu.store("1.2.3.2", ct_data_set("1.2.3.2", bytes(MIB + 1000))), 0xA700)
            server.wait_until_nothing_comes_in()
            self.assertEqual(scu.store("1.2.3.3", ct_data_set("1.2.3.3")), 0)
            with contextlib.suppress(ConnectionError):
                scu.send(*message(1, c_store_rq("1.2.3.4"), ct_data_set("1.2.3.4", bytes(4 * MIB))))
                self.assertEqual(scu.receive(), A_ABORT(2, 0))
        self.assertIn("a data set of more than 2097152 bytes", server.wait_for_summaries(1)[0])
        self.assertEqual(sorted(server.objects), ["1.2.3.1", "1.2.3.3"])

    def test_free_space(self) -> None:
        """With less space than is to be free objects are A700H, and the log says so once."""
        server = Twistd(self, f"--min-free-space={1 << 30}")
        with Scu(server.address) as scu:
            scu.associate(CT_IMPLICIT)
            for number in range(3):
                uid = f"1.2.3.{number}"
                self.assertEqual(scu.store(uid, ct_data_set(uid)), 0xA700)
            scu.release()
        self.assertEqual(server.log.count("objects are refused: of the store"), 1)
        self.assertEqual(server.objects, {})
