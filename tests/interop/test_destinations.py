"""C-MOVE to DCMTK's storescp over TLS, its certificate verified or not; and to destinations not yet up."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from dicomtw import uids
from dicomtw.dimse.messages import C_CANCEL_RQ, C_MOVE_RQ
from dicomtw.testing import message
from dicomtw.transcode import encode
from dicomtw.ul.pdu import A_ASSOCIATE_RJ
from tests.interop.archive import IMPLICIT, PEER, associated, ct, fill, identifier
from tests.interop.cases import CasesTestCase
from tests.interop.certificates import Authority
from tests.interop.files import stored_data_set
from tests.interop.peers import SCP, missing, storescp
from tests.interop.scp import Manners, Scp
from tests.interop.scu import Message
from tests.interop.twistd import Twistd, temporary_directory

OBJECTS = [ct(1, 1, 1, number) for number in range(1, 5)]
STUDY = encode(identifier("STUDY", StudyInstanceUID="1.2.1.1"), IMPLICIT)
REJECTED_FOR_NOW = A_ASSOCIATE_RJ(2, 3, 2)


def remote(aet: str, port: int, **settings: object) -> str:
    """A [[remote]] table."""
    settings = {"aet": aet, "host": "localhost", "port": port, **settings}
    lines = [f"{key.replace('_', '-')} = {toml(value)}" for key, value in settings.items()]
    return "\n".join(["[[remote]]", *lines, ""])


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | int | float) else f'"{value}"'


def configured(test: CasesTestCase, *remotes: str) -> Twistd:
    """An archive that has some objects, and these remotes besides `PEER`."""
    directory = temporary_directory(test)
    config = directory / "dicom.toml"
    config.write_text("\n".join([*remotes, remote(PEER, 104)]))
    server = archive_of(test, directory, config)
    fill(server, OBJECTS)
    return server


def archive_of(test: CasesTestCase, directory: Path, config: Path) -> Twistd:
    """The server of a configuration, which has its store in a directory."""
    return Twistd(
        test,
        f"--config={config}",
        "--aet=PMOD",
        "--port=0",
        "--interface=127.0.0.1",
        f"--store={directory / 'store'}",
        directory=directory,
    )


def move(server: Twistd, destination: str) -> Message:
    """The last response to a C-MOVE."""
    with associated(server, uids.STUDY_ROOT_MOVE) as scu:
        scu.ask(C_MOVE_RQ, STUDY, move_destination=destination)
        return scu.responses()[-1]


class TLSTests(CasesTestCase):
    skip = missing("storescp")

    def test_tls(self) -> None:
        """Whom the authority of a remote certifies gets everything, others nothing, and a line says why."""
        directory = temporary_directory(self)
        ours, others = Authority(directory, "ours"), Authority(directory, "others")
        good, bad, client = ours.certify("good"), others.certify("bad"), ours.certify("client", 2)
        server_side = storescp(self, "+tls", good[1], good[0], "-ic", "+B")
        wrong = storescp(self, "+tls", bad[1], bad[0], "-ic", "+B")
        mutual = storescp(self, "+tls", good[1], good[0], "-rc", "+cf", ours.pem, "+B")
        plain = storescp(self, "+B")
        server = configured(
            self,
            remote("GOOD", server_side.port, tls=True, tls_ca=ours.pem),
            remote("WRONG", wrong.port, tls=True, tls_ca=ours.pem),
            remote("ELSEWHERE", server_side.port, tls=True, tls_ca=ours.pem, host="127.0.0.1"),
            remote("ANY", wrong.port, tls=True),
            remote("MUTUAL", mutual.port, tls=True, tls_ca=ours.pem, tls_cert=client[0], tls_key=client[1]),
            remote("NOBODY", mutual.port, tls=True, tls_ca=ours.pem),
            remote("PLAIN", plain.port, tls=True, tls_ca=ours.pem),
            remote("NOTLS", server_side.port),
        )
        cases: list[tuple[str, SCP, str]] = [
            # the remote, who it is, what the log says where nothing is sent
            ("GOOD", server_side, ""),
            ("WRONG", wrong, "the certificate is of an issuer who is not among those known"),
            ("ELSEWHERE", server_side, "certificate"),
            ("ANY", wrong, ""),
            ("MUTUAL", mutual, ""),
            ("NOBODY", mutual, "certificate required"),
            ("PLAIN", plain, "does the peer speak TLS?"),
            ("NOTLS", server_side, "connection closed by the peer"),
        ]
        for title, scp, fault in cases:
            with self.case(title):
                for path in scp.directory.glob("CT.*"):
                    path.unlink()
                started = time.monotonic()
                final = move(server, title)
                files = list(scp.directory.glob("CT.*"))
                if not fault:
                    self.assertEqual((final.status, final.counters), (0, (None, 4, 0, 0)))
                    sent = {encode(one, IMPLICIT) for one in OBJECTS}
                    self.assertEqual({stored_data_set(path) for path in files}, sent)
                else:
                    self.assertEqual((final.status, final.counters), (0xA702, (None, 0, 4, 0)))
                    self.assertEqual(files, [])
                    line = server.wait_for_log(f"move destination '{title}'")
                    self.assertEqual(server.log.count(f"move destination '{title}'"), 1)
                    self.assertIn(fault, line)
                self.assertLess(time.monotonic() - started, 5)


class RetryTests(CasesTestCase):
    """Destinations that are tried again."""

    def test_retries(self) -> None:
        """What is not up yet, or busy, is tried again as often as the remote says; what refuses us is not."""
        busy = Scp(self, Manners(rejections=[REJECTED_FOR_NOW] * 2))
        busier = Scp(self, Manners(rejections=[REJECTED_FOR_NOW] * 3))
        refusing = Scp(self, Manners(rejections=[A_ASSOCIATE_RJ(1, 1, 3)]))
        down, late = Scp(self), Scp(self)
        down.stop()
        late.stop()
        often = {"retries": 2, "retry_delay": 0.1}
        server = configured(
            self,
            remote("BUSY", busy.port, **often),
            remote("BUSIER", busier.port, **often),
            remote("REFUSING", refusing.port, **often),
            remote("DOWN", down.port, **often),
            remote("LATE", late.port, retries=50, retry_delay=0.1),
        )
        for title, expected, seconds in (
            ("BUSY", 0, 0.2),
            ("BUSIER", 0xA702, 0.2),
            ("REFUSING", 0xA702, 0),
            ("DOWN", 0xA702, 0.2),
        ):
            with self.case(title):
                started = time.monotonic()
                final = move(server, title)
                taken = time.monotonic() - started
                self.assertEqual(final.status, expected)
                self.assertTrue(seconds <= taken < seconds + 1, taken)
                if expected:
                    self.assertEqual(server.log.count(f"move destination '{title}'"), 1)
        self.assertEqual([len(scp.requests) for scp in (busy, busier, refusing)], [3, 3, 1])
        with self.case("LATE"):
            up: list[Scp] = []
            timer = threading.Timer(0.5, lambda: up.append(Scp(self, port=late.port)))
            timer.start()
            self.assertEqual(move(server, "LATE").status, 0)
            timer.join()
            self.assertEqual(len(up[0].received), 4)
        with self.case("cancelled"), associated(server, uids.STUDY_ROOT_MOVE) as scu:
            up[0].stop()
            scu.ask(C_MOVE_RQ, STUDY, move_destination="LATE", message_id=3)
            time.sleep(0.3)
            started = time.monotonic()
            scu.send(*message(1, C_CANCEL_RQ(message_id_being_responded_to=3)))
            (final,) = scu.responses()
            self.assertLess(time.monotonic() - started, 1)
            self.assertEqual((final.status, final.counters), (0xFE00, (4, 0, 0, 0)))
