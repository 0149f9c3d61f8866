"""What queries and retrievals may take, whoever asks for them."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Bounds:
    """How much one server does for queries and retrievals."""

    #: Seconds that one query may keep the index busy: what its answers take to send does not count.
    query_timeout: float = 30.0
    #: Matches of one C-FIND; 0: any number.
    max_matches: int = 0
    #: Objects of one C-MOVE or C-GET, of which 8 bytes each are kept; 0: any number.
    max_sub_operations: int = 1_000_000
    #: C-MOVEs at a time, each of which has an association of its own; 0: any number.
    max_moves: int = 64


DEFAULT = Bounds()
