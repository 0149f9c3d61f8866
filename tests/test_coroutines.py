"""Coroutines are begun without a Deferred, and go on with one."""

from __future__ import annotations

import gc

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.coroutines import begin


class BeginTests(SynchronousTestCase):
    def test_over_at_once(self) -> None:
        """What waits for nothing, or for what is there already, has no Deferred."""
        done = []

        async def work() -> None:
            done.append(await succeed(1))

        self.assertIsNone(begin(work()))
        self.assertEqual(done, [1])

    def test_raises_at_once(self) -> None:
        async def work() -> None:
            raise KeyError("x")

        self.assertRaises(KeyError, begin, work())

    def test_goes_on(self) -> None:
        """Each thing that it waits for is given to it, faults too."""
        first: Deferred[str] = Deferred()
        second: Deferred[str] = Deferred()
        seen: list[object] = []

        async def work() -> None:
            seen.append(await first)
            try:
                await second
            except KeyError as error:
                seen.append(error)

        begun = begin(work())
        assert begun is not None
        self.assertNoResult(begun)
        first.callback("one")
        self.assertNoResult(begun)
        fault = KeyError("two")
        second.errback(fault)
        self.assertIsNone(self.successResultOf(begun))
        self.assertEqual(seen, ["one", fault])

    def test_fails_later(self) -> None:
        waited: Deferred[None] = Deferred()

        async def work() -> None:
            await waited
            raise KeyError("x")

        begun = begin(work())
        assert begun is not None
        waited.callback(None)
        self.failureResultOf(begun, KeyError)

    def test_abandoned(self) -> None:
        """What nobody can wait for any more is closed."""
        closed = []

        async def work() -> None:
            try:
                await Deferred()
            finally:
                closed.append(True)

        begun = begin(work())
        del begun
        gc.collect()
        self.assertEqual(closed, [True])

    def test_cancelled(self) -> None:
        """What it waits for is cancelled, and it may clean up, for as long as that takes."""
        waited: Deferred[None] = Deferred()
        cleaned: Deferred[None] = Deferred()

        async def work() -> None:
            try:
                await waited
            except CancelledError:
                await cleaned

        begun = begin(work())
        assert begun is not None
        begun.cancel()
        self.assertTrue(waited.called)
        self.assertNoResult(begun)
        cleaned.callback(None)
        self.assertIsNone(self.successResultOf(begun))
