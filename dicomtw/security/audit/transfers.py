"""What an association transfers, gathered by study: one audit message for many objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator

import attrs

from dicomtw.security.audit.events import MAXIMUM_SOP_CLASSES, Study

#: Studies of which something is gathered at a time; one more, and the oldest is told of.
MAXIMUM_STUDIES = 64
#: A study that is still being sent is told of after so long, in seconds: a crash costs no more than that.
LONGEST = 300.0


@attrs.define
class Gathered:
    """Instances of one study, by SOP class UID."""

    study: Study
    since: float
    instances: Counter[str] = attrs.field(factory=Counter)


class Transfers:
    """Gathers instances until they are told of. Times are in seconds."""

    def __init__(self) -> None:
        self._gathered: dict[Hashable, Gathered] = {}

    def add(
        self, key: Hashable, study: Callable[[], Study], sop_class_uid: str, now: float
    ) -> Gathered | None:
        """One more instance, of the study that `key` stands for; returns what is to be told of now."""
        gathered = self._gathered.get(key)
        if gathered is None:
            due = self._pop_oldest() if len(self._gathered) >= MAXIMUM_STUDIES else None
            self._gathered[key] = Gathered(study(), now, Counter((sop_class_uid,)))
            return due
        instances = gathered.instances
        if now - gathered.since >= LONGEST or (
            sop_class_uid not in instances and len(instances) >= MAXIMUM_SOP_CLASSES
        ):
            self._gathered[key] = Gathered(gathered.study, now, Counter((sop_class_uid,)))
            return gathered
        instances[sop_class_uid] += 1
        return None

    def _pop_oldest(self) -> Gathered:
        return self._gathered.pop(next(iter(self._gathered)))

    def take(self) -> Iterator[Gathered]:
        """All that is gathered, which is then told of."""
        while self._gathered:
            yield self._pop_oldest()
