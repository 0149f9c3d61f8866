"""Tables of cases: each is tried, whatever became of those before it, and all that failed are told."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SkipTest, SynchronousTestCase


class CasesTestCase(SynchronousTestCase):
    """A test case whose tests go through tables. (trial knows no `subTest`.)"""

    @contextmanager
    def case(self, *what: object) -> Iterator[None]:
        """One row of a table: its failure is told with `what` it is, when the test has ended."""
        try:
            yield
        except SkipTest:
            raise
        except Exception as error:
            if not hasattr(self, "_failed_cases"):
                self._failed_cases: list[str] = []
                self.addCleanup(self._tell_failed_cases)
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)]
            # The first is the `yield` here, the second the test's.
            self._failed_cases.append(f"{what}: line {lines[1]}: {type(error).__name__}: {error}")

    def _tell_failed_cases(self) -> None:
        raise self.failureException(
            "\n".join([f"{len(self._failed_cases)} cases failed", *self._failed_cases])
        )
