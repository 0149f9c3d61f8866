"""What C-MOVE and C-GET ask for (PS3.4 C.4.2.1.4): which instances, and what has to be known to send them."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Final

import attrs

from dicomtw.dimse import status
from dicomtw.errors import DimseError
from dicomtw.services import FALLBACK
from dicomtw.services.identifier import Identifier
from dicomtw.storage.content import Content
from dicomtw.storage.index.attributes import LEVELS, UNIQUE_KEYS
from dicomtw.storage.index.contents import contents_of, kinds_of
from dicomtw.storage.index.cursor import Cursor
from dicomtw.storage.index.matching import KeyValue
from dicomtw.ul.pdu import MAXIMUM_CONTEXTS

#: A SOP class, and a transfer syntax that instances of it are stored in.
Kind = tuple[str, str]

#: Of each level from the top: Patient ID, Study, Series and SOP Instance UID.
_UNIQUE_TAGS: Final = (0x00100020, 0x0020000D, 0x0020000E, 0x00080018)


@attrs.frozen
class Group:
    """Instances to be sent on one association."""

    kinds: set[Kind] = attrs.field(factory=set)
    ids: array[int] = attrs.field(factory=lambda: array("q"))

    def has_room(self, kind: Kind) -> bool:
        """Whether there is a presentation context for `kind`, or room for one and one to fall back on."""
        if kind in self.kinds:
            return True
        classes = {sop_class_uid for sop_class_uid, _ in self.kinds} | {kind[0]}
        return len(self.kinds) + 1 + len(classes) <= MAXIMUM_CONTEXTS

    def contexts(self) -> list[tuple[str, tuple[str, ...]]]:
        """What is proposed: each transfer syntax as stored, then for each class what can be made of it."""
        classes = sorted({sop_class_uid for sop_class_uid, _ in self.kinds})
        return [
            *((sop_class_uid, (transfer_syntax,)) for sop_class_uid, transfer_syntax in sorted(self.kinds)),
            *((sop_class_uid, FALLBACK) for sop_class_uid in classes),
        ]


@attrs.frozen
class Selection:
    """What one request asks for."""

    ids: array[int]
    #: The same in as few groups as there have to be associations, one as a rule; if anybody asked for that.
    groups: list[Group] = attrs.field(factory=list)
    #: For the audit trail, if one is kept.
    contents: list[Content] = attrs.field(factory=list)


def select(cursor: Cursor, *, in_groups: bool, is_audited: bool) -> Selection:
    """What a query selects. Raises as `Cursor.fetch`."""
    ids = cursor.instances()
    if not ids or not (in_groups or is_audited):
        return Selection(ids)
    there, groups = array("q"), list[Group]()
    counts: Counter[tuple[int, str]] = Counter()
    for instance, study, sop_class_uid, transfer_syntax_uid in kinds_of(cursor, ids):
        there.append(instance)
        if in_groups:
            _add(groups, instance, (sop_class_uid, transfer_syntax_uid))
        if is_audited:
            counts[study, sop_class_uid] += 1
    return Selection(there, groups, contents_of(cursor, counts) if is_audited else [])


def _add(groups: list[Group], instance: int, kind: Kind) -> None:
    group = next((group for group in groups if group.has_room(kind)), None)
    if group is None:
        group = Group()
        groups.append(group)
    group.kinds.add(kind)
    group.ids.append(instance)


def checked_keys(identifier: Identifier) -> dict[int, KeyValue]:
    """The keys that name what is to be retrieved: those of other attributes have no say (PS3.4 C.4.2.2.1).

    Raises `DimseError`, A900H, where the level's own is missing or has wild cards, or one of a level below
    is there (C.4.2.1.4.1).
    """
    at = LEVELS.index(identifier.level)
    keys = {tag: identifier.keys[tag] for tag in _UNIQUE_TAGS if identifier.keys.get(tag)}
    named = keys.get(_UNIQUE_TAGS[at])
    if not isinstance(named, str) or not named.strip("\\ ") or any(one in named for one in "*?"):
        why = f"{UNIQUE_KEYS[identifier.level]} is missing or has wild cards"
    elif keys.keys() & set(_UNIQUE_TAGS[at + 1 :]):
        why = f"a key of a level below {identifier.level.value}"
    else:
        return keys
    raise DimseError(status.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, why)
