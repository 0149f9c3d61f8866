"""The running server and its audit trail: begun, ended, and what keeps it from starting."""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

from dicomtw import auditing
from dicomtw.config import Configuration
from dicomtw.security.audit.queue import Queue
from dicomtw.trail import SILENT
from dicomtw.words import describe, warnings_of
from tests.security.audit.schema import faults_of
from tests.test_auditing import NoThread
from tests.test_service import ServiceTestCase


class AuditTests(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(auditing, "DiskThread", NoThread)
        self.file = self.here / "audit.xml"

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"audit": f"file:{self.file}", **more}

    @property
    def sources(self) -> list[str]:
        """The servers that the messages are of."""
        lines = self.file.read_text("utf-8").splitlines()
        self.assertEqual([fault for line in lines for fault in faults_of(line)], [])
        return [line.partition('AuditSourceID="')[2].partition('"')[0] for line in lines]

    def given_up(self, **settings: Any) -> str:
        """The line of a server that does not start."""
        made = self.made(self.server(**settings))
        self.assertRaises(
            SystemExit, made.privilegedStartService if "audit_ca" in settings else made.startService
        )
        (line,) = self.err.getvalue().splitlines()
        return line

    def test_start_and_stop(self) -> None:
        """Servers that share a state directory share the trail, and each says that it starts and stops."""
        state = self.here / "state"
        servers = [
            self.server(aet=aet, port=port, state_dir=state, **self.settings())
            for aet, port in (("ONE", 4030), ("OTHER", 4031))
        ]
        made = self.started(*servers)
        self.assertEqual(self.sources, ["ONE", "OTHER"])
        self.stop(made)
        self.assertEqual(self.sources, ["ONE", "OTHER", "ONE", "OTHER"])
        self.assertEqual([path.name for path in (state / "audit").glob("*.segment")], [])

    def test_own_directories(self) -> None:
        """Others have each their own."""
        servers = [
            self.server(aet=aet, port=port, store=str(self.here / aet), **self.settings())
            for aet, port in (("ONE", 4030), ("OTHER", 4031))
        ]
        self.started(*servers)
        for aet in ("ONE", "OTHER"):
            self.assertTrue((self.here / aet / ".state" / "audit").is_dir())

    def test_none(self) -> None:
        """Without --audit nothing of it is there."""
        made = self.started()
        self.assertIs(made.factories[0].entity.audit, SILENT)
        self.assertFalse((self.store / ".state").exists())

    def test_not_imported(self) -> None:
        """Nor is it imported."""
        with patch.dict(sys.modules, {"dicomtw.auditing": None}):
            self.made(self.server())
            self.assertRaises(ImportError, self.made, self.server(**self.settings()))

    def test_another_process(self) -> None:
        """A queue that another process has is a line, and no start."""
        directory = self.store / ".state" / "audit"
        other = Queue(directory)
        other.open()
        self.addCleanup(other.close)
        self.assertEqual(
            self.given_up(**self.settings()), f"dicom: another process has the audit queue in {directory}"
        )

    def test_no_directory(self) -> None:
        """So is a directory that cannot be made."""
        (self.here / "state").write_text("a file")
        said = self.given_up(**self.settings(state_dir=self.here / "state"))
        self.assertIn(f"cannot use the audit queue in {self.here / 'state' / 'audit'}: ", said)

    def test_files(self) -> None:
        """So is a certificate that is not there, before a port is opened."""
        said = self.given_up(audit="tls:log.example", audit_ca=self.here / "nowhere.pem")
        self.assertEqual(said, f"dicom: --audit-ca {self.here}/nowhere.pem: No such file or directory")
        self.assertEqual(self.reactor.tcpServers, [])

    def test_words(self) -> None:
        """What is written where is said at the start; UDP has a warning."""
        server = self.server(audit="udp:log", audit_required=True)
        configuration = Configuration(servers=(server,))
        expected = f"audit messages go to udp:log:514, and wait in {self.store}/.state"
        expected += ", without which nobody associates"
        self.assertIn(expected, describe(server, configuration))
        self.assertTrue(any("tls: is better" in line for line in warnings_of(server, configuration)))
        server = self.server(audit="tls:log")
        self.assertIn(
            f"audit messages go to tls:log:6514, and wait in {self.store}/.state",
            describe(server, configuration),
        )
        self.assertFalse(any("tls: is better" in line for line in warnings_of(server, configuration)))
