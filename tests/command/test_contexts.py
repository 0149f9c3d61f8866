"""dicomtw.command.contexts: which presentation contexts files need."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from dicomtw import uids
from dicomtw.command.contexts import (
    COMMON_SOP_CLASSES,
    COMPRESSED,
    batches,
    contexts_to_receive,
)
from dicomtw.command.files import Found
from dicomtw.storing import FALLBACK, contexts_of
from tests.command.memory import CT, JPEG, MR

EXPLICIT, IMPLICIT = uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN


def found(kinds: Iterable[tuple[str, str]]) -> list[Found]:
    """Files of these SOP classes and transfer syntaxes."""
    return [Found(f"/{at}", 1, 1, kind[0], f"1.{at}", kind[1]) for at, kind in enumerate(kinds)]


class ContextTests(SynchronousTestCase):
    def test_own_and_fallback(self) -> None:
        """Each transfer syntax has a context of its own, and one has the uncompressed ones that are left."""
        cases = [
            ((JPEG,), [(JPEG,), (EXPLICIT, IMPLICIT)]),
            ((EXPLICIT,), [(EXPLICIT,), (IMPLICIT,)]),
            ((IMPLICIT, JPEG), [(IMPLICIT,), (JPEG,), (EXPLICIT,)]),
            ((IMPLICIT, EXPLICIT), [(IMPLICIT,), (EXPLICIT,)]),
        ]
        for own, expected in cases:
            self.assertEqual(
                contexts_of(CT, own, as_is=False), [(CT, transfer_syntaxes) for transfer_syntaxes in expected]
            )

    def test_as_is(self) -> None:
        """What is to be sent as it is has nothing to fall back on."""
        self.assertEqual(contexts_of(CT, (JPEG,), as_is=True), [(CT, (JPEG,))])


class BatchTests(SynchronousTestCase):
    def test_one(self) -> None:
        """Files that fit go on one association, and each context is proposed once."""
        files = found([(CT, JPEG), (MR, EXPLICIT), (CT, JPEG), (CT, EXPLICIT)])
        (batch,) = batches(files)
        self.assertEqual(
            batch.contexts,
            ((CT, (JPEG,)), (CT, (EXPLICIT,)), (CT, (IMPLICIT,)), (MR, (EXPLICIT,)), (MR, (IMPLICIT,))),
        )
        self.assertCountEqual(batch.files, files)

    def test_several(self) -> None:
        """No association has more than 128 contexts, no file is lost, and SOP classes are not split."""
        kinds = [(f"1.2.{at}", syntax) for at in range(100) for syntax in (JPEG, EXPLICIT)]
        made = batches(found(kinds))
        self.assertEqual([len(batch.contexts) for batch in made], [126, 126, 48])
        self.assertEqual(sum(len(batch.files) for batch in made), 200)
        for batch in made:
            proposed = {sop_class_uid for sop_class_uid, _ in batch.contexts}
            self.assertEqual(proposed, {file.sop_class_uid for file in batch.files})

    def test_none(self) -> None:
        """No files need no association."""
        self.assertEqual(batches([]), [])


class ReceivingTests(SynchronousTestCase):
    def test_few(self) -> None:
        """For a few SOP classes each compressed transfer syntax has a context: all can come as it is."""
        contexts = contexts_to_receive([CT, MR], 127)
        self.assertEqual(len(contexts), 2 * (2 + len(COMPRESSED)))
        self.assertIn((CT, FALLBACK), contexts)
        self.assertIn((MR, (JPEG,)), contexts)

    def test_room(self) -> None:
        """There are never more contexts than there is room for, and every SOP class that fits has one."""
        for number in (1, 3, 10, 40, 63, 64, 100, 127, 200):
            classes = [f"1.2.{at}" for at in range(number)]
            contexts = contexts_to_receive(classes, 127)
            self.assertLessEqual(len(contexts), 127)
            self.assertEqual({uid for uid, _ in contexts}, set(classes[:127]))
            for sop_class_uid in classes[:127]:
                proposed = [syntaxes for uid, syntaxes in contexts if uid == sop_class_uid]
                self.assertIn(FALLBACK, proposed)
                if len(proposed) > 1:
                    compressed = [
                        uid for syntaxes in proposed if syntaxes is not FALLBACK for uid in syntaxes
                    ]
                    self.assertEqual(set(compressed) - {IMPLICIT}, set(COMPRESSED))

    def test_common(self) -> None:
        """What is asked for without better knowledge is known, and leaves room for compressed ones."""
        self.assertEqual([uid for uid in COMMON_SOP_CLASSES if uid not in uids.STORAGE_SOP_CLASSES], [])
        self.assertEqual(len(set(COMMON_SOP_CLASSES)), len(COMMON_SOP_CLASSES))
        self.assertEqual(len(contexts_to_receive(COMMON_SOP_CLASSES, 127)), 2 * len(COMMON_SOP_CLASSES))

    def test_transfer_syntaxes(self) -> None:
        """All that we propose to receive are transfer syntaxes that the store takes."""
        self.assertEqual([uid for uid in (*COMPRESSED, *FALLBACK) if uid not in uids.TRANSFER_SYNTAXES], [])
