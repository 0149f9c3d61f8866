"""The targets by name. Each takes any bytes, at least one, and raises nothing but what is a bug."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fuzz import associations, parsers, queries

CORPUS: Final = Path(__file__).with_name("corpus")

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "framer": parsers.framer,
    "provider": parsers.provider,
    "command": parsers.command,
    "reader": parsers.reader,
    "header": parsers.head_of_data_set,
    "data_set": parsers.whole_data_set,
    "text": parsers.text,
    "file_head": parsers.file_head,
    "identifier": queries.identifier,
    "matching": queries.matching,
    "record": queries.record,
    "association": associations.association,
}


def corpus(name: str) -> list[Path]:
    """The inputs kept for a target: seeds, and what was once a finding."""
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
