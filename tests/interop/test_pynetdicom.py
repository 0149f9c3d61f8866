"""pynetdicom against the server: its programs, and its library with unusual PDU lengths and TLS."""

from __future__ import annotations

import sys
import warnings

import pydicom
from pydicom.dataset import FileDataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from dicomtw import uids
from tests.interop.cases import CasesTestCase
from tests.interop.certificates import client_context
from tests.interop.files import Source, sources, stored_data_set
from tests.interop.peers import run
from tests.interop.twistd import Twistd, environment

#: Some of each kind: uncompressed, compressed, deflated, big endian; one larger than a PDU.
NAMES = (
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "JPEG2000.dcm",
    "image_dfl.dcm",
    "SC_rgb_rle_32bit.dcm",
    "examples_overlay.dcm",
)


def chosen() -> list[Source]:
    """The sources of these names, in their order."""
    by_name = {source.name: source for source in sources()}
    return [by_name[name] for name in NAMES]


class ProgramTests(CasesTestCase):
    def test_echoscu(self) -> None:
        """``python -m pynetdicom echoscu`` is answered."""
        server = Twistd(self)
        peer = run(
            *(sys.executable, "-m", "pynetdicom", "echoscu", "-v", "127.0.0.1", server.port),
            *("-aet", "ROOM1", "-aec", "PMOD"),
            env=environment(PYTHONWARNINGS="ignore"),
        )
        self.assertEqual(peer.returncode, 0, peer.stdout)
        self.assertIn("Received Echo Response (Status: 0x0000 - Success)", peer.stdout)
        (line,) = server.wait_for_summaries(1)
        self.assertIn("'ROOM1' to 'PMOD'", line)
        self.assertIn("1 echoes", line)

    def test_storescu(self) -> None:
        """``python -m pynetdicom storescu`` sends files that need different transfer syntaxes in one go."""
        server = Twistd(self)
        files = chosen()
        peer = run(
            *(sys.executable, "-m", "pynetdicom", "storescu", "-v", "-cx", "127.0.0.1", server.port),
            *(source.path for source in files),
            *("-aet", "ROOM1", "-aec", "PMOD"),
            env=environment(PYTHONWARNINGS="ignore"),
        )
        self.assertEqual(peer.returncode, 0, peer.stdout)
        self.assertEqual(peer.stdout.count("(Status: 0x0000 - Success)"), len(files), peer.stdout)
        self.assertEqual(set(server.objects), {source.sop_instance_uid for source in files})
        (line,) = server.wait_for_summaries(1)
        self.assertIn(f"; {len(files)} objects, ", line)


class LibraryTests(CasesTestCase):
    def _send(self, association: Association, server: Twistd, files: list[Source]) -> None:
        """Store them; what is stored is what pydicom encodes of them."""
        for source in files:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data_set = pydicom.dcmread(source.path)
                status = association.send_c_store(data_set)
                self.assertEqual(status.get("Status"), 0, source.name)
                stored = pydicom.dcmread(server.objects[source.sop_instance_uid])
                self._compare(stored, data_set, source)

    def _compare(self, stored: FileDataset, sent: FileDataset, source: Source) -> None:
        self.assertEqual(stored.file_meta.TransferSyntaxUID, source.transfer_syntax_uid)
        self.assertEqual(stored.get("PixelData"), sent.get("PixelData"))
        self.assertEqual(stored, sent)

    def test_lengths(self) -> None:
        """Whatever PDU length pynetdicom says it takes, no limit and the least of all too, it is served."""
        files = chosen()
        for ours, theirs in ((262144, 0), (262144, 16382), (262144, 64), (4096, 16382), (0, 0)):
            with self.case(ours, theirs):
                server = Twistd(self, f"--max-pdu={ours}")
                requestor = AE(ae_title="ROOM1")
                requestor.maximum_pdu_size = theirs
                contexts = {(source.sop_class_uid, source.transfer_syntax_uid) for source in files}
                requestor.requested_contexts = [
                    build_context(uids.VERIFICATION),
                    *(build_context(*context) for context in sorted(contexts)),
                ]
                association = requestor.associate("127.0.0.1", server.port, ae_title="PMOD")
                self.assertTrue(association.is_established)
                self.assertEqual(association.acceptor.maximum_length, ours)
                self._send(association, server, files)
                self.assertEqual(association.send_c_echo().Status, 0)
                association.release()
                (line,) = server.wait_for_summaries(1)
                self.assertTrue(line.endswith("; released"), line)

    def test_tls(self) -> None:
        """The library's `tls_args`, with the certificate that the server has made for itself."""
        server = Twistd(self, "--tls")
        requestor = AE(ae_title="ROOM1")
        source = chosen()[0]
        requestor.add_requested_context(source.sop_class_uid, source.transfer_syntax_uid)
        context = client_context(server.store / ".state" / "tls" / "cert.pem")
        association = requestor.associate(
            "127.0.0.1", server.port, ae_title="PMOD", tls_args=(context, "localhost")
        )
        self.assertTrue(association.is_established)
        self._send(association, server, [source])
        association.release()
        self.assertEqual(stored_data_set(server.objects[source.sop_instance_uid]), source.data_set)
        (line,) = server.wait_for_summaries(1)
        self.assertIn(" over TLSv1.3 ", line)

    def test_refusals(self) -> None:
        """A rejection, an abort and a failure come to pynetdicom as what they are."""
        server = Twistd(self)
        requestor = AE(ae_title="ROOM1")
        requestor.add_requested_context(uids.VERIFICATION)
        association = requestor.associate("127.0.0.1", server.port, ae_title="OTHER")
        self.assertFalse(association.is_established)
        # On a busy machine pynetdicom takes a rejection now and then for an abort, those of DCMTK's storescp
        # too: it races with its own thread. What was sent is in the server's line.
        if association.is_rejected:
            rejection = association.acceptor.primitive
            assert rejection is not None
            self.assertEqual((rejection.result, rejection.result_source, rejection.diagnostic), (1, 1, 7))
        association = requestor.associate("127.0.0.1", server.port, ae_title="PMOD")
        self.assertEqual(association.send_c_echo().Status, 0)
        association.abort()
        rejected, aborted = server.wait_for_summaries(2)
        self.assertIn("rejected with RJ(1,1,7) called-AE-title-not-recognized", rejected)
        self.assertIn("aborted by the peer", aborted)
