"""The targets of ``fuzz/``: their corpus replayed, and inputs near it."""

from __future__ import annotations

import random
import time
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomtw.services.verification import Verification
from fuzz import associations as script
from fuzz.targets import TARGETS, corpus
from tests.ul.recorders import modest

#: What one input may take, in seconds of the processor and bytes; the first one of a corpus fills caches.
SECONDS, MEMORY = 2.0, 8 << 20

_CONTEXT_IDS = st.sampled_from([*script.CONTEXTS, 0, 2, 255])
_BYTES = st.integers(0, 255)


def _step(*arguments: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return st.tuples(*arguments).map(bytes)


def _counted(head: st.SearchStrategy[bytes], data: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(head, data).map(lambda both: both[0] + bytes((len(both[1]),)) + both[1])


def _data_sets() -> list[bytes]:
    """Data sets of the corpus that fit into a step of a script, without their first byte."""
    names = "identifier", "data_set"
    return [path.read_bytes()[1:256] for name in names for path in corpus(name)]


def _pdus() -> list[bytes]:
    return [path.read_bytes()[1:256] for path in corpus("framer")]


#: What a peer may do, step by step: right more often than not, so that it gets somewhere.
STEPS = st.one_of(
    _counted(
        _step(
            st.just(script.MESSAGE), _CONTEXT_IDS, _BYTES, st.integers(0, 3), st.sampled_from([0, 0, 0, 1, 2])
        ),
        st.sampled_from(_data_sets()) | st.binary(max_size=20),
    ),
    _counted(
        _step(st.just(script.FRAGMENT), _CONTEXT_IDS, st.integers(0, 3)),
        st.binary(max_size=20),
    ),
    _counted(_step(st.just(script.BYTES)), st.sampled_from(_pdus()) | st.binary(max_size=12)),
    _step(st.just(script.CHUNK)),
    _step(st.just(script.WAIT), _BYTES),
    _step(st.just(script.PAUSE)),
    _step(st.just(script.RELEASE)),
)


class CorpusTests(SynchronousTestCase):
    def test_replay(self) -> None:
        """Each input of each corpus passes, and takes neither long nor much memory."""
        for name, target in TARGETS.items():
            paths = corpus(name)
            self.assertTrue(paths, f"{name} has no corpus")
            target(paths[0].read_bytes())
            for path in paths:
                content = path.read_bytes()
                tracemalloc.start()
                began = time.process_time()
                try:
                    target(content)
                    _, peak = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                self.assertLess(time.process_time() - began, SECONDS, path)
                self.assertLess(peak, MEMORY, path)

    def test_mutated(self) -> None:
        """Inputs of the corpus with bytes changed, removed or put twice pass; the same ones in each run."""
        for name, target in TARGETS.items():
            chance = random.Random(name)
            for path in corpus(name):
                for _ in range(5):
                    target(_mutated(path.read_bytes(), chance))


def _mutated(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        end = at + chance.randint(1, 8)
        match chance.randrange(4):
            case 0:
                changed[at] = chance.choice([0, 1, 0x1B, 0x7F, 0xFE, 0xFF, chance.randrange(256)])
            case 1:
                del changed[at:end]
            case 2:
                changed[at:at] = changed[at:end]
            case _:
                changed[at] ^= 1 << chance.randrange(8)
        changed = changed or bytearray(1)
    return bytes(changed)


class AssociationTests(SynchronousTestCase):
    @modest
    @given(st.integers(0, 15), st.lists(STEPS, max_size=12))
    def test_scripts(self, flags: int, steps: list[bytes]) -> None:
        """Whatever a peer does, it is answered or aborted, nothing is left of it, and others are served."""
        TARGETS["association"](bytes((flags,)) + b"".join(steps))

    def test_sees_bugs(self) -> None:
        """The target fails if a service raises what it should not."""

        async def c_echo(service: object, operation: object) -> int:
            raise ValueError("a bug")

        self.patch(Verification, "c_echo", c_echo)
        self.assertRaises(AssertionError, TARGETS["association"], bytes((script.ESTABLISHED,)))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
