"""What the index keeps of one object: its attributes as text."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from dicomtw.storage.index.attributes import Attributes


@attrs.frozen
class Record:
    """What the index keeps of one object, and where the store has it."""

    #: Names of its directories in the store: UIDs, as a rule.
    study: str
    series: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    #: Modification time of its file, in nanoseconds.
    mtime_ns: int
    #: Text by keyword, several values with a backslash between them; nothing that is absent or empty.
    values: Mapping[str, str]


def record_of(
    found: Mapping[int, bytes],
    transfer_syntax: str,
    *,
    study: str,
    series: str,
    sop_instance_uid: str,
    mtime_ns: int,
    attributes: Attributes,
) -> Record:
    """The record of an object of which `found` has the raw values of its top-level elements, by tag."""
    sop_class_uid = found.get(0x00080016, b"").decode("latin-1").strip("\0 ")
    return Record(study, series, sop_instance_uid, sop_class_uid, transfer_syntax, mtime_ns, {})
