"""``benchmarks/``: the arithmetic, the document that is made of figures, and that it is the one in docs."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks import ingest, report
from benchmarks.load import Message, Result
from benchmarks.pairs import add, median, ratios
from benchmarks.targets import TARGETS, against, verdicts
from dicomtw.ul.pdu import LAST, P_DATA_HEADERS


def _results() -> dict[str, Any]:
    """Of two works, of which one has a server that failed."""
    return {
        "machine": {"processors": "2 x Z80"},
        "run": {
            "date": "2026-01-31",
            "rounds": 3,
            "rounds_of_curves": 1,
            "quick": True,
            "load_average": [0.1, 0.2, 0.3],
        },
        "works": {
            "ct-16": {
                "name": "CT",
                "figures": {
                    "dicomtw": {"rate": [900.0, 1100.0, 1000.0], "cpu": [0.5, 0.7, 0.6], "peak_kib": 61440},
                    "storescp": {"rate": [1000.0, 1000.0, 500.0], "cpu": [0.6, 0.6, 0.6]},
                    "pynetdicom": {"failed": "not installed"},
                },
            },
            "get": {
                "name": "C-GET",
                "figures": {
                    "dicomtw": {"rate": [10.0], "ratio": [1.0]},
                    "Orthanc": {"rate": [4.0], "ratio": [2.7]},
                },
            },
        },
        "memory": {"dicomtw": {"rest": 59 * 1024.0, "association": 41.0}},
        "curves": {
            "index": {
                "unit": "instances",
                "x": [1000, 10000],
                "servers": {"dicomtw": {"cpu": [0.3, None], "rate": [10.0, 9.0], "find": [0.9, 1.1]}},
            }
        },
    }


class Arithmetic(SynchronousTestCase):
    def test_ratios_are_of_the_same_round(self) -> None:
        """Ours over theirs, or theirs over ours where less is better; as many as both have."""
        self.assertEqual(ratios([900, 1100], [1000, 1000, 500]), [0.9, 1.1])
        self.assertEqual(ratios([2.0], [3.0], less_is_better=True), [1.5])
        self.assertEqual(ratios([0.0, 2.0], [1.0, 1.0]), [2.0])

    def test_medians(self) -> None:
        """Each round adds four digits of each figure; there is no median of nothing."""
        figures: dict[str, Any] = {}
        for rate in (3.0, 1.0, 2.00004):
            add(figures, {"rate": rate})
        self.assertEqual((median(figures, "rate"), median(figures, "cpu")), (2.0, None))

    def test_percentiles(self) -> None:
        """Of sorted latencies, also of a single one."""
        many = Result(1.0, [at / 1000 for at in range(1, 101)], 0.0)
        self.assertEqual((round(many.percentile_ms(50)), round(many.percentile_ms(99))), (51, 100))
        self.assertEqual(Result(1.0, [0.25], 0.0).percentile_ms(99), 250.0)

    def test_verdicts(self) -> None:
        """The median of the ratios is judged, or the ratio that comes with the figures."""
        ct, get = verdicts(_results())
        self.assertEqual((ct.ratio, ct.spread, ct.ours, ct.theirs), (1.1, (0.9, 2.0), 1000.0, 1000.0))
        self.assertTrue(ct.holds)
        self.assertEqual((get.target.peer, get.ratio, get.holds), ("Orthanc", 2.7, False))

    def test_a_peer_that_failed_is_not_compared(self) -> None:
        """It has no figures."""
        self.assertEqual(against(_results()["works"]["ct-16"]["figures"], "pynetdicom"), [])

    def test_targets_are_of_works_that_there_are(self) -> None:
        """What is not among the works that are sent comes from queries and retrievals."""
        competitors = {work.key: work.competitors for work in ingest.works()}
        for target in TARGETS:
            if target.work not in ("find-many", "find-one", "get", "move"):
                self.assertIn(target.peer, competitors[target.work])


class TheLoad(SynchronousTestCase):
    def _check(self, pixels: int, pdu: int) -> None:
        """The PDUs are whole, the last fragment alone is marked, and no PDU is longer than it may be."""
        stream = b"".join(Message(pixels, pdu).of(7))
        at, controls, size = 0, [], 0
        while at < len(stream):
            kind, length, fragment, _, control = P_DATA_HEADERS.unpack_from(stream, at)
            self.assertEqual((kind, fragment), (0x04, length - 4))
            self.assertLessEqual(length, pdu)
            controls.append(control)
            size += fragment - 2
            at += 6 + length
        self.assertEqual(at, len(stream))
        self.assertEqual(
            [at for at, control in enumerate(controls) if control & LAST], [0, len(controls) - 1]
        )
        self.assertGreater(size, pixels)
        self.assertLess(size, pixels + 1000)

    def test_messages_of_all_sizes(self) -> None:
        """One PDU, one that is full, some, and so many that blocks are repeated."""
        for pixels in (100, 16378, 32756, 524288, 3 << 20):
            self._check(pixels, 16384)
        self._check(5 << 20, 131072)

    def test_each_object_has_a_uid_of_its_own(self) -> None:
        """In the command and in the data set, and they share the rest."""
        message = Message(524288, 16384)
        one, other = message.of(1), message.of(2)
        self.assertNotEqual(one[0], other[0])
        self.assertTrue(all(a is b for a, b in zip(one[1:], other[1:], strict=True)))


class TheDocument(SynchronousTestCase):
    def test_a_table(self) -> None:
        """Columns of numbers are to the right."""
        self.assertEqual(
            report.table(("a", "b"), [("x", "1.5"), ("y", "")]),
            "| a | b |\n| --- | ---: |\n| x | 1.5 |\n| y |  |",
        )

    def test_numbers(self) -> None:
        """Three digits or so, and nothing for what was not measured."""
        self.assertEqual(
            [report.number(value) for value in (1234.5, 56.78, 5.678, 0.1234, 0.01234, 0, None)],
            ["1234", "56.8", "5.68", "0.12", "0.0123", "0", ""],
        )

    def test_all_is_in_it(self) -> None:
        """Machine, verdicts, what failed, memory beside its limits, the curves that there are."""
        text = report.render(_results(), report.TEMPLATE.read_text())
        for expected in (
            "| processors | 2 x Z80 |",
            "Quick: too few",
            "| CT | 1000/s | storescp | 1000/s | 1.10 (0.90-2.00) | 1 | holds |",
            "| C-GET | 10.0/s | Orthanc | 4.00/s | 2.70 | 3 | **falls short** |",
            "| dicomtw | 1000 |  | 0.60 |  |  | 60.0 |  |",
            "pynetdicom: not installed.",
            "| memory at rest | 59.0 MiB |  |  |  | at most 60.0 MiB | holds |",
            "waits | 41.0 KiB |  |  |  | at most 40.0 KiB | **falls short** |",
            "| 10,000 |  | 9.00 | 1.10 |",
            "not measured",
        ):
            self.assertIn(expected, text)

    def test_it_is_the_one_in_docs(self) -> None:
        """docs/performance.md is what is made of docs/performance.json: neither is edited by hand."""
        if not report.FIGURES.exists():
            raise SkipTest("nothing has been measured: no docs/performance.json")
        results = json.loads(report.FIGURES.read_text())
        self.assertEqual(
            report.FIGURES.with_suffix(".md").read_text(), report.render(results, report.TEMPLATE.read_text())
        )
